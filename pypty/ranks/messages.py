"""What ranks send to each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import pypty.errors
from pypty.backend.array import Array
from pypty.errors import PyptyError, RankError

BEAT, FAILED, FULL, WARNING = "beat", "failed", "full", "warning"
"""Kinds of messages that any rank may send to rank 0: it is alive, has failed, has no memory, or warns."""
FINISH = "finish"
"""The decision of rank 0 about the losses of all ranks."""
Shapes = tuple[tuple[str, tuple[int, ...]], ...]
"""Types and shapes of arrays."""


@dataclass(frozen=True)
class Message:
    """What one rank sends to another.

    Attributes
    ----------
    kind : what it is about
    content : anything that consists of Python's and NumPy's own types, or of dataclasses of this package
    arrays : large arrays, which are sent as they are in memory
    """

    kind: str
    content: Any = None
    arrays: tuple[Array, ...] = ()


@dataclass(frozen=True)
class Header:
    """What precedes the arrays of a message: their types and shapes, by which the receiver makes room."""

    kind: str
    content: Any
    shapes: Shapes


@dataclass(frozen=True)
class Apart:
    """The content of a message of which some arrays take a route of their own.

    Attributes
    ----------
    content : of the message
    places : of these arrays among all of the message
    shapes : their types and shapes
    """

    content: Any
    places: tuple[int, ...]
    shapes: Shapes


@dataclass(frozen=True)
class Failed:
    """How a rank has failed.

    Attributes
    ----------
    kind : name of the class of the error
    words : its message
    trace : where it was raised
    """

    kind: str
    words: str
    trace: str

    def error(self, name: str) -> PyptyError:
        """The error of a rank of this name, as rank 0 raises it: an error of this package stays what it is."""
        kind = getattr(pypty.errors, self.kind, None)
        if isinstance(kind, type) and issubclass(kind, PyptyError):
            return kind(f"{name}: {self.words}")
        return RankError(f"{name} failed: {self.kind}: {self.words}\n{self.trace}")


@dataclass(frozen=True)
class Failure:
    """In place of a result: why a run has failed on rank 0."""

    reason: str


def shapes_of(arrays: Sequence[Array]) -> Shapes:
    """What a receiver needs to make room for arrays."""
    return tuple((array.dtype.str, array.shape) for array in arrays)


def arrays_of(header: Header) -> list[np.ndarray]:
    """Room for the arrays that follow a header."""
    return [np.empty(shape, np.dtype(name)) for name, shape in header.shapes]


def bytes_of(array: np.ndarray) -> np.ndarray:
    """The bytes of a contiguous array, in its memory."""
    return array.reshape(-1).view(np.uint8)


def nbytes(header: Header) -> int:
    """Bytes of the arrays of a message."""
    return sum(np.dtype(name).itemsize * math.prod(shape) for name, shape in header.shapes)
