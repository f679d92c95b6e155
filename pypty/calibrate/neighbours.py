"""How alike the patterns of neighbouring scan points are, from which the order of the scan follows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pypty.calibrate.measured import clean_chunks, pixel_weights
from pypty.experiment import Experiment

_BRIGHT = 0.05  # of the brightest pixels: those that bound the area that is divided into blocks
_BLOCKS = 12  # along each axis of that area
COMPONENTS = 8
"""Principal components of the patterns that are compared; the others hold mostly shot noise."""


def features(experiment: Experiment) -> np.ndarray:
    """(n, 8) of each scan point of the experiment: the strongest principal components of its pattern, of unit length.

    Patterns are summed in about 12 x 12 blocks of the bright area, divided by their total (a beam whose current drifts
    makes neighbours in time alike) and by the noise of each block. Patterns that are missing, or not in ``sequence``,
    are zero.
    """
    weights = pixel_weights(experiment)
    mean = np.nan_to_num(experiment.mean_pattern) * (weights > 0)
    label, n_blocks = _blocks(mean)
    sums = np.empty((experiment.n_patterns, n_blocks))
    for indices, patterns in clean_chunks(experiment, weights):
        for number, pattern in zip(indices, patterns.reshape(len(patterns), -1), strict=True):
            sums[number] = np.bincount(label, pattern, n_blocks)
    sums /= np.maximum(sums.sum(axis=1, keepdims=True), 1e-300)
    good = ~experiment.left_out
    middle = sums[good].mean(axis=0)
    noise = np.sqrt(np.maximum(middle, middle.max() * 1e-6))
    whitened = np.where(good[:, None], (sums - middle) / noise, 0.0)
    u, s, _ = np.linalg.svd(whitened, full_matrices=False)
    kept = np.where(good[:, None], (u * s)[:, :COMPONENTS], 0.0)
    length = np.linalg.norm(kept, axis=1, keepdims=True)
    return np.asarray(kept / np.where(length > 0, length, 1.0))


def _blocks(mean: np.ndarray) -> tuple[np.ndarray, int]:
    """(ky * kx,) block of each pixel, and the number of blocks; the last holds all pixels around the bright area."""
    bright = np.argwhere(mean > _BRIGHT * np.percentile(mean[mean > 0], 99))
    low, high = bright.min(axis=0), bright.max(axis=0) + 1
    grids = []
    for axis, n in enumerate(mean.shape):
        place = (np.arange(n) - low[axis]) * _BLOCKS // max(high[axis] - low[axis], 1)
        grids.append(np.where((place >= 0) & (place < _BLOCKS), place, -1))
    y, x = grids[0][:, None], grids[1][None, :]
    label = np.where((y >= 0) & (x >= 0), y * _BLOCKS + x, _BLOCKS**2)
    return label.ravel(), _BLOCKS**2 + 1


@dataclass(frozen=True)
class Likeness:
    """Mean likeness of neighbours, -1 to 1, under one order of the scan.

    Attributes
    ----------
    along : of neighbours in a line of the beam
    across : (lines - 1,) of each line and the next, point by point
    """

    along: float
    across: np.ndarray

    @property
    def mean_across(self) -> float:
        return float(np.nanmean(self.across)) if len(self.across) else 0.0


def likeness(kept: np.ndarray, points: np.ndarray) -> Likeness:
    """Likeness of neighbours on a raster.

    Parameters
    ----------
    kept : (n, components) :func:`features` of the stored patterns
    points : (lines, points in a line) number of the stored pattern, -1 where there is none
    """
    here = points >= 0
    values = np.where(here[..., None], kept[points], 0.0)  # (lines, points, components)
    along = here[:, 1:] & here[:, :-1]
    across = here[1:] & here[:-1]
    products = (values[:, 1:] * values[:, :-1]).sum(axis=-1)
    sides = (values[1:] * values[:-1]).sum(axis=-1)
    pairs = across.sum(axis=1)
    rows = np.where(pairs > 0, (sides * across).sum(axis=1) / np.maximum(pairs, 1), np.nan)
    return Likeness(float((products * along).sum() / max(along.sum(), 1)), rows)


def odds(first: np.ndarray, second: np.ndarray, paired: bool) -> float:
    """Difference of two means of lines, in standard errors: how much better the first order is than the second."""
    if paired:
        differences = first - second
        differences = differences[np.isfinite(differences)]
        n, spread = len(differences), float(np.std(differences)) if len(differences) else 0.0
        error = spread / np.sqrt(max(n - 1, 1))
        return float(differences.mean() / max(error, 1e-9)) if n else 0.0
    errors = [
        float(np.nanstd(part)) / np.sqrt(max(np.isfinite(part).sum() - 1, 1)) for part in (first, second)
    ]
    return float((np.nanmean(first) - np.nanmean(second)) / max(np.hypot(*errors), 1e-9))
