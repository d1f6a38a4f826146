"""Stages of several targets at once: they begin together and they end together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from planner.records import StageInfo

__all__ = ["Neighbours", "interrupted", "outcome_of"]


class Neighbours:
    """What stages that share their time know of each other.

    None may end alone: from then on the others would share the machine with fewer.

    Attributes:
        over: why all of them must end, once that is so.
    """

    def __init__(self, targets: Iterable[str]) -> None:
        """Expect these targets to become steady."""
        self._waiting = set(targets)
        self.over: str | None = None

    def steady(self, target: str) -> bool:
        """Take note that a target's figures are known; whether those of all are."""
        self._waiting.discard(target)
        return not self._waiting

    def waiting(self) -> str:
        """Whom the others wait for, for a progress bar."""
        return ", ".join(sorted(self._waiting))

    def end(self, target: str, reason: str) -> None:
        """Take note that a target's stage is over; the others follow."""
        if self.over is None:
            self.over = reason if reason in ("steady", "time limit") else f"{target}: {reason}"


def interrupted(stage: StageInfo, now_s: float) -> StageInfo:
    """A stage that was cut off at a moment."""
    return msgspec.structs.replace(stage, ended_s=now_s, stop_reason="interrupted")


def outcome_of(
    run: Callable[..., StageInfo], *given: object, neighbours: Neighbours, **named: object
) -> StageInfo | Exception:
    """The ended stage, or the exception that ended it and with it the others."""
    try:
        return run(*given, neighbours=neighbours, **named)
    except Exception as error:  # noqa: BLE001 - raised again where the command waits
        neighbours.over = "interrupted"
        return error
