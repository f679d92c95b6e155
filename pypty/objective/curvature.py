"""Diagonal Gauss-Newton curvature of the amplitude loss: the preconditioner of the optimiser.

For dL = Re<G, dz>, sum I = g sum |psi|^2 (g = n^2 in the far field, 1 in the near field) and
L = sum (sqrt I - sqrt D)^2, the Gauss-Newton diagonal is at most 2 g sum_j |P_j|^2 for an object pixel and
2 g sum_j |O_j|^2 for a probe pixel (the illumination preconditioner of ePIE and of Thibault and Guizar-Sicairos, New J.
Phys. 14 (2012) 063004); for any other real unknown u it is 2 sum |dW/du|^2.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from pypty.backend import fft, kernels
from pypty.backend.array import Array, Backend, array_module, to_host
from pypty.backend.cuda.steps import step_kernels
from pypty.model.blocks import Variables
from pypty.optics.aberrations import aberration_basis
from pypty.optics.grid import Grid
from pypty.optics.propagators import fresnel_phase_rate

_NARROWEST_BLUR = 0.3
"""Pixels; narrower blurs have almost no slope."""
_SMALLEST_GAIN = 0.1
"""Smaller gains of a detector are replaced by this."""
_FEW_ON_DEVICE = 512
"""Patterns up to which each pixel of the object looks at all of them on a GPU; more are added by FFT."""
_PIXELS_PER_TRANSFORM = 100
"""Pixels that can be added in the time that a convolution by FFT takes for one."""
REGULARISATION = 0.03
"""The curvature of badly illuminated pixels is raised by this fraction of the largest."""


@dataclass(frozen=True, kw_only=True)
class Curvature:
    """Computes the diagonal for each block.

    Attributes
    ----------
    all_crop_origins : (N, 2) crop origins of all patches, host
    indices : (n,) the patterns in use
    mean_pattern : (ny, nx) mean counts in the window, zero frequency first, host; zeros if not known
    scale : factor of the noise model and of ``loss_weight``
    relative : the loss is a mean over patterns: the fewer there are, the more weight each has
    near_field : the detector is in an image plane
    acting_tilts : whether tilts before, inside and after the specimen act
    defocus_A : largest defocus of a near field, Å
    compared_mean : (ky, kx) mean counts as they are compared, zero frequency at n//2, host; None if not known
    mode_weights : (object mode,) weights of the intensities, or None (1 each)
    placed_crop_origins : (n, 2) int32 ``crop_origins`` on the GPU, or None if they are not there
    """

    backend: Backend
    grid: Grid
    all_crop_origins: np.ndarray
    indices: np.ndarray
    mean_pattern: np.ndarray
    scale: float = 1.0
    relative: bool = False
    near_field: bool = False
    acting_tilts: tuple[bool, bool, bool] = (False, True, False)
    defocus_A: float = 0.0
    compared_mean: np.ndarray | None = None
    mode_weights: np.ndarray | None = None
    placed_crop_origins: Array = None

    @property
    def crop_origins(self) -> np.ndarray:
        """(n, 2) crop origins of the patches in use."""
        return self.all_crop_origins[self.indices]

    def of_patterns(self, indices: np.ndarray, placed_crop_origins: Array = None) -> Curvature:
        """The curvature of the loss over other patterns."""
        # a mean over fewer patterns gives each more weight
        share = len(self.indices) / max(len(indices), 1) if self.relative else 1.0
        return dataclasses.replace(
            self, indices=indices, scale=self.scale * share, placed_crop_origins=placed_crop_origins
        )

    def overlap(self, probe: Array, shape: tuple[int, ...]) -> float:
        """Number of patterns that illuminate the same pixel: sum L^2, with the illumination L of all patterns, over the
        sum of (|P|^2)^2 of each. 1 without overlap."""
        window = _modes_power(probe)
        # (Y, X) illumination of all patterns
        light = _convolve(self._visits(shape), window, shape)
        return float((light**2).sum() / (len(self.indices) * (window**2).sum()))

    def diagonal(self, variables: Variables, names: Iterable[str]) -> dict[str, Array]:
        """Positive arrays that broadcast to the named blocks."""
        compute = {
            "obj": self._object,
            "probe": self._probe,
            "positions": self._positions,
            "slice_distances": self._distances,
            "tilts": self._tilts,
            "aberrations_array": self._aberrations,
            "static_background": self._background,
            "beam_current": self._current,
            "detector_blur_std": self._blur,
            "detector_gains": self._gains,
        }
        on_device = self._on_device(variables)
        return {
            name: on_device[name]() if name in on_device else self.scale * compute[name](variables)
            for name in variables.blocks(names)
        }

    def _on_device(self, variables: Variables) -> dict[str, Callable[[], Array]]:
        """:meth:`_object` and :meth:`_probe` times ``scale`` of few patterns on a GPU, in three launches each."""
        origins = self.placed_crop_origins
        if origins is None or len(origins) > _FEW_ON_DEVICE or variables.probe.ndim > 3:
            return {}
        backend, xp = self.backend, self.backend.xp
        own, factor = step_kernels(backend.real), self.scale * 2.0 * self._gain()
        waves = [xp.ascontiguousarray(wave) for wave in (variables.probe[:, None], variables.obj)]
        probe, obj = waves[0].shape[-2:], waves[1].shape[-2:]

        def of_object() -> Array:
            raised = factor * variables.n_slices, REGULARISATION
            light = own.illumination(own.transmitted(waves[0]), origins, obj, *raised)[None, None]
            weights = self._raised_weights()
            return light if weights is None else light * backend.asarray(weights, backend.real)

        def of_probe() -> Array:
            weights = self.mode_weights
            image = own.transmitted(
                waves[1], None if weights is None else backend.asarray(weights, backend.real)
            )
            return own.added_patches(image, origins, probe, factor, REGULARISATION)[None]

        return {"obj": of_object, "probe": of_probe}

    def _gain(self) -> int:
        """Counts per unit of |psi|^2, summed over the window."""
        return 1 if self.near_field else self.grid.shape[0] * self.grid.shape[1]

    def _counts(self, variables: Variables) -> float:
        """Counts of a pattern in vacuum."""
        return max(self._gain() * float(_modes_power(variables.probe).sum()), np.finfo(float).tiny)

    def _spectrum(self, variables: Variables) -> np.ndarray:
        """(y, x) counts of the probe by spatial frequency, host."""
        power = to_host(_modes_power(fft.fft2(variables.probe)))
        return power * (self._gain() / power.size)

    def _visits(self, shape: tuple[int, ...]) -> Array:
        """(Y, X): how many patches have their crop origin at each pixel."""
        # np.add.at, since several patches may share a crop origin
        visits = np.zeros(shape)
        np.add.at(visits, (self.crop_origins[:, 0], self.crop_origins[:, 1]), 1.0)
        return self.backend.asarray(visits)

    def _object(self, variables: Variables) -> Array:
        """(1 or O, 1, Y, X). The slices act together, so the curvature of each is multiplied by their number."""
        shape = variables.obj.shape[-2:]
        window = _modes_power(variables.probe)
        illumination = self._illumination(window, shape)
        n_slices = variables.obj.shape[1]
        # (Y, X) -> (1, 1, Y, X); with weights (O, 1, Y, X)
        diagonal = (2 * self._gain() * n_slices * _raised(illumination))[None, None]
        weights = self._raised_weights()
        if weights is not None:
            diagonal = diagonal * self.backend.asarray(weights)
        return diagonal.astype(self.backend.real)

    def _raised_weights(self) -> np.ndarray | None:
        """(O, 1, 1, 1) weights of the object modes: one of weight 0 would have no curvature to divide by."""
        if self.mode_weights is None:
            return None
        return np.maximum(self.mode_weights, REGULARISATION * self.mode_weights.max())[:, None, None, None]

    def _illumination(self, window: Array, shape: tuple[int, ...]) -> Array:
        """(Y, X): the window placed at every crop origin; added one by one if they are few, else by convolution."""
        few = len(self.indices) * window.size < _PIXELS_PER_TRANSFORM * math.prod(shape)
        if self.backend.on_gpu or not few:
            return _convolve(self._visits(shape), window, shape)
        ny, nx = window.shape
        light = np.zeros(shape)
        for y, x in self.crop_origins.tolist():
            light[y : y + ny, x : x + nx] += window
        return light

    def _probe(self, variables: Variables) -> Array:
        """(1, y, x)."""
        # the product of all slices, as if nothing were propagated: (O, z, Y, X) -> (O, Y, X)
        squares = kernels.abs2(variables.obj.prod(axis=1)).astype(np.float64)
        if self.mode_weights is not None:
            squares *= self.backend.asarray(self.mode_weights)[:, None, None]
        # (O, Y, X) -> (Y, X): object modes add up incoherently
        transmitted = squares.sum(axis=0)
        seen = self._seen(transmitted)
        if variables.probe.ndim == 4:
            seen = seen / len(variables.probe)  # each subscan has its share of the patterns
        return (2 * self._gain() * _raised(seen))[None].astype(self.backend.real)

    def _seen(self, image: Array) -> Array:
        """(y, x): the sum of all patches of an image; the adjoint of :meth:`_illumination`."""
        few = len(self.indices) * math.prod(self.grid.shape) < _PIXELS_PER_TRANSFORM * image.size
        if self.backend.on_gpu or not few:
            return _correlate(self._visits(image.shape), image, self.grid.shape)
        ny, nx = self.grid.shape
        seen = np.zeros(self.grid.shape)
        for y, x in self.crop_origins.tolist():
            seen += image[y : y + ny, x : x + nx]
        return seen

    def _positions(self, variables: Variables) -> Array:
        """(1, 2): 2 sum_q |2 pi f P^|^2, the same for every position.

        At least the value for a single period in the window: shifts of a plane wave change nothing, and its positions
        should stay instead of jumping.
        """
        power = self._spectrum(variables)
        # one period in the window is a frequency of 1/n cycles/pixel
        floor = power.sum() + np.finfo(float).tiny
        values = [
            2 * max(float(((2 * np.pi * f) ** 2 * power).sum()), float((2 * np.pi / f.size) ** 2 * floor))
            for f in (self.grid.fy, self.grid.fx)
        ]
        return self.backend.asarray(np.array([values]) * self._sharing(variables.positions))

    def _sharing(self, block: Array) -> int:
        """How many patterns share a row of a block."""
        return len(self.crop_origins) if len(block) == 1 else 1

    def _distances(self, variables: Variables) -> Array:
        """(1,): 2 N sum_q (pi lambda q^2)^2 <I>, the same for all gaps; a common distance changes all of them."""
        rate = fresnel_phase_rate(self.grid)
        known = self.mean_pattern.any() and not self.near_field
        # measured counts reach higher frequencies than the probe alone
        spectrum = self.mean_pattern if known else self._spectrum(variables)
        value = 2 * len(self.crop_origins) * float((rate**2 * spectrum).sum())
        n_gaps = max(variables.n_slices - 1, 1)
        # a common distance changes the phase n_gaps times as much, and the curvature by its square
        repeats = n_gaps**2 if len(variables.slice_distances) == 1 else 1
        return self.backend.asarray(np.array([max(value * repeats, math.ulp(1.0))]))

    def _tilts(self, variables: Variables) -> Array:
        """(1, 6): 2 (2 pi/lambda)^2 sum_r r^2 |psi|^2 before and after, 2 (2 pi z)^2 sum_q q^2 I inside (z: all gaps
        together). A column that does not act has no gradient; it gets the largest value."""
        ny, nx = self.grid.shape
        power = to_host(_modes_power(variables.probe)) * self._gain()
        py, px = self.grid.pixel_size_A
        squares = (
            (py * (np.arange(ny) - ny // 2)[:, None]) ** 2,
            (px * (np.arange(nx) - nx // 2)[None, :]) ** 2,
        )
        scale = (2 * np.pi / self.grid.wavelength) ** 2
        outside = [
            2 * scale * max(float((r2 * power).sum()), py * px * self._counts(variables)) for r2 in squares
        ]
        distances = to_host(variables.slice_distances)
        n_gaps = max(variables.n_slices - 1, 1)
        # length of propagation over which a tilt shifts the wave: specimen, and defocus of a near field
        way = abs(self.defocus_A) + float(distances[0] * n_gaps if len(distances) == 1 else distances.sum())
        spectrum = self._spectrum(variables)
        inside = [
            2 * (2 * np.pi * way) ** 2 * float((q**2 * spectrum).sum()) for q in (self.grid.qy, self.grid.qx)
        ]
        before, within, after = self.acting_tilts
        # columns [y, x] before, inside and after: (6,)
        values = np.array([*outside, *inside, *outside]) * np.repeat([before, within, after], 2)
        values = np.where(values > 0, values, max(values.max(), 1.0))
        return self.backend.asarray(values[None] * self._sharing(variables.tilts))

    def _aberrations(self, variables: Variables) -> Array:
        """(1, K): 2 sum_q B_k^2 I, times the patterns of a group."""
        groups, n_terms = variables.aberrations_array.shape
        basis = aberration_basis(self.grid, n_terms)
        values = (
            2
            * (basis**2 * self._spectrum(variables)).sum(axis=(1, 2))
            * max(len(self.crop_origins) / groups, 1.0)
        )
        # an aberration without effect gets a tiny curvature instead of 0, a divisor
        return self.backend.asarray(np.maximum(values, max(values.max() * 1e-9, 1e-300))[None])

    def _background(self, variables: Variables) -> Array:
        """(ky, kx): I = I0 + b^2, so 2 N (d sqrt I/db)^2 = 2 N b^2/I, at most 2 N.

        Twice the value for the mean pattern, in case a model has only half of its counts.
        """
        # b^2/I is at most 1; REGULARISATION keeps the curvature of an unused background positive
        square = to_host(variables.static_background) ** 2
        # (ky, kx); without measured counts the upper bound 1
        share = np.ones_like(square)
        if self.compared_mean is not None:
            share = np.minimum(2 * square / np.maximum(self.compared_mean, 1e-300), 1)
        return self.backend.asarray(2.0 * len(self.crop_origins) * (share + REGULARISATION))

    def _current(self, variables: Variables) -> Array:
        """(1,): d sqrt I/db = sqrt I0, so 2 sum I0."""
        return self.backend.asarray(np.array([2 * self._counts(variables)]))

    def _gains(self, variables: Variables) -> Array:
        """(2, 2): I = g I0, so 2 N sum (d sqrt I/dg)^2 = N/2 sum I/g^2 over the pixels of a quadrant."""
        gains = np.maximum(np.abs(to_host(variables.detector_gains)), _SMALLEST_GAIN)
        counts = np.full((2, 2), self._counts(variables) / 4)
        if self.compared_mean is not None:
            ky, kx = (n // 2 for n in self.compared_mean.shape)
            rows = np.add.reduceat(self.compared_mean, [0, ky], axis=0)  # (ky, kx) -> (2, kx)
            counts = np.add.reduceat(rows, [0, kx], axis=1)  # (2, 2)
        # a quadrant without counts would get an unbounded step
        counts = np.maximum(counts, REGULARISATION * counts.max() + np.finfo(float).tiny)
        return self.backend.asarray(0.5 * len(self.crop_origins) * counts / gains**2)

    def _blur(self, variables: Variables) -> Array:
        """(1,): N/2 sum (dI/ds)^2/I, dI/ds = K'(s) I. For patterns with speckles, whose neighbouring
        pixels are nearly independent, sum (K' I)^2/I ~ counts x (squared norm of a row of K')."""
        width = max(abs(float(to_host(variables.detector_blur_std)[0])), _NARROWEST_BLUR)
        kernels_ = [_gaussian_row(n, width) for n in self.grid.shape]
        # K' of the two axes is dy kx + ky dx: its squared norm, with the mixed term twice
        (ky, dy), (kx, dx) = kernels_
        square = (dy @ dy) * (kx @ kx) + (ky @ ky) * (dx @ dx) + 2 * (ky @ dy) * (kx @ dx)
        return self.backend.asarray(
            np.array([0.5 * len(self.crop_origins) * self._counts(variables) * float(square)])
        )


def _gaussian_row(n: int, width: float) -> tuple[np.ndarray, np.ndarray]:
    """(n,) row of a periodic Gaussian blur, and its derivative with respect to the width."""
    squares = (np.fft.fftfreq(n) * n) ** 2
    row = np.exp(-squares / (2 * width**2))
    row /= row.sum()
    change = row * squares / width**3
    return row, change - row * change.sum()


def _modes_power(probe: Array) -> Array:
    """(y, x) float64 sum of |P|^2 over modes, averaged over subscans."""
    power = kernels.sum_abs2(probe, axes=(-3,)).astype(np.float64)
    # (mode, y, x) -> (y, x), or (subscan, mode, y, x) -> (subscan, y, x)
    return power if power.ndim == 2 else power.mean(axis=0)


def _raised(diagonal: Array) -> Array:
    return array_module(diagonal).maximum(diagonal, 0) + REGULARISATION * diagonal.max()


def _convolve(visits: Array, window: Array, shape: tuple[int, ...]) -> Array:
    """sum over crop origins of ``window`` placed there: the scatter-add of one window, by FFT."""
    xp = array_module(visits)
    return xp.fft.irfft2(xp.fft.rfft2(visits) * xp.fft.rfft2(window, s=shape), s=shape)


def _correlate(visits: Array, image: Array, window: tuple[int, int]) -> Array:
    """sum over crop origins of the part of ``image`` seen there: the adjoint of :func:`_convolve`."""
    xp = array_module(visits)
    # (Y, X) -> (y, x): only shifts inside one window are needed
    full = xp.fft.irfft2(xp.fft.rfft2(visits).conj() * xp.fft.rfft2(image), s=visits.shape)
    return full[: window[0], : window[1]]
