"""The bright-field disk: its radius and centre calibrate the detector."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pypty.calibrate.edge import SAMPLED, Edge, fit_edge
from pypty.calibrate.measured import open_far_field, pixel_weights
from pypty.calibrate.suggestion import Suggestion, unsure_line
from pypty.errors import ParameterError
from pypty.experiment import Experiment
from pypty.plots.calibration import plot_disk

# Any of them calibrates the detector.
_PIXEL_KEYS = ("rez_pixel_size_mrad", "rez_pixel_size_A", "pixel_size_x_A", "pixel_size_y_A")
_FEW = 5.0  # counts of a pixel of the disk in all patterns
_MISFIT = 0.15  # of the height of the disk
_ROUND = 0.02
"""Ellipticity above which the text mentions it."""


def disk(params: Mapping[str, Any], conv_semiangle_mrad: float | None = None) -> Suggestion:
    """Radius, centre and ellipticity of the bright-field disk, and from them the pixel size or the
    semi-angle.

    With a convergence semi-angle alpha and a radius of R pixels a pixel is alpha/R. Without one, a pixel
    size that the parameters give turns R into the semi-angle.

    Parameters
    ----------
    params : parameters of the data; patterns are analysed after flip, shift and binning
    conv_semiangle_mrad : the known semi-angle; None = that of ``params``, if it has one

    Returns
    -------
    Suggestion
        Parameters ``rez_pixel_size_mrad``, ``rez_pixel_size_A`` (1/Å, of a detector pixel before binning),
        ``pixel_size_x_A``, ``pixel_size_y_A``, ``conv_semiangle_mrad`` (as far as they are known),
        ``data_shift_vector`` (the given one and the correction), and ``aperture_mask`` (bool, padded).
        Values ``radius_px``, ``centre_y_px``, ``centre_x_px``, ``ellipticity``, ``ellipse_angle_deg``,
        ``edge_width_px``, ``pixel_mrad``, ``semiangle_mrad``, ``unsure`` (reasons why they may be wrong).

    Raises
    ------
    DataError
        No disk is found, or it is not all on the detector.
    ParameterError
        The data are not diffraction patterns, or the semi-angle is not a positive number.
    """
    experiment = open_far_field(params, "disk")
    try:
        angle = _semiangle(experiment, conv_semiangle_mrad)
        weights = pixel_weights(experiment)
        mean = np.nan_to_num(experiment.mean_pattern)
    finally:
        experiment.source.close()
    edge = fit_edge(mean, weights)
    known = any(params.get(key) is not None for key in _PIXEL_KEYS)
    given_mrad = experiment.pixel_mrad if known else None
    # a known semi-angle calibrates the pixel, else a known pixel the semi-angle
    pixel = angle / edge.radius_px if angle is not None else (given_mrad[0] if given_mrad else None)
    semiangle = pixel * edge.radius_px if pixel is not None else None
    shift = _shift(experiment, edge)
    suggested = _pixel_params(experiment, pixel if angle is not None else None)
    if semiangle is not None:
        suggested["conv_semiangle_mrad"] = semiangle
    suggested["data_shift_vector"] = shift
    suggested["aperture_mask"] = _aperture_mask(experiment, edge, shift)
    values: dict[str, Any] = {
        "radius_px": edge.radius_px,
        "centre_y_px": edge.centre[0],
        "centre_x_px": edge.centre[1],
        "ellipticity": edge.ellipticity,
        "ellipse_angle_deg": edge.ellipse_angle_deg,
        "edge_width_px": edge.width_px,
        "edge_residual": edge.residual,
        "unsure": _doubts(experiment, edge),
    }
    if pixel is not None and semiangle is not None:
        values |= {"pixel_mrad": pixel, "semiangle_mrad": semiangle}
    stale = "rez_pixel_size_mrad" in suggested and params.get("positions") is not None
    text = _text(experiment, edge, angle, pixel, given_mrad, shift)
    if stale:
        text += "\n  positions were given in pixels: compute them again with this pixel size"
    text = "\n".join([text, *unsure_line(values["unsure"])])
    return Suggestion(
        suggested, values, text, plot_disk(mean * (weights > 0), **dataclasses.asdict(edge), pixel_mrad=pixel)
    )


def _doubts(experiment: Experiment, edge: Edge) -> tuple[str, ...]:
    """Reasons why radius and centre may be wrong."""
    doubts = []
    counts = edge.height * int((~experiment.left_out).sum())
    if counts < _FEW:
        doubts.append(f"a pixel of the disk counts only {counts:.2g} in all patterns")
    if edge.residual > _MISFIT:
        doubts.append(f"the edge differs from that of a disk by {100 * edge.residual:.0f} % of its height")
    return tuple(doubts)


def _semiangle(experiment: Experiment, conv_semiangle_mrad: float | None) -> float | None:
    """Convergence semi-angle in mrad, or None if it is not known."""
    value = (
        conv_semiangle_mrad if conv_semiangle_mrad is not None else experiment.settings["conv_semiangle_mrad"]
    )
    if value is None:
        return None
    try:
        angle = float(value)
    except (TypeError, ValueError):
        angle = math.nan
    if not (math.isfinite(angle) and angle > 0):
        raise ParameterError(f"conv_semiangle_mrad is {value!r}, expected a positive number of mrad")
    return angle


def _pixel_params(experiment: Experiment, pixel_mrad: float | None) -> dict[str, Any]:
    """Pixel sizes of detector and reconstruction; empty without the semi-angle."""
    if pixel_mrad is None:
        return {}
    pixel_1A = pixel_mrad * 1e-3 / experiment.wavelength
    # the pixel of the reconstruction is the reciprocal of the width of the padded pattern
    window = experiment.window.calibrated((pixel_1A, pixel_1A))
    return {
        "rez_pixel_size_mrad": pixel_mrad / window.detector_pixels,
        "rez_pixel_size_A": pixel_1A / window.detector_pixels,
        "pixel_size_x_A": window.pixel_size_A[1],
        "pixel_size_y_A": window.pixel_size_A[0],
    }


def _shift(experiment: Experiment, edge: Edge) -> np.ndarray:
    """(2,) detector pixels [ky, kx]: the given shift plus the whole pixels that centre the disk at n//2."""
    target = np.array(experiment.pattern_shape) // 2
    wanted = (target - np.array(edge.centre)) * experiment.preprocess.detector_pixels
    return np.array(experiment.preprocess.shift) + np.round(wanted).astype(int)


