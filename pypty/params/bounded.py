"""An evaluator of expressions whose work and memory are bounded, whatever the expression says.

The only module that imports simpleeval; it is itself imported when an expression is compiled.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

import simpleeval

from pypty.errors import ExpressionError
from pypty.params.ranges import LENGTHS

MAX_STEPS = 200_000
"""Parts of an expression that are evaluated, counted each time."""
MAX_ITEMS = 4_000_000
"""Entries of lists and letters of texts that are made, searched or compared: those of a scan of 2000 x 2000 points."""
MAX_BITS = 4096
"""Binary digits of a whole number: about 1200 decimal digits."""
INVALID = simpleeval.InvalidExpression
"""What an evaluation raises where the expression is wrong."""
_CONTAINERS = (list, tuple, set, dict)
_SIZED = (*_CONTAINERS, str, bytes)
_MAKERS = (ast.Subscript, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.ListComp, ast.GeneratorExp)
"""What makes new lists and texts; functions and operators count before they do."""


class Evaluator(simpleeval.EvalWithCompoundTypes):
    """Evaluates one expression once; its budget is used up afterwards.

    Parameters
    ----------
    functions, names : all that the expression knows

    Raises
    ------
    ExpressionError
        From ``eval``: a limit was reached; the message names it.
    """

    def __init__(self, functions: Mapping[str, Callable[..., Any]], names: Mapping[str, Any]) -> None:
        self._steps = self._items = 0
        bounded = {name: self._bounded(function) for name, function in functions.items()}
        known = {name: bounded.get(name, value) for name, value in names.items()}
        known["np"] = {**known, **bounded}
        super().__init__(operators=self._operators(), functions=bounded, names=known)
        self.functions = bounded  # without those that the base class adds

    def _check_disallowed_items(self, item: Any) -> None:
        """Nothing else than ``functions`` and ``names`` can occur: a search of long lists after each step is spared."""

    def eval(self, expr: str, previously_parsed: ast.AST | None = None) -> Any:
        value = super().eval(expr, previously_parsed)
        self._count_below(value)
        return value

    def _eval(self, node: ast.AST) -> Any:
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise ExpressionError(f"it takes more than {MAX_STEPS} steps")
        value = super()._eval(node)
        if isinstance(value, int):
            _refuse_long(value.bit_length())
        elif isinstance(node, _MAKERS) and isinstance(value, _SIZED):
            self.count(len(value))
        return value

    def count(self, items: int) -> None:
        """Count entries of lists and letters of texts before they are made or looked at."""
        self._items += items
        if self._items > MAX_ITEMS:
            raise ExpressionError(
                f"it makes or looks at more than {MAX_ITEMS} entries of lists or letters of texts"
            )

    def _count_below(self, value: Any) -> None:
        """Count the entries of lists in lists: a list may stand in another one many times."""
        left = [value] if isinstance(value, _CONTAINERS) else []
        while left:
            item = left.pop()
            below = item.values() if isinstance(item, dict) else item
            inner = [entry for entry in below if isinstance(entry, _CONTAINERS)]
            self.count(sum(len(entry) for entry in inner))
            left += inner

    def _bounded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its arguments counted first; flat lists only."""

        def call(*arguments: Any) -> Any:
            for argument in arguments:
                if isinstance(argument, _SIZED) and function is not len:
                    self.count(len(argument))
                    if isinstance(argument, _CONTAINERS) and function in (max, min):
                        _refuse_nested(argument)
            length = LENGTHS.get(function)
            if length is not None:
                self.count(length(*arguments))
            if function is round and len(arguments) > 1 and abs(arguments[1]) > MAX_BITS:
                raise ExpressionError(f"round(..., {arguments[1]}) rounds to more than {MAX_BITS} digits")
            return function(*arguments)

        return call

    def _operators(self) -> dict[type, Callable[..., Any]]:
        plain = simpleeval.DEFAULT_OPERATORS
        compared = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)
        return {
            **plain,
            ast.Add: self._add,
            ast.Mult: self._multiply,
            ast.Pow: _power,
            ast.LShift: _shift_left,
            ast.Mod: _remainder,
            ast.In: self._contains,
            ast.NotIn: lambda item, container: not self._contains(item, container),
            **{kind: self._compare(plain[kind]) for kind in compared},
        }

    def _add(self, a: Any, b: Any) -> Any:
        if isinstance(a, _SIZED) and isinstance(b, _SIZED):
            self.count(len(a) + len(b))
        return a + b

    def _multiply(self, a: Any, b: Any) -> Any:
        for repeated, times in ((a, b), (b, a)):
            if isinstance(repeated, _SIZED) and isinstance(times, int):
                self.count(max(0, len(repeated) * times))
        if isinstance(a, int) and isinstance(b, int):
            _refuse_long(a.bit_length() + b.bit_length() - 1)
        return a * b

    def _contains(self, item: Any, container: Any) -> bool:
        if isinstance(container, _SIZED):
            self.count(len(container) + (len(item) if isinstance(item, str) else 0))
        if isinstance(item, _CONTAINERS):
            raise ExpressionError("it looks for a list in another one; only numbers and words are looked for")
        return item in container

    def _compare(self, operator: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def compare(a: Any, b: Any) -> Any:
            if isinstance(a, _CONTAINERS) and isinstance(b, _CONTAINERS):
                self.count(len(a) + len(b))
                if any(isinstance(entry, _CONTAINERS) for entry in (*a, *b)):
                    raise ExpressionError(
                        "it compares lists of lists; only those of numbers and words are compared"
                    )
            if isinstance(a, str) and isinstance(b, str):
                self.count(min(len(a), len(b)))
            return operator(a, b)

        return compare


def _refuse_long(bits: int) -> None:
    if bits > MAX_BITS:
        raise ExpressionError(f"a whole number of it has more than {MAX_BITS} binary digits")


def _refuse_nested(items: Any) -> None:
    if any(isinstance(item, _CONTAINERS) for item in items):
        raise ExpressionError("max and min of lists of lists are not computed")


def _power(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int) and abs(a) > 1 and b > 0:  # 10**-3 is no whole number
        _refuse_long((a.bit_length() - 1) * b)
    return a**b


def _shift_left(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        _refuse_long(a.bit_length() + b)
    return a << b


def _remainder(a: Any, b: Any) -> Any:
    if isinstance(a, (str, bytes)):  # its padding may be of any length
        raise ExpressionError("it formats a string; an expression must give a number, a word or a list")
    return a % b
