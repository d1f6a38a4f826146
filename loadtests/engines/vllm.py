"""vLLM: the ``vllm serve`` that is installed on this machine, often in its own environment."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from loadtests.engines.model import cache_folder, ensure_model
from loadtests.engines.spec import EngineSpec, Launch
from planner.errors import EngineError

__all__ = ["ENVIRONMENT", "Vllm", "find_vllm"]

ENVIRONMENT = ".venv-vllm"
"""The folder of an environment that holds vLLM: in the current or in Headroom's cache folder."""

_QUIET = {
    "HF_HUB_OFFLINE": "1",  # the model lies on this disk
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}


class Vllm:
    """Starts ``vllm serve``."""

    start_within_s = 300.0

    def launch(self, spec: EngineSpec, port: int, folder: Path) -> Launch:  # noqa: ARG002 - protocol
        """Say how to start it.

        Raises:
            EngineError: no vLLM is found, or the ``engine`` extra for the demo model is missing.
        """
        program = find_vllm()
        model, name, options = self._model(spec)
        return Launch(
            command=(
                str(program),
                "serve",
                str(model),
                *("--served-model-name", name),
                *("--host", spec.host),
                *("--port", str(port)),
                *("--max-num-seqs", str(spec.parallel)),
                *("--max-model-len", str(spec.context)),
                *options,
                "--disable-uvicorn-access-log",
            ),
            model=name,
            environment={
                **_QUIET,
                "OMP_NUM_THREADS": str(spec.threads),
                # Read by vLLM's CPU build only. Without "nobind" it takes every core it sees.
                "VLLM_CPU_OMP_THREADS_BIND": "nobind",
                "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),  # GiB
            },
            facts={
                "engine": "vLLM",
                "options": " ".join(options) or "vLLM's defaults",
                "prefix_caching": "vLLM's default",
            },
        )

    def _model(self, spec: EngineSpec) -> tuple[Path, str, tuple[str, ...]]:
        """The model's folder, its name on the wire, and the options that it needs."""
        if spec.model is not None:
            return spec.model, spec.model.name, ()
        files = ensure_model("demo")
        # The same numbers as llama.cpp computes with; compiling would take longer than the demo.
        return files.hf, files.name, ("--dtype", "float32", "--enforce-eager")


def find_vllm() -> Path:
    """The ``vllm`` program: ``VLLM_BIN``, on the PATH, or in an environment ``.venv-vllm``.

    Raises:
        EngineError: there is none; says how to get one.
    """
    if named := os.environ.get("VLLM_BIN"):
        if os.access(named, os.X_OK) and Path(named).is_file():
            return Path(named)
        raise EngineError(f"VLLM_BIN={named} is not a program: give the path of bin/vllm")
    for folder in (Path.cwd(), cache_folder()):
        own = folder / ENVIRONMENT / "bin" / "vllm"
        if os.access(own, os.X_OK):
            return own
    if found := shutil.which("vllm"):
        return Path(found)
    raise EngineError(
        f"vLLM is not installed: python3 -m venv {ENVIRONMENT} && {ENVIRONMENT}/bin/pip install "
        "vllm (for a machine without a GPU: `make vllm` in Headroom's source), or set VLLM_BIN to "
        "an existing bin/vllm"
    )
