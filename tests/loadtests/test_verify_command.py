"""``headroom verify`` against a real llama.cpp."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

from planner.manifest import read_manifest
from planner.runfolder import RunWriter
from tests.planner.test_recommend_command import write_run

if TYPE_CHECKING:
    from pathlib import Path

    from loadtests.engines.base import RunningEngine

pytestmark = pytest.mark.engine
ASK = ("--users", "4", "--slo", "ttft_p90<=60s", "--slo", "e2e_p90<=60s", "--spare", "0")


def headroom(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command as users do."""
    return subprocess.run(
        [sys.executable, "-m", "headroom", *map(str, arguments)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def low(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that measured little, by the native API, of a server that has moved since."""
    path = write_run(tmp_path_factory.mktemp("verify") / "low", (1, 2))
    manifest = read_manifest(path)
    targets = tuple(msgspec.structs.replace(target, api="native") for target in manifest.targets)
    RunWriter.resume(path).finish(msgspec.structs.replace(manifest, targets=targets))
    return path


def test_predicted_beside_measured(low: Path, tmp_path: Path, llamacpp: RunningEngine) -> None:
    """The load beyond the run is measured; both figures stand side by side, and the exit fits.

    The run is of a slower server than this one, so what is predicted for it is wrong here: where
    the machine is quiet enough for a measurement to count, that is told.
    """
    out = tmp_path / "verified"
    done = headroom(
        "verify", low, *ASK, "--url", llamacpp.url, "--duration", "10s", "--out", out, "--json"
    )  # fmt: skip
    document = json.loads(done.stdout)
    verdicts = {row["figure"]: row["verdict"] for row in document["comparisons"]}
    assert set(verdicts) == {"ttft_p90_s", "e2e_p90_s"}
    expected = 3 if document["problems"] else int("outside" in verdicts.values())
    assert done.returncode == expected, done.stderr
    assert (document["users"], document["target"], document["run"]) == (4, "batching", str(out))
    for row in document["comparisons"]:
        assert row["predicted"]["label"] == "extrapolated"
        assert row["predicted"]["value"] > 0
        assert row["measured"]["value"] > 0
    manifest = read_manifest(out)
    (stage,) = manifest.stages
    assert (stage.load_kind, stage.load) == ("concurrency", 4)
    assert manifest.workload == read_manifest(low).workload
    assert [target.api for target in manifest.targets] == ["native"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--users", "4"), 2, "--slo is missing"),
        ((*ASK, "--target", "other"), 2, "--target 'other' is not in the run, which has batching"),
        ((*ASK, "--duration", "1s"), 2, "too short"),
        ((*ASK, "--url", "http://127.0.0.1:9"), 2, "127.0.0.1:9"),
        (("--users", "4", "--slo", "ttft_p90<=1us"), 1, "no measured option meets"),
        (("--users", "4", "--slo", "ttft_p99.9<=60s"), 3, "too few for p99.9"),
    ],
)
def test_nothing_to_verify(
    low: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    """What cannot be verified ends as the recommendation does, and writes no folder."""
    out = tmp_path / "verified"
    done = headroom("verify", low, *arguments, "--out", out)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()
