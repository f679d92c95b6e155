"""What PtyRAD does before its first iteration: its own numbers come out of the importers.

tests/golden/ptyrad/init_*.npz were written by PtyRAD 1.0.0's own initialiser; so was
tests/data/ptyrad_model_iter0003.hdf5 (see tests/test_importers.py), whose starting positions must come out of its
settings.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ptyrad_content import content, translated

import pypty
from pypty.engine.setup.prepare import prepare
from pypty.errors import DataError, ParameterError
from pypty.importers import translate
from pypty.importers.hdf5 import plain
from pypty.importers.ptyrad import object as objects
from pypty.importers.ptyrad import patterns as patterns
from pypty.importers.ptyrad import probe as probes
from pypty.importers.ptyrad import scan as scans
from pypty.importers.ptyrad.aberrations import HAIDER, cartesian_A, polar_terms
from pypty.importers.ptyrad.file import complete
from pypty.importers.ptyrad.measured import measured
from pypty.importers.ptyrad.object import Layers
from pypty.importers.ptyrad.start import start_object, start_probe
from pypty.importers.ptyrad.translation import Ledger
from pypty.optics.grid import Grid
from pypty.optics.wavelength import wavelength_A
from pypty.tune.names import with_values

HERE = Path(__file__).parent
GOLDEN = HERE / "golden" / "ptyrad"
MODEL = HERE / "data" / "ptyrad_model_iter0003.hdf5"
FORWARD = HERE / "data" / "ptyrad_forward_golden.npz"


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as stored:
        return dict(stored)


# Probe


def test_aberrations_by_any_name() -> None:
    case = golden("init_probe")
    found = polar_terms(json.loads(str(case["aberrations"])), "it")
    wanted = json.loads(str(case["out_krivanek_polar"]))
    assert {f"C{n}{m}": size for (n, m), (size, _) in found.items()} == {
        name: value for name, value in wanted.items() if name[0] == "C"
    }
    assert all(wanted.get(f"phi{n}{m}", 0) == angle for (n, m), (_, angle) in found.items())
    haider = polar_terms(json.loads(str(case["haider_in"])), "it")
    assert haider == {(1, 0): (200, 0), (1, 2): (50, 25), (2, 1): (300, 10), (3, 0): (5000, 0)}
    names = json.loads(str(case["out_krivanek_cartesian"]))
    assert set(names.values()) == set(cartesian_A(found)) - {0.0}


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({"C10": 1, "defocus": 2}, "same term"),
        ({"C12": 1, "C12a": 2}, "give one"),
        ({"C11": 1}, "not an aberration"),
        ({"C1000": 1}, "not an aberration"),
        ({"C10": "far"}, "expected a number"),
    ],
)
def test_aberrations_that_make_no_sense(terms: dict[str, Any], said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        polar_terms(terms, "it")


def test_simulated_probe_and_its_modes() -> None:
    case = golden("init_probe")
    grid = Grid((32, 32), (float(case["dx"]),) * 2, wavelength_A(float(case["kv"])))
    terms = cartesian_A(polar_terms(json.loads(str(case["aberrations"])), "it"))
    wave = probes.stem_probe(grid, float(case["conv_mrad"]), terms)
    np.testing.assert_allclose(wave, case["out_probe"], atol=1e-11)
    made = probes.hermite_set(wave, [0.92, 0.02, 0.02, 0.02, 0.02])
    np.testing.assert_allclose(made, case["out_mixed_probe"], atol=1e-11)


def test_added_modes_are_orthogonal_and_keep_the_power() -> None:
    wave = golden("init_probe")["out_probe"]
    found = probes.with_modes(3 * wave[None], 4, [0.02])
    gram = found.reshape(4, -1).conj() @ found.reshape(4, -1).T
    np.testing.assert_allclose(gram, np.diag(gram.diagonal()), atol=1e-12)
    assert np.all(np.diff(gram.diagonal().real) <= 1e-12)
    assert gram.trace().real == pytest.approx(9)
    given_powers = probes.with_modes(wave[None], 3, [0.7, 0.2, 0.1])
    assert (np.abs(given_powers) ** 2).sum() == pytest.approx(1)
    assert len(probes.with_modes(found, 2, [0.02])) == 2


def test_vacuum_acts_like_C10() -> None:
    grid = Grid((32, 32), (0.3, 0.3), wavelength_A(80.0))
    here = probes.propagated(probes.stem_probe(grid, 20.0, np.array([0.0]))[None], grid, 30.0)[0]
    there = probes.stem_probe(grid, 20.0, np.array([30.0]))
    overlap = abs(np.vdot(here, there))
    assert overlap == pytest.approx(1, abs=1e-4)
    assert abs(np.vdot(here, probes.stem_probe(grid, 20.0, np.array([-30.0])))) < 0.9


# Positions


def test_positions() -> None:
    case = golden("init_positions")
    given_ = json.loads(str(case["settings"]))
    window, scan = given_["probe_shape"], (given_["N_scan_slow"], given_["N_scan_fast"])
    raster = scans.raster(scan, given_["scan_step_size"] / given_["dx"])
    found = scans.centred(raster, window)
    np.testing.assert_allclose(found, case["out_pos_simu"], atol=1e-12)
    np.testing.assert_array_equal(scans.canvas_of(found, window), case["out_extent"])
    for name, flips in (("100", (1, 0, 0)), ("011", (0, 1, 1))):
        np.testing.assert_allclose(scans.flipped(found, scan, flips), case[f"out_pos_flip{name}"], atol=1e-12)
    np.testing.assert_allclose(scans.affine_matrix(*given_["affine"]), case["out_affine_matrix"], atol=1e-12)
    np.testing.assert_allclose(
        scans.affine(found, given_["affine"], window), case["out_pos_affine"], atol=1e-12
    )
    rng = np.random.RandomState(given_["seed"])
    np.testing.assert_allclose(
        scans.jittered(found, given_["rand_std"], rng), case["out_pos_rand"], atol=1e-12
    )


def test_a_real_run_starts_from_the_same_positions() -> None:
    with h5py.File(MODEL) as file:
        init = plain(file["params/init_params"], ("__NONE__",))
        seed, crop_origins = int(file["random_seed"][()]), np.array(file["model_attributes/crop_pos"])
        refined = crop_origins + np.array(file["optimizable_tensors/probe_pos_shifts"])
        canvas, weights = (
            file["optimizable_tensors/obja"].shape,
            np.array(file["model_attributes/omode_occu"]),
        )
    init |= {
        "random_seed": seed,
        "meas_source": "custom",
        "meas_params": np.ones((30, 20, 20), np.float32),
        "tilt_params": {"init_tilts": [[3.0, -2.0]]},
    }
    params = translate({"init_params": init}).params
    assert params["obj"].shape == tuple(canvas[axis] for axis in (2, 3, 1, 0))
    np.testing.assert_array_equal(np.round(params["positions"]), crop_origins)
    moved = params["positions"] - refined
    assert np.abs(moved - moved.mean(axis=0)).max() < 0.03  # refined in three iterations, mean taken off
    np.testing.assert_allclose(params["obj_mode_weights"], weights)
    assert params["pixel_size_y_A"] == pytest.approx(0.3)
    np.testing.assert_allclose(params["tilts"][0, 2:4], [-3e-3, 2e-3], rtol=1e-4)


# Object


def layers() -> objects.Layers:
    given_ = golden("init_object")["in_obj"].astype(complex)
    return objects.Layers(np.abs(given_), np.angle(given_), 2.0)


def public(stack: np.ndarray) -> np.ndarray:
    return stack.transpose(2, 3, 1, 0)


def test_slices_resampled_by_whole_ratios() -> None:
    case = golden("init_object")
    found = objects.resampled(layers(), "scale_Nlayer", 2)
    np.testing.assert_allclose(found.amplitude, case["out_scale_Nlayer_amp"], atol=1e-6)
    np.testing.assert_allclose(found.phase, case["out_scale_Nlayer_phase"], atol=1e-6)
    assert found.thickness_A == pytest.approx(1.0)


@pytest.mark.parametrize("mode", ["scale_slice_thickness", "target_Nlayer", "target_slice_thickness"])
def test_slices_resampled_by_any_ratio_keep_the_projection(mode: str) -> None:
    case, start = golden("init_object"), layers()
    found = objects.resampled(start, mode, float(case[f"out_{mode}_value"]))
    assert found.n_slices == case[f"out_{mode}_amp"].shape[1]
    np.testing.assert_allclose(found.phase.sum(axis=1), start.phase.sum(axis=1), atol=1e-12)
    np.testing.assert_allclose(found.amplitude.prod(axis=1), start.amplitude.prod(axis=1), atol=1e-12)
    # PtyRAD's resampling does not keep the projection.
    assert np.abs(case[f"out_{mode}_phase"].sum(axis=1) - start.phase.sum(axis=1)).max() > 1e-3


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 9), new=st.integers(1, 9), seed=st.integers(0, 99))
def test_resampling_keeps_thickness_and_projection(n: int, new: int, seed: int) -> None:
    phase = np.random.default_rng(seed).normal(size=(1, n, 2, 2))
    found = objects.resampled(objects.Layers(np.exp(0.1 * phase), phase, 3.0), "target_Nlayer", new)
    assert found.n_slices * found.thickness_A == pytest.approx(3.0 * n)
    np.testing.assert_allclose(found.phase.sum(axis=1), phase.sum(axis=1), atol=1e-12)


def test_slices_padded_and_cropped() -> None:
    case, start = golden("init_object"), layers()
    mean = objects.padded(start, (2, 1), ("mean", "edge")).transmission()
    np.testing.assert_allclose(mean, public(case["out_pad_mean_edge"]), atol=1e-6)
    vacuum = objects.padded(start, (1, 2), ("vacuum", "vacuum"))
    np.testing.assert_allclose(vacuum.transmission(), public(case["out_pad_vac"]), atol=1e-6)
    np.testing.assert_array_equal(objects.cropped(vacuum, 1, 7).phase, start.phase)
    with pytest.raises(ParameterError, match="contains none"):
        objects.cropped(start, 6, 9)


def test_added_object_modes() -> None:
    found = objects.with_modes(layers(), 3, np.random.RandomState(3)).transmission()
    np.testing.assert_allclose(found, public(golden("init_object")["out_omode3_seed3"]), atol=1e-6)


# Patterns


@pytest.fixture(scope="module")
def case() -> dict[str, np.ndarray]:
    return golden("init_measurements")


@pytest.fixture(scope="module")
def counts(case: dict[str, np.ndarray]) -> np.ndarray:
    """Without negatives, divided by the largest value of the mean pattern."""
    clipped = patterns.without_negatives(case["in_meas"], "clip_neg", None, False)
    return clipped / np.float32(patterns.normalization(clipped.mean(axis=0), "max_at_one", None))


@pytest.mark.parametrize(
    ("mode", "value"),
    [("clip_neg", None), ("subtract_min", None), ("clip_value", 0.5), ("subtract_value", 0.1)],
)
def test_negative_counts(case: dict[str, np.ndarray], mode: str, value: float | None) -> None:
    found = patterns.without_negatives(case["in_meas"], mode, value, False)
    np.testing.assert_allclose(found, case[f"out_neg_{mode}"], atol=1e-6)
    clean = np.abs(case["in_meas"])
    assert patterns.without_negatives(clean, mode, value, False) is clean


@pytest.mark.parametrize("mode", ["max_at_one", "mean_at_one", "sum_to_one"])
def test_normalization(case: dict[str, np.ndarray], mode: str) -> None:
    clipped = case["out_neg_clip_neg"]
    found = clipped / np.float32(patterns.normalization(clipped.mean(axis=0), mode, None))
    np.testing.assert_allclose(found, case[f"out_norm_{mode}"], rtol=1e-6)
    assert patterns.normalization(clipped, "divide_const", 4.0) == 4
    with pytest.raises(DataError, match="divides by 0"):
        patterns.normalization(0 * clipped, mode, None)


@pytest.mark.parametrize("kind", ["constant", "edge", "linear_ramp", "exp", "power"])
def test_padding(case: dict[str, np.ndarray], counts: np.ndarray, kind: str) -> None:
    rim = patterns.background(counts.mean(axis=0), 24, kind, 0.05, 70.0)
    found = patterns.padded(counts, rim)
    np.testing.assert_allclose(found, case[f"out_pad_pre_{kind}"], atol=1e-6)
    np.testing.assert_allclose(found[[0, 5]], case[f"out_pad_fly_{kind}"], atol=1e-6)


@pytest.mark.parametrize(("factor", "name"), [(2.0, "x2"), (1.5, "x1p5")])
def test_resampling(case: dict[str, np.ndarray], counts: np.ndarray, factor: float, name: str) -> None:
    found = patterns.resampled(counts[[1, 2]], factor)
    np.testing.assert_allclose(found, case[f"out_resample_fly_{name}"], atol=1e-6)


def test_blur_noise_orientation_crop(case: dict[str, np.ndarray], counts: np.ndarray) -> None:
    scan, step = case["N_scan"], 0.5
    np.testing.assert_allclose(
        patterns.source_blurred(counts, scan, 0.4 / step), case["out_source_size_0p4A"], atol=1e-6
    )
    np.testing.assert_allclose(patterns.detector_blurred(counts, 0.9), case["out_det_blur_0p9px"], atol=1e-6)
    noisy = patterns.with_poisson_noise(counts, 1e4 * step**2, np.random.RandomState(3))
    np.testing.assert_allclose(noisy, case["out_poisson_1e4_eA2_seed3"], atol=1e-6)
    np.testing.assert_array_equal(patterns.flipped(counts, (1, 0, 1)), case["out_flipT_101"])
    part = patterns.cropped(counts, scan, [[0, 2], [1, 4], [2, 14], [2, 14]])
    np.testing.assert_array_equal(part, case["out_crop"])
    assert patterns.bright_field_radius_px(counts.mean(axis=0)) == pytest.approx(
        float(case["out_rbf_thresh0p5"])
    )


# The model that comes out


@pytest.mark.parametrize("name", ["B", "D"])
def test_translated_arrays_give_the_patterns_of_ptyrad(name: str) -> None:
    """Object, probe, positions, slices and tilts in, PtyRAD's patterns out of our model."""
    with np.load(FORWARD) as stored:
        vectors = {key.removeprefix(f"{name}_"): stored[key] for key in stored if key.startswith(f"{name}_")}
    init = {
        "probe_kv": 200,
        "probe_conv_angle": 20,
        "meas_Npix": 16,
        "pos_N_scan_slow": 1,
        "pos_N_scan_fast": len(vectors["in_crop_pos"]),
        "pos_scan_step_size": 1,
        "meas_calibration": {"mode": "dx", "value": float(vectors["in_dx"])},
        "obj_Nlayer": vectors["in_obja"].shape[1],
        "obj_slice_thickness": float(vectors["in_dz"]),
        "probe_pmode_max": len(vectors["in_probe"]),
        "probe_normalization": {
            "mode": "target_intensity",
            "value": float((np.abs(vectors["in_probe"]) ** 2).sum()),
        },
        "meas_source": "custom",
        "meas_params": np.ones((len(vectors["in_crop_pos"]), 16, 16), np.float32),
        "probe_source": "custom",
        "probe_params": vectors["in_probe"],
        "obj_source": "custom",
        "obj_params": vectors["in_obja"] * np.exp(1j * vectors["in_objp"]),
        "pos_source": "custom",
        "pos_params": vectors["in_crop_pos"] + vectors["in_probe_pos_shifts"],
        "tilt_source": "custom",
        "tilt_params": vectors["in_tilts_mrad"],
    }
    found = translate({"init_params": init}).params
    from_start = {key: found[key] for key in found if key in _MODEL_KEYS}
    simulated = pypty.simulate({**from_start, "default_dtype": "double", "backend": "cpu"})
    np.testing.assert_allclose(simulated[vectors["in_batch"]], vectors["out_dp"], rtol=1e-6, atol=1e-8)


