"""The public functions: run, evaluate, simulate, check, plan, resume."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from pypty._version import __version__
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.problem import refined_blocks
from pypty.engine.epochs.state import State
from pypty.engine.record.earlier import is_unfinished, recover
from pypty.engine.record.folder import RunFolder
from pypty.engine.record.history_file import HistoryFile
from pypty.engine.record.interrupts import Interrupted, Interrupts
from pypty.engine.record.progress import TEXT_LOG, Reporter
from pypty.engine.record.resume import read_resume
from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.memory import MemoryPlan
from pypty.engine.setup.prepare import Params, inspect, prepare
from pypty.engine.setup.sequences import check_inside
from pypty.errors import OutputError, PyptyError, ResourceError
from pypty.importers import parameters_of
from pypty.model.blocks import OPTIONAL, to_public
from pypty.output.checkpoints import epochs_in, held_result
from pypty.output.lock import FolderLock, locked
from pypty.params.kinds import FilePath
from pypty.params.report import Report
from pypty.params.settings import Settings
from pypty.results.history import History
from pypty.results.result import Evaluation, Result
from pypty.results.saver import Saver, continues, result_folder

__all__ = ["check", "evaluate", "plan", "resume", "run", "simulate"]

_log = logging.getLogger(__name__)
_LONG_S = 60.0
_RESTORED = (
    "{!r}: the run that was to replace the result ended without an epoch, and the earlier result is there again; "
    "repeat the command to continue it"
)


def run(params: Params) -> Result:
    """Run a reconstruction.

    Parameters
    ----------
    params : dict of parameters (``pypty explain KEY``, docs/parameters.md), or the path of a preset file, of an output
        folder, or of a model file (model_iter*.h5) to continue from

    Returns
    -------
    Result, with all arrays in the layout of docs/conventions.md

    Raises
    ------
    ParameterError
        The parameters or the data have problems; the message lists all. No files have been written.
    CheckpointError
        ``resume`` is set, but the state cannot be continued.
    OutputError
        The output folder cannot be written, holds another result (``resume``, ``overwrite``), or is in use by another
        run.
    ReconstructionError
        The loss became infinite or NaN.

    Notes
    -----
    Ctrl-C (the stop button of a notebook), SIGTERM (from a queue) and SIGHUP (from a terminal that closes) end the run
    with everything saved; the result is that of the last complete epoch. ``Result.interrupted_by`` names the signal.
    """
    if isinstance(params, (str, Path)):
        _settle(params)
    mapping = _read(params)
    if isinstance(mapping, Mapping) and _settle(mapping.get("output_folder")) and mapping.get("resume"):
        raise OutputError(_RESTORED.format(str(mapping["output_folder"])))
    setup = prepare(mapping)
    try:
        return _run(setup)
    except MemoryError as error:
        if isinstance(error, PyptyError):
            raise
        raise ResourceError(
            f"out of memory outside the batches ({error}); lower hist_length, or use default_dtype='single'"
        ) from error
    finally:
        setup.close()


def _read(params: Params) -> Mapping[str, Any]:
    """The parameters as a mapping, read from the file if a path is given."""
    return parameters_of(params) if isinstance(params, (str, Path)) else params


def _settle(folder: object) -> bool:
    """End a replacement of the result in a folder that was killed, before anything in the folder is read; returns
    whether the earlier result was put back."""
    if not folder or FilePath().problem(folder) is not None:
        return False
    path = Path(str(folder)).expanduser()
    if not path.is_dir() or not is_unfinished(path):
        return False
    with locked(path):
        return recover(path)


def _run(setup: Setup) -> Result:
    path = result_folder(setup, datetime.now())
    with Interrupts() as interrupts, locked(path, patient=setup.settings["resume"] == "auto") as lock:
        reconstruction, folder = _begin(setup, path, lock)
        return _go(reconstruction, folder, interrupts)


def _begin(
    setup: Setup, path: Path | None, lock: FolderLock | None
) -> tuple[Reconstruction, RunFolder | None]:
    """Continue the run in the folder, or begin one; the folder is ours."""
    settings = setup.settings
    if path is None:
        return Reconstruction(setup, State(variables=setup.variables(), epoch=settings.first_epoch)), None
    restored = recover(path)
    history: HistoryFile | None = None
    earlier: str | None = None
    if continues(settings, path):
        if restored:
            raise OutputError(_RESTORED.format(str(path)))
        resumed = read_resume(path, setup)
        reconstruction = Reconstruction(setup, resumed.state, *resumed.rounding(setup))
        # format 4 has no history file: it is written as a whole
        valid = len(resumed.state.records) if resumed.history_bytes else 0
        history = HistoryFile(path, valid, resumed.history_bytes)
    else:
        earlier = _would_replace(settings, path)
        if earlier is not None and not settings["overwrite"]:
            raise OutputError(earlier)
        reconstruction = Reconstruction(setup, State(variables=setup.variables(), epoch=settings.first_epoch))
    saver = Saver(reconstruction, path, path if history else None)
    folder = RunFolder(
        path,
        reconstruction,
        __version__,
        lambda last: saver(reconstruction.batches, last),
        history=history,
        lock=lock,
        replaces=earlier is not None,
    )
    return reconstruction, folder


def _would_replace(settings: Settings, path: Path) -> str | None:
    """What to say about a result that a new run in its folder would replace; None where it would not."""
    if continues(settings, path):
        return None
    # arrays of this folder, or of a shorter run, are continued with epoch_prev
    longer = settings.first_epoch == 0 or (epochs_in(path) or 0) > settings.first_epoch
    return held_result(path) if longer else None


def _go(reconstruction: Reconstruction, folder: RunFolder | None, interrupts: Interrupts) -> Result:
    """The epochs, with everything that is written and shown on the way."""
    setup, settings, state = reconstruction.setup, reconstruction.settings, reconstruction.state
    path = None if folder is None else folder.path
    log_file = None if path is None else path / TEXT_LOG
    with Reporter(settings["print_flag"], state.epoch, settings["epoch_max"], log_file) as reporter:
        for note in settings.notes:
            _log.warning(note)
        _log.info("pypty %s on %s\n%s", __version__, setup.backend.name, setup.plan)
        reconstruction.log_executor()
        try:
            reload = folder.open() if folder is not None else lambda settings, epoch: settings
            for record in reconstruction.epochs(reload):
                reporter.epoch(record, state.sample.value if state.sample else record.loss)
                if folder is not None:
                    folder.epoch_done(record)
                elif len(state.records) == 1:
                    _warn_of_a_long_run(record.time_s, settings["epoch_max"] - state.epoch)
                if interrupts.name:  # it came where Python ignores exceptions, as in a destructor
                    raise Interrupted(interrupts.name)
        except KeyboardInterrupt:
            by = f" by {interrupts.name}" if interrupts.name not in ("", "SIGINT") else ""
            state.stop_reason = f"interrupted{by} after {state.epoch} epochs"
        finally:  # keep finished epochs after any error
            interrupts.saving = True
            if folder is not None:
                folder.close()
        _log.info("stopped: %s", state.stop_reason)
        return result_of(reconstruction, path, interrupts.name)


def _warn_of_a_long_run(epoch_s: float, epochs_left: int) -> None:
    """Say early that nothing will be saved, where that would cost more than a minute."""
    left_s = epoch_s * epochs_left
    if left_s > _LONG_S:
        _log.warning(
            "output_folder is not given: nothing is saved while the run goes on, for about %.0f more minutes; to keep "
            "finished epochs, stop it and give output_folder",
            max(1.0, left_s / 60),
        )


def result_of(reconstruction: Reconstruction, folder: Path | None = None, interrupted_by: str = "") -> Result:
    """The current result."""
    state = reconstruction.state
    blocks = {name: to_public(name, state.variables.block(name)) for name in state.variables.present}
    sample = reconstruction.last_sample()
    last = [] if sample is None else [sample]
    return Result(
        **{name: array for name, array in blocks.items() if name not in OPTIONAL},
        optional={name: array for name, array in blocks.items() if name in OPTIONAL},
        start_positions=reconstruction.setup.scan.positions,
        loss=np.array([record.loss for record in state.records] + [sample.value for sample in last]),
        sse=np.array([record.sse for record in state.records] + [sample.info.sse for sample in last]),
        epochs=np.array([record.epoch for record in state.records], dtype=int),
        pixel_size_A=np.array(reconstruction.setup.grid.pixel_size_A),
        stop_reason=state.stop_reason,
        warnings=(
            *reconstruction.settings.notes,
            *(text for record in state.records for text in record.warnings),
        ),
        decisions=tuple(
            f"epoch {record.epoch}: {text}" for record in state.records for text in record.decisions
        ),
        settings=reconstruction.settings.record(),
        folder=folder,
        interrupted_by=interrupted_by,
        history=History.of(state.records),
    )


def evaluate(params: Params) -> Evaluation:
    """Loss, SSE, regularisers and gradients at the start point. Writes no files.

    Gradients are those of the loss as a function of the arrays themselves: neither the band limit nor the edits
    between epochs are applied to them.

    Raises
    ------
    ParameterError
        The parameters or the data have problems; the message lists all.
    """
    setup = prepare(_read(params))
    try:
        variables = setup.variables()
        problem = Reconstruction(setup, State(variables=variables, epoch=setup.settings.first_epoch)).problem(
            setup.settings.first()
        )
        evaluation = problem.objective.evaluate(
            variables, problem.blocks, problem.indices, problem.weight, problem.regularizers
        )
    finally:
        setup.close()
    gradients = {name: to_public(name, gradient) for name, gradient in evaluation.gradients.items()}
    return Evaluation(evaluation.loss, evaluation.sse, evaluation.terms, gradients, evaluation.loss_terms)


def simulate(params: Params) -> np.ndarray:
    """Diffraction patterns of the model at the start point.

    Without data, ``probe`` must be an array; it sets the size of the patterns, and is not scaled to other counts.

    Returns
    -------
    (N, ky, kx) float in counts, zero frequency at index n//2 (near field: images; masks: sums (N, D)), in the form in
    which they are compared with data; all N patterns, whatever the sequence

    Raises
    ------
    ParameterError
        The parameters have problems; the message lists all.
    """
    setup = prepare(_read(params), needs_data=False)
    try:
        variables = setup.variables()
        without_data = dataclasses.replace(setup, source=None)
        reconstruction = Reconstruction(
            without_data, State(variables=variables, epoch=setup.settings.first_epoch)
        )
        check_inside(
            setup.scan, setup.grid.shape, np.arange(len(setup.scan.crop_origins)), variables.obj.shape
        )
        now = setup.settings.first()
        objective = reconstruction.objective_for(refined_blocks(now, variables), now["propmethod"])
        return setup.from_model(objective.simulate(variables, np.arange(len(setup.scan.crop_origins))))
    finally:
        setup.close()


def check(params: Params) -> Report:
    """Find all problems of the parameters and the data. Writes no files.

    Returns
    -------
    Report: its truth value is True if a reconstruction can start; printing it lists problems and warnings
    """
    try:
        report, setup = inspect(_read(params))
    except PyptyError as error:  # an unreadable file is reported as a problem
        return Report([str(error)])
    if setup is not None:
        settings, path = setup.settings, result_folder(setup, datetime.now())
        earlier = None if path is None or settings["overwrite"] else _would_replace(settings, path)
        if earlier is not None:
            report.add("output_folder", earlier)
        setup.close()
    return report


def plan(params: Params, show: bool = True) -> MemoryPlan:
    """Estimate memory and batch size without allocating arrays or reading the patterns.

    Parameters
    ----------
    show : also write the table to standard output

    Raises
    ------
    ParameterError
        The parameters or the data have problems; the message lists all.
    """
    setup = prepare(_read(params), read_data=False)
    setup.close()
    if show:
        sys.stdout.write(f"{setup.plan}\n")
    return setup.plan


def resume(folder: str | Path, **changes: object) -> Result:
    """Continue the reconstruction in ``folder`` exactly where it ended; ``changes`` replace parameters."""
    _settle(folder)
    return run({**_read(folder), "output_folder": str(folder), **changes, "resume": True})
