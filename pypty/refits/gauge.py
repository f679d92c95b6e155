"""What ptychography leaves undetermined, and its removal before two reconstructions are compared.

A constant and a ramp of the phase of every slice (the probe takes the opposite ones), and a common shift of object and
positions change no pattern. So does a factor between object and probe, which leaves the phase as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter


@dataclass(frozen=True)
class Area:
    """The part of the object over which the probe was scanned.

    Attributes
    ----------
    rows, columns : pixels of the object
    """

    rows: slice
    columns: slice

    @classmethod
    def scanned(cls, positions: np.ndarray, window: Sequence[int], shape: Sequence[int]) -> Area:
        """Between the outermost scan positions.

        Parameters
        ----------
        positions : (N, 2) [y, x] crop origins, px
        window : (y, x) pixels of the probe; its centre is at n//2
        shape : (y, x) of the object
        """
        parts = []
        for axis in (0, 1):
            centres = positions[:, axis] + window[axis] // 2
            low, high = int(np.ceil(centres.min())), int(np.floor(centres.max())) + 1
            # a single line of positions has no extent across it: the pixels of one probe
            if high - low < 2:
                low, high = low - window[axis] // 4, low + window[axis] // 4
            parts.append(slice(max(low, 0), min(high, shape[axis])))
        return cls(*parts)

    def of(self, image: np.ndarray) -> np.ndarray:
        """The part of (y, x, ...)."""
        return image[self.rows, self.columns]


def phases(obj: np.ndarray) -> np.ndarray:
    """(y, x, z) phase of an object (y, x, z, modes), averaged over its modes; it jumps by 2 pi where it passes pi."""
    return np.angle(obj).mean(axis=3)


def flattened(obj: np.ndarray, area: Area) -> np.ndarray:
    """(y', x', z) phase factors exp(i phase) inside an area, without their mean phase and their ramp.

    They do not jump where a phase passes pi. The ramp is the mean slope; modes are averaged.
    """
    slopes = [area.of(slope).mean(axis=(0, 1)) for slope in gradients(obj)]  # (z,) rad/px
    rows, columns = (np.arange(n) for n in obj.shape[:2])
    ramp = rows[:, None, None] * slopes[0] + columns[None, :, None] * slopes[1]
    unit = obj / np.maximum(np.abs(obj), np.finfo(float).tiny)
    factors = area.of((unit * np.exp(-1j * ramp)[..., None]).mean(axis=3))
    factors = factors / np.maximum(np.abs(factors), np.finfo(float).tiny)
    mean = factors.mean(axis=(0, 1))
    return factors * np.exp(-1j * np.angle(mean))


def gradients(obj: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(y, x, z) derivatives of the phase along y and x, rad/px, without the jumps of 2 pi."""
    found = []
    for axis in (0, 1):
        ahead, behind = np.roll(obj, -1, axis), np.roll(obj, 1, axis)
        found.append(np.angle(ahead * behind.conj()).mean(axis=3) / 2)
    return found[0], found[1]


def difference(obj: np.ndarray, reference: np.ndarray, *, area: Area, lowpass_px: float = 0.0) -> np.ndarray:
    """(y', x', z) difference of the phases of two objects inside an area, rad, without what is undetermined.

    Parameters
    ----------
    obj, reference : (y, x, z, modes)
    lowpass_px : standard deviation of a Gaussian that smooths the difference first
    """
    raw = np.angle(obj * reference.conj()).mean(axis=3)  # no jumps of 2 pi: differences are small
    slopes = gradients(reference)
    if lowpass_px > 0:
        width = (lowpass_px, lowpass_px, 0)
        raw, slopes = gaussian_filter(raw, width), tuple(gaussian_filter(slope, width) for slope in slopes)
    change, (slope_y, slope_x) = area.of(raw), (area.of(slope) for slope in slopes)
    shift = _shift(change, slope_y, slope_x)
    change = change - shift[0] * slope_y - shift[1] * slope_x
    return np.stack([without_ramp(change[:, :, z]) for z in range(change.shape[2])], axis=2)


def without_ramp(image: np.ndarray) -> np.ndarray:
    """An image (y, x) without its mean and its linear ramp (least squares)."""
    basis = _ramps(image.shape)
    coefficients, *_ = np.linalg.lstsq(basis, image.ravel(), rcond=None)
    return image - (basis @ coefficients).reshape(image.shape)


def _ramps(shape: tuple[int, ...]) -> np.ndarray:
    y, x = np.indices(shape)
    return np.stack([np.ones(y.size), y.ravel() - y.mean(), x.ravel() - x.mean()], axis=1)


def _shift(change: np.ndarray, slope_y: np.ndarray, slope_x: np.ndarray) -> np.ndarray:
    """(2,) common shift [y, x] in pixels of all slices, from the slopes of their phases (least squares)."""
    rows = []
    for z in range(change.shape[2]):
        # each slice has its own ramp, so slopes and changes are compared without theirs
        parts = [without_ramp(array[:, :, z]).ravel() for array in (slope_y, slope_x, change)]
        rows.append(np.stack(parts, axis=1))
    table = np.concatenate(rows)
    return np.linalg.lstsq(table[:, :2], table[:, 2], rcond=None)[0]


def without_affine(change: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Changes (N, 2) of scan positions (N, 2) without their affine part: shift, scale, rotation and shear, which
    object and probe follow."""
    basis = np.concatenate([np.ones((len(positions), 1)), positions - positions.mean(axis=0)], axis=1)
    coefficients, *_ = np.linalg.lstsq(basis, change, rcond=None)
    return change - basis @ coefficients
