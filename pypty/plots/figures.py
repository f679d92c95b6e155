"""One figure per question: what does the object look like, the probe, the loss, the positions, the patterns?

Every function returns a matplotlib Figure, which a notebook shows and ``figure.savefig(path)`` writes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

_HARDLY = 4
"""Extent in pixels below which a scan counts as a single position."""
_DPI = 150

Lengths: TypeAlias = Sequence[float] | np.ndarray
"""(y, x) in Å."""


class NotebookFigure(Figure):
    """A figure that Jupyter displays without pyplot and its global state."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        self.savefig(stream, format="png")
        return stream.getvalue()


def add_scale_bar(axes: Axes, pixel_size_A: float, width_px: int, height_px: int) -> None:
    """Draw and label a scale bar of a round length, about a quarter of the width."""
    wanted = 0.25 * width_px * pixel_size_A  # Å; rounded down to 1, 2 or 5 times a power of ten
    power = 10 ** math.floor(math.log10(wanted))
    length = max(step * power for step in (1, 2, 5) if step * power <= wanted)
    bar = length / pixel_size_A
    left, top = 0.05 * width_px, 0.93 * height_px
    thickness = max(0.012 * height_px, 0.5)
    axes.add_patch(
        Rectangle((left, top), bar, thickness, facecolor="white", edgecolor="black", linewidth=0.5)
    )
    label = f"{length / 10:g} nm" if length >= 10 else f"{length:g} Å"
    text = axes.text(left + bar / 2, top - 0.015 * height_px, label, color="white", ha="center", va="bottom")
    text.set_bbox({"facecolor": "black", "alpha": 0.45, "edgecolor": "none", "pad": 1.5})


def _image(figure: Figure, axes: Axes, image: np.ndarray, label: str, **options: object) -> None:
    shown = axes.imshow(image, interpolation="nearest", **options)  # type: ignore[arg-type]
    axes.set_xticks([])
    axes.set_yticks([])
    figure.colorbar(shown, ax=axes, label=label, fraction=0.046, pad=0.03)


def scanned_area(
    shape: tuple[int, ...], positions: np.ndarray, window: tuple[int, int]
) -> tuple[slice, slice]:
    """Part of the object under the centres of the patches; a whole patch if the scan is a single position."""
    if np.ptp(positions, axis=0).max() < _HARDLY:
        low = np.clip(np.floor(positions.min(axis=0)).astype(int), 0, np.array(shape[:2]) - 1)
        high = np.minimum(low + np.array(window), shape[:2])
        return slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))
    centre = positions + np.array(window) // 2
    low = np.clip(np.floor(centre.min(axis=0)).astype(int), 0, np.array(shape[:2]) - 1)
    high = np.clip(np.ceil(centre.max(axis=0)).astype(int) + 1, low + 1, shape[:2])
    return slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))


def plot_phase(
    phase: np.ndarray, pixel_size_A: Lengths, axes: Axes | None = None, title: str = "object phase"
) -> Figure:
    """A phase image (y, x) in rad with a scale bar; 0.2 % of the values are clipped at each end."""
    figure, axes = _figure_and_axes(axes, (5.4, 4.6))
    low, high = np.percentile(phase, (0.2, 99.8))
    _image(
        figure,
        axes,
        phase,
        "phase / rad",
        cmap="gray",
        vmin=low,
        vmax=max(high, low + 1e-12),
        aspect=pixel_size_A[0] / pixel_size_A[1],
    )
    add_scale_bar(axes, pixel_size_A[1], phase.shape[1], phase.shape[0])
    axes.set_title(title)
    return figure


def complex_to_rgb(wave: np.ndarray) -> np.ndarray:
    """(y, x, 3) colours: brightness = amplitude, hue = phase (red 0, green 2 pi/3, blue 4 pi/3)."""
    amplitude = np.abs(wave)
    hue = (np.angle(wave) / (2 * np.pi)) % 1
    value = amplitude / max(float(amplitude.max()), 1e-300)
    return hsv_to_rgb(np.stack([hue, np.ones_like(hue), value], axis=-1))


