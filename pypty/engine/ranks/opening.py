"""Starts the ranks of a run, and ends them with it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

from pypty.backend.array import Backend, available_cores
from pypty.data.survey import Look
from pypty.engine.ranks.surveying import surveyed
from pypty.engine.ranks.team import Team
from pypty.engine.ranks.worker import Server, signals_ignored
from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.memory_plan import Ranks
from pypty.errors import RankError
from pypty.params.settings import Settings
from pypty.ranks.devices import own_device, places
from pypty.ranks.link import Failure, Link
from pypty.ranks.local import LocalLink
from pypty.ranks.mpi import MpiLink, launched, world_rank

T = TypeVar("T")

WORKER = "pypty.engine.ranks.worker"
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
        self._places = contextlib.ExitStack()

    def ranks(self, settings: Settings, backend: Backend) -> Ranks:
        """How many there are, and how many of them share this machine."""
        world = self._world
        if world is None:
            n = len(places(settings["devices"], backend))
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
        if self._world is None and len(where) == 1:
            self._places.enter_context(where.first(backend))  # devices=[3]
            return None
        patience_s = settings["rank_timeout_s"]
        if self._link is None:
            self._places.enter_context(where.first(backend))
            self._link = LocalLink(WORKER, where.environments(), patience_s)
        self._link.patience_s = patience_s
        return self._link

    def look(self, settings: Settings, backend: Backend) -> Look | None:
        """What surveys a file on all ranks, each an equal run of the patterns; None where rank 0 is alone."""
        link = self.link(settings, backend)
        return None if link is None else functools.partial(surveyed, link, settings)

    def close(self, result: object = None) -> None:
        """Tell the others that the run is over, with its result, and end those that were started for it."""
        with self._places:
            if self._link is not None and self._link is not self._world:
                end(self._link, result)


@contextlib.contextmanager
def crew_of(world: Link | None = None) -> Iterator[Crew]:
    """The ranks of a run, until the block ends."""
    crew, result = Crew(world), None
    try:
        yield crew
    except BaseException as error:
        result = Failure(f"{type(error).__name__}: {error}")
        raise
    finally:
        crew.close(result)


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
    with link.alive():
        yield dataclasses.replace(setup, team=team, owned=team.owned[0])


def on_all_ranks(run: Callable[[Link | None], T]) -> T:
    """Run on rank 0, which gets the link to the ranks that a launcher has started, while these compute for it.

    Returns
    -------
    what ``run`` returns, on every rank

    Raises
    ------
    RankError
        On another rank: the run has failed on rank 0, or rank 0 has gone.
    """
    if launched() == 1:
        return run(None)
    world = MpiLink()
    if world.rank:
        try:
            with signals_ignored(), own_device(world.local_rank()):
                return Server(world).serve()
        except RankError as error:
            _log.error("%s: the run has ended: %s", world.names[world.rank], error)
            raise
        finally:
            world.close()
    try:
        result = run(world)
    except BaseException as error:
        end(world, Failure(f"{type(error).__name__}: {error}"))
        raise
    end(world, result)
    return result


def on_rank_0(tell: Callable[[Link | None], str]) -> str:
    """The text that rank 0 has to say; "" on the others."""
    text = on_all_ranks(tell)
    return "" if world_rank() else text


def end(link: Link, result: object = None) -> None:
    """Tell all ranks that the run is over, with its result, and close the connections."""
    for rank in link.others:
        with contextlib.suppress(RankError):  # it has ended already
            link.send(rank, "end", result)
    link.close()
