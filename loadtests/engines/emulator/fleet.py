"""The planner's replicas in real time: each token at the moment at which its step ends.

The model is ``planner.simulation.replica`` and nothing else: this module asks a replica for the
boundaries of its steps and hands the tokens of each step out. Moments are absolute, so that a
late timer delays no later step.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Protocol

from planner.simulation.replica import Replica
from planner.simulation.requests import Requests
from planner.simulation.routing import make_route

if TYPE_CHECKING:
    import numpy as np

    from planner.simulation.engine import Engine

__all__ = ["Fleet", "Job"]


class Job(Protocol):
    """A request as the fleet sees it: its lengths, and what it is told of its fate."""

    prompt: int
    output: int
    session: int | None
    """The conversation whose earlier turns may be in the prefix cache; None: a new one."""
    prefix: int
    """Prompt tokens that the conversation has seen before."""

    def scheduled(self, at: float, cached: int) -> None:
        """It was let into the batch; the prefix cache had so many of its prompt tokens."""

    def token(self, due: float) -> None:
        """It made a token, in a step that ended at ``due``."""


class _Lane:
    """One replica, and which of its requests is which job."""

    def __init__(self, engine: Engine) -> None:
        self.log = Requests()
        self.replica = Replica(engine, self.log)
        self.jobs: dict[int, Job] = {}
        self.step = 1  # the step of the present jump that ends next
        self.waiting: deque[int] = deque()  # not let in yet
        self.leaving: list[int] = []
        self.free: list[int] = []  # numbers of requests that are over, to be used again
        self.idle_since = -math.inf
        self.ready_at = math.inf  # when the model is, or will be, loaded

    @property
    def due(self) -> float:
        return self.replica.boundary(self.step)


class Fleet:
    """Replicas of one engine behind one address, the least loaded of which gets each request.

    Sequences of one step are handed their tokens in the order in which they began.
    """

    def __init__(self, engine: Engine, replicas: int, rng: np.random.Generator) -> None:
        """Start idle, with no model loaded."""
        self.engine = engine
        self.steps = 0
        self.tokens = 0
        self.preemptions = 0
        self._lanes = [_Lane(engine) for _ in range(replicas)]
        self._replicas = [lane.replica for lane in self._lanes]
        self._route = make_route("least-loaded", rng)
        self._where: dict[Job, tuple[_Lane, int]] = {}
        self._sessions = 0

    @property
    def due(self) -> float:
        """When the next step ends; infinite while all are idle."""
        return min(lane.due for lane in self._lanes)

    @property
    def running(self) -> int:
        """Requests in the batches."""
        return sum(replica.running for replica in self._replicas)

    @property
    def in_flight(self) -> int:
        """Requests in the batches and waiting."""
        return sum(replica.in_flight for replica in self._replicas)

    @property
    def kv_share(self) -> float:
        """Share of the KV cache that is given out, in the mean."""
        return sum(replica.kv_share for replica in self._replicas) / len(self._replicas)

    def loaded(self, now: float) -> bool:
        """Whether a replica has its model in memory."""
        return any(
            lane.ready_at <= now
            and (lane.replica.in_flight or now - lane.idle_since <= self.engine.keep_alive_s)
            for lane in self._lanes
        )

    def loaded_at(self, job: Job) -> float:
        """When the model that serves it was, or will have been, loaded."""
        return self._where[job][0].ready_at

    def new_session(self) -> int:
        """A number for a conversation."""
        self._sessions += 1
        return self._sessions

    def offer(self, now: float, job: Job) -> bool:
        """Take a request; False if the engine refuses it. All earlier steps must have been told."""
        lane = self._lanes[self._route(self._replicas, -1)]
        replica = lane.replica
        session = self.new_session() if job.session is None else job.session
        number = self._number(lane, now, job, session)
        idle = replica.due == math.inf
        if not replica.offer(now, number):
            lane.free.append(number)
            return False
        if idle:
            lane.step = 1
            # A jump that does not end at once loads the model.
            lane.ready_at = replica.due if replica.due > now else min(lane.ready_at, now)
        lane.jobs[number] = job
        lane.waiting.append(number)
        self._where[job] = (lane, number)
        return True

    def withdraw(self, now: float, job: Job) -> None:
        """The client has gone; it hears no more. All earlier steps must have been told."""
        lane, number = self._where.pop(job, (None, 0))
        if lane is None:  # it has just ended
            return
        del lane.jobs[number]
        if number in lane.waiting:
            lane.waiting.remove(number)
        if lane.replica.withdraw(now, number):
            lane.free.append(number)
        else:
            lane.leaving.append(number)

    def tick(self) -> None:
        """Hand out the tokens of the step that ends next."""
        lane = min(self._lanes, key=lambda one: one.due)
        replica, now = lane.replica, lane.due
        makers = list(replica.decoding) if replica.steps else []
        self.steps += 1
        if lane.step < replica.steps:
            lane.step += 1
            self._tell(lane, makers, now)
            return
        makers += replica.finishing
        done = replica.fire()
        lane.step = 1
        self._tell(lane, makers, now)
        for number in done:
            job = lane.jobs.pop(number, None)
            if job is not None:
                self._where.pop(job, None)
        self._recycle(lane, [*done, *(n for n in lane.leaving if n not in done)])
        lane.leaving.clear()
        waiting, log = lane.waiting, lane.log
        while waiting and not math.isnan(log.scheduled_s[waiting[0]]):
            number = waiting.popleft()
            lane.jobs[number].scheduled(now, log.cached[number])
        if replica.in_flight == 0:
            lane.idle_since = now

    def _tell(self, lane: _Lane, makers: list[int], due: float) -> None:
        self.tokens += len(makers)
        jobs = lane.jobs
        for number in makers:
            job = jobs.get(number)
            if job is not None:
                job.token(due)

    def _recycle(self, lane: _Lane, numbers: list[int]) -> None:
        for number in numbers:
            self.preemptions += lane.log.preemptions[number]
        lane.free.extend(numbers)

    def _number(self, lane: _Lane, now: float, job: Job, session: int) -> int:
        """A place in the lane's columns, one that is over where there is one."""
        log = lane.log
        if not lane.free:
            return log.add(now, job.prompt, job.output, job.prefix, session)
        number = lane.free.pop()
        log.arrival_s[number] = now
        log.prompt[number], log.output[number] = job.prompt, job.output
        log.prefix[number], log.session[number] = job.prefix, session
        log.scheduled_s[number] = log.first_token_s[number] = log.ended_s[number] = math.nan
        log.preemptions[number] = log.cached[number] = 0
        return number
