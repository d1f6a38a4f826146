"""Locust's master, made to outlive messages that no worker of Locust sends.

Its port is open to whoever can reach it, and its one greenlet that listens ends with the first
exception: of bytes that cannot be decoded, or of a message without what its type should have. The
master would then hear nothing more of any worker.
"""

from __future__ import annotations

import logging
from typing import Any

import locust.env
from locust.exception import RPCError, RPCReceiveError
from locust.rpc import zmqrpc
from locust.runners import MasterRunner

__all__ = ["Master", "Server", "install"]

_LOG = logging.getLogger("headroom")
_SHOWN = 200  # characters of what an error says


def install() -> None:
    """Make every master from here on so; Locust has no hook for it."""
    rpc: Any = zmqrpc
    rpc.Server = Server
    env: Any = locust.env
    env.MasterRunner = Master


class Server(zmqrpc.Server):
    """The master's socket, on which whatever is no message counts as one that did not come."""

    def recv_from_client(self) -> tuple[str, Any]:
        """The next message and who sent it.

        Raises:
            RPCReceiveError: it is none, or says that somebody else has sent it.
            RPCError: the socket is broken.
        """
        try:
            sender, message = super().recv_from_client()  # type: ignore[no-untyped-call]
        except (RPCError, RPCReceiveError):
            raise
        except Exception as error:  # whatever the bytes led to
            raise RPCReceiveError(f"not a message of Locust ({type(error).__name__})") from error
        if not isinstance(message.type, str) or message.node_id != sender:
            raise RPCReceiveError("a message without a type, or in another's name")
        return sender, message


class Master(MasterRunner):
    """A master that passes over what it cannot make sense of."""

    def handle_message(self, client_id: str, msg: Any) -> None:
        """Obey a message, if it is one."""
        try:
            super().handle_message(client_id, msg)
        except Exception as error:  # noqa: BLE001 - whatever the message led to
            _LOG.warning("a worker's message %r makes no sense: %s", msg.type[:40],
                         repr(error)[:_SHOWN])  # fmt: skip
