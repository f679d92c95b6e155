"""Shifts of bright-field images measured by cross-correlation, and the aberrations that explain them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.ndimage
import scipy.optimize

from pypty.direct_methods.numerics.bright_field import gradient_basis
from pypty.errors import DataError, ParameterError
from pypty.optics.scan_grid import rotation_yx

_TOGETHER_BYTES = 64 * 2**20  # of spectra in memory
_SMALL = 0.1
"""Fraction of the mean modulus of the coefficients. Much smaller ones are noise, and a phase correlation does not
amplify them."""


@dataclass(frozen=True, kw_only=True)
class CorrelationOptions:
    """Options of the measurement of shifts.

    Attributes
    ----------
    reference : "bf", the shifted sum of the other images, or "central", the image of the detector nearest to the axis
    phase : phase correlation (Kuglin & Hines 1975), except for very small coefficients; False = cross-correlation
    box : scan points around the predicted shift in which the maximum is searched
    upsample : steps per scan point of the refined maximum (with a parabola between them)
    binning : number of points over which the correlation is averaged before its maximum is searched
    formula : sub-pixel shift from the neighbours of the maximum (Foroosh et al., IEEE Trans. Image Process. 11 (2002)
        188, eq. 12) instead of a finer transform
    pad : points added around an image, filled with its mean
    """

    reference: str = "bf"
    phase: bool = True
    box: int = 10
    upsample: int = 3
    binning: int = 1
    formula: bool = False
    pad: int = 8


def measure_shifts(
    images: np.ndarray,
    predicted_px: np.ndarray,
    options: CorrelationOptions,
    central: int = 0,
) -> np.ndarray:
    """(D, 2) shifts [y, x] in scan points that align each image (D, sy, sx) with the reference.

    Parameters
    ----------
    predicted_px : (D, 2) expected shifts, with which images are summed to the reference and maxima are searched
    central : index of the reference image with ``reference="central"``

    Raises
    ------
    ParameterError
        The name of the reference is not known.
    """
    if options.reference not in ("bf", "central"):
        raise ParameterError(f"reference_type is {options.reference!r}, expected 'bf' or 'central'")
    fy, fx = _frequencies(images.shape[1:], options.pad)
    total = np.zeros((len(fy), fx.shape[1]), complex)
    if options.reference == "bf":
        for part, spectra in _padded_spectra(images, options.pad):
            total += (spectra * _ramps(predicted_px[part], fy, fx)).sum(axis=0)
    else:
        total += next(_padded_spectra(images[central : central + 1], options.pad))[1][0]
    shifts = np.empty((len(images), 2))
    for part, spectra in _padded_spectra(images, options.pad):
        # An image must not be compared with itself, which the sum contains at the predicted shift.
        itself = (
            spectra * _ramps(predicted_px[part], fy, fx)
            if options.reference == "bf" and len(images) > 1
            else 0
        )
        product = (total - itself) * spectra.conj()  # (n, y, x)
        if options.phase:
            size = np.abs(product)
            # phase correlation: only phases are kept, except of very small coefficients
            product /= size + _SMALL * size.mean(axis=(1, 2), keepdims=True) + 1e-300
        shifts[part] = _maxima(product, predicted_px[part], options)
    return shifts


def _frequencies(shape: tuple[int, ...], pad: int) -> tuple[np.ndarray, np.ndarray]:
    return (
        scipy.fft.fftfreq(shape[0] + 2 * pad)[:, None],
        scipy.fft.fftfreq(shape[1] + 2 * pad)[None, :],
    )


def _ramps(shifts: np.ndarray, fy: np.ndarray, fx: np.ndarray) -> np.ndarray:
    return np.exp(-2j * np.pi * shifts[:, 0, None, None] * fy) * np.exp(
        -2j * np.pi * shifts[:, 1, None, None] * fx
    )


def _padded_spectra(images: np.ndarray, pad: int) -> Iterator[tuple[slice, np.ndarray]]:
    """(slice, spectra) of images minus their mean, in groups of bounded memory. The images fade out towards their
    frame, which is the same in all of them and would pull the maximum towards 0."""
    # (sy, sx)
    frame = np.outer(_edges(images.shape[1]), _edges(images.shape[2]))
    step = max(1, _TOGETHER_BYTES // (16 * (images.shape[1] + 2 * pad) * (images.shape[2] + 2 * pad)))
    for start in range(0, len(images), step):
        part = slice(start, min(start + step, len(images)))
        data = images[part].astype(np.float64)
        data -= data.mean(axis=(1, 2), keepdims=True)
        data *= frame
        yield part, scipy.fft.fft2(np.pad(data, ((0, 0), (pad, pad), (pad, pad))), axes=(1, 2))


def _edges(n: int) -> np.ndarray:
    """(n,) 1, falling to 0 over the outer eighth on each side."""
    distance = np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5
    return np.sin(0.5 * np.pi * np.minimum(1, distance / max(1.0, n / 8))) ** 2


def _maxima(product: np.ndarray, predicted: np.ndarray, options: CorrelationOptions) -> np.ndarray:
    """(D, 2) positions of the maxima of the correlations with these spectra."""
    # (n, y, x) correlations, zero shift first
    surface = scipy.fft.ifft2(product, axes=(1, 2)).real
    if options.binning > 1:
        surface = scipy.ndimage.uniform_filter(surface, (0, options.binning, options.binning), mode="wrap")
    height, width = surface.shape[1:]
    by, bx = (min(options.box, (n - 1) // 2) for n in (height, width))
    middle = np.round(predicted).astype(int)
    rows = middle[:, 0, None] + np.arange(-by, by + 1)
    columns = middle[:, 1, None] + np.arange(-bx, bx + 1)
    images = np.arange(len(surface))
    # (D, 2 by + 1, 2 bx + 1): the box around each prediction, periodic
    window = surface[images[:, None, None], rows[:, :, None] % height, columns[:, None, :] % width]
    at = np.unravel_index(window.reshape(len(window), -1).argmax(axis=1), window.shape[1:])
    peak = np.stack([rows[images, at[0]], columns[images, at[1]]], axis=1)
    if options.formula:
        return peak + _between_neighbours(surface, peak)
    return _refined(product, peak, options.upsample)


def _between_neighbours(surface: np.ndarray, peak: np.ndarray) -> np.ndarray:
    """(D, 2) fractions of a pixel: +-c1/(c1 + c0) towards the higher neighbour c1 of the maximum c0."""
    images, shape = np.arange(len(surface)), surface.shape[1:]
    top = surface[images, peak[:, 0] % shape[0], peak[:, 1] % shape[1]]
    out = np.zeros((len(surface), 2))
    for axis in (0, 1):
        step = np.eye(2, dtype=int)[axis]
        sides = [
            surface[
                images, (peak[:, 0] + sign * step[0]) % shape[0], (peak[:, 1] + sign * step[1]) % shape[1]
            ]
            for sign in (1, -1)
        ]
        higher = np.maximum(sides[0], sides[1])
        sign = np.where(sides[0] >= sides[1], 1.0, -1.0)
        out[:, axis] = sign * np.maximum(higher, 0) / np.maximum(higher + top, 1e-300)
    return np.clip(out, -0.5, 0.5)


def _refined(product: np.ndarray, peak: np.ndarray, upsample: int) -> np.ndarray:
    """Maxima on a grid ``upsample`` times finer within one pixel of ``peak`` (matrix Fourier transform, Guizar-Sicairos
    et al., Opt. Lett. 33 (2008) 156), then of a parabola through the highest point and its neighbours."""
    n = max(2, int(upsample))
    offsets = np.arange(-n - 1, n + 2) / n
    fy, fx = scipy.fft.fftfreq(product.shape[1]), scipy.fft.fftfreq(product.shape[2])
    # (D, 2n + 3, y) and (D, 2n + 3, x): the transform at the offsets only
    ey = np.exp(2j * np.pi * (peak[:, 0, None] + offsets)[:, :, None] * fy)
    ex = np.exp(2j * np.pi * (peak[:, 1, None] + offsets)[:, :, None] * fx)
    fine = (ey @ product @ ex.transpose(0, 2, 1)).real  # (D, 2n + 3, 2n + 3)
    inner = fine[:, 1:-1, 1:-1]  # a maximum needs neighbours on both sides
    row, column = np.unravel_index(inner.reshape(len(inner), -1).argmax(axis=1), inner.shape[1:])
    row, column, images = row + 1, column + 1, np.arange(len(fine))
    dy = _parabola(*(fine[images, row + step, column] for step in (-1, 0, 1)))
    dx = _parabola(*(fine[images, row, column + step] for step in (-1, 0, 1)))
    return peak + np.stack([offsets[row] + dy / n, offsets[column] + dx / n], axis=1)


def _parabola(before: np.ndarray, top: np.ndarray, after: np.ndarray) -> np.ndarray:
    bend = before - 2 * top + after
    return np.clip(
        np.where(bend < 0, 0.5 * (before - after) / np.where(bend < 0, bend, -1.0), 0.0), -0.5, 0.5
    )


@dataclass(frozen=True)
class ShiftFit:
    """Aberrations in Å and PLRotation_deg from measured shifts; ``residual_px`` is the rms that remains."""

    aberrations_A: np.ndarray
    rotation_deg: float
    residual_px: float


@dataclass(frozen=True)
class LeastSquares:
    """Options of scipy.optimize.least_squares; residuals are in scan points."""

    loss: str = "linear"
    f_scale: float = 1.0
    x_scale: float | str = 1.0


def fit_shifts(
    shifts_A: np.ndarray,
    k_1A: np.ndarray,
    *,
    wavelength: float,
    step_A: float,
    aberrations_A: np.ndarray,
    rotation_deg: float,
    fit_rotation: bool = True,
    weights: np.ndarray | None = None,
    options: LeastSquares | None = None,
) -> ShiftFit:
    """Least-squares aberrations and rotation for shifts (D, 2) [y, x] along the axes of the scan.

    A shift common to all images has no meaning and is removed from data and model.

    Parameters
    ----------
    k_1A : (D, 2) detectors, 1/Å
    aberrations_A : start; its length is the number of fitted aberrations

    Raises
    ------
    DataError
        Fewer shifts than unknowns.
    """
    n_terms = len(aberrations_A)
    if 2 * len(k_1A) - 2 < n_terms + fit_rotation:
        raise DataError(
            f"{len(k_1A)} bright-field detectors cannot give {n_terms} aberrations"
            f"{' and a rotation' if fit_rotation else ''}; lower binning_for_fit or n_aberrations_to_fit"
        )
    options = options or LeastSquares()
    weights = np.ones(len(k_1A)) if weights is None else weights / weights.mean()
    # residuals in scan points, weighted with the root since they are squared
    scale = np.sqrt(weights)[:, None] / step_A
    measured = shifts_A - np.average(shifts_A, axis=0, weights=weights)
    # (terms, D, 2), in the frame of the detector
    basis = gradient_basis(k_1A, n_terms, wavelength)
    basis = basis - np.average(basis, axis=1, weights=weights)[:, None]
    # Unknowns are scaled such that 1 is an rms shift of 1 Å, whatever the order of the aberration.
    unit = np.sqrt((basis**2).mean(axis=(1, 2)))
    unit = 1 / np.maximum(unit, 1e-12 * unit.max())

    def angle(x: np.ndarray) -> float:
        return float(x[n_terms]) if fit_rotation else float(np.deg2rad(rotation_deg))

    def residuals(x: np.ndarray) -> np.ndarray:
        model = np.tensordot(x[:n_terms] * unit, basis, axes=1) @ rotation_yx(np.rad2deg(angle(x)))
        return ((model - measured) * scale).ravel()

    def jacobian(x: np.ndarray) -> np.ndarray:
        turn = rotation_yx(np.rad2deg(angle(x)))
        columns = [((unit[term] * basis[term]) @ turn * scale).ravel() for term in range(n_terms)]
        if fit_rotation:
            # d R(a) / d a = R(a + 90 degrees)
            quarter = rotation_yx(np.rad2deg(angle(x)) + 90.0)
            columns.append((np.tensordot(x[:n_terms] * unit, basis, axes=1) @ quarter * scale).ravel())
        return np.stack(columns, axis=1)

    start = np.asarray(aberrations_A, float) / unit
    start = np.append(start, np.deg2rad(rotation_deg)) if fit_rotation else start
    solution = scipy.optimize.least_squares(
        residuals, start, jac=jacobian, loss=options.loss, f_scale=options.f_scale, x_scale=options.x_scale
    )
    rms = float(np.sqrt((residuals(solution.x) ** 2).mean()))
    return ShiftFit(solution.x[:n_terms] * unit, float(np.rad2deg(angle(solution.x))), rms)
