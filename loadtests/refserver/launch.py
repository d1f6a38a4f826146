"""Start the reference server, talk to it, and stop it with the process that asked for it."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from loadtests.refserver.build import build
from loadtests.refserver.certificate import own_certificate
from planner.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["ReferenceServer", "ServerStats", "reference_server"]

_STOP_WITHIN_S = 5.0
_ANSWER_WITHIN_S = 10.0


class ServerStats(msgspec.Struct, frozen=True):
    """The server's account of itself since the last look at it."""

    chunks: int
    late_mean_us: float  # how long after its due time a chunk was sent
    late_max_us: float
    cpu_s: float  # since its start


@dataclass(frozen=True, slots=True)
class ReferenceServer:
    """A running reference server.

    Attributes:
        url: where it answers.
        pid: its process.
        compiled: whether it is the one in C. The one in Python is many times slower.
        ca_file: whom to trust if it speaks TLS.
    """

    url: str
    pid: int
    compiled: bool
    ca_file: Path | None = None

    def stats(self) -> ServerStats:
        """Ask for its account, and begin a new one."""
        # Straight to the loopback, whatever proxy the environment names.
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        if self.ca_file is not None:
            trust = ssl.create_default_context(cafile=str(self.ca_file))
            handlers.append(urllib.request.HTTPSHandler(context=trust))
        opener = urllib.request.build_opener(*handlers)
        with opener.open(f"{self.url}/stats", timeout=_ANSWER_WITHIN_S) as answer:
            return msgspec.json.decode(answer.read(), type=ServerStats)


@contextlib.contextmanager
def reference_server(
    *,
    itl_s: float,
    ttft_s: float,
    sync: bool = False,
    cpu: int | None = None,
    compiled: bool | None = None,
    tls: bool = False,
) -> Iterator[ReferenceServer]:
    """Run a reference server on a free port of the loopback.

    Args:
        itl_s: gap between the content events of a stream; 0: as fast as they are read.
        ttft_s: from the arrival of a request to its first content event.
        sync: all streams tick together, as an engine's steps make them.
        cpu: the processor to keep it on.
        compiled: whether to run the one in C; by default where it can be compiled.
        tls: speak TLS, with a certificate made for this run.

    Raises:
        EngineError: it cannot be compiled although it was asked for, does not start, or is to
            speak TLS and no certificate can be made.
    """
    command, is_compiled = _command(compiled, tls=tls)
    command += ["--itl-us", f"{itl_s * 1e6:.0f}", "--ttft-us", f"{ttft_s * 1e6:.0f}"]
    if sync:
        command.append("--sync")
    if not tls:
        with _running(command, cpu) as (process, port):
            yield ReferenceServer(f"http://127.0.0.1:{port}", process, is_compiled)
        return
    with own_certificate() as own:
        command += ["--certificate", str(own.certificate), "--key", str(own.key)]
        with _running(command, cpu) as (process, port):
            own.key.unlink()
            url = f"https://127.0.0.1:{port}"
            yield ReferenceServer(url, process, is_compiled, own.certificate)


@contextlib.contextmanager
def _running(command: list[str], cpu: int | None) -> Iterator[tuple[int, int]]:
    """Run the server; gives its process and port."""
    process = subprocess.Popen(  # noqa: S603 - our own program
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        if cpu is not None:
            os.sched_setaffinity(process.pid, {cpu})
        assert process.stdout is not None  # noqa: S101 - for the type checker
        try:
            port = int(json.loads(process.stdout.readline())["port"])
        except (ValueError, KeyError, TypeError) as error:
            raise EngineError("the reference server did not start") from error
        yield process.pid, port
    finally:
        _stop(process)


def _command(compiled: bool | None, *, tls: bool) -> tuple[list[str], bool]:
    if compiled is not False:
        try:
            return [str(build(tls=tls))], True
        except EngineError:
            if compiled:
                raise
    return [sys.executable, "-m", "loadtests.refserver.fallback"], False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Close its input, at which it ends; kill it if it does not."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    try:
        process.wait(_STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
