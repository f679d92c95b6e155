"""Linear filters of maps: Gaussian blurs with a boundary condition, and Fourier filters; each with its adjoint.

A blur needs values beyond the edges of the map, so its matrix is not symmetric even if its kernel is: the transpose
folds what leaves the map back into it. ``adjoint`` is exact: <b, G a> = <G^T b, a> for the plain inner product.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pypty.backend import fft
from pypty.backend.array import Array, array_module

REFLECT, REPLICATE = "reflect", "replicate"
"""How a map is extended beyond its edges: mirrored about the outermost pixel (c b a b c), or by repeating its value."""


class LinearFilter(Protocol):
    """A linear operator on arrays (..., z, Y, X), real or complex, that keeps their shape and dtype."""

    def apply(self, array: Array) -> Array:
        """G a, a new array."""
        ...

    def adjoint(self, array: Array) -> Array:
        """G^T a, a new array."""
        ...


def gaussian_kernel(size: int, std: float) -> tuple[float, ...]:
    """``size`` weights exp(-(t/std)^2/2), normalised to a sum of 1; for an even size t = 0 lies between two pixels."""
    t = np.arange(size) - (size - 1) / 2
    weights = np.exp(-0.5 * (t / std) ** 2)
    return tuple((weights / weights.sum()).tolist())


@dataclass(frozen=True)
class Blur:
    """Correlation with a kernel along some axes, one after the other.

    Attributes
    ----------
    kernel : weights; index (size - 1) // 2 is the weight of the pixel itself
    axes : negative, as (-2, -1)
    edges : REFLECT or REPLICATE
    """

    kernel: tuple[float, ...]
    axes: tuple[int, ...]
    edges: str = REFLECT

    def apply(self, array: Array) -> Array:
        """sum_t k_t a[i + t - front] along each axis."""
        for axis in self.axes:
            array = self._along(axis, array, _add)
        return array

    def adjoint(self, array: Array) -> Array:
        """The transpose."""
        for axis in reversed(self.axes):
            array = self._along(axis, array, _add_transposed)
        return array

    def _along(self, axis: int, array: Array, add: Callable[..., None]) -> Array:
        out = array_module(array).zeros_like(array)
        # Axes are negative, so leading axes need no slices; ``last`` skips the axes behind the blurred one.
        last = tuple([slice(None)] * (-1 - axis))
        for run in _runs(array.shape[axis], self.kernel, self.edges):
            add(out, array, run, axis, last)
        return out


@dataclass(frozen=True)
class _Run:
    """Part of a blur's matrix: entries of equal weight, on a diagonal or (``shared``) all in the same column."""

    weight: float
    rows: slice
    columns: slice
    shared: bool


def _add(out: Array, array: Array, run: _Run, axis: int, last: tuple[slice, ...]) -> None:
    out[(..., run.rows, *last)] += run.weight * array[(..., run.columns, *last)]


def _add_transposed(out: Array, array: Array, run: _Run, axis: int, last: tuple[slice, ...]) -> None:
    part = array[(..., run.rows, *last)]
    if run.shared:
        # Several rows read the same pixel; += on a broadcast slice would count only one of them.
        part = part.sum(axis=axis, keepdims=True)  # n rows -> 1 along ``axis``
    out[(..., run.columns, *last)] += run.weight * part


