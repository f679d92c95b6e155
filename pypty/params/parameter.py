"""One key of the parameter dict, and what its status means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from pypty.params.kinds import Either, FilePath, Kind

NOT_YET = "not available yet"
RECORDED = "recorded"
NO_EFFECT = "no effect"


@dataclass(frozen=True)
class Parameter:
    """One key of the parameter dict.

    Attributes
    ----------
    name, default, kind, unit, meaning : what ``pypty explain`` prints
    per_epoch : may be a callable of the epoch or an expression
    when : when it has an effect ("" = always)
    status : "" (it works), NOT_YET (only its neutral value is accepted), RECORDED (kept in params.yaml,
        no effect on the reconstruction) or NO_EFFECT (a PyPty 2.2 key this engine does not need; a
        warning says so when it is set)
    changes_loss : the loss depends on it for the same variables and data, so that gradients and optimiser history of
        another value cannot be used
    shapes_start : it only affects the starting arrays, and is therefore already contained in those of an earlier run
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

    @property
    def is_path(self) -> bool:
        """Whether its value is the path of a file or folder."""
        kinds = self.kind.kinds if isinstance(self.kind, Either) else (self.kind,)
        return any(isinstance(kind, FilePath) for kind in kinds)

    def is_neutral(self, value: Any) -> bool:
        """Whether ``value`` asks for nothing: the default, None, False, zero or zeros."""
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


def _same(one: Any, other: Any) -> bool:
    """Equality of nested dicts that may hold arrays."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return set(one) == set(other) and all(_same(one[key], other[key]) for key in one)
    return bool(np.array_equal(one, other))


def _numeric(default: Any) -> Any:
    return default if isinstance(default, (int, float, list, tuple, np.ndarray)) else np.nan
