"""A vector made of named blocks of real or complex arrays, with the plain real inner product."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

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
        """Every block times its own factor, or all times one."""

        def factor(name: str) -> float:
            return factors[name] if isinstance(factors, Mapping) else factors

        return BlockVector({name: float(factor(name)) * array for name, array in self._blocks.items()})

    def copy(self) -> BlockVector:
        return self.map(lambda array: array.copy())

    def map(self, function: Callable[[Array], Array]) -> BlockVector:
        return BlockVector({name: function(array) for name, array in self._blocks.items()})

    def is_finite(self) -> bool:
        return all(bool(array_module(array).isfinite(array).all()) for array in self._blocks.values())


def _dot(a: Array, b: Array) -> float:
    xp = array_module(a)
    if a.dtype.kind == "c":
        product = a.real * b.real
        product += a.imag * b.imag
        return float(xp.sum(product, dtype=np.float64))
    return float(xp.sum(a * b, dtype=np.float64))
