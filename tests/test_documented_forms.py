"""Every form of a value that the documents of PyPty 2.2 give is accepted, and does what they say."""

from __future__ import annotations

import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import N_PATTERNS, SIDE, patterns, scan_positions, small_params, two_slices

import pypty
from pypty.errors import ParameterError
from pypty.params.checks.positions import likely_unit, unit_of_step
from pypty.params.kinds import Choice, Switch
from pypty.params.masked import unmasked
from pypty.params.reading import read_parameters
from pypty.params.report import Report
from pypty.params.schema import SCHEMA

# fmt: off
DEFAULTS: dict[str, Any] = {
    "data_path": "", "masks": None, "data_multiplier": 1, "data_pad": 0, "data_bin": 1, "flip_ky": False,
    "data_shift_vector": [0, 0], "upsample_pattern": 1, "sequence": None, "use_full_FOV": True,
    "force_dataset_dtype": float, "force_pad": False, "load_one_by_one": True, "mean_pattern": None,
    "output_folder": "", "strip_dataset_from_params": True, "save_loss_log": 1, "epoch_prev": 0, "epoch_max": 200,
    "save_checkpoints_every_epoch": False, "save_inter_checkpoints": True, "print_flag": 3,
    "data_simulation_flag": False, "data_simulation_exitwave": False, "acc_voltage": 60, "aperture_mask": None,
    "recon_type": "far_field", "alpha_near_field": 0, "defocus_array": [0.0], "Cs": 0, "pixel_size_x_A": 1,
    "pixel_size_y_A": 1, "slice_distances": [10], "num_slices": 1, "scan_size": None, "scan_step_A": 1,
    "obj": np.ones((1, 1, 1, 1)), "probe": None, "positions": [[0, 0]], "tilts": np.zeros((1, 6)), "tilt_mode": 0,
    "static_background": None, "beam_current": None, "aberrations_array": [[0.0]], "aberration_marker": None,
    "probe_marker": None, "phase_plate_in_h5": None, "puzzle_positions": None, "propmethod": "multislice",
    "allow_subPixel_shift": True, "dynamically_resize_yx_object": False, "extra_space_on_side_px": 0,
    "skip_preprocessing": False, "damping_cutoff_multislice": 2 / 3, "smooth_rolloff": 0, "update_extra_cut": 0.005,
    "lazy_clean": False, "use_padded_intensity": True, "default_dtype": "double", "smart_memory": True,
    "remove_fft_cache": False, "compute_batch": "auto", "memory_saturation": 0.7, "algorithm": "lsq_sqrt",
    "wolfe_c1_constant": 0.1, "wolfe_c2_constant": 0.9, "loss_weight": 1, "max_count": 20, "reduce_factor": 0.1,
    "optimism": 3, "min_step": 1e-20, "hist_length": 10, "update_step_bfgs": 1, "reset_history_flag": False,
    "phase_only_obj": False, "tune_only_probe_phase": False, "tune_only_probe_abs": False, "update_obj": 1,
    "update_probe": 1, "update_probe_pos": 0, "update_tilts": 0, "update_beam_current": 0,
    "update_aberrations_array": 0, "update_static_background": 0, "phase_norm_weight": 0, "abs_norm_weight": 0,
    "mixed_variance_weight": 0, "mixed_variance_sigma": 0.5, "probe_constraint_mask": None, "window": None,
    "window_weight": 0, "probe_mod_tol": 0.05, "atv_q": 1, "atv_p": 2, "atv_weight": 0, "beta_wedge": 0, "wedge_mu": 0,
    "apply_gaussian_filter": False, "apply_gaussian_filter_amplitude": False, "keep_probe_states_orthogonal": False,
    "do_charge_flip": False, "cf_delta_phase": 0.1, "cf_delta_abs": 0.01, "cf_beta_phase": -0.95,
    "cf_beta_abs": -0.95, "fancy_sigma": None, "restart_from_vacuum": False, "reset_positions": False,
    "n_hermite_probe_modes": None, "defocus_spread_modes": None, "aberrations": None, "extra_probe_defocus": 0,
    "estimate_aperture_based_on_binary": False, "beam_ctf": None, "mc_n_modes": None, "focal_spread": 0,
    "spatial_coh_x_A": None, "spatial_coh_y_A": None, "spatial_coh_xy": 0, "n_mc_samples": 256,
}
# fmt: on


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_documented_default_is_accepted(name: str) -> None:
    report = Report()
    read_parameters({name: DEFAULTS[name]}, report)
    assert not [text for text in report.problems if text.startswith(name)], report.problems


