"""An epoch of a first-order method: a step with learning rates after every mini-batch, or after every few."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pypty.backend.array import Array, array_module
from pypty.engine.epochs.parts import (
    AS_IT_IS,
    PROBE_PARTS,
    Frame,
    all_parts,
    frames_of,
    joined,
    learning_rates,
    moving_blocks,
    parts_of,
    rates_of_parts,
    split,
)
from pypty.engine.epochs.problem import Problem, block_norms
from pypty.errors import ReconstructionError
from pypty.model.blocks import BLOCKS, Variables
from pypty.objective.regularizers import Regularizer
from pypty.objective.share import Evaluated, added_free, read
from pypty.optimize.first_order import FirstOrder
from pypty.optimize.rates import RateSchedule
from pypty.optimize.vector import BlockVector
from pypty.output.loss_log import EpochRecord
from pypty.params.schema.values import EpochValues

_SIGNED = ("mean", "velocity", "gradient")
"""Moments that start at 0 in added rows and columns; others take the values of their neighbours there."""
_READ_AFTER = 200
"""Steps between two looks at the losses on a GPU, where every look waits for the device: what diverges goes on as long
at most."""


@dataclass(kw_only=True)
class Progress:
    """A first-order method between two epochs.

    Attributes
    ----------
    name : name of the method; "" before its first epoch
    moments : its state, by part and moment
    steps, epochs : numbers made with any first-order method
    schedule : state of the learning rates' schedule
    probe_scale : root mean square of the probe at the start of the first of these epochs
    """

    name: str = ""
    moments: dict[str, dict[str, Array]] = field(default_factory=dict)
    steps: int = 0
    epochs: int = 0
    schedule: dict[str, float] = field(default_factory=dict)
    probe_scale: float = 0.0

    def begun(self, name: str, variables: Variables) -> Progress:
        """A copy to work on; after a change of method the moments start anew."""
        # set once: rates relative to the probe must not follow its refinement
        scale = self.probe_scale or block_norms({"probe": variables.probe})["probe"]
        return dataclasses.replace(
            self, name=name, moments=self.moments if name == self.name else {}, probe_scale=scale
        )

    def without(self, blocks: Sequence[str]) -> Progress:
        """A copy without the moments of these blocks."""
        gone = {part for block in blocks for part in all_parts(block)}
        kept = {part: moments for part, moments in self.moments.items() if part not in gone}
        return dataclasses.replace(self, moments=kept)

    def with_room(self, before: Sequence[int], old: tuple[int, ...], new: tuple[int, ...]) -> Progress:
        """A copy for an object (mode, z, Y, X) that has grown, with moments of its new shape.

        Parameters
        ----------
        before : rows and columns that were added at the top and at the left
        old, new : shapes of the object
        """
        moments = {
            part: {key: _with_room(key, array, part, before, old, new) for key, array in known.items()}
            if part in all_parts("obj")
            else known
            for part, known in self.moments.items()
        }
        return dataclasses.replace(self, moments=moments)


def _with_room(
    key: str,
    array: Array,
    part: str,
    before: Sequence[int],
    old: tuple[int, ...],
    new: tuple[int, ...],
) -> Array:
    """A moment of the object, padded along rows and columns (factored moments have only one of these axes)."""
    # index of the row axis
    first = array.ndim - (3 if part == "obj" else 2)  # complex numbers are pairs
    if first < 0:  # a count
        return array
    padding = [(0, 0)] * array.ndim
    for axis in range(2):
        grown = new[axis - 2] - old[axis - 2]
        if array.shape[first + axis] == old[axis - 2]:
            # the rest of the growth lies at the bottom or on the right
            padding[first + axis] = (int(before[axis]), int(grown - before[axis]))
    return array_module(array).pad(array, padding, mode="constant" if key in _SIGNED else "edge")


@dataclass(frozen=True)
class Done:
    """The result of an epoch of mini-batches."""

    variables: Variables
    progress: Progress
    record: EpochRecord


@dataclass(frozen=True)
class _Scaled:
    """A regulariser's share in a batch."""

    regularizer: Regularizer
    factor: float

    @property
    def name(self) -> str:
        return self.regularizer.name

    @property
    def block(self) -> str:
        return self.regularizer.block

    def value_and_gradient(self, block: Array) -> tuple[float | Array, Array]:
        value, gradient = self.regularizer.value_and_gradient(block)
        return self.factor * value, self.factor * gradient


