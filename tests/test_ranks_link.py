"""What all links share: which arrays arrive, what counts as waiting, how a rank waits, and signals meanwhile."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from multiprocessing import Pipe

import numpy as np
import pytest

from pypty.errors import DataError, RankError, ResourceError
from pypty.ranks.link import SILENCE_S, Link
from pypty.ranks.local import PipesLink, WorkerLink
from pypty.ranks.messages import BEAT, FAILED, Apart, Failed, Header, Message
from pypty.ranks.pause import Pause
from pypty.ranks.questions import FORGET, Questions
from pypty.ranks.signals import SignalsWait, signals_ignored

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


def test_signals_wait_for_the_end_of_a_block() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), SignalsWait():
        signal.raise_signal(signal.SIGINT)
        with SignalsWait():  # within another one
            signal.raise_signal(signal.SIGINT)
        done.append("the block")
    assert done and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_signals_that_are_ignored_stay_ignored() -> None:
    with signals_ignored():
        with SignalsWait():
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_what_a_rank_sends_of_a_question_that_was_broken_off_is_passed_over() -> None:
    mine, its = Pipe()
    link, other = PipesLink({1: mine}), WorkerLink(its, 1, 2)
    questions = Questions(link)
    with pytest.raises(KeyboardInterrupt), questions.asked():
        raise KeyboardInterrupt
    other.send(0, "loss", 1.0)  # of the first question
    other.send(0, FORGET, 1)
    other.send(0, "loss", 2.0)
    with questions.asked():
        assert questions.answer(1).content == 2.0
    assert other.receive(0) == Message(FORGET, 1) and questions.broken_off == 1
    with questions.asked():  # this one was not
        pass
    assert questions.broken_off == 1


def test_after_a_rank_has_failed_no_question_is_asked() -> None:
    mine, its = Pipe()
    link, other = PipesLink({1: mine}), WorkerLink(its, 1, 2)
    questions = Questions(link)
    other.send(0, FAILED, Failed("DataError", "pattern 7 is damaged", "..."))
    for _ in range(2):
        with pytest.raises(DataError, match="^rank 1: pattern 7 is damaged$"), questions.asked():
            questions.answer(1)


def test_errors_of_python_and_of_this_package() -> None:
    assert isinstance(Failed("ResourceError", "too large", "").error("rank 1"), ResourceError)
    other = Failed("KeyError", "'probe'", "Traceback ...").error("rank 1")
    assert type(other) is RankError and "KeyError: 'probe'\nTraceback" in str(other)
    assert type(Failed("ClassVar", "no error", "").error("rank 1")) is RankError


def test_a_rank_that_has_failed_and_ended_is_known_by_its_error() -> None:
    """--restart depends on it, also where rank 0 has been busy meanwhile."""
    pipes = {rank: Pipe() for rank in (1, 2)}
    link = Ended({rank: mine for rank, (mine, _) in pipes.items()})
    others = {rank: WorkerLink(its, rank, 3) for rank, (_, its) in pipes.items()}
    others[2].send(0, FAILED, Failed("DataError", "pattern 7 is damaged", ""))
    others[2].close()
    with pytest.raises(DataError, match="rank 2: pattern 7 is damaged"):
        link.receive(1)
    with pytest.raises(DataError, match="rank 2: pattern 7 is damaged"):
        link.send(2, "sum", None, [np.zeros(10**6)])


class Ended(PipesLink):
    """Rank 2 is known to have ended, before its last message was read."""

    def lost(self, rank: int) -> str:
        return "ended with status 1" if rank == 2 else ""

    def _ready(self, timeout_s: float) -> list[int]:
        return super()._ready(timeout_s) if timeout_s == 0 else []


def test_a_warning_that_sending_causes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pypty.ranks.link._WARN_S", 0.01)
    mine, its = Pipe()
    link, other = PipesLink({1: mine}), WorkerLink(its, 1, 2)
    with other._lock:
        other.warn("a file was not closed")
    other.send(0, "loss", 1.0)
    assert link.receive(1).content == 1.0
