"""What the client reads of itself, and what its readings forbid."""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING, Any

import gevent
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.measure import validity
from loadtests.measure.validity import ClientProbe, ClientReadings, check_limits, client_problem
from planner.errors import InputError
from planner.records import RequestRecord

if TYPE_CHECKING:
    from pathlib import Path

GOOD: dict[str, Any] = {
    "cpu_share": 0.3,
    "run_queue_share": 0.02,
    "loop_lag_p99_s": 0.002,
    "kernel_stamps": True,
    "late_mean_s": 0.0001,
    "late_p99_s": 0.001,
    "request_mean_s": 2.0,
    "coalesced_share": 0.001,
    "gap_mean_s": 0.02,
}


def problem(**changes: Any) -> str | None:
    """The problem of good readings with some changed."""
    return client_problem(ClientReadings(**(GOOD | changes)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"cpu_share": 0.95}, "used 95% of its one core (bound 90%)"),
        ({"run_queue_share": 0.6}, "waited 60% of the time for a processor (bound 50%)"),
        ({"run_queue_share": None}, None),
        ({"late_mean_s": 0.2}, "200 ms late in the mean, 10% of a request's duration"),
        ({"late_mean_s": None, "request_mean_s": None}, None),
        ({"loop_lag_p99_s": 0.05}, None),  # the kernel stamps arrivals
        ({"loop_lag_p99_s": 0.05, "kernel_stamps": False}, "50.0 ms late at its 99th percentile"),
        ({"coalesced_share": 0.4}, None),  # a prompt loop: the server sent them together
        ({"coalesced_share": 0.4, "loop_lag_p99_s": 0.05}, "40% of the content events"),
        ({"coalesced_share": 0.4, "loop_lag_p99_s": 0.05, "gap_mean_s": None}, None),
    ],
)
def test_what_readings_forbid(changes: dict[str, Any], words: str | None) -> None:
    """Each bound has its own words; what the client cannot be blamed for is no problem."""
    found = problem(**changes)
    if words is None:
        assert found is None
    else:
        assert found is not None
        assert words in found
        assert "it was the limit, not the server" in found


@given(st.floats(0, 2), st.floats(0, 1), st.floats(0, 0.5), st.booleans())
def test_worse_readings_are_never_better(
    cpu: float, waited: float, lag_s: float, stamps: bool
) -> None:
    """A reading that is forbidden stays so when everything is worse."""
    worse = {"cpu_share": cpu + 0.1, "run_queue_share": waited, "loop_lag_p99_s": lag_s + 0.1}
    better = {"cpu_share": cpu, "run_queue_share": waited, "loop_lag_p99_s": lag_s}
    if problem(**better, kernel_stamps=stamps) is not None:
        assert problem(**worse, kernel_stamps=stamps) is not None


def record(**changes: Any) -> RequestRecord:
    """A request of a second, connected in 10 ms, sent 5 ms late, with three events."""
    fields: dict[str, Any] = {
        "id": 0, "stage": 0, "target": "t", "backend": "openai", "user": 0,
        "scheduled_s": 1.0, "sent_s": 1.015, "connect_s": 0.010, "first_token_s": 1.5,
        "ended_s": 2.0, "gaps_s": np.array([0.25, 0.25], "<f4").tobytes(), "status": "ok",
        "coalesced_share": 1 / 3,
    }  # fmt: skip
    return RequestRecord(**(fields | changes))


def test_records_tell_how_the_client_sent_and_received() -> None:
    """Lateness leaves connecting out; shares are of events; failed requests do not count."""
    probe = ClientProbe()
    probe.see(record())
    probe.see(record(sent_s=1.025, gaps_s=b"", coalesced_share=0.0))
    probe.see(record(status="cancelled", sent_s=9.0))
    readings = probe.stop()
    assert readings.late_mean_s == pytest.approx(0.010)
    assert readings.late_p99_s == pytest.approx(0.0149)
    assert readings.request_mean_s == pytest.approx(1.0)
    assert readings.coalesced_share == pytest.approx(1 / 4)
    assert readings.gap_mean_s == pytest.approx(1.0)  # one of its two gaps is no gap


def test_no_records_are_no_figures() -> None:
    """Without an answered request nothing is said about requests, and nothing is forbidden."""
    probe = ClientProbe()
    gevent.sleep(0.12)
    readings = probe.stop()
    assert (readings.late_mean_s, readings.coalesced_share) == (None, None)
    assert readings.cpu_share >= 0
    assert readings.loop_lag_p99_s >= 0


def test_a_blocked_loop_is_seen() -> None:
    """Code that does not yield shows as the loop's lag."""
    probe = ClientProbe()
    gevent.sleep(0.06)
    time.sleep(0.2)
    gevent.sleep(0.06)
    assert probe.stop().loop_lag_p99_s > 0.1


def test_open_files_are_made_room_for() -> None:
    """The soft limit is raised where the hard one allows it; beyond, the load is refused."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        check_limits(100)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 228
        check_limits(50)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 228
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_too_few_open_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hard limit below the need is told with what is needed and the remedy."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 512))
    with pytest.raises(InputError, match=r"needs 1128 open files at once and the limit is 512"):
        check_limits(1000)


def test_too_few_ports_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """So is a load with more connections than ports; an unreadable range is let pass."""
    monkeypatch.setattr(validity, "_check_files", lambda _: None)
    monkeypatch.setattr(validity, "_PORT_RANGE", tmp_path / "range")
    check_limits(30_000)
    (tmp_path / "range").write_text("32768\t33767\n")
    check_limits(800)
    with pytest.raises(InputError, match=r"801 connections .* has 800 to spare \(32768-33767\)"):
        check_limits(801)
