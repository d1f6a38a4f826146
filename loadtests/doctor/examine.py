"""The whole examination of one server: look, make it answer once, ask what it can, judge."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec
import psutil

from loadtests.dialects import DEFAULT_API
from loadtests.doctor.asking import Asker
from loadtests.doctor.cautions import Signs, cautions_of
from loadtests.doctor.features import FEATURES, Patient
from loadtests.doctor.local import find_local
from loadtests.doctor.parallel import ask_two
from loadtests.loopback import is_loopback
from loadtests.measure.backends import ModelList, OllamaModels, metric_samples
from loadtests.measure.inquiry import Inquiry, clean
from loadtests.measure.inspect import identify, inspect, probe
from loadtests.stream import Timeouts
from planner.diagnosis import Diagnosis
from planner.errors import TargetError
from planner.records import EngineLimits

if TYPE_CHECKING:
    from loadtests.doctor.local import LocalEngine
    from loadtests.targets import Target
    from planner.records import TargetInfo

__all__ = ["QUESTION_TIMEOUTS", "examine"]

QUESTION_TIMEOUTS = Timeouts(connect_s=5.0, first_byte_s=60.0, idle_s=30.0, total_s=90.0)
"""Of one question. A grammar for JSON may take a server many seconds to compile."""

_ALL_QUESTIONS_S = 300.0
_MOST_MODELS = 50
_RUNNING = ("vllm:num_requests_running", "llamacpp:requests_processing")
_WAITING = ("vllm:num_requests_waiting", "llamacpp:requests_deferred")


def examine(
    target: Target,
    *,
    bare: bool = False,
    needed_tokens: int = 0,
    timeouts: Timeouts = QUESTION_TIMEOUTS,
) -> Diagnosis:
    """Look at one server and ask it some twenty short questions.

    Args:
        target: the server, of the kind that the user named.
        bare: the user gave an address alone, and no kind.
        needed_tokens: the longest prompt and answer of the workload together.
        timeouts: of each question.

    Raises:
        TargetError: unreachable, no HTTP, no model server, no model, or its key is missing.
    """
    found = identify(Inquiry(target))
    named = None if bare else target.backend
    api = target.api if found == target.backend else DEFAULT_API[found]
    target = msgspec.structs.replace(target, backend=found, api=api)
    inquiry = Inquiry(target)
    before = inspect(target)
    busy = _busy(Asker(target, timeouts, _ALL_QUESTIONS_S))
    loaded = _loaded(inquiry)
    failed = _first_answer(target, before)
    local = find_local(target.endpoint, found)
    info = _with_local(before if failed else inspect(target), local)
    patient = Patient(asker=Asker(target, timeouts, _ALL_QUESTIONS_S), model=info.model)
    capabilities = [feature.probe(patient) for feature in FEATURES]
    if failed is None:
        capabilities.append(ask_two(target, info.model, timeouts))
    models = _models(inquiry)
    signs = Signs(
        info=info,
        named=named,
        model_named=target.model is not None,
        models=len(models),
        can={c.name: c.supported for c in capabilities},
        was_loaded=None if loaded is None else info.model in loaded,
        other_loaded=len(set(loaded or ()) - {info.model}),
        busy=busy,
        cached_tokens=patient.cached_tokens,
        failed=failed,
        needed_tokens=needed_tokens,
        loopback=is_loopback(target.endpoint),
        local=local,
        client_cores=_own_cores(),
    )
    return Diagnosis(
        target=info,
        models=tuple(models[:_MOST_MODELS]),
        capabilities=tuple(capabilities),
        cautions=cautions_of(signs),
    )


def _first_answer(target: Target, info: TargetInfo) -> str | None:
    """Why a plain chat fails, or ``None``. It also makes Ollama load the model."""
    try:
        probe(target, info)
    except TargetError as error:
        return clean(error)
    return None


def _models(inquiry: Inquiry) -> list[str]:
    listed = inquiry.ask("/v1/models", ModelList)
    return [clean(model.id) for model in listed.data] if listed else []


def _loaded(inquiry: Inquiry) -> list[str] | None:
    """The models in the memory of an Ollama; ``None`` for other servers."""
    if inquiry.target.backend != "ollama":
        return None
    running = inquiry.ask("/api/ps", OllamaModels)
    return None if running is None else [model.name for model in running.models or ()]


def _busy(asker: Asker) -> int | None:
    """Requests that run or wait at the server by its own metrics; ``None``: it shows none."""
    metrics = asker.get("/metrics").body.decode("utf-8", "replace")
    values = [v for name in (*_RUNNING, *_WAITING) for v in metric_samples(metrics, name)]
    finite = [value for value in values if 0 <= value < 2**53]
    return round(sum(finite)) if finite else None


def _with_local(info: TargetInfo, local: LocalEngine | None) -> TargetInfo:
    """The server with what its own process tells, where it does not tell it itself."""
    if local is None:
        return info
    limits = info.limits
    settings = {name: clean(value) for name, value in local.settings.items()}
    release = settings.pop("release", None)  # of our own engine, whose server knows none
    return msgspec.structs.replace(
        info,
        engine_version=release or info.engine_version,
        limits=EngineLimits(
            slots=limits.slots or _number(local.settings.get("slots")),
            context_tokens=limits.context_tokens,
            queue_limit=limits.queue_limit or _number(local.settings.get("queue limit")),
        ),
        settings=settings | info.settings,
    )


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None


def _own_cores() -> frozenset[int]:
    process = psutil.Process()
    affinity = getattr(process, "cpu_affinity", None)  # not on macOS
    return frozenset(affinity() if affinity else range(os.cpu_count() or 1))
