"""``vllm bench serve --save-result``: one JSON object per level, or one per line (append)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from planner.importers.fields import Fields
from planner.importers.levels import Imported
from planner.importers.serving_bench import level_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.importers.reading import Source

__all__ = ["NAME", "NAMES", "matches", "read"]

NAME = "vllm-bench"
SWEPT = "run_number"
"""Of ``vllm bench sweep serve``: below zero in the file of its warm-up."""
NAMES = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "e2e": "e2el"}


def matches(source: Source) -> bool:
    """Whether this is a result of vLLM's benchmark."""
    return {"completed", "request_throughput", "output_throughput"} <= source.keys and bool(
        source.keys & {"model_id", "num_prompts", "tokenizer_id", "mean_e2el_ms"}
    )


def read(source: Source, beside: Sequence[Source]) -> list[Imported]:  # noqa: ARG001 - one protocol
    """The levels of a file, each line one, by model.

    Raises:
        InputError: the load is not told, or a figure is none.
    """
    found = []
    for number, line in enumerate(source.documents, start=1):
        place = "$" if len(source.documents) == 1 else f"$ line {number}"
        fields = Fields(source.path, line, place)
        level = level_of(fields, NAMES)
        if (fields.signed(SWEPT) or 0) < 0:
            level = replace(level, problems=(*level.problems, "the warm-up of a sweep"))
        found.append(
            Imported(
                path=source.path,
                tool=NAME,
                version=fields.text("vllm_version", "version"),
                model=fields.text("model_id"),
                settings={"label": label} if (label := fields.text("label")) else {},
                levels=(level,),
            )
        )
    return found
