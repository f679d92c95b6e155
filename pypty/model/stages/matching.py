"""From the pixels of a simulated pattern to those of the measured one, and a blur reflected at the detector's rim."""

from __future__ import annotations

import math

import numpy as np

from pypty.backend import kernels
from pypty.backend.array import Array, Backend, to_host
from pypty.data.batch import Batch
from pypty.data.resample import interpolation_matrix, reflected_gaussian
from pypty.model.blocks import Variables
from pypty.model.options import ModelOptions
from pypty.model.stages.base import Gradients, Tape
from pypty.model.stages.counts import DetectorBlur, KeptPixels


def reordered(matrix: np.ndarray) -> np.ndarray:
    """A matrix for patterns whose axes have the zero frequency first, from one for centred patterns."""
    return np.fft.ifftshift(matrix)


class MatchCrop(KeptPixels):
    """Keep the central m of n pixels along each axis, from the (n - m)//2-th of the centred pattern on
    (``simu_match_mode`` crop).

    Parameters
    ----------
    shape, compared : (ny, nx) of a simulated pattern, (ky, kx) of a measured one
    centred : patterns have their centre at n//2 (near field) instead of the zero frequency first
    """

    lights_dark = False
    in_graphs = True

    @classmethod
    def for_model(cls, options: ModelOptions, backend: Backend) -> MatchCrop | None:
        if options.matched is None or options.resampled:
            return None
        return cls(options.grid.shape, options.matched, backend, options.centred)

    def __init__(
        self, shape: tuple[int, int], compared: tuple[int, int], backend: Backend, centred: bool = False
    ) -> None:
        rows, columns = (_central(n, m, centred) for n, m in zip(shape, compared, strict=True))
        super().__init__(shape, rows, columns, backend)


def _central(n: int, m: int, centred: bool) -> np.ndarray:
    """(m,) indices of the kept pixels out of n."""
    index = np.arange(m) + (n - m) // 2
    # reordered so that the kept zero frequency comes first, then counted from that of the n pixels
    return index if centred else (np.fft.ifftshift(index) - n // 2) % n


class MatchResample:
    """I <- R_y I R_x^T (ny nx)/(ky kx): bilinear interpolation that keeps the sum (``simu_match_mode`` resample).

    The middle of pixel i of the measured pattern is at x = (i + 1/2) n/m - 1/2 of the centred simulated one. For
    n = 2 m that is the sum of blocks of two by two pixels; for n >= 3 m pixels between the samples are not used.
    """

    lights_dark = False
    in_graphs = True

    @classmethod
    def for_model(cls, options: ModelOptions, backend: Backend) -> MatchResample | None:
        if options.matched is None or not options.resampled:
            return None
        return cls(options.grid.shape, options.matched, backend, options.centred)

    def __init__(
        self, shape: tuple[int, int], compared: tuple[int, int], backend: Backend, centred: bool = False
    ) -> None:
        matrices = [interpolation_matrix(n, m) * (n / m) for n, m in zip(shape, compared, strict=True)]
        self.rows, self.columns = (
            backend.asarray(matrix if centred else reordered(matrix), backend.real) for matrix in matrices
        )

    def prepare(self, variables: Variables) -> None:
        return None

    def forward(self, intensity: Array, point: None, batch: Batch, tape: Tape) -> Array:
        # (ky, ny) @ (b, ny, nx) @ (nx, kx) -> (b, ky, kx)
        return kernels.along_axes(self.rows, intensity, self.columns)

    def adjoint(self, grad: Array, point: None, batch: Batch, tape: Tape, gradients: Gradients) -> Array:
        return kernels.along_axes(self.rows.T, grad, self.columns.T)


class ReflectedBlur(DetectorBlur):
    """I <- K_y I K_x^T: a Gaussian point spread of the measured pixels, reflected at the rim of the detector
    (``detector_blur_edge`` reflect).

    K has max(5, 2 round(3 s) + 1) pixels with weights exp(-t^2/2 s^2) that sum to 1. The gradient of s is that of the
    weights; their number, which changes in steps, counts as constant.
    """

    lights_dark = True
    in_graphs = True

    @classmethod
    def for_model(cls, options: ModelOptions, backend: Backend) -> ReflectedBlur | None:
        if "detector_blur_std" not in options.unknowns or not options.reflected_blur:
            return None
        return cls(options.measured, backend, options.centred)

    def __init__(self, shape: tuple[int, int], backend: Backend, centred: bool = False) -> None:
        self.backend = backend
        self.shape = shape
        self.centred = centred

    def prepare(self, variables: Variables) -> list[tuple[Array, Array]]:
        """For y and x: the matrix and its derivative with respect to the width."""
        width = float(to_host(variables.detector_blur_std)[0])
        length = max(5, 2 * round(3 * abs(width)) + 1)
        return [self._matrices(n, width, length) for n in self.shape]

    def _matrices(self, n: int, width: float, length: int) -> tuple[Array, Array]:
        blur, change = reflected_gaussian(n, abs(width), length)
        pair = (blur, math.copysign(1.0, width) * change)
        first, second = (
            self.backend.asarray(matrix if self.centred else reordered(matrix), self.backend.real)
            for matrix in pair
        )
        return first, second
