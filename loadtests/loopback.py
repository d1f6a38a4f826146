"""Servers on this machine's loopback addresses: which process listens there."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from loadtests.stream import Endpoint

__all__ = ["is_loopback", "listener"]


def is_loopback(endpoint: Endpoint) -> bool:
    """Whether an address is this machine's own, seen from inside."""
    try:
        return ipaddress.ip_address(endpoint.host).is_loopback
    except ValueError:
        return endpoint.host == "localhost"


def listener(port: int) -> int | None:
    """The process that listens on a TCP port, as far as this user may know.

    Children inherit the socket, and the system names any of those that hold it: the eldest is
    the server.

    Raises:
        psutil.Error: the system does not tell.
    """
    held = (c for c in psutil.net_connections(kind="tcp") if _listens(c, port) and c.pid)
    found = next(held, None)
    if found is None or found.pid is None:
        return None
    process = psutil.Process(found.pid)
    while (parent := process.parent()) is not None and _holds(parent, port):
        process = parent
    return process.pid


def _listens(connection: Any, port: int) -> bool:
    """Whether it is a socket that waits for connections to a port."""
    listens: bool = connection.status == psutil.CONN_LISTEN
    return listens and bool(connection.laddr) and connection.laddr.port == port


def _holds(process: psutil.Process, port: int) -> bool:
    try:
        return any(_listens(c, port) for c in process.net_connections(kind="tcp"))
    except psutil.Error:
        return False  # another user's
