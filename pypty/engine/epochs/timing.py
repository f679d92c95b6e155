"""How long an evaluation of a few patterns takes, and what follows for an epoch, on one process or on several ranks."""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pypty.backend.array import Array, Backend, to_host
from pypty.data.sources import PatternSource
from pypty.engine.epochs.batches import number_of_steps
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.problem import Problem
from pypty.engine.epochs.state import State
from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.memory_needs import lbfgs_pairs, moment_arrays
from pypty.engine.setup.scaling import Measured, Method, Rates
from pypty.model.blocks import Variables
from pypty.objective.objective import Objective
from pypty.objective.regions import region_of
from pypty.optimize.vector import BlockVector
from pypty.params.settings import Settings

_ENOUGH_S = 0.4
"""Duration of a sufficiently accurate measurement, seconds."""
_HELD_BYTES = 2**28
"""Patterns that are read into memory to be measured; more would take longer than to compute them."""
_SENT_BYTES = 2**25
"""Size of the arrays, and of the patterns, that are copied, read and multiplied to measure how fast that goes."""


@dataclass(frozen=True, kw_only=True)
class EvaluationTime:
    """Seconds of evaluations.

    Attributes
    ----------
    fixed_s : of an evaluation without patterns
    pattern_s : of each pattern
    most, most_s : the largest number that was measured, and its time
    """

    fixed_s: float
    pattern_s: float
    most: int
    most_s: float

    def seconds(self, n: int) -> float:
        """An evaluation of n patterns, at least as many as were measured."""
        return self.most_s + self.pattern_s * (n - self.most)


def evaluation_time(evaluate: Callable[[int], object], n_all: int, n_threads: int) -> EvaluationTime:
    """Measure evaluations of more and more patterns, for about a second.

    Parameters
    ----------
    evaluate : computes loss and gradient of the first n patterns
    """
    n = min(n_all, n_threads)
    evaluate(n)  # not counted: Fourier transforms are planned and memory allocated once per run
    measured = [(n, _seconds(functools.partial(evaluate, n)))]
    while measured[-1][1] < _ENOUGH_S and n < n_all:
        n = min(n_all, 4 * n)
        measured.append((n, _seconds(functools.partial(evaluate, n))))
    fewer, more = measured[-2:] if len(measured) > 1 else (measured[-1], measured[-1])
    average = more[1] / more[0]
    slope = (more[1] - fewer[1]) / (more[0] - fewer[0]) if more[0] > fewer[0] else average
    # timings are noisy; overhead per call makes the slope smaller
    slope = min(max(slope, 0.2 * average), average)
    return EvaluationTime(
        fixed_s=max(0.0, more[1] - slope * more[0]), pattern_s=slope, most=more[0], most_s=more[1]
    )


def evaluate_first(problem: Problem, n: int) -> None:
    """Loss and gradient of the first n patterns of a problem, with its regularisers."""
    indices = np.asarray(problem.indices[:n])
    problem.objective.evaluate(
        problem.variables, problem.blocks, indices, problem.weight, problem.regularizers
    )


def few_patterns(setup: Setup) -> dict[str, Any]:
    """Changes of the parameters with which only the patterns that :func:`measure_rates` computes are read."""
    return {"sequence": _held(setup).tolist(), "use_full_FOV": True}


