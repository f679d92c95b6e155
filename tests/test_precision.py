"""``default_dtype="auto"``: single precision, and double from the epoch in which rounding stops the progress."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from problems import aperture_probe, patterns, small_params, smooth_object
from resumed_runs import assert_identical, in_parts

import pypty
from pypty.engine.epochs import loop
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.precision import STAYS, remove_rounding, to_double
from pypty.engine.epochs.state import State
from pypty.engine.epochs.stopping import why_stop
from pypty.engine.setup import memory
from pypty.engine.setup.memory_plan import size_text
from pypty.engine.setup.precision import in_precision, may_change
from pypty.engine.setup.prepare import prepare
from pypty.errors import CheckpointError, ResourceError
from pypty.model.blocks import to_public
from pypty.output.checkpoints import RESUME_FILE
from pypty.output.loss_log import LOSS_LOG, read_loss_log

EPOCHS = 15


def automatic(**changes: Any) -> dict[str, Any]:
    return small_params(
        **{"default_dtype": "auto", "algorithm": "lsq_sqrt", "fft_library": "scipy", **changes}
    )


@lru_cache
def _solution() -> dict[str, np.ndarray]:
    """Object and probe inside their band limits, and their patterns, without noise."""
    variables = prepare(automatic(obj=smooth_object(), probe=aperture_probe(1.0))).variables()
    start = {name: to_public(name, variables.block(name)) for name in ("obj", "probe")}
    start = {name: array.astype(complex) for name, array in start.items()}
    exact = automatic(dataset=..., skip_preprocessing=True, **start)
    return {**start, "dataset": pypty.simulate(exact)}


def nearly_solved(**changes: Any) -> dict[str, Any]:
    """A start so near the solution that single precision cannot reach it: updates are rejected after ten epochs."""
    given = _solution()
    start = {**given, "obj": (1 - 1e-6) * given["obj"] + 1e-6}
    return automatic(
        **{**start, "skip_preprocessing": True, "update_probe": False, "epoch_max": EPOCHS, **changes}
    )


def poisson(**changes: Any) -> dict[str, Any]:
    """A log-likelihood, which hardly falls any more after a few epochs."""
    given = {"algorithm": "ml", "obj": smooth_object() ** 0.9, "probe": aperture_probe(1.0), "epoch_max": 12}
    return automatic(**{**given, "skip_preprocessing": True, "update_probe": False, **changes})


def reconstruction(params: dict[str, Any]) -> Reconstruction:
    setup = prepare(params)
    return Reconstruction(setup, State(variables=setup.variables(), epoch=0))


def epoch_of_change(result: pypty.Result) -> int:
    """The epoch of the only decision, which says that the run goes on in double precision."""
    (decision,) = result.decisions
    epoch, text = decision.removeprefix("epoch ").split(": ", 1)
    assert text.startswith("goes on in double precision, because single stops progress: ")
    return int(epoch)


def test_goes_on_in_double_where_updates_are_rejected() -> None:
    single, auto, double = (
        pypty.run(nearly_solved(default_dtype=kind, epoch_max=30)) for kind in ("single", "auto", "double")
    )
    assert single.stop_reason.endswith("converged to the limit of single precision")
    change = epoch_of_change(auto)
    assert "the update was rejected" in auto.decisions[0] and 5 < change < 15
    assert auto.loss[:change].tobytes() == single.loss[:change].tobytes()
    assert auto.obj.dtype == auto.probe.dtype == np.complex128
    # from the loss at which single precision stops, to where double precision leads from there
    assert auto.loss[-1] < 0.1 * single.loss[-1]
    assert double.loss[-1] < 1e-3 * single.loss[-1]
    # nothing was wasted: no epoch without a step, and no warning about a rejected update
    assert len(auto.epochs) == 30 and auto.warnings == ()


def test_goes_on_in_double_where_the_loss_falls_no_more() -> None:
    single, auto, double = (
        pypty.run(poisson(default_dtype=kind, epoch_max=40)) for kind in ("single", "auto", "double")
    )
    change = epoch_of_change(auto)
    assert f"in epoch {change - 1} the loss fell by" in auto.decisions[0]
    assert auto.obj.dtype == np.complex128 and len(auto.epochs) == 40
    fall = auto.loss[0] - auto.loss[-1]
    assert abs(auto.loss[-1] - double.loss[-1]) < 1e-7 * fall
    assert single.stop_reason.startswith("no step along steepest descent") and len(single.epochs) < 40


def test_stays_single_as_long_as_the_loss_falls() -> None:
    params = automatic(update_probe_pos=True, epoch_max=6)
    auto, single = pypty.run(params), pypty.run({**params, "default_dtype": "single"})
    assert_identical(auto, single)
    assert auto.obj.dtype == np.complex64 and auto.decisions == ()


@pytest.mark.parametrize("kind", ["single", "double"])
def test_other_values_never_change(kind: str) -> None:
    result = pypty.run(nearly_solved(default_dtype=kind))
    assert result.obj.dtype == {"single": np.complex64, "double": np.complex128}[kind]
    assert not any("double precision" in text for text in result.decisions)


def test_first_order_methods_never_change() -> None:
    """Their steps do not stop from rounding; nor does an epoch of L-BFGS after one of another method."""
    result = pypty.run(nearly_solved(optimizer="adam", epoch_max=4))
    assert result.obj.dtype == np.complex64 and result.decisions == ()
    assert pypty.plan(nearly_solved(optimizer="adam"), show=False).in_double is None


def test_no_change_where_nothing_is_refined() -> None:
    result = pypty.run(nearly_solved(update_obj=False, epoch_max=3))
    assert result.obj.dtype == np.complex64 and result.decisions == ()


def test_the_history_is_kept() -> None:
    """Pairs of L-BFGS, the snapshot and the monitor of stuck blocks; the patterns are not read again."""
    run = reconstruction(nearly_solved(convergence_monitor={"every": 3}, load_one_by_one=False))
    run.state.monitor.still = {"obj": 1}
    resident, before = run.feed._resident, run.state
    for _ in run.epochs():
        if run.setup.backend.precision == "double":
            break
        before = run.state.copied()
    state = run.state
    assert state.records[-1].decisions and state.records[-1].step > 0
    # the pairs before the epoch, and one of this epoch
    old, new = before.optimizer.pairs, state.optimizer.pairs
    assert len(old) > 5 and len(new) == len(old) + 1
    for pair, raised in zip(old, new, strict=False):
        assert raised.s["obj"].dtype == raised.y["obj"].dtype == np.complex128
        for a, b in ((pair.s, raised.s), (pair.y, raised.y)):
            np.testing.assert_allclose(b["obj"], a["obj"], atol=1e-5 * abs(a["obj"]).max())
    assert {array.dtype for array in state.snapshot.values()} == {np.dtype(float)}
    assert state.sample is not None and state.sample.gradient["obj"].dtype == np.complex128
    assert resident is not None and run.feed._resident is resident
    assert run.objective.feed is run.feed and run.objective.backend.precision == "double"


def test_moments_are_raised_and_counters_are_not() -> None:
    run = reconstruction(automatic(optimizer="adam", update_probe_pos=True))
    for _ in run.epochs():
        pass
    before = run.state.copied()
    to_double(run.state)
    assert run.state.variables.obj.dtype == np.complex128 and run.state.sample is None
    for part, moments in before.progress.moments.items():
        for name, value in moments.items():
            raised = np.asarray(run.state.progress.moments[part][name])
            assert (raised == np.asarray(value)).all()
            assert raised.dtype.kind not in "fc" or raised.dtype.itemsize == (
                8 if raised.dtype.kind == "f" else 16
            )


def test_adam_goes_on_after_the_change() -> None:
    """A method that follows takes its moments along, in double precision, for good."""
    run = reconstruction(
        nearly_solved(
            optimizer="lambda x: 'adam' if x in (1, 19, 20) else 'lbfgs'",
            learning_rates={"obj": 1e-9},
            epoch_max=21,
        )
    )
    for _ in run.epochs():
        pass
    assert [record.optimizer for record in run.state.records[-2:]] == ["adam", "adam"]
    assert run.state.variables.obj.dtype == np.complex128
    moments = run.state.progress.moments["obj"]
    assert all(
        np.asarray(value).dtype.kind not in "fc" or np.asarray(value).itemsize >= 8
        for value in moments.values()
    )


def test_rounding_outside_the_band_limit_is_removed_and_what_was_put_there_stays() -> None:
    for size, removed in ((1e-7, True), (1e-2, False)):
        run = reconstruction(nearly_solved(probe=aperture_probe(1.0), update_probe=True))
        now = run.settings.first()
        to_double(run.state)
        run.setup = in_precision(run.setup, "double")
        checkers = (
            np.indices(run.state.variables.obj.shape[-2:]).sum(axis=0) % 2 * 2 - 1
        )  # the highest frequency
        run.state.variables = run.state.variables.replace({"obj": run.state.variables.obj + size * checkers})
        problem = run.problem(now)
        remove_rounding(run.state, problem, now)
        outside = run.state.variables.obj - problem.form.limits.limit("obj", run.state.variables.obj)
        assert (abs(outside).max() < 1e-14) == removed


def test_without_memory_it_stays_single_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run, asked = reconstruction(nearly_solved()), []

    def full(*_: Any) -> int:
        asked.append(1)
        return 1000

    with monkeypatch.context() as patch:
        patch.setattr(memory, "free_bytes", full)
        for _ in run.epochs():
            pass
    single = pypty.run(nearly_solved(default_dtype="single"))
    said = [text for record in run.state.records for text in record.decisions if text.startswith(STAYS)]
    assert len(said) == 1 and len(asked) < 5
    assert "the update was rejected" in said[0] and "only 700 bytes" not in said[0]
    assert "needs at least" in said[0] and "Lower hist_length, or use fewer slices" in said[0]
    assert run.state.stop_reason == f"{single.stop_reason}; double precision does not fit the memory"
    assert run.state.variables.obj.dtype == np.complex64
    assert why_stop(run.settings, run.state, "single") == run.state.stop_reason
    assert [record.loss for record in run.state.records] == single.loss[:-1].tolist()


def test_a_resumed_run_goes_on_exactly_before_and_after_the_change(tmp_path: Path) -> None:
    params = nearly_solved(constraints={"fix_probe_int": True}, update_probe=True)
    once = pypty.run(params)
    change = epoch_of_change(once)
    assert 5 < change < EPOCHS - 1
    for stop in (change, change + 1):  # the last state in single precision, the first one in double
        assert_identical(in_parts(params, tmp_path / str(stop), stop, EPOCHS), once)


def test_the_state_says_its_precision(tmp_path: Path) -> None:
    params = nearly_solved(output_folder=str(tmp_path))
    for epochs, precision in ((5, "single"), (EPOCHS, "double")):
        pypty.run({**params, "epoch_max": epochs, "resume": "auto"})
        with h5py.File(tmp_path / RESUME_FILE) as file:
            assert file.attrs["precision"] == precision
    rows = read_loss_log(tmp_path / LOSS_LOG)
    assert sum("goes on in double precision" in " ".join(map(str, row.values())) for row in rows) == 1
    assert "goes on in double precision" in (tmp_path / "pypty.log").read_text()
    assert np.load(tmp_path / "co.npy").dtype == np.load(tmp_path / "cp.npy").dtype == np.complex128


def test_a_run_that_is_killed_in_the_epoch_of_the_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the first epoch in double precision: the epoch leaves no trace, and is repeated."""
    params, original = nearly_solved(), loop.quasi_newton_epoch
    once = pypty.run(params)

    def interrupted(state: State, *given: Any) -> Any:
        record = original(state, *given)
        if state.variables.obj.dtype == np.complex128:
            raise KeyboardInterrupt
        return record

    with monkeypatch.context() as patch:
        patch.setattr(loop, "quasi_newton_epoch", interrupted)
        stopped = pypty.run({**params, "output_folder": str(tmp_path)})
    assert stopped.stop_reason.startswith("interrupted") and stopped.obj.dtype == np.complex64
    assert len(stopped.epochs) == epoch_of_change(once) and stopped.decisions == ()
    assert stopped.loss[:-1].tobytes() == once.loss[: len(stopped.epochs)].tobytes()
    with h5py.File(tmp_path / RESUME_FILE) as file:
        assert file.attrs["precision"] == "single"
    assert_identical(pypty.run({**params, "output_folder": str(tmp_path), "resume": True}), once)


