"""Safe evaluation of per-epoch expressions such as ``"lambda x: x >= 10"`` or ``"8e-9 if epoch == 0 else 1"``.

Built on simpleeval, which walks the syntax tree and knows only the names listed here: no attributes of
objects, no imports, no assignments. ``bounded.py`` limits its work and memory; it is imported with the first
expression, so that parameters without expressions need no simpleeval.
"""

from __future__ import annotations

import ast
import importlib
import math
import re
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from pypty.errors import ExpressionError
from pypty.params.ranges import list_of_arange, list_of_range

_LAMBDA = re.compile(r"^\s*lambda\s+([A-Za-z_]\w*)\s*:\s*(.+)$", re.DOTALL)
MAX_LENGTH = 2000


FUNCTIONS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "abs": abs,
        "arange": list_of_arange,
        "bool": bool,
        "cos": math.cos,
        "exp": math.exp,
        "float": float,
        "floor": math.floor,
        "list": list,
        "len": len,
        "range": list_of_range,
        "ceil": math.ceil,
        "int": int,
        "log": math.log,
        "log10": math.log10,
        "max": max,
        "min": min,
        "round": round,
        "sin": math.sin,
        "sqrt": math.sqrt,
        "tanh": math.tanh,
    }
)
_CONSTANTS: Mapping[str, Any] = MappingProxyType(
    {
        "pi": math.pi,
        "e": math.e,
        "inf": math.inf,
        "True": True,
        "False": False,
        "None": None,
    }
)


def _evaluation(text: str) -> Any:
    """The module ``bounded``.

    Raises
    ------
    ExpressionError
        simpleeval is not installed.
    """
    try:
        return importlib.import_module("pypty.params.bounded")
    except ImportError as error:
        raise ExpressionError(
            f"{text!r} is an expression of the epoch, which needs simpleeval, and that cannot be imported ({error}): "
            "pip install simpleeval, or give a plain value"
        ) from error


def _refuse_foreign(text: str, tree: ast.expr) -> None:
    """Refuse what simpleeval allows but no schedule needs: attributes other than np.NAME, and string formatting.

    Formatting can turn a short expression into a string of any length.
    """
    known = {*FUNCTIONS, *_CONSTANTS}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not (
            isinstance(node.value, ast.Name) and node.value.id == "np" and node.attr in known
        ):
            raise ExpressionError(
                f"{text!r} uses the attribute {node.attr!r}; only np.NAME is allowed, with NAME one of "
                f"{', '.join(sorted(known))}"
            )
        formats = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod) and not _is_numeric(node.left)
        if formats or isinstance(node, ast.JoinedStr):
            raise ExpressionError(
                f"{text!r} formats a string; an expression must give a number, a word or a list"
            )
    try:
        _refuse_hashes(tree)
    except ExpressionError as error:
        raise ExpressionError(f"{text!r} cannot be evaluated: {error}") from error


def _refuse_hashes(tree: ast.AST) -> None:
    """Refuse keys and entries of sets that are computed: the hash of a nested tuple takes any time.

    Raises
    ------
    ExpressionError
        There are such.
    """
    for node in ast.walk(tree):
        if isinstance(node, (ast.SetComp, ast.DictComp)):
            raise ExpressionError("it computes a set or a dict; use a list")
        hashed = node.elts if isinstance(node, ast.Set) else node.keys if isinstance(node, ast.Dict) else []
        if not all(isinstance(_unsigned(item), ast.Constant) for item in hashed):
            raise ExpressionError("it computes the entries of a set or the keys of a dict; write them out")


def _unsigned(node: ast.AST | None) -> ast.AST | None:
    return node.operand if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) else node


def _is_numeric(node: ast.expr) -> bool:
    """Whether the left side of % contains no string literal, so that % is the remainder."""
    return not any(
        isinstance(part, ast.Constant) and isinstance(part.value, (str, bytes)) for part in ast.walk(node)
    )


def compile_expression(text: str) -> Callable[[int], Any]:
    """Turn an expression into a function of the epoch.

    Parameters
    ----------
    text : an expression in ``epoch`` (or ``x``), or ``"lambda NAME: expression"``

    Raises
    ------
    ExpressionError
        The text is not an expression, or simpleeval is not installed. Unknown names and functions only raise when it
        is evaluated.
    """
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"the expression has {len(text)} characters, expected at most {MAX_LENGTH}")
    match = _LAMBDA.match(text)
    variable, body = (match.group(1), match.group(2)) if match else ("epoch", text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's SyntaxWarnings about odd literals
            tree = ast.parse(body.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError(f"{text!r} is not an expression of the epoch ({error})") from error
    bounded = _evaluation(text)
    _refuse_foreign(text, tree)

    def value(epoch: int) -> Any:
        # the budget of an evaluator is for one evaluation
        evaluator = bounded.Evaluator(FUNCTIONS, {**_CONSTANTS, "x": epoch, "epoch": epoch, variable: epoch})
        try:
            return evaluator.eval(body.strip(), previously_parsed=tree)
        except (
            ExpressionError,
            bounded.INVALID,
            MemoryError,
            ArithmeticError,
            TypeError,
            ValueError,
            KeyError,
            IndexError,
            AttributeError,
            RecursionError,
        ) as error:
            names = ", ".join([*sorted(FUNCTIONS), "pi", "inf", variable])
            raise ExpressionError(
                f"{text!r} cannot be evaluated at epoch {epoch}: {error}. Known names: {names}."
            ) from error

    return value
