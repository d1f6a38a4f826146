"""One worker's share of an open loop whose schedule is everybody's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gevent

from loadtests.openloop import OpenLoad, OpenLoop
from loadtests.orders import Over

if TYPE_CHECKING:
    from locust.env import Environment

    from loadtests.measure.session import Session
    from loadtests.orders import StageOrder

__all__ = ["OwnArrivals", "share_of"]


def share_of(total: int, place: int, of: int) -> int:
    """One of so many nearly equal parts of a number; at least 1, which only few parts exceed."""
    return max(1, total // of + (place < total % of))


class OwnArrivals:
    """Sends every ``of``-th arrival from the ``place``-th on."""

    def __init__(
        self, session: Session, order: StageOrder, *, place: int, of: int, starts_s: float
    ) -> None:
        """Take a share.

        Args:
            session: of the target.
            order: of a stage of kind ``rate``.
            place: which share, from 0.
            of: how many there are.
            starts_s: when the schedule begins, on the session's clock.
        """
        assert order.arrivals is not None  # noqa: S101 - for the types: of a stage of kind rate
        load = OpenLoad(
            pattern=order.arrivals.pattern(),
            max_in_flight=share_of(order.arrivals.max_in_flight, place, of),
        )
        self._stage = order.stage.index
        self._loop = OpenLoop(session, order.stage, load, place=place, of=of, starts_s=starts_s)
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def run(self, environment: Environment) -> Over | None:
        """Send until the schedule ends, or too much is in flight; ``None``: it was stopped."""
        self._greenlet = gevent.spawn(self._loop.run, environment)
        self._greenlet.join()
        if self._loop.over is None:
            return None
        return Over(stage=self._stage, reason=self._loop.over, overflow=self._loop.overflow)

    def stop(self) -> None:
        """Send no more, and cut off what is in flight."""
        if self._greenlet is not None:
            self._greenlet.kill()
        self._loop.stop()
