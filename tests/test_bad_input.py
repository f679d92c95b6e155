"""Malformed parameters and files: each is refused with a clear PyptyError, and the output folder stays as it was."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from calibration_data import flat_scan
from helpers import data_file
from problems import (
    N_PATTERNS,
    SIDE,
    aperture_probe,
    patterns,
    scan_positions,
    small_params,
    smooth_object,
    two_slices,
)

import pypty
from pypty.backend.array import gpu_status
from pypty.errors import CheckpointError, ParameterError, PyptyError

Build = Callable[[Path, Path], Any]
"""Makes the input from an empty working folder and the output folder."""


@dataclass(frozen=True)
class Row:
    """One malformed input.

    Attributes
    ----------
    build : gives what is passed to ``pypty.run``; a dict without output_folder gets the existing one
    fragments : what the message must say: what was given or the key, and a hint
    error : the documented class
    at_run : the problem is in a state that only ``run`` reads, so ``check`` need not see it
    """

    name: str
    build: Build
    fragments: tuple[str, ...]
    error: type[PyptyError] = ParameterError
    at_run: bool = False


def row(name: str, changes: dict[Any, Any], *fragments: str) -> Row:
    """The small problem with some keys changed (``...`` removes a key)."""

    def build(folder: Path, out: Path) -> dict[Any, Any]:
        return _changed(small_params(), changes)

    return Row(name, build, fragments)


def _changed(params: dict[Any, Any], changes: dict[Any, Any]) -> dict[Any, Any]:
    return {key: value for key, value in {**params, **changes}.items() if value is not ...}


# ------------------------------------------------------------------------------------------------ keys and types

KEYS = (
    row("unknown key", {"epoch_maxx": 5}, "epoch_maxx", "did you mean 'epoch_max'"),
    row("unknown key in other case", {"Update_Obj": True}, "Update_Obj", "did you mean 'update_obj'"),
    row("unknown key far from all", {"zzzz": 5}, "zzzz", "unknown parameter", "no known key is similar"),
    row("key that is no string", {3: 5}, "3", "names are strings"),
    row("key that is None", {None: 5}, "None", "names are strings"),
)

WRONG_VALUES: dict[str, tuple[Any, str]] = {
    "acc_voltage": ("80 kV", "a number > 0"),
    "pixel_size_x_A": (0.0, "a number > 0"),
    "pixel_size_y_A": (-0.4, "out of range"),
    "data_multiplier": (0, "a number > 0"),
    "data_pad": (1.5, "not whole"),
    "data_bin": (0, ">= 1"),
    "flip_ky": ("yes", "True or False"),
    "use_full_FOV": (2, "True or False"),
    "load_one_by_one": (None, "True or False"),
    "preload_to_cpu": ([True], "True or False"),
    "output_folder": (5, "a path"),
    "data_key": (5, "a string"),
    "strip_dataset_from_params": ("no", "True or False"),
    "save_loss_log": (3, "<= 2"),
    "epoch_prev": (-1, ">= 0"),
    "epoch_max": (2.5, "not whole"),
    "save_checkpoints_every_epoch": (0.5, "not whole"),
    "save_inter_checkpoints": (-2, "out of range"),
    "print_flag": (5, "<= 4"),
    "resume": ("yes", "True or False"),
    "num_slices": (0, ">= 1"),
    "edge_slice_thickness": (-5.0, "out of range"),
    "propmethod": ("multislise", "multislice"),
    "allow_subPixel_shift": (3, "True or False"),
    "skip_preprocessing": (np.nan, "True or False"),
    "extra_space_on_side_px": (-1, "out of range"),
    "damping_cutoff_multislice": (0, "> 0"),
    "update_extra_cut": (-0.1, "out of range"),
    "lazy_clean": ("False", "True or False"),
    "use_padded_intensity": (None, "True or False"),
    "default_dtype": ("half", "'double', 'single'"),
    "backend": ("cuda", "'gpu'"),
    "n_threads": (0, ">= 1"),
    "compute_batch": ("many", "'auto'"),
    "memory_saturation": (0, "> 0"),
    "seed": (-1, ">= 0"),
    "algorithm": ("poisson", "'ml'"),
    "recon_type": ("farfield", "'far_field'"),
    "loss_weight": ("median", "'mean_full'"),
    "hist_length": (-1, "out of range"),
    "update_step_bfgs": (0, "> 0"),
    "preconditioner": ("on", "True or False"),
    "wolfe_c1_constant": (0, "> 0"),
    "wolfe_c2_constant": (1.5, "<= 1"),
    "max_count": (0, ">= 1"),
    "reduce_factor": (2, "<= 1"),
    "optimism": (1, "> 1"),
    "min_step": (-1e-9, "out of range"),
    "reset_history_flag": (7, "True or False"),
    "update_obj": (np.nan, "True/False"),
    "update_probe": (None, "True/False"),
    "update_probe_pos": ([1], "True/False"),
    "update_slice_distances": (np.inf, "True/False"),
    "extra_probe_defocus": (np.inf, "not finite"),
    "upsample_pattern": (1.5, "not whole"),
    "alpha_near_field": (-1e-3, ">= 0"),
    "Cs": ("1 mm", "a number"),
    "scan_step_A": (0, "> 0"),
    "tilt_mode": (5, "<= 4"),
    "smooth_rolloff": (-0.1, "out of range"),
    "detector_gain": (0.0, "counts/electron"),
    "readout_noise": (-3.0, "counts"),
    "detector_blur_std": ("0.5 px", ">= 0"),
    "positions_parametrization": ("rigid", "'affine'"),
    "update_tilts": (np.nan, "True/False"),
    "update_beam_current": (None, "True/False"),
    "update_detector_gains": ("maybe", "True/False"),
    "update_aberrations_array": ("perhaps", "True/False"),
    "update_static_background": ([], "True/False"),
    "update_detector_blur_std": (np.inf, "True/False"),
    "phase_only_obj": (2, "True or False"),
    "obj_parametrization": ("phase", "'amplitude_phase'"),
    "tune_only_probe_phase": (-1, "True or False"),
    "tune_only_probe_abs": ("amplitude", "True or False"),
    "freeze_stuck_blocks": ([True], "True or False"),
    "fast_axis_reg_weight_positions": (-1, ">= 0"),
    "slow_axis_reg_weight_positions": (np.nan, "not finite"),
    "deformation_reg_weight_positions": ("heavy", ">= 0"),
    "fast_axis_reg_weight_tilts": (np.inf, "not finite"),
    "slow_axis_reg_weight_tilts": (None, ">= 0"),
    "deformation_reg_weight_tilts": ([0.1], "a number"),
    "phase_norm_weight": (np.inf, "not finite"),
    "abs_norm_weight": (True, "given True"),
    "probe_reg_constraint_weight": (-np.inf, "inf allowed"),
    "window_weight": (np.inf, "not finite"),
    "atv_weight": (np.inf, "not finite"),
    "atv_q": (0, "> 0"),
    "atv_p": (0.5, ">= 1"),
    "mixed_variance_weight": (np.inf, "not finite"),
    "mixed_variance_sigma": (0, "> 0"),
    "wedge_mu": (np.inf, "not finite"),
    "beta_wedge": (-0.5, "out of range"),
    "probe_mod_reg_weight": (np.inf, "not finite"),
    "probe_mod_tol": (0, "> 0"),
    "dynamically_resize_yx_object": (-1, "out of range"),
    "puzzle_positions": ("later", "True or False"),
    "keep_probe_states_orthogonal": (3, "True or False"),
    "do_charge_flip": (None, "True or False"),
    "cf_delta_phase": (-0.1, "out of range"),
    "cf_delta_abs": (np.nan, "not finite"),
    "cf_beta_phase": (1j, "a number"),
    "cf_beta_abs": (np.inf, "not finite"),
    "restart_from_vacuum": (0.5, "True or False"),
    "reset_positions": ({}, "True or False"),
    "estimate_aperture_based_on_binary": (-1, "out of range"),
    "mc_n_modes": (0, ">= 1"),
    "n_mc_samples": (2.5, "not whole"),
    "focal_spread": (-1.0, "out of range"),
    "spatial_coh_x_A": ("wide", ">= 0"),
    "spatial_coh_y_A": (-0.5, "out of range"),
    "spatial_coh_xy": (np.nan, "not finite"),
    "phase_plate_in_h5": (np.ones((N_PATTERNS, SIDE, SIDE)), "a path"),
}
TYPES = tuple(
    row(f"{key} = {value!r}", {key: value}, key, hint) for key, (value, hint) in WRONG_VALUES.items()
) + (
    row("acc_voltage NaN", {"acc_voltage": np.nan}, "acc_voltage", "not finite", "kV"),
    row("acc_voltage complex", {"acc_voltage": 80 + 1j}, "acc_voltage", "a number > 0"),
    row("acc_voltage as an array", {"acc_voltage": np.ones(3)}, "acc_voltage", "shape (3,)", "a number"),
    row("static_background negative", {"static_background": -1.0}, "static_background", "-1.0", ">= 0"),
    row("static_background True", {"static_background": True}, "static_background", "True", ">= 0"),
    row("probe_constraint_mask too wide", {"probe_constraint_mask": 3.0}, "probe_constraint_mask", "<= 2"),
    row("apply_gaussian_filter -2", {"apply_gaussian_filter": -2.0}, "apply_gaussian_filter", "(2,) or (3,)"),
    row("epoch_max True", {"epoch_max": True}, "epoch_max", "given True", "an integer"),
    row("epoch_max too long for a float", {"epoch_max": 10**400}, "epoch_max"),
    row("num_slices infinite", {"num_slices": np.inf}, "num_slices", "not finite"),
    row("memory_saturation above 1", {"memory_saturation": 1.01}, "memory_saturation", "<= 1"),
    row("compute_batch 0", {"compute_batch": 0}, "compute_batch", ">= 1"),
    row(
        "a function for a fixed key",
        {"epoch_max": lambda epoch: 3},
        "epoch_max",
        "cannot vary with the epoch",
    ),
    row("force_dataset_dtype complex", {"force_dataset_dtype": "complex64"}, "complex64", "real NumPy dtype"),
    row("force_dataset_dtype is no dtype", {"force_dataset_dtype": "u17"}, "u17", "real NumPy dtype"),
    row(
        "force_dataset_dtype object",
        {"force_dataset_dtype": object},
        "force_dataset_dtype",
        "real NumPy dtype",
    ),
    row("data_resample without end", {"data_resample": 10**9}, "data_resample", "more than 16777216 in all"),
    row("output_folder with NUL", {"output_folder": "a\0b"}, "output_folder", "path"),
    row("an array for a key without effect", {"force_pad": np.ones(2)}, "force_pad"),
)
NO_DICT = (
    Row("None instead of a dict", lambda folder, out: None, ("given None", "expected a dict")),
    Row("a list instead of a dict", lambda folder, out: [small_params()], ("expected a dict",)),
    Row("a number instead of a dict", lambda folder, out: 3, ("given 3", "expected a dict")),
    Row("bytes instead of a path", lambda folder, out: b"preset.yaml", ("preset.yaml", "expected a dict")),
)

# ------------------------------------------------------------------------------------------------------- arrays

_MASK = np.ones((SIDE, SIDE))
_CHECKERBOARD = np.where(np.indices((SIDE, SIDE)).sum(axis=0) % 2, 1.0, -1.0)[..., None]
GOOD_ARRAYS: dict[str, np.ndarray] = {
    "obj": smooth_object(),
    "probe": aperture_probe(),
    "positions": scan_positions(),
    "positions_correction": np.zeros((N_PATTERNS, 2)),
    "slice_distances": np.array([10.0]),
    "detector_mask": _MASK,
    "mean_pattern": patterns().mean(axis=0),
    "aperture_mask": _MASK,
    "aberrations": np.array([10.0, 0.0]),
    "scan_size": np.array([5.0, 5.0]),
    "data_shift_vector": np.array([1.0, 0.0]),
    "sequence": np.array([0.0, 1.0]),
    "masks": np.ones((4, SIDE, SIDE)),
    "tilts": np.zeros((N_PATTERNS, 6)),
    "static_background": _MASK,
    "beam_current": np.ones(N_PATTERNS),
    "detector_gains": np.ones((2, 2)),
    "aberrations_array": np.zeros((2, 3)),
    "aberration_marker": np.zeros(N_PATTERNS),
    "probe_marker": np.zeros(N_PATTERNS),
    "defocus_array": np.zeros(N_PATTERNS),
    "probe_constraint_mask": _MASK,
    "window": np.array([0.5, 0.8]),
    "apply_gaussian_filter": np.array([1.0, 1.0]),
    "apply_gaussian_filter_amplitude": np.array([1.0, 1.0, 1.0]),
    "beam_ctf": _MASK,
    "n_hermite_probe_modes": np.array([1.0, 1.0]),
    "defocus_spread_modes": np.array([10.0]),
}
_COMPLEX = ("obj", "probe")
_INTEGER = (
    *("scan_size", "data_shift_vector", "sequence"),
    *("aberration_marker", "probe_marker", "n_hermite_probe_modes"),
)


def _with(array: np.ndarray, value: float) -> np.ndarray:
    out = array.copy()
    out.flat[-1] = value
    return out


def _spoiled_arrays() -> Iterator[Row]:
    for key, good in GOOD_ARRAYS.items():
        yield row(f"{key} with NaN", {key: _with(good, np.nan)}, key, "1 values that are NaN or infinite")
        yield row(f"{key} with inf", {key: _with(good, np.inf)}, key, "1 values that are NaN or infinite")
        yield row(
            f"{key} with 2 more axes", {key: good[None, None]}, key, str(good[None, None].shape), "expected"
        )
        yield row(f"{key} of text", {key: good.astype(str)}, key, "does not hold numbers")
        yield row(f"{key} of objects", {key: good.astype(object)}, key, "does not hold numbers")
        yield row(f"{key} ragged", {key: [[1.0, 2.0], [3.0]]}, key, "nested list")
        yield row(f"{key} is a dict", {key: {"a": 1}}, key, "{'a': 1}", "expected")
        yield row(f"{key} is a wrong path", {key: "array.txt"}, key, "array.txt", ".npy")
        yield row(f"{key} is a missing file", {key: "nowhere.npy"}, key, "nowhere.npy", "cannot be read")
        if key not in _COMPLEX:
            yield row(
                f"{key} complex", {key: good + 1j}, key, "complex", "integer" if key in _INTEGER else "a real"
            )
        if key != "obj":
            yield row(f"{key} empty", {key: good[:0]}, key, "(0,")


ARRAYS = (
    *_spoiled_arrays(),
    row("obj 2-D", {"obj": np.ones((24, 24), complex)}, "obj", "(24, 24)", "(y, x, z, modes)"),
    row("obj 5-D", {"obj": np.ones((24, 24, 1, 1, 1))}, "obj", "(24, 24, 1, 1, 1)", "(y, x, z, modes)"),
    row(
        "probe 5-D", {"probe": np.ones((SIDE, SIDE, 1, 2, 1))}, "probe", "(16, 16, 1, 2, 1)", "(y, x, modes)"
    ),
    row("probe 1-D", {"probe": np.ones(SIDE)}, "probe", "(16,)", "(y, x, modes)"),
    row("obj of zeros", {"obj": np.zeros((24, 24, 1, 1))}, "obj", "zero"),
    row("probe outside the band limit", {"probe": _CHECKERBOARD}, "probe", "damping_cutoff_multislice"),
    row("probe of zeros", {"probe": np.zeros((SIDE, SIDE, 1))}, "probe", "zero", "electrons"),
    row("probe odd, pattern even", {"probe": np.ones((15, 15, 1))}, "probe", "(15, 15)", "even number"),
    row("positions (2, N)", {"positions": scan_positions().T}, "positions", "(2, 25)", "(N, 2)"),
    row("positions (N, 3)", {"positions": np.zeros((N_PATTERNS, 3))}, "positions", "(25, 3)", "(N, 2)"),
    row("positions too few", {"positions": scan_positions()[:7]}, "positions", "7 rows", "25 patterns"),
    row("positions too many", {"positions": np.zeros((26, 2))}, "positions", "26 rows", "25 patterns"),
    row(
        "positions_correction of another length",
        {"positions_correction": np.zeros((3, 2))},
        "positions_correction",
        "(3, 2)",
        "one row per position",
    ),
    row("detector_mask too small", {"detector_mask": np.ones((8, 8))}, "detector_mask", "(8, 8)", "(16, 16)"),
    row("detector_mask of all zeros", {"detector_mask": 0 * _MASK}, "detector_mask", "must not all be zero"),
    row("detector_mask negative", {"detector_mask": -_MASK}, "detector_mask", "-1", "0"),
    row("detector_mask above 1", {"detector_mask": 300 * _MASK}, "detector_mask", "300", "1"),
    row("detector_mask word", {"detector_mask": "auto"}, "detector_mask", "'auto'"),
    row(
        "detector_mask for the wrong number of patterns",
        {"detector_mask": np.ones((3, SIDE, SIDE))},
        "detector_mask",
        "(3, 16, 16)",
        "(25, 16, 16)",
    ),
    row(
        "mean_pattern of another shape",
        {"probe": None, "mean_pattern": np.ones((8, 16))},
        "mean_pattern",
        "(8, 16)",
        "(16, 16)",
    ),
    row("mean_pattern of zeros", {"probe": None, "mean_pattern": 0 * _MASK}, "mean_pattern", "zero"),
    row("mean_pattern negative", {"probe": None, "mean_pattern": -_MASK}, "mean_pattern"),
    row(
        "aperture_mask of another shape",
        {"probe": "aperture", "aperture_mask": np.ones((8, 8))},
        "aperture_mask",
        "(8, 8)",
        "(16, 16)",
    ),
    row("aperture_mask of zeros", {"probe": "aperture", "aperture_mask": 0 * _MASK}, "aperture_mask", "0"),
    row("aperture without aperture_mask", {"probe": "aperture"}, "probe", "needs aperture_mask"),
    row("aperture of radius 0", {"probe": "aperture", "aperture_mask": 0.0}, "aperture_mask", "> 0"),
    row("scan_size mismatch", {"scan_size": (4, 5)}, "scan_size", "20 points", "25 positions"),
    row("scan_size negative", {"scan_size": (-5, -5)}, "scan_size", "-5"),
    row("scan_size not whole", {"scan_size": (2.5, 10)}, "scan_size", "not whole"),
    row("data_shift_vector not whole", {"data_shift_vector": (0.5, 0)}, "data_shift_vector", "not whole"),
    row("data_shift_vector of 3", {"data_shift_vector": (1, 0, 0)}, "data_shift_vector", "(3,)", "(2,)"),
    row("scan_size of 3", {"scan_size": (1, 5, 5)}, "scan_size", "(3,)", "(2,)"),
    row(
        "data_shift_vector too large",
        {"data_shift_vector": (16, 0)},
        "data_shift_vector",
        "[16, 0]",
        "16 x 16",
    ),
    row("data_bin too large", {"data_bin": 17}, "data_bin", "17 given", "16 x 16"),
)

# --------------------------------------------------------------------------------------------- slices and sizes

SIZES = (
    row(
        "slice_distances negative",
        {"num_slices": 2, "slice_distances": [-5.0]},
        "slice_distances",
        "-5",
        "negative",
    ),
    row(
        "slice_distances too few",
        {"num_slices": 5, "slice_distances": [5.0, 6.0]},
        "slice_distances",
        "2 values",
        "4 gaps",
    ),
    row("slice_distances 2-D", {"slice_distances": [[5.0, 6.0]]}, "slice_distances", "(1, 2)", "expected"),
    row(
        "num_slices against obj",
        {"obj": smooth_object(), "num_slices": 4},
        "num_slices",
        "given 4",
        "1 slices",
    ),
    row(
        "edge_slice_thickness with individual distances",
        {"num_slices": 3, "slice_distances": [5.0, 6.0], "edge_slice_thickness": 9.0},
        "edge_slice_thickness",
        "slice_distances[0]",
    ),
    row("10^9-pixel positions", {"positions": scan_positions() * 1e9}, "GiB", "positions in pixels"),
    row("positions beyond any integer", {"positions": scan_positions() * 1e300}, "positions"),
    row("10^9-pixel window", {"data_pad": 20_000}, "data_pad", "40016 x 40016", "lower data_pad"),
    row("data_pad beyond any integer", {"data_pad": 10**30}, "data_pad", "1000000000"),
    row("10^9 slices", {"num_slices": 10**9}, "GiB", "fewer slices"),
    row("10^9-pixel rim", {"extra_space_on_side_px": 10**9}, "GiB", "2000000024"),
    row("rim beyond any integer", {"extra_space_on_side_px": 10**30}, "extra_space_on_side_px"),
    row("memory_saturation leaves nothing", {"memory_saturation": 1e-12}, "memory_saturation", "free"),
    row(
        "positions outside, taken as they are",
        {"skip_preprocessing": True, "positions": scan_positions() - 3},
        "positions",
        "[-3, -3]",
        ">= 0",
    ),
    row(
        "no band left for object and probe",
        {"damping_cutoff_multislice": 0.5, "update_extra_cut": 2.0},
        "update_extra_cut",
        "damping_cutoff_multislice",
    ),
)

# --------------------------------------------------------------------------------------- sequences and schedules


def _fails_at_2(epoch: int) -> float:
    if epoch == 2:
        raise KeyError("no such epoch")
    return 1.0


SCHEDULES = (
    row("sequence out of range", {"sequence": [0, 25]}, "sequence", "25", "25 patterns (0 to 24)"),
    row("sequence negative", {"sequence": [-1, 3]}, "sequence", "-1", "25 patterns (0 to 24)"),
    row("sequence not whole", {"sequence": [0.5, 1]}, "sequence", "not whole"),
    row("sequence beyond any integer", {"sequence": [1e30]}, "sequence"),
    row("sequence from an expression", {"sequence": "range(30)"}, "sequence", "29", "25 patterns"),
    row(
        "sequence raising later",
        {"sequence": lambda epoch: [0, 1] if epoch < 2 else _fails_at_2(epoch)},
        "sequence",
        "epoch 2",
        "KeyError",
    ),
    row(
        "sequence out of range later",
        {"sequence": "[0, 1] if epoch < 2 else [99]"},
        "sequence",
        "99",
        "25 patterns",
    ),
    row(
        "sequence leaving the field of view later",
        {"sequence": "[0, 1] if epoch < 2 else [24]", "use_full_FOV": False},
        "sequence",
        "use_full_FOV=True",
    ),
    row(
        "expression with a syntax error",
        {"update_obj": "lambda x: x >="},
        "update_obj",
        "x >=",
        "not an expression",
    ),
    row(
        "expression with an unknown name",
        {"update_obj": "lambda x: y > 3"},
        "update_obj",
        "'y'",
        "Known names",
    ),
    row(
        "expression with an unknown function",
        {"update_obj": "foo(epoch)"},
        "update_obj",
        "'foo'",
        "Known names",
    ),
    row("expression with attributes", {"update_obj": "().__class__"}, "update_obj", "__class__"),
    row(
        "expression with import",
        {"update_obj": "__import__('os').system('true')"},
        "update_obj",
        "__import__",
    ),
    row("import statement", {"update_obj": "import os"}, "update_obj", "import"),
    row("expression with a huge power", {"update_step_bfgs": "9**9**9"}, "update_step_bfgs", "9**9**9"),
    row("expression too long", {"update_step_bfgs": "1+" * 2000 + "1"}, "update_step_bfgs", "4001", "2000"),
    row("expression nested too deeply", {"update_step_bfgs": "-" * 1990 + "1"}, "update_step_bfgs"),
    row(
        "expression in too many brackets",
        {"update_step_bfgs": "(" * 900 + "1" + ")" * 900},
        "update_step_bfgs",
    ),
    row(
        "expression of a wrong value",
        {"update_step_bfgs": "'a' + 'b'"},
        "update_step_bfgs",
        "'ab'",
        "a number > 0",
    ),
    row(
        "expression failing later",
        {"update_step_bfgs": "1/(2 - epoch)"},
        "update_step_bfgs",
        "epoch 2",
        "zero",
    ),
    row(
        "expression negative later", {"update_step_bfgs": "1.5 - epoch"}, "update_step_bfgs", "epoch 2", "> 0"
    ),
    row("empty expression", {"update_obj": ""}, "update_obj"),
    row(
        "a function that raises", {"update_step_bfgs": _fails_at_2}, "update_step_bfgs", "KeyError", "epoch 2"
    ),
    row(
        "a function with a wrong type later",
        {"hist_length": lambda epoch: 10 if epoch < 2 else "ten"},
        "hist_length",
        "epoch 2",
        "'ten'",
        "an integer",
    ),
    row(
        "a function with NaN later",
        {"loss_weight": [1.0, 1.0, np.nan].__getitem__},
        "loss_weight",
        "epoch 2",
        "nan",
    ),
    row("a function without arguments", {"update_obj": lambda: True}, "update_obj", "TypeError", "epoch 0"),
    row("a class as a function", {"update_obj": list}, "update_obj"),
    row("an empty table", {"update_obj": {"from_epoch": {}}}, "update_obj", "epoch: value"),
    row("a table with words", {"update_obj": {"from_epoch": {"a": 1}}}, "update_obj", "whole epochs"),
    row("a table that is a list", {"update_obj": {"from_epoch": [1, 0]}}, "update_obj", "epoch: value"),
    row(
        "a table with a wrong value later",
        {"update_step_bfgs": {"from_epoch": {0: 1.0, 2: -1}}},
        "update_step_bfgs",
        "epoch 2",
        "> 0",
    ),
    row("a dict for a schedule", {"update_obj": {"epochs": 3}}, "update_obj", "expected"),
    row("wolfe c1 above c2", {"wolfe_c1_constant": 0.95}, "wolfe_c1_constant", "0.95", "c1 < c2"),
    row(
        "wolfe c1 equal c2",
        {"wolfe_c1_constant": 0.5, "wolfe_c2_constant": 0.5},
        "wolfe_c2_constant",
        "c1 < c2",
    ),
    row(
        "wolfe c1 above c2 later",
        {"wolfe_c1_constant": "0.1 if epoch < 2 else 0.95"},
        "wolfe_c1_constant",
        "c1 < c2",
    ),
)

# ------------------------------------------------------------------------------------------ what has to fit together

_VIRTUAL = {
    "masks": np.ones((4, SIDE, SIDE)),
    "dataset": np.ones((N_PATTERNS, 4)),
    "algorithm": "lsq_compressed",
}
_ODD = np.arange(N_PATTERNS) % 2
_TWO_PROBES = np.stack([aperture_probe(), aperture_probe(2.0)], axis=3)
_CORNER = np.zeros((SIDE, SIDE))
_CORNER[0, 0] = 1


def virtual_row(name: str, changes: dict[str, Any], *fragments: str, **options: str) -> Row:
    """Data of virtual detectors, with some keys changed."""
    return row(f"virtual detectors: {name}", {**_VIRTUAL, **changes}, *fragments, **options)


_EACH = ("tilts", "beam_current", "aberration_marker", "probe_marker", "defocus_array")
PER_PATTERN = tuple(
    row(
        f"{key} of {n} rows",
        {key: (np.ones if key == "beam_current" else np.zeros)((n, 6) if key == "tilts" else n)},
        key,
        f"{n} rows",
        "25 patterns",
    )
    for key in _EACH
    for n in (2, N_PATTERNS - 1, N_PATTERNS + 1)
) + (
    row("beam_current of one value", {"beam_current": [1.0]}, "beam_current", "1 rows", "25 patterns"),
    row("tilts of five columns", {"tilts": np.zeros((N_PATTERNS, 5))}, "tilts", "(25, 5)", "(N, 6)"),
    row("defocus_array of a grid", {"defocus_array": np.ones((5, 5))}, "defocus_array", "(5, 5)", "(N,)"),
    row("defocus_array of pairs", {"defocus_array": np.ones((25, 2, 1))}, "defocus_array", "(25, 2, 1)"),
    row(
        "positions that nobody gave", {"positions": ...}, "positions", "1 rows", "25 patterns", "focal series"
    ),
    row(
        "one position, a correction for each",
        {"positions": [[0.0, 0.0]], "positions_correction": np.zeros((N_PATTERNS, 2))},
        "positions_correction",
        "(25, 2)",
        "(1, 2)",
    ),
    row(
        "one position, a scan of many",
        {"positions": [[0.0, 0.0]], "scan_size": (5, 5)},
        "scan_size",
        "25 points",
        "1 positions",
    ),
    row(
        "aberration_marker beyond its groups",
        {"aberration_marker": _ODD, "aberrations_array": [[10.0]]},
        "aberration_marker",
        "from 0 to 1",
        "1 rows, counted from 0",
    ),
    row(
        "aberration_marker negative",
        {"aberration_marker": -_ODD, "aberrations_array": np.zeros((2, 1))},
        "aberration_marker",
        "from -1 to 0",
    ),
    row("aberration_marker not whole", {"aberration_marker": _ODD / 2}, "aberration_marker", "not whole"),
    row("aberrations_array 1-D", {"aberrations_array": [10.0]}, "aberrations_array", "(groups, K)"),
    row(
        "probe_marker beyond the subscans",
        {"probe_marker": _ODD + 1, "probe": _TWO_PROBES},
        "probe_marker",
        "from 1 to 2",
        "2 subscans",
    ),
    row("probe_marker negative", {"probe_marker": -_ODD}, "probe_marker", "from -1 to 0"),
    row("probe_marker not whole", {"probe_marker": _ODD / 2}, "probe_marker", "not whole"),
    row("probe_marker of a billion", {"probe_marker": _ODD * 10**9}, "GiB", "may be used"),
    row(
        "subscans without probe_marker",
        {"probe": _TWO_PROBES},
        "probe",
        "(16, 16, 1, 2)",
        "subscans",
        "probe_marker is not given",
    ),
    row(
        "subscans all zero", {"probe": 0 * _TWO_PROBES, "probe_marker": _ODD}, "probe", "all values are zero"
    ),
)
VIRTUAL = (
    row(
        "masks without their algorithm",
        {**_VIRTUAL, "algorithm": "lsq"},
        "algorithm",
        "'lsq'",
        "lsq_compressed",
    ),
    *(
        row(f"{name} without masks", {"algorithm": name}, "algorithm", name, "masks is not given")
        for name in ("lsq_compressed", "gauss_compressed", "poisson_compressed")
    ),
    row("sums without masks", {"dataset": np.ones((N_PATTERNS, 4))}, "dataset", "(25, 4)", "(N, ky, kx)"),
    virtual_row("patterns", {"dataset": patterns()}, "(25, 16, 16)", "4 masks", "(N, 4)"),
    virtual_row("another number", {"dataset": np.ones((N_PATTERNS, 3))}, "(25, 3)", "4 masks"),
    virtual_row("another scan", {"dataset": np.ones((20, 4))}, "positions", "25 rows", "20 patterns"),
    virtual_row("one number each", {"dataset": np.ones(N_PATTERNS)}, "dataset", "(25,)", "(N, D)"),
    virtual_row("negative sums", {"dataset": -np.ones((N_PATTERNS, 4))}, "negative", "pattern 0"),
    virtual_row("sums of NaN", {"dataset": np.full((N_PATTERNS, 4), np.nan)}, "NaN", "pattern 0"),
    virtual_row("no counts", {"dataset": np.zeros((N_PATTERNS, 4))}, "all 25 patterns are zero"),
    virtual_row("negative", {"masks": -_VIRTUAL["masks"]}, "masks", "-1", "must not be negative"),
    virtual_row(
        "one sees nothing",
        {"masks": _VIRTUAL["masks"] * np.arange(4)[:, None, None]},
        "masks",
        "zero everywhere",
    ),
    virtual_row(
        "of another window", {"masks": np.ones((4, 15, 15))}, "probe", "(16, 16)", "(15, 15)", "even"
    ),
    virtual_row("of two pixels", {"masks": np.ones((4, 2, 2))}, "2 x 2", "at least 4"),
    virtual_row("binned", {"data_bin": 2}, "data_bin", "leave it out", "masks"),
    virtual_row("flipped", {"flip_ky": True}, "flip_ky", "leave it out", "masks"),
    virtual_row("shifted", {"data_shift_vector": (1, 0)}, "data_shift_vector", "leave it out", "masks"),
    virtual_row("mask of NaN", {"detector_mask": "nan"}, "detector_mask", "leave it out", "masks"),
    virtual_row(
        "mask",
        {"detector_mask": _MASK},
        "detector_mask",
        "leave it out",
    ),
    virtual_row(
        "mean pattern of sums", {"mean_pattern": np.ones((2, 2))}, "mean_pattern", "(2, 2)", "(16, 16)"
    ),
    virtual_row("missing file", {"dataset": ..., "data_path": "gone.h5"}, "data_path", "gone.h5"),
)
SHAPES = (
    row(
        "static_background of another shape",
        {"static_background": np.ones((SIDE, SIDE - 1))},
        "static_background",
        "(16, 15)",
        "(16, 16)",
    ),
    row(
        "static_background of a cropped rim",
        {"static_background": np.ones((20, 20)), "data_pad": 2, "use_padded_intensity": False},
        "static_background",
        "(20, 20)",
        "(16, 16)",
    ),
    row("beam_ctf of another shape", {"beam_ctf": np.ones((8, 8))}, "beam_ctf", "(8, 8)", "(16, 16)"),
    row(
        "beam_ctf half padded",
        {"beam_ctf": np.ones((18, 18)), "data_pad": 2},
        "beam_ctf",
        "(18, 18)",
        "(20, 20)",
        "without padding (16, 16)",
    ),
    row(
        "probe_constraint_mask of another shape",
        {"probe_constraint_mask": np.ones((8, 8)), "probe_reg_constraint_weight": 1.0},
        "probe_constraint_mask",
        "(8, 8)",
        "(16, 16)",
    ),
    row(
        "padding of half a pixel",
        {"data_pad": 3, "upsample_pattern": 2},
        "data_pad",
        "3 model pixels",
        "upsample_pattern = 2",
    ),
    row("10^9-pixel pixels", {"upsample_pattern": 10**9}, "upsample_pattern", "16000000000 x 16000000000"),
    row(
        "upsampled to an odd difference",
        {"upsample_pattern": 3, "data_pad": 3, "probe": np.ones((15, 15))},
        "probe",
        "(15, 15)",
        "upsample_pattern = 3",
        "(54, 54)",
    ),
    row("rolloff as wide as the band", {"smooth_rolloff": 0.7}, "smooth_rolloff", "0.7", "0.661667"),
    row(
        "window inside out",
        {"window_weight": 0.1, "window": [0.8, 0.5]},
        "window",
        "[0.8, 0.5]",
        "inner <= outer",
    ),
    row(
        "window of a negative radius", {"window_weight": 0.1, "window": [-0.5, 0.8]}, "window", "[-0.5, 0.8]"
    ),
    row("window of three radii", {"window_weight": 0.1, "window": [0.1, 0.5, 0.8]}, "window", "(3,)"),
    row("Hermite orders below zero", {"n_hermite_probe_modes": [-1, 1]}, "n_hermite_probe_modes", "[-1, 1]"),
    row("Hermite orders beyond 100", {"n_hermite_probe_modes": [0, 101]}, "n_hermite_probe_modes", "100"),
    row("Hermite orders in 3-D", {"n_hermite_probe_modes": [1, 1, 1]}, "n_hermite_probe_modes", "(3,)"),
    row("defocus modes in 2-D", {"defocus_spread_modes": [[1.0]]}, "defocus_spread_modes", "(1, 1)", "(n,)"),
    row("filter of four widths", {"apply_gaussian_filter": [1.0] * 4}, "apply_gaussian_filter", "(4,)"),
    row("filter of a negative width", {"apply_gaussian_filter": [-1.0, 1.0]}, "apply_gaussian_filter", "-1"),
    row(
        "filter of a negative width, amplitude",
        {"apply_gaussian_filter_amplitude": [1.0, -2.0, 1.0]},
        "apply_gaussian_filter_amplitude",
        "-2",
    ),
    row("fancy_sigma of one pair", {"fancy_sigma": [(1.0, 2.0)]}, "fancy_sigma", "two entries"),
    row("fancy_sigma of numbers", {"fancy_sigma": (1.0, 2.0)}, "fancy_sigma", "two entries"),
    row("fancy_sigma of three", {"fancy_sigma": (None, None, None)}, "fancy_sigma", "two entries"),
    row("fancy_sigma negative", {"fancy_sigma": ((1.0, -2.0), None)}, "fancy_sigma", "-2"),
    row("fancy_sigma of NaN", {"fancy_sigma": ((np.nan, 1.0), None)}, "fancy_sigma", "NaN"),
    row("fancy_sigma of words", {"fancy_sigma": ("wide", "narrow")}, "fancy_sigma", "wide"),
    row("fancy_sigma of a set", {"fancy_sigma": ({1.0, 2.0}, None)}, "fancy_sigma", "two entries"),
    row("fancy_sigma of a generator", {"fancy_sigma": (x for x in (None, None))}, "fancy_sigma", "generator"),
    row(
        "fancy_sigma of a negative array without axes",
        {"fancy_sigma": np.array(-3.0)},
        "fancy_sigma",
        "two entries",
    ),
)
COMBINATIONS = (
    *(
        row(f"{name} without scan_size", {name: 0.1, "update_tilts": True}, name, "scan_size is not given")
        for kind in ("fast_axis", "slow_axis", "deformation")
        for name in (f"{kind}_reg_weight_positions", f"{kind}_reg_weight_tilts")
    ),
    row(
        "a torn scan without scan_size",
        {"puzzle_positions": True},
        "puzzle_positions",
        "scan_size is not given",
    ),
    row("window_weight without window", {"window_weight": 0.1}, "window_weight", "window is not given"),
    row(
        "probe_reg_constraint_weight without aperture",
        {"probe_reg_constraint_weight": 0.1},
        "probe_reg_constraint_weight",
        "probe_constraint_mask",
    ),
    row(
        "infinite probe_reg_constraint_weight without aperture",
        {"probe_reg_constraint_weight": np.inf},
        "probe_reg_constraint_weight",
        "probe_constraint_mask",
    ),
    row(
        "both tune_only_probe",
        {"tune_only_probe_abs": True, "tune_only_probe_phase": True},
        "tune_only_probe_abs",
        "tune_only_probe_phase at epoch 0",
        "switch on only one",
    ),
    row(
        "refinement of aberrations that are not there",
        {"update_aberrations_array": True, "aberrations_array": [[1.0]]},
        "update_aberrations_array",
        "nothing to refine",
        "aberration_marker",
    ),
    row(
        "refinement of a background that is not there",
        {"update_static_background": True, "static_background": 0},
        "update_static_background",
        "nothing to refine",
        "static_background",
    ),
    row(
        "refinement of a blur that is not there",
        {"update_detector_blur_std": True},
        "update_detector_blur_std",
        "nothing to refine",
        "detector_blur_std",
    ),
    *(
        row(
            f"mc_n_modes beside {name}",
            {"mc_n_modes": 2, "focal_spread": 10.0, name: [1, 1]},
            "mc_n_modes",
            name,
            "in one way only",
        )
        for name in ("n_hermite_probe_modes", "defocus_spread_modes")
    ),
    row("mc_n_modes without any spread", {"mc_n_modes": 2}, "mc_n_modes", "no spread", "focal_spread"),
    row(
        "mc_n_modes beyond the samples",
        {"mc_n_modes": 20, "n_mc_samples": 10, "focal_spread": 10.0},
        "mc_n_modes",
        "20 modes",
        "n_mc_samples = 10",
    ),
    row(
        "a covariance beyond the source",
        {"mc_n_modes": 2, "spatial_coh_x_A": 0.5, "spatial_coh_y_A": 0.2, "spatial_coh_xy": -0.2},
        "spatial_coh_xy",
        "-0.2",
        "0.1",
    ),
    row(
        "a covariance of no source",
        {"mc_n_modes": 2, "focal_spread": 10.0, "spatial_coh_xy": 0.1},
        "spatial_coh_xy",
        "0 Å^2",
    ),
    row(
        "a binary pattern of nothing",
        {"probe": None, "estimate_aperture_based_on_binary": 1000.0},
        "estimate_aperture_based_on_binary",
        "1000 times its mean",
        "lower it",
    ),
    row(
        "an aperture that is closed",
        {"probe_constraint_mask": 0 * _MASK, "probe_reg_constraint_weight": np.inf},
        "probe_constraint_mask",
    ),
    row(
        "an aperture without the probe",
        {"probe_constraint_mask": _CORNER, "probe_reg_constraint_weight": np.inf},
        "probe_constraint_mask",
    ),
    row(
        "an aperture that is negative",
        {"probe_constraint_mask": -_MASK, "probe_reg_constraint_weight": 0.1},
        "probe_constraint_mask",
    ),
    row(
        "a wedge between slices that touch",
        {"num_slices": 2, "slice_distances": [0.0], "wedge_mu": 0.1, "beta_wedge": 0.5},
        "slice_distances",
    ),
    row(
        "a beam that is off",
        {"beam_current": np.zeros(N_PATTERNS)},
        "beam_current",
    ),
)
NOISY = (
    row(
        "negative counts without read-out noise",
        {"dataset": patterns() - 1, "algorithm": "ml"},
        "negative",
        "pattern 0",
        "poisson_gaussian",
    ),
    row(
        "NaN with read-out noise",
        {"dataset": _with(patterns(), np.nan), "algorithm": "poisson_gaussian"},
        "NaN",
        "detector_mask",
    ),
    row(
        "more noise than counts",
        {"dataset": patterns() - 1e3, "algorithm": "poisson_gaussian", "readout_noise": 3.0},
        "dataset",
    ),
)
LATER = (
    row(
        "both tune_only_probe later",
        {"tune_only_probe_abs": "epoch == 2", "tune_only_probe_phase": "epoch > 0"},
        "tune_only_probe_abs",
        "epoch 2",
    ),
    row(
        "a weight without scan_size later",
        {"deformation_reg_weight_positions": "0.1 * epoch"},
        "deformation_reg_weight_positions",
        "scan_size is not given",
    ),
    row(
        "a background refined later",
        {"update_static_background": lambda epoch: epoch == 2},
        "update_static_background",
        "nothing to refine",
    ),
    row(
        "an infinite weight later",
        {"atv_weight": "np.inf if epoch == 2 else 0"},
        "atv_weight",
        "epoch 2",
        "inf",
    ),
    row(
        "a negative weight later",
        {"window_weight": "1 - epoch", "window": [0.5, 0.8]},
        "window_weight",
        "epoch 2",
    ),
    row(
        "an aperture needed later",
        {"probe_reg_constraint_weight": {"from_epoch": {0: 0.0, 2: np.inf}}},
        "probe_reg_constraint_weight",
        "no aperture",
    ),
    row(
        "a window inside out later",
        {"window_weight": 0.1, "window": "[0.5, 0.8] if epoch < 2 else [0.8, 0.5]"},
        "window",
        "[0.8, 0.5]",
    ),
    row(
        "a window that comes later",
        {"window_weight": 0.1, "window": "None if epoch < 2 else [0.5, 0.8]"},
        "window_weight",
        "window",
    ),
    row(
        "a window that goes away",
        {"window_weight": 0.1, "window": {"from_epoch": {0: [0.5, 0.8], 2: None}}},
        "window_weight",
        "window",
    ),
    row(
        "propmethod unknown later",
        {"propmethod": "'yoshida' if epoch < 2 else 'euler'"},
        "propmethod",
        "'euler'",
    ),
    row(
        "propmethod of a number",
        {"propmethod": lambda epoch: 4},
        "propmethod",
        "got 4",
        "better_multislice",
    ),
    row(
        "filter of a negative width later",
        {"apply_gaussian_filter": "[1, 1] if epoch < 2 else [1, -1]"},
        "apply_gaussian_filter",
        "epoch 2",
    ),
    row(
        "fancy_sigma of a triple later",
        {"fancy_sigma": "None if epoch < 2 else ((1, 2, 3), None)"},
        "fancy_sigma",
        "epoch 2",
        "(3,)",
    ),
    row(
        "resizing by a negative distance later",
        {"dynamically_resize_yx_object": "1.5 - epoch"},
        "dynamically_resize_yx_object",
        "epoch 2",
    ),
    row(
        "affine word later",
        {"positions_parametrization": "'free' if epoch < 2 else 'fixed'"},
        "'fixed'",
        "epoch 2",
    ),
)
BEYOND = tuple(
    row(f"{key} beyond reason", {**beside, key: value}, key)
    for key, value, beside in (
        ("detector_blur_std", 1e300, {}),
        ("readout_noise", 1e300, {"algorithm": "poisson_gaussian"}),
        ("beta_wedge", 1e300, {"num_slices": 2, "wedge_mu": 0.1}),
        (
            "mixed_variance_sigma",
            1e300,
            {"obj": smooth_object().repeat(2, 3), "mixed_variance_weight": 0.1},
        ),
        ("spatial_coh_x_A", 1e300, {"mc_n_modes": 2}),
        ("update_extra_cut", 1e300, {}),
        ("flip_ky", 10**400, {}),
        ("n_mc_samples", 10**30, {"mc_n_modes": 2, "focal_spread": 1.0}),
        ("seed", 10**30, {}),
        ("epoch_prev", 10**30, {"epoch_max": 10**30 + 1}),
    )
)

# ---------------------------------------------------------------------------------------------------- phase plates

_PLATES = np.exp(1j * np.random.default_rng(0).random((N_PATTERNS, SIDE, SIDE)))


def plates_row(name: str, make: Callable[[Path], object], *fragments: str) -> Row:
    """Phase plates in a file that ``make`` writes."""

    def build(folder: Path, out: Path) -> dict[str, Any]:
        make(folder / "plates.h5")
        return small_params(phase_plate_in_h5=str(folder / "plates.h5"))

    return Row(f"plates: {name}", build, ("phase_plate_in_h5", *fragments))


def _plates_of(value: Any, key: str = "configs", **options: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file.create_dataset(key, data=value, **options)

    return make


def _linked_plates(link: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file["configs"] = link

    return make


def _truncated_plates(path: Path) -> None:
    _plates_of(_PLATES)(path)
    path.write_bytes(path.read_bytes()[:-4000])


def _damaged_plates(path: Path) -> None:
    _plates_of(_PLATES, chunks=(5, SIDE, SIDE), compression="gzip")(path)
    _overwrite_chunk(path, "configs")


def _group_plates(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("configs")["plates"] = _PLATES


PLATES = (
    plates_row("missing file", lambda path: None, "no file", "plates.h5"),
    plates_row("a folder", lambda path: path.mkdir(), "a folder", "plates.h5"),
    plates_row("text", lambda path: path.write_text("hello"), "HDF5", "plates.h5"),
    plates_row("empty file", lambda path: path.touch(), "HDF5", "plates.h5"),
    plates_row("truncated", _truncated_plates, "HDF5", "truncated", "plates.h5"),
    plates_row(
        "another data set", _plates_of(_PLATES, "plates"), "'configs'", "no such data set", "plates.h5"
    ),
    plates_row("a group", _group_plates, "'configs'", "group"),
    plates_row("a link to nothing", _linked_plates(h5py.SoftLink("/gone")), "'configs'"),
    plates_row("a link to another file", _linked_plates(h5py.ExternalLink("gone.h5", "/configs")), "gone.h5"),
    plates_row("without a shape", _plates_of(h5py.Empty("c16")), "(N, ky, kx)"),
    plates_row("integers", _plates_of(np.ones((N_PATTERNS, SIDE, SIDE), int)), "complex"),
    plates_row("words", _plates_of(["a", "b"]), "complex"),
    plates_row("only one", _plates_of(_PLATES[0]), "(N, ky, kx)"),
    plates_row("one of one", _plates_of(_PLATES[:1]), "(1, 16, 16)", "(25, 16, 16)"),
    plates_row("too many", _plates_of(_PLATES.repeat(2, axis=0)), "(50, 16, 16)", "(25, 16, 16)"),
    plates_row("another window", _plates_of(_PLATES[:, :-2]), "(25, 14, 16)", "(25, 16, 16)"),
    plates_row(
        "NaN",
        _plates_of(np.where(np.arange(N_PATTERNS)[:, None, None] == 3, np.nan, _PLATES)),
    ),
    plates_row(
        "damaged chunk",
        _damaged_plates,
        "cannot be read",
    ),
)
TOGETHER = (*PER_PATTERN, *VIRTUAL, *SHAPES, *COMBINATIONS, *NOISY, *LATER, *BEYOND, *PLATES)

# --------------------------------------------------------------------------------------------------------- data


def data_row(name: str, dataset: Any, *fragments: str) -> Row:
    return row(name, {"dataset": dataset}, *fragments)


def _spoiled(value: float, dtype: str = "float64") -> np.ndarray:
    data = patterns().astype(dtype)
    data[3, 4, 5] = value
    return data


DATA = (
    data_row("no data", None, "dataset", "data_path"),
    data_row("data with NaN", _spoiled(np.nan), "NaN", "pattern 3", "ky=4, kx=5", "detector_mask='nan'"),
    data_row("data with inf", _spoiled(np.inf, "float32"), "infinite", "pattern 3", "detector_mask"),
    data_row("data negative", _spoiled(-1.0), "negative", "pattern 3", "clip at 0"),
    data_row("integer data negative", _spoiled(-1, "int16"), "negative", "-1", "detector_mask"),
    data_row("data all zero", np.zeros((N_PATTERNS, SIDE, SIDE)), "all 25 patterns are zero"),
    data_row("no patterns", np.zeros((0, SIDE, SIDE)), "dataset", "(0, 16, 16)", "empty"),
    data_row("no pixels", np.zeros((N_PATTERNS, 0, SIDE)), "dataset", "(25, 0, 16)", "empty"),
    data_row("data complex", patterns() + 0j, "dataset", "complex"),
    data_row("data of objects", patterns().astype(object), "dataset", "object", "does not hold numbers"),
    data_row("data of text", patterns().astype(str), "dataset", "does not hold numbers"),
    data_row("data 2-D", patterns()[0], "dataset", "(16, 16)", "(N, ky, kx)"),
    data_row("data 5-D", patterns()[None, None], "dataset", "(1, 1, 25, 16, 16)", "(N, ky, kx)"),
    data_row("data is a path", "patterns.h5", "dataset", "patterns.h5", "data_path"),
    data_row("data is a ragged list", [[[1.0]], [[1.0, 2.0]]], "dataset", "nested list"),
    data_row("a window of one pixel", patterns()[:, :1, :1], "dataset", "1 x 1", "at least"),
    data_row("data is a number", 5, "dataset", "(N, ky, kx)"),
    data_row("data is a set", {1, 2}, "dataset", "{1, 2}", "(N, ky, kx)"),
    data_row("data of another scan", patterns()[:20], "positions", "25 rows", "20 patterns"),
    data_row("data 4-D of another scan", patterns().reshape(1, 25, 16, 16)[:, :24], "25 rows", "24 patterns"),
    row(
        "negative pixel is not masked",
        {"dataset": _spoiled(-1.0), "detector_mask": "nan"},
        "negative",
        "pattern 3",
    ),
    row(
        "NaN pixel has weight",
        {"dataset": _spoiled(np.nan), "detector_mask": _with(_MASK, 0.0)},
        "NaN",
        "ky=4, kx=5",
    ),
    row(
        "nothing counted where there is weight",
        {
            "dataset": np.where(np.arange(SIDE) < 8, patterns(), 0),
            "detector_mask": (np.arange(SIDE) >= 8) * _MASK,
        },
        "zero",
        "nothing to reconstruct",
    ),
)

# -------------------------------------------------------------------------------------------------------- files


def file_row(name: str, file: str, make: Callable[[Path], object], *fragments: str, **changes: Any) -> Row:
    """The small problem with its patterns in a file that ``make`` writes."""

    def build(folder: Path, out: Path) -> dict[str, Any]:
        make(folder / file)
        return small_params(dataset=..., data_path=str(folder / file), **changes)

    return Row(name, build, fragments)


def _h5(path: Path, key: str = "data", **options: Any) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset(key, data=patterns(), **options)


def _h5_of(value: Any, **options: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file.create_dataset("data", data=value, **options)

    return make


def _truncated_h5(path: Path) -> None:
    _h5(path)
    path.write_bytes(path.read_bytes()[:-4000])


def _bad_chunk_h5(path: Path) -> None:
    """A compressed data set with a chunk that is overwritten."""
    _h5(path, chunks=(5, SIDE, SIDE), compression="gzip")
    _overwrite_chunk(path, "data")


def _overwrite_chunk(path: Path, key: str) -> None:
    with h5py.File(path, "r") as file:
        chunk = file[key].id.get_chunk_info(2)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + 200] = b"\xff" * 200
    path.write_bytes(content)


def _group_h5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("data")["inside"] = patterns()


def _npy(path: Path) -> None:
    np.save(path, patterns())


def _truncated_npy(path: Path) -> None:
    _npy(path)
    path.write_bytes(path.read_bytes()[:-4000])


class Explosive:
    """Pickles to a call that leaves a file behind: it tells whether somebody unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


