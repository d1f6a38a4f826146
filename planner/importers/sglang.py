"""``sglang.bench_serving --output-file``: one JSON object per line, each a level."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.importers.fields import Fields
from planner.importers.levels import Imported
from planner.importers.serving_bench import level_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.importers.reading import Source

__all__ = ["NAME", "matches", "read"]

NAME = "sglang"
NAMES = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "e2e": "e2e_latency"}


def matches(source: Source) -> bool:
    """Whether this is a result of SGLang's benchmark."""
    return {"completed", "request_throughput", "output_throughput"} <= source.keys and bool(
        source.keys & {"mean_e2e_latency_ms", "total_output_tokens_retokenized", "accept_length"}
    )


def read(source: Source, beside: Sequence[Source]) -> list[Imported]:  # noqa: ARG001 - one protocol
    """The levels of a file.

    Raises:
        InputError: the load is not told, or a figure is none.
    """
    levels, first = [], None
    for number, line in enumerate(source.documents, start=1):
        place = "$" if len(source.documents) == 1 else f"$ line {number}"
        fields = Fields(source.path, line, place)
        first = first or fields
        levels.append(level_of(fields, NAMES))
    server = None if first is None else first.object("server_info")
    return [
        Imported(
            path=source.path,
            tool=NAME,
            model=None if server is None else server.text("served_model_name", "model_path"),
            engine_version=None if server is None else server.text("version"),
            levels=tuple(levels),
        )
    ]
