"""A result on its way from rank 0 to the other ranks that a launcher has started."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pypty.results.result import Result

_NUMBERS = "biufc"
"""Kinds of arrays that are sent as they are in memory."""
_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic, np.dtype, Path)


@dataclass(frozen=True)
class _Place:
    """Stands for an array that is sent beside what it belongs to."""

    number: int


def to_send(result: Result) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The fields of a result without its arrays, and these.

    Of the settings an array ``dataset`` is left out, and what is neither a number, a text, an array, nor a list or a
    table of them (a function, an open file) becomes text, as in a file.
    """
    arrays: list[np.ndarray] = []

    def apart(value: Any) -> Any:
        if isinstance(value, np.ndarray) and value.dtype.kind in _NUMBERS:
            arrays.append(value)
            return _Place(len(arrays) - 1)
        if isinstance(value, np.ndarray):
            return _mapped(apart, value.tolist())
        return value if isinstance(value, _PLAIN) else str(value)

    fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    fields["settings"] = {
        name: value for name, value in result.settings.items() if name != "dataset" or value is None
    }
    small = ("history", "verdict")  # of plain types: they are sent as they are
    return {name: value if name in small else _mapped(apart, value) for name, value in fields.items()}, arrays


def from_sent(content: Mapping[str, Any], arrays: Sequence[np.ndarray]) -> Result:
    """The result of which :func:`to_send` has made this."""

    def placed(value: Any) -> Any:
        return arrays[value.number] if isinstance(value, _Place) else value

    return Result(**{name: _mapped(placed, value) for name, value in content.items()})


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """A table or list with all its values changed; a value that is neither, changed."""
    if isinstance(value, Mapping):
        return {key: _mapped(change, item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_mapped(change, item) for item in value)
    return change(value)
