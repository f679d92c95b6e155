"""The incoming probe, and the effects on it before it meets the specimen."""

from __future__ import annotations

import numpy as np

from pypty.backend import fft
from pypty.backend.array import Array, Backend, array_module
from pypty.data.batch import Batch
from pypty.data.plates import PhasePlateSource
from pypty.model.blocks import Variables
from pypty.model.stages.base import (
    Gradients,
    Tape,
    add_rows,
    imaginary_product,
    per_axis,
    rows_of,
    sum_to_shape,
)
from pypty.optics.aberrations import aberration_basis
from pypty.optics.grid import Grid


class Illumination:
    """The first stage: the probe modes, the same for every position: (1, probe mode, 1, y, x)."""

    def prepare(self, variables: Variables) -> Array:
        return variables.probe[None, :, None]  # (P, y, x) -> (1, P, 1, y, x)

    def forward(self, wave: Array, point: Array, batch: Batch, tape: Tape) -> Array:
        return point

    def adjoint(self, grad: Array, point: Array, batch: Batch, tape: Tape, gradients: Gradients) -> Array:
        if "probe" in gradients:
            # (b, P, 1, y, x) -> (1, P, 1, y, x) -> (P, y, x)
            gradients["probe"][...] += sum_to_shape(grad, point.shape)[0, :, 0]
        return grad


class ProbeScenarios:
    """The first stage when there are several probes (``probe_marker``): pattern j meets those of subscan m_j.

    Parameters
    ----------
    marker : (N,) int, subscan of each pattern
    """

    def __init__(self, marker: np.ndarray) -> None:
        self.marker = marker

    def prepare(self, variables: Variables) -> Array:
        return variables.probe

    def forward(self, wave: Array, point: Array, batch: Batch, tape: Tape) -> Array:
        return _rows(point, self.marker[batch.index])[:, :, None]  # (subscan, P, y, x) -> (b, P, 1, y, x)

    def adjoint(self, grad: Array, point: Array, batch: Batch, tape: Tape, gradients: Gradients) -> Array:
        if "probe" in gradients:
            subscans = self.marker[batch.index]
            for subscan in np.unique(subscans):
                # (patterns of the subscan, P, 1, y, x) -> (P, y, x)
                grads = _rows(grad, np.flatnonzero(subscans == subscan))
                gradients["probe"][subscan] += grads.sum(axis=0)[:, 0]
        return grad


class ToReciprocal:
    """P^ = F[P]: effects that multiply the probe's spectrum follow."""

    def prepare(self, variables: Variables) -> None:
        return None

    def forward(self, wave: Array, point: None, batch: Batch, tape: Tape) -> Array:
        return fft.fft2(wave)  # never in place: the wave may be the shared probe

    def adjoint(self, grad: Array, point: None, batch: Batch, tape: Tape, gradients: Gradients) -> Array:
        return fft.fft2_adjoint(grad, overwrite=True)


class ToReal:
    """P = F^-1[P^]: back to real space."""

    def prepare(self, variables: Variables) -> None:
        return None

    def forward(self, wave: Array, point: None, batch: Batch, tape: Tape) -> Array:
        return fft.ifft2(wave, overwrite=True)

    def adjoint(self, grad: Array, point: None, batch: Batch, tape: Tape, gradients: Gradients) -> Array:
        return fft.ifft2_adjoint(grad, overwrite=True)


class PhasePlates:
    """A phase plate for every pattern: P^_j = plate_j P^ (``phase_plate_in_h5``; zero frequency first).

    Plates are read from the file batch by batch.
    """

    def __init__(self, source: PhasePlateSource, backend: Backend) -> None:
        self.source = source
        self.backend = backend

    def prepare(self, variables: Variables) -> None:
        return None

    def forward(self, wave: Array, point: None, batch: Batch, tape: Tape) -> Array:
        # (b, y, x) -> (b, 1, 1, y, x)
        plates = self.backend.asarray(self.source.read(batch.index), self.backend.complex)[:, None, None]
        tape["plates"], tape["shape"] = plates, wave.shape
        return wave * plates

    def adjoint(self, grad: Array, point: None, batch: Batch, tape: Tape, gradients: Gradients) -> Array:
        return sum_to_shape(grad * tape["plates"].conj(), tape["shape"])


class LocalAberrations:
    """Each pattern's group of aberrations: P^_j = M exp(-i sum_k C_gk B_k) P^, g the group of pattern j.

    B_k is the phase of 1 Å of the k-th Krivanek aberration (Krivanek et al., Ultramicroscopy 78 (1999) 1, eq. 1),
    M the band limit.

    Parameters
    ----------
    marker : (N,) int, row of ``aberrations_array`` for each pattern
    n_terms : number of aberrations
    """

    def __init__(
        self, grid: Grid, mask: np.ndarray, backend: Backend, marker: np.ndarray, n_terms: int
    ) -> None:
        self.backend = backend
        self.marker = marker
        self.mask = backend.asarray(mask, backend.real)
        # (K, y x): one row for each aberration, so that chi is a matrix product
        self.basis = backend.asarray(aberration_basis(grid, n_terms).reshape(n_terms, -1), np.float64)
        self.shape = grid.shape

    def prepare(self, variables: Variables) -> Array:
        """(groups, y, x): the transfer function of every group."""
        # (groups, K) @ (K, y x) -> (groups, y, x)
        chi = (variables.aberrations_array @ self.basis).reshape(-1, *self.shape)
        return self.backend.xp.exp(-1j * chi).astype(self.backend.complex) * self.mask

    def forward(self, wave: Array, point: Array, batch: Batch, tape: Tape) -> Array:
        # (groups, y, x) -> (b, 1, 1, y, x)
        transfer = _rows(point, self.marker[batch.index])[:, None, None]
        tape["out"], tape["shape"] = wave * transfer, wave.shape
        return tape["out"].copy()  # the next stage may overwrite it

    def adjoint(self, grad: Array, point: Array, batch: Batch, tape: Tape, gradients: Gradients) -> Array:
        groups = self.marker[batch.index]
        if "aberrations_array" in gradients:  # dL/dC_k = sum_q B_k Im(conj(G) P^_j), summed over modes
            # (b, P, 1, y, x) -> (b, y, x) -> (b, y x)
            slope = imaginary_product(grad, tape["out"], axes=(1, 2)).reshape(len(groups), -1)
            values = slope.astype(np.float64) @ self.basis.T  # (b, y x) @ (y x, K) -> (b, K)
            for group in np.unique(groups):
                rows = _rows(values, np.flatnonzero(groups == group))
                gradients["aberrations_array"][group] += rows.sum(axis=0)
        grad = grad * _rows(point, groups)[:, None, None].conj()
        return sum_to_shape(grad, tape["shape"])


