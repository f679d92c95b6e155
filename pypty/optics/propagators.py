"""Transfer functions of free space between slices."""

from __future__ import annotations

import numpy as np

from pypty.optics.grid import Grid


def fresnel_phase_rate(grid: Grid) -> np.ndarray:
    """(ny, nx): the phase that the Fresnel propagator adds per Å, -pi lambda q^2 (rad/Å)."""
    return -np.pi * grid.wavelength * grid.q2


def angular_spectrum_phase_rate(grid: Grid) -> np.ndarray:
    """(ny, nx): the phase that the exact propagator adds per Å, sqrt(k^2 - (2 pi q)^2) - k, k = 2 pi/lambda (rad/Å).

    Goodman, Introduction to Fourier Optics, 3rd ed., section 3.10, relative to a plane wave along the axis. It has no
    small-angle approximation. Frequencies beyond 1/lambda do not propagate; no electron grid reaches them.
    """
    k = 2 * np.pi / grid.wavelength
    # Evanescent frequencies get the phase -k instead of an invalid square root.
    return np.sqrt(np.maximum(k**2 - (2 * np.pi) ** 2 * grid.q2, 0)) - k


def lens_phase(grid: Grid, Cs_A: float) -> np.ndarray:
    """(ny, nx): phase of the spherical aberration of an imaging lens, -pi/2 Cs lambda^3 q^4 (rad).

    Kirkland, Advanced Computing in Electron Microscopy, chapter 3, with the sign of a propagation.
    """
    return -0.5 * np.pi * Cs_A * grid.wavelength**3 * grid.q2**2


def fresnel(grid: Grid, distance_A: float) -> np.ndarray:
    """(ny, nx) complex128: exp(-i pi lambda z q^2), zero frequency first.

    Kirkland, Advanced Computing in Electron Microscopy, eq. 6.65 with no beam tilt. A positive
    distance carries the wave forward.
    """
    return np.exp(1j * distance_A * fresnel_phase_rate(grid))
