"""What happened in an epoch, and whether a block is stuck."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from pypty.optimize.lbfgs import Step

_REASONS: Mapping[str, str] = MappingProxyType(
    {
        "positions": "the object may still be vacuum, which looks the same from everywhere; refine the object first",
        "slice_distances": "the object may still be vacuum, or equal in all slices",
        "obj": "no electrons reach it: check the probe and the positions",
        "probe": "the object may be opaque: check obj",
    }
)


@dataclass
class EpochRecord:
    """One epoch, as in a row of loss.csv.

    Attributes
    ----------
    loss, sse : before the update of this epoch
    first_step, step : tried first, and accepted (0 if rejected)
    evaluations : of loss and gradient in this epoch
    slope, new_slope : directional derivative at the start and at the accepted point
    terms : value of each regulariser
    """

    epoch: int
    time_s: float
    loss: float
    sse: float
    first_step: float
    step: float
    evaluations: int
    slope: float
    new_slope: float
    blocks: tuple[str, ...] = ()
    terms: dict[str, float] = field(default_factory=dict)
    free_GiB: float = 0.0
    total_GiB: float = 0.0
    warnings: list[str] = field(default_factory=list)


@dataclass
class BlockMonitor:
    """Notices blocks that do not move although they are refined; says so once for each."""

    patience: int = 3
    still: dict[str, int] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)

    def watch(self, blocks: tuple[str, ...], gradient_norms: Mapping[str, float], step: Step) -> list[str]:
        """Warnings of this epoch."""
        out = []
        for name in blocks:
            moves = step.accepted and gradient_norms[name] > 0
            self.still[name] = 0 if moves else self.still.get(name, 0) + 1
            if self.still[name] >= self.patience and name not in self.told and gradient_norms[name] == 0:
                self.told.add(name)
                out.append(
                    f"block '{name}' is stuck: its gradient has been exactly zero for {self.still[name]} epochs; "
                    f"{_REASONS[name]}"
                )
        return out
