"""Ctrl-C and SIGTERM while load is made: one ``KeyboardInterrupt`` where the command waits."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import gevent

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["interruptible"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the block the first SIGINT or SIGTERM interrupts the caller at its next wait.

    Python would raise ``KeyboardInterrupt`` in whichever greenlet happens to run, a simulated
    user's for example, and end the process at once on SIGTERM. A second signal does just that. For
    the main thread only.
    """
    caller, loop = gevent.getcurrent(), gevent.get_hub().loop
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def interrupt(*_: object) -> None:
        restore()
        loop.run_callback_threadsafe(caller.throw, KeyboardInterrupt)

    for number in _SIGNALS:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        restore()
