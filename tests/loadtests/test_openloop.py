"""An open loop end to end: nothing waits for an answer, whatever the server does."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest

from loadtests.resolve import load_of
from loadtests.traffic.arrivals import parse_arrivals
from planner.errors import InputError
from planner.runfolder import read_records, read_run
from planner.steady import steady_window
from planner.summary import operating_points
from tests.loadtests.measure.driving import SHORT, Done, headroom, one_line
from tests.loadtests.measure.fakes import Chat
from tests.loadtests.servers import serving

if TYPE_CHECKING:
    from pathlib import Path


def _measure(chat: Chat, out: Path, *options: object, first: str = "") -> Done:
    with serving(chat) as server:
        done = headroom(
            "measure", f"openai={server.url}", *SHORT, *options, "--out", out, first=first
        )
    assert "Traceback" not in done.err
    return done


def test_slow_server_is_asked_as_often(tmp_path: Path) -> None:
    """Answers of a second do not slow 20 arrivals/s; a closed loop of one would ask thrice."""
    out, chat = tmp_path / "run", Chat(slow_after=2, slow_s=1.0)
    done = _measure(chat, out, "--rate", "20/s", "--arrivals", "constant", "--duration", "3s")
    assert done.code == 0, done.err
    assert "openai: 20 requests/s" in done.err
    run = read_run(out)
    (stage,) = run.manifest.stages
    assert (stage.load_kind, stage.load, stage.arrivals) == ("rate", 20, "constant")
    assert stage.send_late_p50_s is not None
    assert stage.send_late_p99_s is not None
    assert 0 <= stage.send_late_p50_s <= stage.send_late_p99_s
    records = sorted(read_records(out), key=lambda record: record.scheduled_s)
    assert stage.ended_s is not None
    due_s = np.array([record.scheduled_s for record in records])
    assert np.diff(due_s) == pytest.approx(1 / 20, abs=1e-6)  # absolute: no sleep adds up
    assert len(records) >= 20 * 3 - 2
    assert all(record.sent_s >= record.scheduled_s for record in records)
    opened = [record for record in records if record.connect_s is not None]
    assert len(opened) >= 15  # each was opened before it was needed: nobody waited for it
    assert [record.connect_ahead_s for record in opened] == [r.connect_s for r in opened]
    assert {record.status for record in records} == {"ok", "cancelled"}
    # Little's law: 20/s of a second each are 20 in flight, of whom the end cuts off as many.
    assert sum(record.status == "cancelled" for record in records) >= 15


def test_schedule_and_lengths_are_the_seeds(tmp_path: Path) -> None:
    """The same seed sends the same lengths in the same order at the same moments."""
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        limits = ("--rate", "40/s", "--duration", "2s", "--seed", seed)
        assert _measure(Chat(), tmp_path / name, *limits).code == 0
    drawn = {}
    for name in "abc":
        good = sorted(read_records(tmp_path / name), key=lambda record: record.scheduled_s)
        gaps = np.diff([record.scheduled_s for record in good])[:50]
        drawn[name] = ([record.output_tokens for record in good][:50], gaps)
    assert drawn["a"][0] == drawn["b"][0] != drawn["c"][0]
    assert drawn["a"][1] == pytest.approx(drawn["b"][1], abs=1e-6)
    assert drawn["a"][1] != pytest.approx(drawn["c"][1], abs=1e-6)


def test_overload_ends_the_stage(tmp_path: Path) -> None:
    """Arrivals beyond the bound never wait: the stage ends, invalid, and nobody may plan on it."""
    out, chat = tmp_path / "run", Chat(slow_after=2, slow_s=60.0)
    limits = ("--rate", "50/s", "--duration", "30s", "--max-in-flight", "12")
    assert _measure(chat, out, *limits).code == 0
    run = read_run(out)
    (stage,) = run.manifest.stages
    assert stage.stop_reason == "in-flight limit"
    assert stage.invalid is not None
    assert "12 requests were in flight" in stage.invalid
    assert [record.status for record in read_records(out)] == ["cancelled"] * 12
    (point,) = operating_points(run)
    assert not point.usable
    assert steady_window(run.requests, stage, now_s=0).reason is not None


def test_late_sends_make_the_stage_invalid(tmp_path: Path) -> None:
    """A client whose loop stands still half of the time says so, and TTFT holds the lateness."""
    stall = (
        "import locust, gevent, time\n"
        "def stall():\n"
        "    while True:\n"
        "        gevent.sleep(0.05)\n"
        "        end = time.perf_counter() + 0.05\n"
        "        while time.perf_counter() < end: pass\n"
        "gevent.spawn(stall)\n"
    )
    out = tmp_path / "run"
    limits = ("--rate", "50/s", "--arrivals", "constant", "--duration", "3s")
    assert _measure(Chat(), out, *limits, first=stall).code == 0
    run = read_run(out)
    (stage,) = run.manifest.stages
    assert stage.send_late_p99_s is not None
    assert stage.send_late_p99_s > 0.02
    assert stage.invalid is not None
    assert not operating_points(run)[0].usable
    late_s = run.requests.ttft_s - run.requests.ttft_from_send_s
    assert np.nanmax(late_s) > 0.02


def test_trace_ends_the_stage(tmp_path: Path) -> None:
    """A trace at its own rate sends each of its requests once, when it was sent."""
    ms = list(itertools.accumulate((0, 300, 10, 400, 10, 10, 500, 200)))
    trace = tmp_path / "t.jsonl"
    trace.write_text(
        "".join(f'{{"timestamp":{at},"input_length":9,"output_length":9}}\n' for at in ms)
    )
    out = tmp_path / "run"
    assert _measure(Chat(), out, "--arrivals", f"trace:{trace}", "--duration", "20s").code == 0
    (stage,) = read_run(out).manifest.stages
    assert (stage.stop_reason, stage.arrivals) == ("end of the trace", "trace:t.jsonl")
    due_s = np.sort([record.scheduled_s for record in read_records(out)])
    assert due_s - due_s[0] == pytest.approx(np.array(ms) / 1e3, abs=1e-6)


def test_locust_counts_the_requests(tmp_path: Path) -> None:
    """Locust's own statistics get the rows that any other user gives."""
    first = (
        "import locust, atexit, json, sys\n"
        "from locust.runners import LocalRunner\n"
        "quit = LocalRunner.quit\n"
        "def told(self):\n"
        "    rows = {k.method: v.num_requests for k, v in\n"
        "            zip(self.stats.entries.values(), self.stats.entries.values())}\n"
        "    print(json.dumps(rows), file=sys.stderr)\n"
        "    quit(self)\n"
        "LocalRunner.quit = told\n"
    )
    done = _measure(Chat(), tmp_path / "run", "--rate", "20/s", "--duration", "2s", first=first)
    assert '{"chat":' in done.err, done.err
    assert '"TTFT":' in done.err
    assert '"TPOT":' in done.err


