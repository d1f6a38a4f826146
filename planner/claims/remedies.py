"""The command that would tell more, with the addresses that are known."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from planner.claims.records import Evidence
    from planner.records import TargetInfo

__all__ = ["doctor_command", "measure_command", "parity_command"]


def measure_command(
    evidence: Evidence, backends: Iterable[str], levels: Iterable[float], *, together: bool = False
) -> str:
    """Measure these backends at these levels with the workload of the run at hand."""
    loads = ",".join(f"{level:g}" for level in sorted(set(levels)))
    words = ["headroom measure", _targets(evidence, backends), f"--concurrency {loads}"]
    words += ["--together"] if together else []
    if evidence.workload is not None:
        words += [
            f"--prompt-tokens {shlex.quote(evidence.workload.prompt_tokens)}",
            f"--output-tokens {shlex.quote(evidence.workload.output_tokens)}",
        ]
    return " ".join([*words, "--out RUN"])


def doctor_command(evidence: Evidence, backends: Iterable[str]) -> str:
    """Look at these backends."""
    return f"headroom doctor {_targets(evidence, backends)} --json > doctor.json"


def parity_command(evidence: Evidence, backends: Iterable[str]) -> str:
    """Compare the answers of these backends."""
    return f"headroom parity {_targets(evidence, backends)} --json > parity.json"


def _targets(evidence: Evidence, backends: Iterable[str]) -> str:
    told = []
    for backend in dict.fromkeys(backends):
        looked = tuple(d.target for d in evidence.diagnoses if d.target.backend == backend)
        known = evidence.of_backend(backend) or looked
        told += [_target(target) for target in known] or [f"{backend}=http://HOST:PORT"]
    return " ".join(shlex.quote(text) for text in told)


def _target(target: TargetInfo) -> str:
    kind = f"{target.backend}={target.url}"
    plain = target.name == target.backend or any(c in target.name for c in ":= ")
    return kind if plain else f"{target.name}:{kind}"
