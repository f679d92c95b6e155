"""Objectives of a trial; smaller values are better."""

from __future__ import annotations

import math

import numpy as np

from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.problem import resolve_weight
from pypty.errors import ParameterError, ReconstructionError
from pypty.model.blocks import to_public
from pypty.output.loss_log import EpochRecord
from pypty.plots.figures import scanned_area

_TINY = 1e-8
"""Keeps the contrast of a constant image finite."""


class TrialObjective:
    """Evaluates the objective of one reconstruction.

    Parameters
    ----------
    name : "loss", without ``loss_weight`` and per pattern (ratios are not divided, as they are not sums over patterns);
        "validation", loss of held-out patterns; "contrast"
    """

    def __init__(self, name: str, reconstruction: Reconstruction) -> None:
        self.name = name
        self.reconstruction = reconstruction
        problem = reconstruction.problem(reconstruction.settings.first())
        self._n_patterns = len(problem.indices) if problem.objective.adds_up else 1

    def after(self, record: EpochRecord) -> float:
        """The value after an epoch, from numbers that have been computed already."""
        sample = self.reconstruction.state.sample
        if self.name == "loss":
            return self._per_pattern(record.loss if sample is None else sample.value, record.epoch)
        return self._finite(self._held_out(record) if self.name == "validation" else self._contrast())

    def at_the_end(self) -> float:
        """The value for the current unknowns."""
        state = self.reconstruction.state
        if self.name == "contrast":
            return self._finite(self._contrast())
        if self.name == "validation":
            return self._finite(self._held_out(state.records[-1] if state.records else None))
        sample = self.reconstruction.last_sample()
        if sample is None:  # no epochs: evaluate the start
            problem = self.reconstruction.problem(self.reconstruction.settings.first())
            sample = problem(problem.point())
        return self._per_pattern(sample.value, state.records[-1].epoch if state.records else None)

    def _per_pattern(self, loss: float, epoch: int | None) -> float:
        settings, setup = self.reconstruction.settings, self.reconstruction.setup
        now = settings.first() if epoch is None else settings.at(epoch)
        n_all = setup.n_patterns
        weight = resolve_weight(now["loss_weight"], n_all, math.prod(setup.data_shape))
        return self._finite(loss / (weight * self._n_patterns))

    def _held_out(self, record: EpochRecord | None) -> float:
        if record is None or record.validation is None:
            raise ParameterError(
                "tune.objective: 'validation' needs held-out patterns; set validation_fraction, for example to 0.05, "
                "and epoch_max above 0"
            )
        return record.validation

    def _contrast(self) -> float:
        return contrast(slice_sum(self.reconstruction))

    def _finite(self, value: float) -> float:
        if not math.isfinite(value):
            raise ReconstructionError(f"the {self.name} is {value}")
        return float(value)


def slice_sum(reconstruction: Reconstruction) -> np.ndarray:
    """(y, x, modes) phase in rad, summed over slices, of the scanned area."""
    variables = reconstruction.state.variables
    obj = to_public("obj", variables.obj)
    positions = to_public("positions", variables.positions)
    rows, columns = scanned_area(obj.shape, positions, reconstruction.setup.grid.shape)
    return np.asarray(np.angle(obj[rows, columns]).sum(axis=2))


def contrast(phase: np.ndarray) -> float:
    """Negative contrast: minus std/mean of the phase (y, x, modes) scaled to 0...1, averaged over modes.

    The standard deviation is that of a sample (ddof = 1).
    """
    contrasts = []
    for mode in range(phase.shape[2]):
        image = phase[..., mode]
        scaled = (image - image.min()) / max(float(np.ptp(image)), np.finfo(float).tiny)
        contrasts.append(scaled.std(ddof=1) / (scaled.mean() + _TINY))
    return -float(np.mean(contrasts))
