"""Parameters against each other and against the data: what is told before a run begins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from first_order_problems import first_order
from problems import N_PATTERNS, patterns, small_params

import pypty
from pypty.engine.setup.methods import check_methods, idle_keys
from pypty.model.blocks import BLOCKS, SWITCHES
from pypty.params.checks.combinations import check_combinations, check_epochs, epochs_to_check, optimizers
from pypty.params.checks.effects import (
    check_effects,
    has_background,
    has_block,
    has_tilts,
    source_size_A,
    without_effect,
)
from pypty.params.checks.model import check_model, mode_weights, without_effect_in_model
from pypty.params.kinds import ArrayOf, Choice, Flag, Number, Switch, brief, complaint, near, optional
from pypty.params.nested import Field, Record, Table, Words
from pypty.params.reading import read_parameters
from pypty.params.report import Report
from pypty.params.schema import GROUPS, SCHEMA
from pypty.params.schema.data import DATA
from pypty.params.schema.experiment import EXPERIMENT
from pypty.params.schema.losses import LOSS_TERMS
from pypty.params.schema.numbers import FRACTION, NATURAL, PATTERN, POSITIVE, POSITIVE_WHOLE
from pypty.params.schema.numerics import NUMERICS
from pypty.params.schema.optimiser import OPTIMISER
from pypty.params.schema.output import OUTPUT
from pypty.params.schema.results import AFFIXES, FIGURES, RESULTS, SAVED
from pypty.params.schema.start import STATE
from pypty.params.settings import Settings


def test_what_has_no_effect_is_told() -> None:
    report = pypty.check(
        small_params(
            defocus_array=[10.0], Cs=1e7, readout_noise=2.0, mean_pattern=patterns()[0], algorithm="lsq_sqrt"
        )
    )
    assert report
    for key in ("defocus_array", "Cs", "readout_noise", "mean_pattern"):
        assert any(text.startswith(f"{key} has no effect") for text in report.warnings), key


def test_a_fraction_that_is_no_pattern_is_told() -> None:
    warnings = pypty.check(first_order(validation_fraction=0.01)).warnings
    assert any("nothing is held out" in text for text in warnings)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"optimizer_options": {"betas": [0.9, 1.5]}}, "two numbers in"),
        ({"optimizer_options": {"eps": [1e-8, 1e-3]}}, "expected one number"),
        ({"optimizer": "sgd", "optimizer_options": {"nesterov": True}}, "momentum above 0"),
        ({"optimizer": "rmsprop", "optimizer_options": {"alpha": 1.5}}, "alpha of rmsprop"),
        (
            {
                "optimizer": "lambda x: 'lbfgs' if x < 3 else 'nadam'",
                "optimizer_options": {"betas": [0.9, 1]},
            },
            "at epoch 3: betas of nadam",
        ),
    ],
)
def test_options_that_contradict_are_found_before_the_run(given: dict[str, Any], told: str) -> None:
    report = pypty.check(first_order(**given))
    assert not report and told in report.problems[0]
    assert report.problems[0].startswith("optimizer_options: ")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"optimizer_options": {"rho": 0.5}}, "'rho' has no effect: it is not an option of adam"),
        ({"learning_rates": {"positions": 0.1}}, "'positions' has no effect: update_probe_pos is off"),
        ({"learning_rates": {"obj": 0.1}}, "'obj' has no effect: the object is moved as obja and objp"),
        ({"optimizer": "lbfgs"}, "batch_size has no effect"),
        ({"optimizer": "lbfgs", "lr_scheduler": "cosine"}, "lr_scheduler has no effect"),
        ({"optimizer": "lbfgs", "learning_rates": {"obja": 0.1}}, "learning_rates has no effect"),
        ({"optimizer": "preconditioned", "update_probe_pos": True}, "update_probe_pos has no effect"),
        ({"optimizer": "preconditioned", "abs_norm_weight": 1.0}, "abs_norm_weight has no effect"),
    ],
)
def test_what_no_optimizer_looks_at_is_told(given: dict[str, Any], told: str) -> None:
    warnings = pypty.check(first_order(**given)).warnings
    assert any(told in text for text in warnings), warnings


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"constraints": {"obj_rblur": {"start": 5, "end": 3}}}, "'obj_rblur' has no effect: it ends at"),
        ({"learning_rates": {"objp": {"start": 2, "end": 2}}}, "'objp' has no effect: it ends at"),
        ({"lr_scheduler": "multistep"}, "without milestones"),
        ({"stop_tolerance": 0.1}, "stop_tolerance has no effect"),
        ({"indices_shape": [2, 2]}, "indices_shape has no effect"),
    ],
)
def test_what_never_acts_is_told(given: dict[str, Any], told: str) -> None:
    warnings = pypty.check(first_order(**given)).warnings
    assert any(told in text for text in warnings), warnings


def test_percentiles_end_at_100() -> None:
    """NumPy refused them after the second snapshot."""
    report = pypty.check(first_order(convergence_monitor={"percentile_range": [15, 101]}))
    assert any("largest value is 101" in text for text in report.problems)


def test_nothing_is_told_where_all_is_used() -> None:
    usual = pypty.check(first_order()).warnings
    hybrid = {
        "optimizer": "lambda x: ('adam', 'lbfgs', 'sgd')[x % 3]",
        "optimizer_options": {"betas": [0.8, 0.9], "momentum": 0.5},
        "learning_rates": {"objp": 0.1, "positions": 0.2},
        "update_probe_pos": "lambda x: x > 2",
        "lr_scheduler": "cosine",
    }
    assert pypty.check(first_order(**hybrid)).warnings == usual
    assert pypty.check(small_params(warmup_epochs=2, batch_size=5)).warnings == usual


def told(**changes: object) -> str:
    return str(pypty.check(small_params(**changes)))


def test_options_with_an_array_that_have_no_effect_are_told() -> None:
    """Comparing them with the defaults raised ValueError (NumPy's truth value of an array)."""
    assert "optimizer_options has no effect" in told(optimizer_options={"betas": [0.5, 0.9]})


def test_a_misspelt_word_is_no_expression() -> None:
    text = told(optimizer="Adam")
    assert "given 'Adam' (did you mean 'adam'?)" in text and "Known names" not in text


@pytest.mark.parametrize("key", ["acc_voltage", "pixel_size_x_A", "pixel_size_y_A"])
def test_a_forgotten_physical_constant_is_mentioned(key: str) -> None:
    params = small_params()
    assert not [text for text in pypty.check(params).warnings if text.startswith(key)]
    del params[key]
    assert [text for text in pypty.check(params).warnings if text.startswith(key)]


def test_counts_beyond_the_band_limit_are_mentioned() -> None:
    flat = np.full((N_PATTERNS, 16, 16), 10.0)
    assert "beyond the band limit" in str(pypty.check(small_params(dataset=flat)))
    assert "beyond the band limit" not in str(pypty.check(small_params()))


def test_a_reciprocal_pixel_that_contradicts_is_mentioned() -> None:
    pixel = small_params()["pixel_size_x_A"]
    right = 1 / (16 * pixel)
    assert "rez_pixel_size_A" not in str(pypty.check(small_params(rez_pixel_size_A=right)))
    assert "rez_pixel_size_A" in str(pypty.check(small_params(rez_pixel_size_A=2 * right)))


def test_bad_counts_are_reported_beside_a_typo() -> None:
    report = str(pypty.check(small_params(dataset=patterns() - 1e3, epoch_mx=3)))
    assert "epoch_max" in report and "negative" in report


# ----------------------------------------------------------------------------------------- check by check


def settings_of(**changes: Any) -> Settings:
    """Settings of parameters that are right one by one, whatever they are against each other."""
    return read_parameters(small_params(**changes), Report())


def problems_of(check: Any, **changes: Any) -> list[str]:
    report = Report()
    check(settings_of(**changes), report)
    return report.problems


def test_every_epoch_of_a_run_is_looked_at() -> None:
    settings = settings_of(epoch_prev=3, epoch_max=9, optimizer="'adam' if epoch < 5 else 'lbfgs'")
    assert epochs_to_check(settings) == range(3, 9) and epochs_to_check(settings, 7) == range(7, 9)
    assert len(epochs_to_check(settings_of(epoch_max=10**6))) == 10_000
    assert optimizers(settings) == {"adam", "lbfgs"} and optimizers(settings_of()) == {"lbfgs"}
    (told,) = problems_of(
        check_epochs, wolfe_c1_constant="0.1 + 0.1*epoch", wolfe_c2_constant=0.25, epoch_max=9
    )
    assert "0.3 is not smaller than wolfe_c2_constant = 0.25 at epoch 2" in told


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions_correction": np.zeros((3, 2))}, "positions_correction: shape"),
        ({"resume": True}, "resume: True, but output_folder is empty"),
        ({"probe": "aperture"}, "'aperture' needs aperture_mask"),
        ({"update_extra_cut": 0.7}, "must be smaller than damping_cutoff_multislice"),
        ({"slice_distances": [-1.0]}, "distances must not be negative"),
        ({"num_slices": 4, "slice_distances": [1.0, 2.0]}, "4 slices have 3 gaps"),
        ({"detector_mask": np.zeros((16, 16))}, "must not all be zero"),
        ({"obj": np.zeros((20, 20, 1, 1))}, "vacuum is 1"),
        ({"scan_size": [0, 5]}, "two numbers of points >= 1"),
    ],
)
def test_combinations_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    assert any(message in text for text in problems_of(check_combinations, **changes))


