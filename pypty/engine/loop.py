"""The epochs of a reconstruction."""

from __future__ import annotations

import copy
import dataclasses
import functools
import logging
import math
import operator
import time
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

import numpy as np

from pypty.backend.array import to_host
from pypty.backend.memory import free_bytes, total_bytes
from pypty.data.feed import Feed
from pypty.data.scan import sort_sequence
from pypty.engine.by_hand import after_update, before_update, moved_scan, probe_aperture_mask
from pypty.engine.monitor import next_to_freeze
from pypty.engine.problem import (
    Problem,
    Signature,
    model_digest,
    parametrization,
    refined_blocks,
    regularizer_text,
    resolve_weight,
)
from pypty.engine.sequences import check_inside
from pypty.engine.setup import Setup, data_fingerprint
from pypty.engine.state import State
from pypty.engine.warmup import STEPS, goes_on, warm_up
from pypty.errors import ReconstructionError
from pypty.model.parametrization import BandLimits
from pypty.objective.objective import Limit, Objective
from pypty.objective.regularizers import make_regularizers
from pypty.optimize.lbfgs import Lbfgs, Sample, Step
from pypty.optimize.line_search import WolfeOptions
from pypty.output.loss_log import EpochRecord
from pypty.params.schedule import Constant
from pypty.params.settings import Settings

_log = logging.getLogger(__name__)
_UNLIMITED_EVALUATIONS = 100
_EPOCHS_AHEAD = 10_000

Reload = Callable[[Settings, int], Settings]
"""Called with the settings before each epoch; returns them, edited or not."""


