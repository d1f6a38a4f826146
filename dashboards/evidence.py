"""The evidence in a report: the table of measured levels, and how each run was measured.

Everything here is text without markup; the template escapes it.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dashboards.content import NONE, Cell
from dashboards.text import count_text, figure_name, figure_text, interval_text, plain
from planner.slots import slots_from, with_seen
from planner.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from planner.comparison import LevelRow, Sharing
    from planner.records import OperatingPoint, Recommendation, RunManifest, TargetInfo
    from planner.runfolder import Run

__all__ = [
    "PointRow",
    "RunFacts",
    "column_name",
    "emulated",
    "load_text",
    "moment_text",
    "point_columns",
    "point_groups",
    "run_facts",
]

_LOAD_NAMES = {"concurrency": "in flight", "users": "users", "rate": "req/s"}
_COLUMN_NAMES = {"output_tokens_per_s": "Output", "requests_per_s": "Answers"}
_RATE_COLUMNS = ("output_tokens_per_s", "requests_per_s")
_LATENCY_COLUMNS = ("ttft_p50_s", "ttft_p95_s", "tpot_p50_s", "tpot_p95_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class PointRow:
    """One measured level."""

    load: Cell  # and below it who was loaded at the same time
    in_flight: str
    requests: str
    errors: Cell
    figures: tuple[Cell, ...]
    window: Cell  # its length, and below it why the level ended
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """How one run was measured, as named facts in groups."""

    path: str
    facts: tuple[tuple[str, str], ...]
    targets: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]  # target, name, facts
    notes: tuple[str, ...]


def point_columns(recommendation: Recommendation | None) -> tuple[str, ...]:
    """The figures of the table of levels: rates, medians, 95th percentiles, every objective."""
    asked = () if recommendation is None else (s.figure for s in recommendation.slo)
    extra = (f for f in asked if f not in (*_LATENCY_COLUMNS, "error_rate"))
    return (*_RATE_COLUMNS, *_LATENCY_COLUMNS, *extra)


def column_name(figure: str) -> str:
    """A figure's name as a column's heading."""
    return _COLUMN_NAMES.get(figure, figure_name(figure))


def point_groups(
    measured: Sequence[tuple[Run, Sequence[OperatingPoint]]], columns: Sequence[str]
) -> tuple[tuple[str, str, tuple[PointRow, ...]], ...]:
    """(target, name, rows by load) of every level of every run."""
    rows: dict[str, list[tuple[float, PointRow]]] = {}
    for run, points in measured:
        for point in points:
            rows.setdefault(point.target, []).append((point.load, _point_row(run, point, columns)))
    return tuple(
        (target, plain(target), tuple(row for _, row in sorted(own, key=lambda pair: pair[0])))
        for target, own in rows.items()
    )


def load_text(point: OperatingPoint | LevelRow | Sharing) -> str:
    """A level's load: ``8 in flight``."""
    return f"{count_text(point.load)} {_LOAD_NAMES[point.load_kind]}"


def _point_row(run: Run, point: OperatingPoint, columns: Sequence[str]) -> PointRow:
    stages = run.manifest.stages
    inside = point.stage is not None and 0 <= point.stage < len(stages)
    reason = stages[point.stage].stop_reason if inside and point.stage is not None else None
    return PointRow(
        load=Cell(
            load_text(point),
            f"together with {', '.join(map(plain, point.together))}" if point.together else "",
        ),
        in_flight=NONE if point.in_flight_mean is None else f"{point.in_flight_mean:,.3g}",
        requests=count_text(point.completed),
        errors=_error_cell(point),
        figures=tuple(_point_cell(name, point) for name in columns),
        window=Cell(_window_text(point), plain(reason) if reason else ""),
        problems=tuple(plain(problem) for problem in point.problems),
    )


def run_facts(run: Run) -> RunFacts:
    """How a run was measured: workload, client, software, targets, and what to know about it."""
    manifest, telemetry = run.manifest, run.telemetry()
    targets = [with_seen(target, telemetry) for target in manifest.targets]
    return RunFacts(
        path=plain(run.path.name),
        facts=_facts(_manifest_facts(manifest)),
        targets=tuple((t.name, plain(t.name), _facts(_target_facts(t))) for t in targets),
        notes=tuple(plain(n) for n in (*_state_notes(manifest), *manifest.notes, *run.notes)),
    )