def test_a_good_combination_has_no_problem() -> None:
    for check in (check_combinations, check_epochs, check_model, check_methods):
        assert problems_of(check) == []
    report = Report()
    settings = settings_of()
    check_effects(settings, report, epochs_to_check(settings))
    assert report.problems == []


def test_weights_of_object_modes_are_as_many_as_there_are_modes() -> None:
    assert mode_weights(settings_of()) is None and mode_weights(settings_of(obj_mode_weights=[1.0])) is None
    assert mode_weights(settings_of(obj_mode_weights=[0.5])).tolist() == [0.5]
    (told,) = problems_of(check_model, obj_mode_weights=[0.5, 0.5])
    assert "2 weights, but the object has 1 modes" in told
    assert any("choose 'crop' or 'resample'" in text for text in problems_of(check_model, simu_Npix=20))
    both = problems_of(check_model, simu_Npix=20, simu_match_mode="crop", data_pad=2)
    assert any("given together with data_pad = 2" in text for text in both)
    idle = without_effect_in_model(settings_of(data_pad=2, data_pad_fill="edge"))
    assert not idle["data_pad_fill"][0] and idle["data_pad_value"][0] and idle["data_pad_threshold"][0]


def test_what_there_is_beside_object_and_probe() -> None:
    plain = settings_of()
    assert not (
        has_background(plain) or has_tilts(plain) or has_block(plain, "beam_current", "update_beam_current")
    )
    full = settings_of(static_background=4.0, update_tilts="epoch > 2", beam_current=np.ones(25))
    assert has_background(full) and has_tilts(full) and has_block(full, "beam_current", "update_beam_current")
    sizes = source_size_A(settings_of(mc_n_modes=2, spatial_coh_x_A=0.4))
    assert sizes == (0.4, 0.4)


