"""Write docs/images/direct_methods.png: the demo's specimen by each direct method, beside the truth."""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np

import pypty
from pypty.demo import demo_data, demo_params
from pypty.plots.figures import NotebookFigure, add_scale_bar

ROOT = Path(__file__).parents[1]
LAYER_A = 4.0
"""The atoms lie this far behind the plane that C10 = 100 Å refers to."""


def truth(step_A: float, points: tuple[int, int]) -> np.ndarray:
    """(y, x) the true phase of the scanned area, on its own pixels."""
    with h5py.File(demo_data()) as file:
        phase, positions = file["truth/phase_total"][()], file["positions_true_A"][()]
        pixel = float(file.attrs["pixel_size_A"])
    top, left = np.round(positions.min(axis=0) / pixel).astype(int)
    height, width = (round(n * step_A / pixel) for n in points)
    return phase[top : top + height, left : left + width]


def main() -> None:
    params = demo_params(output_folder="", conv_semiangle_mrad=25.0)
    params["extra_probe_defocus"] += LAYER_A
    step, points = params["scan_step_A"], tuple(params["scan_size"])
    bright, bright_pixel = pypty.tcbf.upsampled_tcbf(params, upsample=4, pad=0)
    images = {
        "truth": (truth(step, points), step * points[1] / truth(step, points).shape[1], "phase / rad"),
        "single sideband": (np.angle(pypty.direct.ssb(params)), step, "phase / rad"),
        "Wigner deconvolution": (np.angle(pypty.direct.wdd(params)), step, "phase / rad"),
        "tilt-corrected bright field": (bright, bright_pixel, "counts per detector pixel"),
        "integrated DPC": (pypty.dpc.fft_based_dpc(params, hpass=1e-3)[0], step, "phase / rad"),
    }
    figure = NotebookFigure(figsize=(15, 3.2), layout="constrained")
    for axes, (name, (image, pixel, label)) in zip(figure.subplots(1, 5), images.items(), strict=True):
        shown = axes.imshow(image, cmap="gray", interpolation="nearest")
        axes.set_title(name, fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
        add_scale_bar(axes, pixel, image.shape[1], image.shape[0])
        figure.colorbar(shown, ax=axes, label=label, fraction=0.046, pad=0.03)
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images" / "direct_methods.png"
    figure.savefig(target, dpi=80)


if __name__ == "__main__":
    main()
