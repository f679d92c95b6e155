"""Figures of differential phase contrast and tilt-corrected bright field."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from pypty.plots.figures import _DPI, NotebookFigure, _image, add_scale_bar, plot_phase


def plot_dpc(phase: np.ndarray, com_y_1A: np.ndarray, com_x_1A: np.ndarray, step_A: float) -> Figure:
    """Centres of mass along the axes of the scan (1/Å), and the phase (rad) whose gradient they are; all (sy, sx)."""
    figure = NotebookFigure(figsize=(12.0, 3.9), dpi=_DPI, layout="constrained")
    limit = max(float(np.abs([com_y_1A, com_x_1A]).max()), 1e-300)
    for column, (field, name) in enumerate(((com_y_1A, "y"), (com_x_1A, "x"))):
        axes = figure.add_subplot(1, 3, column + 1)
        _image(
            figure, axes, field, f"centre of mass, {name} / Å$^{{-1}}$", cmap="RdBu", vmin=-limit, vmax=limit
        )
        add_scale_bar(axes, step_A, field.shape[1], field.shape[0])
    plot_phase(phase, (step_A, step_A), figure.add_subplot(1, 3, 3), "phase from the centres of mass")
    return figure


def plot_tcbf(image: np.ndarray, pixel_size_A: float, title: str = "tilt-corrected bright field") -> Figure:
    """A bright-field image (y, x) in counts with a scale bar; 0.2 % of the values are clipped at each end."""
    figure = NotebookFigure(figsize=(5.4, 4.6), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    low, high = np.percentile(image, (0.2, 99.8))
    _image(
        figure, axes, image, "counts per detector pixel", cmap="gray", vmin=low, vmax=max(high, low + 1e-12)
    )
    add_scale_bar(axes, pixel_size_A, image.shape[1], image.shape[0])
    axes.set_title(title)
    return figure


def plot_defocus(
    defoci_A: np.ndarray,
    explained: np.ndarray,
    *,
    fitted_A: float,
    k_mrad: np.ndarray,
    shifts_A: np.ndarray,
    image: np.ndarray,
    pixel_size_A: float,
) -> Figure:
    """Measurement of the defocus: contrast explained by each C10, shifts of bright-field images, the corrected image.

    Parameters
    ----------
    defoci_A, explained : (n,) C10, and the fraction of the contrast it explains
    fitted_A : the fitted C10
    k_mrad, shifts_A : (D, 2) [y, x] angles of the detectors, and shifts that correct their images
    image : (y, x) tilt-corrected bright field
    """
    figure = NotebookFigure(figsize=(13.0, 4.0), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot(1, 3, 1)
    axes.plot(defoci_A, 100 * explained, linewidth=1)
    axes.axvline(fitted_A, color="C3", linewidth=1, label=f"fit: {fitted_A:.4g} Å")
    axes.set_xlabel("C10 / Å (overfocus positive)")
    axes.set_ylabel("contrast explained / %")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right", fontsize=7)
    axes.set_title("trial defoci")
    axes = figure.add_subplot(1, 3, 2)
    axes.quiver(
        k_mrad[:, 1], k_mrad[:, 0], shifts_A[:, 1], -shifts_A[:, 0], angles="uv", color="C0", width=0.004
    )
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.set_xlabel("kx / mrad")
    axes.set_ylabel("ky / mrad")
    largest = float(np.hypot(shifts_A[:, 0], shifts_A[:, 1]).max())
    axes.set_title(f"shifts of bright-field images, up to {largest:.3g} Å")
    axes = figure.add_subplot(1, 3, 3)
    _image(figure, axes, image, "counts per detector pixel", cmap="gray")
    add_scale_bar(axes, pixel_size_A, image.shape[1], image.shape[0])
    axes.set_title("tilt-corrected bright field")
    return figure
