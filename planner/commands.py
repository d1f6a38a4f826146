"""The planner's commands: parse, call once, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from planner.answer import answer, exit_code_of, read_runs
from planner.answer_tables import print_answer
from planner.cli import RATE, Command, price_option, print_json, question_options, slots_option
from planner.config import catalogue_of, config_of, config_option, slots_in
from planner.demand import arrivals_demand, question_of
from planner.errors import InputError
from planner.manifest import read_manifest
from planner.recommend import ROUTING
from planner.records import Demand
from planner.slots import with_slots
from planner.traces import read_trace

if TYPE_CHECKING:
    from planner.records import Slo
    from planner.traces import Trace

__all__ = ["recommend"]


@click.command(
    cls=Command,
    epilog="Example: headroom recommend runs/vllm runs/ollama --users 200 --think-time 15s "
    "--slo 'ttft_p95<=1s' --gpu-cost H100=2.5",
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@question_options()
@click.option(
    "--rate",
    type=RATE,
    default=None,
    help="Requests that wait for nobody, as 20/s, in place of --users.",
)
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    default=None,
    help="Recorded traffic (Azure CSV, Mooncake JSON lines): its rate, bursts and lengths, in "
    "place of --users; with --rate, at that rate.",
)
@price_option
@slots_option
@click.option(
    "--prompt-tokens",
    "prompt_tokens_mean",
    type=click.FloatRange(0, min_open=True),
    default=None,
    help="Mean prompt length to plan for.  [default: as measured]",
)
@click.option(
    "--output-tokens",
    "output_tokens_mean",
    type=click.FloatRange(0, min_open=True),
    default=None,
    help="Mean output length to plan for.  [default: as measured]",
)
@click.option(
    "--gpus-per-replica",
    type=click.IntRange(1, 4096),
    default=None,
    help="Only with so many GPUs in a replica; never assumed from other numbers.  "
    "[default: as measured]",
)
@click.option(
    "--routing",
    type=click.Choice(tuple(ROUTING)),
    default=None,
    help="How requests are spread over replicas.  [default: session-sticky for --users, random for "
    "--rate and --trace, which may also be round-robin or least-loaded]",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=None,
    help="Of the bootstrap.  [default: the first run's]",
)
@click.option("--json", "as_json", is_flag=True, help="The recommendation as JSON.")
@config_option
@click.pass_context
def recommend(
    context: click.Context,
    runs: tuple[Path, ...],
    users: int | None,
    think_time: float | None,
    rate: float | None,
    trace: Path | None,
    slo: tuple[Slo, ...],
    confidence: float | None,
    spare: int | None,
    gpu_cost: tuple[tuple[str, float], ...],
    slots: tuple[tuple[str, int], ...],
    prompt_tokens_mean: float | None,
    output_tokens_mean: float | None,
    gpus_per_replica: int | None,
    routing: str | None,
    seed: int | None,
    as_json: bool,
) -> None:
    """Which backend, how many replicas and GPUs, by the RUN folders measured.

    What is not given is taken from the question that the runs were made for, if they were. Exit
    codes: 0 recommended, 1 nothing meets the objectives, 2 bad input, 3 the runs cannot tell.
    """
    plans = [read_manifest(path).plan for path in runs]
    open_loop = rate is not None or trace is not None
    if open_loop and (users is not None or think_time is not None):
        raise InputError(
            "--users and --think-time are people who wait for answers, --rate and --trace are "
            "requests that wait for nobody: give one of the two"
        )
    question = question_of(
        plans,
        1 if open_loop else users,
        think_time,
        slo,
        confidence=confidence,
        spare=spare,
        gpu_cost=dict(gpu_cost),
    )
    told: tuple[str, ...] = ()
    demand = Demand(users=question.users, think_time_s=question.think_time_s)
    if open_loop:
        recorded = None if trace is None else _read_trace(trace)
        demand, told = arrivals_demand(rate, recorded, name="" if trace is None else trace.name)
    demand = msgspec.structs.replace(
        demand,
        prompt_tokens_mean=prompt_tokens_mean or demand.prompt_tokens_mean,
        output_tokens_mean=output_tokens_mean or demand.output_tokens_mean,
        gpus_per_replica=gpus_per_replica,
    )
    found = answer(
        with_slots(read_runs(runs), dict(slots), declared=slots_in(config_of(context))),
        question,
        demand=demand,
        seed=seed,
        catalogue=catalogue_of(context),
        routing=routing,
    )
    found = msgspec.structs.replace(found, warnings=(*told, *found.warnings))
    if as_json:
        print_json(found)
    else:
        print_answer(found)
    context.exit(exit_code_of(found))


def _read_trace(path: Path) -> Trace:
    try:
        with path.open(encoding="utf-8") as file:
            return read_trace(file, what=f"trace {path}")
    except OSError as error:
        raise InputError(f"trace {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"trace {path} is no text: {error.reason}") from error
