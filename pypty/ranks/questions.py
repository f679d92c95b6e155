"""Questions of rank 0 to the other ranks, which may be broken off at any time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pypty.errors import PyptyError, RankError
from pypty.ranks.link import Link
from pypty.ranks.messages import FULL, Message

FORGET = "forget"


class Questions:
    """What rank 0 asks the others: one question at a time, which may take several messages to and fro.

    Where a question is broken off (by Ctrl-C, or because memory has run out), the others may still be at it, and have
    answers on their way. Before the next question they are told to forget it, and what comes before they have done so
    is passed over.

    Attributes
    ----------
    broken_off : number of questions that were: after one, nobody knows what the others have heard of it
    """

    def __init__(self, link: Link) -> None:
        self.broken_off = 0
        self._link = link
        self._at_it = False
        self._lost: PyptyError | None = None

    @contextmanager
    def asked(self) -> Iterator[None]:
        """The context of a question.

        Raises
        ------
        RankError
            A rank has died, hangs, or has failed, now or in an earlier question; other errors of this package are those
            with which it has failed.
        """
        if self._lost is not None:
            raise self._lost
        if self._at_it:
            self._forget()
        self._at_it = True
        try:
            yield
        except PyptyError as error:
            if isinstance(error, RankError) or self._link.failed:
                self._lost = error
            raise
        self._at_it = False

    def answer(self, rank: int) -> Message:
        """The next answer of a rank.

        Raises
        ------
        MemoryError
            The rank has no memory for what it should do.
        """
        message = self._link.receive(rank)
        if message.kind == FULL:
            raise MemoryError(f"{self._link.names[rank]}: {message.content}")
        return message

    def _forget(self) -> None:
        """Have the others forget the last question."""
        self.broken_off += 1
        for rank in self._link.others:
            self._link.send(rank, FORGET, self.broken_off)
        for rank in self._link.others:
            # one that computes ends that first, and one that is interrupted here is told again
            while (message := self._link.receive(rank)).kind != FORGET or message.content != self.broken_off:
                pass
