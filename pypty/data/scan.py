"""Scan positions: which window of the object each pattern sees, and how large the object must be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pypty.errors import ParameterError
from pypty.params.settings import Settings

_LARGEST_POSITION = 2.0**40
_SLACK = 8
"""A window may begin outside the object by its size divided by this, when positions are taken as they are."""


@dataclass(frozen=True)
class Scan:
    """Windows on the object.

    Attributes
    ----------
    positions : (N, 2) or, for all patterns, (1, 2) float64
        [y, x] of each window's top-left corner in pixels of the object, sub-pixel part included.
    corners : (N, 2) int64
        The whole pixels of it; the probe is shifted by the rest.
    object_shape : (Y, X)
    moved : (2,) float64
        What was added to the positions that the user gave.
    """

    positions: np.ndarray
    corners: np.ndarray
    object_shape: tuple[int, int]
    moved: np.ndarray


def make_scan(settings: Settings, window: tuple[int, int], used: np.ndarray, n_patterns: int) -> Scan:
    """Place the scan on the object.

    Unless ``skip_preprocessing`` or an earlier run is continued (``epoch_prev`` > 0), positions are moved so
    that the smallest is ``extra_space_on_side_px``; beside a given object, on whose pixels they are, they are moved by
    ``extra_space_on_side_px`` together with it. Their whole part is ``round()``.

    Parameters
    ----------
    window : (ny, nx) of a probe
    used : indices of the patterns that count when ``use_full_FOV`` is False
    n_patterns : one position may be that of all of them

    Raises
    ------
    ParameterError
        A window would begin outside the object (negative), which only happens when nothing is moved.
    """
    positions, corners = _split(settings)
    moved = np.zeros(2)
    shared = len(positions) == 1
    counting = slice(None) if settings["use_full_FOV"] or shared else used
    extra = 0 if settings["skip_preprocessing"] else settings["extra_space_on_side_px"]
    if not (settings["skip_preprocessing"] or settings["epoch_prev"] > 0):
        moved = np.full(2, float(extra)) if _has_object(settings) else extra - positions[counting].min(axis=0)
        positions = positions + moved
        if settings["positions_correction"] is None:
            corners = np.round(positions).astype(np.int64)
        else:  # the whole parts are the user's choice: they move by whole pixels, and not off the object
            corners = corners + np.round(moved).astype(np.int64)
            corners = corners - np.minimum(corners[counting].min(axis=0), 0)
        if not settings["allow_subPixel_shift"]:
            positions = corners.astype(float)
    else:
        # A refined position may be a little negative: its window begins at 0, and the probe is shifted by the rest.
        near = positions > -np.array(window) / _SLACK
        corners = np.where((corners < 0) & near, 0, corners)
    outside = np.flatnonzero((corners[counting] < 0).any(axis=1))
    if len(outside):
        row = positions[counting][outside[0]]
        raise ParameterError(
            f"positions: {len(outside)} windows begin outside the object, the first at [y, x] = "
            f"[{row[0]:.4g}, {row[1]:.4g}] px; positions are taken as they are with skip_preprocessing=True, with "
            "epoch_prev > 0 and beside a given obj, and must be >= 0 then (down to an eighth of a window is allowed)"
        )
    needed = corners[counting].max(axis=0) + np.array(window) + extra
    obj = settings["obj"]
    given = (1, 1) if obj is None else obj.shape[:2]
    shape = (int(max(given[0], needed[0])), int(max(given[1], needed[1])))
    return Scan(positions, np.repeat(corners, n_patterns, axis=0) if shared else corners, shape, moved)


def _has_object(settings: Settings) -> bool:
    """Whether an object with an extent was given: positions then belong to its pixels."""
    return settings["obj"] is not None and settings["obj"].shape[:2] != (1, 1)


def _split(settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Full positions and their whole part; with positions_correction the given positions are the whole part."""
    given = settings["positions"]
    if np.abs(given).max() > _LARGEST_POSITION:
        raise ParameterError(
            f"positions: values up to {np.abs(given).max():.3g} px; the object would not fit into any memory. Are they "
            "in pixels (position in Å / pixel size in Å)?"
        )
    correction = settings["positions_correction"]
    corners = np.round(given).astype(np.int64)
    positions = given if correction is None else given + correction
    return (positions if settings["allow_subPixel_shift"] else corners.astype(float)), corners


def sort_sequence(sequence: np.ndarray | None, n_patterns: int) -> np.ndarray:
    """Sorted, unique indices of the patterns to use.

    Raises
    ------
    ParameterError
        An index is out of range.
    """
    if sequence is None:
        return np.arange(n_patterns)
    indices = np.unique(np.asarray(sequence, dtype=np.int64))
    if len(indices) == 0:
        raise ParameterError("sequence: given no index; name at least one pattern")
    if indices[0] < 0 or indices[-1] >= n_patterns:
        bad = int(indices[0] if indices[0] < 0 else indices[-1])
        raise ParameterError(
            f"sequence: index {bad} given, but there are {n_patterns} patterns (0 to {n_patterns - 1})"
        )
    return indices
