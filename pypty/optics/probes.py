"""Starting probes, centred at index n//2 of their window, and operations on them.

Probes are (mode, y, x) complex. A probe with the spectrum A has sum |F P|^2 = sum |A|^2 counts.
"""

from __future__ import annotations

import numpy as np

from pypty.optics.aberrations import aberration_phase
from pypty.optics.grid import Grid

_AXES = (-2, -1)


def probe_from_spectrum(spectrum: np.ndarray) -> np.ndarray:
    """Probe (…, y, x) centred at n//2 from its spectrum (…, ky, kx) centred at n//2."""
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(spectrum, _AXES)), _AXES)


def spectrum_of_probe(probe: np.ndarray) -> np.ndarray:
    """Inverse of :func:`probe_from_spectrum`."""
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(probe, _AXES)), _AXES)


def probe_from_pattern(pattern: np.ndarray) -> np.ndarray:
    """(1, y, x): the in-focus probe whose diffraction pattern is ``pattern`` (ky, kx)."""
    return probe_from_spectrum(np.sqrt(np.maximum(pattern, 0)))[None]


def modulate(probe: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """Multiply the spectrum of every mode by exp(-i phase); ``phase`` has its zero frequency first."""
    return np.fft.ifft2(np.fft.fft2(probe) * np.exp(-1j * phase))


def aberrate(probe: np.ndarray, grid: Grid, coefficients_A: np.ndarray) -> np.ndarray:
    """Give every mode the aberrations ``coefficients_A`` (Krivanek order, Å)."""
    return modulate(probe, aberration_phase(grid, coefficients_A))


def defocus(probe: np.ndarray, grid: Grid, distance_A: float) -> np.ndarray:
    """Propagate every mode by ``distance_A``; positive is forward, the sign of C10."""
    return aberrate(probe, grid, np.array([distance_A]))


def resize_spectrum(probe: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Zero-pad or crop the centred spectrum of (mode, y, x) to ``shape``: same field, finer or coarser pixels."""
    return probe_from_spectrum(resize(spectrum_of_probe(probe), shape))


def resize(probe: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Zero-pad or crop (mode, y, x) itself to ``shape``: a larger or smaller window of the same pixels."""
    for axis, size in zip(_AXES, shape, strict=True):
        probe = _resize_axis(probe, axis, size)
    return probe


def _resize_axis(array: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Pad or crop one centred axis so that index n//2 of the old size lands on index size//2."""
    old = array.shape[axis]
    before = size // 2 - old // 2
    # Both tests are needed: cropping an odd size by one pixel leaves the centre where it is, so before == 0.
    if before < 0 or size < old:
        start = -before
        return np.take(array, np.arange(start, start + size), axis=axis)
    padding = [(0, 0)] * array.ndim
    padding[axis] = (before, size - old - before)
    return np.pad(array, padding)
