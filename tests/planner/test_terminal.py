"""The console: what people read is shown, what a terminal would obey is not."""

from __future__ import annotations

import io

import pytest
from rich.table import Table
from rich.text import Text

from planner.terminal import PlainConsole

NASTY = "a\x1b]0;title\x9b31m\u202ec"
SHOWN = "a\N{REPLACEMENT CHARACTER}]0;title\N{REPLACEMENT CHARACTER}31m\N{REPLACEMENT CHARACTER}c"


def shown(*things: object, colours: bool = False) -> str:
    """What a console prints."""
    out = io.StringIO()
    console = PlainConsole(
        file=out, width=80, force_terminal=colours, highlight=False,
        color_system="standard" if colours else None,
    )  # fmt: skip
    for thing in things:
        console.print(thing)
    return out.getvalue()


def test_control_characters_are_marks() -> None:
    """In plain text, in a styled one, and in a table's cell, title and caption."""
    table = Table("a heading that is wide enough", title=NASTY, caption=NASTY)
    table.add_row(NASTY)
    printed = shown(NASTY, Text(NASTY, style="bold"), table)
    assert printed.count(SHOWN) == 5
    assert all(line.isprintable() for line in printed.splitlines())


@pytest.mark.parametrize("text", ["plain", "two\nlines", "µs ± 5 %", "日本 ✅"])
def test_what_people_read_stays(text: str) -> None:
    """Lines, signs and scripts are as they were."""
    assert shown(text) == f"{text}\n"


def test_colours_stay() -> None:
    """Styles of our own reach the terminal."""
    assert shown(Text("x", style="red"), colours=True) == "\x1b[31mx\x1b[0m\n"


@pytest.mark.parametrize("width", [8, 10, 20, 80])
def test_no_line_is_a_command_of_a_runner(width: int) -> None:
    """However names are wrapped; addresses and names with colons within stay as they are."""
    out = io.StringIO()
    table = Table("name", "why")
    table.add_row("a ::error title=x", "::guess")
    console = PlainConsole(file=out, width=width, highlight=False)
    console.print("the server said ::error file=a::x", table)
    assert not [line for line in out.getvalue().splitlines() if line.strip(" │").startswith("::")]


def test_colons_of_names_and_addresses_stay() -> None:
    """They are copied from the screen."""
    assert (
        shown("http://[::1]:8000 a::b [::ffff:1.2.3.4]")
        == "http://[::1]:8000 a::b [::ffff:1.2.3.4]\n"
    )
