"""GenAI-Perf (NVIDIA, before aiperf): ``profile_export_genai_perf.json``, in milliseconds.

The metrics are aiperf's; what was asked for stands in ``input_config``, as the flat command line
(``concurrency``, ``request_rate``, ``model``) or, later, by sections (``perf_analyzer.stimulus``,
``model_names``). Without streaming it writes E2E for TTFT, which is left out. Older versions do not
tell how many requests there were: then a level counts as one request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.errors import InputError
from planner.importers import aiperf
from planner.importers.fields import Fields
from planner.importers.levels import Imported, Level
from planner.importers.streaming import NOT_STREAMED, STREAMED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.importers.reading import Source
    from planner.records import LoadKind

__all__ = ["NAME", "matches", "read"]

NAME = "genai-perf"


def matches(source: Source) -> bool:
    """Whether this is GenAI-Perf's summary."""
    if not aiperf.matches(source):
        return False
    config = Fields(source.path, source.documents[0]).object("input_config")
    return config is not None and bool(
        config.keys & {"perf_analyzer", "formatted_model_name", "measurement_interval"}
    )


def read(source: Source, beside: Sequence[Source]) -> list[Imported]:  # noqa: ARG001 - one protocol
    """The one level of a file.

    Raises:
        InputError: the load is not told, or a figure is none.
    """
    document = Fields(source.path, source.documents[0])
    config = document.object("input_config")
    if config is None:
        raise InputError(f"{source.path}: no input_config: the load is not told")
    kind, load = _load(config)
    counted = aiperf.average_of(document, "request_count")
    endpoint = config.object("endpoint") or config
    streamed = endpoint.flag("streaming") is not False
    completed = 1 if counted is None else int(counted)
    level = Level(
        load_kind=kind,
        load=load,
        completed=completed,
        requests_per_s=aiperf.average_of(document, "request_throughput"),
        output_tokens_per_s=aiperf.average_of(document, "output_token_throughput"),
        prompt_tokens_mean=aiperf.average_of(document, "input_sequence_length"),
        output_tokens_mean=aiperf.average_of(document, "output_sequence_length"),
        latencies={
            metric: found
            for metric, key in aiperf.METRICS.items()
            if (streamed or metric not in STREAMED)
            and (found := aiperf.latency_of(document, key, completed)) is not None
        },
    )
    return [
        Imported(
            path=source.path,
            tool=NAME,
            model=next(iter([*config.texts("model_names"), *config.texts("model")]), None),
            url=endpoint.text("url", "u"),
            levels=(level,),
            notes=(
                *(() if streamed else (NOT_STREAMED,)),
                *(
                    (f"{source.path.name} does not tell its number of requests: taken as 1",)
                    if counted is None
                    else ()
                ),
            ),
        )
    ]


def _load(config: Fields) -> tuple[LoadKind, float]:
    told = config.object("perf_analyzer", "stimulus") or config
    kinds: tuple[tuple[LoadKind, str], ...] = (
        ("rate", "request_rate"),
        ("concurrency", "concurrency"),
    )
    for kind, key in kinds:
        single = told.numbers(key)
        load = single[0] if len(single) == 1 else None if single else told.number(key)
        if load:
            return kind, load
    raise InputError(
        f"{config.path}: the load is not told: no one input_config.concurrency or .request_rate, "
        f"and no input_config.perf_analyzer.stimulus"
    )
