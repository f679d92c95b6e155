"""Parameter files of PtyRAD: every key is translated, or said to have no effect or counterpart."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ptyrad_content import content, patterns, translated

from pypty.errors import DataError, ParameterError
from pypty.importers import translate
from pypty.importers.ptyrad.data import find_path, open_array, unknown_entries
from pypty.importers.ptyrad.defaults import GROUPS, REQUIRED, TUNED, Rows
from pypty.importers.ptyrad.file import complete
from pypty.importers.ptyrad.init import translate_init
from pypty.importers.ptyrad.losses import (
    first_epoch,
    translate_constraints,
    translate_losses,
    when,
    without_one_mode,
)
from pypty.importers.ptyrad.measured import measured
from pypty.importers.ptyrad.model import OPTIMIZERS, translate_model
from pypty.importers.ptyrad.recon import translate_recon
from pypty.importers.ptyrad.schedulers import translate_scheduler
from pypty.importers.ptyrad.translation import Ledger
from pypty.importers.ptyrad.tune import translate_tune, tuned_names
from pypty.params.schedule import make_schedule
from pypty.params.schema import SCHEMA
from pypty.params.schema.losses import LOSS_TERMS
from pypty.tune.physics import _is_open


def leaves(entries: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for name, value in entries.items():
        where = f"{path}.{name}" if path else name
        if isinstance(value, Mapping) and value:
            yield from leaves(value, where)
        else:
            yield where


STATE = str(Path(__file__).parent / "data" / "ptyrad_model_state.hdf5")
# Every key of every group, with a value that is not the default where PtyRAD has one.
EVERYTHING: dict[str, Any] = {
    "init_params": {
        "probe_illum_type": "electron",
        "pos_N_scans": 30,
        "probe_aberrations": {"defocus": -50, "C12": 5, "phi12": 20},
        "meas_calibration": {"mode": "RBF", "value": 3.4},
        "probe_pmode_max": 3,
        "probe_pmode_init_pows": [0.9, 0.06, 0.04],
        "obj_omode_max": 2,
        "obj_omode_init_occu": {"occu_type": "custom", "init_occu": [0.6, 0.4]},
        "simu_Npix": 48,
        "simu_match_mode": "crop",
        "meas_permute": [0, 1, 2],
        "meas_reshape": [30, 16, 16],
        "meas_flipT": [1, 0, 1],
        "meas_crop": [[0, 4], None, [2, 14], [2, 14]],
        "meas_remove_neg_values": {"mode": "subtract_value", "value": 1.0, "force": True},
        "meas_normalization": {"mode": "divide_const", "value": 10.0},
        "meas_pad": {"mode": "on_the_fly", "padding_type": "exp", "target_Npix": 20, "threshold": 60},
        "meas_resample": {"mode": "precompute", "scale_factors": [2, 2]},
        "meas_add_source_size": 0.1,
        "meas_add_detector_blur": 0.5,
        "meas_add_poisson_noise": {"unit": "total_e_per_pattern", "value": 1e4},
        "meas_export": {"file_format": "tif"},
        "probe_permute": [0, 2, 1],
        "probe_z_shift": -20.0,
        "probe_normalization": {"mode": "max_total_ints"},
        "pos_scan_flipT": [0, 1, 0],
        "pos_scan_affine": [1.01, 0.02, 5, 1],
        "pos_scan_rand_std": 0.1,
        "obj_z_crop": [0, 2],
        "obj_z_pad": {"pad_layers": [1, 1], "pad_types": ["vacuum", "edge"]},
        "obj_z_resample": {"mode": "target_Nlayer", "value": 3},
        "tilt_params": {"tilt_type": "each", "init_tilts": [[1.0, 2.0]]},
    },
    "hypertune_params": {
        "if_hypertune": True,
        "n_trials": 7,
        "timeout": 60,
        "tune_params": {"oplr": {"state": True, "suggest": "float", "kwargs": {"low": 1e-4, "high": 1e-2}}},
    },
    "model_params": {
        "detector_blur_std": 0.7,
        "preload_data": False,
        "optimizer_params": {
            "name": "AdamW",
            "configs": {"betas": [0.8, 0.99], "fused": True},
            "load_state": STATE,
        },
        "scheduler_params": {
            "name": "StepLR",
            "configs": {"step_size": 5},
            "load_state": STATE,
            "step_unit": "batch",
        },
        "update_params": {
            "obj_tilts": {"start_iter": 4, "lr": 0.1},
            "slice_thickness": {"start_iter": 2, "lr": 0.2},
        },
        "obj_preblur_std": 0.4,
    },
    "loss_params": {name: {"state": True} for name in GROUPS["loss_params"]},
    "constraint_params": {
        name: {"start_iter": 3, "step": 2, "end_iter": 9} for name in GROUPS["constraint_params"]
    },
    "recon_params": {"convergence_monitor": None, "compiler_configs": None, "SAVE_ITERS": None},
}


@pytest.mark.parametrize("groups", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_every_key_is_accounted_for(groups: dict[str, Any]) -> None:
    found = translated(**copy.deepcopy(groups))
    told = {line.key for line in found.lines}
    given = complete(content(**copy.deepcopy(groups)), "it").groups
    for path in leaves(given):
        parts = path.split(".")
        heads = {".".join(parts[:n]) for n in range(2, len(parts) + 1)}
        assert heads & told, f"nothing is said about {path}"
    for group in GROUPS:
        assert any(line.key.startswith(group) for line in found.lines)


def test_the_report_names_what_has_no_counterpart() -> None:
    found = translated(**copy.deepcopy(EVERYTHING))
    missing = " ".join(found.without_counterpart)
    assert "meas_export" in missing and "load_state" not in missing
    assert found.params["load_optimizer_state"] == found.params["load_scheduler_state"] == STATE
    assert "recon_params.NITER" in found.report(every_key=True)
    assert "recon_params.NITER" not in found.report()
    assert "meas_export" in found.report()
    assert translated().without_counterpart == ()


def test_defaults_are_those_of_ptyrad() -> None:
    params = translated().params
    assert params["optimizer"] == "adam" and params["epoch_max"] == 200 and params["batch_size"] == 32
    assert set(params["constraints"]) == {
        "ortho_pmode",
        "fix_probe_int",
        "obj_rblur",
        "obj_zblur",
        "pos_recenter",
    }
    assert params["constraints"]["obj_rblur"]["std"] == 0.4
    amplitude = GROUPS["constraint_params"]["mirrored_amp"].rows
    assert {name: amplitude[name].default for name in ("relax", "scale", "power")} == {
        "relax": 0.1,
        "scale": 0.03,
        "power": 4.0,
    }
    assert params["probe"].shape == (16, 16, 4)
    assert (
        params["loss_terms"] == {"single": {"weight": 1.0, "dp_pow": 0.5}} and params["loss_scale"] == "ratio"
    )
    assert params["learning_rates"]["objp"] == {"lr": 5e-4, "start": 0, "end": None}
    assert params["update_probe_pos"] and not params["update_tilts"] and not params["update_slice_distances"]
    assert params["propmethod"] == "angular_spectrum" and params["obj_parametrization"] == "amplitude_phase"
    assert not params["shuffle_batches"] and not params["lazy_moments"] and params["warmup_epochs"] == 0
    assert params["save_iters"] == 10 and params["output_folder"] == "output/"
    assert params["convergence_monitor"]["every"] is None
    assert "tilts" not in params and "tune" not in params and "aberrations" not in params


def test_the_probe_has_the_power_of_the_patterns() -> None:
    params = translated().params
    power = (np.abs(np.fft.fft2(params["probe"], axes=(0, 1))) ** 2).sum()
    assert power == pytest.approx(params["dataset"].sum(axis=(1, 2), dtype=float).mean(), rel=1e-5)
    assert params["dataset"].mean(axis=0).max() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(
    ("mode", "value", "pixel"),
    [
        ("dx", 0.2, 0.2),
        ("dk", 0.3125, 0.2),
        ("kMax", 2.5, 0.2),
        ("da", 13.0491, 0.2),
        ("angleMax", 104.393, 0.2),
        ("n_alpha", 4.19249, 0.2),
        ("RBF", 1.908176, 0.2),
    ],
)
def test_calibration(mode: str, value: float, pixel: float) -> None:
    params = translated(init_params={"meas_calibration": {"mode": mode, "value": value}}).params
    assert params["pixel_size_x_A"] == pytest.approx(pixel, rel=1e-5)
    assert params["rez_pixel_size_A"] == pytest.approx(1 / (16 * pixel), rel=1e-5)


def test_fitted_disk_cropping_padding_and_simulated_size_change_the_pixel() -> None:
    found = translated()
    raw = found.params["pixel_size_x_A"]
    assert "from fitRBF, radius of the disk 3.385 px" in found.report(every_key=True)
    assert raw == pytest.approx(1e3 * 0.04175716 * 6 / np.sqrt(np.pi) / (16 * 24.9), rel=1e-5)  # 36 pixels
    cut = {"meas_crop": [None, None, [2, 14], [2, 14]]}
    assert translated(init_params=cut).params["pixel_size_x_A"] == pytest.approx(raw * 16 / 12)
    cut["meas_pad"] = {"target_Npix": 24}
    padded = translated(init_params=cut).params
    assert padded["pixel_size_x_A"] == pytest.approx(raw * 16 / 24)
    assert (
        padded["data_pad"] == 6
        and padded["data_pad_fill"] == "power"
        and padded["dataset"].shape[1:] == (12, 12)
    )
    simulated = translated(init_params={"simu_Npix": 32, "simu_match_mode": "crop"}).params
    assert simulated["pixel_size_x_A"] == pytest.approx(raw / 2) and simulated["probe"].shape[0] == 32
    with pytest.raises(ParameterError, match="simu_match_mode"):
        translate(content(init_params={"simu_Npix": 32}))


def test_negative_counts_are_removed_in_memory() -> None:
    params = translated(init_params={"meas_params": patterns(negative=True)}).params
    assert params["dataset"].min() == 0


def test_epochs_count_from_zero() -> None:
    found = translated(
        model_params={
            "update_params": {
                "probe": {"start_iter": 10, "lr": 1e-4, "end_iter": 20},
                "obj_tilts": {"start_iter": 5, "lr": 0.1},
                "probe_pos_shifts": {"start_iter": None, "lr": 0},
            }
        },
        constraint_params={
            "objp_postiv": {"start_iter": 6, "step": 3, "end_iter": 30},
            "obj_zblur": {"start_iter": None},
        },
    ).params
    rates = found["learning_rates"]
    assert rates["probe_abs"] == {"lr": 1e-4 / 16, "start": 9, "end": 19}
    assert rates["tilts"] == {"lr": 0.1, "start": 4, "end": None} and found["update_tilts"]
    assert not found["update_probe_pos"] and "positions" not in rates
    constraint = found["constraints"]["objp_postiv"]
    assert (constraint["start"], constraint["step"], constraint["end"]) == (5, 3, 29)
    assert "obj_zblur" not in found["constraints"]


def test_old_forms() -> None:
    found = translated(
        init_params={
            "probe_defocus": 100,
            "probe_c3": 5e4,
            "probe_normalization": {"mode": "total_intensity"},
        },
        constraint_params={"objp_postiv": {"freq": 2}, "obj_rblur": {"freq": None}, "ortho_pmode": None},
        model_params={"obj_preblur_std": 0.5},
        recon_params={"if_quiet": False, "compiler_configs": {"disable": True}},
    )
    params = found.params
    assert (
        params["constraints"]["objp_postiv"]["start"] == 0
        and params["constraints"]["objp_postiv"]["step"] == 2
    )
    assert "obj_rblur" not in params["constraints"] and "ortho_pmode" not in params["constraints"]
    assert params["obj_preblur_std"] == 0.5
    same = translated(init_params={"probe_aberrations": {"C10": -100, "C30": 5e4}}).params
    np.testing.assert_allclose(params["probe"], same["probe"])
    assert any("freq" in note for note in found.notes) and any(
        "probe_defocus" in note for note in found.notes
    )


@pytest.mark.parametrize(
    ("theirs", "configs", "ours"),
    [
        ("Adam", {"betas": [0.5, 0.9]}, "adam"),
        ("AdamW", {}, "adamw"),
        ("Nadam", {}, "nadam"),
        ("NAdam", {}, "nadam"),
        ("RAdam", {}, "radam"),
        ("Adamax", {}, "adamax"),
        ("RMSprop", {"alpha": 0.9}, "rmsprop"),
        ("Rprop", {}, "rprop"),
        ("Adagrad", {}, "adagrad"),
        ("Adadelta", {}, "adadelta"),
        ("Adafactor", {}, "adafactor"),
        ("ASGD", {}, "asgd"),
        ("SGD", {}, "sgd"),
        ("SGD", {"momentum": 0.9, "nesterov": True}, "momentum"),
    ],
)
def test_optimizers(theirs: str, configs: dict[str, Any], ours: str) -> None:
    found = translated(model_params={"optimizer_params": {"name": theirs, "configs": configs}}).params
    assert found["optimizer"] == ours and found["optimizer_options"] == configs
    assert found["learning_rates"]["probe_abs"]["lr"] == pytest.approx(1e-4 / 16)


def test_lbfgs_has_switches_in_place_of_rates() -> None:
    found = translated(
        model_params={
            "optimizer_params": {
                "name": "LBFGS",
                "configs": {"history_size": 20, "line_search_fn": "strong_wolfe"},
            },
            "scheduler_params": {"name": "StepLR", "configs": {"step_size": 4}},
            "update_params": {
                "probe": {"start_iter": 3, "lr": 1e-4, "end_iter": 9},
                "obja": {"start_iter": None},
            },
        }
    )
    params = found.params
    assert params["optimizer"] == "lbfgs" and params["hist_length"] == 20
    assert "learning_rates" not in params and "lr_scheduler" not in params and "lazy_moments" not in params
    assert params["update_probe"] == "epoch >= 2 and epoch < 8" and params["update_obj"] is True
    switch = make_schedule(SCHEMA["update_probe"], params["update_probe"])
    assert [switch.at(epoch) for epoch in (1, 2, 7, 8)] == [False, True, True, False]
    assert params["phase_only_obj"] is True
    assert any("line_search_fn" in text for text in found.without_counterpart)


SCHEDULERS = [
    ("StepLR", {"step_size": 7, "gamma": 0.5}, {"name": "step", "step_size": 7, "gamma": 0.5}),
    ("MultiStepLR", {"milestones": [3, 9], "gamma": 0.2}, {"name": "multistep", "gamma": 0.2}),
    ("ConstantLR", {"factor": 0.5, "total_iters": 4}, {"name": "constant", "factor": 0.5, "total_iters": 4}),
    ("LinearLR", {"start_factor": 0.1}, {"name": "linear", "start_factor": 0.1}),
    ("ExponentialLR", {"gamma": 0.9}, {"name": "exponential", "gamma": 0.9}),
    ("PolynomialLR", {"power": 2.0}, {"name": "polynomial", "power": 2.0}),
    ("CosineAnnealingLR", {"T_max": 50, "eta_min": 5e-5}, {"name": "cosine", "T_max": 50, "eta_min": 0.1}),
    (
        "CosineAnnealingWarmRestarts",
        {"T_0": 5, "T_mult": 2},
        {"name": "cosine_restarts", "T_0": 5, "T_mult": 2},
    ),
    ("ReduceLROnPlateau", {"patience": 3, "mode": "min"}, {"name": "plateau", "patience": 3}),
    (
        "CyclicLR",
        {"base_lr": 1e-4, "max_lr": 1e-3},
        {"name": "cyclic", "base_factor": 0.1, "max_factor": 1.0},
    ),
    (
        "OneCycleLR",
        {"max_lr": 1e-3, "total_steps": 40},
        {"name": "one_cycle", "total_steps": 40, "max_factor": 1.0},
    ),
]


@pytest.mark.parametrize(("name", "configs", "wanted"), SCHEDULERS, ids=[name for name, _, _ in SCHEDULERS])
def test_schedulers(name: str, configs: dict[str, Any], wanted: dict[str, Any]) -> None:
    given = {"scheduler_params": {"name": name, "configs": configs, "step_unit": "batch"}}
    found = translated(model_params=given)
    unit = "epoch" if name == "ReduceLROnPlateau" else "batch"
    scheduler = found.params["lr_scheduler"]
    assert scheduler["step_unit"] == unit
    assert {key: scheduler[key] for key in wanted} == pytest.approx(wanted)
    assert found.without_counterpart == ()
    if name in ("CyclicLR", "OneCycleLR"):
        rates = found.params["learning_rates"]
        assert rates["obja"]["lr"] == 1e-3 and rates["probe_abs"]["lr"] == 1e-3 / 16


def test_losses_and_object_modes() -> None:
    terms = {"loss_simlar": {"state": True}, "loss_poissn": {"state": True, "eps": 1e-4}}
    one = translated(loss_params=terms)
    assert set(one.params["loss_terms"]) == {"single", "poissn"} and any(
        "simlar" in note for note in one.notes
    )
    two = translated(loss_params=terms, init_params={"obj_omode_max": 2}).params
    assert two["loss_terms"]["simlar"]["blur_std"] == 1.0 and two["loss_terms"]["poissn"]["eps"] == 1e-4
    assert two["obj_mode_weights"] == [0.5, 0.5] and two["obj"].shape[3] == 2


def test_one_slice_has_no_propagation() -> None:
    found = translated(
        init_params={"obj_Nlayer": 1, "tilt_params": {"init_tilts": [[3.0, 1.0]]}},
        model_params={"update_params": {"obj_tilts": {"start_iter": 1, "lr": 0.1}}},
    ).params
    assert "tilts" not in found and not found["update_tilts"] and "slice_distances" not in found


def test_part_of_the_scan() -> None:
    both = translated(recon_params={"INDICES_MODE": {"mode": "sub"}}).params
    assert both["indices_mode"] == "sub" and both["indices_shape"] == [2, 3]
    given = translated(
        recon_params={"INDICES_MODE": {"mode": "center", "subscan_slow": 4, "subscan_fast": 5}}
    ).params
    assert given["indices_mode"] == "center" and given["indices_shape"] == [4, 5]


def test_no_folder_and_other_results() -> None:
    params = translated(
        recon_params={
            "SAVE_ITERS": None,
            "save_result": ["model", "scheduler_state"],
            "recon_dir_affixes": ["lr", "Ls"],
            "prefix_time": "%H%M",
        }
    )
    assert params.params["output_folder"] == "" and params.params["recon_dir_affixes"] == ["lr"]
    assert params.params["save_result"] == ["model", "scheduler_state"]
    assert params.params["convergence_monitor"] is None and params.params["prefix_time"] == "%H%M"
    assert params.without_counterpart == ()
    assert any("recon_dir_affixes.Ls" in line.key and "X-ray" in line.text for line in params.lines)


def test_hypertune_is_tune() -> None:
    found = translated(
        hypertune_params={
            "if_hypertune": True,
            "timeout": 100,
            "pruner_params": None,
            "sampler_params": {"name": "GridSampler", "configs": {"search_space": {"dz": [1, 2]}}},
            "error_metric": "contrast",
            "tune_params": {
                "plr": {"state": True, "suggest": "cat", "kwargs": {"choices": [1e-2, 1e-4, 1e-4]}},
                "C10": {"state": True, "suggest": "float", "kwargs": {"low": -100, "high": 100, "step": 1}},
                "dz": {"state": False, "suggest": "float", "kwargs": {"low": 4, "high": 8}},
                "optimizer": {
                    "state": True,
                    "suggest": "cat",
                    "kwargs": {"choices": ["Adam", "SGD"], "optim_configs": {"SGD": {"momentum": 0.9}}},
                },
            },
        },
        init_params={"probe_aberrations": {"C10": 70.0}},
    ).params
    tune = found["tune"]
    assert list(tune["parameters"]) == ["optimizer", "plr", "C10"] and list(TUNED).index("plr") == 2
    assert tune["parameters"]["plr"] == {"suggest": "cat", "choices": [1e-2 / 16, 1e-4 / 16]}
    assert tune["parameters"]["C10"] == {"suggest": "float", "low": -100, "high": 100, "step": 1}
    assert tune["parameters"]["optimizer"]["choices"] == ["adam", "sgd"]
    assert tune["parameters"]["optimizer"]["optim_configs"] == {"sgd": {"momentum": 0.9}}
    assert tune["sampler"] == {"name": "Grid", "configs": {"search_space": {"dz": [1, 2]}}}
    assert tune["pruner"] == "None" and tune["objective"] == "contrast" and tune["timeout_s"] == 100
    np.testing.assert_allclose(found["probe"], translated().params["probe"])  # C10 is searched from 0
    assert not np.any(found["aberrations"])


def test_hypertune_leaves_open_what_it_searches() -> None:
    def on(name: str, **kwargs: Any) -> dict[str, Any]:
        entry = {"state": True, "suggest": "float", "kwargs": {"low": 1, "high": 2, **kwargs}}
        return translated(
            hypertune_params={"if_hypertune": True, "tune_params": {name: entry}},
            init_params={"pos_scan_affine": [1.0, 0, 10, 0], "probe_z_shift": 30.0, "pos_scan_rand_std": 0},
        ).params

    assert "obj" not in on("Nlayer") and "obj" in on("dz")
    aperture = on("conv_angle")
    assert aperture["extra_probe_defocus"] == 30.0 and _is_open(aperture["probe"])
    assert not _is_open(on("dz")["probe"]) and on("dx")["conv_semiangle_mrad"] == 24.9
    assert np.ptp(on("rotation")["positions"][:6, 0]) == pytest.approx(0, abs=1e-9)
    assert np.ptp(on("dz")["positions"][:6, 0]) > 0.1
    assert np.abs(on("z_shift")["probe"] - on("dz")["probe"]).max() > 1e-3


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"init_params": {"probe_kvv": 80}}, "init_params.probe_kvv.*did you mean 'probe_kv'"),
        ({"recon_param": {}}, "recon_param.*did you mean 'recon_params'"),
        ({"recon_params": {"NITERS": 3}}, "did you mean 'NITER'"),
        ({"model_params": {"update_params": {"objs": {}}}}, "update_params.objs"),
        ({"model_params": {"optimizer_params": {"name": "Muon"}}}, "does not work in PtyRAD either"),
        ({"model_params": {"scheduler_params": {"name": "LambdaLR"}}}, "Python functions"),
        ({"model_params": {"scheduler_params": {"name": "StepLR"}}}, "needs step_size"),
        ({"model_params": {"scheduler_params": {"name": "Steps"}}}, "expected one of StepLR"),
        ({"model_params": {"update_params": {"probe": {"start_iter": 0}}}}, "count from 1"),
        ({"model_params": {"update_params": {"probe": {"lr": 0}}}}, "but lr 0"),
        ({"loss_params": {"loss_single": {"state": False}}}, "at least one must be"),
        ({"init_params": {"probe_illum_type": "xray"}}, "only electrons"),
        ({"init_params": {"probe_kv": None}}, "needs probe_kv"),
        ({"init_params": {"meas_calibration": {"mode": "dx"}}}, "positive value"),
        ({"init_params": {"meas_calibration": {"mode": "size", "value": 1}}}, "expected one of"),
        ({"init_params": {"pos_N_scans": 31}}, "pos_N_scans is 31"),
        ({"init_params": {"pos_N_scan_slow": 4}}, "expects 4 x 6 patterns"),
        ({"init_params": {"probe_source": "prism"}}, "probe_source"),
        ({"init_params": {"obj_source": "prism"}}, "obj_source"),
        ({"init_params": {"tilt_source": "prism"}}, "tilt_source"),
        ({"init_params": {"pos_source": "prism"}}, "pos_source"),
        ({"init_params": {"probe_pmode_init_pows": [0.5, 0.5]}}, "probe_pmode_init_pows"),
        ({"init_params": {"obj_z_resample": {"mode": "more", "value": 2}}}, "obj_z_resample.mode"),
        ({"init_params": {"obj_params": "a.pt", "obj_source": "PtyRAD"}}, "does not exist"),
        ({"hypertune_params": {"tune_params": {"C11": None}}}, "did you mean 'C41'"),
        ({"recon_params": {"NITER": "many"}}, "recon_params.NITER is 'many', expected an integer"),
        ({"recon_params": {"NITER": None}}, "recon_params.NITER is null, expected an integer"),
        (
            {"recon_params": {"BATCH_SIZE": {"size": 2.5}}},
            "BATCH_SIZE.size is 2.5, which is not whole, expected an integer",
        ),
        ({"model_params": {"preload_data": 1}}, "preload_data is 1, expected True or False"),
        (
            {"init_params": {"meas_flipT": [1, 0]}},
            r"meas_flipT is \[1, 0\], expected a list of 3, each a number",
        ),
        (
            {"init_params": {"meas_crop": [1, None, None, None]}},
            "with 1 in it, expected a list of 4, each a list of 2, or None",
        ),
        ({"init_params": {"meas_permute": [0, 0, 1]}}, "do not fit"),
        ({"init_params": {"meas_pad": {"target_Npix": 8}}}, "target_Npix >= 16"),
        ({"init_params": {"probe_permute": [0, 0, 1]}}, "in some order"),
        ({"init_params": {"probe_conv_angle": [1]}}, r"probe_conv_angle is \[1\], expected a number > 0"),
        ({"constraint_params": {"obj_rblur": 3}}, "obj_rblur is 3, expected a dict"),
        (
            {"loss_params": {"loss_single": {"weight": "heavy"}}},
            "loss_single.weight is 'heavy', expected a number",
        ),
        ({"hypertune_params": {"if_hypertune": True}}, "state: true"),
    ],
)
def test_what_cannot_be_used_is_said(groups: dict[str, Any], said: str) -> None:
    with pytest.raises((ParameterError, ValueError), match=said):
        translate(content(**groups))


def test_positions_of_other_kinds(tmp_path: Path) -> None:
    crop_origins = np.random.default_rng(0).uniform(0, 20, (30, 2))
    found = translated(init_params={"pos_source": "custom", "pos_params": crop_origins})
    np.testing.assert_array_equal(
        found.params["positions"], crop_origins
    )  # PtyRAD's default noise is not added
    assert any("not applied" in note for note in found.notes)
    import h5py

    with h5py.File(tmp_path / "pos.hdf5", "w") as file:
        file["ppY"], file["ppX"] = crop_origins[:, 0], crop_origins[:, 1]
    slice_ = translated(
        init_params={"pos_source": "foldslice_hdf5", "pos_params": str(tmp_path / "pos.hdf5")}
    ).params
    moved = slice_["positions"] * slice_["pixel_size_x_A"]
    np.testing.assert_allclose(np.diff(moved, axis=0), -np.diff(crop_origins[::-1], axis=0), atol=1e-9)


def test_the_shape_of_the_object_may_be_given() -> None:
    params = translated(init_params={"obj_params": [1, 3, 60, 70]}).params  # PtyRAD stops with an error
    assert params["obj"].shape == (60, 70, 3, 1)


def test_random_starts_repeat_with_the_seed() -> None:
    first, again = translated().params, translated().params
    np.testing.assert_array_equal(first["positions"], again["positions"])
    np.testing.assert_array_equal(first["obj"], again["obj"])
    other = translated(init_params={"random_seed": 4}).params
    assert np.abs(first["positions"] - other["positions"]).max() > 0.1


def test_the_guide_names_every_key() -> None:
    guide = (Path(__file__).parents[1] / "docs" / "ptyrad.md").read_text(encoding="utf-8")
    for entries in GROUPS.values():
        for name in entries:
            assert name in guide, name


def test_defaults_of_sub_mappings_are_known() -> None:
    """Every row's own default is what its kind expects, and so are those of the keys in it."""

    def check(rows: Rows, path: str) -> None:
        for name, row in rows.items():
            assert row.kind.problem(row.default) is None, f"{path}.{name}"
            if isinstance(row.default, Mapping) and row.rows:
                assert list(row.default) == list(row.rows), f"{path}.{name}"
            check(row.rows, f"{path}.{name}")

    for name, rows in GROUPS.items():
        check(rows, name)
    json.dumps({name: list(entries) for name, entries in GROUPS.items()})


