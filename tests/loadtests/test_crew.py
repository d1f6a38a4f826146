"""Several processes make one load: its sum is exact, and one that dies costs little."""

from __future__ import annotations

import signal
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest

from loadtests.refserver.launch import reference_server
from loadtests.traffic.prompts import CALIBRATION_WORDS
from planner.errors import HeadroomError
from planner.journal import Damage, read_journal
from planner.runfolder import Run, RunWriter, read_records, read_run
from planner.steady import in_flight_mean, steady_window
from tests.loadtests.measure.driving import SHORT, eventually, start
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
    assert [worker.number for worker in run.manifest.workers] == [1, 2, 3]
    for worker in run.manifest.workers:  # one machine: the clocks agree as well as they are read
        assert worker.clock_offset_s is not None
        assert worker.clock_bound_s is not None
        assert abs(worker.clock_offset_s) <= worker.clock_bound_s + 1e-3 < 1
        assert worker.fate is None
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
    """Its stage is invalid and measured again by the rest; what it had written is kept."""
    out = tmp_path / "run"
    process = _begin(url, out, "--concurrency", "4,6", "--duration", "4s", "--processes", "2")
    assert eventually(lambda: _records(out) >= 20, 60)
    victim = _workers(process)[0]
    victim.send_signal(signal.SIGKILL)
    code, err = _ended(process)
    assert code == 0, err
    run = read_run(out)
    first, *others = run.manifest.stages
    assert [stage.load for stage in run.manifest.stages] == [4, 4, 6]
    assert first.stop_reason == "worker died"
    assert first.invalid is not None
    (dead,) = [worker for worker in run.manifest.workers if worker.fate is not None]
    assert dead.fate == "was killed by signal 9"
    assert dead.left_s is not None
    assert dead.name.endswith(f":{victim.pid}")
    assert any(dead.name in note for note in run.manifest.notes)
    records = list(read_records(out))
    assert len({record.id for record in records}) == len(records)
    last_s = max(r.ended_s for r in records if r.worker == dead.number)
    assert dead.left_s - last_s < 2.5  # its last second, and our noticing it
    for stage in others:
        assert stage.invalid is None or "died" not in stage.invalid
        assert stage.stop_reason in ("steady", "time limit")
        here = [record for record in records if record.stage == stage.index]
        assert {r.worker for r in here} == {3 - dead.number}
        assert len({r.user for r in here}) == stage.load
        assert _in_flight(run, stage.index) == pytest.approx(stage.load, rel=0.1)


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


def test_workers_end_with_their_parent(url: str, tmp_path: Path) -> None:
    """After Ctrl-C no process goes on making load, and the records are whole."""
    out = tmp_path / "run"
    process = _begin(url, out, "--concurrency", "4", "--duration", "30s", "--processes", "2")
    assert eventually(lambda: _records(out) >= 10, 60)
    workers = _workers(process)
    assert len(workers) == 2
    process.send_signal(signal.SIGINT)
    code, _ = _ended(process)
    assert code == 130
    assert eventually(lambda: not any(worker.is_running() for worker in workers))
    run = read_run(out)
    assert len(run.requests) >= 10
    assert np.isfinite(run.requests.ended_s).all()


@pytest.mark.parametrize("worker_too", [False, True])
def test_driver_that_is_killed(tmp_path: Path, worker_too: bool) -> None:
    """Every request is found once in what it leaves; a worker killed with it costs a second."""
    out, chat = tmp_path / "run", Chat(pause_s=0.3)
    with serving(chat) as server:
        process = _begin(
            server.url, out, "--concurrency", "6", "--duration", "30s", "--processes", "2"
        )
        assert eventually(lambda: _records(out) >= 30, 60)
        workers = _workers(process)
        for victim in (process, workers[0]) if worker_too else (process,):
            victim.send_signal(signal.SIGKILL)
        assert _ended(process)[0] == -signal.SIGKILL
        assert eventually(lambda: not any(worker.is_running() for worker in workers))
    written = [
        [record.id for record in read_journal(file, Damage())]
        for file in out.glob("requests-*.journal")
    ]
    assert len(written) == 3
    assert sum(map(len, written)) > len(set().union(*written)) >= 30  # many are there twice
    records = list(read_records(out))
    assert sorted(record.id for record in records) == sorted(set().union(*written))
    assert {record.worker for record in records} == {1, 2}
    asked = len(chat.prompts) - len(CALIBRATION_WORDS)
    if worker_too:
        assert asked - 3 * 5 <= len(records) < asked  # of its 3 users, a second and what was cut
        ends = [max(r.ended_s for r in records if r.worker == number) for number in (1, 2)]
        assert abs(ends[0] - ends[1]) < 1.5
    else:
        assert len(records) == asked
    manifest = read_run(out).manifest
    assert manifest.state == "running"
    RunWriter.resume(out).finish(manifest)
    assert not list(out.glob("requests-*.journal"))
    assert list(read_records(out)) == records