def test_all_documented_defaults_together_change_nothing() -> None:
    """Those that do not describe the experiment, of which the small problem has its own."""
    own = small_params()
    base = {name: value for name, value in own.items() if name not in ("print_flag", "min_step")}
    given = {name: value for name, value in DEFAULTS.items() if name not in (*own, "obj")}
    assert pypty.evaluate({**base, **given}).loss == pypty.evaluate(base).loss


ON_OFF = {
    "save_inter_checkpoints": (0, 1),
    "save_checkpoints_every_epoch": (0, 1),
    "save_loss_log": (0, 1),
    "dynamically_resize_yx_object": (0, 1),
    "print_flag": (0, 1),
}


@pytest.mark.parametrize("name", ON_OFF)
def test_true_and_false_mean_one_and_zero(name: str) -> None:
    for value, number in zip((False, True), ON_OFF[name], strict=True):
        settings = read_parameters({name: value}, Report())
        got = settings.schedules[name].at(0) if SCHEMA[name].per_epoch else settings.value(name)
        assert got == number and not isinstance(got, bool)


WEIGHTS = [
    name
    for name, parameter in SCHEMA.items()
    if parameter.per_epoch and parameter.kind.problem(0.5) is None and not isinstance(parameter.kind, Switch)
]


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_condition_switches_a_number_on(name: str) -> None:
    report = Report()
    schedule = read_parameters({name: "lambda x: x>=20", "epoch_max": 1}, report).schedules[name]
    if any(text.startswith(name) for text in report.problems):  # 0 is no value of it
        assert SCHEMA[name].kind.problem(0) is not None
        return
    assert [float(np.max(schedule.at(epoch))) for epoch in (19, 20)] == [0.0, 1.0]
    called = read_parameters({name: lambda epoch: np.bool_(epoch >= 20), "epoch_max": 1}, Report()).schedules[
        name
    ]
    assert [float(np.max(called.at(epoch))) for epoch in (19, 20)] == [0.0, 1.0]


def test_a_weight_that_switches_on_acts_from_then_on() -> None:
    scheduled = pypty.run(small_params(epoch_max=4, atv_weight="lambda x: x>=2"))
    plain = pypty.run(small_params(epoch_max=4))
    assert scheduled.loss[:2].tolist() == plain.loss[:2].tolist() and scheduled.loss[2] > plain.loss[2]


def test_an_infinite_number_of_evaluations_is_that_of_none() -> None:
    none, infinite = (pypty.run(small_params(max_count=count)) for count in (None, np.inf))
    np.testing.assert_array_equal(none.obj, infinite.obj)


def test_one_width_of_the_charge_flip_is_that_of_all() -> None:
    flip = {"do_charge_flip": True, "epoch_max": 2}
    one = pypty.run(small_params(**flip, fancy_sigma=1.5))
    four = pypty.run(small_params(**flip, fancy_sigma=((1.5, 1.5), (1.5, 1.5))))
    np.testing.assert_array_equal(one.obj, four.obj)
    assert not np.array_equal(one.obj, pypty.run(small_params(**flip)).obj)


