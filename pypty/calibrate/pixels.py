"""Statistics of each detector pixel over the patterns, and which pixels do not count electrons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt, median_filter, rank_filter
from scipy.ndimage import label as find_regions

from pypty.calibrate.gaps import dark_gaps, level_of_ring
from pypty.data.sources import PatternSource
from pypty.errors import DataError

CHUNK_BYTES = 64 * 2**20  # of patterns in memory, with their float64 copies
_RING = np.ones((5, 5), bool)
_RING[2, 2] = False
_RING.setflags(write=False)
_BRIGHTEST, _DARKEST = 4, 4
"""Rank of the neighbour that a pixel is compared with: a few neighbours may be bad, too, and the edge of the disk is no
defect.
"""
_HOT, _DEAD = 1.5, 0.35  # times the bright or dim neighbour
_SIGNIFICANT = 6.0  # standard errors; a smaller limit gives false alarms among 1e4 to 1e6 pixels
_RARE = 4.0  # counts in all patterns, which neighbours may have had although they counted nothing
_STUCK = 0.02  # fraction of the usual variance
_ROUNDS = 3  # of tests, each without the bad pixels of the one before
_FEWEST = 4  # patterns that are needed for a variance
ZEROS = 12.0
"""A pixel without counts is dead if at least this many are expected (chance e^-12 = 6e-6)."""
_NOISY = 0.2
"""Variance over mean, in units of one count, above which the data have the noise of counted electrons."""
_ALWAYS = 0.5  # fraction of the patterns in which a pixel that is no pixel holds its marker
_MARKERS = (2.0**16 - 1, 2.0**32 - 1, 2.0**32, -1.0)  # 2^32 - 1 is rounded to 2^32 in single precision
"""Values that detectors write into pixels that do not count, besides the largest of the file's type and NaN."""


@dataclass(frozen=True, kw_only=True)
class PixelSums:
    """Statistics of each pixel (ky, kx) over the n finite patterns; mean and variance without its highest value.

    ``least``, the smallest positive value of all, is taken as one count; ``finite`` is (N,) bool, for the patterns that
    were looked at; ``marked`` is (ky, kx) bool, pixels that hold a marker (2^32 - 1, 2^16 - 1, -1, NaN) instead of
    counts; ``has_nan`` those of them that are not finite.
    """

    mean: np.ndarray
    variance: np.ndarray
    n: int
    highest: np.ndarray
    least: float
    finite: np.ndarray
    marked: np.ndarray
    has_nan: np.ndarray


