"""A target made ready to be measured: looked at, checked against the workload, calibrated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from loadtests.dialects import dialect_of
from loadtests.measure.inspect import check_fits, inspect, probe
from loadtests.measure.session import Session
from loadtests.targets import api_key
from loadtests.traffic.prompts import CALIBRATION_WORDS, ROUGH_SCALE, PromptScale, make_prompt

if TYPE_CHECKING:
    from loadtests.measure.session import Traffic
    from loadtests.stream.clock import Clock
    from loadtests.targets import Target
    from planner.records import TargetInfo

__all__ = ["prepare"]


def prepare(target: Target, traffic: Traffic, clock: Clock) -> Session:
    """Look at a target, check that the workload fits it, and learn how to size prompts for it.

    Raises:
        TargetError: it cannot be measured as given.
    """
    longest = traffic.prompt_tokens.maximum, traffic.output_tokens.maximum
    info = inspect(target)
    check_fits(info, *longest)
    scale = _calibrate(target, info, clock)
    info = inspect(target)  # again: Ollama knows a model's context only when the model is loaded
    check_fits(info, *longest)
    return Session(
        info=msgspec.structs.replace(info, api=target.api),
        endpoint=target.endpoint,
        dialect=dialect_of(target.backend, target.api),
        traffic=traffic,
        clock=clock,
        api_key=api_key(target),
        scale=scale,
    )


def _calibrate(target: Target, info: TargetInfo, clock: Clock) -> PromptScale:
    """How many tokens the server counts for a word, from two short generations.

    Their words differ each time: some servers do not count what their prompt cache answers.
    """
    rng = np.random.default_rng(abs(round(clock.now() * 1e6 + clock.started_unix_s * 1e6)))
    counts = [
        (words, probe(target, info, prompt=make_prompt(words, rng)).prompt_tokens)
        for words in CALIBRATION_WORDS
    ]
    known = [(words, tokens) for words, tokens in counts if tokens is not None]
    return PromptScale.fit(*known) if len(known) == len(counts) else ROUGH_SCALE