_MODEL_KEYS = frozenset(
    {
        *("acc_voltage", "pixel_size_y_A", "pixel_size_x_A", "probe", "obj", "positions", "slice_distances"),
        *("tilts", "tilt_mode", "skip_preprocessing", "propmethod", "damping_cutoff_multislice", "dataset"),
    }
)


def test_noise_on_positions_counts_for_the_canvas() -> None:
    found = translated(init_params={"pos_scan_rand_std": 3.0}).params
    still = translated(init_params={"pos_scan_rand_std": None}).params
    window = found["probe"].shape[:2]
    sides = scans.canvas_of(found["positions"], window)
    assert found["obj"].shape[:2] == tuple(sides)
    assert (sides > still["obj"].shape[:2]).all()


@pytest.mark.parametrize("tuned", ["conv_angle", "dx"])
def test_a_searched_aperture_is_that_of_a_file_with_this_value(tuned: str) -> None:
    entry = {"state": True, "suggest": "float", "kwargs": {"low": 20, "high": 30}}
    common = {
        "probe_aberrations": {"C10": 60.0, "C12": 10.0},
        "probe_z_shift": 20.0,
        "pos_scan_rand_std": 0,
        "meas_calibration": {"mode": "dx", "value": 0.3},
    }
    searched = translated(
        hypertune_params={"if_hypertune": True, "tune_params": {tuned: entry}}, init_params=common
    ).params
    pixel = searched["pixel_size_x_A"]
    value = 22.0 if tuned == "conv_angle" else 1.1 * pixel
    direct = (
        {"probe_conv_angle": 22.0}
        if tuned == "conv_angle"
        else {"meas_calibration": {"mode": "dx", "value": value}}
    )
    wanted = translated(init_params={**common, **direct}).params
    starts = []
    for params in (with_values(searched, {tuned: value}), wanted):
        own = {key: one for key, one in params.items() if key != "tune"}
        setup = prepare({**own, "output_folder": ""})
        starts.append(setup.variables().probe)
        setup.close()
    power = [(np.abs(one) ** 2).sum(axis=(1, 2)) for one in starts]
    np.testing.assert_allclose(power[0], power[1], rtol=1e-5)
    first, second = (one[0] / np.linalg.norm(one[0]) for one in starts)
    assert abs(np.vdot(first, second)) > 0.9999


