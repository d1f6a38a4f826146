"""The three ways in which a process may read its streams, for tests that must hold for each."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from loadtests.stream import drainer, kernel_stamps, sources

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DRAINED", "READERS", "reading_by"]

DRAINED = ("compiled", "python")
"""The drainer with kernel stamps: with the extension, and without."""

READERS = (*DRAINED, "portable")
"""And each stream by itself, without kernel stamps."""


@contextmanager
def reading_by(reader: str) -> Iterator[str]:
    """Let this process read so; skip the test where it cannot."""
    if reader != "portable" and not kernel_stamps.available():
        pytest.skip("this system has no kernel receive timestamps")
    if reader == "compiled" and sources.EXTENSION is None:
        pytest.skip("the extension is not compiled here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel_stamps, "available", lambda: reader != "portable")
        if reader != "compiled":
            patch.setattr(sources, "EXTENSION", None)
        _forget_drainers()
        yield reader
    _forget_drainers()


def _forget_drainers() -> None:
    """The next stream makes its drainer anew."""
    for made in drainer._DRAINERS.values():
        made._keeper.close()
    drainer._DRAINERS.clear()
