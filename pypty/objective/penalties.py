"""The penalties of the regularisers: value and gradient of each.

They are not normalised by the number of pixels. Formulas are those of PyPty 2.2 unless a docstring says otherwise.
Gradients are dL/dRe + i dL/dIm (docs/conventions.md), twice PyPty's dL/dz*.

Layouts: object (mode, z, Y, X), probe (mode, y, x) or (subscan, mode, y, x), positions (N, 2) and tilts (N, 6) in the
order of the scan, fast axis last.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pypty.backend import fft, kernels
from pypty.backend.array import Array, array_module

OPAQUE = 1e-12
"""|O|^2 below which the logarithm of the object is continued by its tangent: its slope stays finite."""

FLAT = 1e-12
"""Added to |dx|^p + |dy|^p of the total variation: its slope stays finite where the object is flat."""


KINK = 5e-6
"""Phases (rad), and logarithms of |O|, over which the corner of an absolute value is rounded, at least
:data:`KINK_ROUNDINGS` roundings of the precision (6e-5 in single): far above the rounding of a transform, and far below
what a pixel of a specimen has."""

KINK_ROUNDINGS = 512

DARK = 1e-4
"""Fraction of the largest |F P| below which a spatial frequency counts as empty: its phase is rounding."""


@dataclass(frozen=True, eq=False)
class Penalty:
    """Attributes that all penalties share.

    Attributes
    ----------
    name : key of the weight among the parameters
    block : the block of unknowns it acts on
    weight : w
    """

    name: str
    block: str
    weight: float


@dataclass(frozen=True, eq=False)
class SecondDifferences(Penalty):
    """w sum L^2 with the second difference L = X[i-1] + X[i+1] - 2 X[i] along one axis of the scan; L = 0 at the ends.

    Along the fast axis X are the positions (or tilts) themselves, along the slow axis their sums over each row.

    Attributes
    ----------
    scan_size : (slow, fast)
    along_fast : which axis
    """

    scan_size: tuple[int, int]
    along_fast: bool

    def value_and_gradient(self, array: Array) -> tuple[float | Array, Array]:
        if len(array) == 1:  # one value for the whole scan
            return _nothing(array)
        xp = array_module(array)
        grid = array.reshape(*self.scan_size, -1)
        lines = grid.swapaxes(0, 1) if self.along_fast else grid.sum(axis=1)
        # (slow, fast, columns) -> (fast, slow, columns), or sums of rows (slow, columns)
        bend = lines[:-2] + lines[2:] - 2 * lines[1:-1]
        # the transposed second difference: each L goes back to its three points
        slope = xp.zeros_like(lines)
        slope[:-2] += bend
        slope[2:] += bend
        slope[1:-1] -= 2 * bend
        slope = slope.swapaxes(0, 1) if self.along_fast else slope[:, None]
        # each point of a row gets the slope of the sum of its row
        gradient = xp.zeros_like(grid) + (2 * self.weight) * slope
        return self.weight * kernels.total(bend**2), gradient.reshape(array.shape)


@dataclass(frozen=True, eq=False)
class Deformation(Penalty):
    """w sum R^2, where R is the residual of each column of the array after the best affine grid a + b row + c column is
    subtracted.

    Row and column numbers minus their means are orthogonal to each other and to a constant, so the least-squares
    fit is three projections. The residual is a projection too: the gradient is 2 w R.

    Attributes
    ----------
    scan_size : (slow, fast)
    """

    scan_size: tuple[int, int]

    def value_and_gradient(self, array: Array) -> tuple[float | Array, Array]:
        if len(array) == 1:
            return _nothing(array)
        xp = array_module(array)
        grid = array.reshape(*self.scan_size, -1)
        # (slow, fast, columns): the constant of each column first
        residual = grid - grid.mean(axis=(0, 1))
        for axis, size in enumerate(self.scan_size):
            if size > 1:
                # (rows or columns, centred): orthogonal to the constant, so that one projection follows the other
                number = xp.arange(size, dtype=array.dtype) - (size - 1) / 2
                number = number.reshape((size, 1, 1) if axis == 0 else (1, size, 1))
                residual = residual - number * ((number * residual).mean(axis=(0, 1)) / (number**2).mean())
        gradient = (2 * self.weight) * residual
        return self.weight * kernels.total(residual**2), gradient.reshape(array.shape)


@dataclass(frozen=True, eq=False)
class PlanePenalty(Penalty, ABC):
    """A sum over the slices and modes of the object, computed one by one to save memory."""

    def value_and_gradient(self, array: Array) -> tuple[float | Array, Array]:
        return _sum_parts(self.plane, array, np.ndindex(*array.shape[:-2]))

    @abstractmethod
    def plane(self, plane: Array) -> tuple[float | Array, Array]:
        """Value and gradient of one slice (Y, X) of one mode."""


@dataclass(frozen=True, eq=False)
class PhaseNorm(PlanePenalty):
    """w sum |arg O|, with the corner at 0 rounded over :data:`KINK`.

    The gradient is i w s(arg O) O / |O|^2, where s is the sign, zero at 0 and continuous (:func:`_rounded`). It falls
    to zero where |O|^2 < :data:`OPAQUE`: an opaque pixel has no phase.
    """

    def plane(self, plane: Array) -> tuple[float | Array, Array]:
        xp = array_module(plane)
        size, sign = _rounded(xp.angle(plane), _kink(plane))
        slope = self.weight * sign / xp.maximum(kernels.abs2(plane), OPAQUE)
        return self.weight * kernels.total(size), 1j * slope * plane


@dataclass(frozen=True, eq=False)
class AbsorptionNorm(PlanePenalty):
    """w sum |log |O||, with the corner at 0 rounded over :data:`KINK`.

    The gradient is w s(log |O|) O / |O|^2, where s is the sign, zero at |O| = 1 and continuous (:func:`_rounded`).
    Where |O|^2 < :data:`OPAQUE`, log |O|^2 is replaced by its tangent at OPAQUE, so that value and gradient are finite
    and consistent.
    """

    def plane(self, plane: Array) -> tuple[float | Array, Array]:
        xp = array_module(plane)
        power = kernels.abs2(plane)
        above = xp.maximum(power, OPAQUE)
        # the bracket is zero except in opaque pixels
        log_power = xp.log(above) + (xp.minimum(power / OPAQUE, 1) - 1)
        size, sign = _rounded(0.5 * log_power, _kink(plane))
        return self.weight * kernels.total(size), self.weight * sign / above * plane


@dataclass(frozen=True, eq=False)
class TotalVariation(PlanePenalty):
    """w sum T^(q/p), T = |dx|^p + |dy|^p + :data:`FLAT`, with the periodic complex differences dx = O[x-1] - O[x] and
    dy = O[y-1] - O[y].

    The gradient carries w q T^(q/p-1) |dx|^(p-1) dx/|dx| back to the two pixels of each difference, with dx/|dx| = 0
    where dx = 0.

    Attributes
    ----------
    p, q : exponents, positive
    """

    p: float
    q: float

    def plane(self, plane: Array) -> tuple[float | Array, Array]:
        xp = array_module(plane)
        # (Y, X) each, along y and x
        differences = [xp.roll(plane, 1, axis) - plane for axis in (0, 1)]
        sizes = [abs(difference) for difference in differences]
        variation = sizes[0] ** self.p + sizes[1] ** self.p + FLAT
        slope = (self.weight * self.q) * variation ** (self.q / self.p - 1)
        gradient = xp.zeros_like(plane)
        for axis in (0, 1):
            size = xp.maximum(sizes[axis], _tiny(plane))
            flow = slope * size ** (self.p - 1) * (differences[axis] / size)
            # +1 for the pixel before, -1 for the pixel itself: the transpose of the difference
            gradient += xp.roll(flow, -1, axis) - flow
        return self.weight * kernels.total(variation ** (self.q / self.p)), gradient


@dataclass(frozen=True, eq=False)
class ModeVariance(Penalty):
    """(w/M) sum |V|^2 with V = B - mean over modes of B, and B the object blurred by exp(-(fx^2 + fy^2)/s^2).

    Blurring and removing the mean are one self-adjoint map, so the gradient is 2 (w/M) times the blurred V. Zero for a
    single mode.

    Attributes
    ----------
    sigma : s, cycles per object pixel
    """

    sigma: float

    def value_and_gradient(self, array: Array) -> tuple[float | Array, Array]:
        modes = len(array)
        if modes == 1:
            return _nothing(array)
        blur = _on_device(np.exp(-_squared_frequencies(array.shape[-2:], (1.0, 1.0)) / self.sigma**2), array)

        def one_slice(part: Array) -> tuple[float | Array, Array]:
            # one slice of all modes, (O, Y, X)
            blurred = fft.ifft2(blur * fft.fft2(part), overwrite=True)
            deviation = blurred - blurred.mean(axis=0)
            gradient = fft.ifft2(blur * fft.fft2(deviation), overwrite=True)
            value = self.weight / modes * kernels.total(kernels.abs2(deviation))
            return value, (2 * self.weight / modes) * gradient

        return _sum_parts(one_slice, array, ((slice(None), z) for z in range(array.shape[1])))


@dataclass(frozen=True, eq=False, kw_only=True)
class MissingWedge(Penalty):
    """sum W |F3 O|^2, W = w (2/pi) arctan(b^2 qz^2 / qr^2), with the unnormalised 3-D transform F3 of each mode.

    qz is that of the first starting slice distance, also when distances are refined. qr^2 is replaced by 1 where it is
    zero. The gradient is 2 F3* W F3 O, where F3* is the inverse transform without
    its 1/N. Zero for a single slice.

    Attributes
    ----------
    beta : b
    pixel_size_A : (py, px), Å
    slice_distance_A : Å
    """

    beta: float
    pixel_size_A: tuple[float, float]
    slice_distance_A: float

    def value_and_gradient(self, array: Array) -> tuple[float | Array, Array]:
        if array.shape[1] == 1:
            return _nothing(array)
        xp = array_module(array)
        # (z, 1, 1) and (Y, X): weights (z, Y, X) are the same for all modes
        axial = np.fft.fftfreq(array.shape[1], self.slice_distance_A)[:, None, None]
        radial = _squared_frequencies(array.shape[-2:], self.pixel_size_A)
        # q_r = 0: a divisor in place of zero
        radial[0, 0] = 1
        weight = xp.arctan(_on_device(self.beta**2 * axial**2, array) / _on_device(radial, array))
        weight *= self.weight * 2 / math.pi

        def one_mode(mode: Array) -> tuple[float | Array, Array]:
            # (z, Y, X) of one mode; norm="forward" below leaves out the 1/N of the inverse
            spectrum = xp.fft.fftn(mode)
            value = kernels.total(weight * kernels.abs2(spectrum))
            return value, 2 * xp.fft.ifftn(weight * spectrum, norm="forward")

        return _sum_parts(one_mode, array, range(len(array)))


@dataclass(frozen=True, eq=False)
class ProbeAperture(Penalty):
    """w sum A |F P|^2 over all modes, A = 1 outside the aperture; gradient 2 w F* A F P.

    PyPty 2.2 documents this and computes w sum A |F P|.

    Attributes
    ----------
    outside : A, (ky, kx) 0 or 1, zero frequency first
    """

    outside: np.ndarray

    def value_and_gradient(self, array: Array) -> tuple[float | Array, Array]:
        # ([subscan,] mode, ky, kx); A is 0 or 1, so A^2 = A
        spectrum = _on_device(self.outside, array) * fft.fft2(array)
        value = self.weight * kernels.total(kernels.abs2(spectrum))
        return value, (2 * self.weight) * fft.fft2_adjoint(spectrum, overwrite=True)


@dataclass(frozen=True, eq=False)
class ProbeWindow(Penalty):
    """w sum W |P|^2 over all modes; gradient 2 w W P.

    Attributes
    ----------
    outside : W, (y, x) between 0 and 1, see :func:`~pypty.objective.regularizers.outside_window`
    """

    outside: np.ndarray

    def value_and_gradient(self, array: Array) -> tuple[float | Array, Array]:
        weight = self.weight * _on_device(self.outside, array)
        return kernels.total(weight * kernels.abs2(array)), 2 * weight * array


@dataclass(frozen=True, eq=False)
class ProbeModulation(Penalty):
    """w sum L^2, L = m Lap |F P|, over all modes: sharp features of the spectrum at multiples of the scan frequency.

    Lap is the periodic 5-point Laplacian. The gradient is F* [ Lap(2 w L) F P / |F P| ]. Where |F P| is below d =
    :data:`DARK` times its largest value, its phase is rounding: there |F P| is rounded (:func:`_rounded`, d counts as
    constant), so that its slope falls to zero with |F P|.

    Attributes
    ----------
    near : m, (ky, kx) 0 or 1, zero frequency first, see :func:`~pypty.objective.regularizers.scan_frequencies`
    """

    near: np.ndarray

    def value_and_gradient(self, array: Array) -> tuple[float | Array, Array]:
        xp, spectrum = array_module(array), fft.fft2(array)
        modulus = abs(spectrum)
        size, slope = _rounded(modulus, xp.maximum(DARK * modulus.max(), _tiny(array)))
        bend = _on_device(self.near, array) * _laplacian(size)
        # the unit phase of F P, times the transposed Laplacian of the slope
        spectrum *= slope / xp.maximum(modulus, _tiny(array))
        spectrum *= _laplacian((2 * self.weight) * bend)
        return self.weight * kernels.total(bend**2), fft.fft2_adjoint(spectrum, overwrite=True)


def _rounded(x: Array, width: Array | float) -> tuple[Array, Array]:
    """|x| with its corner rounded, |x| t (2 - t), and the slope of that, sign(x) t (4 - 3 t), t = min(|x|/width, 1).

    Both are those of |x| from ``width`` on, and zero at 0. The slope exceeds 1 by at most a third in between.
    """
    xp = array_module(x)
    size = abs(x)
    t = xp.minimum(size / width, 1)
    return size * t * (2 - t), xp.sign(x) * t * (4 - 3 * t)


def _nothing(array: Array) -> tuple[float | Array, Array]:
    return 0.0, array_module(array).zeros_like(array)


def _sum_parts(
    penalty: Callable[[Array], tuple[float | Array, Array]], array: Array, parts: Iterable[Any]
) -> tuple[float | Array, Array]:
    """A penalty that is a sum over ``parts`` (indices) of the array, computed one by one to save memory."""
    value: float | Array = 0.0
    gradient = array_module(array).zeros_like(array)
    for part in parts:
        value_of_part, gradient[part] = penalty(array[part])
        value += value_of_part
    return value, gradient


def _tiny(array: Array) -> float:
    """Smallest normal number of the precision of ``array``: a divisor in place of zero."""
    return float(np.finfo(array.dtype).tiny)


def _kink(array: Array) -> float:
    """Width of a rounded corner in the precision of ``array``."""
    return max(KINK, KINK_ROUNDINGS * float(np.finfo(array.dtype).eps))


def _on_device(host: np.ndarray, array: Array) -> Array:
    """``host`` where ``array`` is, in its real precision."""
    return array_module(array).asarray(host, dtype=array.real.dtype)


def _squared_frequencies(shape: tuple[int, int], pixel_size: tuple[float, float]) -> np.ndarray:
    """(ny, nx) squared spatial frequency, zero frequency first."""
    fy, fx = (np.fft.fftfreq(n, size) for n, size in zip(shape, pixel_size, strict=True))
    return fy[:, None] ** 2 + fx[None, :] ** 2


def _laplacian(image: Array) -> Array:
    """Periodic 5-point Laplacian over the last two axes; it is its own adjoint."""
    xp = array_module(image)
    return sum(xp.roll(image, step, axis) for axis in (-2, -1) for step in (1, -1)) - 4 * image
