"""What is public is documented, and what the documents say is true of the code."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from planner import errors, records
from planner.units import parse_slo
from tests.codebase import parse_modules
from tests.command_facts import commands, page

ROOT = Path(__file__).parents[1]
MODULES = parse_modules(ROOT)
NOMENCLATURE = (ROOT / "docs" / "nomenclature.md").read_text(encoding="utf-8")

TERMS = (
    "target", "backend", "engine", "dialect", "slot", "replica", "spare", "run folder", "stage",
    "window", "operating point", "concurrency", "users", "think time", "rate", "in flight",
    "throughput", "workload", "warm-up", "TTFT", "E2E", "TPOT", "ITL", "send lag", "content event",
    "coalesced", "token source", "cached tokens", "censored", "figure", "percentile", "SLO",
    "goodput", "error rate", "interval", "gate", "demand", "curve", "capacity", "confidence",
    "binding objective", "option", "crossover", "dispersion", "what if", "roofline", "verification",
    "routing",
)  # fmt: skip

UNFIT_FOR_A_COMMIT = re.compile(
    r"pypi\.org|pythonhosted\.org|registry\.npmjs|deb\.debian\.org"
    r"|(?:^|[^A-Za-z0-9_.])/(?:work|farm)/[a-z]"
)


def tracked_files() -> list[Path]:
    """The files that are, or are about to be, in a commit."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [f for name in listed.stdout.split("\0") if name and (f := ROOT / name).is_file()]


def test_page_of_commands_is_current() -> None:
    """``docs/commands.md`` is what ``make docs`` writes: every command with every option."""
    written = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert written == page(), "run `make docs`"
    for name, facts in commands().items():
        section = written.partition(f"## headroom {name}\n")[2].partition("\n## ")[0]
        for option in facts["options"]:
            assert all(flag in section for flag in option["flags"]), (name, option)


def test_every_command_has_an_example_that_parses() -> None:
    """A command shows at least one use of itself, and click accepts each as it stands."""
    for name, facts in commands().items():
        examples = facts["examples"]
        assert name in {example["command"] for example in examples}, f"{name} has no example"
        assert [e for e in examples if e["error"] or e["command"] not in commands()] == []


def test_every_option_is_explained() -> None:
    """A command and each of its options say what they are for, and no help shows a raw escape."""
    for name, facts in commands().items():
        assert facts["help"], name
        assert "\\b" not in facts["help"] + facts["epilog"], name
        assert [o["flags"] for o in facts["options"] if not o["help"]] == [], name


@pytest.mark.parametrize("module", sorted(MODULES))
def test_public_names_exist_and_are_documented(module: str) -> None:
    """What a module exports is there; its functions and classes have docstrings, as it has one."""
    tree = MODULES[module]
    assert ast.get_docstring(tree)
    exported = _exported(tree)
    if exported is None:
        assert not _defined(tree), f"{module} has no __all__"
        return
    defined = _defined(tree) | _imported(tree)
    assert [name for name in exported if name not in defined] == []
    undocumented = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and node.name in exported
        and not ast.get_docstring(node)
    ]
    assert undocumented == []


def _exported(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and _targets(node) == {"__all__"}:
            return list(ast.literal_eval(node.value))
    return None


def _defined(tree: ast.Module) -> set[str]:
    """Names that a module's top level makes, dunders aside."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= _targets(node)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return {name for name in names if not name.startswith("__")}


def _targets(node: ast.Assign) -> set[str]:
    return {n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)}


def _imported(tree: ast.Module) -> set[str]:
    return {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }


@pytest.mark.parametrize("term", TERMS)
def test_nomenclature_defines(term: str) -> None:
    """Each of the field's words stands in bold, so is defined, exactly once."""
    bold = [
        word for words in re.findall(r"\*\*([^*]+)\*\*", NOMENCLATURE) for word in words.split(", ")
    ]
    assert [w for w in bold if w.partition(" (")[0] == term] == [term]


def test_nomenclature_knows_the_values_of_records() -> None:
    """The words that records may hold are words of the nomenclature."""
    for alias in (records.Status, records.TokenSource, records.LoadKind, records.Label):
        for value in get_args(alias):
            assert value in NOMENCLATURE, value


def test_nomenclature_names_figures_that_can_be_asked_for() -> None:
    """An objective that the nomenclature writes can be read by the command line."""
    objectives = re.findall(r"`([a-z0-9_]+<=[^`]+)`", NOMENCLATURE)
    assert objectives
    assert all(parse_slo(text).bound > 0 for text in objectives)


def test_nomenclature_formulas_name_fields_of_a_request() -> None:
    """Every `..._s` name in a formula of one request is a field of its record."""
    section = NOMENCLATURE.partition("## Latency of one request")[2].partition("\n## ")[0]
    used = set(re.findall(r"\b[a-z]+(?:_[a-z]+)*_s\b", section))
    assert used
    assert used <= {field.name for field in msgspec.structs.fields(records.RequestRecord)}


def test_error_tree_is_drawn() -> None:
    """Every error class stands in the drawing of the tree, under its parent, with its exit code."""
    drawing = (errors.__doc__ or "").splitlines()
    for name in errors.__all__:
        error = getattr(errors, name)
        if error is errors.HeadroomError:
            continue
        line = next(i for i, text in enumerate(drawing) if f"── {name} " in text)
        end = next(text for text in drawing[line:] if "exit " in text)
        assert f"exit {error.exit_code}" in end, name
        depth = drawing[line].index("──")
        above = [t for t in drawing[:line] if re.search(r"\w", t) and _depth(t) < depth]
        assert error.__base__.__name__ in above[-1], name


def _depth(line: str) -> int:
    """How far in the name of a class stands; what is no class stands nowhere."""
    match = re.search(r"\b[A-Z]\w*Error\b|\bRefused\b", line)
    return match.start() - 3 if match else len(line) + 1


def test_links_resolve() -> None:
    """Every relative link in a Markdown file leads to a file, and to a heading where it says so."""
    broken = []
    for file in (f for f in tracked_files() if f.suffix == ".md"):
        for link in re.findall(r"\]\(([^)\s]+)\)", file.read_text(encoding="utf-8")):
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = link.partition("#")
            target = (file.parent / path).resolve() if path else file
            if not target.exists() or (anchor and anchor not in _anchors(target)):
                broken.append(f"{file.relative_to(ROOT)}: {link}")
    assert broken == []


def _anchors(file: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_no_file_names_a_registry_or_a_place_of_one_machine() -> None:
    """Nothing that is committed depends on where it was written."""
    found = []
    for file in tracked_files():
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # a binary file
        found += [
            f"{file.relative_to(ROOT)}:{number}"
            for number, line in enumerate(lines, 1)
            if UNFIT_FOR_A_COMMIT.search(line) or str(ROOT) in line
        ]
    assert found == []


def test_performance_page_says_how_each_figure_was_measured() -> None:
    """Every section with a table of figures names the command that measures them again."""
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    sections = [part for part in text.split("\n## ")[1:] if re.search(r"^\|", part, re.MULTILINE)]
    command = re.compile(r"\bheadroom -?-?\w|\bpython (-m )?benchmarks")
    assert sections
    assert [part.splitlines()[0] for part in sections if not command.search(part)] == []


def test_version_of_the_changelog() -> None:
    """The changelog has an entry for the version that the code says it is."""
    version = importlib.import_module("planner").__version__
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
