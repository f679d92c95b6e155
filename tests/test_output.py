"""What a run leaves on disk: whole files at every moment, with PyPty's names, and all of it loadable again."""

from __future__ import annotations

import csv
import dataclasses
import logging
import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from epoch_records import record as epoch_record
from problems import (
    N_PATTERNS,
    SIDE,
    aperture_probe,
    every_block,
    patterns,
    scan_positions,
    small_params,
    smooth_object,
    two_slices,
)

import pypty
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.problem import Problem
from pypty.engine.record.progress import TEXT_LOG, Reporter
from pypty.errors import CheckpointError, OutputError, PyptyError, ReconstructionError, ResourceError
from pypty.model.blocks import BLOCKS
from pypty.output.checkpoints import from_averaged_modes
from pypty.output.files import atomic, make_folder, remove_leftovers, write_array, write_text
from pypty.output.loss_log import LOSS_LOG, EpochRecord, read_loss_log, write_loss_log
from pypty.params.schema import SCHEMA
from pypty.results.history import History
from pypty.results.result import Result
from pypty.results.snapshot import Snapshot


def write_plates(path: Path) -> None:
    """A weak random phase plate for every pattern."""
    phases = np.random.default_rng(4).normal(0, 0.1, (N_PATTERNS, SIDE, SIDE))
    with h5py.File(path, "w") as file:
        file["configs"] = np.exp(1j * phases)


# ------------------------------------------------------------------------------------------------- atomic files


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "co.npy"
    with atomic(path) as temporary:
        temporary.write_bytes(b"new")
        assert not path.exists()
        assert temporary.parent == path.parent, "a rename across file systems is not atomic"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, MemoryError])
def test_a_writer_that_fails_leaves_the_old_file(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "co.npy"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic(path) as temporary:
        temporary.write_bytes(b"half of the ne")
        raise error
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_an_output_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "co.npy"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match="co.npy.*No space left"), atomic(path) as temporary:
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="gone"):
        write_text(tmp_path / "gone" / "a.txt", "text")


def test_objects_are_never_pickled(tmp_path: Path) -> None:
    write_array(tmp_path / "a.npy", np.arange(3))
    with pytest.raises(ValueError, match="allow_pickle"):
        write_array(tmp_path / "a.npy", np.array([{}], dtype=object))
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.arange(3))


