"""What an epoch on several ranks costs: a model of its time, from the sizes of a reconstruction and from rates.

Rank 0 sends each other rank the window of the object that its patterns see, all ranks compute, and rank 0 adds the
gradients that come back. With K ranks, N patterns of y x x pixels, P probe and O object modes, S slices and c bytes of
a complex number, a pass over the patterns takes

    compute = t_0 + n y x P O t          n = N/K patterns of the rank with the most
    sending = out / b_out + back / b_in + m (K - 1) l
    alone   = (passes c S O Y X + 5 c S O A) / w + filters S O Y X f + r

* out, back: :func:`traffic`, bytes to and from all other ranks; b_out, b_in: bytes per second of rank 0; l: seconds for
  each of m messages to or from a rank;
* t_0: seconds of a pass without patterns, t: seconds for each pixel of a wave, all its slices together;
* alone: what rank 0 does while the others wait: vectors of the object (Y x X pixels) are read or written so many times
  with w bytes per second, its band limit takes f seconds for each pixel, and the windows, of A pixels together, are
  cut out (read, written) and added (read, read, written); r: seconds of the regularisers.

Nothing of it overlaps: rank 0 sends one message after the other, then computes its own part, then adds. Patterns that
are not kept are read or sent to the device while waves are computed, so that the slower of both counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pypty.engine.setup.division import Division
from pypty.engine.setup.memory_plan import Sizes

EVALUATIONS = 1.2
"""Evaluations per epoch of L-BFGS: most line searches accept the first step."""
WORTH = 1.5
"""Twice as many ranks are worth it if an epoch becomes so many times faster, of 2."""
_FILTERS, _PASSES = 1, 7
"""Of an evaluation: band limits, and how often a vector is read or written. The trial point (3), its products (4)."""
_MORE_FILTERS, _MORE_PASSES, _PASSES_OF_A_PAIR = 3, 60, 5
"""The same of an iteration of L-BFGS, and for each pair of its history. Measured on the CPU, on objects of 1500 x 1500
x 4 with 2 and 12 pairs: right to a quarter (benchmarks/README.md)."""
_STEP_FILTERS, _STEP_PASSES, _PASSES_OF_A_MOMENT = 1, 10, 2
"""The same of a step of a first-order method, and for each of its moments. Counted, not measured."""
_MESSAGES_OF_A_SEARCH, _MESSAGES = 4, 2
"""Messages between rank 0 and another rank in a pass: the task, the loss, the decision, the gradients; a mini-batch has
no decision."""
_MESSAGES_OF_PIECES, _PIECES_OUT, _PIECES_BACK = 10, 4, 2
"""Of an iteration whose history is kept in pieces: messages, and objects out (gradient, quotient, new pair) and back
(two sums)."""
_ROW = 8
"""Bytes of a number of a pattern's own, or of its index."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How fast the ranks and their connections are.

    Attributes
    ----------
    wave_pixel_s : seconds of loss and gradient, all slices, for each pixel of a wave (one for each pattern, probe mode
        and object mode)
    evaluation_s : seconds of an evaluation without patterns
    filter_pixel_s : seconds of a band limit of the object (a Fourier transform there and back) for each of its pixels
    memory : bytes per second with which vectors of the object are read or written
    to_all, from_all : bytes per second of rank 0 to all other ranks together, and from them
    latency_s : seconds of a small message, one way
    penalties_s : seconds of all regularisers, which rank 0 computes
    upload : bytes per second from the host to the device of a rank; inf where there is nothing to upload
    reading : bytes per second that each rank reads from files
    """

    wave_pixel_s: float
    evaluation_s: float
    filter_pixel_s: float
    memory: float
    to_all: float
    from_all: float
    latency_s: float
    penalties_s: float = 0.0
    upload: float = math.inf
    reading: float = math.inf


@dataclass(frozen=True, kw_only=True)
class Method:
    """What an epoch does.

    Attributes
    ----------
    pairs : L-BFGS pairs
    evaluations : passes over all patterns of an epoch of L-BFGS
    batch_size : patterns of a step of a first-order method; None = L-BFGS, which takes all
    moments : arrays that a first-order method keeps
    """

    pairs: int = 0
    evaluations: float = EVALUATIONS
    batch_size: int | None = None
    moments: int = 0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured for a reconstruction.

    Attributes
    ----------
    n_threads : with which the rates of the computation were measured, on the CPU
    """

    rates: Rates
    method: Method
    n_threads: int = 1


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Where the patterns of a rank are while it computes: on the device, on the host, or in files."""

    on_device: bool = True
    on_host: bool = True

    def bytes_per_s(self, rates: Rates) -> float:
        """How fast they come."""
        if self.on_device:
            return math.inf
        return min(rates.upload, math.inf if self.on_host else rates.reading)


@dataclass(frozen=True, kw_only=True)
class EpochTime:
    """Seconds of an epoch.

    Attributes
    ----------
    compute_s : all ranks together, each with its patterns
    sending_s : windows, gradients and messages
    alone_s : rank 0, while the others wait
    """

    ranks: int
    compute_s: float
    sending_s: float
    alone_s: float

    @property
    def total_s(self) -> float:
        return self.compute_s + self.sending_s + self.alone_s

    @property
    def sending_share(self) -> float:
        """Part of the time that is spent with sending."""
        return self.sending_s / self.total_s

    def speed_up(self, one: EpochTime) -> float:
        """How many times faster than an epoch on one rank."""
        return one.total_s / self.total_s

    def efficiency(self, one: EpochTime) -> float:
        """Speed-up for each rank: 1 if K ranks are K times faster."""
        return self.speed_up(one) / self.ranks


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes between rank 0 and all others together."""

    out: float
    back: float


