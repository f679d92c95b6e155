"""What a figure shows, for tests: panels by their title, colour bars, lines by their label."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle


def texts(figure: Figure) -> str:
    """All labels, titles and notes of a figure in one string."""
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    for axes in figure.axes:
        found += [axes.get_xlabel(), axes.get_ylabel(), axes.get_title()]
    return " | ".join(found)


def panel(figure: Figure, title: str) -> Axes:
    """The first panel with this title, in the middle or at the left."""
    return next(axes for axes in figure.axes if title in (axes.get_title(), axes.get_title(loc="left")))


def labels(axes: Axes) -> tuple[str, str]:
    return axes.get_xlabel(), axes.get_ylabel()


def colour_bar(axes: Axes) -> str:
    """The label of the colour bar of the panel's image."""
    return axes.images[0].colorbar.ax.get_ylabel()


def shown_image(axes: Axes) -> np.ndarray:
    return np.asarray(axes.images[0].get_array())


def edges(axes: Axes) -> tuple[float, float, float, float]:
    """(left, right, bottom, top) of the panel's image in the units of the axes."""
    return tuple(float(edge) for edge in axes.images[0].get_extent())


def line(axes: Axes, label: str) -> Line2D:
    """The line that the legend calls ``label``."""
    return next(one for one in axes.lines if one.get_label() == label)


def points_of(one: Line2D) -> np.ndarray:
    """(N, 2) [x, y]."""
    return np.stack([np.asarray(one.get_xdata(), float), np.asarray(one.get_ydata(), float)], axis=1)


def scale_bar(axes: Axes) -> tuple[float, str]:
    """Length of the scale bar in pixels of the panel, and what is written at it."""
    (bar,) = (patch for patch in axes.patches if isinstance(patch, Rectangle))
    return bar.get_width(), axes.texts[0].get_text()


def page_title(figure: Figure) -> str:
    """The title above all panels."""
    return figure._suptitle.get_text()
