"""Messages between rank 0, which runs a reconstruction, and the other ranks, which compute parts of it.

Rank 0 talks to every other rank, and these only to rank 0. A rank that computes tells every second how far it is, so
that one that hangs can be told from one that takes long.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import numpy as np

from pypty.backend.array import Array, to_host
from pypty.errors import PyptyError, RankError
from pypty.ranks.messages import BEAT, FAILED, FULL, WARNING, Apart, Header, Message, Shapes, shapes_of
from pypty.ranks.signals import SignalsWait

BEAT_S = 1.0
"""Time between two messages of a rank that computes."""
SILENCE_S = 12.0
"""A rank that should compute, and from which nothing has come for so long, is stopped, or cannot be reached."""
OWN_BEAT_S, OWN_SILENCE_S = 5.0, 300.0
"""The same for rank 0. It may write large files for minutes, in which Python does nothing else."""
_POLL_S = 0.25
_FIRST = 10
"""A rank may take so many times longer for its first answer: it imports, compiles kernels, reads its patterns."""
_WARN_S = 1.0
"""Time for which a warning waits until a message is sent."""
_WATCH_S = 0.05
"""A rank that waits for something else than a message reads the messages that come meanwhile so often."""
_log = logging.getLogger(__name__)


class Route(ABC):
    """A second way between ranks, for arrays that need not come to the host."""

    @abstractmethod
    def takes(self, array: Array) -> bool:
        """Whether an array may travel so."""

    @abstractmethod
    def send(self, to: int, arrays: Sequence[Array]) -> None:
        """Send arrays, which the other rank expects. Raises RankError where it has ended or hangs."""

    @abstractmethod
    def receive(self, source: int, shapes: Shapes) -> list[Array]:
        """Receive arrays. Raises RankError where the other rank has ended or hangs."""

    @abstractmethod
    def close(self) -> None:
        """End it."""


class Link(ABC):
    """The connections of a rank.

    Parameters
    ----------
    patience_s : a rank whose computation makes no progress for so long hangs

    Attributes
    ----------
    rank, size : number of this rank, and of all ranks
    names : of every rank, for messages: its number, host, process and device
    silence_s : a rank from which nothing has come for so long is stopped or cannot be reached; inf where ranks cannot
        send beats
    failed : ranks that have said that they have failed
    """

    rank: int
    size: int
    names: list[str]
    path: str
    """How arrays travel, in words."""
    route: Route | None = None
    """Which arrays on devices take (:mod:`pypty.ranks.nccl`); None = they come to the host."""

    def __init__(self, rank: int, size: int, patience_s: float = 20.0) -> None:
        self.rank, self.size, self.patience_s, self.silence_s = rank, size, patience_s, SILENCE_S
        self.names = [f"rank {number}" for number in range(size)]
        self._inbox: dict[int, deque[Message]] = {number: deque() for number in range(size)}
        self._idle = dict.fromkeys(range(size), 0.0)
        self._stalled = dict.fromkeys(range(size), 0.0)
        self._answered: set[int] = set()
        self.failed: set[int] = set()
        self._lock = threading.Lock()
        self._done = 0

    @abstractmethod
    def _put(self, to: int, header: Header, arrays: Sequence[np.ndarray]) -> None:
        """Send a message. Raises OSError where the other rank has gone."""

    @abstractmethod
    def _ready(self, timeout_s: float) -> list[int]:
        """Ranks from which a message can be read; waits for one at most so long."""

    @abstractmethod
    def _take(self, source: int) -> Message:
        """Read a message that has arrived.

        Raises
        ------
        OSError, EOFError
            The other rank has gone.
        MemoryError
            There is no room for the arrays; the message was passed over.
        """

    @abstractmethod
    def lost(self, rank: int) -> str:
        """Why a rank is known to have ended, or "" where it may be alive."""

    @abstractmethod
    def close(self) -> None:
        """End all connections; rank 0 also ends the ranks that it has started."""

    def local_size(self) -> int:
        """Number of ranks on this machine."""
        return self.size

    def give_up(self, rank: int) -> None:  # noqa: B027 - not every rank can be ended from here
        """End a rank that hangs, if this process has started it."""

    @property
    def others(self) -> range:
        """The ranks except this one, for rank 0."""
        return range(1, self.size)

    def send(self, to: int, kind: str, content: Any = None, arrays: Sequence[Array] = ()) -> None:
        """Send a message; signals wait until it is sent.

        Raises
        ------
        RankError
            The other rank has ended.
        """
        apart = tuple(place for place, array in enumerate(arrays) if self.route and self.route.takes(array))
        sent_apart = [arrays[place] for place in apart]
        host = [
            np.asarray(to_host(array), order="C") for place, array in enumerate(arrays) if place not in apart
        ]
        if apart:
            content = Apart(content, apart, shapes_of(sent_apart))
        header = Header(kind, content, shapes_of(host))
        with SignalsWait():
            try:
                with self._lock:
                    self._put(to, header, host)
            except OSError as error:
                raise self._last_words(to, self._reason(to, error)) from error
            if self.route and apart:
                self.route.send(to, sent_apart)

    def warn(self, text: str) -> None:
        """Tell rank 0 a warning, which it writes into its log. It is given up where this rank is busy sending: what is
        sent may be the cause of the warning."""
        if self._lock.acquire(timeout=_WARN_S):
            try:
                self._put(0, Header(WARNING, text, ()), ())
            except OSError:
                _log.debug("a warning could not be told: %s", text)
            finally:
                self._lock.release()

    def receive(self, source: int) -> Message:
        """The next message of a rank.

        Raises
        ------
        RankError
            The rank has ended, or hangs.
        PyptyError
            The rank says that it has failed; the class is that of its error.
        MemoryError
            There is no room for the arrays of the message, which is lost.
        """
        self._idle[source] = self._stalled[source] = 0.0
        while not self._inbox[source]:
            self._collect(source)
        with SignalsWait():  # arrays that travel apart follow at once
            message = self._inbox[source].popleft()
            self._answered.add(source)
            self._pass_failure(source, message)
            return self._complete(source, message)

    def _complete(self, source: int, message: Message) -> Message:
        """The message with the arrays that have taken a route of their own."""
        if not isinstance(message.content, Apart):
            return message
        if self.route is None:
            raise RankError(f"{self.names[source]} sends arrays by a route that this rank has not opened")
        apart, arrays = message.content, list(message.arrays)
        for place, array in zip(apart.places, self.route.receive(source, apart.shapes), strict=True):
            arrays.insert(place, array)
        return Message(message.kind, apart.content, tuple(arrays))

    def watching(self, awaited: int) -> Callable[[float], None]:
        """What to call again and again while a rank does not do what this one waits for, other than a message.

        It may be sending itself, compute, hang, or have ended. The function takes the time since something has
        happened, reads messages, and raises RankError where the other rank hangs or has ended.
        """
        self._idle[awaited] = self._stalled[awaited] = 0.0
        before = 0.0

        def watch(waited_s: float) -> None:
            nonlocal before
            if waited_s < before:  # something has happened in between
                before = self._idle[awaited] = 0.0
            if waited_s - before >= _WATCH_S:
                self._digest(self._ready(0.0), awaited, waited_s - before)
                before = waited_s
                for message in self._inbox[awaited]:
                    self._pass_failure(awaited, message)
                    if message.kind == FULL:
                        raise MemoryError(f"{self.names[awaited]}: {message.content}")

        return watch

    def _pass_failure(self, source: int, message: Message) -> None:
        if message.kind == FAILED:
            self.failed.add(source)
            raise message.content.error(self.names[source])

    def leave_route(self) -> None:
        """End the second way, if there is one."""
        if self.route is not None:
            self.route.close()
            self.route = None

    def _collect(self, awaited: int) -> None:
        """Read what has arrived from any rank, and look whether the awaited one is alive."""
        before = time.monotonic()
        arrived = self._ready(_POLL_S)
        # the time that this process waits, not that of a clock: a machine may sleep in between
        self._digest(arrived, awaited, min(time.monotonic() - before, _POLL_S))

    def _digest(self, arrived: list[int], awaited: int, waited_s: float) -> None:
        """Read what has arrived; raises RankError where the awaited rank, after so much more waiting, is not alive."""
        for source in arrived:
            with SignalsWait():
                self._sort(source)
        if awaited not in arrived:
            self._idle[awaited] += waited_s
        for rank in self.others if self.rank == 0 else (0,):
            reason = self.lost(rank)
            if reason and not self._inbox[rank]:
                raise self._last_words(rank, reason)
        if self.rank and self._idle[0] > OWN_SILENCE_S and self.silence_s < math.inf:
            raise RankError(f"{self.names[0]} hangs: it has been silent for {OWN_SILENCE_S:.0f} s")
        if self._idle[awaited] > self.silence_s and self.rank == 0:
            self.give_up(awaited)
            raise RankError(
                f"{self.names[awaited]} hangs: nothing has come from it for {self.silence_s:.0f} s; it is stopped, or "
                "its machine cannot be reached"
            )
        if self._stalled[awaited] > self.patience_s * (1 if awaited in self._answered else _FIRST):
            self.give_up(awaited)
            raise RankError(
                f"{self.names[awaited]} hangs: its computation has made no progress for "
                f"{self._stalled[awaited]:.0f} s (rank_timeout_s)"
            )

    def _sort(self, source: int) -> None:
        """Read a message that has arrived, and put it where it belongs."""
        try:
            message = self._take(source)
        except (OSError, EOFError) as error:
            raise self._last_words(source, self._reason(source, error)) from error
        self._idle[source] = 0.0
        if message.kind == BEAT:
            self._stalled[source] = float(message.content)
        elif message.kind == WARNING:
            _log.warning("%s: %s", self.names[source], message.content)
        else:
            self._inbox[source].append(message)

    def _last_words(self, rank: int, reason: str) -> PyptyError:
        """The error of a rank that has ended: its own, if it has told it before."""
        with suppress(OSError, EOFError, MemoryError):
            while rank in self._ready(0.0):
                self._inbox[rank].append(self._take(rank))
        for message in self._inbox[rank]:
            if message.kind == FAILED:
                self.failed.add(rank)
                return message.content.error(self.names[rank])
        return RankError(f"{self.names[rank]} {reason}")

    def _reason(self, rank: int, error: BaseException) -> str:
        """Why a connection ended; a process that has just died is told of a little later."""
        for _ in range(10):
            reason = self.lost(rank)
            if reason:
                return reason
            time.sleep(0.05)
        return f"has ended, or cannot be reached any more ({type(error).__name__}: {error})"

    def will_take_longer(self) -> None:
        """Have more patience with the next answer of every rank: it has to prepare what it computes."""
        self._answered.clear()

    def progress(self) -> None:
        """Call whenever a part of a computation is done."""
        self._done += 1

    @contextmanager
    def computing(self) -> Iterator[None]:
        """While the block runs, rank 0 is told every second for how long nothing was done (:meth:`progress`)."""
        seen, since = self._done, time.monotonic()

        def beat() -> None:
            nonlocal seen, since
            now = time.monotonic()
            if self._done != seen:
                seen, since = self._done, now
            self.send(0, BEAT, now - since)

        with _repeating(beat, BEAT_S):
            yield

    @contextmanager
    def alive(self) -> Iterator[None]:
        """While the block runs, the other ranks are told every few seconds that rank 0 is there."""

        def beat() -> None:
            for rank in self.others:
                self.send(rank, BEAT, 0.0)

        with _repeating(beat, OWN_BEAT_S) if self.silence_s < math.inf else nullcontext():
            yield

    def wait_longer(self, slowest_s: float) -> None:
        """Have patience for batches of which one took so long."""
        self.patience_s = max(self.patience_s, 10 * slowest_s)


@contextmanager
def _repeating(task: Callable[[], None], every_s: float) -> Iterator[None]:
    """While the block runs, do a task again and again in a thread, until it finds that nobody is there."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(every_s):
            try:
                task()
            except RankError:
                return  # the main thread will find out

    thread = threading.Thread(target=repeat, name="beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
