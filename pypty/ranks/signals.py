"""Signals, in a process whose work is divided between ranks."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

_END = ("SIGINT", "SIGTERM", "SIGHUP")
IGNORED = (*_END, "SIGUSR1")
"""Signals that rank 0 answers for all."""
_ENDING = tuple(getattr(signal, name) for name in _END if hasattr(signal, name))
"""Those of them that may raise an exception anywhere in a run; Windows has no SIGHUP."""


class SignalsWait:
    """While the block runs, signals that end a run wait: what follows a message of which a half was sent would be taken
    for the other half.

    A class, since it is entered for every message: contexts made of generators take twice as long.
    """

    __slots__ = ("_before", "_came")

    def __init__(self) -> None:
        self._before: list[tuple[int, Any]] = []
        self._came: list[int] = []

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():  # signals come to no other
            return
        try:
            for number in _ENDING:
                handler = signal.getsignal(number)
                if callable(handler):  # else nothing of Python's would be interrupted
                    self._before.append((number, handler))
                    signal.signal(number, self._note)
        except BaseException:  # of a handler whose turn had not come
            self._restore()
            raise

    def __exit__(self, *_: object) -> None:
        self._restore()
        for number in self._came:
            signal.raise_signal(number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came.append(number)

    def _restore(self) -> None:
        if self._before:
            number, handler = self._before.pop()
            try:
                signal.signal(number, handler)
            finally:  # that handler may have raised
                self._restore()


@contextlib.contextmanager
def signals_ignored() -> Iterator[None]:
    """While the block runs, signals are left to rank 0, which ends the run with everything saved."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        numbers = (getattr(signal, name) for name in IGNORED if hasattr(signal, name))
        before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
