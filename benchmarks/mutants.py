"""How many small faults the tests see: single changes of the source, and the tests that go through the changed lines.

    python benchmarks/mutants.py
    python benchmarks/mutants.py --room plots --room nexus --sample 40 --seed 1
    python benchmarks/mutants.py --again survivors.json

A mutant is one change in one place: an operator exchanged, a number n made n + 1 or 2 n, two elements or two arguments
exchanged, a sign or a ``not`` left out, a unit that is another one. It works on a copy of the tree. First the tests of
the files that import a module of the rooms run once, and which functions each test calls is kept; a mutant then meets
the tests that call the function it is in (of a constant: those that call anything in the file), the quickest first, up
to ``--seconds`` of them. Tests marked slow are left out. Not changed: texts, messages and logs, types, looks of
figures (colours, widths, sizes of letters), guards against a division by zero.

It prints how many were seen in each room, and those that were not. No GPU is needed; it needs ``os.fork``.
"""

from __future__ import annotations

import argparse
import ast
import collections
import itertools
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("plots", "readers", "importers", "nexus", "calibrate")
CALLS = "calls.json"
EXCHANGED: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.Lt: ast.Gt, ast.Gt: ast.Lt, ast.LtE: ast.GtE, ast.GtE: ast.LtE,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot,
    ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
UNIT = re.compile(r"(?<![\w'’])(Å|mrad|rad|nm|angstrom|px|pixel|counts|eV|deg|kV|m|s|%)(?![\w])")
LOOKS = frozenset(
    """
    fontsize title_fontsize labelsize linewidth linewidths markersize markeredgewidth alpha color colors
    facecolor edgecolor edgecolors markerfacecolor markeredgecolor labelcolor dpi figsize fraction pad
    shrink layout cmap zorder ncol ncols bbox_to_anchor rwidth s padding fontproperties arrowprops xytext
    levels loc width frameon strict encoding compression compression_opts shuffle stacklevel rcond rtol
    atol help metavar max_nfev maxiter xtol ftol gtol colour size minor_thresholds
    """.split()  # noqa: SIM905
)
LOOKS_OF = {"grid", "tick_params", "set_bbox", "inset_axes", "MaxNLocator", "set_fontsize", "legend", "_new"}
SYMMETRIC = {
    "max",
    "min",
    "maximum",
    "minimum",
    "hypot",
    "isinstance",
    "allclose",
    "array_equal",
    "NotebookFigure",
}
TINY = 1e-8


@dataclass(frozen=True)
class Mutant:
    """``after`` in place of the bytes start to stop of a file; ``function``: first line of the innermost function."""

    kind: str
    path: str
    line: int
    start: int
    stop: int
    before: str
    after: str
    function: int | None


