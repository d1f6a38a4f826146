"""Headroom's front door: one table of commands, each loaded on use.

``plan`` and ``demo`` join the three packages (make load, think, show), so they stand here and in
no package: look at the servers, measure what the planner asks for, recommend, write the report.
What they need is imported when they run, so that ``headroom --help`` is quick.
"""

from __future__ import annotations

import difflib
import importlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loadtests.options import telemetry_option, workload_options
from planner import __version__
from planner.cli import (
    DURATION,
    EXIT_INTERRUPTED,
    Command,
    console,
    price_option,
    print_json,
    question_options,
    slots_option,
)
from planner.config import config_option
from planner.records import PlanContext
from planner.units import format_duration, highest_percentile, parse_slo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtests.measure.campaign import Campaign
    from loadtests.measure.session import Traffic
    from loadtests.targets import Target
    from planner.hardware import Catalogue
    from planner.records import Slo, TargetInfo

__all__ = ["COMMANDS", "__version__", "demo", "main", "plan"]

COMMANDS = {
    "plan": ("headroom:plan", "The whole job: look, measure what is needed, recommend, report."),
    "demo": ("headroom:demo", "Plan on this machine, for engines that it starts itself."),
    "serve": ("loadtests.engines.commands:serve", "Start one local engine and stop it cleanly."),
    "doctor": ("loadtests.doctor.command:doctor", "What a server is and can; what to mind."),
    "parity": ("loadtests.parity.command:parity", "Whether servers give the same texts, greedily."),
    "measure": ("loadtests.commands:measure", "Make load on servers and write a run folder."),
    "selftest": ("loadtests.selftest:selftest", "How exact and how cheap the client is here."),
    "recommend": ("planner.commands:recommend", "Which backend, how many replicas and GPUs."),
    "verify": (
        "loadtests.verify:verify",
        "Measure at the recommended load: predicted beside measured.",
    ),
    "import": (
        "planner.import_command:import_results",
        "Result files of other load tools as a run.",
    ),
    "export": ("planner.export_command:export", "A run's levels for other programs."),
    "gate": ("planner.gate_command:gate", "A missed objective, or a regression, fails the build."),
    "compare": (
        "planner.compare_command:compare",
        "Run against run: what differs and is no chance.",
    ),
    "backtest": ("planner.backtest_command:backtest", "How wrong the planner is on known curves."),
    "claims": ("planner.claims_command:claims", "Published claims against the evidence at hand."),
    "report": ("dashboards.commands:report", "One HTML file that shows a run and its answer."),
}
"""Command name -> where it lives, and its line in the overview."""

DEFAULT_SLO = ("ttft_p95<=1s", "tpot_p95<=100ms")
"""An answer begins within a second and then runs at ten tokens a second, about twice as fast as
people read."""

_TOP = 512
_SHORTEST_STAGE_S = 6.0


