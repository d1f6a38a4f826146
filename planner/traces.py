"""Recorded production traffic: when requests came and how long they were.

Two published formats are read: the CSV of the Azure LLM inference traces
(``TIMESTAMP,ContextTokens,GeneratedTokens``; Patel et al., Splitwise, ISCA 2024) and the JSON
lines of Mooncake (``timestamp`` in milliseconds, ``input_length``, ``output_length``; Qin et al.,
FAST 2025).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from planner.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["Trace", "read_trace"]

MOST_REQUESTS = 5_000_000
MOST_TOKENS = 10_000_000
MOST_CHARACTERS = 1_000_000
"""Of one line. A line of Mooncake holds a hash for each 512 tokens."""
LEAST_FOR_GAPS = 3
"""Arrivals that a variance of gaps needs."""
AZURE = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]

Row = tuple[float, int, int]

_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(\.\d{1,9})?(?:Z|\+00:00)?", re.ASCII)
"""The traces of 2023 write no zone, those of 2024 ``+00:00``."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Trace:
    """Arrivals in order of time.

    Attributes:
        arrival_s: (n,) seconds since the first.
        prompt_tokens: (n,) at least 1.
        output_tokens: (n,) at least 1.
    """

    arrival_s: npt.NDArray[np.float64]
    prompt_tokens: npt.NDArray[np.int64]
    output_tokens: npt.NDArray[np.int64]

    @property
    def rate_per_s(self) -> float | None:
        """Mean arrivals per second; None where they all came at once."""
        span = float(self.arrival_s[-1] - self.arrival_s[0])
        return (self.arrival_s.size - 1) / span if span > 0 else None

    @property
    def gap_scv(self) -> float | None:
        """Squared coefficient of variation of the gaps: 1 for Poisson arrivals, more for bursts.

        None with fewer than three arrivals or where they all came at once.
        """
        gaps = np.diff(self.arrival_s)
        if self.arrival_s.size < LEAST_FOR_GAPS or not gaps.any():
            return None
        return float(gaps.var(ddof=1) / gaps.mean() ** 2)

    def at_rate(self, rate_per_s: float) -> Trace:
        """The same pattern, stretched or squeezed in time to another mean rate.

        Raises:
            InputError: a rate that is not positive, or a trace without one.
        """
        own = self.rate_per_s
        if own is None or not 0 < rate_per_s < math.inf:
            raise InputError(f"a trace of rate {own}/s cannot be brought to {rate_per_s}/s")
        return Trace(
            arrival_s=self.arrival_s * (own / rate_per_s),
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
        )


class _MooncakeRow(msgspec.Struct):
    """What is read of a line; its block hashes are not."""

    timestamp: float
    input_length: int
    output_length: int


def read_trace(lines: Iterable[str], *, what: str = "trace") -> Trace:
    """Read a trace of either format; which one is seen from its first line.

    Args:
        lines: the lines of the file.
        what: how to call it in an error.

    Raises:
        InputError: neither format, an unreadable line, a length out of bounds, a moment that is
            not a number, no requests or too many. Names the line.
    """
    numbered = iter(_bounded(lines, what))
    first = next((entry for entry in numbered if entry[1].strip()), None)
    if first is None:
        raise InputError(f"{what} is empty: it holds no requests")
    if first[1].lstrip("\ufeff").strip().split(",") == AZURE:
        rows = [_row(_azure, line, number, what) for number, line in numbered if line.strip()]
    elif first[1].lstrip().startswith("{"):
        rows = [_row(_mooncake, first[1], first[0], what)]
        rows += [_row(_mooncake, line, number, what) for number, line in numbered if line.strip()]
    else:
        raise InputError(
            f"{what} line {first[0]}: neither an Azure trace (a header {','.join(AZURE)}) nor a "
            f"Mooncake trace (JSON objects with timestamp, input_length and output_length)"
        )
    if not rows:
        raise InputError(f"{what} holds no requests")
    moments, prompts, outputs = zip(*rows, strict=True)
    arrival = np.array(moments)
    order = np.argsort(arrival, kind="stable")
    return Trace(
        arrival_s=arrival[order] - arrival[order[0]],
        prompt_tokens=np.array(prompts, dtype=np.int64)[order],
        output_tokens=np.array(outputs, dtype=np.int64)[order],
    )


def _bounded(lines: Iterable[str], what: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines, start=1):
        if number > MOST_REQUESTS + 1:
            raise InputError(f"{what} has more than {MOST_REQUESTS} lines: cut it")
        if len(line) > MOST_CHARACTERS:
            raise InputError(f"{what} line {number} has more than {MOST_CHARACTERS} characters")
        yield number, line


def _row(parse: Callable[[str], Row], line: str, number: int, what: str) -> Row:
    try:
        moment, prompt, output = parse(line)
    except (ValueError, msgspec.DecodeError) as error:
        raise InputError(f"{what} line {number} cannot be read: {error}") from error
    if not math.isfinite(moment):
        raise InputError(f"{what} line {number}: the moment {moment} is not a finite number")
    for name, tokens in (("prompt", prompt), ("output", output)):
        if not 0 <= tokens <= MOST_TOKENS:
            raise InputError(
                f"{what} line {number}: {tokens} {name} tokens, must be from 0 to {MOST_TOKENS}"
            )
    # A request that was cut off before its first token still cost its prompt.
    return moment, max(1, prompt), max(1, output)


def _azure(line: str) -> Row:
    cells = line.split(",")
    if len(cells) != len(AZURE):
        raise ValueError(f"{len(cells)} columns instead of {len(AZURE)}")
    moment = _MOMENT.fullmatch(cells[0].strip())
    if not moment:
        raise ValueError(f"{cells[0][:40]!r} is not a time in UTC such as 2023-11-16 18:17:03.98")
    day, clock, fraction = moment.groups()
    seconds = np.datetime64(f"{day}T{clock}", "s").astype(np.int64)
    return float(seconds) + float(fraction or 0), int(cells[1]), int(cells[2])


def _mooncake(line: str) -> Row:
    row = msgspec.json.decode(line, type=_MooncakeRow)
    return row.timestamp / 1e3, row.input_length, row.output_length
