"""The emulator's options, the same for ``headroom serve emulator`` and for its own process."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loadtests.engines.emulator.faults import FAULTS, parse_fault
from loadtests.engines.emulator.profiles import find_profile
from loadtests.engines.emulator.settings import KINDS, Kind, Settings
from planner.cli import DURATION
from planner.errors import InputError
from planner.simulation.engine import Engine
from planner.steptime import StepTime

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["OPTION_FLAGS", "emulator_options", "parse_arguments", "settings_from"]

DEFAULT_PROFILE = "vllm/h100/llama-3.1-70b/fp8/4gpu"
CUSTOM = "custom"

_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--kind", "speaks", type=click.Choice(KINDS),
                 help="Whose wire formats it speaks [default: vllm]."),
    click.option("--profile", metavar="NAME",
                 help=f"What it stands in for [default: {DEFAULT_PROFILE}]."),
    click.option("--slots", type=click.IntRange(1, 65_536),
                 help="Sequences decoded at once [default: the profile's]."),
    click.option("--step", "base", type=DURATION,
                 help="Fixed time of a step, instead of the profile's. With any of these four the "
                 "others are 0 unless given."),
    click.option("--decode-per-sequence", type=DURATION, help="Time a step takes for each "
                 "sequence in it."),
    click.option("--decode-per-context-token", type=DURATION, help="Time a step takes for each "
                 "token that its sequences hold."),
    click.option("--prefill-per-token", type=DURATION, help="Time a step takes for each prompt "
                 "token that it reads."),
    click.option("--batch-tokens", type=click.IntRange(1, 16_777_216),
                 help="Most tokens of a step [default: 2048, or more where the slots need it]."),
    click.option("--kv-tokens", type=click.IntRange(16, 2**40),
                 help="A KV cache of so many tokens that all share; who outgrows it is preempted "
                 "[default: every slot has enough]."),
    click.option("--queue", type=click.IntRange(0, 1_000_000),
                 help="Requests that may wait: of vLLM always, of Ollama (512) while it loads."),
    click.option("--load", type=DURATION, help="Time to load the model at its first use (Ollama) "
                 "[default: 0s]."),
    click.option("--keep-alive", type=DURATION, help="Idle time after which it is unloaded "
                 "[default: never]."),
    click.option("--replicas", type=click.IntRange(1, 1024),
                 help="Engines behind the one address, each with these slots [default: 1]."),
    click.option("--name", "served", metavar="MODEL",
                 help="Name of its model [default: the profile's, in short]."),
    click.option("--fault", "faults", multiple=True, metavar="KIND=RATE",
                 help=f"What goes wrong, with which share of the requests: {', '.join(FAULTS)}."),
    click.option("--seed", type=click.IntRange(0, 2**32 - 1),
                 help="Of the faults and the words [default: 0]."),
    click.option("--truth", type=click.Path(path_type=Path, dir_okay=False),
                 help="Write each request's true moments to this file, as lines of JSON."),
)  # fmt: skip


def _flags() -> dict[str, str]:
    command = click.Command("flags")
    for option in reversed(_OPTIONS):
        option(command)
    return {param.name: param.opts[0] for param in command.params if param.name}


OPTION_FLAGS = _flags()
"""Parameter -> its option, of all of :func:`emulator_options`."""

_BATCH_TOKENS = 2048


def emulator_options(command: Any) -> Any:
    """Add the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def settings_from(options: dict[str, Any], *, context: int | None) -> Settings:
    """What the options ask for.

    Args:
        options: the values of :data:`OPTION_FLAGS`; ``None`` where not given.
        context: tokens that one request may hold; ``None`` for the default.

    Raises:
        InputError: an unknown profile or fault, or settings that cannot be.
    """
    kind: Kind = options["speaks"] or "vllm"
    _refuse_what_it_has_not(kind, options)
    profile_name, step, slots, model = _what(options)
    slots = options["slots"] or slots
    vllm = kind == "vllm"
    queue = options["queue"]
    engine = Engine(
        step=step,
        slots=slots,
        batch_tokens=options["batch_tokens"] or max(_BATCH_TOKENS, slots + 1),
        kv_tokens=options["kv_tokens"],
        queue_limit=queue if vllm else None,
        load_s=options["load"] or 0.0,
        keep_alive_s=math.inf if options["keep_alive"] is None else options["keep_alive"],
    )
    more: dict[str, Any] = {}
    if context is not None:
        more["context_tokens"] = context
    if kind == "ollama" and queue is not None:
        more["load_queue"] = queue
    return Settings(
        kind=kind,
        profile=profile_name,
        model=options["served"] or model,
        engine=engine,
        replicas=options["replicas"] or 1,
        faults=tuple(parse_fault(text) for text in options["faults"]),
        seed=options["seed"] or 0,
        truth=options["truth"],
        **more,
    )


def parse_arguments(arguments: Sequence[str], *, context: int | None) -> Settings:
    """What the emulator's process makes of these arguments.

    Raises:
        InputError: an unknown option, or as :func:`settings_from`.
    """
    command = emulator_options(click.Command("emulator", callback=lambda **given: given))
    try:
        given = command.main(list(arguments), "emulator", standalone_mode=False)
    except click.ClickException as error:
        raise InputError(f"emulator: {error.format_message()}") from error
    return settings_from(given, context=context)


def _refuse_what_it_has_not(kind: Kind, options: dict[str, Any]) -> None:
    """Refuse settings that this kind of server does not have."""
    for name, kinds in (
        ("queue", {"vllm", "ollama"}),
        ("load", {"ollama"}),
        ("keep_alive", {"ollama"}),
    ):
        if options[name] is not None and kind not in kinds:
            raise InputError(
                f"{OPTION_FLAGS[name]} cannot be given to an emulated {kind}: "
                f"that is an option of {' and '.join(sorted(kinds))}"
            )


def _what(options: dict[str, Any]) -> tuple[str, StepTime, int, str]:
    """Name, step time, slots and model: of the profile, or as given."""
    times = {
        "base_s": options["base"],
        "per_sequence_s": options["decode_per_sequence"],
        "per_context_token_s": options["decode_per_context_token"],
        "per_prompt_token_s": options["prefill_per_token"],
    }
    given = {name: value for name, value in times.items() if value is not None}
    name = options["profile"]
    if given and name is None:
        return CUSTOM, StepTime(**{"base_s": 0.0, **given}), 8, "emulated"
    name = name or DEFAULT_PROFILE
    profile = find_profile(name)
    short = profile.model.split("/")[-1].lower()
    if not given:
        return name, profile.step, profile.slots, short
    own = dict(zip(times, profile.step.coefficients, strict=True))
    return f"{name}+{CUSTOM}", StepTime(**own | given), profile.slots, short
