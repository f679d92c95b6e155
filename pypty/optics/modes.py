"""Several incoherent probe modes made from a coherent probe.

Probes are (mode, y, x) complex, real space, centred at n//2. Intensities of modes add (docs/conventions.md): every
function here gives modes whose total power, sum |P|^2 over all modes and pixels, is that of the original probe.
The mixed state that the modes stand for: Thibault and Menzel, Nature 494 (2013) 68.

Hermite and defocus modes are a basis that the reconstruction refines. They are made from the first mode and replace
the others; if the first mode is zero, so are they. Monte-Carlo modes describe the effect of a finite source and a
focal spread on the whole beam, so they are made from all modes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pypty.errors import ParameterError
from pypty.optics import probes
from pypty.optics.grid import Grid

# Smallest standard deviation of a probe's profile: a probe one pixel wide has none to divide by.
_NARROWEST_PX = 0.5
# Modes with a norm below this fraction of the first one's are rounding errors and must not be scaled up.
_VANISHING = 1e-10


def hermite_modes(probe: np.ndarray, n_x: int, n_y: int) -> np.ndarray:
    """((n_x + 1)(n_y + 1), y, x): the first mode of ``probe`` (mode, y, x), times Hermite-like functions.

    Mode 0 is the first mode P itself. The others are P u^a v^b exp(-(u^2 + v^2)/2) for a = 0..n_x, b = 0..n_y but
    not (0, 0); a varies fastest. u = (x - x_c)/sigma_x and v = (y - y_c)/sigma_y, with the centroid and the standard
    deviation of |P|^2. All modes have the same power. They are not orthogonal, as in PyPty 2.2.

    A sigma below half a pixel is raised to half a pixel. A mode that is zero everywhere stays zero (a probe one pixel
    wide has u = 0 in that pixel), and the others share the power.
    """
    if min(n_x, n_y) < 0:
        raise ParameterError(
            f"n_hermite_probe_modes: {[n_x, n_y]} given, expected the highest orders [n_x, n_y]; give whole numbers "
            "from 0 on"
        )
    first = probe[0].astype(complex)
    intensity = np.abs(first) ** 2  # (y, x)
    u = _reduced_coordinate(intensity.sum(axis=0))[None, :]
    v = _reduced_coordinate(intensity.sum(axis=1))[:, None]
    enveloped = first * np.exp(-(u**2 + v**2) / 2)
    orders = [(a, b) for b in range(n_y + 1) for a in range(n_x + 1)]
    return _with_equal_powers(
        np.stack([first, *(enveloped * u**a * v**b for a, b in orders[1:])]), _power(probe)
    )


def defocus_spread_modes(probe: np.ndarray, grid: Grid, defoci_A: np.ndarray | Sequence[float]) -> np.ndarray:
    """(len(defoci_A), y, x): the first mode of ``probe`` (mode, y, x), propagated by each of ``defoci_A`` (Å).

    Positive is forward, the sign of C10 (:func:`pypty.optics.probes.defocus`). All modes have the same power.
    """
    if len(defoci_A) == 0:
        raise ParameterError(
            "defocus_spread_modes: no value given, expected at least one defocus in Å; give a list of defoci, or None"
        )
    first = probe[:1].astype(complex)
    modes = [probes.defocus(first, grid, float(distance))[0] for distance in defoci_A]
    return _with_equal_powers(np.stack(modes), _power(probe))


def monte_carlo_modes(
    probe: np.ndarray,
    grid: Grid,
    *,
    n_modes: int,
    n_samples: int,
    focal_spread_A: float,
    source_size_y_A: float,
    source_size_x_A: float,
    source_covariance_A2: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """(n_modes, y, x): the strongest coherent modes of ``probe`` (mode, y, x) blurred by source and focal spread.

    Sample s is the whole probe shifted by (d_y, d_x) ~ N(0, [[s_y^2, s_yx], [s_yx, s_x^2]]) and defocused by
    f ~ N(0, focal spread), all in Å. Its spectra are A_m(q) exp(-2 pi i q.d_s - i pi lambda f_s q^2). The modes are
    the left singular vectors of all spectra, U_i S_i / sqrt(n_samples), strongest first: the coherent modes of the
    sampled density matrix (Wolf, J. Opt. Soc. Am. 72 (1982) 343). They are orthogonal.

    Modes beyond n_modes are dropped; the remaining ones are scaled by one common factor to the power of ``probe``.
    Modes below the rounding error are zero: without any spread only as many remain as ``probe`` has. The phase of
    each mode is fixed: its inner product with the sample that contributes most to it is positive. Shifts are
    periodic, so the source must be small compared with the window.

    Cost: with N = n_samples times the modes of ``probe``, N^2 n_y n_x multiplications and the eigenvectors of an
    N x N matrix; 2 s on two cores for 256 samples of one mode of 512 x 512 pixels. Only one row of all spectra is
    held at a time, so the memory is about 2 N^2 + 3 N n_x + (3 n_modes + 6) n_y n_x complex numbers: with 6 modes
    this example takes less than 0.1 GiB, while all spectra would take 1 GiB.

    Parameters
    ----------
    focal_spread_A : standard deviation of the defocus
    source_size_y_A, source_size_x_A : standard deviations s_y, s_x of the source in the specimen plane
    source_covariance_A2 : s_yx, Å^2; at most s_y s_x in magnitude
    rng : source of random numbers; three normal numbers are drawn per sample
    """
    if not 1 <= n_modes <= n_samples:
        raise ParameterError(
            f"mc_n_modes: {n_modes} given, expected 1 to n_mc_samples = {n_samples}; lower mc_n_modes or raise "
            "n_mc_samples"
        )
    root = _covariance_root(source_size_y_A, source_size_x_A, source_covariance_A2)
    draws = rng.standard_normal((n_samples, 3))
    shifts = draws[:, :2] @ root.T  # (sample, 2) [y, x]
    along_y, along_x = _sample_factors(grid, shifts, focal_spread_A * draws[:, 2])
    spectra = np.fft.fft2(probe)  # (mode, ky, kx)
    # Eigenvectors of the N x N Gram matrix are the right singular vectors of all spectra; those are never stored.
    vectors = _leading_vectors(_gram_matrix(spectra, along_y, along_x), n_modes)
    modes = np.zeros((n_modes, *grid.shape), complex)
    for mode, vector in zip(modes, vectors, strict=True):
        for spectrum, weights in zip(spectra, vector.reshape(len(spectra), n_samples), strict=True):
            # Weighted sum over samples as one matrix product: (ky, sample) @ (sample, kx) -> (ky, kx)
            mode += spectrum * (along_y.T @ (weights[:, None] * along_x))
    modes = np.fft.ifft2(modes)
    power = _power(modes)
    return modes * np.sqrt(_power(probe) / power) if power > 0 else modes


def _power(modes: np.ndarray) -> float:
    return float((np.abs(modes) ** 2).sum())


def _with_equal_powers(modes: np.ndarray, power: float) -> np.ndarray:
    """Modes (mode, y, x) scaled to equal powers that add up to ``power``; modes that are zero stay zero."""
    norms = np.sqrt((np.abs(modes) ** 2).sum(axis=(1, 2)))
    alive = norms > _VANISHING * norms[0]
    share = np.sqrt(power / max(alive.sum(), 1))
    scale = np.divide(share, norms, out=np.zeros_like(norms), where=alive)
    return modes * scale[:, None, None]


def _reduced_coordinate(profile: np.ndarray) -> np.ndarray:
    """(n,): distance from the centroid of ``profile`` (n,), in units of its standard deviation."""
    position = np.arange(len(profile), dtype=float)
    total = profile.sum()
    if total == 0:
        return np.zeros_like(position)
    position -= (profile * position).sum() / total
    sigma = np.sqrt((profile * position**2).sum() / total)
    return position / max(sigma, _NARROWEST_PX)


def _covariance_root(sigma_y: float, sigma_x: float, covariance: float) -> np.ndarray:
    """(2, 2) lower triangular L with L L^T = [[s_y^2, s_yx], [s_yx, s_x^2]] (Cholesky, extended to singular ones)."""
    largest = sigma_y * sigma_x
    if abs(covariance) > largest * (1 + 1e-12):
        raise ParameterError(
            f"spatial_coh_xy: {covariance:g} Å^2 given, expected at most spatial_coh_y_A x spatial_coh_x_A = "
            f"{sigma_y:g} x {sigma_x:g} = {largest:g} Å^2 in magnitude, or no source has this covariance; lower "
            "spatial_coh_xy or enlarge the source sizes"
        )
    mixed = (
        covariance / sigma_y if largest > 0 else 0.0
    )  # a source without extent along an axis has no covariance
    return np.array([[sigma_y, 0.0], [mixed, np.sqrt(max(sigma_x**2 - mixed**2, 0.0))]])


def _sample_factors(grid: Grid, shifts_A: np.ndarray, defoci_A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factors (sample, ky) and (sample, kx), zero frequency first, of the transfer function of each sample.

    exp(-2 pi i q.d - i pi lambda f q^2) is a function of q_y times a function of q_x, so that no (sample, ky, kx) is
    ever needed. Shifts (sample, 2) are [y, x].
    """
    along_y, along_x = (
        np.exp(-2j * np.pi * q * shift[:, None] - 1j * np.pi * grid.wavelength * q**2 * defoci_A[:, None])
        for q, shift in zip((grid.qy.ravel(), grid.qx.ravel()), shifts_A.T, strict=True)
    )
    return along_y, along_x