@pytest.mark.parametrize("name", ["apply_gaussian_filter", "apply_gaussian_filter_amplitude"])
@pytest.mark.parametrize("number", [1.5, "lambda x: 1.5", True])
def test_one_width_of_a_filter_is_that_of_all_axes_as_in_scipy(name: str, number: Any) -> None:
    width = 1.0 if number is True else 1.5
    one = pypty.run(two_slices(epoch_max=2, **{name: number}))
    three = pypty.run(two_slices(epoch_max=2, **{name: [width] * 3}))
    np.testing.assert_array_equal(one.obj, three.obj)
    assert not np.array_equal(one.obj, pypty.run(two_slices(epoch_max=2)).obj)


@pytest.mark.parametrize("form", ["array", "function", "radii in text"])
def test_a_window_is_an_array_or_two_radii_or_varies(form: str) -> None:
    weight = np.zeros((SIDE, SIDE))
    weight[:3] = 1.0
    window: Any = {
        "array": weight,
        "function": lambda epoch: weight,
        "radii in text": "lambda x: [0.2, 0.5]",
    }[form]
    found = pypty.evaluate(small_params(window=window, window_weight=0.7))
    probe = small_params()["probe"]
    if form == "radii in text":
        expected = pypty.evaluate(small_params(window=[0.2, 0.5], window_weight=0.7)).regularizers[
            "window_weight"
        ]
    else:
        start = pypty.run(small_params(epoch_max=0)).probe
        expected = 0.7 * (weight[..., None] * np.abs(start) ** 2).sum()
        assert probe is not None
    assert found.regularizers["window_weight"] == pytest.approx(expected, rel=1e-12)


def test_a_window_of_another_shape_is_refused() -> None:
    report = pypty.check(small_params(window=np.ones((SIDE, SIDE + 2)), window_weight=1.0))
    assert f"window: shape ({SIDE}, {SIDE + 2}), but the probe array is ({SIDE}, {SIDE})" in str(report)


@pytest.mark.parametrize(
    ("value", "device"), [(np, "cpu"), ("numpy", "cpu"), ("cupy", "gpu"), (None, "auto"), ("auto", "auto")]
)
def test_a_backend_is_a_device_or_its_library(value: Any, device: str) -> None:
    assert read_parameters({"backend": value}, Report())["backend"] == device
    assert read_parameters({"backend": types.ModuleType("cupy")}, Report())["backend"] == "gpu"


@pytest.mark.parametrize("value", [types, "torch", 3])
def test_other_libraries_are_refused(value: Any) -> None:
    report = Report()
    read_parameters({"backend": value}, report)
    assert "expected one of 'auto', 'cpu', 'gpu'; or numpy, cupy" in str(report)


@pytest.mark.parametrize(
    "text", ["lambda x: np.arange(10)", "np.arange(0, 10)", "lambda x: arange(0, 10, 1)"]
)
def test_a_sequence_in_text(text: str) -> None:
    assert (
        pypty.evaluate(small_params(sequence=text)).loss
        == pypty.evaluate(small_params(sequence=range(10))).loss
    )


def test_a_range_in_text_is_bounded() -> None:
    with pytest.raises(ParameterError, match="more than 4000000 entries"):
        pypty.evaluate(small_params(sequence="lambda x: np.arange(0, 1e9)"))


def test_none_means_that_a_text_an_array_or_a_table_is_not_given() -> None:
    for name, parameter in SCHEMA.items():
        report = Report()
        settings = read_parameters({name: None}, report)
        mine = [text for text in report.problems if text.startswith(f"{name}:") and "None" in text]
        if not isinstance(parameter.default, (str, tuple, list, dict, type(None), Mapping)):
            continue
        if isinstance(parameter.kind, Choice):
            assert mine, name
            continue
        assert not mine, mine
        if not parameter.per_epoch and parameter.kind.problem(None) is not None:
            assert np.array_equal(settings.value(name), parameter.kind.convert(parameter.default)), name


