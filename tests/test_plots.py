"""Figures have axes, units and a scale bar of the right length."""

from __future__ import annotations

import numpy as np
import pytest
from epoch_records import record
from figure_contents import colour_bar, labels, line, panel, points_of, scale_bar, shown_image, texts
from matplotlib.patches import Rectangle
from problems import N_PATTERNS, SIDE, aperture_probe, small_params

import pypty
from pypty.plots import (
    plot_defocus,
    plot_dpc,
    plot_loss,
    plot_patterns,
    plot_phase,
    plot_positions,
    plot_probe,
    plot_result,
    plot_tcbf,
)
from pypty.plots.figures import complex_to_rgb, scanned_area
from pypty.results.history import History


def test_scale_bar_has_the_length_it_says() -> None:
    figure = plot_phase(np.random.default_rng(0).normal(size=(50, 80)), (0.25, 0.25))
    bar = next(patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle))
    assert "5 Å" in texts(figure)
    assert bar.get_width() * 0.25 == pytest.approx(5.0)
    assert "phase / rad" in texts(figure)


def test_long_bars_are_in_nanometres() -> None:
    assert "5 nm" in texts(plot_phase(np.zeros((300, 300)), (1.0, 1.0)))


@pytest.mark.parametrize(
    ("width", "pixel_A", "bar_px", "label"),
    [
        (50, 1.0, 10, "1 nm"),
        (79, 0.25, 8, "2 Å"),
        (81, 0.25, 20, "5 Å"),
        (39, 0.01, 5, "0.05 Å"),
        (41, 1.0, 10, "1 nm"),
    ],
)
def test_scale_bars_are_round_and_at_most_a_quarter(
    width: int, pixel_A: float, bar_px: float, label: str
) -> None:
    axes = plot_phase(np.zeros((30, width)), (7 * pixel_A, pixel_A)).axes[0]
    assert scale_bar(axes) == (pytest.approx(bar_px), label)
    (bar,) = axes.patches
    assert bar.get_xy() == pytest.approx((0.05 * width, 0.93 * 30)) and bar.get_height() == 0.5
    assert axes.texts[0].get_position() == pytest.approx((0.05 * width + bar_px / 2, 0.915 * 30))


def test_phase_images_leave_out_the_ends_of_the_grey_levels() -> None:
    phase = np.random.default_rng(0).normal(size=(40, 60))
    axes = plot_phase(phase, (0.5, 0.2), title="phase of a slice").axes[0]
    np.testing.assert_array_equal(shown_image(axes), phase)
    assert axes.images[0].get_clim() == pytest.approx(tuple(np.percentile(phase, (0.2, 99.8))))
    assert axes.get_aspect() == 2.5 and axes.get_title() == "phase of a slice"
    low, high = plot_phase(np.full((40, 60), 0.5), (0.5, 0.2)).axes[0].images[0].get_clim()
    assert low == 0.5 and 0 < high - low < 1e-9


def test_loss_is_logarithmic_unless_negative() -> None:
    assert plot_loss(np.array([3.0, 2.0, 1.0])).axes[0].get_yscale() == "log"
    assert plot_loss(np.array([-3.0, -4.0])).axes[0].get_yscale() == "linear"


def test_positions_show_corrections() -> None:
    start = np.array([[0.0, 0.0], [0.0, 4.0], [4.0, 0.0]])
    assert "not refined" in texts(plot_positions(start, start, (0.5, 0.5)))
    moved = start + np.array([[0.0, 2.0], [0, 0], [0, 0]])
    assert "1.00 Å" in texts(plot_positions(moved, start, (0.5, 0.5)))


def test_positions_are_in_angstrom_with_y_downwards() -> None:
    """Pixels of 0.5 x 0.25 Å; the second position moved by 3 px along y and 4 px along x."""
    start = np.array([[0.0, 0.0], [2.0, 4.0], [10.0, 6.0]])
    moved = start + np.array([[0.0, 0.0], [3.0, 8.0], [0, 0]])
    axes = plot_positions(moved, start, (0.5, 0.25)).axes[0]
    assert labels(axes) == ("x / Å", "y / Å") and axes.get_aspect() == 1
    np.testing.assert_array_equal(points_of(axes.lines[0]), [[0, 0], [1, 1], [1.5, 5]])
    np.testing.assert_array_equal(points_of(axes.lines[1]), [[0, 0], [3, 2.5], [1.5, 5]])
    (arrows,) = axes.collections
    np.testing.assert_array_equal(arrows.XY, [[0, 0], [1, 1], [1.5, 5]])
    assert (arrows.U.tolist(), arrows.V.tolist(), arrows.scale) == ([0, 2, 0], [0, 1.5, 0], 1)
    assert axes.get_title() == "scan positions, largest correction 2.50 Å"
    low, high = axes.get_ylim()
    assert low > high, "y grows downwards"
    assert not plot_positions(start, start, (0.5, 0.25)).axes[0].collections