@pytest.mark.parametrize(
    ("key", "value"), [("probe_conv_angle", -25), ("obj_slice_thickness", 0), ("obj_Nlayer", 0)]
)
def test_a_number_of_ptyrad_that_must_be_positive(key: str, value: float) -> None:
    """It was an error about our pixel size, after warnings of NumPy."""
    needed = dict.fromkeys(REQUIRED, 1) | {"meas_params": {"path": "data.h5"}, key: value}
    with pytest.raises(
        ParameterError,
        match=rf"init_params\.{key} is {value}, which is out of range, expected an? [a-z]+ > 0",
    ):
        translate({"init_params": needed})


# -------------------------------------------------------------------------------------------- part by part


def groups(**given: Any) -> Any:
    """The six groups of a small file, complete."""
    return complete(content(**given), "it").groups


@pytest.mark.parametrize(("given", "epoch"), [(1, 0), (7, 6), (2.0, 1)])
def test_iterations_count_from_one(given: float, epoch: int) -> None:
    assert first_epoch(given, "key", "it") == epoch
    entry = {"start_iter": given, "step": None, "end_iter": 9}
    assert when(entry, "key", "it") == {"start": epoch, "step": 1, "end": 8}


@pytest.mark.parametrize("given", [0, 1.5, True, "first"])
def test_iterations_that_are_no_whole_numbers_from_one(given: Any) -> None:
    with pytest.raises(ParameterError, match="key is"):
        first_epoch(given, "key", "it")


