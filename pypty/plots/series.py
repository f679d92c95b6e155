"""Series over epochs: loss, learning rates, mean tilt, slice distance, and all of them on one page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, MaxNLocator

from pypty.plots.figures import _DPI, NotebookFigure

_LAST = 10  # epochs in the inset
_ENOUGH = 20  # epochs from which there is an inset
_DECADE = 3.0
"""Ratio of the largest to the smallest value below which an axis is linear."""
_LABELLED = (2.5, 0.6)
"""Decades below which some, and all, of the ticks between powers of ten are labelled."""


class Series(Protocol):
    """The attributes of :class:`pypty.results.history.History` used here."""

    @property
    def epochs(self) -> np.ndarray: ...
    @property
    def loss(self) -> np.ndarray: ...
    @property
    def validation(self) -> np.ndarray: ...
    @property
    def deviance(self) -> np.ndarray: ...
    @property
    def free_deviance(self) -> np.ndarray: ...
    @property
    def step(self) -> np.ndarray: ...
    @property
    def mean_slice_distance_A(self) -> np.ndarray: ...
    @property
    def mean_tilt_mrad(self) -> np.ndarray: ...
    @property
    def learning_rates(self) -> Mapping[str, np.ndarray]: ...
    @property
    def convergence(self) -> Mapping[str, np.ndarray]: ...


def plot_loss_history(history: Series) -> Figure:
    """Loss before each epoch, loss of held-out patterns if any, and the last ten epochs enlarged; beside it the
    deviance, if it is known."""
    if np.isfinite(history.deviance).any():
        figure = NotebookFigure(figsize=(10.8, 4.0), dpi=_DPI, layout="constrained")
        axes, beside = figure.subplots(1, 2)
        draw_deviance(beside, history)
    else:
        figure, axes = _single()
    draw_loss(axes, history)
    n = len(history.epochs)
    if n > _ENOUGH:
        inset = axes.inset_axes((0.52, 0.32, 0.45, 0.4))
        inset.plot(history.epochs[-_LAST:], history.loss[-_LAST:], ".-", color="C0", linewidth=1)
        inset.set_title(f"last {_LAST} epochs", fontsize=8)
        inset.tick_params(labelsize=7)
        inset.yaxis.get_offset_text().set_fontsize(7)
        inset.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        inset.yaxis.set_major_locator(MaxNLocator(4))
        inset.grid(alpha=0.3)
    return figure


def plot_deviance(history: Series) -> Figure:
    """Deviance after each epoch in units of its expectation, and the deviance of free pixels if any."""
    figure, axes = _single()
    draw_deviance(axes, history)
    return figure


def plot_learning_rates(history: Series) -> Figure:
    """Learning rate of every unknown, in the units of the parameter ``learning_rates``."""
    figure, axes = _single()
    draw_rates(axes, history)
    return figure


def plot_mean_tilt(history: Series) -> Figure:
    """Mean tilt inside the specimen after each epoch."""
    figure, axes = _single()
    draw_tilts(axes, history)
    return figure


def plot_slice_distance(history: Series) -> Figure:
    """Mean distance of the slices after each epoch."""
    figure, axes = _single()
    draw_distance(axes, history)
    return figure


def plot_convergence(history: Series, dynamic: bool = False) -> Figure:
    """Quantities that show whether a reconstruction has converged, on one page (docs/monitoring.md).

    Parameters
    ----------
    dynamic : start panels of loss and changes at their knee (:func:`knee_index`), so that later changes are visible
    """
    figure = NotebookFigure(figsize=(15.0, 6.4), dpi=110, layout="constrained")
    panels = figure.subplots(2, 4).ravel()
    draw_loss(panels[0], history, dynamic)
    for axes, name, title, label in (
        (panels[1], "obja", "object amplitude", "mean |change|"),
        (panels[2], "objp", "object phase", "mean |change| / rad"),
    ):
        parts = {"background": f"{name}_bg", "foreground": f"{name}_fg"}
        draw_changes(axes, history, parts, title, label, dynamic)
    draw_tilts(panels[3], history)
    if history.learning_rates or not (history.step > 0).any():
        draw_rates(panels[4], history)
    else:
        draw_steps(panels[4], history)
    draw_changes(panels[5], history, {"": "probe"}, "probe", "relative change of intensity", dynamic)
    draw_changes(panels[6], history, {"": "probe_pos_shifts"}, "positions", "rms change / Å", dynamic)
    draw_distance(panels[7], history)
    where = ", from the knee of each curve" if dynamic else ""
    done = f"{len(history.epochs)} epochs" if len(history.epochs) else "no epochs yet"
    figure.suptitle(f"convergence: {done}{where}")
    return figure


def draw_loss(axes: Axes, history: Series, dynamic: bool = False) -> None:
    """Loss, and the loss of held-out patterns on a second axis."""
    _label(axes, "loss", "loss before each epoch")
    if not len(history.loss):
        _nothing(axes, "no epochs yet")
        return
    start = knee_index(history.loss) if dynamic else 0
    epochs = history.epochs[start:]
    lines = axes.plot(epochs, history.loss[start:], ".-", color="C0", linewidth=1, label="loss")
    _scale(axes, history.loss[start:])
    held_out = history.validation[start:]
    if np.isfinite(held_out).any():
        twin = axes.twinx()
        lines += twin.plot(epochs, held_out, ".--", color="C3", linewidth=1, label="held-out patterns")
        twin.set_ylabel("loss per held-out pattern", color="C3")
        twin.tick_params(axis="y", labelcolor="C3")
        _scale(twin, held_out[np.isfinite(held_out)])
        axes.legend(lines, [str(line.get_label()) for line in lines], loc="upper right", fontsize=8)


def draw_deviance(axes: Axes, history: Series) -> None:
    """Deviance in units of its expectation, with 1, where only noise is left; free pixels on a second axis."""
    _label(axes, "deviance / expected", "deviance after each epoch")
    known = np.isfinite(history.deviance)
    if not known.any():
        _nothing(axes, "no deviance")
        return
    lines = axes.plot(history.epochs, history.deviance, ".-", color="C2", linewidth=1, label="all pixels")
    _scale(axes, history.deviance[known])
    lines.append(axes.axhline(1, color="0.5", linestyle="--", linewidth=1, label="noise only"))
    free = history.free_deviance
    if np.isfinite(free).any():
        twin = axes.twinx()
        lines += twin.plot(history.epochs, free, ".--", color="C3", linewidth=1, label="free pixels")
        twin.set_ylabel("mean deviance of a free pixel", color="C3")
        twin.tick_params(axis="y", labelcolor="C3")
        _scale(twin, free[np.isfinite(free)])
    axes.legend(lines, [str(line.get_label()) for line in lines], loc="upper right", fontsize=8)


def draw_changes(
    axes: Axes, history: Series, parts: Mapping[str, str], title: str, label: str, dynamic: bool = False
) -> None:
    """Metrics of the convergence monitor, by their names in the legend."""
    _label(axes, label, title)
    metrics = {
        shown: history.convergence[name] for shown, name in parts.items() if name in history.convergence
    }
    if not metrics:
        _nothing(axes, "not watched\n(convergence_monitor)")
        return
    if not any(points[:, 1].any() for points in metrics.values()):
        _nothing(axes, "no change")
        return
    start = max(knee_index(points[:, 1]) for points in metrics.values()) if dynamic else 0
    for (shown, points), color in zip(metrics.items(), ("C0", "C1"), strict=False):
        axes.plot(points[start:, 0], points[start:, 1], ".-", color=color, linewidth=1, label=shown)
    _scale(axes, np.concatenate([points[start:, 1] for points in metrics.values()]))
    if len(metrics) > 1:
        axes.legend(fontsize=8)


def draw_rates(axes: Axes, history: Series) -> None:
    """Learning rates, logarithmic."""
    _label(axes, "learning rate / its unit", "learning rates")
    acting = {name: rate for name, rate in history.learning_rates.items() if np.nan_to_num(rate).any()}
    if not acting:
        _nothing(axes, "no learning rates\n(optimizer)")
        return
    for name, rate in acting.items():
        axes.plot(history.epochs, np.where(rate > 0, rate, np.nan), drawstyle="steps-post", label=name)
    positive = np.concatenate([rate[rate > 0] for rate in acting.values()])
    axes.set_yscale("log")
    span = np.log(4 * positive.max() / positive.min())
    above = min(0.08 * ((len(acting) + 1) // 2), 0.6)  # room for the legend, as a fraction of the axis
    axes.set_ylim(positive.min() / 2, 2 * positive.max() * np.exp(span * above / (1 - above)))
    axes.legend(fontsize=7, ncols=2, loc="upper right")


def draw_steps(axes: Axes, history: Series) -> None:
    """Draw accepted steps of the line search; rejected steps are left out."""
    _label(axes, "accepted step", "line search")
    axes.plot(history.epochs, np.where(history.step > 0, history.step, np.nan), ".-", linewidth=1)
    _scale(axes, history.step[history.step > 0])


def draw_tilts(axes: Axes, history: Series) -> None:
    """Mean tilt inside the specimen."""
    _label(axes, "mean tilt / mrad", "tilt inside the specimen")
    if not history.mean_tilt_mrad.any():
        _nothing(axes, "no tilt")
        return
    for column, name in enumerate("yx"):
        axes.plot(history.epochs, history.mean_tilt_mrad[:, column], ".-", linewidth=1, label=name)
    axes.legend(fontsize=8)


def draw_distance(axes: Axes, history: Series) -> None:
    """Mean distance of slices."""
    _label(axes, "mean distance / Å", "slice distance")
    if not history.mean_slice_distance_A.any():
        _nothing(axes, "one slice")
        return
    axes.plot(history.epochs, history.mean_slice_distance_A, ".-", linewidth=1)
    if np.ptp(history.mean_slice_distance_A) < 1e-6:
        middle = float(history.mean_slice_distance_A[0])
        axes.set_ylim(0.95 * middle, 1.05 * middle)


def _single() -> tuple[NotebookFigure, Axes]:
    figure = NotebookFigure(figsize=(5.4, 4.0), dpi=_DPI, layout="constrained")
    return figure, figure.add_subplot()


def _label(axes: Axes, label: str, title: str) -> None:
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.set_title(title)
    axes.grid(alpha=0.3, which="both")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _scale(axes: Axes, values: np.ndarray) -> None:
    """Use a logarithmic axis if no value is negative and the positive values span more than a decade."""
    shown = values[values > 0]
    if len(shown) and values.min() >= 0 and shown.max() > _DECADE * shown.min():
        for line in axes.lines:  # a zero would be a line to the bottom
            height = np.asarray(line.get_ydata(), float)
            line.set_ydata(np.where(height > 0, height, np.nan))
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(LogFormatterSciNotation(minor_thresholds=_LABELLED))
        axes.tick_params(axis="y", which="minor", labelsize=7)


def _nothing(axes: Axes, why: str) -> None:
    """Write a note into an empty panel."""
    axes.grid(False)
    axes.set(xticks=[], yticks=[], xlabel="", ylabel="")
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", color="0.4")


_FLAT_RATIO = 2.0
_EARLY = 0.05
_FEWEST = 3


def knee_index(values: np.ndarray) -> int:
    """Index of the knee of a series (n,), after which small changes are visible.

    The knee is the point farthest from the chord of the curve, with both axes scaled to 1 (Satopaa et al., ICDCSW
    2011). A curve that falls by less than a factor of two is cut at its second knee; the knee of a positive curve is
    determined on a logarithmic scale, unless that cuts hardly any points.
    """
    values = np.asarray(values, float)
    if len(values) < _FEWEST or np.ptp(values) == 0:
        return 0
    if values.max() / (values.min() + 1e-9) < _FLAT_RATIO:
        return _twice(values)
    if (values > 0).all():
        index = _farthest_from_chord(np.log(values))
        return _twice(values) if index < _EARLY * len(values) else index
    return _farthest_from_chord(values)


def _twice(values: np.ndarray) -> int:
    """The knee of the part after the first knee."""
    first = _farthest_from_chord(values)
    return first + _farthest_from_chord(values[first:])


def _farthest_from_chord(values: np.ndarray) -> int:
    height = float(np.ptp(values))
    if len(values) < _FEWEST or height == 0:
        return 0
    # Both axes scaled to 1, so that the result does not depend on units.
    x = np.linspace(0, 1, len(values))
    y = (values - values.min()) / height
    return int(np.argmax(np.abs(y - y[0] - (y[-1] - y[0]) * x)))
