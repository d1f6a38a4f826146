"""Prompts: sized by the server's own counts, and never the same twice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.traffic.prompts import CALIBRATION_WORDS, PromptScale, make_prompt
from planner.errors import InputError


@given(st.floats(0.5, 4), st.integers(0, 60), st.integers(80, 8000))
def test_a_scale_is_recovered_and_hits_the_length(
    per_word: float, overhead: int, tokens: int
) -> None:
    """From two exact counts, a prompt of the wanted length comes out within one word."""
    short, long = ((words, round(words * per_word + overhead)) for words in CALIBRATION_WORDS)
    scale = PromptScale.fit(short, long)
    made = scale.words(tokens) * per_word + overhead
    # One word, and what rounding the two counts can tilt the slope over the prompt's length.
    tilt = 1 / (CALIBRATION_WORDS[1] - CALIBRATION_WORDS[0])
    assert abs(made - tokens) <= per_word + 2 + scale.words(tokens) * tilt


def test_counts_that_do_not_grow_are_refused() -> None:
    """A server whose counts ignore the prompt cannot be used to size prompts."""
    with pytest.raises(InputError, match="7 prompt tokens for 8 words and 7"):
        PromptScale.fit((8, 7), (136, 7))


@given(st.integers(1, 400), st.integers(0, 2**32 - 1))
def test_a_prompt_has_the_words_asked_for(words: int, seed: int) -> None:
    """As many words as asked, the same ones for the same seed."""
    prompt = make_prompt(words, np.random.default_rng(seed))
    assert len(prompt.split()) == words
    assert prompt == make_prompt(words, np.random.default_rng(seed))


def test_prompts_share_no_prefix() -> None:
    """Hardly two of a thousand begin with the same three words: a prefix cache finds nothing."""
    rng = np.random.default_rng(3)
    starts = {tuple(make_prompt(20, rng).split()[:3]) for _ in range(1000)}
    assert len(starts) > 990
