"""Defective pixels and patterns: hot, dead and stuck pixels, saturated, empty and outlying patterns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt, median_filter, rank_filter
from scipy.ndimage import label as find_regions

from pypty.calibrate.measured import open_far_field
from pypty.calibrate.suggestion import Suggestion
from pypty.data.scan import sort_sequence
from pypty.data.sources import PatternSource
from pypty.errors import DataError
from pypty.experiment import Experiment
from pypty.plots.calibration import plot_defects

_CHUNK_BYTES = 64 * 2**20  # of patterns in memory, with their float64 copies
_RING = np.ones((5, 5), bool)
_RING[2, 2] = False
_RING.setflags(write=False)
_BRIGHTEST, _DARKEST = 4, 4
"""Rank of the neighbour that a pixel is compared with: a few neighbours may be bad, too, and the edge of the disk is no
defect.
"""
_HOT, _DEAD = 1.5, 0.35  # times the bright or dim neighbour
_SIGNIFICANT = 6.0  # standard errors; a smaller limit gives false alarms among 1e4 to 1e6 pixels
_STUCK = 0.02  # fraction of the usual variance
_ROUNDS = 3  # of tests, each without the bad pixels of the one before
_OUTLYING = 8.0  # robust standard deviations of the total of a pattern
_FACTOR = 1.5  # between the total of an outlying pattern and the median of those around it
_MANY_FRAMES = 0.2  # fraction of the patterns above which saturated pixels are masked instead
_FEWEST = 4  # patterns that are needed for a variance
_ZEROS = 12.0
"""A pixel without counts is dead if at least this many are expected (chance e^-12 = 6e-6)."""
_DIM_RANK = 8
"""Rank among the 81 pixels of a 9 x 9 neighbourhood."""
_COUNTERS = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 15, 16, 24, 31, 32))


@dataclass(frozen=True, kw_only=True)
class _Sums:
    """Statistics of each pixel (ky, kx) over the n finite patterns; mean and variance without its highest value.

    ``least``, the smallest positive value of all, is taken as one count; ``finite`` is (N,) bool.
    """

    mean: np.ndarray
    variance: np.ndarray
    n: int
    highest: np.ndarray
    least: float
    finite: np.ndarray


def defects(params: Mapping[str, Any], saturation: float | None = None) -> Suggestion:
    """A detector mask and a sequence without defective pixels and patterns.

    A pixel is *hot* if its mean exceeds 1.5 times the fourth brightest of its 24 neighbours; *dead* if it is below
    0.35 of the fourth darkest, or has no counts although its neighbours have; *stuck* if it hardly varies
    while its neighbours do. The differences must exceed six standard errors, estimated from the scatter of the
    neighbours over the scan. Ranks are used instead of means, so that the edge of a disk is no defect. A pattern is
    *saturated* if a good pixel reaches the limit of the counter, *empty* if its total is zero, and *outlying* if its
    total differs strongly from the patterns around it in the scan.

    Parameters
    ----------
    params : parameters of the data; pixels are those of the detector as stored, before flip, shift and
        binning
    saturation : count at which a pixel is saturated; None = the largest value of all, if it is that of an
        integer type or counter (2^8 - 1, 2^12 - 1, ...)

    Returns
    -------
    Suggestion
        ``detector_mask`` (ky, kx) float, 0 or 1 (times that of ``params``), if there are bad pixels; ``sequence``
        (a part of that of ``params``), if there are bad patterns. Values: ``hot``, ``dead``, ``stuck``,
        ``saturated_pixels`` ((n, 2) [ky, kx]), ``saturated``, ``empty``, ``outlying``, ``not_finite`` (indices of
        patterns).

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
        user_mask = experiment.settings["detector_mask"]
        known = (
            user_mask <= 0
            if isinstance(user_mask, np.ndarray) and user_mask.ndim == 2
            else np.zeros(sums.mean.shape, bool)
        )
        hot, dead, stuck = _bad_pixels(sums, known)
        bad = hot | dead | stuck | known
        limit = _limit(experiment.source.dtype, sums.highest[~bad], saturation)
        totals, saturated, pixels = _good_counts(experiment.source, bad, limit)
    finally:
        experiment.source.close()
    if saturated.mean() <= _MANY_FRAMES:
        pixels[:] = False  # few patterns saturate: omit the patterns, and keep the pixels
    else:
        saturated[:] = False  # many patterns saturate: mask the pixels instead
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
    masked = hot | dead | stuck | pixels
    suggested = _suggested(experiment, masked, left_out, user_mask)
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
        # A few NaN are bad pixels; a pattern that is NaN for the most part is a bad pattern.
        good = np.isfinite(data).mean(axis=(1, 2)) > 0.5
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
            f"{_FEWEST} patterns with counts are needed to distinguish good from bad pixels"
        )
    # Without the highest value of each pixel: a single cosmic ray must not make a hot pixel.
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
    # Mean of a pixel with a single count: a smaller error cannot be resolved where the neighbours counted nothing.
    quantum = sums.least / sums.n
    error = np.maximum(median_filter(scatter, footprint=_RING, mode="mirror") / np.sqrt(sums.n), quantum)
    hot, dead = np.zeros(known.shape, bool), np.zeros(known.shape, bool)
    unknown = known | (sums.highest == 0)
    # Masked and dark pixels are replaced by the nearest lit one, so that pixels beside a gap of the detector are not
    # hot.
    _, (y, x) = distance_transform_edt(unknown, return_indices=True)
    mean = sums.mean[y, x]
    for _ in range(_ROUNDS):  # bad pixels are replaced by the median, and their neighbours are tested again
        bright = rank_filter(mean, -_BRIGHTEST, footprint=_RING, mode="mirror")
        dim = rank_filter(mean, _DARKEST - 1, footprint=_RING, mode="mirror")
        middle = median_filter(mean, footprint=_RING, mode="mirror")
        hot |= ~unknown & (mean > _HOT * bright) & (mean - bright > _SIGNIFICANT * error)
        dead |= ~unknown & (mean < _DEAD * dim) & (dim - mean > _SIGNIFICANT * error)
        mean = np.where(hot | dead, middle, mean)
    dark = (sums.highest == 0) & ~known & ~_shaded(sums.highest == 0)
    # Pixels without any count are compared with the dimmest lit pixels around them. This finds gaps of the detector,
    # but not corners that the beam does not reach.
    lit = rank_filter(np.where(dark, np.inf, sums.mean), _DIM_RANK, size=9, mode="mirror")
    dead |= dark & np.isfinite(lit) & (lit > _ZEROS * quantum)
    usual = median_filter(sums.variance, footprint=_RING, mode="mirror")
    least = np.minimum(usual, sums.mean * sums.least)  # Poisson noise of counts in these units
    stuck = (sums.variance < _STUCK * least) & (sums.mean > _ZEROS * quantum) & ~known & ~dead
    return hot, dead & ~hot, stuck


