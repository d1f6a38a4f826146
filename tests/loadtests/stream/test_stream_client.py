"""The stream client against real sockets that send exactly scripted bytes."""

from __future__ import annotations

import gc
import resource
import ssl
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.dialects.base import HttpCall
from loadtests.stream import Clock, Endpoint, Exchange, StreamClient, Timeouts
from loadtests.stream import client as client_module
from loadtests.stream.intake import Intake
from loadtests.stream.response import Response
from planner.errors import InputError
from tests.loadtests.readers import READERS, reading_by
from tests.loadtests.servers import Act, Script, Step, answer, chunked, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

CERTIFICATE = Path(__file__).parent / "localhost.pem"  # self-signed, for localhost, until 2126
QUICK = Timeouts(connect_s=5, first_byte_s=5, idle_s=5)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CALL = HttpCall(
    method="POST", path="/v1/chat", headers=(("Accept-Encoding", "identity"),), body=b'{"a":1}'
)


@pytest.fixture(scope="module", params=READERS, autouse=True)
def reader(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test of this file runs with each reader."""
    with reading_by(request.param) as reader:
        yield reader


def fetch(*scripts: Script, timeouts: Timeouts = QUICK, max_body_bytes: int = 10**6) -> Exchange:
    """One exchange with a scripted server; checks what holds for every exchange."""
    with serving(*scripts) as server:
        endpoint = Endpoint.parse(server.url)
        client = StreamClient(endpoint, Clock(), timeouts, max_body_bytes=max_body_bytes)
        exchange = client.exchange(CALL)
        assert client.partial() is None
    check(exchange)
    return exchange


def check(exchange: Exchange) -> None:
    """What holds for every exchange, failed or not."""
    ends, moments = exchange.receive_ends, exchange.receive_s
    assert len(ends) == len(moments)
    assert (ends[-1] if ends else 0) == len(exchange.body)
    assert all(a < b for a, b in pairwise(ends))
    assert moments == sorted(moments)
    assert exchange.sent_s <= exchange.ended_s
    if moments:
        assert exchange.headers_s is not None
        assert exchange.sent_s <= exchange.headers_s <= moments[0]
        assert moments[-1] <= exchange.ended_s


def kind(exchange: Exchange) -> str | None:
    """Kind of the failure."""
    return exchange.failure[0] if exchange.failure else None


@pytest.fixture
def tls_server() -> ssl.SSLContext:
    """The server's side of TLS with the test certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def test_request_is_written_as_http() -> None:
    """The request has a request line, the host, the call's headers, the length and the body."""
    with serving([answer(b"hi")]) as server:
        endpoint = Endpoint.parse(server.url + "/base/")
        StreamClient(endpoint, Clock(), QUICK).exchange(CALL)
        assert server.requests == [
            b"POST /base/v1/chat HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept-Encoding: identity\r\n"
            b'Content-Length: 7\r\nConnection: close\r\n\r\n{"a":1}' % server.port
        ]


def test_content_length_body() -> None:
    """A Content-Length body is complete without the server closing."""
    exchange = fetch([answer(b"hello", 200, "X-A: 1", "x-a: 2"), Act.HOLD])
    assert (exchange.status, exchange.body, exchange.failure) == (200, b"hello", None)
    assert exchange.headers == {"content-length": "5", "x-a": "1, 2"}
    assert exchange.connect_s is not None
    assert exchange.connect_s > 0
    assert exchange.ended_s == exchange.receive_s[-1]


def test_connection_opened_ahead_is_used_and_told_once() -> None:
    """The next exchange sends on it, and says when it was opened and how long that took."""
    with serving([answer(b"one"), Act.READ, answer(b"two"), Act.HOLD]) as server:
        clock = Clock()
        client = StreamClient(Endpoint.parse(server.url), clock, QUICK, keep_alive=True)
        client.connect_ahead()
        client.connect_ahead()  # there is one already
        ready_s = clock.now()
        gevent.sleep(0.02)
        first, second = client.exchange(CALL), client.exchange(CALL)
        client.close()
    assert (first.body, first.failure) == (b"one", None)
    assert first.connect_began_s is not None
    assert first.connect_s is not None
    assert first.connect_began_s + first.connect_s <= ready_s < first.sent_s
    assert second.body == b"two"
    assert (second.connect_began_s, second.connect_s) == (None, None)


def test_failure_to_open_ahead_is_the_next_exchanges() -> None:
    """It is told once; the exchange after it tries again."""
    with serving([answer(b"late")]) as server:
        place = Endpoint.parse(server.url)
        nobody = Endpoint.parse("http://127.0.0.1:1")
        client = StreamClient(nobody, Clock(), QUICK)
        client.connect_ahead()
        refused = client.exchange(CALL)
        client._endpoint = place
        exchange = client.exchange(CALL)
    assert kind(refused) == "connect"
    assert refused.connect_s is None
    assert (exchange.body, exchange.failure) == (b"late", None)


def test_headers_are_stamped_when_they_come() -> None:
    """Headers that come long before the body have a moment of their own."""
    exchange = fetch([CHUNKED, Act.HOLD], timeouts=Timeouts(first_byte_s=0.1))
    assert exchange.status == 200
    assert exchange.headers_s is not None
    assert exchange.headers_s < exchange.ended_s
    assert exchange.receive_s == []


def test_every_byte_by_itself() -> None:
    """A response that arrives byte by byte is put together again."""
    wire = CHUNKED + chunked(b"data: 1\n\n", b"data: [DONE]\n\n")
    steps = [step for byte in wire for step in (bytes([byte]), 0.0005)]
    exchange = fetch(steps)
    assert (exchange.body, exchange.failure) == (b"data: 1\n\ndata: [DONE]\n\n", None)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), pieces=st.lists(st.binary(min_size=1, max_size=300), max_size=8))
