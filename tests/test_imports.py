"""Imports in the middle of a computation keep nothing of it."""

from __future__ import annotations

import gc
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

from pypty.backend.imports import imported

KEEPS_ITS_ERROR = """
try:
    import a_module_that_is_nowhere
except ImportError as error:
    KEPT = error
"""


def test_errors_that_a_module_keeps_hold_no_arrays_of_its_importer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keeps_its_error.py").write_text(KEEPS_ITS_ERROR)
    monkeypatch.syspath_prepend(tmp_path)

    def computation() -> weakref.ref[np.ndarray]:
        array = np.ones(10)
        assert isinstance(imported("keeps_its_error").KEPT, ImportError)
        assert imported("keeps_its_error") is sys.modules["keeps_its_error"]
        return weakref.ref(array)

    there = computation()
    gc.collect()
    assert there() is None
    del sys.modules["keeps_its_error"]


def test_a_module_that_is_missing() -> None:
    with pytest.raises(ImportError, match="a_module_that_is_nowhere"):
        imported("a_module_that_is_nowhere")
