"""The emulator as an engine that ``start_engine`` starts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from loadtests.engines.emulator.options import OPTION_FLAGS, parse_arguments
from loadtests.engines.spec import EngineSpec, Launch

if TYPE_CHECKING:
    from pathlib import Path

    from loadtests.engines.emulator.settings import Settings

__all__ = ["EmulatorProcess", "arguments_of"]


class EmulatorProcess:
    """Starts ``python -m loadtests.engines.emulator``: no gevent there, and a core of its own."""

    start_within_s = 30.0

    def launch(self, spec: EngineSpec, port: int, folder: Path) -> Launch:  # noqa: ARG002 - protocol
        """Say how to start it. Its slots, model and all else are options in ``spec.arguments``.

        Raises:
            InputError: they cannot be.
        """
        settings = parse_arguments(spec.arguments, context=spec.context)
        return Launch(
            command=(
                sys.executable,
                "-P",
                *("-m", "loadtests.engines.emulator"),
                *("--host", spec.host),
                *("--port", str(port)),
                *("--context", str(spec.context)),
                *spec.arguments,
            ),
            model=settings.model,
            facts={
                "engine": f"emulator of {settings.profile}",
                "slots": str(settings.engine.slots),
            },
            is_ready_when_it_listens=True,
        )


def arguments_of(settings: Settings, options: dict[str, Any]) -> tuple[str, ...]:
    """The options that ask the process for the same settings."""
    own = {**options, "slots": settings.engine.slots, "served": settings.model}
    arguments: list[str] = []
    for name, value in own.items():
        for one in value if isinstance(value, tuple) else (value,):
            if one is not None:
                text = f"{one!r}s" if isinstance(one, float) else str(one)  # durations
                arguments += (OPTION_FLAGS[name], text)
    return tuple(arguments)
