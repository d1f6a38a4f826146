"""``headroom report --config``: the user's own hardware reaches the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from click.testing import CliRunner

from dashboards.commands import report
from planner.config import load_config
from planner.manifest import read_manifest, write_manifest
from planner.runfolder import RunWriter
from planner.shapes import OwnHardware
from tests.dashboards import fabricate

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """
out = "elsewhere"               # of a plan: the report goes beside the run all the same

[gpus.Abacus]
memory_gb = 0.001
bandwidth_gb_s = 0.001

[models.tiny]
layers = 2
kv_heads = 2
head_dim = 16
hidden = 64
parameters_b = 1.0
"""


LARGE = CONFIG.replace("memory_gb = 0.001", "memory_gb = 1000").replace("0.001", "1e6")


def test_hardware_of_the_config_judges_the_levels(tmp_path: Path) -> None:
    """A model that cannot fit into the user's card: its levels are refused in the report too.

    What the run itself kept serves as well, and what is given now has the last word.
    """
    manifest, records = fabricate.fabricated_run()
    targets = tuple(
        msgspec.structs.replace(target, model="tiny", hardware="Abacus", gpus_per_replica=1)
        for target in manifest.targets
    )
    path, config = tmp_path / "run", tmp_path / "headroom.toml"
    config.write_text(CONFIG)
    writer = RunWriter.create(path, manifest)
    for record in records:
        writer.append(record)
    writer.finish(msgspec.structs.replace(manifest, targets=targets))
    says = "impossible: the weights of tiny take"
    large = tmp_path / "large.toml"
    large.write_text(LARGE)
    given = load_config(config)
    keeps = OwnHardware(gpus=given.gpus, models=given.models)
    for kept, options, told in (
        (OwnHardware(), [], False),
        (OwnHardware(), ["--config", str(config)], True),
        (keeps, [], True),
        (keeps, ["--config", str(large)], False),
    ):
        write_manifest(path, msgspec.structs.replace(read_manifest(path), hardware=kept))
        done = CliRunner().invoke(report, [str(path), *options])
        assert done.exit_code == 0, done.output
        assert done.stdout.strip() == str(path / "report.html")
        assert (says in (path / "report.html").read_text()) == told
