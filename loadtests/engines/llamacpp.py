"""llama.cpp: its own HTTP server, embedded by the ``xllamacpp`` wheel."""

from __future__ import annotations

import sys
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING

from loadtests.engines import llamacpp_server
from loadtests.engines.model import ensure_model
from loadtests.engines.spec import EngineSpec, Launch
from planner.errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LlamaCpp"]


class LlamaCpp:
    """Starts ``llamacpp_server`` in a process of its own."""

    start_within_s = 120.0

    def launch(self, spec: EngineSpec, port: int, folder: Path) -> Launch:  # noqa: ARG002 - protocol
        """Say how to start it.

        Raises:
            EngineError: the ``engine`` extra is not installed.
        """
        # Not imported: its 100 MB belong into the engine's process, not into the load generator's.
        if find_spec("xllamacpp") is None:
            raise EngineError(
                "the embedded llama.cpp is not installed: pip install 'headroom-llm[engine]' "
                "(or run your own llama-server and measure its URL)"
            )
        model = spec.model
        if model is None:
            files = ensure_model("demo")
            model, name = files.gguf, files.name
        else:
            name = model.stem
        return Launch(
            # Safe path (-P): nothing in the current folder can stand in for a module.
            command=(
                sys.executable,
                "-P",
                llamacpp_server.__file__,
                *("--model", str(model)),
                *("--name", name),
                *("--host", spec.host),
                *("--port", str(port)),
                *("--parallel", str(spec.parallel)),
                *("--context", str(spec.context)),
                *("--threads", str(spec.threads)),
            ),
            model=name,
            facts={
                "engine": f"llama.cpp (xllamacpp {metadata.version('xllamacpp')})",
                "gpu_layers": "0",
                "prompt_cache": "in the slots only",
            },
        )
