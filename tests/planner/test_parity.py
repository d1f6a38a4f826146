"""Where texts part and whether a difference means something: against truths not made by us."""

from __future__ import annotations

import math
import os.path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import InputError
from planner.parity import (
    Answer,
    excess,
    excess_p_value,
    holm,
    judged,
    own_parity,
    pair_parity,
    parting,
    pieces,
    token_texts,
)
from planner.parity_records import PARITY_SCHEMA, PairParity, ParityReport, decode_parity

SEQUENCE = st.lists(st.sampled_from("abc"), max_size=8)


def answer(text: str, tokens: tuple[bytes, ...] | None = None, prompt: int | None = 9) -> Answer:
    """An answer."""
    return Answer(text, tokens, prompt, len(text))


def spoken(*words: str) -> Answer:
    """An answer with one token a word."""
    return answer("".join(words), tuple(word.encode() for word in words))


def rng() -> np.random.Generator:
    """Fixed randomness."""
    return np.random.default_rng(7)


def paired(a: Any, b: Any) -> PairParity:
    """The judged pair of two servers' answers."""
    pair = pair_parity(("a", "b"), a, b, rng=rng())
    assert pair is not None
    return judged([pair])[0]


@given(SEQUENCE, SEQUENCE)
def test_parting_is_the_common_prefix(a: list[str], b: list[str]) -> None:
    """Two sequences part where their common prefix ends, and equal ones do not."""
    common = len(os.path.commonprefix(["".join(a), "".join(b)]))  # noqa: RUF071 - characters are meant
    assert parting(a, b) == (None if a == b else common)


@given(st.lists(st.sampled_from(["word", "don", "x1", "!", ",", "{"]), max_size=8),
       st.lists(st.sampled_from([" ", "\n", "\t ", "  "]), min_size=9, max_size=9))  # fmt: skip
def test_pieces_do_not_see_white_space(words: list[str], spaces: list[str]) -> None:
    """A text has the same words and marks however they are spaced."""
    text = "".join(s + w for w, s in zip(words, spaces, strict=False)) + spaces[-1]
    assert pieces(text) == tuple(words)


@given(st.lists(st.sampled_from([" a", "b", "ü", "\n", "漢"]), max_size=6),
       st.sampled_from([b"", b"</s>", b"\xe6"]))  # fmt: skip
def test_tokens_of_a_text(words: list[str], end_mark: bytes) -> None:
    """Tokens that spell the text are its own, and an end mark behind them is cut off."""
    spelt = [word.encode() for word in words]
    extra = [end_mark] if end_mark else []
    assert token_texts([*spelt, *extra], "".join(words)) == tuple(spelt)
    if words:
        assert token_texts([b"?", *spelt], "".join(words)) is None
        assert token_texts(spelt[:-1], "".join(words)) is None


CODES = st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=5).map(tuple),
                 min_size=1, max_size=5)  # fmt: skip


@given(CODES, st.data())
def test_excess_is_symmetric_and_bounded(a: list[tuple[int, ...]], data: st.DataObject) -> None:
    """Neither server comes first; an excess is at most 1, and never below what chance can give."""
    b = [data.draw(st.lists(st.integers(0, 2), min_size=2, max_size=5).map(tuple)) for _ in a]
    found = excess(a, b)
    assert excess(b, a) == pytest.approx(found)
    assert -1 <= found <= 1


def test_excess_of_steady_servers_is_the_share_that_differs() -> None:
    """Of servers that repeat themselves it is the share of prompts with another answer."""
    a = [(0, 0, 0)] * 8
    assert excess(a, a) == 0.0
    assert excess(a, [(1, 1, 1)] * 8) == 1.0
    assert excess(a, [(1, 1, 1)] * 2 + [(0, 0, 0)] * 6) == pytest.approx(0.25)


def test_excess_is_unbiased() -> None:
    """Servers that draw from the same answers have none on average, however unsteady they are."""
    random = rng()
    draws = random.integers(0, 3, size=(4000, 2, 4))
    values = [excess([tuple(x)], [tuple(y)]) for x, y in draws.tolist()]
    assert np.mean(values) == pytest.approx(
        0, abs=4 * float(np.std(values)) / math.sqrt(len(values))
    )


@pytest.mark.parametrize("repeats", [2, 3, 5])
def test_p_value_of_one_prompt_is_the_exact_one(repeats: int) -> None:
    """Two steady servers that differ on one prompt: 2 of the C(2n, n) ways are as extreme."""
    a, b = [(0,) * repeats, (5, 5)], [(1,) * repeats, (5, 5)]
    exact = 2 / math.comb(2 * repeats, repeats)
    found = excess_p_value(a, b, rng=rng(), draws=20_000)
    assert found == pytest.approx(exact, abs=4 * math.sqrt(exact / 20_000) + 1e-4)


def test_p_value_keeps_its_level() -> None:
    """Of servers that answer alike, about one in twenty is called different at 0.05, not more."""
    random = rng()
    found = []
    for _ in range(400):
        draws = random.integers(0, 2, size=(2, 6, 4))
        a, b = ([tuple(x) for x in side] for side in draws.tolist())
        found.append(excess_p_value(a, b, rng=random, draws=199))
    # 0.05 and four standard errors of 400 draws.
    assert np.mean(np.array(found) <= 0.05) <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 400)
    assert min(found) > 0


