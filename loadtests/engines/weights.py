"""Random Llama weights that answer with words, and their forward pass in plain numpy.

The first channel of the hidden state is constant: every embedding has the same value there and no
layer writes to it. The output head's first column therefore acts as a bias for every token, by
which control tokens and broken UTF-8 are ruled out and the end of an answer gets a chosen
probability.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loadtests.engines.vocabulary import END

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from loadtests.engines.vocabulary import Vocabulary

    Array = NDArray[np.float32]
    Weights = dict[str, Array]

__all__ = ["NORM_EPSILON", "ROPE_THETA", "Shape", "last_hidden", "random_weights"]

ROPE_THETA = 10_000.0
NORM_EPSILON = 1e-5
_NEVER = -40.0  # a logit that no sampler picks
_LOGIT_SCALE = 3.0  # spread of the other logits: a few tokens are likely, none is certain
_SAMPLED_TOP_K, _SAMPLED_TEMPERATURE = 40, 0.8  # llama.cpp's and Ollama's defaults


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The architecture of a test model.

    Attributes:
        vocabulary: tokens.
        hidden, layers, heads, kv_heads, head_dim, ffn: as in Llama's configuration.
        context: longest sequence in tokens.
        stop_probability: chance of ending the answer at each token under llama.cpp's default
            sampling; ``None`` for a model that only the requested length stops.
    """

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    context: int = 8192
    stop_probability: float | None = None

    def __post_init__(self) -> None:
        """Refuse head counts that grouped-query attention cannot hold."""
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads cannot share {self.kv_heads} key-value heads")


def random_weights(shape: Shape, vocabulary: Vocabulary, rng: np.random.Generator) -> Weights:
    """Weights by their Hugging Face names, float32, the matrices as ``(outputs, inputs)``."""
    weights = dict(_layers(shape, rng))
    embeddings = rng.standard_normal((len(vocabulary.tokens), shape.hidden), dtype=np.float32)
    embeddings[:, 0] = math.sqrt(shape.hidden)  # about half of the residual stream's energy
    weights["model.embed_tokens.weight"] = embeddings
    weights["model.norm.weight"] = np.ones(shape.hidden, np.float32)
    weights["lm_head.weight"] = _head(shape, vocabulary, rng)
    if shape.stop_probability is not None:
        bias = _stop_bias(shape, vocabulary, weights, rng)
        weights["lm_head.weight"][vocabulary.id_of(END), 0] = bias
    return weights


def _layers(shape: Shape, rng: np.random.Generator) -> Iterator[tuple[str, Array]]:
    hidden, queries = shape.hidden, shape.heads * shape.head_dim
    keys = shape.kv_heads * shape.head_dim
    matrices = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (shape.ffn, hidden),
        "mlp.up_proj": (shape.ffn, hidden),
        "mlp.down_proj": (hidden, shape.ffn),
    }
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{prefix}{name}.weight", np.ones(hidden, np.float32)
        for name, size in matrices.items():
            matrix = _normal(size, rng)
            if name in ("self_attn.o_proj", "mlp.down_proj"):
                matrix[0] = 0  # what writes to the residual leaves the constant channel alone
            yield f"{prefix}{name}.weight", matrix


def _normal(size: tuple[int, int], rng: np.random.Generator) -> Array:
    matrix: Array = rng.standard_normal(size, dtype=np.float32)
    matrix /= np.float32(math.sqrt(size[1]))
    return matrix


def _head(shape: Shape, vocabulary: Vocabulary, rng: np.random.Generator) -> Array:
    """The output head; words get no bias, all else is ruled out."""
    tokens = len(vocabulary.tokens)
    head = _normal((tokens, shape.hidden), rng) * np.float32(_LOGIT_SCALE)
    # Rough value of the constant channel after the last norm: layers add energy beside it.
    constant = math.sqrt(shape.hidden) / math.sqrt(2 + 0.3 * shape.layers)
    barred = np.ones(tokens, bool)
    barred[vocabulary.words()] = False
    head[barred] = 0
    head[:, 0] = np.where(barred, _NEVER / constant, 0)
    return head


def _stop_bias(
    shape: Shape, vocabulary: Vocabulary, weights: Weights, rng: np.random.Generator
) -> float:
    """The head's entry that gives the end token its probability, averaged over random contexts."""
    assert shape.stop_probability is not None  # noqa: S101 - the caller's condition, for the types
    odds = shape.stop_probability / (1 - shape.stop_probability)
    words = np.array(vocabulary.words())
    states = np.concatenate(
        [last_hidden(shape, weights, rng.choice(words, 48))[8:] for _ in range(4)]
    )
    logits = states @ weights["lm_head.weight"].T
    likely = np.sort(logits, axis=1)[:, -_SAMPLED_TOP_K:] / _SAMPLED_TEMPERATURE
    mass = np.log(np.exp(likely).sum(axis=1)).mean()
    bias = _SAMPLED_TEMPERATURE * (mass + math.log(odds)) / states[:, 0].mean()
    # Matrix products differ in their last bits between machines; the files must not.
    return round(float(bias), 2)


def last_hidden(shape: Shape, weights: Weights, tokens: NDArray[np.int64]) -> Array:
    """The states after the final norm, ``(len(tokens), hidden)``, by a plain Llama forward pass."""
    state = weights["model.embed_tokens.weight"][tokens]
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        state = state + _attention(shape, weights, prefix + "self_attn.", _norm(state))
        state = state + _feed_forward(weights, prefix + "mlp.", _norm(state))
    return _norm(state)


def _norm(x: Array) -> Array:
    scale: Array = np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(NORM_EPSILON))
    return x / scale


def _attention(shape: Shape, weights: Weights, prefix: str, x: Array) -> Array:
    """Causal grouped-query attention."""

    def project(name: str, heads: int) -> Array:
        out: Array = x @ weights[f"{prefix}{name}.weight"].T
        return out.reshape(len(x), heads, shape.head_dim)

    group = shape.heads // shape.kv_heads
    query = _rotate(project("q_proj", shape.heads))
    key = np.repeat(_rotate(project("k_proj", shape.kv_heads)), group, axis=1)
    value = np.repeat(project("v_proj", shape.kv_heads), group, axis=1)
    scores = np.einsum("qhd,khd->hqk", query, key) / np.float32(math.sqrt(shape.head_dim))
    scores = scores + np.triu(np.full((len(x), len(x)), -np.inf, np.float32), 1)
    share = np.exp(scores - scores.max(-1, keepdims=True))
    share /= share.sum(-1, keepdims=True)
    mixed = np.einsum("hqk,khd->qhd", share, value).reshape(len(x), -1)
    out: Array = mixed @ weights[f"{prefix}o_proj.weight"].T
    return out


def _rotate(x: Array) -> Array:
    """Rotary position embedding, in the half-split layout of Hugging Face."""
    length, _, size = x.shape
    frequency = ROPE_THETA ** (-np.arange(0, size, 2) / size)
    angle = np.tile(np.arange(length)[:, None] * frequency, 2).astype(np.float32)[:, None]
    left, right = np.split(x, 2, axis=-1)
    turned = np.concatenate([-right, left], axis=-1)
    rotated: Array = x * np.cos(angle) + turned * np.sin(angle)
    return rotated


def _feed_forward(weights: Weights, prefix: str, x: Array) -> Array:
    """SwiGLU."""
    gate = x @ weights[f"{prefix}gate_proj.weight"].T
    up = x @ weights[f"{prefix}up_proj.weight"].T
    out: Array = (gate / (1 + np.exp(-gate)) * up) @ weights[f"{prefix}down_proj.weight"].T
    return out
