"""Scan positions from the nominal grid: rotation, affine distortion and jitter are found from the data alone.

    python benchmarks/positions.py mos2_posnoise_inf.h5 mos2_posnoise_1e6.h5

The files are simulated scans of MoS2 whose true positions are rotated by 15 degrees, stretched and sheared by 1 % and
jittered by 0.2 Å; the reconstruction is given the plain, unrotated grid. In the first epochs all positions move
together by an affine map, then each on its own without such a map. Printed: root mean square distance from the truth
without the common shift, which nothing can tell, before and after; rotation and affine map fitted to both; time.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import pypty

COUNTS = 2e4
"""A noise-free file holds fractions of the beam; they are given this many counts."""


def parameters(path: Path, affine_epochs: int, epochs: int, then: str = "jitter") -> dict[str, Any]:
    """The settings that an experimenter has: the nominal grid, the pixel size and the nominal defocus."""
    with h5py.File(path, "r") as file:
        attributes, data, positions = dict(file.attrs), file["data"][()], file["positions_A"][()]
    pixel = attributes["pixel_size_A"]
    return {
        "dataset": data if data.dtype.kind == "u" else data * COUNTS,
        "positions": positions / pixel, "acc_voltage": attributes["voltage_kV"],
        "pixel_size_x_A": pixel, "pixel_size_y_A": pixel, "extra_probe_defocus": attributes["C10_A"],
        "damping_cutoff_multislice": 1.0, "default_dtype": "single", "print_flag": 0, "epoch_max": epochs,
        "update_probe": "lambda x: x >= 3", "update_probe_pos": True,
        "positions_parametrization": f"lambda x: 'affine' if x < {affine_epochs} else '{then}'",
        "extra_space_on_side_px": 8, "dynamically_resize_yx_object": 1.0,
    }  # fmt: skip


def error_A(positions_A: np.ndarray, true_A: np.ndarray) -> float:
    """Root mean square distance without the common shift."""
    error = positions_A - true_A
    return float(np.sqrt(((error - error.mean(axis=0)) ** 2).sum(axis=1).mean()))


def affine_map(positions_A: np.ndarray, nominal_A: np.ndarray) -> np.ndarray:
    """(2, 2) matrix that maps the nominal grid onto the positions best, [y, x]."""
    centred = nominal_A - nominal_A.mean(axis=0)
    return np.linalg.lstsq(centred, positions_A - positions_A.mean(axis=0), rcond=None)[0].T


def rotation_deg(matrix: np.ndarray) -> float:
    """The rotation in the polar decomposition of a matrix."""
    left, _, right = np.linalg.svd(matrix)
    rotation = left @ right
    return float(np.degrees(np.arctan2(rotation[1, 0], rotation[0, 0])))


def benchmark(path: Path, affine_epochs: int, epochs: int, then: str) -> None:
    params = parameters(path, affine_epochs, epochs, then)
    with h5py.File(path, "r") as file:
        nominal, true = file["positions_A"][()], file["positions_true_A"][()]
    started = time.perf_counter()
    result = pypty.run(params)
    spent = time.perf_counter() - started
    found = result.positions * params["pixel_size_x_A"]
    maps = [affine_map(positions, nominal) for positions in (true, found)]
    print(f"{path.name}: {spent:.0f} s for {len(result.epochs)} epochs")
    print(f"  position error {error_A(nominal, true):.3f} Å -> {error_A(found, true):.4f} Å RMS")
    for name, matrix in zip(("true ", "found"), maps, strict=True):
        print(f"  {name} rotation {rotation_deg(matrix):.2f} deg, map {np.round(matrix, 4).tolist()}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--affine-epochs", type=int, default=130)
    parser.add_argument("--epochs", type=int, default=170)
    parser.add_argument(
        "--then", choices=("jitter", "free"), default="jitter", help="after the affine epochs"
    )
    options = parser.parse_args()
    for path in options.files:
        benchmark(path, options.affine_epochs, options.epochs, options.then)


if __name__ == "__main__":
    main()
