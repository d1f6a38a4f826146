"""An Ollama that runs already (``OLLAMA_HOST``): the model is put into it, and taken out again.

Written from Ollama's API reference (blobs, create, delete); see ``tests`` for what was tried.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import time
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import msgspec

from loadtests.engines.process import one_line
from loadtests.engines.spec import url_of
from planner.errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from loadtests.engines.spec import EngineSpec

__all__ = ["AttachedOllama", "attach", "running_ollama"]

_DEFAULT_PORT = 11434
_TIMEOUT_S = 120.0  # creating a model copies it once
_POLL_S = 1.0
_MAX_ANSWER_BYTES = 1 << 20


class _Named(msgspec.Struct):
    name: str


class _Tags(msgspec.Struct):
    models: list[_Named] | None = None


class AttachedOllama:
    """A server that somebody else started, with our model in it; stopping removes the model.

    Attributes:
        kind, url, model, facts, alive: as of ``RunningEngine``.
        pid: ``None``: the process is not ours, and may be on another machine.
    """

    kind = "ollama"
    pid = None

    def __init__(self, url: str, model: str, *, imported: bool) -> None:
        """Take note of the server and of whether the model is ours to remove."""
        self.url = url
        self.model = model
        self.facts = {"engine": "Ollama (found running; its settings are its own)"}
        self._imported = imported

    @property
    def alive(self) -> bool:
        """Whether it answers."""
        try:
            return _call(self.url, "GET", "/api/version")[0] == http.client.OK
        except EngineError:
            return False

    def wait(self) -> None:
        """Wait until it answers no more.

        Raises:
            EngineError: always, then.
        """
        while self.alive:
            time.sleep(_POLL_S)
        raise EngineError(f"ollama on {self.url} does not answer any more")

    def last_words(self) -> str:
        """Nothing: its log is not ours."""
        return ""

    def stop(self) -> None:
        """Remove the model if it was put there by us. Harmless when repeated."""
        if self._imported:
            self._imported = False
            body = msgspec.json.encode({"model": self.model})
            if self.alive:
                _call(self.url, "DELETE", "/api/delete", body)

    def __enter__(self) -> Self:
        """Nothing to do: it runs already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave it as it was found."""
        self.stop()


def running_ollama() -> str | None:
    """The address of the server that ``OLLAMA_HOST`` names and that answers there.

    Raises:
        EngineError: ``OLLAMA_HOST`` is no address of a plain HTTP server.
    """
    named = os.environ.get("OLLAMA_HOST", "").strip()
    if not named:
        return None
    try:
        parts = urlsplit(named if "://" in named else f"http://{named}")
        host, port = parts.hostname or "127.0.0.1", parts.port or _DEFAULT_PORT
    except ValueError as error:
        raise EngineError(f"OLLAMA_HOST={named!r} is no address ({error})") from error
    if parts.scheme != "http":
        raise EngineError(
            f"OLLAMA_HOST={named!r} is not plain HTTP: measure it as a target, ollama={named}"
        )
    url = url_of(host, port)
    try:
        status, _ = _call(url, "GET", "/api/version")
    except EngineError:
        return None
    return url if status == http.client.OK else None


def attach(
    url: str, spec: EngineSpec, gguf: Path, name: str, template: str | None
) -> AttachedOllama:
    """Put a model into a running server, unless it has one of that name.

    Args:
        url: the server.
        spec: its context and threads become parameters of the model.
        gguf: the model's file; uploaded, since the server may be on another machine.
        name: what to call it.
        template: its chat template; ``None`` to let Ollama read the GGUF's own.

    Raises:
        EngineError: the server refuses one of the steps.
    """
    tags = msgspec.json.decode(_demand(url, "GET", "/api/tags"), type=_Tags)
    if f"{name}:latest" in {model.name for model in tags.models or ()}:
        return AttachedOllama(url, name, imported=False)
    with gguf.open("rb") as file:
        digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    status, _ = _call(url, "HEAD", f"/api/blobs/{digest}")
    if status != http.client.OK:
        _demand(url, "POST", f"/api/blobs/{digest}", gguf)
    recipe = {
        "model": name,
        "files": {gguf.name: digest},
        "parameters": {"num_ctx": spec.context, "num_thread": spec.threads},
        "stream": False,
        **({"template": template} if template is not None else {}),
    }
    _demand(url, "POST", "/api/create", msgspec.json.encode(recipe))
    return AttachedOllama(url, name, imported=True)


def _demand(url: str, method: str, path: str, body: bytes | Path | None = None) -> bytes:
    status, said = _call(url, method, path, body)
    if status not in (http.client.OK, http.client.CREATED):
        raise EngineError(
            f"ollama on {url}: {method} {path.split(':', maxsplit=1)[0]} answers HTTP {status} "
            f"{one_line(said.decode(errors='replace'))}"
        )
    return said


def _call(url: str, method: str, path: str, body: bytes | Path | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=_TIMEOUT_S)
    try:
        if body is None or isinstance(body, bytes):
            connection.request(method, path, body, {"Content-Type": "application/json"})
        else:
            with body.open("rb") as file:
                size = str(body.stat().st_size)
                connection.request(method, path, file, {"Content-Length": size})
        response = connection.getresponse()
        return response.status, response.read(_MAX_ANSWER_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise EngineError(f"ollama on {url}: {method} {path}: {error}") from error
    finally:
        connection.close()
