"""The parts of blocks that a first-order method moves, with their learning rates and units."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from pypty.backend.array import Array, array_module
from pypty.engine.epochs.problem import Problem
from pypty.model.blocks import BLOCKS
from pypty.model.parametrization import Parametrization
from pypty.params.schema.values import EpochValues

OBJECT_PARTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"complex": ("obj",), "phase": ("objp",), "amplitude_phase": ("obja", "objp")}
)
"""Parts of the object's block, by ``Parametrization.obj``."""
PROBE_PARTS: Mapping[str, str] = MappingProxyType(
    {"complex": "probe", "fourier_phase": "probe_phase", "fourier_amplitude": "probe_amplitude"}
)
"""The part that is moved for the probe, by ``Parametrization.probe``; each has separate moments."""


def all_parts(block: str) -> tuple[str, ...]:
    """The parts of a block in any parametrisation."""
    forms = {"obj": sum(OBJECT_PARTS.values(), ()), "probe": tuple(PROBE_PARTS.values())}
    return forms.get(block, (block,))


def learning_rates(now: EpochValues, epoch: int, probe_scale: float) -> dict[str, float]:
    """Learning rates of the parts that move at this epoch, in the units of the blocks; keys of ``learning_rates``."""
    table = now["learning_rates"]
    rates = {
        name: entry["lr"] * _rate_unit(name)
        for name, entry in table.items()
        if entry["lr"] > 0 and entry["start"] <= epoch and (entry["end"] is None or epoch < entry["end"])
    }
    if table["probe_abs"]["lr"] > 0:
        # probe_abs is an absolute rate and takes the place of the relative one
        rates.pop("probe", None)
        if "probe_abs" in rates:
            rates["probe"] = rates.pop("probe_abs")
    # a rate without a unit: a fraction of the probe's root mean square at the start
    elif "probe" in rates:
        rates["probe"] *= probe_scale
    return rates


def _rate_unit(name: str) -> float:
    """Unit of the learning rate of a block or of a part of it."""
    return BLOCKS[name].rate_unit if name in BLOCKS else 1.0


def moving_blocks(
    blocks: Sequence[str], form: Parametrization, rates: Mapping[str, float]
) -> tuple[str, ...]:
    """The refined blocks with a rate for any of their parts."""
    return tuple(name for name in blocks if any(part in rates for part in parts_of(name, form)))


def parts_of(name: str, form: Parametrization) -> tuple[str, ...]:
    parts = {"obj": OBJECT_PARTS[form.obj], "probe": (PROBE_PARTS[form.probe],)}
    return parts.get(name, (name,))


def rates_of_parts(
    rates: Mapping[str, float], form: Parametrization, probe: Array, probe_scale: float
) -> dict[str, float]:
    """Rates by part. The rate of the probe's amplitude is converted to rad for phases of its spectrum, or to amplitudes
    of its spectrum, which are larger by the root of the number of pixels."""
    out = dict(rates)
    if "probe" in out and form.probe == "fourier_phase":
        # a change dP turns a phase by about dP/|P|
        out["probe_phase"] = out.pop("probe") / max(probe_scale, np.finfo(float).tiny)
    elif "probe" in out and form.probe == "fourier_amplitude":
        out["probe_amplitude"] = out.pop("probe") * math.sqrt(math.prod(probe.shape[-2:]))
    return out


def split(vector: Mapping[str, Array], form: Parametrization) -> dict[str, Array]:
    """Blocks by part: amplitude and phase of the object separately."""
    out = dict(vector)
    if "probe" in out and form.probe != "complex":
        out[PROBE_PARTS[form.probe]] = out.pop("probe")
    if "obj" in out and form.obj != "complex":
        numbers = out.pop("obj")
        # (2, O, z, Y, X) -> two views (O, z, Y, X)
        layers = [numbers] if form.obj == "phase" else list(numbers)
        out.update(zip(OBJECT_PARTS[form.obj], layers, strict=True))
    return out


def joined(parts: Mapping[str, Array], form: Parametrization) -> dict[str, Array]:
    """Inverse of :func:`split`."""
    out = dict(parts)
    if PROBE_PARTS[form.probe] in out:
        out["probe"] = out.pop(PROBE_PARTS[form.probe])
    if "objp" in out:
        layers = [out.pop(name) for name in OBJECT_PARTS[form.obj]]
        out["obj"] = layers[0] if form.obj == "phase" else array_module(layers[0]).stack(layers)
    return out


@dataclass(frozen=True)
class Frame:
    """The scaled variable u = (block - origin)/unit that a method sees instead of a block.

    The scaling matters for everything that is not measured in learning rates: steps proportional to the gradient,
    weight decay.
    """

    unit: float = 1.0
    origin: Array | None = None

    def seen(self, block: Array) -> Array:
        moved = block if self.origin is None else block - self.origin
        return moved if self.unit == 1.0 else moved / self.unit

    def block(self, seen: Array) -> Array:
        scaled = seen if self.unit == 1.0 else seen * self.unit
        return scaled if self.origin is None else scaled + self.origin


AS_IT_IS = Frame()


def frames_of(problem: Problem, now: EpochValues) -> dict[str, Frame]:
    """Tilts in mrad; positions relative to the start; with ``probe_abs`` the probe of an orthonormal transform, whose
    squares sum to the counts."""
    frames = {name: Frame(row.rate_unit) for name, row in BLOCKS.items() if row.rate_unit != 1}
    frames["positions"] = Frame(origin=problem.start_positions)
    if now["learning_rates"]["probe_abs"]["lr"] > 0:
        # the far field is unnormalised: ny nx sum |P|^2 = counts, so u = sqrt(ny nx) P
        frames["probe"] = Frame(1 / math.sqrt(math.prod(problem.variables.probe.shape[-2:])))
    return frames
