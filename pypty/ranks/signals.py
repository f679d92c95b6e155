"""Signals, in a process whose work is divided between ranks."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_ENDING = ("SIGINT", "SIGTERM", "SIGHUP")
"""Signals that may raise an exception anywhere in a run."""
IGNORED = (*_ENDING, "SIGUSR1")
"""Signals that rank 0 answers for all."""


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """While the block runs, signals that end a run wait: what follows a message of which a half was sent would be taken
    for the other half."""
    with contextlib.ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():  # signals come to no other
            for name in _ENDING:
                if hasattr(signal, name):
                    stack.enter_context(_waits(getattr(signal, name)))
        yield


@contextlib.contextmanager
def _waits(number: int) -> Iterator[None]:
    """While the block runs, one signal waits."""
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    handler = signal.getsignal(number)
    if handler in (signal.SIG_IGN, signal.SIG_DFL, None):  # nothing of Python's would be interrupted
        yield
        return
    try:
        signal.signal(number, note)
        yield
    finally:
        signal.signal(number, handler)
        if came:
            signal.raise_signal(number)


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
