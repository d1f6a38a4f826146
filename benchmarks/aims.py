"""What was aimed at beside what was reached."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.scenario import Figures, median_of
from benchmarks.tables import BUSY, us

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.scenario import Lateness

    Quantity = Callable[[Figures], float | None]

__all__ = ["aims_table"]


@dataclass(frozen=True)
class _Aim:
    """Bounds in seconds or bytes on figures of one scenario, each not to be exceeded."""

    what: str
    scenario: str
    bounds: tuple[tuple[Quantity, float], ...]
    show: Callable[[float | None], str] = us


def _p50(f: Figures) -> float | None:
    return f.arrival.p50_s if f.arrival else None


def _p99(f: Figures) -> float | None:
    return f.arrival.p99_s if f.arrival else None


def _ttft_p50(f: Figures) -> float | None:
    return f.ttft.p50_s if f.ttft else None


def _kb(value: float | None) -> str:
    return "" if value is None else f"{value / 1e3:.1f} kB"


_SHORT = "requests of 2 tokens, 8 at a time"
_AT_20 = "256 streams at 20 ms"
_AT_1024 = "1,024 streams at 50 ms, ticking together"
_AT_2048 = "2,048 streams at 50 ms, ticking together"
_AIMS = (
    _Aim("arrival error p50 / p99", _AT_20, ((_p50, 5e-6), (_p99, 20e-6))),
    _Aim("arrival error p50 / p99", _AT_1024, ((_p50, 5e-6), (_p99, 25e-6))),
    _Aim("arrival error p50 / p99", _AT_2048, ((_p50, 5e-6), (_p99, 25e-6))),
    _Aim("CPU per chunk", _AT_20, ((lambda f: f.cpu_per_chunk_s, 7e-6),)),
    _Aim("CPU per chunk", _AT_1024, ((lambda f: f.cpu_per_chunk_s, 6e-6),)),
    _Aim("TTFT error p50", "256 requests at once", ((_ttft_p50, 50e-6),)),
    _Aim(
        "CPU per request",
        "requests of 2 tokens, 8 at a time",
        ((lambda f: f.cpu_per_request_s, 90e-6),),
    ),
    _Aim("memory per stream", _AT_20, ((lambda f: f.bytes_per_stream, 25e3),), _kb),
    _Aim("memory per stream", _AT_1024, ((lambda f: f.bytes_per_stream, 25e3),), _kb),
    _Aim("memory per stream", _AT_2048, ((lambda f: f.bytes_per_stream, 25e3),), _kb),
    _Aim("arrival error p99", "256 streams at 20 ms over TLS", ((_p99, 100e-6),)),
)
_CHUNKS_PER_S = 100_000
_LATE_P50_S, _LATE_P99_S = 100e-6, 500e-6


def aims_table(
    cases: Mapping[str, Sequence[Figures]],
    most_per_s: float | None,
    late: Sequence[Lateness],
) -> str:
    """Markdown: aim, figure reached, verdict. What was not run has no row.

    Args:
        cases: our runs by the title of their scenario.
        most_per_s: chunks per second without a growing error; ``None``: not measured.
        late: runs of the open loop.
    """
    rows = [_row(aim, median_of(cases[aim.scenario])) for aim in _AIMS if cases.get(aim.scenario)]
    if most_per_s is not None:
        rows.append(
            _line("chunks per second and core without a growing error",
                  f"≥ {_CHUNKS_PER_S:,}", f"{most_per_s:,.0f}", most_per_s >= _CHUNKS_PER_S, None)
        )  # fmt: skip
    if late:
        p50_s = median(run.said.p50_s or 0.0 for run in late)
        p99_s = median(run.said.p99_s or 0.0 for run in late)
        rows.append(
            _line("send lateness p50 / p99, Poisson 200/s",
                  f"≤ {us(_LATE_P50_S)} / ≤ {us(_LATE_P99_S)}", f"{us(p50_s)} / {us(p99_s)}",
                  p50_s <= _LATE_P50_S and p99_s <= _LATE_P99_S,
                  median(run.waited_share for run in late))
        )  # fmt: skip
    return "\n".join(["| what | aim | reached | |", "|---|---|---|---|", *rows])


def _row(aim: _Aim, found: Figures) -> str:
    values = [(quantity(found), bound) for quantity, bound in aim.bounds]
    return _line(
        f"{aim.what}, {aim.scenario}",
        " / ".join(f"≤ {aim.show(bound)}" for _, bound in values),
        " / ".join(aim.show(value) for value, _ in values),
        all(value is not None and value <= bound for value, bound in values),
        found.waited_share,
    )


def _line(what: str, aim: str, reached: str, met: bool, waited_share: float | None) -> str:
    verdict = "met" if met else "**missed**"
    if waited_share is not None and waited_share > BUSY:
        verdict += f", on a busy machine (waited {waited_share:.0%})"
    return f"| {what} | {aim} | {reached} | {verdict} |"
