"""Edits of the object: Gaussian filters of phase and absorption, charge flipping, restart from vacuum.

Every function takes the object (mode, z, Y, X) complex and returns a new one on the same device, in the same
precision. They compute on the host in double precision, because they run once in many epochs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.fft
from scipy.ndimage import gaussian_filter

from pypty.backend.array import Array, array_module, to_host
from pypty.errors import ParameterError
from pypty.model.parametrization import polar

_DARK = 1e-10
"""Transmission below which a pixel counts as black: its absorption is -log of this, about 23."""

_NOISE_TO_SIGNAL = 0.01
"""Wiener constant: the largest gain of the deblurring is (1 + 0.01) / (2 sqrt(0.01)), about 5."""


def smooth_phase(obj: Array, sigma: Sequence[float]) -> Array:
    """Gaussian filter of the phase arg O; the amplitude |O| is kept (``apply_gaussian_filter``).

    The phase is known modulo 2 pi only. A filter of the wrapped phase would turn every jump from pi to -pi into a ramp
    through 0. Therefore a phase with jumps (neighbours along a filtered axis that differ by more than pi) is split into
    a continuous phase s and a remainder::

        phi -> G s + arg(G exp(i (phi - s)))

    with the Gaussian filter G, ``scipy.ndimage.gaussian_filter`` with mode nearest. Without vortices the remainder is a
    constant, and the continuous phase is filtered. Around a vortex every phase has a jump somewhere; there the
    remainder is filtered as a wave, which has none. A phase without jumps equals s, and the result is G phi.

    Parameters
    ----------
    obj : (mode, z, Y, X) complex
    sigma : standard deviations (y, x) in px, for each slice separately; or (z, y, x) in slices and px
    """
    widths = _widths(sigma)
    axes = tuple(axis for axis in range(3) if widths[axis] > 0)
    host = to_host(obj)
    result = np.empty_like(host)
    for mode, volume in enumerate(host):
        phase = np.angle(volume.astype(np.complex128))
        continuous = continuous_phase(phase, axes)
        change = gaussian_filter(continuous, widths, mode="nearest") - continuous
        if continuous is not phase:
            # arg(G r) - arg(r) of the remainder wave r, computed as one angle: no jump of 2 pi between the two
            remainder = np.exp(1j * (phase - continuous))
            change += np.angle(gaussian_filter(remainder, widths, mode="nearest") * remainder.conj())
        result[mode] = volume * np.exp(1j * change)
    return array_module(obj).asarray(result)


def smooth_absorption(obj: Array, sigma: Sequence[float]) -> Array:
    """Gaussian filter of the absorption -log|O|; the phase is kept (``apply_gaussian_filter_amplitude``).

    ``scipy.ndimage.gaussian_filter`` of -log max(|O|, 1e-10), mode nearest: a black pixel darkens its neighbours,
    but gives no infinity.

    Parameters
    ----------
    obj : (mode, z, Y, X) complex
    sigma : standard deviations (y, x) in px, for each slice separately; or (z, y, x) in slices and px
    """
    widths = _widths(sigma)
    host = to_host(obj)
    result = np.empty_like(host)
    for mode, volume in enumerate(host.astype(np.complex128)):
        absorption = -np.log(np.maximum(np.abs(volume), _DARK))
        result[mode] = np.exp(-gaussian_filter(absorption, widths, mode="nearest") + 1j * np.angle(volume))
    return array_module(obj).asarray(result)


def charge_flip(
    obj: Array,
    *,
    delta_phase: float,
    delta_abs: float,
    beta_phase: float,
    beta_abs: float,
    fancy_sigma: tuple[Sequence[float] | None, Sequence[float] | None] | None = None,
) -> Array:
    """Flip the sign of the weak part of phase and absorption in every slice of every mode (``do_charge_flip``).

    With phi = arg O and a = -log(|O| + 1e-10)::

        phi[phi < delta_phase max phi] *= beta_phase,   a[a < delta_abs max a] *= beta_abs,   O = exp(-a + i phi)

    Widths (s1, s2) sharpen a map before it is flipped and blur it afterwards. Both work on the spectrum of the map
    mirrored at its edges (cosine transform, q = k / 2n cycles per px), with the transfer function of the kernel
    exp(-r^2/s^2) / (pi s^2)::

        G_s(q) = exp(-pi^2 s^2 q^2),   sharpen: (1 + e) G_s1 / (G_s1^2 + e) with e = 0.01,   blur: G_s2

    The sharpening is a Wiener filter: it inverts the blur at low q (the mean is kept), amplifies at most five times,
    and tends to zero where the blur has left nothing. A width of 0 does nothing. Phases are taken from (-pi, pi].

    Charge flipping: Oszlanyi & Suto, Acta Cryst. A 60 (2004) 134.

    Parameters
    ----------
    obj : (mode, z, Y, X) complex
    delta_phase, delta_abs : threshold of "weak", as a fraction of the largest value of the slice
    beta_phase, beta_abs : factor of the weak part; -1 flips its sign, 0 removes it
    fancy_sigma : None, or (widths of the phase, widths of the absorption), each (s1, s2) in px or None
    """
    host = to_host(obj).astype(np.complex128)
    phase_widths, absorption_widths = fancy_sigma if fancy_sigma is not None else (None, None)
    phase = _flipped(np.angle(host), delta_phase, beta_phase, phase_widths)
    absorption = _flipped(-np.log(np.abs(host) + _DARK), delta_abs, beta_abs, absorption_widths)
    result = np.exp(-absorption + 1j * phase)
    return array_module(obj).asarray(result.astype(obj.dtype))


def vacuum_like(obj: Array) -> Array:
    """An object that changes no wave: ones, in the shape and precision of ``obj`` (``restart_from_vacuum``)."""
    return array_module(obj).ones_like(obj)


def _widths(sigma: Sequence[float]) -> tuple[float, float, float]:
    """Standard deviations along (z, y, x)."""
    widths = tuple(float(width) for width in sigma)
    if len(widths) not in (2, 3) or not all(width >= 0 for width in widths):
        raise ParameterError(
            f"Gaussian filter: widths {list(sigma)} given; expected 2 numbers >= 0 (y, x) in px, or 3 (z, y, x)"
        )
    return (0.0, widths[0], widths[1]) if len(widths) == 2 else (widths[0], widths[1], widths[2])


def continuous_phase(phase: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Least-squares unwrapping: a phase without jumps along ``axes``; ``phase`` itself where it has none.

    The differences of the result between neighbours approach, in the sum of squares, the differences of ``phase``
    wrapped into [-pi, pi]. It solves a Poisson equation with free edges, which the cosine transform diagonalises. Where
    ``phase`` has no vortices the result differs from it by multiples of 2 pi and a constant.

    Source: Ghiglia & Romero, J. Opt. Soc. Am. A 11 (1994) 107, without weights.

    Parameters
    ----------
    phase : (z, Y, X) rad
    axes : the axes along which the result is continuous; along the others every layer is unwrapped separately
    """
    source = np.zeros_like(phase)
    jumps = False
    for axis in axes:
        step = np.diff(phase, axis=axis)
        turns = np.round(step / (2 * np.pi))
        jumps = jumps or bool(turns.any())
        step -= 2 * np.pi * turns  # wrapped into [-pi, pi]
        # Divergence of the wrapped differences, right-hand side of the Poisson equation: n - 1 steps -> n values.
        source += np.diff(step, axis=axis, prepend=0, append=0)
    if not jumps:
        return phase
    # Eigenvalues of the second difference with free edges: 2 cos(pi k / n) - 2 along each axis.
    eigenvalue = np.zeros((1, 1, 1))
    for axis in axes:
        n = phase.shape[axis]
        shape = [-1 if other == axis else 1 for other in range(3)]
        eigenvalue = eigenvalue + (2 * np.cos(np.pi * np.arange(n) / n) - 2).reshape(shape)
    eigenvalue[eigenvalue == 0] = 1  # the mean, which is free, and 0 in the source
    return scipy.fft.idctn(scipy.fft.dctn(source, axes=axes) / eigenvalue, axes=axes)


