"""Checks of model and data-preparation options that depend on several parameters."""

from __future__ import annotations

import numpy as np

from pypty.params.report import Report
from pypty.params.settings import Settings


def mode_weights(settings: Settings) -> np.ndarray | None:
    """``obj_mode_weights``; None where all are 1."""
    weights: np.ndarray | None = settings["obj_mode_weights"]
    return None if weights is None or (weights == 1).all() else weights


def check_model(settings: Settings, report: Report) -> None:
    """Check the options of the model against each other."""
    weights, obj = settings["obj_mode_weights"], settings["obj"]
    modes = 1 if obj is None else obj.shape[3]
    if weights is not None and len(weights) != modes:
        report.add(
            "obj_mode_weights", f"{len(weights)} weights, but the object has {modes} modes (its last axis)"
        )
    elif weights is not None and not weights.any():
        report.add("obj_mode_weights", "all are zero; at least one mode must have a positive weight")
    _check_window(settings, report)
    # Virtual detectors are defined on the recorded pixels.
    if settings["masks"] is None:
        return
    for name in ("data_resample", "simu_Npix"):
        if settings.value(name) not in (None, 1):
            report.add(name, "cannot change virtual detectors; leave it out, and change masks instead")


def _check_window(settings: Settings, report: Report) -> None:
    """simu_Npix excludes data_pad and upsample_pattern, which also set the window of the waves."""
    side, mode = settings["simu_Npix"], settings["simu_match_mode"]
    if side is None and mode is not None:
        report.add(
            "simu_match_mode",
            f"given {mode!r}, but simu_Npix is not given; give the side of the simulated pattern",
        )
    if side is None:
        return
    if mode is None:
        report.add("simu_Npix", "given without simu_match_mode; choose 'crop' or 'resample'")
    for name, neutral in (("data_pad", 0), ("upsample_pattern", 1)):
        if settings.value(name) != neutral:
            report.add(
                "simu_Npix",
                f"given together with {name} = {settings.value(name)}; both set the window of the waves: give only "
                "one of them",
            )


def without_effect_in_model(settings: Settings) -> dict[str, tuple[bool, str]]:
    """For each key, whether it has no effect with the other parameters, and why."""
    fill, pad = settings["data_pad_fill"], settings["data_pad"]
    compared = settings["use_padded_intensity"] and settings["masks"] is None
    return {
        "data_pad_fill": (pad == 0 or not compared, "no padded rim is compared with data"),
        "data_pad_value": (fill not in ("constant", "linear_ramp"), f"data_pad_fill is {fill}"),
        "data_pad_threshold": (fill not in ("exp", "power"), f"data_pad_fill is {fill}"),
        "detector_blur_edge": (settings["detector_blur_std"] == 0, "detector_blur_std is 0"),
    }
