"""The way to a server: proxies that the environment names, and whom to trust over TLS."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from loadtests.dialects.base import HttpCall
from loadtests.stream import Clock, Endpoint, Exchange, StreamClient, Timeouts, tls_context
from loadtests.stream.proxies import proxy_for
from planner.errors import InputError
from tests.loadtests.servers import Act, answer, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

CERTIFICATE = Path(__file__).parent / "localhost.pem"
QUICK = Timeouts(connect_s=5, first_byte_s=5, idle_s=5)
CALL = HttpCall(method="POST", path="/v1/chat", headers=(("X-A", "1"),), body=b"{}")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without proxies of its own."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def ask(url: str, tls: ssl.SSLContext | None = None) -> Exchange:
    """One exchange."""
    client = StreamClient(Endpoint.parse(url), Clock(), QUICK, tls_context=tls)
    return client.exchange(CALL)


def test_plain_requests_go_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY gets the request with the whole URL, and its own credentials only."""
    with serving([answer(b"by proxy")]) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://me:s%23cret@127.0.0.1:{proxy.port}")
        exchange = ask("http://model.example:8000/base")
        request = proxy.requests[0].decode()
    assert (exchange.body, exchange.failure) == (b"by proxy", None)
    assert request.startswith("POST http://model.example:8000/base/v1/chat HTTP/1.1\r\n")
    assert "\r\nHost: model.example:8000\r\n" in request
    pair = base64.b64encode(b"me:s#cret").decode()
    assert f"\r\nProxy-Authorization: Basic {pair}\r\n" in request


@contextlib.contextmanager
def tunnel(port: int, refusal: bytes = b"") -> Iterator[tuple[str, list[bytes]]]:
    """A proxy that leads every CONNECT to one port of the loopback, or refuses."""
    listener = socket.create_server(("127.0.0.1", 0))
    seen: list[bytes] = []

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                seen.append(near.recv(65536))
                if refusal:
                    near.sendall(refusal)
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", port))
                near.sendall(b"HTTP/1.1 200 Connection established\r\nVia: us\r\n\r\n")
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=ends, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", seen
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.fixture
def tls_server() -> ssl.SSLContext:
    """The server's side of TLS with the test certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def test_https_goes_through_a_tunnel(
    monkeypatch: pytest.MonkeyPatch, tls_server: ssl.SSLContext
) -> None:
    """HTTPS_PROXY is asked for a tunnel; the certificate is the server's; the request is hidden."""
    lenient = ssl.create_default_context(cafile=str(CERTIFICATE))
    lenient.check_hostname = False  # the certificate is for localhost, which needs no proxy
    with serving([answer(b"hidden")], tls=tls_server) as server, tunnel(server.port) as (url, seen):
        monkeypatch.setenv("HTTPS_PROXY", url)
        exchange = ask(f"https://model.example:{server.port}", lenient)
        assert server.requests[0].startswith(b"POST /v1/chat HTTP/1.1\r\n")
        place = b"model.example:%d" % server.port
    assert (exchange.body, exchange.failure) == (b"hidden", None)
    assert seen == [b"CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (place, place)]


@pytest.mark.parametrize("said", [b"HTTP/1.1 403 Forbidden\r\n\r\n", b"SSH-2.0-x\r\n"])
def test_a_proxy_that_refuses(monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    """A refused tunnel is a failure to connect that names the proxy."""
    with tunnel(0, refusal=said) as (url, _):
        monkeypatch.setenv("HTTPS_PROXY", url)
        exchange = ask("https://model.example")
    assert exchange.failure is not None
    assert exchange.failure[0] == "connect"
    assert f"the proxy {url[7:]} gives no way to model.example:443" in exchange.failure[1]


@pytest.mark.parametrize(
    ("url", "no_proxy", "proxied"),
    [
        ("http://model.example", "", True),
        ("http://model.example", "model.example", False),
        ("http://model.example:8000", "model.example:8000", False),
        ("http://model.example:8001", "model.example:8000", True),
        ("http://a.model.example", ".model.example", False),
        ("http://model.example", "*", False),
        ("http://127.0.0.1:8000", "", False),
        ("http://[::1]:8000", "", False),
        ("http://localhost:8000", "", False),
        ("http://10.0.0.5:8000", "", True),
        ("https://model.example", "", False),  # only HTTP_PROXY is set
    ],
)
def test_who_is_proxied(
    monkeypatch: pytest.MonkeyPatch, url: str, no_proxy: str, proxied: bool
) -> None:
    """NO_PROXY is obeyed, and this machine is never looked for behind a proxy."""
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert (proxy_for(Endpoint.parse(url)) is not None) == proxied


@pytest.mark.parametrize(
    "address", ["socks5://me:s3cret@proxy", "https://me:s3cret@proxy", "http://me:s3cret@:x", "//"]
)
def test_a_bad_proxy_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """What cannot be used is named by its variable, without the password."""
    monkeypatch.setenv("HTTP_PROXY", address)
    with pytest.raises(InputError, match="HTTP_PROXY") as caught:
        proxy_for(Endpoint.parse("http://model.example"))
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(caught.value.__cause__)


def test_a_proxy_does_not_show_its_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the text nor the place of a proxy holds its password."""
    monkeypatch.setenv("HTTP_PROXY", "http://me:s3cret@proxy.example:3128")
    proxy = proxy_for(Endpoint.parse("http://model.example"))
    assert proxy is not None
    assert "s3cret" not in repr(proxy)
    assert base64.b64encode(b"me:s3cret").decode() not in repr(proxy)


def test_authorities_of_a_file(monkeypatch: pytest.MonkeyPatch, tls_server: ssl.SSLContext) -> None:
    """HEADROOM_CA_FILE makes a private authority trusted, beside the system's."""
    monkeypatch.setenv("HEADROOM_CA_FILE", str(CERTIFICATE))
    with serving([answer(b"trusted"), Act.GOODBYE], tls=tls_server) as server:
        exchange = ask(f"https://localhost:{server.port}")
    assert (exchange.body, exchange.failure) == (b"trusted", None)


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_bad_file_of_authorities(tmp_path: Path, content: bytes | None) -> None:
    """A missing file, or one without certificates, is refused with the remedy."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"ca\.pem.*HEADROOM_CA_FILE must name"):
        tls_context(str(path))


def test_certificate_of_another_host(tls_server: ssl.SSLContext) -> None:
    """A trusted certificate for another name is refused."""
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
    with serving([answer(b"")], tls=tls_server) as server:
        endpoint = Endpoint("https", "localhost.localdomain", server.port, "")
        client = StreamClient(endpoint, Clock(), QUICK, tls_context=trusting)
        place = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))
        client._addresses = [place]
        exchange = client.exchange(CALL)
    assert exchange.failure is not None
    assert exchange.failure[0] == "tls"
    assert "ostname mismatch" in exchange.failure[1]
