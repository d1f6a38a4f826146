"""The test model is the same Llama in numpy, in the Hugging Face folder and in the GGUF file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load_file

from loadtests.engines.model import SHAPES, ModelFiles
from loadtests.engines.vocabulary import END, SPECIAL, Vocabulary, train_vocabulary
from loadtests.engines.weights import Shape, last_hidden, random_weights
from tests.loadtests.engines.probes import ask

if TYPE_CHECKING:
    from loadtests.engines.process import RunningEngine

SHAPE = SHAPES["tiny"]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    """The tiny model's vocabulary."""
    return train_vocabulary(SHAPE.vocabulary)


@pytest.mark.engine
def test_llamacpp_agrees_with_numpy(tiny_model: ModelFiles, llamacpp: RunningEngine) -> None:
    """Greedy tokens of llama.cpp on the GGUF are those of a numpy forward pass on the HF folder."""
    weights = load_file(tiny_model.hf / "model.safetensors")
    prompt = ask(llamacpp.url, "/tokenize", {"content": "the value of an expression is"})["tokens"]
    answer = ask(
        llamacpp.url,
        "/completion",
        {"prompt": prompt, "n_predict": 12, "temperature": 0, "return_tokens": True},
    )
    tokens = list(prompt)
    for _ in range(12):
        state = last_hidden(SHAPE, weights, np.array(tokens))[-1]
        tokens.append(int((weights["lm_head.weight"] @ state).argmax()))
    assert answer["tokens"] == tokens[len(prompt) :]


def test_answers_are_words(vocabulary: Vocabulary) -> None:
    """What is likely in any context is a word or the end, and the end has its probability."""
    weights = random_weights(SHAPE, vocabulary, np.random.default_rng(2026))
    rng = np.random.default_rng(7)
    words, end = vocabulary.words(), vocabulary.id_of(END)
    states = np.concatenate(
        [last_hidden(SHAPE, weights, rng.choice(words, 64))[16:] for _ in range(4)]
    )
    logits = states @ weights["lm_head.weight"].T
    likely = np.argsort(logits, axis=1)[:, -40:]
    assert set(likely.ravel()) <= {*words, end}
    scaled = np.exp((logits - logits.max(axis=1, keepdims=True)) / 0.8)
    kept = np.take_along_axis(scaled, likely, axis=1).sum(axis=1)
    ends = scaled[:, end] / kept
    assert 0.005 < ends.mean() < 0.02


def test_only_length_stops_the_demo_model() -> None:
    """A model without a stop probability never ends by itself."""
    shape = Shape(vocabulary=600, hidden=64, layers=1, heads=2, kv_heads=1, head_dim=32, ffn=64)
    vocabulary = train_vocabulary(shape.vocabulary)
    weights = random_weights(shape, vocabulary, np.random.default_rng(1))
    states = last_hidden(shape, weights, np.array(vocabulary.words()))
    logits = states @ weights["lm_head.weight"].T
    assert (logits[:, vocabulary.id_of(END)] < logits.max(axis=1) - 20).all()


def test_vocabulary_starts_with_the_control_tokens(vocabulary: Vocabulary) -> None:
    """The control tokens have the first ids, and every merge joins two tokens into a third."""
    assert vocabulary.tokens[:3] == SPECIAL
    assert len(vocabulary.tokens) == SHAPE.vocabulary
    known = set(vocabulary.tokens)
    assert all({left, right, left + right} <= known for left, right in vocabulary.merges)


def test_demo_model_is_sized_as_promised() -> None:
    """The demo model has 30 M weights; a decode step reads all of them but the embeddings."""
    shape = SHAPES["demo"]
    vocabulary = train_vocabulary(shape.vocabulary)
    weights = random_weights(shape, vocabulary, np.random.default_rng(0))
    total = sum(tensor.size for tensor in weights.values())
    assert total == pytest.approx(30e6, rel=0.02)
    assert total - weights["model.embed_tokens.weight"].size == pytest.approx(21.8e6, rel=0.02)


def test_heads_that_cannot_be_grouped() -> None:
    """Three heads cannot share two key-value heads."""
    with pytest.raises(ValueError, match="3 heads cannot share 2"):
        Shape(vocabulary=600, hidden=64, layers=1, heads=3, kv_heads=2, head_dim=32, ffn=64)
