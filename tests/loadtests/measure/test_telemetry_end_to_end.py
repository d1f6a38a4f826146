"""Servers watched while they are under load: real llama.cpp, emulated vLLM, and bad pages."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from loadtests.engines.base import EngineSpec, start_engine
from planner.runfolder import read_run
from planner.steptime import StepTime
from planner.summary import operating_points
from planner.telemetry_file import read_telemetry
from tests.loadtests.engines.emulator.emulating import ask, emulating, kinds_settings
from tests.loadtests.measure.driving import SHORT, eventually, start
from tests.loadtests.measure.fakes import Chat
from tests.loadtests.servers import Act, answer, serving

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from loadtests.engines.base import RunningEngine
    from loadtests.engines.emulator.settings import Settings
    from planner.records import OperatingPoint, ServerView
    from tests.loadtests.measure.driving import Shell
    from tests.loadtests.servers import Step

LONGER = ("--prompt-tokens", "uniform:20-40", "--output-tokens", "uniform:30-60")
STEADY = ("--slo", "ttft_p99.9<=9s")  # never known in time: the stage lasts as long as it may


def views(run: Path) -> list[tuple[OperatingPoint, ServerView]]:
    """The points of a run that have a server's view."""
    return [(p, p.server) for p in operating_points(read_run(run)) if p.server is not None]


@pytest.mark.engine
def test_llamacpp_under_load(shell: Shell, llamacpp: RunningEngine, tmp_path: Path) -> None:
    """Four slots and eight requests in flight: llama.cpp counts the same requests and tokens."""
    out = tmp_path / "run"
    done = shell.run(
        "measure", f"llamacpp={llamacpp.url}", *LONGER, *STEADY,
        "--concurrency", "8", "--duration", "6s", "--out", out,
    )  # fmt: skip
    assert done.code == 0, done.err
    ((_, view),) = views(out)
    assert view.samples >= 3
    assert view.running_mean is not None
    assert view.waiting_mean is not None
    assert view.client_in_flight_mean is not None
    assert view.running_mean <= 4
    in_flight = view.running_mean + view.waiting_mean
    assert in_flight == pytest.approx(view.client_in_flight_mean, abs=1.5)
    assert view.output_tokens_per_s == pytest.approx(view.client_output_tokens_per_s, rel=0.1)
    assert view.kv_usage_max is not None
    assert 0 < view.kv_usage_max < 1
    assert view.cpu_cores_mean is not None
    assert view.cpu_cores_mean > 0
    assert view.memory_bytes_max is not None
    assert view.memory_bytes_max > 10 * 2**20
    assert view.ttft_mean_s is view.power_w_mean is None
    table = pq.read_table(out / "telemetry.parquet")
    assert set(table["source"].to_pylist()) == {"/metrics", "/slots", "process", "machine"}
    (stage,) = read_run(out).manifest.stages
    assert stage.ended_s is not None
    times = table["time_s"].to_pylist()
    assert stage.started_s <= min(times)
    assert max(times) <= stage.ended_s


@pytest.mark.vllm
def test_vllm_under_load(shell: Shell, vllm: RunningEngine, tmp_path: Path) -> None:
    """Four in flight on two sequences: vLLM counts the same requests, tokens and first tokens."""
    out = tmp_path / "run"
    done = shell.run(
        "measure", f"vllm={vllm.url}", *LONGER, *STEADY,
        "--concurrency", "4", "--duration", "8s", "--out", out,
    )  # fmt: skip
    assert done.code == 0, done.err
    ((point, view),) = views(out)
    assert point.failed == 0
    assert view.samples >= 3
    assert view.running_mean is not None
    assert view.waiting_mean is not None
    assert 0 < view.running_mean <= 2
    assert view.waiting_mean > 0
    assert view.client_in_flight_mean is not None
    assert view.output_tokens_per_s == pytest.approx(view.client_output_tokens_per_s, rel=0.15)
    # Its HTTP front end shares this machine's processors. What waits there the engine does not
    # know; on a busy machine that is much, and then it must be told.
    assert view.ttft_mean_s is not None
    assert view.client_ttft_mean_s is not None
    in_flight = view.running_mean + view.waiting_mean
    assert in_flight <= view.client_in_flight_mean + 0.5
    assert view.ttft_mean_s <= view.client_ttft_mean_s + 0.02
    told = " ".join(view.disagreements)
    assert in_flight == pytest.approx(view.client_in_flight_mean, abs=1.5) or "HTTP threads" in told
    close = pytest.approx(view.client_ttft_mean_s, rel=0.3, abs=0.1)
    assert view.ttft_mean_s == close or "HTTP front end" in told
    assert view.queue_mean_s is not None
    assert 0 < view.queue_mean_s <= view.ttft_mean_s
    assert view.kv_usage_max is not None
    assert 0 < view.kv_usage_max < 1
    assert view.preemptions == 0
    assert view.memory_bytes_max is not None
    assert view.memory_bytes_max > 2**29, "its engine core is a child of the process that listens"
    table = pq.read_table(out / "telemetry.parquet")
    assert set(table["source"].to_pylist()) == {"/metrics", "process", "machine"}


