"""How often the simulated intervals of a recommendation hold the truth, where no slots are told.

::

    python -m benchmarks.second_road [--runs 16] [--case NAME ...]

Each run measures an engine whose every step is known at a few levels, with a look a second at how
many requests run and wait. The truth is 20,000 requests of the same demand. Prints, for p95 of
TTFT, E2E and TPOT, how many runs' intervals hold it: simulated, and by the curves; how wide the
simulated ones are in the median (high over low); and the slots that were seen.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections import Counter
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from planner.answer import merged
from planner.recommend import recommend
from planner.records import KV_BLOCK, KV_TOKENS, Demand, ServerView
from planner.slots import with_seen
from planner.telemetry import Telemetry
from planner.units import metric_of, parse_slo, percentile_of
from tests.planner.simulated_runs import engine, run_of_levels, simulated_users

if TYPE_CHECKING:
    from planner.records import Estimate, Predicted, Recommendation, TargetInfo, TelemetrySample
    from planner.runfolder import Run
    from planner.simulation.engine import Engine
    from planner.simulation.outcome import Outcome
    from planner.summary import LevelSample

SLO = tuple(parse_slo(text) for text in ("ttft_p95<=200s", "e2e_p95<=900s", "tpot_p95<=9s"))
"""Met by one replica, whatever it feels."""
SMALL = engine()
LARGE = dataclasses.replace(SMALL, slots=64, batch_tokens=2112)
FULL = dataclasses.replace(LARGE, kv_tokens=6000, kv_block_tokens=16)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """An engine, its measured levels, and a demand on it.

    Attributes:
        told: whether the server tells the size of its KV cache.
        given: slots that the user gives.
        count: answers of a level.
    """

    engine: Engine
    levels: tuple[int, ...]
    users: int
    think_time_s: float = 0.0
    told: bool = True
    given: int | None = None
    count: int = 400


_UP_TO_16, _UP_TO_64 = (1, 2, 4, 8, 16), (1, 4, 8, 16, 32, 64)
CASES = {
    "8 users who think 5 s": Case(engine=SMALL, levels=_UP_TO_16, users=8, think_time_s=5),
    "20 users who think 2 s": Case(engine=SMALL, levels=_UP_TO_16, users=20, think_time_s=2),
    "10 in flight": Case(engine=SMALL, levels=_UP_TO_16, users=10),
    "slots never reached": Case(engine=LARGE, levels=(1, 4, 16, 32), users=20, think_time_s=2),
    "full cache": Case(engine=FULL, levels=_UP_TO_64, users=48, count=1500),
    "full cache, slots given": Case(
        engine=FULL, levels=_UP_TO_64, users=48, count=1500, given=64
    ),
    "full cache, not told": Case(
        engine=FULL, levels=_UP_TO_64, users=48, count=1500, given=64, told=False
    ),
}  # fmt: skip


def answered(case: Case, seed: int) -> tuple[Recommendation, TargetInfo]:
    """One run of a case, and what is recommended by it."""
    looks: list[TelemetrySample] = []
    run = run_of_levels(
        case.levels, count=case.count, seed=1000 * seed + 1, of=case.engine, looks=looks
    )
    samples, (target,) = merged([run], rng=np.random.default_rng(seed), draws=60)
    telemetry = Telemetry.from_samples(looks)
    cache = case.engine.kv_tokens
    if cache is not None:
        samples = [_watched(run, sample, telemetry) for sample in samples]
    known = {KV_TOKENS: str(cache), KV_BLOCK: str(case.engine.kv_block_tokens)}
    target = msgspec.structs.replace(
        with_seen(target, telemetry),
        slots_given=case.given,
        settings=known if cache is not None and case.told else {},
    )
    demand = Demand(users=case.users, think_time_s=case.think_time_s)
    found = recommend(samples, [target], demand, SLO, rng=np.random.default_rng(seed), spare=0)
    return found, target


def report(name: str, case: Case, runs: int) -> None:
    """Print a case."""
    real = simulated_users(case.users, case.think_time_s, 20_000, seed=77, of=case.engine)
    truths = {slo.figure: _truth(real, slo.figure) for slo in SLO}
    simulated, curves = Counter[str](), Counter[str]()
    widths: dict[str, list[float]] = {figure: [] for figure in truths}
    seen, reasons = Counter[str](), Counter[str]()
    for seed in range(runs):
        found, target = answered(case, seed)
        limit = target.slots_seen
        seen[str(limit and limit.limit)] += 1
        if found.simulated is None or found.simulated.why_not:
            reasons[str(found.simulated and found.simulated.why_not)] += 1
        for figure, truth in truths.items():
            second = found.simulated and found.simulated.figures.get(figure)
            simulated[figure] += bool(second and _holds(second, truth))
            curves[figure] += _holds(found.options[0].predicted[figure], truth)
            if second and second.low and second.high:
                widths[figure].append(second.high / second.low)
    print(f"{name}: {runs} runs, slots seen {dict(seen)} {dict(reasons) or ''}")
    for figure, truth in truths.items():
        width = f"{np.median(widths[figure]):.2f}" if widths[figure] else "none"
        print(
            f"  {figure:<12} truth {truth:6.3f} s, simulated holds it {simulated[figure]} times "
            f"(high over low {width}), the curves {curves[figure]} times",
            flush=True,
        )


def _holds(told: Estimate | Predicted, truth: float) -> bool:
    return told.low is not None and told.high is not None and told.low <= truth <= told.high


def _truth(real: Outcome, figure: str) -> float:
    """A percentile of the long simulation, its ends left out."""
    values = real.latency_s(metric_of(figure))[1000:-200]
    return float(np.quantile(values[np.isfinite(values)], percentile_of(figure) or 0.5))


def _watched(run: Run, sample: LevelSample, telemetry: Telemetry) -> LevelSample:
    """A level with how full its server's KV cache was at most."""
    stage = run.manifest.stages[sample.stages[0]]
    used = telemetry.find("t", "/metrics", "kv_usage")
    here = (used.time_s >= stage.started_s) & (used.time_s <= (stage.ended_s or np.inf))
    view = ServerView(samples=int(here.sum()), kv_usage_max=float(used.value[here].max()))
    return dataclasses.replace(sample, point=msgspec.structs.replace(sample.point, server=view))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=16)
    parser.add_argument("--case", action="append", choices=sorted(CASES))
    given = parser.parse_args()
    for name, case in CASES.items():
        if not given.case or name in given.case:
            report(name, case, given.runs)


if __name__ == "__main__":
    main()
