"""A JSON object of a result file, its fields decoded as a format asks for them, within bounds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from planner.errors import InputError
from planner.importers.reading import decode, objects_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Fields"]

MOST_LIST_BYTES = 24 * 2**20
"""Of a list of numbers: a million of them."""
_LARGEST = 1e15
_LONGEST = 300


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
