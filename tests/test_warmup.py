"""The warm-up: mini-batches with preconditioned steps before L-BFGS."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import N_PATTERNS, aperture_probe, small_params, smooth_object, two_slices

import pypty
from pypty.engine.epochs import warmup
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.problem import Problem
from pypty.engine.epochs.state import State
from pypty.engine.epochs.warmup import number_of_batches, warm_up
from pypty.engine.setup.prepare import prepare


def warm_params(**changes: Any) -> dict[str, Any]:
    return small_params(**{"warmup_epochs": 2, "epoch_max": 4, **changes})


def problem(**changes: Any) -> Problem:
    setup = prepare(warm_params(**changes))
    setup.close()
    return Reconstruction(setup, State(variables=setup.variables(), epoch=0)).problem(setup.settings.first())


def batches(one: Problem) -> list[np.ndarray]:
    """As in the first epoch."""
    order = np.random.default_rng((0, 0)).permutation(one.indices)
    return [np.sort(chosen) for chosen in np.array_split(order, number_of_batches(one))]


def test_one_pass_is_worth_many_epochs() -> None:
    """From vacuum, at the same number of passes over the data."""
    with_it = pypty.run(warm_params(warmup_epochs=1, epoch_max=6))
    without = pypty.run(warm_params(warmup_epochs=0, epoch_max=6))
    assert with_it.loss[1] < without.loss[3]
    assert with_it.loss[-1] < without.loss[-1]


def test_a_step_is_the_preconditioned_gradient_of_its_batch() -> None:
    """With a single batch: x - s P D^-1 G of all patterns, s = 1 for the object and 1/2 for the probe."""
    one = problem()
    all_patterns = np.arange(N_PATTERNS)
    variables, before = warmup._one_step(one, one.variables, all_patterns, 1.0)
    found = one.objective.evaluate(one.variables, ("obj", "probe"), all_patterns)
    assert before.loss == found.loss
    diagonal = one.curvature.diagonal(one.variables, ("obj", "probe"))
    for name, length in (("obj", 1.0), ("probe", 0.5)):
        step = one.form.limits.limit(name, found.gradients[name] / diagonal[name])
        expected = one.variables.block(name) - length * step
        np.testing.assert_allclose(variables.block(name), expected, rtol=1e-12, atol=1e-12)


def test_the_loss_is_that_of_every_batch_before_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of no length: the loss of the whole."""
    one = problem()
    monkeypatch.setattr(warmup, "STEPS", {"obj": 0.0, "probe": 0.0})
    done = warm_up(one, batches(one))
    whole = one.objective.evaluate(one.variables, (), np.arange(N_PATTERNS))
    assert done.loss == pytest.approx(whole.loss, rel=1e-12)
    assert done.sse == pytest.approx(whole.sse, rel=1e-12)


@pytest.mark.parametrize(("positions", "overlap"), [("dense", 6.5), ("far apart", 1.0)])
def test_overlap_and_batches(positions: str, overlap: float) -> None:
    """Patterns that share no pixel do not overlap; the number of batches follows from the square root."""
    spread = np.stack(np.divmod(np.arange(N_PATTERNS), 5), axis=1) * (
        40.0 if positions == "far apart" else 1.0
    )
    one = problem(positions=spread, probe=aperture_probe(1.0))
    found = one.curvature.overlap(one.variables.probe, one.variables.obj.shape[-2:])
    assert found == pytest.approx(overlap, rel=0.35)
    assert number_of_batches(one) == round(3.5 * np.sqrt(found))


def test_few_patterns_have_few_batches() -> None:
    assert number_of_batches(problem(sequence=[3])) == 1
    assert 1 <= number_of_batches(problem(sequence=[3, 4])) <= 2


def test_sums_over_few_windows_are_those_over_many() -> None:
    """The diagonal of a few patterns by addition equals that by convolution."""
    curvature = problem().curvature
    image = np.random.default_rng(0).uniform(size=(24, 24))
    window = np.random.default_rng(1).uniform(size=(16, 16))
    few = curvature.of_patterns(np.array([0, 7, 24]))
    light, seen = few._illumination(window, image.shape), few._seen(image)
    assert light.sum() == pytest.approx(3 * window.sum())
    for (y, x), sign in zip(few.crop_origins, (1, 1, 1), strict=True):
        light[y : y + 16, x : x + 16] -= sign * window
        seen -= image[y : y + 16, x : x + 16]
    np.testing.assert_allclose(light, 0, atol=1e-12)
    np.testing.assert_allclose(seen, 0, atol=1e-12)


