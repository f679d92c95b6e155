"""``pypty run`` under mpirun, and with worker processes: the commands of docs/cluster.md as a user calls them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from problems import aperture_probe, counts, scan_positions
from test_ranks_failure import children
from test_ranks_mpi import has_mpi, launcher, without_launcher

from pypty.output.loss_log import LOSS_LOG, read_loss_log

__all__ = ["has_mpi"]
PARAMETERS = """
acc_voltage: 80.0
pixel_size_x_A: 0.4
pixel_size_y_A: 0.4
data_path: data.npy
positions: {file: positions.npy}
probe: {file: probe.npy}
epoch_max: 4
n_threads: 1
default_dtype: double
fft_library: scipy
verdict: false
stop_patience: 0
print_flag: 0
"""
EPOCHS = ["--set", "epoch_max=100000"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.save(tmp_path / "data.npy", counts("uint16"))
    np.save(tmp_path / "positions.npy", scan_positions())
    np.save(tmp_path / "probe.npy", aperture_probe(0.7))
    (tmp_path / "params.yaml").write_text(PARAMETERS)
    return tmp_path


def started(
    folder: Path, output: str, *options: str, before: list[str] | None = None
) -> subprocess.Popen[str]:
    command = [
        *(before or []),
        sys.executable,
        "-m",
        "pypty",
        "run",
        "params.yaml",
        "--set",
        f"output_folder={output}",
    ]
    environment = {**without_launcher(), "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return subprocess.Popen(
        [*command, *options],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(process: subprocess.Popen[str], within_s: float = 60) -> tuple[int, str, str]:
    """Exit status and texts; nothing of it is left behind."""
    try:
        out, errors = process.communicate(timeout=within_s)
        return process.returncode, out, errors
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def wait_for_epoch(folder: Path, output: str, epochs: int = 2) -> None:
    """Until the loss log has so many lines."""
    log = folder / output / LOSS_LOG
    for _ in range(600):
        if log.is_file() and len(log.read_text().splitlines()) > epochs:
            return
        time.sleep(0.1)
    pytest.fail("the run has not begun")


def three_more(folder: Path) -> list[str]:
    """Options for three more epochs than there are."""
    return ["--set", f"epoch_max={len(read_loss_log(folder / LOSS_LOG)) + 3}"]


def test_ranks_of_mpirun_make_the_same_result(folder: Path, has_mpi: None) -> None:
    alone = finished(started(folder, "alone"))
    status, out, errors = finished(started(folder, "ranks", before=[*launcher(), "-n", "3"]))
    assert (alone[0], status) == (0, 0), errors
    assert out.count("Result(") == 1, "rank 0 alone speaks"
    np.testing.assert_allclose(
        np.load(folder / "ranks" / "co.npy"), np.load(folder / "alone" / "co.npy"), atol=1e-9
    )
    assert "on 3 ranks, over MPI" in (folder / "ranks" / "pypty.log").read_text()
    status, out, _ = finished(
        started(folder, "ranks", "--resume", "--set", "epoch_max=6", "--set", "devices=2")
    )
    assert status == 0 and "6 epochs" in out


def test_a_killed_rank_ends_mpirun_and_the_run_goes_on(folder: Path, has_mpi: None) -> None:
    process = started(folder, "ranks", *EPOCHS, before=[*launcher(), "-n", "2"])
    wait_for_epoch(folder, "ranks")
    ranks = [pid for parent in [process.pid, *children(process.pid)] for pid in children(parent)]
    ranks = [pid for pid in ranks if b"pypty" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(max(ranks), signal.SIGKILL)
    began = time.monotonic()
    status, _, errors = finished(process)
    assert status != 0 and "signal 9" in errors.lower(), errors
    assert time.monotonic() - began < 30
    status, out, errors = finished(started(folder, "ranks", "--resume", *three_more(folder / "ranks")))
    assert status == 0, errors


def test_sigterm_ends_ranks_after_the_epoch(folder: Path) -> None:
    process = started(folder, "workers", *EPOCHS, "--set", "devices=2")
    wait_for_epoch(folder, "workers")
    for pid in children(process.pid):
        os.kill(pid, signal.SIGTERM)  # as a queue does; rank 0 answers for all
    process.send_signal(signal.SIGTERM)
    status, out, errors = finished(process)
    assert status == 143, errors
    assert "interrupted by SIGTERM" in out


def test_a_worker_that_is_killed_ends_the_run_with_status_1(folder: Path) -> None:
    process = started(folder, "workers", *EPOCHS, "--set", "devices=3")
    wait_for_epoch(folder, "workers")
    os.kill(children(process.pid)[1], signal.SIGKILL)
    status, _, errors = finished(process, within_s=30)
    assert status == 1
    assert "rank 2 (process" in errors and "SIGKILL" in errors
    again = ["--resume", *three_more(folder / "workers"), "--set", "devices=2"]
    status, out, errors = finished(started(folder, "workers", *again))
    assert status == 0, errors


def test_restart_begins_all_ranks_again(folder: Path) -> None:
    process = started(folder, "workers", "--restart", "1", "--set", "epoch_max=120", "--set", "devices=2")
    wait_for_epoch(folder, "workers")
    (child,) = children(process.pid)
    os.kill(children(child)[0], signal.SIGKILL)
    status, out, errors = finished(process)
    assert status == 0, errors
    assert "SIGKILL" in errors and "120 epochs" in out
