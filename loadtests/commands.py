"""The commands that make load."""

from __future__ import annotations

import locust  # isort: skip  # noqa: F401 - first of all: it patches what the others import
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loadtests.measure.campaign import Campaign
from loadtests.measure.progress import progress_bar
from loadtests.measure.stage import StageLimits
from loadtests.options import workload_options
from loadtests.resolve import resolve_targets, traffic_of
from planner.cli import DURATION, SLO, Command, console
from planner.config import config_option
from planner.errors import InputError
from planner.levels import next_level
from planner.runfolder import read_run
from planner.summary import operating_points
from planner.tables import points_table
from planner.units import highest_percentile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planner.records import Slo

__all__ = ["measure"]

_MAX_LOAD = 100_000
_SHORTEST_S = 1.0


@click.command(
    cls=Command,
    epilog="Example: headroom measure vllm=http://127.0.0.1:8000 --concurrency 1,4,16 --out runs/a",
)
@click.argument("targets", nargs=-1, metavar="TARGET...")
@click.option(
    "--concurrency",
    metavar="1,2,4,8 | auto",
    help="Requests in flight, one stage for each number. auto: 1, the server's slots, the top, and "
    "what lies between until the curve and the crossing of the objectives are known "
    "[default: auto].",
)
@click.option(
    "--top", default=64, show_default=True, type=click.IntRange(2, _MAX_LOAD),
    help="Highest concurrency that auto tries.",
)  # fmt: skip
@click.option(
    "--users", type=click.IntRange(1, _MAX_LOAD), help="People who think between requests."
)
@click.option("--think-time", type=DURATION, help="Their mean pause, as in 10s.")
@click.option(
    "--duration", type=DURATION, default="60s", show_default=True,
    help="Longest duration of a stage; it ends earlier when its figures are steady.",
)  # fmt: skip
@click.option(
    "--slo", type=SLO, multiple=True, metavar="FIGURE<=BOUND",
    help="Objective, as ttft_p95<=1s; repeatable. auto looks for the level at which it is crossed, "
    "stages last until its percentile is known, and the table shows where it is met.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Run folder to write.")
@workload_options
@config_option
def measure(
    targets: tuple[str, ...],
    concurrency: str | None,
    top: int,
    users: int | None,
    think_time: float | None,
    duration: float,
    slo: tuple[Slo, ...],
    out: Path,
    api: str | None,
    hardware: tuple[str, ...],
    **workload: Any,
) -> None:
    """Make load on each TARGET and write a run folder."""
    if duration < _SHORTEST_S:
        raise InputError(f"--duration {duration:g}s is too short: at least {_SHORTEST_S:g}s")
    levels = _levels(concurrency, users, think_time)
    traffic = traffic_of(**workload)
    chosen = resolve_targets(targets, api=api, hardware=hardware)
    limits = StageLimits(max_s=duration, quantile=highest_percentile(slo))
    with Campaign.open(out, chosen, traffic) as campaign, progress_bar() as on_progress:
        for target in chosen:
            if users is not None:
                campaign.measure(
                    target.name, "users", users, limits,
                    think_time_s=think_time or 0.0, on_progress=on_progress,
                )  # fmt: skip
                continue
            for level in _climb(campaign, target.name, levels, top, slo):
                campaign.measure(target.name, "concurrency", level, limits, on_progress=on_progress)
    console().print(points_table(operating_points(read_run(out)), slo))
    console(stderr=True).print(f"wrote {out}", markup=False, soft_wrap=True)


def _levels(
    concurrency: str | None, users: int | None, think_time: float | None
) -> tuple[int, ...] | None:
    """The levels asked for; ``None``: let the curve decide.

    Raises:
        InputError: no list of whole numbers, or two kinds of load at once.
    """
    if users is not None and concurrency is not None:
        raise InputError("--users (who think) and --concurrency (in flight) exclude each other")
    if users is None and think_time is not None:
        raise InputError("--think-time needs --users: a closed loop of --concurrency never pauses")
    if concurrency is None or concurrency.strip() == "auto":
        return None
    parts = re.split(r"[,\s]+", concurrency.strip())
    if not all(re.fullmatch(r"[1-9][0-9]{0,5}", part) and int(part) <= _MAX_LOAD for part in parts):
        raise InputError(
            f"--concurrency {concurrency!r} cannot be read: write whole numbers from 1 to "
            f"{_MAX_LOAD}, as in 1,2,4,8, or auto"
        )
    return tuple(int(part) for part in parts)


def _climb(
    campaign: Campaign,
    target: str,
    levels: tuple[int, ...] | None,
    top: int,
    slo: Sequence[Slo],
) -> Iterator[int]:
    """The levels to measure on one target, each decided when the one before is known."""
    if levels is not None:
        yield from levels
        return
    slots = campaign.sessions[target].info.limits.slots
    while True:
        points = [p for p in operating_points(campaign.run()) if p.target == target]
        level = next_level(points, slots=slots, top=top, slo=slo)
        if level is None:
            return
        yield level
