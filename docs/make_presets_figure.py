"""Write docs/images/presets.png: what each preset finds in the simulated data of its test, beside the truth."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image
from scipy.ndimage import map_coordinates

import pypty
from pypty.plots.figures import NotebookFigure, add_scale_bar

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from preset_data import (  # noqa: E402
    Experiment,
    agreement,
    focal_series,
    gaussian_source,
    holograms,
    mos2,
    scan_errors,
    segmented,
    strontium_titanate,
)

RUNS: tuple[tuple[str, Callable[[], Experiment], float], ...] = (
    ("single_slice_monolayer", partial(mos2, 1e5), 0.6),
    ("thick_crystal_multislice", strontium_titanate, 0.6),
    ("mixed_state", partial(mos2, 1e5, source=gaussian_source(0.35, 40.0)), 0.6),
    ("low_dose", partial(mos2, 1e3), 0.6),
    ("near_field_holography", holograms, 12.0),
    ("focal_series", focal_series, 8.0),
    ("virtual_detectors", partial(segmented, 1e5), 0.6),
    ("position_refinement", partial(mos2, 1e5, error_A=scan_errors((18, 18), 1.0)), 0.6),
)


def compared(
    experiment: Experiment, result: pypty.Result, shift_A: tuple[float, float], n: int
) -> list[np.ndarray]:
    """Truth and reconstruction (n, n) on the same square, each without its mean."""
    low, high = experiment.area_A
    y, x = np.meshgrid(*(np.linspace(a, b, n) for a, b in zip(low, high, strict=True)), indexing="ij")
    at = np.stack([y, x])
    pixel = float(result.pixel_size_A[0])
    window = np.array(result.probe.shape[:2])
    pad = experiment.params.get("data_pad", result.settings["data_pad"])
    corner = result.positions + (pad if experiment.images else window // 2)
    origin = (experiment.positions_A - corner * pixel).mean(axis=0)
    if experiment.images:
        origin = origin + (pixel - experiment.pixel_A) / 2
    back = (at - origin[:, None, None] + np.asarray(shift_A)[:, None, None]) / pixel
    images = [
        map_coordinates(experiment.phase, at / experiment.pixel_A, order=1, mode="nearest"),
        map_coordinates(result.phase, back, order=1, mode="nearest"),
    ]
    return [image - image.mean() for image in images]


def main() -> None:
    figure = NotebookFigure(figsize=(8.6, 9.2), dpi=85, layout="constrained")
    axes = figure.subplots(4, 4)
    for index, (name, make, margin) in enumerate(RUNS):
        experiment = make()
        started = time.perf_counter()
        result = pypty.run({**pypty.load_preset(name), **experiment.params})
        seconds = time.perf_counter() - started
        found = agreement(result, experiment, margin)
        sys.stdout.write(f"{name:26s} {found.correlation:.3f} {seconds:.1f} s {result.warnings}\n")
        pair = axes[index // 2, 2 * (index % 2) : 2 * (index % 2) + 2]
        images = compared(experiment, result, found.shift_A, 160)
        for axis, image, title in zip(
            pair, images, (f"{name}: truth", f"reconstruction, {found.correlation:.3f}"), strict=True
        ):
            low, high = np.percentile(image, (0.5, 99.5))
            axis.imshow(image, cmap="gray", vmin=low, vmax=high)
            axis.set_axis_off()
            axis.set_title(title, fontsize=7)
            side = float(np.diff(experiment.area_A, axis=0).max())
            add_scale_bar(axis, side / 160, 160, 160)
    path = ROOT / "docs" / "images" / "presets.png"
    figure.savefig(path)
    Image.open(path).convert("L").save(path, optimize=True)  # grey: a third of the size


if __name__ == "__main__":
    matplotlib.use("Agg")
    main()
