"""A rank that computes its part of a reconstruction, as rank 0 asks for it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from types import MappingProxyType
from typing import Any

from pypty.backend.array import Array, select
from pypty.backend.device_errors import device_errors
from pypty.data.feed import Feed
from pypty.data.owned import OwnedPatterns
from pypty.engine.ranks.recipe import Recipe
from pypty.engine.ranks.shelf import Pieces
from pypty.engine.ranks.surveying import SURVEY, answer_survey
from pypty.errors import PyptyError, RankError
from pypty.model.blocks import Variables
from pypty.objective.noise import NoiseModel
from pypty.objective.objective import Objective
from pypty.objective.passes import Pass, Task
from pypty.objective.regions import Region, in_rows
from pypty.objective.share import Evaluated
from pypty.ranks.link import Link
from pypty.ranks.local import WorkerLink
from pypty.ranks.measure import MEASURE, answer_measure
from pypty.ranks.messages import FAILED, FINISH, FULL, Failed, Failure, Message
from pypty.ranks.nccl import open_route
from pypty.ranks.questions import FORGET
from pypty.ranks.signals import signals_ignored

_NOTHING = Message("nothing")
_log = logging.getLogger(__name__)


class Server:
    """Answers the messages of rank 0 until it says that the run is over.

    Parameters
    ----------
    link : to rank 0
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self._objective: Objective | None = None
        self._feed: Feed | None = None
        self._owned: Any = None
        self._kept: tuple[Any, ...] = ()
        self._noise: NoiseModel | None = None
        self._pieces = Pieces()
        self._waiting: Message | None = None
        self._close: Callable[[], None] = lambda: None

    def serve(self) -> None:
        """Answer until the message "end".

        Raises
        ------
        RankError
            Rank 0 has gone, or says why the run has failed.
        """
        answers: Mapping[str, Callable[[Message], None]] = MappingProxyType(
            {
                "route": lambda message: open_route(self.link, select(*message.content)),
                "leave": self._leave,
                "setup": self._setup,
                "place": self._place,
                "sum": self._sum,
                "look": self._look,
                "keep": self._keep,
                "whole": self._whole,
                "add up": self._add_up,
                "multiply": self._multiply,
                FORGET: self._forget,
                SURVEY: functools.partial(answer_survey, self.link),
                MEASURE: functools.partial(answer_measure, self.link),
            }
        )
        try:
            while (message := self._heard(answers)).kind != "end":
                pass
        except RankError:
            raise
        except Exception as error:
            failed = Failed(type(error).__name__, str(error), "".join(traceback.format_exception(error)))
            _log.error("%s failed:\n%s", self.link.names[self.link.rank], failed.trace)
            self.link.send(0, FAILED, failed)
            raise RankError(f"{type(error).__name__}: {error}") from error
        finally:
            self._close()
        if isinstance(message.content, Failure):
            raise RankError(f"{self.link.names[0]}: {message.content.reason}")

    def _heard(self, answers: Mapping[str, Callable[[Message], None]]) -> Message:
        """Receive a message and answer it. One that finds no memory, here or on the way, is answered with the reason:
        rank 0 decides what comes next."""
        message, self._waiting = self._waiting, None
        try:
            with device_errors():
                message = message or self.link.receive(0)
                if message.kind != "end":
                    answers[message.kind](message)
        except MemoryError as error:
            if isinstance(error, PyptyError):  # nothing smaller can be tried
                raise
            reason = str(error) or "out of memory"
        else:
            return Message(
                message.kind, message.content
            )  # its arrays are not held until the next one has come
        # here, as the error keeps all arrays
        self.link.send(0, FULL, reason)
        return _NOTHING

    def _setup(self, message: Message) -> None:
        """Prepare an objective."""
        content = message.content
        recipe: Recipe = content["own"]
        self._owned = recipe.owned
        with self.link.computing():
            setup = recipe.setup(message.arrays)
            self._close = setup.close
            self._feed = setup.feed(self.link.progress)
            if isinstance(setup.source, OwnedPatterns) and self._feed.is_resident:
                # they are kept as they are fitted, and sent again for another objective
                setup = dataclasses.replace(setup, source=setup.source.without_memory())
                self._feed.source = setup.source
            objective = setup.objective(
                self._feed,
                content["subpixel"],
                content["propagation"],
                content["batch_size"],
                content["n_threads"],
            )
        objective.on_progress(self.link.progress)
        self._objective, self._noise = objective, None
        self.link.send(0, "ready")

    def _leave(self, message: Message) -> None:
        """Another objective will come, and its patterns need the room of these."""
        self._close()
        self._objective = self._feed = self._noise = None

    def _place(self, message: Message) -> None:
        """Use other crop origins."""
        assert self._feed is not None
        self._feed.crop_origins = message.content["crop_origins"]

    def _received(self, message: Message) -> tuple[Objective, Variables]:
        """The objective for the window of the object that was sent, and the unknowns there."""
        content, objective, feed = message.content, self._objective, self._feed
        assert objective is not None and feed is not None
        blocks = {
            name: objective.backend.asarray(array)
            for name, array in zip(content["blocks"], message.arrays, strict=True)
        }
        for name in content["rows"]:
            blocks[name] = in_rows(blocks[name], content["indices"], feed.n_patterns)
        variables = Variables(**blocks)
        return objective.alone(feed.seen_from(content["origin"])), variables

    def _look(self, message: Message) -> None:
        with self.link.computing():
            objective, variables = self._received(message)
            seen = message.content["look"](objective, variables, message.content["indices"])
        self.link.send(0, "seen", seen)

    def _sum(self, message: Message) -> None:
        """Losses of the patterns, and gradients if rank 0 wants them."""
        content = message.content
        # before anything that may find no memory: it is not sent again
        self._noise = content["noise"] or self._noise
        with self.link.computing():
            objective, task = self._task(message)
            with objective.feed.streams.computing():
                part = objective.passes.begin(task)
                part.compute()
                loss = part.loss
        names = content["names"]
        if content["limit"] is not None:
            self.link.send(0, "loss", loss)
            decision = self.link.receive(0)
            if decision.kind != FINISH:  # the question was broken off
                self._waiting = decision
                return
            names = decision.content
        with self.link.computing(), objective.feed.streams.computing():
            self._answer(part, names)

    def _forget(self, message: Message) -> None:
        """Nothing is asked any more."""
        self.link.send(0, FORGET, message.content)

    def _task(self, message: Message) -> tuple[Objective, Task]:
        content = message.content
        objective, variables = self._received(message)
        objective.use_batches(content["batch_size"])
        assert self._noise is not None
        task = Task(
            variables=variables,
            names=content["names"],
            indices=content["indices"],
            limit=content["limit"],
            noise=self._noise,
            n_threads=content["n_threads"],
            batch_size=content["batch_size"],
        )
        return objective, task

    def _answer(self, part: Pass, names: tuple[str, ...]) -> None:
        """Send the gradients of some blocks, with all numbers."""
        result: Evaluated = part.finished(names)
        gradients = Region(patterns=self._owned, origin=(0, 0), shape=(0, 0)).rows(
            result.gradients, part.task.indices
        )
        arrays = [gradients[name] for name in names]
        self.link.send(0, "gradients", dataclasses.replace(result, gradients={}), arrays)

    def _keep(self, message: Message) -> None:
        number, gone = message.content
        self._pieces.forget(gone)
        self._pieces.kept[number] = self._here(message)[0]
        self.link.send(0, "kept")

    def _whole(self, message: Message) -> None:
        number, gone = message.content
        self._pieces.forget(gone)
        self.link.send(0, "piece", None, [self._pieces.kept[number]])

    def _add_up(self, message: Message) -> None:
        (factors, numbers), gone = message.content
        self._pieces.forget(gone)
        self.link.send(0, "piece", None, [self._pieces.sum(factors, numbers)])

    def _multiply(self, message: Message) -> None:
        pairs, gone = message.content
        self._pieces.forget(gone)
        self.link.send(0, "products", self._pieces.products(pairs, self._here(message)))

    def _here(self, message: Message) -> list[Array]:
        """The arrays of a message on the device of this rank."""
        if self._objective is None:
            return list(message.arrays)
        return [self._objective.backend.asarray(array) for array in message.arrays]


def main(arguments: list[str]) -> int:
    """A worker process: the descriptor of its connection to rank 0, its number, the number of ranks."""
    descriptor, rank, size = (int(text) for text in arguments)
    link = WorkerLink(Connection(descriptor), rank, size)
    with signals_ignored():
        link.greet(f"rank {rank} (process {os.getpid()})")
        return served(link)


def served(link: Link) -> int:
    """Serve one run, in the way of a process that does nothing else; returns the exit status."""
    logging.basicConfig(format=f"{link.names[link.rank]}: %(message)s")
    try:
        with warnings_told(link):
            Server(link).serve()
    except RankError as error:
        _log.error("%s", error)
        return 1
    finally:
        link.close()
    return 0


@contextlib.contextmanager
def warnings_told(link: Link) -> Iterator[None]:
    """While the block runs, warnings of this process are told to rank 0, whose log the user reads."""
    handler, root = _Teller(link), logging.getLogger()
    logging.captureWarnings(True)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        logging.captureWarnings(False)


class _Teller(logging.Handler):
    """Sends warnings to rank 0; it hears of errors in another way."""

    def __init__(self, link: Link) -> None:
        super().__init__(logging.WARNING)
        self._link = link

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.ERROR:
            self._link.warn(record.getMessage())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