@pytest.mark.engine
def test_without_telemetry(shell: Shell, llamacpp: RunningEngine, tmp_path: Path) -> None:
    """Told not to look, Headroom leaves the server alone: no file, no view."""
    out = tmp_path / "run"
    done = shell.run(
        "measure", f"llamacpp={llamacpp.url}", *SHORT, "--no-telemetry",
        "--concurrency", "2", "--duration", "2s", "--out", out,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert not list(out.glob("telemetry*"))
    assert views(out) == []


def vllm_settings() -> Settings:
    """An emulated vLLM of 8 slots that takes 10 ms for a step."""
    step = StepTime(base_s=0.01, per_sequence_s=0.0, per_prompt_token_s=1e-5)
    return kinds_settings("vllm", engine={"slots": 8, "step": step})


def test_vllms_own_histogram_and_queue(shell: Shell, tmp_path: Path) -> None:
    """12 in flight on 8 slots: 4 wait, TTFT and tokens are the client's; no host figures."""
    out = tmp_path / "run"
    with emulating(vllm_settings()) as (_, port):
        done = shell.run(
            "measure", f"vllm=http://127.0.0.1:{port}", *LONGER, *STEADY,
            "--concurrency", "12", "--duration", "6s", "--out", out,
        )  # fmt: skip
    assert done.code == 0, done.err
    ((_, view),) = views(out)
    assert view.running_mean is not None
    assert view.waiting_mean is not None
    assert view.running_mean <= 8
    assert view.waiting_mean > 1
    in_flight = view.running_mean + view.waiting_mean
    assert in_flight == pytest.approx(view.client_in_flight_mean, abs=1.5)
    assert view.ttft_mean_s == pytest.approx(view.client_ttft_mean_s, rel=0.2, abs=0.1)
    assert view.output_tokens_per_s == pytest.approx(view.client_output_tokens_per_s, rel=0.05)
    assert view.queue_mean_s is not None
    assert view.queue_mean_s > 0.1
    assert view.cpu_cores_mean is view.memory_bytes_max is None


def test_somebody_elses_load_is_told(shell: Shell, tmp_path: Path) -> None:
    """Four strangers' requests on the server: a warning in the run's notes and the answer's."""
    out, over = tmp_path / "run", threading.Event()
    chat = {"model": "tiny", "max_tokens": 40, "messages": [{"role": "user", "content": "hello"}]}

    def stranger(port: int) -> None:
        while not over.is_set():
            ask(port, "/v1/chat/completions", chat)

    with emulating(vllm_settings()) as (_, port):
        strangers = [threading.Thread(target=stranger, args=(port,)) for _ in range(4)]
        for thread in strangers:
            thread.start()
        try:
            done = shell.run(
                "measure", f"vllm=http://127.0.0.1:{port}", *LONGER, *STEADY,
                "--concurrency", "2", "--duration", "6s", "--out", out,
            )  # fmt: skip
        finally:
            over.set()
            for thread in strangers:
                thread.join()
    assert done.code == 0, done.err
    notes = read_run(out).manifest.notes
    assert any("somebody else's requests are on this server" in note for note in notes), notes
    assert any("somebody else's load is on this server" in note for note in notes), notes
    found = shell.run("recommend", out, "--users", "5", "--slo", "ttft_p95<=1s", "--json")
    warnings = json.loads(found.out)["warnings"]
    assert any("somebody else's requests" in warning for warning in warnings), warnings


def test_a_page_that_never_answers_disturbs_nothing(shell: Shell, tmp_path: Path) -> None:
    """A server whose metrics hang is measured like any other; the looks are missed."""
    chat, out = Chat(), tmp_path / "run"

    def steps(request: bytes) -> Sequence[Step]:
        return [Act.HOLD] if request.startswith(b"GET /metrics") else chat(request)

    with serving(steps) as server:
        done = shell.run("measure", f"openai={server.url}", *SHORT, *STEADY,
                         "--concurrency", "2", "--duration", "5s", "--out", out)  # fmt: skip
    assert done.code == 0, done.err
    run = read_run(out)
    # The server closes each connection after its answer, which a request may race with.
    assert all("sent twice" in note for note in run.manifest.notes), run.manifest.notes
    ((point, view),) = views(out)
    assert point.failed == 0
    assert point.completed > 50
    assert view.missed >= 1
    assert (view.samples, view.running_mean) == (0, None)


@pytest.mark.parametrize(("status", "body"), [(404, b"{}"), (200, b"vllm:num_requests_running x")])
def test_a_server_without_metrics(shell: Shell, tmp_path: Path, status: int, body: bytes) -> None:
    """A page that is not there is asked for once; one that is illegible counts as missed."""
    chat, out, asked = Chat(), tmp_path / "run", itertools.count()

    def steps(request: bytes) -> Sequence[Step]:
        if request.startswith(b"GET /metrics"):
            next(asked)
            return [answer(body, status)]
        return chat(request)

    with serving(steps) as server:
        done = shell.run("measure", f"openai={server.url}", *SHORT, *STEADY,
                         "--concurrency", "2", "--duration", "3s", "--out", out)  # fmt: skip
    assert done.code == 0, done.err
    times = next(asked)
    ((_, view),) = views(out)  # of the process, which is this test's
    assert view.running_mean is None
    assert times == 1 if status == 404 else view.missed >= 1


def test_a_killed_run_keeps_its_telemetry(tmp_path: Path) -> None:
    """After kill -9 the samples up to the last seconds are in the run folder."""
    out = tmp_path / "run"
    with start_engine(EngineSpec(kind="emulator", context=2048)) as engine:
        process = start("measure", f"vllm={engine.url}", *SHORT, *STEADY,
                        "--concurrency", "2", "--duration", "60s", "--out", out)  # fmt: skip

        def looked() -> int:
            series = read_telemetry(out).series if out.exists() else {}
            return max((len(s.time_s) for s in series.values()), default=0)

        try:
            assert eventually(lambda: looked() >= 4, within_s=60.0)
            before = looked()
            os.kill(process.pid, signal.SIGKILL)
        finally:
            process.kill()
            process.communicate()
    run = read_run(out)
    assert run.manifest.state == "running"
    series = run.telemetry().find("vllm", "/metrics", "running")
    assert len(series.time_s) >= before
    last_s = float(run.requests.ended_s.max())
    assert float(series.time_s[-1]) > last_s - 3.5
