"""The rules of who may import whom, and the reader that finds breaches of them."""

from __future__ import annotations

import graphlib
import sys
import tomllib
from typing import TYPE_CHECKING

from tests.codebase import PACKAGES, calls_of, imports_of, parse_modules

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.codebase import Import

MAY_IMPORT = {
    "planner": {"planner"},
    "loadtests": {"loadtests", "planner"},
    "dashboards": {"dashboards", "planner"},
    "headroom": {"loadtests", "planner", "dashboards"},
}
"""Package -> packages of ours that it may import. Nobody imports ``headroom``."""

MAY_IMPORT_LOCUST = {
    "headroom": "call",  # plan and demo: before anything that Locust would have to patch
    "loadtests.commands": "load",
    "loadtests.crew": "load",
    "loadtests.hardening": "load",
    "loadtests.live": "load",
    "loadtests.locust_stats": "load",
    "loadtests.measure.proving": "load",
    "loadtests.measure.stage": "load",
    "loadtests.member": "typing",
    "loadtests.openloop": "load",
    "loadtests.ownarrivals": "typing",
    "loadtests.plugin": "load",
    "loadtests.remote": "load",
    "loadtests.roster": "typing",
    "loadtests.selftest": "load",
    "loadtests.stagetab": "typing",
    "loadtests.users": "load",
    "loadtests.verify": "load",
    "loadtests.worker": "load",
}
"""Module -> when it may. ``import locust`` patches the sockets of the whole process."""

MAY_NAME_MODULES_AT_RUN_TIME = {"headroom"}
"""The front door's table of commands holds modules' names."""

MAY_DO_IO = {
    "planner.backtest_command",
    "planner.answer",  # reads the runs that it is asked about, and the hardware catalogue
    "planner.claims.files",
    "planner.cli",
    "planner.commands",
    "planner.config",
    "planner.files",
    "planner.gates.gate",
    "planner.hardware",
    "planner.importers.formats",
    "planner.journal",
    "planner.lock",
    "planner.manifest",
    "planner.parquet",
    "planner.runfolder",
    "planner.telemetry_file",
}
"""The planner's rooms with a door to the outside, as every ``*_command`` has. The rest is maths."""

PURE = {
    "__future__", "abc", "array", "bisect", "collections", "contextlib", "csv", "dataclasses",
    "difflib", "enum", "fractions", "functools", "hashlib", "heapq", "itertools", "json", "math",
    "operator", "re", "shlex", "statistics", "string", "struct", "sys", "types", "typing",
    "unicodedata", "zlib", "msgspec", "numpy", "rapidfuzz", "scipy",
}  # fmt: skip
"""What arithmetic is made of. None of it waits, reads a clock or opens anything."""

MAY_ALSO_IMPORT = {
    "planner.answer_tables": {"planner.cli", "rich"},
    "planner.claims.facts": {"urllib.parse"},
    "planner.claims_tables": {"planner.cli", "rich"},
    "planner.export.openmetrics": {
        "prometheus_client",
        "prometheus_client.core",
        "prometheus_client.openmetrics.exposition",
    },
    "planner.export.tables": {"pyarrow", "pyarrow.parquet"},
    "planner.gates.baseline": {"urllib.parse"},
    "planner.gates.junit": {"xml.sax.saxutils"},
    "planner.gates.rules": {"tomllib"},
    "planner.gates.terminal": {"rich"},
    "planner.tables": {"rich"},
    "planner.terminal": {"rich"},
}
"""Pure modules that turn results into what a terminal shows."""

IO_CALLS = {
    "open", "print", "input", "exec", "eval", ".open", ".read_text", ".read_bytes", ".write_text",
    ".write_bytes", ".tofile", ".loadtxt", ".savetxt", ".genfromtxt", ".fromfile", ".memmap",
}  # fmt: skip

EXTRAS_ONLY_IN = ("loadtests.engines.", "loadtests.measure.gpus")
"""The optional dependencies serve the embedded engine, and the look at GPUs."""

NAMED_OTHERWISE = {"nvidia_ml_py": "pynvml"}
"""Requirement -> the module that it brings, where that has another name."""


def breaches(root: Path) -> list[str]:
    """Every broken rule in the project under ``root``, one line each."""
    imports = imports_of(root)
    found = [
        f"{i.importer}:{i.line} imports {i.imported}: {why}" for i in imports for why in _why(i)
    ]
    return [*found, *_io_calls(root), *_undeclared(root, imports), *_cycles(imports)]


def _why(i: Import) -> Iterator[str]:
    """Why one import is not allowed."""
    package = i.importer.partition(".")[0]
    if i.root in {*PACKAGES, "headroom"} and i.root not in MAY_IMPORT[package]:
        yield f"{package} may not import {i.root}"
    if i.root == "locust" and MAY_IMPORT_LOCUST.get(i.importer) not in {i.when, "load"}:
        yield "this module may not import locust here"
    if i.root == "gevent" and package != "loadtests":
        yield "only loadtests imports gevent"
    if i.imported == "?" and i.importer not in MAY_NAME_MODULES_AT_RUN_TIME:
        yield "only the front door computes the name of a module"
    if i.when != "typing" and _is_pure(i.importer) and not _serves_the_pure(i):
        yield f"{i.importer} is pure: it may not import {i.imported}"


def _is_pure(module: str) -> bool:
    door = module in MAY_DO_IO or module.endswith("_command")
    planner = module.partition(".")[0] == "planner" and not door
    return planner or module == "loadtests.dialects" or module.startswith("loadtests.dialects.")


def _serves_the_pure(i: Import) -> bool:
    """Whether a pure module may import this."""
    ours = i.root in PACKAGES and _is_pure(i.imported)
    return (
        ours
        or i.root in PURE
        or bool({i.root, i.imported} & MAY_ALSO_IMPORT.get(i.importer, set()))
    )


def _io_calls(root: Path) -> Iterator[str]:
    for name, tree in parse_modules(root).items():
        if _is_pure(name):
            for call, line in calls_of(tree):
                if call in IO_CALLS:
                    yield f"{name}:{line} calls {call}: {name} is pure"


def _undeclared(root: Path, imports: list[Import]) -> Iterator[str]:
    """Imports of what pyproject.toml does not declare, or declares for another place."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    needed = {_root_of(r) for r in project["dependencies"]}
    extra = {_root_of(r) for rs in project["optional-dependencies"].values() for r in rs}
    ours = {*PACKAGES, "headroom", "?"}
    for i in imports:
        if i.root in sys.stdlib_module_names or i.root in ours | needed:
            continue
        if i.root not in extra:
            yield f"{i.importer}:{i.line} imports {i.root}, which pyproject.toml does not declare"
        elif not i.importer.startswith(EXTRAS_ONLY_IN):
            yield f"{i.importer}:{i.line} imports {i.root}, which is an extra for another place"


def _root_of(requirement: str) -> str:
    name = requirement.partition(">")[0].strip().replace("-", "_")
    return NAMED_OTHERWISE.get(name, name)


def _cycles(imports: list[Import]) -> Iterator[str]:
    graph: dict[str, set[str]] = {}
    for i in imports:
        if i.when == "load" and i.root in PACKAGES:
            graph.setdefault(i.importer, set()).add(i.imported)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        yield f"import cycle: {' -> '.join(reversed(error.args[1]))}"
