"""The emulator's options, its profiles, and ``headroom serve emulator`` as a command."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from loadtests.engines.base import ENGINES
from loadtests.engines.commands import serve
from loadtests.engines.emulator.launch import arguments_of
from loadtests.engines.emulator.options import (
    DEFAULT_PROFILE,
    OPTION_FLAGS,
    parse_arguments,
    settings_from,
)
from loadtests.engines.emulator.profiles import find_profile, profiles
from loadtests.engines.emulator.truth import read_truth
from planner.errors import InputError
from tests.loadtests.engines.emulator.emulating import ask
from tests.loadtests.engines.probes import eventually, family, gone, port_is_free, port_of

if TYPE_CHECKING:
    from pathlib import Path

_TIMES = {"decode_per_sequence", "prefill_per_token"}  # alone they may be a step of no time
_QUEUE = {"vllm": "queue", "llamacpp": ""}
SERVE = "from loadtests.engines.commands import serve; serve(prog_name='serve')"


def options(**given: Any) -> dict[str, Any]:
    """Options as click gives them."""
    return {**dict.fromkeys(OPTION_FLAGS), "faults": (), **given}


def allowed(options: dict[str, Any]) -> set[str]:
    """The options that the kind has."""
    kind = options.get("speaks", "vllm")
    own = set(OPTION_FLAGS)
    return own if kind == "ollama" else own - {"load", "keep_alive"} - ({"queue"} - {_QUEUE[kind]})


@given(
    given_=st.fixed_dictionaries(
        {},
        optional={
            "speaks": st.sampled_from(["vllm", "ollama", "llamacpp"]),
            "profile": st.sampled_from(sorted(profiles())),
            "slots": st.integers(1, 3000),
            "base": st.floats(1e-6, 10),
            "decode_per_sequence": st.floats(1e-6, 1),
            "prefill_per_token": st.floats(0, 1),
            "kv_tokens": st.integers(16, 10**7),
            "queue": st.integers(0, 1000),
            "load": st.floats(0, 100),
            "keep_alive": st.floats(0, 1e6),
            "replicas": st.integers(1, 64),
            "served": st.just("some-model:7b"),
            "faults": st.just(("stall=0.1", "http-503=0.2")),
            "seed": st.integers(0, 2**32 - 1),
        },
    )
    .filter(lambda options: options.keys() & {"profile", "base"} or _TIMES.isdisjoint(options))
    .map(lambda options: {k: v for k, v in options.items() if k in allowed(options)})
)
def test_the_process_gets_the_same_settings(given_: dict[str, Any]) -> None:
    """What the command understood is what its process understands from the arguments."""
    asked = options(**given_)
    settings = settings_from(asked, context=None)
    assert parse_arguments(arguments_of(settings, asked), context=None) == settings


def test_defaults() -> None:
    """Without options it is the default profile under vLLM's wire formats."""
    settings = settings_from(options(), context=None)
    assert (settings.kind, settings.profile) == ("vllm", DEFAULT_PROFILE)
    assert settings.engine.slots == find_profile(DEFAULT_PROFILE).slots
    assert settings.engine.keep_alive_s == math.inf


def test_given_step_times() -> None:
    """Times alone make a custom engine; with a profile they replace its own, as its name says."""
    alone = settings_from(options(base=0.01, prefill_per_token=0.001), context=512)
    assert alone.profile == "custom"
    assert alone.engine.step.coefficients == pytest.approx((0.01, 0, 0, 0.001))
    assert alone.context_tokens == 512
    both = settings_from(options(profile=DEFAULT_PROFILE, base=0.5), context=None)
    assert both.profile == f"{DEFAULT_PROFILE}+custom"
    own = find_profile(DEFAULT_PROFILE).step.coefficients
    assert both.engine.step.coefficients == (0.5, *own[1:])


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"profile": "vllm/h100/llama"}, r"did you mean vllm/h100/llama-3\.1-70b/fp8"),
        ({"faults": ("fire=1",)}, "fault 'fire' is unknown"),
        ({"served": 'a"b'}, "the model 'a\"b' must be 1 to 200 letters"),
        ({"served": "a\r\nb"}, "must be 1 to 200 letters"),
        ({"batch_tokens": 3, "slots": 8}, "batch_tokens=3: it must be at least 9"),
        ({"decode_per_sequence": -1.0}, "step times"),
        ({"speaks": "llamacpp", "queue": 3}, "--queue cannot be given to an emulated llamacpp"),
        ({"load": 3.0}, "--load cannot be given to an emulated vllm: that is an option of ollama"),
    ],
)
def test_bad_options(given_: dict[str, Any], message: str) -> None:
    """What cannot be is refused with what could."""
    with pytest.raises(InputError, match=message):
        settings_from(options(**given_), context=None)


