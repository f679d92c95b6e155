"""``pypty run --restart N``: a process that starts a run again where it died, or failed for a reason that may pass.

The run is a child of this process, by itself or under a launcher (``mpirun``, ``srun``). It writes into a file who it
is and how it ended, which tells a reported error from a death, whatever a launcher makes of exit statuses. Where it
works is told by the lock of the output folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from pypty.engine.record.earlier import is_unfinished
from pypty.engine.record.interrupts import exit_status
from pypty.errors import ParameterError, PyptyError
from pypty.output.checkpoints import RESUME_FILE
from pypty.output.files import make_folder, write_text
from pypty.output.lock import LOCK_FILE, Owner, read_owner
from pypty.ranks.mpi import RANK_VARIABLES, SIZE_VARIABLES

_PAUSE_S = 5.0
"""Between two attempts: the memory of dead processes is freed, and a scheduler sees that they are gone."""
_LOOK_S = 0.5
_PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
_PASSING = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY)
)
"""What file systems report that may pass: a full disk, a server that does not answer."""
_FIRST = "0"
_WRONG_USAGE = 2

State = tuple[int, int] | None
"""Which resume.h5 is in a folder: its number there, and when it was written; None = there is none."""


def state_in(folder: Path) -> State:
    """The saved state in a folder; another one after a run has written its own."""
    try:
        found = (folder / RESUME_FILE).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def may_pass(error: BaseException) -> bool:
    """Whether the same command may succeed the next time; also where the error is not one of this package."""
    if not isinstance(error, PyptyError):
        return True
    return error.may_pass or getattr(error.__cause__, "errno", None) in _PASSING


class Outcome:
    """What a run tells its supervisor: who it is, at once, and how it has ended."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._content: dict[str, Any] = {"owner": dataclasses.asdict(Owner.here())}
        self._write()

    def ended(self, status: int, interrupted_by: str = "") -> None:
        """The run has ended by itself, or after a signal."""
        self._content |= {"status": status, "interrupted_by": interrupted_by}
        self._write()

    def failed(self, error: Exception) -> None:
        """The run has failed."""
        self._content |= {"status": 1, "error": type(error).__name__, "may_pass": may_pass(error)}
        self._write()

    def _write(self) -> None:
        write_text(self._file, json.dumps(self._content))


@contextlib.contextmanager
def supervised(file: str | None) -> Iterator[Callable[[int, str], None]]:
    """Context of a run that tells its supervisor how it ends, by the file that it was given; None = it has none.

    Yields what is called with the exit status and the name of a signal, or "", when the run has ended.
    """
    if (
        file is None
        or next((os.environ[name] for name in RANK_VARIABLES if name in os.environ), _FIRST) != _FIRST
    ):
        yield lambda status, interrupted_by: None
        return
    outcome = Outcome(Path(file))
    try:
        yield outcome.ended
    except KeyboardInterrupt as interrupt:  # before the first epoch; its text is the name of the signal
        outcome.ended(exit_status(str(interrupt) or "SIGINT"), str(interrupt) or "SIGINT")
        raise
    except Exception as error:
        outcome.failed(error)
        raise


@dataclass(frozen=True, kw_only=True)
class Command:
    """The command of a run.

    Attributes
    ----------
    file, changes : parameter file, and the texts KEY=VALUE of --set
    options : further options of every attempt
    first_only : options of the first attempt, and of one that repeats it
    launcher : the words of the command that starts the processes of the run; () = it is started alone
    output_folder : that of the parameters
    """

    file: str
    changes: tuple[str, ...]
    options: tuple[str, ...]
    first_only: tuple[str, ...]
    launcher: tuple[str, ...]
    output_folder: Path

    def words(self, outcome: Path, continued: Path | None) -> list[str]:
        """The whole command, which begins the run, or continues the one in a folder."""
        changes, extra = list(self.changes), self.first_only
        if continued is not None:
            # a folder that is named after the settings is only continued under its own name
            auto = continued == self.output_folder
            changes += (
                ["resume=auto"] if auto else ["resume=true", f"output_folder={json.dumps(str(continued))}"]
            )
            extra = ()
        settings = [word for change in changes for word in ("--set", change)]
        start = [*self.launcher, sys.executable, "-m", "pypty", "run", self.file]
        return [*start, *settings, *self.options, *extra, "--outcome", str(outcome)]


