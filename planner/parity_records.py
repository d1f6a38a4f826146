"""What ``headroom parity`` found: the records of its JSON, and their reader."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from planner.documents import decode_document
from planner.records import Estimate, Name, Record, TargetInfo

__all__ = [
    "PARITY_SCHEMA",
    "OwnParity",
    "PairParity",
    "ParityReport",
    "Parting",
    "Unit",
    "Verdict",
    "decode_parity",
]

PARITY_SCHEMA = 1
"""Version of the document. A newer one is refused."""

Unit = Literal["tokens", "pieces"]
"""What a position counts: the server's own tokens where every answer told them, else words and
marks, whatever white space is between them."""

Verdict = Literal["same", "different", "undecided"]
"""``same``: every answer to every prompt. ``different``: by more than their own repeats.
``undecided``: not all the same, yet each one's own repeats differ enough to explain it."""

Text = Annotated[str, msgspec.Meta(max_length=100_000)]


class OwnParity(Record, frozen=True, kw_only=True):
    """One server against itself."""

    target: Name
    unit: Unit
    prompts: int  # with at least two answers to one request at a time
    answers: int
    failed: int  # requests without a whole answer
    identical: Estimate | None  # share of prompts whose answers, asked alone, are all the same
    company_identical: Estimate | None = None  # the same with the answers in company
    company_p_value: float | None = None  # of "company changes nothing"
    output_tokens_mean: float | None = None


class Parting(Record, frozen=True, kw_only=True):
    """Where the first answers of two servers to one prompt part."""

    prompt: int  # index into ParityReport.prompts
    at: int  # index of the first token or piece that is not the same
    a_goes_on: Text
    b_goes_on: Text


class PairParity(Record, frozen=True, kw_only=True):
    """Two servers against each other."""

    a: Name
    b: Name
    unit: Unit
    prompts: int  # with at least two answers of both
    identical: Estimate | None  # share of prompts whose first answers are the same
    agreement: float  # chance that any answer of one is any answer of the other
    excess: float  # how much they differ beyond their own repeats: 0 not at all, 1 wholly
    p_value: float  # of "they answer alike"; corrected for the number of pairs in a report
    verdict: Verdict | None = None
    parts_at: Estimate | None  # median position among the answers that part
    edit_distance: Estimate  # mean normalised Levenshtein distance of the first answers
    other_prompt_tokens: int  # prompts that the two count with different numbers of tokens
    partings: tuple[Parting, ...] = ()


class ParityReport(Record, frozen=True, kw_only=True):
    """The document that ``headroom parity --json`` prints."""

    schema: int = PARITY_SCHEMA
    headroom_version: Name
    targets: tuple[TargetInfo, ...]
    prompts: tuple[Text, ...]
    max_tokens: int
    repeat: int
    company: int  # requests in flight while asked in company; 0: not asked so
    seed: int
    own: tuple[OwnParity, ...]
    pairs: tuple[PairParity, ...] = ()


def decode_parity(data: bytes, *, what: str) -> ParityReport:
    """Read what ``headroom parity --json`` printed.

    Args:
        data: the document.
        what: its name for messages, such as the file's.

    Raises:
        InputError: no such document, or one of a newer Headroom.
    """
    return decode_document(data, ParityReport, PARITY_SCHEMA, command="headroom parity", what=what)
