"""The rules that warn, the local process table, and the test of two requests at once."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.doctor.cautions import RULES, Signs, cautions_of
from loadtests.doctor.local import LocalEngine, find_local, read_flags, shares_context
from loadtests.doctor.parallel import Spell, at_once
from loadtests.loopback import is_loopback
from loadtests.stream import Endpoint
from planner.diagnosis import DOCTOR_SCHEMA, Caution, DoctorReport, decode_doctor
from planner.errors import InputError
from planner.records import EngineLimits, TargetInfo

FINE: dict[str, Any] = {
    "info": TargetInfo(
        name="t", backend="vllm", url="http://h:1", engine_version="0.32.0", model="m",
        limits=EngineLimits(slots=8, context_tokens=4096),
    ),
    "named": "vllm",
    "model_named": True,
    "models": 1,
    "can": {"parallel": True, "authentication": True, "stream_usage": True, "metrics": True},
    "was_loaded": True,
    "other_loaded": 0,
    "busy": 0,
    "cached_tokens": 0,
    "failed": None,
    "needed_tokens": 4096,
    "loopback": False,
    "local": None,
    "client_cores": frozenset({0, 1}),
}  # fmt: skip
"""A server that nothing is wrong with."""


def info(**changes: Any) -> TargetInfo:
    """The fine server's info with changes."""
    fine: TargetInfo = FINE["info"]
    return msgspec.structs.replace(fine, **changes)


def told(**changes: Any) -> list[str]:
    """The kinds of the cautions of the fine server with changes."""
    return [caution.kind for caution in cautions_of(Signs(**{**FINE, **changes}))]


def test_nothing_wrong() -> None:
    """A server that nothing is wrong with calls for no warning."""
    assert told() == []


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("no_generation", {"failed": "EngineDead"}),
        ("emulator", {"info": info(emulated="h100-llama-8b")}),
        ("wrong_kind", {"named": "ollama"}),
        ("wrong_kind", {"named": "openai"}),
        ("one_slot", {"info": info(limits=EngineLimits(slots=1, context_tokens=4096))}),
        ("one_slot", {"can": {**FINE["can"], "parallel": False}}),
        ("context_small", {"needed_tokens": 4097}),
        ("shared_context", {"local": LocalEngine(shares_context=True), "needed_tokens": 513}),
        ("not_loaded", {"was_loaded": False}),
        ("other_models", {"other_loaded": 1}),
        ("model_chosen", {"models": 2, "model_named": False}),
        ("busy", {"busy": 1}),
        ("prefix_cache", {"cached_tokens": 12}),
        ("prefix_cache", {"info": info(settings={"prefix caching": "True"})}),
        ("eager", {"local": LocalEngine(settings={"enforce eager": "yes"})}),
        ("shared_cores", {"loopback": True}),
        ("shared_cores", {"loopback": True, "local": LocalEngine(cores=frozenset({1, 2}))}),
        ("no_key", {"can": {**FINE["can"], "authentication": False}}),
        ("no_usage", {"can": {**FINE["can"], "stream_usage": False}}),
        ("no_metrics", {"can": {**FINE["can"], "metrics": False}}),
    ],
)  # fmt: skip
def test_each_sign_calls_for_its_warning(kind: str, changes: dict[str, Any]) -> None:
    """One thing wrong, one warning, with a remedy."""
    (found,) = cautions_of(Signs(**{**FINE, **changes}))
    assert found.kind == kind
    assert found.remedy


@pytest.mark.parametrize(
    ("version", "flagged"),
    [
        ("b0-unknown", True), ("0.0.0", True), ("0", True), ("0.1.dev5+g1a2b", True),
        ("b6000-dirty", True), ("0.33.0rc1", True), ("1.0-Debug", True),
        ("0.32.0", False), ("0.32.0+cpu", False), ("b6123-1a2b3c4", False), ("0.12.11", False),
        (None, False),
    ],
)  # fmt: skip
def test_versions_that_are_no_release(version: str | None, flagged: bool) -> None:
    """Builds outside of a release are told from releases by their version."""
    assert ("no_release" in told(info=info(engine_version=version))) == flagged


def test_a_shared_context_that_holds_all_requests() -> None:
    """Slots that share a context are no trouble where it holds the longest request of each."""
    sharing = LocalEngine(shares_context=True)
    assert told(local=sharing, needed_tokens=512) == []
    one = info(limits=EngineLimits(slots=1, context_tokens=4096))
    assert "shared_context" not in told(local=sharing, needed_tokens=4096, info=one)


@pytest.mark.parametrize(
    ("command", "slots", "shared"),
    [
        ("/usr/bin/llama-server -m a.gguf", None, True),
        ("/usr/bin/llama-server -m a.gguf -np -1", "yes", True),
        ("/usr/bin/llama-server -m a.gguf -np 4", "4", False),
        ("/usr/bin/llama-server -m a.gguf -np 4 -kvu", "4", True),
        ("/usr/bin/llama-server -m a.gguf --no-kv-unified", None, False),
        ("/lib/ld.so --argv0 x /usr/bin/llama-server -m a.gguf", None, True),
        ("python server.py", None, False),
    ],
)
def test_slots_that_share_a_context(command: str, slots: str | None, shared: bool) -> None:
    """Where llama-server's number of slots is left to it, they share one context."""
    assert shares_context(command.split(), {}, slots) is shared
    told_so = {"LLAMA_ARG_KV_UNIFIED": "true"}
    assert shares_context(command.split(), told_so, slots) is ("--no-kv" not in command)


