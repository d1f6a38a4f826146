"""``headroom compare`` on run folders: verdicts, refusals, exit codes, JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from planner.comparable import check_comparable, mismatches
from planner.compare_answer import ComparedRuns, figure_of
from planner.compare_command import compare
from planner.errors import InputError
from planner.records import EngineLimits, TargetInfo, Workload
from planner.runfolder import RunWriter
from tests.planner.examples import manifest, request, stage

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

TARGET: dict[str, Any] = {
    "name": "t",
    "backend": "vllm",
    "url": "http://127.0.0.1:1",
    "model": "m",
    "engine_version": "1.0",
    "limits": EngineLimits(slots=8),
    "settings": {"threads": "4"},
}


def write(
    path: Path,
    seed: int,
    *,
    slower: float = 1.0,
    seconds: float = 120.0,
    loads: tuple[int, ...] = (8,),
    failures: float = 0.0,
    **facts: Any,
) -> Path:
    """A run of a server that takes 0.5 s, give or take a fifth, at every level."""
    rng = np.random.default_rng(seed)
    stages = [
        stage(
            load,
            index=i,
            started_s=i * seconds,
            end=(i + 1) * seconds,
            stop_reason="steady",
            target=facts.get("name", "t"),
        )
        for i, load in enumerate(loads)
    ]
    workload = facts.pop("workload", Workload(prompt_tokens="64", output_tokens="20"))
    target = TargetInfo(**(TARGET | facts))
    writer = RunWriter.create(
        path, manifest(*stages, seed=seed, targets=(target,), workload=workload)
    )
    number = 0
    for one in stages:
        for user in range(round(one.load)):
            now = one.started_s + 0.01 * user
            while now < (one.ended_s or 0):
                took = 0.5 * slower * rng.uniform(0.8, 1.2)
                failed = rng.random() < failures
                outcome = {"status": "error", "error_kind": "refused"} if failed else {}
                writer.append(
                    request(
                        now,
                        now + took,
                        id=number,
                        user=user,
                        stage=one.index,
                        target=target.name,
                        **outcome,
                    )
                )
                now += took
                number += 1
    writer.finish(manifest(*stages, seed=seed, targets=(target,), workload=workload))
    return path


def call(*arguments: Any) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(compare, [str(argument) for argument in arguments])


def compared(*arguments: Any) -> ComparedRuns:
    """What the command prints as JSON."""
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return msgspec.json.decode(result.stdout, type=ComparedRuns)


def verdicts_of(found: ComparedRuns) -> dict[str, str]:
    """Figure -> verdict of the first level."""
    return {row.difference.figure: row.verdict for row in found.levels[0].figures}


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The baseline."""
    return write(tmp_path_factory.mktemp("runs") / "before", 1)


