"""Building blocks under PyPty's names: golden file 24 where PyPty is right, derivatives, adjoints, files."""

from __future__ import annotations

import importlib
import operator
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import (
    assert_adjoint,
    data_file,
    directional_derivative,
    inner,
    random_complex,
    relative,
    small_problem,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import pypty
from pypty import fft, multislice_core, utils
from pypty._moved import MOVED
from pypty.errors import ExpressionError, MovedError, ParameterError
from pypty.optics import probes
from pypty.optics.wavelength import acc_voltage_kV
from pypty.params.explain import explain

GOLDEN = Path(__file__).parent / "data" / "initialize_golden.npz"


@cache
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return {name: file[name] for name in file.files}


def test_golden_filters_and_masks() -> None:
    """PyPty writes pi with ten digits: soft edges differ by 1e-10. Its square window is not reproduced: it documents a
    circle, which ours is."""
    z = golden()
    cleaned = utils.fourier_clean(z["in_probe"], 0.7, rolloff=0.2)
    assert relative(cleaned, z["out_clean_cut07_roll02"]) < 1e-9
    *_, shifted, mask = utils.create_spatial_frequencies(0.3, 0.25, 24, 0.7, 0.2)
    assert relative(mask, z["out_lossmask_px03_py025_cut07_roll02"]) < 1e-9
    np.testing.assert_array_equal(shifted, np.fft.fftshift(mask))
    *_, mask = utils.create_spatial_frequencies(0.3, 0.25, (24, 24, 3))
    np.testing.assert_array_equal(mask, z["out_lossmask_hard"])


def test_golden_defocus() -> None:
    """PyPty's wavelength (12.4 for h c) is put in by the voltage, its cut at 2/3 by hand."""
    z = golden()
    voltage = acc_voltage_kV(12.4 / np.sqrt(60 * (60 + 1022)))
    probe = z["in_probe"][..., None]
    before = probe.copy()
    found = utils.apply_defocus_probe(probe, 50, voltage, 0.3, 0.3)
    np.testing.assert_array_equal(probe, before)
    *_, mask = utils.create_spatial_frequencies(0.3, 0.3, 24, 2 / 3)
    cut = np.fft.ifft2(np.fft.fft2(found[..., 0]) * mask)
    assert relative(cut, z["out_defocus_plus50_60kV_px03"][..., 0]) < 1e-12
    single = utils.apply_defocus_probe(probe, 50, voltage, 0.3, 0.3, default_complex=np.complex64)
    assert single.dtype == np.complex64


def test_golden_aberrations_and_modes() -> None:
    z = golden()
    assert utils.nmab_to_strings(*utils.convert_num_to_nmab(20)) == list(z["aberration_names"])
    f = 0.0486 * np.fft.fftfreq(24, 0.3)
    matrix = utils.get_ctf_matrix(f[None, :], f[:, None], 12, 0.0486)
    assert relative(matrix, z["out_ctf_matrix_12_lam0486_px03"]) < 1e-12
    modes = utils.generate_hermite_modes(z["in_probe"], 2, 1)
    expected = z["out_hermite_nx2_ny1"]
    assert modes.shape == expected.shape
    for k in range(6):  # mode by mode: the same functions, up to a factor
        overlap = np.vdot(modes[..., k], expected[..., k])
        norm = np.linalg.norm(modes[..., k]) * np.linalg.norm(expected[..., k])
        assert abs(overlap) == pytest.approx(norm, rel=1e-9)
    assert (np.abs(modes) ** 2).sum() == pytest.approx((np.abs(z["in_probe"]) ** 2).sum())


def test_golden_aberrations_of_a_probe() -> None:
    """The twelve coefficients are not stored; these are what the recorded probe has, to every digit."""
    z = golden()
    wavelength = 12.4 / np.sqrt(60 * (60 + 1022))
    f = wavelength * np.fft.fftfreq(24, 0.3)
    coefficients = [100, 20, -10, 500, 30, -40, 60, 1e4, 2e3, -1e3, 3e3, 500]
    chi = utils.get_ctf(coefficients, f[None, :], f[:, None], wavelength)
    found = np.fft.ifft2(np.fft.fft2(z["in_probe"]) * np.exp(-1j * chi))
    assert relative(found, z["out_aberrated_60kV_px03"][..., 0]) < 1e-12


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 25), angle=st.floats(-3, 3), seed=st.integers(0, 99))
def test_derivatives_of_chi(n: int, angle: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    coefficients = rng.uniform(-1, 1, n) * 10.0 ** np.arange(n).clip(0, 8)
    kx, ky, dx, dy = rng.uniform(-0.03, 0.03, (4, 5))

    def chi(t: float) -> np.ndarray:
        return utils.get_ctf(coefficients, kx + t * dx, ky + t * dy, 0.04, angle)

    along_x, along_y = utils.get_ctf_derivatives(coefficients, kx, ky, 0.04, angle)
    found, expected = along_x * dx + along_y * dy, directional_derivative(chi, 1e-3)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())

    def turned(t: float) -> np.ndarray:
        return np.stack(utils.get_ctf_derivatives(coefficients, kx, ky, 0.04, angle + t))

    by_angle = np.stack(utils.get_ctf_gradient_rotation_angle(coefficients, kx, ky, 0.04, angle))
    expected = directional_derivative(turned, 1e-3)
    np.testing.assert_allclose(by_angle, expected, atol=1e-6 * np.abs(turned(0.0)).max() * n)


