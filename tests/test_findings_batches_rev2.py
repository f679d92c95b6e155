"""What a new user of mini-batches met: silent keys, long messages, misleading figures and logs."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from problems import small_params

import pypty
from pypty.engine.epochs.observe import no_better
from pypty.engine.setup.prepare import prepare
from pypty.errors import ParameterError
from pypty.importers import translate
from pypty.importers.ptyrad.defaults import REQUIRED
from pypty.output.loss_log import EpochRecord
from pypty.params.explain import explain
from pypty.params.presets import read_changes
from pypty.plots.series import plot_convergence
from pypty.results.history import History

ADAM = {"optimizer": "adam", "obj_parametrization": "amplitude_phase", "batch_size": 8}


def told(**changes: object) -> str:
    return str(pypty.check(small_params(**changes)))


def test_options_with_an_array_that_have_no_effect_are_told() -> None:
    """Comparing them with the defaults raised ValueError (NumPy's truth value of an array)."""
    assert "optimizer_options has no effect" in told(optimizer_options={"betas": [0.5, 0.9]})


# ------------------------------------------------------------------------------------------------------------ messages


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


def test_a_misspelt_word_is_no_expression() -> None:
    text = told(optimizer="Adam")
    assert "given 'Adam' (did you mean 'adam'?)" in text and "Known names" not in text


def test_an_expression_on_the_command_line() -> None:
    """YAML would read the colon of a lambda as that of a dict."""
    assert read_changes(["update_probe_pos=lambda x: x >= 10"]) == {"update_probe_pos": "lambda x: x >= 10"}
    assert read_changes(["optimizer=lambda x: 'adam' if x<3 else 'lbfgs'"])["optimizer"].endswith("'lbfgs'")


# ------------------------------------------------------------------------------------------------- rates, log and bar


def test_only_rates_of_what_moves_are_recorded() -> None:
    rates = {"objp": 5e-3, "obja": 5e-3, "probe": 1e-2, "positions": {"lr": 1e-2, "start": 1}}
    result = pypty.run(small_params(**ADAM, learning_rates=rates, update_probe_pos=True, epoch_max=2))
    assert set(result.learning_rates) == {"obja", "objp", "probe", "positions"}
    assert np.isnan(result.learning_rates["positions"][0])


def test_the_log_of_mini_batches(caplog: pytest.LogCaptureFixture) -> None:
    """It says method, batches and held-out loss, and no history is reset that is not there."""
    caplog.set_level(logging.INFO, "pypty")
    method = "lambda x: 'lbfgs' if x in (0, 1) else 'adam'"
    pypty.run(small_params(**{**ADAM, "optimizer": method}, constraints={"obj_rblur": True}, epoch_max=5,
                           warmup_epochs=0, validation_fraction=0.2))  # fmt: skip
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in lines if "history reset" in line] == [
        "epoch 2"
    ]  # the steps of Adam
    first, last = (next(line for line in lines if line.startswith(f"epoch {k}  loss")) for k in (0, 4))
    assert "evaluations" in first and "adam" not in first
    assert "adam  batches" in last and "evaluations" not in last
    assert "held out" in first and "held out" in last


def test_a_change_of_zero_on_a_logarithmic_axis() -> None:
    """Before positions are refined they do not change: no line from the bottom of the axis."""
    records = [
        EpochRecord(
            epoch=k,
            time_s=1.0 * k,
            loss=1.0,
            sse=1.0,
            first_step=1.0,
            step=1.0,
            evaluations=1,
            slope=0.0,
            new_slope=0.0,
            convergence={"probe_pos_shifts": value},
        )
        for k, value in enumerate([0.0, 1e-2, 1e-3, 1e-4])
    ]
    figure = plot_convergence(History.of(records))
    axes = next(axes for axes in figure.axes if axes.get_title() == "positions")
    assert axes.get_yscale() == "log"
    shown = np.asarray(axes.lines[0].get_ydata())
    assert np.isnan(shown[0]) and (shown[1:] > 0).all()
    assert axes.get_ylim()[0] > 1e-6


def test_what_does_not_change_is_no_curve() -> None:
    still = [
        EpochRecord(
            epoch=k,
            time_s=1.0 * k,
            loss=1.0,
            sse=1.0,
            first_step=1.0,
            step=1.0,
            evaluations=1,
            slope=0.0,
            new_slope=0.0,
            convergence={"probe_pos_shifts": 0.0},
        )
        for k in range(4)
    ]
    axes = next(axes for axes in plot_convergence(History.of(still)).axes if axes.get_title() == "positions")
    assert not axes.lines and axes.texts[0].get_text() == "no change"


# ------------------------------------------------------------------------------------------------------------- explain


def test_explain_of_an_entry() -> None:
    text = explain("learning_rates.probe")
    assert "rms amplitude" in text and "positions" not in text
    assert "std = 0.4 px" in explain("constraints.obj_rblur")
    assert "first epoch in which it moves" in explain("learning_rates.objp.start")
    with pytest.raises(ParameterError, match="obj_rblur"):
        explain("constraints.obj_blur")


def test_explain_says_once_what_entries_share() -> None:
    for name in ("learning_rates", "constraints"):
        text = explain(name)
        assert text.count("start = 0") == 1 and text.count("end = None") == 1
    assert "lr = 0.01 rad" in explain("learning_rates")


def test_explain_of_another_spelling() -> None:
    with pytest.raises(ParameterError, match="learning_rates"):
        explain("Learning_Rates")


# -------------------------------------------------------------------------------------------------------------- PtyRAD


@pytest.mark.parametrize(
    ("key", "value"), [("probe_conv_angle", -25), ("obj_slice_thickness", 0), ("obj_Nlayer", 0)]
)
def test_a_number_of_ptyrad_that_must_be_positive(key: str, value: float) -> None:
    """It was an error about our pixel size, after warnings of NumPy."""
    needed = dict.fromkeys(REQUIRED, 1) | {"meas_params": {"path": "data.h5"}, key: value}
    with pytest.raises(
        ParameterError, match=rf"init_params\.{key} is {value}, .*expected an? (number|integer) > 0"
    ):
        translate({"init_params": needed})


# --------------------------------------------------------------------------------------------------------------- stops


@pytest.mark.parametrize("constant", [0.0, -1e6])
def test_a_stop_does_not_depend_on_the_constant_of_a_loss(constant: float) -> None:
    """The loss of ``ml`` is some -10^6 per pattern: 0.01 % of that is more than all that is still to be gained."""
    values = [1600.0, 1100.0, 1000.0, 995.0, 993.0, 992.0, 991.5, 991.0, 991.0, 991.0, 991.0]
    records = [
        EpochRecord(
            epoch=k,
            time_s=1.0 * k,
            loss=1.0,
            sse=1.0,
            first_step=1.0,
            step=1.0,
            evaluations=1,
            slope=0.0,
            new_slope=0.0,
            validation=value + constant,
        )
        for k, value in enumerate(values)
    ]
    settings = prepare(small_params(output_folder="", stop_patience=3, validation_fraction=0.1)).settings
    reasons = [no_better(settings, records[:n]) for n in range(1, len(records) + 1)]
    assert not any(reasons[:-1]) and "of its fall" in reasons[-1] and "epoch 7" in reasons[-1]