def test_probe_figure_has_every_mode_with_its_power() -> None:
    probe = np.ones((8, 8, 3), complex) * np.sqrt([0.5, 0.3, 0.2])
    shown = texts(plot_probe(probe, (0.2, 0.2)))
    assert all(f"{share:.1f} %" in shown for share in (50, 30, 20))


def test_patterns_share_one_scale() -> None:
    figure = plot_patterns(np.full((8, 8), 100.0), np.full((8, 8), 1.0))
    first, second = (axes.images[0].get_clim() for axes in figure.axes[:2])
    assert first == second
    assert "counts" in texts(figure)


def test_patterns_are_shown_down_to_a_ten_thousandth() -> None:
    measured, modelled = np.zeros((6, 8)), np.full((6, 8), 3.0)
    measured[2, 5] = 1e4
    figure = plot_patterns(measured, modelled)
    for axes, pattern, name in zip(figure.axes, (measured, modelled), ("measured", "modelled"), strict=False):
        np.testing.assert_array_equal(shown_image(axes), np.maximum(pattern, 1.0))
        assert axes.images[0].get_clim() == (1.0, 1e4) and axes.get_title() == name
        assert labels(axes) == ("kx / pixel", "ky / pixel")
    assert figure.axes[2].get_ylabel() == "counts"
    weak = plot_patterns(np.full((4, 4), 0.2), np.full((4, 4), 0.1), ("a", "b"))
    assert weak.axes[0].images[0].get_clim() == pytest.approx((0.1, 0.2))
    assert plot_patterns(measured / 10, modelled / 10).axes[0].images[0].get_clim() == pytest.approx(
        (0.5, 1e3)
    )


def test_probes_have_pixels_of_their_shape_and_four_in_a_row() -> None:
    probe = np.ones((20, 40, 5), complex)
    probe[:, :, 4] = 1j
    figure = plot_probe(probe, (0.4, 0.1))
    places = [axes.get_subplotspec() for axes in figure.axes]
    assert [(place.rowspan.start, place.colspan.start) for place in places] == [
        *((0, column) for column in range(4)),
        (1, 0),
    ]
    for axes in figure.axes:
        assert axes.get_aspect() == 4 and scale_bar(axes) == (pytest.approx(10.0), "1 Å")
    np.testing.assert_allclose(shown_image(figure.axes[0])[0, 0], [1, 0, 0])
    np.testing.assert_allclose(shown_image(figure.axes[4])[0, 0], [0.5, 1, 0], atol=1e-12)


# ---------------------------------------------------------------------------------------- direct methods


def test_centres_of_mass_have_one_scale_about_zero() -> None:
    y, x = np.mgrid[:12.0, :40.0]
    figure = plot_dpc(0.1 * x, 0.01 * y - 0.02, 0.2 - 0.01 * x, 0.5)
    for name, field in (("y", 0.01 * y - 0.02), ("x", 0.2 - 0.01 * x)):
        axes = next(
            axes for axes in figure.axes if axes.images and f"mass, {name} / Å$^{{-1}}$" in colour_bar(axes)
        )
        np.testing.assert_array_equal(shown_image(axes), field)
        assert axes.images[0].get_clim() == pytest.approx((-0.2, 0.2))
        assert scale_bar(axes) == (pytest.approx(10.0), "5 Å")
    axes = panel(figure, "phase from the centres of mass")
    np.testing.assert_array_equal(shown_image(axes), 0.1 * x)
    assert scale_bar(axes) == (pytest.approx(10.0), "5 Å") and axes.get_aspect() == 1


