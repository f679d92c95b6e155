"""The history of L-BFGS in pieces: each rank keeps an equal part of every large array of it.

An iteration then sends the gradient, two directions and the new pair through rank 0 once, and holds 2 m/K arrays of the
size of the object instead of 2 m.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pypty.backend.array import Array, array_module
from pypty.optimize.spread import Spread
from pypty.optimize.vector import BlockVector, inner_products
from pypty.ranks.link import Link
from pypty.ranks.questions import Questions

Operand = tuple[str, int]
"""("kept", number of a spread array) or ("sent", place among the pieces that come with the question)."""


class Pieces:
    """The pieces that one rank keeps."""

    def __init__(self) -> None:
        self.kept: dict[int, Array] = {}

    def forget(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self.kept.pop(number, None)

    def products(self, pairs: Sequence[tuple[Operand, Operand]], sent: Sequence[Array]) -> np.ndarray:
        """The share of this rank in each inner product."""
        arrays = [tuple(self._array(operand, sent) for operand in pair) for pair in pairs]
        found = inner_products([(BlockVector({"": a}), BlockVector({"": b})) for a, b in arrays])
        return np.array([value[""] for value in found])

    def sum(self, factors: Sequence[float], numbers: Sequence[int]) -> Array:
        """The piece of a sum of kept arrays."""
        first = self.kept[numbers[0]]
        zero = BlockVector({"": array_module(first).zeros_like(first)})
        return zero.combined(factors, [BlockVector({"": self.kept[number]}) for number in numbers])[""]

    def _array(self, operand: Operand, sent: Sequence[Array]) -> Array:
        where, number = operand
        return self.kept[number] if where == "kept" else sent[number]


@dataclass
class RankShelf:
    """All pieces, as rank 0 sees them (:class:`pypty.optimize.spread.Shelf`).

    Attributes
    ----------
    link : to the other ranks
    questions : all that is asked of them
    """

    link: Link
    questions: Questions
    _own: Pieces = field(default_factory=Pieces)
    _next: int = 0
    _gone: list[int] = field(default_factory=list)

    def keep(self, array: Array) -> Spread:
        """Give every rank its piece of an array."""
        number, self._next = self._next, self._next + 1
        spread = Spread(self, number, array.shape, array.dtype)
        # a list, not a method of this object: it would never be released
        weakref.finalize(spread, self._gone.append, number)
        pieces = self._cut(array)
        with self._asked("keep", number, [[piece] for piece in pieces[1:]]):
            self._own.kept[number] = pieces[0].copy()
            for rank in self.link.others:
                self.questions.answer(rank)
        return spread

    def whole(self, array: Spread) -> Array:
        with self._asked("whole", array.number):
            return self._joined(self._own.kept[array.number], array.shape)

    def combined(self, base: Array, factors: Sequence[float], arrays: Sequence[Spread]) -> Array:
        numbers = [array.number for array in arrays]
        with self._asked("add up", (list(factors), numbers)):
            return base + self._joined(self._own.sum(factors, numbers), base.shape)

    def inner_products(self, pairs: Sequence[tuple[Array | Spread, Array | Spread]]) -> list[float]:
        sent: dict[int, list[Array]] = {}
        operands: list[tuple[Operand, Operand]] = []
        for pair in pairs:
            places: list[Operand] = []
            for array in pair:
                if isinstance(array, Spread):
                    places.append(("kept", array.number))
                else:
                    sent.setdefault(id(array), self._cut(array))
                    places.append(("sent", list(sent).index(id(array))))
            operands.append((places[0], places[1]))
        pieces = list(sent.values())
        to_others = [[cut[rank] for cut in pieces] for rank in self.link.others]
        with self._asked("multiply", operands, to_others):
            total = self._own.products(operands, [cut[0] for cut in pieces])
            for rank in self.link.others:  # in their order: the same bits every time
                total = total + self.questions.answer(rank).content
        return [float(value) for value in total]

    @contextmanager
    def _asked(
        self, kind: str, content: Any, arrays: Sequence[Sequence[Array]] | None = None
    ) -> Iterator[None]:
        """The context of a question to all other ranks, which also learn what they may forget."""
        with self.questions.asked():
            gone = list(self._gone)
            self._own.forget(gone)
            for place, rank in enumerate(self.link.others):
                self.link.send(rank, kind, (content, gone), () if arrays is None else arrays[place])
            yield
        # all have answered; others are told again
        del self._gone[: len(gone)]

    def _cut(self, array: Array) -> list[Array]:
        """The pieces of an array; views."""
        flat, edges = array.reshape(-1), np.linspace(0, array.size, self.link.size + 1).astype(int).tolist()
        return [flat[start:stop] for start, stop in zip(edges[:-1], edges[1:], strict=True)]

    def _joined(self, own: Array, shape: tuple[int, ...]) -> Array:
        """The array of which the other ranks send their pieces."""
        xp = array_module(own)
        pieces = [xp.asarray(self.questions.answer(rank).arrays[0]) for rank in self.link.others]
        return xp.concatenate([own, *pieces]).reshape(shape)
