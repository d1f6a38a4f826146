"""What each kind of server says about itself, read into one ``TargetInfo``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from loadtests.measure.inquiry import clean
from planner.records import ENGINES, KV_BLOCK, KV_TOKENS, EngineLimits, TargetInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from loadtests.measure.inquiry import Inquiry
    from loadtests.targets import Backend

__all__ = ["EXPLAIN", "ModelList", "OllamaModels", "OllamaVersion", "Properties", "metric_samples"]

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_MANY_MODELS = 10  # how many names an error message lists


class _Model(msgspec.Struct):
    """One entry of ``/v1/models``."""

    id: str
    owned_by: str | None = None
    max_model_len: Count | None = None  # vLLM
    meta: dict[str, Any] | None = None  # llama.cpp
    aliases: list[str] = []


class ModelList(msgspec.Struct):
    """``/v1/models`` of every OpenAI-compatible server."""

    data: list[_Model]
    headroom_emulator: str | None = None  # our own emulator, behind a proxy that drops headers


class _Generation(msgspec.Struct):
    n_ctx: Count


class Properties(msgspec.Struct):
    """``/props`` of llama.cpp."""

    default_generation_settings: _Generation  # of one slot
    total_slots: Count = 0  # a router tells none
    role: str | None = None
    model_path: str = ""
    model_alias: str = ""
    model_ftype: str | None = None
    build_info: str | None = None


class _Slot(msgspec.Struct):
    """One entry of ``/slots`` of llama.cpp."""

    is_processing: bool = False
    speculative: bool = False


class _Version(msgspec.Struct):
    version: str


OllamaVersion = _Version


class _Details(msgspec.Struct):
    quantization_level: str | None = None
    parameter_size: str | None = None
    context_length: Count | None = None


class _OllamaModel(msgspec.Struct):
    """One entry of ``/api/tags`` or ``/api/ps``; the last three stand in the latter only."""

    name: str
    details: _Details = msgspec.field(default_factory=_Details)
    context_length: Count | None = None
    size: Count | None = None
    size_vram: Count | None = None


class OllamaModels(msgspec.Struct):
    """``/api/tags`` and ``/api/ps`` of Ollama."""

    models: list[_OllamaModel] | None = None  # null where there are none


def _llamacpp(inquiry: Inquiry) -> TargetInfo:
    """llama.cpp: ``/props``, ``/v1/models``, ``/slots``."""
    props = inquiry.demand("/props", Properties)
    if props.role == "router":
        raise inquiry.fault(
            "is a llama.cpp router, which starts a server for each model and tells neither slots "
            "nor metrics of its own: start llama-server with the model (-m FILE) and measure that"
        )
    listed = inquiry.ask("/v1/models", ModelList)
    first = listed.data[0] if listed and listed.data else None
    path_name = re.split(r"[/\\]", props.model_path)[-1]
    aliases = first.aliases if first else []
    names = dict.fromkeys((props.model_alias, first.id if first else "", *aliases, path_name))
    model, warnings = _choose(inquiry, names, synonyms=True)
    slots = inquiry.ask("/slots", list[_Slot]) or []
    if props.total_slots == 1:
        warnings.append("it has 1 slot: requests run one after another (start it with -np N)")
    if busy := sum(slot.is_processing for slot in slots):
        warnings.append(f"{busy} of its slots are busy: somebody else is using it")
    meta = first.meta or {} if first else {}
    return _info(
        inquiry,
        engine="llama.cpp",
        version=props.build_info,
        model=model,
        limits=EngineLimits(
            slots=props.total_slots or None,
            context_tokens=props.default_generation_settings.n_ctx,
        ),
        settings={
            "model file": path_name,
            "quantization": props.model_ftype,
            "parameters": meta.get("n_params"),
            "trained context": meta.get("n_ctx_train"),
            "speculative decoding": True if any(slot.speculative for slot in slots) else None,
        },
        warnings=warnings,
    )


def _vllm(inquiry: Inquiry) -> TargetInfo:
    """vLLM: ``/v1/models``, ``/version``, ``/metrics``. It tells no slots and no queue limit."""
    listed = inquiry.demand("/v1/models", ModelList).data
    model, warnings = _choose(inquiry, (entry.id for entry in listed))
    version = inquiry.ask("/version", _Version)
    metrics = (inquiry.text("/metrics") or b"").decode("utf-8", "replace")
    busy = sum(metric_samples(metrics, "vllm:num_requests_running"))
    waiting = sum(metric_samples(metrics, "vllm:num_requests_waiting"))
    if busy or waiting:
        warnings.append(
            f"{busy:.0f} requests run and {waiting:.0f} wait already: somebody else is using it"
        )
    caches = _labels(metrics, "vllm:cache_config_info")
    cache = caches[0] if caches else {}
    named = {
        "KV cache type": "cache_dtype",
        KV_BLOCK: "block_size",
        "prefix caching": "enable_prefix_caching",
        "GPU memory share": "gpu_memory_utilization",
    }
    return _info(
        inquiry,
        engine="vLLM",
        version=version.version if version else None,
        model=model,
        limits=EngineLimits(
            context_tokens=next((m.max_model_len for m in listed if m.id == model), None)
        ),
        settings={
            KV_TOKENS: _kv_tokens(cache),
            ENGINES: len(caches) if len(caches) > 1 else None,
            **{label: cache.get(name) for label, name in named.items()},
        },
        warnings=warnings,
    )


def _kv_tokens(cache: dict[str, str]) -> str | int | None:
    """Tokens of the KV cache; older releases tell its blocks alone."""
    told = cache.get("kv_cache_size_tokens")
    counts = [cache.get(name, "") for name in ("num_gpu_blocks", "block_size")]
    if told is not None or not all(map(_COUNT.fullmatch, counts)):
        return told
    blocks, size = map(int, counts)
    return blocks * size


def _ollama(inquiry: Inquiry) -> TargetInfo:
    """Ollama: ``/api/version``, ``/api/tags``, ``/api/ps``. It tells no OLLAMA_NUM_PARALLEL."""
    version = inquiry.demand("/api/version", OllamaVersion)
    installed = inquiry.demand("/api/tags", OllamaModels).models or []
    known = [entry.name for entry in installed]
    model, warnings = _choose(inquiry, known, alternative=f"{inquiry.target.model}:latest")
    loaded = (inquiry.ask("/api/ps", OllamaModels) or OllamaModels()).models or []
    running = next((entry for entry in loaded if entry.name == model), None)
    details = next(entry.details for entry in installed if entry.name == model)
    if inquiry.target.slots is None:
        warnings.append(
            "Ollama does not tell OLLAMA_NUM_PARALLEL (--slots would); unless set, it answers one "
            "request at a time"
        )
    if running is None:
        warnings.append("the model is not loaded: its context is not known before the first answer")
    if others := len(loaded) - (running is not None):
        warnings.append(f"{others} other models are loaded and share its memory")
    share = None
    if running and running.size and running.size_vram is not None:
        share = f"{running.size_vram / running.size:.0%}"
    return _info(
        inquiry,
        engine="Ollama",
        version=version.version,
        model=model,
        limits=EngineLimits(context_tokens=running.context_length if running else None),
        settings={
            "quantization": details.quantization_level,
            "parameters": details.parameter_size,
            "trained context": details.context_length,
            "share in GPU memory": share,
        },
        warnings=warnings,
    )


def _openai(inquiry: Inquiry) -> TargetInfo:
    """Any OpenAI-compatible server: ``/v1/models`` where it has one."""
    if inquiry.target.model:
        listed = inquiry.ask("/v1/models", ModelList) or ModelList([])
    else:
        listed = inquiry.demand("/v1/models", ModelList)
    if listed.data or inquiry.target.model is None:
        model, warnings = _choose(inquiry, (entry.id for entry in listed.data))
    else:
        model, warnings = inquiry.target.model, ["it lists no models, so the name is not checked"]
    context = next((entry.max_model_len for entry in listed.data if entry.id == model), None)
    return _info(
        inquiry,
        engine=None,
        version=None,
        model=model,
        limits=EngineLimits(context_tokens=context),
        settings={},
        warnings=warnings,
    )


EXPLAIN: dict[Backend, Callable[[Inquiry], TargetInfo]] = {
    "llamacpp": _llamacpp,
    "ollama": _ollama,
    "vllm": _vllm,
    "openai": _openai,
}
"""How to read each kind of server. Each raises ``TargetError``."""


def _choose(
    inquiry: Inquiry, known: Iterable[str], *, alternative: str = "", synonyms: bool = False
) -> tuple[str, list[str]]:
    """The model to measure: the named one, else the first; and a warning where it was a choice.

    Args:
        inquiry: for the name that the user gave, and for errors.
        known: names that the server knows.
        alternative: what the named model may also be called.
        synonyms: whether all known names mean the same model.

    Raises:
        TargetError: the server has no model, or not the named one.
    """
    names = [name for name in known if name]
    wanted = inquiry.target.model
    if not names:
        raise inquiry.fault("has no model: load or pull one first")
    if wanted is None:
        warning = f"it has {len(names)} models and the first is measured: {clean(names[0])}"
        return names[0], [] if synonyms or len(names) == 1 else [warning]
    for name in (wanted, alternative):
        if name in names:
            return name, []
    shown = ", ".join(clean(name) for name in names[:_MANY_MODELS])
    more = f" and {len(names) - _MANY_MODELS} more" if len(names) > _MANY_MODELS else ""
    raise inquiry.fault(f"does not have the model {wanted!r}; it has {shown}{more}")


def _info(
    inquiry: Inquiry,
    *,
    engine: str | None,
    version: str | None,
    model: str | None,
    limits: EngineLimits,
    settings: dict[str, Any],
    warnings: list[str],
) -> TargetInfo:
    target = inquiry.target
    if model is not None and clean(model) != model:
        raise inquiry.fault("has a model whose name is too long or holds control characters")
    return TargetInfo(
        name=target.name,
        backend=target.backend,
        url=target.url,
        model=model,
        engine=engine,
        engine_version=clean(version) if version else None,
        limits=limits,
        hardware=target.hardware,
        gpus_per_replica=target.gpus_per_replica,
        slots_given=target.slots,
        settings={
            key: text
            for key, value in settings.items()
            if value is not None and (text := clean(value))
        },
        warnings=tuple(warnings),
    )


_COUNT = re.compile(r"[0-9]{1,12}")
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')


def _labels(metrics: str, name: str) -> list[dict[str, str]]:
    """Labels of all samples of a Prometheus metric: one an engine."""
    lines = metrics.splitlines()
    return [dict(_LABEL.findall(line)) for line in lines if line.startswith(name + "{")]


def metric_samples(metrics: str, name: str) -> list[float]:
    """Values of all samples of a Prometheus metric: one an engine."""
    values = []
    for line in metrics.splitlines():
        if line.startswith((name + "{", name + " ")):
            try:
                values.append(float(line.rpartition(" ")[2]))
            except ValueError:
                continue
    return values
