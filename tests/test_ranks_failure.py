"""Ranks that die, hang, run out of memory or fail: the run ends with the reason, and with every full epoch saved."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import every_block, small_params, two_slices
from threaded_ranks import reconstruction_on, run_on, threaded_ranks

import pypty
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.ranks.joined import Joined
from pypty.engine.ranks.worker import Server, warnings_told
from pypty.errors import DataError, RankError, ReconstructionError
from pypty.iterative import run_here
from pypty.objective.passes import Pass
from pypty.ranks import local
from pypty.ranks.local import LocalLink, PipesLink, WorkerLink
from pypty.ranks.messages import Header, Message
from pypty.supervise import may_pass


def workers() -> list[int]:
    """Process numbers of the worker processes that this process has started."""
    return [process for process in children(os.getpid()) if "ranks.worker" in _command(process)]


def children(parent: int) -> list[int]:
    """Process numbers of the children of a process, in their order."""
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return sorted(int(number) for number in text.split())


def _command(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:  # it has ended
        return ""


def signal_a_worker_after(epochs: int, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send a signal to one of the workers within the epoch after so many."""
    original = Reconstruction._epoch

    def epoch(self: Reconstruction, now: Any) -> Any:
        if self.state.epoch == epochs:
            os.kill(workers()[0], number)
        return original(self, now)

    monkeypatch.setattr(Reconstruction, "_epoch", epoch)


def test_a_rank_that_is_killed_ends_the_run_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = every_block(epoch_max=5, devices=2, output_folder=str(tmp_path / "run"))
    whole = pypty.run({**params, "devices": "auto", "output_folder": ""})
    with monkeypatch.context() as patch:
        signal_a_worker_after(2, signal.SIGKILL, patch)
        started = time.monotonic()
        with pytest.raises(RankError, match=r"rank 1 \(process \d+\) was ended by SIGKILL"):
            pypty.run(params)
        assert time.monotonic() - started < 10
    assert not workers(), "none is left behind"
    assert "was ended by SIGKILL" in (tmp_path / "run" / "pypty.log").read_text()
    resumed = pypty.run({**params, "resume": True})
    np.testing.assert_allclose(resumed.loss, whole.loss, rtol=1e-9)


def test_a_rank_that_is_stopped_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pypty.ranks.link.SILENCE_S", 1.0)
    signal_a_worker_after(1, signal.SIGSTOP, monkeypatch)
    with pytest.raises(RankError, match=r"rank 1 .* hangs: nothing has come from it"):
        pypty.run(small_params(devices=2))
    assert not workers()


def test_a_rank_that_makes_no_progress_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    over, compute = threading.Event(), Pass.compute

    def hanging(self: Pass) -> None:
        if threading.current_thread() is not threading.main_thread():
            over.wait(30)
        compute(self)

    monkeypatch.setattr(Pass, "compute", hanging)
    with threaded_ranks(2) as link:
        with pytest.raises(RankError, match="rank 1 hangs: its computation has made no progress"):
            run_here(small_params(rank_timeout_s=1.5), link)
        over.set()


def test_all_ranks_use_smaller_batches_where_one_has_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The epoch is made again, with the numbers of a run that began with the smaller batch."""
    params = small_params(epoch_max=2, update_probe=True)
    small = run_on(2, {**params, "compute_batch": 5})
    compute, failed = Pass.compute, []

    def once(self: Pass) -> None:
        if threading.current_thread() is not threading.main_thread() and not failed:
            failed.append(True)
            raise MemoryError("no room on this rank")
        compute(self)

    monkeypatch.setattr(Pass, "compute", once)
    found = run_on(2, params)
    assert failed
    np.testing.assert_array_equal(found.loss, small.loss)


def test_rank_0_without_memory_is_followed_by_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    params = small_params(epoch_max=2, update_probe=True)
    small = run_on(3, {**params, "compute_batch": 5})
    compute, failed = Pass.compute, []

    def once(self: Pass) -> None:
        if threading.current_thread() is threading.main_thread() and len(failed) < 1:
            failed.append(True)
            raise MemoryError("no room here")
        compute(self)

    monkeypatch.setattr(Pass, "compute", once)
    np.testing.assert_array_equal(run_on(3, params).loss, small.loss)


def test_what_a_rank_raises_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Server, message: Message) -> None:
        raise ValueError("the disk of this rank has gone")

    monkeypatch.setattr(Server, "_sum", broken)
    with pytest.raises(RankError, match="rank 1 failed: ValueError: the disk of this rank has gone"):
        run_on(2, small_params())


def test_an_interrupted_epoch_leaves_the_ranks_in_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they were asked is answered and dropped; the state is that of the last epoch."""
    with reconstruction_on(3, every_block(epoch_max=4)) as run:
        epochs = run.epochs()
        next(epochs)
        compute = Pass.compute

        def interrupted(self: Pass) -> None:
            if threading.current_thread() is threading.main_thread():
                raise KeyboardInterrupt
            compute(self)

        with monkeypatch.context() as patch:
            patch.setattr(Pass, "compute", interrupted)
            with pytest.raises(KeyboardInterrupt):
                next(epochs)
        losses = [record.loss for record in run.epochs()]
    expected = run_on(1, every_block(epoch_max=4)).loss
    np.testing.assert_allclose(losses, expected[1:4], rtol=1e-9)


