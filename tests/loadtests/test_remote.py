"""Locust's master and workers make one run: ``locust --master`` and ``locust --worker``."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from planner.errors import HeadroomError
from planner.journal import Damage, read_journal
from planner.runfolder import read_records, read_run
from planner.steady import in_flight_mean, steady_window
from tests.loadtests.measure.driving import ROOT, SHORT, eventually
from tests.loadtests.measure.fakes import Chat
from tests.loadtests.servers import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OPENAI = "loadtests/openai.py"


def _records(out: Path) -> int:
    try:
        return len(read_run(out, gaps=False).requests)
    except HeadroomError:  # not begun yet
        return 0


class Field:
    """A master and its workers, on a port of their own."""

    def __init__(self, out: Path, url: str) -> None:
        """Nobody is there yet."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.out, self._url = out, url
        self._all: list[subprocess.Popen[str]] = []

    def master(self, *options: object, workers: int) -> subprocess.Popen[str]:
        """A headless master that waits for so many workers."""
        bound = ("--master-bind-host", "127.0.0.1", "--master-bind-port", self._port)
        start = ("--headless", "--expect-workers", workers, "--host", self._url, *SHORT)
        return self._start(OPENAI, "--master", *bound, *start, *options, "--out", self.out)

    def worker(self, file: Path | str = OPENAI, **environment: str) -> subprocess.Popen[str]:
        """One more worker."""
        connect = ("--worker", "--master-host", "127.0.0.1", "--master-port", self._port)
        return self._start(file, *connect, **environment)

    def _start(
        self, file: Path | str, *arguments: object, **environment: str
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "locust", "-f", str(file), *map(str, arguments)],
            cwd=ROOT,
            text=True,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._all.append(process)
        return process

    def close(self) -> None:
        """End them all."""
        for process in self._all:
            process.kill()
            process.communicate()


def _ended(process: subprocess.Popen[str]) -> str:
    """The log of a process that ends by itself."""
    log, _ = process.communicate(timeout=60)
    assert "Traceback" not in log, log
    return log


@pytest.fixture
def field(tmp_path: Path) -> Iterator[Field]:
    """Around a server whose answers take 0.3 s."""
    with (
        serving(Chat(pause_s=0.3)) as server,
        contextlib.closing(Field(tmp_path / "run", server.url)) as field,
    ):
        yield field


def test_worker_that_is_killed(field: Field, tmp_path: Path) -> None:
    """It is named, its journal fills what never arrived, and the stage is not used."""
    master = field.master("-u", 5, "-r", 5, "-t", "16s", workers=2)
    workers = [field.worker(HEADROOM_JOURNALS=str(tmp_path / name)) for name in "ab"]
    assert eventually(lambda: _records(field.out) >= 50, 60)
    workers[0].kill()
    log = _ended(master)
    run = read_run(field.out)
    assert run.manifest.state == "complete", log
    (dead,) = [worker for worker in run.manifest.workers if worker.fate is not None]
    assert dead.fate == "went missing"
    assert dead.name.endswith(f":{workers[0].pid}")
    assert any(dead.name in note and "went missing" in note for note in run.manifest.notes)
    whole = next(s for s in run.manifest.stages if s.stop_reason == "worker missing")
    assert whole.invalid is not None
    records = list(read_records(field.out))
    assert len({record.id for record in records}) == len(records)
    users = {(r.worker, r.user) for r in records if r.stage == whole.index}
    assert sorted(Counter(worker for worker, _ in users).values()) == [2, 3]
    table = run.requests.where(run.requests.stage == whole.index)
    assert in_flight_mean(table, steady_window(table, whole, now_s=0)) <= 5
    last = [stage for stage in run.manifest.stages if stage.invalid is None][-1]
    assert (last.index > whole.index, last.load) == (True, 5)  # the other has them all
    assert {r.worker for r in records if r.stage == last.index} == {3 - dead.number}
    assert not list((tmp_path / "b").rglob("*.journal"))  # the master has all of it
    (journal,) = (tmp_path / "a").rglob("*.journal")
    own = [record.id for record in read_journal(journal, Damage())]
    arrived = {record.id for record in records if record.worker == dead.number}
    assert set(own) >= arrived
    shutil.copy(journal, field.out)
    assert {record.id for record in read_records(field.out)} == {r.id for r in records} | set(own)
    assert len(read_run(field.out).requests) == len(records) + len(set(own) - arrived)


