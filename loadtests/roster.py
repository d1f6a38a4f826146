"""What the process that drives a run knows of its workers, and all that it hears from them.

It answers their questions for the time, decodes what they send, and drops what is no message of
this sitting: the port is open to whoever can reach it.
"""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from loadtests.orders import (
    CLOCK,
    GO,
    HELLO,
    KEPT,
    LEAVE,
    ORDERS,
    OVER,
    RECORDS,
    REPORT,
    Batch,
    Go,
    Greeting,
    Hello,
    Kept,
    Leave,
    Orders,
    Over,
    Ping,
    Pong,
    Report,
    StageOrder,
)
from planner.errors import TargetError
from planner.journal import is_sane
from planner.records import WorkerInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from locust.runners import MasterRunner

    from loadtests.stream.clock import Clock
    from planner.records import RequestRecord

__all__ = ["Ears", "Roster"]

_LOG = logging.getLogger("headroom")

Message = TypeVar("Message", bound=msgspec.Struct)


class Ears(Protocol):
    """Who is told what workers say; each is named by its number."""

    def hello(self, number: int, pid: int) -> None:
        """One is ready for orders."""

    def greeted(self, number: int, problem: str | None) -> None:
        """One can obey its orders, or says why not."""

    def take(self, number: int, record: RequestRecord) -> None:
        """A request has ended."""

    def drained(self, number: int, over: Over) -> None:
        """One has no more arrivals to send."""

    def judge(self, number: int, report: Report) -> None:
        """One says how it fared."""

    def leaving(self, number: int) -> None:
        """One is about to stop its users and to go."""


