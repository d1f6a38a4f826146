"""The catalogue of hardware, and the bounds that no measurement may exceed."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.hardware import builtin_catalogue
from planner.records import Estimate, OperatingPoint, TargetInfo
from planner.roofline import (
    beyond_hardware,
    decode_tokens_per_s_bound,
    kv_bytes_per_token,
    more_than_fit,
    sequences_that_fit,
    weight_bits,
    weight_bytes,
)
from planner.shapes import Gpu, Model
from tests.planner.synthetic import level, target

CATALOGUE = builtin_catalogue()
CARD = Gpu(memory_gb=24, bandwidth_gb_s=1008)
LLAMA_70B = CATALOGUE.models["llama-3.1-70b"]


def point(tpot_s: float | None, **facts: Any) -> OperatingPoint:
    """A measured point with a mean TPOT."""
    sample = level(1, 1.0, lambda share: 1 + share).point
    figures = {} if tpot_s is None else {"tpot_mean_s": _known(tpot_s)}
    return msgspec.structs.replace(sample, figures={**figures, **facts})


def _known(value: float) -> Estimate:
    return Estimate(value=value, low=None, high=None, n=100)


def on(hardware: str | None, model: str | None, gpus: int | None = 1, **facts: Any) -> TargetInfo:
    """A target on declared hardware."""
    return target("a", hardware=hardware, model=model, gpus_per_replica=gpus, **facts)


def test_impossible_twice_over() -> None:
    """36 tok/s of a 70 B model in 40 GB on 24 GB at 1.008 TB/s: neither fits nor reads so fast."""
    bits = 40e9 * 8 / LLAMA_70B.parameters
    assert bits == pytest.approx(4.5, rel=0.01)
    assert weight_bytes(LLAMA_70B, bits) == pytest.approx(40e9)
    assert weight_bytes(LLAMA_70B, bits) > CARD.memory_bytes
    dense = msgspec.structs.replace(LLAMA_70B, vocabulary=None)  # as if all of it were read
    bound = decode_tokens_per_s_bound(dense, CARD, bits=bits)
    assert bound == pytest.approx(1.008e12 / 40e9)  # 25.2 tok/s
    assert bound < 36  # which would be 1.44 TB/s
    problems = beyond_hardware(point(1 / 36), on("RTX 4090", "llama3.1:70b-q4_K_M"), CATALOGUE)
    memory, speed = problems
    assert "the weights of llama3.1:70b-q4_K_M take 35.3 GB at 4 bits" in memory
    assert "1 × RTX 4090 has 24 GB" in memory
    assert "27.8 ms is 36 tok/s in one stream, above the 29 tok/s" in speed


@pytest.mark.parametrize(
    ("hardware", "model", "gpus", "tpot_s", "refused"),
    [
        ("H100", "Llama-3.1-8B-Instruct-FP8", 1, 0.007, False),
        ("H100", "Llama-3.1-8B-Instruct-FP8", 1, 0.001, True),
        ("L4", "meta-llama/Llama-3.1-8B-BF16", 1, 0.0505, False),  # 15.01 GB / 0.3 TB/s = 50.03 ms
        ("L4", "meta-llama/Llama-3.1-8B-BF16", 1, 0.0495, True),
        ("L4", "meta-llama/Llama-3.1-8B-BF16", 2, 0.0255, False),  # two cards read twice as fast
        ("L4", "meta-llama/Llama-3.1-8B-BF16", 2, 0.0245, True),
        ("L4", "mixtral-8x7b-q4", 2, 0.0120, False),  # 12.8 of 46.7 thousand million are read
        ("unknown card", "llama-3.1-8b", 1, 1e-9, False),
        ("L4", "unknown model", 1, 1e-9, False),
        (None, "llama-3.1-8b", None, 1e-9, False),
        ("L4", None, 1, 1e-9, False),
        ("L4", "llama-3.1-8b", None, 0.0, True),  # all tokens at once
    ],
)
def test_speed_limit(
    hardware: str | None, model: str | None, gpus: int | None, tpot_s: float, refused: bool
) -> None:
    """A TPOT below the time to read the active weights is refused, just above it is not."""
    problems = beyond_hardware(point(tpot_s), on(hardware, model, gpus), CATALOGUE)
    assert bool(problems) == refused, problems
    assert all("impossible" in problem for problem in problems)


def test_speculative_decoding_may_be_faster() -> None:
    """Several tokens per reading of the weights are no error where the engine says that it does."""
    fast = on("L4", "llama-3.1-8b-bf16")
    assert beyond_hardware(point(0.03), fast, CATALOGUE)
    draft = msgspec.structs.replace(fast, settings={"speculative": "draft, 5 tokens"})
    assert not beyond_hardware(point(0.03), draft, CATALOGUE)


def test_arithmetic_limit() -> None:
    """More multiplications per second than the card has are refused too."""
    made = {"output_tokens_per_s": _known(200_000.0)}
    (problem,) = beyond_hardware(point(0.05, **made), on("L4", "llama-3.1-8b-q4"), CATALOGUE)
    assert "take 3,002 TFLOP/s, 1 × L4 has at most 242" in problem


def test_closed_forms_of_memory() -> None:
    """Llama 3.1 8B at 16 bits: 128 KiB of KV cache per token; what is left of an L4 holds few."""
    model = CATALOGUE.models["llama-3.1-8b"]
    assert kv_bytes_per_token(model, 16) == 2 * 32 * 8 * 128 * 2 == 131_072
    assert sequences_that_fit(
        model, CATALOGUE.gpus["L4"], bits=16, kv_bits=16, context_tokens=8192
    ) == int((24e9 - 16.06e9) // (131_072 * 8192))
    assert sequences_that_fit(LLAMA_70B, CARD, bits=4, kv_bits=16, context_tokens=1) == -1


def test_what_does_not_fit_is_told() -> None:
    """7.5 GB are left of an L4 beside 8 B weights of 16 bits: 7 contexts of 8192 tokens."""
    l4 = on("L4", "llama-3.1-8b-bf16")
    assert more_than_fit(l4, CATALOGUE, in_flight=7, context_tokens=8192) is None
    told = more_than_fit(l4, CATALOGUE, in_flight=8, context_tokens=8192)
    assert "8 requests at once do not fit beside the weights, at most 7 of 8,192" in (told or "")
    assert more_than_fit(on("L4", None), CATALOGUE, in_flight=99, context_tokens=8192) is None


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("llama3.1:8b-instruct-q4_K_M", 4), ("x-Q8_0.gguf", 8), ("x-IQ2_XXS.gguf", 2),
        ("Qwen2.5-7B-Instruct-AWQ", 4), ("x-GPTQ-Int4", 4), ("x-FP8", 8), ("x-bf16", 16),
        ("x-f16.gguf", 16), ("Qwen2.5-7B-Instruct", 4), ("x-w8a8", 8), ("nvidia/x-NVFP4", 4),
    ],
)  # fmt: skip
def test_bits_by_name(name: str, bits: float) -> None:
    """Quantisation is read from a name; without one as few bits as go unsaid are assumed."""
    assert weight_bits(LLAMA_70B, name) == bits
    told = msgspec.structs.replace(LLAMA_70B, bits_per_weight=4.85)
    assert weight_bits(told, name) == 4.85


@pytest.mark.parametrize(
    ("asked", "bandwidth"),
    [
        ("H100 PCIe", 2039), ("h100-sxm", 3350), ("NVIDIA H100 NVL", 3938), ("H100", 3938),
        ("4090", 1008), ("GeForce RTX 4090", 1008), ("A100-80GB", 2039), ("L4", 300),
        ("L40S", 864), ("A10", 600), ("Tesla T4", 320), ("AMD Instinct MI300X", 5300),
    ],
)  # fmt: skip
def test_gpus_by_name(asked: str, bandwidth: float) -> None:
    """Names are found however they are written; of several that fit the best figures count."""
    found = CATALOGUE.gpu(asked)
    assert found is not None
    assert found.bandwidth_gb_s == bandwidth


@pytest.mark.parametrize(
    ("asked", "key"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"), ("llama3:8b", "llama-3-8b"),
        ("qwen2.5:72b-instruct-q4_K_M", "qwen2.5-72b"), ("Qwen/Qwen2.5-7B", "qwen2.5-7b"),
        ("Qwen3-30B-A3B-FP8", "qwen3-30b-a3b"), ("mixtral:8x7b", "mixtral-8x7b"),
        ("gpt-4", None), ("", None),
    ],
)  # fmt: skip
def test_models_by_name(asked: str, key: str | None) -> None:
    """A model is found in the names that servers and people give it."""
    assert CATALOGUE.model(asked) == (CATALOGUE.models[key] if key else None)


@given(st.text(max_size=40))
def test_any_name_is_known_or_not(name: str) -> None:
    """No name raises."""
    assert CATALOGUE.gpu(name) is None or CATALOGUE.gpu(name).bandwidth_gb_s > 0  # type: ignore[union-attr]
    assert CATALOGUE.model(name) is None or isinstance(CATALOGUE.model(name), Model)


def test_every_entry_has_a_source_and_a_plausible_shape() -> None:
    """Figures come with the page that states them; parameters agree with the shape."""
    for gpu in CATALOGUE.gpus.values():
        assert (gpu.source or "").startswith("https://")
        assert 10 < gpu.bandwidth_gb_s / gpu.memory_gb < 60
    for name, model in CATALOGUE.models.items():
        assert (model.source or "").startswith("https://"), name
        assert model.vocabulary, name
        matrices = 12 * model.layers * model.hidden**2  # the usual transformer, roughly
        embeddings = model.vocabulary * model.hidden * (1 if model.tied_embeddings else 2)
        if model.active_parameters_b is None:
            assert 0.5 < (model.parameters - embeddings) / matrices < 2, name
        assert 0 < model.parameters_read <= model.parameters, name
        size = re.search(r"-(\d+(?:\.\d+)?)(b|m)\b", name)
        if size and "x" not in name:
            stated = float(size[1]) * (1 if size[2] == "b" else 1e-3)
            assert model.parameters_b == pytest.approx(stated, rel=0.25), name
