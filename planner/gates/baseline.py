"""A baseline small enough to be committed: a run's figures with what their intervals rest on.

It holds no request. A rule against it has the same statistics as against the run folder, for the
figures that it holds: mean, p50, p90, p95, p99, rates and error rate, and the percentiles and the
goodput of the rules it was saved with. It cannot give another percentile, goodput by other
objectives, or capacity.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from planner.compare import LevelData  # noqa: TC001 - msgspec reads it at run time
from planner.errors import InputError
from planner.gates.levels import Level, Question
from planner.records import Name, Record, RunManifest, Slo
from planner.units import percentile_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planner.records import Estimate, TargetInfo

__all__ = [
    "MAX_BYTES",
    "Baseline",
    "Held",
    "bare_manifest",
    "encode_baseline",
    "held_levels",
    "parse_baseline",
]

SCHEMA = 2
MAX_BYTES = 8 * 2**20
MAX_LEVELS = 2000
_MOST = 1e15
_LOOPBACK = ("127.", "localhost", "::1")


class Held(Record, frozen=True, kw_only=True):
    """A level with the figures of one question.

    Attributes:
        quantile: whose percentiles it holds; ``None``: means, rates and the error rate.
        slo: objectives by which it holds goodput, and nothing else; none: it holds no goodput.
        level: as it was measured; of its figures only those.
    """

    quantile: float | None
    slo: Annotated[tuple[Slo, ...], msgspec.Meta(max_length=50)] = ()
    level: Level

    @property
    def question(self) -> Question:
        """The question that it answers."""
        return Question(self.quantile, self.slo)


class Baseline(Record, frozen=True, kw_only=True):
    """A saved baseline. It names no server: a file that is committed is read by many.

    Attributes:
        manifest: of the run, with what must be alike in a run that is compared with it.
        levels: its usable levels.
    """

    kind: Literal["headroom baseline"] = "headroom baseline"
    schema: int = SCHEMA
    headroom_version: Name
    manifest: RunManifest
    levels: Annotated[tuple[Held, ...], msgspec.Meta(max_length=MAX_LEVELS * 10)]


class _Head(msgspec.Struct):
    """What says whether the rest can be read."""

    kind: str = ""
    schema: int = 0


def bare_manifest(manifest: RunManifest) -> RunManifest:
    """A manifest with what is compared, and neither addresses nor notes."""
    return msgspec.structs.replace(
        manifest,
        targets=tuple(_bare_target(target) for target in manifest.targets),
        client=msgspec.structs.replace(manifest.client, versions={}),
        stages=(),
        plan=None,
        notes=(),
        workers=(),
    )


def _bare_target(target: TargetInfo) -> TargetInfo:
    # Of an address it matters only whether it was the client's own machine, whose processor counts.
    local = (urlsplit(target.url).hostname or "").startswith(_LOOPBACK)
    url = "http://127.0.0.1" if local else ""
    return msgspec.structs.replace(target, url=url, warnings=())


def held_levels(levels: Sequence[Level], question: Question) -> tuple[Held, ...]:
    """The usable levels with the figures of one question, to be saved."""
    return tuple(
        Held(quantile=question.quantile, slo=question.slo, level=_only(level, question))
        for level in levels
        if not level.data.point.problems
    )


def _only(level: Level, question: Question) -> Level:
    point = level.data.point
    figures = {
        name: figure
        for name, figure in point.figures.items()
        if percentile_of(name) == question.quantile
        and (not question.slo or name.startswith("goodput"))
    }
    data = level.data
    data = msgspec.structs.replace(
        data,
        point=msgspec.structs.replace(point, figures=figures),
        effective=_finite(data.effective),
        inflation=_finite(data.inflation),
        freedom=_finite(data.freedom),
    )
    return msgspec.structs.replace(level, data=data)


def _finite(numbers: Mapping[str, float]) -> dict[str, float]:
    """What JSON can hold; infinitely many degrees of freedom are the same as none stated."""
    return {name: number for name, number in numbers.items() if math.isfinite(number)}


def encode_baseline(baseline: Baseline) -> bytes:
    """The bytes of a baseline's file.

    Raises:
        InputError: more levels than a file may hold.
    """
    data = msgspec.json.format(msgspec.json.encode(baseline), indent=1) + b"\n"
    if len(data) > MAX_BYTES or len(baseline.levels) > MAX_LEVELS * 10:
        raise InputError(
            f"the run has too many levels for a baseline file ({len(baseline.levels)} with "
            f"{len(data)} bytes, the bounds are {MAX_LEVELS * 10} and {MAX_BYTES}): keep the run "
            f"folder as the baseline"
        )
    return data


def parse_baseline(data: bytes, what: str) -> Baseline:
    """A baseline from the bytes of its file.

    Raises:
        InputError: too large, torn, foreign, of a newer schema, or with impossible figures.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"{what} is too large for a baseline: at most {MAX_BYTES} bytes are read")
    try:
        head = msgspec.json.decode(data, type=_Head)
        if head.kind != "headroom baseline":
            raise InputError(
                f"{what} is no baseline of Headroom: write one with headroom gate --save-baseline"
            )
        if head.schema > SCHEMA:
            raise InputError(
                f"{what} has schema {head.schema}, this Headroom reads up to {SCHEMA}: upgrade it"
            )
        found = msgspec.json.decode(data, type=Baseline)
    except msgspec.ValidationError as error:
        raise InputError(f"{what} is no baseline of Headroom: {_line(error)}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{what} is torn or not JSON: {_line(error)}") from error
    _check(found, what)
    return found


def _check(baseline: Baseline, what: str) -> None:
    names = [target.name for target in baseline.manifest.targets]
    if len(set(names)) < len(names) or not names or not baseline.levels:
        raise InputError(f"{what} has no targets, no levels, or a target twice: save it anew")
    for number, held in enumerate(baseline.levels):
        data = held.level.data
        where = f"{what}: levels[{number}]"
        if data.point.target not in names:
            raise InputError(f"{where} names no known target: {data.point.target[:80]!r}")
        _check_data(data, where)


def _check_data(data: LevelData, where: str) -> None:
    point = data.point
    numbers: dict[str, float | None] = {
        "load": point.load,
        "completed": point.completed,
        "failed": point.failed,
        "censored": point.censored,
        "blocks": data.blocks,
        "error_inflation": data.error_inflation,
    }
    for kind in ("effective", "inflation", "freedom"):
        numbers |= {f"{kind} of {name}": number for name, number in getattr(data, kind).items()}
    for name, number in numbers.items():
        if number is not None and not 0 <= number <= _MOST:
            raise InputError(f"{where}: {name[:80]} {number:g} lies outside 0 to {_MOST:g}")
    for name, figure in point.figures.items():
        if not _possible(figure):
            raise InputError(
                f"{where}: {name[:80]} is impossible: {figure.value:g} in {figure.low} to "
                f"{figure.high} of {figure.n}"
            )


def _possible(figure: Estimate) -> bool:
    ends = (figure.value if figure.low is None else figure.low, figure.value,
            figure.value if figure.high is None else figure.high)  # fmt: skip
    return all(0 <= end <= _MOST for end in ends) and list(ends) == sorted(ends) and figure.n >= 0


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
