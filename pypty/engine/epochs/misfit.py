"""How well the model describes the data after an epoch: the deviance of a few patterns."""

from __future__ import annotations

import numpy as np

from pypty.backend.array import Array
from pypty.engine.epochs.problem import Problem
from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.comparison import count_model, usable_pixels
from pypty.model.blocks import Variables
from pypty.objective.fit import deviance_ratio

_SHARE, _FEWEST = 64, 8
"""One of 64 patterns is looked at, which costs about a hundredth of an epoch; the noise of the ratio of eight patterns
of 64 x 64 pixels is below 1 %."""


class Misfit:
    """The deviance of every 64th pattern in units of its expectation, after each epoch: 1 for a right model."""

    def __init__(self) -> None:
        self._usable: tuple[object, Array] | None = None

    def of(self, setup: Setup, problem: Problem, variables: Variables) -> float:
        """The ratio at this point; NaN without patterns."""
        objective = problem.objective
        # cached by the model, which changes with the precision
        if self._usable is None or self._usable[0] is not objective.model:
            self._usable = (objective.model, usable_pixels(setup, objective))
        return deviance_ratio(
            objective,
            variables,
            sample(problem.indices),
            counts=count_model(setup.settings),
            usable=self._usable[1],
        )


def sample(indices: np.ndarray) -> np.ndarray:
    """Every 64th of the patterns, at least 8 where there are as many: the same in every epoch."""
    n = min(len(indices), max(_FEWEST, len(indices) // _SHARE))
    # the middle of n equal parts, so that the first pattern, in a corner of the scan, does not always count
    return indices[((np.arange(n) + 0.5) * len(indices) / max(n, 1)).astype(int)]
