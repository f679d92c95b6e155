"""Tuned names that are parameters, or entries of parameters by a dotted path."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pypty.errors import ParameterError
from pypty.optics.aberrations import aberration_names
from pypty.params.kinds import ArrayOf, Either, Kind, Number, brief
from pypty.params.nested import Record, Table
from pypty.params.parameter import NO_EFFECT, RECORDED, Parameter
from pypty.params.schema import GROUPS, SCHEMA

_ABERRATIONS = tuple(aberration_names(25))
_FIXED = frozenset(parameter.name for group in ("Output", "Result files") for parameter in GROUPS[group]) - {
    "epoch_max"
}
"""Keys that only concern the output; trials with different values could not be compared."""


def near(name: str, known: Iterable[str]) -> str:
    """A hint at the most similar known name; "" if none is similar."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


@dataclass(frozen=True)
class Entry:
    """A parameter, or one entry of a dict or array in it.

    Attributes
    ----------
    parameter : the parameter
    path : parts of the name after the first dot
    kind : kind of the entry's values
    unit : their unit
    """

    parameter: Parameter
    path: tuple[str, ...]
    kind: Kind
    unit: str

    @property
    def whole(self) -> bool:
        """Whether its values are integers."""
        return _is_whole(self.kind)

    def problem(self, value: Any) -> str | None:
        """The problem of a value, or None."""
        problem = self.kind.problem(value)
        return None if problem is None else f"{problem}, expected {self.kind.describe()}"

    def change(self, params: dict[str, Any], value: Any) -> None:
        """Set the value in ``params``; dicts and arrays in it are copied before they are changed.

        Raises
        ------
        ParameterError
            The value of the parameter has no such entry.
        """
        name = self.parameter.name
        if not self.path:
            params[name] = value
            return
        value_now = base_value(params, name)
        if _container(self.parameter.kind) is not None:
            params[name] = _set_in_dict(dict(value_now), self.path, value, _container(self.parameter.kind))
        else:
            params[name] = _set_in_array(value_now, self.path, value, name)


def find_entry(name: str) -> Entry:
    """The parameter or entry with this name.

    Raises
    ------
    ParameterError
        The name is unknown, or cannot be tuned.
    """
    root, *path = name.split(".")
    parameter = SCHEMA.get(root)
    if parameter is None:
        raise ParameterError("it is not a parameter")
    if parameter.status in (NO_EFFECT, RECORDED) or root in _FIXED:
        raise ParameterError("it has no effect on a reconstruction, and cannot be tuned")
    container = _container(parameter.kind)
    if not path:
        if container is not None:
            raise ParameterError(f"it is a dict; tune one entry of it, {root}.{_example(container)}")
        return Entry(parameter, (), parameter.kind, parameter.unit)
    if container is not None:
        kind, unit = _field(container, tuple(path), root)
        return Entry(parameter, tuple(path), kind, unit)
    if _array(parameter.kind) is None:
        raise ParameterError(f"{root} is a single value and has no entry {'.'.join(path)!r}")
    indices = tuple(_index(root, part) for part in path)
    array = _array(parameter.kind)
    assert array is not None
    if len(indices) not in {len(names) for names in array.dims}:  # one index per axis
        raise ParameterError(f"{root} is {array.describe()}; give one index for each axis")
    return Entry(parameter, indices, Number(low=array.low, integer=array.integer), parameter.unit)


def base_value(params: Mapping[str, Any], name: str) -> Any:
    """The value of a parameter, or its default, converted to its canonical type.

    Raises
    ------
    ParameterError
        The value varies with the epoch, or is wrong.
    """
    parameter = SCHEMA[name]
    value = params.get(name, parameter.default)
    if parameter.kind.problem(value) is not None:
        raise ParameterError(
            f"{name} is {brief(value)} in the parameters; to tune it, its value must be valid and must not vary with "
            "the epoch"
        )
    return parameter.kind.convert(value)


def _container(kind: Kind) -> Record | Table | None:
    """The record or table among the alternatives of a kind, or None."""
    if isinstance(kind, (Record, Table)):
        return kind
    if isinstance(kind, Either):
        return next((option for option in map(_container, kind.kinds) if option is not None), None)
    return None


