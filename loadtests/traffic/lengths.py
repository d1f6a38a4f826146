"""Distributions of token counts, as users write them.

========================================  =====================================================
``512``                                   always 512
``uniform:100-500``                       every whole number from 100 to 500 alike
``lognormal:mean=512,cv=0.8,max=4096``    mean 512 before the cut, standard deviation 0.8 × mean,
                                          cut at ``max`` (default: 8 × mean)
``file:lengths.csv:output_length``        drawn from a column of a CSV file (default: the first)
========================================  =====================================================
"""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from planner.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MAX_TOKENS", "Lengths", "parse_lengths"]

MAX_TOKENS = 1_000_000
"""No prompt or answer is longer: a larger number is a slip of the pen."""

_MAX_FILE_ROWS = 5_000_000
_EXAMPLES = "512, uniform:100-500, lognormal:mean=512,cv=0.8,max=4096 or file:lengths.csv"
_UNIFORM = re.compile(r"(\d+)-(\d+)")


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """A distribution of token counts.

    Attributes:
        spec: as the user wrote it.
        table: equally likely token counts, sorted, shape (m,). A continuous distribution is kept as
            its own quantiles, so that mean, maximum and draws come from one place.
    """

    spec: str
    table: NDArray[np.int64] = field(repr=False, compare=False)

    @property
    def mean(self) -> float:
        """Mean token count."""
        return float(self.table.mean())

    @property
    def maximum(self) -> int:
        """Largest token count that can be drawn."""
        return int(self.table[-1])

    def draw(self, rng: np.random.Generator) -> int:
        """One token count; where there is only one, without a random number."""
        if self.table.size == 1:
            return int(self.table[0])
        # Below 1 times a size below 2^52 is below that size; ``rng.integers`` costs three times.
        return int(self.table.item(int(rng.random() * self.table.size)))


def parse_lengths(spec: str, *, what: str = "token distribution") -> Lengths:
    """Read a distribution.

    Raises:
        InputError: an unknown form, or counts outside 1 to ``MAX_TOKENS``.
    """
    text = spec.strip()
    kind, _, rest = text.partition(":")
    try:
        if text.isdecimal():
            table = np.array([int(text)])
        elif kind == "uniform":
            table = _uniform(rest)
        elif kind == "lognormal":
            table = _lognormal(rest)
        elif kind == "file":
            table = _from_file(rest)
        else:
            table = _none_of_these(kind)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{what} {spec!r} cannot be read ({error}); write {_EXAMPLES}") from error
    if table[0] < 1 or table[-1] > MAX_TOKENS:
        raise InputError(
            f"{what} {spec!r} reaches from {table[0]} to {table[-1]} tokens; "
            f"counts must lie between 1 and {MAX_TOKENS}"
        )
    return Lengths(spec=text, table=table)


def _none_of_these(kind: str) -> NDArray[np.int64]:
    raise ValueError(f"{kind!r} is no known form")


def _uniform(text: str) -> NDArray[np.int64]:
    match = _UNIFORM.fullmatch(text.strip())
    if not match:
        raise ValueError("want two whole numbers, LOW-HIGH")
    low, high = int(match[1]), int(match[2])
    if low > high:
        raise ValueError(f"{low} is greater than {high}")
    if high > MAX_TOKENS:
        raise ValueError(f"{high} is more than {MAX_TOKENS} tokens")
    return np.arange(low, high + 1)


def _lognormal(text: str) -> NDArray[np.int64]:
    """Quantiles of a lognormal law with the asked mean and coefficient of variation, cut at max."""
    from scipy.special import ndtri  # on use: scipy would slow every other form down

    given = dict(item.split("=", 1) for item in text.split(",") if "=" in item)
    if unknown := set(given) - {"mean", "cv", "max"}:
        raise ValueError(f"unknown {', '.join(sorted(unknown))}")
    if "mean" not in given or "cv" not in given:
        raise ValueError("mean and cv are needed")
    mean, cv = float(given["mean"]), float(given["cv"])
    if not (1 <= mean <= MAX_TOKENS and 0 < cv <= 10):  # noqa: PLR2004 - beyond it nothing is left
        raise ValueError(f"mean must lie between 1 and {MAX_TOKENS} and cv between 0 and 10")
    cut = float(given.get("max", 8 * mean))
    if cut < mean:
        raise ValueError(f"max {cut:g} is less than the mean {mean:g}")
    sigma = math.sqrt(math.log1p(cv * cv))
    levels = (np.arange(4096) + 0.5) / 4096
    values = np.exp(math.log(mean) - sigma * sigma / 2 + sigma * ndtri(levels))
    return np.clip(np.rint(values), 1, round(cut)).astype(np.int64)


def _from_file(text: str) -> NDArray[np.int64]:
    name, _, column = text.partition(":")
    try:
        with Path(name).open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if not rows.fieldnames:
                raise ValueError(f"{name} is empty")
            if column and column not in rows.fieldnames:
                raise ValueError(f"{name} has no column {column}: {', '.join(rows.fieldnames)}")
            wanted = column or rows.fieldnames[0]
            values = [int(row[wanted]) for _, row in zip(range(_MAX_FILE_ROWS), rows, strict=False)]
    except (OSError, UnicodeDecodeError, TypeError, csv.Error) as error:
        raise ValueError(f"{name}: {error}") from error
    if not values:
        raise ValueError(f"{name} has a header but no rows")
    return np.sort(np.array(values, dtype=np.int64))
