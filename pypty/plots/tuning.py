"""Figures of a parameter search: its history, importances, and the best values."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pypty.plots.figures import NotebookFigure

_DPI = 130
_COLUMNS = 3
_ENOUGH_FOR_CONTOURS = 6


def _new(width: float, height: float) -> NotebookFigure:
    return NotebookFigure(figsize=(width, height), dpi=_DPI, layout="constrained")


def plot_history(
    numbers: Sequence[int], values: Sequence[float], pruned: Sequence[bool], objective: str
) -> Figure:
    """The objective of every trial, and the best value so far."""
    figure = _new(5.6, 3.8)
    axes = figure.add_subplot()
    n, v, early = np.asarray(numbers), np.asarray(values, float), np.asarray(pruned, bool)
    axes.plot(n[~early], v[~early], "o", markersize=4, color="C0", label="complete")
    if early.any():
        axes.plot(n[early], v[early], "x", markersize=4, color="0.6", label="pruned")
    if (~early).any():
        best = np.minimum.accumulate(v[~early])
        axes.step(n[~early], best, where="post", color="C3", linewidth=1.2, label="best so far")
    _scale(axes, v)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial")
    axes.set_ylabel(_label(objective))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    axes.set_title("history of the search")
    return figure


def plot_importances(importances: Mapping[str, float]) -> Figure:
    """Fraction of the objective's variation that each name explains."""
    names = sorted(importances, key=lambda name: importances[name])
    figure = _new(5.6, 1.2 + 0.36 * len(names))
    axes = figure.add_subplot()
    bars = axes.barh(names, [importances[name] for name in names], color="C0")
    axes.bar_label(bars, fmt="%.2f", fontsize=8, padding=2)
    axes.set_xlim(0, 1.12 * max(*importances.values(), 1e-9))
    axes.set_xlabel("importance (sum 1)")
    axes.set_title("importance of the tuned parameters")
    return figure


def plot_slices(
    columns: Mapping[str, Sequence[Any]],
    values: Sequence[float],
    *,
    numbers: Sequence[int],
    objective: str,
    units: Mapping[str, str],
    logs: Collection[str] = (),
) -> Figure:
    """The objective over each parameter; later trials are darker, the best trial is marked."""
    n_columns = min(len(columns), _COLUMNS)
    n_rows = math.ceil(len(columns) / n_columns)
    figure = _new(3.4 * n_columns + 0.8, 3.1 * n_rows)
    v = np.asarray(values, float)
    best = int(v.argmin())
    shown, shades = None, ListedColormap(colormaps["Blues"](np.linspace(0.2, 1, 256)))
    for place, (name, column) in enumerate(columns.items()):
        axes = figure.add_subplot(n_rows, n_columns, place + 1)
        x = _numbers_or_places(axes, column)
        known = ~np.isnan(x)  # trials in which this name was not searched have no value
        shown = axes.scatter(
            x[known], v[known], c=np.asarray(numbers)[known], cmap=shades, vmin=0, vmax=max(*numbers, 1), s=18,
            edgecolors="0.4", linewidths=0.4,
        )  # fmt: skip
        axes.plot(x[best], v[best], "*", color="C3", markersize=11, label="best")
        if name in logs:
            axes.set_xscale("log")
        _scale(axes, v)
        axes.set_xlabel(_with_unit(name, units))
        axes.set_ylabel(_label(objective) if place % n_columns == 0 else "")
        axes.grid(alpha=0.3)
        if place == 0:
            axes.legend(fontsize=8)
    if shown is not None:
        figure.colorbar(shown, ax=figure.axes, label="trial", shrink=0.85, ticks=MaxNLocator(integer=True))
    return figure


def plot_contour(
    pair: Mapping[str, Sequence[float]],
    values: Sequence[float],
    objective: str,
    units: Mapping[str, str],
    logs: Collection[str] = (),
) -> Figure:
    """The objective over two parameters, with contours if there are enough trials."""
    (x_name, xs), (y_name, ys) = pair.items()
    figure = _new(5.4, 4.2)
    axes = figure.add_subplot()
    x, y, v = np.asarray(xs, float), np.asarray(ys, float), np.asarray(values, float)
    u, w = _unit_square(x, x_name in logs), _unit_square(y, y_name in logs)
    # Triangulation needs points that are not all on a line.
    points = np.unique(np.stack([u, w], axis=1), axis=0)
    if len(points) >= _ENOUGH_FOR_CONTOURS and np.linalg.matrix_rank(points - points.mean(axis=0), 1e-3) == 2:
        from matplotlib.tri import Triangulation

        mesh = Triangulation(u, w)
        mesh.x, mesh.y = x, y  # triangulated in the unit square, drawn in the units of the parameters
        axes.tricontourf(mesh, v, levels=12, cmap="viridis_r")
    shown = axes.scatter(x, y, c=v, cmap="viridis_r", s=22, edgecolors="white", linewidths=0.6)
    best = int(v.argmin())
    axes.plot(x[best], y[best], "*", color="C3", markersize=13, markeredgecolor="white", label="best")
    for name, scale in ((x_name, axes.set_xscale), (y_name, axes.set_yscale)):
        if name in logs:
            scale("log")
    axes.set_xlabel(_with_unit(x_name, units))
    axes.set_ylabel(_with_unit(y_name, units))
    axes.legend(fontsize=8)
    figure.colorbar(shown, ax=axes, label=_label(objective))
    return figure


def plot_epochs(histories: Sequence[tuple[Mapping[int, float], bool]], objective: str) -> Figure:
    """The objective of every trial over its epochs, as used by the pruner."""
    figure = _new(5.6, 3.8)
    axes = figure.add_subplot()
    seen = []
    for history, pruned in histories:
        epochs = sorted(history)
        line = [history[epoch] for epoch in epochs]
        seen += line
        style = {"color": "0.6", "linestyle": "--"} if pruned else {"color": "C0"}
        axes.plot(epochs, line, marker=".", markersize=3, linewidth=0.9, alpha=0.7, **style)  # type: ignore[arg-type]
    axes.plot([], [], color="C0", label="complete")
    axes.plot([], [], color="0.6", linestyle="--", label="pruned")
    _scale(axes, np.asarray(seen, float))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("finished epochs")
    axes.set_ylabel(_label(objective))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    axes.set_title("trials over their epochs")
    return figure


def _label(objective: str) -> str:
    return {
        "loss": "loss per pattern",
        "validation": "loss per held-out pattern",
        "contrast": "minus contrast",
    }.get(objective, objective)


def _with_unit(name: str, units: Mapping[str, str]) -> str:
    return f"{name} / {units[name]}" if units.get(name) else name


def _scale(axes: Axes, values: np.ndarray) -> None:
    """Use a logarithmic axis if values are positive and span more than a factor of 30."""
    if len(values) and values.min() > 0 and values.max() > 30 * values.min():
        axes.set_yscale("log")


def _numbers_or_places(axes: Axes, column: Sequence[Any]) -> np.ndarray:
    """Coordinates of a column: numbers unchanged (NaN for None); otherwise indices of words, which become ticks."""
    known = [item for item in column if item is not None]
    if all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in known):
        return np.array([np.nan if item is None else float(item) for item in column])
    words = sorted({str(item) for item in column})
    axes.set_xticks(range(len(words)), words)
    return np.array([float(words.index(str(item))) for item in column])


def _unit_square(values: np.ndarray, log: bool) -> np.ndarray:
    scaled = np.log(values) if log else values
    return np.asarray((scaled - scaled.min()) / max(float(np.ptp(scaled)), np.finfo(float).tiny))
