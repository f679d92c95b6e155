"""The most expensive array operations, one function each. The NumPy body is the definition.

Some have a CUDA version as well; tests compare the two.
"""

from __future__ import annotations

import numpy as np

from pypty.backend.array import Array, array_module
from pypty.backend.cuda.elementwise import element_kernels
from pypty.backend.workspace import Workspace


def gather_patches(obj: Array, crop_origins: np.ndarray, shape: tuple[int, int]) -> Array:
    """Cut one patch per scan position out of every slice.

    Parameters
    ----------
    obj : (mode, z, Y, X)
    crop_origins : (batch, 2) int, host
        Crop origins: [y, x] of each patch's first pixel. Patches must lie inside the object.
    shape : (y, x) of a patch

    Returns
    -------
    (z, batch, mode, y, x), a copy
    """
    if isinstance(obj, np.ndarray):
        windows = np.lib.stride_tricks.sliding_window_view(obj, shape, axis=(2, 3))
        patches = windows[:, :, crop_origins[:, 0], crop_origins[:, 1]]  # (mode, z, batch, y, x)
    else:
        patches = obj[(slice(None), slice(None), *_window_indices(obj, crop_origins, shape))]
    return array_module(obj).ascontiguousarray(patches.transpose(1, 2, 0, 3, 4))


def gather_patches_into(obj: Array, crop_origins: np.ndarray, out: Array) -> None:
    """:func:`gather_patches` into ``out``, (z, batch, mode, y, x)."""
    if not isinstance(obj, np.ndarray):
        out[...] = gather_patches(obj, crop_origins, out.shape[-2:])
        return
    ny, nx = out.shape[-2:]
    by_slice = obj.transpose(1, 0, 2, 3)  # (mode, z, Y, X) -> (z, mode, Y, X), as in ``out``
    for b, (y, x) in enumerate(crop_origins.tolist()):
        out[:, b] = by_slice[:, :, y : y + ny, x : x + nx]


