"""Parameters of mini-batches, first-order optimisers, held-out patterns and automatic stops: each has its effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from first_order_problems import done, first_order, records
from parameter_registry import EFFECTS, Desk, assert_refused, effect, names_in
from problems import N_PATTERNS, SCAN, patterns, small_params

import pypty
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.state import State
from pypty.engine.setup.prepare import prepare


def obj(**changes: Any) -> np.ndarray:
    return pypty.run(first_order(**changes)).obj


@effect("optimizer", bad="newton")
def _(desk: Desk) -> None:
    """Each goes its own way, and every one lowers the loss."""
    found = {}
    for name in ("lbfgs", "preconditioned", "adam", "sgd"):
        rates = {"obja": 1e-6, "objp": 1e-6, "probe": 1e-7} if name == "sgd" else {}
        result = pypty.run(first_order(optimizer=name, learning_rates=rates))
        assert result.loss[-1] < result.loss[0]
        found[name] = result.loss[-1]
    assert len(set(found.values())) == len(found)
    hybrid = records(optimizer="lambda x: 'adam' if x < 2 else 'lbfgs'")
    assert [record.optimizer for record in hybrid] == ["adam", "adam", "lbfgs", "lbfgs"]


@effect("optimizer_options", bad={"betas": 0.9})
def _(desk: Desk) -> None:
    assert not np.array_equal(obj(optimizer_options={"betas": [0.5, 0.9]}), obj())


@effect("learning_rates", bad={"objp": {"lr": -1}})
def _(desk: Desk) -> None:
    """Units, and first and last epochs, of each."""
    fixed = obj(learning_rates={"objp": 0})
    assert np.allclose(np.angle(fixed), 0, atol=1e-6) and not np.allclose(abs(fixed), 1, atol=1e-3)
    late = records(learning_rates={"probe": {"lr": 0.1, "start": 1, "end": 3}})
    assert [record.learning_rates.get("probe") for record in late] == [None, 0.1, 0.1, None]
    assert [("probe" in record.blocks) for record in late] == [False, True, True, False]
    own = records(learning_rates={"probe_abs": 0.5})
    assert own[0].learning_rates["probe_abs"] == 0.5 and "probe" not in own[0].learning_rates


@effect("lr_scheduler", bad={"name": "sine"})
def _(desk: Desk) -> None:
    table = records(lr_scheduler={"name": "step", "step_size": 2, "gamma": 0.5})
    assert [record.learning_rates["objp"] for record in table] == pytest.approx([0.01, 0.01, 0.005, 0.005])
    every = records(lr_scheduler={"name": "exponential", "gamma": 0.9, "step_unit": "batch"})
    assert [record.learning_rates["objp"] for record in every] == pytest.approx(
        [0.01 * 0.9 ** (5 * epoch) for epoch in range(4)]
    )


@effect("grad_accumulation", bad=0)
def _(desk: Desk) -> None:
    """The mean gradient of all batches of an epoch: one step, as of one batch of all patterns."""
    run = done(grad_accumulation=5, epoch_max=1, shuffle_batches=False)
    assert run.state.progress.steps == 1 and run.state.records[0].batches == 5
    whole = done(batch_size=N_PATTERNS, epoch_max=1)
    np.testing.assert_allclose(run.state.variables.obj, whole.state.variables.obj, rtol=0, atol=1e-6)


@effect("lazy_moments", bad="rows")
def _(desk: Desk) -> None:
    """PyTorch's moments go on moving positions whose pattern is not in the batch."""
    positions = {"update_probe_pos": True, "learning_rates": {"positions": 0.05}}
    assert not np.array_equal(
        pypty.run(first_order(**positions)).positions,
        pypty.run(first_order(**positions, lazy_moments=False)).positions,
    )


@effect("batch_size", bad=0)
def _(desk: Desk) -> None:
    assert records()[0].batches == 5
    assert records(batch_size=10)[0].batches == 2  # none has fewer than 10
    assert records(batch_size=1000)[0].batches == 1
    assert records(batch_size="lambda x: 5 if x < 2 else 25")[3].batches == 1
    assert 1 < records(batch_size="auto")[0].batches < N_PATTERNS
    sizes = [len(batch) for batch in done(optimizer="preconditioned", batch_size=8, epoch_max=1).batches]
    assert sizes == [9, 8, 8]


@effect("group_mode", bad="rows")
def _(desk: Desk) -> None:
    """Neighbours, or patterns far from each other; every pattern once."""
    spreads = {}
    for mode in ("random", "sparse", "compact", "hilbert", "fps"):
        batches = done(group_mode=mode, epoch_max=1).batches
        assert sorted(np.concatenate(batches).tolist()) == list(range(N_PATTERNS))
        points = [np.stack(np.unravel_index(batch, SCAN), axis=1) for batch in batches]
        spreads[mode] = np.mean([point.std(axis=0).mean() for point in points])
    assert spreads["compact"] < min(spreads["sparse"], spreads["fps"], spreads["hilbert"])