def test_losses_that_are_on_are_relative_to_the_counts() -> None:
    loss = groups(
        loss_params={"loss_single": {"state": True, "weight": 0.7}, "loss_sparse": {"state": False}}
    )
    ledger = Ledger("it")
    translate_losses(loss["loss_params"], ledger)
    assert ledger.params["loss_scale"] == "ratio"
    assert ledger.params["loss_terms"]["single"]["weight"] == 0.7
    assert "sparse" not in ledger.params["loss_terms"]
    ledger.params["loss_terms"]["simlar"] = {}
    without_one_mode(ledger.params, 2, ledger)
    assert "simlar" in ledger.params["loss_terms"] and not ledger.notes
    without_one_mode(ledger.params, 1, ledger)
    assert "simlar" not in ledger.params["loss_terms"] and "one mode" in ledger.notes[0]
    off = {name: {**entry, "state": False} for name, entry in loss["loss_params"].items()}
    with pytest.raises(ParameterError, match="at least one must be"):
        translate_losses(off, Ledger("it"))


def test_constraints_begin_and_end_an_epoch_earlier() -> None:
    given = groups(
        constraint_params={
            "obj_rblur": {"start_iter": 3, "step": 2, "end_iter": 9, "std": 0.6},
            "kr_filter": {"start_iter": 1},
        }
    )
    ledger = Ledger("it")
    translate_constraints(given["constraint_params"], ledger)
    found = ledger.params["constraints"]
    expected = {"start": 2, "step": 2, "end": 8, "std": 0.6}
    assert {key: found["obj_rblur"][key] for key in expected} == expected
    assert found["kr_filter"]["start"] == 0 and found["kr_filter"]["end"] is None
    assert {line.key for line in ledger.lines if line.kind == "ours"} >= {"constraint_params.obj_rblur"}


