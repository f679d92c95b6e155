"""Figures on the scan: batches, positions, tilts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from pypty.plots.figures import _DPI, Lengths, NotebookFigure, plot_positions

_STEPS = 9
_SMALL_MRAD = 1e-3
_MOST_POINTS = 20_000
_GOLDEN = 0.618034


def plot_grouping(
    positions_A: np.ndarray, batches: Sequence[np.ndarray], diameter_A: float | None = None
) -> Figure:
    """Grouping of patterns into batches: all batches in colours, and the first batch with the size of the probe.

    Parameters
    ----------
    positions_A : (N, 2) [y, x] of the probe
    batches : indices of the patterns of each batch
    diameter_A : diameter of the circle that contains 90 % of the probe's intensity, drawn at the first position
    """
    figure = NotebookFigure(figsize=(9.6, 4.7), dpi=_DPI, layout="constrained")
    every, first = figure.subplots(1, 2)
    size = float(np.clip(600 / np.sqrt(max(len(positions_A), 1)), 1.5, 40))
    hues = np.arange(len(batches)) * _GOLDEN % 1  # neighbours in the list differ in colour
    colors = hsv_to_rgb(np.stack([hues, np.full(len(hues), 0.75), 0.55 + 0.4 * (hues * 7 % 1)], axis=-1))
    for batch, color in zip(batches, colors, strict=True):
        every.scatter(positions_A[batch, 1], positions_A[batch, 0], s=size, color=color, linewidths=0)
    every.set_title(f"{len(batches)} batches, {sum(map(len, batches))} patterns")
    first.scatter(positions_A[:, 1], positions_A[:, 0], s=size / 4, color="0.82", linewidths=0)
    chosen = positions_A[batches[0]]
    first.scatter(chosen[:, 1], chosen[:, 0], s=size, color="C0", linewidths=0)
    title = f"batch 0: {len(chosen)} patterns"
    if diameter_A:
        y, x = chosen[0]
        first.add_patch(Circle((x, y), diameter_A / 2, fill=False, linestyle="--", color="C3", linewidth=1.2))
        title += f"; circle: 90 % of the probe, {diameter_A:.3g} Å across"
    first.set_title(title, fontsize=10)
    for axes in (every, first):
        _frame(axes, positions_A, (diameter_A or 0) / 2)
    return figure


def plot_scan_positions(positions: np.ndarray, start: np.ndarray, pixel_size_A: Lengths) -> Figure:
    """Starting and current positions in Å; an arrow from the first to the tenth shows the direction of the scan."""
    figure = NotebookFigure(figsize=(5.4, 5.0), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    plot_positions(positions, start, pixel_size_A, axes)
    if len(positions) > _STEPS:
        points = positions * np.asarray(pixel_size_A)
        (y, x), (tip_y, tip_x) = points[0], points[_STEPS]
        arrow = {"arrowstyle": "->", "color": "k", "linewidth": 1.5, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (tip_x, tip_y), (x, y), arrowprops=arrow)
        axes.annotate("0", (x, y), xytext=(-6, 6), textcoords="offset points", fontsize=8)
        axes.annotate(str(_STEPS), (tip_x, tip_y), xytext=(4, 6), textcoords="offset points", fontsize=8)
    return figure


def plot_tilts(positions_A: np.ndarray, tilts_mrad: np.ndarray) -> Figure:
    """Tilt of the specimen at every position, as arrows coloured by their length.

    Parameters
    ----------
    positions_A : (N, 2) [y, x]
    tilts_mrad : (N, 2) or (1, 2) [y, x]; a single tilt applies to all positions
    """
    figure = NotebookFigure(figsize=(5.8, 4.8), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    mean = tilts_mrad.mean(axis=0)
    if (np.abs(tilts_mrad) < _SMALL_MRAD).all():
        text = f"tilts are below {_SMALL_MRAD:g} mrad"
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="0.4")
        axes.set_xticks([])
        axes.set_yticks([])
    elif len(tilts_mrad) == 1:
        _draw_tilt(axes, *mean)
    else:
        every = -(-len(positions_A) // _MOST_POINTS)  # draw at most _MOST_POINTS arrows
        points, tilts = positions_A[::every], tilts_mrad[::every]
        size = np.hypot(tilts[:, 0], tilts[:, 1])
        arrows = axes.quiver(
            points[:, 1],
            points[:, 0],
            tilts[:, 1],
            -tilts[:, 0],  # angles="uv" refers to the screen, where y points up
            size,
            angles="uv",
            pivot="mid",
            cmap="viridis",
        )
        figure.colorbar(arrows, ax=axes, label="tilt / mrad")
        _frame(axes, positions_A)
    axes.set_title(f"tilt of the specimen: mean [y, x] = [{mean[0]:.3g}, {mean[1]:.3g}] mrad")
    return figure


def _draw_tilt(axes: Axes, y: float, x: float) -> None:
    """Draw a single tilt as an arrow from the beam axis, mrad."""
    arrow = {"arrowstyle": "->", "color": "C0", "linewidth": 2, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (x, y), (0, 0), arrowprops=arrow)
    reach = 1.2 * max(abs(x), abs(y))
    axes.set(xlim=(-reach, reach), ylim=(reach, -reach), xlabel="tilt x / mrad", ylabel="tilt y / mrad")
    axes.set_aspect("equal")
    axes.axhline(0, color="0.8", linewidth=0.8)
    axes.axvline(0, color="0.8", linewidth=0.8)


def _frame(axes: Axes, positions_A: np.ndarray, least: float = 0.0) -> None:
    """Set axes in Å, y downwards, with a margin."""
    low, high = positions_A.min(axis=0), positions_A.max(axis=0)
    margin = max(0.05 * float((high - low).max()), least, 0.5)
    axes.set_xlim(low[1] - margin, high[1] + margin)
    axes.set_ylim(high[0] + margin, low[0] - margin)
    axes.set_aspect("equal")
    axes.set_xlabel("x / Å")
    axes.set_ylabel("y / Å")
