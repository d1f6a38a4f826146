"""Plain Locust with the locustfiles: rows in its statistics, a run folder, its web UI."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.parse
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from planner.gates.records import RAMP
from planner.manifest import is_run
from planner.runfolder import read_records, read_run
from planner.steptime import StepTime
from planner.summary import operating_points
from tests.loadtests.engines.emulator.emulating import emulating, kinds_settings
from tests.loadtests.measure.driving import ROOT, SHORT, Done, eventually
from tests.loadtests.measure.fakes import Chat
from tests.loadtests.servers import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from loadtests.engines.base import RunningEngine
    from planner.records import ServerView

SIX = ("-u", "6", "-r", "3", "-t", "8s", "--only-summary")
SLOW = StepTime(base_s=0.01, per_sequence_s=0.0, per_prompt_token_s=1e-5)
HEADLESS = ("--headless", "-u", "3", "-r", "3", "-t", "3s", "--only-summary")


def _start(file: str | Path, *options: object) -> subprocess.Popen[str]:
    """Locust on a file, or on one of the locustfiles by its name."""
    path = f"loadtests/{file}.py" if isinstance(file, str) else str(file)
    command = [sys.executable, "-m", "locust", "-f", path, *map(str, options)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


def _locust(file: str | Path, *options: object) -> Done:
    process = _start(file, *options)
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return Done(process.returncode, out, err)


@pytest.mark.engine
def test_headless(llamacpp: RunningEngine, tmp_path: Path) -> None:
    """A headless run has rows for requests, TTFT and TPOT, and keeps a run for the planner."""
    out = tmp_path / "run"
    stats = ("--json-file", tmp_path / "stats")
    done = _locust("llamacpp", "--host", llamacpp.url, *HEADLESS, *SHORT, "--out", out, *stats)
    assert done.code == 0, done.err
    rows = {row["method"]: row for row in json.loads((tmp_path / "stats.json").read_text())}
    assert rows.keys() == {"chat", "TTFT", "TPOT"}
    assert (rows["chat"]["name"], rows["chat"]["num_failures"]) == ("llamacpp", 0)
    run = read_run(out)
    assert (run.manifest.state, run.notes) == ("complete", ())
    good = [record for record in read_records(out) if record.status == "ok"]
    assert rows["chat"]["num_requests"] == len(good) > 20
    (stage,) = (stage for stage in run.manifest.stages if stage.invalid is None)
    assert stage.load == 3
    point = operating_points(run)[stage.index]
    cut = [record for record in read_records(out) if record.status == "cancelled"]
    assert all(record.ended_s >= (stage.ended_s or 0) for record in cut)  # it ended before them
    assert point.in_flight_mean == pytest.approx(3, rel=0.25)
    assert point.load_kind == "concurrency"


def _views(run: Path) -> dict[float, ServerView]:
    """What the server told of itself at each settled number of users."""
    points = operating_points(read_run(run))
    return {point.load: point.server for point in points if point.server is not None}


def test_the_server_is_watched(tmp_path: Path) -> None:
    """As under headroom measure: six users on four slots, two of whom wait by its own account."""
    out = tmp_path / "run"
    with emulating(kinds_settings("vllm", engine={"slots": 4, "step": SLOW})) as (_, port):
        done = _locust("vllm", "--host", f"http://127.0.0.1:{port}", *HEADLESS[:1], *SIX, *SHORT,
                       "--out", out)  # fmt: skip
    assert done.code == 0, done.err
    run = read_run(out)
    looks = {
        name: run.telemetry().find("vllm", "/metrics", name) for name in ("running", "waiting")
    }
    assert len(looks["running"].value) >= 3
    assert looks["running"].value.max() == 4
    assert 1 <= np.median(looks["waiting"].value) <= 3
    (level,) = (stage for stage in run.manifest.stages if stage.invalid != RAMP)
    assert looks["running"].time_s[0] >= level.started_s, "nobody looks during a ramp"
    (view,) = _views(out).values()
    assert view.output_tokens_per_s is not None
    assert view.disagreements == ()
    assert (out / "telemetry.parquet").exists()


@pytest.mark.engine
def test_all_backends_with_one(llamacpp: RunningEngine, tmp_path: Path) -> None:
    """Backends whose address is empty are left out."""
    out = tmp_path / "run"
    done = _locust(
        "all_backends", "--llamacpp-host", llamacpp.url, "--ollama-host", "", "--vllm-host", "",
        *HEADLESS, *SHORT, "--think-time", "100ms", "--out", out,
    )  # fmt: skip
    assert done.code == 0, done.err
    manifest = read_run(out).manifest
    assert [target.name for target in manifest.targets] == ["llamacpp"]
    assert {stage.load for stage in manifest.stages} == {3}
    assert {(s.load_kind, s.think_time_s) for s in manifest.stages} == {("users", 0.1)}


TWO = """
from gevent import monkey
from loadtests.plugin import ChatUser

