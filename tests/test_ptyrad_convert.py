"""Files of PtyRAD on disk: formats, patterns, results to start from, ``pypty convert`` and ``pypty run``."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import yaml
from ptyrad_content import SCAN, assert_known, content, patterns

import pypty
from pypty.cli import main
from pypty.errors import DataError, ParameterError
from pypty.importers import load_params, translate, translate_file
from pypty.importers.command import load_parameters, write_preset
from pypty.importers.ptyrad.file import read_file
from pypty.importers.ptyrad.model_file import is_ptyrad, load_ptyrad
from pypty.importers.ptyrad.sources import load_source

HERE = Path(__file__).parent
EXAMPLES = HERE / "data" / "ptyrad"
MODEL = HERE / "data" / "ptyrad_model_iter0003.hdf5"


def write(path: Path, **groups: Any) -> Path:
    """The file of ``content`` with its patterns beside it."""
    given = content(**groups)
    data = given["init_params"].pop("meas_params")
    given["init_params"].update(meas_source="file", meas_params={"path": "patterns.npy"})
    np.save(path.parent / "patterns.npy", data)
    path.write_text(yaml.safe_dump(given) if path.suffix in (".yml", ".yaml") else json.dumps(given))
    return path


def raw_file(path: Path, frames: np.ndarray, gap: int, offset: int = 0) -> None:
    """Frames as an EMPAD writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as stream:
        stream.write(b"\x01" * offset)
        for frame in frames:
            stream.write(np.asarray(frame, "<f4").tobytes() + b"\x02" * gap)


# Formats of parameter files


def test_yaml_json_and_toml_say_the_same(tmp_path: Path) -> None:
    first = load_params(write(tmp_path / "a.yml"))
    second = load_params(write(tmp_path / "b.json"))
    np.testing.assert_array_equal(first["positions"], second["positions"])
    assert first["learning_rates"] == second["learning_rates"]
    toml = tmp_path / "c.toml"
    lines = [
        f"{key} = {json.dumps(value)}"
        for key, value in content()["init_params"].items()
        if key != "meas_params"
    ]
    toml.write_text("[init_params]\n" + "\n".join(lines) + '\nmeas_params = {path = "patterns.npy"}\n')
    toml.write_text(toml.read_text().replace('meas_source = "custom"', 'meas_source = "file"'))
    assert load_params(toml)["learning_rates"] == first["learning_rates"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.py", "init_params = {}", "reading would execute it"),
        ("a.yml", "acc_voltage: 80", "is not a parameter file of PtyRAD"),
        ("a.json", "[1]", "contains a list"),
        ("a.json", "{", "cannot be read as JSON"),
        ("a.toml", "= 1", "cannot be read as TOML"),
    ],
)
def test_files_that_are_not_read(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ParameterError, match=said):
        translate_file(tmp_path / name)
    with pytest.raises(ParameterError, match="there is no file .*none.yml"):
        read_file(tmp_path / "none.yml")


def test_load_preset_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="load_params"):
        pypty.load_preset(write(tmp_path / "a.yml"))
    assert "load_params" in pypty.importers.__all__


# Patterns


def test_patterns_that_need_no_change_stay_in_their_file(tmp_path: Path) -> None:
    params = load_params(write(tmp_path / "a.yml", init_params={"meas_flipT": [1, 0, 0]}))
    assert params["data_path"] == str((tmp_path / "patterns.npy").resolve()) and params["flip_ky"]
    assert "dataset" not in params
    mean = patterns().mean(axis=0, dtype=float)
    assert params["data_multiplier"] == pytest.approx(1 / mean.max())
    power = (np.abs(np.fft.fft2(params["probe"], axes=(0, 1))) ** 2).sum()
    assert power == pytest.approx(mean.sum() / mean.max(), rel=1e-6)


