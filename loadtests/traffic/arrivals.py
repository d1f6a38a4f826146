"""When requests arrive that wait for nobody, as users write it.

=================  ==============================================================================
``constant``       evenly spaced
``poisson``        independent of each other: gaps are exponential
``gamma:2``        a renewal process whose gaps are gamma with this coefficient of variation: 1 is
                   Poisson, more comes in bursts, less is smoother
``trace:FILE``     the moments of a recorded trace (Azure CSV or Mooncake JSON lines), stretched to
                   the rate that is asked for; it ends when the trace does
=================  ==============================================================================
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from planner.errors import InputError
from planner.traces import Trace, read_trace

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ArrivalPattern", "parse_arrivals"]

_EXAMPLES = "constant, poisson, gamma:2 or trace:FILE"
_GAPS_AT_ONCE = 256
_LEAST_CV, _MOST_CV = 0.01, 100.0
_FILE_NAME_LENGTH = 200  # of what a run folder keeps


@dataclass(frozen=True, kw_only=True)
class ArrivalPattern:
    """The shape of a stream of arrivals, without its rate.

    Attributes:
        spec: as the user wrote it; of a trace only the file's name.
        cv: coefficient of variation of the gaps; of a trace, of no meaning here.
        trace: where the moments come from a file.
    """

    spec: str
    cv: float = 1.0
    trace: Trace | None = field(default=None, repr=False, compare=False)

    def moments(self, rate_per_s: float, rng: np.random.Generator) -> Iterator[float]:
        """Intended starts in seconds from the beginning, never decreasing.

        A sum of gaps, not a clock read anew for each: an arrival that leaves late moves no other.

        Args:
            rate_per_s: mean arrivals per second, positive.
            rng: draws the gaps; the same seed gives the same moments.

        Raises:
            InputError: a trace without a rate of its own cannot be brought to another.
        """
        if self.trace is not None:
            return iter(self.trace.at_rate(rate_per_s).arrival_s.tolist())
        if self.cv == 0:
            return (count / rate_per_s for count in itertools.count(1))
        return itertools.accumulate(self._gaps(rate_per_s, rng))

    def _gaps(self, rate_per_s: float, rng: np.random.Generator) -> Iterator[float]:
        """Gamma gaps of mean 1/rate: shape k = 1/CV², scale CV²/rate; exponential at CV = 1."""
        shape = self.cv**-2
        while True:
            yield from (rng.gamma(shape, size=_GAPS_AT_ONCE) / (shape * rate_per_s)).tolist()


def parse_arrivals(text: str, *, what: str = "--arrivals") -> ArrivalPattern:
    """Read a pattern.

    Args:
        text: as in the module's table.
        what: how to call it in an error.

    Raises:
        InputError: none of these forms, a variation out of bounds, or a file that is no trace.
    """
    kind, colon, rest = text.strip().partition(":")
    if kind == "trace" and rest:
        return _from_trace(Path(rest), what)
    if kind == "gamma" and rest:
        return ArrivalPattern(spec=f"gamma:{rest.strip()}", cv=_variation(rest, what))
    if kind in ("constant", "poisson") and not colon:
        return ArrivalPattern(spec=kind, cv=0.0 if kind == "constant" else 1.0)
    raise InputError(f"{what} {text!r} cannot be read: write {_EXAMPLES}")


def _variation(text: str, what: str) -> float:
    try:
        cv = float(text)
    except ValueError:
        cv = np.nan
    if not _LEAST_CV <= cv <= _MOST_CV:
        raise InputError(
            f"{what} gamma:{text}: the coefficient of variation must be a number from "
            f"{_LEAST_CV:g} to {_MOST_CV:g}; write constant for 0"
        )
    return cv


def _from_trace(path: Path, what: str) -> ArrivalPattern:
    named = f"{what} trace:{path}"
    try:
        with path.open(encoding="utf-8") as lines:
            trace = read_trace(lines, what=named)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InputError(f"{named} cannot be read: {why}") from error
    if trace.rate_per_s is None:
        raise InputError(f"{named} has no rate: all its requests came at one moment")
    return ArrivalPattern(spec=f"trace:{path.name[-_FILE_NAME_LENGTH:]}", trace=trace)
