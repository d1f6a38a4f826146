"""Starting a local engine of any kind: ready means that it has answered a generation.

>>> from loadtests.engines.base import EngineSpec, start_engine
>>> with start_engine(EngineSpec(kind="llamacpp", parallel=4)) as engine:  # doctest: +SKIP
...     print(engine.url)
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from loadtests.engines.emulator.launch import EmulatorProcess
from loadtests.engines.llamacpp import LlamaCpp
from loadtests.engines.ollama import Ollama
from loadtests.engines.ollama_attach import AttachedOllama
from loadtests.engines.process import RunningEngine, one_line, spawn
from loadtests.engines.spec import Engine, EngineSpec, Launch, url_of
from loadtests.engines.vllm import Vllm
from planner.errors import EngineError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "ENGINES",
    "Engine",
    "EngineSpec",
    "Launch",
    "LiveEngine",
    "RunningEngine",
    "open_engine",
    "start_engine",
]

LiveEngine = RunningEngine | AttachedOllama
"""An engine that answers: started by us, or found running."""

ENGINES: dict[str, Engine] = {
    "emulator": EmulatorProcess(),
    "llamacpp": LlamaCpp(),
    "ollama": Ollama(),
    "vllm": Vllm(),
}
"""The kinds that can be started. A new kind is one class and one entry here."""

_POLL_S = 0.05
_MAX_ANSWER_BYTES = 1 << 20
_TOO_MANY, _UNAVAILABLE = 429, 503


def open_engine(spec: EngineSpec) -> LiveEngine:
    """Start one engine, or use the Ollama that ``OLLAMA_HOST`` names and that runs already.

    Raises:
        InputError: as ``start_engine``.
        EngineError: as ``start_engine``; or the running one does not take the model.
    """
    engine = ENGINES.get(spec.kind)
    if isinstance(engine, Ollama) and (attached := engine.attached(spec)) is not None:
        within_s = spec.start_within_s or engine.start_within_s
        with _stopped_on_error(attached):
            _await_answer(attached, time.monotonic() + within_s, within_s)
        return attached
    return start_engine(spec)


def start_engine(spec: EngineSpec) -> RunningEngine:
    """Start one engine and wait until it has answered a generation.

    Raises:
        InputError: an unknown kind, or the port is taken.
        EngineError: the engine is not installed, died, or was not ready in time. Nothing is left
            behind then.
    """
    engine = ENGINES.get(spec.kind)
    if engine is None:
        raise InputError(f"engine {spec.kind!r} is unknown: known are {', '.join(sorted(ENGINES))}")
    port = _claim_port(spec)
    folder = Path(tempfile.mkdtemp(prefix=f"headroom-{spec.kind}-"))
    try:
        launch = engine.launch(spec, port, folder)
        running = spawn(spec.kind, url_of(spec.host, port), launch, _facts(spec, launch), folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    with _stopped_on_error(running):
        _make_ready(running, launch, spec.start_within_s or engine.start_within_s)
    return running


@contextmanager
def _stopped_on_error(running: LiveEngine) -> Iterator[None]:
    try:
        yield
    except BaseException:
        running.stop()
        raise


def _claim_port(spec: EngineSpec) -> int:
    """The asked port if it is free, or any free one."""
    family = socket.AF_INET6 if ":" in spec.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Connections of an earlier engine that linger in TIME_WAIT do not make the port taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((spec.host, spec.port))
        except socket.gaierror as error:
            raise InputError(
                f"host {spec.host!r} is unknown ({error.strerror}): give an address of this machine"
            ) from error
        except OSError as error:
            raise InputError(
                f"port {spec.port} on {spec.host} cannot be used ({error.strerror}): "
                "end what listens there, or give another --port (0 picks a free one)"
            ) from error
        port: int = probe.getsockname()[1]
        return port


def _facts(spec: EngineSpec, launch: Launch) -> dict[str, str]:
    asked = {
        "slots": str(spec.parallel),
        "context_per_slot": str(spec.context),
        "threads": str(spec.threads),
    }
    return asked | launch.facts


def _make_ready(running: RunningEngine, launch: Launch, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    _await(running, deadline, within_s, lambda: _listens(running.url))
    for command in launch.setup:
        _set_up(running, command, launch.environment, deadline)
    if not launch.is_ready_when_it_listens:
        _await_answer(running, deadline, within_s)


def _await_answer(running: LiveEngine, deadline: float, within_s: float) -> None:
    _await(running, deadline, within_s, lambda: _generates(running, deadline))


def _await(running: LiveEngine, deadline: float, within_s: float, done: Callable[[], bool]) -> None:
    """Poll until it is done, the engine is dead, or the time is up.

    Done counts only while the engine lives: another server may have been quicker to take the port.
    """
    while True:
        ready = done()
        if not running.alive:
            raise EngineError(f"{running.kind} died while starting{running.last_words()}")
        if ready:
            return
        if time.monotonic() > deadline:
            raise EngineError(
                f"{running.kind} was not ready within {within_s:g} s{running.last_words()}"
            )
        time.sleep(_POLL_S)


def _connection(url: str, timeout_s: float) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(url.removeprefix("http://"), timeout=max(timeout_s, _POLL_S))


def _listens(url: str) -> bool:
    connection = _connection(url, 1.0)
    try:
        connection.connect()
    except OSError:
        return False
    finally:
        connection.close()
    return True


def _set_up(
    running: RunningEngine, command: tuple[str, ...], environment: dict[str, str], deadline: float
) -> None:
    """Run one command of the engine's own against it."""
    try:
        done = subprocess.run(  # noqa: S603 - the command is ours, its arguments are a list
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            timeout=max(deadline - time.monotonic(), _POLL_S),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"{running.kind}: {' '.join(command)}: {error}") from error
    if done.returncode != 0:
        said = one_line(done.stdout.decode(errors="replace"))
        raise EngineError(f"{running.kind}: {' '.join(command)} failed: {said}")


def _generates(running: LiveEngine, deadline: float) -> bool:
    """Whether it answers a chat with at least one token.

    Raises:
        EngineError: it refuses the request, which waiting will not change.
    """
    chat = {
        "model": running.model,
        "messages": [{"role": "user", "content": "Say a word."}],
        "max_tokens": 2,
    }
    connection = _connection(running.url, deadline - time.monotonic())
    try:
        connection.request(
            "POST",
            "/v1/chat/completions",
            msgspec.json.encode(chat),
            {"Content-Type": "application/json", "Connection": "close"},
        )
        response = connection.getresponse()
        body = response.read(_MAX_ANSWER_BYTES)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    if response.status in (_TOO_MANY, _UNAVAILABLE):  # still loading
        return False
    if response.status != http.client.OK:
        said = one_line(body.decode(errors="replace"))
        raise EngineError(f"{running.kind} refuses a chat: HTTP {response.status} {said}")
    return _has_output(body)


class _Usage(msgspec.Struct):
    completion_tokens: int = 0


class _Answer(msgspec.Struct):
    usage: _Usage


def _has_output(body: bytes) -> bool:
    try:
        return msgspec.json.decode(body, type=_Answer).usage.completion_tokens > 0
    except msgspec.MsgspecError as error:
        raise EngineError(f"the engine's first answer is not a chat's: {error}") from error
