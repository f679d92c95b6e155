"""Statistics of a sample of patterns: counts, variation, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pypty.data.weights import DetectorWeights
from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.sequences import used_at_any_epoch

LARGEST_BYTES = 128 * 2**20  # of all patterns of the sample
CHUNK_BYTES = 16 * 2**20  # in memory at once
MOST_PATTERNS = 4096  # enough for counts and bad pixels; they are evenly spaced
_EMPTY = 0.1  # fraction of the median counts


@dataclass(frozen=True, kw_only=True)
class PatternSample:
    """Statistics of evenly spaced patterns, after flip, shift and binning, without padding.

    Attributes
    ----------
    n, n_all : number of patterns in the sample, and in total
    totals : (n,) counts of each pattern
    mean, variance : (ky, kx) over these patterns
    bad : (ky, kx) bool; pixels that contain a bad pixel of the detector
    empty : number of patterns with less than a tenth of the median counts
    whole : whether all values are whole numbers
    """

    n: int
    n_all: int
    totals: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    bad: np.ndarray
    empty: int
    whole: bool


def look(setup: Setup, good: np.ndarray | None = None) -> PatternSample:
    """Read up to 4096 patterns, or 128 MiB of them, in chunks of 16 MiB.

    Parameters
    ----------
    good : (ky, kx) weights as stored, 0 for bad pixels; None = all are good
    """
    source, settings = setup.source, setup.settings
    assert source is not None
    used = used_at_any_epoch(settings, source.shape[0])
    pattern_bytes = 8 * source.shape[1] * source.shape[2]  # as float64, whatever the stored dtype
    n = int(min(len(used), MOST_PATTERNS, max(16, LARGEST_BYTES // pattern_bytes)))
    chosen = used[np.unique(np.linspace(0, len(used) - 1, n).astype(int))]
    weights, preprocess = DetectorWeights(settings["detector_mask"]), setup.preprocess.unpadded
    shape = preprocess.pattern_shape((source.shape[1], source.shape[2]))
    total, squares = np.zeros(shape), np.zeros(shape)
    sums, whole = [], True
    step = max(1, CHUNK_BYTES // pattern_bytes)
    for start in range(0, len(chosen), step):
        indices = chosen[start : start + step]
        stored = source.read(indices)
        raw = weights.blank(stored, indices)
        whole = whole and (raw.dtype.kind in "iub" or bool((raw == np.round(raw)).all()))
        data = preprocess.patterns(raw).astype(float) * setup.multiplier
        sums.append(data.sum(axis=(1, 2)))
        total += data.sum(axis=0)
        squares += (data**2).sum(axis=0)
    totals, n = np.concatenate(sums), len(chosen)
    mean = total / n
    empty = int((totals < _EMPTY * np.median(totals)).sum())
    variance = np.maximum(squares / n - mean**2, 0)
    return PatternSample(
        n=n,
        n_all=len(used),
        totals=totals,
        mean=mean,
        variance=variance,
        bad=np.zeros(shape, bool) if good is None else preprocess.weights(good) <= 0,
        empty=empty,
        whole=whole,
    )