# TPOT (ms) and concurrency as published: InferenceMAX by ai-dynamo/aiconfigurator (Apache-2.0),
# curves S893 and S297, prompts of 1,024 tokens.
PUBLISHED = [
    ("vllm/h100/llama-3.1-70b/fp8/2gpu", 1024, 4, 17.4072),
    ("vllm/h100/llama-3.1-70b/fp8/2gpu", 1024, 16, 19.74),
    ("vllm/h100/llama-3.1-70b/fp8/2gpu", 1024, 64, 28.7686),
    ("vllm/h100/qwen3-32b/2gpu", 512, 8, 16.4783),
    ("vllm/h100/qwen3-32b/2gpu", 512, 128, 42.2877),
]


@pytest.mark.parametrize(("name", "output", "concurrency", "tpot_ms"), PUBLISHED)
def test_profiles_give_published_figures(
    name: str, output: int, concurrency: int, tpot_ms: float
) -> None:
    """A profile's TPOT is within 10 % of what was published for its hardware."""
    found = 1e3 * float(find_profile(name).step.tpot(concurrency, 1024, output))
    assert found == pytest.approx(tpot_ms, rel=0.1)


def test_profiles_are_sound() -> None:
    """Every profile has a source, reads prompts, and fits what was published to 15 %."""
    for name, profile in profiles().items():
        assert profile.source, name
        assert profile.tpot_error <= 0.15, name
        assert profile.step.per_prompt_token_s > 0, name
        assert settings_from(options(profile=name), context=None).engine.slots == profile.slots


def test_list_of_profiles() -> None:
    """``--list-profiles`` needs no KIND and tells the sources."""
    done = CliRunner().invoke(serve, ["--list-profiles"])
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) == len(profiles())
    assert "Apache-2.0" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vllm", "--profile", "x", "--slots", "3"], "--profile, --slots cannot be given to vllm"),
        (["emulator", "--threads", "2"], "--threads cannot be given to emulator"),
        (["emulator", "--profile", "x"], "profile 'x' is unknown"),
        (["emulator", "--fault", "stall=2"], "a share from 0 to 1"),
        (["emulator", "--step", "5"], "is not a duration"),
    ],
)
def test_bad_commands(arguments: list[str], message: str) -> None:
    """Bad options end in exit code 2 and one line before anything is started."""
    done = CliRunner().invoke(serve, arguments)
    assert done.exit_code == 2
    assert message in done.stderr


def test_a_truth_that_cannot_be_written(tmp_path: Path) -> None:
    """The process's own refusal reaches the user as one line."""
    truth = str(tmp_path / "absent" / "t.jsonl")
    done = CliRunner().invoke(serve, ["emulator", "--truth", truth])
    assert done.exit_code == 2
    assert "the truth cannot be written" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve(number: signal.Signals, tmp_path: Path) -> None:
    """The command announces a target, serves it, and leaves nothing but the truth."""
    truth = tmp_path / "truth.jsonl"
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", SERVE, "emulator", "--kind", "ollama", "--parallel", "3"),
            *("--context", "512", "--step", "5ms", "--truth", str(truth)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    assert process.stdout is not None
    said = json.loads(process.stdout.readline())
    processes = family(process.pid)
    try:
        assert said["target"] == f"ollama={said['url']}"
        assert (said["parallel"], said["emulates"]) == (3, "custom")
        assert "gevent" not in _modules(said["pid"])
        port = port_of(said["url"])
        answer = ask(port, "/api/generate", {"model": said["model"], "prompt": "hi"})
        assert answer.status == 200
        (address,) = {c.laddr.ip for c in psutil.Process(said["pid"]).net_connections()}
        assert address == "127.0.0.1"
        os.killpg(process.pid, number)
        output, errors = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, output, errors) == (0, "", "emulator stopped\n")
    assert eventually(lambda: gone(processes) and port_is_free(port))
    (one,) = read_truth(truth)
    assert (one.outcome, one.path) == ("finished", "/api/generate")


def _modules(pid: int) -> str:
    """What a process has mapped into its memory."""
    return "\n".join(m.path for m in psutil.Process(pid).memory_maps())


def test_arguments_that_cannot_be() -> None:
    """Arguments of a spec are refused before a process is started."""
    with pytest.raises(InputError, match=r"emulator: No such option.*--fire"):
        parse_arguments(("--fire", "1"), context=None)


def test_engines_know_it() -> None:
    """It stands beside the real engines."""
    assert set(ENGINES) == {"emulator", "llamacpp", "ollama", "vllm"}
