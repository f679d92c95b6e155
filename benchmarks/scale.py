"""How far more devices go: a cost model of reconstructions on 1 to 1024 of them (pypty/engine/setup/scaling.py).

    python benchmarks/scale.py --model                     # all jobs on an H200, an A100, and the CPU of a laptop
    python benchmarks/scale.py --model --job "1024"        # jobs whose name has this in it
    python benchmarks/scale.py --model --rates FILE.json   # other numbers for a machine, measured ones for example

Nothing is computed on the machine on which it runs. Every number that goes in is printed with its origin: [M] measured
with this package, [P] published, [C] computed from the kernels, [E] estimated. FILE.json holds those fields of
``Machine`` that are known: {"name": "my node", "kernels": 2.9e12, "between": 2.1e10}; the others are those of the H200,
or, where "cores" are given, those of the laptop.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from gpu_workloads import Workload

from pypty.backend.array import Backend
from pypty.engine.setup.division import Division, rectangles
from pypty.engine.setup.memory import GPU_BATCH_LIMIT, GPU_ENOUGH
from pypty.engine.setup.memory_items import Role, fixed_items, wave_bytes_per_pattern
from pypty.engine.setup.memory_needs import Needs
from pypty.engine.setup.memory_plan import Sizes
from pypty.engine.setup.scaling import (
    EVALUATIONS,
    WORTH,
    EpochTime,
    Method,
    Rates,
    Storage,
    best_number,
    doublings,
    epoch_time,
)
from pypty.params.schema import SCHEMA

PAIRS = 10
"""Of the L-BFGS history."""
MOST = 1024
SATURATION = float(SCHEMA["memory_saturation"].default)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A device, its node, and the network; bytes and bytes per second.

    Attributes
    ----------
    memory : of the device
    host : memory of a node for each of its devices
    kernels : with which the kernels of waves read and write; their traffic is counted (gpu_workloads.py)
    vectors : with which large vectors are read and written
    node : devices of a node
    inside, between : between rank 0 and ranks of its node, and of other nodes
    latency_s : of a message with its Python, one way
    evaluation_s : of an evaluation without patterns
    upload, reading : host to device, files to each rank
    cores : that all ranks share; 0 = each has a device of its own
    wave_pixel_s : on one core, for ``cpu_slices`` slices; 0 = follows from ``kernels``
    origin : of each number
    """

    name: str
    memory: float
    host: float
    kernels: float
    vectors: float
    node: int
    inside: float
    between: float
    latency_s: float
    evaluation_s: float
    upload: float
    reading: float
    cores: int = 0
    wave_pixel_s: float = 0.0
    cpu_slices: int = 6
    filter_pixel_s: float = 0.0
    origin: Mapping[str, str] = field(default_factory=dict)


