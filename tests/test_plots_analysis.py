"""Figures of the analysis functions: images in their units, with axes where the numbers say."""

from __future__ import annotations

import numpy as np
import pytest
from figure_contents import colour_bar, edges, labels, line, panel, points_of, shown_image, texts
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, Rectangle

from pypty.plots.analysis import (
    complex_colours,
    draw_colour_wheel,
    draw_scale_bar,
    plot_aberration_fit,
    plot_curve,
    plot_mode_table,
    plot_pictures,
    plot_radial,
)
from pypty.plots.preflight import plot_beam_and_slices, plot_counts, plot_disk, plot_probe_window, plot_scan


def test_a_curve_has_its_time_at_the_top() -> None:
    epochs, times = np.arange(10, 19), np.arange(9) * 2.5
    figure = plot_curve(epochs, np.arange(1.0, 10.0), "loss", times)
    axes, top = figure.axes
    assert labels(axes) == ("epoch", "loss") and top.get_xlabel() == "time / s"
    np.testing.assert_array_equal(points_of(axes.lines[0])[:, 0], epochs)
    np.testing.assert_array_equal(top.get_xticks(), [10, 12, 14, 16, 18])
    assert [text.get_text() for text in top.get_xticklabels()] == ["0", "5", "10", "15", "20"]
    assert top.get_xlim() == axes.get_xlim() and axes.get_yscale() == "log"
    assert plot_curve(epochs, np.arange(9.0), "loss", None).axes[0].get_yscale() == "linear"
    assert len(plot_curve(epochs[:1], np.ones(1), "loss", times[:1]).axes) == 1


def test_modes_have_amplitude_and_phase_in_both_spaces() -> None:
    modes = np.stack([np.full((4, 6), 2j), np.full((4, 6), -1.0 + 0j)], axis=2)
    figure = plot_mode_table(modes, 3 * modes)
    shown = [axes for axes in figure.axes if axes.images and axes.get_title()]
    assert [axes.get_title() for axes in shown] == [
        f"mode {mode}, {space} space"
        for mode in (0, 1)
        for space in ("real", "real", "reciprocal", "reciprocal")
    ]
    assert [float(shown_image(axes)[0, 0]) for axes in shown] == pytest.approx(
        [2, np.pi / 2, 6, np.pi / 2, 1, np.pi, 3, np.pi]
    )
    assert [colour_bar(axes) for axes in shown[:4]] == ["amplitude", "phase / rad"] * 2
    assert labels(shown[0]) == ("x / pixel", "y / pixel") and labels(shown[2]) == ("kx / pixel", "ky / pixel")
    places = [axes.get_subplotspec() for axes in shown]
    assert [(place.rowspan.start, place.colspan.start) for place in places] == [
        (row, column) for row in (0, 1) for column in range(4)
    ]


def test_pictures_fill_rows() -> None:
    pictures = [np.full((3, 4, 3), k / 8) for k in range(5)]
    figure = plot_pictures(pictures, list("abcde"), 2)
    places = [axes.get_subplotspec() for axes in figure.axes]
    assert [(place.rowspan.start, place.colspan.start) for place in places] == [
        *((0, column) for column in range(3)),
        *((1, column) for column in range(2)),
    ]
    assert [axes.get_title() for axes in figure.axes] == list("abcde")
    np.testing.assert_array_equal(shown_image(figure.axes[2]), pictures[2])
    assert {labels(axes) for axes in figure.axes} == {("x / pixel", "y / pixel")}


def test_fitted_aberrations_are_shown_in_angles() -> None:
    """8 x 10 pixels of 2 mrad along ky and 3 mrad along kx; the outermost rows do not count."""
    ky, kx = 2.0 * (np.arange(8) - 4), 3.0 * (np.arange(10) - 5)
    angle = np.hypot(ky[:, None], kx[None, :])
    measured = np.where(angle < 10, 0.3 * angle, np.nan)
    figure = plot_aberration_fit(measured, measured - 0.1, angle, ["C10", "C12a"], np.array([50.0, -3.0]))
    reach = angle[angle < 10].max()
    for name, image in (
        ("measured", measured),
        ("fitted", measured - 0.1),
        ("difference", 0 * measured + 0.1),
    ):
        axes = panel(figure, name)
        np.testing.assert_allclose(shown_image(axes), image)
        assert edges(axes) == (kx[0], kx[-1], ky[-1], ky[0])
        assert axes.get_xlim() == pytest.approx((-1.1 * reach, 1.1 * reach))
        assert axes.get_ylim() == pytest.approx((1.1 * reach, -1.1 * reach)), "ky grows downwards"
        assert labels(axes) == ("kx / mrad", "ky / mrad") and colour_bar(axes) == "chi / rad"
        assert axes.images[0].get_clim() == pytest.approx((-np.pi, np.pi))
    bars = next(axes for axes in figure.axes if axes.get_xlabel() == "coefficient / Å")
    assert [bar.get_width() for bar in bars.patches] == [50, -3] and bars.yaxis_inverted()
    assert [text.get_text() for text in bars.get_yticklabels()] == ["C10", "C12a"]
    assert bars.get_xscale() == "symlog"


