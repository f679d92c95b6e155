"""The operations of the fused executor: for NumPy arrays, which define them, and as kernels on a CUDA device.

On the CPU a batch copies its patches of all slices at once, and adds all their gradients at once, so that it stays in
the caches. On a device the kernels read the object, and add to its gradient, in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from pypty.backend import kernels
from pypty.backend.array import Array, Backend
from pypty.backend.cuda.elementwise import ElementKernels, element_kernels
from pypty.backend.workspace import Workspace
from pypty.data.batch import Batch
from pypty.model.stages.base import imaginary_product, rows_of
from pypty.model.stages.propagation import Propagation, PropagationPoint
from pypty.optics.grid import Grid


class Windows(Protocol):
    """The patches of the object in a batch, and their gradients.

    Waves are (batch, probe mode, object mode, y, x).
    """

    def transmit(self, s: int, wave: Array, out: Array) -> None:
        """out = wave times the patches of slice s; ``out`` may be ``wave``."""

    def back(self, s: int, wave: Array, incoming: Array, gradient: Array) -> None:
        """C before slice s, in place. Adds conj(sum over probe modes of incoming C) to the gradient of the object
        (None: not wanted), now or in :meth:`finish`."""

    def finish(self, gradient: Array) -> None:
        """Call after all slices."""


class Steps(Protocol):
    """The operations on waves and spectra; ramps are whatever :meth:`ramps` makes."""

    def windows(self, obj: Array, batch: Batch, work: Workspace) -> Windows:
        """The patches of a batch."""

    def ramps(self, positions: Array, batch: Batch, work: Workspace) -> Array:
        """exp(-2 pi i f.d) of every pattern."""

    def shift(self, probe: Array, ramps: Array, out: Array) -> None:
        """out (batch, P, 1, y, x) = ramps times probe (1, P, 1, y, x)."""

    def unshift(self, wave: Array, ramps: Array) -> None:
        """wave *= ramps, in place."""

    def propagate(self, spectrum: Array, point: PropagationPoint, gap: int, batch: Batch) -> None:
        """spectrum *= H, in place."""

    def intensity(self, wave: Array, mask: Array, work: Workspace, weights: Array = None) -> Array:
        """(batch, y, x); weights w (object mode,), None = 1."""

    def conjugate_times(self, wave: Array, slope: Array, mask: Array, weights: Array = None) -> None:
        """wave = 2 M w slope conj(wave), in place."""

    def imaginary_sum(self, a: Array, b: Array, work: Workspace) -> Array:
        """(batch, y, x) sum over modes of Im(a b)."""

    def slopes(self, slope: Array) -> Array:
        """The argument of :meth:`position_slopes`, made once of s = i conj(2 pi M F[P]/n^2), (P, y, x)."""

    def position_slopes(self, wave: Array, slopes: Array, work: Workspace) -> Array:
        """(batch, 2) Re sum over probe modes and q of f W conj(s), f along y and x, of the waves W."""


class HostWindows:
    """Copies of the patches, (slice, batch, 1, object mode, y, x)."""

    def __init__(self, obj: np.ndarray, batch: Batch, shape: tuple[int, int], work: Workspace) -> None:
        modes, n_slices = obj.shape[:2]
        # (O, z, Y, X) -> (z, b, O, y, x) -> (z, b, 1, O, y, x)
        copies = work.array("windows", (n_slices, len(batch.index), modes, *shape), obj.dtype)
        kernels.gather_patches_into(obj, batch.crop_origins, copies)
        self.arrays = copies[:, :, None]
        self.crop_origins = batch.crop_origins
        self.work = work

    def _patches(self) -> Array:
        """(slice, batch, object mode, y, x)"""
        return self.work.array("patches", self.arrays[:, :, 0].shape, self.arrays.dtype)

    def transmit(self, s: int, wave: Array, out: Array) -> None:
        np.multiply(wave, self.arrays[s], out=out)

    def back(self, s: int, wave: Array, incoming: Array, gradient: Array) -> None:
        if gradient is not None:
            # (b, P, O, y, x) -> (b, O, y, x): summed over probe modes
            kernels.sum_products(incoming, wave, self._patches()[s], self.work)
        wave *= self.arrays[s]

    def finish(self, gradient: Array) -> None:
        patches = self._patches()
        np.conjugate(patches, out=patches)
        kernels.scatter_add_patches(gradient, self.crop_origins, patches)


class HostSteps:
    """With NumPy, in the workspace of the thread."""

    def __init__(self, grid: Grid, backend: Backend, propagation: Propagation) -> None:
        self.shape = grid.shape
        self.fy, self.fx = grid.fy[:, 0], grid.fx[0]
        self.complex = backend.complex
        self.propagation = propagation

    def windows(self, obj: Array, batch: Batch, work: Workspace) -> Windows:
        return HostWindows(obj, batch, self.shape, work)

    def ramps(self, positions: Array, batch: Batch, work: Workspace) -> Array:
        """(batch, 1, 1, y, x)"""
        offset = rows_of(positions, batch) - batch.crop_origins
        ramp_y = np.exp(-2j * np.pi * offset[:, :1] * self.fy).astype(self.complex)
        ramp_x = np.exp(-2j * np.pi * offset[:, 1:] * self.fx).astype(self.complex)
        # (b, y) and (b, x) -> (b, 1, 1, y, x)
        out = work.array("ramps", (len(offset), 1, 1, *self.shape), self.complex)
        return np.multiply(ramp_y[:, None, None, :, None], ramp_x[:, None, None, None, :], out=out)

    def shift(self, probe: Array, ramps: Array, out: Array) -> None:
        np.multiply(probe, ramps, out=out)

    def unshift(self, wave: Array, ramps: Array) -> None:
        wave *= ramps

    def propagate(self, spectrum: Array, point: PropagationPoint, gap: int, batch: Batch) -> None:
        self.propagation.multiply(spectrum, point, gap, batch)

    def intensity(self, wave: Array, mask: Array, work: Workspace, weights: Array = None) -> Array:
        return kernels.sum_abs2_into(wave, work, mask, weights)

    def conjugate_times(self, wave: Array, slope: Array, mask: Array, weights: Array = None) -> None:
        kernels.conjugate_times(wave, slope, mask, weights)

    def imaginary_sum(self, a: Array, b: Array, work: Workspace) -> Array:
        return imaginary_product(a.conj(), b, axes=(1, 2))

    def slopes(self, slope: Array) -> Array:
        return slope[:, None].astype(self.complex)  # (P, y, x) -> (P, 1, y, x)

    def position_slopes(self, wave: Array, slopes: Array, work: Workspace) -> Array:
        return kernels.first_moments(wave, slopes, self.fy, self.fx, work)


class DeviceWindows:
    """Patches are read, and their gradients added, in place; in the deterministic mode as integers (elementwise.cu)."""

    def __init__(
        self, obj: Array, batch: Batch, work: Workspace, kernels: ElementKernels, deterministic: bool
    ) -> None:
        self.obj = obj
        self.crop_origins = batch.placed.crop_origins
        self.work = work
        self.kernels = kernels
        self.deterministic = deterministic

    def transmit(self, s: int, wave: Array, out: Array) -> None:
        self.kernels.transmit(wave, self.obj, s, self.crop_origins, out)

    def back(self, s: int, wave: Array, incoming: Array, gradient: Array) -> None:
        if gradient is None or not self.deterministic:
            self.kernels.transmit_back(wave, incoming, self.obj, s, self.crop_origins, gradient)
            return
        # integer sums do not depend on the order in which patches are added
        n, _, objects, ny, nx = wave.shape
        parts = self.work.array("window gradients", (n, objects, ny, nx), wave.dtype)
        self.kernels.transmit_back(wave, incoming, self.obj, s, self.crop_origins, parts=parts)
        largest = self.work.array("largest part", (1,), np.uint64)
        fixed = self.work.array("integer gradient", (objects, *gradient.shape[2:], 2), np.int64)
        self.kernels.add_fixed(parts, self.crop_origins, largest, fixed, gradient, s)

    def finish(self, gradient: Array) -> None:
        """All slices are there already."""


class DeviceSteps:
    """One kernel for each operation, and no array of the size of a wave besides the waves.

    Parameters
    ----------
    deterministic : the bits of gradients do not depend on the order in which blocks run
    make_kernels : makes the kernels for a dtype; the default compiles those of the device
    """

    def __init__(
        self,
        grid: Grid,
        backend: Backend,
        propagation: Propagation,
        deterministic: bool = False,
        make_kernels: Callable[[np.dtype], ElementKernels] = element_kernels,
    ) -> None:
        self.shape = grid.shape
        frequencies = np.concatenate([grid.fy[:, 0], grid.fx[0]])
        self.frequencies = backend.asarray(frequencies, np.float64)
        self.kernels = make_kernels(backend.complex)
        self.complex, self.real = backend.complex, backend.real
        self.propagation = propagation
        self.xp = backend.xp
        self.deterministic = deterministic

    def windows(self, obj: Array, batch: Batch, work: Workspace) -> Windows:
        return DeviceWindows(obj, batch, work, self.kernels, self.deterministic)

    def ramps(self, positions: Array, batch: Batch, work: Workspace) -> Array:
        """(batch, ny + nx)"""
        out = work.array("ramps", (len(batch.index), sum(self.shape)), self.complex)
        placed = batch.placed
        self.kernels.shift_ramps(
            positions, placed.index, placed.crop_origins, self.frequencies, self.shape[0], out
        )
        return out

    def shift(self, probe: Array, ramps: Array, out: Array) -> None:
        self.kernels.shift_probe(probe[0, :, 0], ramps, out)

    def unshift(self, wave: Array, ramps: Array) -> None:
        self.kernels.multiply_spectrum(wave, None, ramps)

    def propagate(self, spectrum: Array, point: PropagationPoint, gap: int, batch: Batch) -> None:
        index, ramps = point.index(gap), None
        if point.tilts is not None and len(point.tilts) > 1:
            # (b, 1, 1, y, 1) and (b, 1, 1, 1, x) -> (b, y + x), as the kernel reads them
            along = self.propagation.tilt_ramps(point, float(point.distances[index]), batch)
            ramps = self.xp.concatenate([ramp.reshape(len(ramp), -1) for ramp in along], axis=1)
        self.kernels.multiply_spectrum(spectrum, point.factors[index, 1.0], ramps)

    def intensity(self, wave: Array, mask: Array, work: Workspace, weights: Array = None) -> Array:
        out = work.array("intensity", (len(wave), *self.shape), self.real)
        self.kernels.sum_abs2(wave, mask, out, weights)
        return out

    def conjugate_times(self, wave: Array, slope: Array, mask: Array, weights: Array = None) -> None:
        self.kernels.conjugate_times(wave, self.xp.ascontiguousarray(slope, dtype=self.real), mask, weights)

    def imaginary_sum(self, a: Array, b: Array, work: Workspace) -> Array:
        out = work.array("imaginary sum", (len(a), *self.shape), self.real)
        self.kernels.imaginary_sum(a, b, out)
        return out

    def slopes(self, slope: Array) -> Array:
        """(2, P * y * x) f s"""
        # f times the slope once per evaluation: then each batch needs one matrix product
        fy, fx = self.frequencies[: self.shape[0], None], self.frequencies[None, self.shape[0] :]
        return self.xp.stack([(slope * f).ravel() for f in (fy, fx)]).astype(self.complex)

    def position_slopes(self, wave: Array, slopes: Array, work: Workspace) -> Array:
        # (b, P y x) @ (P y x, 2) -> (b, 2)
        return (wave.reshape(len(wave), -1) @ slopes.conj().T).real.astype(np.float64)
