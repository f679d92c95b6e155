"""Names of output folders: what they say, and that every system takes them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from problems import patterns, small_params

import pypty
from pypty.errors import ParameterError
from pypty.params.checks.results import FORBIDDEN
from pypty.params.reading import read_parameters
from pypty.params.report import Report
from pypty.params.schedule import Constant
from pypty.params.schema import SCHEMA
from pypty.params.settings import Settings
from pypty.results.folder_name import LONGEST, RunSizes, folder_name

NOW = datetime(2026, 3, 4, 5, 6, 7)
SIZES = RunSizes(
    patterns=256, detector=(64, 64), probe_modes=2, object_modes=1, slices=3, wavelength_A=0.041757
)
ONE_SLICE = RunSizes(
    patterns=9, detector=(64, 48), probe_modes=1, object_modes=4, slices=1, wavelength_A=0.041757
)


def settings_with(**changes: Any) -> Settings:
    """Checked settings with some values in their canonical form."""
    defaults = read_parameters({}, Report())
    fixed, schedules = dict(defaults.fixed), dict(defaults.schedules)
    for name, value in changes.items():
        parameter = SCHEMA[name]
        if parameter.per_epoch:
            schedules[name] = Constant(parameter.kind.convert(value))
        else:
            fixed[name] = parameter.kind.convert(value)
    return Settings(fixed, schedules, frozenset(changes))


ADAM: dict[str, Any] = {
    "optimizer": "adam",
    "obj_parametrization": "amplitude_phase",
    "update_probe_pos": True,
    "batch_size": 32,
    "learning_rates": {"probe": 1e-4, "obja": 5e-4, "objp": 5e-4, "positions": 5e-4},
}


def test_the_example_of_a_default_run() -> None:
    """The settings of PtyRAD's default run, in this package's parameters."""
    settings = settings_with(
        **ADAM,
        slice_distances=[4.0],
        constraints={"obj_rblur": {"std": 0.4}, "obj_zblur": True, "objp_postiv": True},
        loss_terms={"single": 1.0, "sparse": 0.1},
        aberrations=[100.0],
        recon_dir_affixes=["default"],
    )
    expected = (
        "full_N256_dp64_random32_p2_1obj_3slice_dz4_plr1e-4_oalr5e-4_oplr5e-4_slr5e-4_orblur0.4_ozblur1_oposc_"
        "sng1_spr0.1_C10_100"
    )
    assert folder_name(settings, SIZES, NOW) == expected


@pytest.mark.parametrize(("tags", "changes", "sizes", "name"), [
    (["indices"], {"indices_mode": "sub"}, SIZES, "sub_N256"),
    (["meas"], {"flip_ky": True}, ONE_SLICE, "dp64x48_flipky"),
    (["minimal"], {}, ONE_SLICE, "full_N9_dp64x48_p1_4obj_1slice"),
    (["batch"], {**ADAM, "grad_accumulation": 4, "group_mode": "compact"}, SIZES, "compact128"),
    (["batch"], {**ADAM, "batch_size": "auto", "grad_accumulation": 2}, SIZES, "randomautox2"),
    (["optimizer", "batch"], {"optimizer": "lbfgs"}, SIZES, "lbfgs"),
    (["scheduler"], {**ADAM, "lr_scheduler": "cosine"}, SIZES, "cosine"),
    (["scheduler"], {"lr_scheduler": "cosine", "prefix": "x"}, SIZES, "x"),
    (["start_iter"], {**ADAM, "learning_rates": {"probe": {"start": 5}, "objp": {"start": 0}}}, SIZES, "ps5"),
    (["lr"], {"optimizer": "sgd", "learning_rates": {"obj": 1.5e-3, "probe": 0.0}}, SIZES, "olr1.5e-3"),
    (["lr"], {"optimizer": "sgd", "phase_only_obj": True, "update_probe": False}, SIZES, "oplr1e-2"),
    (["lr"], {"optimizer": "adam", "learning_rates": {"probe_abs": 2.0}}, SIZES, "plr2e+0_olr1e-2"),
    (["lr", "dx"], {"optimizer": "lbfgs"}, SIZES, "dx1"),
    (["model"], {"detector_blur_std": 1.0, "obj_preblur_std": 0.5}, SIZES, "dpblur1_opreblur0.5"),
    (["constraint"], {"constraints": {"probe_mask_k": True, "kr_filter": {"obj_type": "phase"},
                                      "kz_filter": {"obj_type": "amplitude"}, "kr_thresh": True,
                                      "complex_ratio": True, "mirrored_amp": True, "obj_z_recenter": True,
                                      "obja_thresh": True, "objp_postiv": {"mode": "subtract_min", "relax": 0.1},
                                      "tilt_smooth": True, "probe_mask_r": True, "ortho_pmode": True}}, SIZES,
     "krpf0.15_kzaf1_krt0.05_ocplx1_0_mamp0.03_4_ozrec_oathr0.96_oposs0.1_tsm2_pmk0.22_pmr0.95"),
    (["loss"], {"loss_terms": {"poissn": 1, "pacbed": 0.5, "simlar": True, "sparse": 0}}, SIZES, "psn1_pcb0.5_sml0.1"),
    (["loss"], {"algorithm": "ml"}, SIZES, "ml"),
    (["conv_angle"], {"aperture_mask": 0.5, "pixel_size_x_A": 0.2, "pixel_size_y_A": 0.2}, SIZES, "ca52.2"),
    (["aberrations"], {"aberrations": [200, 0, -1.23456]}, SIZES, "C10_200_C12b_-1.23"),
    (["z_shift"], {"extra_probe_defocus": -20}, SIZES, "z_shift-20"),
    (["dx"], {"pixel_size_x_A": 0.14938}, SIZES, "dx0.1494"),
    (["affine"], {"update_probe_pos": True, "positions_parametrization": "affine"}, SIZES, "posaffine"),
    (["tilt"], {"tilts": np.array([[9, 9, 1e-3, 2e-3, 9, 9.0]])}, SIZES, "tilt1_2"),
    (["tilt", "dx"], {"tilts": np.zeros((1, 6))}, SIZES, "dx1"),
])  # fmt: skip
def test_tags(tags: list[str], changes: dict[str, Any], sizes: RunSizes, name: str) -> None:
    assert folder_name(settings_with(**changes, recon_dir_affixes=tags), sizes, NOW) == name


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        (True, "20260304"),
        ("date", "20260304"),
        ("time", "050607"),
        ("datetime", "20260304_050607"),
        ("%y-%m", "26-03"),
    ],
)
def test_times(asked: bool | str, shown: str) -> None:
    settings = settings_with(prefix_time=asked, prefix="a", postfix="z", recon_dir_affixes=["dx"])
    assert folder_name(settings, SIZES, NOW) == f"{shown}_a_dx1_z"


def test_the_order_of_tags_is_fixed() -> None:
    ways = (["dx", "indices"], ["indices", "dx"])
    names = {folder_name(settings_with(recon_dir_affixes=tags), SIZES, NOW) for tags in ways}
    assert names == {"full_N256_dx1"}


@settings_of_hypothesis(max_examples=40, deadline=None, derandomize=True)
@given(prefix=st.text(min_size=1, max_size=400), when=st.sampled_from(["", "%H:%M", "%Y/%m"]))
def test_every_name_is_a_name_on_every_system(prefix: str, when: str) -> None:
    encodable = prefix.encode(errors="ignore").decode()
    name = folder_name(settings_with(prefix=encodable, prefix_time=when), SIZES, NOW)
    assert len(name.encode()) <= LONGEST
    assert not set(name) & set(FORBIDDEN) and not any(ord(one) < 32 for one in name)
    assert name == name.rstrip(". ")


def test_names_of_devices_are_avoided_and_long_names_are_cut() -> None:
    assert folder_name(settings_with(prefix="con"), SIZES, NOW) == "_con"
    assert folder_name(settings_with(prefix="ä" * 300), SIZES, NOW) == "ä" * 127


def test_a_named_folder_that_holds_a_result_is_left_alone(tmp_path: Path) -> None:
    params = small_params(output_folder=str(tmp_path), prefix="a", epoch_max=1)
    folders = [pypty.run(params).folder for _ in range(3)]
    assert [folder.name for folder in folders if folder] == ["a", "a_2", "a_3"]


def test_a_resumed_run_stays_in_its_folder(tmp_path: Path) -> None:
    first = pypty.run(small_params(output_folder=str(tmp_path), prefix="a", epoch_max=1))
    assert first.folder == tmp_path / "a"
    resumed = pypty.resume(first.folder, dataset=patterns(), epoch_max=2)
    assert resumed.folder == first.folder and len(resumed.loss) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_names_need_a_place() -> None:
    assert any("prefix has no effect" in note for note in pypty.check(small_params(prefix="a")).warnings)
    with pytest.raises(ParameterError, match="'%Y-%m-%d'"):
        pypty.run(small_params(prefix_time="tomorrow"))
    with pytest.raises(ParameterError, match="leave it out"):
        pypty.run(small_params(postfix="a:b"))
