"""The waves from the probe to the intensities as one stage, by row and column kernels on a CUDA device.

It computes what Illumination, ToReciprocal, SubpixelShift, ToReal, Multislice, FarField and Intensity compute, one
after the other (they are the definition; tests/cuda/test_wave_kernels.py compares). Between kernels a wave stays in the
mixed domain, y in real and x in reciprocal space: a slice is one pass over the memory, and so is a propagation
(backend/cuda/waves.cu). Columns outside the band limit are neither stored nor transformed. What is kept for the adjoint
are the waves that enter the slices, in the mixed domain, too: less to write and to read than in real space, and what
the gradients of slice distances and tilts need.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from pypty.backend import fft
from pypty.backend.array import Array, Backend
from pypty.backend.cuda.elementwise import ElementKernels
from pypty.backend.cuda.module import Compiler
from pypty.backend.cuda.plans import WINDOWS
from pypty.backend.cuda.waves import Layout, Slice, WaveKernels
from pypty.backend.fixed import FixedPlaces
from pypty.backend.workspace import Workspace
from pypty.data.batch import Batch, Placed
from pypty.model.blocks import Variables
from pypty.model.executor_words import with_remedy
from pypty.model.kept_waves import place_of, slices_to_repeat
from pypty.model.options import ModelOptions
from pypty.model.stages.base import FORWARD_ONLY, Gradients, Tape
from pypty.model.stages.propagation import Propagation, PropagationPoint
from pypty.optics.grid import Grid

_SECTOR = 4
"""Complex numbers in the smallest piece of memory (32 bytes) that a device reads."""


def split_reason(options: ModelOptions, precision: np.dtype) -> str:
    """Why :class:`SplitWaves` does not cover a model; "" if it does. ``precision`` is the complex dtype of the
    waves."""
    before, _, after = options.tilts
    ny, nx = options.grid.shape
    reasons = {
        f"window {ny} x {nx}, not square": ny != nx,
        f"window {ny}": ny == nx and ny not in WINDOWS,
        "double precision": np.dtype(precision) != np.complex64,
        "near field": options.near_field is not None,
        "several probes": options.probe_marker is not None,
        "local aberrations": options.aberration_marker is not None,
        "phase plates": options.plates is not None,
        "tilts before or after the specimen": before or after,
        "patches are filtered (lazy_clean)": options.filter_patches,
        f"propmethod {options.propagation}": options.propagation not in ("multislice", "angular_spectrum"),
    }
    return ", ".join(with_remedy(reason, WINDOWS) for reason, applies in reasons.items() if applies)


@dataclass(frozen=True, kw_only=True)
class SplitPoint:
    """What all batches of an evaluation share.

    Attributes
    ----------
    obj : (O, z, Y, X)
    spectrum : (P, y, x) F[P]/n^2, with a sub-pixel shift M F[P]/n^2
    positions : (N, 2) or (1, 2)
    tilts : (N, 6) or (1, 6), or None
    distances : (1,) or (gaps,) Å
    gaps : distances and tilts of the propagations, and their factors H/n^2
    """

    obj: Array
    spectrum: Array
    positions: Array
    tilts: Array
    distances: Array
    gaps: PropagationPoint

    @property
    def n_slices(self) -> int:
        return int(self.obj.shape[1])

    def arrays(self) -> dict[str, Array]:
        """All arrays on the device, by name."""
        own = {name: getattr(self, name) for name in ("obj", "spectrum", "positions", "tilts", "distances")}
        factors = {f"factor {key}": factor for key, factor in self.gaps.factors.items()}
        return {name: array for name, array in {**own, **factors}.items() if array is not None}


@dataclass(frozen=True)
class _Waves:
    """A batch on its way through the specimen.

    Attributes
    ----------
    layout : sizes and order of the waves in memory
    placed : pattern numbers and crop origins on the device
    shifts : (B, 2 n) exp(-2 pi i f d) along y and x, d = position - crop origin; None without a sub-pixel shift
    tilts : (gaps, B, 2 n) factors of the propagators where tilts differ between patterns, else None
    work : memory of the waves
    """

    layout: Layout
    placed: Placed
    shifts: Array
    tilts: Array
    work: Workspace


class SplitWaves:
    """I = sum over modes of w |M F[psi_S O_S]|^2, psi_(s+1) = F^-1[H F[psi_s O_s]].

    psi_1 = F^-1[M exp(-2 pi i f.d) F[P]] with a sub-pixel shift, else P.

    In the deterministic mode the bits of the gradients do not depend on the order in which the device runs blocks.
    Then gradients of the object are summed as 64-bit integers, batch by batch and slice by slice: the largest part m
    of a batch sets the unit, at most 2^-60 m B for B patterns. Parts larger than 2^-36 m B keep all of their single
    precision (2^-24); smaller ones are rounded by less than half a unit. It takes (B, O, y, x) complex64 and (O, Y, X)
    complex128 more memory, and four passes over the patches. Other sums have a fixed order in both modes.

    Parameters
    ----------
    mask : (y, x) bool, band limit M of the illumination and of the far field
    propagation : between the slices
    subpixel : patches are, or may move, off the pixel grid
    keep_every : keep the waves entering every k-th slice only; those between are recomputed in the adjoint
    mode_weights : (object mode,) weights w of the intensities, or None (1)
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
        keep_every: int = 1,
        deterministic: bool = False,
        mode_weights: np.ndarray | None = None,
        compiler: Compiler | None = None,
    ) -> None:
        self.backend = backend
        self.n = grid.shape[0]
        self.mask = None if mask.all() else backend.asarray(mask, np.float32)
        self.columns = columns_in_use(mask)
        # (2 n,) y before x, as the kernels of the ramps read them: cycles/pixel, and 1/Å
        self.f = backend.asarray(np.concatenate([grid.fy[:, 0], grid.fx[0]]), np.float64)
        self.q = backend.asarray(np.concatenate([grid.qy[:, 0], grid.qx[0]]), np.float64)
        # rad/Å of one pixel of the spectrum, [y, x]
        self.q_units = (2 * np.pi * float(grid.qy[1, 0]), 2 * np.pi * float(grid.qx[0, 1]))
        self.propagation = propagation
        self.rate = backend.asarray(propagation.rate, np.float32)
        self.subpixel = subpixel
        self.keep_every = keep_every
        self.deterministic = deterministic
        self.weights = None if mode_weights is None else backend.asarray(mode_weights, np.float32)
        self.kernels = WaveKernels(self.n, backend, compiler)
        self.elements = ElementKernels("float", compiler)

    def prepare(self, variables: Variables) -> SplitPoint:
        gaps = self.propagation.prepare(variables, variables.n_slices - 1, divisor=self.n**2)
        # the kernels transform without normalisation: 1/n^2 of every F^-1 goes into spectrum and factors
        scale = np.float32(1 / self.n**2)
        return SplitPoint(
            obj=self._contiguous(variables.obj),
            spectrum=self._contiguous(self._limited(fft.fft2(variables.probe)) * scale),
            positions=variables.positions,
            tilts=variables.tilts if self.propagation.tilted else None,
            distances=variables.slice_distances,
            gaps=gaps,
        )

    def fixed(self, point: SplitPoint, work: Workspace, places: FixedPlaces) -> SplitPoint:
        """A copy of a point whose arrays have fixed addresses in ``work``, as a CUDA graph needs."""
        copies = places.put(point.arrays(), work, changing=("obj", "spectrum"))
        factors = {key: copies.pop(f"factor {key}") for key in point.gaps.factors}
        gaps = PropagationPoint(point.gaps.distances, point.gaps.tilts, factors)
        return dataclasses.replace(point, gaps=gaps, **copies)

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
        # only the adjoint needs the waves entering the slices
        keep = FORWARD_ONLY not in tape
        waves = tape["waves"] = self._begin(point, batch)
        layout = waves.layout
        self.kernels.probe_forward(self._wave(0, point, waves), point.spectrum, waves.shifts, layout)
        for s in range(point.n_slices):
            self._through_slice(s, point, waves, keep)
        intensity = waves.work.array("intensity", (layout.patterns, self.n, self.n), np.float32)
        exit_wave = self._wave(point.n_slices, point, waves)
        self.kernels.detector_forward(exit_wave, intensity, self.mask, layout, self.weights)
        return intensity

    def _begin(self, point: SplitPoint, batch: Batch) -> _Waves:
        work, placed, shifts, tilts = batch.workspace, batch.placed, None, None
        n_patterns, entry, n_gaps = len(batch.index), self.n, point.n_slices - 1
        if self.subpixel:
            # a shifted probe is band-limited, too
            entry, shifts = self.columns, work.array("ramps", (n_patterns, 2 * self.n), np.complex64)
            where = (point.positions, placed.index, placed.crop_origins)
            self.elements.shift_ramps(*where, self.f, self.n, shifts)
        if point.tilts is not None and len(point.tilts) > 1 and n_gaps > 0:
            tilts = work.array("tilt ramps", (n_gaps, n_patterns, 2 * self.n), np.complex64)
            self.elements.tilt_ramps(point.tilts, placed.index, point.distances, self.q, self.n, tilts)
        objects, probes = len(point.obj), len(point.spectrum)
        layout = Layout(n_patterns, probes, self.columns, entry, objects)
        return _Waves(layout, placed, shifts, tilts, work)

    def _wave(self, s: int, point: SplitPoint, waves: _Waves, keep: bool = True) -> Array:
        """(B, P, O, y, kx), memory for the wave entering slice s; before the first slice O = 1."""
        layout = waves.layout
        name = place_of(s, point.n_slices, self.keep_every, keep or s == 0)
        shape = (layout.patterns, layout.probes, layout.objects if s > 0 else 1, self.n, self.n)
        return waves.work.array(f"mixed {name}", shape, np.complex64)

    def _through_slice(self, s: int, point: SplitPoint, waves: _Waves, keep: bool = True) -> None:
        """Through slice s, and to the next one."""
        before, after = self._wave(s, point, waves, keep), self._wave(s + 1, point, waves, keep)
        self.kernels.row_forward(before, after, self._slice(s, point, waves), waves.layout)
        if s + 1 < point.n_slices:
            self.kernels.propagate(after, self._factor(point, s), waves.layout, ramps=_of_gap(waves.tilts, s))

    def _slice(self, s: int, point: SplitPoint, waves: _Waves) -> Slice:
        return Slice(point.obj, s, waves.placed.crop_origins)

    def _factor(self, point: SplitPoint, gap: int) -> Array:
        return point.gaps.factors[point.gaps.index(gap), 1.0]

    def adjoint(self, grad: Array, point: SplitPoint, batch: Batch, tape: Tape, gradients: Gradients) -> None:
        """``grad`` is dL/dI (batch, ky, kx)."""
        waves: _Waves = tape["waves"]
        layout, wave = waves.layout, self._wave(point.n_slices, point, waves)
        # dL/dI may come from any stage behind; kernels read it as contiguous float32 (B, ky, kx)
        slope = self.backend.xp.ascontiguousarray(grad, dtype=np.float32)
        to_probe = "probe" in gradients or (self.subpixel and "positions" in gradients)
        slopes = self._gap_slopes(point, waves) if self.propagation.refines(gradients) else None
        self.kernels.detector_adjoint(wave, slope, self.mask, layout, self.weights)
        for s in reversed(range(point.n_slices)):
            for earlier in slices_to_repeat(s, point.n_slices, self.keep_every):
                self._through_slice(earlier, point, waves)
            # before the first slice only probe and positions need the gradient of the wave
            self._back_through(s, wave, point, waves, gradients, leaves=s > 0 or to_probe)
            if s > 0:
                self._back(s - 1, wave, point, waves, None if slopes is None else slopes[s - 1])
        if slopes is not None and len(slopes):
            self._add_slopes(slopes, point, waves, gradients)
        if to_probe:
            self._add_probe(wave, point, waves, gradients)

    def _back_through(
        self, s: int, wave: Array, point: SplitPoint, waves: _Waves, gradients: Gradients, leaves: bool
    ) -> None:
        """Back through slice s; adds to the gradient of the object."""
        layout, gradient = waves.layout, gradients.get("obj")
        arrays = (wave, self._wave(s, point, waves), self._slice(s, point, waves), layout)
        if gradient is None or not self.deterministic:
            if leaves or gradient is not None:
                self.kernels.row_adjoint(*arrays, gradient=gradient, leaves=leaves)
            return
        # integer sums do not depend on the order in which patches are added
        shape = (layout.patterns, layout.objects, self.n, self.n)
        parts = waves.work.array("window gradients", shape, np.complex64)
        largest = waves.work.array("largest part", (1,), np.uint64)
        fixed = waves.work.array("integer gradient", (layout.objects, *gradient.shape[2:], 2), np.int64)
        self.kernels.row_adjoint(*arrays, parts=parts, leaves=leaves)
        self.elements.add_fixed(parts, waves.placed.crop_origins, largest, fixed, gradient, s)

    def _back(self, gap: int, wave: Array, point: SplitPoint, waves: _Waves, slopes: Array) -> None:
        """Back over a gap; ``slopes`` (B, P O, blocks, 3), if it is given, gets what the gap's gradients need."""
        factor, ramps = self._factor(point, gap), _of_gap(waves.tilts, gap)
        if slopes is None:
            self.kernels.propagate(wave, factor, waves.layout, ramps=ramps, conjugate=True)
            return
        after = self._wave(gap + 1, point, waves)
        self.kernels.propagate_adjoint(wave, after, factor, self.rate, slopes, waves.layout, ramps=ramps)

    def _gap_slopes(self, point: SplitPoint, waves: _Waves) -> Array:
        layout = waves.layout
        blocks = self.kernels.column_blocks(layout.columns)
        shape = (point.n_slices - 1, layout.patterns, layout.modes, blocks, 3)
        return waves.work.array("slopes of gaps", shape, np.float32)

    def _add_slopes(self, parts: Array, point: SplitPoint, waves: _Waves, gradients: Gradients) -> None:
        """Gradients of distances and inside tilts (:meth:`Propagation.add_gradients`)."""
        sums = waves.work.array("sums of slopes", (*parts.shape[:2], 3), np.float64)
        self.kernels.sum_slopes(parts, sums)
        tilt_gradient = gradients.get("tilts") if self.propagation.tilted else None
        self.kernels.add_slopes(
            sums,
            waves.placed.index,
            point.tilts,
            point.distances,
            gradients.get("slice_distances"),
            tilt_gradient,
            self.q_units,
        )

    def _add_probe(self, wave: Array, point: SplitPoint, waves: _Waves, gradients: Gradients) -> None:
        """Gradients of the probe, conj(ramp) F[G] summed over patterns (the rest is done by :meth:`finish`), and of
        the positions, (2 pi/n) sum_k k Im(...)."""
        layout, work, spectrum_parts, shift_parts = waves.layout, waves.work, None, None
        n_patterns, probes = layout.patterns, layout.probes
        if "probe" in gradients:
            # one partial sum for each group of patterns, added in a fixed order below
            shape = (self.kernels.groups(n_patterns), probes, self.n, layout.entry)
            spectrum_parts = work.array("probe gradients", shape, np.complex64)
        if self.subpixel and "positions" in gradients:
            n_parts = probes * self.kernels.column_blocks(layout.entry)
            shift_parts = work.array("position gradients", (n_patterns, n_parts, 2), np.float32)
        arrays = (wave, point.spectrum, waves.shifts, layout, spectrum_parts, shift_parts)
        self.kernels.probe_adjoint(*arrays)
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


def _of_gap(ramps: Array, gap: int) -> Array:
    return None if ramps is None else ramps[gap]


def columns_in_use(mask: np.ndarray) -> int:
    """The number of lowest kx that hold all columns transmitted by a mask (y, x), as many positive as negative ones;
    rounded up to whole memory sectors."""
    n = mask.shape[1]
    used = np.abs(np.fft.fftfreq(n, 1 / n))[mask.any(axis=0)]
    half = int(used.max(initial=0)) + 1
    return min(n, 2 * -(-half // _SECTOR) * _SECTOR)
