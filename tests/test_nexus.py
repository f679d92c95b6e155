"""NeXus files: what NXcxi_ptycho asks for, lengths in Å with axes, and every parameter back as it was.

The required names are those of the definition (nexusformat/definitions, 2026). It calls the types of source_1/probe and
source_1/type numbers, against the base class NXsource, where they are text; they are text here.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers import random_complex
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import pypty
from pypty.errors import CheckpointError, DataError, OutputError, ParameterError
from pypty.nexus import convert_to_nxs, load_nexus_params
from pypty.nexus.experiment import NOMINAL_DISTANCE_M, write_experiment
from pypty.nexus.groups import array, group, link, scalar
from pypty.nexus.parameters import PARAMETERS, read_value, write_value
from pypty.nexus.patterns import Patterns
from pypty.optics.wavelength import wavelength_A
from pypty.output.checkpoints import load_checkpoint
from pypty.params.presets import load_preset

SCAN, SIDE, PIXEL = (4, 5), 16, 0.3
INSTRUMENT = "/entry_1/instrument_1"
DETECTOR = f"{INSTRUMENT}/detector_1"

CLASSES = {
    "/entry_1": "NXentry",
    INSTRUMENT: "NXinstrument",
    f"{INSTRUMENT}/source_1": "NXsource",
    f"{INSTRUMENT}/beam_1": "NXbeam",
    DETECTOR: "NXdetector",
    f"{DETECTOR}/transformations": "NXtransformations",
    "/entry_1/data": "NXdata",
    "/entry_1/data_1": "NXcollection",
    "/entry_1/sample_1": "NXsample",
    "/entry_1/sample_1/transformations": "NXtransformations",
    "/entry_1/sample_1/geometry_1": "NXcollection",
}
UNITS = {
    f"{INSTRUMENT}/source_1/energy": "eV",
    f"{INSTRUMENT}/beam_1/energy": "eV",
    f"{INSTRUMENT}/beam_1/incident_beam_energy": "eV",
    f"{INSTRUMENT}/beam_1/incident_energy_spread": "eV",
    f"{DETECTOR}/translation": "angstrom",
    f"{DETECTOR}/x_pixel_size": "m",
    f"{DETECTOR}/y_pixel_size": "m",
    f"{DETECTOR}/distance": "m",
    "/entry_1/sample_1/transformations/x": "angstrom",
    "/entry_1/sample_1/transformations/y": "angstrom",
}
FIELDS = (
    "/entry_1/definition",
    f"{INSTRUMENT}/source_1/name",
    f"{INSTRUMENT}/source_1/probe",
    f"{INSTRUMENT}/source_1/type",
    f"{DETECTOR}/transformations/vector",
    f"{DETECTOR}/data",
    f"{DETECTOR}/data_1",
    "/entry_1/data/data",
    "/entry_1/data/x",
    "/entry_1/data/y",
    "/entry_1/data/x_indices",
    "/entry_1/data/y_indices",
    "/entry_1/data_1/data",
    "/entry_1/data_1/translation",
    "/entry_1/sample_1/geometry_1/translation",
)


def missing_of_cxi_ptycho(path: Path) -> list[str]:
    """What the definition asks for and the file lacks."""
    problems = []
    with h5py.File(path, "r") as file:
        for name, nx_class in CLASSES.items():
            if name not in file or file[name].attrs.get("NX_class") != nx_class:
                problems.append(f"{name} is no {nx_class}")
        for name, units in UNITS.items():
            if name not in file or file[name].attrs.get("units") != units or file[name].dtype.kind != "f":
                problems.append(f"{name} in {units}")
        problems += [name for name in FIELDS if name not in file]
        if problems:
            return problems
        n = int(np.prod(file[f"{DETECTOR}/data"].shape[:-2]))
        found = {
            "definition": file["/entry_1/definition"].asstr()[()] == "NXcxi_ptycho",
            "translation": file[f"{DETECTOR}/translation"].shape == (n, 3),
            "translation@axes": file[f"{DETECTOR}/translation"].attrs["axes"] == "translation:y:x",
            "translation@interpretation": file[f"{DETECTOR}/translation"].attrs["interpretation"] == "image",
            "detector@signal": file[DETECTOR].attrs["signal"] == "data",
            "detector@axes": "axes" in file[DETECTOR].attrs,
            "vector": "vector" in file["/entry_1/sample_1/transformations"].attrs,
            "data@signal": file["/entry_1/data"].attrs["signal"] == "data",
            "data@axes": file["/entry_1/data"].attrs["axes"][0] == "x",
            "a list for CXI": file["/entry_1/data_1/data"].ndim == 3,
            "x over the scan": file["/entry_1/data/x"].shape == file["/entry_1/data/data"].shape[:-2],
            "target": file[f"{DETECTOR}/data_1"].attrs["target"] == f"{DETECTOR}/data",
            "cxi_version": file["cxi_version"][()] >= 160,
        }
    return [name for name, holds in found.items() if not holds]


def run_folder(
    tmp_path: Path, suffix: str = ".h5", flat: bool = True, **changes: Any
) -> tuple[Path, np.ndarray]:
    """A finished run and its patterns."""
    rng = np.random.default_rng(1)
    rows, columns = np.meshgrid(*(np.arange(n) for n in SCAN), indexing="ij")
    patterns = rng.poisson(30, (*SCAN, SIDE, SIDE)).astype(np.uint16)
    stored = patterns.reshape(-1, SIDE, SIDE) if flat else patterns
    data = tmp_path / f"patterns{suffix}"
    if suffix == ".h5":
        with h5py.File(data, "w") as file:
            file["data"] = stored
    else:
        np.save(data, stored)
    params = {
        "data_path": str(data),
        "acc_voltage": 80,
        "pixel_size_x_A": PIXEL,
        "pixel_size_y_A": PIXEL,
        "positions": np.stack([rows.ravel(), columns.ravel()], axis=1) * 2.25,
        "scan_size": list(SCAN),
        "num_slices": 3,
        "slice_distances": np.array([5.0, 7.0]),
        "conv_semiangle_mrad": 20.0,
        "sample_name": "MoS2 on nothing",
        "update_probe": "lambda epoch: epoch > 2",
        "detector_mask": rng.uniform(0, 1, (SIDE, SIDE)),
        "aperture_mask": None,
        "epoch_max": 2,
        "warmup_epochs": 0,
        "print_flag": 0,
        "output_folder": str(tmp_path / "run"),
        **changes,
    }
    pypty.run(params)
    return tmp_path / "run", patterns.reshape(-1, SIDE, SIDE)


def assert_same(given: Any, found: Any) -> None:
    """The same types and values, also inside containers."""
    assert type(found) is type(given), (given, found)
    if isinstance(given, np.ndarray):
        assert (found.dtype, found.shape) == (given.dtype, given.shape)
        np.testing.assert_array_equal(found, given)
    elif isinstance(given, (list, tuple)):
        assert len(found) == len(given)
        for a, b in zip(given, found, strict=True):
            assert_same(a, b)
    elif isinstance(given, dict):
        assert list(found) == list(given)
        for key in given:
            assert_same(given[key], found[key])
    else:
        assert found == given or (found != found and given != given)


@pytest.mark.parametrize("suffix", [".h5", ".npy"])
@pytest.mark.parametrize("flat", [True, False], ids=["list", "raster"])
@pytest.mark.parametrize("copy", [True, False], ids=["copied", "linked"])
def test_the_file_has_what_the_definition_asks_for(
    suffix: str, flat: bool, copy: bool, tmp_path: Path
) -> None:
    folder, patterns = run_folder(tmp_path, suffix, flat)
    path = convert_to_nxs(folder, tmp_path / "result.nxs", copy_data=copy)
    assert missing_of_cxi_ptycho(path) == []
    with h5py.File(path, "r") as file:
        assert file[f"{DETECTOR}/data"].shape == (*SCAN, SIDE, SIDE)
        np.testing.assert_array_equal(file[f"{DETECTOR}/data"][()].reshape(patterns.shape), patterns)
        np.testing.assert_array_equal(file["/entry_1/data_1/data"][()], patterns)
        assert file["/entry_1/data/data"] == file[f"{DETECTOR}/data"]


def test_a_scan_that_is_no_raster(tmp_path: Path) -> None:
    folder, patterns = run_folder(tmp_path, scan_size=None)
    path = convert_to_nxs(folder, tmp_path / "result.nxs")
    assert missing_of_cxi_ptycho(path) == []
    with h5py.File(path, "r") as file:
        assert file[f"{DETECTOR}/data"].shape == patterns.shape
        assert file[f"{DETECTOR}/data"] == file[f"{DETECTOR}/data_1"]
        assert file["/entry_1/data/x"].shape == (len(patterns),)


def test_numbers_and_units(tmp_path: Path) -> None:
    folder, _ = run_folder(tmp_path)
    arrays = load_checkpoint(folder)
    with h5py.File(convert_to_nxs(folder, tmp_path / "result.nxs"), "r") as file:
        energy = file[f"{INSTRUMENT}/beam_1/incident_beam_energy"]
        assert energy[()] == 80e3
        wavelength = file[f"{INSTRUMENT}/beam_1/incident_wavelength"]
        assert (wavelength[()], wavelength.attrs["units"]) == (wavelength_A(80), "angstrom")
        # far field: a pixel is lambda / (window size), here at 1 m
        assert file[f"{DETECTOR}/distance"][()] == 1.0
        np.testing.assert_allclose(file[f"{DETECTOR}/x_pixel_size"][()], wavelength_A(80) / (SIDE * PIXEL))
        centres = (arrays["positions"] + SIDE // 2) * PIXEL
        np.testing.assert_allclose(file[f"{DETECTOR}/translation"][:, 1], centres[:, 0])
        np.testing.assert_allclose(file["/entry_1/sample_1/transformations/x"][()].ravel(), centres[:, 1])
        obj = file["/entry_1/object_1"]
        np.testing.assert_array_equal(obj["data"][()], arrays["obj"].transpose(3, 2, 0, 1))
        np.testing.assert_allclose(obj["phase"][0, 1], np.angle(arrays["obj"][:, :, 1, 0]))
        np.testing.assert_allclose(obj["amplitude"][()], np.abs(obj["data"][()]))
        assert obj.attrs["axes"].tolist() == ["mode", "z", "y", "x"]
        np.testing.assert_allclose(obj["z"][()], [0, 5, 12])
        for name, n in zip("yx", arrays["obj"].shape, strict=False):
            np.testing.assert_allclose(obj[name][()], np.arange(n) * PIXEL)
            assert obj[name].attrs["units"] == "angstrom"
        probe = file["/entry_1/probe_1"]
        np.testing.assert_array_equal(probe["data"][()], arrays["probe"].transpose(2, 0, 1))
        assert probe["x"][SIDE // 2] == 0
        process = file["/entry_1/process_1"]
        assert process["program"].asstr()[()] == "PyPty"
        assert process["version"].asstr()[()] == pypty.__version__
        assert len(process["loss/loss"]) == 2
        np.testing.assert_allclose(process["refined/slice_distances"][()], [5, 7])
        assert "MoS2 on nothing" in file["/entry_1/title"].asstr()[()]


UNEVEN: dict[str, Any] = {"pixel_size_y_A": 0.4, "pixel_size_x_A": 0.25}


def test_every_length_angle_and_energy_has_its_unit(tmp_path: Path) -> None:
    folder, _ = run_folder(tmp_path, total_thickness=12.0, tilts=np.full((1, 6), 1e-3), tilt_mode=2)
    np.save(folder / "aberrations.npy", np.zeros((1, 3)))
    beam, refined = f"{INSTRUMENT}/beam_1", "/entry_1/process_1/refined"
    path = convert_to_nxs(folder, tmp_path / "result.nxs")
    expected = {
        **UNITS,
        **{f"{beam}/{name}": "eV" for name in ("incident_energy", "incident_energy_spread")},
        f"{beam}/incident_wavelength": "angstrom",
        f"{beam}/convergence_semi_angle": "rad",
        f"{DETECTOR}/data": "counts",
        "/entry_1/sample_1/thickness": "angstrom",
        **{f"/entry_1/object_1/{axis}": "angstrom" for axis in "zyx"},
        **{f"/entry_1/{group}/{axis}": "angstrom" for group in ("phase_1", "probe_1") for axis in "yx"},
        "/entry_1/object_1/phase": "rad",
        "/entry_1/phase_1/data": "rad",
        f"{refined}/slice_distances": "angstrom",
        f"{refined}/tilts": "rad",
        f"{refined}/pixel_size_y": "angstrom",
        f"{refined}/pixel_size_x": "angstrom",
    }
    with h5py.File(path, "r") as file:
        assert {name: file[name].attrs.get("units") for name in expected} == expected
        plain = (f"{refined}/positions", "/entry_1/process_1/loss/loss", "/entry_1/object_1/amplitude")
        assert not any("units" in file[name].attrs for name in plain), "pixels, counts and ratios"


def test_angles_energies_and_thicknesses_are_converted(tmp_path: Path) -> None:
    """20 mrad are 0.02 rad; 80 kV are 80 000 eV."""
    folder, _ = run_folder(tmp_path, total_thickness=12.0)
    with h5py.File(convert_to_nxs(folder, tmp_path / "result.nxs"), "r") as file:
        beam = file[f"{INSTRUMENT}/beam_1"]
        assert beam["convergence_semi_angle"][()] == pytest.approx(0.02)
        assert {beam[name][()] for name in ("energy", "incident_energy", "incident_beam_energy")} == {80e3}
        assert file[f"{INSTRUMENT}/source_1/energy"][()] == 80e3
        assert np.isnan(beam["incident_energy_spread"][()])
        assert file["/entry_1/sample_1/thickness"][()] == 12.0
        assert file["/entry_1/sample_1/name"].asstr()[()] == "MoS2 on nothing"


def test_axes_of_uneven_pixels_are_not_exchanged(tmp_path: Path) -> None:
    """Pixels of 0.4 x 0.25 Å in a window of 16 x 22, on a scan of 4 x 5 points."""
    side = (16, 22)
    patterns = np.random.default_rng(3).poisson(30, (20, *side)).astype(np.uint16)
    with h5py.File(tmp_path / "uneven.h5", "w") as file:
        file["data"] = patterns
    folder, _ = run_folder(
        tmp_path, data_path=str(tmp_path / "uneven.h5"), detector_mask=None, epoch_max=1, **UNEVEN
    )
    arrays = load_checkpoint(folder)
    assert arrays["probe"].shape[:2] == side
    with h5py.File(convert_to_nxs(folder, tmp_path / "result.nxs"), "r") as file:
        np.testing.assert_allclose(file[f"{DETECTOR}/y_pixel_size"][()], wavelength_A(80) / (16 * 0.4))
        np.testing.assert_allclose(file[f"{DETECTOR}/x_pixel_size"][()], wavelength_A(80) / (22 * 0.25))
        centres = (arrays["positions"] + [8, 11]) * [0.4, 0.25]
        translation = file[f"{DETECTOR}/translation"][()]
        np.testing.assert_allclose(translation, np.pad(centres[:, ::-1], ((0, 0), (0, 1))))
        moves = file["/entry_1/sample_1/transformations"]
        for axis, name in enumerate("yx"):
            np.testing.assert_allclose(moves[name][()].ravel(), centres[:, axis])
            assert moves[name].shape == SCAN
            assert moves[name].attrs["vector"].tolist() == ([0, 1, 0] if name == "y" else [1, 0, 0])
            assert moves[name].attrs["depends_on"] == ("." if name == "y" else "y")
            size = (0.4, 0.25)[axis]
            for group in ("object_1", "phase_1"):
                n = arrays["obj"].shape[axis]
                np.testing.assert_allclose(file[f"/entry_1/{group}/{name}"][()], np.arange(n) * size)
            places = (np.arange(side[axis]) - side[axis] // 2) * size
            np.testing.assert_allclose(file[f"/entry_1/probe_1/{name}"][()], places)
            assert file[f"/entry_1/process_1/refined/pixel_size_{name}"][()] == size
            assert file[f"/entry_1/probe_1/{name}"].attrs["long_name"] == f"{name} (Å)"
        np.testing.assert_array_equal(
            file["/entry_1/probe_1/intensity"][()], np.abs(arrays["probe"].transpose(2, 0, 1)) ** 2
        )
        np.testing.assert_array_equal(file["/entry_1/process_1/refined/positions"][()], arrays["positions"])


def test_the_default_plot_is_the_summed_phase(tmp_path: Path) -> None:
    """Following @default, @signal and @axes from the root."""
    folder, _ = run_folder(tmp_path)
    with h5py.File(convert_to_nxs(folder, tmp_path / "result.nxs"), "r") as file:
        group = file
        while "default" in group.attrs:
            group = group[group.attrs["default"]]
        assert group.attrs["NX_class"] == "NXdata"
        signal = group[group.attrs["signal"]]
        axes = [group[name] for name in group.attrs["axes"]]
        assert signal.shape == tuple(len(axis) for axis in axes)
        expected = np.angle(load_checkpoint(folder)["obj"]).sum(axis=2).mean(axis=2)
        np.testing.assert_allclose(signal[()], expected)
        # every NXdata can be plotted
        for name in ("object_1", "probe_1", "process_1/loss"):
            data = file["entry_1"][name]
            shape = data[data.attrs["signal"]].shape
            assert shape == tuple(len(data[axis]) for axis in data.attrs["axes"])


def test_every_parameter_comes_back(tmp_path: Path) -> None:
    folder, _ = run_folder(tmp_path)
    found = load_nexus_params(convert_to_nxs(folder, tmp_path / "result.nxs"))
    expected = load_preset(folder)
    assert set(found) == set(expected)
    for name in expected:
        assert_same(expected[name], found[name])
    assert found["update_probe"] == "lambda epoch: epoch > 2"
    assert found["aperture_mask"] is None
    assert found["data_path"] == str(tmp_path / "patterns.h5")
    assert (
        pypty.run({**found, "output_folder": ""}).loss[0]
        == pypty.run({**expected, "output_folder": ""}).loss[0]
    )


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=True)
    | st.complex_numbers(allow_nan=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.integers(0, 99), inner, max_size=3)
    ),
    max_leaves=12,
)
ARRAYS = hnp.arrays(
    hnp.boolean_dtypes()
    | hnp.integer_dtypes(endianness="<")
    | hnp.floating_dtypes(endianness="<", sizes=(16, 32, 64))
    | hnp.complex_number_dtypes(endianness="<", sizes=(64, 128)),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)


@settings(deadline=None, max_examples=150)
@given(value=VALUES | ARRAYS)
def test_any_value_comes_back(value: Any) -> None:
    with h5py.File("values", "w", driver="core", backing_store=False) as file:
        write_value(file, "value", value)
        assert_same(value, read_value(file["value"]))


@pytest.mark.parametrize(
    "value",
    [
        [[1, 2], [3, 4]],
        [[1.0, 2.0], [3.0]],
        [[1, 2], (3, 4)],
        [1, 2.0],
        [[], []],
        [True, False],
        ((1, 2), (3, 4)),
        {"from_epoch": {0: 1.0, 10: 0.1}, "until_epoch": 20},
        np.array(["a", "Å"]),
        np.array([b"ab", b"c"]),
        np.array(3.5),
        np.arange(5000.0),
    ],
    ids=repr,
)
def test_containers_and_texts_come_back(value: Any) -> None:
    with h5py.File("values", "w", driver="core", backing_store=False) as file:
        write_value(file, "value", value)
        assert_same(value, read_value(file["value"]))


def test_numbers_are_stored_as_numbers_and_tables_as_arrays() -> None:
    """For other readers of the file; beyond 64 bits an integer is a text."""
    with h5py.File("values", "w", driver="core", backing_store=False) as file:
        for name, value in {"a": 1000, "b": -(2**63), "c": 2**63 - 1}.items():
            write_value(file, name, value)
            assert file[name].dtype.kind == "i" and file[name][()] == value
        write_value(file, "d", 2**63)
        assert file["d"].asstr()[()] == str(2**63) and read_value(file["d"]) == 2**63
        write_value(file, "e", [[1.0, 2.0], [3.0, 4.0]])
        np.testing.assert_array_equal(file["e"][()], [[1.0, 2.0], [3.0, 4.0]])


def test_the_image_and_the_motors_say_what_they_are(tmp_path: Path) -> None:
    folder, _ = run_folder(tmp_path, epoch_max=0)
    with h5py.File(convert_to_nxs(folder, tmp_path / "result.nxs"), "r") as file:
        image = file["/entry_1/image_1"]
        assert image["data_type"].asstr()[()] == "transmission function"
        assert image["data_space"].asstr()[()] == "real"
        moves = file["/entry_1/sample_1/transformations"]
        names = [item.attrs["long_name"] for item in moves.values() if item.attrs.get("units") == "angstrom"]
        assert sorted(name.rsplit(" ", 1)[1] for name in names) == ["(Å)"] * len(names) and names


def test_values_without_a_place_are_refused() -> None:
    with h5py.File("values", "w", driver="core", backing_store=False) as file:
        with pytest.raises(OutputError, match="object"):
            write_value(file, "a", object())
        with pytest.raises(OutputError, match="array of object"):
            write_value(file, "b", np.array([None, {}]))
        write_value(file, "c", np.float32(1.5))
        assert read_value(file["c"]) == np.float32(1.5)


def test_a_large_array_is_written_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pypty.nexus.parameters._CHUNK", 100)
    value = random_complex(np.random.default_rng(0), (7, 5, 2))
    with h5py.File("values", "w", driver="core", backing_store=False) as file:
        write_value(file, "value", value)
        np.testing.assert_array_equal(read_value(file["value"]), value)


@pytest.mark.parametrize("flat", [True, False], ids=["list", "raster"])
@pytest.mark.parametrize("scan_size", [SCAN, None])
@pytest.mark.parametrize("bytes_", [1, 3 * SIDE * SIDE * 2])
def test_patterns_are_copied_in_pieces(
    flat: bool, scan_size: Any, bytes_: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pypty.nexus.patterns._CHUNK", bytes_)
    folder, patterns = run_folder(tmp_path, flat=flat, scan_size=scan_size, epoch_max=0)
    with h5py.File(convert_to_nxs(folder, tmp_path / "result.nxs", copy_data=True), "r") as file:
        np.testing.assert_array_equal(file["/entry_1/data_1/data"][()], patterns)


def test_linked_patterns_move_with_the_file(tmp_path: Path) -> None:
    folder, patterns = run_folder(tmp_path)
    convert_to_nxs(folder, tmp_path / "result.nxs")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("result.nxs", "patterns.h5"):
        shutil.move(tmp_path / name, moved / name)
    with h5py.File(moved / "result.nxs", "r") as file:
        np.testing.assert_array_equal(file["/entry_1/data_1/data"][()], patterns)
    (moved / "patterns.h5").unlink()  # linked, not copied
    with h5py.File(moved / "result.nxs", "r") as file:
        assert "/entry_1/data_1/data" not in file or not file["/entry_1/data_1/data"][()].any()


def test_patterns_that_are_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, _ = run_folder(tmp_path)
    (tmp_path / "patterns.h5").unlink()
    path = convert_to_nxs(folder, tmp_path / "result.nxs")
    assert "were not found" in caplog.text
    assert f"{DETECTOR}/data" in missing_of_cxi_ptycho(path)
    assert load_nexus_params(path)["acc_voltage"] == 80


def test_a_dataset_kept_beside_the_parameters(tmp_path: Path) -> None:
    patterns = np.random.default_rng(0).poisson(20, (20, SIDE, SIDE))
    folder, _ = run_folder(tmp_path, dataset=patterns, data_path="", strip_dataset_from_params=False)
    with h5py.File(convert_to_nxs(folder, tmp_path / "result.nxs"), "r") as file:
        np.testing.assert_array_equal(file["/entry_1/data_1/data"][()], patterns)


def test_padded_binned_and_upsampled_patterns_keep_their_pixel(tmp_path: Path) -> None:
    """The stored pattern's pixel, whatever the model makes of it."""
    folder, _ = run_folder(
        tmp_path,
        data_bin=2,
        data_pad=6,
        upsample_pattern=2,
        detector_mask=None,
        sample_name=None,
        epoch_max=1,
    )
    assert load_checkpoint(folder)["probe"].shape[0] == 2 * (SIDE // 2) + 2 * 6
    with h5py.File(convert_to_nxs(folder, tmp_path / "result.nxs"), "r") as file:
        model_pixel = wavelength_A(80) / (28 * PIXEL)
        np.testing.assert_allclose(file[f"{DETECTOR}/x_pixel_size"][()], model_pixel * 2 / 2)


def test_near_field_with_one_position_and_subscans(tmp_path: Path) -> None:
    folder, _ = run_folder(
        tmp_path, recon_type="near_field", positions=np.zeros((1, 2)), scan_size=None, num_slices=1, epoch_max=1,
        defocus_array=np.full(20, 2e4), update_probe=False, slice_distances=np.array([1.0]), conv_semiangle_mrad=None,
    )  # fmt: skip
    with h5py.File(convert_to_nxs(folder, tmp_path / "result.nxs"), "r") as file:
        assert file[f"{DETECTOR}/translation"].shape == (20, 3)
        np.testing.assert_allclose(file[f"{DETECTOR}/distance"][()], 2e-6)
        np.testing.assert_allclose(file[f"{DETECTOR}/x_pixel_size"][()], PIXEL * 1e-10)
    probe = random_complex(np.random.default_rng(0), (SIDE, SIDE, 2, 3))
    np.save(folder / "cp.npy", probe)
    with h5py.File(convert_to_nxs(folder, tmp_path / "result.nxs", overwrite=True), "r") as file:
        np.testing.assert_array_equal(file["/entry_1/probe_1/data"][()], probe.transpose(3, 2, 0, 1))
        assert file["/entry_1/probe_1"].attrs["axes"].tolist() == ["subscan", "mode", "y", "x"]


def test_a_function_of_the_epoch_is_kept_as_its_table(tmp_path: Path) -> None:
    folder, _ = run_folder(tmp_path, update_obj=lambda epoch: epoch < 1)
    found = load_nexus_params(convert_to_nxs(folder, tmp_path / "result.nxs"))
    assert found["update_obj"] == {"from_epoch": {0: True, 1: False}, "until_epoch": 2}
    path = folder / "params.yaml"
    path.write_text(path.read_text() + "window_weight_: {callable: choose}\n")
    assert load_nexus_params(convert_to_nxs(folder, tmp_path / "b.nxs"))["window_weight_"] == {
        "callable": "choose"
    }


def test_nothing_is_overwritten_unless_asked(tmp_path: Path) -> None:
    folder, _ = run_folder(tmp_path)
    target = tmp_path / "deep" / "result.nxs"
    assert convert_to_nxs(folder, str(target)) == target
    before = target.read_bytes()
    with pytest.raises(OutputError, match="overwrite=True"):
        convert_to_nxs(folder, target)
    assert target.read_bytes() == before
    assert convert_to_nxs(folder, target, overwrite=True) == target


def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = run_folder(tmp_path)
    target = tmp_path / "result.nxs"
    target.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pypty.nexus.convert._write_probe", fail)
    with pytest.raises(OutputError, match="No space left"):
        convert_to_nxs(folder, target, overwrite=True)
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir() if "tmp" in path.name] == []


