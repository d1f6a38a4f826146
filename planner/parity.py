"""Do servers give the same texts? What their answers to the same greedy prompts tell.

A server asked twice at temperature 0 need not answer twice the same: batches of another shape add
up in another order, and a prefix cache changes what is computed. So each server is first compared
with itself, and two servers differ only if their answers differ by more than each one's repeats do.
That excess is the unbiased squared maximum mean discrepancy (Gretton et al., "A Kernel Two-Sample
Test", JMLR 13, 2012, eq. 3) under the kernel "1 if two answers are the same, else 0", halved, and
averaged over the prompts: 0 for equal servers, 1 for two that are steady and never agree. Its
p-value comes from permuting the answers of each prompt between the two servers, by the rule of
Phipson & Smyth (Stat. Appl. Genet. Mol. Biol. 9, 2010) that counts the sample itself.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
from rapidfuzz.distance import Levenshtein

from planner.parity_records import OwnParity, PairParity, Parting
from planner.records import Estimate
from planner.uncertainty import mean_interval, order_statistic_interval, share_interval

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    import numpy.typing as npt

    from planner.parity_records import Unit, Verdict

__all__ = [
    "SIGNIFICANCE",
    "Answer",
    "excess",
    "excess_p_value",
    "holm",
    "judged",
    "own_parity",
    "pair_parity",
    "parting",
    "pieces",
    "token_texts",
]

SIGNIFICANCE = 0.05
"""Over all pairs of one comparison together."""

DRAWS = 4999
_PIECE = re.compile(r"\w+|[^\w\s]")
_SHOWN = 40

_Codes = tuple[int, ...]


class Answer(NamedTuple):
    """One whole answer."""

    text: str
    tokens: tuple[bytes, ...] | None  # None: the server did not tell them
    prompt_tokens: int | None
    output_tokens: int | None


Answers = tuple[tuple[Answer, ...], ...]
"""For each prompt its answers, in the order of asking; failed ones are left out."""


def token_texts(tokens: Sequence[bytes], text: str) -> tuple[bytes, ...] | None:
    """The tokens that make up a text, without end marks behind it.

    Returns:
        ``None`` if the tokens do not begin with the text: then they are not its own.
    """
    wanted = text.encode("utf-8", "surrogatepass")
    if not b"".join(tokens).startswith(wanted):
        return None
    taken, length = 0, 0
    while length < len(wanted):
        length += len(tokens[taken])
        taken += 1
    return tuple(tokens[:taken])


def pieces(text: str) -> tuple[str, ...]:
    """A text as words and marks, whatever white space is between them."""
    return tuple(_PIECE.findall(text))


def parting(a: Sequence[Hashable], b: Sequence[Hashable]) -> int | None:
    """The index of the first element in which two sequences differ; ``None`` if they are equal.

    Where one is the beginning of the other, that is the length of the shorter.
    """
    for index, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return index
    return None if len(a) == len(b) else min(len(a), len(b))


def excess(a: Sequence[_Codes], b: Sequence[_Codes]) -> float:
    """By how much two servers differ beyond their own repeats: 0 not at all, 1 wholly.

    Args:
        a: for each prompt the answers of one server as codes: equal answers, equal codes. At least
            two each.
        b: the same of the other.
    """
    parts = [_halved_mmd(np.array([x]), np.array([y]))[0] for x, y in zip(a, b, strict=True)]
    return float(np.mean(parts))


def excess_p_value(
    a: Sequence[_Codes], b: Sequence[_Codes], *, rng: np.random.Generator, draws: int = DRAWS
) -> float:
    """How often servers that answer alike would show an excess as large as this one, or larger."""
    observed, permuted = 0.0, np.zeros(draws)
    for x, y in zip(a, b, strict=True):
        pooled = np.array([*x, *y])
        if np.all(pooled == pooled[0]):
            continue  # whatever the permutation, its part is 0
        observed += float(_halved_mmd(np.array([x]), np.array([y]))[0])
        shuffled = rng.permuted(np.tile(pooled, (draws, 1)), axis=1)
        permuted += _halved_mmd(shuffled[:, : len(x)], shuffled[:, len(x) :])
    rounding = 1e-9
    return float((1 + np.sum(permuted >= observed - rounding)) / (1 + draws))


def _halved_mmd(x: npt.NDArray[np.int64], y: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Half the unbiased squared MMD of each row: shapes (d, m) and (d, n), m and n at least 2."""
    within = (_agreement(x) + _agreement(y)) / 2
    between = np.mean(x[:, :, None] == y[:, None, :], axis=(1, 2))
    found: npt.NDArray[np.float64] = within - between
    return found


