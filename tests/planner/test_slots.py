"""The slots that telemetry shows, on servers whose limit is known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import InputError
from planner.records import EngineLimits, SeenSlots, SlotLimit, TargetInfo, TelemetrySample
from planner.runfolder import Run
from planner.slots import (
    Looks,
    joined,
    looks_at,
    seen_slots,
    slots_from,
    slots_warnings,
    unqueued,
    with_slots,
)
from planner.table import RequestTable
from planner.telemetry import Telemetry
from planner.units import parse_slots
from tests.planner.examples import manifest, stage
from tests.planner.synthetic import target

if TYPE_CHECKING:
    import numpy.typing as npt

REFERENCE = Path(__file__).parents[1] / "reference" / "vllm_requests.csv"
KV_TOKENS = 41_392
"""Of the server of those requests."""


def looks(running: npt.ArrayLike, waiting: npt.ArrayLike, kv: float = 0.1) -> Looks:
    """Looks with as much of the KV cache in use each time."""
    ran, kept = (np.asarray(values, dtype=float) for values in (running, waiting))
    return Looks(ran, kept, np.full(ran.size, kv))


def batching(
    in_flight: int, slots: int, rng: np.random.Generator, *, tokens: float, n: int = 40
) -> Looks:
    """Looks at an engine between two steps: who has ended is gone, who came waits for the next.

    As many end in a step as there are running over the tokens of an answer.
    """
    served = min(in_flight, slots)
    ended = np.minimum(rng.poisson(served / tokens, n), served)
    running = served - ended
    return looks(running, in_flight - running - rng.binomial(ended, 0.5))


@given(
    slots=st.integers(1, 600),
    factor=st.floats(1.25, 20),
    tokens=st.integers(50, 1000),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_limit_is_seen_above_it(slots: int, factor: float, tokens: int, seed: int) -> None:
    """With a quarter more in flight than slots it is told, never too high, to a twentieth exact."""
    rng = np.random.default_rng(seed)
    above = batching(max(slots + 1, round(factor * slots)), slots, rng, tokens=tokens)
    below = batching(max(1, slots // 4), slots, rng, tokens=tokens)
    seen = seen_slots(joined([below, above]))
    assert seen is not None
    assert seen.limit is not None
    assert 0.95 * slots - 1 < seen.limit <= slots
    assert seen.limit == seen.most_running


def test_short_answers_on_few_slots_show_them_too() -> None:
    """Looks at a real vLLM with 8 slots, 16 and 50 in flight, answers of 8 to 24 tokens."""
    running = [7, 7, 7, 8, 6, 8, 8, 7, 7, 8, 7, 6, 7]
    waiting = [8, 7, 8, 8, 8, 6, 42, 41, 40, 41, 41, 42, 42]
    seen = seen_slots(joined([looks([1, 2, 4, 3], [0, 0, 0, 0]), looks(running, waiting)]))
    assert seen == SeenSlots(most_running=8, limit=8, agreeing=11, queued=13, full=0)


@given(in_flight=st.integers(1, 600), tokens=st.integers(16, 1000), seed=st.integers(0, 2**32 - 1))
def test_below_the_limit_none_is_seen(in_flight: int, tokens: int, seed: int) -> None:
    """Who waits for the end of a step does not make a limit, however many come in a step."""
    rng = np.random.default_rng(seed)
    levels = [batching(n, 1000, rng, tokens=tokens) for n in {1, max(1, in_flight // 4), in_flight}]
    seen = seen_slots(joined(levels))
    assert seen is not None
    assert seen.limit is None
    assert seen.most_running <= in_flight
    assert unqueued(seen) >= seen.most_running


@given(mean=st.floats(8, 500), seed=st.integers(0, 2**32 - 1))
def test_a_full_cache_is_no_limit_of_slots(mean: float, seed: int) -> None:
    """Where the memory keeps others waiting nothing is told, however level it looks."""
    rng = np.random.default_rng(seed)
    running = np.minimum(rng.poisson(mean, 60) + 1, round(mean))
    seen = seen_slots(looks(running, np.full(60, 2 * mean), 1 - 2 / mean))  # room for two more
    assert seen is not None
    assert (seen.limit, seen.queued, seen.full) == (None, 0, 60)


def test_a_real_full_cache_is_no_limit_of_slots() -> None:
    """Of vLLM 0.19, 256 slots and memory for some forty: nothing is told but that it was full."""
    prompt, output, queued_s, scheduled_s, first_s, last_s = np.loadtxt(
        REFERENCE, delimiter=",", skiprows=1, unpack=True
    )
    seconds = np.arange(1.0, last_s.max())[:, np.newaxis]
    runs = (scheduled_s <= seconds) & (seconds < last_s)
    made = np.clip((seconds - first_s) / (last_s - first_s), 0, 1) * output
    kv_usage = np.minimum(((prompt + made) * runs).sum(axis=1) / KV_TOKENS, 1)
    waits = (queued_s <= seconds) & (seconds < scheduled_s)
    told = Looks(runs.sum(axis=1).astype(float), waits.sum(axis=1).astype(float), kv_usage)
    seen, blind = seen_slots(told), seen_slots(told._replace(kv_usage=np.full(len(runs), np.nan)))
    assert seen is not None
    assert blind is not None
    assert (seen.limit, blind.limit) == (None, None)
    assert seen.full > 100


@pytest.mark.parametrize("mean", [20.0, 60.0, 200.0, 400.0])
def test_what_goes_up_and_down_is_no_limit(mean: float) -> None:
    """A batch that the lengths decide (the tokens of a step, say) has no highest that recurs."""
    rng = np.random.default_rng(3)
    told = [seen_slots(looks(rng.poisson(mean, 60), np.full(60, mean))) for _ in range(200)]
    assert sum(seen is not None and seen.limit is not None for seen in told) == 0


@pytest.mark.parametrize(
    ("running", "waiting", "limit"),
    [
        ([1, 2, 2, 2], [0, 6, 6, 6], 2),
        ([2, 2], [6, 6], None),  # too few looks
        ([2, 2, 2, 3], [6, 6, 6, 0], None),  # more ran at another moment
        ([4, 4, 4, 4], [0, 0, 0, 0], None),  # nobody waited
        ([4, 4, 4, 0, 0], [4, 4, 4, 9, 9], 4),  # an idle engine is no evidence against it
        ([8, 3, 2, 1, 2, 3, 2, 1, 8, 8, 2, 3, 1], [9] * 13, None),  # a quarter agrees
        ([0, 0], [0, 0], None),
        ([np.nan, np.inf, 1e18, 2, 2, 2], [9] * 6, 2),  # what no server can mean
        ([], [], None),
    ],
)
def test_the_rule(running: list[float], waiting: list[float], limit: int | None) -> None:
    """The most that ran at once, if three looks and half of the crowded ones agree."""
    seen = seen_slots(looks(running, waiting))
    assert (None if seen is None else seen.limit) == limit


def test_looks_come_from_the_best_page() -> None:
    """Figures of one page and moment belong together; what a page does not tell is not known."""
    samples = [
        TelemetrySample(time_s=t, target="a", source=source, values=values)
        for t in (1.0, 2.0)
        for source, values in (
            ("/metrics", {"running": 4.0 + t, "waiting": 1.0} if t > 1 else {"running": 5.0}),
            ("/slots", {"running": 9.0, "kv_usage": 0.5}),
        )
    ]
    found = looks_at(Telemetry.from_samples(samples), "a")
    assert found.running.tolist() == [5, 6]
    assert np.isnan(found.waiting[0])
    assert found.waiting[1] == 1
    assert np.isnan(found.kv_usage).all()
    assert not len(looks_at(Telemetry({}), "a").running)


def test_who_has_the_last_word() -> None:
    """The user, then the server, then what was seen; without any there is none."""
    seen = SeenSlots(most_running=4, limit=4, agreeing=7, queued=9)
    bare = target()
    assert (bare.slot_limit, bare.slots) == (None, None)
    shown = msgspec.structs.replace(bare, slots_seen=seen)
    assert shown.slot_limit == SlotLimit(slots=4, source="seen", agreeing=7, queued=9)
    told = msgspec.structs.replace(shown, limits=EngineLimits(slots=8))
    assert told.slot_limit == SlotLimit(slots=8, source="told")
    given_ = msgspec.structs.replace(told, slots_given=16)
    assert given_.slot_limit == SlotLimit(slots=16, source="given")
    assert given_.slots == 16
    clauses = [slots_from(t.slot_limit) for t in (shown, told, given_) if t.slot_limit]
    assert clauses[0].startswith("as seen: never more ran at once, and about so many did at 7 of 9")
    assert clauses[1:] == ["as the server says", "as given"]


@pytest.mark.parametrize(
    ("told", "given_", "seen", "says"),
    [
        (8, None, SeenSlots(most_running=8, limit=8), []),
        (100, None, SeenSlots(most_running=96, limit=96, agreeing=3, queued=3), []),
        (8, None, SeenSlots(most_running=5), []),
        (8, None, None, []),
        (None, None, SeenSlots(most_running=5, limit=5), []),
        (8, 8, SeenSlots(most_running=8, limit=8), []),
        (8, None, SeenSlots(most_running=4, limit=4, agreeing=7, queued=9),
         ["it says that it has 8 slots, but while others waited no more than 4 ran at once, at 7"]),
        (1, None, SeenSlots(most_running=2), ["it says that it has 1 slot, but 2 ran at once"]),
        (8, 16, None, ["it was given 16 slots, but it says that it has 8; what is given counts"]),
        (None, 16, SeenSlots(most_running=20), ["it was given 16 slots, but 20 ran at once"]),
    ],
)  # fmt: skip
def test_what_differs_is_warned_of(
    told: int | None, given_: int | None, seen: SeenSlots | None, says: list[str]
) -> None:
    """Each pair that differs by more than looks can tell is named with both numbers."""
    found = slots_warnings(target("a", slots=told, slots_given=given_, slots_seen=seen))
    assert len(found) == len(says)
    for text, part in zip(found, says, strict=True):
        assert text.startswith("a: ")
        assert part in text


def test_slots_given_to_runs() -> None:
    """By name; one that was not measured is refused, one that a file declares is passed over."""
    empty = RequestTable.from_records([])
    run = Run(
        Path("run"), manifest(stage(1, end=9.0), targets=(target("a"), target("b"))), empty, {}
    )
    (found,) = with_slots([run], {"a": 4}, declared={"a": 9, "b": 5, "c": 6})
    assert [t.slots_given for t in found.manifest.targets] == [4, 5]
    with pytest.raises(InputError, match="--slots c=6 names no target that was measured: there"):
        with_slots([run], {"c": 6}, declared={})


def test_targets_of_older_folders_have_none() -> None:
    """A manifest without these fields is read; one with slots out of bounds is not."""
    old = b'{"name":"a","backend":"vllm","url":"http://h:1"}'
    read = msgspec.json.decode(old, type=TargetInfo)
    assert (read.slots, read.slots_given, read.slots_seen) == (None, None, None)
    with pytest.raises(msgspec.ValidationError, match=">= 1"):
        msgspec.json.decode(old[:-1] + b',"slots_given":0}', type=TargetInfo)


@pytest.mark.parametrize(
    "text", ["vllm", "=4", "vllm=", "vllm=0", "vllm=-1", "vllm=2.5", "vllm=100001", "vllm=1e3"]
)
def test_slots_that_cannot_be_read(text: str) -> None:
    """A name and a whole number within bounds, or one line that says so."""
    with pytest.raises(InputError, match="write TARGET=NUMBER, a whole number from 1 to 100000"):
        parse_slots(text)
    assert parse_slots(" a=b = 16 ") == ("a=b", 16)
