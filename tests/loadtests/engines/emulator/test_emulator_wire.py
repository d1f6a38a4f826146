"""What the emulator sends has the structure of what real servers sent."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from loadtests.dialects import dialect_of
from loadtests.dialects.base import Chat, Message
from tests.loadtests.engines.emulator.emulating import (
    ASKED,
    ask,
    emulating,
    kinds_settings,
    raw,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadtests.engines.emulator.settings import Kind
    from tests.loadtests.engines.emulator.emulating import Raw

TESTS = Path(__file__).parents[2]
STREAMS, PAGES = TESTS / "dialects" / "transcripts", TESTS / "measure" / "transcripts"
METRICS = Path(__file__).parent / "transcripts"
KINDS: tuple[Kind, ...] = ("llamacpp", "ollama", "vllm")
MARK = "headroom_emulator"


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, int]]:
    """An emulator of each kind."""
    with (
        emulating(kinds_settings("llamacpp")) as (_, llamacpp),
        emulating(kinds_settings("ollama")) as (_, ollama),
        emulating(kinds_settings("vllm")) as (_, vllm),
    ):
        yield {"llamacpp": llamacpp, "ollama": ollama, "vllm": vllm}


def chat(kind: str, tokens: int = 6, *, stream: bool = True) -> dict[str, Any]:
    """A chat as the transcripts' were asked for."""
    body: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Say a few words about anything."}],
        "stream": stream,
    }
    if kind == "ollama":
        return body | {"options": {"num_predict": tokens}}
    return body | {"max_tokens": tokens, "stream_options": {"include_usage": True}}


def recorded_stream(name: str) -> tuple[list[str], list[bytes]]:
    """Header names and events of a recorded stream."""
    head, _, body = (STREAMS / f"{name}.http").read_bytes().partition(b"\r\n\r\n")
    names = [line.split(b":")[0].decode() for line in head.split(b"\r\n")[1:]]
    return names, events_of(body)


def events_of(body: bytes) -> list[bytes]:
    """The payload of each event or line."""
    return [line.removeprefix(b"data: ") for line in body.split(b"\n") if line.strip()]


def shape(document: Any) -> Any:
    """The keys of a document, in order, with the types of what they hold."""
    if isinstance(document, dict):
        return {key: shape(value) for key, value in document.items() if key != MARK}
    if isinstance(document, list):
        return [shape(value) for value in document]
    return "number" if isinstance(document, int | float) else type(document).__name__


def shapes(events: list[bytes]) -> list[Any]:
    """The shape of each event, keys in order; the end mark as it is."""
    return ["[DONE]" if event == b"[DONE]" else list_keys(json.loads(event)) for event in events]


def list_keys(document: Any) -> str:
    """A document's shape as text, so that the order of keys counts."""
    return json.dumps(shape(document))


STREAMED = [
    ("llamacpp", "/v1/chat/completions", "llamacpp_chat_stream"),
    ("ollama", "/api/chat", "ollama_chat_stream"),
    ("vllm", "/v1/chat/completions", "vllm_chat_stream"),
]


@pytest.mark.parametrize(("kind", "path", "name"), STREAMED)
def test_chat_streams_as_recorded(ports: dict[str, int], kind: str, path: str, name: str) -> None:
    """Header names, the order of events, and every event's keys are those of the transcript."""
    names, events = recorded_stream(name)
    answer = ask(ports[kind], path, chat(kind))
    assert [n.lower() for n in answer.names if "emulator" not in n.lower()] == [
        n.lower() for n in names
    ]
    own = shapes(events_of(answer.body))
    if kind == "vllm":
        # The recorded role chunk has two keys more than the others; so has ours.
        assert "prompt_token_ids" in own[0]
        assert "prompt_token_ids" not in own[1]
    assert own == shapes(events)


def test_completion_streams_as_recorded(ports: dict[str, int]) -> None:
    """llama.cpp's native stream has the events of the transcript, and no end mark."""
    _, events = recorded_stream("llamacpp_completion_stream")
    body = {"prompt": "Hello", "n_predict": 4, "stream": True}
    answer = ask(ports["llamacpp"], "/completion", body)
    assert shapes(events_of(answer.body)) == shapes(events)
    last = json.loads(events_of(answer.body)[-1])
    assert (last["stop"], last["stop_type"], last["tokens_predicted"]) == (True, "limit", 4)


