"""Fits to other counts of the same measurement: drawn from the model, or a random half of those measured."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pypty.data.thinned import ThinnedSource
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.problem import refined_blocks
from pypty.engine.epochs.state import State
from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.comparison import count_model, measured_pixels
from pypty.model.blocks import Variables
from pypty.objective.deviance import CountModel

_LARGE_BYTES = 2**31
"""Size of drawn patterns above which they are kept in a file."""


def completed(setup: Setup, variables: Variables) -> Reconstruction:
    """All epochs of a setup, from these unknowns."""
    run = Reconstruction(setup, State(variables=variables, epoch=setup.settings.first_epoch))
    for _ in run.epochs():
        pass
    return run


def drawn(run: Reconstruction, seed: int, scratch: Path | None = None) -> np.ndarray:
    """(N, ky, kx) counts drawn from the model of a run as it stands, with the noise that its noise model has.

    Pixels of a padded rim have what the data have there.

    Parameters
    ----------
    scratch : folder for a file that holds them if they are large; None = the system's folder for temporary files
    """
    setup, variables = run.setup, run.state.variables
    now = run.settings.at(max(run.state.epoch - 1, run.settings.first_epoch))
    objective = run.objective_for(refined_blocks(now, variables), now["propmethod"])
    counts, rng = count_model(setup), np.random.default_rng(seed)
    inside, rim = measured_pixels(setup), np.zeros(())
    if setup.preprocess.rim is not None:
        rim = setup.to_model((setup.preprocess.rim * setup.multiplier)[None])[0]
    n, done = run.feed.n_patterns, 0
    patterns = _array((n, *setup.data_shape), scratch)

    def take(modelled: np.ndarray) -> None:
        nonlocal done
        patterns[done : done + len(modelled)] = np.where(inside, _noisy(modelled, counts, rng), rim)
        done += len(modelled)

    objective.model_output(variables, np.arange(n), objective.model, take)
    return patterns


def _noisy(modelled: np.ndarray, counts: CountModel, rng: np.random.Generator) -> np.ndarray:
    electrons = rng.poisson(np.maximum(modelled, 0) / counts.gain)
    return counts.gain * electrons + rng.normal(0, counts.readout, modelled.shape)


def _array(shape: tuple[int, ...], scratch: Path | None) -> np.ndarray:
    if 4 * np.prod(shape, dtype=np.int64) <= _LARGE_BYTES:
        return np.empty(shape, np.float32)
    # the file has no name any more where the system allows it, and goes with the array
    with tempfile.NamedTemporaryFile(dir=scratch, suffix=".npy") as file:
        return np.memmap(file, np.float32, "w+", shape=shape)


def thinned(setup: Setup, seed: int, rest: bool = False, factor: float = 1.0) -> Setup:
    """The setup of a random half of the counts, times a factor.

    Raises
    ------
    DataError
        When patterns are read: they are no whole counts.
    """
    assert setup.source is not None
    half, survey = factor / 2, setup.survey
    if survey is not None:
        survey = dataclasses.replace(survey, mean=half * survey.mean, multiplier=factor * survey.multiplier)
    preprocess = setup.preprocess
    if preprocess.rim is not None:
        # the rim is given in counts before the multiplier
        preprocess = dataclasses.replace(preprocess, rim=preprocess.rim / 2)
    source = ThinnedSource(setup.source, seed, rest)
    return dataclasses.replace(setup, source=source, survey=survey, preprocess=preprocess)


Scaled = Callable[[Variables], Variables]


def scaled_to(share: float) -> Scaled:
    """Unknowns of the model for a part of the counts: probe and background with the root of it."""

    def scaled(variables: Variables) -> Variables:
        names = [name for name in ("probe", "static_background") if name in variables.present]
        return variables.replace({name: np.sqrt(share) * variables.block(name) for name in names})

    return scaled
