"""Scattering by the slices and propagation between them. A single slice is the case S = 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pypty.backend import fft, kernels
from pypty.backend.array import Array, Backend
from pypty.data.feed import Batch
from pypty.model.stages.base import Gradients, Tape, sum_to_shape
from pypty.model.stages.propagation import Propagation, PropagationPoint
from pypty.model.variables import Variables
from pypty.optics.grid import Grid


class ObjectWindows:
    """The windows of the object that a batch sees, and the way back for their gradient.

    Parameters
    ----------
    filtered : band-limit each window (``lazy_clean``); else the object is used as it is
    deterministic : on a GPU, add the gradients of windows as integers: the same bits every time
    """

    def __init__(
        self, grid: Grid, mask: np.ndarray, backend: Backend, filtered: bool, deterministic: bool = False
    ) -> None:
        self.backend = backend
        self.shape = grid.shape
        self.mask = backend.asarray(mask, backend.real)
        self.filtered = filtered
        self.deterministic = deterministic

    def _limited(self, windows: Array) -> Array:
        if not self.filtered:
            return windows
        spectrum = fft.fft2(windows, overwrite=True)
        spectrum *= self.mask
        return fft.ifft2(spectrum, overwrite=True)

    def gather(self, obj: Array, batch: Batch) -> Array:
        """(slice, batch, 1, object mode, y, x)."""
        return self._limited(kernels.gather_patches(obj, batch.corners, self.shape))[:, :, None]

    def empty_gradient(self, windows: Array) -> Array:
        """(slice, batch, object mode, y, x), to be filled."""
        return self.backend.xp.empty(windows[:, :, 0].shape, windows.dtype)

    def scatter(self, gradient: Array, batch: Batch, windows: Array) -> None:
        """Add the gradients of the windows to that of the object."""
        kernels.scatter_add_patches(gradient, batch.corners, self._limited(windows), self.deterministic)


@dataclass(frozen=True)
class _Point:
    obj: Array
    gaps: PropagationPoint


class Multislice:
    """psi <- psi O_s; then a propagation, after every slice but the last.

    Cowley and Moodie, Acta Cryst. 10 (1957) 609; Kirkland, Advanced Computing in Electron Microscopy, eq. 6.93.
    First order in the slice thickness. Every probe mode meets every object mode.
    """

    def __init__(self, windows: ObjectWindows, propagation: Propagation) -> None:
        self.windows = windows
        self.propagation = propagation

    def prepare(self, variables: Variables) -> _Point:
        return _Point(variables.obj, self.propagation.prepare(variables, variables.n_slices - 1))

    def forward(self, wave: Array, point: _Point, batch: Batch, tape: Tape) -> Array:
        patches = self.windows.gather(point.obj, batch)
        tape["patches"] = patches
        tape["incoming 0"] = wave
        wave = wave * patches[0]
        for s in range(1, len(patches)):
            wave = self.propagation.forward(wave, point.gaps, s - 1, batch)
            tape[f"incoming {s}"] = wave
            wave = wave * patches[s]
        return wave

    def adjoint(self, grad: Array, point: _Point, batch: Batch, tape: Tape, gradients: Gradients) -> Array:
        patches = tape["patches"]
        patch_grads = self.windows.empty_gradient(patches) if "obj" in gradients else None
        for s in reversed(range(len(patches))):
            incoming = tape[f"incoming {s}"]
            if patch_grads is not None:
                patch_grads[s] = (incoming.conj() * grad).sum(axis=1)
            grad *= patches[s].conj()
            if s > 0:
                grad = self.propagation.adjoint(grad, incoming, point.gaps, s - 1, batch, gradients)
        if patch_grads is not None:
            self.windows.scatter(gradients["obj"], batch, patch_grads)
        return sum_to_shape(grad, tape["incoming 0"].shape)
