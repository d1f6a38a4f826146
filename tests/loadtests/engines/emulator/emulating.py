"""An emulator in a thread of the test's process, and requests to it over plain sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from loadtests.engines.emulator.server import new_loop, serving
from loadtests.engines.emulator.settings import Settings
from planner.simulation.engine import Engine
from planner.steptime import StepTime

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadtests.engines.emulator.server import Emulator

__all__ = ["ASKED", "FAST", "Raw", "ask", "emulating", "kinds_settings", "raw"]

FAST = StepTime(base_s=0.002, per_sequence_s=1e-5, per_prompt_token_s=1e-5)
PATIENCE_S = 20.0

ASKED = {
    "vllm": "/v1/chat/completions",
    "llamacpp": "/v1/chat/completions",
    "ollama": "/api/chat",
}
"""Where the tests ask each kind for a chat."""


def kinds_settings(kind: str, **changes: Any) -> Settings:
    """Settings of a quick server of a kind."""
    engine = Engine(**{"step": FAST, "slots": 4, **changes.pop("engine", {})})
    given = {"kind": kind, "profile": "test/profile", "model": "tiny", "engine": engine}
    return Settings(**{**given, **changes})


@contextlib.contextmanager
def emulating(settings: Settings) -> Iterator[tuple[Emulator, int]]:
    """Run an emulator; yields it and its port. It stops with the block."""
    loop = new_loop()
    ready: list[tuple[Emulator, int]] = []
    begun, over = threading.Event(), asyncio.Event()

    async def run() -> None:
        async with serving(settings) as found:
            ready.append(found)
            begun.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert begun.wait(PATIENCE_S)
    try:
        yield ready[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(PATIENCE_S)
        loop.close()


class Raw(NamedTuple):
    """What came back on a connection."""

    head: bytes
    body: bytes  # chunk framing removed
    chunks: tuple[bytes, ...]
    ended: str  # whole, closed (by the server, in the middle), reset, silent

    @property
    def names(self) -> list[str]:
        """Names of the headers, in order."""
        return [line.split(b":")[0].decode() for line in self.head.split(b"\r\n")[1:]]

    @property
    def status(self) -> int:
        """The status."""
        return int(self.head.split(b" ")[1])


def ask(port: int, path: str, body: dict[str, Any] | None = None, *, wait_s: float = 5.0) -> Raw:
    """One request on a connection of its own: a GET, or a POST of ``body``."""
    text = b"" if body is None else msgspec.json.encode(body)
    method = "GET" if body is None else "POST"
    call = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=wait_s) as connection:
        connection.sendall(call + text)
        return raw(connection)


def raw(connection: socket.socket) -> Raw:
    """Read one answer to its end."""
    data = b""
    while True:
        head, found, rest = data.partition(b"\r\n\r\n")
        if found:
            done = _whole(head, rest)
            if done is not None:
                return Raw(head, b"".join(done), tuple(done), "whole")
        try:
            more = connection.recv(65536)
        except ConnectionResetError:
            ended = "reset"
        except TimeoutError:
            ended = "silent"
        else:
            ended = "" if more else "closed"
            data += more
        if ended:
            return Raw(head, rest, (), ended)


def _whole(head: bytes, rest: bytes) -> list[bytes] | None:
    """The chunks of a body that has ended, else None."""
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:])
    if b"content-length" in fields:
        return [rest] if len(rest) >= int(fields[b"content-length"]) else None
    chunks: list[bytes] = []
    while True:
        size, found, rest = rest.partition(b"\r\n")
        if not found:
            return None
        n = int(size, 16)
        if len(rest) < n + 2:
            return None
        if rest[n : n + 2] != b"\r\n":
            return None
        if n == 0:
            return chunks
        chunks.append(rest[:n])
        rest = rest[n + 2 :]
