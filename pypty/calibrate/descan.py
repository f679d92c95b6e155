"""Descan: the drift of the pattern over the detector while the beam scans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from pypty.calibrate.edge import Edge, fit_edge, profile
from pypty.calibrate.measured import clean_chunks, open_far_field, pixel_weights
from pypty.calibrate.suggestion import Suggestion, unsure_line
from pypty.experiment import Experiment
from pypty.plots.calibration import plot_descan

_MOST_BLOCKS = 8  # along each axis of the scan
_POINTS_IN_BLOCK = 4  # along each axis, at least: the specimen has to average out
_SMALLEST_PX = 0.1  # drift that is worth a correction
_SIGNIFICANT = 4.0  # standard errors of the drift
_LINEAR_FROM, _QUADRATIC_FROM = 2, 4  # blocks along an axis that determine a slope, and a curvature


def descan(params: Mapping[str, Any]) -> Suggestion:
    """Position of the bright-field disk over the scan, and tilts that describe it.

    The scan is divided into up to 8 x 8 blocks. In the mean pattern of a block the structure of the specimen is
    averaged out, and the edge of the disk is fitted, because the specimen moves the centre of mass but not the edge. A
    polynomial of the second degree through the blocks is the descan.

    Returns
    -------
    Suggestion
        ``tilts`` (N, 6) rad, of which the last two columns [y, x] after the specimen are set (the others are kept),
        and ``tilt_mode``, if the disk moves by more than 0.1 px and four standard errors. If it is displaced from the
        zero frequency by a constant half pixel or more, ``data_shift_vector``. Values: ``drift_px`` (largest distance
        between two fitted positions), ``slope_y_px``, ``slope_x_px`` ((2,), change of [ky, kx] over the whole scan
        along its slow and fast axis), ``error_px`` (of one block), ``centre_y_px``, ``centre_x_px`` (of the middle).

    Raises
    ------
    DataError
        No disk is found.
    ParameterError
        The data are not diffraction patterns.
    """
    experiment = open_far_field(params, "descan")
    try:
        weights = pixel_weights(experiment)
        edge = fit_edge(np.nan_to_num(experiment.mean_pattern), weights)
        means, where, counts = _block_means(experiment, weights)
    finally:
        experiment.source.close()
    centres = np.array([_centre(mean, weights, edge) for mean in means])
    design = _polynomial(where, counts)  # (blocks, terms)
    coefficients = np.linalg.lstsq(design, centres, rcond=None)[0]  # (terms, 2)
    residual = centres - design @ coefficients
    free = max(len(centres) - design.shape[1], 1)
    error = float(np.sqrt((residual**2).sum() / (2 * free)))
    unit = _unit(experiment.scan_size, np.arange(experiment.n_patterns))
    positions = _polynomial(unit, counts) @ coefficients  # (N, 2): the disk in every pattern
    middle = positions.mean(axis=0)
    span = positions.reshape(*experiment.scan_size, 2)
    drift = float(np.hypot(*np.ptp(positions, axis=0)))
    # Standard error of a fitted difference across the scan, which grows with the number of coefficients.
    drift_error = 2 * error * np.sqrt(design.shape[1] / len(centres))
    moves = drift > max(_SMALLEST_PX, _SIGNIFICANT * drift_error)
    suggested = _suggested(experiment, positions, middle, moves)
    values = {
        "drift_px": drift,
        "slope_y_px": (span[-1] - span[0]).mean(axis=0),
        "slope_x_px": (span[:, -1] - span[:, 0]).mean(axis=0),
        "error_px": error,
        "centre_y_px": float(middle[0]),
        "centre_x_px": float(middle[1]),
        "unsure": _doubts(counts, experiment.scan_size),
    }
    lines = [
        f"descan: the disk moves by {drift:.2f} px over the scan (error of one block {error:.2f} px); its mean "
        f"position is [{middle[0]:.2f}, {middle[1]:.2f}] px"
    ]
    if moves:
        lines.append(
            "  it is described by tilts after the specimen; refine them with update_tilts=True, or keep them fixed "
            "with update_tilts=False"
        )
    elif "data_shift_vector" in suggested:
        lines.append("  the displacement is the same everywhere: the patterns should be shifted")
    else:
        lines.append("  nothing to correct")
    shape = (int(counts[0]), int(counts[1]), 2)
    figure = plot_descan(
        centres.reshape(shape) - middle, (design @ coefficients).reshape(shape) - middle, edge.radius_px
    )
    return Suggestion(suggested, values, "\n".join([*lines, *unsure_line(values["unsure"])]), figure)


def _doubts(counts: np.ndarray, size: tuple[int, int]) -> tuple[str, ...]:
    """Why a descan may have been missed."""
    if (counts >= _QUADRATIC_FROM).all():
        return ()
    return (
        f"{size[0]} x {size[1]} scan points give {counts[0]} x {counts[1]} blocks: too few to see how the disk moves",
    )


def _suggested(
    experiment: Experiment, positions: np.ndarray, middle: np.ndarray, moves: bool
) -> dict[str, Any]:
    zero = np.array(experiment.pattern_shape) // 2
    whole = np.round((zero - middle) * experiment.preprocess.detector_pixels).astype(int)
    suggested: dict[str, Any] = {}
    if whole.any():
        suggested["data_shift_vector"] = np.array(experiment.preprocess.shift) + whole
    if not moves:
        return suggested
    offset = positions + whole / experiment.preprocess.detector_pixels - zero
    user_tilts = experiment.settings["tilts"]
    present = experiment.points >= 0
    offset = offset[present][
        np.argsort(experiment.points[present])
    ]  # rows in the order of the stored patterns
    tilts = np.zeros((len(offset), 6))
    if user_tilts is not None:
        tilts += user_tilts
    # The patterns were not corrected for given tilts, so these columns hold all of the descan.
    tilts[:, 4:] = offset * np.array(experiment.pixel_1A) * experiment.wavelength
    mode = int(experiment.settings["tilt_mode"])
    # The smallest tilt_mode that keeps the given tilts acting and adds those after the specimen.
    inside_acts = user_tilts is not None and bool(np.any(tilts[:, 2:4])) and mode in (0, 3, 4)
    before_acts = user_tilts is not None and bool(np.any(tilts[:, :2])) and mode in (2, 4)
    return {**suggested, "tilts": tilts, "tilt_mode": 4 if before_acts else 3 if inside_acts else 1}


def _block_means(experiment: Experiment, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean patterns (B, ky, kx) of blocks of the scan, their centres (B, 2) in [-1, 1], and blocks along
    each axis.
    """
    size = np.array(experiment.scan_size)
    counts = np.clip(size // _POINTS_IN_BLOCK, 1, _MOST_BLOCKS)
    n_blocks = int(counts.prod())
    indices = np.arange(experiment.n_patterns)
    row, column = np.divmod(indices, size[1])
    # (N,) number of the block of each scan point; blocks differ by one point at most along each axis
    block = (row * counts[0] // size[0]) * counts[1] + column * counts[1] // size[1]
    sums = np.zeros((n_blocks, *experiment.pattern_shape))
    for chosen, patterns in clean_chunks(experiment, weights):
        for b in np.unique(block[chosen]):
            sums[b] += patterns[block[chosen] == b].sum(axis=0, dtype=np.float64)
    number = np.bincount(block, minlength=n_blocks)
    unit = _unit(experiment.scan_size, indices)
    where = np.stack([np.bincount(block, unit[:, axis]) / number for axis in (0, 1)], axis=1)
    return sums / number[:, None, None], where, counts


def _unit(size: tuple[int, int], indices: np.ndarray) -> np.ndarray:
    """(n, 2) scan coordinates in [-1, 1]."""
    row, column = np.divmod(indices, size[1])
    return np.stack([2 * row / max(size[0] - 1, 1) - 1, 2 * column / max(size[1] - 1, 1) - 1], axis=1)


def _polynomial(where: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(n, terms) of the second degree, as far as the blocks along each axis determine them."""
    y, x = where.T
    terms = [np.ones_like(y)]
    for axis, values in enumerate((y, x)):
        if counts[axis] >= _LINEAR_FROM:
            terms.append(values)
        if counts[axis] >= _QUADRATIC_FROM:
            terms.append(values**2)
    if (counts >= _QUADRATIC_FROM).all():
        terms.append(y * x)
    return np.stack(terms, axis=1)


def _centre(mean: np.ndarray, weights: np.ndarray, edge: Edge) -> np.ndarray:
    """[y, x] of a disk of known radius and edge width; its height and its surroundings may differ between blocks."""
    grid = np.indices(mean.shape)
    y, x = grid[0], grid[1]
    good = weights > 0
    start = _centroid(np.where(good, mean, 0), edge)
    near = good & (np.abs(np.hypot(y - start[0], x - start[1]) - edge.radius_px) < 0.3 * edge.radius_px + 2)
    rows, cols, values = y[near], x[near], mean[near] / edge.height
    width = max(edge.width_px, 0.4)  # an edge sharper than the pixels would leave no slope to follow

    # Variable projection, as in edge.py, with one harmonic: the block's height and background may have a gradient.
    def misfit(point: np.ndarray) -> np.ndarray:
        angle = np.arctan2(rows - point[0], cols - point[1])
        distance = np.hypot(rows - point[0], cols - point[1]) - edge.radius_px
        step = profile(distance, width, "integrated")
        columns = np.stack(
            [
                part * wave
                for part in (step, 1 - step)
                for wave in (np.ones_like(angle), np.cos(angle), np.sin(angle))
            ],
            axis=1,
        )
        normal = columns.T @ columns + 1e-9 * np.eye(columns.shape[1])
        return columns @ np.linalg.solve(normal, columns.T @ values) - values

    return np.asarray(least_squares(misfit, start, diff_step=1e-3, loss="soft_l1", f_scale=0.1).x)


def _centroid(mean: np.ndarray, edge: Edge) -> np.ndarray:
    """Centroid of the pixels above half the height of the disk."""
    inside = mean > 0.5 * edge.height
    return np.argwhere(inside).mean(axis=0) if inside.any() else np.array(edge.centre)
