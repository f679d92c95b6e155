"""PtyRAD's own example parameter sets run, on small simulated scans (whole ones: benchmarks/ptyrad_examples.py)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "ptyrad_examples.py"


@pytest.fixture(scope="module")
def examples() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ptyrad_examples", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["ptyrad_examples"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "scan", "iterations", "correlation"), [("tBL_WSe2", 8, 8, 0.8), ("PSO", 5, 2, 0.6)]
)
def test_example_of_ptyrad(
    examples: ModuleType, name: str, scan: int, iterations: int, correlation: float, tmp_path: Path
) -> None:
    """Every key has a counterpart, the loss falls, and the picture is that of the specimen."""
    found = examples.run(name, tmp_path, iterations, scan)
    assert "Without counterpart" not in found["report"]
    assert (np.diff(found["loss"][:iterations]) < 0).all()
    assert found["correlation"] > correlation
