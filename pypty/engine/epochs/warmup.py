"""The first epochs of a reconstruction from vacuum: mini-batches, with a preconditioned step after each.

One such pass achieves about as much as eight passes of full-batch L-BFGS (benchmarks/README.md), since every batch
starts from an object that the batches before it have improved. L-BFGS then takes over, and removes the noise that steps
on few patterns leave.

Whatever the noise model, the gradient is that of amplitudes, whose curvature is bounded: there is no line search.
A step is x <- x - s P D^-1 G, with G and the Gauss-Newton diagonal D (objective/curvature.py) of the patterns of the
batch and P the band limit; for the object that is the update of ePIE (Maiden and Rodenburg, Ultramicroscopy 109 (2009)
1256) for many positions at a time.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from pypty.engine.epochs.problem import Problem
from pypty.model.blocks import Variables
from pypty.objective.share import Evaluated, FreeSums, added_free, read
from pypty.optimize.first_order import descended
from pypty.output.loss_log import EpochRecord
from pypty.params.settings import Settings

_log = logging.getLogger(__name__)

STEPS: Mapping[str, float] = MappingProxyType({"obj": 1.0, "probe": 0.5})
"""The blocks that move, and the length s of their steps: 1 is a Newton step, and steps diverge from 2 on. Steps of the
probe are shorter: it is in every pattern, and is known better than the object at the start."""
_BATCHES_PER_OVERLAP = 3.5
_ATTEMPTS = 4
FALL = 0.95
"""Errors are falling while those of the last quarter of a pass are below this fraction of those of the first."""
MOST_EPOCHS = 20
_EXPLOSION = 1e4
_GROWTH = 3.0
"""Errors of a few patterns differ by less than this factor; steps that diverge exceed it by orders of magnitude."""
_READ_AFTER = 100
"""Steps between two looks at the errors on a GPU."""


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One pass over the patterns.

    Attributes
    ----------
    variables : the unknowns after the pass
    loss, sse : summed over the batches, each before its own step; a loss of ``loss_scale`` ratio is their mean
    step : factor on :data:`STEPS`; 0 if even the shortest diverged, and nothing was changed
    passes : passes that were tried
    loss_terms : value of each term of ``loss_terms``, as the loss
    free : deviance of the free pixels, summed as the loss
    falling : the errors per pattern were still falling at the end, so another pass will help
    """

    variables: Variables
    loss: float
    sse: float
    step: float
    passes: int
    falling: bool = False
    loss_terms: dict[str, float] = field(default_factory=dict)
    free: FreeSums = FreeSums()


def goes_on(settings: Settings, records: Sequence[EpochRecord], optimizer: str = "lbfgs") -> bool:
    """Whether the next epoch belongs to the warm-up (``warmup_epochs``).

    "auto" begins one where patterns in the far field are reconstructed from vacuum, and goes on as long as errors fall
    within a pass: two passes are enough for a thin object on a dense scan, six for a thick crystal
    (benchmarks/README.md). Only L-BFGS needs it.
    """
    done = [record.warm_up for record in records]
    if not all(done):
        return False
    asked, obj = settings["warmup_epochs"], settings["obj"]
    if asked != "auto":
        return len(done) < int(asked)
    if optimizer != "lbfgs":
        return False
    if done:
        return done[-1] == "falling" and len(done) < MOST_EPOCHS
    vacuum = obj is None or bool((obj == 1).all())
    first = settings["epoch_prev"] == 0 and not settings["skip_preprocessing"]
    return vacuum and first and settings["recon_type"] == "far_field" and settings["masks"] is None


def number_of_batches(problem: Problem) -> int:
    """3.5 sqrt(overlap), with overlap = number of patterns that illuminate the same pixel. A batch then covers the
    object evenly, and a pass has enough steps. Measured on dense (83) and sparse (9) scans; benchmarks/README.md."""
    overlap = problem.curvature.overlap(problem.variables.probe, problem.variables.obj.shape[-2:])
    n = len(problem.indices)
    return max(1, min(n, round(_BATCHES_PER_OVERLAP * math.sqrt(overlap))))


