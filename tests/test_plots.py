"""Figures have axes, units and a scale bar of the right length."""

from __future__ import annotations

import matplotlib.figure
import numpy as np
import pytest
from matplotlib.patches import Rectangle
from problems import N_PATTERNS, SIDE, aperture_probe, small_params

import pypty
from pypty.plots import plot_loss, plot_patterns, plot_phase, plot_positions, plot_probe
from pypty.plots.figures import complex_to_rgb, scanned_area


def texts(figure: matplotlib.figure.Figure) -> str:
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    for axes in figure.axes:
        found += [axes.get_xlabel(), axes.get_ylabel(), axes.get_title()]
    return " | ".join(found)


def test_scale_bar_has_the_length_it_says() -> None:
    figure = plot_phase(np.random.default_rng(0).normal(size=(50, 80)), (0.25, 0.25))
    bar = next(patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle))
    assert "5 Å" in texts(figure)
    assert bar.get_width() * 0.25 == pytest.approx(5.0)
    assert "phase / rad" in texts(figure)


def test_long_bars_are_in_nanometres() -> None:
    assert "5 nm" in texts(plot_phase(np.zeros((300, 300)), (1.0, 1.0)))


def test_loss_is_logarithmic_unless_negative() -> None:
    assert plot_loss(np.array([3.0, 2.0, 1.0])).axes[0].get_yscale() == "log"
    assert plot_loss(np.array([-3.0, -4.0])).axes[0].get_yscale() == "linear"


def test_positions_show_corrections() -> None:
    start = np.array([[0.0, 0.0], [0.0, 4.0], [4.0, 0.0]])
    assert "not refined" in texts(plot_positions(start, start, (0.5, 0.5)))
    moved = start + np.array([[0.0, 2.0], [0, 0], [0, 0]])
    assert "1.00 Å" in texts(plot_positions(moved, start, (0.5, 0.5)))


def test_probe_figure_has_every_mode_with_its_power() -> None:
    probe = np.ones((8, 8, 3), complex) * np.sqrt([0.5, 0.3, 0.2])
    shown = texts(plot_probe(probe, (0.2, 0.2)))
    assert all(f"{share:.1f} %" in shown for share in (50, 30, 20))


def test_patterns_share_one_scale() -> None:
    figure = plot_patterns(np.full((8, 8), 100.0), np.full((8, 8), 1.0))
    first, second = (axes.images[0].get_clim() for axes in figure.axes[:2])
    assert first == second
    assert "counts" in texts(figure)


def test_colours_of_phase() -> None:
    wave = np.array([[1.0, np.exp(2j * np.pi / 3), 0.0]])
    red, green, black = complex_to_rgb(wave)[0]
    assert red == pytest.approx([1, 0, 0]) and green == pytest.approx([0, 1, 0], abs=1e-12)
    assert black == pytest.approx([0, 0, 0])


def test_scanned_area_is_under_the_window_centres() -> None:
    area = scanned_area((40, 50), np.array([[0.0, 1.0], [10.0, 21.5]]), (16, 16))
    assert area == (slice(8, 19), slice(9, 31))


def test_result_plot(tmp_path) -> None:
    result = pypty.run(small_params(epoch_max=1))
    figure = result.plot()
    assert "object phase" in texts(figure) and "epoch" in texts(figure)
    figure.savefig(tmp_path / "overview.png")
    assert (tmp_path / "overview.png").stat().st_size > 5000


def test_scanned_area_of_a_scan_that_hardly_moves() -> None:
    assert scanned_area((40, 50), np.array([[3.0, 4.0]]), (16, 20)) == (slice(3, 19), slice(4, 24))


def test_probe_figure_has_every_mode_of_every_subscan() -> None:
    probe = np.ones((8, 8, 2, 3), complex)
    probe[..., 1, 2] *= 3
    shown = texts(plot_probe(probe, (0.2, 0.2)))
    assert all(f"subscan {k}, mode {mode}" in shown for k in range(3) for mode in range(2))
    assert "subscan 2, mode 1: 64.3 %" in shown


def test_result_plot_of_several_probes_and_of_one_position() -> None:
    several = np.repeat(aperture_probe()[..., None], 2, axis=3)
    result = pypty.run(small_params(probe=several, probe_marker=np.arange(N_PATTERNS) % 2, epoch_max=1))
    assert "subscan" in texts(result.plot())
    series = {"recon_type": "near_field", "defocus_array": np.linspace(10, 90, N_PATTERNS)}
    result = pypty.run(small_params(positions=[[0.0, 0.0]], probe=None, epoch_max=1, **series))
    assert result.plot().axes[0].images[0].get_array().shape == (SIDE, SIDE)
