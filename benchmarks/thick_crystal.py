"""Depth-resolved phase of a thick crystal: multislice, mixed state, tilt and slice distance refined.

    python benchmarks/thick_crystal.py sto_thick_1e7.h5 --folder sto_run --figure sto_depth.png
    python benchmarks/thick_crystal.py sto_thick_1e7.h5 --folder sto_run --figure sto_depth.png --resume --epochs 600

The file is a simulated scan of 156 Å of SrTiO3 along [001] with ten Bi dopants at known depths (300 kV, 21.4 mrad,
frozen phonons, source size, focal spread). Eight slices and four probe modes start from vacuum and from an aperture
with the nominal defocus; tilt and slice distance are refined later. Printed: the correlation of the phase
summed over depth with the truth; the correlation of what each slice has that the mean slice does not explain (up to a
factor and an offset), which is the depth resolution; and that part, through depth, in every column with a dopant.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import matplotlib
import numpy as np
from scipy.ndimage import gaussian_filter

import pypty

matplotlib.use("Agg")
import matplotlib.pyplot as plt

N_SLICES = 8
SMOOTHING_A = 0.2
"""Width of the Gaussian that both phases are smoothed with before slices are compared."""


def parameters(path: Path, epochs: int, phase_only_from: int | None = None) -> dict[str, Any]:
    """The settings that an experimenter has; the slices cover the nominal thickness."""
    with h5py.File(path, "r") as file:
        attributes, data, positions = dict(file.attrs), file["data"][()], file["positions_A"][()]
    pixel, n = attributes["pixel_size_A"], data.shape[1]
    thickness = attributes["thickness_A"] / N_SLICES
    return {
        "dataset": data, "positions": positions / pixel, "acc_voltage": attributes["voltage_kV"],
        "pixel_size_x_A": pixel, "pixel_size_y_A": pixel, "num_slices": N_SLICES, "slice_distances": [thickness],
        "probe": "aperture",
        "aperture_mask": attributes["semiangle_mrad"] / (n // 2 * attributes["angular_sampling_mrad"]),
        "aberrations": [attributes["C10_A"] + thickness / 2], "n_hermite_probe_modes": [1, 1],
        "damping_cutoff_multislice": 1.0, "default_dtype": "single", "hist_length": 20, "epoch_max": epochs,
        "update_tilts": "lambda x: x >= 40",
        "update_slice_distances": "lambda x: x >= 40", "print_flag": 2, "save_inter_checkpoints": 10,
        "phase_only_obj": False if phase_only_from is None else f"lambda x: x >= {phase_only_from}",
    }  # fmt: skip


@dataclass
class Compared:
    """Slices inside the scan, (z, y, x) in rad, on the pixels of the reconstruction; and the dopants there.

    Attributes
    ----------
    dopants : (n, 3) row, column, slice
    """

    found: np.ndarray
    true: np.ndarray
    dopants: np.ndarray
    pixel_A: float


def compare(result: pypty.Result, path: Path) -> Compared:
    """Cut out the scanned area, and bring the truth onto the same pixels by a Fourier shift."""
    with h5py.File(path, "r") as file:
        pixel, groups = file.attrs["pixel_size_A"], file["truth/phase_groups"][()]
        dopants = np.array(json.loads(file["truth/dopants_json"][()])["positions_yxz_A"])
        positions, thickness = file["positions_A"][()] / pixel, file.attrs["thickness_A"]
    half = np.array(result.probe.shape[:2]) // 2
    origin = positions.min(axis=0) - half  # of the object, in pixels of the truth
    low = half + 2
    high = np.floor(positions.max(axis=0) - origin).astype(int) - 2
    found = np.angle(result.obj[..., 0]).transpose(2, 0, 1)
    area = (slice(None), slice(low[0], high[0]), slice(low[1], high[1]))
    fy, fx = (np.fft.fftfreq(n) for n in groups.shape[1:])
    ramp = np.exp(2j * np.pi * (fy[:, None] * origin[0] + fx * origin[1]))
    true = np.fft.ifft2(np.fft.fft2(groups) * ramp).real
    depth = dopants[:, 2] * N_SLICES / thickness - 0.05  # an atom on a border counts to the slice before
    rows = np.column_stack([dopants[:, :2] / pixel - origin - low, np.floor(depth)])
    rows = np.round(rows).astype(int)
    inside = ((rows[:, :2] > 1) & (rows[:, :2] < np.array(true[area].shape[1:]) - 2)).all(axis=1)
    return Compared(found[area], true[area], rows[inside], pixel)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def smoothed(compared: Compared) -> tuple[np.ndarray, np.ndarray]:
    """Both stacks, smoothed laterally."""
    width = (0, SMOOTHING_A / compared.pixel_A, SMOOTHING_A / compared.pixel_A)
    return gaussian_filter(compared.found, width), gaussian_filter(compared.true, width)


def unexplained(stack: np.ndarray) -> np.ndarray:
    """Each slice without its best fit by a factor times the mean slice and an offset: what is at that depth only."""
    mean = stack.mean(axis=0).ravel()
    basis = np.column_stack([mean, np.ones(mean.size)])
    flat = stack.reshape(len(stack), -1).T
    return (flat - basis @ np.linalg.lstsq(basis, flat, rcond=None)[0]).T.reshape(stack.shape)


def report(compared: Compared) -> None:
    found, true = smoothed(compared)
    print(f"correlation of the phase summed over depth: {correlation(found.sum(0), true.sum(0)):.3f}")
    found, true = unexplained(found), unexplained(true)
    print(f"correlation of what the mean slice does not explain: {correlation(found, true):.3f}")
    for row, column in sorted({(int(r), int(c)) for r, c, _ in compared.dopants}):
        there = sorted({int(z) for r, c, z in compared.dopants if (r, c) == (row, column)})
        profiles = [" ".join(f"{value:+.2f}" for value in stack[:, row, column]) for stack in (found, true)]
        print(f"  dopants in slices {there}: found {profiles[0]} rad, true {profiles[1]} rad")


def draw(compared: Compared, path: Path) -> None:
    """Slices of truth and reconstruction, and what differs between them, with a scale bar."""
    found, true = smoothed(compared)
    rows = (
        ("true phase", true, "viridis"),
        ("found phase", found, "viridis"),
        ("true, beyond mean slice", unexplained(true), "RdBu_r"),
        ("found, beyond mean slice", unexplained(found), "RdBu_r"),
    )
    figure, axes = plt.subplots(4, N_SLICES, figsize=(13, 7.4), constrained_layout=True)
    for number, ((name, stack, colours), line) in enumerate(zip(rows, axes, strict=True)):
        largest = np.abs(stack).max() if colours == "RdBu_r" else stack.max()
        lowest = -largest if colours == "RdBu_r" else stack.min()
        for z, (axis, image) in enumerate(zip(line, stack, strict=True)):
            shown = axis.imshow(image, cmap=colours, vmin=lowest, vmax=largest)
            axis.set(xticks=[], yticks=[])
            for r, c, slice_ in compared.dopants:
                if slice_ == z:
                    axis.plot(c, r, "o", mfc="none", mec="k", ms=9)
            if number == 0:
                axis.set_title(f"slice {z}", fontsize=9)
        line[0].set_ylabel(name, fontsize=8)
        figure.colorbar(shown, ax=line, label="rad", pad=0.01)
    length = 3 / compared.pixel_A
    axes[0, 0].plot([2, 2 + length], [true.shape[1] - 4] * 2, "w", lw=3)
    axes[0, 0].text(2, true.shape[1] - 6, "3 Å", color="w", fontsize=9)
    figure.suptitle("SrTiO3, 156 Å: slices of 19.5 Å, entrance first; circles: Bi dopants", fontsize=10)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--epochs", type=int, default=170)
    parser.add_argument("--folder", type=Path, default=Path("thick_crystal"))
    parser.add_argument("--figure", type=Path, default=Path("thick_crystal.png"))
    parser.add_argument("--resume", action="store_true", help="continue the run in the folder")
    parser.add_argument("--phase-only-from", type=int, help="epoch from which the object's amplitude stays")
    options = parser.parse_args()
    started = time.perf_counter()
    result = pypty.run(
        {
            **parameters(options.file, options.epochs, options.phase_only_from),
            "output_folder": str(options.folder),
            "resume": options.resume,
        }
    )
    print(f"{time.perf_counter() - started:.0f} s; {result}")
    print(f"slice distance {result.slice_distances} Å; tilt inside {1e3 * result.tilts[0, 2:4]} mrad")
    compared = compare(result, options.file)
    report(compared)
    draw(compared, options.figure)


if __name__ == "__main__":
    main()
