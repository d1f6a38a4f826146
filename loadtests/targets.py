"""What a user names as the thing to measure: ``[NAME:]KIND=URL[#MODEL]``."""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import TYPE_CHECKING, Literal, get_args

import msgspec

from loadtests.dialects import DEFAULT_API, Api
from loadtests.stream.endpoint import Endpoint
from planner.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "BACKENDS",
    "Backend",
    "Target",
    "api_key",
    "key_variables",
    "parse_target",
    "unique_names",
]

Backend = Literal["llamacpp", "ollama", "vllm", "openai"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)

_EXAMPLE = "write for example vllm=http://127.0.0.1:8000 or ollama=http://127.0.0.1:11434#llama3:8b"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_VARIABLE = "HEADROOM_API_KEY"
_SHOWN = 100
_LONGEST_MODEL = 200


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A server to measure, as the user named it. Holds no key, only where to find one."""

    name: str
    backend: Backend
    url: str  # normalised, without credentials, without a slash or "/v1" at its end
    model: str | None = None  # None: the one that the server has
    api: Api = "openai"
    hardware: str | None = None
    gpus_per_replica: int | None = None
    slots: int | None = None  # as the user declares them
    api_key_env: str | None = None  # the only variable to read the key from, where the user says so

    @property
    def endpoint(self) -> Endpoint:
        """The address, taken apart."""
        return Endpoint.parse(self.url)


def parse_target(text: str) -> Target:
    """A target from ``[NAME:]KIND=URL[#MODEL]``; the name defaults to the kind.

    Raises:
        InputError: one line with what is wrong and an example.
    """
    label, equals, rest = text.strip().partition("=")
    if not equals or "/" in label:
        raise InputError(
            f"target {_shown(text)} does not say what kind of server it is: {_EXAMPLE}"
        )
    name, _, kind = label.rpartition(":")
    backend = next((known for known in BACKENDS if known == kind), None)
    if backend is None:
        raise InputError(
            f"target {_shown(text)} has the unknown kind {kind[:_SHOWN]!r}: known are "
            f"{', '.join(BACKENDS)}; {_EXAMPLE}"
        )
    if not _NAME.fullmatch(name or kind) or label.startswith(":"):
        raise InputError(
            f"target {_shown(text)} has the bad name {name[:_SHOWN]!r}: a name has at most 64 "
            f"letters, digits, dots, dashes and underscores, as in big:vllm=http://127.0.0.1:8000"
        )
    address, hash_sign, model = rest.partition("#")
    if hash_sign and (not model or len(model) > _LONGEST_MODEL or not model.isprintable()):
        raise InputError(f"target {_shown(text)} has a bad model name after '#': {_EXAMPLE}")
    try:
        url = Endpoint.parse(address).url.removesuffix("/v1")
    except InputError as error:
        raise InputError(f"target {(name or kind)!r}: {error}") from error
    return Target(
        name=name or kind,
        backend=backend,
        url=url,
        model=model or None,
        api=DEFAULT_API[backend],
    )


def unique_names(targets: Iterable[Target]) -> tuple[Target, ...]:
    """The same targets with names that differ: a name's second bearer becomes ``NAME-2``.

    Raises:
        InputError: a target is given twice. Under two names of the user's it may be.
    """
    given = tuple(targets)
    places = Counter((t.name, t.url, t.model, t.api) for t in given)
    for (_, url, model, _), count in places.items():
        if count > 1:
            what = f"{url}#{model}" if model else url
            raise InputError(
                f"the target {what} is given {count} times: leave {count - 1} of them out"
            )
    taken = {target.name for target in given}
    seen: set[str] = set()
    named: list[Target] = []
    for target in given:
        name = target.name
        number = 1
        while name in seen or (number > 1 and name in taken):
            number += 1
            name = f"{target.name}-{number}"
        seen.add(name)
        named.append(msgspec.structs.replace(target, name=name))
    return tuple(named)


def key_variables(target: Target) -> tuple[str, ...]:
    """The environment variables that may hold a target's key, the first one set counts."""
    if target.api_key_env:
        return (target.api_key_env,)
    own = re.sub(r"[^A-Z0-9]", "_", target.name.upper())
    return (f"{_VARIABLE}_{own}", _VARIABLE)


def api_key(target: Target, environ: Mapping[str, str] | None = None) -> str | None:
    """The target's key from the environment, or ``None``. It must not be stored or shown.

    Raises:
        InputError: the key cannot stand in a header, or a variable that the user named is not set.
    """
    variables = key_variables(target)
    for variable in variables:
        key = (os.environ if environ is None else environ).get(variable, "").strip()
        if not key:
            continue
        if not key.isascii() or not key.isprintable():
            raise InputError(f"the key in {variable} has a line break or a character outside ASCII")
        return key
    if target.api_key_env:
        raise InputError(
            f"target {target.name!r} takes its key from {target.api_key_env}, which is not set"
        )
    return None


def _shown(text: str) -> str:
    """The user's text for a message, bounded, and hidden where it may hold a password."""
    address, _, _ = text.partition("#")
    return "(not shown: it holds credentials)" if "@" in address else repr(text[:_SHOWN])
