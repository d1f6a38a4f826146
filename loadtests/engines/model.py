"""The random-weight test model in the user's cache folder: made once, checked by hash."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
import msgspec
import numpy as np

from loadtests.engines.modelfiles import write_gguf, write_hf
from loadtests.engines.vocabulary import train_vocabulary
from loadtests.engines.weights import Shape, random_weights
from planner.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["SHAPES", "ModelFiles", "Size", "cache_folder", "ensure_model", "locked"]

Size = Literal["tiny", "demo"]

SHAPES: dict[Size, Shape] = {
    # 5 M parameters, thousands of tokens a second: for tests. Answers end after ~100 tokens.
    "tiny": Shape(
        vocabulary=4096, hidden=256, layers=4, heads=4, kv_heads=2, head_dim=64, ffn=768,
        stop_probability=0.01,
    ),
    # 30 M parameters, few and wide layers in float32: reading 87 MB of weights for every step, not
    # arithmetic, bounds a decode step, so one step for eight sequences costs less than twice one
    # for one and continuous batching pays on a CPU as it does on a GPU. Only the length stops it,
    # so that engines which cannot ignore the end token (Ollama) give the same lengths.
    "demo": Shape(
        vocabulary=8192, hidden=1024, layers=3, heads=8, kv_heads=2, head_dim=64, ffn=1024,
    ),
}  # fmt: skip
_SEED = 2026
_RECIPE = 1
"""Raise it whenever the code makes other files; a cache of another recipe is left alone."""
_MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """One model on disk.

    Attributes:
        gguf: the file for llama.cpp and Ollama.
        hf: the Hugging Face folder for vLLM.
        name: what to call it on the wire.
        parameters: how many weights it has.
        context: longest sequence in tokens.
    """

    gguf: Path
    hf: Path
    name: str
    parameters: int
    context: int


class _Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Written last: a folder that has one is whole. ``sha256`` maps file to digest."""

    parameters: int
    sha256: dict[str, str]


def cache_folder() -> Path:
    """Where Headroom keeps what it can make again; not created.

    ``HEADROOM_CACHE`` if set, else the platform's own place (``XDG_CACHE_HOME`` first).
    """
    if own := os.environ.get("HEADROOM_CACHE"):
        return Path(own)
    default = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or default).expanduser() / "headroom"


def ensure_model(size: Size, *, cache: Path | None = None) -> ModelFiles:
    """The test model of a size, made at first use (seconds) and checked by hash at each.

    Processes that ask at once make it once: the others wait for the first.

    Args:
        size: ``tiny`` (5 M parameters, for tests) or ``demo`` (30 M).
        cache: the folder to keep it in; the user's cache folder if not given.

    Raises:
        EngineError: the ``engine`` extra is missing, or the cache folder cannot be written.
    """
    folder = (cache or cache_folder()) / "models" / f"headroom-{size}-{_RECIPE}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_suffix(".lock")):
            manifest = _intact(folder)
            if manifest is None:
                manifest = _replace(folder, size)
    except OSError as error:
        raise EngineError(
            f"cannot keep the test model in {folder.parent} ({error.strerror}): "
            "set HEADROOM_CACHE to a folder with room that you may write"
        ) from error
    return ModelFiles(
        gguf=folder / _gguf_name(size),
        hf=folder / "hf",
        name=f"headroom-{size}",
        parameters=manifest.parameters,
        context=SHAPES[size].context,
    )


def _gguf_name(size: Size) -> str:
    return f"headroom-{size}.gguf"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes; the system drops it when its holder dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _intact(folder: Path) -> _Manifest | None:
    """The manifest of a folder whose every file has its digest; otherwise ``None``, and says so."""
    if not folder.exists():
        return None
    try:
        manifest = msgspec.json.decode((folder / _MANIFEST).read_bytes(), type=_Manifest)
        wrong = [n for n, digest in manifest.sha256.items() if _sha256(folder / n) != digest]
    except (OSError, msgspec.MsgspecError) as error:
        wrong = [str(error)]
    if not wrong:
        return manifest
    click.echo(f"the cached test model in {folder} is damaged ({wrong[0]}): remade", err=True)
    return None


def _replace(folder: Path, size: Size) -> _Manifest:
    """Make the model beside its place and rename it in, so that a kill leaves no half of one."""
    click.echo(f"making the {size} test model in {folder} (once, a few seconds)", err=True)
    for left in folder.parent.glob(f".{folder.name}-*"):  # by a maker that was killed
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        made = Path(scratch) / "made"
        manifest = _make(made, size)
        if folder.exists():
            folder.rename(Path(scratch) / "damaged")
        made.rename(folder)
    return manifest


def _make(folder: Path, size: Size) -> _Manifest:
    shape = SHAPES[size]
    vocabulary = train_vocabulary(shape.vocabulary)
    weights = random_weights(shape, vocabulary, np.random.default_rng(_SEED))
    write_hf(folder / "hf", shape, vocabulary, weights)
    write_gguf(folder / _gguf_name(size), f"headroom-{size}", shape, vocabulary, weights)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = _Manifest(
        parameters=sum(tensor.size for tensor in weights.values()),
        sha256={str(path.relative_to(folder)): _sha256(path) for path in files},
    )
    (folder / _MANIFEST).write_bytes(msgspec.json.encode(manifest))
    return manifest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
