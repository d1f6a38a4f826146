"""The report's side-by-side tables and its claims, from a run with stages alone and together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from click.testing import CliRunner

from dashboards.commands import report
from planner.records import StageInfo
from planner.runfolder import RunWriter
from tests.dashboards import fabricate
from tests.dashboards.test_report_page import Page

if TYPE_CHECKING:
    from pathlib import Path

    from planner.records import RequestRecord, RunManifest

ONE, FOUR = fabricate.SLOTS
HOSTILE = """[claims.x]
text = "<script>alert(1)</script>"
source = "<img src=x onerror=alert(2)>"
checks = [{ rule = "no_batching", backend = "llamacpp" }]
"""


def _together(manifest: RunManifest, records: list[RequestRecord]) -> RunManifest:
    """The same run with both targets once more at 4 in flight, at the same time, half as fast."""
    stages = list(manifest.stages)
    begun_s = 1_000.0
    for target, other in ((ONE, FOUR), (FOUR, ONE)):
        alone = next(s for s in stages if s.target == target and s.load == 4)
        index = len(stages)
        stages.append(
            StageInfo(
                index=index, target=target, load_kind="concurrency", load=4,
                started_s=begun_s, ended_s=begun_s + 2 * fabricate.STAGE_S, stop_reason="steady",
                together=(other,),
            )
        )  # fmt: skip
        for record in [r for r in records if r.stage == alone.index]:
            moved = {
                name: begun_s + 2 * (getattr(record, name) - alone.started_s)
                for name in ("scheduled_s", "sent_s", "headers_s", "first_token_s", "ended_s")
                if getattr(record, name) is not None
            }
            records.append(
                msgspec.structs.replace(record, stage=index, id=record.id + 50_000_000, **moved)
            )
    return msgspec.structs.replace(manifest, stages=tuple(stages))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's folder."""
    path = tmp_path_factory.mktemp("claims") / "run"
    manifest, records = fabricate.fabricated_run()
    manifest = _together(manifest, records)
    _write(path, manifest, records)
    return path


def _write(path: Path, manifest: RunManifest, records: list[RequestRecord]) -> None:
    writer = RunWriter.create(path, manifest)
    for record in records:
        writer.append(record)
    writer.finish(manifest)


def _html(folder: Path, *arguments: object) -> str:
    out = folder.parent / "report.html"
    result = CliRunner().invoke(report, [str(folder), "--out", str(out), *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    """The report as it comes without options."""
    return Page(_html(folder))


def test_targets_stand_side_by_side(page: Page) -> None:
    """Each load at which both passed their gates has a group; a failure spoils the first."""
    told = page.words.partition("Side by side")[2].partition("What sharing")[0]
    shown = [f"{n} in flight {ONE}" in told for n in fabricate.LEVELS]
    assert shown == [False, True, True, True, True]
    assert "Which of two, for how many users" in told


def test_sharing_is_told_and_not_drawn(page: Page) -> None:
    """Half as fast is × 0.50, and no figure of the report rests on the stages together."""
    told = page.words.partition("What sharing the machine costs")[2][:700]
    assert f"4 in flight on each of {ONE}, {FOUR}" in told
    assert "× 0.50" in told
    loads = page.figure("load-output-tokens-per-s")["data"]
    drawn = [trace["x"] for trace in loads if trace.get("mode") == "markers"]
    assert sum(len(x) for x in drawn if isinstance(x, list)) == 2 * len(fabricate.LEVELS)
    assert f"together with {FOUR}" in page.words
    assert "targets were loaded together" in page.words


def test_claims_are_judged(page: Page) -> None:
    """Four slots that give more than one request at a time refute that it cannot batch."""
    told = page.words.partition("What is said, and what was found")[2]
    assert "refuted “llama.cpp answers one request at a time”" in told
    assert "Rule no_batching" in told
    assert "untested, each with what would test it" in told
    assert "headroom parity" in told


def test_a_users_claims_are_escaped(folder: Path) -> None:
    """A catalogue is untrusted text: it is shown, and nothing of it runs."""
    mine = folder.parent / "mine.toml"
    mine.write_text(HOSTILE)
    html = _html(folder, "--claims", mine)
    assert "<script>alert(1)" not in html
    assert "<img src=x" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_an_emulated_run_shows_no_claims(folder: Path, tmp_path: Path) -> None:
    """With emulators alone nothing is decided but by physics, and no claim is shown."""
    manifest, records = fabricate.fabricated_run()
    targets = tuple(msgspec.structs.replace(t, emulated="demo") for t in manifest.targets)
    manifest = msgspec.structs.replace(manifest, targets=targets)
    _write(tmp_path / "run", manifest, records)
    assert "What is said, and what was found" not in _html(tmp_path / "run")
    assert "What is said, and what was found" in _html(folder)