def test_the_same_seed_gives_the_same_run_and_another_another() -> None:
    one, again, other = (pypty.run(warm_params(seed=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.obj, again.obj)
    assert one.loss[1] != other.loss[1]


def test_a_resumed_run_is_the_same(tmp_path: Path) -> None:
    """Also when it is stopped within the warm-up."""
    whole = pypty.run(warm_params())
    for stop in (1, 2, 3):
        folder = str(tmp_path / str(stop))
        pypty.run(warm_params(output_folder=folder, epoch_max=stop))
        resumed = pypty.run(warm_params(output_folder=folder, resume=True))
        np.testing.assert_array_equal(resumed.obj, whole.obj)
        np.testing.assert_array_equal(resumed.loss, whole.loss)


def test_only_object_and_probe_move() -> None:
    refined = {"update_probe_pos": True, "update_slice_distances": True}
    done = pypty.run(two_slices(warmup_epochs=2, epoch_max=2, **refined))
    np.testing.assert_array_equal(done.positions, done.start_positions)
    assert done.slice_distances == [10.0]
    setup = prepare(two_slices(warmup_epochs=1, epoch_max=3, **refined))
    setup.close()
    run = Reconstruction(setup, State(variables=setup.variables(), epoch=0))
    blocks = [record.blocks for record in run.epochs()]
    assert blocks[0] == ("obj", "probe")
    assert blocks[1] == blocks[2] == ("obj", "probe", "positions", "slice_distances")


def test_what_is_not_refined_stays() -> None:
    probe_only = pypty.run(warm_params(update_obj=False))
    assert probe_only.loss[1] < probe_only.loss[0], "without the object there is no warm-up, but L-BFGS"
    fixed = pypty.run(warm_params(update_probe=False, epoch_max=2, skip_preprocessing=True))
    np.testing.assert_array_equal(fixed.probe, aperture_probe(0.7))


@pytest.mark.parametrize(
    "changes",
    [
        {"phase_only_obj": True},
        {"obj_parametrization": "amplitude_phase"},
        {"tune_only_probe_phase": True},
        {"algorithm": "ml"},
        {"algorithm": "lsq"},
        {"algorithm": "lsq_sqrt_2"},
        {"loss_weight": "mean"},
        {"lazy_clean": True},
        {"smooth_rolloff": 0.1},
        {"default_dtype": "single"},
        {"num_slices": 3, "slice_distances": [5.0]},
    ],
    ids=str,
)
def test_it_works_with_every_way_to_move_them(changes: dict[str, Any]) -> None:
    """The errors fall in both passes, and the weight of the loss does not matter."""
    done = pypty.run(warm_params(epoch_max=2, **changes))
    assert done.sse[1] < done.sse[0]
    assert done.sse[2] < done.sse[0]
    assert not done.warnings
    if "phase_only_obj" in changes:
        np.testing.assert_allclose(np.abs(done.obj), 1, rtol=1e-12)
    if "loss_weight" in changes:
        np.testing.assert_allclose(done.obj, pypty.run(warm_params(epoch_max=2)).obj, rtol=1e-9)


def test_it_goes_on_as_long_as_errors_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "auto" counts what the passes say, and stops for good: a fall under L-BFGS does not bring it back."""
    run = pypty.run(warm_params(warmup_epochs="auto", epoch_max=12, output_folder=""))
    setup = prepare(warm_params(warmup_epochs="auto", epoch_max=12))
    setup.close()
    records = list(Reconstruction(setup, State(variables=setup.variables(), epoch=0)).epochs())
    kinds = [record.warm_up for record in records]
    warm = kinds.index("")
    assert warm >= 2
    assert kinds == ["falling"] * (warm - 1) + ["settled"] + [""] * (len(kinds) - warm)
    assert run.loss[-1] < run.loss[warm]
    monkeypatch.setattr(warmup, "FALL", 1e9)
    monkeypatch.setattr(warmup, "MOST_EPOCHS", 3)
    setup = prepare(warm_params(warmup_epochs="auto", epoch_max=5))
    setup.close()
    records = list(Reconstruction(setup, State(variables=setup.variables(), epoch=0)).epochs())
    assert [record.warm_up for record in records] == ["falling"] * 3 + [""] * 2


def test_diverging_steps_are_halved(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(warmup, "STEPS", {"obj": 6.0, "probe": 3.0})
    with caplog.at_level(logging.INFO, logger="pypty"):
        one = problem()
        done = warm_up(one, batches(one))
    assert done.passes > 1 and done.step == 0.5 ** (done.passes - 1)
    assert "errors grow with steps of 1; trying again with half of that" in caplog.text
    assert np.isfinite(done.loss)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_warm_up_that_cannot_work_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the steps do, the run goes on from where it was, with a warning."""
    monkeypatch.setattr(warmup, "STEPS", {"obj": 1e9, "probe": 1e9})
    done = pypty.run(warm_params(epoch_max=1))
    assert any(
        "warm-up: errors grow even with the shortest steps; the warm-up is skipped" in text
        for text in done.warnings
    )
    np.testing.assert_array_equal(done.obj, np.ones_like(done.obj))


def test_an_object_that_is_given_is_kept() -> None:
    """No warm-up by default: the first loss is that of the start."""
    given = small_params(obj=smooth_object(), warmup_epochs="auto", epoch_max=1)
    assert pypty.run(given).loss[0] == pytest.approx(pypty.evaluate(given).loss, rel=1e-12)


def test_the_loss_log_has_a_row_for_each_pass(tmp_path: Path) -> None:
    pypty.run(warm_params(output_folder=str(tmp_path)))
    rows = (tmp_path / "loss.csv").read_text().splitlines()
    assert len(rows) == 1 + 4
