"""The requests of one simulation, as columns that grow as they arrive."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

__all__ = ["NO_SESSION", "Requests"]

NO_SESSION = -1
"""The session of a request that belongs to no conversation."""


@dataclass(slots=True)
class Requests:
    """Plain lists: the event loop reads and writes single elements, at which numpy is slow.

    Attributes:
        arrival_s: moment at which it came.
        prompt: prompt tokens, the shared ones included.
        output: output tokens, at least 1.
        prefix: prompt tokens that repeat what its session asked and was told before.
        session: which conversation, or ``NO_SESSION``.
        scheduled_s: moment at which it was first let into the batch; NaN if never.
        first_token_s, ended_s: moments of the first and last token; NaN if never.
        replica: which served it; -1 if it was refused.
        preemptions: how often it lost its place.
        cached: prompt tokens that the prefix cache had when it was first let in.
    """

    arrival_s: list[float] = field(default_factory=list)
    prompt: list[int] = field(default_factory=list)
    output: list[int] = field(default_factory=list)
    prefix: list[int] = field(default_factory=list)
    session: list[int] = field(default_factory=list)
    scheduled_s: list[float] = field(default_factory=list)
    first_token_s: list[float] = field(default_factory=list)
    ended_s: list[float] = field(default_factory=list)
    replica: list[int] = field(default_factory=list)
    preemptions: list[int] = field(default_factory=list)
    cached: list[int] = field(default_factory=list)

    def add(
        self, arrival_s: float, prompt: int, output: int, prefix: int = 0, session: int = NO_SESSION
    ) -> int:
        """Append one request and return its number."""
        self.arrival_s.append(arrival_s)
        self.prompt.append(prompt)
        self.output.append(output)
        self.prefix.append(prefix)
        self.session.append(session)
        self.scheduled_s.append(math.nan)
        self.first_token_s.append(math.nan)
        self.ended_s.append(math.nan)
        self.replica.append(-1)
        self.preemptions.append(0)
        self.cached.append(0)
        return len(self.arrival_s) - 1
