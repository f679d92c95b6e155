"""The first minutes on a new card: everything that only a real device can show, in one report.

    python benchmarks/first_contact.py REPORT_FOLDER               # both parts, less than 12 minutes
    python benchmarks/first_contact.py REPORT_FOLDER --part 1      # right or wrong: at most 9 minutes
    python benchmarks/first_contact.py REPORT_FOLDER --part 2      # how fast: at most 9 minutes
    python benchmarks/first_contact.py REPORT_FOLDER --emulated    # a trial on the emulated device of the tests

Every step is a process of its own with a limit, and one that fails or hangs does not stop the rest. A line after each
step says what it found; report.txt has all of their output, and report.json, which is written after each step, all
numbers. The steps are in first_contact_steps.py. pytest and compute-sanitizer are used where they are installed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STEPS = HERE / "first_contact_steps.py"
TESTS = HERE.parent / "tests"
SLOWER = 4
"""Factor on the limits of steps on the emulated device."""
PART_LIMIT, WHOLE_LIMIT = 540.0, 700.0
"""Seconds of one part, and of both; steps for which no time is left are left out."""
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")


@dataclass(frozen=True)
class Step:
    """A step: what it runs, and how many seconds it may take.

    Attributes
    ----------
    command : arguments of first_contact_steps.py, or a whole command line
    needs : a program or a Python module without which the step is left out
    """

    name: str
    part: int
    limit: float
    command: Sequence[str]
    needs: str = ""
    own: bool = True
    environment: dict[str, str] = field(default_factory=dict)


def all_steps(emulated: bool) -> list[Step]:
    """In the order in which they run: what decides about the rest comes first."""
    tests = [
        str(TESTS / name) for name in ("test_device.py", "test_streams.py", "test_device_faults.py", "cuda")
    ]
    pytest = [sys.executable, "-m", "pytest", "-q", "-x", "--maxfail=20", "-p", "no:cacheprovider"]
    chosen = ["-k", "test_evaluate_with_split_kernels"] if emulated else ["-m", "device"]
    real = {} if emulated else {"PYPTY_TEST_DEVICE": "real"}
    first = [
        Step("environment", 1, 40, ["environment"]),
        Step("compile", 1, 60, ["compile"]),
        Step("agreement", 1, 90, ["agreement"]),
        Step("odd windows", 1, 60, ["windows"]),
        Step("device tests", 1, 120, [*pytest, *chosen, *tests], "pytest", False, real),
        Step("out of memory", 1, 30, ["out_of_memory"]),
        Step("more than 2^31 numbers", 1, 40, ["large"]),
        *(
            Step(
                tool,
                1,
                25,
                # without a status for errors that are found, the program's own one counts
                [
                    "compute-sanitizer",
                    "--tool",
                    tool,
                    "--error-exitcode",
                    "9",
                    sys.executable,
                    str(STEPS),
                    "sanitized",
                ],
                "compute-sanitizer",
                False,
            )
            for tool in SANITIZERS
        ),
    ]
    second = [
        Step("rates and passes", 2, 240, ["rates"]),
        Step("mini-batches", 2, 40, ["mini_batches"]),
        Step("profile of L-BFGS", 2, 40, ["profile", "lbfgs"]),
        Step("profile of Adam", 2, 40, ["profile", "adam"]),
        Step("environment at the end", 2, 20, ["environment"]),
    ]
    return first + second


def missing(step: Step) -> str:
    """What the step lacks; "" if it can run."""
    if not step.needs or shutil.which(step.needs):
        return ""
    probe = [sys.executable, "-c", f"import {step.needs.replace('-', '_')}"]
    found = subprocess.run(probe, capture_output=True, check=False)
    return "" if found.returncode == 0 else f"{step.needs} is not installed"


class Report:
    """Lines on the screen and in report.txt, numbers in report.json."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.start = time.monotonic()
        self.path = folder / "report.json"
        self.steps: dict[str, Any] = {}
        if self.path.exists():  # part 2 adds to what part 1 has found
            self.steps = json.loads(self.path.read_text(encoding="utf-8"))

    def say(self, line: str) -> None:
        print(line, flush=True)
        with open(self.folder / "report.txt", "a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def output(self, text: str) -> None:
        with open(self.folder / "report.txt", "a", encoding="utf-8") as file:
            file.write("".join(f"    {line}\n" for line in text.splitlines()))

    def add(self, name: str, **found: Any) -> None:
        self.steps[name] = found
        replacement = self.path.with_suffix(".new")
        replacement.write_text(json.dumps(self.steps, indent=1), encoding="utf-8")
        os.replace(replacement, self.path)


def run(step: Step, report: Report, *, small: bool, left: float) -> None:
    """Run a step, and report what it found, whatever happens; ``left``: seconds that it may take at most."""
    reason = missing(step) if left > 1 else "no time is left"
    if reason:
        report.say(f"[{_clock(report)}] {step.name}: left out, {reason}")
        report.add(step.name, state="left out", reason=reason)
        return
    result = report.folder / f"{step.command[0] if step.own else 'other'}.json"
    result.unlink(missing_ok=True)
    command = list(step.command)
    if step.own:
        command = [sys.executable, str(STEPS), *step.command, "--result", str(result)]
    environment = {**os.environ, **step.environment, "PYTHONUNBUFFERED": "1"}
    if small:
        environment["PYPTY_FIRST_CONTACT"] = "emulated"
    start = time.monotonic()
    code, output = limited(command, min(left, step.limit * (SLOWER if small else 1)), environment)
    seconds = time.monotonic() - start
    found = json.loads(result.read_text(encoding="utf-8")) if result.exists() else {}
    result.unlink(missing_ok=True)
    state = "timed out" if code is None else "passed" if code == 0 else f"failed with status {code}"
    summary = str(found.get("summary") or _last(output))
    report.say(f"[{_clock(report)}] {step.name}: {state} in {seconds:.0f} s: {summary}")
    report.output(output)
    report.add(
        step.name, state=state, seconds=round(seconds, 1), summary=summary, numbers=found.get("numbers", {})
    )


def limited(command: Sequence[str], limit: float, environment: dict[str, str]) -> tuple[int | None, str]:
    """Status (None: it ran past the limit) and output of a command; processes that it has started end with it."""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=limit)
            return process.returncode, output
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None, process.communicate()[0]


def _last(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no output"


def _clock(report: Report) -> str:
    seconds = int(time.monotonic() - report.start)
    return f"{seconds // 60:2d}:{seconds % 60:02d}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="for report.txt and report.json")
    parser.add_argument("--part", type=int, choices=(1, 2), help="only this part")
    parser.add_argument(
        "--emulated", action="store_true", help="tiny sizes on the emulated device of the tests"
    )
    parser.add_argument("--only", help="names of steps, with commas between them")
    options = parser.parse_args(arguments)
    report = Report(options.folder)
    chosen = [step for step in all_steps(options.emulated) if options.part in (None, step.part)]
    if options.only:
        names = options.only.split(",")
        unknown = set(names) - {step.name for step in chosen}
        if unknown:
            parser.error(f"no such step: {', '.join(sorted(unknown))}")
        chosen = [step for step in chosen if step.name in names]
    limit = (PART_LIMIT if options.part else WHOLE_LIMIT) * (SLOWER if options.emulated else 1)
    for step in chosen:
        left = limit - (time.monotonic() - report.start)
        run(step, report, small=options.emulated, left=left)
    states = [report.steps[step.name]["state"] for step in chosen]
    bad = sum(state not in ("passed", "left out") for state in states)
    report.say(f"{states.count('passed')} steps passed, {states.count('left out')} left out, {bad} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
