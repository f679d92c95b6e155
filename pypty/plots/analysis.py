"""Figures of the analysis functions (``pypty.vaa``, ``pypty.se``): logs, modes, aberrations, rings, scan images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pypty.plots.figures import NotebookFigure

_DPI = 150


def plot_curve(epochs: np.ndarray, values: np.ndarray, name: str, times_s: np.ndarray | None) -> Figure:
    """One column of a log over epochs, logarithmic if all values are positive, with the time on the upper axis."""
    figure = NotebookFigure(figsize=(5.0, 3.6), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(epochs, values, marker=".", linewidth=1)
    if len(values) and np.nanmin(values) > 0:
        axes.set_yscale("log")
    axes.set_xlabel("epoch")
    axes.set_ylabel(name)
    axes.grid(alpha=0.3, which="both")
    if times_s is not None and len(epochs) > 1:
        top = axes.twiny()
        top.set_xlim(axes.get_xlim())
        ticks = np.unique(np.linspace(0, len(epochs) - 1, 5).astype(int))
        top.set_xticks(epochs[ticks], [f"{times_s[tick]:.3g}" for tick in ticks])
        top.set_xlabel("time / s")
    return figure


def plot_mode_table(modes: np.ndarray, spectra: np.ndarray) -> Figure:
    """One row per mode: amplitude and phase in real and in reciprocal space, both (y, x, n) complex."""
    n = modes.shape[2]
    figure = NotebookFigure(figsize=(12.0, 2.9 * n), dpi=_DPI, layout="constrained")
    for mode in range(n):
        for column, (wave, place) in enumerate(
            ((modes[:, :, mode], "real"), (spectra[:, :, mode], "reciprocal"))
        ):
            for part, (image, label, cmap) in enumerate(
                ((np.abs(wave), "amplitude", "magma"), (np.angle(wave), "phase / rad", "twilight"))
            ):
                axes = figure.add_subplot(n, 4, 4 * mode + 2 * column + part + 1)
                shown = axes.imshow(image, cmap=cmap, interpolation="nearest")
                figure.colorbar(shown, ax=axes, label=label, fraction=0.046, pad=0.03)
                axes.set_title(f"mode {mode}, {place} space", fontsize=8)
                axes.set_xlabel("x / pixel" if place == "real" else "kx / pixel")
                axes.set_ylabel("y / pixel" if place == "real" else "ky / pixel")
    return figure


def plot_pictures(pictures: Sequence[np.ndarray], names: Sequence[str], rows: int) -> Figure:
    """Colour images (y, x, 3) in ``rows`` rows."""
    columns = -(-len(pictures) // rows)  # rounded up
    figure = NotebookFigure(figsize=(3.0 * columns, 3.2 * rows), dpi=_DPI, layout="constrained")
    for index, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(name, fontsize=8)
        axes.set_xlabel("x / pixel")
        axes.set_ylabel("y / pixel")
    figure.supxlabel("brightness: amplitude, hue: phase", fontsize=8)
    return figure


def plot_aberration_fit(
    measured: np.ndarray,
    modelled: np.ndarray,
    angle_mrad: np.ndarray,
    names: Sequence[str],
    coefficients_A: np.ndarray,
) -> Figure:
    """Measured and fitted phase of a spectrum (ky, kx), NaN outside the fit; their difference; the coefficients."""
    figure = NotebookFigure(figsize=(13.0, 3.4), dpi=_DPI, layout="constrained")
    used = np.isfinite(measured)
    reach = float(angle_mrad[used].max())
    ky, kx = (_axis_mrad(angle_mrad, axis) for axis in (0, 1))
    extent = (kx[0], kx[-1], ky[-1], ky[0])
    left = np.angle(np.exp(1j * (measured - modelled)))
    for column, (image, name) in enumerate(
        ((measured, "measured"), (modelled, "fitted"), (left, "difference"))
    ):
        axes = figure.add_subplot(1, 4, column + 1)
        shown = axes.imshow(
            image, extent=extent, cmap="twilight", vmin=-np.pi, vmax=np.pi, interpolation="nearest"
        )
        axes.set_xlim(-1.1 * reach, 1.1 * reach)
        axes.set_ylim(1.1 * reach, -1.1 * reach)
        axes.set_xlabel("kx / mrad")
        axes.set_ylabel("ky / mrad")
        axes.set_title(name)
        figure.colorbar(shown, ax=axes, label="chi / rad", fraction=0.046, pad=0.03)
    axes = figure.add_subplot(1, 4, 4)
    axes.barh(np.arange(len(names)), coefficients_A)
    axes.set_yticks(np.arange(len(names)), names)
    axes.invert_yaxis()
    axes.set_xscale("symlog")
    axes.set_xlabel("coefficient / Å")
    return figure


def _axis_mrad(angle_mrad: np.ndarray, axis: int) -> np.ndarray:
    """Signed angles along one axis through the centre."""
    n = angle_mrad.shape[axis]
    line = np.take(angle_mrad, angle_mrad.shape[1 - axis] // 2, 1 - axis)
    return np.where(np.arange(n) < n // 2, -line, line)


def complex_colours(wave: np.ndarray, dark: bool, largest: float | None) -> np.ndarray:
    """(y, x, 3): hue = phase; modulus up to ``largest`` as brightness on black, or as saturation on white."""
    strength = np.clip(np.abs(wave) / (largest or max(float(np.abs(wave).max()), 1e-300)), 0, 1)
    hue = (np.angle(wave) / (2 * np.pi)) % 1
    full = np.ones_like(hue)
    return hsv_to_rgb(np.stack([hue, full, strength] if dark else [hue, strength, full], axis=-1))


def draw_colour_wheel(axes: Axes, rgb: np.ndarray, largest: float, fontsize: float) -> None:
    """Draw a disk (n, n, 3), labelled with the phases 0, pi/2, pi, -pi/2 and the largest modulus."""
    axes.imshow(rgb, extent=(-1, 1, -1, 1), interpolation="nearest")
    axes.set_axis_off()
    for x, y, text in ((1.12, 0, "0"), (0, 1.12, "π/2"), (-1.12, 0, "π"), (0, -1.12, "−π/2")):
        axes.text(x, y, text, ha="center", va="center", fontsize=fontsize, clip_on=False)
    axes.text(
        0.72, -0.98, f"|z| ≤ {largest:g}", ha="left", va="center", fontsize=0.7 * fontsize, clip_on=False
    )


def plot_radial(radii: np.ndarray, means: np.ndarray) -> Figure:
    """Means over rings."""
    figure = NotebookFigure(figsize=(5.0, 3.6), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(radii, means, marker=".", linewidth=1)
    axes.set_xlabel("radius / Å (or 1/Å, as the pixel size)")
    axes.set_ylabel("mean over the ring")
    axes.grid(alpha=0.3)
    return figure


def draw_scale_bar(
    axes: Axes,
    bar: tuple[float, float, float, float],
    text_at: tuple[float, float],
    label: str,
    fontsize: float,
) -> None:
    """Draw a white bar (x, y, width, height) in pixels and its label."""
    axes.add_patch(Rectangle(bar[:2], bar[2], bar[3], facecolor="white", edgecolor="black", linewidth=0.5))
    axes.text(*text_at, label, color="white", fontsize=fontsize, ha="center", va="center")