def test_hermite_modes_of_every_defocus() -> None:
    params = small_params(epoch_max=0, defocus_spread_modes=[0.0, 60.0])
    defoci = pypty.run(params).probe
    products = pypty.run({**params, "n_hermite_probe_modes": [1, 0]}).probe
    assert defoci.shape[2] == 2 and products.shape[2] == 4
    power = (np.abs(products) ** 2).sum(axis=(0, 1))
    assert (
        power[0] == pytest.approx(power[2]) and power.min() > 0.7 * power.max()
    )  # the band limit takes a little
    for number in range(2):  # the first of each pair is the defocus itself
        a, b = defoci[..., number], products[..., 2 * number]
        assert abs(np.vdot(a, b)) == pytest.approx(np.linalg.norm(a) * np.linalg.norm(b), rel=1e-9)
    assert pypty.plan({**params, "n_hermite_probe_modes": [1, 0]}, show=False).sizes.probe_modes == 4


def test_a_wedge_without_its_weight_is_said_to_have_no_effect() -> None:
    (text,) = pypty.check(two_slices(beta_wedge=1.0)).warnings
    assert text == "beta_wedge has no effect: wedge_mu, its weight, is 0"
    assert pypty.check(two_slices(beta_wedge=1.0, wedge_mu=0.1)).warnings == []


def test_counts_beyond_the_band_limit_are_no_surprise_where_a_background_models_them() -> None:
    bright = patterns() + 50.0
    assert any("cannot be modelled" in text for text in pypty.check(small_params(dataset=bright)).warnings)
    for background in (
        {"static_background": np.full((SIDE, SIDE), 50.0)},
        {"update_static_background": True},
    ):
        report = pypty.check(small_params(dataset=bright, **background))
        assert not any("cannot be modelled" in text for text in report.warnings)


# ------------------------------------------------------------------------------------ what users do in other ways


def test_booleans_choose_patterns() -> None:
    keep = np.arange(N_PATTERNS) % 3 > 0
    expected = pypty.run(small_params(sequence=np.flatnonzero(keep)))
    for value in (keep, keep.tolist(), lambda epoch: keep):
        np.testing.assert_array_equal(pypty.run(small_params(sequence=value)).obj, expected.obj)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.ones(7, bool), f"7 booleans given, but there are {N_PATTERNS} patterns"),
        (np.zeros(N_PATTERNS, bool), "no index given"),
        ([1, 1, 2, 2, 2], "index 2 is given 3 times"),
    ],
)
def test_sequences_that_cannot_be_meant(value: Any, message: str) -> None:
    report = pypty.check(small_params(sequence=value))
    assert not report and message in str(report)


@pytest.mark.parametrize("same", [True, False], ids=["of all patterns", "of each pattern"])
def test_masked_patterns_are_compared_where_they_are_not_masked(same: bool) -> None:
    dead = np.zeros((N_PATTERNS, SIDE, SIDE), bool)
    dead[:, 6:8] = True
    if not same:
        dead[3, 1, 2] = True
    counts = np.where(dead, 1e6, patterns())
    weights = ~dead[0] * 1.0 if same else ~dead * 1.0
    found = pypty.evaluate(small_params(dataset=np.ma.masked_array(counts, dead)))
    expected = pypty.evaluate(small_params(dataset=np.where(dead, 0, counts), detector_mask=weights))
    assert found.loss == expected.loss and found.loss < pypty.evaluate(small_params(dataset=counts)).loss / 10
    both = small_params(dataset=np.ma.masked_array(counts, dead), detector_mask=np.eye(SIDE))
    assert (
        pypty.evaluate(both).loss
        == pypty.evaluate(
            small_params(dataset=np.where(dead, 0, counts), detector_mask=np.eye(SIDE) * weights)
        ).loss
    )


@pytest.mark.parametrize("mask", [np.ones((8, 8)), "mask.npy", [1, 2]])
def test_a_mask_that_does_not_fit_a_masked_dataset_is_refused(mask: Any) -> None:
    dataset = np.ma.masked_greater(patterns(), 50)
    report = pypty.check(small_params(dataset=dataset, detector_mask=mask))
    assert not report and "detector_mask: " in str(report) and "masked dataset" in str(report)


