"""A console that shows what people can read, and nothing that a terminal would obey."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rich.console import Console
from rich.segment import Segment

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import ConsoleOptions, RenderableType

__all__ = ["PlainConsole"]


_COMMAND = re.compile(r"(?<![\w\[:])::(?=[A-Za-z])")


class PlainConsole(Console):
    """Shows control characters in a text as a mark: names come from servers, files and folders.

    A line that begins with ``::error`` is a command to GitHub's runner, and wrapping may put any
    word at the beginning of a line: the colons of what looks like one are set apart. What the
    console itself has to say to the terminal, as the colours of a style, is left alone.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The segments of something to show, their texts readable."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(_COMMAND.sub(": :", _readable(segment.text)), segment.style)


def _readable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text
    )