@dataclass(kw_only=True)
class _Walk:
    """The state within an epoch."""

    problem: Problem
    now: EpochValues
    epoch: int
    blocks: tuple[str, ...]
    rates: Mapping[str, float]
    schedule: RateSchedule | None
    progress: Progress
    method: FirstOrder
    variables: Variables
    whole: dict[str, Array]
    point: dict[str, Array]
    n_patterns: int
    frames: Mapping[str, Frame]

    def gradient(self, chosen: np.ndarray) -> tuple[Evaluated, dict[str, Array]]:
        """Loss and gradient of a batch, the gradient split into parts."""
        problem, form = self.problem, self.problem.form
        # where losses add up, regularisers are shared out over the batches: a pass has each of them once
        share = len(chosen) / max(len(problem.indices), 1) if problem.objective.adds_up else 1.0
        terms = [_Scaled(regularizer, share) for regularizer in problem.regularizers]
        evaluated = problem.objective.evaluate(
            self.variables, self.blocks, chosen, problem.weight, terms, wait=False
        )
        whole = form.gradient_as_it_is(
            self.problem.variables, self.whole, evaluated.gradients, self.variables
        )
        return evaluated, {name: array for name, array in split(whole, form).items() if name in self.rates}

    def move(self, gradient: Mapping[str, Array], chosen: np.ndarray) -> None:
        """A step of the method."""
        factor, momentum = _scheduled(self.schedule, self.progress)
        rates = {name: factor * self.rates[name] for name in gradient}
        rows = {}
        if self.now["lazy_moments"]:
            # moments of patterns that are not in the batch stay as they are
            rows = {
                name: chosen
                for name, row in BLOCKS.items()
                if row.per_pattern and name in gradient and len(gradient[name]) == self.n_patterns > 1
            }
        frames = {name: self.frames.get(name, AS_IT_IS) for name in gradient}
        seen = {name: frame.seen(self.point[name]) for name, frame in frames.items()}
        # x = unit u + origin: dL/du = unit dL/dx, and a rate of x is rate/unit of u
        slope = {name: gradient[name] * frame.unit for name, frame in frames.items() if frame.unit != 1.0}
        speed = {name: rates[name] / frame.unit for name, frame in frames.items()}
        # the method works in the scaled variables u of each part
        moved = self.method.step(seen, {**gradient, **slope}, speed, rows, momentum)
        self.point.update({name: frame.block(moved[name]) for name, frame in frames.items()})
        self.progress.steps += 1
        form = self.problem.form
        # stacking makes a new array, so the parts are split from it again
        self.whole = joined(self.point, form)
        self.point = split(self.whole, form)  # views
        self.variables = form.variables(self.problem.variables, self.whole)


def first_order_epoch(
    problem: Problem,
    now: EpochValues,
    epoch: int,
    batches: Sequence[np.ndarray],
    schedule: RateSchedule | None,
    progress: Progress,
) -> Done:
    """One pass over the patterns.

    The loss is the sum over the batches, each before its own step; the mean where losses are relative to their batch.
    Single steps are not band-limited: their sum is projected on the subspaces at the end of the epoch.

    Parameters
    ----------
    batches : sorted pattern indices of each batch
    schedule : schedule of the learning rates; None = constant rates
    progress : state after earlier epochs; it is not changed

    Raises
    ------
    ReconstructionError
        A loss is not finite.
    """
    # a copy: an epoch that is interrupted leaves the old one untouched
    progress = progress.begun(now["optimizer"], problem.variables)
    smallest = min((len(batch) for batch in batches), default=1)
    problem = dataclasses.replace(
        problem, objective=problem.objective.for_batches(smallest, problem.variables)
    )
    form = problem.form
    rates = learning_rates(now, epoch, progress.probe_scale)
    rates = rates_of_parts(rates, form, problem.variables.probe, progress.probe_scale)
    blocks = moving_blocks(problem.blocks, form, rates)
    start = form.vector(problem.variables, blocks)
    walk = _Walk(
        problem=problem,
        now=now,
        epoch=epoch,
        blocks=blocks,
        rates=rates,
        schedule=schedule,
        progress=progress,
        method=FirstOrder(progress.name, now["optimizer_options"], progress.moments),
        variables=problem.variables,
        whole=start,
        point=split(start, form),
        n_patterns=problem.objective.feed.n_patterns,
        frames=frames_of(problem, now),
    )
    moving = [part for name in blocks for part in parts_of(name, form) if part in rates]
    logged = _logged_rates(now, moving, schedule, progress)
    results, norms = _walk_through(walk, batches, now["grad_accumulation"], epoch)
    # the starting point may lie outside the subspaces: only the change is projected
    change = form.project({name: walk.whole[name] - start[name] for name in blocks}, overwrite=True)
    end = {name: start[name] + change[name] for name in blocks}
    divisor = 1 if problem.objective.adds_up else len(results)  # losses relative to their batch are averaged
    loss = math.fsum(result.loss for result in results) / divisor
    progress.epochs += 1
    # the next epoch starts from |O| and arg O: an amplitude below 0 becomes positive there, and its moments turn
    progress.moments = _turned(walk.method.state, split(form.signs(end), form))
    if schedule is not None:
        schedule.observe(loss)
        progress.schedule = dict(schedule.state)
    record = EpochRecord(
        epoch=epoch,
        time_s=0.0,
        loss=loss,
        sse=math.fsum(result.sse for result in results),
        free_deviance=added_free(result.free for result in results).mean,
        first_step=1.0,
        step=1.0,
        evaluations=1,
        slope=0.0,
        new_slope=0.0,
        blocks=blocks,
        terms=_added([result.terms for result in results], divisor),
        optimizer=progress.name,
        learning_rates=logged,
        loss_terms=_added([result.loss_terms for result in results], divisor),
        gradient_norms=norms,
        update_norms=block_norms(change),
        batches=len(batches),
    )
    return Done(form.variables(problem.variables, end), progress, record)