def _shaded(dark: np.ndarray) -> np.ndarray:
    """(ky, kx) dark corners, which the beam does not reach and which are no defect. A dark rim along a whole side is a
    defect.
    """
    label, _ = find_regions(dark, structure=np.ones((3, 3)))
    shaded = np.zeros(dark.shape, bool)
    for corner in {label[y, x] for y in (0, -1) for x in (0, -1)} - {0}:
        region = label == corner
        if (np.ptp(np.argwhere(region), axis=0) + 1 <= np.array(dark.shape) / 4).all():
            shaded |= region
    return shaded


def _limit(dtype: np.dtype, highest: np.ndarray, saturation: float | None) -> float | None:
    """The count of a saturated pixel, or None if no pixel is saturated."""
    if not len(highest):
        return None
    top = float(highest.max())
    if saturation is not None:
        return float(saturation) if top >= saturation else None
    largest = float(np.iinfo(dtype).max) if dtype.kind in "iu" else np.inf
    return top if top in (largest, *_COUNTERS) and dtype.kind in "iu" else None


def _good_counts(
    source: PatternSource, bad: np.ndarray, limit: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """From the good pixels: the total of each pattern (N,), and the patterns (N,) and pixels (ky, kx) that reach the
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


def _suggested(
    experiment: Experiment, bad: np.ndarray, left_out: np.ndarray, user_mask: Any
) -> dict[str, Any]:
    suggested: dict[str, Any] = {}
    if bad.any():
        mask = np.where(bad, 0.0, 1.0)
        suggested["detector_mask"] = mask * user_mask if isinstance(user_mask, np.ndarray) else mask
    if left_out.any():
        used = experiment.settings.first()["sequence"]
        indices = sort_sequence(used, len(left_out))
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
        lines.append(f"  the counter saturates at {limit:g}; saturated counts are too low")
    if sum(pixels.values()) > 0.05 * n_pixels:
        lines.append("  more than 5 % of the pixels are bad: look at the figure before you use the mask")
    return "\n".join(lines)
