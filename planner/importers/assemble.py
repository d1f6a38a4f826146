"""Levels of several files put together: targets, stages and points, as a run folder keeps them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner import __version__
from planner.errors import InputError
from planner.imported import ImportedLevel, ImportedPoints
from planner.importers import points_csv
from planner.importers.levels import MOST_LOAD, point_of
from planner.records import (
    ClientFacts,
    RunManifest,
    SourceFile,
    StageInfo,
    TargetInfo,
    Workload,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from planner.importers.levels import Imported
    from planner.importers.reading import Source

__all__ = ["MOST_TARGETS", "Declared", "assembled"]

MOST_TARGETS = 100
UNKNOWN_URL = "URL"
"""Stands where a file does not tell the server's address."""
BACKENDS = ("vllm", "ollama", "llamacpp")
API_PATHS = ("/chat/completions", "/completions")
"""What some tools add to the address of a server."""
SAME_LENGTH = 0.1
"""Mean lengths of the levels of one curve may differ by this share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What the user says and the files do not; ``None``: as they say.

    Attributes:
        target: name of the one target that all levels are of.
        backend: that served it.
        hardware: as H100.
        gpus: per replica.
        curve: of several, the one to take: of a table, or a traffic scenario.
    """

    target: str | None = None
    backend: str | None = None
    hardware: str | None = None
    gpus: int | None = None
    curve: str | None = None


def assembled(
    found: Sequence[Imported], sources: Sequence[Source], declared: Declared, *, now_unix_s: float,
    notes: Iterable[str] = (),
) -> tuple[RunManifest, ImportedPoints]:  # fmt: skip
    """The manifest and the points of an import.

    Args:
        found: what the files have.
        sources: the files.
        declared: what the user adds.
        now_unix_s: the time of the import.
        notes: what a reader must be told.

    Raises:
        InputError: different models under one name, too many targets, or a load out of range.
    """
    chosen = _of_curve(found, declared.curve)
    names = _names(chosen, declared)
    groups: dict[str, list[Imported]] = {}
    for one, name in zip(chosen, names, strict=True):
        groups.setdefault(name, []).append(one)
    if len(groups) > MOST_TARGETS:
        some = ", ".join(list(groups)[:3])
        raise InputError(
            f"{len(groups):,} targets ({some}, …), at most {MOST_TARGETS} in one run: choose one "
            f"with --curve"
        )
    files = {source.path: index for index, source in enumerate(sources)}
    targets = [_target(name, group, declared) for name, group in groups.items()]
    stages: list[StageInfo] = []
    levels: list[ImportedLevel] = []
    for target in targets:
        for one in groups[target.name]:
            for level in one.levels:
                if not 0 < level.load <= MOST_LOAD:
                    raise InputError(
                        f"{one.path}: a load of {level.load:g} is out of range (above 0, at most "
                        f"{MOST_LOAD:g})"
                    )
                index = len(stages)
                stages.append(
                    StageInfo(
                        index=index,
                        target=target.name,
                        load_kind=level.load_kind,
                        load=level.load,
                        arrivals=level.arrivals,
                        started_s=0.0,
                        ended_s=level.duration_s,
                    )
                )
                levels.append(
                    point_of(
                        level, target.name, target.backend, index, _source(one), files[one.path]
                    )
                )
    points = ImportedPoints(levels=tuple(levels))
    origin = {one.path: one for one in found}
    manifest = RunManifest(
        headroom_version=__version__,
        started_unix_s=now_unix_s,
        state="complete",
        seed=0,
        targets=tuple(targets),
        workload=Workload(
            prompt_tokens=_mean([level.point.prompt_tokens_mean for level in levels]),
            output_tokens=_mean([level.point.output_tokens_mean for level in levels]),
        ),
        stages=tuple(stages),
        client=ClientFacts(
            platform=", ".join(sorted({_source(one) for one in chosen}))[:300],
            cpu_count=None,
            python=None,
            clock=None,
        ),
        notes=tuple(notes),
        sources=tuple(
            SourceFile(
                name=source.path.name[:300],
                sha256=source.sha256,
                tool=origin[source.path].tool,
                version=origin[source.path].version,
            )
            for source in sources
        ),
    )
    return manifest, points


def _of_curve(found: Sequence[Imported], curve: str | None) -> list[Imported]:
    if curve is None:
        return list(found)
    chosen = [one for one in found if one.curve and curve in (one.curve, one.curve.split()[-1])]
    if not chosen:
        some = ", ".join(one.curve for one in found if one.curve)[:200] or "none"
        raise InputError(f"no curve {curve!r} in these files: they have {some}")
    return chosen


