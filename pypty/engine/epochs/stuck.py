"""Detects stuck blocks, and chooses one to freeze."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field

from pypty.model.blocks import BLOCKS

FROZEN_EPOCHS = 10
"""Number of epochs for which a block stays frozen."""


def next_to_freeze(blocks: Sequence[str]) -> str | None:
    """The next refined block to freeze; None when only one is left."""
    if len(blocks) < 2:
        return None
    ranks = {name: BLOCKS[name].freeze for name in blocks}
    return min(
        (name for name in blocks if ranks[name] is not None), key=lambda name: ranks[name] or 0, default=None
    )


@dataclass
class BlockMonitor:
    """Detects refined blocks whose gradient promises no decrease beyond rounding, and warns once about each.

    Attributes
    ----------
    patience : epochs in a row before a warning
    still : for how many epochs in a row each idle block has been idle
    told : the warnings so far, by block
    """

    patience: int = 3
    still: dict[str, int] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)

    def watch(self, idle: Set[str], rejected: bool) -> list[str]:
        """Warnings of this epoch.

        Parameters
        ----------
        idle : blocks that promise no decrease at this epoch
        rejected : the update was rejected; then a warning does not wait for ``patience`` epochs
        """
        # blocks that are no longer idle drop out and start from 0 again
        self.still = {name: self.still.get(name, 0) + 1 for name in idle}
        out = []
        for name in sorted(idle):
            # after a rejected update the reason is known: no need to wait
            if name not in self.told and (rejected or self.still[name] >= self.patience):
                self.told[name] = (
                    f"block '{name}' is stuck: its gradient promises no decrease; {BLOCKS[name].stuck}"
                )
                out.append(self.told[name])
        return out
