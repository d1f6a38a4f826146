"""The source as data: every module's syntax tree and what it imports, without running any of it."""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGES = ("planner", "loadtests", "dashboards")

DYNAMIC = {"import_module", ".import_module", "__import__"}

When = Literal["load", "call", "typing"]
"""``load``: while its module loads; ``call``: inside a function; ``typing``: never at run time."""


@dataclass(frozen=True, kw_only=True)
class Import:
    """One import of one module by another."""

    importer: str
    imported: str  # a module, as far as it is known; else the name as written
    line: int
    when: When

    @property
    def root(self) -> str:
        """The top-level package that is imported."""
        return self.imported.partition(".")[0]


def parse_modules(root: Path) -> dict[str, ast.Module]:
    """The syntax tree of every module of the project under ``root``, by dotted name."""
    files = [root / "headroom.py", *(f for p in PACKAGES for f in sorted((root / p).rglob("*.py")))]
    trees = {}
    for file in files:
        parts = file.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        trees[name] = _parse(file.read_text(encoding="utf-8"), str(file))
    return trees


@functools.lru_cache(maxsize=1024)
def _parse(text: str, name: str) -> ast.Module:
    """Trees are only read, so the tree of an unchanged file serves again."""
    return ast.parse(text, name)


def imports_of(root: Path) -> list[Import]:
    """Every import in the project, wherever in a module it stands."""
    trees = parse_modules(root)
    known = frozenset(trees)
    return [found for name, tree in trees.items() for found in _imports_in(name, tree, known)]


@functools.lru_cache(maxsize=1024)
def calls_of(tree: ast.Module) -> tuple[tuple[str, int], ...]:
    """What a module calls, with its line: ``open`` for ``open()``, ``.open`` for a method."""
    return tuple((_called(n), n.lineno) for n in ast.walk(tree) if isinstance(n, ast.Call))


@functools.lru_cache(maxsize=1024)
def _imports_in(name: str, tree: ast.Module, known: frozenset[str]) -> tuple[Import, ...]:
    is_package = any(other.startswith(f"{name}.") for other in known) or name in PACKAGES
    return tuple(
        Import(importer=name, imported=imported, line=getattr(node, "lineno", 0), when=when)
        for node, when in _statements(tree, "load")
        for imported in _names(node, name, is_package, known)
    )


def _statements(node: ast.AST, when: When) -> Iterator[tuple[ast.AST, When]]:
    """All nodes below one, each with when it runs."""
    for child in ast.iter_child_nodes(node):
        inner = when
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            inner = "call" if when == "load" else when
        elif isinstance(child, ast.If) and _is_type_checking(child.test):
            for statement in child.body:
                yield statement, "typing"
                yield from _statements(statement, "typing")
            for statement in child.orelse:
                yield statement, when
                yield from _statements(statement, when)
            continue
        yield child, when
        yield from _statements(child, inner)


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _names(node: ast.AST, importer: str, is_package: bool, known: frozenset[str]) -> Iterator[str]:
    """What one node imports; a name that is no literal is given as ``?``."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parts = importer.split(".")
            above = parts[: len(parts) - node.level + is_package]
            base = ".".join([*above, *([base] if base else [])])
        for alias in node.names:
            full = f"{base}.{alias.name}"
            yield full if full in known else base
    elif isinstance(node, ast.Call) and _called(node) in DYNAMIC:
        first = node.args[0] if node.args else None
        yield str(first.value) if isinstance(first, ast.Constant) else "?"


def _called(node: ast.Call) -> str:
    """The name that is called; a method's begins with a dot."""
    if isinstance(node.func, ast.Name):
        return node.func.id
    return f".{node.func.attr}" if isinstance(node.func, ast.Attribute) else ""
