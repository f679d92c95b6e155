"""Options of the model and of the preparation of data that PtyRAD has, against its patterns and formulas.

tests/golden/ptyrad/forward_*.npz: inputs and patterns of PtyRAD 1.0's own model in double precision. C: two object
modes with weights 0.7 and 0.3, three slices, a tilt; D: four slices, a tilt for every pattern; E: a detector blur; F:
24 simulated pixels, 16 of them measured, a blur; G: 24 resampled to 16; H: three object modes. init_measurements.npz:
its treatment of measured patterns in single precision.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import directional_derivative, inner, random_like, relative, small_problem
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import aperture_probe, patterns, small_params

import pypty
from pypty.data.preprocess import Preprocess, resampled
from pypty.data.resample import interpolation_matrix, reflected_gaussian
from pypty.data.rim import rim_counts
from pypty.engine.setup.prepare import prepare
from pypty.errors import DataError
from pypty.experiment import Experiment
from pypty.model.parametrization import polar
from pypty.optics.wavelength import acc_voltage_kV

GOLDEN = Path(__file__).parent / "golden" / "ptyrad"
CASES = {path.stem.split("_")[1]: path for path in sorted(GOLDEN.glob("forward_*.npz"))}


def stored(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def params_of(case: dict[str, np.ndarray], **changes: Any) -> dict[str, Any]:
    """PtyRAD's state in this package's conventions, as pypty/importers/ptyrad/model_file.py has it: all frequencies,
    the exact propagator, transforms that are not normalised, tilts of opposite sign."""
    meta = json.loads(str(case["meta"]))
    n = case["in_probe"].shape[-1]
    obj = case["in_obja"] * np.exp(1j * case["in_objp"])
    params = {
        "dataset": case["in_meas"],
        "obj": obj.transpose(2, 3, 1, 0),
        "probe": case["in_probe"].transpose(1, 2, 0) / n,
        "positions": case["in_crop_pos"] + case["in_probe_pos_shifts"],
        "obj_mode_weights": case["in_omode_occu"],
        "slice_distances": [float(case["in_dz"])],
        "acc_voltage": acc_voltage_kV(float(case["in_lambd"])),
        "pixel_size_y_A": float(case["in_dx"]),
        "pixel_size_x_A": float(case["in_dx"]),
        "propmethod": "angular_spectrum",
        "damping_cutoff_multislice": 2.0,
        "update_extra_cut": 0.0,
        "skip_preprocessing": True,
        "backend": "cpu",
        "n_threads": 1,
    }
    if case["in_tilts_mrad"].any():
        tilts = np.zeros((len(case["in_tilts_mrad"]), 6))
        tilts[:, 2:4] = -np.tan(1e-3 * case["in_tilts_mrad"])
        params |= {"tilts": tilts, "tilt_mode": 0}
    if meta["detector_blur_std"]:
        params |= {"detector_blur_std": meta["detector_blur_std"], "detector_blur_edge": "reflect"}
    if meta["simu_match_mode"]:
        params |= {"simu_Npix": n, "simu_match_mode": meta["simu_match_mode"]}
    return {**params, **changes}


def golden_patterns(case: dict[str, np.ndarray]) -> np.ndarray:
    """PtyRAD adds 1e-10 to every intensity; a crop of a blurred constant is that constant, a resampled one is not."""
    meta, n = json.loads(str(case["meta"])), case["in_probe"].shape[-1]
    added = meta["eps"] * (
        (n / case["out_dp"].shape[-1]) ** 2 if meta["simu_match_mode"] == "resample" else 1
    )
    return case["out_dp"] - added


@pytest.mark.parametrize("executor", ["auto", "stages"])
@pytest.mark.parametrize("name", list("CDEFGH"))
def test_golden_patterns(name: str, executor: str) -> None:
    case = stored(CASES[name])
    found = pypty.simulate(params_of(case, executor=executor))[case["in_batch"]]
    assert relative(found, golden_patterns(case)) < 1e-10


@pytest.mark.parametrize("name", list("CEFGH"))
def test_golden_patterns_on_a_device(name: str, device: None) -> None:
    case = stored(CASES[name])
    found = pypty.simulate(params_of(case, backend="gpu"))[case["in_batch"]]
    assert relative(found, golden_patterns(case)) < 1e-10


def test_crop_is_padding_that_is_not_compared() -> None:
    case = stored(CASES["F"])
    padded = {"simu_Npix": None, "simu_match_mode": None, "data_pad": 4, "use_padded_intensity": False}
    np.testing.assert_allclose(
        pypty.simulate(params_of(case, **padded)), pypty.simulate(params_of(case)), rtol=1e-12
    )


def test_resampling_by_two_is_upsampling() -> None:
    case = stored(CASES["G"])
    halved = params_of(case, dataset=np.ones((4, 12, 12)))
    upsampled = {**halved, "simu_Npix": None, "simu_match_mode": None, "upsample_pattern": 2}
    np.testing.assert_allclose(pypty.simulate(upsampled), pypty.simulate(halved), rtol=1e-12)


# ------------------------------------------------------------------------------- the whole gradient of each option

MATCHED = {"dataset": np.random.default_rng(5).poisson(4.0, (6, 12, 12)), "window": (16, 16)}
OPTIONS: dict[str, dict[str, Any]] = {
    "weights": {"obj_mode_weights": [0.7, 0.2]},
    "weights, stages": {"obj_mode_weights": [0.7, 0.2], "executor": "stages"},
    "weights, recomputed": {"obj_mode_weights": [0.7, 0.2], "recompute_slices": True},
    "crop": {**MATCHED, "simu_Npix": 16, "simu_match_mode": "crop"},
    "resample": {**MATCHED, "simu_Npix": 16, "simu_match_mode": "resample"},
    "resample, periodic blur": {
        **MATCHED,
        "simu_Npix": 16,
        "simu_match_mode": "resample",
        "detector_blur_std": 0.7,
        "update_detector_blur_std": True,
    },
    "reflected blur": {
        "detector_blur_std": 0.8,
        "detector_blur_edge": "reflect",
        "update_detector_blur_std": True,
        "static_background": 3.0,
        "update_static_background": True,
    },
    "reflected blur of a crop": {
        "data_pad": 2,
        "use_padded_intensity": False,
        "detector_blur_std": 0.8,
        "detector_blur_edge": "reflect",
        "update_detector_blur_std": True,
    },
    "blurred windows": {"obj_preblur_std": 0.6},
    "blurred windows, yoshida": {"obj_preblur_std": 0.6, "propmethod": "yoshida"},
    "near field": {
        "recon_type": "near_field",
        "obj_mode_weights": [0.7, 0.2],
        "obj_preblur_std": 0.6,
        "detector_blur_std": 0.8,
        "detector_blur_edge": "reflect",
        "update_detector_blur_std": True,
    },
    "resampled data": {"data_resample": 2.0, "dataset": np.random.default_rng(5).poisson(9.0, (6, 8, 10))},
    "continued data": {
        "data_pad": 2,
        "data_pad_fill": "edge",
        "data_normalization": "mean_at_one",
        "algorithm": "lsq",
        "static_background": 3.0,
        "update_static_background": True,
    },
}


@pytest.mark.parametrize("name", OPTIONS)
def test_gradients(name: str) -> None:
    """Of all blocks, against finite differences of the loss; on a device (where the test asks for it) they agree."""
    params = small_problem(**{"algorithm": "lsq_sqrt", **OPTIONS[name]})
    found = pypty.evaluate(params)
    rng = np.random.default_rng(1)
    for block, gradient in found.gradients.items():
        start = gradient_start(params, block)
        step = random_like(rng, np.asarray(start))

        def loss(t: float, block: str = block, start: np.ndarray = start, step: np.ndarray = step) -> float:
            return pypty.evaluate({**params, block: start + t * step}).loss

        size = {"positions": 1e-4, "detector_blur_std": 1e-3}.get(block, 1e-4)
        expected = directional_derivative(loss, size)
        assert inner(gradient, step) == pytest.approx(expected, rel=2e-6, abs=1e-7 * found.loss), block


def gradient_start(params: dict[str, Any], block: str) -> np.ndarray:
    if block == "static_background":
        params["static_background"] = pypty.run({**params, "epoch_max": 0}).static_background
    return np.asarray(params[block], complex if block in ("obj", "probe") else float)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_device_agrees(name: str, device: None) -> None:
    params = small_problem(**OPTIONS[name])
    there, here = (pypty.evaluate({**params, "backend": backend}) for backend in ("gpu", "cpu"))
    assert there.loss == pytest.approx(here.loss, rel=1e-12)
    for block, gradient in here.gradients.items():
        np.testing.assert_allclose(
            there.gradients[block], gradient, rtol=1e-9, atol=1e-9 * np.abs(gradient).max()
        )


def test_weights_on_every_executor() -> None:
    """In the fused executor; a split one would be chosen for single precision on a GPU only."""
    params = small_problem(obj_mode_weights=[0.7, 0.2])
    assert prepare(params).plan.sizes.executor == "fused"
    assert prepare({**params, "obj_preblur_std": 0.5}).plan.sizes.executor == "stages"


def test_weights_multiply_intensities() -> None:
    """Of each mode alone, and scaling a weight is scaling the mode; weights of one are none."""
    params = small_problem(slices=2, subpixel=False)
    both = pypty.simulate({**params, "obj_mode_weights": [0.7, 0.2]})
    one, other = (pypty.simulate({**params, "obj": params["obj"][..., m : m + 1]}) for m in (0, 1))
    np.testing.assert_allclose(both, 0.7 * one + 0.2 * other, rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(
        pypty.simulate({**params, "obj_mode_weights": [1, 1]}), pypty.simulate(params)
    )


def test_the_start_has_the_counts_of_the_data_whatever_the_weights() -> None:
    obj = np.ones((28, 28, 1, 2), complex)
    params = small_params(obj=obj, obj_mode_weights=[0.6, 0.1], damping_cutoff_multislice=2.0)
    assert pypty.simulate(params).sum() == pytest.approx(patterns().sum(), rel=1e-6)


@pytest.mark.parametrize("mode", ["crop", "resample"])
@pytest.mark.parametrize("probe", ["given", "from the data"])
def test_the_start_of_a_simulated_window(mode: str, probe: str) -> None:
    """A probe in the window of a pattern, or made from the mean pattern, is put in that of the waves, with the counts
    of the data; and a reconstruction begins."""
    params = small_params(
        simu_Npix=24,
        simu_match_mode=mode,
        probe=aperture_probe(0.7) if probe == "given" else None,
        damping_cutoff_multislice=2.0,
    )
    assert pypty.simulate(params).sum() == pytest.approx(patterns().sum(), rel=0.02)
    assert pypty.check(params)
    result = pypty.run(params)
    assert result.probe.shape[:2] == (24, 24)
    assert result.loss[-1] < result.loss[0]


def test_a_vacuum_probe_looks_the_same_in_a_simulated_window() -> None:
    """The pattern of the start, resampled or cropped, is the mean pattern from which it was made."""
    for mode in ("crop", "resample"):
        params = small_params(
            probe=None, simu_Npix=32, simu_match_mode=mode, damping_cutoff_multislice=2.0, update_extra_cut=0
        )
        found = pypty.simulate(params).mean(axis=0)
        mean = patterns().mean(axis=0)
        assert np.corrcoef(found.ravel(), mean.ravel())[0, 1] > 0.95


# ------------------------------------------------------------------------------------------------------------ blurs


def test_wide_kernels_are_folded_several_times() -> None:
    """As numpy.pad reflects: a signal much shorter than the kernel."""
    signal = np.random.default_rng(3).uniform(size=6)
    weights = np.exp(-((np.arange(-12, 13)) ** 2) / (2 * 4.0**2))
    expected = np.convolve(np.pad(signal, 12, mode="reflect"), weights / weights.sum(), mode="valid")
    np.testing.assert_allclose(reflected_gaussian(6, 4.0, 25)[0] @ signal, expected, rtol=1e-12)


def test_preblur_acts_on_amplitude_and_phase() -> None:
    """One thin slice in a plane wave, in an image plane: the intensity is that of the blurred amplitude, and phases
    alone leave it at one."""
    params = small_problem(slices=1, object_modes=1, probe_modes=1, subpixel=False)
    ny, nx = params["probe"].shape[:2]
    image = {"recon_type": "near_field", "probe": np.ones((ny, nx, 1)), "damping_cutoff_multislice": 2.0}
    phases = {**params, **image, "obj": np.exp(0.3j * np.angle(params["obj"])), "obj_preblur_std": 0.8}
    np.testing.assert_allclose(pypty.simulate(phases), 1, rtol=1e-10)
    found = pypty.simulate({**params, **image, "obj": np.abs(params["obj"]), "obj_preblur_std": 0.8})
    rows, columns = (reflected_gaussian(n, 0.8, 5)[0] for n in (ny, nx))
    for (y, x), pattern in zip(params["positions"].astype(int), found, strict=True):
        window = np.abs(params["obj"])[y : y + ny, x : x + nx, 0, 0]
        np.testing.assert_allclose(pattern, (rows @ window @ columns.T) ** 2, rtol=1e-10)


# -------------------------------------------------------------------------------------------------- measured patterns

MEASURED = stored(GOLDEN / "init_measurements.npz")
CLIPPED = MEASURED["out_neg_clip_neg"]
NORMALISED = MEASURED["out_norm_max_at_one"]


def fed(data: np.ndarray, indices: list[int], **changes: Any) -> np.ndarray:
    """Patterns as the loss sees them, centred."""
    ky, kx = data.shape[1:]
    params = {
        "dataset": data,
        "probe": None,
        "positions": 2.0 * np.arange(len(data))[:, None] * [[0, 1]],
        "pixel_size_x_A": 0.4,
        "pixel_size_y_A": 0.4,
        "acc_voltage": 80.0,
        "backend": "cpu",
        "n_threads": 1,
    }
    setup = prepare({**params, **changes})
    assert (ky, kx) == setup.source.shape[1:]
    return setup.from_model(setup.feed().batch(np.array(indices)).data)


@pytest.mark.parametrize("mode", ["max_at_one", "mean_at_one", "sum_to_one"])
def test_golden_normalisation(mode: str) -> None:
    found = fed(CLIPPED, list(range(12)), data_normalization=mode)
    assert relative(found, MEASURED[f"out_norm_{mode}"]) < 1e-6


@pytest.mark.parametrize("fill", ["constant", "edge", "linear_ramp", "exp", "power"])
def test_golden_padding(fill: str) -> None:
    found = fed(
        CLIPPED,
        [0, 5],
        data_normalization="max_at_one",
        data_pad=4,
        data_pad_fill=fill,
        data_pad_value=0.05,
        data_pad_threshold=70,
    )
    expected = MEASURED[f"out_pad_fly_{fill}"]
    rim = np.pad(np.zeros((16, 16), bool), 4, constant_values=True)
    assert relative(found, expected) < 1e-6
    assert relative(found[:, rim], expected[:, rim]) < 1e-5


@pytest.mark.parametrize(("factor", "name"), [(2.0, "x2"), (1.5, "x1p5")])
def test_golden_resampling(factor: float, name: str) -> None:
    found = fed(CLIPPED, [1, 2], data_normalization="max_at_one", data_resample=factor)
    assert relative(found, MEASURED[f"out_resample_fly_{name}"]) < 1e-5


@given(n=st.integers(1, 30), factor=st.floats(0.3, 4.0), seed=st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_interpolation(n: int, factor: float, seed: int) -> None:
    """Rows sum to one, straight lines stay straight, and doubling keeps the sum."""
    m = max(1, int(n * factor))
    matrix = interpolation_matrix(n, m)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-12)
    assert (matrix >= 0).all()
    x = np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0, n - 1)
    np.testing.assert_allclose(matrix @ np.arange(n), x, atol=1e-9)
    data = np.random.default_rng(seed).uniform(size=(2, n, n))
    assert resampled(data, 2.0).sum() == pytest.approx(data.sum(), rel=1e-12)


def test_resampled_masks() -> None:
    """A pixel that is made from a masked one is masked, and no other."""
    mask = np.ones((6, 7))
    mask[2, 3] = 0
    steps = Preprocess(resample=2.0)
    pattern = np.zeros((6, 7), np.float32)
    pattern[2, 3] = 1
    np.testing.assert_array_equal(steps.weights(mask) == 0, steps.patterns(pattern) > 0)


def test_whole_counts_become_floats_only_where_they_must() -> None:
    counts = np.ones((2, 6, 6), np.uint8)
    assert Preprocess(pad=1).patterns(counts).dtype == np.uint8
    for steps in (Preprocess(resample=1.5), Preprocess(pad=1, filled=True, rim=np.ones((8, 8)))):
        assert steps.patterns(counts).dtype == steps.stored_dtype(counts.dtype) == np.float32
        assert steps.patterns(counts).shape[1:] == steps.pattern_shape((6, 6))


def test_normalisation_is_of_what_was_measured() -> None:
    """Before resampling and padding; masked pixels do not count; data_multiplier comes after it."""
    data = patterns()
    mask = np.ones(data.shape[1:])
    mask[8, 8] = 0
    largest = (data.mean(axis=0) * mask).max()
    for changes in ({}, {"data_resample": 2.0}, {"data_pad": 2, "data_pad_fill": "edge"}):
        setup = prepare(
            small_params(
                data_normalization="max_at_one",
                data_multiplier=3.0,
                detector_mask=mask,
                probe=None,
                **changes,
            )
        )
        assert setup.multiplier == pytest.approx(3 / largest, rel=1e-12)
        assert setup.feed().multiplier == setup.multiplier
        share = 1 if "data_resample" not in changes else 4  # of a pixel that is made of one
        assert share * setup.survey.mean.max() == pytest.approx(3, rel=0.1)


def test_normalisation_of_an_experiment() -> None:
    """Direct methods see the same patterns."""
    params = small_params(data_normalization="sum_to_one", scan_step_A=1.0)
    experiment = Experiment.from_params(params)
    assert experiment.mean_pattern.sum() == pytest.approx(1, rel=1e-6)
    assert experiment.patterns(np.arange(25)).sum() == pytest.approx(25, rel=1e-6)


def test_the_start_counts_the_rim() -> None:
    """The probe has the counts of the padded patterns."""
    changes = {
        "data_pad": 2,
        "data_pad_fill": "constant",
        "data_pad_value": 2.0,
        "damping_cutoff_multislice": 2.0,
    }
    params = small_params(probe=None, **changes)
    setup = prepare(params)
    expected = patterns().mean(axis=0).sum() + 4.0 * (20**2 - 16**2)
    assert setup.mean_pattern().sum() == pytest.approx(expected, rel=1e-12)
    assert pypty.simulate(params).mean(axis=0).sum() == pytest.approx(expected, rel=1e-6)


def test_a_fit_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no convergence")

    monkeypatch.setattr("pypty.data.rim.curve_fit", fails)
    with pytest.raises(DataError, match="data_pad_fill.*no convergence.*edge"):
        rim_counts(np.ones((6, 6)), 2, "exp")
    report = pypty.check(small_params(data_pad=2, data_pad_fill="power"))
    assert "data_pad_fill" in str(report)


@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_amplitude_and_phase_make_a_complex_number(real: type) -> None:
    """In the precision that is asked for, for negative amplitudes, too."""
    rng = np.random.default_rng(4)
    amplitude, phase = (rng.normal(size=(1, 2, 8, 9)).astype(real) for _ in range(2))
    found = polar(amplitude, phase, np.result_type(real, np.complex64))
    assert found.real.dtype == real
    expected = amplitude.astype(float) * np.exp(1j * phase.astype(float))
    np.testing.assert_allclose(found, expected, atol=4 * np.finfo(real).eps)
