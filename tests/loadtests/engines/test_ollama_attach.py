"""Using an Ollama that runs: against a real one where ``OLLAMA_HOST`` names it.

Elsewhere against a small server on a real socket that keeps blobs and models as Ollama's API
reference says; that is no proof that a real Ollama does.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from loadtests.engines.base import EngineSpec, open_engine
from loadtests.engines.facts import engine_facts
from loadtests.engines.ollama_attach import attach, running_ollama
from planner.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from loadtests.engines.model import ModelFiles


class Store(ThreadingHTTPServer):
    """Blobs by digest, models by name."""

    daemon_threads = True

    def __init__(self) -> None:
        """Listen on a free port."""
        super().__init__(("127.0.0.1", 0), Handler)
        self.blobs: dict[str, int] = {}
        self.models: dict[str, dict[str, Any]] = {}
        self.uploads = 0


class Handler(BaseHTTPRequestHandler):
    """The part of the API that importing a model takes."""

    server: Store
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing."""

    def _answer(self, status: int, body: object = None) -> None:
        text = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def do_HEAD(self) -> None:
        """Whether a blob is there."""
        self._answer(200 if self.path.rpartition("/")[2] in self.server.blobs else 404)

    def do_GET(self) -> None:
        """Version and models."""
        if self.path == "/api/version":
            self._answer(200, {"version": "0.12.0"})
        else:
            self._answer(200, {"models": [{"name": f"{n}:latest"} for n in self.server.models]})

    def do_POST(self) -> None:
        """A blob, a model, a chat."""
        body = self._body()
        if self.path.startswith("/api/blobs/"):
            digest = self.path.rpartition("/")[2]
            if digest != f"sha256:{hashlib.sha256(body).hexdigest()}":
                self._answer(400, {"error": "digest mismatch"})
                return
            self.server.uploads += 1
            self.server.blobs[digest] = len(body)
            self._answer(201)
        elif self.path == "/api/create":
            recipe = json.loads(body)
            if not all(digest in self.server.blobs for digest in recipe["files"].values()):
                self._answer(400, {"error": "blob not found"})
                return
            self.server.models[recipe["model"]] = recipe
            self._answer(200, {"status": "success"})
        else:
            self._answer(200, {"usage": {"completion_tokens": 2}})

    def do_DELETE(self) -> None:
        """Forget a model."""
        self._answer(200 if self.server.models.pop(json.loads(self._body())["model"]) else 404)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A server that ``OLLAMA_HOST`` names."""
    server = Store()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{server.server_address[1]}")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_model_is_put_in_and_taken_out(store: Store, tiny_model: ModelFiles) -> None:
    """The file arrives whole, the model has our context and threads, and stopping removes it."""
    spec = EngineSpec(kind="ollama", context=512, threads=1, model=tiny_model.gguf)
    with open_engine(spec) as engine:
        assert engine.pid is None
        recipe = store.models["headroom-tiny"]
        assert recipe["parameters"] == {"num_ctx": 512, "num_thread": 1}
        assert list(store.blobs.values()) == [tiny_model.gguf.stat().st_size]
    assert store.models == {}
    assert store.uploads == 1
    with open_engine(spec):  # the blob is still there
        assert store.uploads == 1


def test_model_of_somebody_else_stays(store: Store, tmp_path: Path) -> None:
    """A model that was there before is used and left."""
    store.models["own"] = {}
    url = running_ollama()
    assert url is not None
    gguf = tmp_path / "own.gguf"
    gguf.write_bytes(b"never read")
    with attach(url, EngineSpec(kind="ollama"), gguf, "own", None) as engine:
        assert engine.alive
    assert "own" in store.models
    assert store.uploads == 0


def test_refusal_is_said(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server says to a file that arrives damaged is in the message."""
    gguf = tmp_path / "a.gguf"
    gguf.write_bytes(b"a")
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: hashlib.sha256(b"another"))
    url = running_ollama()
    assert url is not None
    with pytest.raises(EngineError, match=r"/api/blobs/sha256 answers HTTP 400 .*digest mismatch"):
        attach(url, EngineSpec(kind="ollama"), gguf, "a", None)
    assert store.models == {}


def test_nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address where nothing answers is no running server."""
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:1")
    assert running_ollama() is None
    monkeypatch.delenv("OLLAMA_HOST")
    assert running_ollama() is None


@pytest.mark.parametrize("named", ["https://127.0.0.1:1", "127.0.0.1:port"])
def test_address_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    """A wrong address is an error that shows it."""
    monkeypatch.setenv("OLLAMA_HOST", named)
    with pytest.raises(EngineError, match=f"OLLAMA_HOST='{named}' is n"):
        running_ollama()


@pytest.mark.ollama
@pytest.mark.skipif(not os.environ.get("OLLAMA_HOST"), reason="OLLAMA_HOST is not set")
def test_real_server(tiny_model: ModelFiles) -> None:
    """A real Ollama takes the model, answers with it, tells its facts, and loses it again."""
    with open_engine(EngineSpec(kind="ollama", context=512, model=tiny_model.gguf)) as engine:
        facts = engine_facts(engine, "ollama")
        assert facts.engine == "Ollama"
        assert facts.context_tokens == 512
    assert engine.alive
