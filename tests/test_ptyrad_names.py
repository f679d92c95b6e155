"""Names of output folders from parameter files of PtyRAD: those that PtyRAD gives them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ptyrad_content import content, patterns, translated

from pypty.engine.setup.prepare import prepare
from pypty.importers import translate, translate_file
from pypty.importers.ptyrad.file import complete
from pypty.importers.ptyrad.names import Shown, spell_folder_name
from pypty.importers.ptyrad.translation import Ledger
from pypty.params.reading import read_parameters
from pypty.params.report import Report
from pypty.params.schema.results import AFFIXES, RESPELT
from pypty.results.folder_name import RunSizes, folder_name
from pypty.results.saver import result_folder

NOW = datetime(2025, 6, 7, 8, 9)


def name_of(params: dict[str, Any]) -> str:
    setup = prepare(params)
    path = result_folder(setup, NOW)
    setup.close()
    assert path is not None
    return path.name


def test_the_name_of_the_guide(tmp_path: Path) -> None:
    """The name that PtyRAD's guide shows for tBL-WSe2, from its parameter file.

    The scan is one in miniature; only the sizes are replaced.
    """
    file = tmp_path / "tBL_WSe2.yaml"
    groups = content(
        init_params={
            "probe_pmode_max": 6,
            "obj_Nlayer": 6,
            "obj_slice_thickness": 2,
            "meas_flipT": [1, 0, 0],
            "probe_aberrations": {"C10": 0},
            "meas_source": "file",
            "meas_params": {"path": "data.npy"},
        }
    )
    np.save(tmp_path / "data.npy", patterns())
    text = """
model_params:
  optimizer_params: {name: Adam, configs: {}, load_state: null}
  update_params:
    obja: {start_iter: 1, lr: 5.0e-4}
    objp: {start_iter: 1, lr: 5.0e-4}
    probe: {start_iter: 1, lr: 1.0e-4}
    probe_pos_shifts: {start_iter: 1, lr: 1.0e-4}
loss_params:
  loss_single: {state: true, weight: 1.0, dp_pow: 0.5}
  loss_sparse: {state: true, weight: 0.1, ln_order: 1}
constraint_params:
  obj_rblur: {start_iter: 1, step: 1, end_iter: null, obj_type: both, kernel_size: 5, std: 0.5}
  obj_zblur: {start_iter: 1, step: 1, end_iter: null, obj_type: both, kernel_size: 5, std: 1}
  mirrored_amp: {start_iter: 1, step: 1, end_iter: null, relax: 0.1, scale: 0.03, power: 4}
  obja_thresh: {start_iter: 1, step: 1, end_iter: null, relax: 0, thresh: [0.98, 1.02]}
  objp_postiv: {start_iter: 1, step: 1, end_iter: null, relax: 0}
recon_params:
  BATCH_SIZE: {size: 32, grad_accumulation: 1}
  recon_dir_affixes: [default]
  prefix_time: date
