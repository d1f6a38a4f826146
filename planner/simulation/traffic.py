"""Who sends requests when: arrivals that wait for nobody, and users who think.

Lengths are bootstrapped: pairs of prompt and output drawn with replacement from measured ones, so
that whatever goes together stays together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from planner.errors import InputError
from planner.simulation.requests import NO_SESSION, Requests

if TYPE_CHECKING:
    from planner.traces import Trace

__all__ = [
    "ClosedUsers",
    "Lengths",
    "OpenArrivals",
    "Source",
    "batch_arrivals",
    "gamma_arrivals",
    "poisson_arrivals",
]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Lengths:
    """Measured pairs of lengths, both (n,) and at least 1 token."""

    prompt_tokens: npt.NDArray[np.int64]
    output_tokens: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        """Refuse what no request can be.

        Raises:
            InputError: no pairs, unequal numbers, or a length below 1.
        """
        prompt, output = self.prompt_tokens, self.output_tokens
        if prompt.shape != output.shape or prompt.ndim != 1 or prompt.size == 0:
            raise InputError("lengths need one prompt and one output length per request, and some")
        if min(prompt.min(), output.min()) < 1:
            raise InputError("a prompt and an output have at least 1 token each")

    def draw(self, count: int, rng: np.random.Generator) -> Lengths:
        """As many pairs, drawn with replacement."""
        which = rng.integers(self.prompt_tokens.size, size=count)
        return Lengths(
            prompt_tokens=self.prompt_tokens[which], output_tokens=self.output_tokens[which]
        )


class Source(Protocol):
    """What sends requests into a simulation.

    ``next_s`` is when the next one comes (infinite: none before another ends), ``requests``
    where they are written.
    """

    next_s: float
    requests: Requests

    def take(self) -> int:
        """Send the next request; returns its number."""
        ...

    def ended(self, request: int, now: float) -> None:
        """Hear that a request ended, or was refused."""
        ...


def poisson_arrivals(rate_per_s: float, count: int, rng: np.random.Generator) -> Array:
    """(count,) moments of a Poisson process, seconds from 0."""
    return gamma_arrivals(rate_per_s, 1.0, count, rng)


def gamma_arrivals(rate_per_s: float, scv: float, count: int, rng: np.random.Generator) -> Array:
    """(count,) moments with independent gamma gaps.

    Args:
        rate_per_s: arrivals per second.
        scv: squared coefficient of variation of the gaps: 1 is Poisson, 0 a clock, more is bursts.
        count: how many.
        rng: source of randomness.
    """
    if not (rate_per_s > 0 and 0 <= scv < math.inf):
        raise InputError(
            f"arrivals at {rate_per_s}/s with a squared coefficient of variation of {scv}: the "
            f"rate must be above 0 and the variation finite"
        )
    gaps = np.full(count, 1 / rate_per_s)
    if scv > 0:
        gaps = rng.gamma(1 / scv, scv / rate_per_s, count)
    return np.cumsum(gaps)


def batch_arrivals(
    batches_per_s: float, follows: float, count: int, rng: np.random.Generator
) -> Array:
    """(count,) moments of a Poisson process of batches whose sizes are geometric.

    Args:
        batches_per_s: batches per second, above 0.
        follows: chance that another request follows in a batch, below 1; 0 is Poisson.
        count: how many requests.
        rng: source of randomness.
    """
    gaps = rng.exponential(1 / batches_per_s, count)
    return np.cumsum(np.where(rng.random(count) < follows, 0.0, gaps))


class OpenArrivals:
    """Requests at given moments, each of its own session."""

    def __init__(self, arrival_s: Array, lengths: Lengths) -> None:
        """Take moments in order, and as many lengths.

        Raises:
            InputError: moments that are not in order, or another number of lengths.
        """
        moments = np.asarray(arrival_s, dtype=float)
        count = moments.size
        if count != lengths.prompt_tokens.size or not (np.diff(moments) >= 0).all():
            raise InputError(
                f"{count} arrivals need to be in order of time and to have as many lengths, "
                f"not {lengths.prompt_tokens.size}"
            )
        self.requests = Requests(
            arrival_s=moments.tolist(),
            prompt=lengths.prompt_tokens.tolist(),
            output=lengths.output_tokens.tolist(),
            prefix=[0] * count,
            session=[NO_SESSION] * count,
            scheduled_s=[math.nan] * count,
            first_token_s=[math.nan] * count,
            ended_s=[math.nan] * count,
            replica=[-1] * count,
            preemptions=[0] * count,
            cached=[0] * count,
        )
        self._sent = 0
        self.next_s = self.requests.arrival_s[0] if count else math.inf

    @classmethod
    def replay(cls, trace: Trace) -> OpenArrivals:
        """The arrivals and lengths of a trace as they were."""
        lengths = Lengths(prompt_tokens=trace.prompt_tokens, output_tokens=trace.output_tokens)
        return cls(trace.arrival_s, lengths)

    def take(self) -> int:
        """Send the next request."""
        request, self._sent = self._sent, self._sent + 1
        more = self._sent < len(self.requests.arrival_s)
        self.next_s = self.requests.arrival_s[self._sent] if more else math.inf
        return request

    def ended(self, request: int, now: float) -> None:
        """Nobody waits for it."""


class ClosedUsers:
    """Users who ask, read the answer, think, and ask again, in conversations of several turns.

    Think times are exponential. Each turn's prompt repeats the conversation so far. Users begin
    thinking, so that they do not all ask at once (without think time they do). ``user`` holds who
    sent each request.
    """

    def __init__(
        self,
        users: int,
        think_time_s: float,
        lengths: Lengths,
        *,
        requests: int,
        rng: np.random.Generator,
        turns: int = 1,
        refusal_pause_s: float = 1.0,
    ) -> None:
        """Set the users up.

        Args:
            users: how many.
            think_time_s: mean pause between an answer and the next request.
            lengths: of the new part of each prompt, and of the answers.
            requests: how many to send in all.
            rng: source of randomness.
            turns: requests of one conversation.
            refusal_pause_s: pause before a user whose request was refused asks again, beside
                thinking; without it a full queue would be asked for ever at one moment.

        Raises:
            InputError: no users, no turns, or a negative time.
        """
        if users < 1 or turns < 1 or not (think_time_s >= 0 and refusal_pause_s > 0):
            raise InputError(
                f"closed users need at least 1 user, 1 turn and no negative think time: got "
                f"{users} users, {turns} turns, {think_time_s} s"
            )
        self.requests = Requests()
        drawn = lengths.draw(requests, rng)
        self._prompt = drawn.prompt_tokens.tolist()
        self._output = drawn.output_tokens.tolist()
        self._think = (think_time_s * rng.standard_exponential(requests + users)).tolist()
        self._turns, self._pause_s = turns, refusal_pause_s
        self.user: list[int] = []  # of each request
        self._turn = [0] * users
        self._history = [0] * users
        self._session = list(range(users))
        self._sessions = users
        self._queue = [(self._think.pop(), user) for user in range(users)]
        heapify(self._queue)
        self.next_s = self._queue[0][0] if requests else math.inf

    def take(self) -> int:
        """Send the request of the user whose turn it is."""
        now, user = heappop(self._queue)
        sent = len(self.user)
        if self._turn[user] == self._turns:
            self._turn[user] = self._history[user] = 0
            self._session[user] = self._sessions
            self._sessions += 1
        prefix = self._history[user]
        prompt = prefix + self._prompt[sent]
        self._turn[user] += 1
        self._history[user] = prompt + self._output[sent]
        self.user.append(user)
        request = self.requests.add(now, prompt, self._output[sent], prefix, self._session[user])
        self._look()
        return request

    def ended(self, request: int, now: float) -> None:
        """The user of it begins to think."""
        if math.isnan(self.requests.ended_s[request]):
            now += self._pause_s
        heappush(self._queue, (now + self._think[request], self.user[request]))
        self._look()

    def _look(self) -> None:
        more = len(self.user) < len(self._prompt) and self._queue
        self.next_s = self._queue[0][0] if more else math.inf
