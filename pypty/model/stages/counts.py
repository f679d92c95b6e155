"""Effects on intensities (batch, ky, kx) on their way to counts."""

from __future__ import annotations

import math

import numpy as np

from pypty.backend import fft, kernels
from pypty.backend.array import Array, Backend, array_module, to_host
from pypty.data.batch import Batch
from pypty.model.blocks import Variables
from pypty.model.options import ModelOptions
from pypty.model.stages.base import Gradients, Tape, add_rows, rows_of
from pypty.optics.grid import Grid

_AXES = (-2, -1)


class BeamCurrent:
    """I_j <- b_j^2 I_j: ``beam_current`` b multiplies the probe's amplitude. Its sign has no meaning."""

    lights_dark = False
    in_graphs = True

    @classmethod
    def for_model(cls, options: ModelOptions, backend: Backend) -> BeamCurrent | None:
        return cls() if "beam_current" in options.unknowns else None

    def prepare(self, variables: Variables) -> Array:
        return variables.beam_current

    def forward(self, intensity: Array, point: Array, batch: Batch, tape: Tape) -> Array:
        tape["intensity"] = intensity
        current = rows_of(point, batch)[:, None, None]
        return intensity * (current**2).astype(intensity.dtype)

    def adjoint(self, grad: Array, point: Array, batch: Batch, tape: Tape, gradients: Gradients) -> Array:
        current = rows_of(point, batch)
        if "beam_current" in gradients:
            # (b, ky, kx) -> (b,)
            slope = (grad * tape["intensity"]).sum(axis=_AXES, dtype=np.float64)
            add_rows(gradients["beam_current"], batch, 2 * current * slope)
        return grad * (current**2)[:, None, None].astype(grad.dtype)


class SourceEnvelope:
    """Partial coherence of near-field images: I_j <- max(0, Re F^-1[ exp(-q^2 (pi alpha df_j)^2) F[I_j] ]).

    An illumination of semi-angle alpha blurs a defocused image by a Gaussian of standard deviation
    alpha df/sqrt(2) (Frank, Optik 38 (1973) 519, for a Gaussian source). Where rounding, or the sampling of a very
    narrow Gaussian, would make an intensity negative, it is set to zero.

    Parameters
    ----------
    alpha : rad
    defocus : (1,) or (N,) Å
    """

    lights_dark = True
    in_graphs = False

    @classmethod
    def for_model(cls, options: ModelOptions, backend: Backend) -> SourceEnvelope | None:
        near = options.near_field
        if near is None or near.alpha == 0:
            return None
        return cls(options.grid, backend, near.alpha, near.defocus)

    def __init__(self, grid: Grid, backend: Backend, alpha: float, defocus: np.ndarray) -> None:
        self.backend = backend
        self.q2 = backend.asarray(grid.q2, np.float64)
        self.squares = backend.asarray((np.pi * alpha * np.asarray(defocus, float)) ** 2, np.float64)

    def prepare(self, variables: Variables) -> None:
        return None

    def _blurred(self, intensity: Array, batch: Batch) -> Array:
        squares = rows_of(self.squares, batch)[:, None, None]
        envelope = self.backend.xp.exp(-squares * self.q2).astype(intensity.dtype)
        return fft.ifft2(fft.fft2(intensity) * envelope, overwrite=True).real

    def forward(self, intensity: Array, point: None, batch: Batch, tape: Tape) -> Array:
        blurred = self._blurred(intensity, batch)
        tape["positive"] = blurred > 0
        return blurred * tape["positive"]

    def adjoint(self, grad: Array, point: None, batch: Batch, tape: Tape, gradients: Gradients) -> Array:
        return self._blurred(grad * tape["positive"], batch)  # a symmetric kernel is its own adjoint


