"""Streams, events and graphs for the stand-in for CuPy (fake_device.py).

Copies on a stream of their own happen as late as the program allows: when somebody waits for them. A missing wait then
gives wrong numbers, and so does a pinned buffer that is filled again too early. Everything else happens at once.
While a stream is captured nothing happens; what would is kept, and done whenever the graph is launched. Memory may not
be allocated then, and the host may not wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Journal:
    """What happened, in its order: "copy", "host waits …", "host reads", "capture", "launch", "record N", "wait N" (a
    stream for the N-th event)."""

    def __init__(self) -> None:
        self.entries: list[str] = []
        self.events = 0

    def number(self) -> int:
        """Of a new point in time."""
        self.events += 1
        return self.events

    def note(self, what: str) -> None:
        self.entries.append(what)

    @contextmanager
    def of(self) -> Iterator[list[str]]:
        """What happens inside."""
        before, self.entries = self.entries, []
        try:
            yield self.entries
        finally:
            self.entries = before + self.entries


JOURNAL = Journal()


class Stream:
    """A CUDA stream."""

    current: list[Stream] = []
    capturing: list[Callable[[], Any]] | None = None

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        self.null = null
        self.pending: list[Callable[[], Any]] = []
        self.done = 0

    def __enter__(self) -> Stream:
        Stream.current.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        Stream.current.pop()

    def later(self, task: Callable[[], Any]) -> None:
        """Do it when somebody waits for it."""
        self.pending.append(task)

    def run_until(self, mark: int) -> None:
        while self.done < mark:
            self.pending[self.done]()
            self.done += 1

    def wait_event(self, event: Event) -> None:
        JOURNAL.note(f"wait {event.number}")
        event.happen()

    def begin_capture(self) -> None:
        assert not self.null, "the default stream cannot be captured"
        assert Stream.current[-1] is self and Stream.capturing is None
        JOURNAL.note("capture")
        Stream.capturing = []

    def end_capture(self) -> Graph:
        assert Stream.capturing is not None
        graph, Stream.capturing = Graph(Stream.capturing), None
        return graph


DEFAULT = Stream(null=True)


def get_current_stream() -> Stream:
    return Stream.current[-1] if Stream.current else DEFAULT


class Event:
    """A point in the order of a stream."""

    def __init__(self, disable_timing: bool = False) -> None:
        self.stream: Stream | None = None
        self.mark = self.number = 0

    def record(self, stream: Stream | None = None) -> None:
        self.stream = stream or get_current_stream()
        self.mark = len(self.stream.pending)
        self.number = JOURNAL.number()
        JOURNAL.note(f"record {self.number}")

    def happen(self) -> None:
        if self.stream is not None:
            self.stream.run_until(self.mark)

    def synchronize(self) -> None:
        JOURNAL.note("host waits for an event")
        self.happen()


class Graph:
    """What was captured."""

    def __init__(self, tasks: list[Callable[[], Any]]) -> None:
        self.tasks = tasks

    def launch(self, stream: Stream | None = None) -> None:
        JOURNAL.note("launch")
        for task in self.tasks:
            task()


def submit(task: Callable[[], Any]) -> None:
    """Do something on the device: now, or whenever the graph that is being captured is launched."""
    if Stream.capturing is not None:
        Stream.capturing.append(task)
    else:
        task()


def read_by_host() -> None:
    """The host waits until a number is there."""
    assert Stream.capturing is None, "the host may not wait while a stream is captured"
    JOURNAL.note("host reads")


def allocate() -> None:
    """A new array is made."""
    assert Stream.capturing is None, "memory is allocated while a stream is captured"
