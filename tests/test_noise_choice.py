"""The noise model that ``algorithm`` "auto" stands for, the bias of amplitude losses, and what the band limit costs."""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from problems import SIDE, aperture_probe, counts, patterns, small_params, smooth_object

import pypty
from pypty.data.disk import Scattering, disk_facts
from pypty.data.noise import DetectorNoise, frequencies_without_signal, noise_problem, photon_transfer
from pypty.data.survey import _Whole
from pypty.demo import demo_data, demo_params
from pypty.engine.setup import noise
from pypty.engine.setup.band_limit import band_limit_advice, band_limit_cost
from pypty.engine.setup.detector import measured_disk, semiangle_rad
from pypty.engine.setup.mistakes import likely_mistakes
from pypty.engine.setup.noise import bias_warning, measured_noise, phase_bias
from pypty.engine.setup.prepare import inspect, prepare
from pypty.errors import ParameterError
from pypty.objective.bias import expected_factor

RASTER = (16, 16)
GAIN, READOUT = 2.5, 1.5
PIXELS = np.eye(SIDE * SIDE).reshape(-1, SIDE, SIDE)
"""Virtual detectors of a pixel each."""
MASKS = PIXELS[108:148]


def automatic(**changes: Any) -> dict[str, Any]:
    return small_params(**{"algorithm": "auto", **changes})


def raster(step: float) -> np.ndarray:
    y, x = np.indices(RASTER)
    return step * np.stack([y.ravel(), x.ravel()], axis=1)


@lru_cache
def _fine() -> np.ndarray:
    """Noise-free patterns of steps so small that most scan frequencies lie beyond the diameter of the aperture."""
    known = {"obj": smooth_object(), "probe": aperture_probe(1.0), "skip_preprocessing": True}
    return pypty.simulate(automatic(dataset=..., positions=raster(0.5), **known))


def fine(dataset: np.ndarray, **changes: Any) -> dict[str, Any]:
    return automatic(**{"dataset": dataset, "positions": raster(0.5), "scan_size": RASTER, **changes})


