"""The manifest of a run folder: read, checked, and replaced whole."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from planner.errors import RunFolderError
from planner.records import SCHEMA, RunManifest

__all__ = ["MANIFEST", "is_run", "read_manifest", "write_manifest"]

MANIFEST = "manifest.json"
_MAX_BYTES = 64 * 2**20


def is_run(path: Path | str) -> bool:
    """Whether the folder has a manifest, readable or not."""
    return (Path(path) / MANIFEST).is_file()


def read_manifest(path: Path | str) -> RunManifest:
    """The manifest of a run folder.

    Raises:
        RunFolderError: not there, not a run folder, torn, of wrong types, or of a newer schema.
    """
    path = Path(path)
    file = path / MANIFEST
    if not path.exists():
        raise RunFolderError(f"{path} does not exist: name the folder given to --out")
    if not path.is_dir():
        raise RunFolderError(f"{path} is a file, not a run folder: name the folder given to --out")
    try:
        if not file.is_file():
            empty = "is empty" if not any(path.iterdir()) else f"has no {MANIFEST}"
            raise RunFolderError(f"{path} is not a run folder: it {empty}")
        if (size := file.stat().st_size) > _MAX_BYTES:
            raise RunFolderError(f"{file} has {size} bytes, the bound is {_MAX_BYTES}")
        return _parsed_manifest(file, file.read_bytes())
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror or error}") from error


class _Head(msgspec.Struct):
    """The part of a manifest of any version that says whether the rest can be read."""

    schema: int


def _parsed_manifest(file: Path, data: bytes) -> RunManifest:
    """The manifest in a file's bytes.

    Raises:
        RunFolderError: torn, not JSON, of wrong types, of a newer schema, or inconsistent.
    """
    try:
        schema = msgspec.json.decode(data, type=_Head).schema
        if schema > SCHEMA:
            raise RunFolderError(
                f"{file} has schema {schema}, this Headroom reads up to {SCHEMA}: upgrade Headroom"
            )
        manifest = msgspec.json.decode(data, type=RunManifest)
    except msgspec.ValidationError as error:
        raise RunFolderError(f"{file} is not a manifest of Headroom: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{file} is torn or not JSON: {error}") from error
    _check_stages(file, manifest)
    return manifest


def _check_stages(file: Path, manifest: RunManifest) -> None:
    """Refuse stages that no run can have.

    Raises:
        RunFolderError: a wrong index, an unknown target, a load that is not positive.
    """
    known = {target.name for target in manifest.targets}
    for index, stage in enumerate(manifest.stages):
        if stage.index != index:
            raise RunFolderError(f"{file}: stages[{index}] has index {stage.index}, not {index}")
        if stage.target not in known:
            raise RunFolderError(f"{file}: stages[{index}] names no known target: {stage.target!r}")
        if not stage.load > 0 or stage.think_time_s < 0:
            raise RunFolderError(
                f"{file}: stages[{index}] has load {stage.load} and think time "
                f"{stage.think_time_s} s: the load must be positive, the pause not negative"
            )


def write_manifest(path: Path, manifest: RunManifest) -> None:
    """Write beside, sync and rename, so that no moment has half a manifest."""
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    beside = path / f".{MANIFEST}.{os.getpid()}.tmp"
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path / MANIFEST)