class Roster:
    """The workers of one Locust master.

    Attributes:
        greeted: numbers of those that have answered the last orders.
        problems: why some cannot obey them, by number.
        leavers: those that go because they were told to.
    """

    def __init__(self, runner: MasterRunner, ears: Ears) -> None:
        """Listen; there is one for all sittings of a runner."""
        self._runner = runner
        self._ears = ears
        self._clock: Clock | None = None
        self._orders: Orders | None = None
        self._names: dict[str, str] = {}
        self._workers: dict[int, WorkerInfo] = {}
        self._received: dict[int, int] = {}
        self.greeted: set[int] = set()
        self.problems: dict[int, str] = {}
        self.leavers: set[int] = set()
        self._hear(HELLO, Hello, lambda number, hello: ears.hello(number, hello.pid))
        self._hear(ORDERS, Greeting, self._greet)
        self._hear(CLOCK, Ping, self._answer)
        self._hear(RECORDS, Batch, self._take)
        self._hear(OVER, Over, ears.drained)
        self._hear(REPORT, Report, ears.judge)
        self._hear(LEAVE, Leave, self._leave)

    def begin(self, clock: Clock, *, keep: bool, folder: str | None) -> None:
        """A new sitting: its workers are those that answer its orders.

        Args:
            clock: of the run.
            keep: whether there is a run folder.
            folder: the run folder, where the workers are on this machine.
        """
        self._clock = clock
        self._workers, self._received, self.leavers = {}, {}, set()
        self._orders = Orders(
            sitting=uuid.uuid4().hex,
            started_unix_s=clock.started_unix_s,
            first_id=max(0, int(clock.now() * 1e6)),
            keep=keep,
            folder=folder,
        )

    def end(self) -> None:
        """The sitting is over: what workers still say of it is dropped."""
        self._clock = self._orders = None

    def order(self, stages: Sequence[StageOrder]) -> None:
        """Tell every worker what its users do from now on, and forget who obeyed before."""
        assert self._orders is not None  # noqa: S101 - for the types: after begin
        self._orders = msgspec.structs.replace(
            self._orders, stages=tuple(stages), count=self._orders.count + 1
        )
        self.greeted, self.problems = set(), {}
        self.send(ORDERS, self._orders)

    def repeat(self, number: int) -> bool:
        """Give the same orders to one that has come later; whether there are any."""
        if self._orders is None or not self._orders.stages:
            return False
        self.send(ORDERS, self._orders, number)
        return True

    def go(self, stage: int, starts_s: float, owners: Sequence[int]) -> None:
        """Begin the schedule of an open loop."""
        self.send(GO, Go(stage=stage, starts_s=starts_s, owners=list(owners)))

    def confirm(self, number: int, report: Report) -> str | None:
        """Let a worker delete its own journal if all its records are kept here.

        Returns:
            What is missing.
        """
        missing = report.handed_over - self._received.get(number, 0)
        if missing > 0:
            return f"{missing} records of worker {number} did not arrive: they are in its journal"
        if self._orders is not None:
            self.send(KEPT, Kept(sitting=self._orders.sitting), number)
        return None

    def send(self, kind: str, message: msgspec.Struct | None = None, to: int | None = None) -> None:
        """A message to one worker, or to all."""
        data: Any = None if message is None else msgspec.msgpack.encode(message)
        for client in list(self._runner.clients.all):
            if to is None or self.number(client.id) == to:
                self._runner.send_message(kind, data, client_id=client.id)

    def number(self, client_id: str) -> int:
        """A worker's number, from 1; 0 is the process that drives the run."""
        return int(self._runner.get_worker_index(client_id)) + 1  # type: ignore[no-untyped-call]

    def present(self) -> set[int]:
        """Numbers of the workers that Locust counts, those that have gone silent left out."""
        silent = {client.id for client in self._runner.clients.missing}
        return {self.number(c.id) for c in self._runner.clients.all if c.id not in silent}

    def infos(self) -> tuple[WorkerInfo, ...]:
        """All that took part in this sitting."""
        return tuple(self._workers[number] for number in sorted(self._workers))

    def called(self, number: int) -> str:
        """How to name a worker to a reader."""
        info = self._workers.get(number)
        return f"worker {number}" if info is None else f"worker {number} ({info.name})"

    def gone(self, number: int, fate: str) -> None:
        """Note that a worker has left, and why."""
        info = self._workers.get(number)
        if info is not None and info.left_s is None and self._clock is not None:
            self._note(number, left_s=self._clock.now(), fate=fate)

    def _note(self, number: int, **changes: Any) -> None:
        self._workers[number] = msgspec.structs.replace(self._workers[number], **changes)

    def _hear(self, kind: str, form: type[Message], tell: Callable[[int, Message], None]) -> None:
        def heard(msg: Any, **_: Any) -> None:
            number = self.number(msg.node_id)
            try:
                message = msgspec.msgpack.decode(msg.data, type=form)
            except (msgspec.DecodeError, TypeError) as error:
                _LOG.warning("worker %d sent no %s of this version: %s", number, kind, error)
                return
            sitting = getattr(message, "sitting", None)
            if sitting is None or (self._orders is not None and sitting == self._orders.sitting):
                tell(number, message)

        self._runner.register_message(kind, heard)

    def _greet(self, number: int, greeting: Greeting) -> None:
        assert self._clock is not None  # noqa: S101 - for the types: of this sitting
        known = self._workers.get(number)
        if known is None:
            self._workers[number] = WorkerInfo(
                number=number, name=greeting.name, joined_s=self._clock.now()
            )
        elif known.left_s is not None and number not in self.leavers:
            self._note(number, left_s=None, fate=None)  # it was only silent
        if self._orders is not None and greeting.count == self._orders.count:
            self.greeted.add(number)
            if greeting.problem is not None:
                self.problems[number] = greeting.problem
            self._ears.greeted(number, greeting.problem)

    def _answer(self, number: int, ping: Ping) -> None:
        assert self._clock is not None  # noqa: S101 - for the types: of this sitting
        pong = Pong(sitting=ping.sitting, sent_s=ping.sent_s, now_s=self._clock.now())
        self.send(CLOCK, pong, number)
        if number in self._workers and ping.offset_s is not None:
            self._note(number, clock_offset_s=ping.offset_s, clock_bound_s=ping.bound_s)

    def _take(self, number: int, batch: Batch) -> None:
        records = [record for record in batch.records if is_sane(record)]
        if len(records) < len(batch.records):
            bad = len(batch.records) - len(records)
            _LOG.warning("worker %d sent %d records that no measurement can give", number, bad)
        self._received[number] = self._received.get(number, 0) + len(records)
        for record in records:
            self._ears.take(number, msgspec.structs.replace(record, worker=number))

    def _leave(self, number: int, _: Leave) -> None:
        self.leavers.add(number)
        self.gone(number, "told to go")
        self._ears.leaving(number)

    def check(self) -> None:
        """See to it that all who answered can obey.

        Raises:
            TargetError: one cannot.
        """
        for number, problem in sorted(self.problems.items()):
            raise TargetError(f"{self.called(number)}: {problem}")
