"""The test model's tokenizer: byte-level BPE trained on the prose that ships with every CPython."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenizers import Tokenizer

__all__ = ["CHAT_TEMPLATE", "END", "SPECIAL", "START", "Vocabulary", "train_vocabulary"]

START, TURN, END = SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""The control tokens: start of text (also padding), start of a chat turn, end of a chat turn."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""ChatML, in Jinja as Hugging Face and llama.cpp read it."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A trained tokenizer in the three views that the model files need.

    Attributes:
        json: the tokenizer as Hugging Face's ``tokenizer.json``.
        tokens: the tokens in the byte-to-Unicode spelling of GPT-2, by id.
        merges: the BPE merges, best first.
    """

    json: str
    tokens: tuple[str, ...]
    merges: tuple[tuple[str, str], ...]

    def id_of(self, token: str) -> int:
        """The id of one token."""
        return self.tokens.index(token)

    def words(self) -> list[int]:
        """The ids of tokens that look like (pieces of) English words, so that answers are text.

        Other tokens may be half a UTF-8 character, which servers hold back or replace, and then a
        content event no longer stands for a token.
        """
        return [i for i, token in enumerate(self.tokens) if _is_word(token)]


def train_vocabulary(size: int) -> Vocabulary:
    """Train a vocabulary of at most ``size`` tokens; the same tokens for the same Python release.

    Raises:
        EngineError: the ``engine`` extra is not installed, or Python came without its prose.
    """
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    except ImportError as error:
        raise EngineError(
            f"the test model needs {error.name}: pip install 'headroom-llm[engine]'"
        ) from error
    tokenizer = Tokenizer(models.BPE())
    # What llama.cpp calls the "gpt-2" pre-tokenizer.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    _train(tokenizer, size)
    return _views(tokenizer)


def _train(tokenizer: Tokenizer, size: int) -> None:
    from tokenizers import pre_tokenizers, trainers

    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(_prose(), trainer)


def _prose() -> Iterator[str]:
    """Some 700 kB of English: the language reference that ``help()`` shows."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise EngineError(
            "this Python lacks its module pydoc_data, from which the test model's vocabulary is "
            "made: install your system's full Python standard library, or give a --model"
        ) from error
    return (topics[name] for name in sorted(topics))


def _views(tokenizer: Tokenizer) -> Vocabulary:
    import msgspec

    text = tokenizer.to_str()
    ids = tokenizer.get_vocab()
    merges = msgspec.json.decode(text)["model"]["merges"]
    return Vocabulary(
        json=text,
        tokens=tuple(sorted(ids, key=ids.__getitem__)),
        merges=tuple((left, right) for left, right in merges),
    )


def _is_word(token: str) -> bool:
    """Two letters or more, perhaps after a space (which GPT-2's byte alphabet spells ``Ġ``)."""
    word = token.removeprefix("\u0120")
    return word.isascii() and word.isalpha() and len(token) > 1
