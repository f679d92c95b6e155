"""An earlier result in the output folder: never destroyed unasked, and moved aside before it is replaced."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
from datetime import datetime
from pathlib import Path

from pypty.errors import OutputError
from pypty.model.blocks import BLOCKS
from pypty.output.checkpoints import HISTORY_FILE, RESUME_FILE, VERDICT_FILE, epoch_of
from pypty.output.loss_log import LOSS_LOG
from pypty.output.settings_file import ARRAYS
from pypty.params.schema import SCHEMA

_log = logging.getLogger(__name__)
ASIDE = "replaced_"
MOVING = ".moving"
GOING = ".going"
_ASIDE = re.compile(rf"{ASIDE}\d{{8}}_\d{{6}}_\d{{6}}({re.escape(MOVING)}|{re.escape(GOING)})?")
_NAMES = {RESUME_FILE, HISTORY_FILE, VERDICT_FILE, LOSS_LOG, "params.yaml", "params.pkl"} | {
    row.file for row in BLOCKS.values()
}
_NUMBERED = re.compile(r"checkpoint_\w+_(epoch|epcoh)_\d+\.npy|.+_iter\d{4,}\.(h5|tif|png)|summary_\w+\.png")
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
        _remove(self.path)

    def put_back(self) -> None:
        """The new run has no epoch: the earlier result takes its place again."""
        _restore(self.path, self.folder)


def is_unfinished(folder: Path) -> bool:
    """Whether a replacement of the result is going on, or was killed."""
    return bool(_asides(folder))


def recover(folder: Path) -> bool:
    """End what a kill has left of a replacement; returns whether the earlier result was put back.

    It goes where the new run has a full epoch, and is put back elsewhere. Only for a run that holds the lock of the
    folder.
    """
    restored = False
    for aside in reversed(_asides(folder)):  # the newest first
        if aside.suffix == MOVING:
            _move_back(aside, folder)
            restored = True
        elif aside.suffix == GOING or _has_an_epoch(folder):
            _remove(aside)
        elif not restored:
            _restore(aside, folder)
            restored = True
            _log.warning(
                "%s: the run that was to replace the result has no epoch; the result is there again", folder
            )
    return restored


def _asides(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"{ASIDE}*") if _ASIDE.fullmatch(path.name) and path.is_dir())


def _remove(aside: Path) -> None:
    """Delete an earlier result; under another name first, so that a rest of it is never taken for a result."""
    going = aside.with_suffix(GOING)
    with contextlib.suppress(OSError):
        if aside != going:
            aside.rename(going)
        shutil.rmtree(going)


def _has_an_epoch(folder: Path) -> bool:
    return (epoch_of(folder / RESUME_FILE) or 0) > 0


def _restore(aside: Path, folder: Path) -> None:
    # resume.h5 of the new run, without an epoch, goes last: until then it says that there is something to put back
    for name in sorted(_written(folder), key=lambda name: name.name == RESUME_FILE):
        (folder / name).unlink()
    moving = aside.with_suffix(MOVING)
    aside.rename(moving)
    _move_back(moving, folder)


def _move_back(moving: Path, folder: Path) -> None:
    _move(moving, folder)
    with contextlib.suppress(OSError):
        moving.rmdir()


def _move(source: Path, target: Path) -> None:
    for name in _written(source):
        (target / name).parent.mkdir(exist_ok=True)
        (source / name).rename(target / name)
    with contextlib.suppress(OSError):  # not empty, or not there
        (source / ARRAYS).rmdir()


def _written(folder: Path) -> list[Path]:
    """Files that runs write, relative to the folder."""
    names = [path.name for path in folder.iterdir() if path.is_file()]
    arrays = [Path(ARRAYS, f"{name}.npy") for name in SCHEMA if (folder / ARRAYS / f"{name}.npy").is_file()]
    return [Path(name) for name in names if name in _NAMES or _NUMBERED.fullmatch(name)] + arrays
