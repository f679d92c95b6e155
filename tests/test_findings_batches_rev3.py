"""Findings of a review of parameter files of PtyRAD, and of runs of both programs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import every_block
from test_parameters_batches import done, first_order, records
from test_ptyrad_params import translated

import pypty
from pypty.engine.setup.prepare import prepare
from pypty.importers.ptyrad import scan as scans
from pypty.tune.names import with_values


def test_the_monitor_compares_with_the_start() -> None:
    """The first snapshot is that before the first epoch, as PtyRAD's: with every = 1 each epoch has its metrics."""
    table = records(convergence_monitor={"every": 1}, epoch_max=2)
    assert all(len(record.convergence) == 6 for record in table)
    once = records(convergence_monitor={"every": 2}, epoch_max=2)
    assert once[1].convergence["probe"] > 0.5 * (
        table[0].convergence["probe"] + table[1].convergence["probe"]
    )
    moved = done(convergence_monitor={"every": 2}, epoch_max=2, update_probe_pos=True)
    now, start = moved.state.variables.positions, moved.setup.variables().positions
    wanted = np.sqrt((((now - start) * moved.setup.grid.pixel_size_A) ** 2).sum(axis=1).mean())
    assert moved.state.records[1].convergence["probe_pos_shifts"] == pytest.approx(wanted, rel=1e-5)


def test_the_monitor_outlives_windows_that_are_placed_anew() -> None:
    """It stopped the run: the area that it looks at had other sides than its snapshot."""
    result = pypty.run(
        first_order(
            convergence_monitor={"every": 1},
            epoch_max=4,
            update_probe_pos=True,
            learning_rates={"positions": 1.5},
            dynamically_resize_yx_object=1.0,
        )
    )
    assert len(result.epochs) == 4 and result.obj.shape[0] > 24


def test_the_monitor_takes_the_short_way_around_the_circle() -> None:
    from pypty.engine.epochs.convergence import ConvergenceMonitor

    area = (slice(0, 4), slice(0, 4))
    watch = ConvergenceMonitor(area, (1.0, 1.0), ("objp",))
    phase = np.linspace(-3.1, 3.1, 16).reshape(1, 1, 4, 4)
    watch.observe(phase=phase)
    found = watch.observe(phase=np.angle(np.exp(1j * (phase + 0.1))))
    assert found["objp_bg"] == pytest.approx(0.1) and found["objp_fg"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("optimizer", "options", "rate"),
    [
        ("adamw", {"weight_decay": 5.0}, 1e-2),
        ("asgd", {"lambd": 5.0}, 1e-2),
        ("adafactor", {}, 0.1),
    ],
)
def test_positions_are_not_drawn_to_the_corner(
    optimizer: str, options: dict[str, float], rate: float
) -> None:
    """Weight decay and steps that go with the size of a number act on what a position is off its whole pixel."""
    run = done(
        optimizer=optimizer,
        optimizer_options=options,
        learning_rates={"positions": rate, "obja": 0.0, "objp": 0.0, "probe": 0.0},
        update_probe_pos=True,
        epoch_max=3,
    )
    moved = run.state.variables.positions - run.setup.variables().positions
    assert 0 < abs(moved).max() < 0.2
    assert abs(moved.mean(axis=0)).max() < 0.05


