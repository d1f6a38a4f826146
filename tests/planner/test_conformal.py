"""Bands: their shape, and that they hold.

``benchmarks/learn_prior.py`` tests them on models that took no part in the learning.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from planner.backtest import SPLITS, by_ensemble
from planner.conformal import (
    distance_beyond,
    distance_inside,
    half_width,
    magnitude,
    typical_half_width,
)
from planner.ensemble import Drawn
from planner.points import read_curves
from planner.prior import Bands
from planner.prior_table import PRIOR

REFERENCE = Path(__file__).parent.parent / "reference" / "curves.csv"
BANDS = Bands(per_octave=0.1, per_doubt=2.0, per_spread=1.5, median_share=0.3)


def test_distance() -> None:
    """Nothing at a level, the gap's octaves in its middle; above the top, octaves."""
    levels = np.array([1.0, 4.0, 64.0])
    assert distance_inside(levels, np.array([1, 4, 64, 2, 16.0])) == pytest.approx([0, 0, 0, 2, 4])
    assert distance_beyond(levels, np.array([8, 64, 128, 512.0])) == pytest.approx([0, 0, 1, 3])
    assert distance_inside(levels[:1], np.array([1.0])) == pytest.approx([0])


def test_half_width_adds_up() -> None:
    """Distance times (per octave + per doubt times doubt), plus disagreement."""
    drawn = Drawn(log=np.zeros((1, 2)), spread=np.array([[0.02, 0.0]]), doubt=np.array([0.05]))
    found = half_width(BANDS, np.array([2.0, 0.0]), drawn)
    assert found[0] == pytest.approx([2 * (0.1 + 0.1) + 0.03, 0])


def test_magnitude_passes_both_quantiles() -> None:
    """Half the errors are within the median's share, nine in ten within the half width."""
    assert magnitude(BANDS, np.array([0.0, 0.5, 0.9])) == pytest.approx([0, 0.3, 1])


def test_typical_width_grows_with_the_gap() -> None:
    """Twice the octaves, twice the width; beyond is worse than between."""
    prior = PRIOR["throughput"]["serving"]
    one, two = (typical_half_width(prior.inside, octaves) for octaves in (1.0, 2.0))
    assert two == pytest.approx(2 * one)
    assert typical_half_width(prior.beyond, 1.0) > one


@pytest.mark.parametrize("metric", ["throughput", "ttft", "tpot"])
def test_nine_in_ten_published_points_are_within(metric: str) -> None:
    """Over all splits of the reference curves the bands hold as they say, give or take sampling."""
    curves, _ = read_curves(REFERENCE.read_text().splitlines(), metric)
    missed = [point for split in SPLITS for point in by_ensemble(curves, split, metric)]
    within = [abs(point.log_error) <= (point.half_width or 0) for point in missed]
    assert len(within) > 150
    assert 0.82 <= np.mean(within) <= 0.97
