"""``headroom selftest``: the client against the truth, by the real user path."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as Locust patches sockets."""
    return subprocess.run(
        [sys.executable, "-m", "headroom", "selftest", *words],
        capture_output=True, text=True, cwd=ROOT, timeout=120, check=False,
        env=os.environ | environment,
    )  # fmt: skip


def check_level(level: dict[str, Any]) -> None:
    """What holds for a level on any machine, however busy."""
    errors = level["errors"]
    assert level["failed"] == errors["wrong"] == 0
    assert errors["requests"] >= level["streams"]
    assert errors["chunks"] >= errors["requests"]
    for figure in ("ttft", "arrival", "itl"):
        spread = errors[figure]
        assert 0 <= spread["p50_s"] <= spread["p99_s"] <= spread["max_s"]
    assert 0 <= errors["coalesced_share"] < 1
    assert level["cpu_per_chunk_s"] > 0
    assert level["server"]["chunks"] >= errors["chunks"]


@pytest.mark.parametrize(
    "server", [(), ("--python-server",), ("--tls",), ("--tls", "--python-server")]
)
def test_selftest_compares_every_event(server: tuple[str, ...]) -> None:
    """No event is lost or invented, stamps follow the truth, and the exit code is the verdict's."""
    if "--tls" in server and shutil.which("openssl") is None:
        pytest.skip("no openssl program")
    done = run("--streams", "8", "--itl", "20ms", "--seconds", "1.5", "--json", *server)
    document = json.loads(done.stdout)
    assert document["tls"] == ("--tls" in server)
    for level in document["levels"]:
        check_level(level)
    asked = document["asked"]
    assert asked["streams"] == 8
    if asked["verdict"] == "trusted":
        assert done.returncode == 0
        assert document["trusted_streams"] >= 8
    else:
        assert done.returncode == (3 if asked["verdict"] in ("busy", "server") else 1)


def test_selftest_prints_a_table() -> None:
    """The table has one row per level, and the clock and the verdict stand below it."""
    done = run("--streams", "4", "--seconds", "1")
    assert done.returncode in {0, 1, 3}, done.stderr
    assert "measured minus true" in done.stdout
    assert "verdict  " in done.stdout
    assert "clock    " in done.stdout
    assert "4 streams: " in done.stderr


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--itl", "20"), "unit"),
        (("--itl", "10us"), "--itl"),
        (("--streams", "0"), "--streams"),
        (("--seconds", "0"), "--seconds"),
    ],
)
def test_selftest_refuses_bad_input(words: tuple[str, ...], why: str) -> None:
    """Bad options are one line and exit code 2."""
    done = run(*words)
    assert done.returncode == 2
    assert why in done.stderr
    assert "Traceback" not in done.stderr
