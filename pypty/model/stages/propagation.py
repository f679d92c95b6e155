"""Free-space propagation inside the specimen, with its tilt: shared by all integrators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pypty.backend import fft
from pypty.backend.array import Array, Backend, to_host
from pypty.data.batch import Batch
from pypty.model.blocks import Variables
from pypty.model.stages.base import Gradients, add_rows, imaginary_product, per_axis, rows_of
from pypty.optics.grid import Grid

INSIDE = slice(2, 4)
"""Columns [y, x] of ``tilts`` that act inside the specimen."""


@dataclass(frozen=True)
class PropagationPoint:
    """Distances, tilts and propagators that all batches of an evaluation share.

    Attributes
    ----------
    distances : (1,) or (gaps,) Å, host
    tilts : (1, 2) or (N, 2) inside tilts, or None
    factors : (y, x) M exp(i z (r - 2 pi q.t)) for (index of the distance, fraction of the gap); t only if it is
        the same for all patterns
    """

    distances: np.ndarray
    tilts: Array
    factors: Mapping[tuple[int, float], Array]

    def index(self, gap: int) -> int:
        """Index of the distance of a gap; the last distance also holds for all further gaps."""
        return min(gap, len(self.distances) - 1)


class _Known:
    """What was computed from some arrays, as long as they do not change.

    Arrays on a device are compared by identity, since a look at their values would wait for the device: variables are
    replaced, and never written into. Arrays on the host are compared by value.
    """

    def __init__(self) -> None:
        self._arrays: tuple[Array, ...] = ()
        self._numbers: tuple[int, ...] = ()
        self._value: Any = None

    def value(self, arrays: tuple[Array, ...], make: Callable[[], Any], *numbers: int) -> Any:
        """``make()``, or what it returned for the same arrays and numbers."""
        if not self._holds(arrays, numbers):
            value = make()  # may fail, and then nothing has changed
            # copies of those on the host: a caller may write into them
            self._arrays = tuple(a.copy() if isinstance(a, np.ndarray) else a for a in arrays)
            self._numbers, self._value = numbers, value
        return self._value

    def _holds(self, arrays: tuple[Array, ...], numbers: tuple[int, ...]) -> bool:
        if self._value is None or self._numbers != numbers or len(arrays) != len(self._arrays):
            return False
        return all(
            np.array_equal(a, b) if isinstance(a, np.ndarray) else a is b
            for a, b in zip(arrays, self._arrays, strict=True)
        )


class Propagation:
    """psi <- F^-1[ H F[psi] ], H = M exp(i f z (r(q) - 2 pi (qy t_y + qx t_x))).

    z is the gap in Å, f the fraction of it, r the phase per Å of the propagator (Fresnel: -pi lambda q^2), t the
    specimen tilt in rad: a tilted specimen moves the wave sideways by z t (Kirkland, Advanced Computing in Electron
    Microscopy, chapter 6: small tilts), M the band limit.

    Parameters
    ----------
    phase_rate : (y, x) r, rad/Å
    tilted : the inside columns of ``tilts`` act
    fractions : fractions of a gap for which propagators are computed
    """

    def __init__(
        self,
        grid: Grid,
        mask: np.ndarray,
        backend: Backend,
        phase_rate: np.ndarray,
        tilted: bool = False,
        fractions: tuple[float, ...] = (1.0,),
    ) -> None:
        self.backend = backend
        self.n_pixels = grid.shape[0] * grid.shape[1]
        self.mask = backend.asarray(mask, backend.real)
        self.rate = backend.asarray(phase_rate, np.float64)
        self.qy = backend.asarray(grid.qy[:, 0], np.float64)
        self.qx = backend.asarray(grid.qx[0], np.float64)
        self.tilted = tilted
        self.fractions = fractions
        self._distances, self._factors = _Known(), _Known()

    def prepare(self, variables: Variables, n_gaps: int, divisor: int = 1) -> PropagationPoint:
        """The propagators of every distance in use: the same arrays as long as nothing changes.

        ``divisor``: an executor whose transforms are not normalised divides the propagators by n^2 instead.
        """
        given = variables.slice_distances
        distances = self._distances.value((given,), lambda: to_host(given).copy())
        tilts = variables.tilts[:, INSIDE] if self.tilted else None
        common = (tilts[0],) if tilts is not None and len(tilts) == 1 else ()
        known = (given, variables.tilts) if common else (given,)
        factors = self._factors.value(
            known, lambda: self._propagators(distances, n_gaps, divisor, *common), n_gaps, divisor
        )
        return PropagationPoint(distances, tilts, factors)

    def _propagators(
        self, distances: np.ndarray, n_gaps: int, divisor: int, tilt: Array | None = None
    ) -> dict[tuple[int, float], Array]:
        """``tilt``: that of all patterns goes into the propagators."""
        xp, rate = self.backend.xp, self.rate
        if tilt is not None:
            # (y, x) - (y, 1) - (x,) -> (y, x)
            rate = rate - 2 * np.pi * (tilt[0] * self.qy[:, None] + tilt[1] * self.qx)
        return {
            (index, fraction): xp.exp(1j * (fraction * float(distances[index])) * rate).astype(
                self.backend.complex
            )
            * self.mask
            / self.backend.real.type(divisor)
            for index in range(min(n_gaps, len(distances)))
            for fraction in self.fractions
        }

    def tilt_ramps(self, point: PropagationPoint, length: float, batch: Batch) -> tuple[Array, Array]:
        """exp(-2 pi i z q t) along y and x for tilts that differ between patterns: (batch, 1, 1, y, 1) and (…, x)."""
        xp, tilts = self.backend.xp, rows_of(point.tilts, batch)
        ramp_y = xp.exp(-2j * np.pi * length * tilts[:, :1] * self.qy).astype(self.backend.complex)
        ramp_x = xp.exp(-2j * np.pi * length * tilts[:, 1:] * self.qx).astype(self.backend.complex)
        # (b, y) -> (b, 1, 1, y, 1) and (b, x) -> (b, 1, 1, 1, x): two small ramps instead of b planes
        return ramp_y[:, None, None, :, None], ramp_x[:, None, None, None, :]

    def multiply(
        self,
        spectrum: Array,
        point: PropagationPoint,
        gap: int,
        batch: Batch,
        fraction: float = 1.0,
        conjugate: bool = False,
    ) -> Array:
        """H or conj(H) times a spectrum; in place, unless patterns with different tilts share it."""
        index = point.index(gap)
        factor = point.factors[index, fraction]
        spectrum *= factor.conj() if conjugate else factor
        if point.tilts is not None and len(point.tilts) > 1:
            sign = -1.0 if conjugate else 1.0
            ramp_y, ramp_x = self.tilt_ramps(point, sign * fraction * float(point.distances[index]), batch)
            # (1, P, O, y, x) -> (b, P, O, y, x): not possible in place
            if spectrum.shape[0] < ramp_y.shape[0]:  # a wave shared by all patterns so far
                return (spectrum * ramp_y) * ramp_x
            spectrum *= ramp_y
            spectrum *= ramp_x
        return spectrum

    def forward(
        self, wave: Array, point: PropagationPoint, gap: int, batch: Batch, fraction: float = 1.0
    ) -> Array:
        """The wave after the gap; ``wave`` is overwritten."""
        spectrum = fft.fft2(wave, overwrite=True)
        spectrum = self.multiply(spectrum, point, gap, batch, fraction)
        return fft.ifft2(spectrum, overwrite=True)

    def adjoint(
        self,
        grad: Array,
        after: Array,
        point: PropagationPoint,
        gap: int,
        batch: Batch,
        gradients: Gradients,
        fraction: float = 1.0,
    ) -> Array:
        """The gradient before the gap; ``after`` is the wave after it. ``grad`` is overwritten."""
        spectrum = fft.fft2(grad, overwrite=True)
        if self.refines(gradients):
            # (b, P, O, y, x) -> (b, y, x): distances and tilts are the same for all modes
            slope = imaginary_product(spectrum, fft.fft2(after), axes=(1, 2))
            self.add_gradients(slope, point, gap, batch, gradients, fraction)
        spectrum = self.multiply(spectrum, point, gap, batch, fraction, conjugate=True)
        return fft.ifft2(spectrum, overwrite=True)

    def refines(self, gradients: Gradients) -> bool:
        """Whether the gradient of distances or tilts is needed."""
        return "slice_distances" in gradients or (self.tilted and "tilts" in gradients)

    def add_gradients(
        self,
        slope: Array,
        point: PropagationPoint,
        gap: int,
        batch: Batch,
        gradients: Gradients,
        fraction: float = 1.0,
    ) -> None:
        """With the slope s = Im(conj(F[G]) F[psi after]) and the phase f z (r - 2 pi q.t):
        dL/dz = -(f/n^2) sum_q (r - 2 pi q.t) s, dL/dt = (2 pi f z/n^2) sum_q q s."""
        index = point.index(gap)
        scale = fraction / self.n_pixels
        # (b, 2): 2 pi f/n^2 sum_q q s of each pattern, used by both gradients
        along = 2 * np.pi * scale * per_axis(slope, self.qy, self.qx) if self.tilted else None
        if "slice_distances" in gradients:
            # slopes of all patterns add up, as a gap is the same for all of them: (b, y, x) -> (y, x)
            change = -scale * (slope.sum(axis=0, dtype=np.float64) * self.rate).sum()
            if along is not None:
                change += (rows_of(point.tilts, batch) * along).sum()
            gradients["slice_distances"][index] += change
        if along is not None and "tilts" in gradients:
            add_rows(gradients["tilts"][:, INSIDE], batch, float(point.distances[index]) * along)
