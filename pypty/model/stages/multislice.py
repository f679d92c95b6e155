"""Scattering by the slices and propagation between them. A single slice is the case S = 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pypty.backend import fft, kernels
from pypty.backend.array import Array, Backend
from pypty.data.feed import Batch
from pypty.model.stages.base import Gradients, Tape, sum_to_shape
from pypty.model.variables import Variables
from pypty.optics.grid import Grid
from pypty.optics.propagators import fresnel_phase_rate


@dataclass(frozen=True)
class _Point:
    obj: Array
    propagators: Array


class Multislice:
    """psi <- psi O_s; psi <- F^-1[ H_s F[psi] ] after every slice but the last.

    H_s = M exp(-i pi lambda z_s q^2), M the band limit (Cowley and Moodie 1957; Kirkland, Advanced
    Computing in Electron Microscopy, eq. 6.93). Every probe mode meets every object mode.

    Parameters
    ----------
    filter_patches : band-limit each window of the object (``lazy_clean``); else the object is used as it is
    """

    def __init__(self, grid: Grid, mask: np.ndarray, backend: Backend, filter_patches: bool = False) -> None:
        self.backend = backend
        self.shape = grid.shape
        self.n_pixels = grid.shape[0] * grid.shape[1]
        self.mask = backend.asarray(mask, backend.real)
        self.phase_rate = backend.asarray(fresnel_phase_rate(grid), np.float64)
        self.filter_patches = filter_patches

    def prepare(self, variables: Variables) -> _Point:
        n_gaps = variables.obj.shape[1] - 1
        return _Point(variables.obj, self._propagators(variables.slice_distances, n_gaps))

    def _propagators(self, distances: Array, n_gaps: int) -> Array:
        """(gap, y, x); the same array for every gap when there is one distance."""
        xp = self.backend.xp
        used = distances[:1] if len(distances) == 1 else distances[:n_gaps]
        phase = used[:, None, None] * self.phase_rate
        propagators = xp.exp(1j * phase).astype(self.backend.complex) * self.mask
        return xp.broadcast_to(propagators, (n_gaps, *self.shape)) if len(distances) == 1 else propagators

    def _band_limited(self, patches: Array) -> Array:
        if not self.filter_patches:
            return patches
        spectrum = fft.fft2(patches, overwrite=True)
        spectrum *= self.mask
        return fft.ifft2(spectrum, overwrite=True)

    def forward(self, wave: Array, point: _Point, batch: Batch, tape: Tape) -> Array:
        patches = self._band_limited(kernels.gather_patches(point.obj, batch.corners, self.shape))
        patches = patches[:, :, None]  # (slice, batch, 1, object mode, y, x)
        tape["patches"] = patches
        tape["incoming 0"] = wave
        wave = wave * patches[0]
        for s in range(1, len(patches)):
            spectrum = fft.fft2(wave, overwrite=True)
            spectrum *= point.propagators[s - 1]
            wave = fft.ifft2(spectrum, overwrite=True)
            tape[f"incoming {s}"] = wave
            wave = wave * patches[s]
        return wave

    def adjoint(self, grad: Array, point: _Point, batch: Batch, tape: Tape, gradients: Gradients) -> Array:
        patches = tape["patches"]
        patch_grads = (
            self.backend.xp.empty((len(patches), *_without_probe_axis(grad)), grad.dtype)
            if "obj" in gradients
            else None
        )
        for s in reversed(range(len(patches))):
            incoming = tape[f"incoming {s}"]
            if patch_grads is not None:
                patch_grads[s] = (incoming.conj() * grad).sum(axis=1)
            grad *= patches[s].conj()
            if s > 0:
                spectrum = fft.fft2(grad, overwrite=True)
                if "slice_distances" in gradients:
                    self._add_distance_gradient(spectrum, incoming, s - 1, gradients["slice_distances"])
                spectrum *= point.propagators[s - 1].conj()
                grad = fft.ifft2(spectrum, overwrite=True)
        if patch_grads is not None:
            kernels.scatter_add_patches(gradients["obj"], batch.corners, self._band_limited(patch_grads))
        return sum_to_shape(grad, tape["incoming 0"].shape)

    def _add_distance_gradient(self, grad_spectrum: Array, after: Array, gap: int, gradient: Array) -> None:
        """dL/dz = (1/n^2) Re sum_q conj(F[grad]) i r F[psi after the gap], r = -pi lambda q^2."""
        product = (grad_spectrum.conj() * fft.fft2(after)).imag.sum(axis=(0, 1, 2), dtype=np.float64)
        index = 0 if len(gradient) == 1 else gap
        gradient[index] -= (product * self.phase_rate).sum() / self.n_pixels


def _without_probe_axis(grad: Array) -> tuple[int, ...]:
    """Shape of a wave after the sum over probe modes."""
    return (grad.shape[0], *grad.shape[2:])
