"""Looks at a server once a second while it is under load: its own pages, its process, its GPUs.

One greenlet and one connection a target. A page that comes late or illegibly is a missing sample,
never an error: the load goes on. Nothing is asked of a page that the server does not have.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import gevent
from gevent.event import Event

from loadtests.dialects.base import HttpCall
from loadtests.measure.gpus import Gpus
from loadtests.measure.hostfigures import HostFigures
from loadtests.measure.pages import MAX_PAGE_BYTES, metrics_figures, ps_figures, slots_figures
from loadtests.stream.client import StreamClient, Timeouts
from planner.errors import HeadroomError
from planner.records import TelemetrySample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from loadtests.measure.session import Session
    from planner.records import TargetInfo

__all__ = ["EVERY_S", "ServerWatch"]

EVERY_S = 1.0
"""Between two looks."""

TIMEOUTS = Timeouts(connect_s=1.0, first_byte_s=2.0, idle_s=1.0, total_s=3.0)
"""Of a page. A server may answer it only between two steps of its model."""

_OK, _BUSY = 200, 503


@dataclass(frozen=True)
class _Page:
    """A page of a server and what is read from it."""

    path: str
    read: Callable[[bytes], dict[str, float] | None]
    remedy: str = ""  # of a server that should have it


def _pages_of(info: TargetInfo) -> list[_Page]:
    """The pages that a kind of server may have."""
    return {
        "llamacpp": [
            _Page("/metrics", metrics_figures, "start it with --metrics"),
            _Page("/slots", slots_figures),
        ],
        "vllm": [_Page("/metrics", metrics_figures, "is it hidden by a proxy?")],
        "ollama": [_Page("/api/ps", ps_figures(info.model))],
    }.get(info.backend, [_Page("/metrics", metrics_figures)])


class ServerWatch:
    """Watches one target.

    Attributes:
        notes: what a reader of the run must know of the looking itself.
    """

    def __init__(self, session: Session, keep: Callable[[TelemetrySample], None]) -> None:
        """Prepare; nothing is asked yet.

        Args:
            session: the target.
            keep: takes each sample; it must not raise.
        """
        self.notes: list[str] = []
        self._awake = Event()
        self._awake.set()
        self._session, self._keep = session, keep
        self._pages = _pages_of(session.info)
        self._client = StreamClient(
            session.endpoint, session.clock, TIMEOUTS, max_body_bytes=MAX_PAGE_BYTES,
            keep_alive=True, drained=False,
        )  # fmt: skip
        key = session.api_key
        plain = (("Accept", "*/*"), ("Accept-Encoding", "identity"), ("User-Agent", "headroom"))
        self._headers = plain if key is None else (*plain, ("Authorization", f"Bearer {key}"))
        # What an emulator uses is no figure of the server that it stands in for.
        emulated = session.info.emulated is not None
        self._host = None if emulated else HostFigures.of(session.endpoint, Gpus.find())

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look while the block runs, the first time at once."""
        greenlet = gevent.spawn(self._watch)
        try:
            yield
        finally:
            greenlet.kill()
            self._client.close()

    def pause(self) -> None:
        """Look no more until :meth:`resume`: what is to be seen belongs to no level."""
        self._awake.clear()

    def resume(self) -> None:
        """Look again, at once if the last look was long ago."""
        self._awake.set()

    def _watch(self) -> None:
        clock = self._session.clock
        due_s = clock.now()
        try:
            while True:
                self._awake.wait()
                self.look()
                due_s = max(due_s + EVERY_S, clock.now())
                gevent.sleep(due_s - clock.now())
        except HeadroomError as error:
            self._end(str(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, the load must go on
            self._end(f"{type(error).__name__}: {error}: a fault of Headroom")

    def look(self) -> None:
        """One look at everything there is."""
        if self._host is not None:
            for source, figures in self._host.read().items():
                self._tell(self._session.clock.now(), source, figures)
        for page in tuple(self._pages):
            self._ask(page)

    def _ask(self, page: _Page) -> None:
        call = HttpCall(method="GET", path=page.path, headers=self._headers, body=b"")
        exchange = self._client.exchange(call)
        if exchange.failure is None and exchange.status not in {_OK, _BUSY}:
            self._pages.remove(page)
            if page.remedy:
                self._note(f"has no {page.path} (HTTP {exchange.status}; {page.remedy})")
            return
        figures = page.read(exchange.body) if exchange.status == _OK else None
        if exchange.failure is not None or figures is None:
            self._tell(exchange.ended_s, page.path, {"missed": 1.0})
            return
        took_s = exchange.ended_s - exchange.sent_s
        self._tell(exchange.ended_s, page.path, {**figures, "scrape_s": took_s})

    def _tell(self, time_s: float, source: str, figures: dict[str, float]) -> None:
        target = self._session.info.name
        self._keep(TelemetrySample(time_s=time_s, target=target, source=source, values=figures))

    def _end(self, why: str) -> None:
        self._note(f"is not watched any more ({why})")

    def _note(self, what: str) -> None:
        self.notes.append(f"{self._session.info.name} {what}: its own figures are not known")
