"""Scan positions: the crop origin of each pattern's patch of the object, and the size of the object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pypty.errors import ParameterError
from pypty.params.settings import Settings

_LARGEST_POSITION = 2.0**40
_SLACK = 8
"""Positions that are not moved may lie outside the object by at most the size of a patch divided by this."""


@dataclass(frozen=True)
class Scan:
    """Patches of the object.

    Attributes
    ----------
    positions : (N, 2) float64, or (1, 2) for all patterns
        [y, x] of each patch's top-left corner in pixels of the object, including the sub-pixel part.
    crop_origins : (N, 2) int64
        Crop origins: positions in whole pixels. The probe is shifted by the difference.
    object_shape : (Y, X)
    moved : (2,) float64
        Offset that was added to the user's positions.
    """

    positions: np.ndarray
    crop_origins: np.ndarray
    object_shape: tuple[int, int]
    moved: np.ndarray


def size_of_layout(layout: tuple[int, int], order: str) -> tuple[int, int]:
    """Scan points (rows, columns) of patterns that are stored as an array of ``layout`` points in this order: column by
    column, the first axis is that of the columns."""
    return (layout[1], layout[0]) if order in (COLUMNS, SNAKE_COLUMNS) else layout


def make_scan(settings: Settings, window: tuple[int, int], used: np.ndarray, n_patterns: int) -> Scan:
    """Place the scan on the object.

    Positions are moved so that the smallest is ``extra_space_on_side_px``. If the user gives an object, they refer to
    its pixels and are moved by ``extra_space_on_side_px`` together with it. They are not moved with
    ``skip_preprocessing`` or if an earlier run is continued (``epoch_prev`` > 0). Crop origins are rounded positions.

    Parameters
    ----------
    window : (ny, nx) of a probe
    used : indices of the patterns whose positions count if ``use_full_FOV`` is False
    n_patterns : number of patterns; a single position is used for all of them

    Raises
    ------
    ParameterError
        A patch would begin outside the object, which is possible only if positions are not moved.
    """
    positions, crop_origins = _split(settings)
    moved = np.zeros(2)
    shared = len(positions) == 1
    counting = slice(None) if settings["use_full_FOV"] or shared else used
    extra = 0 if settings["skip_preprocessing"] else settings["extra_space_on_side_px"]
    if not (settings["skip_preprocessing"] or settings["epoch_prev"] > 0):
        moved = np.full(2, float(extra)) if _has_object(settings) else extra - positions[counting].min(axis=0)
        positions = positions + moved
        if settings["positions_correction"] is None:
            crop_origins = np.round(positions).astype(np.int64)
        else:  # the user chose the crop origins: move them by whole pixels, and keep them inside the object
            crop_origins = crop_origins + np.round(moved).astype(np.int64)
            crop_origins = crop_origins - np.minimum(crop_origins[counting].min(axis=0), 0)
        if not settings["allow_subPixel_shift"]:
            positions = crop_origins.astype(float)
    else:
        # A refined position may be slightly negative: its crop origin is then 0, and the probe is shifted by the rest.
        near = positions > -np.array(window) / _SLACK
        crop_origins = np.where((crop_origins < 0) & near, 0, crop_origins)
    outside = np.flatnonzero((crop_origins[counting] < 0).any(axis=1))
    if len(outside):
        row = positions[counting][outside[0]]
        raise ParameterError(
            f"positions: {len(outside)} patches begin outside the object, the first at [y, x] = "
            f"[{row[0]:.4g}, {row[1]:.4g}] px. With skip_preprocessing=True, epoch_prev > 0 or an obj, positions are "
            "not shifted to the origin and must be >= 0 (up to an eighth of a patch below 0 is allowed)"
        )
    needed = crop_origins[counting].max(axis=0) + np.array(window) + extra
    obj = settings["obj"]
    smallest = (1, 1) if obj is None else obj.shape[:2]  # an object of the user is enlarged, never cropped
    shape = (int(max(smallest[0], needed[0])), int(max(smallest[1], needed[1])))
    return Scan(
        positions, np.repeat(crop_origins, n_patterns, axis=0) if shared else crop_origins, shape, moved
    )


def _has_object(settings: Settings) -> bool:
    """Whether the user gave an object of more than one pixel: positions then refer to its pixels."""
    return settings["obj"] is not None and settings["obj"].shape[:2] != (1, 1)


def _split(settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Positions and crop origins (N, 2); with positions_correction the uncorrected positions are the crop origins."""
    uncorrected = settings["positions"]
    largest = np.abs(uncorrected).max()
    if largest > _LARGEST_POSITION:
        raise ParameterError(
            f"positions: values up to {largest:.3g} px; the object would not fit into any memory. Are they in pixels "
            "(position in Å / pixel size in Å)?"
        )
    correction = settings["positions_correction"]
    crop_origins = np.round(uncorrected).astype(np.int64)
    positions = uncorrected if correction is None else uncorrected + correction
    return (positions if settings["allow_subPixel_shift"] else crop_origins.astype(float)), crop_origins


