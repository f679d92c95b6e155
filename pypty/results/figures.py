"""The figures of ``selected_figs``, from a snapshot of a run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.figure import Figure

from pypty.engine.epochs.loop import Reconstruction
from pypty.model.options import TILT_MODES
from pypty.plots.fit import PatternPair, plot_fit
from pypty.plots.forward import ForwardPass, plot_forward
from pypty.plots.modes import plot_probe_modes
from pypty.plots.scan import plot_grouping, plot_scan_positions, plot_tilts
from pypty.plots.series import (
    plot_convergence,
    plot_learning_rates,
    plot_loss_history,
    plot_mean_tilt,
    plot_slice_distance,
)
from pypty.results.snapshot import Snapshot
from pypty.trust.measure import measure
from pypty.trust.quality import FitQuality

Draw = Callable[[], Figure]
OF_THE_WHOLE_RUN = ("summary_pos_grouping", "summary_convergence", "summary_convergence_dynamic")
"""Figures whose files are replaced when they are drawn again: their names have no epoch."""
_SHARE = 0.9  # of the probe's intensity, for the circle that shows its size


def draw_figures(
    run: Reconstruction, snapshot: Snapshot, batches: Sequence[np.ndarray]
) -> list[tuple[str, Draw]]:
    """(file name without epoch, function that draws it) of all selected figures, and of the batches if given.

    Parameters
    ----------
    batches : indices of the patterns of each batch of the last epoch
    """
    wanted = run.settings["selected_figs"]
    everything = "all" in wanted
    history, pixel = snapshot.history, snapshot.pixel_size_A
    modes = functools.partial(
        plot_probe_modes,
        snapshot.start_probe,
        snapshot.probe,
        pixel_size_A=pixel,
        pixel_mrad=run.setup.window.model_pixel_mrad,
    )
    known: dict[str, tuple[str, Draw]] = {
        "loss": ("summary_loss", lambda: plot_loss_history(history)),
        "learning_rates": ("summary_learning_rates", lambda: plot_learning_rates(history)),
        "forward": ("summary_forward_pass", lambda: _forward(run, snapshot)),
        "probe_r_amp": ("summary_probe_modes_real_amp", functools.partial(modes, "r_amp")),
        "probe_k_amp": ("summary_probe_modes_fourier_amp", functools.partial(modes, "k_amp")),
        "probe_k_phase": ("summary_probe_modes_fourier_phase", functools.partial(modes, "k_phase")),
        "pos": (
            "summary_scan_pos",
            lambda: plot_scan_positions(snapshot.arrays["positions"], snapshot.start_positions, pixel),
        ),
        "tilt": ("summary_obj_tilts", lambda: _tilts(run, snapshot)),
        "tilt_avg": ("summary_obj_tilts_avg", lambda: plot_mean_tilt(history)),
        "slice_thickness": ("summary_slice_thickness", lambda: plot_slice_distance(history)),
        "fit": ("summary_fit", lambda: draw_fit(run, measure(run))),
        "convergence_full": ("summary_convergence", lambda: plot_convergence(history)),
        "convergence_dynamic": (
            "summary_convergence_dynamic",
            lambda: plot_convergence(history, dynamic=True),
        ),
    }
    chosen = {"convergence_full" if name == "convergence" else name for name in wanted}  # synonyms
    drawn = [entry for name, entry in known.items() if everything or name in chosen]
    if batches:
        drawn.append(("summary_pos_grouping", lambda: _grouping(snapshot, batches)))
    return drawn


def forward_pass(run: Reconstruction, snapshot: Snapshot, index: int) -> ForwardPass:
    """Modelled and measured pattern ``index``."""
    setup, variables = run.setup, run.state.variables
    (y, x), (ny, nx) = setup.scan.crop_origins[index], setup.grid.shape
    patch = snapshot.obj[y : y + ny, x : x + nx]  # (y, x, z, modes)
    weights = snapshot.mode_weights
    marker = run.settings["probe_marker"]
    probe = snapshot.probe if marker is None else snapshot.probe[..., int(marker[index])]
    chosen = np.array([index])
    measured = run.feed.patterns(chosen) * setup.multiplier
    return ForwardPass(
        index=int(index),
        probe_intensity=(np.abs(probe) ** 2).sum(axis=2),
        # Averaged over modes, then multiplied (amplitude) or added (phase) over slices -> (y, x)
        amplitude=np.tensordot(np.abs(patch), weights, axes=1).prod(axis=2),
        phase=np.tensordot(np.angle(patch), weights, axes=1).sum(axis=2),
        modelled=setup.from_model(run.objective.simulate(variables, chosen))[0],
        measured=setup.from_model(measured)[0],
    )


def two_patterns(used: np.ndarray) -> np.ndarray:
    """Indices of two fitted patterns in the middle of the scan: a quarter and three quarters along the middle row
    of a square raster."""
    n = len(used)
    places = [n / 2 + np.sqrt(n) / 4, n / 2 + 3 * np.sqrt(n) / 4]
    return np.unique(used[np.minimum(np.array(places, dtype=int), n - 1)])


def diameter_px(intensity: np.ndarray) -> int:
    """2 R + 1, where R is the smallest whole radius around n//2 that contains 90 % of the intensity (y, x)."""
    ny, nx = intensity.shape
    y, x = np.ogrid[:ny, :nx]
    # Sum of the intensity for each whole radius, then within it.
    radius = np.ceil(np.hypot(y - ny // 2, x - nx // 2)).astype(int)
    inside = np.cumsum(np.bincount(radius.ravel(), intensity.ravel()))
    return 2 * int(np.searchsorted(inside, _SHARE * inside[-1])) + 1


def _forward(run: Reconstruction, snapshot: Snapshot) -> Figure:
    passes = [forward_pass(run, snapshot, index) for index in two_patterns(snapshot.used)]
    return plot_forward(
        passes, snapshot.pixel_size_A, None if run.setup.near_field else run.setup.window.pixel_mrad
    )


def draw_fit(run: Reconstruction, fit: FitQuality) -> Figure:
    """The quality of a fit over scan and detector, with the patterns that fit worst."""
    setup = run.setup
    # patterns are read in the order of the file
    worst = np.sort(fit.worst)
    measured = setup.from_model(run.feed.patterns(worst) * setup.multiplier)
    modelled = setup.from_model(run.objective.simulate(run.state.variables, worst))
    place = np.searchsorted(worst, fit.worst)
    return plot_fit(
        positions_A=fit.positions_A,
        pattern_ratio=fit.pattern_ratio,
        detector_ratio=fit.detector_ratio,
        detector_residual=fit.detector_residual,
        worst=[PatternPair(int(worst[i]), measured[i], modelled[i]) for i in place],
    )


def _tilts(run: Reconstruction, snapshot: Snapshot) -> Figure:
    """Tilts inside the specimen; if tilt_mode excludes these, before or after it."""
    places = _centres_A(snapshot)
    tilts = snapshot.arrays.get("tilts")
    if tilts is None:
        return plot_tilts(places, np.zeros((1, 2)))
    before, inside, _ = TILT_MODES[run.settings["tilt_mode"]]
    first = 2 if inside else 0 if before else 4  # columns of tilts: before, inside, after the specimen
    return plot_tilts(places, 1e3 * tilts[:, first : first + 2])


def _grouping(snapshot: Snapshot, batches: Sequence[np.ndarray]) -> Figure:
    probe = snapshot.probe.reshape(*snapshot.probe.shape[:2], -1)
    diameter = diameter_px((np.abs(probe) ** 2).sum(axis=2))
    return plot_grouping(_centres_A(snapshot), batches, diameter * float(snapshot.pixel_size_A[1]))


def _centres_A(snapshot: Snapshot) -> np.ndarray:
    """(N, 2) centres of the patches."""
    centre = np.array(snapshot.probe.shape[:2]) // 2
    return (snapshot.arrays["positions"] + centre) * snapshot.pixel_size_A
