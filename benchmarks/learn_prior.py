"""Learn ``planner/prior_table.py`` from a table of published curves, and say how good it is.

::

    python -m benchmarks.learn_prior curves.csv [--write] [--leave-out model|machine|dataset]

It prints the errors on curves of models (machines, data sets) whose curves took no part in the
learning: the figures to expect on curves of one's own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog
from scipy.sparse import csr_array, hstack, identity

from planner.backtest import (
    METRICS,
    SPLITS,
    Missed,
    by_ensemble,
    errors_of,
    occupancy_of,
    splits,
)
from planner.conformal import COVERAGE
from planner.ensemble import BEYOND, INSIDE, Regime, draw
from planner.members import best_sharpness, growth_terms
from planner.points import read_curves
from planner.prior import Bands, FamilyPrior, RegimePrior

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from planner.points import PointCurve
    from planner.prior import Prior

Array = npt.NDArray[np.float64]

Families = dict[str, FamilyPrior]
BandsOf = dict[tuple[str, str], Bands]
"""(Family, regime) -> bands."""

TABLE = Path(__file__).parents[1] / "planner" / "prior_table.py"
HEADER = '''"""Figures learnt from published curves: see ``planner.prior`` for what they mean.

Written by ``python -m benchmarks.learn_prior curves.csv --write``; do not edit. Learnt from
{curves} curves of {models} models:

{sources}
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.prior import Bands, FamilyPrior, RegimePrior

if TYPE_CHECKING:
    from planner.prior import Prior

__all__ = ["PRIOR"]

