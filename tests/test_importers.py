"""Results of other programs: the patterns of their own model come out of this one.

tests/data/ptyrad_model_iter0003.hdf5: written by PtyRAD 1.0.0 after three iterations on 5 x 6 simulated patterns
of 20^2 pixels (80 kV, 0.3 Å pixels, two probe and object modes, two slices 5 Å apart, scan rotated by 12 degrees
and jittered, a refined tilt that began at [3, -2] mrad). Its arrays were compressed, and its groups of settings
other than init_params, its provenance and its output path left out. tests/data/py4dstem_multislice.h5: written by
py4DSTEM 0.14.18 after two iterations of multislice ptychography on 6 x 7 simulated patterns of 24^2 pixels (80
kV, 2 mrad pixels, 1.2 Å steps, three slices 4 and 6 Å apart, tilts of 3 and -2 mrad, a scan rotation of 20
degrees, 8 pixels of padding: windows reach beyond the object). importers_forward.npz: intensities of four
patterns from either program's own model at the state in the file. ptyrad_forward_golden.npz: inputs and patterns
of PtyRAD's model in double precision, cases B (three probe modes, sub-pixel shifts), C (two object modes with
weights 0.7 and 0.3, three slices, one tilt) and D (four slices, a tilt for every pattern), with the patterns of
its version 0.1, whose frequencies are half a pixel off.
"""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import yaml
from helpers import random_complex, relative
from problems import small_params

import pypty
from pypty.errors import CheckpointError, DataError, ParameterError
from pypty.importers import Imported, load_result, params_from
from pypty.importers.hdf5 import opened
from pypty.importers.imported import make_imported
from pypty.importers.matlab import read_mat
from pypty.importers.model_file import load_model
from pypty.importers.ptychoshelves import load_ptychoshelves
from pypty.importers.ptyrad.settings import krivanek
from pypty.importers.py4dstem import find_reconstruction, load_py4dstem
from pypty.importers.pypty_folder import folder_params, known_params, load_folder
from pypty.optics.scan_grid import scan_grid_A
from pypty.optics.wavelength import wavelength_A

DATA = Path(__file__).parent / "data"
PTYRAD, PY4DSTEM = DATA / "ptyrad_model_iter0003.hdf5", DATA / "py4dstem_multislice.h5"
RNG = np.random.default_rng


def patterns_of(params: dict[str, Any], indices: np.ndarray) -> np.ndarray:
    """The model's patterns at some positions."""
    chosen = {**params, "positions": params["positions"][indices], "scan_size": None}
    if "tilts" in chosen and len(chosen["tilts"]) > 1:
        chosen["tilts"] = chosen["tilts"][indices]
    return pypty.simulate(chosen)


@pytest.mark.parametrize(("path", "name"), [(PTYRAD, "ptyrad"), (PY4DSTEM, "py4dstem")], ids=str)
def test_patterns_are_those_of_the_program_that_wrote_the_file(path: Path, name: str) -> None:
    stored = np.load(DATA / "importers_forward.npz")
    expected = stored[f"{name}_intensities"]
    found = patterns_of(load_result(path).params(keep_scale=True), stored[f"{name}_indices"])
    assert np.abs(found - expected).max() < 3e-6 * expected.max()  # single precision on their side


def test_ptyrad_calibration_and_settings() -> None:
    imported = load_result(PTYRAD)
    assert imported.obj.shape == (40, 43, 2, 2)
    assert imported.probe.shape == (20, 20, 2)
    assert imported.acc_voltage == 80.0
    np.testing.assert_allclose(imported.pixel_size_A, 0.3, rtol=1e-6)
    np.testing.assert_allclose(imported.slice_distances_A, [5.0])
    assert imported.settings["scan_size"] == [5, 6]
    assert imported.settings["conv_semiangle_mrad"] == 25.0
    assert imported.extras["niter"] == 3
    assert imported.extras["loss_iters"].shape == (3, 2)
    assert "PtyRAD 1.0.0" in imported.source


@pytest.mark.parametrize(
    ("path", "scan_size", "step", "jitter"),
    [(PTYRAD, (5, 6), 0.8, 0.5), (PY4DSTEM, (6, 7), 1.2, 1e-4)],
    ids=str,
)
def test_the_recorded_rotation_is_that_of_the_positions(
    path: Path, scan_size: tuple[int, int], step: float, jitter: float
) -> None:
    imported = load_result(path)
    assert abs(imported.settings["PLRotation_deg"]) > 10
    grid = scan_grid_A(scan_size, step, imported.settings["PLRotation_deg"]) / imported.pixel_size_A
    difference = imported.positions - grid
    assert np.abs(difference - difference.mean(axis=0)).max() < jitter


