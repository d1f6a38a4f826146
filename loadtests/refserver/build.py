"""Compile the reference server on first use into the user's cache folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from loadtests.engines.model import cache_folder
from planner.errors import EngineError

__all__ = ["build"]

SOURCE = Path(__file__).with_name("server.c")
_SOURCES = tuple(sorted(SOURCE.parent.glob("*.[ch]")))
_FLAGS = ("-O2", "-std=gnu11")
_TLS_FLAGS, _TLS_LIBRARIES = ("-DTLS",), ("-lssl", "-lcrypto")
_PATIENCE_S = 120.0
_SHOWN = 300


def build(cache: Path | None = None, *, tls: bool = False) -> Path:
    """The compiled server, made unless this source was compiled before.

    Args:
        cache: the folder to keep it in; the user's cache folder if not given.
        tls: the one that can speak TLS, which needs OpenSSL's headers.

    Raises:
        EngineError: this is not Linux, there is no compiler, or it fails.
    """
    if not sys.platform.startswith("linux"):
        raise EngineError("the reference server in C needs Linux (epoll, kernel timestamps)")
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None:
        raise EngineError("no C compiler (cc) is installed for the reference server")
    flags = (*_FLAGS, *(_TLS_FLAGS if tls else ()))
    sources = (path.read_bytes() for path in _SOURCES)
    mark = hashlib.sha256(b"\0".join((*sources, *(flag.encode() for flag in flags)))).hexdigest()
    program = (cache or cache_folder()) / "refserver" / f"server-{mark[:16]}"
    if not os.access(program, os.X_OK):
        try:
            program.parent.mkdir(parents=True, exist_ok=True)
            _compile(compiler, flags, _TLS_LIBRARIES if tls else (), program)
        except OSError as error:
            raise EngineError(f"the reference server cannot be kept: {error}") from error
    return program


def _compile(
    compiler: str, flags: tuple[str, ...], libraries: tuple[str, ...], program: Path
) -> None:
    """Compile beside and rename, so that two processes that do it at once do no harm."""
    with tempfile.TemporaryDirectory(dir=program.parent) as folder:
        made = Path(folder) / "server"
        try:
            done = subprocess.run(  # noqa: S603 - our own source, the user's compiler
                [compiler, *flags, "-o", str(made), str(SOURCE), *libraries],
                capture_output=True, text=True, timeout=_PATIENCE_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise EngineError(f"{compiler} did not end within {_PATIENCE_S:.0f} s") from error
        if done.returncode != 0:
            why = " ".join(done.stderr.split())[:_SHOWN]
            raise EngineError(f"{compiler} cannot compile the reference server: {why}")
        made.replace(program)
