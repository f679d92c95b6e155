"""Wigner deconvolution and single sidebands: PyPty's numbers, physics with a known object, memory, and bad input."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from calibration_data import flat_disk, flat_scan
from hypothesis import given, settings
from hypothesis import strategies as st

import pypty
from pypty.backend.fft import Transforms
from pypty.demo import demo_data
from pypty.direct import ssb, wdd
from pypty.direct_methods.direct import _probe_spectrum
from pypty.direct_methods.numerics.scan_transform import scan_spectra
from pypty.direct_methods.numerics.sideband import bounding_box
from pypty.direct_methods.numerics.wigner import Deconvolution, ShiftedSpectrum, object_spectrum
from pypty.errors import DataError, ParameterError
from pypty.experiment import Experiment
from pypty.optics.grid import Grid
from pypty.optics.probes import aberrate, probe_from_spectrum, resize, resize_spectrum
from pypty.optics.scan_grid import rotation_yx, scan_grid_A
from pypty.optics.wavelength import acc_voltage_kV, wavelength_A

GOLDEN = Path(__file__).parent / "golden" / "direct_methods.npz"
N, PIXEL_A, STEP_A = 48, 0.3, 0.5


def pattern_chunks(data: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(data), size):
        part = data[start : start + size]
        yield np.arange(start, start + len(part)), part


@given(
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(1, 9),
    st.integers(1, 2000),
    st.sampled_from(["c8", "c16"]),
)
@settings(max_examples=40, deadline=None)
def test_scan_spectra_are_the_transform_over_the_scan(
    slow: int, fast: int, size: int, largest_bytes: int, dtype: str
) -> None:
    """Whatever the chunks and the memory: half of a plain FFT over the scan."""
    data = np.random.default_rng(slow * 7 + fast).poisson(5, (slow * fast, 5, 4)).astype(np.uint16)
    region = (slice(1, 4), slice(0, 3))
    found = np.empty((slow, fast // 2 + 1, 3, 3), dtype)
    n_passes = 0
    for rows, spectra in scan_spectra(
        lambda: pattern_chunks(data, size),
        (slow, fast),
        pattern_shape=(5, 4),
        region=region,
        dtype=np.dtype(dtype),
        largest_bytes=largest_bytes,
    ):
        assert spectra.dtype == np.dtype(dtype)
        assert len(rows) == 1 or spectra.nbytes <= largest_bytes
        found[rows] = spectra
        n_passes += 1
    expected = np.fft.fft2(data.reshape(slow, fast, 5, 4)[:, :, 1:4, :3], axes=(0, 1))[:, : fast // 2 + 1]
    np.testing.assert_allclose(found, expected, atol=1e-4 if dtype == "c8" else 1e-11)
    row_bytes = (fast // 2 + 1) * 9 * np.dtype(dtype).itemsize
    assert n_passes == -(-slow // max(1, largest_bytes // row_bytes))


@pytest.mark.parametrize("n_patterns", [5, 7])
def test_scan_spectra_refuse_patterns_that_are_no_scan(n_patterns: int) -> None:
    data = np.ones((n_patterns, 2, 2))
    with pytest.raises(DataError, match="scan_size"):
        list(
            scan_spectra(
                lambda: pattern_chunks(data, 2),
                (2, 3),
                pattern_shape=(2, 2),
                region=(slice(None), slice(None)),
            )
        )


def test_scan_spectra_refuse_nothing() -> None:
    with pytest.raises(DataError, match="scan_size"):
        list(scan_spectra(lambda: iter(()), (2, 3), pattern_shape=(2, 2), region=(slice(None), slice(None))))


def golden_params() -> tuple[dict[str, Any], np.ndarray]:
    stored = np.load(GOLDEN)
    about = json.loads(str(stored["params_json"]))
    volts = about["acc_voltage"]
    params = {
        "dataset": stored["in_dataset_f32"],
        # PyPty's wavelength here is 12.4 / sqrt(...) Å, 1.6e-4 off; a voltage that has this wavelength
        "acc_voltage": acc_voltage_kV(12.4 / np.sqrt((2 * 511.0 + volts) * volts)),
        "rez_pixel_size_A": about["rez_pixel_size_A"],
        "scan_size": about["scan_size"],
        "scan_step_A": about["scan_step_A"],
        "PLRotation_deg": about["PLRotation_deg"],
        "pixel_size_x_A": about["pixel_size_A"],
        "pixel_size_y_A": about["pixel_size_A"],
        "aberrations": stored["in_aberrations"],
    }
    return params, stored["out_wdd"]


def test_wdd_is_that_of_pypty() -> None:
    """PyPty's image but for its factor |O(0)|^(1/2)/points, which depends on the number of pixels and points: ours has
    the mean 1. Its eps is absolute (asked for here); its wavelength is that of :func:`golden_params`."""
    params, expected = golden_params()
    found = wdd(params, 1e-3, absolute_eps=True)
    assert found.dtype == np.complex64
    assert np.linalg.norm(found - expected / expected.mean()) < 5e-7 * np.linalg.norm(found)
    double = wdd(params, 1e-3, absolute_eps=True, precision="double")
    assert double.dtype == np.complex128
    assert np.linalg.norm(double - found) < 5e-7 * np.linalg.norm(found)


@pytest.mark.parametrize("method", [wdd, ssb])
def test_little_memory_gives_the_same(method: Any) -> None:
    """Data that are read once for every row of object frequencies."""
    params, _ = golden_params()
    once = method({**params, "n_threads": 2}, precision="double")
    np.testing.assert_allclose(method(params, largest_GiB=1e-9, precision="double"), once, rtol=1e-10)


def probe_and_grid(
    semiangle_mrad: float = 25.0, defocus_A: float = 40.0
) -> tuple[np.ndarray, np.ndarray, Grid]:
    """(y, x) probe of 1e4 counts, its disk (ky, kx), and the grid."""
    grid = Grid((N, N), (PIXEL_A, PIXEL_A), wavelength_A(80.0))
    disk = np.fft.fftshift(np.hypot(grid.qy, grid.qx) * grid.wavelength < 1e-3 * semiangle_mrad)
    sharp = probe_from_spectrum(np.sqrt(1e4 / disk.sum()) * disk)[None]
    return aberrate(sharp, grid, np.array([defocus_A, 15.0, -10.0]))[0], disk, grid


def weak_scan(
    scan_size: tuple[int, int], rotation_deg: float, strength: float = 0.02, **changes: Any
) -> tuple[dict[str, Any], np.ndarray]:
    """Parameters with the simulated patterns of a weak phase object, and its phase at the points of the scan.

    The phase is a sum of waves that fit into the scan, also when that is rotated: nothing happens at the edges.
    """
    rng = np.random.default_rng(3)
    probe, disk, grid = probe_and_grid()
    positions = scan_grid_A(scan_size, STEP_A, rotation_deg) / PIXEL_A
    positions -= positions.min(axis=0) - 1
    shape = np.ceil(positions.max(axis=0)).astype(int) + N + 1
    y, x = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    phase = np.zeros(shape)
    truth = np.zeros(len(positions))
    for _ in range(14):
        q = rng.integers(-5, 6, 2) / (np.array(scan_size) * STEP_A)
        q_detector = rotation_yx(rotation_deg) @ q * PIXEL_A
        if not q.any() or np.hypot(*q) > 0.7 * 2 * 25e-3 / grid.wavelength:
            continue
        height, start = strength * rng.normal(), rng.uniform(0, 2 * np.pi)
        phase += height * np.cos(2 * np.pi * (q_detector[0] * y + q_detector[1] * x) + start)
        centre = positions + N // 2
        truth += height * np.cos(2 * np.pi * centre @ q_detector + start)
    params = {
        "acc_voltage": 80.0,
        "pixel_size_x_A": PIXEL_A,
        "pixel_size_y_A": PIXEL_A,
        "positions": positions,
        "probe": probe[:, :, None],
        "skip_preprocessing": True,
        "obj": np.exp(1j * phase)[:, :, None, None],
        "damping_cutoff_multislice": 1.0,
    }
    data = pypty.simulate(params)
    return {
        **params,
        "obj": None,
        "dataset": data,
        "scan_size": scan_size,
        "scan_step_A": STEP_A,
        "PLRotation_deg": rotation_deg,
        "aperture_mask": disk.astype(float),
        **changes,
    }, truth.reshape(scan_size)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


@pytest.mark.parametrize(
    ("scan_size", "rotation_deg"), [((16, 22), 0.0), ((21, 14), -37.0), ((16, 16), 130.0)]
)
def test_sidebands_give_the_phase_of_a_weak_object(scan_size: tuple[int, int], rotation_deg: float) -> None:
    """Right in place, sign and height, for rectangular and rotated scans, with defocus and astigmatism."""
    params, truth = weak_scan(scan_size, rotation_deg)
    phase = np.angle(ssb(params))
    assert phase.shape == scan_size
    assert correlation(phase, truth) > 0.99
    assert np.polyfit(truth.ravel(), phase.ravel(), 1)[0] == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize(("scan_size", "rotation_deg"), [((16, 22), 0.0), ((21, 14), -37.0)])
def test_wdd_gives_the_phase_of_a_weak_object(scan_size: tuple[int, int], rotation_deg: float) -> None:
    params, truth = weak_scan(scan_size, rotation_deg)
    assert correlation(np.angle(wdd(params)), truth) > 0.95
    assert correlation(np.angle(wdd({**params, "PLRotation_deg": rotation_deg + 90})), truth) < 0.9


@pytest.mark.parametrize("method", [wdd, ssb])
def test_known_aberrations_do_what_a_given_probe_does(method: Any) -> None:
    params, truth = weak_scan((16, 22), 20.0)
    by_numbers = {**params, "probe": None, "extra_probe_defocus": 30.0, "aberrations": [10.0, 15.0, -10.0]}
    phase = np.angle(method(by_numbers))
    assert correlation(phase, truth) > 0.95
    assert correlation(phase, np.angle(method(params))) > 0.99
    wrong = {**by_numbers, "extra_probe_defocus": -50.0}
    assert correlation(np.angle(method(wrong)), truth) < correlation(phase, truth) - 0.1


@pytest.mark.parametrize("method", [wdd, ssb])
def test_padding_belongs_to_reciprocal_space(method: Any) -> None:
    """PyPty 2.2 crops the padded probe in real space, so that padding changes the image."""
    params, _ = weak_scan((12, 14), 0.0)
    pad = 8
    finer = PIXEL_A * N / (N + 2 * pad)
    probe = resize_spectrum(np.moveaxis(params["probe"], -1, 0), (N + 2 * pad,) * 2)
    padded = {
        **params,
        "data_pad": pad,
        "pixel_size_x_A": finer,
        "pixel_size_y_A": finer,
        "positions": params["positions"] * PIXEL_A / finer,
        "probe": np.moveaxis(probe, 0, -1),
        "aperture_mask": np.pad(params["aperture_mask"], pad),
    }
    np.testing.assert_allclose(method(padded), method(params), atol=1e-5)


def test_upsampled_patterns_take_every_second_frequency_of_the_probe() -> None:
    params, _ = weak_scan((8, 9), 0.0)
    wide = resize(np.moveaxis(params["probe"], -1, 0), (2 * N, 2 * N))
    up = {
        **params,
        "upsample_pattern": 2,
        "probe": np.moveaxis(wide, 0, -1),
        "rez_pixel_size_A": 1 / (N * PIXEL_A),
    }
    np.testing.assert_allclose(wdd({**up, "aperture_mask": None}), wdd(params), atol=1e-5)


def test_a_probe_in_the_window_of_a_pattern_is_upsampled_like_that_of_a_reconstruction() -> None:
    params, _ = weak_scan((8, 9), 0.0)
    up = {**params, "upsample_pattern": 2, "rez_pixel_size_A": 1 / (N * PIXEL_A), "aperture_mask": None}
    np.testing.assert_allclose(wdd(up), wdd(params), atol=1e-5)


@pytest.mark.parametrize(("side", "mode"), [(2 * N, "resample"), (N + 20, "resample"), (2 * N, "crop")])
@pytest.mark.parametrize("calibrated", [True, False])
def test_another_window_for_the_simulated_patterns(side: int, mode: str, calibrated: bool) -> None:
    """The same probe, in a larger field (resample) or with finer pixels (crop): the same object."""
    params, truth = weak_scan((8, 9), 0.0)
    planes = np.moveaxis(params["probe"], -1, 0)
    larger = (resize if mode == "resample" else resize_spectrum)(planes, (side, side))
    pixel = PIXEL_A if mode == "resample" else PIXEL_A * N / side
    wide = {
        **params,
        "simu_Npix": side,
        "simu_match_mode": mode,
        "probe": np.moveaxis(larger, 0, -1),
        "pixel_size_x_A": pixel,
        "pixel_size_y_A": pixel,
        "aperture_mask": None,
        **({"rez_pixel_size_A": 1 / (N * PIXEL_A)} if calibrated else {}),
    }
    found = wdd(wide)
    np.testing.assert_allclose(found, wdd(params), atol=1e-5)
    assert correlation(np.angle(found), truth) > 0.95


def test_the_first_mode_of_the_probe_counts_and_an_aperture_will_do() -> None:
    params, truth = weak_scan((12, 14), 0.0)
    modes = np.concatenate([params["probe"], params["probe"][::-1]], axis=2)
    np.testing.assert_allclose(wdd({**params, "probe": modes}), wdd(params), atol=1e-6)
    aperture = {**params, "probe": "aperture", "aberrations": [40.0, 15.0, -10.0]}
    assert correlation(np.angle(wdd(aperture)), truth) > 0.95
    continued = {**params, "epoch_prev": 5, "aberrations": [300.0]}  # they are in the probe already
    np.testing.assert_allclose(wdd(continued), wdd(params), atol=1e-6)


def test_the_dose_does_not_matter_unless_eps_is_absolute() -> None:
    params, _ = weak_scan((12, 14), 0.0, probe=None, aberrations=[40.0, 15.0, -10.0])
    strong = {**params, "data_multiplier": 1000.0}
    for method in (wdd, ssb):
        np.testing.assert_allclose(method(strong), method(params), atol=1e-5)
    absolute = [np.angle(wdd(p, 1.0, absolute_eps=True)).std() for p in (params, strong)]
    assert abs(absolute[0] / absolute[1] - 1) > 0.02


def test_eps_and_thresh_regularise() -> None:
    params, truth = weak_scan((12, 14), 0.0)
    heights = [np.angle(wdd(params, eps)).std() for eps in (1e-4, 1e-2, 1.0)]
    assert heights[0] > heights[1] > heights[2]
    for thresh in (0.02, 0.5):
        assert correlation(np.angle(wdd(params, thresh=thresh)), truth) > 0.9
    with pytest.raises(ParameterError, match="thresh"):  # above every |W|: nothing is left
        wdd(params, thresh=1e3)
    assert np.angle(ssb(params, eps=10.0)).std() < 0.5 * np.angle(ssb(params)).std()


def test_files_are_read_in_pieces_and_results_written(tmp_path: Path) -> None:
    params, _ = weak_scan((12, 14), 0.0)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["data"] = params["dataset"].reshape(12, 14, N, N)
    from_file = {
        **params,
        "dataset": None,
        "data_path": str(tmp_path / "data.h5"),
        "output_folder": str(tmp_path),
    }
    for method in (wdd, ssb):
        found = method(from_file, save=1)
        np.testing.assert_allclose(found, method(params), atol=1e-6)
        np.testing.assert_array_equal(np.load(tmp_path / method.__name__ / "object.npy"), found)


def test_mos2_of_the_package() -> None:
    """Integer counts of an independent simulation; 0.45 Å steps cannot show all of the truth (docs of the direct
    methods: 0.86 for WDD, 0.88 for SSB)."""
    from pypty.quality import phase_agreement

    with h5py.File(demo_data(), "r") as file:
        about = dict(file.attrs)
        truth, points = file["truth/phase_total"][()].astype(float), file["positions_true_A"][()]
    params = {
        "data_path": str(demo_data()),
        "acc_voltage": float(about["voltage_kV"]),
        "scan_size": about["scan_shape"].tolist(),
        "scan_step_A": float(about["scan_step_A"]),
        "rez_pixel_size_A": 1 / float(about["window_A"]),
        "pixel_size_x_A": float(about["pixel_size_A"]),
        "pixel_size_y_A": float(about["pixel_size_A"]),
        "conv_semiangle_mrad": float(about["semiangle_mrad"]),
        "extra_probe_defocus": float(about["C10_A"]),
    }
    area = np.stack([points.min(axis=0), points.max(axis=0)])
    for method, least in ((wdd, 0.85), (ssb, 0.87)):
        phase = np.angle(method(params))
        step, pixel = params["scan_step_A"], params["pixel_size_x_A"]
        agreement = phase_agreement(
            phase, step, origin_A=points[0], truth=truth, truth_pixel_A=pixel, area_A=area, search_A=0.4
        )
        assert agreement.correlation > least
        assert np.hypot(*agreement.shift_A) < 0.05


def test_bounding_box() -> None:
    mask = np.zeros((6, 7), bool)
    mask[2, 1] = mask[4, 5] = True
    assert bounding_box(mask) == (slice(2, 5), slice(1, 6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps_wiener": 0.0}, "eps_wiener"),
        ({"eps_wiener": np.nan}, "eps_wiener"),
        ({"thresh": -1.0}, "thresh"),
        ({"largest_GiB": 0}, "largest_GiB"),
        ({"precision": "half"}, "precision"),
        ({"save": 1}, "output_folder"),
    ],
)
def test_wdd_refuses_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        wdd(golden_params()[0], **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recon_type": "near_field"}, "far field"),
        ({"dataset": np.zeros((168, 32, 32))}, "0"),
        ({"mean_pattern": np.zeros((32, 32))}, "mean"),
        ({"probe": np.zeros((32, 32, 1), complex)}, "probe"),
        ({"scan_size": [12, 13]}, "scan_size"),
        ({"dataset": np.zeros((168, 3)), "masks": np.ones((3, 32, 32))}, "masks"),
    ],
)
def test_wdd_refuses_bad_parameters(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        wdd({**golden_params()[0], **changes})


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"eps": -1.0}, "eps"),
        ({"aperture_mask": np.zeros((32, 32))}, {}, "aperture"),
        ({"dataset": np.zeros((168, 32, 32)), "aperture_mask": 0.5}, {}, "counts"),
    ],
)
def test_ssb_refuses(changes: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        ssb({**golden_params()[0], **changes}, **options)


def test_values_that_are_not_finite_are_refused() -> None:
    params, _ = golden_params()
    broken = params["dataset"].copy()
    broken[3, 4, 5, 6] = np.nan
    with pytest.raises(DataError, match="NaN"):
        wdd({**params, "dataset": broken, "mean_pattern": np.ones((32, 32))})


@pytest.mark.parametrize("changes", [{"data_bin": 2}, {"data_shift_vector": [-3, 0]}, {"flip_ky": True}])
def test_a_given_mean_pattern_is_that_of_the_recording(changes: dict[str, Any]) -> None:
    pattern = flat_disk(centre=(19, 16)) + 1
    data = np.broadcast_to(pattern, (4, 9, 32, 32)).astype(np.float32)
    measured = _probe_spectrum(Experiment.from_params(flat_scan(dataset=data, **changes)))
    given = _probe_spectrum(Experiment.from_params(flat_scan(dataset=data, mean_pattern=pattern, **changes)))
    np.testing.assert_allclose(given, measured, rtol=1e-6)


def test_a_spectrum_moves_by_any_shift_and_does_not_come_back() -> None:
    """A blob of Gaussian shape, whose probe is narrow: A(k - Q) for whole and half pixels."""
    ky, kx = np.arange(32) - 16.0, np.arange(48) - 24.0

    def blob(y: float, x: float) -> np.ndarray:
        return np.exp(-((ky[:, None] - y) ** 2 + (kx[None, :] - x) ** 2) / 18).astype(complex)

    shifts = np.array([[0.0, 0.0], [3.0, -5.0], [-2.5, 4.5]])
    moved = ShiftedSpectrum(blob(0, 0), np.dtype(complex)).shifted(shifts, Transforms())
    for found, (y, x) in zip(moved, shifts, strict=True):
        np.testing.assert_allclose(found, blob(y, x), atol=2e-3)
    np.testing.assert_array_equal(moved[1][:3], 0)  # what came in at the edge is nothing
    np.testing.assert_array_equal(moved[1][:, 43:], 0)


def test_a_uniform_object_has_one_frequency() -> None:
    y, x = np.mgrid[:16, :16] - 8
    aperture = (np.hypot(y, x) < 4.5).astype(complex)
    patterns = np.broadcast_to(np.abs(aperture) ** 2, (20, 16, 16)).astype(np.float64)
    rows, columns = np.meshgrid(np.fft.fftfreq(4), np.fft.fftfreq(5), indexing="ij")
    frequencies = 12 * np.stack([rows, columns], axis=-1)

    def chunks() -> Any:
        return iter([(np.arange(20), patterns)])

    found = object_spectrum(
        chunks,
        (4, 5),
        frequencies_px=frequencies,
        spectrum=aperture,
        deconvolution=Deconvolution(1e-2),
        n_threads=1,
    )
    assert found.shape == (4, 5)
    rest = np.abs(found).ravel()[1:]
    assert np.abs(found[0, 0]) > 1e6 * rest.max() and found[0, 0].imag == pytest.approx(0, abs=1e-9)