@functools.lru_cache(maxsize=32)
def _runs(n: int, kernel: tuple[float, ...], edges: str) -> tuple[_Run, ...]:
    """The matrix of a blur of ``n`` pixels, split into straight pieces that slices can address.

    Slices work on NumPy and CuPy alike and need no index array; inside the map each weight takes a single addition.
    """
    runs = []
    for t, weight in enumerate(kernel):
        # (n,): the pixel that output pixel i reads for this weight, after mirroring or clipping at the edges
        source = _inside(np.arange(n) + t - (len(kernel) - 1) // 2, n, edges)
        start = 0
        while start < n:
            stop, step = _straight(source, start)
            first, last = int(source[start]), int(source[stop - 1])
            end = last + step
            # A descending slice down to pixel 0 ends at None: -1 would mean the last pixel.
            columns = slice(first, None if end < 0 else end, step) if step else slice(first, first + 1)
            runs.append(_Run(weight, slice(start, stop), columns, step == 0))
            start = stop
    return tuple(runs)


def _straight(source: np.ndarray, start: int) -> tuple[int, int]:
    """End of the straight piece of an index map that begins at ``start``, and its step (-1, 0 or 1)."""
    if start + 1 == len(source):
        return start + 1, 0
    steps = np.diff(source[start:])
    other = np.flatnonzero(steps != steps[0])
    return (len(source) if not len(other) else start + int(other[0]) + 1), int(steps[0])


def _inside(index: np.ndarray, n: int, edges: str) -> np.ndarray:
    """Indices beyond the map replaced by the pixels that extend it there."""
    if edges == REPLICATE:
        return np.clip(index, 0, n - 1)
    if n == 1:
        return np.zeros_like(index)  # a single pixel has no neighbour to mirror; the period below would be 0
    # Mirroring about the outermost pixels has the period 2 (n - 1), so kernels wider than the map are covered, too.
    folded = np.mod(index, 2 * (n - 1))
    return np.minimum(folded, 2 * (n - 1) - folded)


@dataclass(frozen=True)
class LateralPass:
    """Lateral low-pass: the spectrum of every layer times :func:`stretched_mask`. Symmetric: its own adjoint.

    For a real map only the real part of the result is kept, which is the same as using only the even part of the
    mask. Complex maps use the even part, too, so that both are filtered alike.

    Attributes
    ----------
    radius : half-height radius as a fraction of the Nyquist frequency
    width : width of the edge as a fraction of the map
    """

    radius: float
    width: float

    def apply(self, array: Array) -> Array:
        """The filtered map, a new array."""
        mask = _lateral_pass(tuple(array.shape[-2:]), self.radius, self.width)  # (Y, X), for all layers
        spectrum = fft.fft2(array)
        spectrum *= array_module(array).asarray(mask.astype(array.real.dtype))
        return _kept_type(fft.ifft2(spectrum, overwrite=True), array)

    adjoint = apply


@dataclass(frozen=True)
class DepthPass:
    """The three-dimensional spectrum times (1 - 2/pi atan((beta |k_z| / sqrt(k_r^2 + 1e-3))^2)) exp(-alpha k_r^2).

    Frequencies are in cycles per sample; the map is taken as periodic along all three axes. Symmetric: its own adjoint.

    Suppresses the missing wedge of a through-focus series, as in PtychoShelves and py4DSTEM: the data hold no
    information on features that vary along z but hardly in the plane.
    """

    beta: float
    alpha: float

    def apply(self, array: Array) -> Array:
        """The filtered map, a new array."""
        spectrum = fft.fft_along(fft.fft2(array), -3)  # (..., z, Y, X) -> (..., kz, ky, kx)
        spectrum *= self._transfer(array)
        return _kept_type(fft.ifft2(fft.ifft_along(spectrum, -3), overwrite=True), array)

    def _transfer(self, array: Array) -> Array:
        """(z, Y, X) in the precision of ``array``, zero frequency first.

        Computed anew for every call: it is as large as the object, and cheap compared with the transforms.
        """
        xp, real = array_module(array), array.real.dtype
        f_z, f_y, f_x = (xp.asarray(np.fft.fftfreq(n).astype(real)) for n in array.shape[-3:])
        kr2 = f_y[:, None] ** 2 + f_x**2  # (Y, X)
        wedge = xp.arctan((self.beta * f_z[:, None, None]) ** 2 / (kr2 + 1e-3))  # (z, Y, X)
        wedge *= -2 / np.pi
        wedge += 1
        wedge *= xp.exp(-self.alpha * kr2)
        return wedge

    adjoint = apply


def sigmoid_mask(n: int, radius: float, width: float) -> np.ndarray:
    """(n, n) float64, centred at n//2: 1 / (1 + exp(10 (r - n radius / 2) / (width n))), r in pixels.

    The mask is 1/2 at ``radius``, a fraction of n/2; ``width`` is roughly the width of the edge, a fraction of n.
    """
    t = np.arange(n) - n // 2
    r = np.hypot(t[:, None], t[None, :])  # (n, n)
    exponent = 10 * (r - n * radius / 2) / (width * n)
    return 0.5 * (1 - np.tanh(0.5 * exponent))  # equals 1 / (1 + exp(exponent)), without overflow


def stretched_mask(shape: tuple[int, int], radius: float, width: float) -> np.ndarray:
    """(ny, nx): :func:`sigmoid_mask` of the shorter side, stretched to the longer one (nearest pixel), centred."""
    n = min(shape)
    rows, columns = (np.arange(size) * n // size for size in shape)
    return sigmoid_mask(n, radius, width)[np.ix_(rows, columns)]


@functools.lru_cache(maxsize=8)
def _lateral_pass(shape: tuple[int, int], radius: float, width: float) -> np.ndarray:
    """(ny, nx): the even part of :func:`stretched_mask`, zero frequency first."""
    mask = np.fft.ifftshift(stretched_mask(shape, radius, width))
    # Frequency -k is at index (n - k) mod n: a flip moves index 0 to the end, and the roll moves it back.
    mirrored = np.roll(mask[::-1, ::-1], (1, 1), axis=(0, 1))
    return 0.5 * (mask + mirrored)


def _kept_type(result: Array, like: Array) -> Array:
    """A real map stays real."""
    return result if like.dtype.kind == "c" else array_module(like).ascontiguousarray(result.real)
