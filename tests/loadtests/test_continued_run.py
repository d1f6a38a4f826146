"""A kept run that goes on keeps what was declared of its targets, and never mixes two APIs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from loadtests.measure.continued import continued
from planner.errors import InputError
from planner.manifest import read_manifest
from planner.records import TargetInfo
from tests.loadtests.measure.driving import SHORT
from tests.loadtests.measure.fakes import Chat
from tests.loadtests.servers import serving
from tests.planner.examples import manifest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.loadtests.measure.driving import Shell

LEVEL = ("--concurrency", "2", "--duration", "1s")
H100 = TargetInfo(
    name="t", backend="llamacpp", url="http://127.0.0.1:1", api="native", hardware="H100",
    gpus_per_replica=2,
)  # fmt: skip


def test_hardware_is_declared_once(shell: Shell, tmp_path: Path) -> None:
    """Without ``--hardware`` a continued run keeps it, with it the new one counts, and is noted."""
    out = tmp_path / "run"
    with serving(Chat()) as server:
        target = f"openai={server.url}"
        for declared, found in (
            (["--hardware", "openai=2xH100"], ("H100", 2)),
            ([], ("H100", 2)),
            (["--hardware", "openai=A100"], ("A100", 1)),
        ):
            done = shell.run("measure", target, *SHORT, *LEVEL, *declared, "--out", out)
            assert done.code == 0, done.err
            (info,) = read_manifest(out).targets
            assert (info.hardware, info.gpus_per_replica) == found
            assert info.api == "openai"
    (note,) = [note for note in read_manifest(out).notes if "declared" in note]
    assert "openai: 2 × H100 was declared before, 1 × A100 later" in note


@pytest.mark.parametrize("before", ["native", None])
def test_another_api_is_another_target(before: str | None) -> None:
    """llama.cpp's two APIs prepare prompts differently: a curve has one. Older runs do not tell."""
    kept = manifest(targets=(msgspec.structs.replace(H100, api=before),))
    again = msgspec.structs.replace(H100, api="openai", hardware=None, gpus_per_replica=None)
    if before is None:
        later = continued(kept, (again,), kept.workload, None)
        assert later.targets == (msgspec.structs.replace(H100, api="openai"),)
    else:
        with pytest.raises(InputError, match="API was native, is openai"):
            continued(kept, (again,), kept.workload, None)