class FrontDoor(click.Group):
    """The table of commands; a command's module is imported when it is asked for."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; Ctrl-C is told by its own exit code, also while the command is imported.

        Of itself click ends with 1 then, which is an answer here.
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(EXIT_INTERRUPTED)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; of an unknown one tell the nearest that exists."""
        near = difflib.get_close_matches(args[0], COMMANDS, n=1)
        if args[0] not in COMMANDS and near:
            ctx.fail(f"No such command {args[0]!r}: did you mean {near[0]}?")
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The commands in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        if not module.startswith(("loadtests", "headroom")):
            # Commands that only calculate multiply small matrices, for which the threads of BLAS
            # wait longer than they work. Read when numpy loads; engines must not inherit it.
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        found = globals()[name] if module == "headroom" else _attribute(module, name)
        return found if isinstance(found, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The overview, from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


def _attribute(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


@click.group(
    cls=FrontDoor,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Begin with: headroom demo, or headroom plan vllm=http://127.0.0.1:8000 --users 50",
)
@click.version_option(__version__, prog_name="headroom")
def main() -> None:
    """Which LLM backend, and how many GPUs, for my N chat users?

    Headroom makes chat load on your servers, measures what users feel, and plans with its doubt
    stated. Exit codes: 0 done, 1 the answer is no, 2 bad input, 3 inconclusive, 130 interrupted.
    """


ASKED: dict[str, Any] = {"think_time": "10s", "slo": DEFAULT_SLO, "confidence": 0.9}
"""What ``plan`` and ``demo`` ask for where nothing is typed."""

_as_json = click.option("--json", "as_json", is_flag=True, help="The recommendation as JSON.")


@main.command(
    cls=Command,
    epilog="Example: headroom plan vllm=http://10.0.0.5:8000 ollama=http://10.0.0.6:11434#llama3 "
    "--users 200 --think-time 15s --slo 'ttft_p95<=1s' --hardware vllm=1xH100",
)
@click.argument("targets", nargs=-1, metavar="TARGET...")
@question_options(**ASKED, users_required=True)
@click.option("--budget", type=DURATION, default="15m", show_default=True,
              help="Longest time to spend on measuring.")  # fmt: skip
@click.option("--top", type=click.IntRange(1, 100_000), default=None,
              help="Highest concurrency to try [default: the users, at most 512].")  # fmt: skip
@price_option
@slots_option
@click.option("--out", type=click.Path(path_type=Path), default=None,
              help="Run folder; a kept one is continued [default: runs/plan-DATE].")  # fmt: skip
@telemetry_option
@workload_options
@_as_json
@config_option
def plan(
    targets: tuple[str, ...],
    budget: float,
    top: int | None,
    slots: tuple[tuple[str, int], ...],
    out: Path | None,
    telemetry: bool,
    api: str | None,
    hardware: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Measure what the answer needs on each TARGET, recommend, and write the report."""
    import locust  # noqa: F401 - first of all: it patches what the others import

    from loadtests.resolve import resolve_targets, traffic_of

    question, workload = _question(options)
    chosen = resolve_targets(targets, api=api, hardware=hardware, slots=slots)
    _answer(
        chosen, traffic_of(**workload), question,
        budget_s=budget, top=top, out=out or _dated("plan"), as_json=as_json,
        telemetry=telemetry,
    )  # fmt: skip


@main.command(cls=Command, epilog="Example: headroom demo --users 50 --out runs/demo")
@question_options(**ASKED, users=50)
@click.option("--budget", type=DURATION, default="150s", show_default=True,
              help="Longest time to spend on measuring.")  # fmt: skip
@click.option("--slots", type=click.IntRange(2, 64), default=8, show_default=True,
              help="Slots of the batching engines.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default=None,
              help="Run folder [default: runs/demo-DATE].")  # fmt: skip
@_as_json
def demo(budget: float, slots: int, out: Path | None, as_json: bool, **options: Any) -> None:
    """Start real engines on this machine and plan for them: one command to a first answer.

    llama.cpp runs twice, with one slot (one request at a time) and with several (continuous
    batching); vLLM and Ollama join where they are installed. Every engine gets one compute thread.
    """
    import locust  # noqa: F401 - first of all: it patches what the others import

    from loadtests.engines.local import demo_engines
    from loadtests.resolve import resolve_targets, traffic_of

    question, _ = _question({**options, "gpu_cost": ()})
    traffic = traffic_of(prompt_tokens="uniform:20-60", output_tokens="uniform:8-24", seed=1)
    with demo_engines(slots) as engines:
        chosen = resolve_targets(engines)
        _answer(
            chosen, traffic, question,
            budget_s=budget, top=None, out=out or _dated("demo"), as_json=as_json,
        )  # fmt: skip


def _dated(name: str) -> Path:
    return Path("runs") / time.strftime(f"{name}-%Y%m%d-%H%M%S")


def _question(options: dict[str, Any]) -> tuple[PlanContext, dict[str, Any]]:
    """The question that the options state, and the options that are left."""
    slo: tuple[Slo, ...] = options.pop("slo")
    question = PlanContext(
        users=options.pop("users"),
        think_time_s=options.pop("think_time"),
        slo=tuple(objective.text for objective in slo),
        confidence=options.pop("confidence"),
        spare=options.pop("spare"),
        gpu_cost=dict(options.pop("gpu_cost")),
    )
    return question, options


def _answer(
    targets: Sequence[Target],
    traffic: Traffic,
    question: PlanContext,
    *,
    budget_s: float,
    top: int | None,
    out: Path,
    as_json: bool,
    telemetry: bool = True,
) -> None:
    """Measure, print the answer, write the report."""
    from dashboards.report import write_report
    from loadtests.measure.campaign import Campaign
    from planner.answer import answer, exit_code_of, read_runs
    from planner.answer_tables import print_answer
    from planner.config import catalogue_of, own_hardware_of

    context = click.get_current_context()
    catalogue = catalogue_of(context)
    own = own_hardware_of(context)
    with Campaign.open(
        out, targets, traffic, plan=question, telemetry=telemetry, hardware=own
    ) as campaign:
        for session in campaign.sessions.values():
            _say(_described(session.info))
        _measure_what_is_needed(
            campaign, question, budget_s, top or min(question.users, _TOP), catalogue
        )
    recommendation = answer(read_runs([out]), question, catalogue=catalogue)
    report = write_report([out], plan=question, catalogue=catalogue)
    if as_json:
        print_json(recommendation)
    else:
        print_answer(recommendation)
        console().print(f"report  {report}", markup=False, soft_wrap=True)
    _say(f"run     {out}")
    context.exit(exit_code_of(recommendation))


def _say(line: str) -> None:
    """A line on stderr, above the progress bar if there is one."""
    console(stderr=True).print(line, markup=False, soft_wrap=True)


def _described(info: TargetInfo) -> str:
    """One line on a target as it was found."""
    from planner.slots import slots_text

    limits = info.limits
    facts = [f"{info.engine or info.backend} {info.engine_version or ''}".strip()]
    facts += [f"model {info.model}"] if info.model else []
    facts += [slots_text(info.slots)] if info.slots else []
    facts += [f"{limits.context_tokens} tokens of context"] if limits.context_tokens else []
    return "\n  ! ".join((f"{info.name}  {info.url}  {', '.join(facts)}", *info.warnings))


def _measure_what_is_needed(
    campaign: Campaign, question: PlanContext, budget_s: float, top: int, catalogue: Catalogue
) -> None:
    """Stage after stage, each where the answer is least certain."""
    from loadtests.measure.progress import progress_bar
    from loadtests.measure.stage import StageLimits
    from planner.answer import next_step
    from planner.levels import stage_seconds
    from planner.summary import operating_points

    ends_s = time.monotonic() + budget_s
    # A target's rate is unknown before its first level: that one may take a third of its share.
    first_s = budget_s / (3 * len(campaign.sessions))
    quantile = highest_percentile(parse_slo(text) for text in question.slo)
    with progress_bar() as on_progress:
        while (left_s := ends_s - time.monotonic()) > _SHORTEST_STAGE_S / 2:
            run = campaign.run()
            step = next_step(run, question, top=top, catalogue=catalogue)
            if step is None:
                _say("nothing more to measure would change the answer")
                return
            points = [p for p in operating_points(run) if p.target == step.target]
            needed_s = stage_seconds(points, step.level, quantile) or first_s
            limits = StageLimits(
                max_s=min(left_s, max(needed_s, _SHORTEST_STAGE_S)), quantile=quantile
            )
            campaign.measure(
                step.target, "concurrency", step.level, limits, on_progress=on_progress
            )
            _say(f"  {step.target} at {step.level} in flight ({step.why})")
    _say(f"the budget of {format_duration(budget_s)} is spent; measuring ends")


if __name__ == "__main__":
    main()
