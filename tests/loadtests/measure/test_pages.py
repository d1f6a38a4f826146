"""What is read from the servers' own pages: recorded ones exactly, hostile ones harmlessly."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.measure.pages import metrics_figures, ps_figures, slots_figures

HERE = Path(__file__).parent / "transcripts"
EMULATED = Path(__file__).parents[1] / "engines" / "emulator" / "transcripts"
"""Of real servers, too: what the emulator's pages are checked against."""

VLLM = (EMULATED / "vllm_metrics.txt").read_bytes()


def test_vllms_page() -> None:
    """Gauges, counters and both histograms of a recorded page of vLLM 0.32."""
    figures = metrics_figures(VLLM)
    assert figures is not None
    assert (figures["running"], figures["waiting"], figures["kv_usage"]) == (0.0, 0.0, 0.0)
    assert figures["output_tokens_total"] == 8008.0
    assert figures["prompt_tokens_total"] == 1728.0
    assert figures["preemptions_total"] == 0.0
    assert (figures["ttft_s_count"], figures["queue_s_count"]) == (48.0, 48.0)
    assert figures["ttft_s_sum"] == pytest.approx(2.065864324569702)
    assert figures["queue_s_sum"] == pytest.approx(1.5952878270009023)
    assert figures["ttft_s_bucket_le_0.005"] == 22.0
    assert "ttft_s_bucket_le_inf" in figures
    assert not any("created" in name for name in figures)


def test_llamacpps_pages() -> None:
    """Counters of a recorded page of llama.cpp, and its slots, none of which was busy."""
    figures = metrics_figures((EMULATED / "llamacpp_metrics.txt").read_bytes())
    assert figures == {
        "prompt_tokens_total": 18.0,
        "finished_output_tokens_total": 10.0,
        "running": 0.0,
        "waiting": 0.0,
    }
    slots = slots_figures((HERE / "llamacpp_slots.txt").read_bytes())
    assert slots == {"running": 0.0, "slots": 4.0, "kv_usage": 0.0}


def test_ollamas_page() -> None:
    """Memory of the measured model among the resident ones; another's is not taken for it."""
    page = (HERE / "ollama_api_ps.json").read_bytes()
    loaded = {"models_loaded": 1.0, "model_bytes": 30461131.0, "model_vram_bytes": 0.0}
    assert ps_figures("tiny")(page) == loaded
    assert ps_figures("tiny:latest")(page) == loaded
    assert ps_figures("other")(page) == {"models_loaded": 1.0}
    assert ps_figures("tiny")(b'{"models": null}') == {"models_loaded": 0.0}


def test_several_engines_are_one_server() -> None:
    """Engines behind one page: requests and tokens add up, shares of a cache are averaged."""
    page = "".join(
        f'vllm:num_requests_running{{engine="{n}"}} {n + 1}\n'
        f'vllm:kv_cache_usage_perc{{engine="{n}"}} 0.{n + 1}\n'
        for n in range(3)
    )
    figures = metrics_figures(page.encode())
    assert figures == {"running": 6.0, "kv_usage": pytest.approx(0.2)}


def test_busy_slots_hold_prompt_and_output() -> None:
    """Tokens of busy slots over all slots' room; a slot that does not tell leaves it open."""
    idle = '{"is_processing": false, "n_ctx": 1000, "n_prompt_tokens": 900}'
    busy = '{"is_processing": true, "n_ctx": 1000, "n_prompt_tokens": 60, "next_token": [%s]}'
    page = f"[{idle}, {busy % '{}'}]".replace("{}", '{"n_decoded": 40}')
    assert slots_figures(page.encode()) == {"running": 1.0, "slots": 2.0, "kv_usage": 0.05}
    page = f"[{idle}, {busy % '{}'}]"
    assert slots_figures(page.encode()) == {"running": 1.0, "slots": 2.0}


@pytest.mark.parametrize(
    "page",
    [
        b'vllm:num_requests_running{engine="0 1.0\n',
        b"vllm:num_requests_running one\n",
        b"vllm:num_requests_running{ } \n",
        b'vllm:num_requests_running{a="1",a="1"} 1\n',
        b'vllm:num_requests_running{a="1", ="1"} 1\n',
        b'vllm:num_requests_running{x="' + b"y" * 5000 + b'"} 1\n',
        b"vllm:num_requests_running 1\n" * 3000,
    ],
)
def test_a_page_that_cannot_be_read_is_missing(page: bytes) -> None:
    """A wanted line that is malformed, too long, or one of too many: the look is a missed one."""
    assert metrics_figures(page) is None


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1", "1e400", "-Inf", "9" * 400])
def test_figures_that_nobody_can_mean_are_left_out(value: str) -> None:
    """What is not finite, or negative, is not reported at all, and never 0."""
    page = f"vllm:num_requests_running {value}\nvllm:num_requests_waiting 3\n"
    assert metrics_figures(page.encode()) == {"waiting": 3.0}


def test_a_hostile_page_costs_little() -> None:
    """The longest page that is looked at, of the worst lines, is parsed in bounded time."""
    line = b"vllm:num_requests_running{" + b'a="\\\\\\"",' * 200 + b"} 1"
    began = time.process_time()
    metrics_figures(b"\n".join([line[:2000]] * 2000))
    metrics_figures(b"x" * 2**22)
    slots_figures(b"[" * 2**20)
    assert time.process_time() - began < 10


lines = st.one_of(
    st.binary(max_size=80),
    st.sampled_from(
        [b"vllm:num_requests_running", b"vllm:time_to_first_token_seconds_bucket",
         b"llamacpp:requests_deferred"]
    ).flatmap(lambda name: st.binary(max_size=60).map(lambda rest: name + rest)),
    st.builds(
        lambda le, value: f'vllm:time_to_first_token_seconds_bucket{{le="{le}"}} {value}'.encode(),
        st.text(max_size=10), st.floats(),
    ),
)  # fmt: skip


@given(st.lists(lines, max_size=12).map(b"\n".join))
def test_no_page_of_metrics_breaks_the_reader(page: bytes) -> None:
    """Any bytes give finite figures that are not negative, of our names, or none."""
    figures = metrics_figures(page)
    for name, value in (figures or {}).items():
        assert name.isascii()
        assert len(name) < 60
        assert math.isfinite(value)
        assert value >= 0


@given(st.one_of(st.binary(max_size=200), st.sampled_from([b"[]", b"[{}]", b"null", b'{"a": 1}'])))
def test_no_json_breaks_the_readers(page: bytes) -> None:
    """Any bytes in place of JSON give figures or none."""
    for read in (slots_figures, ps_figures("m")):
        figures = read(page)
        assert figures is None or all(math.isfinite(value) for value in figures.values())
