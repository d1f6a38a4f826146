"""The same engine counted token by token and block by block: slow, and nothing shared with it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planner.simulation.engine import Engine


@dataclass
class Sequence:
    """One request and what the engine holds of it."""

    arrival: float
    prompt: int
    output: int
    name: int
    made: int = 0  # tokens generated
    read: int = 0  # tokens in the cache
    blocks: int = 0
    decoding: bool = False
    preempted: int = 0
    scheduled: float = math.nan
    first: float = math.nan
    ended: float = math.nan


class NaiveEngine:
    """First come first served, one step after the other."""

    def __init__(self, engine: Engine, arrivals: list[tuple[float, int, int]]) -> None:
        """Take all arrivals as (moment, prompt, output)."""
        self.engine = engine
        self.coming = [Sequence(t, p, o, i) for i, (t, p, o) in enumerate(arrivals)]
        self.all = list(self.coming)
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        total = 10**9 if engine.kv_tokens is None else engine.kv_tokens // engine.kv_block_tokens
        self.unlimited = engine.kv_tokens is None
        # Free blocks in the order they are given out; what each holds: (request, which block).
        self.free: list[tuple[int, int] | None] = [] if self.unlimited else [None] * total

    def run(self) -> list[Sequence]:
        """Simulate to the end."""
        now = 0.0
        while self.coming or self.waiting or self.running:
            while self.coming and self.coming[0].arrival <= now:
                self.waiting.append(self.coming.pop(0))
            if not self.waiting and not self.running:
                now = self.coming[0].arrival
                continue
            now = self.step(now)
        return self.all

    def step(self, now: float) -> float:  # noqa: C901, PLR0912, PLR0915 - one step, top to bottom
        """One step: make room, choose, run, generate."""
        e = self.engine
        size = e.kv_block_tokens
        short = False
        decoding = [s for s in self.running if s.decoding]
        while sum(s.read % size == 0 for s in decoding) > self.count_free():
            self.preempt()
            short = True
            decoding = [s for s in self.running if s.decoding]
        growing = [s for s in decoding if s.read % size == 0]
        reserved = len(growing)
        chunks: list[tuple[Sequence, int, int]] = []
        budget = e.batch_tokens - (len(decoding) if e.chunked_prefill else 0)
        partial = [s for s in self.running if not s.decoding]
        for s in partial:
            tokens = min(s.prompt + s.made - s.read, budget)
            extra = -(-(s.read + tokens) // size) - s.blocks
            if extra > self.count_free() - reserved:
                self.preempt()
                short = True
                continue
            self.hold(s, extra)
            chunks.append((s, s.read, tokens))
            s.read += tokens
            budget -= tokens
        blocked = any(s.read < s.prompt + s.made for s in self.running if not s.decoding)
        while self.waiting and not short and not blocked and budget > 0:
            s = self.waiting[0]
            whole = s.prompt + s.made
            if len(self.running) >= e.slots or -(-whole // size) > self.count_free() - reserved:
                break
            found = self.find(s, whole - 1) if s.preempted and e.prefix_caching else 0
            tokens = whole - found * size
            if e.chunked_prefill:
                tokens = min(tokens, budget)
            elif tokens > budget and chunks:
                self.put_back(s, found)
                break
            self.waiting.pop(0)
            self.running.append(s)
            if math.isnan(s.scheduled):
                s.scheduled = now
            s.blocks, s.read = found, found * size
            self.hold(s, -(-(s.read + tokens) // size) - s.blocks)
            chunks.append((s, s.read, tokens))
            s.read += tokens
            budget -= tokens
            blocked = s.read < whole
        a, b, c, d = e.step.coefficients
        stall = bool(chunks) and not e.chunked_prefill
        took = a + d * sum(x[2] for x in chunks) + c * sum(x[1] for x in chunks)
        if not stall:
            took += b * len(decoding) + c * sum(s.read for s in decoding)
        now += took
        if not stall:
            for s in decoding:
                if s.read % size == 0:
                    self.hold(s, 1)
                s.read += 1
                s.made += 1
        for s, _, _ in chunks:
            if s.read == s.prompt + s.made:
                s.made += 1
                s.decoding = True
                if s.made == 1:
                    s.first = now
        for s in [s for s in self.running if s.made == s.output]:
            s.ended = now
            self.running.remove(s)
            self.let_go(s)
        return now

    def count_free(self) -> float:
        """Blocks that are free."""
        return math.inf if self.unlimited else len(self.free)

    def hold(self, s: Sequence, blocks: int) -> None:
        """Give blocks to a sequence."""
        s.blocks += blocks
        if not self.unlimited:
            del self.free[:blocks]

    def let_go(self, s: Sequence) -> None:
        """Take its blocks back, the last one first."""
        if not self.unlimited:
            names = [(s.name, j) for j in reversed(range(s.blocks))]
            keep = self.engine.prefix_caching
            blank: list[tuple[int, int] | None] = [None] * len(names)
            self.free = [*self.free, *names] if keep else [*blank, *self.free]
        s.blocks = 0

    def find(self, s: Sequence, tokens: int) -> int:
        """Take back its first blocks that are still there; the rest of its become blank."""
        found = 0
        while (s.name, found) in self.free and (found + 1) * self.engine.kv_block_tokens <= tokens:
            self.free.remove((s.name, found))
            found += 1
        rest = [f for f in self.free if f is not None and f[0] == s.name]
        self.free = [*([None] * len(rest)), *(f for f in self.free if f not in rest)]
        return found

    def put_back(self, s: Sequence, found: int) -> None:
        """Undo ``find``."""
        self.free += [(s.name, j) for j in reversed(range(found))]

    def preempt(self) -> None:
        """The last one in goes back to the head of the queue."""
        s = self.running.pop()
        self.let_go(s)
        s.read, s.decoding = 0, False
        s.preempted += 1
        self.waiting.insert(0, s)
