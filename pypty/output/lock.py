"""One run at a time in an output folder: who is there, where, since when, and whether that run still lives.

The lock is a file that is created only if there is none, which works on shared file systems too. Its owner touches it
every half a minute. A lock is stale when its process is gone (seen on the same machine), or when it was not touched for
ten minutes by the clock of the file system that holds it (seen from another machine).
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import json
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from pypty.errors import OutputError
from pypty.output.files import make_folder, process_exists

_log = logging.getLogger(__name__)
LOCK_FILE = "pypty.lock"
_TOUCH_S = 30.0
_WAIT_S = 2.0
_SILENT_S = 600.0
"""A lock from another machine that was not touched for so long belongs to a run that is dead."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Owner:
    """The run that holds a lock.

    Attributes
    ----------
    machine : this boot of this machine, and the namespace of its process numbers (a container has its own)
    started : of the process, in clock ticks since boot; tells it from a later process of the same number
    token : tells two locks of one process apart
    """

    host: str
    machine: str
    process: int
    started: str
    user: str
    since: str
    token: str

    @classmethod
    def here(cls) -> Owner:
        process = os.getpid()
        return cls(
            host=platform.node() or "unknown",
            machine=_machine(),
            process=process,
            started=_started(process),
            user=_user(),
            since=datetime.now().astimezone().isoformat(timespec="seconds"),
            token=uuid.uuid4().hex,
        )

    def __str__(self) -> str:
        return f"process {self.process} of {self.user} on {self.host}, since {self.since}"

    @property
    def is_here(self) -> bool:
        """Whether its process can be looked up from here."""
        return bool(self.machine) and self.machine == _machine()

    @property
    def lives(self) -> bool:
        """Whether its process runs; only where ``is_here``."""
        return process_exists(self.process) and _started(self.process) == self.started


