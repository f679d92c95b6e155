"""Going on with a reconstruction: exactly from resume.h5, or from the arrays with ``epoch_prev``."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from problems import N_PATTERNS, counts, patterns, scan_positions, small_params, smooth_object, two_slices

import pypty
from pypty.engine.folder import LOSS_LOG
from pypty.engine.loop import Reconstruction
from pypty.engine.resume import NAME
from pypty.errors import CheckpointError, ParameterError
from pypty.iterative import resume
from pypty.objective.objective import Objective
from pypty.output.loss_log import read_loss_log
from pypty.result import Result

EXACT = ("obj", "probe", "positions", "slice_distances", "loss", "sse", "epochs")


def assert_identical(one: Result, other: Result) -> None:
    for name in EXACT:
        a, b = getattr(one, name), getattr(other, name)
        assert a.shape == b.shape and a.dtype == b.dtype, name
        assert a.tobytes() == b.tobytes(), f"{name} differs by {np.abs(a - b).max()}"


def in_parts(params: dict[str, Any], folder: Path, *stops: int) -> Result:
    """Run until each of the epochs ``stops`` in turn, every time from resume.h5."""
    result: Result | None = None
    for stop in stops:
        changes = {"output_folder": str(folder), "epoch_max": stop, "resume": result is not None}
        result = pypty.run({**params, **changes})
    assert result is not None
    return result


OFF_GRID = scan_positions() + np.random.default_rng(1).uniform(-0.4, 0.4, (N_PATTERNS, 2))
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "positions off the grid": {"positions": OFF_GRID},
    "positions refined all the time": {"update_probe_pos": True},
    "positions refined from epoch 5": {"update_probe_pos": "lambda x: x >= 5"},
    "positions refined from epoch 10": {"update_probe_pos": "lambda x: x >= 10"},
    "positions refined from epoch 12": {"update_probe_pos": "lambda x: x >= 12"},
    "positions refined from epoch 12 by a function": {"update_probe_pos": lambda epoch: epoch >= 12},
    "positions refined from epoch 12, off the grid": {
        "update_probe_pos": "lambda x: x >= 12",
        "positions": OFF_GRID,
    },
    "positions refined until epoch 8": {"update_probe_pos": "lambda x: x < 8"},
    "probe switched on and off": {"update_probe": "lambda x: x % 4 < 2"},
    "other patterns in every epoch": {"sequence": lambda epoch: np.arange(epoch % 3, N_PATTERNS, 3)},
    "patterns changing at the seam": {"sequence": "range(25) if epoch < 10 else range(20)"},
    "history reset at the seam": {"reset_history_flag": "lambda x: x == 10"},
    "no history": {"hist_length": 0},
    "endless history": {"hist_length": np.inf},
    "short history": {"hist_length": 2},
    "history growing": {"hist_length": "lambda x: 1 + x"},
    "weight changing at the seam": {"loss_weight": "1 if epoch < 10 else 0.5"},
    "one thread per core": {"n_threads": 2, "compute_batch": 4},
    "poisson noise": {"algorithm": "ml", "probe": None},
    "without preconditioner": {"preconditioner": False},
    "object modes": {"obj": smooth_object() * np.exp(1j * np.array([0.0, 0.1]))},
    "object filtered in its windows": {"lazy_clean": True},
    "integer data": {"dataset": counts("uint8"), "data_multiplier": 0.5},
    "padded data": {"data_pad": 3},
    "mask": {"detector_mask": np.tri(16)},
}


KINDS: dict[str, tuple[Callable[..., dict[str, Any]], str]] = {
    "one slice, double": (small_params, "double"),
    "two slices, single": (two_slices, "single"),
    "one slice, single": (small_params, "single"),
    "two slices, double": (two_slices, "double"),
}
MATRIX = [
    (case, kind)
    for case in CASES
    for kind in (KINDS if case.startswith(("plain", "positions")) else list(KINDS)[:2])
]


@pytest.mark.parametrize(("case", "kind"), MATRIX, ids=[", ".join(pair) for pair in MATRIX])
def test_ten_and_ten_epochs_are_twenty(case: str, kind: str, tmp_path: Path) -> None:
    problem, precision = KINDS[kind]
    changes = dict(CASES[case])
    if problem is two_slices:
        changes = {"update_slice_distances": "lambda x: x >= 7", **changes}
        if "obj" in changes:
            changes["obj"] = changes["obj"].repeat(2, axis=2) ** 0.5
    params = problem(default_dtype=precision, **changes)
    once = pypty.run({**params, "epoch_max": 20})
    assert len(once.epochs) == 20
    assert_identical(in_parts(params, tmp_path, 10, 20), once)


@pytest.mark.parametrize("stops", [(1, 2, 3, 4, 5, 6), (0, 6), (6, 6), (5, 6)], ids=str)
def test_the_number_of_parts_makes_no_difference(stops: tuple[int, ...], tmp_path: Path) -> None:
    params = two_slices(update_probe_pos="lambda x: x >= 3", update_slice_distances=True, positions=OFF_GRID)
    assert_identical(in_parts(params, tmp_path, *stops), pypty.run({**params, "epoch_max": 6}))


@pytest.mark.parametrize("every", [0, 3, 100])
def test_states_that_are_written_seldom_are_exact_too(every: int, tmp_path: Path) -> None:
    params = small_params(save_inter_checkpoints=every)
    assert_identical(in_parts(params, tmp_path, 4, 9), pypty.run({**params, "epoch_max": 9}))


def test_the_files_are_those_of_one_run(tmp_path: Path) -> None:
    params = two_slices(update_slice_distances=True)
    in_parts(params, tmp_path / "parts", 5, 10)
    pypty.run({**params, "epoch_max": 10, "output_folder": str(tmp_path / "once")})
    for name in ("co.npy", "cp.npy", "cg.npy", "cd.npy"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "once" / name).read_bytes(), name
    one, other = (read_loss_log(tmp_path / name / LOSS_LOG) for name in ("parts", "once"))
    assert len(one) == len(other) == 10
    for row, expected in zip(one, other, strict=True):
        assert {**row, "time / s": ""} == {**expected, "time / s": ""}
    times = [float(row["time / s"]) for row in one]
    assert times == sorted(times), "time goes on"


def test_a_folder_can_be_resumed_by_its_path(tmp_path: Path) -> None:
    """As ``pypty run FOLDER --resume`` does, with the data from a file and functions of the epoch as tables."""
    np.save(tmp_path / "patterns.npy", patterns())
    params = small_params(
        dataset=...,
        data_path=str(tmp_path / "patterns.npy"),
        update_probe=lambda epoch: epoch % 2 == 0,
        update_probe_pos="lambda x: x >= 2",
        output_folder=str(tmp_path / "out"),
        epoch_max=6,
    )
    pypty.run({**params, "epoch_max": 4})
    found = resume(tmp_path / "out", epoch_max=6, update_probe=lambda epoch: epoch % 2 == 0)
    assert_identical(found, pypty.run({**params, "output_folder": str(tmp_path / "once")}))


def test_a_resumed_folder_is_not_announced_as_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    in_parts(small_params(), tmp_path, 2, 4)
    assert not [text for text in caplog.messages if "replaced" in text]


def test_resuming_with_fewer_epochs_does_nothing(tmp_path: Path) -> None:
    before = in_parts(small_params(), tmp_path, 5)
    after = in_parts(small_params(), tmp_path, 5, 3)
    assert_identical(before, after)
    assert np.array_equal(np.load(tmp_path / "co.npy"), before.obj)


@pytest.mark.parametrize("moment", ["while evaluating", "after the step"])
def test_an_interrupted_epoch_is_done_again(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in epoch 4, in which refinement of positions begins."""
    params = small_params(
        output_folder=str(tmp_path / "out"),
        epoch_max=8,
        update_probe_pos="lambda x: x >= 4",
        positions=OFF_GRID,
    )
    if moment == "while evaluating":
        interrupt(monkeypatch, Objective, "_share", lambda run: "positions" in run.args[1])
    else:
        interrupt(monkeypatch, Reconstruction, "_log_search", lambda run: "positions" in run.args[0].gradient)
    result = pypty.run(params)
    assert "interrupted after 4 epochs" in result.stop_reason
    assert len(result.epochs) == 4
    monkeypatch.undo()
    once = pypty.run({**params, "output_folder": ""})
    assert_identical(pypty.run({**params, "resume": True}), once)


