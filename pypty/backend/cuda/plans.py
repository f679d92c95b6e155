"""How the windows that the split kernels cover are divided among threads: a plan for every length 2^a 3^b 5^c."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from pypty.backend.cuda.module import Parameters
from pypty.errors import BackendError

SMALLEST, LARGEST = 16, 512
"""Windows (pixels) that are supported; all lengths 2^a 3^b 5^c between them are."""

_RADICES = (16, 15, 12, 10, 9, 8, 6, 5, 4, 3, 2)
"""Small transforms that a thread does in registers."""

_MOST_POINTS = 16
"""Points of a line per thread. More would leave too few registers for two lines and a sum (row_adjoint)."""

_MOST_THREADS = 64
"""Threads of a line."""

_EXCHANGE = 0.5
"""Cost of an exchange through shared memory, in passes through all small transforms of a line."""
_BARRIER = 0.3
"""Cost of waiting for the whole block instead of a warp, in the same unit."""


@dataclass(frozen=True)
class Plan:
    """How a window is divided among threads.

    Attributes
    ----------
    radices : radix of each stage of a transform; their product is the window size
    line_threads : threads that share a line
    rows, columns : lines per block in the row and in the column kernels
    """

    radices: tuple[int, int, int]
    line_threads: int
    rows: int
    columns: int

    @property
    def window(self) -> int:
        return math.prod(self.radices)

    @property
    def per_thread(self) -> int:
        """The largest number of points that a thread holds."""
        return max(_points(self.window, radix, self.line_threads) for radix in self.radices if radix > 1)

    @property
    def row_threads(self) -> int:
        return self.line_threads * self.rows

    @property
    def column_threads(self) -> int:
        return self.line_threads * self.columns

    @property
    def parameters(self) -> Parameters:
        """Compile-time parameters."""
        numbers = {
            "WINDOW": self.window,
            "RADIX_1": self.radices[0],
            "RADIX_2": self.radices[1],
            "RADIX_3": self.radices[2],
            "THREADS_PER_LINE": self.line_threads,
            "PER_THREAD": self.per_thread,
            "ROWS": self.rows,
            "COLUMNS": self.columns,
        }
        return tuple((name, str(number)) for name, number in numbers.items())


def _points(window: int, radix: int, threads: int) -> int:
    """Points that the busiest thread holds in a stage: those of ceil(window / radix / threads) small transforms."""
    return -(-window // radix // threads) * radix


def _factorings(window: int) -> Iterator[tuple[int, int, int]]:
    """Two or three radices with this product; the smallest of three in the middle, as transforms begin and end with the
    points of the others (transform.cuh: the smaller these radices, the more free places in shared memory)."""
    for first, second, third in itertools.combinations_with_replacement((*_RADICES, 1), 3):
        if first * second * third == window and second > 1:
            yield (first, third, second) if third > 1 else (first, second, 1)


def _cost(window: int, radices: tuple[int, int, int], threads: int) -> tuple[float, int] | None:
    """Time of a transform in passes through all points, then points per thread; None where a thread has too many."""
    points = [_points(window, radix, threads) for radix in radices if radix > 1]
    if max(points) > _MOST_POINTS:
        return None
    # threads that have no small transform in the last round wait for the others
    passes = threads * sum(points) / window
    exchanges = (len(points) - 1) * _EXCHANGE
    return passes + exchanges + (_BARRIER if 32 % threads else 0.0), max(points)


def _lines(window: int, threads: int) -> tuple[int, int]:
    """Rows and columns of a block: about 128 threads for rows that fill the blocks; 16 columns fill a piece of memory
    that is read at once (128 bytes), 8 where that would be more than 256 threads."""
    divisors = [rows for rows in range(1, window + 1) if window % rows == 0 and rows * threads <= 256]
    rows = min(divisors, key=lambda rows: abs(rows * threads - 128))
    return rows, 16 if 16 * threads <= 256 else 8


@lru_cache(maxsize=64)
def plan_of(window: int) -> Plan:
    """The cheapest plan of a length in :data:`WINDOWS`."""
    best: tuple[tuple[float, int], tuple[int, int, int], int] | None = None
    for radices in _factorings(window):
        for threads in range(2, _MOST_THREADS + 1):
            cost = _cost(window, radices, threads)
            if cost is not None and (best is None or cost < best[0]):
                best = cost, radices, threads
    if best is None:
        raise BackendError(f"there are no split kernels for windows of {window} pixels; use one of {WINDOWS}")
    _, radices, threads = best
    return Plan(radices, threads, *_lines(window, threads))


def _only_small_factors(n: int) -> bool:
    """Whether n = 2^a 3^b 5^c."""
    for prime in (2, 3, 5):
        while n % prime == 0:
            n //= prime
    return n == 1


WINDOWS: tuple[int, ...] = tuple(n for n in range(SMALLEST, LARGEST + 1) if _only_small_factors(n))
"""Supported windows (pixels)."""
