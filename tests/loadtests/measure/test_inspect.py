"""Looking at targets: recorded servers, broken servers, and the real llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.measure.inquiry import clean
from loadtests.measure.inspect import check_fits, inspect, probe
from loadtests.stream import Timeouts
from loadtests.targets import Target, parse_target
from planner.errors import TargetError
from planner.records import EngineLimits, TargetInfo
from tests.loadtests.servers import Act, Script, ScriptedServer, Step, answer, chunked, serving

TRANSCRIPTS = Path(__file__).parent / "transcripts"
QUICK = Timeouts(connect_s=2, first_byte_s=2, idle_s=2)

Pages = dict[str, bytes | int]
"""Path -> body of a 200, or the status of an empty answer. Every other path is a 404."""


def recorded(name: str) -> bytes:
    """The body of a recorded answer."""
    return (TRANSCRIPTS / name).read_bytes()


LLAMACPP: Pages = {
    "/props": recorded("llamacpp_props.txt"),
    "/slots": recorded("llamacpp_slots.txt"),
    "/v1/models": recorded("llamacpp_v1_models.txt"),
}
VLLM: Pages = {
    "/v1/models": recorded("vllm_models.json"),
    "/version": b'{"version":"0.32.0"}',
    "/metrics": recorded("vllm_metrics.txt"),
}
OLLAMA: Pages = {
    "/api/version": b'{"version":"0.30.1"}',
    "/api/tags": recorded("ollama_api_tags.json"),
    "/api/ps": recorded("ollama_api_ps.json"),
    "/v1/models": recorded("ollama_v1_models.json"),
}
OTHER: Pages = {"/v1/models": b'{"object":"list","data":[{"id":"a/b","object":"model"}]}'}


def pages(served: Pages, key: str | None = None) -> Script:
    """A script that serves pages, and only to those with the key."""

    def script(request: bytes) -> list[Step]:
        path = request.split(b" ")[1].decode()
        if key and f"Authorization: Bearer {key}".encode() not in request:
            return [answer(b'{"error":{"message":"Invalid API Key","code":401}}', 401)]
        page = served.get(path, 404)
        return [answer(b"", page) if isinstance(page, int) else answer(page)]

    return script


def look(server: ScriptedServer, target: str, model: str = "") -> TargetInfo:
    """Inspect a scripted server as a target of some kind."""
    return inspect(parse_target(f"{target}={server.url}{model}"), timeouts=QUICK)


def with_page(served: Pages, path: str, body: bytes | int) -> Pages:
    """Pages with one of them replaced."""
    return {**served, path: body}


def test_llamacpp_as_recorded() -> None:
    """Slots, the context of one slot, the model's file and build of a llama.cpp server."""
    with serving(pages(LLAMACPP)) as server:
        info = look(server, "llamacpp")
    assert (info.model, info.engine, info.engine_version) == ("tiny", "llama.cpp", "b0-unknown")
    assert info.limits == EngineLimits(slots=4, context_tokens=2048)
    assert info.settings == {
        "model file": "tiny.gguf",
        "quantization": "F16",
        "parameters": "5245184",
        "trained context": "8192",
    }
    assert info.warnings == ()


def test_llamacpp_with_one_busy_slot() -> None:
    """One slot, and a slot that is in use, are warned of."""
    props = LLAMACPP["/props"]
    assert isinstance(props, bytes)
    one = {
        **LLAMACPP,
        "/props": props.replace(b'"total_slots":4', b'"total_slots":1'),
        "/slots": b'[{"id":0,"is_processing":true}]',
    }
    with serving(pages(one)) as server:
        info = look(server, "llamacpp")
    assert info.limits.slots == 1
    assert "1 slot:" in info.warnings[0]
    assert "1 of its slots are busy" in info.warnings[1]


def test_llamacpp_router() -> None:
    """A router, which llama-server is when it is started without a model, is told with a remedy."""
    with (
        serving(pages({"/props": recorded("llamacpp_router_props.txt")})) as server,
        pytest.raises(TargetError, match=r"is a llama\.cpp router, .*\(-m FILE\)"),
    ):
        look(server, "llamacpp")


@pytest.mark.parametrize("missing", ["/slots", "/v1/models"])
def test_llamacpp_with_a_page_switched_off(missing: str) -> None:
    """A llama.cpp server without slots or models page is still understood."""
    with serving(pages(with_page(LLAMACPP, missing, 501))) as server:
        info = look(server, "llamacpp")
    assert (info.model, info.limits.slots) == ("tiny", 4)


