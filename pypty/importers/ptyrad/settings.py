"""Settings of PtyRAD's parameter files that have a counterpart here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pypty.errors import ParameterError
from pypty.optics.aberrations import krivanek_orders
from pypty.optics.wavelength import wavelength_A

_N_TERMS = 25
"""Number of Krivanek coefficients up to fifth order."""
_TREATMENTS = ("meas_permute", "meas_reshape", "meas_crop", "meas_resample", "meas_add_source_size")


def settings_of(
    init: Mapping[str, Any], attributes: Mapping[str, Any], window: int
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Parameters other than arrays, and notes on PtyRAD's processing of the patterns.

    Parameters
    ----------
    init : init_params
    attributes : model_attributes
    window : pixels of the simulated pattern
    """
    settings: dict[str, Any] = {}
    notes: list[str] = []
    slow, fast = attributes.get("N_scan_slow"), attributes.get("N_scan_fast")
    if slow and fast:
        settings["scan_size"] = [int(slow), int(fast)]
    _common(init, settings)
    if attributes.get("detector_blur_std"):
        settings["detector_blur_std"] = float(attributes["detector_blur_std"])
        settings["detector_blur_edge"] = "reflect"
    _match(attributes, window, settings)
    _orientation(init.get("meas_flipT"), settings, notes)
    pad = init.get("meas_pad")
    if pad and pad.get("mode") and attributes.get("meas_Npix") and init.get("meas_Npix"):
        extra = int(attributes["meas_Npix"]) - int(init["meas_Npix"])
        if extra > 0 and extra % 2 == 0 and not init.get("meas_resample") and not init.get("meas_crop"):
            settings["data_pad"] = extra // 2
            notes.append(
                f"PtyRAD padded the patterns with {pad.get('padding_type')} values; here they are padded with zeros"
            )
        else:
            notes.append(
                f"PtyRAD padded the patterns to {attributes['meas_Npix']} pixels; do the same to the data"
            )
    for name in _TREATMENTS:
        if init.get(name) is not None:
            notes.append(f"PtyRAD changed the patterns by {name} = {init[name]!r}; do the same to the data")
    return settings, tuple(notes)


def _common(init: Mapping[str, Any], settings: dict[str, Any]) -> None:
    for theirs, ours in (("pos_scan_step_size", "scan_step_A"), ("probe_conv_angle", "conv_semiangle_mrad")):
        if init.get(theirs) is not None:
            settings[ours] = float(init[theirs])
    affine = init.get("pos_scan_affine")
    if affine is not None:  # PtyRAD's rotation acts from the right on rows (y, x), with the opposite sign
        settings["PLRotation_deg"] = -float(np.asarray(affine, float)[2])


