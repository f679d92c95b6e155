"""An epoch of a first-order method: a step with learning rates after every mini-batch, or after every few."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from pypty.backend.array import Array, array_module
from pypty.engine.problem import Problem, block_norms
from pypty.errors import ReconstructionError
from pypty.model.parametrization import Parametrization
from pypty.model.variables import Variables
from pypty.objective.objective import Evaluated
from pypty.objective.regularizers import Regularizer
from pypty.optimize.first_order import FirstOrder
from pypty.optimize.rates import RateSchedule
from pypty.optimize.vector import BlockVector
from pypty.output.loss_log import EpochRecord

_ROWS = ("positions", "tilts", "beam_current")
"""Blocks with a row for each pattern."""
_UNITS: Mapping[str, float] = MappingProxyType({"tilts": 1e-3})
"""What one unit of a learning rate is in that of its block."""
_PARTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"complex": ("obj",), "phase": ("objp",), "amplitude_phase": ("obja", "objp")}
)
"""What the object's block is made of, by ``Parametrization.obj``."""
_OBJECT = frozenset(part for parts in _PARTS.values() for part in parts)


@dataclass
class Progress:
    """A first-order method between two epochs.

    Attributes
    ----------
    name : of the method; "" before the first epoch of one
    moments : its state, by part and moment
    steps, epochs : that were made with any first-order method
    schedule : state of the learning rates' schedule
    probe_scale : root of the mean square of the probe, when the first of these epochs began
    """

    name: str = ""
    moments: dict[str, dict[str, Array]] = field(default_factory=dict)
    steps: int = 0
    epochs: int = 0
    schedule: dict[str, float] = field(default_factory=dict)
    probe_scale: float = 0.0

    def begun(self, name: str, variables: Variables) -> Progress:
        """A copy to work on; another method starts with its own moments."""
        scale = self.probe_scale or block_norms({"probe": variables.probe})["probe"]
        return dataclasses.replace(
            self, name=name, moments=self.moments if name == self.name else {}, probe_scale=scale
        )

    def without_object(self) -> Progress:
        """For an object of other sides: its moments start anew."""
        kept = {name: one for name, one in self.moments.items() if name not in _OBJECT}
        return dataclasses.replace(self, moments=kept)


@dataclass(frozen=True)
class Done:
    """What an epoch of batches gives back."""

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

    def value_and_gradient(self, block: Array) -> tuple[float, Array]:
        value, gradient = self.regularizer.value_and_gradient(block)
        return self.factor * value, self.factor * gradient


def learning_rates(now: Mapping[str, Any], epoch: int, probe_scale: float) -> dict[str, float]:
    """Rates of what moves at this epoch, in the units of the blocks, by the names of ``learning_rates``."""
    table = now["learning_rates"]
    own = {
        name: entry["lr"] * _UNITS.get(name, 1.0)
        for name, entry in table.items()
        if entry["lr"] > 0 and entry["start"] <= epoch and (entry["end"] is None or epoch < entry["end"])
    }
    if table["probe_abs"]["lr"] > 0:
        own.pop("probe", None)
        if "probe_abs" in own:
            own["probe"] = own.pop("probe_abs")
    elif "probe" in own:
        own["probe"] *= probe_scale
    return own


def moving_blocks(
    blocks: Sequence[str], form: Parametrization, rates: Mapping[str, float]
) -> tuple[str, ...]:
    """The refined blocks of which any part has a rate."""
    return tuple(name for name in blocks if any(part in rates for part in _parts(name, form)))


def _parts(name: str, form: Parametrization) -> tuple[str, ...]:
    return _PARTS[form.obj] if name == "obj" else (name,)


def _split(vector: Mapping[str, Array], form: Parametrization) -> dict[str, Array]:
    """Blocks by the names of the learning rates: amplitude and phase of the object each on its own."""
    out = dict(vector)
    if "obj" in out and form.obj != "complex":
        numbers = out.pop("obj")
        layers = [numbers] if form.obj == "phase" else list(numbers)
        out.update(zip(_PARTS[form.obj], layers, strict=True))
    return out


