"""The front door: one table of commands, quick to open, with one way of saying no."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import headroom as front_door
from headroom import COMMANDS
from planner import __version__
from tests.command_facts import commands

ROOT = Path(__file__).parents[1]
DOOR = "import headroom; headroom.main(prog_name='headroom')"

HEAVY = {"numpy", "scipy", "locust", "gevent", "plotly", "pyarrow", "rich", "jinja2", "asyncio"}
"""Each costs more than the whole overview does."""

HELP_CPU_S = 0.2

BAD_INPUT = [
    (["plan", "--users", "5"], "headroom plan: no target: name at least one"),
    (["plan", "vlm=http://x", "--users", "5"], "headroom plan: target 'vlm=http://x' has the"),
    (["plan", "vllm=http://127.0.0.1:1", "--users", "5"], "headroom plan: target 'vllm'"),
    (["measure", "vllm=ftp://x", "--out", "o"], "headroom measure: target 'vllm': "),
    (["recommend", "nowhere"], "headroom recommend: nowhere does not exist"),
    (["report", "nowhere"], "headroom report: nowhere does not exist"),
]


def headroom(
    *arguments: str, cwd: Path | None = None, code: str = DOOR, bytecode: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """The front door in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COV_")}
    environment["PYTHONPATH"] = str(ROOT)
    if bytecode:
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        environment["PYTHONPYCACHEPREFIX"] = str(bytecode)
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_table_leads_to_commands() -> None:
    """Every name in the table is a command of that name, and the table's line says what it does."""
    assert set(commands()) == set(COMMANDS)
    assert all(line.endswith(".") and len(line) <= 72 for _, line in COMMANDS.values())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    """Help goes to stdout, and nothing else goes anywhere."""
    ran = headroom(command, "-h")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(f"Usage: headroom {command} [OPTIONS]")


def test_version() -> None:
    """The version is the package's."""
    assert headroom("--version").stdout == f"headroom, version {__version__}\n"


@pytest.mark.parametrize("arguments", [["bogus"], ["--bogus"], ["plan", "--bogus"], ["serve", "x"]])
def test_unknown_words_are_usage_errors(arguments: list[str]) -> None:
    """An unknown command, option or choice is told on stderr, with exit code 2."""
    ran = headroom(*arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("Usage: headroom ")
    assert arguments[-1] in ran.stderr.splitlines()[-1]


def test_a_slip_of_the_pen_is_told_what_was_meant() -> None:
    """An unknown command names the nearest one."""
    assert "No such command 'recomend': did you mean recommend?" in headroom("recomend").stderr


def test_an_early_interrupt_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a command is imported ends with 130; 1 would say that the answer is no."""

    def interrupted(module: str, name: str) -> Any:
        raise KeyboardInterrupt(module, name)

    monkeypatch.setattr(front_door, "_attribute", interrupted)
    done = CliRunner().invoke(front_door.main, ["recommend"])
    assert (done.exit_code, done.output) == (130, "interrupted\n")


@pytest.mark.parametrize(("arguments", "says"), BAD_INPUT)
def test_bad_input_is_one_line(tmp_path: Path, arguments: list[str], says: str) -> None:
    """What cannot be used ends in one line on stderr and exit code 2, and writes nothing."""
    ran = headroom(*arguments, cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (2, ""), ran.stderr
    (line,) = ran.stderr.splitlines()
    assert line.startswith(says)
    assert list(tmp_path.iterdir()) == []


def test_overview_loads_nothing_heavy() -> None:
    """``headroom --help`` imports none of the libraries that its commands work with."""
    code = (
        "import headroom, json, sys\n"
        "headroom.main(['--help'], standalone_mode=False)\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    loaded = json.loads(headroom(code=code).stdout.splitlines()[-1])
    assert "click" in loaded
    assert HEAVY & set(loaded) == set()


def test_overview_is_cheap(tmp_path: Path) -> None:
    """``headroom --help`` takes little processor time: people type it between two thoughts."""
    assert min(_cpu_s(tmp_path) for _ in range(6)) <= HELP_CPU_S


def _cpu_s(bytecode: Path) -> float:
    """Processor time of one run, user and system, whatever else the machine does.

    The first run compiles what it imports, as the first run after an installation may.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert headroom("--help", bytecode=bytecode).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