def test_the_starting_probe_has_the_counts_of_the_patterns_and_its_modes(tmp_path: Path) -> None:
    init = complete(content(init_params={"probe_pmode_max": 3}), "it").groups["init_params"]
    ledger, grid = Ledger("it"), Grid((16, 16), (0.3, 0.3), wavelength_A(80.0))
    data = measured(init, tmp_path, np.random.RandomState(0), Ledger("it"))
    start_probe(init, tmp_path, grid, data, frozenset(), ledger)
    probe = ledger.params["probe"]
    assert probe.shape == (16, 16, 3) and ledger.params["conv_semiangle_mrad"] == 24.9
    counts = (np.abs(np.fft.fft2(probe, axes=(0, 1))) ** 2).sum()
    assert counts in (pytest.approx(data.mean_total, rel=1e-6), pytest.approx(data.largest_total, rel=1e-6))
    with pytest.raises(ParameterError, match="probe_permute"):
        start_probe({**init, "probe_permute": [0, 1, 1]}, tmp_path, grid, data, frozenset(), Ledger("it"))


def test_the_starting_object_has_slices_modes_and_their_distance(tmp_path: Path) -> None:
    init = complete(content(init_params={"obj_omode_max": 2}), "it").groups["init_params"]
    ledger = Ledger("it")
    layers = start_object(init, tmp_path, np.array([30, 34]), np.random.RandomState(0), frozenset(), ledger)
    assert layers.amplitude.shape == (2, 3, 30, 34) and ledger.params["obj"].shape == (30, 34, 3, 2)
    assert ledger.params["slice_distances"] == [4.0] and ledger.params["num_slices"] == 3
    assert sum(ledger.params["obj_mode_weights"]) == pytest.approx(1)
    given = np.exp(1j * np.arange(24.0).reshape(1, 2, 3, 4) / 24)
    np.save(tmp_path / "obj.npy", given)
    own = {**init, "obj_source": "custom", "obj_params": {"path": "obj.npy"}, "obj_omode_max": 1}
    found = start_object(own, tmp_path, np.array([3, 4]), np.random.RandomState(0), frozenset(), Ledger("it"))
    np.testing.assert_allclose(found.phase, np.angle(given))
    with pytest.raises(ParameterError, match="obj_source is 'x'"):
        start_object(
            {**init, "obj_source": "x"}, tmp_path, np.ones(2), np.random.RandomState(0), frozenset(), ledger
        )


