"""The objective as the optimiser sees it: a function of a block vector, with a preconditioner."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pypty.backend.array import Array
from pypty.model.blocks import SWITCHES, Variables
from pypty.model.parametrization import BandLimits, Parametrization, affine_basis
from pypty.model.stages import INTEGRATORS
from pypty.model.step_filters import is_between, step_filters
from pypty.objective.curvature import Curvature
from pypty.objective.objective import Objective
from pypty.objective.regularizers import Regularizer
from pypty.objective.share import Evaluated, Limit
from pypty.optimize.lbfgs import Keep, ValueAndGradient
from pypty.optimize.vector import BlockVector
from pypty.params.schema import SCHEMA
from pypty.params.schema.values import EpochValues
from pypty.params.settings import Settings


def refined_blocks(
    now: Mapping[str, Any], variables: Variables, frozen: Container[str] = ()
) -> tuple[str, ...]:
    """Names of the blocks refined at this epoch; the distance after a single slice only if it is used."""
    active = {block for key, block in SWITCHES.items() if now[key] and block not in frozen}
    if variables.n_slices < 2 and now["propmethod"] not in INTEGRATORS:
        # multislice does not propagate after the last slice
        active.discard("slice_distances")
    return tuple(name for name in variables.present if name in active)


def parametrization(
    now: EpochValues,
    limits: BandLimits,
    start_positions: Array,
    epoch: int = 0,
    scan_size: Sequence[int] | np.ndarray | None = None,
    *,
    current_groups: tuple[Array, ...] = (),
) -> Parametrization:
    """How object, probe, positions, tilts and beam currents are moved at this epoch; affine maps refer to the
    starting positions.

    With lbfgs smoothing ``constraints`` filter its steps.
    """
    obj = "phase" if now["phase_only_obj"] else now["obj_parametrization"]
    probe = "fourier_phase" if now["tune_only_probe_phase"] else "complex"
    probe = "fourier_amplitude" if now["tune_only_probe_abs"] else probe
    scan = now["positions_parametrization"]
    basis = None if scan == "free" else affine_basis(start_positions)
    # filters of maps of the scan need its raster
    raster = None if scan_size is None else (int(scan_size[0]), int(scan_size[1]))
    filters = step_filters(now["constraints"], epoch, raster) if now["optimizer"] == "lbfgs" else {}
    return Parametrization(
        limits=limits,
        obj=obj,
        probe=probe,
        positions=scan,
        scan_basis=basis,
        filters=filters,
        current_groups=current_groups,
    )


def current_groups(
    now: EpochValues,
    epoch: int,
    blocks: Container[str],
    indices: np.ndarray,
    probe_marker: np.ndarray | None,
) -> tuple[np.ndarray, ...]:
    """Which of the patterns share a probe whose power is free, while their beam currents move, too.

    ``blocks`` are those that move. The power is not free while only the phase of the probe's spectrum moves, or with
    the constraint ``fix_probe_int``: the mean beam current then is the dose, and nothing is fixed.
    """
    constant = now["constraints"].get("fix_probe_int")
    if (
        "probe" not in blocks
        or "beam_current" not in blocks
        or now["tune_only_probe_phase"]
        or (constant is not None and is_between(constant, epoch))
    ):
        return ()
    if probe_marker is None:
        return (indices,)
    subscans = probe_marker[indices]
    return tuple(indices[subscans == subscan] for subscan in np.unique(subscans))


def resolve_weight(weight: float | str, n_patterns: int, n_pixels: int) -> float:
    """``loss_weight`` as a number; "mean" and "mean_full" divide by the patterns or values of the whole data set."""
    if weight == "mean":
        return 1.0 / n_patterns
    if weight == "mean_full":
        return 1.0 / (n_patterns * n_pixels)
    return float(weight)


LOSS_KEYS = tuple(sorted(name for name, parameter in SCHEMA.items() if parameter.changes_loss))
"""Fixed parameters on which the loss of given variables and data depends. Their digest is in
resume.h5, so their order does not change."""


def model_digest(settings: Settings, subpixel: bool, propagation: str) -> str:
    """A short hash of all settings on which the loss depends, except per-epoch values."""
    digest = hashlib.sha256(f"{subpixel} {propagation}".encode())
    for key in LOSS_KEYS:
        value = settings.value(key)
        digest.update(f"{key}={value!r}".encode() if not isinstance(value, np.ndarray) else value.tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Signature:
    """What identifies an optimisation problem. If it changes between epochs, gradients and history are invalid."""

    blocks: tuple[str, ...]
    indices: bytes
    weight: float
    model: str
    form: str = ""
    regularizers: str = ""

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
        if self.form != other.form:
            changes.append(f"parametrisation {other.form} -> {self.form}")
        if self.regularizers != other.regularizers:
            changes.append(f"regularisers [{other.regularizers}] -> [{self.regularizers}]")
        return "; ".join(changes)


def block_norms(blocks: Mapping[str, Array]) -> dict[str, float]:
    """Root mean square of every block."""
    vector = BlockVector(blocks)
    return root_mean_squares(vector, vector.dot_blocks(vector))


def root_mean_squares(blocks: Mapping[str, Array], squares: Mapping[str, float]) -> dict[str, float]:
    """Root mean square of every block from the sums of its squares."""
    return {name: math.sqrt(square / blocks[name].size) for name, square in squares.items()}


@dataclass(kw_only=True)
class Problem:
    """Loss over some patterns as a function of the refined blocks.

    Attributes
    ----------
    variables : all unknowns at the start of the epoch
    indices, held_out : patterns that are fitted, and those that only validate
    use_diagonal : precondition with the whole Gauss-Newton diagonal; else with its largest value in each block
    n_values : number of data values that are compared
    start_positions : (N, 2) px
    keep : where vectors of the L-BFGS history are kept
    """

    objective: Objective
    variables: Variables
    blocks: tuple[str, ...]
    indices: np.ndarray
    weight: float
    form: Parametrization
    curvature: Curvature
    use_diagonal: bool
    model: str
    regularizers: tuple[Regularizer, ...] = ()
    regularizer_text: str = ""
    held_out: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    n_values: int = 1
    start_positions: Array = None
    keep: Keep = lambda vector: vector
    _diagonal: dict[str, Array] = field(default_factory=dict)

    @property
    def signature(self) -> Signature:
        forms = [getattr(self.form, name) for name in ("obj", "probe", "positions") if name in self.blocks]
        forms += [item.text for name, item in self.form.filters.items() if name in self.blocks]
        forms += ["mean beam current fixed"] if self.form.current_groups else []
        return Signature(
            blocks=self.blocks,
            indices=self.indices.tobytes(),
            weight=self.weight,
            model=self.model,
            form=", ".join(forms),
            regularizers=self.regularizer_text,
        )

    def rounding(self, loss: float) -> float:
        """A generous bound on the rounding error of a loss. The errors of its n terms have random signs, so the
        relative error falls with sqrt(n); this matters where most of the loss is a constant (log-likelihoods)."""
        eps = float(np.finfo(self.objective.backend.real).eps)
        return 100 * eps * abs(loss) / math.sqrt(self.n_values)

    def point(self) -> BlockVector:
        return BlockVector(self.form.vector(self.variables, self.blocks))

    def variables_at(self, point: BlockVector) -> Variables:
        """All unknowns at a point."""
        return self.form.variables(self.variables, point)

    def __call__(self, point: BlockVector, limit: Limit | None = None) -> ValueAndGradient:
        """The objective at a point. Above the limit the gradient may be left out (empty) to save time."""
        variables = self.variables_at(point)
        evaluated: Evaluated = self.objective.evaluate(
            variables, self.blocks, self.indices, self.weight, self.regularizers, limit
        )
        if self.blocks and not evaluated.gradients:
            return ValueAndGradient(evaluated.loss, BlockVector({}), evaluated)
        gradient = BlockVector(self.form.gradient(self.variables, point, evaluated.gradients, variables))
        evaluated.gradients = {}  # the vector has them; keep no second copy alive
        return ValueAndGradient(evaluated.loss, gradient, evaluated)

    def diagonal(self, variables: Variables, blocks: Iterable[str], indices: np.ndarray) -> dict[str, Array]:
        """The Gauss-Newton diagonal of some of the patterns, with respect to the vector."""
        placed = self.objective.feed.placed(indices)
        curvature = self.curvature.of_patterns(indices, None if placed is None else placed.crop_origins)
        return self.form.diagonal(variables, curvature.diagonal(variables, blocks))

    def precondition(self, gradient: BlockVector) -> BlockVector:
        """P G D^-1 G^T P gradient, D the Gauss-Newton diagonal (or its largest value), P the band limits, G the filters
        of steps.

        A soft edge of the band limits, where there is one, replaces P. Gradients are inside the hard limits already.
        """
        if not self._diagonal:
            diagonal = self.diagonal(self.variables, self.blocks, self.indices)
            # computed once per epoch, at its start: the preconditioner must not change during a line search
            self._diagonal = (
                diagonal if self.use_diagonal else {name: d.max() for name, d in diagonal.items()}
            )
        soft = self.form.limits.probe_steps is not None
        # hard limits are projections, and P gradient = gradient: a transform less
        damped = self.form.damp_adjoint(gradient) if soft else self.form.filter_adjoint(gradient)
        quotients = {name: damped[name] / self._diagonal[name] for name in gradient}
        del damped
        return BlockVector(self.form.damp(quotients, overwrite=True))
