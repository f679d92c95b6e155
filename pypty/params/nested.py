"""Kinds for parameters whose value is a dict: records of named fields, and tables of such records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pypty.params.kinds import Anything, Choice, Kind, brief, complaint, near


@dataclass(frozen=True)
class Field:
    """One entry of a :class:`Record`.

    Attributes
    ----------
    name, default, kind, unit, meaning : as in :class:`pypty.params.parameter.Parameter`
    """

    name: str
    default: Any
    kind: Kind
    unit: str = ""
    meaning: str = ""


@dataclass(frozen=True)
class Record:
    """A dict with some of the named fields; missing fields take their defaults.

    Attributes
    ----------
    fields : the possible entries
    shorthand : name of the field that is set by a value that is not a dict; "" = only a dict is accepted
    """

    fields: tuple[Field, ...]
    shorthand: str = ""

    def describe(self) -> str:
        names = ", ".join(repr(field.name) for field in self.fields)
        short = f", or the value of {self.shorthand!r} alone" if self.shorthand else ""
        return f"a dict of {names}{short}"

    def problem(self, value: Any) -> str | None:
        entries = self._entries(value)
        if entries is None:
            return f"given {brief(value)}"
        for name, entry in entries.items():
            field = self._field(name)
            if field is None:
                wrong = (
                    f"given {name!r}, which is not an entry of it{near(name, [f.name for f in self.fields])}"
                )
                return complaint(self, wrong)
            problem = field.kind.problem(entry)
            if problem:
                return f"{name!r}: {complaint(field.kind, problem, field.unit)}"
        return None

    def convert(self, value: Any) -> dict[str, Any]:
        """All fields."""
        entries = self._entries(value) or {}
        return {
            field.name: field.kind.convert(entries.get(field.name, field.default)) for field in self.fields
        }

    def _entries(self, value: Any) -> Mapping[Any, Any] | None:
        if isinstance(value, Mapping):
            return value
        if self.shorthand and value is not None and not isinstance(value, bool):
            return {self.shorthand: value}
        return None

    def _field(self, name: Any) -> Field | None:
        return next((field for field in self.fields if field.name == name), None)


@dataclass(frozen=True)
class Table:
    """A dict of records by name. An entry True is a record of defaults; False or None leaves it out.

    Attributes
    ----------
    records : (name, record) of the possible entries
    complete : whether missing entries are added with their defaults
    """

    records: tuple[tuple[str, Record], ...]
    complete: bool = False

    def describe(self) -> str:
        return f"a dict with some of {', '.join(repr(name) for name, _ in self.records)}, each itself a dict"

    def problem(self, value: Any) -> str | None:
        if not isinstance(value, Mapping):
            return f"given {brief(value)}"
        known = dict(self.records)
        for name, entry in value.items():
            if name not in known:
                return complaint(self, f"given {name!r}, which is not an entry of it{near(name, known)}")
            if entry is None or isinstance(entry, (bool, np.bool_)):
                continue
            problem = known[name].problem(entry)
            if problem:
                return f"{name!r}: {complaint(known[name], problem)}"
        return None

    def convert(self, value: Any) -> dict[str, dict[str, Any]]:
        """Complete records, in the order of the table."""
        out = {}
        for name, record in self.records:
            entry = value.get(name, True if self.complete else None)  # True: all defaults
            if entry is not None and entry is not False:
                out[name] = record.convert({} if entry is True else entry)
        return out


@dataclass(frozen=True)
class Words:
    """A list of some of these words (or numbers), each once."""

    options: tuple[Any, ...]

    def describe(self) -> str:
        return f"a list of some of {', '.join(repr(option) for option in self.options)}"

    def problem(self, value: Any) -> str | None:
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            return f"given {brief(value)}"
        wrong = [item for item in value if item not in self.options]
        return f"given {brief(wrong[0])}{near(wrong[0], self.options)}" if wrong else None

    def convert(self, value: Any) -> list[Any]:
        return list(dict.fromkeys(value))  # without repetitions, in the given order


@dataclass(frozen=True)
class Entries:
    """A dict with any contents."""

    def describe(self) -> str:
        return "a dict ('key: value' lines)"

    def problem(self, value: Any) -> str | None:
        return None if isinstance(value, Mapping) else f"given {brief(value)}"

    def convert(self, value: Any) -> Any:
        return value


@dataclass(frozen=True)
class ByName:
    """A dict from some of these names to values of a kind."""

    names: tuple[str, ...]
    kind: Kind

    def describe(self) -> str:
        return f"a dict with some of {', '.join(map(repr, self.names))}, each {self.kind.describe()}"

    def problem(self, value: Any) -> str | None:
        if not isinstance(value, Mapping):
            return f"given {brief(value)}"
        for name, item in value.items():
            if name not in self.names:
                return f"given {name!r}, which is not an entry of it{near(name, self.names)}"
            problem = self.kind.problem(item)
            if problem:
                return f"{name!r}: {complaint(self.kind, problem)}"
        return None

    def convert(self, value: Any) -> dict[str, Any]:
        return {name: self.kind.convert(item) for name, item in value.items()}


@dataclass(frozen=True)
class ListOf:
    """A list of values of a kind.

    Attributes
    ----------
    kind : of each value
    length : number of values; None = any number
    """

    kind: Kind
    length: int | None = None

    def describe(self) -> str:
        many = "a list" if self.length is None else f"a list of {self.length}"
        return many if isinstance(self.kind, Anything) else f"{many}, each {self.kind.describe()}"

    def problem(self, value: Any) -> str | None:
        if not isinstance(value, (list, tuple)) or self.length not in (None, len(value)):
            return f"given {brief(value)}"
        wrong = next((problem for problem in map(self.kind.problem, value) if problem), None)
        return f"given {brief(value)}, with {wrong.removeprefix('given ')} in it" if wrong else None

    def convert(self, value: Any) -> list[Any]:
        return [self.kind.convert(item) for item in value]


def choices(*options: str) -> Choice:
    """One of a few words."""
    return Choice(options)