class DetectorBlur:
    """I <- K_y I K_x^T: the detector's point spread, a periodic Gaussian that sums to 1.

    K[i, j] ~ exp(-d(i, j)^2/(2 s^2)), d the periodic distance of two pixels, s = upsampling x
    ``detector_blur_std``. As a matrix with positive elements it never makes an intensity negative, and it is exact
    for any width, down to s = 0 (no blur).
    """

    lights_dark = True
    in_graphs = True

    @classmethod
    def for_model(cls, options: ModelOptions, backend: Backend) -> DetectorBlur | None:
        if "detector_blur_std" not in options.unknowns or options.reflected_blur:
            return None
        return cls(options.grid.shape, backend, options.across)

    def __init__(
        self, shape: tuple[int, int], backend: Backend, upsample: float | tuple[float, float] = 1
    ) -> None:
        self.backend = backend
        self.upsample = upsample if isinstance(upsample, tuple) else (upsample, upsample)
        self.squares = [backend.asarray(_squared_distances(n), np.float64) for n in shape]

    def prepare(self, variables: Variables) -> list[tuple[Array, Array]]:
        """For y and x: the matrix and its derivative with respect to the width."""
        width = float(to_host(variables.detector_blur_std)[0])
        return [self._matrix(*axis, width) for axis in zip(self.squares, self.upsample, strict=True)]

    def _matrix(self, squares: Array, upsample: float, width: float) -> tuple[Array, Array]:
        xp, real = self.backend.xp, self.backend.real
        std = abs(width) * upsample
        if std < 1e-3:  # the neighbours' share is less than exp(-5e5)
            return xp.eye(len(squares), dtype=real), xp.zeros(squares.shape, real)
        kernel = xp.exp(-squares / (2 * std**2))
        # (n, n), rows of sum 1: a blur keeps the counts
        kernel /= kernel.sum(axis=1, keepdims=True)
        # d/ds of exp(-d^2/2s^2)/sum: the second term keeps the sum of each row at 1
        change = kernel * squares / std**3
        change -= kernel * change.sum(axis=1, keepdims=True)
        return kernel.astype(real), (math.copysign(upsample, width) * change).astype(real)

    def forward(self, intensity: Array, point: list, batch: Batch, tape: Tape) -> Array:
        (rows, _), (columns, _) = point
        tape["intensity"] = intensity
        return kernels.along_axes(rows, intensity, columns)  # (ny, ny) @ (b, ny, nx) @ (nx, nx)

    def adjoint(self, grad: Array, point: list, batch: Batch, tape: Tape, gradients: Gradients) -> Array:
        (rows, rows_change), (columns, columns_change) = point
        if "detector_blur_std" in gradients:
            intensity = tape["intensity"]
            # dI/ds by the product rule: (b, ky, kx)
            change = kernels.along_axes(rows_change, intensity, columns)
            change += kernels.along_axes(rows, intensity, columns_change)
            gradients["detector_blur_std"][0] += (grad * change).sum(dtype=np.float64)
        return kernels.along_axes(rows.T, grad, columns.T)


def _squared_distances(n: int) -> np.ndarray:
    """(n, n) squared distance of two pixels on a ring of n."""
    steps = np.abs(np.arange(n)[:, None] - np.arange(n)[None, :])
    return np.minimum(steps, n - steps).astype(float) ** 2


class KeptPixels:
    """Keep some rows and columns of the pattern; the others were not measured.

    Parameters
    ----------
    shape : (ny, nx) of the pattern
    rows, columns : indices of the kept ones, in their new order
    """

    def __init__(
        self, shape: tuple[int, int], rows: np.ndarray, columns: np.ndarray, backend: Backend
    ) -> None:
        self.backend = backend
        self.shape = shape
        self.rows, self.columns = backend.asarray(rows), backend.asarray(columns)

    def prepare(self, variables: Variables) -> None:
        return None

    def forward(self, intensity: Array, point: None, batch: Batch, tape: Tape) -> Array:
        return intensity[:, self.rows[:, None], self.columns[None, :]]

    def adjoint(self, grad: Array, point: None, batch: Batch, tape: Tape, gradients: Gradients) -> Array:
        # (b, ky, kx) -> (b, ny, nx): pixels that were cut off have no gradient
        full = self.backend.zeros((grad.shape[0], *self.shape), grad.dtype)
        full[:, self.rows[:, None], self.columns[None, :]] = grad
        return full


class CropPadding(KeptPixels):
    """Keep the central part of the pattern: the padded rim of the model was not measured.

    Parameters
    ----------
    centred : the centre is at n//2 (near field) instead of at the corner (zero frequency first)
    """

    lights_dark = False
    in_graphs = True

    @classmethod
    def for_model(cls, options: ModelOptions, backend: Backend) -> CropPadding | None:
        return cls(options.grid.shape, options.crop, backend, options.centred) if options.crop else None

    def __init__(self, shape: tuple[int, int], pad: int, backend: Backend, centred: bool = False) -> None:
        rows, columns = (np.arange(pad, n - pad) if centred else _kept(n, pad) for n in shape)
        super().__init__(shape, rows, columns, backend)


