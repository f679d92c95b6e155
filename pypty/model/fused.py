"""The waves from the probe to the far field as one stage: the second executor of the common case.

It computes what Illumination, ToReciprocal, SubpixelShift, ToReal, Multislice, FarField and Intensity compute, one
after the other (they are the definition; tests/test_fused.py compares), with less traffic:

* every array lives in a :class:`~pypty.backend.workspace.Workspace` and is used again, transforms are in place and
  without a pass for their normalisation, which is folded into probe and propagators;
* the spectrum of the probe is computed once per evaluation, and the gradient of the probe is summed in reciprocal space
  over all batches and transformed once;
* the way back carries the complex conjugate of the gradient, C = conj(G). Then conj(F^-1[conj(H) F[G]]) is
  F^-1[H F[C]] with the directions of the transforms exchanged, conj(conj(O) G) = O C, and nothing is ever conjugated.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from pypty.backend import fft, kernels
from pypty.backend.array import Array, Backend
from pypty.backend.workspace import Workspace
from pypty.data.feed import Batch
from pypty.model.stages.base import Gradients, Tape, add_rows, imaginary_product, rows_of
from pypty.model.stages.propagation import Propagation, PropagationPoint
from pypty.model.variables import Variables
from pypty.optics.grid import Grid


@dataclass(frozen=True)
class FusedPoint:
    """What all batches of an evaluation share.

    Attributes
    ----------
    obj : (object mode, z, Y, X)
    probe : (1, probe mode, 1, y, x); with a sub-pixel shift M F[P]/n^2, else P
    slopes : (2, probe mode * y * x) 2 pi f M F[P]/n^2 with f along y and x; None without a sub-pixel shift
    positions : (N, 2) or (1, 2)
    gaps : distances and tilts of the propagations, and their factors H/n^2
    """

    obj: Array
    probe: Array
    slopes: Array
    positions: Array
    gaps: PropagationPoint


class FusedWaves:
    """I = sum over modes of |M F[psi_S O_S]|^2, psi_(s+1) = F^-1[H F[psi_s O_s]],
    psi_1 = F^-1[M exp(-2 pi i f.d) F[P]].

    Parameters
    ----------
    mask : (y, x) band limit M of the illumination and of the far field
    propagation : between the slices
    subpixel : windows are, or may move, off the pixel grid
    keep_every : keep the waves entering every k-th slice only; those between are computed again on the way back
    """

    def __init__(
        self,
        grid: Grid,
        mask: np.ndarray,
        backend: Backend,
        propagation: Propagation,
        subpixel: bool = True,
        keep_every: int = 1,
    ) -> None:
        self.backend = backend
        self.shape = grid.shape
        self.n_pixels = grid.shape[0] * grid.shape[1]
        self.mask = backend.asarray(mask, backend.real)
        self.limited = not mask.all()
        self.fy = backend.asarray(grid.fy[:, 0], np.float64)
        self.fx = backend.asarray(grid.fx[0], np.float64)
        self.propagation = propagation
        self.subpixel = subpixel
        self.keep_every = keep_every

    def prepare(self, variables: Variables) -> FusedPoint:
        probe, slopes = variables.probe, None
        if self.subpixel:
            spectrum = fft.fft2(probe) * (self.mask / self.n_pixels)
            scaled = (2 * np.pi * self.fy[:, None], 2 * np.pi * self.fx[None, :])
            slopes = self.backend.xp.stack([(spectrum * f).astype(spectrum.dtype).ravel() for f in scaled])
            probe = spectrum.astype(self.backend.complex)
        gaps = self.propagation.prepare(variables, variables.n_slices - 1)
        factors = {
            key: factor / self.backend.real.type(self.n_pixels) for key, factor in gaps.factors.items()
        }
        gaps = dataclasses.replace(gaps, factors=factors)
        return FusedPoint(variables.obj, probe[None, :, None], slopes, variables.positions, gaps)

    def finish(self, gradients: dict[str, Array]) -> None:
        """Make the gradient of the probe of what the batches have summed up: conj(G), and n^2 conj(F[G])/n^2 where the
        probe is shifted."""
        if "probe" in gradients:
            total = gradients["probe"].conj()
            gradients["probe"] = fft.ifft2(total * self.mask, overwrite=True) if self.subpixel else total

    def forward(self, wave: Array, point: FusedPoint, batch: Batch, tape: Tape) -> Array:
        """(batch, ky, kx) intensities, zero frequency first. The waves stay in the workspace for the way back."""
        work = batch.workspace
        tape["windows"] = self._windows(point, batch, work)
        tape["ramps"] = self._ramps(point, batch, work) if self.subpixel else None
        wave = self._illuminate(point, batch, tape, work)
        n_slices = len(tape["windows"])
        for s in range(n_slices):
            tape[f"incoming {s}"] = wave
            wave = self._through_slice(s, wave, point, batch, tape)
        work.fft.forward(wave)
        if self.limited:
            wave *= self.mask
        tape["wave"] = wave
        return kernels.sum_abs2_into(wave, work)

    def _windows(self, point: FusedPoint, batch: Batch, work: Workspace) -> Array:
        """(slice, batch, 1, object mode, y, x): a copy of what each pattern sees."""
        modes, n_slices = point.obj.shape[:2]
        shape = (n_slices, len(batch.index), modes, *self.shape)
        out = work.array("windows", shape, self.backend.complex)
        kernels.gather_patches_into(point.obj, batch.corners, out)
        return out[:, :, None]

    def _ramps(self, point: FusedPoint, batch: Batch, work: Workspace) -> Array:
        """(batch, 1, 1, y, x) exp(-2 pi i f.d)."""
        xp = self.backend.xp
        offset = rows_of(point.positions, batch) - xp.asarray(batch.corners)
        ramp_y = xp.exp(-2j * np.pi * offset[:, :1] * self.fy).astype(self.backend.complex)
        ramp_x = xp.exp(-2j * np.pi * offset[:, 1:] * self.fx).astype(self.backend.complex)
        ramps = work.array("ramps", (len(offset), 1, 1, *self.shape), self.backend.complex)
        return xp.multiply(ramp_y[:, None, None, :, None], ramp_x[:, None, None, None, :], out=ramps)

    def _illuminate(self, point: FusedPoint, batch: Batch, tape: Tape, work: Workspace) -> Array:
        """The shifted probe, (batch or 1, probe mode, 1, y, x)."""
        if not self.subpixel:
            return point.probe
        ramps = tape["ramps"]
        shape = (len(ramps), *point.probe.shape[1:])
        wave = work.array("incoming 0", shape, self.backend.complex)
        self.backend.xp.multiply(point.probe, ramps, out=wave)
        work.fft.backward(wave)
        return wave

    def _place(self, s: int, n_slices: int) -> str:
        """Which buffer holds the wave entering slice s. Those that are not kept share the buffers of their block."""
        if s == n_slices:
            return "exit"
        return f"incoming {s}" if s % self.keep_every == 0 else f"between {s % self.keep_every}"

    def _through_slice(self, s: int, wave: Array, point: FusedPoint, batch: Batch, tape: Tape) -> Array:
        """Through slice s, and to the next if there is one; ``wave`` is kept."""
        windows, work = tape["windows"], batch.workspace
        shape = (len(batch.index), wave.shape[1], windows.shape[3], *self.shape)
        out = work.array(self._place(s + 1, len(windows)), shape, self.backend.complex)
        self.backend.xp.multiply(wave, windows[s], out=out)
        if s + 1 < len(windows):
            work.fft.forward(out)
            self.propagation.multiply(out, point.gaps, s, batch)
            work.fft.backward(out)
        return out

    def adjoint(self, grad: Array, point: FusedPoint, batch: Batch, tape: Tape, gradients: Gradients) -> None:
        """``grad`` is dL/dI (batch, ky, kx)."""
        work, wave, windows = batch.workspace, tape["wave"], tape["windows"]
        n_slices = len(windows)
        kernels.conjugate_times(wave, grad, self.mask if self.limited else None)  # C = 2 M (dL/dI) conj(W)
        work.fft.forward(wave)
        patches = None
        if "obj" in gradients:
            patches = work.array("patches", windows[:, :, 0].shape, self.backend.complex)
        for s in reversed(range(n_slices)):
            self._compute_again(s, point, batch, tape)
            incoming = tape[f"incoming {s}"]
            if patches is not None:
                kernels.sum_products(incoming, wave, patches[s], work)
            wave *= windows[s]
            if s > 0:
                self._back(s - 1, incoming, wave, point, batch, gradients)
        if patches is not None:
            self.backend.xp.conjugate(patches, out=patches)
            kernels.scatter_add_patches(gradients["obj"], batch.corners, patches)
        self._add_probe(wave, point, batch, tape, gradients)

    def _compute_again(self, s: int, point: FusedPoint, batch: Batch, tape: Tape) -> None:
        """The waves of the block that ends with slice s, from the one that was kept."""
        k, n_slices = self.keep_every, len(tape["windows"])
        if k == 1 or (s + 1) % k or s + 1 == n_slices:
            return
        for earlier in range(s + 1 - k, s):
            wave = tape[f"incoming {earlier}"]
            tape[f"incoming {earlier + 1}"] = self._through_slice(earlier, wave, point, batch, tape)

    def _back(
        self, gap: int, after: Array, wave: Array, point: FusedPoint, batch: Batch, gradients: Gradients
    ) -> None:
        """Carry C back over a gap, in place; ``after`` is the wave behind it."""
        work = batch.workspace
        work.fft.backward(wave)
        if self.propagation.refines(gradients):
            spectrum = work.array("spectrum", after.shape, after.dtype)
            spectrum[...] = after
            work.fft.forward(spectrum)
            slope = imaginary_product(wave.conj(), spectrum, axes=(1, 2))
            self.propagation.add_gradients(slope, point.gaps, gap, batch, gradients)
        self.propagation.multiply(wave, point.gaps, gap, batch)
        work.fft.forward(wave)

    def _add_probe(
        self, wave: Array, point: FusedPoint, batch: Batch, tape: Tape, gradients: Gradients
    ) -> None:
        """Gradients of the probe and of the positions: dL/dd = 2 pi sum_q f Im(conj(G') P^),
        G' = conj(ramp) F[G]/n^2."""
        if not {"probe", "positions"} & set(gradients):
            return
        if wave.shape[2] > 1:
            summed = batch.workspace.array("summed", (*wave.shape[:2], 1, *self.shape), wave.dtype)
            wave = self.backend.xp.sum(wave, axis=2, keepdims=True, out=summed)
        if self.subpixel:
            batch.workspace.fft.backward(wave)
            wave *= tape["ramps"]
        if "positions" in gradients:
            flat = wave.reshape(len(wave), -1)
            values = [kernels.imaginary_dot(flat, slope) for slope in point.slopes]
            add_rows(gradients["positions"], batch, self.backend.xp.stack(values, axis=1))
        if "probe" in gradients:
            gradients["probe"][...] += wave.sum(axis=0)[:, 0]
