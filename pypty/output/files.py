"""Atomic writing of files: temporary name, flush, rename."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pypty.errors import OutputError


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Provide a temporary path beside ``path``, which replaces ``path`` in one step if the block ends without error.

    If the process is killed, either the old or the new file is left.

    Raises
    ------
    OutputError
        The file cannot be written (permission, full disk).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        # Data before name: otherwise a power failure could leave the new name with an empty file.
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"{str(path)!r} cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write one .npy file atomically."""
    with atomic(path) as temporary, open(temporary, "wb") as stream:
        np.save(stream, array, allow_pickle=False)


def write_text(path: Path, text: str) -> None:
    """Write one text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def make_folder(folder: Path) -> Path:
    """Create a folder and its parents.

    Raises
    ------
    OutputError
        The folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the output folder {str(folder)!r} cannot be created: {error.strerror or error}"
        ) from error
    return folder


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files that a killed run left behind."""
    for path in folder.glob(".*.tmp"):
        if path.name.split(".")[-2].isdigit():  # .NAME.PID.tmp, as atomic() writes them
            path.unlink(missing_ok=True)