def test_chi_at_the_centre_and_without_offset() -> None:
    assert utils.get_ctf([10.0, 1, 2], 0.0, 0.0, 0.04) == 0
    assert utils.get_ctf_derivatives([10.0, 1, 2], 0.0, 0.0, 0.04) == (0, 0)
    matrix = utils.get_ctf_matrix(np.array([0.01]), np.array([0.02]), 5, 0.04)
    found = utils.get_ctf([1.0, 2, 3, 4, 5], np.array([0.01]), np.array([0.02]), 0.04)
    np.testing.assert_allclose(found, np.arange(1, 6) @ matrix)


def test_cleaning_other_layouts() -> None:
    rng = np.random.default_rng(0)
    obj = random_complex(rng, (12, 14, 2, 3))
    cleaned = utils.fourier_clean(obj, 0.6)
    np.testing.assert_allclose(cleaned[..., 1, 2], utils.fourier_clean(obj[..., 1, 2], 0.6))
    stack = np.moveaxis(obj[..., 0, :], 2, 0)
    np.testing.assert_allclose(utils.fourier_clean_3d(stack, 0.6)[1], cleaned[..., 0, 1])
    np.testing.assert_array_equal(utils.fourier_clean(obj, None), obj)
    mask = np.zeros((12, 14))
    mask[6, 7] = 1  # only the mean
    np.testing.assert_allclose(utils.fourier_clean(obj[..., 0, 0], mask=mask), obj[..., 0, 0].mean())
    real = utils.fourier_clean(rng.standard_normal((8, 8)), 0.5, default_float=np.float32)
    assert real.dtype == np.float32
    assert utils.fourier_clean(obj, 0.5, default_float=np.float32).dtype == np.complex64
    with pytest.raises(ParameterError, match="mask"):
        utils.fourier_clean(obj, mask=np.ones((3, 3)))


def test_window() -> None:
    outside = utils.get_window((20, 20), 0.5, 0.8)
    assert outside[10, 10] == 0
    assert outside[0, 0] == 1
    np.testing.assert_allclose(utils.get_window(20, 0.5, 0.8, inverted=False), 1 - outside)


