"""Shifts between the images of single bright-field pixels, from which orientation and defocus follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.signal.windows import tukey

_COARSE_PIXELS = 40  # images in the coarse search
_COARSE_FREQUENCIES = 300  # the strongest ones, in the coarse search
_FREQUENCIES = 2000  # the strongest ones
_KEPT = 4
"""Number of coarse maxima that are refined."""


@dataclass(frozen=True)
class PixelImages:
    """Spectra of the images that single pixels (or small blocks) of the bright-field disk form over the scan.

    Attributes
    ----------
    k : (K, 2) [y, x] of the pixels from the centre of the disk, px
    q : (M, 2) [y, x] the strongest frequencies of the images, cycles per scan step
    spectra : (K, M) complex64
    """

    k: np.ndarray
    q: np.ndarray
    spectra: np.ndarray

    @classmethod
    def from_images(cls, images: np.ndarray, k: np.ndarray) -> PixelImages:
        """From images (K, sy, sx) over the scan, of pixels at k. The mean of each is subtracted, and a Tukey window
        fades the rim.
        """
        _, sy, sx = images.shape
        window = tukey(sy, 0.5)[:, None] * tukey(sx, 0.5)[None, :]
        columns = sx // 2 + 1
        # summed over all images, to choose the frequencies that carry signal
        power = np.zeros((sy, columns))
        for image in images:
            power += np.abs(_spectrum(image, window)) ** 2
        power[0, 0] = 0  # the mean carries no shift
        qy, qx = np.fft.fftfreq(sy), np.fft.rfftfreq(sx)
        chosen = np.argsort(power.ravel())[::-1][: min(_FREQUENCIES, power.size - 1)]
        chosen = chosen[power.ravel()[chosen] > 0]
        spectra = np.stack([_spectrum(image, window).ravel()[chosen] for image in images])
        q = np.stack([qy[chosen // columns], qx[chosen % columns]], axis=1)
        return cls(np.asarray(k, float), q, spectra.astype(np.complex64))

    @property
    def coarse(self) -> PixelImages:
        """Fewer pixels and frequencies, for a search."""
        step = max(1, len(self.k) // _COARSE_PIXELS)
        return PixelImages(
            self.k[::step], self.q[:_COARSE_FREQUENCIES], self.spectra[::step, :_COARSE_FREQUENCIES]
        )

    def coherence(self, matrix: np.ndarray) -> float:
        """Agreement of the images after each is shifted back by ``matrix @ k`` scan steps: 0 for none, 1 for identical
        images.

        The power of the sum divided by K times the sum of the powers, corrected for the 1/K of independent noise.
        """
        phase = (self.k @ np.asarray(matrix).T) @ self.q.T  # (K, M) turns
        # exp(2 pi i phase) in single precision: phases are a few turns
        factor = np.exp((2j * np.pi) * phase.astype(np.float32))
        total = np.abs((self.spectra * factor).sum(axis=0)) ** 2
        every = float((np.abs(self.spectra) ** 2).sum())
        n = len(self.k)
        return float((total.sum() / (n * every) - 1 / n) / (1 - 1 / n)) if every > 0 and n > 1 else 0.0


def _spectrum(image: np.ndarray, window: np.ndarray) -> np.ndarray:
    image = image - (image * window).sum() / window.sum()
    return np.fft.rfft2(image * window)


def turn(angle_deg: float) -> np.ndarray:
    """(2, 2) on [y, x]: rotates from the detector to the scan, the inverse of ``rotation_yx``."""
    a = np.deg2rad(angle_deg)
    return np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])


def mirror(flip: bool) -> np.ndarray:
    """(2, 2) on [y, x]: reverses y."""
    return np.diag([-1.0 if flip else 1.0, 1.0])


def search(images: PixelImages, flip: bool, largest_steps: float) -> np.ndarray:
    """The (2, 2) matrix, a rotation times a scale (and a mirror), with the largest coherence of the images.

    The phase of a defocused beam shifts the image of a pixel at k by - lambda C10 k in the frame of the
    detector (Lupini, Chi and Jesse, J. Microsc. 263 (2016) 43). The matrix maps k (px) to that shift in
    scan steps.

    Parameters
    ----------
    flip : the ky axis of the detector is reversed
    largest_steps : upper limit of the shift of the outermost pixels, scan steps
    """
    coarse, rim = images.coarse, float(np.hypot(*images.k.T).max())
    # Polar grid with about one scan step between its points at the rim: a maximum of the coherence is about that wide.
    trials = []
    for steps in np.arange(0.5, largest_steps + 0.5, 1.0):
        for angle in np.arange(0, 360, 360 / max(16, int(np.ceil(2 * np.pi * steps)))):
            point = steps / rim * np.array([np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))])
            trials.append((coarse.coherence(_similarity(point, flip)), *point))
    trials.sort(reverse=True)
    best, best_value = np.zeros(2), -np.inf
    for _, *start in trials[:_KEPT]:
        point, value = _climb(images, np.array(start), 0.3 / rim, lambda p: _similarity(p, flip))
        if value > best_value:
            best, best_value = point, value
    return _similarity(best, flip)


def _similarity(point: np.ndarray, flip: bool) -> np.ndarray:
    """c R(angle)^-1 mirror for the point c (cos, sin)."""
    return np.array([[point[0], -point[1]], [point[1], point[0]]]) @ mirror(flip)


def refine(images: PixelImages, matrix: np.ndarray) -> np.ndarray:
    """The nearest maximum of the coherence over all four elements, which allows for astigmatism and a distorted
    scan."""
    size = 0.3 / float(np.hypot(*images.k.T).max())
    point, _ = _climb(images, np.asarray(matrix, float).ravel(), size, lambda p: p.reshape(2, 2))
    return point.reshape(2, 2)


def _climb(
    images: PixelImages, start: np.ndarray, size: float, matrix: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, float]:
    n = len(start)
    result = minimize(
        lambda p: -images.coherence(matrix(p)),
        start,
        method="Nelder-Mead",
        options={
            "initial_simplex": start + np.concatenate([np.zeros((1, n)), size * np.eye(n)]),
            "xatol": size * 1e-3,
            "fatol": 1e-7,
            "maxiter": 400,
        },
    )
    return result.x, -float(result.fun)


def best_number(
    images: PixelImages, angle_deg: float, flip: bool, largest_steps: float
) -> tuple[float, float]:
    """(c, coherence): the scale c for which c R^-1 mirror has the largest coherence, at a fixed angle."""
    rim = float(np.hypot(*images.k.T).max())
    base = turn(angle_deg) @ mirror(flip)
    coarse = images.coarse
    grid = np.arange(-largest_steps, largest_steps + 0.01, 0.5) / rim
    start = grid[int(np.argmax([coarse.coherence(c * base) for c in grid]))]
    fine = start + np.linspace(-0.5, 0.5, 11) / rim
    values = [images.coherence(c * base) for c in fine]
    best = int(np.argmax(values))
    return float(fine[best]), values[best]


def split(matrix: np.ndarray, flip: bool) -> tuple[float, float, float]:
    """(angle_deg, mean, spread) of matrix = R(angle)^-1 S mirror with the nearest rotation R (polar
    decomposition).

    Mean and half the difference of the stretches S are in scan steps per px. S is positive: a negative defocus appears
    as an angle that differs by half a turn.
    """
    left, values, right = np.linalg.svd(matrix @ mirror(flip))
    rotation = left @ right
    angle = float(np.degrees(np.arctan2(rotation[1, 0] - rotation[0, 1], rotation[0, 0] + rotation[1, 1])))
    return angle, float(values.mean()), float((values[0] - values[1]) / 2)
