"""The Fourier transform of 4D data over the scan, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
import scipy.fft

from pypty.backend.array import available_cores
from pypty.errors import DataError

Chunks: TypeAlias = Iterable[tuple[np.ndarray, np.ndarray]]
"""(indices, patterns (n, ky, kx)) in the order of the scan, as ``Experiment.chunks`` gives them."""

Pair: TypeAlias = tuple[np.ndarray, np.ndarray]
"""(m,) complex for some Q, and for -Q."""

_BLOCK_BYTES = 2**22  # of the product that is added at once
_BATCH_BYTES = 2**20  # of the waves of a batch, for the caches


def scan_spectra(
    chunks: Callable[[], Chunks],
    scan_size: tuple[int, int],
    *,
    pattern_shape: tuple[int, int],
    region: tuple[slice, slice],
    dtype: Any = np.complex64,
    largest_bytes: int = 2**30,
    n_threads: int | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """G(Q, k) = sum over the scan of I(R, k) exp(-2 pi i Q.R), some rows of Q at a time.

    Patterns are real, so that G(-Q, k) is the conjugate of G(Q, k), and half of the fast axis is enough. If all of G is
    larger than ``largest_bytes``, the data are read several times, each time for as many rows of Q as fit. Then rows
    are summed with their phases along the slow axis while they are read, and only one chunk and the rows of Q are in
    memory.

    Parameters
    ----------
    chunks : called once for every pass over the data
    scan_size : points (slow, fast)
    pattern_shape : (ky, kx)
    region : (ky, kx) the required part of the detector
    dtype : complex64 or complex128
    n_threads : None = the cores of this process

    Yields
    ------
    rows : (m,) int, indices of Q along the slow axis, zero frequency first
    spectra : (m, fast // 2 + 1, ky, kx)

    Raises
    ------
    DataError
        The chunks do not make up the scan, or a value is not finite.
    """
    slow, fast = scan_size
    workers = n_threads or available_cores()
    shape = tuple(len(range(*part.indices(n))) for part, n in zip(region, pattern_shape, strict=True))
    # bytes of G for one row of Q
    row_bytes = (fast // 2 + 1) * math.prod(shape) * np.dtype(dtype).itemsize
    at_once = min(slow, max(1, largest_bytes // row_bytes))
    for start in range(0, slow, at_once):
        q_rows = np.arange(start, min(start + at_once, slow))
        whole = len(q_rows) == slow  # everything fits: collect the rows, then one FFT along the slow axis
        out = (np.empty if whole else np.zeros)((len(q_rows), fast // 2 + 1, *shape), dtype)
        for first, spectra in _row_spectra(chunks(), scan_size, region, dtype, workers):
            if whole and len(spectra) == slow:
                out = spectra
            elif whole:
                out[first : first + len(spectra)] = spectra
            else:
                rows = np.arange(first, first + len(spectra))
                # (q rows, scan rows); the product modulo slow keeps the phase exact for large scans
                phases = np.exp(-2j * np.pi * (np.outer(q_rows, rows) % slow) / slow).astype(dtype)
                _add_product(out.reshape(len(q_rows), -1), phases, spectra.reshape(len(spectra), -1))
        if whole:
            out = scipy.fft.fft(out, axis=0, overwrite_x=True, workers=workers)
        yield q_rows, out


def _row_spectra(
    chunks: Chunks, scan_size: tuple[int, int], region: tuple[slice, slice], dtype: Any, workers: int
) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, (rows, fast // 2 + 1, ky, kx)): every row of the scan, transformed along the fast axis."""
    slow, fast = scan_size
    real = np.zeros(0, dtype).real.dtype
    done = 0
    waiting: list[np.ndarray] = []  # patterns of a row that is not complete yet: chunks end anywhere
    for _, patterns in chunks:
        data = patterns[(slice(None), *region)].astype(real, copy=False)
        if not np.isfinite(data).all():
            raise DataError("the patterns have values that are NaN or infinite; mask or replace them first")
        waiting.append(data)
        n_rows = sum(len(part) for part in waiting) // fast
        if not n_rows:
            continue
        joined = np.concatenate(waiting) if len(waiting) > 1 else waiting[0]
        waiting = [joined[n_rows * fast :]]
        rows = joined[: n_rows * fast].reshape(n_rows, fast, *joined.shape[1:])
        # (rows, fast, ky, kx) -> (rows, fast // 2 + 1, ky, kx)
        yield done, scipy.fft.rfft(rows, axis=1, workers=workers)
        done += n_rows
    left = sum(len(part) for part in waiting)
    if done != slow or left > 0:
        raise DataError(f"the patterns do not fill a scan of {slow} x {fast} points; correct scan_size")


def _add_product(out: np.ndarray, phases: np.ndarray, rows: np.ndarray) -> None:
    """out += phases @ rows, without a temporary of the size of ``out``."""
    width = max(1, _BLOCK_BYTES // (len(out) * out.itemsize))
    for start in range(0, out.shape[1], width):
        out[:, start : start + width] += phases @ rows[:, start : start + width]


def scan_frequencies_px(
    scan_size: tuple[int, int], step_A: float, rotation_yx: np.ndarray, pixel_1A: tuple[float, float]
) -> np.ndarray:
    """(slow, fast, 2): Q = [y, x] of every scan frequency on the detector, in its pixels; zero frequency first.

    Parameters
    ----------
    rotation_yx : (2, 2) from scan to detector, ``pypty.optics.scan_grid.rotation_yx``
    pixel_1A : (ky, kx) 1/Å
    """
    # (slow, fast) each, 1/Å in the frame of the scan
    qy, qx = np.meshgrid(*(np.fft.fftfreq(n, step_A) for n in scan_size), indexing="ij")
    return np.stack([qy, qx], axis=-1) @ rotation_yx.T / np.asarray(pixel_1A)


def solve_frequencies(
    solve: Callable[[np.ndarray, np.ndarray, np.ndarray], Pair],
    spectra: Iterable[tuple[np.ndarray, np.ndarray]],
    frequencies_px: np.ndarray,
    spectrum: np.ndarray,
    n_threads: int | None,
) -> np.ndarray:
    """(slow, fast) complex: the result of ``solve`` for each Q, in batches that fit into the caches, on several
    threads.

    Parameters
    ----------
    solve : (patterns (m, ky, kx) = G(Q, k), Q (m, 2), -Q (m, 2) in pixels) -> values for Q and for -Q
    spectra : of :func:`scan_spectra`
    frequencies_px : (slow, fast, 2)
    spectrum : (ky, kx) of the probe; gives size and type
    n_threads : None = the cores of this process
    """
    slow, fast = frequencies_px.shape[:2]
    half = fast // 2 + 1
    out = np.zeros((slow, fast), spectrum.dtype)
    batch = max(1, _BATCH_BYTES // spectrum.nbytes)

    def work(rows: np.ndarray, columns: np.ndarray, patterns: np.ndarray) -> None:
        here, there = solve(
            patterns, frequencies_px[rows, columns], frequencies_px[-rows % slow, -columns % fast]
        )
        out[rows, columns] = here
        # -Q of columns 0 and fast/2 is in the same half, and is computed as another Q.
        far = (columns > 0) & (2 * columns != fast)
        out[-rows[far] % slow, fast - columns[far]] = there[far]

    with ThreadPoolExecutor(n_threads or available_cores()) as pool:
        for rows, patterns in spectra:
            flat = patterns.reshape(-1, *patterns.shape[2:])
            # (rows, half, ky, kx) -> (rows half, ky, kx), with row and column of each entry
            at = np.repeat(rows, half), np.tile(np.arange(half), len(rows))
            jobs = [
                pool.submit(work, at[0][i : i + batch], at[1][i : i + batch], flat[i : i + batch])
                for i in range(0, len(flat), batch)
            ]
            for job in jobs:
                job.result()
    return out
