"""Pure wire formats: encode a chat, decode a stream. No sockets here.

A new dialect is one class in the shape of ``base.Dialect`` and one entry in ``DIALECTS``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadtests.dialects.base import (
    ERROR_KINDS,
    Api,
    Chat,
    Decoder,
    Dialect,
    HttpCall,
    Message,
    Reply,
)
from loadtests.dialects.llamacpp import LlamaCppNative
from loadtests.dialects.ollama import OllamaNative
from loadtests.dialects.openai import OpenAi
from planner.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "DEFAULT_API",
    "DIALECTS",
    "ERROR_KINDS",
    "Api",
    "Chat",
    "Decoder",
    "Dialect",
    "HttpCall",
    "Message",
    "Reply",
    "dialect_of",
]

DIALECTS: Mapping[tuple[str, str], Dialect] = {
    (dialect.backend, dialect.api): dialect
    for dialect in (
        LlamaCppNative(),
        OpenAi(backend="llamacpp", can_ignore_eos=True, can_cache_prompt=True, needs_model=False),
        OllamaNative(),
        OpenAi(backend="ollama"),
        OpenAi(backend="vllm", can_ignore_eos=True, needs_model=False),
        OpenAi(backend="openai"),
    )
}
"""Every dialect by its backend and API."""

DEFAULT_API: Mapping[str, Api] = {
    "llamacpp": "openai",  # the native one applies no chat template
    "ollama": "native",  # the other one hides failures and the server's own times
    "vllm": "openai",
    "openai": "openai",
}
"""The API that carries chat best on each backend."""


def dialect_of(backend: str, api: str) -> Dialect:
    """The dialect of a backend's API.

    Raises:
        InputError: there is none; the message lists those that there are.
    """
    dialect = DIALECTS.get((backend, api))
    if dialect is None:
        known = ", ".join(f"{b} ({a})" for b, a in DIALECTS)
        raise InputError(f"no dialect for backend {backend!r} with API {api!r}: known are {known}")
    return dialect