def _pickled_npy(path: Path) -> None:
    np.save(path, np.array([Explosive(path.with_name("exploded"))], dtype=object), allow_pickle=True)


_COMPOUND = np.zeros((3, 4, 4), dtype=[("a", "f4"), ("b", "u2")])
FILES = (
    file_row("missing file", "gone.h5", lambda path: None, "data_path", "gone.h5", "there is no file"),
    file_row(
        "a folder as file", "folder.h5", lambda path: path.mkdir(), "data_path", "folder.h5", "a folder"
    ),
    file_row("truncated HDF5", "cut.h5", _truncated_h5, "cut.h5", "truncated", "copy it again"),
    file_row("empty HDF5 file", "empty.h5", lambda path: path.touch(), "empty.h5", "not HDF5"),
    file_row("text named .h5", "text.h5", lambda path: path.write_text("hello"), "text.h5", "not HDF5"),
    file_row("damaged chunk", "chunk.h5", _bad_chunk_h5, "chunk.h5", "cannot be read"),
    file_row(
        "missing data set",
        "other.h5",
        lambda path: _h5(path, "entry/frames"),
        "'data'",
        "entry/frames",
        "data_key",
    ),
    file_row("empty data_key", "data.h5", _h5, "data", "data_key", data_key=""),
    file_row("a group instead of a data set", "group.h5", _group_h5, "'data'", "data/inside", "data_key"),
    file_row("HDF5 data complex", "c.h5", _h5_of(patterns() + 0j), "c.h5", "complex", "squared modulus"),
    file_row("HDF5 data compound", "v.h5", _h5_of(_COMPOUND), "v.h5", "does not hold numbers"),
    file_row("HDF5 data of text", "t.h5", _h5_of(["a", "b"]), "t.h5", "(N, ky, kx)"),
    file_row("HDF5 data 2-D", "2.h5", _h5_of(patterns()[0]), "2.h5", "(16, 16)", "(N, ky, kx)"),
    file_row("HDF5 data 5-D", "5.h5", _h5_of(patterns()[None, None]), "5.h5", "(1, 1, 25, 16, 16)"),
    file_row("HDF5 scalar", "s.h5", _h5_of(3.0), "s.h5", "()", "(N, ky, kx)"),
    file_row("HDF5 null data set", "n.h5", _h5_of(h5py.Empty("f4")), "n.h5", "(N, ky, kx)"),
    file_row("HDF5 without patterns", "0.h5", _h5_of(patterns()[:0]), "0.h5", "no patterns"),
    file_row("HDF5 all zero", "z.h5", _h5_of(0 * patterns()), "z.h5", "all 25 patterns are zero"),
    file_row(
        "HDF5 with NaN", "nan.h5", _h5_of(_spoiled(np.nan)), "nan.h5", "pattern 3", "detector_mask='nan'"
    ),
    file_row("truncated .npy", "cut.npy", _truncated_npy, "cut.npy", "cannot be read as .npy"),
    file_row("empty .npy", "empty.npy", lambda path: path.touch(), "empty.npy", "cannot be read as .npy"),
    file_row(
        "text named .npy", "text.npy", lambda path: path.write_text("hello"), "text.npy", "cannot be read"
    ),
    file_row("pickled .npy", "pickled.npy", _pickled_npy, "pickled.npy", "cannot be read as .npy"),
    file_row("complex .npy", "c.npy", lambda path: np.save(path, patterns() + 0j), "c.npy", "complex"),
    file_row(
        "unknown ending", "data.tif", lambda path: path.touch(), "data.tif", "'.tif'", ".npy can be read"
    ),
    file_row("no ending", "data", lambda path: path.touch(), "data_path", "ending"),
    row("data_path of a wrong type", {"dataset": ..., "data_path": 3}, "data_path", "a path"),
    row("data_path with NUL", {"dataset": ..., "data_path": "a\0.h5"}, "data_path", "x00"),
    row("data_path too long", {"dataset": ..., "data_path": "a" * 5000 + ".h5"}, "data_path"),
    row(
        "data_path of nobody",
        {"dataset": ..., "data_path": "~no-such-user/a.h5"},
        "data_path",
        "no-such-user",
    ),
)


