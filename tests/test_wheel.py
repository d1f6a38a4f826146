"""The built wheel, installed away from the checkout and without the optional engine."""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hatch_build import PRODUCT
from planner import __version__
from planner.runfolder import RunWriter
from tests.codebase import PACKAGES
from tests.dashboards.fabricate import fabricated_run

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENGINE = {r.partition(">")[0] for r in PROJECT["optional-dependencies"]["engine"]}
DATA = {
    "dashboards/templates/report.css",
    "dashboards/templates/report.html.j2",
    "dashboards/templates/report.js",
    "loadtests/traffic/words.txt",
    *(f"{package}/py.typed" for package in PACKAGES),
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout."""
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment: the wheel, and the dependencies of this one but the engine's."""
    path = tmp_path_factory.mktemp("installed")
    run([sys.executable, "-m", "venv", "--without-pip", str(path / "env")], path)
    needed = path / "dependencies"
    needed.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        name = entry.name.partition("-")[0].partition(".")[0].lower()
        if name not in ENGINE | {"headroom_llm", "_headroom_llm"} and entry.suffix != ".pth":
            (needed / entry.name).symlink_to(entry)
    (site,) = (path / "env").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(f"{needed}\n")
    pip = [sys.executable, "-m", "pip", "--python", str(path / "env" / "bin" / "python")]
    run([*pip, "install", "-qq", "--no-deps", "--no-index", str(wheel)], path)
    return path


def run(
    command: Sequence[str | Path], cwd: Path, *, expect: int = 0
) -> subprocess.CompletedProcess[str]:
    """A command's outcome, with nothing of this checkout on its path."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV_", "VIRTUAL"))}
    ran = subprocess.run(
        [str(part) for part in command],
        cwd=cwd, env=clean, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ran.returncode == expect, ran.stderr
    return ran


def test_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    """Every source and data file is in the wheel; tests, docs and caches are not."""
    sources = {
        str(file.relative_to(ROOT))
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and file != ROOT / PRODUCT
    }
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist()) - {str(PRODUCT)}
    assert sources >= DATA
    info = f"headroom_llm-{__version__}.dist-info/"
    assert {n for n in names if not n.startswith(info)} == {*sources, "headroom.py"}
    assert f"{info}licenses/LICENSE" in names


@pytest.mark.skipif(not (sys.platform == "linux" and shutil.which("cc")), reason="no compiler")
def test_wheel_holds_the_extension(wheel: Path, environment: Path) -> None:
    """Where it can be compiled, the wheel is for this platform and any Python from 3.11 on."""
    assert "-cp311-abi3-linux_" in wheel.name
    code = "from loadtests.stream import clock_name; print(clock_name())"
    ran = run([environment / "env" / "bin" / "python", "-c", code], environment)
    assert "drained in C" in ran.stdout or "SO_TIMESTAMPNS" not in ran.stdout


def test_wheel_without_a_compiler(tmp_path: Path) -> None:
    """Without a compiler the wheel is one for all platforms, without the extension."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT, check=True, capture_output=True, env={**os.environ, "CC": "no-such-compiler"},
    )  # fmt: skip
    (built,) = tmp_path.glob("*-py3-none-any.whl")
    with zipfile.ZipFile(built) as archive:
        assert str(PRODUCT) not in archive.namelist()


def test_wheel_says_what_it_is(wheel: Path) -> None:
    """Name, version, licence, Python, dependencies, extra and console script stand in it."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/METADATA"))
        facts = email.message_from_bytes(archive.read(name))
        scripts = archive.read(name.replace("METADATA", "entry_points.txt")).decode()
    assert (facts["Name"], facts["Version"]) == ("headroom-llm", __version__)
    assert facts["License-Expression"] == "Apache-2.0"
    assert facts["Requires-Python"] == ">=3.11"
    always = [r for r in facts.get_all("Requires-Dist", []) if "extra ==" not in r]
    assert sorted(always) == sorted(PROJECT["dependencies"])
    assert facts.get_all("Provides-Extra") == ["engine", "gpu"]
    assert "headroom = headroom:main" in scripts


def test_installed_packages_import(environment: Path) -> None:
    """The three packages come from the wheel, not from this checkout."""
    code = (
        "import dashboards.figures, dashboards.page, headroom, loadtests.traffic.prompts, planner\n"
        "print(dashboards.__file__, headroom.__file__, loadtests.__file__, planner.__file__)"
    )
    ran = run([environment / "env" / "bin" / "python", "-c", code], environment)
    places = ran.stdout.split()
    assert len(places) == 4
    assert all(Path(place).is_relative_to(environment / "env") for place in places)


def test_installed_command_runs(environment: Path) -> None:
    """The console script answers."""
    program = environment / "env" / "bin" / "headroom"
    assert run([program, "--version"], environment).stdout == f"headroom, version {__version__}\n"
    assert "recommend" in run([program, "--help"], environment).stdout


@pytest.mark.parametrize("command", ["plan", "demo", "serve", "measure", "recommend", "report"])
def test_installed_commands_explain_themselves(environment: Path, command: str) -> None:
    """Every command loads without the optional engine."""
    program = environment / "env" / "bin" / "headroom"
    assert f"headroom {command} [OPTIONS]" in run([program, command, "--help"], environment).stdout


def test_installed_report_is_written(environment: Path, tmp_path: Path) -> None:
    """The wheel carries what the report is made of."""
    run_folder = tmp_path / "run"
    manifest, records = fabricated_run()
    writer = RunWriter.create(run_folder, manifest)
    for record in records:
        writer.append(record)
    writer.finish(manifest)
    program = environment / "env" / "bin" / "headroom"
    ran = run([program, "report", run_folder], environment)
    page = Path(ran.stdout.strip()).read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    style = (ROOT / "dashboards" / "templates" / "report.css").read_text(encoding="utf-8")
    assert style.splitlines()[0] in page


def test_missing_engine_is_one_line(environment: Path) -> None:
    """Without the extra, the embedded engine says how to get it."""
    program = environment / "env" / "bin" / "headroom"
    ran = run([program, "serve", "llamacpp"], environment, expect=2)
    (line,) = ran.stderr.splitlines()
    assert line.startswith("headroom serve: ")
    assert "headroom-llm[engine]" in line
