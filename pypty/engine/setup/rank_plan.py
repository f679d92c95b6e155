"""Whether more ranks are worth it: memory and time of a reconstruction on 1, 2, 4, ... of them."""

from __future__ import annotations

from dataclasses import dataclass

from pypty.backend.array import available_cores
from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.division import Division
from pypty.engine.setup.memory_plan import MemoryPlan, Ranks, size_text
from pypty.engine.setup.precision import division, planned
from pypty.engine.setup.scaling import (
    WORTH,
    EpochTime,
    Measured,
    Storage,
    best_number,
    doublings,
    epoch_time,
)
from pypty.errors import ParameterError, ResourceError

_FASTER = 1.05
"""Epochs are told apart whose times differ by more than this factor; the model knows them no better."""


@dataclass(frozen=True, kw_only=True)
class RankRow:
    """A reconstruction on a number of ranks.

    Attributes
    ----------
    memory : plan of rank 0; None = it does not fit
    time : of an epoch; None = rates are not known, or it does not fit
    """

    ranks: int
    memory: MemoryPlan | None
    time: EpochTime | None


@dataclass(frozen=True, kw_only=True)
class RankPlan:
    """Memory and time on several numbers of ranks. Printing it gives a table, and says whether they are worth it.

    Attributes
    ----------
    ranks : the number that was asked for
    overlap : area of the windows of all ranks over that of the object, for ``ranks``
    rows : by growing numbers of ranks; the last is that of ``ranks``
    shared_cores : the ranks compute on the same cores
    """

    ranks: int
    overlap: float
    rows: tuple[RankRow, ...]
    shared_cores: bool

    @property
    def best(self) -> int | None:
        """Beyond this number more ranks do not pay; None where no time is known."""
        times = self._times
        return best_number(times) if times else None

    @property
    def _times(self) -> list[EpochTime]:
        return [row.time for row in self.rows if row.time is not None]

    def __str__(self) -> str:
        last = self.rows[-1].memory
        lines = [] if last is None else [str(last)]
        lines += [
            f"Up to {self.ranks} ranks; their windows have {self.overlap:.2f} times the area of the object together",
            *self._memory_lines(),
            "  ranks       rank 0   each other   history   s/epoch    faster   efficiency   sending",
            *map(self._line, self.rows),
            self.sentence,
        ]
        return "\n".join(lines)

    __repr__ = __str__

    def _line(self, row: RankRow) -> str:
        plan = row.memory
        if plan is None:
            return f"  {row.ranks:>5} {'does not fit':>12}"
        other = size_text(plan.of_another) if plan.others else "-"
        history = "in pieces" if plan.spread_history else "whole"
        line = f"  {row.ranks:>5} {size_text(plan.total):>12} {other:>12} {history:>9}"
        if row.time is None:
            return line
        line += f" {row.time.total_s:>9.3g}"
        one = self._times[0]
        faster, efficiency = row.time.speed_up(one), row.time.speed_up(one) * one.ranks / row.time.ranks
        return f"{line} {faster:>8.3g}x {efficiency:>11.0%} {row.time.sending_share:>9.0%}"

    def _memory_lines(self) -> list[str]:
        """How the memory of a rank falls."""
        alone, shared = self.rows[0].memory, self.rows[-1].memory
        if shared is None or not shared.others:
            return []
        one = "does not fit on one" if alone is None else f"{size_text(alone.total)} on one"
        pieces = ""
        if not shared.spread_history and shared.in_pieces < shared.total:
            pieces = f" ({size_text(shared.in_pieces)} where only pieces of the L-BFGS history fit)"
        return [
            f"Memory of a rank: {one}; on {self.ranks} ranks {size_text(shared.total)} for rank 0{pieces} and at most "
            f"{size_text(shared.of_another)} for another"
        ]

    @property
    def sentence(self) -> str:
        """Whether the ranks are worth it."""
        times, best = self._times, self.best
        fitting = [row.ranks for row in self.rows if row.memory is not None]
        if not fitting:
            return f"It does not fit on {self.ranks} ranks: more of them, or more memory, are needed."
        fewest = f"It needs {fitting[0]} ranks at least, for their memory. " if fitting[0] > 1 else ""
        if best is None:
            return f"{fewest}No rates are known, so nothing is said about time."
        last = times[-1]
        if last.ranks == times[0].ranks:
            return f"{fewest}There is nothing to compare {last.ranks} ranks with."
        gain = _compared(last, times[0])
        if best == last.ranks:
            return f"{fewest}{last.ranks} ranks are worth it: {gain}."
        why = " They share the same cores: only more of these would help." if self.shared_cores else ""
        most = f"More than {_number(best)} do not pay here: twice as many do not make an epoch {WORTH:g} times as fast."
        return f"{fewest}{last.ranks} ranks are not worth it: {gain}. {most}{why}"


