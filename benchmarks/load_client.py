"""One client under the reference server, in a process of its own; one JSON line on stdout.

::

    python -m benchmarks.load_client CLIENT URL '{"streams": 256, "tokens": 200, ...}'

CLIENT is ``headroom``, ``httpuser`` (Locust's HttpUser, ``iter_lines``) or ``fasthttpuser``
(FastHttpUser, ``readline``). ``benchmarks.client`` runs it, and ``aiohttp_client.py`` beside it.
"""

from __future__ import annotations

import locust  # isort: skip  # noqa: F401 - first of all: it patches what the others import
import json
import logging
import os
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import gevent
import msgspec
import numpy as np
from locust import FastHttpUser, HttpUser, User, task
from locust.env import Environment
from locust.exception import StopUser

from benchmarks.scenario import Figures, Reading, Scenario, figures_of
from loadtests.measure.proving import TruthDialect, observed_of, reference_session
from loadtests.measure.truth import Observed
from loadtests.stream import settle_memory
from loadtests.users import ChatUser, attach

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from loadtests.measure.session import Session
    from planner.records import RequestRecord

    Seen = Callable[[], list[Observed]]  # what a run has seen, once it is over

__all__ = ["main", "measure"]


@dataclass
class Run:
    """What every client fills."""

    scenario: Scenario
    observed: list[Observed] = field(default_factory=list)
    begun: int = 0
    finished: int = 0

    def start_pause_s(self) -> float:
        """When the next user begins."""
        self.begun += 1
        return self.scenario.ramp_s * (self.begun - 1) / self.scenario.streams

    @property
    def over(self) -> bool:
        """Whether every user has done its rounds."""
        return self.finished >= self.scenario.streams * self.scenario.rounds


RUN: Run  # of this process; Locust makes its users itself and hands them nothing


class HeadroomUser(ChatUser):
    """Our own user, unchanged but for where it stops."""

    abstract = True

    def on_start(self) -> None:
        """Begin when it is this user's turn."""
        gevent.sleep(RUN.start_pause_s())
        self.left = RUN.scenario.rounds
        super().on_start()

    def wait_time(self) -> float:
        """Stop after the last round."""
        self.left -= 1
        if self.left <= 0:
            raise StopUser
        return 0.0


def _headroom(url: str) -> tuple[Environment, Seen]:
    scenario, dialect = RUN.scenario, TruthDialect()
    session = reference_session(url, dialect, outputs=str(scenario.tokens))

    def sink(record: RequestRecord) -> None:
        kept.append((record, dialect.text))
        RUN.finished += 1

    kept: list[tuple[RequestRecord, str]] = []
    session.sink = sink
    user_class = type("OurUser", (HeadroomUser,), {"host": url})
    environment = Environment(user_classes=[user_class])
    attach(environment, {user_class: session})
    return environment, lambda: _ours(kept, session)


def _ours(kept: list[tuple[RequestRecord, str]], session: Session) -> list[Observed]:
    return [observed_of(record, text, session.clock) for record, text in kept
            if record.first_token_s is not None]  # fmt: skip


class Peer(User):
    """What users in the manner of tutorials share: read lines, decode each, note the time."""

    abstract = True

    def on_start(self) -> None:
        """Begin when it is this user's turn."""
        gevent.sleep(RUN.start_pause_s())
        self.left = RUN.scenario.rounds

    @task
    def chat(self) -> None:
        """One request."""
        sent_ns = time.monotonic_ns()
        seen, texts = self.read(self.lines())
        RUN.observed.append(Observed(sent_ns, np.array(seen, dtype=np.float64), "".join(texts)))
        for name, since in (("TTFT", seen[0]), ("TPOT", seen[-1])):
            self.environment.events.request.fire(
                request_type=name, name="chat", response_time=(since - sent_ns) / 1e6,
                response_length=0, exception=None, context={},
            )  # fmt: skip
        RUN.finished += 1
        self.left -= 1
        if self.left <= 0:
            raise StopUser

    def lines(self) -> Iterable[bytes]:
        """The lines of an answer, as they come."""
        raise NotImplementedError

    def read(self, lines: Iterable[bytes]) -> tuple[list[int], list[str]]:
        """The moments and texts of the content events."""
        seen: list[int] = []
        texts: list[str] = []
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                continue
            now = time.monotonic_ns()
            choices = json.loads(data)["choices"]
            if choices and (text := choices[0]["delta"].get("content")):
                seen.append(now)
                texts.append(text)
        return seen, texts


class IterLinesUser(Peer, HttpUser):
    """Locust's HttpUser with ``iter_lines``."""

    abstract = True

    def on_start(self) -> None:
        """Trust the authority that the others find by themselves: Locust hides it from requests."""
        super().on_start()
        self.client.verify = os.environ.get("SSL_CERT_FILE") or True

    def lines(self) -> Iterator[bytes]:
        """The lines of an answer."""
        with self.client.post(
            "/v1/chat/completions", data=BODY, stream=True, catch_response=True,
            headers={"Content-Type": "application/json"},
        ) as response:  # fmt: skip
            yield from response.iter_lines()


class ReadLineUser(Peer, FastHttpUser):
    """Locust's FastHttpUser with ``readline``; its own ``iter_lines`` waits for 1,024 bytes."""

    abstract = True
    insecure = False  # over TLS all verify

    def lines(self) -> Iterator[bytes]:
        """The lines of an answer."""
        with self.client.post(
            "/v1/chat/completions", data=BODY.decode(), stream=True, catch_response=True,
            headers={"Content-Type": "application/json"},
        ) as response:  # fmt: skip
            while line := response._response.readline(b"\n"):  # noqa: SLF001 - Locust has no other
                yield line


BODY = b""
PEERS = {"httpuser": IterLinesUser, "fasthttpuser": ReadLineUser}


def _peer(name: str, url: str) -> tuple[Environment, Seen]:
    user_class = type("PeerUser", (PEERS[name],), {"host": url})
    return Environment(user_classes=[user_class]), lambda: RUN.observed


def measure(name: str, url: str) -> Figures:
    """Run the scenario and compare with the truth.

    CPU is counted from when every user has begun until every answer is recorded, so that it holds
    receiving, decoding, records and Locust's events, but not the making of users.
    """
    scenario = RUN.scenario
    environment, seen = _headroom(url) if name == "headroom" else _peer(name, url)
    runner = environment.create_local_runner()
    settle_memory()
    before = Reading.now()
    runner.start(scenario.streams, spawn_rate=scenario.streams)
    if scenario.rounds == 1:
        gevent.sleep(scenario.ramp_s + scenario.ttft_us * 1e-6 * 0.8)
    begun = Reading.now()
    limit_s = time.monotonic() + 60
    while not RUN.over and time.monotonic() < limit_s:
        gevent.sleep(0.01)
    done = Reading.now()
    return figures_of(seen(), before, begun, done, scenario.streams)


def main() -> None:
    """Run and print."""
    global RUN, BODY  # one run per process
    name, url, fields = sys.argv[1:]
    scenario = Scenario(**json.loads(fields))
    if scenario.cpu is not None:
        os.sched_setaffinity(0, {scenario.cpu})
    logging.getLogger("locust.runners").setLevel(logging.ERROR)
    RUN, BODY = Run(scenario), scenario.body()
    print(msgspec.json.encode(measure(name, url)).decode(), flush=True)
    os._exit(0)  # Locust's own end takes its time


if __name__ == "__main__":
    main()
