"""What is asked: a small set of our own, or a file's lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.errors import InputError
from planner.files import read_bounded

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DEFAULT_PROMPTS", "read_prompts"]

DEFAULT_PROMPTS = (
    "Explain in three sentences why the sky is blue.",
    "A train leaves at 9:40 and arrives at 13:05. How long does it travel? Show the steps.",
    "Write a Python function that reverses a linked list.",
    "Translate into French, German and Spanish: The meeting has been moved to Thursday morning.",
    "List five uses of a paper clip, from the most to the least common.",
    "Summarise the plot of Romeo and Juliet for a child of eight.",
    "What is the difference between a process and a thread? Answer with a table.",
    "Write a polite letter that asks a neighbour to play the piano less late at night.",
    'Give the JSON object of a book with title, author, year and three keywords. "Dune" will do.',
    "Which is heavier, a kilogram of feathers or a kilogram of lead, and why do people ask?",
    "Continue the story: The lighthouse keeper had not spoken to anyone for a hundred days when",
    "Explain to a new colleague how to read a flame graph.",
)
"""Facts, sums, code, languages, lists, tables and prose: texts part at different places in each."""

_MAX_BYTES = 2**20
_MOST = 1000


def read_prompts(path: str | Path) -> tuple[str, ...]:
    """The lines of a file, one prompt each; empty ones are passed over.

    Raises:
        InputError: it cannot be read, is too large, no text, or has no or too many prompts.
    """
    try:
        text = read_bounded(path, _MAX_BYTES, "prompts").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"prompts {path} is no UTF-8 text: byte {error.start}") from error
    prompts = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not prompts:
        raise InputError(f"prompts {path} holds none: write one prompt a line")
    if len(prompts) > _MOST:
        raise InputError(f"prompts {path} holds {len(prompts)}: at most {_MOST} are asked")
    return prompts
