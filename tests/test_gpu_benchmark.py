"""benchmarks/gpu.py, and its drivers of other packages with packages that only pretend."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pypty.backend.array import select

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

FAKE_PYPTY = """
import json, numpy as np, pathlib
def loss_and_direction(*arguments, **named):
    return 1.0
def run(params):
    assert params["dataset"].shape[1:] == params["probe"].shape[:2]
    assert params["obj"].shape[2:] == (params["num_slices"], 1)
    assert len(params["positions"]) == len(params["dataset"])
    for epoch in range(params["epoch_max"]):
        loss_and_direction(params["obj"])
"""


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    return gpu


@pytest.fixture
def tiny(benchmark: ModuleType) -> Any:
    return benchmark.Workload("tiny", 3, 64, 2, 2)


def test_every_executor_passes_its_check(device: None, benchmark: ModuleType) -> None:
    works = [work for work in benchmark.CHECKS if work.window <= 96][:2]
    rows = benchmark.check(benchmark.EXECUTORS, select("gpu", "single"), works)
    assert len(rows) == 2 * len(benchmark.EXECUTORS)
    assert all(row["good"] for row in rows)


def test_what_is_not_a_number_is_not_good(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it stands behind a good loss."""
    right = {"loss": np.array(2.0), "obj": np.ones(3)}
    for found, good in ((right, True), ({**right, "obj": np.full(3, np.nan)}, False)):
        of_executor = {"stages": right, "split": found}
        monkeypatch.setattr(benchmark, "evaluate", lambda name, *_, given=of_executor: given[name])
        (row,) = benchmark.check(("split",), select("cpu", "single"), benchmark.CHECKS[:1])
        assert row["good"] is good


def test_launched_batches_are_not_replayed(emulated: ModuleType, benchmark: ModuleType, tiny: Any) -> None:
    for graphs in (False, True):
        with emulated.counted() as found:
            benchmark.pass_time("split", tiny, benchmark.Device(), 0.1, 2, graphs)
        assert (found.graph_launches > 0) is graphs


def test_passes(
    emulated: ModuleType, benchmark: ModuleType, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a small device, since a pass takes what memory there is."""
    monkeypatch.setattr(benchmark, "WORKLOADS", (tiny,))
    monkeypatch.setattr(benchmark, "SMALL_BATCHES", (2,))
    emulated.forget_kept_memory()
    with emulated.settings(memory=2**28):
        rows = benchmark.passes(benchmark.Device(), ("split", "fused"), 1e9, time.perf_counter() + 20)
        rows += benchmark.small_batches(benchmark.Device(), 0.1)
    assert [row["executor"] for row in rows] == ["split", "fused", "split, launched", "split, replayed"]
    assert all(math.isfinite(row["s/pass"]) and row["s/pass"] > 0 for row in rows)


def peer(benchmark: ModuleType, tiny: Any, name: str, python: str = sys.executable) -> dict[str, Any]:
    rows = benchmark.peer_rows([name], python, (tiny,), benchmark.peer_workload, time.perf_counter() + 60)
    assert len(rows) == 1 and rows[0]["workload"] == "tiny"
    return dict(rows[0])


def test_a_peer_that_is_a_command(benchmark: ModuleType, tiny: Any) -> None:
    found = peer(benchmark, tiny, "other=ls $WORKLOAD; echo it took 3.5")
    assert found["s/pass"] == 3.5 and found["executor"] == "other"
    assert "ValueError" in peer(benchmark, tiny, "other=echo nothing")["failed"]


def test_a_peer_that_is_not_installed(benchmark: ModuleType, tiny: Any) -> None:
    assert "No such file" in peer(benchmark, tiny, "pypty", "/no/python")["failed"]
    bare = Path(sys.base_prefix) / "bin" / "python3"
    if bare.exists():
        assert "not importable" in peer(benchmark, tiny, "ptyrad", str(bare))["failed"]


def test_this_package_is_not_its_own_peer(benchmark: ModuleType, tiny: Any) -> None:
    found = peer(benchmark, tiny, "pypty")
    assert "not PyPty 2.2" in found["failed"] or "not importable" in found["failed"]


def test_the_driver_of_pypty(
    benchmark: ModuleType, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls of its loss are timed from outside, the first one is left out."""
    import gpu_peers

    pretended = ModuleType("pypty")
    pretended.iterative = ModuleType("pypty.iterative")  # type: ignore[attr-defined]
    exec(FAKE_PYPTY, pretended.iterative.__dict__)
    monkeypatch.setitem(sys.modules, "pypty", pretended)
    monkeypatch.setitem(sys.modules, "pypty.iterative", pretended.iterative)
    smaller, variables, data = benchmark.peer_workload(tiny)
    gpu_peers.write_workload(smaller, variables, data, tmp_path)
    found = gpu_peers.drive_pypty(tmp_path, "cpu")
    assert 0 <= found["s"] < 1 and found["version"].startswith("pypty")
