"""The object terms of ``loss_terms``: a sparse phase, and similar object modes.

a = |O| and phi = arg O of the patches of an evaluation: every pixel is penalised once for each patch that contains it.
w_m = weight of an object mode.

sparse  w sum_m w_m (mean |phi|^v)^(1/v), mean over patterns, slices and pixels
simlar  w (T(a) + T(phi)), T(x) = mean of the standard deviation over modes (divided by M - 1) of w_m B x; B = Gaussian
        blur of five pixels in the plane, reflected at the edges, then averages over larger pixels

These are the values of the ratio (PtyRAD's). The additive ones are multiplied by the numbers of patterns and of
pixels of a patch, as a sum over counts would be, so that weights mean about the same in both scales and for any size of
a batch; and additive simlar blurs the object as a whole, where the ratio blurs every patch.

The phase lies between -pi and pi. The slope is 0 where two modes agree, where |phi| = 0, and for a single mode.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pypty.backend import kernels
from pypty.backend.array import Array, array_module
from pypty.objective.penalties import OPAQUE

_REACH = 2
"""Pixels on either side of the blur's centre."""


@dataclass(frozen=True)
class Sparse:
    """A sparse phase: the term ``sparse`` with its weight w and order v."""

    weight: float
    order: int

    def value_and_gradient(
        self, obj: Array, seen: Array, mode_weights: np.ndarray, wanted: bool
    ) -> tuple[float, Array]:
        """
        Parameters
        ----------
        obj : (mode, z, Y, X)
        seen : (Y, X) how many patches contain a pixel

        Returns
        -------
        the value in the scale of the ratio, and its gradient, or None
        """
        xp = array_module(obj)
        gradient = xp.zeros_like(obj) if wanted else None
        count, value = float(seen.sum()) * obj.shape[1], 0.0
        for m, factor in enumerate(self.weight * mode_weights):
            # (z, Y, X); seen (Y, X) broadcasts over slices
            phase = xp.angle(obj[m])
            size = abs(phase)
            mean = float((seen * size**self.order).sum(dtype=np.float64)) / count
            value += factor * mean ** (1 / self.order)
            if gradient is not None and mean > 0:
                slope = float(factor * mean ** (1 / self.order - 1) / count) * seen
                # dphi = Im(conj(O) dO)/|O|^2: the gradient is i (dL/dphi) O/|O|^2
                slope = slope * size ** (self.order - 1) * xp.sign(phase)
                gradient[m] = 1j * slope * obj[m] / xp.maximum(kernels.abs2(obj[m]), OPAQUE)
        return value, gradient


@dataclass(frozen=True)
class Similar:
    """Similar object modes: the term ``simlar``.

    Attributes
    ----------
    weight : w
    amplitude, phase : whether the term compares them
    scale_factor : (z, y, x) pixels after by pixels before the averages
    blur_std : px; 0 = no blur
    """

    weight: float
    amplitude: bool
    phase: bool
    scale_factor: tuple[float, float, float]
    blur_std: float

    def smaller(self, images: Array, axis: int) -> np.ndarray | None:
        """(after, before) averages along z, y or x (axis 0, 1, 2) of (z, ..., y, x), host; None = no averages."""
        return _averages(images.shape[(0, -2, -1)[axis]], self.scale_factor[axis])

    def parts(self, obj: Array) -> list[tuple[complex, Array]]:
        """The real arrays that are compared, with their units in a gradient: amplitude (1) and phase (i)."""
        used: list[tuple[complex, Array]] = [(1, abs(obj))] if self.amplitude else []
        return [*used, (1j, array_module(obj).angle(obj))] if self.phase else used

    def spread(
        self, array: Array, mode_weights: np.ndarray, counts: Array, wanted: bool
    ) -> tuple[float, float, Array]:
        """Sum of ``counts`` times the standard deviations, the sum of counts, and the gradient of the first.

        Parameters
        ----------
        array : (z, batch, mode, y, x) real
        counts : (y, x) before the averages; None = 1
        """
        xp = array_module(array)
        weights = xp.asarray(mode_weights.astype(array.dtype))[:, None, None]
        matrices = [self._matrix(array, axis) for axis in range(3)]
        blurred = _blur(array, self.blur_std) if self.blur_std > 0 else array
        # (z, b, O, y, x) -> (z', b, O, y', x')
        scaled = _averaged(blurred, matrices) * weights
        if counts is not None:
            for matrix, axis in zip(matrices[1:], (0, 1), strict=True):
                counts = counts if matrix is None else _along(matrix, counts, axis)
        n_modes = scaled.shape[2]
        deviation = scaled - scaled.mean(axis=2, keepdims=True)
        # (z', b, O, y', x') -> (z', b, 1, y', x'), divided by O - 1
        spread = xp.sqrt((deviation**2).sum(axis=2, keepdims=True) / (n_modes - 1))
        counted = spread if counts is None else spread * counts
        n_values = spread.size if counts is None else float(counts.sum()) * spread.shape[0] * spread.shape[1]
        value = float(counted.sum(dtype=np.float64))
        if not wanted:
            return value, n_values, None
        # d spread/dx_m = deviation_m/((O - 1) spread); 0 where all modes agree
        inverse = xp.where(spread > 0, 1 / xp.where(spread > 0, spread, 1), 0) / (n_modes - 1)
        slope = deviation * (inverse if counts is None else inverse * counts) * weights
        slope = _averaged(slope, [None if matrix is None else matrix.T for matrix in matrices])
        return value, n_values, _blur_adjoint(slope, self.blur_std) if self.blur_std > 0 else slope

    def _matrix(self, array: Array, axis: int) -> Array:
        matrix = self.smaller(array, axis)
        return None if matrix is None else array_module(array).asarray(matrix.astype(array.dtype))


