"""The mini-batches of an epoch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pypty.data.grouping import make_groups
from pypty.engine.epochs.problem import Problem
from pypty.engine.epochs.warmup import number_of_batches
from pypty.params.schema.values import EpochValues
from pypty.params.settings import Settings


@dataclass
class Batches:
    """Makes the mini-batches of every epoch, and keeps spatial groups, which are slow to compute.

    Batches depend only on the seed, the epoch and the starting positions: a resumed run has the same ones.

    Attributes
    ----------
    settings : group_mode, shuffle_batches, seed
    positions : (N, 2) px, starting positions
    """

    settings: Settings
    positions: np.ndarray
    _known: dict[tuple[bytes, int], list[np.ndarray]] = field(default_factory=dict, repr=False)

    def of_epoch(self, problem: Problem, epoch: int, now: EpochValues) -> list[np.ndarray]:
        """Indices of the patterns of every batch, in the order in which they are used."""
        indices, seed = problem.indices, self.settings["seed"]
        n = number_of_steps(problem, now["batch_size"])
        shuffled = np.random.default_rng((seed, epoch)) if self.settings["shuffle_batches"] else None
        if self.settings["group_mode"] == "random" and shuffled is not None:
            # a new random partition at every epoch; sorted, since a detector file is read in that order
            return [np.sort(batch) for batch in np.array_split(shuffled.permutation(indices), n)]
        groups = self._groups(indices, n)
        order = range(len(groups)) if shuffled is None else shuffled.permutation(len(groups))
        return [groups[number] for number in order]

    def _groups(self, indices: np.ndarray, n: int) -> list[np.ndarray]:
        key = (indices.tobytes(), n)
        if key not in self._known:
            # only the groups of the present sequence: a new one replaces them
            self._known.clear()
            # (M, 2) positions of the M patterns of this epoch; a single row holds for all patterns
            rows = self.positions[np.minimum(indices, len(self.positions) - 1)]
            groups = make_groups(
                rows, n_groups=n, mode=self.settings["group_mode"], seed=self.settings["seed"]
            )
            self._known[key] = [np.sort(indices[group]) for group in groups]
        return self._known[key]


def number_of_steps(problem: Problem, size: int | str) -> int:
    """Number of batches of an epoch; none has fewer patterns than ``size``."""
    return number_of_batches(problem) if size == "auto" else max(1, len(problem.indices) // int(size))
