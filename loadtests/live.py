"""A run that Locust itself drives: the number of users is whatever its user or shape says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gevent
import msgspec
from locust.runners import STATE_SPAWNING, MasterRunner

from loadtests.measure.campaign import Campaign
from loadtests.measure.validity import ClientProbe
from loadtests.users import attach

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from locust import User
    from locust.env import Environment
    from locust.runners import Runner

    from loadtests.measure.session import Traffic
    from loadtests.remote import Remote
    from loadtests.targets import Target
    from planner.records import LoadKind, StageInfo

__all__ = ["LiveRun"]

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
    ) -> None:
        """Use :meth:`begin`."""
        self._remote = remote
        self._runner = runner
        self._names = names
        self._campaign = campaign
        self._think_time_s = think_time_s
        self._stages: list[StageInfo] = []
        self._begin_stages(settled=False)
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
        remote: Remote | None = None,
    ) -> LiveRun:
        """Look at the servers and begin the run.

        Raises:
            InputError: a server cannot be measured, or the folder cannot be used.
        """
        campaign = Campaign.begin(out, tuple(targets.values()), traffic)
        names = {user_class: target.name for user_class, target in targets.items()}
        attach(environment, {c: campaign.sessions[name] for c, name in names.items()})
        assert environment.runner is not None  # noqa: S101 - for the types: it has called us
        if remote is not None:
            remote.begin(campaign, {c.__name__: target for c, target in targets.items()})
        return cls(environment.runner, names, campaign, think_time_s, remote)

    def settle(self) -> None:
        """The users are all there: this number of them is a stage of its own."""
        if self._remote is not None and not self._all_reported():
            return  # the watcher will see them
        self._close_stages("users changed")
        self._begin_stages(settled=True)

    def stop(self) -> None:
        """The users are about to be stopped: nothing counts from here on."""
        self._watcher.kill(block=False)
        self._close_stages("stopped")

    def end(self) -> None:
        """Write what was measured.

        Raises:
            InputError: the run folder cannot be written.
        """
        self.stop()
        if self._remote is not None:
            self._remote.finish()
        self._campaign.end("complete")
        if self._campaign.failure is not None:
            raise self._campaign.failure

    def _watch(self) -> None:
        """Locust tells when all users are there, but not when it begins to start or stop some."""
        while True:
            gevent.sleep(_POLL_S)
            if self._remote is not None and (lost := self._remote.lost()) is not None:
                self._close_stages("worker missing", invalid=lost)
                self._begin_stages(settled=True)
            if self._remote is not None and not self._settled and self._all_reported():
                self.settle()
            if self._settled and self._runner.state == STATE_SPAWNING:
                self._close_stages("users changed")
                self._begin_stages(settled=False)

    def _begin_stages(self, *, settled: bool) -> None:
        self._settled = settled
        self._client = ClientProbe()
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
                invalid=None if settled else "users were being started or stopped",
            )
            for name, load in loads.items()
            if load
        ]
        if self._remote is not None:
            self._remote.share(self._stages)

    def _all_reported(self) -> bool:
        """Whether the workers have told of as many users as they should have."""
        if self._runner.state == STATE_SPAWNING:
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
        self._stages = []
