"""Wall time to a stated correlation with the truth, beside other packages on the same cores.

    python benchmarks/quality.py                                   # ours, MoS2: one and six slices, one and four modes
    python benchmarks/quality.py --ptyrad-python PATH --py4dstem-python PATH --case ss_m1 --case ms6_m4
    python benchmarks/quality.py --data sto_thick_1e7.h5 --seconds 170 --ptyrad-python PATH --py4dstem-python PATH

For MoS2 the score is the Pearson correlation of the phase, summed over slices, with the truth inside the scan,
unfiltered, after removing offset and ramp and a sub-pixel registration. For the thick crystal also the correlation of
what each slice has that the mean slice does not explain (thick_crystal.py): the depth resolution. Times are those of
the passes alone: the planning of transforms and whatever a package compiles in its first pass are in, imports, reading
and scoring are not.
--figure draws correlation against time.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import matplotlib
import mos2
import numpy as np
import thick_crystal
from peers import Peer
from scipy.ndimage import gaussian_filter, map_coordinates

from pypty.demo import demo_data
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.state import State
from pypty.engine.setup.prepare import prepare
from pypty.quality import phase_agreement
from pypty.results.of_run import result_of

matplotlib.use("Agg")
import matplotlib.pyplot as plt


class Truth:
    """The true phase of a data set, and how close a reconstruction is to it."""

    def __init__(self, path: Path) -> None:
        with h5py.File(path) as file:
            self.phase = file["truth/phase_total"][()].astype(float)
            self.positions = file["positions_true_A"][()]
            self.pixel = float(file.attrs["pixel_size_A"])
            self.slices = file["truth/phase_groups"][()] if "truth/phase_groups" in file else None
        self.area = np.stack([self.positions.min(axis=0), self.positions.max(axis=0)])

    def score(self, stack: np.ndarray, pixel: float, origin: np.ndarray) -> dict[str, float]:
        """Of slices (z, y, x) whose pixel (0, 0) lies at ``origin`` Å."""
        found = phase_agreement(
            stack.sum(axis=0),
            pixel,
            origin_A=origin,
            truth=self.phase,
            truth_pixel_A=self.pixel,
            area_A=self.area,
            search_A=1.2,
        )
        scores = {"correlation": found.correlation}
        if self.slices is not None and len(stack) == len(self.slices):
            scores["depth"] = self._depth(stack, pixel, origin - np.array(found.shift_A))
        return scores

    def _depth(self, stack: np.ndarray, pixel: float, origin: np.ndarray) -> float:
        assert self.slices is not None
        low, high = (self.area[0] + 0.6) / self.pixel, (self.area[1] - 0.6) / self.pixel
        rows, columns = np.meshgrid(
            np.arange(np.ceil(low[0]), high[0]), np.arange(np.ceil(low[1]), high[1]), indexing="ij"
        )
        at = (np.stack([rows, columns]) * self.pixel - origin[:, None, None]) / pixel
        width = thick_crystal.SMOOTHING_A / self.pixel
        pair = []
        for slices, where in ((stack, at), (self.slices, np.stack([rows, columns]))):
            images = np.stack([map_coordinates(one, where, order=3, mode="nearest") for one in slices])
            pair.append(thick_crystal.unexplained(gaussian_filter(images, (0, width, width))))
        return thick_crystal.correlation(*pair)


@dataclass
class Curve:
    """One package: after each epoch the passes so far, the seconds so far, and the scores."""

    name: str
    passes: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    scores: list[dict[str, float]] = field(default_factory=list)

    def time_to(self, level: float) -> float | None:
        reached = (t for t, s in zip(self.seconds, self.scores, strict=True) if s["correlation"] >= level)
        return next(reached, None)

    def row(self) -> list[str]:
        times = np.diff([0.0, *self.seconds]) / np.diff([0, *self.passes])
        cells = [f"{statistics.median(times):.3f}"]
        cells += ["–" if t is None else f"{t:.2f}" for t in map(self.time_to, (0.95, 0.97))]
        cells.append(f"{max(s['correlation'] for s in self.scores):.4f}")
        depth = [s["depth"] for s in self.scores if "depth" in s]
        return [*cells, f"{max(depth):.3f}" if depth else "–", f"{self.seconds[-1]:.1f}"]


@dataclass(frozen=True)
class Budget:
    """A contestant stops after so many passes or seconds, whichever comes first."""

    passes: float
    seconds: float

    def lasts(self, passes: int, seconds: float) -> bool:
        return passes < self.passes and seconds < self.seconds


def ours(params: dict[str, Any], truth: Truth, budget: Budget) -> Curve:
    """Epochs; an evaluation of all patterns counts as a pass."""
    setup = prepare(params)
    run = Reconstruction(setup, State(variables=setup.variables(), epoch=0))
    curve, spent, evaluations = Curve("pypty"), 0.0, 0
    epochs: Iterator[Any] = run.epochs()
    while budget.lasts(evaluations, spent):
        started = time.perf_counter()
        record = next(epochs, None)
        if record is None:
            break
        spent += time.perf_counter() - started
        evaluations += record.evaluations
        result = result_of(run)
        pixel = float(result.pixel_size_A[0])
        centres = (result.positions + np.array(result.probe.shape[:2]) // 2) * pixel
        stack = np.angle(result.obj[..., 0]).transpose(2, 0, 1)
        curve.passes.append(evaluations)
        curve.seconds.append(spent)
        curve.scores.append(truth.score(stack, pixel, (truth.positions - centres).mean(axis=0)))
    return curve


def theirs(name: str, python: str, data: Path, truth: Truth, budget: Budget, **options: Any) -> Curve:
    peer = Peer(name, python, data, **options)
    curve, spent = Curve(peer.version), 0.0
    done = 0
    while budget.lasts(done, spent):
        seconds, stack, centre = peer.pass_with_object()
        spent, done = spent + seconds, done + 1
        curve.passes.append(done)
        curve.seconds.append(spent)
        curve.scores.append(truth.score(stack, truth.pixel, truth.area.mean(axis=0) - centre * truth.pixel))
    peer.close()
    return curve


def draw(curves: list[Curve], path: Path) -> None:
    """Correlation, and depth resolution where there is one, against time."""
    keys = [key for key in ("correlation", "depth") if key in curves[0].scores[-1]]
    labels = {"correlation": "correlation of the summed phase", "depth": "correlation in depth"}
    figure, axes = plt.subplots(
        1, len(keys), figsize=(5.5 * len(keys), 4), constrained_layout=True, squeeze=False
    )
    for axis, key in zip(axes[0], keys, strict=True):
        for curve in curves:
            axis.plot(
                curve.seconds, [s[key] for s in curve.scores], marker=".", label=curve.name.split(",")[0]
            )
        axis.set(xscale="log", xlabel="time of the passes (s)", ylabel=labels[key])
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=demo_data())
    parser.add_argument("--case", action="append", choices=[c for c in mos2.CASES if " " not in c])
    parser.add_argument("--passes", type=int, help="of each package; default 12, unless --seconds is given")
    parser.add_argument("--seconds", type=float, help="of the passes of each package")
    parser.add_argument("--ptyrad-python", help="an interpreter that can import ptyrad")
    parser.add_argument("--py4dstem-python", help="an interpreter that can import py4DSTEM")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    passes = options.passes or (math.inf if options.seconds else 12)
    budget = Budget(passes, options.seconds or math.inf)
    truth = Truth(options.data)
    cases = [None] if truth.slices is not None else options.case or ["ss_m1", "ss_m4", "ms6_m1", "ms6_m4"]
    pythons = {"ptyrad": options.ptyrad_python, "py4dstem": options.py4dstem_python}
    print(
        "| case | package | s/pass | s to 0.95 | s to 0.97 | best | best in depth | s in all |\n"
        + "|---" * 8
        + "|"
    )
    kept = []
    for case in cases:
        if case is None:
            params = thick_crystal.parameters(options.data, 10**6) | {"print_flag": 0}
            size = {"slices": 8, "modes": 4, "thickness": params["slice_distances"][0]}
        else:
            params = mos2.parameters(options.data, mos2.CASES[case], 10**6)
            slices = 1 if case.startswith("ss") else 6
            size = {"slices": slices, "modes": int(case[-1]), "thickness": 12 / slices}
        curves = [ours(params, truth, budget)]
        for name, python in pythons.items():
            if python:
                curves.append(theirs(name, python, options.data, truth, budget, **size))
        for curve in curves:
            print(
                f"| {case or options.data.stem} | {curve.name} | " + " | ".join(curve.row()) + " |",
                flush=True,
            )
            kept.append({"case": case or options.data.stem, "package": curve.name, "s": curve.seconds,
                         "scores": curve.scores})  # fmt: skip
    if options.figure:
        draw(curves, options.figure)
    if options.json:
        options.json.write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()