def _match(attributes: Mapping[str, Any], window: int, settings: dict[str, Any]) -> None:
    """Parameters that match simulated patterns to the measured size."""
    mode, measured = attributes.get("simu_match_mode"), attributes.get("meas_Npix")
    if mode is None or measured is None or int(measured) == window:
        return
    measured = int(measured)
    if mode == "crop" and (window - measured) % 2 == 0:
        settings.update(data_pad=(window - measured) // 2, use_padded_intensity=False)
    elif mode == "resample" and window == 2 * measured:  # bilinear in the middle of 2 x 2 pixels: their mean
        settings["upsample_pattern"] = 2
    else:
        settings.update(simu_Npix=window, simu_match_mode=mode)


def _orientation(flips: Any, settings: dict[str, Any], notes: list[str]) -> None:
    """Translate flips of the patterns: the first is ``flip_ky``; others must be applied to the data."""
    if flips is None or not np.any(flips):
        return
    values = [int(flip) for flip in np.asarray(flips).ravel()]
    if values == [1, 0, 0]:
        settings["flip_ky"] = True
    else:
        notes.append(
            f"PtyRAD flipped the patterns by [ky, kx, transpose] = {values}; do the same to the data"
        )


def params_from_ptyrad(content: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Parameters from a parameter file of PtyRAD (its init_params).

    Raises
    ------
    ParameterError
        The content is not that of PtyRAD, or the experiment used X-rays.
    """
    init = content.get("init_params")
    if not isinstance(init, Mapping) or "probe_kv" not in init:
        raise ParameterError(f"{source}: expected init_params with probe_kv, pos_N_scan_slow, ... of PtyRAD")
    if init.get("probe_illum_type", "electron") != "electron":
        raise ParameterError(
            f"{source}: {init['probe_illum_type']!r} illumination; only electrons are supported"
        )
    settings, notes = settings_of(
        init,
        {"N_scan_slow": init.get("pos_N_scan_slow"), "N_scan_fast": init.get("pos_N_scan_fast")},
        int(init.get("meas_Npix") or 0),
    )
    settings["acc_voltage"] = float(init["probe_kv"])
    pixel = _pixel_A(init, wavelength_A(settings["acc_voltage"]))
    if pixel is not None:
        settings["pixel_size_y_A"] = settings["pixel_size_x_A"] = pixel
        settings["rez_pixel_size_A"] = 1 / (pixel * float(init["meas_Npix"]))
    if init.get("obj_Nlayer"):
        settings["num_slices"] = int(init["obj_Nlayer"])
    if init.get("obj_slice_thickness") and settings.get("num_slices", 1) > 1:
        settings["slice_distances"] = np.array([float(init["obj_slice_thickness"])])
    settings["aberrations"] = krivanek(init.get("probe_aberrations") or {}, source)
    path = init.get("meas_params")
    if isinstance(path, Mapping) and str(path.get("path", "")).endswith((".npy", ".h5", ".hdf5")):
        settings["data_path"] = str(path["path"])
        if path.get("key"):
            settings["data_key"] = str(path["key"])
    return settings


def _pixel_A(init: Mapping[str, Any], wavelength: float) -> float | None:
    """The pixel of the reconstruction from the calibration of the raw patterns."""
    calibration, n = init.get("meas_calibration") or {}, init.get("meas_Npix")
    mode, value = calibration.get("mode"), calibration.get("value")
    if value is None or not n:
        return None
    n, value, angle = float(n), float(value), init.get("probe_conv_angle")
    pixels_A = {
        "dx": value,
        "dk": 1 / (n * value),
        "kMax": 1 / (2 * value),
        "da": 1e3 * wavelength / (n * value),
        "angleMax": 1e3 * wavelength / (2 * value),
    }
    if angle:
        pixels_A["n_alpha"] = 1e3 * wavelength / (2 * value * float(angle))
        pixels_A["RBF"] = 1e3 * wavelength * value / (n * float(angle))
    return pixels_A.get(str(mode))


def krivanek(coefficients: Mapping[str, Any], source: str) -> np.ndarray:
    """C10, C12a, C12b, C21a, ... (Å) from polar (Cnm, phinm in deg) or Cartesian names.

    Raises
    ------
    ParameterError
        A name is unknown.
    """
    terms = dict(coefficients)
    if "defocus" in terms:
        terms["C10"] = -float(terms.pop("defocus"))
    if "Cs" in terms:
        terms["C30"] = float(terms.pop("Cs"))
    out = np.zeros(_N_TERMS)
    for row, (n, m, kind) in enumerate(krivanek_orders(_N_TERMS)):
        angle = m * np.deg2rad(float(terms.get(f"phi{n}{m}", 0)))
        part = np.sin(angle) if kind == "b" else np.cos(angle)
        out[row] = float(terms.get(f"C{n}{m}", 0)) * part + (
            float(terms.pop(f"C{n}{m}{kind}", 0)) if kind else 0.0
        )
    for n, m, _ in krivanek_orders(_N_TERMS):
        terms.pop(f"C{n}{m}", None)
        terms.pop(f"phi{n}{m}", None)
    if terms:
        raise ParameterError(
            f"{source}: aberrations {sorted(terms)} are not Krivanek's Cnm, phinm, Cnma or Cnmb"
        )
    used = np.flatnonzero(out)  # drop zeros at the end
    return out[: used[-1] + 1] if len(used) else np.zeros(1)
