"""What the tests of engines ask of processes, ports and servers."""

from __future__ import annotations

import http.client
import json
import socket
import time
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["ask", "eventually", "family", "gone", "port_is_free", "port_of"]

DEADLINE_S = 20.0


def ask(url: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """The JSON answer to a GET, or to a POST of ``body``, over a plain socket."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=DEADLINE_S)
    try:
        if body is None:
            connection.request("GET", path)
        else:
            text = json.dumps(body)
            connection.request("POST", path, text, {"Content-Type": "application/json"})
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def family(pid: int) -> list[psutil.Process]:
    """A process with all its descendants."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def gone(processes: Iterable[psutil.Process]) -> bool:
    """Whether none of them runs; one that only waits to be reaped has ended."""
    return not any(_runs(process) for process in processes)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def port_of(url: str) -> int:
    """The port of a URL."""
    return int(url.rsplit(":", 1)[1])


def port_is_free(port: int) -> bool:
    """Whether nothing listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether a condition comes true within the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()