def test_patterns_of_every_format(tmp_path: Path) -> None:
    data = patterns()
    np.save(tmp_path / "p.npy", data.reshape(*SCAN, 16, 16))
    with h5py.File(tmp_path / "p.hdf5", "w") as file:
        file["exp/patterns"], file["exp/other"] = data, np.zeros((2, 2, 2))
    with h5py.File(tmp_path / "p73.mat", "w") as file:
        file["meas"] = data
    scipy.io.savemat(tmp_path / "p5.mat", {"meas": data})
    raw_file(tmp_path / "p.raw", data, 1024)
    raw_file(tmp_path / "gap.raw", data, 0, offset=40)
    entries: list[dict[str, Any]] = [
        {"path": "p.npy"},
        {"path": "p.hdf5", "key": "exp.patterns"},
        {"path": "p73.mat"},
        {"path": "p5.mat", "key": "meas"},
        {"path": "p.raw"},
        {"path": "gap.raw", "gap": 0, "offset": 40, "shape": [30, 16, 16]},
        {"path": "p.hdf5", "key": "exp/patterns", "selection": [[0, 30, 1], None, None], "color": "red"},
    ]
    pixels = []
    for entry in entries:
        given = {"meas_source": "file", "meas_params": entry, "meas_flipT": [0, 1, 0]}
        params = translate(content(init_params=given), "it", tmp_path).params
        expected = data[:, :, ::-1] / data.mean(axis=0, dtype=float).max()
        np.testing.assert_allclose(params["dataset"], expected, rtol=1e-6)
        pixels.append(params["pixel_size_x_A"])
    assert len(set(pixels)) == 1
    lazy = {"meas_source": "file", "meas_params": entries[1]}
    assert translate(content(init_params=lazy), "it", tmp_path).params["data_key"] == "exp/patterns"


def test_a_damaged_matlab_file_is_refused_before_scipy_reads_it(tmp_path: Path) -> None:
    """A tag like this one ends the process in SciPy."""
    data = patterns().astype(float)
    scipy.io.savemat(tmp_path / "p5.mat", {"meas": data})
    damaged = (
        (tmp_path / "p5.mat")
        .read_bytes()
        .replace(struct.pack("<2I", 9, data.nbytes), struct.pack("<2I", 2**31 - 1, data.nbytes))
    )
    (tmp_path / "p5.mat").write_bytes(damaged)
    given = {"meas_source": "file", "meas_params": {"path": "p5.mat", "key": "meas"}}
    with pytest.raises(DataError, match="element of type"):
        translate(content(init_params=given), "it", tmp_path)


def test_files_of_patterns_that_do_not_fit(tmp_path: Path) -> None:
    raw_file(tmp_path / "p.raw", patterns()[:20], 1024)

    def given(**entry: Any) -> None:
        translate(content(init_params={"meas_source": "file", "meas_params": entry}), "it", tmp_path)

    with pytest.raises(DataError, match="correct shape, gap or offset"):
        given(path="p.raw")
    with pytest.raises(DataError, match="nothing.raw' does not exist"):
        given(path="nothing.raw")
    (tmp_path / "p.txt").write_text("1")
    with pytest.raises(DataError, match=r"\.txt"):
        given(path="p.txt")


# Examples


def test_tBL_WSe2(tmp_path: Path) -> None:
    """PtyRAD's demonstration with 4 x 3 of its 128 x 128 patterns."""
    given = read_file(EXAMPLES / "tBL_WSe2.yml")
    given["init_params"] |= {"pos_N_scan_slow": 4, "pos_N_scan_fast": 3}
    frames = np.random.default_rng(0).normal(1, 1, (12, 128, 128)).astype(np.float32)
    frames[:, 52:76, 52:76] += 20
    raw_file(tmp_path / "data/tBL_WSe2/scan_x128_y128.raw", frames, 1024)
    found = translate(given, "tBL_WSe2.yml", tmp_path)
    params = found.params
    assert_known(params)
    assert found.without_counterpart == ()
    assert (
        params["probe"].shape == (128, 128, 6)
        and params["num_slices"] == 6
        and params["slice_distances"] == [2.0]
    )
    assert params["pixel_size_y_A"] == 0.1494 and params["acc_voltage"] == 80
    powers = (np.abs(params["probe"]) ** 2).sum(axis=(0, 1))
    assert powers[0] / powers.sum() == pytest.approx(1 / 1.1, rel=0.02) and np.all(
        powers[1:] < 0.03 * powers[0]
    )
    step = np.diff(params["positions"], axis=0)[0] * 0.1494
    assert np.linalg.norm(step) == pytest.approx(0.429)
    assert np.rad2deg(np.arctan2(step[0], step[1])) == pytest.approx(3)  # rows (y, x) turned by -3 degrees
    assert params["dataset"].min() == 0
    turned = np.maximum(frames, 0)[:, ::-1].mean(axis=0)
    np.testing.assert_allclose(params["dataset"].mean(axis=0), turned / turned.max(), rtol=1e-4)
    assert params["learning_rates"]["probe_abs"]["lr"] == pytest.approx(1e-4 / 128)
    assert (
        set(params["loss_terms"]) == {"single", "sparse"} and params["loss_terms"]["sparse"]["weight"] == 0.1
    )
    assert (
        params["constraints"]["objp_postiv"]["relax"] == 0 and params["constraints"]["obj_zblur"]["std"] == 1
    )
    assert params["output_folder"] == "output/tBL_WSe2/"