def all_modes(probe: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """(y, x, n): all modes of all subscans of a probe, and their titles."""
    if probe.ndim == 3:
        return probe, [f"probe mode {mode}" for mode in range(probe.shape[2])]
    names = [f"subscan {k}, mode {mode}" for mode in range(probe.shape[2]) for k in range(probe.shape[3])]
    return probe.reshape(*probe.shape[:2], -1), names


def plot_probe(probe: np.ndarray, pixel_size_A: Lengths) -> Figure:
    """All probe modes (y, x, modes[, subscans]) in real space (brightness: amplitude, hue: phase), with their share of
    the power."""
    probe, names = all_modes(probe)
    n_modes = probe.shape[2]
    columns = min(n_modes, 4)
    rows = -(-n_modes // columns)
    figure = NotebookFigure(figsize=(3.4 * columns + 0.6, 3.5 * rows), dpi=_DPI, layout="constrained")
    power = (np.abs(probe) ** 2).sum(axis=(0, 1))
    for mode in range(n_modes):
        axes = figure.add_subplot(rows, columns, mode + 1)
        axes.imshow(
            complex_to_rgb(probe[:, :, mode]),
            interpolation="nearest",
            aspect=pixel_size_A[0] / pixel_size_A[1],
        )
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(f"{names[mode]}: {100 * power[mode] / power.sum():.1f} %")
        add_scale_bar(axes, pixel_size_A[1], probe.shape[1], probe.shape[0])
    figure.supxlabel("brightness: amplitude, hue: phase", fontsize=8)
    return figure


def plot_loss(loss: np.ndarray, axes: Axes | None = None) -> Figure:
    """Loss over epochs; logarithmic unless it has negative values (Poisson)."""
    figure, axes = _figure_and_axes(axes, (5.0, 3.6))
    axes.plot(np.arange(len(loss)), loss, marker=".", linewidth=1)
    if len(loss) and loss.min() > 0:
        axes.set_yscale("log")
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3, which="both")
    axes.set_title("loss before each epoch")
    return figure


def plot_positions(
    positions: np.ndarray, start: np.ndarray, pixel_size_A: Lengths, axes: Axes | None = None
) -> Figure:
    """Scan positions in Å, with arrows from the starting positions if they moved."""
    figure, axes = _figure_and_axes(axes, (5.0, 4.6))
    scale = np.asarray(pixel_size_A)
    now, before = positions * scale, start * scale
    moved = now - before
    axes.plot(before[:, 1], before[:, 0], ".", color="0.6", markersize=2, label="start")
    largest = float(np.hypot(*moved.T).max())
    if largest > 0:
        axes.quiver(
            before[:, 1],
            before[:, 0],
            moved[:, 1],
            moved[:, 0],
            angles="xy",
            scale_units="xy",
            scale=1,
            width=0.003,
            color="C3",
        )
        axes.plot(now[:, 1], now[:, 0], ".", color="C0", markersize=2, label="refined")
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.set_xlabel("x / Å")
    axes.set_ylabel("y / Å")
    axes.set_title(
        f"scan positions, largest correction {largest:.2f} Å" if largest else "scan positions (not refined)"
    )
    axes.legend(loc="upper right", fontsize=7)
    return figure


def plot_patterns(
    measured: np.ndarray, modelled: np.ndarray, names: Sequence[str] = ("measured", "modelled")
) -> Figure:
    """A measured and a modelled pattern (ky, kx), in counts on a common logarithmic scale."""
    figure = NotebookFigure(figsize=(8.6, 3.9), dpi=_DPI, layout="constrained")
    high = max(float(measured.max()), float(modelled.max()), 1e-300)
    low = max(high * 1e-4, min(0.5, high / 2))
    for column, (pattern, name) in enumerate(zip((measured, modelled), names, strict=True)):
        axes = figure.add_subplot(1, 2, column + 1)
        shown = axes.imshow(
            np.maximum(pattern, low), norm="log", vmin=low, vmax=high, cmap="magma", interpolation="nearest"
        )
        axes.set_title(name)
        axes.set_xlabel("kx / pixel")
        axes.set_ylabel("ky / pixel")
    figure.colorbar(shown, ax=figure.axes, label="counts", shrink=0.85)
    return figure


def _figure_and_axes(axes: Axes | None, size: tuple[float, float]) -> tuple[Figure, Axes]:
    if axes is not None:
        figure = axes.get_figure()
        assert isinstance(figure, Figure)
        return figure, axes
    figure = NotebookFigure(figsize=size, dpi=_DPI, layout="constrained")
    return figure, figure.add_subplot()
