"""Fit grids to scan positions, and resample an object on the scan grid."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.ndimage import map_coordinates

from pypty.errors import ParameterError
from pypty.optics.scan_grid import rotation_yx

_log = logging.getLogger(__name__)


def mesh_model_positions(
    step_size: float, angle_rad: float, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(x', y') of a grid with this step and rotation: x' = s (x cos a - y sin a), y' = s (x sin a + y cos a).

    ``angle_rad`` is PLRotation_deg in rad (:func:`pypty.optics.scan_grid.rotation_yx`).
    """
    yx = (
        np.stack([np.asarray(y, float), np.asarray(x, float)], axis=-1) @ rotation_yx(np.rad2deg(angle_rad)).T
    )
    return step_size * yx[..., 1], step_size * yx[..., 0]


def mesh_objective_positions(
    ini_guess: Sequence[float], x: np.ndarray, y: np.ndarray, mesh_x: np.ndarray, mesh_y: np.ndarray
) -> float:
    """Sum of squared distances between positions (x, y) and the grid (mesh_x, mesh_y) with ``ini_guess`` = [step, angle
    in rad]."""
    if len(ini_guess) != 2:
        raise ParameterError(f"ini_guess has {len(ini_guess)} values, expected [step, angle in rad]")
    model_x, model_y = mesh_model_positions(ini_guess[0], ini_guess[1], mesh_x, mesh_y)
    return float(((x - model_x) ** 2 + (y - model_y) ** 2).sum())


def get_step_angle_scan_grid(
    positions: np.ndarray, scan_size: Sequence[int], print_flag: int = 1
) -> tuple[float, float]:
    """Step and rotation of the regular grid that fits the positions best.

    With z = x + iy about the centres, the least-squares solution is s exp(ia) = sum z* z' / sum |z|^2.

    Parameters
    ----------
    positions : (N, 2) [y, x], row by row
    scan_size : points (slow, fast)
    print_flag : log the result if above 0

    Returns
    -------
    step : in the unit of the positions
    angle_deg : in (-180, 180], as ``PLRotation_deg``
    """
    measured, grid = _centred_scan(positions, scan_size)
    z, moved = grid[:, 1] + 1j * grid[:, 0], measured[:, 1] + 1j * measured[:, 0]
    factor = np.vdot(z, moved) / np.vdot(z, z).real
    step, angle = float(np.abs(factor)), float(np.rad2deg(np.angle(factor)))
    _log.log(logging.INFO if print_flag else logging.DEBUG, "scan step %.4f, rotation %.3f deg", step, angle)
    return step, angle


def get_affine_transform(
    positions: np.ndarray, scan_size: Sequence[int], px_size_A: float, print_flag: int = 1
) -> np.ndarray:
    """(2, 2) matrix M in Å, [y, x] order: positions = M (row, column) + offset, by least squares.

    Its columns are the steps along the slow and the fast axis. For a regular scan it is step *
    rotation_yx(PLRotation_deg).

    Parameters
    ----------
    positions : (N, 2) [y, x] in pixels, row by row
    px_size_A : size of a pixel, Å
    """
    if not px_size_A > 0:
        raise ParameterError(f"px_size_A is {px_size_A!r}, expected a length in Å above 0")
    measured, grid = _centred_scan(positions, scan_size)
    solution, _, rank, _ = np.linalg.lstsq(grid, measured * px_size_A, rcond=None)
    if rank < 2:
        raise ParameterError(
            f"scan_size {tuple(scan_size)} is a single line, which does not determine a matrix"
        )
    _log.log(
        logging.INFO if print_flag else logging.DEBUG, "scan matrix [y, x] in Å: %s", solution.T.tolist()
    )
    return solution.T


def get_affine_tranform(
    positions: np.ndarray, scan_size: Sequence[int], px_size_A: float, print_flag: int = 1
) -> np.ndarray:
    """:func:`get_affine_transform`, in PyPty's spelling."""
    return get_affine_transform(positions, scan_size, px_size_A, print_flag)


def _centred_scan(positions: np.ndarray, scan_size: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) positions and grid points [y, x] about their centres."""
    measured = np.asarray(positions, float)
    n = int(np.prod(scan_size))
    if len(scan_size) != 2 or measured.shape != (n, 2) or n < 2:
        raise ParameterError(
            f"positions of shape {measured.shape} with scan_size {tuple(scan_size)}; expected ({n}, 2), row by row"
        )
    rows, columns = np.divmod(np.arange(n), int(scan_size[1]))
    grid = np.stack([rows, columns], axis=1).astype(float)
    return measured - measured.mean(axis=0), grid - grid.mean(axis=0)


def crop_ptycho_object_to_stem_roi(o: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
    """The scanned part of an object, rotated into the frame of the scan, so that it matches a STEM image.

    Parameters
    ----------
    o : (y, x, ...) complex, in the frame of the detector
    params : with ``scan_size``, ``scan_step_A``, ``PLRotation_deg``, ``pixel_size_y_A`` and ``pixel_size_x_A``. The
        centre of the scan is the centre of ``positions`` plus half a patch (the size of ``probe``, else derived from
        ``positions`` and the size of the object); without positions the centre of the object

    Returns
    -------
    (y, x, ...) with pixels of the same size, from the first scan point to the last; 1 outside the object
    """
    o = np.asarray(o)
    missing = [
        k for k in ("scan_size", "scan_step_A", "pixel_size_y_A", "pixel_size_x_A") if params.get(k) is None
    ]
    if missing or o.ndim < 2:
        raise ParameterError(
            f"needed are an object (y, x, ...), not {o.shape}, and the parameters {missing or 'given'}"
        )
    pixel = np.array([params["pixel_size_y_A"], params["pixel_size_x_A"]], float)
    # [y, x] distance from the first to the last scan point, px
    extent = (np.array(params["scan_size"]) - 1) * float(params["scan_step_A"]) / pixel
    shape = np.floor(extent + 1e-9).astype(int) + 1
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1) - extent / 2
    rotation = rotation_yx(float(params.get("PLRotation_deg") or 0.0))
    # Rotate in Å, since pixels need not be square: (y, x, 2) coordinates in the object
    at = _scan_centre(o, params) + (grid * pixel) @ rotation.T / pixel
    planes = o.reshape(*o.shape[:2], -1)
    out = [
        map_coordinates(planes[:, :, index], np.moveaxis(at, -1, 0), order=3, mode="constant", cval=1.0)
        for index in range(planes.shape[2])
    ]
    return np.stack(out, axis=-1).reshape(*shape, *o.shape[2:])


def _scan_centre(o: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
    """[y, x] centre of the scan in pixels of the object."""
    shape = np.array(o.shape[:2])
    if params.get("positions") is None:
        return (shape - 1) / 2
    positions = np.asarray(params["positions"], float)
    low, high = positions.min(axis=0), positions.max(axis=0)
    probe = params.get("probe")
    if isinstance(probe, np.ndarray):
        window = np.array(probe.shape[:2])
    else:
        window = np.round(shape - high - low).astype(int)
    return (low + high) / 2 + window // 2
