"""What ``pypty explain KEY`` prints, from the schema."""

from __future__ import annotations

import difflib

from pypty.errors import ParameterError
from pypty.params.kinds import Either, Kind, Number
from pypty.params.nested import Field, Record, Table
from pypty.params.parameter import NO_EFFECT, NOT_YET, RECORDED, Parameter
from pypty.params.schema import SCHEMA


def explain(name: str) -> str:
    """What ``pypty explain NAME`` prints.

    Raises
    ------
    ParameterError
        There is no such parameter.
    """
    if name not in SCHEMA:
        near = difflib.get_close_matches(name, SCHEMA, n=3, cutoff=0.4)
        raise ParameterError(f"unknown parameter {name!r}" + (f"; near: {', '.join(near)}" if near else ""))
    parameter = SCHEMA[name]
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
        NOT_YET: f"{NOT_YET}: only the default is accepted",
        NO_EFFECT: "none; accepted so that PyPty 2.2 presets run, with a warning",
        RECORDED: "none on the reconstruction; written to params.yaml",
    }.get(parameter.status, f"when {parameter.when}" if parameter.when else "always")
    lines.append(f"  effect   {effect}")
    lines += [f"  {line}" for line in entry_lines(parameter.kind)]
    return "\n".join(lines)


def entry_lines(kind: Kind) -> list[str]:
    """The entries of a parameter that is a dict, a line each, and those of the dicts in it."""
    if isinstance(kind, Either):
        return [line for one in kind.kinds for line in entry_lines(one)]
    if isinstance(kind, Table):
        return [
            text for name, record in kind.records for text in (f"{name}:", *map(_indent, entry_lines(record)))
        ]
    if isinstance(kind, Record):
        return [_entry(field) for field in kind.fields]
    return []


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
