"""One replica of an engine, from one change of its batch to the next.

Generated tokens are not events. Between an arrival that is let in, a completion and the KV cache
running full nothing changes but the contexts, which grow by one token a step for each of the n
decoding sequences. So k steps from K context tokens take the closed form

    T(k) = k·(a + b·n + c·K) + c·n·k·(k - 1)/2

and the replica jumps straight to the next change: the fewest tokens that any sequence has left
(a heap of step numbers, on one counter of steps that all sequences share), or the step at which
the blocks of the cache run out (``Memory.lasts``). An arrival that may be let in cuts the jump
short at the step boundary that follows it (T solved for k); one that may not only joins the
queue. Steps that read prompts are taken one by one. That makes 2 to 3 events per request whatever
its length, so that plain Python is fast enough (``benchmarks/simulator.py``) and needs no compiler,
and no approximation but the step time itself.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from heapq import heappop, heappush
from typing import TYPE_CHECKING, NamedTuple

from planner.simulation.memory import Memory

if TYPE_CHECKING:
    from collections.abc import KeysView

    from planner.simulation.engine import Engine
    from planner.simulation.requests import Requests

__all__ = ["Replica"]


class Chunk(NamedTuple):
    """A part of a prompt that one step reads."""

    request: int
    before: int  # tokens of it read before
    tokens: int
    last: bool  # whether its first token comes of this step


class Replica:
    """The scheduler of one engine, first come first served.

    ``due`` is when its present jump ends (infinite: idle), ``in_flight`` how many requests it
    holds.
    """

    def __init__(self, engine: Engine, requests: Requests) -> None:
        """Start idle, with the model not loaded and the cache empty."""
        self.engine = engine
        self.due = math.inf
        self.in_flight = 0
        self._log = requests
        self._memory = Memory(engine)
        self._loaded = False
        self._idle_since = 0.0
        self._started = 0.0  # when the present jump began
        self._steps = 0  # decoding steps in it
        self._first = self._growth = 0.0  # T(k) = k·(_first + _growth·(k - 1))
        self._waiting: deque[int] = deque()
        self._running: OrderedDict[int, None] = OrderedDict()  # in the order they were let in
        self._step = 0  # decoding steps made so far
        self._ends: list[tuple[int, int]] = []  # heap of (step of the last token, request)
        self._end: dict[int, int] = {}  # of each decoding request; else its heap entry is stale
        self._context = 0  # tokens held for the decoding sequences
        self._read: dict[int, int] = {}  # running but not decoding -> tokens read, or about to be
        self._partial: int | None = None  # the one whose prompt did not fit into the last step
        self._made: dict[int, int] = {}  # preempted -> tokens generated before
        self._reading: list[Chunk] = []  # of the present step
        self._staged: list[Chunk] = []  # of the step after it
        self._leaving: list[int] = []  # running, but nobody waits for them any more

    @property
    def steps(self) -> int:
        """Decoding steps in the present jump; 0: nobody decodes in it."""
        return self._steps

    @property
    def decoding(self) -> KeysView[int]:
        """Requests that make one token in each step of the present jump."""
        return self._end.keys()

    @property
    def finishing(self) -> list[int]:
        """Requests whose prompt is read at the end of the present jump: each makes a token then."""
        return [chunk.request for chunk in self._reading if chunk.last]

    @property
    def running(self) -> int:
        """Requests in the batch; the others in flight wait."""
        return len(self._running)

    @property
    def kv_share(self) -> float:
        """Share of a shared KV cache that is given out; 0 where there is none."""
        return self._memory.share

    def boundary(self, step: int) -> float:
        """Moment at which that step, from 1, of the present jump ends."""
        if step >= self._steps:
            return self.due
        return self._started + step * (self._first + self._growth * (step - 1))

    def offer(self, now: float, request: int) -> bool:
        """Take an arrival; False if it is refused."""
        engine, log = self.engine, self._log
        limit = engine.queue_limit
        if limit is not None and self.in_flight >= engine.slots + limit:
            return False
        if not self._memory.could_hold(log.prompt[request] + log.output[request]):
            return False
        self.in_flight += 1
        self._waiting.append(request)
        if self.due == math.inf:
            # An empty jump: who comes at the same moment takes part in the first step.
            warm = self._loaded and now - self._idle_since <= engine.keep_alive_s
            self._loaded = True
            self.due = now if warm else now + engine.load_s
        elif self._steps > 1 and len(self._waiting) == 1 and len(self._running) < engine.slots:
            self._cut(now)
        return True

    def withdraw(self, now: float, request: int) -> bool:
        """Its client has gone.

        Returns:
            Whether it has left. One in the batch leaves at the end of the present step, by the
            next ``fire``.
        """
        if request in self._running:
            self._leaving.append(request)
            if self._steps > 1:
                self._cut(now)
            return False
        self._waiting.remove(request)
        self._made.pop(request, None)
        self.in_flight -= 1
        return True

    def fire(self) -> list[int]:
        """End the present jump and begin the next; returns the requests that ended."""
        now, steps = self.due, self._steps
        if steps:
            if self._memory.limited:
                self._memory.take(self._memory.needed(self._step, steps))
            self._step += steps
            self._context += steps * len(self._end)
        done: list[int] = []
        ends = self._ends
        while ends and ends[0][0] <= self._step:
            end, request = heappop(ends)
            if self._end.get(request) == end:
                self._release(request, self._stop_decoding(request))
                done.append(request)
        done.extend(
            chunk.request
            for chunk in self._reading
            if chunk.last and self._start_decoding(now, chunk.request)
        )
        for request in done:
            del self._running[request]
            self._log.ended_s[request] = now
        self.in_flight -= len(done)
        for request in self._leaving:
            if request in self._running:  # else it has just ended
                self._evict(request)
                self._made.pop(request, None)
                self.in_flight -= 1
        self._leaving.clear()
        self._plan(now)
        return done

    def _plan(self, now: float) -> None:
        """Choose what the next jump does and when it ends."""
        engine = self.engine
        reading = self._compose(now)
        n = len(self._end)
        if engine.runs_ahead and (n or self._staged):
            reading, self._staged = self._staged, reading
        self._reading = reading
        self._started = now
        a, b, c, d = engine.step.coefficients
        if reading:
            tokens = before = 0
            for chunk in reading:
                tokens += chunk.tokens
                before += chunk.before
            self._steps = 1 if engine.chunked_prefill else 0
            held, batch = (self._context, n) if engine.chunked_prefill else (0, 0)
            self.due = now + a + b * batch + c * (held + before) + d * tokens
        elif n:
            ends = self._ends
            while self._end.get(ends[0][1]) != ends[0][0]:
                heappop(ends)
            steps = 1 if self._staged else ends[0][0] - self._step
            self._steps = steps = self._memory.lasts(self._step, steps)
            self._first, self._growth = a + b * n + c * self._context, c * n / 2
            self.due = now + steps * (self._first + self._growth * (steps - 1))
        else:
            self.due, self._steps, self._idle_since = math.inf, 0, now

    def _cut(self, now: float) -> None:
        """End the present jump at the first step boundary that is not before now."""
        elapsed, growth = now - self._started, self._growth
        first = self._first - growth
        steps = math.ceil(
            2 * elapsed / (first + math.sqrt(first * first + 4 * growth * elapsed)) - _SLACK
        )
        if steps < self._steps:
            self._steps = steps = max(1, steps)
            self.due = max(now, self._started + steps * (self._first + growth * (steps - 1)))

    def _compose(self, now: float) -> list[Chunk]:
        """The prompts, or parts of them, that the next step reads."""
        memory, engine = self._memory, self.engine
        if not memory.limited and not self._waiting and self._partial is None:
            return []
        short = False
        while not memory.spares(0, self._step):
            self._preempt()
            short = True
        chunks: list[Chunk] = []
        budget = engine.batch_tokens - (len(self._end) if engine.chunked_prefill else 0)
        if self._partial is not None:
            tokens = min(self._whole(self._partial) - self._read[self._partial], budget)
            short = short or not self._take(chunks, self._partial, tokens)
            budget -= tokens
        while (
            self._waiting
            and not short
            and budget > 0
            and self._partial is None
            and len(self._running) < engine.slots
        ):
            tokens = self._admit(now, chunks, budget)
            if not tokens:
                break
            budget -= tokens
        return chunks

    def _admit(self, now: float, chunks: list[Chunk], budget: int) -> int:
        """Let the head of the queue in; returns the tokens that the step reads of it, or 0."""
        memory, log = self._memory, self._log
        request = self._waiting[0]
        whole = self._whole(request)
        if not memory.spares(memory.blocks(whole), self._step):
            return 0
        known = whole - 1 if log.preemptions[request] else min(log.prefix[request], whole - 1)
        whose = self._whose(request)
        found = memory.find(whose, known) if known else 0
        tokens = whole - found
        if self.engine.chunked_prefill:
            tokens = min(tokens, budget)
        elif tokens > budget and chunks:
            memory.give(whose, memory.blocks(found))
            return 0
        self._waiting.popleft()
        self._running[request] = None
        if math.isnan(log.scheduled_s[request]):
            log.scheduled_s[request] = now
            log.cached[request] = found
        self._read[request] = found
        self._take(chunks, request, tokens)
        return tokens

    def _take(self, chunks: list[Chunk], request: int, tokens: int) -> bool:
        """Have the next step read these tokens; False where the cache has no room for them."""
        memory, before = self._memory, self._read[request]
        blocks = memory.blocks(before + tokens) - memory.blocks(before)
        if not memory.spares(blocks, self._step):
            self._preempt()
            return False
        memory.take(blocks)
        self._read[request] = before + tokens
        last = before + tokens == self._whole(request)
        self._partial = None if last else request
        chunks.append(Chunk(request, before, tokens, last))
        return True

    def _whole(self, request: int) -> int:
        """Tokens to read before it decodes: its prompt and what it made before a preemption."""
        return self._log.prompt[request] + self._made.get(request, 0)

    def _start_decoding(self, now: float, request: int) -> bool:
        """The prompt is read and one token made; True if that was the last."""
        log = self._log
        context = self._read.pop(request)
        made = self._made.pop(request, 0) + 1
        if made == 1:
            log.first_token_s[request] = now
        left = log.output[request] - made
        if left == 0:
            self._release(request, context)
            return True
        end = self._step + left
        self._end[request] = end
        heappush(self._ends, (end, request))
        self._context += context
        self._memory.join(self._step, context)
        return False

    def _stop_decoding(self, request: int) -> int:
        """Take a sequence out of the batch; returns its context in tokens."""
        log = self._log
        made = log.output[request] - (self._end.pop(request) - self._step)
        context = log.prompt[request] + made - 1
        self._context -= context
        self._memory.leave(self._step, context)
        return context

    def _preempt(self) -> None:
        """The last one let in gives its blocks back and waits again, before all others."""
        request = next(reversed(self._running))
        self._evict(request)
        self._waiting.appendleft(request)
        self._log.preemptions[request] += 1

    def _evict(self, request: int) -> None:
        """Take a request out of the batch and set its blocks free; what it made stays counted."""
        del self._running[request]
        if request in self._end:
            context = self._stop_decoding(request)
            made = context + 1 - self._log.prompt[request]  # the last token is not read
            self._made[request] = made
        else:
            context = self._read.pop(request)
            self._staged = [chunk for chunk in self._staged if chunk.request != request]
            if self._partial == request:
                self._partial = None
        self._release(request, context)

    def _release(self, request: int, context: int) -> None:
        self._memory.give(self._whose(request), self._memory.blocks(context))

    def _whose(self, request: int) -> int:
        """Under which name its blocks are found again: its session, or itself."""
        session = self._log.session[request]
        return session if session >= 0 else -1 - request


_SLACK = 1e-9
"""An arrival this close after a step boundary, in steps, counts as on it."""