def test_length_batches_and_results_of_a_file() -> None:
    given = groups(
        recon_params={
            "NITER": 30,
            "SAVE_ITERS": 5,
            "BATCH_SIZE": {"size": 12, "grad_accumulation": 2},
            "INDICES_MODE": {"mode": "center", "subscan_slow": None, "subscan_fast": 3},
        }
    )
    ledger = Ledger("it")
    translate_recon(given["recon_params"], (10, 12), ledger)
    found = ledger.params
    assert (found["epoch_prev"], found["epoch_max"]) == (0, 30)
    assert (found["save_iters"], found["save_inter_checkpoints"]) == (5, 5)
    assert (found["batch_size"], found["grad_accumulation"], found["shuffle_batches"]) == (12, 2, False)
    assert (found["indices_mode"], found["indices_shape"]) == ("center", [5, 3])
    silent = Ledger("it")
    translate_recon({**given["recon_params"], "SAVE_ITERS": None}, (10, 12), silent)
    assert (silent.params["save_iters"], silent.params["output_folder"]) == (0, "")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("StepLR", {"step_size": 4, "gamma": 0.5}), {"name": "step", "step_size": 4, "gamma": 0.5}),
        (
            ("CosineAnnealingLR", {"T_max": 9, "eta_min": 2e-3}),
            {"name": "cosine", "T_max": 9, "eta_min": 0.2},
        ),
        (
            ("OneCycleLR", {"max_lr": 0.5, "epochs": 3, "steps_per_epoch": 4}),
            {"name": "one_cycle", "total_steps": 12, "max_factor": 1.0},
        ),
        (("CyclicLR", {"base_lr": 0.1, "max_lr": 0.5}), {"name": "cyclic", "base_factor": 0.2, "gamma": 1.0}),
    ],
)
def test_schedulers_keep_their_constants(given: tuple[str, dict[str, Any]], expected: dict[str, Any]) -> None:
    rates = {"obja": {"lr": 1e-2}, "probe_abs": {"lr": 1e-4}, "tilts": {"lr": 0.0}}
    ledger = Ledger("it")
    given_ = {"name": given[0], "configs": given[1], "step_unit": "batch", "load_state": None}
    translate_scheduler(given_, rates, "adam", 0.25, ledger)
    found = ledger.params["lr_scheduler"]
    assert {key: found[key] for key in expected} == pytest.approx(expected) and found["step_unit"] == "batch"
    cyclic = given[0] in ("OneCycleLR", "CyclicLR")
    assert rates["obja"]["lr"] == (0.5 if cyclic else 1e-2) and rates["tilts"]["lr"] == 0
    assert rates["probe_abs"]["lr"] == (0.125 if cyclic else 1e-4)


