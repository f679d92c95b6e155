"""Runs of first-order methods and hybrids: what a step is, exact continuation, interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import N_PATTERNS, SCAN, every_block, small_params, two_slices
from test_parameters_batches import done, first_order, records
from test_resume import assert_identical, in_parts

import pypty
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.parts import learning_rates
from pypty.engine.epochs.state import State
from pypty.engine.setup.prepare import prepare
from pypty.errors import ParameterError, ReconstructionError
from pypty.objective.objective import Objective
from pypty.output.loss_log import read_loss_log


def test_a_step_is_adams_on_the_gradient_of_its_batch() -> None:
    """The first step of Adam is the learning rate times the sign of every number's gradient."""
    setup = prepare(
        small_params(optimizer="adam", learning_rates={"obj": 0.02, "probe_abs": 0.03}, batch_size=25)
    )
    run = Reconstruction(setup, State(variables=setup.variables(), epoch=0))
    start = run.state.variables
    problem = run.problem(setup.settings.first())
    found = problem.objective.evaluate(start, ("obj", "probe"), np.arange(N_PATTERNS))
    next(run.epochs())
    setup.close()
    for name, rate in (("obj", 0.02), ("probe", 0.03)):
        gradient = found.gradients[name]
        signs = np.sign(gradient.real) + 1j * np.sign(gradient.imag)
        strong = (abs(gradient.real) > 1e-3) & (abs(gradient.imag) > 1e-3)
        step = run.state.variables.block(name) - start.block(name)
        limited = problem.form.limits.limit(name, np.where(abs(gradient) > 0, -rate * signs, 0))
        if name == "obj":  # dark pixels have gradients of rounding, whose sign is not known
            assert strong.any()
            continue
        np.testing.assert_allclose(step[strong], limited[strong], atol=2e-3)


def test_the_probes_rate_is_relative_to_its_amplitude() -> None:
    now = prepare(first_order()).settings.first()
    assert learning_rates(now, 0, 4.0)["probe"] == pytest.approx(0.04)
    assert learning_rates(now, 0, 4.0)["tilts"] == pytest.approx(1e-4)


CASES: dict[str, dict[str, Any]] = {
    "adam": {},
    "complex object": {"obj_parametrization": "complex"},
    "phase": {"phase_only_obj": True},
    "sgd with momentum": {
        "optimizer": "momentum",
        "learning_rates": {"objp": 1e-6, "obja": 1e-6, "probe": 1e-7},
    },
    "lazy positions": {"update_probe_pos": True},
    "dense positions": {"update_probe_pos": True, "lazy_moments": False},
    "plateau": {"lr_scheduler": {"name": "plateau", "patience": 0, "threshold": 0.3}},
    "one cycle by batch": {"lr_scheduler": {"name": "one_cycle", "step_unit": "batch", "total_steps": 35}},
    "monitor, held out": {"convergence_monitor": {"every": 2}, "validation_fraction": 0.2},
    "hybrid": {"optimizer": "lambda x: 'adam' if x < 5 else 'lbfgs'"},
    "there and back": {"optimizer": "lambda x: 'lbfgs' if 2 <= x < 4 else 'radam'"},
    "preconditioned": {"optimizer": "preconditioned", "group_mode": "hilbert"},
    "accumulated": {"grad_accumulation": 2, "group_mode": "compact"},
}


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_is_the_run(case: str, tmp_path: Path) -> None:
    params = first_order(**{"epoch_max": 7, **CASES[case]})
    whole = pypty.run(params)
    assert_identical(in_parts(params, tmp_path, 3, 6, 7), whole)