def _facts(pairs: Iterable[tuple[str, object]]) -> tuple[tuple[str, str], ...]:
    """Those that are known, as text."""
    return tuple((name, plain(str(value))) for name, value in pairs if value not in (None, ""))


def emulated(manifests: Iterable[RunManifest]) -> list[str]:
    """A line for each target that was an emulator, for the top of the page."""
    return list(
        dict.fromkeys(
            f"{target.name} is Headroom's emulator of {target.emulated}: "
            "its figures measure no server."
            for manifest in manifests
            for target in manifest.targets
            if target.emulated
        )
    )


def _manifest_facts(manifest: RunManifest) -> Iterable[tuple[str, object]]:
    workload, client = manifest.workload, manifest.client
    yield "Imported on" if manifest.sources else "Measured on", moment_text(manifest.started_unix_s)
    yield "Prompt tokens", workload.prompt_tokens
    yield "Output tokens", workload.output_tokens
    if manifest.sources:  # of the rest nothing is known
        for source in manifest.sources:
            tool = " ".join(part for part in (source.tool, source.version) if part)
            yield "Source", f"{source.name}, {tool}, SHA-256 {source.sha256}"
        yield "Headroom", manifest.headroom_version
        return
    yield "Temperature", f"{workload.temperature:g}"
    yield (
        "Output length",
        "as drawn (end of text ignored)" if workload.ignore_eos else "as the model ends it",
    )
    yield "Prompts", "no two share a prefix" if workload.vary_prompts else "may repeat"
    yield "Seed", manifest.seed
    yield "Client", f"{client.platform}, {client.cpu_count} CPUs"
    yield "Client CPU", client.cpu_model
    yield "Clock", client.clock
    yield "Headroom", manifest.headroom_version
    yield "Python", client.python
    yield (
        "Libraries",
        ", ".join(f"{name} {client.versions[name]}" for name in sorted(client.versions)),
    )


def _target_facts(target: TargetInfo) -> Iterable[tuple[str, object]]:
    limits, slots = target.limits, target.slot_limit
    engine = " ".join(part for part in (target.engine, target.engine_version) if part)
    yield "Backend", target.backend
    yield "Emulated", target.emulated
    yield "Engine", engine
    yield "Model", target.model
    yield "Address", target.url
    yield "API", target.api
    yield (
        "Slots",
        None
        if slots is None
        else f"{count_text(slots.slots)} decoded at once, {slots_from(slots)}",
    )
    yield (
        "Context",
        None if limits.context_tokens is None else f"{count_text(limits.context_tokens)} tokens",
    )
    yield (
        "Queue",
        None if limits.queue_limit is None else f"at most {count_text(limits.queue_limit)} waiting",
    )
    yield "Hardware", target.hardware
    yield "GPUs per replica", target.gpus_per_replica
    for name in sorted(target.settings):
        yield name[:1].upper() + name[1:], target.settings[name]
    for warning in target.warnings:
        yield "Warning", warning


def _state_notes(manifest: RunManifest) -> Iterable[str]:
    if manifest.state == "interrupted":
        yield "this run was interrupted: what was measured until then is kept"
    for stage in manifest.stages:
        if stage.invalid:
            yield f"{stage.target} at {count_text(stage.load)}: not used, {stage.invalid}"


def _point_cell(figure: str, point: OperatingPoint) -> Cell:
    estimate = point.figures.get(figure)
    if estimate is None:
        return Cell(NONE)
    return Cell(
        figure_text(figure, estimate.value), interval_text(figure, estimate.low, estimate.high)
    )


def _error_cell(point: OperatingPoint) -> Cell:
    """The number of failures; below it the interval of their share, to a tenth of a percent."""
    share = point.figures.get("error_rate")
    if share is None or share.low is None or share.high is None:
        return Cell(count_text(point.failed))
    return Cell(count_text(point.failed), f"{share.low * 100:.1f} – {share.high * 100:.1f} %")


def _window_text(point: OperatingPoint) -> str:
    if point.window_start_s is None or point.window_end_s is None:
        return NONE
    return format_duration(point.window_end_s - point.window_start_s)


def moment_text(unix_s: float) -> str:
    """A moment in UTC, to the minute."""
    try:
        return dt.datetime.fromtimestamp(unix_s, tz=dt.UTC).strftime("%-d %B %Y, %H:%M UTC")
    except (OverflowError, OSError, ValueError):
        return NONE
