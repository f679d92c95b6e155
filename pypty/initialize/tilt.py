"""Descan: the motion of the patterns over the detector during the scan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import scipy.ndimage

from pypty.direct_methods.numerics.com import centres_of_mass
from pypty.errors import ParameterError
from pypty.experiment import Experiment
from pypty.initialize.common import checked, pixel_yx_A, positions_px
from pypty.params.settings import Settings


def get_approx_beam_tilt(
    pypty_params: Mapping[str, Any],
    power: int = 3,
    make_binary: bool | float = False,
    percentile_filter_value: float | None = None,
    percentile_filter_size: int = 10,
) -> dict[str, Any]:
    """Tilts after the specimen, from the centres of mass of the patterns, smoothed by a polynomial of the position.

    A tilt t shifts a pattern by t/lambda, so t = centre of mass x reciprocal pixel x lambda. The polynomial has the
    terms y^i x^j with i + j < power; it removes the deflections of single patterns by the specimen.

    Parameters
    ----------
    pypty_params : with data in memory or in a file; stored comx and comy are not used, since their mean is removed
    power : 1 constant, 2 plane, 3 second order, ...
    make_binary : True, or a number b: set pixels above b (True = 1) times the mean of each pattern to 1, others to 0,
        for the centre of the disk's area rather than of its counts
    percentile_filter_value : 0 to 100; percentile of a filter on the maps of centres before the fit; None = no filter
    percentile_filter_size : size of that filter, scan points

    Returns
    -------
    new dict with tilts (N, 6) rad, columns 4 and 5 = [y, x] after the specimen (other columns unchanged), and
    tilt_mode 1, or 3 or 4 if tilts inside or before the specimen were on already

    Raises
    ------
    ParameterError
        No data are given, or an argument is out of range.
    """
    if int(power) != power or power < 1:
        raise ParameterError(f"power is {power!r}, expected a whole number from 1")
    settings = checked(pypty_params)
    centres, size, scale = _centres(pypty_params, settings, float(make_binary))
    if percentile_filter_value is not None:
        if not 0 <= percentile_filter_value <= 100 or percentile_filter_size < 1:
            raise ParameterError(
                f"percentile_filter_value {percentile_filter_value!r} and percentile_filter_size "
                f"{percentile_filter_size!r} given; expected 0 to 100, and scan points from 1"
            )
        maps = centres.reshape(*size, 2)
        centres = np.stack(
            [
                scipy.ndimage.percentile_filter(
                    maps[..., axis], percentile_filter_value, percentile_filter_size
                )
                for axis in (0, 1)
            ],
            axis=-1,
        ).reshape(-1, 2)
    points = positions_px(settings) * pixel_yx_A(settings)
    if len(points) != len(centres):
        raise ParameterError(f"{len(points)} positions given, but the data have {len(centres)} patterns")
    tilts = np.zeros((len(points), 6))
    if settings["tilts"] is not None:
        tilts[:] = settings["tilts"]
    tilts[:, 4:6] = _smoothed(points, centres, int(power)) * scale
    # Add the tilts after the specimen to those that act already (see tilt_mode).
    mode = {0: 3, 1: 1, 2: 4, 3: 3, 4: 4}[int(settings["tilt_mode"])] if tilts[:, :4].any() else 1
    return {**pypty_params, "tilts": tilts, "tilt_mode": mode}


def _centres(
    params: Mapping[str, Any], settings: Settings, threshold: float
) -> tuple[np.ndarray, tuple[int, int], np.ndarray]:
    """Centres (N, 2) px, scan size, and rad per pixel [y, x]."""
    if settings["masks"] is not None:
        raise ParameterError(
            "patterns are needed; sums over virtual detectors (masks) have no centre of mass of this kind"
        )
    if settings["dataset"] is None and not settings["data_path"]:
        raise ParameterError("no patterns were given; set dataset to an array, or data_path to a file")
    experiment = Experiment.from_params(params)
    try:
        angle = experiment.wavelength * np.array(experiment.pixel_1A)
        shape = (experiment.n_patterns, *experiment.pattern_shape)
        return centres_of_mass(_binary(experiment, threshold), shape), experiment.scan_size, angle
    finally:
        experiment.source.close()


def _binary(experiment: Experiment, threshold: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for indices, patterns in experiment.chunks():
        if threshold:
            limit = threshold * patterns.mean(axis=(1, 2), keepdims=True)
            patterns = (patterns > limit).astype(np.float32)
        yield indices, patterns


def _smoothed(points: np.ndarray, values: np.ndarray, power: int) -> np.ndarray:
    """Least-squares fit to values (N, 2) by a polynomial of the points (N, 2), with all terms of degree < ``power``."""
    span = np.maximum(np.ptp(points, axis=0), np.finfo(float).tiny)
    y, x = (2 * (points - points.min(axis=0)) / span - 1).T  # scaled to [-1, 1] for conditioning
    terms = [y**i * x**j for i in range(power) for j in range(power - i)]
    design = np.stack(terms, axis=1)
    coefficients, *_ = np.linalg.lstsq(design, values, rcond=None)
    return design @ coefficients
