"""The rotation between scan and detector, from centres of mass."""

from __future__ import annotations

import numpy as np

from pypty.errors import DataError
from pypty.optics.scan_grid import rotation_yx

_SMALLEST_SCAN = 3  # points along each axis, for one inner point


def rotation_from_com(com_y: np.ndarray, com_x: np.ndarray) -> float:
    """PLRotation_deg, the angle that rotates scan coordinates into those of the detector.

    The centre of mass of a pattern is the gradient of the object's phase, blurred by the probe. In the frame of the
    scan it has no curl, so with c = R(a)^-1 c_detector (:func:`pypty.optics.scan_grid.rotation_yx`) the variance of
    curl = dc_x/dy - dc_y/dx = cos(a) u + sin(a) v is smallest at the angle, where u is the curl and v the divergence of
    the measured field. As a function of a it is a quadratic form of (cos a, sin a): the minimum is at
    a = atan2(-2 cov(u, v), var(v) - var(u)) / 2, or half a turn from it.

    Both have the same curl. Atoms attract the beam. In the frame of the scan, therefore, the divergence of the field
    (the Laplacian of a phase with narrow maxima at atoms) is often weakly positive and seldom strongly negative, and
    its third central moment is negative. The angle with a negative moment is returned. Where the moment is not
    significant (vacuum, or as many narrow minima as maxima) half a turn remains undecided, and :func:`attraction` is
    near 0. A defocused probe larger than the distance between atoms can invert their contrast: if the defocus is known,
    ``pypty.initialize`` decides by the shifts of bright-field images instead.

    Parameters
    ----------
    com_y, com_x : (rows, columns) float, centres of mass on the detector, any unit; rows along the slow axis

    Returns
    -------
    float, degrees, in (-180, 180]

    Raises
    ------
    DataError
        The maps differ in shape, are smaller than 3 x 3 points, or not finite.
    """
    curl, divergence = _derivatives(com_y, com_x)
    u, v = curl - curl.mean(), divergence - divergence.mean()
    angle = 0.5 * np.rad2deg(np.arctan2(-2 * (u * v).mean(), (v**2).mean() - (u**2).mean()))
    if attraction(com_y, com_x, float(angle)) < 0:
        angle += 180.0
    return float(180.0 - (180.0 - angle) % 360.0)


def curl_std(angle_deg: float, com_y: np.ndarray, com_x: np.ndarray) -> float:
    """Standard deviation of the curl of the centres of mass, rotated into the frame of the scan by the angle."""
    curl, divergence = _derivatives(com_y, com_x)
    angle = np.deg2rad(angle_deg)
    return float((np.cos(angle) * curl + np.sin(angle) * divergence).std())


def attraction(com_y: np.ndarray, com_x: np.ndarray, angle_deg: float) -> float:
    """Minus the skewness of the divergence in the frame of the scan; positive if there are narrow attracting centres.

    If the angle is wrong by half a turn it has the opposite sign. Values within +-0.2 are not significant.
    """
    back = rotation_yx(angle_deg).T  # inverse rotation: detector to scan
    field = np.einsum("ij,jyx->iyx", back, np.stack([com_y, com_x]).astype(float))
    _, divergence = _derivatives(field[0], field[1])
    d = divergence - divergence.mean()
    spread = d.std()
    return float(-(d**3).mean() / spread**3) if spread > 0 else 0.0


def _derivatives(com_y: np.ndarray, com_x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows, columns) curl d c_x/dy - d c_y/dx and divergence d c_y/dy + d c_x/dx, per scan step."""
    y, x = np.asarray(com_y, float), np.asarray(com_x, float)
    if y.shape != x.shape or y.ndim != 2 or min(y.shape) < _SMALLEST_SCAN:
        raise DataError(
            f"centres of mass of shapes {y.shape} and {x.shape} given, expected two maps (rows, columns) of at least "
            f"{_SMALLEST_SCAN} x {_SMALLEST_SCAN} scan points"
        )
    if not (np.isfinite(y).all() and np.isfinite(x).all()):
        raise DataError(
            "centres of mass that are NaN or infinite were given; leave out patterns without counts"
        )
    return (
        np.gradient(x, axis=0) - np.gradient(y, axis=1),
        np.gradient(y, axis=0) + np.gradient(x, axis=1),
    )