class Finder(ast.NodeVisitor):
    """All mutants of one file."""

    def __init__(self, path: str, text: str) -> None:
        self.path, self.source, self.found = path, text.encode(), []
        self.offsets = [0]
        for row in self.source.splitlines(keepends=True):
            self.offsets.append(self.offsets[-1] + len(row))
        self.functions: list[int] = []
        self.visit(ast.parse(text))

    def offer(self, kind: str, node: ast.expr, replaced: ast.expr | str) -> None:
        start = self.offsets[node.lineno - 1] + node.col_offset
        stop = self.offsets[node.end_lineno - 1] + node.end_col_offset
        after = (
            replaced if isinstance(replaced, str) else f"({ast.unparse(ast.fix_missing_locations(replaced))})"
        )
        before = self.source[start:stop].decode()
        function = self.functions[-1] if self.functions else None
        self.found.append(Mutant(kind, self.path, node.lineno, start, stop, before, after, function))

    # What is left as it is.

    def visit_Raise(self, node: ast.Raise) -> None: ...
    def visit_Assert(self, node: ast.Assert) -> None: ...
    def visit_Import(self, node: ast.Import) -> None: ...
    def visit_ImportFrom(self, node: ast.ImportFrom) -> None: ...

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None and not _is_looks(node.target):
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        if not any(_is_looks(target) for target in node.targets):
            self.visit(node.value)

    def visit_If(self, node: ast.If) -> None:
        """A condition under which something is refused is left to the tests of bad input."""
        parts = [*node.body, *node.orelse]
        if not (len(parts) == 1 and isinstance(parts[0], ast.Raise)):
            self.visit(node.test)
        for part in parts:
            self.visit(part)

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # texts of modules, classes and functions
            self.visit(node.value)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for part in node.body:
            self.visit(part)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            if default is not None:
                self.visit(default)
        self.functions.append(first)
        for part in node.body:
            self.visit(part)
        self.functions.pop()

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        for part in node.body:
            self.visit(part)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if not (
            isinstance(node.value, ast.Name)
            and node.value.id in ("Sequence", "Mapping", "tuple", "list", "dict")
        ):
            self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> None:
        for key, value in zip(node.keys, node.values, strict=True):
            if not (isinstance(key, ast.Constant) and key.value in LOOKS):
                self.visit(value)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg not in LOOKS:
            self.visit(node.value)

    # What is changed.

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = getattr(getattr(node.func, "value", None), "id", "")
        if (
            owner in ("_log", "_LOG", "ledger", "report", "warnings", "parser")
            or name.endswith(("Error", "Warning"))
            or name in LOOKS_OF
        ):
            return
        plain = [one for one in node.args if not isinstance(one, ast.Starred)]
        if len(plain) == len(node.args) >= 2 and name not in SYMMETRIC and _alike(*node.args[:2]):
            first, second, *rest = node.args
            if ast.dump(first) != ast.dump(second):
                self.offer("arguments", node, ast.Call(node.func, [second, first, *rest], node.keywords))
        if name == "isinstance":
            return
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        texts = (ast.JoinedStr, ast.List, ast.Tuple, ast.ListComp)
        sides = (node.left, node.right)
        words = any(isinstance(x, ast.Constant) and isinstance(x.value, str | bytes) for x in sides)
        if type(node.op) in EXCHANGED and not words and not any(isinstance(side, texts) for side in sides):
            self.offer("operator", node, ast.BinOp(node.left, EXCHANGED[type(node.op)](), node.right))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self.offer("operator", node, ast.BoolOp(EXCHANGED[type(node.op)](), node.values))
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        self.offer(
            "comparison",
            node,
            ast.Compare(node.left, [EXCHANGED[type(node.ops[0])](), *node.ops[1:]], node.comparators),
        )
        for side, op in zip([node.left, *node.comparators], [None, *node.ops], strict=True):
            if isinstance(side, ast.Tuple | ast.Set) and isinstance(op, ast.In | ast.NotIn):
                continue  # the order of what is looked in does not matter
            self.visit(side)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not | ast.USub):
            self.offer("sign", node, node.operand)
        if not (isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant)):
            self.generic_visit(node)

    def visit_Tuple(self, node: ast.Tuple) -> None:
        if (
            isinstance(node.ctx, ast.Load)
            and len(node.elts) >= 2
            and not isinstance(node.elts[0], ast.Starred)
        ):
            first, second, *rest = node.elts
            if ast.dump(first) != ast.dump(second) and not isinstance(second, ast.Starred):
                self.offer("elements", node, ast.Tuple([second, first, *rest], ast.Load()))
        self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Positions inside of an f-string cannot be trusted; it is changed as a whole."""
        for place, part in enumerate(node.values):
            if isinstance(part, ast.Constant) and (changed := _other_unit(part.value)):
                values = [*node.values[:place], ast.Constant(changed), *node.values[place + 1 :]]
                self.offer("unit", node, ast.JoinedStr(values))
                return

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self.offer("number", node, str(not value))
        elif isinstance(value, int):
            self.offer("number", node, str(value + 1))
        elif isinstance(value, float) and (value == 0 or abs(value) > TINY):
            self.offer("number", node, repr(2 * value or 1.0))
        elif isinstance(value, str) and (changed := _other_unit(value)):
            self.offer("unit", node, repr(changed))


def _alike(first: ast.expr, second: ast.expr) -> bool:
    """Whether two arguments may well be exchanged by mistake: not what any run would trip over."""
    if isinstance(first, ast.Constant) and isinstance(second, ast.Constant):
        return type(first.value) is type(second.value)
    never = {"axes", "figure", "self", "file", "group", "report", "ledger", "str", "int", "float", "Any"}
    return type(first) is type(second) and not {getattr(first, "id", ""), getattr(second, "id", "")} & never


def _other_unit(text: str) -> str | None:
    """The text with another unit; None where it has none (a sentence is no label)."""
    if len(text.split()) > 8 or not UNIT.search(text):
        return None
    return UNIT.sub("cm", text, count=1)


def _is_looks(target: ast.expr) -> bool:
    name = getattr(target, "id", "")
    return name in (
        "__all__",
        "_DPI",
        "_SIZE",
        "_CELL",
        "_NARROW",
        "_CHUNK",
        "_COMPRESS_FROM",
        "signed",
        "arrow",
    )


def mutants_of(path: Path, root: Path) -> list[Mutant]:
    found = Finder(str(path.relative_to(root)), path.read_text(encoding="utf-8")).found
    return [mutant for mutant in found if _compiles(path, mutant)]


def _compiles(path: Path, mutant: Mutant) -> bool:
    try:
        compile(changed_source(path.read_bytes(), mutant), str(path), "exec")
    except (SyntaxError, ValueError):
        return False
    return True


def changed_source(source: bytes, mutant: Mutant) -> bytes:
    return source[: mutant.start] + mutant.after.encode() + source[mutant.stop :]


# ------------------------------------------------------------------------------------------------------ tests


def test_files_of(room: str, root: Path) -> list[str]:
    """Test files that import something of the room, or call it by its public name at least twice."""
    doors = {"plots": r"|pypty\.vaa|import vaa|\bplot\w*\("}
    pattern = re.compile(rf"pypty\.{room}\.|from pypty import {room}\b{doors.get(room, '')}")
    found = []
    for path in sorted((root / "tests").glob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if f"from pypty.{room}" in text or len(pattern.findall(text)) > 1:
            found.append(f"tests/{path.name}")
    return found


class Recorder:
    """A plugin of pytest: which functions of the package every test calls, and how long it takes."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.calls: dict[str, Any] = {}
        self.now: set[tuple[str, int]] = set()

    def trace(self, frame: Any, event: str, _: Any) -> None:
        code = frame.f_code
        if code.co_filename.startswith(self.package):
            self.now.add((code.co_filename, code.co_firstlineno))

    def pytest_runtest_logstart(self) -> None:
        self.now.clear()
        self.began = time.perf_counter()
        threading.settrace(self.trace)
        sys.settrace(self.trace)  # it gives None: only calls are seen, no lines

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" and report.passed:
            self.calls[report.nodeid] = [0.0, []]
        if report.when == "teardown" and report.nodeid in self.calls:
            sys.settrace(None)
            seconds = time.perf_counter() - self.began
            places = sorted(f"pypty{name[len(self.package) :]}:{line}" for name, line in self.now)
            self.calls[report.nodeid] = [seconds, places]

    def pytest_sessionfinish(self) -> None:
        sys.settrace(None)
        threading.settrace(None)
        Path(CALLS).write_text(json.dumps(self.calls))