def sort_sequence(sequence: np.ndarray | None, n_patterns: int) -> np.ndarray:
    """Sorted indices of the patterns to use.

    Parameters
    ----------
    sequence : (n,) indices; or (N,) bool, true for the patterns to use; None = all

    Raises
    ------
    ParameterError
        An index is out of range or given twice, or the booleans are not one for each pattern.
    """
    if sequence is None:
        return np.arange(n_patterns)
    sequence = np.asarray(sequence)
    if sequence.dtype == bool:
        if len(sequence) != n_patterns:
            raise ParameterError(
                f"sequence: {len(sequence)} booleans given, but there are {n_patterns} patterns; give one for each, or "
                "indices"
            )
        sequence = np.flatnonzero(sequence)
    indices, counts = np.unique(sequence.astype(np.int64), return_counts=True)
    if (counts > 1).any():
        worst = counts.argmax()
        raise ParameterError(
            f"sequence: index {indices[worst]} is given {counts[worst]} times; name each pattern once (numpy.unique)"
        )
    if len(indices) == 0:
        raise ParameterError("sequence: no index given; name at least one pattern")
    if indices[0] < 0 or indices[-1] >= n_patterns:
        bad = int(indices[0] if indices[0] < 0 else indices[-1])
        raise ParameterError(
            f"sequence: index {bad} given, but there are {n_patterns} patterns (0 to {n_patterns - 1})"
        )
    return indices


ROWS, SNAKE, COLUMNS, SNAKE_COLUMNS = "rows", "snake", "columns", "snake_columns"
"""Values of ``scan_order``."""
SCAN_ORDERS = (ROWS, SNAKE, COLUMNS, SNAKE_COLUMNS)


def visits(order: str, size: tuple[int, int]) -> np.ndarray:
    """(sy * sx,) the scan points, counted row by row, in the order in which the beam visits them."""
    raster = np.arange(size[0] * size[1]).reshape(size)
    lines = raster.T.copy() if order in (COLUMNS, SNAKE_COLUMNS) else raster
    if order in (SNAKE, SNAKE_COLUMNS):
        lines[1::2] = lines[1::2, ::-1].copy()
    return lines.ravel()


def stored_patterns(order: str, size: tuple[int, int], missing: np.ndarray | None = None) -> np.ndarray:
    """(sy * sx,) number of the stored pattern of each scan point, counted row by row; -1 where there is none.

    Parameters
    ----------
    order : one of :data:`SCAN_ORDERS`
    size : (sy, sx) points of the raster
    missing : numbers of the points without a pattern, in the order of the beam
    """
    path = visits(order, size)
    present = np.ones(len(path), bool)
    if missing is not None:
        present[np.asarray(missing, int)] = False
    numbers = np.where(present, np.cumsum(present) - 1, -1)
    points = np.empty(len(path), np.int64)
    points[path] = numbers
    return points


def missing_problem(
    missing: np.ndarray | None, size: tuple[int, int], n: int, rows: str = "patterns"
) -> str | None:
    """What is wrong with the number of points or of rows (patterns, or positions), in words; None if they agree."""
    n_points = size[0] * size[1]
    lost = 0 if missing is None else len(np.unique(missing))
    if missing is not None and len(missing) and (np.min(missing) < 0 or np.max(missing) >= n_points):
        return (
            f"missing_patterns names points from {np.min(missing)} to {np.max(missing)}, but the scan has the points 0 "
            f"to {n_points - 1}"
        )
    if n_points - lost == n:
        return None
    have = "the data have" if rows == "patterns" else "there are"
    text = f"scan_size {size} has {n_points} points, but {have} {n} {rows}"
    if lost:
        return f"{text}, and missing_patterns names {lost} of the points; correct one of them"
    if n < n_points:
        return (
            f"{text}; if frames were dropped, name their points in missing_patterns (pypty.calibrate.scan_order finds "
            "them); otherwise correct it (slow, fast)"
        )
    return f"{text}; correct it (slow, fast)"


def fit_raster(points: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, float]:
    """The affine raster that is nearest to points (N, 2) of these rows and columns: (3, 2) its origin and its steps
    along the slow and the fast axis; and the rms distance from it."""
    design = np.stack([np.ones(len(points)), rows, columns], axis=1)
    fit, *_ = np.linalg.lstsq(design, points, rcond=None)
    return fit, float(np.sqrt(((points - design @ fit) ** 2).sum(axis=1).mean()))


def points_of_patterns(order: str, size: tuple[int, int], missing: np.ndarray | None = None) -> np.ndarray:
    """(N,) scan point, counted row by row, of each stored pattern: the inverse of :func:`stored_patterns`."""
    stored = stored_patterns(order, size, missing)
    present = np.flatnonzero(stored >= 0)
    return present[np.argsort(stored[present])]
