"""Kernel launches, copies and waits of one evaluation, one step and one iteration.

    python benchmarks/launches.py                 # on the emulated device of tests/cuda/emulator: a minute
    python benchmarks/launches.py --seconds       # on a card: seconds of each instead, as CUDA has no counters

A small workload, whose numbers of launches are those of large ones: 16 patterns of 64 x 64 pixels, two slices, single
precision, patterns in the memory of the device. Object and probe are refined; mini-batches have 4 patterns. Graphs are
counted on their own, and so are transforms by cuFFT. Copies are those from and to the host, and those inside the device
by cudaMemcpy; a read by the host is a copy and two waits (for the copy, and for the stream).
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

COUNTED = ("launches", "graph_launches", "transforms", "copies", "waits")
WINDOW, SIDE, BATCH = 64, 4, 4
WARM, LAST = 2, 5
"""Epochs before the one that is counted, in which kernels are compiled and graphs captured; L-BFGS needs pairs."""

Numbers = Mapping[str, float]


def workload(**changes: Any) -> dict[str, Any]:
    """Parameters of a reconstruction on the device."""
    rng, f = np.random.default_rng(0), np.fft.fftfreq(WINDOW)
    r2 = (f[:, None] ** 2 + f**2) / 0.2**2
    probe = np.fft.fftshift(np.fft.ifft2((r2 <= 1) * np.exp(-2j * r2)))
    along = 3.3 * np.arange(SIDE)
    counts = rng.poisson(5.0 * (r2 <= 1.3), (SIDE**2, WINDOW, WINDOW)).astype(np.uint16)
    return {
        "acc_voltage": 80.0,
        "pixel_size_x_A": 0.2,
        "pixel_size_y_A": 0.2,
        "dataset": np.fft.fftshift(counts, axes=(1, 2)),
        "positions": np.stack(np.meshgrid(along, along, indexing="ij"), -1).reshape(-1, 2),
        "probe": 20 * probe[..., None],
        "num_slices": 2,
        "slice_distances": [10.0],
        "algorithm": "lsq_sqrt",
        "update_probe_pos": False,
        "backend": "gpu",
        "default_dtype": "single",
        "warmup_epochs": 0,
        "batch_size": BATCH,
        "print_flag": 0,
        **changes,
    }


class Meter:
    """Counts what the device does, or takes the time."""

    def __init__(self, emulator: Any) -> None:
        self.emulator = emulator

    @contextmanager
    def measuring(self) -> Iterator[dict[str, float]]:
        found: dict[str, float] = {}
        if self.emulator is None:
            import cupy

            cupy.cuda.Device().synchronize()
            start = time.perf_counter()
            yield found
            cupy.cuda.Device().synchronize()
            found["seconds"] = time.perf_counter() - start
            return
        with self.emulator.counted() as counted:
            yield found
        found.update({name: getattr(counted, name) for name in COUNTED})


def difference(more: Numbers, less: Numbers, times: int = 1) -> Numbers:
    return {name: (value - less[name]) / times for name, value in more.items()}


@contextmanager
def replaced(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """A function that is wrapped for a while."""
    plain = getattr(owner, name)
    setattr(owner, name, functools.wraps(plain)(make(plain)))
    try:
        yield
    finally:
        setattr(owner, name, plain)


def run(**changes: Any) -> Any:
    """A reconstruction after its epochs."""
    from pypty.engine.epochs.loop import Reconstruction
    from pypty.engine.epochs.state import State
    from pypty.engine.setup.prepare import prepare

    setup = prepare(workload(**changes))
    made = Reconstruction(setup, State(variables=setup.variables(), epoch=0))
    assert made.objective.model.executor == "split", made.objective.model.executor
    for _ in made.epochs():
        pass
    return made


def evaluation(meter: Meter, compute_batch: int) -> Numbers:
    """Loss and gradient of object and probe."""
    made = run(compute_batch=compute_batch, epoch_max=0)
    variables, passes = made.state.variables, []
    for _ in range(4):
        with meter.measuring() as found:
            made.objective.evaluate(variables, ("obj", "probe"), np.arange(SIDE**2))
        passes.append(found)
    return passes[-1]


def mini_batch(meter: Meter, module: Any, name: str, batches_at: int, **changes: Any) -> Numbers:
    """A step, from passes over four and over two mini-batches."""
    passes: dict[int, Numbers] = {}

    def wrapped(plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            out: Any = None
            for number in (2, 4):
                shorter = [*given]
                shorter[batches_at] = given[batches_at][:number]
                with meter.measuring() as passes[number]:
                    out = plain(*shorter)
            return out

        return call

    with replaced(module, name, wrapped):
        run(epoch_max=WARM + 1, **changes)
    return difference(passes[4], passes[2], 2)


def first_order(meter: Meter, **changes: Any) -> Numbers:
    from pypty.engine.epochs import first_order

    return mini_batch(meter, first_order, "_walk_through", 1, **changes)


def warm_up(meter: Meter) -> Numbers:
    from pypty.engine.epochs import warmup

    return mini_batch(meter, warmup, "_one_pass", 1, warmup_epochs=WARM + 1)


def iteration(meter: Meter) -> Numbers:
    """An iteration of L-BFGS without its evaluations."""
    from pypty.engine.epochs import loop
    from pypty.engine.epochs.problem import Problem

    inside: list[Numbers] = []
    whole: dict[str, float] = {}

    def counted(plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            with meter.measuring() as found:
                out = plain(*given)
            inside.append(found)
            return out

        return call

    def epoch(plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            inside.clear()
            with meter.measuring() as found:
                out = plain(*given)
            whole.update(found)
            return out

        return call

    with replaced(Problem, "__call__", counted), replaced(loop, "quasi_newton_epoch", epoch):
        run(epoch_max=LAST, warmup_epochs=0)
    rest: Numbers = whole
    for found in inside:
        rest = difference(rest, found)
    return rest


def rows(meter: Meter) -> Iterator[tuple[str, Numbers]]:
    polar = {"obj_parametrization": "amplitude_phase"}
    yield "evaluation, 1 batch", evaluation(meter, SIDE**2)
    yield "evaluation, 16 batches", evaluation(meter, 1)
    for method in ("adam", "nadam", "adafactor"):
        yield f"step of {method}", first_order(meter, optimizer=method)
    yield "step of adam, amplitude and phase", first_order(meter, optimizer="adam", **polar)
    yield "step of adam, positions too", first_order(meter, optimizer="adam", update_probe_pos=True)
    yield "step of the warm-up", warm_up(meter)
    yield "iteration of L-BFGS, outside evaluations", iteration(meter)


def emulated() -> SimpleNamespace | Any:
    """The emulated device, loaded before CuPy."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests/cuda"))
    import emulator

    if emulator.why_not():
        sys.exit(f"no emulated device: {emulator.why_not()}")
    emulator.load()
    return emulator


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", action="store_true", help="take the time on a card")
    options = parser.parse_args()
    emulator = None if options.seconds else emulated()
    columns = ("seconds",) if options.seconds else COUNTED
    print(f"| {'':40} | {' | '.join(columns)} |")
    print(f"|{'-' * 42}|{'|'.join('-' * (len(name) + 2) for name in columns)}|")
    if emulator is None:
        for name, found in rows(Meter(None)):
            print(f"| {name:40} | {found['seconds']:.6f} |", flush=True)
        return
    with emulator.settings(devices=1):
        for name, found in rows(Meter(emulator)):
            cells = " | ".join(f"{found[column]:{len(column)}g}" for column in columns)
            print(f"| {name:40} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
