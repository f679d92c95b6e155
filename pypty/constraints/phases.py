"""Amplitude and phase of an object, with phases that go on beyond pi."""

from __future__ import annotations

import numpy as np

from pypty.backend.array import Array, array_module, to_host
from pypty.constraints.object import continuous_phase
from pypty.model.parametrization import polar


def amplitude_and_phase(obj: Array) -> tuple[Array, Array]:
    """|O| and a phase of O, real, in its precision; O = a exp(i phi).

    A complex number knows its phase modulo 2 pi. Constraints ask for its sign, its power or its mean over
    neighbours: 4 rad must not come as -2.3. Where the phase of a mode's slice jumps by more than pi between lateral
    neighbours, whole turns are added such that the jumps vanish (but for vortices, which have one in any case), and
    such that most pixels of the slice keep the phase in (-pi, pi]. A slice without jumps is left alone.

    Parameters
    ----------
    obj : (mode, z, Y, X) complex
    """
    xp = array_module(obj)
    phase = xp.angle(obj)
    jumps = xp.zeros(obj.shape[:2], dtype=bool)
    for axis in (-2, -1):
        if phase.shape[axis] > 1:
            jumps |= (abs(xp.diff(phase, axis=axis)) > np.pi).any(axis=(-2, -1))
    wrapped = np.argwhere(to_host(jumps))
    for mode, layer in wrapped.tolist():
        phase[mode, layer] += xp.asarray(_turns(to_host(phase[mode, layer])).astype(phase.dtype))
    return abs(obj), phase


def from_amplitude_and_phase(amplitude: Array, phase: Array, dtype: object) -> Array:
    """a exp(i phi)."""
    return polar(amplitude, phase, dtype)


def _turns(phase: np.ndarray) -> np.ndarray:
    """(Y, X) multiples of 2 pi by which a layer becomes continuous; 0 for most pixels."""
    rest = continuous_phase(phase.astype(np.float64)[None], (1, 2))[0] - phase
    offset = np.angle(np.exp(1j * rest).mean())
    turns = np.round((rest - offset) / (2 * np.pi))
    return 2 * np.pi * (turns - np.median(turns).round())
