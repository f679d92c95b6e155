"""Access to a scan for all calibrations: far-field patterns, their mean, and the weights of pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pypty.errors import ParameterError
from pypty.experiment import Experiment


def open_far_field(params: Mapping[str, Any], what: str) -> Experiment:
    """The scan of these parameters.

    Parameters
    ----------
    what : name of the calibration, for messages

    Raises
    ------
    ParameterError
        The data are images, or sums over virtual detectors, which have no disk.
    """
    experiment = Experiment.from_params(params)
    for key, wrong, meaning in (
        ("recon_type", experiment.settings["recon_type"] == "near_field", "defocused images"),
        ("masks", experiment.settings["masks"] is not None, "sums over virtual detectors"),
    ):
        if wrong:
            experiment.source.close()
            raise ParameterError(
                f"{what}: {key} says that the data are {meaning}; diffraction patterns are needed"
            )
    return experiment


def pixel_weights(experiment: Experiment) -> np.ndarray:
    """(ky, kx) 1 where a pixel of the prepared patterns counts, else 0: by ``detector_mask``, and not NaN.

    With a mask for each pattern a pixel counts if it does in all of them. The rim that ``data_shift_vector`` blanks
    does not count.
    """
    measured = experiment.source.shape[1:]
    mask = experiment.settings["detector_mask"]
    good = np.ones(measured)
    if isinstance(mask, np.ndarray):
        # (ky, kx), or (N, ky, kx) -> (ky, kx)
        good = (mask > 0).astype(float) if mask.ndim == 2 else (mask > 0).all(axis=0).astype(float)
    # Blanked pixels are those where a pattern of ones is zero.
    seen = experiment.preprocess.patterns(np.ones((1, *measured), np.float32))[0] > 0
    return experiment.preprocess.weights(good) * seen * np.isfinite(experiment.mean_pattern)


def clean_chunks(experiment: Experiment, weights: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(indices, patterns) with zeros where a pixel does not count."""
    for indices, patterns in experiment.chunks():
        yield indices, np.where(weights > 0, patterns, np.float32(0))


def wrap_deg(angle: float) -> float:
    """The same angle in (-180, 180]."""
    return float(180.0 - (180.0 - angle) % 360.0)
