"""The server's view beside the client's, on runs whose both views are known in closed form."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.parts import part_of
from planner.records import (
    ClientFacts,
    RequestRecord,
    RunManifest,
    StageInfo,
    TargetInfo,
    TelemetrySample,
    Workload,
)
from planner.runfolder import Run
from planner.server_view import server_view
from planner.table import RequestTable
from planner.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from planner.records import ServerView

LANES, TOKENS, LONG_S, TTFT_S, STAGE_S = 4, 100, 2.0, 0.5, 60.0


def a_run() -> Run:
    """Four lanes, staggered by half a second, of requests of 2 s: 4 in flight at any moment."""
    records = [
        RequestRecord(
            id=100 * lane + turn, stage=0, target="a", backend="vllm", user=lane,
            scheduled_s=begun, sent_s=begun, first_token_s=begun + TTFT_S, ended_s=begun + LONG_S,
            output_tokens=TOKENS, status="ok",
        )
        for lane in range(LANES)
        for turn in range(int(STAGE_S / LONG_S))
        for begun in [lane * LONG_S / LANES + turn * LONG_S]
    ]  # fmt: skip
    stage = StageInfo(
        index=0, target="a", load_kind="concurrency", load=LANES, started_s=0.0, ended_s=STAGE_S
    )
    manifest = RunManifest(
        headroom_version="0", started_unix_s=0.0, state="complete", seed=1,
        targets=(TargetInfo(name="a", backend="vllm", url="http://h:1"),),
        workload=Workload(prompt_tokens="10", output_tokens="100"), stages=(stage,),
        client=ClientFacts(platform="p", cpu_count=1, python="3", clock="c"),
    )  # fmt: skip
    return Run(Path("nowhere"), manifest, RequestTable.from_records(records), {})


RUN = a_run()
TABLE = RUN.requests


def look(time_s: float, source: str = "/metrics", /, **values: float) -> TelemetrySample:
    """One sample of the run's target."""
    return TelemetrySample(time_s=time_s, target="a", source=source, values=values)


def honest(time_s: float) -> dict[str, float]:
    """What an exact server tells at a moment."""
    in_flight = np.count_nonzero((time_s >= TABLE.sent_s) & (time_s < TABLE.ended_s))
    share = np.clip((time_s - TABLE.first_token_s) / (LONG_S - TTFT_S), 0, 1)
    first = time_s >= TABLE.first_token_s
    return {
        "running": min(float(in_flight), 3.0),
        "waiting": max(float(in_flight) - 3.0, 0.0),
        "kv_usage": 0.25,
        "output_tokens_total": 7e6 + TOKENS * float(share.sum()),
        "ttft_s_count": float(first.sum()),
        "ttft_s_sum": TTFT_S * float(first.sum()),
        "preemptions_total": 5.0,
        "scrape_s": 0.01,
    }


def view_of(samples: Iterable[TelemetrySample]) -> ServerView:
    """The server's view of the run's one stage."""
    found = server_view(Telemetry.from_samples(samples), (part_of(RUN, RUN.manifest.stages[0]),))
    assert found is not None
    return found


def told(change: Callable[[dict[str, float]], dict[str, float]] = lambda v: v) -> ServerView:
    """The view by an exact server whose figures were changed, asked each second."""
    moments = np.arange(0.3, STAGE_S, 1.0)
    return view_of(look(float(t), **change(honest(float(t)))) for t in moments)


def test_an_exact_server_agrees_exactly() -> None:
    """Gauges, TTFT and tokens of an exact server are the client's; nothing is flagged."""
    view = told()
    assert (view.running_mean, view.waiting_mean) == (3.0, 1.0)
    assert view.client_in_flight_mean == LANES
    assert (view.kv_usage_mean, view.kv_usage_max) == (0.25, 0.25)
    assert view.ttft_mean_s == pytest.approx(TTFT_S)
    assert view.client_ttft_mean_s == pytest.approx(TTFT_S)
    assert view.output_tokens_per_s == pytest.approx(LANES * TOKENS / LONG_S, rel=0.02)
    assert view.client_output_tokens_per_s == pytest.approx(view.output_tokens_per_s, rel=1e-3)
    assert (view.preemptions, view.missed, view.disagreements) == (0, 0, ())
    assert view.samples > 30
    assert view.memory_bytes_max is view.joules_per_output_token is view.cpu_cores_mean is None


