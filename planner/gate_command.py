"""``headroom gate``: a missed objective, or a regression, fails the build."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from planner.cli import Command, console, print_json
from planner.comparable import KEYS
from planner.config import catalogue_of, config_option
from planner.errors import InputError
from planner.gates.annotations import github_annotations
from planner.gates.baseline import encode_baseline
from planner.gates.gate import gate as judge
from planner.gates.gate import make_baseline, read_baseline, read_rules, write_file
from planner.gates.junit import junit_xml
from planner.gates.markdown import markdown
from planner.gates.terminal import print_report
from planner.phrases import one_line
from planner.runfolder import read_run

if TYPE_CHECKING:
    from planner.gates.records import Inconclusive

__all__ = ["gate"]

_FILE = click.Path(path_type=Path)


@click.command(
    cls=Command,
    epilog="Example: headroom gate runs/nightly --rules gates.toml --baseline baseline.json "
    "--junit gate.xml --markdown gate.md headroom gate runs/main --save-baseline baseline.json",
)
@click.argument("run", metavar="RUN", type=_FILE)
@click.option("--rules", type=_FILE, metavar="FILE", help="TOML file of rules (docs/gates.md).")
@click.option("--baseline", type=_FILE, metavar="RUN|FILE",
              help="What rules such as 'ttft_p95 <= baseline * 1.10' compare with.")  # fmt: skip
@click.option("--allow-different", type=click.Choice(KEYS), multiple=True, metavar="KEY",
              help="What may differ from the baseline, as hardware; repeatable.")  # fmt: skip
@click.option("--save-baseline", type=_FILE, metavar="FILE",
              help="Save this run to be compared with, unless a rule fails.")  # fmt: skip
@click.option("--junit", type=_FILE, metavar="FILE", help="Write JUnit XML.")
@click.option("--markdown", "markdown_file", type=_FILE, metavar="FILE",
              help="Write Markdown, for the summary of a job.")  # fmt: skip
@click.option("--annotations", type=click.Choice(["github"]), default=None,
              help="Print annotations that GitHub Actions shows.")  # fmt: skip
@click.option("--inconclusive", type=click.Choice(["fail", "pass", "3"]), default=None,
              help="Exit code where a rule cannot be judged and none fails: 1, 0 or 3.  "
              "[default: as the rules say, or 3]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The verdicts as JSON.")
@config_option
@click.pass_context
def gate(
    context: click.Context,
    run: Path,
    rules: Path | None,
    baseline: Path | None,
    allow_different: tuple[str, ...],
    save_baseline: Path | None,
    junit: Path | None,
    markdown_file: Path | None,
    annotations: str | None,
    inconclusive: str | None,
    as_json: bool,
) -> None:
    """Judge a RUN folder by rules: each passes, fails, or is inconclusive.

    Exit codes: 0 all pass, 1 a rule fails, 2 bad input, 3 a rule is inconclusive and none fails.
    """
    if rules is None and save_baseline is None:
        raise InputError("no rules: name a file with --rules (docs/gates.md shows one)")
    asked = None if rules is None else read_rules(rules)
    measured = read_run(run, gaps=False)
    code = 0
    if asked is not None:
        report = judge(
            measured,
            asked,
            rules_name=str(rules),
            baseline=None if baseline is None else read_baseline(baseline),
            baseline_name="" if baseline is None else str(baseline),
            inconclusive=cast("Inconclusive | None", inconclusive),
            baseline_follows=save_baseline is not None,
            allowed=allow_different,
            catalogue=catalogue_of(context),
        )
        code = report.exit_code
        if junit is not None:
            write_file(junit, junit_xml(report), "JUnit file")
        if markdown_file is not None:
            write_file(markdown_file, markdown(report).encode(), "Markdown file")
        if as_json:
            print_json(report)
        else:
            print_report(report, console())
        for line in github_annotations(report) if annotations else ():
            click.echo(line, err=as_json)
    if save_baseline is not None:
        if asked is not None and report.outcome == "fail":
            click.echo(one_line(f"{save_baseline} is left as it is: a rule failed"), err=True)
        else:
            data = encode_baseline(make_baseline(measured, asked))
            write_file(save_baseline, data, "baseline")
            click.echo(one_line(f"baseline  {save_baseline} ({len(data):,} bytes)"), err=True)
    context.exit(code)
