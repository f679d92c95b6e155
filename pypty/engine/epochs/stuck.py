"""Whether a block is stuck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from types import MappingProxyType

_REASONS: Mapping[str, str] = MappingProxyType(
    {
        "positions": "they have converged, or the object is still vacuum, which looks the same from everywhere: "
        "then refine the object first",
        "slice_distances": "they have converged, or the object is still vacuum, or equal in all slices",
        "obj": "it has converged, or no electrons reach it: then check the probe and the positions",
        "tilts": "they have converged, or no tilt acts (tilt_mode), or nothing is propagated",
        "aberrations_array": "they have converged",
        "static_background": "it has converged; where it is zero it stays zero",
        "beam_current": "it has converged",
        "detector_blur_std": "it has converged, or the point spread is narrower than a fifth of a pixel",
        "probe": "it has converged, or the object is opaque: then check obj",
    }
)


FREEZE_ORDER = (
    "positions",
    "tilts",
    "slice_distances",
    "detector_blur_std",
    "static_background",
    "beam_current",
    "aberrations_array",
    "probe",
)
"""Which block is frozen first when updates keep being rejected. The object never is."""

FROZEN_EPOCHS = 10


def next_to_freeze(blocks: Sequence[str]) -> str | None:
    """The next refined block to freeze; None when only one is left."""
    if len(blocks) < 2:
        return None
    return next((name for name in FREEZE_ORDER if name in blocks), None)


@dataclass
class BlockMonitor:
    """Notices refined blocks whose gradient promises no decrease beyond rounding; says so once for each."""

    patience: int = 3
    still: dict[str, int] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)

    def watch(self, idle: Set[str], rejected: bool) -> list[str]:
        """Warnings of this epoch.

        Parameters
        ----------
        idle : blocks that promise nothing now
        rejected : the update was rejected: no reason to be patient with them
        """
        self.still = {name: self.still.get(name, 0) + 1 for name in idle}
        out = []
        for name in sorted(idle):
            if name not in self.told and (rejected or self.still[name] >= self.patience):
                self.told[name] = (
                    f"block '{name}' is stuck: its gradient promises no decrease; {_REASONS[name]}"
                )
                out.append(self.told[name])
        return out