def test_colours_are_brightness_on_black_or_saturation_on_white() -> None:
    wave = np.array([[2.0, 1j, 0.0]])
    dark, light = complex_colours(wave, True, None)[0], complex_colours(wave, False, None)[0]
    np.testing.assert_allclose(dark, [[1, 0, 0], [0.25, 0.5, 0], [0, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(light, [[1, 0, 0], [0.75, 1, 0.5], [1, 1, 1]], atol=1e-12)
    np.testing.assert_allclose(complex_colours(wave, True, 4.0)[0, 0], [0.5, 0, 0])
    np.testing.assert_allclose(complex_colours(wave, True, 1.0)[0, 0], [1, 0, 0])


def test_the_colour_wheel_names_its_phases() -> None:
    axes = Figure().add_subplot()
    draw_colour_wheel(axes, np.zeros((4, 4, 3)), 2.5, 10)
    places = {text.get_text(): text.get_position() for text in axes.texts}
    assert places == {
        "0": (1.12, 0),
        "π/2": (0, 1.12),
        "π": (-1.12, 0),
        "−π/2": (0, -1.12),
        "|z| ≤ 2.5": (0.72, -0.98),
    }
    assert edges(axes) == (-1, 1, -1, 1)


def test_means_over_rings_and_bars_of_any_unit() -> None:
    axes = plot_radial(np.array([1.0, 2.0]), np.array([5.0, 4.0])).axes[0]
    assert labels(axes) == ("radius / Å (or 1/Å, as the pixel size)", "mean over the ring")
    np.testing.assert_array_equal(points_of(axes.lines[0]), [[1, 5], [2, 4]])
    axes = Figure().add_subplot()
    draw_scale_bar(axes, (3, 4, 10, 2), (8, 1), "2 nm", 9)
    (bar,) = axes.patches
    assert (bar.get_xy(), bar.get_width(), bar.get_height()) == ((3, 4), 10, 2)
    assert (axes.texts[0].get_text(), axes.texts[0].get_position()) == ("2 nm", (8, 1))


# ---------------------------------------------------------------------------------------------- pre-flight


def test_the_disk_of_a_preflight_lies_where_it_is_in_mrad() -> None:
    """6 x 9 pixels of 2 x 0.5 mrad; the disk is one row below and two columns left of the middle."""
    pattern = np.arange(54.0).reshape(6, 9)
    axes = plot_disk(pattern, (2.0, 0.5), (4.0, 2.0), 3.0).axes[0]
    np.testing.assert_array_equal(shown_image(axes), np.maximum(pattern, 1.0))
    assert edges(axes) == (-2.25, 2.25, 5.0, -7.0) and labels(axes) == ("kx / mrad", "ky / mrad")
    assert axes.images[0].get_clim() == (1, 53) and colour_bar(axes) == "mean counts"
    (circle,) = axes.patches
    assert circle.center == (-1.0, 2.0) and circle.radius == 1.5
    assert axes.get_title() == "disk: 1.5 mrad, 3 px"
    assert points_of(axes.lines[0]).tolist() == [[0, 0]]
    steep = np.full((4, 4), 1e-9)
    steep[1, 2] = 100.0
    assert plot_disk(steep, (1.0, 1.0)).axes[0].images[0].get_clim() == pytest.approx((1e-3, 100.0))
    assert not plot_disk(steep, (1.0, 1.0), (1.0, 1.0)).axes[0].patches
    assert plot_disk(np.full((4, 4), 2.0), (1.0, 1.0)).axes[0].images[0].get_clim() == (1, 2)
    assert plot_disk(np.zeros((4, 4)), (1.0, 1.0)).axes[0].images[0].get_clim() == pytest.approx((1e-5, 1))


def test_the_probe_of_a_preflight_wraps_around_its_window() -> None:
    intensity = np.arange(200.0).reshape(10, 20)
    axes = plot_probe_window(intensity, (0.5, 0.25), (4.0, 15.0), 3.0).axes[0]
    np.testing.assert_allclose(shown_image(axes), intensity / 199)
    assert axes.images[0].get_clim() == (1e-4, 1) and axes.get_aspect() == 2
    circles = [patch for patch in axes.patches if isinstance(patch, Ellipse)]
    assert [circle.center for circle in circles] == [(x, y) for y in (-6, 4, 14) for x in (-5, 15, 35)]
    assert {(circle.width, circle.height) for circle in circles} == {(12, 6)}
    assert axes.get_xlim() == (-0.5, 19.5) and axes.get_ylim() == (9.5, -0.5)
    assert axes.get_title() == "90 % in 3 Å; window 5 x 5 Å" and "1 Å" in texts(axes.figure)
    (bar,) = (patch for patch in axes.patches if isinstance(patch, Rectangle))
    assert bar.get_width() == 4 and colour_bar(axes) == "intensity / maximum"
    assert shown_image(plot_probe_window(np.zeros((4, 4)), (1, 1), (2, 2), 1.0).axes[0]).max() == 0


def test_the_scan_of_a_preflight_has_the_probe_at_its_middle() -> None:
    rows, columns = np.meshgrid(np.arange(5) * 2.0, np.arange(7) * 3.0, indexing="ij")
    positions = np.stack([rows.ravel(), columns.ravel()], axis=1)
    whole, near = plot_scan(positions, 4.0).axes
    for axes in (whole, near):
        np.testing.assert_array_equal(points_of(axes.lines[0]), positions[:, ::-1])
        (circle,) = axes.patches
        assert circle.center == (9, 4) and circle.radius == 2 and axes.get_aspect() == 1
    assert whole.yaxis_inverted() and whole.get_title() == "35 positions"
    assert points_of(whole.lines[1]).tolist() == [[0, 0]], "the first position"
    assert labels(whole) == ("x / Å    (red: first position)", "y / Å") and labels(near) == ("x / Å", "y / Å")
    # The fourth neighbour is 3 Å away; three of those on each side.
    assert near.get_xlim() == (0, 18) and near.get_ylim() == (13, -5)
    assert near.get_title() == "probe (90 %) and its neighbours"
    assert plot_scan(positions, 40.0).axes[1].get_xlim() == (9 - 24, 9 + 24)
    alone = plot_scan(positions).axes
    assert not alone[0].patches and alone[1].get_title() == "neighbours"


def test_many_positions_are_thinned_out() -> None:
    positions = np.stack([np.arange(50_001.0), np.arange(50_001.0)], axis=1)
    whole = plot_scan(positions).axes[0]
    assert len(whole.lines[0].get_xdata()) == 16_667 and whole.get_title() == "50001 positions"


def test_counts_have_a_histogram_around_their_median() -> None:
    totals = np.concatenate([np.full(50, 10.0), np.full(49, 30.0), [20.0]])
    axes = plot_counts(totals).axes[0]
    assert (
        labels(axes) == ("counts of a pattern", "number of patterns") and axes.get_title() == "100 patterns"
    )
    assert len(axes.patches) == 10
    assert [bar.get_height() for bar in axes.patches if bar.get_height()] == [50, 1, 49]
    left = axes.patches[0].get_x() + axes.patches[0].get_width() / 2 - 20.8 / 20
    assert left == pytest.approx(10 - 0.4)
    assert line(axes, "median 15").get_xdata() == [15, 15]
    assert len(plot_counts(np.full(3, 7.0)).axes[0].patches) == 8
    assert len(plot_counts(np.arange(10_000.0)).axes[0].patches) == 60


def test_beam_and_slices_are_drawn_to_scale() -> None:
    """Overfocus of 100 Å: the crossover lies 100 Å before the first slice."""
    figure = plot_beam_and_slices(
        np.array([10.0, 30.0]),
        alpha=0.02,
        defocus_A=100.0,
        depth_of_focus_A=50.0,
        thin_A=20.0,
        wavelength=0.025,
    )
    axes = figure.axes[0]
    assert labels(axes) == ("lateral / Å", "depth along the beam / Å")
    margin = max(0.6 * 50, 0.15 * 140, 20)
    assert axes.get_ylim() == pytest.approx((40 + margin, -100 - margin))
    beam = axes.collections[0]
    outline = beam.get_paths()[0].vertices
    at_crossover = np.abs(outline[np.abs(outline[:, 1] + 100) < 0.3, 0])
    waist = 0.61 * 0.025 / 0.02
    assert at_crossover == pytest.approx(waist, rel=1e-3)
    widest = np.hypot(0.02 * (140 + margin), waist)
    assert np.abs(outline[:, 0]).max() == pytest.approx(widest)
    assert axes.get_xlim() == pytest.approx((-1.15 * widest, 1.15 * widest))
    (band,) = axes.patches
    assert (band.get_y(), band.get_height()) == (-125, 50)
    assert (band.get_x(), band.get_width()) == pytest.approx((-1.15 * widest, 2.3 * widest))
    assert band.get_label() == "depth of focus 50 Å" and beam.get_label() == "beam"
    slices = axes.collections[1:4]
    assert [float(one.get_segments()[0][0, 1]) for one in slices] == [0, 10, 40]
    np.testing.assert_allclose(slices[0].get_segments()[0][:, 0], [-0.92 * widest, 0.92 * widest])
    assert slices[0].get_label() == "3 slices" and slices[1].get_label().strip("_") != "3 slices"
    thin = axes.collections[4]
    assert thin.get_label() == "thickness of one slice: up to 20 Å"
    np.testing.assert_allclose(thin.get_segments()[0], [[1.058 * widest, 0], [1.058 * widest, 20]])
    assert axes.get_title() == "crossover at -100 Å (C10 = 100 Å)"
    single = plot_beam_and_slices(
        np.zeros(0), alpha=0.02, defocus_A=-60.0, depth_of_focus_A=10.0, thin_A=1.0, wavelength=0.025
    ).axes[0]
    assert single.collections[1].get_label() == "1 slice"
    assert single.get_ylim() == pytest.approx((60 + 9, -9))
