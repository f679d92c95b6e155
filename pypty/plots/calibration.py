"""Figures of the calibrations, with measured and fitted values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pypty.plots.figures import NotebookFigure

_DPI = 110


def _new(width: float, height: float) -> NotebookFigure:
    return NotebookFigure(figsize=(width, height), dpi=_DPI, layout="constrained")


def plot_disk(
    mean_pattern: np.ndarray,
    *,
    radius_px: float,
    centre: tuple[float, float],
    width_px: float,
    ellipse: tuple[float, float],
    kind: str,
    height: float,
    residual: float,
    pixel_mrad: float | None = None,
) -> Figure:
    """The mean pattern (ky, kx) with the fitted edge, and its values over the distance from the centre."""
    figure = _new(8.4, 3.7)
    draw_disk(
        figure,
        figure.add_subplot(1, 2, 1),
        mean_pattern=mean_pattern,
        radius_px=radius_px,
        centre=centre,
        ellipse=ellipse,
    )
    axes = figure.add_subplot(1, 2, 2)
    y, x = np.indices(mean_pattern.shape)
    angle = np.arctan2(y - centre[0], x - centre[1])
    distance = np.hypot(y - centre[0], x - centre[1]) / _shape(angle, ellipse)
    near = distance < 1.7 * radius_px
    axes.plot(distance[near], mean_pattern[near], ".", markersize=2.5, color="C0", label="pixels")
    axes.axvline(radius_px, color="C3", linewidth=1, label=f"edge, {radius_px:.2f} px")
    axes.axvspan(radius_px - width_px, radius_px + width_px, color="C3", alpha=0.15, linewidth=0)
    axes.set_xlabel("distance from the centre / px")
    axes.set_ylabel("mean counts")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper right", fontsize=8)
    axes.set_title(f"edge {kind}, {width_px:.2f} px wide, misfit {100 * residual:.2g} %", fontsize=9)
    if pixel_mrad is not None:
        upper = axes.secondary_xaxis(
            "top", functions=(partial(_times, factor=pixel_mrad), partial(_times, factor=1 / pixel_mrad))
        )
        upper.set_xlabel(f"angle / mrad (pixel {pixel_mrad:.4g} mrad)", fontsize=8)
        upper.tick_params(labelsize=8)
        axes.set_title("")
    return figure


def _times(values: Any, factor: float) -> Any:
    return values * factor


def _shape(angle: np.ndarray, ellipse: tuple[float, float]) -> np.ndarray:
    return 1 + ellipse[0] * np.cos(2 * angle) + ellipse[1] * np.sin(2 * angle)


def draw_disk(
    figure: Figure,
    axes: Axes,
    *,
    mean_pattern: np.ndarray,
    radius_px: float,
    centre: tuple[float, float],
    ellipse: tuple[float, float] = (0.0, 0.0),
) -> None:
    """Draw the mean pattern, the fitted edge, its centre, and the nominal position of the zero frequency."""
    top = float(np.percentile(mean_pattern, 99.9))
    shown = axes.imshow(
        np.maximum(mean_pattern, 1e-4 * top), norm="log", vmin=1e-3 * top, vmax=top, cmap="magma"
    )
    figure.colorbar(shown, ax=axes, label="mean counts", fraction=0.046, pad=0.03)
    angle = np.linspace(0, 2 * np.pi, 181)
    radius = radius_px * _shape(angle, ellipse)
    axes.plot(
        centre[1] + radius * np.cos(angle), centre[0] + radius * np.sin(angle), color="cyan", linewidth=1
    )
    axes.plot(centre[1], centre[0], "+", color="cyan", markersize=9, label="centre of the disk")
    ny, nx = mean_pattern.shape
    axes.plot(nx // 2, ny // 2, "x", color="black", markersize=6, label="zero frequency")
    axes.set_xlabel("kx / px")
    axes.set_ylabel("ky / px")
    axes.set_title("mean pattern", fontsize=9)
    axes.legend(loc="upper right", fontsize=6)


def plot_orientation(
    field: np.ndarray,
    dark: np.ndarray,
    rows: Sequence[tuple[bool, float, float, float, float, float]],
    step_A: float,
    radius_px: float,
) -> Figure:
    """Deflection of the beam on the dark-field image, and the scores of all eight orientations.

    Parameters
    ----------
    field : (2, sy, sx) centres of mass [y, x] in px, rotated into the frame of the scan
    dark : (sy, sx) fraction of the counts outside the disk
    rows : (flip_ky, angle in deg, scores for curl, alignment and attraction, total score), best first
    """
    figure = _new(9.6, 4.2)
    left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    draw_deflection(figure, left, field=field, dark=dark, step_A=step_A, radius_px=radius_px)
    draw_scores(right, rows)
    return figure


def draw_deflection(
    figure: Figure, axes: Axes, *, field: np.ndarray, dark: np.ndarray, step_A: float, radius_px: float
) -> None:
    """Arrows of the beam's deflection on the dark-field image."""
    sy, sx = dark.shape
    extent = (-0.5 * step_A, (sx - 0.5) * step_A, (sy - 0.5) * step_A, -0.5 * step_A)
    shown = axes.imshow(100 * dark, cmap="gray", extent=extent)
    figure.colorbar(shown, ax=axes, label="counts outside the disk / %", fraction=0.046, pad=0.03)
    every = max(1, round(max(sy, sx) / 24))
    y, x = np.mgrid[0:sy:every, 0:sx:every] * step_A
    arrows = field[:, ::every, ::every]
    longest = float(np.percentile(np.hypot(*arrows), 95)) or 1.0
    drawn = axes.quiver(
        x,
        y,
        arrows[1],
        arrows[0],
        color="C1",
        angles="xy",
        scale_units="xy",
        scale=longest / (1.2 * every * step_A),
    )
    axes.quiverkey(
        drawn,
        0.86,
        1.04,
        longest,
        f"{100 * longest / radius_px:.2g} % of the disk",
        labelpos="W",
        fontproperties={"size": 8},
    )
    axes.set_xlabel("x (fast) / Å")
    axes.set_ylabel("y (slow) / Å")
    axes.set_title("deflection of the beam", fontsize=9, loc="left")


