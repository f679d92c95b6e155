"""Transfer functions of free space between slices."""

from __future__ import annotations

import numpy as np

from pypty.optics.grid import Grid


def fresnel_phase_rate(grid: Grid) -> np.ndarray:
    """(ny, nx): the phase that the Fresnel propagator adds per Å, -pi lambda q^2 (rad/Å)."""
    return -np.pi * grid.wavelength * grid.q2


def fresnel(grid: Grid, distance_A: float) -> np.ndarray:
    """(ny, nx) complex128: exp(-i pi lambda z q^2), zero frequency first.

    Kirkland, Advanced Computing in Electron Microscopy, eq. 6.65 with no beam tilt. A positive
    distance carries the wave forward.
    """
    return np.exp(1j * distance_A * fresnel_phase_rate(grid))
