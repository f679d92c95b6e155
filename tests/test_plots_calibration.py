"""Figures of the calibrations: what was fitted lies where it was measured, in the units at the axes."""

from __future__ import annotations

import numpy as np
import pytest
from figure_contents import colour_bar, edges, labels, line, panel, points_of, shown_image, texts
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pypty.plots.calibration import (
    plot_defects,
    plot_descan,
    plot_disk,
    plot_orientation,
    plot_overview,
)
from pypty.plots.specimen import plot_specimen

SHAPE, CENTRE, RADIUS, WIDTH, ELLIPSE = (40, 52), (17.5, 29.0), 9.0, 1.5, (0.1, -0.04)


def elliptical_disk() -> np.ndarray:
    """Counts 50 inside of an elliptical disk and 2 outside."""
    y, x = np.indices(SHAPE)
    angle = np.arctan2(y - CENTRE[0], x - CENTRE[1])
    edge = RADIUS * (1 + ELLIPSE[0] * np.cos(2 * angle) + ELLIPSE[1] * np.sin(2 * angle))
    return np.where(np.hypot(y - CENTRE[0], x - CENTRE[1]) < edge, 50.0, 2.0)


def disk_figure(pixel_mrad: float | None = None) -> Figure:
    return plot_disk(
        elliptical_disk(),
        radius_px=RADIUS,
        centre=CENTRE,
        width_px=WIDTH,
        ellipse=ELLIPSE,
        kind="soft",
        height=48.0,
        residual=0.0123,
        pixel_mrad=pixel_mrad,
    )


def distances(figure: Figure) -> Axes:
    """The panel of all pixels over their distance from the centre."""
    return next(axes for axes in figure.axes if axes.get_xlabel().startswith("distance"))


def test_the_fitted_circle_is_the_edge_of_the_disk() -> None:
    axes = panel(disk_figure(), "mean pattern")
    assert labels(axes) == ("kx / px", "ky / px") and colour_bar(axes) == "mean counts"
    image = elliptical_disk()
    np.testing.assert_array_equal(shown_image(axes), image)
    assert edges(axes) == (-0.5, SHAPE[1] - 0.5, SHAPE[0] - 0.5, -0.5)
    x, y = points_of(axes.lines[0]).T
    from_centre = np.stack([y - CENTRE[0], x - CENTRE[1]])
    angle = np.arctan2(*from_centre)
    for factor, counts in ((0.9, 50.0), (1.1, 2.0)):  # just inside of the line, and just outside
        rows = np.rint(CENTRE[0] + factor * from_centre[0]).astype(int)
        columns = np.rint(CENTRE[1] + factor * from_centre[1]).astype(int)
        assert (image[rows, columns] == counts).mean() > 0.95
    radius = np.hypot(*from_centre)
    assert radius[0] == pytest.approx(1.1 * RADIUS) and radius[45] == pytest.approx(0.9 * RADIUS)
    expected = RADIUS * (1 + ELLIPSE[0] * np.cos(2 * angle) + ELLIPSE[1] * np.sin(2 * angle))
    np.testing.assert_allclose(radius, expected)
    assert len(x) == 181 and (x[0], y[0]) == pytest.approx((x[-1], y[-1]))


