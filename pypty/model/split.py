"""The waves from the probe to the intensities as one stage, by row and column kernels on a CUDA device.

It computes what Illumination, ToReciprocal, SubpixelShift, ToReal, Multislice, FarField and Intensity compute, one
after the other (they are the definition; tests/cuda/test_cuda_kernels.py compares). Between kernels a wave stays in the
mixed domain, y in real and x in reciprocal space: a slice is one pass over the memory, and so is a propagation
(backend/cuda/waves.cu). Columns outside the band limit are neither stored nor transformed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pypty.backend import fft
from pypty.backend.array import Array, Backend
from pypty.backend.cuda.elementwise import ElementKernels
from pypty.backend.cuda.module import Compiler
from pypty.backend.cuda.waves import PLANS, Layout, WaveKernels
from pypty.backend.workspace import Workspace
from pypty.data.feed import Batch, Placed
from pypty.errors import BackendError
from pypty.model.blocks import Variables
from pypty.model.options import ModelOptions
from pypty.model.stages.base import FORWARD_ONLY, Gradients, Tape
from pypty.model.stages.propagation import Propagation, PropagationPoint
from pypty.optics.grid import Grid

_SECTOR = 4
"""Complex numbers in the smallest piece of memory (32 bytes) that a device reads."""


def split_reason(options: ModelOptions, precision: np.dtype) -> str:
    """Why :class:`SplitWaves` does not cover a model; "" if it does. ``precision`` is the complex dtype of the
    waves."""
    before, inside, after = options.tilts
    ny, nx = options.grid.shape
    sizes = ", ".join(str(size) for size in PLANS)
    reasons = {
        f"window {ny} x {nx}, not square of {sizes}": ny != nx or ny not in PLANS,
        "double precision": np.dtype(precision) != np.complex64,
        "several object modes": options.object_modes > 1,
        "weights of object modes": options.mode_weights is not None,
        "near field": options.near_field is not None,
        "several probes": options.probe_marker is not None,
        "local aberrations": options.aberration_marker is not None,
        "phase plates": options.plates is not None,
        "tilts before or after the specimen": before or after,
        "tilts of each pattern": inside and options.tilt_rows > 1,
        "refined distances or tilts": options.refines_propagation,
        "patches are filtered (lazy_clean)": options.filter_patches,
        f"keep_every = {options.keep_every}": options.keep_every > 1,
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
class _Waves:
    """The waves of a batch.

    Attributes
    ----------
    layout : sizes and order of the waves in memory
    placed : pattern numbers and crop origins on the device
    ramps : (B, 2 n) exp(-2 pi i f d) along y and x, d = position - crop origin; None without a sub-pixel shift
    wave : (B, P, y, kx), in the mixed domain
    """

    layout: Layout
    placed: Placed
    ramps: Array
    wave: Array


class SplitWaves:
    """I = sum over modes of |M F[psi_S O_S]|^2, psi_(s+1) = F^-1[H F[psi_s O_s]].

    psi_1 = F^-1[M exp(-2 pi i f.d) F[P]] with a sub-pixel shift, else P.

    In the deterministic mode the bits of the gradients do not depend on the order in which the device runs blocks.
    Then gradients of the object are summed as 64-bit integers, batch by batch and slice by slice: the largest part m
    of a batch sets the unit, at most 2^-60 m B for B patterns. Parts larger than 2^-36 m B keep all of their single
    precision (2^-24); smaller ones are rounded by less than half a unit. It takes (B, y, x) complex64 and (Y, X)
    complex128 more memory, and three passes over the patches. Other sums have a fixed order in both modes.

    Parameters
    ----------
    mask : (y, x) bool, band limit M of the illumination and of the far field
    propagation : between the slices; its tilts, if any, are the same for all patterns
    subpixel : patches are, or may move, off the pixel grid
    compiler : for the kernels; None: CuPy's
    """

    def __init__(
        self,
        grid: Grid,
        mask: np.ndarray,
        backend: Backend,
        *,
        propagation: Propagation,
        subpixel: bool = True,
        deterministic: bool = False,
        compiler: Compiler | None = None,
    ) -> None:
        self.backend = backend
        self.n = grid.shape[0]
        self.mask = None if mask.all() else backend.asarray(mask, np.float32)
        self.half = half_band(mask)
        # (ny + nx,) cycles/pixel, y before x, as the kernel of the ramps reads them
        self.f = backend.asarray(np.concatenate([grid.fy[:, 0], grid.fx[0]]), np.float64)
        self.propagation = propagation
        self.subpixel = subpixel
        self.deterministic = deterministic
        self.kernels = WaveKernels(self.n, backend, compiler)
        self.elements = ElementKernels("float", compiler)

    def prepare(self, variables: Variables) -> SplitPoint:
        gaps = self.propagation.prepare(variables, variables.n_slices - 1)
        # the kernels transform without normalisation: 1/n^2 of every F^-1 goes into spectrum and factors
        scale = np.float32(1 / self.n**2)
        spectrum = self._contiguous(self._limited(fft.fft2(variables.probe)) * scale)
        factors = {key: self._contiguous(factor * scale) for key, factor in gaps.factors.items()}
        gaps = PropagationPoint(gaps.distances, gaps.tilts, factors)
        return SplitPoint(self._contiguous(variables.obj[0]), spectrum, variables.positions, gaps)

    def fixed(self, point: SplitPoint, work: Workspace) -> SplitPoint:
        """A copy of a point whose arrays have fixed addresses in ``work``, as a CUDA graph needs."""

        def copied(name: str, array: Array) -> Array:
            place = work.array(f"fixed {name}", array.shape, array.dtype)
            place[...] = array
            return place

        factors = {key: copied(f"factor {key}", factor) for key, factor in point.gaps.factors.items()}
        gaps = PropagationPoint(point.gaps.distances, point.gaps.tilts, factors)
        return SplitPoint(
            copied("object", point.obj),
            copied("spectrum", point.spectrum),
            copied("positions", point.positions),
            gaps,
        )

    def finish(self, gradients: dict[str, Array]) -> None:
        """Turn the sum over batches, sum of conj(ramp) F[G], into the gradient of the probe, F^-1[M ...]."""
        if "probe" in gradients:
            gradients["probe"] = fft.ifft2(self._limited(gradients["probe"]), overwrite=True)

    def _limited(self, spectrum: Array) -> Array:
        """Apply the band limit of the illumination; without a sub-pixel shift there is none."""
        return spectrum if self.mask is None or not self.subpixel else spectrum * self.mask

    def _contiguous(self, array: Array) -> Array:
        return self.backend.xp.ascontiguousarray(array, dtype=np.complex64)

    def forward(self, wave: None, point: SplitPoint, batch: Batch, tape: Tape) -> Array:
        """(batch, ky, kx) intensities, zero frequency first. Waves stay in the workspace for the adjoint."""
        work, kernels = batch.workspace, self.kernels
        waves = tape["waves"] = self._begin(point, batch, work)
        layout, crop_origins, n_slices = waves.layout, waves.placed.crop_origins, len(point.obj)
        # only the adjoint needs the waves entering the slices, for dL/dO
        kept = None if FORWARD_ONLY in tape else self._incoming(layout, n_slices, work)
        kernels.probe_forward(waves.wave, point.spectrum, waves.ramps, layout)
        for s in range(n_slices):
            incoming = None if kept is None else kept[s]
            kernels.row_forward(waves.wave, incoming, point.obj[s], crop_origins, layout, first=s == 0)
            if s + 1 < n_slices:
                kernels.propagate(waves.wave, self._factor(point, s), layout, conjugate=False)
        intensity = work.array("intensity", (layout.patterns, self.n, self.n), np.float32)
        kernels.detector_forward(waves.wave, intensity, self.mask, layout)
        return intensity

    def _begin(self, point: SplitPoint, batch: Batch, work: Workspace) -> _Waves:
        placed, ramps = batch.placed, None
        n_patterns, modes, entry = len(batch.index), len(point.spectrum), self.n // 2
        if self.subpixel:
            # a shifted probe is band-limited: only 2 x half columns of its spectrum are stored
            entry, ramps = self.half, work.array("ramps", (n_patterns, 2 * self.n), np.complex64)
            where = (point.positions, placed.index, placed.crop_origins)
            self.elements.shift_ramps(*where, self.f, self.n, ramps)
        wave = work.array("mixed wave", (n_patterns, modes, self.n, self.n), np.complex64)
        return _Waves(Layout(n_patterns, modes, self.half, entry), placed, ramps, wave)

    def _incoming(self, layout: Layout, n_slices: int, work: Workspace) -> Array:
        """(z, B, P, y, x): memory for the waves entering the slices."""
        shape = (n_slices, layout.patterns, layout.modes, self.n, self.n)
        return work.array("incoming waves", shape, np.complex64)

    def _factor(self, point: SplitPoint, gap: int) -> Array:
        return point.gaps.factors[point.gaps.index(gap), 1.0]

    def adjoint(self, grad: Array, point: SplitPoint, batch: Batch, tape: Tape, gradients: Gradients) -> None:
        """``grad`` is dL/dI (batch, ky, kx)."""
        if "slice_distances" in gradients or (self.propagation.tilted and "tilts" in gradients):
            raise BackendError(
                "the split kernels have no gradients of distances and tilts; start again with executor='fused'"
            )
        work, waves = batch.workspace, tape["waves"]
        layout = waves.layout
        incoming = self._incoming(layout, len(point.obj), work)
        # dL/dI may come from any stage behind; kernels read it as contiguous float32 (B, ky, kx)
        slope = self.backend.xp.ascontiguousarray(grad, dtype=np.float32)
        to_probe = "probe" in gradients or (self.subpixel and "positions" in gradients)
        self.kernels.detector_adjoint(waves.wave, slope, self.mask, layout)
        for s in reversed(range(len(point.obj))):
            # before the first slice only probe and positions need the gradient of the wave
            leaves = s > 0 or to_probe
            self._back_through(s, point, waves, incoming[s], gradients, work, leaves)
            if s > 0:
                self.kernels.propagate(waves.wave, self._factor(point, s - 1), layout, conjugate=True)
        if to_probe:
            self._add_probe(point, waves, gradients, work)

    def _back_through(
        self,
        s: int,
        point: SplitPoint,
        waves: _Waves,
        incoming: Array,
        gradients: Gradients,
        work: Workspace,
        leaves: bool,
    ) -> None:
        """Back through slice s; adds to the gradient of the object."""
        crop_origins = waves.placed.crop_origins
        arrays = (waves.wave, incoming, point.obj[s], crop_origins, waves.layout)
        if "obj" not in gradients:
            if leaves:
                self.kernels.row_adjoint(*arrays, first=s == 0)
            return
        gradient = gradients["obj"][0, s]
        if not self.deterministic:
            self.kernels.row_adjoint(*arrays, gradient=gradient, first=s == 0, leaves=leaves)
            return
        n_patterns = waves.layout.patterns
        parts = work.array("window gradients", (n_patterns, self.n, self.n), np.complex64)
        # the bits of a positive float32, compared as integers: an atomic maximum in any order
        largest = work.array("largest part", (1,), np.uint32)
        # (Y, X, 2): real and imaginary part, whose integer sums do not depend on the order
        fixed = work.array("integer gradient", (*gradient.shape, 2), np.int64)
        largest.fill(0)
        fixed.fill(0)
        self.kernels.row_adjoint(*arrays, window_gradient=parts, largest=largest, first=s == 0, leaves=leaves)
        self.kernels.fixed_scatter(parts, crop_origins, largest, fixed, gradient.shape[1])
        self.kernels.fixed_add(fixed, largest, gradient, n_patterns)

    def _add_probe(self, point: SplitPoint, waves: _Waves, gradients: Gradients, work: Workspace) -> None:
        """Gradients of the probe, conj(ramp) F[G] summed over patterns (the rest is done by :meth:`finish`), and of
        the positions, (2 pi/n) sum_k k Im(...)."""
        layout, spectrum_parts, shift_parts = waves.layout, None, None
        n_patterns, modes = layout.patterns, layout.modes
        if "probe" in gradients:
            # one partial sum for each group of patterns, added in a fixed order below
            shape = (self.kernels.groups(n_patterns), modes, self.n, 2 * layout.entry)
            spectrum_parts = work.array("probe gradients", shape, np.complex64)
        if self.subpixel and "positions" in gradients:
            n_parts = modes * self.kernels.column_blocks(layout.entry)
            shift_parts = work.array("position gradients", (n_patterns, n_parts), np.complex64)
        self.kernels.probe_adjoint(
            waves.wave, point.spectrum, waves.ramps, layout, spectrum_parts, shift_parts
        )
        if spectrum_parts is not None:
            self.kernels.add_spectra(spectrum_parts, gradients["probe"])
        if shift_parts is not None:
            self._add_shifts(shift_parts, waves.placed.index, gradients["positions"], work)

    def _add_shifts(self, shift_parts: Array, index: Array, gradient: Array, work: Workspace) -> None:
        if len(gradient) > 1:
            self.kernels.add_shifts(shift_parts, index, gradient)
            return
        # one position for all patterns: a row for each pattern first, (B, 2), then their sum
        shifts = work.array("shifts", (len(index), 2), np.float64)
        shifts.fill(0)
        self.kernels.add_shifts(shift_parts, self.backend.xp.arange(len(index), dtype=np.int32), shifts)
        gradient[0] += shifts.sum(axis=0)


def half_band(mask: np.ndarray) -> int:
    """The number h of lowest positive, and of lowest negative, kx that hold all columns transmitted by a mask (y, x);
    rounded up to whole memory sectors."""
    n = mask.shape[1]
    used = np.abs(np.fft.fftfreq(n, 1 / n))[mask.any(axis=0)]
    half = int(used.max(initial=0)) + 1
    return min(n // 2, -(-half // _SECTOR) * _SECTOR)
