"""Figure of the calibration of a thick specimen: misfit of all trials, and the phase of the last fit."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from pypty.plots.figures import _DPI, NotebookFigure, plot_phase


def plot_specimen(
    better: np.ndarray,
    worse: np.ndarray,
    *,
    rotations_deg: tuple[float, float],
    fitted_A: tuple[float, float],
    phase: np.ndarray,
    pixel_A: tuple[float, float],
) -> Figure:
    """Misfit over defocus and over thickness for a rotation and its opposite; the phase of the refined slab.

    Parameters
    ----------
    better, worse : (n, 3) trials of the better rotation and of its opposite (180 degrees from it): C10 at the middle of
        the specimen in Å, thickness in Å, misfit
    rotations_deg : PLRotation_deg of both
    fitted_A : fitted C10 at the middle of the specimen, and thickness
    phase : (y, x) rad, summed over the slices
    pixel_A : pixel size of the phase, (y, x)
    """
    figure = NotebookFigure(figsize=(12.6, 3.8), dpi=_DPI, layout="constrained")
    for place, label in enumerate(("C10 at the middle of the specimen / Å", "thickness / Å")):
        axes = figure.add_subplot(1, 3, place + 1)
        for rows, angle, color, marker in zip(
            (better, worse), rotations_deg, ("C0", "C3"), "os", strict=True
        ):
            shown = rows if place else rows * (np.sign(rows[0, 0]), 1, 1)
            axes.plot(shown[:, place], 100 * rows[:, 2], marker, color=color, alpha=0.35, markersize=5)
            steps = np.unique(np.round(shown[:, place], 1))
            lowest = [100 * rows[np.abs(shown[:, place] - s) < 0.1, 2].min() for s in steps]
            axes.plot(steps, lowest, color=color, linewidth=1, label=f"{angle:.1f}°")
        axes.axvline(abs(fitted_A[0]) if place == 0 else fitted_A[1], color="black", linewidth=1)
        axes.set_xlabel(label if place else f"|{label[:3]}|{label[3:]}")
        axes.set_ylabel("misfit / % of the counts")
        axes.legend(title="PLRotation_deg", fontsize=8, title_fontsize=8)
    plot_phase(phase, pixel_A, figure.add_subplot(1, 3, 3), "phase, all slices together")
    return figure
