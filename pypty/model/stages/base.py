"""What every stage offers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

from pypty.backend.array import Array
from pypty.data.feed import Batch
from pypty.model.variables import Variables

Tape: TypeAlias = dict[str, Array]
"""What a stage's forward keeps for its adjoint, for one batch."""

Gradients: TypeAlias = Mapping[str, Array]
"""Accumulators of the refined blocks, by name; a block that is absent is not refined."""


class Stage(Protocol):
    """A physical effect.

    Waves are (batch, probe mode, object mode, y, x); an axis on which nothing depends yet has length 1.
    Gradients of complex arrays are dL/dRe + i dL/dIm (docs/conventions.md).
    """

    def prepare(self, variables: Variables) -> Any:
        """What depends on the variables but not on the batch; computed once per evaluation, then shared."""

    def forward(self, wave: Array, point: Any, batch: Batch, tape: Tape) -> Array:
        """Apply the effect. ``point`` is what :meth:`prepare` returned; ``wave`` may be overwritten
        unless it is the shared probe."""

    def adjoint(self, grad: Array, point: Any, batch: Batch, tape: Tape, gradients: Gradients) -> Array:
        """Carry the gradient back through the effect, adding to ``gradients`` on the way.

        ``grad`` may be overwritten.
        """


def sum_to_shape(grad: Array, shape: tuple[int, ...]) -> Array:
    """Adjoint of broadcasting from ``shape``: sum over the axes that had length 1."""
    axes = tuple(axis for axis, (have, want) in enumerate(zip(grad.shape, shape, strict=True)) if want < have)
    return grad.sum(axis=axes, keepdims=True) if axes else grad
