"""Which proxy the environment names for a server: ``HTTP_PROXY``, ``HTTPS_PROXY``, ``NO_PROXY``.

A server on this machine is always reached directly: a proxy's loopback is another one.
"""

from __future__ import annotations

import base64
import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from loadtests.stream.endpoint import Endpoint
from planner.errors import InputError

if TYPE_CHECKING:
    from urllib.parse import SplitResult

__all__ = ["Proxy", "proxy_for"]


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy.

    Attributes:
        endpoint: where it listens.
        authorization: the value of ``Proxy-Authorization``, if it wants one. Never shown.
    """

    endpoint: Endpoint
    authorization: str | None = field(default=None, repr=False)

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """What the proxy wants to see of every request or tunnel."""
        if self.authorization is None:
            return ()
        return (("Proxy-Authorization", self.authorization),)


def proxy_for(endpoint: Endpoint) -> Proxy | None:
    """The proxy for a server, or ``None``: straight to it.

    Raises:
        InputError: the environment names a proxy that cannot be used. Credentials are not shown.
    """
    if _is_this_machine(endpoint):
        return None
    # Asked with the port too, because NO_PROXY may hold "host:port".
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    proxies = getproxies()
    address = proxies.get(endpoint.scheme) or proxies.get("all")
    if not address or proxy_bypass(f"{host}:{endpoint.port}") or proxy_bypass(endpoint.host):
        return None
    return _parse(address, f"{endpoint.scheme.upper()}_PROXY")


def _is_this_machine(endpoint: Endpoint) -> bool:
    if endpoint.is_numeric:
        return ipaddress.ip_address(endpoint.host).is_loopback
    return endpoint.host == "localhost" or endpoint.host.endswith(".localhost")


def _parse(address: str, variable: str) -> Proxy:
    """A proxy from ``[http://][user:password@]host:port``."""
    scheme, mark, _ = address.partition("://")
    if mark and scheme.lower() != "http":
        raise InputError(
            f"{variable} names a proxy of kind {scheme[:20]!r}: only http:// proxies are spoken "
            "to; unset it or list the server in NO_PROXY"
        )
    try:
        parts = urlsplit(address if mark else f"http://{address}")
        # Without credentials and path, which must not reach a message.
        place = Endpoint.parse(f"http://{parts.netloc.rpartition('@')[2]}")
    except (InputError, ValueError):
        raise InputError(
            f"{variable} cannot be read as a proxy: write for example http://proxy:3128"
        ) from None
    return Proxy(place, _authorization(parts))


def _authorization(parts: SplitResult) -> str | None:
    if parts.username is None:
        return None
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()
