"""Trace readers: two published formats, and files that only look like them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import InputError
from planner.traces import Trace, read_trace

# The first lines of AzureLLMInferenceTrace_code.csv (Azure/AzurePublicDataset, CC-BY-4.0).
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
2023-11-16 18:17:04.0781490,110,27
2023-11-16 18:17:04.1206440,7433,14
"""
# Of mooncake_trace.jsonl (kvcache-ai/Mooncake, Apache-2.0).
MOONCAKE = """{"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]}
{"timestamp": 0, "input_length": 7322, "output_length": 490, "hash_ids": [0, 14]}
{"timestamp": 3052, "input_length": 7236, "output_length": 794, "hash_ids": [0]}
"""
HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def test_azure() -> None:
    """Seven decimals of a second survive; lengths are the two columns."""
    trace = read_trace(AZURE.splitlines())
    assert trace.arrival_s == pytest.approx([0, 0.052, 0.098189, 0.140684], abs=1e-6)
    assert trace.prompt_tokens.tolist() == [4808, 3180, 110, 7433]
    assert trace.output_tokens.tolist() == [10, 8, 27, 14]
    assert trace.rate_per_s == pytest.approx(3 / 0.140684, rel=1e-5)


def test_azure_of_2024() -> None:
    """The later traces write their moments with the zone."""
    rows = ("2024-05-10 00:00:00.009930+00:00,2162,5", "2024-05-10 00:00:01+00:00,2399,6")
    assert read_trace([HEADER, *rows]).arrival_s == pytest.approx([0, 0.99007])


def test_mooncake() -> None:
    """Milliseconds become seconds; requests at one moment are kept."""
    trace = read_trace(MOONCAKE.splitlines(keepends=True))
    assert trace.arrival_s.tolist() == [0, 0, 3.052]
    assert trace.prompt_tokens.tolist() == [6758, 7322, 7236]
    assert trace.output_tokens.tolist() == [500, 490, 794]
    assert trace.gap_scv == pytest.approx(2.0)


@given(
    st.lists(
        st.tuples(st.integers(0, 10**9), st.integers(0, 10**7), st.integers(0, 10**7)), min_size=1
    )
)
def test_any_rows_come_back_in_order(rows: list[tuple[int, int, int]]) -> None:
    """Whatever the order of the rows: sorted by time from 0, at least a token each."""
    lines = [
        json.dumps({"timestamp": t, "input_length": p, "output_length": o}) for t, p, o in rows
    ]
    trace = read_trace(lines)
    ordered = sorted(rows, key=lambda row: row[0])
    assert trace.arrival_s == pytest.approx([(t - ordered[0][0]) / 1e3 for t, _, _ in ordered])
    assert trace.prompt_tokens.tolist() == [max(1, p) for _, p, _ in ordered]
    assert trace.output_tokens.tolist() == [max(1, o) for _, _, o in ordered]


@given(st.lists(st.text(max_size=60) | st.sampled_from(AZURE.splitlines()), max_size=8))
def test_any_text_is_read_or_refused_in_one_line(lines: list[str]) -> None:
    """No line whatever makes anything but a trace or a one-line refusal that names it."""
    try:
        trace = read_trace(lines, what="t.csv")
    except InputError as error:
        refusal = str(error)
    else:
        assert np.isfinite(trace.arrival_s).all()
        return
    assert refusal.startswith("t.csv")
    assert "\n" not in refusal


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "trace is empty"),
        ("\n\n", "trace is empty"),
        (HEADER, "trace holds no requests"),
        ("a,b\n1,2\n", "line 1: neither an Azure trace"),
        (HEADER + "2023-11-16 18:17:03,1\n", "line 2 cannot be read: 2 columns"),
        (HEADER + "yesterday,1,2\n", "line 2 cannot be read"),
        (HEADER + "NaT,1,2\n", "line 2 cannot be read: 'NaT' is not a time"),
        (HEADER + "2023-13-41 18:17:03,1,2\n", "line 2 cannot be read"),
        (HEADER + "2023-11-16 18:17:03+05:30,1,2\n", "line 2 cannot be read"),
        (HEADER + "2023-11-16 18:17:03,1.5,2\n", "line 2 cannot be read"),
        (HEADER + "2023-11-16 18:17:03,1,-2\n", "line 2: -2 output tokens"),
        (HEADER + "2023-11-16 18:17:03,99999999999,2\n", "99999999999 prompt tokens"),
        ('{"timestamp": 0}', "line 1 cannot be read"),
        ('{"timestamp": 1e999, "input_length": 1, "output_length": 1}', "line 1"),
        (MOONCAKE + "{", "line 4 cannot be read"),
        ("{" + " " * 1_000_001, "line 1 has more than 1000000 characters"),
    ],
)
def test_bad_files_name_the_line(text: str, message: str) -> None:
    """What is wrong, and in which line."""
    with pytest.raises(InputError, match=message):
        read_trace(text.splitlines())


def test_burstiness_of_known_processes() -> None:
    """A clock has 0, Poisson about 1; too few arrivals or one moment have none."""
    rng = np.random.default_rng(1)

    def of(moments: np.ndarray) -> Trace:
        ones = np.ones(moments.size, dtype=np.int64)
        return Trace(arrival_s=moments, prompt_tokens=ones, output_tokens=ones)

    assert of(np.arange(100.0)).gap_scv == pytest.approx(0, abs=1e-12)
    assert of(np.cumsum(rng.exponential(1, 50_000))).gap_scv == pytest.approx(1, abs=0.05)
    assert of(np.arange(2.0)).gap_scv is None
    assert of(np.zeros(5)).gap_scv is None
    assert of(np.zeros(5)).rate_per_s is None
    faster = of(np.arange(100.0) ** 2).at_rate(7.0)
    assert faster.rate_per_s == pytest.approx(7.0)
    assert faster.gap_scv == pytest.approx(of(np.arange(100.0) ** 2).gap_scv)
    for rate in (0, np.nan):
        with pytest.raises(InputError, match="cannot be brought"):
            faster.at_rate(rate)
    with pytest.raises(InputError, match="cannot be brought"):
        of(np.zeros(5)).at_rate(1)
