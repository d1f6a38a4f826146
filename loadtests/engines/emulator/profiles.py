"""What the emulator can stand in for: step times learnt from published curves."""

from __future__ import annotations

import difflib
import tomllib
from functools import cache
from importlib.resources import files

import msgspec

from planner.errors import InputError
from planner.steptime import StepTime

__all__ = ["Profile", "find_profile", "profiles"]


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """One engine, model and hardware, as published."""

    engine: str
    hardware: str
    model: str
    step_ms: tuple[float, float, float, float]  # the coefficients of a step time
    slots: int  # the highest concurrency that was published
    tpot_error: float  # median relative error of the fitted TPOT over the published levels
    source: str

    @property
    def step(self) -> StepTime:
        """Its step time in seconds."""
        base, sequence, context, prompt = (ms / 1e3 for ms in self.step_ms)
        return StepTime(
            base_s=base,
            per_sequence_s=sequence,
            per_context_token_s=context,
            per_prompt_token_s=prompt,
        )


@cache
def profiles() -> dict[str, Profile]:
    """All profiles by name."""
    text = (files("loadtests.engines.emulator") / "profiles.toml").read_text("utf-8")
    return msgspec.convert(tomllib.loads(text), dict[str, Profile])


def find_profile(name: str) -> Profile:
    """One profile.

    Raises:
        InputError: there is none of that name; the message has the nearest ones.
    """
    known = profiles()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or list(known)[:3]
        raise InputError(
            f"profile {name!r} is unknown: did you mean {', '.join(near)}? "
            f"--list-profiles shows all {len(known)}"
        )
    return known[name]
