"""One loss and gradient of two checkouts of pypty in turns: did a change of the code cost time?

    git worktree add ../before COMMIT
    python benchmarks/revisions.py ../before . --case "mos2 ms6_m4"

Each checkout has a process with its own package and its own ``benchmarks/cpu.py``, on the same cases, arrays and
threads; both stay, and evaluate in turns, so that a busy machine is busy for both. Per case: the median time of each,
and the median of the ratios of the turns, with their quartiles.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

EVALUATIONS = 5


def work(checkout: Path, case: str) -> None:
    """A line of the input asks for a turn; its times leave as a line of JSON."""
    sys.path.insert(0, str(checkout / "benchmarks"))
    import cpu

    import pypty
    from pypty.demo import demo_data

    used = Path(pypty.__file__).resolve().parents[1]
    if used != checkout:
        raise SystemExit(f"pypty is that of {used}, expected {checkout}")
    _, problem = cpu.problem_of(cpu.parameters(cpu.CASES[case], demo_data()))
    evaluate = cpu.evaluation(problem)
    evaluate()
    evaluate()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for _ in sys.stdin:
        times = []
        for _ in range(EVALUATIONS):
            started = time.perf_counter()
            evaluate()
            times.append(time.perf_counter() - started)
        sys.stdout.write(json.dumps(times[1:]) + "\n")  # the first wakes threads and caches
        sys.stdout.flush()


def started(checkout: Path, case: str) -> subprocess.Popen[str]:
    worker = subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), "--work", case, str(checkout)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(checkout)},
    )
    if line(worker.stdout) != "ready":
        raise SystemExit(f"{checkout}: {case} did not start")
    return worker


def line(stream: IO[str] | None) -> str:
    return stream.readline().strip() if stream else ""


def turn(worker: subprocess.Popen[str]) -> float:
    """Median seconds of an evaluation."""
    if worker.stdin is None:
        raise SystemExit("the worker takes no orders")
    worker.stdin.write("go\n")
    worker.stdin.flush()
    return statistics.median(json.loads(line(worker.stdout)))


def compare(before: Path, after: Path, case: str, rounds: int) -> str:
    workers = [started(before, case), started(after, case)]
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for which in (0, 1) if number % 2 else (1, 0):
            times[which].append(turn(workers[which]))
    for worker in workers:
        worker.communicate()
    ratios = [new / old for old, new in zip(*times, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    old, new = (1e3 * statistics.median(values) for values in times)
    return f"| {case} | {old:.1f} | {new:.1f} | {middle:.3f} | {low:.3f} to {high:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkouts", nargs="*", type=Path, help="before, after")
    parser.add_argument("--case", action="append", help="of benchmarks/cpu.py; default: all")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    checkouts = [path.resolve() for path in options.checkouts]
    if options.work:
        work(checkouts[0], options.work)
        return
    if len(checkouts) != 2:
        parser.error(f"expected two checkouts, before and after, got {len(checkouts)}")
    import cpu

    sys.stdout.write(
        "| case | before, ms | after, ms | after / before | quartiles |\n|---|---|---|---|---|\n"
    )
    for case in options.case or cpu.CASES:
        sys.stdout.write(compare(*checkouts, case, options.rounds) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
