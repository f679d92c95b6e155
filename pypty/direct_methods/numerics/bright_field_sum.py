"""Tilt-corrected bright field: the shifted sum of the images of all bright-field pixels, on a finer grid."""

from __future__ import annotations

import numpy as np
import scipy.fft

from pypty.direct_methods.numerics.bright_field import phase_basis
from pypty.errors import ParameterError
from pypty.optics.scan_grid import rotation_yx

_TOGETHER = 128  # images in one matrix product


class ShiftedSum:
    """Sum of images, each shifted, on a grid ``upsample`` times finer than the scan.

    The samples of an image are placed on every ``upsample``-th point of the fine grid, which repeats its spectrum
    periodically. Therefore each image is transformed only once, on the coarse grid, and the sum over images is a matrix
    product for each row of the spectrum.

    Parameters
    ----------
    scan_size : (sy, sx) points of an image
    upsample : fine points per scan point
    pad : scan points added on each side
    dtype : np.float64 or np.float32, of the computation
    """

    def __init__(self, scan_size: tuple[int, int], upsample: int, pad: int, dtype: type = np.float64) -> None:
        if upsample < 1 or pad < 0 or upsample != int(upsample) or pad != int(pad):
            raise ParameterError(
                f"upsample {upsample!r}, pad {pad!r}: expected whole numbers from 1 and from 0"
            )
        self.scan_size, self.upsample, self.pad = scan_size, int(upsample), int(pad)
        self.coarse = (scan_size[0] + 2 * self.pad, scan_size[1] + 2 * self.pad)
        self.shape = (self.coarse[0] * self.upsample, self.coarse[1] * self.upsample)
        self._real = np.dtype(dtype)
        self._complex = np.result_type(self._real, np.complex64)
        half = self.shape[1] // 2 + 1
        # fine column -> column of the repeated coarse spectrum
        self._columns = np.arange(half) % self.coarse[1]
        # Row j of the fine spectrum is (j // coarse rows, j % coarse rows) here: the repeats are an axis.
        self._sum = np.zeros((self.upsample, self.coarse[0], half), self._complex)
        self._kernel = np.zeros((self.shape[0], half), self._complex)

    def add(self, images: np.ndarray, shifts_px: np.ndarray) -> None:
        """Add images (D, sy, sx), each shifted by its row of ``shifts_px`` (D, 2) [y, x] fine pixels."""
        for start in range(0, len(images), _TOGETHER):
            self._add(images[start : start + _TOGETHER], shifts_px[start : start + _TOGETHER])

    def _add(self, images: np.ndarray, shifts_px: np.ndarray) -> None:
        spectra = scipy.fft.fft2(self._padded(images), axes=(1, 2))  # (D, coarse y, coarse x)
        # (D, fine y) and (D, half of fine x)
        ramp_y = self._ramp(np.fft.fftfreq(self.shape[0]), shifts_px[:, 0])
        ramp_x = self._ramp(np.fft.rfftfreq(self.shape[1]), shifts_px[:, 1])
        # the same sum for images of a single point: how often a point is sampled
        self._kernel += ramp_y.T @ ramp_x
        rows = ramp_y.reshape(len(images), self.upsample, self.coarse[0])
        # One BLAS product (upsample, D) x (D, half) for each row, instead of D sums over the fine grid.
        for row in range(self.coarse[0]):
            self._sum[:, row] += rows[:, :, row].T @ (spectra[:, row, self._columns] * ramp_x)

    def _padded(self, images: np.ndarray) -> np.ndarray:
        pad = self.pad
        return np.pad(images.astype(self._real), ((0, 0), (pad, pad), (pad, pad)))

    def _ramp(self, frequency: np.ndarray, shift: np.ndarray) -> np.ndarray:
        """(D, n) Fourier ramps. At the Nyquist frequency only the real part keeps a shifted image real."""
        phase = -2 * np.pi * shift[:, None] * frequency
        ramp = np.exp(1j * phase)
        edge = np.abs(frequency) == 0.5
        ramp[:, edge] = np.cos(phase[:, edge])
        return ramp.astype(self._complex)

    def image(self, regularisation: float = 1e-3) -> np.ndarray:
        """(sy * u + 2 pad u, sx * u + 2 pad u): the sum, divided by the number of samples at each point.

        W O / (regularisation + W^2), with the sum O of the images and the sum W of the sampling points with the same
        shifts. Scan point (0, 0) is at pixel (pad * upsample, pad * upsample).
        """
        total = scipy.fft.irfft2(self._sum.reshape(self._kernel.shape), s=self.shape)
        points = scipy.fft.fft2(self._padded(np.ones((1, *self.scan_size))), axes=(1, 2))[0]
        # (coarse y, coarse x) -> (fine y, half of fine x): the coarse spectrum repeats
        points = np.tile(points, (self.upsample, 1))[:, self._columns]
        weight = scipy.fft.irfft2(points * self._kernel, s=self.shape)
        return weight * total / (regularisation + weight**2)


def contrast_transfer(
    aberrations_A: np.ndarray,
    shape: tuple[int, ...],
    *,
    pixel_size_A: float,
    wavelength: float,
    rotation_deg: float,
    half: bool = True,
) -> np.ndarray:
    """sin(chi) at the spatial frequencies of an image (y, x) along the axes of the scan, zero frequency first.

    Parameters
    ----------
    half : (y, x // 2 + 1) as rfft2, else (y, x)
    """
    fx = scipy.fft.rfftfreq(shape[1], pixel_size_A) if half else scipy.fft.fftfreq(shape[1], pixel_size_A)
    # (y, x, 2) [qy, qx] in the frame of the scan
    q = np.stack(np.meshgrid(scipy.fft.fftfreq(shape[0], pixel_size_A), fx, indexing="ij"), axis=-1)
    coefficients = np.atleast_1d(np.asarray(aberrations_A, float))
    basis = phase_basis(q @ rotation_yx(rotation_deg).T, len(coefficients), wavelength)
    return np.sin(np.tensordot(coefficients, basis, axes=1))


def flip_contrast(image: np.ndarray, transfer: np.ndarray, tolerance: float = 1e-8) -> np.ndarray:
    """Invert the spatial frequencies with negative contrast: multiply by the sign of the transfer function.

    Parameters
    ----------
    image : (y, x); its mean is kept
    transfer : (y, x // 2 + 1) as rfft2; |transfer| <= tolerance is left as it is
    """
    spectrum = scipy.fft.rfft2(image)
    sign = np.where(np.abs(transfer) > tolerance, np.sign(transfer), 1.0)
    # chi(0) = 0: the mean has no contrast to flip
    sign[0, 0] = 1.0
    return scipy.fft.irfft2(spectrum * sign, s=image.shape)