def _array(kind: Kind) -> ArrayOf | None:
    """The array of real numbers among the alternatives of a kind, or None."""
    if isinstance(kind, ArrayOf):
        return None if kind.complex or kind.lazy else kind
    if isinstance(kind, Either):
        return next((option for option in map(_array, kind.kinds) if option is not None), None)
    return None


def _is_whole(kind: Kind) -> bool:
    if isinstance(kind, Either):
        return any(_is_whole(item) for item in kind.kinds)
    return isinstance(kind, Number) and kind.integer


def _example(container: Record | Table) -> str:
    if isinstance(container, Table):
        name, record = container.records[0]
        return f"{name}.{record.fields[0].name}"
    return container.fields[0].name


def _field(container: Record | Table, path: tuple[str, ...], root: str) -> tuple[Kind, str]:
    """Kind and unit of one field."""
    if isinstance(container, Table):
        records = dict(container.records)
        if path[0] not in records:
            raise ParameterError(f"{root} has no entry {path[0]!r}{near(path[0], list(records))}")
        if len(path) == 1 and not records[path[0]].shorthand:
            raise ParameterError(
                f"it is a dict; tune one entry of it, {root}.{path[0]}.{_example(records[path[0]])}"
            )
        # The name of a record alone means its shorthand field.
        rest = path[1:] or (records[path[0]].shorthand,)
        return _field(records[path[0]], rest, f"{root}.{path[0]}")
    fields = {field.name: field for field in container.fields}
    if path[0] not in fields:
        raise ParameterError(f"{root} has no entry {path[0]!r}{near(path[0], list(fields))}")
    field = fields[path[0]]
    if len(path) == 1:
        return field.kind, field.unit
    array = _array(field.kind)
    if array is None or len(path) > 2 or not path[1].isdigit():
        raise ParameterError(f"{root}.{path[0]} has no entry {'.'.join(path[1:])!r}")
    return Number(low=array.low, integer=array.integer), field.unit


def _index(root: str, part: str) -> str:
    """An index of an array; aberrations may be given by name."""
    if root == "aberrations" and part in _ABERRATIONS:
        return str(_ABERRATIONS.index(part))
    if part.isdigit():
        return part
    hint = near(part, _ABERRATIONS) if root == "aberrations" else ""
    raise ParameterError(f"{part!r} is not an index of {root}{hint}; count from 0")


def _set_in_dict(whole: dict[str, Any], path: tuple[str, ...], value: Any, container: Any) -> dict[str, Any]:
    """A copy of a dict of records with one field set."""
    if isinstance(container, Table):
        record = dict(container.records)[path[0]]
        entry = whole.get(path[0]) or record.convert({})
        rest = path[1:] or (record.shorthand,)
        return {**whole, path[0]: _set_in_dict(dict(entry), rest, value, record)}
    if len(path) == 1:
        return {**whole, path[0]: value}
    array, index = np.array(whole[path[0]], float), int(path[1])
    if index >= array.size:
        raise ParameterError(f"{path[0]} has {array.size} values; index {index} (from 0) is out of range")
    array[index] = value
    return {**whole, path[0]: array.tolist()}


def _set_in_array(value_now: Any, path: tuple[str, ...], value: Any, name: str) -> np.ndarray:
    """A copy of an array with one value set; aberrations are padded with zeros if needed."""
    index = tuple(int(part) for part in path)
    if name == "aberrations":
        return with_aberration(value_now, index[0], value)
    if not isinstance(value_now, np.ndarray):
        raise ParameterError(
            f"{name} is {brief(value_now)} in the parameters; give it as an array to tune one of its values"
        )
    array = value_now.copy()
    if array.ndim != len(index) or any(i >= n for i, n in zip(index, array.shape, strict=True)):
        raise ParameterError(
            f"{name} has shape {array.shape} in the parameters; index {list(index)} is out of range"
        )
    array[index] = value
    return array


def with_aberration(aberrations_A: np.ndarray | None, index: int, value: float) -> np.ndarray:
    """(K,) aberrations in Å with one of them set."""
    old = np.zeros(0) if aberrations_A is None else np.asarray(aberrations_A, float)
    array = np.zeros(max(len(old), index + 1))  # padded with zeros up to the index
    array[: len(old)] = old
    array[index] = value
    return array
