"""PtyRAD's guide, literally: every default as a parameter file, and every documented form of every key."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import yaml
from ptyrad_content import assert_known, content, patterns, translated

from pypty.errors import ParameterError
from pypty.importers import Translation, translate
from pypty.importers.ptyrad.defaults import GROUPS, Rows
from pypty.importers.ptyrad.file import complete

DATA = Path(__file__).parent / "data"
STATE = DATA / "ptyrad_model_state.hdf5"

DEFAULTS = """
init_params:
  random_seed: null
  probe_illum_type: electron
  probe_aberrations: {}
  pos_N_scans: null
  meas_calibration: {mode: fitRBF, value: null}
  probe_pmode_max: 4
  probe_pmode_init_pows: [0.02]
  obj_omode_max: 1
  obj_omode_init_occu: {occu_type: uniform, init_occu: null}
  simu_Npix: null
  simu_match_mode: null
  meas_permute: null
  meas_reshape: null
  meas_flipT: null
  meas_crop: null
  meas_remove_neg_values: {mode: clip_neg, value: null, force: false}
  meas_normalization: {mode: max_at_one, value: null}
  meas_pad: null
  meas_resample: null
  meas_add_source_size: null
  meas_add_detector_blur: null
  meas_add_poisson_noise: null
  meas_export: null
  probe_permute: null
  probe_z_shift: null
  probe_normalization: {mode: mean_total_ints, value: null}
  pos_scan_flipT: null
  pos_scan_affine: null
  pos_scan_rand_std: 0.15
  obj_z_crop: null
  obj_z_pad: null
  obj_z_resample: null
  meas_source: file
  probe_source: simu
  probe_params: null
  pos_source: simu
  pos_params: null
  obj_source: simu
  obj_params: null
  tilt_source: simu
  tilt_params: {tilt_type: all, init_tilts: [[0, 0]]}
hypertune_params:
  if_hypertune: false
  verbosity: WARNING
  collate_results: true
  append_params: true
  n_trials: 5
  timeout: null
  sampler_params: {name: TPESampler, configs: {multivariate: true, group: true, constant_liar: true}}
  pruner_params: {name: HyperbandPruner, configs: {min_resource: 5, reduction_factor: 2}}
  storage_path: sqlite:///hypertune.sqlite3
  study_name: study
  error_metric: loss
model_params:
  detector_blur_std: null
  preload_data: true
  optimizer_params: {name: Adam, configs: {}, load_state: null}
  scheduler_params: null
  update_params:
    obja: {start_iter: 1, lr: 5.0e-4, end_iter: null}
    objp: {start_iter: 1, lr: 5.0e-4, end_iter: null}
    obj_tilts: {start_iter: null, lr: 0, end_iter: null}
    slice_thickness: {start_iter: null, lr: 0, end_iter: null}
    probe: {start_iter: 1, lr: 1.0e-4, end_iter: null}
    probe_pos_shifts: {start_iter: 1, lr: 5.0e-4, end_iter: null}
loss_params:
  loss_single: {state: true, weight: 1.0, dp_pow: 0.5}
  loss_poissn: {state: false, weight: 1.0, dp_pow: 1.0, eps: 1.0e-6}
  loss_pacbed: {state: false, weight: 0.5, dp_pow: 0.2}
  loss_sparse: {state: false, weight: 0.1, ln_order: 1}
  loss_simlar: {state: false, weight: 0.1, obj_type: both, scale_factor: [1, 1, 1], blur_std: 1.0}
constraint_params:
  ortho_pmode: {start_iter: 1, step: 1, end_iter: null}
  probe_mask_k: {start_iter: null, step: 1, end_iter: null, radius: 0.22, width: 0.05, power_thresh: 0.95}
  probe_mask_r: {start_iter: null, step: 1, end_iter: null, radius: 0.95, order: 6, power_thresh: 0.95,
                 z_range: [-500, 500], z_steps: 101}
  fix_probe_int: {start_iter: 1, step: 1, end_iter: null}
  obj_rblur: {start_iter: 1, step: 1, end_iter: null, obj_type: both, kernel_size: 5, std: 0.4}
  obj_zblur: {start_iter: 1, step: 1, end_iter: null, obj_type: both, kernel_size: 5, std: 1.0}
  kr_filter: {start_iter: null, step: 1, end_iter: null, obj_type: both, radius: 0.15, width: 0.05}
  kz_filter: {start_iter: null, step: 1, end_iter: null, obj_type: both, beta: 1, alpha: 1}
  kr_thresh: {start_iter: null, step: 1, end_iter: null, obj_type: both, thresh: 0.05}
  complex_ratio: {start_iter: null, step: 1, end_iter: null, obj_type: both, alpha1: 1, alpha2: 0}
  mirrored_amp: {start_iter: null, step: 1, end_iter: null, relax: 0.1, scale: 0.03, power: 4}
  obj_z_recenter: {start_iter: null, step: 1, end_iter: null, thresh: 95, scale: 1, max_shift: 10}
  obja_thresh: {start_iter: null, step: 1, end_iter: null, relax: 0, thresh: [0.96, 1.04]}
  objp_postiv: {start_iter: null, step: 1, end_iter: null, relax: 0}
  pos_recenter: {start_iter: 1, step: 1, end_iter: null, relax: 0}
  tilt_smooth: {start_iter: null, step: 1, end_iter: null, std: 2}
