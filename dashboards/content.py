"""What the report says: from records to the words, cells and rows that its template lays out.

Everything here is text without markup; the template escapes it.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dashboards.text import count_text, figure_name, figure_text, interval_text, plain, tick_text
from planner.units import format_duration, percentile_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from planner.records import OperatingPoint, Option, Predicted, Recommendation, RunManifest, Slo
    from planner.runfolder import Run

__all__ = [
    "Cell",
    "OptionRow",
    "PointRow",
    "RunFacts",
    "Tile",
    "capacity_rows",
    "column_name",
    "crossover_rows",
    "option_rows",
    "point_columns",
    "point_groups",
    "run_facts",
    "share_text",
    "tiles",
]

NONE = "–"
_LOAD_NAMES = {"concurrency": "in flight", "users": "users", "rate": "req/s"}
_COLUMN_NAMES = {"output_tokens_per_s": "Output", "requests_per_s": "Answers"}
_RATE_COLUMNS = ("output_tokens_per_s", "requests_per_s")
_LATENCY_COLUMNS = ("ttft_p50_s", "ttft_p95_s", "tpot_p50_s", "tpot_p95_s")


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure in a table: its value, its interval, and how far it stands from the evidence."""

    value: str
    interval: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True)
class Tile:
    """One fact of the verdict."""

    name: str
    value: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionRow:
    """One option: whether it is the recommended one, its counts and its predicted figures."""

    target: str
    name: str
    detail: str
    recommended: bool
    replicas: str
    gpus: str
    cost: str
    confidence: str
    binding: str
    figures: tuple[Cell, ...]
    refused: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PointRow:
    """One measured level."""

    load: str
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


def share_text(share: float | None) -> str:
    """A probability in whole percent, never rounded up to certainty."""
    if share is None or not math.isfinite(share):
        return NONE
    if share > 0.99:  # noqa: PLR2004 - "100 %" would claim certainty
        return "> 99 %"
    return "< 1 %" if share < 0.01 else f"{math.floor(share * 100 + 1e-9)} %"  # noqa: PLR2004


def tiles(recommendation: Recommendation) -> tuple[Tile, ...]:
    """The recommended option at a glance; empty when nothing is recommended."""
    best = recommendation.recommended
    if best is None:
        return ()
    found = [
        Tile(
            "Confidence",
            share_text(best.confidence),
            f"asked: {share_text(recommendation.confidence)}",
        ),
        Tile("Replicas", _count(best.replicas), _spare_text(recommendation.spare)),
    ]
    if best.gpus is not None:
        found.append(Tile("GPUs", _count(best.gpus), best.hardware or ""))
    if best.cost_per_hour is not None:
        found.append(Tile("Cost per hour", f"{best.cost_per_hour:,.2f}"))
    if best.binding is not None:
        slo = next((s for s in recommendation.slo if best.binding in (s.figure, s.text)), None)
        found.append(Tile("Decided by", _binding_name(best.binding), _bound_text(slo)))
    for objective in recommendation.slo:
        predicted = best.predicted.get(objective.figure)
        if predicted is not None and predicted.value is not None:
            cell = _predicted_cell(objective.figure, predicted)
            found.append(
                Tile(
                    f"{figure_name(objective.figure)} then",
                    cell.value,
                    f"{cell.interval}, {cell.label}",
                )
            )
    return tuple(found)


def option_rows(recommendation: Recommendation, figures: Sequence[str]) -> tuple[OptionRow, ...]:
    """A row per option, in the ranked order.

    Args:
        recommendation: the answer.
        figures: names of the predicted figures to show, one column each.
    """
    best = recommendation.recommended
    return tuple(
        OptionRow(
            target=option.target,
            name=plain(option.target),
            detail=" · ".join(plain(t) for t in (option.backend, option.hardware) if t),
            recommended=best is not None and option.target == best.target,
            replicas=_count(option.replicas),
            gpus=_count(option.gpus),
            cost=NONE if option.cost_per_hour is None else f"{option.cost_per_hour:,.2f}",
            confidence=share_text(option.confidence),
            binding=NONE if option.binding is None else _binding_name(option.binding),
            figures=tuple(_predicted_cell(f, option.predicted.get(f)) for f in figures),
            refused=None if option.refused is None else plain(option.refused),
            notes=tuple(plain(note) for note in option.notes),
        )
        for option in recommendation.options
    )


def capacity_rows(
    options: Iterable[Option],
) -> tuple[tuple[str, ...], tuple[tuple[str, str, tuple[str, ...]], ...]]:
    """Users that one replica carries: the confidences as headings, then (target, name, counts)."""
    shown = [option for option in options if option.users_per_replica]
    keys = sorted({key for option in shown for key in option.users_per_replica}, key=float)
    rows = tuple(
        (o.target, plain(o.target), tuple(_count(o.users_per_replica.get(k)) for k in keys))
        for o in shown
    )
    return tuple(f"{float(key) * 100:g} %" for key in keys), rows


def crossover_rows(recommendation: Recommendation) -> tuple[tuple[str, str, str], ...]:
    """(range of users, target, name) for each stretch on which one target is the best answer."""
    steps = recommendation.crossovers
    ends = [step.from_users - 1 for step in steps[1:]]
    ranges = [_range_text(s.from_users, end) for s, end in zip(steps, [*ends, None], strict=True)]
    return tuple((r, s.target, plain(s.target)) for r, s in zip(ranges, steps, strict=True))