monkey.get_original("time", "sleep")(2.5)  # imports take long: -t counts from after them

class First(ChatUser):
    host = {!r}

class Second(ChatUser):
    host = {!r}
    weight = 2
"""


def test_two_servers_at_once(tmp_path: Path) -> None:
    """Two classes of one kind are two targets, each with stages of its own and its own users."""
    out, file = tmp_path / "run", tmp_path / "two.py"
    with serving(Chat()) as first, serving(Chat()) as second:
        file.write_text(TWO.format(first.url, second.url))
        done = _locust(file, *HEADLESS, *SHORT, "--no-telemetry", "--out", out)
    assert done.code == 0, done.err
    assert not list(out.glob("telemetry*")), "told not to look at the servers themselves"
    manifest = read_run(out).manifest
    urls = {target.name: target.url for target in manifest.targets}
    assert urls == {"openai": first.url, "openai-2": second.url}
    loads = {stage.target: stage.load for stage in manifest.stages if stage.invalid is None}
    assert loads == {"openai": 1, "openai-2": 2}
    users = {(record.target, record.user) for record in read_records(out)}
    assert users == {("openai", 0), ("openai-2", 0), ("openai-2", 1)}


@pytest.mark.parametrize(
    ("file", "options", "words"),
    [
        ("vllm", ["--host", "http://127.0.0.1:9"], "cannot be reached"),
        ("vllm", [], "no server is named: give its address as --host"),
        ("vllm", ["--host", "http://127.0.0.1:9", "--seed", "x"], "--seed 'x'"),
        ("vllm", ["--host", "http://127.0.0.1:9", "--rate", "7/s", "--arrivals", "gamma:2"],
         "use headroom measure --rate 7/s --arrivals gamma:2, which waits for nobody"),
        ("all_backends", [f"--{kind}-host=" for kind in ("vllm", "ollama", "llamacpp")],
         "every backend is left out: give one of --llamacpp-host"),
    ],
)  # fmt: skip
def test_bad_input(file: str, options: list[str], words: str, tmp_path: Path) -> None:
    """What cannot be measured ends the test at once: one line and exit code 2."""
    out = tmp_path / "run"
    done = _locust(file, *HEADLESS, *options, "--out", out)
    assert done.code == 2, done
    errors = [line for line in done.err.splitlines() if "/ERROR/" in line]
    assert len(errors) == 1
    assert words in errors[0]
    assert "Traceback" not in done.err
    assert not out.exists()


def test_wrong_kind_of_server(tmp_path: Path) -> None:
    """The locustfile of another backend says which one it is."""
    with serving(Chat()) as server:
        done = _locust("ollama", "--host", server.url, *HEADLESS, "--out", tmp_path / "run")
    assert done.code == 2
    assert "is an OpenAI-compatible server, not an Ollama server" in done.err
    assert "Traceback" not in done.err


BLOCKED = """
import gevent
from gevent import monkey
from loadtests.plugin import ChatUser

class Hasty(ChatUser):
    host = {!r}

def block():
    while True:
        monkey.get_original("time", "sleep")(0.03)  # nobody else runs meanwhile
        gevent.sleep(0.001)