"""
    file.write_text(yaml.safe_dump(groups) + text, encoding="utf-8")
    settings = read_parameters(translate_file(file).params, Report())
    sizes = {"patterns": 16384, "probe_modes": 6, "object_modes": 1, "slices": 6, "wavelength_A": 0.0418}
    name = folder_name(settings, RunSizes(detector=(128, 128), **sizes), NOW)
    assert name == (
        "20250607_full_N16384_dp128_flipT100_random32_p6_1obj_6slice_dz2_plr1e-4_oalr5e-4_oplr5e-4_slr1e-4_orblur0.5_"
        "ozblur1_mamp0.03_4_oathr0.98_oposc_sng1.0_spr0.1"
    )


BASE = "full_N30_{dp}_random10_p2_1obj_3slice_dz4_Adam{scheduler}_{lr}{model}_{constraint}_{loss}_{rest}"
PARTS = {
    "dp": "dp16",
    "scheduler": "",
    "lr": "plr1e-4_oalr5e-4_oplr5e-4_slr5e-4",
    "model": "",
    "constraint": "orblur0.4_ozblur1.0",
    "loss": "sng1.0",
    "rest": "ca24.9_dx0.3",
}
ON = {"start_iter": 1}
RATES = {
    "obja": {"start_iter": 1, "lr": 1.5e-3},
    "objp": {"start_iter": 3, "lr": 0.012},
    "probe": {"start_iter": 5, "lr": 1},
    "obj_tilts": {"start_iter": 2, "lr": 1e-3},
    "slice_thickness": {"start_iter": 4, "lr": 0.1},
    "probe_pos_shifts": {"start_iter": None, "lr": 5e-4},
}
EVERY = (
    "probe_mask_k",
    "probe_mask_r",
    "kr_filter",
    "kz_filter",
    "kr_thresh",
    "complex_ratio",
    "mirrored_amp",
    "obj_z_recenter",
    "obja_thresh",
    "objp_postiv",
    "tilt_smooth",
)
# The names of PtyRAD 1.0's own runs of these files (all affixes, 5 x 6 scan, 16 x 16 pixels).
NAMES: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({}, {}),
    (
        {"init_params": {"tilt_params": {"tilt_type": "all", "init_tilts": [[1, 2.5]]}}},
        {"rest": "ca24.9_dx0.3_tilt1_2.5"},
    ),
    (
        {"init_params": {"tilt_params": {"tilt_type": "each", "init_tilts": [[1.23456, -2.0]]}}},
        {"rest": "ca24.9_dx0.3_tilt1.2_-2"},
    ),
    ({"init_params": {"meas_flipT": [0, 0, 0]}}, {"dp": "dp16_flipT000"}),
    ({"init_params": {"meas_flipT": [1, 0, 1]}}, {"dp": "dp16_flipT101"}),
    ({"init_params": {"meas_flipT": [1, 0, 0]}}, {"dp": "dp16_flipT100"}),
    (
        {"init_params": {"pos_scan_affine": [1.01, 0.02, -3, 0]}},
        {"rest": "ca24.9_dx0.3_aff1.01_0.02_-3.0_0.0"},
    ),
    (
        {"init_params": {"pos_scan_affine": [1, 0, -3.25, 0.5]}},
        {"rest": "ca24.9_dx0.3_aff1.00_0.00_-3.2_0.5"},
    ),
    ({"init_params": {"pos_scan_affine": [1, 0, 0, 0]}}, {}),
    (
        {
            "init_params": {
                "probe_aberrations": {"C10": 200, "A1": 50.5, "A1phi": 25, "C21a": 300, "C23": 0, "Cs": -5000}
            }
        },
        {"rest": "ca24.9_C10_200_C12_50.5_phi12_25_C21_300_phi21_0_C30_-5e+03_dx0.3"},
    ),
    ({"init_params": {"probe_aberrations": {"C10": 0}}}, {}),
    (
        {"init_params": {"probe_aberrations": {"C10": 1234.5, "C12": -10}}},
        {"rest": "ca24.9_C10_1.23e+03_C12_-10_phi12_0_dx0.3"},
    ),
    ({"init_params": {"probe_z_shift": -20}}, {"rest": "ca24.9_z_shift-20_dx0.3"}),
    ({"init_params": {"probe_z_shift": 12.3456}}, {"rest": "ca24.9_z_shift12.3_dx0.3"}),
    ({"init_params": {"probe_z_shift": 0.0}}, {}),
    ({"init_params": {"probe_conv_angle": 24.987654}}, {"rest": "ca25_dx0.3"}),
    ({"init_params": {"meas_calibration": {"mode": "dx", "value": 0.149382}}}, {"rest": "ca24.9_dx0.1494"}),
    (
        {"model_params": {"scheduler_params": {"name": "StepLR", "configs": {"step_size": 5}}}},
        {"scheduler": "_StepLR"},
    ),
    (
        {"model_params": {"update_params": RATES}},
        {"scheduler": "_ps5_ops3_ts2_dzs4", "lr": "plr1e+00_oalr2e-3_oplr1e-2_slr5e-4_tlr1e-3_dzlr1e-1"},
    ),
    (
        {
            "model_params": {
                "update_params": {
                    "obja": {"start_iter": None, "lr": 0},
                    "objp": {"start_iter": 1, "lr": 25.0},
                }
            }
        },
        {"lr": "plr1e-4_oplr2e+01_slr5e-4"},
    ),
    ({"model_params": {"detector_blur_std": 1.23456}}, {"model": "_dpblur1.23456"}),
    (
        {
            "loss_params": {
                "loss_poissn": {"state": True, "weight": 0.123456},
                "loss_pacbed": {"state": True},
                "loss_sparse": {"state": True, "weight": 0.1},
                "loss_simlar": {"state": True},
            }
        },
        {"loss": "sng1.0_psn0.12_pcb0.5_spr0.1_sml0.1"},
    ),
    (
        {"constraint_params": dict.fromkeys(EVERY, ON)},
        {
            "constraint": "krf0.15_kzf1.0_krt0.05_orblur0.4_ozblur1.0_ocplx1.0_0.0_mamp0.03_4.0_ozrec_oathr0.96_"
            "oposc_tsm2.0_"
            "pmk0.22_pmr0.95"
        },
    ),
    (
        {
            "constraint_params": {
                "obj_rblur": {**ON, "std": 0.5, "obj_type": "phase"},
                "obj_zblur": {**ON, "std": 1.0, "obj_type": "amplitude"},
                "kr_filter": {**ON, "obj_type": "phase", "radius": 0.2},
                "kz_filter": {**ON, "obj_type": "amplitude", "beta": 1.0},
                "kr_thresh": {**ON, "obj_type": "phase", "thresh": 1.0},
                "mirrored_amp": {**ON, "power": 4.0, "scale": 0.123456},
                "complex_ratio": {**ON, "alpha1": 0.5, "alpha2": 0.25, "obj_type": "phase"},
                "obja_thresh": {**ON, "thresh": [1.0, 1.02], "relax": 0.1},
                "objp_postiv": {"start_iter": 5, "relax": 0.1},
                "tilt_smooth": {**ON, "std": 3.0},
                "probe_mask_k": {**ON, "radius": 1.0},
                "probe_mask_r": {**ON, "radius": 0.123456},
            }
        },
        {
            "constraint": "krpf0.2_kzaf1.0_krtp1.0_oprblur0.5_oazblur1.0_opcplx0.5_0.25_mamp0.12_4.0_oathr1.0_"
            "oposc0.1_tsm3.0_"
            "pmk1.0_pmr0.12"
        },
    ),
    (
        {"init_params": {"meas_pad": {"mode": "on_the_fly", "target_Npix": 24, "padding_type": "constant"}}},
        {"dp": "dp24", "rest": "ca24.9_dx0.2"},
    ),
    ({"init_params": {"simu_Npix": 24, "simu_match_mode": "crop"}}, {"dp": "dp24", "rest": "ca24.9_dx0.2"}),
]


def small(affixes: list[str], **groups: Any) -> dict[str, Any]:
    """Translated parameters of the file that PtyRAD ran."""
    init = {
        "probe_pmode_max": 2,
        "meas_calibration": {"mode": "dx", "value": 0.3},
        **groups.pop("init_params", {}),
    }
    recon = {
        "BATCH_SIZE": {"size": 10},
        "prefix_time": False,
        "recon_dir_affixes": affixes,
        **groups.pop("recon_params", {}),
    }
    return translated(init_params=init, recon_params=recon, **groups).params


@pytest.mark.parametrize(("groups", "changes"), NAMES)
def test_names_are_those_of_ptyrads_own_runs(groups: dict[str, Any], changes: dict[str, str]) -> None:
    assert name_of(small(["all"], **groups)) == BASE.format(**{**PARTS, **changes})


@pytest.mark.parametrize(
    ("recon", "name"),
    [
        (
            {"BATCH_SIZE": {"size": 5, "grad_accumulation": 3}, "GROUP_MODE": "hilbert"},
            "full_N30_dp16_hilbert15_p2_1obj_3slice_dz4",
        ),
        (
            {"INDICES_MODE": {"mode": "center", "subscan_slow": 3, "subscan_fast": 4}},
            "center_N12_dp16_random10_p2_1obj_3slice_dz4",
        ),
        ({"prefix": "a", "postfix": "z"}, "a_full_N30_dp16_random10_p2_1obj_3slice_dz4_z"),
        ({"prefix_time": "date"}, "20250607_full_N30_dp16_random10_p2_1obj_3slice_dz4"),
    ],
)
def test_names_of_batches_and_subscans(recon: dict[str, Any], name: str) -> None:
    assert name_of(small(["minimal"], recon_params=recon)) == name


def test_one_slice_has_no_distance() -> None:
    assert name_of(small(["nlayer"], init_params={"obj_Nlayer": 1})) == "1slice"


def test_lbfgs_keeps_the_words_of_the_file() -> None:
    found = name_of(small(["batch", "optimizer", "lr"], model_params={"optimizer_params": {"name": "LBFGS"}}))
    assert found == "random10_LBFGS_plr1e-4_oalr5e-4_oplr5e-4_slr5e-4"


@pytest.mark.parametrize("tag", [*(tag for tag in AFFIXES if tag not in ("minimal", "default", "all")), "Ls"])
def test_every_affix_alone(tag: str) -> None:
    """Ls is for X-rays only: PtyRAD's name of an electron's run has nothing for it."""
    init = {
        "probe_aberrations": {"C10": 100},
        "probe_z_shift": -20,
        "pos_scan_affine": [1, 0, -3, 0],
        "tilt_params": {"tilt_type": "all", "init_tilts": [[1, 2]]},
    }
    model = {
        "scheduler_params": {"name": "StepLR", "configs": {"step_size": 5}},
        "update_params": {"probe": {"start_iter": 5, "lr": 1e-4}},
        "detector_blur_std": 1.0,
    }
    expected = {
        "indices": "full_N30",
        "meas": "dp16",
        "batch": "random10",
        "pmode": "p2",
        "omode": "1obj",
        "nlayer": "3slice_dz4",
        "optimizer": "Adam",
        "scheduler": "StepLR",
        "start_iter": "ps5",
        "lr": PARTS["lr"],
        "model": "dpblur1.0",
        "constraint": PARTS["constraint"],
        "loss": "sng1.0",
        "conv_angle": "ca24.9",
        "aberrations": "C10_100",
        "z_shift": "z_shift-20",
        "dx": "dx0.3",
        "affine": "aff1.00_0.00_-3.0_0.0",
        "tilt": "tilt1_2",
        "Ls": "x",
    }
    prefix = {"recon_params": {"prefix": "x"}} if tag == "Ls" else {}
    assert name_of(small([tag], init_params=init, model_params=model, **prefix)) == expected[tag]


def test_changed_settings_are_not_told_in_old_words() -> None:
    """Where a setting is no longer the file's, its part of the name is ours; the others stay PtyRAD's."""
    params = small(["optimizer", "lr", "loss"])
    assert name_of(params) == "Adam_plr1e-4_oalr5e-4_oplr5e-4_slr5e-4_sng1.0"
    rates = {**params["learning_rates"], "objp": {"lr": 1e-3, "start": 0, "end": None}}
    assert name_of({**params, "learning_rates": rates}) == "Adam_plr6.25e-6_oalr5e-4_oplr1e-3_slr5e-4_sng1.0"
    assert name_of({**params, "optimizer": "adamw"}).startswith("adamw_plr1e-4")


def test_words_are_kept_beside_those_of_our_settings() -> None:
    """Only where the two differ; sizes that our engine pads to are PtyRAD's."""
    groups = complete(content(recon_params={"recon_dir_affixes": ["all"]}), "it").groups
    ledger = Ledger("it")
    ledger.params |= {"output_folder": "out", "recon_dir_affixes": ["all"], "optimizer": "adam"}
    ledger.params |= {"loss_terms": {"single": 1.0}, "group_mode": "random", "batch_size": 32}
    shown = Shown(pattern_px=16, simulated_px=24, tilt_mrad=np.array([0.5, 0]), wavelength_A=0.04)
    spell_folder_name(groups, shown, ledger)
    spelling = ledger.params["recon_dir_spelling"]
    assert spelling["meas"] == ["dp16", "dp24"] and spelling["loss"] == ["sng1", "sng1.0"]
    assert spelling["tilt"] == ["", "tilt0.5_0"] and "batch" not in spelling


def test_no_names_without_folders() -> None:
    for recon in ({"SAVE_ITERS": None}, {"recon_dir_affixes": []}):
        assert "recon_dir_spelling" not in translate(content(recon_params=recon)).params
    assert set(small(["all"])["recon_dir_spelling"]) <= set(RESPELT)
