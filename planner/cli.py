"""What every command shares: parameter types with units, one error exit, one JSON printer."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from planner.errors import HeadroomError, Refused
from planner.phrases import one_line
from planner.units import parse_duration, parse_price, parse_rate, parse_slo, parse_slots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

__all__ = [
    "DURATION",
    "EXIT_DONE",
    "EXIT_INCONCLUSIVE",
    "EXIT_INPUT",
    "EXIT_INTERRUPTED",
    "EXIT_NO",
    "PRICE",
    "RATE",
    "SLO",
    "SLOTS",
    "Command",
    "console",
    "price_option",
    "print_json",
    "question_options",
    "slots_option",
]

EXIT_DONE, EXIT_NO, EXIT_INPUT, EXIT_INCONCLUSIVE, EXIT_INTERRUPTED = 0, 1, 2, 3, 130

T = TypeVar("T")


class Quantity(click.ParamType[Any]):
    """A click parameter read by one of the functions of ``planner.units``."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        """Name the type for help texts."""
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse text; a value that is no text is a default and stands as it is."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except HeadroomError as error:
            self.fail(str(error), param, ctx)


DURATION = Quantity("duration", parse_duration)
RATE = Quantity("rate", parse_rate)
PRICE = Quantity("price", parse_price)
SLOTS = Quantity("slots", parse_slots)
SLO = Quantity("slo", parse_slo)


_QUESTION: tuple[tuple[str, click.ParamType[Any], str, str], ...] = (
    ("users", click.IntRange(1, 1_000_000), "People to serve.", ""),
    (
        "think_time",
        DURATION,
        "Mean pause of a user between an answer and the next request.",
        "as the run was planned for, or none",
    ),
    (
        "slo",
        SLO,
        "Objective, as ttft_p95<=1s; repeatable, all must hold.",
        "as the run was planned for",
    ),
    (
        "confidence",
        click.FloatRange(0.5, 1, min_open=True, max_open=True),
        "How sure the answer must be.",
        "as the run was planned for, or 0.9",
    ),
    (
        "spare",
        click.IntRange(0, 100),
        "Replicas that may fail.",
        "1 where more than one is needed",
    ),
)
"""Of each option that states the question: parameter, type, help, and what an unset one means."""


def question_options(
    *, users_required: bool = False, **defaults: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options that state the question.

    Args:
        users_required: whether there is no answer without a number of users.
        defaults: parameter -> default, shown in the help. Without one the parameter is ``None`` (no
            objectives: empty), and the question that a run was made for completes it.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name, kind, text, unset in reversed(_QUESTION):
            given = name in defaults
            command = click.option(
                f"--{name.replace('_', '-')}",
                type=kind,
                multiple=kind is SLO,
                metavar="FIGURE<=BOUND" if kind is SLO else None,
                required=users_required and name == "users",
                show_default=given,
                help=text if given or not unset else f"{text}  [default: {unset}]",
                **{"default": defaults[name]} if given else {},
            )(command)
        return command

    return decorate


def price_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--gpu-cost``."""
    return click.option(
        "--gpu-cost",
        type=PRICE,
        multiple=True,
        metavar="KIND=PRICE",
        help="Price per hour of a GPU by hardware (of a replica by target name), as in H100=2.5.",
    )(command)


def slots_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--slots``."""
    return click.option(
        "--slots",
        type=SLOTS,
        multiple=True,
        metavar="TARGET=NUMBER",
        help="Requests that one replica of a target answers at once (vLLM's --max-num-seqs, "
        "OLLAMA_NUM_PARALLEL), as in vllm=256. Repeatable.  [default: as the server says, or as "
        "its telemetry shows]",
    )(command)


class Command(click.Command):
    """A click command whose expected failures are one line on stderr and an exit code."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; a file that an option names may be wrong too."""
        with _one_line(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _one_line(ctx):
            return super().invoke(ctx)


@contextmanager
def _one_line(ctx: click.Context) -> Iterator[None]:
    """Translate our errors and Ctrl-C at this one edge."""
    try:
        yield
    except HeadroomError as error:
        click.echo(one_line(f"headroom {ctx.info_name}: {error}"), err=True)
        if isinstance(error, Refused):
            for step in error.next_measurements:
                click.echo(one_line(f"  next: {step}"), err=True)
        ctx.exit(error.exit_code)
    except KeyboardInterrupt as error:
        kept = str(error)  # what was saved, where something was
        click.echo(f"interrupted{': ' if kept else ''}{kept}", err=True)
        ctx.exit(EXIT_INTERRUPTED)


def console(*, stderr: bool = False) -> Console:
    """A rich console: plain when it is not a terminal, and ``NO_COLOR`` is obeyed."""
    from planner.terminal import PlainConsole

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else 100
    return PlainConsole(file=stream, width=width, highlight=False, soft_wrap=False)


def print_json(document: Any) -> None:
    """Print one JSON document on stdout. Not-a-number is refused by msgspec (it becomes null)."""
    click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
