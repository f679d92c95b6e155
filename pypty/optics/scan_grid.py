"""The raster of a scan in the frame of the detector. All code takes the sign of the scan rotation from here."""

from __future__ import annotations

import numpy as np


def rotation_yx(angle_deg: float) -> np.ndarray:
    """(2, 2) matrix that transforms scan coordinates [y, x] into detector coordinates.

    x' = x cos a - y sin a, y' = x sin a + y cos a with a = ``PLRotation_deg``. Positions are multiplied by it, centres
    of mass by its inverse. (PyPty 2.2 rotates positions in the same way, but measures the angle with the other sign.)
    """
    angle = np.deg2rad(angle_deg)
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, s], [-s, c]])


def scan_grid_A(
    scan_size: tuple[int, int],
    step_A: float | tuple[float, float],
    rotation_deg: float = 0.0,
    transform: np.ndarray | None = None,
) -> np.ndarray:
    """(sy * sx, 2) scan positions [y, x] in Å in the frame of the detector, row by row, the first at the origin.

    Parameters
    ----------
    scan_size : points (slow, fast)
    step_A : distance between neighbouring points; a number for both axes, or (slow, fast)
    transform : (2, 2) matrix applied to [y, x] before the rotation; None for none
    """
    steps = np.broadcast_to(np.asarray(step_A, float), (2,))
    rows, columns = np.meshgrid(np.arange(scan_size[0]), np.arange(scan_size[1]), indexing="ij")
    # 2 x (slow, fast) -> (slow * fast, 2)
    points = np.stack([rows.ravel() * steps[0], columns.ravel() * steps[1]], axis=1)
    matrix = rotation_yx(rotation_deg)
    if transform is not None:
        matrix = matrix @ np.asarray(transform, float)
    return points @ matrix.T  # positions are rows, so the transpose stands on the right