@pytest.mark.parametrize("path", [PTYRAD, PY4DSTEM], ids=str)
def test_params_start_a_reconstruction(path: Path) -> None:
    imported = load_result(path)
    params = imported.params(keep_scale=True)
    patterns = patterns_of(params, np.arange(len(imported.positions)))
    counts = 1e4 / patterns.mean()
    params["probe"] *= np.sqrt(counts)
    params.update(dataset=np.random.default_rng(0).poisson(counts * patterns), epoch_max=2, print_flag=0)
    report = pypty.check(params)
    assert report, str(report)
    result = pypty.run(params)
    assert result.loss[0] < 0.35 * patterns.size  # noise is a quarter for each pixel, and more for few counts
    assert result.loss[-1] < result.loss[0]
    one = {"obj": None, "num_slices": params["obj"].shape[2], "obj_mode_weights": None}
    vacuum = pypty.evaluate({**params, **one})
    assert result.loss[0] < 0.7 * vacuum.loss


def test_the_probe_is_scaled_to_other_counts() -> None:
    """Without keep_scale the patterns may be in any unit."""
    params = params_from(PY4DSTEM)
    patterns = patterns_of({**params, "skip_preprocessing": True}, np.arange(len(params["positions"])))
    report = pypty.check({**params, "dataset": patterns})
    assert report, str(report)
    same = pypty.evaluate({**params, "dataset": patterns})
    larger = pypty.evaluate({**params, "dataset": 50 * patterns})
    vacuum = pypty.evaluate({**params, "dataset": patterns, "obj": None, "num_slices": 3})
    assert larger.loss == pytest.approx(50 * same.loss, rel=1e-6)
    assert same.loss < 0.5 * vacuum.loss  # scaled as if the object did not absorb


def write_ptyrad(path: Path, case: dict[str, np.ndarray], **attributes: Any) -> Path:
    """A model file of the layout of PtyRAD, with arrays in double precision."""
    with h5py.File(path, "w") as file:
        file["ptyrad_version"] = attributes.pop("version", "1.0.0")
        for theirs, name in (
            ("obja", "in_obja"),
            ("objp", "in_objp"),
            ("probe", "in_probe"),
            ("probe_pos_shifts", "in_probe_pos_shifts"),
            ("obj_tilts", "in_tilts_mrad"),
            ("slice_thickness", "in_dz"),
        ):
            file[f"optimizable_tensors/{theirs}"] = case[name]
        model = file.create_group("model_attributes")
        for theirs, name in (("dx", "in_dx"), ("lambd", "in_lambd"), ("crop_pos", "in_crop_pos")):
            model[theirs] = case[name]
        model["omode_occu"] = case["in_omode_occu"]
        model["detector_blur_std"] = "__NONE__"
        for name, value in attributes.items():
            model[name] = value
    return path


def golden(case: str) -> dict[str, np.ndarray]:
    with np.load(DATA / "ptyrad_forward_golden.npz") as stored:
        return {name[2:]: stored[name] for name in stored.files if name.startswith(case + "_")}


@pytest.mark.parametrize("case", ["B", "C", "D"])
@pytest.mark.parametrize("version", ["1.0.0", "0.1.0b13"])
def test_ptyrad_golden_patterns(case: str, version: str, tmp_path: Path) -> None:
    """Both versions; that of 0.1 is a tilt (it also leaves out sub-pixel shifts that are not refined, as in case B)."""
    vectors = golden(case)
    imported = load_result(write_ptyrad(tmp_path / "model.hdf5", vectors, version=version))
    found = patterns_of(imported.params(keep_scale=True), vectors["in_batch"])
    expected = vectors["out_dp" if version == "1.0.0" else "out_dp_b13post3"]
    # They add 1e-10 to every intensity; a tilt is the first order of their other frequencies.
    assert relative(found, expected) < (1e-9 if version == "1.0.0" else 3e-5)
    if version != "1.0.0" and case != "B":
        assert relative(vectors["out_dp"], expected) > 1e-3


def test_ptyrad_simulated_crop_is_padding_that_is_not_compared(tmp_path: Path) -> None:
    vectors = golden("B")
    path = write_ptyrad(tmp_path / "model.hdf5", vectors, simu_match_mode="crop", meas_Npix=12)
    params = load_result(path).params(keep_scale=True)
    assert (params["data_pad"], params["use_padded_intensity"]) == (2, False)
    params.update(dataset=np.ones((6, 12, 12)))
    found = pypty.evaluate({**params, "algorithm": "lsq"})
    inner = patterns_of(load_result(write_ptyrad(path, vectors)).params(keep_scale=True), np.arange(6))[
        :, 2:-2, 2:-2
    ]
    assert found.sse == pytest.approx(np.sum((inner - 1) ** 2), rel=1e-9)


