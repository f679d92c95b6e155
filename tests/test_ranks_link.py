"""What all links share: which arrays arrive, what counts as waiting, and how a rank waits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from multiprocessing import Pipe

import numpy as np
import pytest

from pypty.errors import RankError
from pypty.ranks.link import BEAT, SILENCE_S, Apart, Header, Link, Message
from pypty.ranks.local import PipesLink, WorkerLink
from pypty.ranks.pause import Pause

ARRAYS = (
    np.arange(6, dtype=np.complex64).reshape(2, 3),
    np.array(2.5),
    np.zeros((0, 4), np.uint16),
    np.arange(20).reshape(4, 5)[:, ::2],
)


def test_arrays_keep_their_shapes_and_types() -> None:
    mine, its = Pipe()
    rank0, rank1 = PipesLink({1: mine}), WorkerLink(its, 1, 2)
    rank0.send(1, "there", "content", ARRAYS)
    message = rank1.receive(0)
    assert message.kind == "there" and message.content == "content"
    for found, sent in zip(message.arrays, ARRAYS, strict=True):
        assert found.shape == sent.shape and found.dtype == sent.dtype
        np.testing.assert_array_equal(found, sent)
    rank0.close()
    with pytest.raises(RankError, match="has ended"):
        rank1.receive(0)
    rank1.close()


def test_a_route_that_only_one_rank_has_opened() -> None:
    mine, its = Pipe()
    rank0, rank1 = PipesLink({1: mine}), WorkerLink(its, 1, 2)
    rank0.send(1, "there", Apart(None, (0,), (("<f4", (3,)),)))
    with pytest.raises(RankError, match="not opened"):
        rank1.receive(0)
    rank0.close()
    rank1.close()


class Busy(Link):
    """Rank 0 of many: the others send beats all the time, and rank 1 at last what is waited for."""

    path = "none"

    def __init__(self, n_beats: int) -> None:
        super().__init__(0, 3)
        self.left = n_beats

    def _ready(self, timeout_s: float) -> list[int]:
        self.left -= 1
        return [2] if self.left >= 0 else [1]

    def _take(self, source: int) -> Message:
        return Message(BEAT, 0.0) if source == 2 else Message("answer")

    def _put(self, to: int, header: Header, arrays: Sequence[np.ndarray]) -> None: ...

    def lost(self, rank: int) -> str:
        return ""

    def close(self) -> None: ...


def test_messages_of_others_are_no_silence() -> None:
    """What counts is the time that was waited, not how often another rank was heard."""
    n_beats = int(10 * SILENCE_S)
    assert Busy(n_beats).receive(1).kind == "answer"


def test_pauses_follow_what_was_waited() -> None:
    """A small message is seen at once, and a long wait takes no processor."""
    pause = Pause(0.001)
    began = time.process_time()
    while pause.waited_s < 0.3:
        pause.wait()
    assert time.process_time() - began < 0.1
    before = pause.waited_s
    pause.wait()
    assert pause.waited_s - before == pytest.approx(0.005)
