"""What the files of a finished run tell of its way: the records of its epochs, and where its positions began."""

from __future__ import annotations

import logging
from pathlib import Path

import h5py
import numpy as np

from pypty.engine.record.history_file import read_history
from pypty.errors import CheckpointError
from pypty.output.checkpoints import HISTORY_FILE, RESUME_FILE, history_bytes_of
from pypty.output.loss_log import LOSS_LOG, EpochRecord, read_records
from pypty.params.files import not_a_file

_log = logging.getLogger(__name__)


def records_of(folder: Path) -> list[EpochRecord]:
    """The epochs of the result in a folder: from history.jsonl, which has everything; those before it, or all if it
    cannot be read, from loss.csv.

    Raises
    ------
    CheckpointError
        loss.csv is damaged.
    """
    rows = _rows(folder / LOSS_LOG)
    size = history_bytes_of(folder / RESUME_FILE)
    if not size or not (folder / HISTORY_FILE).is_file():
        return rows
    try:
        records = read_history(folder, size)
    except CheckpointError as error:
        _log.warning("the epochs are taken from %s: %s", LOSS_LOG, error)
        return rows
    first = records[0].epoch if records else 0
    return [row for row in rows if row.epoch < first] + records


def _rows(log: Path) -> list[EpochRecord]:
    if not log.is_file():
        return []
    try:
        return read_records(log)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{str(log)!r} cannot be read: {error!r}; move or repair it") from error


def shifted_start(folder: Path) -> np.ndarray | None:
    """(N, 2) the starting positions, in pixels of the object as it is at the end; None if it kept its origin, so that
    they are those of the parameters."""
    path = folder / RESUME_FILE
    if not path.is_file() or not_a_file(path):
        return None
    try:
        with h5py.File(path, "r") as file:
            return np.asarray(file["scan/positions"][()], float) if "scan" in file else None
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{str(path)!r} cannot be read: {error}; it is damaged") from error
