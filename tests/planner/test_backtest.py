"""``headroom backtest``: splits, figures, and what it does with tables that are not as hoped."""

from __future__ import annotations

import contextlib
import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.backtest import SPLITS, Missed, by_ensemble, by_form, errors_of, splits
from planner.backtest_command import backtest
from planner.errors import InputError
from planner.points import PointCurve, read_curves

if TYPE_CHECKING:
    from click.testing import Result

REFERENCE = Path(__file__).parent.parent / "reference" / "curves.csv"
HEADER = "dataset,curve_id,engine,model,input_tokens,concurrency,output_tokens_per_s,ttft_ms"


def table(*rows: str) -> list[str]:
    """A table's lines."""
    return [HEADER, *rows]


def rows(curve: str = "a", model: str = "m", n: tuple[Any, ...] = (1, 2, 4, 8, 16)) -> list[str]:
    """One good curve."""
    return [f"d,{curve},vllm,{model},512,{x},{100 * (i + 1)},{50 + i}" for i, x in enumerate(n)]


def call(*arguments: str | Path) -> Result:
    """Run the command."""
    return CliRunner().invoke(backtest, [str(argument) for argument in arguments])


@given(st.lists(st.integers(1, 10_000), min_size=5, max_size=12, unique=True))
def test_splits_are_disjoint_and_as_defined(levels: list[int]) -> None:
    """Nothing is fitted and predicted at once; each split fits what it says."""
    n = np.array(sorted(levels), dtype=float)
    for split in SPLITS:
        for fitted, left in splits(n, split):
            assert sorted(fitted) == fitted
            assert not set(fitted) & set(left)
            assert len(fitted) >= 3
    ((low, high),) = splits(n, "low-half")
    assert len(low) == max(3, -(-n.size // 2))
    assert low + high == list(range(n.size))
    assert [left for _, left in splits(n, "leave-one-out")] == [[i] for i in range(1, n.size - 1)]
    (((first, middle, last), rest),) = splits(n, "spread3")
    assert (first, last) == (0, n.size - 1)
    assert len(rest) == n.size - 3
    off = np.abs(np.log(n[1:-1]) - np.log(n[0] * n[-1]) / 2)
    assert off[middle - 1] == pytest.approx(off.min())


def test_a_curve_is_predicted_from_its_own_points_alone() -> None:
    """No other row of the table changes a prediction, nor does a point that is left out."""
    curves, _ = read_curves(REFERENCE.read_text().splitlines(), "throughput")
    for split in SPLITS:
        together = {(m.curve.curve_id, m.n): m for m in by_ensemble(curves, split, "throughput")}
        one = curves[3]
        for point in by_ensemble([one], split, "throughput"):
            same = together[one.curve_id, point.n]
            assert same.log_error == pytest.approx(point.log_error)
            assert same.half_width == pytest.approx(point.half_width)
    values = one.values.copy()
    values[-1] *= 5
    changed = PointCurve(one.dataset, "x", one.model, one.machine, one.family, one.n, values)
    before, after = (by_ensemble([c], "low-half", "throughput") for c in (one, changed))
    assert before[-1].log_error - after[-1].log_error == pytest.approx(np.log(5))
    assert before[0].log_error == pytest.approx(after[0].log_error)


def test_errors_by_hand() -> None:
    """Median, 90th percentile and coverage of three points whose errors are known."""
    curve = PointCurve("d", "c", "m", "e on h", "serving", np.ones(5), np.ones(5))
    missed = [
        Missed(curve, 1.0, np.ones(3), float(np.log(ratio)), half)
        for ratio, half in ((1.1, 0.2), (0.7, 0.2), (2.0, 0.7))
    ]
    found = errors_of(missed)
    assert found.n == 3
    assert found.median_ape == pytest.approx(30)
    assert found.p90_ape == pytest.approx(86)
    assert found.coverage90 == pytest.approx(2 / 3)
    assert errors_of([]).median_ape is None


@settings(deadline=None, max_examples=10)
@given(st.floats(0.5, 50), st.floats(0.05, 2))
def test_a_form_predicts_its_own_curves(base: float, each: float) -> None:
    """A linear step is extrapolated exactly by that form, and latencies through N / latency."""
    n = np.array([1, 2, 4, 8, 16, 32.0])
    for metric, values in (("throughput", n / (base + each * n)), ("tpot", base + each * n)):
        curve = PointCurve("d", "c", "m", "e on h", "serving", n, values)
        missed = by_form([curve], "low-half", metric, "linear step")
        assert [point.ape for point in missed] == pytest.approx([0, 0, 0], abs=0.1)
        assert missed[0].half_width is None


def test_a_form_errs_in_the_right_direction() -> None:
    """A power law through the flat start of a latency predicts too little, and the APE says so."""
    n = np.array([1, 2, 4, 8, 16, 32.0])
    curve = PointCurve("d", "c", "m", "e on h", "serving", n, 10 + n)
    last = by_form([curve], "low-half", "tpot", "power law")[-1]
    predicted = 42 * np.exp(last.log_error)
    assert 11 < predicted < 30
    assert last.ape == pytest.approx(100 * (1 - predicted / 42))


def test_json_has_the_promised_shape() -> None:
    """The document of the design: split, metric, counts, errors overall and by data set."""
    found = json.loads(call(REFERENCE, "--split", "spread3", "--metric", "tpot", "--json").stdout)
    assert found["schema"] == 1
    assert (found["split"], found["metric"]) == ("spread3", "tpot")
    assert found["curves"] + found["skipped"] == 22
    assert set(found["overall"]) == {"n", "median_ape", "p90_ape", "coverage90"}
    assert sum(each["n"] for each in found["datasets"].values()) == found["overall"]["n"]
    assert found["skipped_why"] == {"no tpot_ms reported": found["skipped"]}
    assert 0 < found["overall"]["median_ape"] < 5


def test_text_says_what_was_skipped() -> None:
    """People read the errors by data set, the overall line and what was left out and why."""
    result = call(REFERENCE, "--metric", "ttft", "--split", "leave-one-out")
    assert result.exit_code == 0
    assert "overall" in result.stdout
    assert "curves tested" in result.stdout
    assert "skipped: no ttft_ms reported" in result.stdout


def test_repeats_are_averaged() -> None:
    """Rows at the same concurrency count as one point, at their geometric mean."""
    lines = table(*rows(), "d,a,vllm,m,512,1,400,50")
    (curve,), _ = read_curves(lines, "throughput")
    assert curve.n.tolist() == [1, 2, 4, 8, 16]
    assert curve.values[0] == pytest.approx(200)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (rows(n=(1, 2, 4, 8)), "fewer than 5 concurrencies with output_tokens_per_s"),
        (rows(n=(4, 4, 4, 4, 4)), "fewer than 5 concurrencies with output_tokens_per_s"),
        ([*rows()[:4], "d,a,vllm,m,512,0,5,5"], "concurrency that is not positive and finite"),
        ([*rows()[:4], "d,a,vllm,m,512,-3,5,5"], "concurrency that is not positive and finite"),
        ([*rows()[:4], "d,a,vllm,m,512,inf,5,5"], "concurrency that is not positive and finite"),
        ([*rows()[:4], "d,a,vllm,m,512,16,nan,5"], "output_tokens_per_s that is not positive"),
        ([*rows()[:4], "d,a,vllm,m,512,16,0,5"], "output_tokens_per_s that is not positive"),
        ([*rows()[:4], "d,a,vllm,m,512,16,fast,5"], "output_tokens_per_s that is no number"),
        ([*rows()[:4], "d,a,vllm,m,512,,5,5"], "concurrency that is no number"),
        ([*rows()[:4], "d,a,vllm,m,2048,16,5,5"], "different input_tokens mixed in one curve"),
        ([*rows()[:4], "d,a,vllm,other,512,16,5,5"], "different model mixed in one curve"),
        ([*rows()[:3], "d,a"], "different engine mixed in one curve"),
        (rows(n=tuple(range(1, 70))), "more than 64 concurrencies"),
    ],
)
def test_unfit_curves_are_skipped_with_the_reason(bad: list[str], why: str) -> None:
    """One bad curve does not stop the others; it is counted under its reason."""
    curves, skipped = read_curves(table(*bad, *rows("good")), "throughput")
    assert [curve.curve_id for curve in curves] == ["good"]
    ((reason, count),) = skipped.items()
    assert count == 1
    assert reason.startswith(why)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column curve_id, concurrency, output_tokens_per_s"),
        (b"a,b\n1,2\n", "no column curve_id, concurrency, output_tokens_per_s"),
        (b"curve_id,concurrency\n1,2\n", "no column output_tokens_per_s"),
        ("\n".join(table()).encode(), "no curve of 5 points to test (no rows)"),
        ("\n".join(table(*rows(n=(1, 2)))).encode(), "no curve of 5 points to test (1 with fewer"),
        (b"\xff\xfe\x00", "byte 0 is not UTF-8 text"),
        ("\n".join(table('d,"a')).encode(), "not CSV"),
        (("\n".join(table("x" * 200_000))).encode(), "not CSV (field larger than"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    """Exit code 2, one line, no traceback."""
    path = tmp_path / "points.csv"
    path.write_bytes(content)
    result = call(path)
    assert result.exit_code == 2
    assert result.stderr.startswith("headroom backtest: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    """So is a folder, and a file that is not there."""
    for path in (tmp_path, tmp_path / "none.csv"):
        result = call(path)
        assert result.exit_code == 2
        assert str(path) in result.stderr


def test_too_many_rows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table is bounded."""
    monkeypatch.setattr("planner.points.MOST_ROWS", 4)
    with pytest.raises(InputError, match="more than 4 rows"):
        read_curves(table(*rows()), "throughput")


def test_too_many_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is read up to its bound and no further."""
    monkeypatch.setattr("planner.backtest_command.MOST_BYTES", 2**20)
    (tmp_path / "big.csv").write_bytes(b"x" * (2**20 + 1))
    result = call(tmp_path / "big.csv")
    assert result.exit_code == 2
    assert "more than 1 MiB" in result.stderr


def test_names_cannot_reach_the_terminal(tmp_path: Path) -> None:
    """Escape sequences and markup in a data set's name are shown as text."""
    path = tmp_path / "points.csv"
    lines = table(*(row.replace("d,", "\x1b[31m[red]x,", 1) for row in rows()))
    path.write_text("\n".join(lines))
    result = call(path)
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert "[red]x" in result.stdout


@given(st.text(max_size=300))
@settings(max_examples=60, deadline=None)
def test_any_text_is_a_table_or_an_input_error(text: str) -> None:
    """The reader has no third way to end."""
    for head in ("", HEADER + "\n"):
        with contextlib.suppress(InputError):
            read_curves((head + text).splitlines(keepends=True), "throughput")


@pytest.mark.parametrize("tpot", ["10", "", "none", "-1", "nan", "1e300", "1e-300"])
def test_other_columns_never_cost_a_curve(tpot: str) -> None:
    """A TTFT is tested whatever its TPOT says; only a good one tells who waits."""
    lines = [f"{row},{tpot}" for row in rows()]
    (curve,), _ = read_curves([HEADER + ",tpot_ms", *lines], "ttft")
    assert curve.values.tolist() == pytest.approx([50, 51, 52, 53, 54])
    assert (curve.occupancy is not None) == (tpot == "10")
    if curve.occupancy is not None:
        assert curve.occupancy.decoding == pytest.approx([1, 2, 3, 4, 5])


def test_extreme_figures_do_not_break_the_sums(tmp_path: Path) -> None:
    """A curve over hundreds of orders of magnitude gives finite errors."""
    path = tmp_path / "points.csv"
    values = (1e-300, 1e300, 1e-300, 1e300, 1e-300)
    lines = [f"d,a,vllm,m,512,{2.0**i},{x},1" for i, x in enumerate(values)]
    path.write_text("\n".join(table(*lines)))
    for split in SPLITS:
        found = json.loads(call(path, "--split", split, "--json").stdout)
        assert found["overall"]["n"] > 0
        assert found["overall"]["p90_ape"] is not None


def test_families_are_told_from_the_table() -> None:
    """llama.cpp by its engine, static batches by the data set or by TTFT that nobody could see."""
    lines = REFERENCE.read_text().splitlines()
    with REFERENCE.open() as file:
        sets = {row["curve_id"]: row["dataset"] for row in csv.DictReader(file)}
    curves, _ = read_curves(lines, "throughput")
    families = {sets[curve.curve_id]: curve.family for curve in curves}
    assert families == {
        "inferencemax_silicon": "serving",
        "argonne_offline": "static batch",
        "llamacpp_batched": "llama.cpp",
    }