def interrupt(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, when: Callable[[SimpleNamespace], bool]
) -> None:
    """Raise KeyboardInterrupt instead of calling a method, when its arguments fulfil a condition."""
    original = getattr(owner, name)

    def method(self: Any, *args: Any) -> Any:
        if when(SimpleNamespace(args=args)):
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(owner, name, method)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
@pytest.mark.parametrize("rows", [1, 4])
def test_a_killed_run_goes_on_exactly(rows: int, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    code = f"""
    import sys
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    import pypty
    from problems import small_params
    pypty.run(small_params(output_folder={str(folder)!r}, epoch_max=100000, update_probe_pos="lambda x: x >= 3"))
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if (folder / LOSS_LOG).exists() and len(read_loss_log(folder / LOSS_LOG)) >= rows:
                break
            time.sleep(0.002)
        assert process.poll() is None, f"the run ended: {process.communicate()[1]}"
    finally:
        process.kill()
        process.communicate()
    with h5py.File(folder / NAME, "r") as file:
        epochs = int(file.attrs["epoch"]) + 3
    params = small_params(epoch_max=epochs, update_probe_pos="lambda x: x >= 3")
    assert_identical(pypty.run({**params, "output_folder": str(folder), "resume": True}), pypty.run(params))


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a run of three epochs."""
    pypty.run(small_params(output_folder=str(tmp_path)))
    assert (tmp_path / NAME).is_file()
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


OTHER = {
    "one count more": ({"dataset": patterns() + np.eye(16)}, "other data"),
    "another type": ({"dataset": patterns().astype("float32")}, "other data"),
    "fewer patterns": ({"dataset": patterns()[:20], "positions": scan_positions()[:20]}, "other data"),
    "another precision": ({"default_dtype": "single"}, "double precision"),
    "another window": ({"data_pad": 2}, "window"),
    "binned": ({"data_bin": 2, "probe": None}, "window"),
}


@pytest.mark.parametrize("name", OTHER)
def test_a_state_that_does_not_fit_is_refused(name: str, folder: Path) -> None:
    changes, message = OTHER[name]
    before = contents(folder)
    with pytest.raises(CheckpointError, match=message):
        pypty.run(small_params(**{"output_folder": str(folder), "resume": True, "epoch_max": 5, **changes}))
    assert contents(folder) == before


# Each of these makes another loss of the same variables, with the same window and the same raw data.
NEW_PROBLEM: dict[str, dict[str, Any]] = {
    "algorithm": {"algorithm": "ml"},
    "data_multiplier": {"data_multiplier": 2.0},
    "flip_ky": {"flip_ky": True},
    "data_shift_vector": {"data_shift_vector": (1, 0)},
    "detector_mask": {"detector_mask": np.tri(16)},
    "acc_voltage": {"acc_voltage": 300.0},
    "pixel_size_x_A": {"pixel_size_x_A": 0.3},
    "damping_cutoff_multislice": {"damping_cutoff_multislice": 0.4},
    "lazy_clean": {"lazy_clean": True},
}


@pytest.mark.parametrize("name", NEW_PROBLEM)
def test_a_changed_loss_is_noticed(name: str, tmp_path: Path) -> None:
    """Either it is refused, or the first loss after it is that of the new parameters; never a mixture."""
    done = pypty.run(two_slices(output_folder=str(tmp_path), epoch_max=3))
    changed = two_slices(**NEW_PROBLEM[name], output_folder=str(tmp_path), epoch_max=4, resume=True)
    try:
        found = pypty.run(changed).loss[3]
    except (CheckpointError, ParameterError) as error:
        assert name in str(error)
        return
    state = {"obj": done.obj, "probe": done.probe, "positions": done.positions, "epoch_prev": 3}
    state["slice_distances"] = done.slice_distances
    expected = pypty.evaluate({**changed, **state, "resume": False, "skip_preprocessing": True})
    assert found == pytest.approx(expected.loss, rel=1e-9)


def test_resume_needs_a_state(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"no resume\.h5"):
        pypty.run(small_params(output_folder=str(tmp_path), resume=True))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", range(0, 100, 7))
def test_a_truncated_state_is_refused(cut: int, folder: Path) -> None:
    content = (folder / NAME).read_bytes()
    (folder / NAME).write_bytes(content[: len(content) * cut // 100])
    before = contents(folder)
    with pytest.raises(CheckpointError, match="load_checkpoint"):
        pypty.run(small_params(output_folder=str(folder), resume=True, epoch_max=5))
    assert contents(folder) == before


# ------------------------------------------------------------------------------------------- PyPty's way: arrays


def test_arrays_and_epoch_prev_continue_with_appended_rows(folder: Path) -> None:
    first = read_loss_log(folder / LOSS_LOG)
    params = small_params(output_folder=str(folder), epoch_max=6)
    params.update(pypty.load_checkpoint(folder))
    assert params["epoch_prev"] == 3
    result = pypty.run(params)
    rows = read_loss_log(folder / LOSS_LOG)
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2, 3, 4, 5]
    for row, before in zip(rows, first, strict=False):
        assert {key: float(value or 0) for key, value in row.items()} == {
            key: float(value or 0) for key, value in before.items()
        }
    assert result.epochs.tolist() == [3, 4, 5]
    losses = [float(row["loss"]) for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert pypty.load_checkpoint(folder)["epoch_prev"] == 6


START: dict[str, dict[str, Any]] = {
    "plain": {},
    "extra space": {"extra_space_on_side_px": 3},
    "positions off the grid": {"positions": OFF_GRID, "update_probe_pos": True},
    "positions rounded": {"positions": OFF_GRID, "allow_subPixel_shift": False},
    "positions_correction": {"positions_correction": OFF_GRID - scan_positions()},
    "positions shifted": {"positions": scan_positions() - 7.0},
    "defocused probe": {"extra_probe_defocus": -5.0},
    "aberrated probe": {"aberrations": [10.0]},
    "probe from the pattern": {"probe": None},
    "thick first slice": {"edge_slice_thickness": 15.0},
    "padded data": {"data_pad": 2},
    "multiplied data": {"data_multiplier": 2.0},
}


@pytest.mark.parametrize("name", START)
def test_the_loss_goes_on_where_it_was(name: str, tmp_path: Path) -> None:
    """The first loss of the second run is the last of the first: what made the start is not applied twice."""
    params = two_slices(output_folder=str(tmp_path), update_slice_distances=True, epoch_max=5, **START[name])
    first = pypty.run(params)
    second = pypty.run({**params, **pypty.load_checkpoint(tmp_path), "epoch_max": 7})
    if (
        name == "positions_correction"
    ):  # more than half a pixel: the windows are cut anew around the positions
        assert second.loss[0] == pytest.approx(first.loss[-1], rel=0.05)
        return
    assert second.loss[0] == pytest.approx(first.loss[-1], rel=1e-9)
    growth = np.array(second.obj.shape) - first.obj.shape
    assert (growth >= 0).all() and (growth <= [1, 1, 0, 0]).all(), "rounding may ask for one more pixel"


def test_schedules_see_the_absolute_epoch(tmp_path: Path) -> None:
    seen: list[int] = []

    def update_probe(epoch: int) -> bool:
        seen.append(epoch)
        return epoch >= 4

    pypty.run(small_params(output_folder=str(tmp_path)))
    params = small_params(output_folder=str(tmp_path), epoch_max=6, update_probe=update_probe)
    result = pypty.run({**params, **pypty.load_checkpoint(tmp_path)})
    assert min(seen) == 3
    assert result.epochs.tolist() == [3, 4, 5]


def test_rows_of_later_epochs_are_replaced(folder: Path) -> None:
    """Going back to epoch 1 drops the rows of the epochs that are done again."""
    params = small_params(
        output_folder=str(folder), epoch_max=4, epoch_prev=1, obj=np.load(folder / "co.npy")
    )
    pypty.run(params)
    assert [int(row["epoch"]) for row in read_loss_log(folder / LOSS_LOG)] == [0, 1, 2, 3]


def test_a_row_with_a_warning_survives(tmp_path: Path) -> None:
    off = {"update_obj": "lambda x: x > 0", "update_probe": False, "epoch_max": 2}
    pypty.run(small_params(output_folder=str(tmp_path), **off))
    pypty.run(
        {**small_params(output_folder=str(tmp_path)), **pypty.load_checkpoint(tmp_path), "epoch_max": 3}
    )
    rows = read_loss_log(tmp_path / LOSS_LOG)
    assert "nothing is refined" in rows[0]["Warnings"]
    assert len(rows) == 3


def test_going_on_without_the_log_of_the_first_run(folder: Path) -> None:
    (folder / LOSS_LOG).unlink()
    params = {**small_params(output_folder=str(folder)), **pypty.load_checkpoint(folder)}
    assert params["epoch_prev"] == 0
    pypty.run({**params, "epoch_prev": 3, "epoch_max": 5})
    assert [int(row["epoch"]) for row in read_loss_log(folder / LOSS_LOG)] == [3, 4]
