"""Figures. Matplotlib is used only in this package, which only user interfaces import."""

from pypty.plots.bright_field import plot_defocus, plot_dpc, plot_tcbf
from pypty.plots.figures import plot_loss, plot_patterns, plot_phase, plot_positions, plot_probe
from pypty.plots.fit import PatternPair, plot_fit
from pypty.plots.forward import ForwardPass, plot_forward
from pypty.plots.modes import plot_probe_modes
from pypty.plots.overview import plot_result
from pypty.plots.scan import plot_grouping, plot_scan_positions, plot_tilts
from pypty.plots.series import (
    plot_convergence,
    plot_deviance,
    plot_learning_rates,
    plot_loss_history,
    plot_mean_tilt,
    plot_slice_distance,
)

__all__ = [
    "ForwardPass",
    "PatternPair",
    "plot_convergence",
    "plot_defocus",
    "plot_deviance",
    "plot_dpc",
    "plot_fit",
    "plot_forward",
    "plot_grouping",
    "plot_learning_rates",
    "plot_loss",
    "plot_loss_history",
    "plot_mean_tilt",
    "plot_patterns",
    "plot_phase",
    "plot_positions",
    "plot_probe",
    "plot_probe_modes",
    "plot_result",
    "plot_scan_positions",
    "plot_slice_distance",
    "plot_tcbf",
    "plot_tilts",
]
