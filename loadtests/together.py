"""``headroom measure --together``: which levels all targets are loaded at, at the same time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.errors import InputError
from planner.levels import is_closed_loop
from planner.summary import operating_points

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtests.measure.campaign import Campaign
    from loadtests.resolve import Load
    from loadtests.targets import Target

__all__ = ["check_together", "shared_levels"]


def check_together(
    targets: Sequence[Target], load: Load, *, processes: int, only_together: bool
) -> None:
    """Refuse what cannot be loaded together.

    Raises:
        InputError: a single target, several processes, or no levels to measure.
    """
    if len(targets) < 2:  # noqa: PLR2004 - together are two
        raise InputError("--together loads several targets at once: name at least two")
    if processes > 1:
        raise InputError(
            f"--together with --processes {processes}: one process loads all targets, so that "
            "their stages share one clock; leave --processes out"
        )
    if only_together and load.levels is None:
        raise InputError(
            "--only-together measures nothing alone that could find the levels: name them, "
            "as in --concurrency 1,4"
        )


def shared_levels(campaign: Campaign, load: Load) -> tuple[float, ...]:
    """The levels typed, or those at which every target was measured alone."""
    if load.levels is not None:
        return load.levels
    points = [p for p in operating_points(campaign.run()) if is_closed_loop(p) and not p.together]
    of_target = [{p.load for p in points if p.target == name} for name in campaign.sessions]
    return tuple(sorted(set.intersection(*of_target)))
