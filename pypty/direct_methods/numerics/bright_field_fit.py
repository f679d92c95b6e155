"""Aberrations and scan rotation from bright-field images: weak-phase fit by variable projection.

For a weak phase object the Fourier coefficient at q of the image of bright-field pixel k is phi(q) Gamma(k, q),

    Gamma = i [A(k - q) exp(-i chi(k - q) + i chi(k)) - A(k + q) exp(i chi(k + q) - i chi(k))]

(Rodenburg, McCallum & Nellist, Ultramicroscopy 48 (1993) 304, eq. 6; Pennycook et al., Ultramicroscopy 151 (2015) 160).
For given aberrations the best phi(q) is a linear least-squares fit and drops out (Golub & Pereyra, SIAM J. Numer. Anal.
10 (1973) 413): the intensity that the model explains is sum_q |sum_k G conj(Gamma)|^2 / sum_k |Gamma|^2, a smooth
function of aberrations and rotation. Where both side bands are inside the disk this is equivalent to a shift of the
image; where only one of them is, a shift would be wrong by half of the defocus term.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.optimize

from pypty.direct_methods.numerics.bright_field import BrightField, phase_basis
from pypty.errors import DataError
from pypty.optics.aberrations import krivanek_orders
from pypty.optics.scan_grid import rotation_yx

_FREQUENCIES = 1500  # the strongest ones, in a fit
_SCAN_FREQUENCIES = 300  # in a scan of defocus
_SCAN_DETECTORS = 200  # in a scan of defocus
_ELEMENTS = 2**19  # complex numbers of an array: 8 MiB, for the caches
_ANGLE_STEP_DEG = 0.05  # of the difference quotient by the rotation


@dataclass(frozen=True)
class FitResult:
    """Aberrations (Krivanek, Å), PLRotation_deg, and the share of the images' contrast that they explain (0 to 1)."""

    aberrations_A: np.ndarray
    rotation_deg: float
    explained: float


@dataclass(frozen=True)
class Disk:
    """The bright-field disk: centre [y, x] and radius, width of its edge, 1/Å."""

    centre_1A: np.ndarray
    radius_1A: float
    edge_1A: float

    @classmethod
    def from_aperture(cls, aperture: np.ndarray, pixel_1A: tuple[float, float]) -> Disk:
        """The disk of the same centre of gravity and area."""
        # (pixels, 2) from the zero frequency at n//2
        index = np.argwhere(aperture) - np.array(aperture.shape) // 2
        radius = np.sqrt(len(index) * pixel_1A[0] * pixel_1A[1] / np.pi)
        return cls(index.mean(axis=0) * np.asarray(pixel_1A), float(radius), 0.5 * max(pixel_1A))

    def inside(self, k_1A: np.ndarray) -> np.ndarray:
        """(...,) 1 inside, 0 outside, with an edge of one pixel, for k (..., 2)."""
        distance = np.hypot(k_1A[..., 0] - self.centre_1A[0], k_1A[..., 1] - self.centre_1A[1])
        return np.clip(0.5 + (self.radius_1A - distance) / (2 * self.edge_1A), 0, 1)


