"""The share of an evaluation that a thread computes, with its sums, and the limit above which it may stop early."""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from pypty.backend.array import Array, array_module, to_host
from pypty.backend.device_errors import device_errors
from pypty.backend.workspace import Workspace
from pypty.data.batch import Batch
from pypty.objective.combined import Sums
from pypty.objective.noise import NoiseModel
from pypty.objective.powers import N_SUMS, PATTERN_SUMS, PowerSum
from pypty.objective.replay import Replay

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class FreeSums:
    """Weighted sums over the free pixels: of their deviance, and of 1."""

    deviance: float = 0.0
    weight: float = 0.0

    @property
    def mean(self) -> float | None:
        """Mean deviance; None without free pixels."""
        return float(self.deviance / self.weight) if self.weight > 0 else None


def added_free(parts: Iterable[FreeSums]) -> FreeSums:
    """The sums over several batches."""
    listed = list(parts)
    return FreeSums(math.fsum(part.deviance for part in listed), math.fsum(part.weight for part in listed))


@dataclass(kw_only=True)
class Evaluated:
    """Value and gradient of the objective at one point, in the internal layout.

    Attributes
    ----------
    loss : weighted data term plus all regularisers
    sse : sum of squared errors (D - I)^2 times the detector weights; not times ``loss_weight``
    gradients : by block name, only the refined ones
    terms : value of each regulariser
    parts : unweighted loss of every batch, to compare a trial with (:class:`Limit`); empty if the loss is not a sum
        over batches
    loss_terms : value of each term of ``loss_terms``, times ``loss_weight``: with ``terms`` they add up to ``loss``
    sums : the sums that the terms are functions of, or None
    free : deviance of the pixels that are not fitted
    unread : where :func:`read` finds loss, sse, parts and free, which are not known before; None = they are known
    rounding : ``Objective.rounding`` with which it was computed; None = not known (a resumed run: that of the run)
    """

    loss: float
    sse: float
    gradients: dict[str, Array]
    terms: dict[str, float] = field(default_factory=dict)
    parts: np.ndarray = field(default_factory=lambda: np.zeros(0))
    loss_terms: dict[str, float] = field(default_factory=dict)
    sums: Sums | None = None
    free: FreeSums = FreeSums()
    rounding: tuple[int, int] | None = None
    unread: Unread | None = None


@dataclass(kw_only=True)
class Unread:
    """Numbers of an evaluation that are still on the device.

    Attributes
    ----------
    totals : (batches, 4) float64
    weight, penalties : the loss is weight times the sum over the batches, plus the values of the regularisers
    """

    totals: Array
    weight: float = 1.0
    penalties: dict[str, float | Array] = field(default_factory=dict)


def read(results: Iterable[Evaluated]) -> None:
    """Fill in loss, squared errors, regularisers and free pixels of evaluations that did not wait for them, in one
    transfer."""
    waiting = [(result, result.unread) for result in results if result.unread is not None]
    if not waiting:
        return
    xp = array_module(waiting[0][1].totals)
    with device_errors():
        rows = to_host(xp.concatenate([own.totals for _, own in waiting]))
        penalties = fetched(
            {(i, name): value for i, (_, own) in enumerate(waiting) for name, value in own.penalties.items()}
        )
    edges = np.cumsum([len(own.totals) for _, own in waiting])[:-1]
    for i, ((result, own), totals) in enumerate(zip(waiting, np.split(rows, edges), strict=True)):
        result.terms = {name: penalties[i, name] for name in own.penalties}
        result.parts, result.unread = totals[:, 0], None
        result.loss = float(result.parts.sum()) * own.weight + sum(result.terms.values())
        result.sse, result.free = float(totals[:, 1].sum()), free_of(totals)


def fetched(values: Mapping[K, float | Array]) -> dict[K, float]:
    """Numbers of which some may be on a device: these are read in one transfer."""
    there = {key: value for key, value in values.items() if not isinstance(value, (float, int))}
    if not there:
        return dict(values)
    arrays = list(there.values())
    numbers = to_host(array_module(arrays[0]).stack(arrays)).tolist()
    return {**values, **dict(zip(there, numbers, strict=True))}


def free_of(totals: np.ndarray) -> FreeSums:
    """Sums over the free pixels of all batches, from (batches, n) totals on the host."""
    deviance, weight = totals[:, -2:].sum(axis=0)
    return FreeSums(float(deviance), float(weight))


