"""Starts the ranks of a run, and ends them with it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from pypty.backend.array import Backend, available_cores
from pypty.data.survey import Look
from pypty.engine.ranks.surveying import surveyed
from pypty.engine.ranks.team import Team
from pypty.engine.ranks.worker import Server, warnings_told
from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.memory_plan import Ranks
from pypty.errors import RankError
from pypty.params.settings import Settings
from pypty.ranks.devices import Places, own_device, places
from pypty.ranks.link import Link
from pypty.ranks.local import LocalLink
from pypty.ranks.messages import Failure
from pypty.ranks.mpi import MpiLink, launched
from pypty.ranks.signals import signals_ignored

T = TypeVar("T")

WORKER = "pypty.engine.ranks.worker"
RESULT = "result"
_log = logging.getLogger(__name__)


class Crew:
    """The ranks of one run, as rank 0 has them. Worker processes are started when they are needed first.

    Parameters
    ----------
    world : ranks that a launcher has started; None = worker processes, if ``devices`` asks for them
    """

    def __init__(self, world: Link | None = None) -> None:
        self._world = world
        self._link = world
        self._places, self._alive = contextlib.ExitStack(), contextlib.ExitStack()
        self._placed = False

    def ranks(self, settings: Settings, backend: Backend) -> Ranks:
        """How many there are, and how many of them share this machine. From now on this process computes on the device
        of rank 0, for which memory is planned next."""
        world = self._world
        if world is None:
            n = len(self._first(places(settings["devices"], backend), backend))
            return Ranks(size=n, on_node=n, on_cores=n)
        on_node = world.local_size()
        # a launcher may have bound every process to cores of its own
        bound = available_cores() * on_node <= (os.cpu_count() or 1)
        return Ranks(size=world.size, on_node=on_node, on_cores=1 if bound else on_node)

    def link(self, settings: Settings, backend: Backend) -> Link | None:
        """The connections to the others; None if there are none.

        Raises
        ------
        RankError
            A worker process does not start.
        ParameterError
            There are fewer devices than ranks.
        """
        where = places(settings["devices"], backend)
        if self._world is None and len(self._first(where, backend)) == 1:
            return None
        patience_s = settings["rank_timeout_s"]
        if self._link is None:
            self._link = LocalLink(WORKER, where.environments(), patience_s)
            self._alive.enter_context(self._link.alive())
        self._link.patience_s = patience_s
        return self._link

    def _first(self, where: Places, backend: Backend) -> Places:
        """Compute on the first of these devices until the run is over (devices=[3])."""
        if not self._placed:
            self._places.enter_context(where.first(backend))
            self._placed = True
        return where

    def look(self, settings: Settings, backend: Backend) -> Look | None:
        """What surveys a file on all ranks, each an equal run of the patterns; None where rank 0 is alone."""
        link = self.link(settings, backend)
        return None if link is None else functools.partial(surveyed, link, settings)

    def close(self, failure: Failure | None = None) -> None:
        """Tell the others that the run is over, or why it has failed, and end those that were started for it."""
        with self._places:
            if self._link is not None and self._link is not self._world:
                self._alive.close()
                end(self._link, failure)


@contextlib.contextmanager
def crew_of(world: Link | None = None) -> Iterator[Crew]:
    """The ranks of a run, until the block ends."""
    crew, failure = Crew(world), None
    try:
        yield crew
    except BaseException as error:
        failure = Failure(f"{type(error).__name__}: {error}")
        raise
    finally:
        crew.close(failure)


@contextlib.contextmanager
def together(setup: Setup, crew: Crew) -> Iterator[Setup]:
    """The setup of rank 0, whose objectives the other ranks compute their parts of, while the block runs.

    Raises
    ------
    RankError
        A worker process does not start.
    ParameterError
        There are fewer devices, or fewer patterns, than ranks.
    """
    link = crew.link(setup.settings, setup.backend)
    if link is None:
        yield setup
        return
    team = Team(link, setup)
    _log.info("%d ranks, over %s: %s", link.size, link.path, "; ".join(link.names))
    yield dataclasses.replace(setup, team=team, owned=team.owned[0])


def _as_it_is(value: T) -> tuple[Any, Sequence[np.ndarray]]:
    return value, ()


def _as_it_came(content: Any, arrays: Sequence[np.ndarray]) -> Any:
    return content


def on_all_ranks(
    run: Callable[[Link | None], T],
    pack: Callable[[T], tuple[Any, Sequence[np.ndarray]]] = _as_it_is,
    unpack: Callable[[Any, Sequence[np.ndarray]], T] = _as_it_came,
) -> T:
    """Run on rank 0, which gets the link to the ranks that a launcher has started, while these compute for it.

    Parameters
    ----------
    run : is called on rank 0; what it returns is sent to the others
    pack, unpack : make of it something small, and large arrays that are sent beside it, and the reverse

    Returns
    -------
    what ``run`` returns, and on the other ranks what ``unpack`` makes of it

    Raises
    ------
    RankError
        On another rank: the run has failed on rank 0, rank 0 has gone, or what it returns cannot be sent. On rank 0:
        the ranks of the launcher do not come together.
    """
    if launched() == 1:
        return run(None)
    world = MpiLink()
    if world.rank:
        try:
            with signals_ignored(), own_device(world.local_rank()), warnings_told(world):
                return followed(world, unpack)
        except RankError as error:
            _log.error("%s: the run has ended: %s", world.names[world.rank], error)
            raise
        finally:
            world.close()
    try:
        with world.alive():
            result = run(world)
    except BaseException as error:
        end(world, Failure(f"{type(error).__name__}: {error}"))
        raise
    share(world, result, pack)
    return result


def followed(link: Link, unpack: Callable[[Any, Sequence[np.ndarray]], T]) -> T:
    """Serve rank 0 to the end of its run; returns what it has returned there.

    Raises
    ------
    RankError
        The run has failed, rank 0 has gone, or what it has returned cannot be sent, or has no room here.
    """
    Server(link).serve()  # its memory is free again before anything comes
    try:
        message = link.receive(0)
    except MemoryError as error:
        raise RankError(
            f"there is no memory here for the result of the run, which {link.names[0]} has"
        ) from error
    if isinstance(message.content, Failure):
        raise RankError(f"{link.names[0]}: {message.content.reason}")
    return unpack(message.content, message.arrays)


def share(link: Link, result: T, pack: Callable[[T], tuple[Any, Sequence[np.ndarray]]]) -> None:
    """Tell all ranks that the run is over, send them its result, and close the connections.

    Where it cannot be sent, they are told so: it is not lost on this rank.
    """
    content: Any
    try:
        content, arrays = pack(result)
    except MemoryError as error:
        content, arrays = _not_sent(error), ()
    try:
        with link.alive():
            for rank in link.others:
                with contextlib.suppress(RankError):  # it has ended already
                    link.send(rank, "end")
                    _send(link, rank, content, arrays)
    finally:
        link.close()


def _send(link: Link, rank: int, content: Any, arrays: Sequence[np.ndarray]) -> None:
    try:
        link.send(rank, RESULT, content, arrays)
    except RankError:
        raise
    except Exception as error:  # noqa: BLE001 - pickle raises anything, before anything is sent
        link.send(rank, RESULT, _not_sent(error))


def _not_sent(error: Exception) -> Failure:
    failure = Failure(f"its result cannot be sent to the other ranks ({type(error).__name__}: {error})")
    _log.warning("%s; it is complete on this one", failure.reason)
    return failure


def end(link: Link, failure: Failure | None = None) -> None:
    """Tell all ranks that the run is over, and why it has failed, and close the connections."""
    for rank in link.others:
        with contextlib.suppress(RankError):  # it has ended already
            link.send(rank, "end", failure)
    link.close()
