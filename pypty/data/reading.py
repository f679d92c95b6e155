"""Reading ahead: the next batches are read from the file while the present one computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np

from pypty.data.sources import ArraySource, CastSource, PatternSource

_AHEAD = 2
"""Batches of each thread that are being read, or wait to be computed."""


def reads_file(source: PatternSource) -> bool:
    """Whether reading takes more than a view of an array in memory."""
    if isinstance(source, CastSource):
        return reads_file(source.source)
    if isinstance(source, ArraySource):
        return not isinstance(source.array, np.ndarray) or isinstance(source.array, np.memmap)
    return True


class Reader:
    """One thread that reads, for all threads that compute; it starts when it is first needed."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "pypty-reader")

    def ahead(self, read: Callable[[np.ndarray], Any], chosen: Sequence[np.ndarray]) -> Iterator[Any]:
        """``read`` of each of the chosen, in their order; errors are raised here."""
        waiting: deque[Future] = deque()
        try:
            for indices in chosen:
                waiting.append(self._pool.submit(read, indices))
                if len(waiting) == _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            wait(waiting)
