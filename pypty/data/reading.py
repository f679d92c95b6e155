"""Reading ahead: the next batches are read from the file while the current one is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np

from pypty.data.sources import ArraySource, CastSource, PatternSource

_AHEAD = 2
"""Batches per computing thread that are being read or are waiting to be computed."""


def reads_file(source: PatternSource) -> bool:
    """Whether reading takes more than a view of an array in memory."""
    if isinstance(source, CastSource):
        return reads_file(source.source)
    if isinstance(source, ArraySource):
        return not isinstance(source.array, np.ndarray) or isinstance(source.array, np.memmap)
    return True


class Reader:
    """A thread that reads for all computing threads; it is started on first use."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "pypty-reader")

    def ahead(self, read: Callable[[np.ndarray], Any], chosen: Sequence[np.ndarray]) -> Iterator[Any]:
        """Yield ``read(indices)`` for each entry of ``chosen``, in order; errors are raised here."""
        waiting: deque[Future] = deque()
        try:
            for indices in chosen:
                waiting.append(self._pool.submit(read, indices))
                if len(waiting) == _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # A read that has begun cannot be cancelled; the caller may close the file as soon as this returns.
            for future in waiting:
                future.cancel()
            wait(waiting)
