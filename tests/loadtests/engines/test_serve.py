"""``headroom serve``: one line of JSON when ready, and nothing left however it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from click.testing import CliRunner

from loadtests.engines.commands import serve
from tests.loadtests.engines.probes import ask, eventually, family, gone, port_is_free, port_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from loadtests.engines.model import ModelFiles

pytestmark = pytest.mark.engine

SERVE = "from loadtests.engines.commands import serve; serve(prog_name='serve')"


class Serving:
    """The command as a process that has announced itself."""

    def __init__(self, *arguments: str) -> None:
        """Start it in a process group of its own, as a shell with job control does."""
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.said: dict[str, Any] = json.loads(line or "{}")
        self.processes = family(self.process.pid)

    def nothing_left(self) -> bool:
        """Whether all its processes are gone and its port is free."""
        return gone(self.processes) and port_is_free(port_of(self.said["url"]))


@pytest.fixture
def serving(
    tiny_model: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Serving]:
    """The command, serving the tiny model on two slots, its temporary files in ``tmp_path``."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    serving = Serving("llamacpp", "--model", str(tiny_model.gguf), "--parallel", "2")
    try:
        yield serving
    finally:
        serving.process.kill()
        serving.process.communicate()
        assert eventually(lambda: gone(serving.processes))


def test_announcement(serving: Serving) -> None:
    """The line says where the engine is, and it answers there with the slots asked for."""
    said = serving.said
    assert said.keys() == {"url", "kind", "model", "pid", "parallel", "target", "facts"}
    assert said["target"] == f"llamacpp={said['url']}"
    assert (said["kind"], said["parallel"], said["model"]) == ("llamacpp", 2, "headroom-tiny")
    assert len(ask(said["url"], "/slots")) == 2
    facts = said["facts"]
    assert (facts["engine"], facts["slots"], facts["context_tokens"]) == ("llama.cpp", 2, 2048)
    assert facts["quantization"] == "all F32"
    assert 10_000_000 < facts["memory_bytes"] < 2_000_000_000
    program = os.environ.get("LLAMA_SERVER", "llamacpp_server").rpartition("/")[2]
    assert program in " ".join(psutil.Process(said["pid"]).cmdline())
    if program == "llamacpp_server":
        assert facts["version"] == f"xllamacpp {metadata.version('xllamacpp')}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_it_cleanly(serving: Serving, number: signal.Signals) -> None:
    """A signal to its process group, as from a terminal, ends in exit code 0 and nothing left."""
    os.killpg(serving.process.pid, number)
    output, errors = serving.process.communicate(timeout=20)
    assert (serving.process.returncode, output) == (0, "")
    assert errors == "llamacpp stopped\n"
    assert serving.nothing_left()


def test_killed_parent_leaves_nothing(serving: Serving, tmp_path: Path) -> None:
    """A kill -9 cannot be handled, yet no process, no port and no file outlive it."""
    assert [path.name for path in tmp_path.glob("*/engine.log")] == ["engine.log"]
    assert not port_is_free(port_of(serving.said["url"]))
    serving.process.kill()
    serving.process.wait(20)
    assert eventually(serving.nothing_left)
    assert eventually(lambda: list(tmp_path.iterdir()) == [])


def test_engine_that_dies(serving: Serving) -> None:
    """When the engine dies, the command says so on one line and ends with 2."""
    os.kill(serving.said["pid"], signal.SIGKILL)
    _, errors = serving.process.communicate(timeout=20)
    assert serving.process.returncode == 2
    assert errors.startswith("headroom serve: llamacpp on ")
    assert errors.count("\n") == 1


def test_taken_port_is_one_line(tiny_model: ModelFiles) -> None:
    """A taken port ends in exit code 2 and one line that names it."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        command = ["llamacpp", "--model", str(tiny_model.gguf), "--port", port]
        done = subprocess.run(
            [sys.executable, "-c", SERVE, *command],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"port {port} on 127.0.0.1 cannot be used" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tgi"], "'tgi' is not one of 'emulator', 'llamacpp', 'ollama', 'vllm'"),
        (["llamacpp", "--model", "absent.gguf"], "'absent.gguf' does not exist"),
        (["llamacpp", "--parallel", "0"], "parallel 0 of llamacpp is outside 1 to 4096"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str) -> None:
    """Bad arguments end in exit code 2 and say what would be good."""
    result = CliRunner().invoke(serve, arguments)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("kind", "message"),
    [("vllm", "vLLM is not installed: python3 -m venv"), ("ollama", "Ollama is not installed")],
)
def test_engine_that_is_not_installed(
    kind: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An absent engine ends in exit code 2 and says how to get it."""
    monkeypatch.delenv("VLLM_BIN", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HEADROOM_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(serve, [kind])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_help_has_an_example() -> None:
    """The help shows the command as one would type it."""
    result = CliRunner().invoke(serve, ["--help"])
    assert "headroom serve llamacpp --port 8080" in result.output