def test_p_value_of_equal_answers_is_one() -> None:
    """Where nothing differs nothing can be significant."""
    assert excess_p_value([(0, 0)], [(0, 0)], rng=rng(), draws=99) == 1.0


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=6))
def test_holm(p_values: list[float]) -> None:
    """Holm's: the smallest times all, in the same order, never below the raw one, never above 1."""
    found = holm(p_values)
    assert min(found) == pytest.approx(min(1.0, min(p_values) * len(p_values)))
    assert all(raw <= corrected <= 1 for raw, corrected in zip(p_values, found, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert list(np.array(found)[order]) == sorted(found)


def test_holm_by_example() -> None:
    """The textbook's four p-values (Holm 1979, by hand)."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


STEADY = (spoken("the", " sea", " is", " calm"),) * 5
OTHER = (spoken("the", " sea", " was", " rough"),) * 5


def test_same_servers() -> None:
    """Servers that never differ are the same, and how sure that is depends on the prompts."""
    pair = paired((STEADY,) * 12, (STEADY,) * 12)
    assert (pair.verdict, pair.excess, pair.p_value, pair.parts_at) == ("same", 0.0, 1.0, None)
    assert pair.identical is not None
    assert (pair.identical.value, pair.identical.n) == (1.0, 12)
    # Clopper & Pearson: 0.05 ** (1 / 12).
    assert pair.identical.low == pytest.approx(0.05 ** (1 / 12))
    assert pair.edit_distance.value == 0


def test_one_steady_difference_is_real() -> None:
    """Five repeats each are enough to call one prompt of twelve a real difference."""
    pair = paired((STEADY,) * 12, (OTHER,) + (STEADY,) * 11)
    assert pair.verdict == "different"
    assert pair.unit == "tokens"
    (parted,) = pair.partings
    assert (parted.prompt, parted.at, parted.a_goes_on, parted.b_goes_on) == (
        0, 2, " is calm", " was rough",
    )  # fmt: skip
    assert pair.parts_at is not None
    assert pair.parts_at.value == 2
    assert pair.edit_distance.value == pytest.approx(2 / 4 / 12)


def test_unsteady_servers_cannot_be_told_apart() -> None:
    """A difference that each one's own repeats show as well is undecided."""
    mixed = (STEADY[0], OTHER[0], STEADY[0], OTHER[0], STEADY[0])
    pair = paired((mixed,) * 6, (mixed[::-1][1:] + mixed[:1],) * 6)
    assert pair.verdict == "undecided"
    own = own_parity("a", (mixed,) * 6, None, failed=0, rng=rng())
    assert own.identical is not None
    assert own.identical.value == 0
    assert own.company_identical is None


def test_pieces_where_tokens_are_missing() -> None:
    """One answer without tokens makes the whole pair count words, whatever the white space."""
    bare = (answer("the sea\nis calm"),) * 5
    pair = paired((STEADY,), (bare,))
    assert (pair.unit, pair.verdict) == ("pieces", "same")


def test_prompts_of_another_length_are_counted() -> None:
    """Servers that count the prompt's tokens otherwise were not asked the same."""
    longer = tuple(a._replace(prompt_tokens=10) for a in STEADY)
    silent = tuple(a._replace(prompt_tokens=None) for a in STEADY)
    assert paired((STEADY, STEADY), (STEADY, longer)).other_prompt_tokens == 1
    assert paired((STEADY,), (silent,)).other_prompt_tokens == 0


def test_company_that_matters() -> None:
    """A server that answers otherwise under load is seen to."""
    own = own_parity("a", (STEADY,) * 4, (OTHER,) * 4, failed=1, rng=rng())
    assert own.identical is not None
    assert own.company_identical is not None
    assert (own.identical.value, own.company_identical.value) == (1.0, 0.0)
    assert own.company_p_value is not None
    assert own.company_p_value <= 0.001
    assert (own.answers, own.failed) == (40, 1)
    calm = own_parity("a", (STEADY,) * 4, (STEADY,) * 4, failed=0, rng=rng())
    assert calm.company_p_value == 1.0


def test_missing_answers() -> None:
    """A prompt without two answers of both is left out; without any there is no pair."""
    assert pair_parity(("a", "b"), ((), STEADY[:1]), (STEADY, STEADY), rng=rng()) is None
    assert paired(((), STEADY), (STEADY, STEADY)).prompts == 1
    own = own_parity("a", ((), ()), ((), ()), failed=9, rng=rng())
    assert (own.prompts, own.identical, own.company_identical) == (0, None, None)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_answers_make_a_pair_that_can_be_kept(data: st.DataObject) -> None:
    """Whatever the texts, the figures are finite, in their bounds, and survive JSON."""
    one = st.builds(answer, st.text(max_size=6))
    some = st.lists(st.lists(one, max_size=3).map(tuple), min_size=3, max_size=3).map(tuple)
    pair = pair_parity(("a", "b"), data.draw(some), data.draw(some), rng=rng())
    if pair is None:
        return
    (found,) = judged([pair])
    assert 0 <= found.p_value <= 1
    assert 0 <= found.edit_distance.value <= 1
    assert found.identical is not None
    kept = msgspec.json.decode(msgspec.json.encode(found), type=PairParity)
    assert kept == found


def test_report_that_is_none() -> None:
    """A newer or another document is refused with what it is."""
    report = ParityReport(
        headroom_version="1", targets=(), prompts=("a",), max_tokens=1, repeat=2, company=0,
        seed=1, own=(),
    )  # fmt: skip
    assert decode_parity(msgspec.json.encode(report), what="p.json") == report
    newer = msgspec.structs.replace(report, schema=PARITY_SCHEMA + 1)
    with pytest.raises(InputError, match=r"p\.json has schema 2; .* up to 1"):
        decode_parity(msgspec.json.encode(newer), what="p.json")
    for junk in (b"", b"[]", b"{}", b"\xff", b"[" * 10**5):
        with pytest.raises(InputError, match=r"p\.json is not what headroom parity"):
            decode_parity(junk, what="p.json")