def test_vllm_as_recorded() -> None:
    """The context, version and cache of a vLLM server; its slots are not told."""
    with serving(pages(VLLM)) as server:
        info = look(server, "vllm")
    assert (info.model, info.engine, info.engine_version) == ("tiny", "vLLM", "0.32.0")
    assert info.limits == EngineLimits(slots=None, context_tokens=2048)
    assert info.settings == {
        "KV cache tokens": "262144",
        "KV cache type": "auto",
        "block size": "128",
        "prefix caching": "True",
        "GPU memory share": "0.92",
    }
    assert info.warnings == ()


def test_vllm_that_is_in_use() -> None:
    """Requests that run or wait before we came are warned of, over all engines."""
    metrics = VLLM["/metrics"]
    assert isinstance(metrics, bytes)
    busy = metrics.replace(
        b'vllm:num_requests_running{engine="0",model_name="tiny"} 0.0',
        b'vllm:num_requests_running{engine="0"} 2.0\nvllm:num_requests_running{engine="1"} 1.0',
    )
    with serving(pages(with_page(VLLM, "/metrics", busy))) as server:
        info = look(server, "vllm")
    assert info.warnings == ("3 requests run and 0 wait already: somebody else is using it",)


def test_vllm_without_metrics() -> None:
    """A vLLM server whose metrics and version are hidden is measured all the same."""
    with serving(pages({"/v1/models": VLLM["/v1/models"]})) as server:
        info = look(server, "vllm")
    assert (info.model, info.engine_version, info.settings) == ("tiny", None, {})


def test_ollama_as_recorded() -> None:
    """The loaded context, version and quantisation of an Ollama server."""
    with serving(pages(OLLAMA)) as server:
        info = look(server, "ollama")
        named = look(server, "ollama", "#tiny")
    assert (info.model, info.engine, info.engine_version) == ("tiny:latest", "Ollama", "0.30.1")
    assert named.model == "tiny:latest"
    assert info.limits == EngineLimits(slots=None, context_tokens=4096)
    assert info.settings == {
        "quantization": "F16",
        "parameters": "5.25M",
        "trained context": "8192",
        "share in GPU memory": "0%",
    }
    assert len(info.warnings) == 1
    assert "OLLAMA_NUM_PARALLEL" in info.warnings[0]


@pytest.mark.parametrize("body", [b'{"models":[]}', b'{"models":null}', 404])
def test_ollama_model_that_is_not_loaded(body: bytes | int) -> None:
    """Before the first answer Ollama's context is not known, and said so."""
    with serving(pages(with_page(OLLAMA, "/api/ps", body))) as server:
        info = look(server, "ollama")
    assert info.limits.context_tokens is None
    assert any("not loaded" in warning for warning in info.warnings)


def test_other_openai_compatible_server() -> None:
    """Of any other server the model is known and no limit is made up."""
    with serving(pages(OTHER)) as server:
        info = look(server, "openai")
    assert (info.model, info.engine, info.limits) == ("a/b", None, EngineLimits())


def test_gateway_without_a_model_list() -> None:
    """A gateway that lists nothing is trusted with a model that the user names."""
    with serving(pages({"/": b"hello"})) as server:
        info = look(server, "openai", "#gpt-x")
        assert (info.model, len(info.warnings)) == ("gpt-x", 1)
        with pytest.raises(TargetError, match=r"neither llama\.cpp, Ollama, vLLM nor OpenAI"):
            look(server, "openai")


def test_known_engine_given_as_openai() -> None:
    """A llama.cpp server may be measured as an OpenAI server; what that hides is said."""
    with serving(pages(LLAMACPP)) as server:
        info = look(server, "openai")
    assert (info.backend, info.limits.slots) == ("openai", None)
    assert f"this is a llama.cpp server: llamacpp={server.url}" in info.warnings[0]


