"""Pixels that are not fitted: which ones, that nothing depends on them, and their deviance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import counts, small_params, smooth_object

import pypty
from pypty.engine.epochs.misfit import sample
from pypty.objective.deviance import CountModel, poisson_deviance
from pypty.objective.free_pixels import FreePixels
from pypty.output.loss_log import read_records

SHAPE = (32, 30)
LOSSES: dict[str, dict[str, Any]] = {
    "ml": {"algorithm": "ml"},
    "lsq": {"algorithm": "lsq"},
    "poisson_gaussian": {"algorithm": "poisson_gaussian", "detector_gain": 2.0, "readout_noise": 0.5},
    "loss_terms": {"loss_terms": {"single": {"weight": 1.0, "dp_pow": 0.5}, "poissn": {"weight": 0.5}}},
}


def masks(fraction: float = 0.1, seed: int = 0, n: int = 400) -> np.ndarray:
    return FreePixels(fraction, seed).mask(np.arange(n), SHAPE)


@pytest.mark.parametrize("fraction", [0.02, 0.05, 0.3])
def test_the_fraction_is_right_and_blocks_are_independent(fraction: float) -> None:
    """Fractions and correlations of neighbouring blocks, patterns and seeds within four standard deviations."""
    blocks = masks(fraction)[:, ::2, ::2].astype(float)
    assert abs(blocks.mean() - fraction) < 4 * np.sqrt(fraction / blocks.size)
    off = (blocks - fraction) / np.sqrt(fraction * (1 - fraction))
    other = masks(fraction, seed=1)[:, ::2, ::2].astype(float)
    pairs = {
        "rows": (off[:, 1:], off[:, :-1]),
        "columns": (off[:, :, 1:], off[:, :, :-1]),
        "patterns": (off[1:], off[:-1]),
        "seeds": (off, (other - fraction) / np.sqrt(fraction * (1 - fraction))),
    }
    for name, (one, two) in pairs.items():
        assert abs((one * two).mean()) < 4 / np.sqrt(one.size), name
    # no pixel is free more often than chance allows: binomial over 400 patterns
    spread = np.sqrt(fraction * (1 - fraction) / len(blocks))
    assert abs(blocks.mean(axis=0) - fraction).max() < 5 * spread
    assert abs(blocks.mean(axis=(1, 2)) - fraction).max() < 5 * np.sqrt(fraction / blocks[0].size)


def test_blocks_have_two_by_two_pixels() -> None:
    mask = FreePixels(0.3, 2).mask(np.arange(20), (7, 9))
    for rows, columns in ((0, 0), (1, 0), (0, 1)):
        shifted = mask[:, rows::2, columns::2]
        np.testing.assert_array_equal(mask[:, ::2, ::2][:, : shifted.shape[1], : shifted.shape[2]], shifted)
    assert 0.2 < mask.mean() < 0.4


@pytest.mark.parametrize("shape", [(7, 9), (8, 6), (1, 5), (16, 16)])
def test_places_are_those_of_the_mask(shape: tuple[int, int]) -> None:
    free, index = FreePixels(0.3, 2), np.array([4, 0, 2**31 - 1])
    np.testing.assert_array_equal(np.sort(free.places(index, shape)), np.flatnonzero(free.mask(index, shape)))


def with_mask(**changes: Any) -> dict[str, Any]:
    return {"detector_mask": np.random.default_rng(5).uniform(0.2, 1, counts().shape[1:]), **changes}


def as_weights(free: FreePixels, shape: tuple[int, int, int]) -> np.ndarray:
    """The same pixels as a detector_mask: 0 where they are free; zero frequency at n//2."""
    return np.fft.fftshift(~free.mask(np.arange(shape[0]), shape[1:]), axes=(1, 2)).astype(float)


@pytest.mark.parametrize("loss", LOSSES)
def test_they_have_no_weight(loss: str) -> None:
    data = counts()
    # the counts of all pixels scale a starting probe, and the floor of intensities that are only rounding
    start = {"skip_preprocessing": True, "obj": smooth_object()}
    params = small_params(output_folder="", dataset=data, seed=3, **start, **LOSSES[loss])
    found = pypty.evaluate({**params, "free_pixels": 0.2})
    weights = as_weights(FreePixels(0.2, 3), data.shape)
    wanted = pypty.evaluate({**params, "detector_mask": weights})
    assert found.loss == pytest.approx(wanted.loss, rel=1e-12)
    assert found.sse == pytest.approx(wanted.sse, rel=1e-12)
    for name, gradient in wanted.gradients.items():
        np.testing.assert_allclose(found.gradients[name], gradient, atol=1e-10 * abs(gradient).max())


@pytest.mark.parametrize("optimizer", ["lbfgs", "preconditioned", "adam"])
def test_the_result_does_not_depend_on_them(optimizer: str) -> None:
    """Other counts there change their deviance alone (if the mean pattern, which the preconditioner uses, is kept)."""
    data = counts()
    rates = {"learning_rates": {"obja": 1e-3, "objp": 1e-3}} if optimizer == "adam" else {}
    params = small_params(
        output_folder="",
        free_pixels=0.2,
        optimizer=optimizer,
        algorithm="ml",
        skip_preprocessing=True,
        **rates,
    )
    other, free = data.copy(), as_weights(FreePixels(0.2), data.shape) == 0
    for ky, kx in np.ndindex(data.shape[1:]):
        chosen = np.flatnonzero(free[:, ky, kx])
        other[chosen, ky, kx] = data[np.roll(chosen, 1), ky, kx]
    one, two = (pypty.run({**params, "dataset": array}) for array in (data, other))
    np.testing.assert_array_equal(one.obj, two.obj)
    np.testing.assert_array_equal(one.loss, two.loss)
    # in vacuum all patterns are equal
    assert (two.history.free_deviance != one.history.free_deviance)[1:].all()


