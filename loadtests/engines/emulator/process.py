"""The emulator as a process of its own, so that gevent is not in it."""

from __future__ import annotations

import contextlib
from typing import Any

import click

from loadtests.engines.emulator.options import emulator_options, settings_from
from loadtests.engines.emulator.server import new_loop, serve
from planner.cli import Command
from planner.errors import InputError

__all__ = ["main"]


@click.command(cls=Command)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65_535), default=0, help="TCP port to listen on.")
@click.option("--context", type=click.IntRange(16), default=None, help="Tokens of a request.")
@emulator_options
def main(host: str, port: int, context: int | None, **options: Any) -> None:
    """Serve until SIGINT or SIGTERM."""
    settings = settings_from(options, context=context)
    _allow_many_connections()
    loop = new_loop()
    try:
        loop.run_until_complete(serve(settings, host, port))
    except OSError as error:
        raise InputError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    finally:
        loop.close()


def _allow_many_connections() -> None:
    """Raise the soft limit of open files to the hard one."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
