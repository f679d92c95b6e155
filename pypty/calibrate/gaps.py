"""Pixels without any count between pixels that count: dead pixels, rows and columns, gaps between modules."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import label as find_regions
from scipy.ndimage import minimum_filter, uniform_filter1d

_REACH = 16
"""Largest width of a gap, px."""
_DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))
_SMALL = 3
"""Side, px, of the largest dark region that is judged by its neighbours alone."""
_LIT = 0.5  # fraction of a line beside a gap in which pixels count
_PART = 3  # dead pixels of a dark line that show that all of it is dead
_RING_PIXELS = 8  # at least, at the same distance from the centre
_SHADED = 0.25  # largest corner that the beam does not reach, as a fraction of the detector's side


def dark_gaps(mean: np.ndarray, dark: np.ndarray, known: np.ndarray, least: float) -> np.ndarray:
    """(ky, kx) dark pixels that would count if they worked.

    Either three quarters of the pixels at the same distance from the centre of the pattern count, or there are lit
    pixels on both sides along a row, a column or a diagonal: where the beam does not reach, around the disk and in the
    corners of the detector, there are none on one side. A row or column that is dark from end to end is dead as a whole
    if a part of it is, or if rows on both sides count along most of their length.

    Parameters
    ----------
    mean : (ky, kx) mean counts
    dark : (ky, kx) bool, no counts in any pattern
    known : (ky, kx) bool, masked by the user
    least : mean of a pixel that would hardly be dark by chance
    """
    candidates = np.asarray(dark & ~known)
    if not candidates.any() or dark.all():
        return np.zeros(dark.shape, bool)
    part = np.logical_and(candidates, level_of_ring(mean, dark, known) > least)
    dead = np.array(part)
    for values, empty, some, found in ((mean, dark, part, dead), (mean.T, dark.T, part.T, dead.T)):
        found[_dead_lines(values, empty, some, least)] = True
    dead |= _dark_rim(mean, dark, least)
    expected = _between(mean, dark) > least
    # A dark region between the disks of a crystal is no defect: only small ones, and parts of straight gaps.
    region, n = find_regions(dark & ~dead, structure=np.ones((3, 3)))
    for number in range(1, n + 1):
        inside = region == number
        height, width = np.ptp(np.argwhere(inside), axis=0) + 1
        if min(height, width) <= _SMALL and expected[inside].mean() > 0.5:
            dead |= inside & expected
    return dead & candidates


def level_of_ring(mean: np.ndarray, dark: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(ky, kx) mean counts that three quarters of the pixels at the same distance from the centre exceed.

    Gaps, rows and columns that are dark from end to end, are left out: they may be those that are looked for.
    """
    lines = _gap_lines(dark)[:, None] | _gap_lines(dark.T)[None, :]  # (ky, 1), (1, kx) -> (ky, kx)
    used = ~known & ~lines
    bright = used & (mean > 0.5 * np.percentile(mean[used & ~dark], 90)) if (used & ~dark).any() else used
    if not bright.any():
        return np.zeros(mean.shape)
    centre = np.median(np.argwhere(bright), axis=0)
    y, x = np.indices(mean.shape)
    ring = np.round(np.hypot(y - centre[0], x - centre[1])).astype(int)
    levels = np.zeros(int(ring.max()) + 1)
    rings = [mean[used & (ring == number)] for number in range(len(levels))]
    enough = [number for number, values in enumerate(rings) if len(values) >= _RING_PIXELS]
    for number in enough:
        levels[number] = np.percentile(rings[number], 25)
    if enough:
        levels[: enough[0]] = levels[enough[0]]  # the few pixels at the centre
    return np.asarray(levels[ring])


def _gap_lines(dark: np.ndarray) -> np.ndarray:
    """(ky,) bool, rows that are dark from end to end between other rows."""
    found = np.zeros(len(dark), bool)
    for group in _groups(dark):
        found[group] = True
    return found


def _groups(dark: np.ndarray) -> list[np.ndarray]:
    """Neighbouring rows that are dark from end to end, neither too many nor at the side of the detector."""
    empty = np.flatnonzero(dark.all(axis=1))
    groups = np.split(empty, np.flatnonzero(np.diff(empty) > 1) + 1)
    last = len(dark) - 1
    return [g for g in groups if 0 < len(g) <= _REACH and g[0] > 0 and g[-1] < last]


def _dead_lines(mean: np.ndarray, dark: np.ndarray, part: np.ndarray, least: float) -> np.ndarray:
    """(ky,) bool, rows that are dark from end to end: of which a part is dead, or between rows that count."""
    found = np.zeros(len(dark), bool)
    for group in _groups(dark):
        sides = mean[[group[0] - 1, group[-1] + 1]]
        # the tip of a disk beside a dark row is not lit along most of it
        lit = (sides.sum(axis=1) > least).all() and ((sides > 0).mean(axis=1) > _LIT).all()
        found[group] = lit or part[group].sum(axis=1).max() >= _PART
    return found


def _between(mean: np.ndarray, dark: np.ndarray) -> np.ndarray:
    """(ky, kx) of each dark pixel, the smaller one of the lit pixels at its two sides, in the best direction."""
    smooth = np.where(dark, 0.0, mean)
    best = np.zeros(mean.shape)
    for step in _DIRECTIONS:
        sides = [_nearest_lit(smooth, (sign * step[0], sign * step[1])) for sign in (1, -1)]
        best = np.maximum(best, np.minimum(*sides))
    return np.where(dark, best, 0.0)


def _nearest_lit(mean: np.ndarray, step: tuple[int, int]) -> np.ndarray:
    """(ky, kx) value of the nearest lit pixel in the direction of ``step``; 0 if there is none within reach."""
    padded = np.pad(mean, _REACH)
    ny, nx = mean.shape
    found = np.zeros(mean.shape)
    for distance in range(1, _REACH + 1):
        y, x = _REACH + distance * step[0], _REACH + distance * step[1]
        found = np.where(found > 0, found, padded[y : y + ny, x : x + nx])
    return found


def _dark_rim(mean: np.ndarray, dark: np.ndarray, least: float) -> np.ndarray:
    """(ky, kx) dark rows and columns at the sides of a detector on which every other pixel counts."""
    found = np.zeros(dark.shape, bool)
    turned = ((mean, dark, found), (mean.T, dark.T, found.T))
    views = [tuple(array[::step] for array in arrays) for arrays in turned for step in (1, -1)]
    for values, empty, out in views:
        rows = np.flatnonzero(~empty.all(axis=1))
        first = int(rows[0]) if len(rows) else 0
        if 0 < first <= _REACH:
            # the weakest pixels beside the rim, smoothed over a few: a shadow has a soft edge, a dead rim has none
            edge = minimum_filter(uniform_filter1d(values[first], 5), 3)
            if (edge > least).mean() > 1 - _SHADED:
                out[:first] = True
    return found
