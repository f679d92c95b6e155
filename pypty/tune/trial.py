"""One trial: a short reconstruction in memory. Work common to all trials is done once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pypty.backend.memory import free_bytes
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.state import State
from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.noise import choose_noise_model
from pypty.engine.setup.prepare import prepare
from pypty.engine.setup.reported import reported
from pypty.params.schema import GROUPS
from pypty.tune.objectives import TrialObjective, slice_sum

_SILENT = {"output_folder": "", "print_flag": 0, "resume": False}.items()
_DATA_KEYS = frozenset(parameter.name for parameter in GROUPS["Data"]) | {
    "algorithm",
    "epoch_max",
    "epoch_prev",
    "validation_fraction",
    "indices_mode",
    "indices_shape",
}
"""Parameters, in addition to data_*, that determine which patterns are used and how they are read."""
_SHARE_OF_MEMORY = 0.2
"""Patterns of a file are kept for all trials if they take less than this fraction of the free memory."""

Report = Callable[[int, float], bool]
"""Called with the number of finished epochs and the objective; True ends the trial."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a trial.

    Attributes
    ----------
    value : objective
    epochs : number of finished epochs
    pruned : whether it was ended early
    phase : (y, x) rad, summed over slices, mean over modes, of the scanned area
    pixel_size_A : (y, x)
    """

    value: float
    epochs: int
    pruned: bool
    phase: np.ndarray
    pixel_size_A: tuple[float, float]


def silent(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a run that writes no files."""
    return {**{name: value for name, value in params.items() if name != "tune"}, **dict(_SILENT)}


class Bench:
    """Runs trials; the patterns are read and surveyed once.

    Parameters
    ----------
    base : checked setup of ``params``; closed here
    params : parameters without tuned values
    touched : parameters that trials change
    """

    def __init__(self, base: Setup, params: Mapping[str, Any], touched: set[str]) -> None:
        self._held: dict[str, Any] = {}
        changing = {name for name in touched if name in _DATA_KEYS or name.startswith("data_")}
        # The survey (mean pattern, weights) is reused unless trials change how patterns are read.
        self._survey = None if changing else base.survey
        self._keeps = "data_path" not in touched and params.get("masks") is None
        try:
            if self._keeps and base.source is not None and params.get("dataset") is None:
                self._hold(base)
        finally:
            base.close()

    def _hold(self, base: Setup) -> None:
        """Keep the patterns of a file."""
        source = base.source
        assert source is not None
        n_bytes = int(np.prod(source.shape)) * source.dtype.itemsize
        fits = base.plan.resident or base.plan.resident_on_device
        if fits and n_bytes < _SHARE_OF_MEMORY * free_bytes(base.backend):
            self._held = {"dataset": source.read(np.arange(source.shape[0]))}

    def run(self, params: Mapping[str, Any], objective: str, report: Report) -> Outcome:
        """Run one trial.

        Raises
        ------
        PyptyError
            These parameters cannot be used, or the reconstruction failed.
        """
        setup = self._prepare({**silent(params), **self._held})
        try:
            with reported():
                return _run(setup, objective, report)
        finally:
            setup.close()

    def _prepare(self, params: Mapping[str, Any]) -> Setup:
        if self._survey is None:
            return prepare(params)
        setup = dataclasses.replace(prepare(params, read_data=False), survey=self._survey)
        return dataclasses.replace(setup, settings=choose_noise_model(setup))


def _run(setup: Setup, name: str, report: Report) -> Outcome:
    reconstruction = Reconstruction(
        setup, State(variables=setup.variables(), epoch=setup.settings.first_epoch)
    )
    objective = TrialObjective(name, reconstruction)
    pruned = False
    for record in reconstruction.epochs():
        state = reconstruction.state
        ends = state.epoch >= setup.settings["epoch_max"] or bool(state.stop_reason)
        # Pruning at the last epoch would save nothing.
        if report(len(state.records), objective.after(record)) and not ends:
            pruned = True
            break
    pixel_y, pixel_x = setup.grid.pixel_size_A
    return Outcome(
        objective.at_the_end(),
        len(reconstruction.state.records),
        pruned,
        slice_sum(reconstruction).mean(axis=2),
        (float(pixel_y), float(pixel_x)),
    )
