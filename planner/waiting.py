"""Where a TTFT stops being smooth over concurrency: the place from which requests queue.

An engine that has slots, or KV memory, for S requests answers N ≤ S of them at once, and their TTFT
is some prefill and some steps, which grow smoothly. From S on every further request waits for
another to finish: by Little's law N - S of them wait (N - S)/X. A curve drawn smoothly between a
level below S and one above is wrong by factors. S is what the level above shows to be decoding at
once, its own waiting is what its TTFT has beyond the steps of the level below, and between the two
the wait grows in proportion to N - S (asymptotic bounds of a closed network: Lazowska et al. 1984,
chapter 5).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Occupancy", "Queue", "queue_of"]

Array = npt.NDArray[np.float64]

JUMP = 2.0
"""TTFT beyond this many times what the longer steps explain is waiting; with 2 to 4 the errors on
published curves are alike."""
LEAST_WAITING = 0.05
"""Share of the requests in flight that must not be decoding: less is within the noise."""
MOST_DECODING = 1.1
"""Requests decoding as a share of those in flight: more, and the figures contradict each other
(Little's law must hold within a tenth for anything that is planned from)."""


@dataclass(frozen=True)
class Occupancy:
    """What the levels of a curve show of the engine besides the TTFT.

    Attributes:
        decoding: (L,) or (B, L) requests that decode at once: output tokens/s · TPOT.
        step: (L,) or (B, L) TPOT, in any unit of time.
    """

    decoding: Array
    step: Array

    def at(self, kept: npt.NDArray[np.bool_]) -> Occupancy:
        """The same of some levels."""
        return Occupancy(self.decoding[..., kept], self.step[..., kept])


@dataclass(frozen=True)
class Queue:
    """The part of B curves of TTFT that is waiting for a slot.

    Attributes:
        levels: (L,) concurrencies, increasing.
        rest: (B, L) log of the TTFT without it.
        waits: (B, L) the wait, in the unit of the TTFT.
        slots: (B,) concurrency from which requests wait; infinite where none are seen to.
    """

    levels: Array
    rest: Array
    waits: Array
    slots: Array

    def log_wait(self, n: Array) -> Array:
        """Log of the wait at ``n`` (m,), (B, m), minus infinity where nobody waits.

        Nothing up to the slots, from there on linear in N through the levels and beyond.
        """
        wait = np.zeros((self.slots.size, n.size))
        top = self.levels[-1]
        for i in np.flatnonzero(np.isfinite(self.slots)):
            slots = self.slots[i]
            queued = self.levels > slots
            knots = np.concatenate([[slots], self.levels[queued]])
            within = np.interp(n, knots, np.concatenate([[0.0], self.waits[i, queued]]))
            past = self.waits[i, -1] * (n - slots) / (top - slots)
            wait[i] = np.where(n > top, past, within)
        return np.asarray(np.log(wait, out=np.full_like(wait, -np.inf), where=wait > 0))


def queue_of(levels: Array, logs: Array, occupancy: Occupancy) -> Queue:
    """Tell the waiting for a slot from the rest of a TTFT.

    The first level counts as queued at which the TTFT grows far more than the step does, and the
    share of the requests that do not decode with it; so do all above. Their TTFT without the wait
    is taken to have grown as the step has.

    Args:
        levels: (L,) concurrencies, increasing.
        logs: (B, L) log TTFT.
        occupancy: of the same levels.
    """
    decoding = np.broadcast_to(occupancy.decoding, logs.shape)
    step = np.log(np.broadcast_to(occupancy.step, logs.shape))
    steady = logs[:, :-1] + np.diff(step)
    not_decoding = np.maximum(levels - decoding, 0.0)
    odds = not_decoding / decoding
    first = (
        (logs[:, 1:] - steady > np.log(JUMP))
        & (odds[:, 1:] > JUMP * odds[:, :-1])
        & (not_decoding[:, 1:] > LEAST_WAITING * levels[1:])
        & (decoding <= MOST_DECODING * levels).all(axis=-1, keepdims=True)
    )
    rest, slots = logs.copy(), np.full(logs.shape[0], np.inf)
    for i in np.flatnonzero(first.any(axis=-1)):
        below = int(np.argmax(first[i]))
        above = slice(below + 1, None)
        grown = logs[i, below] + step[i, above] - step[i, below]
        rest[i, above] = np.minimum(logs[i, above], grown)
        slots[i] = max(decoding[i, below + 1], levels[below])
    waits = np.where(levels > slots[:, None], np.exp(logs) - np.exp(rest), 0.0)
    return Queue(levels, rest, waits, slots)
