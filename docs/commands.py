"""Write the pages that are made from the code, of commands and of rules: ``make docs``."""

from __future__ import annotations

import json
from pathlib import Path

import click

import headroom
from planner.gates.rules import rules_schema

__all__ = ["page", "schema"]

_WIDTH = 96
_HEAD = """# Commands

Written by `make docs` from the help texts; `headroom COMMAND --help` prints the same.

Human output goes to stdout, progress and warnings to stderr; `--json` prints one JSON document on
stdout and nothing else there. Durations and rates carry units (`500ms`, `2s`, `5m`, `20/s`).

| exit code | means |
|---|---|
| 0 | done; the answer is yes |
| 1 | the answer is no: nothing meets the objectives |
| 2 | bad usage, or input that cannot be read: one line says what, where and what to do |
| 3 | inconclusive: the data cannot carry the answer; says what to measure next |
| 130 | interrupted; what was measured is kept and readable |

A TARGET is `[NAME:]KIND=URL[#MODEL]`, where KIND is `llamacpp`, `ollama`, `vllm` or `openai`, or
the name of a target in the file given by `--config`.
"""


def page() -> str:
    """The whole page in Markdown."""
    group = click.Context(headroom.main, info_name="headroom")
    sections = [_HEAD, _section("headroom", headroom.main, group)]
    for name in headroom.COMMANDS:
        command = headroom.main.get_command(group, name)
        if command is None:
            raise LookupError(f"the table of commands names {name}, which is no command")
        sections.append(_section(f"headroom {name}", command, None))
    return "\n".join(sections)


def _section(title: str, command: click.Command, context: click.Context | None) -> str:
    context = context or click.Context(command, info_name=title)
    context.terminal_width = _WIDTH
    return f"## {title}\n\n```text\n{command.get_help(context).rstrip()}\n```\n"


def schema() -> str:
    """``docs/gates.schema.json``, by which editors check rules files."""
    return json.dumps(rules_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page(), encoding="utf-8")
    Path(__file__).with_name("gates.schema.json").write_text(schema(), encoding="utf-8")
