"""Transmission through slices, and propagation between them; a single slice is the case S = 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pypty.backend import fft, kernels
from pypty.backend.array import Array, Backend, array_module
from pypty.data.batch import Batch
from pypty.data.resample import reflected_gaussian
from pypty.model.blocks import Variables
from pypty.model.stages.base import Gradients, Tape, sum_to_shape
from pypty.model.stages.propagation import Propagation, PropagationPoint
from pypty.optics.grid import Grid


class ObjectWindows:
    """The patches of the object in a batch, and the adjoint for their gradient.

    Parameters
    ----------
    filtered : band-limit each patch (``lazy_clean``); else the object is used as it is
    deterministic : on a GPU, add the gradients of patches as integers: the same bits every time
    preblur_std : pixels; amplitude and phase of each patch are blurred (``obj_preblur_std``); 0 = no blur
    """

    def __init__(
        self,
        grid: Grid,
        mask: np.ndarray,
        backend: Backend,
        filtered: bool,
        deterministic: bool = False,
        preblur_std: float = 0.0,
    ) -> None:
        self.backend = backend
        self.shape = grid.shape
        self.mask = backend.asarray(mask, backend.real)
        self.filtered = filtered
        self.deterministic = deterministic
        self.blur = WindowBlur(grid.shape, backend, preblur_std) if preblur_std > 0 else None

    def _limited(self, windows: Array) -> Array:
        # a projection: the same for patches and for their gradients
        if not self.filtered:
            return windows
        spectrum = fft.fft2(windows, overwrite=True)
        spectrum *= self.mask
        return fft.ifft2(spectrum, overwrite=True)

    def gather(self, obj: Array, batch: Batch) -> Array:
        """(slice, batch, 1, object mode, y, x)."""
        # (O, z, Y, X) -> (z, b, O, y, x); slices first, so that each slice is contiguous
        windows = kernels.gather_patches(obj, batch.crop_origins, self.shape)
        if self.blur is not None:
            self.blur.apply(windows)
        return self._limited(windows)[:, :, None]  # an axis of length 1 for the probe modes

    def empty_gradient(self, windows: Array) -> Array:
        """(slice, batch, object mode, y, x), to be filled."""
        return self.backend.xp.empty(windows[:, :, 0].shape, windows.dtype)

    def scatter(self, gradient: Array, batch: Batch, windows: Array, obj: Array) -> None:
        """Add the gradients of the patches of ``obj`` to that of the object."""
        windows = self._limited(windows)
        if self.blur is not None:
            # gathered again: the forward pass blurred its patches in place
            self.blur.back(windows, kernels.gather_patches(obj, batch.crop_origins, self.shape))
        kernels.scatter_add_patches(gradient, batch.crop_origins, windows, self.deterministic)


class WindowBlur:
    """O <- (G |O|) exp(i G arg O): lateral blur of amplitude and phase of patches (..., y, x), slice by slice.

    G is a Gaussian of 5 x 5 pixels that is reflected at the rim of the patch. arg O is in (-pi, pi]: where a phase
    wraps inside a patch, the blur mixes both ends. An opaque pixel has the phase 0, and no gradient of its phase.
    """

    def __init__(self, shape: tuple[int, int], backend: Backend, std: float) -> None:
        self.rows, self.columns = (
            backend.asarray(reflected_gaussian(n, std, 5)[0], backend.real) for n in shape
        )

    def _blurred(self, image: Array) -> Array:
        return self.rows @ image @ self.columns.T

    def _back(self, image: Array) -> Array:
        return self.rows.T @ image @ self.columns

    def apply(self, windows: Array) -> None:
        """In place."""
        xp = array_module(windows)
        for patch in windows:
            phase = self._blurred(xp.angle(patch))
            patch[...] = self._blurred(abs(patch)) * xp.exp(1j * phase)

    def back(self, gradient: Array, windows: Array) -> None:
        """Adjoint of :meth:`apply` at ``windows``: changes ``gradient`` in place."""
        xp = array_module(windows)
        for grad, patch in zip(gradient, windows, strict=True):
            amplitude, phase = abs(patch), xp.angle(patch)
            # in the frame of the blurred phase, the real part acts on the blurred amplitude, the imaginary
            # part on the blurred phase; the transposed blur takes both back to those of the patch
            grad *= xp.exp(-1j * self._blurred(phase))
            to_phase = self._back(self._blurred(amplitude) * grad.imag)
            to_amplitude = self._back(grad.real)
            bright = amplitude > 0
            to_phase = xp.where(bright, to_phase / xp.where(bright, amplitude, 1), 0)
            grad[...] = xp.exp(1j * phase) * (to_amplitude + 1j * to_phase)


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
        # (slice, b, 1, O, y, x)
        patches = self.windows.gather(point.obj, batch)
        tape["patches"] = patches
        tape["incoming 0"] = wave
        # not in place: the wave may be the shared probe, and is kept for the way back
        wave = wave * patches[0]  # (b, P, 1, y, x) -> (b, P, O, y, x)
        for s in range(1, len(patches)):
            wave = self.propagation.forward(wave, point.gaps, s - 1, batch)
            tape[f"incoming {s}"] = wave
            wave = wave * patches[s]
        return wave

    def adjoint(self, grad: Array, point: _Point, batch: Batch, tape: Tape, gradients: Gradients) -> Array:
        patches = tape["patches"]
        patch_grads = self.windows.empty_gradient(patches) if "obj" in gradients else None
        # dL/dO_s = conj(psi_s) G, and G before the slice is conj(O_s) G
        for s in reversed(range(len(patches))):
            incoming = tape[f"incoming {s}"]
            if patch_grads is not None:
                # (b, P, O, y, x) -> (b, O, y, x): all probe modes meet the same patch
                patch_grads[s] = (incoming.conj() * grad).sum(axis=1)
            grad *= patches[s].conj()
            if s > 0:
                grad = self.propagation.adjoint(grad, incoming, point.gaps, s - 1, batch, gradients)
        if patch_grads is not None:
            self.windows.scatter(gradients["obj"], batch, patch_grads, point.obj)
        return sum_to_shape(grad, tape["incoming 0"].shape)
