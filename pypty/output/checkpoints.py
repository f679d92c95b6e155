"""The arrays of a reconstruction as .npy files, with the file names of PyPty 2.2."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np

from pypty.errors import CheckpointError, DataError
from pypty.model.blocks import BLOCKS, Variables, to_public
from pypty.output.files import write_array
from pypty.output.loss_log import LOSS_LOG, read_loss_log
from pypty.params.files import load_npy, not_a_file
from pypty.params.schema import SCHEMA

_log = logging.getLogger(__name__)

RESUME_FILE = "resume.h5"
"""File with the complete state for an exact restart (engine/record/resume.py)."""
HISTORY_FILE = "history.jsonl"
"""What was recorded of each epoch, which belongs to it (engine/record/history_file.py)."""
VERDICT_FILE = "verdict.h5"
"""What the run has said of its result (results/verdict_file.py)."""

MADE_THE_START: Mapping[str, Any] = MappingProxyType(
    {name: parameter.default for name, parameter in SCHEMA.items() if parameter.shapes_start}
)
"""Neutral values of parameters that shaped the start of the earlier run: its arrays already contain their effect."""


def write_checkpoint(folder: Path, variables: Variables, names: Iterable[str] = BLOCKS) -> None:
    """Write co.npy, cp.npy, ... for the named blocks."""
    for name in names:
        write_array(folder / BLOCKS[name].file, to_public(name, variables.block(name)))


def remove_checkpoint(folder: Path, names: Iterable[str]) -> None:
    """Delete the named blocks of an earlier run, which must not be mixed with those of a new run."""
    for name in names:
        (folder / BLOCKS[name].file).unlink(missing_ok=True)


def write_numbered(folder: Path, variables: Variables, epoch: int, names: Iterable[str]) -> None:
    """Write checkpoint_<block>_epoch_<k>.npy for the named blocks."""
    for name in names:
        write_array(folder / BLOCKS[name].numbered(epoch), to_public(name, variables.block(name)))


def load_checkpoint(folder: str | Path, averaged_modes: bool | None = None) -> dict[str, Any]:
    """Read the arrays of an output folder, of this PyPty or of PyPty 2.2, as parameters to continue from.

    Parameters
    ----------
    averaged_modes : whether the probe follows PyPty 2.2, which averages the intensities of its modes while
        they add here; such a probe is divided by sqrt(probe modes x object modes). None decides by
        params.pkl, which only PyPty 2.2 writes.

    Returns
    -------
    dict with obj, probe, positions and the other blocks (those that are present); epoch_prev = number of epochs in
    loss.csv; skip_preprocessing = True; and neutral values of the parameters that shaped the earlier start (defocus,
    aberrations, ...). Update your parameters with this dict and run.

    Raises
    ------
    CheckpointError
        A file is missing or damaged.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise CheckpointError(f"the folder {str(folder)!r} does not exist")
    out: dict[str, Any] = {}
    for name, row in BLOCKS.items():
        path = folder / row.file
        if path.exists():
            out[name] = _load_array(path)
    if "obj" not in out or "probe" not in out:
        raise CheckpointError(f"{str(folder)!r} has no co.npy and cp.npy; is it an output folder?")
    if averaged_modes is None:
        averaged_modes = (folder / "params.pkl").exists() and not (folder / "params.yaml").exists()
    if averaged_modes:
        out["probe"] = from_averaged_modes(out["probe"], out["obj"])
    return to_continue(out, epochs_done(folder / LOSS_LOG))


def to_continue(arrays: Mapping[str, np.ndarray], epochs: int) -> dict[str, Any]:
    """Parameters that start another run where one has ended, from its public arrays.

    Parameters
    ----------
    epochs : number of epochs that were done
    """
    out: dict[str, Any] = {name: BLOCKS[name].as_parameter(array) for name, array in arrays.items()}
    return {**out, "skip_preprocessing": True, **MADE_THE_START, "epoch_prev": epochs}


def epochs_in(folder: Path) -> int | None:
    """Epochs of the result that a folder holds; None if there is none, or only the start of a run without one epoch."""
    epoch = epoch_of(folder / RESUME_FILE)
    if epoch is not None:
        return epoch or None
    if not any((folder / name).is_file() for name in (BLOCKS["obj"].file, RESUME_FILE)):
        return None
    with contextlib.suppress(CheckpointError):
        return epochs_done(folder / LOSS_LOG)
    return 0


def epoch_of(path: Path) -> int | None:
    """The epoch at which a resume.h5 was written; None where it cannot be read."""
    return _number(path, "epoch")


def history_bytes_of(path: Path) -> int | None:
    """How much of the history file belongs to a resume.h5; None where it cannot be read, or holds it itself."""
    return _number(path, "history_bytes")


def _number(path: Path, name: str) -> int | None:
    """An attribute of a resume.h5; None where it cannot be read."""
    if not_a_file(path):
        return None
    try:
        with h5py.File(path, "r") as file:
            return int(file.attrs[name])
    except (OSError, RuntimeError, ArithmeticError, LookupError, ValueError, TypeError, AttributeError):
        return None  # h5py raises many kinds on damaged trees


def held_result(folder: Path) -> str | None:
    """What to say where a new run would replace a result; None where there is none."""
    epochs = epochs_in(folder)
    if epochs is None:
        return None
    return (
        f"{str(folder)!r} holds a result of {epochs} epochs; continue it with resume=True (--resume), replace it with "
        "overwrite=True (--overwrite), or choose another output_folder"
    )


def from_averaged_modes(probe: np.ndarray, obj: np.ndarray) -> np.ndarray:
    """A probe of PyPty 2.2 (intensities averaged over modes) for this package (intensities added).

    Parameters
    ----------
    probe : (y, x, modes[, subscans])
    obj : (y, x, z, modes)
    """
    n_modes = (probe.shape[2] if probe.ndim > 2 else 1) * obj.shape[3]
    return probe / np.sqrt(n_modes)


def _load_array(path: Path) -> np.ndarray:
    try:
        return load_npy(path)
    except DataError as error:
        raise CheckpointError(f"{str(path)!r} cannot be read: {error}") from error


def epochs_done(log: Path) -> int:
    if not log.exists():
        return 0
    problem = not_a_file(log)
    if problem:
        raise CheckpointError(problem)
    try:
        rows = read_loss_log(log)
        return int(float(rows[-1]["epoch"])) + 1 if rows else 0
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{str(log)!r} cannot be read: {error}") from error