def test_centre_of_the_disk_and_zero_frequency_are_marked() -> None:
    axes = panel(disk_figure(), "mean pattern")
    assert points_of(line(axes, "centre of the disk")).tolist() == [[CENTRE[1], CENTRE[0]]]
    assert points_of(line(axes, "zero frequency")).tolist() == [[SHAPE[1] // 2, SHAPE[0] // 2]]


def test_dark_pixels_of_a_pattern_are_drawn_at_the_lowest_colour() -> None:
    pattern = elliptical_disk()
    pattern[0] = 0
    image = panel(
        plot_disk(
            pattern,
            radius_px=RADIUS,
            centre=CENTRE,
            width_px=WIDTH,
            ellipse=ELLIPSE,
            kind="soft",
            height=48.0,
            residual=0.0,
        ),
        "mean pattern",
    ).images[0]
    top = np.percentile(pattern, 99.9)
    assert image.get_clim() == pytest.approx((1e-3 * top, top))
    np.testing.assert_allclose(np.asarray(image.get_array())[0], 1e-4 * top)


def test_pixels_over_their_distance_have_the_edge_at_the_radius() -> None:
    """The ellipse is taken out: nothing bright lies beyond the line, and nothing dark before it."""
    axes = distances(disk_figure())
    assert labels(axes) == ("distance from the centre / px", "mean counts")
    assert axes.get_title() == "edge soft, 1.50 px wide, misfit 1.2 %"
    distance, counts = points_of(line(axes, "pixels")).T
    assert (counts[distance < RADIUS] == 50).all() and (counts[distance > RADIUS] == 2).all()
    y, x = np.indices(SHAPE)
    shape = (
        1
        + 0.1 * np.cos(2 * np.arctan2(y - CENTRE[0], x - CENTRE[1]))
        - 0.04 * np.sin(2 * np.arctan2(y - CENTRE[0], x - CENTRE[1]))
    )
    expected = np.hypot(y - CENTRE[0], x - CENTRE[1]) / shape
    np.testing.assert_allclose(np.sort(distance), np.sort(expected[expected < 1.7 * RADIUS]))
    assert line(axes, "edge, 9.00 px").get_xdata() == [RADIUS, RADIUS]
    span = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    assert (span.x0, span.x1) == pytest.approx((RADIUS - WIDTH, RADIUS + WIDTH))
    assert axes.get_ylim()[0] == 0


def test_distances_have_angles_where_the_pixel_is_known() -> None:
    axes = distances(disk_figure(pixel_mrad=0.8))
    (upper,) = axes.child_axes
    assert upper.get_xlabel() == "angle / mrad (pixel 0.8 mrad)" and axes.get_title() == ""
    forward, back = upper._functions
    assert forward(10.0) == pytest.approx(8.0) and back(8.0) == pytest.approx(10.0)
    assert not distances(disk_figure()).child_axes


# --------------------------------------------------------------------------------------------- orientation

ROWS = [
    (False, 12.34, 0.9, 0.8, 0.7, 0.85),
    (True, -77.0, 0.1, -0.2, 0.3, 0.05),
    (False, 102.0, -0.4, 0.5, -0.6, -0.15),
]


def orientation_figure(scan: tuple[int, int] = (50, 30), step_A: float = 0.4) -> tuple[Figure, np.ndarray]:
    """Deflections that differ from point to point and from axis to axis."""
    y, x = np.indices(scan)
    field = np.stack([1.0 + 0.1 * y, -2.0 + 0.05 * x])
    dark = (y * scan[1] + x) / (2.0 * y.size)
    return plot_orientation(field, dark, ROWS, step_A, 12.0), field


def test_arrows_are_the_deflection_at_their_points() -> None:
    figure, field = orientation_figure()
    axes = panel(figure, "deflection of the beam")
    assert labels(axes) == ("x (fast) / Å", "y (slow) / Å")
    (arrows,) = (one for one in axes.collections if hasattr(one, "U"))
    points = np.rint(np.asarray(arrows.XY) / 0.4).astype(int)
    np.testing.assert_allclose(points * 0.4, arrows.XY)
    np.testing.assert_allclose(arrows.U, field[1][points[:, 1], points[:, 0]])  # x to the right
    np.testing.assert_allclose(arrows.V, field[0][points[:, 1], points[:, 0]])  # y downwards, as the image
    assert arrows.angles == "xy" and arrows.scale_units == "xy"
    assert np.unique(points[:, 1]).tolist() == list(range(0, 50, 2))  # about 24 along the longer side
    assert np.unique(points[:, 0]).tolist() == list(range(0, 30, 2))
    longest = np.percentile(np.hypot(arrows.U, arrows.V), 95)
    assert longest / arrows.scale == pytest.approx(1.2 * 2 * 0.4)  # a little longer than their distance


def test_the_key_of_the_arrows_is_a_part_of_the_disk() -> None:
    figure, field = orientation_figure()
    axes = panel(figure, "deflection of the beam")
    (key,) = (artist for artist in axes.artists if hasattr(artist, "U"))
    longest = float(np.percentile(np.hypot(*field[:, ::2, ::2]), 95))
    assert longest == pytest.approx(key.U)
    assert key.text.get_text() == f"{100 * longest / 12.0:.2g} % of the disk"


def test_the_dark_field_lies_under_the_arrows() -> None:
    figure, _ = orientation_figure()
    axes = panel(figure, "deflection of the beam")
    assert edges(axes) == pytest.approx((-0.2, 29.5 * 0.4, 49.5 * 0.4, -0.2))
    assert colour_bar(axes) == "counts outside the disk / %"
    np.testing.assert_allclose(shown_image(axes).ravel(), 100 * np.arange(1500) / 3000)


def test_no_deflection_has_no_arrows_of_infinite_length() -> None:
    figure = plot_orientation(np.zeros((2, 5, 4)), np.zeros((5, 4)), ROWS, 0.4, 12.0)
    (arrows,) = (one for one in figure.axes[0].collections if hasattr(one, "U"))
    assert arrows.scale == pytest.approx(1.0 / (1.2 * 0.4))


def test_every_score_has_its_bar_beside_its_orientation() -> None:
    axes = panel(orientation_figure()[0], "eight orientations, best on top")
    assert labels(axes) == ("score", "flip_ky, PLRotation_deg")
    assert [text.get_text() for text in axes.get_yticklabels()] == ["12.3°", "flip, -77.0°", "102.0°"]
    np.testing.assert_array_equal(axes.get_yticks(), [2, 1, 0])
    columns = {
        "free of curl": 2,
        "bright-field images aligned": 3,
        "attracted to the dark field": 4,
        "score": 5,
    }
    assert {bars.get_label() for bars in axes.containers} == set(columns)
    centres = {}
    for bars in axes.containers:
        name = bars.get_label()
        assert [bar.get_width() for bar in bars] == [row[columns[name]] for row in ROWS], name
        centres[name] = np.array([bar.get_y() + bar.get_height() / 2 for bar in bars])
        assert np.rint(centres[name]).tolist() == [2, 1, 0], name
    tops = sorted(centres, key=lambda name: -centres[name][0])
    assert tops == ["bright-field images aligned", "free of curl", "attracted to the dark field", "score"]
    heights = {bar.get_height() for bars in axes.containers for bar in bars}
    steps = -np.diff([centres[name][0] for name in tops])
    assert max(heights) < steps.min() and steps == pytest.approx([0.18] * 3), "bars do not cover each other"
    assert min(heights) == pytest.approx(max(heights)) and sum(steps) + max(heights) < 1
    assert axes.get_xlim() == (-1.05, 1.05)
    assert [points_of(one)[:, 0].tolist() for one in axes.lines] == [[0, 0]]


# -------------------------------------------------------------------------------------------------- descan


def disk_paths() -> tuple[np.ndarray, np.ndarray]:
    """Centres in 3 x 4 blocks, and a fit beside them."""
    rows, columns = np.mgrid[:3, :4]
    centres = np.stack([0.3 * rows - 0.1 * columns, 0.5 * columns - 1.2 + 0.02 * rows], axis=-1)
    return centres, centres + 0.01


def test_positions_of_the_disk_are_shown_for_each_axis() -> None:
    centres, fitted = disk_paths()
    figure = plot_descan(centres, fitted, 11.0)
    for axis, name in enumerate(("ky", "kx")):
        axes = panel(figure, f"disk along {name}")
        assert labels(axes) == ("block along the fast axis", "block along the slow axis")
        assert colour_bar(axes) == f"{name} of the disk / px"
        np.testing.assert_array_equal(shown_image(axes), centres[..., axis])
        assert axes.images[0].get_clim() == (-1.2, 1.2)
    still = plot_descan(0 * centres, 0 * fitted, 11.0)
    assert panel(still, "disk along ky").images[0].get_clim() == (-0.05, 0.05)
    assert panel(still, "path; disk radius 11.0 px").get_xlim() == pytest.approx((-0.026, 0.026))


def test_the_path_of_the_disk_has_ky_downwards() -> None:
    centres, fitted = disk_paths()
    axes = panel(plot_descan(centres, fitted, 11.0), "path; disk radius 11.0 px")
    assert labels(axes) == ("kx / px from the middle", "ky / px from the middle")
    measured = points_of(line(axes, "measured, each block"))
    np.testing.assert_array_equal(measured, centres.reshape(-1, 2)[:, ::-1])
    drawn = [points_of(one) for one in axes.lines if one.get_color() == "C3" and len(one.get_xdata())]
    assert len(drawn) == 4 + 3  # lines along both axes of the scan
    np.testing.assert_array_equal(drawn[0], fitted[:, 0, ::-1])
    np.testing.assert_array_equal(drawn[4], fitted[0, :, ::-1])
    reach = 1.3 * 1.2
    assert axes.get_xlim() == pytest.approx((-reach, reach)) and axes.get_ylim() == pytest.approx(
        (reach, -reach)
    )
    assert axes.get_aspect() == 1
    wide = panel(plot_descan(centres, 2 * fitted, 11.0), "path; disk radius 11.0 px")
    assert wide.get_xlim()[1] == pytest.approx(1.3 * 2 * np.abs(fitted).max())


# ------------------------------------------------------------------------------------------------- defects


def defects_figure(mean: np.ndarray) -> Figure:
    hot, dead, other = np.array([[2, 7]]), np.array([[1, 3], [4, 0]]), np.zeros((0, 2), int)
    return plot_defects(
        mean,
        hot=hot,
        dead=dead,
        other=other,
        totals=np.arange(15.0).reshape(3, 5),
        left_out=np.array([4, 11]),
    )


def test_bad_pixels_have_circles_and_patterns_left_out_squares() -> None:
    mean = np.full((6, 9), 10.0)
    figure = defects_figure(mean)
    axes = panel(figure, "pixels")
    assert labels(axes) == ("kx / px (as stored)", "ky / px (as stored)")
    assert colour_bar(axes) == "mean counts" and shown_image(axes).shape == (6, 9)
    assert points_of(line(axes, "hot (1)")).tolist() == [[7, 2]]
    assert points_of(line(axes, "dead (2)")).tolist() == [[3, 1], [0, 4]]
    assert points_of(line(axes, "stuck, saturated (0)")).tolist() == []
    axes = panel(figure, "patterns")
    assert labels(axes) == ("scan point, fast axis", "scan point, slow axis")
    assert colour_bar(axes) == "counts of the pattern"
    np.testing.assert_array_equal(shown_image(axes), np.arange(15).reshape(3, 5))
    assert points_of(line(axes, "left out (2)")).tolist() == [[4, 0], [1, 2]]
    assert axes.images[0].get_clim() == pytest.approx((0.14, 13.86))


def test_grey_levels_of_the_mean_pattern_leave_out_the_ends() -> None:
    mean = np.arange(1.0, 55.0).reshape(6, 9)
    mean[0, 0] = 0
    image = panel(defects_figure(mean), "pixels").images[0]
    low, high = np.percentile(mean[mean > 0], (5, 99.5))
    assert image.get_clim() == pytest.approx((low, high))
    assert np.asarray(image.get_array())[0, 0] == pytest.approx(low)
    flat = panel(defects_figure(np.full((6, 9), 10.0)), "pixels").images[0]
    assert flat.get_clim() == pytest.approx((10.0, 10.1))
    dark = panel(defects_figure(np.zeros((6, 9))), "pixels").images[0]
    assert dark.get_clim() == (0.1, 1.0)


def test_an_overview_has_every_figure_under_its_name() -> None:
    first, second, third = disk_figure(), orientation_figure()[0], defects_figure(np.full((6, 9), 10.0))
    page = plot_overview([first, second, third], ["disk", "orientation", "defects"])
    assert [axes.get_title(loc="left") for axes in page.axes] == ["disk", "orientation", "defects"]
    for axes, figure in zip(page.axes, (first, second, third), strict=True):
        np.testing.assert_array_equal(shown_image(axes), np.asarray(figure.canvas.buffer_rgba()))
        assert not axes.axison
    places = [axes.get_subplotspec() for axes in page.axes]
    assert [(place.rowspan.start, place.colspan.start) for place in places] == [(0, 0), (0, 1), (1, 0)]


# ------------------------------------------------------------------------------------------------ specimen


def test_trials_of_both_half_turns_over_defocus_and_thickness() -> None:
    better = np.array([[-100.0, 50.0, 0.02], [-100.0, 80.0, 0.01], [-150.0, 80.0, 0.03]])
    worse = better * (-1, 1, 2)
    phase = np.random.default_rng(0).normal(size=(20, 30))
    figure = plot_specimen(
        better, worse, rotations_deg=(10.0, -170.0), fitted_A=(-120.0, 77.0), phase=phase, pixel_A=(0.5, 0.25)
    )
    defocus, thickness = figure.axes[:2]
    assert defocus.get_xlabel() == "|C10| at the middle of the specimen / Å"
    assert thickness.get_xlabel() == "thickness / Å"
    assert {axes.get_ylabel() for axes in (defocus, thickness)} == {"misfit / % of the counts"}
    for factor, name in ((1, "10.0°"), (2, "-170.0°")):
        np.testing.assert_allclose(points_of(line(defocus, name)), [[100, factor], [150, 3 * factor]])
        np.testing.assert_allclose(points_of(line(thickness, name)), [[50, 2 * factor], [80, factor]])
    dots = [points_of(one) for one in defocus.lines if one.get_marker() in "os" and one.get_marker()]
    np.testing.assert_allclose(dots[0], [[100, 2], [100, 1], [150, 3]])
    np.testing.assert_allclose(dots[1], [[100, 4], [100, 2], [150, 6]])
    assert defocus.lines[-1].get_xdata() == [120, 120] and thickness.lines[-1].get_xdata() == [77, 77]
    assert "phase, all slices together" in texts(figure)
    image = panel(figure, "phase, all slices together")
    np.testing.assert_array_equal(shown_image(image), phase)
    assert image.get_aspect() == 2.0


def test_panels_stand_side_by_side_and_fill_the_figure() -> None:
    centres, fitted = disk_paths()
    trials = np.array([[-100.0, 50.0, 0.02], [-150.0, 80.0, 0.03]])
    for figure, n in (
        (disk_figure(), 2),
        (orientation_figure()[0], 2),
        (plot_descan(centres, fitted, 11.0), 3),
        (defects_figure(np.full((6, 9), 10.0)), 2),
        (
            plot_specimen(
                trials,
                trials,
                rotations_deg=(1.0, 2.0),
                fitted_A=(3.0, 4.0),
                phase=np.ones((9, 9)),
                pixel_A=(1.0, 1.0),
            ),
            3,
        ),
    ):
        places = [axes.get_subplotspec() for axes in figure.axes if axes.get_xlabel() or axes.get_title()]
        panels = [place for place in places if place is not None and place.get_gridspec().ncols == n]
        assert sorted(place.colspan.start for place in panels) == list(range(n))
        assert {place.get_gridspec().nrows for place in panels} == {1}
