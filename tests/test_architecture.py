"""The house rules: which way imports run, where libraries may be used, what may not be in a module."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import pypty

PACKAGE = Path(pypty.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# What each room may import from (docs/architecture.md); every room may use itself and errors.
ALLOWED = {
    "errors": set(),
    "backend": set(),
    "optics": {"backend"},
    "params": set(),
    "data": {"backend", "optics", "params"},
    "model": {"backend", "optics", "data"},
    "objective": {"backend", "optics", "data", "model"},
    "constraints": {"backend", "optics", "model"},
    "optimize": {"backend"},
    "output": {"backend", "optics", "params", "model"},
    "engine": {
        "backend",
        "optics",
        "params",
        "data",
        "model",
        "objective",
        "constraints",
        "optimize",
        "output",
    },
    "resources": set(),
    # From an experiment to a good start.
    "experiment": {"backend", "optics", "params", "data"},
    "readers": {"data", "optics", "params"},
    "direct_methods": {"backend", "optics"},
    "nexus": {"params", "output", "optics", "data"},
    "importers": {"params", "output", "optics", "model", "data", "readers"},
    "initialize": {"experiment", "direct_methods", "data", "optics", "params", "output", "readers"},
    "calibrate": {"backend", "experiment", "direct_methods", "engine", "optics", "params", "data", "plots"},
    "dpc": {"experiment", "direct_methods", "data", "optics", "params", "output", "plots"},
    "tcbf": {"experiment", "direct_methods", "data", "optics", "params", "output", "plots"},
    "direct": {"experiment", "direct_methods", "data", "optics", "params", "output", "plots"},
    "checkup": {"backend", "data", "engine", "model", "optics", "output", "params", "plots", "_version"},
    "tune": {
        "backend",
        "engine",
        "importers",
        "model",
        "optics",
        "output",
        "params",
        "plots",
        "_version",
    },
    "utils": {
        "backend",
        "constraints",
        "data",
        "engine",
        "experiment",
        "initialize",
        "model",
        "nexus",
        "objective",
        "optics",
        "output",
        "params",
    },
    "vaa": {"backend", "data", "experiment", "optics", "output", "params", "plots"},
    "se": {"backend", "data", "direct", "experiment", "optics", "output", "params", "plots"},
    # The user's edge: imported by nobody below it.
    "saving": {"backend", "data", "engine", "model", "optics", "output", "params", "plots", "_version"},
    "result": {"output", "plots"},
    "iterative": {"data", "engine", "importers", "model", "output", "params", "result", "saving", "_version"},
    "quality": set(),
    "plots": set(),
    "demo": {"data", "iterative", "params", "plots", "quality", "result"},
    "doctor": {"backend", "_version"},
    "cli": {"checkup", "demo", "doctor", "importers", "iterative", "params", "readers", "tune", "_version"},
    "__main__": {"cli"},
    "_version": set(),
    "__init__": {"_version", "checkup", "iterative", "output", "params", "result"},
}
ONLY_IN = {
    "cupy": {"backend"},
    "cupyx": {"backend"},
    "matplotlib": {"plots", "result", "saving"},  # result, saving: for type hints only
    "h5py": {
        "data",
        "engine",
        "output",
        "result",
        "demo",
        "readers",
        "nexus",
        "importers",
        "initialize",
        "utils",
        "se",
    },
    "tqdm": {"engine"},
    "simpleeval": {"params"},
    "optuna": {"tune"},
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "attr", "") == "import_module"
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            found.append(str(node.args[0].value))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    room = room_of(path)
    for name in imported_modules(ast.parse(path.read_text())):
        parts = name.split(".")
        if parts[0] == "pypty":
            target = parts[1] if len(parts) > 1 else "pypty"
            assert target in ALLOWED[room] | {room, "errors"}, f"{path.name}: {room} must not import {name}"
        elif parts[0] in ONLY_IN:
            assert room in ONLY_IN[parts[0]], f"{path.name}: {parts[0]} is used in {room}"


def test_every_room_is_in_the_table() -> None:
    rooms = {room_of(path) for path in FILES} - {"presets"}  # data; inside the package when it is installed
    assert rooms == set(ALLOWED)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_mutable_state_no_eval_no_bare_except(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            mutable = isinstance(
                node.value, (ast.Dict, ast.List, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
            )
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            assert not mutable or getattr(target, "id", "") == "__all__", (
                f"module-level mutable at line {node.lineno}"
            )
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Global), f"global statement at line {node.lineno}"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"bare except at line {node.lineno}"
        if isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else ""
            assert called not in {"eval", "exec", "print"}, f"{called}() at line {node.lineno}"
            owner = getattr(getattr(node.func, "value", None), "id", "")
            attribute = getattr(node.func, "attr", "")
            assert (owner, attribute) not in {("pickle", "load"), ("pickle", "loads")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_stay_readable(path: Path) -> None:
    text = path.read_text()
    if path.name != "schema.py":  # one long table
        assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if isinstance(node.body[0], ast.Expr) and len(node.body) > 1 else node.body
            assert node.end_lineno - body[0].lineno + 1 <= 60, f"{node.name} is too long"


def test_every_subpackage_is_installed() -> None:
    """setup.cfg lists packages by hand (presets live beside the package), so nothing may be missing."""
    config = Path(__file__).parents[1] / "setup.cfg"
    listed = {line.strip() for line in config.read_text().splitlines() if line.strip().startswith("pypty")}
    folders = {path.parent for path in FILES}
    names = {".".join(("pypty", *folder.relative_to(PACKAGE).parts)) for folder in folders}
    assert names - listed == set()