gevent.spawn(block)
"""


def test_a_client_that_reads_late_is_found_out(tmp_path: Path) -> None:
    """Content events that a busy process reads together make the stage invalid, with the share."""
    out, file = tmp_path / "run", tmp_path / "blocked.py"
    with serving(Chat(gap_s=0.004)) as server:
        file.write_text(BLOCKED.format(server.url))
        done = _locust(file, *HEADLESS[:5], "-t", "5s", *SHORT, "--out", out)
    assert done.code == 0, done.err
    stage = read_run(out).manifest.stages[-1]
    assert stage.invalid is not None
    assert "of the content events were read together with another" in stage.invalid
    assert "3 in flight: " in done.err
    assert "not to be used: " in done.err


FULL = """
import resource
from loadtests.plugin import ChatUser
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))

class Writer(ChatUser):
    host = {!r}
"""


def test_a_folder_that_cannot_be_written_any_more_ends_the_test(tmp_path: Path) -> None:
    """A disk that fills up ends a run of Locust at once, with one line and exit code 2."""
    out, file = tmp_path / "run", tmp_path / "full.py"
    with serving(Chat(pause_s=0)) as server:
        file.write_text(FULL.format(server.url))
        done = _locust(file, *HEADLESS[:5], "-t", "50s", "--only-summary", *SHORT, "--out", out)
    assert done.code == 2, done
    (error,) = (line for line in done.err.splitlines() if "/ERROR/headroom" in line)
    assert f"cannot write to {out}: File too large" in error
    assert "Traceback" not in done.err
    run = read_run(out)
    assert len(run.requests) > 5
    stage = run.manifest.stages[-1]
    assert (stage.ended_s or 99) - stage.started_s < 30


def test_killed_run_can_be_read(tmp_path: Path) -> None:
    """A killed Locust leaves a readable folder, whether its users were all there or not."""
    out = tmp_path / "run"
    with serving(Chat()) as server:
        process = _start("openai", "--host", server.url, *HEADLESS[:1], "-u", "9", "-r", "1",
                         *SHORT, "--out", out)  # fmt: skip
        assert eventually(lambda: is_run(out) and len(read_run(out).requests) > 20)
        process.kill()
        process.communicate(timeout=20)
    run = read_run(out)
    assert "killed" in run.notes[0]
    assert [stage.invalid for stage in run.manifest.stages] == [
        "users were being started or stopped"
    ]
    assert not operating_points(run)[0].usable


def test_interrupted_run_is_written(tmp_path: Path) -> None:
    """Ctrl-C, Locust's usual end, leaves the folder in its final form."""
    out = tmp_path / "run"
    with serving(Chat()) as server:
        process = _start("openai", "--host", server.url, *HEADLESS[:5], *SHORT, "--out", out)
        assert eventually(lambda: is_run(out) and len(read_run(out).manifest.stages) > 1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert (out / "requests.parquet").exists()
    assert read_run(out).manifest.state == "complete"


class Ui:
    """Locust's web UI in a process."""

    def __init__(self, *options: object) -> None:
        """Start it on a free port and wait until it answers."""
        self.process = _start("openai", "--web-host", "127.0.0.1", "--web-port", _free(), *options)
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        while "Starting web interface" not in line:
            assert line, "Locust ended"
            line = self.process.stderr.readline()
        found = re.search(r"127\.0\.0\.1:\d+", line)
        assert found
        self.address = found[0]
        assert eventually(self._answers)

    def _answers(self) -> bool:
        try:
            return b"<html" in self.get("/")
        except OSError:
            return False

    def get(self, path: str, form: dict[str, object] | None = None) -> bytes:
        """A page, or the answer to a form."""
        connection = http.client.HTTPConnection(self.address, timeout=20)
        body = None if form is None else urllib.parse.urlencode(form)
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        try:
            connection.request("GET" if form is None else "POST", path, body, headers)
            response = connection.getresponse()
            assert response.status == 200
            return response.read()
        finally:
            connection.close()

    def stats(self) -> dict[str, Any]:
        """What its page shows."""
        found: dict[str, Any] = json.loads(self.get("/stats/requests"))
        return found

    def swarm(self, users: int, **form: object) -> None:
        """Start users, or change their number."""
        self.get("/swarm", {"user_count": str(users), "spawn_rate": "50", **form})

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Its exit code after a signal, and what it has said."""
        self.process.send_signal(number)
        try:
            _, err = self.process.communicate(timeout=60)
        finally:
            self.process.kill()
            self.process.communicate()
        return self.process.returncode, err

    def requests(self) -> int:
        """Whole requests so far."""
        rows = self.stats()["stats"]
        return sum(row["num_requests"] for row in rows if row["method"] == "chat")


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def chat_url() -> Iterator[str]:
    """A quick server."""
    with serving(Chat()) as server:
        yield server.url


def test_web_ui(chat_url: str, tmp_path: Path) -> None:
    """Two swarms in one UI share a run folder; each number of users is a stage of its own."""
    out = tmp_path / "run"
    ui = Ui("--host", chat_url, *SHORT, "--out", out)
    try:
        ui.swarm(2, host=chat_url)
        assert eventually(lambda: ui.requests() > 20)
        ui.swarm(4, host=chat_url, spawn_rate=1)
        assert eventually(lambda: ui.stats()["user_count"] == 4)
        before = ui.requests()
        assert eventually(lambda: ui.requests() > before + 20)
        shown = ui.stats()
        assert {row["method"] for row in shown["stats"]} >= {"chat", "TTFT", "TPOT"}
        total = next(row for row in shown["stats"] if row["name"] == "Aggregated")
        assert total["num_requests"] == sum(
            row["num_requests"] for row in shown["stats"] if row["method"] == "chat"
        )
        (tab,) = shown["extended_stats"]
        assert [(row["target"], row["load"]) for row in tab["data"]] == [
            ("openai", "2 in flight"), ("openai", "4 in flight")
        ]  # fmt: skip
        assert all(float(row["ttft_p95"]) >= float(row["ttft_p50"]) > 1 for row in tab["data"])
        page = ui.get("/").decode()
        assert '"extended_tabs": [{"key": "stages", "title": "Stages"}]' in page
        ui.get("/stop", {})
        assert eventually((out / "requests.parquet").exists)
        first = read_run(out)
        known_s = first.telemetry().find("openai", "process", "memory_bytes").time_s
        ui.swarm(3, host=chat_url)
        assert eventually(lambda: len(read_run(out).requests) > len(first.requests) + 50)
        ui.get("/stop", {})
    finally:
        code, err = ui.end(signal.SIGTERM)
    assert code == 0, err
    assert "Traceback" not in err
    assert [(s.load, s.invalid is None) for s in first.manifest.stages] == [
        (2, False), (2, True), (4, False), (4, True)
    ]  # fmt: skip
    run = read_run(out)
    assert run.manifest.state == "complete"
    assert run.manifest.stages[: len(first.manifest.stages)] == first.manifest.stages
    # One that lasts for a moment on a busy machine may have met a client without a processor.
    assert [s.load for s in run.manifest.stages if s.invalid != RAMP] == [2, 4, 3]
    looks_s = run.telemetry().find("openai", "process", "memory_bytes").time_s
    assert looks_s[: len(known_s)].tolist() == known_s.tolist()
    assert looks_s[-1] > known_s[-1] > 0
    assert len({record.id for record in read_records(out)}) == len(run.requests)


def test_web_ui_survives_a_wrong_server(chat_url: str, tmp_path: Path) -> None:
    """A wrong address in the form is told in the UI; the next swarm can be right."""
    out = tmp_path / "run"
    ui = Ui("--host", chat_url, *SHORT, "--out", out)
    try:
        ui.swarm(2, host="http://127.0.0.1:9")
        assert eventually(lambda: b"cannot be reached" in ui.get("/exceptions"))
        assert eventually(lambda: ui.stats()["state"] == "stopped")
        assert not out.exists()
        ui.swarm(2, host=chat_url)
        assert eventually(lambda: ui.requests() > 5)
        ui.get("/stop", {})
        assert eventually((out / "requests.parquet").exists)
    finally:
        code, err = ui.end(signal.SIGINT)
    assert code == 0, err
    assert "Traceback" not in err


def test_unreachable_server_ends_master_and_workers() -> None:
    """The master looks at the server for all; what it cannot measure ends every process."""
    process = _start("openai", "--host", "http://127.0.0.1:9", *HEADLESS, "--processes", "2")
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 2
    assert "cannot be reached" in err
    assert "Traceback" not in err
