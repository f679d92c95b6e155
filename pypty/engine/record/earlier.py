"""An earlier result in the output folder: never destroyed unasked, and moved aside before it is replaced."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
from datetime import datetime
from pathlib import Path

import h5py

from pypty.errors import OutputError
from pypty.model.blocks import BLOCKS
from pypty.output.checkpoints import HISTORY_FILE, RESUME_FILE
from pypty.output.loss_log import LOSS_LOG
from pypty.output.settings_file import ARRAYS

_log = logging.getLogger(__name__)
ASIDE = "replaced_"
MOVING = ".moving"
_NAMES = {RESUME_FILE, HISTORY_FILE, LOSS_LOG, "params.yaml", "params.pkl", ARRAYS} | {
    row.file for row in BLOCKS.values()
}
_NUMBERED = re.compile(
    r"checkpoint_\w+_(epoch|epcoh)_\d+\.npy|.+_iter\d{4,}\.(h5|hdf5|tif|png)|summary_\w+\.png"
)
"""What runs write; "epcoh" is PyPty 2.2's spelling of one of them."""


class Aside:
    """An earlier result in a folder of its own inside the output folder, until the new run has finished an epoch.

    The folder has a name of its own while files are moved into it or out of it, so that after a kill it is known which
    of the two it was, and :func:`recover` can end it.
    """

    def __init__(self, folder: Path) -> None:
        """Move every file that runs write.

        Raises
        ------
        OutputError
            They cannot be moved; they are where they were.
        """
        self.folder = folder
        self.path = folder / f"{ASIDE}{datetime.now():%Y%m%d_%H%M%S_%f}"
        moving = self.path.with_suffix(MOVING)
        try:
            moving.mkdir()
            _move(folder, moving)
            moving.rename(self.path)
        except OSError as error:
            if moving.is_dir():
                _move_back(moving, folder)
            raise OutputError(
                f"the result in {str(folder)!r} cannot be moved aside: {error.strerror}"
            ) from error

    def remove(self) -> None:
        """The new run has a full epoch: the earlier result goes."""
        shutil.rmtree(self.path, ignore_errors=True)

    def put_back(self) -> None:
        """The new run has no epoch: the earlier result takes its place again."""
        _restore(self.path, self.folder)


def recover(folder: Path) -> None:
    """End what a kill has left of a replacement: an earlier result goes where the new run has a full epoch, and is put
    back elsewhere. Only for a run that holds the lock of the folder."""
    for moving in folder.glob(f"{ASIDE}*{MOVING}"):
        _move_back(moving, folder)
    for aside in sorted(folder.glob(f"{ASIDE}*"), reverse=True):
        if _has_an_epoch(folder):
            shutil.rmtree(aside, ignore_errors=True)
        else:
            _restore(aside, folder)
            _log.warning(
                "%s: the run that was to replace the result has no epoch; the result is there again", folder
            )


def _has_an_epoch(folder: Path) -> bool:
    try:
        with h5py.File(folder / RESUME_FILE, "r") as file:
            return int(file.attrs["epoch"]) > 0
    except (OSError, KeyError, ValueError, TypeError):
        return False


def _restore(aside: Path, folder: Path) -> None:
    # resume.h5 of the new run, without an epoch, goes last: until then it says that there is something to put back
    for path in sorted(_written(folder), key=lambda path: path.name == RESUME_FILE):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    moving = aside.with_suffix(MOVING)
    aside.rename(moving)
    _move_back(moving, folder)


def _move_back(moving: Path, folder: Path) -> None:
    _move(moving, folder)
    with contextlib.suppress(OSError):
        moving.rmdir()


def _move(source: Path, target: Path) -> None:
    for path in _written(source):
        path.rename(target / path.name)


def _written(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name in _NAMES or _NUMBERED.fullmatch(path.name)]
