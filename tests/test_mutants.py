"""The count of small faults that the tests see (benchmarks/mutants.py): what it changes, and what it leaves alone."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "mutants.py"
SOURCE = '''"""A module in Å."""

from __future__ import annotations

__all__ = ["f", "g"]
_DPI = 150


def f(ky: float, kx: float = 2.0) -> tuple[float, int]:
    """A text of 3 lines."""
    if ky < 0:
        raise ValueError(f"ky is {ky}, expected 1 or more")
    return g(ky, kx), 3


def g(a: float, b: float, label: str = "kx / mrad", fontsize: int = 8) -> float:
    _log.info("a of %d", 3)
    draw(label="x / Å", fontsize=7, parts=(a, b))
    return a - b if not a > b else -a
'''


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutants", BENCHMARK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutants"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def found(benchmark: ModuleType, tmp_path: Path) -> list[Any]:
    (tmp_path / "m.py").write_text(SOURCE, encoding="utf-8")
    return benchmark.mutants_of(tmp_path / "m.py", tmp_path)


def test_each_kind_of_change_is_made_once_for_each_place(found: list[Any]) -> None:
    changes = {(one.kind, one.line, one.before, one.after) for one in found}
    assert len(changes) == len(found)
    assert changes == {
        ("number", 9, "2.0", "4.0"),
        ("arguments", 13, "g(ky, kx)", "(g(kx, ky))"),
        ("elements", 13, "g(ky, kx), 3", "((3, g(ky, kx)))"),
        ("number", 13, "3", "4"),
        ("unit", 16, '"kx / mrad"', "'kx / cm'"),
        ("number", 16, "8", "9"),
        ("unit", 18, '"x / Å"', "'x / cm'"),
        ("elements", 18, "(a, b)", "((b, a))"),
        ("operator", 19, "a - b", "(a + b)"),
        ("sign", 19, "not a > b", "(a > b)"),
        ("comparison", 19, "a > b", "(a < b)"),
        ("sign", 19, "-a", "(a)"),
    }


def test_a_mutant_is_one_change_and_knows_its_function(benchmark: ModuleType, found: list[Any]) -> None:
    for one in found:
        changed = benchmark.changed_source(SOURCE.encode(), one).decode()
        assert len(changed) - len(SOURCE) == len(one.after) - len(one.before)
        assert one.function == {13: 9, 18: 16, 19: 16}.get(one.line), "defaults belong to the file"


def test_a_mutant_meets_the_quickest_tests_that_call_its_function(
    benchmark: ModuleType, found: list[Any]
) -> None:
    calls = {
        "slow": [30.0, ["m.py:16"]],
        "other": [0.1, ["m.py:9", "n.py:16"]],
        "quick": [1.0, ["m.py:16"]],
        "middle": [5.0, ["m.py:16", "m.py:9"]],
    }
    inside = next(one for one in found if one.line == 19)
    assert benchmark.tests_for(inside, calls, 10.0) == (20 + 5 * 6.0, ["quick", "middle"])
    assert benchmark.tests_for(inside, {"slow": calls["slow"]}, 10.0)[1] == ["slow"], "one at least"
    default = next(one for one in found if one.line == 9)
    assert benchmark.tests_for(default, calls, 10.0)[1] == ["other", "quick", "middle"]


def test_the_sample_is_the_same_for_the_same_seed(benchmark: ModuleType, tmp_path: Path) -> None:
    room = tmp_path / "pypty" / "room"
    room.mkdir(parents=True)
    (room / "m.py").write_text(SOURCE, encoding="utf-8")
    first, again = (benchmark.sample(["room"], 7, 3, tmp_path) for _ in range(2))
    assert first == again and len({one.kind for one in first}) == 7, "one of each kind"
    assert benchmark.sample(["room"], 3, 3, tmp_path) == first[:3]
    assert len(benchmark.sample(["room"], 100, 3, tmp_path)) == 12
    table = benchmark.table(first, ["killed"] * 6 + ["survived"])
    assert table.splitlines()[-1] == "| all | 7 | 6 (86 %) | 1 |"