@dataclass(kw_only=True)
class _Attempt:
    """One child, while it runs and after it.

    Attributes
    ----------
    outcome : the file in which the run tells how it ends
    base : the output folder of the parameters; the run works in it, or in a folder of it
    before : what ``base`` held before the first attempt
    lock, locked_ns : the lock of the folder in which the run works, and when it was made
    """

    process: subprocess.Popen[bytes]
    outcome: Path
    base: Path
    before: State = None
    lock: Path | None = None
    locked_ns: int = 0
    told: Mapping[str, Any] = field(default_factory=dict)

    def look(self) -> None:
        """Read what the run has told, and find the folder in which it works."""
        with contextlib.suppress(OSError, ValueError):
            self.told = json.loads(self.outcome.read_text(encoding="utf-8"))
        owner = self.owner()
        if self.lock is not None or owner is None:
            return
        for lock in (self.base / LOCK_FILE, *self.base.glob(f"*/{LOCK_FILE}")):
            holder = read_owner(lock)
            if holder is not None and dataclasses.replace(holder, since="", token="") == owner:
                with contextlib.suppress(OSError):
                    self.locked_ns = lock.stat().st_mtime_ns
                    self.lock = lock

    def owner(self) -> Owner | None:
        """The process of the run, if it has told; that of rank 0."""
        told = self.told.get("owner")
        return Owner(**{**told, "since": "", "token": ""}) if told else None

    def send(self, number: int) -> None:
        """Pass a signal on to the run itself: launchers end a run at once where it should end after its epoch."""
        self.look()
        owner = self.owner()
        if owner is not None and owner.is_here and owner.lives:
            os.kill(owner.process, number)
        elif self.process.poll() is None:
            self.process.send_signal(number)

    def folder_to_continue(self) -> Path | None:
        """The folder of the run, if there is something of this run in it, and not only of an earlier one."""
        folder = self.base if self.lock is None else self.lock.parent
        state = state_in(folder)
        if state is None or is_unfinished(folder):
            return None
        # in a folder of its own, times tell: both are by the clock of the file system
        ours = state != self.before if folder == self.base else state[1] >= self.locked_ns
        return folder if ours else None

    def died(self) -> bool:
        """Whether it ended without a word, but for wrong usage, and a launcher that is content."""
        return "status" not in self.told and self.process.returncode not in (0, _WRONG_USAGE)

    def reason(self) -> str:
        """How it ended, in words."""
        if "error" in self.told:
            return f"it failed ({self.told['error']})"
        code = int(self.process.returncode)
        if code < 0:
            name = signal.Signals(-code).name
            why = ": out of memory, or ended by hand" if name == "SIGKILL" else ""
            return f"it was killed by {name}{why}"
        return f"it died with exit status {code}"


