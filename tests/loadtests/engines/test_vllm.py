"""A real vLLM, where one is installed (``VLLM_BIN``, PATH or ``.venv-vllm``)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from loadtests.engines.base import EngineSpec
from loadtests.engines.facts import engine_facts
from loadtests.engines.vllm import Vllm, find_vllm
from planner.errors import EngineError
from tests.loadtests.engines.probes import ask

if TYPE_CHECKING:
    from loadtests.engines.base import RunningEngine


@pytest.mark.vllm
def test_real_vllm(vllm: RunningEngine) -> None:
    """It answers under its name within its context, with as many tokens as asked."""
    models = ask(vllm.url, "/v1/models")["data"]
    assert [(m["id"], m["max_model_len"]) for m in models] == [("headroom-demo", 512)]
    facts = engine_facts(vllm, "vllm")
    assert (facts.engine, facts.slots, facts.context_tokens) == ("vLLM", 2, 512)
    assert facts.version is not None
    assert facts.memory_bytes is not None
    chat = {
        "model": vllm.model,
        "messages": [{"role": "user", "content": "count"}],
        "max_tokens": 9,
        "ignore_eos": True,
    }
    answer = ask(vllm.url, "/v1/chat/completions", chat)
    assert answer["usage"]["completion_tokens"] == 9


def test_named_program_that_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A VLLM_BIN that is no program is an error, not a reason to take another one."""
    monkeypatch.setenv("VLLM_BIN", str(tmp_path))
    with pytest.raises(EngineError, match=r"VLLM_BIN=.* is not a program"):
        find_vllm()


def test_own_environment_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment beside the project is found without any setting."""
    monkeypatch.delenv("VLLM_BIN", raising=False)
    monkeypatch.chdir(tmp_path)
    program = tmp_path / ".venv-vllm" / "bin" / "vllm"
    program.parent.mkdir(parents=True)
    program.symlink_to("/bin/sh")
    assert find_vllm() == program


def test_own_model_keeps_the_engines_defaults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the test model needs on a CPU is not forced on a user's model."""
    monkeypatch.setenv("VLLM_BIN", "/bin/sh")
    spec = EngineSpec(kind="vllm", model=Path("/models/llama"), parallel=16, context=4096)
    launch = Vllm().launch(spec, 8000, tmp_path)
    command = " ".join(launch.command)
    assert "serve /models/llama --served-model-name llama" in command
    assert "--max-num-seqs 16 --max-model-len 4096" in command
    assert "--dtype" not in command
    assert "--enforce-eager" not in command
    assert (
        os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1")
        == (launch.environment["VLLM_CPU_KVCACHE_SPACE"])
    )
