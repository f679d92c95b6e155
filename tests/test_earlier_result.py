"""A result that is in the output folder already: never lost, continued or replaced only when asked."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from problems import patterns, small_params, write_preset
from resumed_runs import assert_identical

import pypty
from pypty.cli import main
from pypty.engine.record import earlier
from pypty.engine.record.earlier import ASIDE, Aside, recover
from pypty.errors import OutputError, ReconstructionError
from pypty.importers import load_result
from pypty.output.checkpoints import RESUME_FILE, epochs_in, held_result


def params(folder: Path, **changes: object) -> dict[str, object]:
    return small_params(output_folder=str(folder), **changes)


def content(folder: Path) -> dict[str, bytes]:
    """All files but the log of all runs."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "pypty.log"
    }


@pytest.fixture(scope="module")
def three_epochs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result of three epochs, with numbered files and a file of the user, to be copied."""
    made = tmp_path_factory.mktemp("three_epochs")
    written = {"save_checkpoints_every_epoch": 3, "save_iters": 3, "save_result": ["model"]}
    pypty.run(params(made, **written, selected_figs=[]))
    (made / "notes.txt").write_text("mine")
    return made


@pytest.fixture
def folder(three_epochs: Path, tmp_path: Path) -> Path:
    return shutil.copytree(three_epochs, tmp_path, dirs_exist_ok=True)


def test_the_same_command_again_is_refused_and_touches_nothing(folder: Path) -> None:
    before = content(folder)
    with pytest.raises(
        OutputError, match=r"holds a result of 3 epochs; continue it with resume=True .* overwrite=True"
    ):
        pypty.run(params(folder))
    assert content(folder) == before
    report = pypty.check(params(folder))
    assert not report and "holds a result of 3 epochs" in str(report)
    assert pypty.check(params(folder, overwrite=True)) and pypty.check(params(folder, resume=True))


def test_a_result_of_pypty_2_is_a_result(tmp_path: Path) -> None:
    np.save(tmp_path / "co.npy", np.ones((24, 24, 1, 1), complex))
    (tmp_path / "loss.csv").write_text("epoch,loss\n0,3\n1,2\n")
    assert epochs_in(tmp_path) == 2
    with pytest.raises(OutputError, match="a result of 2 epochs"):
        pypty.run(params(tmp_path))


def test_the_start_of_a_run_without_an_epoch_is_no_result(tmp_path: Path) -> None:
    assert epochs_in(tmp_path) is None
    pypty.run(params(tmp_path, epoch_max=0))
    assert (tmp_path / "co.npy").exists() and epochs_in(tmp_path) is None and held_result(tmp_path) is None
    assert len(pypty.run(params(tmp_path)).epochs) == 3


def test_overwrite_replaces_everything_that_runs_write_and_nothing_else(folder: Path) -> None:
    assert (folder / "model_iter0003.h5").exists()
    result = pypty.run(params(folder, overwrite=True, epoch_max=2, seed=5))
    assert len(result.epochs) == 2 and epochs_in(folder) == 2
    names = set(content(folder))
    assert "notes.txt" in names
    assert not any("checkpoint_" in name or "_iter" in name or ASIDE in name for name in names)


def test_the_old_result_stays_until_the_first_full_epoch(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """During the first epoch it lies in a folder of its own; after it, it is gone, whatever is saved when."""
    seen: list[list[str]] = []
    original = pypty.engine.epochs.loop.Reconstruction._epoch

    def epoch(self: object, now: object) -> object:
        seen.append([path.name for path in folder.glob(f"{ASIDE}*/{RESUME_FILE}")])
        return original(self, now)  # type: ignore[arg-type]

    monkeypatch.setattr(pypty.engine.epochs.loop.Reconstruction, "_epoch", epoch)
    pypty.run(params(folder, overwrite=True, epoch_max=2, save_inter_checkpoints=0))
    assert seen == [[RESUME_FILE], []]


def test_a_run_that_fails_before_its_first_epoch_puts_the_old_result_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(folder)

    def fail(self: object, now: object) -> None:
        raise ReconstructionError("the loss is nan")

    monkeypatch.setattr(pypty.engine.epochs.loop.Reconstruction, "_epoch", fail)
    with pytest.raises(ReconstructionError):
        pypty.run(params(folder, overwrite=True))
    assert content(folder) == before


class Killed(BaseException):
    """Stands for SIGKILL: nothing more is done by the run that it ends."""


@pytest.mark.parametrize("step", range(30))
def test_a_kill_at_any_rename_of_a_replacement_loses_nothing(
    step: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the new run has an epoch the old result is complete again after :func:`recover`."""
    before = content(folder)
    renames = iter(range(1000))
    original = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if next(renames) == step:
            raise Killed
        return original(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    try:
        aside = Aside(folder)
        np.save(folder / "co.npy", np.zeros(1))  # the new run begins to write
        with h5py.File(folder / RESUME_FILE, "w") as file:
            file.attrs["epoch"] = 0
        aside.put_back()
    except Killed:
        monkeypatch.undo()
        recover(folder)
    assert content(folder) == before


def test_a_replacement_that_was_killed_after_its_first_epoch_is_finished(folder: Path) -> None:
    aside = Aside(folder)
    shutil.copytree(aside.path, folder, dirs_exist_ok=True)  # a new result, of three epochs, too
    recover(folder)
    assert not aside.path.exists() and epochs_in(folder) == 3


def test_files_that_cannot_be_moved_stay_where_they_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(folder)
    original, count = Path.rename, iter(range(1000))

    def rename(self: Path, target: Path) -> Path:
        if next(count) == 3:
            raise PermissionError(13, "Permission denied")
        return original(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OutputError, match="cannot be moved aside: Permission denied"):
        Aside(folder)
    assert content(folder) == before


def test_resume_auto_begins_and_then_goes_on(tmp_path: Path) -> None:
    """As a queue does that starts the same job again."""
    whole = pypty.run(small_params(epoch_max=5))
    first = pypty.run(params(tmp_path, resume="auto", epoch_max=2))
    assert len(first.epochs) == 2
    assert_identical(pypty.run(params(tmp_path, resume="auto", epoch_max=5)), whole)
    assert_identical(pypty.run(params(tmp_path, resume="auto", epoch_max=5)), whole)  # it was finished


def test_resume_auto_does_not_replace_a_result_without_a_state(folder: Path) -> None:
    (folder / RESUME_FILE).unlink()
    with pytest.raises(OutputError, match="holds a result of 3 epochs"):
        pypty.run(params(folder, resume="auto"))


def test_resume_auto_finds_the_folder_named_after_the_settings(tmp_path: Path) -> None:
    named = {"recon_dir_affixes": ["pmode"], "prefix_time": False, "prefix": "run", "resume": "auto"}
    first = pypty.run(params(tmp_path, **named, epoch_max=2))
    again = pypty.run(params(tmp_path, **named, epoch_max=3))
    assert again.folder == first.folder != tmp_path and len(again.epochs) == 3


def test_the_command_line_continues_and_replaces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(write_preset(tmp_path, epoch_max=1))]) == 0
    demo = [
        "demo",
        "--output",
        "out",
        "--set",
        "epoch_max=1",
        "--set",
        "warmup_epochs=0",
        "--set",
        "data_pad=0",
    ]
    assert main(demo) == 1
    assert "holds a result of 1 epochs" in capsys.readouterr().err
    assert main([*demo, "--overwrite"]) == 0
    assert main(["run", "out", "--resume", "--set", "epoch_max=2"]) == 0
    assert main(["run", "out", "--set", "epoch_max=2"]) == 1
    assert epochs_in(tmp_path / "out") == 2
    assert main(["run", "out", "--overwrite", "--set", "epoch_max=1"]) == 0
    assert epochs_in(tmp_path / "out") == 1


