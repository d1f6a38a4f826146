"""``headroom claims``: published claims against the evidence at hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from planner import __version__
from planner.answer import answer, merged, read_runs
from planner.claims.files import builtin_claims, read_claims, read_doctors, read_parities
from planner.claims.gathering import gathered
from planner.claims.judging import judge_all
from planner.claims.records import ClaimsReport
from planner.claims_tables import print_claims
from planner.cli import EXIT_DONE, EXIT_NO, Command, print_json, question_options
from planner.comparison import sharing, side_by_side
from planner.config import catalogue_of, config_option
from planner.demand import question_of
from planner.errors import InputError, Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.claims.records import Evidence
    from planner.diagnosis import Diagnosis
    from planner.hardware import Catalogue
    from planner.parity_records import ParityReport
    from planner.records import PlanContext, Recommendation, Slo, Workload
    from planner.runfolder import Run

__all__ = ["claims", "evidence_of", "one_workload"]

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(
    cls=Command,
    epilog="Example: headroom claims runs/a --doctor doctor.json --parity parity.json --users 50 "
    "--slo 'ttft_p95<=1s'",
)
@click.argument("runs", nargs=-1, metavar="RUN...", type=click.Path(path_type=Path))
@click.option("--claims", "catalogue", type=_FILE, metavar="FILE.toml",
              help="Your own claims in place of those that ship.")  # fmt: skip
@click.option("--doctor", type=_FILE, multiple=True, metavar="FILE.json",
              help="What headroom doctor --json printed; repeatable.")  # fmt: skip
@click.option("--parity", type=_FILE, multiple=True, metavar="FILE.json",
              help="What headroom parity --json printed; repeatable.")  # fmt: skip
@question_options()
@click.option("--strict", is_flag=True, help="Exit with 1 if a claim is refuted.")
@click.option("--json", "as_json", is_flag=True, help="The verdicts as JSON.")
@config_option
@click.pass_context
def claims(
    context: click.Context,
    runs: tuple[Path, ...],
    catalogue: Path | None,
    doctor: tuple[Path, ...],
    parity: tuple[Path, ...],
    users: int | None,
    think_time: float | None,
    slo: tuple[Slo, ...],
    confidence: float | None,
    spare: int | None,
    strict: bool,
    as_json: bool,
) -> None:
    """Judge claims about backends by the RUN folders, doctor and parity outputs, and physics.

    Each verdict is computed: confirmed, refuted, mixed (where it holds) or untested (what to run).
    An emulator's figures are never evidence.
    """
    known = read_claims(catalogue) if catalogue else builtin_claims()
    diagnoses, parities = read_doctors(doctor), read_parities(parity)
    measured = read_runs(runs)
    asked = None
    if users is not None or any(run.manifest.plan for run in measured):
        asked = question_of(
            [run.manifest.plan for run in measured], users, think_time, slo,
            confidence=confidence, spare=spare, gpu_cost={},
        )  # fmt: skip
    elif slo or think_time is not None:
        raise InputError("objectives without people to serve: give --users too")
    evidence = evidence_of(measured, asked, diagnoses, parities, catalogue_of(context))
    verdicts = judge_all(known, evidence)
    report = ClaimsReport(
        headroom_version=__version__,
        verdicts=verdicts,
        comparison=side_by_side(evidence.points),
        sharing=sharing(evidence.points),
        pairs=evidence.recommendation.pairs if evidence.recommendation else (),
    )
    if as_json:
        print_json(report)
    else:
        print_claims(report)
    refuted = any(verdict.verdict == "refuted" for verdict in verdicts)
    context.exit(EXIT_NO if strict and refuted else EXIT_DONE)


def evidence_of(
    runs: Sequence[Run],
    question: PlanContext | None,
    diagnoses: Sequence[Diagnosis],
    parities: Sequence[ParityReport],
    catalogue: Catalogue,
) -> Evidence:
    """What run folders and files tell, for judging claims.

    Raises:
        InputError: the runs measured different workloads, so their figures do not compare.
    """
    workload = one_workload(runs)
    seed = abs(runs[0].manifest.seed) if runs else 0
    samples, targets = merged(runs, rng=np.random.default_rng([seed, 0]), catalogue=catalogue)
    recommendation: Recommendation | None = None
    if runs and question is not None:
        try:
            recommendation = answer(runs, question, catalogue=catalogue)
        except Refused:
            recommendation = None  # what rests on it is then untested
    return gathered(
        targets=targets,
        points=[sample.point for sample in samples],
        catalogue=catalogue,
        workload=workload,
        recommendation=recommendation,
        diagnoses=diagnoses,
        parities=parities,
    )


def one_workload(runs: Sequence[Run]) -> Workload | None:
    """The workload that all runs share; ``None`` without runs.

    Raises:
        InputError: there are several.
    """
    found = {run.path.name: run.manifest.workload for run in runs}
    first = next(iter(found.values()), None)
    for name, workload in found.items():
        if workload != first:
            raise InputError(
                f"the runs {next(iter(found))} and {name} measured different workloads "
                f"(prompts {first.prompt_tokens if first else ''} and {workload.prompt_tokens}, "
                f"outputs {first.output_tokens if first else ''} and {workload.output_tokens}): "
                "their figures do not compare; give runs of one workload"
            )
    return first
