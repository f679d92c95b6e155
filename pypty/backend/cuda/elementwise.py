"""Operations between two-dimensional transforms, each in one pass over memory, for any window size and precision.

The functions of the same names in :mod:`pypty.backend.cuda.twins` are their definition. Waves are C-contiguous
(B, P, O, y, x) complex64 or complex128; the wave before a slice may have B = 1 (all patterns share it) and O = 1
(object modes share it). ``obj`` is (O, z, Y, X) and ``crop_origins`` (B, 2) int32; all arrays are on the device.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from pypty.backend.array import Array
from pypty.backend.cuda.module import Compiler, KernelModule, Parameters

FILES = ("complex.cuh", "elementwise.cu")

_THREADS = 256
"""Threads of a block (as in elementwise.cu)."""


def parameters(real: str) -> Parameters:
    """Compile-time parameters for a precision, "float" or "double"."""
    return (("REAL", real),)


@lru_cache(maxsize=2)
def element_kernels(dtype: np.dtype) -> ElementKernels:
    """The device's kernels for waves of a complex dtype."""
    return ElementKernels("float" if np.dtype(dtype) == np.complex64 else "double")


class ElementKernels:
    """The kernels of elementwise.cu for one precision.

    Parameters
    ----------
    real : "float" or "double"
    compiler : None for CuPy's (tests use one for the CPU)
    """

    def __init__(self, real: str, compiler: Compiler | None = None) -> None:
        self.module = KernelModule(FILES, parameters(real), compiler)

    def _launch(self, name: str, n_threads: int, *arguments: Array) -> None:
        """Launch at least ``n_threads`` threads; Python integers and bools are passed as int32."""
        converted = (np.int32(a) if isinstance(a, (int, bool)) else a for a in arguments)
        self.module.launch(name, -(-n_threads // _THREADS), _THREADS, *converted)

    def transmit(self, wave: Array, obj: Array, s: int, crop_origins: Array, out: Array) -> None:
        """out = wave times the patch of slice s that each pattern illuminates."""
        n, probes, objects, ny, nx = out.shape
        _, slices, height, width = obj.shape
        sizes = (n, probes, objects, ny, nx, slices, s, height, width)
        shared = (wave.shape[0] < n, wave.shape[2] < objects)
        self._launch("transmit", n * ny * nx, wave, obj, crop_origins, out, *sizes, *shared)

    def transmit_back(
        self,
        wave: Array,
        before: Array,
        obj: Array,
        s: int,
        crop_origins: Array,
        gradient: Array = None,
        parts: Array = None,
    ) -> None:
        """gradient (O, z, Y, X) += conj(sum over probe modes of before wave) in each patch of slice s, wave *= patch.

        Patches are added atomically, so the last bits depend on the order. With ``parts`` (B, O, y, x) the sums are
        written there instead. ``wave`` is modified in place.
        """
        n, probes, objects, ny, nx = wave.shape
        _, slices, height, width = obj.shape
        sizes = (n, probes, objects, ny, nx, slices, s, height, width)
        shared = (before.shape[0] < n, before.shape[2] < objects)
        arrays = (wave, before, obj, crop_origins, gradient, parts)
        self._launch("transmit_back", n * ny * nx, *arrays, *sizes, *shared)

    def multiply_spectrum(self, wave: Array, factor: Array, ramps: Array = None) -> None:
        """wave *= factor (y, x) and ramps (B, ny + nx), factors along y and along x, in place; either may be None."""
        n, probes, objects, ny, nx = wave.shape
        self._launch("multiply_spectrum", n * ny * nx, wave, factor, ramps, n, probes * objects, ny, nx)

    def shift_probe(self, spectrum: Array, ramps: Array, out: Array) -> None:
        """out (B, P, 1, y, x) = spectrum (P, y, x) times the ramps (B, ny + nx) of each pattern."""
        n, modes, _, ny, nx = out.shape
        self._launch("shift_probe", n * ny * nx, spectrum, ramps, out, n, modes, ny, nx)

    def sum_abs2(self, wave: Array, mask: Array, out: Array, weights: Array = None) -> None:
        """out (B, y, x) = M times the sum over modes of w |wave|^2; M (y, x) and w (O,) real or None."""
        n, probes, objects, ny, nx = wave.shape
        sizes = (n, probes * objects, objects, ny, nx)
        self._launch("sum_abs2", n * ny * nx, wave, mask, weights, out, *sizes)

    def conjugate_times(self, wave: Array, slope: Array, mask: Array, weights: Array = None) -> None:
        """wave = 2 M w slope conj(wave), in place; slope (B, y, x), M (y, x) and w (O,) real or None."""
        n, probes, objects, ny, nx = wave.shape
        sizes = (n, probes * objects, objects, ny, nx)
        self._launch("conjugate_times", n * ny * nx, wave, slope, mask, weights, *sizes)

    def imaginary_sum(self, a: Array, b: Array, out: Array) -> None:
        """out (B, y, x) = sum over modes of Im(a b)."""
        n, probes, objects, ny, nx = a.shape
        self._launch("imaginary_sum", n * ny * nx, a, b, out, n, probes * objects, ny, nx)

    def shift_ramps(
        self, positions: Array, index: Array, crop_origins: Array, frequencies: Array, ny: int, ramps: Array
    ) -> None:
        """ramps (B, ny + nx) = exp(-2 pi i f.d), d = position - crop origin; frequencies (ny + nx) float64, 1/pixel."""
        n, points = ramps.shape
        arrays = (positions, index, crop_origins, frequencies, ramps)
        self._launch("shift_ramps", n * points, *arrays, n, ny, points - ny, len(positions) == 1)

    def tilt_ramps(
        self, tilts: Array, index: Array, distances: Array, frequencies: Array, ny: int, ramps: Array
    ) -> None:
        """ramps (gap, B, ny + nx) = exp(-2 pi i z q.t) with the inside tilts of ``tilts`` (N or 1, 6).

        ``distances`` (gaps or fewer,) float64 Å, of which the last holds for all further gaps; ``frequencies``
        (ny + nx,) float64, 1/Å.
        """
        gaps, n, points = ramps.shape
        arrays = (tilts, index, distances, frequencies, ramps)
        sizes = (n, gaps, len(distances), ny, points - ny, len(tilts) == 1)
        self._launch("tilt_ramps", gaps * n * points, *arrays, *sizes)

    def matrix_along_y(self, matrix: Array, patterns: Array, out: Array) -> None:
        """out (B, my, nx) = matrix (my, ny) times patterns (B, ny, nx)."""
        n, ny, nx = patterns.shape
        self._launch("matrix_along_y", out.size, matrix, patterns, out, n, len(matrix), ny, nx)

    def matrix_along_x(self, transposed: Array, patterns: Array, out: Array) -> None:
        """out (B, ny, mx) = patterns (B, ny, nx) times a transposed matrix (nx, mx)."""
        n, ny, nx = patterns.shape
        self._launch("matrix_along_x", out.size, transposed, patterns, out, n, ny, transposed.shape[1], nx)

    def add_fixed(
        self, parts: Array, crop_origins: Array, largest: Array, fixed: Array, gradient: Array, s: int
    ) -> None:
        """Add parts (B, O, y, x) to slice s of gradient (O, z, Y, X), with a result independent of the order of blocks.

        Sums are 64-bit integers in units of at most 2^-60 m B, where m is the largest part.

        Parameters
        ----------
        largest, fixed : scratch, (1,) uint64 and (O, Y, X, 2) int64
        """
        n, objects, ny, nx = parts.shape
        _, slices, height, width = gradient.shape
        largest.fill(0)
        fixed.fill(0)
        self._launch("largest_part", parts.size, parts, largest, np.int64(parts.size))
        sizes = (n, objects, ny, nx, height, width)
        self._launch("fixed_scatter", n * ny * nx, parts, crop_origins, largest, fixed, *sizes)
        plane = height * width
        numbers = (n, objects, slices, s, np.int64(plane))
        self._launch("fixed_add", objects * plane, fixed, largest, gradient, *numbers)
