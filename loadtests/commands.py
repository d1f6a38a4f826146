"""The commands that make load."""

from __future__ import annotations

import locust  # isort: skip  # noqa: F401 - first of all: it patches what the others import
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loadtests.crew import Crew
from loadtests.crewload import WORKER_DIED
from loadtests.measure.campaign import Campaign
from loadtests.measure.progress import progress_bar
from loadtests.measure.stage import StageLimits
from loadtests.openloop import OpenLoad
from loadtests.options import telemetry_option, workload_options
from loadtests.resolve import MAX_LOAD, resolve_targets, traffic_of, typed_load
from loadtests.together import check_together, shared_levels
from planner.cli import DURATION, SLO, Command, console, slots_option
from planner.comparison import sharing
from planner.config import config_option, own_hardware_of
from planner.errors import InputError
from planner.levels import next_level
from planner.runfolder import read_run
from planner.slots import slots_of
from planner.summary import operating_points
from planner.tables import points_table, sharing_table
from planner.units import highest_percentile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loadtests.targets import Target
    from planner.records import Slo

__all__ = ["measure"]

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
    "--top", default=64, show_default=True, type=click.IntRange(2, MAX_LOAD),
    help="Highest concurrency that auto tries.",
)  # fmt: skip
@click.option(
    "--users", type=click.IntRange(1, MAX_LOAD), help="People who think between requests."
)
@click.option("--think-time", type=DURATION, help="Their mean pause, as in 10s.")
@click.option(
    "--rate", metavar="R/s,...",
    help="Arrivals that wait for nobody, one stage for each rate, as in 5/s,20/s or 90/min.",
)  # fmt: skip
@click.option(
    "--arrivals", metavar="PATTERN",
    help="How they come: constant, poisson, gamma:CV (coefficient of variation of the gaps) or "
    "trace:FILE (Azure CSV, Mooncake JSON lines; at its own rate without --rate) "
    "[default: poisson].",
)  # fmt: skip
@click.option(
    "--max-in-flight", default=2048, show_default=True, type=click.IntRange(1, MAX_LOAD),
    help="Arrivals that would exceed it end the stage, which is then invalid: they never wait.",
)  # fmt: skip
@click.option(
    "--processes", default=1, show_default=True, type=click.IntRange(1, 64),
    help="Processes that make the load together, for more than one core can.",
)  # fmt: skip
@click.option(
    "--together", is_flag=True,
    help="After each target alone, load all of them at once, level by level, and tell what sharing "
    "the machine costs.",
)  # fmt: skip
@click.option("--only-together", is_flag=True, help="The same, without measuring each alone first.")
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
@slots_option
@telemetry_option
@workload_options
@config_option
def measure(
    targets: tuple[str, ...],
    concurrency: str | None,
    top: int,
    users: int | None,
    think_time: float | None,
    rate: str | None,
    arrivals: str | None,
    max_in_flight: int,
    processes: int,
    together: bool,
    only_together: bool,
    duration: float,
    slo: tuple[Slo, ...],
    out: Path,
    slots: tuple[tuple[str, int], ...],
    telemetry: bool,
    api: str | None,
    hardware: tuple[str, ...],
    **workload: Any,
) -> None:
    """Make load on each TARGET and write a run folder."""
    if duration < _SHORTEST_S:
        raise InputError(f"--duration {duration:g}s is too short: at least {_SHORTEST_S:g}s")
    load = typed_load(
        concurrency=concurrency, users=users, think_time=think_time, rate=rate, arrivals=arrivals
    )
    open_load = None
    if load.arrivals is not None:
        open_load = OpenLoad(pattern=load.arrivals, max_in_flight=max_in_flight)
    traffic = traffic_of(**workload)
    chosen = resolve_targets(targets, api=api, hardware=hardware, slots=slots)
    if together or only_together:
        check_together(chosen, load, processes=processes, only_together=only_together)
    limits = StageLimits(max_s=duration, quantile=highest_percentile(slo))
    own = own_hardware_of(click.get_current_context())
    with (
        _crew(processes, chosen, out) as crew,
        Campaign.open(out, chosen, traffic, telemetry=telemetry, hardware=own) as campaign,
        progress_bar() as on_progress,
    ):
        for target in () if only_together else chosen:
            for level in _climb(campaign, target.name, load.levels, top, slo):
                stage = None
                while stage is None or stage.stop_reason == WORKER_DIED:  # again, by who is left
                    stage = campaign.measure(
                        target.name, load.kind, level, limits,
                        think_time_s=load.think_time_s, open_load=open_load, crew=crew,
                        on_progress=on_progress,
                    )  # fmt: skip
        for level in shared_levels(campaign, load) if together or only_together else ():
            campaign.measure_together(
                load.kind, level, limits,
                think_time_s=load.think_time_s, open_load=open_load, on_progress=on_progress,
            )  # fmt: skip
    run = read_run(out)
    emulated = {target.name: target.emulated for target in run.manifest.targets if target.emulated}
    points = operating_points(run)
    console().print(points_table(points, slo, emulated=list(emulated)))
    if costs := sharing(points):
        console().print()
        console().print(sharing_table(costs))
    for name, profile in emulated.items():
        told = f"{name} is Headroom's emulator of {profile}: its figures measure no server"
        console(stderr=True).print(told, markup=False, soft_wrap=True)
    console(stderr=True).print(f"wrote {out}", markup=False, soft_wrap=True)


def _crew(
    processes: int, targets: Sequence[Target], out: Path
) -> contextlib.AbstractContextManager[Crew | None]:
    """The processes that make the load; ``None`` where this one does."""
    return Crew.open(processes, targets, out) if processes > 1 else contextlib.nullcontext()


def _climb(
    campaign: Campaign,
    target: str,
    levels: tuple[float, ...] | None,
    top: int,
    slo: Sequence[Slo],
) -> Iterator[float]:
    """The levels to measure on one target, each decided when the one before is known."""
    if levels is not None:
        yield from levels
        return
    info = campaign.sessions[target].info
    while True:
        run = campaign.run()
        points = [p for p in operating_points(run) if p.target == target]
        slots = slots_of(run, info)
        level = next_level(points, slots=slots, top=top, slo=slo)
        if level is None:
            return
        yield level
