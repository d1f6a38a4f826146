"""Real engines for the whole session, and who runs beside whom.

``make test`` runs two processes. One makes load: it, its engines and its clients must find a
processor when they want one, or what they measure is the machine. The other thinks, on what the
first leaves over.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from loadtests.engines.base import EngineSpec, RunningEngine, start_engine
from loadtests.engines.model import ModelFiles, ensure_model
from loadtests.engines.vllm import find_vllm
from planner.errors import EngineError
from tests.loadtests.engines.probes import eventually, family, gone, port_is_free, port_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xdist.remote import Producer

# A machine may be busy: how long an example takes proves nothing.
settings.register_profile("headroom", deadline=None)
settings.load_profile("headroom")

if "PYTEST_XDIST_WORKER" in os.environ:
    # GNU readline in the process that started this one has put its idea of a terminal there.
    for variable in ("COLUMNS", "LINES"):
        os.environ.pop(variable, None)

_ROOT = Path(__file__).parent
_LOAD, _THOUGHT = "load", "thought"
_THINKING_ROOMS = ("dialects", "traffic")
"""Of ``tests/loadtests``: what neither measures a moment nor waits for one."""


def _group(path: Path) -> str:
    """Which of the two processes a test belongs to."""
    room, *rest = path.relative_to(_ROOT).parts
    return _LOAD if room == "loadtests" and rest[0] not in _THINKING_ROOMS else _THOUGHT


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    """The tiny model, made once a session outside of the user's cache."""
    return ensure_model("tiny", cache=tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def llamacpp(tiny_model: ModelFiles) -> Iterator[RunningEngine]:
    """A real llama.cpp with four slots: ``.url``, ``.model``, ``.pid``."""
    spec = EngineSpec(kind="llamacpp", model=tiny_model.gguf, parallel=4)
    with start_engine(spec) as engine:
        yield engine


@pytest.fixture(scope="session")
def llamacpp_single(tiny_model: ModelFiles) -> Iterator[RunningEngine]:
    """A real llama.cpp that answers one request at a time."""
    spec = EngineSpec(kind="llamacpp", model=tiny_model.gguf, parallel=1)
    with start_engine(spec) as engine:
        yield engine


@pytest.fixture(scope="session")
def vllm() -> Iterator[RunningEngine]:
    """A real vLLM on the demo model: two sequences of 512 tokens. It takes a minute to start.

    At the session's end it is stopped, and nothing of it may be left.
    """
    try:
        find_vllm()
    except EngineError as error:
        pytest.skip(str(error))
    with start_engine(EngineSpec(kind="vllm", parallel=2, context=512)) as engine:
        processes = family(engine.pid)
        assert len(processes) > 1, "vLLM keeps its engine in a process of its own"
        yield engine
    assert eventually(lambda: gone(processes))
    assert port_is_free(port_of(engine.url))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of vLLM last: it takes processor time from others even while it rests."""
    items.sort(key=lambda item: item.get_closest_marker("vllm") is not None)


class _TwoGroups(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Each of two processes runs one group."""

    def _split_scope(self, nodeid: str) -> str:
        return _group(_ROOT.parent / nodeid.partition("::")[0])


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Who gets which test, where ``make test`` runs two processes."""
    return _TwoGroups(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Step back where tests that make load run beside; processes started from here inherit it."""
    beside = "PYTEST_XDIST_WORKER" in os.environ and sys.platform == "linux"
    if beside and _group(item.path) == _THOUGHT and os.sched_getscheduler(0) != os.SCHED_IDLE:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