@dataclass(frozen=True, kw_only=True)
class ObjectTerms:
    """The terms of the object of a run.

    Attributes
    ----------
    sparse, simlar : None = there is no such term
    ratio : PtyRAD's scale
    window : (y, x) pixels of a patch
    mode_weights : (modes,); None = equal weights that sum to 1
    deterministic : on a GPU, the same bits every time
    """

    sparse: Sparse | None
    simlar: Similar | None
    ratio: bool
    window: tuple[int, int]
    mode_weights: np.ndarray | None = None
    deterministic: bool = False

    def values_and_gradient(
        self, obj: Array, crop_origins: np.ndarray, chunk: int, wanted: bool
    ) -> tuple[dict[str, float], Array]:
        """Value of each term, and the gradient of their sum if it is wanted, else None.

        Parameters
        ----------
        obj : (mode, z, Y, X)
        crop_origins : (n, 2) crop origin of each patch, host
        chunk : patches taken together
        """
        n_modes = len(obj)
        weights = np.full(n_modes, 1 / n_modes) if self.mode_weights is None else self.mode_weights
        scale = 1.0 if self.ratio else float(len(crop_origins) * self.window[0] * self.window[1])
        values: dict[str, float] = {}
        gradient: Array = None
        if self.sparse is not None:
            seen = self._seen(obj, crop_origins)
            value, gradient = self.sparse.value_and_gradient(obj, seen, weights, wanted)
            values["sparse"] = float(scale * value)
            if gradient is not None:
                gradient *= scale
        if self.simlar is not None:
            value, similar_gradient = self._alike(obj, crop_origins, chunk, weights, wanted)
            values["simlar"] = float(scale * value)
            if similar_gradient is not None:
                gradient = (
                    scale * similar_gradient if gradient is None else gradient + scale * similar_gradient
                )
        return values, gradient

    def _seen(self, obj: Array, crop_origins: np.ndarray) -> Array:
        """(Y, X) how many patches contain each pixel, on the device of ``obj``: differences at the crop origins of the
        patches, summed up along both axes."""
        steps = np.zeros((obj.shape[-2] + 1, obj.shape[-1] + 1))
        ends = crop_origins + np.array(self.window)
        for y, x, sign in (
            (crop_origins[:, 0], crop_origins[:, 1], 1),
            (ends[:, 0], crop_origins[:, 1], -1),
            (crop_origins[:, 0], ends[:, 1], -1),
            (ends[:, 0], ends[:, 1], 1),
        ):
            # several patches may share a crop origin: add.at counts each of them
            np.add.at(steps, (y, x), sign)
        # +1 from the first row and column of a patch on, back to 0 after its last
        seen = steps.cumsum(axis=0).cumsum(axis=1)[:-1, :-1]
        return array_module(obj).asarray(np.ascontiguousarray(seen, obj.real.dtype))

    def _alike(
        self, obj: Array, crop_origins: np.ndarray, chunk: int, weights: np.ndarray, wanted: bool
    ) -> tuple[float, Array]:
        """Value of simlar in the scale of the ratio, and its gradient, or None."""
        assert self.simlar is not None
        xp = array_module(obj)
        if len(obj) == 1:
            return 0.0, xp.zeros_like(obj) if wanted else None
        slopes = xp.zeros_like(obj) if wanted else None  # with respect to the amplitude + i that of the phase
        counts = None if self.ratio else self._seen(obj, crop_origins)
        total = n_values = 0.0
        for unit, array in self.simlar.parts(obj):
            # amplitude and phase each have all values: they are counted once
            n_values = 0.0
            for slices, origins, window in self._parts(obj, crop_origins, chunk):
                # (O, z, Y, X) -> (z, b, O, y, x)
                images = kernels.gather_patches(array[:, slices], origins, window)
                value, n, spread_gradient = self.simlar.spread(images, weights, counts, wanted)
                total, n_values = total + value, n_values + n
                if slopes is not None:
                    spread_gradient = (unit * spread_gradient).astype(obj.dtype, copy=False)
                    if self.ratio:
                        kernels.scatter_add_patches(slopes, origins, spread_gradient, self.deterministic)
                    else:
                        # one image, the whole plane: (z, 1, O, Y, X) -> (O, z, Y, X)
                        slopes[:, slices] += spread_gradient[:, 0].swapaxes(0, 1)
        factor = self.simlar.weight / n_values
        if slopes is None:
            return factor * total, None
        size = xp.maximum(abs(obj), obj.real.dtype.type(OPAQUE**0.5))
        # dL/da + i (dL/dphi)/a, turned by the phase of O
        return factor * total, factor * (slopes.real + 1j * slopes.imag / size) * obj / size

    def _parts(
        self, obj: Array, crop_origins: np.ndarray, chunk: int
    ) -> Iterator[tuple[slice, np.ndarray, tuple[int, int]]]:
        """Slices, crop origins and sizes of the images that are computed together: some patches, or the whole plane."""
        assert self.simlar is not None
        if self.ratio:
            for start in range(0, len(crop_origins), chunk):
                yield slice(None), crop_origins[start : start + chunk], self.window
            return
        whole = np.zeros((1, 2), np.int64)
        together = self.simlar.scale_factor[0] != 1  # averages along z need all slices
        for z in range(1 if together else obj.shape[1]):
            yield slice(None) if together else slice(z, z + 1), whole, obj.shape[-2:]