def test_timings_stand_on_the_finish_chunk_without_usage(ports: dict[str, int]) -> None:
    """Without ``include_usage`` llama.cpp has no usage chunk, and its timings come earlier."""
    _, events = recorded_stream("llamacpp_chat_timings_only")
    body = chat("llamacpp")
    del body["stream_options"]
    answer = ask(ports["llamacpp"], "/v1/chat/completions", body)
    assert shapes(events_of(answer.body))[-2:] == shapes(events)[-2:]


def test_every_event_is_a_chunk_of_its_own(ports: dict[str, int]) -> None:
    """The servers flush after each event, so each is one chunk of the body."""
    for kind in KINDS:
        answer = ask(ports[kind], ASKED[kind], chat(kind))
        ends = b"\n" if kind == "ollama" else b"\n\n"
        assert all(chunk.endswith(ends) for chunk in answer.chunks)
        assert all(len(events_of(chunk)) == 1 for chunk in answer.chunks)


def test_closing_habits(ports: dict[str, int]) -> None:
    """llama.cpp closes after a stream although it advertises keep-alive; the others keep it."""
    for kind in KINDS:
        text = msgspec.json.encode(chat(kind, 2))
        call = f"POST {ASKED[kind]} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", ports[kind]), timeout=5) as connection:
            connection.sendall(call.encode() + text)
            assert raw(connection).status == 200
            if kind == "llamacpp":
                assert connection.recv(1) == b""
            else:
                connection.sendall(call.encode() + text)
                assert raw(connection).status == 200


DIALECTS = [
    ("llamacpp", "openai", "usage"),
    ("llamacpp", "native", "usage"),
    ("ollama", "native", "usage"),
    ("ollama", "openai", "usage"),
    ("vllm", "openai", "usage"),
]


@pytest.mark.parametrize(("kind", "api", "source"), DIALECTS)
def test_own_dialects_read_it(ports: dict[str, int], kind: str, api: str, source: str) -> None:
    """Each of our dialects asks it and decodes a whole answer with the right counts."""
    dialect = dialect_of(kind, api)
    message = Message(role="user", content="one two three four")
    call = dialect.encode(
        Chat(messages=(message,), model="tiny" if kind != "ollama" else "tiny:latest", max_tokens=7)
    )
    answer = ask(ports[kind], call.path, json.loads(call.body))
    decoder = dialect.decoder()
    decoder.feed(answer.body)
    reply = decoder.finish()
    assert (reply.error_kind, reply.finish_reason) == (None, "length")
    assert (reply.output_tokens, reply.token_source) == (7, source)
    assert len(reply.content_ends) == 7
    assert reply.prompt_tokens is not None
    assert reply.prompt_tokens >= 4
    if kind != "vllm" and (kind, api) != ("ollama", "openai"):
        assert reply.server_prompt_s is not None
        assert reply.server_decode_s == pytest.approx(6 * 0.00201, rel=0.01)


PAGE_FILES = [
    ("llamacpp", "/props", "llamacpp_props.txt"),
    ("llamacpp", "/v1/models", "llamacpp_v1_models.txt"),
    ("ollama", "/api/tags", "ollama_api_tags.json"),
    ("ollama", "/api/ps", "ollama_api_ps.json"),
    ("ollama", "/v1/models", "ollama_v1_models.json"),
    ("vllm", "/v1/models", "vllm_models.json"),
]


@pytest.mark.parametrize(("kind", "path", "name"), PAGE_FILES)
def test_pages_as_recorded(ports: dict[str, int], kind: str, path: str, name: str) -> None:
    """A page has the recorded one's keys in their order, and the mark beside them."""
    ask(ports["ollama"], "/api/chat", chat("ollama", 1))  # so that its model is loaded
    answer = ask(ports[kind], path)
    page = json.loads(answer.body)
    assert list_keys(page) == list_keys(json.loads((PAGES / name).read_bytes()))
    assert page[MARK] == "test/profile"


def test_slots_as_recorded(ports: dict[str, int]) -> None:
    """Idle slots have the recorded keys, and there are as many as were asked for."""
    recorded = json.loads((PAGES / "llamacpp_slots.txt").read_bytes())
    slots = json.loads(ask(ports["llamacpp"], "/slots").body)
    assert [list_keys(slot) for slot in slots] == [list_keys(recorded[0])] * 4


def names_of(metrics: str, prefix: str) -> set[str]:
    """Names of metrics with their types."""
    return {line for line in metrics.splitlines() if line.startswith(f"# TYPE {prefix}")}