def test_any_cut_gives_the_same_body(data: st.DataObject, pieces: list[bytes]) -> None:
    """However a chunked response is cut into sends, the body is the same."""
    wire = CHUNKED + chunked(*pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=10)))
    steps = [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    exchange = fetch(steps)
    assert (exchange.body, exchange.failure) == (b"".join(pieces), None)


def test_stamps_are_not_before_the_sends() -> None:
    """Each receive is stamped after the server began to send the bytes that it brought."""
    with serving([CHUNKED, *[step for i in range(8) for step in (0.005, chunked(b"x" * i + b"y",
                  end=False))], b"0\r\n\r\n"]) as server:  # fmt: skip
        clock = Clock()
        exchange = StreamClient(Endpoint.parse(server.url), clock, QUICK).exchange(CALL)
        sends = [clock.at_ns(ns) for ns in server.sent_ns]
    check(exchange)
    assert exchange.failure is None
    ends_sent = [sum(i + 1 for i in range(n + 1)) for n in range(8)]
    for end, moment in zip(exchange.receive_ends, exchange.receive_s, strict=True):
        assert moment >= sends[1 + ends_sent.index(end)]
    assert exchange.ended_s >= sends[-1]


def test_body_that_ends_with_the_connection() -> None:
    """Without a length the body ends where the server closes."""
    exchange = fetch([b"HTTP/1.1 200 OK\r\n\r\nabc", 0.01, b"def"])
    assert (exchange.body, exchange.failure) == (b"abcdef", None)


def test_http_1_0_answer() -> None:
    """An HTTP/1.0 server is understood."""
    exchange = fetch([b"HTTP/1.0 200 OK\r\n\r\nabc"])
    assert (exchange.status, exchange.body, exchange.failure) == (200, b"abc", None)


def test_no_content() -> None:
    """A 204 has no body and needs no length."""
    exchange = fetch([b"HTTP/1.1 204 No Content\r\n\r\n", Act.HOLD])
    assert (exchange.status, exchange.body, exchange.failure) == (204, b"", None)


def test_interim_answers_are_passed_over() -> None:
    """100 Continue and 103 Early Hints are not the answer, and their headers are not kept."""
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    exchange = fetch([interim, 0.01, hints + answer(b"ok")])
    assert (exchange.status, exchange.body) == (200, b"ok")
    assert "link" not in exchange.headers


def test_error_status_has_a_readable_body() -> None:
    """A 4xx is an answer, not a failure."""
    exchange = fetch([answer(b'{"error":"no"}', 401)])
    assert (exchange.status, exchange.body, exchange.failure) == (401, b'{"error":"no"}', None)


def test_early_answer_to_a_request_that_is_not_read() -> None:
    """A server that refuses a large request and stops reading is still heard."""
    huge = HttpCall(method="POST", path="/", headers=(), body=b"x" * 20_000_000)
    with serving([answer(b"too long", 413), 0.1]) as server:
        server._read = lambda sock: sock.recv(100)  # type: ignore[method-assign]
        exchange = StreamClient(Endpoint.parse(server.url), Clock(), QUICK).exchange(huge)
    check(exchange)
    assert (exchange.status, exchange.body, exchange.failure) == (413, b"too long", None)


def test_server_that_goes_away_while_it_is_sent_to() -> None:
    """A connection broken while the request is written, without an answer, is a reset."""
    huge = HttpCall(method="POST", path="/", headers=(), body=b"x" * 20_000_000)
    with serving([]) as server:
        server._read = lambda sock: sock.recv(100)  # type: ignore[method-assign]
        exchange = StreamClient(Endpoint.parse(server.url), Clock(), QUICK).exchange(huge)
    check(exchange)
    assert (kind(exchange), exchange.status) == ("reset", None)


def test_request_that_nobody_reads() -> None:
    """A server that neither reads nor answers runs into the first timeout, even while sending."""
    huge = HttpCall(method="POST", path="/", headers=(), body=b"x" * 20_000_000)
    with serving([0.3]) as server:
        server._read = lambda sock: sock.recv(100)  # type: ignore[method-assign]
        client = StreamClient(Endpoint.parse(server.url), Clock(), Timeouts(first_byte_s=0.1))
        exchange = client.exchange(huge)
    check(exchange)
    assert exchange.failure == ("timeout_first_byte", "the server did not read the request in time")


@pytest.mark.parametrize(
    ("steps", "expected", "status", "body"),
    [
        ([], "closed", None, b""),
        ([b"HTTP/1.1 200 OK\r\nConte"], "closed", None, b""),
        ([CHUNKED + chunked(b"abc", end=False)], "closed", 200, b"abc"),
        ([CHUNKED + b"5\r\nab"], "closed", 200, b"ab"),
        ([answer(b"hello")[:-2]], "closed", 200, b"hel"),
        ([Act.RESET], "reset", None, b""),
        ([b"HTTP/1.1 200 OK\r\nConte", 0.05, Act.RESET], "reset", None, b""),
        ([CHUNKED + b"5\r\nab", 0.05, Act.RESET], "reset", 200, b"ab"),
        ([b"SSH-2.0-OpenSSH_9.6\r\n", Act.HOLD], "bad_http", None, b""),
        ([b"220 smtp ready\r\n", Act.HOLD], "bad_http", None, b""),
        ([b"\x15\x03\x01\x00\x02\x02\x46", Act.HOLD], "bad_http", None, b""),
        ([CHUNKED + b"3\r\nabcdef\r\n", Act.HOLD], "bad_http", 200, b"abc"),
        ([CHUNKED + b"zz\r\nabc\r\n", Act.HOLD], "bad_http", 200, b""),
        ([CHUNKED + b"-3\r\nabc\r\n", Act.HOLD], "bad_http", 200, b""),
        ([CHUNKED + b"ffffffffffffffffff\r\n", Act.HOLD], "bad_http", 200, b""),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", Act.HOLD], "bad_http", None, b""),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", Act.HOLD],
         "bad_http", None, b""),
        ([b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", Act.HOLD],
         "bad_http", None, b""),
    ],
)  # fmt: skip
def test_broken_answers(steps: Script, expected: str, status: int | None, body: bytes) -> None:
    """Each way to break off or break the protocol has its kind, and what had arrived is kept."""
    exchange = fetch(steps)
    assert (kind(exchange), exchange.status, exchange.body) == (expected, status, body)


