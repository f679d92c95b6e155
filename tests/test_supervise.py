"""``pypty run --restart N``: what is started again, how, and with which exit status it ends."""

from __future__ import annotations

import dataclasses
import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import small_params, write_preset

import pypty
from pypty.cli import main
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.record.interrupts import Interrupted
from pypty.errors import (
    BackendError,
    DataError,
    OutputError,
    ParameterError,
    RankError,
    ReconstructionError,
    ResourceError,
)
from pypty.output.lock import Owner, locked
from pypty.params.schema.values import EpochValues
from pypty.supervise import Command, Outcome, _Attempt, may_pass, state_in, supervise, supervised, words_of

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

# Takes the place of a launcher: does what the plan says, one line an attempt, instead of the run.
_ACTOR = """
import json, os, pathlib, signal, sys, time
here = pathlib.Path(sys.argv[1])
words = sys.argv[2:]
plan = json.loads((here / "plan").read_text())
(here / "plan").write_text(json.dumps(plan[1:]))
with open(here / "commands", "a") as stream:
    stream.write(json.dumps(words) + "\\n")
told, end = plan[0]
if told:
    pathlib.Path(words[words.index("--outcome") + 1]).write_text(told)
if end == "wait":
    signal.signal(signal.SIGUSR1, lambda number, frame: (here / "usr1").touch())
    (here / "waits").touch()
    while True:
        time.sleep(0.01)
if end < 0:
    os.kill(os.getpid(), -end)
sys.exit(end)
"""


def _told(tmp_path: Path, how: Callable[[Outcome], None] = lambda outcome: None) -> str:
    """What a run has written into its file; of a process that cannot be found here."""
    file = tmp_path / "told"
    how(Outcome(file))
    content = json.loads(file.read_text())
    content["owner"]["machine"] = "another"
    return json.dumps(content)