class Supervisor:
    """Starts a run, and starts it again where that may help.

    Parameters
    ----------
    restarts : largest number of further attempts
    say : shows a message
    """

    def __init__(self, command: Command, restarts: int, say: Callable[[str], None]) -> None:
        self._command = command
        self._restarts = restarts
        self._say = say
        self._attempt: _Attempt | None = None
        self._before = state_in(command.output_folder)
        self._asked = ""  # the first signal that ends the run

    def run(self) -> int:
        """Run to the end; returns the exit status.

        Raises
        ------
        ParameterError
            The launcher cannot be started.
        OutputError
            The output folder cannot be written.
        """
        folder = self._command.output_folder
        was_there = folder.exists()
        outcome = make_folder(folder) / f".pypty.outcome.{uuid.uuid4().hex}"
        try:
            with self._signals():
                return self._all_attempts(outcome)
        finally:
            outcome.unlink(missing_ok=True)
            if not was_there:  # nothing is left of a run that could not begin
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def _all_attempts(self, outcome: Path) -> int:
        continued: Path | None = None
        for count in itertools.count(1):
            outcome.unlink(missing_ok=True)
            attempt = self._start(outcome, continued)
            self._wait(attempt)
            status = self._status(attempt)
            if self._asked or not (attempt.died() or attempt.told.get("may_pass")):
                if attempt.process.returncode == 0 and "status" not in attempt.told:
                    self._say("the launcher has ended, but no run of it has told how it ended")
                return status
            if count > self._restarts:
                self._say(f"attempt {count} of {count}: {attempt.reason()}; no attempt is left")
                return status
            continued = attempt.folder_to_continue() or continued
            how = "continues" if continued else "begins"
            self._say(
                f"attempt {count} of {self._restarts + 1}: {attempt.reason()}; it {how} in {_PAUSE_S:g} s"
            )
            until = time.monotonic() + _PAUSE_S
            while time.monotonic() < until and not self._asked:
                time.sleep(0.05)
            if self._asked:
                break
        return exit_status(self._asked)

    def _start(self, outcome: Path, continued: Path | None) -> _Attempt:
        words = self._command.words(outcome, continued)
        try:
            # a session of its own: a signal to the group of the supervisor comes to the run once, passed on
            process = subprocess.Popen(words, start_new_session=True)
        except OSError as error:
            raise ParameterError(f"--launcher: {words[0]!r} cannot be started: {error.strerror}") from error
        base = self._command.output_folder
        attempt = _Attempt(process=process, outcome=outcome, base=base, before=self._before)
        self._attempt = attempt
        if self._asked:  # it came before there was a child to pass it on to
            attempt.send(signal.Signals[self._asked])
        return attempt

    def _wait(self, attempt: _Attempt) -> None:
        while attempt.lock is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                attempt.process.wait(_LOOK_S)
                break
            attempt.look()
        attempt.process.wait()
        attempt.look()

    def _status(self, attempt: _Attempt) -> int:
        """What the run has told, else that of the child; 1 if it was killed by a signal that was not passed on."""
        code, told = int(attempt.process.returncode), attempt.told.get("status")
        if told:  # a launcher may make another number of it
            return int(told)
        asked = exit_status(self._asked)
        if asked and code in (asked, 128 - asked):
            return asked
        return code if code > 0 or told == 0 == code else 1

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        numbers = [getattr(signal, name) for name in _PASSED_ON if hasattr(signal, name)]
        before = {
            number: signal.signal(number, self._came)
            for number in numbers
            if signal.getsignal(number) not in (signal.SIG_IGN, None)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _came(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if name != "SIGUSR1":
            self._asked = self._asked or name
        if self._attempt is not None:
            self._attempt.send(number)


def supervise(command: Command, restarts: int, say: Callable[[str], None]) -> int:
    """Run a command, and start it again up to ``restarts`` times where it dies or fails for a reason that may pass.

    What would fail again is not repeated: wrong parameters, unusable data, a loss that is not finite. A later attempt
    continues the run from its last full epoch; where there is none, it is the first attempt again.

    Parameters
    ----------
    say : shows a message

    Returns
    -------
    the exit status of the last attempt; 1 if it was killed

    Raises
    ------
    ParameterError
        This is one of several processes of a launcher, or the launcher cannot be started.
    OutputError
        The output folder cannot be written.
    """
    if any(os.environ.get(name, "1") != "1" for name in SIZE_VARIABLES):
        raise ParameterError(
            "--restart: this is one of several processes of a launcher, and each would restart the run; start pypty "
            'alone, and let it start them: pypty run FILE --restart N --launcher "mpirun -n 4"'
        )
    return Supervisor(command, restarts, say).run()


def words_of(launcher: str | None) -> tuple[str, ...]:
    """The words of a launcher's command, as a shell divides them.

    Raises
    ------
    ParameterError
        A quotation is not closed.
    """
    try:
        return tuple(shlex.split(launcher or ""))
    except ValueError as error:
        raise ParameterError(
            f"--launcher {launcher!r}: {error}; for example --launcher 'mpirun -n 4'"
        ) from error