def test_ptyrad_upsampled_and_other_matches(tmp_path: Path) -> None:
    vectors = golden("B")
    doubled = load_result(write_ptyrad(tmp_path / "a.hdf5", vectors, simu_match_mode="resample", meas_Npix=8))
    assert doubled.settings["upsample_pattern"] == 2
    other = load_result(write_ptyrad(tmp_path / "b.hdf5", vectors, simu_match_mode="resample", meas_Npix=12))
    assert (other.settings["simu_Npix"], other.settings["simu_match_mode"]) == (16, "resample")
    assert "upsample_pattern" not in other.settings


@pytest.mark.parametrize(
    ("name", "replace", "message"),
    [
        ("optimizable_tensors/obja", None, "obja"),
        ("optimizable_tensors/objp", np.zeros((1, 1, 3, 3)), "same shapes"),
        ("optimizable_tensors/probe", np.zeros((4, 4)), "3 or 4 axes"),
        ("optimizable_tensors/probe", np.full((1, 20, 20), np.nan), "not finite"),
        ("optimizable_tensors/obj_tilts", np.zeros((3, 2)), "obj_tilts"),
        ("model_attributes/crop_pos", np.full((30, 2), 5000), "pixels"),
        ("model_attributes/dx", -1.0, "dx"),
        ("model_attributes/lambd", "text", "lambd"),
        ("model_attributes/omode_occu", np.zeros(2), "omode_occu"),
    ],
)
def test_damaged_ptyrad_files(name: str, replace: Any, message: str, tmp_path: Path) -> None:
    path = shutil.copy(PTYRAD, tmp_path / "model.hdf5")
    with h5py.File(path, "r+") as file:
        del file[name]
        if replace is not None:
            file[name] = replace
    with pytest.raises(DataError, match=message):
        load_result(path)


@pytest.mark.parametrize(
    ("name", "replace", "message"),
    [
        ("_object_emd", None, "_object_emd"),
        ("_probe_emd/data", np.zeros(4), "2 axes"),
        ("metadatabundle/preprocess_metadata/sampling", None, "sampling"),
        ("metadatabundle/preprocess_metadata/positions_px", np.full((42, 2), 900.0), "do not lie"),
        ("metadatabundle/instantiation_metadata/energy", None, "energy"),
        ("metadatabundle/instantiation_metadata/slice_thicknesses", np.ones(7), "7 slice_thicknesses"),
        ("metadatabundle/instantiation_metadata", None, "instantiation_metadata"),
    ],
)
def test_damaged_py4dstem_files(name: str, replace: Any, message: str, tmp_path: Path) -> None:
    path = shutil.copy(PY4DSTEM, tmp_path / "result.h5")
    root = "multi-slice_ptychographic_reconstruction_root/multi-slice_ptychographic_reconstruction/"
    with h5py.File(path, "r+") as file:
        del file[root + name]
        if replace is not None:
            file[root + name] = replace
    with pytest.raises(DataError, match=message):
        load_result(path)


def test_py4dstem_classes_without_counterpart(tmp_path: Path) -> None:
    path = shutil.copy(PY4DSTEM, tmp_path / "result.h5")
    with h5py.File(path, "r+") as file:
        group = file["multi-slice_ptychographic_reconstruction_root/multi-slice_ptychographic_reconstruction"]
        group.attrs["python_class"] = "MagneticPtychography"
    with pytest.raises(DataError, match="MagneticPtychography"):
        load_result(path)


@pytest.mark.parametrize("path", [PTYRAD, PY4DSTEM], ids=str)
@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.5, 0.95])
def test_truncated_files(path: Path, fraction: float, tmp_path: Path) -> None:
    content = path.read_bytes()
    cut = tmp_path / "cut.h5"
    cut.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(DataError, match="expected|cannot be read|not a complete"):
        load_result(cut)


# PtychoShelves: no file of its own may be distributed; these are written in its layout.


def shelves(n_modes: int = 2, n_layers: int = 3) -> dict[str, Any]:
    """A result of fold_slice as MATLAB holds it, and what should be made of it."""
    rng = RNG(5)
    obj = np.exp(1j * rng.uniform(0, 0.5, (41, 38, n_layers)))
    probe = random_complex(rng, (16, 16, n_modes))
    corners = rng.uniform(2, 20, (7, 2))
    centred = corners - (np.ceil(np.array([41, 38]) / 2 - 8) - 1)
    return {
        "object": obj,
        "probe": probe,
        "corners": corners,
        "outputs": {"probe_positions": centred[:, ::-1].copy()},
        "p": {
            "dx_spec": np.array([[0.2, 0.2]]),
            "lambda": wavelength_A(300.0),
            "delta_z": np.full((1, n_layers - 1), 8.0) if n_layers > 1 else np.zeros((0, 0)),
            "probe_modes": float(n_modes),
            "energy": 300.0,
        },
    }


