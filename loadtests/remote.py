"""The workers of a run that Locust itself drives, ``locust --master``, on whatever machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gevent
import msgspec

from loadtests.orders import (
    END,
    HELLO,
    RECORDS,
    REPORT,
    STAGE,
    Batch,
    Greeting,
    Report,
    StageOrder,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from locust.runners import MasterRunner

    from loadtests.measure.campaign import Campaign
    from loadtests.targets import Target
    from planner.records import StageInfo

__all__ = ["Remote"]

_ANSWER_S = 10.0
_POLL_S = 0.05


class Remote:
    """The master's side: orders to the workers, and what comes back from them."""

    def __init__(self, runner: MasterRunner) -> None:
        """Listen; there is one for all tests of a runner."""
        self._runner = runner
        self._campaign: Campaign | None = None
        self._targets: Mapping[str, tuple[str, Target]] = {}
        self._reported: set[str] = set()
        self._met: set[str] = set()
        self._missing: set[str] = set()
        runner.register_message(HELLO, lambda **_: None)
        runner.register_message(STAGE, self._greet)
        runner.register_message(RECORDS, self._take)
        runner.register_message(REPORT, self._judge)

    def begin(self, campaign: Campaign, targets: Mapping[str, Target]) -> None:
        """Serve a run.

        Args:
            campaign: the run.
            targets: by the names of the user classes.
        """
        self._campaign = campaign
        self._targets = {target.name: (name, target) for name, target in targets.items()}
        self._met, self._missing = set(), set()

    def share(self, stages: Sequence[StageInfo]) -> None:
        """Tell every worker what its users do from now on."""
        campaign = self._campaign
        if campaign is None or not stages:
            return
        orders = [
            StageOrder.of(
                campaign.sessions[stage.target],
                stage,
                target=self._targets[stage.target][1],
                user_class=self._targets[stage.target][0],
            )
            for stage in stages
        ]
        data: Any = msgspec.msgpack.encode(orders)
        self._runner.send_message(STAGE, data)

    def lost(self) -> str | None:
        """Who has gone missing since the last call, noted in the manifest; ``None``: nobody."""
        new = {client.id for client in self._runner.clients.missing} - self._missing
        self._missing |= new
        if not new or self._campaign is None:
            return None
        names = ", ".join(f"worker {self._runner.worker_indexes[name]}" for name in sorted(new))
        text = f"{names} went missing: what it had not sent, its last second at most, is lost"
        self._campaign.note_texts([text])
        return text

    def finish(self) -> None:
        """Stop the users everywhere, and wait for the rest of the records."""
        runner, campaign = self._runner, self._campaign
        if campaign is None:
            return
        present = [c.id for c in runner.clients.all if c.id not in self._missing]
        self._reported = set()
        for client_id in present:
            runner.send_message("stop", client_id=client_id)
            runner.send_message(END, client_id=client_id)
        ends_s = campaign.clock.now() + _ANSWER_S  # who has not answered by then has died
        while not self._reported.issuperset(present) and campaign.clock.now() < ends_s:
            gevent.sleep(_POLL_S)
        self.lost()
        self._campaign = None

    def _greet(self, msg: Any, **_: Any) -> None:
        greeting = msgspec.msgpack.decode(msg.data, type=Greeting)
        campaign, number = self._campaign, self._runner.worker_indexes[msg.node_id]
        if campaign is None or msg.node_id in self._met:
            return
        self._met.add(msg.node_id)
        now_s = campaign.clock.now()
        offset_s = greeting.now_s - (greeting.sent_s + now_s) / 2
        bound_s = (now_s - greeting.sent_s) / 2
        told = f"clock {offset_s * 1e3:+.3f} ms ± {bound_s * 1e3:.3f} ms"
        campaign.note_texts([f"worker {number}: {greeting.problem or told}"])

    def _take(self, msg: Any, **_: Any) -> None:
        if self._campaign is None:
            return
        number = self._runner.worker_indexes[msg.node_id]
        for record in msgspec.msgpack.decode(msg.data, type=Batch).records:
            session = self._campaign.sessions[record.target]
            session.sink(msgspec.structs.replace(record, id=next(session.ids), worker=number))

    def _judge(self, msg: Any, **_: Any) -> None:
        report = msgspec.msgpack.decode(msg.data, type=Report)
        self._reported.add(msg.node_id)
        if self._campaign is None or report.problem is None:
            return
        problem = f"worker {self._runner.worker_indexes[msg.node_id]}: {report.problem}"
        for index in report.stages:
            stage = self._campaign.manifest.stages[index]
            if stage.invalid is None:
                self._campaign.note(msgspec.structs.replace(stage, invalid=problem))
