"""history.jsonl: what was recorded of each epoch, one line each, appended; resume.h5 says how much of it is valid."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

from pypty.errors import CheckpointError, OutputError
from pypty.output.checkpoints import HISTORY_FILE
from pypty.output.files import append_text, write_text
from pypty.output.loss_log import EpochRecord
from pypty.params.files import not_a_file

_TUPLES = ("blocks", "mean_tilt_mrad")


class HistoryFile:
    """Writes the records of a run.

    Parameters
    ----------
    written, size : records and bytes of the file that are valid already, when a run is resumed
    """

    def __init__(self, folder: Path, written: int = 0, size: int = 0) -> None:
        self.path = folder / HISTORY_FILE
        self._written, self._size = written, size

    def write(self, records: Sequence[EpochRecord]) -> int:
        """Bring the file up to ``records``, which only grow; returns its size in bytes when it is on the disk.

        Raises
        ------
        OutputError
            It cannot be written.
        """
        new = _lines(records[self._written :])
        if self._written and self._holds(self._size):
            if new:
                append_text(self.path, new, keep=True)
        else:  # a new run, or the file is gone
            new = _lines(records)
            write_text(self.path, new)
            self._size = 0
        self._written, self._size = len(records), self._size + len(new.encode("utf-8"))
        return self._size

    def _holds(self, size: int) -> bool:
        """Whether the file has these bytes; what follows, lines of epochs that are repeated, is cut off."""
        try:
            actual = self.path.stat().st_size
            if actual > size:
                os.truncate(self.path, size)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise OutputError(f"{str(self.path)!r} cannot be written: {error.strerror or error}") from error
        return actual >= size


def _lines(records: Sequence[EpochRecord]) -> str:
    return "".join(json.dumps(dataclasses.asdict(record)) + "\n" for record in records)


def read_history(folder: Path, size: int) -> list[EpochRecord]:
    """The records in the first ``size`` bytes.

    Raises
    ------
    CheckpointError
        The file is missing, shorter, or damaged.
    """
    path = folder / HISTORY_FILE
    try:
        problem = not_a_file(path)
        if problem:
            raise ValueError(problem)
        if path.stat().st_size < size:
            raise ValueError(f"it has {path.stat().st_size} bytes, resume.h5 expects {size}")
        with open(path, "rb") as stream:
            content = stream.read(size)
        return [record_of(json.loads(line)) for line in content.decode("utf-8").splitlines()]
    except Exception as error:  # JSON of any content may be in a damaged file
        raise CheckpointError(
            f"{str(path)!r}, which belongs to resume.h5, cannot be read: {error}; start again from "
            "pypty.load_checkpoint(folder)"
        ) from error


def record_of(plain: dict[str, object]) -> EpochRecord:
    """A record from its fields, as JSON has them."""
    return EpochRecord(**{**plain, **{key: tuple(plain[key]) for key in _TUPLES}})  # type: ignore[arg-type]