def warm_up(problem: Problem, batches: Sequence[np.ndarray]) -> Pass:
    """Make one pass. If the errors grow, repeat it with steps half as long.

    Parameters
    ----------
    problem : of the epoch; its regularisers are left to L-BFGS
    batches : sorted pattern indices of each batch
    """
    problem = dataclasses.replace(
        problem,
        objective=problem.objective.for_batches(
            min(map(len, batches)), problem.variables
        ).with_bounded_slope(),
        curvature=dataclasses.replace(problem.curvature, scale=problem.weight, relative=False),
    )
    step, tried = 1.0, None
    for attempt in range(_ATTEMPTS):
        tried = _one_pass(problem, batches, step)
        if tried.step > 0:
            return dataclasses.replace(tried, passes=attempt + 1)
        _log.info("warm-up: errors grow with steps of %g; trying again with half of that", step)
        step /= 2
    assert tried is not None
    # no length worked: the unknowns of the start
    return dataclasses.replace(tried, variables=problem.variables, passes=_ATTEMPTS)


def _one_pass(problem: Problem, batches: Sequence[np.ndarray], step: float) -> Pass:
    variables, results = problem.variables, []
    for number, chosen in enumerate(batches):
        variables, evaluated = _one_step(problem, variables, chosen, step)
        results.append(evaluated)
        # on a GPU errors are fetched seldom, since that waits for the device
        if evaluated.unread is None or number % _READ_AFTER == _READ_AFTER - 1:
            read(results)
            if _first_explosion(results, batches) < len(results):
                break  # a pass that diverges is not finished
    read(results)
    return _summary(problem, batches, results[: _first_explosion(results, batches) + 1], variables, step)


def _first_explosion(results: Sequence[Evaluated], batches: Sequence[np.ndarray]) -> int:
    """The first batch whose errors are far above those of the first one; their number if there is none."""
    errors = [result.sse / len(chosen) for result, chosen in zip(results, batches, strict=False)]
    # also true for NaN
    exploded = (number for number, error in enumerate(errors) if not error < _EXPLOSION * errors[0])
    return next(exploded, len(errors))


def _summary(
    problem: Problem,
    batches: Sequence[np.ndarray],
    results: Sequence[Evaluated],
    variables: Variables,
    step: float,
) -> Pass:
    """What a pass has come to, from the batches before it diverged."""
    loss, errors, free = 0.0, [], []
    terms: dict[str, float] = {}
    for chosen, evaluated in zip(batches, results, strict=False):
        # a ratio is a mean: batches count by their number of patterns
        share = 1.0 if problem.objective.adds_up else len(chosen) / len(problem.indices)
        loss += share * evaluated.loss
        for name, value in evaluated.loss_terms.items():
            terms[name] = terms.get(name, 0.0) + share * value
        errors.append(evaluated.sse / len(chosen))
        free.append(evaluated.free)
    sse = float(sum(error * len(chosen) for error, chosen in zip(errors, batches, strict=False)))
    quarter = max(1, len(errors) // 4)
    before, after = float(np.mean(errors[:quarter])), float(np.mean(errors[-quarter:]))
    # mean errors of the first and the last quarter of the batches
    exploded = not errors[-1] < _EXPLOSION * errors[0]
    grows = exploded or not (math.isfinite(loss) and after <= _GROWTH * max(errors[0], before))
    return Pass(
        variables=variables,
        loss=loss,
        sse=sse,
        step=0.0 if grows else step,
        passes=1,
        falling=after < FALL * before,
        loss_terms=terms,
        free=added_free(free),
    )


def _one_step(
    problem: Problem, variables: Variables, chosen: np.ndarray, step: float
) -> tuple[Variables, Evaluated]:
    """The variables after a step on some patterns, and loss and errors before it."""
    form, blocks = problem.form, [name for name in problem.blocks if name in STEPS]
    evaluated = problem.objective.evaluate(variables, blocks, chosen, problem.weight, wait=False)
    diagonal = problem.diagonal(variables, blocks, chosen)
    point = form.vector(variables, blocks)
    gradient = form.filter_adjoint(form.gradient_as_it_is(variables, point, evaluated.gradients))
    # the regularisers are left out, and every array is divided by the curvature of this batch alone
    change = form.damp({name: gradient[name] / diagonal[name] for name in blocks}, overwrite=True)
    moved = {name: descended(point[name], change[name], step * STEPS[name]) for name in blocks}
    # a gradient is as large as the object: free it before the next batch
    evaluated.gradients = {}
    return form.variables(variables, moved), evaluated
