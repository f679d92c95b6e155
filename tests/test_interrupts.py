"""Ctrl-C, the end of a queue's time, a terminal that closes: the run ends with everything saved."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import pytest
from problems import small_params, write_preset
from test_resume import assert_identical

import pypty
from pypty.cli import main
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.record.interrupts import Interrupted, Interrupts, exit_status
from pypty.output.checkpoints import RESUME_FILE
from pypty.params.schema.values import EpochValues

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")


@pytest.fixture(autouse=True)
def _usual_handlers() -> Iterator[None]:
    """Those of a terminal: in the background, or under nohup, shells let programs ignore some of them."""
    usual = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
        signal.SIGUSR1: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


Patch = Callable[[Callable[[int], None]], None]


@pytest.fixture
def in_epoch(monkeypatch: pytest.MonkeyPatch) -> Patch:
    """Call a function with the number of the epoch in the middle of every epoch."""
    original = Reconstruction._epoch

    def patch(call: Callable[[int], None]) -> None:
        def epoch(self: Reconstruction, now: EpochValues) -> object:
            record = original(self, now)
            call(self.state.epoch)
            return record

        monkeypatch.setattr(Reconstruction, "_epoch", epoch)

    return patch


def _send(*names: str) -> None:
    for name in names:
        os.kill(os.getpid(), getattr(signal, name))


@pytest.mark.parametrize("name", SIGNALS[:3])
def test_a_signal_ends_a_run_with_everything_saved(name: str, tmp_path: Path) -> None:
    params = small_params(epoch_max=100_000, output_folder=str(tmp_path))

    def send() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if (tmp_path / "loss.csv").is_file() and len(
                (tmp_path / "loss.csv").read_text().splitlines()
            ) > 3:
                os.kill(os.getpid(), getattr(signal, name))
                return
            time.sleep(0.005)

    sender = threading.Thread(target=send)
    sender.start()
    result = pypty.run(params)
    sender.join()
    assert result.interrupted_by == name
    done = len(result.epochs)
    assert result.stop_reason.endswith(f"after {done} epochs")
    with h5py.File(tmp_path / RESUME_FILE) as file:
        assert file.attrs["epoch"] == done
    on = pypty.run({**params, "resume": True, "epoch_max": done + 2})
    assert on.interrupted_by == ""
    assert_identical(on, pypty.run(small_params(epoch_max=done + 2)))


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_the_exit_status_names_the_signal(name: str, status: int, in_epoch: Patch, tmp_path: Path) -> None:
    assert exit_status(name) == status
    in_epoch(lambda epoch: _send(name) if epoch == 1 else None)
    assert main(["run", str(write_preset(tmp_path, epoch_max=4))]) == status
    with h5py.File(tmp_path / "out" / RESUME_FILE) as file:
        assert file.attrs["epoch"] == (2 if name == "SIGTERM" else 1)


def test_a_process_ends_with_the_status_of_the_signal(tmp_path: Path) -> None:
    preset, log = write_preset(tmp_path, epoch_max=100_000), tmp_path / "out" / "loss.csv"
    words = [sys.executable, "-m", "pypty", "run", str(preset)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (log.is_file() and len(log.read_text().splitlines()) > 2):
            assert run.poll() is None, run.communicate()
            time.sleep(0.02)
        run.send_signal(signal.SIGTERM)
        _, errors = run.communicate(timeout=120)
    assert run.returncode == 143, errors
    with h5py.File(tmp_path / "out" / RESUME_FILE) as file:
        assert file.attrs["epoch"] >= 1


def test_without_a_signal_the_status_is_zero() -> None:
    assert exit_status("") == 0


def test_handlers_are_put_back_and_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        handlers = [signal.getsignal(getattr(signal, name)) for name in SIGNALS]
        with Interrupts():
            assert signal.getsignal(signal.SIGTERM) is not handlers[1]
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # nohup
        assert [signal.getsignal(getattr(signal, name)) for name in SIGNALS] == handlers
    finally:
        signal.signal(signal.SIGHUP, before)


def test_further_signals_wait_for_saving_and_then_end_it(caplog: pytest.LogCaptureFixture) -> None:
    with Interrupts() as interrupts:
        with pytest.raises(Interrupted, match="SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.name == "SIGTERM"
        assert caplog.text.count("SIGINT: the results are being saved; wait") == 2
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_in_another_thread_nothing_changes() -> None:
    seen = []

    def run() -> None:
        with Interrupts():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    before = signal.getsignal(signal.SIGTERM)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_signal_during_the_last_save_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is saved only at the end here: an exception there would lose all epochs."""
    original = pypty.engine.record.folder.write_checkpoint
    calls = iter(range(100))

    def write(*arguments: object) -> None:
        if next(calls) == 1:  # the first is that of the start
            os.kill(os.getpid(), signal.SIGTERM)
        original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(pypty.engine.record.folder, "write_checkpoint", write)
    result = pypty.run(small_params(output_folder=str(tmp_path), epoch_max=3, save_inter_checkpoints=0))
    # all epochs are done, and saved: nothing was interrupted
    assert result.interrupted_by == "" and result.stop_reason == "epoch_max = 3 was reached"
    assert len(result.epochs) == 3
    with h5py.File(tmp_path / RESUME_FILE) as file:
        assert file.attrs["epoch"] == 3


