"""Bad evidence and bad questions, through the whole command: one clear line and its remedy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from planner.manifest import read_manifest
from planner.runfolder import RunWriter, read_records
from tests.planner.test_recommend_command import ASK, call, write_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from planner.records import RequestRecord


def rewritten(
    source: Path,
    out: Path,
    change: Callable[[RequestRecord], RequestRecord | None] = lambda record: record,
    **manifest: Any,
) -> Path:
    """A copy of a run with other requests or another manifest."""
    facts = msgspec.structs.replace(read_manifest(source), **manifest)
    writer = RunWriter.create(out, facts)
    for record in read_records(source):
        changed = change(record)
        if changed is not None:
            writer.append(changed)
    writer.finish(facts)
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good run."""
    return write_run(tmp_path_factory.mktemp("runs") / "one")


def refusal(result: Any) -> str:
    """The reason of a refused only option; there is no traceback and exit code 3."""
    assert result.exit_code == 3, result.output
    document = json.loads(result.stdout)
    assert document["recommended"] is None
    assert document["next_measurements"]
    (option,) = document["options"]
    return str(option["refused"])


def test_one_concurrency_only(tmp_path: Path) -> None:
    """A single level says nothing about higher loads: measure a second one."""
    result = call(write_run(tmp_path / "r", (8,)), *ASK, "--json")
    assert "only 8 in flight was measured" in refusal(result)
    assert "--concurrency 16 " in json.loads(result.stdout)["next_measurements"][0]


def test_users_beyond_the_data(tmp_path: Path) -> None:
    """More in flight than twice the highest level is refused, however many replicas would do."""
    run = write_run(tmp_path / "r", (1, 2), slots=None)
    document = json.loads(call(run, "--users", 500, "--slo", "e2e_p95<=60s", "--json").stdout)
    best = document["recommended"]
    assert best["users_per_replica"]["0.9"] <= 4  # twice the top, never more
    assert best["predicted"]["e2e_p95_s"]["label"] in ("extrapolated", "measured")
    assert any("fewer replicas may do" in note for note in best["notes"])
    assert "--concurrency 4 " in document["next_measurements"][0]


def test_percentile_from_too_few_answers(tmp_path: Path) -> None:
    """p99.9 needs 2995 answers; what is missing is told in seconds of measuring."""
    result = call(
        write_run(tmp_path / "r"), "--users", 5, "--slo", "ttft_p99.9<=1s", "--json"
    )  # fmt: skip
    assert "answers are too few for p99.9, which needs 2995" in refusal(result)


def test_client_that_was_the_limit(run: Path, tmp_path: Path) -> None:
    """Fewer requests in flight than the level says: Little's law is broken, the client saturated.

    Half of the users' requests are missing, as if they had never been sent.
    """

    def half(record: RequestRecord) -> RequestRecord | None:
        return record if record.user % 2 == 0 or record.stage == 0 else None

    result = call(rewritten(run, tmp_path / "r", half), *ASK, "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 3
    told = " ".join(document["warnings"])
    assert "users have not finished a request yet" in told or "the load was not what" in told


def test_load_that_was_not_held(run: Path, tmp_path: Path) -> None:
    """Users who are idle for as long as they wait: 50 % of the load, with the bound and remedy."""

    def late(record: RequestRecord) -> RequestRecord:
        middle = (record.sent_s + record.ended_s) / 2
        return msgspec.structs.replace(
            record, sent_s=middle, scheduled_s=middle, first_token_s=record.ended_s - 1e-3
        )

    result = call(rewritten(run, tmp_path / "r", late), *ASK, "--json")
    reason = refusal(result)
    assert "the load was not what it should be: 0.499 requests in flight instead of 1" in reason
    assert "bound ±10%" in reason
    assert "give the client more CPU" in reason


def test_impossible_figures_are_a_measuring_error(run: Path, tmp_path: Path) -> None:
    """70 thousand million parameters at this pace on one L4: refused with both bounds."""
    (target,) = read_manifest(run).targets
    named = msgspec.structs.replace(target, model="llama3.1:70b-instruct-q4_K_M")
    result = call(rewritten(run, tmp_path / "r", targets=(named,)), *ASK, "--json")
    reason = refusal(result)
    assert "take 35.3 GB at 4 bits, 1 × L4 has 24 GB" in reason
    assert "tok/s in one stream, above the 8.63 tok/s" in reason


def test_own_hardware_in_the_config(run: Path, tmp_path: Path) -> None:
    """The user's card and model replace the catalogue's."""
    (target,) = read_manifest(run).targets
    named = msgspec.structs.replace(target, model="ours-1", hardware="Abacus 9")
    folder = rewritten(run, tmp_path / "r", targets=(named,))
    config = tmp_path / "headroom.toml"
    shape = "layers = 2\nkv_heads = 2\nhead_dim = 64\nhidden = 128\nbits_per_weight = 8\n"
    card = '[gpus."Abacus 9"]\nmemory_gb = 100\nbandwidth_gb_s = {}\n'
    text = card + f"[models.ours]\nparameters_b = 10\n{shape}"
    config.write_text(text.format(1000))
    assert call(folder, *ASK, "--config", config).exit_code == 0
    config.write_text(text.format(100))
    assert "at which 1 × Abacus 9 can read ours-1" in refusal(
        call(folder, *ASK, "--config", config, "--json")
    )
    config.write_text(text.format(-1))
    wrong = call(folder, *ASK, "--config", config)
    assert wrong.exit_code == 2
    assert "GPU 'Abacus 9': Expected `float` > 0.0 - at `$.bandwidth_gb_s`" in wrong.stderr


def test_other_number_of_gpus_is_another_option(run: Path, tmp_path: Path) -> None:
    """Two GPUs per replica are their own measurement; nothing is scaled from one to the other."""
    (target,) = read_manifest(run).targets
    pair = msgspec.structs.replace(target, gpus_per_replica=2)
    other = rewritten(run, tmp_path / "pair", targets=(pair,))
    document = json.loads(call(run, other, *ASK, "--json").stdout)
    by_gpus = {option["target"]: option for option in document["options"]}
    assert len(by_gpus) == 2
    for option in by_gpus.values():
        assert option["gpus"] == option["replicas"] * (2 if "pair" in option["target"] else 1)


def test_unmeasured_number_of_gpus_is_refused(run: Path) -> None:
    """Asked for a tensor-parallel size that no run has, the answer is what to measure."""
    result = call(run, *ASK, "--gpus-per-replica", 4, "--json")
    reason = refusal(result)
    assert "measured with 1 L4 per replica" in reason
    assert "4 were asked for" in reason
    assert "4xL4" in json.loads(result.stdout)["next_measurements"][0]
    assert call(run, *ASK, "--gpus-per-replica", 1).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--rate", "20"), "is not a rate"),
        (("--rate", "0/s"), "--rate 0 is no demand"),
        (("--rate", "5/s", "--users", 3), "give one of the two"),
        (("--rate", "5/s", "--think-time", "3s"), "give one of the two"),
        (("--trace", "absent.csv"), "trace absent.csv: No such file"),
        (("--users", "nan"), "not a valid integer"),
        (("--users", 3, "--think-time", "nan"), "is not a duration"),
        (("--users", 3, "--confidence", "nan"), "confidence nan is out of range"),
        (("--users", 3, "--prompt-tokens", "nan"), "prompt"),
        (("--users", 3, "--gpu-cost", "L4=nan"), "write KIND=PRICE"),
    ],
)
def test_bad_demands(run: Path, arguments: tuple[Any, ...], says: str) -> None:
    """A wrong demand is one line and exit code 2, with nothing on stdout."""
    result = call(run, "--slo", "ttft_p95<=1s", *arguments)
    assert result.exit_code == 2, result.output
    assert says in result.stderr
    assert result.stdout == ""
    assert not result.stderr.startswith("Traceback")