PRIOR: Prior = '''
SOURCES = {
    "inferencemax_silicon": "InferenceMAX measurements as kept by ai-dynamo/aiconfigurator "
    "(Apache-2.0)",
    "argonne_offline": "argonne-lcf/LLM-Inference-Bench (BSD-3-Clause)",
    "llamacpp_batched": "llama.cpp batched-bench results, ggml-org/llama.cpp (MIT)",
}
LEAST_SPREAD = 0.2
"""Of the log sharpness: a few alike curves must not make the prior a certainty."""
TAIL_RATIO = 4.5
"""90th percentile over median of published errors; a normal error has 2.4."""
MARGIN = 0.02
"""Added to the coverage aimed at: what bands lose on models that are new even to their scale."""
RIDGE = 0.01
"""Keeps the slopes of small families determined."""
MOST_SPREAD = 3.0
"""Of the weight of the members' disagreement: where they happen to agree, or not at all, a larger
one would make bands of nothing or of everything."""
FEWEST_GROUPS = 3
NO_BANDS = Bands(per_octave=0.0, per_doubt=0.0, per_spread=0.0, median_share=0.5)
NOTHING = RegimePrior(errors={}, bands=NO_BANDS)
UNIT_BANDS = [
    Bands(per_octave=float(i == 0), per_doubt=float(i == 1), per_spread=float(i == 2),
          median_share=0.5)
    for i in range(3)
]  # fmt: skip
"""With each of these the half width of a band is one of its terms."""


def learn_metric(curves: Sequence[PointCurve], metric: str) -> Families:
    """All but the bands, family by family."""
    families = {
        family: _learn_family([c for c in curves if c.family == family], metric)
        for family in sorted({curve.family for curve in curves})
    }
    families.setdefault("serving", next(iter(families.values())))
    return families


def _learn_family(curves: Sequence[PointCurve], metric: str) -> FamilyPrior:
    throughput = metric == "throughput"
    sharpness = np.array([best_sharpness(throughput, c.n, np.log(c.values)) for c in curves])
    middle = float(np.median(sharpness))
    spread = 1.4826 * float(np.median(np.abs(sharpness - middle)))
    found = FamilyPrior(
        slope=_slope(curves),
        sharpness=(middle, max(spread, LEAST_SPREAD)),
        inside=NOTHING,
        beyond=NOTHING,
    )
    inside = _typical(curves, throughput, ("leave-one-out", "spread3"), INSIDE, found)
    beyond = _typical(curves, throughput, ("low-half",), BEYOND, found, unseen=True)
    return replace(
        found, inside=RegimePrior(inside, NO_BANDS), beyond=RegimePrior(beyond, NO_BANDS)
    )


def _slope(curves: Sequence[PointCurve]) -> tuple[float, float, float, float]:
    """Least absolute deviations of growth in log2, over all later points of all curves."""
    count = Counter(curve.model for curve in curves)
    terms, grown, weights = [], [], []
    for curve in curves:
        x, y = np.log2(curve.n), np.log2(curve.values)
        for top in range(2, x.size - 1):
            slope = (y[top] - y[top - 1]) / (x[top] - x[top - 1])
            terms.append(growth_terms(x[top + 1 :] - x[top], slope))
            grown.append(y[top + 1 :] - y[top])
            weights.append(np.full(x.size - top - 1, count[curve.model] ** -0.5))
    a, b, w = np.concatenate(terms), np.concatenate(grown), np.concatenate(weights)
    found = np.linalg.lstsq(a, b, rcond=None)[0]
    for _ in range(50):
        scaled = a * (w / (np.abs(b - a @ found) + 1e-3))[:, None]
        found = np.linalg.solve(scaled.T @ a + RIDGE * np.eye(4), scaled.T @ b)
    c0, c1, c2, c3 = found.tolist()
    return c0, c1, c2, c3


def _typical(
    curves: Sequence[PointCurve],
    throughput: bool,
    on: Sequence[str],
    regime: Regime,
    prior: FamilyPrior,
    unseen: bool = False,
) -> dict[str, float]:
    """Member -> between the median and the 90th percentile of its absolute log error.

    ``unseen``: a curve's slopes are learnt from the curves of other models, where there are any.
    """
    slopes = {}
    for model in {curve.model for curve in curves} if unseen else ():
        others = [curve for curve in curves if curve.model != model]
        slopes[model] = _slope(others or curves)
    by_levels: dict[tuple[bytes, str, bool], list[PointCurve]] = defaultdict(list)
    for curve in curves:
        by_levels[curve.n.tobytes(), curve.model, curve.occupancy is not None].append(curve)
    errors: dict[str, list[Array]] = defaultdict(list)
    for (_, model, _), cases in by_levels.items():
        prior = replace(prior, slope=slopes.get(model, prior.slope))
        n, logs = cases[0].n, np.log(np.stack([curve.values for curve in cases]))
        for fitted, left in (pair for split in on for pair in splits(n, split)):
            known = occupancy_of([(curve, fitted) for curve in cases])
            members = draw(regime, throughput, n[fitted], logs[:, fitted], n[left], prior, known)
            for name, drawn in members.items():
                errors[name].append(np.abs(drawn - logs[:, left]).ravel())
    every = {name: np.concatenate(found) for name, found in errors.items()}
    return {
        name: float(np.median(e) + np.percentile(e, 90) / TAIL_RATIO) / 2
        for name, e in every.items()
    }


@dataclass(frozen=True)
class Case:
    """A point predicted with a prior that never saw its group, and what its band is made of."""

    group: Hashable
    split: str
    missed: Missed
    terms: tuple[float, ...]

    @property
    def regime(self) -> str:
        """Which bands are its own."""
        return "beyond" if self.missed.n > self.missed.fitted[-1] else "inside"


def held_out(
    curves: Sequence[PointCurve], metric: str, group_of: Callable[[PointCurve], Hashable]
) -> list[Case]:
    """Every curve predicted, in every split, with a prior learnt from the other groups."""
    cases = []
    for group in sorted({group_of(curve) for curve in curves}, key=str):
        prior = learn_metric([c for c in curves if group_of(c) != group], metric)
        own = [c for c in curves if group_of(c) == group]
        for split in SPLITS:
            passes = [
                by_ensemble(own, split, metric, {metric: _with(prior, lambda *_, b=bands: b)})
                for bands in UNIT_BANDS
            ]
            cases += [
                Case(group, split, same[0], tuple(missed.half_width or 0.0 for missed in same))
                for same in zip(*passes, strict=True)
            ]
    return cases


def learn_bands(cases: Sequence[Case]) -> BandsOf:
    """Quantile regression of the absolute errors, scaled by what groups left out of it show.

    The scale is each family's own (Mondrian conformal): families differ in how regular they are.
    """
    found = {}
    for regime in ("inside", "beyond"):
        some = [case for case in cases if case.regime == regime]
        scores: dict[str, list[float]] = defaultdict(list)
        for group in {case.group for case in some}:
            others = _quantile_regression([case for case in some if case.group != group])
            for case in some:
                if case.group == group:
                    scores[case.missed.curve.family].append(_score(case, others))
        weights = _quantile_regression(some)
        for family, own in scores.items():
            scale = float(np.quantile(own, COVERAGE + MARGIN))
            a, b, c = (weights * scale).tolist()
            found[family, regime] = Bands(a, b, c, float(np.median(own)) / scale)
    return found


def _quantile_regression(cases: Sequence[Case]) -> Array:
    """Non-negative weights (3,) of the terms, for the quantile ``COVERAGE`` of the errors.

    As a linear programme (Koenker and Bassett 1978): minimise the sum of 0.9 u + 0.1 v with
    error = terms · weights + u - v.
    """
    terms = np.array([case.terms for case in cases])
    errors = np.abs([case.missed.log_error for case in cases])
    m, k = terms.shape
    found = linprog(  # type: ignore[call-overload] # the stubs know no sparse matrices
        np.concatenate([np.zeros(k), np.full(m, COVERAGE), np.full(m, 1 - COVERAGE)]),
        A_eq=hstack([csr_array(terms), identity(m), -identity(m)]),
        b_eq=errors,
        bounds=[(0, None), (0, None), (0, MOST_SPREAD), *[(0, None)] * (2 * m)],
    )
    return np.asarray(found.x[:k])


def _score(case: Case, weights: Array) -> float:
    return abs(case.missed.log_error) / max(float(np.dot(case.terms, weights)), 1e-9)


def _with(families: Families, bands: Callable[[str, str], Bands]) -> Families:
    """The same with bands by family and regime."""
    return {
        name: replace(
            family,
            inside=replace(family.inside, bands=bands(name, "inside")),
            beyond=replace(family.beyond, bands=bands(name, "beyond")),
        )
        for name, family in families.items()
    }


def with_bands_of_others(cases: Sequence[Case]) -> list[Case]:
    """The cases with the half width that bands learnt from the other groups give.

    Bands need two other groups to be learnt from: one sets their shape, one their scale.
    """
    found = []
    groups = {case.group for case in cases}
    if len(groups) < FEWEST_GROUPS:
        return [replace(case, missed=replace(case.missed, half_width=None)) for case in cases]
    for group in groups:
        bands = learn_bands([case for case in cases if case.group != group])
        for case in cases:
            if case.group == group:
                families = (case.missed.curve.family, "serving", *{name for name, _ in bands})
                b = next(bands[f, case.regime] for f in families if (f, case.regime) in bands)
                half = float(np.dot(case.terms, (b.per_octave, b.per_doubt, b.per_spread)))
                found.append(replace(case, missed=replace(case.missed, half_width=half)))
    return found


def report(cases: Sequence[Case], metric: str) -> None:
    """Print errors by split, and by family within it."""
    for split in SPLITS:
        here = [case for case in cases if case.split == split]
        families = sorted({case.missed.curve.family for case in here})
        for name in ("all", *families):
            some = [c.missed for c in here if name in {"all", c.missed.curve.family}]
            e = errors_of(some)
            inside = "-" if e.coverage90 is None else f"{e.coverage90:.1%}"
            print(
                f"{metric:11}{split:15}{name:14}{e.n:5} points  median {e.median_ape:6.2f} %  "
                f"p90 {e.p90_ape:6.1f} %  in band {inside:>6}"
            )


def write_table(curves: Sequence[PointCurve], prior: Prior) -> None:
    """Write the module and format it."""
    sets = sorted({curve.dataset for curve in curves})
    head = HEADER.format(
        curves=len(curves),
        models=len({curve.model for curve in curves}),
        sources="\n".join(f"- {SOURCES.get(name, name)}" for name in sets),
    )
    TABLE.write_text(head + _source(prior) + "\n", encoding="utf-8")
    subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", str(TABLE)], check=True)


def _source(value: Any) -> str:
    """Python source of a value, figures to four digits: more is not known."""
    if isinstance(value, FamilyPrior | Bands | RegimePrior):
        inner = ", ".join(f"{f.name}={_source(getattr(value, f.name))}" for f in fields(value))
        return f"{type(value).__name__}({inner})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_source(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple):
        return "(" + ", ".join(_source(item) for item in value) + ")"
    return repr(float(f"{value:.4g}"))


GROUPS: dict[str, Callable[[PointCurve], Hashable]] = {
    "model": lambda curve: curve.model,
    "machine": lambda curve: curve.machine,
    "dataset": lambda curve: curve.dataset,
}


def main() -> None:
    """Parse, learn, print or write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("curves", type=Path)
    parser.add_argument("--write", action="store_true", help="write planner/prior_table.py")
    parser.add_argument("--leave-out", choices=GROUPS, default="model")
    options = parser.parse_args()
    lines = options.curves.read_text(encoding="utf-8").splitlines(keepends=True)
    prior: Prior = {}
    every: list[PointCurve] = []
    for metric in METRICS:
        curves, _ = read_curves(lines, metric)
        every = max(every, curves, key=len)
        cases = held_out(curves, metric, GROUPS[options.leave_out])
        report(with_bands_of_others(cases), metric)
        if not options.write:
            continue
        bands = learn_bands(cases)
        prior[metric] = _with(learn_metric(curves, metric), lambda *key, b=bands: b[key])
    if options.write:
        write_table(every, prior)


if __name__ == "__main__":
    main()
