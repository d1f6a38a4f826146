"""What an engine is asked to be, and how a kind of engine says how to start it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from planner.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Engine", "EngineSpec", "Launch", "url_of"]

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - to reach what listens everywhere


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """One engine as asked for.

    Attributes:
        kind: ``llamacpp``, ``vllm``, ``ollama`` or ``emulator``.
        host: the address it listens on.
        port: its TCP port; 0 for any free one.
        parallel: sequences it decodes at once (slots).
        model: a GGUF file (llama.cpp, Ollama) or a Hugging Face folder (vLLM); ``None`` for
            Headroom's demo model.
        context: tokens of prompt and answer that each slot can hold.
        threads: compute threads. One leaves the load generator its core on a small machine.
        start_within_s: how long it may take to answer its first generation; ``None`` for what is
            usual for the kind.
        arguments: further options for a kind that has options of its own (the emulator).
    """

    kind: str
    host: str = "127.0.0.1"
    port: int = 0
    parallel: int = 4
    model: Path | None = None
    context: int = 2048
    threads: int = 1
    start_within_s: float | None = None
    arguments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse numbers that no engine can be started with.

        Raises:
            InputError: one is out of its bounds.
        """
        bounds = {
            "port": (0, 65_535),
            "parallel": (1, 4096),
            "context": (16, 16_777_216),
            "threads": (1, 4096),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"{name} {value} of {self.kind} is outside {low} to {high}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How one engine is started: data only, so that one piece of code starts them all.

    Attributes:
        command: the program and its arguments.
        model: the name by which requests ask for the model.
        environment: variables to add to ours.
        setup: commands to run, in the same environment, once it listens.
        facts: settings worth knowing beside a measurement.
        is_ready_when_it_listens: no generation is needed to know that it is ready.
    """

    command: tuple[str, ...]
    model: str
    environment: dict[str, str] = field(default_factory=dict)
    setup: tuple[tuple[str, ...], ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    is_ready_when_it_listens: bool = False


class Engine(Protocol):
    """A kind of engine: finds its program and model, and says how to launch them."""

    start_within_s: float
    """How long a start may usually take."""

    def launch(self, spec: EngineSpec, port: int, folder: Path) -> Launch:
        """Say how to start it; ``folder`` is its own and goes away when it stops.

        Raises:
            EngineError: it is not installed (says how to get it), or the model is not there.
        """
        ...


def url_of(host: str, port: int) -> str:
    """Where a server that listens on an address is reached from this machine."""
    reachable = _ANY_ADDRESS.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
