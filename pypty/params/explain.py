"""What ``pypty explain KEY`` prints, from the schema."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from pypty.errors import ParameterError
from pypty.params.kinds import Either, Kind, Number
from pypty.params.nested import Field, Record, Table
from pypty.params.parameter import NO_EFFECT, RECORDED, Parameter
from pypty.params.schema import SCHEMA


def explain(name: str) -> str:
    """What ``pypty explain NAME`` prints; a dotted name is an entry of a dict.

    Raises
    ------
    ParameterError
        No parameter has this name.
    """
    key, *entries = name.split(".")
    _known(key, SCHEMA, "parameter")
    parameter = SCHEMA[key]
    if entries:
        return _explain_entry(key, parameter.kind, entries)
    lines = [
        f"{name}: {parameter.meaning}",
        f"  value    {parameter.kind.describe()}",
        f"  default  {default_text(parameter)}",
    ]
    if parameter.unit:
        lines.append(f"  unit     {parameter.unit}")
    lines.append(
        f"  epoch    {'may vary: a function or an expression of the epoch' if parameter.per_epoch else 'fixed'}"
    )
    effect = {
        NO_EFFECT: "none; accepted so that PyPty 2.2 presets run, with a warning",
        RECORDED: "none on the reconstruction; written to params.yaml",
    }.get(parameter.status, f"when {parameter.when}" if parameter.when else "always")
    lines.append(f"  effect   {effect}")
    lines += [f"  {line}" for line in entry_lines(parameter.kind)]
    return "\n".join(lines)


def _known(name: str, names: Iterable[str], what: str) -> None:
    """Raise ParameterError, with similar names, unless ``name`` is one of ``names``."""
    by_lower = {known.lower(): known for known in names}  # similar names are found in any case
    if name in by_lower.values():
        return
    near = [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.4)]
    raise ParameterError(f"unknown {what} {name!r}" + (f"; near: {', '.join(near)}" if near else ""))


def _explain_entry(path: str, kind: Kind, entries: Sequence[str]) -> str:
    """What ``pypty explain`` prints about an entry of a dict, at any depth."""
    for option in kind.kinds if isinstance(kind, Either) else (kind,):
        parts: dict[str, Record | Field] = dict(option.records) if isinstance(option, Table) else {}
        if isinstance(option, Record):
            parts.update((field.name, field) for field in option.fields)
        if not parts:
            continue
        name, *deeper = entries
        _known(name, parts, f"entry of {path}")
        part, path = parts[name], f"{path}.{name}"
        if isinstance(part, Field):
            return f"{path}: {_entry(part)}\n  value    {part.kind.describe()}"
        if deeper:
            return _explain_entry(path, part, deeper)
        return "\n".join([f"{path}: {part.describe()}", *map(_indent, entry_lines(part))])
    raise ParameterError(f"{path} has no entries; given {'.'.join(entries)!r}")


def entry_lines(kind: Kind) -> list[str]:
    """The entries of a parameter that is a dict, and those of the dicts in it, one per line."""
    if isinstance(kind, Either):
        return [line for option in kind.kinds for line in entry_lines(option)]
    if isinstance(kind, Table):
        shared = _shared(kind)
        records = [text for name, record in kind.records for text in _own_lines(name, record, shared)]
        return [*(["each:"] if shared else []), *(_indent(_entry(field)) for field in shared), *records]
    if isinstance(kind, Record):
        return [_entry(field) for field in kind.fields]
    return []


def _shared(kind: Table) -> list[Field]:
    """Fields that all records of a table have, which are listed only once."""
    first, *others = (record.fields for _, record in kind.records)
    return [field for field in first if others and all(field in fields for fields in others)]


def _own_lines(name: str, record: Record, shared: Sequence[Field]) -> list[str]:
    """The fields of a record that are not shared; on a single line if there is at most one."""
    entries = [_entry(field) for field in record.fields if field not in shared]
    if len(entries) < 2:
        return [f"{name}: {entries[0]}" if entries else name]
    return [f"{name}:", *map(_indent, entries)]


def _entry(field: Field) -> str:
    unit = f" {field.unit}" if field.unit else ""
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    return f"{field.name} = {default!r}{unit}" + (f": {field.meaning}" if field.meaning else "")


def _indent(line: str) -> str:
    return f"  {line}"


def default_text(parameter: Parameter) -> str:
    """The default as documentation shows it."""
    if isinstance(parameter.default, float) and isinstance(parameter.kind, Number):
        return f"{parameter.default:.6g}"
    return repr(parameter.default)
