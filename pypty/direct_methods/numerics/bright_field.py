"""Images formed by the pixels of the bright-field disk, and their shifts.

By reciprocity the image that a bright-field pixel forms during the scan is a bright-field image under tilted
illumination. Aberrations chi shift it by grad chi(k) / (2 pi) (Nellist, McCallum & Rodenburg, Nature 374 (1995) 630;
Spoth et al., Microsc. Microanal. 23 (2017) S466).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.ndimage
import scipy.sparse

from pypty.errors import ParameterError
from pypty.optics.aberrations import krivanek_orders
from pypty.optics.scan_grid import rotation_yx

Chunks = Iterable[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Detectors:
    """Groups of detector pixels, each of which forms an image.

    Attributes
    ----------
    sums : (ky * kx, D) sparse; column d holds the weights of the pixels of detector d
    k_1A : (D, 2) centre [y, x] of each, 1/Å, from pixel n//2
    """

    sums: scipy.sparse.csr_matrix
    k_1A: np.ndarray

    def __len__(self) -> int:
        return len(self.k_1A)

    @property
    def weights(self) -> np.ndarray:
        """(D,) sum of the weights of each detector."""
        return np.asarray(self.sums.sum(axis=0)).ravel()

    def part(self, columns: slice | np.ndarray) -> Detectors:
        """A subset of the detectors."""
        return Detectors(self.sums[:, columns].tocsr(), self.k_1A[columns])

    def blurred(self, shape: tuple[int, ...], sigma_px: float) -> Detectors:
        """Each detector blurred by a Gaussian, as if the patterns (ky, kx) were blurred; the centres stay."""
        columns = [
            scipy.sparse.csr_matrix(
                scipy.ndimage.gaussian_filter(
                    column.reshape(shape), sigma_px, mode="constant", truncate=3
                ).ravel()
            )
            for column in self.sums.T.toarray()
        ]
        return Detectors(scipy.sparse.vstack(columns).T.tocsr(), self.k_1A)


@dataclass(frozen=True)
class BrightField:
    """Images of detectors, (D, sy, sx) float32 counts, and their detectors."""

    images: np.ndarray
    detectors: Detectors


def binned_detectors(aperture: np.ndarray, pixel_1A: tuple[float, float], binning: int = 1) -> Detectors:
    """Squares of ``binning`` x ``binning`` pixels inside the bright-field disk.

    A square at the rim of the disk consists of its pixels inside, with their centre of gravity. With a binning above 1,
    squares less than half full are left out.

    Parameters
    ----------
    aperture : (ky, kx) bool, the bright-field disk
    pixel_1A : (ky, kx) size of a pixel, 1/Å

    Raises
    ------
    ParameterError
        The disk is empty, or nothing is left after binning.
    """
    if binning < 1 or binning != int(binning):
        raise ParameterError(f"binning of detector pixels is {binning!r}, expected a whole number from 1")
    rows, columns = np.nonzero(aperture)
    if not len(rows):
        raise ParameterError(
            "the aperture has no bright-field pixel; check aperture_mask or conv_semiangle_mrad"
        )
    ny, nx = aperture.shape
    # (2, pixels) indices of squares; one square is centred at the zero frequency
    squares = np.stack(
        [(rows - ny // 2 + binning // 2) // binning, (columns - nx // 2 + binning // 2) // binning]
    )
    _, group, size = np.unique(squares, axis=1, return_inverse=True, return_counts=True)
    full_enough = size * 2 >= binning**2
    if not full_enough.any():
        raise ParameterError(f"no {binning} x {binning} square fits the bright-field disk; lower the binning")
    number = np.cumsum(full_enough) - 1  # old to new numbers of the squares that are kept
    group = group.ravel()
    inside = full_enough[group]
    pixels, group = (rows * nx + columns)[inside], number[group[inside]]
    sums = scipy.sparse.csr_matrix(
        (np.ones(len(pixels), np.float32), (pixels, group)), (ny * nx, int(group.max()) + 1)
    )
    return Detectors(sums, _centres(sums, aperture.shape, pixel_1A))


def virtual_detectors(
    masks: np.ndarray, pixel_1A: tuple[float, float], aperture: np.ndarray | None = None
) -> Detectors:
    """Virtual detectors, each a channel of the data, at the centres of gravity of their masks.

    Parameters
    ----------
    masks : (D, ky, kx)
    aperture : (ky, kx) bool; detectors with less than half of their weight inside are left out. None keeps all

    Raises
    ------
    ParameterError
        A mask is empty, or none lies in the aperture.
    """
    # (D, ky, kx) -> (D, ky kx)
    flat = np.abs(np.asarray(masks, float)).reshape(len(masks), -1)
    if not (flat.sum(axis=1) > 0).all():
        raise ParameterError(f"mask {int(np.argmin(flat.sum(axis=1)))} of the virtual detectors is empty")
    k = _centres(scipy.sparse.csr_matrix(flat.T), masks.shape[1:], pixel_1A)
    # The data are sums over the masks already: each channel is its detector.
    all_channels = Detectors(scipy.sparse.identity(len(k), np.float32, "csr"), k)
    if aperture is None:
        return all_channels
    share = flat[:, aperture.ravel()].sum(axis=1) / flat.sum(axis=1)
    if not (share > 0.5).any():
        raise ParameterError(
            "no virtual detector lies in the bright-field disk; check masks and aperture_mask"
        )
    return all_channels.part(np.flatnonzero(share > 0.5))


def _centres(
    sums: scipy.sparse.csr_matrix, shape: tuple[int, ...], pixel_1A: tuple[float, float]
) -> np.ndarray:
    # (ky kx, 2) pixel coordinates from n//2
    index = np.stack(np.unravel_index(np.arange(sums.shape[0]), shape), axis=1) - np.array(shape) // 2
    weights = np.asarray(sums.sum(axis=0)).ravel()
    return (sums.T @ (index * np.asarray(pixel_1A))) / weights[:, None]


def collect(chunks: Chunks, detectors: Detectors, scan_size: tuple[int, int]) -> BrightField:
    """Sum patterns over each detector, in one pass over the data.

    Parameters
    ----------
    chunks : (indices, patterns (n, ky, kx))
    """
    images = np.empty((len(detectors), scan_size[0] * scan_size[1]), np.float32)
    # Select the used pixels first: that is much faster than a sparse product with all of them.
    used = np.unique(
        detectors.sums.indices if detectors.sums.format == "csc" else detectors.sums.nonzero()[0]
    )
    # Single pixels with weight 1 need no product at all.
    one_each = detectors.sums.nnz == len(used) == len(detectors) and bool((detectors.sums.data == 1).all())
    pixels = detectors.sums.tocsc().indices if one_each else used
    reduced = None if one_each else detectors.sums[used].T.tocsr()
    for indices, patterns in chunks:
        chosen = patterns.reshape(len(patterns), -1)[:, pixels]  # (n, ky, kx) -> (n, used pixels)
        images[:, indices] = chosen.T if reduced is None else reduced @ np.ascontiguousarray(chosen.T)
    return BrightField(images.reshape(len(detectors), *scan_size), detectors)


def in_groups(
    open_chunks: Callable[[], Chunks], detectors: Detectors, scan_size: tuple[int, int], largest_bytes: int
) -> Iterator[BrightField]:
    """:func:`collect` for as many detectors at a time as fit ``largest_bytes``; each group reads the data once."""
    # bytes of a float32 image
    per_image = 4 * scan_size[0] * scan_size[1]
    step = max(1, int(largest_bytes) // per_image)
    for start in range(0, len(detectors), step):
        yield collect(open_chunks(), detectors.part(slice(start, start + step)), scan_size)


def subscan_chunks(
    open_chunks: Callable[[], Chunks], scan_size: tuple[int, int], region: Sequence[int] | None
) -> tuple[Callable[[], Chunks], tuple[int, int]]:
    """Patterns of a rectangle (top, left, bottom, right) of the scan, renumbered, and its size; None = the whole scan.

    Raises
    ------
    ParameterError
        The rectangle is not inside the scan.
    """
    rows, columns = scan_size
    if region is None:
        return open_chunks, scan_size
    top, left, bottom, right = (int(edge) for edge in region)
    if not (0 <= top < bottom <= rows and 0 <= left < right <= columns):
        raise ParameterError(
            f"subscan_region {tuple(region)} is not a part (top, left, bottom, right) of a scan of {rows} x {columns}"
        )

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for indices, data in open_chunks():
            y, x = np.divmod(indices, columns)
            inside = (y >= top) & (y < bottom) & (x >= left) & (x < right)
            if inside.any():
                yield ((y - top) * (right - left) + x - left)[inside], data[inside]

    return chunks, (bottom - top, right - left)


def gradient_basis(k_1A: np.ndarray, n_terms: int, wavelength: float) -> np.ndarray:
    """(n_terms, ..., 2): grad_k B / (2 pi), the shift [y, x] in Å for 1 Å of each aberration.

    B = (2 pi/lambda) a^(n+1)/(n+1) {1, cos m phi, sin m phi}, a = lambda k (``pypty.optics.aberrations``). The radial
    component is a^n cos(m phi), the azimuthal one -m/(n+1) a^n sin(m phi).
    """
    ky, kx = k_1A[..., 0], k_1A[..., 1]
    angle, azimuth = wavelength * np.hypot(ky, kx), np.arctan2(ky, kx)
    cosine, sine = np.cos(azimuth), np.sin(azimuth)
    basis = np.empty((n_terms, *k_1A.shape))
    for out, (n, m, kind) in zip(basis, krivanek_orders(n_terms), strict=True):
        wave, slope = np.cos(m * azimuth), -m * np.sin(m * azimuth)
        if kind == "b":
            wave, slope = np.sin(m * azimuth), m * np.cos(m * azimuth)
        radial, azimuthal = angle**n * wave, angle**n / (n + 1) * slope
        # polar -> [y, x]
        out[..., 0] = radial * sine + azimuthal * cosine
        out[..., 1] = radial * cosine - azimuthal * sine
    return basis


def phase_basis(k_1A: np.ndarray, n_terms: int, wavelength: float) -> np.ndarray:
    """(n_terms, ...): phase in rad of 1 Å of each aberration at any k (..., 2) [y, x].

    a^(n+1) cos(m phi) and sin(m phi) are real and imaginary part of a^(n+1-m) z^m with z = a exp(i phi).
    """
    z = wavelength * (k_1A[..., 1] + 1j * k_1A[..., 0])  # powers of z cost less than cosines of m phi
    square = z.real**2 + z.imag**2
    powers = {0: np.ones_like(z)}
    basis = np.empty((n_terms, *z.shape))
    for term, (n, m, kind) in enumerate(krivanek_orders(n_terms)):
        if m and m not in powers:
            powers[m] = z**m
        wave = powers[m].imag if kind == "b" else powers[m].real
        basis[term] = (2 * np.pi / wavelength / (n + 1)) * square ** ((n + 1 - m) // 2) * wave
    return basis


def image_shifts_A(
    aberrations_A: np.ndarray, k_1A: np.ndarray, wavelength: float, rotation_deg: float
) -> np.ndarray:
    """(D, 2) shift [y, x] in Å, along the axes of the scan, that aligns the image of detector k with the others.

    Aberrations are those of the probe, in the frame of the detector; the shift is rotated into the frame of the scan.
    (PyPty 2.2 takes them in the frame of the scan, which is a different beam unless it is round or unrotated.)
    """
    coefficients = np.atleast_1d(np.asarray(aberrations_A, float))
    # (terms,) . (terms, D, 2) -> (D, 2), in the frame of the detector
    shifts = np.tensordot(coefficients, gradient_basis(k_1A, len(coefficients), wavelength), axes=1)
    # rows times R are columns times R^-1: detector to scan
    return shifts @ rotation_yx(rotation_deg)
