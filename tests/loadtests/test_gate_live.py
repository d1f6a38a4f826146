"""Gates where load is made: Locust's exit code, and a real engine whose slowdown is found."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from loadtests.engines.base import EngineSpec, start_engine
from planner.runfolder import read_run
from planner.summary import operating_points
from tests.loadtests.measure.driving import ROOT, SHORT, Done, headroom
from tests.loadtests.measure.fakes import Chat
from tests.loadtests.servers import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from loadtests.engines.base import RunningEngine

HEADLESS = ("--headless", "-u", "2", "-r", "2", "-t", "6s", "--only-summary")
BUSY = "quieter machine"
"""What a level is told to need whose client was the limit, as on a machine with other work."""
SURE = 'check = "error_rate <= 30%"'


def locust(server: str, folder: Path, rules: str, *options: object, keep: bool = False) -> Done:
    """``locust --headless --gates`` on a server; again where the machine was too busy for it."""
    file = folder / "gates.toml"
    file.write_text(f"[[rule]]\n{rules}\n")
    command = [
        sys.executable, "-m", "locust", "-f", "loadtests/openai.py", "--host", server, *HEADLESS,
        *SHORT, "--gates", file, *options,
    ]  # fmt: skip
    done = Done(3, BUSY, "")
    for attempt in range(3):
        if BUSY in done.out:
            out = ("--out", folder / f"run-{attempt}") if keep else ()
            ran = subprocess.run(
                [*map(str, (*command, *out))], capture_output=True, text=True, cwd=ROOT, timeout=90,
                check=False,
            )  # fmt: skip
            done = Done(ran.returncode, ran.stdout, ran.stderr)
    return done


@pytest.fixture(scope="module")
def batching() -> Iterator[RunningEngine]:
    """The demo model on four slots: its tokens are 12 ms apart, so that two cores do for both."""
    with start_engine(EngineSpec(kind="llamacpp", parallel=4, context=512)) as engine:
        yield engine


@pytest.fixture(scope="module")
def single() -> Iterator[RunningEngine]:
    """The same model, one request at a time."""
    with start_engine(EngineSpec(kind="llamacpp", parallel=1, context=512)) as engine:
        yield engine


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """An OpenAI-compatible server that answers in some 100 ms: Locust can keep its users busy."""
    with serving(Chat(pause_s=0.1)) as running:
        yield running.url


def test_locust_ends_with_the_gates_code(server: str, tmp_path: Path) -> None:
    """A rule that is kept gives 0; nothing is left behind where no folder was asked for."""
    done = locust(server, tmp_path, SURE)
    assert done.code == 0, done
    assert "Gate passed: 0 failed, 0 inconclusive, 1 passed" in done.out
    assert [file.name for file in tmp_path.iterdir()] == ["gates.toml"]


def test_locust_fails_on_a_broken_rule(server: str, tmp_path: Path) -> None:
    """A rule that is broken gives 1, although no request failed; the run is kept."""
    rules = f'{SURE}\n[[rule]]\ncheck = "requests_per_s >= 9e9"'
    done = locust(server, tmp_path, rules, keep=True)
    assert done.code == 1, done
    assert "Gate FAILED: 1 failed" in done.out
    kept = max(tmp_path.glob("run-*"))
    assert any(stage.invalid is None for stage in read_run(kept).manifest.stages)


def test_locust_is_inconclusive_on_an_unmeasured_level(server: str, tmp_path: Path) -> None:
    """A rule about a level that Locust did not reach gives 3."""
    done = locust(server, tmp_path, f"{SURE}\nconcurrency = 64")
    assert done.code == 3, done
    assert "nothing was measured at 64 in flight: the run has openai at 2 in flight" in done.out


@pytest.mark.parametrize(
    ("rules", "options", "words"),
    [
        ('check = "tfft_p95 <= 1s"', (), "did you mean ttft_p95?"),
        (SURE, ("--gates-baseline", "missing"), "baseline missing: No such file"),
    ],
)
def test_wrong_gates_stop_locust_before_any_load(
    tmp_path: Path, rules: str, options: tuple[str, ...], words: str
) -> None:
    """Rules or a baseline that cannot be used give 2, in one line, and no request is sent."""
    chat = Chat()
    with serving(chat) as running:
        done = locust(running.url, tmp_path, rules, *options)
    assert done.code == 2, done
    (line,) = [line for line in done.err.splitlines() if "/ERROR/" in line]
    assert words in line
    assert chat.answered_s == []


@pytest.mark.engine
def test_seeded_slowdown_fails_the_gate(
    batching: RunningEngine, single: RunningEngine, tmp_path: Path
) -> None:
    """An engine of four slots keeps its own rules; with one slot the same load is a regression.

    Three of four requests then wait for whole answers of others: the first token comes many times
    later, however much else the machine does. (Tokens per second, on a crowded machine, are hardly
    fewer: batching needs the core that other work takes.)
    """
    rules = tmp_path / "gates.toml"
    rules.write_text(
        'inconclusive = "fail"\n[[rule]]\ncheck = "error_rate <= 10%"\n'
        '[[rule]]\ncheck = "ttft_p50 <= 5s"\n'
    )
    good = measured(batching, tmp_path / "good")
    saved = tmp_path / "baseline.json"
    kept = headroom("gate", good, "--rules", rules, "--save-baseline", saved)
    assert kept.code == 0, kept
    rules.write_text('[[rule]]\ncheck = "ttft_p50 <= baseline * 1.2"\n')
    slow = measured(single, tmp_path / "slow")
    refused = headroom("gate", slow, "--rules", rules, "--baseline", saved)
    assert refused.code == 2
    assert "limits.slots: 4 in A, 1 in B" in refused.err
    failed = headroom("gate", slow, "--rules", rules, "--baseline", saved, "--json",
                      "--allow-different", "limits")  # fmt: skip
    assert failed.code == 1, failed
    (verdict,) = json.loads(failed.out)["verdicts"]
    assert verdict["change_low"] > 0.2
    again = headroom("gate", good, "--rules", rules, "--baseline", good)
    assert again.code in {0, 3}, again  # never a false alarm on the very same run


def measured(engine: RunningEngine, out: Path) -> Path:
    """A run at four in flight; again where this machine was too busy to make the load.

    It goes on until p99 is known, which takes 299 answers: some dozens hold too few blocks of time
    for a verdict at 99 %.
    """
    for attempt in range(5):
        folder = out.with_name(f"{out.name}-{attempt}")
        done = headroom("measure", f"server:llamacpp={engine.url}", "--concurrency", "4",
                        "--duration", "40s", "--slo", "ttft_p99<=60s", *SHORT,
                        "--out", folder)  # fmt: skip
        if all(point.usable for point in operating_points(read_run(folder))):
            return folder
    raise AssertionError(done)
