"""One pass over all patterns before the start, which checks their counts and computes their mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from types import MappingProxyType

import numpy as np

from pypty.data.preprocess import Preprocess
from pypty.data.sources import PatternSource
from pypty.data.weights import DetectorWeights
from pypty.errors import DataError

_MOST_PIXELS = 2**24
"""Pixels of a pattern that data_resample may make: those of 4096 x 4096."""
_CHUNK_BYTES = 64 * 2**20
_IN_CACHE = 2**16
"""Values that are looked at together: temporary arrays of this size stay in the cache of a CPU."""
_MOST_COMPARED = 1024
"""Patterns, evenly spaced, of which the variance is computed."""
_ROUNDING = (1e-3, 1e-6)
"""Distance from a whole number of counts that rounding explains after a multiplication: absolute, and of the value."""

NORMS: Mapping[str, Callable[[np.ndarray], float]] = MappingProxyType(
    {
        "max_at_one": lambda mean: float(mean.max()),
        "mean_at_one": lambda mean: float(mean.mean()),
        "sum_to_one": lambda mean: float(mean.sum()),
    }
)
"""``data_normalization``: the value of the mean pattern, before resampling and padding, that counts are divided by."""


@dataclass(frozen=True)
class Survey:
    """Statistics of the patterns after flip, shift, binning and resampling, without padding, centred.

    Attributes
    ----------
    mean : (ky, kx) float64
        Mean counts of each pixel over the used patterns in which its weight is positive, times the multiplier; 0 if
        there is none.
    weights : (ky, kx) mean weight of each pixel, or None (all 1)
    multiplier : factor of every count: ``data_multiplier``, with ``data_normalization``
    electron : what one count adds to a value, with the multiplier, if all values are non-negative whole numbers of
        counts: 1 for counts as they are; None if they are not
    whole : whether all values are whole numbers of counts, negative ones among them
    negative : what to say about negative values, if they were neither accepted nor refused; "" without any
    variance : (ky, kx) of each pixel over up to 1024 of the patterns, times the multiplier squared; None if unknown
    """

    mean: np.ndarray
    weights: np.ndarray | None
    multiplier: float = 1.0
    _: KW_ONLY
    electron: float | None = None
    whole: bool = False
    negative: str = ""
    variance: np.ndarray | None = None


def survey(
    source: PatternSource,
    indices: np.ndarray,
    *,
    detector_mask: np.ndarray | str | None,
    preprocess: Preprocess,
    multiplier: float,
    negative: bool | None = False,
    normalization: str | None = None,
) -> Survey:
    """Read the patterns once, in chunks (twice if they are both normalised and resampled).

    Parameters
    ----------
    indices : sorted indices of the patterns that are used
    negative : whether negative counts (from read-out noise) are accepted; None = the survey says whether there are any
    normalization : one of :data:`NORMS`, or None

    Raises
    ------
    DataError
        A pixel with weight > 0 is NaN, infinite or (unless that is accepted) negative, or there are no counts at all.
    """
    if normalization is not None and preprocess.resample != 1:
        # The norm is defined on patterns that are not resampled, so it needs a separate pass.
        plain = survey(
            source,
            indices,
            detector_mask=detector_mask,
            preprocess=preprocess.unresampled,
            multiplier=1.0,
            negative=negative,
        )
        multiplier, normalization = multiplier / NORMS[normalization](plain.mean), None
    weights = DetectorWeights(detector_mask)
    shape = preprocess.unpadded.pattern_shape((source.shape[1], source.shape[2]))
    if preprocess.resample > 1 and shape[0] * shape[1] > _MOST_PIXELS:
        raise DataError(
            f"data_resample: it gives patterns of {shape[0]} x {shape[1]} px, more than {_MOST_PIXELS} in all; lower it"
        )
    # Per pixel: sum of counts, number of patterns with a positive weight, sum of weights
    counts, times, weight = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    whole, spread, below = _Whole(multiplier), _Spread(shape, len(indices)), ""
    n_chunk = max(1, _CHUNK_BYTES // (8 * source.shape[1] * source.shape[2]))
    for start in range(0, len(indices), n_chunk):
        chosen = indices[start : start + n_chunk]
        raw = source.read(chosen)
        data = weights.blank(raw, chosen)
        below = below or _check_counts(data, chosen, source.name, negative)
        whole.add(data)
        data = preprocess.unpadded.patterns(data)
        spread.add(data, start)
        mask = weights.of(raw, chosen)
        if mask is None:
            counts += data.sum(axis=0, dtype=np.float64)
            continue
        mask = np.broadcast_to(preprocess.unpadded.weights(mask), data.shape)  # (ky, kx) -> (n, ky, kx)
        counts += (data * (mask > 0)).sum(axis=0, dtype=np.float64)
        times += (mask > 0).sum(axis=0)
        weight += mask.sum(axis=0)
    _check_sum(counts, source.name, len(indices))
    masked = weights.mask is not None and bool(times.any())
    mean = counts / (np.maximum(times, 1) if masked else len(indices))
    if normalization is not None:
        multiplier = multiplier / NORMS[normalization](mean)
    electron = whole.electron(multiplier) if preprocess.resample == 1 else None
    return Survey(
        multiplier * mean,
        weight / len(indices) if masked else None,
        multiplier,
        electron=None if below else electron,
        whole=electron is not None,
        negative=below,
        variance=multiplier**2 * spread.variance,
    )


def _check_sum(counts: np.ndarray, name: str, n: int) -> None:
    if not counts.any():
        raise DataError(f"{name}: all {n} patterns are zero; there is nothing to reconstruct")
    if counts.sum() <= 0:
        raise DataError(
            f"{name}: the counts of all {n} patterns sum to {counts.sum():g}; expected more than negative noise: "
            "subtract less"
        )


def are_whole(values: np.ndarray, factor: float = 1.0) -> bool:
    """Whether values, times a factor, are whole numbers; a product may differ from them by rounding."""
    if values.dtype.kind in "iub":
        if factor == round(factor):
            return True
        values = values.astype(np.float64)
    if factor == 1:
        return bool((values == np.rint(values)).all())
    product = values * values.dtype.type(factor)
    rounding = _ROUNDING[0] + _ROUNDING[1] * np.abs(product)
    return bool((np.abs(product - np.rint(product)) <= rounding).all())


class _Whole:
    """Whether all values are whole numbers: as they are stored, and times the multiplier.

    Whole types need a look only times the multiplier, and other values none once one is not whole.
    """

    def __init__(self, multiplier: float) -> None:
        self._factor = multiplier
        self._stored = self._multiplied = True

    def add(self, data: np.ndarray) -> None:
        whole_type = data.dtype.kind in "iub"
        for part in _parts(data):
            if not self._multiplied and (whole_type or not self._stored):
                return
            self._stored = self._stored and are_whole(part)
            # with the factor 1 there is no need to look twice
            self._multiplied = self._multiplied and (
                self._stored if self._factor == 1 else are_whole(part, self._factor)
            )

    def electron(self, multiplier: float) -> float | None:
        """What one count adds to a value times the multiplier, which a normalisation may have changed."""
        if self._multiplied and multiplier == self._factor:
            return 1.0
        return multiplier if self._stored else None


class _Spread:
    """The variance of each pixel over some of the patterns."""

    def __init__(self, shape: tuple[int, int], n: int) -> None:
        self._every, self._n = -(-n // _MOST_COMPARED), 0
        self._sum, self._squares = np.zeros(shape), np.zeros(shape)

    def add(self, data: np.ndarray, first: int) -> None:
        """Look at every n-th pattern (n, ky, kx), of which the first one has the number ``first``."""
        some = data[-first % self._every :: self._every]
        self._n += len(some)
        for part in _parts(some):
            values = part.astype(np.float64)
            self._sum += values.sum(axis=0)
            self._squares += np.einsum("nyx,nyx->yx", values, values)

    @property
    def variance(self) -> np.ndarray:
        return np.asarray(np.maximum(self._squares / self._n - (self._sum / self._n) ** 2, 0))


def _parts(data: np.ndarray) -> Iterator[np.ndarray]:
    """Patterns (n, ky, kx) in parts that fit into the cache, at least one pattern each."""
    n = max(1, _IN_CACHE // max(1, data[:1].size))
    return (data[start : start + n] for start in range(0, len(data), n))


def aligned_mean(
    source: PatternSource,
    indices: np.ndarray,
    *,
    detector_mask: np.ndarray | str | None,
    preprocess: Preprocess,
    multiplier: float,
    shifts: np.ndarray,
) -> np.ndarray:
    """(ky, kx) mean of the patterns after each was moved back, by whole pixels, by its displacement from beam tilt.

    Parameters
    ----------
    indices : sorted indices of the patterns to average
    shifts : (len(indices), 2) displacement of each pattern in binned detector pixels, [ky, kx]
    """
    weights = DetectorWeights(detector_mask)
    total = np.zeros(preprocess.unpadded.pattern_shape((source.shape[1], source.shape[2])))
    n_chunk = max(1, _CHUNK_BYTES // (8 * source.shape[1] * source.shape[2]))
    for start in range(0, len(indices), n_chunk):
        chosen = indices[start : start + n_chunk]
        data = preprocess.unpadded.patterns(weights.blank(source.read(chosen), chosen))
        back = -np.round(shifts[start : start + n_chunk]).astype(int)
        for pattern, shift in zip(data, back, strict=True):
            total += np.roll(pattern, tuple(shift), axis=(0, 1))
    return total * (multiplier / len(indices))


def _check_counts(data: np.ndarray, indices: np.ndarray, name: str, negative: bool | None) -> str:
    """Refuse what is no count; returns what to say about negative values, if ``negative`` is None."""
    if data.dtype.kind in "ub":
        return ""
    bad = ~np.isfinite(data) if data.dtype.kind == "f" else np.zeros(data.shape, bool)
    what, advice = "NaN or infinite", "set detector_mask='nan', or a mask with weight 0 there"
    if not bad.any() and not negative:
        bad = data < 0
        what, advice = (
            "negative",
            "subtract less background, clip at 0, mask these pixels with detector_mask, or model read-out noise with "
            "algorithm='poisson_gaussian'",
        )
    if not bad.any():
        return ""
    pattern, ky, kx = (int(i) for i in np.argwhere(bad)[0])
    text = (
        f"{name}: {int(bad.sum())} pixels are {what}, the first in pattern {int(indices[pattern])} at "
        f"[ky={ky}, kx={kx}] = {data[pattern, ky, kx]!r}; counts are finite and not negative: {advice}"
    )
    if negative is None and what == "negative":
        return text
    raise DataError(text)
