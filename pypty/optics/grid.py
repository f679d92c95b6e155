"""Sampling of the window of a probe or a diffraction pattern, in real and in reciprocal space."""

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
        """Largest sampled frequency of the axis that reaches less far, 1/Å; 0 for a single pixel."""
        return float(min(self.qy.max(), self.qx.max()))

    def band_mask(self, cutoff: float) -> np.ndarray:
        """(ny, nx) bool: |q| up to cutoff x :attr:`largest_frequency` (docs/conventions.md)."""
        return _inside(self.q2, cutoff * self.largest_frequency)

    def soft_band_mask(self, cutoff: float, rolloff: float) -> np.ndarray:
        """(ny, nx): as :meth:`band_mask`, falling to zero over the outermost ``rolloff``."""
        largest = self.largest_frequency
        return self.band_mask(cutoff) * _soft_edge(self.q2, (cutoff - rolloff) * largest, cutoff * largest)


def _inside(q2: np.ndarray, radius: float) -> np.ndarray:
    """Samples inside a circle; samples on it are outside. The zero frequency is always inside.

    The tolerance keeps the result independent of rounding: with 32 pixels and a cutoff of 2/3, for example, some
    samples lie exactly on the circle.
    """
    return (q2 < radius**2 * (1 - 1e-9)) | (q2 == 0)


def _soft_edge(q2: np.ndarray, inner: float, outer: float) -> np.ndarray:
    """1 up to the inner radius, then (1 + cos(pi (q^2 - r0^2)/(R^2 - r0^2)))/2 down to 0 at the outer one."""
    # ``tiny`` avoids 0/0 where inner == outer: the edge is then a step.
    fraction = np.clip((q2 - inner**2) / max(outer**2 - inner**2, np.finfo(float).tiny), 0, 1)
    return 0.5 * (1 + np.cos(np.pi * fraction))


def object_band_mask(
    shape: tuple[int, int], pixel_size_A: tuple[float, float], cutoff: float, rolloff: float = 0.0
) -> np.ndarray:
    """(Y, X): 1 for |q| up to cutoff x the Nyquist frequency 1/(2 p) of the coarser axis, else 0; bool without rolloff.

    The cutoff is relative to Nyquist and not to max(fftfreq), which depends on the number of pixels: objects of
    different size get the same limit in 1/Å.
    """
    qy = np.fft.fftfreq(shape[0], pixel_size_A[0])[:, None]
    qx = np.fft.fftfreq(shape[1], pixel_size_A[1])[None, :]
    nyquist = 0.5 / max(pixel_size_A)
    q2 = qy**2 + qx**2
    inside = _inside(q2, cutoff * nyquist)
    return inside if rolloff == 0 else inside * _soft_edge(q2, (cutoff - rolloff) * nyquist, cutoff * nyquist)
