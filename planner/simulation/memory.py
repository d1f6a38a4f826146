"""The KV cache of one replica, in blocks.

A sequence takes a block whenever its context fills the last one. All decoding sequences advance
together, so one histogram of contexts modulo the block size, turned by the number of steps made,
says exactly how many blocks each coming step takes.

Blocks set free keep their contents until they are given out again, the least recently freed first
and a sequence's last block before its first, as vLLM's block pool does: whoever comes back for
them finds a prefix.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planner.simulation.engine import Engine

__all__ = ["Memory"]


class Memory:
    """Blocks in use and free, and what the free ones still hold.

    Without a shared cache (``kv_tokens`` is None) nothing ever runs out, and each slot remembers
    the sequence that it served last.
    """

    def __init__(self, engine: Engine) -> None:
        """Start empty."""
        self.limited = engine.kv_tokens is not None
        self.size = engine.kv_block_tokens
        self.free = (engine.kv_tokens or 0) // self.size
        self._total = self.free
        self._remembers = engine.prefix_caching
        self._most_kept = engine.slots
        self._blank = self.free  # free blocks that hold nothing of use
        self._kept: OrderedDict[int, int] = OrderedDict()  # whose -> free blocks that hold it
        self._fills = [0] * self.size  # decoding sequences by the step (mod size) that fills one
        self._members = 0

    @property
    def share(self) -> float:
        """Share of the blocks that is given out; 0 without a shared cache."""
        return 1 - self.free / self._total if self.limited else 0.0

    def blocks(self, tokens: int) -> int:
        """Blocks that a context of so many tokens needs."""
        return -(-tokens // self.size)

    def could_hold(self, tokens: int) -> bool:
        """Whether a request of so many tokens fits when it is alone."""
        return not self.limited or self.blocks(tokens) <= self._total

    def join(self, step: int, context: int) -> None:
        """A sequence of that context begins to decode."""
        self._fills[(step - context) % self.size] += 1
        self._members += 1

    def leave(self, step: int, context: int) -> None:
        """A sequence that now has that context stops decoding."""
        self._fills[(step - context) % self.size] -= 1
        self._members -= 1

    def needed(self, step: int, steps: int) -> int:
        """Blocks that the decoding sequences take in the next steps."""
        cycles, rest = divmod(steps, self.size)
        if not rest:
            return cycles * self._members
        fills, size = self._fills, self.size
        return cycles * self._members + sum(fills[(step + j) % size] for j in range(rest))

    def lasts(self, step: int, steps: int) -> int:
        """For how many of the next steps the free blocks last."""
        if not self.limited or self._members * (steps // self.size + 1) <= self.free:
            return steps
        cycles, left = divmod(self.free, self._members)
        most = cycles * self.size
        while most < steps:
            left -= self._fills[(step + most) % self.size]
            if left < 0:
                break
            most += 1
        return min(most, steps)

    def spares(self, blocks: int, step: int) -> bool:
        """Whether so many blocks are free beside those that the next decoding step takes."""
        return not self.limited or blocks <= self.free - self.needed(step, 1)

    def take(self, blocks: int) -> None:
        """Give blocks out: the blank ones first, then the least recently freed."""
        if not self.limited:
            return
        self.free -= blocks
        if blocks <= self._blank:
            self._blank -= blocks
            return
        blocks -= self._blank
        self._blank = 0
        while blocks > 0:
            whose, kept = next(iter(self._kept.items()))
            if kept > blocks:
                self._kept[whose] = kept - blocks
                return
            del self._kept[whose]
            blocks -= kept

    def give(self, whose: int, blocks: int) -> None:
        """Set blocks free; they go on holding what they hold."""
        if self.limited:
            self.free += blocks
        if not self._remembers:
            self._blank += blocks
            return
        self._kept[whose] = self._kept.pop(whose, 0) + blocks
        if not self.limited and len(self._kept) > self._most_kept:
            self._kept.popitem(last=False)

    def find(self, whose: int, tokens: int) -> int:
        """Take back what the free blocks still hold of the first tokens; returns how many."""
        kept = self._kept.pop(whose, 0)
        if not kept:
            return 0
        found = min(kept, tokens // self.size)
        if self.limited:
            self.free -= found
            self._blank += kept - found
        return found * self.size
