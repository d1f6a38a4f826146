"""Several processes make one load: its sum is exact, and one that dies costs little."""

from __future__ import annotations

import signal
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest

from planner.errors import HeadroomError
from planner.runfolder import Run, read_records, read_run
from planner.steady import in_flight_mean, steady_window
from tests.loadtests.measure.driving import SHORT, eventually, headroom, one_line, start
from tests.loadtests.measure.fakes import Chat
from tests.loadtests.servers import serving

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def url() -> Iterator[str]:
    """A server whose answers take 0.3 s."""
    with serving(Chat(pause_s=0.3)) as server:
        yield server.url


def _begin(url: str, out: Path, *options: object) -> subprocess.Popen[str]:
    return start("measure", f"openai={url}", *SHORT, *options, "--out", out)


def _ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code, and what stood on stderr."""
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "Traceback" not in err, err
    return process.returncode, err


def _workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children()
    return [child for child in children if "loadtests.worker" in child.cmdline()]


def _records(out: Path) -> int:
    try:
        return len(read_run(out, gaps=False).requests)
    except HeadroomError:  # not begun yet
        return 0


def _in_flight(run: Run, stage: int) -> float:
    table = run.requests.where(run.requests.stage == stage)
    return in_flight_mean(table, steady_window(table, run.manifest.stages[stage], now_s=0))


def test_concurrency_is_as_asked(url: str, tmp_path: Path) -> None:
    """10 in flight over 3 processes are 4 + 3 + 3, at every moment 10 together, each once."""
    out = tmp_path / "run"
    limits = ("--concurrency", "2,10", "--duration", "4s", "--processes", "3")
    code, err = _ended(_begin(url, out, *limits))
    assert code == 0, err
    run = read_run(out)
    assert run.manifest.notes[0] == "load made by 3 processes"
    assert sum("clock" in note for note in run.manifest.notes) == 3
    records = list(read_records(out))
    assert len({record.id for record in records}) == len(records)
    for stage, shares in ((0, [1, 1]), (1, [3, 3, 4])):
        users = {(record.worker, record.user) for record in records if record.stage == stage}
        assert sorted(Counter(worker for worker, _ in users).values()) == shares
        assert len({user for _, user in users}) == sum(shares)
        assert _in_flight(run, stage) == pytest.approx(sum(shares), rel=0.1)
    assert {record.status for record in records} == {"ok", "cancelled"}
    assert sum(record.status == "cancelled" for record in records) <= 12


def test_worker_that_is_killed(url: str, tmp_path: Path) -> None:
    """Its stage is invalid, what it had sent is kept, and the next stage has its whole load."""
    out = tmp_path / "run"
    process = _begin(url, out, "--concurrency", "4,6", "--duration", "5s", "--processes", "2")
    assert eventually(lambda: _records(out) >= 20, 60)
    victim = _workers(process)[0]
    victim.send_signal(signal.SIGKILL)
    code, err = _ended(process)
    assert code == 0, err
    run = read_run(out)
    first, second = run.manifest.stages
    assert first.stop_reason == "worker died"
    assert first.invalid is not None
    assert second.invalid is None or "died" not in second.invalid
    assert second.stop_reason in ("steady", "time limit")
    (dead,) = [note for note in run.manifest.notes if "killed by signal 9" in note]
    number = int(dead.split()[1])
    records = list(read_records(out))
    last_s = max(r.ended_s for r in records if r.worker == number)
    assert first.ended_s is not None
    assert first.ended_s - last_s < 2.5  # its last second, and our noticing it
    assert {r.worker for r in records if r.stage == 1} == {1 - number}
    assert len({r.user for r in records if r.stage == 1}) == 6
    assert _in_flight(run, 1) == pytest.approx(6, rel=0.1)


def test_nobody_is_left(url: str, tmp_path: Path) -> None:
    """All workers dead ends the run with one line; what was measured can be read."""
    out = tmp_path / "run"
    process = _begin(url, out, "--concurrency", "4,6", "--duration", "20s", "--processes", "2")
    assert eventually(lambda: _records(out) >= 10, 60)
    for worker in _workers(process):
        worker.send_signal(signal.SIGKILL)
    code, err = _ended(process)
    assert code == 2
    assert "no process is left" in err
    run = read_run(out)
    assert run.manifest.state == "interrupted"
    assert len(run.requests) >= 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent(url: str, tmp_path: Path, number: signal.Signals) -> None:
    """However it ends, no process goes on making load; after Ctrl-C the records are whole."""
    out = tmp_path / "run"
    process = _begin(url, out, "--concurrency", "4", "--duration", "30s", "--processes", "2")
    assert eventually(lambda: _records(out) >= 10, 60)
    workers = _workers(process)
    assert len(workers) == 2
    process.send_signal(number)
    code, _ = _ended(process)
    assert code == (130 if number == signal.SIGINT else -9)
    assert eventually(lambda: not any(worker.is_running() for worker in workers))
    run = read_run(out)
    assert len(run.requests) >= 10
    assert np.isfinite(run.requests.ended_s).all()


def test_open_loop_needs_one_process(tmp_path: Path) -> None:
    """Arrivals are not split: asked for, that is refused before anything starts."""
    done = headroom(
        "measure", "openai=http://127.0.0.1:9", "--rate", "5/s", "--processes", "2", "--out",
        tmp_path / "run",
    )  # fmt: skip
    one_line(done, "--processes", "--rate")