def test_vllm_metrics_as_recorded(ports: dict[str, int]) -> None:
    """The metrics worth reading have the recorded types, labels and buckets."""
    recorded = (METRICS / "vllm_metrics.txt").read_text("utf-8")
    own = ask(ports["vllm"], "/metrics").body.decode()
    assert names_of(own, "vllm:") == names_of(recorded, "vllm:")
    samples = re.compile(r"^(vllm:[a-z0-9_]+\{[^}]*\}) ", re.MULTILINE)
    found, wanted = samples.findall(own), samples.findall(recorded)
    assert len(wanted) > 130
    assert set(found[:-1]) == set(wanted[:-1])
    labels = re.compile(r'([a-z_]+)="')
    assert labels.findall(found[-1]) == labels.findall(wanted[-1])  # of cache_config_info


def test_metrics_of_llamacpp_as_recorded(ports: dict[str, int]) -> None:
    """The recorded names, types and help texts, in their order."""
    own = ask(ports["llamacpp"], "/metrics").body.decode()
    recorded = (METRICS / "llamacpp_metrics.txt").read_text("utf-8")

    def heads(text: str) -> list[str]:
        return [line for line in text.splitlines() if re.match("# (HELP|TYPE) llamacpp:", line)]

    assert heads(own) == heads(recorded)
    assert "llamacpp:requests_deferred 0\n" in own


def test_counters_count(ports: dict[str, int]) -> None:
    """Tokens of an answer stand in the counters when it has ended."""
    for kind, name in (
        ("vllm", 'vllm:generation_tokens_total{engine="0",model_name="tiny"}'),
        ("llamacpp", "llamacpp:tokens_predicted_total"),
    ):
        before, after = (_count(ports[kind], kind, name) for _ in range(2))
        assert after == before + 9


def _count(port: int, kind: str, name: str) -> float:
    text = ask(port, "/metrics").body.decode()
    ask(port, ASKED[kind], chat(kind, 9))
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def test_whole_answers(ports: dict[str, int]) -> None:
    """Without a stream, the answer is one document with the same counts."""
    for kind in ("llamacpp", "vllm"):
        page = json.loads(ask(ports[kind], ASKED[kind], chat(kind, 5, stream=False)).body)
        assert page["usage"]["completion_tokens"] == 5
        assert len(page["choices"][0]["message"]["content"].split()) == 5
    page = json.loads(ask(ports["ollama"], "/api/generate", {
        "model": "tiny", "prompt": "hello", "stream": False, "options": {"num_predict": 5},
    }).body)  # fmt: skip
    assert (page["done"], page["eval_count"], len(page["response"].split())) == (True, 5, 5)


MARKED = [
    ("vllm", "/health"), ("vllm", "/version"), ("vllm", "/metrics"), ("vllm", "/nothing"),
    ("llamacpp", "/health"), ("llamacpp", "/slots"), ("llamacpp", "/nothing"),
    ("ollama", "/"), ("ollama", "/api/version"), ("ollama", "/nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "path"), MARKED)
def test_every_answer_says_what_it_is(ports: dict[str, int], kind: str, path: str) -> None:
    """Pages and errors alike carry the header with the profile."""
    head = ask(ports[kind], path).head.lower()
    assert b"x-headroom-emulator: test/profile" in head


def test_fingerprint_and_versions_say_what_it_is(ports: dict[str, int]) -> None:
    """So do the fingerprints of OpenAI's answers and the versions."""
    for kind in ("vllm", "llamacpp"):
        answer = ask(ports[kind], ASKED[kind], chat(kind))
        assert b'"system_fingerprint":"headroom-emulator-test/profile"' in answer.body
    assert MARK in json.loads(ask(ports["vllm"], "/version").body)["version"]
    assert MARK in json.loads(ask(ports["ollama"], "/api/version").body)["version"]
    assert MARK in json.loads(ask(ports["llamacpp"], "/props").body)["build_info"]


def kind_of_error(kind: str, answer: Raw) -> str:
    """What our dialect makes of it."""
    api = "native" if kind == "ollama" else "openai"
    return dialect_of(kind, api).error(answer.status, answer.body)[0]


def test_errors(ports: dict[str, int]) -> None:
    """Wrong models, long prompts and broken bodies are refused as each server does."""
    long = "word " * 9000
    for kind in KINDS:
        wrong = chat(kind) | {"model": "other"}
        answer = ask(ports[kind], ASKED[kind], wrong)
        if kind == "llamacpp":
            assert answer.status == 200  # it accepts any name
        else:
            assert (answer.status, kind_of_error(kind, answer)) == (404, "model_not_found")
        much = chat(kind) | {"messages": [{"role": "user", "content": long}], "truncate": False}
        answer = ask(ports[kind], ASKED[kind], much)
        assert (answer.status, kind_of_error(kind, answer)) == (400, "context_exceeded")
        answer = ask(ports[kind], ASKED[kind], {"model": "tiny", "messages": 5})
        assert answer.status == 400
    recorded = (STREAMS / "llamacpp_error_context.http").read_bytes().partition(b"\r\n\r\n")
    answer = ask(ports["llamacpp"], ASKED["llamacpp"], {"messages": [{"content": long}]})
    assert list_keys(json.loads(answer.body)) == list_keys(json.loads(recorded[2]))
    names = [line.split(b":")[0].decode() for line in recorded[0].split(b"\r\n")[1:]]
    assert [name for name in answer.names if "Emulator" not in name] == names


TOOL = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {}}},
}
NO_EMBEDDINGS = "This server does not support embeddings. Start it with `--embeddings`"
AUTO = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
REQUIRED = 'tool_choice="required" requires --tool-call-parser to be set'
NO_TOOLS = "registry.ollama.ai/library/tiny:latest does not support tools"


