"""What a server says when it refuses or fails, mapped onto the kinds of ``base.ERROR_KINDS``.

One table serves all engines: gateways put any of them behind any path, and their wordings do not
clash. Sources: llama.cpp ``tools/server`` (``exceed_context_size_error``, ``unavailable_error``),
vLLM ``entrypoints`` (``param``), Ollama ``server/sched.go`` and ``server/routes.go``, OpenAI's
error codes.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from planner.errors import WireError

__all__ = ["http_error", "stream_error"]

_MAX_BODY_BYTES = 2**16
_MAX_MESSAGE_CHARS = 500

_KIND_OF_TYPE = {
    "exceed_context_size_error": "context_exceeded",
    "context_length_exceeded": "context_exceeded",
    "model_not_found": "model_not_found",
    "unavailable_error": "not_ready",
    "overloaded_error": "overloaded",
    "rate_limit_exceeded": "rate_limited",
    "invalid_api_key": "unauthorized",
    "authentication_error": "unauthorized",
    "invalid_request_error": "bad_request",
    "BadRequestError": "bad_request",
}
_KIND_OF_PARAM = {"input_tokens": "context_exceeded", "input_text": "context_exceeded"}
_KIND_OF_WORDS = (
    (
        re.compile(
            r"context (length|size|window)|maximum context|exceeds? .{0,40}context", re.IGNORECASE
        ),
        "context_exceeded",
    ),
    (re.compile(r"model\b.{0,300}?\b(not found|does not exist)", re.IGNORECASE), "model_not_found"),
    (re.compile(r"^loading model|model is (still )?loading", re.IGNORECASE), "not_ready"),
    (
        re.compile(
            r"server busy|pending requests|no slot|queue (is )?full|overloaded", re.IGNORECASE
        ),
        "overloaded",
    ),
)
_KIND_OF_STATUS = {
    400: "bad_request",
    401: "unauthorized",
    403: "unauthorized",
    422: "bad_request",
    429: "rate_limited",
    500: "server_error",
    503: "overloaded",
    529: "overloaded",
}
# These say by themselves what is wrong, whatever the words.
_CERTAIN = frozenset({401, 403, 429})
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\s]+")
_SECRET = re.compile(r"bearer\s+\S+|\bsk-\S+", re.IGNORECASE)


def http_error(status: int, body: bytes) -> tuple[str, str]:
    """The kind and a one-line message of an answer that is not a 200. Never raises.

    Args:
        status: the HTTP status.
        body: the answer's body, JSON or not; only its first 64 KiB are read.
    """
    try:
        detail = msgspec.json.decode(body[:_MAX_BODY_BYTES])
    except (ValueError, RecursionError):
        detail = body[:_MAX_BODY_BYTES].decode("utf-8", "replace")
    kind, message = _classify(_unwrap(detail), status)
    return kind, f"HTTP {status}: {message or 'no message'}"


def stream_error(detail: Any) -> WireError:
    """The error for the value of an ``"error"`` field inside a 200 stream."""
    kind, message = _classify(_unwrap(detail), None)
    return WireError(kind, f"error in the stream: {message or 'no message'}")


def _unwrap(detail: Any) -> Any:
    """The innermost object that describes the error: ``{"error": …}``, FastAPI's ``detail``."""
    for key in ("error", "detail"):
        if isinstance(detail, dict) and detail.get(key):
            detail = detail[key]
    return detail[0] if isinstance(detail, list) and detail else detail


def _classify(detail: Any, status: int | None) -> tuple[str, str]:
    fields: dict[Any, Any] = detail if isinstance(detail, dict) else {"message": detail}
    words = _one_line(fields.get("message") or fields.get("msg"))
    code = fields.get("code")
    if status is None and isinstance(code, int) and 400 <= code <= 599:  # noqa: PLR2004 - HTTP errors
        status = code
    kind = (
        (_KIND_OF_STATUS[status] if status in _CERTAIN else None)
        or _lookup(_KIND_OF_PARAM, fields.get("param"))
        or _kind_of_names(code, fields.get("type"), words)
        or _kind_of_status(status)
    )
    if kind == "unauthorized":  # the server's own words may repeat the key
        words = "the server wants an API key, or refuses the one that it got"
    return kind, words


def _kind_of_names(code: Any, type_: Any, words: str) -> str | None:
    named = _lookup(_KIND_OF_TYPE, code) or _lookup(_KIND_OF_TYPE, type_)
    if named not in {None, "bad_request"}:
        return named
    said = next((kind for pattern, kind in _KIND_OF_WORDS if pattern.search(words)), None)
    return said or named


def _kind_of_status(status: int | None) -> str:
    if status is None:
        return "server_error"
    if status in _KIND_OF_STATUS:
        return _KIND_OF_STATUS[status]
    return f"http_{status // 100}xx" if 100 <= status <= 599 else "http_other"  # noqa: PLR2004 - the range of HTTP statuses


def _lookup(table: dict[str, str], key: Any) -> str | None:
    return table.get(key) if isinstance(key, str) else None


def _one_line(value: Any) -> str:
    """Text from a server as one bounded printable line, without what looks like a key."""
    if not isinstance(value, str):
        return ""
    text = _UNPRINTABLE.sub(" ", value[: 8 * _MAX_MESSAGE_CHARS]).strip()
    text = _SECRET.sub("[redacted]", text)
    return text if len(text) <= _MAX_MESSAGE_CHARS else text[:_MAX_MESSAGE_CHARS] + "…"