@pytest.mark.parametrize(
    ("steps", "timeouts", "expected"),
    [
        ([Act.HOLD], Timeouts(first_byte_s=0.05), "timeout_first_byte"),
        ([CHUNKED, Act.HOLD], Timeouts(first_byte_s=0.05, idle_s=9), "timeout_first_byte"),
        ([CHUNKED + b"1\r\na", Act.HOLD], Timeouts(idle_s=0.05), "timeout_idle"),
        ([Act.HOLD], Timeouts(total_s=0.05), "timeout_total"),
        ([CHUNKED, *[0.02, chunked(b"a", end=False)] * 50], Timeouts(total_s=0.1), "timeout_total"),
        ([b"HTTP/1.1 100 C\r\n\r\n", 0.02] * 99, Timeouts(first_byte_s=0.2), "timeout_first_byte"),
    ],
)  # fmt: skip
def test_stalls(steps: Script, timeouts: Timeouts, expected: str) -> None:
    """A silent or dripping server runs into the bound that is named."""
    exchange = fetch(steps, timeouts=timeouts)
    assert kind(exchange) == expected


@pytest.mark.parametrize(
    "wire",
    [
        CHUNKED + chunked(b"x" * 1000, end=False) * 10_000,  # a body without end
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10**6,  # headers without end
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 10**7,  # one endless header
        b"HTTP/1.1 100 C\r\n\r\n" * 10**6,  # interim answers without end
        CHUNKED + b"1;" + b"x" * 10**7,  # an endless chunk extension
        CHUNKED + b"0\r\n" + b"X: y\r\n" * 10**6,  # trailers without end
    ],
    ids=["body", "headers", "header", "interim", "extension", "trailers"],
)
def test_endless_answers_are_bounded(wire: bytes) -> None:
    """Whatever part of an answer does not end, only a bounded part of it is kept."""
    exchange = fetch([wire, Act.HOLD], max_body_bytes=100_000)
    assert kind(exchange) == "too_large"
    assert len(exchange.body) <= 100_000 + 65536
    assert sum(len(k) + len(v) for k, v in exchange.headers.items()) <= 2 * 65536


