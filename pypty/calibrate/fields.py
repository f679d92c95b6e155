"""Maps over the scan in one pass over the patterns: centres of mass, dark field, images of single pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.ndimage import correlate1d, gaussian_filter
from scipy.sparse import csr_array

from pypty.calibrate.shifts import PixelImages, mirror, turn
from pypty.direct_methods.numerics.com import centres_of_mass
from pypty.errors import DataError
from pypty.experiment import Experiment

_INNER = 0.6
"""Fraction of the disk's radius within which images of single pixels are used: there both side bands overlap the disk
for most frequencies.
"""
_DARK = 1.1  # radii of the disk beyond which counts belong to the dark field
_LARGEST_REGION = 192  # scan points along each axis, which limits memory and time
_MOST_PIXELS = 128  # images that are kept, each of the size of the scan
_DERIVATIVE = np.array([1 / 280, -4 / 105, 1 / 5, -4 / 5, 0, 4 / 5, -1 / 5, 4 / 105, -1 / 280])
_LOW_ORDER = np.array([-0.5, 0, 0.5])
_SMOOTH_STEPS = 0.7  # standard deviation in scan steps, against shot noise
_FEWEST_PIXELS = 3
_SMALLEST_SCAN = 6  # points along each axis


class Disk(Protocol):
    """Centre [y, x] and radius of the bright-field disk, px."""

    @property
    def centre(self) -> tuple[float, float]: ...
    @property
    def radius_px(self) -> float: ...


@dataclass(frozen=True)
class Maps:
    """Maps (sy, sx) over the scan, or over its centre if it is large.

    Attributes
    ----------
    com : (2, sy, sx) [y, x] centres of mass in px, without their mean
    dark : fraction of the counts outside the disk
    images : images formed by single bright-field pixels
    """

    com: np.ndarray
    dark: np.ndarray
    images: PixelImages


def read_maps(experiment: Experiment, edge: Disk, weights: np.ndarray) -> Maps:
    """One pass over the patterns of the centre of the scan, at most 192 x 192 points.

    Raises
    ------
    DataError
        The scan is smaller than 6 x 6 points.
    """
    if min(experiment.scan_size) < _SMALLEST_SCAN:
        raise DataError(
            f"the scan has {experiment.scan_size} points; at least 6 x 6 points are needed to find its orientation"
        )
    indices, shape = _centre_of_scan(experiment.scan_size)
    y, x = np.indices(experiment.pattern_shape)
    distance = np.hypot(y - edge.centre[0], x - edge.centre[1])
    good = weights > 0
    inner = (distance <= max(_INNER * edge.radius_px, 1.5)) & good
    dark = (distance > _DARK * edge.radius_px) & good
    if inner.sum() < _FEWEST_PIXELS:
        raise DataError(
            f"{int(inner.sum())} pixels in the middle of the bright-field disk are not masked; at least "
            f"{_FEWEST_PIXELS} are needed to compare their images"
        )
    label, k = _blocks(np.argwhere(inner), np.array(edge.centre))
    n_inner = len(label)
    # (K, inner pixels) of ones: sums the pixels of each block
    gather = csr_array((np.ones(n_inner, np.float32), (label, np.arange(n_inner))), (len(k), n_inner))
    images = np.zeros((len(k), len(indices)), np.float32)
    outside, com = np.zeros(len(indices)), np.zeros((len(indices), 2))
    step = max(1, 2**26 // (4 * y.size))  # 64 MiB of float32 patterns at a time
    for start in range(0, len(indices), step):
        part = slice(start, start + step)
        patterns = np.where(good, experiment.patterns(indices[part]), np.float32(0))
        n = len(patterns)
        com[part] = centres_of_mass([(np.arange(n), patterns)], patterns.shape, origin=edge.centre)
        totals = patterns.sum(axis=(1, 2), dtype=np.float64)
        outside[part] = patterns[:, dark].sum(axis=1) / np.maximum(totals, 1e-300)
        images[:, part] = gather @ np.ascontiguousarray(patterns[:, inner].T)  # (inner, n) -> (K, n)
    means = images.mean(axis=1, keepdims=True)
    if not (means > 0).all():
        raise DataError(
            "pixels inside the bright-field disk never count anything; run pypty.calibrate.defects first"
        )
    field = com.T.reshape(2, *shape)  # (N, 2) -> (2, sy, sx)
    return Maps(
        field - field.mean(axis=(1, 2), keepdims=True),
        outside.reshape(shape),
        PixelImages.from_images((images / means).reshape(-1, *shape), k),
    )


def _centre_of_scan(size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    rows, columns = (
        np.arange(
            max(0, (n - _LARGEST_REGION) // 2), max(0, (n - _LARGEST_REGION) // 2) + min(n, _LARGEST_REGION)
        )
        for n in size
    )
    return (rows[:, None] * size[1] + columns[None, :]).ravel(), (len(rows), len(columns))


def _blocks(pixels: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(P,) block of each pixel, and (K, 2) mean position of each block relative to the centre; about 128 blocks at
    most.
    """
    size = int(np.ceil(np.sqrt(len(pixels) / _MOST_PIXELS)))
    coarse = pixels // size
    _, label = np.unique(coarse, axis=0, return_inverse=True)
    label = label.ravel()
    count = np.bincount(label)
    k = np.stack([np.bincount(label, pixels[:, axis] - centre[axis]) / count for axis in (0, 1)], axis=1)
    return label, k


