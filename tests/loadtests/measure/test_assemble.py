"""From an exchange on the wire to a request record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from loadtests.dialects import dialect_of
from loadtests.measure.assemble import RequestLabel, assemble
from loadtests.stream.client import Exchange

if TYPE_CHECKING:
    from planner.records import RequestRecord

_LABEL = RequestLabel(id=7, stage=2, target="v", backend="vllm", user=3, turn=1, scheduled_s=9.0)


def _event(content: str, finish: str | None = None) -> bytes:
    reason = f'"{finish}"' if finish else "null"
    return (
        f'data: {{"choices":[{{"index":0,"delta":{{"content":"{content}"}},'
        f'"finish_reason":{reason}}}]}}\n\n'
    ).encode()


_ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
_USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":15,"completion_tokens":4}}\n\n'
_DONE = b"data: [DONE]\n\n"


def _record(parts: list[tuple[float, bytes]], **changes: Any) -> RequestRecord:
    """The record of a body that came in these receives."""
    ends = np.cumsum([len(data) for _, data in parts]).tolist()
    exchange: dict[str, Any] = {
        "status": 200,
        "headers": {},
        "body": b"".join(data for _, data in parts),
        "receive_ends": ends,
        "receive_s": [moment for moment, _ in parts],
        "connect_began_s": 9.999,
        "connect_s": 0.001,
        "sent_s": 10.0,
        "headers_s": 10.1,
        "ended_s": parts[-1][0] if parts else 10.5,
    }
    return assemble(_LABEL, Exchange(**{**exchange, **changes}), dialect_of("vllm", "openai"))


def _gaps(record: RequestRecord) -> list[float]:
    return [round(float(gap), 6) for gap in np.frombuffer(record.gaps_s, "<f4")]


def test_each_content_event_has_the_moment_of_the_receive_that_completed_it() -> None:
    """The role chunk is no token; events cut in two count when their end arrives."""
    first, second, third = _event("a"), _event("b"), _event("c", "length")
    record = _record(
        [
            (10.2, _ROLE + first[:9]),
            (10.5, first[9:] + second),
            (10.6, third[:-1]),
            (10.7, third[-1:] + _USAGE + _DONE),
        ]
    )
    assert record.status == "ok"
    assert record.first_token_s == 10.5
    assert _gaps(record) == pytest.approx([0.0, 0.1], abs=1e-6)
    assert record.coalesced_share == pytest.approx(1 / 3)
    assert (record.prompt_tokens, record.output_tokens, record.token_source) == (15, 4, "usage")
    assert (record.id, record.stage, record.user, record.turn) == (7, 2, 3, 1)
    assert record.ended_s == 10.7


def test_a_stream_without_its_end_failed_whatever_the_status() -> None:
    """HTTP 200 and some tokens, but no [DONE]: an error, with what arrived kept."""
    record = _record([(10.2, _ROLE + _event("a"))])
    assert (record.status, record.error_kind, record.http_status) == ("error", "truncated", 200)
    assert record.first_token_s == 10.2


def test_a_refusal_is_named_by_the_dialect() -> None:
    """A 404 becomes an error kind, and its body's message is kept."""
    body = b'{"error":{"message":"The model `x` does not exist.","code":404}}'
    record = _record([(10.2, body)], status=404)
    assert (record.status, record.error_kind) == ("error", "model_not_found")
    assert record.first_token_s is None


@pytest.mark.parametrize(
    ("kind", "status"),
    [("timeout_idle", "timeout"), ("cancelled", "cancelled"), ("reset", "error")],
)
def test_what_the_network_did_comes_first(kind: str, status: str) -> None:
    """Timeouts and cancellations are censored observations, other failures are errors."""
    record = _record([(10.2, _event("a"))], failure=(kind, "why " * 200))
    assert (record.status, record.error_kind) == (status, kind)
    assert record.error is not None
    assert len(record.error) <= 300


def test_no_answer_at_all_is_a_record_too() -> None:
    """A refused connection has no status, no headers and no token."""
    record = _record([], status=None, headers_s=None, failure=("connect", "refused"))
    assert (record.status, record.http_status, record.headers_s) == ("error", None, None)
    assert record.gaps_s == b""
    assert record.output_tokens is None
