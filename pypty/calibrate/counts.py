"""The counts themselves: the ceiling of the counter, the gain, the total of each pattern."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import median_filter

from pypty.calibrate.pixels import CHUNK_BYTES, PixelSums, is_noisy
from pypty.data.sources import PatternSource

_COUNTERS = tuple(2**bits - 1 for bits in (8, 10, 11, 12, 13, 14, 15, 16, 24, 31, 32))
_NEAR = 0.05  # values within this fraction below the largest are those that a pile-up is compared with
_LEVELS = 2.5  # counts below the largest value that are compared at least
_PILE = 1.4  # times as many values at the largest as at each value just below it; without a ceiling there are fewer
_PILE_COUNTER = 1.2  # the same, if the largest value is that of a counter
_FEWEST, _FEWEST_COUNTER = 10, 3  # values at the ceiling
_LOWEST_CEILING = 8  # counts; below it many values are equal to the largest by chance
_FULL = 0.9  # of the good pixels; a pattern with more of them at the limit of its type is full, whatever the noise
_OUTLYING = 8.0  # robust standard deviations of the total of a pattern
_FACTOR = 1.5  # between the total of an outlying pattern and the median of those around it
_WHOLE = 2e-3  # largest distance from a whole number of counts, for floats
_LARGEST_MULTIPLE = 100  # of one count, for floats: rounding hides the steps of larger values
_LOOKED_AT = 2**24  # values; enough to see that they are no multiples
_ELECTRONS = (0.5, 2.0)
"""Smallest variance over mean of counted electrons, in units of one count, over the pixels: its 10 % and its median."""


@dataclass(frozen=True)
class Ceiling:
    """The largest value of all good pixels, ``top``; how often it occurs, and how often values just below it.

    ``levels`` is the number of different counts that the values just below it could have.
    """

    top: float
    times: int
    below: int
    levels: float

    def is_reached(self, dtype: np.dtype) -> bool:
        """Whether values pile up at the largest one, as those of a full counter do."""
        if _ends_type(self.top, dtype):
            return True
        each = max(self.below / max(self.levels, 1.0), 1.0)
        if self.top in _COUNTERS and self.times >= _FEWEST_COUNTER and self.times > _PILE_COUNTER * each:
            return True
        return self.times >= _FEWEST and self.times > _PILE * each + 3 * math.sqrt(each)


def _ends_type(value: float, dtype: np.dtype) -> bool:
    """Whether an integer type holds no larger value."""
    return dtype.kind in "iu" and value == float(np.iinfo(dtype).max)


@dataclass(frozen=True)
class GoodCounts:
    """From the good pixels: ``totals`` (n,) of each pattern; ``saturated`` patterns (n,) and ``pixels`` (ky, kx) that
    reach the limit of the counter; ``share`` of the counts in those values; ``gain``, of which all values are multiples
    (None if they are not).
    """

    totals: np.ndarray
    saturated: np.ndarray
    pixels: np.ndarray
    share: float
    gain: float | None


def find_ceiling(
    source: PatternSource, indices: np.ndarray, sums: PixelSums, bad: np.ndarray
) -> Ceiling | None:
    """How often the largest value of the good pixels occurs; None without good pixels, or without noise.

    Whole patterns at the largest value of an integer type are a full counter without asking for noise: a simulation may
    be scaled to that value, but not on all pixels, and if all of them reach it there is none whose noise can be asked.
    """
    highest = sums.highest[~bad]
    if not len(highest):
        return None
    top = float(highest.max())
    counted = top >= _LOWEST_CEILING * sums.least and is_noisy(sums, bad)
    if not counted and not _ends_type(top, source.dtype):
        return None
    # Only pixels that come near the largest value are looked at again.
    low = top - max(_NEAR * top, _LEVELS * sums.least)
    near = np.argwhere(~bad & (sums.highest >= low))
    times = below = 0
    full = False
    for _, data in _pieces(source, indices):
        values = data[:, near[:, 0], near[:, 1]]
        at_top = (values == top).sum(axis=1)
        times += int(at_top.sum())
        full = full or bool((at_top > _FULL * len(highest)).any())
        below += int(((values >= low) & (values < top)).sum())
    return Ceiling(top, times, below, np.floor((top - low) / sums.least)) if counted or full else None


def _pieces(source: PatternSource, indices: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    step = max(1, CHUNK_BYTES // (16 * source.shape[1] * source.shape[2]))
    for start in range(0, len(indices), step):
        yield slice(start, start + step), source.read(indices[start : start + step])


def good_counts(
    source: PatternSource, indices: np.ndarray, sums: PixelSums, bad: np.ndarray, limit: float | None
) -> GoodCounts:
    """One more pass over the patterns, without the bad pixels."""
    n = len(indices)
    totals, patterns, pixels = np.zeros(n), np.zeros(n, bool), np.zeros(bad.shape, bool)
    steps, held = _Steps(source.dtype, sums.least), 0.0
    for part, raw in _pieces(source, indices):
        data = np.where(bad, np.zeros((), raw.dtype), np.nan_to_num(raw))
        totals[part] = data.sum(axis=(1, 2), dtype=np.float64)
        steps.add(data if limit is None else data[data < limit])
        if limit is not None:
            reached = data >= limit
            patterns[part] = reached.any(axis=(1, 2))
            pixels |= reached.any(axis=0)
            held += float(data[reached].sum(dtype=np.float64))
    whole = float(totals.sum())
    gain = steps.size if _is_counted(sums, bad, steps.size) else None
    return GoodCounts(totals, patterns, pixels, held / whole if whole > 0 else 0.0, gain)


class _Steps:
    """The step of which all values are multiples, or 0."""

    def __init__(self, dtype: np.dtype, least: float) -> None:
        self._whole = dtype.kind in "iu"
        self._least, self._divisor, self._seen = least, 0, 0
        self._fits = math.isfinite(least) and dtype.kind in "iuf"

    def add(self, values: np.ndarray) -> None:
        if not self._fits or self._divisor == 1 or self._seen > _LOOKED_AT:
            return
        self._seen += values.size
        different = np.unique(values)
        different = different[different > 0]
        if self._whole:
            self._divisor = math.gcd(self._divisor, *(int(v) for v in different))
        else:
            counts = different[different < _LARGEST_MULTIPLE * self._least] / self._least
            self._fits = bool((np.abs(counts - np.round(counts)) < _WHOLE * np.maximum(counts, 1)).all())

    @property
    def size(self) -> float:
        if not self._fits:
            return 0.0
        return float(self._divisor) if self._whole else self._least


def _is_counted(sums: PixelSums, bad: np.ndarray, step: float) -> bool:
    """Whether the scatter is that of electrons with ``step`` as one count: constant values are multiples, too."""
    lit = ~bad & (sums.mean * sums.n > 12 * sums.least)
    if step <= 0 or not lit.any():
        return False
    over = sums.variance[lit] / (sums.mean[lit] * step)
    return float(np.median(over)) > _ELECTRONS[0] and float(np.percentile(over, 10)) < _ELECTRONS[1]


def outlying(totals: np.ndarray, size: tuple[int, int], good: np.ndarray) -> np.ndarray:
    """(N,) patterns whose total differs from the local median by more than a factor and by more than the scatter."""
    if good.sum() < 4:
        return np.zeros(len(totals), bool)
    # Logarithms: a factor of 2 and of 1/2 are equally far.
    logs = np.log(np.where(good, totals, np.median(totals[good])))
    around = median_filter(logs.reshape(size), 5, mode="nearest").ravel()
    jump = logs - around
    # Median absolute deviation as a standard deviation, which the outliers themselves do not raise.
    spread = 1.4826 * float(np.median(np.abs(jump[good] - np.median(jump[good]))))
    return good & (np.abs(jump) > max(_OUTLYING * spread, np.log(_FACTOR)))
