"""What an emulator is asked to be."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from planner.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from loadtests.engines.emulator.faults import FaultRule
    from planner.simulation.engine import Engine

__all__ = ["KINDS", "Kind", "Settings"]

Kind = Literal["llamacpp", "ollama", "vllm"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_OLLAMA_QUEUE = 512
_NAME = re.compile(r"[A-Za-z0-9._:/@+-]{1,200}")  # fit for headers, JSON and labels as it stands
_MOST_REPLICAS = 1024


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One emulated server.

    Attributes:
        kind: whose wire formats and queue rules it has.
        profile: what it stands in for; the mark on every answer.
        model: the name of its model on the wire.
        engine: slots, step time, KV cache and loading, as the planner's simulator has them.
        context_tokens: prompt and answer that one request may hold.
        replicas: engines behind the one address (as vLLM's ``--data-parallel-size``).
        load_queue: requests that Ollama lets wait while the model is loaded
            (``OLLAMA_MAX_QUEUE``); once it is loaded the queue has no bound.
        answer_tokens: length of an answer whose request sets no bound.
        faults: what goes wrong, and how often.
        seed: of the faults and of the words of the answers.
        truth: where each request's true moments are written; None: nowhere.
    """

    kind: Kind
    profile: str
    model: str
    engine: Engine
    context_tokens: int = 8192
    replicas: int = 1
    load_queue: int = _OLLAMA_QUEUE
    answer_tokens: int = 128
    faults: tuple[FaultRule, ...] = field(default=())
    seed: int = 0
    truth: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be served.

        Raises:
            InputError: a setting out of its bounds, or a name that no header can carry.
        """
        bounds = {
            "context": (self.context_tokens, 16, 16_777_216),
            "replicas": (self.replicas, 1, _MOST_REPLICAS),
            "load queue": (self.load_queue, 0, 1_000_000),
            "answer tokens": (self.answer_tokens, 1, self.context_tokens),
        }
        for name, (value, low, high) in bounds.items():
            if not low <= value <= high:
                raise InputError(f"emulator: {name} {value} is outside {low} to {high}")
        for what, text in (("profile", self.profile), ("model", self.model)):
            if not _NAME.fullmatch(text):
                raise InputError(
                    f"emulator: the {what} {text!r} must be 1 to 200 letters, digits or ._:/@+-"
                )
        rate = math.fsum(rule.rate for rule in self.faults)
        if rate > 1 + 1e-9:
            raise InputError(f"emulator: fault rates sum to {rate:g}; they are shares of requests")