def _agreement(x: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The share of pairs of different repeats that agree, for each row."""
    n = x.shape[1]
    same = np.sum(x[:, :, None] == x[:, None, :], axis=(1, 2)) - n
    found: npt.NDArray[np.float64] = same / (n * (n - 1))
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for there being several (Holm, Scand. J. Statist. 6, 1979)."""
    corrected = [0.0] * len(p_values)
    floor = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        floor = max(floor, min(1.0, p_values[index] * (len(p_values) - rank)))
        corrected[index] = floor
    return corrected


def own_parity(
    target: str,
    alone: Answers,
    company: Answers | None,
    *,
    failed: int,
    rng: np.random.Generator,
) -> OwnParity:
    """One server against itself.

    Args:
        target: its name.
        alone: answers to one request at a time.
        company: answers while others were in flight; ``None``: not asked.
        failed: requests without a whole answer.
        rng: for the permutations.
    """
    unit = _unit(alone, company or ())
    repeated = [_sequences(answers, unit) for answers in alone if len(answers) > 1]
    steady = sum(len(set(answers)) == 1 for answers in repeated)
    in_company, p_value = None, None
    if company is not None:
        in_company, p_value = _in_company(alone, company, unit, rng)
    counts = [a.output_tokens for answers in alone for a in answers if a.output_tokens is not None]
    return OwnParity(
        target=target,
        unit=unit,
        prompts=len(repeated),
        answers=sum(len(answers) for answers in alone) + sum(map(len, company or ())),
        failed=failed,
        identical=_share(steady, len(repeated)),
        output_tokens_mean=float(np.mean(counts)) if counts else None,
        company_identical=in_company,
        company_p_value=p_value,
    )


def _in_company(
    alone: Answers, company: Answers, unit: Unit, rng: np.random.Generator
) -> tuple[Estimate | None, float | None]:
    """The share of prompts that company leaves as they were, and how likely chance does as much."""
    usable = _both(alone, company)
    if not usable:
        return None, None
    codes = [_coded(alone[i], company[i], unit) for i in usable]
    same = sum(len({*x, *y}) == 1 for x, y in codes)
    p_value = excess_p_value([x for x, _ in codes], [y for _, y in codes], rng=rng)
    return _share(same, len(usable)), p_value


def pair_parity(
    names: tuple[str, str], a: Answers, b: Answers, *, rng: np.random.Generator
) -> PairParity | None:
    """Two servers against each other; ``None`` if no prompt has two answers of both.

    It has no verdict yet: that depends on how many pairs there are (:func:`judged`).
    """
    usable = _both(a, b)
    if not usable:
        return None
    unit = _unit(a, b)
    codes = [_coded(a[i], b[i], unit) for i in usable]
    left, right = [c[0] for c in codes], [c[1] for c in codes]
    firsts = [(_sequence(a[i][0], unit), _sequence(b[i][0], unit)) for i in usable]
    indices = [parting(x, y) for x, y in firsts]
    distances = np.array([Levenshtein.normalized_distance(x, y) for x, y in firsts])
    low, high = None, None
    if np.ptp(distances) > 0:  # a sample without spread bounds nothing by resampling
        low, high = mean_interval(distances, draws=999, rng=rng)
    parted = np.sort([index for index in indices if index is not None])
    return PairParity(
        a=names[0],
        b=names[1],
        unit=unit,
        prompts=len(usable),
        identical=_share(indices.count(None), len(usable)),
        agreement=_between(left, right),
        excess=excess(left, right),
        p_value=excess_p_value(left, right, rng=rng),
        parts_at=_median(parted),
        edit_distance=Estimate(
            value=float(distances.mean()),
            low=None if low is None else max(0.0, low),
            high=None if high is None else min(1.0, high),
            n=len(usable),
        ),
        other_prompt_tokens=sum(_other_length(a[i][0], b[i][0]) for i in usable),
        partings=tuple(
            Parting(prompt=i, at=at, a_goes_on=_text(x[at:]), b_goes_on=_text(y[at:]))
            for i, at, (x, y) in zip(usable, indices, firsts, strict=True)
            if at is not None
        ),
    )


def judged(pairs: Sequence[PairParity]) -> tuple[PairParity, ...]:
    """All pairs of one comparison with their verdicts, p-values corrected for their number."""
    corrected = holm([pair.p_value for pair in pairs])
    return tuple(
        msgspec.structs.replace(pair, p_value=p, verdict=_verdict(pair, p))
        for pair, p in zip(pairs, corrected, strict=True)
    )


def _verdict(pair: PairParity, p_value: float) -> Verdict:
    if pair.agreement == 1.0:
        return "same"
    return "different" if p_value <= SIGNIFICANCE else "undecided"


def _between(a: Sequence[_Codes], b: Sequence[_Codes]) -> float:
    agree = [np.mean(np.equal.outer(x, y)) for x, y in zip(a, b, strict=True)]
    return float(np.mean(agree))


def _both(a: Answers, b: Answers) -> list[int]:
    """The prompts to which both have at least two answers."""
    pairs = enumerate(zip(a, b, strict=True))
    return [i for i, (x, y) in pairs if len(x) > 1 and len(y) > 1]


def _unit(*answers: Answers) -> Unit:
    """Tokens where every answer has them."""
    told = all(a.tokens is not None for some in answers for one in some for a in one)
    return "tokens" if told else "pieces"


def _sequence(answer: Answer, unit: Unit) -> tuple[Hashable, ...]:
    if unit == "tokens" and answer.tokens is not None:
        return answer.tokens
    return pieces(answer.text)


def _sequences(answers: Sequence[Answer], unit: Unit) -> list[tuple[Hashable, ...]]:
    return [_sequence(answer, unit) for answer in answers]


def _coded(a: Sequence[Answer], b: Sequence[Answer], unit: Unit) -> tuple[_Codes, _Codes]:
    """The answers to one prompt as numbers: equal answers, equal numbers."""
    known: dict[tuple[Hashable, ...], int] = {}
    x, y = (
        tuple(known.setdefault(s, len(known)) for s in _sequences(some, unit)) for some in (a, b)
    )
    return x, y


def _share(hits: int, n: int) -> Estimate | None:
    if not n:
        return None
    low, high = share_interval(hits, n)
    return Estimate(value=hits / n, low=low, high=high, n=n)


def _median(ordered: npt.NDArray[np.int64]) -> Estimate | None:
    if not len(ordered):
        return None
    low, high = order_statistic_interval(ordered.astype(float), 0.5)
    return Estimate(value=float(np.median(ordered)), low=low, high=high, n=len(ordered))


def _other_length(a: Answer, b: Answer) -> bool:
    """Whether both servers tell the length of the prompt, and not the same."""
    told = a.prompt_tokens is not None and b.prompt_tokens is not None
    return told and a.prompt_tokens != b.prompt_tokens


def _text(rest: Sequence[Hashable]) -> str:
    """The beginning of a rest of tokens or pieces, for people."""
    if rest and isinstance(rest[0], bytes):
        text = b"".join(t for t in rest[:_SHOWN] if isinstance(t, bytes)).decode("utf-8", "replace")
    else:
        text = " ".join(map(str, rest[:_SHOWN]))
    return text[:_SHOWN]
