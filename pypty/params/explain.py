"""What ``pypty explain KEY`` prints, from the schema."""

from __future__ import annotations

import difflib

from pypty.errors import ParameterError
from pypty.params.kinds import Number
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
    return "\n".join(lines)


def default_text(parameter: Parameter) -> str:
    """The default as documentation shows it."""
    if isinstance(parameter.default, float) and isinstance(parameter.kind, Number):
        return f"{parameter.default:.6g}"
    return repr(parameter.default)
