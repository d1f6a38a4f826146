"""``headroom verify``: measure at the recommended load, and see whether the prediction held."""

from __future__ import annotations

import locust  # isort: skip  # noqa: F401 - first of all: it patches what the others import
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from loadtests.measure.campaign import Campaign
from loadtests.measure.progress import progress_bar
from loadtests.measure.stage import StageLimits
from loadtests.resolve import traffic_of
from loadtests.targets import parse_target
from planner.answer import answer, exit_code_of, read_runs
from planner.answer_tables import print_answer
from planner.cli import (
    DURATION,
    EXIT_DONE,
    EXIT_INCONCLUSIVE,
    EXIT_NO,
    Command,
    console,
    print_json,
    question_options,
)
from planner.config import catalogue_of, config_option
from planner.demand import question_of
from planner.errors import InputError
from planner.manifest import read_manifest
from planner.summary import operating_points
from planner.tables import verification_table
from planner.units import percentile_of
from planner.verification import verified

if TYPE_CHECKING:
    from loadtests.targets import Target
    from planner.records import Option, PlanContext, RunManifest, Slo
    from planner.verification import Verification

__all__ = ["verify"]

_SHORTEST_S = 5.0


@click.command(
    cls=Command,
    epilog="Example: headroom verify runs/vllm --users 200 --think-time 15s --slo 'ttft_p95<=1s'",
)
@click.argument("run", type=click.Path(path_type=Path))
@question_options()
@click.option("--target", default=None, help="The target to verify.  [default: the recommended]")
@click.option("--url", default=None, help="Where the target is now, if it has moved.")
@click.option(
    "--duration", type=DURATION, default="120s", show_default=True,
    help="Longest time to measure; it ends earlier when the figures are steady.",
)  # fmt: skip
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="Run folder of the measurement.  [default: RUN-verify-DATE]",
)
@click.option("--json", "as_json", is_flag=True, help="Predicted beside measured as JSON.")
@config_option
@click.pass_context
def verify(
    context: click.Context,
    run: Path,
    users: int | None,
    think_time: float | None,
    slo: tuple[Slo, ...],
    confidence: float | None,
    spare: int | None,
    target: str | None,
    url: str | None,
    duration: float,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure one replica at the load that RUN recommends for it; print predicted and measured.

    Exit codes: 0 every figure lies in its predicted interval, or is so near that noise explains it;
    1 one does not; 2 bad input; 3 the measurement, or the recommendation, cannot tell.
    """
    if duration < _SHORTEST_S:
        raise InputError(f"--duration {duration:g}s is too short: at least {_SHORTEST_S:g}s")
    manifest = read_manifest(run)
    question = question_of(
        [manifest.plan], users, think_time, slo, confidence=confidence, spare=spare, gpu_cost={}
    )
    recommendation = answer(read_runs([run]), question, catalogue=catalogue_of(context))
    option = recommendation.recommended
    if target is not None:
        option = _named(target, recommendation.options)
    if option is None or option.users_on_replica is None:
        print_answer(recommendation, console(stderr=True))
        context.exit(exit_code_of(recommendation))
    folder = out or run.with_name(time.strftime(f"{run.name}-verify-%Y%m%d-%H%M%S"))
    found = _measured(manifest, option, question, recommendation.slo, url, duration, folder)
    if as_json:
        print_json(found)
    else:
        console().print(verification_table(found))
        for problem in found.problems:
            console(stderr=True).print(problem, markup=False, soft_wrap=True)
    console(stderr=True).print(f"wrote {folder}", markup=False, soft_wrap=True)
    context.exit({True: EXIT_DONE, False: EXIT_NO, None: EXIT_INCONCLUSIVE}[found.held])


def _named(name: str, options: tuple[Option, ...]) -> Option:
    """The option of a target.

    Raises:
        InputError: there is none of that name.
    """
    found = next((option for option in options if option.target == name), None)
    if found is None:
        known = ", ".join(option.target for option in options)
        raise InputError(f"--target {name!r} is not in the run, which has {known}")
    return found


def _measured(
    manifest: RunManifest,
    option: Option,
    question: PlanContext,
    slo: tuple[Slo, ...],
    url: str | None,
    duration_s: float,
    out: Path,
) -> Verification:
    """Load one replica as recommended and compare."""
    assert option.users_on_replica is not None  # noqa: S101 - the caller looked
    workload = manifest.workload
    traffic = traffic_of(
        prompt_tokens=workload.prompt_tokens,
        output_tokens=workload.output_tokens,
        seed=(abs(manifest.seed) + 1) % 2**32,  # the same distribution, other draws
        temperature=workload.temperature,
        natural_stop=not workload.ignore_eos,
        allow_cache=not workload.vary_prompts,
    )
    target = _target_of(manifest, option.target, url)
    shares = tuple(share for s in slo if (share := percentile_of(s.figure)) is not None)
    limits = StageLimits(
        max_s=duration_s, min_s=min(duration_s / 4, 20.0), quantile=max(shares, default=None)
    )
    think_time_s = question.think_time_s
    with (
        Campaign.open(
            out, [target], traffic, plan=question, hardware=manifest.hardware
        ) as campaign,
        progress_bar() as on_progress,
    ):
        campaign.measure(
            target.name,
            "users" if think_time_s else "concurrency",
            option.users_on_replica,
            limits,
            think_time_s=think_time_s,
            on_progress=on_progress,
        )
    (run,) = read_runs([out])
    point = operating_points(run, quantiles=shares)[-1]
    (info,) = run.manifest.targets
    found = verified(option, slo, point, run=str(out))
    return msgspec.structs.replace(found, emulated=info.emulated)


def _target_of(manifest: RunManifest, name: str, url: str | None) -> Target:
    """The run's target, where it is now.

    Raises:
        InputError: its name or address cannot be used.
    """
    info = next(target for target in manifest.targets if target.name == name)
    model = f"#{info.model}" if info.model else ""
    target = parse_target(f"{info.name}:{info.backend}={url or info.url}{model}")
    return msgspec.structs.replace(
        target,
        api=info.api or target.api,  # older runs do not tell it
        hardware=info.hardware,
        gpus_per_replica=info.gpus_per_replica,
        slots=info.slots_given,
    )