def test_bright_field_images_are_in_counts() -> None:
    image = np.random.default_rng(0).normal(100, 5, (20, 44))
    axes = plot_tcbf(image, 0.5).axes[0]
    np.testing.assert_array_equal(shown_image(axes), image)
    assert axes.images[0].get_clim() == pytest.approx(tuple(np.percentile(image, (0.2, 99.8))))
    assert colour_bar(axes) == "counts per detector pixel" and scale_bar(axes) == (pytest.approx(10.0), "5 Å")
    assert axes.get_title() == "tilt-corrected bright field"


def test_defocus_is_shown_with_the_shifts_that_led_to_it() -> None:
    defoci, explained = np.array([-100.0, 0.0, 100.0]), np.array([0.1, 0.5, 0.2])
    k, shifts = np.array([[1.0, 2.0], [-3.0, 4.0]]), np.array([[0.5, 1.0], [3.0, -4.0]])
    image = np.arange(30.0 * 44).reshape(30, 44)
    figure = plot_defocus(
        defoci, explained, fitted_A=42.5, k_mrad=k, shifts_A=shifts, image=image, pixel_size_A=0.5
    )
    axes = panel(figure, "trial defoci")
    assert labels(axes) == ("C10 / Å (overfocus positive)", "contrast explained / %")
    np.testing.assert_allclose(points_of(axes.lines[0]), np.stack([defoci, [10, 50, 20]], axis=1))
    assert axes.lines[1].get_xdata() == [42.5, 42.5] and axes.lines[1].get_label() == "fit: 42.5 Å"
    axes = panel(figure, "shifts of bright-field images, up to 5 Å")
    assert labels(axes) == ("kx / mrad", "ky / mrad") and axes.yaxis_inverted() and axes.get_aspect() == 1
    (arrows,) = axes.collections
    np.testing.assert_array_equal(arrows.XY, k[:, ::-1])
    assert arrows.U.tolist() == [1, -4] and arrows.V.tolist() == [-0.5, -3], "y downwards"
    axes = panel(figure, "tilt-corrected bright field")
    np.testing.assert_array_equal(shown_image(axes), image)
    assert scale_bar(axes) == (pytest.approx(10.0), "5 Å") and colour_bar(axes) == "counts per detector pixel"


# ------------------------------------------------------------------------------------------------- areas


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


class Reconstructed:
    """Two slices and two modes, the second one twice as strong; 60 x 50 pixels of 0.5 x 0.25 Å."""

    obj = np.exp(0.3j * np.random.default_rng(0).normal(size=(60, 50, 2, 1)))
    probe = np.stack([np.ones((16, 24)), 2j * np.ones((16, 24))], axis=2)
    start_positions = np.array([[0.0, 0.0], [40.0, 20.0]])
    positions = start_positions + 1.0
    loss = np.array([5.0, 1.0])
    pixel_size_A = np.array([0.5, 0.25])
    phase = np.angle(obj).sum(axis=(2, 3))
    history = History.of([record(0)])


def test_the_overview_shows_the_deviance_where_it_is_known() -> None:
    result = Reconstructed()
    result.history = History.of([record(0, deviance=3.0), record(1, deviance=1.5)])
    axes = panel(plot_result(result), "deviance after each epoch")
    np.testing.assert_array_equal(points_of(line(axes, "all pixels")), [[0, 3], [1, 1.5]])


def test_the_overview_shows_the_scanned_area_and_the_strongest_mode() -> None:
    result = Reconstructed()
    figure = plot_result(result)
    phase_axes = panel(figure, "object phase, sum of 2 slices")
    np.testing.assert_array_equal(shown_image(phase_axes), result.phase[9:50, 13:34])
    probe_axes = panel(figure, "probe mode 1 of 2 (80 % of power)\nbrightness: amplitude, hue: phase")
    assert probe_axes.get_aspect() == phase_axes.get_aspect() == 2
    np.testing.assert_allclose(shown_image(probe_axes)[0, 0], [0.5, 1, 0], atol=1e-12)
    assert scale_bar(probe_axes) == (pytest.approx(4.0), "1 Å")
    np.testing.assert_array_equal(
        points_of(panel(figure, "loss before each epoch").lines[0]), [[0, 5], [1, 1]]
    )
    positions = panel(figure, "scan positions, largest correction 0.56 Å")
    np.testing.assert_allclose(points_of(positions.lines[1]), [[0.25, 0.5], [5.25, 20.5]])
