"""The server's view of a stage, and whether it agrees with what the client saw.

The two views are compared over the very same moments: gauges against the client's count at the
moment of each sample, counters from the first sample in the window to the last. What is left is a
difference, not an accident of sampling.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from msgspec.structs import replace

from planner.parts import part_of
from planner.records import ServerView
from planner.steady import Window
from planner.table import OK
from planner.telemetry import ENGINE_SOURCES
from planner.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from planner.parts import Part
    from planner.runfolder import Run
    from planner.table import Floats
    from planner.telemetry import Series, Telemetry

__all__ = ["disagreements", "server_view"]

IN_FLIGHT_TOLERANCE = 0.5, 0.15
"""Requests, and share of the client's: so much may running + waiting differ from in flight, and
two standard errors of the differences more."""

TTFT_TOLERANCE = 0.020, 0.20
"""Seconds, and share of the client's mean: so much may two means of TTFT differ."""

TOKENS_TOLERANCE = 0.05
"""Share of the client's tokens, beside one request's for each in flight: these may be counted on
either side of an edge."""

_FEWEST_SAMPLES = 3
_FEWEST_FIRST_TOKENS = 10
_LOADS = {"concurrency": "in flight", "users": "users", "rate": "requests/s"}


class _Increase(NamedTuple):
    """How much a counter grew from the first sample in a window to the last."""

    amount: float
    between: Window


def server_view(telemetry: Telemetry, parts: Sequence[Part]) -> ServerView | None:
    """A level as its server saw it, beside the client's view of the same moments.

    Args:
        telemetry: of the run.
        parts: the stages that the level is made of, all of one target.

    Returns:
        ``None`` where nobody looked in any of the windows. A stage that must not be used has no
        disagreements: most often the client was the limit, and then its own figures are off.
    """
    told = _Told(telemetry, parts)
    sources = telemetry.sources(told.target)
    if not any(len(told.all(source, name)) for source, name in told.names(sources)):
        return None
    page = told.source_of("scrape_s")
    running, waiting, in_flight = _in_flight(told)
    view = ServerView(
        samples=len(told.all(page, "scrape_s")),
        missed=len(told.all(page, "missed")),
        running_mean=_mean(running),
        waiting_mean=_mean(waiting),
        client_in_flight_mean=_mean(in_flight),
        kv_usage_mean=_mean(told.engine("kv_usage")),
        kv_usage_max=_max(told.engine("kv_usage")),
        queue_mean_s=told.histogram_mean("queue_s"),
        preemptions=_whole(told.increase("preemptions_total")),
        cpu_cores_mean=_mean(told.all("process", "cpu_cores")),
        memory_bytes_max=_max(told.all("process", "memory_bytes")),
    )
    view = _with_ttft(view, told)
    view = _with_tokens(view, told)
    view = _with_gpus(view, told, sources)
    if any(part.stage.invalid for part in parts):
        return view  # why it must not be used is told; nothing that differs in it blames the way
    return replace(view, disagreements=_disagreements(view, told, running, waiting, in_flight))


def disagreements(run: Run) -> tuple[str, ...]:
    """Where servers and client differ beyond tolerance, a sentence each, stage after stage."""
    telemetry = run.telemetry()
    if not telemetry.series:
        return ()
    views = (server_view(telemetry, (part_of(run, stage),)) for stage in run.manifest.stages)
    return tuple(text for view in views if view is not None for text in view.disagreements)


class _Told:
    """The samples of one level's windows."""

    def __init__(self, telemetry: Telemetry, parts: Sequence[Part]) -> None:
        self.parts, self.stage = parts, parts[0].stage
        self.target = self.stage.target
        self._telemetry = telemetry

    def names(self, sources: Sequence[str]) -> list[tuple[str, str]]:
        """(source, name) of all that was ever told of the target."""
        keys = self._telemetry.series
        return [(s, name) for of, s, name in keys if of == self.target and s in sources]

    def each(self, source: str, name: str) -> list[Series]:
        """One figure in each window."""
        series = self._telemetry.find(self.target, source, name)
        return [series.within(part.window) for part in self.parts]

    def all(self, source: str, name: str) -> Floats:
        """(n,) values of one figure in all windows."""
        return np.concatenate([series.value for series in self.each(source, name)])

    def source_of(self, name: str) -> str:
        """The best page that tells a figure in these windows; the best of all if none does."""
        told = (source for source in ENGINE_SOURCES if len(self.all(source, name)))
        return next(told, ENGINE_SOURCES[0])

    def engine(self, name: str) -> Floats:
        """(n,) values of a figure of the engine's."""
        return self.all(self.source_of(name), name)

    def increases(self, name: str, source: str | None = None) -> list[_Increase | None]:
        """A counter's growth in each window; ``None``: not known, or the server restarted."""
        found: list[_Increase | None] = []
        for time_s, value in self.each(source or self.source_of(name), name):
            if len(value) > 1 and (np.diff(value) >= 0).all():
                between = Window(float(time_s[0]), float(time_s[-1]))
                found.append(_Increase(float(value[-1] - value[0]), between))
            else:
                found.append(None)
        return found

    def increase(self, name: str) -> float | None:
        """A counter's growth in all windows where it is known."""
        known = [increase.amount for increase in self.increases(name) if increase is not None]
        return sum(known) if known else None

    def histogram_mean(self, name: str) -> float | None:
        """Mean of the observations that a histogram took in the windows."""
        total, count = self.increase(f"{name}_sum"), self.increase(f"{name}_count")
        return total / count if total is not None and count else None