def test_refused_connection() -> None:
    """A port that nobody listens on is a failure to connect; the sent moment is the start."""
    with serving([]) as server:
        endpoint = Endpoint.parse(server.url)
    exchange = StreamClient(endpoint, Clock(), QUICK).exchange(CALL)
    check(exchange)
    assert exchange.failure == ("connect", f"{endpoint.authority}: Connection refused")
    assert exchange.connect_s is None


def test_out_of_file_descriptors() -> None:
    """When this process may open no more sockets, that is a failure to connect, not a crash."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving([answer(b"")]) as server:
        client = StreamClient(Endpoint.parse(server.url), Clock(), QUICK)
        assert client.exchange(CALL).failure is None  # gevent has opened what it needs
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            exchange = client.exchange(CALL)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert exchange.failure is not None
    assert exchange.failure[0] == "connect"
    assert "Too many open files" in exchange.failure[1]


def test_unknown_host() -> None:
    """A name that does not exist is a failure of its own kind."""
    exchange = StreamClient(Endpoint.parse("http://no.invalid"), Clock(), QUICK).exchange(CALL)
    assert kind(exchange) == "dns"


def test_connect_timeout(tls_server: ssl.SSLContext) -> None:
    """A peer that accepts but never shakes hands runs into the connect timeout."""
    del tls_server
    with serving([Act.HOLD]) as server:
        endpoint = Endpoint.parse(server.url.replace("http", "https"))
        exchange = StreamClient(endpoint, Clock(), Timeouts(connect_s=0.1)).exchange(CALL)
    assert kind(exchange) == "timeout_connect"


def test_ipv6() -> None:
    """An IPv6 address in brackets is connected to, and named in the Host header."""
    try:
        context = serving([answer(b"six")], host="::1")
        with context as server:
            endpoint = Endpoint.parse(server.url)
            exchange = StreamClient(endpoint, Clock(), QUICK).exchange(CALL)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    assert exchange.body == b"six"
    assert b"Host: [::1]:%d\r\n" % server.port in server.requests[0]


def test_name_with_several_addresses() -> None:
    """``localhost`` is reached on whichever of its addresses the server listens."""
    with serving([answer(b"ok")]) as server:
        endpoint = Endpoint.parse(f"http://localhost:{server.port}")
        assert StreamClient(endpoint, Clock(), QUICK).exchange(CALL).body == b"ok"


def test_tls_is_verified_by_default(tls_server: ssl.SSLContext) -> None:
    """A self-signed certificate is refused unless it is trusted on purpose."""
    with serving([answer(b"secret")], tls=tls_server) as server:
        exchange = StreamClient(Endpoint.parse(server.url), Clock(), QUICK).exchange(CALL)
    assert exchange.failure is not None
    assert exchange.failure[0] == "tls"
    assert "self-signed" in exchange.failure[1]
    assert server.requests == []


def test_tls_with_a_trusted_certificate(tls_server: ssl.SSLContext) -> None:
    """Over TLS a stream is the same as without, records and chunks cut anyhow."""
    pieces = [b"data: %d\n\n" % i for i in range(50)] + [b"x" * 100_000]
    wire = CHUNKED + chunked(*pieces)
    steps: list[Step] = [wire[i : i + 777] for i in range(0, len(wire), 777)]
    steps += [Act.HOLD]
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
    for host in ("127.0.0.1", "localhost"):
        with serving(steps, tls=tls_server) as server:
            endpoint = Endpoint.parse(f"https://{host}:{server.port}")
            client = StreamClient(endpoint, Clock(), QUICK, tls_context=trusting)
            exchange = client.exchange(CALL)
        check(exchange)
        assert (exchange.body, exchange.failure) == (b"".join(pieces), None)


def test_large_request_over_tls(tls_server: ssl.SSLContext) -> None:
    """A request of many TLS records arrives whole."""
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
    large = HttpCall(method="POST", path="/", headers=(), body=bytes(range(256)) * 4000)
    with serving([answer(b"ok")], tls=tls_server) as server:
        endpoint = Endpoint.parse(server.url)
        exchange = StreamClient(endpoint, Clock(), QUICK, tls_context=trusting).exchange(large)
        assert server.requests[0].endswith(b"\r\n\r\n" + large.body)
    assert exchange.failure is None


def test_tls_cut_off_is_not_an_end(tls_server: ssl.SSLContext) -> None:
    """A TLS stream that ends without a goodbye may have been cut by anyone: it failed."""
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
    with serving([b"HTTP/1.1 200 OK\r\n\r\nabc"], tls=tls_server) as server:
        endpoint = Endpoint.parse(server.url)
        exchange = StreamClient(endpoint, Clock(), QUICK, tls_context=trusting).exchange(CALL)
    assert (kind(exchange), exchange.body) == ("closed", b"abc")


def test_tls_goodbye_ends_a_body(tls_server: ssl.SSLContext) -> None:
    """A TLS stream that says goodbye ends a body without a length."""
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
    script: list[Step] = [b"HTTP/1.1 200 OK\r\n\r\nabc", Act.GOODBYE]
    with serving(script, tls=tls_server) as server:
        endpoint = Endpoint.parse(server.url)
        exchange = StreamClient(endpoint, Clock(), QUICK, tls_context=trusting).exchange(CALL)
    check(exchange)
    assert (exchange.body, exchange.failure) == (b"abc", None)


def test_tls_to_a_plain_server() -> None:
    """A server without TLS behind an https URL is named as such."""
    with serving(lambda _: [answer(b"")]) as server:
        server._read = lambda sock: sock.recv(1000)  # type: ignore[method-assign]
        endpoint = Endpoint.parse(server.url.replace("http", "https"))
        exchange = StreamClient(endpoint, Clock(), QUICK).exchange(CALL)
    assert kind(exchange) == "tls"


def test_fresh_connection_for_each_request() -> None:
    """Without keep-alive every request has its own connection and its own connect time."""
    with serving([answer(b"1"), Act.READ, answer(b"2")]) as server:
        client = StreamClient(Endpoint.parse(server.url), Clock(), QUICK)
        assert all(client.exchange(CALL).connect_s is not None for _ in range(2))
        assert server.connections == 2


def test_keep_alive_uses_a_connection_again() -> None:
    """With keep-alive the second request goes over the first connection: no connect time."""
    with serving([answer(b"1"), Act.READ, CHUNKED + chunked(b"2")]) as server:
        client = StreamClient(Endpoint.parse(server.url), Clock(), QUICK, keep_alive=True)
        first, second = client.exchange(CALL), client.exchange(CALL)
        client.close()
        assert server.connections == 1
    assert (first.body, second.body) == (b"1", b"2")
    assert second.connect_s is None


@pytest.mark.parametrize(
    "first",
    [
        [answer(b"1", 200, "Connection: close"), Act.HOLD],  # says that it will close
        [b"HTTP/1.1 200 OK\r\n\r\n1"],  # ends the body by closing
        [answer(b"1")],  # advertises nothing and closes, as llama.cpp does
        [answer(b"1") + b"junk", Act.HOLD],  # sends what nobody asked for
        [answer(b"1") + answer(b"?"), Act.HOLD],  # answers twice
    ],
)
def test_keep_alive_drops_a_connection_that_is_no_good(first: Script) -> None:
    """A closed or dirty connection is not used again; the next request gets a new one."""
    with serving(first, [answer(b"2")]) as server:
        client = StreamClient(Endpoint.parse(server.url), Clock(), QUICK, keep_alive=True)
        assert client.exchange(CALL).body == b"1"
        gevent.sleep(0.1)  # the server's FIN arrives
        second = client.exchange(CALL)
        client.close()
        assert (second.body, second.failure, server.connections) == (b"2", None, 2)


@pytest.mark.parametrize("end", [[], [Act.RESET]])
def test_request_that_raced_with_the_close_is_sent_once_more(end: list[Step]) -> None:
    """A kept connection that ends without an answer is the client's matter, not a failure."""
    with serving([answer(b"1"), Act.READ, *end], [answer(b"2")]) as server:
        client = StreamClient(Endpoint.parse(server.url), Clock(), QUICK, keep_alive=True)
        client.exchange(CALL)
        exchange = client.exchange(CALL)
        client.close()
        assert (exchange.body, exchange.failure, exchange.resent) == (b"2", None, True)
        assert len(server.requests) == 3
        assert server.requests[1] == server.requests[2]
    assert exchange.connect_s is not None  # what was lost before is in it, and not in the TTFT
    assert exchange.connect_s > 0
    check(exchange)


