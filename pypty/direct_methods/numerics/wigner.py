"""Wigner distribution deconvolution (WDD).

Bates and Rodenburg, Ultramicroscopy 31 (1989) 303; Rodenburg and Bates, Phil. Trans. R. Soc. A 339 (1992) 521. With A
the spectrum of the probe, O that of the object, and the patterns transformed over the scan,

    H(Q, r) = F^-1_k G(Q, k) = W_A(Q, r) W_O(Q, r),
    W_A(Q, r) = F^-1_k [A*(k) A(k - Q)],    W_O(Q, r) = F^-1_u [O*(u) O(u + Q)],

so that a deconvolution of each Q gives W_O, whose sum over r is O*(0) O(Q).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pypty.backend.fft import Transforms
from pypty.direct_methods.numerics.scan_transform import Chunks, Pair, scan_spectra, solve_frequencies

_TAPER_FROM = 0.6


@dataclass(frozen=True)
class Deconvolution:
    """How H is divided by W_A.

    Attributes
    ----------
    eps : H W*/(eps + |W|^2), a Wiener filter
    smallest : if not None, H/W where |W| is at least this, nothing elsewhere; ``eps`` is not used
    """

    eps: float
    smallest: float | None = None


class ShiftedSpectrum:
    """A(k - Q) for any Q, also between pixels: the probe times exp(2 pi i Q.r), transformed.

    Over the outer 40 % of the window the probe, and r in the ramp, go to zero with a cosine, so that a hard edge of A
    does not ring over the detector. What is shifted past an edge of the detector does not come back at the other one:
    there it is zero.

    Parameters
    ----------
    spectrum : (ky, kx) complex A, zero frequency at n//2
    dtype : complex64 or complex128
    """

    def __init__(self, spectrum: np.ndarray, dtype: np.dtype) -> None:
        self.shape = (int(spectrum.shape[0]), int(spectrum.shape[1]))
        self.dtype = dtype
        self.spectrum = spectrum.astype(dtype)
        probe = np.fft.ifft2(np.fft.ifftshift(spectrum))
        self._ramps = []
        for axis, n in enumerate(self.shape):
            rho = np.fft.fftfreq(n)
            window = np.fft.ifftshift(_edge(np.fft.fftshift(rho)))
            factor = window * np.exp(2j * np.pi * (n // 2) * rho)  # puts the zero frequency at n//2
            probe = probe * np.expand_dims(factor, 1 - axis)
            self._ramps.append(2j * np.pi * rho * window)
        self._probe = probe.astype(dtype)

    def shifted(self, shifts_px: np.ndarray, transforms: Transforms) -> np.ndarray:
        """(m, ky, kx) A(k - Q) for ``shifts_px`` (m, 2) = Q [y, x] in pixels."""
        along_y, along_x = (
            np.exp(ramp * shifts_px[:, axis, None]).astype(self.dtype)
            for axis, ramp in enumerate(self._ramps)
        )
        out = self._probe * along_y[:, :, None]
        out *= along_x[:, None, :]
        transforms.forward(out)
        for wave, (down, right) in zip(out, np.round(shifts_px).astype(int), strict=True):
            wave[_vacated(down, self.shape[0])] = 0
            wave[:, _vacated(right, self.shape[1])] = 0
        return out


def _edge(rho: np.ndarray) -> np.ndarray:
    """1 in the middle of the window, a half period of a cosine down to 0 at its edges."""
    taper = np.ones_like(rho)
    limit = _TAPER_FROM * rho.max()
    for outer, ascending in ((rho > limit, False), (-rho > limit, True)):
        n = int(outer.sum())
        if n > 1:
            slope = 0.5 * (1 + np.cos(np.pi * np.arange(n) / (n - 1)))
            taper[outer] = slope[::-1] if ascending else slope
    return taper


def _vacated(shift: int, n: int) -> slice:
    """What a shift by whole pixels leaves empty."""
    return slice(0, min(shift, n)) if shift >= 0 else slice(max(n + shift, 0), n)


def object_spectrum(
    chunks: Callable[[], Chunks],
    scan_size: tuple[int, int],
    *,
    frequencies_px: np.ndarray,
    spectrum: np.ndarray,
    deconvolution: Deconvolution,
    largest_bytes: int = 2**30,
    n_threads: int | None = None,
) -> np.ndarray:
    """(slow, fast) complex: c O(Q) O*(0) by WDD, zero frequency first; c is one factor for all Q.

    Parameters
    ----------
    chunks : gives the patterns of the scan, once for every pass over them (:func:`scan_spectra`)
    frequencies_px : (slow, fast, 2) Q = [y, x] on the detector, pixels
    spectrum : (ky, kx) complex A of the probe, zero frequency at n//2; its type is that of the computation
    largest_bytes : for the patterns transformed over the scan
    n_threads : None = the cores of this process
    """
    aperture = ShiftedSpectrum(spectrum, spectrum.dtype)
    local = threading.local()

    def solve(patterns: np.ndarray, shifts_px: np.ndarray, opposite_px: np.ndarray) -> Pair:
        if not hasattr(local, "solver"):
            local.solver = _Solver(aperture, deconvolution)
        found: Pair = local.solver.solve(patterns, shifts_px, opposite_px)
        return found

    whole = (slice(None), slice(None))
    spectra = scan_spectra(
        chunks,
        scan_size,
        pattern_shape=aperture.shape,
        region=whole,
        dtype=spectrum.dtype,
        largest_bytes=largest_bytes,
        n_threads=n_threads,
    )
    return solve_frequencies(solve, spectra, frequencies_px, spectrum, n_threads)


class _Solver:
    """Deconvolves batches; one for each thread."""

    def __init__(self, aperture: ShiftedSpectrum, deconvolution: Deconvolution) -> None:
        self._aperture, self._how = aperture, deconvolution
        self._transforms = Transforms()
        self._scale = math.prod(aperture.shape)  # transforms here are n^2 times the inverse one

    def solve(self, patterns: np.ndarray, shifts_px: np.ndarray, opposite_px: np.ndarray) -> Pair:
        """(m,) for Q and (m,) for -Q; ``patterns`` (m, ky, kx) = G(Q, k) is overwritten."""
        self._transforms.backward(patterns)
        w = self._aperture.shifted(shifts_px, self._transforms)
        w *= np.conj(self._aperture.spectrum)
        self._transforms.backward(w)
        here = self._sum(patterns, w)
        # G(-Q) = G*(Q): with V(r) = W*(-Q, -r) the sum over r is the conjugate of that of H(Q, r) and V
        v = self._aperture.shifted(opposite_px, self._transforms)
        np.conj(v, out=v)
        v *= self._aperture.spectrum
        self._transforms.backward(v)
        return here, np.conj(self._sum(patterns, v))

    def _sum(self, h: np.ndarray, w: np.ndarray) -> np.ndarray:
        """(m,) sum over r of H divided by W; ``w`` is overwritten."""
        power = w.real**2 + w.imag**2
        if self._how.smallest is None:
            power += power.dtype.type(self._how.eps * self._scale**2)
        else:
            power[power < (self._how.smallest * self._scale) ** 2] = np.inf
        np.reciprocal(power, out=power)
        w.real *= power  # a complex division would take ten times as long
        w.imag *= power
        return np.array([np.vdot(divisor, wave) for divisor, wave in zip(w, h, strict=True)])
