"""What simulated users say: never the same twice, of lengths that the seed decides."""

from __future__ import annotations

from contextlib import closing

import gevent
import gevent.event
import msgspec
import numpy as np
import pytest

from loadtests.dialects import dialect_of
from loadtests.measure.session import Chatter, Session, Traffic
from loadtests.resolve import traffic_of
from loadtests.stream import Clock, Endpoint
from planner.records import RequestRecord, TargetInfo
from tests.loadtests.measure.fakes import Chat
from tests.loadtests.servers import Act, answer, chunked, serving

TRAFFIC = traffic_of(prompt_tokens="uniform:20-60", output_tokens="uniform:2-9", seed=5)


def _session(url: str, *, name: str = "openai", run: float = 1.0, **changes: object) -> Session:
    """A session of the run that began at this second."""
    info = TargetInfo(name=name, backend="openai", url=url, model="scripted")
    session = Session(
        info=info,
        endpoint=Endpoint.parse(url),
        dialect=dialect_of("openai", "openai"),
        traffic=TRAFFIC,
        clock=Clock(run),
    )
    for key, value in changes.items():
        setattr(session, key, value)
    return session


def _asked(session: Session, chat: Chat, turns: int = 5) -> tuple[list[str], list[int | None]]:
    """The prompts and the answers' lengths of the session's first user."""
    before = len(chat.prompts)
    with closing(session.chatter()) as user:
        records = [user.ask() for _ in range(turns)]
    assert [record.status for record in records] == ["ok"] * turns
    return chat.prompts[before:], [record.output_tokens for record in records]


def test_no_two_users_say_the_same() -> None:
    """Users, stages, targets with like names, and runs all have words of their own."""
    chat = Chat(pause_s=0)
    with serving(chat) as server:
        same = _session(server.url)
        sessions = (
            same,
            same,
            _session(server.url, stage=1),
            _session(server.url, name="llamacpp-a"),
            _session(server.url, name="llamacpp-b"),
            _session(server.url, run=2.0),
        )
        said = [prompt for session in sessions for prompt in _asked(session, chat)[0]]
    assert len(set(said)) == len(said) == 30
    beginnings = {tuple(prompt.split()[:3]) for prompt in said}
    assert len(beginnings) == len(said)  # or a prefix cache would answer them


def test_seed_decides_lengths_in_every_run() -> None:
    """Two runs with one seed ask for the same lengths, in other words."""
    chat = Chat(pause_s=0)
    with serving(chat) as server:
        first = _asked(_session(server.url), chat, 12)
        second = _asked(_session(server.url, run=77.0), chat, 12)
        changed = Traffic(**{**vars(TRAFFIC), "seed": 6})
        other = _asked(_session(server.url, traffic=changed), chat, 12)
    assert first[1] == second[1] != other[1]
    assert [len(p.split()) for p in first[0]] == [len(p.split()) for p in second[0]]
    assert not set(first[0]) & set(second[0])


def test_user_keeps_the_connection() -> None:
    """A connection is used again, and its cost is told of the request that paid it."""
    event = b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'
    stream = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(
        event, b"data: [DONE]\n\n"
    )
    with serving([stream, Act.READ, stream, Act.READ], [stream]) as server:
        session = _session(server.url)
        user = session.chatter()
        first, second = user.ask(), user.ask()
        assert (first.status, second.status, server.connections) == ("ok", "ok", 1)
        assert session.resent == 0
        assert user.ask().status == "ok"  # the server read it, and closed without an answer
        user.close()
    assert session.resent == 1
    assert first.connect_s is not None
    assert second.connect_s is None


def test_error_that_repeats_the_key() -> None:
    """A key that a server repeats in its error does not reach the record."""
    key = "correct-horse-battery"
    error = answer(msgspec.json.encode({"error": {"message": f"what is {key}?"}}), 500)
    with (
        serving([error]) as server,
        closing(_session(server.url, api_key=key).chatter()) as user,
    ):
        record = user.ask()
    assert record.status == "error"
    assert record.error == "HTTP 500: what is [API key]?"
    assert key not in repr(_session(server.url, api_key=key))


def test_user_that_is_stopped_leaves_a_censored_record() -> None:
    """What had arrived when the stage ended is recorded as cancelled, once."""
    kept: list[RequestRecord] = []
    with (
        serving([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", 60.0]) as server,
        closing(_session(server.url, sink=kept.append).chatter()) as user,
    ):
        asking = gevent.spawn(user.ask)
        gevent.sleep(0.3)
        asking.kill()
    (record,) = kept
    assert (record.status, record.http_status) == ("cancelled", 200)
    assert record.ended_s - record.sent_s == pytest.approx(0.3, abs=0.25)


def test_failure_is_remembered_until_an_answer() -> None:
    """A user knows that its last request failed, for the pause that follows."""
    with (
        serving([answer(b"{}", 500)], Chat(pause_s=0)) as server,
        closing(_session(server.url).chatter()) as user,
    ):
        failures = [(user.ask().status, user.failed) for _ in range(2)]
    assert failures == [("error", True), ("ok", False)]


def test_pauses_follow_an_exponential_law() -> None:
    """Pauses have the mean that was asked, and as large a deviation; without one there is none."""
    session = _session("http://127.0.0.1:1", think_time_s=2.0)
    user = Chatter(session, 0)
    pauses = np.array([user.think_s() for _ in range(4000)])
    assert pauses.mean() == pytest.approx(2, rel=0.1)
    assert pauses.std() == pytest.approx(2, rel=0.15)
    session.think_time_s = 0
    assert user.think_s() == 0


def test_a_held_request_is_not_sent() -> None:
    """Until ``hold`` returns nothing is sent, and who is cut off in it leaves no record."""
    chat = Chat(pause_s=0)
    kept: list[RequestRecord] = []
    with (
        serving(chat) as server,
        closing(_session(server.url, sink=kept.append).chatter()) as user,
    ):
        go = gevent.event.Event()
        asking = gevent.spawn(user.ask, scheduled_s=0.0, hold=go.wait)
        gevent.sleep(0.05)
        assert chat.prompts == []
        go.set()
        asking.join(5)
        assert [record.status for record in kept] == ["ok"]
        held = gevent.spawn(user.ask, hold=gevent.event.Event().wait)
        gevent.sleep(0.05)
        held.kill()
    assert len(chat.prompts) == len(kept) == 1


def test_an_answer_that_waits_to_be_decoded_is_not_lost() -> None:
    """Who is cut off after the answer's end, before it is decoded, leaves its whole record."""
    kept: list[RequestRecord] = []
    with (
        serving(lambda request: [*Chat(pause_s=0)(request), Act.HOLD]) as server,
        closing(_session(server.url, sink=kept.append).chatter()) as user,
    ):
        resting = gevent.spawn(user.ask, rest=gevent.event.Event().wait)
        gevent.sleep(0.2)
        assert kept == []
        resting.kill()
        assert user._client._connection is None
    assert [record.status for record in kept] == ["ok"]