OPTIONS = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow", "--no-header", "--tb=no"]


def record(files: list[str]) -> None:
    """In the copy: run the tests once, and write what they call."""
    import pytest

    options = [option for option in OPTIONS if option != "-x"]
    pytest.main([*options, *files], plugins=[Recorder(str(Path("pypty").resolve()))])


def serve() -> None:
    """In the copy: for every line of standard input, a list of tests, their result in a fresh child of this process."""
    for heavy in (
        "numpy",
        "scipy.ndimage",
        "scipy.optimize",
        "h5py",
        "matplotlib.figure",
        "hypothesis",
        "yaml",
    ):
        __import__(heavy)
    import pytest

    sys.dont_write_bytecode = True
    for text in sys.stdin:
        seconds, tests = json.loads(text)
        child = os.fork()
        if child == 0:
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
            os._exit(int(pytest.main([*OPTIONS, *tests])))
        print(_result(child, seconds), flush=True)


def _result(child: int, seconds: float) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "survived" if os.waitstatus_to_exitcode(status) == 0 else "killed"
        time.sleep(0.02)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return "killed"  # it does not come to an end


def tests_for(mutant: Mutant, calls: dict[str, Any], seconds: float) -> tuple[float, list[str]]:
    """The quickest tests that call the function, or anything of the file; and the time that they may take."""
    if mutant.function:
        called = [name for name, (_, keys) in calls.items() if f"{mutant.path}:{mutant.function}" in keys]
    else:  # a file of constants alone is used by the others of its folder
        places = (f"{mutant.path}:", mutant.path.rpartition("/")[0] + "/")
        near = (
            [name for name, (_, keys) in calls.items() if any(key.startswith(place) for key in keys)]
            for place in places
        )
        called = next(filter(None, near), [])
    chosen, total = [], 0.0
    for name in sorted(called, key=lambda one: calls[one][0]):
        took = calls[name][0]
        if not chosen or total + took < seconds:
            chosen.append(name)
            total += took
    return 20 + 5 * total, chosen


# ------------------------------------------------------------------------------------------------------- run


def calls_of(room: str, folder: Path, root: Path, environment: dict[str, str]) -> dict[str, Any]:
    """What the tests of a room call: {test: (seconds, functions)}."""
    kept = folder / f"calls-{room}.json"
    if not kept.exists():
        command = [sys.executable, str(Path(__file__).resolve()), "--record", *test_files_of(room, root)]
        subprocess.run(command, cwd=root, env=environment, check=True)
        folder.mkdir(parents=True, exist_ok=True)
        kept.write_text((root / CALLS).read_text())
    return dict(json.loads(kept.read_text()))


