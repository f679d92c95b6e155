"""One run at a time in an output folder."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from problems import small_params

import pypty
from pypty.errors import OutputError
from pypty.output import lock as lock_module
from pypty.output.lock import LOCK_FILE, FolderLock, Owner, locked, read_owner


def leave_lock(folder: Path, silent_s: float = 0.0, **changes: object) -> Owner:
    """A lock as another run leaves it, last touched some seconds ago."""
    owner = dataclasses.replace(Owner.here(), token="other", **changes)  # type: ignore[arg-type]
    path = folder / LOCK_FILE
    path.write_text(json.dumps(dataclasses.asdict(owner)))
    touched = time.time() - silent_s
    os.utime(path, (touched, touched))
    return owner


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_lock_says_who_is_there_and_goes_with_its_run(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "new") as lock:
        owner = read_owner(lock.path)
        assert owner is not None
        assert owner.process == os.getpid() and owner.lives and owner.is_here
        assert str(owner) == f"process {os.getpid()} of {owner.user} on {owner.host}, since {owner.since}"
    assert list((tmp_path / "new").iterdir()) == []


def test_without_a_folder_there_is_no_lock() -> None:
    with locked(None) as lock:
        assert lock is None


def test_a_second_run_is_refused_and_told_who_is_there(tmp_path: Path) -> None:
    with (
        FolderLock(tmp_path),
        pytest.raises(OutputError, match=f"in use by another run: process {os.getpid()} of"),
    ):
        pypty.run(small_params(output_folder=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []  # nothing was written by it


def test_the_lock_of_a_dead_process_is_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    leave_lock(tmp_path, process=dead_process())
    with FolderLock(tmp_path) as lock:
        owner = read_owner(lock.path)
        assert owner is not None and owner.token == lock.owner.token
    assert "is dead; its lock was removed" in caplog.text


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the start of a process is not known here")
def test_a_later_process_of_the_same_number_does_not_hold_the_lock(tmp_path: Path) -> None:
    leave_lock(tmp_path, started="1")  # our number, but another start
    with FolderLock(tmp_path) as lock:
        assert lock.path.exists()


@pytest.mark.parametrize(("silent_s", "stale"), [(120.0, False), (700.0, True)])
def test_a_lock_from_another_machine_is_judged_by_its_last_sign_of_life(
    silent_s: float, stale: bool, tmp_path: Path
) -> None:
    leave_lock(tmp_path, silent_s, machine="another boot", host="node7", process=1)
    if stale:
        with FolderLock(tmp_path):
            pass
        return
    with pytest.raises(OutputError, match=r"on node7, since .* its last sign of life is 1(19|20|21) s old"):
        FolderLock(tmp_path).__enter__()
    assert (tmp_path / LOCK_FILE).exists()


def test_a_lock_that_cannot_be_read_is_judged_by_its_age(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text("{")
    with pytest.raises(OutputError, match="its lock cannot be read"):
        FolderLock(tmp_path).__enter__()
    os.utime(tmp_path / LOCK_FILE, (1, 1))
    with FolderLock(tmp_path) as lock:
        assert read_owner(lock.path) is not None


def test_the_owner_shows_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "_TOUCH_S", 0.01)
    with FolderLock(tmp_path) as lock:
        os.utime(lock.path, (1, 1))
        deadline = time.monotonic() + 10
        while lock.path.stat().st_mtime < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lock.path.stat().st_mtime > 2


def test_a_lock_that_was_deleted_is_written_again(tmp_path: Path) -> None:
    with FolderLock(tmp_path) as lock:
        lock.path.unlink()
        lock.check()
        owner = read_owner(lock.path)
        assert owner is not None and owner.token == lock.owner.token


def test_a_run_whose_folder_was_taken_over_ends_and_writes_nothing_more(tmp_path: Path) -> None:
    """Somebody has deleted the lock, and another run has begun there."""
    with FolderLock(tmp_path) as lock:
        other = leave_lock(tmp_path)
        with pytest.raises(OutputError, match="was taken over by another run"):
            lock.check()
    assert read_owner(tmp_path / LOCK_FILE) == other  # the other's lock stays


def test_without_hard_links_a_lock_is_created_exclusively(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    with FolderLock(tmp_path), pytest.raises(OutputError, match="in use"):
        FolderLock(tmp_path).__enter__()
    assert list(tmp_path.iterdir()) == []


def test_of_many_processes_that_meet_a_stale_lock_one_gets_it(tmp_path: Path) -> None:
    leave_lock(tmp_path, process=dead_process())
    code = f"""
    import sys, time
    from pathlib import Path
    from pypty.errors import OutputError
    from pypty.output.lock import FolderLock
    sys.stdin.readline()
    try:
        with FolderLock(Path({str(tmp_path)!r})) as lock:
            time.sleep(1.0)
            lock.check()
            print("mine")
    except OutputError:
        print("taken")
    """
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for run in runs:
        assert run.stdin is not None
        run.stdin.write("go\n")
        run.stdin.flush()
    answers = sorted(run.communicate(timeout=60)[0].strip() for run in runs)
    assert answers == ["mine", "taken", "taken", "taken"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the state of a process is not known here")
def test_a_process_that_has_ended_and_was_not_asked_for_is_dead(tmp_path: Path) -> None:
    """A zombie: its parent has not waited for it."""
    zombie = subprocess.Popen([sys.executable, "-c", ""])
    started = lock_module._started(zombie.pid)
    while lock_module._started(zombie.pid) != "dead":
        time.sleep(0.01)
    leave_lock(tmp_path, process=zombie.pid, started=started)
    with FolderLock(tmp_path) as lock:
        assert lock.path.exists()
    zombie.wait()


def test_a_job_that_is_started_again_waits_for_the_lock_of_a_dead_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_module, "_WAIT_S", 0.05)
    monkeypatch.setattr(lock_module, "_SILENT_S", 121.0)
    leave_lock(tmp_path, 120.5, machine="another boot", host="node7", process=1)
    with FolderLock(tmp_path, patient=True) as lock:
        owner = read_owner(lock.path)
        assert owner is not None and owner.token == lock.owner.token


def test_a_sign_of_life_ends_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def touch(seconds: float) -> None:
        os.utime(tmp_path / LOCK_FILE)

    monkeypatch.setattr(lock_module.time, "sleep", touch)
    leave_lock(tmp_path, 60.0, machine="another boot", host="node7", process=1)
    with pytest.raises(OutputError, match="on node7"):
        FolderLock(tmp_path, patient=True).__enter__()


def test_a_lock_that_cannot_be_removed_does_not_cost_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = Path.unlink

    def unlink(self: Path, missing_ok: bool = False) -> None:
        if self.name == LOCK_FILE:
            raise PermissionError(13, "Permission denied")
        original(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    assert len(pypty.run(small_params(output_folder=str(tmp_path))).epochs) == 3
    assert "pypty.lock cannot be removed" in caplog.text
