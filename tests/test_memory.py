"""Memory is planned, and running out of it halves the batch and goes on."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from problems import small_params

import pypty
from pypty.backend import memory as free_memory
from pypty.engine import memory
from pypty.engine.prepare import prepare
from pypty.errors import ParameterError, ResourceError
from pypty.model.forward import Model


def test_plan_prints_a_table_and_allocates_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    params = small_params()
    tracemalloc.start()
    plan = pypty.plan(params)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    shown = capsys.readouterr().out
    for word in ("object", "probe", "L-BFGS history", "FFT workspace", "total", "free now", "batch"):
        assert word in shown
    assert peak < 4 * 2**20
    assert plan.total == sum(plan.items.values())


def test_plan_counts_what_the_wave_formula_says() -> None:
    plan = pypty.plan(small_params(compute_batch=4, n_threads=1, hist_length=3), show=False)
    sizes = plan.sizes
    pixels = sizes.window[0] * sizes.window[1]
    per_pattern = pixels * ((1 + 1 + 2 + 1 + 4) * 16 + 6 * 8)  # one slice, one mode, double
    assert plan.items["waves and FFT workspace of the batches"] == 4 * per_pattern
    obj = 16 * sizes.object_shape[0] * sizes.object_shape[1]
    assert plan.items["L-BFGS history"] == 2 * 3 * (obj + 16 * pixels)


def test_estimate_covers_the_measured_peak() -> None:
    """Waves of a large batch, as NumPy really allocates them, stay below the estimate and above half of it."""
    params = small_params(compute_batch=25, n_threads=1, num_slices=4, slice_distances=[5.0])
    setup = prepare(params)
    variables, objective = setup.variables(), setup.objective(setup.feed(), subpixel=True)
    objective.evaluate(variables, ("obj", "probe"), np.arange(25))
    tracemalloc.start()
    objective.evaluate(variables, ("obj", "probe"), np.arange(25))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    estimate = setup.plan.items["waves and FFT workspace of the batches"]
    assert 0.5 * estimate < peak < 1.1 * estimate


def test_batch_shrinks_with_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    for free in (1_200_000, 2**23, 2**30):
        monkeypatch.setattr(memory, "free_bytes", lambda backend, free=free: free)
        plan = pypty.plan(small_params(n_threads=2, compute_batch="auto"), show=False)
        assert plan.total <= plan.limit
        batches.append(plan.batch * plan.n_threads)
    assert batches[0] < batches[1] <= batches[2]


def test_too_large_says_so_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda backend: 100_000)
    with pytest.raises(ParameterError, match="needs at least .* may be used"):
        pypty.run(small_params())


def limited_forward(monkeypatch: pytest.MonkeyPatch, largest: int) -> list[int]:
    """Let batches above ``largest`` fail as NumPy does; returns the sizes that were tried."""
    tried: list[int] = []
    forward = Model.forward

    def limited(self, points, batch, tapes):
        tried.append(len(batch.index))
        if len(batch.index) > largest:
            raise np._core._exceptions._ArrayMemoryError((len(batch.index),), np.dtype(float))
        return forward(self, points, batch, tapes)

    monkeypatch.setattr(Model, "forward", limited)
    return tried


def test_out_of_memory_halves_the_batch_and_goes_on(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    expected = pypty.run(small_params(epoch_max=2, compute_batch=3))
    tried = limited_forward(monkeypatch, 3)
    result = pypty.run(small_params(epoch_max=2, compute_batch=24))
    assert tried[:4] == [24, 12, 6, 3] and max(tried[4:]) == 3
    assert "batches of 3" in caplog.text
    np.testing.assert_array_equal(result.obj, expected.obj)


def test_out_of_memory_with_one_pattern_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    limited_forward(monkeypatch, 0)
    with pytest.raises(ResourceError, match="one pattern at a time"):
        pypty.run(small_params(epoch_max=1))


def test_free_memory_respects_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    from pypty.backend import select

    monkeypatch.setattr(free_memory, "_cgroup_limit", lambda: 12345)
    assert free_memory.free_bytes(select("cpu")) == 12345
    monkeypatch.setattr(free_memory, "_cgroup_limit", lambda: None)
    assert free_memory.free_bytes(select("cpu")) > 12345
