"""``headroom doctor``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from loadtests.doctor.examine import examine
from loadtests.doctor.show import print_diagnoses
from loadtests.resolve import resolve_targets
from loadtests.stream import Endpoint
from loadtests.traffic.lengths import parse_lengths
from planner import __version__
from planner.cli import EXIT_DONE, EXIT_INPUT, EXIT_NO, Command, console, print_json
from planner.config import config_option
from planner.diagnosis import Diagnosis, DoctorReport, Undiagnosed
from planner.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtests.targets import Target

__all__ = ["doctor"]

_BARE = re.compile(r"https?://", re.IGNORECASE)


@click.command(
    cls=Command,
    epilog="Example: headroom doctor http://127.0.0.1:8000 ollama=http://127.0.0.1:11434#llama3:8b",
)
@click.argument("targets", nargs=-1, metavar="TARGET...")
@click.option(
    "--prompt-tokens", default="lognormal:mean=256,cv=0.6,max=1024", show_default=True, metavar="D",
    help="Prompt lengths that the context must hold, as in headroom measure.",
)  # fmt: skip
@click.option(
    "--output-tokens", default="lognormal:mean=128,cv=0.6,max=512", show_default=True, metavar="D",
    help="Answer lengths that the context must hold.",
)  # fmt: skip
@click.option("--strict", is_flag=True, help="Exit with 1 if there is any warning.")
@click.option("--json", "as_json", is_flag=True, help="Everything found, as JSON.")
@config_option
@click.pass_context
def doctor(
    context: click.Context,
    targets: tuple[str, ...],
    prompt_tokens: str,
    output_tokens: str,
    strict: bool,
    as_json: bool,
) -> None:
    """Find out what each TARGET is and can, and what would spoil a measurement of it.

    A TARGET may be a bare address here: the doctor tells the kind. Each is asked some twenty short
    questions of at most 16 tokens; the time for them is bounded.

    Exit codes: 0 looked at, whatever the warnings; 1 with --strict, there are warnings; 2 bad
    input, or a target could not be looked at (the others still are).
    """
    longest = [
        parse_lengths(prompt_tokens, what="--prompt-tokens").maximum,
        parse_lengths(output_tokens, what="--output-tokens").maximum,
    ]
    report = _look_at_all(_resolved(targets), sum(longest))
    if as_json:
        print_json(report)
    else:
        print_diagnoses(report.diagnoses, console())
    for failure in report.failures:
        click.echo(f"headroom doctor: {failure.why}", err=True)
    warned = strict and any(diagnosis.cautions for diagnosis in report.diagnoses)
    context.exit(EXIT_INPUT if report.failures else EXIT_NO if warned else EXIT_DONE)


def _resolved(texts: Sequence[str]) -> list[tuple[Target, bool]]:
    """Each target, and whether it was given as a bare address.

    Raises:
        InputError: one cannot be read.
    """
    named = [f"{_name_of(text)}:openai={text}" if _BARE.match(text) else text for text in texts]
    found = resolve_targets(named)
    bare = [_BARE.match(text) is not None for text in texts] or [False] * len(found)
    return list(zip(found, bare, strict=True))


def _name_of(url: str) -> str:
    """A name for a bare address.

    Raises:
        InputError: it is no address.
    """
    authority = Endpoint.parse(url.partition("#")[0]).full_authority
    return re.sub(r"[^A-Za-z0-9.]+", "-", authority).strip("-.")[:64]


def _look_at_all(targets: Sequence[tuple[Target, bool]], needed_tokens: int) -> DoctorReport:
    diagnoses: list[Diagnosis] = []
    failures: list[Undiagnosed] = []
    for target, bare in targets:
        try:
            diagnoses.append(examine(target, bare=bare, needed_tokens=needed_tokens))
        except TargetError as error:
            failures.append(Undiagnosed(name=target.name, url=target.url, why=str(error)))
    return DoctorReport(
        headroom_version=__version__, diagnoses=tuple(diagnoses), failures=tuple(failures)
    )
