"""The drained reader's own duties: kernel stamps, cheap detection of the end, many streams."""

from __future__ import annotations

import gc
import os
import socket
import time
import warnings
from typing import TYPE_CHECKING, cast
from unittest import mock

import gevent
import pytest
from gevent import os as gevent_os
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.dialects.base import HttpCall
from loadtests.stream import (
    Clock,
    Endpoint,
    Exchange,
    StreamClient,
    Timeouts,
    kernel_stamps,
    settle_memory,
)
from loadtests.stream import drainer as drainer_module
from loadtests.stream.drainer import drainer
from loadtests.stream.sources import new_poller, new_source
from tests.loadtests.readers import DRAINED, reading_by
from tests.loadtests.servers import Act, Script, Step, chunked, serving

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@pytest.fixture(scope="module", params=DRAINED, autouse=True)
def reader(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test of this file runs with the extension and without."""
    with reading_by(request.param) as reader:
        yield reader


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CALL = HttpCall(method="POST", path="/", headers=(), body=b"{}")
QUICK = Timeouts(connect_s=5, first_byte_s=5, idle_s=5)
PATIENT = Timeouts(first_byte_s=60, idle_s=60)  # no deadline hides what was not noticed


def fetch(*scripts: Script, timeouts: Timeouts = QUICK) -> Exchange:
    """One exchange with a scripted server."""
    with serving(*scripts) as server:
        return StreamClient(Endpoint.parse(server.url), Clock(), timeouts, drained=True).exchange(
            CALL
        )


def test_stamps_do_not_depend_on_when_they_are_read() -> None:
    """With the loop blocked while chunks arrive, their stamps are still those of the arrivals."""
    steps: list[Step] = [HEAD + chunked(b"first", end=False), 0.15, b"0\r\n\r\n"]
    with serving(steps) as server:
        clock = Clock()
        client = StreamClient(Endpoint.parse(server.url), clock, QUICK, drained=True)
        greenlet = gevent.spawn(client.exchange, CALL)
        gevent.sleep(0.05)
        time.sleep(0.3)  # no greenlet runs; the end arrives meanwhile
        woke_s = clock.now()
        exchange: Exchange = greenlet.get()
        sent_s = [clock.at_ns(ns) for ns in server.sent_ns]
    assert sent_s[1] <= exchange.ended_s < woke_s - 0.05


def test_tick_keeps_clear_of_a_send_and_catches_up_behind_it() -> None:
    """In a time to be kept clear nothing is received, once; a send, or the next turn, ends that."""
    drain = drainer()
    steps: list[Step] = [HEAD + chunked(b"first", end=False), 0.3, b"0\r\n\r\n"]
    with serving(steps, [HEAD + chunked(b"second")]) as server:
        endpoint = Endpoint.parse(server.url)
        first = gevent.spawn(StreamClient(endpoint, Clock(), QUICK, drained=True).exchange, CALL)
        gevent.sleep(0.1)
        with mock.patch.object(drain, "_drain_some", wraps=drain._drain_some) as receive:
            now = time.monotonic()
            drain.keep_clear(now, now + 60)
            drain._tick()
            assert receive.call_count == 0
            drain._tick()  # in its next turn it receives, whatever is to be kept clear
            assert receive.call_count == 1
            drain._tick()
            assert receive.call_count == 1
            second = StreamClient(endpoint, Clock(), QUICK, drained=True)
            assert second.exchange(CALL).body == b"second"
            assert receive.call_count > 1
        drain.keep_clear(0.0, 0.0)
        exchange = first.get()
    assert (exchange.body, exchange.failure) == (b"first", None)


def test_every_receive_has_a_stamp_between_its_send_and_now() -> None:
    """Stamps lie after the server's sends and before the present, in their order."""
    steps: list[Step] = [HEAD]
    for i in range(20):
        steps += [0.01, chunked(b"%02d" % i, end=False)]
    with serving([*steps, b"0\r\n\r\n"]) as server:
        clock = Clock()
        client = StreamClient(Endpoint.parse(server.url), clock, QUICK, drained=True)
        exchange = client.exchange(CALL)
        sent_s = [clock.at_ns(ns) for ns in server.sent_ns[1:-1]]
    assert exchange.failure is None
    assert exchange.receive_s == sorted(exchange.receive_s)
    for end, moment in zip(exchange.receive_ends, exchange.receive_s, strict=True):
        assert sent_s[end // 2 - 1] <= moment <= clock.now()


def test_segments_that_are_read_together_share_the_last_stamp() -> None:
    """What waits in a socket together is one receive with the stamp of the last segment."""
    pieces = [chunked(b"x", end=False)] * 5
    steps: list[Step] = [HEAD, 0.1, *[step for piece in pieces for step in (piece, 0.01)]]
    with serving([*steps, 0.2, b"0\r\n\r\n"]) as server:
        clock = Clock()
        client = StreamClient(Endpoint.parse(server.url), clock, QUICK, drained=True)
        greenlet = gevent.spawn(client.exchange, CALL)
        gevent.sleep(0.05)
        time.sleep(0.2)
        exchange: Exchange = greenlet.get()
        last_sent_s = clock.at_ns(server.sent_ns[5])
    assert exchange.receive_ends == [5]
    assert exchange.receive_s[0] >= last_sent_s


@pytest.mark.parametrize(
    "pieces",
    [
        [b"data: a\r\n\r\n", b"data: b\r\n\r\n"],  # each chunk ends as a message would
        [b"0\r\n\r\n", b"0\r\n\r\n"],
        [b"\r\n", b"\r\n\r\n"],
    ],
)
def test_what_looks_like_an_end_is_none(pieces: list[bytes]) -> None:
    """Bodies whose bytes look like the end of a chunked message are read to their real end."""
    steps: list[Step] = [HEAD]
    for piece in pieces:
        steps += [0.02, chunked(piece, end=False)]
    exchange = fetch([*steps, 0.02, b"0\r\n\r\n", Act.HOLD])
    assert (exchange.body, exchange.failure) == (b"".join(pieces), None)


@pytest.mark.parametrize(
    "end",
    [
        [b"0\r\n\r\n"],
        [b"0", b"\r\n\r\n"],
        [b"0\r\n\r", b"\n"],
        [b"0\r\n", b"\r\n"],
        [b"0\r", b"\n\r\n"],
        [b"0000\r\n\r\n"],
        [b"0;why=because\r\n\r\n"],
        [b"0\r\nX-Trailer: 1\r\n\r\n"],
        [b"0\r\nX-Trailer: 1\r\n", b"\r\n"],
    ],
)
def test_every_end_of_a_chunked_message_is_noticed(end: Sequence[bytes]) -> None:
    """However the end is written and cut, it is noticed at once and not by a timeout."""
    steps: list[Step] = [HEAD + chunked(b"abc", end=False)]
    for piece in end:
        steps += [0.03, piece]
    with gevent.Timeout(10):
        exchange = fetch([*steps, Act.HOLD], timeouts=PATIENT)
    assert (exchange.body, exchange.failure) == (b"abc", None)


def test_an_end_that_was_missed_is_found_at_the_deadline() -> None:
    """Bytes behind the end hide it from the cheap look; the deadline looks properly."""
    steps: list[Step] = [HEAD + chunked(b"abc", end=False), 0.05, b"0\r\n\r\njunk", Act.HOLD]
    exchange = fetch(steps, timeouts=Timeouts(first_byte_s=5, idle_s=0.2))
    assert (exchange.body, exchange.failure) == (b"abc", None)


def test_an_answer_that_comes_while_its_request_is_sent() -> None:
    """On a kept connection an early answer may be drained before anyone waits for it: it counts."""
    huge = HttpCall(method="POST", path="/", headers=(), body=b"x" * 20_000_000)
    early: list[Step] = [HEAD + chunked(b"1"), 0.2, HEAD + chunked(b"2"), 0.1, Act.HOLD]
    busy: list[Step] = [HEAD, 0.6, chunked(b"3")]
    with serving(early, busy) as server, gevent.Timeout(10):
        endpoint = Endpoint.parse(server.url)
        client = StreamClient(endpoint, Clock(), PATIENT, drained=True, keep_alive=True)
        assert client.exchange(CALL).body == b"1"
        other = gevent.spawn(StreamClient(endpoint, Clock(), PATIENT, drained=True).exchange, CALL)
        exchange = client.exchange(huge)
        client.close()
        assert (exchange.body, exchange.failure) == (b"2", None)
        assert other.get().body == b"3"


def test_what_comes_on_an_idle_connection_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that goes on sending after its answer fills no memory while its user thinks."""
    monkeypatch.setattr(drainer_module, "_UNPARSED_BYTES", 100_000)
    flood: list[Step] = [HEAD + chunked(b"1"), 0.1, b"x" * 5_000_000]
    busy: list[Step] = [HEAD, 0.4, chunked(b"2")]
    with serving(flood, busy) as server, gevent.Timeout(10):
        endpoint = Endpoint.parse(server.url)
        client = StreamClient(endpoint, Clock(), PATIENT, drained=True, keep_alive=True)
        assert client.exchange(CALL).body == b"1"
        assert client._connection is not None
        source = client._connection.source
        assert source is not None
        StreamClient(endpoint, Clock(), PATIENT, drained=True).exchange(CALL)
        assert client._connection.is_stale()
        data, _, _ = source.take(0)
        client.close()
    assert 100_000 <= len(data) < 100_000 + 65536


def test_every_stream_has_its_own_deadline() -> None:
    """Streams that stall together end at their own bounds, in whatever order they began."""
    bounds = [0.3, 0.1, 0.2]

    def ask(bound_s: float) -> Exchange:
        timeouts = Timeouts(first_byte_s=bound_s)
        return StreamClient(endpoint, clock, timeouts, drained=True).exchange(CALL)

    stalled: list[Step] = [HEAD, Act.HOLD]
    with serving(*[stalled] * len(bounds)) as server, gevent.Timeout(10):
        endpoint, clock = Endpoint.parse(server.url), Clock()
        waits = [gevent.spawn(ask, bound_s) for bound_s in bounds]
        ends = [wait.get() for wait in waits]
    for bound_s, end in zip(bounds, ends, strict=True):
        assert end.failure is not None
        assert end.failure[0] == "timeout_first_byte"
        assert end.ended_s - end.sent_s >= bound_s
    assert sorted(bounds, key=lambda bound_s: ends[bounds.index(bound_s)].ended_s) == sorted(bounds)


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    pieces=st.lists(st.sampled_from([b"a", b"0\r\n\r\n", b"\r\n\r\n", b"x" * 40]), max_size=6),
)
def test_any_cut_with_pauses(data: st.DataObject, pieces: list[bytes]) -> None:
    """However a response is cut into receives, drained and portable readers give one body."""
    wire = HEAD + chunked(*pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    steps: list[Step] = []
    for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        steps += [wire[a:b], 0.003]
    exchange = fetch([*steps, Act.HOLD])
    assert (exchange.body, exchange.failure) == (b"".join(pieces), None)


def test_an_end_that_comes_with_the_data_is_noticed() -> None:
    """A body that its connection's end ends is over at once, when both wait in the socket."""
    with serving([b"HTTP/1.1 200 OK\r\n\r\nbody"]) as server, gevent.Timeout(10):
        client = StreamClient(Endpoint.parse(server.url), Clock(), PATIENT, drained=True)
        greenlet = gevent.spawn(client.exchange, CALL)
        while not server.requests:
            gevent.sleep(0.001)
        time.sleep(0.1)  # no greenlet runs; data and end arrive meanwhile
        exchange = greenlet.get()
    assert (exchange.body, exchange.failure) == (b"body", None)


def test_urgent_data_hide_nothing() -> None:
    """What waits behind a byte of urgent data is received, though nothing more arrives."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        writer = socket.create_connection(server.getsockname())
        reader, _ = server.accept()
    with writer, reader:
        reader.setblocking(False)
        source, poller = new_source(reader, 65536), new_poller()
        poller.add(source)
        writer.send(b"before")
        writer.send(b"!", socket.MSG_OOB)
        writer.send(b"behind")
        time.sleep(0.1)
        for _ in range(5):
            poller.drain()
        poller.remove(source)
        assert source.take(0)[0] == b"beforebehind"


def test_what_is_over_the_bound_is_read_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that holds more than may wait unparsed is emptied, though nothing more arrives."""
    monkeypatch.setattr(drainer_module, "_UNPARSED_BYTES", 1000)
    body = b"x" * 400_000
    with gevent.Timeout(10):
        exchange = fetch([HEAD + chunked(*[body[:1000]] * 400), Act.HOLD], timeouts=PATIENT)
    assert (exchange.body, exchange.failure) == (body, None)


def test_many_streams_at_once() -> None:
    """Fifty streams through one drainer get each their own bytes; nothing is left behind."""

    def script(request: bytes) -> list[Step]:
        name = request.rpartition(b"\r\n\r\n")[2]
        steps: list[Step] = [HEAD]
        for _ in range(10):
            steps += [0.005, chunked(name, end=False)]
        return [*steps, b"0\r\n\r\n"]

    def ask(name: bytes) -> Exchange:
        call = HttpCall(method="POST", path="/", headers=(), body=name)
        return StreamClient(endpoint, Clock(), QUICK, drained=True).exchange(call)

    with serving(script) as server:
        endpoint = Endpoint.parse(server.url)
        names = [b"%03d" % i for i in range(50)]
        greenlets = [gevent.spawn(ask, name) for name in names]
        answers = [greenlet.get().body for greenlet in greenlets]
    assert answers == [name * 10 for name in names]
    assert drainer()._inlets == {}


@pytest.mark.parametrize("chunk", [b"x", b"looked at each time\r\n\r\n"])
def test_the_tick_follows_the_fastest_stream(chunk: bytes) -> None:
    """A stream with short gaps makes the drainer look more often than twice per gap."""
    steps: list[Step] = [HEAD]
    for _ in range(150):
        steps += [0.003, chunked(chunk, end=False)]
    ticks: list[float] = []
    with serving([*steps, b"0\r\n\r\n"]) as server:
        drainer()._shortest_s = 60.0  # earlier exchanges were shorter than this one
        client = StreamClient(Endpoint.parse(server.url), Clock(), QUICK, drained=True)
        greenlet = gevent.spawn(client.exchange, CALL)
        while not greenlet.ready():
            gevent.sleep(0.05)
            ticks.append(drainer().tick_s)
    assert greenlet.get().failure is None
    assert sorted(ticks)[len(ticks) // 2] < 0.002
    assert all(0.0005 <= tick <= 0.005 for tick in ticks)


def test_short_exchanges_are_looked_at_often() -> None:
    """After answers of a few milliseconds the tick is short, so that the next is not sent late."""
    drain = drainer()
    drain._shortest_s = 0.1
    drain._choose_tick(0.1)
    assert drain.tick_s == pytest.approx(0.001)
    drain._shortest_s = 60.0
    drain._choose_tick(0.1)
    assert drain.tick_s == pytest.approx(0.005)


def test_what_a_cancelled_stream_had_received_is_kept() -> None:
    """Chunks that nobody has looked at yet are in the partial exchange, with their moments."""
    steps: list[Step] = [HEAD, 0.05, chunked(b"abc", end=False), 0.05, chunked(b"def", end=False)]
    with serving([*steps, Act.HOLD]) as server:
        client = StreamClient(Endpoint.parse(server.url), Clock(), QUICK, drained=True)
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.5):
            client.exchange(CALL)
        partial = client.partial()
    assert partial is not None
    assert (partial.body, partial.receive_ends) == (b"abcdef", [3, 6])
    assert partial.receive_s[0] < partial.receive_s[1] <= partial.ended_s


def test_a_set_clock_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the wall clock is set while an answer comes, its stamps are not believed."""
    offsets = iter([0, 7_000_000])
    from loadtests.stream import readers

    real = kernel_stamps.wall_offset_ns()
    monkeypatch.setattr(readers, "wall_offset_ns", lambda: real + next(offsets))
    exchange = fetch([HEAD + chunked(b"abc")])
    assert exchange.failure is not None
    assert exchange.failure[0] == "clock_step"
    assert "+0.007 s" in exchange.failure[1]


def test_unparsed_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that grows is parsed before its end, so that a bound on its body can hold."""
    monkeypatch.setattr(drainer_module, "_UNPARSED_BYTES", 1000)

    def script(_: bytes) -> Iterator[Step]:
        yield HEAD
        while True:
            yield chunked(b"x" * 300, end=False)
            yield 0.004

    with serving(cast("Script", script)) as server, gevent.Timeout(10):
        client = StreamClient(
            Endpoint.parse(server.url), Clock(), PATIENT, max_body_bytes=3000, drained=True
        )
        exchange = client.exchange(CALL)
    assert exchange.failure is not None
    assert exchange.failure[0] == "too_large"
    assert 3000 < len(exchange.body) < 3000 + 65536


def test_a_forked_process_drains_for_itself() -> None:
    """After a fork (``locust --processes``) the child's streams and the parent's do not mix."""
    slow: list[Step] = [HEAD]
    for _ in range(40):
        slow += [0.01, chunked(b"p", end=False)]
    quick: list[Step] = [HEAD, 0.05, chunked(b"c", end=False), 0.05, b"0\r\n\r\n"]
    with serving([*slow, b"0\r\n\r\n"], quick) as server:
        endpoint = Endpoint.parse(server.url)
        client = StreamClient(endpoint, Clock(), PATIENT, drained=True)
        parent = gevent.spawn(client.exchange, CALL)
        gevent.sleep(0.1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the server's threads are no harm
            child = gevent_os.fork_and_watch()
        if child == 0:
            try:
                parent.kill()  # the child's copy: it leaves a drainer that is the parent's
                with gevent.Timeout(10):
                    exchange = StreamClient(endpoint, Clock(), PATIENT, drained=True).exchange(CALL)
                os._exit(0 if exchange.body == b"c" else 1)
            finally:
                os._exit(2)
        with gevent.Timeout(10):
            assert parent.get().body == b"p" * 40
        _, status = gevent_os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_settled_memory_is_out_of_collections() -> None:
    """What exists at a load's start is not walked by later collections."""
    settle_memory()
    try:
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()
