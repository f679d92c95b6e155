"""Statistics of a sample of patterns: counts, hot and dead pixels, saturation, variation, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import maximum_filter, minimum_filter

from pypty.data.weights import DetectorWeights
from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.sequences import used_at_any_epoch

LARGEST_BYTES = 128 * 2**20  # of all patterns of the sample
CHUNK_BYTES = 16 * 2**20  # in memory at once
MOST_PATTERNS = 4096  # enough for counts and bad pixels; they are evenly spaced
_HOT = 3.0  # times the brightest neighbour
_SIGMAS = 6.0  # above the brightest neighbour
_DEAD_COUNTS = 30.0  # of the dimmest neighbour, in all patterns of the sample
_EMPTY = 0.1  # fraction of the median counts
_LEAST_SATURATED = 10  # number of values equal to the maximum
_SATURATED_COUNTS = 20  # a smaller maximum is not the limit of a counter


@dataclass(frozen=True, kw_only=True)
class PatternSample:
    """Statistics of evenly spaced patterns, after flip, shift and binning, without padding.

    Attributes
    ----------
    n, n_all : number of patterns in the sample, and in total
    totals : (n,) counts of each pattern
    mean, variance : (ky, kx) over these patterns
    hot, dead : (ky, kx) bool; pixels far brighter than their neighbours, and pixels without counts beside bright ones
    empty : number of patterns with less than a tenth of the median counts
    saturated : fraction of the values that equal the largest value, if that value is suspiciously frequent; else 0
    largest : largest value as stored
    whole : whether all values are whole numbers
    """

    n: int
    n_all: int
    totals: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    hot: np.ndarray
    dead: np.ndarray
    empty: int
    saturated: float
    largest: float
    whole: bool


def look(setup: Setup) -> PatternSample:
    """Read up to 4096 patterns, or 128 MiB of them, in chunks of 16 MiB."""
    source, settings = setup.source, setup.settings
    assert source is not None
    used = used_at_any_epoch(settings, source.shape[0])
    pattern_bytes = 8 * source.shape[1] * source.shape[2]  # as float64, whatever the stored dtype
    n = int(min(len(used), MOST_PATTERNS, max(16, LARGEST_BYTES // pattern_bytes)))
    chosen = used[np.unique(np.linspace(0, len(used) - 1, n).astype(int))]
    weights, preprocess = DetectorWeights(settings["detector_mask"]), setup.preprocess.unpadded
    shape = preprocess.pattern_shape((source.shape[1], source.shape[2]))
    total, squares, counting = np.zeros(shape), np.zeros(shape), np.zeros(shape, bool)
    sums, peaks, whole = [], _Peaks(), True
    step = max(1, CHUNK_BYTES // pattern_bytes)
    for start in range(0, len(chosen), step):
        indices = chosen[start : start + step]
        stored = source.read(indices)
        raw = weights.blank(stored, indices)
        peaks.add(raw)
        whole = whole and (raw.dtype.kind in "iub" or bool((raw == np.round(raw)).all()))
        mask = weights.of(stored, indices)
        seen = np.ones(shape) if mask is None else preprocess.weights(mask)
        counting |= (seen.reshape(-1, *shape) > 0).any(axis=0)  # pixels with a weight in at least one pattern
        data = preprocess.patterns(raw).astype(float) * setup.multiplier
        sums.append(data.sum(axis=(1, 2)))
        total += data.sum(axis=0)
        squares += (data**2).sum(axis=0)
    totals, n = np.concatenate(sums), len(chosen)
    mean = total / n
    hot, dead = bad_pixels(mean, counting, n)
    empty = int((totals < _EMPTY * np.median(totals)).sum())
    variance = np.maximum(squares / n - mean**2, 0)
    return PatternSample(
        n=n,
        n_all=len(used),
        totals=totals,
        mean=mean,
        variance=variance,
        hot=hot,
        dead=dead,
        empty=empty,
        saturated=peaks.saturated(),
        largest=peaks.largest,
        whole=whole,
    )


def bad_pixels(mean: np.ndarray, counting: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(hot, dead) pixels (ky, kx) of the mean of ``n`` patterns.

    Hot: more than three times every neighbour, and six standard deviations above that. Dead: no counts in any pattern,
    while every neighbour has 30 or more.
    """
    if min(mean.shape) < 3:
        return np.zeros(mean.shape, bool), np.zeros(mean.shape, bool)
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    around = maximum_filter(mean, footprint=ring, mode="nearest")
    noise = np.sqrt((around + 1 / n) / n)  # Poisson error of the mean; at least that of a single count
    hot = (mean > _HOT * around + _SIGMAS * noise) & counting
    lowest = minimum_filter(np.where(counting, mean, 0), footprint=ring, mode="nearest")
    return hot, (mean == 0) & counting & (lowest * n >= _DEAD_COUNTS)


class _Peaks:
    """Counts the largest stored value, and values just below it.

    Counts of a saturated detector pile up at one value, which is far more frequent than the values just below it.
    """

    def __init__(self) -> None:
        self.largest = -np.inf
        self._times, self._near, self._values, self._limit = 0, 0, 0, np.inf

    def add(self, raw: np.ndarray) -> None:
        largest = float(raw.max())
        if raw.dtype.kind in "iu":
            self._limit = float(np.iinfo(raw.dtype).max)
        if largest > self.largest:
            # The former largest value is now just below the new one, or too small to count as such.
            if 0.9 * largest > self.largest:
                self._near = 0
            else:
                self._near += self._times
            self.largest, self._times = largest, 0
        top = raw[raw >= 0.9 * self.largest]
        times = int((top == self.largest).sum())
        self._times += times
        self._near += top.size - times
        self._values += raw.size

    def saturated(self) -> float:
        often = self._times >= _LEAST_SATURATED and self._times > 4 * self._near
        full = self.largest >= self._limit
        if self._times and (full or (often and self.largest >= _SATURATED_COUNTS)):
            return self._times / self._values
        return 0.0