def test_PSO(tmp_path: Path) -> None:
    """PtyRAD's example of PrScO3 with 3 x 2 of its 64 x 64 patterns, and 3 of its 21 slices."""
    given = read_file(EXAMPLES / "PSO.toml")
    assert given["init_params"]["obj_Nlayer"] == 21
    given["init_params"] |= {"pos_N_scan_slow": 3, "pos_N_scan_fast": 2, "obj_Nlayer": 3}
    given["init_params"]["meas_crop"][:2] = [[0, 3], [0, 2]]
    data = np.zeros((6, 256, 256), np.float32)
    away = np.hypot(*(np.indices((256, 256)) - 128.0))
    data[:] = np.where(away < 20, 50.0, 900 / np.maximum(away, 1) ** 2)
    (tmp_path / "data/PSO").mkdir(parents=True)
    np.save(tmp_path / "data/PSO/patterns.npy", data)
    params = translate(given, "PSO.toml", tmp_path).params
    assert_known(params)
    assert params["dataset"].shape == (6, 120, 120)
    assert (params["data_pad"], params["data_pad_fill"], params["data_pad_threshold"]) == (68, "power", 70.0)
    assert params["probe"].shape == (256, 256, 4)
    assert params["detector_blur_std"] == 1.0 and params["detector_blur_edge"] == "reflect"
    # the disk measured on the raw pattern; 120 pixels padded to 256 have the pixel of 256
    radius = np.sqrt((away < 20).sum() / np.pi)
    assert params["pixel_size_x_A"] == pytest.approx(1e3 * 0.01968749 * radius / (256 * 21.4), rel=1e-5)
    power = (np.abs(np.fft.fft2(params["probe"], axes=(0, 1))) ** 2).sum()
    inside = params["dataset"].sum(axis=(1, 2), dtype=float).mean()
    assert inside < power < 1.2 * inside  # and the fitted background
    assert params["seed"] == 7 and set(params["constraints"]) >= {
        "mirrored_amp",
        "obja_thresh",
        "objp_postiv",
    }
    for row in range(2):
        assert np.abs(np.diff(params["positions"][:, row])).max() < 3 * 0.41 / params["pixel_size_x_A"]


# Results to start from