def _flipped(maps: np.ndarray, delta: float, beta: float, widths: Sequence[float] | None) -> np.ndarray:
    """Maps (mode, z, Y, X) whose values below ``delta`` times their maximum are multiplied by ``beta``."""
    if widths is not None:
        blur = _gaussian_transfer(maps.shape[2:], widths[0])
        maps = _filtered(maps, (1 + _NOISE_TO_SIGNAL) * blur / (blur**2 + _NOISE_TO_SIGNAL))
    maps = np.where(maps < delta * maps.max(axis=(2, 3), keepdims=True), beta * maps, maps)
    return maps if widths is None else _filtered(maps, _gaussian_transfer(maps.shape[2:], widths[1]))


def _gaussian_transfer(shape: tuple[int, ...], width: float) -> np.ndarray:
    """exp(-pi^2 width^2 q^2) at the frequencies of the cosine transform, (Y, X); ``width`` in px."""
    q_y, q_x = (np.arange(n) / (2 * n) for n in shape)
    return np.exp(-((np.pi * width) ** 2) * (q_y[:, None] ** 2 + q_x[None, :] ** 2))


def _filtered(maps: np.ndarray, transfer: np.ndarray) -> np.ndarray:
    """Maps (mode, z, Y, X), mirrored at their edges, through a filter with a symmetric kernel."""
    return scipy.fft.idctn(scipy.fft.dctn(maps, axes=(2, 3)) * transfer, axes=(2, 3))


def amplitude_and_phase(obj: Array) -> tuple[Array, Array]:
    """Amplitude and unwrapped phase of an object: O = a exp(i phi), both real, in the precision of O.

    Constraints use the sign of the phase, its power or its mean over neighbours, so that 4 rad must not appear as -2.3.
    Where the phase of a slice jumps by more than pi between lateral neighbours, multiples of 2 pi are added such that
    the jumps vanish (except at vortices) and most pixels of the slice keep a phase in (-pi, pi]. A slice without jumps
    is not changed.

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
    wrapped = np.argwhere(to_host(jumps))  # (slices with jumps, 2): mode, slice
    for mode, layer in wrapped.tolist():
        phase[mode, layer] += xp.asarray(_turns(to_host(phase[mode, layer])).astype(phase.dtype))
    return abs(obj), phase


def from_amplitude_and_phase(amplitude: Array, phase: Array, dtype: object) -> Array:
    """a exp(i phi)."""
    return polar(amplitude, phase, dtype)


def _turns(phase: np.ndarray) -> np.ndarray:
    """(Y, X) multiples of 2 pi by which a layer becomes continuous; 0 for most pixels."""
    difference = continuous_phase(phase.astype(np.float64)[None], (1, 2))[0] - phase
    # The constant that least squares leaves free, from its circular mean.
    offset = np.angle(np.exp(1j * difference).mean())
    turns = np.round((difference - offset) / (2 * np.pi))
    return 2 * np.pi * (turns - np.median(turns).round())
