"""Which format a file has, and files and folders to what is in them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.errors import InputError
from planner.importers import (
    aiperf,
    evalscope,
    genai_bench,
    genai_perf,
    guidellm,
    inference_perf,
    llmperf,
    points_csv,
    sglang,
    vllm_bench,
)
from planner.importers.levels import MOST_LEVELS
from planner.importers.reading import MOST_BYTES, source_of
from planner.importers.streaming import without_unseen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from planner.importers.levels import Imported
    from planner.importers.reading import Source

__all__ = ["FORMATS", "Format", "read_files", "read_source"]

MOST_FILES = 1000
"""In one import."""
SUFFIXES = (".json", ".jsonl")
"""Of the files in a folder that are looked at."""
DEEPEST = 3
"""Folders inside a folder."""


@dataclass(frozen=True)
class Format:
    """One tool's result file.

    Attributes:
        name: of the tool.
        matches: whether a file is one.
        read: its levels, with the other files of its folder at hand.
        parts: names of files that belong to it, and are read where they lie beside it.
    """

    name: str
    matches: Callable[[Source], bool]
    read: Callable[[Source, Sequence[Source]], list[Imported]]
    parts: tuple[str, ...] = ()


FORMATS = tuple(
    Format(module.NAME, module.matches, module.read, getattr(module, "PART_FILES", ()))
    for module in (
        genai_perf,  # before aiperf's, which has the same metrics
        aiperf,
        guidellm,
        sglang,  # before vLLM's, which has the same keys and fewer
        vllm_bench,
        inference_perf,
        evalscope,
        genai_bench,
        llmperf,
        points_csv,
    )
)
"""In the order in which they are tried."""

_PARTS = (
    (aiperf.is_requests, aiperf.REQUESTS),
    (evalscope.is_part, evalscope.PARTS),
    (genai_bench.is_part, genai_bench.PARTS),
)
"""Files that belong to another, and what to say where they are alone."""


def read_files(paths: Sequence[Path]) -> tuple[list[Imported], list[Source], list[str]]:
    """The levels in some files, the files, and what was left out.

    Args:
        paths: files, and folders, whose JSON files are looked at three levels deep.

    Raises:
        InputError: a file cannot be read, has no known format, or does not tell its load.
    """
    given = {path for path in paths if not path.is_dir()}
    every = [file for path in paths for file in (_files(path) if path.is_dir() else [path])]
    if len(every) > MOST_FILES:
        raise InputError(f"more than {MOST_FILES:,} files: name folders that have fewer")
    sources = [read_source(path) for path in dict.fromkeys(every)]
    formats = [next((f for f in FORMATS if f.matches(source)), None) for source in sources]
    found: list[Imported] = []
    used: list[Source] = []
    notes: list[str] = []
    stages = [s for s, f in zip(sources, formats, strict=True) if _is_stage(s, f)]
    for source, kind in zip(sources, formats, strict=True):
        if kind is None:
            notes += _set_aside(source, sources, formats, named=source.path in given)
        elif kind.name == inference_perf.NAME and stages and source not in stages:
            notes.append(f"{source.path.name} left out: it has the figures of all stages together")
        elif same := next((other for other in used if other.sha256 == source.sha256), None):
            notes.append(f"{source.path.name} left out: the same as {same.path.name}")
        else:
            beside = [s for s in sources if s.path.parent == source.path.parent and s != source]
            lying = [source.path.with_name(name) for name in kind.parts]
            given_too = {other.path for other in beside}
            beside += [read_source(p) for p in lying if p not in given_too and p.is_file()]
            found += _read(kind, source, beside)
            used.append(source)
    if not found:
        raise InputError(f"{paths[0]}: no result file of {', '.join(f.name for f in FORMATS)}")
    notes += [note for one in found for note in one.notes]
    return found, used, list(dict.fromkeys(notes))


def _read(kind: Format, source: Source, beside: Sequence[Source]) -> list[Imported]:
    """What one file has, within the bound of levels."""
    found = [] if len(source.documents) > MOST_LEVELS else kind.read(source, beside)
    if not found or sum(len(one.levels) for one in found) > MOST_LEVELS:
        raise InputError(f"{source.path}: more than {MOST_LEVELS:,} levels of load: split it")
    return [without_unseen(one) for one in found]


def _is_stage(source: Source, kind: Format | None) -> bool:
    """Whether this is one stage of inference-perf's."""
    return (
        kind is not None
        and kind.name == inference_perf.NAME
        and not inference_perf.is_summary(source)
    )


def _set_aside(
    source: Source, sources: Sequence[Source], formats: Sequence[Format | None], *, named: bool
) -> list[str]:
    """A file of no format: part of another, or none of ours.

    Raises:
        InputError: it was named, and nothing that it belongs to was.
    """
    folder = {s.path.parent for s, f in zip(sources, formats, strict=True) if f is not None}
    for is_part, told in _PARTS:
        if is_part(source):
            if source.path.parent not in folder:
                raise InputError(f"{source.path}: {told}")
            return []
    if named:
        keys = ", ".join(sorted(key[:40] for key in source.keys)[:5])
        raise InputError(
            f"{source.path}: not a result of {', '.join(f.name for f in FORMATS)}"
            + (f" (its keys begin with {keys})" if keys else "")
            + ("" if source.text is None else f"; a table needs {points_csv.NEEDED}")
        )
    return [f"{source.path.name} left out: not a result file"]


def read_source(path: Path) -> Source:
    """Read one file.

    Raises:
        InputError: it cannot be read, or is no JSON, no CSV, or beyond a bound.
    """
    return source_of(path, _bytes(path))


def _bytes(path: Path) -> bytes:
    try:
        if not path.is_file():
            what = "is not a file" if path.exists() else "does not exist"
            raise InputError(f"{path} {what}: name result files")
        with path.open("rb") as file:
            too_large = path.stat().st_size > MOST_BYTES
            data = b"" if too_large else file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{str(path)!r} is no path: {error}") from error
    if too_large or len(data) > MOST_BYTES:
        raise InputError(
            f"{path}: more than {MOST_BYTES // 2**20} MiB: export it without the texts and the "
            f"single requests"
        )
    return data


def _files(folder: Path) -> list[Path]:
    """The files of a folder that may be results, by name; one more than may be read, at most."""
    try:
        found = list(itertools.islice(_below(folder, DEEPEST), MOST_FILES + 1))
    except OSError as error:
        raise InputError(f"{error.filename or folder}: {error.strerror or error}") from error
    if not found:
        raise InputError(f"{folder}: no {' or '.join(SUFFIXES)} file in it, {DEEPEST} levels deep")
    return found


def _below(folder: Path, levels: int) -> Iterator[Path]:
    """Files so many levels deep; links to folders, which may lead back, are not followed."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if levels > 1 and not path.is_symlink():
                yield from _below(path, levels - 1)
        elif path.suffix in SUFFIXES and path.is_file():
            yield path
