"""Constraints of the object, by PtyRAD's names, on its amplitude and phase.

Every function takes the amplitude a and the phase phi (mode, z, Y, X), real, on one device, and returns both; an array
that it does not change is returned as the same object. ``obj_type`` selects amplitude, phase or both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from pypty.backend import fft
from pypty.backend.array import Array, array_module, to_host
from pypty.model.step_filters import object_filter

Pair = tuple[Array, Array]
_DARK = 1e-10
"""Lower limit of an amplitude before its logarithm is taken."""
_TINY = 1e-8  # keeps quotients finite
_KZ_AMPLITUDE = 0.9
"""Factor on the contrast of the amplitude in kz_filter, as in PtyRAD."""
_LEAST_SHIFT = 1e-3
"""Slices; an object that is off centre by less is not moved."""


def filtered(name: str, amplitude: Array, phase: Array, numbers: Mapping[str, Any]) -> Pair:
    """obj_rblur, obj_zblur, kr_filter, kz_filter: see :func:`pypty.model.step_filters.object_filter`.

    kz_filter also pulls the amplitude towards 1: a -> 1 + 0.9 (G a - 1).
    """
    blur = object_filter(name, numbers)
    if blur is None:
        return amplitude, phase
    new, phase = _each(blur.apply, amplitude, phase, numbers["obj_type"])
    if name == "kz_filter" and new is not amplitude:
        new = 1 + _KZ_AMPLITUDE * (new - 1)
    return new, phase


def kr_thresh(amplitude: Array, phase: Array, numbers: Mapping[str, Any]) -> Pair:
    """Keep the largest ``thresh`` of all cosine coefficients (DCT-II of every layer); one threshold for all layers.

    Coefficients are compared as unnormalised ones (2 sum x cos along each axis).
    """
    return _each(lambda array: _largest_kept(array, numbers["thresh"]), amplitude, phase, numbers["obj_type"])


def _largest_kept(array: Array, share: float) -> Array:
    xp = array_module(array)
    spectrum = fft.dct2(array)
    size = abs(spectrum)
    root_half = float(np.sqrt(0.5))  # unnormalised, the zero frequency of an axis is sqrt(2) larger
    size[..., 0, :] /= root_half
    size[..., :, 0] /= root_half
    kept = max(1, int(share * size.size))
    limit = xp.partition(size.ravel(), size.size - kept)[
        size.size - kept
    ]  # the kept-th largest, without a full sort
    spectrum *= size >= limit
    return fft.idct2(spectrum)


def complex_ratio(amplitude: Array, phase: Array, numbers: Mapping[str, Any]) -> Pair:
    """Tie absorption and phase together, as of one material.

    With C = sum |ln a| / sum |phi| over everything: a -> exp((1 - alpha1) ln a - alpha1 C phi),
    phi -> (1 - alpha2) phi - alpha2 ln a / C. No amplitude counts as less than 1e-10, and none
    becomes less, or more than 1e10.

    Source: Clark et al., Opt. Lett. 35 (2010) 1981.
    """
    xp = array_module(amplitude)
    alpha1, alpha2, target = numbers["alpha1"], numbers["alpha2"], numbers["obj_type"]
    log = xp.log(xp.maximum(amplitude, _DARK))
    ratio = float(abs(log).sum(dtype=np.float64)) / (float(abs(phase).sum(dtype=np.float64)) + _TINY)
    new = amplitude
    if target != "phase" and alpha1 > 0:
        largest = -math.log(_DARK)  # an object that is all dark has no ratio
        new = xp.exp(xp.clip((1 - alpha1) * log - alpha1 * ratio * phase, -largest, largest))
    if target != "amplitude" and alpha2 > 0:
        phase = (1 - alpha2) * phase - alpha2 / (ratio + _TINY) * log
    return new, phase


def mirrored_amp(amplitude: Array, phase: Array, numbers: Mapping[str, Any]) -> Pair:
    """a -> relax a + (1 - relax) (1 - scale max(phi, 0)^power)."""
    xp = array_module(phase)
    target = xp.maximum(phase, 0) ** numbers["power"]
    target *= -numbers["scale"]
    target += 1
    return _relaxed(amplitude, target, numbers["relax"]), phase


def obja_thresh(amplitude: Array, phase: Array, numbers: Mapping[str, Any]) -> Pair:
    """a -> relax a + (1 - relax) clip(a, low, high)."""
    low, high = (float(limit) for limit in numbers["thresh"])
    return _relaxed(amplitude, array_module(amplitude).clip(amplitude, low, high), numbers["relax"]), phase


def objp_postiv(amplitude: Array, phase: Array, numbers: Mapping[str, Any]) -> Pair:
    """phi -> relax phi + (1 - relax) max(phi, 0); with "subtract_min" phi - min phi in place of max(phi, 0)."""
    lowest = numbers["mode"] == "subtract_min"
    target = phase - phase.min() if lowest else array_module(phase).maximum(phase, 0)
    return amplitude, _relaxed(phase, target, numbers["relax"])


def centring_shift(phase: Array, numbers: Mapping[str, Any]) -> float:
    """Number of slices by which obj_z_recenter moves an object towards larger index; 0 below ``_LEAST_SHIFT``.

    The target of the centre of mass along z is (Z - 1)/2, computed from the positive phases above the percentile
    ``thresh``: shift = scale ((Z - 1)/2 - centre), limited to max_shift and (Z - 1)/2.
    """
    xp = array_module(phase)
    middle = (phase.shape[1] - 1) / 2
    positive = xp.maximum(phase, 0)
    if numbers["thresh"] is not None:
        positive[positive < xp.percentile(positive, numbers["thresh"])] = 0
    # (mode, z, Y, X) -> (z,)
    profile = to_host(positive.mean(axis=(0, 2, 3), dtype=np.float64))
    centre = float((np.arange(len(profile)) * profile).sum() / (profile.sum() + _TINY))
    limit = middle if numbers["max_shift"] is None else min(numbers["max_shift"], middle)
    shift = float(np.clip(numbers["scale"] * (middle - centre), -limit, limit))
    return 0.0 if abs(shift) < _LEAST_SHIFT else shift


def moved_along_z(obj: Array, shift: float) -> Array:
    """A complex object (mode, z, Y, X) moved by ``shift`` slices: a ramp exp(-2 pi i f shift) on its spectrum along z.

    Periodic: what leaves at one end enters at the other.
    """
    n = obj.shape[1]
    ramp = np.exp(-2j * np.pi * np.fft.fftfreq(n) * shift)
    # The shift as an (n, n) matrix: there are few slices, and one product replaces two transforms along a strided axis.
    matrix = np.fft.ifft(ramp[:, None] * np.fft.fft(np.eye(n), axis=0), axis=0)
    xp = array_module(obj)
    return (xp.asarray(matrix.astype(obj.dtype)) @ obj.reshape(len(obj), n, -1)).reshape(obj.shape)


def _each(change: Callable[[Array], Array], amplitude: Array, phase: Array, target: str) -> Pair:
    return (
        change(amplitude) if target != "phase" else amplitude,
        change(phase) if target != "amplitude" else phase,
    )


def _relaxed(old: Array, new: Array, relax: float) -> Array:
    """relax old + (1 - relax) new; ``new`` may be overwritten."""
    if relax == 0:
        return new
    new *= 1 - relax
    new += relax * old
    return new


def _filter(name: str) -> Callable[[Array, Array, Mapping[str, Any]], Pair]:
    return lambda amplitude, phase, numbers: filtered(name, amplitude, phase, numbers)


OF_AMPLITUDE_AND_PHASE: Mapping[str, Callable[[Array, Array, Mapping[str, Any]], Pair]] = MappingProxyType(
    {
        **{name: _filter(name) for name in ("obj_rblur", "obj_zblur", "kr_filter", "kz_filter")},
        "kr_thresh": kr_thresh,
        "complex_ratio": complex_ratio,
        "mirrored_amp": mirrored_amp,
        "obja_thresh": obja_thresh,
        "objp_postiv": objp_postiv,
    }
)
"""All but obj_z_recenter, which changes the probe, too."""
