"""``range`` and ``arange`` as expressions of the epoch have them: lists, of lengths that are known beforehand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from pypty.errors import ExpressionError


def _numbers_of_arange(*limits: float) -> int:
    start, stop, step = (0, *limits, 1) if len(limits) == 1 else (*limits, 1)[:3]
    numbers = (stop - start) / step
    if not math.isfinite(numbers):
        raise ExpressionError(f"arange{limits} has no end")
    return max(0, math.ceil(numbers))


def list_of_range(*limits: int) -> list[int]:
    """``range`` as a list."""
    return list(range(*limits))


def list_of_arange(*limits: float) -> list[float]:
    """``numpy.arange`` as a list."""
    return list(np.arange(*limits).tolist())


def _numbers_of_range(*limits: int) -> int:
    start, stop, step = (0, *limits, 1) if len(limits) == 1 else (*limits, 1)[:3]
    return max(0, -(-(stop - start) // step))  # len(range()) fails above 2^63


LENGTHS: Mapping[Callable[..., Any], Callable[..., int]] = MappingProxyType(
    {list_of_range: _numbers_of_range, list_of_arange: _numbers_of_arange}
)
"""How many entries each of them makes, from its arguments."""
