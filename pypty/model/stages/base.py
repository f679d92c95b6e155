"""The interface of all stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np

from pypty.backend.array import Array, Backend, array_module
from pypty.data.batch import Batch
from pypty.model.blocks import Variables
from pypty.model.options import ModelOptions

Tape: TypeAlias = dict[str, Array]
"""Arrays that the forward pass of a stage keeps for its adjoint, for one batch."""

FORWARD_ONLY = "forward only"
"""A tape with this key: no adjoint will follow, and nothing is kept for it."""

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
        """Propagate the gradient back through the effect, and add to ``gradients``.

        ``grad`` may be overwritten.
        """


class CountStage(Stage, Protocol):
    """A stage that acts on intensities, and knows from the options whether a model has it.

    Attributes
    ----------
    lights_dark : whether it brings counts to pixels beyond the band limit
    in_graphs : whether CUDA graphs can hold it: forward and adjoint call none of CUDA's libraries, and do not wait for
        the device
    """

    lights_dark: bool
    in_graphs: bool

    @classmethod
    def for_model(cls, options: ModelOptions, backend: Backend) -> CountStage | None:
        """The stage of a model with these options, or None."""


def sum_to_shape(grad: Array, shape: tuple[int, ...]) -> Array:
    """Adjoint of broadcasting from ``shape``: sum over the axes that had length 1."""
    axes = tuple(axis for axis, (have, want) in enumerate(zip(grad.shape, shape, strict=True)) if want < have)
    return grad.sum(axis=axes, keepdims=True) if axes else grad


def rows_of(array: Array, batch: Batch) -> Array:
    """The rows of a per-pattern array that belong to a batch; its only row if it has one for all patterns."""
    return array if len(array) == 1 else array[batch.index_of(array)]


def add_rows(gradient: Array, batch: Batch, values: Array) -> None:
    """Adjoint of :func:`rows_of`: add one row of ``values`` per pattern to ``gradient``."""
    if len(gradient) == 1:
        gradient[0] += values.sum(axis=0)
    else:
        gradient[batch.index_of(gradient)] += values


def per_axis(field: Array, along_y: Array, along_x: Array) -> Array:
    """(batch, 2) float64: sum of a real (batch, y, x) ``field`` times each axis's coordinate, [y, x]."""
    xp = array_module(field)
    # (b, y, x) -> (b, y) @ (y,) -> (b,), and the same along x
    rows = field.sum(axis=2, dtype=np.float64) @ along_y
    columns = field.sum(axis=1, dtype=np.float64) @ along_x
    return xp.stack([rows, columns], axis=1)


def imaginary_product(a: Array, b: Array, axes: tuple[int, ...]) -> Array:
    """Im(conj(a) b) summed over ``axes``, without the complex product."""
    # two real products instead of four: the real part of conj(a) b is not needed
    product = a.real * b.imag
    product -= a.imag * b.real
    return product.sum(axis=axes)
