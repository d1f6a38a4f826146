"""A run that Locust itself drives: the number of users is whatever its user or shape says."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING

import gevent
import msgspec
from locust.runners import STATE_SPAWNING, MasterRunner

from loadtests.histograms import StageHistograms
from loadtests.measure.campaign import Campaign
from loadtests.measure.progress import describe_load
from loadtests.measure.validity import ClientProbe
from loadtests.users import attach
from planner.gates.records import RAMP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from locust import User
    from locust.env import Environment
    from locust.runners import Runner

    from loadtests.measure.session import Traffic
    from loadtests.remote import Remote
    from loadtests.targets import Target
    from planner.errors import HeadroomError
    from planner.records import LoadKind, RequestRecord, StageInfo

__all__ = ["LiveRun"]

_LOG = logging.getLogger("headroom")
_POLL_S = 0.25


class LiveRun:
    """Each number of users that Locust settles on becomes one stage per target.

    Between two of them, while users start or stop, there is a stage that must not be used.
    """

    def __init__(
        self,
        runner: Runner,
        names: Mapping[type[User], str],
        campaign: Campaign,
        think_time_s: float,
        remote: Remote | None,
        on_failure: Callable[[HeadroomError], None],
    ) -> None:
        """Use :meth:`begin`."""
        self._remote = remote
        self._on_failure = on_failure
        self._runner = runner
        self._names = names
        self._campaign = campaign
        self._think_time_s = think_time_s
        self._stages: list[StageInfo] = []
        self._figures: dict[int, StageHistograms] = {}
        for session in campaign.sessions.values():
            session.sink = self._through(session.sink)
        self._watches = [one.watch for one in campaign.sessions.values() if one.watch is not None]
        self._begin_stages(settled=False)
        self._looking = ExitStack()
        for watch in self._watches:
            self._looking.enter_context(watch.looking())
        self._watcher = gevent.spawn(self._watch)

    @classmethod
    def begin(
        cls,
        environment: Environment,
        targets: Mapping[type[User], Target],
        traffic: Traffic,
        *,
        think_time_s: float,
        out: Path | None,
        telemetry: bool = True,
        remote: Remote | None = None,
        on_failure: Callable[[HeadroomError], None],
    ) -> LiveRun:
        """Look at the servers and begin the run.

        Args:
            environment: Locust's, of the run.
            targets: by the user class that loads them.
            traffic: what is asked.
            think_time_s: mean pause of a user.
            out: the run folder; ``None`` keeps nothing.
            telemetry: ask the servers for their own figures, where a folder keeps them.
            remote: the workers that make the load, where this process is their master.
            on_failure: called once if the run cannot go on.

        Raises:
            InputError: a server cannot be measured, or the folder cannot be used.
        """
        campaign = Campaign.begin(out, tuple(targets.values()), traffic)
        if telemetry and out is not None:
            campaign.watch()
        names = {user_class: target.name for user_class, target in targets.items()}
        attach(environment, {c: campaign.sessions[name] for c, name in names.items()})
        assert environment.runner is not None  # noqa: S101 - for the types: it has called us
        if remote is not None:
            remote.begin(campaign, {c.__name__: target for c, target in targets.items()})
        return cls(environment.runner, names, campaign, think_time_s, remote, on_failure)

    def figures(self) -> Iterator[tuple[StageInfo, StageHistograms]]:
        """The settled stages so far, each with what it has shown, in their order."""
        for stage in self._campaign.manifest.stages:
            if stage.index in self._figures:
                yield stage, self._figures[stage.index]

    def settle(self) -> None:
        """The users are all there: this number of them is a stage of its own."""
        if self._remote is not None and not self._all_reported():
            if self._settled:  # a worker has joined or left, and its users with it
                self._close_stages("users changed")
                self._begin_stages(settled=False)
            return  # the watcher will see them
        self._close_stages("users changed")
        self._begin_stages(settled=True)

    def stop(self) -> None:
        """The users are about to be stopped: nothing counts from here on."""
        self._watcher.kill(block=False)
        self._close_stages("stopped")
        self._looking.close()

    def end(self) -> None:
        """Write what was measured.

        Raises:
            HeadroomError: the run folder cannot be written.
        """
        self.stop()
        if self._remote is not None:
            self._remote.finish()
        self._campaign.end("complete")
        if self._remote is not None:
            self._remote.release()
        if self._campaign.failure is not None:
            raise self._campaign.failure

    def _through(self, keep: Callable[[RequestRecord], None]) -> Callable[[RequestRecord], None]:
        """A sink that takes note of each record on its way."""

        def sink(record: RequestRecord) -> None:
            if self._remote is None:  # a worker judges how it fared itself
                self._client.see(record)
            figures = self._figures.get(record.stage)
            if figures is not None:
                figures.see(record)
            keep(record)

        return sink

    def _watch(self) -> None:
        """Locust tells when all users are there, but not when it begins to start or stop some."""
        while True:
            gevent.sleep(_POLL_S)
            if self._campaign.failure is not None:
                self._on_failure(self._campaign.failure)
                return
            if self._remote is not None and (lost := self._remote.lost()) is not None:
                self._close_stages("worker missing", invalid=lost)
                self._begin_stages(settled=True)
            if self._remote is not None and self._remote.left():
                self._close_stages("worker left")
                self._begin_stages(settled=False)
            if self._remote is not None:
                self._remote.spread()
            if self._remote is not None and not self._settled and self._all_reported():
                self.settle()
            if self._settled and self._runner.state == STATE_SPAWNING:
                self._close_stages("users changed")
                self._begin_stages(settled=False)

    def _begin_stages(self, *, settled: bool) -> None:
        self._settled = settled
        self._client = ClientProbe()
        for watch in self._watches:
            (watch.resume if settled else watch.pause)()
        kind: LoadKind = "users" if self._think_time_s else "concurrency"
        now = self._users_now()
        wanted = max(1, self._runner.target_user_count)
        loads = {name: now[c.__name__] if settled else wanted for c, name in self._names.items()}
        self._stages = [
            self._campaign.begin_stage(
                name,
                kind,
                load,
                think_time_s=self._think_time_s,
                invalid=None if settled else RAMP,
            )
            for name, load in loads.items()
            if load
        ]
        if settled:
            self._figures.update({stage.index: StageHistograms() for stage in self._stages})
        if self._remote is not None:
            self._remote.share(self._stages)

    def _all_reported(self) -> bool:
        """Whether the workers have told of as many users as they should have."""
        if self._runner.state == STATE_SPAWNING:
            return False
        if self._remote is not None and not self._remote.ready():
            return False
        return sum(self._users_now().values()) == self._runner.target_user_count

    def _users_now(self) -> Mapping[str, int]:
        """Users of each class, wherever they run."""
        if isinstance(self._runner, MasterRunner):
            return self._runner.reported_user_classes_count
        return self._runner.user_classes_count

    def _close_stages(self, reason: str, *, invalid: str | None = None) -> None:
        problem = self._client.problem()
        for stage in self._stages:
            ended = msgspec.structs.replace(
                stage,
                ended_s=self._campaign.clock.now(),
                stop_reason=reason,
                invalid=stage.invalid or invalid or problem,
            )
            self._campaign.note(ended)
            if (figures := self._figures.get(stage.index)) is not None:
                _LOG.info("%s", _told(ended, figures))
        self._stages = []


def _told(stage: StageInfo, figures: StageHistograms) -> str:
    """A stage in a line of the log."""
    parts = [f"{figures.completed} requests", *filter(None, [figures.told()])]
    if figures.failed:
        parts.append(f"{figures.failed} failed")
    if stage.invalid is not None:
        parts.append(f"not to be used: {stage.invalid}")
    return f"{stage.target}: {describe_load(stage)}: {', '.join(parts)}"