def draw_scores(axes: Axes, rows: Sequence[tuple[bool, float, float, float, float, float]]) -> None:
    """Draw the scores of all orientations as bars, the suggested orientation on top."""
    place = np.arange(len(rows))[::-1]
    names = [f"{'flip, ' if row[0] else ''}{row[1]:.1f}°" for row in rows]
    for offset, column, color, label in (
        (0.27, 3, "C0", "bright-field images aligned"),
        (0.09, 2, "C2", "free of curl"),
        (-0.09, 4, "C1", "attracted to the dark field"),
        (-0.27, 5, "black", "score"),
    ):
        axes.barh(place + offset, [row[column] for row in rows], height=0.17, color=color, label=label)
    axes.set_yticks(place, names)
    axes.axvline(0, color="0.3", linewidth=0.8)
    axes.set_xlim(-1.05, 1.05)
    axes.set_xlabel("score")
    axes.set_ylabel("flip_ky, PLRotation_deg")
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.4, -0.14), ncol=2, frameon=False)
    axes.set_title("eight orientations, best on top", fontsize=9)


def plot_descan(centres: np.ndarray, fitted: np.ndarray, radius_px: float) -> Figure:
    """Position of the disk in blocks of the scan, (by, bx, 2) [ky, kx] in px relative to the mean, and the fit."""
    figure = _new(9.6, 3.6)
    top = float(max(np.abs(centres).max(), 0.05))
    for column, (axis, name) in enumerate(((0, "ky"), (1, "kx"))):
        axes = figure.add_subplot(1, 3, column + 1)
        shown = axes.imshow(centres[..., axis], cmap="RdBu_r", vmin=-top, vmax=top)
        figure.colorbar(shown, ax=axes, label=f"{name} of the disk / px", fraction=0.046, pad=0.03)
        axes.set_xlabel("block along the fast axis")
        axes.set_ylabel("block along the slow axis")
        axes.set_title(f"disk along {name}", fontsize=9)
    draw_descan(figure.add_subplot(1, 3, 3), centres, fitted, radius_px)
    return figure


def draw_descan(axes: Axes, centres: np.ndarray, fitted: np.ndarray, radius_px: float) -> None:
    """Draw the paths of the disk over the detector."""
    axes.plot(
        centres[..., 1].ravel(), centres[..., 0].ravel(), ".", color="0.5", label="measured, each block"
    )
    axes.plot(fitted[..., 1], fitted[..., 0], color="C3", linewidth=0.8)
    axes.plot(fitted[..., 1].T, fitted[..., 0].T, color="C3", linewidth=0.8)
    axes.plot([], [], color="C3", label="fit of second degree")
    reach = 1.3 * float(max(np.abs(centres).max(), np.abs(fitted).max(), 0.02))
    axes.set_xlim(-reach, reach)
    axes.set_ylim(reach, -reach)
    axes.set_aspect("equal")
    axes.set_xlabel("kx / px from the middle")
    axes.set_ylabel("ky / px from the middle")
    axes.set_title(f"path; disk radius {radius_px:.1f} px", fontsize=9)
    axes.legend(fontsize=7)


