"""The guard ends its command, with all its children, however its own life goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from loadtests.engines import guard
from tests.loadtests.engines.probes import eventually, family, gone

if TYPE_CHECKING:
    from collections.abc import Iterator

# A command with a child of its own, which would outlive it if nobody looked after it.
PARENT_OF_ONE = (
    "import subprocess, sys, time; "
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
    "time.sleep(600)"
)
COMMAND = (sys.executable, "-c")
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('deaf', flush=True); time.sleep(600)"
)


@pytest.fixture
def guarded() -> Iterator[tuple[subprocess.Popen[bytes], list[psutil.Process]]]:
    """A guard and, as processes, the command that it guards with the command's child."""
    keeper = start(os.getpid(), PARENT_OF_ONE)
    assert keeper.stdout is not None
    pid = int(keeper.stdout.readline())
    assert eventually(lambda: len(family(pid)) == 2)
    processes = family(pid)
    try:
        yield keeper, processes
    finally:
        keeper.kill()
        keeper.communicate()
        for process in processes:
            if not gone([process]):
                process.kill()


def start(parent: int, code: str) -> subprocess.Popen[bytes]:
    """Start a guard for a line of Python."""
    command = [sys.executable, "-I", guard.__file__, str(parent), "/absent", *COMMAND, code]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_told_to_stop(
    guarded: tuple[subprocess.Popen[bytes], list[psutil.Process]], number: signal.Signals
) -> None:
    """Each signal ends the command and its child before the guard itself ends."""
    keeper, processes = guarded
    keeper.send_signal(number)
    keeper.wait(20)
    assert gone(processes)


def test_command_is_in_a_session_of_its_own(
    guarded: tuple[subprocess.Popen[bytes], list[psutil.Process]],
) -> None:
    """A terminal's Ctrl-C goes to our process group, which the command has left."""
    _, processes = guarded
    assert os.getsid(processes[0].pid) == processes[0].pid != os.getsid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_guard_killed(guarded: tuple[subprocess.Popen[bytes], list[psutil.Process]]) -> None:
    """The command does not outlive a guard that was killed."""
    keeper, processes = guarded
    keeper.kill()
    assert eventually(lambda: gone(processes[:1]))


def test_command_ends_by_itself(
    guarded: tuple[subprocess.Popen[bytes], list[psutil.Process]],
) -> None:
    """When the command dies, its child goes too and the guard ends."""
    keeper, processes = guarded
    processes[0].kill()
    keeper.wait(20)
    assert gone(processes)


def test_parent_dead_before_the_guard_looked() -> None:
    """A guard whose parent is already another ends its command at once."""
    keeper = start(parent=os.getpid() + 1, code=PARENT_OF_ONE)
    output, _ = keeper.communicate(timeout=20)
    assert not psutil.pid_exists(int(output))


def test_stubborn_command_is_killed() -> None:
    """A command that ignores SIGTERM is killed after the grace period, here a tenth of a second."""
    hasty = (
        "import sys; from loadtests.engines import guard; "
        "guard._GRACE_S = 0.1; sys.exit(guard.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", hasty, str(os.getpid()), "/absent", *COMMAND, STUBBORN]
    keeper = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert keeper.stdout is not None
    assert keeper.stderr is not None
    pid = int(keeper.stdout.readline())
    assert keeper.stderr.readline() == b"deaf\n"
    keeper.terminate()
    keeper.communicate(timeout=20)
    assert not psutil.pid_exists(pid)
