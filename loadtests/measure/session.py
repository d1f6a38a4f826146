"""One target under load: what its users share, and what one user does over and over."""

from __future__ import annotations

import itertools
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
from gevent import GreenletExit
from numpy.random import default_rng  # here, or the first user's start would load it under load

from loadtests.dialects.base import Chat, Message
from loadtests.measure.assemble import RequestLabel, assemble
from loadtests.stream.client import StreamClient, Timeouts
from loadtests.traffic.prompts import ROUGH_SCALE, PromptScale, make_prompt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.random import Generator

    from loadtests.dialects.base import Dialect
    from loadtests.measure.telemetry import ServerWatch
    from loadtests.stream.client import Exchange
    from loadtests.stream.clock import Clock
    from loadtests.stream.endpoint import Endpoint
    from loadtests.traffic.lengths import Lengths
    from planner.records import RequestRecord, TargetInfo, Workload

__all__ = ["Chatter", "Session", "Traffic"]


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What every user asks for, ready to be drawn from.

    Attributes:
        seed: of lengths and pauses. The words of the prompts are new in each run, or a second run
            with the same seed would be answered from a server's prefix cache.
    """

    workload: Workload
    prompt_tokens: Lengths
    output_tokens: Lengths
    seed: int


@dataclass(kw_only=True)
class Session:
    """One target under load.

    Attributes:
        stage: index of the stage that new requests belong to; the driver moves it on.
        think_time_s: mean pause of a user after an answer, exponentially distributed; 0: none.
        sink: takes each finished record.
        ids: numbers for the requests of the whole run.
        resent: requests that were sent twice, as the server was closing a kept connection.
        watch: looks at the server itself while it is under load.
    """

    info: TargetInfo
    endpoint: Endpoint
    dialect: Dialect
    traffic: Traffic
    clock: Clock
    api_key: str | None = field(default=None, repr=False)
    timeouts: Timeouts = field(default_factory=Timeouts)
    scale: PromptScale = ROUGH_SCALE
    sink: Callable[[RequestRecord], None] = lambda _: None
    stage: int = 0
    think_time_s: float = 0.0
    ids: Iterator[int] = field(default_factory=itertools.count)
    users: Iterator[int] = field(default_factory=itertools.count)
    resent: int = 0
    watch: ServerWatch | None = None

    def told_resent(self) -> int:
        """Requests that were sent twice since the last call: they are told to another process."""
        resent, self.resent = self.resent, 0
        return resent

    def chatter(self, lengths: Generator | None = None) -> Chatter:
        """A new user, with random numbers of its own, or with lengths drawn from shared ones."""
        return Chatter(self, next(self.users), lengths)

    def chat(self, words: int, max_tokens: int, rng: Generator) -> Chat:
        """A one-turn chat whose prompt has this many words."""
        workload = self.traffic.workload
        return Chat(
            messages=(Message(role="user", content=make_prompt(words, rng)),),
            model=self.info.model,
            max_tokens=max_tokens,
            temperature=workload.temperature,
            ignore_eos=workload.ignore_eos,
            cache_prompt=not workload.vary_prompts,
        )


class Chatter:
    """One simulated person (or one lane of a closed loop): ask, read the answer, think, repeat."""

    def __init__(self, session: Session, number: int, lengths: Generator | None = None) -> None:
        """Seed by target, stage and number, so that no two users ever say the same."""
        self.session = session
        self.number = number
        self.turn = 0
        self.failed = False
        run_ms = round(session.clock.started_unix_s * 1e3)
        own = [zlib.crc32(session.info.name.encode()), session.stage, number]
        self._rng = lengths or default_rng([session.traffic.seed, *own])
        self._words = default_rng([abs(run_ms), *own])
        self._client = StreamClient(
            session.endpoint, session.clock, session.timeouts, keep_alive=True
        )

    def ask(
        self,
        *,
        scheduled_s: float | None = None,
        hold: Callable[[], object] | None = None,
        rest: Callable[[], object] | None = None,
    ) -> RequestRecord:
        """Send one request, wait for its end, hand its record to the session's sink.

        Args:
            scheduled_s: its intended start, in seconds since the run's start; by default now.
            hold: called when the request is ready; it is sent when this returns.
            rest: called when the answer is complete; it is decoded when this returns.
        """
        session = self.session
        traffic = session.traffic
        chat = session.chat(
            session.scale.words(traffic.prompt_tokens.draw(self._rng)),
            traffic.output_tokens.draw(self._rng),
            self._words,
        )
        call = session.dialect.encode(chat, api_key=session.api_key)
        if hold is not None:
            self._hold(hold)
        label = RequestLabel(
            id=next(session.ids),
            stage=session.stage,
            target=session.info.name,
            backend=session.info.backend,
            user=self.number,
            turn=self.turn,
            scheduled_s=session.clock.now() if scheduled_s is None else scheduled_s,
        )
        exchange: Exchange | None = None
        try:
            exchange = self._client.exchange(call)
            if rest is not None:
                rest()
        except GreenletExit:  # the stage is over: what had arrived is a censored observation
            if (cut := exchange or self._client.partial()) is not None:
                session.resent += cut.resent
                session.sink(self._record(label, cut))
            self.close()  # a lane that ends while it rests has a connection still
            raise
        session.resent += exchange.resent
        record = self._record(label, exchange)
        self.turn += 1
        self.failed = record.status != "ok"
        session.sink(record)
        return record

    def _hold(self, hold: Callable[[], object]) -> None:
        """Make the connection ready and wait for the moment of sending."""
        try:
            self._client.connect_ahead()
            hold()
        except GreenletExit:
            self.close()
            raise

    def _record(self, label: RequestLabel, exchange: Exchange) -> RequestRecord:
        """The record of an exchange, without the key that a server's error may repeat."""
        record = assemble(label, exchange, self.session.dialect)
        key = self.session.api_key
        if key and record.error and key in record.error:
            return msgspec.structs.replace(record, error=record.error.replace(key, "[API key]"))
        return record

    def think_s(self) -> float:
        """How long this user pauses now."""
        mean = self.session.think_time_s
        return float(self._rng.exponential(mean)) if mean > 0 else 0.0

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()
