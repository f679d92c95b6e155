"""Atomic writing of files: temporary name, flush, rename."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pypty.errors import OutputError

_LEFT_S = 86400.0


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


def append_text(path: Path, text: str, *, keep: bool = False) -> None:
    """Add text to a file, in one piece.

    Parameters
    ----------
    keep : return only when it is on the disk

    Raises
    ------
    OutputError
        It cannot be written.
    """
    try:
        with open(path, "ab") as stream:
            stream.write(text.encode("utf-8"))
            if keep:
                stream.flush()
                os.fsync(stream.fileno())
    except OSError as error:
        raise OutputError(f"{str(path)!r} cannot be written: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Write one text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


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


def remove_leftovers(*folders: Path) -> None:
    """Delete temporary files that processes left behind which are dead."""
    for path in (path for folder in folders for path in folder.glob(".*.tmp")):
        process = path.name.split(".")[-2]  # .NAME.PID.tmp, as atomic() writes them
        if process.isdigit() and not _may_be_written(path, int(process)):
            path.unlink(missing_ok=True)


def _may_be_written(path: Path, process: int) -> bool:
    """Whether a process of that number runs here, and has touched the file within a day; the number may be of another
    machine that shares the folder, or used again."""
    with contextlib.suppress(OSError):
        if time.time() - path.stat().st_mtime < _LEFT_S:
            return process != os.getpid() and process_exists(process)
    return False


def process_exists(process: int) -> bool:
    """Whether a process of that number runs on this machine; on Windows, where asking could end it, it may."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # of another user: it exists
        pass
    return True
