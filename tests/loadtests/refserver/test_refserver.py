"""The reference server, compiled and in Python: what it says, and that it ends."""

from __future__ import annotations

import json
import re
import shutil
import ssl
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from loadtests.dialects import dialect_of
from loadtests.dialects.base import HttpCall, Reply
from loadtests.refserver import build, reference_server
from loadtests.refserver.certificate import own_certificate
from loadtests.stream import Clock, Endpoint, Exchange, StreamClient, Timeouts
from loadtests.stream.tls import tls_context
from planner.errors import EngineError

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module", params=["compiled", "python"])
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bool:
    """Every test of this file runs with both servers; the cache is our own."""
    if request.param == "python":
        return False
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADROOM_CACHE", str(tmp_path_factory.mktemp("cache")))
        try:
            build()
        except EngineError as error:
            pytest.skip(str(error))
    return True


def ask(
    url: str, path: str = "/v1/chat/completions", ca_file: Path | None = None, **fields: int
) -> Exchange:
    """One request."""
    body = json.dumps({"stream": True, **fields}).encode() if "chat" in path else b""
    call = HttpCall(method="POST" if body else "GET", path=path, headers=(), body=body)
    timeouts = Timeouts(connect_s=5, first_byte_s=5, idle_s=5)
    trust = tls_context(str(ca_file)) if ca_file else None
    return StreamClient(Endpoint.parse(url), Clock(), timeouts, tls_context=trust).exchange(call)


def decode(exchange: Exchange) -> Reply:
    """What the stream says in the OpenAI dialect."""
    decoder = dialect_of("openai", "openai").decoder()
    decoder.feed(exchange.body)
    return decoder.finish()


def test_it_speaks_the_openai_api_and_the_truth(compiled: bool) -> None:
    """A stream is whole for our dialect; its stamps are ordered and lie in the request's time."""
    with reference_server(itl_s=0.005, ttft_s=0.02, compiled=compiled) as server:
        before_ns = time.monotonic_ns()
        exchange = ask(server.url, max_tokens=7)
        after_ns = time.monotonic_ns()
        assert server.compiled == compiled
        assert server.stats().chunks == 7
        assert server.stats().chunks == 0  # a look begins a new account
    reply = decode(exchange)
    assert (reply.error_kind, reply.finish_reason, reply.output_tokens) == (None, "length", 7)
    assert len(reply.content_ends) == 7
    received = re.findall(r" R(\d{16})", reply.text)
    sent = [int(ns) for ns in re.findall(r" T(\d{16})", reply.text)]
    assert len(received) == 1
    assert [before_ns, int(received[0]), *sent, after_ns] == sorted(
        [before_ns, int(received[0]), *sent, after_ns]
    )
    assert sent[0] - int(received[0]) >= 20_000_000
    assert sent[-1] - sent[0] >= 5 * 5_000_000


def skip_without_tls(*, compiled: bool) -> None:
    """What TLS needs here beyond the project's own packages."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl program")
    if compiled:
        try:
            build(tls=True)
        except EngineError as error:
            pytest.skip(str(error))


def test_over_tls_it_says_the_same(compiled: bool) -> None:
    """A client that trusts the run's own certificate gets a whole stream with ordered stamps."""
    skip_without_tls(compiled=compiled)
    with reference_server(itl_s=0.005, ttft_s=0.02, compiled=compiled, tls=True) as server:
        assert server.url.startswith("https://127.0.0.1:")
        assert server.compiled == compiled
        assert server.ca_file is not None
        before_ns = time.monotonic_ns()
        exchange = ask(server.url, ca_file=server.ca_file, max_tokens=7)
        after_ns = time.monotonic_ns()
        assert server.stats().chunks == 7
        whole = ask(server.url, "/v1/models", ca_file=server.ca_file)
        assert json.loads(whole.body)["data"][0]["id"] == "reference"
    assert exchange.failure is None
    reply = decode(exchange)
    assert (reply.error_kind, reply.finish_reason, reply.output_tokens) == (None, "length", 7)
    stamps = [int(ns) for ns in re.findall(r" [RT](\d{16})", reply.text)]
    assert len(stamps) == 8
    assert [before_ns, *stamps, after_ns] == sorted([before_ns, *stamps, after_ns])


def test_over_tls_beyond_socket_buffers(compiled: bool) -> None:
    """Records that the socket does not take at once arrive whole and in order."""
    skip_without_tls(compiled=compiled)
    with reference_server(itl_s=0, ttft_s=0, compiled=compiled, tls=True) as server:
        reply = decode(ask(server.url, ca_file=server.ca_file, max_tokens=20_000))
    assert (reply.error_kind, len(reply.content_ends)) == (None, 20_000)


