"""Real engines for the whole session: the embedded llama.cpp on the tiny random-weight model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from loadtests.engines.base import EngineSpec, RunningEngine, start_engine
from loadtests.engines.model import ModelFiles, ensure_model

if TYPE_CHECKING:
    from collections.abc import Iterator

# A machine may be busy: how long an example takes proves nothing.
settings.register_profile("headroom", deadline=None)
settings.load_profile("headroom")


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
