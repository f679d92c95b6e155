"""Result of a calibration: parameters to use, the numbers behind them, and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from pypty.errors import ParameterError
from pypty.plots.figures import Figure


def _nothing() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True)
class Suggestion:
    """The result of one calibration.

    Attributes
    ----------
    params : parameters to use, by name; arrays as the schema expects them. Empty if nothing needs to change.
    values : measured numbers by name, units in the name (``radius_px``), for scripts and tests
    text : a few lines for a reader: the result, its reliability, and what to check
    figure : a picture of the measurement; None if there is nothing to show
    """

    params: Mapping[str, Any] = field(default_factory=_nothing)
    values: Mapping[str, Any] = field(default_factory=_nothing)
    text: str = ""
    figure: Figure | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "params", MappingProxyType(dict(self.params)))
        object.__setattr__(self, "values", MappingProxyType(dict(self.values)))

    def apply(self, pypty_params: Mapping[str, Any]) -> dict[str, Any]:
        """A new dict: ``pypty_params`` with the suggested values; arrays are copied, and the argument is not
        changed."""
        copies = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in self.params.items()}
        return {**pypty_params, **copies}

    def merge(self, *others: Suggestion, figure: Figure | None = None) -> Suggestion:
        """One suggestion from several.

        Parameters
        ----------
        others : if two suggest the same parameter or number, the later one is used
        figure : figure of the result; None = the last figure of the merged suggestions

        Raises
        ------
        ParameterError
            One of the others is not a Suggestion.
        """
        for other in others:
            if not isinstance(other, Suggestion):
                raise ParameterError(
                    f"merge: a {type(other).__name__} was given, expected results of pypty.calibrate"
                )
        merged = (self, *others)
        figures = [suggestion.figure for suggestion in merged if suggestion.figure is not None]
        return Suggestion(
            params={k: v for suggestion in merged for k, v in suggestion.params.items()},
            values={k: v for suggestion in merged for k, v in suggestion.values.items()},
            text="\n".join(suggestion.text for suggestion in merged if suggestion.text),
            figure=figure if figure is not None else (figures[-1] if figures else None),
        )

    def __str__(self) -> str:
        lines = [self.text] if self.text else []
        if self.params:
            lines.append("suggested parameters:")
            lines += [f"  {name} = {_shown(value)}" for name, value in self.params.items()]
        else:
            lines.append("no parameter needs to change")
        return "\n".join(lines)


def _shown(value: Any) -> str:
    """A value on one line; a large array as its shape, type and range."""
    if isinstance(value, np.ndarray) and value.size > 8:
        line = f"array {value.shape} {value.dtype}"
        if value.dtype == bool:
            return f"{line}, {int(value.sum())} true"
        return f"{line}, {value.min():.6g} to {value.max():.6g}"
    if isinstance(value, np.ndarray):
        return np.array2string(value, precision=6, separator=", ")
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


def unsure_line(doubts: Sequence[str]) -> list[str]:
    """The line of a text that says why a result is not to be trusted; none without doubts."""
    return [f"  UNSURE: {'; '.join(doubts)}"] if doubts else []


def ranges(numbers: np.ndarray) -> str:
    """ "3, 7 to 9" of the sorted numbers [3, 7, 8, 9]."""
    groups = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(f"{g[0]}" if len(g) == 1 else f"{g[0]} to {g[-1]}" for g in groups)
