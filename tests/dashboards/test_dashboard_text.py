"""Names made safe, figures made readable."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboards.text import (
    count_text,
    figure_name,
    figure_text,
    interval_text,
    keep_together,
    plain,
    plotly_text,
    tick_text,
)


@given(st.text(), st.one_of(st.none(), st.integers(1, 40)))
def test_plain_is_one_short_visible_line(text: str, limit: int | None) -> None:
    """Whatever a server calls its model, what is shown is one line without control characters."""
    shown = plain(text, limit)
    assert limit is None or len(shown) <= limit
    assert not any(unicodedata.category(c)[0] == "C" for c in shown)
    assert shown == " ".join(shown.split()) or limit is not None


@given(st.text())
def test_plotly_text_has_no_tag_and_no_placeholder(text: str) -> None:
    """Plotly finds no tag, no template and no TeX in an untrusted text."""
    assert not set(plotly_text(text)) & set("<>%$\"'")


def test_plain_shortens_in_the_middle() -> None:
    """Both ends of a long name survive: its family and its quantisation."""
    assert plain("meta-llama-3.1-70b-instruct-q4_k_m", 15) == "meta-ll…-q4_k_m"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("ttft_p95_s", 0.8123, "812 ms"),
        ("output_tokens_per_s", 12345.6, "12,346 tok/s"),
        ("requests_per_s", 2.2941, "2.29 req/s"),
        ("error_rate", 0.0042, "0.420 %"),
        ("ttft_p95_s", float("inf"), "unbounded"),
    ],
)
def test_figure_text(name: str, value: float, text: str) -> None:
    """A figure carries its unit, three digits and thousands separators."""
    assert figure_text(name, value) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.55, 0.71, "550 – 710 ms"),
        (0.98, 1.02, "980 ms – 1.02 s"),
        (None, 0.71, "at most 710 ms"),
        (0.55, None, "at least 550 ms"),
        (None, None, "no interval"),
    ],
)
def test_interval_text(low: float | None, high: float | None, text: str) -> None:
    """A shared unit is said once, a missing end is said in words."""
    assert interval_text("ttft_p95_s", low, high) == text


def test_names_and_ticks() -> None:
    """Headings and axis labels are what the field writes, without needless zeros."""
    assert figure_name("e2e_p99.9_s") == "E2E p99.9"
    assert figure_name("output_tokens_per_s") == "output tokens per second"
    assert [tick_text("ttft_p95_s", v) for v in (0, 0.5, 1.0, 2.5)] == [
        "0",
        "500 ms",
        "1 s",
        "2.5 s",
    ]
    assert tick_text("output_tokens_per_s", 1500) == "1,500"
    assert count_text(1_000_000) == "1,000,000"
    assert keep_together("94 % sure, 2 replicas") == "94\u00a0% sure, 2\u00a0replicas"