def test_nobody_trusts_its_certificate_unasked(compiled: bool) -> None:
    """Without the authority the client refuses; neither key nor certificate outlives the run."""
    skip_without_tls(compiled=compiled)
    with reference_server(itl_s=1, ttft_s=0, compiled=compiled, tls=True) as server:
        failure = ask(server.url, max_tokens=1).failure
        assert server.ca_file is not None
        folder = server.ca_file.parent
        assert [path.name for path in folder.iterdir()] == [server.ca_file.name]  # the key is gone
        # A server that survived a broken handshake answers the next client.
        assert ask(server.url, ca_file=server.ca_file, max_tokens=1).failure is None
    assert failure is not None
    assert failure[0] == "tls"
    assert not folder.exists()


def test_each_run_has_another_key() -> None:
    """Two certificates have two keys, and each is good for the loopback's names only."""
    skip_without_tls(compiled=False)
    with own_certificate() as one, own_certificate() as other:
        assert one.key.read_bytes() != other.key.read_bytes()
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trust.load_verify_locations(cafile=str(one.certificate))
        names = trust.get_ca_certs()[0]["subjectAltName"]
    assert sorted(names) == [
        ("DNS", "localhost"), ("IP Address", "0:0:0:0:0:0:0:1"), ("IP Address", "127.0.0.1"),
    ]  # fmt: skip


def test_without_openssl_tls_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where no certificate can be made the error names what is missing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(EngineError, match="program openssl"),
        reference_server(itl_s=1, ttft_s=1, compiled=False, tls=True),
    ):
        pass


def test_a_request_may_set_its_own_pace(compiled: bool) -> None:
    """The body's fields go before the options, which would run into the client's timeouts."""
    with reference_server(itl_s=5.0, ttft_s=5.0, compiled=compiled) as server:
        exchange = ask(
            server.url, max_completion_tokens=3, x_itl_us=20_000, x_ttft_us=1000, x_sync=1
        )
    sent = [int(ns) for ns in re.findall(r" T(\d{16})", decode(exchange).text)]
    assert exchange.failure is None
    assert len(sent) == 3


def test_without_gaps_it_sends_all_that_is_read(compiled: bool) -> None:
    """A gap of 0 sends as fast as the client reads, beyond what socket buffers hold."""
    with reference_server(itl_s=0, ttft_s=0, compiled=compiled) as server:
        reply = decode(ask(server.url, max_tokens=20_000))
    assert (reply.error_kind, len(reply.content_ends)) == (None, 20_000)


def test_other_paths(compiled: bool) -> None:
    """The model list answers, and an unknown path is a 404."""
    with reference_server(itl_s=1, ttft_s=1, compiled=compiled) as server:
        assert json.loads(ask(server.url, "/v1/models").body)["data"][0]["id"] == "reference"
        assert ask(server.url, "/nothing").status == 404


def test_it_listens_on_the_loopback_only_and_ends(compiled: bool) -> None:
    """Its only listener is on 127.0.0.1, and it is gone after the block."""
    with reference_server(itl_s=1, ttft_s=1, compiled=compiled) as server:
        process = psutil.Process(server.pid)
        listening = [c.laddr.ip for c in process.net_connections() if c.status == "LISTEN"]
        assert listening == ["127.0.0.1"]
    assert not psutil.pid_exists(server.pid)


KILLED = """
import os, sys, time
from loadtests.refserver import reference_server
with reference_server(itl_s=1, ttft_s=1, compiled=sys.argv[1] == "True") as server:
    print(server.pid, flush=True)
    time.sleep(60)
"""


def test_it_does_not_outlive_a_killed_parent(compiled: bool) -> None:
    """When the process that started it is killed, it ends by itself."""
    parent = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(compiled)], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert psutil.pid_exists(pid)
    parent.kill()
    parent.communicate(timeout=10)
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second use finds what the first compiled; without a compiler the first says so."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the server in C needs Linux")
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(EngineError, match="no C compiler"):
        build(tmp_path)
    monkeypatch.setenv("CC", "false")
    with pytest.raises(EngineError, match="cannot compile"):
        build(tmp_path)
    monkeypatch.delenv("CC")
    try:
        program = build(tmp_path)
    except EngineError as error:
        pytest.skip(str(error))
    made = program.stat().st_mtime_ns
    assert build(tmp_path).stat().st_mtime_ns == made
    assert list(program.parent.iterdir()) == [program]


def test_without_a_compiler_python_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be compiled the server in Python takes over."""
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setenv("HEADROOM_CACHE", str(tmp_path))
    with reference_server(itl_s=0.001, ttft_s=0.001) as server:
        assert not server.compiled
        assert decode(ask(server.url, max_tokens=2)).error_kind is None
