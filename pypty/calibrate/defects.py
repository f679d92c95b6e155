"""Defective pixels and patterns: markers, hot, dead and stuck pixels; saturated, empty and outlying patterns; gain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pypty.calibrate.counts import GoodCounts, find_ceiling, good_counts, outlying
from pypty.calibrate.measured import open_far_field
from pypty.calibrate.pixels import ZEROS, PixelSums, bad_pixels, expected_share, lines, survey_pixels
from pypty.calibrate.suggestion import Suggestion, ranges, unsure_line
from pypty.data.own_mask import own_mask
from pypty.data.scan import sort_sequence
from pypty.experiment import Experiment
from pypty.plots.calibration import plot_defects

_MANY_FRAMES = 0.2  # fraction of the patterns above which saturated pixels are masked instead
_FEW_PATTERNS = 25  # below it the scatter of a pixel is hardly known
_LEAST_PATTERNS = 16  # that are looked at, however large they are
_SHARED = 3  # pixels with the same largest value, which is no chance
PIXELS = ("marked", "own_mask", "hot", "dead", "stuck", "saturated_pixels")
"""Values of a suggestion that are pixels (n, 2) [ky, kx]."""
_PATTERNS = ("saturated", "empty", "outlying", "not_finite")
_NAMES = ("marked instead of counting", "masked by the detector itself", "hot", "dead", "stuck", "saturated")


def defects(
    params: Mapping[str, Any],
    saturation: float | None = None,
    most_patterns: int | None = None,
    most_bytes: int | None = None,
) -> Suggestion:
    """A detector mask and a sequence without defective pixels and patterns, and the gain.

    A pixel is *marked* if it holds a marker in most patterns (2^32 - 1, 2^16 - 1, the largest value of the type, -1) or
    NaN in any. It is *hot* if its mean exceeds 1.5 times the fourth brightest of its 24 neighbours; *dead* if it is
    below 0.35 of the fourth darkest, or has no counts although pixels on both sides have (dead rows, columns and gaps
    between modules); *stuck* if it hardly varies while others do. The differences must exceed six standard errors,
    estimated from the scatter of the neighbours over the scan. Ranks are used instead of means, so that the edge of a
    disk is no defect. The mask that the detector wrote into an HDF5 file (``pixel_mask``) is used, too. A pattern is
    *saturated* if a good pixel reaches the limit of the counter, *empty* if its total is zero, and *outlying* if its
    total differs strongly from the patterns around it in the scan.

    Parameters
    ----------
    params : parameters of the data; pixels are those of the detector as stored, before flip, shift and
        binning
    saturation : count at which a pixel is saturated; None = the largest value of the good pixels, if it is that of an
        integer type, or if values pile up there (1.4 times as often as just below it)
    most_patterns : look at this many evenly spaced patterns only, and not for outlying ones; None = all
    most_bytes : the same by their size as float64, but at least 16 patterns; None = all

    Returns
    -------
    Suggestion
        ``detector_mask`` (ky, kx) float, 0 or 1 (times that of ``params``), if there are bad pixels; ``sequence``
        (a part of that of ``params``), if there are bad patterns; ``data_multiplier``, if all counts are multiples of a
        number. Values: ``marked``, ``own_mask``, ``hot``, ``dead``, ``stuck``, ``saturated_pixels`` ((n, 2)
        [ky, kx]); ``dead_rows``, ``dead_columns``; ``saturated``, ``empty``, ``outlying``, ``not_finite`` (indices of
        patterns); ``ceiling`` (count of a saturated pixel, or None), ``saturated_share`` (of the counts),
        ``bad_share`` (of the counts, if bad pixels counted as their neighbours do), ``gain``, ``looked_at`` (number of
        patterns), ``n_patterns`` (of all), ``unsure``.

    Raises
    ------
    DataError
        Fewer than four patterns are left, or all counts are zero.
    ParameterError
        The data are not diffraction patterns.
    """
    experiment = open_far_field(params, "defects")
    try:
        indices = _some(experiment.source.shape, most_patterns, most_bytes)
        sums = survey_pixels(experiment.source, indices)
        known, own = _known(experiment, sums), own_mask(experiment.settings, experiment.source.shape[1:])
        # a mask of all pixels is that of another detector
        masked = np.zeros(known.shape, bool) if own is None or own.all() else own
        marked = sums.marked & ~known
        hot, dead, stuck = bad_pixels(sums, known | marked | masked)
        stuck &= ~_always_full(sums, stuck, known | marked | masked | hot)
        bad = hot | dead | stuck | known | marked | masked
        limit = _limit(experiment, indices, sums, bad, saturation)
        counts = good_counts(experiment.source, indices, sums, bad, limit)
    finally:
        experiment.source.close()
    saturated, pixels = counts.saturated, counts.pixels
    if saturated.mean() <= _MANY_FRAMES:
        pixels = np.zeros_like(pixels)  # few patterns saturate: omit the patterns, and keep the pixels
    else:
        saturated = np.zeros_like(saturated)  # many patterns saturate: mask the pixels instead
    kinds = (marked, masked & ~known & ~marked, hot, dead, stuck & ~hot & ~dead, pixels)
    unlimited = most_patterns is None and most_bytes is None
    patterns = _bad_patterns(experiment, sums, counts, saturated, unlimited)
    wrong = np.logical_or.reduce(kinds)
    rows, columns = lines(dead | marked)
    values: dict[str, Any] = {
        **{name: np.argwhere(kind) for name, kind in zip(PIXELS, kinds, strict=True)},
        "dead_rows": rows,
        "dead_columns": columns,
        **{name: indices[np.flatnonzero(chosen)] for name, chosen in patterns.items()},
        "ceiling": limit,
        "saturated_share": counts.share,
        "bad_share": expected_share(sums.mean, wrong, known),
        "hot_share": float(sums.mean[hot].sum() / max(sums.mean.sum(), 1e-300)),
        "gain": counts.gain,
        "looked_at": len(indices),
        "n_patterns": experiment.source.shape[0],
        "unsure": _doubts(sums, bad),
    }
    left_out = indices[np.logical_or.reduce(list(patterns.values()))]
    suggested = _suggested(experiment, wrong, left_out, values["gain"])
    figure = None
    if unlimited:
        figure = plot_defects(
            sums.mean,
            hot=values["hot"],
            dead=values["dead"],
            other=np.argwhere(wrong & ~hot & ~dead),
            totals=experiment.on_raster(counts.totals, 0.0),
            left_out=experiment.raster_of(left_out),
        )
    return Suggestion(
        suggested, values, _text(values, sums.mean.size, len(indices), suggested, experiment), figure
    )


def _some(shape: tuple[int, ...], most: int | None, most_bytes: int | None) -> np.ndarray:
    """Evenly spaced numbers of the patterns to look at."""
    n = many = shape[0]
    if most is not None:
        many = min(many, most)
    if most_bytes is not None:
        many = min(many, max(_LEAST_PATTERNS, most_bytes // (8 * shape[1] * shape[2])))
    return np.unique(np.linspace(0, n - 1, many).astype(int))


def _known(experiment: Experiment, sums: PixelSums) -> np.ndarray:
    """(ky, kx) pixels that the user masks in all patterns; with "nan" those that are not finite."""
    mask = experiment.settings["detector_mask"]
    if isinstance(mask, np.ndarray):
        return np.asarray(mask <= 0 if mask.ndim == 2 else (mask <= 0).all(axis=0))
    return np.logical_and(sums.has_nan, mask == "nan")


def _always_full(sums: PixelSums, stuck: np.ndarray, unused: np.ndarray) -> np.ndarray:
    """(ky, kx) pixels that are stuck at one value, the largest of all: their counter is full in every pattern."""
    full = stuck & ~unused & (sums.highest == sums.highest[~unused].max(initial=0.0))
    return full if full.sum() >= _SHARED else np.zeros_like(full)


def _limit(
    experiment: Experiment,
    indices: np.ndarray,
    sums: PixelSums,
    bad: np.ndarray,
    saturation: float | None,
) -> float | None:
    """The count of a saturated pixel, or None if no pixel is saturated."""
    if saturation is not None:
        reached = (~bad).any() and float(sums.highest[~bad].max()) >= saturation
        return float(saturation) if reached else None
    ceiling = find_ceiling(experiment.source, indices, sums, bad)
    return ceiling.top if ceiling is not None and ceiling.is_reached(experiment.source.dtype) else None


def _bad_patterns(
    experiment: Experiment, sums: PixelSums, counts: GoodCounts, saturated: np.ndarray, all_read: bool
) -> dict[str, np.ndarray]:
    """(n,) bool for each kind of bad pattern."""
    empty = sums.finite & (counts.totals <= 0)
    good = sums.finite & ~empty
    strange = np.zeros(len(good), bool)
    if all_read:
        present = experiment.points >= 0
        totals = experiment.on_raster(counts.totals, float(np.median(counts.totals)))
        fine = experiment.on_raster(good.astype(float), 0.0) > 0
        found = outlying(totals.ravel(), experiment.scan_size, fine.ravel())
        strange[experiment.points[present]] = found[present]
    kinds = (saturated, empty, strange, ~sums.finite)
    return dict(zip(_PATTERNS, kinds, strict=True))


def _doubts(sums: PixelSums, bad: np.ndarray) -> tuple[str, ...]:
    doubts = []
    if sums.n < _FEW_PATTERNS:
        doubts.append(f"{sums.n} patterns are few: the scatter of a pixel is hardly known")
    good = np.where(bad, 0, sums.mean) * sums.n
    # the pixels that hold nearly all counts
    bright = good >= 0.1 * good.max()
    few = float((good[bright] < ZEROS * sums.least).mean())
    if few > 0.2:
        doubts.append(
            f"{100 * few:.0f} % of the bright pixels count fewer than {ZEROS:g} electrons in all patterns: a dead one "
            "among them would not be seen"
        )
    return tuple(doubts)


def _suggested(
    experiment: Experiment, bad: np.ndarray, left_out: np.ndarray, gain: float | None
) -> dict[str, Any]:
    suggested: dict[str, Any] = {}
    user_mask = experiment.settings["detector_mask"]
    if bad.any():
        mask = np.where(bad, 0.0, 1.0)
        suggested["detector_mask"] = mask * user_mask if isinstance(user_mask, np.ndarray) else mask
    if len(left_out):
        used = experiment.settings.first()["sequence"]
        suggested["sequence"] = np.setdiff1d(sort_sequence(used, experiment.source.shape[0]), left_out)
    given = float(experiment.settings["data_multiplier"])
    if gain is not None and gain != 1 and abs(gain * given - 1) > 1e-3:
        suggested["data_multiplier"] = 1.0 / gain
    return suggested


def _text(
    values: Mapping[str, Any],
    n_pixels: int,
    n_patterns: int,
    suggested: Mapping[str, Any],
    experiment: Experiment,
) -> str:
    pixels = {name: len(values[key]) for key, name in zip(PIXELS, _NAMES, strict=True)}
    patterns = {name: len(values[name]) for name in _PATTERNS}
    out = [
        f"defects: {sum(pixels.values())} of {n_pixels} pixels ("
        + ", ".join(f"{n} {name}" for name, n in pixels.items())
        + f"), {sum(patterns.values())} of {n_patterns} patterns ("
        + ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in patterns.items())
        + ")"
    ]
    for name in ("rows", "columns"):
        if len(values[f"dead_{name}"]):
            out.append(f"  {name} without any count: {ranges(values[f'dead_{name}'])}")
    if values["ceiling"] is not None:
        out.append(
            f"  the counter saturates at {values['ceiling']:g} "
            f"({100 * values['saturated_share']:.2g} % of the counts); saturated counts are too low"
        )
    if "data_multiplier" in suggested:
        out.append(
            f"  all counts are multiples of {values['gain']:g}, with the scatter of electrons that count that much "
            f"each: data_multiplier = {suggested['data_multiplier']:.6g} makes them electrons"
        )
    if sum(pixels.values()) > 0.05 * n_pixels:
        out.append("  more than 5 % of the pixels are bad: look at the figure before you use the mask")
    return "\n".join([*out, *unsure_line(values["unsure"])])
