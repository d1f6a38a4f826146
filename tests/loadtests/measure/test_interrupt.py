"""However a measurement ends, what was measured by then is kept and can be read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from planner.manifest import is_run
from planner.runfolder import read_records, read_run
from tests.loadtests.measure.driving import ROOT, SHORT, eventually, start
from tests.loadtests.measure.fakes import Chat
from tests.loadtests.servers import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from loadtests.engines.base import RunningEngine
    from tests.loadtests.measure.driving import Shell

QUESTION = ("--users", "4", "--slo", "ttft_p95<=1s")


def _begin(url: str, out: Path, *, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
    """Two stages, the second of which would last for a minute."""
    return start(
        "measure", url, *SHORT, "--concurrency", "1,3", "--duration", "60s",
        "--slo", "ttft_p99.9<=1s", "--out", out, stderr=stderr,
    )  # fmt: skip


def _journaled(out: Path) -> bool:
    """Whether the run's second stage has records on disk."""
    return is_run(out) and any(record.stage == 1 for record in read_records(out))


@pytest.fixture
def chat() -> Iterator[tuple[Chat, str]]:
    """A quick server that keeps count, so that a stage is over within seconds."""
    answers = Chat(pause_s=0.001)
    with serving(answers) as server:
        yield answers, f"openai={server.url}"


def test_kill_loses_at_most_the_last_second(shell: Shell, tmp_path: Path) -> None:
    """After kill -9 every answer but those of the last second is in the folder, and it says so."""
    # Slow enough that no buffer is full, and so written, by itself.
    answers, out = Chat(pause_s=0.04), tmp_path / "run"
    with serving(answers) as server:
        process = start(
            "measure", f"openai={server.url}", *SHORT, "--concurrency", "3", "--duration", "60s",
            "--slo", "ttft_p99.9<=1s", "--out", out,
        )  # fmt: skip
        assert eventually(lambda: len(answers.answered_s) > 100)
        time.sleep(2.5)
        process.kill()
        killed_s = time.monotonic()
        process.communicate(timeout=20)
    run = read_run(out)
    calibrating = 2
    sure = sum(at < killed_s - 1.5 for at in answers.answered_s) - calibrating
    assert 100 < sure <= len(run.requests) <= len(answers.answered_s)
    assert run.manifest.state == "running"
    assert "killed or still runs" in run.notes[0]
    assert run.manifest.stages[0].ended_s is None
    found = shell.run("recommend", out, *QUESTION, "--json")
    assert found.code in {0, 1, 3}, found.err
    assert "killed" in json.loads(found.out)["warnings"][0]
    assert shell.run("report", out).code == 0
    assert (out / "report.html").stat().st_size > 100_000


@pytest.mark.engine
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_keeps_what_was_measured(
    llamacpp: RunningEngine, tmp_path: Path, number: signal.Signals
) -> None:
    """Ctrl-C and SIGTERM end the command with 130 and a folder in its final form."""
    out = tmp_path / "run"
    process = start(
        "measure", f"llamacpp={llamacpp.url}", *SHORT, "--concurrency", "3", "--duration", "60s",
        "--slo", "ttft_p99.9<=1s", "--out", out,
    )  # fmt: skip
    assert eventually(lambda: is_run(out) and len(read_run(out).requests) > 20)
    before = len(read_run(out).requests)
    process.send_signal(number)
    printed, said = process.communicate(timeout=30)
    assert (process.returncode, printed) == (130, "")
    assert said.splitlines() == [
        "llamacpp: 3 in flight, at most 60 s",
        f"interrupted: what was measured is kept in {out}",
    ]
    run = read_run(out)
    kept = ["manifest.json", "requests.parquet", "telemetry.parquet"]
    assert sorted(file.name for file in out.iterdir()) == kept
    assert (run.manifest.state, run.notes) == ("interrupted", ())
    (stage,) = run.manifest.stages
    assert stage.stop_reason == "interrupted"
    assert stage.ended_s is not None
    assert len(run.requests) >= before
    statuses = [record.status for record in read_records(out)]
    assert statuses.count("cancelled") <= 3
    assert set(statuses) <= {"ok", "cancelled"}


