"""Which pixels tell how well the model describes the data, and in which units."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import binary_erosion

from pypty.backend.array import Array, to_host
from pypty.objective.deviance import CountModel

if TYPE_CHECKING:
    from pypty.engine.setup.assembly import Setup


def count_model(setup: Setup) -> CountModel:
    """From data units to electrons: as the noise model has it, else by the factor of ``data_normalization``."""
    settings = setup.settings
    if _names_noise(setup):
        return CountModel(settings["detector_gain"], settings["readout_noise"])
    electron = None if setup.survey is None else setup.survey.electron
    # data_multiplier makes electrons of the values, as the choice of the noise model has it; a normalisation does not
    return (
        CountModel() if electron is None or settings["data_normalization"] is None else CountModel(electron)
    )


def knows_counts(setup: Setup) -> bool:
    """Whether it is known how data units become electrons, so that a deviance has an expected value."""
    return _names_noise(setup) or (setup.survey is not None and setup.survey.electron is not None)


def _names_noise(setup: Setup) -> bool:
    return setup.settings["algorithm"] == "poisson_gaussian" and setup.settings["loss_terms"] is None


def measured_pixels(setup: Setup) -> np.ndarray:
    """(ky, kx) bool, in the model's pixel order: compared pixels that are no padding."""
    inside = np.zeros(setup.data_shape, bool)
    if setup.settings["masks"] is not None:
        return ~inside
    rows, columns = (
        slice((m - n) // 2, (m - n) // 2 + n)
        for m, n in zip(setup.data_shape, setup.window.pattern, strict=True)
    )
    inside[rows, columns] = True
    return setup.to_model(inside[None])[0]


def usable_pixels(setup: Setup, reachable: Array) -> Array:
    """(ky, kx), in the model's pixel order: 1 for measured pixels in which the model can have counts, else 0.

    The pixels along the band limit are left out, since only a part of each is inside.

    Parameters
    ----------
    reachable : of the model: compared pixels that can have counts; None = all
    """
    usable = measured_pixels(setup)
    if reachable is not None:
        # (1, ky, kx) -> (ky, kx), zero frequency at n//2
        limit = setup.from_model(to_host(reachable).reshape(1, *setup.data_shape))[0]
        inner = binary_erosion(limit.reshape(setup.data_shape), np.ones((3, 3)), border_value=1)
        usable &= setup.to_model(inner[None])[0]
    return setup.backend.asarray(usable.astype(float), setup.backend.real)
