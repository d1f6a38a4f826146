"""Ollama: the ``ollama`` program that is installed on this machine, or a server that runs.

Written from Ollama's documentation (environment variables, Modelfile, API) and its recorded
transcripts; the tests against a real one run where ``ollama`` is on the PATH or ``OLLAMA_HOST``
names one.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from loadtests.engines.model import ensure_model
from loadtests.engines.ollama_attach import attach, running_ollama
from loadtests.engines.spec import EngineSpec, Launch
from planner.errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path

    from loadtests.engines.ollama_attach import AttachedOllama

__all__ = ["Ollama", "modelfile"]

_CHATML = """{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""


class Ollama:
    """Starts ``ollama serve`` with a model store of its own and creates the model in it."""

    start_within_s = 120.0

    def attached(self, spec: EngineSpec) -> AttachedOllama | None:
        """The server that ``OLLAMA_HOST`` names with the model in it, where one answers there.

        Raises:
            EngineError: it does not take the model.
        """
        url = running_ollama()
        if url is None:
            return None
        gguf, name, template = _model(spec)
        return attach(url, spec, gguf, name, template)

    def launch(self, spec: EngineSpec, port: int, folder: Path) -> Launch:
        """Say how to start it.

        Raises:
            EngineError: no Ollama is found, or the ``engine`` extra for the demo model is missing.
        """
        program = shutil.which("ollama")
        if program is None:
            raise EngineError(
                "Ollama is not installed: get it from its download page (ollama.com/download), so "
                "that `ollama` is on the PATH, or set OLLAMA_HOST to a server that runs"
            )
        gguf, name, template = _model(spec)
        recipe = folder / "Modelfile"
        recipe.write_text(modelfile(gguf, spec, template), encoding="utf-8")
        host = f"[{spec.host}]" if ":" in spec.host else spec.host
        return Launch(
            command=(program, "serve"),
            setup=((program, "create", name, "-f", str(recipe)),),
            model=name,
            environment={
                "OLLAMA_HOST": f"{host}:{port}",
                "OLLAMA_MODELS": str(folder / "models"),
                "OLLAMA_NUM_PARALLEL": str(spec.parallel),
                "OLLAMA_CONTEXT_LENGTH": str(spec.context),
                "OLLAMA_MAX_LOADED_MODELS": "1",
                "OLLAMA_KEEP_ALIVE": "-1",  # unloading in a pause would spoil the next stage
            },
            facts={"engine": "Ollama", "gpu_layers": "0", "keep_alive": "for ever"},
        )


def _model(spec: EngineSpec) -> tuple[Path, str, str | None]:
    """The model's file, its name on the wire, and its chat template where we must give it."""
    if spec.model is None:
        files = ensure_model("demo")
        return files.gguf, files.name, _CHATML
    return spec.model.resolve(), spec.model.stem.lower(), None


def modelfile(gguf: Path, spec: EngineSpec, template: str | None) -> str:
    """The text of a Modelfile; ``template`` is ``None`` where Ollama shall read the GGUF's own."""
    lines = [
        f"FROM {gguf}",
        f"PARAMETER num_ctx {spec.context}",
        f"PARAMETER num_thread {spec.threads}",
        "PARAMETER num_gpu 0",
    ]
    if template is not None:
        lines.append(f'TEMPLATE """{template}"""')
    return "\n".join(lines) + "\n"
