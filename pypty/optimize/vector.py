"""A vector made of named blocks of real or complex arrays, with the plain real inner product."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from pypty.backend.array import Array, array_module


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
        return {name: _dot(array, other[name]) for name, array in self._blocks.items()}

    def dot(self, other: BlockVector) -> float:
        return float(sum(self.dot_blocks(other).values()))

    def norm(self) -> float:
        return float(np.sqrt(self.dot(self)))

    def dots(self, others: Sequence[BlockVector]) -> list[float]:
        """The inner product with each of several vectors. On a device all of them are fetched in one transfer."""
        if not others:
            return []
        products = [
            sum(_product(array, other[name]) for name, array in self._blocks.items()) for other in others
        ]
        if isinstance(products[0], float):
            return products
        return [float(value) for value in array_module(products[0]).stack(products).get()]

    def combined(self, factors: Sequence[float], others: Sequence[BlockVector]) -> BlockVector:
        """self + sum of factors x others, in one pass over the memory."""
        return BlockVector(
            {
                name: _combined(array, factors, [other[name] for other in others])
                for name, array in self._blocks.items()
            }
        )

    def plus(self, factor: float, other: BlockVector) -> BlockVector:
        """self + factor other, a new vector of the same types."""
        return BlockVector(
            {name: array + float(factor) * other[name] for name, array in self._blocks.items()}
        )

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
        return all(bool(array_module(array).isfinite(array).all()) for array in self._blocks.values())


_ROW = 1024  # numbers that are summed in the precision of the arrays
_PIECE = 1 << 15
"""Numbers that are combined at a time: they stay in the cache."""


def _dot(a: Array, b: Array) -> float:
    return float(_product(a, b))


def _product(a: Array, b: Array) -> Array:
    """Re sum a conj(b), a Python number on the host and a 0-d array on a device.

    On the host rows of 1024 numbers are summed in the precision of the arrays, and the rows in float64: as exact as a
    float64 sum of float32 products, without an array of them.
    """
    if not isinstance(a, np.ndarray):
        product = a.real * b.real + a.imag * b.imag if a.dtype.kind == "c" else a * b
        return product.sum(dtype=np.float64)
    x, y = (np.ascontiguousarray(array).reshape(-1) for array in (a, b))
    if a.dtype.kind == "c":
        x, y = x.view(a.real.dtype), y.view(b.real.dtype)
    whole = len(x) // _ROW * _ROW  # numbers after the last whole row are summed on their own
    # (n,) -> (n // 1024,): partial sums in the precision of the arrays
    rows = np.einsum("ij,ij->i", x[:whole].reshape(-1, _ROW), y[:whole].reshape(-1, _ROW))
    return float(rows.sum(dtype=np.float64)) + float((x[whole:] * y[whole:]).sum(dtype=np.float64))


def _combined(base: Array, factors: Sequence[float], arrays: Sequence[Array]) -> Array:
    """base + sum of factors x arrays. On the host all arrays are added to a piece while it is in the cache."""
    out = base.copy()
    if not isinstance(out, np.ndarray):
        for factor, array in zip(factors, arrays, strict=True):
            out += float(factor) * array
        return out
    flat, parts = out.reshape(-1), [np.ascontiguousarray(array).reshape(-1) for array in arrays]
    for start in range(0, len(flat), _PIECE):
        piece = slice(start, start + _PIECE)
        for factor, part in zip(factors, parts, strict=True):
            flat[piece] += float(factor) * part[piece]
    return out