def _kept(n: int, pad: int) -> np.ndarray:
    """Indices (zero frequency first) of the n - 2 pad central frequencies, zero frequency first."""
    small = n - 2 * pad
    frequency = np.fft.ifftshift(np.arange(small) - small // 2)
    return frequency % n


class SumPixels:
    """Blocks of u x u model pixels make one detector pixel (``upsample_pattern``).

    Blocks are counted from the first pixel of the centred pattern, as the detector's are.

    Parameters
    ----------
    centred : patterns are in that order already (near field), instead of with the zero frequency first
    """

    lights_dark = False
    in_graphs = True

    @classmethod
    def for_model(cls, options: ModelOptions, backend: Backend) -> SumPixels | None:
        return cls(options.upsample, options.centred) if options.upsample > 1 else None

    def __init__(self, upsample: int, centred: bool = False) -> None:
        self.upsample = upsample
        self.centred = centred

    def prepare(self, variables: Variables) -> None:
        return None

    def forward(self, intensity: Array, point: None, batch: Batch, tape: Tape) -> Array:
        u = self.upsample
        pattern = self._to_centre(intensity)
        b, ny, nx = pattern.shape
        # (b, ky u, kx u) -> (b, ky, u, kx, u) -> (b, ky, kx)
        return self._to_corner(pattern.reshape(b, ny // u, u, nx // u, u).sum(axis=(2, 4)))

    def adjoint(self, grad: Array, point: None, batch: Batch, tape: Tape, gradients: Gradients) -> Array:
        u = self.upsample
        # every model pixel of a block gets the gradient of its detector pixel: (b, ky, kx) -> (b, ky u, kx u)
        return self._to_corner(self._to_centre(grad).repeat(u, axis=1).repeat(u, axis=2))

    def _to_centre(self, pattern: Array) -> Array:
        return pattern if self.centred else array_module(pattern).fft.fftshift(pattern, axes=_AXES)

    def _to_corner(self, pattern: Array) -> Array:
        return pattern if self.centred else array_module(pattern).fft.ifftshift(pattern, axes=_AXES)


class Background:
    """I <- I + b^2: counts that do not come from the specimen, the same in every pattern (``static_background``).

    They reach every pixel of the detector, also those beyond the band limit. dL/db = 2 b sum_j dL/dI_j.

    Parameters
    ----------
    centred : patterns have their centre at n//2, as b has, instead of the zero frequency first
    """

    lights_dark = True
    in_graphs = True

    @classmethod
    def for_model(cls, options: ModelOptions, backend: Backend) -> Background | None:
        return cls(options.centred) if "static_background" in options.unknowns else None

    def __init__(self, centred: bool = False) -> None:
        self.centred = centred

    def prepare(self, variables: Variables) -> Array:
        """b in the order of the model's patterns."""
        b = variables.static_background
        return b if self.centred else array_module(b).fft.ifftshift(b)

    def forward(self, intensity: Array, point: Array, batch: Batch, tape: Tape) -> Array:
        return intensity + (point**2).astype(intensity.dtype)

    def adjoint(self, grad: Array, point: Array, batch: Batch, tape: Tape, gradients: Gradients) -> Array:
        if "static_background" in gradients:
            # (b, ky, kx) -> (ky, kx): one background for all patterns
            slope = 2 * point * grad.sum(axis=0, dtype=np.float64)
            if not self.centred:
                slope = array_module(slope).fft.fftshift(slope)
            gradients["static_background"][...] += slope
        return grad


class VirtualDetectors:
    """c_d = sum over pixels of I mask_d: (batch, 1, D) (``masks``).

    Parameters
    ----------
    masks : (D, ky, kx), in the order of the model's patterns
    """

    lights_dark = True
    in_graphs = False

    @classmethod
    def for_model(cls, options: ModelOptions, backend: Backend) -> VirtualDetectors | None:
        return None if options.masks is None else cls(options.masks, backend)

    def __init__(self, masks: np.ndarray, backend: Backend) -> None:
        self.shape = masks.shape[1:]
        # (D, ky, kx) -> (D, ky kx)
        self.masks = backend.asarray(masks.reshape(len(masks), -1), backend.real)

    def prepare(self, variables: Variables) -> None:
        return None

    def forward(self, intensity: Array, point: None, batch: Batch, tape: Tape) -> Array:
        return (intensity.reshape(len(intensity), -1) @ self.masks.T)[
            :, None
        ]  # (b, ky kx) @ (ky kx, D) -> (b, 1, D)

    def adjoint(self, grad: Array, point: None, batch: Batch, tape: Tape, gradients: Gradients) -> Array:
        return (grad[:, 0] @ self.masks).reshape(-1, *self.shape)  # (b, D) @ (D, ky kx) -> (b, ky, kx)
