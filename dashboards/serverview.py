"""The server's view in a report: what each server told of itself, beside what the client saw.

Everything here is text without markup; the template escapes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dashboards.content import NONE
from dashboards.evidence import load_text
from dashboards.text import count_text, figure_text, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from planner.records import OperatingPoint, ServerView

__all__ = ["ServerRow", "ServerTable", "server_tables"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRow:
    """One level: a cell for each column, and where the two views disagree."""

    load: str
    cells: tuple[tuple[str, str], ...]  # the figure, and below it a detail
    disagreements: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTable:
    """All levels at which a server told anything.

    Attributes:
        columns: headings; a figure that no server told has none.
        groups: (target, name, rows by load).
    """

    columns: tuple[str, ...]
    groups: tuple[tuple[str, str, tuple[ServerRow, ...]], ...]


def _in_flight(view: ServerView) -> tuple[str, str]:
    if view.running_mean is None:
        return NONE, ""
    waiting = view.waiting_mean
    total = view.running_mean + (waiting or 0.0)
    parts = f"{view.running_mean:,.3g} running"
    parts += f", {waiting:,.3g} waiting" if waiting is not None else ""
    return f"{total:,.3g}", parts


def _figure(name: str, value: float | None, detail: str = "") -> tuple[str, str]:
    return (NONE, "") if value is None else (figure_text(name, value), detail)


def _share(value: float | None, most: float | None = None) -> tuple[str, str]:
    if value is None:
        return NONE, ""
    return f"{value * 100:.3g} %", "" if most is None else f"at most {most * 100:.3g} %"


def _bytes(value: float | None) -> tuple[str, str]:
    return (NONE, "") if value is None else (f"{value / 2**30:,.3g} GiB", "")


def _number(value: float | None, unit: str = "") -> tuple[str, str]:
    return (NONE, "") if value is None else (f"{value:,.3g}{unit}", "")


def _queue_detail(view: ServerView) -> str:
    if view.queue_mean_s is None:
        return ""
    return f"{figure_text('ttft_mean_s', view.queue_mean_s)} of it in its queue"


def _looks(view: ServerView) -> tuple[str, str]:
    """How often the server was asked, and how often it did not answer."""
    if not view.samples + view.missed:
        return NONE, ""
    return count_text(view.samples), f"{view.missed:,} missed" if view.missed else ""


_VIEWS: dict[str, Callable[[ServerView], tuple[str, str]]] = {
    "In flight, client": lambda v: _number(v.client_in_flight_mean),
    "In flight, server": _in_flight,
    "TTFT mean, client": lambda v: _figure("ttft_mean_s", v.client_ttft_mean_s),
    "TTFT mean, server": lambda v: _figure("ttft_mean_s", v.ttft_mean_s, _queue_detail(v)),
    "Output, client": lambda v: _figure("output_tokens_per_s", v.client_output_tokens_per_s),
    "Output, server": lambda v: _figure("output_tokens_per_s", v.output_tokens_per_s),
    "Looks": _looks,
}

_RESOURCES: dict[str, Callable[[ServerView], tuple[str, str]]] = {
    "KV cache": lambda v: _share(v.kv_usage_mean, v.kv_usage_max),
    "Preempted": lambda v: (NONE, "") if v.preemptions is None else (f"{v.preemptions:,}", ""),
    "CPU cores": lambda v: _number(v.cpu_cores_mean),
    "Memory": lambda v: _bytes(v.memory_bytes_max),
    "GPU busy": lambda v: _share(v.gpu_utilisation_mean),
    "GPU memory": lambda v: _bytes(v.gpu_memory_bytes_max),
    "Power": lambda v: _number(v.power_w_mean, " W"),
    "Energy per token": lambda v: _number(v.joules_per_output_token, " J"),
}


def server_tables(points: Iterable[OperatingPoint]) -> tuple[ServerTable, ...]:
    """Client and server beside each other at every level, and what the server used for it.

    Args:
        points: of all runs.

    Returns:
        At most two tables; none where no server told anything.
    """
    told = [(point, point.server) for point in points if point.server is not None]
    tables = (_table(told, _VIEWS, disagreements=True), _table(told, _RESOURCES))
    return tuple(table for table in tables if table.columns)


def _table(
    told: Sequence[tuple[OperatingPoint, ServerView]],
    kinds: Mapping[str, Callable[[ServerView], tuple[str, str]]],
    *,
    disagreements: bool = False,
) -> ServerTable:
    """A row for each level, a column for each figure that some server told."""
    cells = [{name: cell(view) for name, cell in kinds.items()} for _, view in told]
    columns = tuple(name for name in kinds if any(row[name][0] != NONE for row in cells))
    groups: dict[str, list[tuple[float, ServerRow]]] = {}
    for (point, view), row in zip(told, cells, strict=True):
        texts = view.disagreements if disagreements else ()
        shown = ServerRow(
            load=load_text(point),
            cells=tuple(row[name] for name in columns),
            disagreements=tuple(plain(text) for text in texts),
        )
        groups.setdefault(point.target, []).append((point.load, shown))
    return ServerTable(
        columns=columns,
        groups=tuple((name, plain(name), _by_load(rows)) for name, rows in groups.items()),
    )


def _by_load(rows: Sequence[tuple[float, ServerRow]]) -> tuple[ServerRow, ...]:
    return tuple(row for _, row in sorted(rows, key=lambda pair: pair[0]))
