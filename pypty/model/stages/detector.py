"""From the exit wave to counts: far field, incoherent sum of modes, cropping of a padded rim."""

from __future__ import annotations

import numpy as np

from pypty.backend import fft, kernels
from pypty.backend.array import Array, Backend
from pypty.data.feed import Batch
from pypty.model.stages.base import Gradients, Tape
from pypty.model.variables import Variables


class FarField:
    """W = M F[psi], unnormalised transform, zero frequency first; M is the band limit."""

    def __init__(self, mask: np.ndarray, backend: Backend) -> None:
        self.mask = None if mask.all() else backend.asarray(mask, backend.real)

    def prepare(self, variables: Variables) -> None:
        return None

    def forward(self, wave: Array, point: None, batch: Batch, tape: Tape) -> Array:
        spectrum = fft.fft2(wave, overwrite=True)
        if self.mask is not None:
            spectrum *= self.mask
        return spectrum

    def adjoint(self, grad: Array, point: None, batch: Batch, tape: Tape, gradients: Gradients) -> Array:
        if self.mask is not None:
            grad = grad * self.mask
        return fft.fft2_adjoint(grad, overwrite=True)


class Intensity:
    """I = sum over probe and object modes of |W|^2: modes are incoherent and their counts add.

    dL/dW = 2 (dL/dI) W.
    """

    def prepare(self, variables: Variables) -> None:
        return None

    def forward(self, wave: Array, point: None, batch: Batch, tape: Tape) -> Array:
        tape["wave"] = wave
        return kernels.sum_abs2(wave, axes=(1, 2))

    def adjoint(self, grad: Array, point: None, batch: Batch, tape: Tape, gradients: Gradients) -> Array:
        return (2 * grad)[:, None, None] * tape["wave"]


class CropPadding:
    """Keep the central part of the pattern: the padded rim of the model was not measured.

    With the zero frequency first, the central part is the corners, so rows and columns are picked.
    """

    def __init__(self, shape: tuple[int, int], pad: int, backend: Backend) -> None:
        self.backend = backend
        self.shape = shape
        self.rows, self.columns = (backend.asarray(_kept(n, pad)) for n in shape)

    def prepare(self, variables: Variables) -> None:
        return None

    def forward(self, intensity: Array, point: None, batch: Batch, tape: Tape) -> Array:
        return intensity[:, self.rows[:, None], self.columns[None, :]]

    def adjoint(self, grad: Array, point: None, batch: Batch, tape: Tape, gradients: Gradients) -> Array:
        full = self.backend.zeros((grad.shape[0], *self.shape), grad.dtype)
        full[:, self.rows[:, None], self.columns[None, :]] = grad
        return full


def _kept(n: int, pad: int) -> np.ndarray:
    """Indices (zero frequency first) of the n - 2 pad central frequencies, zero frequency first."""
    small = n - 2 * pad
    frequency = np.fft.ifftshift(np.arange(small) - small // 2)
    return frequency % n