def curl_angle(com: np.ndarray, flip: bool) -> tuple[float, float]:
    """(angle_deg modulo 180, :func:`free_of_curl` at that angle) of the detector's rotation.

    Centres of mass are a gradient field in the frame of the scan, whatever the probe (Lazić, Bosch and
    Lazar, Ultramicroscopy 160 (2016) 265), so their curl vanishes there. The sum of squares of the curl is a quadratic
    form of (cos, sin) of the rotation, with a minimum in closed form. Derivatives are differences of the eighth order:
    lower orders underestimate steep gradients along the axes, which rotates the field of a crystal.
    """
    curl, divergence = _derivatives(np.einsum("ij,jyx->iyx", mirror(flip), com))
    # Rotating the vectors by t mixes the two: curl' = cos t curl - sin t divergence. Its square is smallest where
    # a cos^2 t - 2 b sin t cos t + c sin^2 t is.
    a, b, c = (curl**2).sum(), (curl * divergence).sum(), (divergence**2).sum()
    angle = 0.5 * np.degrees(np.arctan2(2 * b, c - a))
    return float(angle), free_of_curl(com, flip, float(angle))


def free_of_curl(com: np.ndarray, flip: bool, angle_deg: float) -> float:
    """1 - curl^2/(curl^2 + divergence^2) of the field rotated into the frame of the scan: 1 for a gradient field, 0 for
    a pure vortex.
    """
    curl, divergence = _derivatives(np.einsum("ij,jk,kyx->iyx", turn(angle_deg), mirror(flip), com))
    whole = float((curl**2).sum() + (divergence**2).sum())
    return float((divergence**2).sum()) / whole if whole > 0 else 0.0


def attraction(maps: Maps, flip: bool, angle_deg: float) -> float:
    """Correlation, in [-1, 1], of the deflection of the beam with the gradient of the dark field.

    Atoms attract the beam and scatter it out of the disk. With the right orientation of a thin specimen the beam is
    deflected towards the stronger dark field; with an orientation that is wrong by half a turn, away from it. In a
    thick crystal the beam oscillates through the columns, and the sign depends on the thickness.
    """
    field = np.einsum("ij,jk,kyx->iyx", turn(angle_deg), mirror(flip), maps.com)
    field = np.stack([gaussian_filter(part, _SMOOTH_STEPS) for part in field])
    slope = np.stack(np.gradient(gaussian_filter(maps.dark - maps.dark.mean(), _SMOOTH_STEPS)))
    norm = float(np.sqrt((field**2).sum() * (slope**2).sum()))
    return float((field * slope).sum()) / norm if norm > 0 else 0.0


def _derivatives(com: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Curl and divergence of (2, sy, sx), cropped by half the length of the difference kernel on each side."""
    kernel = _DERIVATIVE if min(com.shape[1:]) >= 16 else _LOW_ORDER
    rim = len(kernel) // 2
    smooth = [gaussian_filter(part, _SMOOTH_STEPS) for part in com]

    def along(values: np.ndarray, axis: int) -> np.ndarray:
        return correlate1d(values, kernel, axis=axis)[rim:-rim, rim:-rim]

    return along(smooth[0], 1) - along(smooth[1], 0), along(smooth[0], 0) + along(smooth[1], 1)
