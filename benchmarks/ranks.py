"""Several ranks on this machine: are they faster, do they give the same result, do they end well when one is killed?

    python benchmarks/ranks.py speed             # passes on 2 ranks against 1, one thread each, in turns
    python benchmarks/ranks.py parity            # every optimiser on 1 to 4 ranks, and resumed on other numbers
    python benchmarks/ranks.py kills --kills 20  # one rank killed at random moments, and the run started again
    python benchmarks/ranks.py memory            # peak memory of every rank, object 1658 x 1658 x 20 slices
    python benchmarks/ranks.py memory --ranks 1 2 4 --pairs 4 --saturation 0.9

``kills`` and ``parity`` exit with status 1 if a trial fails. ``speed`` also runs the same passes as two processes that
do not know of each other, half of the patterns each: what two ranks could reach.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from memory import parameters

from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.problem import Problem
from pypty.engine.epochs.state import State
from pypty.engine.ranks.opening import Crew, crew_of, together
from pypty.engine.setup.memory_plan import MemoryPlan
from pypty.engine.setup.prepare import prepare
from pypty.optimize.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
ONE_THREAD: Mapping[str, Any] = MappingProxyType({"n_threads": 1, "verdict": False})
PASSES: Mapping[str, dict[str, Any]] = MappingProxyType({
    "128², 6 slices, 4 modes": {"n": 128, "side": 8, "slices": 6, "modes": 4},
    "64², 6 slices, 4 modes": {"n": 64, "side": 16, "slices": 6, "modes": 4},
    "64², 1 slice, 1 mode": {"n": 64, "side": 32, "slices": 1, "modes": 1},
})  # fmt: skip
WIDE: Mapping[str, Any] = MappingProxyType({"n": 64, "side": 30, "slices": 20, "modes": 1, "step": 1594 / 29})
"""Patches of 64 pixels on an object of 1658 x 1658 pixels."""


@contextlib.contextmanager
def problem_on(ranks: int, params: Mapping[str, Any]) -> Iterator[tuple[Problem, Any]]:
    """The problem of the first epoch, and the team of the other ranks (None on one)."""
    setup = prepare({**params, "devices": ranks if ranks > 1 else "auto"})
    with contextlib.closing(setup), crew_of() as crew, together(setup, crew) as shared:
        run = Reconstruction(shared, State(variables=shared.variables(), epoch=0))
        yield run.problem(run.settings.first()), shared.team


def one_pass(problem: Problem) -> float:
    started = time.perf_counter()
    problem.objective.evaluate(problem.variables, problem.blocks, problem.indices, problem.weight)
    return time.perf_counter() - started


def speed(options: argparse.Namespace) -> bool:
    print(f"{options.repeats} passes each, in turns, medians; one thread for each rank")
    print(
        f"{'pass':<28}{'1 rank':>10}{'2 ranks':>10}{'ratio':>8}{'between ranks':>16}{'2 x half':>11}{'ratio':>8}"
    )
    for name, case in PASSES.items():
        params = {**parameters(**case), **ONE_THREAD, "update_probe": True, "update_probe_pos": True}
        half = {**params, "dataset": params["dataset"][::2], "positions": params["positions"][::2]}
        with problem_on(1, params) as (one, _), problem_on(2, params) as (two, team), halves(half) as both:
            times: dict[str, list[float]] = {"1": [], "2": [], "between": [], "halves": []}
            for turn in range(options.repeats + 2):
                before = team.reduction_s
                took = {
                    "1": one_pass(one),
                    "2": one_pass(two),
                    "between": team.reduction_s - before,
                    "halves": both(),
                }
                if turn > 1:  # the first ones plan transforms and read patterns
                    for key, value in took.items():
                        times[key].append(value)
        alone, pair, between, apart = (
            statistics.median(times[key]) for key in ("1", "2", "between", "halves")
        )
        print(
            f"{name:<28}{alone * 1e3:>7.0f} ms{pair * 1e3:>7.0f} ms{alone / pair:>8.2f}{between * 1e3:>13.1f} ms"
            f"{apart * 1e3:>8.0f} ms{alone / apart:>8.2f}",
            flush=True,
        )
    return True


@contextlib.contextmanager
def halves(params: Mapping[str, Any]) -> Iterator[Any]:
    """A function that makes a pass over half of the patterns in this process and in another one, and waits for both."""
    with tempfile.TemporaryDirectory() as folder, problem_on(1, params) as (here, _):
        file = Path(folder) / "params.npz"
        arrays = {key: value for key, value in params.items() if isinstance(value, np.ndarray)}
        np.savez(file, **arrays)
        rest = {key: value for key, value in params.items() if key not in arrays}
        code = (
            f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r})\n"
            f"import numpy as np; from ranks import one_pass, problem_on\n"
            f"params = {{**{rest!r}, **dict(np.load({str(file)!r}))}}\n"
            "with problem_on(1, params) as (problem, _):\n"
            "    print('ready', flush=True)\n"
            "    while sys.stdin.readline():\n"
            "        one_pass(problem); print('done', flush=True)\n"
        )
        other = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert other.stdin is not None and other.stdout is not None
        other.stdout.readline()

        def both() -> float:
            started = time.perf_counter()
            print("go", file=other.stdin, flush=True)
            one_pass(here)
            other.stdout.readline()
            return time.perf_counter() - started

        yield both
        other.communicate()


def run_params(folder: str, **changes: Any) -> str:
    """Text of a call of ``pypty.run`` on the small problem of the tests, with every unknown."""
    arguments = ", ".join(f"{key}={value!r}" for key, value in changes.items())
    return (
        f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r})\n"
        "from problems import every_block, two_slices\nimport pypty\n"
        f"result = pypty.run(every_block(output_folder={folder!r}, min_step=0, {arguments}))\n"
    )


def parity(options: argparse.Namespace) -> bool:
    """Largest relative difference of the loss over 20 epochs from that on one rank.

    Beside it stands the difference that another batch size makes on one rank: that of rounding alone. Where that is
    more than the limit, so may the others be, up to five times as much. Data without noise are compared in double
    precision only: their loss falls towards 0, where the last digits of single precision decide.
    """
    good, columns = True, ("2 ranks", "3 ranks", "4 ranks", "resumed 1>3>2", "other batches")
    print(f"{'':<24}{'data, precision':<20}{''.join(f'{name:>15}' for name in columns)}")
    for data, precision, limit in (("no noise", "double", 1e-10), ("noise", "single", 1e-6)):
        for name, case in parity_cases(noise=data == "noise").items():
            rest = {"epoch_max": 20, "verdict": False, "stop_patience": 0}
            *found, rounding = differences({**case, **rest, "default_dtype": precision})
            right = max(found) <= max(limit, 5 * rounding)
            good = good and right
            marks = "".join(f"{value:>15.0e}" for value in (*found, rounding))
            print(
                f"{name:<24}{f'{data}, {precision}':<20}{marks}{'' if right else '  TOO LARGE'}", flush=True
            )
    return good


def parity_cases(noise: bool) -> dict[str, dict[str, Any]]:
    """Reconstructions of the problem of the tests; with Poisson noise of 2000 electrons per pattern, if asked."""
    sys.path.insert(0, str(ROOT / "tests"))
    from problems import every_block, two_slices

    def with_noise(params: dict[str, Any]) -> dict[str, Any]:
        if not noise:
            return params
        counts = np.random.default_rng(0).poisson(params["dataset"]).astype(np.uint16)
        return {**params, "dataset": counts, "algorithm": "auto"}

    # long enough for progress, short enough that no method diverges
    rates = {
        name: dict.fromkeys(("obj", "probe", "positions"), 1e-6 if name == "momentum" else 1e-5)
        for name in METHODS
    }
    both = {"update_probe": True, "update_probe_pos": True}
    return {
        "lbfgs, every unknown": with_noise(every_block()),
        "lbfgs, two slices": with_noise(two_slices(**both)),
        "warm-up, then lbfgs": with_noise(two_slices(probe=None, algorithm="ml", warmup_epochs=3)),
        **{
            name: with_noise(two_slices(optimizer=name, batch_size=6, learning_rates=rates[name], **both))
            for name in METHODS
        },
    }


def differences(params: dict[str, Any]) -> list[float]:
    """From one rank: on 2, 3, and 4 ranks, resumed on other numbers, and on one rank with other batches."""
    from threaded_ranks import run_on

    one = run_on(1, params).loss
    found = [difference(run_on(n, params).loss, one) for n in (2, 3, 4)]
    with tempfile.TemporaryDirectory() as folder:
        for n, last in ((1, 7), (3, 14), (2, 20)):
            again = {"output_folder": folder, "epoch_max": last, "resume": last > 7}
            resumed = run_on(n, {**params, **again})
    found.append(difference(resumed.loss, one))
    found.append(difference(run_on(1, {**params, "compute_batch": 4}).loss, one))
    return found


def difference(loss: np.ndarray, expected: np.ndarray) -> float:
    if len(loss) != len(expected):
        return np.inf
    return float(np.max(np.abs(loss / expected - 1)))


def kills(options: argparse.Namespace) -> bool:
    """Kill a rank other than 0 at a random moment; the run must end with status 1 and its name, and go on exactly."""
    rng, good = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as base:
        began = time.monotonic()
        expected = state_after(started(Path(base) / "whole", options.ranks))
        duration = time.monotonic() - began
        trial = 0
        while trial < options.kills:
            folder = Path(base) / f"trial{trial}"
            process = started(folder, options.ranks)
            time.sleep(rng.uniform(0.3, 0.9) * duration)
            victims = workers_of(process.pid)
            if not victims:  # not yet, or not any more: another moment
                process.kill()
                process.communicate()
                shutil.rmtree(folder)
                continue
            trial += 1
            when = time.monotonic()
            for victim in victims[:1] if rng.random() < 0.5 else victims[-1:]:
                os.kill(victim, signal.SIGKILL)
            errors, took = process.communicate()[1], time.monotonic() - when
            ended = process.returncode == 1 and took < 30 and "SIGKILL" in errors and "rank" in errors
            restarted = started(folder, options.ranks)
            same = state_after(restarted) == expected and restarted.returncode == 0
            good += ended and same
            print(
                f"trial {trial}: ended in {took:.1f} s with status {process.returncode}, exact: {same}",
                flush=True,
            )
    print(f"{good} of {options.kills} ended well and went on exactly")
    return good == options.kills


def started(folder: Path, ranks: int) -> subprocess.Popen[str]:
    code = run_params(str(folder), epoch_max=60, devices=ranks, resume="auto", verdict=False, stop_patience=0)
    code = f"try:\n{''.join('    ' + line + chr(10) for line in code.splitlines())}"
    code += "except pypty.errors.PyptyError as error:\n    print(error, file=sys.stderr); sys.exit(1)\n"
    folder.mkdir(exist_ok=True)
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


def state_after(process: subprocess.Popen[str]) -> bytes:
    """The arrays that a run leaves, as bytes."""
    folder = Path(process.args[2].split("output_folder='")[1].split("'")[0])  # type: ignore[index]
    process.communicate()
    return b"".join((folder / name).read_bytes() for name in ("co.npy", "cp.npy", "cg.npy", "ct.npy"))


def workers_of(parent: int) -> list[int]:
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return sorted(int(number) for number in text.split())


def memory(options: argparse.Namespace) -> bool:
    """Plan and peak resident memory of every rank, each number of ranks in processes of its own."""
    print(
        f"object 1658 x 1658 x 20 slices in single precision, {options.pairs} pairs of L-BFGS, one thread; GiB"
    )
    print(f"{'ranks':>6}{'history':>11}{'rank 0: plan':>14}{'peak':>7}{'other ranks: plan':>19}  peaks")
    for ranks in options.ranks:
        code = (
            f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r})\n"
            f"from ranks import peaks_of; peaks_of({ranks}, {options.pairs}, {options.saturation})\n"
        )
        # noise has no object: trials overflow
        quiet = {**os.environ, "PYTHONWARNINGS": "ignore::RuntimeWarning"}
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, env=quiet
        )
        row = json.loads(done.stdout.splitlines()[-1])
        plans, (own, *rest) = [f"{size / 2**30:.2f}" for size in row["plans"]], row["peaks"]
        peaks = ", ".join(f"{size / 2**30:.2f}" for size in rest)
        print(
            f"{ranks:>6}{row['history']:>11}{plans[0]:>14}{own / 2**30:>7.2f}{plans[1] if rest else '-':>19}  {peaks}",
            flush=True,
        )
    return True


def peaks_of(ranks: int, pairs: int, saturation: float) -> None:
    """Print plan and peak resident memory of this process and its workers, above what they have after a small run (the
    imports), as JSON."""
    params = {**parameters(**WIDE), **ONE_THREAD, "hist_length": pairs, "warmup_epochs": 0}
    params |= {"devices": ranks if ranks > 1 else "auto", "epoch_max": pairs + 3, "stop_patience": 0}
    small = {**params, **parameters(16, 3, 1, 1), "epoch_max": 2}
    with crew_of() as crew:
        all_epochs(small, crew)
        processes = [os.getpid(), *(workers_of(os.getpid()) if ranks > 1 else [])]
        before = [resident_bytes(process) for process in processes]
        reset_peaks(processes)
        plan = all_epochs({**params, "memory_saturation": saturation}, crew)
        peaks = [peak_bytes(process) for process in processes]
    row = {
        "history": "in pieces" if plan.spread_history else "whole",
        "plans": [plan.total, plan.of_another],
        "peaks": [peak - earlier for peak, earlier in zip(peaks, before, strict=True)],
    }
    print(json.dumps(row), flush=True)


def all_epochs(params: Mapping[str, Any], crew: Crew) -> MemoryPlan:
    """Run a reconstruction; returns its plan."""
    setup = prepare(params, ranks=crew.ranks)
    with contextlib.closing(setup), together(setup, crew) as shared:
        for _ in Reconstruction(shared, State(variables=shared.variables(), epoch=0)).epochs():
            pass
    return setup.plan


def resident_bytes(process: int) -> int:
    return status_bytes(process, "VmRSS")


def reset_peaks(processes: list[int]) -> None:
    """Begin to measure the peak anew (Linux: 5 into clear_refs)."""
    for process in processes:
        Path(f"/proc/{process}/clear_refs").write_text("5")


def peak_bytes(process: int) -> int:
    return status_bytes(process, "VmHWM")


def status_bytes(process: int, name: str) -> int:
    """A number of /proc/PID/status, there in kB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) * 1024


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for function in (speed, parity, kills, memory):
        command = commands.add_parser(function.__name__)
        command.set_defaults(function=function)
        command.add_argument("--repeats", type=int, default=9)
        command.add_argument("--kills", type=int, default=20)
        command.add_argument("--seed", type=int, default=0)
        command.add_argument(
            "--ranks",
            type=int,
            nargs="*" if function is memory else None,
            default=[1, 2, 4] if function is memory else 3,
        )
        command.add_argument("--pairs", type=int, default=10)
        command.add_argument("--saturation", type=float, default=0.7, help="memory_saturation of the run")
    options = parser.parse_args()
    return 0 if options.function(options) else 1


if __name__ == "__main__":
    sys.exit(main())
