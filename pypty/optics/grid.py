"""The sampling of one diffraction window, in real and in reciprocal space."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Grid:
    """Sampling of a window.

    Attributes
    ----------
    shape : (ny, nx) pixels
    pixel_size_A : (py, px), Å
    wavelength : Å
    """

    shape: tuple[int, int]
    pixel_size_A: tuple[float, float]
    wavelength: float

    @cached_property
    def fy(self) -> np.ndarray:
        """(ny, 1) cycles/pixel, zero frequency first."""
        return np.fft.fftfreq(self.shape[0])[:, None]

    @cached_property
    def fx(self) -> np.ndarray:
        """(1, nx) cycles/pixel, zero frequency first."""
        return np.fft.fftfreq(self.shape[1])[None, :]

    @cached_property
    def qy(self) -> np.ndarray:
        """(ny, 1) spatial frequency, 1/Å."""
        return self.fy / self.pixel_size_A[0]

    @cached_property
    def qx(self) -> np.ndarray:
        """(1, nx) spatial frequency, 1/Å."""
        return self.fx / self.pixel_size_A[1]

    @cached_property
    def q2(self) -> np.ndarray:
        """(ny, nx) squared spatial frequency, 1/Å^2."""
        return self.qy**2 + self.qx**2

    @property
    def largest_frequency(self) -> float:
        """The smaller axis's largest sampled frequency, 1/Å; 0 for a single pixel."""
        return float(min(self.qy.max(), self.qx.max()))

    def band_mask(self, cutoff: float) -> np.ndarray:
        """(ny, nx) bool: |q| up to cutoff x the smaller axis's max(fftfreq) (docs/conventions.md)."""
        return _inside(self.q2, cutoff * self.largest_frequency)


def _inside(q2: np.ndarray, radius: float) -> np.ndarray:
    """Samples inside a circle. One exactly on it is outside, so that rounding never decides: with 32 pixels and a
    cutoff of 2/3, whole lattice points lie on the circle. The zero frequency is always inside."""
    return (q2 < radius**2 * (1 - 1e-9)) | (q2 == 0)


def object_band_mask(shape: tuple[int, int], pixel_size_A: tuple[float, float], cutoff: float) -> np.ndarray:
    """(Y, X) bool: |q| up to cutoff x the Nyquist frequency 1/(2 p) of the coarser axis.

    Relative to Nyquist, not to max(fftfreq), so that it does not depend on the size of the object.
    """
    qy = np.fft.fftfreq(shape[0], pixel_size_A[0])[:, None]
    qx = np.fft.fftfreq(shape[1], pixel_size_A[1])[None, :]
    nyquist = 0.5 / max(pixel_size_A)
    return _inside(qy**2 + qx**2, cutoff * nyquist)
