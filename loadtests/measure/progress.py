"""The progress bar of a running stage, on stderr: rate, times, failures, what it waits for."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from planner.cli import console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType

    from loadtests.measure.stage import StageProgress
    from planner.records import StageInfo

__all__ = ["describe_load", "progress_bar"]


def describe_load(stage: StageInfo) -> str:
    """The load of a stage in words: ``8 in flight``, ``50 users``, ``20 requests/s``."""
    words = {"concurrency": "in flight", "users": "users", "rate": "requests/s"}
    return f"{stage.load:g} {words[stage.load_kind]}"


def _describe(stage: StageInfo) -> str:
    return f"{' and '.join((stage.target, *stage.together))}: {describe_load(stage)}"


class _Bar(Progress):
    """A bar with lines of text below it, so that all of it fits a terminal of 80 columns."""

    below: tuple[Text, ...] = ()

    def get_renderables(self) -> Iterator[RenderableType]:
        """The bar, then the lines."""
        yield self.make_tasks_table(self.tasks)
        yield from self.below


@contextmanager
def progress_bar() -> Iterator[Callable[[StageProgress], None]]:
    """A bar that follows one stage after the other; a plain line per stage where no terminal is."""
    out = console(stderr=True)
    if not out.is_terminal:
        yield _line_per_stage()
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
    # Drawn only when there is news: a redraw ten times a second would disturb the load's clock.
    with _Bar(*columns, console=out, transient=True, auto_refresh=False) as bars:
        task = bars.add_task("", total=None)

        def show(progress: StageProgress) -> None:
            failed = progress.figures.failed
            left_s = max(0.0, progress.max_s - progress.elapsed_s)
            now = Text.assemble(
                _rate(progress),
                (f"  {failed} failed" if failed else "", "red"),
                f"  {progress.figures.told()}",
            )
            waits = f"at most {left_s:.0f} s more; waits for {progress.waiting_for}"
            bars.below = (now, Text(waits, style="dim"))
            bars.update(
                task,
                description=escape(_describe(progress.stage)),
                total=progress.max_s,
                completed=min(progress.elapsed_s, progress.max_s),
                refresh=True,
            )

        yield show


def _rate(progress: StageProgress) -> str:
    return f"{progress.figures.completed / max(progress.elapsed_s, 1e-9):.1f} req/s"


def _line_per_stage() -> Callable[[StageProgress], None]:
    seen: set[int] = set()
    out = console(stderr=True)

    def show(progress: StageProgress) -> None:
        if progress.stage.index not in seen:
            seen.add(progress.stage.index)
            told = f"{_describe(progress.stage)}, at most {progress.max_s:.0f} s"
            out.print(escape(told), style=None)

    return show
