"""Do sums over several ranks work on this machine, which way do they take, and how fast is it?"""

from __future__ import annotations

import importlib
import importlib.util

import numpy as np

from pypty.backend.array import Backend, select
from pypty.engine.ranks.opening import WORKER, end
from pypty.engine.ranks.recipe import take_fastest_route
from pypty.engine.ranks.shelf import RankShelf
from pypty.errors import PyptyError, RankError
from pypty.ranks.devices import places
from pypty.ranks.link import Link
from pypty.ranks.local import LocalLink
from pypty.ranks.measure import measure
from pypty.ranks.questions import Questions

_SIZE = 100_003
"""Numbers of a sum that is tried; not divisible by the number of ranks."""


def examine_ranks(world: Link | None, gpu: bool) -> list[str]:
    """Lines of a report: over the ranks that a launcher has started, else over worker processes.

    Parameters
    ----------
    gpu : a GPU can be used
    """
    if world is not None:
        return [_tried(world, select("gpu" if gpu else "cpu", "single"))]
    lines = [_of_processes(select("cpu", "single"), 2)]
    if gpu:
        backend = select("gpu", "single")
        number = len(places("all", backend))
        lines.append(
            _of_processes(backend, number)
            if number > 1
            else "GPUs: 1, so there is nothing to distribute a run over"
        )
    return [*lines, _mpi()]


def _of_processes(backend: Backend, number: int) -> str:
    """What worker processes say; they are started for it."""
    where = places(number, backend)
    try:
        with where.first(backend):
            link = LocalLink(WORKER, where.environments(), 20.0)
            try:
                return _tried(link, backend)
            finally:
                end(link)
    except PyptyError as error:
        return f"Several processes on this machine: do not work: {error}"


def _tried(link: Link, backend: Backend) -> str:
    """Try sums over all ranks, and measure how fast arrays travel."""
    if link.size < 2:
        return "Ranks: a launcher has started one process only; with mpirun -n 2 pypty doctor there is something to try"
    try:
        take_fastest_route(link, backend)
        right = _sums_are_right(link, backend)
        rates = measure(link, backend.xp)
    except RankError as error:
        return f"{link.size} ranks over {link.path}: do not work: {error}"
    return (
        f"{link.size} {'GPUs' if backend.on_gpu else 'processes'} over {link.path}: sums are "
        f"{'right' if right else 'WRONG'}; {rates.latency_s * 1e6:.0f} µs, "
        f"{rates.to_all / 1e9:.1f} GB/s there, {rates.from_all / 1e9:.1f} GB/s back"
    )


def _sums_are_right(link: Link, backend: Backend) -> bool:
    """An inner product and a sum of whole numbers in pieces on all ranks, which single precision holds exactly."""
    shelf = RankShelf(link, Questions(link))
    values = np.arange(_SIZE) % 7
    array, ones = (backend.asarray(numbers, np.float32) for numbers in (values, np.ones(_SIZE)))
    kept = shelf.keep(array)
    total = shelf.combined(ones, [2.0], [kept])
    expected = ones + 2 * array
    return shelf.inner_products([(kept, ones)]) == [float(values.sum())] and bool((total == expected).all())


def _mpi() -> str:
    """Whether mpirun and srun can be used."""
    if importlib.util.find_spec("mpi4py") is None:
        return "MPI: mpi4py is not installed; for mpirun and srun:  pip install 'pypty[mpi]'"
    version = importlib.import_module("mpi4py").__version__
    return f"MPI: mpi4py {version}; try it with  mpirun -n 2 pypty doctor"