def test_schedulers_that_cannot_be_are_refused() -> None:
    def translated_one(name: str, configs: Any = None, optimizer: str = "adam") -> Ledger:
        ledger = Ledger("it")
        given = {"name": name, "configs": configs, "step_unit": "epoch", "load_state": None}
        translate_scheduler(given, {"obja": {"lr": 1.0}}, optimizer, 1.0, ledger)
        return ledger

    for name, message in (
        ("LambdaLR", "Python functions"),
        ("Nothing", "expected one of"),
        ("StepLR", "step_size"),
    ):
        with pytest.raises(ParameterError, match=message):
            translated_one(name)
    with pytest.raises(ParameterError, match="a single max_lr"):
        translated_one("OneCycleLR", {"max_lr": [1.0, 2.0]})
    assert "lr_scheduler" not in translated_one("StepLR", {"step_size": 1}, "lbfgs").params
    plateau = translated_one("ReduceLROnPlateau", {"eps": 1e-8, "mode": "max"})
    assert plateau.params["lr_scheduler"]["step_unit"] == "epoch"
    limited = translated(
        model_params={"scheduler_params": {"name": "ReduceLROnPlateau", "configs": {"min_lr": 1e-4}}}
    )
    assert limited.params["lr_scheduler"]["min_factor"] == pytest.approx(1e-4 / 5e-4)  # of the object's rate
    assert [line.key for line in plateau.lines if line.kind == "no counterpart"] == [
        "model_params.scheduler_params.configs.mode"
    ]


