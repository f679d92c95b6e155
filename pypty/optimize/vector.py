"""A vector made of named blocks of real or complex arrays, with the plain real inner product."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from pypty.backend.array import Array, array_module
from pypty.backend.cuda import steps


class BlockVector(Mapping[str, Array]):
    """Named arrays as one vector: <a, b> = sum over blocks of Re sum a conj(b), in float64."""

    def __init__(self, blocks: Mapping[str, Array]) -> None:
        self._blocks = dict(blocks)

    def __getitem__(self, name: str) -> Array:
        return self._blocks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._blocks)

    def __len__(self) -> int:
        return len(self._blocks)

    def dot_blocks(self, other: BlockVector) -> dict[str, float]:
        """The inner product of each block."""
        return inner_products([(self, other)])[0]

    def dot(self, other: BlockVector) -> float:
        return float(sum(self.dot_blocks(other).values()))

    def norm(self) -> float:
        return float(np.sqrt(self.dot(self)))

    def dots(self, others: Sequence[BlockVector]) -> list[float]:
        """The inner product with each of several vectors."""
        return [sum(blocks.values()) for blocks in inner_products([(self, other) for other in others])]

    def combined(self, factors: Sequence[float], others: Sequence[BlockVector]) -> BlockVector:
        """self + sum of factors x others, in one pass over the memory."""
        if not factors or not self._blocks:
            return self.copy()
        if not self._on_host:
            own = [[other[name] for other in others] for name in self._blocks]
            sums = steps.combined(list(self._blocks.values()), factors, own)
            return BlockVector(dict(zip(self._blocks, sums, strict=True)))
        return BlockVector(
            {
                name: _combined(array, factors, [other[name] for other in others])
                for name, array in self._blocks.items()
            }
        )

    def plus(self, factor: float, other: BlockVector) -> BlockVector:
        """self + factor other, a new vector of the same types."""
        return BlockVector({name: _plus(array, factor, other[name]) for name, array in self._blocks.items()})

    def add(self, factor: float, other: BlockVector) -> None:
        """self += factor other."""
        for name, array in self._blocks.items():
            array += float(factor) * other[name]

    def scaled(self, factors: Mapping[str, float] | float) -> BlockVector:
        """Each block times its factor, or all blocks times one number."""

        def factor(name: str) -> float:
            return factors[name] if isinstance(factors, Mapping) else factors

        return BlockVector({name: float(factor(name)) * array for name, array in self._blocks.items()})

    def copy(self) -> BlockVector:
        return self.map(lambda array: array.copy())

    def map(self, function: Callable[[Array], Array]) -> BlockVector:
        return BlockVector({name: function(array) for name, array in self._blocks.items()})

    def is_finite(self) -> bool:
        # on a device the squares need one transfer; they may be too large for a number only where the check goes on
        if not self._on_host and all(math.isfinite(square) for square in self.dot_blocks(self).values()):
            return True
        return all(bool(array_module(array).isfinite(array).all()) for array in self._blocks.values())

    @property
    def _on_host(self) -> bool:
        return all(isinstance(array, np.ndarray) for array in self._blocks.values())


def inner_products(pairs: Sequence[tuple[BlockVector, BlockVector]]) -> list[dict[str, float]]:
    """The inner product of each block, for each pair of vectors.

    On a device all of them are one launch and one transfer (backend/cuda/steps.cu): products that do not depend on each
    other should be asked for together.
    """
    listed = [(a[name], b[name]) for a, b in pairs for name in a]
    if all(isinstance(a, np.ndarray) for a, _ in listed):
        values = [_dot(a, b) for a, b in listed]
    else:
        values = [float(value) for value in steps.inner_products(listed)]
    remaining = iter(values)
    return [{name: next(remaining) for name in a} for a, _ in pairs]


_ROW = 1024  # numbers that are summed in the precision of the arrays
_PIECE = 1 << 15
"""Numbers that are combined at a time: they stay in the cache."""


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    """Re sum a conj(b).

    Rows of 1024 numbers are summed in the precision of the arrays, and the rows in float64: as exact as a float64 sum
    of float32 products, without an array of them.
    """
    x, y = (np.ascontiguousarray(array).reshape(-1) for array in (a, b))
    if a.dtype.kind == "c":
        x, y = x.view(a.real.dtype), y.view(b.real.dtype)
    whole = len(x) // _ROW * _ROW  # numbers after the last whole row are summed on their own
    # (n,) -> (n // 1024,): partial sums in the precision of the arrays
    rows = np.einsum("ij,ij->i", x[:whole].reshape(-1, _ROW), y[:whole].reshape(-1, _ROW))
    return float(rows.sum(dtype=np.float64)) + float((x[whole:] * y[whole:]).sum(dtype=np.float64))


def _plus(array: Array, factor: float, other: Array) -> Array:
    if isinstance(array, np.ndarray):
        return array + float(factor) * other
    return steps.added(array, factor, other)


def _combined(base: np.ndarray, factors: Sequence[float], arrays: Sequence[np.ndarray]) -> np.ndarray:
    """base + sum of factors x arrays: all arrays are added to a piece while it is in the cache."""
    out = base.copy()
    flat, parts = out.reshape(-1), [np.ascontiguousarray(array).reshape(-1) for array in arrays]
    for start in range(0, len(flat), _PIECE):
        piece = slice(start, start + _PIECE)
        for factor, part in zip(factors, parts, strict=True):
            flat[piece] += float(factor) * part[piece]
    return out
