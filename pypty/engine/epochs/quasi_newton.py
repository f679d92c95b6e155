"""An epoch of L-BFGS: one line search over all patterns."""

from __future__ import annotations

import functools
import logging
import math
import operator
from typing import Any

import numpy as np

from pypty.backend.memory import free_bytes, total_bytes
from pypty.engine.epochs.problem import Problem, Signature, root_mean_squares
from pypty.engine.epochs.rounding import with_one_rounding
from pypty.engine.epochs.state import State
from pypty.errors import ReconstructionError
from pypty.objective.share import Limit
from pypty.optimize.lbfgs import Step, ValueAndGradient
from pypty.optimize.line_search import WolfeOptions
from pypty.optimize.vector import inner_products
from pypty.output.loss_log import EpochRecord
from pypty.params.schema.values import EpochValues
from pypty.params.settings import Settings

_log = logging.getLogger(__name__)
_UNLIMITED_EVALUATIONS = 100


def quasi_newton_epoch(state: State, settings: Settings, problem: Problem, now: EpochValues) -> EpochRecord:
    """Make one step; ``step`` of the record is 0 if it was rejected.

    All its sums have the same order (:mod:`pypty.engine.epochs.rounding`): also that of the loss at its start, which is
    computed again if the last epoch had larger batches.

    Raises
    ------
    ReconstructionError
        The loss, or its gradient, is not finite.
    """
    before = state.copied()

    def again() -> None:
        state.go_back(before)
        state.sample = None

    if state.sample is not None and state.sample.info.rounding not in (None, problem.objective.rounding):
        state.sample = None
    return with_one_rounding(problem.objective, lambda: _step(state, settings, problem, now), again)


def _step(state: State, settings: Settings, problem: Problem, now: EpochValues) -> EpochRecord:
    warnings = _forget_if_changed(state, problem.signature, now["reset_history_flag"])
    counted = _Counting(problem)
    if state.sample is None:
        state.sample = counted(problem.point())
    start = state.sample
    # a trial is compared with these batch by batch, and given up early
    counted.start = start.info.parts
    if not math.isfinite(start.value) or not start.gradient.is_finite():
        raise ReconstructionError(
            f"epoch {state.epoch}: the loss is {start.value} or its gradient is not finite; "
            "check the scale of probe and obj, and use default_dtype='double'"
        )
    point = problem.point()
    state.optimizer.keep_pairs(problem.keep)  # of a resumed run, or turned ones
    step = state.optimizer.step(
        point,
        start,
        counted,
        problem.precondition,
        now["hist_length"],
        now["update_step_bfgs"],
        _wolfe(settings, now),
        problem.keep,
    )
    warnings += _take(state, step, problem)
    # g.P D^-1 P g of each block: the first-order decrease of a preconditioned step of length 1
    steepest = problem.precondition(start.gradient)
    promised, squares = inner_products([(start.gradient, steepest), (start.gradient, start.gradient)])
    # a smaller decrease could not be told from rounding
    limit = problem.rounding(start.value)
    idle = {name for name, decrease in promised.items() if decrease <= limit}
    warnings += state.monitor.watch(idle, not step.accepted)
    _log_search(start, step)
    record = _record(state, problem, start, step, counted.calls, now)
    record.warnings = warnings
    record.gradient_norms = root_mean_squares(point, squares)
    record.update_norms = root_mean_squares(point, step.squares or dict.fromkeys(point, 0.0))
    return record


def _forget_if_changed(state: State, signature: Signature, asked: bool) -> list[str]:
    if state.signature is not None and signature != state.signature:
        state.forget(signature.difference(state.signature))
        state.rejected = 0
    elif asked:
        _log.info("epoch %d: history reset (reset_history_flag)", state.epoch)
        state.optimizer.reset()
    state.signature = signature
    return [] if signature.blocks else ["nothing is refined: every update_* is off"]


def _take(state: State, step: Step, problem: Problem) -> list[str]:
    """Move to the new point, or return a warning that says why not."""
    state.sample = step.sample
    if step.accepted:
        state.variables = problem.variables_at(step.x)
        # a negative amplitude becomes a positive one with the phase turned by pi: its gradient changes sign
        for name, signs in problem.form.signs(step.x).items():
            state.turn(name, functools.partial(operator.mul, signs))
        state.rejected = 0
        return ["the L-BFGS direction did not descend: steepest descent was used"] if step.fell_back else []
    # the pairs made a bad direction: the next step is steepest descent
    state.rejected += 1
    state.optimizer.reset()
    return [f"update rejected ({step.search.reason}); history reset"]


def _wolfe(settings: Settings, now: EpochValues) -> WolfeOptions:
    return WolfeOptions(
        c1=now["wolfe_c1_constant"],
        c2=now["wolfe_c2_constant"],
        shrink=settings["reduce_factor"],
        grow=settings["optimism"],
        max_evaluations=settings["max_count"] or _UNLIMITED_EVALUATIONS,
        min_step=settings["min_step"],
    )


def _log_search(start: ValueAndGradient, step: Step) -> None:
    for count, point in enumerate(step.search.trials):
        change = point.value - start.value
        _log.debug(
            "  line search %d: step %.4g, loss %.8g (%+.3g), slope %.3g -> %.3g",
            count,
            point.step,
            point.value,
            change,
            step.slope,
            point.slope,
        )


def _record(
    state: State, problem: Problem, start: ValueAndGradient, step: Step, calls: int, now: EpochValues
) -> EpochRecord:
    point = step.search.point
    backend = problem.objective.backend
    gib = 2**30
    return EpochRecord(
        epoch=state.epoch,
        time_s=0.0,
        loss=start.value,
        sse=start.info.sse,
        free_deviance=start.info.free.mean,
        first_step=now["update_step_bfgs"],
        step=point.step if point else 0.0,
        evaluations=calls,
        slope=step.slope,
        new_slope=point.slope if point else step.slope,
        blocks=problem.blocks,
        terms=dict(start.info.terms),
        loss_terms=dict(start.info.loss_terms),
        free_GiB=free_bytes(backend) / gib if backend.on_gpu else 0.0,
        total_GiB=total_bytes(backend) / gib,
    )


class _Counting:
    """The problem as a line search calls it: counts the calls, and passes on the batch losses at its start."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.calls = 0
        self.start = np.zeros(0)

    def __call__(self, point: Any, limit: float = math.inf) -> ValueAndGradient:
        self.calls += 1
        return self.problem(point, Limit(limit, self.start))
