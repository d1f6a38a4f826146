"""Headroom's commands as processes of their own: importing Locust patches the whole process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SHORT", "Done", "Shell", "eventually", "headroom", "one_line", "start"]

ROOT = Path(__file__).parents[3]
SHORT = ("--prompt-tokens", "uniform:20-40", "--output-tokens", "uniform:4-12")
"""A workload that the tiny model answers in some 30 ms."""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


def start(*arguments: object, first: str = "", **options: Any) -> subprocess.Popen[str]:
    """Begin a command, after some code in its process."""
    program = f"{first}\nimport headroom; headroom.main(prog_name='headroom')"
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, **{**given, **options})


def headroom(*arguments: object, first: str = "", **environment: str) -> Done:
    """Run a command to its end, after some code in its process."""
    process = start(*arguments, env={**os.environ, **environment}, first=first)
    try:
        out, err = process.communicate(timeout=90)
    finally:
        process.kill()
    return Done(process.returncode, out, err)


def one_line(done: Done, *words: str) -> None:
    """Check that a command refused its input: one line that holds the words, exit code 2."""
    assert done.code == 2, done
    assert done.out == ""
    assert len(done.err.strip().splitlines()) == 1, done.err
    for word in words:
        assert word in done.err
    assert "Traceback" not in done.err


def eventually(condition: Callable[[], bool], within_s: float = 30.0) -> bool:
    """Whether a condition comes true in time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


_SERVE = """
import locust, json, sys
from click.testing import CliRunner
import headroom
real = sys.stdout
for line in sys.stdin:
    arguments, environment = json.loads(line)
    found = CliRunner().invoke(headroom.main, arguments, env=environment, prog_name="headroom")
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        found.stderr_bytes += b"Traceback: " + repr(found.exception).encode()
    print(json.dumps([found.exit_code, found.stdout, found.stderr]), file=real, flush=True)
"""


class Shell:
    """One process that runs many commands, for those that end at once: a start takes seconds."""

    def __init__(self) -> None:
        """Start it."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def run(self, *arguments: object, **environment: str | None) -> Done:
        """Run one command."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([[str(a) for a in arguments], environment]) + "\n")
        self._process.stdin.flush()
        return Done(*json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End it."""
        try:
            self._process.communicate(timeout=20)
        finally:
            self._process.kill()