def test_a_signal_whose_exception_was_ignored_ends_the_run_after_the_epoch(in_epoch: Patch) -> None:
    def send(epoch: int) -> None:
        with contextlib.suppress(Interrupted):  # as Python does in destructors
            _send("SIGINT")

    in_epoch(send)
    result = pypty.run(small_params(epoch_max=3))
    assert len(result.epochs) == 1 and result.interrupted_by == "SIGINT"


def test_sigterm_waits_for_the_end_of_the_epoch(
    in_epoch: Patch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    signals = ["SIGTERM"]
    in_epoch(lambda epoch: _send(signals.pop()) if epoch == 1 and signals else None)
    params = small_params(output_folder=str(tmp_path), save_inter_checkpoints=0)
    result = pypty.run({**params, "epoch_max": 4})
    assert "a second SIGTERM ends it at once" in caplog.text
    assert result.interrupted_by == "SIGTERM" and len(result.epochs) == 2
    assert result.stop_reason == "interrupted by SIGTERM after 2 epochs"
    with h5py.File(tmp_path / RESUME_FILE) as file:
        assert file.attrs["epoch"] == 2
    assert_identical(
        pypty.run({**params, "epoch_max": 4, "resume": "auto"}), pypty.run(small_params(epoch_max=4))
    )


def test_a_second_sigterm_ends_at_once_but_not_the_echo_of_the_first(
    in_epoch: Patch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queues and launchers send a signal to a process and to its group."""
    in_epoch(lambda epoch: _send("SIGTERM", "SIGTERM", "SIGTERM") if epoch == 1 else None)
    assert len(pypty.run(small_params(epoch_max=4)).epochs) == 2
    monkeypatch.setattr(pypty.engine.record.interrupts, "_ECHO_S", 0.0)
    again = pypty.run(small_params(epoch_max=4))
    assert len(again.epochs) == 1 and again.interrupted_by == "SIGTERM"


def test_ctrl_c_does_not_wait_although_sigterm_does(in_epoch: Patch) -> None:
    in_epoch(lambda epoch: _send("SIGTERM", "SIGINT") if epoch == 1 else None)
    result = pypty.run(small_params(epoch_max=4))
    assert len(result.epochs) == 1 and result.interrupted_by == "SIGTERM"  # the first one


def test_sigterm_in_the_last_epoch_interrupts_nothing(in_epoch: Patch) -> None:
    in_epoch(lambda epoch: _send("SIGTERM") if epoch == 1 else None)
    result = pypty.run(small_params(epoch_max=2))
    assert result.interrupted_by == "" and result.stop_reason == "epoch_max = 2 was reached"
    assert "interrupted" in result.verdict.text  # the queue does not wait for it


def test_sigterm_before_the_first_epoch_ends_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(*arguments: object, **options: object) -> None:
        _send("SIGTERM")

    monkeypatch.setattr(pypty.iterative, "prepare", prepare)
    with pytest.raises(Interrupted, match="SIGTERM"):
        pypty.run(small_params(output_folder=str(tmp_path / "out"), epoch_max=4))
    assert not (tmp_path / "out").exists()


def test_sigusr1_writes_a_checkpoint_and_the_run_goes_on(in_epoch: Patch, tmp_path: Path) -> None:
    saved: list[int] = []

    def look(epoch: int) -> None:
        with h5py.File(tmp_path / RESUME_FILE) as file:
            saved.append(int(file.attrs["epoch"]))
        if epoch == 1:
            _send("SIGUSR1")
        if epoch == 2:  # the arrays are those of the same epoch
            assert (tmp_path / "co.npy").stat().st_mtime_ns > started

    started = time.time_ns()
    reference = pypty.run(small_params(epoch_max=4))
    in_epoch(look)
    folder = {"output_folder": str(tmp_path), "save_inter_checkpoints": 0, "print_flag": 1}
    result = pypty.run(small_params(epoch_max=4, **folder))
    assert saved == [0, 0, 2, 2]
    assert result.interrupted_by == "" and len(result.epochs) == 4
    assert "SIGUSR1: the state after 2 epochs is saved" in (tmp_path / "pypty.log").read_text()
    assert_identical(result, reference)


def test_sigusr1_without_a_folder_says_so(in_epoch: Patch, caplog: pytest.LogCaptureFixture) -> None:
    in_epoch(lambda epoch: _send("SIGUSR1") if epoch == 0 else None)
    assert len(pypty.run(small_params(epoch_max=2)).epochs) == 2
    assert caplog.text.count("SIGUSR1: output_folder is not given") == 1
