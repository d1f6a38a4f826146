"""``headroom import``: result files of other load tools become a run folder."""

from __future__ import annotations

import time
from pathlib import Path

import click

from planner.cli import Command, console, print_json
from planner.importers.assemble import Declared, assembled
from planner.importers.formats import read_files
from planner.phrases import one_line
from planner.runfolder import check_new, write_imported
from planner.tables import points_table

__all__ = ["import_results"]


@click.command(
    "import",
    cls=Command,
    epilog="Example: headroom import vllm_c1.json vllm_c8.json --target vllm --backend vllm "
    "--hardware H100 --gpus 1 --out runs/vllm",
)
@click.argument(
    "files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path)
)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="The run folder to write."
)
@click.option("--target", help="Name of the target that all files are of.  [default: the tool's]")
@click.option("--backend", help="What served: vllm, ollama, llamacpp, openai, …")
@click.option("--hardware", help="GPU of the server, as H100.")
@click.option("--gpus", type=click.IntRange(1, 4096), help="GPUs of one replica.")
@click.option("--curve", help="Of several curves or traffic scenarios, the one to take.")
@click.option("--json", "as_json", is_flag=True, help="The operating points as JSON.")
def import_results(
    files: tuple[Path, ...],
    out: Path,
    target: str | None,
    backend: str | None,
    hardware: str | None,
    gpus: int | None,
    curve: str | None,
    as_json: bool,
) -> None:
    """Read result FILES of other load tools, or folders of them, as a run.

    aiperf, GenAI-Perf, guidellm, vLLM's and SGLang's benchmarks, inference-perf, evalscope,
    genai-bench, llmperf, or a CSV of operating points. Several files of one tool are levels of one
    target.
    """
    check_new(out)
    declared = Declared(target=target, backend=backend, hardware=hardware, gpus=gpus, curve=curve)
    found, sources, notes = read_files(files)
    manifest, points = assembled(found, sources, declared, now_unix_s=time.time(), notes=notes)
    write_imported(out, manifest, points)
    if as_json:
        print_json(points.points())
    else:
        console().print(points_table(points.points()))
    said = console(stderr=True)
    told = [*notes, *(f"{t.name}: {w}" for t in manifest.targets for w in t.warnings)]
    for line in told:
        said.print(one_line(f"! {line}"), markup=False, soft_wrap=True)
    said.print(one_line(f"run     {out}"), markup=False, soft_wrap=True)
