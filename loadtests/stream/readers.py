"""The two ways to receive an answer, behind one call each.

Where the kernel stamps receives, the process's drainer takes them off the socket and this stream's
greenlet sleeps until its message is over. Elsewhere the greenlet receives by itself and the stamp
is the clock's reading when a receive returns.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from loadtests.stream.drainer import Inlet, drainer, open_source
from loadtests.stream.sources import wall_offset_ns
from planner.errors import WireError

if TYPE_CHECKING:
    from loadtests.stream.connection import Connection
    from loadtests.stream.intake import Intake

__all__ = ["receive_drained", "receive_here"]

_CLOCK_STEP_NS = 1_000_000


def receive_here(connection: Connection, intake: Intake) -> None:
    """Receive in this greenlet until the message ends.

    Raises:
        WireError: whatever failed.
    """
    while not intake.response.complete:
        try:
            data = connection.receive(intake.deadline()[1])
        except TimeoutError as error:
            raise intake.silence() from error
        except OSError as error:
            raise _reset(error) from error
        intake.take(data, [len(data)], [connection.stamp_ns])


def receive_drained(connection: Connection, intake: Intake) -> None:
    """Let the drainer receive until the message ends.

    Raises:
        WireError: whatever failed.
    """
    inlet = _AnswerInlet(connection, intake)
    drain = drainer()
    drain.join(inlet)
    try:
        while not inlet.over:
            drain.wait(inlet, intake.patience_s())
            if not inlet.over:  # the deadline may have moved, or the drainer may be late
                inlet.source.drain()
                inlet.over = inlet.look() or inlet.source.broken is not None
            if not inlet.over and time.monotonic() >= intake.deadline()[1]:
                raise intake.silence()
    finally:
        drain.leave(inlet)
        if inlet.source.waiting:  # of a cancelled stream, what came since the last look
            inlet.look()
    inlet.check()


class _AnswerInlet(Inlet):
    """An inlet that parses one answer."""

    __slots__ = ("_connection", "_failure", "_intake", "_offset_ns")

    def __init__(self, connection: Connection, intake: Intake) -> None:
        if connection.source is None:
            connection.source = open_source(connection.plain_socket)
        connection.source.eager = True
        super().__init__(connection.source)
        self._connection = connection
        self._intake = intake
        self._offset_ns = wall_offset_ns()
        self._failure: WireError | None = None

    def look(self) -> bool:
        """Parse what was received; whether the answer is over."""
        data, ends, moments = self.take(self._offset_ns)
        try:
            if self._connection.encrypted:
                self._take_encrypted(data, ends, moments)
            else:
                self._intake.take(data, ends, moments)
        except WireError as error:
            self._failure = error
        response = self._intake.response
        self.source.eager = self._connection.encrypted or not response.chunked
        return self._failure is not None or response.complete

    def _take_encrypted(self, data: bytes, ends: list[int], moments: list[int]) -> None:
        response = self._intake.response
        for start, end, moment in zip([0, *ends], ends, moments, strict=False):
            if response.complete:  # a goodbye, or what nobody asked for
                response.reusable = False
                return
            clear = self._connection.decrypt(data[start:end])
            if clear:
                self._intake.take(clear, [len(clear)], [moment])
            if self._connection.ended:
                self._intake.take(b"", [0], [moment])

    def check(self) -> None:
        """Raise what went wrong, if anything did.

        Raises:
            WireError: whatever failed.
        """
        if self._failure is not None:
            raise self._failure
        if not self._intake.response.complete:
            broken = self.source.broken
            assert broken is not None  # noqa: S101 - nothing else ends an inlet
            raise _reset(broken) from broken
        step_ns = wall_offset_ns() - self._offset_ns
        if abs(step_ns) > _CLOCK_STEP_NS:
            raise WireError(
                "clock_step",
                f"the wall clock was set by {step_ns * 1e-9:+.3f} s while the answer came: "
                "the kernel's receive timestamps cannot be placed",
            )


def _reset(error: OSError) -> WireError:
    return WireError("reset", f"the connection broke: {error}")