@pytest.mark.parametrize("loss", LOSSES)
def test_their_mean_deviance_is_recorded(loss: str, tmp_path: Path) -> None:
    """Of the point before the update, weighted, in electrons."""
    data = counts()
    given = with_mask(dataset=data, free_pixels=0.2, seed=4, epoch_max=2, **LOSSES[loss])
    params = small_params(**given, output_folder=str(tmp_path))
    result = pypty.run(params)
    model = pypty.simulate(params)
    units = CountModel(2.0, 0.5) if loss == "poisson_gaussian" else CountModel()
    free = as_weights(FreePixels(0.2, 4), data.shape) == 0
    deviance = poisson_deviance(units.electrons(data.astype(float)), units.electrons(model))
    # where the model can have counts, but for a rim of one pixel
    frequency = np.fft.fftshift(np.hypot(*np.meshgrid(*[np.fft.fftfreq(16)] * 2)))
    reachable = np.pad(frequency < 2 / 3 * 7 / 16, 1, constant_values=True)
    inner = np.all([np.roll(reachable, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)], axis=0)[
        1:-1, 1:-1
    ]
    weights = given["detector_mask"] * free * inner
    assert result.history.free_deviance[0] == pytest.approx(
        (deviance * weights).sum() / weights.sum(), rel=1e-9
    )
    logged = [record.free_deviance for record in read_records(tmp_path / "loss.csv")]
    assert logged == result.history.free_deviance.tolist()


def test_without_free_pixels_there_is_no_deviance() -> None:
    assert np.isnan(pypty.run(small_params(output_folder="")).history.free_deviance).all()


def test_the_deviance_of_an_epoch_is_that_of_some_patterns(tmp_path: Path) -> None:
    """After the update, in the log, too."""
    params = small_params(dataset=counts(), algorithm="ml", output_folder=str(tmp_path), epoch_max=4)
    result = pypty.run({**params, "print_flag": 2})
    deviance = result.history.deviance
    assert 0 < deviance[-1] < 0.5 * deviance[0]
    assert [record.deviance for record in read_records(tmp_path / "loss.csv")] == deviance.tolist()
    assert f"deviance {deviance[-1]:.4g}  loss" in (tmp_path / "pypty.log").read_text(encoding="utf-8")


def test_data_that_are_no_counts_have_no_deviance() -> None:
    """Unless their gain is named: then it does not depend on the unit."""
    data = np.random.default_rng(0).poisson(counts() / 20) * 0.37
    params = small_params(output_folder="", epoch_max=2)
    assert np.isnan(pypty.run({**params, "dataset": counts() / 3.7 + 0.1}).history.deviance).all()
    known = pypty.run({**params, "dataset": data, "algorithm": "poisson_gaussian", "detector_gain": 0.37})
    whole = pypty.run({**params, "dataset": np.rint(data / 0.37), "algorithm": "ml"})
    np.testing.assert_allclose(known.history.deviance, whole.history.deviance, rtol=0.02)


def test_the_memory_does_not_suffice_for_the_deviance(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("pypty.objective.fit.deviance_terms", full)
    result = pypty.run(small_params(dataset=counts(), algorithm="ml", output_folder="", epoch_max=2))
    assert np.isnan(result.history.deviance).all() and len(result.epochs) == 2


@pytest.mark.parametrize("side", [64, 128, 256])
def test_the_sample_covers_the_scan(side: int) -> None:
    """Every 64th pattern of a raster would be one column of it."""
    np.testing.assert_array_equal(sample(np.arange(5)), np.arange(5))
    chosen = sample(np.arange(side**2))
    assert len(chosen) == side**2 // 64 and (np.diff(chosen) > 0).all()
    rows, columns = np.divmod(chosen, side)
    for places in (rows, columns):
        quarters = np.bincount(places * 4 // side, minlength=4) / len(chosen)
        assert abs(quarters - 0.25).max() < 0.05
    assert len(sample(np.arange(100, 120))) == 8
    for n in range(1, 20):  # each once: ranks divide them among themselves
        assert (np.diff(sample(np.arange(n))) > 0).all()


@pytest.mark.parametrize("unit", [{"data_normalization": "max_at_one"}, {"data_multiplier": 1.0}])
def test_a_normalisation_does_not_change_the_deviance(unit: dict[str, Any]) -> None:
    """Counts that are normalised are still counts; a multiplier is taken to make electrons."""
    params = small_params(dataset=counts(), output_folder="", epoch_max=3)
    found, plain = (
        pypty.run({**params, "algorithm": "auto", **extra}).history.deviance for extra in (unit, {})
    )
    np.testing.assert_allclose(found, plain, rtol=0.02)


def test_a_wrong_multiplier_is_seen() -> None:
    params = small_params(dataset=counts(), algorithm="ml", output_folder="", epoch_max=6)
    plain, wrong = (
        pypty.run({**params, "data_multiplier": factor}).history.deviance[-1] for factor in (1, 4)
    )
    assert wrong == pytest.approx(4 * plain, rel=0.3)
