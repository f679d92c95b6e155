"""Which modules of the package the tests import: by their own name, or by a public name that leads to them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pypty

PACKAGE = Path(pypty.__file__).parent
DOORS = {"dpc", "tcbf", "direct", "utils", "se", "vaa"}
"""Modules that give a room its public name."""


def module_name(path: Path) -> str:
    parts = ("pypty", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class Imports:
    """Modules by name, and where the names that a package gives come from."""

    def __init__(self) -> None:
        self.files = {module_name(path): path for path in PACKAGE.rglob("*.py")}
        self.given: dict[str, dict[str, str]] = {}
        for name, path in self.files.items():
            if path.name == "__init__.py" or name.removeprefix("pypty.") in DOORS:
                self.given[name] = self._passed_on(ast.parse(path.read_text(encoding="utf-8")))
        self.given["pypty"].update(pypty._WHERE)

    def _passed_on(self, tree: ast.Module) -> dict[str, str]:
        """{name: module it is from}; "*" stands for all of a module."""
        return {
            alias.asname or alias.name: str(node.module)
            for node in tree.body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }

    def leads_to(self, module: str, name: str) -> Iterator[str]:
        """Modules that ``from module import name`` stands for, through doors and packages."""
        while module in self.files:
            yield module
            if f"{module}.{name}" in self.files:
                yield f"{module}.{name}"
            passed_on = self.given.get(module, {})
            module = passed_on.get(name, passed_on.get("*", ""))

    def of_test(self, path: Path) -> set[str]:
        """Modules that a test file imports, or uses by a public name such as ``pypty.utils.get_ctf``."""
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found: set[str] = set()
        bound = {"pypty": "pypty"}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names} & set(self.files)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pypty"):
                for alias in node.names:
                    found |= set(self.leads_to(str(node.module), alias.name))
                    bound[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and (owner := _dotted(node.value, bound)) in self.files:
                found |= set(self.leads_to(owner, node.attr))
        return found


def _dotted(node: ast.expr, bound: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return bound.get(node.id, "")
    return f"{_dotted(node.value, bound)}.{node.attr}" if isinstance(node, ast.Attribute) else ""