def array_file_row(name: str, make: Callable[[Path], object], *fragments: str) -> Row:
    """``obj`` as the path of a .npy file that ``make`` writes."""

    def build(folder: Path, out: Path) -> dict[str, Any]:
        make(folder / "start.npy")
        return small_params(obj=str(folder / "start.npy"))

    return Row(name, build, ("obj", "start.npy", *fragments))


def _closed_dataset(folder: Path, out: Path) -> dict[str, Any]:
    _h5(folder / "a.h5")
    with h5py.File(folder / "a.h5", "r") as file:
        return small_params(dataset=file["data"])


ARRAY_FILES = (
    array_file_row("obj from a truncated file", _truncated_npy, "cannot be read"),
    array_file_row("obj from an empty file", lambda path: path.touch(), "cannot be read"),
    array_file_row("obj from a pickle", _pickled_npy, "cannot be read"),
    array_file_row("obj from a file of text", lambda path: path.write_text("hello"), "cannot be read"),
    array_file_row("obj from a folder", lambda path: path.mkdir(), "cannot be read"),
    Row("data of a file that was closed", _closed_dataset, ("dataset", "cannot be accessed")),
)

# ------------------------------------------------------------------------------------------------------ presets


def yaml_row(name: str, text: str, *fragments: str, file: str = "preset.yaml") -> Row:
    """A preset file with this text; ``{out}`` stands for the output folder."""

    def build(folder: Path, out: Path) -> str:
        np.save(folder / "patterns.npy", patterns())
        _pickled_npy(folder / "pickled.npy")
        (folder / "empty.npy").touch()
        (folder / file).write_text(text.replace("{out}", str(out)), encoding="utf-8")
        return str(folder / file)

    return Row(name, build, fragments)


