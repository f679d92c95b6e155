"""Fourth-order integrators through the specimen: several fractional steps for each slice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pypty.backend.array import Array, array_module
from pypty.data.batch import Batch
from pypty.model.blocks import Variables
from pypty.model.stages.base import Gradients, Tape, sum_to_shape
from pypty.model.stages.multislice import ObjectWindows
from pypty.model.stages.propagation import Propagation, PropagationPoint

Step = tuple[str, float]
"""("T", p): multiply by the slice's transmission to the power p; ("P", p): propagate by p times its distance."""

_YOSHIDA = (2 + 2 ** (-1 / 3) + 2 ** (1 / 3)) / 3
_HALVES: tuple[Step, ...] = (("T", 0.5), ("P", 0.5), ("T", 0.5), ("P", 0.5))

Branches = tuple[tuple[float, tuple[Step, ...]], ...]
"""(weight, steps in the order in which the wave meets them); the results of the branches are added."""

INTEGRATORS: Mapping[str, Branches] = MappingProxyType(
    {
        "better_multislice": (
            (2 / 3, _HALVES),
            (2 / 3, _HALVES[::-1]),
            (-1 / 6, (("T", 1.0), ("P", 1.0))),
            (-1 / 6, (("P", 1.0), ("T", 1.0))),
        ),
        "yoshida": (
            (
                1.0,
                (
                    ("T", _YOSHIDA / 2),
                    ("P", _YOSHIDA),
                    ("T", (1 - _YOSHIDA) / 2),
                    ("P", 1 - 2 * _YOSHIDA),
                    ("T", (1 - _YOSHIDA) / 2),
                    ("P", _YOSHIDA),
                    ("T", _YOSHIDA / 2),
                ),
            ),
        ),
    }
)
"""Values of ``propmethod`` besides the plain multislice.

better_multislice: psi' = 2/3 [P^1/2 T^1/2 P^1/2 T^1/2 + T^1/2 P^1/2 T^1/2 P^1/2] psi - 1/6 [T P + P T] psi, a
Richardson extrapolation of the symmetrised first-order step. yoshida: the symmetric composition of three leapfrog
steps (Yoshida, Phys. Lett. A 150 (1990) 262). Both are of fourth order in the slice thickness.
"""


def propagation_fractions(branches: Branches) -> tuple[float, ...]:
    """The fractions of a gap that an integrator propagates by."""
    return tuple(sorted({power for _, steps in branches for kind, power in steps if kind == "P"}))


@dataclass(frozen=True)
class _Point:
    obj: Array
    gaps: PropagationPoint


class FractionalSteps:
    """Every slice of transmission T and distance z: psi <- sum over branches of weight x steps psi.

    Every slice is followed by a propagation, also the last one, which has the last distance if there is one distance
    fewer than slices. T^p = exp(p log T) with the phase between -pi and pi: slices must be thin enough for
    that, and transparent enough for a logarithm.
    """

    def __init__(self, windows: ObjectWindows, propagation: Propagation, branches: Branches) -> None:
        self.windows = windows
        self.propagation = propagation
        self.branches = branches

    def prepare(self, variables: Variables) -> _Point:
        return _Point(variables.obj, self.propagation.prepare(variables, variables.n_slices))

    def _powers(self, transmission: Array) -> dict[float, Array]:
        needed = {power for _, steps in self.branches for kind, power in steps if kind == "T"}
        return {p: transmission if p == 1 else _safe(transmission) ** p for p in sorted(needed)}

    def forward(self, wave: Array, point: _Point, batch: Batch, tape: Tape) -> Array:
        # (slice, b, 1, O, y, x)
        patches = self.windows.gather(point.obj, batch)
        tape["patches"], tape["shape"] = patches, wave.shape
        for s in range(len(patches)):
            powers = self._powers(patches[s])
            after: Array = 0
            for b, (weight, steps) in enumerate(self.branches):
                after = after + weight * self._branch(wave, steps, powers, point, s, batch, tape, f"{s} {b}")
            wave = after
        return wave

    def _branch(
        self,
        wave: Array,
        steps: tuple[Step, ...],
        powers: dict[float, Array],
        point: _Point,
        s: int,
        batch: Batch,
        tape: Tape,
        label: str,
    ) -> Array:
        """One product of steps. The tape keeps what enters a T and what leaves a P."""
        for i, (kind, power) in enumerate(steps):
            if kind == "T":
                tape[f"{label} {i}"] = wave
                wave = wave * powers[power]
            else:
                # a copy, because all branches start from the same wave and a propagation overwrites it
                wave = self.propagation.forward(wave.copy(), point.gaps, s, batch, power)
                tape[f"{label} {i}"] = wave
        return wave

    def adjoint(self, grad: Array, point: _Point, batch: Batch, tape: Tape, gradients: Gradients) -> Array:
        patches = tape["patches"]
        patch_grads = self.windows.empty_gradient(patches) if "obj" in gradients else None
        for s in reversed(range(len(patches))):
            powers = self._powers(patches[s])
            before: Array = 0
            slice_grad: Array = 0
            for b, (weight, steps) in enumerate(self.branches):
                # every branch of the sum receives the whole gradient, times its weight
                back = weight * grad
                for i in reversed(range(len(steps))):
                    kind, power = steps[i]
                    kept = tape[f"{s} {b} {i}"]
                    if kind == "T":
                        if patch_grads is not None:
                            # (b, P, O, y, x) -> (b, O, y, x): all probe modes meet the same patch
                            to_power = (kept.conj() * back).sum(axis=1)
                            # (b, 1, O, y, x) -> (b, O, y, x)
                            slope = _slope(patches[s], powers[power], power)[:, 0]
                            slice_grad = slice_grad + to_power * slope.conj()
                        back = back * powers[power].conj()
                    else:
                        back = self.propagation.adjoint(back, kept, point.gaps, s, batch, gradients, power)
                before = before + back
            if patch_grads is not None:
                patch_grads[s] = slice_grad
            grad = before
        if patch_grads is not None:
            self.windows.scatter(gradients["obj"], batch, patch_grads, point.obj)
        return sum_to_shape(grad, tape["shape"])


def _safe(transmission: Array) -> Array:
    """The transmission, with opaque pixels raised so that negative powers stay finite."""
    xp = array_module(transmission)
    floor = xp.finfo(transmission.dtype).eps
    return xp.where(abs(transmission) < floor, transmission.dtype.type(floor), transmission)


def _slope(transmission: Array, powered: Array, power: float) -> Array:
    """d(T^p)/dT = p T^p / T; 1 for p = 1. An opaque pixel was raised to a constant, and has no slope."""
    xp = array_module(transmission)
    if power == 1:
        return xp.ones_like(transmission)
    safe = _safe(transmission)
    return xp.where(safe == transmission, power * powered / safe, transmission.dtype.type(0))
