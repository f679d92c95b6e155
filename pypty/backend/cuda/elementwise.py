"""Operations between two-dimensional transforms, each in one pass over the memory, for any window and precision.

For NumPy arrays the functions are those of :mod:`pypty.backend.cuda.twins`; for device arrays one kernel each.
Waves are C-contiguous (B, P, y, x) complex64 or complex128, ``corners`` (B, 2) int32 on the device of the waves. A
wave that all patterns share has B = 1 where it is only read.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from pypty.backend.array import Array
from pypty.backend.cuda import twins
from pypty.backend.cuda.module import KernelModule, Parameters

FILES = ("complex.cuh", "elementwise.cu")

_THREADS = 256
"""Threads of a block (as in elementwise.cu)."""


def parameters(real: str) -> Parameters:
    """Compile-time parameters for a precision, "float" or "double"."""
    return (("REAL", real),)


@lru_cache(maxsize=2)
def _device_kernels(real: str) -> KernelModule:
    return KernelModule(FILES, parameters(real))


def _kernels(wave: Array, kernels: KernelModule | None) -> KernelModule | None:
    """The kernels to use; None: those of NumPy."""
    if kernels is not None or isinstance(wave, np.ndarray):
        return kernels
    return _device_kernels("float" if wave.dtype == np.complex64 else "double")


def _launch(
    kernels: KernelModule, name: str, n_pixels: int, arrays: tuple[Array, ...], *numbers: int
) -> None:
    """One thread per pixel."""
    kernels.launch(name, -(-n_pixels // _THREADS), _THREADS, *arrays, *(np.int32(n) for n in numbers))


def transmit(
    wave: Array, obj_slice: Array, corners: Array, out: Array, kernels: KernelModule | None = None
) -> None:
    """out (B, P, y, x) = wave times the window that each pattern sees of ``obj_slice`` (Y, X)."""
    found = _kernels(wave, kernels)
    if found is None:
        twins.transmit(wave, obj_slice, corners, out)
        return
    n, modes, ny, nx = out.shape
    arrays = (wave, obj_slice, corners, out)
    shared = len(wave) < n
    _launch(found, "transmit", n * ny * nx, arrays, n, modes, ny, nx, obj_slice.shape[1], shared)


def adjoint_transmit(
    grad: Array,
    incoming: Array,
    obj_slice: Array,
    corners: Array,
    gradient: Array,
    kernels: KernelModule | None = None,
) -> None:
    """gradient (Y, X) += sum over modes of conj(incoming) grad, in each window; then grad *= conj(window), in place.

    ``gradient`` None: only the latter. On the device windows are added atomically: the last bits depend on the order.
    """
    found = _kernels(grad, kernels)
    if found is None:
        twins.adjoint_transmit(grad, incoming, obj_slice, corners, gradient)
        return
    n, modes, ny, nx = grad.shape
    arrays = (grad, incoming, obj_slice, corners, gradient)
    shared = len(incoming) < n
    _launch(found, "adjoint_transmit", n * ny * nx, arrays, n, modes, ny, nx, obj_slice.shape[1], shared)


def multiply_spectrum(
    wave: Array, factor: Array, conjugate: bool = False, kernels: KernelModule | None = None
) -> None:
    """wave *= factor (y, x), or its complex conjugate, in place."""
    found = _kernels(wave, kernels)
    if found is None:
        twins.multiply_spectrum(wave, factor, conjugate)
        return
    ny, nx = factor.shape
    _launch(found, "multiply_spectrum", wave.size, (wave, factor), wave.size // (ny * nx), ny, nx, conjugate)


def sum_abs2(wave: Array, out: Array, kernels: KernelModule | None = None) -> None:
    """out (B, y, x) = sum over modes of |wave|^2."""
    found = _kernels(wave, kernels)
    if found is None:
        twins.sum_abs2(wave, out)
        return
    n, modes, ny, nx = wave.shape
    _launch(found, "sum_abs2", n * ny * nx, (wave, out), n, modes, ny, nx)


def scale_by_slope(wave: Array, slope: Array, mask: Array, kernels: KernelModule | None = None) -> None:
    """wave *= 2 slope M, in place; slope (B, y, x), M (y, x) real or None."""
    found = _kernels(wave, kernels)
    if found is None:
        twins.scale_by_slope(wave, slope, mask)
        return
    n, modes, ny, nx = wave.shape
    _launch(found, "scale_by_slope", n * ny * nx, (wave, slope, mask), n, modes, ny, nx)
