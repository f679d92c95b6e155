"""Rates of a link: the right number for each way, on a link whose clock is ours."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pypty.ranks import measure as module
from pypty.ranks.link import Link
from pypty.ranks.local import PipesLink
from pypty.ranks.measure import answer_measure, measure
from pypty.ranks.messages import Header, Message

LATENCY_S, TO, FROM = 1e-3, 200e6, 100e6


class OneWire(Link):
    """Rank 0, whose messages travel one after the other: so much per message, and so much per byte each way."""

    path = "one wire"

    def __init__(self, n_ranks: int) -> None:
        super().__init__(0, n_ranks)
        self.now = 0.0

    def send(self, to: int, kind: str, content: Any = None, arrays: Sequence[Any] = ()) -> None:
        self.now += LATENCY_S + sum(array.nbytes for array in arrays) / TO
        answer_measure(SimpleNamespace(send=self._answers(to)), Message(kind, content, tuple(arrays)))

    def _answers(self, rank: int) -> Any:
        def send(to: int, kind: str, content: Any = None, arrays: Sequence[Any] = ()) -> None:
            assert to == 0
            self._inbox[rank].append(Message(kind, content, tuple(arrays)))

        return send

    def receive(self, source: int) -> Message:
        message = self._inbox[source].popleft()
        self.now += LATENCY_S + sum(array.nbytes for array in message.arrays) / FROM
        return message

    def _put(self, to: int, header: Header, arrays: Sequence[np.ndarray]) -> None: ...

    def _ready(self, timeout_s: float) -> list[int]:
        return []

    def _take(self, source: int) -> Message:
        raise EOFError

    def lost(self, rank: int) -> str:
        return ""

    def close(self) -> None: ...


def test_each_way_has_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    link = OneWire(4)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: link.now))
    rates = measure(link)
    assert rates.latency_s == pytest.approx(LATENCY_S)
    assert rates.to_one == pytest.approx(TO) and rates.from_one == pytest.approx(FROM)
    # the messages of three ranks come one after the other here, and their latency counts
    assert rates.to_all == pytest.approx(TO, rel=0.2) and rates.to_all < TO
    assert rates.from_all == pytest.approx(FROM, rel=0.2) and rates.from_all < FROM
    assert rates.n_bytes / TO > 10 * LATENCY_S
    assert link.now < 3


def test_only_rank_0_of_several_measures() -> None:
    with pytest.raises(ValueError, match="not by rank 0 of 1"):
        measure(PipesLink({}))
