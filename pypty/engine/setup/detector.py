"""What the mean pattern and the parameters say of the disk: its angle, and the electrons outside of it."""

from __future__ import annotations

import math

import numpy as np

from pypty.data.disk import DiskFacts, Scattering, disk_facts
from pypty.engine.setup.assembly import Setup


def given_number(setup: Setup, key: str) -> float | None:
    """A recorded key as a number; None if it is not given or not a number."""
    value = setup.settings.value(key)
    try:
        number = math.nan if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def measured_disk(setup: Setup) -> DiskFacts | None:
    """The bright-field disk of the mean pattern; None in the near field and for virtual detectors."""
    if setup.near_field or setup.settings["masks"] is not None or setup.survey is None:
        return None
    return disk_facts(setup.survey.mean, setup.window.pixel_1A)


def semiangle_rad(setup: Setup, disk: DiskFacts | None) -> float | None:
    """The semi-angle of convergence: as given, else that of the disk; None without either."""
    semiangle = given_number(setup, "conv_semiangle_mrad")
    if semiangle is not None and semiangle > 0 and not setup.near_field:
        return 1e-3 * semiangle
    return None if disk is None else disk.radius_1A * setup.grid.wavelength


def scattering(setup: Setup, noise: float = 1.0) -> Scattering | None:
    """The scattered electrons of the patterns, in data units; None if the dark field is not seen.

    Parameters
    ----------
    noise : variance of the noise over the mean, data units
    """
    disk, surveyed = measured_disk(setup), setup.survey
    if disk is None or surveyed is None or surveyed.variance is None or not disk.outside.any():
        return None
    mean = surveyed.mean
    if surveyed.weights is not None:  # a masked pixel is zero in some patterns, which is no signal
        mean = np.where(surveyed.weights >= 1, mean, 0.0)
    return Scattering.of(mean, surveyed.variance, disk.outside, noise)
