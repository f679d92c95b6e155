"""How fast messages travel between rank 0 and the others."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pypty.backend.array import Array, array_module
from pypty.ranks.link import Link
from pypty.ranks.messages import Message

MEASURE = "measure"
"""The kind of the messages that :func:`answer_measure` answers."""
_BUDGET_S = 0.2
"""Time for each of the five numbers."""
_FIRST, _LARGEST = 1 << 18, 32 << 20
"""Bytes of the first array of each, and of the largest."""
_WORTH_S = 0.02
"""An array that travels for so long is large enough: the latency no longer counts."""


@dataclass(frozen=True, kw_only=True)
class LinkRates:
    """Times and rates between rank 0 and the other ranks.

    Attributes
    ----------
    latency_s : time of a small message, one way
    to_one, from_one : bytes per second of an array to rank 1, and from it
    to_all, from_all : bytes per second of rank 0, of an array to each of the others, and from each
    n_bytes : size of the arrays
    """

    latency_s: float
    to_one: float
    from_one: float
    to_all: float
    from_all: float
    n_bytes: int


def measure(link: Link, xp: Any = np) -> LinkRates:
    """Measure the rates of a link, in about a second, while the other ranks answer (:func:`answer_measure`).

    Parameters
    ----------
    link : of rank 0, with one rank more at least
    xp : module of the arrays that travel, numpy or cupy

    Raises
    ------
    ValueError
        There is no other rank, or this is not rank 0.
    RankError
        A rank has ended or hangs.
    """
    if link.rank or link.size < 2:
        raise ValueError(f"measured by rank 0 of several, not by rank {link.rank} of {link.size}")
    one, everyone = [1], list(link.others)
    rounds = _repeated(lambda: _there(link, one, xp.zeros(0, np.uint8)), _BUDGET_S)
    sent = _large_enough(link, xp)
    round_trip_s = statistics.median(rounds)

    def rate(task: Callable[[], object], n_ranks: int) -> float:
        # both ways are in each time; all ranks answer at a time
        travel_s = statistics.median(_repeated(task, _BUDGET_S)) - round_trip_s
        return n_ranks * sent.nbytes / max(travel_s, 1e-9)

    return LinkRates(
        latency_s=round_trip_s / 2,
        to_one=rate(lambda: _there(link, one, sent), 1),
        from_one=rate(lambda: _back(link, one, sent), 1),
        to_all=rate(lambda: _there(link, everyone, sent), len(everyone)),
        from_all=rate(lambda: _back(link, everyone, sent), len(everyone)),
        n_bytes=sent.nbytes,
    )


def answer_measure(link: Link, message: Message) -> None:
    """What another rank does with a message of :func:`measure`."""
    if message.content:
        link.send(0, MEASURE, None, [array_module(message.arrays[0]).zeros(message.content, np.uint8)])
    else:
        link.send(0, MEASURE)


def _large_enough(link: Link, xp: Any) -> Array:
    """An array whose journey to rank 1 takes long against that of a small message."""
    n_bytes = _FIRST
    while True:
        array = xp.zeros(n_bytes, np.uint8)
        if (
            n_bytes >= _LARGEST
            or min(_repeated(functools.partial(_there, link, [1], array), 0.0)) >= _WORTH_S
        ):
            return array
        n_bytes *= 2


def _there(link: Link, ranks: Sequence[int], array: Array) -> None:
    for rank in ranks:
        link.send(rank, MEASURE, 0, [array])
    for rank in ranks:
        link.receive(rank)


def _back(link: Link, ranks: Sequence[int], array: Array) -> None:
    for rank in ranks:
        link.send(rank, MEASURE, array.nbytes, [array[:0]])
    for rank in ranks:
        link.receive(rank)


def _repeated(task: Callable[[], object], budget_s: float) -> list[float]:
    """Times of a task, run once for nothing and then three times or more."""
    task()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < budget_s:
        started = time.perf_counter()
        task()
        times.append(time.perf_counter() - started)
    return times