def survey_pixels(source: PatternSource, indices: np.ndarray) -> PixelSums:
    """One pass over the patterns with these indices, as stored.

    Raises
    ------
    DataError
        Fewer than four patterns are finite, or there are no counts.
    """
    _, ny, nx = source.shape
    total, square, highest = np.zeros((ny, nx)), np.zeros((ny, nx)), np.full((ny, nx), -np.inf)
    lowest, not_finite = np.full((ny, nx), np.inf), np.zeros((ny, nx), int)
    markers = _markers(source.dtype)
    held = np.zeros((len(markers), ny, nx), int)  # how often each pixel holds each marker
    finite, least = np.zeros(len(indices), bool), np.inf
    step = max(1, CHUNK_BYTES // (16 * ny * nx))
    for start in range(0, len(indices), step):
        data = source.read(indices[start : start + step]).astype(np.float64)
        # A few NaN are bad pixels; a pattern that is NaN for the most part is a bad pattern.
        good = np.isfinite(data).mean(axis=(1, 2)) > 0.5
        finite[start : start + step] = good
        data = data[good]
        not_finite += (~np.isfinite(data)).sum(axis=0)
        data = np.nan_to_num(data, nan=0.0, posinf=0.0, neginf=0.0)
        for number, marker in enumerate(markers):
            here = data == marker
            held[number] += here.sum(axis=0)
            data[here] = 0.0
        total += data.sum(axis=0)
        square += (data**2).sum(axis=0)
        least = float(np.min(data, where=data > 0, initial=least))
        if len(data):
            highest, lowest = np.maximum(highest, data.max(axis=0)), np.minimum(lowest, data.min(axis=0))
    used = int(finite.sum())
    marked = (not_finite > 0) | (held > _ALWAYS * used).any(axis=0)
    marked |= (lowest == highest) & (highest < 0)  # the same negative number in every pattern
    # A value of a pixel that counts otherwise is that of a full counter, and no marker.
    for number, marker in enumerate(markers):
        times = np.where(marked, 0, held[number])
        if times.any():
            total, square = total + times * marker, square + times * marker**2
            highest = np.where(times > 0, np.maximum(highest, marker), highest)
    total, square, highest = (np.where(marked, 0.0, part) for part in (total, square, highest))
    if used < _FEWEST or not total.any():
        raise DataError(
            f"{source.name}: {used} of {len(indices)} patterns are finite and their counts sum to {total.sum():g}; at "
            f"least {_FEWEST} patterns with counts are needed to distinguish good from bad pixels"
        )
    # Without the highest value of each pixel: a single cosmic ray must not make a hot pixel.
    mean = (total - highest) / (used - 1)
    square_mean = (square - highest**2) / (used - 1)
    return PixelSums(
        mean=mean,
        variance=np.maximum(square_mean - mean**2, 0),
        n=used,
        highest=highest,
        least=least,
        finite=finite,
        marked=marked,
        has_nan=not_finite > 0,
    )


def _markers(dtype: np.dtype) -> tuple[float, ...]:
    """The values of :data:`_MARKERS` that this type can hold, and its largest one."""
    if dtype.kind not in "iu":
        return _MARKERS if dtype.kind == "f" else ()
    limits = np.iinfo(dtype)
    fitting = (*_MARKERS, float(limits.max))
    return tuple(sorted({m for m in fitting if limits.min <= m <= limits.max}))


def bad_pixels(sums: PixelSums, known: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ky, kx) hot, dead, stuck; ``known`` pixels are not judged."""
    scatter = np.sqrt(sums.variance)
    # Mean of a pixel with a single count: a smaller error cannot be resolved where the neighbours counted nothing.
    quantum = sums.least / sums.n
    error = np.maximum(median_filter(scatter, footprint=_RING, mode="mirror") / np.sqrt(sums.n), quantum)
    dark = sums.highest == 0
    gaps = dark_gaps(np.where(known, 0, sums.mean), dark, known, ZEROS * quantum)
    hot, dead, unknown = np.zeros(known.shape, bool), gaps.copy(), known | dark
    # Masked and dark pixels are replaced by the nearest lit one, so that an edge beside a gap is not dead. A hot pixel
    # in the dark would be the nearest one of all its neighbours: for it only masked pixels and gaps are replaced.
    _, (y, x) = distance_transform_edt(unknown, return_indices=True)
    mean = sums.mean[y, x]
    shown = np.where(known | gaps, mean, sums.mean)
    for _ in range(_ROUNDS):  # bad pixels are replaced by the median, and their neighbours are tested again
        bright = rank_filter(shown, -_BRIGHTEST, footprint=_RING, mode="mirror")
        dim = rank_filter(mean, _DARKEST - 1, footprint=_RING, mode="mirror")
        # Poisson error where the neighbours hardly count
        rare = np.sqrt((np.maximum(bright, 0) + _RARE * quantum) * quantum)
        hot |= ~unknown & (shown > _HOT * bright) & (shown - bright > _SIGNIFICANT * np.maximum(error, rare))
        dead |= ~unknown & (mean < _DEAD * dim) & (dim - mean > _SIGNIFICANT * error)
        mean, shown = (
            np.where(hot | dead, median_filter(part, footprint=_RING, mode="mirror"), part)
            for part in (mean, shown)
        )
    hot = _few_together(hot)
    return hot, dead & ~hot, _stuck(sums, known | dead, quantum)


def _stuck(sums: PixelSums, not_judged: np.ndarray, quantum: float) -> np.ndarray:
    """(ky, kx) pixels that hardly vary although they hold counts, which vary from pattern to pattern."""
    poisson = sums.mean * sums.least  # variance of counted electrons
    usual = np.minimum(median_filter(sums.variance, footprint=_RING, mode="mirror"), poisson)
    lit = (sums.mean > ZEROS * quantum) & ~not_judged
    # Neighbours may be stuck, too; simulated data without noise do not vary anywhere.
    return lit & (sums.variance < _STUCK * (poisson if is_noisy(sums, not_judged) else usual))


def is_noisy(sums: PixelSums, not_judged: np.ndarray) -> bool:
    """Whether most pixels scatter as counted electrons do; simulated data may be without noise.

    Pixels that reach the largest value of all are not asked: a counter that is always full does not scatter.
    """
    lit = (sums.mean * sums.n > ZEROS * sums.least) & ~not_judged
    lit &= sums.highest < sums.highest[~not_judged].max(initial=0.0)
    return bool(lit.any()) and float(np.median(sums.variance[lit] / (sums.mean[lit] * sums.least))) > _NOISY


def _few_together(hot: np.ndarray, most: int = 8) -> np.ndarray:
    """Without regions of more pixels: a focused beam, and a Bragg spot, are brighter than all that is around them."""
    region, n = find_regions(hot, structure=np.ones((3, 3)))
    sizes = np.bincount(region.ravel(), minlength=n + 1)
    return hot & (sizes[region] <= most)


def expected_share(mean: np.ndarray, bad: np.ndarray, unused: np.ndarray) -> float:
    """Fraction of all counts that bad pixels would hold if they counted as good ones do.

    That is as much as the nearest good pixel, and no more than three quarters of the pixels at the same distance from
    the centre: beside the edge of a disk the nearest one says too much.

    Parameters
    ----------
    unused : (ky, kx) bool, further pixels that are not asked
    """
    asked = ~(bad | unused)
    if not asked.any() or not bad.any():
        return float(bad.any())
    _, (y, x) = distance_transform_edt(~asked, return_indices=True)
    expected = np.minimum(mean[y, x], level_of_ring(np.where(asked, mean, 0.0), ~asked, ~asked))
    lost, counted = float(expected[bad].sum()), float(mean[asked].sum())
    return lost / (lost + counted) if lost + counted > 0 else 0.0


def lines(bad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of which every pixel is bad."""
    return np.flatnonzero(bad.all(axis=1)), np.flatnonzero(bad.all(axis=0))