class Reconstruction:
    """Runs epochs on a state.

    Parameters
    ----------
    batch_size, n_threads : those of an earlier run, to repeat its rounding exactly; None = from the plan
    """

    def __init__(
        self, setup: Setup, state: State, batch_size: int | None = None, n_threads: int | None = None
    ) -> None:
        self.start_corners = setup.scan.corners
        self.setup = setup if state.scan is None else dataclasses.replace(setup, scan=state.scan)
        self.settings = setup.settings
        self.state = state
        self.feed: Feed = self.setup.feed()
        self._limits: tuple[tuple[tuple[int, ...], bool], BandLimits] | None = None
        self._model = (self._needs_subpixel(False), str(self.settings.first()["propmethod"]))
        self.objective: Objective = self.setup.objective(self.feed, *self._model, batch_size, n_threads)

    def _needs_subpixel(self, refining_positions: bool) -> bool:
        """Decided by the state alone, so that a resumed run agrees."""
        positions = to_host(self.state.variables.positions)
        return refining_positions or bool((positions != self.setup.scan.corners).any())

    @functools.cached_property
    def data_fingerprint(self) -> str:
        """A short hash of the patterns."""
        return data_fingerprint(self.setup)

    def epochs(self, reload: Reload = lambda settings, epoch: settings) -> Iterator[EpochRecord]:
        """Run until ``epoch_max``, or until nothing improves any more; yields after each epoch."""
        started = time.perf_counter() - self.state.elapsed_s
        while self.state.epoch < self.settings["epoch_max"]:
            self.settings = reload(self.settings, self.state.epoch)
            before, setup = copy.copy(self.state), self.setup
            before.frozen, before.monitor = dict(self.state.frozen), copy.deepcopy(self.state.monitor)
            before.optimizer = Lbfgs(list(self.state.optimizer.pairs))
            try:
                record = self._epoch(self.settings.at(self.state.epoch))
            except BaseException:  # Ctrl-C, mostly: an epoch is done wholly or not at all
                vars(self.state).update(vars(before))
                self._place(setup)
                raise
            self.state.elapsed_s = record.time_s = time.perf_counter() - started
            self.state.epoch += 1
            self.state.records.append(record)
            self.state.stop_reason = self._why_stop()
            yield record
            if self.state.stop_reason:
                return
        self.state.stop_reason = f"epoch_max = {self.settings['epoch_max']} was reached"

    def objective_for(self, blocks: Container[str], propagation: str) -> Objective:
        """The objective; with the sub-pixel shift in its model if any window is, or may move, off the pixel grid."""
        model = (self._needs_subpixel("positions" in blocks), propagation)
        if model != self._model:
            self._model = model
            old = self.objective
            self.objective = self.setup.objective(self.feed, *model, old.batch_size, old.n_threads)
            self.log_executor()
        return self.objective

    def log_executor(self) -> None:
        """Say how the waves are computed, and why."""
        _log.info("executor: %s", self.objective.model.executor)

    def limits(self, now: Mapping[str, Any]) -> BandLimits:
        """The subspaces of object and probe; an infinite weight keeps the probe inside its aperture."""
        shape, confined = self.state.variables.obj.shape[-2:], math.isinf(now["probe_reg_constraint_weight"])
        if self._limits is not None and self._limits[0] == (shape, confined):
            return self._limits[1]
        limits = self.setup.band_limits(self.state.variables)
        aperture = probe_aperture_mask(self.setup) if confined else None
        if aperture is not None:
            inside = self.setup.backend.asarray(aperture, self.setup.backend.real)
            soft = None if limits.probe_steps is None else limits.probe_steps * inside
            limits = dataclasses.replace(limits, probe=limits.probe * inside, probe_steps=soft)
        self._limits = ((shape, confined), limits)
        return limits

    def problem(self, now: Mapping[str, Any]) -> Problem:
        """The optimisation problem of an epoch, at the present variables."""
        setup, variables, epoch = self.setup, self.state.variables, self.state.epoch
        frozen = {name for name, until in self.state.frozen.items() if epoch < until}
        blocks = refined_blocks(now, variables, frozen)
        objective = self.objective_for(blocks, now["propmethod"])
        indices = sort_sequence(now["sequence"], self.feed.n_patterns)
        check_inside(setup.scan, setup.grid.shape, indices, variables.obj.shape)
        n_pixels = math.prod(setup.data_shape)
        weight = resolve_weight(now["loss_weight"], self.feed.n_patterns, n_pixels)
        terms = tuple(make_regularizers(now, setup.regularizer_context(), blocks))
        return Problem(
            objective,
            variables,
            blocks,
            indices,
            weight,
            parametrization(
                now,
                self.limits(now),
                setup.backend.asarray(setup.scan.positions),
                epoch,
                self.settings["scan_size"],
            ),
            setup.curvature(indices, weight),
            self.settings["preconditioner"],
            model_digest(self.settings, *self._model),
            terms,
            regularizer_text(now, terms, blocks),
        )

    def last_sample(self) -> Sample | None:
        """Loss and gradient at the present point: computed now if arrays were changed by hand after the last update.
        None before the first epoch."""
        if self.state.sample is not None or not self.state.records:
            return self.state.sample
        problem = self.problem(self.settings.at(self.state.records[-1].epoch))
        return problem(problem.point())

    def _place(self, setup: Setup) -> None:
        """Take over windows that were placed anew."""
        self.setup = setup
        self.feed.corners = setup.scan.corners

    def _epoch(self, now: Mapping[str, Any]) -> EpochRecord:
        state = self.state
        decisions = state.release()
        blocks = refined_blocks(now, state.variables, state.frozen)
        if state.records and set(blocks) - set(state.records[-1].blocks):
            state.rejected = 0  # a block that joins in is a new chance
        if now["freeze_stuck_blocks"]:
            decisions += state.freeze(blocks)
        state.change(*before_update(state.variables, now, self.setup, self.limits(now)))
        if now["keep_probe_states_orthogonal"]:
            state.make_modes_orthogonal()
        problem = self.problem(now)
        if "obj" in problem.blocks and goes_on(self.settings, state.records):
            return self._warm_up(problem, now, decisions)
        warnings = self._forget_if_changed(problem.signature, now["reset_history_flag"])
        counted = _Counting(problem)
        if state.sample is None:
            state.sample = counted(problem.point())
        start = state.sample
        counted.start = start.info.parts
        if not math.isfinite(start.value) or not start.gradient.is_finite():
            raise ReconstructionError(
                f"epoch {state.epoch}: the loss is {start.value} or its gradient is not finite; "
                "check the scale of probe and obj, and use default_dtype='double'"
            )
        step = state.optimizer.step(
            problem.point(),
            start,
            counted,
            problem.precondition,
            now["hist_length"],
            now["update_step_bfgs"],
            self._wolfe(now),
        )
        warnings += self._take(step, problem)
        promised = start.gradient.dot_blocks(problem.precondition(start.gradient))
        limit = 100 * np.finfo(self.setup.backend.real).eps * abs(start.value)
        idle = {name for name, decrease in promised.items() if decrease <= limit}
        warnings += state.monitor.watch(idle, not step.accepted)
        if step.accepted:
            state.change(*after_update(state.variables, now, self.limits(now)))
            self._move_windows(now)
        for text in (*decisions, *warnings):
            _log.warning("epoch %d: %s", state.epoch, text)
        self._log_search(start, step)
        return self._record(problem, start, step, counted.calls, now, decisions, warnings)

    def _warm_up(self, problem: Problem, now: Mapping[str, Any], decisions: list[str]) -> EpochRecord:
        """An epoch of mini-batches; L-BFGS starts anew after it."""
        state = self.state
        done = warm_up(problem, (self.settings["seed"], state.epoch))
        if not math.isfinite(done.loss) and done.step > 0:
            raise ReconstructionError(f"epoch {state.epoch}: the loss is {done.loss}")
        warnings = [] if done.step else ["warm-up: errors grow, however short the steps; it is left out"]
        state.change(done.variables, ["warm-up"])
        state.signature = None
        state.change(*after_update(state.variables, now, self.limits(now)))
        for text in (*decisions, *warnings):
            _log.warning("epoch %d: %s", state.epoch, text)
        return EpochRecord(
            epoch=state.epoch,
            time_s=0.0,
            loss=done.loss,
            sse=done.sse,
            first_step=1.0,
            step=done.step,
            evaluations=done.passes,
            slope=0.0,
            new_slope=0.0,
            blocks=tuple(name for name in problem.blocks if name in STEPS),
            decisions=decisions,
            warnings=warnings,
            warm_up="falling" if done.falling and done.step else "settled",
        )

    def _move_windows(self, now: Mapping[str, Any]) -> None:
        variables, scan, changed = moved_scan(self.state.variables, self.setup.scan, now, self.setup)
        if changed:
            self.state.change(variables, changed)
            self._place(dataclasses.replace(self.setup, scan=scan))
            self.state.scan = scan

    def _forget_if_changed(self, signature: Signature, asked: bool) -> list[str]:
        state = self.state
        if state.signature is not None and signature != state.signature:
            state.forget(signature.difference(state.signature))
            state.rejected = 0
        elif asked:
            _log.info("epoch %d: history reset (reset_history_flag)", state.epoch)
            state.optimizer.reset()
        state.signature = signature
        return [] if signature.blocks else ["nothing is refined: every update_* is off"]

    def _take(self, step: Step, problem: Problem) -> list[str]:
        """Move to the new point, or note why not."""
        state = self.state
        state.sample = step.sample
        if step.accepted:
            state.variables = problem.variables_at(step.x)
            for name, signs in problem.form.signs(step.x).items():
                state.turn(name, functools.partial(operator.mul, signs))
            state.rejected = 0
            return (
                ["the L-BFGS direction did not descend: steepest descent was used"] if step.fell_back else []
            )
        state.rejected += 1
        state.optimizer.reset()
        return [f"update rejected ({step.search.reason}); history reset"]

    def _why_stop(self) -> str:
        state = self.state
        if not state.is_stuck or state.epoch >= self.settings["epoch_max"]:
            return ""
        follows = self.settings.at(state.epoch)
        blocks = refined_blocks(follows, state.variables, state.frozen)
        if blocks != state.records[-1].blocks:
            return ""
        if follows["freeze_stuck_blocks"] and next_to_freeze(blocks) is not None:
            return ""
        if not self._is_settled(follows):
            return ""
        stuck = [
            state.monitor.told[name]
            for name in state.records[-1].blocks
            if name in state.monitor.told and name in state.monitor.still
        ]
        reason = "; ".join(stuck) or f"converged to the limit of {self.settings['default_dtype']} precision"
        return f"no step along steepest descent decreases the loss: {reason}"

    def _is_settled(self, now: Mapping[str, Any]) -> bool:
        """Whether every per-epoch value was in the last epoch what it is now, and stays so; else a later epoch may go
        on."""
        first, last = self.state.epoch - 1, self.settings["epoch_max"]
        varying = [item for item in self.settings.schedules.items() if not isinstance(item[1], Constant)]
        return all(
            np.array_equal(schedule.at(epoch), now[name])
            for name, schedule in varying
            for epoch in range(first, min(last, first + _EPOCHS_AHEAD))
        )

    def _wolfe(self, now: Mapping[str, Any]) -> WolfeOptions:
        settings = self.settings
        return WolfeOptions(
            c1=now["wolfe_c1_constant"],
            c2=now["wolfe_c2_constant"],
            shrink=settings["reduce_factor"],
            grow=settings["optimism"],
            max_evaluations=settings["max_count"] or _UNLIMITED_EVALUATIONS,
            min_step=settings["min_step"],
        )

    def _log_search(self, start: Sample, step: Step) -> None:
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
        self,
        problem: Problem,
        start: Sample,
        step: Step,
        calls: int,
        now: Mapping[str, Any],
        decisions: list[str],
        warnings: list[str],
    ) -> EpochRecord:
        point = step.search.point
        backend = self.setup.backend
        gib = 2**30
        return EpochRecord(
            epoch=self.state.epoch,
            time_s=0.0,
            loss=start.value,
            sse=start.info.sse,
            first_step=now["update_step_bfgs"],
            step=point.step if point else 0.0,
            evaluations=calls,
            slope=step.slope,
            new_slope=point.slope if point else step.slope,
            blocks=problem.blocks,
            terms=dict(start.info.terms),
            free_GiB=free_bytes(backend) / gib if backend.on_gpu else 0.0,
            total_GiB=total_bytes(backend) / gib,
            decisions=decisions,
            warnings=warnings,
        )


class _Counting:
    """The problem as a line search asks for it, from a start whose batches are known; counts its calls."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.calls = 0
        self.start = np.zeros(0)

    def __call__(self, point: Any, limit: float = math.inf) -> Sample:
        self.calls += 1
        return self.problem(point, Limit(limit, self.start))
