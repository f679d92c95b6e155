"""Findings of a review of mini-batches and first-order methods: what was wrong stays right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import small_params
from test_parameters_batches import done, first_order, records
from test_resume import assert_identical, in_parts

import pypty
from pypty.engine.epochs import first_order as module
from pypty.engine.epochs.first_order import Progress
from pypty.engine.epochs.observe import no_better
from pypty.engine.setup.prepare import prepare
from pypty.engine.setup.sequences import problems_from
from pypty.model.parametrization import polar
from pypty.optimize.first_order import FirstOrder
from pypty.optimize.update_rules import METHODS
from pypty.output.loss_log import EpochRecord
from pypty.params.schedule import make_schedule
from pypty.params.schema import SCHEMA

WANDERING: dict[str, Any] = {
    "update_probe_pos": True,
    "dynamically_resize_yx_object": 0.5,
    "learning_rates": {"positions": 0.3},
}


@pytest.mark.parametrize("form", ["amplitude_phase", "complex"])
def test_moments_grow_with_the_object(form: str, tmp_path: Path) -> None:
    """Once a window needs more room than there is; and a resumed run is the run."""
    params = first_order(**WANDERING, obj_parametrization=form, epoch_max=5)
    run = done(**WANDERING, obj_parametrization=form, epoch_max=5)
    shape = run.state.variables.obj.shape
    assert shape != run.setup.variables().obj.shape or run.state.scan is not None
    part = "obj" if form == "complex" else "objp"
    assert run.state.progress.moments[part]["mean"].shape[: len(shape)] == shape
    assert shape[-2:] > (24, 24), "it grew"
    assert_identical(in_parts(params, tmp_path, 2, 4, 5), pypty.run(params))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("part", ["obj", "objp"])
def test_every_moment_fits_the_larger_object(name: str, part: str) -> None:
    """The pixels that were there keep theirs."""
    old, new, before = (1, 2, 6, 5), (1, 2, 9, 7), (2, 1)
    kind = complex if part == "obj" else float
    options = {"momentum": 0.5} if name == "sgd" else {}
    method = FirstOrder(name, options)
    gradient = np.random.default_rng(1).normal(size=old).astype(kind)
    method.step({part: np.ones(old, kind)}, {part: gradient}, {part: 0.1})
    grown = Progress(name=name, moments=method.state).with_room(before, old, new)
    again = FirstOrder(name, options, grown.moments)
    again.step({part: np.ones(new, kind)}, {part: np.ones(new, kind)}, {part: 0.1})
    for key, array in method.state[part].items():
        if array.shape[: len(old)] == old:
            inside = grown.moments[part][key][:, :, 2:8, 1:6]
            np.testing.assert_array_equal(inside, array)


def test_a_snapshot_of_other_pixels_is_not_compared() -> None:
    """The area that the convergence monitor looks at changes with the windows."""
    table = records(**WANDERING, epoch_max=6, convergence_monitor={"every": 1})
    assert len(table) == 6
    compared = [bool(record.convergence) for record in table]
    assert not all(compared[1:]), "the object was given room"
    moved = [record.convergence["probe_pos_shifts"] for record in table if record.convergence]
    assert all(value < 1.0 for value in moved), "not by what was added at the edges"


def test_other_tensors_can_be_watched_from_now_on(tmp_path: Path) -> None:
    params = first_order(epoch_max=2, convergence_monitor={"every": 1}, output_folder=str(tmp_path))
    pypty.run(params)
    less = {"every": 1, "tensors": ["obja"]}
    result = pypty.run({**params, "resume": True, "epoch_max": 4, "convergence_monitor": less})
    assert len(result.epochs) == 4


@pytest.mark.parametrize("switch", ["tune_only_probe_phase", "tune_only_probe_abs"])
def test_parts_of_the_probe_have_moments_of_their_own(switch: str, tmp_path: Path) -> None:
    """Of a schedule that changes what of the probe is moved."""
    params = first_order(**{switch: "lambda x: x % 2 == 0"}, epoch_max=5)
    assert_identical(in_parts(params, tmp_path, 2, 3, 5), pypty.run(params))


def test_rates_of_a_spectrum_are_in_its_units() -> None:
    """The first step of Adam: rad for phases, and the same fraction of amplitude as of the complex probe."""
    grown = {"obj": np.exp(1j * np.random.default_rng(2).normal(size=(24, 24, 1, 1))), "epoch_max": 1}
    rates = {"probe": 0.01, "obja": 0, "objp": 0}
    found = {
        switch: records(**grown, **{switch: True}, learning_rates=rates, batch_size=25)[0]
        for switch in ("tune_only_probe_phase", "tune_only_probe_abs", "phase_only_obj")
    }
    steps = {switch: record.update_norms["probe"] for switch, record in found.items()}
    inside = 0.3  # of the spectrum, by the band limit
    assert 0.01 * inside < steps["tune_only_probe_phase"] < 0.0101
    relative = steps["tune_only_probe_abs"] / (16 * steps["phase_only_obj"])
    assert 0.3 < relative < 1.5
    assert {record.learning_rates["probe"] for record in found.values()} == {0.01}


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_positions_do_not_care_where_the_origin_is(name: str) -> None:
    """Decays of the weights, and steps relative to the value, are those of displacements."""
    changes: dict[str, Any] = {"optimizer": name, "update_probe_pos": True, "epoch_max": 3}
    changes["learning_rates"] = {"obja": 1e-6, "objp": 1e-6, "probe": 1e-7, "positions": 1e-3}
    moved = []
    for rim in (0, 40):
        run = done(**changes, extra_space_on_side_px=rim, lazy_clean=True)
        moved.append(run.state.variables.positions - run.setup.scan.positions)
    sizes = [float(np.sqrt((one**2).mean())) for one in moved]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1 if name == "adamw" else 0.5)


def test_only_what_moves_has_a_rate_in_the_record() -> None:
    assert set(records(epoch_max=1)[0].learning_rates) == {"obja", "objp", "probe"}
    late = records(learning_rates={"probe_abs": {"lr": 0.5, "start": 1}}, epoch_max=2)
    assert [set(record.learning_rates) - {"obja", "objp"} for record in late] == [set(), {"probe_abs"}]


def test_rejected_updates_of_lbfgs_do_not_end_what_follows() -> None:
    """L-BFGS that is stuck, because its steps are far too long; then Adam."""
    run = done(
        optimizer="lambda x: 'lbfgs' if x < 5 else 'adam'",
        epoch_max=9,
        freeze_stuck_blocks=False,
        max_count=1,
        update_step_bfgs="lambda x: 1e6 if x >= 2 else 1.0",
    )
    assert [record.step for record in run.state.records[2:5]] == [0, 0, 0]
    assert run.state.stop_reason == "epoch_max = 9 was reached"


def test_blocks_that_lbfgs_has_frozen_move_again() -> None:
    """Adam has no line search that they could stop; nor does it freeze any for what L-BFGS could not do."""
    run = done(
        optimizer="lambda x: 'lbfgs' if x < 5 else 'adam'",
        epoch_max=8,
        update_probe_pos=True,
        max_count=1,
        update_step_bfgs="lambda x: 1e6 if x >= 2 else 1.0",
    )
    blocks = [record.blocks for record in run.state.records]
    assert "positions" not in blocks[4]
    assert all(now == ("obj", "probe", "positions") for now in blocks[5:])


def test_a_fraction_that_is_no_pattern_is_told() -> None:
    warnings = pypty.check(first_order(validation_fraction=0.01)).warnings
    assert any("nothing is held out" in text for text in warnings)


def test_only_epochs_since_the_optimizer_was_changed_are_compared() -> None:
    def record(epoch: int, optimizer: str, loss: float) -> EpochRecord:
        return EpochRecord(
            epoch=epoch,
            time_s=0,
            loss=loss,
            sse=0,
            first_step=1,
            step=1,
            evaluations=1,
            slope=0,
            new_slope=0,
            optimizer=optimizer,
        )

    names = ["adam", "adam", "lbfgs", "lbfgs", "adam", "adam", "adam"]
    losses = [9.0, 8.0, 3.0, 2.0, 7.0, 6.0, 5.0]
    table = [record(*given) for given in zip(range(7), names, losses, strict=True)]
    settings: Any = {"stop_patience": 2, "stop_tolerance": 0.0}
    assert no_better(settings, table) == ""


def test_schedules_end_with_the_run_after_a_warm_up() -> None:
    table = records(warmup_epochs=2, epoch_max=6, lr_scheduler="exponential")
    rates = [record.learning_rates.get("objp") for record in table]
    assert rates[:2] == [None, None]
    assert rates[2:] == pytest.approx([0.01 * 0.01 ** (n / 4) for n in range(4)])


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


def test_an_edit_with_such_options_is_refused() -> None:
    """Instead of ending the run at its next epoch."""
    setup = prepare(first_order())
    edit = make_schedule(SCHEMA["optimizer_options"], {"betas": [0.9, 2.0]})
    edited = setup.settings.with_schedules({"optimizer_options": edit})
    assert any("betas" in text for text in problems_from(setup, edited, 1))
    assert not problems_from(setup, setup.settings, 1)
    setup.close()


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


def test_the_plan_counts_moments_and_no_history_that_is_not_kept() -> None:
    plain, adam, sgd, hybrid = (
        pypty.plan(small_params(hist_length=3, epoch_max=9, **given), show=False).items
        for given in (
            {},
            {"optimizer": "adam"},
            {"optimizer": "sgd"},
            {"optimizer": "lambda x: 'lbfgs' if x else 'adam'"},
        )
    )
    history, moments = "L-BFGS history", "moments of first-order methods"
    assert plain[moments] == sgd[moments] == 0 and adam[history] == 0
    assert 6 * adam[moments] == 4 * plain[history]
    assert hybrid[history] == plain[history] and hybrid[moments] == adam[moments]


def test_mean_patterns_of_batches_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are of the size of a pattern, three for each batch of the epoch."""
    original, kept = module._walk_through, []

    def spy(*given: Any) -> Any:
        found = original(*given)
        kept.extend(one.sums for one in found[0])
        return found

    monkeypatch.setattr(module, "_walk_through", spy)
    records(epoch_max=1, loss_terms={"pacbed": {"weight": 1.0}}, loss_scale="ratio")
    assert len(kept) == 5 and all(sums is None for sums in kept)