def measure_rates(
    setup: Setup, variables: Variables, *, to_all: float, from_all: float, latency_s: float
) -> Measured:
    """Measure what :func:`pypty.engine.setup.scaling.epoch_time` needs, in about two seconds.

    Loss and gradient of a few patterns, with the objective of the run on the window of the object that they see, as
    every rank computes them; the band limit, an inner product and a sum of vectors of the object; regularisers; copies
    to a GPU; reading of patterns (which the system may still have in memory: files may be slower).

    Parameters
    ----------
    setup : with its memory plan and a survey of its patterns, or of some (:func:`few_patterns`)
    variables : starting unknowns
    to_all, from_all : bytes per second between rank 0 and all others (``pypty.ranks.measure``)
    latency_s : of a message, one way
    """
    few = _held(setup)
    alone = dataclasses.replace(setup, owned=few, team=None)
    run = Reconstruction(alone, State(variables=variables, epoch=setup.settings.first_epoch))
    now = setup.settings.first()
    problem = run.problem(now)
    chosen = np.intersect1d(problem.indices, few)
    objective, seen = _on_its_window(problem, chosen, setup.grid.shape)

    def evaluate(n: int) -> None:
        objective.evaluate(seen, problem.blocks, chosen[:n], problem.weight)

    time_of = evaluation_time(evaluate, len(chosen), setup.plan.n_threads)
    sizes = setup.plan.sizes
    waves = math.prod(sizes.window) * sizes.probe_modes * sizes.object_modes
    some = variables.obj[:1, : max(1, _SENT_BYTES // variables.obj[0, 0].nbytes)]
    vector, other, limits = BlockVector({"obj": some}), BlockVector({"obj": some.copy()}), problem.form.limits

    def passes() -> None:
        vector.plus(0.5, other)  # reads two, writes one
        vector.dot(other)  # reads two, and waits for both

    rates = Rates(
        wave_pixel_s=time_of.pattern_s / waves,
        evaluation_s=time_of.fixed_s,
        filter_pixel_s=_repeated_s(lambda: _last(limits.limit("obj", some))) / some.size,
        memory=5 * some.nbytes / _repeated_s(passes),
        penalties_s=_repeated_s(lambda: _penalties(problem)) if problem.regularizers else 0.0,
        to_all=to_all,
        from_all=from_all,
        latency_s=latency_s,
        upload=_upload_rate(setup.backend),
        reading=_reading_rate(setup.source, few),
    )
    return Measured(rates=rates, method=_method(setup.settings, problem), n_threads=setup.plan.n_threads)


def _held(setup: Setup) -> np.ndarray:
    """Numbers of the patterns that are measured: neighbours, in few bytes, but one for each thread."""
    sizes = setup.plan.sizes
    each = max(1, sizes.data_bytes // max(sizes.n_patterns, 1))
    n = min(sizes.n_patterns, max(setup.plan.n_threads, _HELD_BYTES // each))
    return np.arange(n)


def _on_its_window(
    problem: Problem, patterns: np.ndarray, window: tuple[int, int]
) -> tuple[Objective, Variables]:
    """The objective of these patterns alone, and the unknowns as they see them."""
    feed = problem.objective.feed
    region = region_of(patterns, feed.crop_origins, window, problem.variables.obj.shape[-2:])
    return problem.objective.alone(feed.seen_from(region.origin)), region.seen(problem.variables)


def _method(settings: Settings, problem: Problem) -> Method:
    """What an epoch of the first optimiser does, without a warm-up."""
    now = settings.first()
    if now["optimizer"] == "lbfgs":
        return Method(pairs=lbfgs_pairs(settings))
    every = np.arange(problem.objective.feed.n_patterns)
    whole = dataclasses.replace(problem, indices=every, curvature=problem.curvature.of_patterns(every))
    return Method(
        batch_size=-(-len(every) // number_of_steps(whole, now["batch_size"])),
        moments=moment_arrays(settings, frozenset({str(now["optimizer"])})),
    )


def _penalties(problem: Problem) -> list[np.ndarray]:
    """Values of all regularisers, when they and their gradients have been computed."""
    terms = problem.regularizers
    return [to_host(term.value_and_gradient(problem.variables.block(term.block))[0]) for term in terms]


def _last(array: Array) -> np.ndarray:
    """A pixel of an array, when it has been computed."""
    return to_host(array[..., -1:, -1:])


def _upload_rate(backend: Backend) -> float:
    """Bytes per second to the GPU; inf on the CPU."""
    if not backend.on_gpu:
        return math.inf
    sent = np.zeros((1, _SENT_BYTES), np.uint8)
    return sent.nbytes / _repeated_s(lambda: _last(backend.asarray(sent)))


def _reading_rate(source: PatternSource | None, few: np.ndarray) -> float:
    """Bytes per second from the source of patterns."""
    if source is None:
        return math.inf
    each = math.prod(source.shape[1:]) * source.dtype.itemsize
    some = few[: max(1, _SENT_BYTES // each)]
    return len(some) * each / max(_repeated_s(lambda: source.read(some)), 1e-9)


def _repeated_s(task: Callable[[], Any]) -> float:
    """Median time of three calls, after one that is not counted."""
    task()
    return statistics.median(_seconds(task) for _ in range(3))


def _seconds(task: Callable[[], object]) -> float:
    started = time.perf_counter()
    task()
    return time.perf_counter() - started
