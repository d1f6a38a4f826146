"""Published claims in a report, judged by its runs: verdict, figures, rule, and what to run.

Everything here is text without markup; the template escapes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dashboards.content import step_of
from dashboards.text import plain
from planner.claims.files import builtin_claims
from planner.claims.gathering import gathered
from planner.claims.judging import judge_all
from planner.hardware import builtin_catalogue

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dashboards.answer import Answer, Measured
    from planner.claims.catalogue import Claim
    from planner.claims.records import ClaimVerdict, Verdict
    from planner.diagnosis import Diagnosis
    from planner.hardware import Catalogue
    from planner.parity_records import ParityReport

__all__ = ["ClaimRow", "Material", "claim_rows", "verdicts_of"]

_PHYSICS = "physics"


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What claims are judged by beside the runs.

    Attributes:
        claims: the catalogue; that which ships by default.
        diagnoses: of ``headroom doctor``.
        parities: of ``headroom parity``.
    """

    claims: Mapping[str, Claim] | None = None
    diagnoses: tuple[Diagnosis, ...] = ()
    parities: tuple[ParityReport, ...] = ()

    @property
    def given(self) -> bool:
        """Whether the user gave any of it."""
        return self.claims is not None or bool(self.diagnoses or self.parities)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRow:
    """One claim as the template lays it out."""

    verdict: Verdict
    text: str
    source: str
    reason: str
    rules: tuple[tuple[str, str], ...]  # name, what it asks
    step: tuple[str, str]  # command, words


def verdicts_of(
    measured: Sequence[Measured],
    answer: Answer,
    material: Material,
    catalogue: Catalogue | None,
) -> tuple[ClaimVerdict, ...]:
    """The claims judged; none where the runs decide nothing and the user asked for nothing.

    What physics alone decides is the same in every report, so it is no reason to show them. Runs
    of different workloads do not compare, so that only what is no figure is judged then.
    """
    same = len({m.run.manifest.workload for m in measured}) == 1
    evidence = gathered(
        targets=[target for m in measured for target in m.run.manifest.targets],
        points=[point for m in measured for point in m.points] if same else [],
        catalogue=catalogue or builtin_catalogue(),
        workload=measured[0].run.manifest.workload if same else None,
        recommendation=answer.recommendation,
        diagnoses=material.diagnoses,
        parities=material.parities,
    )
    verdicts = judge_all(material.claims or builtin_claims(), evidence)
    decided = any(
        ruling.verdict != "untested" and ruling.rule != _PHYSICS
        for one in verdicts
        for ruling in one.rulings
    )
    return verdicts if decided or material.given else ()


def claim_rows(verdicts: Iterable[ClaimVerdict]) -> tuple[tuple[ClaimRow, ...], ...]:
    """The decided claims, then the untested ones."""
    rows = [_row(one) for one in verdicts]
    decided = tuple(row for row in rows if row.verdict != "untested")
    return decided, tuple(row for row in rows if row.verdict == "untested")


def _row(one: ClaimVerdict) -> ClaimRow:
    return ClaimRow(
        verdict=one.verdict,
        text=plain(one.text),
        source=plain(one.source),
        reason=plain(one.reason),
        rules=tuple((ruling.rule, plain(ruling.asks)) for ruling in one.rulings),
        step=step_of(one.next_steps[0]) if one.next_steps else ("", ""),
    )
