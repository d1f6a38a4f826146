"""Learn the emulator's profiles from published curves: ``emulator_profiles.py CURVES.csv``.

Every engine, model and hardware with curves of at least two mixes of lengths gets one step time
(``planner.steptime``), fitted to the TPOT of all its levels and the TTFT of its least loaded ones.
Static batches, whose TTFT is that of the whole batch, count their prompts so. Prints the TOML that
``loadtests/engines/emulator/profiles.toml`` is.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from planner.steptime import StepFit, fit_steps

Row = dict[str, str]

STATIC = {"llamacpp_batched"}
"""Data sets whose requests all start together."""
ENGINES = {"vllm", "trtllm", "llama.cpp"}
LICENCES = {
    "inferencemax_silicon": "InferenceMAX by ai-dynamo/aiconfigurator, Apache-2.0",
    "llamacpp_batched": "llama.cpp batched-bench, MIT",
}
WORST_ERROR = 0.15
"""Of the median TPOT error; a profile that fits worse is left out."""


def main(path: Path) -> None:
    """Print the profiles of all groups that one step time describes."""
    print(HEADER)
    for (dataset, engine, hardware, model, gpus, precision), rows in sorted(_groups(path).items()):
        curves = {row["curve_id"] for row in rows}
        if engine not in ENGINES or dataset not in LICENCES or len(curves) < 2:
            continue
        fit, tpot_error = _fit(rows, static=dataset in STATIC)
        if tpot_error > WORST_ERROR or fit.step.per_prompt_token_s == 0:
            continue
        where = re.sub(r"_sxm$| gpu$", "", hardware.lower()).replace(" ", "-")
        short = re.sub(r"^(meta-)?|-(instruct|gguf)$", "", model.split("/")[-1].lower())
        name = "/".join([engine.replace(".", ""), where, short, *([precision] * bool(precision))])
        top = max(int(row["concurrency"]) for row in rows)
        steps = ", ".join(f"{1e3 * x:.6g}" for x in fit.step.coefficients)
        print(f'\n["{name}/{gpus}gpu"]')
        print(f'engine = "{engine}"\nhardware = "{gpus}x {hardware}"\nmodel = "{model}"')
        print(f"step_ms = [{steps}]\nslots = {top}\ntpot_error = {tpot_error:.3f}")
        listed = " ".join(sorted(curves))
        print(f'source = "{LICENCES[dataset]}; {dataset} {listed}"')


HEADER = """\
# Written by benchmarks/emulator_profiles.py from published curves. Do not edit.
# step_ms: milliseconds of a step: fixed, per sequence, per context token held, per prompt token
# read. slots: the highest concurrency that was published. tpot_error: median relative error of the
# fitted TPOT over the published levels."""


def _groups(path: Path) -> dict[tuple[str, ...], list[Row]]:
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    keys = ("dataset", "engine", "hardware", "model", "gpu_count", "precision")
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["ttft_ms"] and row["tpot_ms"]:
                groups[tuple(row[key] for key in keys)].append(row)
    return groups


def _fit(rows: list[Row], *, static: bool) -> tuple[StepFit, float]:
    """The step time, and the median relative error of its TPOT over the levels."""
    column: Any = lambda name: np.array([float(row[name]) for row in rows])  # noqa: E731
    n, prompt, output = (column(k) for k in ("concurrency", "input_tokens", "output_tokens"))
    tpot, ttft = column("tpot_ms") / 1e3, column("ttft_ms") / 1e3
    curve = np.array([row["curve_id"] for row in rows])
    least = np.array([n[i] == n[curve == curve[i]].min() for i in range(n.size)])
    if static:  # everybody decodes, nobody reads
        decoding, read, alone, asked = n, np.zeros_like(n), np.zeros_like(n), n * prompt
    else:  # as planner.steptime.fit_levels
        others = n - 1
        decoding, read = 1 + others * (1 - 1 / output), others * prompt / output
        alone, asked = others, prompt
    held = prompt + output / 2
    fit = fit_steps(
        np.concatenate([decoding, alone[least]]),
        np.concatenate([decoding * held, (alone * held)[least]]),
        np.concatenate([read, asked[least]]),
        np.concatenate([tpot, ttft[least]]),
    )
    found = fit.step.seconds(decoding, decoding * held, read)
    return fit, float(np.median(np.abs(found / tpot - 1)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