def test_signals_that_come_at_once(chat: tuple[Chat, str], tmp_path: Path) -> None:
    """An impatient second and third Ctrl-C cannot hurt what was measured."""
    answers, url = chat
    out = tmp_path / "run"
    process = _begin(url, out)
    assert eventually(lambda: is_run(out) and len(answers.answered_s) > 200)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    process.communicate(timeout=30)
    assert len(read_run(out).requests) > 50


def test_signal_while_looking(tmp_path: Path) -> None:
    """Ctrl-C before anything was measured leaves no folder and no traceback."""
    with serving([60.0]) as server:
        process = start("measure", f"openai={server.url}", "--out", tmp_path / "run")
        assert eventually(lambda: server.connections > 0)
        process.send_signal(signal.SIGINT)
        printed, said = process.communicate(timeout=30)
    assert (process.returncode, printed, said) == (130, "", "interrupted\n")
    assert not (tmp_path / "run").exists()


def test_progress_on_a_terminal(chat: tuple[Chat, str], tmp_path: Path) -> None:
    """On a terminal a bar shows the load, the rate, the time left and what it waits for."""
    answers, url = chat
    mine, its = os.openpty()
    process = _begin(url, tmp_path / "run", stderr=its)
    os.close(its)
    seen = b""
    while b"p99.9" not in seen:
        seen += os.read(mine, 65536)
    process.send_signal(signal.SIGINT)
    while b"interrupted" not in seen:
        seen += os.read(mine, 65536)
    process.communicate(timeout=30)
    os.close(mine)
    assert answers.answered_s
    for words in (b"openai: 1 in flight", b" req/s", b"at most ", b" s more; waits for "):
        assert words in seen
    assert b"Traceback" not in seen


LEFT = """
import locust, gc, gevent, json, sys, psutil
from pathlib import Path
from loadtests.measure.campaign import Campaign
from loadtests.measure.stage import StageLimits
from loadtests.resolve import traffic_of
from loadtests.targets import parse_target
from loadtests.users import ChatUser
traffic = traffic_of(prompt_tokens="8", output_tokens="4", seed=1)
def left():
    gevent.sleep(0.5)  # the reader leaves when it has nothing to read any more
    gc.unfreeze()  # the reader freezes what is there, and frozen objects are not listed
    gc.collect()
    kept = [o for o in gc.get_objects() if isinstance(o, gevent.Greenlet) and not o.ready()]
    users = [o for o in gc.get_objects() if isinstance(o, ChatUser)]
    files = psutil.Process().net_connections()
    return len(kept), len(users), sum(c.status == "ESTABLISHED" for c in files)
with Campaign.open(Path(sys.argv[2]), [parse_target(sys.argv[1])], traffic) as campaign:
    found = []
    for load in (3, 20, 3):
        campaign.measure("openai", "concurrency", load, StageLimits(max_s=0.5, min_s=1))
        found.append(left())
    print(json.dumps(found))
"""


def test_stages_leave_nothing_running(chat: tuple[Chat, str], tmp_path: Path) -> None:
    """After a stage no greenlet, no user and no connection of it is left in the process."""
    _, url = chat
    done = subprocess.run(
        [sys.executable, "-c", LEFT, url, tmp_path / "run"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=True,
    )
    first, second, third = json.loads(done.stdout)
    assert first[1:] == [0, 0]  # the greenlets that serve the whole run stay
    assert first == second == third
    assert done.stderr == ""


FORGETFUL = """
import os, signal, sys
import gevent
from loadtests.measure.interrupt import interrupt_here

class Freed:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000): pass  # Python runs a signal's handler between two of its steps

if sys.argv[1] == "here":
    interrupt_here()
gevent.spawn_later(0.05, Freed)
try:
    gevent.sleep(2)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(("what", "code"), [("nothing", 0), ("here", 130)])
def test_ctrl_c_while_an_object_is_freed(what: str, code: int) -> None:
    """Python forgets an interrupt that strikes a finalizer; one that is redirected arrives."""
    command = [sys.executable, "-c", FORGETFUL, what]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == code, done.stderr
