"""Files from elsewhere, read within bounds of size, depth, time and memory.

A file is at most ``MOST_BYTES``; its JSON nests at most ``MOST_DEEP`` levels, and no key is there
twice in one object. ``NaN`` and ``Infinity``, which Python writes and JSON does not have, count as
texts: they harm only where a number is asked for. All that is checked in one pass over its
structure before anything is decoded; decoding then builds only what a format asks for by its types.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import msgspec

from planner.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "MOST_BYTES",
    "MOST_DEEP",
    "MOST_LINES",
    "MOST_TOKENS",
    "Source",
    "decode",
    "objects_in",
    "source_of",
]

MOST_BYTES = 256 * 2**20
"""Of one file: a million requests with all their figures; with their texts far fewer."""
MOST_DEEP = 100
"""The formats nest about 15 levels."""
MOST_TOKENS = 5_000_000
"""Strings, objects and lists in one file: about 5 s to look at."""
MOST_NO_NUMBERS = 100_000
"""NaN and Infinity in one file."""
MOST_KEYS = 10_000
"""Of one object."""
MOST_LINES = 1_000_000
"""Of a file with one JSON document per line."""

_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*+"|[{}\[\]]|-?NaN|-?Infinity', re.DOTALL)
_KEY_FOLLOWS = re.compile(rb"[ \t\r\n]*:")
_OPENING, _CLOSING = b"{[", b"}]"
_NO_NUMBERS = (b"NaN", b"Infinity")

_FOREIGN = {
    b"\x1f\x8b": "compressed with gzip: unpack it with gunzip",
    b"PK\x03\x04": "a zip archive: unpack it",
    b"\xff\xfe": "UTF-16: save it as UTF-8",
    b"\xfe\xff": "UTF-16: save it as UTF-8",
}
"""First bytes of files that are often taken for results, and what to do with them."""


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Source:
    """One file.

    Attributes:
        path: as the user gave it.
        sha256: of its bytes.
        documents: the JSON documents in it; several where it has one per line; none in a CSV.
        keys: of the first document, where that is an object.
        text: the file as text, where it is no JSON.
    """

    path: Path
    sha256: str
    documents: tuple[bytes, ...]
    keys: frozenset[str]
    text: str | None = None


def source_of(path: Path, data: bytes) -> Source:
    """What is in the bytes of a file.

    Raises:
        InputError: no JSON, no CSV, or beyond a bound.
    """
    digest = hashlib.sha256(data).hexdigest()
    stripped = data.removeprefix(b"\xef\xbb\xbf").strip()
    if not stripped:
        raise InputError(f"{path} is empty")
    if stripped[:1] not in (b"{", b"["):
        return Source(path, digest, (), frozenset(), _text(path, data))
    documents = _documents(path, stripped)
    first = documents[0]
    keys = decode(path, first, dict[str, msgspec.Raw]) if first[:1] == b"{" else {}
    return Source(path, digest, documents, frozenset(keys))


def decode(path: Path, data: bytes | msgspec.Raw, kind: type[T], *, where: str = "") -> T:
    """One JSON document as a value of a type.

    Raises:
        InputError: not JSON, or a value of another type than the format has there.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        what = " ".join(str(error).split())[:300]
        raise InputError(f"{path}{where}: {what}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}{where}: torn or not JSON: {error}") from error
    except RecursionError as error:
        raise InputError(f"{path}{where}: nested too deeply") from error


def _text(path: Path, data: bytes) -> str:
    for first, what in _FOREIGN.items():
        if data.startswith(first):
            raise InputError(f"{path} is {what}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is neither JSON nor UTF-8 text") from error


def _documents(path: Path, data: bytes) -> tuple[bytes, ...]:
    """The document, or one per line, each looked through."""
    if sum(map(data.count, _NO_NUMBERS)) > MOST_NO_NUMBERS:
        raise InputError(f"{path}: more than {MOST_NO_NUMBERS:,} NaN and Infinity")
    tokens = data.count(b'"') // 2 + data.count(b"{") + data.count(b"[")
    if tokens > MOST_TOKENS:
        raise InputError(f"{path}: more than {MOST_TOKENS:,} strings, objects and lists")
    if b"\n" not in data or data[:1] == b"[":
        return (_checked(path, data, ""),)
    first, _, rest = data.partition(b"\n")
    try:
        msgspec.json.decode(_plain(first), type=msgspec.Raw)
        alone = not rest.strip()
    except (msgspec.DecodeError, RecursionError):
        alone = True  # the document goes on in the next line
    if alone:
        return (_checked(path, data, ""),)
    lines = data.split(b"\n", MOST_LINES)
    if len(lines) > MOST_LINES:
        raise InputError(f"{path}: more than {MOST_LINES:,} lines")
    kept = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    return tuple(_checked(path, line, f" line {number}") for number, line in kept)


def _checked(path: Path, data: bytes, where: str) -> bytes:
    """The same document, once its structure was seen to keep to the bounds.

    Raises:
        InputError: too deep, too many keys, or a key twice.
    """
    open_objects: list[set[bytes] | None] = []  # keys of each; None stands for a list
    for found in _STRUCTURE.finditer(data):
        token = found[0]
        if token in _OPENING:
            open_objects.append(set() if token == b"{" else None)
            if len(open_objects) > MOST_DEEP:
                raise InputError(f"{path}{where}: nested more than {MOST_DEEP} levels deep")
        elif token in _CLOSING:
            if not open_objects:
                break  # whatever it is, it is no JSON: decoding tells where
            open_objects.pop()
        elif token[:1] == b'"' and open_objects and (keys := open_objects[-1]) is not None:
            _add_key(path, where, keys, found, data)
    return _plain(data)


def _plain(data: bytes) -> bytes:
    """The document with ``NaN`` and ``Infinity`` as texts."""
    if not any(word in data for word in _NO_NUMBERS):
        return data
    return _STRUCTURE.sub(
        lambda found: b'"%b"' % found[0] if found[0][-1:] in b"Ny" else found[0], data
    )


def _add_key(path: Path, where: str, keys: set[bytes], found: re.Match[bytes], data: bytes) -> None:
    """Note a string of an object if it is a key."""
    if not _KEY_FOLLOWS.match(data, found.end()):
        return
    key = found[0]
    if key in keys:
        name = key[:80].decode(errors="replace")
        raise InputError(f"{path}{where}: key {name} stands twice, at byte {found.start()} again")
    keys.add(key)
    if len(keys) > MOST_KEYS:
        raise InputError(f"{path}{where}: an object with more than {MOST_KEYS:,} keys")


def objects_in(data: bytes) -> Iterator[bytes | None]:
    """The elements of a list of objects, one at a time; ``None`` for one that is no object.

    A decoder would hold them all, and a list of a hundred million zeros is a small file.

    Args:
        data: the list, its structure looked through.
    """
    depth, begins, after = 0, 0, 1
    for found in _STRUCTURE.finditer(data):
        token = found[0]
        if token in _OPENING:
            depth += 1
            if depth == 2:  # noqa: PLR2004 - inside the list
                if token != b"{" or data[after : found.start()].strip() not in (b"", b","):
                    yield None
                begins = found.start()
        elif token in _CLOSING:
            depth -= 1
            if depth == 1:
                after = found.end()
                yield data[begins:after]
        elif depth == 1:
            yield None  # a string
    if data[after:].strip() != b"]":
        yield None