def test_one_schedule(url: str, tmp_path: Path) -> None:
    """Three processes send the arrivals of one, each arrival by exactly one of them."""
    drawn = {}
    for processes in (1, 3):
        out = tmp_path / str(processes)
        code, err = _ended(
            _begin(url, out, "--rate", "40/s", "--duration", "2s", "--processes", processes)
        )
        assert code == 0, err
        (stage,) = read_run(out).manifest.stages
        assert stage.send_late_p99_s is not None
        drawn[processes] = sorted(read_records(out), key=lambda record: record.scheduled_s)
    count = min(map(len, drawn.values()))
    assert count >= 50
    one, three = (drawn[processes][:count] for processes in (1, 3))
    due = [np.array([record.scheduled_s for record in records]) for records in (one, three)]
    assert due[1] - due[1][0] == pytest.approx(due[0] - due[0][0], abs=2e-3)
    assert [record.worker for record in three] == [1 + index % 3 for index in range(count)]
    asked = [
        [(r.prompt_tokens, r.output_tokens) for r in records if r.status == "ok"]
        for records in (one, three)
    ]
    assert asked[0][:30] == asked[1][:30]


def test_arrivals_that_outgrow_the_bound(tmp_path: Path) -> None:
    """The bound in flight is the crew's: one worker that reaches its share ends the stage."""
    out = tmp_path / "run"
    with serving(Chat(slow_after=2, slow_s=60.0)) as server:
        limits = ("--rate", "50/s", "--duration", "30s", "--max-in-flight", "12")
        code, err = _ended(_begin(server.url, out, *limits, "--processes", "2"))
    assert code == 0, err
    (stage,) = read_run(out).manifest.stages
    assert stage.stop_reason == "in-flight limit"
    assert stage.invalid is not None
    assert "requests were in flight" in stage.invalid
    records = list(read_records(out))
    assert {record.status for record in records} == {"cancelled"}
    assert 11 <= len(records) <= 12


def test_trace_is_split(url: str, tmp_path: Path) -> None:
    """Each request of a trace is sent once; the stage ends when all workers' parts have."""
    ms = [0, 300, 310, 700, 710, 720, 1200]
    trace, out = tmp_path / "t.jsonl", tmp_path / "run"
    trace.write_text(
        "".join(f'{{"timestamp":{at},"input_length":9,"output_length":9}}\n' for at in ms)
    )
    options = ("--arrivals", f"trace:{trace}", "--duration", "20s", "--processes", "2")
    code, err = _ended(_begin(url, out, *options))
    assert code == 0, err
    (stage,) = read_run(out).manifest.stages
    assert stage.stop_reason == "end of the trace"
    due_s = np.sort([record.scheduled_s for record in read_records(out)])
    assert due_s - due_s[0] == pytest.approx(np.array(ms) / 1e3, abs=2e-3)


def test_many_in_flight(tmp_path: Path) -> None:
    """40, 64 and 192 in flight over three processes are as many at the server."""
    out = tmp_path / "run"
    rough = (
        "import locust, loadtests.measure.preparing as c; c._calibrate = lambda *_: c.ROUGH_SCALE"
    )
    limits = ("--concurrency", "40,64,192", "--duration", "3s", "--processes", "3")
    with reference_server(itl_s=0.02, ttft_s=0.05) as server:  # counts 16 tokens whatever is asked
        process = start(
            "measure", f"openai={server.url}", "--prompt-tokens", "16",
            "--output-tokens", "uniform:20-60", *limits, "--out", out, first=rough,
        )  # fmt: skip
        code, err = _ended(process)
    assert code == 0, err
    run = read_run(out)
    for stage, load in enumerate((40, 64, 192)):
        assert run.manifest.stages[stage].load == load
        assert _in_flight(run, stage) == pytest.approx(load, rel=0.05)