def _compared(time: EpochTime, fewer: EpochTime) -> str:
    """How long an epoch takes, beside one on fewer ranks."""
    faster, than = time.speed_up(fewer), _number(fewer.ranks)
    if faster >= _FASTER:
        return f"an epoch is {faster:.2g} times as fast as on {than}"
    if faster > 1 / _FASTER:
        return f"an epoch takes as long as on {than}"
    return f"an epoch takes {1 / faster:.2g} times as long as on {than}"


def _number(ranks: int) -> str:
    return "one" if ranks == 1 else str(ranks)


def rank_plan(setup: Setup, ranks: Ranks, measured: Measured | None) -> RankPlan:
    """Plan a reconstruction on 1, 2, 4, ... ranks, and on ``ranks``.

    Parameters
    ----------
    setup : checked parameters, prepared for ``ranks`` if they do not fit on fewer
    ranks : processes; of fewer than these as many are on a node as fit there
    measured : rates on the device of ``setup`` and between ranks (:func:`pypty.engine.epochs.timing.measure_rates`);
        None = only memory is planned

    Raises
    ------
    ParameterError
        There are fewer patterns than ranks.
    """
    if ranks.size < 1:
        raise ParameterError(f"ranks: given {ranks.size}, expected a whole number >= 1")
    numbers = doublings(ranks.size)
    divisions = [division(setup, number) or _whole(setup) for number in numbers]
    rows = [
        _row(setup, _fewer(ranks, number), parts, measured)
        for number, parts in zip(numbers, divisions, strict=True)
    ]
    return RankPlan(
        ranks=ranks.size,
        overlap=divisions[-1].overlap(setup.plan.sizes),
        rows=tuple(rows),
        shared_cores=not setup.backend.on_gpu and ranks.on_cores > 1,
    )


def _whole(setup: Setup) -> Division:
    """The division among one rank."""
    return Division(windows=(setup.scan.object_shape,), n_patterns=setup.n_patterns)


def _fewer(ranks: Ranks, number: int) -> Ranks:
    """The first of the ranks."""
    on_node = min(ranks.on_node, number)
    return Ranks(size=number, on_node=on_node, on_cores=min(ranks.on_cores, on_node))


def _row(setup: Setup, ranks: Ranks, parts: Division, measured: Measured | None) -> RankRow:
    try:
        plan = planned(setup, ranks).plan
    except ResourceError:
        return RankRow(ranks=ranks.size, memory=None, time=None)
    if measured is None:
        return RankRow(ranks=ranks.size, memory=plan, time=None)
    on_gpu = setup.backend.on_gpu
    # cores that a rank has, if all compute at a time
    cores = min(plan.n_threads, available_cores() / ranks.on_cores)
    time = epoch_time(
        plan.sizes,
        parts,
        measured.method,
        measured.rates,
        complex_bytes=setup.backend.complex.itemsize,
        storage=Storage(
            on_device=plan.resident_on_device or (plan.resident and not on_gpu), on_host=plan.resident
        ),
        spread=plan.spread_history,
        slower=1.0 if on_gpu else measured.n_threads / cores,
    )
    return RankRow(ranks=ranks.size, memory=plan, time=time)
