"""A quick check whether patterns agree with an orientation that is believed to be right."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pypty.calibrate.fields import Maps, free_of_curl, read_maps
from pypty.calibrate.measured import open_far_field, pixel_weights
from pypty.calibrate.orientation import (
    CLEAR,
    SMALLEST_COHERENCE,
    SMALLEST_SHIFT,
    curl_doubt,
    few_points,
    largest_shift,
)
from pypty.calibrate.shifts import PixelImages, best_number
from pypty.calibrate.suggestion import Suggestion, unsure_line
from pypty.errors import DataError

_WRONG_WAY = 0.2  # 1 for centres of mass without curl: below it they contradict the rotation
_SAME_HAND_DEG = (45, 90, 135)  # away from the believed rotation; half a turn is a change of sign
_OTHER_HAND_DEG = tuple(range(0, 180, 30))
_FREQUENCIES = 150  # the strongest ones of the images, for a coarse answer


class Disk(NamedTuple):
    """Centre [y, x] and radius of the bright-field disk, px."""

    centre: tuple[float, float]
    radius_px: float


def confirm(params: Mapping[str, Any], angle_deg: float, mirrored: bool = False) -> Suggestion:
    """Whether the patterns agree with a rotation between scan and detector, from the shifts of bright-field images.

    Parameters
    ----------
    params : parameters of the data with ``scan_size``
    angle_deg : rotation of the fast axis of the scan in the frame of the detector
    mirrored : slow and fast axis are of the other hand than in a raster of :func:`pypty.optics.scan_grid.scan_grid_A`

    Returns
    -------
    Suggestion
        without parameters. Values: ``agrees`` (no other orientation fits clearly better), ``fit`` and ``best_other``
        (coherence of the images, 0 to 1; of rotations 45 degrees and more away, and of the other hand),
        ``curl_free``, ``unsure`` (reasons).

    Raises
    ------
    DataError
        The scan has fewer than 6 x 6 points, or there is no disk.
    """
    experiment = open_far_field(params, "orientation")
    try:
        weights = pixel_weights(experiment)
        maps = read_maps(experiment, _disk(np.nan_to_num(experiment.mean_pattern) * (weights > 0)), weights)
    finally:
        experiment.source.close()
    few, largest = maps.images.coarse, largest_shift(maps)
    images = PixelImages(few.k, few.q[:_FREQUENCIES], few.spectra[:, :_FREQUENCIES])
    rim = float(np.hypot(*images.k.T).max())
    number, fit = best_number(images, angle_deg, mirrored, largest)
    turns = [(turn, mirrored) for turn in _SAME_HAND_DEG] + [(turn, not mirrored) for turn in _OTHER_HAND_DEG]
    others = [best_number(images, angle_deg + turn, hand, largest) for turn, hand in turns]
    other, best_other = max(others, key=lambda found: found[1])
    curl_free = free_of_curl(maps.com, mirrored, angle_deg)
    moved = rim * abs(other if best_other > fit else number)
    seen = moved > SMALLEST_SHIFT and max(fit, best_other) > SMALLEST_COHERENCE
    agrees = not (seen and best_other > CLEAR * max(fit, 0.0))
    if not seen and curl_free < _WRONG_WAY:
        agrees = False
    doubts = _doubts(maps, seen, fit, best_other, curl_free)
    values = {
        "agrees": agrees,
        "fit": fit,
        "best_other": best_other,
        "curl_free": curl_free,
        "unsure": doubts,
    }
    text = (
        f"orientation: the images of bright-field pixels coincide to {100 * max(fit, 0):.0f} %, with other "
        f"orientations to {100 * max(best_other, 0):.0f} %; centres of mass are {100 * curl_free:.0f} % free of curl"
    )
    return Suggestion({}, values, "\n".join([text, *unsure_line(doubts)]))


def _disk(mean: np.ndarray) -> Disk:
    """The area above half the height of the bright pixels."""
    lit = mean[mean > 0]
    inside = mean > 0.5 * np.percentile(lit, 95) if len(lit) else mean > 0
    if not inside.any():
        raise DataError("the mean pattern has no bright-field disk")
    y, x = np.median(np.argwhere(inside), axis=0)
    return Disk((float(y), float(x)), math.sqrt(inside.sum() / math.pi))


def _doubts(maps: Maps, seen: bool, fit: float, best_other: float, curl_free: float) -> tuple[str, ...]:
    doubts = list(few_points(maps.dark.shape))
    if not seen:
        doubts.append(curl_doubt(curl_free))
    elif max(fit, best_other) < CLEAR * min(fit, best_other):
        doubts.append("other orientations fit nearly as well")
    return tuple(doubts)