def _names(found: Sequence[Imported], declared: Declared) -> list[str]:
    """The target that each file's levels are of.

    Files of one tool, one model and one curve are levels of one target.
    """
    if declared.target is not None:
        models = {one.model for one in found if one.model}
        curves = {one.curve for one in found if one.curve}
        for what, told in (("models", models), ("curves", curves)):
            if len(told) > 1:
                raise InputError(
                    f"--target {declared.target} names one target, the files have several {what}: "
                    f"{', '.join(sorted(told))[:200]}"
                    f"{'; take one with --curve' if what == 'curves' else ''}"
                )
        return [declared.target] * len(found)
    return [_name(one, [other for other in found if other.tool == one.tool]) for one in found]


def _name(one: Imported, alike: Sequence[Imported]) -> str:
    """The tool, with what tells its files apart; a table's curves are known by their names."""
    if one.curve and one.tool == points_csv.NAME:
        return one.curve[:300]
    several = [
        told
        for told, all_told in (
            (one.model, {other.model for other in alike}),
            (one.curve, {other.curve for other in alike}),
        )
        if told and len(all_told) > 1
    ]
    return " ".join([one.tool, *several])[:300]


def _target(name: str, group: Sequence[Imported], declared: Declared) -> TargetInfo:
    first = group[0]
    backend = declared.backend or _backend(first.engine)
    return TargetInfo(
        name=name,
        backend=backend,
        url=_bare(first.url) or UNKNOWN_URL,
        model=first.model,
        engine=first.engine,
        engine_version=first.engine_version,
        hardware=declared.hardware or first.hardware,
        gpus_per_replica=declared.gpus or first.gpus,
        settings=_settings(group),
        warnings=_warnings(group),
    )


def _backend(engine: str | None) -> str:
    """The backend that an engine's name tells; otherwise one that speaks OpenAI's protocol."""
    plain = "".join(c for c in (engine or "").casefold() if c.isalnum())
    return next((backend for backend in BACKENDS if backend in plain), "openai")


def _bare(url: str | None) -> str | None:
    """A server's URL: without credentials, query, and the path of one API."""
    if url is None:
        return None
    scheme, separator, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    bare = f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path.partition('?')[0]}"
    for api in API_PATHS:
        bare = bare.removesuffix(api)
    return bare[:300]


def _settings(group: Sequence[Imported]) -> dict[str, str]:
    """What all files say alike."""
    return {
        key: value
        for key, value in group[0].settings.items()
        if all(one.settings.get(key) == value for one in group)
    }


def _warnings(group: Sequence[Imported]) -> tuple[str, ...]:
    """What about the files may spoil a curve."""
    tools = ", ".join(sorted({_source(one) for one in group}))
    told = [f"imported from {tools}, not measured by Headroom: requests count as independent"]
    levels = [level for one in group for level in one.levels]
    for what in ("prompt", "output"):
        lengths: Mapping[float, float] = {
            level.load: mean for level in levels if (mean := getattr(level, f"{what}_tokens_mean"))
        }
        if lengths and max(lengths.values()) > (1 + SAME_LENGTH) * min(lengths.values()):
            low, high = min(lengths.values()), max(lengths.values())
            told.append(
                f"the levels differ in their {what} length, from {low:.0f} to {high:.0f} tokens: "
                f"they do not lie on one curve"
            )
    noiseless = [
        level.load
        for level in levels
        if not level.values and all(not x.quantiles and x.std_s is None
                                    for x in level.latencies.values())
    ]  # fmt: skip
    if noiseless:
        told.append(
            "the file tells no spread: intervals hold the error of the curve, not the noise of "
            "the measurement"
        )
    short = [
        f"{level.load:g}"
        for level in levels
        if level.load_kind == "concurrency"
        and level.completed > 1
        and level.completed < _ROUNDS * level.load
    ]
    if short:
        told.append(
            f"fewer than {_ROUNDS} answers per request in flight at {', '.join(short)}: the first "
            f"and the last of them weigh in the throughput"
        )
    return tuple(told)


_ROUNDS = 5


def _source(one: Imported) -> str:
    return f"{one.tool} {one.version}" if one.version else one.tool


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{math.fsum(known) / len(known):.0f}" if known else "not told"