def test_folders_are_made_with_their_parents(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    assert (make_folder(tmp_path / "a" / "b")).is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be created"):
        make_folder(tmp_path / "file" / "b")


def test_leftovers_of_a_killed_run_are_removed_but_nothing_else(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    (tmp_path / f".co.npy.{process.pid}.tmp").touch()
    (tmp_path / f".params.yaml.{os.getpid()}.tmp").touch()  # of an earlier process of our number
    old = tmp_path / f".cp.npy.{os.getppid()}.tmp"  # that process runs, but has not touched it for days
    old.touch()
    os.utime(old, (1, 1))
    others = {"co.npy", "my.tmp", ".hidden", "notes.tmp.txt", ".mine.tmp", f".cg.npy.{os.getppid()}.tmp"}
    for name in others:
        (tmp_path / name).touch()
    below = tmp_path / "params"
    below.mkdir()
    (below / f".probe.npy.{process.pid}.tmp").touch()
    remove_leftovers(tmp_path, below, tmp_path / "missing")
    assert {path.name for path in tmp_path.iterdir()} == {*others, "params"}
    assert not list(below.iterdir())


@pytest.mark.parametrize("failing", ["co.npy", "cp.npy", "cg.npy", "params.yaml", "resume.h5", "loss.csv"])
def test_a_run_whose_disk_fails_leaves_files_that_load(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third replacement of one file fails: every file in the folder is old or new, and the error is ours."""
    pypty.run(small_params(output_folder=str(tmp_path), epoch_max=2))
    count = {"n": 0}
    original = os.replace

    def fails(source: Any, target: Any) -> None:
        if Path(target).name == failing:
            count["n"] += 1
            if count["n"] == (1 if failing in ("params.yaml", "loss.csv") else 3):
                raise OSError(28, "No space left on device")
        original(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OutputError, match=failing):
        pypty.run(small_params(output_folder=str(tmp_path), epoch_max=6, resume=True))
    assert_loads(tmp_path)
    assert not list(tmp_path.glob(".*.tmp"))


# -------------------------------------------------------------------------------------------------------- SIGKILL


def assert_loads(folder: Path) -> set[str]:
    """Every file that is there can be read and makes sense; returns their names."""
    names = {path.name for path in folder.iterdir()}
    shapes = {"co.npy": 4, "cp.npy": 3, "cg.npy": 2, "cd.npy": 1}
    for name in names & set(shapes):
        array = np.load(folder / name)
        assert array.ndim == shapes[name]
        assert np.isfinite(array).all()
    if "params.yaml" in names:
        assert pypty.load_preset(folder)["acc_voltage"] == 80.0
    if "loss.csv" in names:
        rows = read_loss_log(folder / "loss.csv")
        assert [int(row["epoch"]) for row in rows] == list(range(len(rows)))
        assert all(float(row["loss"]) > 0 and row["Total GiB"] for row in rows)
    if "resume.h5" in names:
        with h5py.File(folder / "resume.h5", "r") as file:
            assert file["variables/obj"][()].ndim == 4
            assert file.attrs["epoch"] >= 0
    return names


def start_run(folder: Path, tests: Path = Path(__file__).parent) -> subprocess.Popen:
    """A silent run in another process, of more epochs than anybody waits for."""
    code = f"""
    import sys
    sys.path.insert(0, {str(tests)!r})
    import pypty
    from problems import small_params
    pypty.run(small_params(output_folder={str(folder)!r}, epoch_max=100000, update_probe_pos="lambda x: x > 2",
                           save_checkpoints_every_epoch=2, min_step=0))
    """
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
@pytest.mark.parametrize("seed", range(4))
def test_a_kill_at_any_moment_leaves_a_folder_that_loads(seed: int, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    process = start_run(folder)
    try:
        deadline = time.monotonic() + 60
        while not (folder / "resume.h5").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(random.Random(seed).uniform(0, 0.2))
        assert process.poll() is None, f"the run ended: {process.communicate()[1]}"
    finally:
        process.kill()
        process.communicate()
    assert {"co.npy", "cp.npy", "cg.npy", "params.yaml", "loss.csv", "resume.h5"} <= assert_loads(folder)
    assert pypty.load_checkpoint(folder)["epoch_prev"] == len(read_loss_log(folder / "loss.csv"))
    with h5py.File(folder / "resume.h5", "r") as file:
        epoch = int(file.attrs["epoch"])
    result = pypty.run(small_params(output_folder=str(folder), epoch_max=epoch + 2, resume=True))
    assert len(result.epochs) == epoch + 2
    assert not list(folder.glob(".*.tmp"))


# -------------------------------------------------------------------------------------------- names of the files


@pytest.fixture
def done(tmp_path: Path) -> tuple[Path, Result]:
    """The folder and the result of a run of three epochs."""
    return tmp_path, pypty.run(small_params(output_folder=str(tmp_path)))


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_folder_of_a_run(done: tuple[Path, Result]) -> None:
    folder, result = done
    assert names(folder) == {
        *("co.npy", "cp.npy", "cg.npy", "params.yaml", LOSS_LOG, TEXT_LOG, "resume.h5", "history.jsonl"),
        *("verdict.h5", "params/positions.npy", "params/probe.npy"),
    }
    assert result.folder == folder
    assert np.array_equal(np.load(folder / "co.npy"), result.obj)
    assert np.array_equal(np.load(folder / "cp.npy"), result.probe)
    assert np.array_equal(np.load(folder / "cg.npy"), result.positions)
    assert result.obj.shape == (24, 24, 1, 1)
    assert result.probe.shape == (SIDE, SIDE, 1)
    assert result.positions.shape == (N_PATTERNS, 2)


def test_slice_distances_are_written_where_there_are_gaps(tmp_path: Path) -> None:
    result = pypty.run(two_slices(output_folder=str(tmp_path), update_slice_distances=True))
    assert np.array_equal(np.load(tmp_path / "cd.npy"), result.slice_distances)
    assert result.slice_distances[0] != 10.0


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert pypty.run(small_params()).folder is None
    assert names(tmp_path) == set()


@pytest.mark.parametrize("function", [pypty.evaluate, pypty.simulate, pypty.check, pypty.plan])
def test_only_run_writes(function: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    function(small_params(output_folder=str(tmp_path / "out"), probe=aperture_probe()))
    assert list(tmp_path.iterdir()) == []


def test_numbered_checkpoints_hold_the_refined_blocks(tmp_path: Path) -> None:
    result = pypty.run(
        two_slices(
            output_folder=str(tmp_path),
            epoch_max=7,
            save_checkpoints_every_epoch=3,
            update_probe="lambda x: x<3",
            update_probe_pos="lambda x: x>=3",
            update_slice_distances="lambda x: x==6",
        )
    )
    expected = {
        *("checkpoint_obj_epoch_0.npy", "checkpoint_probe_epoch_0.npy"),
        *("checkpoint_obj_epoch_3.npy", "checkpoint_positions_epoch_3.npy"),
        *("checkpoint_obj_epoch_6.npy", "checkpoint_positions_epoch_6.npy"),
        "checkpoint_slice_distances_epoch_6.npy",
    }
    assert {path.name for path in tmp_path.glob("checkpoint_*")} == expected
    assert np.array_equal(np.load(tmp_path / "checkpoint_obj_epoch_6.npy"), result.obj)
    assert np.array_equal(
        np.load(tmp_path / "checkpoint_slice_distances_epoch_6.npy"), result.slice_distances
    )
    assert not np.array_equal(np.load(tmp_path / "checkpoint_obj_epoch_3.npy"), result.obj)


def test_a_numbered_checkpoint_is_the_state_after_its_epoch(tmp_path: Path) -> None:
    pypty.run(small_params(output_folder=str(tmp_path), epoch_max=4, save_checkpoints_every_epoch=1))
    for epoch in range(4):
        until_here = pypty.run(small_params(epoch_max=epoch + 1))
        assert np.array_equal(np.load(tmp_path / f"checkpoint_obj_epoch_{epoch}.npy"), until_here.obj)


@pytest.mark.parametrize(("every", "written"), [(0, 2), (1, 6), (2, 4), (10, 3)])
def test_the_latest_state_is_refreshed_as_often_as_asked(
    every: int, written: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start, after epochs 0, ``every``, ... (four epochs are run), and at the end."""
    count: list[str] = []
    original = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (count.append(Path(b).name), original(a, b))[1])
    pypty.run(small_params(output_folder=str(tmp_path), epoch_max=4, save_inter_checkpoints=every))
    assert count.count("co.npy") == written
    assert count.count("resume.h5") == written


def test_an_old_block_does_not_stay_beside_a_new_reconstruction(tmp_path: Path) -> None:
    """cd.npy of a two-slice run must not be loaded with the object of a one-slice run."""
    pypty.run(two_slices(output_folder=str(tmp_path)))
    pypty.run(small_params(output_folder=str(tmp_path), overwrite=True))
    assert "slice_distances" not in pypty.load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["pypty.log", "co.npy", "resume.h5", "loss.csv", "params.yaml"])
def test_a_folder_in_the_place_of_a_file_is_a_clear_error(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(PyptyError, match=name):
        pypty.run(small_params(output_folder=str(tmp_path)))


def test_a_file_in_the_place_of_the_folder_of_arrays_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "params").touch()
    with pytest.raises(PyptyError, match="params"):
        pypty.run(small_params(output_folder=str(tmp_path)))


def test_an_interrupted_run_keeps_its_last_full_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Reconstruction._epoch

    def stop_at_3(self: Reconstruction, now: Any) -> Any:
        if self.state.epoch == 3:
            raise KeyboardInterrupt
        return original(self, now)

    monkeypatch.setattr(Reconstruction, "_epoch", stop_at_3)
    result = pypty.run(small_params(output_folder=str(tmp_path), epoch_max=9))
    assert "interrupted after 3 epochs" in result.stop_reason
    expected = pypty.run(small_params(epoch_max=3))
    assert np.array_equal(result.obj, expected.obj)
    assert np.array_equal(np.load(tmp_path / "co.npy"), expected.obj)
    assert len(read_loss_log(tmp_path / LOSS_LOG)) == 3


# -------------------------------------------------------------------------------------------------------- loss.csv

COLUMNS = [
    *("epoch", "time / s", "loss", "sse", "initial step", "matching step", "N linesearch iterations"),
    *("dir. derivative", "new dir. derivative", "Constraints contribution"),
    *("Free GiB", "Total GiB", "Warnings", "optimizer", "validation loss", "deviance", "free deviance"),
]


def test_the_columns_of_the_log_are_those_of_pypty(done: tuple[Path, Result]) -> None:
    with open(done[0] / LOSS_LOG, newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == COLUMNS
    assert len(rows) == 4
    assert all(len(row) == len(COLUMNS) for row in rows)


def test_a_row_holds_the_loss_before_the_update(done: tuple[Path, Result]) -> None:
    folder, result = done
    rows = read_loss_log(folder / LOSS_LOG)
    start = pypty.evaluate(small_params())
    assert float(rows[0]["loss"]) == start.loss
    assert float(rows[0]["sse"]) == start.sse
    assert [float(row["loss"]) for row in rows] == result.loss[:-1].tolist()
    assert [float(row["sse"]) for row in rows] == result.sse[:-1].tolist()
    assert result.epochs.tolist() == [0, 1, 2]
    after = pypty.evaluate(
        small_params(obj=result.obj, probe=result.probe, positions=result.positions, skip_preprocessing=True)
    )
    assert result.loss[-1] == pytest.approx(after.loss, rel=1e-12)


@pytest.mark.parametrize(
    "changes",
    [
        {"apply_gaussian_filter": [1.0, 1.0]},
        {"apply_gaussian_filter_amplitude": "[1, 1] if epoch == 2 else False"},
    ],
    ids=["phase", "amplitude"],
)
def test_the_last_loss_is_that_of_the_result(changes: dict[str, Any]) -> None:
    """One more entry than epochs, also where the last update was followed by a filter."""
    result = pypty.run(small_params(**changes))
    assert len(result.loss) == len(result.sse) == len(result.epochs) + 1
    found = {"obj": result.obj, "probe": result.probe, "positions": result.positions}
    expected = pypty.evaluate(small_params(**found, skip_preprocessing=True)).loss
    assert result.loss[-1] == pytest.approx(expected, rel=1e-12)


def test_the_other_columns_make_sense(done: tuple[Path, Result]) -> None:
    rows = read_loss_log(done[0] / LOSS_LOG)
    times = [float(row["time / s"]) for row in rows]
    assert times == sorted(times) and times[0] >= 0
    for row in rows:
        assert float(row["initial step"]) == 1.0
        assert float(row["matching step"]) > 0
        assert int(row["N linesearch iterations"]) >= 1
        assert float(row["dir. derivative"]) < 0
        assert abs(float(row["new dir. derivative"])) <= 0.9 * abs(float(row["dir. derivative"]))
        assert float(row["Constraints contribution"]) == 0
        assert float(row["Free GiB"]) == float(row["Total GiB"]) == 0
        assert row["Warnings"] == ""


def test_warnings_reach_the_log_and_the_result(tmp_path: Path) -> None:
    off = {"update_obj": False, "update_probe": False, "epoch_max": 1}
    result = pypty.run(small_params(output_folder=str(tmp_path), **off))
    assert "nothing is refined" in read_loss_log(tmp_path / LOSS_LOG)[0]["Warnings"]
    assert any("nothing is refined" in text for text in result.warnings)
    assert "nothing is refined" in (tmp_path / TEXT_LOG).read_text(encoding="utf-8")


def test_the_text_log_tells_the_plan_every_epoch_and_the_end(done: tuple[Path, Result]) -> None:
    text = (done[0] / TEXT_LOG).read_text(encoding="utf-8")
    for part in (
        "Memory plan",
        f"pypty {pypty.__version__}",
        "epoch 0 ",
        "epoch 2 ",
        "epoch_max = 3 was reached",
    ):
        assert part in text


# --------------------------------------------------------------------------------------------- params.yaml again


def test_the_settings_give_the_same_reconstruction_again(tmp_path: Path) -> None:
    params = small_params(
        output_folder=str(tmp_path / "one"),
        obj=smooth_object(seed=3),
        positions_correction=np.random.default_rng(0).uniform(-0.3, 0.3, (N_PATTERNS, 2)),
        detector_mask=np.tri(SIDE) + np.tri(SIDE).T,
        update_probe=lambda epoch: epoch >= 2,
        update_probe_pos="lambda x: x>=1",
        update_step_bfgs={"from_epoch": {0: 0.5, 2: 1.0}},
        hist_length=np.int64(3),
        damping_cutoff_multislice=np.float32(0.75),
        aberrations=(5.0, 0.0),
        force_dataset_dtype=np.float32,
        extra_space_on_side_px=2,
        epoch_max=4,
    )
    params["detector_mask"] = params["detector_mask"] / params["detector_mask"].max()
    first = pypty.run(params)
    again = pypty.load_preset(tmp_path / "one")
    again |= {"dataset": patterns(), "output_folder": str(tmp_path / "two")}
    second = pypty.run(again)
    for name in ("obj", "probe", "positions", "loss"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name


def test_every_parameter_is_in_the_settings_file(done: tuple[Path, Result]) -> None:
    assert list(pypty.load_preset(done[0])) == list(SCHEMA)


def test_arrays_and_functions_come_back_as_they_were(tmp_path: Path) -> None:
    params = small_params(
        output_folder=str(tmp_path),
        epoch_max=6,
        obj=smooth_object(),
        update_probe=lambda epoch: epoch >= 2,
        loss_weight=lambda epoch: "mean" if epoch < 3 else 0.5,
        hist_length="lambda x: 2 if x else 3",
        update_step_bfgs={"from_epoch": {0: 0.5, 2: 1.0}},
        sequence=np.arange(20),
        slice_distances=[10.0],
    )
    pypty.run(params)
    found = pypty.load_preset(tmp_path)
    assert np.array_equal(found["obj"], params["obj"]) and found["obj"].dtype == complex
    assert np.array_equal(found["probe"], params["probe"])
    assert np.array_equal(found["positions"], params["positions"])
    assert np.array_equal(found["sequence"], np.arange(20))
    assert found["slice_distances"] == [10.0]
    assert found["update_probe"] == {"from_epoch": {0: False, 2: True}, "until_epoch": 6}
    assert found["loss_weight"] == {"from_epoch": {0: "mean", 3: 0.5}, "until_epoch": 6}
    assert found["hist_length"] == "lambda x: 2 if x else 3"
    assert found["update_step_bfgs"] == {"from_epoch": {0: 0.5, 2: 1.0}}
    assert found["dataset"] is None
    assert pypty.check({**found, "dataset": patterns(), "overwrite": True})


def test_a_function_is_not_guessed_beyond_the_epochs_for_which_it_was_written_down(tmp_path: Path) -> None:
    """The run would have gone on otherwise: refinement of positions was to begin at epoch 3."""
    pypty.run(
        small_params(output_folder=str(tmp_path), epoch_max=2, update_probe_pos=lambda epoch: epoch >= 3)
    )
    found = {**pypty.load_preset(tmp_path), "dataset": patterns(), "epoch_max": 6, "resume": True}
    with pytest.raises(PyptyError, match="update_probe_pos.*only up to epoch 2"):
        pypty.run(found)
    assert pypty.check({**found, "update_probe_pos": "lambda x: x >= 3"})


def test_a_function_that_gives_arrays_cannot_be_stored_and_says_so(tmp_path: Path) -> None:
    pypty.run(small_params(output_folder=str(tmp_path), sequence=lambda epoch: np.arange(5 + epoch)))
    with pytest.raises(PyptyError, match="sequence.*pass the parameter again"):
        pypty.load_preset(tmp_path)


def test_the_dataset_is_kept_when_asked(tmp_path: Path) -> None:
    pypty.run(small_params(output_folder=str(tmp_path), strip_dataset_from_params=False))
    found = pypty.load_preset(tmp_path)
    assert np.array_equal(found["dataset"], patterns())
    assert pypty.check({**found, "resume": True})


def test_paths_in_the_settings_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", patterns())
    pypty.run(small_params(dataset=..., data_path="a.npy", output_folder="out"))
    found = pypty.load_preset("out")
    assert found["data_path"] == str((tmp_path / "a.npy").resolve())
    assert found["output_folder"] == str((tmp_path / "out").resolve())


def test_the_path_of_the_phase_plates_is_absolute_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_plates(tmp_path / "plates.h5")
    pypty.run(small_params(phase_plate_in_h5="plates.h5", output_folder="out", epoch_max=1))
    assert pypty.load_preset("out")["phase_plate_in_h5"] == str((tmp_path / "plates.h5").resolve())


ACCEPTED_VALUES: dict[str, tuple[str, Any, Any]] = {
    "path": ("path_json", Path("meta.json"), "meta.json"),
    "numpy text": ("sample_name", np.str_("MoS2"), "MoS2"),
    "nested dict": ("sample_name", {"nested": {"deep": (1, 2)}}, {"nested": {"deep": [1, 2]}}),
    "numpy number": ("defocus", np.float32(100.0), 100.0),
    "numpy numbers in a dict": ("defocus", {"a": np.float64(3.0), "b": np.int64(4)}, {"a": 3.0, "b": 4}),
    "numpy numbers in a list": ("comx", [np.float64(1.0), np.float64(2.0)], [1.0, 2.0]),
    "list of arrays": ("comx", [np.full(30, 1.0), np.full(30, 2.0)], [[1.0] * 30, [2.0] * 30]),
    "array": ("comy", np.arange(100.0), list(range(100))),
    "complex": ("fov_nm", 1 + 2j, "(1+2j)"),
    "unusual container": ("chemical_formula", frozenset({"S"}), "frozenset({'S'})"),
    "numpy numbers in a table": (
        "update_step_bfgs",
        {"from_epoch": {0: np.float64(0.5), 2: np.int64(1)}},
        {"from_epoch": {0: 0.5, 2: 1}},
    ),
    "arrays in a table": (
        "sequence",
        {"from_epoch": {0: np.arange(3), 2: np.arange(2)}},
        {"from_epoch": {0: [0, 1, 2], 2: [0, 1]}},
    ),
}


@pytest.mark.parametrize("name", ACCEPTED_VALUES)
def test_any_value_that_is_accepted_can_be_written_and_read(name: str, tmp_path: Path) -> None:
    key, value, expected = ACCEPTED_VALUES[name]
    pypty.run(small_params(**{"output_folder": str(tmp_path), key: value}))
    found = pypty.load_preset(tmp_path)[key]
    assert (found.tolist() if isinstance(found, np.ndarray) else found) == expected


def test_the_settings_of_every_effect_give_the_same_reconstruction_again(tmp_path: Path) -> None:
    """Nested pairs, arrays that may be words or numbers, and per-epoch arrays pass through the file."""
    write_plates(tmp_path / "plates.h5")
    params = every_block(
        output_folder=str(tmp_path / "one"),
        phase_plate_in_h5=str(tmp_path / "plates.h5"),
        scan_size=(5, 5),
        epoch_max=4,
        apply_gaussian_filter="[0.3, 0.3] if epoch == 1 else False",
        apply_gaussian_filter_amplitude=(0.1, 0.2, 0.2),
        do_charge_flip=lambda epoch: epoch == 2,
        fancy_sigma=((1.0, 0.5), None),
        window={"from_epoch": {0: [0.5, 0.7], 2: [0.6, 0.8]}},
        window_weight=0.1,
        probe_reg_constraint_weight="np.inf if epoch == 3 else 0",
        probe_constraint_mask=0.6,
        atv_weight=0.01,
        positions_parametrization="'affine' if epoch < 2 else 'free'",
        fast_axis_reg_weight_tilts=np.float32(0.5),
        smooth_rolloff=0.1,
    )
    first = pypty.run(params)
    again = pypty.load_preset(tmp_path / "one")
    again |= {"dataset": patterns(2), "output_folder": str(tmp_path / "two")}
    second = pypty.run(again)
    for name in (*BLOCKS, "loss"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name


# ------------------------------------------------------------------------------------------------- Result.save


def test_a_result_comes_back_as_it_was(tmp_path: Path) -> None:
    result = pypty.run(
        two_slices(
            output_folder=str(tmp_path / "out"),
            update_slice_distances=True,
            update_probe="lambda x: x>1",
            loss_weight=lambda epoch: 0.5,
            force_pad=True,
            sample_name="MoS2",
        )
    )
    path = result.save(tmp_path / "result.h5")
    assert path == tmp_path / "result.h5"
    found = Result.load(path)
    for name in ("obj", "probe", "positions", "slice_distances", "loss", "sse", "epochs", "pixel_size_A"):
        one, other = getattr(found, name), getattr(result, name)
        assert np.array_equal(one, other), name
        assert one.dtype == other.dtype, name
    assert found.stop_reason == result.stop_reason
    assert found.warnings == result.warnings != ()
    assert found.settings["acc_voltage"] == 80.0
    assert found.settings["sample_name"] == "MoS2"
    assert found.settings["update_probe"] == "lambda x: x>1"
    assert np.array_equal(found.settings["positions"], scan_positions())
    assert "dataset" not in found.settings
    assert np.array_equal(found.phase, result.phase)
    assert repr(found).split(", folder")[0].rstrip(")") == repr(result).split(", folder")[0].rstrip(")")


def test_a_result_of_every_block_comes_back(tmp_path: Path) -> None:
    result = pypty.run(every_block(epoch_max=1))
    found = Result.load(result.save(tmp_path / "all.h5"))
    for name in BLOCKS:
        one, other = getattr(found, name), getattr(result, name)
        assert other is not None and one.dtype == other.dtype, name
        assert np.array_equal(one, other), name
    plain = Result.load(pypty.run(small_params(epoch_max=1)).save(tmp_path / "plain.h5"))
    assert [name for name in BLOCKS if getattr(plain, name) is None] == [
        *(
            "tilts",
            "aberrations_array",
            "static_background",
            "beam_current",
            "detector_blur_std",
            "detector_gains",
        )
    ]


def test_decisions_come_back_with_a_result(tmp_path: Path) -> None:
    """Every step is too long: after two rejected updates the probe is frozen, and that is told everywhere."""
    too_far = {"update_step_bfgs": "1e6 if epoch < 3 else 1", "min_step": 1e5}
    result = pypty.run(small_params(**too_far, epoch_max=4, output_folder=str(tmp_path)))
    assert (
        len(result.decisions) == 1 and "epoch 2" in result.decisions[0] and "'probe'" in result.decisions[0]
    )
    assert Result.load(result.save(tmp_path / "a.h5")).decisions == result.decisions
    rows = read_loss_log(tmp_path / LOSS_LOG)
    assert ["frozen" in row["Warnings"] for row in rows] == [False, False, True, False]
    assert "'probe' is frozen until epoch 12" in (tmp_path / TEXT_LOG).read_text(encoding="utf-8")


def test_a_result_of_no_epochs_can_be_saved(tmp_path: Path) -> None:
    result = pypty.run(small_params(epoch_max=0))
    assert len(Result.load(result.save(tmp_path / "a.h5")).epochs) == 0
    assert "no epochs" in repr(result)


def test_a_result_is_replaced_in_one_step(tmp_path: Path) -> None:
    result = pypty.run(small_params())
    result.save(tmp_path / "a.h5")
    before = (tmp_path / "a.h5").read_bytes()
    bad = Result(**{**vars(result), "obj": np.array([{}], dtype=object)})
    with pytest.raises(Exception):  # noqa: B017 - whatever h5py says
        bad.save(tmp_path / "a.h5")
    assert (tmp_path / "a.h5").read_bytes() == before


def test_what_is_no_result_is_a_checkpoint_error(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("hello")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["obj"] = 1
    for name in ("text.h5", "other.h5", "gone.h5", "."):
        with pytest.raises(CheckpointError, match="not a saved result"):
            Result.load(tmp_path / name)
    with pytest.raises(OutputError, match="gone"):
        pypty.run(small_params()).save(tmp_path / "gone" / "a.h5")


# ------------------------------------------------------------------------------------------------ load_checkpoint


def test_a_checkpoint_is_ready_to_continue_from(done: tuple[Path, Result]) -> None:
    folder, result = done
    found = pypty.load_checkpoint(folder)
    assert set(found) >= {"obj", "probe", "positions", "skip_preprocessing", "epoch_prev"}
    assert set(found) <= set(SCHEMA)
    assert np.array_equal(found["obj"], result.obj)
    assert np.array_equal(found["probe"], result.probe)
    assert found["epoch_prev"] == 3
    assert found["skip_preprocessing"] is True
    loss = pypty.evaluate(small_params(**found)).loss
    assert loss == pytest.approx(result.loss[-1], rel=1e-12)


def test_a_folder_of_pypty_2_is_rescaled(tmp_path: Path) -> None:
    """PyPty 2.2 averages the intensities of the modes; here they add."""
    obj = np.repeat(smooth_object(), 3, axis=3)
    probe = np.repeat(aperture_probe(), 4, axis=2)
    np.save(tmp_path / "co.npy", obj)
    np.save(tmp_path / "cp.npy", probe)
    np.save(tmp_path / "cg.npy", scan_positions())
    (tmp_path / "params.pkl").write_bytes(pickle.dumps({"epoch_max": 3}))
    found = pypty.load_checkpoint(tmp_path)
    assert np.allclose(found["probe"], probe / np.sqrt(12), rtol=1e-15)
    assert np.array_equal(found["obj"], obj)
    assert np.array_equal(pypty.load_checkpoint(tmp_path, averaged_modes=False)["probe"], probe)
    patterns_here = pypty.simulate({**small_params(dataset=...), **found})
    one_mode = pypty.simulate(
        small_params(dataset=..., obj=smooth_object(), probe=aperture_probe(), skip_preprocessing=True)
    )
    assert np.allclose(patterns_here, one_mode, rtol=1e-10, atol=1e-10)


def test_a_folder_with_params_yaml_is_ours(tmp_path: Path) -> None:
    np.save(tmp_path / "co.npy", smooth_object())
    np.save(tmp_path / "cp.npy", np.repeat(aperture_probe(), 4, axis=2))
    (tmp_path / "params.pkl").touch()
    (tmp_path / "params.yaml").touch()
    assert np.array_equal(pypty.load_checkpoint(tmp_path)["probe"], np.repeat(aperture_probe(), 4, axis=2))
    averaged = pypty.load_checkpoint(tmp_path, averaged_modes=True)["probe"]
    assert np.allclose(averaged, np.repeat(aperture_probe(), 4, axis=2) / 2)


def test_a_two_dimensional_probe_is_one_mode() -> None:
    probe = aperture_probe()[..., 0]
    assert np.array_equal(from_averaged_modes(probe, smooth_object()), probe)


@pytest.mark.parametrize(
    "spoil", ["missing folder", "no object", "truncated", "pickled", "empty", "text", "log"]
)
def test_a_damaged_checkpoint_is_a_checkpoint_error(spoil: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    if spoil != "missing folder":
        pypty.run(small_params(output_folder=str(folder)))
    path = folder / "co.npy"
    if spoil == "no object":
        path.unlink()
    elif spoil == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif spoil == "pickled":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    elif spoil == "empty":
        path.write_bytes(b"")
    elif spoil == "text":
        path.write_text("hello")
    elif spoil == "log":
        (folder / LOSS_LOG).write_text("a,b\n1,2\n")
    with pytest.raises(CheckpointError, match="out"):
        pypty.load_checkpoint(folder)


CHECKPOINTS = {
    "obj": ("co.npy", "checkpoint_obj_epoch_{}.npy"),
    "probe": ("cp.npy", "checkpoint_probe_epoch_{}.npy"),
    "positions": ("cg.npy", "checkpoint_positions_epoch_{}.npy"),
    "tilts": ("ct.npy", "checkpoint_tilts_epoch_{}.npy"),
    "slice_distances": ("cd.npy", "checkpoint_slice_distances_epoch_{}.npy"),
    "aberrations_array": ("ca.npy", "checkpoint_aberrations_epoch_{}.npy"),
    "static_background": ("cs.npy", "checkpoint_stback_epoch_{}.npy"),
    "beam_current": ("cb.npy", "checkpoint_beam_current_epoch_{}.npy"),
    "detector_blur_std": ("cw.npy", "checkpoint_detector_blur_std_epoch_{}.npy"),
    "detector_gains": ("cq.npy", "checkpoint_detector_gains_epoch_{}.npy"),
}
"""PyPty's names, and ours for what PyPty does not have."""


def test_every_checkpoint_file_has_a_known_name() -> None:
    names = {name: (row.file, row.numbered(4)) for name, row in BLOCKS.items()}
    assert names == {name: (file, numbered.format(4)) for name, (file, numbered) in CHECKPOINTS.items()}


def test_every_block_is_written_and_read_again(tmp_path: Path) -> None:
    """Latest and numbered files of each, as the result has it; the loss of what is read is that of the end."""
    params = every_block(output_folder=str(tmp_path), save_checkpoints_every_epoch=2)
    result = pypty.run(params)
    found = pypty.load_checkpoint(tmp_path)
    for name, (latest, numbered) in CHECKPOINTS.items():
        assert np.array_equal(np.load(tmp_path / latest), getattr(result, name)), name
        assert np.array_equal(np.load(tmp_path / numbered.format(2)), getattr(result, name)), name
        assert not np.array_equal(np.load(tmp_path / numbered.format(0)), getattr(result, name)), name
        expected = abs(result.detector_blur_std[0]) if name == "detector_blur_std" else getattr(result, name)
        assert np.array_equal(found[name], expected), name
    assert pypty.evaluate({**params, **found}).loss == pytest.approx(result.loss[-1], rel=1e-12)


def test_blocks_of_an_earlier_run_do_not_stay(tmp_path: Path) -> None:
    """As with cd.npy above: ct.npy and the others belong to nothing any more."""
    pypty.run(every_block(output_folder=str(tmp_path), epoch_max=1))
    pypty.run(small_params(output_folder=str(tmp_path), epoch_max=1, overwrite=True))
    assert {path.name for path in tmp_path.glob("c?.npy")} == {"co.npy", "cp.npy", "cg.npy"}


def test_the_distance_after_a_single_slice_is_written_where_it_is_used(tmp_path: Path) -> None:
    """The fourth-order integrators propagate after the last slice, too: the distance is an unknown like any other."""
    params = small_params(propmethod="yoshida", update_slice_distances=True, output_folder=str(tmp_path))
    result = pypty.run(params)
    assert result.slice_distances[0] != 10.0
    assert np.array_equal(np.load(tmp_path / "cd.npy"), result.slice_distances)
    assert pypty.evaluate({**params, **pypty.load_checkpoint(tmp_path)}).loss == pytest.approx(
        result.loss[-1], rel=1e-12
    )


# ---------------------------------------------------------------------------------------------- the user's arrays


@pytest.mark.parametrize("function", [pypty.run, pypty.evaluate, pypty.simulate, pypty.check, pypty.plan])
@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("skip", [True, False])
def test_the_arrays_of_the_user_are_never_changed(
    function: Any, precision: str, skip: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    real, complex_ = (np.float64, np.complex128) if precision == "double" else (np.float32, np.complex64)
    mask = np.ones((SIDE, SIDE))
    mask[2, 2] = 0
    params = two_slices(
        dataset=patterns(2).astype(real),
        obj=smooth_object(2).astype(complex_),
        probe=aperture_probe().astype(complex_),
        positions=scan_positions() + 0.25,
        positions_correction=np.full((N_PATTERNS, 2), 0.1),
        slice_distances=np.array([10.0]),
        detector_mask=mask,
        aberrations=np.array([5.0]),
        mean_pattern=patterns(2).mean(axis=0),
        sequence=np.array([3, 1, 20, 8]),
        data_shift_vector=np.array([1, -1]),
        data_multiplier=2.0,
        flip_ky=True,
        update_probe_pos=True,
        update_slice_distances=True,
        default_dtype=precision,
        skip_preprocessing=skip,
    )
    before = {key: value.copy() for key, value in params.items() if isinstance(value, np.ndarray)}
    assert len(before) >= 9
    function(params)
    for key, value in before.items():
        assert np.array_equal(params[key], value), key
        assert params[key].dtype == value.dtype, key


@pytest.mark.parametrize("function", [pypty.run, pypty.evaluate, pypty.simulate, pypty.check])
def test_the_arrays_of_every_effect_are_never_changed(function: Any) -> None:
    """All of them are refined, smoothed, flipped and turned."""
    params = every_block(
        static_background=np.full((SIDE, SIDE), 0.02),
        probe=np.repeat(every_block()["probe"], 2, axis=2) * np.array([1, 0.1])[:, None],
        beam_ctf=np.zeros((SIDE, SIDE)),
        probe_constraint_mask=np.ones((SIDE, SIDE)),
        probe_reg_constraint_weight=0.1,
        scan_size=np.array([5, 5]),
        window=np.array([0.5, 0.7]),
        window_weight=0.1,
        keep_probe_states_orthogonal=True,
        do_charge_flip=True,
        apply_gaussian_filter=np.array([0.2, 0.2]),
        reset_positions=True,
        epoch_max=2,
        epoch_prev=0,
    )
    before = {key: value.copy() for key, value in params.items() if isinstance(value, np.ndarray)}
    assert len(before) >= 13
    function(params)
    for key, value in before.items():
        assert np.array_equal(params[key], value), key


def test_arrays_that_cannot_be_written_are_enough() -> None:
    params = small_params(obj=smooth_object(), detector_mask=np.ones((SIDE, SIDE)))
    for value in params.values():
        if isinstance(value, np.ndarray):
            value.setflags(write=False)
    assert len(pypty.run(params).epochs) == 3


def test_the_dict_of_the_user_is_not_changed() -> None:
    params = small_params()
    keys = dict(params)
    pypty.run(params)
    assert params.keys() == keys.keys()
    assert all(params[key] is keys[key] for key in keys)


def test_arrays_of_a_result_belong_to_the_user() -> None:
    """Changing a result does not reach into the parameters, nor into another result."""
    params = small_params(update_probe_pos=False, skip_preprocessing=True)
    one, other = pypty.run(params), pypty.run(params)
    one.positions[...] = 0
    one.probe[...] = 0
    one.slice_distances[...] = 0
    assert np.array_equal(params["positions"], scan_positions())
    assert np.array_equal(other.positions, scan_positions())
    assert other.probe.any()


def test_results_are_the_same_every_time() -> None:
    one, other = pypty.run(small_params(n_threads=2)), pypty.run(small_params(n_threads=2))
    assert one.obj.tobytes() == other.obj.tobytes()
    assert one.loss.tobytes() == other.loss.tobytes()


def test_any_text_in_a_warning_is_read_back(tmp_path: Path) -> None:
    text = 'one, two; three "four"\nfive'
    record = EpochRecord(
        epoch=0,
        time_s=0.1,
        loss=1.0,
        sse=2.0,
        first_step=1.0,
        step=1.0,
        evaluations=1,
        slope=-1.0,
        new_slope=-0.1,
        warnings=[text],
    )
    write_loss_log(tmp_path / LOSS_LOG, [record], 1)
    assert read_loss_log(tmp_path / LOSS_LOG)[0]["Warnings"] == text


def test_level_2_has_a_column_for_each_regulariser(tmp_path: Path) -> None:
    rows = [
        EpochRecord(
            epoch=k,
            time_s=0.1,
            loss=1.0,
            sse=2.0,
            first_step=1.0,
            step=1.0,
            evaluations=1,
            slope=-1.0,
            new_slope=-0.1,
            terms={"TV": 0.5 * k, "L1": 0.25},
        )
        for k in (0, 1)
    ]
    write_loss_log(tmp_path / "2.csv", rows, 2)
    write_loss_log(tmp_path / "1.csv", rows, 1)
    assert [(row["TV"], row["L1"]) for row in read_loss_log(tmp_path / "2.csv")] == [
        ("0.0", "0.25"),
        ("0.5", "0.25"),
    ]
    assert [row["Constraints contribution"] for row in read_loss_log(tmp_path / "1.csv")] == ["0.25", "0.75"]


def test_each_regulariser_of_a_run_has_a_column(tmp_path: Path) -> None:
    """Level 2 names the weights, level 1 adds them up; rows of epochs without one hold 0."""
    active = {"atv_weight": 0.1, "abs_norm_weight": "0.2 if epoch else 0"}
    tables = []
    for level in (1, 2):
        pypty.run(small_params(output_folder=str(tmp_path), save_loss_log=level, overwrite=True, **active))
        tables.append(read_loss_log(tmp_path / LOSS_LOG))
    for row, parts in zip(*tables, strict=True):
        assert "Constraints contribution" not in parts
        values = [float(parts[name]) for name in active]
        assert float(row["Constraints contribution"]) == pytest.approx(sum(values), rel=1e-12)
        assert float(row["loss"]) == float(parts["loss"]) > sum(values)
    assert float(tables[1][0]["abs_norm_weight"]) == 0 < float(tables[1][1]["abs_norm_weight"])
    assert float(tables[1][0]["atv_weight"]) < float(tables[1][1]["atv_weight"])


@pytest.mark.parametrize("level", [1, 2])
def test_regularisers_of_earlier_rows_survive(level: int, tmp_path: Path) -> None:
    """A run that goes on from the arrays, with ``epoch_prev``, keeps the rows that are there as they are."""
    params = small_params(output_folder=str(tmp_path), save_loss_log=level, atv_weight=0.1)
    pypty.run(params)
    before = read_loss_log(tmp_path / LOSS_LOG)
    pypty.run({**params, **pypty.load_checkpoint(tmp_path), "epoch_max": 5})
    column = "atv_weight" if level == 2 else "Constraints contribution"
    values = [float(row[column]) for row in read_loss_log(tmp_path / LOSS_LOG)]
    assert values[:3] == [float(row[column]) for row in before]
    assert len(values) == 5 and min(values[1:]) > 1


@pytest.mark.parametrize("error", [MemoryError("full"), ReconstructionError("the loss is nan")])
def test_a_failing_run_keeps_its_finished_epochs(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even when checkpoints are written only at the end; and running out of memory is our error."""
    original = Reconstruction._observe

    def fails(self: Reconstruction, problem: Problem, record: EpochRecord) -> None:
        if self.state.epoch == 3:
            raise error
        original(self, problem, record)

    params = small_params(output_folder=str(tmp_path), epoch_max=6, save_inter_checkpoints=0)
    with monkeypatch.context() as patch:
        patch.setattr(Reconstruction, "_observe", fails)
        with pytest.raises(ResourceError if isinstance(error, MemoryError) else ReconstructionError):
            pypty.run(params)
    resumed = pypty.run({**params, "resume": True})
    assert resumed.epochs.tolist() == list(range(6))
    np.testing.assert_array_equal(resumed.obj, pypty.run({**params, "output_folder": ""}).obj)


def test_the_reporter_writes_lines_at_its_level_and_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    log = logging.getLogger("pypty")
    before = (log.level, list(log.handlers))
    lbfgs = epoch_record(
        4, optimizer="lbfgs", step=0.25, evaluations=3, validation=None, blocks=("obj", "probe")
    )
    adam = epoch_record(
        5, batches=7, validation=2.5, terms={"tv": 0.5}, loss=2.0, deviance=1.25, free_deviance=0.75
    )
    with Reporter(4, 0, 9, tmp_path / "pypty.log") as reporter:
        reporter.epoch(lbfgs, 1.5)
        reporter.epoch(adam, 1.25)
        assert reporter.bar.disable, "a bar is shown at level 1 alone"
    assert (log.level, list(log.handlers)) == before
    text = (tmp_path / "pypty.log").read_text(encoding="utf-8")
    assert (
        "epoch 4  deviance unknown  loss 2  sse 1  step 0.25  evaluations 3  4.0 s  refined: obj, probe"
        in text
    )
    assert "epoch 5  deviance 1.25  loss 2" in text and "free pixels 0.75" in text
    assert "adam  batches 7  held out 2.5 per pattern" in text
    assert "tv: 0.5 (25.00 % of the loss)" in text
    with (
        pytest.raises(OutputError, match="cannot be written"),
        Reporter(2, 0, 1, tmp_path / "no" / "pypty.log"),
    ):
        pass


def test_a_snapshot_names_files_by_finished_epochs() -> None:
    obj, probe = np.ones((4, 5, 1, 3)), np.ones((2, 2, 1))
    plain = Snapshot(
        epochs_done=12,
        arrays={"obj": obj, "probe": probe},
        start_positions=np.zeros((1, 2)),
        start_probe=probe,
        history=History.of(()),
        settings={},
        pixel_size_A=np.ones(2),
        wavelength_A=0.04,
        used=np.arange(3),
    )
    assert plain.name("model", ".h5") == "model_iter0012.h5"
    np.testing.assert_allclose(plain.mode_weights, [1 / 3] * 3)
    assert plain.obj is obj and plain.probe is probe
    weighted = dataclasses.replace(plain, settings={"obj_mode_weights": [1.0, 1.0, 2.0]})
    np.testing.assert_allclose(weighted.mode_weights, [0.25, 0.25, 0.5])


@pytest.mark.parametrize(("long_s", "said"), [(0.0, True), (60.0, False)])
def test_a_long_run_without_a_folder_says_that_nothing_is_saved(
    long_s: float,
    said: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After its first epoch, which tells how long it will take."""
    monkeypatch.setattr("pypty.engine.record.progress._LONG_S", long_s)
    pypty.run(small_params(epoch_max=3))
    texts = [text for text in caplog.messages if "output_folder is not given: nothing is saved" in text]
    assert len(texts) == said
    pypty.run(small_params(epoch_max=3, output_folder=str(tmp_path)))
    assert len([text for text in caplog.messages if "nothing is saved" in text]) == said
