"""Servers on this machine's loopback addresses: which process listens there."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

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

    Raises:
        psutil.Error: the system does not tell.
    """
    for c in psutil.net_connections(kind="tcp"):
        if c.status == psutil.CONN_LISTEN and c.pid and c.laddr and c.laddr.port == port:
            return int(c.pid)
    return None
