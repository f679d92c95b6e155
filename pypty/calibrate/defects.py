"""Pixels and patterns that do not measure: hot, dead and stuck pixels, saturated, empty and outlying
patterns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt, median_filter, rank_filter
from scipy.ndimage import label as find_regions

from pypty.calibrate.measured import open_far_field
from pypty.calibrate.suggestion import Suggestion
from pypty.data.sources import PatternSource
from pypty.errors import DataError
from pypty.experiment import Experiment
from pypty.plots.calibration import plot_defects

_CHUNK_BYTES = 64 * 2**20
_RING = np.ones((5, 5), bool)
_RING[2, 2] = False
_RING.setflags(write=False)
_BRIGHTEST, _DARKEST = 4, 4
"""Rank among the neighbours that a pixel is compared with: a few of them may be bad, too, and edges are
real.
"""
_HOT, _DEAD = 1.5, 0.35
_SIGNIFICANT = 6.0
_STUCK = 0.02
_ROUNDS = 3
_OUTLYING = 8.0
_FACTOR = 1.5
_MANY_FRAMES = 0.2
_FEWEST = 4
_ZEROS = 12.0
"""Expected counts of a pixel that counted nothing, from which it is dead (chance 6e-6)."""
_DIM_RANK = 8
"""Of the 81 pixels of a 9 x 9 neighbourhood."""
_COUNTERS = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 15, 16, 24, 31, 32))


@dataclass(frozen=True, kw_only=True)
class _Sums:
    """Of each pixel (ky, kx) over the n finite patterns (N,); mean and variance without its highest value;
    the least positive value of all is taken to be one count."""

    mean: np.ndarray
    variance: np.ndarray
    n: int
    highest: np.ndarray
    least: float
    finite: np.ndarray


def defects(params: Mapping[str, Any], saturation: float | None = None) -> Suggestion:
    """A detector mask and a sequence without pixels and patterns that do not measure.

    A pixel is *hot* if its mean is above 1.5 times the fourth brightest of its 24 neighbours, *dead* if
    below 0.35 of the fourth darkest, or without any count where its neighbours expect more than none,
    *stuck* if it hardly varies while its neighbours do; always by more than six standard errors, estimated
    from the scatter of the neighbours over the scan. Ranks, not means: the edge of a disk is no defect. A
    pattern is *saturated* if a good pixel reaches the limit of the counter, *empty* or *outlying* if its
    total is zero or jumps from the patterns around it in the scan.

    Parameters
    ----------
    params : parameters of the data; pixels are those of the detector as stored, before flip, shift and
        binning
    saturation : count at which a pixel is saturated; None = the largest value of all, if it is that of an
        integer type or counter (2^8 - 1, 2^12 - 1, ...)

    Returns
    -------
    Suggestion
        ``detector_mask`` (ky, kx) float, 0 or 1 times a given one, if there are bad pixels; ``sequence`` (of
        the given one), if there are bad patterns. Values: ``hot``, ``dead``, ``stuck``, ``saturated_pixels``
        ((n, 2) [ky, kx]), ``saturated``, ``empty``, ``outlying``, ``not_finite`` (indices of patterns).

    Raises
    ------
    DataError
        Fewer than four patterns are left, or all counts are zero.
    ParameterError
        The data are not diffraction patterns.
    """
    experiment = open_far_field(params, "defects")
    try:
        sums = _survey(experiment.source)
        given = experiment.settings["detector_mask"]
        known = (
            given <= 0
            if isinstance(given, np.ndarray) and given.ndim == 2
            else np.zeros(sums.mean.shape, bool)
        )
        hot, dead, stuck = _bad_pixels(sums, known)
        bad = hot | dead | stuck | known
        limit = _limit(experiment.source.dtype, sums.highest[~bad], saturation)
        totals, saturated, pixels = _good_counts(experiment.source, bad, limit)
    finally:
        experiment.source.close()
    if saturated.mean() <= _MANY_FRAMES:
        pixels[:] = False  # few patterns: leave them out
    else:
        saturated[:] = False  # many: leave out the pixels instead
    empty = sums.finite & (totals <= 0)
    outlying = _outlying(totals, experiment.scan_size, sums.finite & ~empty)
    left_out = saturated | empty | outlying | ~sums.finite
    values = {
        "hot": np.argwhere(hot),
        "dead": np.argwhere(dead),
        "stuck": np.argwhere(stuck & ~hot & ~dead),
        "saturated_pixels": np.argwhere(pixels),
        "saturated": np.flatnonzero(saturated),
        "empty": np.flatnonzero(empty),
        "outlying": np.flatnonzero(outlying),
        "not_finite": np.flatnonzero(~sums.finite),
    }
    found = hot | dead | stuck | pixels
    suggested = _suggested(experiment, found, left_out, given)
    figure = plot_defects(
        sums.mean,
        hot=values["hot"],
        dead=values["dead"],
        other=np.argwhere((stuck & ~hot & ~dead) | pixels),
        totals=totals,
        scan_size=experiment.scan_size,
        left_out=np.flatnonzero(left_out),
    )
    return Suggestion(suggested, values, _text(values, limit, sums.mean.size, len(totals)), figure)


def _survey(source: PatternSource) -> _Sums:
    """One pass over the patterns as stored."""
    n, ny, nx = source.shape
    total, square, highest = np.zeros((ny, nx)), np.zeros((ny, nx)), np.full((ny, nx), -np.inf)
    finite, least = np.zeros(n, bool), np.inf
    step = max(1, _CHUNK_BYTES // (16 * ny * nx))
    for start in range(0, n, step):
        data = source.read(np.arange(start, min(start + step, n))).astype(np.float64)
        good = (
            np.isfinite(data).mean(axis=(1, 2)) > 0.5
        )  # single NaN are the pixel's fault, many the pattern's
        finite[start : start + step] = good
        data = np.nan_to_num(data[good], nan=0.0, posinf=0.0, neginf=0.0)
        total += data.sum(axis=0)
        square += (data**2).sum(axis=0)
        least = float(np.min(data, where=data > 0, initial=least))
        if len(data):
            highest = np.maximum(highest, data.max(axis=0))
    used = int(finite.sum())
    if used < _FEWEST or not total.any():
        raise DataError(
            f"{source.name}: {used} of {n} patterns are finite and their counts sum to {total.sum():g}; at least "
            f"{_FEWEST} patterns with counts are needed to tell good pixels from bad ones"
        )
    # Without the highest value of each pixel: one cosmic ray makes no hot pixel.
    mean = (total - highest) / (used - 1)
    square_mean = (square - highest**2) / (used - 1)
    return _Sums(
        mean=mean,
        variance=np.maximum(square_mean - mean**2, 0),
        n=used,
        highest=highest,
        least=least,
        finite=finite,
    )


def _bad_pixels(sums: _Sums, known: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ky, kx) hot, dead, stuck."""
    scatter = np.sqrt(sums.variance)
    # Where the neighbours counted nothing, one count is no surprise.
    quantum = sums.least / sums.n
    error = np.maximum(median_filter(scatter, footprint=_RING, mode="mirror") / np.sqrt(sums.n), quantum)
    hot, dead = np.zeros(known.shape, bool), np.zeros(known.shape, bool)
    unknown = known | (sums.highest == 0)
    # Neighbours that say nothing stand for the nearest ones that do: beside a gap of the detector nothing is hot.
    _, (y, x) = distance_transform_edt(unknown, return_indices=True)
    mean = sums.mean[y, x]
    for _ in range(_ROUNDS):  # neighbours of a bad pixel are judged again without it
        bright = rank_filter(mean, -_BRIGHTEST, footprint=_RING, mode="mirror")
        dim = rank_filter(mean, _DARKEST - 1, footprint=_RING, mode="mirror")
        middle = median_filter(mean, footprint=_RING, mode="mirror")
        hot |= ~unknown & (mean > _HOT * bright) & (mean - bright > _SIGNIFICANT * error)
        dead |= ~unknown & (mean < _DEAD * dim) & (dim - mean > _SIGNIFICANT * error)
        mean = np.where(hot | dead, middle, mean)
    dark = (sums.highest == 0) & ~known & ~_shaded(sums.highest == 0)
    # What did not count at all: what would the dimmest of the lit pixels around it expect? So gaps of the detector are
    # seen, and corners that the beam does not reach are none.
    lit = rank_filter(np.where(dark, np.inf, sums.mean), _DIM_RANK, size=9, mode="mirror")
    dead |= dark & np.isfinite(lit) & (lit > _ZEROS * quantum)
    usual = median_filter(sums.variance, footprint=_RING, mode="mirror")
    least = np.minimum(usual, sums.mean * sums.least)  # Poisson noise of counts in these units
    stuck = (sums.variance < _STUCK * least) & (sums.mean > _ZEROS * quantum) & ~known & ~dead
    return hot, dead & ~hot, stuck


