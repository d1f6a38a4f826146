"""What this machine's own process table tells of a server on a loopback address.

Only settings named here are taken from a command line or an environment: the rest may hold keys.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import PurePath
from typing import TYPE_CHECKING

import psutil

from loadtests.loopback import is_loopback, listener

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loadtests.stream import Endpoint
    from loadtests.targets import Backend

__all__ = ["LocalEngine", "find_local", "read_flags", "shares_context"]

_FLAGS: dict[Backend, dict[str, str]] = {
    "llamacpp": {
        "-np": "slots", "--parallel": "slots", "-t": "threads", "--threads": "threads",
        "--release": "release",
    },
    "vllm": {
        "--max-num-seqs": "slots", "--max-num-queued-reqs": "queue limit",
        "--enforce-eager": "enforce eager", "--dtype": "dtype",
    },
}  # fmt: skip
_VARIABLES: dict[Backend, dict[str, str]] = {
    "ollama": {"OLLAMA_NUM_PARALLEL": "slots", "OLLAMA_MAX_QUEUE": "queue limit"},
    "vllm": {"OMP_NUM_THREADS": "threads"},
    "llamacpp": {"LLAMA_ARG_N_PARALLEL": "slots", "LLAMA_ARG_THREADS": "threads"},
}
_SHARE = {
    "-kvu": True, "--kv-unified": True, "-no-kvu": False, "--no-kv-unified": False,
}  # fmt: skip
_SHARE_VARIABLE = "LLAMA_ARG_KV_UNIFIED"
_ON = frozenset({"on", "enabled", "true", "1"})  # as llama.cpp reads its variables
_LLAMA_SERVER = frozenset({"llama-server", "llama-server.exe"})
_LONGEST = 40


@dataclass(frozen=True, kw_only=True)
class LocalEngine:
    """A server's process on this machine.

    Attributes:
        settings: those of its settings that are known here, by our names for them.
        cores: processor numbers that it and its children may use.
        shares_context: its slots take their tokens from one context, so that each alone may fill
            it and all of them together may not. llama.cpp does not tell this by its pages.
    """

    settings: dict[str, str] = field(default_factory=dict)
    cores: frozenset[int] = frozenset()
    shares_context: bool = False


def find_local(endpoint: Endpoint, backend: Backend) -> LocalEngine | None:
    """The process that listens on a loopback address, as far as this user may look at it."""
    if not is_loopback(endpoint):
        return None
    try:
        pid = listener(endpoint.port)
        return None if pid is None else _look(psutil.Process(pid), backend)
    except (psutil.Error, OSError):
        return None  # another user's, gone meanwhile, or a system that does not tell


def _look(process: psutil.Process, backend: Backend) -> LocalEngine:
    settings = read_flags(process.cmdline(), _FLAGS.get(backend, {}))
    environment = process.environ()
    for variable, name in _VARIABLES.get(backend, {}).items():
        if value := environment.get(variable):
            settings.setdefault(name, value[:_LONGEST])
    family = [process, *process.children(recursive=True)]
    return LocalEngine(
        settings=settings,
        cores=frozenset().union(*map(_cores, family)),
        shares_context=backend == "llamacpp"
        and shares_context(process.cmdline(), environment, settings.get("slots")),
    )


def shares_context(
    command: Sequence[str], environment: Mapping[str, str], slots: str | None
) -> bool:
    """Whether llama-server was started so that its slots share one context.

    It is told so, or the number of slots is left to it (``-np`` missing, or -1).

    Args:
        command: its command line.
        environment: its variables.
        slots: their number as its start asked for it, if it did.
    """
    for word in reversed(command):  # the last one counts
        if word in _SHARE:
            return _SHARE[word]
    if (told := environment.get(_SHARE_VARIABLE)) is not None:
        return told in _ON
    is_server = any(PurePath(word).name in _LLAMA_SERVER for word in command)
    return is_server and not (slots or "").isdigit()


def read_flags(command: Sequence[str], names: dict[str, str]) -> dict[str, str]:
    """The values of the named options of a command line: ``--a 1``, ``--a=1`` or ``--a``."""
    found: dict[str, str] = {}
    for here, following in pairwise((*command, "")):
        option, equals, value = here.partition("=")
        if option in names:
            given = value if equals else following
            # An option without a value is a switch.
            bare = not given or (given.startswith("-") and not equals)
            found[names[option]] = "yes" if bare else given[:_LONGEST]
    return found


def _cores(process: psutil.Process) -> frozenset[int]:
    try:
        affinity = getattr(process, "cpu_affinity", None)  # not on macOS
        return frozenset(affinity() if affinity else range(os.cpu_count() or 1))
    except psutil.Error:
        return frozenset()
