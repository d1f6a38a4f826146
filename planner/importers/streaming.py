"""Answers that were not streamed: their first token was never seen, whatever a file says.

Several tools then write the end-to-end latency for the time to first token, to the last digit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planner.importers.levels import Imported, Level

__all__ = ["NOT_STREAMED", "STREAMED", "without_unseen"]

STREAMED = ("ttft", "tpot", "itl")
"""Metrics that only a stream of tokens has."""
NOT_STREAMED = "not streamed: no TTFT and no TPOT"


def without_unseen(one: Imported) -> Imported:
    """The same levels; where TTFT is E2E to the last digit, without what only a stream has.

    Of answers of one token the two are truly the same.
    """
    levels = tuple(_seen(level) for level in one.levels)
    if levels == one.levels:
        return one
    return replace(one, levels=levels, notes=(*one.notes, NOT_STREAMED))


def _seen(level: Level) -> Level:
    ttft, e2e = (level.latencies.get(metric) for metric in ("ttft", "e2e"))
    one_token = level.output_tokens_mean is not None and level.output_tokens_mean <= 1
    if ttft is None or ttft != e2e or one_token:
        return level
    return replace(
        level,
        latencies={k: v for k, v in level.latencies.items() if k not in STREAMED},
        values={k: v for k, v in level.values.items() if k not in STREAMED},
    )