def electrons(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(5 * _fine())


def read_out(seed: int = 0) -> np.ndarray:
    """Scaled counts with read-out noise; many are negative."""
    counted = electrons(seed)
    return GAIN * counted + READOUT * np.random.default_rng(seed + 1).standard_normal(counted.shape)


def chosen(params: dict[str, Any]) -> tuple[str, float, float, str]:
    """Algorithm, gain, read-out noise and reason."""
    setup = prepare(params)
    setup.close()
    settings = setup.settings
    gain, readout = settings["detector_gain"], settings["readout_noise"]
    return settings["algorithm"], gain, readout, " ".join(settings.choices)


# -------------------------------------------------------------------------------------------------- the choice

SUMS = np.einsum("nyx,dyx->nd", counts("float64"), MASKS)
CASES: dict[str, tuple[dict[str, Any], tuple[str, float, float], str]] = {
    "whole numbers": ({"dataset": counts()}, ("ml", 1, 0), "whole counts"),
    "floats that are whole": ({"dataset": counts("float32")}, ("ml", 1, 0), "whole counts"),
    "divided by the gain": (
        {"dataset": 2.5 * counts("float32"), "data_multiplier": 0.4},
        ("ml", 1, 0),
        "whole counts",
    ),
    "whole numbers divided by the gain": (
        {"dataset": 10 * counts(), "data_multiplier": 0.1},
        ("ml", 1, 0),
        "whole counts",
    ),
    "divided by a gain that is no whole number": (
        {"dataset": np.rint(2.7 * counts()).astype("uint32"), "data_multiplier": 1 / 2.7},
        ("ml", 1, 0),
        "data_multiplier = 0.37037 is taken to make electrons",
    ),
    "resampled": (
        {"dataset": counts(), "data_resample": 0.5, "pixel_size_x_A": 0.4, "probe": None},
        ("lsq_sqrt", 1, 0),
        "scan_size",
    ),
    "scaled": ({"dataset": 2.5 * counts("float32") + 0.3}, ("lsq_sqrt", 1, 0), "set detector_gain"),
    "a given gain": ({"detector_gain": 3.0}, ("poisson_gaussian", 3, 0), "detector_gain = 3 and"),
    "given read-out noise": (
        {"dataset": patterns() - 0.5, "readout_noise": 2.0},
        ("poisson_gaussian", 1, 2),
        "are given",
    ),
    "noise-free": ({}, ("lsq_sqrt", 1, 0), "not whole counts"),
    "virtual detectors": (
        {"dataset": SUMS, "masks": MASKS},
        ("poisson_compressed", 1, 0),
        "virtual detectors hold whole counts",
    ),
    "virtual detectors, scaled": (
        {"dataset": 0.3 * SUMS, "masks": MASKS},
        ("lsq_compressed", 1, 0),
        "set algorithm = 'poisson_compressed'",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_chosen(name: str) -> None:
    changes, expected, reason = CASES[name]
    *found, why = chosen(automatic(**changes))
    assert tuple(found) == expected
    assert reason in why


def test_a_normalised_pattern_has_a_gain() -> None:
    algorithm, gain, readout, _ = chosen(automatic(dataset=counts(), data_normalization="sum_to_one"))
    assert (algorithm, readout) == ("poisson_gaussian", 0)
    assert gain == pytest.approx(1 / counts("float64").mean(axis=0).sum())


def test_a_multiplier_does_not_hide_the_measured_noise() -> None:
    """Half of whole counts have the gain 1/2, where the raster shows it."""
    many = np.random.default_rng(0).poisson(5 * _fine() + 0.5)
    algorithm, gain, readout, why = chosen(fine(many, data_multiplier=0.5))
    assert algorithm == "poisson_gaussian" and "scan frequencies without signal" in why
    assert gain == pytest.approx(0.5, rel=0.1) and readout < 0.2


def test_a_named_algorithm_and_a_sum_of_losses_leave_nothing_to_choose() -> None:
    assert chosen(automatic(dataset=counts(), algorithm="lsq"))[::3] == ("lsq", "")
    assert chosen(automatic(dataset=counts(), loss_terms={"single": True}))[::3] == ("auto", "")


def test_gain_and_readout_noise_are_measured() -> None:
    """Negative values are allowed then; a constant that was subtracted counts as read-out noise."""
    algorithm, gain, readout, why = chosen(fine(read_out()))
    assert algorithm == "poisson_gaussian" and "scan frequencies without signal" in why
    assert gain == pytest.approx(GAIN, rel=0.1) and readout == pytest.approx(READOUT, rel=0.05)
    algorithm, gain, readout, _ = chosen(fine(np.random.default_rng(0).poisson(5 * _fine() + 0.5) - 0.5))
    assert algorithm == "poisson_gaussian"
    assert gain == pytest.approx(1, rel=0.1) and readout**2 == pytest.approx(0.5, rel=0.2)
    assert chosen(fine(5 * _fine()))[0] == "lsq_sqrt", "without noise there is no gain"


NOT_MEASURED: dict[str, tuple[dict[str, Any], str]] = {
    "no raster": ({"scan_size": None}, "scan_size, the raster, is not given"),
    "wide steps": ({"positions": raster(2.0)}, "too few scan frequencies without signal"),
    "no regular raster": (
        {"positions": raster(0.5) + np.random.default_rng(0).uniform(0, 0.5, (256, 2))},
        "no regular raster",
    ),
    "positions on a line": ({"positions": raster(0.5) * [0, 1]}, "lie on a point or a line"),
    "equal positions": ({"positions": np.full((256, 2), 3.7)}, "lie on a point or a line"),
    "missing patterns": (
        {
            "dataset": np.abs(read_out()[1:]) + 0.25,
            "positions": raster(0.5)[1:],
            "missing_patterns": [0],
        },
        "patterns are missing",
    ),
    "a small raster": (
        {
            "dataset": np.abs(read_out()[:64]) + 0.25,
            "positions": raster(0.5)[:64],
            "scan_size": (4, 16),
        },
        "smaller than 12 x 12",
    ),
}


@pytest.mark.parametrize("name", NOT_MEASURED)
def test_where_the_scan_does_not_show_the_noise_it_is_asked_for(name: str) -> None:
    changes, reason = NOT_MEASURED[name]
    algorithm, _, _, why = chosen(fine(**{"dataset": np.abs(read_out()) + 0.25, **changes}))
    assert algorithm == "lsq_sqrt"
    assert reason in why and "set detector_gain and readout_noise" in why


def test_negative_values_whose_noise_is_not_known_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"(?s)pixels are negative.*could not be measured: scan_size"):
        pypty.run(fine(read_out(), scan_size=None))
    assert not pypty.check(automatic(dataset=patterns() - 0.5, loss_terms={"single": True}))
    report = str(pypty.check(automatic(dataset=patterns() - 0.5, epoch_mx=3)))
    assert "negative" in report and "epoch_max" in report


def test_whole_numbers_below_zero_are_not_called_fractions() -> None:
    patterns_below, sums_below = counts("int32"), SUMS.copy()
    patterns_below[0, 0, 0] = sums_below[0, 0] = -1
    for params in (automatic(dataset=patterns_below), automatic(dataset=sums_below, masks=MASKS)):
        text = str(pypty.check(params))
        assert "1 pixels are negative" in text
        assert "are whole numbers, but some are negative" in text and "not whole" not in text


@pytest.mark.parametrize(
    ("side_px", "points"), [(64, 64), (128, 45), (256, 32), (512, 32), (1024, 16), (2048, 12), (8192, 12)]
)
def test_of_large_patterns_enough_are_read(side_px: int, points: int) -> None:
    assert noise._side(4 * side_px**2) == points


def test_the_noise_of_large_patterns_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """With limits so low that patterns of 16 x 16 pixels are large: a few at a time, 12 x 12 in all."""
    setup, n_read = prepare(fine(read_out())), []
    read = type(setup.source).read

    def spied(source: Any, indices: np.ndarray) -> np.ndarray:
        n_read.append(len(indices))
        return np.asarray(read(source, indices))

    monkeypatch.setattr(type(setup.source), "read", spied)
    for name, value in (("_BYTES", 1), ("_MOST_BYTES", 1), ("_READ_BYTES", 5 * 4 * SIDE**2)):
        monkeypatch.setattr(noise, name, value)
    found = measured_noise(setup)
    assert sum(n_read) == 144 and max(n_read) == 5
    assert isinstance(found, DetectorNoise)
    assert found.gain == pytest.approx(GAIN, rel=0.15) and found.readout == pytest.approx(READOUT, rel=0.1)


def test_wholeness_is_looked_for_no_longer_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    rint, looks = np.rint, []

    def counted(values: np.ndarray) -> np.ndarray:
        looks.append(values.size)
        return np.asarray(rint(values))

    monkeypatch.setattr(np, "rint", counted)
    data = np.zeros((64, 64, 64), np.float32)
    for values, seen in (
        (data, data.size),  # once, although the multiplier is 1
        (data + 0.5, 2**16),  # only the first part
        (data.astype(np.uint16), 0),
    ):
        looks.clear()
        whole = _Whole(1.0)
        whole.add(values)
        assert sum(looks) == seen
        assert whole.stored is whole.multiplied is (not values.any())


def test_every_pattern_is_looked_at() -> None:
    """Not only those whose variance is computed."""
    data = counts("float64").repeat(100, axis=0)
    data[1501, 3, 4] += 0.5
    params = automatic(dataset=data, positions=np.zeros((len(data), 2)))
    report, setup = inspect(params)
    assert report and setup is not None and setup.survey is not None
    assert setup.survey.electron is None
    setup.close()


def test_the_variance_is_that_of_the_patterns() -> None:
    setup = prepare(automatic(dataset=counts(), data_multiplier=3.0))
    assert setup.survey is not None and setup.survey.variance is not None
    np.testing.assert_allclose(setup.survey.variance, 9 * counts("float64").var(axis=0), rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------------------------------------ where it is said


def test_the_choice_is_said_everywhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    params = automatic(dataset=counts(), output_folder=str(tmp_path), epoch_max=1)
    text = "algorithm = 'ml' (auto): the patterns hold whole counts"
    assert f"Chosen:\n  - {text}" in str(pypty.check(params))
    with caplog.at_level(logging.INFO):
        result = pypty.run(params)
    assert text in caplog.messages
    assert result.decisions[0] == text
    assert result.settings["algorithm"] == "auto"
    assert yaml.safe_load((tmp_path / "params.yaml").read_text())["algorithm"] == "auto"


def test_a_problem_is_not_followed_by_choices() -> None:
    assert "Chosen" not in str(pypty.check(automatic(dataset=counts(), epoch_max=-1)))


def test_evaluate_and_simulate_know_the_choice() -> None:
    given = automatic(dataset=counts())
    assert pypty.evaluate(given).loss == pypty.evaluate({**given, "algorithm": "ml"}).loss
    measured = fine(read_out())
    _, gain, readout, _ = chosen(measured)
    named = {**measured, "algorithm": "poisson_gaussian", "detector_gain": gain, "readout_noise": readout}
    assert pypty.evaluate(measured).loss == pypty.evaluate(named).loss
    assert pypty.simulate(automatic(dataset=...)).shape == (25, SIDE, SIDE)
    assert pypty.simulate(automatic(dataset=..., masks=MASKS)).shape == (25, len(MASKS))


def test_a_resumed_run_comes_to_the_same_choice(tmp_path: Path) -> None:
    params = fine(read_out(), sequence=None)
    whole = pypty.run({**params, "epoch_max": 3})
    pypty.run({**params, "epoch_max": 1, "output_folder": str(tmp_path)})
    resumed = pypty.resume(tmp_path, dataset=params["dataset"], epoch_max=3)
    assert resumed.decisions[0] == whole.decisions[0]
    assert "poisson_gaussian" in whole.decisions[0]
    np.testing.assert_array_equal(resumed.obj, whole.obj)


# ------------------------------------------------------------------------------------------------- photon transfer


def test_frequencies_of_the_probe_are_avoided_and_those_folded_back() -> None:
    """Steps of 1 Å hold frequencies up to 0.5 1/Å; a raster that is turned has the same."""
    steps = np.eye(2)
    free = frequencies_without_signal((64, 64), steps, 0.3)
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64), indexing="ij"))
    assert not free[f < 0.3 * 1.05].any() and free[f > 0.36].all()
    assert not frequencies_without_signal((64, 64), steps, 0.7).any()
    turned = frequencies_without_signal((64, 64), np.array([[0.6, 0.8], [-0.8, 0.6]]), 0.3)
    np.testing.assert_array_equal(turned, free)
    sheared = frequencies_without_signal((64, 64), np.array([[1.0, 1.0], [0.0, 1.0]]), 0.3)
    assert not np.array_equal(sheared, free) and sheared.any()


