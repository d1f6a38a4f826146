"""``headroom claims`` on run folders and files: output, exit codes, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from click.testing import CliRunner

from planner.claims.catalogue import RULES
from planner.claims.files import builtin_claims
from planner.claims_command import claims
from planner.diagnosis import Capability, Diagnosis, DoctorReport
from planner.manifest import read_manifest
from planner.records import TargetInfo
from tests.planner.test_recommend_command import write_run

if TYPE_CHECKING:
    from click.testing import Result

ROOT = Path(__file__).parents[2]
ONE = '[claims.it]\ntext = "so"\nchecks = [{ %s }]\n'
RATIO = 'rule = "ratio", figure = "tpot_mean_s", of = "vllm", over = ["llamacpp"], most = 1'


def ask(*arguments: object) -> Result:
    """Run the command."""
    return CliRunner().invoke(claims, [str(a) for a in arguments], env={"COLUMNS": "100"})


def verdicts(result: Result) -> dict[str, Any]:
    """The JSON document's claims by their names."""
    document = json.loads(result.stdout)
    assert document["schema"] == 1
    return {one["id"]: one for one in document["verdicts"]}


def test_physics_needs_no_run() -> None:
    """The headline of the article is refuted without any measurement, with its two reasons."""
    result = ask("--json")
    assert result.exit_code == 0
    found = verdicts(result)
    assert found["headline-4090-70b"]["verdict"] == "refuted"
    assert "35.3 GB" in found["headline-4090-70b"]["reason"]
    assert "29 tok/s" in found["headline-4090-70b"]["reason"]
    others = {k for k, v in found.items() if v["verdict"] != "untested"}
    assert others == {"headline-4090-70b", "vllm-batch-32"}


def test_untested_claims_name_what_to_run() -> None:
    """Each untested claim has a step, and those that are commands exist."""
    for one in verdicts(ask("--json")).values():
        if one["verdict"] == "untested":
            assert one["next_steps"], one["id"]
    known = set(builtin_claims())
    assert known == set(verdicts(ask("--json")))


def test_strict_exits_with_1_if_refuted(tmp_path: Path) -> None:
    """With --strict a refuted claim is the answer no; an untested one is not."""
    assert ask("--strict").exit_code == 1
    mine = tmp_path / "mine.toml"
    mine.write_text(ONE % RATIO)
    assert ask("--strict", "--claims", mine).exit_code == 0


def test_text_shows_verdict_reason_and_rule() -> None:
    """People see the verdict, the claim, the figures, the rule and the command."""
    lines = [line.rstrip() for line in ask().stdout.splitlines()]
    at = next(i for i, line in enumerate(lines) if "headline-4090-70b" in line)
    assert lines[at].split() == ["refuted", "headline-4090-70b"]
    told = " ".join(" ".join(lines[at + 1 : at + 6]).split())
    for word in ("36 tok/s", "35.3 GB", "rule physics"):
        assert word in told
    assert any(line.strip().startswith("-> headroom parity") for line in lines)
    assert lines[-1] == "2 refuted, 15 untested"


def test_a_doctor_file_decides(tmp_path: Path) -> None:
    """What the doctor printed refutes that llama.cpp has no OpenAI-compatible API."""
    seen = Diagnosis(
        target=TargetInfo(name="l", backend="llamacpp", url="http://127.0.0.1:8080"),
        capabilities=(Capability(name="chat", supported=True, status=200, evidence="yes"),),
    )
    file = tmp_path / "doctor.json"
    file.write_bytes(msgspec.json.encode(DoctorReport(headroom_version="0", diagnoses=(seen,))))
    found = verdicts(ask("--doctor", file, "--json"))
    assert found["llamacpp-no-openai"]["verdict"] == "refuted"
    assert found["vllm-openai"]["verdict"] == "untested"