def make_object_terms(
    terms: Mapping[str, Mapping[str, Any]],
    ratio: bool,
    window: tuple[int, int],
    mode_weights: np.ndarray | None,
    deterministic: bool,
) -> ObjectTerms | None:
    """The object terms among ``loss_terms``; None if there are none."""
    sparse, simlar = terms.get("sparse"), terms.get("simlar")
    if sparse is None and simlar is None:
        return None
    alike = None
    if simlar is not None:
        z, y, x = (float(factor) for factor in simlar["scale_factor"])
        kind = simlar["obj_type"]
        alike = Similar(simlar["weight"], kind != "phase", kind != "amplitude", (z, y, x), simlar["blur_std"])
    norm = None if sparse is None else Sparse(sparse["weight"], int(sparse["ln_order"]))
    return ObjectTerms(
        sparse=norm,
        simlar=alike,
        ratio=ratio,
        window=window,
        mode_weights=mode_weights,
        deterministic=deterministic,
    )


def _averages(n: int, factor: float) -> np.ndarray | None:
    """(after, n): pixel i of floor(n factor), at least one, is the mean of those from floor(i n/after) to
    ceil((i + 1) n/after); None for a factor of 1."""
    if factor == 1:
        return None
    after = max(1, int(np.floor(n * factor)))
    matrix = np.zeros((after, n))
    for i in range(after):
        start, stop = i * n // after, -(-(i + 1) * n // after)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix


def _along(matrix: Array, array: Array, axis: int) -> Array:
    """A matrix times an axis of an array."""
    xp = array_module(array)
    # tensordot puts the new axis first; moveaxis puts it back in its place
    return xp.moveaxis(xp.tensordot(matrix, array, axes=(1, axis)), 0, axis)


def _averaged(array: Array, matrices: list[Array]) -> Array:
    """Matrices along z, y and x of (z, batch, mode, y, x)."""
    for matrix, axis in zip(matrices, (0, 3, 4), strict=True):
        array = array if matrix is None else _along(matrix, array, axis)
    return array


def _taps(std: float) -> list[float]:
    row = np.exp(-(np.arange(-_REACH, _REACH + 1) ** 2) / (2 * std**2))
    return [float(tap) for tap in row / row.sum()]


def _blur(array: Array, std: float) -> Array:
    """Gaussian blur of five pixels along both axes of the plane, mirrored at the last pixel of each edge."""
    xp = array_module(array)
    for _ in range(2):
        # (..., n) -> (..., n + 4); the second turn of the loop blurs the other axis
        rim = [array[..., _REACH:0:-1], array, array[..., -2 : -2 - _REACH : -1]]
        padded, n = xp.concatenate(rim, axis=-1), array.shape[-1]
        array = sum(tap * padded[..., i : i + n] for i, tap in enumerate(_taps(std))).swapaxes(-1, -2)
    return array


def _blur_adjoint(array: Array, std: float) -> Array:
    xp = array_module(array)
    for _ in range(2):
        n = array.shape[-1]
        padded = xp.zeros((*array.shape[:-1], n + 2 * _REACH), array.dtype)
        for i, tap in enumerate(_taps(std)):
            padded[..., i : i + n] += tap * array
        back = padded[..., _REACH:-_REACH]
        for i in range(_REACH):  # the reflected rim
            back[..., _REACH - i] += padded[..., i]
            back[..., n - 1 - _REACH + i] += padded[..., n + 2 * _REACH - 1 - i]
        array = back.swapaxes(-1, -2)
    return array
