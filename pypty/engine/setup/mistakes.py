"""Warnings about likely mistakes: parameters that are possible, and seldom meant."""

from __future__ import annotations

import numpy as np

from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.band_limit import band_limit_warning
from pypty.engine.setup.noise import bias_warning
from pypty.params.schema import SCHEMA

_PIXEL_TOLERANCE = 0.02


def likely_mistakes(setup: Setup) -> list[str]:
    """Warnings, from parameters and mean pattern."""
    settings, found = setup.settings, []
    for key in ("acc_voltage", "pixel_size_x_A", "pixel_size_y_A"):
        if key not in settings.set_by_user:
            found.append(f"{key} is not given: {settings.value(key):g} {SCHEMA[key].unit} is assumed")
    rez = settings["rez_pixel_size_A"]
    if isinstance(rez, (int, float)) and rez > 0 and settings["data_bin"] == 1:
        # a pixel size in reciprocal space fixes that in real space: p = 1/(n dk)
        pixel_1A = rez * setup.window.detector_pixels
        expected = setup.window.calibrated((pixel_1A, pixel_1A)).pixel_size_A[1]
        if abs(settings["pixel_size_x_A"] / expected - 1) > _PIXEL_TOLERANCE:
            found.append(
                f"pixel_size_x_A = {settings['pixel_size_x_A']:g} Å, but rez_pixel_size_A = {rez:g} 1/Å and "
                f"{setup.grid.shape[1]} pixels (padding included) give {expected:.4g} Å"
            )
    probe = settings["probe"]
    if setup.near_field and isinstance(probe, np.ndarray) and probe.shape[:2] != setup.grid.shape:
        found.append(
            f"the probe {probe.shape[:2]} is smaller or larger than the window {setup.grid.shape}: zeros are put "
            "around it, or it is cut; give a plane wave in the whole window"
        )
    if setup.survey is not None:
        found += [text for text in (band_limit_warning(setup), bias_warning(setup)) if text is not None]
    return found