def _binary_yaml(folder: Path, out: Path) -> str:
    (folder / "preset.yaml").write_bytes(b"\xff\xfe\xfa\x00\x81")
    return str(folder / "preset.yaml")


def _pickle_preset(folder: Path, out: Path) -> str:
    (folder / "params.pkl").write_bytes(pickle.dumps(Explosive(folder / "exploded")))
    return str(folder / "params.pkl")


_START = "output_folder: {out}\ndata_path: patterns.npy\n"
PRESETS = (
    Row("unknown preset", lambda folder, out: "no_such_preset", ("no_such_preset", "presets")),
    Row("missing preset file", lambda folder, out: folder / "gone.yaml", ("gone.yaml", "no parameter file")),
    Row("empty preset name", lambda folder, out: "", ("params.yaml", "no parameter file")),
    Row("preset name too long", lambda folder, out: "a" * 5000, ("aaaaaaaa", "cannot be a path")),
    Row("preset name with NUL", lambda folder, out: "a\0b", ("x00b", "no parameter file")),
    Row("folder without params.yaml", lambda folder, out: folder, ("params.yaml", "no parameter file")),
    Row("a pickle", _pickle_preset, ("params.pkl", "can run code", "import_pickle")),
    Row("binary YAML", _binary_yaml, ("preset.yaml", "cannot be read as YAML")),
    yaml_row("YAML list", "- 1\n- 2\n", "preset.yaml", "contains a list", "name: value"),
    yaml_row("YAML text", "just words\n", "preset.yaml", "contains a str", "name: value"),
    yaml_row("YAML with a syntax error", "a: [1, 2\nb: 3\n", "preset.yaml", "cannot be read as YAML"),
    yaml_row("YAML with a tab", "a:\n\tb: 3\n", "preset.yaml", "cannot be read as YAML"),
    yaml_row("YAML with a key twice", _START + "epoch_max: 3\nepoch_max: 4\n", "'epoch_max'", "twice"),
    yaml_row(
        "YAML with a nested key twice", _START + "update_obj: {from_epoch: {0: 1, 0: 2}}\n", "0", "twice"
    ),
    yaml_row(
        "YAML with a python object", _START + "seed: !!python/object/apply:os.getpid []\n", "python/object"
    ),
    yaml_row("YAML with a python name", _START + "seed: !!python/name:os.system\n", "python/name"),
    yaml_row("YAML with an impossible date", _START + "sample_name: 2001-99-99\n", "preset.yaml", "YAML"),
    yaml_row("YAML nested too deeply", "a: " + "[" * 5000, "preset.yaml", "YAML"),
    yaml_row("YAML with an alias to nothing", "a: *b\n", "preset.yaml", "YAML"),
    yaml_row("YAML with an unknown key", _START + "update_object: true\n", "update_object", "'update_obj'"),
    yaml_row("YAML number as words", _START + "epoch_max: ten\n", "epoch_max", "'ten'", "an integer"),
    yaml_row(
        "YAML array file missing", "dataset: {file: gone.npy}\n", "dataset", "gone.npy", "cannot be read"
    ),
    yaml_row(
        "YAML array file pickled",
        "dataset: {file: pickled.npy}\n",
        "dataset",
        "pickled.npy",
        "cannot be read",
    ),
    yaml_row(
        "YAML array file empty", "dataset: {file: empty.npy}\n", "dataset", "empty.npy", "cannot be read"
    ),
    yaml_row(
        "YAML with a lost function", _START + "update_obj: {callable: f}\n", "update_obj", "(f)", "again"
    ),
    yaml_row("empty YAML", "", "dataset", "data_path"),
)