def write_v5(path: Path, content: dict[str, Any]) -> Path:
    scipy.io.savemat(path, content)
    return path


def write_v73(path: Path, content: dict[str, Any]) -> Path:
    """As MATLAB writes version 7.3: axes reversed, complex numbers as pairs, cells as references, a user block."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in content.items():
            _write_73(file, file, name, value)
    with open(path, "r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64")
    return path


def _write_73(file: h5py.File, group: h5py.Group, name: str, value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _write_73(file, group.require_group(name), key, item)
    elif isinstance(value, list):
        cells = file.require_group("#refs#")
        references = []
        for item in value:
            key = f"{name}{len(cells)}"
            _write_73(file, cells, key, item)
            references.append(cells[key].ref)
        group.create_dataset(name, data=np.array([references], dtype=object).T, dtype=h5py.ref_dtype)
    elif np.size(value) == 0:
        group.create_dataset(name, data=np.zeros(2, np.uint64)).attrs["MATLAB_empty"] = 1
    else:
        array = np.atleast_2d(value).transpose()
        if array.dtype.kind == "c":
            pairs = np.empty(array.shape, [("real", float), ("imag", float)])
            pairs["real"], pairs["imag"] = array.real, array.imag
            array = pairs
        group.create_dataset(name, data=array)


def cell(values: list[np.ndarray]) -> np.ndarray:
    out = np.empty((len(values), 1), object)
    for row, value in enumerate(values):
        out[row, 0] = value
    return out


@pytest.mark.parametrize("write", [write_v5, write_v73])
@pytest.mark.parametrize(("n_modes", "n_layers"), [(1, 1), (2, 3)])
def test_ptychoshelves_final_result(write: Any, n_modes: int, n_layers: int, tmp_path: Path) -> None:
    content = shelves(n_modes, n_layers)
    if n_layers == 1:
        content["object"] = content["object"][..., 0]
    if n_modes == 1:
        content["probe"] = content["probe"][..., 0]
    corners = content.pop("corners")
    imported = load_result(write(tmp_path / "recons.mat", content))
    np.testing.assert_allclose(imported.obj[..., 0], content["object"].reshape(41, 38, n_layers))
    np.testing.assert_allclose(imported.probe, content["probe"].reshape(16, 16, n_modes))
    np.testing.assert_allclose(imported.positions, corners)
    np.testing.assert_allclose(imported.pixel_size_A, [0.2, 0.2])
    assert imported.acc_voltage == pytest.approx(300.0)
    if n_layers > 1:
        np.testing.assert_allclose(imported.slice_distances_A, [8.0, 8.0])
    patterns = np.abs(random_complex(RNG(1), (7, 16, 16))) ** 2
    report = pypty.check({**imported.params(), "dataset": patterns})
    assert report, str(report)


@pytest.mark.parametrize("write", [write_v5, write_v73])
def test_ptychoshelves_intermediate_result(write: Any, tmp_path: Path) -> None:
    """outputs.object and outputs.probe are cells, of layers and of modes; distances end with one to the detector."""
    content = shelves()
    layers = [content["object"][..., k].copy() for k in range(3)]
    modes = [content["probe"][..., k].copy() for k in range(2)]
    modes[0] = np.stack([modes[0], 0.1 * modes[0]], axis=2)[:, :, None, :]  # a variable first mode
    cells = cell if write is write_v5 else list
    outputs = {
        **content["outputs"],
        "object": cells(layers),
        "probe": cells(modes),
        "pixel_size": np.array([[0.2, 0.25]]),
        "z_distance": np.array([[7.0, 7.0, 7.0, np.inf]]),
    }
    imported = load_result(write(tmp_path / "Niter100.mat", {"outputs": outputs}))
    np.testing.assert_allclose(imported.obj[..., 0], content["object"])
    np.testing.assert_allclose(imported.probe, content["probe"])
    np.testing.assert_allclose(imported.positions, content["corners"])
    np.testing.assert_allclose(imported.pixel_size_A, [0.2, 0.25])
    np.testing.assert_allclose(imported.slice_distances_A, [7.0, 7.0])
    assert any("varied" in note for note in imported.notes)
    with pytest.raises(ParameterError, match="acc_voltage"):
        imported.params()
    assert imported.params(acc_voltage=200.0)["acc_voltage"] == 200.0


def test_ptychoshelves_engine_order_of_probe_and_positions_of_p(tmp_path: Path) -> None:
    content = shelves()
    content["probe"] = content["probe"][:, :, None, :]  # (y, x, 1, modes), as p.probe_modes tells
    content["p"]["positions"] = content["corners"]
    content["p"]["dx_spec"] = np.array([[0.2e-10, 0.2e-10]])  # m
    content["p"]["energy"] = 300.0
    content["p"]["lambda"] = wavelength_A(300.0) * 1e-10
    imported = load_result(write_v5(tmp_path / "a.mat", {k: content[k] for k in ("object", "probe", "p")}))
    np.testing.assert_allclose(imported.probe, content["probe"][:, :, 0])
    np.testing.assert_allclose(imported.positions, content["corners"])
    np.testing.assert_allclose(imported.pixel_size_A, [0.2, 0.2])
    assert imported.acc_voltage == pytest.approx(300.0)
    del content["p"]["lambda"]
    content["p"]["delta_z"] = 8.0
    again = load_result(write_v5(tmp_path / "b.mat", {k: content[k] for k in ("object", "probe", "p")}))
    assert again.acc_voltage == 300.0
    np.testing.assert_allclose(again.slice_distances_A, [8.0])


@pytest.mark.parametrize("unit", [1.0, 1e-10], ids=["angstrom", "metre"])
def test_lengths_of_ptychoshelves_are_in_angstrom_whatever_they_were(unit: float, tmp_path: Path) -> None:
    """Pixels that are not square, gaps that differ; the wavelength is that of 300 kV in either unit."""
    content = shelves()
    content["p"] |= {
        "dx_spec": unit * np.array([[0.2, 0.35]]),
        "delta_z": unit * np.array([[6.0, 9.0]]),
        "lambda": unit * wavelength_A(300.0),
        "energy": 80.0,
    }
    content.pop("corners")
    imported = load_result(write_v5(tmp_path / "a.mat", content))
    np.testing.assert_allclose(imported.pixel_size_A, [0.2, 0.35])
    np.testing.assert_allclose(imported.slice_distances_A, [6.0, 9.0])
    assert imported.acc_voltage == pytest.approx(300.0)
    params = imported.params()
    assert (params["pixel_size_y_A"], params["pixel_size_x_A"]) == pytest.approx((0.2, 0.35))
    np.testing.assert_allclose(params["slice_distances"], [6.0, 9.0])


def test_gaps_of_ptychoshelves_end_before_the_detector(tmp_path: Path) -> None:
    """multi_slice_param.z_distance before that of the outputs; its last entry is the distance to the detector."""
    content = shelves()
    content.pop("corners")
    content["p"].pop("delta_z")
    content["p"]["multi_slice_param"] = {"z_distance": np.array([[5e-10, 7e-10, np.inf]])}
    content["outputs"]["z_distance"] = np.array([[1.0, 1.0, 1.0]])
    found = load_result(write_v5(tmp_path / "a.mat", content))
    np.testing.assert_allclose(found.slice_distances_A, [5.0, 7.0])
    del content["p"]["multi_slice_param"]
    content["outputs"]["z_distance"] = np.array([[3.0, 4.0, 1e9]])
    again = load_result(write_v5(tmp_path / "b.mat", content))
    np.testing.assert_allclose(again.slice_distances_A, [3.0, 4.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"object": None}, "no object and probe"),
        ({"probe": np.zeros((4, 4, 1, 2, 2))}, "expected \\(y, x, modes"),
        ({"object": np.zeros((4, 4, 2, 3, 2))}, "expected \\(y, x, layers"),
        ({"object": "text"}, "expected an array"),
        ({"outputs": {}, "p": {"dx_spec": 0.2}}, "no outputs.probe_positions"),
        ({"outputs": {"probe_positions": np.zeros((3, 5))}}, "expected \\(N, 2\\)"),
        ({"outputs": {"probe_positions": np.full((3, 2), 1e6)}}, "do not lie"),
        ({"p": {"delta_z": np.array([[8.0, -8.0]])}}, "slice distances"),
        ({"object": cell([np.zeros((4, 4)), np.zeros((5, 5))])}, "cells of the object"),
    ],
)
def test_damaged_mat_files(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    content = {**shelves(), **change}
    content.pop("corners")
    content = {name: value for name, value in content.items() if value is not None}
    with pytest.raises(DataError, match=message):
        load_result(write_v5(tmp_path / "a.mat", content))


@pytest.mark.parametrize("write", [write_v5, write_v73])
@pytest.mark.parametrize("fraction", [0.02, 0.4, 0.9])
def test_truncated_mat_files(write: Any, fraction: float, tmp_path: Path) -> None:
    content = shelves()
    content.pop("corners")
    whole = write(tmp_path / "a.mat", content).read_bytes()
    (tmp_path / "b.mat").write_bytes(whole[: int(fraction * len(whole))])
    with pytest.raises(DataError, match="no object and probe|cannot be read|not a complete|expected"):
        load_result(tmp_path / "b.mat")


# Folders of PyPty.


def write_pypty22(folder: Path, n_modes: int = 2) -> dict[str, Any]:
    rng = RNG(2)
    arrays = {
        "co": np.exp(1j * rng.uniform(0, 1, (30, 30, 1, 2))),
        "cp": random_complex(rng, (16, 16, n_modes)),
        "cg": rng.uniform(0, 10, (9, 2)),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    params = {
        "acc_voltage": 80,
        "pixel_size_x_A": 0.2,
        "pixel_size_y_A": 0.21,
        "scan_size": (3, 3),
        "update_probe": "lambda x: x > 5",
        "aperture": np.ones((4, 4)),  # unknown here
        "data_pad": None,  # not valid here
        "output_folder": str(folder),
    }
    (folder / "params.pkl").write_bytes(pickle.dumps(params))
    return arrays


def test_pypty22_folder_without_trust(tmp_path: Path) -> None:
    arrays = write_pypty22(tmp_path)
    imported = load_result(tmp_path)
    np.testing.assert_allclose(
        imported.probe, arrays["cp"] / 2
    )  # two probe times two object modes were averaged
    np.testing.assert_array_equal(imported.obj, arrays["co"])
    assert imported.pixel_size_A is None
    assert any("trust_pickle" in note for note in imported.notes)
    with pytest.raises(ParameterError, match="acc_voltage, pixel_size_y_A, pixel_size_x_A"):
        params_from(tmp_path)
    given = imported.params(acc_voltage=80.0, pixel_size_y_A=0.2, pixel_size_x_A=0.2)
    assert pypty.check({**given, "dataset": np.ones((9, 16, 16))})


def test_pypty22_folder_with_trust(tmp_path: Path) -> None:
    write_pypty22(tmp_path)
    params = params_from(tmp_path, trust_pickle=True)
    assert (params["pixel_size_y_A"], params["pixel_size_x_A"]) == (0.21, 0.2)
    assert params["update_probe"] == "lambda x: x > 5"
    assert params["algorithm"] == "lsq_sqrt", "the default of 2.2"
    assert not {"aperture", "data_pad", "output_folder"} & set(params)
    report = pypty.check({**params, "dataset": np.ones((9, 16, 16))})
    assert report, str(report)
    assert params_from(tmp_path / "params.pkl", trust_pickle=True)["acc_voltage"] == 80


def test_parameters_of_a_folder_without_a_result(tmp_path: Path) -> None:
    """params.yaml alone, as a run leaves it that was killed at once; a pickle beside it is not touched."""
    (tmp_path / "params.yaml").write_text("acc_voltage: 80\npixel_size_y_A: 0.2\npixel_size_x_A: 0.2\n")
    (tmp_path / "params.pkl").write_bytes(b"no pickle")
    for trust in (False, True):
        assert params_from(tmp_path, trust_pickle=trust)["acc_voltage"] == 80


def test_own_folder(tmp_path: Path) -> None:
    rng = RNG(3)
    positions = np.stack(np.meshgrid(np.arange(4), np.arange(4), indexing="ij"), -1).reshape(-1, 2) * 3.0
    start = {
        "dataset": rng.poisson(50, (16, 16, 16)),
        "positions": positions,
        "pixel_size_x_A": 0.3,
        "pixel_size_y_A": 0.3,
        "acc_voltage": 200,
        "default_dtype": "double",
        "epoch_max": 1,
        "print_flag": 0,
        "output_folder": str(tmp_path / "run"),
    }
    result = pypty.run(start)
    imported = load_result(tmp_path / "run")
    np.testing.assert_array_equal(imported.obj, result.obj)
    np.testing.assert_array_equal(imported.probe, result.probe)
    assert imported.acc_voltage == 200
    params = imported.params(dataset=start["dataset"])
    assert params["epoch_prev"] == 1
    assert pypty.evaluate(params).loss == pytest.approx(result.loss[-1], rel=1e-9)


@pytest.mark.parametrize("break_it", ["no arrays", "damaged array", "bad pickle"])
def test_damaged_folders(break_it: str, tmp_path: Path) -> None:
    if break_it != "no arrays":
        write_pypty22(tmp_path)
    if break_it == "damaged array":
        (tmp_path / "cp.npy").write_bytes(b"\x93NUMPY broken")
    if break_it == "bad pickle":
        (tmp_path / "params.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
        with pytest.raises(ParameterError, match="cannot be read"):
            load_result(tmp_path, trust_pickle=True)
        load_result(tmp_path)  # unread, it does no harm
        return
    with pytest.raises(CheckpointError):
        load_result(tmp_path)


# Settings of PtyRAD.

SETTINGS: dict[str, Any] = {
    "init_params": {
        "probe_kv": 80,
        "probe_conv_angle": 24.9,
        "probe_aberrations": {"defocus": 50, "C12": 20, "phi12": 45, "C21a": 30},
        "meas_Npix": 128,
        "pos_N_scan_slow": 12,
        "pos_N_scan_fast": 14,
        "pos_scan_step_size": 0.429,
        "meas_calibration": {"mode": "dx", "value": 0.1494},
        "obj_Nlayer": 6,
        "obj_slice_thickness": 2,
        "pos_scan_affine": [1, 0, 3.0, 0],
        "meas_flipT": [1, 0, 0],
        "meas_params": {"path": "scan.hdf5", "key": "dp"},
    }
}


def test_settings_of_ptyrad(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(SETTINGS))
    params = params_from(path)
    assert params["scan_size"] == [12, 14]
    assert params["num_slices"] == 6
    assert params["flip_ky"] is True
    assert params["PLRotation_deg"] == -3.0
    assert params["pixel_size_y_A"] == 0.1494
    assert params["rez_pixel_size_A"] == pytest.approx(1 / (128 * 0.1494))
    np.testing.assert_allclose(params["aberrations"], [-50, 0, 20, 30], atol=1e-12)
    assert (params["data_path"], params["data_key"]) == ("scan.hdf5", "dp")
    params.pop("data_path"), params.pop("data_key")
    report = pypty.check(
        {
            **params,
            "dataset": np.ones((168, 16, 16)),
            "positions": np.zeros((168, 2)) + np.arange(168)[:, None],
        }
    )
    assert report, str(report)


@pytest.mark.parametrize(
    ("mode", "value"),
    [("dk", 1 / (128 * 0.1494)), ("kMax", 1 / (2 * 0.1494)), ("da", 1e3 * wavelength_A(80) / (128 * 0.1494)),
     ("angleMax", 1e3 * wavelength_A(80) / (2 * 0.1494)), ("n_alpha", 1e3 * wavelength_A(80) / (2 * 0.1494 * 24.9)),
     ("RBF", 0.1494 * 128 * 24.9 / (1e3 * wavelength_A(80)))],
)  # fmt: skip
def test_calibrations_of_ptyrad(mode: str, value: float, tmp_path: Path) -> None:
    changed = {"init_params": {**SETTINGS["init_params"], "meas_calibration": {"mode": mode, "value": value}}}
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(changed))
    assert params_from(path)["pixel_size_x_A"] == pytest.approx(0.1494)


def test_settings_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("init_params: {probe_kv: 80, probe_illum_type: xray}")
    with pytest.raises(ParameterError, match="xray"):
        params_from(path)
    path.write_text("init_params: {}")
    with pytest.raises(ParameterError, match="probe_kv"):
        params_from(path)
    with pytest.raises(ParameterError, match="C77"):
        krivanek({"C77": 1}, "file")
    path.write_text("acc_voltage: 60")
    assert params_from(path) == {"acc_voltage": 60}
    np.testing.assert_allclose(krivanek({"Cs": 1000}, "file"), [0, 0, 0, 0, 0, 0, 0, 1000])


# Anything else.


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        load_result(tmp_path / "missing.h5")
    text = tmp_path / "result.hdf5"
    text.write_text("not HDF5")
    with pytest.raises(DataError, match="expected an output folder of PyPty"):
        load_result(text)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["data"] = np.zeros(3)
    with pytest.raises(DataError, match="expected an output folder of PyPty"):
        load_result(tmp_path / "data.h5")
    scipy.io.savemat(tmp_path / "other.mat", {"a": 1})
    with pytest.raises(DataError, match="no object and probe"):
        load_result(tmp_path / "other.mat")
    (tmp_path / "params.pkl").write_bytes(pickle.dumps({}))
    with pytest.raises(DataError, match="trust_pickle"):
        params_from(tmp_path / "params.pkl")


def test_vacuum_is_added_where_windows_leave_the_object() -> None:
    obj = np.full((20, 20, 1, 1), 2.0)
    imported = make_imported(obj, np.ones((8, 8, 1)), np.array([[-3.2, 0.0], [15.0, 12.0]]), "test")
    assert imported.obj.shape == (26, 20, 1, 1)
    np.testing.assert_allclose(imported.positions, [[-0.2, 0.0], [18.0, 12.0]])
    assert (imported.obj[:3] == 1).all()
    assert (imported.obj[3:23] == 2).all()


@pytest.mark.parametrize("shapes", [((4, 4), (2, 2, 1), (3, 2)), ((4, 4, 1, 1), (2, 2), (3, 2)),
                                    ((4, 4, 1, 1), (2, 2, 1), (3, 3)), ((4, 4, 0, 1), (2, 2, 1), (3, 2))])  # fmt: skip
def test_arrays_that_do_not_fit(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(DataError, match="dimensions|empty"):
        make_imported(*(np.zeros(shape) for shape in shapes), "test")


def test_params_are_copies() -> None:
    imported = load_result(PTYRAD)
    params = imported.params()
    params["obj"][...] = 0
    assert isinstance(imported, Imported)
    assert imported.obj.any()


@pytest.mark.parametrize(
    "error", [KeyError("x"), ValueError("x"), TypeError("x"), RuntimeError("x"), OSError("x")]
)
def test_what_the_hdf5_library_raises_for_damage(error: Exception, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = 1
    with (
        pytest.raises(DataError, match="result of somebody"),
        opened(tmp_path / "a.h5", "result of somebody"),
    ):
        raise error


# ------------------------------------------------------------------------------------------ each reader by itself


@pytest.mark.parametrize("write", [write_v5, write_v73])
def test_variables_of_matlab_come_as_in_matlab(write: Any, tmp_path: Path) -> None:
    array = random_complex(RNG(0), (3, 5))
    content = {"a": array, "s": {"inner": np.arange(6.0).reshape(2, 3)}, "left": np.ones((2, 2))}
    found = read_mat(write(tmp_path / "a.mat", content), ("a", "s", "missing"), "a file")
    assert set(found) == {"a", "s"}
    np.testing.assert_allclose(found["a"], array)
    np.testing.assert_array_equal(found["s"]["inner"], np.arange(6.0).reshape(2, 3))
    (tmp_path / "b.mat").write_bytes(b"MATLAB 5 nothing")
    with pytest.raises(DataError, match="cannot be read as a file"):
        read_mat(tmp_path / "b.mat", ("a",), "a file")


def test_ptychoshelves_keeps_what_is_left_and_takes_one_pixel_for_both(tmp_path: Path) -> None:
    content = shelves(1, 1)
    content.pop("corners")
    content["p"]["dx_spec"] = 0.3
    found = load_ptychoshelves(write_v5(tmp_path / "a.mat", content))
    np.testing.assert_allclose(found.pixel_size_A, [0.3, 0.3])
    assert found.slice_distances_A is None and found.notes == ()
    assert set(found.extras) == {"p", "outputs"} and "probe_positions" in found.extras["outputs"]
    assert found.settings == {"propmethod": "angular_spectrum", "damping_cutoff_multislice": 2.0}


def test_the_reconstruction_in_a_file_of_py4dstem_is_found() -> None:
    with h5py.File(PY4DSTEM, "r") as file:
        group = find_reconstruction(file)
        assert group is not None and group.attrs["python_class"] == "MultislicePtychography"
        sampling = np.asarray(group["metadatabundle/preprocess_metadata/sampling"]).ravel()
        positions = np.asarray(group["metadatabundle/preprocess_metadata/positions_px"])
    found = load_py4dstem(Path(PY4DSTEM))
    np.testing.assert_allclose(found.pixel_size_A, sampling)
    centres = found.positions + np.array(found.probe.shape[:2]) // 2
    np.testing.assert_allclose(np.diff(centres, axis=0), np.diff(positions, axis=0), atol=1e-9)
    corners = np.round(found.positions).astype(int)
    assert corners.min() >= 0
    assert (corners.max(axis=0) + found.probe.shape[:2] <= found.obj.shape[:2]).all()


def test_parameters_of_pypty_22_are_known_or_left(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with caplog.at_level("WARNING", logger="pypty"):
        known = known_params({"acc_voltage": 80, "no_such_key": 1, "data_pad": None})
    # what a missing key meant there
    assert known == {"acc_voltage": 80, "algorithm": "lsq_sqrt", "default_dtype": "double"}
    assert "no_such_key" in caplog.text and "data_pad" in caplog.text
    write_pypty22(tmp_path)
    assert folder_params(tmp_path, False) == {}
    assert folder_params(tmp_path, True)["pixel_size_y_A"] == 0.21
    found = load_folder(tmp_path, True)
    np.testing.assert_allclose(found.pixel_size_A, [0.21, 0.2])
    assert found.acc_voltage == 80 and load_folder(tmp_path, False).acc_voltage is None


def test_a_model_file_goes_on_after_its_last_epoch(tmp_path: Path) -> None:
    params = small_params(
        output_folder=str(tmp_path), epoch_max=2, save_iters=2, save_result=["model"], selected_figs=[]
    )
    result = pypty.run(params)
    (path,) = tmp_path.glob("model_iter*.h5")
    found = load_model(path)
    np.testing.assert_array_equal(found.obj, result.obj)
    np.testing.assert_allclose(found.pixel_size_A, result.pixel_size_A)
    assert found.acc_voltage == params["acc_voltage"] and found.slice_distances_A is None
    assert found.settings["epoch_prev"] == 2 and found.settings["skip_preprocessing"] is True
    assert not {"dataset", "output_folder", "resume", "obj", "probe"} & set(found.settings)
    assert found.extras["epochs_done"] == 2