@pytest.mark.parametrize(
    ("group", "key", "value", "problem"),
    [
        ("init_params", "random_seed", 2.0, None),
        ("init_params", "random_seed", 2.5, "not whole"),
        ("init_params", "probe_kv", 0, "number > 0"),
        ("init_params", "probe_kv", float("nan"), "number"),
        ("init_params", "meas_flipT", [1, 0, 0], None),
        ("init_params", "meas_flipT", [1, 0], "3"),
        ("init_params", "meas_crop", [None, None, [0, 4], [0, 4]], None),
        ("init_params", "meas_crop", [None, None, 3, [0, 4]], "list"),
        ("init_params", "pos_scan_affine", [1, 0, "a", 0], "number"),
        ("recon_params", "output_dir", 3, "string"),
        ("recon_params", "output_dir", None, "null"),
    ],
)
def test_values_are_of_the_kinds_that_keys_take(
    group: str, key: str, value: Any, problem: str | None
) -> None:
    row = GROUPS[group][key]
    found = row.kind.problem(value)
    assert (found is None) == (problem is None), found
    if problem is not None:
        with pytest.raises(ParameterError, match=rf"{group}\.{key} .*{problem}"):
            complete({"init_params": {**dict.fromkeys(REQUIRED, 1)}, group: {key: value}}, "a.yaml")


