"""One answer: told of its tokens by the fleet, written by its speaker, spoilt by rule."""

from __future__ import annotations

from array import array
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np

from loadtests.engines.emulator.faults import HUGE_LINE_BYTES
from loadtests.engines.emulator.speakers.common import PIECES, Figures
from loadtests.engines.emulator.truth import Truth

if TYPE_CHECKING:
    from loadtests.engines.emulator.connection import Connection
    from loadtests.engines.emulator.server import Emulator
    from loadtests.engines.emulator.speakers.common import Ask

__all__ = ["Generation"]

_ENDLESS_GAP_S = 0.05
_TRICKLE_S = 0.1
_HALF_WAY = frozenset(
    {
        "reset-mid-chunk",
        "stall",
        "huge-line",
        "wrong-chunk-length",
        "invalid-utf8",
        "invalid-json",
        "error-in-200",
    }
)
_PIECES = len(PIECES)


class Generation:
    """A job of the fleet, and the connection that its tokens go to."""

    __slots__ = (
        "_app", "_connection", "_fault_at", "_offset", "_over", "_path", "_trickle", "arrival_s",
        "ask", "cached", "due_s", "fault", "made", "number", "output", "prefix", "prompt",
        "scheduled_s", "sent_s", "session",
    )  # fmt: skip

    def __init__(
        self,
        app: Emulator,
        connection: Connection,
        ask: Ask,
        *,
        path: str,
        arrival_s: float,
        fault: str | None,
        offset: int,
    ) -> None:
        """Not queued yet."""
        self._app = app
        self._connection = connection
        self._path = path
        self._offset = offset
        self._over = False
        self._trickle: bytearray | None = bytearray() if fault == "slow-headers" else None
        self._fault_at = (ask.output + 1) // 2 if fault in _HALF_WAY else 0
        self.ask = ask
        self.arrival_s = arrival_s
        self.fault = fault
        self.number = next(app.state.numbers)
        self.prompt, self.output = ask.prompt, ask.output
        self.session: int | None = None
        self.prefix = self.cached = self.made = 0
        self.scheduled_s: float | None = None
        self.due_s = array("d")
        self.sent_s = array("d")

    def accepted(self) -> None:
        """The engine has queued it."""
        if self.ask.stream:
            self._send(self.ask.writer.accepted())

    def scheduled(self, at: float, cached: int) -> None:
        """It has its place in the batch."""
        if self._over:
            return
        self.scheduled_s, self.cached = at, cached
        self._app.state.active[self] = None
        if self.ask.stream:
            self._send(self.ask.writer.started())

    def token(self, due: float) -> None:
        """A step that ended at ``due`` made a token of it."""
        if self._over:
            return
        self.made = made = self.made + 1
        self.due_s.append(due)
        last = made == self.output
        if not self.ask.stream:
            self.sent_s.append(monotonic())
            if last:
                self._finish_whole()
            return
        if made == self._fault_at:
            self._strike()
            return
        data = self.ask.writer.token(self._piece(made), last=last, made=made)
        if last and self.fault not in {"reset-after-last-token", "endless"}:
            data += self.ask.writer.end(self.figures())
        self.sent_s.append(monotonic())
        if self._trickle is None and self.fault is None:
            self._connection.write(data)
        else:
            self._send(data)
        if last:
            self._finish_stream()

    def gone(self) -> None:
        """The client has left before the end."""
        if not self._over:
            self._end("gone")
            self._app.state.finished["abort"] += 1
            self._app.withdraw(self)

    def figures(self) -> Figures:
        """What the end of the answer tells."""
        first, last = self.due_s[0], self.due_s[-1]
        began = self.scheduled_s if self.scheduled_s is not None else first
        load = max(0.0, min(self._app.fleet.loaded_at(self), began) - self.arrival_s)
        return Figures(
            prompt=self.prompt,
            cached=self.cached,
            output=self.made,
            queue_s=max(0.0, began - self.arrival_s - load),
            prompt_s=first - began,
            decode_s=last - first,
            load_s=load,
        )

    def _piece(self, made: int) -> str:
        return PIECES[(self._offset + made) % _PIECES]

    def text(self) -> str:
        """What it has said."""
        return "".join(self._piece(i) for i in range(1, self.made + 1))

    def _send(self, data: bytes) -> None:
        """Write, unless this answer's fault has to do with headers."""
        if not data:
            return
        if self.fault == "reset-in-headers":
            self._connection.write(data[: data.index(b"\r\n\r\n") // 2])
            self._fail()
            self._connection.reset()
        elif self._trickle is not None:
            begins = not self._trickle
            self._trickle += data
            if begins:
                self._drip()
        else:
            self._connection.write(data)

    def _drip(self) -> None:
        """Send the next byte of the headers, or all the rest after them."""
        held = self._trickle
        if held is None or self._connection.closed:
            return
        self._connection.write(bytes(held[:1]))
        del held[:1]
        if held.startswith(b"\r\n\r\n") or not held:
            self._trickle = None
            self._connection.write(bytes(held))
            if self._over:
                self._connection.done(close=self.ask.writer.closes)
        else:
            self._app.loop.call_later(_TRICKLE_S, self._drip)

    def _strike(self) -> None:
        """Half-way through, the fault happens. Only those that spoil one event go on."""
        writer, connection = self.ask.writer, self._connection
        front, back = writer.event
        data = writer.token(self._piece(self.made), last=self.made == self.output, made=self.made)
        fault = self.fault
        self.sent_s.append(monotonic())
        if fault in {"invalid-utf8", "invalid-json"}:
            text = self._piece(self.made).encode()
            spoilt = (b"\xff" if fault == "invalid-utf8" else b'"') * len(text)
            connection.write(spoilt.join(data.rsplit(text, 1)))
            if self.made == self.output:
                connection.write(writer.end(self.figures()))
                self._finish_stream()
            return
        self._fail()
        if fault == "reset-mid-chunk":
            connection.write(data[: len(data) - len(back) - 8])
            connection.reset()
        elif fault == "wrong-chunk-length":
            connection.write(data + b"5\r\n" + front + b'{"content":"longer"}' + back + b"\r\n")
            connection.close()
        elif fault == "huge-line":
            self._app.spawn(connection.flood(front + b'{"content":"', HUGE_LINE_BYTES))
        elif fault == "error-in-200":
            connection.write(writer.error())
            connection.done(close=writer.closes)

    def _fail(self) -> None:
        """The rule had its way; the engine need not go on."""
        self._end("fault")
        self._app.state.finished["error"] += 1
        self._app.loop.call_soon(self._app.withdraw, self)

    def _finish_stream(self) -> None:
        """All tokens are sent."""
        if self.fault == "reset-after-last-token":
            self._fail()
            self._connection.reset()
        elif self.fault == "endless":
            self._fail()
            self._app.loop.call_later(_ENDLESS_GAP_S, self._more)
        else:
            self._succeed()
            if self._trickle is None:
                self._connection.done(close=self.ask.writer.closes)

    def _more(self) -> None:
        """One more token that the engine did not make."""
        if not self._connection.closed:
            self.made += 1
            piece = self._piece(self.made)
            self._connection.write(self.ask.writer.token(piece, last=False, made=self.made))
            self._app.loop.call_later(_ENDLESS_GAP_S, self._more)

    def _finish_whole(self) -> None:
        answer = self.ask.writer.whole(self.text(), self.figures())
        self._succeed()
        self._app.reply(self._connection, answer)

    def _succeed(self) -> None:
        figures = self.figures()
        finish = self.ask.finish if self.ask.finish == "length" else "stop"
        self._app.state.count(figures, finish, np.frombuffer(self.due_s))
        self._app.remember(self)
        self._end("finished" if self.fault is None else "fault")

    def _end(self, outcome: str) -> None:
        self._over = True
        self._connection.generation = None
        self._app.state.active.pop(self, None)
        self._app.tell(self, outcome)

    def truth(self, outcome: str, unix_s: float) -> Truth:
        """The truth about it; ``unix_s`` is the Unix time at which the clock read 0."""
        at = self.arrival_s
        return Truth(
            path=self._path,
            arrival_unix_s=at + unix_s,
            prompt_tokens=self.prompt,
            output_tokens=self.output,
            cached_tokens=self.cached,
            scheduled_s=None if self.scheduled_s is None else round(self.scheduled_s - at, 7),
            due_s=tuple((np.frombuffer(self.due_s) - at).round(7).tolist()),
            sent_s=tuple((np.frombuffer(self.sent_s) - at).round(7).tolist()),
            outcome=outcome,
            fault=self.fault,
        )