def test_a_run_of_one_precision_is_continued_by_auto(tmp_path: Path) -> None:
    """In its own precision: a run in double stays there, one in single may change."""
    for kind, later in (("double", np.complex128), ("single", np.complex128)):
        folder = tmp_path / kind
        first = pypty.run(nearly_solved(default_dtype=kind, output_folder=str(folder), epoch_max=4))
        went_on = pypty.run(nearly_solved(output_folder=str(folder), resume=True))
        assert went_on.loss[:4].tobytes() == first.loss[:4].tobytes() and went_on.obj.dtype == later
        assert bool(went_on.decisions) == (kind == "single")
    with pytest.raises(CheckpointError, match="double precision, but default_dtype is 'single'.*'auto'"):
        pypty.run(nearly_solved(default_dtype="single", output_folder=str(tmp_path / "double"), resume=True))


def test_a_state_in_double_that_no_longer_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pypty.run(nearly_solved(output_folder=str(tmp_path)))
    double = memory.fixed_items

    def larger(sizes: Any, backend: Any, *given: Any) -> dict[str, int]:
        items = double(sizes, backend, *given)
        return (
            {name: size * 10**9 for name, size in items.items()} if backend.precision == "double" else items
        )

    monkeypatch.setattr(memory, "fixed_items", larger)
    with pytest.raises(ResourceError, match="needs at least"):
        pypty.run(nearly_solved(output_folder=str(tmp_path), resume=True, epoch_max=EPOCHS + 5))
    assert pypty.plan(nearly_solved(), show=False).in_double == 0
    assert "does not fit" in str(pypty.plan(nearly_solved(), show=False))


