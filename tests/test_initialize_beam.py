"""The starting beam, descan tilts, and going on from an earlier run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibration_data import flat_disk, flat_scan
from helpers import random_complex, relative

import pypty
from pypty.errors import CheckpointError, ParameterError
from pypty.initialize import (
    append_aperture_to_params,
    append_exp_params,
    conjugate_beam,
    get_approx_beam_tilt,
    get_focussed_probe_from_vacscan,
    prepare_restart,
    tiltbeamtodata,
)
from pypty.optics import probes
from pypty.optics.wavelength import wavelength_A


def disk(centre: tuple[float, float] = (0, 0), shape: tuple[int, int] = (24, 20)) -> np.ndarray:
    y, x = (np.arange(n) - n // 2 for n in shape)
    return 100.0 * (np.hypot(y[:, None] - centre[0], x[None, :] - centre[1]) < 5.3)


def pattern_of(probe: np.ndarray) -> np.ndarray:
    return (np.abs(probes.spectrum_of_probe(probe.transpose(2, 0, 1))) ** 2).sum(axis=0)


def test_conjugated_beam() -> None:
    rng = np.random.default_rng(0)
    params = {
        "aberrations": [10.0, -3.0],
        "aberrations_array": [[1.0, 2.0]],
        "extra_probe_defocus": 50.0,
        "defocus": 0.0,
        "probe": random_complex(rng, (8, 9, 2, 3)),
    }
    before = params["probe"].copy()
    out = conjugate_beam(params)
    assert params["aberrations"] == [10, -3]
    np.testing.assert_array_equal(params["probe"], before)
    np.testing.assert_array_equal(out["aberrations"], [-10, 3])
    np.testing.assert_array_equal(out["aberrations_array"], [[-1, -2]])
    assert (out["extra_probe_defocus"], out["defocus"]) == (-50, 0)
    old, new = (probes.spectrum_of_probe(p.transpose(2, 3, 0, 1)) for p in (before, out["probe"]))
    np.testing.assert_allclose(new, old.conj(), atol=1e-12)
    assert relative(conjugate_beam(out)["probe"], before) < 1e-14
    assert "probe" not in conjugate_beam({"extra_probe_defocus": 1.0})


def test_conjugating_a_defocused_probe_defocuses_it_the_other_way() -> None:
    from pypty.optics.grid import Grid

    grid = Grid((24, 20), (0.3, 0.3), wavelength_A(80))
    focused = probes.probe_from_pattern(disk())
    under, over = (probes.defocus(focused, grid, d).transpose(1, 2, 0) for d in (-80.0, 80.0))
    assert relative(conjugate_beam({"probe": under})["probe"], over) < 1e-12


@pytest.mark.parametrize(("upsample", "pad"), [(1, 0), (1, 3), (2, 4)])
def test_focused_probe_and_aperture_of_a_vacuum_pattern(upsample: int, pad: int) -> None:
    params = {
        "dataset": np.broadcast_to(disk(), (3, 24, 20)),
        "positions": np.zeros((3, 2)),
        "upsample_pattern": upsample,
        "data_pad": pad,
    }
    out = get_focussed_probe_from_vacscan(params, disk())
    window = (upsample * 24 + 2 * pad, upsample * 20 + 2 * pad)
    assert out["probe"].shape == (*window, 1)
    seen = pattern_of(out["probe"])[pad : window[0] - pad, pad : window[1] - pad]
    seen = seen.reshape(24, upsample, 20, upsample).sum(axis=(1, 3))
    np.testing.assert_allclose(seen, disk(), atol=1e-9)
    mask = append_aperture_to_params(params, disk())["aperture_mask"]
    assert mask.shape == window
    assert mask.sum() == (disk() > 0).sum() * upsample**2
    assert pypty.check(
        {**out, "aperture_mask": mask, "acc_voltage": 80, "pixel_size_x_A": 1, "pixel_size_y_A": 1}
    )
    assert "probe" not in params


@pytest.mark.parametrize("mode", ["crop", "resample"])
def test_aperture_and_probe_in_the_window_of_the_simulated_pattern(mode: str) -> None:
    """simu_Npix is the side of the window: arrays fit it, and a check accepts them."""
    vacuum = np.pad(disk(), [(0, 0), (2, 2)])  # 24 x 24
    params = {
        "dataset": np.broadcast_to(vacuum, (3, 24, 24)),
        "positions": np.zeros((3, 2)),
        "simu_Npix": 48,
        "simu_match_mode": mode,
    }
    out = append_aperture_to_params(get_focussed_probe_from_vacscan(params, vacuum), vacuum)
    assert out["probe"].shape == (48, 48, 1) and out["aperture_mask"].shape == (48, 48)
    area = (disk() > 0).sum() * (4 if mode == "resample" else 1)
    assert out["aperture_mask"].sum() == pytest.approx(area, rel=0.1)
    assert pattern_of(out["probe"]).sum() == pytest.approx(disk().sum(), rel=0.02)
    assert pypty.check({**out, "acc_voltage": 80, "pixel_size_x_A": 1, "pixel_size_y_A": 1})


def test_threshold_flip_and_binning_of_a_vacuum_pattern() -> None:
    pattern = disk((2, 0)) + 20
    params = {
        "dataset": np.broadcast_to(pattern, (3, 24, 20)),
        "flip_ky": True,
        "data_bin": 2,
        "bright_threshold": 0.5,
    }
    mask = append_aperture_to_params(params, pattern)["aperture_mask"]
    binned = pattern[::-1].reshape(12, 2, 10, 2).sum(axis=(1, 3))
    np.testing.assert_array_equal(mask, binned > 0.5 * binned.max())


@pytest.mark.parametrize(
    "pattern", [np.zeros((24, 20)), np.ones(3), np.full((24, 20), np.nan), np.ones((5, 5))]
)
def test_wrong_vacuum_patterns(pattern: np.ndarray) -> None:
    with pytest.raises(ParameterError, match="mean_pattern"):
        get_focussed_probe_from_vacscan({"dataset": np.broadcast_to(disk(), (3, 24, 20))}, pattern)


@pytest.mark.parametrize("align_type", ["com", "cross_corr"])
@pytest.mark.parametrize("pad", [0, 4])
def test_probe_is_tilted_onto_the_measured_disk(align_type: str, pad: int) -> None:
    params: dict[str, Any] = {
        "dataset": np.broadcast_to(disk((2, -3)), (4, 24, 20)),
        "scan_size": (2, 2),
        "data_pad": pad,
    }
    params |= get_focussed_probe_from_vacscan(params, disk())
    params["probe"] = np.concatenate([params["probe"], 0.5 * params["probe"]], axis=2)
    before = params["probe"].copy()
    out = tiltbeamtodata(params, align_type)
    np.testing.assert_array_equal(params["probe"], before)
    seen = pattern_of(out["probe"])[pad : 24 + pad, pad : 20 + pad]
    np.testing.assert_allclose(seen, 1.25 * disk((2, -3)), atol=1e-6)
    stored = tiltbeamtodata({**params, "mean_pattern": disk((1, 0))}, align_type)
    seen = pattern_of(stored["probe"])[pad : 24 + pad, pad : 20 + pad]
    np.testing.assert_allclose(seen, 1.25 * disk((1, 0)), atol=1e-6)


def test_sub_pixel_tilt_by_centres_of_mass() -> None:
    half = 0.5 * (disk((2, 1)) + disk((3, 1)))
    params = {"dataset": np.broadcast_to(half, (4, 24, 20)), "scan_size": (2, 2), "data_pad": 2}
    params |= get_focussed_probe_from_vacscan(params, disk())
    seen = pattern_of(tiltbeamtodata(params)["probe"])
    y, x = (np.arange(n) - n // 2 for n in seen.shape)
    assert seen.sum(axis=1) @ y / seen.sum() == pytest.approx(2.5, abs=0.05)
    assert seen.sum(axis=0) @ x / seen.sum() == pytest.approx(1.0, abs=0.05)


def test_what_cannot_be_tilted() -> None:
    params = {"dataset": np.broadcast_to(disk(), (4, 24, 20)), "scan_size": (2, 2)}
    with pytest.raises(ParameterError, match="needs probe"):
        tiltbeamtodata(params)
    with pytest.raises(ParameterError, match="align_type"):
        tiltbeamtodata({**params, "probe": np.ones((24, 20, 1))}, "best")
    with pytest.raises(ParameterError, match="resize the probe"):
        tiltbeamtodata({**params, "probe": np.ones((22, 20, 1))})


def descanned(size: tuple[int, int] = (7, 6)) -> tuple[dict[str, Any], np.ndarray]:
    """Disks that wander by a second-order polynomial of the position, and where they are, px."""
    rows, columns = np.indices(size) / 4.0
    wander = np.stack([0.5 + 0.8 * rows - 0.3 * columns**2, -0.4 + 0.5 * columns * rows], axis=-1)
    y, x = (np.arange(n) - n // 2 for n in (24, 20))
    away = np.hypot(y[:, None] - wander[..., 0, None, None], x[None, :] - wander[..., 1, None, None])
    data = 100 / (1 + np.exp(4 * (away - 4)))
    params = {
        "dataset": data,
        "positions": np.stack([rows.ravel() * 11, columns.ravel() * 11], axis=1),
        "scan_size": size,
        "acc_voltage": 80.0,
        "rez_pixel_size_A": 0.1,
        "pixel_size_y_A": 1 / 2.4,
        "pixel_size_x_A": 1 / 2.0,
    }
    return params, wander.reshape(-1, 2)


def test_descan_as_tilts_after_the_specimen() -> None:
    params, wander = descanned()
    out = get_approx_beam_tilt(params, power=3)
    assert out["tilt_mode"] == 1
    assert "tilts" not in params
    expected = wander * 0.1 * wavelength_A(80)
    np.testing.assert_allclose(out["tilts"][:, 4:6], expected, atol=6e-3 * np.abs(expected).max())
    np.testing.assert_array_equal(out["tilts"][:, :4], 0)
    assert pypty.check(out)
    flat = get_approx_beam_tilt(params, power=1)["tilts"][:, 4:6]
    np.testing.assert_allclose(flat, np.broadcast_to(expected.mean(axis=0), flat.shape), rtol=0.02, atol=1e-6)


def test_a_tilted_model_has_its_patterns_where_they_were_measured() -> None:
    params, wander = descanned((3, 3))
    out = get_approx_beam_tilt(params)
    probe = get_focussed_probe_from_vacscan(params, disk())["probe"]
    patterns = pypty.simulate({**out, "dataset": None, "probe": probe, "damping_cutoff_multislice": 2})
    y, x = (np.arange(n) - n // 2 for n in patterns.shape[1:])
    total = patterns.sum(axis=(1, 2))
    centres = np.stack([patterns.sum(axis=2) @ y / total, patterns.sum(axis=1) @ x / total], axis=1)
    np.testing.assert_allclose(centres, wander, atol=0.15)


def test_other_ways_to_the_tilts() -> None:
    params, wander = descanned()
    expected = wander * 0.1 * wavelength_A(80)
    binary = get_approx_beam_tilt(params, make_binary=2.0)["tilts"][:, 4:6]
    np.testing.assert_allclose(binary, expected, atol=0.1 * np.abs(expected).max())
    data = np.array(params["dataset"], float).reshape(-1, *np.shape(params["dataset"])[-2:])
    data[20] = np.roll(data[20], 6, axis=1)
    spoilt = {**params, "dataset": data.reshape(np.shape(params["dataset"]))}
    filtered = get_approx_beam_tilt(spoilt, percentile_filter_value=50, percentile_filter_size=3)["tilts"]
    unfiltered = get_approx_beam_tilt(spoilt)["tilts"]
    errors = [np.abs(found[:, 4:6] - expected).max() for found in (filtered, unfiltered)]
    assert errors[0] < 0.3 * errors[1]
    before = np.zeros((1, 6))
    before[0, 2:4] = 1e-3
    kept = get_approx_beam_tilt({**params, "tilts": before, "tilt_mode": 0})
    assert kept["tilt_mode"] == 3
    np.testing.assert_array_equal(kept["tilts"][:, 2:4], 1e-3)


@pytest.mark.parametrize(
    ("changes", "options", "text"),
    [
        ({}, {"power": 0}, "power"),
        ({}, {"percentile_filter_value": 120}, "percentile_filter_value"),
        ({"dataset": None}, {}, "no patterns"),
        ({"positions": np.zeros((3, 2))}, {}, "3 positions"),
    ],
)
def test_wrong_descan(changes: dict[str, Any], options: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        get_approx_beam_tilt({**descanned()[0], **changes}, **options)


def small_run(folder: Path, **changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "dataset": rng.poisson(disk() + 1, (6, 24, 20)),
        "positions": np.stack([np.arange(6.0), np.arange(6.0)], axis=1),
        "acc_voltage": 80.0,
        "pixel_size_x_A": 0.4,
        "pixel_size_y_A": 0.4,
        "epoch_max": 2,
        "warmup_epochs": 0,
        "print_flag": 0,
        "num_slices": 2,
        "output_folder": str(folder),
        "backend": "cpu",
        **changes,
    }


def test_restart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    params = small_run(tmp_path / "first", extra_probe_defocus=30.0)
    first = pypty.run(params)
    again = prepare_restart(tmp_path / "first", tmp_path / "second")
    assert again["epoch_prev"] == 2
    assert again["output_folder"] == str(tmp_path / "second")
    assert "set dataset again" in caplog.text
    np.testing.assert_array_equal(again["obj"], first.obj)
    second = pypty.run({**again, "dataset": params["dataset"], "epoch_max": 3})
    assert second.epochs.tolist() == [2]
    assert second.loss[0] == pytest.approx(first.loss[-1], rel=1e-6)
    assert prepare_restart(tmp_path / "first")["output_folder"] == str(tmp_path / "first")


def test_restart_of_pypty_2(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, shape in (("co", (30, 30, 1, 1)), ("cp", (24, 20, 2))):
        np.save(tmp_path / f"{name}.npy", random_complex(rng, shape))
    np.save(tmp_path / "cg.npy", np.zeros((6, 2)))
    (tmp_path / "params.pkl").write_bytes(pickle.dumps({"acc_voltage": 60, "data_path": "x.h5"}))
    out = prepare_restart(tmp_path)
    assert out["acc_voltage"] == 60
    assert out["algorithm"] == "lsq_sqrt", "the default of 2.2"
    np.testing.assert_allclose(out["probe"], np.load(tmp_path / "cp.npy") / np.sqrt(2))


def test_nothing_to_restart_from(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        prepare_restart(tmp_path / "none")
    for name in ("co", "cp"):
        np.save(tmp_path / f"{name}.npy", np.ones((4, 4, 1, 1)))
    with pytest.raises(CheckpointError, match="neither"):
        prepare_restart(tmp_path)


def test_a_constant_descan_is_not_lost() -> None:
    """Stored centres have no mean."""
    data = np.broadcast_to(flat_disk(centre=(16, 19)), (4, 9, 32, 32)).astype(np.float32)
    params = append_exp_params(flat_scan(dataset=data, PLRotation_deg=0.0))
    _, stored = pypty.dpc.fft_based_dpc(params, hpass=1e-3)
    assert "comx" in stored
    tilts = get_approx_beam_tilt({**params, **{k: stored[k] for k in ("comx", "comy")}}, power=1)["tilts"]
    np.testing.assert_allclose(np.abs(tilts[:, 5]), 3 * 2e-3, rtol=1e-3)
