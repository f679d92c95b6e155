"""Reconstructions in several parts, and what has to be identical to that of one part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import pypty
from pypty.model.blocks import BLOCKS
from pypty.results.result import Result

EXACT = (*BLOCKS, "start_positions", "loss", "sse", "epochs")


def assert_identical(one: Result, other: Result) -> None:
    """The same bits, decisions and warnings."""
    for name in EXACT:
        a, b = getattr(one, name), getattr(other, name)
        if a is None or b is None:
            assert a is b is None, name
            continue
        assert a.shape == b.shape and a.dtype == b.dtype, name
        assert a.tobytes() == b.tobytes(), f"{name} differs by {np.abs(a - b).max()}"
    assert one.decisions == other.decisions
    assert one.warnings == other.warnings


def in_parts(params: dict[str, Any], folder: Path, *stops: int) -> Result:
    """Run until each of the epochs ``stops`` in turn, every time from resume.h5."""
    result: Result | None = None
    for stop in stops:
        changes = {
            "output_folder": str(folder),
            "epoch_max": stop,
            "resume": "auto" if result is None else True,
        }
        result = pypty.run({**params, **changes})
    assert result is not None
    return result