def _in_flight(told: _Told) -> tuple[Floats, Floats, Floats]:
    """(n,) running, waiting (NaN where not told) and the client's in flight, at each sample."""
    source = told.source_of("running")
    columns: list[tuple[Floats, Floats, Floats]] = []
    pairs = zip(told.each(source, "running"), told.each(source, "waiting"), strict=True)
    for part, (running, waiting) in zip(told.parts, pairs, strict=True):
        queued = np.full(len(running.value), np.nan)
        _, mine, theirs = np.intersect1d(running.time_s, waiting.time_s, return_indices=True)
        queued[mine] = waiting.value[theirs]
        sent, ended = np.sort(part.table.sent_s), np.sort(part.table.ended_s)
        count = np.searchsorted(sent, running.time_s, "right")
        count = count - np.searchsorted(ended, running.time_s, "right")
        columns.append((running.value, queued, count.astype(np.float64)))
    running_, waiting_, client = (np.concatenate(column) for column in zip(*columns, strict=True))
    return running_, waiting_, client


def _with_ttft(view: ServerView, told: _Told) -> ServerView:
    """The server's mean TTFT, and the client's over the same time, where both saw enough."""
    mean_s = told.histogram_mean("ttft_s")
    counted = told.increase("ttft_s_count") or 0.0
    seen: list[Floats] = []
    for part, increase in zip(told.parts, told.increases("ttft_s_count"), strict=True):
        if increase is not None:
            moment = part.table.first_token_s
            inside = (moment > increase.between.start_s) & (moment <= increase.between.end_s)
            seen.append(part.table.ttft_from_send_s[inside])
    client = np.concatenate(seen) if seen else np.zeros(0)
    if mean_s is None or min(counted, len(client)) < _FEWEST_FIRST_TOKENS:
        return replace(view, ttft_mean_s=mean_s)
    return replace(view, ttft_mean_s=mean_s, client_ttft_mean_s=float(client.mean()))


def _with_tokens(view: ServerView, told: _Told) -> ServerView:
    """Output tokens per second by the server's counter, and by the client over the same time."""
    for name, count in (
        ("output_tokens_total", _tokens_made),
        ("finished_output_tokens_total", _tokens_finished),
    ):
        found = _counted(told, name, count)
        if found is not None:
            server, client, seconds = found
            return replace(
                view,
                output_tokens_per_s=server / seconds,
                client_output_tokens_per_s=None if client is None else client / seconds,
            )
    return view


def _counted(
    told: _Told, name: str, count: Callable[[Part, Window], float | None]
) -> tuple[float, float | None, float] | None:
    """A counter's growth, what the client counted meanwhile, and the seconds that it took."""
    server, seconds = 0.0, 0.0
    client: float | None = 0.0
    for part, increase in zip(told.parts, told.increases(name), strict=True):
        if increase is not None:
            server += increase.amount
            seconds += increase.between.end_s - increase.between.start_s
            mine = count(part, increase.between)
            client = None if client is None or mine is None else client + mine
    return (server, client, seconds) if seconds > 0 else None


def _tokens_made(part: Part, window: Window) -> float | None:
    return dataclasses.replace(part, window=window).tokens_made()


def _tokens_finished(part: Part, window: Window) -> float | None:
    """Output tokens of the requests that ended well in a window."""
    ended_s = part.table.ended_s
    inside = (ended_s > window.start_s) & (ended_s <= window.end_s) & (part.table.status == OK)
    tokens = part.table.output_tokens[inside]
    return float(tokens.sum()) if np.isfinite(tokens).all() else None


def _with_gpus(view: ServerView, told: _Told, sources: Sequence[str]) -> ServerView:
    """Figures of the GPUs on which the server's processes ran."""
    gpus = [s for s in sources if s.startswith("gpu") and (told.all(s, "serves") > 0).any()]
    if not gpus:
        return view
    power_w = [_mean(told.all(gpu, "power_w")) for gpu in gpus]
    memory = [_max(told.all(gpu, "memory_bytes")) for gpu in gpus]
    return replace(
        view,
        gpu_utilisation_mean=_mean(np.concatenate([told.all(g, "utilisation") for g in gpus])),
        gpu_memory_bytes_max=_sum(memory),
        power_w_mean=_sum(power_w),
        joules_per_output_token=_joules_per_token(told, gpus),
    )