def test_what_is_moved_are_the_files_that_runs_write(folder: Path) -> None:
    left = {path.name for path in folder.iterdir()} - {str(path) for path in earlier._written(folder)}
    assert left == {"notes.txt", "pypty.log", "params"}
    assert {str(path) for path in earlier._written(folder)} >= {
        "params/positions.npy",
        "co.npy",
        "history.jsonl",
    }


def test_arrays_of_a_shorter_run_do_not_replace_a_longer_result(folder: Path, tmp_path: Path) -> None:
    before = content(folder)
    other = pypty.run(small_params(epoch_max=2))
    with pytest.raises(OutputError, match="holds a result of 3 epochs"):
        pypty.run({**params(folder, epoch_max=6), **other.params()})
    assert content(folder) == before
    same = pypty.run(small_params(epoch_max=3))
    continued = pypty.run({**params(folder, epoch_max=5), **same.params()})
    assert len(continued.epochs) == 2 and epochs_in(folder) == 5


def test_files_and_folders_of_the_user_are_never_moved(folder: Path) -> None:
    mine = folder / "params" / "preset.yaml"
    mine.write_text("mine")
    (folder / "replaced_keep").mkdir()
    (folder / "replaced_keep" / "co.npy").write_text("mine")
    (folder / "model_iter0100.hdf5").write_text("of PtyRAD")
    pypty.run(params(folder, overwrite=True, epoch_max=1))
    pypty.run(params(folder, overwrite=True, epoch_max=1))
    assert mine.exists() and (folder / "replaced_keep" / "co.npy").exists()
    assert (folder / "model_iter0100.hdf5").exists()


def test_an_overwrite_that_was_killed_at_once_is_undone_before_the_folder_is_read(folder: Path) -> None:
    """Nothing of the new run is mixed with the state of the old one."""
    before = content(folder)
    Aside(folder)
    with pytest.raises(OutputError, match="the earlier result is there again; repeat the command"):
        pypty.run(params(folder, resume=True))  # without a resume.h5 in its place
    assert content(folder) == before
    Aside(folder)
    assert (
        len(pypty.resume(folder, dataset=patterns(), epoch_max=3).epochs) == 3
    )  # put back before it was read
    Aside(folder)
    pypty.run(params(folder / "elsewhere", epoch_max=0))
    for name in ("params.yaml", "co.npy", RESUME_FILE):  # the new run had begun
        shutil.copy(folder / "elsewhere" / name, folder / name)
    with pytest.raises(OutputError, match="the earlier result is there again; repeat the command"):
        pypty.run(params(folder, resume=True))
    assert epochs_in(folder) == 3 and len(pypty.run(params(folder, resume=True, epoch_max=4)).epochs) == 4


def test_an_error_before_the_first_epoch_leaves_the_old_result(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(folder)

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pypty.engine.record.folder.write_settings", fail)
    with pytest.raises(OSError, match="No space"):
        pypty.run(params(folder, overwrite=True))
    assert content(folder) == before


def test_overwriting_is_not_carried_into_later_runs(tmp_path: Path) -> None:
    pypty.run(params(tmp_path, overwrite=True, save_iters=3, save_result=["model"], selected_figs=[]))
    assert "overwrite" not in load_result(tmp_path / "model_iter0003.h5").params()
    assert not pypty.load_preset(tmp_path)["overwrite"]


def test_a_new_time_at_each_start_cannot_be_continued_automatically(tmp_path: Path) -> None:
    report = pypty.check(params(tmp_path, resume="auto", prefix_time="datetime"))
    assert not report and "every start has another time" in str(report)
