"""Values that depend on the epoch: functions, and the safe expressions that replace them in files."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pypty.errors import ExpressionError, ParameterError
from pypty.params.expressions import compile_expression
from pypty.params.schedule import make_schedule
from pypty.params.schema import SCHEMA

_PROBED = (*range(0, 64), 100, 200, 500, 1000)
"""Epochs at which the expression and the function must have equal values."""


def lambda_to_string(function: Any) -> Any:
    """The text of a lambda function of the epoch, for a file; values that are not callable are returned unchanged.

    The text is taken from the source code; evaluated as a safe expression, it must give the same values.

    Raises
    ------
    ParameterError
        The function has no such text: it has several lines, uses variables, or has no source code.
    """
    if not callable(function):
        return function
    name = getattr(function, "__qualname__", type(function).__name__)
    try:
        source = textwrap.dedent("".join(inspect.getsourcelines(function)[0]))
    except (OSError, TypeError) as error:
        raise ParameterError(
            f"the function {name} has no source code ({error}); give the expression as a string"
        ) from error
    for text in dict.fromkeys(_lambdas(source)):
        if _agrees(text, function):
            return text
    raise ParameterError(
        f"the function {name} cannot be written as an expression of the epoch; give a string such as "
        "'lambda epoch: epoch >= 10', or a table {'from_epoch': {0: a, 10: b}}"
    )


def _lambdas(source: str) -> list[str]:
    """Texts of the lambdas in a few lines of source code, which may be part of a statement."""
    for start in (i for i in range(len(source)) if source.startswith("lambda", i)):
        for end in range(len(source), start, -1):
            try:
                tree = ast.parse(source[start:end].strip(), mode="eval")
            except (SyntaxError, ValueError):
                continue
            lambdas = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Lambda)]
            return lambdas + _lambdas(source[end:])
    return []


def _agrees(text: str, function: Callable[[int], Any]) -> bool:
    try:
        other = compile_expression(text)
        return all(bool(np.all(other(epoch) == function(epoch))) for epoch in _PROBED)
    except (ExpressionError, TypeError, ValueError, NameError):
        return False


def string_to_lambda(text: Any) -> Any:
    """A string as a function of the epoch (safe expressions, no ``eval``); other values are returned unchanged.

    Raises
    ------
    ExpressionError
        The string is not an expression.
    """
    return compile_expression(text) if isinstance(text, str) else text


def convert_to_string(params: Mapping[str, Any], strip_dataset_from_params: bool = True) -> dict[str, Any]:
    """A copy of parameters with all functions of the epoch as strings (:func:`lambda_to_string`)."""
    kept = {key: value for key, value in params.items() if key != "dataset" or not strip_dataset_from_params}
    return {key: lambda_to_string(value) if _is_function(value) else value for key, value in kept.items()}


def string_params_to_usefull_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of parameters with all strings that begin with ``lambda`` as functions of the epoch."""
    return {
        key: compile_expression(value)
        if isinstance(value, str) and value.lstrip().startswith("lambda")
        else value
        for key, value in params.items()
    }


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, type) and not hasattr(value, "shape")


def get_value_for_epoch(value: Any, epoch: int, name: str | None = None) -> Any:
    """The value of a parameter at an epoch.

    Parameters
    ----------
    value : a constant, a function of the epoch, a string beginning with ``lambda``, or a table
        ``{"from_epoch": {0: a, 10: b}}``; a list of these gives a list of values
    epoch : counted from 0
    name : name of the parameter; if given, other strings may be expressions too, and the value is checked

    Raises
    ------
    ParameterError
        The value is none of these.
    """
    if name is not None:
        if name not in SCHEMA:
            raise ParameterError(f"{name!r} is not a parameter of PyPty; see  pypty explain")
        return make_schedule(SCHEMA[name], value).at(int(epoch))
    if isinstance(value, list):
        return [get_value_for_epoch(item, epoch) for item in value]
    if isinstance(value, Mapping) and "from_epoch" in value:
        # Without a name, any per-epoch parameter of numbers can read the table.
        return make_schedule(SCHEMA["loss_weight"], value).at(int(epoch))
    if _is_function(value):
        return value(int(epoch))
    if isinstance(value, str) and value.lstrip().startswith("lambda"):
        return compile_expression(value)(int(epoch))
    return value
