"""Which pixels tell how well the model describes the data, and in which units."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import binary_erosion

from pypty.backend.array import Array, to_host
from pypty.objective.deviance import CountModel
from pypty.objective.objective import Objective
from pypty.params.settings import Settings

if TYPE_CHECKING:
    from pypty.engine.setup.assembly import Setup


def count_model(settings: Settings) -> CountModel:
    """From data units to electrons, as the noise model has it."""
    if settings["algorithm"] == "poisson_gaussian" and settings["loss_terms"] is None:
        return CountModel(settings["detector_gain"], settings["readout_noise"])
    return CountModel()


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


def usable_pixels(setup: Setup, objective: Objective) -> Array:
    """(ky, kx), in the model's pixel order: 1 for measured pixels in which the model can have counts, else 0.

    The pixels along the band limit are left out, since only a part of each is inside.
    """
    usable, reachable = measured_pixels(setup), objective.model.reachable
    if reachable is not None:
        # (1, ky, kx) -> (ky, kx), zero frequency at n//2
        limit = setup.from_model(to_host(reachable).reshape(1, *setup.data_shape))[0]
        inner = binary_erosion(limit.reshape(setup.data_shape), np.ones((3, 3)), border_value=1)
        usable &= setup.to_model(inner[None])[0]
    return setup.backend.asarray(usable.astype(float), setup.backend.real)