recon_params:
  NITER: 200
  INDICES_MODE: {mode: full, subscan_slow: null, subscan_fast: null}
  BATCH_SIZE: {size: 32, grad_accumulation: 1}
  GROUP_MODE: random
  SAVE_ITERS: 10
  output_dir: output/
  recon_dir_affixes: [default]
  prefix_time: date
  prefix: ''
  postfix: ''
  save_result: [model, objp]
  result_modes: {obj_dim: [2, 3, 4], FOV: [crop], bit: ['8']}
  selected_figs: [convergence, forward, probe_r_amp, pos]
  copy_params: true
  compiler_configs: {enable: false, fullgraph: false, dynamic: null, backend: inductor, mode: default, options: null}
  convergence_monitor: {tensors: [obja, objp, probe, probe_pos_shifts], every_n_iters: null, percentile_range: [15, 85]}
"""
"""What a key is worth that the file does not have; required keys, whose value the guide leaves open, are not here."""

BEYOND_DEFAULTS = {
    # required
    *(
        "probe_kv",
        "probe_conv_angle",
        "meas_Npix",
        "pos_N_scan_slow",
        "pos_N_scan_fast",
        "pos_scan_step_size",
    ),
    *("obj_Nlayer", "obj_slice_thickness", "meas_params"),
    # X-rays
    *("beam_kev", "probe_dRn", "probe_Rn", "probe_D_H", "probe_D_FZP", "probe_Ls"),
    # of older versions; the names that may be searched are all off
    *("obj_preblur_std", "if_quiet", "tune_params"),
}


def test_the_defaults_of_the_guide_are_ours() -> None:
    theirs = yaml.safe_load(DEFAULTS)
    groups = complete(content(), "it").groups
    init = groups["init_params"]
    init["random_seed"], init["meas_source"] = None, "file"  # the small file has its own
    for name, entries in theirs.items():
        assert set(entries) == set(GROUPS[name]) - BEYOND_DEFAULTS, name
        for key, value in entries.items():
            found = groups[name][key]
            if isinstance(found, Mapping) and "mode" in found and name == "constraint_params":
                found = {other: item for other, item in found.items() if other != "mode"}  # hidden in PtyRAD
            assert found == value, (name, key)


def test_a_file_of_all_defaults_is_the_file_without_them() -> None:
    theirs = yaml.safe_load(DEFAULTS)
    given = content()["init_params"]
    whole = translated(**{**theirs, "init_params": {**theirs["init_params"], **given}}).params
    short = translated().params
    assert set(whole) == set(short)
    for name, value in short.items():
        if name not in ("params_dumped", "recon_dir_spelling"):  # what they spell differs: 0 and 0.0
            np.testing.assert_equal(whole[name], value, err_msg=name)


def leaves(rows: Rows, path: str) -> Iterator[str]:
    """Dotted names of all keys that are not themselves mappings of keys."""
    for key, row in rows.items():
        if row.rows:
            yield from leaves(row.rows, f"{path}.{key}")
        else:
            yield f"{path}.{key}"


DISK = 1e3 * 0.04175716 * np.sqrt(36 / np.pi) / (16 * 24.9)
"""Pixel of the small file, from 36 bright pixels."""
FORMS: list[tuple[dict[str, Any], dict[str, Any] | str]] = []
"""(values by dotted names, what they become: our parameters, or a part of the line of the report)."""


def form(_becomes: dict[str, Any] | str, **groups: dict[str, Any]) -> None:
    """Register a form: ``init={"key": value}`` with entries merged into the small file."""
    FORMS.append(({f"{name}_params": entries for name, entries in groups.items()}, _becomes))


# -------------------------------------------------------------------------------------------- init_params

for seed, ours in ((None, 0), (7, 7)):
    form({"seed": ours}, init={"random_seed": seed})
form({"acc_voltage": 300.0}, init={"probe_kv": 300, "probe_illum_type": "electron"})
form({"conv_semiangle_mrad": 21.4}, init={"probe_conv_angle": 21.4})
for terms in (
    None,
    {},
    {"C10": 0},
    {"C10": 200, "A1": 50, "A1phi": 25, "C21a": 300, "C23": 400, "phi23": 25, "Cs": 5000},
    {"defocus": 50},
    {"C12a": 3, "C12b": 4},
    {"B2": 10, "S3": 5},
):
    form("in the array probe", init={"probe_aberrations": terms})
form(
    {"scan_size": [5, 6]},
    init={"pos_N_scans": 30, "pos_N_scan_slow": 5, "pos_N_scan_fast": 6, "meas_Npix": 16},
)
form({"scan_step_A": 0.5}, init={"pos_scan_step_size": 0.5})
for name, value, pixel in (
    ("dx", 0.2, 0.2),
    ("dk", 0.3125, 0.2),
    ("kMax", 2.5, 0.2),
    ("da", 13.0491, 0.2),
    ("angleMax", 104.393, 0.2),
    ("n_alpha", 4.19249, 0.2),
    ("RBF", 1.908176, 0.2),
    ("fitRBF", None, DISK),
):
    form({"pixel_size_x_A": pixel}, init={"meas_calibration": {"mode": name, "value": value}})
for name in ("beam_kev", "probe_dRn", "probe_Rn", "probe_D_H", "probe_D_FZP", "probe_Ls"):
    form("for X-ray experiments only", init={name: None})
form({"simu_Npix": 32, "simu_match_mode": "crop"}, init={"simu_Npix": 32, "simu_match_mode": "crop"})
form({"simu_Npix": 32, "simu_match_mode": "resample"}, init={"simu_Npix": 32, "simu_match_mode": "resample"})
form("equal to the size of the patterns", init={"simu_Npix": None, "simu_match_mode": None})
form({"probe": (16, 16, 1)}, init={"probe_pmode_max": 1})
form({"probe": (16, 16, 3)}, init={"probe_pmode_init_pows": [0.9, 0.06, 0.04], "probe_pmode_max": 3})
form({"obj_mode_weights": [0.5, 0.5], "obj": (None, None, 3, 2)}, init={"obj_omode_max": 2})
form(
    {"obj_mode_weights": [0.7, 0.3]},
    init={"obj_omode_max": 2, "obj_omode_init_occu": {"occu_type": "custom", "init_occu": [0.7, 0.3]}},
)
form({"num_slices": 6, "slice_distances": [2.0]}, init={"obj_Nlayer": 6, "obj_slice_thickness": 2})
form({"dataset": (30, 16, 16)}, init={"meas_permute": [0, 2, 1]})
form({"dataset": (30, 16, 16)}, init={"meas_reshape": [-1, 16, 16]})
for flips in (None, [0, 0, 0], [1, 0, 0], [0, 1, 1]):
    form({"dataset": (30, 16, 16)}, init={"meas_flipT": flips})
form({"dataset": (30, 16, 16)}, init={"meas_crop": None})
form({"dataset": (12, 16, 16), "scan_size": [3, 4]}, init={"meas_crop": [[0, 3], [1, 5], None, None]})
form({"dataset": (30, 12, 12)}, init={"meas_crop": [None, None, [2, 14], [2, 14]]})
for entry in (
    {"mode": "subtract_min"},
    {"mode": "subtract_value", "value": 1.0},
    {"mode": "clip_neg", "value": 20},
    {"mode": "clip_value", "value": 2.0, "force": True},
):
    form("dataset", init={"meas_remove_neg_values": entry, "meas_params": patterns(negative=True)})
for entry, total in (
    ({"mode": "max_at_one"}, None),
    ({"mode": "mean_at_one", "value": None}, 256.0),
    (None, 3184.0),
    ({"mode": "sum_to_one"}, 1.0),
    ({"mode": "divide_const", "value": 2.0}, 1592.0),
):
    form({"mean_total": total}, init={"meas_normalization": entry})
form("it is off", init={"meas_pad": None})
form(
    "it is off",
    init={
        "meas_pad": {"mode": None, "padding_type": "power", "target_Npix": 256, "value": 0, "threshold": 70}
    },
)
for kind in ("constant", "edge", "linear_ramp", "exp", "power"):
    form(
        {"data_pad": 4, "data_pad_fill": kind},
        init={"meas_pad": {"mode": "on_the_fly", "padding_type": kind, "target_Npix": 24}},
    )
form(
    {"data_pad": 4},
    init={"meas_pad": {"mode": "precompute", "target_Npix": 24, "value": None, "threshold": 20}},
)
form(
    {"dataset": (30, 24, 24)},
    init={"meas_pad": {"padding_type": "constant", "target_Npix": 24, "value": 0.1}},
)
form("it is off", init={"meas_resample": None})
form("it is off", init={"meas_resample": {"mode": None, "scale_factors": [2, 2]}})
for how in ("on_the_fly", "precompute"):
    form({"data_resample": 2.0}, init={"meas_resample": {"mode": how, "scale_factors": [2, 2]}})
for name in ("meas_add_source_size", "meas_add_detector_blur"):
    form("it is off", init={name: None})
    form("applied to the patterns", init={name: 0.34})
form("it is off", init={"meas_add_poisson_noise": None})
for unit in ("total_e_per_pattern", "e_per_Ang2"):
    form("applied to the patterns", init={"meas_add_poisson_noise": {"unit": unit, "value": 10000}})
for export in (None, False):
    form("it is off", init={"meas_export": export})
for export in (
    True,
    {
        "file_dir": None,
        "file_name": "ptyrad_init_meas",
        "file_format": "hdf5",
        "output_shape": None,
        "append_shape": True,
    },
    {"file_format": "mat"},
):
    form("patterns are not exported", init={"meas_export": export})
form({"probe": (16, 16, 4)}, init={"probe_permute": None})
form({"probe": (16, 16, 4)}, init={"probe_permute": [0, 2, 1]})
for shift in (None, -50, 20.0):
    form("in the array probe", init={"probe_z_shift": shift})
for entry, power in (
    ({"mode": "mean_total_ints"}, "mean"),
    ({"mode": "max_total_ints"}, "max"),
    ({"mode": "target_intensity", "value": 1}, 1.0),
    (None, 1.0),
    ({"mode": None}, 1.0),
):
    form({"probe_power": power}, init={"probe_normalization": entry})
for name, forms in (
    ("pos_scan_flipT", (None, [0, 0, 0], [0, 1, 0])),
    ("pos_scan_affine", (None, [1, 0, 0, 0], [1, 0, -3, 0])),
    ("pos_scan_rand_std", (None, 0, 0.15)),
):
    for value in forms:
        form({"positions": (30, 2)}, init={name: value})
form({"num_slices": 2}, init={"obj_z_crop": [0, 2]})
form({"num_slices": 3}, init={"obj_z_crop": None, "obj_z_pad": None, "obj_z_resample": None})
for layers, count in (([2, 2], 7), ([0, 5], 8), ([None, 5], 8), (None, 3)):
    form({"num_slices": count}, init={"obj_z_pad": {"pad_layers": layers, "pad_types": ["vacuum", "mean"]}})
form({"num_slices": 5}, init={"obj_z_pad": {"pad_layers": [1, 1], "pad_types": ["edge", "edge"]}})
for mode, value, count in (
    ("scale_Nlayer", 2, 6),
    ("scale_slice_thickness", 0.5, 6),
    ("target_Nlayer", 4, 4),
    ("target_slice_thickness", 2.0, 6),
    (None, None, 3),
):
    form({"num_slices": count}, init={"obj_z_resample": {"mode": mode, "value": value}})
for source in ("file", "custom", "tif", "tiff", "mat", "h5", "hdf5", "zarr", "npy", "raw"):
    form({"dataset": (30, 16, 16)}, init={"meas_source": source, "meas_params": patterns()})
for name in ("probe", "pos", "obj"):
    form("array" if name != "pos" else "positions", init={f"{name}_source": "simu", f"{name}_params": None})
form({"obj": (40, 50, 2, 1)}, init={"obj_params": [1, 2, 40, 50]})
form(
    {"probe": (16, 16, 2)},
    init={
        "probe_source": "custom",
        "probe_params": np.eye(16)[None] * [[[1.0]], [[0.5j]]],
        "probe_pmode_max": 2,
    },
)
form({"positions": (30, 2)}, init={"pos_source": "custom", "pos_params": np.full((30, 2), 4.0)})
form({"obj": (44, 44, 3, 1)}, init={"obj_source": "custom", "obj_params": np.ones((1, 3, 44, 44))})
for entry in (None, {"tilt_type": "all", "init_tilts": [[0, 0]]}):
    form("no tilts", init={"tilt_source": "simu", "tilt_params": entry})
form({"tilts": (1, 6)}, init={"tilt_params": {"tilt_type": "all", "init_tilts": [[1, 2]]}})
form({"tilts": (30, 6)}, init={"tilt_params": {"tilt_type": "each", "init_tilts": [[1, 2]]}})
for shape in ((1, 2), (30, 2)):
    form({"tilts": (shape[0], 6)}, init={"tilt_source": "custom", "tilt_params": np.ones(shape)})

# ------------------------------------------------------------------------------------------- model_params

form({"detector_blur_std": 0.5, "detector_blur_edge": "reflect"}, model={"detector_blur_std": 0.5})
form("it is off", model={"detector_blur_std": None})
for on in (True, False):
    form("patterns are kept in memory if they fit", model={"preload_data": on})
for name, ours in (
    ("Adadelta",) * 2,
    ("Adafactor",) * 2,
    ("Adagrad",) * 2,
    ("Adam",) * 2,
    ("AdamW",) * 2,
    ("Adamax",) * 2,
    ("ASGD",) * 2,
    ("LBFGS",) * 2,
    ("Nadam",) * 2,
    ("RAdam",) * 2,
    ("RMSprop",) * 2,
    ("Rprop",) * 2,
    ("SGD",) * 2,
):
    form(
        {"optimizer": ours.lower()},
        model={"optimizer_params": {"name": name, "configs": None, "load_state": None}},
    )
form(
    {"optimizer_options": {"betas": [0.9, 0.99]}},
    model={"optimizer_params": {"configs": {"betas": [0.9, 0.99]}}},
)
form({"load_optimizer_state": str(STATE)}, model={"optimizer_params": {"load_state": str(STATE)}})
form("no scheduler is given", model={"scheduler_params": None})
for name, configs, ours in (
    ("StepLR", {"step_size": 5}, "step"),
    ("MultiStepLR", {"milestones": [3, 9]}, "multistep"),
    ("ConstantLR", None, "constant"),
    ("LinearLR", {}, "linear"),
    ("ExponentialLR", {"gamma": 0.9}, "exponential"),
    ("PolynomialLR", {}, "polynomial"),
    ("CosineAnnealingLR", {"T_max": 500}, "cosine"),
    ("ReduceLROnPlateau", {}, "plateau"),
    ("CyclicLR", {"base_lr": 1e-4, "max_lr": 1e-3}, "cyclic"),
    ("OneCycleLR", {"max_lr": 1e-3, "total_steps": 40}, "one_cycle"),
    ("CosineAnnealingWarmRestarts", {"T_0": 5}, "cosine_restarts"),
):
    for unit, step in (("iter", "epoch"), ("batch", "epoch" if ours == "plateau" else "batch")):
        form(
            {"scheduler": (ours, step)},
            model={"scheduler_params": {"name": name, "configs": configs, "step_unit": unit}},
        )
form(
    {"load_scheduler_state": str(STATE)},
    model={"scheduler_params": {"name": "StepLR", "configs": {"step_size": 1}, "load_state": str(STATE)}},
)
for name, ours, unit in (
    ("obja", "obja", 1),
    ("objp", "objp", 1),
    ("obj_tilts", "tilts", 1),
    ("probe", "probe_abs", 16),
    ("slice_thickness", "slice_distances", 1),
    ("probe_pos_shifts", "positions", 1),
):
    for given, rate in (
        ({"start_iter": 1, "lr": 1e-3}, {"lr": 1e-3 / unit, "start": 0, "end": None}),
        ({"start_iter": 5, "lr": 1e-3, "end_iter": 9}, {"lr": 1e-3 / unit, "start": 4, "end": 8}),
        ({"start_iter": None, "lr": 0}, None),
        ({"start_iter": None, "lr": 1e-3, "end_iter": None}, None),
    ):
        form({"rate": (ours, rate)}, model={"update_params": {name: given}})
form({"obj_preblur_std": 0.5}, model={"obj_preblur_std": 0.5})
form("it is off", model={"obj_preblur_std": None})

# -------------------------------------------------------------------------------------------- loss_params

for name, options in (
    ("single", {"weight": 2, "dp_pow": 0.4}),
    ("poissn", {"weight": 0.5, "dp_pow": 1, "eps": 1e-5}),
    ("pacbed", {"weight": 1, "dp_pow": 0.5}),
    ("sparse", {"weight": 0.3, "ln_order": 2}),
):
    form({"loss_term": (name, options)}, loss={f"loss_{name}": {"state": True, **options}})
    form(
        {"loss_term": (name, None)},
        loss={
            f"loss_{name}": {"state": False},
            "loss_pacbed" if name != "pacbed" else "loss_single": {"state": True},
        },
    )
for kind in ("amplitude", "phase", "both"):
    similar = {"weight": 0.2, "obj_type": kind, "scale_factor": [1, 0.5, 0.5], "blur_std": 0}
    form(
        {"loss_term": ("simlar", similar)},
        init={"obj_omode_max": 2},
        loss={"loss_simlar": {"state": True, **similar}},
    )

# -------------------------------------------------------------------------------------- constraint_params

for name, options in (
    ("ortho_pmode", {}),
    ("probe_mask_k", {"radius": 0.3, "width": 0.1, "power_thresh": 1}),
    ("probe_mask_r", {"radius": 0.8, "order": 4, "power_thresh": 0.5, "z_range": [-100, 100], "z_steps": 11}),
    ("fix_probe_int", {}),
    ("obj_rblur", {"obj_type": "phase", "kernel_size": 7, "std": 0.5}),
    ("obj_zblur", {"obj_type": "amplitude", "kernel_size": 3, "std": 2}),
    ("kr_filter", {"obj_type": "both", "radius": 0.2, "width": 0.02}),
    ("kz_filter", {"obj_type": "phase", "beta": 0.5, "alpha": 0}),
    ("kr_thresh", {"obj_type": "phase", "thresh": 1}),
    ("complex_ratio", {"obj_type": "amplitude", "alpha1": 0.5, "alpha2": 0.5}),
    ("mirrored_amp", {"relax": 0, "scale": 0.1, "power": 2}),
    ("obj_z_recenter", {"thresh": 90, "scale": 0.5, "max_shift": 1}),
    ("obj_z_recenter", {"thresh": None, "scale": 1, "max_shift": None}),
    ("obja_thresh", {"relax": 0.1, "thresh": [0.98, 1.02]}),
    ("objp_postiv", {"relax": 0.5, "mode": "subtract_min"}),
    ("pos_recenter", {"relax": 0.1}),
    ("tilt_smooth", {"std": 3}),
):
    form(
        {"constraint": (name, {"start": 0, "step": 1, "end": None, **options})},
        constraint={name: {"start_iter": 1, **options}},
    )
    form(
        {"constraint": (name, {"start": 2, "step": 4, "end": 29})},
        constraint={name: {"start_iter": 3, "step": 4, "end_iter": 30, **options}},
    )
    form({"constraint": (name, None)}, constraint={name: {"start_iter": None}})
    form({"constraint": (name, None)}, constraint={name: None})
    form({"constraint": (name, {"start": 0, "step": 3})}, constraint={name: {"freq": 3}})

# ------------------------------------------------------------------------------------------- recon_params

form({"epoch_max": 50}, recon={"NITER": 50})
for name in ("full", "center", "sub"):
    shape = {} if name == "full" else {"indices_shape": [2, 3]}
    form(
        {"indices_mode": name, **shape},
        recon={"INDICES_MODE": {"mode": name, "subscan_slow": None, "subscan_fast": None}},
    )
form({"indices_shape": [4, 5]}, recon={"INDICES_MODE": {"mode": "sub", "subscan_slow": 4, "subscan_fast": 5}})
form({"batch_size": 16, "grad_accumulation": 2}, recon={"BATCH_SIZE": {"size": 16, "grad_accumulation": 2}})
for name in ("random", "sparse", "compact", "hilbert", "fps"):
    form({"group_mode": name, "shuffle_batches": False}, recon={"GROUP_MODE": name})
form({"save_iters": 50, "output_folder": "here/"}, recon={"SAVE_ITERS": 50, "output_dir": "here/"})
form({"save_iters": 0, "output_folder": ""}, recon={"SAVE_ITERS": None})
form({"save_iters": 0, "output_folder": "output/"}, recon={"SAVE_ITERS": 50, "NITER": 20})
TAGS = (
    "indices",
    "meas",
    "batch",
    "pmode",
    "omode",
    "nlayer",
    "lr",
    "optimizer",
    "scheduler",
    "start_iter",
    "model",
    "constraint",
    "loss",
    "conv_angle",
    "aberrations",
    "z_shift",
    "dx",
    "affine",
    "tilt",
)
for affixes in ([], ["minimal"], ["default"], ["all"], ["minimal", "tilt"], *([tag] for tag in TAGS)):
    form({"recon_dir_affixes": affixes}, recon={"recon_dir_affixes": affixes})
form({"recon_dir_affixes": []}, recon={"recon_dir_affixes": ["Ls"]})
form({"recon_dir_affixes": []}, recon={"recon_dir_affixes": None})
for when, ours in (
    (None, False),
    (False, False),
    (True, True),
    ("date", "date"),
    ("time", "time"),
    ("datetime", "datetime"),
    ("%Y%m%d_%H%M%S", "%Y%m%d_%H%M%S"),
):
    form({"prefix_time": ours}, recon={"prefix_time": when})
for name in ("prefix", "postfix"):
    form({name: "mine"}, recon={name: "mine"})
    form({name: ""}, recon={name: None})
for saved in ([], ["model", "obja", "objp", "probe", "probe_prop", "optim_state", "scheduler_state"]):
    form({"save_result": saved}, recon={"save_result": saved})
form(
    {"result_modes": {"obj_dim": [2], "FOV": ["full", "crop"], "bit": ["raw", "32", "16", "8"]}},
    recon={"result_modes": {"obj_dim": [2], "FOV": ["full", "crop"], "bit": ["raw", "32", "16", "8"]}},
)
FIGURES = [
    "convergence",
    "convergence_full",
    "convergence_dynamic",
    "loss",
    "learning_rates",
    "forward",
    "probe_r_amp",
    "probe_k_amp",
    "probe_k_phase",
    "pos",
    "tilt",
    "tilt_avg",
    "slice_thickness",
]
for figures in ([], ["all"], FIGURES):
    form({"selected_figs": figures}, recon={"selected_figs": figures})
form("no copy is written", recon={"copy_params": False})
form("params_dumped", recon={"copy_params": True})
for compiled in (
    None,
    {"enable": "auto"},
    {
        "enable": True,
        "mode": "max-autotune",
        "fullgraph": True,
        "dynamic": True,
        "backend": "cudagraphs",
        "options": {"trace.enabled": True},
    },
    {"disable": True},
):
    form("nothing is compiled", recon={"compiler_configs": compiled})
form({"convergence_monitor": None}, recon={"convergence_monitor": None})
form(
    {"convergence_monitor": {"tensors": ["probe"], "every": 3, "percentile_range": [10.0, 90.0]}},
    recon={"convergence_monitor": {"tensors": ["probe"], "every_n_iters": 3, "percentile_range": [10, 90]}},
)
form("PtyRAD ignores it", recon={"if_quiet": False})

# --------------------------------------------------------------------------------------- hypertune_params

SEARCH: dict[str, Any] = {
    "if_hypertune": True,
    "tune_params": {
        "oalr": {
            "state": True,
            "suggest": "float",
            "kwargs": {"low": 1e-4, "high": 1e-2, "step": None, "log": True},
        }
    },
}
form("if_hypertune is false", hypertune={"if_hypertune": False})
for level in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
    form("trials are silent", hypertune={**SEARCH, "verbosity": level})
for key, value, ours, becomes in (
    ("collate_results", False, "collate", False),
    ("n_trials", 50, "n_trials", 50),
    ("timeout", 60, "timeout_s", 60.0),
    ("storage_path", "sqlite:///mine.sqlite3", "storage", "sqlite:///mine.sqlite3"),
    ("study_name", "tBL_WSe2", "study_name", "tBL_WSe2"),
    ("error_metric", "contrast", "objective", "contrast"),
    ("error_metric", "loss", "objective", "loss"),
    ("pruner_params", None, "pruner", "None"),
    (
        "sampler_params",
        {"name": "TPESampler", "configs": None},
        "sampler",
        {"name": "TPE", "configs": {"multivariate": True, "group": True, "constant_liar": True}},
    ),
    (
        "pruner_params",
        {"name": "HyperbandPruner"},
        "pruner",
        {"name": "Hyperband", "configs": {"min_resource": 5, "reduction_factor": 2}},
    ),
    *(
        ("sampler_params", {"name": f"{name}Sampler", "configs": None}, "sampler", {"name": name})
        for name in ("Random", "GP", "CmaEs", "NSGAII", "NSGAIII", "QMC", "BruteForce")
    ),
    (
        "sampler_params",
        {"name": "GridSampler", "configs": {"search_space": {"oalr": [1e-4]}}},
        "sampler",
        {"name": "Grid", "configs": {"search_space": {"oalr": [1e-4]}}},
    ),
    *(
        ("pruner_params", {"name": f"{name}Pruner", "configs": {}}, "pruner", {"name": name})
        for name in ("Median", "SuccessiveHalving", "Threshold")
    ),
    (
        "pruner_params",
        {"name": "PercentilePruner", "configs": {"percentile": 25.0}},
        "pruner",
        {"name": "Percentile", "configs": {"percentile": 25.0}},
    ),
    (
        "pruner_params",
        {"name": "PatientPruner", "configs": {"patience": 2, "wrapped_pruner_configs": None}},
        "pruner",
        {"name": "Patient", "configs": {"patience": 2, "wrapped_pruner_configs": None}},
    ),
):
    form({"tune": {ours: becomes}}, hypertune={**SEARCH, key: value})
form("files of a trial always contain", hypertune={**SEARCH, "append_params": False})
form("tune.timeout_s = None", hypertune={**SEARCH, "timeout": None})
RANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "optimizer": ("cat", {"choices": ["Adam", "AdamW", "RMSprop", "SGD"], "optim_configs": {}}),
    "batch_size": ("int", {"low": 16, "high": 512, "log": True}),
    "plr": ("cat", {"choices": [1e-2, 1e-4, 1e-4]}),
    **{
        name: ("float", {"low": 1e-4, "high": 1e-2, "step": None, "log": True})
        for name in ("oalr", "oplr", "slr", "tlr", "dzlr")
    },
    "dx": ("float", {"low": 0.14, "high": 0.16, "step": 0.001}),
    "pmode_max": ("int", {"low": 1, "high": 8, "step": 1}),
    "conv_angle": ("float", {"low": 24, "high": 26, "step": 1}),
    **{
        name: ("float", {"low": -100, "high": 100, "step": 1, "log": False})
        for name in (
            "C10",
            "C12",
            "C21",
            "C23",
            "C30",
            "C32",
            "C34",
            "C41",
            "C43",
            "C45",
            "C50",
            "C52",
            "C54",
            "C56",
        )
    },
    "z_shift": ("float", {"low": -50, "high": 50, "step": 10}),
    "Nlayer": ("int", {"low": 1, "high": 8, "step": 1}),
    "dz": ("float", {"low": 4, "high": 8, "step": 0.5}),
    "scale": ("float", {"low": 0.8, "high": 1.2, "step": 0.02}),
    "asymmetry": ("float", {"low": -0.2, "high": 0.2, "step": 0.05}),
    **{name: ("float", {"low": -4, "high": 4, "step": 0.5}) for name in ("rotation", "shear")},
    **{name: ("float", {"low": -5, "high": 5, "step": 0.5}) for name in ("tilt_y", "tilt_x")},
}
for name, (suggest, kwargs) in RANGES.items():
    entry = {"state": True, "suggest": suggest, "kwargs": kwargs}
    form({"searched": (name, suggest)}, hypertune={"if_hypertune": True, "tune_params": {name: entry}})
form(
    {"searched": None},
    hypertune={"tune_params": {name: {"state": False} for name in (*RANGES, "defocus", "c3", "c5")}},
)


def matches(found: Any, expected: Any) -> None:
    """A tuple of numbers is the shape of an array (None: any size); dicts need to have these entries."""
    if isinstance(expected, tuple):
        shape = np.shape(found)
        assert len(shape) == len(expected), shape
        assert all(want in (None, have) for have, want in zip(shape, expected, strict=True)), shape
    elif isinstance(expected, dict):
        for key, value in expected.items():
            matches(found[key], value)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-4)
    else:
        assert np.array_equal(found, expected) if isinstance(found, np.ndarray) else found == expected


def check_derived(name: str, expected: Any, params: Mapping[str, Any]) -> bool:
    """What is in no parameter of its own; False where the name is a parameter's."""
    if name == "mean_total":
        given = params["dataset"].sum(axis=(1, 2), dtype=float).mean()
        assert expected is None or given == pytest.approx(expected, rel=2e-3)
    elif name == "probe_power":
        power = (abs(params["probe"]) ** 2).sum() * 16**2
        sums = params["dataset"].sum(axis=(1, 2), dtype=float)
        wanted = {"mean": sums.mean(), "max": sums.max()}.get(expected, expected)
        assert power == pytest.approx(wanted, rel=1e-5)
    elif name == "scheduler":
        assert (params["lr_scheduler"]["name"], params["lr_scheduler"]["step_unit"]) == expected
    elif name == "rate":
        block, wanted = expected
        found = params["learning_rates"].get(block)
        if wanted is None:
            assert found is None or found["lr"] == 0
        else:
            matches(found, wanted)
    elif name in ("loss_term", "constraint"):
        key, wanted = expected
        table = params["loss_terms" if name == "loss_term" else "constraints"]
        assert (key in table) == (wanted is not None)
        matches(table.get(key), wanted or {})
    elif name == "searched":
        assert ("tune" in params) == (expected is not None)
        if expected is not None:
            assert params["tune"]["parameters"][expected[0]]["suggest"] == expected[1]
    else:
        return False
    return True