def test_a_damaged_precision_is_refused(tmp_path: Path) -> None:
    pypty.run(nearly_solved(output_folder=str(tmp_path), epoch_max=2))
    with h5py.File(tmp_path / RESUME_FILE, "r+") as file:
        file.attrs["precision"] = "half"
    with pytest.raises(CheckpointError, match="half"):
        pypty.run(nearly_solved(output_folder=str(tmp_path), resume=True, epoch_max=4))


def test_evaluate_and_simulate_compute_in_double(tmp_path: Path) -> None:
    """They are no runs; so do parameters that only simulate."""
    for auto, double in (
        (automatic(), automatic(default_dtype="double")),
        (poisson(), poisson(default_dtype="double")),
    ):
        assert pypty.evaluate(auto).loss == pypty.evaluate(double).loss
        assert pypty.evaluate(auto).gradients["obj"].dtype == np.complex128
    exact = {**_solution(), "dataset": ..., "skip_preprocessing": True}
    assert pypty.simulate(automatic(**exact)).dtype == np.float64
    single = pypty.simulate(automatic(**exact, default_dtype="single"))
    assert single.dtype == np.float32
    path = tmp_path / "patterns.npy"
    pypty.run(automatic(**{**exact, "dataset": patterns()}, data_simulation_flag=str(path)))
    assert path.is_file()
    only = automatic(**exact, data_simulation_flag=True, output_folder=str(tmp_path / "out"))
    assert pypty.run(only).obj.dtype == np.complex128
    assert np.load(tmp_path / "out" / "simulated_patterns.npy").dtype == np.float64


