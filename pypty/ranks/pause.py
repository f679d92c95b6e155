"""Waiting for what no system call waits for."""

from __future__ import annotations

import os
import time


class Pause:
    """Waiting between looks: none at first, then longer ones, so that a long wait needs no processor.

    A pause lasts 2 % of the time that was waited, so that what comes is seen that much later at most.

    Attributes
    ----------
    waited_s : time that was waited; not that of a clock, since a machine may sleep in between
    """

    def __init__(self, spin_s: float) -> None:
        self.waited_s = 0.0
        self._spin_s = spin_s
        self._since = 0.0

    def wait(self) -> None:
        if self.waited_s < self._spin_s:
            _give_way()
            self._since = self._since or time.perf_counter()
            self.waited_s = min(time.perf_counter() - self._since, self._spin_s)
            return
        pause_s = min(max(0.02 * self.waited_s, 0.0002), 0.005)
        time.sleep(pause_s)
        self.waited_s += pause_s


def _give_way() -> None:
    """Let another process have the core, if one is waiting for it."""
    if hasattr(os, "sched_yield"):
        os.sched_yield()
    else:
        time.sleep(0)
