"""verdict.h5: the verdict of a run in its folder, which holds as long as arrays and parameters stay."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import h5py

from pypty.model.blocks import BLOCKS
from pypty.output.checkpoints import VERDICT_FILE
from pypty.output.files import atomic
from pypty.output.settings_file import NAME
from pypty.params.files import not_a_file
from pypty.results.model_file import arrays_below
from pypty.trust.verdict import NOT_TESTED, Verdict

_log = logging.getLogger(__name__)
_READ_BYTES = 2**24
_DAMAGED = (OSError, RuntimeError, ArithmeticError, LookupError, ValueError, TypeError, AttributeError)
"""h5py raises many kinds on damaged trees, and JSON of any content may be in one."""


def write_verdict(folder: Path, verdict: Verdict) -> None:
    """Write the verdict on the arrays in a folder; nothing was there before, and nothing is written if nothing was
    tested.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    if verdict.level == NOT_TESTED:
        return
    with atomic(folder / VERDICT_FILE) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["of"] = _digest(folder)
        for name, array in verdict.arrays().items():
            file[name] = array


def read_verdict(folder: Path) -> Verdict | None:
    """What the run has said of its result; None if it has not, or if arrays or parameters were changed since."""
    path = folder / VERDICT_FILE
    if not path.is_file():
        return None
    try:
        problem = not_a_file(path)
        if problem:
            raise ValueError(problem)
        with h5py.File(path, "r") as file:
            if file.attrs["of"] != _digest(folder):
                return None
            return Verdict.from_arrays(arrays_below(file))
    except _DAMAGED as error:
        _log.warning("%s cannot be read, so that the fit is measured again: %s", path, error)
        return None


def _digest(folder: Path) -> str:
    """Of the arrays and the parameters of a result."""
    total = hashlib.blake2b(digest_size=16)
    for name in (NAME, *(row.file for row in BLOCKS.values())):
        path = folder / name
        if not path.is_file():
            continue
        total.update(f"{name} {path.stat().st_size}\n".encode())
        with open(path, "rb") as stream:
            while part := stream.read(_READ_BYTES):
                total.update(part)
    return total.hexdigest()
