"""A run that Locust itself drives: the number of users is whatever its user or shape says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from loadtests.measure.campaign import Campaign
from loadtests.users import attach

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from locust import User
    from locust.env import Environment

    from loadtests.measure.session import Traffic
    from loadtests.targets import Target
    from planner.records import LoadKind, StageInfo

__all__ = ["LiveRun"]


class LiveRun:
    """Each number of users that Locust settles on becomes one stage per target."""

    def __init__(
        self,
        environment: Environment,
        names: Mapping[type[User], str],
        campaign: Campaign,
        think_time_s: float,
    ) -> None:
        """Use :meth:`begin`."""
        self._environment = environment
        self._names = names
        self._campaign = campaign
        self._think_time_s = think_time_s
        self._stages: list[StageInfo] = []

    @classmethod
    def begin(
        cls,
        environment: Environment,
        targets: Mapping[type[User], Target],
        traffic: Traffic,
        *,
        think_time_s: float,
        out: Path | None,
    ) -> LiveRun:
        """Look at the servers and begin the run.

        Raises:
            InputError: a server cannot be measured, or the folder cannot be used.
        """
        campaign = Campaign.begin(out, tuple(targets.values()), traffic)
        names = {user_class: target.name for user_class, target in targets.items()}
        attach(environment, {c: campaign.sessions[name] for c, name in names.items()})
        live = cls(environment, names, campaign, think_time_s)
        live._begin_stages(invalid="users were still being started")
        return live

    def next_stages(self) -> None:
        """End the stages that ran so far and begin one per target at the present load."""
        self._close_stages("users changed")
        self._begin_stages()

    def _begin_stages(self, *, invalid: str | None = None) -> None:
        kind: LoadKind = "users" if self._think_time_s else "concurrency"
        runner = self._environment.runner
        counts = runner.user_classes_count if runner else {}
        self._stages = [
            msgspec.structs.replace(
                self._campaign.begin_stage(
                    name, kind, counts.get(c.__name__, 0), think_time_s=self._think_time_s
                ),
                invalid=invalid,
            )
            for c, name in self._names.items()
        ]

    def end(self) -> None:
        """Write what was measured."""
        self._close_stages("stopped")
        self._campaign.end("complete")

    def _close_stages(self, reason: str) -> None:
        for stage in self._stages:
            self._campaign.note(
                msgspec.structs.replace(
                    stage, ended_s=self._campaign.clock.now(), stop_reason=reason
                )
            )
        self._stages = []
