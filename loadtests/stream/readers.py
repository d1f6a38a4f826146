"""The two ways to receive an answer, behind one call each.

Where the kernel stamps receives, the process's drainer takes them off the socket and this stream's
greenlet sleeps until its message is over. Elsewhere the greenlet receives by itself and the stamp
is the clock's reading when a receive returns.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from loadtests.stream.drainer import Inlet, drainer
from loadtests.stream.kernel_stamps import STAMP, wall_offset_ns
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
        intake.take((data,), (connection.stamp_ns,))


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
                inlet.drain()
                inlet.over = inlet.look() or inlet.broken is not None
            if not inlet.over and time.monotonic() >= intake.deadline()[1]:
                raise intake.silence()
    finally:
        drain.leave(inlet)
        inlet.look()  # of a cancelled stream, what came since the last look
    inlet.check()


class _AnswerInlet(Inlet):
    """An inlet that parses one answer."""

    __slots__ = ("_connection", "_failure", "_intake", "_offset_ns")

    def __init__(self, connection: Connection, intake: Intake) -> None:
        super().__init__(connection.plain_socket)
        self._connection = connection
        self._intake = intake
        self._offset_ns = wall_offset_ns()
        self._failure: WireError | None = None

    def look(self) -> bool:
        """Parse what was received; whether the answer is over."""
        intake, offset_ns = self._intake, self._offset_ns
        pieces, stamps = self.take()
        moments = [s * 1_000_000_000 + ns - offset_ns for s, ns in map(STAMP.unpack, stamps)]
        try:
            if self._connection.encrypted:
                self._take_encrypted(pieces, moments)
            else:
                intake.take(pieces, moments)
        except WireError as error:
            self._failure = error
        self.eager = self._connection.encrypted or not intake.response.chunked
        return self._failure is not None or intake.response.complete

    def _take_encrypted(self, pieces: list[bytes], moments: list[int]) -> None:
        for piece, moment in zip(pieces, moments, strict=True):
            clear = self._connection.decrypt(piece)
            if clear:
                self._intake.take((clear,), (moment,))
            if self._connection.ended:
                self._intake.take((b"",), (moment,))

    def check(self) -> None:
        """Raise what went wrong, if anything did.

        Raises:
            WireError: whatever failed.
        """
        if self._failure is not None:
            raise self._failure
        if not self._intake.response.complete:
            assert self.broken is not None  # noqa: S101 - nothing else ends an inlet
            raise _reset(self.broken) from self.broken
        step_ns = wall_offset_ns() - self._offset_ns
        if abs(step_ns) > _CLOCK_STEP_NS:
            raise WireError(
                "clock_step",
                f"the wall clock was set by {step_ns * 1e-9:+.3f} s while the answer came: "
                "the kernel's receive timestamps cannot be placed",
            )


def _reset(error: OSError) -> WireError:
    return WireError("reset", f"the connection broke: {error}")
