"""One key of the parameter dict, and what its status means."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from pypty.params.kinds import Either, FilePath, Kind

RECORDED = "recorded"
NO_EFFECT = "no effect"


@dataclass(frozen=True)
class Parameter:
    """One key of the parameter dict.

    Attributes
    ----------
    name, default, kind, unit, meaning : what ``pypty explain`` prints
    per_epoch : whether it may vary: a callable of the epoch, an expression or a table
    when : condition under which it has an effect ("" = always)
    status : "" (it works), RECORDED (kept in params.yaml, no effect on the reconstruction) or NO_EFFECT (a key of
        PyPty 2.2 that this engine does not need; setting it gives a warning)
    changes_loss : whether the loss depends on it for the same variables and data, so that gradients and the
        optimiser's history become invalid when it changes
    shapes_start : whether it only affects the starting arrays, and is thus already contained in those of an earlier
        run
    """

    name: str
    default: Any
    kind: Kind
    unit: str
    meaning: str
    _: KW_ONLY
    per_epoch: bool = False
    when: str = ""
    status: str = ""
    changes_loss: bool = False
    shapes_start: bool = False

    def is_path(self, value: Any) -> bool:
        """Whether a value of it is the path of a file or folder (and not False, or an expression of the epoch)."""
        kinds = self.kind.kinds if isinstance(self.kind, Either) else (self.kind,)
        named = isinstance(value, (str, os.PathLike)) and bool(str(value))
        return named and any(isinstance(kind, FilePath) and kind.problem(value) is None for kind in kinds)

    def is_neutral(self, value: Any) -> bool:
        """Whether ``value`` has no effect: the default, None, False, zero or an array of zeros."""
        if value is None or value is False:
            return True
        if isinstance(value, str) or callable(value):
            return bool(value == self.default)
        if isinstance(value, Mapping):
            return _same(value, self.default) or _same(value, self.kind.convert(self.default))
        if (
            isinstance(self.default, tuple)
            and isinstance(value, (list, tuple))
            and list(value) == list(self.default)
        ):
            return True
        if isinstance(value, (list, tuple, np.ndarray, int, float, np.number)):
            try:
                array = np.asarray(value, dtype=float)
            except (TypeError, ValueError):
                return False
            return bool(not array.any() or np.array_equal(array, np.asarray(_numeric(self.default))))
        return bool(value == self.default)


def _same(first: Any, second: Any) -> bool:
    """Equality of nested dicts that may hold arrays."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return set(first) == set(second) and all(_same(first[key], second[key]) for key in first)
    return bool(np.array_equal(first, second))


def _numeric(default: Any) -> Any:
    return (
        default if isinstance(default, (int, float, list, tuple, np.ndarray)) else np.nan
    )  # NaN equals nothing
