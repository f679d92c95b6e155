"""Other packages on the same data: each in an interpreter of its own, one pass at a time: passes can take turns.

A driver writes a line of JSON when it is ready ({"version": …}). Every line on its standard input asks for a pass over
all patterns: "pass", or the path of an .npz file for the slices of the object (z, y, x) and the pixel at the centre of
the scan. It answers {"s": seconds}.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

DRIVERS = {"ptyrad": "ptyrad_driver.py", "py4dstem": "py4dstem_driver.py"}


class Peer:
    """Another package, ready for its passes.

    Parameters
    ----------
    name : one of DRIVERS
    python : its interpreter
    options : of its driver: modes, slices, thickness, …
    """

    def __init__(self, name: str, python: str, data: Path, threads: int = 2, **options: Any) -> None:
        driver = Path(__file__).with_name(DRIVERS[name])
        command = [python, str(driver), str(data)]
        for key, value in options.items():
            command += [f"--{key.replace('_', '-')}"] + ([] if value is True else [str(value)])
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            ["env", *(f"{variable}={threads}" for variable in names), *command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
        )  # fmt: skip
        self.version = self._answer()["version"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise RuntimeError(f"the driver ended:\n{self._errors.read()[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def run_pass(self) -> float:
        """Seconds of one pass."""
        return self._ask("pass")

    def pass_with_object(self) -> tuple[float, np.ndarray, np.ndarray]:
        """Seconds of one pass; the slices (z, y, x), rad; the pixel (y, x) at the centre of the scan."""
        with tempfile.TemporaryDirectory() as folder:
            seconds = self._ask(f"{folder}/object.npz")
            with np.load(f"{folder}/object.npz") as found:
                return seconds, found["phase"], found["centre_px"]

    def _ask(self, line: str) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return float(self._answer()["s"])

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
