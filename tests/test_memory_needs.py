"""The memory that the plan counts for arrays of the object is what a run really has, with every method, edit and
penalty: no less, and at most a quarter more."""

from __future__ import annotations

import contextlib
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import scan_positions, small_params

import pypty
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.state import State
from pypty.engine.setup.memory_items import HISTORY
from pypty.engine.setup.memory_needs import Needs, held_pairs
from pypty.engine.setup.memory_plan import MemoryPlan
from pypty.engine.setup.prepare import prepare

RATES = {"obj": 1e-4, "obja": 1e-4, "objp": 1e-4}
ADAM: dict[str, Any] = {"optimizer": "adam", "learning_rates": RATES, "batch_size": 12, "hist_length": ...}


def large(step: float = 36.0, **changes: Any) -> dict[str, Any]:
    """25 small patterns on an object of 0.8 MB that is larger than everything else."""
    given = {"positions": scan_positions(step), "num_slices": 4, "slice_distances": [5.0], "hist_length": 2}
    given |= {"default_dtype": "single", "compute_batch": 5, "epoch_max": 4, "verdict": False}
    return small_params(**{**given, **changes})


def measured(params: dict[str, Any]) -> tuple[int, MemoryPlan]:
    """Bytes of all arrays at the peak of a run, and its plan."""
    tracemalloc.start()
    setup = prepare(params)
    for _ in Reconstruction(setup, State(variables=setup.variables(), epoch=0)).epochs():
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    setup.close()
    return peak, setup.plan


LAST = "lambda epoch: epoch == 3"
CASES: dict[str, dict[str, Any]] = {
    "lbfgs": {},
    "lbfgs, long history": {"hist_length": 10},
    "lbfgs, no history": {"hist_length": 0},
    "lbfgs, many trials": {"update_step_bfgs": 1e-3},
    "lbfgs, double": {"default_dtype": "double"},
    "lbfgs, two threads": {"n_threads": 2},
    "lbfgs, one slice": {"num_slices": 1, "slice_distances": ..., "positions": scan_positions(70.0)},
    "phases": {"phase_only_obj": True},
    "amplitudes and phases": {"obj_parametrization": "amplitude_phase"},
    "warm-up": {"optimizer": "preconditioned", "hist_length": ...},
    "adam": ADAM,
    "adam, accumulated": {**ADAM, "grad_accumulation": 2},
    "adam, phases": {**ADAM, "phase_only_obj": True},
    "adam, amplitudes and phases": {**ADAM, "obj_parametrization": "amplitude_phase"},
    "adam, penalties": {**ADAM, "phase_norm_weight": 1e-3, "abs_norm_weight": 1e-3, "atv_weight": 1e-3},
    "adafactor": {**ADAM, "optimizer": "adafactor"},
    "gradient descent": {**ADAM, "optimizer": "sgd", "learning_rates": {"obj": 1e-9}, "update_probe": False},
    "penalties": {"phase_norm_weight": 1e-3, "abs_norm_weight": 1e-3, "atv_weight": 1e-3},
    "missing wedge": {"wedge_mu": 1e-6, "beta_wedge": 0.5},
    "a sparse phase": {"loss_terms": {"single": {"weight": 1.0}, "sparse": {"weight": 0.1}}},
    "filter of the phase": {"apply_gaussian_filter": LAST},
    "filters after every update": {"apply_gaussian_filter": 1.0, "apply_gaussian_filter_amplitude": 1.0},
    "charge flip": {"do_charge_flip": LAST},
    "charge flip before every update": {"do_charge_flip": True},
    "filtered steps": {"constraints": {"obj_rblur": True}},
    "constraint": {"constraints": {"kr_thresh": {"start": 3}}},
    "constraint, adam": {**ADAM, "constraints": {"obj_zblur": True}},
    "monitor": {"convergence_monitor": {"every": 1}},
}


@pytest.mark.parametrize("name", CASES)
def test_the_plan_of_a_large_object_is_what_is_measured(name: str) -> None:
    measured(large(**{**CASES[name], "positions": scan_positions(4.0)}))  # what it imports is no array
    peak, plan = measured(large(**CASES[name]))
    assert peak <= plan.total <= 1.25 * peak


def test_the_plan_of_a_large_object_on_a_gpu(device: None) -> None:
    """With the fixed buffers of graphs, and the work area of its transforms."""
    import cupy

    class Peak(cupy.cuda.MemoryHook):
        name, now, peak = "peak", 0, 0

        def malloc_postprocess(self, *, mem_size: int, **_: Any) -> None:
            self.now += mem_size
            self.peak = max(self.peak, self.now)

        def free_postprocess(self, *, mem_size: int, **_: Any) -> None:
            self.now -= mem_size

    with (
        Peak() as hook,
        contextlib.closing(prepare(large(backend="gpu", hist_length=1, epoch_max=3))) as setup,
    ):
        for _ in Reconstruction(setup, State(variables=setup.variables(), epoch=0)).epochs():
            pass
    assert hook.peak <= setup.plan.total <= 1.25 * hook.peak


WRITTEN: dict[str, dict[str, Any]] = {
    "checkpoints": {"save_checkpoints_every_epoch": 1, "save_inter_checkpoints": 1},
    "images": {"hist_length": 1, "save_iters": 3, "epoch_max": 3, "selected_figs": ()},
    "verdict": {"verdict": True, "output_folder": ""},
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_and_judged_is_planned_for(name: str, tmp_path: Path) -> None:
    """Checkpoints and the verdict need no more than a step does; results with images do."""
    params = large(**{"output_folder": str(tmp_path), "overwrite": True, **WRITTEN[name]})
    pypty.run({**params, "positions": scan_positions(4.0)})
    tracemalloc.start()
    pypty.run(params)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= pypty.plan(params, show=False).total <= 1.25 * peak


def test_pairs_that_are_held() -> None:
    """The oldest goes when the epoch is over; no more than epochs; none where every update is edited."""
    for changes, pairs in (
        ({"hist_length": 3, "epoch_max": 9}, 4),
        ({"hist_length": 3, "epoch_max": 2}, 2),
        ({"hist_length": 0, "epoch_max": 9}, 2),
        ({"hist_length": np.inf, "epoch_max": 7}, 7),
        ({"hist_length": 3, "epoch_max": 9, "apply_gaussian_filter": (1.0, 1.0)}, 1),
        ({"hist_length": 3, "epoch_max": 9, "apply_gaussian_filter": (0.0, 0.0)}, 4),
        ({"hist_length": 3, "epoch_max": 9, "do_charge_flip": True}, 2),
        ({"optimizer": "adam"}, 0),
    ):
        setup = prepare(small_params(**changes), read_data=False)
        assert held_pairs(setup.settings) == pairs
        assert (setup.plan.items[HISTORY] == 0) == (pairs == 0)


def test_a_plan_without_parameters_has_the_pair_that_is_new() -> None:
    assert Needs.of_lbfgs(10).pairs == 11 and Needs().pairs == 0
