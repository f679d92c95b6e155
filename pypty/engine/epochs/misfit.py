"""How well the model describes the data after an epoch: the deviance of a few patterns."""

from __future__ import annotations

import logging

import numpy as np

from pypty.backend.array import Array
from pypty.backend.device_errors import device_errors
from pypty.backend.memory import release_unused
from pypty.engine.epochs.problem import Problem
from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.comparison import count_model, knows_counts, usable_pixels
from pypty.model.blocks import Variables
from pypty.objective.fit import deviance_ratio

_SHARE, _FEWEST = 64, 8
"""One of 64 patterns is looked at, which costs about a hundredth of an epoch."""
_GOLDEN = (5**0.5 - 1) / 2


_log = logging.getLogger(__name__)


class Misfit:
    """The deviance of one of every 64 patterns in units of its expectation, after each epoch: 1 for a right model."""

    def __init__(self) -> None:
        self._usable: tuple[object, Array] | None = None

    def of(self, setup: Setup, problem: Problem, variables: Variables) -> float | None:
        """The ratio at this point; None where the data are no counts, or the memory does not suffice."""
        try:
            with device_errors():
                return self._ratio(setup, problem, variables) if knows_counts(setup) else None
        except MemoryError:
            release_unused(setup.backend)
            _log.info("the deviance of this epoch is not known: out of memory")
            return None

    def _ratio(self, setup: Setup, problem: Problem, variables: Variables) -> float:
        objective = problem.objective
        # cached by the model, which changes with the precision
        if self._usable is None or self._usable[0] is not objective.model:
            self._usable = (objective.model, usable_pixels(setup, objective.model.reachable))
        return deviance_ratio(
            objective,
            variables,
            sample(problem.indices),
            counts=count_model(setup),
            usable=self._usable[1],
        )


def sample(indices: np.ndarray) -> np.ndarray:
    """One of every 64 patterns, at least 8 where there are as many: the same in every epoch."""
    n = min(len(indices), max(_FEWEST, len(indices) // _SHARE))
    # one of each of n equal parts, at a place that follows the golden ratio: no column of a raster is preferred
    place = np.arange(n) + (_GOLDEN * (np.arange(n) + 0.5)) % 1
    # of fewer than 16 patterns two places may be in the same one
    return indices[np.unique((place * len(indices) / max(n, 1)).astype(int))]
