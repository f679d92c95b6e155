"""NumPy versions of the CUDA kernels: each function defines the kernel of the same name.

Waves of the split kernels (waves.cu) are in a mixed domain: (B, P, O, y, columns) with y in real space and kx in
reciprocal space, zero frequency first. Only the ``columns`` frequencies of smallest |kx| are stored; the others are
zero. All transforms are unnormalised. Gradients are dL/dRe + i dL/dIm. Arrays keep their precision; tests use
complex128.
"""

from __future__ import annotations

import numpy as np


def column_indices(n: int, columns: int) -> np.ndarray:
    """(columns,) index of the frequency that each stored column holds: 0, 1, ..., -2, -1."""
    low = (columns + 1) // 2
    return np.concatenate([np.arange(low), np.arange(n - (columns - low), n)])


def all_columns(wave: np.ndarray) -> np.ndarray:
    """(..., n, columns) -> (..., n, n) with zeros where nothing is stored."""
    n, columns = wave.shape[-2:]
    full = np.zeros((*wave.shape[:-1], n), wave.dtype)
    full[..., column_indices(n, columns)] = wave
    return full


def scatter(gradient: np.ndarray, crop_origins: np.ndarray, values: np.ndarray) -> None:
    """Add the patches ``values`` (B, y, x) to ``gradient`` (Y, X) at their crop origins, in place."""
    ny, nx = values.shape[1:]
    for (y, x), value in zip(crop_origins, values, strict=True):
        gradient[y : y + ny, x : x + nx] += value


def shift_ramps(n: int, shift: np.ndarray) -> np.ndarray:
    """(B, 2, n) exp(-2 pi i k d/n) along y and x, for d = shift (B, 2) pixels [y, x]."""
    return np.exp(-2j * np.pi * shift[:, :, None] * np.fft.fftfreq(n))


def shifts(n: int, ramps: np.ndarray | None) -> np.ndarray:
    """(B or 1, 1, n, n): the product of the ramps (B, 2, n) along y and x; 1 where there are none."""
    if ramps is None:
        return np.ones((1, 1, n, n))
    return (ramps[:, 0, :, None] * ramps[:, 1, None, :])[:, None]


def probe_forward(spectrum: np.ndarray, ramps: np.ndarray | None, columns: int) -> np.ndarray:
    """The shifted probe in the mixed domain; ``spectrum`` (P, n, n) carries 1/n^2 and the band limit."""
    n = spectrum.shape[-1]
    # n cancels the 1/n of NumPy's inverse transform; so in all functions here. (P, ky, kx) -> (B, P, 1, y, kx)
    wave = n * np.fft.ifft(spectrum * shifts(n, ramps), axis=-2)[:, :, None]
    return wave[..., column_indices(n, columns)]


def row_forward(
    wave: np.ndarray, obj: np.ndarray, s: int, crop_origins: np.ndarray, columns_after: int
) -> np.ndarray:
    """Transmission by slice s: the wave behind it in the mixed domain, (B, P, O, y, columns_after)."""
    n = wave.shape[-2]
    incoming = n * np.fft.ifft(
        all_columns(wave), axis=-1
    )  # (B, P, 1 or O, y, columns) -> (B, P, 1 or O, y, x)
    after = np.fft.fft(incoming * seen(obj, s, crop_origins, (n, n)), axis=-1)
    return after[..., column_indices(n, columns_after)]


def propagator(
    factor: np.ndarray, columns: int, ramps: np.ndarray | None, conjugate: bool = False
) -> np.ndarray:
    """(B or 1, 1, 1, ky, columns): what multiplies the stored columns of a spectrum."""
    n = len(factor)
    h = (factor * shifts(n, ramps))[..., column_indices(n, columns)][:, :, None]
    return h.conj() if conjugate else h


def propagate(
    wave: np.ndarray, factor: np.ndarray, conjugate: bool, ramps: np.ndarray | None = None
) -> np.ndarray:
    """Propagation by ``factor`` (n, n), which carries 1/n^2, and by ramps (B, 2, n); or by their complex conjugate."""
    n, columns = wave.shape[-2:]
    return n * np.fft.ifft(np.fft.fft(wave, axis=-2) * propagator(factor, columns, ramps, conjugate), axis=-2)