def test_probe_windows() -> None:
    rng = np.random.default_rng(1)
    probe = random_complex(rng, (8, 10, 2))
    spectrum = probes.spectrum_of_probe(probe.transpose(2, 0, 1))
    for padded in (utils.padfft(probe, 3), utils.padprobetodatafarfield(probe, (5, 8, 10), 3)):
        assert padded.shape == (14, 16, 2)
        grown = probes.spectrum_of_probe(padded.transpose(2, 0, 1))
        np.testing.assert_allclose(grown[:, 3:-3, 3:-3], spectrum, atol=1e-12)
        assert (np.abs(grown) ** 2).sum() == pytest.approx((np.abs(spectrum) ** 2).sum())
    assert utils.padprobetodatafarfield(probe, (8, 10), 2, 2).shape == (20, 24, 2)
    np.testing.assert_array_equal(utils.padprobetodatafarfield(probe, (4, 5), 0, 2), probe)
    near = utils.padprobetodatanearfield(probe, (8, 10), 3)
    np.testing.assert_array_equal(near[3:-3, 3:-3], probe)
    assert utils.padprobetodatanearfield(probe[..., None], (6, 6), 0).shape == (6, 6, 2, 1)
    with pytest.raises(ParameterError, match="pad"):
        utils.padfft(probe, -1)
    with pytest.raises(ParameterError, match="upsample_pattern"):
        utils.padprobetodatafarfield(probe, (8, 10), 0, 0)


def test_shifts() -> None:
    rng = np.random.default_rng(1)
    probe = random_complex(rng, (8, 9, 2))
    np.testing.assert_allclose(
        utils.shift_probe_fourier(probe, [2, -1]), np.roll(probe, (2, -1), axis=(0, 1)), atol=1e-12
    )
    half = utils.shift_probe_fourier(utils.shift_probe_fourier(probe, [0.4, 0.3]), [-0.4, -0.3])
    assert relative(half, probe) < 0.2  # the Nyquist row of the even axis is not shifted back
    y, x = np.indices((32, 32)) - 16.0
    image, moved = (np.exp(-((y - a) ** 2 + (x - b) ** 2) / 18) for a, b in ((0, 0), (2.3, -1.6)))
    np.testing.assert_allclose(utils.phase_cross_corr_align(image, moved), [2.3, -1.6], atol=0.25)
    noise = rng.standard_normal((24, 20))
    rolled = np.roll(noise, (-5, 7), axis=(0, 1))
    np.testing.assert_allclose(utils.phase_cross_corr_align(noise, rolled), [-5, 7], atol=1e-6)
    with pytest.raises(ParameterError, match="shapes"):
        utils.phase_cross_corr_align(image, image[1:])


def test_modes_of_a_blurred_beam() -> None:
    y, x = np.indices((24, 24)) - 12.0
    probe = np.exp(-(y**2 + x**2) / 8).astype(complex)
    modes = utils.probe_modes_from_spreads(probe, 0.03, 1e-3, 20.0, 0.6, 0.6, n_modes=3, n_samples=40, seed=2)
    assert modes.shape == (24, 24, 3)
    powers = (np.abs(modes) ** 2).sum(axis=(0, 1))
    assert powers.sum() == pytest.approx((np.abs(probe) ** 2).sum())
    assert (np.diff(powers) <= 0).all()
    again = utils.probe_modes_from_spreads(probe, 0.03, 1e-3, 20.0, 0.6, 0.6, n_modes=3, n_samples=40, seed=2)
    np.testing.assert_array_equal(modes, again)
    other = utils.probe_modes_from_spreads(probe, 0.03, 1e-3, 20.0, 0.6, 0.6, n_modes=3, n_samples=40, seed=3)
    assert relative(other, modes) > 1e-3
    with pytest.raises(ParameterError, match="probe"):
        utils.generate_hermite_modes(np.ones((2, 2, 2, 2)), 1, 1)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_blocks_of_pixels(factor: int) -> None:
    rng = np.random.default_rng(2)
    small, large = rng.standard_normal((4, 5)), rng.standard_normal((4 * factor, 5 * factor))
    assert_adjoint(
        lambda a: utils.upsample_something(a, factor),
        lambda a: utils.downsample_something(a, factor),
        small,
        large,
        1e-12,
    )
    stack = np.stack([small, 2 * small])
    np.testing.assert_array_equal(
        utils.upsample_something_3d(stack, factor)[1], 2 * utils.upsample_something(small, factor)
    )
    back = utils.downsample_something_3d(utils.upsample_something_3d(stack, factor), factor)
    np.testing.assert_allclose(back, factor**2 * stack)


