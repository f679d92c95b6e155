"""What the engine does between updates: changes by hand, orthogonal modes, growing objects, frozen blocks, switches.

In every run of this file each epoch begins with loss and gradient of the very variables it starts from: what is kept
from the epoch before is compared with a fresh evaluation (fixture ``kept_samples_are_exact``).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
from helpers import directional_derivative, random_complex, random_like, relative
from problems import (
    N_PATTERNS,
    aperture_probe,
    every_block,
    patterns,
    scan_positions,
    small_params,
    smooth_object,
)

import pypty
from pypty.engine.epochs.edits import after_update, before_update, moved_scan
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.problem import Problem
from pypty.engine.epochs.state import State
from pypty.engine.setup.prepare import prepare
from pypty.objective.share import Limit
from pypty.optimize.lbfgs import Lbfgs, Pair, ValueAndGradient
from pypty.optimize.vector import BlockVector
from pypty.output.loss_log import EpochRecord, read_loss_log


@pytest.fixture(autouse=True)
def kept_samples_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check every start of an epoch against an evaluation of its own."""
    step = Lbfgs.step

    def checked(self: Lbfgs, x: BlockVector, sample: ValueAndGradient, function: Any, *args: Any) -> Any:
        fresh = function.problem(x)
        assert sample.value == pytest.approx(fresh.value, rel=1e-9)
        for name, gradient in fresh.gradient.items():
            scale = np.linalg.norm(gradient) + 1e-6 * fresh.gradient.norm()
            assert np.linalg.norm(sample.gradient[name] - gradient) <= 1e-7 * scale, name
        return step(self, x, sample, function, *args)

    monkeypatch.setattr(Lbfgs, "step", checked)


class Stepped:
    """A run that can be looked at between its epochs.

    Attributes
    ----------
    pairs : of the optimiser, after each epoch
    variables : after each epoch
    records : of each epoch
    """

    def __init__(self, params: dict[str, Any]) -> None:
        setup = prepare({"output_folder": "", **params})
        self.run = Reconstruction(setup, State(variables=setup.variables(), epoch=0))
        self.start = self.run.state.variables
        self.pairs, self.variables = [], []
        for _ in self.run.epochs():
            self.pairs.append(len(self.run.state.optimizer.pairs))
            self.variables.append(self.run.state.variables)
        setup.close()

    @property
    def records(self) -> list[EpochRecord]:
        return self.run.state.records


def resets(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    """(epoch, why) of every history that was forgotten, as the log says."""
    found = []
    for record in caplog.records:
        text = record.getMessage()
        if "history reset (" in text and text.startswith("epoch"):
            epoch, why = text.removeprefix("epoch ").split(": history reset (", 1)
            found.append((int(epoch), why.removesuffix(")")))
    return found


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "pypty")
    return caplog


def at(*epochs: int) -> Callable[[int], bool]:
    """On at these epochs only."""
    return lambda epoch: epoch in epochs


def only_object(**changes: Any) -> dict[str, Any]:
    """Only the object is refined, from vacuum, without a band limit of it."""
    return small_params(update_probe=False, lazy_clean=True, **changes)


# --------------------------------------------------------------------------------------------------------------------
# Changes before an update


def test_restart_from_vacuum(log: pytest.LogCaptureFixture):
    """At vacuum it changes nothing and resets nothing; later the run begins again."""
    plain = Stepped(only_object(epoch_max=5))
    assert plain.pairs == [1, 2, 3, 4, 5]
    found = Stepped(only_object(epoch_max=5, restart_from_vacuum=at(0, 3)))
    assert found.pairs == [1, 2, 3, 1, 2]
    assert resets(log) == [(3, "restart_from_vacuum")]
    losses = [record.loss for record in plain.records]
    assert [record.loss for record in found.records] == pytest.approx([*losses[:3], *losses[:2]], rel=1e-12)
    np.testing.assert_array_equal(found.variables[4].obj, plain.variables[1].obj)


def test_reset_positions(log: pytest.LogCaptureFixture):
    """At the start it changes nothing; later the scan is back where it was."""
    changes = {"update_obj": False, "update_probe": False, "update_probe_pos": True, "obj": smooth_object()}
    changes.update(probe=aperture_probe(1.0), skip_preprocessing=True)
    changes["positions"] = scan_positions() + np.random.default_rng(1).uniform(0, 0.4, (N_PATTERNS, 2))
    plain = Stepped(small_params(**changes, epoch_max=4))
    assert plain.pairs == [1, 2, 3, 4]
    assert np.abs(plain.variables[1].positions - plain.start.positions).max() > 0.05
    found = Stepped(small_params(**changes, epoch_max=4, reset_positions=at(0, 2)))
    assert found.pairs == [1, 2, 1, 2]
    assert resets(log) == [(2, "reset_positions")]
    np.testing.assert_array_equal(found.variables[3].positions, plain.variables[1].positions)


def flipped_by_hand(obj: np.ndarray, delta: tuple[float, float], beta: tuple[float, float]) -> np.ndarray:
    """(mode, z, Y, X): phases and absorptions below a fraction of the largest of their slice times a factor."""
    out = np.empty_like(obj)
    for index in np.ndindex(obj.shape[:2]):
        phase, absorption = np.angle(obj[index]), -np.log(np.abs(obj[index]) + 1e-10)
        for values, d, b in zip((phase, absorption), delta, beta, strict=True):
            weak = values < d * values.max()
            values[weak] *= b
        out[index] = np.exp(-absorption + 1j * phase)
    return out


def test_charge_flip(log: pytest.LogCaptureFixture):
    """It acts before the update of its epoch; factors of 1 change nothing."""
    numbers = {"cf_delta_phase": 0.3, "cf_delta_abs": 0.1, "cf_beta_phase": -0.7, "cf_beta_abs": -0.6}
    plain = Stepped(only_object(epoch_max=3))
    found = Stepped(only_object(epoch_max=4, do_charge_flip=at(2), **numbers))
    assert found.pairs == [1, 2, 1, 2]
    assert resets(log) == [(2, "do_charge_flip")]
    flipped = flipped_by_hand(plain.variables[1].obj, (0.3, 0.1), (-0.7, -0.6))
    loss = pypty.evaluate(only_object(obj=flipped.transpose(2, 3, 1, 0))).loss
    assert found.records[2].loss == pytest.approx(loss, rel=1e-9)
    assert abs(loss / plain.records[2].loss - 1) > 0.01


