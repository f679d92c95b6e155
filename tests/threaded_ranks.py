"""Ranks of a run as threads of this process: the same messages as between processes, without their start."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from multiprocessing import Pipe
from typing import Any

from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.state import State
from pypty.engine.ranks.opening import Crew, end, together
from pypty.engine.ranks.worker import Server
from pypty.engine.setup.prepare import prepare
from pypty.errors import RankError
from pypty.iterative import run_here
from pypty.ranks.link import Link
from pypty.ranks.local import PipesLink, WorkerLink
from pypty.results.result import Result


@contextlib.contextmanager
def threaded_ranks(n: int, patience_s: float = 20.0) -> Iterator[Link]:
    """The link of rank 0 to n - 1 ranks that serve in threads of this process."""
    pipes = {rank: Pipe() for rank in range(1, n)}
    threads = []
    for rank, (_, its) in pipes.items():

        def serve(link: Link) -> None:
            with contextlib.suppress(RankError):  # rank 0 is told
                Server(link).serve()
            link.close()

        thread = threading.Thread(target=serve, args=(WorkerLink(its, rank, n),), daemon=True)
        thread.start()
        threads.append(thread)
    link = PipesLink({rank: mine for rank, (mine, _) in pipes.items()}, patience_s)
    try:
        yield link
    finally:
        end(link)
        for thread in threads:
            thread.join(10)


def run_on(n: int, params: dict[str, Any]) -> Result:
    """``pypty.run`` on n ranks."""
    if n == 1:
        return run_here(params, None)
    with threaded_ranks(n) as link:
        return run_here(params, link)


@contextlib.contextmanager
def reconstruction_on(n: int, params: dict[str, Any]) -> Iterator[Reconstruction]:
    """A reconstruction before its first epoch, on n ranks."""
    setup = prepare(params)
    with contextlib.ExitStack() as stack:
        stack.callback(setup.close)
        if n > 1:
            setup = stack.enter_context(together(setup, Crew(stack.enter_context(threaded_ranks(n)))))
        yield Reconstruction(setup, State(variables=setup.variables(), epoch=setup.settings.first_epoch))
