"""The first epochs of a reconstruction from vacuum: mini-batches, with a preconditioned step after each.

One such pass does what about eight passes of full-batch L-BFGS do (benchmarks/README.md): every pattern is scored
against an object that the patterns before it have improved already. L-BFGS then takes over, and removes the noise that
steps on few patterns leave.

Whatever the noise model, the gradient is that of amplitudes, whose curvature is bounded: there is no line search.
A step is x <- x - s P D^-1 G, with G and the Gauss-Newton diagonal D (objective/curvature.py) of the patterns of the
batch and P the band limit; for the object that is the update of ePIE (Maiden and Rodenburg, Ultramicroscopy 109 (2009)
1256) for many positions at a time.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from pypty.engine.problem import Problem
from pypty.model.variables import Variables

_log = logging.getLogger(__name__)

STEPS: Mapping[str, float] = MappingProxyType({"obj": 1.0, "probe": 0.5})
"""The blocks that move, and the length s of their steps: 1 is Newton's, from 2 on steps diverge. The probe is in every
pattern and is known better than the vacuum."""
_BATCHES_PER_OVERLAP = 3.5
_ATTEMPTS = 4
_GROWTH = 3.0
"""More than what differs between a few patterns; steps that diverge do so by orders."""


@dataclass(frozen=True)
class Pass:
    """One pass over the patterns.

    Attributes
    ----------
    variables : after it
    loss, sse : summed over the batches, each before its own step
    step : factor on :data:`STEPS`; 0 if even the shortest diverged, and nothing was changed
    passes : how many were tried
    """

    variables: Variables
    loss: float
    sse: float
    step: float
    passes: int


def number_of_batches(problem: Problem) -> int:
    """3.5 sqrt(overlap), overlap = how many patterns light the same pixel: then a batch covers the object evenly, and
    there are enough steps in a pass. Measured on dense (83) and sparse (9) scans; benchmarks/README.md."""
    overlap = problem.curvature.overlap(problem.variables.probe, problem.variables.obj.shape[-2:])
    n = len(problem.indices)
    return max(1, min(n, round(_BATCHES_PER_OVERLAP * math.sqrt(overlap))))


def warm_up(problem: Problem, seed: tuple[int, int]) -> Pass:
    """One pass in random batches. If the errors grow, it is done again with half the step.

    Parameters
    ----------
    problem : of the epoch; its regularisers are left to L-BFGS
    seed : (seed, epoch) of the order of the patterns
    """
    problem = dataclasses.replace(
        problem,
        objective=problem.objective.with_bounded_slope(),
        curvature=dataclasses.replace(problem.curvature, scale=problem.weight),
    )
    step, tried = 1.0, None
    for attempt in range(_ATTEMPTS):
        tried = _one_pass(problem, np.random.default_rng(seed), step)
        if tried.step > 0:
            return dataclasses.replace(tried, passes=attempt + 1)
        _log.info("warm-up: errors grow with steps of %g; again with half of it", step)
        step /= 2
    assert tried is not None
    return dataclasses.replace(tried, variables=problem.variables, passes=_ATTEMPTS)


def _one_pass(problem: Problem, rng: np.random.Generator, step: float) -> Pass:
    batches = np.array_split(rng.permutation(problem.indices), number_of_batches(problem))
    variables, loss, errors = problem.variables, 0.0, []
    for chosen in batches:
        variables, batch_loss, batch_sse = _one_step(problem, variables, np.sort(chosen), step)
        loss += batch_loss
        errors.append(batch_sse / len(chosen))
        if not math.isfinite(loss):
            break
    sse = float(sum(error * len(chosen) for error, chosen in zip(errors, batches, strict=False)))
    return Pass(variables, loss, sse, step if math.isfinite(loss) and not _grow(errors) else 0.0, 1)


def _grow(errors: list[float]) -> bool:
    """Whether the errors per pattern of the last quarter of the batches are clearly above those of the first."""
    quarter = max(1, len(errors) // 4)
    return not np.mean(errors[-quarter:]) <= _GROWTH * max(errors[0], float(np.mean(errors[:quarter])))


def _one_step(
    problem: Problem, variables: Variables, chosen: np.ndarray, step: float
) -> tuple[Variables, float, float]:
    """Loss and SSE of some patterns, and the variables after a step on them."""
    form, blocks = problem.form, [name for name in problem.blocks if name in STEPS]
    found = problem.objective.evaluate(variables, blocks, chosen, problem.weight)
    diagonal = problem.diagonal(variables, blocks, chosen)
    point = form.vector(variables, blocks)
    gradient = form.gradient_as_it_is(variables, point, found.gradients)
    change = form.damp({name: gradient[name] / diagonal[name] for name in blocks})
    moved = {name: point[name] - step * STEPS[name] * change[name] for name in blocks}
    return form.variables(variables, moved), found.loss, found.sse