@pytest.mark.parametrize("factors", [(1.0, 1.0), (-0.7, -0.6)])
def test_a_flip_of_nothing_changes_nothing(factors: tuple[float, float], log: pytest.LogCaptureFixture):
    """Factors of 1; and a vacuum, whose phase and absorption are zero."""
    changes = {"cf_beta_phase": factors[0], "cf_beta_abs": factors[1], "do_charge_flip": True}
    found = Stepped(only_object(epoch_max=1, **changes))
    assert resets(log) == []
    if factors == (1.0, 1.0):
        found = Stepped(only_object(epoch_max=3, **changes))
        assert found.pairs == [1, 2, 3]


def test_sharpened_charge_flip():
    """fancy_sigma blurs what was flipped: the fine structure that flipping makes is gone."""
    params = only_object(epoch_max=3, do_charge_flip=at(2), cf_delta_phase=0.3, hist_length=0, max_count=1)

    def roughness(**changes: Any) -> float:
        """Share of the high frequencies in the object's phase after the flip."""
        obj = Stepped({**params, **changes}).variables[2].obj[0, 0]
        power = np.abs(np.fft.fft2(np.angle(obj))) ** 2
        f = np.fft.fftfreq(len(obj))
        return float(power[np.hypot(f[:, None], f) > 0.2].sum() / power.sum())

    sharp = roughness()
    assert roughness(fancy_sigma=((1.0, 2.0), None)) < 0.5 * sharp
    assert roughness(fancy_sigma=(None, (1.0, 2.0))) == pytest.approx(sharp, rel=0.2)