@pytest.fixture(scope="module")
def slower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same a fifth slower."""
    return write(tmp_path_factory.mktemp("runs") / "slower", 2, slower=1.2)


def test_a_slower_server_is_worse_and_the_way_back_better(before: Path, slower: Path) -> None:
    """Latencies and throughput alike, with intervals that hold the truth."""
    found = compared(before, slower)
    told = verdicts_of(found)
    assert told.pop("error_rate") == "no evidence"
    assert set(told.values()) == {"worse"}
    for row in found.levels[0].figures[:-2]:
        low, high = row.difference.low, row.difference.high
        assert low is not None
        assert high is not None
        assert low < 0.2 < high
    back = verdicts_of(compared(slower, before))
    assert set(back.values()) == {"better", "no evidence"}


def test_the_same_server_shows_no_evidence(before: Path, tmp_path: Path) -> None:
    """Another run of the same: nothing is worse or better, and the same to 5 %."""
    told = verdicts_of(compared(before, write(tmp_path / "again", 3)))
    assert set(told.values()) == {"no evidence"}


def test_the_table_says_it_in_words(before: Path, slower: Path) -> None:
    """Values, difference, interval and verdict stand in one row; a lone run is warned of."""
    result = call(before, slower, "--figure", "e2e_p95")
    assert result.exit_code == 0
    (row,) = [line for line in result.stdout.splitlines() if line.startswith("e2e_p95")]
    assert row.split()[-1] == "worse"
    assert " ms " in row
    assert "+2" in row
    assert "repeat them (3 or more of each)" in result.stdout


def test_short_runs_are_inconclusive(tmp_path: Path) -> None:
    """Five seconds show nothing: exit 3, and how long would do."""
    a, b = (write(tmp_path / name, 4, seconds=5.0, slower=s) for name, s in (("a", 1), ("b", 1.07)))
    result = call(a, b, "--figure", "e2e_mean", "--figure", "error_rate")
    assert result.exit_code == 3, result.output
    assert "inconclusive" in result.stdout


def test_repeats_show_how_runs_differ(tmp_path: Path) -> None:
    """Runs of one server that differ by 10 % from each other make no alarm of 8 %."""
    paths = [write(tmp_path / str(i), i, slower=s) for i, s in enumerate((0.9, 1.0, 1.1, 1.08))]
    lone = verdicts_of(compared(paths[1], paths[3], "--figure", "e2e_mean"))
    assert lone == {"e2e_mean_s": "worse"}
    result = call(
        paths[1], paths[3], "--repeat-a", paths[0], "--repeat-a", paths[2],
        "--figure", "e2e_mean", "--json",
    )  # fmt: skip
    found = msgspec.json.decode(result.stdout, type=ComparedRuns)
    assert verdicts_of(found) == {"e2e_mean_s": "inconclusive"}
    assert found.levels[0].figures[0].difference.method == "blocks of time and runs"
    assert result.exit_code == 3


def test_what_repeats_could_not_be_used_is_told(before: Path, slower: Path, tmp_path: Path) -> None:
    """A repeat that failed a gate does not spoil the others, and does not vanish silently."""
    failing = write(tmp_path / "failing", 8, failures=0.1)
    found = compared(before, slower, "--repeat-a", failing, "--figure", "e2e_mean")
    assert verdicts_of(found) == {"e2e_mean_s": "worse"}
    assert "A: of 2 measurements of t at 8 in flight 1 could be used" in found.notes


def test_failures_are_worse_where_latencies_cannot_be_used(before: Path, tmp_path: Path) -> None:
    """A server that refuses one request in ten: its error rate speaks, its latencies do not."""
    told = verdicts_of(compared(before, write(tmp_path / "failing", 5, failures=0.1)))
    assert told.pop("error_rate") == "worse"
    assert set(told.values()) == {"inconclusive"}


def test_goodput_counts_objectives(before: Path, slower: Path) -> None:
    """With a bound between the two servers' latencies goodput falls; without one it is refused."""
    found = compared(before, slower, "--figure", "goodput_share", "--slo", "e2e_p95<=550ms")
    assert verdicts_of(found) == {"goodput_share": "worse"}
    refused = call(before, slower, "--figure", "goodput_per_s")
    assert refused.exit_code == 2
    assert "--slo" in refused.output


def test_only_common_levels_are_compared(before: Path, tmp_path: Path) -> None:
    """What one run measured alone is told; without a common level there is nothing to compare."""
    more = write(tmp_path / "more", 6, loads=(4, 8), seconds=60)
    found = compared(before, more)
    assert [level.load for level in found.levels] == [8]
    assert "only in B: t at 4 in flight" in found.notes
    other = write(tmp_path / "other", 6, loads=(16,), seconds=20)
    result = call(before, other)
    assert result.exit_code == 2
    assert "no level in common: only in A: t at 8 in flight; only in B" in result.output


