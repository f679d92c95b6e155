"""Correlation with the truth against wall time: mini-batches of Adam, L-BFGS, hybrids of both, and PtyRAD.

    python benchmarks/optimisers.py --data mos2_1e6.h5 --case ss_m4
    python benchmarks/optimisers.py --data mos2_1e5.h5 --seconds 12 --ptyrad-python PATH --figure curves.png
    python benchmarks/optimisers.py --data sto_thick_1e7.h5 --seconds 170 --ptyrad-python PATH
    python benchmarks/optimisers.py --draw mos2_1e6.json mos2_1e5.json --figure curves.png   # what --json wrote

All on the same cores, one after the other. Scores and times as in quality.py. "s/pass": seconds for all patterns once;
"best", "last": correlation; the table says which of ours is which method (METHODS below).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib
import mos2
import thick_crystal
from matplotlib.ticker import NullFormatter
from quality import Budget, Curve, Truth, ours, theirs

from pypty.demo import demo_data

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_ADAM = {
    "warmup_epochs": 0,
    "obj_parametrization": "amplitude_phase",
    "batch_size": 32,
    "learning_rates": {"objp": 1e-2, "obja": 1e-2, "probe": 1e-2},
}
_WHOLE = {"damping_cutoff_multislice": 2.0, "update_extra_cut": 0.0}  # as PtyRAD has it: no band limit
METHODS: Mapping[str, Mapping[str, Any]] = MappingProxyType({
    "L-BFGS": {"warmup_epochs": 0},
    "preconditioned": {"optimizer": "preconditioned"},
    "preconditioned, then L-BFGS (default)": {},
    "the same, Poisson": {"algorithm": "ml"},
    "the same, Poisson, no band limit": {"algorithm": "ml", **_WHOLE},
    "the same, Poisson, no band limit, phase only": {"algorithm": "ml", "phase_only_obj": True, **_WHOLE},
    "Adam": {**_ADAM, "optimizer": "adam"},
    "Adam, Poisson, no band limit": {**_ADAM, "optimizer": "adam", "algorithm": "ml", **_WHOLE},
    "Adam, cosine": {**_ADAM, "optimizer": "adam", "lr_scheduler": {"name": "cosine", "T_max": 20}},
    "Adam, then L-BFGS": {**_ADAM, "optimizer": "lambda x: 'adam' if x < 3 else 'lbfgs'",
                          "obj_parametrization": "lambda x: 'amplitude_phase' if x < 3 else 'complex'"},
    "Adam, then L-BFGS, Poisson, no band limit": {
        **_ADAM, "optimizer": "lambda x: 'adam' if x < 3 else 'lbfgs'", "algorithm": "ml", **_WHOLE,
        "obj_parametrization": "lambda x: 'amplitude_phase' if x < 3 else 'complex'"},
    "preconditioned, then Adam": {**_ADAM, "optimizer": "lambda x: 'preconditioned' if x < 2 else 'adam'",
                                  "lr_scheduler": {"name": "exponential", "gamma": 0.8}},
})  # fmt: skip
"""Changes of the parameters."""


DRAWN: Mapping[str, tuple[str, str]] = MappingProxyType({
    "L-BFGS": ("0.6", ":"),
    "Adam": ("tab:orange", "-"),
    "Adam, Poisson, no band limit": ("tab:orange", "--"),
    "Adam, then L-BFGS": ("tab:purple", "-"),
    "preconditioned, then L-BFGS (default)": ("tab:blue", "-"),
    "the same, Poisson, no band limit": ("tab:blue", "--"),
    "the same, Poisson, no band limit, phase only": ("tab:green", "--"),
    "ptyrad 1.0.0": ("tab:red", "-"),
    "ptyrad 1.0.0, Poisson": ("tab:red", "--"),
})  # fmt: skip


def draw(files: list[Path], path: Path) -> None:
    """What is missing to a correlation of 1 against time, a panel for each file."""
    figure, axes = plt.subplots(
        1,
        len(files),
        figsize=(4.2 * len(files) + 3.2, 4),
        constrained_layout=True,
        squeeze=False,
        sharey=True,
    )
    for axis, file in zip(axes[0], files, strict=True):
        for curve in json.loads(file.read_text()):
            if curve["method"] in DRAWN:
                colour, style = DRAWN[curve["method"]]
                missing = [1 - score["correlation"] for score in curve["scores"]]
                axis.plot(curve["s"], missing, style, color=colour, label=curve["method"], linewidth=1.6)
        axis.set(xscale="log", yscale="log", xlabel="time of the passes (s)", title=file.stem)
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3, which="both")
    axes[0, 0].set_ylabel("1 - correlation with the truth")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=100)


def row(curve: Curve) -> str:
    cells = curve.row()
    return " | ".join([*cells[:4], f"{curve.scores[-1]['correlation']:.4f}", *cells[4:]])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=demo_data())
    parser.add_argument("--case", default="ss_m1", choices=[c for c in mos2.CASES if " " not in c])
    parser.add_argument("--method", action="append", choices=list(METHODS), help="default: all")
    parser.add_argument("--passes", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--ptyrad-python", help="an interpreter that can import ptyrad")
    parser.add_argument("--json", type=Path, help="keep the curves")
    parser.add_argument("--draw", type=Path, nargs="+", help="only draw curves that were kept")
    parser.add_argument("--figure", type=Path, default=Path("optimisers.png"), help="of --draw")
    options = parser.parse_args()
    if options.draw:
        draw(options.draw, options.figure)
        return
    budget = Budget(options.passes or (math.inf if options.seconds else 20), options.seconds or math.inf)
    truth = Truth(options.data)
    thick = truth.slices is not None
    if thick:
        params = thick_crystal.parameters(options.data, 10**6) | {"print_flag": 0}
        size = {"slices": 8, "modes": 4, "thickness": params["slice_distances"][0]}
    else:
        params = mos2.parameters(options.data, mos2.CASES[options.case], 10**6)
        slices = 1 if options.case.startswith("ss") else 6
        size = {"slices": slices, "modes": int(options.case[-1]), "thickness": 12 / slices}
    print(
        "| data | method | s/pass | s to 0.95 | s to 0.97 | best | last | best in depth | s in all |\n"
        + "|---" * 9
        + "|"
    )
    curves = []
    for name in options.method or METHODS:
        curve = ours({**params, **METHODS[name]}, truth, budget)
        curve.name = name
        curves.append(curve)
        print(f"| {options.data.stem} | {name} | {row(curve)} |", flush=True)
    if options.ptyrad_python:
        for loss, name in (("single", ""), ("poissn", ", Poisson")):
            curve = theirs("ptyrad", options.ptyrad_python, options.data, truth, budget, loss=loss, **size)
            curve.name = f"{curve.name.split(',')[0]}{name}"
            curves.append(curve)
            print(f"| {options.data.stem} | {curve.name} | {row(curve)} |", flush=True)
    if options.json:
        kept = [{"method": c.name, "passes": c.passes, "s": c.seconds, "scores": c.scores} for c in curves]
        options.json.write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()
