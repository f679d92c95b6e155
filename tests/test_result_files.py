"""Files that are written every save_iters epochs: model file, images; and the history of a run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
from epoch_records import RECORDS
from first_order_problems import first_order
from matplotlib.figure import Figure
from problems import N_PATTERNS, SIDE, every_block, patterns, scan_positions, small_params, two_slices

import pypty
from pypty.errors import CheckpointError
from pypty.importers import load_result, parameters_of
from pypty.model.blocks import BLOCKS
from pypty.optics.grid import Grid
from pypty.optics.propagators import angular_spectrum_phase_rate, fresnel
from pypty.optics.wavelength import wavelength_A
from pypty.output.loss_log import EpochRecord
from pypty.plots.figures import scanned_area
from pypty.results.history import History
from pypty.results.images import Image, object_images, scaled, side_by_side, tiff_stem, write_tiff
from pypty.results.model_file import read_model

QUIET: dict[str, Any] = {"save_iters": 2, "selected_figs": [], "save_result": ["model"]}


# -------------------------------------------------------------------------------------------------- history


def test_history_has_a_number_for_every_epoch() -> None:
    history = History.of(RECORDS)
    np.testing.assert_array_equal(history.epochs, [0, 1, 2, 3])
    np.testing.assert_array_equal(history.validation, [5, 5, np.nan, 5])
    np.testing.assert_array_equal(history.learning_rates["probe"], [1e-3, 1e-3, np.nan, 1e-3])
    np.testing.assert_array_equal(history.regularizers["a"], [1, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(history.convergence["obja_bg"], [[1, 0.1], [3, 0.05]])
    np.testing.assert_allclose(history.mean_tilt_mrad[:, 0], [0, 0.1, 0.2, 0.3])
    assert history.optimizer == ("adam", "adam", "lbfgs", "adam")


@pytest.mark.parametrize("records", [RECORDS, []])
def test_history_comes_back_from_arrays(records: list[EpochRecord]) -> None:
    history = History.of(records)
    back = History.from_arrays(history.arrays())
    assert back.optimizer == history.optimizer
    assert set(back.arrays()) == set(history.arrays())
    for name, array in history.arrays().items():
        np.testing.assert_array_equal(back.arrays()[name], array)


def test_history_of_a_run_is_in_its_result_and_its_file(tmp_path: Path) -> None:
    result = pypty.run(small_params(save_result=[]))
    np.testing.assert_array_equal(result.history.loss, result.loss[:-1])
    assert result.learning_rates == {} and result.convergence == {}
    assert np.isnan(result.validation).all() and len(result.validation) == 3
    back = pypty.Result.load(result.save(tmp_path / "a.h5"))
    np.testing.assert_array_equal(back.history.step, result.history.step)


# ----------------------------------------------------------------------------------------------- model file


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pypty.Result]:
    """A run with every unknown, with its model file."""
    folder = tmp_path_factory.mktemp("model")
    quiet = {**QUIET, "save_result": ["model", "optim_state"]}
    result = pypty.run(every_block(epoch_max=3, output_folder=str(folder), **quiet))
    return folder, result


def test_the_model_file_holds_everything(saved: tuple[Path, pypty.Result]) -> None:
    folder, result = saved
    model = read_model(folder / "model_iter0003.h5")
    for name in BLOCKS:
        np.testing.assert_array_equal(model[name], getattr(result, name))
    np.testing.assert_allclose(model["positions_A"], result.positions * 0.4)
    np.testing.assert_allclose(model["start_positions_A"], result.start_positions * 0.4)
    np.testing.assert_array_equal(model["fitted"], np.arange(N_PATTERNS))
    np.testing.assert_array_equal(model["history"].loss, result.loss[:-1])
    assert model["epochs_done"] == 3 and model["acc_voltage_kV"] == 80
    assert model["wavelength_A"] == pytest.approx(wavelength_A(80))
    np.testing.assert_array_equal(model["pixel_size_A"], [0.4, 0.4])
    assert model["settings"]["algorithm"] == "lsq_sqrt"
    np.testing.assert_array_equal(model["settings"]["probe_marker"], np.arange(N_PATTERNS) % 2)
    origin = model["provenance"]
    assert origin["pypty_version"] == pypty.__version__ and origin["data"] == "in memory"
    assert len(origin["data_fingerprint"]) > 8 and origin["continues"] is None
    assert origin["start"]["obj"] == "computed"
    assert origin["start"]["probe"] == f"given: array ({SIDE}, {SIDE}, 1, 2)"
    pairs = {name.split("/")[1] for name in model["optimizer"]}
    assert pairs and pairs <= {"00000", "00001", "00002"}
    assert "dataset" not in model["settings"] and "probe" not in model["settings"]


def test_units_and_axes_are_attributes(saved: tuple[Path, pypty.Result]) -> None:
    with h5py.File(saved[0] / "model_iter0003.h5") as file:
        assert file["unknowns/slice_distances"].attrs["unit"] == "Å"
        assert file["unknowns/obj"].attrs["axes"] == "y, x, slice, mode"
        assert all({"unit", "axes"} <= set(file["unknowns"][name].attrs) for name in file["unknowns"])


def test_a_model_file_is_a_start(saved: tuple[Path, pypty.Result]) -> None:
    """The loss at the start is that at the end of the run which wrote it."""
    folder, result = saved
    imported = load_result(folder / "model_iter0003.h5")
    assert imported.extras["epochs_done"] == 3 and "PyPty" in imported.source
    params = imported.params(dataset=patterns(2), epoch_max=4)
    assert pypty.evaluate(params).loss == pytest.approx(result.loss[-1], rel=1e-9)
    assert list(pypty.run(params).epochs) == [3]


def test_run_takes_a_model_file_by_its_path(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", patterns())
    data = {"dataset": ..., "data_path": str(tmp_path / "data.npy"), "output_folder": str(tmp_path / "out")}
    whole = pypty.run(small_params(**{**QUIET, **data, "epoch_max": 4}))
    path = tmp_path / "out" / "model_iter0002.h5"
    assert parameters_of(path)["data_path"] == data["data_path"]
    rest = pypty.run(path)
    assert list(rest.epochs) == [2, 3] and rest.folder is None
    assert rest.loss[0] == pytest.approx(whole.loss[2], rel=1e-9)
    assert pypty.check(path)
    assert read_model(path)["provenance"]["data"] == data["data_path"]


def test_a_resumed_run_names_its_parent_and_its_start(tmp_path: Path) -> None:
    whole = {**QUIET, "save_result": ["model"], "output_folder": str(tmp_path)}
    first = pypty.run(two_slices(**whole, epoch_max=2, update_probe_pos=True))
    pypty.resume(tmp_path, dataset=patterns(2), epoch_max=4)
    model = read_model(tmp_path / "model_iter0004.h5")
    assert model["provenance"]["continues"] == str(tmp_path.resolve())
    assert len(model["history"].epochs) == 4
    np.testing.assert_allclose(model["start_positions_A"], first.start_positions * 0.4)


@pytest.fixture
def blank_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figure of the forward pass is computed, but not drawn, which takes a second."""
    monkeypatch.setattr("pypty.results.figures.plot_forward", lambda *given: Figure())