def test_symbols_of_haider_are_those_of_the_paper() -> None:
    """C_nm = factor x symbol: 3 for B2, 4 for S3, B4 and D4, 6 for S5 and R5 (Ultramicroscopy 81 (2000) 163)."""
    of_one = {
        "C1": (1, 0),
        "A1": (1, 2),
        "A2": (2, 3),
        "C3": (3, 0),
        "A3": (3, 4),
        "A4": (4, 5),
        "C5": (5, 0),
        "A5": (5, 6),
    }
    more = {
        "B2": (2, 1, 3),
        "S3": (3, 2, 4),
        "B4": (4, 1, 4),
        "D4": (4, 3, 4),
        "S5": (5, 2, 6),
        "R5": (5, 4, 6),
    }
    assert dict(HAIDER) == {**{name: (*order, 1) for name, order in of_one.items()}, **more}


def test_slices_that_are_added_are_vacuum_or_those_of_the_edge() -> None:
    layers = Layers(
        np.full((1, 2, 3, 3), 0.5), np.stack([np.full((3, 3), 0.2), np.full((3, 3), 0.6)])[None], 4.0
    )
    found = objects.padded(layers, [1, 2], ["vacuum", "edge"])
    assert found.phase[0, :, 0, 0].tolist() == [0.0, 0.2, 0.6, 0.6, 0.6]
    assert found.amplitude[0, :, 0, 0].tolist() == [1.0, 0.5, 0.5, 0.5, 0.5]
    mean = objects.padded(layers, [1, 0], ["mean", "mean"])
    assert mean.phase[0, :, 0, 0].tolist() == pytest.approx([0.4, 0.2, 0.6])
    halves = objects.resampled(layers, "target_Nlayer", 4)
    assert halves.thickness_A == 2.0 and halves.phase[0, :, 0, 0].tolist() == pytest.approx(
        [0.1, 0.1, 0.3, 0.3]
    )
    np.testing.assert_allclose(halves.amplitude, np.sqrt(0.5))
    thick = objects.resampled(layers, "scale_slice_thickness", 2.0)
    assert thick.thickness_A == 8.0 and thick.phase[0, :, 0, 0].tolist() == pytest.approx([0.8])


