"""Starts the ranks of a run, and ends them with it."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

from pypty.engine.ranks.team import Team
from pypty.engine.ranks.worker import Server
from pypty.engine.setup.assembly import Setup
from pypty.errors import RankError
from pypty.ranks.devices import places
from pypty.ranks.link import Failure, Link
from pypty.ranks.local import LocalLink
from pypty.ranks.mpi import MpiLink, launched

T = TypeVar("T")

WORKER = "pypty.engine.ranks.worker"
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def together(setup: Setup, world: Link | None = None) -> Iterator[Setup]:
    """The setup of rank 0, whose objectives the other ranks compute their parts of, while the block runs.

    Parameters
    ----------
    world : ranks that a launcher has started; None = worker processes, if ``devices`` asks for them

    Raises
    ------
    RankError
        A worker process does not start.
    ParameterError
        There are fewer devices, or fewer patterns, than ranks.
    """
    where = places(setup.settings["devices"], setup.backend)
    if world is None and len(where) == 1:
        yield setup
        return
    patience_s = setup.settings["rank_timeout_s"]
    with where.first(setup.backend):
        link = LocalLink(WORKER, where.environments(), patience_s) if world is None else world
        try:
            link.patience_s = patience_s
            team = Team(link, setup)
            _log.info("%d ranks, over %s: %s", link.size, link.path, "; ".join(link.names))
            yield dataclasses.replace(setup, team=team, owned=team.owned[0])
        finally:
            if world is None:
                end(link)


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
            return Server(world).serve()
        finally:
            world.close()
    try:
        result = run(world)
    except BaseException as error:
        end(world, Failure(f"{type(error).__name__}: {error}"))
        raise
    end(world, result)
    return result


def end(link: Link, result: object = None) -> None:
    """Tell all ranks that the run is over, with its result, and close the connections."""
    for rank in link.others:
        with contextlib.suppress(RankError):  # it has ended already
            link.send(rank, "end", result)
    link.close()
