"""``headroom measure`` on the emulator: its figures are the truth, and the mark stays on them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
import pytest

from loadtests.engines.base import EngineSpec, start_engine
from loadtests.engines.emulator.truth import Truth, read_truth
from loadtests.measure.inspect import inspect, probe
from loadtests.targets import parse_target
from planner.errors import TargetError
from planner.manifest import read_manifest
from planner.runfolder import read_records, read_run
from planner.summary import operating_points
from tests.loadtests.engines.emulator.emulating import emulating, kinds_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from loadtests.engines.emulator.settings import Kind
    from planner.records import RequestRecord
    from tests.loadtests.measure.driving import Shell

LEVELS = (1, 4, 12)
STEP_S, PER_SEQUENCE_S, SLOTS = 0.02, 0.001, 8
PROFILE = "custom"


class Measured(NamedTuple):
    """A measured emulator: where its run is, and its truth."""

    run: Path
    truth: list[Truth]


@pytest.fixture(scope="module")
def measured(shell: Shell, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """The levels measured once: below the slots, and beyond them."""
    folder = tmp_path_factory.mktemp("emulated")
    options = (
        *("--kind", "vllm", "--slots", str(SLOTS), "--step", f"{STEP_S}s"),
        *("--decode-per-sequence", f"{PER_SEQUENCE_S}s", "--prefill-per-token", "100us"),
        *("--truth", str(folder / "truth.jsonl")),
    )
    with start_engine(EngineSpec(kind="emulator", context=2048, arguments=options)) as engine:
        done = shell.run(
            "measure", f"vllm={engine.url}",
            *("--concurrency", ",".join(map(str, LEVELS)), "--duration", "3s"),
            *("--prompt-tokens", "40", "--output-tokens", "uniform:8-16"),
            *("--hardware", "vllm=1xH100", "--out", folder / "run"),
        )  # fmt: skip
        assert done.code in {0, 3}, done.err
        assert "vllm is Headroom's emulator of custom: its figures measure no server" in done.err
        assert done.out.startswith("EMULATED, not measured: vllm ")
    return Measured(folder / "run", read_truth(folder / "truth.jsonl"))


def pairs(measured: Measured) -> Iterator[tuple[RequestRecord, Truth]]:
    """Each finished request as the client and as the emulator saw it, by its moment of sending."""
    started = read_manifest(measured.run).started_unix_s
    arrivals = sorted(measured.truth, key=lambda one: one.arrival_unix_s)
    moments = np.array([one.arrival_unix_s for one in arrivals])
    # In order of sending, each takes the first arrival that is left and has its tokens: clocks
    # agree to some ms, requests of one level come apart by less.
    taken = np.zeros(moments.size, dtype=bool)
    for record in sorted(read_records(measured.run), key=lambda record: record.sent_s):
        if record.status != "ok":
            continue
        near = np.flatnonzero(~taken & (np.abs(moments - started - record.sent_s) < 0.5))
        fits = [i for i in near if len(arrivals[i].due_s) == record.output_tokens]
        best = min(fits, key=lambda i: abs(moments[i] - started - record.sent_s))
        taken[best] = True
        yield record, arrivals[best]


def test_measured_figures_are_the_truth(measured: Measured) -> None:
    """TTFT and TPOT of every level are what the emulator sent, to 5 ms and 2 % in the median."""
    for stage, level in enumerate(LEVELS):
        found = [(r, t) for r, t in pairs(measured) if r.stage == stage]
        assert len(found) >= 5
        ttft, tpot = [], []
        for record, truth in found:
            assert record.first_token_s is not None
            ttft.append(record.first_token_s - record.sent_s - truth.sent_s[0])
            own = np.frombuffer(record.gaps_s, "<f4").sum()
            tpot.append(own / (truth.sent_s[-1] - truth.sent_s[0]) - 1)
        assert abs(np.median(ttft)) < 0.005, level
        assert abs(np.median(tpot)) < 0.02, level


def test_truth_is_the_model_at_every_level(measured: Measured) -> None:
    """Due gaps at the lowest level are the step time; beyond the slots, requests wait."""
    first = [t for r, t in pairs(measured) if r.stage == 0]
    gaps = np.concatenate([np.diff(one.due_s) for one in first])
    assert gaps == pytest.approx(STEP_S + PER_SEQUENCE_S, abs=1e-6)
    waits = [t.scheduled_s or 0.0 for r, t in pairs(measured) if r.stage == 2]
    assert np.median(waits) > STEP_S


def test_manifest_carries_the_mark(measured: Measured) -> None:
    """The target says what it stands in for, and warns first of all that it is no server."""
    (target,) = read_manifest(measured.run).targets
    assert target.emulated == PROFILE
    assert target.warnings[0] == (
        "this is Headroom's emulator of custom: its figures measure no server"
    )


def test_operating_points_carry_the_mark(measured: Measured) -> None:
    """Their source is not ``measured``."""
    points = operating_points(read_run(measured.run))
    assert len(points) == len(LEVELS)
    assert {point.source for point in points} == {"emulated: custom"}


def test_recommendation_carries_the_mark(measured: Measured, shell: Shell) -> None:
    """In JSON on every option, and in the first words of what people read."""
    question = (measured.run, "--users", 20, "--slo", "ttft_p95<=2s")
    done = shell.run("recommend", *question, "--json")
    document = json.loads(done.out)
    assert [option["emulated"] for option in document["options"]] == [PROFILE]
    assert any("its figures measure no server" in line for line in document["warnings"])
    if document["recommended"] is not None:
        assert document["recommended"]["emulated"] == PROFILE
    said = shell.run("recommend", *question)
    assert said.out.startswith("EMULATED, not measured: ")
    assert "vllm (emulated)" in said.out


def test_report_carries_the_mark(measured: Measured, shell: Shell, tmp_path: Path) -> None:
    """The page begins with it."""
    out = tmp_path / "report.html"
    done = shell.run("report", measured.run, "--out", out)
    assert done.code == 0, done.err
    page = out.read_text("utf-8")
    assert page.index("Not a measurement") < page.index("<h1>")
    assert "vllm is Headroom&#39;s emulator of custom: its figures measure no server." in page


@pytest.mark.parametrize("kind", ["llamacpp", "ollama", "vllm"])
def test_every_kind_is_found_out(kind: Kind) -> None:
    """A look at the target tells, by its own dialect and as any OpenAI-compatible server."""
    with emulating(kinds_settings(kind)) as (_, port):
        for backend in (kind, "openai"):
            target = parse_target(f"{backend}=http://127.0.0.1:{port}")
            info = inspect(target)
            assert info.emulated == "test/profile"
            assert probe(target, info).status == "ok"


def test_hidden_emulator_is_refused() -> None:
    """Where the pages are another server's but the answers an emulator's, nothing is measured."""
    with emulating(kinds_settings("vllm")) as (_, port):
        target = parse_target(f"vllm=http://127.0.0.1:{port}")
        info = msgspec.structs.replace(inspect(target), emulated=None)
        with pytest.raises(TargetError, match="answered by an emulator although"):
            probe(target, info)
