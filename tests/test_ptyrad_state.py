"""States of optimisers and schedulers from model files: a run of PtyRAD or of ours goes on as if it had not stopped."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from first_order_problems import first_order
from problems import patterns as own_patterns
from ptyrad_content import content, patterns

import pypty
from pypty.errors import CheckpointError, DataError
from pypty.importers import load_result, translate
from pypty.importers.ptyrad.state import optimizer_state, scheduler_state
from pypty.importers.start_state import loaded_progress
from pypty.params.reading import read_parameters
from pypty.params.report import Report

STATE = Path(__file__).parent / "data" / "ptyrad_model_state.hdf5"
"""What PtyRAD 1.0.0 (PyTorch 2.13, CPU) saved after two of four iterations from the patterns of ``ptyrad_content``.

With optim_state and scheduler_state, but without H and the settings of the data: two slices, one probe mode, everything
but the slice thickness refined by Adam, StepLR.
"""
LOSSES = (0.7687554558118185, 0.7052424748738607)
"""Losses of its third and fourth iteration."""
RATES = {"obja": 1e-3, "objp": 2e-3, "probe": 1e-2, "probe_pos_shifts": 1e-2, "obj_tilts": 0.1}
OFF = ("ortho_pmode", "fix_probe_int", "obj_rblur", "obj_zblur", "pos_recenter")


def going_on(
    path: Path = STATE, optimizer: str = "Adam", scheduler: Any = "StepLR", **states: Any
) -> dict[str, Any]:
    """A file that continues PtyRAD's run from its model file; the probe keeps its power."""
    sources = {
        f"{what}_{key}": value
        for what in ("probe", "pos", "obj", "tilt")
        for key, value in (("source", "PtyRAD"), ("params", str(path)))
    }
    entry = None
    if scheduler is not None:
        configs = {"StepLR": {"step_size": 1, "gamma": 0.8}, "ReduceLROnPlateau": {}}[scheduler]
        entry = {"name": scheduler, "configs": configs, "load_state": states.get("scheduler", str(path))}
    return content(
        init_params={
            **sources,
            "obj_Nlayer": 2,
            "probe_pmode_max": 1,
            "pos_scan_step_size": 0.6,
            "pos_scan_rand_std": None,
            "meas_calibration": {"mode": "dx", "value": 0.3},
            "probe_normalization": None,
            "meas_params": patterns(),
        },
        model_params={
            "optimizer_params": {"name": optimizer, "load_state": states.get("optimizer", str(path))},
            "scheduler_params": entry,
            "update_params": {name: {"start_iter": 1, "lr": rate} for name, rate in RATES.items()},
        },
        constraint_params={name: {"start_iter": None} for name in OFF},
        recon_params={
            "NITER": 2,
            "SAVE_ITERS": None,
            "BATCH_SIZE": {"size": 10},
            "convergence_monitor": None,
        },
    )


def run(given: dict[str, Any]) -> pypty.Result:
    return pypty.run({**translate(given).params, "backend": "cpu", "print_flag": 0})


def test_a_run_of_ptyrad_goes_on_with_its_moments_and_its_schedule() -> None:
    found = run(going_on())
    np.testing.assert_allclose(found.loss[:2], LOSSES, rtol=2e-6)
    assert found.learning_rates["objp"][0] == pytest.approx(2e-3 * 0.8**2)
    # without the moments Adam takes full steps at once, and without the schedule longer ones
    fresh = run(going_on(optimizer="Adam", scheduler=None))
    assert abs(fresh.loss[1] - LOSSES[1]) > 1e-3


def test_the_states_of_ptyrads_file() -> None:
    name, moments = optimizer_state(STATE)
    assert name == "adam" and set(moments) == {"obja", "objp", "tilts", "probe", "positions"}
    with h5py.File(STATE) as file:
        state = file["optim_state_dict/state"]
        np.testing.assert_array_equal(moments["obja"]["square"], state["0/exp_avg_sq"][()])
        np.testing.assert_array_equal(moments["tilts"]["mean"][:, 2:4], -state["2/exp_avg"][()])
        np.testing.assert_array_equal(moments["tilts"]["square"][:, 2:4], state["2/exp_avg_sq"][()])
        np.testing.assert_array_equal(moments["probe"]["mean"], state["3/exp_avg"][()])
    assert moments["probe"]["count"] == 6 and not moments["tilts"]["mean"][:, [0, 1, 4, 5]].any()
    assert scheduler_state(STATE) == ("step", 2, {})