class WeakPhase:
    """The share of the contrast of bright-field images that aberrations and a rotation explain.

    Parameters
    ----------
    images : of single pixels or small squares, within which the phase of Gamma must not vary much
    step_A : of the scan
    disk : the bright-field disk
    n_frequencies : upper limit of the number of spatial frequencies; the strongest are used
    """

    def __init__(
        self,
        images: BrightField,
        step_A: float,
        wavelength: float,
        disk: Disk,
        n_frequencies: int = _FREQUENCIES,
    ) -> None:
        self.wavelength, self.disk, self.k = wavelength, disk, images.detectors.k_1A
        size = images.images.shape[1:]
        rows, columns = np.nonzero(_half_plane(size, step_A, 2 * disk.radius_1A))
        if not len(rows):
            raise DataError(
                f"a scan of {size[0]} x {size[1]} points of {step_A:g} Å has no spatial frequency inside twice the "
                "aperture; aberrations cannot be fitted"
            )
        weights = images.detectors.weights[:, None]
        # Divided by sqrt(pixels of a detector): the same shot noise in every image.
        spectra = _spectra(images.images, rows, columns) / np.sqrt(weights)
        power = (np.abs(spectra) ** 2).sum(axis=0)
        best = np.sort(np.argsort(power)[::-1][:n_frequencies])
        self._g = np.ascontiguousarray(spectra[:, best].T)  # (D, Q) -> (Q, D)
        self._root_weight = np.sqrt(weights.ravel())
        q = np.stack(
            [scipy.fft.fftfreq(size[0], step_A)[rows], scipy.fft.fftfreq(size[1], step_A)[columns]], axis=1
        )
        self.q_scan = q[best]
        self.total = float(power[best].sum())
        if not self.total > 0:
            raise DataError("the bright-field images have no contrast; aberrations cannot be fitted")

    def explained(self, aberrations_A: np.ndarray, rotation_deg: float) -> float:
        """Share of the images' intensity that the model explains."""
        return self._evaluate(np.atleast_1d(aberrations_A), rotation_deg, False)[0]

    def explained_by_defoci(self, defoci_A: np.ndarray, rotation_deg: float) -> np.ndarray:
        """:meth:`explained` for each of equidistant defoci, with one complex product instead of an exponential."""
        bands, steps = [], []
        q = self.q_scan @ rotation_yx(rotation_deg).T
        here = phase_basis(self.k, 1, self.wavelength)[0]  # (D,) chi(k) for 1 Å
        for sign in (-1, 1):
            k = self.k + sign * q[:, None]  # (Q, D, 2)
            # (Q, D): chi at k + q minus chi at k, for 1 Å
            phase = sign * (phase_basis(k, 1, self.wavelength)[0] - here)
            amplitude = self.disk.inside(k) * self._root_weight
            bands.append((amplitude * np.exp(1j * defoci_A[0] * phase)).astype(np.complex64))
            steps.append(np.exp(1j * (defoci_A[1] - defoci_A[0]) * phase).astype(np.complex64))
        explained, data = np.empty(len(defoci_A)), self._g.astype(np.complex64)
        for number in range(len(defoci_A)):
            gamma = bands[0] - bands[1]  # without the factor i, which |product| does not see
            product = np.einsum("qk,qk->q", data, gamma.conj())
            norm = np.maximum((gamma.real**2 + gamma.imag**2).sum(axis=1), 1e-6 * len(self.k))
            explained[number] = (np.abs(product) ** 2 / norm).sum()
            for band, step in zip(bands, steps, strict=True):
                band *= step
        return explained / self.total

    def slope(
        self, aberrations_A: np.ndarray, rotation_deg: float, with_rotation: bool = True
    ) -> tuple[float, np.ndarray, float]:
        """(explained, derivatives by each aberration in 1/Å, by the rotation in 1/deg or 0)."""
        value, slope = self._evaluate(np.atleast_1d(aberrations_A), rotation_deg, True)
        if not with_rotation:
            return value, slope, 0.0
        # By the rotation the edge of the disk moves, too: a difference is simpler than its derivative.
        ends = [self.explained(aberrations_A, rotation_deg + sign * _ANGLE_STEP_DEG) for sign in (1, -1)]
        return value, slope, (ends[0] - ends[1]) / (2 * _ANGLE_STEP_DEG)

    def _evaluate(
        self, aberrations_A: np.ndarray, rotation_deg: float, with_slope: bool
    ) -> tuple[float, np.ndarray]:
        n_terms = len(aberrations_A)
        q = self.q_scan @ rotation_yx(rotation_deg).T
        here = phase_basis(self.k, n_terms, self.wavelength)
        value, slope = 0.0, np.zeros(n_terms)
        # A few frequencies at a time: arrays (terms, Q, D) that stay in the caches.
        step = max(1, _ELEMENTS // (len(self.k) * n_terms if with_slope else len(self.k)))
        for start in range(0, len(q), step):
            part = slice(start, start + step)
            g = self._g[part]
            bands = []
            for sign in (-1, 1):
                k = self.k + sign * q[part, None]
                # (terms, Q, D), then (Q, D) after the sum over terms
                basis = phase_basis(k, n_terms, self.wavelength) - here[:, None]
                phase = np.tensordot(aberrations_A, basis, axes=1)
                amplitude = self.disk.inside(k) * self._root_weight
                bands.append((basis, amplitude * np.exp(1j * sign * phase)))
            gamma = 1j * (bands[0][1] - bands[1][1])
            product = np.einsum("qk,qk->q", g, gamma.conj())
            # frequencies that no side band reaches are divided by a small number, not by 0
            norm = np.maximum((gamma.real**2 + gamma.imag**2).sum(axis=1), 1e-6 * len(self.k))
            power = np.abs(product) ** 2 / norm
            value += power.sum()
            if with_slope:
                # Derivative of |<g, Gamma>|^2 / |Gamma|^2 by Gamma; d band / d c = sign i basis band, and the factor i
                # of Gamma makes it real.
                by_gamma = (product[:, None] * g.conj() - power[:, None] * gamma.conj()) / norm[:, None]
                for basis, band in bands:
                    slope += 2 * np.tensordot(basis, (by_gamma * band).real, axes=2)
        return value / self.total, slope / self.total


def _half_plane(size: tuple[int, ...], step_A: float, largest_1A: float) -> np.ndarray:
    """(sy, sx // 2 + 1) bool: one of every pair q, -q with 0 < |q| < largest."""
    qy, qx = scipy.fft.fftfreq(size[0], step_A)[:, None], scipy.fft.rfftfreq(size[1], step_A)[None]
    conjugate = (qx == 0) & (qy < 0)  # column 0 of rfft2 holds both of a pair
    return (np.hypot(qy, qx) < largest_1A) & ((qy != 0) | (qx > 0)) & ~conjugate


def _spectra(images: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(D, Q) Fourier coefficients of images without their mean, a few images at a time."""
    out = np.empty((len(images), len(rows)), complex)
    step = max(1, 2**22 // images[0].size)
    for start in range(0, len(images), step):
        part = images[start : start + step].astype(np.float64)
        part -= part.mean(axis=(1, 2), keepdims=True)
        out[start : start + step] = scipy.fft.rfft2(part)[:, rows, columns]
    return out


def defocus_scan(
    images: BrightField, step_A: float, wavelength: float, disk: Disk, rotations_deg: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Explained contrast for round defoci of both signs, (rotations, defoci), and the defoci C10 in Å.

    The largest defocus shifts images at the rim of the disk by half of the field of view; there are two defoci per scan
    step of that shift. Only some detectors and frequencies are used.
    """
    subset = slice(None, None, -(-len(images.images) // _SCAN_DETECTORS))
    few = BrightField(images.images[subset], images.detectors.part(subset))
    model = WeakPhase(few, step_A, wavelength, disk, _SCAN_FREQUENCIES)
    fine = 0.5 * step_A / (wavelength * disk.radius_1A)  # C10 for a shift of half a scan step at the rim
    n = max(8, min(images.images.shape[1:]))
    defoci = fine * np.arange(-n, n + 1)
    return np.stack([model.explained_by_defoci(defoci, angle) for angle in rotations_deg]), defoci


def fit_weak_phase(
    model: WeakPhase,
    aberrations_A: np.ndarray,
    rotation_deg: float,
    fit_rotation: bool,
    n_terms: int | None = None,
) -> FitResult:
    """Maximise the explained contrast over aberrations and, if wanted, the rotation (BFGS).

    Unknowns are scaled: the unit of an aberration gives a phase of 1 rad at the rim of the disk, that of the rotation
    is 0.1 rad.

    Parameters
    ----------
    aberrations_A : start
    n_terms : number of fitted terms; further ones stay as they are. None = all
    """
    start = np.atleast_1d(np.asarray(aberrations_A, float))
    n_terms = len(start) if n_terms is None else n_terms
    rim = model.wavelength * model.disk.radius_1A
    order = np.array([n for n, _, _ in krivanek_orders(n_terms)])
    # from chi = (2 pi/lambda) C a^(n+1)/(n+1) = 1 at the rim, a = lambda k
    unit = (order + 1) * model.wavelength / (2 * np.pi * rim ** (order + 1))
    turn = np.rad2deg(0.1)
    # further coefficients that are 0 would only cost time
    used = start[: max(n_terms, int(np.flatnonzero(start).max(initial=0)) + 1)]

    def at(x: np.ndarray) -> tuple[np.ndarray, float]:
        moved = used.copy()
        moved[:n_terms] += unit * x[:n_terms]
        return moved, rotation_deg + (float(turn * x[-1]) if fit_rotation else 0.0)

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope, by_angle = model.slope(*at(x), with_rotation=fit_rotation)
        slopes = slope[:n_terms] * unit
        return -value, -(np.append(slopes, by_angle * turn) if fit_rotation else slopes)

    solution = scipy.optimize.minimize(
        loss, np.zeros(n_terms + fit_rotation), jac=True, method="BFGS", options={"gtol": 1e-4, "maxiter": 60}
    )
    moved, angle = at(solution.x)
    coefficients = start.copy()
    coefficients[: len(moved)] = moved
    return FitResult(coefficients, angle, float(-solution.fun))