def test_names_that_are_searched_are_those_that_are_on() -> None:
    entry = {"state": True, "suggest": "float", "kwargs": {"low": 20.0, "high": 30.0}}
    search = groups(
        hypertune_params={"if_hypertune": True, "n_trials": 7, "tune_params": {"conv_angle": entry}}
    )
    names = tuned_names(search["hypertune_params"], "it")
    assert names == {"conv_angle"}
    ledger = Ledger("it")
    translate_tune(search["hypertune_params"], 0.5, ledger)
    assert ledger.params["tune"]["n_trials"] == 7
    off = {**search["hypertune_params"], "if_hypertune": False}
    assert tuned_names(off, "it") == frozenset()
    silent = Ledger("it")
    translate_tune(off, 0.5, silent)
    assert "tune" not in silent.params
    with pytest.raises(ParameterError, match="did you mean 'conv_angle'"):
        tuned_names({**off, "tune_params": {"conv_angl": entry}}, "it")


def test_arrays_that_an_entry_names(tmp_path: Path) -> None:
    data = np.arange(4 * 3 * 2.0).reshape(4, 3, 2)
    np.save(tmp_path / "a.npy", data)
    assert find_path("a.npy", tmp_path, "key") == tmp_path / "a.npy"
    stored = open_array({"path": "a.npy"}, tmp_path, "key")
    np.testing.assert_array_equal(stored.data, data)
    assert stored.path == tmp_path / "a.npy" and stored.key is None
    part = open_array({"path": "a.npy", "selection": [[1, 3], None, 0]}, tmp_path, "key")
    np.testing.assert_array_equal(part.data, data[1:3, :, 0])
    assert open_array(data, tmp_path, "key").data is data
    assert unknown_entries({"path": "a", "gap": 1, "speed": 2}) == ["speed"]
    with pytest.raises(DataError, match="key.path: the file"):
        open_array({"path": "b.npy"}, tmp_path, "key")
    with pytest.raises(ParameterError, match="expected {path: FILE}"):
        open_array({"file": "a.npy"}, tmp_path, "key")
    frames = np.arange(2 * 3 * 4, dtype="<f4").reshape(2, 3, 4)
    rows = [np.concatenate([frame.ravel(), [9, 9]]).astype("<f4").tobytes() for frame in frames]
    (tmp_path / "a.raw").write_bytes(b"12345" + b"".join(rows))
    entry = {"path": "a.raw", "shape": [2, 3, 4], "offset": 5, "gap": 8}
    np.testing.assert_array_equal(open_array(entry, tmp_path, "key").data, frames)
    with pytest.raises(DataError, match="correct shape, gap or offset"):
        open_array({**entry, "gap": 4}, tmp_path, "key")


