"""What Locust's statistics are told of a request: at most three rows, never one per token."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.loadtests.measure.driving import ROOT

FIRED = """
import json, sys
from locust.env import Environment
from loadtests.users import ChatUser, report
from planner.records import RequestRecord
environment = Environment()
rows = []
environment.events.request.add_listener(lambda **row: rows.append(
    [row["request_type"], row["name"], row["response_time"], str(row["exception"] or "")]))
base = dict(id=0, stage=0, target="big", backend="vllm", user=0, scheduled_s=10.0, sent_s=10.5)
for changes in json.load(sys.stdin):
    report(environment, RequestRecord(**{**base, **changes}))
ended = []
class User(ChatUser):
    backend = "vllm"
user = User(environment)
user.run()  # nobody attached a session: the user leaves instead of failing for ever
print(json.dumps([rows, user.wait_time()]))
"""
GOOD = {"status": "ok", "first_token_s": 11.0, "ended_s": 13.0, "output_tokens": 5}


@pytest.fixture(scope="module")
def fired() -> tuple[list[list[Any]], float]:
    """The rows of four requests, in a process of their own: Locust patches it."""
    requests = [
        GOOD,
        {**GOOD, "output_tokens": 1},
        {**GOOD, "first_token_s": None},
        {"status": "error", "error_kind": "overloaded", "error": "HTTP 503", "ended_s": 10.25,
         "sent_s": 10.0},
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", FIRED],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=60,
    )
    rows, pause_s = json.loads(done.stdout)
    return rows, pause_s


def test_rows(fired: tuple[list[list[Any]], float]) -> None:
    """A request in ms from its intended start, its TTFT and TPOT; a failure is one row."""
    rows, _ = fired
    assert rows == [
        ["chat", "big", 3000, ""],
        ["TTFT", "big", 1000, ""],
        ["TPOT", "big", 500, ""],
        ["chat", "big", 3000, ""],
        ["TTFT", "big", 1000, ""],
        ["chat", "big", 3000, ""],
        ["chat", "big", 250, "overloaded: HTTP 503"],
    ]


def test_user_without_a_session_leaves(fired: tuple[list[list[Any]], float]) -> None:
    """A user of an environment without a run ends, and never asks for a pause."""
    assert fired[1] == 0
