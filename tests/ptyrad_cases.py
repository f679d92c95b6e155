"""PtyRAD's own losses and gradients of small cases (tests/golden/ptyrad/forward_*.npz), and the parameters for them.

Written by PtyRAD 1.0.0 in double precision: inputs (in_*), patterns, weighted losses, dLoss/dpattern and the gradients
of all variables for one batch (out_*), settings (meta). A single slice; B three probe modes, sub-pixel shifts; C two
object modes, three slices, one tilt, single + pacbed + sparse; D four slices, a tilt of each pattern, poissn + sparse
of order 2; E blurred patterns; F crops and G resamples a larger simulated pattern; H three object modes and all five
losses.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from pypty.importers.imported import ALL_FREQUENCIES
from pypty.optics.wavelength import acc_voltage_kV

CASES = {
    path.stem.split("_")[1]: path for path in (Path(__file__).parent / "golden" / "ptyrad").glob("f*.npz")
}
NAMES = ("single", "poissn", "pacbed", "sparse", "simlar")
OF_MODEL = {"C": "obj_mode_weights", "H": "obj_mode_weights", "E": "detector_blur_edge"}
OF_MODEL |= {"F": "simu_match_mode", "G": "simu_match_mode"}
"""Which parameter a case needs."""


def read_case(name: str) -> dict[str, Any]:
    """Arrays, with the settings as a dict."""
    with np.load(CASES[name]) as stored:
        case: dict[str, Any] = {key: stored[key] for key in stored.files}
    case["meta"] = json.loads(str(case["meta"]))
    return case


def loss_terms_of(case: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """``loss_terms`` of the case."""
    found = {}
    for name in NAMES:
        entry = dict(case["meta"]["loss_params"][f"loss_{name}"])
        if entry.pop("state"):
            found[name] = entry
    return found


def params_of(case: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Parameters of the same model and loss."""
    n = case["in_probe"].shape[-1]
    obj = case["in_obja"] * np.exp(1j * case["in_objp"])
    params: dict[str, Any] = {
        "dataset": case["in_meas"],
        "obj": obj.transpose(2, 3, 1, 0),
        "probe": case["in_probe"].transpose(1, 2, 0) / n,
        "positions": case["in_crop_pos"] + case["in_probe_pos_shifts"],
        "slice_distances": [float(case["in_dz"])],
        "acc_voltage": acc_voltage_kV(float(case["in_lambd"])),
        "pixel_size_y_A": float(case["in_dx"]),
        "pixel_size_x_A": float(case["in_dx"]),
        "propmethod": "angular_spectrum",
        "damping_cutoff_multislice": ALL_FREQUENCIES,
        "sequence": np.sort(case["in_batch"]),
        "loss_terms": loss_terms_of(case),
        "loss_scale": "ratio",
        "skip_preprocessing": True,
        "update_obj": True,
        "update_probe": True,
        "update_probe_pos": True,
        "update_slice_distances": True,
        "backend": "cpu",
        "n_threads": 1,
        "print_flag": 0,
    }
    if len(obj) > 1:
        params["obj_mode_weights"] = case["in_omode_occu"]
    if case["in_tilts_mrad"].any():
        tilts = np.zeros((len(case["in_tilts_mrad"]), 6))
        tilts[:, 2:4] = -np.tan(1e-3 * case["in_tilts_mrad"])
        params |= {"tilts": tilts, "tilt_mode": 0, "update_tilts": True}
    if case["meta"]["detector_blur_std"]:
        params |= {"detector_blur_std": case["meta"]["detector_blur_std"], "detector_blur_edge": "reflect"}
    if case["meta"]["simu_match_mode"]:
        params |= {"simu_Npix": n, "simu_match_mode": case["meta"]["simu_match_mode"]}
    return params | changes


def gradients_of(found: dict[str, np.ndarray], case: dict[str, Any]) -> dict[str, np.ndarray]:
    """Gradients of pypty with respect to PtyRAD's variables, by their names."""
    turned = found["obj"].transpose(3, 2, 0, 1) * np.exp(-1j * case["in_objp"])
    own = {
        "obja": turned.real,
        "objp": case["in_obja"] * turned.imag,
        "probe": found["probe"].transpose(2, 0, 1) / case["in_probe"].shape[-1],
        "probe_pos_shifts": found["positions"],
    }
    if "tilts" in found:
        own["obj_tilts"] = -1e-3 / np.cos(1e-3 * case["in_tilts_mrad"]) ** 2 * found["tilts"][:, 2:4]
    if "slice_distances" in found:
        own["slice_thickness"] = found["slice_distances"].sum()
    return {name: array for name, array in own.items() if f"out_grad_{name}" in case}
