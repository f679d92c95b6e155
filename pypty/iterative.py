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

from pypty._moved import answers
from pypty._version import __version__
from pypty.engine.epochs.first_order import Progress
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.state import State
from pypty.engine.ranks.opening import Crew, crew_of, on_all_ranks, together
from pypty.engine.record.earlier import is_unfinished, recover
from pypty.engine.record.folder import RunFolder
from pypty.engine.record.history_file import HistoryFile
from pypty.engine.record.interrupts import Interrupts
from pypty.engine.record.progress import TEXT_LOG, Reporter, warn_of_a_long_run
from pypty.engine.record.resume import read_resume
from pypty.engine.record.resume_checks import check_fit
from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.memory_plan import MemoryPlan
from pypty.engine.setup.prepare import Params, inspect, prepare
from pypty.engine.setup.reported import reported
from pypty.errors import OutputError, PyptyError
from pypty.importers import parameters_of
from pypty.importers.start_state import loaded_progress
from pypty.model.blocks import to_public
from pypty.output.checkpoints import epochs_in, held_result
from pypty.output.lock import FolderLock, locked
from pypty.params.checks.effects import simulates_only
from pypty.params.kinds import FilePath
from pypty.params.report import Report
from pypty.params.settings import Settings
from pypty.ranks.link import Link
from pypty.refits.positions import with_trial
from pypty.results.of_run import result_of
from pypty.results.result import Evaluation, Result
from pypty.results.saver import Saver, continues, result_folder
from pypty.results.sent import from_sent, to_send
from pypty.results.simulation import simulated, write_simulation
from pypty.results.verdict_file import write_verdict
from pypty.trust.verdict import verdict_at_end

__getattr__ = answers("iterative")  # names of PyPty 2.2's module
__all__ = ["check", "evaluate", "plan", "resume", "run", "simulate"]

_log = logging.getLogger(__name__)
_RESTORED = (
    "{!r}: the run that was to replace the result ended without an epoch, and the earlier result is there again; "
    "repeat the command to continue it"
)


