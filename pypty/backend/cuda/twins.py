"""What the CUDA kernels compute, in NumPy: a function here is the definition of the kernel of the same name.

Waves of the split kernels (waves.cu) are in the mixed domain: (B, P, y, columns), y in real space, kx in reciprocal
space, zero frequency first, only the ``columns`` frequencies of smallest |kx|; the others are zero. All transforms are
unnormalised. Gradients are dL/dRe + i dL/dIm. Arrays keep their precision; the tests use complex128.
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


def windows(obj_slice: np.ndarray, corners: np.ndarray, n: tuple[int, int]) -> np.ndarray:
    """(B, 1, y, x): what each pattern sees of a slice (Y, X)."""
    return np.stack([obj_slice[y : y + n[0], x : x + n[1]] for y, x in corners])[:, None]


def scatter(gradient: np.ndarray, corners: np.ndarray, values: np.ndarray) -> None:
    """Add (B, y, x) ``values`` to their windows of ``gradient`` (Y, X), in place."""
    ny, nx = values.shape[1:]
    for (y, x), value in zip(corners, values, strict=True):
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
    wave = n * np.fft.ifft(spectrum * shifts(n, ramps), axis=-2)
    return wave[..., column_indices(n, columns)]


def row_forward(
    wave: np.ndarray, obj_slice: np.ndarray, corners: np.ndarray, columns_out: int
) -> tuple[np.ndarray, np.ndarray]:
    """Through a slice: the wave after it in the mixed domain, and the wave entering it (B, P, n, n) in real space."""
    n = wave.shape[-2]
    incoming = n * np.fft.ifft(all_columns(wave), axis=-1)
    after = np.fft.fft(incoming * windows(obj_slice, corners, (n, n)), axis=-1)
    return after[..., column_indices(n, columns_out)], incoming


def propagate(wave: np.ndarray, factor: np.ndarray, conjugate: bool) -> np.ndarray:
    """Propagation by ``factor`` (n, n), which carries 1/n^2, or by its complex conjugate."""
    n, columns = wave.shape[-2:]
    chosen = factor[:, column_indices(n, columns)]
    return n * np.fft.ifft(np.fft.fft(wave, axis=-2) * (chosen.conj() if conjugate else chosen), axis=-2)


def detector_forward(wave: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """(B, n, n): M times the sum over modes of |F[wave]|^2, zero frequency first."""
    intensity = (np.abs(np.fft.fft(all_columns(wave), axis=-2)) ** 2).sum(axis=1)
    return intensity if mask is None else intensity * mask


def detector_adjoint(wave: np.ndarray, slope: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The gradient in the mixed domain: F*[2 slope M F[wave]], slope = dL/dI (B, n, n)."""
    n, columns = wave.shape[-2:]
    weight = 2 * (slope if mask is None else slope * mask)[:, None]
    gradient = n * np.fft.ifft(np.fft.fft(all_columns(wave), axis=-2) * weight, axis=-2)
    return gradient[..., column_indices(n, columns)]


def row_adjoint(
    wave: np.ndarray, incoming: np.ndarray, obj_slice: np.ndarray, corners: np.ndarray, columns_out: int
) -> tuple[np.ndarray, np.ndarray]:
    """Back through a slice: the gradient before it in the mixed domain, and (B, n, n) those of the windows."""
    n = wave.shape[-2]
    gradient = n * np.fft.ifft(all_columns(wave), axis=-1)
    window_gradient = (incoming.conj() * gradient).sum(axis=1)
    before = np.fft.fft(gradient * windows(obj_slice, corners, (n, n)).conj(), axis=-1)
    return before[..., column_indices(n, columns_out)], window_gradient


def probe_adjoint(
    wave: np.ndarray, spectrum: np.ndarray, ramps: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """(P, n, columns) sum over patterns of conj(ramp) F[wave], and (B, 2) sum of k Im(conj(that) spectrum), [y, x]."""
    n, columns = wave.shape[-2:]
    chosen = column_indices(n, columns)
    gradient = np.fft.fft(wave, axis=-2) * shifts(n, ramps)[..., chosen].conj()
    product = (gradient.conj() * spectrum[..., chosen]).imag.sum(axis=1)
    k = np.fft.fftfreq(n, 1 / n)
    along = (product * k[:, None]).sum(axis=(1, 2)), (product * k[chosen]).sum(axis=(1, 2))
    return gradient.sum(axis=0), np.stack(along, axis=1)


def fixed_scatter(window_gradient: np.ndarray, corners: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The sum (Y, X) of (B, n, n) window gradients."""
    out = np.zeros(shape, window_gradient.dtype)
    scatter(out, corners, window_gradient)
    return out


def fixed_add(total: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """The sums of :func:`fixed_scatter` added to a gradient (Y, X)."""
    return gradient + total


def transmit(wave: np.ndarray, obj_slice: np.ndarray, corners: np.ndarray, out: np.ndarray) -> None:
    """out = wave (B, P, y, x) times the window of each pattern."""
    np.multiply(wave, windows(obj_slice, corners, wave.shape[-2:]), out=out)


def adjoint_transmit(
    grad: np.ndarray,
    incoming: np.ndarray,
    obj_slice: np.ndarray,
    corners: np.ndarray,
    gradient: np.ndarray | None,
) -> None:
    """gradient (Y, X) += sum over modes of conj(incoming) grad, in each window; grad *= conj(window). In place."""
    if gradient is not None:
        scatter(gradient, corners, (incoming.conj() * grad).sum(axis=1))
    grad *= windows(obj_slice, corners, grad.shape[-2:]).conj()


def multiply_spectrum(wave: np.ndarray, factor: np.ndarray, conjugate: bool) -> None:
    """wave (..., y, x) *= factor (y, x), or its complex conjugate."""
    wave *= factor.conj() if conjugate else factor


def sum_abs2(wave: np.ndarray, out: np.ndarray) -> None:
    """out (B, y, x) = sum over modes of |wave|^2, wave (B, P, y, x)."""
    out[...] = (wave.real**2 + wave.imag**2).sum(axis=1)


def scale_by_slope(wave: np.ndarray, slope: np.ndarray, mask: np.ndarray | None) -> None:
    """wave (B, P, y, x) *= 2 slope M, slope (B, y, x)."""
    wave *= (2 * slope if mask is None else 2 * slope * mask)[:, None]