def test_saving_does_not_change_the_numbers(tmp_path: Path, blank_paper: None) -> None:
    everything = {"save_iters": 2, "selected_figs": ["forward"], "save_result": ["model", "probe_prop"]}
    plain = pypty.run(small_params())
    saved = pypty.run(small_params(output_folder=str(tmp_path), **everything))
    np.testing.assert_array_equal(plain.obj, saved.obj)
    np.testing.assert_array_equal(plain.loss, saved.loss)


def test_results_of_a_device_are_host_arrays(device: None, tmp_path: Path, blank_paper: None) -> None:
    """With CuPy, which refuses to mix its arrays with those of NumPy."""
    everything = {"save_result": ["model", "optim_state", "objp", "probe_prop"], "selected_figs": ["forward"]}
    run = {"output_folder": str(tmp_path), "save_iters": 2, "epoch_max": 2, **everything}
    result = pypty.run(two_slices(backend="gpu", compute_batch=10, **run))
    model = read_model(tmp_path / "model_iter0002.h5")
    np.testing.assert_array_equal(model["obj"], result.obj)
    assert model["optimizer"] and (tmp_path / "summary_forward_pass_iter0002.png").is_file()
    assert (tmp_path / "probe_prop_amp_08bit_iter0002.tif").is_file()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.attrs.__delitem__("format"), "not a model file"),
        (lambda file: file.attrs.__setitem__("format_version", 9), "update PyPty"),
        (lambda file: file["unknowns"].__delitem__("probe"), "it has no probe"),
        (lambda file: file["history"].__delitem__("loss"), "no history of loss"),
        (lambda file: file.attrs.__setitem__("pixel_size_A", 0.2), "pixel_size_A is 0.2, expected positive"),
        (lambda file: file.attrs.__setitem__("acc_voltage_kV", np.nan), "acc_voltage_kV is nan"),
    ],
)
def test_a_damaged_model_file_says_what_is_wrong(
    damage: Any, message: str, saved: tuple[Path, pypty.Result], tmp_path: Path
) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes((saved[0] / "model_iter0003.h5").read_bytes())
    with h5py.File(path, "a") as file:
        damage(file)
    with pytest.raises(CheckpointError, match=message):
        read_model(path)


