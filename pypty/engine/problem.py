"""The objective as the optimiser sees it: a function of a block vector, with a preconditioner."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from pypty.backend.array import Array
from pypty.model.parametrization import BandLimits
from pypty.model.variables import BLOCKS, Variables
from pypty.objective.curvature import Curvature
from pypty.objective.objective import Evaluated, Objective
from pypty.optimize.lbfgs import Sample
from pypty.optimize.vector import BlockVector
from pypty.params.settings import Settings

SWITCHES: Mapping[str, str] = MappingProxyType(
    {
        "update_obj": "obj",
        "update_probe": "probe",
        "update_probe_pos": "positions",
        "update_slice_distances": "slice_distances",
    }
)
"""Which parameter refines which block."""


def refined_blocks(now: Mapping[str, Any], n_slices: int) -> tuple[str, ...]:
    """Names of the blocks refined at this epoch; a single slice has no distance to refine."""
    active = {block for key, block in SWITCHES.items() if now[key]}
    if n_slices < 2:
        active.discard("slice_distances")
    return tuple(name for name in BLOCKS if name in active)


def resolve_weight(weight: float | str, n_patterns: int, n_pixels: int) -> float:
    """``loss_weight`` as a number; "mean" and "mean_full" divide by the patterns or values of the whole data set."""
    if weight == "mean":
        return 1.0 / n_patterns
    if weight == "mean_full":
        return 1.0 / (n_patterns * n_pixels)
    return float(weight)


LOSS_KEYS = (
    "acc_voltage",
    "algorithm",
    "damping_cutoff_multislice",
    "data_bin",
    "data_multiplier",
    "data_pad",
    "data_shift_vector",
    "detector_mask",
    "flip_ky",
    "force_dataset_dtype",
    "lazy_clean",
    "pixel_size_x_A",
    "pixel_size_y_A",
    "update_extra_cut",
    "use_padded_intensity",
)
"""Fixed parameters that decide what the loss of given variables and given data is."""


def model_digest(settings: Settings, subpixel: bool) -> str:
    """A short hash of everything that decides the loss besides variables, data and per-epoch values."""
    digest = hashlib.sha256(str(subpixel).encode())
    for key in LOSS_KEYS:
        value = settings[key]
        digest.update(f"{key}={value!r}".encode() if not isinstance(value, np.ndarray) else value.tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Signature:
    """What makes two epochs the same optimisation problem. If it changes, old gradients and history are void."""

    blocks: tuple[str, ...]
    indices: bytes
    weight: float
    model: str

    def difference(self, other: Signature) -> str:
        """What changed, in words."""
        changes = []
        if self.blocks != other.blocks:
            changes.append(f"refined blocks {', '.join(other.blocks)} -> {', '.join(self.blocks)}")
        if self.indices != other.indices:
            changes.append("sequence")
        if self.weight != other.weight:
            changes.append(f"loss_weight {other.weight:g} -> {self.weight:g}")
        if self.model != other.model:
            changes.append("model, noise model or data preparation")
        return "; ".join(changes)


@dataclass
class Problem:
    """Loss over chosen patterns as a function of the refined blocks, around given variables."""

    objective: Objective
    variables: Variables
    blocks: tuple[str, ...]
    indices: np.ndarray
    weight: float
    limits: BandLimits
    curvature: Curvature
    use_diagonal: bool
    model: str
    _diagonal: dict[str, Array] = field(default_factory=dict)

    @property
    def signature(self) -> Signature:
        return Signature(self.blocks, self.indices.tobytes(), self.weight, self.model)

    def point(self) -> BlockVector:
        return BlockVector(self.variables.blocks(self.blocks))

    def __call__(self, point: BlockVector) -> Sample:
        evaluated: Evaluated = self.objective.evaluate(
            self.variables.replace(point), self.blocks, self.indices, self.weight
        )
        gradient = BlockVector(self.limits.project(evaluated.gradients))
        evaluated.gradients = {}  # the vector has them; keep no second copy alive
        return Sample(evaluated.loss, gradient, evaluated)

    def precondition(self, gradient: BlockVector) -> BlockVector:
        """P D^-1 gradient, D the Gauss-Newton diagonal (or its largest value), P the band limits."""
        if not self._diagonal:
            diagonal = self.curvature.diagonal(self.variables, self.blocks)
            self._diagonal = (
                diagonal if self.use_diagonal else {name: d.max() for name, d in diagonal.items()}
            )
        return BlockVector(
            self.limits.project({name: gradient[name] / self._diagonal[name] for name in gradient})
        )
