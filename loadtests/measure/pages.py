"""What a server's own pages say of its load, in the vocabulary of ``planner.telemetry``. Pure.

A page is whatever a server sent: it is bounded before anything parses it, and gives finite figures
that are not negative, or nothing.
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client.samples import Sample

__all__ = ["MAX_PAGE_BYTES", "metrics_figures", "ps_figures", "slots_figures"]

MAX_PAGE_BYTES = 4 * 2**20
"""vLLM's page has 50 kB for one engine, some 400 for eight; a page of slots 1.5 kB for each."""

T = TypeVar("T")

_MAX_LINE_BYTES = 2048
_MAX_LINES = 2000
_MOST = 1e18

_SUMS = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:generation_tokens_total": "output_tokens_total",
    "vllm:prompt_tokens_total": "prompt_tokens_total",
    "vllm:num_preemptions_total": "preemptions_total",
    "llamacpp:requests_processing": "running",
    "llamacpp:requests_deferred": "waiting",
    "llamacpp:tokens_predicted_total": "finished_output_tokens_total",
    "llamacpp:prompt_tokens_total": "prompt_tokens_total",
}
"""Metric -> figure: the sum over a server's engines."""

_MEANS = {
    "vllm:kv_cache_usage_perc": "kv_usage",
    "vllm:gpu_cache_usage_perc": "kv_usage",  # its name until 2025
    "llamacpp:kv_cache_usage_ratio": "kv_usage",  # until 2025
}
"""Metric -> figure: the mean over a server's engines."""

_HISTOGRAMS = {
    "vllm:time_to_first_token_seconds": "ttft_s",
    "vllm:request_queue_time_seconds": "queue_s",
}
"""Histogram -> figure: sum, count and buckets, each the sum over a server's engines."""

_PARTS = ("_sum", "_count", "_bucket")
_WANTED = tuple(
    f"{name}{end}".encode()
    for name in (*_SUMS, *_MEANS, *(h + part for h in _HISTOGRAMS for part in _PARTS))
    for end in ("{", " ", "\t")
)


def metrics_figures(body: bytes) -> dict[str, float] | None:
    """The figures of a Prometheus page; ``None`` if a line that is wanted cannot be read.

    Only wanted lines are parsed: the whole page of vLLM would take ten times as long.
    """
    lines = [line for line in body[:MAX_PAGE_BYTES].split(b"\n") if line.startswith(_WANTED)]
    if len(lines) > _MAX_LINES or any(len(line) > _MAX_LINE_BYTES for line in lines):
        return None
    text = b"\n".join(lines).decode("utf-8", "replace")
    try:
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    except (ValueError, IndexError, OverflowError):  # what the parser raises of bad lines
        return None
    sums: dict[str, float] = {}
    means: dict[str, list[float]] = {}
    for sample in samples:
        value = _sane(sample.value)
        if value is None:
            continue
        if sample.name in _MEANS:
            means.setdefault(_MEANS[sample.name], []).append(value)
        elif (name := _summed(sample)) is not None:
            sums[name] = sums.get(name, 0.0) + value
    return sums | {name: sum(values) / len(values) for name, values in means.items()}


def _summed(sample: Sample) -> str | None:
    """The figure that a sample adds to."""
    if sample.name in _SUMS:
        return _SUMS[sample.name]
    histogram, underscore, part = sample.name.rpartition("_")
    name = _HISTOGRAMS.get(histogram)
    if name is None:
        return None
    if part != "bucket":
        return f"{name}{underscore}{part}"
    try:
        return f"{name}_bucket_le_{float(sample.labels['le']):g}"
    except (KeyError, ValueError):
        return None


Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class _NextToken(msgspec.Struct):
    n_decoded: Count | None = None


class _Slot(msgspec.Struct):
    """One entry of ``/slots`` of llama.cpp. The texts that it may hold are not looked at."""

    is_processing: bool
    n_ctx: Count | None = None
    n_prompt_tokens: Count | None = None
    next_token: list[_NextToken] | _NextToken | None = None


def slots_figures(body: bytes) -> dict[str, float] | None:
    """Busy slots of llama.cpp and the share of the context that their requests hold.

    What idle slots keep for later prompts is not counted: it makes room when needed.
    """
    slots = _decoded(body, list[_Slot])
    if not slots:
        return None
    busy = [slot for slot in slots if slot.is_processing]
    figures = {"running": float(len(busy)), "slots": float(len(slots))}
    held = [_held(slot) for slot in busy]
    room = [slot.n_ctx for slot in slots]
    tokens = [count for count in held if count is not None]
    size = sum(count for count in room if count is not None)
    if len(tokens) == len(held) and None not in room and size:
        figures["kv_usage"] = min(sum(tokens) / size, 1.0)
    return figures


def _held(slot: _Slot) -> int | None:
    """Tokens of the request in a slot; ``None`` if it does not tell."""
    last = slot.next_token[-1] if isinstance(slot.next_token, list) and slot.next_token else None
    last = slot.next_token if isinstance(slot.next_token, _NextToken) else last
    if slot.n_prompt_tokens is None or last is None or last.n_decoded is None:
        return None
    return slot.n_prompt_tokens + last.n_decoded


class _Loaded(msgspec.Struct):
    name: str
    size: Count | None = None
    size_vram: Count | None = None


class _Resident(msgspec.Struct):
    """``/api/ps`` of Ollama."""

    models: list[_Loaded] | None = None


def ps_figures(model: str | None) -> Callable[[bytes], dict[str, float] | None]:
    """A reader of Ollama's resident models.

    Args:
        model: the measured one, as Ollama names it.
    """

    def read(body: bytes) -> dict[str, float] | None:
        page = _decoded(body, _Resident)
        if page is None:
            return None
        loaded = page.models or []
        figures = {"models_loaded": float(len(loaded))}
        for one in loaded:
            if one.name in {model, f"{model}:latest"}:
                sizes = {"model_bytes": one.size, "model_vram_bytes": one.size_vram}
                figures |= {name: float(n) for name, n in sizes.items() if n is not None}
        return figures

    return read


def _decoded(body: bytes, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(body[: MAX_PAGE_BYTES + 1], type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _sane(value: float) -> float | None:
    """A figure that a server can mean, as a float."""
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if isfinite(number) and 0 <= number <= _MOST else None