@pytest.mark.parametrize(
    ("served", "given_as", "kind"),
    [
        (OLLAMA, "vllm", "ollama"),
        (OLLAMA, "llamacpp", "ollama"),
        (VLLM, "ollama", "vllm"),
        (VLLM, "llamacpp", "vllm"),
        (LLAMACPP, "vllm", "llamacpp"),
        (LLAMACPP, "ollama", "llamacpp"),
        (OTHER, "vllm", "openai"),
        (OTHER, "ollama", "openai"),
    ],
)
def test_wrong_kind_of_server(served: Pages, given_as: str, kind: str) -> None:
    """A server given as another kind is recognised, and the right target is named."""
    with (
        serving(pages(served)) as server,
        pytest.raises(TargetError, match=f"is an? .*, not .*: use {kind}={server.url}$"),
    ):
        look(server, given_as)


@pytest.mark.parametrize(
    ("served", "kind", "name"),
    [
        (LLAMACPP, "llamacpp", r"tiny, tiny\.gguf"),
        (VLLM, "vllm", "tiny"),
        (OLLAMA, "ollama", "tiny:latest"),
    ],
)
def test_model_that_is_not_there(served: Pages, kind: str, name: str) -> None:
    """A model that the server does not have is refused, and the known ones are named."""
    with (
        serving(pages(served)) as server,
        pytest.raises(TargetError, match=f"does not have the model 'nope'; it has {name}$"),
    ):
        look(server, kind, "#nope")


def test_many_models() -> None:
    """Of many models the first is taken with a warning; an error names only some of them."""
    listed = json.dumps({"data": [{"id": f"m{i}"} for i in range(500)]}).encode()
    with serving(pages({"/v1/models": listed})) as server:
        info = look(server, "openai")
        assert (info.model, len(info.warnings)) == ("m0", 1)
        assert look(server, "openai", "#m499").model == "m499"
        with pytest.raises(TargetError, match=r"m8, m9 and 490 more$"):
            look(server, "openai", "#nope")


@pytest.mark.parametrize(
    ("served", "kind"),
    [(VLLM, "vllm"), (OTHER, "openai"), (OLLAMA, "ollama"), (LLAMACPP, "llamacpp")],
)
def test_key(served: Pages, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing key and a wrong key are told apart, and the variable to set is named."""
    monkeypatch.delenv("HEADROOM_API_KEY", raising=False)
    variable = f"HEADROOM_API_KEY_{kind.upper()}"
    with serving(pages(served, key="s3cret")) as server:
        with pytest.raises(TargetError, match=f"wants an API key .*set it in .*{variable}"):
            look(server, kind)
        monkeypatch.setenv(variable, "s3cret")
        info = look(server, kind)
        assert info.model is not None
        assert "s3cret" not in repr(info)
        monkeypatch.setenv(variable, "wr0ng")
        with pytest.raises(TargetError, match="refuses the API key") as caught:
            look(server, kind)
        assert "wr0ng" not in str(caught.value)


def test_llamacpp_guards_all_but_its_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp shows its models to everyone: the missing key is noticed at its properties."""
    monkeypatch.delenv("HEADROOM_API_KEY", raising=False)
    with (
        serving(pages(with_page(LLAMACPP, "/props", 401))) as server,
        pytest.raises(TargetError, match="wants an API key"),
    ):
        look(server, "llamacpp")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ([b"SSH-2.0-OpenSSH_9.6\r\n", Act.HOLD], "does not answer in HTTP.*right port"),
        ([], "does not answer in HTTP"),
        ([Act.RESET], "does not answer in HTTP"),
        ([Act.HOLD], "does not answer"),
        ([answer(b"<html>", 404)], "speaks HTTP but is neither"),
        ([answer(b"<html>hi</html>")], "speaks HTTP but is neither"),
        ([answer(b'{"error":{"message":"Loading model","code":503}}', 503)],
         r"is not ready \(HTTP 503: Loading model\)"),
        ([answer(b'{"error":"\\u001b[31mbusy\\n"}', 503)], r"HTTP 503: \[31mbusy\)"),
        ([answer(b"[" * 100_000, 503)], r"is not ready \(HTTP 503\)"),
        ([answer(b"[" * 100_000)], "speaks HTTP but is neither"),
        ([b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 9_000_000],
         r"in the middle of an answer \(too_large"),
        ([answer(b"{}")[:-1]], r"in the middle of an answer \(closed"),
    ],
)  # fmt: skip
def test_servers_that_are_none(script: Script, message: str) -> None:
    """What listens but is no model server is told apart in one printable line."""
    with (
        serving(script) as server,
        pytest.raises(TargetError, match=message) as caught,
    ):
        inspect(parse_target(f"vllm={server.url}"), timeouts=Timeouts(first_byte_s=0.3))
    assert str(caught.value).isprintable()