def test_folders_that_cannot_be_converted(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        convert_to_nxs(tmp_path / "missing", tmp_path / "a.nxs")
    folder, _ = run_folder(tmp_path)
    (tmp_path / "patterns.h5").write_bytes(b"not HDF5")
    with pytest.raises(DataError, match="cannot be read"):
        convert_to_nxs(folder, tmp_path / "a.nxs")
    (tmp_path / "patterns.h5").unlink()
    log = (folder / "loss.csv").read_text()
    (folder / "loss.csv").write_text(log.replace("epoch", "epok"))
    with pytest.raises(CheckpointError, match="loss.csv"):
        convert_to_nxs(folder, tmp_path / "a.nxs")
    (folder / "loss.csv").unlink()
    assert convert_to_nxs(folder, tmp_path / "b.nxs").is_file()
    (folder / "params" / "detector_mask.npy").unlink()
    with pytest.raises(CheckpointError, match="detector_mask"):
        convert_to_nxs(folder, tmp_path / "a.nxs")
    (folder / "params.yaml").write_text("- a list")
    with pytest.raises(ParameterError, match="expected 'name: value'"):
        convert_to_nxs(folder, tmp_path / "a.nxs")
    (folder / "params.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"no params\.yaml"):
        convert_to_nxs(folder, tmp_path / "a.nxs")
    assert not (tmp_path / "a.nxs").exists()


def test_positions_of_other_data(tmp_path: Path) -> None:
    folder, _ = run_folder(tmp_path)
    with h5py.File(tmp_path / "patterns.h5", "w") as file:
        file["data"] = np.zeros((7, SIDE, SIDE))
    with pytest.raises(CheckpointError, match="20 positions, but its data have 7 patterns"):
        convert_to_nxs(folder, tmp_path / "a.nxs")
    with h5py.File(tmp_path / "patterns.h5", "w") as file:
        file["data"] = np.zeros(7)
    with pytest.raises(DataError, match="shape"):
        convert_to_nxs(folder, tmp_path / "a.nxs")
    with h5py.File(tmp_path / "patterns.h5", "w") as file:
        file.create_group("data")
    with pytest.raises(DataError, match="not a data set"):
        convert_to_nxs(folder, tmp_path / "a.nxs")


def test_files_without_parameters(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_nexus_params(tmp_path / "missing.nxs")
    (tmp_path / "text.nxs").write_text("text")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_nexus_params(tmp_path / "text.nxs")
    with h5py.File(tmp_path / "other.nxs", "w") as file:
        file["entry"] = 1
    with pytest.raises(CheckpointError, match="written by convert_to_nxs"):
        load_nexus_params(tmp_path / "other.nxs")


def test_parameters_that_are_linked_in_a_circle_or_elsewhere(tmp_path: Path) -> None:
    for name, link_of in (
        ("circle", lambda group: group["a"]["values"]),
        ("twice", lambda group: group["a"]),
        ("outside", lambda group: h5py.ExternalLink("/etc/hostname", "/data")),
        ("gone", lambda group: h5py.ExternalLink("nowhere.h5", "/data")),
    ):
        path = tmp_path / f"{name}.nxs"
        with h5py.File(path, "w") as file:
            group = file.create_group(PARAMETERS)
            write_value(group, "a", {"b": [{}]})
            group["a/values/1" if name == "circle" else "z"] = link_of(group)
        said = {
            "outside": "hostname",
            "gone": "nowhere.h5",
            "twice": "linked twice",
            "circle": "lies in itself",
        }[name]
        with pytest.raises(CheckpointError, match=said):
            load_nexus_params(path)


def test_sums_over_virtual_detectors_on_a_raster() -> None:
    assert (
        Patterns(path=Path("x"), key="data", shape=(4, 5, 3), dtype=np.dtype("f4"), sums=True).n_patterns
        == 20
    )
    assert Patterns(path=Path("x"), key="data", shape=(4, 5, 3), dtype=np.dtype("f4")).n_patterns == 4


def test_groups_data_sets_and_links_have_their_attributes() -> None:
    with h5py.File("groups", "w", driver="core", backing_store=False) as file:
        inner = group(file, "beam_1", "NXbeam", comment="ours")
        assert dict(inner.attrs) == {"NX_class": "NXbeam", "comment": "ours"}
        energy = scalar(inner, "energy", 80e3, "eV", long_name="energy")
        assert (energy[()], energy.attrs["units"], energy.attrs["long_name"]) == (80e3, "eV", "energy")
        plain = array(inner, "numbers", np.arange(3), "")
        assert "units" not in plain.attrs and plain.compression is None
        assert array(inner, "many", np.zeros(200_000), "").compression == "gzip"
        link(file, "same", plain)
        assert file["same"] == plain and plain.attrs["target"] == "/beam_1/numbers"


def test_an_experiment_in_the_far_field_lies_at_a_nominal_distance(tmp_path: Path) -> None:
    class Scanned:
        params: dict[str, Any] = {"acc_voltage": 200.0, "upsample_pattern": 2, "data_bin": 4}
        patterns = None
        pixel_A, window, wavelength = (0.5, 0.25), (20, 40), 0.025
        centres_A = np.arange(12.0).reshape(6, 2)
        raster = (2, 3)

    with h5py.File("experiment", "w", driver="core", backing_store=False) as file:
        write_experiment(group(file, "entry_1", "NXentry"), Scanned(), tmp_path, False)
        detector = file[DETECTOR]
        assert detector["distance"][()] == NOMINAL_DISTANCE_M == 1.0
        np.testing.assert_allclose(detector["y_pixel_size"][()], 0.025 / (20 * 0.5) * 2 / 4)
        np.testing.assert_allclose(detector["x_pixel_size"][()], 0.025 / (40 * 0.25) * 2 / 4)
        moves = file["/entry_1/sample_1/transformations"]
        np.testing.assert_array_equal(moves["x"][()], [[1, 3, 5], [7, 9, 11]])
        np.testing.assert_array_equal(moves["y"][()], [[0, 2, 4], [6, 8, 10]])
        assert file["/entry_1/sample_1/name"].asstr()[()] == "unknown"
        assert "convergence_semi_angle" not in file[f"{INSTRUMENT}/beam_1"]


def test_arrays_that_are_large_are_compressed_and_stay_what_they_are(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=200_000)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        found = array(file, "many", values, "angstrom")
        assert (found.compression, found.shuffle, found.attrs["units"]) == ("gzip", True, "angstrom")
        np.testing.assert_array_equal(found[()], values)
