"""Several ranks on a GPU: the same numbers as one, from data on the device, streamed data, and graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from problems import counts, every_block, small_params, two_slices
from threaded_ranks import reconstruction_on, run_on

from pypty.backend.array import to_host

ON_DEVICE: dict[str, dict[str, Any]] = {
    "split kernels": two_slices(default_dtype="single", update_probe=True, update_probe_pos=True),
    "graphs, whole numbers": small_params(
        dataset=counts("uint8"), default_dtype="single", compute_batch=4, update_probe=True
    ),
    "fused kernels": two_slices(update_probe=True, executor="fused"),
    "every unknown": every_block(),
    "read when needed": small_params(
        default_dtype="single", load_one_by_one=True, preload_to_cpu=False, update_probe=True, compute_batch=4
    ),
    "weights of each pattern": small_params(
        detector_mask=np.random.default_rng(2).uniform(size=(25, 16, 16)) < 0.9, default_dtype="single"
    ),
}


@pytest.mark.parametrize("name", ON_DEVICE)
def test_gradients_are_those_of_one_rank(device: Any, name: str) -> None:
    found = []
    for ranks in (1, 3):
        with reconstruction_on(ranks, {**ON_DEVICE[name], "backend": "gpu"}) as run:
            problem = run.problem(run.settings.first())
            found.append(problem.objective.evaluate(problem.variables, problem.blocks, problem.indices))
    one, several = found
    single = ON_DEVICE[name]["default_dtype"] == "single"
    assert several.loss == pytest.approx(one.loss, rel=1e-5 if single else 1e-12)
    for block, gradient in one.gradients.items():
        scale = float(np.abs(to_host(gradient)).max())
        limit = (1e-4 if single else 1e-11) * scale
        np.testing.assert_allclose(to_host(several.gradients[block]), to_host(gradient), rtol=0, atol=limit)


def test_a_run_takes_the_same_path(device: Any) -> None:
    params = two_slices(backend="gpu", epoch_max=3, update_probe=True, deterministic=True)
    one, several, again = run_on(1, params), run_on(2, params), run_on(2, params)
    np.testing.assert_allclose(several.loss, one.loss, rtol=1e-9)
    np.testing.assert_array_equal(several.loss, again.loss)