def test_methods_go_by_our_names() -> None:
    assert OPTIMIZERS["adamw"] == "adamw" and OPTIMIZERS["lbfgs"] == "lbfgs" and len(OPTIMIZERS) == 13
    given = groups(model_params={"optimizer_params": {"name": "SGD", "configs": {"momentum": 0.5}}})
    ledger = Ledger("it")
    translate_model(given["model_params"], 16, 3, ledger)
    assert ledger.params["optimizer"] == "momentum" and ledger.params["optimizer_options"]["momentum"] == 0.5


def test_the_start_of_a_file_is_that_of_its_patterns(tmp_path: Path) -> None:
    init, ledger = groups()["init_params"], Ledger("it")
    seen = measured(init, tmp_path, np.random.RandomState(0), ledger)
    data = patterns()
    assert (seen.scan_size, seen.n_raw, seen.n_padded, seen.n_pixels) == ((5, 6), 16, 16, 16)
    np.testing.assert_allclose(seen.raw_mean, data.mean(axis=0), rtol=1e-6)
    ratio = data.sum(axis=(1, 2)).max() / data.sum(axis=(1, 2)).mean()
    assert seen.largest_total / seen.mean_total == pytest.approx(ratio, rel=1e-6)
    start = translate_init(init, tmp_path, frozenset(), Ledger("it"))
    assert (start.window, start.scan_size, start.n_slices, start.n_object_modes) == (16, (5, 6), 3, 1)


def test_a_path_is_looked_for_from_the_current_folder_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, here = tmp_path / "beside", tmp_path / "here"
    for number, folder in enumerate((beside, here)):
        folder.mkdir()
        np.save(folder / "a.npy", np.full((2, 2, 2), float(number)))
    monkeypatch.chdir(here)
    assert find_path("a.npy", beside, "key") == Path("a.npy")
    assert np.asarray(open_array("a.npy", beside, "key").data)[0, 0, 0] == 1
    (here / "a.npy").unlink()
    assert find_path("a.npy", beside, "key") == beside / "a.npy"


def test_rates_are_told_with_their_units() -> None:
    units = {
        "obja": "amplitude",
        "objp": "phase",
        "obj_tilts": "mrad",
        "slice_thickness": "Å, one for all gaps",
    }
    units["probe_pos_shifts"] = "px"
    moved = {name: {"start_iter": 1, "lr": 1e-3} for name in units}
    told = {line.key: line.text for line in translated(model_params={"update_params": moved}).lines}
    for name, unit in units.items():
        assert unit in told[f"model_params.update_params.{name}"], name


def test_losses_have_the_same_defaults_there_and_here() -> None:
    theirs = GROUPS["loss_params"]
    assert {name for name, row in theirs.items() if row.default["state"]} == {"loss_single"}
    terms = dict.fromkeys(("single", "poissn", "pacbed", "sparse", "simlar"), True)
    for name, entry in LOSS_TERMS.convert(terms).items():
        given = {key: value for key, value in theirs[f"loss_{name}"].default.items() if key != "state"}
        assert set(given) == set(entry)
        for key, value in given.items():
            assert np.array_equal(np.asarray(value), np.asarray(entry[key])), (name, key)