def test_requests_of_somebody_else_are_flagged() -> None:
    """Two more requests running than ours are told with both numbers, and where they come from."""
    view = told(lambda v: v | {"running": v["running"] + 2})
    (text,) = view.disagreements
    assert text.startswith("a at 4 in flight: the server counted 6 requests running or waiting")
    assert "the client had 4 in flight" in text
    assert "somebody else's requests" in text


def test_half_a_request_is_within_tolerance() -> None:
    """What lies within the stated tolerance is no disagreement."""
    assert told(lambda v: v | {"running": v["running"] + 1}).disagreements == ()


def test_requests_that_wait_outside_are_flagged() -> None:
    """A server that counts half of what is in flight has a queue that it does not count."""
    (text,) = told(lambda v: v | {"running": 1.0}).disagreements
    assert "requests wait where the server does not count them" in text


def test_tokens_of_somebody_else_are_flagged() -> None:
    """A counter that grows half as fast again holds somebody else's tokens."""
    view = told(lambda v: v | {"output_tokens_total": 1.5 * v["output_tokens_total"]})
    (text,) = view.disagreements
    assert "the server counted 300 output tokens/s, the client 200" in text
    assert "somebody else's load" in text


def test_a_slow_way_to_the_client_is_flagged() -> None:
    """A server that believes in a TTFT far below the client's is told so, both in milliseconds."""
    (text,) = told(lambda v: v | {"ttft_s_sum": 0.2 * v["ttft_s_sum"]}).disagreements
    assert "the client's mean TTFT is 500 ms, the server's own 100 ms" in text


def test_an_invalid_stage_blames_nobody() -> None:
    """Where the client was the limit its own figures are off: no way between is to blame."""
    moments = np.arange(0.3, STAGE_S, 1.0)
    slow = [look(float(t), **honest(float(t)) | {"running": 9.0}) for t in moments]
    telemetry = Telemetry.from_samples(slow)
    (stage,) = RUN.manifest.stages
    for invalid, told in ((None, 1), ("the client was the limit", 0)):
        changed = msgspec.structs.replace(stage, invalid=invalid)
        view = server_view(telemetry, (part_of(RUN, changed),))
        assert view is not None
        assert view.running_mean == 9
        assert len(view.disagreements) == told


def test_tokens_counted_at_the_end_are_compared_at_the_end() -> None:
    """llama.cpp counts a request's tokens when it ends: so does the client for it."""

    def change(values: dict[str, float]) -> dict[str, float]:
        return {name: v for name, v in values.items() if name != "output_tokens_total"}

    moments = np.arange(0.3, STAGE_S, 1.0)
    view = view_of(
        look(
            float(t),
            **change(honest(float(t))),
            finished_output_tokens_total=float(TOKENS * (TABLE.ended_s <= t).sum()),
        )
        for t in moments
    )
    assert view.output_tokens_per_s == view.client_output_tokens_per_s
    assert view.disagreements == ()


def test_a_restarted_server_has_no_rates() -> None:
    """A counter that falls was begun anew: no rate is made of it, and nothing is flagged."""
    view = view_of(
        look(float(t), **(honest(t) if t < 30 else honest(t) | {"output_tokens_total": t}))
        for t in np.arange(0.3, STAGE_S, 1.0).tolist()
    )
    assert view.output_tokens_per_s is view.client_output_tokens_per_s is None
    assert view.ttft_mean_s is not None
    assert view.disagreements == ()


