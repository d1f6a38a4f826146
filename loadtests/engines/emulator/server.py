"""The emulated server: one event loop, one timer, the fleet and its connections."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import select
import selectors
import signal
import time
import zlib
from collections import OrderedDict
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from loadtests.engines.emulator.connection import Connection
from loadtests.engines.emulator.faults import draw_fault, status_of
from loadtests.engines.emulator.fleet import Fleet
from loadtests.engines.emulator.generation import Generation
from loadtests.engines.emulator.speakers.common import MARK, Answer, Ask
from loadtests.engines.emulator.speakers.llamacpp import LlamaCppSpeaker
from loadtests.engines.emulator.speakers.ollama import OllamaSpeaker
from loadtests.engines.emulator.speakers.vllm import VllmSpeaker
from loadtests.engines.emulator.state import State
from loadtests.engines.emulator.truth import TruthFile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from loadtests.engines.emulator.settings import Settings
    from loadtests.engines.emulator.speakers.common import Request, SpeakerMaker

__all__ = ["SPEAKERS", "Emulator", "new_loop", "serve", "serving"]

SPEAKERS: dict[str, SpeakerMaker] = {
    "llamacpp": LlamaCppSpeaker,
    "ollama": OllamaSpeaker,
    "vllm": VllmSpeaker,
}
"""The kinds of servers. A new kind is one class and one entry here."""

_BACKLOG = 4096
_STEPS_AT_ONCE = 64  # between two looks at the sockets, when steps are overdue
_REMEMBERED = 4096  # conversations in the prefix cache's index
_FLUSH_S = 1.0
_OK = 200


class Emulator:
    """Takes requests, runs the fleet, sends tokens when their steps end."""

    def __init__(self, settings: Settings, loop: asyncio.AbstractEventLoop) -> None:
        """Ready for connections.

        Raises:
            InputError: the truth cannot be written.
        """
        self.settings = settings
        self.loop = loop
        self.connections: set[Connection] = set()
        self._rng = np.random.default_rng(settings.seed)
        self.fleet = Fleet(settings.engine, settings.replicas, self._rng)
        self.state = State(self.fleet, itertools.count(1), monotonic)
        self._speaker = SPEAKERS[settings.kind](settings, self.state)
        self._unix_s = time.time() - monotonic()
        self._truth = TruthFile(settings.truth, self._about())
        self._timer: asyncio.TimerHandle | None = None
        self._armed_s = np.inf
        self._conversations: OrderedDict[int, tuple[int, int]] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def handle(self, connection: Connection, request: Request) -> None:
        """Answer a request, or take it into the queue."""
        read = self._speaker.read(request)
        if isinstance(read, Answer):
            self.reply(connection, read)
            return
        fault = draw_fault(self.settings.faults, self._rng)
        if fault is not None and not read.stream and not fault.startswith("http-"):
            fault = "http-500"  # the other faults are those of streams
        offset = self._offset(read)
        generation = Generation(
            self, connection, read,
            path=request.path, arrival_s=request.arrival_s, fault=fault, offset=offset,
        )  # fmt: skip
        if fault == "reset-before-headers":
            self.tell(generation, "fault")
            connection.reset()
            return
        status = status_of(fault)
        if status is not None:
            self.tell(generation, "refused")
            self.reply(connection, self._speaker.refusal(status))
            return
        self._queue(connection, generation)

    def reply(self, connection: Connection, answer: Answer) -> None:
        """Send a whole answer."""
        head = self._speaker.head(
            answer.status, answer.content_type, length=len(answer.body), close=answer.close
        )
        connection.write(head + answer.body)
        connection.done(close=answer.close)

    def withdraw(self, generation: Generation) -> None:
        """Take a request whose client has gone out of the fleet."""
        now = monotonic()
        self._catch_up(now)
        self.fleet.withdraw(now, generation)
        self._arm()

    def remember(self, generation: Generation) -> None:
        """Keep where the prefix cache has a conversation, for its repetition or its next turn."""
        if generation.session is None:
            return
        said = generation.ask.said
        for key, tokens in (
            (said, generation.prompt),
            ((*said, generation.text()), generation.prompt + generation.made),
        ):
            self._conversations[hash(key)] = (generation.session, tokens)
        while len(self._conversations) > _REMEMBERED:
            self._conversations.popitem(last=False)

    def tell(self, generation: Generation, outcome: str) -> None:
        """Write the truth about a request that is over."""
        if self._truth.wanted:
            self._truth.add(generation.truth(outcome, self._unix_s))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside the rest."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def flush_truth(self) -> None:
        """Make the truth readable, every second, for ever."""
        while True:
            await asyncio.sleep(_FLUSH_S)
            self._truth.flush()

    def stop(self) -> None:
        """Drop all connections and finish the truth."""
        for connection in list(self.connections):
            if connection.generation is not None:
                connection.generation.gone()
            connection.reset()
        for task in self._tasks:
            task.cancel()
        self._truth.close()

    def _queue(self, connection: Connection, generation: Generation) -> None:
        now = monotonic()
        self._catch_up(now)
        if self._load_queue_full(now):
            taken = False
        else:
            self._recall(generation)
            taken = self.fleet.offer(now, generation)
        if not taken:
            self.tell(generation, "refused")
            self.reply(connection, self._speaker.busy())
            return
        connection.generation = generation
        generation.accepted()
        self._arm()

    def _load_queue_full(self, now: float) -> bool:
        """Ollama's queue has a bound only while the model is not there (measured)."""
        settings, fleet = self.settings, self.fleet
        return (
            settings.kind == "ollama"
            and fleet.in_flight > settings.load_queue
            and not fleet.loaded(now)
        )

    def _recall(self, generation: Generation) -> None:
        """Find what the prefix cache may know of the request."""
        ask = generation.ask
        if not (ask.reuses and self.settings.engine.prefix_caching):
            return
        for key in (ask.said[:-1], ask.said):
            if found := self._conversations.get(hash(key)) if key else None:
                session, tokens = found
                generation.session, generation.prefix = session, min(tokens, ask.prompt)
                return
        generation.session = self.fleet.new_session()

    def _offset(self, ask: Ask) -> int:
        """Where in the list of words an answer begins."""
        if ask.fixed is None:
            return int(self._rng.integers(2**16))
        return zlib.crc32("\n".join((*ask.said, str(ask.fixed))).encode("utf-8", "replace"))

    def _catch_up(self, now: float) -> None:
        """Hand out the tokens of all steps that have ended."""
        while self.fleet.due <= now:
            self.fleet.tick()

    def _arm(self) -> None:
        """Wake up when the next step ends."""
        due = self.fleet.due
        if due == self._armed_s:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._armed_s = due
        if due < np.inf:
            self._timer = self.loop.call_at(due, self._fire)

    def _fire(self) -> None:
        self._timer, self._armed_s = None, np.inf
        for _ in range(_STEPS_AT_ONCE):
            if self.fleet.due > monotonic():
                break
            self.fleet.tick()
        self._arm()

    def _about(self) -> dict[str, Any]:
        settings, engine = self.settings, self.settings.engine
        return {
            MARK: settings.profile,
            "kind": settings.kind,
            "step_s": engine.step.coefficients,
            "slots": engine.slots,
            "replicas": settings.replicas,
            "kv_tokens": engine.kv_tokens,
            "faults": {rule.kind: rule.rate for rule in settings.faults},
            "seed": settings.seed,
        }