def test_patterns_are_flipped_cropped_and_normalised_in_their_order() -> None:
    data = np.arange(2 * 3 * 4 * 5.0).reshape(6, 4, 5)
    np.testing.assert_array_equal(patterns.flipped(data, [1, 0, 0]), data[:, ::-1])
    np.testing.assert_array_equal(patterns.flipped(data, [0, 1, 0]), data[:, :, ::-1])
    np.testing.assert_array_equal(patterns.flipped(data, [1, 0, 1]), data[:, ::-1].swapaxes(1, 2))
    cut = patterns.cropped(data, (2, 3), [None, [1, 3], [0, 2], [2, 5]])
    np.testing.assert_array_equal(cut, data.reshape(2, 3, 4, 5)[:, 1:3, :2, 2:5].reshape(4, 2, 3))
    shifted = data - 10
    np.testing.assert_array_equal(patterns.without_negatives(shifted, "subtract_min", None, False), data)
    np.testing.assert_array_equal(
        patterns.without_negatives(shifted, "clip_neg", None, False), np.maximum(shifted, 0)
    )
    np.testing.assert_array_equal(
        patterns.without_negatives(shifted, "clip_value", 5.0, False), np.where(shifted < 5, 0, shifted)
    )
    mean = np.array([[1.0, 2.0], [3.0, 6.0]])
    found = [
        patterns.normalization(mean, mode, 7.0)
        for mode in (None, "divide_const", "max_at_one", "mean_at_one", "sum_to_one")
    ]
    assert found == [1.0, 7.0, 6.0, 3.0, 12.0]
    np.testing.assert_array_equal(patterns.resampled(np.full((2, 1, 1), 3.0), 1.0), np.full((2, 1, 1), 3.0))
    grown = patterns.resampled(np.ones((1, 4, 4)), 1.5)
    assert grown.shape == (1, 6, 6) and grown.sum() == pytest.approx(16)
    line = patterns.resampled(np.broadcast_to(np.arange(4.0), (1, 4, 4)).copy(), 2.0)[0, 0]
    assert 4 * line == pytest.approx([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
