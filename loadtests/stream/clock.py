"""The run clock: seconds since the run's start, on the monotonic clock."""

from __future__ import annotations

import time

__all__ = ["Clock"]


class Clock:
    """Monotonic seconds since the run's start.

    Processes that share a run give the same ``started_unix_s``; their clocks then agree as well as
    the wall clock was read at their construction (microseconds on one machine).

    Attributes:
        started_unix_s: when the run started.
        zero_ns: reading of ``time.monotonic_ns()`` at that moment.
    """

    __slots__ = ("started_unix_s", "zero_ns")

    def __init__(self, started_unix_s: float | None = None) -> None:
        """Start the clock.

        Args:
            started_unix_s: when the run started, in Unix seconds; now where it is ``None``.
        """
        mono_ns, unix_ns = time.monotonic_ns(), time.time_ns()
        self.started_unix_s = unix_ns * 1e-9 if started_unix_s is None else started_unix_s
        elapsed_ns = 0 if started_unix_s is None else unix_ns - round(started_unix_s * 1e9)
        self.zero_ns = mono_ns - elapsed_ns

    def now(self) -> float:
        """Seconds since the run's start."""
        return (time.monotonic_ns() - self.zero_ns) * 1e-9

    def at_ns(self, mono_ns: int) -> float:
        """Seconds since the run's start, of a reading of ``time.monotonic_ns()``."""
        return (mono_ns - self.zero_ns) * 1e-9
