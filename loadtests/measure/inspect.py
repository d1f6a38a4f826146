"""Look at a target before measuring it: what it is, what it holds, and whether it answers.

Every fact comes from the server's own mouth and is checked and bounded on its way in: a server
may lie or break, but it cannot crash Headroom or write to a terminal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from loadtests.dialects import dialect_of
from loadtests.dialects.base import Chat, Message
from loadtests.measure.assemble import RequestLabel, assemble
from loadtests.measure.backends import EXPLAIN, ModelList, OllamaVersion, Properties
from loadtests.measure.inquiry import EMULATOR_HEADER, INQUIRY_TIMEOUTS, Inquiry, clean
from loadtests.stream import Clock, StreamClient, Timeouts
from loadtests.targets import api_key
from planner.errors import TargetError

if TYPE_CHECKING:
    from loadtests.targets import Backend, Target
    from planner.records import RequestRecord, TargetInfo

__all__ = ["PROBE_TIMEOUTS", "check_fits", "identify", "inspect", "larger_context", "probe"]

PROBE_TIMEOUTS = Timeouts(first_byte_s=300.0, idle_s=60.0, total_s=400.0)
"""Long enough for a large model to be loaded by the first request."""

_NAMES: dict[Backend, str] = {
    "llamacpp": "a llama.cpp server",
    "ollama": "an Ollama server",
    "vllm": "a vLLM server",
    "openai": "an OpenAI-compatible server",
}


def inspect(target: Target, *, timeouts: Timeouts = INQUIRY_TIMEOUTS) -> TargetInfo:
    """Ask a server what it is and what it can hold.

    Ollama knows a model's context only once the model is loaded: look after a generation.

    Raises:
        TargetError: unreachable, no HTTP, another kind of server, model not there, key missing.
    """
    inquiry = Inquiry(target, timeouts)
    found = identify(inquiry)
    if target.backend not in {found, "openai"}:
        right = f"{found}={target.url}"
        raise inquiry.fault(f"is {_NAMES[found]}, not {_NAMES[target.backend]}: use {right}")
    info = _marked(inquiry, EXPLAIN[target.backend](inquiry))
    if found == target.backend:
        return info
    hint = f"this is {_NAMES[found]}: {found}={target.url} would show its slots and context"
    return msgspec.structs.replace(info, warnings=(*info.warnings, hint))


def identify(inquiry: Inquiry) -> Backend:
    """What kind of server it is, by the pages that only this kind has.

    Raises:
        TargetError: unreachable, a key is missing, or none of the known kinds.
    """
    models = inquiry.ask("/v1/models", ModelList)
    owners = {model.owned_by for model in models.data} if models else set()
    if models and models.headroom_emulator:
        inquiry.marks.add(clean(models.headroom_emulator))
    if "vllm" in owners:
        return "vllm"
    if "llamacpp" in owners or inquiry.ask("/props", Properties) is not None:
        return "llamacpp"
    if inquiry.ask("/api/version", OllamaVersion) is not None:
        return "ollama"
    if models:
        return "openai"
    if inquiry.wants_key("/v1/models"):
        raise inquiry.key_fault(401)
    if inquiry.target.backend == "openai" and inquiry.target.model:
        return "openai"  # some gateways list no models; the probe will tell
    raise inquiry.fault(
        "speaks HTTP but is neither llama.cpp, Ollama, vLLM nor OpenAI-compatible "
        "(no /v1/models, /props or /api/version): is the path of the address right?"
    )


def _marked(inquiry: Inquiry, info: TargetInfo) -> TargetInfo:
    """The target with what it emulates, so that nobody takes its figures for a server's."""
    profile = min(inquiry.marks, default=None)
    if profile is None:
        return info
    warning = f"this is Headroom's emulator of {profile}: its figures measure no server"
    return msgspec.structs.replace(info, emulated=profile, warnings=(warning, *info.warnings))


def check_fits(info: TargetInfo, max_prompt_tokens: int, max_output_tokens: int) -> None:
    """Refuse a workload whose longest request does not fit into the target's context.

    Args:
        info: the target; where it does not report its context, nothing can be checked.
        max_prompt_tokens: the longest prompt, in tokens.
        max_output_tokens: the longest answer, in tokens.

    Raises:
        TargetError: with both numbers and the remedy.
    """
    context, needed = info.limits.context_tokens, max_prompt_tokens + max_output_tokens
    if context is None or needed <= context:
        return
    raise TargetError(
        f"target {info.name!r} ({info.url}) holds {context} tokens per request, but prompts of up "
        f"to {max_prompt_tokens} with answers of up to {max_output_tokens} tokens need {needed}: "
        f"shorten them, or start the server with {larger_context(info, needed)}"
    )


def larger_context(info: TargetInfo, needed: int) -> str:
    """The setting of its engine with which a target can hold so many tokens per request."""
    return {
        "llamacpp": f"-c {needed * (info.limits.slots or 1)} (the total over all slots)",
        "vllm": f"--max-model-len {needed}",
        "ollama": f"OLLAMA_CONTEXT_LENGTH={needed}",
    }.get(info.backend, "a larger context")


def probe(
    target: Target,
    info: TargetInfo,
    *,
    prompt: str = "Say hello.",
    max_tokens: int = 8,  # the first tokens may have no text of their own
    timeouts: Timeouts = PROBE_TIMEOUTS,
) -> RequestRecord:
    """One tiny real generation: only then does a target count as working. It also loads the model.

    Returns:
        The request as any other is recorded: tokens, first token, the server's own timings.

    Raises:
        TargetError: refused, failed, or a stream that brought no token.
    """
    inquiry = Inquiry(target, timeouts)
    dialect = dialect_of(target.backend, target.api)
    message = Message(role="user", content=prompt)
    chat = Chat(messages=(message,), model=info.model, max_tokens=max_tokens)
    clock = Clock()
    client = StreamClient(target.endpoint, clock, timeouts)
    exchange = client.exchange(dialect.encode(chat, api_key=api_key(target)))
    label = RequestLabel(
        id=0, stage=-1, target=target.name, backend=target.backend, user=0, turn=0, scheduled_s=0.0
    )
    record = assemble(label, exchange, dialect)
    if exchange.failure is not None:
        raise inquiry.network_fault(exchange)
    if EMULATOR_HEADER in exchange.headers and info.emulated is None:
        raise inquiry.fault("is answered by an emulator although its pages do not say so")
    if record.error_kind == "unauthorized":
        raise inquiry.key_fault(record.http_status)
    if record.status != "ok":
        why = f"{record.error_kind}: {clean(record.error)}"
        raise inquiry.fault(f"failed a test generation ({why})")
    if record.first_token_s is None:
        raise inquiry.fault("ended a test generation without a single token: its stream is empty")
    return record
