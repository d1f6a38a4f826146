"""Files from elsewhere, read within bounds of size, depth, time and memory.

A file is at most ``MOST_BYTES``; its JSON nests at most ``MOST_DEEP`` levels, and no key is there
twice in one object. ``NaN`` and ``Infinity``, which Python writes and JSON does not have, count as
texts: they harm only where a number is asked for. All that is checked in one pass over its
structure before anything is decoded; decoding then builds only what a format asks for by its types.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

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
    "Fields",
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
MOST_LIST_BYTES = 24 * 2**20
"""Of a list of numbers: a million of them."""
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

_LARGEST = 1e15
_LONGEST = 300

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


class Fields:
    """An object of a document, its fields decoded when they are asked for.

    A field that is missing or null is ``None``; one of another type than asked for is an error that
    names file, place and type.
    """

    def __init__(self, path: Path, data: bytes | msgspec.Raw, place: str = "$") -> None:
        """Take the object apart into its fields."""
        self.path, self.place = path, place
        self._raw = decode(path, data, dict[str, msgspec.Raw], where=self._at(""))
        self.keys = self._raw.keys()

    def __contains__(self, key: str) -> bool:
        """Whether the field is there, null or not."""
        return key in self._raw

    def number(self, *keys: str) -> float | None:
        """The first of some fields that is there, a number from 0 to 1e15.

        Raises:
            InputError: no number, negative, or out of range.
        """
        for key in keys:
            value = self._float(key)
            if value is None:
                continue
            if not 0 <= value <= _LARGEST:
                raise InputError(
                    f"{self.path}{self._at(key)}: {value:g} lies outside 0 to {_LARGEST:g}"
                )
            return float(value)
        return None

    def reported(self, *keys: str) -> float | None:
        """As ``number``; ``None`` for NaN too, as some tools write for what they did not see."""
        return self.number(*(key for key in keys if not self._is_nan(key)))

    def _is_nan(self, key: str) -> bool:
        return self.is_text(key) and self.text(key) == "NaN"

    def signed(self, key: str) -> float | None:
        """A number of either sign."""
        value = self._float(key)
        return value if value is None or math.isfinite(value) else None

    def _float(self, key: str) -> float | None:
        if self.is_text(key):
            told = (self.text(key) or "")[:40]
            raise InputError(f"{self.path}{self._at(key)}: {told!r} is a text, not a number")
        value: float | None = self._get(key, float | None)
        return value

    def count(self, *keys: str) -> int | None:
        """As ``number``, and whole."""
        value = self.number(*keys)
        if value is not None and value != int(value):
            raise InputError(f"{self.path}{self._at(keys[0])}: {value:g} is no whole number")
        return None if value is None else int(value)

    def text(self, *keys: str) -> str | None:
        """The first of some fields that is there, a text, cut to 300 printable characters."""
        for key in keys:
            value: str | None = self._get(key, str | None)
            if value:
                return "".join(c if c.isprintable() else "?" for c in value[:_LONGEST])
        return None

    def flag(self, key: str) -> bool | None:
        """True or false."""
        value: bool | None = self._get(key, bool | None)
        return value

    def is_text(self, key: str) -> bool:
        """Whether the field holds a text."""
        return self._first_byte(key) == b'"'

    def object(self, *keys: str) -> Fields | None:
        """The object at the end of a path of keys; ``None`` where one is missing, null or a list.

        What a format has an object for in one version and a list in another is told apart by this.
        """
        if not keys:
            return self
        first, *rest = keys
        if self._first_byte(first) != b"{":
            return None
        return Fields(self.path, self._raw[first], f"{self.place}.{first}").object(*rest)

    def objects(self, key: str) -> Iterator[Fields]:
        """The objects of a list, one at a time; none where there is no list."""
        if self._first_byte(key) != b"[":
            return
        for index, item in enumerate(objects_in(bytes(self._raw[key]))):
            place = f"{self.place}.{key}[{index}]"
            if item is None:
                raise InputError(f"{self.path} at {place}: no object")
            yield Fields(self.path, item, place)

    def texts(self, key: str) -> list[str]:
        """The texts of a list; none where there is no list."""
        if self._first_byte(key) != b"[":
            return []
        found: list[str] = self._short(key, list[str])
        return found

    def numbers(self, key: str) -> list[float]:
        """The numbers of a list; none where there is no list."""
        if self._first_byte(key) != b"[":
            return []
        found: list[float] = self._short(key, list[float])
        return found

    def _short(self, key: str, kind: Any) -> Any:
        """A list of single values, which takes many times its bytes in memory."""
        size = len(memoryview(self._raw[key]))
        if size > MOST_LIST_BYTES:
            raise InputError(
                f"{self.path}{self._at(key)}: a list of {size:,} bytes, the bound is "
                f"{MOST_LIST_BYTES:,}"
            )
        return self._get(key, kind)

    def _first_byte(self, key: str) -> bytes:
        """What a field's value begins with, which tells its type."""
        raw = self._raw.get(key)
        return b"" if raw is None else memoryview(raw)[:1].tobytes()

    def _get(self, key: str, kind: Any) -> Any:
        raw = self._raw.get(key)
        return None if raw is None else decode(self.path, raw, kind, where=self._at(key))

    def _at(self, key: str) -> str:
        place = f"{self.place}.{key}" if key else self.place
        return "" if place == "$" else f" at {place}"
