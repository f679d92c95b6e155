"""The bright-field disk of a mean pattern, and the electrons that the specimen scattered out of and within it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import label

_RIM = 1.1
"""The dark field begins at this many radii."""


@dataclass(frozen=True, kw_only=True)
class DiskFacts:
    """The bright-field disk of a pattern.

    Attributes
    ----------
    centre_px : [ky, kx]
    radius_px : radius of a circle of the same area, in pixels along kx
    radius_1A : 1/Å
    offset_px : distance of its centre from the zero frequency at n//2
    edge_share : ratio of the radius to the distance from the centre to the nearest edge of the detector
    dark : fraction of the counts outside 1.1 radii
    inside, outside : (ky, kx) bool, within 0.9 radii, and beyond 1.1 radii
    """

    centre_px: tuple[float, float]
    radius_px: float
    radius_1A: float
    offset_px: float
    edge_share: float
    dark: float
    inside: np.ndarray
    outside: np.ndarray

    @property
    def rim_1A(self) -> float:
        """Radius from which on the dark field begins, 1/Å."""
        return _RIM * self.radius_1A


def disk_facts(pattern: np.ndarray, pixel_1A: tuple[float, float]) -> DiskFacts | None:
    """The disk of a mean pattern (ky, kx): the largest connected region above half the mean of the bright pixels.

    Single hot pixels are clipped first. None for an empty pattern.
    """
    rank = min(pattern.size - 1, max(9, pattern.size // 1000))
    high = np.partition(pattern, pattern.size - 1 - rank, axis=None)[pattern.size - 1 - rank]
    clipped = np.clip(pattern, 0, high)
    if not clipped.any():
        return None
    # Participation ratio: the number of bright pixels if all were equal. It needs no threshold.
    area = clipped.sum() ** 2 / (clipped**2).sum()
    bright = clipped > 0.5 * clipped.sum() / area
    if not bright.any():  # numbers that are not finite
        return None
    spots, n_spots = label(bright)
    if n_spots > 1:
        bright = spots == 1 + int(np.argmax(np.bincount(spots.ravel())[1:]))
    ky, kx = np.nonzero(bright)
    centre = (float(ky.mean()), float(kx.mean()))
    radius_1A = math.sqrt(len(ky) * pixel_1A[0] * pixel_1A[1] / math.pi)
    edges = [(min(c, n - 1 - c) + 0.5) * p for c, n, p in zip(centre, pattern.shape, pixel_1A, strict=True)]
    rows = (np.arange(pattern.shape[0]) - centre[0]) * pixel_1A[0]
    columns = (np.arange(pattern.shape[1]) - centre[1]) * pixel_1A[1]
    r = np.hypot(rows[:, None], columns[None, :]) / radius_1A
    return DiskFacts(
        centre_px=centre,
        radius_px=radius_1A / pixel_1A[1],
        radius_1A=radius_1A,
        offset_px=math.hypot(*(c - n // 2 for c, n in zip(centre, pattern.shape, strict=True))),
        edge_share=radius_1A / min(edges),
        dark=float(clipped[r > _RIM].sum() / clipped.sum()),
        inside=r < 0.9,
        outside=r > _RIM,
    )


@dataclass(frozen=True)
class Scattering:
    """Electrons of a pattern that tell of the specimen, from the mean pattern and its variation over the scan.

    A weak object scatters a wave s out of a beam of amplitude a. In the dark field the intensity is |s|²; in the disk
    sqrt(I) = a + Re(s a*/|a|) varies with the scan, by half of the mean |s|².

    Attributes
    ----------
    dark : (ky, kx) mean counts outside 1.1 radii of the disk, 0 inside
    bright : sum over the disk of the variance of sqrt(I), without that of the noise
    """

    dark: np.ndarray
    bright: float

    @classmethod
    def of(
        cls, mean: np.ndarray, variance: np.ndarray, outside: np.ndarray, noise: float = 1.0
    ) -> Scattering:
        """From mean (ky, kx) and variance (ky, kx) over the scan; the noise has the variance ``noise`` times mean."""
        inside = ~outside & (mean > 0)
        # d sqrt(I) = dI/(2 sqrt(I))
        signal = float(((variance - noise * mean)[inside] / (4 * mean[inside])).sum())
        return cls(np.where(outside, np.maximum(mean, 0), 0.0), max(signal, 0.0))

    @property
    def total(self) -> float:
        """Counts that were scattered, into the dark field or within the disk."""
        return float(self.dark.sum()) + 2 * self.bright