class FolderLock:
    """Context manager: holds the lock of a folder, which is made if there is none.

    Parameters
    ----------
    patient : wait until it is certain whether a run on another machine is dead; for jobs that a queue starts again

    Raises
    ------
    OutputError
        Another run works in the folder, or the folder cannot be written.
    """

    def __init__(self, folder: Path, patient: bool = False) -> None:
        self._patient = patient
        self._touched: float | None = None
        self.path = folder / LOCK_FILE
        self.owner = Owner.here()
        self._ended = threading.Event()
        self._touching: threading.Thread | None = None

    def __enter__(self) -> FolderLock:
        make_folder(self.path.parent)
        # a stale lock is taken away; if another run takes its place meanwhile, the second look finds that run
        while not self._create():
            self._remove_stale()
        self._touching = threading.Thread(target=self._touch, name="pypty lock", daemon=True)
        self._touching.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._touching is not None:
            self._touching.join()
        if self._is_ours():
            try:
                self.path.unlink(missing_ok=True)
            # the result is more important, and the lock is stale once this process has ended
            except OSError as failure:
                _log.warning("%s cannot be removed: %s", self.path, failure)

    def check(self) -> None:
        """Make sure that no other run has taken the folder over; a lock that was deleted is written again.

        Raises
        ------
        OutputError
            Another run works in the folder now; nothing more may be written.
        """
        if self._is_ours():
            return
        if not self.path.exists():
            _log.warning("%s was removed; it is written again", self.path)
            if self._create():
                return
        owner = read_owner(self.path)
        raise OutputError(f"{str(self.path.parent)!r} was taken over by another run ({owner}); this one ends")

    def _create(self) -> bool:
        """Whether the lock is ours now."""
        try:
            # written under its own name first: a lock is never seen half written
            # containers that share a folder may share a process number, too
            whole = self.path.with_name(f".{LOCK_FILE}.{self.owner.token}.{os.getpid()}.tmp")
            whole.write_text(json.dumps(dataclasses.asdict(self.owner), indent=1), encoding="utf-8")
            try:
                _link(whole, self.path)
            except FileExistsError:
                return self._is_ours()  # NFS may say so although it has linked
            finally:
                whole.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{str(self.path)!r} cannot be written: {error.strerror or error}") from error
        return True

    def _remove_stale(self) -> None:
        """Take a lock away whose run is dead; raises OutputError if it lives, or may live."""
        owner = read_owner(self.path)
        silent_s = self._silence()
        if silent_s is None:
            return  # it is gone
        folder = str(self.path.parent)
        # where the start of a process is not known, its number may be used again
        if owner is not None and owner.is_here and (owner.started or silent_s < _SILENT_S):
            if owner.lives:
                raise OutputError(
                    f"{folder!r} is in use by another run: {owner}; wait for it, end it, or choose another "
                    "output_folder"
                )
        elif silent_s < _SILENT_S:
            if self._patient and self._touched in (None, self.path.stat().st_mtime):
                self._wait(owner)
                return
            raise OutputError(
                f"{folder!r} is in use by another run: {owner or 'its lock cannot be read'}; its last sign of life is "
                f"{silent_s:.0f} s old. Wait for it, end it, or choose another output_folder; if it is certainly dead, "
                f"delete {LOCK_FILE}, or wait until {_SILENT_S / 60:.0f} minutes have passed"
            )
        aside = self.path.with_name(f".{LOCK_FILE}.{self.owner.token}.stale.{os.getpid()}.tmp")
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return
        except OSError as error:
            raise OutputError(f"{str(self.path)!r} cannot be removed: {error.strerror or error}") from error
        if read_owner(aside) != owner:  # another run was quicker, and this is its lock: give it back
            with contextlib.suppress(FileExistsError):
                _link(aside, self.path)
        else:
            _log.warning(
                "%s: the run of %s is dead; its lock was removed", folder, owner or "an unknown owner"
            )
        aside.unlink(missing_ok=True)

    def _wait(self, owner: Owner | None) -> None:
        """Wait a little for another sign of life of a run that may be dead."""
        if self._touched is None:
            _log.warning(
                "%s: waiting for a sign of life of %s", self.path.parent, owner or "an unknown owner"
            )
            with contextlib.suppress(OSError):
                self._touched = self.path.stat().st_mtime
        time.sleep(_WAIT_S)

    def _silence(self) -> float | None:
        """Seconds since the lock was touched, by the clock of its file system; None if there is no lock."""
        probe = self.path.with_name(f".{LOCK_FILE}.{self.owner.token}.clock.{os.getpid()}.tmp")
        try:
            probe.write_bytes(b"")
            return max(0.0, probe.stat().st_mtime - self.path.stat().st_mtime)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OutputError(
                f"{str(self.path.parent)!r} cannot be written: {error.strerror or error}"
            ) from error
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)

    def _is_ours(self) -> bool:
        owner = read_owner(self.path)
        return owner is not None and owner.token == self.owner.token

    def _touch(self) -> None:
        while not self._ended.wait(_TOUCH_S):
            with contextlib.suppress(OSError):
                if self._is_ours():
                    os.utime(self.path)


@contextlib.contextmanager
def locked(folder: Path | None, patient: bool = False) -> Iterator[FolderLock | None]:
    """The lock of a folder, or nothing where nothing is written."""
    if folder is None:
        yield None
        return
    with FolderLock(folder, patient) as lock:
        yield lock


def read_owner(path: Path) -> Owner | None:
    """Who holds a lock; None if there is none, or if it cannot be read."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        return Owner(**{field.name: content[field.name] for field in dataclasses.fields(Owner)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _link(source: Path, target: Path) -> None:
    """Give a file a second name that must be free; where there are no hard links, create a copy exclusively."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        with open(target, "x", encoding="utf-8") as stream:
            stream.write(source.read_text(encoding="utf-8"))


def _machine() -> str:
    """This boot of this machine and its process numbers; "" where they are not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{platform.node()} {boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        # macOS and others: a process can be looked up by number alone; on Windows it cannot
        return platform.node() if os.name == "posix" else ""


def _started(process: int) -> str:
    """When a process started, in ticks since boot; "" where that is not known."""
    try:
        # the name, field 2, stands in brackets and may contain spaces; field 3 is the state, field 22 the start
        fields = (
            Path(f"/proc/{process}/stat")
            .read_text(encoding="ascii", errors="replace")
            .rsplit(")", 1)[1]
            .split()
        )
        return "dead" if fields[0] in "ZX" else fields[19]  # a zombie has ended, and its parent has not asked
    except (OSError, IndexError):
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # no name for this number
        return "an unknown user"