def test_an_interrupted_epoch_leaves_no_trace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ctrl-C in the middle of an epoch: variables and moments are those after the last whole one."""
    params = first_order(epoch_max=6)
    whole = pypty.run(params)
    original, calls = Objective.evaluate, iter(range(10**6))

    def interrupted(self: Objective, *given: Any, **named: Any) -> Any:
        if next(calls) == 17:
            raise KeyboardInterrupt
        return original(self, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "evaluate", interrupted)
        stopped = pypty.run({**params, "output_folder": str(tmp_path)})
    assert "interrupted after 3 epochs" in stopped.stop_reason
    resumed = pypty.run({**params, "output_folder": str(tmp_path), "resume": True})
    assert_identical(resumed, whole)


def test_every_block_moves() -> None:
    """Every unknown has a learning rate, and its norms are recorded."""
    blocks = every_block(optimizer="adam", epoch_max=2, batch_size=5)
    setup = prepare(blocks)
    run = Reconstruction(setup, State(variables=setup.variables(), epoch=0))
    table = list(run.epochs())
    setup.close()
    assert set(table[0].blocks) == set(run.state.variables.present)
    assert set(table[0].update_norms) == set(table[0].blocks)
    assert all(value > 0 for value in table[0].update_norms.values())
    assert all(value > 0 for value in table[0].gradient_norms.values())
    assert table[-1].loss < table[0].loss


def test_means_of_tilts_and_distances_are_recorded() -> None:
    changes = {"update_slice_distances": True, "update_tilts": True, "optimizer": "adam", "batch_size": 5}
    setup = prepare(two_slices(**changes))
    table = list(Reconstruction(setup, State(variables=setup.variables(), epoch=0)).epochs())
    setup.close()
    assert table[-1].mean_slice_distance_A != 10.0 and abs(table[-1].mean_slice_distance_A - 10) < 1
    assert table[-1].mean_tilt_mrad != (0.0, 0.0)


def test_regularisers_count_in_every_batch_by_its_share() -> None:
    """Their sum over the batches of an epoch is that of the object, as it was on the way."""
    weight = {"abs_norm_weight": 3.0}
    table = records(
        **weight,
        learning_rates={"objp": 1e-9, "obja": 1e-9, "probe": 1e-9},
        obj=1.1 * np.ones((28, 28, 1, 1)),
    )
    one = pypty.evaluate(small_params(**weight, obj=1.1 * np.ones((28, 28, 1, 1))))
    assert table[0].terms["abs_norm_weight"] == pytest.approx(one.regularizers["abs_norm_weight"], rel=1e-3)
    assert table[0].loss == pytest.approx(one.loss, rel=1e-3)


def test_nothing_with_a_rate_is_told() -> None:
    off = {"lr": 0}
    table = records(learning_rates={"obja": off, "objp": off, "probe": off})
    assert "nothing is refined" in table[0].warnings[0]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_diverging_run_says_what_to_do() -> None:
    with pytest.raises(ReconstructionError, match="lower learning_rates"):
        done(optimizer="sgd", learning_rates={"objp": 1e30, "obja": 1e30, "probe": 1e30}, epoch_max=20)


def test_positions_of_held_out_patterns_stay() -> None:
    run = done(update_probe_pos=True, validation_fraction=0.2, optimizer="sgd",
               learning_rates={"positions": 1e-6, "objp": 1e-6, "obja": 1e-6, "probe": 1e-7})  # fmt: skip
    moved = (run.state.variables.positions != run.setup.scan.positions).any(axis=1)
    used = np.sort(np.concatenate(run.batches))
    assert np.array_equal(np.flatnonzero(moved), used)


def test_without_a_raster_there_is_no_part_of_it() -> None:
    with pytest.raises(ParameterError, match="scan_size is not given"):
        pypty.run(small_params(indices_mode="center"))


def test_all_patterns_held_out_or_left_out() -> None:
    with pytest.raises(ParameterError, match="no pattern is left"):
        pypty.run(small_params(indices_mode="center", indices_shape=[1, 1], scan_size=SCAN, sequence=[0]))


def test_the_warm_up_belongs_to_lbfgs() -> None:
    """auto warms up L-BFGS alone; a number of epochs is what was asked for, whatever follows."""
    assert {r.optimizer for r in records(warmup_epochs="auto")} == {"adam"}
    names = [r.optimizer for r in records(warmup_epochs=2)]
    assert names == ["preconditioned"] * 2 + ["adam"] * 2
    hybrid = records(optimizer="lambda x: 'preconditioned' if x < 2 else 'lbfgs'", warmup_epochs="auto")
    assert [r.optimizer for r in hybrid] == ["preconditioned"] * 2 + ["lbfgs"] * 2


def test_the_log_says_how_an_epoch_moved_and_what_held_out_patterns_say(tmp_path: Path) -> None:
    params = first_order(
        optimizer="lambda x: 'adam' if x < 2 else 'lbfgs'",
        validation_fraction=0.2,
        output_folder=str(tmp_path),
    )
    result = pypty.run(params)
    rows = read_loss_log(tmp_path / "loss.csv")
    assert [row["optimizer"] for row in rows] == ["adam", "adam", "lbfgs", "lbfgs"]
    assert [float(row["validation loss"]) for row in rows] == result.validation.tolist()


ON_A_DEVICE: dict[str, dict[str, Any]] = {
    "everything": {},
    "hybrid": {"optimizer": "lambda x: 'nadam' if x < 2 else 'lbfgs'", "obj_parametrization": "complex"},
    "preconditioned": {"optimizer": "preconditioned"},
    "phase": {
        "phase_only_obj": True,
        "optimizer": "rmsprop",
        "constraints": {"objp_postiv": True, "obj_rblur": True},
    },
}


@pytest.mark.parametrize("case", ON_A_DEVICE)
def test_on_a_device(case: str, device: None, tmp_path: Path) -> None:
    """The same numbers, where arrays of the device and of the host must not meet; resumed from its files."""
    params = every_block(
        **{
            "optimizer": "adam",
            "batch_size": 8,
            "epoch_max": 4,
            "obj_parametrization": "amplitude_phase",
            "convergence_monitor": {"every": 2},
            "validation_fraction": 0.2,
            "scan_size": SCAN,
            "constraints": {"ortho_pmode": True, "obja_thresh": {"relax": 0.5}, "pos_recenter": True},
            **ON_A_DEVICE[case],
        }
    )
    on_cpu = pypty.run(params)
    on_gpu = in_parts({**params, "backend": "gpu"}, tmp_path, 2, 4)
    assert on_gpu.loss == pytest.approx(on_cpu.loss, rel=1e-8)
    np.testing.assert_allclose(on_gpu.obj, on_cpu.obj, atol=1e-7)
    np.testing.assert_allclose(on_gpu.positions, on_cpu.positions, atol=1e-7)