def changed(path: Path, change: Any) -> Path:
    shutil.copy(STATE, path)
    with h5py.File(path, "a") as file:
        change(file)
    return path


def replace(file: h5py.File, name: str, value: Any) -> None:
    del file[name]
    file[name] = value


def test_where_ptyrads_amplitude_is_negative_the_moments_turn(tmp_path: Path) -> None:
    """Its object is -|a| exp(i phi), ours |a| exp(i (phi + pi))."""

    def darken(file: h5py.File) -> None:
        file["optimizable_tensors/obja"][0, 0, :5] *= -1

    plain, dark = (optimizer_state(path)[1]["obja"] for path in (STATE, changed(tmp_path / "a.hdf5", darken)))
    np.testing.assert_array_equal(dark["mean"][0, 0, :5], -plain["mean"][0, 0, :5])
    np.testing.assert_array_equal(dark["mean"][0, 1], plain["mean"][0, 1])
    np.testing.assert_array_equal(dark["square"], plain["square"])


def test_the_state_of_plateau_and_of_momentum(tmp_path: Path) -> None:
    """By PyTorch's names, as PtyRAD stores them."""

    def other(file: h5py.File) -> None:
        replace(file, "params/model_params/scheduler_params/name", "ReduceLROnPlateau")
        replace(file, "params/model_params/optimizer_params/name", "SGD")
        file["params/model_params/optimizer_params/configs/momentum"] = 0.9
        del file["scheduler_state_dict"]
        for key, value in (
            ("_last_lr", [5e-4, 1e-3, 5e-2, 5e-3, 5e-3]),
            ("best", 0.86),
            ("num_bad_epochs", 1),
            ("cooldown_counter", 2),
            ("last_epoch", 4),
        ):
            file[f"scheduler_state_dict/{key}"] = value
        for group in file["optim_state_dict/state"].values():
            mean = group["exp_avg"][()]
            for name in ("exp_avg", "exp_avg_sq", "step"):
                del group[name]
            group["momentum_buffer"] = mean

    path = changed(tmp_path / "a.hdf5", other)
    name, moments = optimizer_state(path)
    assert name == "momentum" and set(moments["objp"]) == {"count", "velocity"}
    assert scheduler_state(path) == ("plateau", 4, {"factor": 0.5, "best": 0.86, "bad": 1.0, "rest": 2.0})
    given = going_on(path, scheduler="ReduceLROnPlateau", optimizer="SGD")
    given["model_params"]["optimizer_params"]["configs"] = {"momentum": 0.9}
    fields = loaded_progress(read_parameters(translate(given).params, Report()))
    assert fields["schedule"]["factor"] == 0.5 and fields["epochs"] == 4 and fields["steps"] == 0
    assert len(run(given).epochs) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda file: replace(file, "optim_state_dict", "__NONE__"),
            "save_result of its run needs optim_state",
        ),
        (
            lambda file: replace(file, "params/model_params/optimizer_params/name", "LBFGS"),
            "cannot be continued",
        ),
        (
            lambda file: replace(file, "params/model_params/optimizer_params/name", "RAdam"),
            "the state of 'radam'|state of radam",
        ),
        (lambda file: replace(file, "model_attributes/lr_params/probe", 0.0), "expected the same number"),
        (
            lambda file: replace(file, "scheduler_state_dict", "__NONE__"),
            "save_result of its run needs scheduler_state",
        ),
        (
            lambda file: replace(file, "params/model_params/scheduler_params/name", "LinearLR"),
            "lr_scheduler is 'step'",
        ),
        (
            lambda file: replace(file, "params/model_params/scheduler_params/name", "LambdaLR"),
            "cannot be continued",
        ),
        (
            lambda file: replace(file, "optim_state_dict/state/0/exp_avg", np.zeros((1, 2, 3, 3))),
            "belongs to another method",
        ),
    ],
)
def test_states_that_do_not_fit_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        run(going_on(changed(tmp_path / "a.hdf5", change)))