def test_blocks_that_do_not_fit() -> None:
    with pytest.raises(ParameterError, match="blocks"):
        utils.downsample_something(np.ones((5, 4)), 2)
    with pytest.raises(ParameterError, match="factor"):
        utils.upsample_something(np.ones((5, 4)), 0)


def test_gradients_in_other_variables() -> None:
    rng = np.random.default_rng(3)
    z, target = random_complex(rng, (6,)), random_complex(rng, (6,))
    gradient = 2 * (z - target)  # of |z - target|^2
    direction = rng.standard_normal(6)

    def loss(changed: np.ndarray) -> float:
        return float((np.abs(changed - target) ** 2).sum())

    for found, moved in (
        (utils.complex_grad_to_phase_grad(gradient, z), lambda t: z * np.exp(1j * t * direction)),
        (utils.complex_grad_to_mag_grad(gradient, z), lambda t: z + t * direction * np.exp(1j * np.angle(z))),
        (utils.complex_grad_to_phase_abs_grad(gradient, z)[1], lambda t: z * np.exp(-t * direction)),
    ):
        expected = directional_derivative(lambda t, moved=moved: loss(moved(t)), 1e-3)
        assert inner(found, direction) == pytest.approx(expected, rel=1e-7)
    phase = utils.complex_grad_to_phase_abs_grad(gradient, z)[0]
    np.testing.assert_array_equal(phase, utils.complex_grad_to_phase_grad(gradient, z))


@pytest.mark.parametrize(("factor", "slices"), [(1, 4), (2, 2), (0.5, 8), (1.3, 3), (100, 1)])
def test_other_slices_of_the_same_object(factor: float, slices: int) -> None:
    rng = np.random.default_rng(4)
    obj = np.exp(-0.1 * rng.random((5, 6, 4, 2)) + 1j * rng.uniform(-1, 1, (5, 6, 4, 2)))
    params = {"slice_distances": np.array([10.0]), "obj": obj, "num_slices": 4}
    found, changed = utils.resample_slices(obj, params, factor, N_before=1, N_after=2)
    assert found.shape == (5, 6, slices + 3, 2)
    np.testing.assert_array_equal(found[:, :, [0, -1, -2]], 1)
    total = np.log(np.abs(obj)).sum(axis=2) + 1j * np.angle(obj).sum(axis=2)
    np.testing.assert_allclose(found.prod(axis=2), np.exp(total), atol=1e-12)
    assert changed["num_slices"] == slices + 3
    assert changed["slice_distances"][0] * slices == pytest.approx(40)
    assert changed["total_thickness"] == pytest.approx(40 * (slices + 3) / slices)
    assert params["num_slices"] == 4


def test_slices_that_cannot_be_resampled() -> None:
    for obj, params, options in (
        (np.ones((4, 4)), {}, {}),
        (np.ones((4, 4, 3, 1)), {"slice_distances": [1.0, 2.0]}, {}),
        (np.ones((4, 4, 3, 1)), {}, {"refactor_thickness": 0}),
        (np.ones((4, 4, 3, 1)), {}, {"N_before": -1}),
    ):
        with pytest.raises(ParameterError, match="given"):
            utils.resample_slices(obj, params, **options)


def test_line_search_conditions() -> None:
    assert utils.wolfe_1(10.0, 9.0, -1.0, 1.0, 0.5)
    assert not utils.wolfe_1(10.0, 9.8, -1.0, 1.0, 0.5)
    assert utils.wolfe_2(-1.0, -0.5)
    assert utils.wolfe_2(-1.0, 5.0)  # the weak condition
    assert not utils.wolfe_2(-1.0, -0.95)


