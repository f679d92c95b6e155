"""What kind of value a key of PtyRAD's files takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pypty.importers.ptyrad.defaults import REQUIRED, XRAY

_WHOLE = ("random_seed", "meas_Npix", "pos_N_scan_slow", "pos_N_scan_fast", "pos_N_scans", "obj_Nlayer", "simu_Npix",
          "probe_pmode_max", "obj_omode_max", "NITER", "SAVE_ITERS", "size", "grad_accumulation", "n_trials", "step",
          "start_iter", "end_iter", "subscan_slow", "subscan_fast", "every_n_iters", "kernel_size", "target_Npix",
          "z_steps")  # fmt: skip
_NUMBERS = (
    *_WHOLE,
    *(name for name in (*REQUIRED, *XRAY) if name != "meas_params"),
    *(
        "meas_add_source_size",
        "meas_add_detector_blur",
        "probe_z_shift",
        "pos_scan_rand_std",
        "detector_blur_std",
    ),
    *("obj_preblur_std", "timeout", "max_shift"),
)
_LISTS = (
    "meas_permute",
    "meas_reshape",
    "meas_flipT",
    "meas_crop",
    "pos_scan_flipT",
    "pos_scan_affine",
    "obj_z_crop",
)
_LENGTHS = (("meas_reshape", 3), ("meas_flipT", 3), ("meas_crop", 4), ("pos_scan_flipT", 3), ("pos_scan_affine", 4),
            ("obj_z_crop", 2))  # fmt: skip
_EITHER = (
    "prefix_time",
    "value",
    "pad_layers",
    "pad_types",
    "thresh",
    "mode",
    "options",
    "dynamic",
    "load_state",
    "tilt_params",
)
"""They take several kinds."""
_NULL = ("SAVE_ITERS", "pos_scan_rand_std", "start_iter", "end_iter", "step", "thresh", "max_shift", "prefix",
         "postfix", "prefix_time", "pruner_params", "compiler_configs", "convergence_monitor", "probe_aberrations",
         "configs", "save_result", "selected_figs", "recon_dir_affixes", "tune_params")  # fmt: skip
"""Null is a value although it is not the default."""


_POSITIVE = ("probe_kv", "probe_conv_angle", "pos_scan_step_size", "obj_slice_thickness", "meas_Npix",
             "pos_N_scan_slow", "pos_N_scan_fast", "obj_Nlayer", "probe_pmode_max", "obj_omode_max")  # fmt: skip


def value_problem(key: str, default: Any, value: Any) -> str | None:
    """What is wrong with the kind of a value, or None."""
    if value is None:
        return None if default is None or key in (*_NULL, *_EITHER) else "null"
    if key in _EITHER:
        return None
    if key in _LISTS:
        return _list_problem(key, value)
    if key in _NUMBERS or (isinstance(default, (int, float)) and not isinstance(default, bool)):
        return _number_problem(key, value)
    if isinstance(default, bool):
        return None if isinstance(value, bool) else f"{value!r}, expected true or false"
    if isinstance(default, str):
        return None if isinstance(value, str) else f"{value!r}, expected a word"
    if isinstance(default, (tuple, list)):
        return None if isinstance(value, (tuple, list)) else f"{value!r}, expected a list"
    if isinstance(default, Mapping):
        return None if isinstance(value, Mapping) else f"{value!r}, expected 'key: value' lines"
    return None


def _number_problem(key: str, value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
        return f"{value!r}, expected a number"
    if key in _WHOLE and value != int(value):
        return f"{value!r}, expected a whole number"
    if key in _POSITIVE and value <= 0:
        return f"{value!r}, expected a number above 0"
    return None


def _list_problem(key: str, value: Any) -> str | None:
    length = dict(_LENGTHS).get(key)
    if not isinstance(value, (list, tuple)) or (length is not None and len(value) != length):
        return f"{value!r}, expected a list" + ("" if length is None else f" of {length}")
    if key != "meas_crop":
        wrong = [one for one in value if _number_problem("", one)]
    else:
        wrong = [
            one for one in value if one is not None and (not isinstance(one, (list, tuple)) or len(one) != 2)
        ]
    return (
        f"{value!r}, expected {'pairs or null' if key == 'meas_crop' else 'numbers'} in it" if wrong else None
    )
