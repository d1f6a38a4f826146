"""One of several processes that make load: ``python -m loadtests.worker PORT``.

It is a Locust worker. It ends when its parent does, which it sees by the end of its standard input.
"""

from __future__ import annotations

import locust  # isort: skip  # noqa: F401 - first of all: it patches what the others import
import os
import sys

import gevent
from gevent.os import tp_read
from locust.env import Environment

from loadtests.member import Member
from loadtests.users import ChatUser

__all__ = ["HeadroomUser", "main"]

_LAST_WORDS_S = 3.0


class HeadroomUser(ChatUser):
    """The user class that the driving process and its workers both know by name."""


def main(port: int) -> None:
    """Work until the driving process says quit, or is no more."""
    members: list[Member] = []
    gevent.spawn(_end_with_parent, members)
    runner = Environment(user_classes=[HeadroomUser]).create_worker_runner("127.0.0.1", port)
    members.append(Member(runner, [HeadroomUser]))
    runner.greenlet.join()


def _end_with_parent(members: list[Member]) -> None:
    while tp_read(sys.stdin.fileno(), 1):
        pass
    for member in members:
        gevent.with_timeout(_LAST_WORDS_S, member.abandon, timeout_value=None)
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
