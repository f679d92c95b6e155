"""Comparison of runs by pixels that were not fitted, and the advice on positions that follows from it."""

from __future__ import annotations

import os
import signal
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from problems import counts, scan_positions, small_params

import pypty
from pypty.demo import demo_data, demo_params
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.state import State
from pypty.engine.setup.prepare import prepare
from pypty.errors import ParameterError
from pypty.objective.deviance import poisson_deviance
from pypty.objective.free_pixels import FreePixels
from pypty.refits.compare import FreeDeviance, compare, free_deviance, of_run, ranking
from pypty.refits.positions import PositionTrial, position_trial


def params(**changes: Any) -> dict[str, Any]:
    given = {"dataset": counts(), "algorithm": "ml", "output_folder": "", "epoch_max": 15, "free_pixels": 0.1}
    return small_params(**{**given, **changes})


@lru_cache
def right() -> pypty.Result:
    return pypty.run(params())


@lru_cache
def wrong() -> pypty.Result:
    """Positions with errors of half a pixel."""
    error = np.random.default_rng(1).normal(0, 0.5, (25, 2))
    return pypty.run(params(positions=scan_positions() + error))


def test_the_deviance_is_that_of_the_free_pixels() -> None:
    found = free_deviance(right())
    model = pypty.simulate({**params(), **right().params()})
    reachable = np.fft.fftshift(np.hypot(*np.meshgrid(*[np.fft.fftfreq(16)] * 2)) < 2 / 3 * 0.5 - 1.5 / 16)
    free = np.fft.fftshift(FreePixels(0.1).mask(np.arange(25), (16, 16)), axes=(1, 2)) & reachable
    deviance = poisson_deviance(counts().astype(float), model)
    # the outermost pixels inside the band limit count, too, or not: a rim of one pixel
    np.testing.assert_allclose(found.mean, deviance[free].mean(), rtol=0.15)
    assert 0.05 < found.pixels.sum() / (25 * reachable.sum()) < 0.15


def test_the_right_model_is_chosen() -> None:
    ranked = compare({"wrong": wrong(), "right": right()})
    assert ranked.names == ("right", "wrong") and ranked.equal == ("right",)
    assert ranked.differences[0] == 0 < 2 * ranked.errors[1] < ranked.differences[1]
    assert "the best is right" in ranked.text and f"± {ranked.errors[1]:.6f}" in str(ranked)


def test_equal_runs_cannot_be_told_apart() -> None:
    ranked = compare([right(), pypty.run(params(epoch_max=16))])
    assert len(ranked.equal) == 2 and "cannot be told apart: " in ranked.text


