"""What an engine is to the simulator: its step time, its slots and its memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.errors import InputError

if TYPE_CHECKING:
    from planner.steptime import StepTime

__all__ = ["Engine"]


@dataclass(frozen=True, kw_only=True)
class Engine:
    """The settings of one engine, the same for all its replicas.

    vLLM: ``slots`` is ``max_num_seqs``, ``batch_tokens`` is ``max_num_batched_tokens``, the KV
    cache is one pool of ``kv_tokens`` in blocks, and requests that outgrow it are preempted and
    computed anew. llama.cpp: ``slots`` is ``--parallel``, each with a context of its own
    (``kv_tokens`` is None). Ollama: ``slots`` is ``OLLAMA_NUM_PARALLEL``, ``queue_limit`` is
    ``OLLAMA_MAX_QUEUE``, and the model is loaded on the first request and again once
    ``keep_alive_s`` have passed without one.

    Attributes:
        step: seconds of a step.
        slots: sequences that it decodes at once.
        batch_tokens: most tokens of one step, one for each decoding sequence included.
        chunked_prefill: prompts are read beside decoding, in chunks that fill the step; otherwise
            in steps of their own, whole, while decoding stands still.
        kv_tokens: size of a KV cache that all sequences share; None: every slot has enough.
        kv_block_tokens: unit in which it is given out.
        prefix_caching: blocks that were set free serve again until they are given out (the least
            recently freed first), so that a preempted request or the next turn of a conversation
            reads only what is missing.
        runs_ahead: the next step is composed while one is running (vLLM's async scheduling), so
            whoever comes joins a step later.
        queue_limit: requests that may wait; more are refused.
        load_s: seconds to load the model.
        keep_alive_s: idle seconds after which the model is unloaded.
    """

    step: StepTime
    slots: int
    batch_tokens: int = 2048
    chunked_prefill: bool = True
    kv_tokens: int | None = None
    kv_block_tokens: int = 16
    prefix_caching: bool = True
    runs_ahead: bool = False
    queue_limit: int | None = None
    load_s: float = 0.0
    keep_alive_s: float = math.inf

    def __post_init__(self) -> None:
        """Refuse what cannot run.

        Raises:
            InputError: a setting out of its bounds.
        """
        least = {
            "slots": (self.slots, 1),
            "kv_block_tokens": (self.kv_block_tokens, 1),
            "kv_tokens": (self.kv_tokens, self.kv_block_tokens),
            "queue_limit": (self.queue_limit, 0),
            "load_s": (self.load_s, 0),
            "keep_alive_s": (self.keep_alive_s, 0),
            # A step that is full of decoding would never read a prompt.
            "batch_tokens": (self.batch_tokens, self.slots + 1 if self.chunked_prefill else 1),
        }
        for name, (value, bound) in least.items():
            if value is not None and not value >= bound:
                raise InputError(f"engine setting {name}={value}: it must be at least {bound}")
        if math.isinf(self.load_s):
            raise InputError("engine setting load_s=inf: the model must be loaded some time")
