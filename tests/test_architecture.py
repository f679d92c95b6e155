"""The house rules: which way imports run, where libraries may be used, what may not be in a module."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from imported_modules import Imports

import pypty

PACKAGE = Path(pypty.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

_BELOW_ENGINE = {
    *("backend", "optics", "params", "data", "model", "objective", "constraints", "optimize", "output"),
}
_WITH_EXPERIMENT = {"experiment", "direct_methods", "data", "optics", "params", "output"}
# What each room may import from (docs/architecture.md). Every room may use itself and errors; a room with rooms in it
# stands for all of them, unless they are listed.
ALLOWED = {
    "errors": set(),
    "backend": set(),
    "optics": {"backend"},
    "params": set(),
    "params/schema": {"params"},
    "params/checks": {"params", "params/schema"},
    "data": {"backend", "optics", "params"},
    "model": {"backend", "optics", "data"},
    "objective": {"backend", "optics", "data", "model", "_moved"},
    "constraints": {"backend", "optics", "model"},
    "optimize": {"backend"},
    "output": {"backend", "optics", "params", "model"},
    # A reconstruction: what it needs, its epochs, what it leaves while it goes on.
    "engine/setup": _BELOW_ENGINE | {"ranks"},
    "engine/epochs": _BELOW_ENGINE | {"engine/setup"},
    # Several processes: their messages, and what they compute of a reconstruction.
    "ranks": {"backend"},
    "engine/ranks": _BELOW_ENGINE | {"engine/setup", "engine/epochs", "ranks"},
    "engine/record": _BELOW_ENGINE | {"engine/setup", "engine/epochs"},
    "resources": set(),
    # From an experiment to a good start.
    "experiment": {"backend", "optics", "params", "data"},
    "readers": {"data", "optics", "params"},
    "direct_methods/numerics": {"backend", "optics"},
    "direct_methods": _WITH_EXPERIMENT | {"plots"},
    "nexus": {"params", "output", "optics", "model", "data"},
    "importers": {"params", "output", "results", "optics", "model", "data", "readers"},
    "initialize": _WITH_EXPERIMENT | {"readers"},
    "calibrate": {"backend", "experiment", "direct_methods", "engine", "optics", "params", "data", "plots"},
    "preflight": {
        "backend",
        "calibrate",
        "data",
        "engine",
        "model",
        "optics",
        "output",
        "params",
        "plots",
        "_version",
    },
    "tune": {"backend", "engine", "importers", "model", "optics", "output", "params", "plots", "_version"},
    # How right a result is.
    "trust": _BELOW_ENGINE | {"engine"},
    # The user's edge: imported by nobody below it.
    "results": {
        *("backend", "data", "engine", "model", "optics", "output", "params", "plots", "trust", "_version"),
    },
    "iterative": {
        *("data", "engine", "importers", "model", "output", "params", "ranks", "refits", "results"),
        *("trust", "_moved", "_version"),
    },
    # Other fits of the same measurement.
    "refits": _BELOW_ENGINE | {"engine", "importers", "output", "plots", "results", "trust"},
    "assessment": {"engine", "refits", "results", "trust"},
    "report_page": {
        *(
            "assessment",
            "engine",
            "iterative",
            "output",
            "params",
            "plots",
            "preflight",
            "refits",
            "results",
            "trust",
            "_version",
        ),
    },
    "compat": set(),
    "compat/utils": {
        *(
            "backend",
            "constraints",
            "data",
            "engine",
            "experiment",
            "initialize",
            "model",
            "nexus",
            "objective",
        ),
        *("optics", "output", "params", "_moved"),
    },
    "compat/vaa": {"backend", "data", "experiment", "optics", "output", "params", "plots"},
    "compat/se": {"backend", "data", "direct_methods", "experiment", "optics", "output", "params", "plots"},
    # Public names of what lives in a room.
    "dpc": {"direct_methods"},
    "tcbf": {"direct_methods"},
    "direct": {"direct_methods"},
    "utils": {"compat"},
    "vaa": {"compat"},
    "se": {"compat"},
    "_moved": set(),
    "fft": {"_moved"},
    "multislice_core": {"_moved"},
    "quality": set(),
    "plots": set(),
    "demo": {"data", "iterative", "params", "plots", "quality", "results"},
    "doctor": {"backend", "engine", "ranks", "_version"},
    "supervise": {"engine", "output", "ranks"},
    "cli": {
        "assessment",
        "refits",
        "report_page",
        "demo",
        "doctor",
        "engine",
        "importers",
        "iterative",
        "output",
        "params",
        "preflight",
        "ranks",
        "readers",
        "supervise",
        "tune",
    }
    | {"_version"},
    "__main__": {"cli"},
    "_version": set(),
    "__init__": {
        *(
            "_moved",
            "_version",
            "assessment",
            "iterative",
            "output",
            "params",
            "preflight",
            "refits",
            "report_page",
        ),
        "results",
    },
}
ONLY_IN = {
    "cupy": {"backend"},
    "cupyx": {"backend"},
    "matplotlib": {"plots", "refits", "results"},  # the last two: for type hints only
    "h5py": {
        "data",
        "engine",
        "output",
        "results",
        "demo",
        "readers",
        "nexus",
        "importers",
        "initialize",
        "compat",
    },
    "tqdm": {"engine"},
    "simpleeval": {"params"},
    "optuna": {"tune"},
}


def room_of(path: Path) -> str:
    return room_named(list(path.relative_to(PACKAGE).with_suffix("").parts))


def room_named(parts: list[str]) -> str:
    """The innermost room of the table that these names lead to."""
    return "/".join(parts[:2]) if "/".join(parts[:2]) in ALLOWED else parts[0]


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
            target = room_named(parts[1:]) if len(parts) > 1 else "pypty"
            allowed = ALLOWED[room] | {room, "errors"}
            assert {target, target.split("/")[0]} & allowed, f"{path.name}: {room} must not import {name}"
        elif parts[0] in ONLY_IN:
            assert room.split("/")[0] in ONLY_IN[parts[0]], f"{path.name}: {parts[0]} is used in {room}"


def test_every_room_is_in_the_table() -> None:
    rooms = {room_of(path) for path in FILES} - {"presets"}  # data; inside the package when it is installed
    assert rooms | {"engine"} == set(ALLOWED) | {"engine"}


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
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if isinstance(node.body[0], ast.Expr) and len(node.body) > 1 else node.body
            assert node.end_lineno - body[0].lineno + 1 <= 60, f"{node.name} is too long"


def positional_fields(node: ast.ClassDef) -> list[str]:
    """Fields of a dataclass or named tuple that its constructor takes by position, without those of its base."""
    decorators = [ast.unparse(item) for item in node.decorator_list]
    data = [text for text in decorators if text.startswith(("dataclass", "dataclasses.dataclass"))]
    if any("kw_only=True" in text for text in data):
        return []
    if not data and not any(ast.unparse(base).endswith("NamedTuple") for base in node.bases):
        return []
    fields = []
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            kind = ast.unparse(item.annotation)
            if kind.endswith("KW_ONLY"):
                break
            fields += [item.target.id] * ("ClassVar" not in kind)
    return fields


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_many_fields_are_given_by_name(path: Path) -> None:
    """Two of many values of the same type change places unnoticed where they are given by position."""
    classes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    own = {node.name: positional_fields(node) for node in classes}
    for node in classes:
        inherited = [name for base in node.bases for name in own.get(ast.unparse(base), [])]
        found = [*inherited, *own[node.name]]
        assert len(found) <= 5, f"{node.name} takes {len(found)} fields by position; make it kw_only"


def test_every_subpackage_is_installed() -> None:
    """setup.cfg lists packages by hand (presets live beside the package), so nothing may be missing."""
    config = Path(__file__).parents[1] / "setup.cfg"
    listed = {line.strip() for line in config.read_text().splitlines() if line.strip().startswith("pypty")}
    folders = {path.parent for path in FILES}
    names = {".".join(("pypty", *folder.relative_to(PACKAGE).parts)) for folder in folders}
    assert names - listed == set()


def test_every_module_is_imported_by_a_test() -> None:
    """By its own name, or by a public one that leads to it; packages that hold nothing but their text are left out."""
    known = Imports()
    found: set[str] = set()
    for path in Path(__file__).parent.rglob("test_*.py"):
        found |= known.of_test(path)
    empty = {name for name, path in known.files.items() if len(ast.parse(path.read_text()).body) == 1}
    assert sorted(set(known.files) - found - empty) == []


def test_public_names_lead_to_their_modules(tmp_path: Path) -> None:
    """A name of a package counts for the module that it comes from, one that only another module uses does not."""
    test = tmp_path / "test_x.py"
    test.write_text(
        "import pypty\nfrom pypty import se\nfrom pypty.calibrate import disk\nfrom pypty.plots.modes import shown\n"
        "def test_x():\n    pypty.utils.get_ctf(1)\n    se.warp_image(2)\n    pypty.run({})\n"
    )
    assert Imports().of_test(test) == {
        "pypty",
        "pypty.utils",
        "pypty.compat.utils",
        "pypty.compat.utils.spectra",
        "pypty.se",
        "pypty.compat.se",
        "pypty.compat.se.warping",
        "pypty.calibrate",
        "pypty.calibrate.disk",
        "pypty.plots.modes",
        "pypty.iterative",
    }
