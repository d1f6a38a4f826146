"""Every command as data, printed as JSON by ``python -m tests.command_facts``.

Tests read it from a process of its own: loading the commands that make load patches a process.
"""

from __future__ import annotations

import functools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

__all__ = ["Facts", "commands", "page"]

ROOT = Path(__file__).parents[1]

Facts = dict[str, Any]


@functools.cache
def commands() -> dict[str, Facts]:
    """Command name -> its help, epilog, options, and what is wrong with its examples."""
    found: dict[str, Facts] = json.loads(_run("-m", "tests.command_facts"))
    return found


@functools.cache
def page() -> str:
    """What ``docs/commands.md`` should hold."""
    return _run("-c", "from docs.commands import page; print(page(), end='')")


def _run(*arguments: str) -> str:
    ran = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return ran.stdout


def _facts(command: click.Command) -> Facts:
    return {
        "help": command.help,
        "epilog": command.epilog or "",
        "options": [
            {
                "name": option.name,
                "flags": [*option.opts, *option.secondary_opts],
                "help": option.help,
            }
            for option in command.params
            if isinstance(option, click.Option)
        ],
        "examples": [_example(command, line) for line in _example_lines(command)],
    }


def _example_lines(command: click.Command) -> list[str]:
    """The example invocations in a command's epilog."""
    text = (command.epilog or "").partition("Example:")[2]
    return [line.strip() for line in re.split(r"(?=\bheadroom [a-z])", text) if line.strip()]


def _example(command: click.Command, line: str) -> Facts:
    """One example, with what click's parser has against it."""
    program, name, *arguments = shlex.split(line)
    error = None
    if program == "headroom" and name == command.name:
        try:
            command.make_context(name, arguments, resilient_parsing=False)
        except click.ClickException as problem:
            error = problem.format_message()
    return {"line": line, "command": name, "error": error}


if __name__ == "__main__":
    import headroom

    group = click.Context(headroom.main)
    loaded = {name: headroom.main.get_command(group, name) for name in headroom.COMMANDS}
    click.echo(json.dumps({name: _facts(c) for name, c in loaded.items() if c is not None}))
