"""The stages of a run as the parts that levels are made of: one each, or several pooled.

A level that was measured again because it had too few answers is judged by all of them together:
its steady windows are put one behind the other. Each keeps its own warm-up and its own order in
time, so a block of the bootstrap holds neighbours, but where one window ends and the next begins.
Only stages without another fault are pooled.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from planner.steady import Window, in_flight_mean, steady_window, within
from planner.table import CANCELLED, OK, TIMEOUT, RequestTable
from planner.validity import problems

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from planner.records import StageInfo
    from planner.runfolder import Run
    from planner.table import Floats

__all__ = ["Part", "mean_of", "part_of", "parts_in_flight", "pooled_parts", "put_together"]

_MOMENTS = ("scheduled_s", "sent_s", "headers_s", "first_token_s", "ended_s")
_PLENTY = 10**9  # answers, so that their number is no fault


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One stage, its steady window, and the requests in it.

    Attributes:
        stage: the stage.
        table: all its requests.
        window: its steady part.
        rows: the requests that completed in the window.
        row_numbers: (rows,) where they stand among the run's requests.
        error_kinds: kind -> count over the whole stage, the most frequent first.
    """

    stage: StageInfo
    table: RequestTable
    window: Window
    rows: RequestTable
    row_numbers: npt.NDArray[np.int64]
    error_kinds: dict[str, int]

    @property
    def answers(self) -> int:
        """Good answers in the window."""
        return int(np.count_nonzero(self.rows.status == OK))

    @property
    def seconds(self) -> float:
        """Length of the window."""
        return self.window.end_s - self.window.start_s

    def problems(self, quantiles: tuple[float, ...], *, others: int = 0) -> tuple[str, ...]:
        """Why it must not be used.

        Args:
            quantiles: those that were asked for.
            others: good answers at the same level in other stages, which count with its own.
        """
        return problems(
            self.table,
            self.rows,
            self.stage,
            self.window,
            quantiles=quantiles,
            error_kinds=self.error_kinds,
            others=others,
        )

    def tokens_made(self) -> float | None:
        """Output tokens made inside the window by all requests, the unfinished ones included.

        A request that was cut off reported no total: it stands with the stage's mean pace. ``None``
        when no answer reported its tokens.
        """
        table, window = self.table, self.window
        pace = mean_of(table.tpot_s[table.status == OK])
        known = np.isfinite(table.output_tokens) & np.isfinite(table.first_token_s)
        if not known.any():
            return None
        length = table.ended_s - table.first_token_s
        tokens = np.where(known, table.output_tokens, np.nan)
        if pace:
            cut_off = np.isnan(tokens) & ((table.status == CANCELLED) | (table.status == TIMEOUT))
            tokens = np.where(cut_off, 1 + length / pace, tokens)
        start_s = np.maximum(table.first_token_s, window.start_s)
        inside = np.clip(np.minimum(table.ended_s, window.end_s) - start_s, 0, None)
        at_once = (table.first_token_s > window.start_s) & (table.first_token_s <= window.end_s)
        share = np.where(length > 0, inside / np.where(length > 0, length, 1), at_once)
        return float(np.nansum(tokens * share))


def part_of(run: Run, stage: StageInfo) -> Part:
    """A stage of a run with its steady window."""
    of_stage = run.requests.stage == stage.index
    table = run.requests.where(of_stage)
    seen = float(table.ended_s.max()) if len(table) else stage.started_s
    window = steady_window(table, stage, now_s=seen)
    inside = within(table, window)
    return Part(
        stage=stage,
        table=table,
        window=window,
        rows=table.where(inside),
        row_numbers=np.flatnonzero(of_stage)[inside],
        error_kinds=run.errors.get(stage.index, {}),
    )


def pooled_parts(run: Run, quantiles: tuple[float, ...]) -> Iterator[tuple[Part, ...]]:
    """The stages of a run, those of one target and level together where one alone is too short.

    Args:
        run: the run, whose workload all its stages share.
        quantiles: those that must be known.
    """
    levels: dict[object, list[StageInfo]] = {}
    for stage in run.manifest.stages:
        level = (
            stage.target, stage.load_kind, stage.load, stage.think_time_s, stage.arrivals,
            stage.together,
        )  # fmt: skip
        levels.setdefault(level, []).append(stage)
    for stages in levels.values():
        parts = [part_of(run, stage) for stage in stages]
        pool = _to_pool(parts, quantiles) if len(parts) > 1 else ()
        yield from ((part,) for part in parts if part not in pool)
        if pool:
            yield pool


def _to_pool(parts: Sequence[Part], quantiles: tuple[float, ...]) -> tuple[Part, ...]:
    """Those without a fault but too few answers; none if each of them has enough."""
    sound = tuple(p for p in parts if p.answers and not p.problems(quantiles, others=_PLENTY))
    short = any(part.problems(quantiles) for part in sound)
    return sound if short and len(sound) > 1 else ()


def put_together(parts: Sequence[Part]) -> tuple[RequestTable, Window]:
    """The requests of all windows, as if one window followed the other, and the window of all."""
    if len(parts) == 1:
        return parts[0].rows, parts[0].window
    tables, end_s = [], 0.0
    for part in parts:
        later = end_s - part.window.start_s
        moved = {name: getattr(part.rows, name) + later for name in _MOMENTS}
        tables.append(dataclasses.replace(part.rows, **moved))
        end_s += part.seconds
    return RequestTable.concat(tables), Window(0.0, end_s)


def parts_in_flight(parts: Sequence[Part]) -> float:
    """Requests in flight, averaged over all windows."""
    means = [in_flight_mean(part.table, part.window) for part in parts]
    return float(np.average(means, weights=[part.seconds for part in parts]))


def mean_of(values: Floats) -> float | None:
    """Mean of what was reported; ``None`` when nothing was."""
    reported = values[np.isfinite(values)]
    return float(reported.mean()) if len(reported) else None
