"""The output folder of a running reconstruction."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.record.resume import write_resume
from pypty.engine.setup.sequences import problems_from
from pypty.engine.setup.start import propagates_after_last
from pypty.errors import CheckpointError
from pypty.model.blocks import BLOCKS
from pypty.output.checkpoints import remove_checkpoint, write_checkpoint, write_numbered
from pypty.output.files import make_folder, remove_leftovers
from pypty.output.loss_log import EpochRecord, read_records, write_loss_log
from pypty.output.settings_file import SettingsWatch, write_settings

_log = logging.getLogger(__name__)
LOSS_LOG = "loss.csv"
TEXT_LOG = "pypty.log"
_QUICK_S = 1.0
_PAUSE = 4.0
"""If writing resume.h5 takes longer than _QUICK_S, the next one waits for this many times the duration."""

Save = Callable[[bool], None]
"""Called after every epoch with False, and at the end with True; writes the results that are due."""


def _no_results(last: bool) -> None:
    """Write no results: only the state is saved."""


class RunFolder:
    """Writes checkpoints, the loss log and resume.h5 as epochs pass.

    Every file is replaced atomically, so that a killed run leaves a folder that loads.

    Parameters
    ----------
    save : writes results in public formats (``save_iters``); passed in, as this package does not import them
    """

    def __init__(self, path: Path, run: Reconstruction, version: str, save: Save = _no_results) -> None:
        self.save = save
        self.path = path
        self.run = run
        self.version = version
        self._kept_rows = _earlier_rows(path, run)
        self._resume_written_at = 0.0
        self._resume_took_s = 0.0

    def open(self) -> SettingsWatch:
        """Write the starting state; returns the watch on params.yaml."""
        make_folder(self.path)
        remove_leftovers(self.path)
        if (self.path / BLOCKS["obj"].file).exists() and self.run.state.epoch == 0:
            _log.warning("%s holds an earlier reconstruction, which is being replaced", self.path)
        write_settings(self.path, self.run.settings, self.version)
        self._write_state()
        # blocks of an earlier run that this one does not have
        remove_checkpoint(self.path, set(BLOCKS) - set(self._names()))
        return SettingsWatch(
            self.path, lambda settings, epoch: problems_from(self.run.setup, settings, epoch)
        )

    def epoch_done(self, record: EpochRecord) -> None:
        """Write the files that are due after an epoch."""
        settings = self.run.settings
        # 0 = not during the run
        every = settings["save_inter_checkpoints"]
        if every and record.epoch % every == 0:
            self._write_state(resume=self._may_write_resume())
        every = settings["save_checkpoints_every_epoch"]
        if every and record.epoch % every == 0:
            write_numbered(self.path, self.run.state.variables, record.epoch, record.blocks)
        self._write_log()
        self.save(False)

    def close(self) -> None:
        """Write the final state."""
        self._write_state()
        self._write_log()
        self.save(True)

    def _names(self) -> list[str]:
        """The blocks to write; the distance after a single slice is left out unless it is used."""
        variables = self.run.state.variables
        used = variables.n_slices > 1 or propagates_after_last(self.run.settings)
        return [name for name in variables.present if used or name != "slice_distances"]

    def _may_write_resume(self) -> bool:
        """Whether resume.h5 is small enough to be written every time, or was written long enough ago."""
        pause = _PAUSE * self._resume_took_s if self._resume_took_s > _QUICK_S else 0.0
        return time.perf_counter() - self._resume_written_at >= pause

    def _write_state(self, resume: bool = True) -> None:
        write_checkpoint(self.path, self.run.state.variables, self._names())
        if not resume:
            return
        started = time.perf_counter()
        write_resume(self.path, self.run, self.version)
        self._resume_written_at = time.perf_counter()
        self._resume_took_s = self._resume_written_at - started

    def _write_log(self) -> None:
        level = self.run.settings["save_loss_log"]
        if level:
            write_loss_log(self.path / LOSS_LOG, [*self._kept_rows, *self.run.state.records], level)


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