def _joules_per_token(told: _Told, gpus: Sequence[str]) -> float | None:
    """Energy of all the GPUs over the client's output tokens of the same seconds.

    By the GPU's energy counter, or where it has none by its mean power. What it draws when idle
    counts: it is paid for.
    """
    joules = 0.0
    tokens: float | None = None
    for gpu in gpus:
        tokens = 0.0
        counters = told.increases("energy_j_total", gpu)
        for part, counter, power in zip(
            told.parts, counters, told.each(gpu, "power_w"), strict=True
        ):
            if counter is None and len(power.value) > 1:
                between = Window(float(power.time_s[0]), float(power.time_s[-1]))
                amount = float(np.trapezoid(power.value, power.time_s))
                counter = _Increase(amount, between)  # noqa: PLW2901 - the same, by its power
            made = None if counter is None else _tokens_made(part, counter.between)
            if counter is None or made is None:
                return None
            joules += counter.amount
            tokens += made
    return joules / tokens if tokens else None


def _disagreements(
    view: ServerView, told: _Told, running: Floats, waiting: Floats, in_flight: Floats
) -> tuple[str, ...]:
    """Where the two views differ by more than is tolerated, one sentence each."""
    where = f"{told.target} at {told.stage.load:g} {_LOADS[told.stage.load_kind]}"
    found = (
        _of_in_flight(running + waiting - in_flight, in_flight),
        _of_ttft(view.ttft_mean_s, view.client_ttft_mean_s),
        _of_tokens(view, told),
    )
    return tuple(f"{where}: {text}" for text in found if text)


def _of_in_flight(difference: Floats, in_flight: Floats) -> str | None:
    known = np.isfinite(difference)
    difference, in_flight = difference[known], in_flight[known]
    if len(difference) < _FEWEST_SAMPLES:
        return None
    off, client = float(difference.mean()), float(in_flight.mean())
    fixed, share = IN_FLIGHT_TOLERANCE
    noise = 2 * float(difference.std(ddof=1)) / len(difference) ** 0.5
    tolerance = fixed + share * client + noise
    if abs(off) <= tolerance:
        return None
    why = (
        "somebody else's requests are on this server"
        if off > 0
        else "requests wait where the server does not count them (its HTTP threads, a proxy), "
        "or several servers stand behind one address"
    )
    return (
        f"the server counted {client + off:.3g} requests running or waiting, the client had "
        f"{client:.3g} in flight (tolerance {tolerance:.2g}): {why}"
    )


def _of_ttft(server_s: float | None, client_s: float | None) -> str | None:
    if server_s is None or client_s is None:
        return None
    fixed_s, share = TTFT_TOLERANCE
    tolerance_s = fixed_s + share * client_s
    if abs(client_s - server_s) <= tolerance_s:
        return None
    why = (
        "the time goes before the engine or on the way back (HTTP front end, proxy, network)"
        if client_s > server_s
        else "the server's histogram holds requests that are not this client's"
    )
    return (
        f"the client's mean TTFT is {format_duration(client_s)}, the server's own "
        f"{format_duration(server_s)} (tolerance {format_duration(tolerance_s)}): {why}"
    )


def _of_tokens(view: ServerView, told: _Told) -> str | None:
    server, client = view.output_tokens_per_s, view.client_output_tokens_per_s
    if server is None or client is None:
        return None
    seconds = sum(part.seconds for part in told.parts)
    tokens = np.concatenate([part.rows.output_tokens for part in told.parts])
    tokens = tokens[np.isfinite(tokens)]
    if not len(tokens) or not seconds:
        return None
    at_edges = max(view.client_in_flight_mean or 0.0, 1.0) * float(tokens.mean()) / seconds
    tolerance = TOKENS_TOLERANCE * client + at_edges
    if abs(server - client) <= tolerance:
        return None
    why = (
        "somebody else's load is on this server, or the client cannot count all its tokens"
        if server > client
        else "several servers stand behind one address, or its counter counts otherwise"
    )
    return (
        f"the server counted {server:.4g} output tokens/s, the client {client:.4g} "
        f"(tolerance {tolerance:.2g}): {why}"
    )


def _mean(values: Floats) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def _max(values: Floats) -> float | None:
    return float(values.max()) if len(values) else None


def _sum(values: Sequence[float | None]) -> float | None:
    """The sum; ``None`` if any of them is not known."""
    known = [value for value in values if value is not None]
    return sum(known) if values and len(known) == len(values) else None


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)