def test_things_not_told_call_for_nothing() -> None:
    """What a server does not tell is no reason to warn."""
    silent = info(limits=EngineLimits(), engine_version=None)
    assert told(info=silent, can={}, was_loaded=None, busy=None, cached_tokens=None) == []


def test_own_cores_are_no_shared_cores() -> None:
    """An engine that is pinned away from the client does not disturb it."""
    assert told(loopback=True, local=LocalEngine(cores=frozenset({2, 3}))) == []


def test_one_parallel_ollama_names_the_variable() -> None:
    """The remedy for a single-file Ollama is the variable's name."""
    can = {**FINE["can"], "parallel": False}
    (found,) = cautions_of(Signs(**{**FINE, "info": info(backend="ollama"), "named": "ollama",
                                    "can": can}))  # fmt: skip
    assert "OLLAMA_NUM_PARALLEL" in found.remedy


def test_each_rule_is_known_once() -> None:
    """The table of rules has no double."""
    assert len({rule.__name__ for rule in RULES}) == len(RULES)


MOMENT = st.floats(0, 100)


@given(st.tuples(MOMENT, MOMENT, MOMENT), st.tuples(MOMENT, MOMENT, MOMENT))
def test_overlap_does_not_depend_on_the_order(
    one: tuple[float, float, float], two: tuple[float, float, float]
) -> None:
    """Two answers overlap or not, whichever is named first."""
    a, b = (Spell(sent_s=s, first_token_s=f, ended_s=e)
            for s, f, e in (sorted(one), sorted(two)))  # fmt: skip
    found = at_once([a, b])
    if a.first_token_s != b.first_token_s:
        assert at_once([b, a]) == found
    if found is True:
        assert max(a.first_token_s, b.first_token_s) < max(a.ended_s, b.ended_s)
    if found is False:
        assert a.ended_s <= b.first_token_s or b.ended_s <= a.first_token_s


def test_overlap_by_example() -> None:
    """Overlapping, one waiting for the other, and too late to tell."""
    first = Spell(sent_s=0, first_token_s=1, ended_s=2)
    assert at_once([first, Spell(sent_s=0, first_token_s=1.5, ended_s=3)]) is True
    assert at_once([first, Spell(sent_s=0, first_token_s=2.5, ended_s=3)]) is False
    assert at_once([first, Spell(sent_s=1.5, first_token_s=2.5, ended_s=3)]) is None


def test_flags_of_a_command_line() -> None:
    """Only the named options are read, in each of the ways that they can be written."""
    names = {"--n": "slots", "--eager": "eager", "--q": "queue limit"}
    command = ["vllm", "serve", "--api-key", "s3cret", "--n", "4", "--q=7", "--eager"]
    assert read_flags(command, names) == {"slots": "4", "queue limit": "7", "eager": "yes"}
    assert read_flags(["x", "--eager", "--n", "2"], names) == {"eager": "yes", "slots": "2"}
    assert read_flags([], names) == {}


@pytest.mark.parametrize(
    ("url", "own"),
    [("http://127.0.0.1:1", True), ("http://127.8.9.1", True), ("http://[::1]:8", True),
     ("http://localhost:1", True), ("http://10.0.0.5", False), ("http://example.org", False)],
)  # fmt: skip
def test_loopback(url: str, own: bool) -> None:
    """An address of this machine, seen from inside, is told from others without asking anybody."""
    assert is_loopback(Endpoint.parse(url)) is own


def test_no_process_where_nobody_listens() -> None:
    """A port without a listener, or of another machine, has no process here."""
    assert find_local(Endpoint.parse("http://127.0.0.1:1"), "vllm") is None
    assert find_local(Endpoint.parse("http://10.0.0.5:8000"), "vllm") is None


def test_report_can_be_read_again() -> None:
    """What is printed as JSON is read again as it was; a newer or another document is refused."""
    caution = Caution(kind="busy", message="m", remedy="r")
    report = DoctorReport(headroom_version="1", diagnoses=())
    assert caution.kind == "busy"
    assert decode_doctor(msgspec.json.encode(report), what="d.json") == report
    newer = msgspec.structs.replace(report, schema=DOCTOR_SCHEMA + 1)
    with pytest.raises(InputError, match=r"d\.json has schema 2; .* up to 1"):
        decode_doctor(msgspec.json.encode(newer), what="d.json")
    for junk in (b"", b"[]", b"{}", b"\xff", b"[" * 10**5):
        with pytest.raises(InputError, match=r"d\.json is not what headroom doctor"):
            decode_doctor(junk, what="d.json")
