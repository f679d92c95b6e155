"""Parameters of result files and of the folder's name: their effect, and what they refuse."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parameter_registry import Desk, assert_refused, effect, names_in
from problems import N_PATTERNS, SIDE, aperture_probe, small_params, smooth_object

import pypty
from pypty.results.simulation import PATTERNS_FILE


def written(folder: Path, **changes: Any) -> set[str]:
    """Names of the result files of a run of three epochs without figures."""
    quiet = {"selected_figs": [], "save_result": ["model"], "save_iters": 2}
    result = pypty.run(small_params(output_folder=str(folder), **{**quiet, **changes}))
    assert result.folder == folder
    endings = (".h5", ".tif", ".png")
    return {path.name for path in folder.iterdir() if path.suffix in endings} - {"resume.h5", "verdict.h5"}


def folder_of(desk: Desk, **changes: Any) -> str:
    """Name of the folder inside output_folder of a run without an epoch."""
    result = pypty.run(small_params(output_folder=str(desk.folder), epoch_max=0, **changes))
    assert result.folder is not None and result.folder.parent == desk.folder
    assert (result.folder / "resume.h5").is_file() and not (desk.folder / "resume.h5").exists()
    return result.folder.name


@effect("save_iters", bad=-1)
def _(desk: Desk) -> None:
    assert written(desk.folder / "a") == {"model_iter0002.h5", "model_iter0003.h5"}
    assert written(desk.folder / "b", save_iters=3) == {"model_iter0003.h5"}
    assert written(desk.folder / "c", save_iters=0) == set()


@effect("save_result", bad=["everything"])
def _(desk: Desk) -> None:
    every = ["obja", "objp", "probe", "probe_prop"]
    assert written(desk.folder / "a", save_result=every, save_iters=3) == {
        "obja_crop_08bit_iter0003.tif",
        "objp_crop_08bit_iter0003.tif",
        "probe_amp_08bit_iter0003.tif",
        "probe_prop_amp_08bit_iter0003.tif",
    }
    assert written(desk.folder / "b", save_result=[]) == set()


@effect("result_modes", bad={"bit": ["12"]})
def _(desk: Desk) -> None:
    modes = {"FOV": ["full", "crop"], "bit": ["raw", "16"]}
    assert written(desk.folder / "a", save_result=["objp"], save_iters=3, result_modes=modes) == {
        f"objp{area}{bit}_iter0003.tif" for area in ("", "_crop") for bit in ("", "_16bit")
    }


@effect("selected_figs", bad=["los"])
def _(desk: Desk) -> None:
    drawn = written(desk.folder / "a", save_result=[], save_iters=3, selected_figs=["loss", "convergence"])
    assert drawn == {"summary_loss_iter0003.png", "summary_convergence.png"}


@effect("verdict", bad="perhaps")
def _(desk: Desk) -> None:
    assert pypty.run(small_params()).verdict.fit is not None
    assert pypty.run(small_params(verdict="none")).verdict.fit is None
    assert pypty.run(small_params(verdict=False)).verdict.fit is None


@effect("recon_dir_affixes", bad=["colour"])
def _(desk: Desk) -> None:
    assert folder_of(desk, recon_dir_affixes=["dx", "nlayer", "loss"]) == "1slice_lsq_sqrt_dx0.4"


@effect("prefix_time", bad="noon")
def _(desk: Desk) -> None:
    before = date.today()
    name = folder_of(desk, prefix_time=True)
    assert name in {f"{day:%Y%m%d}" for day in (before, date.today())}
    assert folder_of(desk, prefix_time="%Y") in {str(day.year) for day in (before, date.today())}


@effect("prefix", bad="a/b")
def _(desk: Desk) -> None:
    assert folder_of(desk, prefix="wse2", recon_dir_affixes=["dx"]) == "wse2_dx0.4"


@effect("postfix", bad=7)
def _(desk: Desk) -> None:
    assert folder_of(desk, postfix="again", recon_dir_affixes=["dx"]) == "dx0.4_again"


@effect("recon_dir_spelling", bad={"loss": "sng1.0"})
def _(desk: Desk) -> None:
    spelling = {"loss": ["lsq_sqrt", "LSQ"], "meas": ["dp99", "nothing"]}
    assert folder_of(desk, recon_dir_affixes=["loss", "meas"], recon_dir_spelling=spelling) == f"dp{SIDE}_LSQ"


@effect("copy_params", bad=3)
def _(desk: Desk) -> None:
    (desk.folder / "theirs.yml").write_text("a: 1")
    pypty.run(small_params(output_folder=str(desk.folder / "a"), copy_params=desk.folder / "theirs.yml"))
    assert (desk.folder / "a" / "theirs.yml").read_text() == "a: 1"


@effect("params_dumped", bad="a: 1")
def _(desk: Desk) -> None:
    pypty.run(small_params(output_folder=str(desk.folder), params_dumped={"a": 1}))
    assert (desk.folder / "params_dumped.yaml").read_text() == "a: 1\n"


def continued(desk: Desk, key: str, state: str, **changes: Any) -> pypty.Result:
    """An epoch of Adam after two, with or without (state "") the state of these."""
    given = {"optimizer": "adam", "batch_size": 5, **changes}
    saved = {"save_iters": 2, "save_result": ["model", state], "selected_figs": [], "epoch_max": 2}
    if state:
        pypty.run(small_params(output_folder=str(desk.folder), **saved, **given))
    loaded = {key: str(desk.folder / "model_iter0002.h5")} if state else {}
    return pypty.run(small_params(**given, **loaded, epoch_max=1))


@effect("load_optimizer_state", bad=True)
def _(desk: Desk) -> None:
    whole = continued(desk, "load_optimizer_state", "optim_state")
    fresh = continued(desk, "load_optimizer_state", "")
    assert whole.loss[0] != fresh.loss[0]  # of the batches after the first, whose steps differ


@effect("load_scheduler_state", bad=True, beside={"lr_scheduler": "step", "optimizer": "adam"})
def _(desk: Desk) -> None:
    schedule = {"lr_scheduler": {"name": "step", "step_size": 1, "gamma": 0.5}}
    whole = continued(desk, "load_scheduler_state", "scheduler_state", **schedule)
    assert whole.learning_rates["probe"][0] == pytest.approx(0.25e-2)
    fresh = continued(desk, "load_scheduler_state", "", **schedule)
    assert fresh.learning_rates["probe"][0] == pytest.approx(1e-2)


@effect("data_simulation_flag", bad=7.5)
def _(desk: Desk) -> None:
    """A path: patterns of the model after an epoch. True: nothing is loaded, and nothing is fitted."""
    file = desk.folder / "new" / "patterns.npy"
    params = small_params(obj=smooth_object(), update_probe_pos=True)
    result = pypty.run({**params, "data_simulation_flag": str(file)})
    last = {**params, "obj": result.obj, "probe": result.probe, "positions": result.positions}
    expected = pypty.simulate({**last, "skip_preprocessing": True})
    np.testing.assert_allclose(np.load(file), expected, rtol=1e-12, atol=1e-12 * expected.max())
    assert sorted(path.name for path in file.parent.iterdir()) == ["patterns.npy"]
    start = {**params, "output_folder": str(desk.folder), "dataset": None, "data_path": "/not/there.h5"}
    only = pypty.run({**start, "data_simulation_flag": True})
    assert len(only.epochs) == 0 and "nothing was fitted" in only.stop_reason
    np.testing.assert_array_equal(
        np.load(desk.folder / PATTERNS_FILE), pypty.simulate({**start, "data_path": ""})
    )
    with pytest.raises(pypty.errors.ParameterError, match="no patterns were given"):
        pypty.run({**params, "dataset": None, "data_simulation_flag": str(file)})
    for other in ("epoch % 2", "patterns", "patterns.txt"):
        with pytest.raises(pypty.errors.ParameterError, match="data_simulation_flag"):
            pypty.run({**params, "data_simulation_flag": other})
    with pytest.raises(pypty.errors.ParameterError, match="data_simulation_flag: True at epoch 1"):
        pypty.run({**params, "data_simulation_flag": "lambda x: x == 1"})
    (desk.folder / "taken").touch()
    with pytest.raises(pypty.errors.ParameterError, match="data_simulation_flag: .*taken"):
        pypty.run({**params, "data_simulation_flag": str(desk.folder / "taken" / "p.npy")})
    # whatever does not only simulate needs the data, flag or not
    with pytest.raises(pypty.errors.ParameterError, match="not/there"):
        pypty.evaluate({**start, "data_simulation_flag": True})
    assert "not/there" in str(pypty.preflight({**start, "data_simulation_flag": True}))
    assert (
        pypty.evaluate({**params, "output_folder": str(desk.folder), "data_simulation_flag": True}).loss > 0
    )


def test_a_result_is_not_simulated_over(tmp_path: Path) -> None:
    """What is resumed, or lacks the data that it had, is not replaced by patterns of the start."""
    file = tmp_path / "patterns.npy"
    params = small_params(output_folder=str(tmp_path / "a"), data_simulation_flag=str(file))
    pypty.run(params)
    before = file.read_bytes()
    for again in (lambda: pypty.resume(tmp_path / "a", epoch_max=5), lambda: pypty.run(tmp_path / "a")):
        with pytest.raises(pypty.errors.ParameterError, match="no patterns were given"):
            again()
    with pytest.raises(pypty.errors.ParameterError, match="cannot be resumed"):
        pypty.resume(tmp_path / "a", dataset=params["dataset"], data_simulation_flag=True)
    assert file.read_bytes() == before
    result = pypty.resume(tmp_path / "a", epoch_max=5, dataset=params["dataset"])
    assert len(result.epochs) == 5 and file.read_bytes() != before
    # beside a result a simulation is no other result
    only = {**params, "data_simulation_flag": True}
    assert pypty.check(only) and len(pypty.run(only).epochs) == 0
    assert len(pypty.resume(tmp_path / "a", epoch_max=6, dataset=params["dataset"]).epochs) == 6


def test_simulation_of_chosen_epochs(tmp_path: Path) -> None:
    params, file = small_params(output_folder=str(tmp_path)), tmp_path / "one.npy"
    result = pypty.run({**params, "data_simulation_flag": f"lambda x: '{file}' if x == 2 else False"})
    assert len(result.epochs) == 3 and file.is_file()
    table = {"from_epoch": {0: False, 2: True}}
    pypty.run({**params, "overwrite": True, "data_simulation_flag": table})
    np.testing.assert_array_equal(np.load(tmp_path / PATTERNS_FILE), np.load(file))


@effect("data_simulation_exitwave", bad=7.5)
def _(desk: Desk) -> None:
    params = small_params(obj=smooth_object(2), slice_distances=[20.0], output_folder=str(desk.folder))
    pypty.run({**params, "data_simulation_flag": True, "data_simulation_exitwave": True})
    waves = np.load(desk.folder / "simulated_exit_waves.npy")
    np.testing.assert_array_equal(waves, pypty.simulate({**params, "dataset": None}, exit_waves=True))
    warnings = pypty.check({**params, "data_simulation_exitwave": True}).warnings
    assert any("data_simulation_flag is off" in text for text in warnings)


@pytest.mark.parametrize("tilted", [False, True])
def test_exit_waves_are_those_of_the_patterns(tilted: bool) -> None:
    """In the far field |F psi|^2, summed over the modes, is the pattern; the band limit here lies outside."""
    probe = np.concatenate([aperture_probe(0.7), 0.3 * aperture_probe(0.5)], axis=-1)
    obj = np.concatenate([smooth_object(2), smooth_object(2, seed=8)], axis=-1)
    params = small_params(
        **{"obj": obj, "probe": probe, "slice_distances": [20.0], "damping_cutoff_multislice": 2.0},
        **({"tilts": np.full((1, 6), 2e-3), "tilt_mode": 3} if tilted else {}),
    )
    waves = pypty.simulate(params, exit_waves=True)
    assert waves.shape == (N_PATTERNS, 2, 2, SIDE, SIDE) and waves.dtype == np.complex128
    patterns = np.fft.fftshift((abs(np.fft.fft2(waves)) ** 2).sum(axis=(1, 2)), axes=(1, 2))
    expected = pypty.simulate(params)
    np.testing.assert_allclose(patterns, expected, rtol=1e-10, atol=1e-12 * expected.max())


@pytest.mark.parametrize("name", names_in(__name__))
def test_effect(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from parameter_registry import EFFECTS

    EFFECTS[name].test(Desk(tmp_path, monkeypatch, capsys))


@pytest.mark.parametrize("name", names_in(__name__))
def test_bad_value(name: str) -> None:
    assert_refused(name)
