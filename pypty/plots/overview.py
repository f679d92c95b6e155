"""A whole reconstruction in one figure."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from matplotlib.figure import Figure

from pypty.plots.figures import (
    NotebookFigure,
    add_scale_bar,
    all_modes,
    complex_to_rgb,
    plot_loss,
    plot_phase,
    plot_positions,
    scanned_area,
)
from pypty.plots.series import Series, draw_deviance


class Reconstructed(Protocol):
    """The attributes of :class:`pypty.Result` used in the overview."""

    @property
    def obj(self) -> np.ndarray: ...
    @property
    def probe(self) -> np.ndarray: ...
    @property
    def positions(self) -> np.ndarray: ...
    @property
    def start_positions(self) -> np.ndarray: ...
    @property
    def loss(self) -> np.ndarray: ...
    @property
    def pixel_size_A(self) -> np.ndarray: ...
    @property
    def phase(self) -> np.ndarray: ...
    @property
    def history(self) -> Series: ...


def plot_result(result: Reconstructed) -> Figure:
    """Object phase (scanned area), strongest probe mode, deviance or loss, and positions of a :class:`pypty.Result`."""
    figure = NotebookFigure(figsize=(10, 8), dpi=120, layout="constrained")
    phase_axes, probe_axes, loss_axes, position_axes = figure.subplots(2, 2).ravel()
    area = scanned_area(result.obj.shape, result.positions, result.probe.shape[:2])
    n_slices = result.obj.shape[2]
    title = "object phase" + (f", sum of {n_slices} slices" if n_slices > 1 else "")
    plot_phase(result.phase[area], result.pixel_size_A, phase_axes, title)
    modes, names = all_modes(result.probe)
    power = (np.abs(modes) ** 2).sum(axis=(0, 1))
    strongest = int(power.argmax())
    aspect = float(result.pixel_size_A[0] / result.pixel_size_A[1])
    probe_axes.imshow(complex_to_rgb(modes[:, :, strongest]), interpolation="nearest", aspect=aspect)
    probe_axes.set_xticks([])
    probe_axes.set_yticks([])
    add_scale_bar(probe_axes, float(result.pixel_size_A[1]), *modes.shape[1::-1])
    probe_axes.set_title(
        f"{names[strongest]} of {len(power)} ({100 * power[strongest] / power.sum():.0f} % of power)\n"
        "brightness: amplitude, hue: phase"
    )
    if np.isfinite(result.history.deviance).any():
        draw_deviance(loss_axes, result.history)
    else:
        plot_loss(result.loss, loss_axes)
    plot_positions(result.positions, result.start_positions, result.pixel_size_A, position_axes)
    return figure
