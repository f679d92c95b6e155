"""The incoming probe and its sub-pixel shift."""

from __future__ import annotations

import numpy as np

from pypty.backend import fft
from pypty.backend.array import Array, Backend
from pypty.data.feed import Batch
from pypty.model.stages.base import Gradients, Tape, sum_to_shape
from pypty.model.variables import Variables
from pypty.optics.grid import Grid


class Illumination:
    """The first stage: the probe modes, the same for every position: (1, probe mode, 1, y, x)."""

    def prepare(self, variables: Variables) -> Array:
        return variables.probe[None, :, None]

    def forward(self, wave: Array, point: Array, batch: Batch, tape: Tape) -> Array:
        return point

    def adjoint(self, grad: Array, point: Array, batch: Batch, tape: Tape, gradients: Gradients) -> Array:
        if "probe" in gradients:
            gradients["probe"][...] += sum_to_shape(grad, point.shape)[0, :, 0]
        return grad


class SubpixelShift:
    """Move the probe by the part of the position that is less than a pixel.

    P_j = F^-1[ M exp(-2 pi i (fy dy + fx dx)) F[P] ], d = position - corner of the window, f in
    cycles/pixel, M the band limit. Positive d moves the probe towards larger indices. (Fourier shift
    theorem; docs/conventions.md.)
    """

    def __init__(self, grid: Grid, mask: np.ndarray, backend: Backend) -> None:
        self.backend = backend
        self.fy = backend.asarray(grid.fy[:, 0], np.float64)
        self.fx = backend.asarray(grid.fx[0], np.float64)
        self.mask = backend.asarray(mask, backend.real)
        self.n_pixels = grid.shape[0] * grid.shape[1]

    def prepare(self, variables: Variables) -> Array:
        return variables.positions

    def _ramps(self, positions: Array, batch: Batch) -> Array:
        """(batch, 1, 1, y, x): M exp(-2 pi i f.d), built from one exponential per axis."""
        xp = self.backend.xp
        offset = positions[xp.asarray(batch.index)] - xp.asarray(batch.corners)
        ramp_y = xp.exp(-2j * np.pi * offset[:, :1] * self.fy).astype(self.backend.complex)
        ramp_x = xp.exp(-2j * np.pi * offset[:, 1:] * self.fx).astype(self.backend.complex)
        ramps = ramp_y[:, :, None] * ramp_x[:, None, :]
        ramps *= self.mask
        return ramps[:, None, None]

    def forward(self, wave: Array, point: Array, batch: Batch, tape: Tape) -> Array:
        tape["spectrum"] = fft.fft2(wave)
        tape["ramps"] = self._ramps(point, batch)
        return fft.ifft2(tape["spectrum"] * tape["ramps"], overwrite=True)

    def adjoint(self, grad: Array, point: Array, batch: Batch, tape: Tape, gradients: Gradients) -> Array:
        back = fft.fft2(grad, overwrite=True)  # conj(ramps) F[grad] is n^2 times the gradient of the spectrum
        back *= tape["ramps"].conj()
        if "positions" in gradients:
            self._add_position_gradient(back, batch, tape, gradients["positions"])
        return fft.ifft2(sum_to_shape(back, tape["spectrum"].shape), overwrite=True)

    def _add_position_gradient(self, back: Array, batch: Batch, tape: Tape, gradient: Array) -> None:
        """dL/dd = -(2 pi/n^2) sum_q f Im( back conj(F[P]) ), summed over modes."""
        spectrum = tape["spectrum"]
        slope = (back.imag * spectrum.real - back.real * spectrum.imag).sum(axis=(1, 2))
        factor = -2 * np.pi / self.n_pixels
        xp = self.backend.xp
        rows = slope.sum(axis=2, dtype=np.float64) @ self.fy
        columns = slope.sum(axis=1, dtype=np.float64) @ self.fx
        gradient[xp.asarray(batch.index)] += factor * xp.stack([rows, columns], axis=1)