@reported()
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
    RankError
        The run is distributed (``devices``, or mpirun), and one of its processes died, hangs or failed. All finished
        epochs are saved.

    Notes
    -----
    Under mpirun or srun all processes call this function; rank 0 runs, with its parameters, the others compute, and all
    get the result. On other ranks than 0 its settings have no ``dataset``, and text in the place of what cannot be
    sent. In a script, what is done with the result is done on every rank: ``MPI.COMM_WORLD.rank`` of mpi4py tells
    which it is.

    Ctrl-C (the stop button of a notebook), a second SIGTERM and SIGHUP (from a terminal that closes) end the run at
    once, SIGTERM (from a queue) after the present epoch, all with everything saved; the result is that of the last
    complete epoch. ``Result.interrupted_by`` names the signal. SIGUSR1 writes a checkpoint after the present epoch.
    """
    return on_all_ranks(lambda world: run_here(params, world), to_send, from_sent)


@reported()
def run_here(params: Params, world: Link | None) -> Result:
    """The run of rank 0, as :func:`run`; for a command, whose other ranks need no result.

    Parameters
    ----------
    world : ranks that a launcher has started, which serve this one; None = this process is alone
    """
    if isinstance(params, (str, Path)):
        _settle(params)
    mapping = _read(params)
    if isinstance(mapping, Mapping) and _settle(mapping.get("output_folder")) and mapping.get("resume"):
        raise OutputError(_RESTORED.format(str(mapping["output_folder"])))
    with Interrupts() as interrupts, crew_of(world) as crew:
        setup = prepare(mapping, may_simulate=True, ranks=crew.ranks, look=crew.look)
        try:
            return _run(setup, interrupts, crew)
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


def _run(setup: Setup, interrupts: Interrupts, crew: Crew) -> Result:
    if simulates_only(setup.settings):
        return _only_simulate(setup)
    path = result_folder(setup, datetime.now())
    with locked(path, patient=setup.settings["resume"] == "auto") as lock, together(setup, crew) as shared:
        reconstruction, folder = _begin(shared, path, lock)
        return _go(reconstruction, folder, interrupts)


def _only_simulate(setup: Setup) -> Result:
    """The file that ``data_simulation_flag`` asks for, and the start as the result."""
    settings = setup.settings
    run = Reconstruction(setup, State(variables=setup.variables(), epoch=settings.first_epoch))
    folder = result_folder(setup, datetime.now())
    with locked(folder):
        file = write_simulation(run, settings.first(), folder)
    run.state.stop_reason = f"simulated {str(file)!r}; nothing was fitted (data_simulation_flag)"
    _log.info("%s", run.state.stop_reason)
    return result_of(run, folder)


def _begin(
    setup: Setup, path: Path | None, lock: FolderLock | None
) -> tuple[Reconstruction, RunFolder | None]:
    """Continue the run in the folder, or begin one; the folder is ours."""
    settings = setup.settings
    if path is None:
        return Reconstruction(setup, _start(setup)), None
    restored = recover(path)
    history: HistoryFile | None = None
    earlier: str | None = None
    if continues(settings, path):
        if restored:
            raise OutputError(_RESTORED.format(str(path)))
        resumed = read_resume(path, setup)
        reconstruction = Reconstruction(resumed.setup, resumed.state, *resumed.rounding())
        check_fit(reconstruction)
        # format 4 has no history file: it is written as a whole
        valid = len(resumed.state.records) if resumed.history_bytes else 0
        history = HistoryFile(path, valid, resumed.history_bytes)
    else:
        earlier = _would_replace(settings, path)
        if earlier is not None and not settings["overwrite"]:
            raise OutputError(earlier)
        reconstruction = Reconstruction(setup, _start(setup))
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


def _start(setup: Setup) -> State:
    """The state before the first epoch of a run that continues none in its folder."""
    progress = Progress(**loaded_progress(setup.settings))
    return State(variables=setup.variables(), epoch=setup.settings.first_epoch, progress=progress)


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
        for choice in settings.choices:
            _log.info(choice)
        _log.info("pypty %s on %s\n%s", __version__, setup.backend.name, setup.plan)
        reconstruction.log_executor()
        interrupted_by = ""  # a signal after the last epoch does not make the result another
        try:
            with interrupts.epochs():
                reload = folder.open() if folder is not None else lambda settings, epoch: settings
                for record in reconstruction.epochs(interrupts.before_epoch(reload)):
                    reporter.epoch(record, state.sample.value if state.sample else record.loss)
                    asked = interrupts.takes_checkpoint()
                    if folder is not None:
                        folder.epoch_done(record, asked)
                    elif asked:
                        _log.warning("SIGUSR1: output_folder is not given, so no checkpoint can be written")
                    if reconstruction.settings.may_be_on("data_simulation_flag"):
                        write_simulation(reconstruction, reconstruction.settings.at(record.epoch), path)
                    if folder is None and len(state.records) == 1:
                        warn_of_a_long_run(record.time_s, settings["epoch_max"] - state.epoch)
        except KeyboardInterrupt:
            interrupted_by = interrupts.name
            by = f" by {interrupts.name}" if interrupts.name not in ("", "SIGINT") else ""
            state.stop_reason = f"interrupted{by} after {state.epoch} epochs"
        finally:  # keep finished epochs after any error
            if folder is not None:
                folder.close()
        _log.info("stopped: %s", state.stop_reason)
        verdict = verdict_at_end(reconstruction, interrupts)
        result = result_of(reconstruction, path, interrupted_by, verdict)
        if (
            settings["verdict"] == "full"
            and verdict.fit is not None
            and not settings.may_be_on("update_probe_pos")
        ):
            result = with_trial(result, interrupts)
        if path is not None:
            write_verdict(path, result.verdict)
        reporter.say(result.verdict.text)
        return result


@reported()
def evaluate(params: Params) -> Evaluation:
    """Loss, SSE, regularisers and gradients at the start point, in double precision unless ``default_dtype`` is
    "single". Writes no files.

    Gradients are those of the loss as a function of the arrays themselves: neither the band limit nor the edits
    between epochs are applied to them.

    Raises
    ------
    ParameterError
        The parameters or the data have problems; the message lists all.
    """
    setup = prepare(_read(params), auto="double")
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


@reported()
def simulate(params: Params, *, exit_waves: bool = False) -> np.ndarray:
    """Diffraction patterns, or exit waves, of the model at the start point, in double precision unless
    ``default_dtype`` is "single".

    Without data, ``probe`` must be an array; it sets the size of the patterns, and is not scaled to other counts.

    Returns
    -------
    (N, ky, kx) float in counts, zero frequency at index n//2 (near field: images; masks: sums (N, D)), in the form in
    which they are compared with data; all N patterns, whatever the sequence.
    With ``exit_waves``: (N, probe modes, object modes, y, x) complex, behind the last slice (and the tilt after it), in
    real space with the pixels of the model's window; |F|^2 of a wave, summed over its modes, is the far-field pattern
    before effects of the detector and after the band limit.

    Raises
    ------
    ParameterError
        The parameters have problems; the message lists all.
    """
    setup = prepare(_read(params), needs_data=False, auto="double")
    try:
        variables = setup.variables()
        without_data = dataclasses.replace(setup, source=None)
        reconstruction = Reconstruction(
            without_data, State(variables=variables, epoch=setup.settings.first_epoch)
        )
        return simulated(reconstruction, setup.settings.first(), exit_waves)
    finally:
        setup.close()


def check(params: Params) -> Report:
    """Find all problems of the parameters and the data. Writes no files.

    Returns
    -------
    Report: its truth value is True if a reconstruction can start; printing it lists problems and warnings
    """
    try:
        report, setup = inspect(_read(params), may_simulate=True)
    except PyptyError as error:  # an unreadable file is reported as a problem
        return Report([str(error)])
    if setup is not None:
        settings, path = setup.settings, result_folder(setup, datetime.now())
        replaces = path is not None and not settings["overwrite"] and not simulates_only(settings)
        earlier = _would_replace(settings, path) if replaces and path is not None else None
        if earlier is not None:
            report.add("output_folder", earlier)
        if path is None or not continues(settings, path):
            try:
                loaded_progress(settings)
            except PyptyError as error:
                report.problems.append(str(error))
        setup.close()
    return report


@reported()
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


@reported()
def resume(folder: str | Path, **changes: object) -> Result:
    """Continue the reconstruction in ``folder`` exactly where it ended; ``changes`` replace parameters."""

    def resumed(world: Link | None) -> Result:
        _settle(folder)
        return run_here({**_read(folder), "output_folder": str(folder), **changes, "resume": True}, world)

    return on_all_ranks(resumed, to_send, from_sent)