def copy_tree(target: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            place = target / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes((ROOT / name).read_bytes())


def sample(rooms: list[str], n: int, seed: int, root: Path) -> list[Mutant]:
    """As many of every room, and in each as many of every kind as there are; the same for the same seed and source."""
    chosen: list[Mutant] = []
    for place, room in enumerate(rooms):
        kinds = collections.defaultdict(list)
        for path in sorted((root / "pypty" / room).rglob("*.py")):
            for mutant in mutants_of(path, root):
                kinds[mutant.kind].append(mutant)
        for kind, found in kinds.items():
            random.Random(f"{seed} {room} {kind}").shuffle(found)
        wanted = n // len(rooms) + (place < n % len(rooms))
        turns = [
            m for row in itertools.zip_longest(*(kinds[kind] for kind in sorted(kinds))) for m in row if m
        ]
        chosen += turns[:wanted]
    return chosen


def run(
    mutants: list[Mutant], calls: dict[str, Any], seconds: float, root: Path, environment: dict[str, str]
) -> list[str]:
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), "--serve"],
        cwd=root, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdin is not None and server.stdout is not None
    results = []
    for number, mutant in enumerate(mutants):
        limit, tests = tests_for(mutant, calls, seconds)
        result = "survived"
        if tests:
            path = root / mutant.path
            original = path.read_bytes()
            path.write_bytes(changed_source(original, mutant))
            try:
                print(json.dumps([limit, tests]), file=server.stdin, flush=True)
                result = server.stdout.readline().strip()
            finally:
                path.write_bytes(original)
        results.append(result)
        print(f"{number + 1}/{len(mutants)} {result} ({len(tests)} tests) {describe(mutant)}", flush=True)
    server.stdin.close()
    server.wait()
    return results


def describe(mutant: Mutant) -> str:
    before, after = (" ".join(text.split())[:70] for text in (mutant.before, mutant.after))
    return f"{mutant.path}:{mutant.line}  {before}  ->  {after}"


def table(mutants: list[Mutant], results: list[str]) -> str:
    rows = ["| room | mutants | killed | survived |", "|---|---|---|---|"]
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for mutant, result in zip(mutants, results, strict=True):
        for room in (mutant.path.split("/")[1], "all"):
            counts[room][result] += 1
    for room in sorted(counts, key=lambda name: (name == "all", name)):
        killed, survived = counts[room]["killed"], counts[room]["survived"]
        rows.append(
            f"| {room} | {killed + survived} | {killed} ({100 * killed / (killed + survived):.0f} %) | {survived} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--room", action="append", help=f"folder of pypty/; default: {', '.join(ROOMS)}")
    parser.add_argument("--sample", type=int, default=200, help="mutants over all rooms")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=120, help="of tests for one mutant, at most")
    parser.add_argument(
        "--calls", type=Path, help="folder that keeps what the tests call; read if it is there"
    )
    parser.add_argument("--survivors", type=Path, help="JSON file for the mutants that were not seen")
    parser.add_argument(
        "--again", type=Path, help="only the mutants of such a file, found again by their text"
    )
    parser.add_argument("--record", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve or options.record:
        return serve() if options.serve else record(options.record)
    rooms = options.room or list(ROOMS)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        root = Path(folder)
        copy_tree(root)
        environment = {**os.environ, "PYTHONPATH": str(root)}
        calls: dict[str, Any] = {}
        for room in rooms:
            calls |= calls_of(room, options.calls or root, root, environment)
        mutants = (
            again(options.again, root) if options.again else sample(rooms, options.sample, options.seed, root)
        )
        results = run(mutants, calls, options.seconds, root, environment)
    survivors = [mutant for mutant, result in zip(mutants, results, strict=True) if result == "survived"]
    print("\n" + table(mutants, results) + "\n\nNot seen:\n" + "\n".join(map(describe, survivors)))
    if options.survivors is not None:
        options.survivors.write_text(
            json.dumps([vars(mutant) for mutant in survivors], indent=1, ensure_ascii=False)
        )


def again(path: Path, root: Path) -> list[Mutant]:
    """The mutants of a file as they are in the source of now."""
    chosen = []
    for kept in json.loads(path.read_text()):
        known = mutants_of(root / kept["path"], root)
        same = [m for m in known if (m.before, m.after) == (kept["before"], kept["after"])]
        chosen += sorted(same, key=lambda m: abs(m.line - kept["line"]))[:1]
    return chosen


if __name__ == "__main__":
    main()