def test_more_replicas_than_are_planned_for(run: Path) -> None:
    """A rate that is a slip of the pen is refused by its size, not by an objective that is met."""
    result = call(run, "--rate", "1e9/s", "--slo", "ttft_p95<=1s", "--json")
    (option,) = json.loads(result.stdout)["options"]
    assert (
        option["refused"] == "it would take more than 10,000 replicas, and no more are planned for"
    )
    assert result.exit_code == 1


TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def test_rate_and_trace(run: Path, tmp_path: Path) -> None:
    """A rate, and a trace of the same rate, are planned for; the trace brings its lengths."""
    rate = json.loads(call(run, "--rate", "5/s", "--slo", "ttft_p95<=1s", "--json").stdout)
    assert rate["demand"]["users"] is None
    assert rate["demand"]["arrivals"]["rate_per_s"] == 5.0
    assert rate["recommended"]["rate_per_replica"]["0.9"] > 0
    trace = tmp_path / "trace.csv"
    moments = [
        f"2023-11-16 18:{i // 300:02}:{i // 5 % 60:02}.{i % 5}00000,64,20" for i in range(900)
    ]
    trace.write_text(TRACE + "\n".join(moments))
    found = json.loads(call(run, "--trace", trace, "--slo", "ttft_p95<=1s", "--json").stdout)
    assert found["demand"]["arrivals"]["rate_per_s"] == pytest.approx(5.0, rel=0.01)
    assert found["demand"]["arrivals"]["source"] == "trace.csv"
    assert found["demand"]["output_tokens_mean"] == 20
    other = json.loads(
        call(run, "--trace", trace, "--rate", "9/s", "--slo", "ttft_p95<=1s", "--json").stdout
    )
    assert other["demand"]["arrivals"]["rate_per_s"] == pytest.approx(9.0)


def test_trace_of_other_lengths_is_refused(run: Path, tmp_path: Path) -> None:
    """Other lengths than were measured are another workload; explicit lengths override."""
    trace = tmp_path / "trace.csv"
    rows = [f"2023-11-16 18:00:{i % 60:02},{4000 + i},20" for i in range(100)]
    trace.write_text(TRACE + "\n".join(rows))
    reason = refusal(call(run, "--trace", trace, "--slo", "ttft_p95<=1s", "--json"))
    assert "measured with 64 prompt tokens on average, the demand has 4050" in reason
    asked = ("--trace", trace, "--slo", "ttft_p95<=1s", "--prompt-tokens", 64)
    assert call(run, *asked).exit_code == 0


@pytest.mark.parametrize("content", [b"", b"nonsense\n1,2", b"\xff\xfe", TRACE.encode() + b"x,1,1"])
def test_unreadable_trace(run: Path, tmp_path: Path, content: bytes) -> None:
    """A trace that cannot be read is one line that names it."""
    trace = tmp_path / "trace.csv"
    trace.write_bytes(content)
    result = call(run, "--trace", trace, "--slo", "ttft_p95<=1s")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert f"trace {trace}" in line
