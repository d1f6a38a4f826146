"""The workers of a run that Locust itself drives, ``locust --master``, on whatever machines."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import gevent
import msgspec
from locust.runners import STATE_RUNNING

from loadtests.orders import END, StageOrder
from loadtests.roster import Roster

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from locust.runners import MasterRunner

    from loadtests.measure.campaign import Campaign
    from loadtests.orders import Over, Report
    from loadtests.targets import Target
    from planner.records import RequestRecord, StageInfo

__all__ = ["Remote"]

_LOG = logging.getLogger("headroom")
_ANSWER_S = 10.0
_POLL_S = 0.05


class Remote:
    """The master's side: orders to the workers, and what comes back from them."""

    def __init__(self, runner: MasterRunner) -> None:
        """Listen; there is one for all tests of a runner."""
        self._runner = runner
        self._roster = Roster(runner, self)
        self._campaign: Campaign | None = None
        self._targets: Mapping[str, tuple[str, Target]] = {}
        self._reports: dict[int, Report] = {}
        self._missing: set[int] = set()
        self._left: set[int] = set()
        self._shared = False
        self._uneven = False  # somebody has gone, and the users with it

    def begin(self, campaign: Campaign, targets: Mapping[str, Target]) -> None:
        """Serve a run.

        Args:
            campaign: the run.
            targets: by the names of the user classes.
        """
        self._campaign = campaign
        self._targets = {target.name: (name, target) for name, target in targets.items()}
        self._missing, self._left = set(), set()
        self._shared = self._uneven = False
        self._roster.begin(campaign.clock, keep=campaign.writer is not None, folder=None)

    def share(self, stages: Sequence[StageInfo]) -> None:
        """Tell every worker what its users do from now on; the first time, wait for the answers."""
        campaign = self._campaign
        if campaign is None or not stages:
            return
        self._roster.order(
            [
                StageOrder.of(
                    campaign.sessions[stage.target],
                    stage,
                    target=self._targets[stage.target][1],
                    user_class=self._targets[stage.target][0],
                )
                for stage in stages
            ]
        )
        if not self._shared:
            self._shared = True
            self._wait(self._roster.greeted)
            for number in sorted(self._roster.present() - self._roster.greeted):
                self.greeted(number, f"it did not answer in {_ANSWER_S:g} s")

    def ready(self) -> bool:
        """Whether every worker that Locust counts has its orders and stays."""
        roster, present = self._roster, self._roster.present()
        return present <= roster.greeted and not present & roster.leavers and not roster.problems

    def lost(self) -> str | None:
        """Who has gone missing since the last call, noted in the manifest; ``None``: nobody."""
        roster = self._roster
        missing = {roster.number(client.id) for client in self._runner.clients.missing}
        new, self._missing = missing - self._missing, missing
        if not new or self._campaign is None:
            return None
        text = ", ".join(roster.called(number) for number in sorted(new))
        text += " went missing: what it had not sent is in its own journal only"
        self._uneven = True
        for number in new:
            roster.gone(number, "went missing")
        self._campaign.note_texts([text])
        self._campaign.note_workers(roster.infos())
        return text

    def left(self) -> bool:
        """Whether a worker has said since the last call that it goes."""
        new, self._left = self._roster.leavers - self._left, set(self._roster.leavers)
        self._uneven = self._uneven or bool(new)
        return bool(new)

    def spread(self) -> None:
        """Have Locust spread the users anew once those who have gone are off its list.

        It does not do so itself for one that is missing (without ``--enable-rebalancing``), nor for
        a second change of any kind: its dispatcher then still counts as being at work.
        """
        runner, roster = self._runner, self._roster
        gone = roster.leavers & roster.present()
        if not self._uneven or gone or runner.state != STATE_RUNNING:
            return
        self._uneven = False
        if runner.worker_count and runner.user_count != runner.target_user_count:
            # It waits for the users' reports, which must not keep the caller from looking on.
            gevent.spawn(runner.start, runner.target_user_count, runner.spawn_rate)

    def finish(self) -> None:
        """Stop the users everywhere, and wait for the rest of the records."""
        campaign, roster = self._campaign, self._roster
        if campaign is None:
            return
        self._reports = {}
        for client in self._runner.clients.all:
            if (number := roster.number(client.id)) in roster.present():
                self._runner.send_message("stop", client_id=client.id)
                roster.send(END, to=number)
        self._wait(self._reports)
        self.lost()
        campaign.note_workers(roster.infos())
        self._campaign = None

    def release(self) -> None:
        """The run folder is written: workers may delete what it has of theirs."""
        for number, report in self._reports.items():
            if (missing := self._roster.confirm(number, report)) is not None:
                _LOG.warning("%s", missing)
        self._reports = {}
        self._roster.end()

    def _wait(self, answered: Mapping[int, Report] | set[int]) -> None:
        """Until all who are present have answered; who has not by then has died."""
        ends_s = time.monotonic() + _ANSWER_S
        while time.monotonic() < ends_s:
            if all(number in answered for number in self._roster.present()):
                return
            gevent.sleep(_POLL_S)

    def hello(self, number: int, pid: int) -> None:
        """One is ready for orders; while a test runs it gets those of the others."""
        if self._campaign is not None and self._roster.repeat(number):
            _LOG.info("worker %d (process %d) joins the running test", number, pid)

    def greeted(self, number: int, problem: str | None) -> None:
        """One can obey, or says why not: the number of users is then never as it should be."""
        if problem is not None and self._campaign is not None:
            text = f"{self._roster.called(number)} cannot take part: {problem}"
            _LOG.error("%s", text)
            self._campaign.note_texts([text])

    def take(self, number: int, record: RequestRecord) -> None:
        """Keep a record of a target of the run."""
        del number  # the record has it
        if self._campaign is not None and record.target in self._campaign.sessions:
            self._campaign.sessions[record.target].sink(record)

    def drained(self, number: int, over: Over) -> None:
        """Locust's own runs have no open loops."""

    def leaving(self, number: int) -> None:
        """One goes because it was told to: Locust gives its users to the others."""
        if self._campaign is not None:
            text = f"{self._roster.called(number)} left: its users went to the others"
            _LOG.info("%s", text)
            self._campaign.note_texts([text])

    def judge(self, number: int, report: Report) -> None:
        """Note why a worker's part of some stages must not be used."""
        self._reports[number] = report
        if self._campaign is None:
            return
        for target, session in self._campaign.sessions.items():
            session.resent += max(report.resent.get(target, 0), 0)
        if report.problem is None:
            return
        for index in report.stages:
            stages = self._campaign.manifest.stages
            if 0 <= index < len(stages) and stages[index].invalid is None:
                invalid = f"worker {number}: {report.problem}"
                self._campaign.note(msgspec.structs.replace(stages[index], invalid=invalid))
