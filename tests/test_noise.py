"""Noise models: value, slope, curvature, and what happens where model or data are zero."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import directional_derivative
from problems import patterns, small_params

import pypty
from pypty.backend.workspace import Workspace
from pypty.objective.noise import NOISE_MODELS, NoiseModel, Poisson, PoissonGaussian, make_noise_model, score

NAMES = ("lsq_sqrt", "ml", "lsq", "lsq_sqrt_2", "poisson_gaussian")
COMPRESSED = {"lsq_compressed": "lsq", "gauss_compressed": "lsq_sqrt", "poisson_compressed": "ml"}
"""Names for virtual detectors, and those of the same functions of patterns."""
GAIN, READOUT = 2.5, 3.0
MODELS: dict[str, NoiseModel] = {
    **{name: NOISE_MODELS[name] for name in NAMES},
    "poisson_gaussian, gain": PoissonGaussian(GAIN),
    "poisson_gaussian, noise": PoissonGaussian(1.0, READOUT),
    "poisson_gaussian, gain and noise": PoissonGaussian(GAIN, READOUT),
}


def counts() -> tuple[np.ndarray, np.ndarray]:
    """Modelled intensities, and data that are zero, fractional and large."""
    rng = np.random.default_rng(0)
    intensity = rng.exponential(5.0, (2, 6, 7)) + 0.05
    data = rng.poisson(4.0, intensity.shape).astype(float)
    data[0, 0, :4] = [0.0, 0.3, 0.7, 1e3]
    return intensity, data


def test_every_noise_model_is_tested():
    assert set(NOISE_MODELS) == {*NAMES, *COMPRESSED}


@pytest.mark.parametrize("name", COMPRESSED)
def test_virtual_detectors_have_the_same_models(name: str):
    """They differ in what is counted, not in the noise; also in what is known only to a run."""
    assert type(NOISE_MODELS[name]) is type(NOISE_MODELS[COMPRESSED[name]])
    ours, others = (
        make_noise_model(n, brightest=100.0, precision=np.dtype(np.float64), reachable=None)
        for n in (name, COMPRESSED[name])
    )
    intensity, data = counts()
    intensity[1, 0, 0] = 1e-40  # the rounding of a dark pixel
    for one, other in zip(
        ours.loss_and_slope(intensity, data, Workspace(np)),
        others.loss_and_slope(intensity, data, Workspace(np)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    assert ours.curvature(data) == others.curvature(data)


def shifted_poisson(intensity: float, data: float, gain: float, readout: float) -> float:
    """-log of the Poisson probability of (D + c)/g electrons where (I + c)/g are expected, c = s^2/g; terms without I
    left out."""
    shift = readout**2 / gain
    electrons, expected = max(data + shift, 0) / gain, (intensity + shift) / gain
    return expected - electrons * np.log(gain * expected)


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("lsq_sqrt", lambda i, d: (np.sqrt(i) - np.sqrt(d)) ** 2),
        ("ml", lambda i, d: i - d * np.log(i)),
        ("lsq", lambda i, d: (i - d) ** 2),
        (
            "lsq_sqrt_2",
            lambda i, d: i if d <= 0.5 else (i - d) ** 2 / (2 * d),
        ),
        ("poisson_gaussian, gain", lambda i, d: (i - d * np.log(i)) / GAIN),
        ("poisson_gaussian, noise", lambda i, d: shifted_poisson(i, d, 1.0, READOUT)),
        ("poisson_gaussian, gain and noise", lambda i, d: shifted_poisson(i, d, GAIN, READOUT)),
    ],
)
def test_formula(name: str, formula):
    """The losses as PyPty's manual states them, and the shifted Poisson model, pixel by pixel."""
    intensity, data = counts()
    loss, _ = MODELS[name].loss_and_slope(intensity, data, Workspace(np))
    expected = [formula(i, d) for i, d in zip(intensity.ravel(), data.ravel(), strict=True)]
    np.testing.assert_allclose(loss.ravel(), expected, rtol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_slope(name: str):
    """dl/dI, every pixel on its own."""
    intensity, data = counts()
    model = MODELS[name]
    _, slope = model.loss_and_slope(intensity, data, Workspace(np))
    numerical = directional_derivative(
        lambda t: model.loss_and_slope(intensity * (1 + t), data, Workspace(np))[0] / intensity, 1e-3
    )
    np.testing.assert_allclose(slope, numerical, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", MODELS)
def test_minimum_is_at_the_data(name: str):
    """The slope vanishes at I = D and has the sign of I - D beside it."""
    data = np.array([0.6, 1.0, 7.0, 1e5])
    slopes = [
        MODELS[name].loss_and_slope(data * factor, data, Workspace(np))[1] for factor in (0.9, 1.0, 1.1)
    ]
    assert (slopes[0] < 0).all()
    np.testing.assert_array_equal(slopes[1], 0)
    assert (slopes[2] > 0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", MODELS)
def test_zero_intensity_is_finite(name: str, dtype: type):
    """Outside the band limit the model is exactly zero, whatever the data are; the type is kept."""
    data = np.array([0, 0.3, 0.7, 1e4], dtype)
    loss, slope = MODELS[name].loss_and_slope(np.zeros(4, dtype), data, Workspace(np))
    assert np.isfinite(loss).all()
    assert np.isfinite(slope).all()
    assert loss.dtype == dtype
    assert slope.dtype == dtype


@pytest.mark.parametrize(
    "name", ["lsq_sqrt", "ml", "lsq_sqrt_2", "poisson_gaussian", "poisson_gaussian, gain"]
)
def test_curvature(name: str):
    """Half the second derivative of the loss along the amplitude, at the minimum: the same for all counts."""
    model = MODELS[name]
    data = np.array([0.7, 2.0, 40.0, 3e4])
    amplitude = np.sqrt(data)

    def slope_along_amplitude(t: float) -> np.ndarray:
        """dl/da by the chain rule; test_slope has shown that the slope is right."""
        a = amplitude * (1 + t)
        return model.loss_and_slope(a**2, data, Workspace(np))[1] * 2 * a

    second = directional_derivative(slope_along_amplitude, 1e-3) / amplitude
    np.testing.assert_allclose(second / 2, model.curvature(data), rtol=1e-6)


@pytest.mark.parametrize("name", ["lsq", "poisson_gaussian, noise", "poisson_gaussian, gain and noise"])
def test_curvature_that_depends_on_the_counts_is_their_mean(name: str):
    """For lsq it grows with the counts, 4 D, and with read-out noise it falls where there are few of them: the mean
    over electrons, not over pixels."""
    model = MODELS[name]
    data = np.array([[0.0, 2.0], [40.0, 3e3]])
    amplitude = np.sqrt(data)
    second = directional_derivative(
        lambda t: model.loss_and_slope((amplitude + t) ** 2, data, Workspace(np))[1] * 2 * (amplitude + t),
        1e-3,
    )
    expected = (data * second / 2).sum() / data.sum()
    assert model.curvature(data) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dark", [0.0, 0.5])
def test_without_gain_and_noise_it_is_poisson(dark: float):
    """poisson_gaussian at gain 1 and without read-out noise is ml, also where the detector is dark."""
    intensity, data = counts()
    intensity[0, 1] = 0.1 * dark
    one, other = PoissonGaussian(dark=dark), Poisson(dark)
    for found, expected in zip(
        one.loss_and_slope(intensity, data, Workspace(np)),
        other.loss_and_slope(intensity, data, Workspace(np)),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)
    assert one.curvature(data) == pytest.approx(other.curvature(data), rel=1e-12)
    dark_run = make_noise_model(
        "poisson_gaussian", brightest=40.0, precision=np.dtype(np.float32), reachable=None
    )
    assert dark_run == PoissonGaussian(
        1.0, 0.0, make_noise_model("ml", brightest=40.0, precision=np.dtype(np.float32), reachable=None).dark
    )


def test_a_negative_count_is_a_count():
    """Down to -c = -s^2/g a read-out below zero follows the formula; below, it counts as -c: nothing was there."""
    model = PoissonGaussian(GAIN, READOUT)
    shift = READOUT**2 / GAIN
    data = np.array([-0.9 * shift, -shift, -1.1 * shift, -100.0])
    intensity = np.array([0.3, 2.0, 0.3, 2.0])
    loss, slope = model.loss_and_slope(intensity, data, Workspace(np))
    expected = [shifted_poisson(i, d, GAIN, READOUT) for i, d in zip(intensity, data, strict=True)]
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    numerical = directional_derivative(
        lambda t: model.loss_and_slope(intensity + t, data, Workspace(np))[0], 1e-3
    )
    np.testing.assert_allclose(slope, numerical, rtol=1e-8)
    np.testing.assert_allclose(slope[1:], 1 / GAIN, rtol=1e-12)
    assert slope[0] < 1 / GAIN


def test_the_model_of_a_run_has_its_gain_and_its_noise():
    """Through the public API: a detector of gain 2.5 and noise 3 whose counts are partly negative."""
    params = weak_phase_data()
    rng = np.random.default_rng(5)
    electrons = rng.poisson(params["dataset"])
    params["dataset"] = GAIN * electrons + rng.normal(0, READOUT, electrons.shape)
    assert (params["dataset"] < -READOUT).any()
    params |= {"algorithm": "poisson_gaussian", "detector_gain": GAIN, "readout_noise": READOUT}
    model = pypty.simulate(params)
    data = params["dataset"]
    shift = READOUT**2 / GAIN
    expected = ((model + shift) - np.maximum(data + shift, 0) * np.log(model + shift)).sum() / GAIN
    assert pypty.evaluate(params).loss == pytest.approx(expected, rel=1e-10)
    result = pypty.run({**params, "epoch_max": 8})
    assert result.sse[-1] < result.sse[0]
    assert result.loss[-1] < result.loss[0]


@pytest.mark.parametrize("name", ["ml", "poisson_gaussian"])
def test_pixels_beyond_the_band_limit_count_where_a_background_lights_them(name: str):
    """Without it the model can have no counts there; with it they are as good as any others."""
    params = {**weak_phase_data(), "algorithm": name, "damping_cutoff_multislice": 0.5}
    dark = pypty.simulate(params) == 0
    assert dark.mean() > 0.5
    background = np.random.default_rng(6).uniform(0.1, 0.3, dark.shape[1:])
    params["static_background"] = background
    params["dataset"] = params["dataset"] + dark * 0.04
    model = pypty.simulate(params)
    assert (model > 0).all()
    expected = (model - params["dataset"] * np.log(model)).sum()
    assert pypty.evaluate(params).loss == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", MODELS)
def test_score_sums(name: str):
    """Loss, SSE and slope with weights and without; SSE is that of intensities for every noise model."""
    intensity, data = counts()
    loss, slope = MODELS[name].loss_and_slope(intensity, data, Workspace(np))
    weights = np.random.default_rng(1).uniform(0, 1, intensity.shape[1:])
    for weight, given in ((np.ones(weights.shape), None), (weights, weights)):
        total, sse, weighted_slope = score(MODELS[name], intensity, data, given, Workspace(np))
        assert total == pytest.approx((loss * weight).sum(), rel=1e-12)
        assert sse == pytest.approx((weight * (intensity - data) ** 2).sum(), rel=1e-12)
        np.testing.assert_allclose(weighted_slope, slope * weight, rtol=1e-12)


def test_score_accumulates_in_double():
    """A float32 sum of many float32 values is only good to 1e-7; the line search needs more."""
    rng = np.random.default_rng(2)
    intensity = rng.exponential(5.0, (1, 300, 301)).astype(np.float32)
    data = rng.poisson(5.0, intensity.shape).astype(np.float32)
    loss, _ = NOISE_MODELS["lsq_sqrt"].loss_and_slope(intensity, data, Workspace(np))
    errors = (intensity - data) ** 2
    total, sse, slope = score(NOISE_MODELS["lsq_sqrt"], intensity, data, None, Workspace(np))
    assert loss.dtype == slope.dtype == np.float32
    assert total == pytest.approx(loss.astype(np.float64).sum(), rel=1e-12)
    assert sse == pytest.approx(errors.astype(np.float64).sum(), rel=1e-12)
    assert abs(float(loss.sum(dtype=np.float32)) / total - 1) > 1e-12  # so that this test can fail


def weak_phase_data(n: int = 32) -> dict:
    """A smooth phase object seen through a sharp aperture: 5000 electrons per pattern, a few of them dark field."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:n, :n] - n // 2
    aperture = (np.hypot(y, x) <= 0.2 * n) * np.exp(-0.02j * (y**2 + x**2))
    grid = np.arange(5) * 3.3
    params = {
        "positions": np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2),
        "probe": np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(aperture)))[..., None],
        "pixel_size_y_A": 0.3,
        "pixel_size_x_A": 0.3,
        "acc_voltage": 80.0,
        "backend": "cpu",
        "n_threads": 1,
        "output_folder": "",
        "print_flag": 0,
    }
    truth = np.exp(0.3j * rng.random((n + 16, n + 16, 1, 1)))
    patterns = pypty.simulate({**params, "obj": truth, "skip_preprocessing": True})
    counts = rng.poisson(patterns * (5000 / patterns.sum(axis=(1, 2)).mean()))
    return {**params, "dataset": counts.astype(np.uint16)}


@pytest.mark.parametrize("start", ["known probe", "probe from the data"])
@pytest.mark.parametrize("name", NAMES)
def test_reconstruction_starts_from_vacuum(name: str, start: str):
    """At the start the dark field of the model is rounding noise, 1e-30 counts, but not exactly zero; the data have
    counts there. That must not decide the first step: every noise model makes progress from its default start."""
    params = weak_phase_data()
    if start == "probe from the data":
        del params["probe"]
    result = pypty.run({**params, "algorithm": name, "epoch_max": 8})
    assert len(result.epochs) == 8
    assert [text for text in result.warnings if "is biased for few counts" not in text] == []
    assert result.loss[-1] < result.loss[0]
    assert result.sse[-1] < 0.9 * result.sse[0]


def test_dark_pixels_of_the_poisson_model_do_not_depend_on_the_batches() -> None:
    """A sharp probe leaves most of the detector dark: each such pixel counts the same, whatever it is computed with.

    Two windows on flat parts of the object, one of half the amplitude: their brightest pixels differ.
    """
    mask = np.zeros((16, 16))
    mask[7:10, 7:10] = 1
    obj = np.where(np.arange(60) < 30, 1.0, 0.5)[None, :, None, None] * np.ones((16, 1, 1, 1))
    start = {"dataset": patterns()[:2], "positions": [[0.0, 0.0], [0.0, 40.0]], "obj": obj, "algorithm": "ml"}
    start |= {"probe": "aperture", "aperture_mask": mask, "skip_preprocessing": True}
    alone, together = (pypty.evaluate(small_params(compute_batch=size, **start)).loss for size in (1, 2))
    assert alone == pytest.approx(together, rel=1e-12)
