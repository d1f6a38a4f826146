"""What was measured, asked and looked up, as evidence: emulators are told apart and left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from planner.claims.records import Evidence

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from planner.diagnosis import Diagnosis
    from planner.hardware import Catalogue
    from planner.parity_records import ParityReport
    from planner.records import OperatingPoint, Recommendation, TargetInfo, Workload

__all__ = ["gathered"]

_EMULATOR = "emulator"  # the doctor's caution


def gathered(
    *,
    targets: Iterable[TargetInfo],
    points: Iterable[OperatingPoint],
    catalogue: Catalogue,
    workload: Workload | None = None,
    recommendation: Recommendation | None = None,
    diagnoses: Sequence[Diagnosis] = (),
    parities: Sequence[ParityReport] = (),
) -> Evidence:
    """The evidence of real servers, and which backends only an emulator answered for.

    Args:
        targets: measured, their names unique.
        points: of their levels, those of stages together included.
        catalogue: of hardware and models.
        workload: that all points share.
        recommendation: the answer to the user's own question.
        diagnoses: of the doctor.
        parities: comparisons of answers.
    """
    everyone = list(targets)
    real = {target.name: target for target in everyone if target.emulated is None}
    asked = [target for report in parities for target in report.targets]
    looked = [d.target for d in diagnoses if _emulated(d)]
    marked = [t for t in (*everyone, *looked, *asked) if t.emulated or t in looked]
    kept = tuple(d for d in diagnoses if not _emulated(d))
    known = {target.backend for target in (*real.values(), *(d.target for d in kept))}
    return Evidence(
        targets=real,
        points=tuple(_beside_real(p, real) for p in points if p.target in real),
        workload=workload,
        recommendation=recommendation,
        diagnoses=kept,
        parities=tuple(parities),
        catalogue=catalogue,
        emulated={
            target.backend: target.emulated or "of a server"
            for target in marked
            if target.backend not in known
        },
    )


def _emulated(diagnosis: Diagnosis) -> bool:
    cautioned = any(caution.kind == _EMULATOR for caution in diagnosis.cautions)
    return diagnosis.target.emulated is not None or cautioned


def _beside_real(point: OperatingPoint, real: dict[str, TargetInfo]) -> OperatingPoint:
    """A point whose company was an emulator keeps its mark of company, as not to be used."""
    strangers = [name for name in point.together if name not in real]
    if not strangers:
        return point
    why = f"{', '.join(strangers)} beside it was no server"
    return msgspec.structs.replace(point, problems=(*point.problems, why))
