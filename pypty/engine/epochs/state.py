"""The state of a reconstruction between two epochs, and its changes there."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pypty.backend.array import Array
from pypty.constraints.probe import are_orthogonal, orthogonal_rotation, rotated
from pypty.data.scan import Scan
from pypty.engine.epochs.first_order import Progress
from pypty.engine.epochs.problem import Signature
from pypty.engine.epochs.stuck import FROZEN_EPOCHS, BlockMonitor, next_to_freeze
from pypty.model.blocks import Variables
from pypty.optimize.lbfgs import Lbfgs, Pair, ValueAndGradient
from pypty.optimize.vector import BlockVector
from pypty.output.loss_log import EpochRecord

_log = logging.getLogger(__name__)
_ORTHOGONAL = 1e-6
"""Probe modes with an overlap below this count as orthogonal."""


@dataclass(kw_only=True)
class State:
    """Everything that an exact restart needs.

    Attributes
    ----------
    epoch : index of the next epoch
    sample : loss and gradient at ``variables``, or None when they must be computed
    signature : of the problem that ``sample`` and the optimiser's pairs belong to
    rejected : consecutive rejected updates
    monitor : detects stuck blocks
    frozen : stuck blocks, with the epoch from which they are refined again
    scan : positions and crop origins, if these were moved during the run; None = those of the start
    progress : moments and counters of first-order methods
    snapshot : arrays that the convergence monitor compares with; None before the first epoch
    """

    variables: Variables
    epoch: int
    optimizer: Lbfgs = field(default_factory=Lbfgs)
    sample: ValueAndGradient | None = None
    signature: Signature | None = None
    rejected: int = 0
    monitor: BlockMonitor = field(default_factory=BlockMonitor)
    frozen: dict[str, int] = field(default_factory=dict)
    scan: Scan | None = None
    progress: Progress = field(default_factory=Progress)
    snapshot: dict[str, Array] | None = None
    elapsed_s: float = 0.0
    records: list[EpochRecord] = field(default_factory=list)
    stop_reason: str = ""

    @property
    def is_stuck(self) -> bool:
        """Two rejected updates in a row, or one if a block is frozen already."""
        return self.rejected >= (1 if self.frozen else 2)

    def copied(self) -> State:
        """A copy that an epoch does not change: what it changes in place is copied; arrays are replaced, never
        changed."""
        other = copy.copy(self)
        other.frozen, other.monitor = dict(self.frozen), copy.deepcopy(self.monitor)
        other.optimizer = Lbfgs(list(self.optimizer.pairs))
        return other

    def go_back(self, to: State) -> None:
        """Take all values of a copy, which is not changed by what follows: one may go back to it again."""
        vars(self).update(vars(to.copied()))

    def release(self, everything: bool = False) -> list[str]:
        """Unfreeze blocks whose time is over, or all blocks; return messages about them."""
        over = [name for name, until in self.frozen.items() if everything or self.epoch >= until]
        for name in over:
            del self.frozen[name]
        return [f"block '{name}' is refined again" for name in over]

    def freeze(self, blocks: Sequence[str]) -> list[str]:
        """Freeze one of the refined blocks if updates keep being rejected; return a message about it."""
        name = next_to_freeze(blocks) if self.is_stuck else None
        if name is None:
            return []
        until = self.frozen[name] = self.epoch + FROZEN_EPOCHS
        return [f"{self.rejected} rejected updates in a row: block '{name}' is frozen until epoch {until}"]

    def forget(self, why: str) -> None:
        """Drop gradient and history, which belong to an old point or problem."""
        _log.info("epoch %d: history reset (%s)", self.epoch, why)
        self.optimizer.reset()
        self.sample = None

    def change(self, variables: Variables, changed: Sequence[str]) -> None:
        """Use edited variables. ``changed`` names the edits; without any, nothing happens."""
        if changed:
            self.variables = variables
            self.forget(", ".join(changed))

    def take(self, variables: Variables, why: str) -> None:
        """Continue from another point; gradient and history of the old one are dropped."""
        if self.sample is not None or self.optimizer.pairs:
            self.forget(why)
        self.variables = variables

    def move(self, variables: Variables, by: str) -> None:
        """Use the result of another method; signature and rejections of L-BFGS are reset."""
        self.take(variables, by)
        self.signature, self.rejected = None, 0

    def make_modes_orthogonal(self, why: str = "keep_probe_states_orthogonal") -> None:
        """Rotate the probe modes (``keep_probe_states_orthogonal``, or the constraint ``ortho_pmode``).

        The sum of intensities does not change, so gradient and history are rotated along, unless they do not belong to
        the complex modes.
        """
        probe = self.variables.probe
        if probe.shape[-3] < 2 or are_orthogonal(probe, _ORTHOGONAL):
            return
        rotation = orthogonal_rotation(probe)
        self.variables = self.variables.replace({"probe": rotated(probe, rotation)})
        _log.info("epoch %d: probe modes made orthogonal (%s)", self.epoch, why)
        signature = self.signature
        if signature is None:
            return  # there is no gradient or history yet
        # phases of a spectrum, or a penalty on it, do not rotate with the modes
        if "fourier" in signature.form or "probe_mod_reg_weight" in signature.regularizers:
            self.forget(why)
            return

        self.turn("probe", lambda modes: rotated(modes, rotation))

    def turn(self, name: str, turned: Callable[[Array], Array]) -> None:
        """Apply an orthogonal map to a block of gradient and history, as its coordinates have changed."""

        def apply(vector: BlockVector) -> BlockVector:
            return BlockVector(
                {key: turned(array) if key == name else array for key, array in vector.items()}
            )

        if self.sample is not None:
            self.sample = dataclasses.replace(self.sample, gradient=apply(self.sample.gradient))
        self.optimizer = Lbfgs([Pair(apply(pair.s), apply(pair.y)) for pair in self.optimizer.pairs])
