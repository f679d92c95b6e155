"""Why a start from vacuum opens with mini-batches: correlation with the truth after so many passes over the data.

    python benchmarks/warmup.py
    python benchmarks/warmup.py --data mos2_1e5.h5 --case ss_m1

One row for each number of warm-up epochs; a pass is one evaluation of loss and gradient of all patterns, in
mini-batches or not. After the warm-up L-BFGS goes on. "sparse" uses every ninth pattern.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import mos2
import numpy as np
from quality import Truth, ours

from pypty.demo import demo_data

CASES = ("ss_m1", "ss_m4", "ms6_m1", "ms6_m4", "ss_m1 sparse")
PASSES = (1, 2, 3, 4, 6, 8, 12, 16)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=demo_data())
    parser.add_argument("--case", action="append", choices=CASES, help="default: all")
    parser.add_argument("--warmup", type=int, nargs="+", default=[0, 1, 2, 3])
    options = parser.parse_args()
    truth = Truth(options.data)
    print(
        "| case | warm-up | "
        + " | ".join(f"pass {n}" for n in PASSES)
        + " |\n"
        + "|---" * (len(PASSES) + 2)
        + "|"
    )
    for case in options.case or CASES:
        for epochs in options.warmup:
            params = mos2.parameters(options.data, mos2.CASES[case], 10**6) | {"warmup_epochs": epochs}
            curve = ours(params, truth, max(PASSES))
            scores = np.array([score["correlation"] for score in curve.scores])
            cells = []
            for n in PASSES:
                done = [k for k, passes in enumerate(curve.passes) if passes <= n]
                cells.append(f"{scores[done[-1]]:.4f}" if done else "–")
            print(f"| {case} | {epochs} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
