"""The epochs of a reconstruction."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import time
from collections.abc import Callable, Container, Iterator, Mapping
from types import MappingProxyType

import numpy as np

from pypty.backend.array import to_host
from pypty.data.feed import Feed
from pypty.engine.epochs.batches import Batches
from pypty.engine.epochs.constrain import constrain, probe_power, starting_probe_power
from pypty.engine.epochs.edits import after_update, before_update, moved_scan
from pypty.engine.epochs.first_order import Done, first_order_epoch
from pypty.engine.epochs.misfit import Misfit
from pypty.engine.epochs.observe import describe, first_look, sees_the_same, watch
from pypty.engine.epochs.parts import learning_rates
from pypty.engine.epochs.precision import STAYS, falls_no_more, remove_rounding, stays_single, to_double
from pypty.engine.epochs.problem import (
    Problem,
    block_norms,
    current_groups,
    model_digest,
    parametrization,
    refined_blocks,
    resolve_weight,
)
from pypty.engine.epochs.quasi_newton import quasi_newton_epoch
from pypty.engine.epochs.rounding import with_one_rounding
from pypty.engine.epochs.state import State
from pypty.engine.epochs.stopping import EPOCHS_AHEAD, why_stop
from pypty.engine.epochs.warmup import STEPS, goes_on, warm_up
from pypty.engine.setup.assembly import Setup, data_fingerprint
from pypty.engine.setup.precision import in_precision, may_change
from pypty.engine.setup.sequences import check_inside, patterns_of_epoch
from pypty.errors import ReconstructionError, ResourceError
from pypty.model.parametrization import BandLimits
from pypty.objective.objective import Objective
from pypty.objective.regularizers import make_regularizers, regularizer_text
from pypty.optimize.lbfgs import ValueAndGradient
from pypty.optimize.rates import RateSchedule
from pypty.output.loss_log import EpochRecord
from pypty.params.schedule import Schedule
from pypty.params.schema.batches import NOT_FIRST_ORDER
from pypty.params.schema.values import EpochValues
from pypty.params.settings import Settings

_log = logging.getLogger(__name__)
_RESTARTED: Mapping[str, str] = MappingProxyType(
    {"restart_from_vacuum": "obj", "reset_positions": "positions"}
)
"""Edits that restart a block, which drops its moments."""

_OF_PRECISION = ("setup", "feed", "objective", "_model", "_limits", "_probe_power")
"""Attributes of a reconstruction that change with its precision."""

Reload = Callable[[Settings, int], Settings]
"""Called before each epoch with the settings and the epoch; returns the settings to use."""


class Reconstruction:
    """Runs epochs on a state.

    Parameters
    ----------
    batch_size, n_threads : of an earlier run, to repeat its rounding exactly; None = from the plan

    Attributes
    ----------
    batches : indices of the patterns of every mini-batch in the last epoch with mini-batches
    """

    def __init__(
        self, setup: Setup, state: State, batch_size: int | None = None, n_threads: int | None = None
    ) -> None:
        self.start_crop_origins = setup.scan.crop_origins
        self.setup = setup if state.scan is None else dataclasses.replace(setup, scan=state.scan)
        self.settings = setup.settings
        self.state = state
        self.feed: Feed = self.setup.feed()
        self._probe_power = starting_probe_power(self.setup, state)
        self.batches: list[np.ndarray] = []
        self._misfit = Misfit()
        self._batches = Batches(self.settings, setup.scan.positions)
        self._counted: tuple[Schedule, int] | None = None
        self._limits: tuple[tuple[tuple[int, ...], bool], BandLimits] | None = None
        self._model = (self._needs_subpixel(False), str(self.settings.first()["propmethod"]))
        self.objective: Objective = self.setup.objective(self.feed, *self._model, batch_size, n_threads)

    def _needs_subpixel(self, refining_positions: bool) -> bool:
        """Depends on the state alone, so that a resumed run makes the same choice."""
        positions = to_host(self.state.variables.positions)
        return refining_positions or bool((positions != self.setup.scan.crop_origins).any())

    @functools.cached_property
    def data_fingerprint(self) -> str:
        """A short hash of the patterns."""
        return data_fingerprint(self.setup)

    def epochs(self, reload: Reload = lambda settings, epoch: settings) -> Iterator[EpochRecord]:
        """Run until ``epoch_max``, or until nothing improves any more; yield the record of each epoch."""
        started = time.perf_counter() - self.state.elapsed_s
        while self.state.epoch < self.settings["epoch_max"]:
            self.settings = reload(self.settings, self.state.epoch)
            before, parts = self.state.copied(), {name: vars(self)[name] for name in _OF_PRECISION}
            try:
                record = self._epoch(self.settings.at(self.state.epoch))
            except BaseException:  # mostly Ctrl-C: an epoch that was not finished leaves no trace
                self.state.go_back(before)
                vars(self).update(parts)
                self._place(self.setup)
                raise
            self.state.elapsed_s = record.time_s = time.perf_counter() - started
            self.state.epoch += 1
            self.state.records.append(record)
            self.state.stop_reason = why_stop(self.settings, self.state, self.setup.backend.precision)
            del before, parts  # what is written after the epoch needs memory, too
            yield record
            if self.state.stop_reason:
                return
        self.state.stop_reason = f"epoch_max = {self.settings['epoch_max']} was reached"

    def objective_for(self, blocks: Container[str], propagation: str) -> Objective:
        """The objective. Its model has a sub-pixel shift if any patch is, or may move, off the pixel grid."""
        model = (self._needs_subpixel("positions" in blocks), propagation)
        if model != self._model:
            self._model = model
            # batch size and threads are kept, since they decide the rounding
            old = self.objective
            self.objective = self.setup.objective(self.feed, *model, old.batch_size, old.n_threads)
            self.log_executor()
        return self.objective

    def log_executor(self) -> None:
        """Log how the waves are computed, and why."""
        _log.info("executor: %s", self.objective.executor)

    def limits(self, now: EpochValues) -> BandLimits:
        """The subspaces of object and probe; an infinite weight keeps the probe inside its aperture."""
        shape, confined = self.state.variables.obj.shape[-2:], math.isinf(now["probe_reg_constraint_weight"])
        # cached by what the masks depend on
        if self._limits is not None and self._limits[0] == (shape, confined):
            return self._limits[1]
        limits = self.setup.band_limits(self.state.variables)
        aperture = self.setup.probe_aperture_mask() if confined else None
        if aperture is not None:
            inside = self.setup.backend.asarray(aperture, self.setup.backend.real)
            # the soft edge damps steps, and must end at the aperture, too
            soft = None if limits.probe_steps is None else limits.probe_steps * inside
            limits = dataclasses.replace(limits, probe=limits.probe * inside, probe_steps=soft)
        # the masks are as large as the object: rebuilt only when it grows, or the aperture is switched on or off
        self._limits = ((shape, confined), limits)
        return limits

    def problem(self, now: EpochValues) -> Problem:
        """The optimisation problem of an epoch, at the present variables."""
        setup, variables, epoch = self.setup, self.state.variables, self.state.epoch
        frozen = {name for name, until in self.state.frozen.items() if epoch < until}
        blocks = refined_blocks(now, variables, frozen)
        objective = self.objective_for(blocks, now["propmethod"])
        indices, held_out = patterns_of_epoch(self.settings, now, self.feed.n_patterns)
        # an edited sequence may name patterns outside the object
        check_inside(setup.scan, setup.grid.shape, indices, variables.obj.shape)
        n_pixels = math.prod(setup.data_shape)  # compared values of a pattern
        weight = resolve_weight(now["loss_weight"], self.feed.n_patterns, n_pixels)
        start = setup.backend.asarray(setup.scan.positions)
        terms = tuple(make_regularizers(now, setup.regularizer_context(), blocks))
        moving: Container[str] = blocks
        if now["optimizer"] not in NOT_FIRST_ORDER:  # a block without a rate rests
            moving = {name for name in learning_rates(now, epoch, probe_scale=1.0) if name in blocks}
        groups = current_groups(now, epoch, moving, indices, self.settings["probe_marker"])
        return Problem(
            objective=objective,
            variables=variables,
            blocks=blocks,
            indices=indices,
            weight=weight,
            form=parametrization(
                now,
                self.limits(now),
                start,
                epoch,
                self.settings["scan_size"],
                current_groups=tuple(setup.backend.xp.asarray(group) for group in groups),
            ),
            curvature=setup.curvature(indices, weight),
            use_diagonal=self.settings["preconditioner"],
            model=model_digest(self.settings, *self._model),
            regularizers=terms,
            regularizer_text=regularizer_text(now, terms, blocks),
            held_out=held_out,
            n_values=len(indices) * n_pixels,
            start_positions=start,
            keep=setup.kept,
        )

    def last_sample(self) -> ValueAndGradient | None:
        """Loss and gradient at the present point: computed now if arrays were edited after the last update.
        None before the first epoch."""
        if self.state.sample is not None or not self.state.records:
            return self.state.sample
        problem = self.problem(self.settings.at(self.state.records[-1].epoch))
        return problem(problem.point())

    def _place(self, setup: Setup) -> None:
        """Use a setup whose crop origins were moved."""
        self.setup = setup
        self.feed.crop_origins = setup.scan.crop_origins

    def _epoch(self, now: EpochValues) -> EpochRecord:
        state = self.state
        if state.snapshot is None:
            # before the first update, so that the first epoch is compared with the start
            state.snapshot = first_look(self.settings, self.setup, state)
        searches = now["optimizer"] == "lbfgs"  # only a line search can be blocked by a block that is stuck
        decisions = state.release(everything=not searches)
        blocks = refined_blocks(now, state.variables, state.frozen)
        if state.records and set(blocks) - set(state.records[-1].blocks):
            state.rejected = 0  # with another block, updates may succeed again
        if now["freeze_stuck_blocks"] and searches:
            decisions += state.freeze(blocks)
        # edits come first, since the problem is posed at the edited point
        variables, changed = before_update(state.variables, now, self.setup, self.limits(now))
        state.change(variables, changed)
        # moments describe the old values of a block
        state.progress = state.progress.without([_RESTARTED[name] for name in changed if name in _RESTARTED])
        if now["keep_probe_states_orthogonal"]:
            state.make_modes_orthogonal()
        problem = self.problem(now)
        method = self._method(problem, now)
        if method == "lbfgs":
            problem, record = self._quasi_newton(problem, now)
        elif method == "preconditioned":
            record = self._warm_up(problem, now)
            record.warm_up = "" if now["optimizer"] == "preconditioned" else record.warm_up
        else:
            record = self._first_order(problem, now)
        record.decisions = [*decisions, *record.decisions]
        if record.step > 0 or method != "lbfgs":
            # after a rejected update nothing has moved, and filters would only act twice
            state.change(*after_update(state.variables, now, self.limits(now)))
            self._move_windows(now)
        constrain(state, now, self.setup, self.limits(now), self._probe_power)
        self._observe(problem, record)
        for text in (*record.decisions, *record.warnings):
            _log.warning("epoch %d: %s", state.epoch, text)
        return record

    def _method(self, problem: Problem, now: EpochValues) -> str:
        """The method of this epoch: ``optimizer``, or the preconditioned steps of the warm-up."""
        asked = str(now["optimizer"])
        warm = "obj" in problem.blocks and goes_on(self.settings, self.state.records, asked)
        return "preconditioned" if warm else asked

    def _quasi_newton(self, problem: Problem, now: EpochValues) -> tuple[Problem, EpochRecord]:
        """An epoch of L-BFGS. With ``default_dtype`` "auto" it is made in double precision, and so are all that follow,
        if single precision stops progress: if the loss has fallen no more, or the update is rejected."""
        state, tried = self.state, None
        if not (may_change(self.setup) and problem.blocks) or stays_single(state.records):
            return problem, quasi_newton_epoch(state, self.settings, problem, now)
        why = falls_no_more(state, problem)
        if not why:
            before = state.copied()
            tried = quasi_newton_epoch(state, self.settings, problem, now)
            if tried.step > 0:
                return problem, tried
            why = "the update was rejected"
        refused = self._exchange_precision()
        if refused:
            record = tried or quasi_newton_epoch(state, self.settings, problem, now)
            record.decisions = [f"{STAYS} ({why}): double precision does not fit the memory: {refused}"]
            return problem, record
        if tried is not None:
            state.go_back(before)  # also to the pairs, which a rejected update drops
        to_double(state)
        problem = self.problem(now)
        remove_rounding(state, problem, now)
        problem = dataclasses.replace(problem, variables=state.variables)
        record = quasi_newton_epoch(state, self.settings, problem, now)
        record.evaluations += tried.evaluations if tried else 0
        record.decisions = [f"goes on in double precision, because single stops progress: {why}"]
        return problem, record

    def _exchange_precision(self) -> str:
        """Compute in double precision from now on; returns why the memory does not allow it, or ""."""
        old = self.setup
        try:
            self.setup = in_precision(old, "double", running=True)
        except ResourceError as error:
            return str(error)
        kept = [(setup.plan.resident, setup.plan.resident_on_device) for setup in (old, self.setup)]
        # patterns in memory stay there, unless there is no room for them any more
        self.feed = self.feed.in_precision(self.setup.backend) if kept[0] == kept[1] else self.setup.feed()
        self.objective, self._limits = self.setup.objective(self.feed, *self._model), None
        # as a run that is resumed later computes it
        self._probe_power = probe_power(self.setup.variables().probe)
        _log.info("%s", self.setup.plan)
        self.log_executor()
        return ""

    def _warm_up(self, problem: Problem, now: EpochValues) -> EpochRecord:
        """An epoch of preconditioned mini-batches; the history of L-BFGS does not survive it."""
        state = self.state
        self.batches = self._batches.of_epoch(problem, state.epoch, now)
        done = with_one_rounding(problem.objective, lambda: warm_up(problem, self.batches), lambda: None)
        # a step of 0 means that every attempt diverged; L-BFGS then takes over from the start
        if not math.isfinite(done.loss) and done.step > 0:
            raise ReconstructionError(f"epoch {state.epoch}: the loss is {done.loss}")
        before = problem.variables
        blocks = tuple(name for name in problem.blocks if name in STEPS)
        change = {name: done.variables.block(name) - before.block(name) for name in blocks}
        state.move(done.variables, "preconditioned steps")
        return EpochRecord(
            epoch=state.epoch,
            time_s=0.0,
            loss=done.loss,
            sse=done.sse,
            free_deviance=done.free.mean,
            first_step=1.0,
            step=done.step,
            evaluations=done.passes,
            slope=0.0,
            new_slope=0.0,
            blocks=blocks,
            warnings=[]
            if done.step
            else ["warm-up: errors grow even with the shortest steps; the warm-up is skipped"],
            warm_up="falling" if done.falling and done.step else "settled",
            optimizer="preconditioned",
            loss_terms=done.loss_terms,
            update_norms=block_norms(change),
            batches=len(self.batches),
        )

    def _first_order(self, problem: Problem, now: EpochValues) -> EpochRecord:
        """An epoch of a first-order method; the history of L-BFGS does not survive it."""
        state = self.state
        self.batches = self._batches.of_epoch(problem, state.epoch, now)
        asked = self.settings["lr_scheduler"]
        # steps of an epoch, rounded up: the last group of batches may be smaller
        steps = -(-len(self.batches) // now["grad_accumulation"])
        known, total = state.progress.schedule or None, self._first_order_epochs() if asked else 0

        def made() -> Done:
            schedule = None if asked is None else RateSchedule(asked, total, steps, known)
            return first_order_epoch(problem, now, state.epoch, self.batches, schedule, state.progress)

        done = with_one_rounding(problem.objective, made, lambda: None)
        state.progress = done.progress
        state.move(done.variables, f"steps of {now['optimizer']}")
        if not done.record.blocks:
            done.record.warnings.append("nothing is refined: no block is switched on and has a learning rate")
        return done.record

    def _first_order_epochs(self) -> int:
        """Number of epochs of this run with first-order methods, by the schedule, after the warm-up."""
        schedule, first = self.settings.schedules["optimizer"], self.settings.first_epoch
        if self._counted is None or self._counted[0] is not schedule:
            warm, last = self.settings["warmup_epochs"], self.settings["epoch_max"]
            # the warm-up moves the object, so there is none where the object is fixed
            warm = 0 if warm == "auto" or not self.settings.first()["update_obj"] else int(warm)
            epochs = range(first + warm, min(last, first + EPOCHS_AHEAD))
            names = [schedule.at(epoch) for epoch in epochs]
            self._counted = schedule, sum(name not in NOT_FIRST_ORDER for name in names)
        return self._counted[1]

    def _observe(self, problem: Problem, record: EpochRecord) -> None:
        """Record the loss of held-out patterns, deviance, convergence monitor, and means of tilts and distances."""
        state = self.state
        if len(problem.held_out):
            # no blocks: only the loss is computed, no gradient
            evaluated = problem.objective.evaluate(state.variables, (), problem.held_out, problem.weight)
            record.validation = evaluated.loss / (len(problem.held_out) if problem.objective.adds_up else 1)
        record.deviance = self._misfit.of(self.setup, problem, state.variables)
        state.snapshot = watch(self.settings, self.setup, state, record)
        describe(state.variables, record)

    def _move_windows(self, now: EpochValues) -> None:
        variables, scan, changed = moved_scan(self.state.variables, self.setup.scan, now, self.setup)
        if not changed:
            return
        state, old = self.state, self.setup.scan
        # rows and columns that were added at the top and at the left
        before, shapes = scan.moved - old.moved, (state.variables.obj.shape, variables.obj.shape)
        # moments of a warped object mean nothing; those of one that only grew get room, too
        if "puzzle_positions" in changed:
            state.progress = state.progress.without(("obj", "positions"))
        elif shapes[0] != shapes[1]:
            state.progress = state.progress.with_room(before.astype(int).tolist(), *shapes)
        if "puzzle_positions" in changed or not sees_the_same(old, scan, self.setup.grid.shape):
            state.snapshot = None
        state.change(variables, changed)
        self._place(dataclasses.replace(self.setup, scan=scan))
        state.scan = scan