@pytest.mark.parametrize(
    ("facts", "key", "told"),
    [
        ({"model": "other"}, "model", "model: m in A, other in B"),
        ({"settings": {"threads": "8"}}, "settings", "settings.threads: 4 in A, 8 in B"),
        ({"limits": EngineLimits()}, "limits", "limits.slots: 8 in A, not reported in B"),
        ({"hardware": "H100"}, "hardware", "hardware: not reported in A, H100 in B"),
        ({"name": "u"}, "target", "target: t in A, u in B"),
        (
            {"workload": Workload(prompt_tokens="64", output_tokens="40")},
            "workload",
            "workload.output_tokens: 20 in A, 40 in B",
        ),
    ],
)
def test_what_differs_is_refused_by_name_and_allowed_knowingly(
    before: Path, tmp_path: Path, facts: dict[str, Any], key: str, told: str
) -> None:
    """One line with what differs and the option that allows it; then it stands in the output."""
    other = write(tmp_path / "b", 7, seconds=30, **facts)
    result = call(before, other)
    assert result.exit_code == 2
    assert told in result.output
    assert f"--allow-different {key}" in result.output
    assert len(result.output.splitlines()) == 1
    allowed = compared(before, other, "--allow-different", key)
    assert [str(one) for one in allowed.differing] == [told]


def test_a_new_engine_version_is_told_and_compared(before: Path, tmp_path: Path) -> None:
    """For its sake runs are compared."""
    found = compared(before, write(tmp_path / "b", 7, seconds=30, engine_version="2.0"))
    assert [str(one) for one in found.differing] == ["engine_version: 1.0 in A, 2.0 in B"]


def test_the_clients_machine_counts_where_the_server_ran_on_it() -> None:
    """Another processor explains a local server's figures, not a remote one's."""
    for url, keys in (("http://127.0.0.1:1", ["client"]), ("http://10.0.0.5:1", [])):
        target = TargetInfo(**(TARGET | {"url": url}))
        a = manifest(targets=(target,))
        b = msgspec.structs.replace(a, client=msgspec.structs.replace(a.client, cpu_count=64))
        assert [one.key for one in mismatches(a, b)] == keys


def test_what_a_server_says_is_printed_harmlessly() -> None:
    """Control characters do not reach the terminal, and a long text is cut."""
    a = manifest(targets=(TargetInfo(**(TARGET | {"model": "\x1b[31m" + "x" * 200})),))
    b = manifest(targets=(TargetInfo(**TARGET),))
    with pytest.raises(InputError) as caught:
        check_comparable(a, b, names=("a", "b"))
    assert "\x1b" not in str(caught.value)
    assert "x" * 100 not in str(caught.value)


def test_no_target_in_common_is_refused() -> None:
    """Two runs with several targets each, all of other names."""
    a, b = (
        manifest(targets=tuple(TargetInfo(**(TARGET | {"name": name})) for name in names))
        for names in ("ab", "cd")
    )
    with pytest.raises(InputError, match=r"no target in common: a, b in A, c, d in B"):
        check_comparable(a, b, names=("one", "two"))


@pytest.mark.parametrize(
    ("text", "figure"),
    [
        ("ttft_p95", "ttft_p95_s"),
        ("itl_p99.9_s", "itl_p99.9_s"),
        ("e2e_mean", "e2e_mean_s"),
        ("error_rate", "error_rate"),
    ],
)
def test_figures_are_read_with_and_without_their_unit(text: str, figure: str) -> None:
    """As objectives name them, and as JSON does."""
    assert figure_of(text) == figure


@pytest.mark.parametrize("text", ["ttft", "ttft_p0", "tokens", "ttft_p999", "p95_ttft", ""])
def test_unknown_figures_are_refused(text: str) -> None:
    """One line that names what is known."""
    with pytest.raises(InputError, match="is unknown: known are"):
        figure_of(text)


def test_bad_arguments_are_one_line_each(before: Path, slower: Path, tmp_path: Path) -> None:
    """A run beside itself, a folder that is none, a margin that is none: exit 2."""
    for arguments in (
        (before, before),
        (before, slower, "--repeat-a", before),
        (before, tmp_path / "none"),
        (before, slower, "--margin", "-1"),
        (before, slower, "--confidence", "1"),
        (before, slower, "--figure", "ttft"),
    ):
        result = call(*arguments)
        assert result.exit_code == 2, arguments
        assert "Traceback" not in result.output