def test_a_state_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"optimizer_params.load_state.*does not exist"):
        translate(going_on() | {"model_params": {"optimizer_params": {"load_state": "no.hdf5"}}})
    (tmp_path / "a.h5").write_text("nothing")
    with pytest.raises(DataError):
        pypty.run(first_order(load_optimizer_state=str(tmp_path / "a.h5")))


def test_ptyrads_state_needs_ptyrads_variables() -> None:
    params = {**translate(going_on()).params, "backend": "cpu", "print_flag": 0}
    rates = {**params["learning_rates"], "probe_abs": 0.0, "probe": 1e-3}
    with pytest.raises(CheckpointError, match="probe_abs"):
        pypty.run({**params, "learning_rates": rates})
    with pytest.raises(CheckpointError, match="obj_parametrization"):
        pypty.run({**params, "obj_parametrization": "complex"})
    with pytest.raises(CheckpointError, match="optimizer is 'sgd'"):
        pypty.run({**params, "optimizer": "sgd"})
    assert "optimizer is 'sgd'" in str(pypty.check({**params, "optimizer": "sgd"})) and pypty.check(params)


OWN: dict[str, dict[str, Any]] = {
    "adam": {"lr_scheduler": {"name": "step", "step_size": 1, "gamma": 0.7}},
    "radam, by batch": {
        "optimizer": "radam",
        "lr_scheduler": {"name": "exponential", "gamma": 0.9, "step_unit": "batch"},
    },
    "plateau": {"lr_scheduler": {"name": "plateau", "patience": 0, "threshold": 0.5}},
    "lazy positions": {"update_probe_pos": True, "obj_parametrization": "complex"},
}


@pytest.mark.parametrize("case", OWN)
def test_our_own_run_goes_on_from_its_model_file(case: str, tmp_path: Path) -> None:
    given = {"shuffle_batches": False, **OWN[case]}
    whole = pypty.run(first_order(**given, epoch_max=4))
    saved = {"save_iters": 2, "save_result": ["model", "optim_state", "scheduler_state"], "selected_figs": []}
    pypty.run(first_order(**given, epoch_max=2, output_folder=str(tmp_path), **saved))
    file = tmp_path / "model_iter0002.h5"
    states = {"load_optimizer_state": str(file)}
    if "lr_scheduler" in given:
        states["load_scheduler_state"] = str(file)
    params = load_result(file).params(dataset=own_patterns(), epoch_max=4, **states)
    rest = pypty.run(params)
    np.testing.assert_allclose(rest.loss, whole.loss[2:], rtol=1e-9)
    np.testing.assert_allclose(rest.obj, whole.obj, atol=1e-9)
    bare = pypty.run(load_result(file).params(dataset=own_patterns(), epoch_max=4))
    assert abs(bare.loss[-1] / whole.loss[-1] - 1) > 1e-6
    assert params["load_optimizer_state"] and not bare.params().get("load_optimizer_state")


def test_moments_go_to_the_device(device: None, tmp_path: Path) -> None:
    """With CuPy, which refuses to mix its arrays with those of NumPy."""
    given: dict[str, Any] = {"backend": "gpu", "batch_size": 25, "compute_batch": 25}
    saved = {"save_iters": 1, "save_result": ["model", "optim_state"], "selected_figs": [], "epoch_max": 1}
    pypty.run(first_order(**given, output_folder=str(tmp_path), **saved))
    file = tmp_path / "model_iter0001.h5"
    params = load_result(file).params(dataset=own_patterns(), epoch_max=2, load_optimizer_state=str(file))
    whole = pypty.run(first_order(**given, epoch_max=2))
    np.testing.assert_allclose(pypty.run(params).obj, whole.obj, atol=1e-9)


def test_our_own_files_without_states_are_refused(tmp_path: Path) -> None:
    plain = {
        "output_folder": str(tmp_path),
        "save_iters": 1,
        "selected_figs": [],
        "save_result": ["model"],
        "epoch_max": 1,
    }
    pypty.run(first_order(**plain))
    file = str(tmp_path / "model_iter0001.h5")
    with pytest.raises(CheckpointError, match="needs optim_state"):
        pypty.run(first_order(load_optimizer_state=file))
    with pytest.raises(CheckpointError, match="needs scheduler_state"):
        pypty.run(first_order(load_scheduler_state=file, lr_scheduler="cosine"))
    with pytest.raises(CheckpointError, match="lr_scheduler is not"):
        pypty.run(first_order(load_scheduler_state=file))