def _joined(parts: Mapping[str, Array], form: Parametrization) -> dict[str, Array]:
    """Inverse of :func:`_split`."""
    out = dict(parts)
    if "objp" in out:
        layers = [out.pop(name) for name in _PARTS[form.obj]]
        out["obj"] = layers[0] if form.obj == "phase" else array_module(layers[0]).stack(layers)
    return out


@dataclass(frozen=True)
class _Frame:
    """The numbers in which a method sees a block: its distance from ``origin`` in units of its learning rate. Steps
    that go with the gradient, weight decay, and whatever else is not of the size of the rate depend on them.
    """

    unit: float = 1.0
    origin: Array | None = None

    def seen(self, block: Array) -> Array:
        moved = block if self.origin is None else block - self.origin
        return moved if self.unit == 1.0 else moved / self.unit

    def block(self, seen: Array) -> Array:
        scaled = seen if self.unit == 1.0 else seen * self.unit
        return scaled if self.origin is None else scaled + self.origin


_AS_IT_IS = _Frame()


def _frames(problem: Problem, now: Mapping[str, Any]) -> dict[str, _Frame]:
    """Tilts in mrad; positions from whole pixels on; with ``probe_abs`` the probe of an orthonormal transform, whose
    square sums to the counts: as in PtyRAD."""
    positions = problem.variables.positions
    xp = array_module(positions)
    corners = xp.asarray(problem.objective.feed.corners[: len(positions)], dtype=positions.dtype)
    frames = {name: _Frame(unit) for name, unit in _UNITS.items()} | {"positions": _Frame(origin=corners)}
    if now["learning_rates"]["probe_abs"]["lr"] > 0:
        frames["probe"] = _Frame(1 / math.sqrt(math.prod(problem.variables.probe.shape[-2:])))
    return frames


@dataclass
class _Walk:
    """The epoch while it goes on."""

    problem: Problem
    now: Mapping[str, Any]
    epoch: int
    blocks: tuple[str, ...]
    rates: Mapping[str, float]
    schedule: RateSchedule | None
    progress: Progress
    method: FirstOrder
    variables: Variables
    point: dict[str, Array]
    n_patterns: int
    frames: Mapping[str, _Frame]

    def gradient(self, chosen: np.ndarray) -> tuple[Evaluated, dict[str, Array]]:
        """Of the patterns of a batch, by part."""
        problem, form = self.problem, self.problem.form
        share = len(chosen) / max(len(problem.indices), 1) if problem.objective.adds_up else 1.0
        terms = [_Scaled(one, share) for one in problem.regularizers]
        found = problem.objective.evaluate(self.variables, self.blocks, chosen, problem.weight, terms)
        whole = form.gradient_as_it_is(
            self.problem.variables, _joined(self.point, form), found.gradients, self.variables
        )
        return found, {name: array for name, array in _split(whole, form).items() if name in self.rates}

    def move(self, gradient: Mapping[str, Array], chosen: np.ndarray) -> None:
        """A step of the method."""
        factor, momentum = _scheduled(self.schedule, self.progress)
        rates = {name: factor * self.rates[name] for name in gradient}
        rows = {}
        if self.now["lazy_moments"]:
            rows = {
                name: chosen
                for name in _ROWS
                if name in gradient and len(gradient[name]) == self.n_patterns > 1
            }
        frames = {name: self.frames.get(name, _AS_IT_IS) for name in gradient}
        seen = {name: frame.seen(self.point[name]) for name, frame in frames.items()}
        slope = {name: gradient[name] * frame.unit for name, frame in frames.items() if frame.unit != 1.0}
        speed = {name: rates[name] / frame.unit for name, frame in frames.items()}
        moved = self.method.step(seen, {**gradient, **slope}, speed, rows, momentum)
        self.point.update({name: frame.block(moved[name]) for name, frame in frames.items()})
        self.progress.steps += 1
        self.variables = self.problem.form.variables(
            self.problem.variables, _joined(self.point, self.problem.form)
        )


