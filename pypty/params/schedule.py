"""Values that may change with the epoch: a constant, a callable, an expression, or a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pypty.errors import ExpressionError, ParameterError
from pypty.params.expressions import compile_expression
from pypty.params.kinds import Choice, brief, complaint
from pypty.params.parameter import Parameter


class Schedule(Protocol):
    """Gives the value of one parameter at an epoch."""

    def at(self, epoch: int) -> Any:
        """The value, already checked and converted."""

    def record(self, first: int, last: int) -> Any:
        """The value to write into params.yaml for epochs ``first`` to ``last`` - 1."""


RECORDED_EPOCHS = 10_000
"""Largest number of epochs for which the values of a function are recorded in params.yaml."""


@dataclass(frozen=True)
class Constant:
    """The same value at every epoch."""

    value: Any

    def at(self, epoch: int) -> Any:
        return self.value

    def record(self, first: int, last: int) -> Any:
        return self.value


@dataclass(frozen=True)
class Varying:
    """A function of the epoch, from a callable, an expression or a table; its values are checked."""

    parameter: Parameter
    source: Any
    function: Callable[[int], Any]

    def at(self, epoch: int) -> Any:
        try:
            value = self.function(epoch)
        except ExpressionError as error:
            raise ExpressionError(_no_expression(self.parameter, self.source, error)) from error
        except ParameterError as error:
            raise ParameterError(f"{self.parameter.name}: at epoch {epoch}: {error}") from error
        except Exception as error:  # the user's own function may raise anything
            raise ParameterError(
                f"{self.parameter.name}: the given function raised "
                f"{type(error).__name__} at epoch {epoch}: {error}"
            ) from error
        problem = self.parameter.kind.problem(value)
        if problem and isinstance(value, (bool, np.bool_)):
            value = int(value)  # a condition, as in "lambda x: x >= 20", switches a number between 0 and 1
            problem = self.parameter.kind.problem(value)
        if problem:
            raise ParameterError(
                f"{self.parameter.name}: at epoch {epoch} "
                f"{complaint(self.parameter.kind, problem.replace('given', 'got', 1))}"
            )
        return self.parameter.kind.convert(value)

    def record(self, first: int, last: int) -> Any:
        if not callable(self.source):
            return self.source
        table: dict[int, Any] = {}
        previous: Any = object()
        end = min(max(last, first + 1), first + RECORDED_EPOCHS)
        for epoch in range(first, end):
            value = self.at(epoch)
            if not isinstance(value, (bool, int, float, str, type(None))):
                return {"callable": getattr(self.source, "__qualname__", type(self.source).__name__)}
            if value != previous:
                table[epoch] = previous = value
        return {"from_epoch": table, "until_epoch": end}


def make_schedule(parameter: Parameter, value: Any) -> Schedule:
    """The schedule of a per-epoch parameter.

    Parameters
    ----------
    value : a value of the parameter's kind; a callable of the epoch; a string with an expression; or a table
        ``{"from_epoch": {0: a, 10: b}}`` in which each value applies from its epoch on. With ``until_epoch`` the
        table ends before that epoch.

    Raises
    ------
    ParameterError
        The value is none of these.
    """
    if isinstance(value, Mapping) and set(value) in ({"from_epoch"}, {"from_epoch", "until_epoch"}):
        return Varying(
            parameter, dict(value), _table(parameter, value["from_epoch"], value.get("until_epoch"))
        )
    if callable(value) and not isinstance(value, np.ndarray):
        return Varying(parameter, value, value)
    problem = parameter.kind.problem(value)
    if problem is None:
        return Constant(parameter.kind.convert(value))
    if isinstance(value, str):
        return _from_text(parameter, value)
    raise ParameterError(
        f"{parameter.name}: {complaint(parameter.kind, problem)}"
        + ("" if ", expected " in problem else ", or a function of the epoch")
    )


def _from_text(parameter: Parameter, text: str) -> Schedule:
    """An expression of the epoch. The error for any other text says what the parameter expects."""
    try:
        return Varying(parameter, text, compile_expression(text))
    except ExpressionError as error:
        raise ExpressionError(_no_expression(parameter, text, error)) from error


def _no_expression(parameter: Parameter, source: Any, error: ExpressionError) -> str:
    """Message for a text that is neither a value nor an expression.

    For a parameter with a few options, a single word is most likely misspelt, so the parser's error is left out.
    """
    word = isinstance(parameter.kind, Choice) and str(source).isidentifier()
    problem = parameter.kind.problem(source) or f"given {brief(source)}"
    why = "" if word else f" ({error})"
    return f"{parameter.name}: {complaint(parameter.kind, problem)}, or an expression of the epoch{why}"


def _table(parameter: Parameter, table: Any, until: Any) -> Callable[[int], Any]:
    """The table as a function of the epoch; it raises ParameterError from epoch ``until`` on."""
    whole = isinstance(table, Mapping) and all(_is_epoch(epoch) for epoch in table)
    if not whole or not table or not (until is None or _is_epoch(until)):
        raise ParameterError(
            f"{parameter.name}: given the table {brief(table)}, expected {{epoch: value}} with whole epochs"
        )
    starts = sorted(table)  # before the first entry, its value applies

    def value(epoch: int) -> Any:
        if until is not None and epoch >= until:
            raise ParameterError(
                f"the values of its Python function were recorded only up to epoch {until}; pass the "
                "function again, or an expression, or remove until_epoch to keep its last value"
            )
        return table[max((start for start in starts if start <= epoch), default=starts[0])]

    return value


def _is_epoch(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