def test_nobody_there() -> None:
    """A port without a server, and a host without an address, are named with a remedy."""
    with serving([]) as server:
        url = server.url
    with pytest.raises(TargetError, match=r"cannot be reached .*Connection refused.*is the server"):
        inspect(parse_target(f"vllm={url}"))
    with pytest.raises(TargetError, match=r"cannot be reached \(no.invalid: "):
        inspect(parse_target("vllm=http://no.invalid"))


@pytest.mark.parametrize(
    "name", ["a\x1b[31mb", "a\nb", "m" * 300, "\u202ea"], ids=["escape", "line", "long", "bidi"]
)
def test_model_name_that_cannot_be_kept(name: str) -> None:
    """A model whose name would break a line, a terminal or the manifest is refused."""
    listed = json.dumps({"data": [{"id": name}]}).encode()
    with (
        serving(pages({"/v1/models": listed})) as server,
        pytest.raises(TargetError, match="name is too long or holds control characters") as caught,
    ):
        look(server, "openai")
    assert str(caught.value).isprintable()


def test_facts_are_cleaned_and_bounded() -> None:
    """What a server tells of itself is shown as one bounded printable line."""
    props = LLAMACPP["/props"]
    assert isinstance(props, bytes)
    lying = props.replace(b'"b0-unknown"', b'"\\u001b[2J%s"' % (b"x" * 1000)).replace(
        b'"F16"', b'"\\n\\n"'
    )
    with serving(pages(with_page(LLAMACPP, "/props", lying))) as server:
        info = look(server, "llamacpp")
    assert info.engine_version == "[2J" + "x" * 197
    assert "quantization" not in info.settings


@pytest.mark.parametrize("value", [b"-1", b"1e400", b"99999999999999999999", b'"many"', b"null"])
def test_limits_that_cannot_be(value: bytes) -> None:
    """A number of slots that cannot be is no number: the server cannot be measured as it is."""
    props = LLAMACPP["/props"]
    assert isinstance(props, bytes)
    lying = props.replace(b'"total_slots":4', b'"total_slots":' + value)
    with (
        serving(pages(with_page(LLAMACPP, "/props", lying))) as server,
        pytest.raises(TargetError, match="answers /props with something unreadable"),
    ):
        look(server, "llamacpp")


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["data", "id", "models", "name", "version", "total_slots", "meta", "n_ctx",
                         "default_generation_settings", "model_path", "details", "owned_by",
                         "aliases", "max_model_len", "size", "size_vram", "context_length"]),
        inner, max_size=5,
    ),
    max_leaves=20,
)  # fmt: skip


def _spoil(body: bytes, junk: Any, data: st.DataObject) -> bytes:
    """A recorded answer with one of its values replaced."""
    document = json.loads(body)
    here: Any = document
    while True:
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(here[key], dict | list) and here[key] and data.draw(st.booleans()):
            here = here[key]
            continue
        here[key] = junk
        return json.dumps(document).encode()


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    junk=JUNK,
    case=st.sampled_from(
        [("llamacpp", LLAMACPP, path) for path in LLAMACPP]
        + [("ollama", OLLAMA, path) for path in OLLAMA]
        + [("vllm", VLLM, "/v1/models"), ("vllm", VLLM, "/version")]
        + [("openai", OTHER, "/v1/models")]
    ),
    whole=st.booleans(),
)  # fmt: skip
def test_lying_servers(
    data: st.DataObject, junk: Any, case: tuple[str, Pages, str], whole: bool
) -> None:
    """Whatever JSON a server answers, the outcome is an info that can be kept or our own error."""
    kind, served, path = case
    body = served[path]
    assert isinstance(body, bytes)
    spoilt = json.dumps(junk).encode() if whole else _spoil(body, junk, data)
    with serving(pages(with_page(served, path, spoilt))) as server:
        try:
            info = look(server, kind)
        except TargetError as error:
            assert str(error).isprintable()  # noqa: PT017 - either outcome is right
        else:
            kept = msgspec.json.encode(info)
            assert msgspec.json.decode(kept, type=TargetInfo) == info
            for text in (*info.settings.values(), *info.warnings, info.engine_version or ""):
                assert text.isprintable()


