"""Small batches on a GPU as CUDA graphs: a single call starts dozens of kernels.

If the kernels of a batch take less time than their start from Python, the batch is captured once and replayed.
Everything that changes between batches or evaluations lies in buffers with fixed addresses: the arrays that batches
share, the accumulators, and the pattern numbers (by which resident data are read).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pypty.backend.array import Array
from pypty.backend.fixed import FixedPlaces
from pypty.backend.streams import DeviceStreams, GraphCache
from pypty.backend.workspace import Workspace
from pypty.data.batch import Batch, Placed
from pypty.data.feed import Feed
from pypty.model.blocks import Variables
from pypty.model.forward import Model
from pypty.objective.noise import NoiseModel
from pypty.objective.powers import PowerSum

LAUNCH_BOUND_PIXELS = 2**22
"""Pixels of all waves of a batch. A kernel reads and writes 16 bytes of each: 15 to 40 µs on current devices, about as
long as its start from Python."""


class Replay:
    """The graphs of one objective.

    Parameters
    ----------
    model : the split kernels, and stages on intensities that graphs can hold
    """

    def __init__(self, model: Model, streams: DeviceStreams) -> None:
        self.model = model
        self.graphs = GraphCache(streams)
        self.places = FixedPlaces()
        self._shapes: tuple = ()

    @classmethod
    def for_device(cls, model: Model, feed: Feed) -> Replay | None:
        """None if graphs are not possible: on the CPU, or with stages that call CUDA's libraries (the other executors
        call cuFFT, and are for models that take long enough)."""
        if not model.in_graphs or not isinstance(feed.streams, DeviceStreams):
            return None
        return cls(model, feed.streams)

    def covers(self, noise: NoiseModel, variables: Variables, largest: int) -> bool:
        """Whether batches, of at most ``largest`` patterns, are small enough, and kernels compute their loss."""
        if not noise.capturable:
            return False
        pixels = int(variables.probe.size) * len(variables.obj)  # probe (P, y, x), object (O, z, Y, X)
        return largest * pixels <= LAUNCH_BOUND_PIXELS

    def begin(
        self,
        points: list[Any],
        variables: Variables,
        names: tuple[str, ...],
        noise: NoiseModel,
        work: Workspace,
    ) -> tuple[list[Any], dict[str, Array], NoiseModel]:
        """The arrays that batches share, the accumulators, and what the loss reads, at their fixed addresses."""
        first = self.model.split
        assert first is not None
        fixed = [first.fixed(points[0], work, self.places)]
        others: dict[str, Array] = {}
        rest = [_named(point, f"stage {i}", others) for i, point in enumerate(points[1:])]
        own = noise.arrays() if isinstance(noise, PowerSum) else {}
        others |= own
        # points are computed anew for every evaluation
        copies = self.places.put(others, work, changing=others)
        fixed += [_filled(point, copies) for point in rest]
        if isinstance(noise, PowerSum):
            noise = dataclasses.replace(noise, **{name: copies[name] for name in own})
        shared = (*points[0].arrays().values(), *others.values())
        self._shapes = tuple(array.shape for array in shared)
        gradients = {}
        for name, array in variables.blocks(names).items():
            gradients[name] = work.array(f"fixed gradient of {name}", array.shape, array.dtype)
            gradients[name].fill(0)
        return fixed, gradients, noise

    def run(
        self,
        task: Callable[[Batch, Array], None],
        batch: Batch,
        totals: Array,
        gradients: dict[str, Array],
        noise: NoiseModel,
        wanted: bool,
    ) -> None:
        """Do ``task(batch, totals)`` with all arrays of the batch at fixed addresses.

        Parameters
        ----------
        totals : (4,), with ``loss_terms`` (N_SUMS,): gets the sums of the batch
        wanted : whether gradients are computed
        """
        work, placed = batch.workspace, batch.placed
        given = {"index": placed.index, "crop origins": placed.crop_origins}
        if batch.weights is not None and batch.weights.ndim > 2:  # of each pattern
            given["weights"] = batch.weights
        if batch.rows is not None and batch.rows is not placed.index:  # data of some of the patterns only
            given["rows"] = batch.rows
        copies = self.places.put(given, work, changing=given)
        index, crop_origins = copies["index"], copies["crop origins"]
        weights = copies.get("weights", batch.weights)
        fixed_totals = work.array("fixed totals", totals.shape, np.float64)
        # resident data are read by row or pattern number, copied above; others lie in a buffer of the feed
        rows = None if batch.rows is None else copies.get("rows", index)
        fixed = dataclasses.replace(batch, rows=rows, weights=weights, on_device=Placed(index, crop_origins))
        names = tuple(gradients) if wanted else ()
        data = (
            _address(batch.data),
            batch.data.dtype,
            rows is None,
            _address(weights),
            batch.multiplier,
        )
        buffers = tuple(sorted(work.sizes.items()))  # buffers only grow: one of the same size is the same one
        key = (len(batch.index), data, _loss_key(noise), names, self._shapes, buffers)
        self.graphs.run(key, lambda: task(fixed, fixed_totals))
        totals[...] = fixed_totals

    def clear(self) -> None:
        """Drop the graphs, whose buffers are released."""
        self.graphs.clear()
        self.places.clear()


def _loss_key(noise: NoiseModel) -> Hashable:
    """Numbers of a loss. Arrays cannot be compared; their addresses are what a graph depends on."""
    if isinstance(noise, PowerSum):
        addresses: dict[str, Any] = {name: _address(array) for name, array in noise.arrays().items()}
        return dataclasses.replace(noise, **addresses)
    formula = noise.formula()
    return None if formula is None else dataclasses.replace(formula, reachable=_address(formula.reachable))


@dataclass(frozen=True)
class _Name:
    """In the place of an array."""

    name: str


def _named(point: Any, path: str, arrays: dict[str, Array]) -> Any:
    """What a stage has prepared, with names in the place of its arrays, which ``arrays`` gets."""
    if isinstance(point, (list, tuple)):
        return type(point)(_named(part, f"{path} {i}", arrays) for i, part in enumerate(point))
    if hasattr(point, "data") and hasattr(point, "dtype"):
        arrays[path] = point
        return _Name(path)
    return point


def _filled(point: Any, arrays: Mapping[str, Array]) -> Any:
    """The inverse of :func:`_named`."""
    if isinstance(point, (list, tuple)):
        return type(point)(_filled(part, arrays) for part in point)
    return arrays[point.name] if isinstance(point, _Name) else point


def _address(array: Array) -> int:
    return 0 if array is None else int(array.data.ptr)
