"""What servers told of themselves while they were under load, as series over time.

A sample's figures have one vocabulary, whatever the engine calls them:

====================================  ==========================================================
``running``, ``waiting``              requests being decoded, and in the server's queue
``kv_usage``                          share of the KV cache in use, 0 to 1
``ttft_s_sum``, ``_count``            the server's own histogram of TTFT (``_bucket_le_X`` too)
``queue_s_sum``, ``_count``           the same of the time in its queue
``output_tokens_total``               counter, each token when it is made
``finished_output_tokens_total``      counter, all tokens of a request when it ends (llama.cpp)
``prompt_tokens_total``               counter
``preemptions_total``                 counter
``models_loaded``, ``model_*_bytes``  Ollama: resident models, and the measured one's memory
``cpu_cores``, ``memory_bytes``       processors kept busy, memory (of a process: resident)
``utilisation``, ``memory_bytes``     of a GPU; ``power_w``, ``energy_j_total``, and ``serves``: 1
                                      where the server's processes run on it, else 0
``scrape_s``, ``missed``              how long a page took; 1 where it came late or illegibly
====================================  ==========================================================
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from planner.records import TelemetrySample
    from planner.steady import Window
    from planner.table import Floats

__all__ = ["ENGINE_SOURCES", "Series", "Telemetry"]

ENGINE_SOURCES = ("/metrics", "/slots", "/api/ps")
"""Pages of a server, the better one first where two tell the same figure."""


class Series(NamedTuple):
    """One figure: (n,) moments in seconds since the run's start, ascending, and (n,) values."""

    time_s: Floats
    value: Floats

    def within(self, window: Window) -> Series:
        """The part in a window, both ends included."""
        first = np.searchsorted(self.time_s, window.start_s, "left")
        last = np.searchsorted(self.time_s, window.end_s, "right")
        return Series(self.time_s[first:last], self.value[first:last])


@dataclass(frozen=True, slots=True, eq=False)
class Telemetry:
    """All samples of a run: (target, source, name) -> series."""

    series: dict[tuple[str, str, str], Series]

    @classmethod
    def from_samples(cls, samples: Iterable[TelemetrySample]) -> Telemetry:
        """From samples in the order in which they were taken."""
        found: dict[tuple[str, str, str], tuple[array[float], array[float]]]
        found = defaultdict(lambda: (array("d"), array("d")))
        for sample in samples:
            for name, value in sample.values.items():
                time_s, values = found[sample.target, sample.source, name]
                time_s.append(sample.time_s)
                values.append(value)
        return cls({key: _series(np.array(t), np.array(v)) for key, (t, v) in found.items()})

    @classmethod
    def from_columns(
        cls,
        time_s: Floats,
        texts: Sequence[tuple[list[str], npt.NDArray[np.integer]]],
        value: Floats,
    ) -> Telemetry:
        """From columns in long format.

        Args:
            time_s: (n,)
            texts: of target, source and name: the words, and (n,) indices into them.
            value: (n,)
        """
        if not len(time_s):
            return cls({})
        sizes = [len(words) for words, _ in texts]
        codes = np.ravel_multi_index([np.asarray(indices) for _, indices in texts], sizes)
        order = np.argsort(codes, kind="stable")
        keys, starts = np.unique(codes[order], return_index=True)
        series = {}
        for key, rows in zip(keys.tolist(), np.split(order, starts[1:]), strict=True):
            which = np.unravel_index(key, sizes)
            target, source, name = (words[i] for (words, _), i in zip(texts, which, strict=True))
            series[target, source, name] = _series(time_s[rows], value[rows])
        return cls(series)

    def joined(self, later: Telemetry) -> Telemetry:
        """Both together."""
        series = dict(self.series)
        for key, more in later.series.items():
            have = series.get(key)
            series[key] = more if have is None else _series(
                np.concatenate([have.time_s, more.time_s]), np.concatenate([have.value, more.value])
            )  # fmt: skip
        return Telemetry(series)

    def find(self, target: str, source: str, name: str) -> Series:
        """One figure; empty where it was never told."""
        return self.series.get((target, source, name), _EMPTY)

    def sources(self, target: str) -> tuple[str, ...]:
        """Who told of a target."""
        return tuple(sorted({source for of, source, _ in self.series if of == target}))


_EMPTY = Series(np.zeros(0), np.zeros(0))


def _series(time_s: Floats, value: Floats) -> Series:
    order = np.argsort(time_s, kind="stable")
    return Series(np.asarray(time_s[order], float), np.asarray(value[order], float))