def test_runs_are_compared(tmp_path: Path) -> None:
    """Two folders of one workload: a ratio, the table side by side and the pair's crossover."""
    slow = write_run(tmp_path / "slow", name="slow")
    fast = write_run(tmp_path / "fast", name="fast", seed=4)
    _as_backend(slow, "llamacpp")
    _as_backend(fast, "vllm")
    mine = tmp_path / "mine.toml"
    mine.write_text(
        ONE % 'rule = "ratio", figure = "output_tokens_per_s", of = "vllm", over = ["llamacpp"], '
        "least = 0.5, most = 2"
    )
    asked = ("--users", 50, "--think-time", "5s", "--slo", "ttft_p95<=1s")
    result = ask(slow, fast, "--claims", mine, *asked, "--json")
    assert verdicts(result)["it"]["verdict"] == "confirmed", result.stdout
    document = json.loads(result.stdout)
    assert [row["load"] for row in document["comparison"]] == [1, 4, 8, 16, 32]
    assert set(document["comparison"][0]["points"]) == {"slow", "fast"}
    assert {document["pairs"][0]["a"], document["pairs"][0]["b"]} == {"slow", "fast"}
    text = ask(slow, fast, "--claims", mine, *asked).stdout
    assert "Side by side" in text
    assert "which of two is the better answer" in text


def _as_backend(folder: Path, backend: str) -> None:
    """The run as if another backend had been measured."""
    manifest = read_manifest(folder)
    targets = tuple(msgspec.structs.replace(t, backend=backend) for t in manifest.targets)
    changed = msgspec.structs.replace(manifest, targets=targets)
    (folder / "manifest.json").write_bytes(msgspec.json.encode(changed))


def refused(result: Result, *words: str) -> None:
    """One line that holds the words, exit code 2, no traceback."""
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]


def test_other_workloads_are_refused(tmp_path: Path) -> None:
    """Figures of different lengths do not compare, and both are named."""
    runs = write_run(tmp_path / "a"), write_run(tmp_path / "b", output_tokens="200")
    refused(ask(*runs), "different workloads", "20 and 200")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["no claims", "[claims.NAME]"]),
        ("[claims]\nit = 3\n", ["'it'"]),
        ("not toml", ["no TOML"]),
        ("source = 3\n" + ONE % RATIO, ["source is '3'"]),
        ("sauce = 'a'\n" + ONE % RATIO, ["'sauce'"]),
        (ONE % 'rule = "ratoi"', ["'ratoi'", "did you mean ratio?", "check 1"]),
        (ONE % 'rule = "zzz"', ["'zzz'", "known are at_once"]),
        (ONE % "figure = 'tpot_mean_s'", ["no rule 'None'"]),
        ('[claims.it]\ntext = "so"\nchecks = []\n', ["'it'", "length >= 1"]),
        (ONE % RATIO.replace("tpot_mean_s", "tpot_p50"), ["'it'", "figure"]),
        (ONE % (RATIO + ", from_load = 0"), [">= 1", "from_load"]),
        (ONE % (RATIO + ", from_load = 8, to_load = 4"), ["from_load 8 is above to_load 4"]),
        (ONE % (RATIO + ", least = 2"), ["least 2 is above most 1"]),
        (ONE % RATIO.replace(", most = 1", ""), ["needs a bound"]),
        (ONE % (RATIO + ", tpyo = 1"), ["tpyo"]),
        (ONE % RATIO.replace('"llamacpp"', '"vllm"'), ["compared with itself"]),
        (ONE % RATIO.replace('"vllm"', '"sglang"'), ["sglang"]),
        (ONE % (RATIO.replace("most = 1", "most = nan")), ["'it'"]),
        ("x = " + "[" * 5000, ["no TOML"]),
        ("#" * (2**20 + 1), ["too large"]),
    ],
)
def test_bad_catalogues(tmp_path: Path, text: str, words: list[str]) -> None:
    """A user's catalogue is checked: what is wrong, in which claim, and the remedy."""
    file = tmp_path / "mine.toml"
    file.write_text(text)
    refused(ask("--claims", file), *words)


@pytest.mark.parametrize("option", ["--doctor", "--parity", "--claims"])
def test_bad_files(tmp_path: Path, option: str) -> None:
    """A file that is not there, or that holds something else, is named."""
    refused(ask(option, tmp_path / "none"), "none", "No such file")
    file = tmp_path / "other"
    file.write_bytes(b'{"schema": 1}\xff')
    refused(ask(option, file), str(file))


def test_objectives_without_users() -> None:
    """Objectives alone ask nothing."""
    refused(ask("--slo", "ttft_p95<=1s"), "--users")


def test_every_rule_is_documented() -> None:
    """The page on claims tells each rule's name."""
    page = (ROOT / "docs" / "claims.md").read_text()
    assert [rule for rule in RULES if f"`{rule}`" not in page] == []
