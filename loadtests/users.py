"""The one code path that every Locust User class of Headroom shares.

A user asks, reads the streamed answer, thinks, and asks again. Locust's statistics get one row for
whole requests (``chat``) and one each for TTFT and TPOT. They feed Locust's own screens only: their
percentiles are rounded to about two digits, so plans and gates use the run folder's records.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import gevent
from locust import User, task
from locust.exception import StopUser
from locust.runners import WorkerRunner

if TYPE_CHECKING:
    from collections.abc import Mapping

    from locust.env import Environment

    from loadtests.measure.session import Chatter, Session
    from planner.records import RequestRecord

__all__ = ["ChatUser", "RequestFailed", "attach"]

_PAUSE_AFTER_FAILURE_S = 0.5
"""A refusal costs a server nothing: without a pause a user would ask thousands a second."""

_ORDERS_WITHIN_S, _ORDERS_POLL_S = 15.0, 0.05  # a worker that joins a running test waits

_SESSIONS: WeakKeyDictionary[Environment, Mapping[type[User], Session]] = WeakKeyDictionary()
"""Locust makes its users itself and hands them nothing but the environment."""


class RequestFailed(Exception):  # noqa: N818 - shown in Locust's failure table, where it reads well
    """What Locust's failure table shows: the error kind and the message."""


def attach(environment: Environment, sessions: Mapping[type[User], Session]) -> None:
    """Give an environment the session of each of its user classes."""
    _SESSIONS[environment] = sessions


class ChatUser(User):
    """A person who chats with one server.

    Example::

        class MyUser(ChatUser):
            backend = "vllm"
            host = "http://127.0.0.1:8000"
    """

    abstract = True
    backend = "openai"
    host_option: str | None = None  # the option that names its host, where it is not --host

    _chatter: Chatter | None = None

    def on_start(self) -> None:
        """Take a place in the session that the environment holds for this class."""
        session = _SESSIONS.get(self.environment, {}).get(type(self))
        ends_s = time.monotonic() + _ORDERS_WITHIN_S
        while session is None and _obeys(self.environment) and time.monotonic() < ends_s:
            gevent.sleep(_ORDERS_POLL_S)
            session = _SESSIONS.get(self.environment, {}).get(type(self))
        if session is not None:
            self._chatter = session.chatter()

    def wait_time(self) -> float:
        """Seconds to think; after a failure at least long enough not to hammer the server."""
        if self._chatter is None:
            return 0.0
        pause = self._chatter.think_s()
        return max(pause, _PAUSE_AFTER_FAILURE_S) if self._chatter.failed else pause

    @task
    def chat(self) -> None:
        """One request, reported to Locust when it is over."""
        if self._chatter is None:
            raise StopUser  # the look at the server failed, was told, and ends the test
        report(self.environment, self._chatter.ask())

    def on_stop(self) -> None:
        """Let go of the connection."""
        if self._chatter is not None:
            self._chatter.close()


def _obeys(environment: Environment) -> bool:
    """Whether another process says what there is to do: Locust starts users before it has."""
    return isinstance(environment.runner, WorkerRunner)


def report(environment: Environment, record: RequestRecord) -> None:
    """Fire Locust's request events for one record: three at most, never one per token."""
    fire = environment.events.request.fire
    common: dict[str, Any] = {"name": record.target, "response_length": 0, "context": {}}
    due_s = record.due_s
    e2e_s = record.ended_s - due_s
    failure = None
    if record.status != "ok":
        failure = RequestFailed(f"{record.error_kind}: {record.error}")
    fire(request_type="chat", response_time=e2e_s * 1e3, exception=failure, **common)
    if failure is not None or record.first_token_s is None:
        return
    ttft_s = record.first_token_s - due_s
    fire(request_type="TTFT", response_time=ttft_s * 1e3, exception=None, **common)
    if record.output_tokens is not None and record.output_tokens > 1:
        tpot_s = (e2e_s - ttft_s) / (record.output_tokens - 1)
        fire(request_type="TPOT", response_time=tpot_s * 1e3, exception=None, **common)