def test_keys_without_effect_and_keys_that_no_method_looks_at() -> None:
    (told,) = without_effect(settings_of(Cs=2.0, tilt_mode=2))
    assert told == "Cs has no effect: recon_type is far_field; use aberrations"
    idle = idle_keys(settings_of(learning_rates={"obja": 0.37}))
    assert any(text.startswith("learning_rates has no effect") for text in idle)
    assert idle_keys(settings_of()) == []
    used = settings_of(optimizer="adam", obj_parametrization="amplitude_phase")
    assert not any("learning_rates" in text for text in idle_keys(used))


# ------------------------------------------------------------------------------------------ schema and kinds


def test_every_group_of_keys_is_in_the_schema_once() -> None:
    names = [parameter.name for group in GROUPS.values() for parameter in group]
    assert len(names) == len(set(names)) == len(SCHEMA)
    for rows in (DATA, EXPERIMENT, NUMERICS, OPTIMISER, OUTPUT, RESULTS, STATE):
        assert all(SCHEMA[parameter.name] is parameter for parameter in rows)
    assert set(SWITCHES) <= set(SCHEMA) and set(SWITCHES.values()) == set(BLOCKS)
    for parameter in SCHEMA.values():
        assert parameter.kind.problem(parameter.default) is None, parameter.name