def _gram_matrix(spectra: np.ndarray, along_y: np.ndarray, along_x: np.ndarray) -> np.ndarray:
    """(N, N) inner products of the spectra of all samples, N = mode x sample with the sample varying fastest.

    Rows and columns of ``spectra`` (mode, ky, kx) with less power than the rounding error of the total are skipped.
    """
    intensity = (np.abs(spectra) ** 2).sum(axis=0)
    least = np.finfo(float).eps * intensity.sum()
    rows = np.flatnonzero(intensity.sum(axis=1) > least)
    columns = np.flatnonzero(intensity.sum(axis=0) > least)
    size = len(spectra) * len(along_y)
    gram = np.zeros((size, size), complex)
    factors = along_x[:, columns]
    for y in rows:
        # (mode, 1, kx) * (sample, kx) -> (mode, sample, kx): one row of the spectra of all samples
        samples = spectra[:, y, columns][:, None, :] * (along_y[:, y, None] * factors)
        samples = samples.reshape(size, len(columns))  # (mode, sample, kx) -> (N, kx)
        gram += samples.conj() @ samples.T
    return gram


def _leading_vectors(gram: np.ndarray, n_vectors: int) -> np.ndarray:
    """(n_vectors, N) eigenvectors with the largest eigenvalues first; zero where these are rounding errors.

    The largest component of each is positive.
    """
    values, columns = np.linalg.eigh(gram)  # ascending
    vectors = columns.T[::-1][:n_vectors]  # (N, N) columns -> (n_vectors, N) rows, largest eigenvalue first
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=1)[:, None], axis=1)
    vectors = vectors * (largest.conj() / np.abs(largest))
    significant = values[::-1][:n_vectors] > len(values) * np.finfo(float).eps * values[-1]
    return vectors * significant[:, None]
