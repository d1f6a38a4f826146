"""What would spoil a measurement of a server, and the remedy of each. Rules only: nothing is asked.

A rule is a function from the signs to a caution, or to none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loadtests.measure.inspect import larger_context
from planner.diagnosis import Caution

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtests.doctor.local import LocalEngine
    from loadtests.targets import Backend
    from planner.records import TargetInfo

__all__ = ["RULES", "Signs", "cautions_of"]


@dataclass(frozen=True, kw_only=True)
class Signs:
    """Everything that the rules look at.

    Attributes:
        info: the server, as it was after a first answer.
        named: the kind that the user named; ``None`` for a bare address.
        model_named: whether the user named the model.
        models: how many models it lists.
        can: capability -> whether the server has it (``None``: not told).
        was_loaded: whether the model was in memory before our first question; ``None``: not told.
        other_loaded: further models in its memory.
        busy: requests that ran or waited there before our first one; ``None``: not told.
        cached_tokens: what the prefix cache gave for a repeated prompt; ``None``: not told.
        failed: why the first generation failed; ``None``: it did not.
        needed_tokens: the longest prompt and answer of the workload together.
        loopback: whether its address is this machine's own.
        local: its process, where this machine can see it.
        client_cores: processors that this process may use.
    """

    info: TargetInfo
    named: Backend | None
    model_named: bool
    models: int
    can: dict[str, bool | None]
    was_loaded: bool | None
    other_loaded: int
    busy: int | None
    cached_tokens: int | None
    failed: str | None
    needed_tokens: int
    loopback: bool
    local: LocalEngine | None
    client_cores: frozenset[int]


def cautions_of(signs: Signs) -> tuple[Caution, ...]:
    """The cautions that the signs call for, in the order of the rules."""
    return tuple(found for rule in RULES if (found := rule(signs)) is not None)


def _wrong_kind(signs: Signs) -> Caution | None:
    found, named = signs.info.backend, signs.named
    if named in {None, found, "openai"} and not (named == "openai" != found):
        return None
    return Caution(
        kind="wrong_kind",
        message=f"it was named {named} and is {found}",
        remedy=f"write {found}={signs.info.url}: only so are its own figures read",
    )


def _no_generation(signs: Signs) -> Caution | None:
    if signs.failed is None:
        return None
    return Caution(
        kind="no_generation",
        message=f"it fails a plain chat: {signs.failed}",
        remedy="mend that first: nothing can be measured without an answer",
    )


def _emulated(signs: Signs) -> Caution | None:
    if signs.info.emulated is None:
        return None
    return Caution(
        kind="emulator",
        message=f"it is Headroom's emulator of {signs.info.emulated}: it measures no server",
        remedy="take a real server for anything but a rehearsal",
    )


def _one_at_a_time(signs: Signs) -> Caution | None:
    slots = signs.info.limits.slots
    if slots != 1 and signs.can.get("parallel") is not False:
        return None
    remedy = {
        "ollama": "set OLLAMA_NUM_PARALLEL=4 (or more) for the server and start it anew; some "
        "model families stay at one",
        "llamacpp": "start it with -np 4 (or more) and -c of so many contexts",
        "vllm": "start it with a larger --max-num-seqs",
    }
    if signs.info.backend == "ollama":
        what = "it answers one request at a time, as with OLLAMA_NUM_PARALLEL=1"
    else:
        what = "it answers one request at a time"
    return Caution(
        kind="one_slot",
        message=f"{what}: everybody else waits",
        remedy=remedy.get(signs.info.backend, "give it more than one sequence at once"),
    )


def _not_loaded(signs: Signs) -> Caution | None:
    if signs.was_loaded is not False:
        return None
    return Caution(
        kind="not_loaded",
        message="the model was not loaded: a first request waits for that (this look loaded it)",
        remedy="keep it loaded with OLLAMA_KEEP_ALIVE=-1, or measure within its five minutes",
    )


def _other_models(signs: Signs) -> Caution | None:
    if not signs.other_loaded:
        return None
    return Caution(
        kind="other_models",
        message=f"{signs.other_loaded} more in its memory: models share it and push each other out",
        remedy="unload them with ollama stop MODEL",
    )


def _model_chosen(signs: Signs) -> Caution | None:
    if signs.models < 2 or signs.model_named or signs.info.backend == "llamacpp":  # noqa: PLR2004 - more than one
        return None  # a llama.cpp server has one model, whatever it is called
    return Caution(
        kind="model_chosen",
        message=f"it has {signs.models} models and none was named: {signs.info.model} is looked at",
        remedy=f"name one: {signs.info.backend}={signs.info.url}#MODEL",
    )


def _busy(signs: Signs) -> Caution | None:
    if not signs.busy:
        return None
    return Caution(
        kind="busy",
        message=f"{signs.busy} requests ran or waited there before ours: somebody else uses it",
        remedy="measure when it is idle, or a replica of it that nobody else knows",
    )


def _prefix_cache(signs: Signs) -> Caution | None:
    if not signs.cached_tokens and signs.info.settings.get("prefix caching") != "True":
        return None
    off = {"vllm": ", or start it with --no-enable-prefix-caching"}.get(signs.info.backend, "")
    return Caution(
        kind="prefix_cache",
        message="its prefix cache is on: repeated prompts are answered sooner than new ones",
        remedy=f"let prompts differ, as Headroom's do{off}",
    )


def _context_small(signs: Signs) -> Caution | None:
    context, needed = signs.info.limits.context_tokens, signs.needed_tokens
    if context is None or needed <= context:
        return None
    larger = larger_context(signs.info, needed)
    return Caution(
        kind="context_small",
        message=f"a request may hold {context} tokens; the workload needs up to {needed}",
        remedy=f"start it with {larger}, or ask for less by --prompt-tokens and --output-tokens",
    )


def _shared_context(signs: Signs) -> Caution | None:
    limits, needed = signs.info.limits, signs.needed_tokens
    slots, context = limits.slots or 1, limits.context_tokens
    shares = signs.local is not None and signs.local.shares_context
    if not shares or slots == 1 or context is None or slots * needed <= context:
        return None
    return Caution(
        kind="shared_context",
        message=f"its {slots} slots share one context of {context} tokens: when their requests "
        "fill it together, all of them fail",
        remedy=f"start it with -np {slots} and {larger_context(signs.info, needed)}",
    )


_NO_RELEASE = re.compile(
    r"debug|dirty|unknown|\bdev|\.dev|[0-9]rc[0-9]|^b0\b|^0(\.0)*$", re.IGNORECASE
)


def _build(signs: Signs) -> Caution | None:
    version = signs.info.engine_version
    if version is None or not _NO_RELEASE.search(version):
        return None
    return Caution(
        kind="no_release",
        message=f"its version {version!r} is no release's: it may be a debug build, or one without "
        "this processor's vector instructions",
        remedy="measure the build that will serve, made with optimisation for its machine",
    )


def _eager(signs: Signs) -> Caution | None:
    if signs.local is None or signs.local.settings.get("enforce eager") != "yes":
        return None
    return Caution(
        kind="eager",
        message="vLLM runs with --enforce-eager: no compiled graphs, so slower than it can be",
        remedy="leave the option out, unless production has it",
    )


def _shared_cores(signs: Signs) -> Caution | None:
    if not signs.loopback:
        return None
    if signs.local is None:
        return Caution(
            kind="shared_cores",
            message="its address is this machine's: unless that is a tunnel, both share processors",
            remedy=_APART,
        )
    shared = signs.local.cores & signs.client_cores
    if not shared:
        return None
    threads = signs.local.settings.get("threads")
    told = f", with {threads} compute thread{'' if threads == '1' else 's'}" if threads else ""
    return Caution(
        kind="shared_cores",
        message=f"it may run on {len(shared)} of the client's {len(signs.client_cores)} "
        f"processors{told}: each slows the other",
        remedy=_APART,
    )


_APART = (
    "run the client on another machine, or keep them apart with taskset; else leave the client a "
    "processor by the engine's number of threads"
)


def _open_door(signs: Signs) -> Caution | None:
    if signs.loopback or signs.can.get("authentication") is not False:
        return None
    return Caution(
        kind="no_key",
        message="it answers without a key: anybody who reaches it can use it while you measure",
        remedy="give it a key and set it in HEADROOM_API_KEY, or make sure that nobody reaches it",
    )


def _no_usage(signs: Signs) -> Caution | None:
    if signs.can.get("stream_usage") is not False or signs.info.backend == "ollama":
        return None  # Ollama is measured by its native API, which always counts
    return Caution(
        kind="no_usage",
        message="its streams carry no usage: tokens are counted by chunks, which is too few",
        remedy="switch stream_options.include_usage on in the gateway or the server",
    )


def _no_metrics(signs: Signs) -> Caution | None:
    if signs.can.get("metrics") is not False or signs.info.backend not in {"llamacpp", "vllm"}:
        return None
    how = "--metrics" if signs.info.backend == "llamacpp" else "its metrics on"
    return Caution(
        kind="no_metrics",
        message="it shows no metrics: its own account cannot stand beside the client's",
        remedy=f"start it with {how}",
    )


RULES: tuple[Callable[[Signs], Caution | None], ...] = (
    _no_generation,
    _emulated,
    _wrong_kind,
    _one_at_a_time,
    _context_small,
    _shared_context,
    _not_loaded,
    _other_models,
    _model_chosen,
    _busy,
    _prefix_cache,
    _build,
    _eager,
    _shared_cores,
    _open_door,
    _no_usage,
    _no_metrics,
)
"""Every rule, the worst first. A new one is one function and one entry."""
