"""The waves from the probe to the intensities as one stage, by row and column kernels on a CUDA device.

It computes what Illumination, ToReciprocal, SubpixelShift, ToReal, Multislice, FarField and Intensity compute, one
after the other (they are the definition; tests/cuda/test_cuda_kernels.py compares). Between kernels a wave stays in the
mixed domain, y in real and x in reciprocal space: a slice is one pass over the memory, and so is a propagation
(backend/cuda/waves.cu). Columns outside the band limit are neither stored nor transformed.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pypty.backend import fft
from pypty.backend.array import Array, Backend
from pypty.backend.cuda.module import Compiler
from pypty.backend.cuda.waves import PLANS, Layout, WaveKernels
from pypty.backend.workspace import Workspace
from pypty.data.feed import Batch
from pypty.model.stages.base import Gradients, Tape, add_rows, rows_of
from pypty.model.stages.propagation import Propagation, PropagationPoint
from pypty.model.variables import Variables
from pypty.optics.grid import Grid

if TYPE_CHECKING:
    from pypty.model.forward import ModelOptions

FORWARD_ONLY = "forward only"
"""A tape that has this key says that no adjoint will follow: waves entering the slices are not kept."""

_SECTOR = 4
"""Complex numbers in the smallest piece of memory (32 bytes) that a device reads."""


def split_reason(
    options: ModelOptions,
    precision: np.dtype,
    object_modes: int,
    tilt_rows: int,
    refined: Container[str] = (),
) -> str:
    """Why :class:`SplitWaves` does not cover a model; "" if it does.

    Parameters
    ----------
    precision : complex dtype of the waves
    tilt_rows : rows of ``tilts``: 1 for all patterns, or N
    refined : names of the blocks whose gradients are asked for
    """
    before, inside, after = options.tilts
    ny, nx = options.grid.shape
    sizes = ", ".join(str(size) for size in PLANS)
    reasons = {
        f"the window is {ny} x {nx}, not square of {sizes}": ny != nx or ny not in PLANS,
        "double precision": np.dtype(precision) != np.complex64,
        "several object modes": object_modes > 1,
        "near field": options.near_field is not None,
        "several probes": options.probe_marker is not None,
        "local aberrations": options.aberration_marker is not None,
        "phase plates": options.plates is not None,
        "tilts before or after the specimen": before or after,
        "tilts of each pattern": inside and tilt_rows > 1,
        "refined tilts": inside and "tilts" in refined,
        "refined slice distances": "slice_distances" in refined,
        "windows are filtered (lazy_clean)": options.filter_patches,
        f"propmethod {options.propagation}": options.propagation not in ("multislice", "angular_spectrum"),
    }
    return ", ".join(reason for reason, applies in reasons.items() if applies)


@dataclass(frozen=True)
class SplitPoint:
    """What all batches of an evaluation share.

    Attributes
    ----------
    obj : (z, Y, X)
    spectrum : (P, y, x) F[P]/n^2, with a sub-pixel shift M F[P]/n^2
    positions : (N, 2) or (1, 2)
    gaps : distances of the propagations, and their factors H/n^2
    """

    obj: Array
    spectrum: Array
    positions: Array
    gaps: PropagationPoint


@dataclass(frozen=True)
class _Placed:
    """A batch on the device.

    Attributes
    ----------
    layout : of its waves
    corners : (B, 2) int32
    ramps : (B, 2, n) exp(-2 pi i f d) along y and x, d = position - corner; None without a sub-pixel shift
    wave : (B, P, y, kx), in the mixed domain
    """

    layout: Layout
    corners: Array
    ramps: Array
    wave: Array


class SplitWaves:
    """I = sum over modes of |M F[psi_S O_S]|^2, psi_(s+1) = F^-1[H F[psi_s O_s]].

    psi_1 = F^-1[M exp(-2 pi i f.d) F[P]] with a sub-pixel shift, else P.

    In the deterministic mode the bits of the gradients do not depend on the order in which the device runs blocks.
    Then gradients of the object are summed as 64-bit integers, batch by batch and slice by slice: the largest part m
    of a batch sets the unit, at most 2^-60 m B for B patterns: parts larger than 2^-36 m B lose nothing of their
    single precision (2^-24), and smaller ones are in error by less than half a unit. It takes (B, y, x) complex64 and
    (Y, X) complex128 more memory, and three passes over the windows. Other sums have a fixed order in both modes.

    Parameters
    ----------
    mask : (y, x) bool, band limit M of the illumination and of the far field
    propagation : between the slices; its tilts, if any, are the same for all patterns
    subpixel : windows are, or may move, off the pixel grid
    compiler : for the kernels; None: CuPy's
    """

    def __init__(
        self,
        grid: Grid,
        mask: np.ndarray,
        backend: Backend,
        propagation: Propagation,
        subpixel: bool = True,
        deterministic: bool = False,
        compiler: Compiler | None = None,
    ) -> None:
        self.backend = backend
        self.n = grid.shape[0]
        self.mask = None if mask.all() else backend.asarray(mask, np.float32)
        self.half = half_band(mask)
        self.f = backend.asarray(grid.fx[0], np.float64)
        self.propagation = propagation
        self.subpixel = subpixel
        self.deterministic = deterministic
        self.kernels = WaveKernels(self.n, backend, compiler)

    def prepare(self, variables: Variables) -> SplitPoint:
        gaps = self.propagation.prepare(variables, variables.n_slices - 1)
        scale = np.float32(1 / self.n**2)
        spectrum = self._contiguous(self._limited(fft.fft2(variables.probe)) * scale)
        factors = {key: self._contiguous(factor * scale) for key, factor in gaps.factors.items()}
        gaps = PropagationPoint(gaps.distances, gaps.tilts, factors)
        return SplitPoint(self._contiguous(variables.obj[0]), spectrum, variables.positions, gaps)

    def _limited(self, spectrum: Array) -> Array:
        """The band limit of the illumination; there is none without a sub-pixel shift."""
        return spectrum if self.mask is None or not self.subpixel else spectrum * self.mask

    def _contiguous(self, array: Array) -> Array:
        return self.backend.xp.ascontiguousarray(array, dtype=np.complex64)

    def forward(self, wave: None, point: SplitPoint, batch: Batch, tape: Tape) -> Array:
        """(batch, ky, kx) intensities, zero frequency first. Waves stay in the workspace for the way back."""
        work, kernels = _workspace(batch), self.kernels
        placed = tape["placed"] = self._place(point, batch, work)
        layout, n_slices = placed.layout, len(point.obj)
        kept = None if FORWARD_ONLY in tape else self._incoming(layout, n_slices, work)
        kernels.probe_forward(placed.wave, point.spectrum, placed.ramps, layout)
        for s in range(n_slices):
            incoming = None if kept is None else kept[s]
            kernels.row_forward(placed.wave, incoming, point.obj[s], placed.corners, layout, first=s == 0)
            if s + 1 < n_slices:
                kernels.propagate(placed.wave, self._factor(point, s), layout, conjugate=False)
        intensity = work.array("intensity", (layout.patterns, self.n, self.n), np.float32)
        kernels.detector_forward(placed.wave, intensity, self.mask, layout)
        return intensity

    def _place(self, point: SplitPoint, batch: Batch, work: Workspace) -> _Placed:
        xp = self.backend.xp
        corners, ramps = xp.asarray(batch.corners), None
        entry = self.half if self.subpixel else self.n // 2
        layout = Layout(len(batch.index), len(point.spectrum), self.half, entry)
        if self.subpixel:
            offset = rows_of(point.positions, batch) - corners
            ramps = xp.exp(-2j * np.pi * offset[:, :, None] * self.f).astype(np.complex64)
        wave = work.array("mixed wave", (layout.patterns, layout.modes, self.n, self.n), np.complex64)
        return _Placed(layout, xp.ascontiguousarray(corners.astype(np.int32)), ramps, wave)

    def _incoming(self, layout: Layout, n_slices: int, work: Workspace) -> Array:
        """(z, B, P, y, x): for the waves entering the slices."""
        shape = (n_slices, layout.patterns, layout.modes, self.n, self.n)
        return work.array("incoming waves", shape, np.complex64)

    def _factor(self, point: SplitPoint, gap: int) -> Array:
        return point.gaps.factors[point.gaps.index(gap), 1.0]

    def adjoint(self, grad: Array, point: SplitPoint, batch: Batch, tape: Tape, gradients: Gradients) -> None:
        """``grad`` is dL/dI (batch, ky, kx)."""
        placed = tape["placed"]
        work, layout = _workspace(batch), placed.layout
        incoming = self._incoming(layout, len(point.obj), work)
        slope = self.backend.xp.ascontiguousarray(grad, dtype=np.float32)
        to_probe = "probe" in gradients or (self.subpixel and "positions" in gradients)
        self.kernels.detector_adjoint(placed.wave, slope, self.mask, layout)
        for s in reversed(range(len(point.obj))):
            leaves = s > 0 or to_probe
            self._back_through(s, point, placed, incoming[s], gradients, work, leaves)
            if s > 0:
                self.kernels.propagate(placed.wave, self._factor(point, s - 1), layout, conjugate=True)
        if to_probe:
            self._add_probe(point, batch, placed, gradients, work)

    def _back_through(
        self,
        s: int,
        point: SplitPoint,
        placed: _Placed,
        incoming: Array,
        gradients: Gradients,
        work: Workspace,
        leaves: bool,
    ) -> None:
        """Back through slice s; adds to the gradient of the object."""
        arrays = (placed.wave, incoming, point.obj[s], placed.corners, placed.layout)
        if "obj" not in gradients:
            if leaves:
                self.kernels.row_adjoint(*arrays, first=s == 0)
            return
        gradient = gradients["obj"][0, s]
        if not self.deterministic:
            self.kernels.row_adjoint(*arrays, gradient=gradient, first=s == 0, leaves=leaves)
            return
        n_patterns = placed.layout.patterns
        parts = work.array("window gradients", (n_patterns, self.n, self.n), np.complex64)
        largest = work.array("largest part", (1,), np.uint32)
        fixed = work.array("integer gradient", (*gradient.shape, 2), np.int64)
        largest.fill(0)
        fixed.fill(0)
        self.kernels.row_adjoint(*arrays, window_gradient=parts, largest=largest, first=s == 0, leaves=leaves)
        self.kernels.fixed_scatter(parts, placed.corners, largest, fixed, gradient.shape[1])
        self.kernels.fixed_add(fixed, largest, gradient, n_patterns)

    def _add_probe(
        self, point: SplitPoint, batch: Batch, placed: _Placed, gradients: Gradients, work: Workspace
    ) -> None:
        """Gradients of the probe, F^-1[M sum of conj(ramp) F[G]], and of the positions, (2 pi/n) sum_k k Im(...)."""
        layout, spectrum_parts, shift_parts = placed.layout, None, None
        n_patterns, modes = layout.patterns, layout.modes
        if "probe" in gradients:
            shape = (self.kernels.groups(n_patterns), modes, self.n, 2 * layout.entry)
            spectrum_parts = work.array("probe gradients", shape, np.complex64)
        if self.subpixel and "positions" in gradients:
            n_parts = modes * self.kernels.column_blocks(layout.entry)
            shift_parts = work.array("position gradients", (n_patterns, n_parts), np.complex64)
        self.kernels.probe_adjoint(
            placed.wave, point.spectrum, placed.ramps, layout, spectrum_parts, shift_parts
        )
        if spectrum_parts is not None:
            spectrum = self._limited(self._all_columns(spectrum_parts.sum(axis=0)))
            gradients["probe"][...] += fft.ifft2(spectrum, overwrite=True)
        if shift_parts is not None:
            along_x_and_y = shift_parts.view(np.float32).reshape(n_patterns, -1, 2)
            values = (2 * np.pi / self.n) * along_x_and_y.sum(axis=1, dtype=np.float64)
            add_rows(gradients["positions"], batch, values[:, ::-1])

    def _all_columns(self, used: Array) -> Array:
        """(P, y, x) with zeros in the columns that are not in use."""
        half = used.shape[-1] // 2
        if 2 * half == self.n:
            return used
        full = self.backend.zeros((*used.shape[:-1], self.n), used.dtype)
        full[..., :half] = used[..., :half]
        full[..., self.n - half :] = used[..., half:]
        return full


def half_band(mask: np.ndarray) -> int:
    """Of how many of the lowest positive, and of the lowest negative, kx the columns contain all that a mask (y, x)
    lets through. The result is a whole number of memory sectors."""
    n = mask.shape[1]
    used = np.abs(np.fft.fftfreq(n, 1 / n))[mask.any(axis=0)]
    half = int(used.max(initial=0)) + 1
    return min(n // 2, -(-half // _SECTOR) * _SECTOR)


def _workspace(batch: Batch) -> Workspace:
    assert batch.workspace is not None
    return batch.workspace
