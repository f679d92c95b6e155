"""An objective of rank 0 of which other ranks compute a part: what it asks them, and what it makes of the answers."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pypty.backend.array import Array, array_module
from pypty.data.feed import Feed
from pypty.engine.ranks.recipe import Recipe
from pypty.engine.setup.assembly import Setup
from pypty.model.blocks import Variables
from pypty.objective.combined import added_sums
from pypty.objective.noise import NoiseModel
from pypty.objective.objective import Objective
from pypty.objective.passes import Look, Pass, Passes, Task, batches_of, decided
from pypty.objective.regions import Region, region_of, with_rows
from pypty.objective.share import Evaluated, Limit, added_free
from pypty.ranks.messages import FINISH

if TYPE_CHECKING:
    from pypty.engine.ranks.team import Team


@dataclass(kw_only=True)
class _Heard:
    """What the other ranks know of an objective.

    Attributes
    ----------
    regions : their parts, for these crop origins and size of the object; None = they have not heard
    feed : of rank 0, for its region
    noise : the loss of each pixel, by rank
    until : number of questions that had been broken off; after another one, nobody knows what they have heard of it
    """

    until: int
    regions: list[Region] | None = None
    feed: Feed | None = None
    crop_origins: np.ndarray | None = None
    size: tuple[int, ...] = ()
    noise: dict[int, NoiseModel] = field(default_factory=dict)


class Joined:
    """The other ranks, as an objective of rank 0 has them (:class:`pypty.objective.passes.Others`).

    Parameters
    ----------
    team : all ranks
    setup, subpixel, propagation : from which rank 0 has made its objective
    n_threads : of each rank
    """

    def __init__(self, team: Team, setup: Setup, subpixel: bool, propagation: str, n_threads: int) -> None:
        self._team, self._setup = team, setup
        self._model = {"subpixel": subpixel, "propagation": propagation, "n_threads": n_threads}
        self._link, self._questions = team.link, team.questions
        self._heard = _Heard(until=0)

    @property
    def text(self) -> str:
        return self._team.text

    def summed(self, own: Passes, task: Task) -> Evaluated:
        """The sum over the patterns of all ranks."""
        with self._asked(own.memory.size):
            return self._summed(own, task)

    def _summed(self, own: Passes, task: Task) -> Evaluated:
        started = time.perf_counter()
        regions, feed = self._placed(own.feed, task.variables)
        chosen = [region.of(task.indices) for region in regions]
        n_batches = [len(batches_of(indices, task.batch_size, task.n_threads)) for indices in chosen]
        limits = _limits(task.limit, n_batches)
        # mini-batches may have no pattern of some ranks
        asked = [rank for rank in self._link.others if len(chosen[rank])]
        for rank in asked:
            self._ask(rank, regions[rank], task, chosen[rank], limits[rank])
        mine = dataclasses.replace(
            task, variables=regions[0].seen(task.variables), indices=chosen[0], limit=limits[0]
        )
        sent = time.perf_counter()
        with own.feed.streams.computing():
            part = dataclasses.replace(own, feed=feed).begin(mine)
            part.compute()
            computed = time.perf_counter()
            names = self._decide(part, task, asked)
            decided_at = time.perf_counter()
            result = part.finished(names)
            caught_up = time.perf_counter()
            totals = task.variables.zeros(names)
            regions[0].add(totals, regions[0].rows(result.gradients, chosen[0]), chosen[0])
            parts = [dataclasses.replace(result, gradients=totals)]
            for rank in asked:
                message = self._questions.answer(rank)
                gradients = dict(zip(names, message.arrays, strict=True))
                regions[rank].add(totals, _placed_like(gradients, totals), chosen[rank])
                parts.append(message.content)
        # batches of all ranks are alike: the others have patience with as many as this one had
        batches = max(1, -(-n_batches[0] // task.n_threads))
        self._link.wait_longer((computed - sent) / batches)
        self._team.reduction_s += sent - started + decided_at - computed + time.perf_counter() - caught_up
        return _joined(parts)

    def everywhere(self, own: Objective, look: Look, variables: Variables, indices: np.ndarray) -> list[Any]:
        """What each rank sees when it looks at its patterns, in the order of ranks."""
        with self._asked(own.batch_size):
            regions, feed = self._placed(own.feed, variables)
            for rank in self._link.others:
                part = regions[rank].of(indices)
                content = {"look": look, "indices": part}
                self._send_variables(rank, "look", regions[rank], variables, content)
            seen = [look(own.alone(feed), regions[0].seen(variables), regions[0].of(indices))]
            return seen + [self._questions.answer(rank).content for rank in self._link.others]

    @contextmanager
    def _asked(self, batch_size: int) -> Iterator[None]:
        """The context of a question about this objective, of which the others hear first, if they have not yet."""
        with self._questions.asked():
            if self._team.heard is not self:
                self._team.heard = None
                self._tell(batch_size)
                self._heard = _Heard(until=self._questions.broken_off)
                self._team.heard = self
            elif self._heard.until != self._questions.broken_off:
                self._heard = _Heard(until=self._questions.broken_off)
            yield

    def _tell(self, batch_size: int) -> None:
        """Have the other ranks prepare their parts."""
        for rank in self._link.others:
            self._link.send(rank, "leave")
        for rank in self._link.others:
            own, arrays = Recipe.of(self._setup, self._team.owned[rank])
            self._link.send(rank, "setup", {**self._model, "batch_size": batch_size, "own": own}, arrays)
        # they read their patterns, which may take long: nothing is sent to them before they are ready
        self._link.will_take_longer()
        for rank in self._link.others:
            self._questions.answer(rank)
        self._link.will_take_longer()

    def _decide(self, part: Pass, task: Task, asked: Sequence[int]) -> tuple[str, ...]:
        """Wait for the losses of all ranks, and tell them of which blocks the gradients are needed."""
        if task.limit is None:
            return task.names
        loss = part.loss + sum(self._questions.answer(rank).content for rank in asked)
        names = decided(task, loss)
        for rank in asked:
            self._link.send(rank, FINISH, names)
        return names

    def _ask(self, rank: int, region: Region, task: Task, indices: np.ndarray, limit: Limit | None) -> None:
        """Send a task to a rank."""
        noise = self._heard.noise
        content = {
            "names": task.names,
            "indices": indices,
            "limit": limit,
            # it may hold arrays, and is the same in most passes
            "noise": None if task.noise is noise.get(rank) else task.noise,
            "n_threads": task.n_threads,
            "batch_size": task.batch_size,
        }
        self._send_variables(rank, "sum", region, task.variables, content)
        noise[rank] = task.noise

    def _send_variables(
        self, rank: int, kind: str, region: Region, variables: Variables, content: dict[str, Any]
    ) -> None:
        """Send the unknowns as a region sees them; of per-pattern blocks only the rows that are asked for."""
        seen = region.seen(variables)
        blocks = seen.blocks(seen.present)
        arrays = region.rows(blocks, content["indices"])
        content |= {"origin": region.origin, "blocks": tuple(arrays), "rows": with_rows(blocks)}
        self._link.send(rank, kind, content, list(arrays.values()))

    def _placed(self, feed: Feed, variables: Variables) -> tuple[list[Region], Feed]:
        """The regions for the present crop origins, and the feed of that of rank 0; other ranks are told if they have
        moved."""
        heard, size = self._heard, variables.obj.shape[-2:]
        known = heard.crop_origins is feed.crop_origins and heard.size == size
        if heard.regions is None or heard.feed is None or not known:
            window = self._setup.grid.shape
            regions = [region_of(owned, feed.crop_origins, window, size) for owned in self._team.owned]
            for rank in self._link.others:
                self._link.send(rank, "place", {"crop_origins": feed.crop_origins})
            heard.regions, heard.crop_origins, heard.size = regions, feed.crop_origins, size
            heard.feed = feed.seen_from(regions[0].origin)
        return heard.regions, heard.feed


def _limits(limit: Limit | None, n_batches: Sequence[int]) -> list[Limit | None]:
    """The limit of each rank, with the losses that its batches had at the start of the line search."""
    if limit is None:
        return [None] * len(n_batches)
    if len(limit.parts) != sum(n_batches):
        return [dataclasses.replace(limit, parts=np.zeros(0))] * len(n_batches)
    parts = np.split(limit.parts, np.cumsum(n_batches)[:-1])
    return [dataclasses.replace(limit, parts=part) for part in parts]


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
