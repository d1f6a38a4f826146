"""How exact and how cheap the client is on this machine: ``headroom selftest``.

The real user path (Locust users, sessions, dialect, records) is driven against the reference
server, and its records are compared with the truth that the server wrote into every event.
"""

from __future__ import annotations

import locust  # isort: skip  # noqa: F401 - first of all: it patches what the others import
import os
import time
from typing import TYPE_CHECKING

import click
from rich.box import SIMPLE_HEAD
from rich.table import Table

from loadtests.measure.proving import Level, measure_level
from loadtests.measure.validity import check_limits
from loadtests.refserver import reference_server
from loadtests.stream import clock_name
from loadtests.stream.tls import CA_VARIABLE
from planner.cli import (
    DURATION,
    EXIT_DONE,
    EXIT_INCONCLUSIVE,
    EXIT_NO,
    Command,
    console,
    print_json,
)
from planner.errors import InputError
from planner.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadtests.measure.truth import Spread

__all__ = ["selftest"]

_RAMP = (64, 256, 1024, 2048)
_LEVEL_S = 2.5
_TOTAL_S = 40.0
_TTFT_S = 0.2
_SHORTEST_ITL_S = 0.001
_MILLISECOND = 1e-3
_TWO_DIGITS = 9.95


def _levels(
    asked: int, itl_s: float, seconds: float, *, compiled: bool | None, tls: bool
) -> Iterator[Level]:
    """The asked level and those of the ramp, upwards until one above it cannot be trusted."""
    ends_s = time.monotonic() + _TOTAL_S
    with reference_server(itl_s=itl_s, ttft_s=_TTFT_S, compiled=compiled, tls=tls) as server:
        if server.ca_file is not None:  # verified as any other server: by what the user may name
            os.environ[CA_VARIABLE] = str(server.ca_file)
        for streams in sorted({asked, *_RAMP}):
            if streams > asked:
                if time.monotonic() + _LEVEL_S > ends_s:
                    return
                try:
                    check_limits(streams)
                except InputError:
                    return
            length_s = seconds if streams == asked else min(seconds, _LEVEL_S)
            level = measure_level(server, streams=streams, itl_s=itl_s, seconds=length_s)
            yield level
            if streams >= asked and level.verdict != "trusted":
                return


@click.command(cls=Command, epilog="Example: headroom selftest --streams 256 --itl 20ms")
@click.option("--streams", type=click.IntRange(1, 20_000), default=256, show_default=True,
              help="Requests in flight to judge; others are tried beside it.")  # fmt: skip
@click.option("--itl", type=DURATION, default="20ms", show_default=True,
              help="Gap between the tokens of a stream.")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(1.0, 60.0), default=5.0, show_default=True,
              help="How long to measure at --streams.")  # fmt: skip
@click.option("--python-server", is_flag=True, help="Use the slow reference server in Python.")
@click.option("--tls", is_flag=True,
              help="Over TLS, verified against a certificate made for this run.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="All figures as JSON.")
def selftest(
    streams: int, itl: float, seconds: float, python_server: bool, tls: bool, as_json: bool
) -> None:
    """Measure the client itself, against a server that stamps the truth.

    Exit codes: 0 this machine can be trusted at --streams, 1 it cannot, 3 it was too busy (or the
    reference server too slow) to tell.
    """
    if itl < _SHORTEST_ITL_S:
        raise InputError(f"--itl {itl} s is too short: at least {format_duration(_SHORTEST_ITL_S)}")
    check_limits(streams)
    levels: list[Level] = []
    say = console(stderr=True).print
    compiled = False if python_server else None
    for level in _levels(streams, itl, seconds, compiled=compiled, tls=tls):
        say(f"  {level.streams} streams: {level.verdict}", markup=False)
        levels.append(level)
    asked = next(level for level in levels if level.streams == streams)
    trusted = [level for level in levels if level.verdict == "trusted"]
    best = trusted[-1] if trusted else None
    if as_json:
        print_json(
            {
                "schema": 1,
                "clock": clock_name(),
                "tls": tls,
                "asked": asked,
                "trusted_streams": best.streams if best else 0,
                "trusted_chunks_per_s": best.chunks_per_s if best else 0.0,
                "levels": levels,
            }
        )
    else:
        _print_tables(levels, asked, best, tls=tls)
    click.get_current_context().exit(_exit_code(asked))


def _exit_code(asked: Level) -> int:
    if asked.verdict == "trusted":
        return EXIT_DONE
    return EXIT_INCONCLUSIVE if asked.verdict in {"busy", "server"} else EXIT_NO


def _print_tables(levels: list[Level], asked: Level, best: Level | None, *, tls: bool) -> None:
    out = console()
    table = Table(
        title=f"measured minus true, p50/p99{', over TLS' if tls else ''}",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for name in ("streams", "TTFT", "arrival", "ITL", "shared", "CPU/chunk", "chunks/s",
                 "waited", "verdict"):  # fmt: skip
        table.add_column(name, justify="right", no_wrap=True)
    for level in levels:
        errors, waited = level.errors, level.client.run_queue_share
        table.add_row(
            str(level.streams),
            _spread(errors.ttft),
            _spread(errors.arrival),
            _spread(errors.itl),
            f"{errors.coalesced_share or 0:.2%}",
            _microseconds(level.cpu_per_chunk_s),
            f"{level.chunks_per_s:,.0f}",
            "?" if waited is None else f"{waited:.1%}",
            level.verdict,
        )
    out.print(table)
    out.print(f"clock    {clock_name()}", markup=False)
    if best is None:
        out.print("verdict  no load tried here can be trusted on this machine", markup=False)
    else:
        out.print(
            f"verdict  trusted up to {best.streams} streams and {best.chunks_per_s:,.0f} chunks/s"
            f" at gaps of {format_duration(best.itl_s)}", markup=False,
        )  # fmt: skip
    if asked.verdict == "busy":
        out.print("others use this machine's processors now: run it again when it is quiet")
    elif asked.verdict == "server":
        out.print("the reference server could not keep its own pace: nothing can be said")


def _spread(spread: Spread) -> str:
    return "/".join(_microseconds(s) for s in (spread.p50_s, spread.p99_s))


def _microseconds(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    value, unit = (seconds * 1e6, "µs") if seconds < _MILLISECOND else (seconds * 1e3, "ms")
    return f"{value:.0f}{unit}" if value >= _TWO_DIGITS else f"{value:.1f}{unit}"
