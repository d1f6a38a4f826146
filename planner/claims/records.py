"""What judging claims gives: verdicts with the figures, intervals and rules that they rest on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from planner.comparison import LevelRow, Sharing  # noqa: TC001 - msgspec reads them
from planner.records import Estimate, Name, PairCrossovers, Record

if TYPE_CHECKING:
    from planner.diagnosis import Diagnosis
    from planner.hardware import Catalogue
    from planner.parity_records import ParityReport
    from planner.records import OperatingPoint, Recommendation, TargetInfo, Workload

__all__ = [
    "CLAIMS_SCHEMA",
    "ClaimVerdict",
    "ClaimsReport",
    "Evidence",
    "Finding",
    "Ruling",
    "State",
    "Verdict",
]

CLAIMS_SCHEMA = 1
"""Version of the document that ``headroom claims --json`` prints."""

Verdict = Literal["confirmed", "refuted", "mixed", "untested"]
"""``mixed``: it holds for a part of what it speaks of, and the reason names the part."""

State = Literal["holds", "fails", "open"]
"""Of one finding: the claim holds there, fails there, or the evidence does not tell."""


class Finding(Record, frozen=True, kw_only=True):
    """One piece of evidence and what it says about the claim."""

    what: str  # where: two targets at a load, a server, a pair of answers
    state: State
    told: str  # the figures, for people
    estimate: Estimate | None = None  # the figure that decided, where it is one


class Ruling(Record, frozen=True, kw_only=True):
    """What one rule says about a claim."""

    rule: Name
    asks: str  # what must be so, in words
    verdict: Verdict
    reason: str
    findings: tuple[Finding, ...] = ()
    next_steps: tuple[str, ...] = ()  # commands that would tell more


class ClaimVerdict(Record, frozen=True, kw_only=True):
    """One claim, judged."""

    id: Name
    text: str
    source: str
    verdict: Verdict
    reason: str
    rulings: tuple[Ruling, ...]
    next_steps: tuple[str, ...] = ()


class ClaimsReport(Record, frozen=True, kw_only=True):
    """The document that ``headroom claims --json`` prints."""

    schema: int = CLAIMS_SCHEMA
    headroom_version: Name
    verdicts: tuple[ClaimVerdict, ...]
    comparison: tuple[LevelRow, ...] = ()
    sharing: tuple[Sharing, ...] = ()  # together over alone
    pairs: tuple[PairCrossovers, ...] = ()  # of targets that meet the objectives


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What claims are judged by. Nothing in it comes from an emulator, except what says so.

    Attributes:
        targets: that were measured, by name.
        points: what each of their levels gave, those of stages together included.
        workload: that all points share; ``None`` without any.
        recommendation: the answer to the user's own question, where one was asked.
        diagnoses: of ``headroom doctor``.
        parities: of ``headroom parity``.
        catalogue: of hardware and models.
        emulated: backends that an emulator answered for, and the name that it goes by.
    """

    targets: dict[str, TargetInfo]
    points: tuple[OperatingPoint, ...]
    workload: Workload | None
    recommendation: Recommendation | None
    diagnoses: tuple[Diagnosis, ...]
    parities: tuple[ParityReport, ...]
    catalogue: Catalogue
    emulated: dict[str, str]

    def of_backend(self, backend: str) -> tuple[TargetInfo, ...]:
        """The measured targets of a backend, by name."""
        return tuple(t for _, t in sorted(self.targets.items()) if t.backend == backend)
