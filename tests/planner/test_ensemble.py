"""The ensemble: members judged on what they were not fitted to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.ensemble import Ensemble, weighted_median
from planner.members import best_sharpness, members_beyond, members_inside
from planner.prior_table import PRIOR

if TYPE_CHECKING:
    import numpy.typing as npt

SERVING = PRIOR["throughput"]["serving"]
LEVELS = np.array([1, 2, 4, 8, 16, 32], dtype=float)


def ensemble(values: npt.ArrayLike, *, throughput: bool = True) -> Ensemble:
    """Of one curve on the first levels."""
    logs = np.log(np.atleast_2d(values))
    return Ensemble(throughput=throughput, levels=LEVELS[: logs.shape[1]], logs=logs, prior=SERVING)


@given(st.floats(0.1, 100), st.floats(0.01, 1))
@settings(deadline=None, max_examples=25)
def test_a_curve_of_a_member_is_found(base: float, each: float) -> None:
    """Exact linear steps are recognised: between levels within 1 %, an octave beyond within 6 %."""
    n = np.array([3.0, 23.0])
    drawn = ensemble(LEVELS / (base + each * LEVELS)).inside(n)
    assert np.exp(drawn.log[0]) == pytest.approx(n / (base + each * n), rel=0.01)
    beyond = ensemble(LEVELS / (base + each * LEVELS)).beyond(np.array([64.0]))
    assert np.exp(beyond.log[0]) == pytest.approx(64 / (base + each * 64), rel=0.06)


def test_members_pass_through_the_levels() -> None:
    """Whatever its form, a member is anchored at every level."""
    logs = np.log([[3, 5, 4, 9, 11, 10.0], [1, 2, 4, 8, 9, 30.0]])
    for throughput in (True, False):
        prior = PRIOR["throughput" if throughput else "tpot"]["serving"]
        for drawn in members_inside(throughput, LEVELS, logs, LEVELS, prior).values():
            assert drawn == pytest.approx(logs)
        for drawn in members_beyond(throughput, LEVELS, logs, LEVELS[-1:], prior).values():
            assert drawn == pytest.approx(logs[:, -1:])


def test_an_irregular_curve_is_doubted() -> None:
    """A curve that its own levels contradict has more doubt and more disagreement."""
    smooth = LEVELS / (1 + 0.1 * LEVELS)
    rough = smooth * [1, 1.3, 0.8, 1.2, 0.7, 1.1]
    n = np.array([6.0, 12.0])
    calm, torn = ensemble(smooth).inside(n), ensemble(rough).inside(n)
    assert torn.doubt > 3 * calm.doubt
    assert torn.spread.mean() > 2 * calm.spread.mean()


def test_no_member_is_judged_on_its_own_fit() -> None:
    """PCHIP and the spline fit every level exactly, and still have an error to their name."""
    rough = [1, 2.6, 2.4, 7, 6, 13.0]
    assert float(ensemble(rough).inside(np.array([3.0])).doubt[0]) > 0.1


@given(
    st.lists(st.integers(-50, 50), min_size=2, max_size=6, unique=True),
    st.lists(st.floats(0.1, 10), min_size=6, max_size=6),
)
def test_weighted_median_lies_among_the_members(values: list[int], weights: list[float]) -> None:
    """It is within their range, moves with them, and a dominant member decides it."""
    v, w = np.array(values, dtype=float)[:, None], np.array(weights[: len(values)])[:, None]
    middle = float(weighted_median(v, w)[0])
    assert min(values) - 1e-9 <= middle <= max(values) + 1e-9
    assert float(weighted_median(v + 1, w)[0]) == pytest.approx(middle + 1, abs=1e-6)
    w[0] = 1e12
    assert float(weighted_median(v, w)[0]) == pytest.approx(values[0], abs=1e-6)


def test_weighted_median_of_equal_weights() -> None:
    """With equal weights it is the ordinary median."""
    values: npt.NDArray[Any] = np.array([[3.0], [1.0], [7.0]])
    assert weighted_median(values, np.ones((3, 1))) == pytest.approx([3])
    assert weighted_median(values[:2], np.ones((2, 1))) == pytest.approx([2])


def test_slopes_of_published_curves_flatten() -> None:
    """The learnt slope member grows on, less than in proportion, and keeps growing far out."""
    logs = np.log([[10, 19, 34.0]])
    n = np.array([8.0, 32.0, 1024.0])
    grown = members_beyond(True, LEVELS[:3], logs, n, SERVING)["slope"][0] - logs[0, -1]
    assert (np.diff(grown) >= 0).all()
    assert 0 < grown[0] < np.log(2)
    assert grown[2] < np.log(256)


def test_slopes_go_on_straight_where_nothing_was_published() -> None:
    """Further than published curves reach, the slope is kept: no parabola runs away."""
    for values in ([10, 19, 34.0], [10, 10.4, 10.6]):
        n = np.exp2(np.arange(5.0, 11.0))
        drawn = members_beyond(True, LEVELS[:3], np.log([values]), n, SERVING)["slope"][0]
        steps = np.diff(drawn)
        assert steps == pytest.approx(np.full(5, steps[0]))
        assert 0 <= steps[0] <= np.log(2)


def test_levels_outweigh_the_prior_of_the_sharpness() -> None:
    """A corner far sharper than usual is drawn sharp where six levels show it."""
    levels = LEVELS * np.array([1, 1, 1, 1.2, 1, 1])
    truth = (levels**-8.0 + 9.0**-8.0) ** (-1 / 8)
    drawn = members_inside(True, levels, np.log(truth[None]), np.array([7.0, 12.0]), SERVING)
    exact = (np.array([7.0, 12.0]) ** -8.0 + 9.0**-8.0) ** (-1 / 8)
    assert np.exp(drawn["softroof"][0]) == pytest.approx(exact, rel=0.03)


def test_sharpness_is_recovered() -> None:
    """The grid finds the sharpness that a curve was made with."""
    for p in (0.5, 1.0, 3.0):
        curve = (LEVELS**-p + 10.0**-p) ** (-1 / p)
        assert best_sharpness(True, LEVELS, np.log(curve)) == pytest.approx(np.log(p), abs=0.36)


def test_prior_table_is_complete_and_small() -> None:
    """Every family has figures for every member, all finite and positive, in a small file."""
    assert set(PRIOR) == {"throughput", "ttft", "tpot"}
    for metric, families in PRIOR.items():
        assert "serving" in families
        for family in families.values():
            names = members_inside(
                metric == "throughput", LEVELS, np.zeros((1, 6)), LEVELS[1:2], family
            )
            assert set(family.inside.errors) == set(names)
            for regime in (family.inside, family.beyond):
                assert all(0 < error < 2 for error in regime.errors.values())
                assert 0 < regime.bands.median_share < 1
                assert min(regime.bands.per_octave, regime.bands.per_doubt) >= 0
                assert regime.bands.per_octave + regime.bands.per_doubt > 0
