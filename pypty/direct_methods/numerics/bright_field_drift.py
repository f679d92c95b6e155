"""Drift of the bright-field disk over the detector during the scan (imperfect descan): measurement and correction."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import scipy.ndimage

from pypty.direct_methods.numerics.bright_field import Chunks
from pypty.errors import DataError, ParameterError


def disk_shifts(chunks: Chunks, n_patterns: int, threshold: float) -> np.ndarray:
    """(N, 2) centre [y, x] of the bright disk of each pattern minus the mean of all, detector pixels.

    The disk is where a pattern, averaged over 3 x 3 pixels, exceeds ``threshold`` times its maximum, holes closed.

    Raises
    ------
    ParameterError
        The threshold is not between 0 and 1.
    DataError
        A pattern is empty.
    """
    if not 0 < threshold < 1:
        raise ParameterError(
            f"compensate_lowfreq_drift is {threshold!r}, expected False or the threshold of the disk between 0 and 1"
        )
    centres = np.empty((n_patterns, 2))
    for indices, patterns in chunks:
        smooth = scipy.ndimage.uniform_filter(patterns, (0, 3, 3))
        highest = smooth.max(axis=(1, 2))
        if not (highest > 0).all():
            raise DataError(
                f"pattern {int(indices[np.argmin(highest)])} is empty; its disk has no centre. Leave out empty patterns"
            )
        disk = smooth > threshold * highest[:, None, None]  # (n, ky, kx) bool
        # Padded, because a closing erodes whatever touches the rim of the array.
        disk = scipy.ndimage.binary_closing(np.pad(disk, ((0, 0), (2, 2), (2, 2))), np.ones((1, 3, 3), bool))
        disk = disk[:, 2:-2, 2:-2]
        size = disk.sum(axis=(1, 2))
        centres[indices, 0] = (disk.sum(axis=2) @ np.arange(disk.shape[1])) / size
        centres[indices, 1] = (disk.sum(axis=1) @ np.arange(disk.shape[2])) / size
    return centres - centres.mean(axis=0)


def without_drift(chunks: Chunks, shifts_px: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(indices, patterns) shifted back by whole pixels; pixels that enter at the rim are 0."""
    whole = np.round(shifts_px).astype(int)  # (N, 2)
    for indices, patterns in chunks:
        out = np.zeros_like(patterns)
        for number, (dy, dx) in enumerate(whole[indices]):
            ny, nx = patterns.shape[1:]
            source = (slice(max(0, dy), ny + min(0, dy)), slice(max(0, dx), nx + min(0, dx)))
            target = (slice(max(0, -dy), ny + min(0, -dy)), slice(max(0, -dx), nx + min(0, -dx)))
            out[number][target] = patterns[number][source]
        yield indices, out


class SteadyPatterns:
    """Patterns that can be read repeatedly, with the drift of the disk corrected if wanted.

    Parameters
    ----------
    open_chunks : returns an iterator over (indices, patterns) of all patterns at each call
    threshold : of the disk, see :func:`disk_shifts`; False = no correction

    Attributes
    ----------
    drift : (N, 2) corrected shifts [y, x] in pixels, or None
    """

    def __init__(self, open_chunks: Callable[[], Chunks], n_patterns: int, threshold: float | bool) -> None:
        self._open_chunks = open_chunks
        self.drift: np.ndarray | None = None
        if threshold is not False:
            self.drift = disk_shifts(open_chunks(), n_patterns, float(threshold))

    def __call__(self) -> Chunks:
        chunks = self._open_chunks()
        return chunks if self.drift is None else without_drift(chunks, self.drift)
