"""Kinds of single parameters, whose documented forms no general kind describes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np

from pypty.params.kinds import ArrayOf, FilePath, Number, brief, near


@dataclass(frozen=True)
class SigmaPairs:
    """Two entries, each a pair of positive numbers or None; a single number stands for all four."""

    def describe(self) -> str:
        return "two entries, each a pair of positive numbers or None; or one positive number for all"

    def problem(self, value: Any) -> str | None:
        number = Number(low=0, open_low=True)
        if number.problem(value) is None:
            return None
        scalar = isinstance(value, np.ndarray) and value.ndim == 0
        if not isinstance(value, (list, tuple, np.ndarray)) or scalar or len(value) != 2:
            return f"given {brief(value)}"
        pair = ArrayOf((("2",),))
        for entry in value:
            if entry is None:
                continue
            problem = pair.problem(entry) or next((p for p in map(number.problem, entry) if p), None)
            if problem:
                return problem
        return None

    def convert(self, value: Any) -> tuple[tuple[float, float] | None, ...]:
        if Number().problem(value) is None:
            return ((float(value), float(value)),) * 2
        return tuple(None if entry is None else (float(entry[0]), float(entry[1])) for entry in value)


@dataclass(frozen=True)
class NpyPath(FilePath):
    """The path of a .npy file, so that any other text may be an expression of the epoch."""

    def describe(self) -> str:
        return "a path that ends in .npy"

    def problem(self, value: Any) -> str | None:
        problem = super().problem(value)
        if problem is None and not str(value).endswith(".npy"):
            return f"given {brief(value)}"
        return problem


@dataclass(frozen=True)
class Unlimited:
    """Infinity, which means the same as None."""

    def describe(self) -> str:
        return "inf"

    def problem(self, value: Any) -> str | None:
        is_infinite = isinstance(value, (float, np.floating)) and value == np.inf
        return None if is_infinite else f"given {brief(value)}"

    def convert(self, value: Any) -> None:
        return None


@dataclass(frozen=True)
class Device:
    """The name of a device, or the array library for it, as in PyPty 2.2: the module or its name; None = auto."""

    def describe(self) -> str:
        return "one of 'auto', 'cpu', 'gpu'; or numpy, cupy (the module or its name), or None"

    def problem(self, value: Any) -> str | None:
        if value is None or _library(value) in _DEVICES:
            return None
        return f"given {brief(value)}{near(value, _DEVICES) if isinstance(value, str) else ''}"

    def convert(self, value: Any) -> str:
        return "auto" if value is None else _DEVICES[_library(value)]


@dataclass(frozen=True)
class Devices:
    """Over which devices a run is distributed: a word, a number of them, or their numbers and UUIDs."""

    def describe(self) -> str:
        return "'auto', 'all', a whole number >= 1, or a list of numbers or UUIDs of GPUs"

    def problem(self, value: Any) -> str | None:
        if isinstance(value, str):
            return None if value in _ANY_NUMBER else f"given {brief(value)}{near(value, _ANY_NUMBER)}"
        if not isinstance(value, (list, tuple, range)):
            return Number(1, 2**20, integer=True).problem(value)
        names = list(value)
        if not names:
            return "given an empty list"
        whole = Number(0, 2**20, integer=True)
        wrong = [x for x in names if whole.problem(x) is not None and not (isinstance(x, str) and x)]
        if wrong:
            return f"given {brief(wrong[0])} in the list"
        return f"given {brief(value)}, which names a device twice" if len(set(names)) < len(names) else None

    def convert(self, value: Any) -> str | int | tuple[int | str, ...]:
        if isinstance(value, (list, tuple, range)):
            return tuple(x if isinstance(x, str) else int(x) for x in value)
        return value if isinstance(value, str) else int(value)


_ANY_NUMBER = ("auto", "all")
_DEVICES: Mapping[str, str] = MappingProxyType(
    {"auto": "auto", "cpu": "cpu", "gpu": "gpu", "numpy": "cpu", "cupy": "gpu"}
)


def _library(value: Any) -> str:
    if isinstance(value, ModuleType):
        return value.__name__
    return value if isinstance(value, str) else ""