def test_a_model_of_ptyrad_is_continued(tmp_path: Path) -> None:
    shutil.copy(MODEL, tmp_path / "model.hdf5")
    init = {
        "meas_Npix": 20,
        "meas_params": np.ones((30, 20, 20), np.float32),
        "meas_calibration": {"mode": "dx", "value": 0.3},
        "obj_Nlayer": 2,
        "obj_slice_thickness": 5.0,
        "obj_omode_max": 2,
        "probe_pmode_max": 2,
        "pos_scan_affine": [1, 0, 12, 0],
        **{f"{what}_source": "PtyRAD" for what in ("obj", "probe", "pos", "tilt")},
        **{f"{what}_params": "model.hdf5" for what in ("obj", "probe", "pos", "tilt")},
    }
    found = translate(content(init_params=init), "it", tmp_path)
    params = found.params
    assert_known(params)
    loaded = pypty.importers.load_result(MODEL)
    np.testing.assert_allclose(params["positions"], loaded.positions, atol=1e-9)
    np.testing.assert_allclose(params["obj"], loaded.obj, atol=1e-6)
    np.testing.assert_allclose(params["tilts"], loaded.settings["tilts"], atol=1e-9)
    assert any("not applied again" in note for note in found.notes)
    ratio = (np.abs(loaded.probe) ** 2).sum(axis=(0, 1)) / (np.abs(params["probe"]) ** 2).sum(axis=(0, 1))
    assert ratio[0] == pytest.approx(ratio[1], rel=1e-3)  # normalised anew, modes orthogonal
    with pytest.raises(ParameterError, match="pickle"):
        (tmp_path / "m.pt").write_bytes(b"")
        translate(content(init_params={**init, "obj_params": "m.pt"}), "it", tmp_path)


# The command line


def test_convert_writes_a_preset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.hdf5").write_bytes(MODEL.read_bytes())
    source = write(tmp_path / "a.yml", model_params={"optimizer_params": {"load_state": "m.hdf5"}})
    target = tmp_path / "out" / "mine.yaml"
    assert main(["convert", str(source), "-o", str(target), "--report", "--set", "recon_params.NITER=7"]) == 0
    said = capsys.readouterr().out
    assert "recon_params.NITER" in said and "load_state" in said and str(target) in said
    preset = pypty.load_preset(target)
    direct = load_params(source)
    assert preset["epoch_max"] == 7 and direct["epoch_max"] == 200
    for name in ("obj", "probe", "positions"):
        np.testing.assert_array_equal(preset[name], direct[name])
    assert preset["constraints"] == direct["constraints"]
    assert preset["learning_rates"] == direct["learning_rates"]
    assert set(preset) == set(direct)
    assert preset["load_optimizer_state"] == str(tmp_path / "m.hdf5") and preset["copy_params"] == str(source)
    assert "load_state" in target.read_text() and (target.parent / "mine_arrays" / "probe.npy").is_file()


def test_a_run_keeps_the_file_and_saves_nothing_before_it_is_due(tmp_path: Path) -> None:
    """copy_params, and SAVE_ITERS > NITER: PtyRAD makes the folder, and saves no results and figures into it."""
    recon = {"NITER": 1, "SAVE_ITERS": 5, "output_dir": str(tmp_path / "out"), "recon_dir_affixes": ["lr"]}
    recon |= {"prefix_time": False, "BATCH_SIZE": {"size": 30}}
    source = write(tmp_path / "a.yml", recon_params=recon)
    result = pypty.run({**load_params(source), "backend": "cpu", "print_flag": 0})
    assert result.folder is not None
    assert result.folder.name == "plr1e-4_oalr5e-4_oplr5e-4_slr5e-4" and len(result.epochs) == 1
    assert (result.folder / "a.yml").read_bytes() == source.read_bytes()
    assert {path.suffix for path in result.folder.glob("*")} & {".tif", ".png"} == set()
    assert not list(result.folder.glob("model_iter*"))
    due = write(tmp_path / "b.yml", recon_params={**recon, "SAVE_ITERS": 1, "selected_figs": []})
    saved = pypty.run({**load_params(due), "backend": "cpu", "print_flag": 0})
    assert saved.folder is not None and (saved.folder / "model_iter0001.h5").is_file()
    without = write(tmp_path / "c.yml", recon_params={**recon, "copy_params": False})
    assert not load_params(without).get("copy_params")


def test_changed_patterns_lie_beside_the_preset(tmp_path: Path) -> None:
    source = write(tmp_path / "a.yml", init_params={"meas_flipT": [0, 0, 1]})
    assert main(["convert", str(source), "-o", str(tmp_path / "b.yaml")]) == 0
    data = pypty.load_preset(tmp_path / "b.yaml")["dataset"]
    assert data.dtype == np.float32 and data.shape == (30, 16, 16)