def test_something_else_is_no_model_file(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("nothing")
    for name in ("a.h5", "missing.h5"):
        with pytest.raises(CheckpointError, match="cannot be read as a model file"):
            read_model(tmp_path / name)


def test_a_figure_that_fails_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object) -> None:
        raise ValueError("no paper")

    monkeypatch.setattr("pypty.results.figures.plot_loss_history", fail)
    figures = {**QUIET, "save_result": [], "selected_figs": ["loss", "slice_thickness"], "save_iters": 3}
    with caplog.at_level(logging.WARNING):
        result = pypty.run(small_params(output_folder=str(tmp_path), **figures))
    assert len(result.epochs) == 3 and "no paper" in caplog.text
    assert [path.name for path in tmp_path.glob("*.png")] == ["summary_slice_thickness_iter0003.png"]


# --------------------------------------------------------------------------------------------------- images


def an_object(n_slices: int, n_modes: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    shape = (6, 7, n_slices, n_modes)
    return rng.uniform(0.5, 1, shape) * np.exp(1j * rng.uniform(-1, 1, shape))


@pytest.mark.parametrize(("slices", "modes", "dimension", "phase", "amplitude"), [
    (1, 1, 2, ["objp"], ["obja"]),
    (1, 1, 3, [], []),
    (1, 1, 4, [], []),
    (3, 1, 2, ["objp_zsum"], ["obja_zmean", "obja_zprod"]),
    (3, 1, 3, ["objp_zstack"], ["obja_zstack"]),
    (3, 1, 4, [], []),
    (1, 2, 2, ["objp_omean", "objp_ostd"], ["obja_omean", "obja_ostd"]),
    (1, 2, 3, ["objp_ostack"], ["obja_ostack"]),
    (1, 2, 4, [], []),
    (3, 2, 2, ["objp_omean_zsum"], ["obja_omean_zmean", "obja_omean_zprod"]),
    (3, 2, 3, ["objp_omean_zstack", "objp_ostack_zsum"],
     ["obja_omean_zstack", "obja_ostack_zmean", "obja_ostack_zprod"]),
    (3, 2, 4, ["objp_4D"], ["obja_4D"]),
])  # fmt: skip
def test_which_images_there_are(
    slices: int, modes: int, dimension: int, phase: list[str], amplitude: list[str]
) -> None:
    obj, weights = an_object(slices, modes), np.full(modes, 1 / modes)
    for kind, names in (("objp", phase), ("obja", amplitude)):
        found = list(object_images(obj, weights, [dimension], kind))
        assert [image.name for image in found] == names
        assert all(len(image.axes) == image.pixels.ndim for image in found)


def test_means_over_modes_are_weighted() -> None:
    obj, weights = an_object(3, 2), np.array([0.75, 0.25])
    images = {
        image.name: image.pixels
        for kind in ("obja", "objp")
        for image in object_images(obj, weights, [2, 3, 4], kind)
    }
    amplitude, phase = np.abs(obj), np.angle(obj)
    mean = 0.75 * amplitude[..., 0] + 0.25 * amplitude[..., 1]
    np.testing.assert_allclose(images["obja_omean_zprod"], mean.prod(axis=2))
    np.testing.assert_allclose(images["objp_omean_zsum"], (phase @ weights).sum(axis=2))
    np.testing.assert_allclose(images["objp_ostack_zsum"][1], phase[..., 1].sum(axis=2))
    np.testing.assert_array_equal(images["objp_4D"][1, 2], phase[:, :, 2, 1])
    one = {image.name: image.pixels for image in object_images(obj[:, :, :1], weights, [2], "obja")}
    difference = amplitude[:, :, 0, 0] - amplitude[:, :, 0, 1]
    np.testing.assert_allclose(one["obja_ostd"], np.abs(difference) * np.sqrt(0.75 * 0.25))


def test_depths_of_bits() -> None:
    pixels = np.array([[-1.0, 0.0, 3.0]])
    np.testing.assert_array_equal(scaled(pixels, "raw"), pixels)
    np.testing.assert_allclose(scaled(pixels, "32"), [[0, 0.25, 1]])
    np.testing.assert_array_equal(scaled(pixels, "8"), [[0, 63, 255]])
    np.testing.assert_array_equal(scaled(pixels, "16"), [[0, 16383, 65535]])
    types = {bit: scaled(pixels, bit).dtype for bit in ("raw", "32", "16", "8")}
    assert types == {"raw": np.float32, "32": np.float32, "16": np.uint16, "8": np.uint8}
    np.testing.assert_array_equal(scaled(np.full((2, 2), 7.0), "8"), 0)


@pytest.mark.parametrize("bit", ["raw", "32", "16", "8"])
def test_tiff_tells_its_scale(bit: str, tmp_path: Path) -> None:
    image = Image("objp_zstack", np.random.default_rng(1).normal(size=(3, 8, 9)), "ZYX", "rad")
    path = write_tiff(tmp_path / f"{tiff_stem(image, bit)}.tif", image, bit, np.array([0.2, 0.25]), 20.0)
    with tifffile.TiffFile(path) as file:
        assert file.is_imagej and file.series[0].axes == "ZYX"
        tags, known = file.pages[0].tags, file.imagej_metadata
        x, y = (tags[name].value for name in ("XResolution", "YResolution"))
        np.testing.assert_array_equal(file.asarray(), scaled(image.pixels, bit))
    assert x[0] / x[1] == pytest.approx(40, rel=1e-4) and y[0] / y[1] == pytest.approx(50, rel=1e-4)
    assert known["unit"] == "nm" and known["spacing"] == pytest.approx(2.0)
    assert f"{image.pixels.max():.9g} rad" in known["Info"]


def test_modes_stand_side_by_side() -> None:
    modes = np.random.default_rng(2).normal(size=(2, 4, 5))
    np.testing.assert_array_equal(side_by_side("a", modes).pixels, np.abs(np.concatenate(modes, axis=1)))
    planes = np.stack([modes, 2 * modes])
    assert side_by_side("a", planes).pixels.shape == (2, 4, 10)


def test_images_of_a_run(tmp_path: Path) -> None:
    modes = {"FOV": ["crop", "full"], "bit": ["raw"], "obj_dim": [2, 3]}
    wanted = {**QUIET, "save_result": ["objp", "probe", "probe_prop"], "result_modes": modes, "save_iters": 3}
    result = pypty.run(two_slices(output_folder=str(tmp_path), update_slice_distances=True, **wanted))
    read = {path.name: tifffile.imread(path) for path in tmp_path.glob("*.tif")}
    phase = np.angle(result.obj)[..., 0]
    np.testing.assert_allclose(read["objp_zsum_iter0003.tif"], phase.sum(axis=2), rtol=1e-6, atol=1e-6)
    area = scanned_area(result.obj.shape, result.positions, (SIDE, SIDE))
    np.testing.assert_array_equal(
        read["objp_zstack_crop_iter0003.tif"], read["objp_zstack_iter0003.tif"][(slice(None), *area)]
    )
    np.testing.assert_allclose(read["probe_amp_iter0003.tif"], np.abs(result.probe[..., 0]), rtol=1e-6)
    grid = Grid((SIDE, SIDE), (0.4, 0.4), wavelength_A(80))
    moved = np.fft.ifft2(np.fft.fft2(result.probe[..., 0]) * fresnel(grid, float(result.slice_distances[0])))
    np.testing.assert_allclose(read["probe_prop_amp_iter0003.tif"][1], np.abs(moved), rtol=1e-4, atol=1e-4)


def test_the_probe_on_its_way_is_that_of_the_model(tmp_path: Path) -> None:
    """probe_prop: shifted by the sub-pixel part of position 0, with the run's propagator and the tilt inside."""
    positions = scan_positions() + [1.3, 1.6]
    tilts = np.array([[0, 0, 2e-3, -1e-3, 0, 0]])
    result = pypty.run(
        two_slices(
            output_folder=str(tmp_path),
            **{**QUIET, "save_result": ["probe_prop"], "result_modes": {"bit": ["raw"]}, "save_iters": 1},
            positions=positions,
            skip_preprocessing=True,
            tilts=tilts,
            tilt_mode=0,
            slice_distances=[40.0],
            propmethod="angular_spectrum",
            epoch_max=1,
        )
    )
    planes = tifffile.imread(tmp_path / "probe_prop_amp_iter0001.tif")
    grid = Grid((SIDE, SIDE), (0.4, 0.4), wavelength_A(80))
    shift = np.exp(-2j * np.pi * (0.3 * grid.fy - 0.4 * grid.fx))
    rate = angular_spectrum_phase_rate(grid) - 2 * np.pi * (2e-3 * grid.qy - 1e-3 * grid.qx)
    spectrum = np.fft.fft2(result.probe[..., 0]) * shift
    for plane, depth in zip(planes, (0, 40), strict=True):
        moved = np.fft.ifft2(spectrum * np.exp(1j * depth * rate))
        np.testing.assert_allclose(plane, np.abs(moved), rtol=1e-4, atol=1e-4)
    # 40 Å at 2.2 mrad are 0.2 px, and the shift 0.5 px
    assert abs(planes[0] - np.abs(result.probe[..., 0])).max() > 0.1
    assert abs(planes[1] - planes[0]).max() > 0.1


def test_the_convergence_pages_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their names have no epoch; all other figures and files are kept."""
    for name in ("plot_convergence", "plot_loss_history"):
        monkeypatch.setattr(f"pypty.results.figures.{name}", lambda *given, **named: Figure())
    figures = ["convergence", "convergence_dynamic", "loss"]
    run = {"save_iters": 1, "epoch_max": 2, "save_result": [], "selected_figs": figures}
    pypty.run(small_params(output_folder=str(tmp_path), **run))
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [
        "summary_convergence.png",
        "summary_convergence_dynamic.png",
        "summary_loss_iter0001.png",
        "summary_loss_iter0002.png",
    ]


def test_the_state_of_a_schedule_is_in_the_model_file(tmp_path: Path) -> None:
    run = {
        **QUIET,
        "save_result": ["model", "scheduler_state"],
        "output_folder": str(tmp_path),
        "epoch_max": 2,
    }
    pypty.run(first_order(lr_scheduler={"name": "plateau", "patience": 0, "threshold": 1.0}, **run))
    model = read_model(tmp_path / "model_iter0002.h5")
    assert model["optimizer"] == {}
    stored = {name: float(value) for name, value in model["scheduler"].items()}
    assert set(stored) == {"steps", "epochs", "factor", "best", "bad", "rest"}
    assert (stored["steps"], stored["epochs"], stored["factor"]) == (10, 2, pytest.approx(0.1))


def test_parameters_of_other_programs_are_kept_beside_the_results(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "theirs.yml"
    source.write_text("init_params: {probe_kv: 80}  # a remark\n")
    run = {"epoch_max": 1, "output_folder": str(tmp_path / "a")}
    pypty.run(small_params(copy_params=str(source), **run))
    assert (tmp_path / "a" / "theirs.yml").read_bytes() == source.read_bytes()
    run["output_folder"] = str(tmp_path / "b")
    pypty.run(small_params(params_dumped={"init_params": {"probe_kv": 80}}, **run))
    assert (tmp_path / "b" / "params_dumped.yaml").read_text() == "init_params:\n  probe_kv: 80\n"
    source.write_text("another one now")
    pypty.resume(tmp_path / "a", dataset=patterns(), epoch_max=2)
    assert "probe_kv" in (tmp_path / "a" / "theirs.yml").read_text()
    source.unlink()
    run["output_folder"] = str(tmp_path / "c")
    with caplog.at_level(logging.WARNING):
        pypty.run(small_params(copy_params=str(source), **run))
    assert "copy_params" in caplog.text and (tmp_path / "c" / "co.npy").is_file()


@pytest.mark.parametrize("name", ["params.yaml", "params_dumped.yaml", "co.npy", "resume.h5"])
def test_a_copied_file_replaces_none_of_the_run(name: str, tmp_path: Path) -> None:
    """A run watches its params.yaml: a copy of that name would change its settings."""
    source = tmp_path / "of_others" / name
    source.parent.mkdir()
    source.write_text("update_probe: false\n")
    result = pypty.run(small_params(output_folder=str(tmp_path / "a"), copy_params=str(source), epoch_max=2))
    plain = pypty.run(small_params(epoch_max=2))
    np.testing.assert_array_equal(result.probe, plain.probe)
    assert (tmp_path / "a" / f"copied_{name}").read_text() == source.read_text()
    assert pypty.load_preset(tmp_path / "a")["epoch_max"] == 2


def test_cropped_images_keep_their_size_as_positions_move(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    pypty.run(
        first_order(
            output_folder=str(tmp_path),
            save_iters=1,
            save_result=["objp"],
            selected_figs=[],
            result_modes={"bit": ["raw"]},
            epoch_max=3,
            update_probe_pos=True,
            learning_rates={"positions": 0.1},
        )
    )
    sizes = {tifffile.imread(path).shape for path in tmp_path.glob("objp*_crop_iter*.tif")}
    crop_origins = np.round(first_order()["positions"])
    assert sizes == {tuple(int(side) + 1 for side in np.ptp(crop_origins, axis=0))}
