"""What no engine can exceed: the memory of its GPUs, and how fast they read it.

Decoding reads every active weight once per step, and the sequence's own KV cache, so one stream
makes at most bandwidth / bytes read per token, whatever the batch (Williams, Waterman & Patterson,
*Roofline*, Commun. ACM 52, 2009; Pope et al., *Efficiently Scaling Transformer Inference*, 2022,
sec. 2.1). A measurement above that bound was not made by that model on that hardware.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from planner.units import format_duration

if TYPE_CHECKING:
    from planner.hardware import Catalogue
    from planner.records import OperatingPoint, TargetInfo
    from planner.shapes import Gpu, Model

__all__ = [
    "IMPOSSIBLE",
    "beyond_hardware",
    "decode_tokens_per_s_bound",
    "kv_bytes_per_token",
    "more_than_fit",
    "sequences_that_fit",
    "weight_bits",
    "weight_bytes",
]

IMPOSSIBLE = "impossible"
"""With this word a problem of this kind begins."""
USUAL_KV_BITS = 16.0
LEAST_BITS = 4.0
"""Bits of a weight or a KV value where nobody tells: formats with fewer say so in their names."""

_BITS = re.compile(
    r"(?<![a-z0-9])(?:[it]?q(?P<n>[1-8])(?=_|[^a-z0-9]|$)"
    r"|(?P<four>awq|gptq|int4|4-?bit|w4a\d+|mxfp4|nvfp4|nf4|fp4)"
    r"|(?P<eight>fp8|int8|8-?bit|w8a\d+)"
    r"|(?P<sixteen>b?f16|fp16|bfloat16|float16))",
    re.IGNORECASE,
)


def weight_bits(model: Model, name: str) -> float:
    """The fewest bits that a weight may have, by the catalogue or by the model's name."""
    if model.bits_per_weight is not None:
        return model.bits_per_weight
    told = []
    for match in _BITS.finditer(name):
        if match["n"]:
            told.append(float(match["n"]))
        else:
            told.append(4.0 if match["four"] else 8.0 if match["eight"] else 16.0)
    return min(told, default=LEAST_BITS)


def weight_bytes(model: Model, bits: float) -> float:
    """Bytes of all weights."""
    return model.parameters * bits / 8


def kv_bytes_per_token(model: Model, bits: float) -> float:
    """Bytes of KV cache per token: 2 · layers · KV heads · head dimension · bytes of a value."""
    return model.kv_values_per_token * bits / 8


def decode_tokens_per_s_bound(
    model: Model,
    gpu: Gpu,
    gpus: int = 1,
    *,
    bits: float,
    kv_bits: float = LEAST_BITS,
    context_tokens: float = 0.0,
) -> float:
    """Output tokens per second that one stream cannot exceed.

    Args:
        model: its shape.
        gpu: one card.
        gpus: cards that share the reading.
        bits: of a weight.
        kv_bits: of a value in the KV cache.
        context_tokens: mean number of tokens that a step attends to.
    """
    read = model.parameters_read * bits / 8 + kv_bytes_per_token(model, kv_bits) * context_tokens
    return gpus * gpu.bandwidth_bytes_per_s / read


def sequences_that_fit(
    model: Model, gpu: Gpu, gpus: int = 1, *, bits: float, kv_bits: float, context_tokens: float
) -> int:
    """Sequences of a context whose KV cache fits beside the weights; negative: not the weights."""
    free = gpus * gpu.memory_bytes - weight_bytes(model, bits)
    return int(free // (kv_bytes_per_token(model, kv_bits) * context_tokens)) if free >= 0 else -1


def more_than_fit(
    target: TargetInfo, catalogue: Catalogue, *, in_flight: int, context_tokens: float
) -> str | None:
    """A warning when so many requests at once cannot all be in memory: some will wait.

    Args:
        target: with its hardware and model as declared.
        catalogue: of both.
        in_flight: requests at once.
        context_tokens: mean length of prompt and answer together.
    """
    known = _known(target, catalogue)
    if known is None or context_tokens <= 0:
        return None
    gpu, model, gpus, bits = known
    fit = sequences_that_fit(
        model, gpu, gpus, bits=bits, kv_bits=USUAL_KV_BITS, context_tokens=context_tokens
    )
    if in_flight <= fit:
        return None
    return (
        f"{target.name}: {in_flight} requests at once do not fit beside the weights, at most "
        f"{max(fit, 0)} of {context_tokens:,.0f} tokens do (KV cache of {USUAL_KV_BITS:g} bits): "
        f"the others wait, which levels measured below that do not show"
    )


def beyond_hardware(
    point: OperatingPoint, target: TargetInfo, catalogue: Catalogue
) -> tuple[str, ...]:
    """Why a measurement cannot be what it is said to be; empty when it can, or nothing is known.

    Where the precision is not known the fewest bits are assumed: a bound that is too generous
    lets a wrong figure pass, one that is too strict would refuse a right one.
    """
    known = _known(target, catalogue)
    if known is None:
        return ()
    gpu, model, gpus, bits = known
    where = f"{gpus} × {target.hardware}"
    problems = []
    weights, memory = weight_bytes(model, bits), gpus * gpu.memory_bytes
    if weights > memory:
        problems.append(
            f"{IMPOSSIBLE}: the weights of {target.model} take {weights / 1e9:.3g} GB at {bits:g} "
            f"bits, {where} has {memory / 1e9:.3g} GB: declare the hardware, the number of GPUs "
            f"and the model that were measured (--hardware, or [models.NAME] bits_per_weight)"
        )
    context = (point.prompt_tokens_mean or 0.0) + (point.output_tokens_mean or 0.0) / 2
    bound = decode_tokens_per_s_bound(model, gpu, gpus, bits=bits, context_tokens=context)
    tpot = point.figures.get("tpot_mean_s")
    if tpot is not None and tpot.value * bound < 1 and not _speculates(target):
        problems.append(
            f"{IMPOSSIBLE}: a mean TPOT of {format_duration(tpot.value)} is "
            f"{1 / tpot.value if tpot.value else float('inf'):.3g} tok/s in one stream, above the "
            f"{bound:.3g} tok/s at which {where} can read {target.model} at {bits:g} bits: answers "
            f"came in bursts (a proxy that buffers?), or another model or hardware was measured"
        )
    made = point.figures.get("output_tokens_per_s")
    if made is not None and gpu.flops and 2 * model.parameters_read * made.value > gpus * gpu.flops:
        problems.append(
            f"{IMPOSSIBLE}: {made.value:,.0f} output tok/s take "
            f"{2e-12 * model.parameters_read * made.value:,.0f} TFLOP/s, {where} has at most "
            f"{gpus * gpu.flops / 1e12:,.0f}: another model or hardware was measured"
        )
    return tuple(problems)


def _known(target: TargetInfo, catalogue: Catalogue) -> tuple[Gpu, Model, int, float] | None:
    """Card, shape, number of cards and fewest bits of a weight; ``None`` where one is unknown."""
    gpu = catalogue.gpu(target.hardware) if target.hardware else None
    model = catalogue.model(target.model) if target.model else None
    if gpu is None or model is None:
        return None
    told = " ".join((target.model or "", *target.settings.values()))
    return gpu, model, target.gpus_per_replica or 1, weight_bits(model, told)


def _speculates(target: TargetInfo) -> bool:
    """Speculative decoding makes several tokens per reading of the weights."""
    return any("spec" in f"{key} {value}".casefold() for key, value in target.settings.items())