@dataclass(frozen=True)
class Limit:
    """The value of the objective above which the gradient is not needed.

    If the loss of the first quarter of its batches (or more) has grown, a thread expects the trial to be rejected. It
    then computes only the loss of the rest, in less than half the time. If the total loss is low enough after all, the
    missing gradients are computed afterwards. On a GPU a thread copies the losses to the host only twice: after a
    quarter of its batches and after half of them.

    Attributes
    ----------
    value : the limit
    parts : loss of every batch at the start of the line search; empty = no guess is made
    """

    value: float = math.inf
    parts: np.ndarray = field(default_factory=lambda: np.zeros(0))


@dataclass(kw_only=True)
class Share:
    """The batches of a thread, with its sums.

    Attributes
    ----------
    batches : pattern numbers of each batch
    before : loss of each batch at the start of the line search; None = not compared
    gradients, workspace : accumulators and memory of the thread
    totals : (batches, 4) float64, loss, squared errors and sums of free pixels (the last two) of each batch, where they
        are computed; with ``loss_terms`` further sums between
    noise : the loss of each pixel
    skipped : numbers of the batches of which only the loss was computed
    rejecting : the trial is expected to be rejected
    replay : runs the batches as graphs; None = one kernel after the other
    patterns : (3, ky, kx) sums over patterns (:meth:`PowerSum.pattern_sums`), or None
    """

    batches: list[np.ndarray]
    before: np.ndarray | None
    gradients: dict[str, Array]
    workspace: Workspace
    totals: Array
    noise: NoiseModel
    skipped: list[int] = field(default_factory=list)
    rejecting: bool = False
    replay: Replay | None = None
    patterns: Array = None

    @functools.cached_property
    def scores(self) -> np.ndarray:
        """``totals`` on the host, copied once, when all batches are computed."""
        return to_host(self.totals)

    @property
    def losses(self) -> np.ndarray:
        """Loss of each batch."""
        return self.scores[:, 0]

    @property
    def free(self) -> FreeSums:
        """Sums over the free pixels of all batches."""
        return free_of(self.scores)

    def begin(self, batch: Batch) -> None:
        """Make the sums over patterns before the first batch, outside of graphs: a batch only adds to them."""
        if isinstance(self.noise, PowerSum) and self.patterns is None:
            self.patterns = self.noise.pattern_sums(self.workspace, batch.data.shape[-2:])

    def expects_rejection(self, number: int) -> bool:
        """Whether the loss of the batches so far, at least a quarter, has grown. On a GPU the result of the last
        comparison is used."""
        seen, n = number + 1, len(self.batches)
        if self.before is None or not self.gradients or 4 * seen < n:
            return False
        # ceil(n/4) and ceil(n/2): on a GPU each comparison waits for the device
        if isinstance(self.totals, np.ndarray) or seen in (-(-n // 4), -(-n // 2)):
            losses = to_host(self.totals[:seen])[:, 0]
            self.rejecting = not losses.sum() <= self.before[:seen].sum()  # also where the sum is NaN
        return self.rejecting


def added(shares: list[Share], gradients: dict[str, Array], loss: float) -> Evaluated:
    """The numbers of all shares, in a fixed order, with their loss and gradients."""
    parts = np.zeros(sum(len(share.batches) for share in shares))
    for i, share in enumerate(shares):
        # batches were dealt out in turn: parts are in their order again
        parts[i :: len(shares)] = share.losses
    sse = float(sum(share.scores[:, 1].sum() for share in shares))
    free, sums = added_free(share.free for share in shares), sums_of(shares)
    return Evaluated(loss=loss, sse=sse, gradients=gradients, parts=parts, sums=sums, free=free)


def unread(share: Share, gradients: dict[str, Array]) -> Evaluated:
    """An evaluation whose numbers stay on the device until :func:`read`."""
    return Evaluated(loss=math.nan, sse=math.nan, gradients=gradients, unread=Unread(totals=share.totals))


def sums_of(shares: list[Share]) -> Sums | None:
    """Sums over all batches, in a fixed order; None if the noise model has none."""
    if not shares or shares[0].scores.shape[1] != N_SUMS:
        return None
    # (batches, N_SUMS) of each thread -> (N_SUMS,)
    totals = np.sum([share.scores.sum(axis=0) for share in shares], axis=0)
    if shares[0].patterns is None:
        return Sums(totals, {})
    patterns = np.sum([to_host(share.patterns) for share in shares], axis=0)
    return Sums(totals, dict(zip(PATTERN_SUMS, patterns, strict=True)))