# --------------------------------------------------------------------------------------- output and continuing


def _file_as_folder(folder: Path, out: Path) -> dict[str, Any]:
    (folder / "taken").write_text("mine")
    return small_params(output_folder=str(folder / "taken"))


def _folder_below_file(folder: Path, out: Path) -> dict[str, Any]:
    (folder / "taken").write_text("mine")
    return small_params(output_folder=str(folder / "taken" / "deep" / "er"))


def _state(folder: Path, **changes: Any) -> Path:
    """resume.h5 of a finished run of the small problem."""
    pypty.run(small_params(output_folder=str(folder / "earlier"), **changes))
    return folder / "earlier" / "resume.h5"


def resume_row(name: str, spoil: Callable[[bytes], bytes], changes: dict[str, Any], *fragments: str) -> Row:
    """A resume.h5 in the output folder, changed by ``spoil``; then a run with ``changes``."""

    def build(folder: Path, out: Path) -> dict[str, Any]:
        (out / "resume.h5").write_bytes(spoil(_state(folder).read_bytes()))
        return small_params(resume=True, epoch_max=5, **changes)

    return Row(name, build, fragments, CheckpointError, at_run=True)


def edited_resume_row(name: str, edit: Callable[[h5py.File], object], *fragments: str) -> Row:
    """A resume.h5 in the output folder in which something was changed."""

    def build(folder: Path, out: Path) -> dict[str, Any]:
        (out / "resume.h5").write_bytes(_state(folder).read_bytes())
        with h5py.File(out / "resume.h5", "r+") as file:
            edit(file)
        return small_params(resume=True, epoch_max=5)

    return Row(name, build, fragments, CheckpointError, at_run=True)


