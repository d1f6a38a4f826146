"""Where a server is: its URL, taken apart and checked."""

from __future__ import annotations

import ipaddress
import re
from typing import Self
from urllib.parse import urlsplit

import msgspec

from planner.errors import InputError

__all__ = ["Endpoint"]

_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})")
_PATH = re.compile(r"[!-~]*")  # visible ASCII: nothing that could break a request line
_LONGEST = 250
_SHOWN = 100


class Endpoint(msgspec.Struct, frozen=True):
    """A server's address. ``host`` is bare (an IPv6 address stands without brackets)."""

    scheme: str
    host: str
    port: int
    base_path: str  # what stands before every path: "" or "/prefix", never with a slash at its end

    @classmethod
    def parse(cls, url: str) -> Self:
        """Take a URL apart.

        Raises:
            InputError: no scheme or another one than http(s), credentials, no or a bad host, a bad
                port, a query or a fragment, or too long. The message never repeats credentials.
        """
        try:
            parts = urlsplit(url.strip())
            port = parts.port
        except ValueError as error:
            raise _refusal(url, f"cannot be read: {str(error)[:_SHOWN]}") from error
        if parts.scheme not in _PORTS or "://" not in url:
            raise _refusal(url, "must begin with http:// or https://")
        if "@" in parts.netloc:
            raise InputError(
                "a URL with credentials in it would end up in reports: leave them out "
                "and set HEADROOM_API_KEY instead"
            )
        if parts.query or parts.fragment:
            raise _refusal(url, "has a query or a fragment; give the server's address alone")
        if len(url) > _LONGEST:
            raise _refusal(url, f"has {len(url)} characters; {_LONGEST} are allowed")
        if port == 0:
            raise _refusal(url, "has port 0; ports go from 1 to 65535")
        if not _PATH.fullmatch(parts.path):
            raise _refusal(url, "has a space or a character outside ASCII in its path")
        return cls(
            parts.scheme, _host(url, parts), port or _PORTS[parts.scheme], parts.path.rstrip("/")
        )

    @property
    def authority(self) -> str:
        """``host:port`` as the ``Host`` header and messages have it; the usual port is left out."""
        full = self.full_authority
        return full.rpartition(":")[0] if self.port == _PORTS[self.scheme] else full

    @property
    def full_authority(self) -> str:
        """``host:port``, whatever the port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL, normalised."""
        return f"{self.scheme}://{self.authority}{self.base_path}"

    @property
    def is_numeric(self) -> bool:
        """Whether the host is an IP address, so that no name has to be looked up."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True


def _host(url: str, parts: object) -> str:
    host = getattr(parts, "hostname", None) or ""
    if ":" in host:
        try:
            return str(ipaddress.IPv6Address(host))
        except ValueError as error:
            raise _refusal(url, "has a bad IPv6 address") from error
    if not _HOST.fullmatch(host):
        raise _refusal(url, "has no host name" if not host else "has a bad host name")
    return host


def _refusal(url: str, why: str) -> InputError:
    """One line that shows the URL, unless it may hold a password."""
    shown = "the URL" if "@" in url else f"URL {url[:_SHOWN]!r}"
    return InputError(f"{shown} {why}; write for example http://127.0.0.1:8000")