def test_batch_of_the_memory_plan() -> None:
    shapes: dict[str, Any] = {
        "measured_data_shape": (40, 32, 32),
        "data_pad": 4,
        "obj_shape": (90, 90, 3, 1),
        "probe_shape": (40, 40, 2),
    }
    batch = utils.get_compute_batch("auto", **shapes)
    assert 1 <= batch <= 40
    assert utils.get_compute_batch(7, **shapes) == 7
    with pytest.raises(ParameterError):
        utils.get_compute_batch("auto", **{**shapes, "probe_shape": (39, 40, 2)})


def test_torn_scan() -> None:
    rows, columns = np.indices((14, 15)).astype(float)
    points = np.stack([rows.ravel() * 3, columns.ravel() * 3], axis=1)
    torn = points.copy()
    torn[columns.ravel() >= 8] += [4, 6]
    mended = utils.position_puzzling(torn, (14, 15))
    np.testing.assert_allclose(mended - mended[0], points - points[0], atol=1e-6)
    np.testing.assert_array_equal(utils.position_puzzling(points, (14, 15)), points)
    with pytest.raises(ParameterError, match="sigma"):
        utils.position_puzzling(points, (14, 15), sigma=1.0)


def test_functions_of_the_epoch_as_text() -> None:
    functions = [lambda x: x >= 10, lambda epoch: 8e-9 if epoch < 3 else 0.5]  # fmt: skip
    texts = [utils.lambda_to_string(function) for function in functions]
    assert [utils.string_to_lambda(text)(20) for text in texts] == [True, 0.5]
    assert [utils.string_to_lambda(text)(2) for text in texts] == [False, 8e-9]
    assert utils.lambda_to_string(3) == 3
    assert utils.string_to_lambda(3) == 3
    params = {"update_probe": lambda x: x > 5, "dataset": np.ones(3), "acc_voltage": 80, "sample_name": "a"}
    text = utils.convert_to_string(params)
    assert set(text) == {"update_probe", "acc_voltage", "sample_name"}
    back = utils.string_params_to_usefull_params(text)
    assert back["update_probe"](6) is True
    assert back["sample_name"] == "a"
    assert "dataset" in utils.convert_to_string(params, strip_dataset_from_params=False)


def test_functions_without_a_text() -> None:
    limit = 4

    def several_lines(epoch: int) -> bool:
        return epoch > 3

    for function in (lambda epoch: epoch > limit, several_lines, eval("lambda x: x"), max):
        with pytest.raises(ParameterError, match=r"expression|source code"):
            utils.lambda_to_string(function)
    with pytest.raises(ExpressionError):
        utils.string_to_lambda("lambda x: x.__class__")


def test_value_at_an_epoch() -> None:
    assert utils.get_value_for_epoch(lambda x: 2 * x, 4) == 8
    assert utils.get_value_for_epoch("lambda x: 2*x", 4) == 8
    assert utils.get_value_for_epoch("multislice", 4) == "multislice"
    assert utils.get_value_for_epoch([1, lambda x: x], 4) == [1, 4]
    table = {"from_epoch": {0: 1.0, 3: 0.5}}
    assert [utils.get_value_for_epoch(table, epoch, "loss_weight") for epoch in (0, 4)] == [1.0, 0.5]
    assert utils.get_value_for_epoch(table, 4) == 0.5
    assert utils.get_value_for_epoch("epoch > 2", 3, "update_probe") is True
    with pytest.raises(ParameterError, match="not a parameter"):
        utils.get_value_for_epoch(1, 0, "speed")


def parameters() -> dict[str, Any]:
    rng = np.random.default_rng(5)
    return {
        "acc_voltage": 80.0,
        "scan_size": (4, 5),
        "positions": rng.random((20, 2)),
        "obj": random_complex(rng, (3, 3, 1, 1)),
        "aberrations": np.array([1.0, 2.0]),
        "dataset": rng.random((20, 4, 4)),
        "update_probe": lambda epoch: epoch >= 2,
        "force_dataset_dtype": np.float32,
        "output_folder": Path("results"),
        "aperture_mask": np.ones((5, 5), bool),
        "tilts": None,
    }


