"""Rank 0 of a reconstruction on several ranks: what it asks the others to compute, and what it makes of the answers."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np

from pypty.backend.array import Array, array_module
from pypty.data.feed import Feed
from pypty.engine.ranks.recipe import Recipe, patterns_to_send, take_fastest_route, without_patterns
from pypty.engine.ranks.shelf import RankShelf
from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.sequences import used_at_any_epoch
from pypty.model.blocks import Variables
from pypty.objective.combined import added_sums
from pypty.objective.noise import NoiseModel
from pypty.objective.objective import Objective
from pypty.objective.passes import Look, Pass, Passes, Task, decided
from pypty.objective.regions import Region, divide, region_of
from pypty.objective.share import Evaluated, Limit, added_free
from pypty.optimize.spread import Spread
from pypty.optimize.vector import BlockVector
from pypty.ranks.link import Link, Message

LOSS, DECISION, ANSWER = "loss", "decision", "answer"
"""What is still to come from a rank: its loss, our decision about it, its last answer."""


class Team:
    """All ranks of a reconstruction, as rank 0 sees them.

    Parameters
    ----------
    link : to the other ranks, which serve (:mod:`pypty.engine.ranks.worker`)
    setup : of the reconstruction; the patterns are divided by its crop origins

    Attributes
    ----------
    owned : sorted numbers of the patterns of each rank
    reduction_s : seconds that rank 0 has spent with sending, waiting for the others and adding
    """

    def __init__(self, link: Link, setup: Setup) -> None:
        self.link = link
        used = used_at_any_epoch(setup.settings, setup.n_patterns)
        self.owned = divide(setup.scan.crop_origins.astype(float), used, link.size)
        self.reduction_s = 0.0
        self._window = setup.grid.shape
        self._regions: tuple[np.ndarray, list[Region], Feed] | None = None
        self._pending = dict.fromkeys(link.others, "")
        self._n_batches: list[int] = []
        self._noise: dict[int, NoiseModel] = {}
        self._current: Passes | None = None
        self._shelf = RankShelf(link, self._settle) if self.spreads(setup) else None
        take_fastest_route(link, setup.backend)

    @property
    def text(self) -> str:
        """How many ranks there are, and how they are reached."""
        pieces = "" if self._shelf is None else "; each keeps a part of the L-BFGS history"
        return f"on {self.link.size} ranks, over {self.link.path}{pieces}"

    @staticmethod
    def spreads(setup: Setup) -> bool:
        """Whether each rank keeps a part of the L-BFGS history."""
        return setup.plan.spread_history

    def join(self, setup: Setup, objective: Objective, subpixel: bool, propagation: str) -> Objective:
        """Have the other ranks compute their parts of an objective of rank 0."""
        self._settle()
        recipe = Recipe.of(setup)
        for rank in self.link.others:
            owned = self.owned[rank]
            patterns = patterns_to_send(setup, owned)
            content = {
                "recipe": recipe,
                "owned": owned,
                "subpixel": subpixel,
                "propagation": propagation,
                "batch_size": objective.batch_size,
                "n_threads": objective.n_threads,
                "patterns": None if patterns is None else without_patterns(patterns),
                "held": setup.held is not None,
            }
            arrays = [] if patterns is None else [patterns.patterns]
            if setup.held is not None:
                arrays.append(setup.held[owned])
            self.link.send(rank, "setup", content, arrays)
            self._pending[rank] = ANSWER
        self._regions, self._noise, self._n_batches = None, {}, []
        self._current = objective.passes
        # they read their patterns, which may take long: nothing is sent to them before they are ready
        self.link.will_take_longer()
        for rank in self.link.others:
            self._receive(rank)
        self.link.will_take_longer()
        objective.others = self
        return objective

    def summed(self, own: Passes, task: Task) -> Evaluated:
        """The sum over the patterns of all ranks (:class:`pypty.objective.passes.Others`)."""
        started = time.perf_counter()
        assert own is self._current, "the other ranks have the objective of the last setup"
        self._settle()
        regions, feed = self._placed(own.feed)
        chosen = [region.of(task.indices) for region in regions]
        limits = self._limits(task.limit)
        for rank in self.link.others:
            self._ask(rank, "sum", regions[rank], task, chosen[rank], limits[rank])
        mine = dataclasses.replace(
            task, variables=regions[0].seen(task.variables), indices=chosen[0], limit=limits[0]
        )
        sent = time.perf_counter()
        with own.feed.streams.computing():
            part = dataclasses.replace(own, feed=feed).begin(mine)
            part.compute()
            computed = time.perf_counter()
            names = self._decide(part, task)
            decided_at = time.perf_counter()
            result = part.finished(names)
            caught_up = time.perf_counter()
            totals = task.variables.zeros(names)
            regions[0].add(totals, regions[0].rows(result.gradients, chosen[0]), chosen[0])
            parts = [dataclasses.replace(result, gradients=totals)]
            for rank in self.link.others:
                message = self._answer(rank)
                gradients = dict(zip(names, message.arrays, strict=True))
                regions[rank].add(totals, _placed_like(gradients, totals), chosen[rank])
                parts.append(message.content)
        self._n_batches = [len(one.parts) for one in parts]
        # batches of all ranks are alike: the others have patience with as many as this one had
        batches = max(1, -(-self._n_batches[0] // task.n_threads))
        self.link.wait_longer((computed - sent) / batches)
        self.reduction_s += sent - started + decided_at - computed + time.perf_counter() - caught_up
        return _joined(parts)

    def keep(self, vector: BlockVector) -> BlockVector:
        """The vector with its object in pieces on all ranks, if the memory plan says so; other blocks are small."""
        blocks = vector.kept()
        if self._shelf is None or "obj" not in blocks or isinstance(blocks["obj"], Spread):
            return vector
        return BlockVector({**blocks, "obj": self._shelf.keep(blocks["obj"])})

    def everywhere(self, own: Objective, look: Look, variables: Variables, indices: np.ndarray) -> list[Any]:
        """What each rank sees when it looks at its patterns, in the order of ranks."""
        self._settle()
        regions, feed = self._placed(own.feed)
        for rank in self.link.others:
            content = {"look": look, "indices": regions[rank].of(indices)}
            self._send_variables(rank, "look", regions[rank], variables, content)
            self._pending[rank] = ANSWER
        alone = own.alone(feed)
        seen = [look(alone, regions[0].seen(variables), regions[0].of(indices))]
        return seen + [self._answer(rank).content for rank in self.link.others]

    def _decide(self, part: Pass, task: Task) -> tuple[str, ...]:
        """Wait for the losses of all ranks, and tell them of which blocks the gradients are needed."""
        if task.limit is None:
            return task.names
        loss, full = part.loss, []
        for rank in self.link.others:
            content = self._receive(rank).content
            loss += content["loss"]
            full += [f"{self.link.names[rank]}: {content['full']}"] if content["full"] else []
        if full:  # the others are told to forget it before the next pass
            raise MemoryError("; ".join(full))
        names = decided(task, loss)
        for rank in self.link.others:
            self._finish(rank, names)
        return names

    def _ask(
        self, rank: int, kind: str, region: Region, task: Task, indices: np.ndarray, limit: Limit | None
    ) -> None:
        """Send a task to a rank."""
        content = {
            "names": task.names,
            "indices": indices,
            "limit": limit,
            # it may hold arrays, and is the same in most passes
            "noise": None if task.noise is self._noise.get(rank) else task.noise,
            "n_threads": task.n_threads,
            "batch_size": task.batch_size,
        }
        self._noise[rank] = task.noise
        self._send_variables(rank, kind, region, task.variables, content)
        self._pending[rank] = ANSWER if limit is None else LOSS

    def _send_variables(
        self, rank: int, kind: str, region: Region, variables: Variables, content: dict[str, Any]
    ) -> None:
        seen = region.seen(variables)
        arrays = seen.blocks(seen.present)
        content |= {"origin": region.origin, "blocks": tuple(arrays)}
        self.link.send(rank, kind, content, list(arrays.values()))

    def _answer(self, rank: int) -> Message:
        """The last answer of a rank to what it was asked.

        Raises
        ------
        MemoryError
            The rank has no memory for what it should compute.
        """
        message = self._receive(rank)
        if message.kind == "full":
            raise MemoryError(f"{self.link.names[rank]}: {message.content}")
        return message

    def _receive(self, rank: int) -> Message:
        message = self.link.receive(rank)
        self._pending[rank] = DECISION if self._pending[rank] == LOSS else ""
        return message

    def _finish(self, rank: int, names: tuple[str, ...] | None) -> None:
        self.link.send(rank, "finish", names)
        self._pending[rank] = ANSWER

    def _settle(self) -> None:
        """End what is still asked for and not needed any more, as after Ctrl-C or where memory ran out."""
        for rank, pending in self._pending.items():
            if pending == LOSS:
                self._receive(rank)
            if self._pending[rank] == DECISION:
                self._finish(rank, None)
        for rank, pending in self._pending.items():
            if pending == ANSWER:
                self._receive(rank)

    def _placed(self, feed: Feed) -> tuple[list[Region], Feed]:
        """The regions for the present crop origins, and the feed of that of rank 0; other ranks are told if they have
        moved."""
        known = self._regions
        if known is None or known[0] is not feed.crop_origins or known[2].backend is not feed.backend:
            regions = [region_of(owned, feed.crop_origins, self._window) for owned in self.owned]
            for rank in self.link.others:
                self.link.send(rank, "place", {"crop_origins": feed.crop_origins})
            known = self._regions = (feed.crop_origins, regions, feed.seen_from(regions[0].origin))
        return known[1], known[2]

    def _limits(self, limit: Limit | None) -> list[Limit | None]:
        """The limit of each rank, with the losses that its batches had at the start of the line search."""
        if limit is None:
            return [None] * self.link.size
        if len(limit.parts) != sum(self._n_batches) or not len(limit.parts):
            return [dataclasses.replace(limit, parts=np.zeros(0))] * self.link.size
        edges = np.cumsum(self._n_batches)[:-1]
        return [dataclasses.replace(limit, parts=parts) for parts in np.split(limit.parts, edges)]


def _placed_like(gradients: dict[str, Array], totals: dict[str, Array]) -> dict[str, Array]:
    """Arrays of another rank, on the device of this one."""
    return {name: array_module(totals[name]).asarray(array) for name, array in gradients.items()}


def _joined(parts: list[Evaluated]) -> Evaluated:
    """The numbers of all ranks, in their order, with the gradients of the first one, to which all were added."""
    return dataclasses.replace(
        parts[0],
        loss=float(sum(part.loss for part in parts)),
        sse=float(sum(part.sse for part in parts)),
        parts=np.concatenate([part.parts for part in parts]),
        free=added_free(part.free for part in parts),
        sums=added_sums(part.sums for part in parts),
    )