def _failed(tmp_path: Path, error: Exception) -> tuple[str, int]:
    return _told(tmp_path, lambda outcome: outcome.failed(error)), 1


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pypty.supervise, "_PAUSE_S", 0.0)
    for name in ("SLURM_PROCID", "PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.delenv(name, raising=False)


@dataclasses.dataclass
class Played:
    """What came of a plan."""

    status: int
    commands: list[list[str]]
    said: list[str]


def _play(tmp_path: Path, plan: list[tuple[str, int | str]], restarts: int = 2, **changes: Any) -> Played:
    (tmp_path / "actor.py").write_text(_ACTOR)
    (tmp_path / "plan").write_text(json.dumps(plan))
    command = Command(
        **{
            "file": "my.yaml",
            "changes": ("epoch_max=5",),
            "options": ("--report",),
            "first_only": ("--overwrite",),
            "launcher": (sys.executable, str(tmp_path / "actor.py"), str(tmp_path)),
            "output_folder": tmp_path / "out",
            **changes,
        }
    )
    said: list[str] = []
    status = supervise(command, restarts, said.append)
    lines = (tmp_path / "commands").read_text().splitlines()
    assert not (tmp_path / "out").exists()  # nothing was written into it
    return Played(status, [json.loads(line) for line in lines], said)


def test_a_killed_run_is_started_again_until_it_succeeds(tmp_path: Path) -> None:
    done = _told(tmp_path, lambda outcome: outcome.ended(0))
    played = _play(tmp_path, [("", -signal.SIGKILL), (_told(tmp_path), -signal.SIGSEGV), (done, 0)])
    assert played.status == 0 and len(played.commands) == 3
    assert [line.split(";")[0] for line in played.said] == [
        "attempt 1 of 3: it was killed by SIGKILL: out of memory, or ended by hand",
        "attempt 2 of 3: it was killed by SIGSEGV",
    ]
    words = played.commands[0][3:]
    assert words[:-1] == ["run", "my.yaml", "--set", "epoch_max=5", "--report", "--overwrite", "--outcome"]
    # there was no epoch: it is the same command again, which still replaces the earlier result
    assert played.commands[1] == played.commands[0]


def test_no_attempt_is_left(tmp_path: Path) -> None:
    assert _play(tmp_path, [("", -signal.SIGKILL)] * 2, restarts=1).status == 1
    played = _play(tmp_path, [("", 3)], restarts=0)
    assert played.status == 3
    assert played.said == ["attempt 1 of 1: it died with exit status 3; no attempt is left"]


@pytest.mark.parametrize("error", [RankError("x"), ResourceError("x"), BackendError("x"), KeyError("x")])
def test_failures_that_may_pass_are_repeated(error: Exception, tmp_path: Path) -> None:
    done = (_told(tmp_path, lambda outcome: outcome.ended(0)), 0)
    played = _play(tmp_path, [_failed(tmp_path, error), done])
    assert played.status == 0 and len(played.commands) == 2
    assert f"it failed ({type(error).__name__})" in played.said[0]


@pytest.mark.parametrize(
    "error", [ParameterError("x"), DataError("x"), ReconstructionError("x"), OutputError("x")]
)
def test_what_fails_again_is_not_repeated(error: Exception, tmp_path: Path) -> None:
    played = _play(tmp_path, [_failed(tmp_path, error)])
    assert (played.status, len(played.commands), played.said) == (1, 1, [])


def test_a_full_disk_may_pass_and_a_forbidden_folder_does_not() -> None:
    for number, passes in ((errno.ENOSPC, True), (errno.ESTALE, True), (errno.EACCES, False)):
        error = OutputError("cannot be written")
        error.__cause__ = OSError(number, "")
        assert may_pass(error) is passes


def test_other_ends_are_not_repeated(tmp_path: Path) -> None:
    asked = _told(tmp_path, lambda outcome: outcome.ended(143, "SIGTERM"))
    assert _play(tmp_path, [(asked, 143)]).status == 143  # a queue has asked the run itself
    assert _play(tmp_path, [(asked, 1)]).status == 143  # what the launcher makes of it
    assert _play(tmp_path, [("", 2)]).status == 2  # wrong usage
    done = _told(tmp_path, lambda outcome: outcome.ended(0))
    assert _play(tmp_path, [(done, -signal.SIGSEGV)]).status == 1  # the result is complete


def test_a_command_that_is_no_run_does_not_count_as_success(tmp_path: Path) -> None:
    played = _play(tmp_path, [("", 0)])
    assert played.status == 1 and len(played.commands) == 1
    assert played.said == ["the launcher has ended, but no run of it has told how it ended"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signals_are_passed_on_and_end_restarts(name: str, tmp_path: Path) -> None:
    number, default = getattr(signal, name), signal.SIG_DFL

    def send() -> None:
        _until(lambda: (tmp_path / "waits").exists())
        os.kill(os.getpid(), signal.SIGUSR1)
        _until(lambda: (tmp_path / "usr1").exists())  # the run goes on
        os.kill(os.getpid(), number)

    before = {number: signal.signal(number, default) for number in (number, signal.SIGUSR1)}
    sender = threading.Thread(target=send)
    sender.start()
    try:
        played = _play(tmp_path, [("", "wait")])
    finally:
        sender.join()
        for which, handler in before.items():
            assert signal.getsignal(which) is default  # put back
            signal.signal(which, handler)
    assert len(played.commands) == 1
    # Python ends with 1 after a KeyboardInterrupt that nobody catches, and kills itself by SIGINT
    assert played.status == 128 + number


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_signals_go_to_rank_0_past_the_launcher(tmp_path: Path) -> None:
    """mpirun would end all processes within a second of SIGTERM."""
    with subprocess.Popen(["sleep", "60"]) as rank, subprocess.Popen(["sleep", "60"]) as launcher:
        owner = dataclasses.replace(
            Owner.here(), process=rank.pid, started=pypty.output.lock._started(rank.pid)
        )
        outcome = tmp_path / "told"
        outcome.write_text(json.dumps({"owner": dataclasses.asdict(owner)}))
        attempt = _Attempt(process=launcher, outcome=outcome, base=tmp_path)
        attempt.send(signal.SIGTERM)
        assert rank.wait(10) == -signal.SIGTERM
        assert launcher.poll() is None
        attempt.send(signal.SIGTERM)  # rank 0 is gone
        assert launcher.wait(10) == -signal.SIGTERM


def test_the_folder_is_that_of_the_lock_and_of_a_state_that_is_newer(tmp_path: Path) -> None:
    outcome = tmp_path / "told"
    Outcome(outcome)
    base = tmp_path / "out"
    (base / "other").mkdir(parents=True)
    (base / "other" / "resume.h5").touch()
    with subprocess.Popen(["true"]) as process:
        attempt = _Attempt(process=process, outcome=outcome, base=base)
    attempt.look()
    assert attempt.folder_to_continue() is None  # it has not reached its folder
    (base / "resume.h5").touch()
    assert attempt.folder_to_continue() == base  # it was there for a moment only
    attempt.before = state_in(base)
    assert attempt.folder_to_continue() is None  # the state was there before the first attempt
    with locked(base / "named"):
        (base / "named" / "resume.h5").touch()
        os.utime(base / "named" / "resume.h5", ns=(0, 0))
        attempt.look()
    assert attempt.folder_to_continue() is None  # the state is that of an earlier run
    (base / "named" / "resume.h5").touch()
    assert attempt.folder_to_continue() == base / "named"
    (base / "named" / "replaced_20260101_000000_000000").mkdir()
    assert attempt.folder_to_continue() is None  # its first epoch is not complete


def test_a_later_attempt_continues_in_the_folder_of_the_first(tmp_path: Path) -> None:
    command = Command(
        file="my.yaml",
        changes=("resume=false",),
        options=(),
        first_only=("--overwrite",),
        launcher=("mpirun", "-n", "4"),
        output_folder=tmp_path,
    )
    words = command.words(tmp_path / "file", tmp_path)
    assert words[:8] == ["mpirun", "-n", "4", sys.executable, "-m", "pypty", "run", "my.yaml"]
    assert words[8:12] == ["--set", "resume=false", "--set", "resume=auto"] and "--overwrite" not in words
    named = command.words(tmp_path / "file", tmp_path / "named")
    assert named[10:14] == ["--set", "resume=true", "--set", f'output_folder="{tmp_path}/named"']


@pytest.mark.parametrize("variable", ["OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "PMI_RANK"])
def test_only_the_first_rank_tells(variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "0")  # of the batch script
    monkeypatch.setenv(variable, "1")
    with supervised(str(tmp_path / "told")) as ended:
        ended(0, "")
    assert not (tmp_path / "told").exists()


def test_an_interrupt_before_the_first_epoch_is_told(tmp_path: Path) -> None:
    with pytest.raises(Interrupted), supervised(str(tmp_path / "told")):
        raise Interrupted("SIGTERM")
    assert json.loads((tmp_path / "told").read_text())["status"] == 143


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    """A parameter file of a small run."""
    return write_preset(tmp_path, epoch_max=4)


class _Forked:
    """A child process like those of ``subprocess``, made without importing the package again."""

    def __init__(self, words: list[str], start_new_session: bool) -> None:
        assert words[:4] == [sys.executable, "-m", "pypty", "run"] and start_new_session
        self._process = multiprocessing.get_context("fork").Process(target=self._run, args=(words[3:],))
        self._process.start()

    def _run(self, words: list[str]) -> None:
        sys.exit(main(words))

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> None:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("pypty", timeout or 0.0)


def test_a_run_that_is_killed_twice_has_the_result_of_one_that_is_not(
    preset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its first epoch, where it would replace an earlier result, and after its second one."""
    whole = pypty.run(small_params(epoch_max=4))
    assert main(["run", str(preset), "--set", "epoch_max=1"]) == 0
    original = Reconstruction._epoch

    def epoch(self: Reconstruction, now: EpochValues) -> object:
        killed = tmp_path / f"killed_{self.state.epoch}"
        if self.state.epoch in (0, 2) and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, now)

    monkeypatch.setattr(Reconstruction, "_epoch", epoch)
    monkeypatch.setattr(subprocess, "Popen", _Forked)
    assert main(["run", str(preset), "--overwrite", "--restart", "3"]) == 0
    said = capfd.readouterr().err
    assert said.count("killed by SIGKILL") == 2 and "it begins in" in said and "it continues in" in said
    folder = tmp_path / "out"
    assert np.array_equal(np.load(folder / "co.npy"), whole.obj)
    assert len((folder / "loss.csv").read_text().splitlines()) == 5
    assert not [*folder.glob("*replaced_*"), *folder.glob(".pypty.outcome*")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--restart", "1", "--set", "output_folder="], "output_folder is not given"),
        (["--launcher", "mpirun -n 2"], "--restart N"),
        (["--restart", "1", "--launcher", "no_such_launcher -n 2"], "cannot be started"),
        (["--restart", "1", "--launcher", "mpirun 'x"], "closing quotation"),
    ],
)
def test_wrong_options_are_reported(
    options: list[str], message: str, preset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(preset), *options]) == 1
    assert message in capsys.readouterr().err


def test_a_number_of_restarts_is_a_number(preset: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["run", str(preset), "--restart", "-1"])
    assert stop.value.code == 2


@pytest.mark.parametrize("variable", ["OMPI_COMM_WORLD_SIZE", "MVP_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_a_supervisor_under_a_launcher_is_refused(
    variable: str, preset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, "4")
    assert main(["run", str(preset), "--restart", "1"]) == 1
    assert "--launcher" in capsys.readouterr().err


def test_words_of_a_launcher() -> None:
    assert words_of(None) == ()
    assert words_of("srun --cpu-bind='map_cpu:0,1'") == ("srun", "--cpu-bind=map_cpu:0,1")
