"""A local engine as a process: started under its guard, watched, stopped without leftovers."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Self

from loadtests.engines import guard
from planner.errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from loadtests.engines.spec import Launch

__all__ = ["RunningEngine", "last_words", "one_line", "spawn"]

_STOP_WITHIN_S = 20.0  # longer than the guard gives the engine
_TAIL_BYTES, _TAIL_LINES, _LINE_CHARACTERS = 16_384, 10, 240
_UNPRINTABLE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|[^\x20-\x7e\u00a0-\uffff]+")


class RunningEngine:
    """An engine that runs; a context manager that stops it.

    Attributes:
        kind: as in its spec.
        url: where it answers, without a trailing slash.
        model: the name by which requests ask for its model.
        pid: the engine's own process.
        facts: settings worth knowing beside a measurement.
        log_path: what it prints; gone once it is stopped.
    """

    def __init__(
        self,
        *,
        kind: str,
        url: str,
        model: str,
        facts: dict[str, str],
        folder: Path,
        keeper: subprocess.Popen[bytes],
        pid: int,
    ) -> None:
        """Take over a started process and its folder."""
        self.kind = kind
        self.url = url
        self.model = model
        self.facts = facts
        self.pid = pid
        self.log_path = folder / "engine.log"
        self._folder = folder
        self._keeper = keeper

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._keeper.poll() is None

    def wait(self) -> None:
        """Wait until the engine ends by itself, which it should not.

        Raises:
            EngineError: always, once it has ended, with its last words.
        """
        self._keeper.wait()
        raise EngineError(f"{self.kind} on {self.url} ended by itself{self.last_words()}")

    def last_words(self) -> str:
        """The end of its log as one bounded line to append to a message."""
        return last_words(self.log_path)

    def stop(self) -> None:
        """Stop it and everything it started, and remove its folder. Harmless when repeated."""
        self._keeper.terminate()
        try:
            status = self._keeper.wait(_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            status = self._keeper.wait()
        if (
            status < 0 and self._folder.exists()
        ):  # somebody killed the guard, which then could not do its work
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        """Nothing to do: it runs already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it."""
        self.stop()


def spawn(
    kind: str, url: str, launch: Launch, facts: dict[str, str], folder: Path
) -> RunningEngine:
    """Start an engine under its guard; it need not be ready yet.

    Raises:
        EngineError: the program cannot be started.
    """
    log = folder / "engine.log"
    # Isolated (-I): the guard imports nothing but the standard library, wherever it is started.
    keep = (sys.executable, "-I", guard.__file__, str(os.getpid()), str(folder))
    with log.open("wb") as output:
        keeper = subprocess.Popen(  # noqa: S603 - the command is ours, its arguments are a list
            (*keep, *launch.command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            env={**os.environ, **launch.environment},
            start_new_session=True,  # a terminal's Ctrl-C is for us, who stop it in order
        )
    try:
        assert keeper.stdout is not None  # noqa: S101 - for the types: it is a pipe
        with keeper.stdout as pipe:
            line = pipe.readline()
    except BaseException:
        keeper.terminate()
        raise
    if not line.strip().isdigit():
        keeper.wait()
        raise EngineError(f"{kind}: {launch.command[0]} cannot be started{last_words(log)}")
    return RunningEngine(
        kind=kind,
        url=url,
        model=launch.model,
        facts=facts,
        folder=folder,
        keeper=keeper,
        pid=int(line),
    )


def last_words(log: Path) -> str:
    """The end of a log as one bounded clause to append to a message."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        text = file.read(_TAIL_BYTES).decode(errors="replace")
    lines = [line for line in map(one_line, text.splitlines()) if line]
    words = " | ".join(lines[-_TAIL_LINES:])
    return f"; its last words: {words}" if words else " and said nothing"


def one_line(text: str, limit: int = _LINE_CHARACTERS) -> str:
    """Foreign text made fit for a message: printable, on one line, bounded."""
    clean = " ".join(_UNPRINTABLE.sub(" ", text).split())
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"