_GPU_ORIGIN: Mapping[str, str] = MappingProxyType({
    "memory": "[P]", "host": "[E]", "kernels": "[C] copy bandwidth [P] x 0.72 [E], the part of it that kernels reach",
    "vectors": "[P] copy bandwidth", "node": "[P]", "inside": "[P] NVLink",
    "between": "[P] NDR InfiniBand of one node; about 35 GB/s were published for H200 over RoCE",
    "latency_s": "[E]", "evaluation_s": "[E]", "upload": "[E] PCIe, as pinned copies reach", "reading": "[E]",
})  # fmt: skip
H200 = Machine(
    name="H200, NVLink inside nodes of 8, NDR InfiniBand between them",
    memory=141e9, host=250e9, kernels=0.72 * 4.3e12, vectors=4.3e12, node=8, inside=350e9, between=45e9,
    latency_s=5e-5, evaluation_s=2e-3, upload=20e9, reading=2e9, origin=_GPU_ORIGIN,
)  # fmt: skip
A100 = dataclasses.replace(
    H200, name="A100 80 GB, NVLink inside nodes of 8, NDR InfiniBand between them",
    memory=80e9, kernels=0.72 * 1.75e12, vectors=1.75e12,
)  # fmt: skip
STAGED = dataclasses.replace(
    H200, name="H200, all arrays over the host (MPI without CUDA)", inside=6e9, between=6e9,
    origin=MappingProxyType(
        {**_GPU_ORIGIN, "inside": "[M] MPI between processes, 6 GB/s at best", "between": "[E] the same"}
    ),
)  # fmt: skip
LAPTOP = Machine(
    name="CPU of a laptop, 8 cores that all ranks share",
    memory=32e9, host=32e9, kernels=math.inf, vectors=10e9, node=MOST, inside=3e9, between=3e9, latency_s=5e-5,
    evaluation_s=5e-3, upload=math.inf, reading=1e9, cores=8, wave_pixel_s=1.06e-7, filter_pixel_s=3e-8,
    origin=MappingProxyType({
        "memory": "[E]", "host": "[E]", "vectors": "[M] 6 to 13 GB/s", "node": "all ranks are on it",
        "inside": "[E] sockets", "between": "does not occur", "latency_s": "[E]", "evaluation_s": "[M] 0 to 14 ms",
        "reading": "[E]", "cores": "[E]",
        "wave_pixel_s": "[M] one core of a server, 128 x 128 pixels, 6 slices, 4 modes, single precision",
        "cpu_slices": "of that measurement", "filter_pixel_s": "[M]", "kernels": "not used", "upload": "none",
    }),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Job:
    """A square scan of uint16 patterns.

    ``on_cpu`` : is small enough for a laptop; else it is for GPUs
    """

    name: str
    side: int
    window: int
    step_px: int
    slices: int
    modes: int
    batch_size: int | None = None
    on_cpu: bool = False

    @property
    def method(self) -> Method:
        if self.batch_size is None:
            return Method(pairs=PAIRS)
        return Method(batch_size=self.batch_size, moments=2)  # as Adam

    def sizes(self, on_gpu: bool) -> Sizes:
        edge = (self.side - 1) * self.step_px + self.window
        return Sizes(
            n_patterns=self.side**2,
            window=(self.window, self.window),
            probe_modes=self.modes,
            object_modes=1,
            slices=self.slices,
            object_shape=(edge, edge),
            data_bytes=2 * self.side**2 * self.window**2,
            compared=self.window**2,
            executor="split" if on_gpu else "fused",
        )

    @property
    def bytes_per_pixel(self) -> float:
        """Traffic of the kernels for a pixel of a wave."""
        return Workload(self.name, self.side, self.window, self.slices, self.modes).bytes_per_pixel


JOBS = (
    Job(name="34 GB, 512 x 512 scan of 256²", side=512, window=256, step_px=8, slices=10, modes=4),
    Job(
        name="34 GB, the same in mini-batches of 1024", side=512, window=256, step_px=8, slices=10, modes=4,
        batch_size=1024,
    ),
    Job(name="137 GB, 1024 x 1024 scan of 256², dense", side=1024, window=256, step_px=4, slices=20, modes=4),
    Job(name="137 GB, 1024 x 1024 scan of 256², wide", side=1024, window=256, step_px=8, slices=20, modes=4),
    Job(name="0.55 TB, 2048 x 2048 scan of 256²", side=2048, window=256, step_px=4, slices=10, modes=4),
    Job(name="10 TB, 4369 x 4369 scan of 512², dense", side=4369, window=512, step_px=3, slices=4, modes=4),
    Job(name="10 TB, 8738 x 8738 scan of 256², wide", side=8738, window=256, step_px=8, slices=20, modes=4),
    Job(name="0.5 GB, 128 x 128 scan of 128²", side=128, window=128, step_px=4, slices=6, modes=4, on_cpu=True),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """A job on a number of ranks.

    Attributes
    ----------
    least, leading, other : bytes of rank 0 without its patterns and with the smallest batch; as it would be planned;
        of each other rank, at most
    fits : rank 0, and thereby all, in its memory
    storage : where its patterns are, in words
    """

    ranks: int
    least: float
    leading: float
    other: float
    fits: bool
    storage: str
    spread: bool
    overlap: float
    time: EpochTime


def rates_for(machine: Machine, job: Job, ranks: int) -> Rates:
    """Rates of a machine; rank 0 serves one rank after the other, some of them on its own node."""
    inside = min(ranks, machine.node) - 1
    others = max(ranks - 1, 1)
    link = (
        others / (inside / machine.inside + (ranks - 1 - inside) / machine.between) if ranks > 1 else math.inf
    )
    if machine.cores:  # the time grows with the number of slices
        wave_pixel_s = machine.wave_pixel_s * job.slices / machine.cpu_slices
    else:
        wave_pixel_s = job.bytes_per_pixel / machine.kernels
    return Rates(
        wave_pixel_s=wave_pixel_s,
        evaluation_s=machine.evaluation_s,
        # four passes of each transform, there and back, and two of the mask; 8 bytes
        filter_pixel_s=machine.filter_pixel_s or 10 * 8 / machine.vectors,
        memory=machine.vectors,
        to_all=link,
        from_all=link,
        latency_s=machine.latency_s,
        upload=machine.upload,
        reading=machine.reading,
    )


def row_of(machine: Machine, job: Job, ranks: int) -> Row:
    """Memory and time of a job on a number of ranks."""
    on_gpu = not machine.cores
    backend = Backend("gpu" if on_gpu else "cpu", np, np.dtype(np.float32), np.dtype(np.complex64))
    sizes, division = job.sizes(on_gpu), rectangles(job.sizes(on_gpu), ranks)
    own, limit = division.share(sizes), SATURATION * machine.memory
    if machine.cores:
        limit /= ranks  # all are on this machine
    threads = max(1, machine.cores // ranks)
    moments = 2.0 * job.method.moments  # an interrupted epoch goes back to the old ones
    needs = Needs.of_lbfgs(job.method.pairs) if job.method.pairs else Needs(moments=moments, planes=1.0)
    few = min(GPU_ENOUGH if on_gpu else threads, own.n_patterns)
    waves = few * wave_bytes_per_pattern(sizes, backend)

    def fixed(role: Role | None) -> int:
        return sum(fixed_items(sizes, backend, needs, threads, role).values())

    role = None if ranks == 1 else Role(ranks=ranks, window=division.largest)
    if role is not None and job.method.pairs and fixed(role) + waves > limit:
        role = dataclasses.replace(role, spread=True)
    batch = few
    if on_gpu:
        batch = max(few, min(GPU_BATCH_LIMIT, own.n_patterns, int((limit - fixed(role)) / (waves / few))))
    leading = fixed(role) + batch * waves / few
    other = 0.0 if role is None else fixed(dataclasses.replace(role, leads=False)) + batch * waves / few
    kept = own.data_bytes <= limit - leading
    on_host = kept or own.data_bytes <= SATURATION * machine.host
    storage = Storage(on_device=kept, on_host=on_host)
    return Row(
        ranks=ranks,
        least=fixed(role) + waves,
        leading=leading + kept * own.data_bytes,
        other=other + kept * own.data_bytes if role is not None else 0.0,
        fits=leading <= limit,
        storage="device" if kept else "host" if on_host else "files",
        spread=role is not None and role.spread,
        overlap=division.overlap(sizes),
        time=_time(machine, job, division, sizes, storage, role),
    )


def _time(
    machine: Machine, job: Job, division: Division, sizes: Sizes, storage: Storage, role: Role | None
) -> EpochTime:
    return epoch_time(
        sizes,
        division,
        job.method,
        rates_for(machine, job, division.ranks),
        complex_bytes=8,
        storage=storage,
        spread=role is not None and role.spread,
        # rates of the CPU are those of one core
        slower=division.ranks / machine.cores if machine.cores else 1.0,
    )


def rows_of(machine: Machine, job: Job) -> list[Row]:
    """A job on 1, 2, 4, ... ranks; on a CPU not more than it has cores."""
    return [row_of(machine, job, ranks) for ranks in doublings(machine.cores or MOST)]


def table(machine: Machine, job: Job) -> str:
    """The rows as text, and where more ranks stop paying."""
    rows = rows_of(machine, job)
    edge = job.sizes(True).object_shape[0]
    object_GB = 8e-9 * edge**2 * job.slices
    method = f"L-BFGS, {PAIRS} pairs" if job.batch_size is None else f"Adam, batches of {job.batch_size}"
    lines = [
        f"{job.name}: {job.slices} slices, {job.modes} modes, object {edge}² of {object_GB:.3g} GB; {method}",
        "  ranks   rank 0 GB  others GB   fits  patterns    history  windows/obj     s/epoch  efficiency  sending"
        "  alone",
    ]
    fitting = [row.time for row in rows if row.fits]
    for row in rows:
        time = row.time
        efficiency = f"{time.speed_up(fitting[0]) * fitting[0].ranks / row.ranks:.0%}" if row.fits else "-"
        seconds = f"{time.total_s:.3g}" if row.fits else "-"
        shares = [
            f"{part / time.total_s:.0%}" if row.fits else "-" for part in (time.sending_s, time.alone_s)
        ]
        history = "in pieces" if row.spread else "whole" if job.batch_size is None else "none"
        lines.append(
            f"  {row.ranks:>5} {row.leading / 1e9:>11.3g} {row.other / 1e9:>10.3g} {'yes' if row.fits else 'NO':>6} "
            f"{row.storage:>9} {history:>10} {row.overlap:>12.2f} {seconds:>11} {efficiency:>11} {shares[0]:>8} "
            f"{shares[1]:>6}"
        )
    lines.append(f"  {verdict(fitting) if fitting else too_large(machine, rows)}")
    return "\n".join(lines)


def verdict(times: Sequence[EpochTime]) -> str:
    """Where more ranks stop paying, in words."""
    if not times:
        return (
            "Does not fit: rank 0 needs more memory, for the whole object with its gradients and directions."
        )
    best, fastest = best_number(times), min(times, key=lambda time: time.total_s)
    if best == times[-1].ranks:
        pays = f"Every doubling up to {best} makes an epoch at least {WORTH:g} times faster"
    else:
        number = "More than one does" if best == 1 else f"More than {best} do"
        pays = f"{number} not pay: twice as many make an epoch less than {WORTH:g} times faster"
    return f"{pays}. Fastest: {fastest.total_s:.3g} s on {fastest.ranks}."


def too_large(machine: Machine, rows: Sequence[Row]) -> str:
    """How much memory is missing."""
    least, limit = min(row.least for row in rows) / 1e9, SATURATION * machine.memory / 1e9
    return (
        f"Does not fit: rank 0 needs at least {least:.0f} GB, for the whole object with its gradients and directions, "
        f"of which {limit:.0f} may be used."
    )


def assumptions(machine: Machine) -> str:
    """The numbers of a machine, with their origin."""
    names = [item.name for item in dataclasses.fields(machine) if item.name not in ("name", "origin")]
    lines = [f"{machine.name}"]
    for name in names:
        value = getattr(machine, name)
        if name in machine.origin:
            lines.append(f"  {name:<16}{value:>12.4g}  {machine.origin[name]}")
    return "\n".join(lines)


def given_machine(path: Path) -> Machine:
    """The machine of a file; what it does not say is as for the H200."""
    given: dict[str, Any] = json.loads(path.read_text())
    fields = {item.name for item in dataclasses.fields(Machine)} - {"origin"}
    wrong = sorted(set(given) - fields)
    if wrong:
        raise SystemExit(
            f"{path}: no such numbers: {', '.join(wrong)}; there are {', '.join(sorted(fields))}"
        )
    bad = [name for name, value in given.items() if name != "name" and not (_positive(value))]
    if bad:
        raise SystemExit(f"{path}: expected numbers above 0 for {', '.join(bad)}")
    base = LAPTOP if given.get("cores") else H200
    origin = {**base.origin, **dict.fromkeys(given, f"given in {path.name}")}
    values: dict[str, Any] = {"name": path.stem, **given, "origin": MappingProxyType(origin)}
    return dataclasses.replace(base, **values)


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="store_true", required=True, help="print the tables of the model")
    parser.add_argument("--rates", type=Path, metavar="FILE.json", help="numbers of another machine")
    parser.add_argument("--job", default="", help="only jobs whose name contains this")
    options = parser.parse_args(arguments)
    machines = (H200, A100, STAGED, LAPTOP) if options.rates is None else (given_machine(options.rates),)
    print(
        f"Model, not measurements. An epoch of L-BFGS is {EVALUATIONS:g} evaluations; {SATURATION:g} of the memory is "
        "used; single precision; GB = 1e9 bytes.\nfits: rank 0 in its memory. patterns: where each rank keeps its own. "
        "windows/obj: area of all windows over that of the object.\nefficiency: speed-up for each rank, compared with "
        "the fewest that fit (above 100 % where patterns no longer come from files or the host).\n"
        "sending, alone: parts of the time in which rank 0 sends and receives, and works while the others wait."
    )
    for machine in machines:
        print(f"\n{assumptions(machine)}\n")
        for job in JOBS:
            if options.job in job.name and (job.on_cpu or not machine.cores):
                print(f"{table(machine, job)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
