"""Gates under Locust's own command: ``locust -f ... --headless --gates gates.toml``."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from planner.cli import console
from planner.gates.gate import gate, read_baseline, read_rules
from planner.gates.terminal import print_report
from planner.runfolder import read_run

if TYPE_CHECKING:
    from planner.gates.baseline import Baseline
    from planner.gates.records import Rules
    from planner.runfolder import Run

__all__ = ["LiveGate"]


@dataclass(frozen=True, slots=True)
class LiveGate:
    """The rules of a test that Locust drives, read before any load is made.

    Attributes:
        rules: what to judge by.
        rules_file: where they came from.
        baseline: what to compare with.
        baseline_path: where it came from.
        folder: the run folder that is judged.
        kept: the folder, where it is a temporary one that goes with this object.
    """

    rules: Rules
    rules_file: Path
    baseline: Run | Baseline | None
    baseline_path: Path | None
    folder: Path
    kept: tempfile.TemporaryDirectory[str] | None

    @classmethod
    def begin(cls, rules_file: str, baseline: str, out: str) -> LiveGate:
        """Read rules and baseline.

        Args:
            rules_file: the rules.
            baseline: run folder or file; empty for none.
            out: the run folder that will be written; empty: a temporary one.

        Raises:
            InputError: the rules or the baseline cannot be used.
        """
        rules = read_rules(Path(rules_file))
        other = Path(baseline) if baseline else None
        held = None if out else tempfile.TemporaryDirectory(prefix="headroom-gate-")
        return cls(
            rules=rules,
            rules_file=Path(rules_file),
            baseline=None if other is None else read_baseline(other),
            baseline_path=other,
            folder=Path(out) if held is None else Path(held.name) / "run",
            kept=held,
        )

    def judge(self) -> int:
        """Judge the finished run, print the verdicts, and give the exit code.

        Raises:
            InputError: the run cannot be judged by these rules.
        """
        report = gate(
            read_run(self.folder, gaps=False),
            self.rules,
            rules_name=str(self.rules_file),
            baseline=self.baseline,
            baseline_name="" if self.baseline_path is None else str(self.baseline_path),
        )
        print_report(report, console())
        return report.exit_code
