"""``headroom parity``."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import click
import numpy as np

from loadtests.measure.inspect import inspect, probe
from loadtests.parity.collect import Collected, Plan, collect
from loadtests.parity.greedy import Greedy
from loadtests.parity.prompts import DEFAULT_PROMPTS, read_prompts
from loadtests.parity.show import print_parity
from loadtests.resolve import resolve_targets
from planner import __version__
from planner.cli import EXIT_DONE, EXIT_INCONCLUSIVE, Command, console, print_json
from planner.config import config_option
from planner.parity import judged, own_parity, pair_parity
from planner.parity_records import ParityReport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtests.targets import Target
    from planner.records import TargetInfo

__all__ = ["parity"]


@click.command(
    cls=Command,
    epilog="Example: headroom parity llamacpp=http://127.0.0.1:8080 vllm=http://127.0.0.1:8000",
)
@click.argument("targets", nargs=-1, metavar="TARGET...")
@click.option(
    "--prompts", type=click.Path(dir_okay=False), default=None,
    help="A text file with one prompt a line.  [default: twelve of Headroom's own]",
)  # fmt: skip
@click.option("--repeat", type=click.IntRange(2, 50), default=5, show_default=True,
              help="How often each prompt is asked.")  # fmt: skip
@click.option("--company", type=click.IntRange(0, 64), default=4, show_default=True,
              help="Ask again with so many in flight, which are batched; 0: do not.")  # fmt: skip
@click.option("--max-tokens", type=click.IntRange(1, 4096), default=64, show_default=True,
              help="Longest answer.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=1, show_default=True,
              help="Sent with each request; also orders the prompts.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Everything found, as JSON.")
@config_option
@click.pass_context
def parity(
    context: click.Context,
    targets: tuple[str, ...],
    prompts: str | None,
    repeat: int,
    company: int,
    max_tokens: int,
    seed: int,
    as_json: bool,
) -> None:
    """Ask each TARGET the same prompts at temperature 0, and see where the texts part.

    Each server is compared with itself first, alone and in company, so that a difference between
    two means something.

    Exit codes: 0 done, whatever was found; 2 bad input, or a server fails; 3 servers differ from
    themselves so much that a pair cannot be told apart or alike.
    """
    asked = DEFAULT_PROMPTS if prompts is None else read_prompts(prompts)
    plan = Plan(prompts=asked, repeat=repeat, company=0 if company == 1 else company)
    chosen = resolve_targets(targets)
    infos = [_ready(target) for target in chosen]
    collected = [
        _collect(target, info, plan, max_tokens=max_tokens, seed=seed)
        for target, info in zip(chosen, infos, strict=True)
    ]
    report = _report(infos, collected, plan, max_tokens=max_tokens, seed=seed)
    if as_json:
        print_json(report)
    else:
        print_parity(report, console())
    compared = len(report.pairs) == len(chosen) * (len(chosen) - 1) // 2
    told = compared and all(pair.verdict != "undecided" for pair in report.pairs)
    context.exit(EXIT_DONE if told else EXIT_INCONCLUSIVE)


def _ready(target: Target) -> TargetInfo:
    """The target, seen to answer.

    Raises:
        TargetError: it does not.
    """
    info = inspect(target)
    probe(target, info)
    return info


def _collect(
    target: Target, info: TargetInfo, plan: Plan, *, max_tokens: int, seed: int
) -> Collected:
    greedy = Greedy(target, info.model, max_tokens=max_tokens, seed=seed)
    # The same orders for every server.
    rng = np.random.default_rng(seed)
    return collect(
        target.name, greedy.ask, plan, rng=rng, on_round=lambda words: click.echo(words, err=True)
    )


def _report(
    infos: Sequence[TargetInfo],
    collected: Sequence[Collected],
    plan: Plan,
    *,
    max_tokens: int,
    seed: int,
) -> ParityReport:
    rng = np.random.default_rng(seed)
    own = tuple(
        own_parity(info.name, c.alone, c.company, failed=len(c.failures), rng=rng)
        for info, c in zip(infos, collected, strict=True)
    )
    pairs = [
        pair_parity((a.name, b.name), x.alone, y.alone, rng=rng)
        for (a, x), (b, y) in combinations(zip(infos, collected, strict=True), 2)
    ]
    return ParityReport(
        headroom_version=__version__,
        targets=tuple(infos),
        prompts=plan.prompts,
        max_tokens=max_tokens,
        repeat=plan.repeat,
        company=plan.company,
        seed=seed,
        own=own,
        pairs=judged([pair for pair in pairs if pair is not None]),
    )