def point_columns(recommendation: Recommendation | None) -> tuple[str, ...]:
    """The figures of the table of levels: rates, medians and 95th percentiles, and every objective."""
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


def _point_row(run: Run, point: OperatingPoint, columns: Sequence[str]) -> PointRow:
    stages = run.manifest.stages
    inside = point.stage is not None and 0 <= point.stage < len(stages)
    reason = stages[point.stage].stop_reason if inside and point.stage is not None else None
    return PointRow(
        load=f"{count_text(point.load)} {_LOAD_NAMES[point.load_kind]}",
        in_flight=NONE if point.in_flight_mean is None else f"{point.in_flight_mean:,.3g}",
        requests=count_text(point.completed),
        errors=_error_cell(point),
        figures=tuple(_point_cell(name, point) for name in columns),
        window=Cell(_window_text(point), plain(reason) if reason else ""),
        problems=tuple(plain(problem) for problem in point.problems),
    )


def run_facts(run: Run) -> RunFacts:
    """How a run was measured: workload, client, software, targets, and what to know about it."""
    manifest = run.manifest
    return RunFacts(
        path=plain(run.path.name),
        facts=_facts(_manifest_facts(manifest)),
        targets=tuple(
            (t.name, plain(t.name), _facts(_target_facts(manifest, i)))
            for i, t in enumerate(manifest.targets)
        ),
        notes=tuple(plain(n) for n in (*_state_notes(manifest), *manifest.notes, *run.notes)),
    )


def _facts(pairs: Iterable[tuple[str, object]]) -> tuple[tuple[str, str], ...]:
    """Those that are known, as text."""
    return tuple((name, plain(str(value))) for name, value in pairs if value not in (None, ""))


def _manifest_facts(manifest: RunManifest) -> Iterable[tuple[str, object]]:
    workload, client = manifest.workload, manifest.client
    yield "Measured on", _moment_text(manifest.started_unix_s)
    yield "Prompt tokens", workload.prompt_tokens
    yield "Output tokens", workload.output_tokens
    yield "Temperature", f"{workload.temperature:g}"
    yield (
        "Output length",
        "as drawn (end of text ignored)" if workload.ignore_eos else "as the model ends it",
    )
    yield "Prompts", "no two share a prefix" if workload.vary_prompts else "may repeat"
    yield "API", workload.api
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


def _target_facts(manifest: RunManifest, index: int) -> Iterable[tuple[str, object]]:
    target = manifest.targets[index]
    limits = target.limits
    engine = " ".join(part for part in (target.engine, target.engine_version) if part)
    yield "Backend", target.backend
    yield "Engine", engine
    yield "Model", target.model
    yield "Address", target.url
    yield "Slots", None if limits.slots is None else f"{count_text(limits.slots)} decoded at once"
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
        yield name, target.settings[name]
    for warning in target.warnings:
        yield "Warning", warning


def _state_notes(manifest: RunManifest) -> Iterable[str]:
    if manifest.state == "interrupted":
        yield "this run was interrupted: what was measured until then is kept"
    for stage in manifest.stages:
        if stage.invalid:
            yield f"{stage.target} at {count_text(stage.load)}: not used, {stage.invalid}"


def _predicted_cell(figure: str, predicted: Predicted | None) -> Cell:
    if predicted is None or predicted.value is None:
        return Cell(NONE, label="" if predicted is None else predicted.label)
    return Cell(
        figure_text(figure, predicted.value),
        interval_text(figure, predicted.low, predicted.high),
        predicted.label,
    )


def _point_cell(figure: str, point: OperatingPoint) -> Cell:
    estimate = point.figures.get(figure)
    if estimate is None:
        return Cell(NONE)
    return Cell(
        figure_text(figure, estimate.value), interval_text(figure, estimate.low, estimate.high)
    )


def _error_cell(point: OperatingPoint) -> Cell:
    interval = _point_cell("error_rate", point).interval
    return Cell(count_text(point.failed), interval)


def _window_text(point: OperatingPoint) -> str:
    if point.window_start_s is None or point.window_end_s is None:
        return NONE
    return format_duration(point.window_end_s - point.window_start_s)


def _binding_name(binding: str) -> str:
    """The binding objective, whether the planner names it by its figure or by its text."""
    return figure_name(binding) if percentile_of(binding) or "<=" not in binding else plain(binding)


def _bound_text(slo: Slo | None) -> str:
    return "" if slo is None else f"must be ≤ {tick_text(slo.figure, slo.bound)}"


def _spare_text(spare: int) -> str:
    return f"of them {spare} spare" if spare else "no spare"


def _count(value: int | None) -> str:
    return NONE if value is None else count_text(value)


def _range_text(first: int, last: int | None) -> str:
    if last is None:
        return f"from {count_text(first)} on"
    return count_text(first) if first == last else f"{count_text(first)} – {count_text(last)}"


def _moment_text(unix_s: float) -> str:
    try:
        return dt.datetime.fromtimestamp(unix_s, tz=dt.UTC).strftime("%-d %B %Y, %H:%M UTC")
    except (OverflowError, OSError, ValueError):
        return NONE
