"""Token distributions: what users write, what is drawn."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.traffic.lengths import MAX_TOKENS, parse_lengths
from planner.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


@given(st.integers(1, MAX_TOKENS))
def test_a_number_is_always_drawn(count: int) -> None:
    """A plain number is a distribution with one value."""
    lengths = parse_lengths(str(count))
    assert lengths.mean == lengths.maximum == lengths.draw(np.random.default_rng(0)) == count


@given(st.integers(1, 5000), st.integers(0, 5000), st.integers(0, 2**32 - 1))
def test_uniform_draws_stay_inside(low: int, width: int, seed: int) -> None:
    """Uniform draws lie between the ends, and the mean is their middle."""
    lengths = parse_lengths(f"uniform:{low}-{low + width}")
    assert low <= lengths.draw(np.random.default_rng(seed)) <= low + width
    assert lengths.mean == pytest.approx(low + width / 2)


@pytest.mark.parametrize(("mean", "cv"), [(512, 0.8), (100, 0.3), (1000, 1.2)])
def test_lognormal_has_the_declared_moments(mean: float, cv: float) -> None:
    """Far from the cut, mean and coefficient of variation come out as declared."""
    lengths = parse_lengths(f"lognormal:mean={mean},cv={cv},max={mean * 100}")
    assert lengths.mean == pytest.approx(mean, rel=0.01)
    assert lengths.table.std() / lengths.mean == pytest.approx(cv, rel=0.06)


def test_lognormal_is_cut() -> None:
    """Nothing beyond max is drawn, and the mean tells of the cut."""
    lengths = parse_lengths("lognormal:mean=512,cv=2,max=600")
    assert lengths.maximum == 600
    assert lengths.mean < 512


def test_a_file_column_is_drawn(tmp_path: Path) -> None:
    """A CSV column is resampled; the first one unless another is named."""
    file = tmp_path / "lengths.csv"
    file.write_text("input,output\n10,100\n20,200\n")
    assert parse_lengths(f"file:{file}").mean == 15
    assert parse_lengths(f"file:{file}:output").maximum == 200


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("", "'' is no known form"),
        ("many", "'many' is no known form"),
        ("0", "from 0 to 0 tokens; counts must lie between 1 and"),
        ("99999999", "counts must lie between 1 and"),
        ("uniform:9-3", "9 is greater than 3"),
        ("uniform:1-99999999", "99999999 is more than"),
        ("uniform:a-b", "want two whole numbers"),
        ("lognormal:mean=5", "mean and cv are needed"),
        ("lognormal:mean=5,cv=1,min=2", "unknown min"),
        ("lognormal:mean=nan,cv=1", "mean must lie between"),
        ("lognormal:mean=50,cv=1,max=40", "max 40 is less than the mean 50"),
        ("file:/nowhere.csv", "No such file"),
        ("512.5", "no known form"),
    ],
)
def test_bad_forms_are_named(spec: str, why: str) -> None:
    """Each bad form is one line with the reason and the forms that are known."""
    with pytest.raises(InputError, match=re.escape(why)) as error:
        parse_lengths(spec)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "a,b\n", "a\nx\n", "a\n1.5\n", "a\n-3\n"])
def test_bad_files_are_refused(tmp_path: Path, text: str) -> None:
    """A file without whole positive numbers is refused by name."""
    file = tmp_path / "bad.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=r"bad\.csv"):
        parse_lengths(f"file:{file}")
