"""Measure the rotation between scan and detector from the contrast of direct ptychography."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from pypty.direct_methods.direct import wdd
from pypty.errors import ParameterError

_log = logging.getLogger(__name__)

_COARSE_DEG = 10.0
"""Step of the coarse search; the peak of the contrast has a half width of about 15 degrees."""


def get_neg_contrast_ptycho(
    x: float | Sequence[float] | np.ndarray, params: Mapping[str, Any], print_flag: bool | int
) -> float:
    """Minus the standard deviation in rad of the WDD phase for ``PLRotation_deg`` = ``x``.

    Parameters
    ----------
    x : angle in deg, or an array with a single value
    params : as for :func:`pypty.direct.wdd`; a defocus distinguishes an angle from its opposite
    print_flag : whether to log the result
    """
    angles = np.asarray(x, float).ravel()
    if angles.size != 1 or not np.isfinite(angles).all():
        raise ParameterError(f"x is {x!r}, expected a single angle in deg")
    image = wdd({**params, "PLRotation_deg": float(angles[0])})
    phase = np.angle(image * np.exp(-1j * np.angle(image.mean())))  # mean phase 0, away from the jump at pi
    contrast = float(phase.std())
    _log.log(
        logging.INFO if print_flag else logging.DEBUG, "rotation %.2f deg: contrast %.5f", angles[0], contrast
    )
    return -contrast


def find_twist_angle_ptycho_from_contrast(
    params: Mapping[str, Any],
    x0: float = 0,
    print_flag: bool | int = True,
    bounds: Sequence[tuple[float, float]] = ((0, 360),),
) -> float:
    """The rotation that maximises the contrast of the WDD phase, as PLRotation_deg in (-180, 180].

    The range is searched in steps of 10 degrees from ``x0``, then the best angle is refined to 0.05 degrees.

    Parameters
    ----------
    params : as for :func:`pypty.direct.wdd`, including aberrations
    x0 : deg, one of the angles of the coarse search
    bounds : [(low, high)] deg

    Raises
    ------
    ParameterError
        ``bounds`` is not a pair with low < high, ``x0`` lies outside, or a parameter is wrong.
    """
    pairs = np.asarray(bounds, float)
    if pairs.shape != (1, 2) or not np.isfinite(pairs).all() or not pairs[0, 0] < pairs[0, 1]:
        raise ParameterError(f"bounds is {bounds!r}, expected a pair [(low, high)] in deg with low < high")
    low, high = (float(value) for value in pairs[0])
    if not low <= x0 <= high:
        raise ParameterError(f"x0 is {x0!r}, expected between {low:g} and {high:g} deg; change it or bounds")
    below, above = int((x0 - low) / _COARSE_DEG), int((high - x0) / _COARSE_DEG)
    angles = x0 + _COARSE_DEG * np.arange(-below, above + 1)
    angles = np.unique(np.concatenate([angles, [low, high]]))
    if high - low >= 360:  # the end of a full turn is its beginning
        angles = angles[angles < low + 360]
    values = [get_neg_contrast_ptycho(angle, params, print_flag) for angle in angles]
    best = float(angles[int(np.argmin(values))])
    refined = minimize_scalar(
        lambda angle: get_neg_contrast_ptycho(angle, params, print_flag),
        bounds=(best - _COARSE_DEG, best + _COARSE_DEG)
        if high - low >= 360
        else (max(low, best - _COARSE_DEG), min(high, best + _COARSE_DEG)),
        method="bounded",
        options={"xatol": 0.05},
    )
    return float(180 - (180 - refined.x) % 360)
