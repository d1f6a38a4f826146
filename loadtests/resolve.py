"""From options as typed to the targets and the traffic that they declare."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
import msgspec
from click.core import ParameterSource

from loadtests.dialects import DEFAULT_API
from loadtests.measure.session import Traffic
from loadtests.targets import BACKENDS, Target, parse_target, unique_names
from loadtests.traffic.arrivals import parse_arrivals
from loadtests.traffic.lengths import parse_lengths
from planner.config import Config, config_of
from planner.errors import InputError
from planner.records import Workload
from planner.units import parse_rate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from loadtests.traffic.arrivals import ArrivalPattern
    from planner.records import LoadKind

__all__ = ["MAX_LOAD", "Load", "load_of", "resolve_targets", "traffic_of", "typed_load"]

MAX_LOAD = 100_000
"""Requests in flight, or users: more is a slip of the pen."""

MAX_RATE_PER_S = 10_000.0
"""Arrivals: a request costs the client some 0.1 ms, so that one process cannot send more."""

_HARDWARE = re.compile(r"(?P<target>[^=]+)=(?:(?P<count>[1-9]\d{0,3})x)?(?P<kind>[^=]{1,100})")
_STRAY_COUNT = re.compile(r"[-+]?[\d.,]+\s*[xX×*]|x(?=[A-Z])|.*\dx\d{1,2}$")
"""Begins or ends a kind with a number of GPUs that nobody would count: ``0xH100``, ``H100x2``."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """One kind of load, and its levels.

    Attributes:
        levels: a stage for each: requests in flight, users, or arrivals per second; ``None``: let
            the curve decide.
        arrivals: the pattern of a rate; ``None`` for a closed loop.
    """

    kind: LoadKind
    levels: tuple[float, ...] | None
    think_time_s: float = 0.0
    arrivals: ArrivalPattern | None = None


_KINDS = (("concurrency",), ("users", "think_time"), ("rate", "arrivals"))
_TYPED = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


def typed_load(
    *,
    concurrency: str | None,
    users: int | None,
    think_time: float | None,
    rate: str | None,
    arrivals: str | None,
) -> Load:
    """The load of the running command, whose options these are.

    Kinds of load exclude each other, and one ``--config`` file serves all commands: its ``users``,
    which ``recommend`` needs, are passed over when ``measure`` is told a ``--concurrency``.

    Raises:
        InputError: as :func:`load_of`.
    """
    source = click.get_current_context().get_parameter_source
    typed = [kind for kind in _KINDS if any(source(name) in _TYPED for name in kind)]
    kept = {name for kind in typed or _KINDS for name in kind}
    return load_of(
        concurrency=concurrency if "concurrency" in kept else None,
        users=users if "users" in kept else None,
        think_time_s=think_time if "think_time" in kept else None,
        rate=rate if "rate" in kept else None,
        arrivals=arrivals if "arrivals" in kept else None,
    )


def load_of(
    *,
    concurrency: str | None = None,
    users: int | None = None,
    think_time_s: float | None = None,
    rate: str | None = None,
    arrivals: str | None = None,
) -> Load:
    """The load that these options declare.

    Raises:
        InputError: two kinds of load at once, an option of another kind, or one that cannot be
            read.
    """
    if sum(given is not None for given in (concurrency, users, rate or arrivals)) > 1:
        raise InputError(
            "--concurrency (in flight), --users (who think) and --rate (arrivals) exclude each "
            "other: give one"
        )
    if users is None and think_time_s is not None:
        raise InputError("--think-time needs --users: nobody else pauses between requests")
    if users is not None:
        return Load(kind="users", levels=(users,), think_time_s=think_time_s or 0.0)
    if rate is not None or arrivals is not None:
        pattern = parse_arrivals(arrivals or "poisson")
        return Load(kind="rate", levels=_rates(rate, pattern), arrivals=pattern)
    if concurrency is None or concurrency.strip() == "auto":
        return Load(kind="concurrency", levels=None)
    parts = re.split(r"[,\s]+", concurrency.strip())
    if not all(re.fullmatch(r"[1-9][0-9]{0,5}", part) and int(part) <= MAX_LOAD for part in parts):
        raise InputError(
            f"--concurrency {concurrency!r} cannot be read: write whole numbers from 1 to "
            f"{MAX_LOAD}, as in 1,2,4,8, or auto"
        )
    return Load(kind="concurrency", levels=tuple(int(part) for part in parts))


def _rates(text: str | None, pattern: ArrivalPattern) -> tuple[float, ...]:
    """Arrivals per second; without a text the trace's own."""
    if text is None:
        own = None if pattern.trace is None else pattern.trace.rate_per_s
        if own is None:
            raise InputError(f"--arrivals {pattern.spec} needs --rate, as in --rate 20/s")
        rates = [own]
    else:
        rates = [parse_rate(part, what="--rate") for part in text.split(",")]
    for rate_per_s in rates:
        if not 0 < rate_per_s <= MAX_RATE_PER_S:
            raise InputError(
                f"--rate {rate_per_s:g}/s is out of bounds: above 0/s, at most {MAX_RATE_PER_S:g}/s"
            )
    return tuple(rates)


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
    texts: Sequence[str],
    *,
    api: str | None = None,
    hardware: Sequence[str] = (),
    slots: Sequence[tuple[str, int]] = (),
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
    declared = _with_hardware(targets, hardware)
    for target in declared:
        if target.hardware is not None and _STRAY_COUNT.match(target.hardware.strip()):
            raise InputError(
                f"hardware {target.hardware!r} of target {target.name!r}: its number of GPUs "
                f"cannot be read; write --hardware {target.name}=2xH100 with a whole number from 1 "
                f"to 9999 (in a config file hardware and gpus_per_replica)"
            )
    return _with_slots(declared, slots)


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
        slots=named.slots,
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
            raise _no_target(f"--hardware {text!r}", by_name)
        by_name[name] = msgspec.structs.replace(
            by_name[name],
            hardware=match["kind"].strip(),
            gpus_per_replica=int(match["count"] or 1),
        )
    return tuple(by_name.values())


def _with_slots(
    targets: tuple[Target, ...], given: Sequence[tuple[str, int]]
) -> tuple[Target, ...]:
    """Targets with what ``--slots`` says of them."""
    by_name = {target.name: target for target in targets}
    for name, slots in given:
        if name not in by_name:
            raise _no_target(f"--slots {name}={slots}", by_name)
        by_name[name] = msgspec.structs.replace(by_name[name], slots=slots)
    return tuple(by_name.values())


def _no_target(what: str, known: Iterable[str]) -> InputError:
    return InputError(
        f"{what} names no target: there are {', '.join(known)} (kinds are {', '.join(BACKENDS)})"
    )
