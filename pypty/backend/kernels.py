"""Hot operations, one function each. The NumPy body is the definition.

A CUDA body may stand beside it; the two are compared by the tests.
"""

from __future__ import annotations

import importlib

import numpy as np

from pypty.backend.array import Array, array_module


def gather_patches(obj: Array, corners: np.ndarray, shape: tuple[int, int]) -> Array:
    """Cut one window per scan position out of every slice.

    Parameters
    ----------
    obj : (mode, z, Y, X)
    corners : (batch, 2) int, host
        [y, x] of each window's first pixel; the windows lie inside the object.
    shape : (y, x) of a window

    Returns
    -------
    (z, batch, mode, y, x), a copy
    """
    if isinstance(obj, np.ndarray):
        windows = np.lib.stride_tricks.sliding_window_view(obj, shape, axis=(2, 3))
        patches = windows[:, :, corners[:, 0], corners[:, 1]]  # (mode, z, batch, y, x)
    else:
        patches = obj[(slice(None), slice(None), *_window_indices(obj, corners, shape))]
    return array_module(obj).ascontiguousarray(patches.transpose(1, 2, 0, 3, 4))


def _window_indices(obj: Array, corners: np.ndarray, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Row (batch, y, 1) and column (batch, 1, x) indices of every window, on the device of ``obj``."""
    xp = array_module(obj)
    index = xp.asarray(corners)
    rows = index[:, 0, None, None] + xp.arange(shape[0])[None, :, None]
    columns = index[:, 1, None, None] + xp.arange(shape[1])[None, None, :]
    return rows, columns


def scatter_add_patches(obj: Array, corners: np.ndarray, patches: Array) -> None:
    """Adjoint of :func:`gather_patches`: add each window to its place in ``obj``, in place.

    Parameters
    ----------
    obj : (mode, z, Y, X), changed
    corners : (batch, 2) int, host
    patches : (z, batch, mode, y, x)
    """
    ny, nx = patches.shape[-2:]
    if isinstance(obj, np.ndarray):
        by_mode = patches.transpose(2, 0, 1, 3, 4)
        for b, (y, x) in enumerate(corners):
            obj[:, :, y : y + ny, x : x + nx] += by_mode[:, :, b]
        return
    _scatter_add_device(obj, corners, patches)


def _scatter_add_device(obj: Array, corners: np.ndarray, patches: Array) -> None:
    """CUDA twin: overlapping windows are added atomically, real and imaginary part on their own."""
    cupyx = importlib.import_module("cupyx")
    rows, columns = _window_indices(obj, corners, patches.shape[-2:])
    for mode in range(obj.shape[0]):
        for z in range(obj.shape[1]):
            plane, values = obj[mode, z], patches[z, :, mode]
            if plane.dtype.kind == "c":
                cupyx.scatter_add(plane.real, (rows, columns), values.real)
                cupyx.scatter_add(plane.imag, (rows, columns), values.imag)
            else:
                cupyx.scatter_add(plane, (rows, columns), values)


def abs2(wave: Array) -> Array:
    """|wave|^2 as a real array, without the square root of ``abs``."""
    return wave.real**2 + wave.imag**2


def sum_abs2(wave: Array, axes: tuple[int, ...]) -> Array:
    """Sum of |wave|^2 over ``axes``: the incoherent sum over modes."""
    return abs2(wave).sum(axis=axes)


def total(array: Array) -> float:
    """Sum of all elements, accumulated in float64."""
    return float(array.sum(dtype=np.float64))