def test_missed_looks_are_counted_and_nothing_is_zero() -> None:
    """A server that never answers in time has missed looks, and no figure at all."""
    view = view_of(look(float(t), missed=1.0) for t in range(60))
    assert view.missed > 30
    assert view.samples == 0
    figures = (view.running_mean, view.waiting_mean, view.kv_usage_mean, view.output_tokens_per_s)
    assert figures == (None,) * 4
    assert view.disagreements == ()


def test_without_samples_there_is_no_view() -> None:
    """Where nobody looked, or only outside of the window, there is no view."""
    part = part_of(RUN, RUN.manifest.stages[0])
    assert server_view(Telemetry({}), (part,)) is None
    late = Telemetry.from_samples([look(1000.0, running=1.0)])
    assert server_view(late, (part,)) is None


@pytest.mark.parametrize("counter", [True, False])
def test_energy_is_joules_over_the_clients_tokens(counter: bool) -> None:
    """300 W on the server's GPU for 200 tokens/s are 1.5 J each; a GPU beside it does not count."""

    def gpu(t: float, name: str, power_w: float, serves: float) -> TelemetrySample:
        energy = {"energy_j_total": 1e6 + power_w * t} if counter else {}
        values = {"power_w": power_w, "serves": serves, "utilisation": 0.5, "memory_bytes": 1e9}
        return look(t, name, **values, **energy)

    moments = np.arange(0.3, STAGE_S, 1.0).tolist()
    samples = [gpu(t, "gpu0", 300.0, 1.0) for t in moments]
    samples += [gpu(t, "gpu1", 500.0, 0.0) for t in moments]
    view = view_of(samples)
    assert view.joules_per_output_token == pytest.approx(1.5, rel=0.02)
    assert view.power_w_mean == pytest.approx(300.0)
    assert (view.gpu_utilisation_mean, view.gpu_memory_bytes_max) == (0.5, 1e9)


def test_gpus_that_serve_somebody_else_give_no_energy() -> None:
    """Energy of a GPU on which the server was not seen is not ascribed to it."""
    view = view_of(look(float(t), "gpu0", power_w=300.0, serves=0.0) for t in range(60))
    assert view.power_w_mean is view.joules_per_output_token is None


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(list(honest(1.0))), st.floats(0, 1e15), min_size=1, max_size=8
        ),
        max_size=30,
    )
)
def test_no_figures_of_a_server_break_the_comparison(figures: list[dict[str, float]]) -> None:
    """Whatever finite figures a server tells, the view is finite or unknown, shares stay shares."""
    samples = [look(20.0 + number, **values) for number, values in enumerate(figures)]
    part = part_of(RUN, RUN.manifest.stages[0])
    view = server_view(Telemetry.from_samples(samples), (part,))
    if view is None:
        return
    for value in (view.running_mean, view.ttft_mean_s, view.output_tokens_per_s):
        assert value is None or (np.isfinite(value) and value >= 0)
    assert all(len(text) < 400 for text in view.disagreements)


def test_columns_and_samples_make_the_same_series() -> None:
    """A table in long format, in any order of its rows, is read as the samples were."""
    samples = [look(float(t), running=t * 1.0, waiting=2.0 * t) for t in range(5)]
    rows = [
        (s.time_s, (0, 0, ["running", "waiting"].index(n)), v)
        for s in samples
        for n, v in s.values.items()
    ]
    rows = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]
    codes = np.array([row[1] for row in rows])
    words = (["a"], ["/metrics"], ["running", "waiting"])
    texts = [(list(w), codes[:, i]) for i, w in enumerate(words)]
    read = Telemetry.from_columns(
        np.array([row[0] for row in rows]), texts, np.array([row[2] for row in rows])
    )
    written = Telemetry.from_samples(samples)
    assert read.series.keys() == written.series.keys()
    for key, series in read.series.items():
        assert series.time_s.tolist() == written.series[key].time_s.tolist()
        assert series.value.tolist() == written.series[key].value.tolist()