def test_the_plan_says_its_precision() -> None:
    auto, single, double = (
        pypty.plan(nearly_solved(default_dtype=kind), show=False) for kind in ("auto", "single", "double")
    )
    assert auto.precision == "single" and double.precision == "double"
    assert auto.items == single.items and single.in_double is None is double.in_double
    assert auto.in_double == double.total > auto.total
    later = next(line for line in str(auto).splitlines() if "if it goes on in double precision" in line)
    assert later.endswith(size_text(double.total)) and "in single precision" in str(auto)
    assert "if it goes on" not in str(single) and "in double precision" in str(double)


def test_patterns_in_memory_need_no_room_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan for double precision counts patterns that are in memory already as free memory."""
    setup = prepare(nearly_solved(load_one_by_one=False))
    monkeypatch.setattr(memory, "free_bytes", lambda backend, sharers=1: 10**6)
    fresh, running = in_precision(setup, "double"), in_precision(setup, "double", running=True)
    assert running.plan.free - fresh.plan.free == setup.plan.sizes.data_bytes > 0
    assert setup.plan.resident and running.plan.resident
    assert may_change(setup) and not may_change(running)
    assert in_precision(running, "double") is running


def test_weights_are_prepared_anew_and_a_moved_scan_is_kept() -> None:
    """A mask, and windows that have moved before the change."""
    mask = np.ones((16, 16))
    mask[3, 4], mask[5, 5] = 0, 0.3
    run = reconstruction(automatic(detector_mask=mask, epoch_max=0))
    scan = dataclasses.replace(run.setup.scan, crop_origins=run.setup.scan.crop_origins + 1)
    run._place(dataclasses.replace(run.setup, scan=scan))
    weights = run.feed._common_weights
    assert run._exchange_precision() == ""
    assert weights.dtype == np.float32 and run.feed._common_weights.dtype == np.float64
    np.testing.assert_allclose(run.feed._common_weights, weights, rtol=1e-6)
    assert run.feed.crop_origins is run.setup.scan.crop_origins is scan.crop_origins


def test_on_a_device(device: None) -> None:
    """A GPU goes on in double precision, too, and ends where the CPU does."""
    on_cpu, on_device = (pypty.run(poisson(backend=name)) for name in ("cpu", "gpu"))
    assert epoch_of_change(on_device) == epoch_of_change(on_cpu)
    assert on_device.obj.dtype == np.complex128
    assert on_device.loss[-1] == pytest.approx(on_cpu.loss[-1], abs=1e-6 * (on_cpu.loss[0] - on_cpu.loss[-1]))