def first_order_epoch(
    problem: Problem,
    now: Mapping[str, Any],
    epoch: int,
    batches: Sequence[np.ndarray],
    schedule: RateSchedule | None,
    progress: Progress,
) -> Done:
    """One pass over the patterns.

    The loss is the sum over the batches, each before its own step; the mean where losses are relative to their batch.
    Steps are not band-limited one by one: what has left the subspaces is taken out at the end of the epoch.

    Parameters
    ----------
    batches : sorted indices of the patterns of each
    schedule : of the learning rates; None = they stay
    progress : what earlier epochs left; it is not changed

    Raises
    ------
    ReconstructionError
        A loss is not finite.
    """
    progress = progress.begun(now["optimizer"], problem.variables)
    rates, form = learning_rates(now, epoch, progress.probe_scale), problem.form
    blocks = moving_blocks(problem.blocks, form, rates)
    start = form.vector(problem.variables, blocks)
    n_patterns = len(problem.variables.positions)
    walk = _Walk(problem, now, epoch, blocks, rates, schedule, progress,
                 FirstOrder(progress.name, now["optimizer_options"], progress.moments),
                 problem.variables, _split(start, form), n_patterns, _frames(problem, now))  # fmt: skip
    logged = _logged_rates(now, rates, schedule, progress)
    found, norms = _walk_through(walk, batches, now["grad_accumulation"], epoch)
    end = _joined(walk.point, form)
    change = form.project({name: end[name] - start[name] for name in blocks})
    end = {name: start[name] + change[name] for name in blocks}
    divisor = 1 if problem.objective.adds_up else len(found)
    loss = math.fsum(one.loss for one in found) / divisor
    progress.epochs += 1
    progress.moments = walk.method.state
    if schedule is not None:
        schedule.observe(loss)
        progress.schedule = dict(schedule.state)
    record = EpochRecord(
        epoch=epoch,
        time_s=0.0,
        loss=loss,
        sse=math.fsum(one.sse for one in found),
        first_step=1.0,
        step=1.0,
        evaluations=1,
        slope=0.0,
        new_slope=0.0,
        blocks=blocks,
        terms=_added([one.terms for one in found], divisor),
        optimizer=progress.name,
        learning_rates=logged,
        loss_terms=_added([one.loss_terms for one in found], divisor),
        gradient_norms=norms,
        update_norms=block_norms(change),
        batches=len(batches),
    )
    return Done(form.variables(problem.variables, end), progress, record)


def _walk_through(
    walk: _Walk, batches: Sequence[np.ndarray], together: int, epoch: int
) -> tuple[list[Evaluated], dict[str, float]]:
    """Step after step; what was found in every batch, and the norms of the last step's gradient."""
    found: list[Evaluated] = []
    norms: dict[str, float] = {}
    for first in range(0, len(batches), together):
        group, total = batches[first : first + together], None
        for chosen in group:
            one, gradient = walk.gradient(chosen)
            if not math.isfinite(one.loss):
                raise ReconstructionError(
                    f"epoch {epoch}: the loss of a batch is {one.loss}; lower learning_rates, or check the scale of "
                    "probe and obj"
                )
            one.gradients = {}
            found.append(one)
            # A last group that is not full is not rescaled.
            share = BlockVector(gradient) if together == 1 else BlockVector(gradient).scaled(1 / together)
            total = share if total is None else total.plus(1.0, share)
        if total is not None and len(total):
            walk.move(total, np.unique(np.concatenate(group)))
            norms = block_norms(total) if first + together >= len(batches) else norms
    return found, norms


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
    now: Mapping[str, Any], rates: Mapping[str, float], schedule: RateSchedule | None, progress: Progress
) -> dict[str, float]:
    """As they are given by the user, at the epoch's start."""
    (factor, _), table = _scheduled(schedule, progress), now["learning_rates"]
    names = {
        name: "probe_abs" if name == "probe" and table["probe_abs"]["lr"] > 0 else name for name in rates
    }
    return {names[name]: factor * table[names[name]]["lr"] for name in rates}