def test_parameters_go_through_a_file(tmp_path: Path) -> None:
    params = parameters()
    path = utils.save_params(tmp_path / "new" / "p.yaml", params)
    found = utils.load_params(path)
    assert set(found) == set(params) - {"dataset"}
    for name in ("positions", "obj", "aperture_mask", "aberrations", "scan_size"):
        np.testing.assert_array_equal(found[name], params[name])
    assert found["obj"].dtype == complex
    assert utils.get_value_for_epoch(found["update_probe"], 3, "update_probe") is True
    assert found["output_folder"] == "results"
    assert pypty.params.reading.read_parameters(found, report := pypty.params.report.Report())
    assert not [text for text in report.problems if "dtype" in text]
    with_data = utils.save_params(tmp_path / "q.yaml", params, strip_dataset_from_params=False)
    np.testing.assert_array_equal(utils.load_params(with_data)["dataset"], params["dataset"])
    utils.delete_dataset_from_params(with_data)
    assert "dataset" not in utils.load_params(with_data)
    assert not (tmp_path / "q_arrays" / "dataset.npy").exists()
    assert (tmp_path / "q_arrays" / "positions.npy").exists()
    utils.delete_dataset_from_params(with_data)  # nothing to do


def test_values_are_changed_in_a_file(tmp_path: Path) -> None:
    path = utils.save_params(tmp_path / "params.yaml", {"acc_voltage": 80.0})
    utils.change_params(path, ["acc_voltage", "update_probe"], [60, "epoch > 3"])
    utils.change_params(tmp_path, "positions", np.zeros((20, 2)))
    found = utils.load_params(path)
    assert (found["acc_voltage"], found["update_probe"]) == (60, "epoch > 3")
    assert found["positions"].shape == (20, 2)
    assert path.read_text().startswith("# Parameters of PyPty")
    before = path.read_text()
    for keys, values, text in (
        ("acc_voltage", "high", "acc_voltage"),
        (["acc_voltage"], [1, 2], "one value per key"),
        ("speed", 1, "not a parameter"),
    ):
        with pytest.raises(ParameterError, match=text):
            utils.change_params(path, keys, values)
    assert path.read_text() == before
    with pytest.raises(ParameterError, match="does not exist"):
        utils.change_params(tmp_path / "other.yaml", "acc_voltage", 1)


def test_a_running_reconstruction_takes_a_change_over(tmp_path: Path) -> None:
    params = small_problem(output_folder=str(tmp_path), epoch_max=4, num_slices=3, skip_preprocessing=True)

    def change(epoch: int) -> float:
        if epoch == 1 and (tmp_path / "params.yaml").exists():
            utils.change_params(tmp_path, "update_probe", False)
        return 1.0

    params["loss_weight"] = change
    assert pypty.run(params).settings["update_probe"] is False


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"expected \.yaml"):
        utils.save_params(tmp_path / "p.json", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["params.pkl", "params.pickle"])
