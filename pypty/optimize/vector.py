"""A vector made of named blocks of real or complex arrays, with the plain real inner product."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from pypty.backend.array import Array, array_module
from pypty.backend.cuda import steps
from pypty.optimize.spread import Spread, whole


class BlockVector(Mapping[str, Array]):
    """Named arrays as one vector: <a, b> = sum over blocks of Re sum a conj(b), in float64.

    Blocks may be kept in pieces by several ranks (:mod:`pypty.optimize.spread`): inner products and sums are computed
    there, and anything else puts the block together.
    """

    def __init__(self, blocks: Mapping[str, Array | Spread]) -> None:
        self._blocks = dict(blocks.kept() if isinstance(blocks, BlockVector) else blocks)

    def __getitem__(self, name: str) -> Array:
        return whole(self._blocks[name])

    def kept(self) -> dict[str, Array | Spread]:
        """The blocks as they are kept, in pieces or not."""
        return dict(self._blocks)

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
        own = {name: [other.kept()[name] for other in others] for name in self._blocks}
        sums = {
            name: arrays[0].shelf.combined(self[name], factors, arrays)
            for name, arrays in own.items()
            if all(isinstance(array, Spread) for array in arrays)
        }
        rest = [name for name in self._blocks if name not in sums]
        bases, arrays = (
            [self[name] for name in rest],
            [[whole(array) for array in own[name]] for name in rest],
        )
        if _on_host(bases):
            found = [_combined(base, factors, some) for base, some in zip(bases, arrays, strict=True)]
        else:
            found = steps.combined(bases, factors, arrays)
        sums |= zip(rest, found, strict=True)
        return BlockVector({name: sums[name] for name in self._blocks})

    def plus(self, factor: float, other: BlockVector) -> BlockVector:
        """self + factor other, a new vector of the same types."""
        return BlockVector({name: _plus(array, factor, other[name]) for name, array in self.items()})

    def add(self, factor: float, other: BlockVector) -> None:
        """self += factor other."""
        for name, array in self.items():
            array += float(factor) * other[name]

    def scaled(self, factors: Mapping[str, float] | float) -> BlockVector:
        """Each block times its factor, or all blocks times one number."""

        def factor(name: str) -> float:
            return factors[name] if isinstance(factors, Mapping) else factors

        return BlockVector({name: float(factor(name)) * array for name, array in self.items()})

    def copy(self) -> BlockVector:
        return self.map(lambda array: array.copy())

    def map(self, function: Callable[[Array], Array]) -> BlockVector:
        return BlockVector({name: function(array) for name, array in self.items()})

    def is_finite(self) -> bool:
        # on a device the squares need one transfer; they may be too large for a number only where the check goes on
        if not _on_host(self.values()) and all(
            math.isfinite(square) for square in self.dot_blocks(self).values()
        ):
            return True
        return all(bool(array_module(array).isfinite(array).all()) for array in self.values())


def _on_host(arrays: Iterable[Array]) -> bool:
    return all(isinstance(array, np.ndarray) for array in arrays)


def inner_products(pairs: Sequence[tuple[BlockVector, BlockVector]]) -> list[dict[str, float]]:
    """The inner product of each block, for each pair of vectors.

    On a device all of them are one launch and one transfer (backend/cuda/steps.cu): products that do not depend on each
    other should be asked for together.
    """
    kept = [(a.kept(), b.kept()) for a, b in pairs]
    listed = [(a[name], b[name]) for a, b in kept for name in a]
    apart = [i for i, both in enumerate(listed) if any(isinstance(array, Spread) for array in both)]
    values = dict(zip(apart, _of_pieces([listed[i] for i in apart]), strict=True))
    rest = [i for i in range(len(listed)) if i not in values]
    values |= zip(rest, _products([listed[i] for i in rest]), strict=True)
    remaining = iter(values[i] for i in range(len(listed)))
    return [{name: next(remaining) for name in a} for a, _ in kept]


def _products(pairs: Sequence[tuple[Array, Array]]) -> list[float]:
    if _on_host(array for array, _ in pairs):
        return [_dot(a, b) for a, b in pairs]
    return [float(value) for value in steps.inner_products(pairs)]


def _of_pieces(pairs: Sequence[tuple[Array | Spread, Array | Spread]]) -> list[float]:
    """Inner products of which one array, or both, are kept in pieces; all are on one shelf."""
    shelves = [array.shelf for both in pairs for array in both if isinstance(array, Spread)]
    return shelves[0].inner_products(pairs) if shelves else []


_ROW = 1024  # numbers that are summed in the precision of the arrays
PIECE = 1 << 15
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
        moved = float(factor) * other
        moved += array  # in place: these arrays may be the largest of a run
        return moved
    return steps.added(array, factor, other)


def _combined(base: np.ndarray, factors: Sequence[float], arrays: Sequence[np.ndarray]) -> np.ndarray:
    """base + sum of factors x arrays: all arrays are added to a piece while it is in the cache."""
    out = base.copy()
    flat, parts = out.reshape(-1), [np.ascontiguousarray(array).reshape(-1) for array in arrays]
    for start in range(0, len(flat), PIECE):
        piece = slice(start, start + PIECE)
        for factor, part in zip(factors, parts, strict=True):
            flat[piece] += float(factor) * part[piece]
    return out
