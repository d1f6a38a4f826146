"""The compiled reader against llhttp alone: any bytes, cut anywhere, end the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.stream import Clock, Timeouts, sources
from loadtests.stream.intake import Intake
from planner.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.skipif(sources.EXTENSION is None, reason="not compiled here")

LIMIT = 300
SENT_NS = 1_000
HEADS = (
    *[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"] * 6,
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding:Chunked \r\n\r\n",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunkedly\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: unchunked\r\n\r\n",
    b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
)
SIZES = (
    b"0", b"00", b"1", b"7fffffff", b"80000000", b"ffffffff", b"100000000", b"fffffff", b"10000000",
    b"7fffffffffffffff", b"8000000000000000", b"ffffffffffffffff", b"10000000000000000",
    b"-1", b"+1", b" 1", b"1 ", b"0x1", b"g", b"", b"00000003", b"0000003", b"00000000000000003",
)  # fmt: skip
ODD = (
    b"\r", b"\n", b"\r\n", b"\r\n\r\n", b";", b"0\r\n\r\n", b"\0", b"\xff",
    b"HTTP/1.1 200 OK\r\n",
)  # fmt: skip
EXTENSIONS = (b"", b"", b"", b";a", b";a=b", b';a="b"', b" ;a", b";" * 9, b"\t")
ENDS = (b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"", b"xx", b"\rx", b"\r\nx")
LASTS = (
    b"0\r\n\r\n", b"0\r\n\r\n", b"0\r\nA: b\r\n\r\n", b"0;x\r\n\r\n", b"000\r\n\r\n",
    b"00000000\r\n\r\n", b"0\r\n", b"0\r\nbad\r\n\r\n", b"0\r\n\r\njunk",
    b"0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", b"",
)  # fmt: skip


@st.composite
def chunks(draw: st.DrawFn) -> bytes:
    """A chunk that is mostly right."""
    body = draw(st.binary(min_size=1, max_size=40) | st.sampled_from([b"\r\n\r\n", b"x" * 150]))
    size = b"%x" % len(body)
    size = draw(st.sampled_from([size, size.upper(), size.zfill(4)]))
    if draw(st.integers(0, 9)) == 0:
        size = draw(st.sampled_from(SIZES))
    extension, line, end = (draw(st.sampled_from(parts)) for parts in (EXTENSIONS, ENDS, ENDS))
    if draw(st.booleans()):
        extension, line, end = b"", b"\r\n", b"\r\n"
    return size + extension + line + body + end


@st.composite
def answers(draw: st.DrawFn) -> tuple[bytes, list[int], list[int], bool]:
    """An answer's bytes, where receives and looks end, and whether the stream's end follows."""
    parts = draw(st.lists(chunks(), max_size=6))
    data = draw(st.sampled_from(HEADS)) + b"".join(parts) + draw(st.sampled_from(LASTS))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.sampled_from(ODD)) + data[at + draw(st.integers(0, 2)) :]
    places = st.integers(1, max(len(data) - 1, 1))
    cuts = sorted({*draw(st.lists(places, max_size=12)), len(data)})
    looks = sorted({*draw(st.lists(st.sampled_from(cuts), max_size=4)), len(data)})
    return data, cuts, looks, draw(st.booleans())


def _outcome(data: bytes, cuts: Sequence[int], looks: Sequence[int], *, ended: bool) -> object:
    """What an intake makes of an answer; each receive comes 1 us after the one before."""
    intake = Intake(Clock(0.0), Timeouts(), LIMIT)
    intake._clock.zero_ns = 0
    intake.start(SENT_NS)
    failure = None
    try:
        begin = 0
        for look in looks:
            ends = [cut - begin for cut in cuts if begin < cut <= look]
            stamps = [SENT_NS * (2 + i) for i, cut in enumerate(cuts) if begin < cut <= look]
            intake.take(data[begin:look], ends, stamps)
            begin = look
            if intake.response.complete:
                break
        else:
            if ended:
                intake.take(b"", [0], [SENT_NS * (2 + len(cuts))])
    except WireError as error:
        failure = error.kind
    response = intake.response
    told = (
        failure,
        response.status,
        response.headers,
        bytes(response.body)[: LIMIT + 1],  # how much more of a receive is kept does not matter
        failure is None and (response.complete, response.reusable),
        [min(end, LIMIT + 1) for end in intake.receive_ends],
        intake.receive_s,
        intake.headers_s,
        intake.ended_s,
        intake.deadline(),
        failure != "bad_http" and intake.untouched,
    )
    response.release()
    return told


@settings(max_examples=400)
@given(answers())
def test_compiled_and_plain_intake_agree(case: tuple[bytes, list[int], list[int], bool]) -> None:
    """Body, moments, deadline, failure and whether to keep the connection do not depend on C."""
    data, cuts, looks, ended = case
    compiled = _outcome(data, cuts, looks, ended=ended)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "EXTENSION", None)
        assert compiled == _outcome(data, cuts, looks, ended=ended)
