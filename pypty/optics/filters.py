"""Linear filters of maps: Gaussian blurs with an edge rule, and factors on a spectrum; each with its adjoint.

At the edges a map has to go on somehow, and then the transpose of a blur is not the blur: what leaves the map is folded
back. ``adjoint`` is exact: <b, G a> = <G^T b, a> for the plain inner product.
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
"""How a map goes on at its edges: mirrored about its outermost pixel (c b a b c), or with the value of that."""


class LinearFilter(Protocol):
    """A linear map of arrays (..., z, Y, X), real or complex, to such."""

    def apply(self, array: Array) -> Array:
        """G a, a new array."""
        ...

    def adjoint(self, array: Array) -> Array:
        """G^T a, a new array."""
        ...


def gaussian_kernel(size: int, std: float) -> tuple[float, ...]:
    """``size`` weights exp(-(t/std)^2/2) around the middle (of an even size: half a pixel off), which add up to 1."""
    t = np.arange(size) - (size - 1) / 2
    weights = np.exp(-0.5 * (t / std) ** 2)
    return tuple((weights / weights.sum()).tolist())


@dataclass(frozen=True)
class Blur:
    """Correlation with a kernel along some axes, one after the other.

    Attributes
    ----------
    kernel : weights; the one at (size - 1) // 2 belongs to the pixel itself
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
        last = tuple([slice(None)] * (-1 - axis))
        for run in _runs(array.shape[axis], self.kernel, self.edges):
            add(out, array, run, axis, last)
        return out


@dataclass(frozen=True)
class _Run:
    """Rows of a blur's matrix with one weight: their columns follow one another, or are all the same."""

    weight: float
    rows: slice
    columns: slice
    shared: bool


def _add(out: Array, array: Array, run: _Run, axis: int, last: tuple[slice, ...]) -> None:
    out[(..., run.rows, *last)] += run.weight * array[(..., run.columns, *last)]


def _add_transposed(out: Array, array: Array, run: _Run, axis: int, last: tuple[slice, ...]) -> None:
    part = array[(..., run.rows, *last)]
    if run.shared:
        part = part.sum(axis=axis, keepdims=True)
    out[(..., run.columns, *last)] += run.weight * part


@functools.lru_cache(maxsize=32)
def _runs(n: int, kernel: tuple[float, ...], edges: str) -> tuple[_Run, ...]:
    """The matrix of a blur of ``n`` pixels, as diagonals and pieces of them."""
    runs = []
    for t, weight in enumerate(kernel):
        source = _inside(np.arange(n) + t - (len(kernel) - 1) // 2, n, edges)
        start = 0
        while start < n:
            stop, step = _straight(source, start)
            first, last = int(source[start]), int(source[stop - 1])
            end = last + step
            columns = slice(first, None if end < 0 else end, step) if step else slice(first, first + 1)
            runs.append(_Run(weight, slice(start, stop), columns, step == 0))
            start = stop
    return tuple(runs)


def _straight(source: np.ndarray, start: int) -> tuple[int, int]:
    """Where the straight piece of an index map that begins at ``start`` ends, and its step (-1, 0, 1)."""
    if start + 1 == len(source):
        return start + 1, 0
    steps = np.diff(source[start:])
    other = np.flatnonzero(steps != steps[0])
    return (len(source) if not len(other) else start + int(other[0]) + 1), int(steps[0])


def _inside(index: np.ndarray, n: int, edges: str) -> np.ndarray:
    if edges == REPLICATE:
        return np.clip(index, 0, n - 1)
    if n == 1:
        return np.zeros_like(index)
    folded = np.mod(index, 2 * (n - 1))
    return np.minimum(folded, 2 * (n - 1) - folded)


@dataclass(frozen=True)
class LateralPass:
    """The spectrum of every layer times :func:`sigmoid_mask`. Symmetric: its own adjoint.

    Of a real map the real part is kept; so only the even part of a mask counts, and it is taken for complex maps, too.

    Attributes
    ----------
    radius : half-height radius as a fraction of the Nyquist frequency
    width : of the edge, as a fraction of the map
    """

    radius: float
    width: float

    def apply(self, array: Array) -> Array:
        mask = _lateral_pass(tuple(array.shape[-2:]), self.radius, self.width)
        spectrum = fft.fft2(array)
        spectrum *= array_module(array).asarray(mask.astype(array.real.dtype))
        return _kept_type(fft.ifft2(spectrum, overwrite=True), array)

    adjoint = apply


@dataclass(frozen=True)
class DepthPass:
    """The three-dimensional spectrum times (1 - 2/pi atan((beta |k_z| / sqrt(k_r^2 + 1e-3))^2)) exp(-alpha k_r^2),
    frequencies in cycles per sample; along z, too, the map is periodic. Symmetric: its own adjoint.

    The missing wedge of a through-focus series, as in PtychoShelves and py4DSTEM: what varies along z but hardly in the
    plane is not seen by the experiment.
    """

    beta: float
    alpha: float

    def apply(self, array: Array) -> Array:
        spectrum = fft.fft_along(fft.fft2(array), -3)
        spectrum *= self._transfer(array)
        return _kept_type(fft.ifft2(fft.ifft_along(spectrum, -3), overwrite=True), array)

    def _transfer(self, array: Array) -> Array:
        """(z, Y, X) in the precision of ``array``, zero frequency first. Large, and quickly made: not kept."""
        xp, real = array_module(array), array.real.dtype
        f_z, f_y, f_x = (xp.asarray(np.fft.fftfreq(n).astype(real)) for n in array.shape[-3:])
        kr2 = f_y[:, None] ** 2 + f_x**2
        wedge = xp.arctan((self.beta * f_z[:, None, None]) ** 2 / (kr2 + 1e-3))
        wedge *= -2 / np.pi
        wedge += 1
        wedge *= xp.exp(-self.alpha * kr2)
        return wedge

    adjoint = apply


def sigmoid_mask(n: int, radius: float, width: float) -> np.ndarray:
    """(n, n) float64, centred at n//2: 1 / (1 + exp(10 (r - n radius / 2) / (width n))), r in pixels.

    ``radius`` is where it is 1/2, as a fraction of n/2; ``width`` about that of its edge, as a fraction of n.
    """
    t = np.arange(n) - n // 2
    r = np.hypot(t[:, None], t[None, :])
    exponent = 10 * (r - n * radius / 2) / (width * n)
    return 0.5 * (1 - np.tanh(0.5 * exponent))  # the same, without overflow


def stretched_mask(shape: tuple[int, int], radius: float, width: float) -> np.ndarray:
    """(ny, nx) :func:`sigmoid_mask` of the shorter side, repeated to the longer one (nearest pixel), centred."""
    n = min(shape)
    rows, columns = (np.arange(size) * n // size for size in shape)
    return sigmoid_mask(n, radius, width)[np.ix_(rows, columns)]


@functools.lru_cache(maxsize=8)
def _lateral_pass(shape: tuple[int, int], radius: float, width: float) -> np.ndarray:
    """Zero frequency first; its even part."""
    mask = np.fft.ifftshift(stretched_mask(shape, radius, width))
    mirrored = np.roll(mask[::-1, ::-1], (1, 1), axis=(0, 1))
    return 0.5 * (mask + mirrored)


def _kept_type(result: Array, like: Array) -> Array:
    """A real map stays real."""
    return result if like.dtype.kind == "c" else array_module(like).ascontiguousarray(result.real)