def noisy(mean: np.ndarray, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return GAIN * rng.poisson(mean, (*RASTER, len(mean))) + READOUT * rng.standard_normal(
        (*RASTER, len(mean))
    )


def test_photon_transfer() -> None:
    mean, free = np.geomspace(0.05, 50, 400), np.ones(RASTER, bool)
    found = photon_transfer(noisy(mean), free)
    assert isinstance(found, DetectorNoise)
    assert found.gain == pytest.approx(GAIN, rel=0.05) and found.readout == pytest.approx(READOUT, rel=0.05)
    only_readout = photon_transfer(noisy(0 * mean) + mean, free)
    assert "hardly grows" in str(only_readout)
    squares = photon_transfer(
        noisy(mean) + mean * np.random.default_rng(2).standard_normal((*RASTER, 400)), free
    )
    assert "linearly" in str(squares)
    drift = np.cos(2 * np.pi * 0.2 * np.arange(16))[:, None, None] * 3 * np.sqrt(mean)
    assert "white" in str(photon_transfer(noisy(mean) + drift, free))
    assert "too few pixels" in str(photon_transfer(noisy(mean)[..., :9], free))
    assert noise_problem(np.zeros(RASTER, bool)) and not noise_problem(free)
    assert photon_transfer(noisy(mean), np.zeros(RASTER, bool)) == noise_problem(np.zeros(RASTER, bool))


def test_few_frequencies_of_a_small_block_are_white() -> None:
    """12 x 12 points with 13 frequencies, of which 8 are in the nearer half."""
    free = frequencies_without_signal((12, 12), np.eye(2), 0.38)
    assert free.sum() == 13
    found = photon_transfer(noisy(np.geomspace(0.05, 50, 4000))[:12, :12], free)
    assert isinstance(found, DetectorNoise)
    assert found.gain == pytest.approx(GAIN, rel=0.1) and found.readout == pytest.approx(READOUT, rel=0.1)


def test_images_of_the_near_field_do_not_show_the_noise() -> None:
    setup = prepare(
        automatic(
            recon_type="near_field", defocus_array=[1e4], probe=np.ones((SIDE, SIDE, 1)), scan_size=(5, 5)
        )
    )
    assert "near field" in str(measured_noise(setup))


def test_the_semi_angle_is_that_given_or_that_of_the_disk() -> None:
    setup = prepare(automatic(dataset=counts()))
    disk = measured_disk(setup)
    assert disk is not None
    assert semiangle_rad(setup, disk) == pytest.approx(disk.radius_1A * setup.grid.wavelength)
    given = prepare(automatic(dataset=counts(), conv_semiangle_mrad=20))
    assert semiangle_rad(given, disk) == pytest.approx(0.02)


# ---------------------------------------------------------------------------------------------------------- bias


@pytest.mark.parametrize("algorithm", ["lsq_sqrt", "lsq_sqrt_2"])
@pytest.mark.parametrize("dose", [0.05, 0.5, 5.0, 100.0])
def test_the_expected_factor_minimises_the_loss_of_counts(algorithm: str, dose: float) -> None:
    """Against drawn counts: speckles of a few dark pixels, beside a disk of given weight."""
    rng, dark = np.random.default_rng(0), dose * np.array([0.5, 1.0, 2.0])
    mean = dark * rng.exponential(1.0, (4000, 3))
    drawn, bright = rng.poisson(mean), 0.7 * dark.sum()
    s = np.linspace(0.01, 1.2, 120)
    model = s[:, None, None] ** 2 * mean[None]
    data = drawn[None]
    if algorithm == "lsq_sqrt":
        terms, curvature = (np.sqrt(model) - np.sqrt(data)) ** 2, 1.0
    else:
        terms, curvature = np.where(data > 0, (data - model) ** 2 / (2 * np.maximum(data, 1)), model), 2.0
    expected = terms.mean(axis=1).sum(axis=1) + curvature * bright * (s - 1) ** 2
    assert expected_factor(algorithm, dark, bright) == pytest.approx(s[expected.argmin()], abs=0.02)


def test_the_bias_falls_with_the_dose() -> None:
    factors = [expected_factor("lsq_sqrt", np.full(100, dose), 50 * dose) for dose in (0.01, 0.1, 1, 10, 1e4)]
    assert factors == sorted(factors) and factors[-1] == pytest.approx(1, abs=1e-4)
    # E sqrt(D) = mean for few counts: only the disk is fitted rightly
    assert factors[0] == pytest.approx(1 / 3, abs=0.1)
    assert expected_factor("lsq_sqrt", np.zeros(3), 0.0) == 1


def test_scattered_electrons_are_those_of_the_phase() -> None:
    """A weak phase of variance v scatters the fraction v, into the dark field or within the disk."""
    clean = patterns()
    disk = disk_facts(clean.mean(axis=0), (1.0, 1.0))
    assert disk is not None
    scattered = Scattering.of(clean.mean(axis=0), clean.var(axis=0), disk.outside, 0.0)
    noise = np.random.default_rng(0).poisson(clean)
    noisy_one = Scattering.of(noise.mean(axis=0), noise.var(axis=0), disk.outside)
    assert noisy_one.total == pytest.approx(scattered.total, rel=0.25)
    assert 0.02 < scattered.total / clean[0].sum() < 0.3**2 * 1.2


SPARSE = np.random.default_rng(3).poisson(0.2 * _fine())


def test_amplitude_losses_warn_of_their_bias() -> None:
    for name in ("lsq_sqrt", "lsq_sqrt_2"):
        text = str(pypty.check(automatic(dataset=SPARSE[:25], algorithm=name)))
        assert re.search(
            rf"algorithm = '{name}' is biased .* about \d+ % too small .* use algorithm = 'ml'", text
        )
    result = pypty.run(automatic(dataset=SPARSE[:25], algorithm="lsq_sqrt", epoch_max=1))
    assert any("too small at this dose" in text for text in result.warnings)


def bias_of(**changes: Any) -> tuple[float, str]:
    """The expected bias of the phases of sparse patterns, and the warning."""
    setup = prepare(automatic(dataset=SPARSE[:25], epoch_max=10, **changes))
    return phase_bias(setup), bias_warning(setup) or ""


def test_preconditioned_steps_have_the_bias_of_amplitudes() -> None:
    """Whatever the loss is, they follow the slope of amplitudes."""
    ends = [
        pypty.run(small_params(dataset=SPARSE[:25], algorithm=name, optimizer="preconditioned", epoch_max=1))
        for name in ("ml", "lsq_sqrt")
    ]
    np.testing.assert_array_equal(ends[0].obj, ends[1].obj)
    amplitudes, _ = bias_of(algorithm="lsq_sqrt")
    advice = "end with L-BFGS: optimizer = \"lambda x: 'preconditioned' if x < N else 'lbfgs'\", N below 10"
    for changes in ({}, {"algorithm": "lsq"}, {"loss_terms": {"poissn": True}}):
        bias, text = bias_of(optimizer="preconditioned", **changes)
        assert bias == amplitudes > 0.02
        assert "optimizer = 'preconditioned' in the last epoch" in text and text.endswith(advice)
    _, text = bias_of(optimizer="preconditioned", algorithm="lsq_sqrt")
    assert text.endswith(f"{advice}, and use algorithm = 'ml'")
    bias, text = bias_of(warmup_epochs=10)
    assert bias == amplitudes and "make epoch_max larger than warmup_epochs" in text
    assert bias_of(optimizer="lambda x: 'preconditioned' if x < 9 else 'lbfgs'") == (0, "")
    assert bias_of(optimizer="lambda x: 'lbfgs' if x < 9 else 'preconditioned'")[0] == amplitudes
    assert bias_of(warmup_epochs=9) == (0, "")


def test_virtual_detectors_in_the_dark_field_warn() -> None:
    sums = SPARSE[:25].reshape(25, -1)
    params = automatic(dataset=sums, masks=PIXELS, algorithm="gauss_compressed")
    assert "use algorithm = 'poisson_compressed'" in str(pypty.check(params))
    assert "biased" not in str(pypty.check({**params, "algorithm": "auto"}))
    assert "biased" not in str(pypty.check({**params, "dataset": 10_000 * sums}))
    whole_disk = np.asarray(np.hypot(*np.indices((1, SIDE, SIDE))[1:] - SIDE // 2) < 5, float)
    bright = {"dataset": (SPARSE[:25] * whole_disk).sum(axis=(1, 2))[:, None], "masks": whole_disk}
    assert phase_bias(prepare({**params, **bright})) == 0, "no detector lies in the dark field"


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": SPARSE[:25]},
        {"dataset": SPARSE[:25], "algorithm": "lsq"},
        {"dataset": np.round(1e5 * _fine()[:25]), "algorithm": "lsq_sqrt"},
        {"dataset": 1e-3 * _fine()[:25], "algorithm": "lsq_sqrt"},
        {"dataset": SPARSE[:25], "algorithm": "lsq_sqrt", "loss_terms": {"single": True}},
    ],
    ids=["auto", "intensities", "many counts", "no counts", "loss_terms"],
)
def test_without_bias_there_is_no_warning(changes: dict[str, Any]) -> None:
    assert "biased" not in str(pypty.check(automatic(**changes)))


# ---------------------------------------------------------------------------------------------------- band limit


@lru_cache
def _monolayer() -> tuple[np.ndarray, dict[str, Any]]:
    """Some of the demo's patterns, unpadded, with the default band limit."""
    with h5py.File(demo_data(), "r") as file:
        data = file["data"][:256]
    params = demo_params("", data_pad=0, damping_cutoff_multislice=2 / 3, backend="cpu", scan_size=None)
    return data, {**params, "data_path": "", "dataset": data, "positions": params["positions"][:256]}


def warnings_of(params: dict[str, Any]) -> list[str]:
    setup = prepare(params)
    setup.close()
    return [text for text in likely_mistakes(setup) if "beyond the band limit" in text]


def test_what_the_band_limit_costs_is_said_with_values_that_hold_the_counts() -> None:
    """0.4 % of the counts, a fifth of the scattered ones: the phases were 15 % too small without a word."""
    _, params = _monolayer()
    (text,) = warnings_of(params)
    assert "19 % of the scattered ones" in text or "18 % of the scattered ones" in text
    pad = int(re.search(r"data_pad = (\d+)", text)[1])  # type: ignore[index]
    assert pad == 16 and "a window of 96 x 96 px" in text
    pixel = float(re.search(r"pixel_size_x_A = ([\d.]+)", text)[1])  # type: ignore[index]
    scale = params["pixel_size_x_A"] / pixel
    assert scale == pytest.approx(96 / 64, rel=1e-3)
    padded = {"pixel_size_x_A": pixel, "pixel_size_y_A": pixel, "positions": scale * params["positions"]}
    assert warnings_of({**params, "data_pad": pad, **padded}) == []
    assert "or damping_cutoff_multislice =" not in text, "its largest value would lose 3.1 %"


def test_a_cutoff_is_advised_if_it_holds_the_counts() -> None:
    params = _padded_monolayer()
    cost = band_limit_cost(prepare(params))
    assert cost is not None and cost.cut is not None and cost.cut < 1
    held = band_limit_cost(prepare({**params, "damping_cutoff_multislice": cost.cut}))
    assert held is not None and held.phase is not None and held.phase < 0.03


@pytest.mark.parametrize("radius_px", [6, 10, 12, 13])
def test_a_disk_that_is_cut_is_said(radius_px: int) -> None:
    """The limit lies at 10 px. Not more can be lost than was scattered."""
    r = np.hypot(*(np.indices((32, 32)) - 16))
    mean = np.broadcast_to(np.where(r < radius_px, 20, 0.05), (25, 32, 32))
    changes = {"pixel_size_x_A": 0.2, "pixel_size_y_A": 0.2, "probe": ..., "algorithm": "ml"}
    params = small_params(dataset=np.random.default_rng(0).poisson(mean), **changes)
    cost = band_limit_cost(prepare(params))
    assert cost is not None and cost.phase is not None and cost.phase <= 1
    assert cost.through_disk is (radius_px > 9)
    (text,) = warnings_of(params)
    assert ("the bright-field disk itself is cut" in text) is cost.through_disk
    assert float(re.search(r"([\d.e+]+) % of the scattered", text)[1]) <= 100  # type: ignore[index]
    assert "e+" not in text


def test_waves_of_several_slices_need_the_band_limit() -> None:
    """Only padding is advised: without a band limit the products of waves would be folded back."""
    _, params = _monolayer()
    (text,) = warnings_of({**params, "num_slices": 2})
    assert "data_pad = 16" in text and "or damping_cutoff_multislice =" not in text


def _padded_monolayer() -> dict[str, Any]:
    """With an eighth of the detector's side on every side."""
    _, params = _monolayer()
    scale = 80 / 64
    sizes = {key: params[key] / scale for key in ("pixel_size_x_A", "pixel_size_y_A")}
    return {**params, "data_pad": 8, **sizes, "positions": scale * params["positions"]}


def test_corners_of_a_padded_detector_are_for_preflight_alone() -> None:
    """With half of that padding 9 % of the scattered counts are lost: a number of pre-flight, no warning of a run."""
    padded = _padded_monolayer()
    assert warnings_of(padded) == []
    setup = prepare(padded)
    cost = band_limit_cost(setup)
    assert cost is not None and cost.matters and cost.pad == 16
    assert cost.phase == pytest.approx(0.09, abs=0.01)
    assert "set data_pad = 16" in band_limit_advice(setup, cost)


def test_a_simulated_window_is_not_padded() -> None:
    _, params = _monolayer()
    matched = {"simu_Npix": 64, "simu_match_mode": "crop"}
    (text,) = warnings_of({**params, **matched})
    assert "a larger data_pad or simu_Npix" in text


def test_where_nothing_is_known_of_the_band_limit() -> None:
    assert band_limit_cost(prepare(automatic(static_background=np.ones((SIDE, SIDE))))) is None
    assert band_limit_cost(prepare(automatic(dataset=SUMS, masks=MASKS))) is None
    assert band_limit_cost(prepare(automatic(dataset=...), needs_data=False)) is None
