"""Ctrl-C and the signals by which a queue or a closed terminal ends a run: all of them save first."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType

_log = logging.getLogger(__name__)
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
_PATIENCE = 2
"""Further signals while the results are being saved, before saving is given up."""


class Interrupted(KeyboardInterrupt):
    """A signal asked the run to end."""


class Interrupts:
    """Context manager: SIGINT, SIGTERM and SIGHUP raise :class:`Interrupted`, once.

    Signals that are ignored (``nohup``) stay ignored. Outside the main thread, where Python delivers no signals,
    nothing changes.

    Attributes
    ----------
    name : the signal that came first, "" before
    saving : set while the results are saved: a signal then waits, and nothing is raised
    """

    def __init__(self) -> None:
        self.name = ""
        self.saving = False
        self._count = 0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for name in _NAMES:
                number = getattr(signal, name, None)  # Windows has no SIGHUP
                # None: a handler that was not set by Python, and cannot be put back
                if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._came)
        return self

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
        self._count += 1
        self.name = self.name or signal.Signals(number).name
        if self._count == 1 and not self.saving:
            raise Interrupted(self.name)
        if self._count > 1 + _PATIENCE:
            raise KeyboardInterrupt
        _log.warning("%s: the results are being saved; wait", signal.Signals(number).name)


def exit_status(name: str) -> int:
    """The exit status of a command that a signal has ended, as shells have it: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + signal.Signals[name] if name else 0