def test_convert_of_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ours.yaml").write_text("acc_voltage: 80")
    assert main(["convert", str(tmp_path / "ours.yaml"), "-o", str(tmp_path / "b.yaml")]) == 1
    assert "not a parameter file of PtyRAD" in capsys.readouterr().err
    (tmp_path / "ours.toml").write_text("acc_voltage = 80")
    assert main(["run", str(tmp_path / "ours.toml")]) == 1
    assert "those of pypty are YAML" in capsys.readouterr().err


def test_check_and_run_take_a_file_of_ptyrad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(
        tmp_path / "a.yml", recon_params={"SAVE_ITERS": None, "NITER": 3, "BATCH_SIZE": {"size": 8}}
    )
    arguments = [str(source), "--set", "backend=cpu", "--set", "print_flag=0"]
    assert main(["check", *arguments]) == 0, capsys.readouterr().out
    assert main(["run", *arguments]) == 0
    assert "3 epochs" in capsys.readouterr().out
    result = pypty.run({**load_params(source), "backend": "cpu", "print_flag": 0})
    assert result.loss[-1] < result.loss[0]


def test_the_start_is_what_the_engine_simulates(tmp_path: Path) -> None:
    """The counts of the translated probe are those of the patterns, through vacuum."""
    params = load_params(write(tmp_path / "a.yml"))
    simulated = pypty.simulate({**params, "backend": "cpu", "output_folder": ""})
    mean = patterns().mean(axis=0, dtype=float)
    assert simulated.sum(axis=(1, 2)).mean() == pytest.approx(mean.sum() / mean.max(), rel=1e-5)


def test_a_written_preset_has_its_arrays_beside_it(tmp_path: Path) -> None:
    found = translate(content(), "it", tmp_path)
    write_preset(found, tmp_path / "sub" / "preset.yaml", "it")
    again = pypty.load_preset(tmp_path / "sub" / "preset.yaml")
    np.testing.assert_array_equal(again["probe"], found.params["probe"])
    assert (tmp_path / "sub" / "preset_arrays" / "probe.npy").is_file()
    assert again["epoch_max"] == found.params["epoch_max"]
    assert (tmp_path / "sub" / "preset.yaml").read_text().startswith("# From it of PtyRAD, by pypty convert.")


def test_parameters_of_a_file_with_changes_in_their_names_and_ours(tmp_path: Path) -> None:
    path = write(tmp_path / "file.yaml")
    params, notes = load_parameters(str(path), {"recon_params.NITER": 4, "print_flag": 0})
    assert (params["epoch_max"], params["print_flag"]) == (4, 0) and "parameters of PtyRAD" in notes
    (tmp_path / "ours.yaml").write_text("epoch_max: 3\n")
    assert load_parameters(str(tmp_path / "ours.yaml"), {"epoch_max": 5}) == ({"epoch_max": 5}, "")
    (tmp_path / "ours.toml").write_text("epoch_max = 3\n")
    with pytest.raises(ParameterError, match="those of pypty are YAML"):
        load_parameters(str(tmp_path / "ours.toml"), {})


def test_a_model_to_start_from_is_in_the_layout_of_ptyrad(tmp_path: Path) -> None:
    loaded = load_source("PtyRAD", MODEL, MODEL.parent, "obj_params")
    with h5py.File(MODEL, "r") as file:
        assert is_ptyrad(file)
        tensors = file["optimizable_tensors"]
        np.testing.assert_allclose(loaded.amplitude, tensors["obja"][()], rtol=1e-6)
        np.testing.assert_allclose(loaded.phase, tensors["objp"][()], rtol=1e-6)
        crop_origins = file["model_attributes/crop_pos"][()] + tensors["probe_pos_shifts"][()]
        np.testing.assert_allclose(loaded.positions, crop_origins, rtol=1e-6)
        assert loaded.thickness_A == pytest.approx(float(tensors["slice_thickness"][()]))
    imported = load_ptyrad(MODEL)
    np.testing.assert_allclose(
        np.abs(imported.obj[..., 0]), loaded.amplitude[0].transpose(1, 2, 0), rtol=1e-5
    )
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(ParameterError, match="a pickle of PyTorch"):
        load_source("PtyRAD", "model.pt", tmp_path, "it")