@pytest.mark.parametrize(
    "changes",
    [
        {"do_charge_flip": at(1, 2)},
        {"apply_gaussian_filter": [0.5, 0.5]},
        {"apply_gaussian_filter_amplitude": [0.5, 0.5]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_the_band_limit_holds_after_a_change(changes: dict[str, Any]):
    """Each of them makes high frequencies; the object is back in its subspace after the epoch."""
    found = Stepped(small_params(update_probe=False, epoch_max=3, **changes))
    obj = found.variables[-1].obj[0, 0]
    f = np.fft.fftfreq(len(obj))
    beyond = np.hypot(f[:, None], f) > 0.5 * (2 / 3 - 0.005) + 1e-9
    spectrum = np.abs(np.fft.fft2(obj))
    assert spectrum[beyond].max() < 1e-10 * spectrum.max()


# --------------------------------------------------------------------------------------------------------------------
# Changes after an update


@pytest.mark.parametrize("widths", [(1.2, 0.4), (0.7, 1.2, 0.4), 0.8, True])
def test_gaussian_filter_of_the_phase(widths: Any, log: pytest.LogCaptureFixture):
    """After every accepted update; each one resets the history."""
    two = {"num_slices": 2, "slice_distances": [10.0]}
    plain = Stepped(only_object(epoch_max=1, **two)).variables[0].obj
    found = Stepped(only_object(epoch_max=3, apply_gaussian_filter=widths, **two))
    assert found.pairs == [0, 0, 0]
    assert resets(log) == [(epoch, "apply_gaussian_filter") for epoch in range(3)]
    sigma = {True: (1, 1, 1), (1.2, 0.4): (0, 1.2, 0.4)}.get(widths, widths)
    phase = scipy.ndimage.gaussian_filter(np.angle(plain[0]), sigma, mode="nearest")
    np.testing.assert_allclose(found.variables[0].obj[0], np.abs(plain[0]) * np.exp(1j * phase), atol=1e-12)
    assert np.abs(phase - np.angle(plain[0])).max() > 0.01


@pytest.mark.parametrize("widths", [(1.2, 0.4), (0.7, 1.2, 0.4)])
def test_gaussian_filter_of_the_absorption(widths: tuple[float, ...], log: pytest.LogCaptureFixture):
    two = {"num_slices": 2, "slice_distances": [10.0]}
    plain = Stepped(only_object(epoch_max=1, **two)).variables[0].obj
    found = Stepped(only_object(epoch_max=2, apply_gaussian_filter_amplitude=widths, **two))
    assert found.pairs == [0, 0]
    assert resets(log) == [(epoch, "apply_gaussian_filter_amplitude") for epoch in range(2)]
    sigma = widths if len(widths) == 3 else (0, *widths)
    absorption = scipy.ndimage.gaussian_filter(-np.log(np.abs(plain[0])), sigma, mode="nearest")
    expected = np.exp(-absorption + 1j * np.angle(plain[0]))
    np.testing.assert_allclose(found.variables[0].obj[0], expected, atol=1e-12)
    assert relative(found.variables[0].obj, plain) > 1e-4


def test_filters_that_change_nothing(log: pytest.LogCaptureFixture):
    """Of a vacuum that is not refined; at epochs where they are off; of no width."""
    changes = {"update_obj": False, "epoch_max": 2}
    for value in (True, [1.0, 2.0]):
        both = {"apply_gaussian_filter": value, "apply_gaussian_filter_amplitude": value}
        assert Stepped(small_params(**changes, **both)).pairs == [1, 2]
    assert Stepped(only_object(epoch_max=3, apply_gaussian_filter=[0.0, 0.0])).pairs == [1, 2, 3]
    assert resets(log) == []
    assert Stepped(only_object(epoch_max=3, apply_gaussian_filter=at(1))).pairs == [1, 0, 1]
    assert resets(log) == [(1, "apply_gaussian_filter")]


# --------------------------------------------------------------------------------------------------------------------
# Orthogonal probe modes


def modes_of(probe: np.ndarray) -> np.ndarray:
    """(subscan, mode, pixel)."""
    return probe.reshape(-1, probe.shape[-3], probe.shape[-2] * probe.shape[-1])


def mixed_probe(subscans: int) -> np.ndarray:
    """(y, x, 3[, subscans]): far from orthogonal, the strongest last."""
    rng = np.random.default_rng(4)
    probe = np.concatenate([aperture_probe(d) for d in (0.5, 0.9, 1.3)], axis=2) * np.array([0.4, 0.5, 0.8])
    all_subscans = [probe * random_complex(rng, (1, 1, 3)) for _ in range(subscans)]
    return all_subscans[0] if subscans == 1 else np.stack(all_subscans, axis=3)


def orthogonal_problem(subscans: int, **changes: Any) -> dict[str, Any]:
    """The object scatters: in a vacuum the detector is dark but for rounding, whose phases decide a gradient of
    amplitudes there."""
    obj = smooth_object(seed=9) ** 0.5
    params = small_params(
        probe=mixed_probe(subscans), obj=obj, update_probe_pos=True, epoch_max=10, **changes
    )
    if subscans > 1:
        params["probe_marker"] = np.arange(N_PATTERNS) % subscans
    return params


@pytest.mark.parametrize("subscans", [1, 3])
def test_orthogonal_modes_change_nothing_but_the_modes(
    subscans: int, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
):
    """At the start of every epoch modes are orthogonal, the strongest first, with the power they had. The run is the
    same: gradient and history turn along."""
    seen: list[np.ndarray] = []
    original = Reconstruction.problem

    def watched(self: Reconstruction, now: Any) -> Problem:
        seen.append(self.state.variables.probe.copy())
        return original(self, now)

    monkeypatch.setattr(Reconstruction, "problem", watched)
    found = Stepped(orthogonal_problem(subscans, keep_probe_states_orthogonal=True))
    for before, probe in zip([found.start, *found.variables], seen, strict=False):
        for old, modes in zip(modes_of(before.probe), modes_of(probe), strict=True):
            gram = modes @ modes.conj().T
            power = gram.diagonal().real
            assert np.abs(gram - np.diag(gram.diagonal())).max() < 1e-6 * power.max()
            assert (np.diff(power) <= 1e-6 * power[0]).all()
            assert power.sum() == pytest.approx((np.abs(old) ** 2).sum(), rel=1e-12)
            np.testing.assert_allclose(modes.T @ modes.conj(), old.T @ old.conj(), atol=1e-10 * power.max())
    assert relative(seen[0], found.start.probe) > 0.1
    assert resets(log) == []
    assert found.pairs == list(range(1, 11))
    seen.clear()
    plain = Stepped(orthogonal_problem(subscans))
    assert [r.loss for r in found.records] == pytest.approx([r.loss for r in plain.records], rel=1e-8)
    assert [r.step for r in found.records] == pytest.approx([r.step for r in plain.records], rel=1e-6)
    np.testing.assert_allclose(found.variables[-1].obj, plain.variables[-1].obj, atol=1e-7)
    np.testing.assert_allclose(found.variables[-1].positions, plain.variables[-1].positions, atol=1e-7)
    overlaps = [modes @ modes.conj().T for modes in modes_of(plain.variables[-1].probe)]
    assert max(np.abs(g[0, 1]) for g in overlaps) > 0.1


@pytest.mark.parametrize(
    "changes",
    [
        {"tune_only_probe_phase": True},
        {"tune_only_probe_abs": True},
        {"probe_mod_reg_weight": 1e-3, "scan_step_A": 4.0, "probe_mod_tol": 0.3},
        {"window_weight": 1.0, "window": [0.3, 0.6]},
        {"probe_reg_constraint_weight": 1e-3, "probe_constraint_mask": 0.5},
        {"probe_reg_constraint_weight": math.inf, "probe_constraint_mask": 0.7},
        {"update_probe": False},
        {"hist_length": 0},
        {"smooth_rolloff": 0.2},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_orthogonal_modes_beside_everything_that_sees_modes(changes: dict[str, Any]):
    """What is kept is right (the fixture looks), and the loss falls."""
    params = {**orthogonal_problem(1), **changes, "epoch_max": 6, "keep_probe_states_orthogonal": True}
    losses = [record.loss for record in Stepped(params).records]
    assert len(losses) == 6
    assert (np.diff(losses) < 0).all()


# --------------------------------------------------------------------------------------------------------------------
# Windows that move


def wandering(folder: Path | None = None, **changes: Any) -> dict[str, Any]:
    """Positions that must go off the top and left of the object: data of an object that reaches further.

    The scan's first rows lie 2.3 pixels above the given object; positions start inside it.
    """
    big = smooth_object()
    true = scan_positions() + np.array([0.2, 0.3])
    data = pypty.simulate(
        small_params(dataset=..., obj=big, probe=aperture_probe(1.0), positions=true, skip_preprocessing=True)
    )
    cut = 2
    start = true - cut - np.array([0.5, 0.6])
    return small_params(
        **{
            "dataset": data,
            "obj": big[cut:, cut:],
            "probe": aperture_probe(1.0),
            "positions": np.maximum(start, 0.1),
            "skip_preprocessing": True,
            "update_obj": False,
            "update_probe": False,
            "update_probe_pos": True,
            "dynamically_resize_yx_object": 1.0,
            "output_folder": "" if folder is None else str(folder),
            "epoch_max": 12,
            **changes,
        }
    )


def test_object_grows_with_its_scan(log: pytest.LogCaptureFixture):
    """Rows and columns are added at the top and left, windows follow, the starting positions too."""
    params = wandering()
    result = pypty.run(params)
    shape = np.array(params["obj"].shape[:2])
    grown = np.array(result.obj.shape[:2]) - shape
    assert (grown >= 1).all()
    assert {why for _, why in resets(log)} == {"dynamically_resize_yx_object"}
    np.testing.assert_allclose(result.start_positions - params["positions"], np.tile(grown, (N_PATTERNS, 1)))
    inner = result.obj[grown[0] :, grown[1] :]
    np.testing.assert_array_equal(inner, params["obj"])
    assert np.isfinite(result.loss).all()
    assert result.loss[-1] < 0.2 * result.loss[0]


def test_windows_follow_positions():
    """After an epoch no position is further from its window than the limit, every window lies on the object, and the
    positions are those that the optimiser found, moved with the object's pixels."""
    limit = 1.0
    params = wandering(dynamically_resize_yx_object=limit)
    setup = prepare(params)
    run = Reconstruction(setup, State(variables=setup.variables(), epoch=0))
    moves = 0
    crop_origins = setup.scan.crop_origins
    for _ in run.epochs():
        positions, scan = run.state.variables.positions, run.setup.scan
        assert np.abs(positions - scan.crop_origins).max() < limit
        assert (scan.crop_origins >= 0).all()
        assert (scan.crop_origins + 16 <= np.array(run.state.variables.obj.shape[-2:])).all()
        assert scan.object_shape == run.state.variables.obj.shape[-2:]
        moves += not np.array_equal(scan.crop_origins, crop_origins)
        crop_origins = scan.crop_origins
    assert moves >= 1
    # Without the key nothing of this happens.
    still = pypty.run({**params, "dynamically_resize_yx_object": 0})
    assert still.obj.shape == params["obj"].shape


def test_resumed_after_the_object_grew(tmp_path: Path):
    """The windows are part of the state."""
    whole = pypty.run(wandering(tmp_path / "whole"))
    first = pypty.run(wandering(tmp_path / "parts", epoch_max=5))
    assert first.obj.shape != wandering()["obj"].shape
    resumed = pypty.run(wandering(tmp_path / "parts", resume=True))
    np.testing.assert_array_equal(resumed.loss, whole.loss)
    np.testing.assert_array_equal(resumed.positions, whole.positions)
    np.testing.assert_array_equal(resumed.obj, whole.obj)
    np.testing.assert_array_equal(resumed.start_positions, whole.start_positions)


def test_reset_positions_on_a_grown_object():
    """They go back to where they started on the specimen, which has other pixel numbers now."""
    params = wandering(epoch_max=8, reset_positions=at(6))
    grown = Stepped({**params, "epoch_max": 6})
    found = Stepped(params)
    added = np.array(grown.variables[5].obj.shape[-2:]) - np.array(params["obj"].shape[:2])
    assert (added >= 1).all()
    expected = pypty.evaluate(
        {
            **params,
            "obj": grown.variables[5].obj.transpose(2, 3, 1, 0),
            "positions": params["positions"] + added,
        }
    ).loss
    assert found.records[6].loss == pytest.approx(expected, rel=0.05)
    assert found.records[6].loss > 2 * found.records[5].loss


SCAN = (6, 8)


def torn_scan(tear: tuple[float, float] = (3.0, -2.5)) -> tuple[np.ndarray, np.ndarray]:
    """The positions of a scan, and the same with its right half shifted as a whole."""
    y, x = np.meshgrid(2.0 * np.arange(SCAN[0]), 2.0 * np.arange(SCAN[1]), indexing="ij")
    true = np.stack([y, x], axis=-1) + 4.0
    torn = true.copy()
    torn[:, 4:] += np.array(tear)
    return true.reshape(-1, 2), torn.reshape(-1, 2)


def torn_params(**changes: Any) -> dict[str, Any]:
    true, torn = torn_scan()
    rng = np.random.default_rng(6)
    phase = scipy.ndimage.gaussian_filter(rng.standard_normal((40, 44)), 2)
    obj = np.exp(0.3j * phase / phase.std())[..., None, None]
    known = small_params(
        obj=obj,
        probe=aperture_probe(1.0),
        positions=true,
        skip_preprocessing=True,
        scan_size=SCAN,
        dataset=...,
    )
    return {**known, "dataset": pypty.simulate(known), "positions": torn, "update_probe": False, **changes}


@pytest.mark.parametrize("tear", [(3.0, -2.5), (9.0, -2.5)])
def test_puzzle(tear: tuple[float, float], log: pytest.LogCaptureFixture):
    """A torn scan is put together after the update of its epoch; the object follows, and so do the windows, also when
    they move by more than half their size."""
    true, torn = torn_scan(tear)
    params = torn_params(positions=torn, puzzle_positions=at(1), epoch_max=4)
    setup = prepare(params)
    run = Reconstruction(setup, State(variables=setup.variables(), epoch=0))
    for record in run.epochs():
        positions, scan = run.state.variables.positions, run.setup.scan
        assert (scan.crop_origins >= 0).all()
        assert (scan.crop_origins + 16 <= np.array(run.state.variables.obj.shape[-2:])).all()
        if record.epoch < 1:
            np.testing.assert_array_equal(positions, torn)
        else:
            np.testing.assert_array_equal(scan.crop_origins, np.round(positions))
    assert resets(log) == [(1, "puzzle_positions")]
    error = positions - true
    assert np.abs(error - error.mean(axis=0)).max() < 0.6
    assert np.isfinite([record.loss for record in run.state.records]).all()
    torn_error = torn - true
    assert np.abs(torn_error - torn_error.mean(axis=0)).max() > 1


def test_the_object_follows_a_puzzle():
    """The right half of the scan goes back by (3, -2) pixels, and what it saw goes with it."""
    true, torn = torn_scan()
    torn = np.where(torn == true, true, true + np.array([3.0, -2.0]))
    params = torn_params(
        positions=torn, puzzle_positions=at(0), epoch_max=1, update_probe=True, update_obj=False
    )
    found = Stepped(params).variables[0]
    np.testing.assert_allclose(found.positions, true, atol=1e-9)
    old, new = params["obj"][..., 0, 0], found.obj[0, 0]
    right = true.reshape(*SCAN, 2)[1:5, 6:].reshape(-1, 2).astype(int) + 8  # centres of windows
    left = true.reshape(*SCAN, 2)[1:5, :2].reshape(-1, 2).astype(int) + 8
    for y, x in right:
        np.testing.assert_allclose(new[y, x], old[y + 3, x - 2], atol=1e-9)
    for y, x in left:
        np.testing.assert_allclose(new[y, x], old[y, x], atol=1e-9)


def test_a_whole_scan_is_no_puzzle(log: pytest.LogCaptureFixture):
    true, _ = torn_scan()
    found = Stepped(torn_params(positions=true, puzzle_positions=True, obj=None))
    assert found.pairs == [1, 2, 3]
    assert resets(log) == []


def test_resumed_after_a_puzzle(tmp_path: Path):
    changes = {"puzzle_positions": at(1), "update_probe_pos": True, "dynamically_resize_yx_object": 1.0}
    whole = pypty.run(torn_params(**changes, epoch_max=5, output_folder=str(tmp_path / "whole")))
    pypty.run(torn_params(**changes, epoch_max=3, output_folder=str(tmp_path / "parts")))
    resumed = pypty.run(
        torn_params(**changes, epoch_max=5, output_folder=str(tmp_path / "parts"), resume=True)
    )
    np.testing.assert_array_equal(resumed.loss, whole.loss)
    np.testing.assert_array_equal(resumed.positions, whole.positions)


# --------------------------------------------------------------------------------------------------------------------
# Blocks that make every update fail

ORDER = (
    "positions",
    "tilts",
    "slice_distances",
    "detector_blur_std",
    "static_background",
    "beam_current",
    "aberrations_array",
    "detector_gains",
    "probe",
)
"""Documented order of freezing; the object never is."""


def spoil(monkeypatch: pytest.MonkeyPatch, *blocks: str) -> None:
    """Every step of a problem that refines one of the blocks raises the loss."""
    evaluate = Problem.__call__

    def spoiled(self: Problem, point: BlockVector, limit: Limit | None = None) -> ValueAndGradient:
        sample = evaluate(self, point, limit)
        start = self.point()
        moved = any((point[name] != start[name]).any() for name in point)
        if moved and set(blocks) & set(self.blocks):
            sample = ValueAndGradient(sample.value + 1e9, sample.gradient, sample.info)
        return sample

    monkeypatch.setattr(Problem, "__call__", spoiled)


def test_blocks_are_frozen_one_by_one(
    monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture, tmp_path: Path
):
    """All fail: after two rejections positions are frozen, then one more block with every further one. Only the object
    is left; it is refined, and after ten epochs the blocks come back in turn."""
    spoil(monkeypatch, *ORDER)
    result = pypty.run(every_block(epoch_max=13, output_folder=str(tmp_path / "out"), max_count=3))
    expected = []
    for number, name in enumerate(ORDER):
        rejected, until = 2 if number == 0 else 1, 12 + number
        reason = f"{rejected} rejected updates in a row: block '{name}' is frozen until epoch {until}"
        expected.append(f"epoch {2 + number}: {reason}")
    expected.append("epoch 12: block 'positions' is refined again")
    assert list(result.decisions) == expected
    messages = [record.getMessage() for record in log.records if record.levelno == logging.WARNING]
    assert [text for text in messages if "frozen" in text or "refined again" in text] == expected
    rows = read_loss_log(tmp_path / "out" / "loss.csv")
    for text in expected:
        epoch, decision = text.removeprefix("epoch ").split(": ", 1)
        assert decision in rows[int(epoch)]["Warnings"]
    assert all("frozen" not in row["Warnings"] for row in (*rows[:2], *rows[2 + len(ORDER) :]))
    steps = np.array([float(row["matching step"]) for row in rows])
    alone = 1 + len(ORDER)  # the first epoch in which only the object is refined
    assert (steps[:alone] == 0).all()
    assert (steps[alone:12] > 0).all()
    assert steps[12] == 0


def test_what_is_refined_while_blocks_are_frozen(monkeypatch: pytest.MonkeyPatch):
    """Frozen for ten epochs, then refined again; the others go on."""
    spoil(monkeypatch, "positions")
    found = Stepped(small_params(update_probe_pos=True, epoch_max=16, max_count=3))
    refined = ["positions" in record.blocks for record in found.records]
    assert refined == [True] * 2 + [False] * 10 + [True] * 2 + [False] * 2
    assert [record.step > 0 for record in found.records] == [not there for there in refined]
    assert {record.epoch: record.decisions for record in found.records if record.decisions} == {
        2: ["2 rejected updates in a row: block 'positions' is frozen until epoch 12"],
        12: ["block 'positions' is refined again"],
        14: ["2 rejected updates in a row: block 'positions' is frozen until epoch 24"],
    }


def test_freezing_survives_a_restart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    spoil(monkeypatch, "positions", "probe")
    changes = {"update_probe_pos": True, "max_count": 3}
    whole = pypty.run(small_params(**changes, epoch_max=14))
    folder = {"output_folder": str(tmp_path / "out")}
    pypty.run(small_params(**changes, epoch_max=5, **folder))
    resumed = pypty.run(small_params(**changes, epoch_max=14, resume=True, **folder))
    assert resumed.decisions == whole.decisions
    assert len(whole.decisions) >= 3
    np.testing.assert_array_equal(resumed.loss, whole.loss)


def test_freezing_can_be_switched_off(monkeypatch: pytest.MonkeyPatch):
    """Then the run ends, and says why."""
    spoil(monkeypatch, "positions")
    result = pypty.run(
        small_params(update_probe_pos=True, epoch_max=9, max_count=3, freeze_stuck_blocks=False)
    )
    assert result.decisions == ()
    assert len(result.epochs) == 2
    assert "no step along steepest descent decreases the loss" in result.stop_reason


def test_freezing_from_an_epoch_on(monkeypatch: pytest.MonkeyPatch):
    spoil(monkeypatch, "positions")
    found = Stepped(
        small_params(
            update_probe_pos=True, epoch_max=8, max_count=3, freeze_stuck_blocks=lambda epoch: epoch > 4
        )
    )
    assert [record.step > 0 for record in found.records] == [False] * 5 + [True] * 3
    assert [record.epoch for record in found.records if record.decisions] == [5]


def test_the_last_block_is_not_frozen(monkeypatch: pytest.MonkeyPatch):
    """When nothing helps the run ends instead of going on with nothing."""
    spoil(monkeypatch, "obj", "probe", "positions")
    result = pypty.run(small_params(update_probe_pos=True, epoch_max=20, max_count=3))
    assert len(result.epochs) < 20
    assert [text.split("'")[1] for text in result.decisions] == ["positions", "probe"]
    assert "no step along steepest descent" in result.stop_reason


def test_the_only_block_is_not_frozen(monkeypatch: pytest.MonkeyPatch):
    spoil(monkeypatch, "probe")
    result = pypty.run(small_params(update_obj=False, epoch_max=9, max_count=3))
    assert result.decisions == ()
    assert len(result.epochs) == 2
    assert "no step along steepest descent" in result.stop_reason


def test_a_good_run_freezes_nothing():
    result = pypty.run(small_params(update_probe_pos=True, epoch_max=10))
    assert result.decisions == ()


def test_a_block_that_lost_its_slope_does_not_spoil_the_step():
    """A blur that has become narrower than its pixels: its gradient was large two epochs ago, and is 1e-30 now."""

    def pair(block_s: float, block_y: float) -> Pair:
        s = BlockVector({"obj": np.array([0.1, -0.2]), "detector_blur_std": np.array([block_s])})
        y = BlockVector({"obj": np.array([0.2, -0.3]), "detector_blur_std": np.array([block_y])})
        return Pair(s, y)

    gradient = BlockVector({"obj": np.array([0.1, 0.3]), "detector_blur_std": np.array([1e-42])})
    history = Lbfgs([pair(-0.2, -2.0), pair(-1e-2, -1e-30)])

    def precondition(vector: BlockVector) -> BlockVector:
        return vector.scaled({"obj": 1.0, "detector_blur_std": 1e-4})

    direction = history.direction(gradient, precondition, 10)
    assert direction.dot(gradient) < 0
    assert np.abs(direction["obj"]).max() < 10
    assert np.abs(direction["detector_blur_std"]).max() < 10


# --------------------------------------------------------------------------------------------------------------------
# The probe inside its aperture


@pytest.mark.parametrize("aperture", [0.5, "array"])
def test_infinite_weight_keeps_the_probe_inside(aperture: float | str, log: pytest.LogCaptureFixture):
    """Strictly, at every epoch, 4-D probes too; putting it inside resets the history once."""
    f = np.fft.fftfreq(16)
    outside = np.hypot(f[:, None], f) > 0.25
    mask = np.fft.fftshift(~outside).astype(float) if aperture == "array" else 0.5
    changes = {"probe_reg_constraint_weight": math.inf, "probe_constraint_mask": mask}
    probe = np.stack([aperture_probe(0.7), aperture_probe(1.2)], axis=3)
    probe = probe + 1e-2 * random_complex(np.random.default_rng(2), probe.shape)
    marker = np.arange(N_PATTERNS) % 2
    found = Stepped(small_params(probe=probe, probe_marker=marker, epoch_max=6, **changes))
    for variables in found.variables:
        spectrum = np.abs(np.fft.fft2(variables.probe))
        assert spectrum[..., outside].max() < 1e-12 * spectrum.max()
    assert np.abs(np.fft.fft2(found.start.probe))[..., outside].max() > 1e-3
    assert found.pairs == [1, 2, 3, 4, 5, 6]
    assert resets(log) == [(0, "probe_reg_constraint_weight")]
    losses = [record.loss for record in found.records]
    assert (np.diff(losses) < 0).all()
    free = Stepped(small_params(probe=probe, probe_marker=marker, epoch_max=6))
    assert np.abs(np.fft.fft2(free.variables[-1].probe))[..., outside].max() > 1e-3


def test_weight_becomes_infinite(log: pytest.LogCaptureFixture):
    """A penalty for some epochs, then nothing outside at all."""
    f = np.fft.fftfreq(16)
    outside = np.hypot(f[:, None], f) > 0.25
    changes = {
        "probe_reg_constraint_weight": lambda epoch: 0.01 if epoch < 3 else math.inf,
        "probe_constraint_mask": 0.5,
        "epoch_max": 6,
    }
    probe = aperture_probe(0.7) + 1e-2 * random_complex(np.random.default_rng(2), (16, 16, 1))
    found = Stepped(small_params(probe=probe, **changes))
    largest = [np.abs(np.fft.fft2(v.probe))[..., outside].max() for v in found.variables]
    assert min(largest[:3]) > 1e-6
    assert max(largest[3:]) < 1e-10
    assert [epoch for epoch, _ in resets(log)] == [3, 3]
    assert found.pairs == [1, 2, 3, 1, 2, 3]
    assert found.records[2].terms["probe_reg_constraint_weight"] > 0
    assert found.records[3].terms == {}


# --------------------------------------------------------------------------------------------------------------------
# Values that change with the epoch

WHY = {
    "phase_only_obj": "parametrisation",
    "obj_parametrization": "parametrisation",
    "tune_only_probe_phase": "parametrisation",
    "tune_only_probe_abs": "parametrisation",
    "positions_parametrization": "parametrisation",
    "propmethod": "model",
    "atv_weight": "regularisers",
    "atv_q": "regularisers",
    "window_weight": "regularisers",
    "loss_weight": "loss_weight",
    "update_probe": "refined blocks",
    "sequence": "sequence",
}
LIT_PROBE = aperture_probe(0.7) + 0.01 * random_complex(np.random.default_rng(1), (16, 16, 1))
"""Without a frequency that has no amplitude, and so no phase."""
SWITCHED: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "phase_only_obj": (False, True, {}),
    "obj_parametrization": ("complex", "amplitude_phase", {}),
    "tune_only_probe_phase": (False, True, {}),
    "tune_only_probe_abs": (True, False, {"probe": LIT_PROBE}),
    "positions_parametrization": ("affine", "free", {"update_probe_pos": True}),
    "propmethod": ("multislice", "better_multislice", {"num_slices": 2, "slice_distances": [10.0]}),
    "atv_weight": (0.0, 1e-3, {}),
    "atv_q": (1.0, 1.5, {"atv_weight": 1e-3}),
    "window_weight": (1e-3, 2e-3, {"window": [0.5, 0.8]}),
    "loss_weight": (1.0, "mean", {}),
    "update_probe": (False, True, {}),
    "sequence": (None, np.arange(20), {}),
}


@pytest.mark.parametrize("key", SWITCHED)
def test_a_switch_resets_the_history(key: str, log: pytest.LogCaptureFixture):
    """Once, at its epoch, with its reason; the run goes on from where it was, and the loss falls before and after."""
    before, after, changes = SWITCHED[key]
    found = Stepped(
        small_params(**{key: lambda epoch: before if epoch < 3 else after}, **changes, epoch_max=6)
    )
    assert found.pairs == [1, 2, 3, 1, 2, 3]
    ((epoch, why),) = resets(log)
    assert epoch == 3
    assert why.startswith(WHY[key])
    losses = [record.loss for record in found.records]
    assert (np.diff(losses[:3]) < 0).all()
    assert (np.diff(losses[3:]) < 0).all()
    assert len({record.blocks for record in found.records}) == (2 if key == "update_probe" else 1)


def test_a_schedule_without_a_change_resets_nothing(log: pytest.LogCaptureFixture):
    """Values that have no effect may change: there is no total variation to have an exponent, no window."""
    changes = {"atv_q": lambda epoch: 1 + 0.1 * epoch, "window": lambda epoch: [0.1 * epoch, 1.0]}
    assert Stepped(small_params(**changes, epoch_max=4)).pairs == [1, 2, 3, 4]
    assert Stepped(small_params(phase_only_obj=lambda epoch: False, epoch_max=4)).pairs == [1, 2, 3, 4]
    assert resets(log) == []


def test_integrators_take_turns():
    """A run of several methods: each epoch's loss is that of its own method."""
    methods = ("multislice", "yoshida", "angular_spectrum", "better_multislice", "multislice")
    found = Stepped(
        small_params(
            propmethod=lambda epoch: methods[epoch],
            dataset=patterns(2),
            num_slices=2,
            slice_distances=[12.0],
            update_slice_distances=True,
            epoch_max=5,
        )
    )
    for record, method, variables in zip(
        found.records, methods, [found.start, *found.variables], strict=False
    ):
        params = small_params(
            dataset=patterns(2),
            propmethod=method,
            obj=variables.obj.transpose(2, 3, 1, 0),
            probe=variables.probe.transpose(1, 2, 0),
            slice_distances=variables.slice_distances,
            skip_preprocessing=True,
        )
        assert record.loss == pytest.approx(pypty.evaluate(params).loss, rel=1e-9)
    assert found.records[-1].loss < 0.2 * found.records[0].loss


# --------------------------------------------------------------------------------------------------------------------
# Parametrisations


def absorbing_start(**changes: Any) -> dict[str, Any]:
    """An object whose amplitude is not 1, to begin with."""
    rng = np.random.default_rng(8)
    dark = scipy.ndimage.gaussian_filter(rng.standard_normal((24, 24)), 2)
    obj = np.exp(-0.1 * np.abs(dark / dark.std()))[..., None, None].astype(complex)
    return small_params(obj=obj, skip_preprocessing=True, probe=aperture_probe(0.7), **changes)


@pytest.mark.parametrize("lazy_clean", [False, True])
def test_phase_only(lazy_clean: bool):
    params = absorbing_start(phase_only_obj=True, epoch_max=8, lazy_clean=lazy_clean)
    found = Stepped(params)
    amplitude = np.abs(params["obj"]).transpose(3, 2, 0, 1)
    for variables in found.variables:
        np.testing.assert_allclose(np.abs(variables.obj), amplitude, rtol=1e-12)
    assert np.ptp(np.angle(found.variables[-1].obj)) > 0.3
    losses = [record.loss for record in found.records]
    assert (np.diff(losses) < 0).all()
    assert losses[-1] < 0.3 * losses[0]
    free = Stepped({**params, "phase_only_obj": False})
    assert relative(np.abs(free.variables[-1].obj), amplitude) > 1e-3


def test_phase_only_stays_band_limited_in_phase():
    """The steps of the phase are inside the object's band limit."""
    found = Stepped(absorbing_start(phase_only_obj=True, epoch_max=4))
    phase = np.angle(found.variables[-1].obj[0, 0])
    f = np.fft.fftfreq(len(phase))
    beyond = np.hypot(f[:, None], f) > 0.5 * (2 / 3 - 0.005) + 1e-9
    spectrum = np.abs(np.fft.fft2(phase))
    assert spectrum[beyond].max() < 1e-10 * spectrum.max()


def test_amplitude_and_phase():
    """Both move, and the fit is as good as that of complex numbers."""
    params = absorbing_start(obj_parametrization="amplitude_phase", epoch_max=15)
    found = Stepped(params)
    losses = [record.loss for record in found.records]
    assert (np.diff(losses) < 0).all()
    complex_losses = [record.loss for record in Stepped({**params, "obj_parametrization": "complex"}).records]
    assert losses[-1] < 3 * complex_losses[-1] < 0.1 * losses[0]
    assert relative(np.abs(found.variables[-1].obj), np.abs(found.start.obj)) > 1e-3
    assert np.ptp(np.angle(found.variables[-1].obj)) > 0.3


def test_only_the_phase_of_the_probe():
    params = absorbing_start(tune_only_probe_phase=True, epoch_max=8)
    found = Stepped(params)
    start = np.fft.fft2(found.start.probe)
    for variables in found.variables:
        spectrum = np.fft.fft2(variables.probe)
        np.testing.assert_allclose(np.abs(spectrum), np.abs(start), atol=1e-12 * np.abs(start).max())
    bright = np.abs(start) > 0.1 * np.abs(start).max()
    assert np.abs(np.angle(spectrum[bright] / start[bright])).max() > 0.02
    losses = [record.loss for record in found.records]
    assert (np.diff(losses) < 0).all()


def test_only_the_amplitude_of_the_probe():
    """The start is bright everywhere, too bright at the rim: no amplitude has to pass through zero."""
    f = np.fft.fftfreq(16)
    r2 = (f[:, None] ** 2 + f**2) / 0.25**2
    spectrum = np.exp(-1j * r2) * np.exp(-r2)
    probe = np.fft.fftshift(np.fft.ifft2(spectrum))
    probe *= np.sqrt(2000.0 / (np.abs(spectrum) ** 2).sum())
    found = Stepped(
        small_params(probe=probe[..., None], skip_preprocessing=True, tune_only_probe_abs=True, epoch_max=8)
    )
    start = np.fft.fft2(found.start.probe)
    bright = np.abs(start) > 0.05 * np.abs(start).max()
    for variables in found.variables:
        spectrum = np.fft.fft2(variables.probe)
        assert np.abs(np.sin(np.angle(spectrum[bright] / start[bright]))).max() < 1e-9
    assert relative(np.abs(spectrum), np.abs(start)) > 0.02
    losses = [record.loss for record in found.records]
    assert (np.diff(losses) < 0).all()


def test_amplitudes_that_pass_through_zero():
    """Steps that are too long on purpose, over a vacuum: where the data are dark the amplitude of the probe's spectrum
    changes its sign. What is kept for the next epoch must be the gradient there (the fixture looks)."""
    vacuum = {"obj": np.ones((24, 24, 1, 1), complex), "skip_preprocessing": True, "update_obj": False}
    f = np.fft.fftfreq(16)
    bright, wanted = (np.exp(-(f[:, None] ** 2 + f**2) / width**2) for width in (0.3, 0.1))
    data = np.stack([np.fft.fftshift(100 * wanted**2)] * N_PATTERNS)
    probe = np.fft.fftshift(np.fft.ifft2(10 * bright))[..., None]
    changes = {"tune_only_probe_abs": True, "update_step_bfgs": 1.8, "hist_length": 0, "epoch_max": 4}
    found = Stepped(small_params(probe=probe, dataset=data, **vacuum, **changes))
    turned = np.fft.fft2(found.variables[0].probe) / np.fft.fft2(found.start.probe)
    assert (turned.real < -0.1).any()
    losses = [record.loss for record in found.records]
    assert (np.diff(losses) < 0).all()


def vector_gradient(block: str, factor: float, **form: Any) -> tuple[float, float]:
    """The slope of the loss along a random change of the optimiser's vector: by its gradient, and by differences.

    Parameters
    ----------
    factor : of some amplitudes of the block, before
    """
    params = absorbing_start(**form, update_probe_pos=True, lazy_clean=True, damping_cutoff_multislice=1.5)
    params["obj"] = params["obj"] * smooth_object()[:24, :24]
    params["probe"] = params["probe"] + 1e-2 * random_complex(np.random.default_rng(3), (16, 16, 1))
    setup = prepare(params)
    problem = Reconstruction(setup, State(variables=setup.variables(), epoch=0)).problem(setup.settings.at(0))
    point = problem.point()
    rng = np.random.default_rng(5)
    amplitude = point[block][0] if form.get("obj_parametrization") == "amplitude_phase" else point[block]
    amplitude *= np.where(rng.uniform(size=amplitude.shape) < 0.2, factor, 1.0)
    change = BlockVector(problem.form.project({block: random_like(rng, point[block])}))
    moved = BlockVector({name: change.get(name, np.zeros_like(array)) for name, array in point.items()})
    slope = directional_derivative(lambda t: problem(point.plus(t, moved)).value, 1e-6)
    return problem(point).gradient.dot(moved), slope


@pytest.mark.parametrize(
    ("key", "value", "block"),
    [
        ("phase_only_obj", False, "obj"),
        ("phase_only_obj", True, "obj"),
        ("obj_parametrization", "amplitude_phase", "obj"),
        ("tune_only_probe_phase", False, "probe"),
        ("tune_only_probe_phase", True, "probe"),
        ("tune_only_probe_abs", True, "probe"),
        ("positions_parametrization", "free", "positions"),
        ("positions_parametrization", "affine", "positions"),
        ("positions_parametrization", "jitter", "positions"),
    ],
)
def test_gradient_of_the_vector(key: str, value: Any, block: str):
    """What the optimiser gets is the gradient of the loss as a function of what it moves."""
    slope, expected = vector_gradient(block, 1.0, **{key: value})
    assert slope == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("key", "value", "block"),
    [("tune_only_probe_abs", True, "probe"), ("obj_parametrization", "amplitude_phase", "obj")],
)
def test_gradient_of_negative_amplitudes(key: str, value: Any, block: str):
    """A line search may try them."""
    slope, expected = vector_gradient(block, -0.5, **{key: value})
    assert slope == pytest.approx(expected, rel=1e-5)


def test_dark_pixels_of_an_object():
    """The same for amplitude and phase of an object that is opaque somewhere."""
    params = absorbing_start(obj_parametrization="amplitude_phase", lazy_clean=True, epoch_max=8)
    params["obj"][8:12, 8:12] = 1e-3
    losses = [record.loss for record in Stepped(params).records]
    assert len(losses) == 8
    assert (np.diff(losses) < 0).all()


def affine_span(positions: np.ndarray) -> np.ndarray:
    """(N, 3): y, x and 1."""
    return np.concatenate([positions, np.ones((len(positions), 1))], axis=1)


def turned_scan(**changes: Any) -> dict[str, Any]:
    """Data of a scan that is turned by 2 degrees and 3 % larger; object and probe are known."""
    start = scan_positions() + 1.1
    angle, scale = np.deg2rad(2.0), 1.03
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = start.mean(axis=0)
    true = (start - centre) @ matrix.T + centre
    known = small_params(
        obj=smooth_object(), probe=aperture_probe(1.0), positions=true, skip_preprocessing=True, dataset=...
    )
    return {
        **known,
        "dataset": pypty.simulate(known),
        "positions": start,
        "update_obj": False,
        "update_probe": False,
        "update_probe_pos": True,
        "true": true,
        **changes,
    }


def test_affine_positions():
    """All positions move by one affine map, which is found."""
    params = turned_scan(positions_parametrization="affine", epoch_max=12)
    true, start = params.pop("true"), params["positions"]
    found = Stepped(params)
    span = affine_span(start)
    for variables in found.variables:
        step = variables.positions - start
        fitted = span @ np.linalg.lstsq(span, step, rcond=None)[0]
        np.testing.assert_allclose(step, fitted, atol=1e-10)
    error = np.abs(found.variables[-1].positions - true).max()
    assert error < 0.02 * np.abs(start - true).max()


def test_jitter_of_positions():
    """Positions move in any way but by an affine map of the scan as it was given."""
    params = turned_scan(positions_parametrization="jitter", epoch_max=6)
    start = params["positions"]
    del params["true"]
    found = Stepped(params)
    span = affine_span(start - start.mean(axis=0))
    for variables in found.variables:
        step = variables.positions - start
        assert np.abs(np.linalg.lstsq(span, step, rcond=None)[0]).max() < 1e-10
    assert np.abs(found.variables[-1].positions - start).max() > 1e-3


@pytest.mark.parametrize(
    "by_hand",
    [{"apply_gaussian_filter": [1.0, 1.0]}, {"do_charge_flip": "epoch == 2", "cf_delta_phase": 0.3}],
)
def test_changes_by_hand_keep_the_amplitude_of_a_phase_object(by_hand: dict) -> None:
    result = pypty.run(small_params(phase_only_obj=True, epoch_max=4, **by_hand))
    np.testing.assert_allclose(np.abs(result.obj), 1, atol=1e-12)
    assert np.angle(result.obj).std() > 1e-3


def test_the_form_of_what_is_not_refined_does_not_matter(caplog: pytest.LogCaptureFixture) -> None:
    """Nor does the shape of a regulariser that is off."""
    params = small_params(epoch_max=5, atv_weight=1e-3)
    idle = {
        "positions_parametrization": "'affine' if epoch > 2 else 'free'",
        "probe_mod_tol": "0.1 + 0.01*epoch",
    }
    with caplog.at_level("INFO", "pypty"):
        changed = pypty.run({**params, **idle})
    np.testing.assert_array_equal(changed.loss, pypty.run(params).loss)
    assert "history reset" not in caplog.text


def test_edits_before_an_update_name_what_they_changed() -> None:
    setup = prepare(small_params(obj=smooth_object()))
    variables, now = setup.variables(), dict(setup.settings.first())
    limits = setup.band_limits(variables)
    same, changed = before_update(variables, now, setup, limits)
    assert changed == [] and same is variables
    found, changed = before_update(variables, {**now, "restart_from_vacuum": True}, setup, limits)
    assert changed == ["restart_from_vacuum"]
    np.testing.assert_array_equal(found.obj, np.ones_like(variables.obj))
    moved = variables.replace({"positions": variables.positions + 1.5})
    found, changed = before_update(moved, {**now, "reset_positions": True}, setup, limits)
    assert changed == ["reset_positions"]
    np.testing.assert_array_equal(found.positions, setup.scan.positions)
    setup.close()


def test_a_filter_after_an_update_smooths_the_phase_alone() -> None:
    setup = prepare(small_params(obj=0.9 * smooth_object()))
    variables, now = setup.variables(), dict(setup.settings.first())
    limits = setup.band_limits(variables)
    assert after_update(variables, now, limits) == (variables, [])
    found, changed = after_update(variables, {**now, "apply_gaussian_filter": np.array([2.0, 2.0])}, limits)
    assert changed == ["apply_gaussian_filter"]
    before, after = (np.angle(one.obj)[..., 6:-6, 6:-6] for one in (variables, found))
    assert after.std() < 0.9 * before.std()
    setup.close()


def test_windows_follow_positions_that_moved_by_a_pixel() -> None:
    setup = prepare(small_params(obj=smooth_object(), dynamically_resize_yx_object=0.9))
    variables, now = setup.variables(), setup.settings.first()
    same, scan, changed = moved_scan(variables, setup.scan, now, setup)
    assert changed == [] and scan is setup.scan and same is variables
    away = variables.positions.copy()
    away[3] += [0.0, 2.0]
    found, scan, changed = moved_scan(variables.replace({"positions": away}), setup.scan, now, setup)
    assert changed == ["dynamically_resize_yx_object"]
    shift = found.positions[0] - away[0]
    np.testing.assert_allclose(found.positions, away + shift)
    np.testing.assert_array_equal(scan.crop_origins[3] - shift, np.round(away[3]))
    setup.close()
