"""From findings to a verdict, and in words what holds where."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scipy import special

from planner.claims.records import Finding, Ruling, State, Verdict
from planner.uncertainty import CONFIDENCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from planner.claims.records import Evidence
    from planner.records import Estimate

__all__ = ["NAMES", "bounded", "in_words", "missing", "ruled", "several", "weighed"]

NAMES = {
    "llamacpp": "llama.cpp",
    "ollama": "Ollama",
    "vllm": "vLLM",
    "openai": "an OpenAI-compatible server",
}

_SAYS: dict[State, str] = {"holds": "it holds", "fails": "it fails", "open": "open"}
_MOST_NAMED = 4


def weighed(states: Iterable[State]) -> Verdict:
    """Confirmed where it holds throughout, refuted where it fails wherever that is known."""
    seen = set(states)
    if seen <= {"open"}:
        return "untested"
    if seen == {"holds"}:
        return "confirmed"
    return "refuted" if "holds" not in seen else "mixed"


def several(comparisons: int) -> float:
    """By how much to widen 90 % intervals so that so many hold together (Bonferroni).

    In units of the normal distribution's own quantiles, which the intervals' halves are taken for.
    """
    tail = (1 - CONFIDENCE) / 2
    return float(special.ndtri(tail / max(comparisons, 1)) / special.ndtri(tail))


def bounded(estimate: Estimate, least: float | None, most: float | None) -> State:
    """Whether a whole interval lies within bounds, or wholly outside them."""
    low, high = estimate.low, estimate.high
    if (least is not None and high is not None and high < least) or (
        most is not None and low is not None and low > most
    ):
        return "fails"
    enough = least is None or (low is not None and low >= least)
    bearable = most is None or (high is not None and high <= most)
    return "holds" if enough and bearable else "open"


def ruled(
    rule: str, asks: str, findings: Sequence[Finding], *, next_steps: Iterable[str] = ()
) -> Ruling:
    """A ruling by the usual weighing of its findings."""
    return Ruling(
        rule=rule,
        asks=asks,
        verdict=weighed(f.state for f in findings),
        reason=in_words(findings),
        findings=tuple(findings),
        next_steps=tuple(dict.fromkeys(next_steps)),
    )


def in_words(findings: Sequence[Finding]) -> str:
    """What holds, what fails and what is open, each with where."""
    parts = []
    for state, word in _SAYS.items():
        places: dict[str, list[str]] = {}
        for finding in findings:
            if finding.state == state:
                places.setdefault(finding.told, []).append(finding.what)
        named = [f"{', '.join(where)}: {told}" for told, where in places.items()]
        if named:
            more = [f"and {len(named) - _MOST_NAMED} more"] if len(named) > _MOST_NAMED else []
            parts.append(f"{word} ({'; '.join([*named[:_MOST_NAMED], *more])})")
    if len(parts) == 1:  # the verdict says as much
        return parts[0].partition("(")[2].removesuffix(")")
    return ", ".join(parts)


def missing(backend: str, evidence: Evidence, why: str) -> Finding:
    """That nothing is known of a backend; an emulator's word for it does not count."""
    if backend in evidence.emulated:
        why = (
            f"only Headroom's emulator ({evidence.emulated[backend]}) answered, and its figures "
            "measure no server"
        )
    return Finding(what=NAMES.get(backend, backend), state="open", told=why)
