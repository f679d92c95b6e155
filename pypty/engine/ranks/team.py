"""Rank 0 of a reconstruction on several ranks: what it shares with the others."""

from __future__ import annotations

from pypty.engine.ranks.joined import Joined
from pypty.engine.ranks.recipe import take_fastest_route
from pypty.engine.ranks.shelf import RankShelf
from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.sequences import used_at_any_epoch
from pypty.objective.objective import Objective
from pypty.objective.regions import divide
from pypty.optimize.spread import Spread
from pypty.optimize.vector import BlockVector
from pypty.ranks.link import Link
from pypty.ranks.questions import Questions


class Team:
    """All ranks of a reconstruction, as rank 0 sees them.

    Parameters
    ----------
    link : to the other ranks, which serve (:mod:`pypty.engine.ranks.worker`)
    setup : of the reconstruction; the patterns are divided by its crop origins

    Attributes
    ----------
    questions : all that is asked of the others
    owned : sorted numbers of the patterns of each rank
    heard : the objective that the others have; None = none, or nobody knows
    reduction_s : seconds that rank 0 has spent with sending, waiting for the others and adding
    """

    def __init__(self, link: Link, setup: Setup) -> None:
        self.link, self.questions = link, Questions(link)
        used = used_at_any_epoch(setup.settings, setup.n_patterns)
        self.owned = divide(setup.scan.crop_origins.astype(float), used, link.size)
        self.heard: Joined | None = None
        self.reduction_s = 0.0
        self._shelf: RankShelf | None = None
        take_fastest_route(link, setup.backend)

    @property
    def text(self) -> str:
        """How many ranks there are, and how they are reached."""
        pieces = "" if self._shelf is None else "; each keeps a part of the L-BFGS history"
        return f"on {self.link.size} ranks, over {self.link.path}{pieces}"

    def join(self, setup: Setup, objective: Objective, subpixel: bool, propagation: str) -> Objective:
        """Have the other ranks compute their parts of an objective of rank 0. They hear of it when it is needed first,
        also again after another one."""
        # a change to double precision may be what leaves no room for a history in one place
        if setup.plan.spread_history and self._shelf is None:
            self._shelf = RankShelf(self.link, self.questions)
        objective.others = Joined(self, setup, subpixel, propagation, objective.n_threads)
        return objective

    def keep(self, vector: BlockVector) -> BlockVector:
        """The vector with its object in pieces on all ranks, if the memory plan says so; other blocks are small."""
        blocks = vector.kept()
        if self._shelf is None or "obj" not in blocks or isinstance(blocks["obj"], Spread):
            return vector
        return BlockVector({**blocks, "obj": self._shelf.keep(blocks["obj"])})