@effect("shuffle_batches", bad="yes")
def _(desk: Desk) -> None:
    def orders(**changes: Any) -> list[list[list[int]]]:
        setup = prepare(first_order(**changes))
        run = Reconstruction(setup, State(variables=setup.variables(), epoch=0))
        found = [[batch.tolist() for batch in run.batches] for _ in run.epochs()]
        setup.close()
        return found

    for mode in ("random", "hilbert"):
        fixed, new = (orders(group_mode=mode, shuffle_batches=flag, epoch_max=3) for flag in (False, True))
        assert fixed[0] == fixed[1] == fixed[2]
        assert new[0] != new[1] != new[2]
        assert new == orders(group_mode=mode, epoch_max=3), "by the seed"
        assert new != orders(group_mode=mode, epoch_max=3, seed=1)
    assert sorted(map(tuple, new[0])) == sorted(map(tuple, fixed[0])), "the same groups in another order"


@effect("indices_mode", bad="sub", beside={"indices_shape": [2, 2]})
def _(desk: Desk) -> None:
    """Only patterns that are used matter."""
    assert np.concatenate(done(indices_mode="center", scan_size=SCAN, epoch_max=1).batches).max() < N_PATTERNS
    other = patterns()
    rows, columns = np.unravel_index(np.arange(N_PATTERNS), SCAN)
    centre = (abs(rows - 1.5) < 1) & (abs(columns - 1.5) < 1)
    used = np.sort(np.concatenate(done(indices_mode="center", scan_size=SCAN, epoch_max=1).batches))
    assert np.array_equal(used, np.flatnonzero(centre))
    other[~centre] *= 2
    same = [
        pypty.run(
            small_params(dataset=data, indices_mode="center", scan_size=SCAN, skip_preprocessing=True)
        ).loss
        for data in (patterns(), other)
    ]
    assert np.array_equal(*same)


@effect("indices_shape", bad=[1, 2, 3])
def _(desk: Desk) -> None:
    used = np.concatenate(
        done(indices_mode="sub", indices_shape=[3, 2], scan_size=SCAN, batch_size=2, epoch_max=1).batches
    )
    assert sorted(used.tolist()) == [0, 4, 10, 14, 20, 24]


@effect("validation_fraction", bad=0.95)
def _(desk: Desk) -> None:
    """Held-out patterns change their own loss, and nothing else."""
    run = done(validation_fraction=0.2)
    used = np.concatenate(run.batches)
    held_out = np.setdiff1d(np.arange(N_PATTERNS), used)
    assert len(held_out) == 5
    values = [record.validation for record in run.state.records]
    assert all(value is not None and value > 0 for value in values)
    other = patterns()
    other[held_out] = other[held_out][:, ::-1]
    for optimizer in ("adam", "lbfgs"):
        same = {"validation_fraction": 0.2, "optimizer": optimizer, "skip_preprocessing": True}
        one, two = (done(dataset=data, **same) for data in (patterns(), other))
        assert np.array_equal(one.state.variables.obj, two.state.variables.obj)
        pairs = zip(one.state.records, two.state.records, strict=True)
        assert all(a.loss == b.loss and a.validation != b.validation for a, b in pairs)
    assert records()[0].validation is None


@effect("free_pixels", bad=0.6)
def _(desk: Desk) -> None:
    """Which pixels they are, and that nothing depends on them: tests/test_free_pixels.py."""
    assert all(record.free_deviance is None for record in records())
    loose, tight = (records(free_pixels=fraction) for fraction in (0.05, 0.3))
    assert all(record.free_deviance is not None for record in loose)
    assert all(a.sse > b.sse for a, b in zip(loose[:1], tight[:1], strict=True))


@effect("stop_patience", bad=-1)
def _(desk: Desk) -> None:
    """A run whose steps are too long does not improve."""
    wild = {"learning_rates": {"objp": 3.0, "obja": 3.0}, "epoch_max": 50}
    result = pypty.run(first_order(**wild, stop_patience=3))
    assert len(result.epochs) < 50
    assert "the loss has not improved by 0.01 % of its fall so far for 3 epochs" in result.stop_reason
    watched = pypty.run(first_order(**wild, stop_patience=3, validation_fraction=0.2))
    assert "the loss of the held-out patterns has not improved" in watched.stop_reason


@effect("stop_tolerance", bad=-1.0)
def _(desk: Desk) -> None:
    strict = pypty.run(first_order(epoch_max=20, stop_patience=2, stop_tolerance=0.9))
    assert len(strict.epochs) < 20 and "by 90 %" in strict.stop_reason
    assert len(pypty.run(first_order(epoch_max=20, stop_patience=2, stop_tolerance=0.0)).epochs) > len(
        strict.epochs
    )


@effect("convergence_monitor", bad={"tensors": ["obj"]})
def _(desk: Desk) -> None:
    table = records(convergence_monitor={"every": 2}, epoch_max=6)
    known = [set(record.convergence) for record in table]
    full = {"obja_bg", "obja_fg", "objp_bg", "objp_fg", "probe", "probe_pos_shifts"}
    assert known[0::2] == [set()] * 3 and known[3] == known[5] == full
    few = records(convergence_monitor={"every": 1, "tensors": ["probe"]})
    assert set(few[1].convergence) == {"probe"} and few[1].convergence["probe"] > 0
    assert records()[3].convergence == {}


@pytest.mark.parametrize("name", names_in(__name__))
def test_it_has_its_effect(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    EFFECTS[name].test(Desk(tmp_path, monkeypatch, capfd))


@pytest.mark.parametrize("name", names_in(__name__))
def test_a_bad_value_is_refused_by_name(name: str) -> None:
    assert_refused(name)
