"""All engines that this machine can run for a demonstration."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import click

from loadtests.engines.base import EngineSpec, open_engine
from planner.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["demo_engines"]

_CONTEXT = 512  # per slot; a demonstration's prompts and answers are short


@contextmanager
def demo_engines(slots: int) -> Iterator[tuple[str, ...]]:
    """Start llama.cpp with one slot and with ``slots``; vLLM and Ollama where they are installed.

    Yields:
        Each as a TARGET, named by its engine and its slots.

    Raises:
        EngineError: llama.cpp cannot be started; nothing is left behind.
    """
    with ExitStack() as stack:
        targets = [_start(stack, "llamacpp", parallel) for parallel in (1, slots)]
        for kind in ("vllm", "ollama"):
            try:
                targets.append(_start(stack, kind, slots))
            except EngineError as error:
                click.echo(f"left out: {error}", err=True)
        yield tuple(targets)


def _start(stack: ExitStack, kind: str, parallel: int) -> str:
    spec = EngineSpec(kind=kind, parallel=parallel, context=_CONTEXT)
    engine = open_engine(spec)
    stack.callback(engine.stop)
    name = f"{kind}-{parallel}-slot{'s' if parallel > 1 else ''}"
    return f"{name}:{kind}={engine.url}#{engine.model}"
