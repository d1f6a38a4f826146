"""Stages on servers that fail: ended early, told apart, never hammered."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from planner.runfolder import read_records, read_run
from planner.summary import operating_points
from tests.loadtests.measure.driving import SHORT, headroom
from tests.loadtests.measure.fakes import Chat
from tests.loadtests.servers import Act, answer, chunked, serving

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.loadtests.measure.driving import Done, Shell
    from tests.loadtests.servers import Step

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
FAULTS: dict[str, list[Step]] = {
    "reset": [HEAD[:20], 0.02, Act.RESET],
    "closed": [HEAD + b"ff\r\ndata: "],
    "bad_http": [HEAD + b"zz\r\n", Act.HOLD],
    "bad_json": [HEAD + chunked(b"data: {]\n\n")],
    "truncated": [HEAD + chunked(b"")],
    "server_error": [HEAD + chunked(b'data: {"error": {"message": "no"}}\n\n')],
    "overloaded": [answer(b"{}", 503)],
}
BUSY = answer(b'{"error":{"message":"overloaded","code":503}}', 503)


def _measure(shell: Shell, chat: Chat, out: Path, *options: object) -> Done:
    with serving(chat) as server:
        return shell.run("measure", f"openai={server.url}", *SHORT, *options, "--out", out)


@pytest.mark.parametrize(("then", "kind"), [(BUSY, "overloaded"), (b"", "closed")])
def test_server_that_dies(shell: Shell, tmp_path: Path, then: bytes, kind: str) -> None:
    """The stage ends by its error limit, with every record kept and few requests wasted."""
    chat, out = Chat(healthy=22, then=then), tmp_path / "run"
    done = _measure(shell, chat, out, "--concurrency", "8", "--duration", "60s")
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    run = read_run(out)
    (stage,) = run.manifest.stages
    assert (run.manifest.state, stage.stop_reason) == ("complete", "error limit")
    assert stage.ended_s is not None
    records = list(read_records(out))
    assert sum(record.status == "ok" for record in records) == 20  # two were for calibration
    failed = [record for record in records if record.status == "error"]
    assert len(failed) in range(20, 29)
    assert run.errors == {0: {kind: len(failed)}}
    # Each of 8 users waits half a second after a failure.
    assert chat.refused <= 8 * (1 + (stage.ended_s - stage.started_s) / 0.5)
    (point,) = operating_points(run)
    assert not point.usable
    assert any("of requests failed" in problem for problem in point.problems)


def test_planner_refuses_a_failed_stage(shell: Shell, tmp_path: Path) -> None:
    """A target that failed under load is not recommended; the answer says why."""
    out = tmp_path / "run"
    assert _measure(shell, Chat(healthy=8, then=BUSY), out, "--concurrency", "8").code == 0
    found = shell.run("recommend", out, "--users", "5", "--slo", "ttft_p95<=1s", "--json")
    assert found.code == 3, found
    answered = json.loads(found.out)
    assert answered["recommended"] is None
    (option,) = answered["options"]
    assert option["refused"]
    assert answered["next_measurements"]


def test_one_user_does_not_hammer(shell: Shell, tmp_path: Path) -> None:
    """A server that refuses everything at once gets two requests a second from a user."""
    chat, out = Chat(healthy=2, then=BUSY), tmp_path / "run"
    done = _measure(shell, chat, out, "--concurrency", "1", "--duration", "3s")
    assert done.code == 0, done.err
    assert 4 <= chat.refused <= 8
    (stage,) = read_run(out).manifest.stages
    assert stage.stop_reason == "time limit"


SPOILT = """
import locust
import msgspec, numpy
from loadtests.measure import session
made, whole = 0, session.assemble
def spoilt(*parts):
    global made
    made += 1
    record = whole(*parts)
    return msgspec.structs.replace(record, output_tokens=numpy.int64(4)) if made == 10 else record
session.assemble = spoilt
"""


@pytest.mark.parametrize("load", [("--concurrency", "2"), ("--rate", "40/s")])
def test_record_that_cannot_be_kept(tmp_path: Path, load: tuple[str, str]) -> None:
    """A record that cannot be encoded ends the run at once, with a line; the others are kept."""
    out = tmp_path / "run"
    with serving(Chat()) as server:
        done = headroom(
            "measure", f"openai={server.url}", *SHORT, *load, "--duration", "60s",
            "--slo", "ttft_p99.9<=1s", "--out", out, first=SPOILT,
        )  # fmt: skip
    assert done.code == 2, done
    told = re.search(r"the record of request (\d+) cannot be kept \(TypeError: ", done.err)
    assert told, done.err
    assert "Traceback" not in done.err
    run = read_run(out)
    kept = {record.id for record in read_records(out)}
    assert len(kept) == len(run.requests) == 9
    assert int(told[1]) not in kept
    (stage,) = run.manifest.stages
    assert (run.manifest.state, stage.stop_reason) == ("interrupted", "interrupted")
    assert stage.ended_s is not None
    assert stage.ended_s - stage.started_s < 30


def test_the_counts_add_up_in_a_run(shell: Shell, tmp_path: Path) -> None:
    """Of faults of many kinds the folder has as many records as the server dealt, of each kind."""
    dealt: Counter[str] = Counter()
    healthy, faults = Chat(), itertools.cycle([None, *FAULTS, None])

    def chat(request: bytes) -> Sequence[Step]:
        steps = healthy(request)
        if not request.startswith(b"POST") or len(healthy.prompts) <= 2:  # two for calibration
            return steps
        kind = next(faults)
        dealt[kind or "ok"] += 1
        return FAULTS[kind] if kind else steps

    out = tmp_path / "run"
    with serving(chat) as server:
        done = shell.run("measure", f"openai={server.url}", *SHORT, "--concurrency", "4",
                         "--duration", "6s", "--out", out)  # fmt: skip
    assert done.code == 0, done.err
    assert len(done.err.splitlines()) <= 3  # no line for a failure
    run = read_run(out)
    statuses = Counter(record.status for record in read_records(out))
    (point,) = operating_points(run)
    assert statuses["ok"] + statuses["error"] + statuses["cancelled"] == len(run.requests)
    assert dealt.total() == len(run.requests) > 20
    # Cut off at the end: a fault that was dealt then may have been seen or not.
    assert statuses["cancelled"] <= 4
    for kind in FAULTS:
        assert 0 <= dealt[kind] - run.errors[0].get(kind, 0) <= 4
    assert sum(run.errors[0].values()) == statuses["error"]
    assert not point.usable


def test_stage_without_one_answer(shell: Shell, tmp_path: Path) -> None:
    """A server too slow for the stage leaves censored requests, and no command stumbles on it."""
    out = tmp_path / "run"
    chat = Chat(slow_after=2, slow_s=60)
    began = time.monotonic()
    done = _measure(shell, chat, out, "--concurrency", "3", "--duration", "2s")
    assert time.monotonic() - began < 50  # it did not wait for the answers
    assert done.code == 0, done.err
    assert [record.status for record in read_records(out)] == ["cancelled"] * 3
    (point,) = operating_points(read_run(out))
    assert (point.completed, point.usable) == (0, False)
    assert shell.run("report", out).code == 0
    found = shell.run("recommend", out, "--users", "5", "--slo", "ttft_p95<=1s")
    assert found.code == 3, found
    assert "Traceback" not in found.err
