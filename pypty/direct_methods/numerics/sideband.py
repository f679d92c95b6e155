"""Single-sideband ptychography of weak objects.

Rodenburg, McCallum and Nellist, Ultramicroscopy 48 (1993) 304; Pennycook et al., Ultramicroscopy 151 (2015) 160. Where
the direct disk overlaps only the one scattered by Q (and not that scattered by -Q), the patterns transformed over the
scan are, to first order in the scattered waves,

    G(Q, k) = A*(k) A(k - Q) O*(0) O(Q),

so that a least-squares fit over these pixels gives O(Q), amplitude and phase, whatever the aberrations in A.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pypty.backend.fft import Transforms
from pypty.direct_methods.numerics.scan_transform import Chunks, Pair, scan_spectra, solve_frequencies
from pypty.direct_methods.numerics.wigner import ShiftedSpectrum


def bounding_box(mask: np.ndarray) -> tuple[slice, slice]:
    """The smallest rectangle (ky, kx) with every pixel of ``mask`` that is not zero."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def sideband_spectrum(
    chunks: Callable[[], Chunks],
    scan_size: tuple[int, int],
    *,
    frequencies_px: np.ndarray,
    spectrum: np.ndarray,
    eps: float,
    largest_bytes: int = 2**30,
    n_threads: int | None = None,
) -> np.ndarray:
    """(slow, fast) complex: O(Q) O*(0), zero frequency first; Q without such an overlap are 0.

    O(Q) = sum_k G B* / (sum_k |B|^2 + eps S), B = A*(k) A(k - Q), S = sum_k |A|^4, k over the double overlap.

    Parameters
    ----------
    chunks : gives the patterns of the scan, once for every pass over them (:func:`scan_spectra`)
    frequencies_px : (slow, fast, 2) Q = [y, x] on the detector, pixels
    spectrum : (ky, kx) complex A of the probe, 0 outside the aperture, zero frequency at n//2
    eps : damps frequencies whose overlap is a small fraction of the disk
    """
    # double overlaps lie inside the direct disk: no other pixel is needed
    region = bounding_box(spectrum != 0)
    moved = ShiftedSpectrum(spectrum, spectrum.dtype)
    part = (slice(None), *region)

    def solve(patterns: np.ndarray, shifts_px: np.ndarray, opposite_px: np.ndarray) -> Pair:
        transforms = Transforms()
        ahead = moved.shifted(shifts_px, transforms)[part]
        behind = moved.shifted(opposite_px, transforms)[part]
        # Q = 0: both disks coincide with the direct one, no overlap is double
        central = (shifts_px == 0).all(axis=1)
        here = _fit(patterns, disk=spectrum[region], ahead=ahead, behind=behind, central=central, eps=eps)
        # G(-Q, k) = G*(Q, k): real patterns
        return here, _fit(
            np.conj(patterns), disk=spectrum[region], ahead=behind, behind=ahead, central=central, eps=eps
        )

    spectra = scan_spectra(
        chunks,
        scan_size,
        pattern_shape=moved.shape,
        region=region,
        dtype=spectrum.dtype,
        largest_bytes=largest_bytes,
        n_threads=n_threads,
    )
    return solve_frequencies(solve, spectra, frequencies_px, spectrum, n_threads)


def _fit(
    patterns: np.ndarray,
    *,
    disk: np.ndarray,
    ahead: np.ndarray,
    behind: np.ndarray,
    central: np.ndarray,
    eps: float,
) -> np.ndarray:
    """(m,) for A(k - Q) = ``ahead`` and A(k + Q) = ``behind``, (m, ky, kx); at the ``central`` Q = 0 over the whole
    disk."""
    # half height: a shift between pixels makes the rim of the shifted disk soft
    edge = 0.5 * np.abs(disk).max()
    used = (disk != 0) & (np.abs(ahead) > edge) & ((np.abs(behind) <= edge) | central[:, None, None])
    product = np.where(used, np.conj(disk) * ahead, 0)
    # (m, ky, kx) -> (m,)
    power = (product.real**2 + product.imag**2).sum(axis=(1, 2))
    projection = (patterns * np.conj(product)).sum(axis=(1, 2))
    return projection / (power + eps * (np.abs(disk) ** 4).sum())