def plot_defects(
    mean: np.ndarray,
    *,
    hot: np.ndarray,
    dead: np.ndarray,
    other: np.ndarray,
    totals: np.ndarray,
    left_out: np.ndarray,
) -> Figure:
    """Bad pixels, (n, 2) [ky, kx], on the mean pattern as stored; total counts (sy, sx) of the scan with the points
    that are left out, (n,) counted row by row.
    """
    figure = _new(9.2, 3.9)
    draw_bad_pixels(figure, figure.add_subplot(1, 2, 1), mean=mean, hot=hot, dead=dead, other=other)
    axes = figure.add_subplot(1, 2, 2)
    low, high = np.percentile(totals, (1, 99))
    shown = axes.imshow(totals, cmap="gray", vmin=low, vmax=max(high, low + 1e-12), interpolation="nearest")
    figure.colorbar(shown, ax=axes, label="counts of the pattern", fraction=0.046, pad=0.03)
    row, column = np.divmod(left_out, totals.shape[1])
    axes.plot(
        column,
        row,
        "s",
        markerfacecolor="none",
        color="C3",
        markersize=5,
        label=f"left out ({len(left_out)})",
    )
    axes.set_xlabel("scan point, fast axis")
    axes.set_ylabel("scan point, slow axis")
    axes.set_title("patterns", fontsize=9)
    axes.legend(fontsize=7, loc="upper right")
    return figure


def draw_bad_pixels(
    figure: Figure, axes: Axes, *, mean: np.ndarray, hot: np.ndarray, dead: np.ndarray, other: np.ndarray
) -> None:
    """Circles around bad pixels."""
    lit = mean[mean > 0]
    low, high = np.percentile(lit, (5, 99.5)) if len(lit) else (0.1, 1.0)
    shown = axes.imshow(
        np.maximum(mean, low),
        norm="log",
        vmin=low,
        vmax=max(high, 1.01 * low),
        cmap="gray",
        interpolation="nearest",
    )
    figure.colorbar(shown, ax=axes, label="mean counts", fraction=0.046, pad=0.03)
    for pixels, color, name in ((hot, "C3", "hot"), (dead, "C0", "dead"), (other, "C1", "stuck, saturated")):
        axes.plot(
            pixels[:, 1],
            pixels[:, 0],
            "o",
            markerfacecolor="none",
            color=color,
            markersize=7,
            label=f"{name} ({len(pixels)})",
        )
    axes.set_xlabel("kx / px (as stored)")
    axes.set_ylabel("ky / px (as stored)")
    axes.set_title("pixels", fontsize=9)
    axes.legend(fontsize=7, loc="upper right")


def plot_scan_order(across: Mapping[str, np.ndarray], along: float, best: str, given: str) -> Figure:
    """Likeness of each line of the scan with the next, (lines - 1,) for each order."""
    figure = _new(7.0, 3.4)
    axes = figure.add_subplot(1, 1, 1)
    for name, values in across.items():
        notes = [note for note, holds in (("most likely", name == best), ("given", name == given)) if holds]
        label = f"{name} ({', '.join(notes)})" if notes else name
        axes.plot(values, ".-", markersize=4, linewidth=1.6 if name == best else 0.8, label=label)
    axes.axhline(along, color="0.4", linestyle="--", linewidth=0.8, label="along the lines")
    axes.set_xlabel("line of the scan")
    axes.set_ylabel("likeness with the next line")
    axes.set_title("order of the scan", fontsize=9)
    axes.legend(fontsize=7)
    return figure


def plot_overview(figures: Sequence[Figure], names: Sequence[str]) -> Figure:
    """All figures of a calibration on one page, as images in two columns."""
    rows = -(-len(figures) // 2)
    page = _new(13.0, 3.1 * rows)
    for place, (figure, name) in enumerate(zip(figures, names, strict=True)):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        axes = page.add_subplot(rows, 2, place + 1)
        axes.imshow(np.asarray(canvas.buffer_rgba()), interpolation="lanczos")
        axes.axis("off")
        axes.set_title(name, fontsize=10, fontweight="bold", loc="left")
    return page