@pytest.mark.parametrize(
    ("name", "default", "unit"),
    [
        ("acc_voltage", 60.0, "kV"),
        ("pixel_size_x_A", 1.0, "Å"),
        ("slice_distances", (10.0,), "Å"),
        ("scan_step_A", 1.0, "Å"),
        ("alpha_near_field", 0.0, "rad"),
        ("tilts", None, "rad"),
        ("positions", ((0.0, 0.0),), "px"),
        ("aberrations_array", ((0.0,),), "Å"),
        ("epoch_max", 200, "epochs"),
        ("save_iters", 0, "epochs"),
        ("damping_cutoff_multislice", 2 / 3, ""),
        ("data_bin", 1, "px"),
    ],
)
def test_defaults_and_units(name: str, default: Any, unit: str) -> None:
    assert (SCHEMA[name].default, SCHEMA[name].unit) == (default, unit)


def test_words_of_results_are_those_that_there_are() -> None:
    assert "model" in SAVED and "convergence" in FIGURES and "lr" in AFFIXES
    found = LOSS_TERMS.convert({"single": True, "poissn": 0.5, "pacbed": False})
    assert found["single"] == {"weight": 1.0, "dp_pow": 0.5}
    assert found["poissn"]["weight"] == 0.5 and set(found) == {"single", "poissn"}


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (FRACTION, (0, 0.5, 1.0), (-0.1, 1.1, "a", np.nan, True)),
        (NATURAL, (0, 3, 4.0), (-1, 1.5)),
        (POSITIVE, (1e-9, 3), (0, -1, np.inf)),
        (POSITIVE_WHOLE, (1, 7), (0, 1.5)),
        (PATTERN, (np.ones((2, 3)),), (np.ones(3), np.ones((2, 2), complex), [[np.nan, 1]])),
        (Number(odd=True, integer=True), (3, -1), (2, 3.5)),
        (Flag(), (True, False, 0, 1), (2, "yes")),
        (Switch(), (True, 0, 2.5), ("on", None)),
        (Choice(("a", "b")), ("a",), ("c", 1)),
        (optional(ArrayOf((("N", "2"),))), (None, [[1, 2]]), ([[1, 2, 3]],)),
        (Words(("x", "y")), (["x"], [], ["x", "x"]), (["z"], "x")),
    ],
)
def test_kinds_take_what_they_describe(kind: Any, good: tuple[Any, ...], bad: tuple[Any, ...]) -> None:
    for value in good:
        assert kind.problem(value) is None, (kind.describe(), value)
    for value in bad:
        assert "given" in str(kind.problem(value)), (kind.describe(), value)


def test_complaints_are_short_and_name_what_was_meant() -> None:
    assert brief(np.ones((2, 3))) == "an array of shape (2, 3) and dtype float64"
    assert len(brief("x" * 200)) == 80
    assert near("Cosine", ["cosine", "step"]) == " (did you mean 'cosine'?)" and near("q", ["cosine"]) == ""
    assert complaint(Number(low=0), "given -1", "px") == "given -1, expected a number >= 0 in px"
    assert complaint(Number(), "given 3, expected 4") == "given 3, expected 4"


def test_records_and_tables_fill_in_their_defaults() -> None:
    record = Record((Field("std", 0.4, Number(low=0), "px"), Field("on", True, Flag())), shorthand="std")
    table = Table((("blur", record), ("mask", record)))
    assert record.convert(2) == {"std": 2, "on": True} and record.convert({"on": 0}) == {
        "std": 0.4,
        "on": False,
    }
    assert table.convert({"mask": True, "blur": None}) == {"mask": {"std": 0.4, "on": True}}
    assert "'std': given -1" in str(record.problem({"std": -1}))
    assert "did you mean 'std'" in str(record.problem({"stf": 1}))
    assert "did you mean 'blur'" in str(table.problem({"blurr": True}))
    assert Words((2, 3)).convert([3, 2, 3]) == [3, 2]
    complete = Table((("blur", record),), complete=True)
    assert complete.convert({}) == {"blur": {"std": 0.4, "on": True}}
