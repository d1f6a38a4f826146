"""What published curves teach about a curve of which only a few levels are known.

The figures themselves are in ``planner.prior_table``, which ``benchmarks/learn_prior.py`` writes
from a table of published curves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Bands", "FamilyPrior", "Prior", "RegimePrior", "family_of"]


@dataclass(frozen=True)
class Bands:
    """Half width of the 90 % band, as log ratio: distance (a + b·doubt) + c·spread.

    Attributes:
        per_octave: a, per octave of distance from the levels.
        per_doubt: b, per octave and unit of the curve's own leave-one-out error.
        per_spread: c, per unit of disagreement between the members.
        median_share: median of the absolute error as a share of the half width.
    """

    per_octave: float
    per_doubt: float
    per_spread: float
    median_share: float


@dataclass(frozen=True)
class RegimePrior:
    """What to expect between the levels, or beyond them.

    Attributes:
        errors: member of the ensemble -> its typical absolute log error.
        bands: of the ensemble as a whole.
    """

    errors: Mapping[str, float]
    bands: Bands


@dataclass(frozen=True)
class FamilyPrior:
    """One quantity in one family of engines.

    Attributes:
        slope: (4,) growth of log2 y over d octaves beyond a slope s: d(c0 + c1 s) + d²(c2 + c3 s).
        sharpness: median of log p of the softroof, and its spread (scaled to a standard
            deviation).
        inside: between the levels.
        beyond: above the highest.
    """

    slope: tuple[float, float, float, float]
    sharpness: tuple[float, float]
    inside: RegimePrior
    beyond: RegimePrior


Prior = dict[str, dict[str, FamilyPrior]]
"""Quantity -> family -> what is known. ``serving`` is there for every quantity."""


def family_of(engine: str, *, serving: bool = True) -> str:
    """The family of engines whose curves resemble each other.

    Args:
        engine: name as a data set or a target gives it: vLLM, trtllm, llama.cpp, ollama ...
        serving: whether requests arrived on their own, rather than as one static batch.
    """
    name = "".join(c for c in engine.lower() if c.isalnum())
    if "llamacpp" in name or "ollama" in name:
        return "llama.cpp"
    return "serving" if serving else "static batch"