def test_master_that_is_killed(field: Field, tmp_path: Path) -> None:
    """Workers keep in a directory of their own, which they name, what they have made."""
    master = field.master("-u", 4, "-r", 4, "-t", "60s", workers=1)
    worker = field.worker(TMPDIR=str(tmp_path))
    assert eventually(lambda: _records(field.out) >= 20, 60)
    master.kill()
    time.sleep(1.5)
    worker.send_signal(signal.SIGTERM)
    log = _ended(worker)
    (journal,) = tmp_path.glob("headroom-*/run-*/*.journal")
    assert f"keeps a copy of its records in {journal}" in log
    arrived = {record.id for record in read_records(field.out)}
    own = [record.id for record in read_journal(journal, Damage())]
    assert len(own) == len(set(own)) > len(arrived) >= 20
    assert set(own) >= arrived
    shutil.copy(journal, field.out)
    assert sorted(record.id for record in read_records(field.out)) == sorted(own)


SKEWED = """
import loadtests.stream.clock as clock
begin = clock.Clock.__init__
def skewed(self, started_unix_s):
    begin(self, started_unix_s - {ahead_s})
    self.started_unix_s = started_unix_s
clock.Clock.__init__ = skewed
from loadtests.plugin import ChatUser
class {name}(ChatUser):
    backend = "openai"
"""


def test_clock_that_is_wrong(field: Field, tmp_path: Path) -> None:
    """A clock 7 s ahead: the offset is found within its bound, and its records are in place."""
    file = tmp_path / "skewed.py"
    file.write_text(SKEWED.format(ahead_s=7, name="OpenAIUser"))
    master = field.master("-u", 4, "-r", 4, "-t", "6s", workers=2)
    field.worker()
    skewed = field.worker(file)
    _ended(master)
    run = read_run(field.out)
    infos = {worker.name.endswith(f":{skewed.pid}"): worker for worker in run.manifest.workers}
    assert len(infos) == 2
    for is_skewed, ahead_s in ((True, 7.0), (False, 0.0)):
        info = infos[is_skewed]
        assert info.clock_offset_s is not None
        assert info.clock_bound_s is not None
        assert 0 < info.clock_bound_s < 0.1
        assert abs(info.clock_offset_s - ahead_s) <= info.clock_bound_s + 1e-3
    ended_s = run.manifest.stages[-1].ended_s
    assert ended_s is not None
    records = list(read_records(field.out))
    for number in (1, 2):
        own = [r for r in records if r.worker == number and r.status == "ok"]
        assert len(own) >= 10
        assert all(0 <= r.scheduled_s <= r.sent_s <= r.ended_s <= ended_s + 1 for r in own)
        assert all(r.ended_s - r.sent_s < 3 for r in own)
        assert all(r.first_token_s and 0.25 < r.first_token_s - r.sent_s < 3 for r in own)


def test_worker_that_joins_and_one_that_leaves(field: Field) -> None:
    """The newcomer gets orders and users; who is told to go hands over all; none is called lost."""
    master = field.master("-u", 6, "-r", 6, "-t", "24s", workers=1)
    first = field.worker()
    assert eventually(lambda: _records(field.out) >= 30, 60)
    second = field.worker()
    assert eventually(lambda: {2} <= {r.worker for r in read_records(field.out)}, 30)
    time.sleep(3)
    first.send_signal(signal.SIGTERM)
    _ended(first)
    log = _ended(master)
    run = read_run(field.out)
    one, two = run.manifest.workers
    assert (one.fate, two.fate) == ("told to go", None), log
    assert two.joined_s > one.joined_s + 2
    assert two.name.endswith(f":{second.pid}")
    assert sum("left: its users went to the others" in note for note in run.manifest.notes) == 1
    assert not any("missing" in note for note in run.manifest.notes)
    good = [stage for stage in run.manifest.stages if stage.invalid is None]
    assert {stage.load for stage in good} == {6}
    crews = [
        {r.worker for r in read_records(field.out) if r.stage == stage.index} for stage in good
    ]
    assert crews[0] == {1}
    assert {1, 2} in crews
    assert crews[-1] == {2}
    assert any(stage.stop_reason == "worker left" for stage in run.manifest.stages)


def test_many_in_flight(field: Field) -> None:
    """40 users over three workers are 40 requests in flight; the master looks at the server."""
    master = field.master("-u", 40, "-r", 40, "-t", "7s", workers=3)
    for _ in range(3):
        field.worker()
    _ended(master)
    run = read_run(field.out)
    stage = next(s for s in run.manifest.stages if s.stop_reason == "stopped" and s.load == 40)
    table = run.requests.where(run.requests.stage == stage.index)
    window = steady_window(table, stage, now_s=0)
    assert in_flight_mean(table, window) == pytest.approx(40, rel=0.1)
    looks_s = run.telemetry().find("openai", "process", "memory_bytes").time_s
    assert 3 <= len(looks_s) <= looks_s[-1] - looks_s[0] + 2, "the master alone, once a second"
