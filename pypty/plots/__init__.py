"""Figures. The only place that knows matplotlib; nothing but the user's edge imports it."""

from pypty.plots.bright_field import plot_defocus, plot_dpc, plot_tcbf
from pypty.plots.figures import plot_loss, plot_patterns, plot_phase, plot_positions, plot_probe
from pypty.plots.overview import plot_result

__all__ = [
    "plot_defocus",
    "plot_dpc",
    "plot_loss",
    "plot_patterns",
    "plot_phase",
    "plot_positions",
    "plot_probe",
    "plot_result",
    "plot_tcbf",
]
