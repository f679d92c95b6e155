"""Parts of a scan: blocks with separate probes or aberrations, and sequences of patterns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pypty.errors import ParameterError
from pypty.initialize.common import checked, raster_of


def create_aberrations_chunks(pypty_params: Mapping[str, Any], chop_size: int, n_abs: int) -> dict[str, Any]:
    """Give each block of chop_size x chop_size scan points separate aberrations, zero at first.

    Parameters
    ----------
    pypty_params : with scan_size
    chop_size : scan points; blocks at the end of a row or column may be smaller
    n_abs : number of Krivanek coefficients C10, C12a, ... of each block

    Returns
    -------
    new dict with aberration_marker (N,) int, blocks counted row by row, and aberrations_array (blocks, n_abs) Å

    Raises
    ------
    ParameterError
        scan_size is missing, or a number is below 1.
    """
    marker = _blocks(pypty_params, chop_size)
    if not int(n_abs) >= 1:
        raise ParameterError(f"n_abs is {n_abs!r}, expected at least one aberration for each block")
    array = np.zeros((int(marker.max()) + 1, int(n_abs)))
    return {**pypty_params, "aberration_marker": marker, "aberrations_array": array}


def create_probe_marker_chunks(pypty_params: Mapping[str, Any], chop_size: int) -> dict[str, Any]:
    """Give each block of chop_size x chop_size scan points a separate probe.

    Returns
    -------
    new dict with probe_marker (N,) int, blocks counted row by row; all of them start from a 3-D probe

    Raises
    ------
    ParameterError
        scan_size is missing, or ``chop_size`` is below 1.
    """
    return {**pypty_params, "probe_marker": _blocks(pypty_params, chop_size)}


def _blocks(params: Mapping[str, Any], chop_size: int) -> np.ndarray:
    """(N,) index of the block of each scan point."""
    size = raster_of(checked(params), params)
    chop = int(chop_size)
    if chop < 1:
        raise ParameterError(f"chop_size is {chop_size!r}, expected at least one scan point")
    rows, columns = np.indices(size) // chop
    return (rows * -(-size[1] // chop) + columns).ravel()  # -(-a // b): blocks per row, rounded up


def create_sub_sequence(
    pypty_params: Mapping[str, Any], left: int, top: int, width: int, height: int, sub: int
) -> dict[str, Any]:
    """Use only a rectangle of the scan, and in it every ``sub``-th point of every ``sub``-th row.

    Parameters
    ----------
    left, top, width, height : scan points
    sub : 1 = all of them

    Returns
    -------
    new dict with sequence, sorted indices of patterns

    Raises
    ------
    ParameterError
        The rectangle is empty or leaves the scan.
    """
    rows, columns = raster_of(checked(pypty_params), pypty_params)
    inside = 0 <= left < left + width <= columns and 0 <= top < top + height <= rows
    if not inside or int(sub) < 1:
        raise ParameterError(
            f"left {left}, top {top}, width {width}, height {height}, sub {sub} given; expected a part of a scan of "
            f"{rows} rows and {columns} columns, and sub >= 1"
        )
    y = np.arange(top, top + height, int(sub))
    x = np.arange(left, left + width, int(sub))
    return {**pypty_params, "sequence": (y[:, None] * columns + x[None, :]).ravel().tolist()}


def create_sequence_from_points(
    pypty_params: Mapping[str, Any],
    yf: Iterable[float] | float,
    xf: Iterable[float] | float,
    width_roi: int = 20,
) -> list[int]:
    """Indices of the patterns in squares around points of interest.

    Parameters
    ----------
    yf, xf : rows and columns of the points, scan points
    width_roi : side of the squares, scan points: a square reaches from y - width_roi//2 to
        y - width_roi//2 + width_roi - 1; parts outside the scan are cut off

    Returns
    -------
    sorted list, each index once

    Raises
    ------
    ParameterError
        A point is outside the scan, or their numbers differ.
    """
    size = raster_of(checked(pypty_params), pypty_params)
    ys, xs = (np.atleast_1d(np.asarray(values, float)) for values in (yf, xf))
    if ys.shape != xs.shape or int(width_roi) < 1:
        raise ParameterError(
            f"{ys.size} rows and {xs.size} columns with width_roi {width_roi!r} given; expected pairs, and a width >= 1"
        )
    chosen = np.zeros(size, bool)
    for y, x in zip(np.round(ys).astype(int), np.round(xs).astype(int), strict=True):
        if not (0 <= y < size[0] and 0 <= x < size[1]):
            raise ParameterError(f"the point [{y}, {x}] is outside the scan of {size[0]} x {size[1]} points")
        top, left = y - int(width_roi) // 2, x - int(width_roi) // 2
        chosen[max(top, 0) : max(top + int(width_roi), 0), max(left, 0) : max(left + int(width_roi), 0)] = (
            True
        )
    return np.flatnonzero(chosen.ravel()).tolist()
