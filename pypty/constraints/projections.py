"""Constraints that act between epochs, in their order (parameter ``constraints``)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pypty.backend.array import Array
from pypty.model.variables import Variables


@dataclass(frozen=True)
class ProjectionContext:
    """What constraints need to know about the run.

    Attributes
    ----------
    wavelength_A : of the electrons
    pixel_size_A : (y, x) of the reconstruction
    scan_size : (slow, fast) scan points, or None
    probe_power : sum |probe|^2 at the start, over all modes (and subscans)
    scan_positions : (N, 2) starting positions, px, on the device: ``setup.scan.positions``
    """

    wavelength_A: float
    pixel_size_A: tuple[float, float]
    scan_size: tuple[int, int] | None
    probe_power: float
    scan_positions: Array


@dataclass(frozen=True)
class Projected:
    """What constraints did.

    Attributes
    ----------
    variables : after them; the very same arrays where nothing changed by more than rounding
    changed : names of those that changed the point, and with it the loss
    rotation : (subscan, mode, mode) unitary by which ortho_pmode turned the modes (``constraints.probe.rotated``), where
        nothing else changed the probe: the loss is as before, gradient and history can turn along. None = not turned
    """

    variables: Variables
    changed: tuple[str, ...] = ()
    rotation: np.ndarray | None = None


def apply_projections(
    variables: Variables,
    table: Mapping[str, Mapping[str, Any]],
    epoch: int,
    context: ProjectionContext,
    skip: Collection[str] = (),
) -> Projected:
    """The constraints whose schedule says so, in the order of ``params.schema_projections.PROJECTIONS``.

    Parameters
    ----------
    table : the value of ``constraints`` at this epoch: complete records by name
    epoch : that has just been computed, from 0
    skip : left out: those that act on steps instead (``model.step_filters.STEP_FILTERS``, with lbfgs)
    """
    raise NotImplementedError