@pytest.mark.parametrize(
    ("scripts", "expected"),
    [
        ([[Act.RESET]], "reset"),  # a fresh connection
        ([[answer(b"1"), Act.READ, b"H"]], "closed"),  # a byte has come
        ([[answer(b"1"), Act.READ, CHUNKED + b"1\r\nx"]], "closed"),
        ([[answer(b"1"), Act.READ, b"\0no HTTP"]], "bad_http"),  # an answer of some kind
        ([[answer(b"1"), Act.READ, 0.2]], "closed"),  # it had the time to read the request
        ([[answer(b"1"), Act.READ], [Act.RESET]], "reset"),  # once more, not twice
    ],
)
def test_what_the_server_did_is_not_sent_again(
    scripts: list[Script], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure is the server's when it may have read the request: the record tells of it."""
    monkeypatch.setattr(client_module, "_RACE_S", 0.1)
    with serving(*scripts, [answer(b"never")]) as server:
        client = StreamClient(Endpoint.parse(server.url), Clock(), QUICK, keep_alive=True)
        exchange = client.exchange(CALL)
        if exchange.failure is None:
            exchange = client.exchange(CALL)
        client.close()
        assert kind(exchange) == expected
        assert server.connections == len(scripts)


def test_server_that_closes_at_once_is_asked_to_close() -> None:
    """llama.cpp advertises keep-alive and closes: the next request is not risked on that."""
    with serving([answer(b"1"), 0.03]) as server:
        client = StreamClient(Endpoint.parse(server.url), Clock(), QUICK, keep_alive=True)
        for _ in range(3):
            assert client.exchange(CALL).body == b"1"
            gevent.sleep(0.1)
        said = [b"Connection: keep-alive" in request for request in server.requests]
        assert said == [True, True, False]  # the second was written before it was noticed


def test_bytes_after_the_end_do_not_spoil_the_answer() -> None:
    """Bytes beyond the message are nobody's: the answer stands."""
    exchange = fetch([answer(b"whole", 200, "Connection: close") + b"junk"])
    assert (exchange.body, exchange.failure) == (b"whole", None)


def test_cancellation_passes_through_and_leaves_the_partial() -> None:
    """A killed greenlet dies of GreenletExit; its socket is closed and what arrived is kept."""
    closed: list[bool] = []
    with serving(lambda _: [CHUNKED + chunked(b"abc", end=False), Act.HOLD]) as server:
        client = StreamClient(Endpoint.parse(server.url), Clock(), QUICK)
        partials: list[Exchange | None] = []

        def user() -> None:
            try:
                client.exchange(CALL)
            except gevent.GreenletExit:
                partials.append(client.partial())
                closed.append(client._connection is None)
                raise

        greenlet = gevent.spawn(user)
        deadline = time.monotonic() + 5
        while not _has_received(client):
            assert time.monotonic() < deadline
            gevent.sleep(0.01)
        greenlet.kill()
    assert closed == [True]
    assert repr(greenlet.value) == "GreenletExit()"
    partial = partials[0]
    assert partial is not None
    check(partial)
    assert (partial.status, partial.body, kind(partial)) == (200, b"abc", "cancelled")
    assert client.partial() is None


def _has_received(client: StreamClient) -> bool:
    """Whether an exchange under way has any of the body."""
    return client._intake is not None and bool(client._intake.receive_ends)


def test_cancellation_before_the_answer() -> None:
    """A request cancelled in the queue has no status and no headers, but a sent moment."""
    with serving([Act.HOLD]) as server:
        client = StreamClient(Endpoint.parse(server.url), Clock(), QUICK)
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.1):
            client.exchange(CALL)
    partial = client.partial()
    assert partial is not None
    check(partial)
    assert (partial.status, partial.headers_s, kind(partial)) == (None, None, "cancelled")