@pytest.mark.parametrize(
    ("kind", "path", "more", "status", "error"),
    [
        ("llamacpp", "/v1/embeddings", {}, 501,
         {"code": 501, "message": NO_EMBEDDINGS, "type": "not_supported_error"}),
        ("llamacpp", "/nowhere", {}, 404,
         {"code": 404, "message": "File Not Found", "type": "not_found_error"}),
        ("vllm", "/v1/chat/completions", {"tools": [TOOL]}, 400,
         {"message": AUTO, "type": "BadRequestError", "param": None, "code": 400}),
        ("vllm", "/v1/chat/completions", {"tools": [TOOL], "tool_choice": "required"}, 400,
         {"message": REQUIRED, "type": "BadRequestError", "param": None, "code": 400}),
        ("ollama", "/api/chat", {"tools": [TOOL]}, 400, NO_TOOLS),
        ("ollama", "/v1/chat/completions", {"tools": [TOOL]}, 400,
         {"message": NO_TOOLS, "type": "api_error", "param": None, "code": None}),
    ],
)  # fmt: skip
def test_what_it_cannot(
    ports: dict[str, int], kind: str, path: str, more: dict[str, Any], status: int, error: object
) -> None:
    """A feature that it does not have is refused as by a real server without it."""
    answer = ask(ports[kind], path, chat(kind) | more)
    assert (answer.status, json.loads(answer.body)) == (status, {"error": error})


def test_tools_that_are_let_pass(ports: dict[str, int]) -> None:
    """llama.cpp drops tools that the model's template does not know; vLLM obeys "none"."""
    for kind in ("llamacpp", "vllm"):
        body = chat(kind, stream=False) | {"tools": [TOOL], "tool_choice": "none"}
        plain = ask(ports[kind], ASKED[kind], chat(kind, stream=False))
        answer = ask(ports[kind], ASKED[kind], body)
        assert answer.status == 200
        counts = [json.loads(a.body)["usage"]["prompt_tokens"] for a in (plain, answer)]
        assert counts[0] == counts[1]


def test_unknown_paths(ports: dict[str, int]) -> None:
    """Each server's own words for a path that it does not have, embeddings of a chat model too."""
    answer = ask(ports["vllm"], "/v1/embeddings", {"model": "tiny", "input": "sea"})
    assert (answer.status, answer.body) == (404, b'{"detail":"Not Found"}')
    answer = ask(ports["ollama"], "/nowhere")
    assert (answer.status, answer.body) == (404, b"404 page not found")


def test_ollama_cuts_a_long_prompt_silently(ports: dict[str, int]) -> None:
    """Unless told not to, as Ollama does."""
    body = chat("ollama", 1) | {"messages": [{"role": "user", "content": "word " * 9000}]}
    lines = events_of(ask(ports["ollama"], "/api/chat", body).body)
    assert json.loads(lines[-1])["prompt_eval_count"] == 8192


def test_same_words_at_temperature_0(ports: dict[str, int]) -> None:
    """Greedy answers repeat; sampled ones without a seed do not."""
    texts = {}
    for heat in (0, 0.9):
        body = chat("vllm", 5, stream=False) | {"temperature": heat}
        texts[heat] = {
            json.loads(ask(ports["vllm"], ASKED["vllm"], body).body)["choices"][0]["message"][
                "content"
            ]
            for _ in range(6)
        }
    assert len(texts[0]) == 1
    assert len(texts[0.9]) > 1


def test_broken_requests(ports: dict[str, int]) -> None:
    """What is no HTTP gets a 400 and the connection's end; the server goes on."""
    for port in ports.values():
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 400")
            assert connection.recv(100) == b""
        assert ask(port, "/v1/models").status == 200
