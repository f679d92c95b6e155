"""Figures. The only place that knows matplotlib; nothing but the user's edge imports it."""

from pypty.plots.figures import plot_loss, plot_patterns, plot_phase, plot_positions, plot_probe
from pypty.plots.overview import plot_result

__all__ = ["plot_loss", "plot_patterns", "plot_phase", "plot_positions", "plot_probe", "plot_result"]
