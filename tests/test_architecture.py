"""Who may import whom, read from the source; each rule is seen to fail on a planted breach."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture import MAY_ALSO_IMPORT, MAY_DO_IO, MAY_IMPORT_LOCUST, breaches
from tests.codebase import PACKAGES, imports_of, parse_modules

ROOT = Path(__file__).parents[1]

PLANTED = [
    ("planner/units.py", "import loadtests.targets", "planner may not import loadtests"),
    ("planner/units.py", "from dashboards import text", "planner may not import dashboards"),
    ("planner/units.py", "from ..dashboards import text", "planner may not import dashboards"),
    ("planner/cli.py", "def f():\n    import dashboards.text", "may not import dashboards"),
    ("planner/cli.py", "import importlib\nimportlib.import_module('loadtests')", "may not import"),
    ("planner/cli.py", "__import__('load' + 'tests')", "only the front door computes"),
    ("planner/errors.py", "import headroom", "planner may not import headroom"),
    ("loadtests/options.py", "from headroom import main", "loadtests may not import headroom"),
    ("loadtests/resolve.py", "from dashboards.text import clean", "may not import dashboards"),
    ("dashboards/text.py", "import loadtests.dialects", "dashboards may not import loadtests"),
    (
        "dashboards/text.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import loadtests.targets",
        "dashboards may not import loadtests",
    ),
    ("dashboards/theme.py", "import gevent.socket", "only loadtests imports gevent"),
    ("planner/summary.py", "import locust", "may not import locust here"),
    ("loadtests/targets.py", "def f():\n    from locust import User", "may not import locust here"),
    (
        "loadtests/measure/session.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from locust import User",
        "may not import locust here",
    ),
    ("headroom.py", "import locust", "may not import locust here"),
    ("loadtests/dialects/ollama.py", "import socket", "loadtests.dialects.ollama is pure"),
    ("loadtests/dialects/base.py", "from time import monotonic", "loadtests.dialects.base is pure"),
    ("loadtests/dialects/__init__.py", "import gevent", "loadtests.dialects is pure"),
    ("loadtests/dialects/openai.py", "import loadtests.stream.clock", "openai is pure"),
    ("planner/curves.py", "import time", "planner.curves is pure"),
    ("planner/predict.py", "def f():\n    import subprocess", "planner.predict is pure"),
    ("planner/recommend.py", "from pathlib import Path", "planner.recommend is pure"),
    ("planner/steady.py", "import logging", "planner.steady is pure"),
    ("planner/queueing.py", "import random", "planner.queueing is pure"),
    ("planner/levels.py", "import planner.runfolder", "may not import planner.runfolder"),
    ("planner/curves.py", "from rich.table import Table", "planner.curves is pure"),
    ("planner/summary.py", "def f(p):\n    return open(p)", "planner.summary is pure"),
    ("planner/table.py", "def f(p):\n    return p.read_text()", "planner.table is pure"),
    ("dashboards/text.py", "import pandas", "does not declare"),
    ("loadtests/targets.py", "import tokenizers", "an extra for another place"),
    ("planner/errors.py", "import planner.units", "import cycle"),
]  # fmt: skip


def _copied(to: Path) -> Path:
    """The sources alone, to plant breaches in."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, to / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("headroom.py", "pyproject.toml"):
        shutil.copy(ROOT / file, to / file)
    return to


def test_rules_hold() -> None:
    """No import in the source breaks a rule."""
    assert breaches(ROOT) == []


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources."""
    return _copied(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def known(copy: Path) -> set[str]:
    """What is reported without a plant, so that one broken rule fails one test."""
    return set(breaches(copy))


@pytest.mark.parametrize(("file", "code", "report"), PLANTED)
def test_planted_breach_is_found(
    copy: Path, known: set[str], file: str, code: str, report: str
) -> None:
    """A planted breach is reported, with the module and the rule, and nothing else is."""
    target = copy / file
    before = target.read_text()
    target.write_text(f"{before}\n{code}\n")
    try:
        found = breaches(copy)
    finally:
        target.write_text(before)
    module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    found = [line for line in found if line not in known]
    assert any(report in line for line in found)
    assert all(module in line for line in found)


def test_rules_name_modules_that_exist() -> None:
    """A renamed module leaves no dead exception behind."""
    modules = set(parse_modules(ROOT))
    assert set(MAY_DO_IO) <= modules
    assert set(MAY_ALSO_IMPORT) <= modules
    assert set(MAY_IMPORT_LOCUST) <= {i.importer for i in imports_of(ROOT) if i.root == "locust"}


@pytest.mark.parametrize("module", ["planner", "planner.answer", "dashboards.figures", "headroom"])
def test_import_leaves_the_process_unpatched(module: str) -> None:
    """What thinks and what draws load neither Locust nor gevent, whatever they import in turn."""
    code = (
        f"import sys, {module}\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "sys.exit(' '.join(sorted(loaded & {'locust', 'gevent'})) or 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