def test_bad_load_on_the_command_line(tmp_path: Path) -> None:
    """Two kinds of load at once are refused before anything is asked."""
    done = headroom(
        "measure", "openai=http://127.0.0.1:9", "--rate", "5/s", "--users", "3", "--out",
        tmp_path / "run",
    )  # fmt: skip
    one_line(done, "--rate", "--users", "exclude")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rate": "20"}, "write for example 20/s"),
        ({"rate": "0/s"}, "above 0/s"),
        ({"rate": "1e9/s"}, "at most 10000/s"),
        ({"rate": "5/s,nope"}, "is not a rate"),
        ({"arrivals": "poisson"}, "needs --rate"),
        ({"rate": "5/s", "concurrency": "4"}, "exclude each other"),
        ({"arrivals": "poisson", "users": 4}, "exclude each other"),
        ({"rate": "5/s", "think_time_s": 1.0}, "--think-time needs --users"),
    ],
)
def test_loads_that_make_no_sense(options: dict[str, object], words: str) -> None:
    """Each is refused with a line that says what to write."""
    with pytest.raises(InputError) as caught:
        load_of(**options)  # type: ignore[arg-type]
    assert words in str(caught.value)


def test_kinds_of_load() -> None:
    """What is given decides the kind; nothing given leaves the levels to the curve."""
    assert load_of() == load_of(concurrency="auto")
    assert load_of().levels is None
    assert load_of(concurrency="1, 8").levels == (1, 8)
    assert load_of(users=9, think_time_s=2.0).kind == "users"
    rate = load_of(rate="5/s,90/min")
    assert (rate.kind, rate.levels, rate.arrivals) == ("rate", (5, 1.5), parse_arrivals("poisson"))
