"""The rules that a claim can be judged by, as a catalogue names them, with their parameters."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from planner.records import Name, Record

__all__ = [
    "AtOnce",
    "Capability",
    "Check",
    "Coexist",
    "Identical",
    "Loaded",
    "NotMeasured",
    "OnlyOne",
    "Possible",
    "Ratio",
    "Scaling",
    "Trend",
]

Backend = Literal["llamacpp", "ollama", "vllm", "openai"]
Others = Annotated[tuple[Backend, ...], msgspec.Meta(min_length=1, max_length=4)]
Figure = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(output_tokens_per_s|requests_per_s|(ttft|tpot|itl|e2e)_(mean|p(50|90|95|99))_s)$"
    ),
]
Level = Annotated[float, msgspec.Meta(ge=1, le=10_000)]
Times = Annotated[float, msgspec.Meta(gt=0, le=1e6)]
Rate = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
Line = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]


class Ratio(Record, frozen=True, kw_only=True, tag_field="rule", tag="ratio",
            forbid_unknown_fields=True):  # fmt: skip
    """A figure of one backend over that of others, at equal load, lies within bounds."""

    figure: Figure
    of: Backend
    over: Others
    least: Times | None = None
    most: Times | None = None
    from_load: Level = 1
    to_load: Level = 10_000


class Trend(Record, frozen=True, kw_only=True, tag_field="rule", tag="trend",
            forbid_unknown_fields=True):  # fmt: skip
    """That ratio grows with the load."""

    figure: Figure
    of: Backend
    over: Others
    from_load: Level = 1
    to_load: Level = 10_000


class Scaling(Record, frozen=True, kw_only=True, tag_field="rule", tag="no_batching",
              forbid_unknown_fields=True):  # fmt: skip
    """A backend with several slots makes no more of several requests at once than of one."""

    backend: Backend
    load: Level = 4
    most: Times = 1.1  # throughput at the load over that of one request


class AtOnce(Record, frozen=True, kw_only=True, tag_field="rule", tag="at_once",
             forbid_unknown_fields=True):  # fmt: skip
    """A backend works on so many requests at once where nobody sets it otherwise."""

    backend: Backend
    requests: Annotated[int, msgspec.Meta(ge=1, le=100_000)]


class OnlyOne(Record, frozen=True, kw_only=True, tag_field="rule", tag="only_one",
              forbid_unknown_fields=True):  # fmt: skip
    """From so many users on only this backend meets the user's objectives, by one replica."""

    backend: Backend
    over: Others
    from_users: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


class Identical(Record, frozen=True, kw_only=True, tag_field="rule", tag="identical_answers",
                forbid_unknown_fields=True):  # fmt: skip
    """The backends give the same answers to the same prompts, greedily."""

    backends: Annotated[tuple[Backend, ...], msgspec.Meta(min_length=2, max_length=4)]


class Loaded(Record, frozen=True, kw_only=True, tag_field="rule", tag="model_files",
             forbid_unknown_fields=True):  # fmt: skip
    """Every backend loaded a model file of this kind, by what its server says."""

    backends: Others
    suffix: Annotated[str, msgspec.Meta(pattern=r"^\.[a-z0-9]{1,20}$")]


class Capability(Record, frozen=True, kw_only=True, tag_field="rule", tag="capability",
                 forbid_unknown_fields=True):  # fmt: skip
    """A backend has, or has not, all these capabilities by ``headroom doctor``."""

    backend: Backend
    names: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=20)]
    has: bool = True


class Coexist(Record, frozen=True, kw_only=True, tag_field="rule", tag="coexist",
              forbid_unknown_fields=True):  # fmt: skip
    """The backends answer at the same time on one machine, each on its own port."""

    backends: Annotated[tuple[Backend, ...], msgspec.Meta(min_length=2, max_length=4)]
    most_failed: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.01


class Possible(Record, frozen=True, kw_only=True, tag_field="rule", tag="physics",
               forbid_unknown_fields=True):  # fmt: skip
    """A rate that the card's memory and bandwidth allow. Physics refutes; it never confirms."""

    model: Name
    hardware: Name
    gpus: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1
    bits_per_weight: Annotated[float, msgspec.Meta(gt=0, le=64)]
    tokens_per_s: Rate
    streams: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1


class NotMeasured(Record, frozen=True, kw_only=True, tag_field="rule", tag="not_measured",
                  forbid_unknown_fields=True):  # fmt: skip
    """Something that no run of Headroom records."""

    why: Line
    instead: Line


Check = (
    Ratio | Trend | Scaling | AtOnce | OnlyOne | Identical | Loaded | Capability | Coexist
    | Possible | NotMeasured
)  # fmt: skip