def test_of_folders(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", counts())
    for name, epochs in (("long", 6), ("short", 1)):
        pypty.run(params(dataset=..., data_path=str(tmp_path / "data.npy"), output_folder=str(tmp_path / name),
                         epoch_max=epochs))  # fmt: skip
    ranked = compare([tmp_path / "short", tmp_path / "long"])
    assert ranked.names[0] == str(tmp_path / "long")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"free_pixels": 0.2}, "differ in free_pixels"),
        ({"seed": 1}, "differ in seed"),
        ({"dataset": counts()[::-1].copy()}, "differ in the data"),
        ({"data_pad": 2}, "differ in the size of the patterns"),
        ({"sequence": list(range(20))}, "differ in the patterns that are fitted"),
        ({"damping_cutoff_multislice": 0.5}, "differ in the pixels inside the band limit"),
        ({"free_pixels": 0.0}, "free_pixels: given 0"),
    ],
)
def test_only_the_same_pixels_can_be_compared(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        compare([right(), pypty.run(params(epoch_max=1, **changes))])


def test_one_run_is_not_enough() -> None:
    with pytest.raises(ParameterError, match="at least two"):
        compare([right()])


def made(change: np.ndarray) -> dict[str, FreeDeviance]:
    positions = np.stack(np.meshgrid(np.arange(60.0), np.arange(60.0), indexing="ij"), axis=-1).reshape(-1, 2)
    own = {"indices": np.arange(3600), "pixels": np.full(3600, 10.0), "positions_A": positions, "same": {}}
    base = np.full(3600, 5.0)
    return {"a": FreeDeviance(deviance=base, **own), "b": FreeDeviance(deviance=base + change, **own)}


def test_the_error_knows_that_neighbours_are_not_independent() -> None:
    """White differences have their standard error; those that neighbours share a larger one."""
    rng = np.random.default_rng(0)
    white = 10 + rng.normal(0, 1, 3600)
    error = ranking(made(white)).errors[1]
    assert error == pytest.approx(1 / np.sqrt(3600) / 10, rel=0.35)
    shared = 10 + rng.normal(0, 1, (6, 6)).repeat(10, 0).repeat(10, 1).ravel()
    assert ranking(made(shared)).errors[1] == pytest.approx(1 / 6 / 10, rel=0.35)
    assert ranking(made(white)).differences[1] == pytest.approx(white.mean() / 10)


def part_of_the_demo(error_A: float, **changes: Any) -> dict[str, Any]:
    """A part of the demo's scan, with errors of this size in each position, or none."""
    given = demo_params("", print_flag=0, epoch_max=8, algorithm="ml", default_dtype="single", scan_size=None,
                        update_probe_pos=False, n_threads=1, warmup_epochs=2)  # fmt: skip
    chosen = np.arange(1024).reshape(32, 32)[10:20, 10:20].ravel()
    with h5py.File(demo_data()) as file:
        given |= {"dataset": file["data"][()][chosen], "data_path": ""}
    shift = np.random.default_rng(1).normal(0, error_A / np.sqrt(2) / given["pixel_size_x_A"], (100, 2))
    return {**given, "positions": given["positions"][chosen] + shift, **changes}


def test_right_positions_stay() -> None:
    trial = position_trial(pypty.run(part_of_the_demo(0.0)), epochs=3)
    assert not trial.helps and "does not help" in str(trial) and trial.moved_A < 0.02 and trial.epochs == 3


def test_wrong_positions_are_noticed_by_a_full_verdict() -> None:
    result = pypty.run(part_of_the_demo(0.1, verdict="full"))
    (said,) = result.verdict.tests
    assert "update_probe_pos=True" in said and said in result.verdict.text and result.verdict.level != "good"
    assert not any(name.startswith("positions") for name in result.verdict.not_tested)


def test_a_full_verdict_makes_no_trial_of_refined_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pypty.refits.positions.position_trial", None)
    given = params(verdict="full", epoch_max=2)
    assert pypty.run({**given, "update_probe_pos": True}).verdict.tests == ()
    with pytest.raises(TypeError):
        pypty.run(given)


def test_a_trial_that_fails_leaves_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def signalled(result: pypty.Result) -> PositionTrial:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal was swallowed")

    def out_of_memory(result: pypty.Result) -> PositionTrial:
        raise MemoryError

    for trial in (signalled, out_of_memory):
        monkeypatch.setattr("pypty.refits.positions.position_trial", trial)
        result = pypty.run(params(verdict="full", epoch_max=2))
        assert result.verdict.fit is not None and result.verdict.tests == () and not result.interrupted_by
        assert "positions (they were fixed)" in result.verdict.not_tested


def test_help_beyond_doubt() -> None:
    def outcome(gain: float, error: float) -> str:
        trial = PositionTrial(gain=gain, gain_error=error, deviance=0.2, moved_A=0.1, epochs=5)
        assert (
            trial.helps == (trial.outcome == "helps") and ("should be refined" in trial.text) == trial.helps
        )
        assert ("cannot be told" in trial.text) == (trial.outcome == "cannot be told")
        return trial.outcome

    assert outcome(0.004, 0.001) == "helps"
    assert (
        outcome(0.002, 0.001) == outcome(0.0, 0.001) == "cannot be told"
    )  # it may be above a hundredth, or not
    assert outcome(0.0015, 0.0001) == outcome(-0.001, 0.0001) == outcome(-0.004, 0.001) == "does not help"
    assert outcome(0.1, np.nan) == "cannot be told"  # a single block
    with pytest.raises(ParameterError, match="epochs: given 0"):
        position_trial(right(), epochs=0)


def test_the_state_of_a_run_stays() -> None:
    """The pass reads; the next epoch is as it would have been."""
    setup = prepare(params())
    run = Reconstruction(setup, State(variables=setup.variables(), epoch=0))
    before = run.state.variables
    of_run(run)
    assert run.state.variables is before and run.state.epoch == 0 and run.state.sample is None