def _shaded(dark: np.ndarray) -> np.ndarray:
    """(ky, kx) dark corners: nothing reaches them, and that is no defect. A dark rim as long as the detector
    is one.
    """
    label, _ = find_regions(dark, structure=np.ones((3, 3)))
    shaded = np.zeros(dark.shape, bool)
    for corner in {label[y, x] for y in (0, -1) for x in (0, -1)} - {0}:
        region = label == corner
        if (np.ptp(np.argwhere(region), axis=0) + 1 <= np.array(dark.shape) / 4).all():
            shaded |= region
    return shaded


def _limit(dtype: np.dtype, highest: np.ndarray, given: float | None) -> float | None:
    """The count of a saturated pixel, or None if none is."""
    if not len(highest):
        return None
    top = float(highest.max())
    if given is not None:
        return float(given) if top >= given else None
    largest = float(np.iinfo(dtype).max) if dtype.kind in "iu" else np.inf
    return top if top in (largest, *_COUNTERS) and dtype.kind in "iu" else None


def _good_counts(
    source: PatternSource, bad: np.ndarray, limit: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the good pixels: total of each pattern (N,), patterns (N,) and pixels (ky, kx) that reach the
    limit.
    """
    n, ny, nx = source.shape
    totals, patterns, pixels = np.zeros(n), np.zeros(n, bool), np.zeros((ny, nx), bool)
    step = max(1, _CHUNK_BYTES // (16 * ny * nx))
    for start in range(0, n, step):
        data = np.where(bad, 0, source.read(np.arange(start, min(start + step, n))))
        totals[start : start + step] = np.nan_to_num(data).sum(axis=(1, 2), dtype=np.float64)
        if limit is not None:
            reached = data >= limit
            patterns[start : start + step] = reached.any(axis=(1, 2))
            pixels |= reached.any(axis=0)
    return totals, patterns, pixels


def _outlying(totals: np.ndarray, size: tuple[int, int], good: np.ndarray) -> np.ndarray:
    """Patterns whose total jumps from the median of those around them, by a factor and by the usual
    scatter.
    """
    if good.sum() < 4:
        return np.zeros(len(totals), bool)
    logs = np.log(np.where(good, totals, np.median(totals[good])))
    around = median_filter(logs.reshape(size), 5, mode="nearest").ravel()
    jump = logs - around
    spread = 1.4826 * float(np.median(np.abs(jump[good] - np.median(jump[good]))))
    return good & (np.abs(jump) > max(_OUTLYING * spread, np.log(_FACTOR)))


def _suggested(experiment: Experiment, bad: np.ndarray, left_out: np.ndarray, given: Any) -> dict[str, Any]:
    suggested: dict[str, Any] = {}
    if bad.any():
        mask = np.where(bad, 0.0, 1.0)
        suggested["detector_mask"] = mask * given if isinstance(given, np.ndarray) else mask
    if left_out.any():
        used = experiment.settings.first()["sequence"]
        indices = np.arange(len(left_out)) if used is None else np.asarray(used)
        suggested["sequence"] = indices[~left_out[indices]]
    return suggested


def _text(values: Mapping[str, Any], limit: float | None, n_pixels: int, n_patterns: int) -> str:
    pixels = {name: len(values[name]) for name in ("hot", "dead", "stuck", "saturated_pixels")}
    patterns = {name: len(values[name]) for name in ("saturated", "empty", "outlying", "not_finite")}
    lines = [
        f"defects: {sum(pixels.values())} of {n_pixels} pixels ("
        + ", ".join(f"{n} {name.replace('_pixels', '')}" for name, n in pixels.items())
        + f"), {sum(patterns.values())} of {n_patterns} patterns ("
        + ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in patterns.items())
        + ")"
    ]
    if limit is not None:
        lines.append(f"  the counter ends at {limit:g}; where it does, counts are too low")
    if sum(pixels.values()) > 0.05 * n_pixels:
        lines.append("  more than 5 % of the pixels: look at the figure before you use the mask")
    return "\n".join(lines)
