"""The HTTP call that carries a chat: headers and a JSON body."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

import msgspec

from loadtests.dialects.base import HttpCall
from planner.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadtests.dialects.base import Chat

__all__ = ["post", "required_model"]

_KEY = re.compile(r"[\x21-\x7e]+")


def post(path: str, fields: Mapping[str, Any], *, accept: str, api_key: str | None) -> HttpCall:
    """A POST of JSON that asks for a stream without compression.

    Compression is refused because a compressor holds tokens back, and its blocks would hide when
    each arrived.

    Args:
        path: absolute path.
        fields: the body; those that are ``None`` are left out.
        accept: media type of the stream.
        api_key: sent as a bearer token, and nowhere else.

    Raises:
        InputError: the key or the text cannot be sent.
    """
    headers = _headers(accept, api_key)
    try:
        body = msgspec.json.encode({k: v for k, v in fields.items() if v is not None})
    except UnicodeEncodeError as error:
        raise InputError(
            f"a message or the model's name cannot be written as UTF-8: character {error.start}"
        ) from error
    return HttpCall(method="POST", path=path, headers=headers, body=body)


@functools.lru_cache(maxsize=16)
def _headers(accept: str, api_key: str | None) -> tuple[tuple[str, str], ...]:
    headers = (
        ("Content-Type", "application/json"),
        ("Accept", accept),
        ("Accept-Encoding", "identity"),
    )
    if api_key is None:
        return headers
    if not _KEY.fullmatch(api_key):
        raise InputError(
            "the API key is empty or has a space, a line break or a non-ASCII character: "
            "an HTTP header cannot carry it"
        )
    return (*headers, ("Authorization", f"Bearer {api_key}"))


def required_model(chat: Chat, backend: str) -> str:
    """The model's name, for a server that has no default model.

    Raises:
        InputError: there is none.
    """
    if not chat.model:
        raise InputError(f"{backend} serves several models and none was named: name one")
    return chat.model
