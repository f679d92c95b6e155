"""Diagonal Gauss-Newton curvature of the amplitude loss: the preconditioner of the optimiser.

For dL = Re<G, dz>, sum I = n^2 sum |psi|^2 and L = sum (sqrt I - sqrt D)^2, the Gauss-Newton diagonal is at most
2 n^2 sum_j |P_j|^2 for an object pixel and 2 n^2 sum_j |O_j|^2 for a probe pixel (the illumination preconditioner of
ePIE and of Thibault and Guizar-Sicairos, New J. Phys. 14 (2012) 063004); for any other real unknown u it is
2 sum |dW/du|^2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pypty.backend import fft, kernels
from pypty.backend.array import Array, Backend, array_module, to_host
from pypty.model.variables import Variables
from pypty.optics.grid import Grid
from pypty.optics.propagators import fresnel_phase_rate

REGULARISATION = 0.03
"""The curvature of badly illuminated pixels is raised by this fraction of the largest."""


@dataclass(frozen=True)
class Curvature:
    """Computes the diagonal for each block.

    Attributes
    ----------
    corners : (n, 2) windows of the patterns in use, host
    mean_pattern : (ny, nx) mean counts in the window, zero frequency first, host
    scale : factor of the noise model and of ``loss_weight``
    """

    backend: Backend
    grid: Grid
    corners: np.ndarray
    mean_pattern: np.ndarray
    scale: float = 1.0

    def diagonal(self, variables: Variables, names: Iterable[str]) -> dict[str, Array]:
        """Positive arrays that broadcast to the named blocks."""
        compute = {
            "obj": self._object,
            "probe": self._probe,
            "positions": self._positions,
            "slice_distances": self._distances,
        }
        return {name: self.scale * compute[name](variables) for name in variables.blocks(names)}

    def _n_pixels(self) -> int:
        return self.grid.shape[0] * self.grid.shape[1]

    def _visits(self, shape: tuple[int, ...]) -> Array:
        """(Y, X): how many windows have their corner at each pixel."""
        visits = np.zeros(shape)
        np.add.at(visits, (self.corners[:, 0], self.corners[:, 1]), 1.0)
        return self.backend.asarray(visits)

    def _object(self, variables: Variables) -> Array:
        """(1, 1, Y, X). The slices act together, so each is given their number times its own curvature."""
        shape = variables.obj.shape[-2:]
        window = kernels.sum_abs2(variables.probe, axes=(0,)).astype(np.float64)
        illumination = _convolve(self._visits(shape), window, shape)
        n_slices = variables.obj.shape[1]
        return (2 * self._n_pixels() * n_slices * _raised(illumination))[None, None].astype(self.backend.real)

    def _probe(self, variables: Variables) -> Array:
        """(1, y, x)."""
        shape = variables.obj.shape[-2:]
        transmitted = kernels.sum_abs2(variables.obj.prod(axis=1), axes=(0,)).astype(np.float64)
        seen = _correlate(self._visits(shape), transmitted, self.grid.shape)
        return (2 * self._n_pixels() * _raised(seen))[None].astype(self.backend.real)

    def _positions(self, variables: Variables) -> Array:
        """(1, 2): 2 sum_q |2 pi f P^|^2, the same for every position.

        At least that of a probe with one period in the window: a plane wave looks the same from everywhere, and its
        positions should then stay where they are rather than jump.
        """
        power = to_host(kernels.sum_abs2(fft.fft2(variables.probe), axes=(0,))).astype(np.float64)
        floor = power.sum() + np.finfo(float).tiny
        values = [
            2 * max(float(((2 * np.pi * f) ** 2 * power).sum()), float((2 * np.pi / f.size) ** 2 * floor))
            for f in (self.grid.fy, self.grid.fx)
        ]
        return self.backend.asarray(np.array([values]))

    def _distances(self, variables: Variables) -> Array:
        """(1,): 2 N sum_q (pi lambda q^2)^2 <I>, all gaps alike; a common distance moves all of them."""
        rate = fresnel_phase_rate(self.grid)
        value = 2 * len(self.corners) * float((rate**2 * self.mean_pattern).sum())
        n_gaps = variables.obj.shape[1] - 1
        repeats = n_gaps**2 if len(variables.slice_distances) == 1 else 1
        return self.backend.asarray(np.array([max(value * repeats, math.ulp(1.0))]))


def _raised(diagonal: Array) -> Array:
    return array_module(diagonal).maximum(diagonal, 0) + REGULARISATION * diagonal.max()


def _convolve(visits: Array, window: Array, shape: tuple[int, ...]) -> Array:
    """sum over corners of ``window`` placed there: the scatter-add of one window, by FFT."""
    xp = array_module(visits)
    return xp.fft.irfft2(xp.fft.rfft2(visits) * xp.fft.rfft2(window, s=shape), s=shape)


def _correlate(visits: Array, image: Array, window: tuple[int, int]) -> Array:
    """sum over corners of the part of ``image`` seen there: the adjoint of :func:`_convolve`."""
    xp = array_module(visits)
    full = xp.fft.irfft2(xp.fft.rfft2(visits).conj() * xp.fft.rfft2(image), s=visits.shape)
    return full[: window[0], : window[1]]