def test_an_object_that_begins_anew_has_no_moments() -> None:
    run = done(restart_from_vacuum="lambda x: x == 3", epoch_max=4)
    assert int(run.state.progress.moments["objp"]["count"]) == 5, "of the last epoch"
    assert int(run.state.progress.moments["probe"]["count"]) == 20


def test_counts_of_rows_come_back_from_any_device() -> None:
    """A resumed run has arrays on its device; counts belong on the host."""

    class OnDevice:
        """An array that, like CuPy's, NumPy may not take over silently."""

        def __init__(self, array: np.ndarray) -> None:
            self.array, self.shape, self.ndim = array, array.shape, array.ndim

        def get(self) -> np.ndarray:
            return self.array

        def __array__(self, *given: Any, **named: Any) -> np.ndarray:
            raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    rows = np.arange(3)
    point, slope = {"positions": np.zeros((3, 2))}, {"positions": np.ones((3, 2))}
    first = FirstOrder("adam", {})
    first.step(point, slope, {"positions": 0.1}, {"positions": rows})
    saved = {block: dict(arrays) for block, arrays in first.state.items()}
    saved["positions"]["count"] = OnDevice(saved["positions"]["count"])
    again = FirstOrder("adam", {}, saved)
    again.step(point, slope, {"positions": 0.1}, {"positions": rows[:2]})
    assert again.state["positions"]["count"].tolist() == [2, 2, 1]


@pytest.mark.parametrize("scale", ["additive", "ratio"])
def test_preconditioned_epochs_record_the_loss_terms(scale: str) -> None:
    """They add up to the loss, as with the other methods."""
    terms = {"single": {"weight": 1.0}, "poissn": {"weight": 0.5}}
    table = records(optimizer="preconditioned", loss_terms=terms, loss_scale=scale)
    for record in table:
        assert set(record.loss_terms) == {"single", "poissn"}
        assert sum(record.loss_terms.values()) == pytest.approx(record.loss)


@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_amplitude_and_phase_make_a_complex_number(real: type) -> None:
    """In the precision that is asked for, for negative amplitudes, too."""
    rng = np.random.default_rng(4)
    amplitude, phase = (rng.normal(size=(1, 2, 8, 9)).astype(real) for _ in range(2))
    found = polar(amplitude, phase, np.result_type(real, np.complex64))
    assert found.real.dtype == real
    expected = amplitude.astype(float) * np.exp(1j * phase.astype(float))
    np.testing.assert_allclose(found, expected, atol=4 * np.finfo(real).eps)
