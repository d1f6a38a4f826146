"""Ollama: a real one where ``ollama`` is on the PATH; elsewhere only what we hand to it.

No Ollama could be had where this was written, so that the real test has not run there.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from loadtests.engines.base import EngineSpec, start_engine
from loadtests.engines.ollama import Ollama, modelfile
from tests.loadtests.engines.probes import ask, eventually, family, gone, port_is_free, port_of

if TYPE_CHECKING:
    from loadtests.engines.model import ModelFiles


@pytest.mark.ollama
@pytest.mark.skipif(shutil.which("ollama") is None, reason="ollama is not on the PATH")
def test_real_ollama(tiny_model: ModelFiles) -> None:
    """It lists the model, answers with it natively, and stopping ends all its processes."""
    spec = EngineSpec(kind="ollama", parallel=2, context=512, model=tiny_model.gguf)
    with start_engine(spec) as engine:
        assert [m["name"] for m in ask(engine.url, "/api/tags")["models"]] == [
            f"{engine.model}:latest"
        ]
        processes = family(engine.pid)
        chat = {
            "model": engine.model,
            "messages": [{"role": "user", "content": "count"}],
            "options": {"num_predict": 5},
            "stream": False,
        }
        assert ask(engine.url, "/api/chat", chat)["done"] is True
        assert ask(engine.url, "/api/ps")["models"][0]["context_length"] == 512
    assert eventually(lambda: gone(processes))
    assert port_is_free(port_of(engine.url))


def test_modelfile() -> None:
    """The Modelfile names the file, fixes the options that a reload would change, and the chat."""
    spec = EngineSpec(kind="ollama", context=1024, threads=2)
    assert modelfile(Path("/m/a.gguf"), spec, "T") == (
        "FROM /m/a.gguf\n"
        "PARAMETER num_ctx 1024\n"
        "PARAMETER num_thread 2\n"
        "PARAMETER num_gpu 0\n"
        'TEMPLATE """T"""\n'
    )
    assert "TEMPLATE" not in modelfile(Path("/m/a.gguf"), spec, None)


def test_launch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The server gets its own address, store and slots; the model is created from the Modelfile."""
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    spec = EngineSpec(kind="ollama", parallel=6, model=Path("/m/Own-Model.gguf"))
    launch = Ollama().launch(spec, 4321, tmp_path)
    assert launch.command == ("/usr/bin/ollama", "serve")
    assert launch.model == "own-model"
    assert launch.setup == (
        ("/usr/bin/ollama", "create", "own-model", "-f", str(tmp_path / "Modelfile")),
    )
    assert launch.environment["OLLAMA_HOST"] == "127.0.0.1:4321"
    assert launch.environment["OLLAMA_NUM_PARALLEL"] == "6"
    assert Path(launch.environment["OLLAMA_MODELS"]).parent == tmp_path
    assert (tmp_path / "Modelfile").read_text().startswith("FROM /m/Own-Model.gguf\n")
