"""The output folder of a running reconstruction."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.record.earlier import Aside
from pypty.engine.record.history_file import HistoryFile
from pypty.engine.record.resume import write_resume
from pypty.engine.setup.sequences import problems_from
from pypty.engine.setup.start import propagates_after_last
from pypty.errors import CheckpointError
from pypty.model.blocks import BLOCKS
from pypty.output.checkpoints import (
    RESUME_FILE,
    VERDICT_FILE,
    remove_checkpoint,
    write_checkpoint,
    write_numbered,
)
from pypty.output.files import remove_leftovers
from pypty.output.lock import FolderLock
from pypty.output.loss_log import LOSS_LOG, EpochRecord, LossLog, read_records
from pypty.output.settings_file import ARRAYS, SettingsWatch, write_settings

_log = logging.getLogger(__name__)
_QUICK_S = 1.0
"""After a write of resume.h5 that took longer, the next one waits for as long as the write took: writing takes at most
half of the time, and a kill loses at most the epoch that it hits and the duration of one write."""

Save = Callable[[bool], None]
"""Called after every epoch with False, and at the end with True; writes the results that are due."""


def _no_results(last: bool) -> None:
    """Write no results: only the state is saved."""


class RunFolder:
    """Writes checkpoints, the loss log and resume.h5 as epochs pass.

    Every file is replaced atomically, so that a killed run leaves a folder that loads. resume.h5 is written last: files
    that a kill left out, or left from a later epoch, are written again when the run is resumed.

    Parameters
    ----------
    save : writes results in public formats (``save_iters``); passed in, as this package does not import them
    history : the history file of the run that is resumed; None begins one
    lock : of the folder; None where nobody else can write
    replaces : there is an earlier result, which is moved aside first, and removed after the first full epoch
    """

    def __init__(
        self,
        path: Path,
        run: Reconstruction,
        version: str,
        save: Save = _no_results,
        *,
        history: HistoryFile | None = None,
        lock: FolderLock | None = None,
        replaces: bool = False,
    ) -> None:
        self.save = save
        self.path = path
        self.run = run
        self.version = version
        self._history = HistoryFile(path) if history is None else history
        self._lock = lock
        self._is_new = history is None
        self._is_ours = False  # before open() the folder belongs to an earlier run
        self._must_replace = replaces
        self._replaces: Aside | None = None
        self._kept_rows = _earlier_rows(path, run)
        level = run.settings["save_loss_log"]
        self._log = LossLog(path / LOSS_LOG, level) if level else None
        self._resume_written_at = 0.0
        self._resume_took_s = 0.0

    def open(self) -> SettingsWatch:
        """Write the starting state; returns the watch on params.yaml."""
        if self._must_replace:
            self._replaces = Aside(self.path)
        self._is_ours = True
        remove_leftovers(self.path, self.path / ARRAYS)
        # of a run that is continued from its arrays: the history that belongs to it goes now
        if self._is_new:
            (self.path / RESUME_FILE).unlink(missing_ok=True)
        # the result changes
        (self.path / VERDICT_FILE).unlink(missing_ok=True)
        write_settings(self.path, self.run.settings, self.version)
        write_checkpoint(self.path, self.run.state.variables, self._names())
        # blocks of an earlier run that this one does not have
        remove_checkpoint(self.path, set(BLOCKS) - set(self._names()))
        self._write_log()
        self._write_resume()
        self._resume_took_s = 0.0  # the first time imports what it needs
        return SettingsWatch(
            self.path, lambda settings, epoch: problems_from(self.run.setup, settings, epoch)
        )

    def epoch_done(self, record: EpochRecord, asked: bool = False) -> None:
        """Write the files that are due after an epoch.

        Parameters
        ----------
        asked : somebody wants a checkpoint now (SIGUSR1), whatever is due
        """
        settings = self.run.settings
        if self._lock is not None:
            self._lock.check()
        every = settings["save_checkpoints_every_epoch"]
        if every and record.epoch % every == 0:
            write_numbered(self.path, self.run.state.variables, record.epoch, record.blocks)
        # 0 = not during the run
        every = settings["save_inter_checkpoints"]
        due = bool(every and record.epoch % every == 0) or self._replaces is not None or asked
        if due:
            write_checkpoint(self.path, self.run.state.variables, self._names())
        self._write_log()
        self.save(False)
        if due and (self._may_write_resume() or self._replaces is not None or asked):
            self._write_resume()
        if asked:
            _log.info("SIGUSR1: the state after %d epochs is saved in %s", self.run.state.epoch, self.path)
        if self._replaces is not None:
            self._replaces.remove()
            self._replaces = None

    def close(self) -> None:
        """Write the final state; a run that replaces a result and has no epoch puts that result back."""
        if not self._is_ours:
            return
        if self._lock is not None:
            self._lock.check()
        if self._replaces is not None and not self.run.state.records:
            self._replaces.put_back()
            return
        write_checkpoint(self.path, self.run.state.variables, self._names())
        self._write_log()
        self.save(True)
        self._write_resume()
        if self._replaces is not None:
            self._replaces.remove()
            self._replaces = None

    def _names(self) -> list[str]:
        """The blocks to write; the distance after a single slice is left out unless it is used."""
        variables = self.run.state.variables
        used = variables.n_slices > 1 or propagates_after_last(self.run.settings)
        return [name for name in variables.present if used or name != "slice_distances"]

    def _may_write_resume(self) -> bool:
        """Whether resume.h5 is small enough to be written every time, or was written long enough ago."""
        pause = self._resume_took_s if self._resume_took_s > _QUICK_S else 0.0
        return time.perf_counter() - self._resume_written_at >= pause

    def _write_resume(self) -> None:
        started = time.perf_counter()
        write_resume(self.path, self.run, self.version, self._history)
        self._resume_written_at = time.perf_counter()
        self._resume_took_s = self._resume_written_at - started

    def _write_log(self) -> None:
        if self._log is not None:
            self._log.write([*self._kept_rows, *self.run.state.records])


def _earlier_rows(path: Path, run: Reconstruction) -> list[EpochRecord]:
    """Records of the earlier run in this folder, if it is continued with ``epoch_prev``."""
    first = run.settings.first_epoch
    if first == 0 or not (path / LOSS_LOG).is_file():
        return []
    try:
        return [record for record in read_records(path / LOSS_LOG) if record.epoch < first]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{str(path / LOSS_LOG)!r} of the run to continue cannot be read ({error!r}); move or repair it"
        ) from error
