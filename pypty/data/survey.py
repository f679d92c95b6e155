"""One pass over all patterns before the start: are they counts, and what is their mean?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pypty.data.preprocess import Preprocess
from pypty.data.sources import PatternSource
from pypty.errors import DataError

_CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Survey:
    """What the patterns hold.

    Attributes
    ----------
    mean : (ky, kx) float64
        Mean over the used patterns after flip, shift and binning, times the multiplier; without padding,
        centred. Pixels of weight 0 count as 0.
    largest : the largest count
    """

    mean: np.ndarray
    largest: float


def survey(
    source: PatternSource,
    indices: np.ndarray,
    weights: np.ndarray | str | None,
    preprocess: Preprocess,
    multiplier: float,
) -> Survey:
    """Read the patterns once, in chunks.

    Parameters
    ----------
    indices : sorted indices of the patterns that will be used
    weights : detector weights (ky, kx) or (N, ky, kx), "nan", or None

    Raises
    ------
    DataError
        A pixel with weight > 0 is NaN, infinite or negative, or there are no counts at all.
    """
    total: np.ndarray | None = None
    largest = 0.0
    unpadded = Preprocess(preprocess.flip_ky, preprocess.shift, preprocess.bin, 0)
    n_chunk = max(1, _CHUNK_BYTES // max(1, 8 * source.shape[1] * source.shape[2]))
    for start in range(0, len(indices), n_chunk):
        chosen = indices[start : start + n_chunk]
        data = blank_ignored(source.read(chosen), chosen, weights)
        _check_counts(data, chosen, source.name)
        largest = max(largest, float(data.max()))
        part = unpadded.patterns(data).sum(axis=0, dtype=np.float64)
        total = part if total is None else total + part
    if total is None or not total.any():
        raise DataError(
            f"{source.name}: all {len(indices)} patterns are zero; there is nothing to reconstruct"
        )
    return Survey(total * (multiplier / len(indices)), largest * multiplier)


def blank_ignored(data: np.ndarray, indices: np.ndarray, weights: np.ndarray | str | None) -> np.ndarray:
    """Set pixels of weight 0 to 0, so that a NaN there can reach nothing."""
    if weights is None:
        return data
    if isinstance(weights, str):
        return np.nan_to_num(data, nan=0.0, posinf=np.inf, neginf=-np.inf) if data.dtype.kind == "f" else data
    chosen = weights if weights.ndim == 2 else weights[indices]
    return np.where(chosen > 0, data, np.zeros((), data.dtype))


def _check_counts(data: np.ndarray, indices: np.ndarray, name: str) -> None:
    if data.dtype.kind in "ub":
        return
    bad = ~np.isfinite(data) if data.dtype.kind == "f" else np.zeros(data.shape, bool)
    what, advice = "NaN or infinite", "set detector_mask='nan', or a mask with weight 0 there"
    if not bad.any():
        bad = data < 0
        what, advice = (
            "negative",
            "subtract less background, clip at 0, or mask these pixels with detector_mask",
        )
    if bad.any():
        pattern, ky, kx = (int(i) for i in np.argwhere(bad)[0])
        raise DataError(
            f"{name}: {int(bad.sum())} pixels are {what}, the first in pattern {int(indices[pattern])} at "
            f"[ky={ky}, kx={kx}] = {data[pattern, ky, kx]!r}; counts are finite and not negative: {advice}"
        )