def traffic(sizes: Sizes, division: Division, complex_bytes: int, n_patterns: int) -> Traffic:
    """Bytes of an evaluation of some of the patterns.

    Out go, to each of K - 1 ranks, its window of the object, the probe, the rows of all N patterns and the numbers of
    its own; back come the gradients of the window and of the probe, and the rows of the patterns that it has computed.

    Parameters
    ----------
    n_patterns : that all ranks compute together
    """
    layers = sizes.slices * sizes.object_modes
    others = division.ranks - 1
    windows = complex_bytes * layers * division.sent_pixels
    probes = complex_bytes * math.prod(sizes.window) * sizes.probe_modes * sizes.subscans * others
    row = _ROW * sizes.row_values
    computed = n_patterns * others / division.ranks
    return Traffic(
        out=windows + probes + row * sizes.n_patterns * others + _ROW * computed,
        back=windows + probes + row * computed,
    )


def epoch_time(
    sizes: Sizes,
    division: Division,
    method: Method,
    rates: Rates,
    *,
    complex_bytes: int,
    storage: Storage,
    spread: bool = False,
    slower: float = 1.0,
) -> EpochTime:
    """The model of this module.

    Parameters
    ----------
    division : what each rank has; of one rank, the whole
    complex_bytes : of a complex number of the waves
    storage : of the patterns
    spread : the ranks share the L-BFGS history
    slower : factor on the time of the computation, where ranks share cores
    """
    others = division.ranks - 1
    if method.batch_size is None:
        steps, computed, messages = method.evaluations, sizes.n_patterns, _MESSAGES_OF_A_SEARCH
        own = division.n_patterns
    else:
        steps, messages = math.ceil(sizes.n_patterns / method.batch_size), _MESSAGES
        computed = min(method.batch_size, sizes.n_patterns)
        own = math.ceil(computed / division.ranks)  # random groups have about as many of every region
    waves = own * math.prod(sizes.window) * sizes.probe_modes * sizes.object_modes
    pattern_bytes = sizes.data_bytes / max(sizes.n_patterns, 1)
    step_s = max(
        rates.evaluation_s + waves * rates.wave_pixel_s * slower,
        own * pattern_bytes / storage.bytes_per_s(rates),
    )
    bytes_of = traffic(sizes, division, complex_bytes, computed)
    obj = complex_bytes * _object_pixels(sizes)
    sending_s = steps * (bytes_of.out / rates.to_all + bytes_of.back / rates.from_all)
    sending_s += steps * messages * others * rates.latency_s
    if spread:
        pieces = obj * others / division.ranks
        sending_s += pieces * (_PIECES_OUT / rates.to_all + _PIECES_BACK / rates.from_all)
        sending_s += _MESSAGES_OF_PIECES * others * rates.latency_s
    return EpochTime(
        ranks=division.ranks,
        compute_s=steps * step_s,
        sending_s=sending_s,
        alone_s=_alone_s(sizes, division, method, rates, complex_bytes, steps, spread),
    )


def _object_pixels(sizes: Sizes) -> int:
    return math.prod(sizes.object_shape) * sizes.slices * sizes.object_modes


def _alone_s(
    sizes: Sizes,
    division: Division,
    method: Method,
    rates: Rates,
    complex_bytes: int,
    steps: float,
    spread: bool,
) -> float:
    """What rank 0 does while the others wait, in an epoch."""
    pixels = _object_pixels(sizes)
    if method.batch_size is None:
        pairs = method.pairs / (division.ranks if spread else 1)
        passes = steps * _PASSES + _MORE_PASSES + _PASSES_OF_A_PAIR * pairs
        filters = steps * _FILTERS + _MORE_FILTERS
    else:
        passes = steps * (_STEP_PASSES + _PASSES_OF_A_MOMENT * method.moments)
        filters = steps * _STEP_FILTERS
    windows = 0.0
    if division.ranks > 1:
        seen = sum(map(math.prod, division.windows)) * sizes.slices * sizes.object_modes
        windows = steps * 5 * seen
    vectors_s = (passes * pixels + windows) * complex_bytes / rates.memory
    return vectors_s + filters * pixels * rates.filter_pixel_s + steps * rates.penalties_s


def doublings(most: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to ``most``, which is the last."""
    powers = [2**i for i in range(most.bit_length()) if 2**i < most]
    return (*powers, most)


def best_number(times: Iterable[EpochTime]) -> int:
    """The number of ranks beyond which more do not pay: each doubling up to it made an epoch 1.5 times faster or more.

    A step that is no doubling must gain in proportion: (K'/K)^(log 1.5 / log 2).

    Parameters
    ----------
    times : by growing numbers of ranks, from the fewest that have the memory
    """
    listed = list(times)
    best = listed[0]
    for time in listed[1:]:
        needed = (time.ranks / best.ranks) ** math.log2(WORTH)
        if time.speed_up(best) < needed:
            break
        best = time
    return best.ranks