def propagate_adjoint(
    wave: np.ndarray,
    after: np.ndarray,
    factor: np.ndarray,
    rate: np.ndarray,
    ramps: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Adjoint of :func:`propagate`, which has led to ``after``, and the slopes (B, 3) of r, ky and kx.

    They are the sums over modes and frequencies of r s, ky s and kx s with s = Im(conj(F[wave]) F[after]) and the
    rate r (n, n).
    """
    n, columns = wave.shape[-2:]
    stored, k = column_indices(n, columns), np.fft.fftfreq(n, 1 / n)
    spectra = np.fft.fft(wave, axis=-2), np.fft.fft(after, axis=-2)
    slope = (spectra[0].conj() * spectra[1]).imag.sum(axis=(1, 2))  # (B, ky, columns)
    sums = [(slope * factor_).sum(axis=(1, 2)) for factor_ in (rate[:, stored], k[:, None], k[stored])]
    return propagate(wave, factor, True, ramps), np.stack(sums, axis=1)


def detector_forward(
    wave: np.ndarray, mask: np.ndarray | None, weights: np.ndarray | None = None
) -> np.ndarray:
    """(B, n, n): M times the sum over modes of w |F[wave]|^2, zero frequency first; w (O,)."""
    # (B, P, O, y, columns) -> (B, P, O, ky, kx) -> (B, ky, kx)
    squares = np.abs(np.fft.fft(all_columns(wave), axis=-2)) ** 2 * _of_modes(weights)
    intensity = squares.sum(axis=(1, 2))
    return intensity if mask is None else intensity * mask


def detector_adjoint(
    wave: np.ndarray, slope: np.ndarray, mask: np.ndarray | None, weights: np.ndarray | None = None
) -> np.ndarray:
    """The gradient in the mixed domain: F*[2 w slope M F[wave]], slope = dL/dI (B, n, n)."""
    n, columns = wave.shape[-2:]
    factor = 2 * (slope if mask is None else slope * mask)[:, None, None] * _of_modes(weights)
    gradient = n * np.fft.ifft(np.fft.fft(all_columns(wave), axis=-2) * factor, axis=-2)
    return gradient[..., column_indices(n, columns)]


def _of_modes(weights: np.ndarray | None) -> np.ndarray:
    """Weights of object modes, for waves (B, P, O, y, x)."""
    return np.ones((1, 1, 1)) if weights is None else weights[:, None, None]


def row_adjoint(
    wave: np.ndarray,
    before: np.ndarray,
    obj: np.ndarray,
    s: int,
    crop_origins: np.ndarray,
    columns_before: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Adjoint of :func:`row_forward`: gradients of the wave before a slice (mixed domain, one for each object mode)
    and of patches (B, O, n, n). ``before`` is the wave that entered the slice."""
    n = wave.shape[-2]
    gradient = n * np.fft.ifft(all_columns(wave), axis=-1)  # (B, P, O, y, x)
    incoming = n * np.fft.ifft(all_columns(before), axis=-1)
    window_gradient = (incoming.conj() * gradient).sum(axis=1)  # (B, O, y, x): probe modes share the patch
    leaving = np.fft.fft(gradient * seen(obj, s, crop_origins, (n, n)).conj(), axis=-1)
    return leaving[..., column_indices(n, columns_before)], window_gradient


def probe_adjoint(
    wave: np.ndarray, spectrum: np.ndarray, ramps: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Adjoint of :func:`probe_forward`, for the spectrum and for the shifts.

    With G = conj(ramp) F[wave] summed over object modes, returns the sum of G over patterns (P, n, columns), and the
    sums over k and modes of k Im(conj(G) spectrum), (B, 2) [y, x].
    """
    n, columns = wave.shape[-2:]
    stored = column_indices(n, columns)
    # (B, P, O, y, columns) -> (B, P, ky, columns)
    gradient = np.fft.fft(wave.sum(axis=2), axis=-2) * shifts(n, ramps)[..., stored].conj()
    product = (gradient.conj() * spectrum[..., stored]).imag.sum(axis=1)  # (B, ky, columns)
    k = np.fft.fftfreq(n, 1 / n)
    along = (product * k[:, None]).sum(axis=(1, 2)), (product * k[stored]).sum(axis=(1, 2))
    return gradient.sum(axis=0), np.stack(along, axis=1)


def add_spectra(spectrum_parts: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """The sum of parts (groups, P, n, columns), added to a gradient (P, n, n)."""
    return gradient + all_columns(spectrum_parts.sum(axis=0))


def add_shifts(shift_parts: np.ndarray, index: np.ndarray, gradient: np.ndarray, n: int) -> np.ndarray:
    """2 pi/n times the sums of parts (B, parts, 2), added to rows of a gradient (N, 2)."""
    out = gradient.copy()
    out[index] += 2 * np.pi / n * shift_parts.sum(axis=1)
    return out


def add_slopes(
    sums: np.ndarray,
    index: np.ndarray,
    tilts: np.ndarray,
    distances: np.ndarray,
    units: tuple[float, float],
    n: int,
) -> tuple[np.ndarray, np.ndarray]:
    """What slopes (gaps, B, 3) add to the gradients of distances and tilts (:meth:`Propagation.add_gradients`)."""
    to_distances, to_tilts = np.zeros(len(distances)), np.zeros(tilts.shape)
    rows = index if len(tilts) > 1 else np.zeros(len(index), int)
    for gap, (rate, ky, kx) in enumerate(np.moveaxis(sums, 2, 1)):
        own = min(gap, len(distances) - 1)
        along = np.stack([units[0] * ky, units[1] * kx], axis=1) / n  # (B, 2)
        to_distances[own] += (-rate / n + (tilts[rows, 2:4] * along).sum(axis=1)).sum()
        np.add.at(to_tilts[:, 2:4], rows, distances[own] * along)
    return to_distances, to_tilts


# ---- operations between two-dimensional transforms: waves (B, P, O, y, x), objects (O, z, Y, X)


def seen(obj: np.ndarray, s: int, crop_origins: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(B, 1, O, y, x): the patches of slice s at the crop origins ``crop_origins``."""
    ny, nx = shape
    return np.stack([obj[:, s, y : y + ny, x : x + nx] for y, x in crop_origins])[:, None]


def transmit(wave: np.ndarray, obj: np.ndarray, s: int, crop_origins: np.ndarray, out: np.ndarray) -> None:
    """out = wave times the patch of each pattern."""
    np.multiply(wave, seen(obj, s, crop_origins, out.shape[-2:]), out=out)


def transmit_back(
    wave: np.ndarray,
    before: np.ndarray,
    obj: np.ndarray,
    s: int,
    crop_origins: np.ndarray,
    gradient: np.ndarray | None = None,
    parts: np.ndarray | None = None,
) -> None:
    """Adjoint of :func:`transmit` for a conjugated gradient ``wave``: first the patches, then the wave.

    conj(sum over probe modes of before wave) is added to ``gradient`` or written to ``parts``; then wave *= patch.
    """
    sums = (before * wave).sum(axis=1).conj()  # (B, O, y, x)
    if parts is not None:
        parts[...] = sums
    elif gradient is not None:
        for o in range(len(gradient)):
            scatter(gradient[o, s], crop_origins, sums[:, o])
    wave *= seen(obj, s, crop_origins, wave.shape[-2:])


def ramp(ramps: np.ndarray, ny: int) -> np.ndarray:
    """The product (B, 1, 1, y, x) of the ramps along y and along x, which are stored as (B, ny + nx)."""
    return (ramps[:, :ny, None] * ramps[:, None, ny:])[:, None, None]


def multiply_spectrum(wave: np.ndarray, factor: np.ndarray | None, ramps: np.ndarray | None = None) -> None:
    """wave *= factor (y, x) and ramps."""
    if factor is not None:
        wave *= factor
    if ramps is not None:
        wave *= ramp(ramps, wave.shape[-2])


def shift_probe(spectrum: np.ndarray, ramps: np.ndarray, out: np.ndarray) -> None:
    """out (B, P, 1, y, x) = spectrum (P, y, x) times ramps."""
    np.multiply(spectrum[None, :, None], ramp(ramps, out.shape[-2]), out=out)


def sum_abs2(
    wave: np.ndarray, mask: np.ndarray | None, out: np.ndarray, weights: np.ndarray | None = None
) -> None:
    """out (B, y, x) = M times the sum over modes of w |wave|^2, w (O,)."""
    squares = (wave.real**2 + wave.imag**2) * (1 if weights is None else weights[:, None, None])
    out[...] = squares.sum(axis=(1, 2)) * (1 if mask is None else mask)


def conjugate_times(
    wave: np.ndarray, slope: np.ndarray, mask: np.ndarray | None, weights: np.ndarray | None = None
) -> None:
    """wave = 2 M w slope conj(wave), w (O,)."""
    np.conjugate(wave, out=wave)
    wave *= (2 * slope if mask is None else 2 * slope * mask)[:, None, None]
    wave *= 1 if weights is None else weights[:, None, None]


def imaginary_sum(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """out (B, y, x) = sum over modes of Im(a b)."""
    out[...] = (a * b).imag.sum(axis=(1, 2))


def position_ramps(
    positions: np.ndarray, index: np.ndarray, crop_origins: np.ndarray, frequencies: np.ndarray, ny: int
) -> np.ndarray:
    """exp(-2 pi i f.d), (B, ny + nx), d = position - crop origin: the output of the kernel shift_ramps."""
    offset = (positions if len(positions) == 1 else positions[index]) - crop_origins  # (B, 2) pixels
    distance = np.repeat(offset, [ny, len(frequencies) - ny], axis=1)
    return np.exp(-2j * np.pi * frequencies * distance)


def tilt_ramps(
    tilts: np.ndarray, index: np.ndarray, distances: np.ndarray, frequencies: np.ndarray, ny: int, gaps: int
) -> np.ndarray:
    """exp(-2 pi i z q.t), (gaps, B, ny + nx), of the inside tilts t of ``tilts`` (N or 1, 6)."""
    inside = (np.repeat(tilts, len(index), axis=0) if len(tilts) == 1 else tilts[index])[:, 2:4]
    shift = np.repeat(inside, [ny, len(frequencies) - ny], axis=1)  # (B, ny + nx)
    z = distances[np.minimum(np.arange(gaps), len(distances) - 1)]
    return np.exp(-2j * np.pi * frequencies * shift * z[:, None, None])


def matrix_along_y(matrix: np.ndarray, patterns: np.ndarray, out: np.ndarray) -> None:
    """out (B, my, nx) = matrix (my, ny) times patterns (B, ny, nx)."""
    out[...] = matrix @ patterns


def matrix_along_x(transposed: np.ndarray, patterns: np.ndarray, out: np.ndarray) -> None:
    """out (B, ny, mx) = patterns (B, ny, nx) times a transposed matrix (nx, mx)."""
    out[...] = patterns @ transposed
