"""Aberrations and rotation from the patterns of a scan: choice of detectors, of a start, and of the number of terms."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pypty.direct_methods.numerics.bright_field import (
    BrightField,
    Chunks,
    Detectors,
    binned_detectors,
    collect,
    gradient_basis,
    image_shifts_A,
)
from pypty.direct_methods.numerics.bright_field_fit import (
    Disk,
    FitResult,
    WeakPhase,
    defocus_scan,
    fit_weak_phase,
)
from pypty.direct_methods.numerics.bright_field_shifts import (
    CorrelationOptions,
    LeastSquares,
    fit_shifts,
    measure_shifts,
)
from pypty.errors import ParameterError
from pypty.optics.aberrations import krivanek_orders
from pypty.optics.scan_grid import rotation_yx

_LOG = logging.getLogger("pypty")
_DETECTORS = 600  # images that are fitted
_BYTES = 512 * 2**20  # of the images together
_LARGEST_TURN = np.pi / 2  # change of the beam's phase over a square, rad
_SMALLEST_GAIN = 0.01  # fraction of the unexplained contrast
_START_TURNS_DEG = (0.0, -30.0, 30.0, -60.0, 60.0)  # trial rotations; the fit starts from the best


@dataclass(frozen=True, kw_only=True)
class BrightFieldScan:
    """The data of a scan for a fit.

    Attributes
    ----------
    open_chunks : returns an iterator over (indices, patterns (n, ky, kx)) of all patterns at each call
    scan_size : points (slow, fast)
    step_A : between them
    wavelength : Å
    pixel_1A : (ky, kx), 1/Å
    aperture : (ky, kx) bool, the bright-field disk
    """

    open_chunks: Callable[[], Chunks]
    scan_size: tuple[int, int]
    step_A: float
    wavelength: float
    pixel_1A: tuple[float, float]
    aperture: np.ndarray

    @property
    def disk(self) -> Disk:
        return Disk.from_aperture(self.aperture, self.pixel_1A)

    def images(self, detectors: Detectors) -> BrightField:
        """Images of these detectors, one pass over the data."""
        return collect(self.open_chunks(), detectors, self.scan_size)

    def some_pixels(self, most: int = _DETECTORS) -> Detectors:
        """Every n-th pixel, such that there are at most ``most`` and their images fit the memory."""
        detectors = binned_detectors(self.aperture, self.pixel_1A)
        most = max(16, min(most, _BYTES // (4 * self.scan_size[0] * self.scan_size[1])))
        return detectors.part(slice(None, None, -(-len(detectors) // most)))

    def squares(self, defocus_A: float) -> Detectors:
        """Squares of pixels, large enough that there are few, and small enough for the phase of a beam of this
        defocus."""
        n_pixels = int(np.count_nonzero(self.aperture))
        wanted = int(np.ceil(np.sqrt(n_pixels / _DETECTORS)))
        rim = self.wavelength * self.disk.radius_1A
        # phase difference of neighbouring pixels at the rim
        turn = 2 * np.pi * max(self.pixel_1A) * abs(defocus_A) * rim
        allowed = int(_LARGEST_TURN / turn) if turn > 0 else wanted
        binning = max(1, min(wanted, allowed))
        detectors = binned_detectors(self.aperture, self.pixel_1A, binning)
        most = max(16, min(_DETECTORS, _BYTES // (4 * self.scan_size[0] * self.scan_size[1])))
        return detectors.part(slice(None, None, -(-len(detectors) // most)))


@dataclass(frozen=True)
class DefocusScan:
    """Share of the contrast explained by each defocus C10 (Å) at the best of the rotations tried."""

    defoci_A: np.ndarray
    explained: np.ndarray
    rotation_deg: float

    @property
    def best_A(self) -> float:
        return float(self.defoci_A[np.argmax(self.explained)])


def scan_defocus(scan: BrightFieldScan, rotation_deg: float, any_rotation: bool) -> DefocusScan:
    """Try defoci of both signs with the given rotation and, if wanted, with some within a quarter turn of it.

    A defocus, and its negative with the scan rotated by 180 degrees and a phase object of the opposite sign, give the
    same patterns. The rotation must therefore be right within 90 degrees.
    """
    turns = _START_TURNS_DEG if any_rotation else (0.0,)
    angles = [rotation_deg + turn for turn in turns]
    images = scan.images(scan.some_pixels())
    explained, defoci = defocus_scan(images, scan.step_A, scan.wavelength, scan.disk, angles)
    best = int(np.argmax(explained.max(axis=1)))  # (angles, defoci) -> the best angle
    return DefocusScan(defoci, explained[best], angles[best])


def better_start(scan: BrightFieldScan, start: FitResult, any_rotation: bool) -> FitResult:
    """The start, or the best of a scan of defocus, whichever explains more."""
    trials = scan_defocus(scan, start.rotation_deg, any_rotation)
    if np.any(start.aberrations_A):
        images = scan.images(scan.some_pixels())
        model = WeakPhase(images, scan.step_A, scan.wavelength, scan.disk)
        of_scan = model.explained(np.array([trials.best_A]), trials.rotation_deg)
        of_start = model.explained(start.aberrations_A, start.rotation_deg)
        if of_start >= of_scan:
            return replace(start, explained=of_start)
    return FitResult(np.array([trials.best_A]), trials.rotation_deg, float(trials.explained.max()))


def fit_scan(scan: BrightFieldScan, start: FitResult, n_terms: int, fit_rotation: bool) -> FitResult:
    """Fit the first ``n_terms`` aberrations and the rotation, from a start.

    Terms are added order by order (C10; C12; C21, C23; C30 ...), and an order is kept if it explains at least 1 % of
    the unexplained rest; otherwise higher orders merely compensate C10. Omitted orders stay as they were at the start.
    """
    if n_terms < 1 or n_terms != int(n_terms):
        raise ParameterError(f"number of aberrations to fit is {n_terms!r}, expected a whole number from 1")
    images = scan.images(scan.squares(float(start.aberrations_A[0])))
    model = WeakPhase(images, scan.step_A, scan.wavelength, scan.disk)
    # terms beyond those that are fitted keep their starting values
    full = np.zeros(max(n_terms, len(start.aberrations_A)))
    full[: len(start.aberrations_A)] = start.aberrations_A
    # begin with all orders that the start uses: without them it would explain less
    n_first = max(1, int(np.flatnonzero(full).max(initial=0)) + 1)
    best: FitResult | None = None
    for n in _stages(n_terms, min(n_first, n_terms)):
        trial = full if best is None else best.aberrations_A
        turn = start.rotation_deg if best is None else best.rotation_deg
        fit = fit_weak_phase(model, trial, turn, fit_rotation, n)
        if best is not None and fit.explained - best.explained < _SMALLEST_GAIN * (1 - best.explained):
            _LOG.info("tcBF: aberrations beyond %d terms explain nothing more", _before(n, n_terms))
            break
        best = fit
    assert best is not None
    _LOG.info(
        "tcBF: C10 %.4g Å, rotation %.2f deg, %.0f %% of the bright-field contrast explained",
        best.aberrations_A[0],
        best.rotation_deg,
        100 * best.explained,
    )
    return replace(best, aberrations_A=best.aberrations_A[: max(n_terms, len(start.aberrations_A))])


def _stages(n_terms: int, n_first: int) -> list[int]:
    """Numbers of terms at which an order is complete (C10; C12; order 2; order 3 ...), from ``n_first`` on."""
    orders = [(n, m if n == 1 else 0) for n, m, _ in krivanek_orders(n_terms)]
    ends = [i + 1 for i in range(n_terms) if i + 1 == n_terms or orders[i + 1] != orders[i]]
    return [end for end in ends if end >= n_first]


def _before(n: int, n_terms: int) -> int:
    stages = _stages(n_terms, 1)
    return stages[max(0, stages.index(n) - 1)]


def turned_positions(
    positions_px: np.ndarray, turn_deg: float, pixel_size_A: tuple[float, float]
) -> np.ndarray:
    """(N, 2) positions [y, x] in pixels rotated by an angle, with the same smallest coordinates as before."""
    pixel = np.asarray(pixel_size_A)
    turned = (positions_px * pixel) @ rotation_yx(turn_deg).T / pixel
    return turned - turned.min(axis=0) + positions_px.min(axis=0)


def turned(params: Mapping[str, Any], turn_deg: float) -> dict[str, Any]:
    """Parameters that change with the rotation: positions with their corrections, and the object, which is reset to
    vacuum. Empty without positions."""
    positions = params.get("positions")
    if positions is None or len(positions) < 2:
        return {}
    correction, obj = params.get("positions_correction"), params.get("obj")
    points = np.array(positions, float) + (0.0 if correction is None else np.asarray(correction, float))
    pixel = (float(params.get("pixel_size_y_A", 1.0)), float(params.get("pixel_size_x_A", 1.0)))
    changes: dict[str, Any] = {"positions": turned_positions(points, turn_deg, pixel)}
    if correction is not None:
        changes["positions_correction"] = None
    if obj is not None and np.shape(obj)[:2] != (1, 1):
        changes["obj"] = np.ones((1, 1, *np.shape(obj)[2:]), complex)
    return changes


def sharpest_defocus(images: BrightField, step_A: float, wavelength: float, rotation_deg: float) -> float:
    """C10 in Å for which the shifted sum of the images has the largest contrast; for any detectors."""
    # (D, sy, sx // 2 + 1); without the mean, which no shift changes
    spectra = np.fft.rfft2(images.images - images.images.mean(axis=(1, 2), keepdims=True))
    size = images.images.shape[1:]
    fy, fx = np.fft.fftfreq(size[0]), np.fft.rfftfreq(size[1])
    # (D, 2) shift in scan points for a C10 of 1 Å
    per_A = gradient_basis(images.detectors.k_1A, 1, wavelength)[0] @ rotation_yx(rotation_deg) / step_A
    rim = float(np.hypot(per_A[:, 0], per_A[:, 1]).max())
    if rim == 0:
        raise ParameterError("all detectors lie on the axis; their images do not shift with defocus")
    n = max(8, min(size))
    # steps that shift the outermost image by half a scan point
    defoci = 0.5 / rim * np.arange(-n, n + 1)
    power = np.empty(len(defoci))
    for number, defocus in enumerate(defoci):
        shifts = defocus * per_A
        ramp_y = np.exp(-2j * np.pi * shifts[:, 0, None] * fy)
        ramp_x = np.exp(-2j * np.pi * shifts[:, 1, None] * fx)
        # without the zero frequency the power of the sum is its contrast
        power[number] = (np.abs(np.einsum("dyx,dy,dx->yx", spectra, ramp_y, ramp_x)) ** 2).sum()
    return float(defoci[np.argmax(power)])


@dataclass(frozen=True)
class ShiftRound:
    """Options of :func:`refine_by_shifts`.

    Attributes
    ----------
    correlation, least_squares : how shifts are measured and fitted
    fit_rotation : fit the rotation, too
    keep_quantile : shifts whose deviation from the prediction exceeds this quantile are left out; None = keep all
    """

    correlation: CorrelationOptions
    least_squares: LeastSquares
    fit_rotation: bool = True
    keep_quantile: float | None = None


def refine_by_shifts(
    images: BrightField,
    step_A: float,
    wavelength: float,
    fit: FitResult,
    options: ShiftRound,
) -> tuple[FitResult, float]:
    """One round: predict the shifts of the images, measure them, fit aberrations and rotation to them.

    Returns
    -------
    the new fit, and the rms residual in scan points
    """
    k, weights = images.detectors.k_1A, images.detectors.weights
    predicted = image_shifts_A(fit.aberrations_A, k, wavelength, fit.rotation_deg) / step_A
    # the detector nearest to the axis
    central = int(np.argmin(np.hypot(k[:, 0], k[:, 1])))
    measured = measure_shifts(images.images, predicted, options.correlation, central)
    if options.keep_quantile is not None:
        if not 0 < options.keep_quantile <= 1:
            raise ParameterError(
                f"cancel_large_shifts is {options.keep_quantile!r}, expected a quantile (0 to 1]"
            )
        # Relative to 1 + the predicted shift: large shifts are uncertain in proportion.
        deviation = np.hypot(*(measured - predicted).T) / (1 + np.hypot(*predicted.T))
        keep = deviation <= np.quantile(deviation, options.keep_quantile)
        measured, k, weights = measured[keep], k[keep], weights[keep]
    new = fit_shifts(
        measured * step_A,
        k,
        wavelength=wavelength,
        step_A=step_A,
        aberrations_A=fit.aberrations_A,
        rotation_deg=fit.rotation_deg,
        fit_rotation=options.fit_rotation,
        weights=weights,
        options=options.least_squares,
    )
    _LOG.info(
        "tcBF: C10 %.4g Å, rotation %.2f deg, shifts fitted to %.2g scan points",
        new.aberrations_A[0],
        new.rotation_deg,
        new.residual_px,
    )
    return FitResult(new.aberrations_A, new.rotation_deg, fit.explained), new.residual_px