def given_keys(groups: Mapping[str, Any]) -> list[str]:
    """Dotted names of the given keys, down to those that are no mappings of keys."""
    found = []
    for group, entries in groups.items():
        for key, value in entries.items():
            rows = GROUPS[group][key].rows
            inner = [name for name in value if name in rows] if isinstance(value, Mapping) else []
            for name in inner:
                deeper = rows[name].rows
                more = (
                    [other for other in value[name] if other in deeper]
                    if isinstance(value[name], Mapping)
                    else []
                )
                found += [f"{group}.{key}.{name}.{other}" for other in more] or [f"{group}.{key}.{name}"]
            found += [] if inner else [f"{group}.{key}"]
    return found


@pytest.mark.parametrize("number", range(0, len(FORMS), 12))
def test_every_documented_form_is_taken(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # half of the time of a translation, and tests/test_ptyrad_names.py has the names
    monkeypatch.setattr("pypty.importers.ptyrad.params.spell_folder_name", lambda *given: None)
    for groups, expected in FORMS[number : number + 12]:
        found: Translation = translated(**copy.deepcopy(groups))
        if isinstance(expected, str):
            told = " ".join(f"{line.key} {line.text}" for line in found.lines if _is_about(line.key, groups))
            assert expected in told or expected in found.params, (groups, told)
            continue
        for name, value in expected.items():
            if not check_derived(name, value, found.params):
                matches(found.params[name], value)


def _is_about(key: str, groups: Mapping[str, Any]) -> bool:
    return any(key.startswith(f"{group}.{name}") for group, entries in groups.items() for name in entries)


def test_every_key_has_a_form() -> None:
    shown = {key for groups, _ in FORMS for key in given_keys(groups)}
    keys = {key for name, rows in GROUPS.items() for key in leaves(rows, name)}
    # a mapping that is null, or as a whole, shows its keys only where they are written
    assert keys - shown == set()


@pytest.mark.parametrize(
    "key",
    [
        "recon_params.NITER",
        "init_params.obj_Nlayer",
        "hypertune_params.sampler_params",
        "init_params.probe_kv",
        "loss_params.loss_single",
        "recon_params.output_dir",
        "model_params.update_params",
    ],
)
def test_null_where_the_guide_has_none_is_refused(key: str) -> None:
    group, name = key.split(".")
    with pytest.raises(ParameterError, match=name):
        translate(content(**{group: {name: None}}))


def test_entries_of_files(tmp_path: Path) -> None:
    """The entries of meas_params and of tilt_params, null where the guide has null."""
    np.save(tmp_path / "data.npy", patterns())
    np.save(tmp_path / "tilts.npy", np.full((30, 2), 1.0))
    empty = dict.fromkeys(("key", "shape", "offset", "gap", "selection", "zarr_kwargs"))
    for entry, count in (
        ({"path": "data.npy", **empty}, 30),
        ({"path": "data.npy"}, 30),
        ({"path": "data.npy", **empty, "selection": [[0, 6], None, None]}, 6),
        ({"path": "data.npy", "selection": [[0, 30, 5], None, None], "zarr_kwargs": {"mode": "r"}}, 6),
    ):
        rows = count // 6
        init = {"meas_source": "file", "meas_params": entry, "pos_N_scan_slow": rows}
        found = translate(content(init_params=init), "it", tmp_path)
        assert_known(found.params)
        if count == 30:
            assert found.params["data_path"] == str(tmp_path / "data.npy")
        else:
            assert found.params["dataset"].shape == (6, 16, 16)
        assert bool(found.without_counterpart) == bool(entry.get("zarr_kwargs"))
    tilts = {"tilt_source": "file", "tilt_params": {"path": "tilts.npy", "key": None}}
    params = translate(content(init_params=tilts), "it", tmp_path).params
    np.testing.assert_allclose(params["tilts"][:, 2:4], -np.tan(1e-3))


def test_results_of_other_programs_are_sources(tmp_path: Path) -> None:
    """PtyShv (.mat) and py4DSTEM (.h5), each for probe, positions and object."""
    rng = np.random.default_rng(5)
    obj, probe = np.exp(1j * rng.uniform(0, 0.5, (41, 38, 3))), rng.normal(size=(16, 16, 2)) + 0j
    centred = rng.uniform(-8, 8, (30, 2))
    p = {
        "dx_spec": np.array([[0.2, 0.2]]),
        "lambda": 0.0197,
        "delta_z": np.full((1, 2), 8.0),
        "probe_modes": 2.0,
    }
    shelves = {
        "object": obj,
        "probe": probe,
        "outputs": {"probe_positions": centred},
        "p": {**p, "energy": 300.0},
    }
    scipy.io.savemat(tmp_path / "shelves.mat", shelves)
    for source, file, n, count, shape in (
        ("PtyShv", "shelves.mat", 16, 30, (41, 38, 3, 1)),
        ("py4DSTEM", str(DATA / "py4dstem_multislice.h5"), 24, 42, (33, 34, 3, 1)),
    ):
        scan = {30: (5, 6), 42: (6, 7)}[count]
        init = {
            **{f"{what}_source": source for what in ("probe", "pos", "obj")},
            **{f"{what}_params": file for what in ("probe", "pos", "obj")},
            **{"meas_Npix": n, "pos_N_scan_slow": scan[0], "pos_N_scan_fast": scan[1], "obj_Nlayer": 3},
            **{
                "meas_params": np.ones((count, n, n), np.float32),
                "meas_calibration": {"mode": "dx", "value": 0.2},
            },
        }
        params = translate(content(init_params=init), "it", tmp_path).params
        assert_known(params)
        assert params["obj"].shape == shape and params["positions"].shape == (count, 2)
        assert params["probe"].shape == (n, n, 4)
