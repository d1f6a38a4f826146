"""Prompts of a wanted length in tokens, for a tokenizer that we do not have.

Words are drawn at random, so no two prompts share a prefix beyond the server's chat template and
none is answered from a prefix cache. How many tokens a word makes is learnt from the server's own
usage figures for two prompts of different lengths (``PromptScale.fit``).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from planner.errors import InputError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["CALIBRATION_WORDS", "ROUGH_SCALE", "PromptScale", "make_prompt"]

CALIBRATION_WORDS = (1, 136)
"""Lengths in words of the two calibrating prompts: short of any context limit, and far apart. The
short one is a single word, because what its words vary by goes into the overhead in full."""

# Plain English words: a common word is one or two tokens in most vocabularies, so that prompts of a
# few hundred tokens come out within some percent.
_WORDS = tuple((files("loadtests.traffic") / "words.txt").read_text("ascii").split())


@dataclass(frozen=True, kw_only=True)
class PromptScale:
    """Tokens of a prompt = overhead of the chat template + words × tokens per word."""

    tokens_per_word: float
    overhead: float

    @classmethod
    def fit(cls, short: tuple[int, int], long: tuple[int, int]) -> PromptScale:
        """A scale from two (words, prompt tokens) pairs.

        Raises:
            InputError: the server's counts do not grow with the prompt.
        """
        (words_1, tokens_1), (words_2, tokens_2) = short, long
        slope = (tokens_2 - tokens_1) / (words_2 - words_1)
        if slope <= 0:
            raise InputError(
                f"the server counts {tokens_1} prompt tokens for {words_1} words and {tokens_2} "
                f"for {words_2}: its usage figures cannot be trusted, so prompts cannot be sized"
            )
        return cls(tokens_per_word=slope, overhead=max(0.0, tokens_1 - slope * words_1))

    def words(self, tokens: int) -> int:
        """Words that make a prompt of about this many tokens, at least one."""
        return max(1, round((tokens - self.overhead) / self.tokens_per_word))


ROUGH_SCALE = PromptScale(tokens_per_word=1.3, overhead=12)
"""For a server that reports no prompt tokens: usual for English text and a chat template."""


def make_prompt(words: int, rng: np.random.Generator) -> str:
    """A prompt of this many random words."""
    # For as few numbers as these, ``rng.integers`` costs three times as much.
    places = (rng.random(words) * len(_WORDS)).astype(int)
    return " ".join(map(_WORDS.__getitem__, places.tolist()))