class SubpixelShift:
    """Move the probe by the sub-pixel part of the position; between ToReciprocal and ToReal.

    P^_j = M exp(-2 pi i (fy dy + fx dx)) P^, d = position - crop origin, f in cycles/pixel, M the band
    limit. Positive d moves the probe towards larger indices. (Fourier shift theorem; docs/conventions.md.)
    """

    def __init__(self, grid: Grid, mask: np.ndarray, backend: Backend) -> None:
        self.backend = backend
        self.fy = backend.asarray(grid.fy[:, 0], np.float64)
        self.fx = backend.asarray(grid.fx[0], np.float64)
        self.mask = backend.asarray(mask, backend.real)

    def prepare(self, variables: Variables) -> Array:
        return variables.positions

    def _ramps(self, positions: Array, batch: Batch) -> Array:
        """(batch, 1, 1, y, x): M exp(-2 pi i f.d), built from one exponential per axis."""
        xp = self.backend.xp
        # (b, 2) px: between -1/2 and 1/2 until positions are refined
        offset = rows_of(positions, batch) - xp.asarray(batch.crop_origins)
        ramp_y = xp.exp(-2j * np.pi * offset[:, :1] * self.fy).astype(self.backend.complex)
        ramp_x = xp.exp(-2j * np.pi * offset[:, 1:] * self.fx).astype(self.backend.complex)
        # (b, y, 1) * (b, 1, x) -> (b, y, x)
        ramps = ramp_y[:, :, None] * ramp_x[:, None, :]
        ramps *= self.mask
        return ramps[:, None, None]

    def forward(self, wave: Array, point: Array, batch: Batch, tape: Tape) -> Array:
        tape["spectrum"] = wave
        tape["ramps"] = self._ramps(point, batch)
        return wave * tape["ramps"]

    def adjoint(self, grad: Array, point: Array, batch: Batch, tape: Tape, gradients: Gradients) -> Array:
        grad *= tape["ramps"].conj()
        if "positions" in gradients:  # dL/dd = 2 pi sum_q f Im(conj(conj(ramp) G) P^), summed over modes
            # (b, P, 1, y, x) -> (b, y, x) -> (b, 2)
            slope = imaginary_product(grad, tape["spectrum"], axes=(1, 2))
            add_rows(gradients["positions"], batch, 2 * np.pi * per_axis(slope, self.fy, self.fx))
        return sum_to_shape(grad, tape["spectrum"].shape)


class TiltRamp:
    """A tilt of the wave before or after the specimen: psi_j = exp(2 pi i (Y t_y + X t_x)/lambda) psi.

    X, Y are the coordinates of the window in Å, zero at n//2; t is in rad (small angles). A positive angle moves the
    pattern by +t/lambda.

    Parameters
    ----------
    column : first of the two columns [y, x] of ``tilts``: 0 before, 4 after the specimen
    """

    def __init__(self, grid: Grid, backend: Backend, column: int) -> None:
        self.backend = backend
        self.columns = slice(column, column + 2)
        scale = 2 * np.pi / grid.wavelength
        ny, nx = grid.shape
        self.y = backend.asarray(scale * grid.pixel_size_A[0] * (np.arange(ny) - ny // 2), np.float64)
        self.x = backend.asarray(scale * grid.pixel_size_A[1] * (np.arange(nx) - nx // 2), np.float64)

    def prepare(self, variables: Variables) -> Array:
        return variables.tilts

    def forward(self, wave: Array, point: Array, batch: Batch, tape: Tape) -> Array:
        xp = self.backend.xp
        tilts = rows_of(point, batch)[:, self.columns]
        ramp_y = xp.exp(1j * tilts[:, :1] * self.y).astype(self.backend.complex)
        ramp_x = xp.exp(1j * tilts[:, 1:] * self.x).astype(self.backend.complex)
        # (b, y, 1) * (b, 1, x) -> (b, 1, 1, y, x)
        tape["ramps"] = (ramp_y[:, :, None] * ramp_x[:, None, :])[:, None, None]
        tape["wave"] = wave
        return wave * tape["ramps"]

    def adjoint(self, grad: Array, point: Array, batch: Batch, tape: Tape, gradients: Gradients) -> Array:
        grad *= tape["ramps"].conj()
        if "tilts" in gradients:  # dL/dt = -(2 pi/lambda) sum_r r Im(conj(conj(ramp) G) psi)
            slope = imaginary_product(grad, tape["wave"], axes=(1, 2))
            values = -per_axis(slope, self.y, self.x)
            add_rows(gradients["tilts"][:, self.columns], batch, values)
        return sum_to_shape(grad, tape["wave"].shape)


def _rows(array: Array, index: np.ndarray) -> Array:
    """Rows of an array on any device."""
    return array[array_module(array).asarray(index)]
