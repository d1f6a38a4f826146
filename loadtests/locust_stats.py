"""Locust's own statistics, fit for the times of streamed answers.

Locust rounds times to whole milliseconds and two digits, prints whole milliseconds, and adds all
rows up into one. A TPOT of 5 ms would be seen in steps of a fifth, and the total would count a
request three times and mix its TTFT and TPOT with its duration. Here buckets have three digits (a
hook that Locust has for this), tables show them, and the total is of whole requests alone.

What workers send to their master is as before, so that both sides must have imported this.
"""

from __future__ import annotations

from math import floor, log10
from typing import TYPE_CHECKING, Any

import locust.env
import locust.stats
from locust.stats import RequestStats, StatsEntry, StatsError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MOST_MESSAGES", "PARTS", "Entry", "Statistics", "bucket", "install"]

PARTS = frozenset({"TTFT", "TPOT"})
"""Rows of figures of a request, beside the row of whole requests."""

MOST_MESSAGES = 200
"""Different failures that one process tells apart."""

_KIND_LENGTH = 40
_DIGITS = 3
_FINEST_DECIMALS = 3  # of a millisecond


def bucket(response_time: float) -> float:
    """The bucket of a time in ms: its first three digits, at finest a microsecond.

    A decade has 900 buckets, so that a row of a master's report stays small.
    """
    if response_time <= 0:
        return 0.0
    decimals = _DIGITS - 1 - floor(log10(response_time))
    return round(float(response_time), min(decimals, _FINEST_DECIMALS))


def install() -> None:
    """Make every Locust environment from here on keep such statistics."""
    stats: Any = locust.stats
    stats.bucket_response_time = bucket  # it is there to be replaced; for the rest is no hook
    stats.StatsEntry = Entry
    stats.StatsCSV._percentile_fields = _percentile_fields  # noqa: SLF001
    env: Any = locust.env
    env.RequestStats = Statistics


class Statistics(RequestStats):
    """Statistics whose total is of whole requests, and whose table of failures ends somewhere."""

    def __init__(self, use_response_times_cache: bool = True) -> None:
        """Nothing seen yet."""
        super().__init__(use_response_times_cache)
        self._messages: set[str] = set()

    def clear_all(self) -> None:
        """Begin anew, with another test."""
        super().clear_all()
        self._messages.clear()

    def log_error(self, method: str, name: str, error: Exception | str | None) -> None:
        """Count a failure. Servers write ids into messages: beyond some only kinds are told."""
        message = StatsError.parse_error(error)
        if len(self._messages) < MOST_MESSAGES:
            self._messages.add(message)
        if message not in self._messages:
            kind = str(error).partition(":")[0]
            error = f"{kind[:_KIND_LENGTH]}: with more messages than are told apart here"
        super().log_error(method, name, error)

    def log_request(self, method: str, name: str, response_time: Any, content_length: int) -> None:
        """Note one time of a row, and in the total if it is that of a whole request."""
        if method in PARTS:
            self.entries[(name, method)].log(response_time, content_length)
        else:
            super().log_request(method, name, response_time, content_length)


class Entry(StatsEntry):
    """A row that shows fractions of a millisecond."""

    def to_string(self, current: bool = True) -> str:
        """The row of the table of requests."""
        wide = locust.stats.STATS_NAME_WIDTH - locust.stats.STATS_TYPE_WIDTH + 4
        rate = self.current_rps if current else self.total_rps
        failing = self.current_fail_per_sec if current else self.total_fail_per_sec
        kind = f"{self.method} " if self.method else ""
        failures = f"{self.num_failures}({self.fail_ratio:.2%})"
        average, least, most, median = (
            _shown(value)
            for value in (
                self.avg_response_time,
                self.min_response_time or 0,
                self.max_response_time,
                self.median_response_time,
            )
        )
        return (
            f"{kind:<{locust.stats.STATS_TYPE_WIDTH}} {self.name:<{wide}} {self.num_requests:7d} "
            f"{failures:>12} |{average:>7} {least:>7} {most:>7}{median:>7} | "
            f"{rate or 0:7.2f} {failing or 0:11.2f}"
        )

    def percentile(self) -> str:
        """The row of the table of percentiles."""
        first, *others = (
            _shown(self.get_response_time_percentile(percentile))
            for percentile in locust.stats.PERCENTILES_TO_REPORT
        )
        return " ".join(
            [
                f"{self.method or '':<{locust.stats.STATS_TYPE_WIDTH}}",
                f"{self.name:<{locust.stats.STATS_NAME_WIDTH}}",
                f"{first:>8}",
                *(f"{other:>6}" for other in others),
                f"{self.num_requests:6d}",
            ]
        )

    def to_dict(self, escape_string_values: bool = False) -> dict[str, Any]:
        """The row of the web UI and the HTML report."""
        return {
            **super().to_dict(escape_string_values),
            "min_response_time": bucket(self.min_response_time or 0),
            "max_response_time": bucket(self.max_response_time),
        }


def _percentile_fields(
    writer: locust.stats.StatsCSV, entry: StatsEntry, use_current: bool = False
) -> Sequence[object]:
    """The percentiles of a CSV row."""
    if not entry.num_requests:
        return list(writer.percentiles_na)
    now = use_current and entry.use_response_times_cache
    of = entry.get_current_response_time_percentile if now else entry.get_response_time_percentile
    return [of(percentile) or 0 for percentile in writer.percentiles_to_report]


def _shown(time_ms: float) -> str:
    """Milliseconds in at most six characters up to 1000 s: three digits, or all whole ones."""
    return f"{time_ms:.0f}" if time_ms >= 100 else f"{time_ms:.3g}"  # noqa: PLR2004
