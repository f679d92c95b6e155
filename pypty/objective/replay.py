"""Small batches on a GPU as CUDA graphs: a single call starts dozens of kernels.

If the kernels of a batch take less time than their start from Python, the batch is captured once and replayed.
Everything that changes between batches or evaluations lies in buffers with fixed addresses: the arrays that batches
share, the accumulators, and the pattern numbers (by which resident data are read).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from pypty.backend.array import Array
from pypty.backend.fixed import FixedPlaces
from pypty.backend.streams import DeviceStreams, GraphCache
from pypty.backend.workspace import Workspace
from pypty.data.feed import Batch, Feed, Placed
from pypty.model.blocks import Variables
from pypty.model.forward import Model
from pypty.model.split import SplitWaves
from pypty.objective.noise import NoiseModel

LAUNCH_BOUND_PIXELS = 2**22
"""Pixels of all waves of a batch. A kernel reads and writes 16 bytes of each: 15 to 40 µs on current devices, about as
long as its start from Python."""


class Replay:
    """The graphs of one objective.

    Parameters
    ----------
    stage : the only stage of the model
    """

    def __init__(self, stage: SplitWaves, streams: DeviceStreams) -> None:
        self.stage = stage
        self.graphs = GraphCache(streams)
        self.places = FixedPlaces()
        self._shapes: tuple = ()

    @classmethod
    def for_device(cls, model: Model, feed: Feed) -> Replay | None:
        """None if graphs are not possible: on the CPU, with stages that allocate arrays, or with weights that differ
        between patterns."""
        if model.split is None or not isinstance(feed.streams, DeviceStreams) or not feed.weights_are_shared:
            return None
        return cls(model.split, feed.streams)

    def covers(self, noise: NoiseModel, variables: Variables, names: tuple[str, ...], largest: int) -> bool:
        """Whether batches, of at most ``largest`` patterns, are small enough, and nothing in them allocates memory."""
        if noise.formula() is None or ("positions" in names and len(variables.positions) == 1):
            return False
        pixels = int(variables.probe.size) * len(variables.obj)  # probe (P, y, x), object (O, z, Y, X)
        return largest * pixels <= LAUNCH_BOUND_PIXELS

    def begin(
        self, points: list[Any], variables: Variables, names: tuple[str, ...], work: Workspace
    ) -> tuple[list[Any], dict[str, Array]]:
        """The arrays that batches share, and the accumulators, at their fixed addresses."""
        point = points[0]
        self._shapes = tuple(array.shape for array in point.arrays().values())
        gradients = {}
        for name, array in variables.blocks(names).items():
            gradients[name] = work.array(f"fixed gradient of {name}", array.shape, array.dtype)
            gradients[name].fill(0)
        return [self.stage.fixed(point, work, self.places)], gradients

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
        totals : (4,) gets loss, squared errors and sums of free pixels
        wanted : whether gradients are computed
        """
        work, placed = batch.workspace, batch.placed
        given = {"index": placed.index, "crop origins": placed.crop_origins}
        index, crop_origins = self.places.put(given, work, changing=given).values()
        fixed_totals = work.array("fixed totals", totals.shape, np.float64)
        # resident data are read by pattern number, which is copied above; others lie in a buffer of the feed
        rows = None if batch.rows is None else index
        fixed = dataclasses.replace(batch, rows=rows, on_device=Placed(index, crop_origins))
        formula = noise.formula()
        assert formula is not None
        # arrays cannot be compared as keys; their addresses are what a graph depends on
        numbers = dataclasses.replace(formula, reachable=_address(formula.reachable))
        names = tuple(gradients) if wanted else ()
        data = (
            _address(batch.data),
            batch.data.dtype,
            rows is None,
            _address(batch.weights),
            batch.multiplier,
        )
        buffers = tuple(sorted(work.sizes.items()))  # buffers only grow: one of the same size is the same one
        key = (len(batch.index), data, numbers, names, self._shapes, buffers)
        self.graphs.run(key, lambda: task(fixed, fixed_totals))
        totals[...] = fixed_totals

    def clear(self) -> None:
        """Drop the graphs, whose buffers are released."""
        self.graphs.clear()
        self.places.clear()


def _address(array: Array) -> int:
    return 0 if array is None else int(array.data.ptr)