def _window_indices(obj: Array, crop_origins: np.ndarray, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Row (batch, y, 1) and column (batch, 1, x) indices of every patch, on the device of ``obj``."""
    xp = array_module(obj)
    index = xp.asarray(crop_origins)
    rows = index[:, 0, None, None] + xp.arange(shape[0])[None, :, None]
    columns = index[:, 1, None, None] + xp.arange(shape[1])[None, None, :]
    return rows, columns


def scatter_add_patches(
    obj: Array, crop_origins: np.ndarray, patches: Array, deterministic: bool = False
) -> None:
    """Adjoint of :func:`gather_patches`: add each patch to ``obj`` at its crop origin, in place.

    ``deterministic`` matters on a GPU only: results are the same to the last bit, at the cost of memory and time.

    Parameters
    ----------
    obj : (mode, z, Y, X), modified
    crop_origins : (batch, 2) int, host
        Crop origins.
    patches : (z, batch, mode, y, x)
    """
    ny, nx = patches.shape[-2:]
    if isinstance(obj, np.ndarray):
        by_mode = patches.transpose(2, 0, 1, 3, 4)  # (z, batch, mode, y, x) -> (mode, z, batch, y, x)
        # A loop and not one indexed addition: patches overlap, and += through an index array adds only one of them.
        for b, (y, x) in enumerate(crop_origins.tolist()):
            obj[:, :, y : y + ny, x : x + nx] += by_mode[:, :, b]
        return
    if deterministic:
        _add_fixed(obj, crop_origins, patches)
    else:
        _scatter_add_device(obj, crop_origins, patches)


def _add_fixed(obj: Array, crop_origins: np.ndarray, patches: Array) -> None:
    """Deterministic CUDA version for complex arrays: integer sums do not depend on the order of additions."""
    xp = array_module(obj)
    where = xp.asarray(np.ascontiguousarray(crop_origins, np.int32))
    largest = xp.empty(1, np.uint64)
    fixed = xp.empty((len(obj), *obj.shape[2:], 2), np.int64)  # (mode, Y, X, real and imaginary part)
    for s in range(obj.shape[1]):
        parts = xp.ascontiguousarray(patches[s])
        element_kernels(obj.dtype).add_fixed(parts, where, largest, fixed, obj, s)


def _scatter_add_device(obj: Array, crop_origins: np.ndarray, patches: Array) -> None:
    """CUDA version: overlapping patches are added atomically, real and imaginary parts separately.

    There is no atomic addition of complex numbers.
    """
    add_at = array_module(obj).add.at
    rows, columns = _window_indices(obj, crop_origins, patches.shape[-2:])
    for mode in range(obj.shape[0]):
        for z in range(obj.shape[1]):
            plane, values = obj[mode, z], patches[z, :, mode]
            if plane.dtype.kind == "c":
                add_at(plane.real, (rows, columns), values.real)
                add_at(plane.imag, (rows, columns), values.imag)
            else:
                add_at(plane, (rows, columns), values)


def along_axes(rows: Array, patterns: Array, columns: Array) -> Array:
    """R p C^T of every pattern p: a matrix R (my, ny) along y and a matrix C (mx, nx) along x.

    (batch, ny, nx) -> (batch, my, mx); patterns and matrices have one real type. On a GPU these are kernels
    of our own: CUDA graphs cannot hold CuPy's matrix products.
    """
    if isinstance(patterns, np.ndarray):
        return rows @ patterns @ columns.T
    xp, real = array_module(patterns), patterns.dtype
    n, ny, nx = patterns.shape
    between, out = xp.empty((n, len(rows), nx), real), xp.empty((n, len(rows), len(columns)), real)
    own = element_kernels(np.result_type(real, np.complex64))
    own.matrix_along_y(xp.ascontiguousarray(rows), xp.ascontiguousarray(patterns), between)
    # threads lie side by side along x: they read neighbours of the transpose
    own.matrix_along_x(xp.ascontiguousarray(columns.T), between, out)
    return out


def abs2(wave: Array) -> Array:
    """|wave|^2 as a real array, without the square root of ``abs``."""
    return wave.real**2 + wave.imag**2


def sum_abs2(wave: Array, axes: tuple[int, ...]) -> Array:
    """Sum of |wave|^2 over ``axes``: the incoherent sum over modes."""
    return abs2(wave).sum(axis=axes)


def weighted_abs2(wave: Array, weights: Array) -> Array:
    """Sum of w |wave|^2 over the modes, w (object mode,): (batch, probe mode, object mode, y, x) -> (batch, y, x)."""
    return (abs2(wave).sum(axis=1) * weights[:, None, None]).sum(axis=1)


def sum_abs2_into(wave: Array, work: Workspace, mask: Array = None, weights: Array = None) -> Array:
    """M times the sum of |wave|^2 over the modes, (batch, probe mode, object mode, y, x) -> (batch, y, x), in a buffer.

    The mask M (y, x) holds 0 and 1, weights (object mode,) multiply the squares; None = 1.
    """
    real, n, (ny, nx) = wave.real.dtype, len(wave), wave.shape[-2:]
    # Real and imaginary parts lie next to each other, so a real view has rows of 2 nx numbers to square and add.
    squares = work.array("sum over modes", (n, ny, 2 * nx), real)
    if weights is None:
        parts = wave.view(real).reshape(n, -1, ny, 2 * nx)  # probe and object modes -> one axis
        np.einsum("bmyx,bmyx->byx", parts, parts, out=squares)
    else:
        squares.fill(0)
        mode_squares = work.array("squares of a mode", squares.shape, real)
        for mode, weight in enumerate(weights):  # one mode at a time: it stays in the cache
            parts = wave.view(real)[:, :, mode]  # (batch, probe mode, y, 2 x)
            np.einsum("bmyx,bmyx->byx", parts, parts, out=mode_squares)
            mode_squares *= weight
            squares += mode_squares
    # Re^2 + Im^2: (batch, y, 2 x) -> (batch, y, x)
    out = np.add(squares[..., 0::2], squares[..., 1::2], out=work.array("intensity", (n, ny, nx), real))
    if mask is not None:
        out *= mask
    return out


def conjugate_times(wave: Array, slope: Array, mask: Array, weights: Array = None) -> None:
    """wave <- 2 M w slope conj(wave), in place.

    wave is (batch, probe mode, object mode, y, x), slope (batch, y, x), mask M (y, x), weights w (object mode,); None
    stands for 1.
    """
    xp = array_module(wave)
    factor = (2 * slope if mask is None else (2 * slope) * mask).astype(wave.dtype)
    xp.conjugate(wave, out=wave)
    if weights is None:
        wave *= factor[:, None, None]
        return
    for mode, weight in enumerate(weights):
        wave[:, :, mode] *= (weight * factor)[:, None]


def sum_products(a: Array, b: Array, out: Array, work: Workspace) -> None:
    """out (batch, object mode, y, x) <- sum over probe modes of a b.

    ``b`` is (batch, probe mode, object mode, y, x); batch and object mode of ``a`` may be 1.
    """
    xp = work.xp
    if b.shape[1] == 1:
        xp.multiply(a, b, out=out[:, None])
        return
    product = work.array("product", out.shape, out.dtype)  # one mode at a time: it stays in the cache
    xp.multiply(a[:, 0], b[:, 0], out=out)
    for mode in range(1, b.shape[1]):
        out += xp.multiply(a[:, mode], b[:, mode], out=product)


def first_moments(
    wave: np.ndarray, u: np.ndarray, fy: np.ndarray, fx: np.ndarray, work: Workspace
) -> np.ndarray:
    """(batch, 2) sums of fy R and of fx R over y and x, where R = Re(sum over modes of wave conj(u)); on the host.

    wave is (batch, mode, 1, y, x), u (mode, 1, y, x), fy (y,), fx (x,). R is summed in the precision of the waves;
    the sums over fy and fx are float64.
    """
    real, n, (ny, nx) = wave.real.dtype, len(wave), wave.shape[-2:]
    # Re(a conj(b)) = Re a Re b + Im a Im b: real views give it without complex products.
    products = work.array("sum over modes", (n, ny, 2 * nx), real)
    np.einsum("bmoyx,moyx->byx", wave.view(real), u.view(real), out=products)
    rows = np.einsum("byx->by", products).astype(np.float64)  # (batch, y)
    columns = np.einsum("byx->bx", products).astype(np.float64)  # (batch, 2 x)
    return np.stack([rows @ fy, (columns[:, 0::2] + columns[:, 1::2]) @ fx], axis=1)


def total(array: Array) -> float | Array:
    """Sum of all elements, accumulated in float64: a number, or one that stays on the device () until it is read."""
    added = array.sum(dtype=np.float64)
    return float(added) if isinstance(array, np.ndarray) else added
