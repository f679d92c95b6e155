"""Signals to a run: Ctrl-C, those by which a queue or a closed terminal ends it (all save first), and SIGUSR1."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a supervisor needs nothing of them
    from pypty.engine.epochs.loop import Reload
    from pypty.params.settings import Settings

_log = logging.getLogger(__name__)
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
_PATIENCE = 2
"""Further signals while the results are being saved, before saving is given up."""
_ECHO_S = 1.0
"""A second SIGTERM within this time is the first one: a queue sends it to a process and to its group, and launchers
pass on what the group has got already."""


class Interrupted(KeyboardInterrupt):
    """A signal asked the run to end."""


class Interrupts:
    """Context manager: SIGINT and SIGHUP raise :class:`Interrupted`, once.

    While epochs are computed, SIGTERM (a queue's warning) waits for the end of the present one, and raises as it comes
    a second time; elsewhere it raises at once. SIGUSR1 asks for a checkpoint.

    Signals that are ignored (``nohup``) stay ignored. Outside the main thread, where Python delivers no signals,
    nothing changes.

    Attributes
    ----------
    name : the first signal that asked for an end, "" before
    saving : set while the results are saved: a signal then waits, and nothing is raised
    """

    def __init__(self) -> None:
        self.name = ""
        self.saving = False
        self._in_epochs = False
        self._wants_checkpoint = False
        self._count = 0
        self._terminated_at = -math.inf
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for name in _NAMES:
                number = getattr(signal, name, None)  # Windows has no SIGHUP and no SIGUSR1
                # None: a handler that was not set by Python, and cannot be put back
                if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._came)
        return self

    @contextlib.contextmanager
    def epochs(self) -> Iterator[None]:
        """While the block runs, SIGTERM waits for :meth:`before_epoch`; behind it the results are saved."""
        self._in_epochs = True
        try:
            yield
        finally:
            self._in_epochs, self.saving = False, True

    def before_epoch(self, reload: Reload) -> Reload:
        """The same function of settings, which raises :class:`Interrupted` if a signal asks to end.

        Called before an epoch, not after one: where none would follow, the run is complete.
        """

        def unless_interrupted(settings: Settings, epoch: int) -> Settings:
            # also one that came where Python ignores exceptions, as in a destructor
            if self.name:
                raise Interrupted(self.name)
            return reload(settings, epoch)

        return unless_interrupted

    def takes_checkpoint(self) -> bool:
        """Whether SIGUSR1 has come since the last call."""
        wanted, self._wants_checkpoint = self._wants_checkpoint, False
        return wanted

    @contextlib.contextmanager
    def may_interrupt(self) -> Iterator[None]:
        """While the block runs, for which nobody needs to wait, a signal raises :class:`Interrupted` again."""
        self.saving = False
        try:
            yield
        finally:
            self.saving = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _came(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if name == "SIGUSR1":
            self._wants_checkpoint = True
            return
        first = not self.name
        self.name = self.name or name
        if name == "SIGTERM":
            now = time.monotonic()
            if now - self._terminated_at < _ECHO_S:
                return
            self._terminated_at = now
            if first and self._in_epochs:
                _log.warning("SIGTERM: the run ends after this epoch; a second SIGTERM ends it at once")
                return
        self._count += 1
        if self._count == 1 and not self.saving:
            raise Interrupted(self.name)
        if self._count > 1 + _PATIENCE:
            raise KeyboardInterrupt
        _log.warning("%s: the results are being saved; wait", name)


def exit_status(name: str) -> int:
    """The exit status of a command that a signal has ended, as shells have it: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + signal.Signals[name] if name else 0
