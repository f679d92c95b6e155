"""Loss, SSE, gradients and patterns agree with what PyPty 2.2 computes (tests/golden/README.md)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from helpers import relative

import pypty
from pypty.optics.grid import Grid
from pypty.optics.wavelength import acc_voltage_kV

FOLDER = Path(__file__).parent / "golden" / "pypty"
FILES = sorted(path.stem for path in FOLDER.glob("*.npz") if not path.stem.startswith("18"))
CASES = [
    (name, algorithm)
    for name in FILES
    for algorithm in (
        ("lsq_sqrt", "ml", "lsq", "lsq_sqrt_2")
        if name.startswith("11")
        else ("lsq_compressed", "gauss_compressed", "poisson_compressed")
        if name.startswith("12")
        else ("lsq_sqrt",)
    )
]
WRONG_TILTS = ("08_tilt_mode_1", "08_tilt_mode_2")
"""There PyPty lets inside tilts act although the mode excludes them, those of the first pattern for all."""
BLOCKS = {
    "pos": "positions",
    "tilts": "tilts",
    "sb": "static_background",
    "bc": "beam_current",
    "ab": "aberrations_array",
}
"""PyPty's short names of real blocks."""
OUTPUTS = {
    "positions": "pos_grad",
    "tilts": "tilts_grad",
    "static_background": "static_background_grad",
    "beam_current": "beam_current_grad",
    "aberrations_array": "aberrations_array_grad",
}


@cache
def load(name: str) -> SimpleNamespace:
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    return SimpleNamespace(
        arrays=arrays,
        settings=json.loads(str(arrays["params_json"])),
        n_modes=arrays["in_probe"].shape[2] * arrays["in_obj"].shape[3],
    )


def shifted_like_pypty(data: np.ndarray, shift: list[int]) -> np.ndarray:
    """PyPty blanks the edge opposite to the one that wrapped in; this package does not copy that."""
    data = np.roll(data, shift, axis=(1, 2))
    for axis, amount in zip((1, 2), shift, strict=True):
        edge = [slice(None)] * 3
        edge[axis] = slice(-amount, None) if amount > 0 else slice(0, -amount)
        data[tuple(edge)] = 0
    return data


def make_params(case: SimpleNamespace, algorithm: str, folder: Path) -> dict:
    arrays, settings = case.arrays, case.settings
    params = {
        "dataset": arrays["in_data"],
        "obj": arrays["in_obj"],
        "probe": arrays["in_probe"] / np.sqrt(case.n_modes),
        "positions": arrays["in_positions_int"].astype(float),
        "positions_correction": arrays["in_positions_correction"],
        "slice_distances": arrays["in_slice_distances"],
        "acc_voltage": acc_voltage_kV(settings["wavelength_A"]),
        "update_probe_pos": "pos" in settings["refined"],
        "update_tilts": "tilts" in settings["refined"],
        "update_static_background": "sb" in settings["refined"],
        "update_beam_current": "bc" in settings["refined"],
        "update_aberrations_array": "ab" in settings["refined"],
        "algorithm": algorithm,
        "lazy_clean": True,
        "skip_preprocessing": True,
        "backend": "cpu",
    }
    for key in (
        "pixel_size_x_A",
        "pixel_size_y_A",
        "damping_cutoff_multislice",
        "data_pad",
        "use_padded_intensity",
        "loss_weight",
        "data_multiplier",
        "recon_type",
        "Cs",
        "tilt_mode",
        "upsample_pattern",
    ):
        if key in settings:
            params[key] = settings[key]
    for key in (
        "beam_current",
        "aberrations_array",
        "aberration_marker",
        "probe_marker",
        "masks",
        "defocus_array",
    ):
        if f"in_{key}" in arrays:
            params[key] = arrays[f"in_{key}"]
    if arrays["in_tilts"].any() or params["update_tilts"]:
        params["tilts"] = arrays["in_tilts"]
    if "in_static_background" in arrays:  # PyPty's does not reach beyond the band limit
        params["static_background"] = arrays["in_static_background"] * np.fft.fftshift(band_mask(case))
    if "in_phase_plates" in arrays:
        params["phase_plate_in_h5"] = str(folder / "plates.h5")
        with h5py.File(params["phase_plate_in_h5"], "w") as file:
            file["configs"] = arrays["in_phase_plates"]
    if settings.get("edge_slice_thickness_multiplier", 1) != 1:
        params["edge_slice_thickness"] = (
            settings["edge_slice_thickness_multiplier"] * arrays["in_slice_distances"][0]
        )
    if any(settings.get("data_shift_vector", ())):
        params["dataset"] = shifted_like_pypty(arrays["in_data"], settings["data_shift_vector"])
    return params


def band_mask(case: SimpleNamespace) -> np.ndarray:
    settings = case.settings
    pixels = (settings["pixel_size_y_A"], settings["pixel_size_x_A"])
    return Grid(case.arrays["in_probe"].shape[:2], pixels, settings["wavelength_A"]).band_mask(
        settings["damping_cutoff_multislice"]
    )


