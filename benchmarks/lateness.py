"""How late an open loop sends, in a process of its own; one JSON line on stdout.

::

    python -m benchmarks.lateness URL RATE_PER_S SECONDS CPU

Poisson arrivals of 50-token answers by the code path of ``headroom measure --rate``. Two figures:
what the client says (its stamp of sending minus the schedule) and what the server saw (the kernel's
stamp of the request's arrival minus the schedule), which nobody can flatter.
"""

from __future__ import annotations

import locust  # isort: skip  # noqa: F401 - first of all: it patches what the others import
import logging
import os
import re
import sys
from typing import TYPE_CHECKING

import gevent
import msgspec
import numpy as np
from locust.env import Environment

from benchmarks.scenario import Error, Lateness, Reading
from loadtests.measure.proving import TruthDialect, reference_session
from loadtests.openloop import ArrivalUser, OpenLoad, OpenLoop
from loadtests.stream import settle_memory
from loadtests.traffic.arrivals import parse_arrivals
from planner.records import StageInfo

if TYPE_CHECKING:
    from planner.records import RequestRecord

__all__ = ["main"]

_TOKENS = "50"
_RECEIVED = re.compile(r" R(\d{16})")


def measure(url: str, rate_per_s: float, seconds: float) -> Lateness:
    """Send on schedule for a while."""
    dialect = TruthDialect()
    session = reference_session(url, dialect, outputs=_TOKENS)
    stage = StageInfo(index=0, target="reference", load_kind="rate", load=rate_per_s,
                      arrivals="poisson", started_s=0.0)  # fmt: skip
    load = OpenLoad(pattern=parse_arrivals("poisson"), max_in_flight=10_000)
    loop = OpenLoop(session, stage, load)
    kept: list[tuple[RequestRecord, str]] = []
    session.sink = lambda record: kept.append((record, dialect.text))
    user_class = type("OurArrivals", (ArrivalUser,), {"host": url, "loop": loop})
    environment = Environment(user_classes=[user_class])
    runner = environment.create_local_runner()
    settle_memory()
    before = Reading.now()
    runner.start(1, spawn_rate=1)
    gevent.sleep(seconds)
    after = Reading.now()
    zero_s = -session.clock.at_ns(0)
    said, true = [], []
    for record, text in kept:
        received = _RECEIVED.search(text)
        if record.status != "ok" or received is None:
            continue
        said.append(record.sent_s - record.due_s)
        true.append(int(received[1]) * 1e-9 - zero_s - record.scheduled_s)
    wall_s = after.at_s - before.at_s
    return Lateness(
        requests=len(said),
        said=_quantiles(said),
        true=_quantiles(true),
        waited_share=(after.waited_s - before.waited_s) / wall_s,
        cpu_share=(after.cpu_s - before.cpu_s) / wall_s,
    )


def _quantiles(late_s: list[float]) -> Error:
    if not late_s:
        return Error(p50_s=None, p99_s=None)
    p50_s, p99_s = np.quantile(late_s, (0.5, 0.99))
    return Error(p50_s=float(p50_s), p99_s=float(p99_s))


def main() -> None:
    """Run and print."""
    url, rate, seconds, cpu = sys.argv[1:]
    os.sched_setaffinity(0, {int(cpu)})
    logging.getLogger("locust.runners").setLevel(logging.ERROR)
    print(msgspec.json.encode(measure(url, float(rate), float(seconds))).decode(), flush=True)
    os._exit(0)  # Locust's own end takes its time


if __name__ == "__main__":
    main()
