"""Parameters against each other and against the data: what is told before a run begins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from first_order_problems import first_order
from problems import N_PATTERNS, patterns, small_params

import pypty


def test_what_has_no_effect_is_told() -> None:
    report = pypty.check(
        small_params(defocus_array=[10.0], Cs=1e7, readout_noise=2.0, mean_pattern=patterns()[0])
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
        ({"optimizer_options": {"rho": 0.5}}, "'rho' has no effect: it is no option of adam"),
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
