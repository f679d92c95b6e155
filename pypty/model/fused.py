"""The waves from the probe to the far field as one stage: the second executor of the common case.

It computes what Illumination, ToReciprocal, SubpixelShift, ToReal, Multislice, FarField and Intensity compute, one
after the other (they are the definition; tests/test_fused.py compares), with less memory traffic:

* every array lives in a :class:`~pypty.backend.workspace.Workspace` and is reused; transforms are in place, and their
  normalisation is folded into probe and propagators;
* the spectrum of the probe is computed once per evaluation, and the gradient of the probe is summed in reciprocal space
  over all batches and transformed once;
* the adjoint carries the complex conjugate of the gradient, C = conj(G). Then conj(F^-1[conj(H) F[G]]) is
  F^-1[H F[C]] with the directions of the transforms exchanged, conj(conj(O) G) = O C, and nothing needs conjugation.

The operations between two transforms are in fused_steps.py, for the CPU and for a CUDA device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pypty.backend import fft
from pypty.backend.array import Array, Backend
from pypty.backend.workspace import Workspace
from pypty.data.batch import Batch
from pypty.model.blocks import Variables
from pypty.model.fused_steps import DeviceSteps, HostSteps, Steps, Windows
from pypty.model.kept_waves import place_of, slices_to_repeat
from pypty.model.stages.base import FORWARD_ONLY, Gradients, Tape, add_rows
from pypty.model.stages.propagation import Propagation, PropagationPoint
from pypty.optics.grid import Grid


@dataclass(frozen=True)
class FusedPoint:
    """What all batches of an evaluation share.

    Attributes
    ----------
    obj : (object mode, z, Y, X)
    probe : (1, probe mode, 1, y, x); with a sub-pixel shift M F[P]/n^2, else P
    slopes : made of i conj(2 pi M F[P]/n^2) for the gradients of the positions (Steps.position_slopes); None without
        a sub-pixel shift
    positions : (N, 2) or (1, 2)
    gaps : distances and tilts of the propagations, and their factors H/n^2
    """

    obj: Array
    probe: Array
    slopes: Array
    positions: Array
    gaps: PropagationPoint

    @property
    def n_slices(self) -> int:
        return int(self.obj.shape[1])


class FusedWaves:
    """I = sum over modes of w |M F[psi_S O_S]|^2, psi_(s+1) = F^-1[H F[psi_s O_s]],
    psi_1 = F^-1[M exp(-2 pi i f.d) F[P]].

    Parameters
    ----------
    mask : (y, x) band limit M of the illumination and of the far field
    propagation : between the slices
    subpixel : patches are, or may move, off the pixel grid
    keep_every : keep the waves entering every k-th slice only; those between are recomputed in the adjoint
    deterministic : on a GPU, the same bits every time (elsewhere they always are)
    mode_weights : (object mode,) weights w of the intensities, or None (1)
    """

    def __init__(
        self,
        grid: Grid,
        mask: np.ndarray,
        backend: Backend,
        *,
        propagation: Propagation,
        subpixel: bool = True,
        keep_every: int = 1,
        deterministic: bool = False,
        mode_weights: np.ndarray | None = None,
    ) -> None:
        self.backend = backend
        self.mode_weights = None if mode_weights is None else backend.asarray(mode_weights, backend.real)
        self.shape = grid.shape
        self.n_pixels = grid.shape[0] * grid.shape[1]
        self.mask = backend.asarray(mask, backend.real)
        self.detector_mask = None if mask.all() else self.mask
        self.propagation = propagation
        self.subpixel = subpixel
        self.keep_every = keep_every
        self.steps: Steps = (
            DeviceSteps(grid, backend, propagation, deterministic)
            if backend.on_gpu
            else HostSteps(grid, backend, propagation)
        )

    def prepare(self, variables: Variables) -> FusedPoint:
        probe, slopes = variables.probe, None
        if self.subpixel:
            # 1/n^2 belongs to F^-1 of the shifted probe, which the workspace computes without it
            spectrum = fft.fft2(probe) * (self.mask / self.n_pixels)
            slopes = self.steps.slopes((2j * np.pi) * spectrum.conj())
            probe = spectrum.astype(self.backend.complex)
        # the same for F^-1 of every propagation
        gaps = self.propagation.prepare(variables, variables.n_slices - 1, divisor=self.n_pixels)
        return FusedPoint(variables.obj, probe[None, :, None], slopes, variables.positions, gaps)

    def finish(self, gradients: dict[str, Array]) -> None:
        """Turn the sum over batches into the gradient of the probe: it is conj(G), or n^2 conj(F[G])/n^2 where the
        probe is shifted."""
        if "probe" in gradients:
            total = gradients["probe"].conj()
            gradients["probe"] = fft.ifft2(total * self.mask, overwrite=True) if self.subpixel else total

    def forward(self, wave: Array, point: FusedPoint, batch: Batch, tape: Tape) -> Array:
        """(batch, ky, kx) intensities, zero frequency first. The waves stay in the workspace for the adjoint."""
        work = batch.workspace
        tape["windows"] = windows = self.steps.windows(point.obj, batch, work)
        tape["ramps"] = self.steps.ramps(point.positions, batch, work) if self.subpixel else None
        wave = self._illuminate(point, tape, work)
        for s in range(point.n_slices):
            tape[f"incoming {s}"] = wave
            wave = self._through_slice(s, wave, windows, point, batch, FORWARD_ONLY not in tape)
        # in place: the exit wave becomes its spectrum W (b, P, O, ky, kx), without normalisation
        work.fft.forward(wave)
        tape["wave"] = wave
        return self.steps.intensity(wave, self.detector_mask, work, self.mode_weights)

    def _illuminate(self, point: FusedPoint, tape: Tape, work: Workspace) -> Array:
        """The shifted probe, (batch or 1, probe mode, 1, y, x)."""
        if not self.subpixel:
            return point.probe
        # (1, P, 1, y, x) -> (b or 1, P, 1, y, x)
        shape = (len(tape["ramps"]), *point.probe.shape[1:])
        wave = work.array("incoming 0", shape, self.backend.complex)
        self.steps.shift(point.probe, tape["ramps"], wave)
        work.fft.backward(wave)
        return wave

    def _through_slice(
        self, s: int, wave: Array, windows: Windows, point: FusedPoint, batch: Batch, keep: bool = True
    ) -> Array:
        """Through slice s, and to the next one. ``wave`` is kept, unless it lies in the output buffer."""
        work, n_slices = batch.workspace, point.n_slices
        # (b or 1, P, 1 or O, y, x) -> (b, P, O, y, x): every probe mode meets every object mode
        shape = (len(batch.index), wave.shape[1], len(point.obj), *self.shape)
        place = place_of(s + 1, n_slices, self.keep_every, keep)
        out = work.array(place, shape, self.backend.complex)
        windows.transmit(s, wave, out)
        if s + 1 < n_slices:
            work.fft.forward(out)
            self.steps.propagate(out, point.gaps, s, batch)
            work.fft.backward(out)
        return out

    def adjoint(self, grad: Array, point: FusedPoint, batch: Batch, tape: Tape, gradients: Gradients) -> None:
        """``grad`` is dL/dI (batch, ky, kx)."""
        wave, windows = tape["wave"], tape["windows"]
        to_object = gradients.get("obj")
        # C = 2 M w (dL/dI) conj(W), in the memory of W: (b, P, O, ky, kx)
        self.steps.conjugate_times(wave, grad, self.detector_mask, self.mode_weights)
        # C is a conjugate, so its way back through F^-1 is another forward transform
        batch.workspace.fft.forward(wave)
        for s in reversed(range(point.n_slices)):
            self._compute_again(s, point, batch, tape)
            incoming = tape[f"incoming {s}"]
            windows.back(s, wave, incoming, to_object)
            if s > 0:
                self._back(s - 1, incoming, wave, point, batch, gradients)
        if to_object is not None:
            windows.finish(to_object)
        self._add_probe(wave, point, batch, tape, gradients)

    def _compute_again(self, s: int, point: FusedPoint, batch: Batch, tape: Tape) -> None:
        """Recompute the waves of the block that ends with slice s, from the one that was kept."""
        for earlier in slices_to_repeat(s, point.n_slices, self.keep_every):
            wave = tape[f"incoming {earlier}"]
            again = self._through_slice(earlier, wave, tape["windows"], point, batch)
            tape[f"incoming {earlier + 1}"] = again

    def _back(
        self, gap: int, after: Array, wave: Array, point: FusedPoint, batch: Batch, gradients: Gradients
    ) -> None:
        """Propagate C back over a gap, in place; ``after`` is the wave after the gap."""
        work = batch.workspace
        work.fft.backward(wave)
        if self.propagation.refines(gradients):
            # a copy, since the transform is in place and the wave is needed for the slice before
            spectrum = work.array("spectrum", after.shape, after.dtype)
            spectrum[...] = after
            work.fft.forward(spectrum)
            # Im(C F[psi]) summed over modes: (b, P, O, y, x) -> (b, y, x)
            slope = self.steps.imaginary_sum(wave, spectrum, work)
            self.propagation.add_gradients(slope, point.gaps, gap, batch, gradients)
        self.steps.propagate(wave, point.gaps, gap, batch)
        work.fft.forward(wave)

    def _add_probe(
        self, wave: Array, point: FusedPoint, batch: Batch, tape: Tape, gradients: Gradients
    ) -> None:
        """Gradients of the probe and of the positions: dL/dd = 2 pi sum_q f Im(conj(G') P^),
        G' = conj(ramp) F[G]/n^2."""
        if not {"probe", "positions"} & set(gradients):
            return
        if wave.shape[2] > 1:
            # (b, P, O, y, x) -> (b, P, 1, y, x): one probe meets all object modes
            summed = batch.workspace.array("summed", (*wave.shape[:2], 1, *self.shape), wave.dtype)
            wave = self.backend.xp.sum(wave, axis=2, keepdims=True, out=summed)
        if self.subpixel:
            batch.workspace.fft.backward(wave)
            self.steps.unshift(wave, tape["ramps"])
        if "positions" in gradients:
            add_rows(
                gradients["positions"], batch, self.steps.position_slopes(wave, point.slopes, batch.workspace)
            )
        if "probe" in gradients:
            # (b, P, 1, y, x) -> (P, y, x)
            gradients["probe"][...] += wave.sum(axis=0)[:, 0]
