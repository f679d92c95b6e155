"""``pypty plan --ranks K``: what several ranks would need, and whether they are worth it, from rates measured here."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any

from pypty.backend.array import Backend
from pypty.engine.epochs.timing import few_patterns, measure_rates
from pypty.engine.ranks.opening import WORKER, Crew, end
from pypty.engine.ranks.recipe import take_fastest_route
from pypty.engine.setup.memory_plan import Ranks
from pypty.engine.setup.prepare import prepare
from pypty.engine.setup.rank_plan import RankPlan, rank_plan
from pypty.errors import ParameterError
from pypty.params.settings import Settings
from pypty.ranks.devices import places
from pypty.ranks.link import Link
from pypty.ranks.local import LocalLink
from pypty.ranks.measure import LinkRates, measure


def plan_ranks(params: Mapping[str, Any], number: int, world: Link | None = None) -> RankPlan:
    """Plan a reconstruction on up to so many ranks, with rates that are measured in a few seconds.

    Parameters
    ----------
    world : ranks that a launcher has started, over whose connections arrays are sent; None = a worker process of this
        machine

    Raises
    ------
    ParameterError
        The parameters or the data have problems, or there are fewer patterns than ranks.
    """
    if number < 1:
        raise ParameterError(f"ranks: given {number}, expected a whole number >= 1")
    with contextlib.closing(Crew(world)) as crew:

        def ranks(settings: Settings, backend: Backend) -> Ranks:
            """As many as are asked for; on this machine no more than a launcher has put there."""
            there = crew.ranks(settings, backend)
            if world is None:
                return Ranks(size=number, on_node=number, on_cores=number)
            return dataclasses.replace(there, size=number, on_node=min(there.on_node, number))

        whole = prepare(params, read_data=False, ranks=ranks)
        whole.close()
        few = prepare({**params, **few_patterns(whole)}, ranks=ranks)
        try:
            found = _link_rates(world, few.backend)
            measured = measure_rates(
                few, few.variables(), to_all=found.to_all, from_all=found.from_all, latency_s=found.latency_s
            )
        finally:
            few.close()
        return rank_plan(whole, ranks(whole.settings, whole.backend), measured)


def _link_rates(world: Link | None, backend: Backend) -> LinkRates:
    """Between the ranks of a launcher, or to a worker process, on the next GPU if there is one."""
    if world is not None and world.size > 1:
        return _measured(world, backend)
    where = places(2, backend) if not backend.on_gpu or len(places("all", backend)) > 1 else None
    link = LocalLink(WORKER, [{}] if where is None else where.environments(), 20.0)
    try:
        return _measured(link, backend)
    finally:
        end(link)


def _measured(link: Link, backend: Backend) -> LinkRates:
    take_fastest_route(link, backend)
    return measure(link, backend.xp)
