"""Deviance of counts from a model: its value, its expectation, and the pass over the patterns that sums it up."""

from __future__ import annotations

import numpy as np
import pytest
from problems import small_params
from scipy.stats import poisson

import pypty
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.state import State
from pypty.engine.setup.comparison import count_model, usable_pixels
from pypty.engine.setup.prepare import prepare
from pypty.objective.deviance import CountModel, deviance_terms, expected_deviance, poisson_deviance
from pypty.objective.fit import FitSums, deviance_ratio, fit_sums


def test_it_is_twice_the_difference_of_log_likelihoods():
    model = np.array([0.3, 2.0, 50.0, 900.0])
    counts = np.array([0.0, 3.0, 40.0, 1000.0])
    best = poisson.logpmf(counts, np.maximum(counts, 1e-12))
    np.testing.assert_allclose(
        poisson_deviance(counts, model), 2 * (best - poisson.logpmf(counts, model)), rtol=1e-9
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("intensity", [1e-4, 0.03, 0.5, 1.7, 12.0, 300.0, 2e4, 1e6])
def test_its_expectation_is_the_sum_over_the_poisson_distribution(intensity: float, dtype: type):
    width = 12 * np.sqrt(intensity) + 30
    counts = np.arange(max(0, int(intensity - width)), int(intensity + width))
    weight = poisson.pmf(counts, intensity)
    deviance = poisson_deviance(counts.astype(float), np.full(len(counts), intensity))
    mean = (weight * deviance).sum()
    variance = (weight * (deviance - mean) ** 2).sum()
    # values around the intensity, since the table has steps
    around = intensity * np.exp(np.linspace(-0.01, 0.01, 1001))
    found = [float(part.mean()) for part in expected_deviance(around.astype(dtype))]
    np.testing.assert_allclose(found, [mean, variance], rtol=5e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_counts_from_the_model_have_the_expected_deviance(dtype: type):
    """Over eight decades of intensity: within three standard deviations."""
    rng = np.random.default_rng(0)
    model = np.exp(rng.uniform(np.log(1e-4), np.log(1e4), 300_000))
    deviance, expected, variance = (
        part.astype(float) for part in deviance_terms(rng.poisson(model).astype(dtype), model.astype(dtype))
    )
    error = (deviance.sum() - expected.sum()) / np.sqrt(variance.sum())
    assert abs(error) < 3
    assert abs(deviance.sum() / expected.sum() - 1) < 0.005


@pytest.mark.parametrize("electrons", [0.01, 0.1, 0.5, 2.0, 20.0])
@pytest.mark.parametrize(("gain", "readout"), [(2.5, 0.0), (2.5, 1.5), (1.0, 1.0), (100.0, 5.0)])
def test_data_units_become_electrons(gain: float, readout: float, electrons: float) -> None:
    """The expectation knows the read-out noise, also where there is less than an electron."""
    rng, counts = np.random.default_rng(1), CountModel(gain, readout)
    data = gain * rng.poisson(electrons, 300_000) + rng.normal(0, readout, 300_000)
    deviance, expected, variance = deviance_terms(
        counts.electrons(data), counts.electrons(np.full(data.shape, gain * electrons)), counts.sigma
    )
    assert abs(deviance.sum() - expected.sum()) < 4 * np.sqrt(variance.sum()) + 1e-3 * expected.sum()
    assert variance.mean() == pytest.approx(deviance.var(), rel=0.1)


def test_the_wrong_gain_is_seen() -> None:
    data = 2.5 * np.random.default_rng(1).poisson(20.0, 20_000)
    wrong, expected, _ = deviance_terms(data, np.full(data.shape, 50.0))
    assert wrong.mean() / expected.mean() > 2


def fitted(**changes: object) -> tuple[FitSums, Reconstruction, float]:
    """Sums of the model of the start, whose patterns with Poisson noise are the data."""
    params = small_params(output_folder="", **changes)
    model = pypty.simulate(params)
    scale = 40 / model.mean()
    data = np.random.default_rng(2).poisson(scale * model)
    probe = np.sqrt(scale) * prepare(params).variables().probe
    params = {
        **params,
        "dataset": data,
        "probe": np.moveaxis(probe, (-2, -1), (0, 1)),
        "skip_preprocessing": True,
    }
    setup = prepare(params)
    run = Reconstruction(setup, State(variables=setup.variables(), epoch=0))
    objective = run.problem(setup.settings.first()).objective
    arguments = {"counts": count_model(setup), "usable": usable_pixels(setup, objective.model.reachable)}
    indices = np.arange(len(data))
    sums = fit_sums(objective, run.state.variables, indices, **arguments)
    return sums, run, deviance_ratio(objective, run.state.variables, indices, **arguments)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_right_model_has_the_expected_deviance(threads: int):
    sums, run, ratio = fitted(n_threads=threads, algorithm="ml")
    assert ratio == pytest.approx(sums.ratio, rel=1e-6)
    assert abs(sums.ratio - 1) < 4 * sums.ratio_error < 0.2
    # sums over patterns and over pixels are the same
    np.testing.assert_allclose(sums.of_pattern.sum(axis=0)[0], sums.deviance.sum(), rtol=1e-6)
    np.testing.assert_allclose(sums.pattern_squares.sum(), sums.squares.sum(), rtol=1e-6)
    assert np.isnan(sums.with_previous).sum() == threads
    np.testing.assert_array_equal(sums.indices, np.arange(run.setup.n_patterns))
    for pairs in (sums.right, sums.below):
        assert abs(pairs.sum()) < 4 * np.sqrt(sums.squares.sum())
