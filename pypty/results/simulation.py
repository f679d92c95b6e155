"""Modelled patterns or exit waves, as an array or as a file (``data_simulation_flag``)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.problem import refined_blocks
from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.sequences import check_inside
from pypty.model.forward import build_exit_wave_model
from pypty.output.files import atomic, make_folder
from pypty.params.schema.values import EpochValues

PATTERNS_FILE = "simulated_patterns.npy"
EXIT_WAVES_FILE = "simulated_exit_waves.npy"


def simulated(run: Reconstruction, now: EpochValues, exit_waves: bool = False) -> np.ndarray:
    """All patterns of the present unknowns (N, ky, kx), or all exit waves (N, probe modes, object modes, y, x).

    Parameters
    ----------
    now : values of the epoch whose model it is

    Raises
    ------
    ParameterError
        A patch lies outside the object.
    """
    parts: list[np.ndarray] = []
    _simulate(run, now, exit_waves, parts.append)
    return np.concatenate(parts)


def write_simulation(run: Reconstruction, now: EpochValues, folder: Path | None) -> Path | None:
    """Write what ``data_simulation_flag`` asks for at an epoch, batch by batch; returns its path, if it does.

    Parameters
    ----------
    folder : that of the results, for a flag without a path

    Raises
    ------
    ParameterError
        A patch lies outside the object.
    OutputError
        The file cannot be written.
    """
    path = simulation_path(now, folder)
    if path is None:
        return None
    make_folder(path.parent)
    n_patterns, done = len(run.setup.scan.crop_origins), 0
    stored: np.ndarray | None = None

    with atomic(path) as temporary:

        def take(part: np.ndarray) -> None:
            nonlocal stored, done
            if stored is None:  # the first batch shows shape and type
                shape = (n_patterns, *part.shape[1:])
                stored = np.lib.format.open_memmap(temporary, "w+", part.dtype, shape)
            stored[done : done + len(part)] = part
            done += len(part)

        _simulate(run, now, now["data_simulation_exitwave"], take)
        assert isinstance(stored, np.memmap)
        stored.flush()
        del stored
    return path


def simulation_path(now: EpochValues, folder: Path | None) -> Path | None:
    """Where the simulation of an epoch goes: the path that was given, or, for True, a file in the output folder; None
    for no simulation (or True without a folder)."""
    flag = now["data_simulation_flag"]
    if isinstance(flag, str) and flag:
        return Path(flag).expanduser()
    if not flag or folder is None:
        return None
    return folder / (EXIT_WAVES_FILE if now["data_simulation_exitwave"] else PATTERNS_FILE)


def _simulate(
    run: Reconstruction, now: EpochValues, exit_waves: bool, take: Callable[[np.ndarray], None]
) -> None:
    """Give ``take`` patterns or exit waves, batch by batch, in the order of the patterns."""
    setup: Setup = run.setup
    variables = run.state.variables
    indices = np.arange(len(setup.scan.crop_origins))
    check_inside(setup.scan, setup.grid.shape, indices, variables.obj.shape)
    objective = run.objective_for(refined_blocks(now, variables), now["propmethod"])
    if exit_waves:
        # a shift that does nothing costs little here
        model = build_exit_wave_model(setup.model_options(True, now["propmethod"]), setup.backend)
        objective.model_output(variables, indices, model, take)
    else:
        objective.model_output(variables, indices, objective.model, lambda part: take(setup.from_model(part)))
