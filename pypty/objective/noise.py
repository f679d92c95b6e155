"""Noise models: a loss between modelled and measured counts, and its derivative.

Sums run over all pixels. D = measured, I = modelled counts. Where the model can never have counts (outside the band
limit) I is exactly zero; it is replaced by 1 where it would be a divisor: the wave there is zero, and so is its
gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import numpy as np

from pypty.backend import kernels
from pypty.backend.array import Array, array_module

_ROUNDING = 30
"""Rounding of an amplitude, in units of eps times the largest amplitude: a generous bound."""


class NoiseModel(Protocol):
    """A loss l(I, D) per pixel.

    ``curvature`` is the mean second derivative of the loss with respect to the amplitude sqrt(I) at I = D, in
    units of that of ``lsq_sqrt`` (2); it scales the preconditioner.
    """

    def loss_and_slope(self, intensity: Array, data: Array, reachable: Array = None) -> tuple[Array, Array]:
        """Loss per pixel, and its derivative with respect to I.

        Parameters
        ----------
        intensity, data : I and D, (batch, ky, kx)
        reachable : (ky, kx) bool, where the model can have counts; None = wherever it has any
        """

    def curvature(self, mean_pattern: np.ndarray) -> float:
        """See above; ``mean_pattern`` is the mean measured pattern."""


def _one_where_zero(array: Array) -> Array:
    return array_module(array).where(array == 0, array.dtype.type(1), array)


class LsqSqrt:
    """Amplitudes: (sqrt I - sqrt D)^2, the variance-stabilised Gaussian approximation of Poisson noise
    (Thibault and Guizar-Sicairos, New J. Phys. 14 (2012) 063004)."""

    def loss_and_slope(self, intensity: Array, data: Array, reachable: Array = None) -> tuple[Array, Array]:
        xp = array_module(intensity)
        amplitude = xp.sqrt(intensity)
        difference = amplitude - xp.sqrt(data)
        return difference**2, difference / _one_where_zero(amplitude)

    def curvature(self, mean_pattern: np.ndarray) -> float:
        return 1.0


class Poisson:
    """Maximum likelihood for counts (``ml``): I - D log I, without the constant log D!.

    An intensity that is only rounding of the Fourier transform is raised to that rounding in the logarithm, and has
    no slope: D/I there is arbitrary and as large as 1e30, where a sharp probe has left the detector dark. Lighting
    such a pixel up then lowers the loss, as it should.
    """

    def loss_and_slope(self, intensity: Array, data: Array, reachable: Array = None) -> tuple[Array, Array]:
        xp = array_module(intensity)
        one, zero = intensity.dtype.type(1), intensity.dtype.type(0)
        floor = xp.maximum(
            (_ROUNDING * np.finfo(intensity.dtype).eps) ** 2 * intensity.max(), intensity.dtype.type(0)
        )
        never = (intensity == 0) if reachable is None else ~reachable
        dark = (intensity <= floor) & ~never
        if floor == 0:
            never = intensity == 0
        safe = xp.where(never, one, xp.where(dark, floor, intensity))
        return intensity - data * xp.log(safe), xp.where(dark, zero, (intensity - data) / safe)

    def curvature(self, mean_pattern: np.ndarray) -> float:
        return 2.0


class Lsq:
    """Intensities: (I - D)^2."""

    def loss_and_slope(self, intensity: Array, data: Array, reachable: Array = None) -> tuple[Array, Array]:
        difference = intensity - data
        return difference**2, 2 * difference

    def curvature(self, mean_pattern: np.ndarray) -> float:
        """8 I / 2, averaged over the counts."""
        return float(4 * (mean_pattern**2).sum() / mean_pattern.sum())


class LsqSqrt2:
    """(D - I)^2 / (2 D) where D > 1/2, else I: the second-order expansion of the Poisson likelihood."""

    threshold = 0.5

    def loss_and_slope(self, intensity: Array, data: Array, reachable: Array = None) -> tuple[Array, Array]:
        xp = array_module(intensity)
        counted = data > self.threshold
        safe = xp.where(counted, data, data.dtype.type(1))
        loss = xp.where(counted, (data - intensity) ** 2 / (2 * safe), intensity)
        return loss, xp.where(counted, intensity / safe - 1, intensity.dtype.type(1))

    def curvature(self, mean_pattern: np.ndarray) -> float:
        return 2.0


NOISE_MODELS: Mapping[str, NoiseModel] = MappingProxyType(
    {
        "lsq_sqrt": LsqSqrt(),
        "ml": Poisson(),
        "lsq": Lsq(),
        "lsq_sqrt_2": LsqSqrt2(),
    }
)


def score(
    noise: NoiseModel, intensity: Array, data: Array, weights: Array, reachable: Array = None
) -> tuple[float, float, Array]:
    """Weighted loss, weighted sum of squared errors (both accumulated in float64), and dLoss/dI.

    Parameters
    ----------
    intensity, data : (batch, ky, kx)
    weights : broadcasts to them, or None for 1
    reachable : (ky, kx) where the model can have counts
    """
    loss, slope = noise.loss_and_slope(intensity, data, reachable)
    errors = (intensity - data) ** 2
    if weights is not None:
        loss, slope, errors = loss * weights, slope * weights, errors * weights
    return kernels.total(loss), kernels.total(errors), slope
