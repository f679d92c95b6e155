"""Positions of a raster scan in pixels of the reconstruction."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from pypty.errors import ParameterError
from pypty.initialize.common import checked, pixel_yx_A, positions_px, raster_of
from pypty.optics.scan_grid import rotation_yx, scan_grid_A

_log = logging.getLogger(__name__)
_STRAIGHT = 0.05
"""Largest rms distance from an affine grid, in scan steps, for a scan to count as a raster."""


def get_positions_pixel_size(
    x_range: int,
    y_range: int,
    scan_step_A: float,
    detector_pixel_size_rezA: float,
    patternshape: tuple[int, ...],
    rot_angle_deg: float = 0,
    flip_x: bool = False,
    flip_y: bool = False,
    print_flag: bool = False,
    transform_axis_matrix: np.ndarray | None = None,
) -> tuple[np.ndarray, float | np.ndarray]:
    """Positions of a raster, row by row, and the pixel size of the reconstruction.

    Parameters
    ----------
    x_range, y_range : number of scan points along the fast and the slow axis
    scan_step_A : distance between points, Å
    detector_pixel_size_rezA : pixel of the pattern, 1/Å
    patternshape : (…, ky, kx) of the padded pattern; the pixel size is 1/(number of pixels x reciprocal pixel)
    rot_angle_deg : PLRotation_deg (:func:`pypty.optics.scan_grid.rotation_yx`)
    flip_x, flip_y : whether the scan ran from right to left, or from bottom to top
    print_flag : log the pixel size
    transform_axis_matrix : (2, 2) applied to [y, x] before the rotation; None = none

    Returns
    -------
    positions : (y_range * x_range, 2) float64 [y, x], px; the smallest is 0 on both axes
    pixel_size : Å; a float if the pattern is square, else an array [y, x]

    Raises
    ------
    ParameterError
        A number is not positive, or the matrix is not 2 x 2.
    """
    for name, value in (
        ("x_range", x_range),
        ("y_range", y_range),
        ("scan_step_A", scan_step_A),
        ("detector_pixel_size_rezA", detector_pixel_size_rezA),
    ):
        if not value > 0:
            raise ParameterError(f"{name} is {value!r}, expected a positive number")
    points = scan_grid_A(
        (y_range, x_range), scan_step_A, rot_angle_deg, _flipped(flip_y, flip_x, transform_axis_matrix)
    )
    pixels = 1 / (detector_pixel_size_rezA * np.array(patternshape[-2:], float))
    square = pixels[0] == pixels[1]
    if print_flag:
        _log.info("pixel of the reconstruction: %.5g Å (y), %.5g Å (x)", *pixels)
    return (points - points.min(axis=0)) / pixels, float(pixels[0]) if square else pixels


def _flipped(flip_y: bool, flip_x: bool, matrix: Any) -> np.ndarray:
    transform = np.eye(2) if matrix is None else np.asarray(matrix, float)
    if transform.shape != (2, 2) or not np.isfinite(transform).all():
        raise ParameterError(
            f"transform_axis_matrix has shape {transform.shape}, expected 2 x 2 finite numbers"
        )
    return transform @ np.diag([-1.0 if flip_y else 1.0, -1.0 if flip_x else 1.0])


def get_offset(
    x_range: int,
    y_range: int,
    scan_step_A: float,
    detector_pixel_size_rezA: float,
    patternshape: tuple[int, ...],
    rot_angle_deg: float = 0,
) -> tuple[float, float]:
    """(y, x) offset in Å that makes the smallest coordinates of a rotated raster 0.

    ``detector_pixel_size_rezA`` and ``patternshape`` have no effect; they are kept for PyPty's signature.
    """
    points = scan_grid_A((y_range, x_range), scan_step_A, rot_angle_deg)
    low = -points.min(axis=0)
    return float(low[0]), float(low[1])


def fitted_raster(points: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, float]:
    """(matrix (2, 2), origin (2,), rms residual) of points = matrix @ [row, column] + origin, by least squares.

    Parameters
    ----------
    points : (rows * columns, 2) [y, x], row by row
    """
    rows, columns = (index.ravel().astype(float) for index in np.indices(size))
    design = np.stack([rows, columns, np.ones_like(rows)], axis=1)
    coefficients, *_ = np.linalg.lstsq(design, points, rcond=None)
    residual = float(np.sqrt(((points - design @ coefficients) ** 2).sum(axis=1).mean()))
    matrix = coefficients[:2].T.copy()
    for axis in np.flatnonzero(
        np.array(size) == 1
    ):  # a single row has no slope across it: assume square steps
        other = matrix[:, 1 - axis]
        matrix[:, axis] = (other[1], -other[0]) if axis == 0 else (-other[1], other[0])
    return matrix, coefficients[2], residual


def is_straight(matrix: np.ndarray, residual: float) -> bool:
    """Whether a fitted raster describes its points within 5 % of a step."""
    return bool(residual <= _STRAIGHT * np.linalg.norm(matrix, axis=0).min())


def get_grid_for_upsampled_image(
    pypty_params: Mapping[str, Any],
    image: np.ndarray,
    image_pixel_size: float,
    left_zero_of_scan_grid: float = 0,
    top_zero_of_scan_grid: float = 0,
) -> np.ndarray:
    """Coordinates, in the reconstruction, of the pixels of an image of the scanned area.

    Rows and columns of the image run along the axes of the scan, as in DPC or tcBF images, upsampled or not; its pixel
    (top_zero_of_scan_grid, left_zero_of_scan_grid) is scan point (0, 0). The raster is the affine grid that fits
    ``positions`` best, and so has the rotation, transformation and offset of the reconstruction.

    Parameters
    ----------
    pypty_params : with positions, scan_size, scan_step_A and the pixel size
    image : (rows, columns)
    image_pixel_size : Å
    left_zero_of_scan_grid, top_zero_of_scan_grid : px of the image

    Returns
    -------
    (rows * columns, 2) float64 [y, x] in Å, in the frame of positions x pixel size; for
    :func:`get_ptycho_obj_from_scan`

    Raises
    ------
    ParameterError
        The image is not 2-D, the pixel size is not positive, or scan_size does not fit the positions.
    """
    image = np.asarray(image)
    if image.ndim != 2 or not image_pixel_size > 0:
        raise ParameterError(
            f"image of shape {image.shape} with pixel {image_pixel_size!r} Å given, expected (rows, columns) and a "
            "positive number"
        )
    settings = checked(pypty_params)
    size = raster_of(settings, pypty_params)
    points = positions_px(settings) * pixel_yx_A(settings)
    if len(points) != size[0] * size[1]:
        raise ParameterError(
            f"scan_size {size} does not fit {len(points)} positions; correct it (slow, fast)"
        )
    matrix, origin, _ = fitted_raster(points, size)
    step = float(settings["scan_step_A"])
    rows, columns = (index.ravel() for index in np.indices(image.shape))
    # (rows * columns, 2): coordinates of the pixels in scan steps
    in_steps = np.stack([rows - top_zero_of_scan_grid, columns - left_zero_of_scan_grid], axis=1) * (
        image_pixel_size / step
    )
    return in_steps @ matrix.T + origin


def rotate_scan_grid(
    pypty_params: Mapping[str, Any], angle_deg: float | None = None, new_pl_rot: float | None = None
) -> dict[str, Any]:
    """Rotate the scan: positions become those of a new PLRotation_deg.

    (PyPty 2.2 rotates positions in the opposite direction.) An object array belongs to the old positions and is
    replaced by vacuum.

    Parameters
    ----------
    pypty_params : with positions and the pixel size; PLRotation_deg is 0 if it is missing
    angle_deg : added to PLRotation_deg
    new_pl_rot : the new PLRotation_deg; give either this or ``angle_deg``

    Returns
    -------
    new dict with positions (the smallest 0) and PLRotation_deg in (-180, 180]

    Raises
    ------
    ParameterError
        Neither or both of the angles were given.
    """
    if (angle_deg is None) == (new_pl_rot is None):
        raise ParameterError("give either angle_deg (added to PLRotation_deg) or new_pl_rot (replaces it)")
    settings = checked(pypty_params)
    old = settings["PLRotation_deg"]
    old = 0.0 if old is None or isinstance(old, str) else float(old)
    turn = float(angle_deg) if angle_deg is not None else float(new_pl_rot or 0.0) - old
    pixel = pixel_yx_A(settings)
    points = positions_px(settings) * pixel @ rotation_yx(turn).T
    out = dict(pypty_params)
    out["positions"] = (points - points.min(axis=0)) / pixel
    out["PLRotation_deg"] = float(180.0 - (180.0 - old - turn) % 360.0)  # in (-180, 180]
    if out.get("positions_correction") is not None:
        out["positions_correction"] = None  # contained in the new positions
    obj = settings["obj"]
    if obj is not None and obj.shape[:2] != (1, 1):
        _log.warning("rotate_scan_grid: the object belongs to the old positions; it is replaced by vacuum")
        out["obj"] = np.ones((1, 1, *obj.shape[2:]), complex)
    return out