def _replace(file: h5py.File, name: str, value: Any) -> None:
    del file[name]
    file[name] = value


def _set(file: h5py.File, name: str, value: Any) -> None:
    file.attrs[name] = value


def _damaged_log(folder: Path, out: Path) -> dict[str, Any]:
    (out / "loss.csv").write_text("epoch,loss\n1,abc\n")
    return small_params(epoch_prev=2, epoch_max=4)


def _same(content: bytes) -> bytes:
    return content


OUTPUT = (
    Row("output folder is a file", _file_as_folder, ("output_folder", "taken", "is a file")),
    Row("output folder below a file", _folder_below_file, ("output_folder", "taken", "is a file")),
    row("output folder name too long", {"output_folder": "a" * 5000}, "output_folder"),
    row("output folder of nobody", {"output_folder": "~no-such-user/a"}, "output_folder", "no-such-user"),
    row("resume without a state", {"resume": True}, "resume", "no resume.h5", "resume=False"),
    row("resume without a folder", {"resume": True, "output_folder": ""}, "resume", "output_folder is empty"),
    resume_row("resume.h5 is no HDF5", lambda content: b"hello", {}, "resume.h5", "load_checkpoint"),
    resume_row("resume.h5 is empty", lambda content: b"", {}, "resume.h5", "load_checkpoint"),
    resume_row(
        "resume.h5 is truncated",
        lambda content: content[: len(content) // 2],
        {},
        "resume.h5",
        "load_checkpoint",
    ),
    edited_resume_row(
        "resume.h5 of another kind", lambda file: file.attrs.clear(), "resume.h5", "load_checkpoint"
    ),
    edited_resume_row(
        "resume.h5 of a later format", lambda file: file.attrs.modify("format", 99), "format 99"
    ),
    edited_resume_row("resume.h5 without its object", lambda file: file.pop("variables/obj"), "resume.h5"),
    edited_resume_row(
        "resume.h5 with text for history", lambda file: _set(file, "history_bytes", "no"), "resume.h5"
    ),
    edited_resume_row(
        "resume.h5 with numbers for history", lambda file: _set(file, "history_bytes", 10**6), "history.jsonl"
    ),
    edited_resume_row(
        "resume.h5 with a flat object", lambda file: _replace(file, "variables/obj", [1.0]), "resume.h5"
    ),
    resume_row("resume with other data", _same, {"dataset": patterns() + 1}, "resume.h5", "other data"),
    resume_row(
        "resume in another precision", _same, {"default_dtype": "single"}, "double", "'single'", "the same"
    ),
    resume_row("resume with another window", _same, {"data_pad": 2}, "resume.h5", "window", "16", "20"),
    resume_row("resume with other slices", _same, {"num_slices": 2}, "resume.h5", "slices"),
    Row("damaged loss.csv of the run to continue", _damaged_log, ("loss.csv",), PyptyError, at_run=True),
)


def _on_a_gpu(folder: Path, out: Path) -> dict[Any, Any]:
    if gpu_status().usable:
        pytest.skip("there is one")
    return small_params(backend="gpu")


NO_GPU = (Row("backend gpu without one", _on_a_gpu, ("backend='gpu'", "backend='cpu'")),)

DICTS = (
    *(*KEYS, *TYPES, *ARRAYS, *SIZES, *SCHEDULES, *TOGETHER),
    *(*DATA, *FILES, *ARRAY_FILES, *OUTPUT, *NO_GPU),
)
TABLE = (*DICTS, *NO_DICT, *PRESETS)


def by_name(rows: tuple[Row, ...]) -> Any:
    """One test for each row."""
    return pytest.mark.parametrize("bad", [pytest.param(bad, id=bad.name) for bad in rows])


# -------------------------------------------------------------------------------------------------------- tests


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An output folder of an earlier run."""
    out = tmp_path / "out"
    (out / "params").mkdir(parents=True)
    (out / "co.npy").write_bytes(b"object of yesterday")
    (out / "cp.npy").write_bytes(b"probe of yesterday")
    (out / "params.yaml").write_text("epoch_max: 7\n")
    (out / "loss.csv").write_text("epoch,loss\n")
    (out / "params" / "positions.npy").write_bytes(b"positions of yesterday")
    return out


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, in which the files of a row are made."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def build(bad: Row, work: Path, out: Path) -> Any:
    params = bad.build(work, out)
    if isinstance(params, dict):
        params.setdefault("output_folder", str(out))
    return params


def test_the_small_problem_itself_is_good(work: Path, out: Path) -> None:
    assert pypty.check(small_params(output_folder=str(out), overwrite=True))
    assert pypty.check(two_slices())
    result = pypty.run(small_params(output_folder=str(out), overwrite=True))
    assert result.loss[-1] < 0.5 * result.loss[0]
    assert (out / "co.npy").read_bytes() != b"object of yesterday"


def test_the_table_is_long_and_its_names_are_unique() -> None:
    names = [bad.name for bad in TABLE]
    assert len(names) >= 70
    assert len(set(names)) == len(names)
    assert all(bad.fragments for bad in TABLE)


@by_name(TABLE)
def test_bad_input_is_refused_and_leaves_the_folder(bad: Row, work: Path, out: Path, tmp_path: Path) -> None:
    params = build(bad, work, out)
    before = snapshot(tmp_path)
    with pytest.raises(PyptyError) as caught:
        pypty.run(params)
    assert isinstance(caught.value, bad.error)
    missing = [text for text in bad.fragments if text not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"
    assert snapshot(tmp_path) == before


@by_name(tuple(bad for bad in DICTS if not bad.at_run))
def test_check_reports_it_without_raising(bad: Row, work: Path, out: Path, tmp_path: Path) -> None:
    params = build(bad, work, out)
    before = snapshot(tmp_path)
    report = pypty.check(params)
    assert not report
    missing = [text for text in bad.fragments if text not in str(report)]
    assert not missing, f"{missing} not in: {report}"
    assert snapshot(tmp_path) == before


@by_name((*NO_DICT[:1], *PRESETS[:1], *PRESETS[9:11]))
def test_check_reports_what_is_no_dict_without_raising(bad: Row, work: Path, out: Path) -> None:
    report = pypty.check(build(bad, work, out))
    assert not report
    assert all(text in str(report) for text in bad.fragments)


ONLY_READING_SHOWS_IT = {
    "data with NaN",
    "data with inf",
    "data negative",
    "integer data negative",
    "data all zero",
}


@by_name((*KEYS, *TYPES[:10], *DATA[1:6], *SCHEDULES[:4], *PER_PATTERN, *SHAPES[:-1], *LATER[:4]))
@pytest.mark.parametrize("function", [pypty.evaluate, pypty.plan], ids=["evaluate", "plan"])
def test_the_other_functions_refuse_it_too(
    bad: Row, function: Callable[[Any], object], work: Path, out: Path
) -> None:
    if function is pypty.plan and bad.name in ONLY_READING_SHOWS_IT:
        assert pypty.plan(build(bad, work, out)).total > 0, (
            "plan() looks at shape and type, not at every value"
        )
        return
    with pytest.raises(bad.error):
        function(build(bad, work, out))


SEVERAL = {
    "acc_voltage": -80.0,
    "epoch_maxx": 5,
    "pixel_size_x_A": "small",
    "atv_weight": np.inf,
    "tilts": np.zeros((3, 6)),
    "window_weight": 0.1,
    "mc_n_modes": 3,
    "static_background": -1.0,
    "update_obj": "lambda x: y",
    "update_step_bfgs": "1/(2 - epoch)",
    "wolfe_c1_constant": 0.95,
    "algorithm": "lsq_compressed",
    "detector_mask": np.ones((8, 8)),
    "scan_size": (4, 5),
    "probe": np.zeros((SIDE, SIDE, 1)),
    "obj": np.full((4, 4, 1, 1), np.nan),
}


def test_several_problems_are_all_reported_at_once(work: Path, out: Path) -> None:
    params = small_params(**SEVERAL, output_folder=str(out))
    report = pypty.check(params)
    missing = [key for key in SEVERAL if not any(text.startswith(key) for text in report.problems)]
    assert missing == []
    with pytest.raises(ParameterError) as caught:
        pypty.run(params)
    assert str(caught.value) == str(report)
    for key in SEVERAL:
        assert key in str(caught.value)
    assert f"{len(report.problems)} problems" in str(caught.value)


def test_problems_of_files_and_of_parameters_are_reported_together(work: Path) -> None:
    (work / "taken").touch()
    report = pypty.check(
        small_params(dataset=..., data_path="gone.h5", output_folder="taken", n_threads=0, data_key=4)
    )
    found = {text.split(":")[0] for text in report.problems}
    assert found == {"data_path", "output_folder", "n_threads", "data_key"}


@pytest.mark.parametrize(
    "changes",
    [
        {"acc_voltage": -80.0},
        {"update_step_bfgs": "1/epoch"},
        {"update_step_bfgs": lambda epoch: 1 / epoch},
        {"sequence": lambda epoch: None if epoch else "all"},
        {"dataset": ..., "data_path": "gone.h5"},
        {"dataset": None},
        {"probe": "aperture"},
        {"positions": scan_positions()[:3]},
        {"tilts": np.zeros((3, 6))},
        {"tune_only_probe_abs": "epoch > 0", "tune_only_probe_phase": "epoch > 0"},
        {"update_static_background": True},
        {"fast_axis_reg_weight_positions": 0.1},
        {"phase_plate_in_h5": "gone.h5"},
        {"algorithm": "lsq_compressed"},
        {"static_background": np.ones((3, 3))},
    ],
    ids=lambda changes: ", ".join(changes),
)
def test_one_problem_is_reported_once(changes: dict[str, Any], work: Path) -> None:
    assert len(pypty.check(small_params(**changes)).problems) == 1


SIMULATED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "rows of different numbers": (
        {"beam_current": np.ones(25), "defocus_array": np.ones(24)},
        ("24 rows", "25 patt"),
    ),
    "more rows than positions": ({"beam_current": np.ones(30)}, ("positions", "25 rows", "30 patterns")),
    "nobody gave positions": (
        {"positions": ..., "probe_marker": _ODD},
        ("positions", "1 rows", "25 patterns"),
    ),
    "no window": ({"probe": None}, ("probe", "window", "array")),
    "half a detector pixel": ({"upsample_pattern": 3}, ("probe", "(16, 16)", "3 x 3", "upsample_pattern")),
    "nothing but padding": ({"data_pad": 8}, ("probe", "data_pad = 8")),
    "masks of another algorithm": (
        {"masks": _VIRTUAL["masks"], "algorithm": "lsq_sqrt"},
        ("algorithm", "lsq_compressed"),
    ),
    "a background of another shape": (
        {"static_background": np.ones((8, 8))},
        ("static_background", "(8, 8)"),
    ),
    "outside tilts that are NaN": ({"tilts": np.full((1, 6), np.nan)}, ("tilts", "NaN")),
}


@pytest.mark.parametrize("name", SIMULATED)
def test_patterns_of_bad_input_are_not_computed(name: str) -> None:
    changes, fragments = SIMULATED[name]
    with pytest.raises(ParameterError) as caught:
        pypty.simulate(_changed(small_params(dataset=...), changes))
    assert [text for text in fragments if text not in str(caught.value)] == []


def test_a_problem_of_a_schedule_hides_no_other(work: Path) -> None:
    """A function that fails at an epoch at which two switches exclude each other; and a wrong shape beside them."""
    both = {"tune_only_probe_abs": "epoch == 1", "tune_only_probe_phase": "epoch == 1"}
    report = pypty.check(small_params(**both, update_step_bfgs="1/(1 - epoch)", tilts=np.zeros((3, 6))))
    assert any(text.startswith("update_step_bfgs") for text in report.problems)
    assert any(text.startswith("tilts") for text in report.problems)


def test_nothing_was_unpickled(work: Path, out: Path) -> None:
    """The payload in the tables does explode when it is unpickled, and no row did so."""
    for bad in (*FILES, *ARRAY_FILES, *PRESETS):
        if "pickle" in bad.name:
            with pytest.raises(PyptyError):
                pypty.run(build(bad, work, out))
    assert not (work / "exploded").exists()
    np.load(work / "pickled.npy", allow_pickle=True)
    assert (work / "exploded").exists()


def test_a_python_tag_in_yaml_runs_nothing(work: Path, out: Path) -> None:
    (work / "preset.yaml").write_text(
        f"seed: !!python/object/apply:pathlib.Path.touch [{work / 'exploded'}]\n"
    )
    with pytest.raises(ParameterError):
        pypty.run("preset.yaml")
    assert not (work / "exploded").exists()


def test_the_message_of_a_missing_gpu(work: Path) -> None:
    if gpu_status().usable:
        pytest.skip("a GPU works on this machine")
    with pytest.raises(ParameterError, match="pypty doctor"):
        pypty.run(small_params(backend="gpu"))


def test_errors_are_the_builtin_kinds_too() -> None:
    """``except ValueError`` around a run keeps working."""
    with pytest.raises(ValueError, match="acc_voltage"):
        pypty.run(small_params(acc_voltage=0))


def test_a_bad_file_is_closed_again(work: Path) -> None:
    """A data file that was opened for the check can be replaced on every system afterwards."""
    _h5(work / "data.h5")
    assert not pypty.check(small_params(dataset=..., data_path="data.h5", acc_voltage=0))
    assert not pypty.check(small_params(dataset=..., data_path="data.h5", positions=scan_positions()[:3]))
    with h5py.File(work / "data.h5", "r+") as file:
        file["data"][0] = 0


def test_a_broken_preset_on_the_command_line_shows_no_traceback(work: Path) -> None:
    (work / "preset.yaml").write_text(yaml.safe_dump({"epoch_maxx": 3}))
    done = subprocess.run(
        [sys.executable, "-m", "pypty", "run", "preset.yaml"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "epoch_max" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"constraints": {"obj_rblur": {"std": -1}}},
            "'obj_rblur': 'std': given -1, which is out of range, expected",
        ),
        ({"learning_rates": {"objp": -1}}, "'objp': 'lr': given -1"),
        ({"loss_terms": {"single": {"dp_pow": 0}}}, "'single': 'dp_pow': given 0"),
        (
            {"lr_scheduler": {"name": "cosin"}},
            "'name': given 'cosin' (did you mean 'cosine'?), expected one of",
        ),
    ],
)
def test_an_entry_of_a_dict_is_told_what_is_expected_of_it_alone(
    changes: dict[str, object], expected: str
) -> None:
    with pytest.raises(ParameterError) as caught:
        pypty.run(small_params(**changes))
    text = str(caught.value)
    assert expected in text and text.count("expected") == 1 and "a dict" not in text


def test_wrong_types_are_parameter_errors(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="expected a dict"):
        pypty.calibrate.everything("scan.yaml")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="must be numbers from 0"):
        pypty.dpc.fft_based_dpc(flat_scan(), hpass="a")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="eps is 'a'"):
        pypty.direct.ssb(flat_scan(), eps="a")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="n_aberrations_to_fit is 'a'"):
        pypty.tcbf.run_tcbf_alignment(flat_scan(), n_aberrations_to_fit="a")
    (tmp_path / "p.yaml").write_text("epoch_max: 3\n")
    with pytest.raises(ParameterError, match="need a list of values"):
        pypty.utils.change_params(tmp_path / "p.yaml", ["epoch_max"], 4)
    with pytest.raises(ParameterError, match="is a data file"):
        pypty.load_preset(data_file(tmp_path))


def test_simulating_outside_the_field_of_view_is_refused() -> None:
    with pytest.raises(ParameterError, match="use_full_FOV"):
        pypty.simulate(small_params(use_full_FOV=False, sequence=[0, 1]))


def test_every_pattern_of_every_epoch_is_looked_at() -> None:
    """A NaN in a pattern that only a later epoch uses must not stop the run half way."""
    data = patterns().copy()
    data[20, 0, 0] = np.nan
    with pytest.raises(ParameterError, match="pattern 20"):
        pypty.run(small_params(dataset=data, sequence="range(10) if epoch < 2 else range(25)", epoch_max=4))
    assert pypty.check(
        small_params(dataset=data, sequence="range(10) if epoch < 2 else range(15)", epoch_max=4)
    )