def _turned(moments: dict[str, dict[str, Array]], signs: Mapping[str, Array]) -> dict[str, dict[str, Array]]:
    """Moments of parts of which some numbers change their sign."""
    return {
        part: {key: array * signs[part] if key in _SIGNED else array for key, array in known.items()}
        if part in signs
        else known
        for part, known in moments.items()
    }


def _walk_through(
    walk: _Walk, batches: Sequence[np.ndarray], together: int, epoch: int
) -> tuple[list[Evaluated], dict[str, float]]:
    """Make all steps. Returns loss and errors of every batch, and the norms of the last gradient."""
    results: list[Evaluated] = []
    norms: dict[str, float] = {}
    for first in range(0, len(batches), together):
        group, total = batches[first : first + together], None
        for chosen in group:
            result, gradient = walk.gradient(chosen)
            _check([result], epoch)
            # only numbers are kept: gradients of all batches would fill the memory
            result.gradients, result.sums = {}, None
            results.append(result)
            # the gradient is averaged over the group; the last group may be smaller, and is not rescaled
            share = BlockVector(gradient) if together == 1 else BlockVector(gradient).scaled(1 / together)
            total = share if total is None else total.plus(1.0, share)
            del gradient, share  # they would be there while the next batch makes its own
        if total is not None and len(total):
            # with everything frozen there is no gradient, and nothing to move
            walk.move(total, np.unique(np.concatenate(group)))
            norms = block_norms(total) if first + together >= len(batches) else norms
        if first // together % _READ_AFTER == _READ_AFTER - 1:
            _read(results, epoch)
    _read(results, epoch)
    return results, norms


def _read(results: Sequence[Evaluated], epoch: int) -> None:
    """Fetch losses that are still on the device."""
    unread = [result for result in results if result.unread is not None]
    read(unread)
    _check(unread, epoch)


def _check(results: Sequence[Evaluated], epoch: int) -> None:
    """Refuse losses that are known and not finite."""
    for result in results:
        if result.unread is None and not math.isfinite(result.loss):
            raise ReconstructionError(
                f"epoch {epoch}: the loss of a batch is {result.loss}; lower learning_rates, or check the scale of "
                "probe and obj"
            )


def _scheduled(schedule: RateSchedule | None, progress: Progress) -> tuple[float, float | None]:
    """Factor on the rates, and the momentum where the schedule has one."""
    if schedule is None:
        return 1.0, None
    count = progress.steps if schedule.unit == "batch" else progress.epochs
    return schedule.factor(count), schedule.momentum(count)


def _added(parts: Sequence[Mapping[str, float]], divisor: int) -> dict[str, float]:
    names = {name: None for part in parts for name in part}
    return {name: math.fsum(part.get(name, 0.0) for part in parts) / divisor for name in names}


def _logged_rates(
    now: EpochValues, moving: Sequence[str], schedule: RateSchedule | None, progress: Progress
) -> dict[str, float]:
    """Rates of the moving parts at the start of the epoch, in the units of the parameters."""
    (factor, _), table = _scheduled(schedule, progress), now["learning_rates"]
    probe = "probe_abs" if table["probe_abs"]["lr"] > 0 else "probe"
    names = [probe if part in PROBE_PARTS.values() else part for part in moving]
    return {name: factor * table[name]["lr"] for name in names}
