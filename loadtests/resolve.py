"""From options as typed to the targets and the traffic that they declare."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click
import msgspec

from loadtests.dialects import DEFAULT_API
from loadtests.measure.session import Traffic
from loadtests.targets import BACKENDS, Target, parse_target, unique_names
from loadtests.traffic.lengths import parse_lengths
from planner.config import Config, config_of
from planner.errors import InputError
from planner.records import Workload

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["resolve_targets", "traffic_of"]

_HARDWARE = re.compile(r"(?P<target>[^=]+)=(?:(?P<count>[1-9]\d{0,3})x)?(?P<kind>[^=]{1,100})")


def traffic_of(
    *,
    prompt_tokens: str,
    output_tokens: str,
    seed: int,
    temperature: float = 0.8,
    natural_stop: bool = False,
    allow_cache: bool = False,
) -> Traffic:
    """The traffic that these options declare.

    Raises:
        InputError: a distribution cannot be read.
    """
    return Traffic(
        workload=Workload(
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            temperature=temperature,
            ignore_eos=not natural_stop,
            vary_prompts=not allow_cache,
        ),
        prompt_tokens=parse_lengths(prompt_tokens, what="--prompt-tokens"),
        output_tokens=parse_lengths(output_tokens, what="--output-tokens"),
        seed=seed,
    )


def resolve_targets(
    texts: Sequence[str], *, api: str | None = None, hardware: Sequence[str] = ()
) -> tuple[Target, ...]:
    """Targets from what was typed: each ``KIND=URL[#MODEL]`` or a name in the ``--config`` file.

    Raises:
        InputError: none was given, or one cannot be read.
    """
    config = config_of(click.get_current_context())
    if not texts:
        texts = tuple(config.targets)
    if not texts:
        raise InputError("no target: name at least one, for example vllm=http://127.0.0.1:8000")
    targets = unique_names([_resolve(text, config, api) for text in texts])
    return _with_hardware(targets, hardware)


def _resolve(text: str, config: Config, api: str | None) -> Target:
    named = config.targets.get(text)
    if named is None:
        if config.targets and "=" not in text:
            known = ", ".join(config.targets)
            raise InputError(f"target {text!r} is not in the config file, which has {known}")
        target = parse_target(text)
        return msgspec.structs.replace(target, api=api or DEFAULT_API[target.backend])
    model = f"#{named.model}" if named.model else ""
    target = parse_target(f"{text}:{named.kind}={named.url}{model}")
    return msgspec.structs.replace(
        target,
        api=api or named.api or DEFAULT_API[target.backend],
        hardware=named.hardware,
        gpus_per_replica=named.gpus_per_replica,
    )


def _with_hardware(targets: tuple[Target, ...], given: Sequence[str]) -> tuple[Target, ...]:
    """Targets with what ``--hardware`` says of them."""
    by_name = {target.name: target for target in targets}
    for text in given:
        match = _HARDWARE.fullmatch(text.strip())
        if not match:
            raise InputError(
                f"--hardware {text!r} cannot be read: write TARGET=KIND or TARGET=NUMBERxKIND, "
                "for example vllm=2xH100"
            )
        name = match["target"].strip()
        if name not in by_name:
            raise InputError(
                f"--hardware {text!r} names no target: there are {', '.join(by_name)} "
                f"(kinds are {', '.join(BACKENDS)})"
            )
        by_name[name] = msgspec.structs.replace(
            by_name[name],
            hardware=match["kind"].strip(),
            gpus_per_replica=int(match["count"] or 1),
        )
    return tuple(by_name.values())
