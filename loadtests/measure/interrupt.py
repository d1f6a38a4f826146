"""Ctrl-C and SIGTERM while load is made: one ``KeyboardInterrupt`` where the command waits."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import gevent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["interrupt_here", "interruptible"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the block the first SIGINT or SIGTERM interrupts the caller at its next wait.

    Python would raise ``KeyboardInterrupt`` in whichever greenlet happens to run, a simulated
    user's for example, and end the process at once on SIGTERM. A second signal does just that. For
    the main thread only.
    """
    restore = _redirect(_SIGNALS)
    try:
        yield
    finally:
        restore()


def interrupt_here() -> None:
    """From now on the first SIGINT interrupts the calling greenlet at its next wait.

    Python forgets a ``KeyboardInterrupt`` that it raises while a file object is being freed, as
    after each request to a web server: the process would go on. A handler that somebody has
    chosen, or a signal that is ignored, stays as it is. For the main thread only.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        _redirect((signal.SIGINT,))


def _redirect(signals: Sequence[signal.Signals]) -> Callable[[], None]:
    """Throw the first of these signals into the calling greenlet; returns what ends that."""
    caller, loop = gevent.getcurrent(), gevent.get_hub().loop
    before = {number: signal.getsignal(number) for number in signals}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def interrupt(*_: object) -> None:
        restore()
        loop.run_callback_threadsafe(caller.throw, KeyboardInterrupt)

    for number in signals:
        signal.signal(number, interrupt)
    return restore