def band_limited(case: SimpleNamespace, gradient: np.ndarray) -> np.ndarray:
    """PyPty band-limits the probe gradient after computing it."""
    mask = band_mask(case)
    mask = mask.reshape(*mask.shape, *[1] * (gradient.ndim - 2))
    return np.fft.ifft2(np.fft.fft2(gradient, axes=(0, 1)) * mask, axes=(0, 1))


def test_all_files_are_there():
    numbers = sorted({name[:2] for name in FILES})
    assert numbers == [f"{n:02d}" for n in range(1, 18)]
    assert len(FILES) == 21


@pytest.mark.parametrize(("name", "algorithm"), CASES, ids=[f"{n[:14]}-{a}" for n, a in CASES])
def test_loss_and_gradients(name: str, algorithm: str, tmp_path: Path):
    case = load(name)
    suffix = f"_{algorithm}" if isinstance(case.settings["algorithm"], list) else ""

    def expected(key: str) -> np.ndarray:
        return case.arrays[f"out_{key}{suffix}"]

    found = pypty.evaluate(make_params(case, algorithm, tmp_path))
    if name in WRONG_TILTS:
        assert found.loss != pytest.approx(float(expected("loss")), rel=1e-3)
        return
    assert found.loss == pytest.approx(float(expected("loss")), rel=1e-7)
    assert found.sse == pytest.approx(float(expected("sse")), rel=1e-7)
    # Wirtinger derivatives are half of ours; the chain rule of probe/sqrt(modes) gives the other factor.
    assert relative(found.gradients["obj"] / 2, expected("object_grad")) < 1e-6
    probe = band_limited(case, found.gradients["probe"]) / (2 * np.sqrt(case.n_modes))
    assert relative(probe, expected("probe_grad")) < 1e-6
    refined = {BLOCKS[short] for short in case.settings["refined"] if short in BLOCKS}
    assert set(found.gradients) == refined | {"obj", "probe"}
    for block in refined:
        ours, theirs = found.gradients[block], expected(OUTPUTS[block])
        if (
            block == "static_background"
        ):  # beyond the band limit PyPty's is that of an intensity which is not there
            inside = np.fft.fftshift(band_mask(case))
            ours, theirs = ours[inside], theirs[inside]
        assert relative(ours, theirs) < 1e-6


@pytest.mark.parametrize("name", WRONG_TILTS)
def test_tilt_modes_without_inside_tilts(name: str, tmp_path: Path):
    """With its inside tilts put to work as PyPty does, that of the first pattern for all, the loss is PyPty's."""
    case = load(name)
    params = make_params(case, "lsq_sqrt", tmp_path)
    shown = {"08_tilt_mode_1": slice(4, 6), "08_tilt_mode_2": slice(0, 2)}[name]
    tilts = np.zeros_like(params["tilts"])
    tilts[:, shown] = params["tilts"][:, shown]
    tilts[:, 2:4] = params["tilts"][0, 2:4]
    found = pypty.evaluate({**params, "tilts": tilts, "tilt_mode": 4})
    assert found.loss == pytest.approx(float(case.arrays["out_loss"]), rel=1e-7)
    assert relative(found.gradients["obj"] / 2, case.arrays["out_object_grad"]) < 1e-6
    assert relative(found.gradients["positions"], case.arrays["out_pos_grad"]) < 1e-6
    assert relative(found.gradients["tilts"][:, shown], case.arrays["out_tilts_grad"][:, shown]) < 1e-6


@pytest.mark.parametrize(
    "name", [name for name in FILES if name[:2] not in ("12", "15") and name not in WRONG_TILTS]
)
def test_patterns(name: str, tmp_path: Path):
    """Mean over modes there is the sum over modes of probe/sqrt(modes) here; same crop, same centre.

    The file holds them without background.
    """
    case = load(name)
    params = make_params(case, "lsq_sqrt", tmp_path)
    params.update(static_background=None, update_static_background=False)
    assert relative(pypty.simulate(params), case.arrays["out_patterns_raw"]) < 1e-7


def test_compressed_and_upsampled_patterns(tmp_path: Path):
    """Sums over masks, and over 2 x 2 pixels, of the raw patterns."""
    case = load("12_compressed")
    sums = np.einsum("nyx,dyx->nd", case.arrays["out_patterns_raw"], case.arrays["in_masks"])
    assert relative(pypty.simulate(make_params(case, "lsq_compressed", tmp_path)), sums) < 1e-7
    case = load("15_upsample_pattern")
    raw = case.arrays["out_patterns_raw"].reshape(-1, 24, 2, 24, 2).sum(axis=(2, 4))
    assert relative(pypty.simulate(make_params(case, "lsq_sqrt", tmp_path)), raw) < 1e-7
