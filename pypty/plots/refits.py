"""Error bars and resolution of a reconstruction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pypty.plots.figures import _DPI, Lengths, NotebookFigure, add_scale_bar

_SEVENTH = 1 / 7


class Curve(Protocol):
    """The attributes of a ring correlation (:class:`pypty.refits.resolution.RingCorrelation`) that are shown."""

    @property
    def frequency_1A(self) -> np.ndarray: ...
    @property
    def frc(self) -> np.ndarray: ...
    @property
    def half_bit(self) -> np.ndarray: ...
    @property
    def c_ref(self) -> np.ndarray: ...
    @property
    def limit_1A(self) -> float: ...
    @property
    def text(self) -> str: ...


def plot_resolution(curves: Mapping[str, Curve], halves: np.ndarray, pixel_size_A: Lengths) -> Figure:
    """Ring correlations, the first in full and the others as thin lines, beside the two images.

    Parameters
    ----------
    curves : by name, the one of the whole image first
    halves : (2, y, x) phases of the two halves, rad
    """
    figure = NotebookFigure(figsize=(13.0, 4.2), dpi=_DPI * 2 // 3, layout="constrained")
    axes, first, second = figure.subplots(1, 3, width_ratios=(1.5, 1, 1))
    name, curve = next(iter(curves.items()))
    axes.plot(curve.frequency_1A, curve.frc, color="C0", label=f"correlation of the halves ({name})")
    axes.plot(curve.frequency_1A, curve.c_ref, color="C2", label=r"$C_\mathrm{ref}$: expected with the truth")
    for other, thin in list(curves.items())[1:]:
        axes.plot(thin.frequency_1A, thin.frc, color="C0", linewidth=0.6, alpha=0.6, label=other)
    axes.plot(curve.frequency_1A, curve.half_bit, color="C3", linestyle="--", linewidth=1, label="half bit")
    axes.axhline(_SEVENTH, color="C1", linestyle="--", linewidth=1, label="1/7")
    axes.axvline(curve.limit_1A, color="0.5", linestyle=":", linewidth=1, label="band limit")
    axes.set_ylim(min(-0.05, float(curve.frc.min())), 1.05)
    axes.set_xlim(0, 1.02 * curve.limit_1A)
    axes.set_xlabel("spatial frequency / (1/Å)")
    axes.set_ylabel("correlation")
    figure.suptitle(curve.text, fontsize=10)
    axes.legend(fontsize=7, loc="lower left")
    axes.grid(alpha=0.3)
    low, high = np.percentile(halves, (0.2, 99.8))
    for place, half, title in ((first, halves[0], "first half"), (second, halves[1], "second half")):
        _image(
            figure,
            place,
            half,
            pixel_size_A,
            label="phase / rad",
            limits=(float(low), float(high)),
            map="gray",
        )
        place.set_title(title)
    return figure


def plot_uncertainty(
    phase_rad: np.ndarray,
    pixel_size_A: Lengths,
    *,
    title: str,
    positions_A: np.ndarray | None = None,
    position_sigma_A: np.ndarray | None = None,
) -> Figure:
    """Standard deviation of the phase over the scanned area, and of the scan positions.

    Parameters
    ----------
    phase_rad : (y, x)
    positions_A, position_sigma_A : (N, 2) [y, x] scan positions, and their standard deviations; None = not refined
    """
    columns = 1 if position_sigma_A is None else 2
    figure = NotebookFigure(figsize=(5.6 * columns, 4.6), dpi=_DPI * 2 // 3, layout="constrained")
    places = np.atleast_1d(figure.subplots(1, columns))
    high = float(np.percentile(phase_rad, 99.5))
    _image(
        figure,
        places[0],
        phase_rad,
        pixel_size_A,
        label="σ of the phase / rad",
        limits=(0.0, high),
        map="viridis",
    )
    places[0].set_title("noise of the phase")
    if positions_A is not None and position_sigma_A is not None:
        axes = places[1]
        size = float(np.clip(3e4 / max(len(positions_A), 1), 3, 120))
        sigma = np.sqrt((position_sigma_A**2).mean(axis=1))
        shown = axes.scatter(
            positions_A[:, 1],
            positions_A[:, 0],
            c=sigma,
            s=size,
            marker="s",
            linewidths=0,
            cmap="viridis",
            vmin=0,
        )
        axes.set_aspect("equal")
        axes.invert_yaxis()
        axes.set_xlabel("x / Å")
        axes.set_ylabel("y / Å")
        axes.set_title("noise of the scan positions")
        figure.colorbar(shown, ax=axes, label="σ of a coordinate / Å", fraction=0.046, pad=0.03)
    figure.suptitle(title, fontsize=9, wrap=True)
    return figure


def _image(
    figure: Figure,
    axes: Axes,
    image: np.ndarray,
    pixel_size_A: Lengths,
    *,
    label: str,
    limits: tuple[float, float],
    map: str,
) -> None:
    low, high = limits
    shown = axes.imshow(
        image,
        cmap=map,
        vmin=low,
        vmax=max(high, low + 1e-12),
        interpolation="nearest",
        aspect=pixel_size_A[0] / pixel_size_A[1],
    )
    axes.set_xticks([])
    axes.set_yticks([])
    add_scale_bar(axes, float(pixel_size_A[1]), image.shape[1], image.shape[0])
    figure.colorbar(shown, ax=axes, label=label, fraction=0.046, pad=0.03)