@given(st.text())
def test_clean_text_is_one_bounded_printable_line(text: str) -> None:
    """No text of a server can break a line or write to a terminal."""
    assert clean(text).isprintable()
    assert len(clean(text)) <= 200
    assert clean(clean(text)) == clean(text)


@pytest.mark.parametrize(
    ("backend", "slots", "remedy"),
    [
        ("llamacpp", 4, r"-c 10000 "),
        ("vllm", None, "--max-model-len 2500"),
        ("ollama", None, "OLLAMA_CONTEXT_LENGTH=2500"),
        ("openai", None, "a larger context"),
    ],
)
def test_context_too_small(backend: str, slots: int | None, remedy: str) -> None:
    """A workload beyond the context is refused with both numbers and the engine's own remedy."""
    limits = EngineLimits(slots=slots, context_tokens=2048)
    info = TargetInfo(name="t", backend=backend, url="http://h", limits=limits)
    check_fits(info, 1536, 512)
    check_fits(msgspec.structs.replace(info, limits=EngineLimits()), 10**6, 10**6)
    with pytest.raises(
        TargetError, match=rf"holds 2048 tokens.* 2000 .* 500 .*need 2500.*{remedy}"
    ):
        check_fits(info, 2000, 500)


EVENT = b'data: {"choices":[{"delta":{"content":"%s"},"finish_reason":%s}]}\n\n'
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def probed(script: Script, kind: str = "openai") -> Any:
    """Probe a scripted server."""
    with serving(script) as server:
        target = parse_target(f"{kind}={server.url}#m")
        info = TargetInfo(name=kind, backend=kind, url=server.url, model="m")
        return probe(target, info, timeouts=QUICK)


def test_probe_of_a_stream() -> None:
    """A stream that ends well is a record like any other."""
    body = chunked(EVENT % (b"Hi", b"null"), EVENT % (b"!", b'"stop"'), b"data: [DONE]\n\n")
    record = probed([STREAM, body])
    assert (record.status, record.finish_reason, record.http_status) == ("ok", "stop", 200)
    assert record.sent_s <= record.first_token_s <= record.ended_s


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ([answer(b'{"error":{"message":"no key"}}', 401)], r"API key.*HEADROOM_API_KEY_OPENAI"),
        ([answer(b'{"error":{"message":"The model `m` does not exist.","type":"NotFoundError"}}',
                 404)], r"failed a test generation \(.*does not exist"),
        ([STREAM, chunked(b'data: {"error":{"message":"EngineDead","code":500}}\n\n',
                          b"data: [DONE]\n\n")], r"failed a test generation \(.*EngineDead"),
        ([STREAM, chunked(EVENT % (b"Hi", b"null"))], r"failed a test generation \(truncated"),
        ([STREAM, chunked(EVENT % (b"Hi", b"null"), end=False)],
         r"in the middle of an answer \(closed"),
        ([STREAM, chunked(EVENT % (b"", b'"stop"'), b"data: [DONE]\n\n")], "single token"),
        ([Act.RESET], r"does not answer in HTTP \(reset"),
    ],
)  # fmt: skip
def test_probe_of_failures(script: Script, message: str) -> None:
    """Each way to fail a generation is one line with the server's own reason."""
    with pytest.raises(TargetError, match=message) as caught:
        probed(script)
    assert str(caught.value).isprintable()


class RealServer:
    """What the ``llamacpp`` fixture gives."""

    url: str


@pytest.mark.engine
def test_real_llamacpp(llamacpp: RealServer) -> None:
    """The real llama.cpp tells its slots and context, and answers a probe with its own timings."""
    target: Target = parse_target(f"llamacpp={llamacpp.url}")
    info = inspect(target)
    assert info.engine == "llama.cpp"
    assert info.limits.slots is not None
    assert info.limits.slots >= 1
    assert info.limits.context_tokens is not None
    assert info.limits.context_tokens >= 256
    record = probe(target, info, max_tokens=4)
    assert (record.status, record.output_tokens, record.token_source) == ("ok", 4, "usage")
    assert record.connect_s is not None
    assert record.first_token_s is not None
    assert record.server_decode_s is not None
    with pytest.raises(TargetError, match="use llamacpp="):
        inspect(parse_target(f"vllm={llamacpp.url}"))
    with pytest.raises(TargetError, match="does not have the model 'nope'"):
        inspect(parse_target(f"llamacpp={llamacpp.url}#nope"))
