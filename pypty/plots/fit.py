"""Quality of a fit: over the scan, on the detector, and the patterns that fit worst."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure, SubFigure

from pypty.plots.figures import _DPI, NotebookFigure

_MOST_WORST = 10
_LEAST_SCALE = 0.1
"""Half of the range of the colour scale of ratios, at least: noise alone stays pale."""
_LEAST_SIGMAS = 5.0


@dataclass(frozen=True)
class PatternPair:
    """Counts of a pattern, measured and modelled: (ky, kx), zero frequency at n//2, or (D,) of virtual detectors."""

    index: int
    measured: np.ndarray
    modelled: np.ndarray


def plot_fit(
    *,
    positions_A: np.ndarray,
    pattern_ratio: np.ndarray,
    detector_ratio: np.ndarray,
    detector_residual: np.ndarray,
    worst: Sequence[PatternPair] = (),
) -> Figure:
    """Deviance over the scan and on the detector, mean residual on the detector, and the patterns that fit worst.

    Parameters
    ----------
    positions_A : (n, 2) [y, x] of the patterns
    pattern_ratio : (n,) deviance of each pattern in units of its expectation
    detector_ratio : (ky, kx) deviance of each pixel in units of its expectation; NaN where it is not used
    detector_residual : (ky, kx) difference of mean pattern and mean model, in standard deviations
    worst : patterns to show, the worst first; at most ten
    """
    worst = worst[:_MOST_WORST]
    figure = NotebookFigure(figsize=(13.5, 4.2 + 3.4 * bool(worst)), dpi=_DPI * 2 // 3, layout="constrained")
    maps: Figure | SubFigure = figure
    if worst:
        rows = figure.subfigures(2, 1, height_ratios=(4.2, 3.4))
        assert isinstance(rows, np.ndarray)
        maps, below = rows
        _pairs(below, worst, pattern_ratio)
    scan, ratio, residual = maps.subplots(1, 3)
    _over_scan(maps, scan, positions_A, pattern_ratio)
    _on_detector(maps, ratio, detector_ratio, "deviance / expected", centre=1.0, least=_LEAST_SCALE)
    ratio.set_title("deviance on the detector")
    _on_detector(
        maps, residual, detector_residual, "(measured - modelled) / σ", centre=0.0, least=_LEAST_SIGMAS
    )
    residual.set_title("residual of the mean pattern")
    return figure


def _over_scan(figure: Figure | SubFigure, axes: Axes, positions_A: np.ndarray, ratio: np.ndarray) -> None:
    low, high = _range(ratio, 1.0, _LEAST_SCALE)
    size = float(np.clip(3e4 / max(len(ratio), 1), 3, 120))
    shown = axes.scatter(
        positions_A[:, 1],
        positions_A[:, 0],
        c=ratio,
        s=size,
        marker="s",
        linewidths=0,
        cmap="coolwarm",
        vmin=low,
        vmax=high,
    )
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.set_xlabel("x / Å")
    axes.set_ylabel("y / Å")
    axes.set_title("deviance over the scan")
    figure.colorbar(shown, ax=axes, label="deviance / expected", fraction=0.046, pad=0.03)


def _on_detector(
    figure: Figure | SubFigure, axes: Axes, image: np.ndarray, label: str, *, centre: float, least: float
) -> None:
    if min(image.shape) == 1:
        axes.plot(image.ravel(), ".-")
        axes.axhline(centre, color="0.6", linewidth=1)
        axes.set_xlabel("virtual detector")
        axes.set_ylabel(label)
        return
    low, high = _range(image, centre, least)
    shown = axes.imshow(image, cmap="coolwarm", vmin=low, vmax=high, interpolation="nearest")
    axes.set_xlabel("kx / px")
    axes.set_ylabel("ky / px")
    figure.colorbar(shown, ax=axes, label=label, fraction=0.046, pad=0.03)


def _range(values: np.ndarray, centre: float, least: float) -> tuple[float, float]:
    """A range about the centre with 99 % of the values."""
    known = values[np.isfinite(values)]
    half = max(least, float(np.percentile(np.abs(known - centre), 99)) if known.size else 0.0)
    return centre - half, centre + half


def _pairs(figure: Figure | SubFigure, worst: Sequence[PatternPair], ratio: np.ndarray) -> None:
    """Measured above modelled; pairs share their colours."""
    panels = figure.subplots(2, len(worst), squeeze=False)
    ratios = np.sort(ratio)[::-1]
    for column, pair in enumerate(worst):
        high = max(float(pair.measured.max()), float(pair.modelled.max()), 1e-300)
        for axes, pattern in zip(panels[:, column], (pair.measured, pair.modelled), strict=True):
            if pattern.ndim == 1:
                axes.plot(pattern, ".-", markersize=2)
            else:
                axes.imshow(np.maximum(pattern, 0), cmap="magma", norm=PowerNorm(0.5, 0, high))
            axes.set_xticks([])
            axes.set_yticks([])
        panels[0, column].set_title(f"{pair.index}: {ratios[column]:.3g}", fontsize=9)
    panels[0, 0].set_ylabel("measured")
    panels[1, 0].set_ylabel("modelled")
    figure.suptitle("patterns that fit worst (index: deviance / expected)", fontsize=10)