class _PreciseSelector(selectors.DefaultSelector):
    """Waits to the microsecond: epoll itself counts whole milliseconds, and rounds up."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0:
            select.select([self.fileno()], [], [], timeout)
            timeout = 0
        return super().select(timeout)


def new_loop() -> asyncio.AbstractEventLoop:
    """An event loop whose timers are exact, where the system has epoll."""
    if hasattr(select, "epoll"):
        return asyncio.SelectorEventLoop(_PreciseSelector())
    return asyncio.SelectorEventLoop()


async def serve(
    settings: Settings, host: str, port: int, ready: Callable[[int], None] = lambda _: None
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        settings: what to be.
        host: where to listen.
        port: TCP port; 0 for any free one.
        ready: told the port when it listens.

    Raises:
        InputError: the truth cannot be written.
        OSError: the port cannot be used.
    """
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    async with serving(settings, host, port) as (_, real_port):
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)  # a full collection would hold all streams up
        ready(real_port)
        await over.wait()


@contextlib.asynccontextmanager
async def serving(
    settings: Settings, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[tuple[Emulator, int]]:
    """An emulator that listens on the running loop, and its port.

    Raises:
        InputError: the truth cannot be written.
        OSError: the port cannot be used.
    """
    loop = asyncio.get_running_loop()
    app = Emulator(settings, loop)
    server = await loop.create_server(lambda: Connection(app), host, port, backlog=_BACKLOG)
    flushing = loop.create_task(app.flush_truth())
    try:
        yield app, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        flushing.cancel()
        app.stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(server.wait_closed(), 5.0)