@pytest.mark.parametrize("what", ["_write_all", "_read_all"])
def test_ctrl_c_waits_for_the_end_of_a_message(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows half a message would be taken for its other half."""
    params = small_params(epoch_max=4)
    whole = run_on(1, params)
    original, struck = getattr(local, what), []

    def interrupted(descriptor: int, data: memoryview) -> None:
        if threading.current_thread() is threading.main_thread() and not struck:
            struck.append(len(data))
            signal.raise_signal(signal.SIGINT)
        original(descriptor, data)

    with reconstruction_on(2, params) as run:
        epochs = run.epochs()
        next(epochs)
        with monkeypatch.context() as patch:
            patch.setattr(local, what, interrupted)
            with pytest.raises(KeyboardInterrupt):
                next(epochs)
        assert struck, "in the middle of a message"
        np.testing.assert_allclose([record.loss for record in run.epochs()], whole.loss[1:4], rtol=1e-10)


@pytest.mark.parametrize("where", ["rank 0", "another rank"])
def test_a_message_for_which_there_is_no_memory(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    params = small_params(epoch_max=3)
    whole = run_on(1, params)
    original, refused = local.arrays_of, []

    def full(header: Header) -> list[np.ndarray]:
        here = threading.current_thread() is threading.main_thread()
        if here == (where == "rank 0") and header.kind in ("gradients", "sum") and len(refused) < 2:
            refused.append(header.kind)
            raise MemoryError("no room")
        return original(header)

    monkeypatch.setattr(local, "arrays_of", full)
    np.testing.assert_allclose(run_on(2, params).loss, whole.loss, rtol=1e-9)
    assert len(refused) == 2


def test_the_others_hear_again_of_an_earlier_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the epoch in which the model changes: the result asks for the loss of the model before."""
    params = two_slices(
        epoch_max=3,
        propmethod="'multislice' if epoch < 1 else 'better_multislice'",
        apply_gaussian_filter_amplitude="[0.3, 0.3]",
        update_probe_pos="epoch >= 1",
    )
    last, compute = [], Pass.compute

    def interrupted(self: Pass) -> None:
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        compute(self)

    for n in (1, 2):
        with reconstruction_on(n, params) as run:
            epochs = run.epochs()
            next(epochs)
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(Pass, "compute", interrupted)
                next(epochs)
            last.append(run.last_sample().value)
            assert isinstance(run.objective.others, Joined) == (n == 2)
    assert last[1] == pytest.approx(last[0], rel=1e-10)


def test_an_error_of_another_rank_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """--restart depends on it: unusable data stay unusable."""

    def unusable(self: Server, message: Message) -> None:
        raise DataError("pattern 7 is damaged")

    monkeypatch.setattr(Server, "_sum", unusable)
    with pytest.raises(DataError, match=r"rank 1.*: pattern 7 is damaged") as caught:
        run_on(2, small_params())
    assert not may_pass(caught.value)


def test_warnings_of_other_ranks_are_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    mine, its = Pipe()
    link, other = PipesLink({1: mine}), WorkerLink(its, 1, 2)
    with warnings_told(other):
        logging.getLogger("pypty.data").warning("patterns do not fit into memory")
        warnings.warn("a division by zero", RuntimeWarning, stacklevel=1)
        logging.getLogger("pypty.data").info("not told")
    other.send(0, "loss", 1.0)
    with caplog.at_level(logging.WARNING, "pypty.ranks.link"):
        assert link.receive(1).content == 1.0
    told = [record.getMessage() for record in caplog.records if record.name == "pypty.ranks.link"]
    assert told[0] == "rank 1: patterns do not fit into memory" and "a division by zero" in told[1]
    assert len(told) == 2


def test_worker_processes_end_with_rank_0() -> None:
    """Also where it is killed."""
    script = (
        "import sys; sys.path.insert(0, 'tests'); from problems import small_params; import pypty;"
        "pypty.run(small_params(devices=3, epoch_max=100000, stop_patience=0))"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[1])
    try:
        for _ in range(600):
            found = children(process.pid)
            if len(found) == 2:
                break
            time.sleep(0.1)
        assert len(found) == 2
        time.sleep(1.0)
    finally:
        process.kill()
        process.wait()
    for _ in range(100):
        if not any(Path(f"/proc/{number}").exists() for number in found):
            return
        time.sleep(0.1)
    pytest.fail("workers are left behind")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_run_that_fails_ends_its_workers() -> None:
    with pytest.raises(ReconstructionError):
        pypty.run(
            small_params(devices=2, optimizer="sgd", learning_rates={"obj": 1e6}, default_dtype="single")
        )
    assert not workers()


def test_a_rank_that_is_stopped_while_it_is_sent_something_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pypty.ranks.link.SILENCE_S", 1.0)
    link = LocalLink("pypty.engine.ranks.worker", [{}], 20.0)
    try:
        os.kill(workers()[0], signal.SIGSTOP)
        with pytest.raises(RankError, match=r"rank 1 .* hangs: it has taken or given no data for 1 s"):
            link.send(1, "place", None, [np.zeros(10**6)])
    finally:
        link.close()
    assert not workers()


def test_ranks_notice_that_rank_0_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """And that it is not, while it only does something else."""
    monkeypatch.setattr("pypty.ranks.link.OWN_BEAT_S", 0.1)
    monkeypatch.setattr("pypty.ranks.link.OWN_SILENCE_S", 1.0)
    mine, its = Pipe()
    here, there = PipesLink({1: mine}), WorkerLink(its, 1, 2)
    with here.alive():
        asked = threading.Timer(2.0, here.send, (1, "end"))
        asked.start()
        assert there.receive(0).kind == "end"
    with pytest.raises(RankError, match="rank 0 hangs: it has been silent for 1 s"):
        there.receive(0)