def test_client_goes_on_after_a_cancellation() -> None:
    """A cancelled exchange leaves nothing behind that the next one could trip over."""
    with serving([CHUNKED, Act.HOLD], [answer(b"next")]) as server:
        client = StreamClient(Endpoint.parse(server.url), Clock(), QUICK, keep_alive=True)
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.1):
            client.exchange(CALL)
        exchange = client.exchange(CALL)
        client.close()
    assert (exchange.body, exchange.failure) == (b"next", None)
    assert client.partial() is None


def test_no_socket_is_left_open() -> None:
    """After successes, failures and cancellations no socket waits for the garbage collector."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        for script in ([answer(b"1")], [Act.RESET], [b"nonsense"], [CHUNKED]):
            fetch(script)
        test_cancellation_before_the_answer()
        gc.collect()
    assert [w for w in caught if issubclass(w.category, ResourceWarning)] == []


@pytest.mark.parametrize(
    "script",
    [[CHUNKED + chunked(b"x")], [answer(b"x")], [Act.RESET], [b"nonsense"], [CHUNKED + b"1\r\nx"]],
)
def test_an_exchange_leaves_no_cycle(script: Script) -> None:
    """What a request held is freed at its end, and does not wait for the garbage collector."""
    with serving(script) as server:
        client = StreamClient(Endpoint.parse(server.url), Clock(), QUICK)
        client.exchange(CALL)  # what is made once
        gc.collect()
        gc.disable()
        try:
            client.exchange(CALL)
            left = [o for o in gc.get_objects() if isinstance(o, Response | Intake)]
        finally:
            gc.enable()
    assert left == []


@pytest.mark.parametrize(
    "call",
    [
        HttpCall(method="GET", path="/a b", headers=(), body=b""),
        HttpCall(method="GET", path="/a\r\nX: y", headers=(), body=b""),
        HttpCall(method="GET", path="/", headers=(("Authorization", "Bearer s3cret\n"),), body=b""),
        HttpCall(method="GET", path="/", headers=(("X", "s3cret\u00e9"),), body=b""),
    ],
)
def test_a_call_cannot_smuggle_lines(call: HttpCall) -> None:
    """Line breaks in a path or a header are refused, without showing what may be a key."""
    client = StreamClient(Endpoint.parse("http://127.0.0.1:1"), Clock(), QUICK)
    with pytest.raises(InputError) as caught:
        client.exchange(call)
    assert "s3cret" not in str(caught.value)
