"""Constraints that act between epochs, in their order (parameter ``constraints``)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pypty.backend.array import Array, array_module, to_host
from pypty.constraints import projections_probe as by_probe
from pypty.constraints.object import amplitude_and_phase, from_amplitude_and_phase
from pypty.constraints.probe import are_orthogonal, orthogonal_rotation, rotated
from pypty.constraints.projections_object import OF_AMPLITUDE_AND_PHASE, centring_shift, moved_along_z
from pypty.model.blocks import Variables
from pypty.model.step_filters import is_between, tilt_filter
from pypty.optics.grid import Grid
from pypty.optics.propagators import angular_spectrum_phase_rate


@dataclass(frozen=True)
class ProjectionContext:
    """Properties of the run that constraints use.

    Attributes
    ----------
    wavelength_A : of the electrons
    pixel_size_A : (y, x) of the reconstruction
    scan_size : (slow, fast) scan points, or None
    probe_power : sum |probe|^2 at the start, over all modes (and subscans)
    scan_positions : (N, 2), or (1, 2) for all: starting positions, px, on the host (``setup.scan.positions``)
    """

    wavelength_A: float
    pixel_size_A: tuple[float, float]
    scan_size: tuple[int, int] | None
    probe_power: float
    scan_positions: np.ndarray


@dataclass(frozen=True)
class Projected:
    """The result of the constraints of one epoch.

    Attributes
    ----------
    variables : after the constraints; the same arrays where nothing changed by more than rounding
    changed : names of the constraints that changed the variables, and with them the loss
    rotation : (subscan, mode, mode) unitary by which ortho_pmode rotated the modes (``constraints.probe.rotated``),
        where nothing else changed: the loss is the same, and gradient and history can be rotated, too. None = no
        rotation
    """

    variables: Variables
    changed: tuple[str, ...] = ()
    rotation: np.ndarray | None = None


ORDER = (
    "probe_mask_k",
    "probe_mask_r",
    "ortho_pmode",
    "fix_probe_int",
    "obj_rblur",
    "obj_zblur",
    "kr_filter",
    "kz_filter",
    "kr_thresh",
    "complex_ratio",
    "mirrored_amp",
    "obj_z_recenter",
    "obja_thresh",
    "objp_postiv",
    "pos_recenter",
    "tilt_smooth",
)
"""The order in which constraints act, whatever their order in the parameter."""

OF_OBJECT = (*OF_AMPLITUDE_AND_PHASE, "obj_z_recenter")
"""Constraints that change the object."""
_SAME = 1e-9
"""Relative changes up to this size count as no change."""
_ORTHOGONAL = 1e-6
"""Probe modes with an overlap below this count as orthogonal."""


def acts(record: Mapping[str, Any], epoch: int) -> bool:
    """Whether a constraint acts after an epoch: from ``start`` on, every ``step``, before ``end``."""
    return is_between(record, epoch) and (epoch - record["start"]) % record["step"] == 0


def apply_projections(
    variables: Variables,
    table: Mapping[str, Mapping[str, Any]],
    epoch: int,
    context: ProjectionContext,
    skip: Collection[str] = (),
) -> Projected:
    """Apply the constraints that are scheduled for this epoch, in their order (:data:`ORDER`).

    Parameters
    ----------
    table : the value of ``constraints`` at this epoch: complete records by name
    epoch : the epoch that has just been computed, from 0
    skip : constraints that act on steps instead (``model.step_filters.STEP_FILTERS``, with lbfgs)
    """
    point = _Point(variables, context)
    for name in ORDER:
        record = table.get(name)
        if record is not None and name not in skip and acts(record, epoch):
            point.project(name, record)
    return point.result()


class _Point:
    """Variables while the constraints are applied. The object is split into amplitude and phase only once: unwrapping
    is the expensive part."""

    def __init__(self, variables: Variables, context: ProjectionContext) -> None:
        self.variables, self.context = variables, context
        self.pair: tuple[Array, Array] | None = None
        self.changed: list[str] = []
        self.rotation: np.ndarray | None = None

    def project(self, name: str, numbers: Mapping[str, Any]) -> None:
        context, probe = self.context, self.variables.probe
        if name in OF_AMPLITUDE_AND_PHASE:
            self._object(name, numbers)
        elif name == "obj_z_recenter":
            self._along_z(numbers)
        elif name == "ortho_pmode":
            self._orthogonal()
        elif name == "probe_mask_k":
            self._take(name, "probe", by_probe.probe_mask_k(probe, numbers))
        elif name == "probe_mask_r":
            masked = by_probe.probe_mask_r(probe, numbers, context.pixel_size_A, context.wavelength_A)
            self._take(name, "probe", masked)
        elif name == "fix_probe_int":
            self._take(name, "probe", by_probe.fix_probe_int(probe, context.probe_power))
        elif name == "pos_recenter":
            moved = pos_recenter(self.variables.positions, context.scan_positions, numbers)
            self._take(name, "positions", moved)
        elif self.variables.tilts is not None:
            smooth = tilt_smooth(self.variables.tilts, numbers, context.scan_size)
            self._take(name, "tilts", smooth)

    def result(self) -> Projected:
        variables = self.variables
        if self.pair is not None and any(name in OF_OBJECT for name in self.changed):
            obj = from_amplitude_and_phase(*self.pair, variables.obj.dtype)
            variables = variables.replace({"obj": obj})
        return Projected(variables, tuple(self.changed), None if self.changed else self.rotation)

    def _take(self, name: str, block: str, new: Array) -> None:
        old = self.variables.block(block)
        if differs(old, new):
            self.variables = self.variables.replace({block: new})
            self.changed.append(name)

    def _amplitude_and_phase(self) -> tuple[Array, Array]:
        if self.pair is None:
            self.pair = amplitude_and_phase(self.variables.obj)
        return self.pair

    def _object(self, name: str, numbers: Mapping[str, Any]) -> None:
        amplitude, phase = self._amplitude_and_phase()
        new = OF_AMPLITUDE_AND_PHASE[name](amplitude, phase, numbers)
        if differs(amplitude, new[0]) or differs(phase, new[1], 1.0):
            self.pair = new
            self.changed.append(name)

    def _along_z(self, numbers: Mapping[str, Any]) -> None:
        """Move the object by +shift slices and propagate the probe, so that it reaches each slice in the same focus."""
        amplitude, phase = self._amplitude_and_phase()
        shift = centring_shift(phase, numbers)
        if shift == 0:
            return
        variables, context = self.variables, self.context
        obj = moved_along_z(from_amplitude_and_phase(amplitude, phase, variables.obj.dtype), shift)
        ny, nx = variables.probe.shape[-2:]
        rate = angular_spectrum_phase_rate(Grid((ny, nx), context.pixel_size_A, context.wavelength_A))
        # The object moves downstream, so the wave at the first slice is the old one, propagated back by this distance.
        distance = -shift * float(to_host(variables.slice_distances).mean())
        self.variables = variables.replace({"probe": by_probe.propagated(variables.probe, rate, distance)})
        self.pair = amplitude_and_phase(obj)
        self.changed.append("obj_z_recenter")

    def _orthogonal(self) -> None:
        probe = self.variables.probe
        if probe.shape[-3] > 1 and not are_orthogonal(probe, _ORTHOGONAL):
            self.rotation = orthogonal_rotation(probe)
            self.variables = self.variables.replace({"probe": rotated(probe, self.rotation)})


def differs(old: Array, new: Array, scale: float | None = None) -> bool:
    """Whether two arrays differ by more than rounding, relative to ``scale`` or to the largest value."""
    if new is old:
        return False
    least = max(100 * float(np.finfo(old.real.dtype).eps), _SAME)
    size = float(abs(old).max()) if scale is None else scale
    return bool(float(abs(new - old).max()) > least * size)


def pos_recenter(positions: Array, reference: np.ndarray, numbers: Mapping[str, Any]) -> Array:
    """Positions (N, 2) without their common drift from ``reference``: p -> p - (1 - relax) mean(p - reference)."""
    drift = (positions - array_module(positions).asarray(reference)).mean(axis=0)
    return positions - (1 - numbers["relax"]) * drift


def tilt_smooth(tilts: Array, numbers: Mapping[str, Any], scan_size: tuple[int, int] | None) -> Array:
    """Tilts (N, 6) inside the specimen (columns 2 and 3), Gaussian-blurred over the raster with a kernel of 5 x 5
    points, reflected at its edges. One tilt for all patterns stays as it is."""
    blur = tilt_filter(numbers, scan_size)
    return tilts if blur is None else blur.apply(tilts)
