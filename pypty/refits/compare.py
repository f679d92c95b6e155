"""Which of several models describes counts better that it was not fitted to: paired comparison of free pixels.

Every run leaves out the same pixels (``free_pixels``, ``seed``). The difference of their deviances between two runs has
far less noise than each of them. Its error comes from a bootstrap over blocks of the scan (Künsch, Ann. Stat. 17 (1989)
1217), since neighbouring patterns see the same part of the specimen and are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pypty.backend.array import to_host
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.setup.comparison import count_model
from pypty.errors import ParameterError
from pypty.refits.reopen import Finished, at_the_end
from pypty.trust.measure import reopened, sums_of

_DRAWS = 1000
_BLOCKS = 6
"""Blocks of the scan along each side."""
_SIGMAS = 2.0
"""Differences below this many standard deviations do not decide."""


@dataclass(frozen=True, kw_only=True)
class FreeDeviance:
    """Deviance of the free pixels of a run.

    Attributes
    ----------
    indices : (n,) patterns
    deviance : (n,) sum over the free pixels of each
    pixels : (n,) number of free pixels of each
    positions_A : (n, 2) scan positions [y, x]
    same : what must be equal in runs that are compared
    """

    indices: np.ndarray
    deviance: np.ndarray
    pixels: np.ndarray
    positions_A: np.ndarray
    same: Mapping[str, object]

    @property
    def mean(self) -> float:
        """Per pixel."""
        return float(self.deviance.sum() / self.pixels.sum())


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs, the best first.

    Attributes
    ----------
    names : of the runs
    means : mean deviance of a free pixel; it has noise that the runs share
    differences : means minus that of the best
    errors : standard deviation of each difference
    """

    names: tuple[str, ...]
    means: np.ndarray
    differences: np.ndarray
    errors: np.ndarray

    @property
    def equal(self) -> tuple[str, ...]:
        """Names of the runs that cannot be told from the best one, which is the first."""
        behind = self.differences > _SIGMAS * self.errors  # False where an error is not known
        return tuple(name for name, worse in zip(self.names, behind, strict=True) if not worse)

    @property
    def text(self) -> str:
        """A table, and what it says."""
        width = max(map(len, self.names))
        lines = [f"{'':{width}}  deviance of a free pixel, and the difference to the best run"]
        rows = zip(self.names, self.means, self.differences, self.errors, strict=True)
        for name, mean, difference, error in rows:
            behind = "" if name == self.names[0] else f"  {difference:+.6f} ± {error:.6f}"
            lines.append(f"{name:{width}}  {mean:.6f}{behind}")
        if len(self.equal) > 1:
            lines.append(f"cannot be told apart: {', '.join(self.equal)}")
        else:
            lines.append(f"the best is {self.names[0]}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text


def compare(runs: Mapping[str, Finished] | Sequence[Finished], seed: int = 0) -> Comparison:
    """Compare runs of the same data by their free pixels (``free_pixels``).

    It can choose the weight of a regulariser, and reject slices that are not needed; it cannot choose the number of
    probe modes, nor when to stop (docs/trust.md).

    Parameters
    ----------
    runs : results or output folders, by name or in a list
    seed : of the bootstrap

    Raises
    ------
    ParameterError
        There are fewer than two runs, a run has no free pixels, or they differ in their pixels.
    """
    named = dict(runs) if isinstance(runs, Mapping) else {_name(run, i): run for i, run in enumerate(runs)}
    if len(named) < 2:
        raise ParameterError(f"runs: given {len(named)}, expected at least two to compare")
    found = {name: free_deviance(run) for name, run in named.items()}
    return ranking(found, seed)


def ranking(found: Mapping[str, FreeDeviance], seed: int = 0) -> Comparison:
    """Runs in the order of their mean deviance.

    Raises
    ------
    ParameterError
        They differ in what must be equal.
    """
    names = sorted(found, key=lambda name: found[name].mean)
    best = found[names[0]]
    for name in names[1:]:
        _check_same(names[0], best, name, found[name])
    blocks = _blocks(best.positions_A)
    means, differences, errors = [], [], []
    for name in names:
        change = found[name].deviance - best.deviance
        means.append(found[name].mean)
        differences.append(change.sum() / best.pixels.sum())
        errors.append(_block_error(change, best.pixels, blocks, seed))
    return Comparison(
        names=tuple(names),
        means=np.array(means),
        differences=np.array(differences),
        errors=np.array(errors),
    )


def _name(run: Finished, number: int) -> str:
    folder = getattr(run, "folder", run)
    return str(number) if folder is None or isinstance(folder, Mapping) else str(folder)


def _check_same(first: str, one: FreeDeviance, second: str, two: FreeDeviance) -> None:
    different = [key for key in one.same if one.same[key] != two.same[key]]
    if not different and not np.array_equal(one.indices, two.indices):
        different = ["the patterns that are fitted"]
    if not different and not np.array_equal(one.pixels, two.pixels):
        different = ["the pixels inside the band limit (damping_cutoff_multislice, data_pad)"]
    if different:
        raise ParameterError(
            f"runs: {first!r} and {second!r} differ in {', '.join(different)}; expected runs of the same data with the "
            "same free pixels"
        )


def free_deviance(finished: Finished) -> FreeDeviance:
    """The deviance of the free pixels of a finished run, in one pass.

    Raises
    ------
    ParameterError
        The run has no free pixels.
    """
    run = reopened(at_the_end(finished))
    try:
        return of_run(run)
    finally:
        run.setup.close()


def of_run(run: Reconstruction) -> FreeDeviance:
    """The deviance of the free pixels of a run as it stands; raises ParameterError if it has none."""
    setup, settings, variables = run.setup, run.settings, run.state.variables
    if not settings["free_pixels"] > 0:
        raise ParameterError("free_pixels: given 0, expected a run with some, such as free_pixels=0.05")
    sums, _, _ = sums_of(run)
    positions = np.broadcast_to(to_host(variables.positions), (run.feed.n_patterns, 2))[sums.indices]
    return FreeDeviance(
        indices=sums.indices,
        deviance=sums.free_of_pattern[:, 0],
        pixels=sums.free_of_pattern[:, 3],
        positions_A=positions * np.asarray(setup.grid.pixel_size_A),
        same={
            "free_pixels": settings["free_pixels"],
            "seed": settings["seed"],
            "the data": run.data_fingerprint,
            "the size of the patterns": setup.data_shape,
            "the units of the counts": count_model(setup),
        },
    )


def _blocks(positions_A: np.ndarray) -> np.ndarray:
    """(n,) number of the block of the scan to which each position belongs."""
    low, high = positions_A.min(axis=0), positions_A.max(axis=0)
    place = (positions_A - low) / np.maximum(high - low, np.finfo(float).tiny)
    cell = np.minimum((place * _BLOCKS).astype(int), _BLOCKS - 1)
    return np.unique(cell @ (_BLOCKS, 1), return_inverse=True)[1].ravel()


def _block_error(change: np.ndarray, pixels: np.ndarray, blocks: np.ndarray, seed: int) -> float:
    """Standard deviation of the mean change per pixel, from a bootstrap of the blocks; NaN with a single block."""
    sums, numbers = (np.bincount(blocks, values) for values in (change, pixels))
    if len(sums) < 2:
        return math.nan
    chosen = np.random.default_rng(seed).integers(len(sums), size=(_DRAWS, len(sums)))
    return float((sums[chosen].sum(axis=1) / numbers[chosen].sum(axis=1)).std())
