"""Figures of the pre-flight, from plain arrays: disk, probe, scan, counts, slices."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Ellipse, Rectangle

from pypty.plots.figures import NotebookFigure, add_scale_bar

_SIZE = (5.4, 4.6)
_DPI = 150
_NEIGHBOURS = 6
_MOST_POINTS = 20_000
_MARK = "#19c3b2"
_BEAM = "#e08214"


def _new(image: bool = False) -> tuple[NotebookFigure, Axes]:
    figure = NotebookFigure(figsize=_SIZE, dpi=_DPI, layout="compressed" if image else "constrained")
    return figure, figure.add_subplot()


def plot_disk(
    pattern: np.ndarray,
    pixel_mrad: tuple[float, float],
    centre_px: tuple[float, float] | None = None,
    radius_px: float | None = None,
) -> Figure:
    """A mean pattern (ky, kx) on a logarithmic scale, angles in mrad from n//2, with the disk of ``radius_px`` (pixels
    along kx) around ``centre_px`` [ky, kx]."""
    figure, axes = _new(image=True)
    ny, nx = pattern.shape
    high = float(pattern.max()) if pattern.any() else 1.0
    low = max(high * 1e-5, float(pattern[pattern > 0].min()) if (pattern > 0).any() else high * 1e-5)
    py, px = pixel_mrad
    # mrad at the outer edges of the outermost pixels: left, right, bottom, top
    extent = (
        (-(nx // 2) - 0.5) * px,
        (nx - nx // 2 - 0.5) * px,
        (ny - ny // 2 - 0.5) * py,
        (-(ny // 2) - 0.5) * py,
    )
    shown = axes.imshow(
        np.maximum(pattern, low),
        norm="log",
        vmin=min(low, high / 2),
        vmax=high,
        cmap="magma",
        interpolation="nearest",
        extent=extent,
    )
    axes.plot(0, 0, "+", color="#1f5fd0", markersize=10, markeredgewidth=1.5)
    if centre_px is not None and radius_px is not None:
        y, x = (centre_px[0] - ny // 2) * py, (centre_px[1] - nx // 2) * px
        axes.add_patch(Circle((x, y), radius_px * px, fill=False, edgecolor=_MARK, linewidth=1.4))
        axes.set_title(f"disk: {radius_px * px:.3g} mrad, {radius_px:.3g} px")
    else:
        axes.set_title("mean pattern")
    axes.set_xlabel("kx / mrad")
    axes.set_ylabel("ky / mrad")
    figure.colorbar(shown, ax=axes, label="mean counts", fraction=0.046, pad=0.03)
    return figure


def plot_probe_window(
    intensity: np.ndarray,
    pixel_size_A: tuple[float, float],
    centre_px: tuple[float, float],
    diameter_A: float,
) -> Figure:
    """Intensity of a probe (y, x) in its periodic window, with the circle of its diameter."""
    figure, axes = _new(image=True)
    ny, nx = intensity.shape
    py, px = pixel_size_A
    shown = axes.imshow(
        intensity / (float(intensity.max()) or 1.0),
        cmap="inferno",
        norm="log",
        vmin=1e-4,
        vmax=1,
        interpolation="nearest",
        aspect=py / px,
    )
    for y in (centre_px[0] - ny, centre_px[0], centre_px[0] + ny):  # copies of the periodic window
        for x in (centre_px[1] - nx, centre_px[1], centre_px[1] + nx):
            axes.add_patch(
                Ellipse((x, y), diameter_A / px, diameter_A / py, fill=False, edgecolor=_MARK, linewidth=1.4)
            )
    axes.set_xlim(-0.5, nx - 0.5)
    axes.set_ylim(ny - 0.5, -0.5)
    axes.set_xticks([])
    axes.set_yticks([])
    add_scale_bar(axes, px, nx, ny)
    axes.set_title(f"90 % in {diameter_A:.3g} Å; window {ny * py:.3g} x {nx * px:.3g} Å")
    figure.colorbar(shown, ax=axes, label="intensity / maximum", fraction=0.046, pad=0.03)
    return figure


def plot_scan(positions_A: np.ndarray, diameter_A: float | None = None) -> Figure:
    """Scan positions (N, 2) [y, x] in Å; enlarged, the probe at the most central position and its neighbours."""
    figure = NotebookFigure(figsize=(8.2, 4.3), dpi=_DPI, layout="constrained")
    whole, near = figure.subplots(1, 2)
    # At most _MOST_POINTS points; the step is the distance of the fourth neighbour of the central point.
    points = positions_A[:: -(-len(positions_A) // _MOST_POINTS)]
    middle = positions_A[np.argmin(((positions_A - positions_A.mean(axis=0)) ** 2).sum(axis=1))]
    distances = np.sort(np.hypot(*(positions_A - middle).T))
    step = max(float(distances[min(4, len(distances) - 1)]), 1e-9)
    around = max(_NEIGHBOURS * step / 2, 0.6 * (diameter_A or 0))
    size = max(0.3, min(3.0, 150 / math.sqrt(len(points)) / 3))
    for axes, dots in ((whole, size), (near, 4.0)):
        axes.plot(points[:, 1], points[:, 0], ".", color="#33577b", markersize=dots)
        if diameter_A:
            circle = Circle(
                (middle[1], middle[0]), diameter_A / 2, facecolor=_BEAM, edgecolor=_BEAM, alpha=0.3
            )
            axes.add_patch(circle)
        axes.set_aspect("equal")
        axes.set_xlabel("x / Å")
        axes.set_ylabel("y / Å")
    _mark_start(whole, positions_A)
    whole.invert_yaxis()
    near.set_xlim(middle[1] - around, middle[1] + around)
    near.set_ylim(middle[0] + around, middle[0] - around)
    whole.set_title(f"{len(positions_A)} positions")
    near.set_title("probe (90 %) and its neighbours" if diameter_A else "neighbours")
    return figure


def _mark_start(axes: Axes, positions_A: np.ndarray) -> None:
    """Mark the first point and the direction of the scan."""
    y, x = positions_A[0]
    axes.plot(x, y, "o", color="#b3261e", markersize=5)
    axes.set_xlabel("x / Å    (red: first position)")


def plot_counts(totals: np.ndarray) -> Figure:
    """Histogram of the counts of patterns, with their median."""
    figure, axes = _new()
    n_bins = int(np.clip(math.sqrt(len(totals)), 8, 60))
    low, high = float(totals.min()), float(totals.max())
    spread = max(high - low, 1e-6 * max(abs(high), 1e-12))
    axes.hist(
        totals, bins=n_bins, range=(low - 0.02 * spread, high + 0.02 * spread), color="#33577b", rwidth=0.95
    )
    median = float(np.median(totals))
    axes.axvline(median, color=_BEAM, linewidth=1.5, label=f"median {median:.4g}")
    axes.set_xlabel("counts of a pattern")
    axes.set_ylabel("number of patterns")
    axes.set_title(f"{len(totals)} patterns")
    axes.legend(fontsize=8)
    return figure


def plot_beam_and_slices(
    gaps_A: np.ndarray,
    *,
    alpha: float,
    defocus_A: float,
    depth_of_focus_A: float,
    thin_A: float,
    wavelength: float,
) -> Figure:
    """Side view: the cone of the beam (semi-angle ``alpha`` in rad, crossover at -defocus before the first slice), the
    slices, the depth of focus around the crossover, and a bar of the thickness that one slice can describe."""
    figure, axes = _new()
    depths = np.concatenate([[0.0], np.cumsum(gaps_A)])
    crossover = -defocus_A
    thickness = max(float(depths[-1]), 0.0)
    margin = max(0.6 * depth_of_focus_A, 0.15 * (thickness + abs(crossover)), thin_A)
    top, bottom = min(0.0, crossover) - margin, max(thickness, crossover) + margin
    z = np.linspace(top, bottom, 400)
    waist = 0.61 * wavelength / alpha
    half = np.hypot(alpha * (z - crossover), waist)
    axes.fill_betweenx(z, -half, half, color=_BEAM, alpha=0.25, linewidth=0, label="beam")
    wide = 1.15 * float(half.max())
    band = Rectangle(
        (-wide, crossover - depth_of_focus_A / 2),
        2 * wide,
        depth_of_focus_A,
        color="#5aa469",
        alpha=0.18,
        linewidth=0,
        label=f"depth of focus {depth_of_focus_A:.3g} Å",
    )
    axes.add_patch(band)
    for number, depth in enumerate(depths):
        label = f"{len(depths)} slice{'s' * (len(depths) > 1)}" if number == 0 else ""
        axes.hlines(depth, -0.8 * wide, 0.8 * wide, color="#33577b", linewidth=1.6, label=label)
    axes.vlines(
        0.92 * wide,
        0,
        thin_A,
        color="#b3261e",
        linewidth=4,
        label=f"thickness of one slice: up to {thin_A:.3g} Å",
    )
    axes.set_xlim(-wide, wide)
    axes.set_ylim(bottom, top)
    axes.set_xlabel("lateral / Å")
    axes.set_ylabel("depth along the beam / Å")
    axes.set_title(f"crossover at {crossover:.3g} Å (C10 = {defocus_A:.3g} Å)")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure
