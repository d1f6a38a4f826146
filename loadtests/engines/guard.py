"""Runs one engine and sees to it that it never outlives the process that asked for it.

A program of its own, of nothing but the standard library: ``guard.py PARENT FOLDER COMMAND...``.
It starts the command in a new session, so that a terminal's Ctrl-C does not reach it, writes its
process id on stdout, and stops it, with all its children, when

- it is told to (SIGTERM, SIGINT, SIGHUP),
- the parent is gone, however it died: a changed parent id shows it on every platform, and giving
  the id as an argument leaves no moment in which the death could be missed,
- it is itself killed (Linux only: the kernel then sends the engine SIGTERM).

The folder is the engine's own; it is removed where the parent can no longer do so.

The kernel's parent-death signal is not used towards the parent, since it fires when the *thread*
that forked ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["main"]

_POLL_S = 0.05
_GRACE_S = 10.0  # from SIGTERM to SIGKILL
_REAP_S = 5.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def main(arguments: list[str]) -> int:
    """Run the command until it ends or must end; returns its exit status."""
    parent, folder, command = int(arguments[0]), arguments[1], arguments[2:]
    told: list[int] = []  # a list, not an Event: a handler may not take the lock that it interrupts
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _: told.append(received))
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    engine = subprocess.Popen(  # noqa: S603 - the command comes from our own parent
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,
        preexec_fn=_die_with(os.getpid()),  # noqa: PLW1509 - this process has one thread
    )
    try:
        print(engine.pid, flush=True)  # noqa: T201 - this is what the parent waits for
        while not told and engine.poll() is None and os.getppid() == parent:
            time.sleep(_POLL_S)
    finally:
        status = _end(engine)
        if os.getppid() != parent:
            shutil.rmtree(folder, ignore_errors=True)
    return status


def _die_with(guard: int) -> Callable[[], None]:
    """What the engine's process does before it becomes the engine."""

    def arm() -> None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != guard:  # it died before the line above
            os._exit(1)

    return arm


def _prctl(option: int, value: int) -> None:
    """Linux's process control; elsewhere nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _end(engine: subprocess.Popen[bytes]) -> int:
    """Stop the engine gently, then its whole process group for sure; wait until all are gone."""
    engine.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        engine.wait(_GRACE_S)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(engine.pid, signal.SIGKILL)
    status = engine.wait()
    deadline = time.monotonic() + _REAP_S
    # As their subreaper (Linux) this process inherits the engine's orphans and can wait for them.
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(_POLL_S)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
