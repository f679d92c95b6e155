"""One pass over all patterns before the start, which checks their counts and computes their mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from types import MappingProxyType
from typing import Any

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


Look = Callable[..., "list[Part]"]
"""What looks at the patterns: the arguments of :func:`part_of`, and the parts in the order of the patterns."""


def survey(
    source: PatternSource,
    indices: np.ndarray,
    *,
    detector_mask: np.ndarray | str | None,
    preprocess: Preprocess,
    multiplier: float,
    negative: bool | None = False,
    normalization: str | None = None,
    look: Look | None = None,
) -> Survey:
    """Read the patterns once, in chunks (twice if they are both normalised and resampled).

    Parameters
    ----------
    indices : sorted indices of the patterns that are used
    negative : whether negative counts (from read-out noise) are accepted; None = the survey says whether there are any
    normalization : one of :data:`NORMS`, or None
    look : looks at the patterns, in the place of this process alone

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
            look=look,
        )
        multiplier, normalization = multiplier / NORMS[normalization](plain.mean), None
    shape = preprocess.unpadded.pattern_shape((source.shape[1], source.shape[2]))
    if preprocess.resample > 1 and shape[0] * shape[1] > _MOST_PIXELS:
        raise DataError(
            f"data_resample: it gives patterns of {shape[0]} x {shape[1]} px, more than {_MOST_PIXELS} in all; lower it"
        )
    seen: dict[str, Any] = {
        "detector_mask": detector_mask,
        "preprocess": preprocess,
        "multiplier": multiplier,
    }
    seen |= {"negative": negative, "every": -(-len(indices) // _MOST_COMPARED)}
    parts = [part_of(source, indices, **seen)] if look is None else look(source, indices, **seen)
    counts, times, weight = (
        sum(getattr(part, name) for part in parts) for name in ("counts", "times", "weight")
    )
    _check_sum(counts, source.name, len(indices))
    masked = detector_mask is not None and bool(times.any())
    mean = counts / (np.maximum(times, 1) if masked else len(indices))
    factor = multiplier
    if normalization is not None:
        multiplier = multiplier / NORMS[normalization](mean)
    stored, multiplied = (all(getattr(part, name) for part in parts) for name in ("stored", "multiplied"))
    electron: float | None = multiplier if stored else None
    # what one count adds to a value times the multiplier, which a normalisation may have changed
    electron = 1.0 if multiplied and multiplier == factor else electron
    electron = electron if preprocess.resample == 1 else None
    below = next((part.below for part in parts if part.below), "")
    return Survey(
        multiplier * mean,
        weight / len(indices) if masked else None,
        multiplier,
        electron=None if below else electron,
        whole=electron is not None,
        negative=below,
        variance=multiplier**2 * _variance(parts),
    )


@dataclass(frozen=True, kw_only=True)
class Part:
    """Sums over some of the patterns.

    Attributes
    ----------
    counts : (ky, kx) sum of counts of pixels with a positive weight
    times, weight : (ky, kx) number of patterns with a positive weight, and sum of weights; zeros where all have 1
    compared, compared_squares : (ky, kx) sums of counts and their squares over ``n_compared`` of the patterns
    stored, multiplied : whether all values are whole numbers: as they are stored, and times the multiplier
    below : what to say about negative values
    """

    counts: np.ndarray
    times: np.ndarray
    weight: np.ndarray
    compared: np.ndarray
    compared_squares: np.ndarray
    n_compared: int
    stored: bool
    multiplied: bool
    below: str


def part_of(
    source: PatternSource,
    indices: np.ndarray,
    *,
    detector_mask: np.ndarray | str | None,
    preprocess: Preprocess,
    multiplier: float,
    negative: bool | None,
    every: int,
    first: int = 0,
    progress: Callable[[], None] | None = None,
) -> Part:
    """Look at some of the patterns.

    Parameters
    ----------
    every : of which one in so many is compared with the others
    first : place of the first of these patterns among all
    progress : is called now and then
    """
    weights = DetectorWeights(detector_mask)
    shape = preprocess.unpadded.pattern_shape((source.shape[1], source.shape[2]))
    # Per pixel: sum of counts, number of patterns with a positive weight, sum of weights
    counts, times, weight = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    whole, spread, below = _Whole(multiplier), _Spread(shape, every), ""
    n_chunk = max(1, _CHUNK_BYTES // (8 * source.shape[1] * source.shape[2]))
    for start in range(0, len(indices), n_chunk):
        chosen = indices[start : start + n_chunk]
        raw = source.read(chosen)
        data = weights.blank(raw, chosen)
        below = below or _check_counts(data, chosen, source.name, negative)
        whole.add(data)
        data = preprocess.unpadded.patterns(data)
        spread.add(data, first + start)
        if progress is not None:
            progress()
        mask = weights.of(raw, chosen)
        if mask is None:
            counts += data.sum(axis=0, dtype=np.float64)
            continue
        mask = np.broadcast_to(preprocess.unpadded.weights(mask), data.shape)  # (ky, kx) -> (n, ky, kx)
        counts += (data * (mask > 0)).sum(axis=0, dtype=np.float64)
        times += (mask > 0).sum(axis=0)
        weight += mask.sum(axis=0)
    return Part(
        counts=counts,
        times=times,
        weight=weight,
        compared=spread.sum,
        compared_squares=spread.squares,
        n_compared=spread.n,
        stored=whole.stored,
        multiplied=whole.multiplied,
        below=below,
    )


def _variance(parts: Sequence[Part]) -> np.ndarray:
    """(ky, kx) variance of each pixel over the patterns that were compared."""
    n = sum(part.n_compared for part in parts)
    mean = sum(part.compared for part in parts) / n
    squares = sum(part.compared_squares for part in parts)
    return np.asarray(np.maximum(squares / n - mean**2, 0))


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
        self.stored = self.multiplied = True

    def add(self, data: np.ndarray) -> None:
        whole_type = data.dtype.kind in "iub"
        for part in _parts(data):
            if not self.multiplied and (whole_type or not self.stored):
                return
            self.stored = self.stored and are_whole(part)
            # with the factor 1 there is no need to look twice
            self.multiplied = self.multiplied and (
                self.stored if self._factor == 1 else are_whole(part, self._factor)
            )


class _Spread:
    """Sums over some of the patterns, for the variance of each pixel."""

    def __init__(self, shape: tuple[int, int], every: int) -> None:
        self._every, self.n = every, 0
        self.sum, self.squares = np.zeros(shape), np.zeros(shape)

    def add(self, data: np.ndarray, first: int) -> None:
        """Look at every n-th pattern (n, ky, kx), of which the first one has the number ``first``."""
        some = data[-first % self._every :: self._every]
        self.n += len(some)
        for part in _parts(some):
            values = part.astype(np.float64)
            self.sum += values.sum(axis=0)
            self.squares += np.einsum("nyx,nyx->yx", values, values)


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
