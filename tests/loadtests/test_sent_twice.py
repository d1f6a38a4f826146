"""Requests that met the closing of a kept connection: answered, and told in the run's manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from planner.runfolder import read_records, read_run
from tests.loadtests.measure.driving import SHORT, headroom
from tests.loadtests.measure.fakes import Chat
from tests.loadtests.servers import Act, serving

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.loadtests.servers import Step


@pytest.mark.parametrize(("processes", "told"), [(1, "1 request was"), (2, "2 requests were")])
def test_manifest_tells_what_was_sent_twice(processes: int, told: str, tmp_path: Path) -> None:
    """Each user meets it once, then keeps no connection; nothing fails, and the sum is told."""
    chat = Chat()

    def closing(request: bytes) -> Sequence[Step]:
        return [*chat(request), Act.READ]  # of the next request on the connection, and close

    with serving(closing) as server:
        done = headroom(
            "measure", f"openai={server.url}", "--concurrency", processes, "--duration", "2s",
            "--processes", processes, *SHORT, "--out", tmp_path / "run",
        )  # fmt: skip
    assert done.code == 0, done.err
    assert {record.status for record in read_records(tmp_path / "run")} <= {"ok", "cancelled"}
    run = read_run(tmp_path / "run", gaps=False)
    notes = [note for note in run.manifest.notes if "sent twice" in note]
    assert len(notes) == 1
    assert notes[0].startswith(f"target openai: {told} sent twice")