def test_masked_arrays_of_other_parameters_are_refused() -> None:
    positions = np.ma.masked_array(scan_positions(), np.eye(N_PATTERNS, 2) > 0)
    assert "positions: given a masked array" in str(pypty.check(small_params(positions=positions)))
    nothing = np.ma.masked_array(scan_positions())
    assert pypty.check(small_params(positions=nothing))


def test_a_result_gives_what_continues_the_run() -> None:
    params = small_params(extra_probe_defocus=50.0, epoch_max=5, data_pad=2)
    result = pypty.run(params)
    again = pypty.evaluate({**params, **result.params()})
    assert again.loss == pytest.approx(result.loss[-1], rel=1e-6)
    assert len(pypty.run({**params, **result.params(), "epoch_max": 7}).epochs) == 2
    assert not [text for text in pypty.check({**params, **result.params()}).warnings if "probe" in text]


def test_a_probe_that_is_propagated_again_is_warned_of() -> None:
    report = pypty.check(small_params(extra_probe_defocus=50.0, aberrations=[0.0, 3.0]))
    (text,) = [warning for warning in report.warnings if "given probe" in warning]
    assert "extra_probe_defocus = 50.0, aberrations = [0.0, 3.0]" in text and "Result.params()" in text


def test_positions_in_metres_are_refused_with_the_unit() -> None:
    positions_A = 300.0 / scan_positions().max() * scan_positions()
    for factor, unit in ((1e-10, "m"), (1e-4, "µm"), (0.1, "nm"), (1.0, "Å")):
        assert likely_unit(positions_A * factor) == unit
    report = pypty.check(small_params(positions=positions_A * 1e-10))
    assert not report and "they could be in m: give position in Å / pixel_size_x_A" in str(report)


def test_the_unit_of_a_step() -> None:
    settings = read_parameters({"pixel_size_x_A": 0.4, "pixel_size_y_A": 0.4}, Report())
    step_px = 0.2  # 2 Å given as 0.2 nm, taken as pixels
    assert unit_of_step(step_px * 0.4, 2.0, settings) == "nm"
    assert unit_of_step(2.0 * 0.4, 2.0, settings) == "Å"
    assert unit_of_step(5.0 * 0.4, 2.0, settings) is None


def test_plain_data_are_left_as_they_are() -> None:
    params = small_params()
    assert unmasked(params, Report()) is params


def test_positions_in_nanometres_are_recognised_by_the_step() -> None:
    params = small_params()
    step_A = 4.0 * params["pixel_size_x_A"]
    raster = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0), indexing="ij"), -1).reshape(-1, 2)
    checklist = pypty.preflight(
        {**params, "positions": raster * step_A / 10, "scan_step_A": step_A, "scan_size": (5, 5)}
    )
    (item,) = [item for item in checklist.items if item.name == "scan step"]
    assert item.status == "fail" and "Positions could be in nm." in item.what_to_do


def test_rows_of_the_same_position_are_not_ready() -> None:
    checklist = pypty.preflight(small_params(positions=np.zeros((N_PATTERNS, 2))))
    assert not checklist.ok
    (item,) = [item for item in checklist.items if item.name == "unit of positions"]
    assert item.status == "fail" and "one row" in item.what_to_do


def test_params_yaml_of_these_forms_gives_the_same_run(tmp_path: Path) -> None:
    keep = np.arange(N_PATTERNS) % 3 > 0
    params = small_params(
        output_folder=str(tmp_path), sequence=keep, backend=np, max_count=np.inf, apply_gaussian_filter=0.5
    )
    first = pypty.run(params)
    again = pypty.run({**pypty.load_preset(tmp_path), "dataset": patterns(), "output_folder": ""})
    np.testing.assert_array_equal(first.obj, again.obj)
