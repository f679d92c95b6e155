"""Where single precision stops the progress of a run, and its state in double precision (``default_dtype`` "auto")."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from pypty.engine.epochs.edits import limited
from pypty.engine.epochs.problem import Problem
from pypty.engine.epochs.state import State
from pypty.model.blocks import BLOCKS
from pypty.optimize.lbfgs import Lbfgs, Pair
from pypty.optimize.vector import BlockVector
from pypty.output.loss_log import EpochRecord
from pypty.params.schema.values import EpochValues

_ROUNDING = 100
"""Largest value that counts as rounding of single precision, in units of its eps and of the largest pixel."""
STAYS = "single precision stops progress, but the run stays in it"
"""Beginning of the decision of a run that has no memory for double precision."""


def stays_single(records: Sequence[EpochRecord]) -> bool:
    """Whether a run has found that it has no memory for double precision; it does not try again."""
    return any(text.startswith(STAYS) for record in records for text in record.decisions)


def falls_no_more(state: State, problem: Problem) -> str:
    """Why the next epoch of L-BFGS needs double precision: the loss fell by less than its rounding in the last one. ""
    where it fell by more, or where the problem was another one."""
    last = state.records[-1] if state.records else None
    if last is None or last.optimizer != "lbfgs" or last.step == 0:
        return ""
    if state.sample is None or state.signature != problem.signature:
        return ""
    fall, rounding = last.loss - state.sample.value, problem.rounding(last.loss)
    if fall > rounding:
        return ""
    return f"in epoch {last.epoch} the loss fell by {fall:.2g}, which may be rounding ({rounding:.2g})"


def to_double(state: State) -> None:
    """Raise every array of the state to double precision. The gradient is dropped: it is computed again."""
    state.variables = state.variables.replace(
        {name: _raised(array) for name, array in state.variables.blocks(BLOCKS).items()}
    )
    state.optimizer = Lbfgs(
        [Pair(pair.s.map(_raised), pair.y.map(_raised)) for pair in state.optimizer.pairs]
    )
    moments = {
        part: {name: _raised(value) for name, value in known.items()}
        for part, known in state.progress.moments.items()
    }
    state.progress = dataclasses.replace(state.progress, moments=moments)
    if state.snapshot is not None:
        state.snapshot = {name: _raised(array) for name, array in state.snapshot.items()}
    state.sample = None


def remove_rounding(state: State, problem: Problem, now: EpochValues) -> None:
    """Remove what rounding has left outside the band limits: steps stay inside, and could never correct it.

    What lies outside because it was put there (a start with ``skip_preprocessing``, constraints) is more than rounding,
    and stays.
    """
    limits, variables = problem.form.limits, state.variables
    inside = {"probe": limits.limit("probe", variables.probe)}
    if problem.form.obj == "complex" or now["phase_only_obj"]:  # other forms do not limit the complex object
        inside["obj"] = limited(variables.obj, now, limits)
    eps = float(np.finfo(np.float32).eps)
    rounded = {}
    for name, array in inside.items():
        old = variables.block(name)
        if float(abs(array - old).max()) <= _ROUNDING * eps * float(abs(old).max()):
            rounded[name] = array
    state.variables = variables.replace(rounded)
    state.optimizer = Lbfgs(
        [
            Pair(BlockVector(problem.form.project(pair.s)), BlockVector(problem.form.project(pair.y)))
            for pair in state.optimizer.pairs
        ]
    )


def _raised(array: Any) -> Any:
    """The array with 64-bit real or 128-bit complex numbers; anything else as it is."""
    kind = getattr(getattr(array, "dtype", None), "kind", "")
    if kind not in "fc" or not kind:
        return array
    return array.astype(np.float64 if kind == "f" else np.complex128)
