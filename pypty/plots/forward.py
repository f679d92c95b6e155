"""Modelled and measured patterns at single positions, with the probe and the object patch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from pypty.plots.figures import _DPI, Lengths, NotebookFigure, add_scale_bar


@dataclass(frozen=True, kw_only=True)
class ForwardPass:
    """The model at one position.

    Attributes
    ----------
    index : index of the pattern
    probe_intensity, amplitude, phase : (y, x): probe intensity summed over modes; amplitude of the object patch,
        averaged over modes and multiplied over slices; its phase, averaged over modes and summed over slices, rad
    modelled, measured : (ky, kx) counts, zero frequency at n//2, or (D,) of virtual detectors
    """

    index: int
    probe_intensity: np.ndarray
    amplitude: np.ndarray
    phase: np.ndarray
    modelled: np.ndarray
    measured: np.ndarray


def plot_forward(
    passes: Sequence[ForwardPass], pixel_size_A: Lengths, pixel_mrad: tuple[float, float] | None
) -> Figure:
    """One row per position: probe, object patch, and square roots of modelled and measured counts.

    Parameters
    ----------
    pixel_mrad : (ky, kx) pixel size of the patterns; None for near-field images
    """
    figure = NotebookFigure(figsize=(15.0, 2.9 * len(passes)), dpi=_DPI * 2 // 3, layout="constrained")
    panels = figure.subplots(len(passes), 5, squeeze=False)
    for row, item in zip(panels, passes, strict=True):
        _real(figure, row[0], item.probe_intensity, pixel_size_A, "inferno", "counts")
        row[0].set_title("probe intensity")
        row[0].set_ylabel(f"pattern {item.index}")
        _real(figure, row[1], item.amplitude, pixel_size_A, "gray", "")
        row[1].set_title("object amplitude")
        _real(figure, row[2], item.phase, pixel_size_A, "gray", "rad")
        row[2].set_title("object phase")
        if item.modelled.ndim == 1:
            _curves(row[3], item)
            row[4].set_axis_off()
            continue
        roots = [np.sqrt(np.maximum(pattern, 0)) for pattern in (item.modelled, item.measured)]
        high = max(float(np.max(roots)), 1e-300)  # both patterns have the same scale
        for axes, root, name in zip(row[3:], roots, ("modelled", "measured"), strict=True):
            _pattern(figure, axes, root, high, pixel_mrad)
            axes.set_title(name)
    return figure


def _real(
    figure: Figure, axes: Axes, image: np.ndarray, pixel_size_A: Lengths, colours: str, unit: str
) -> None:
    low, high = np.percentile(image, (0.2, 99.8))
    shown = axes.imshow(
        image,
        cmap=colours,
        vmin=low,
        vmax=max(high, low + 1e-12),
        interpolation="nearest",
        aspect=pixel_size_A[0] / pixel_size_A[1],
    )
    axes.set_xticks([])
    axes.set_yticks([])
    add_scale_bar(axes, pixel_size_A[1], image.shape[1], image.shape[0])
    figure.colorbar(shown, ax=axes, label=unit, fraction=0.046, pad=0.03)


def _pattern(
    figure: Figure, axes: Axes, root: np.ndarray, high: float, pixel_mrad: tuple[float, float] | None
) -> None:
    (ny, nx), (py, px) = root.shape, pixel_mrad or (1.0, 1.0)
    edges = (
        (-(nx // 2) - 0.5) * px,
        (nx - nx // 2 - 0.5) * px,
        (ny - ny // 2 - 0.5) * py,
        (-(ny // 2) - 0.5) * py,
    )
    shown = axes.imshow(
        root, cmap="magma", norm=PowerNorm(0.5, 0, high), interpolation="nearest", extent=edges
    )
    axes.set_aspect("equal")
    axes.set_xlabel("kx / mrad" if pixel_mrad else "x / px")
    axes.set_ylabel("ky / mrad" if pixel_mrad else "y / px")
    figure.colorbar(shown, ax=axes, label="$\\sqrt{counts}$", fraction=0.046, pad=0.03)


def _curves(axes: Axes, item: ForwardPass) -> None:
    """Draw sums over virtual detectors."""
    axes.plot(np.sqrt(np.maximum(item.measured, 0)), ".", color="0.5", label="measured")
    axes.plot(np.sqrt(np.maximum(item.modelled, 0)), "-", color="C0", linewidth=1, label="modelled")
    axes.set_xlabel("virtual detector")
    axes.set_ylabel("$\\sqrt{counts}$")
    axes.legend(fontsize=8)
