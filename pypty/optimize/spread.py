"""Arrays of which each rank keeps a piece: vectors that are only multiplied and added need not be whole anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pypty.backend.array import Array


class Shelf(Protocol):
    """Where the pieces lie."""

    def whole(self, array: Spread) -> Array:
        """The array, put together."""

    def inner_products(self, pairs: Sequence[tuple[Array | Spread, Array | Spread]]) -> list[float]:
        """Re sum a conj(b) of each pair."""

    def combined(self, base: Array, factors: Sequence[float], arrays: Sequence[Spread]) -> Array:
        """base + sum of factors x arrays."""


@dataclass(frozen=True, eq=False)
class Spread:
    """An array that is kept in pieces.

    Attributes
    ----------
    number : by which the ranks know it; they forget it with this object
    """

    shelf: Shelf
    number: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


def whole(array: Array | Spread) -> Array:
    """An array that this process holds."""
    return array.shelf.whole(array) if isinstance(array, Spread) else array