def test_the_name_of_a_pickle_stands_for_yaml(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As scripts for PyPty 2.2 write it; a pickle itself is not opened."""
    path = tmp_path / name
    params = {"acc_voltage": 80.0, "backend": np, "max_count": np.inf, "positions": np.ones((20, 2))}
    assert utils.save_params(str(path), params) == tmp_path / "params.yaml"
    assert "params.yaml is used in place of a pickle" in caplog.text
    utils.change_params(path, "epoch_max", 3)
    again = utils.load_params(path)
    assert (again["acc_voltage"], again["backend"], again["epoch_max"]) == (80.0, "numpy", 3)
    assert again["max_count"] == np.inf and not path.exists()
    path.write_bytes(b"text")
    for action in (lambda: utils.load_params(path), lambda: utils.change_params(path, "epoch_max", 3)):
        with pytest.raises(ParameterError, match="pickle"):
            action()


def test_parameters_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="speed"):
        utils.save_params(tmp_path / "p.yaml", {"speed": 1})
    with pytest.raises(ParameterError, match="cannot be written"):
        utils.save_params(tmp_path / "p.yaml", {"sample_name": object()})


def test_a_foreign_file_is_not_deleted(tmp_path: Path) -> None:
    other = tmp_path / "data.npy"
    np.save(other, np.ones(3))
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "p.yaml"
    path.write_text("dataset: {file: ../data.npy}\n")
    utils.delete_dataset_from_params(path)
    assert other.exists()


def test_what_is_left_out_says_what_to_use() -> None:
    with pytest.raises(MovedError, match="position_puzzling"):
        _ = utils.segment_regions_from_image
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = utils.nonsense
    for name in utils.__all__:
        assert callable(getattr(utils, name))


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("objective.charge_flip", "pypty.constraints.object.charge_flip"),
        ("objective.compute_atv_constraint", "set atv_weight"),
        ("multislice_core.multislice", "pypty.simulate(params, exit_waves=True)"),
        ("iterative.bfgs_update", "pypty.run(params)"),
        ("fft.shift_fft2", "scipy.fft"),
        ("utils.preprocess_dataset", "data_bin"),
    ],
)
def test_names_that_moved_answer_with_their_place(name: str, place: str) -> None:
    """As attributes, as names of pypty itself, and in "from pypty.MODULE import NAME"."""
    module, function = name.split(".")
    with pytest.raises(MovedError, match=re.escape(place)):
        operator.attrgetter(name)(pypty)
    with pytest.raises(AttributeError, match=re.escape(place)):
        getattr(pypty, function)
    with pytest.raises(ImportError, match=re.escape(place)):
        exec(f"from pypty.{module} import {function}")
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = importlib.import_module(f"pypty.{module}").nonsense


def test_every_place_that_is_named_exists() -> None:
    for names in MOVED.values():
        for text in names.values():
            for place in re.findall(r"\bpypty(?:\.\w+)+", text):
                module, function = place.removeprefix("pypty.").rpartition(".")[::2]
                found = importlib.import_module(f"pypty.{module}" if module else "pypty")
                assert hasattr(found, function) or importlib.import_module(place), place
            for key in re.findall(r"pypty explain (\w+)", text):
                assert explain(key)


def test_modules_of_moved_names_have_nothing_else() -> None:
    """``from pypty.fft import *`` does no harm."""
    assert fft.__all__ == multislice_core.__all__ == []


def test_names_of_the_modules_are_names_of_pypty() -> None:
    assert pypty.convert_to_nxs is utils.convert_to_nxs
    assert pypty.append_exp_params is pypty.initialize.append_exp_params
    assert pypty.warp_image is pypty.se.warp_image
    with pytest.raises(AttributeError, match="module 'pypty' has no attribute 'nonsense'"):
        _ = pypty.nonsense


def test_results_go_through_nexus(tmp_path: Path) -> None:
    params = small_problem(output_folder=str(tmp_path / "run"), epoch_max=1, warmup_epochs=0)
    pypty.run(params)
    path = utils.convert_to_nxs(tmp_path / "run", tmp_path / "result.nxs")
    found = utils.load_nexus_params(path)
    assert found["acc_voltage"] == params["acc_voltage"]
    np.testing.assert_allclose(found["slice_distances"], params["slice_distances"])


def test_a_saved_data_path_is_found_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data_file(tmp_path)
    pypty.utils.save_params("sub/scan.yaml", {"data_path": "d.h5", "epoch_max": 3})
    assert pypty.load_preset("sub/scan.yaml")["data_path"] == str((tmp_path / "d.h5").resolve())


def test_an_expression_that_cannot_be_read_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("update_probe: true\n")
    with pytest.raises(ParameterError, match="update_probe"):
        pypty.utils.change_params(path, "update_probe", "lambda x: x >")
    assert path.read_text() == "update_probe: true\n"
    pypty.utils.change_params(path, "update_probe", "lambda x: x > 3")
    assert pypty.load_preset(path)["update_probe"] == "lambda x: x > 3"
