"""Ctrl-C, the end of a queue's time, a terminal that closes: the run ends with everything saved."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import pytest
from problems import small_params
from test_resume import assert_identical

import pypty
from pypty.engine.record.interrupts import Interrupted, Interrupts, exit_status
from pypty.output.checkpoints import RESUME_FILE

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


@pytest.fixture(autouse=True)
def _usual_handlers() -> Iterator[None]:
    """Those of a terminal: in the background, or under nohup, shells let programs ignore some of them."""
    usual = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("name", SIGNALS)
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
def test_the_exit_status_names_the_signal(name: str, status: int, tmp_path: Path) -> None:
    assert exit_status(name) == status
    folder = tmp_path / "out"
    run = subprocess.Popen(
        [sys.executable, "-m", "pypty", "demo", "--output", str(folder), "--set", "epoch_max=100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    log = folder / "loss.csv"
    while time.monotonic() < deadline and not (log.is_file() and len(log.read_text().splitlines()) > 2):
        assert run.poll() is None, run.communicate()
        time.sleep(0.02)
    run.send_signal(getattr(signal, name))
    _, errors = run.communicate(timeout=120)
    assert run.returncode == status, errors
    with h5py.File(folder / RESUME_FILE) as file:
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


def test_a_signal_whose_exception_was_ignored_ends_the_run_after_the_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = pypty.engine.epochs.loop.Reconstruction._epoch

    def epoch(self: object, now: object) -> object:
        with contextlib.suppress(Interrupted):  # as Python does in destructors
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, now)  # type: ignore[arg-type]

    monkeypatch.setattr(pypty.engine.epochs.loop.Reconstruction, "_epoch", epoch)
    result = pypty.run(small_params(epoch_max=3))
    assert len(result.epochs) == 1 and result.interrupted_by == "SIGTERM"