@pytest.mark.parametrize("optimizer", ["sgd", "radam", "adadelta", "adam"])
def test_a_tilts_rate_is_in_mrad_for_every_method(optimizer: str) -> None:
    """The step of a method on the same problem in mrad: lr x gradient for sgd, and about lr for adam."""
    params: dict[str, Any] = {
        **every_block(),
        "optimizer": optimizer,
        "batch_size": 1000,
        "epoch_max": 1,
        "shuffle_batches": False,
        "update_tilts": True,
        "learning_rates": {"tilts": 0.01},
        "lazy_moments": False,
    }
    from pypty.engine.epochs.loop import Reconstruction
    from pypty.engine.epochs.state import State
    from pypty.engine.setup.prepare import prepare
    from pypty.optimize.first_order import FirstOrder

    setup = prepare(params)
    run = Reconstruction(setup, State(variables=setup.variables(), epoch=0))
    start = run.state.variables.tilts.copy()
    problem = run.problem(setup.settings.first())
    slope = problem.objective.evaluate(run.state.variables, ("tilts",), problem.indices, problem.weight)
    next(run.epochs())
    end = run.state.variables.tilts
    setup.close()
    in_mrad = FirstOrder(optimizer, {}).step(
        {"tilts": 1e3 * start}, {"tilts": 1e-3 * slope.gradients["tilts"]}, {"tilts": 0.01}
    )["tilts"]
    np.testing.assert_allclose(1e3 * (end - start), in_mrad - 1e3 * start, rtol=1e-3, atol=1e-9)


def test_noise_on_positions_counts_for_the_canvas() -> None:
    found = translated(init_params={"pos_scan_rand_std": 3.0}).params
    still = translated(init_params={"pos_scan_rand_std": None}).params
    window = found["probe"].shape[:2]
    sides = scans.canvas_of(found["positions"], window)
    assert found["obj"].shape[:2] == tuple(sides)
    assert (sides > still["obj"].shape[:2]).all()


@pytest.mark.parametrize("tuned", ["conv_angle", "dx"])
def test_a_searched_aperture_is_that_of_a_file_with_this_value(tuned: str) -> None:
    entry = {"state": True, "suggest": "float", "kwargs": {"low": 20, "high": 30}}
    common = {
        "probe_aberrations": {"C10": 60.0, "C12": 10.0},
        "probe_z_shift": 20.0,
        "pos_scan_rand_std": 0,
        "meas_calibration": {"mode": "dx", "value": 0.3},
    }
    searched = translated(
        hypertune_params={"if_hypertune": True, "tune_params": {tuned: entry}}, init_params=common
    ).params
    pixel = searched["pixel_size_x_A"]
    value = 22.0 if tuned == "conv_angle" else 1.1 * pixel
    direct = (
        {"probe_conv_angle": 22.0}
        if tuned == "conv_angle"
        else {"meas_calibration": {"mode": "dx", "value": value}}
    )
    wanted = translated(init_params={**common, **direct}).params
    starts = []
    for params in (with_values(searched, {tuned: value}), wanted):
        own = {key: one for key, one in params.items() if key != "tune"}
        setup = prepare({**own, "output_folder": ""})
        starts.append(setup.variables().probe)
        setup.close()
    power = [(np.abs(one) ** 2).sum(axis=(1, 2)) for one in starts]
    np.testing.assert_allclose(power[0], power[1], rtol=1e-5)
    first, second = (one[0] / np.linalg.norm(one[0]) for one in starts)
    assert abs(np.vdot(first, second)) > 0.9999


def test_the_ratio_is_not_divided_by_the_number_of_patterns() -> None:
    from pypty.tune.objectives import Objective

    run = done(
        loss_terms={"single": {}},
        loss_scale="ratio",
        epoch_max=1,
        learning_rates={"obja": 0.0, "probe": 1e-9},
    )
    judged = Objective("loss", run).at_the_end()
    assert judged == pytest.approx(run.state.records[0].loss, rel=0.2)


def test_cropped_images_keep_their_size_as_positions_move(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    pypty.run(
        first_order(
            output_folder=str(tmp_path),
            save_iters=1,
            save_result=["objp"],
            selected_figs=[],
            result_modes={"bit": ["raw"]},
            epoch_max=3,
            update_probe_pos=True,
            learning_rates={"positions": 0.1},
        )
    )
    sizes = {tifffile.imread(path).shape for path in tmp_path.glob("objp*_crop_iter*.tif")}
    corners = np.round(first_order()["positions"])
    assert sizes == {tuple(int(side) + 1 for side in np.ptp(corners, axis=0))}