def _aperture_mask(experiment: Experiment, edge: Edge, shift: np.ndarray) -> np.ndarray:
    """(ky, kx) bool, padded: pixels inside the disk once the patterns are shifted."""
    across = experiment.window.across
    moved = (shift - np.array(experiment.preprocess.shift)) / experiment.preprocess.detector_pixels
    # What whole detector pixels cannot correct, in pixels of the prepared (binned) pattern.
    offset = np.array(edge.centre) + moved - np.array(experiment.pattern_shape) // 2
    ny, nx = experiment.window.model
    y = (np.arange(ny) - ny // 2)[:, None] / across[0] - offset[0]
    x = (np.arange(nx) - nx // 2)[None, :] / across[1] - offset[1]
    return np.hypot(y, x) <= edge.radius_px


def _text(
    experiment: Experiment,
    edge: Edge,
    angle: float | None,
    pixel: float | None,
    given_mrad: tuple[float, float] | None,
    shift: np.ndarray,
) -> str:
    lines = [
        f"disk: radius {edge.radius_px:.3f} px, centre [{edge.centre[0]:.2f}, {edge.centre[1]:.2f}] px "
        f"(zero frequency belongs at {[n // 2 for n in experiment.pattern_shape]}), ellipticity "
        f"{100 * edge.ellipticity:.2f} %, edge {edge.width_px:.2f} px wide"
    ]
    if edge.kind == SAMPLED:
        lines.append(
            "  the edge is sharper than detector pixels can show: patterns are samples of a simulated wave"
        )
    if angle is not None and pixel is not None:
        lines.append(f"  pixel {pixel:.5g} mrad from the semi-angle {angle:g} mrad")
        if given_mrad is not None:
            lines.append(
                f"  the parameters gave {given_mrad[0]:.5g} mrad, {100 * (given_mrad[0] / pixel - 1):+.2f} %"
            )
    elif pixel is not None:
        lines.append(
            f"  semi-angle {pixel * edge.radius_px:.5g} mrad from the given pixel of {pixel:.5g} mrad"
        )
    else:
        lines.append("  neither conv_semiangle_mrad nor a pixel size is given: the radius stays in pixels")
    before = np.array(experiment.preprocess.shift)
    if (shift != before).any():
        lines.append(f"  patterns must be shifted by {(shift - before).tolist()} detector pixels (ky, kx)")
    if edge.ellipticity > _ROUND:
        lines.append(
            f"  the disk is elliptical, longest at {edge.ellipse_angle_deg:.0f} deg from kx: check the alignment of "
            "the projector lenses"
        )
    return "\n".join(lines)
