"""Figures of a run that goes on: what they show, and in which units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from epoch_records import RECORDS, record
from figure_contents import (
    colour_bar,
    edges,
    labels,
    line,
    page_title,
    panel,
    points_of,
    scale_bar,
    shown_image,
    texts,
)
from matplotlib.axes import Axes
from matplotlib.patches import Circle
from problems import N_PATTERNS, SIDE, aperture_probe, every_block, small_params, two_slices

import pypty
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.state import State
from pypty.engine.setup.prepare import prepare
from pypty.plots import (
    ForwardPass,
    PatternPair,
    plot_convergence,
    plot_deviance,
    plot_fit,
    plot_forward,
    plot_grouping,
    plot_learning_rates,
    plot_loss_history,
    plot_mean_tilt,
    plot_probe_modes,
    plot_scan_positions,
    plot_slice_distance,
    plot_tilts,
)
from pypty.plots.modes import shown
from pypty.plots.series import knee_index
from pypty.results.figures import diameter_px, draw_figures, forward_pass, two_patterns
from pypty.results.history import History
from pypty.results.saver import Saver

GOLDEN = Path(__file__).parent / "golden" / "ptyrad" / "knees.npz"
METRICS = ("obja_bg", "obja_fg", "objp_bg", "objp_fg", "probe", "probe_pos_shifts")


def long_history(n: int = 30) -> History:
    """Metrics that fall quickly and then slowly, at every epoch."""
    fall = np.exp(-np.arange(n)) + 1e-3 * np.exp(-np.arange(n) / n)
    return History.of(
        [record(k, loss=1 + 9 * fall[k], convergence=dict.fromkeys(METRICS, fall[k])) for k in range(n)]
    )


def first_epoch(axes: Axes) -> float:
    return float(axes.lines[0].get_xdata()[0])


# ------------------------------------------------------------------------------------------------ knee rule


@pytest.mark.parametrize("series", ["exp", "flat", "neg"])
def test_knees_are_those_of_the_reference(series: str) -> None:
    golden = np.load(GOLDEN, allow_pickle=False)
    assert knee_index(golden[f"kneedle_in_{series}"]) == int(golden[f"kneedle_out_{series}"])


@pytest.mark.parametrize("values", [[], [1.0], [3.0, 1.0], [2.0, 2.0, 2.0, 2.0]])
def test_short_and_constant_series_have_no_knee(values: list[float]) -> None:
    assert knee_index(np.array(values)) == 0


def test_a_knee_that_the_logarithm_hides_is_found_without_it() -> None:
    """A straight line on the logarithmic scale has its knee at 0 there."""
    values = np.exp(-np.arange(50) / 5.0)
    assert 5 < knee_index(values) < 30


# ------------------------------------------------------------------------------------------------ over epochs


def test_loss_has_an_inset_of_the_last_epochs() -> None:
    figure = plot_loss_history(long_history(30))
    main = figure.axes[0]
    assert (main.get_xlabel(), main.get_ylabel()) == ("epoch", "loss")
    inset = main.child_axes[0]
    np.testing.assert_array_equal(inset.lines[0].get_xdata(), np.arange(20, 30))
    assert not plot_loss_history(long_history(20)).axes[0].child_axes


def test_held_out_loss_has_an_axis_of_its_own() -> None:
    figure = plot_loss_history(History.of(RECORDS))
    assert figure.axes[1].get_ylabel() == "loss per held-out pattern"
    without = History.of([record(k, validation=None) for k in range(3)])
    assert len(plot_loss_history(without).axes) == 1


def test_learning_rates_are_logarithmic_and_zero_is_left_out() -> None:
    rates = [{"obj": 1e-2, "probe": 0.0 if k < 2 else 1e-3, "tilts": 0.0} for k in range(4)]
    axes = plot_learning_rates(History.of([record(k, learning_rates=rates[k]) for k in range(4)])).axes[0]
    assert axes.get_yscale() == "log" and [line.get_label() for line in axes.lines] == ["obj", "probe"]
    np.testing.assert_array_equal(np.isnan(axes.lines[1].get_ydata()), [True, True, False, False])
    assert "no learning rates" in texts(plot_learning_rates(History.of(())))


def test_mean_tilt_and_slice_distance_have_units() -> None:
    history = History.of(RECORDS)
    assert "mean tilt / mrad" in texts(plot_mean_tilt(history))
    assert len(plot_mean_tilt(history).axes[0].lines) == 2
    assert "mean distance / Å" in texts(plot_slice_distance(history))
    still = History.of([record(0, mean_tilt_mrad=(0.0, 0.0), mean_slice_distance_A=0.0)])
    assert "no tilt" in texts(plot_mean_tilt(still)) and "one slice" in texts(plot_slice_distance(still))


def test_the_dashboard_has_eight_panels() -> None:
    figure = plot_convergence(long_history())
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == [
        "loss before each epoch",
        "object amplitude",
        "object phase",
        "tilt inside the specimen",
        "learning rates",
        "probe",
        "positions",
        "slice distance",
    ]
    assert [len(axes.lines) for axes in panels] == [1, 2, 2, 2, 2, 1, 1, 1]
    assert all(axes.get_xlabel() == "epoch" and axes.get_ylabel() for axes in panels)
    assert all(first_epoch(axes) == 0 for axes in panels)


def test_the_dynamic_dashboard_begins_at_the_knees() -> None:
    history = long_history()
    figure = plot_convergence(history, dynamic=True)
    knee = knee_index(history.convergence["probe"][:, 1])
    assert knee > 0
    for title in ("object amplitude", "object phase", "probe", "positions"):
        assert first_epoch(panel(figure, title)) == knee
    assert first_epoch(panel(figure, "loss before each epoch")) == knee_index(history.loss) > 0
    for title in ("learning rates", "tilt inside the specimen", "slice distance"):
        assert first_epoch(panel(figure, title)) == 0


def test_a_pair_of_curves_begins_at_the_later_knee() -> None:
    early = np.exp(-np.arange(40) * 2.0) + 1e-4
    late = np.exp(-np.arange(40) / 4.0) + 1e-4
    knees = knee_index(early), knee_index(late)
    assert knees[0] != knees[1]
    records = [record(k, convergence={"obja_bg": early[k], "obja_fg": late[k]}) for k in range(40)]
    figure = plot_convergence(History.of(records), dynamic=True)
    assert first_epoch(panel(figure, "object amplitude")) == max(knees)


def test_panels_without_numbers_say_so() -> None:
    assert texts(plot_convergence(History.of(()))).count("not watched") == 4
    result = pypty.run(small_params())
    shown_texts = texts(result.plot_convergence())
    assert "accepted step" in shown_texts and "one slice" in shown_texts


def lone_series(**columns: Any) -> History:
    """Epochs that differ in one column each."""
    n = len(next(iter(columns.values())))
    return History.of([record(k, **{name: values[k] for name, values in columns.items()}) for k in range(n)])


@pytest.mark.parametrize(
    ("loss", "scale"),
    [([1.0, 2.9], "linear"), ([1.0, 3.1], "log"), ([0.0, 1.0, 3.1], "log"), ([-1.0, 1.0, 30.0], "linear")],
)
def test_an_axis_is_logarithmic_from_a_factor_of_three(loss: list[float], scale: str) -> None:
    axes = plot_loss_history(lone_series(loss=loss, validation=[None] * len(loss))).axes[0]
    assert axes.get_yscale() == scale
    drawn = np.asarray(axes.lines[0].get_ydata(), float)
    np.testing.assert_array_equal(drawn, np.where(np.array(loss) != 0, loss, np.nan))


def test_deviance_is_drawn_with_the_level_of_noise_and_free_pixels() -> None:
    history = lone_series(deviance=[9.0, 2.0, 1.1], free_deviance=[4.0, 3.0, 2.0], validation=[None] * 3)
    axes, twin = plot_deviance(history).axes
    assert labels(axes) == ("epoch", "deviance / expected") and axes.get_yscale() == "log"
    np.testing.assert_array_equal(points_of(line(axes, "all pixels"))[:, 1], [9, 2, 1.1])
    np.testing.assert_array_equal(line(axes, "noise only").get_ydata(), [1, 1])
    np.testing.assert_array_equal(points_of(line(twin, "free pixels"))[:, 1], [4, 3, 2])
    assert twin.get_ylabel() == "mean deviance of a free pixel"
    # beside the loss, and alone without free pixels
    beside = panel(plot_loss_history(history), "deviance after each epoch")
    np.testing.assert_array_equal(points_of(line(beside, "all pixels"))[:, 1], [9, 2, 1.1])
    assert len(plot_deviance(lone_series(deviance=[2.0, 1.0])).axes) == 1
    assert "no deviance" in texts(plot_deviance(lone_series(deviance=[None, None])))


def test_every_series_is_drawn_at_its_epochs_with_its_label() -> None:
    history = lone_series(
        loss=[5.0, 4.0, 3.0],
        validation=[9.0, 8.0, 7.0],
        step=[0.5, 0.0, 0.25],
        learning_rates=[{}, {}, {}],
        mean_tilt_mrad=[(0.1, 0.5), (0.2, 0.6), (0.3, 0.7)],
        mean_slice_distance_A=[4.0, 5.0, 6.0],
        convergence=[{name: (k + 1) * (place + 1.0) for place, name in enumerate(METRICS)} for k in range(3)],
    )
    figure = plot_convergence(history)
    expected: dict[str, tuple[str, dict[str, list[float]]]] = {
        "loss before each epoch": ("loss", {"loss": [5, 4, 3]}),
        "object amplitude": ("mean |change|", {"background": [1, 2, 3], "foreground": [2, 4, 6]}),
        "object phase": ("mean |change| / rad", {"background": [3, 6, 9], "foreground": [4, 8, 12]}),
        "tilt inside the specimen": ("mean tilt / mrad", {"y": [0.1, 0.2, 0.3], "x": [0.5, 0.6, 0.7]}),
        "line search": ("accepted step", {"": [0.5, np.nan, 0.25]}),
        "probe": ("relative change of intensity", {"": [5, 10, 15]}),
        "positions": ("rms change / Å", {"": [6, 12, 18]}),
        "slice distance": ("mean distance / Å", {"": [4, 5, 6]}),
    }
    for title, (label, curves) in expected.items():
        axes = panel(figure, title)
        assert labels(axes) == ("epoch", label)
        for one, (name, values) in zip(axes.lines, curves.items(), strict=True):
            assert one.get_label() == name or name == ""
            np.testing.assert_allclose(one.get_xdata(), [0, 1, 2])
            np.testing.assert_allclose(one.get_ydata(), values)
    twin = next(axes for axes in figure.axes if axes.get_ylabel() == "loss per held-out pattern")
    np.testing.assert_array_equal(twin.lines[0].get_ydata(), [9, 8, 7])
    assert page_title(figure) == "convergence: 3 epochs"
    assert (
        plot_convergence(history, dynamic=True)
        .get_suptitle()
        .endswith("3 epochs, from the knee of each curve")
    )
    assert page_title(plot_convergence(History.of(()))) == "convergence: no epochs yet"


@pytest.mark.parametrize(("names", "room"), [(["obj"], 0.08), (["obj", "probe"], 0.08), (list("abc"), 0.16)])
def test_curves_of_rates_leave_room_for_the_legend(names: list[str], room: float) -> None:
    """Half a factor of four below the lowest rate and above the highest, and above that the rows of the legend."""
    rates = {name: 10.0 ** (-2 - place) for place, name in enumerate(names)}
    low, high = plot_learning_rates(lone_series(learning_rates=[rates] * 3)).axes[0].get_ylim()
    assert low == pytest.approx(min(rates.values()) / 2)
    below = np.log(2 * max(rates.values()) / low)
    assert below / np.log(high / low) == pytest.approx(1 - room)


def test_the_room_of_the_legend_is_less_than_two_thirds() -> None:
    rates = {f"block {k}": 1e-3 for k in range(30)}
    low, high = plot_learning_rates(lone_series(learning_rates=[rates] * 3)).axes[0].get_ylim()
    assert np.log(4) / np.log(high / low) == pytest.approx(0.4)


def test_a_slice_distance_that_stays_is_in_the_middle_of_its_axis() -> None:
    axes = plot_slice_distance(lone_series(mean_slice_distance_A=[8.0, 8.0])).axes[0]
    assert axes.get_ylim() == pytest.approx((7.6, 8.4))
    low, high = plot_slice_distance(lone_series(mean_slice_distance_A=[8.0, 8.1])).axes[0].get_ylim()
    assert 7.9 < low < 8.0 and 8.1 < high < 8.2


# -------------------------------------------------------------------------------------------------- scan


def test_batches_have_a_colour_each_and_the_probe_its_circle() -> None:
    positions = np.stack(np.mgrid[:4, :4], axis=-1).reshape(-1, 2) * 2.0
    batches = np.array_split(np.arange(16), 3)
    figure = plot_grouping(positions, batches, 5.0)
    every, first = figure.axes
    assert "3 batches, 16 patterns" in texts(figure) and "x / Å" in texts(figure)
    colors = {tuple(points.get_facecolor()[0]) for points in every.collections}
    assert len(every.collections) == len(colors) == 3
    for points, batch in zip(every.collections, batches, strict=True):
        np.testing.assert_array_equal(points.get_offsets(), positions[batch][:, ::-1])
    np.testing.assert_array_equal(first.collections[0].get_offsets(), positions[:, ::-1])
    np.testing.assert_array_equal(first.collections[1].get_offsets(), positions[batches[0]][:, ::-1])
    (circle,) = (patch for patch in first.patches if isinstance(patch, Circle))
    assert circle.radius == 2.5 and circle.get_linestyle() == "--"
    assert circle.center == tuple(positions[0][::-1])


def test_diameter_holds_ninety_percent() -> None:
    intensity = np.zeros((21, 21))
    intensity[10, 10] = 89.0
    intensity[10, 13] = 11.0
    assert diameter_px(intensity) == 7
    intensity[10, 10] = 95.0
    intensity[10, 13] = 5.0
    assert diameter_px(intensity) == 1


def test_positions_show_the_way_of_the_scan() -> None:
    positions = np.stack([np.zeros(12), np.arange(12.0)], axis=1)
    figure = plot_scan_positions(positions, positions - [0.0, 0.5], (0.5, 0.5))
    assert {"0", "9"} <= {text.get_text() for text in figure.axes[0].texts} and "x / Å" in texts(figure)
    assert "9" not in {
        text.get_text() for text in plot_scan_positions(positions[:5], positions[:5], (1, 1)).axes[0].texts
    }


def test_tilts_are_arrows_downwards_along_y() -> None:
    positions = np.array([[0.0, 0.0], [0.0, 4.0], [4.0, 0.0]])
    figure = plot_tilts(positions, np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]))
    (arrows,) = figure.axes[0].collections
    np.testing.assert_array_equal(arrows.U, [0, 2, 0])
    np.testing.assert_array_equal(arrows.V, [-1, 0, 0])
    assert "tilt / mrad" in texts(figure)
    assert "below 0.001 mrad" in texts(plot_tilts(positions, np.zeros((3, 2))))
    assert "tilt x / mrad" in texts(plot_tilts(positions, np.array([[1.0, 2.0]])))


def test_arrows_of_tilts_have_the_colour_of_their_size_at_their_points() -> None:
    positions = np.array([[1.0, 2.0], [3.0, 9.0], [8.0, 4.0]])
    figure = plot_tilts(positions, np.array([[3.0, -4.0], [0.0, 2.0], [0.0, 0.0]]))
    axes = figure.axes[0]
    (arrows,) = axes.collections
    np.testing.assert_array_equal(arrows.XY, positions[:, ::-1])
    np.testing.assert_array_equal(arrows.get_array(), [5, 2, 0])
    assert arrows.colorbar.ax.get_ylabel() == "tilt / mrad" and labels(axes) == ("x / Å", "y / Å")
    assert axes.get_title() == "tilt of the specimen: mean [y, x] = [1, -0.667] mrad"
    assert axes.get_xlim() == (1.5, 9.5) and axes.get_ylim() == (8.5, 0.5)


def test_one_tilt_is_an_arrow_from_the_axis_of_the_beam() -> None:
    axes = plot_tilts(np.zeros((4, 2)), np.array([[2.0, -5.0]])).axes[0]
    (arrow,) = axes.texts
    assert (arrow.xy, arrow.xyann) == ((-5.0, 2.0), (0, 0))
    assert labels(axes) == ("tilt x / mrad", "tilt y / mrad")
    assert axes.get_xlim() == (-6, 6) and axes.get_ylim() == (6, -6)


def test_axes_of_a_scan_have_a_margin_of_a_twentieth() -> None:
    positions = np.array([[0.0, 10.0], [60.0, 30.0]])
    every = plot_grouping(positions, [np.arange(2)]).axes[0]
    assert every.get_xlim() == (7, 33) and every.get_ylim() == (63, -3)
    first = plot_grouping(positions, [np.arange(2)], 10.0).axes[1]
    assert first.get_xlim() == (5, 35) and labels(first) == ("x / Å", "y / Å")
    assert first.get_title() == "batch 0: 2 patterns; circle: 90 % of the probe, 10 Å across"


def test_the_way_of_the_scan_goes_from_the_first_to_the_tenth_position() -> None:
    positions = np.stack([np.arange(12.0) * 2, np.arange(12.0)], axis=1)
    axes = plot_scan_positions(positions, positions, (0.5, 0.25)).axes[0]
    arrow = next(text for text in axes.texts if text.get_text() == "")
    assert (arrow.xy, arrow.xyann) == ((9 * 0.25, 9.0), (0.0, 0.0))
    places = {text.get_text(): text.xy for text in axes.texts if text.get_text()}
    assert places == {"0": (0.0, 0.0), "9": (9 * 0.25, 9.0)}


# -------------------------------------------------------------------------------------------------- probe


@pytest.mark.parametrize(
    ("pixel_mrad", "expected"),
    [((2.0, 0.5), (-3.25, 2.75, 7.0, -9.0)), (None, (-6.5, 5.5, 3.5, -4.5))],
)
def test_spectra_of_probe_modes_have_angles_with_zero_in_the_middle(
    pixel_mrad: tuple[float, float] | None, expected: tuple[float, ...]
) -> None:
    """8 x 12 pixels, of 2 x 0.5 mrad: the zero frequency is pixel (4, 6)."""
    probe = np.zeros((8, 12, 1), complex)
    probe[4, 6] = 1  # in the middle: a flat spectrum
    probe[4, 7] = 0.5
    unit = "mrad" if pixel_mrad else "px"
    for kind in ("k_amp", "k_phase"):
        figure = plot_probe_modes(probe, probe, kind, (0.2, 0.3), pixel_mrad)
        upper, lower = (axes for axes in figure.axes if axes.images and axes.get_title())
        assert edges(upper) == edges(lower) == expected
        assert labels(upper) == ("", f"ky / {unit}") and labels(lower) == (f"kx / {unit}", f"ky / {unit}")
        assert upper.get_aspect() == lower.get_aspect() == 1
        if kind == "k_amp":
            assert shown_image(upper)[0].argmax() == 6, "the brightest frequency is zero"


def test_probe_modes_in_real_space_have_pixels_of_their_shape() -> None:
    probe = np.ones((30, 40, 1), complex)
    figure = plot_probe_modes(2 * probe, probe, "r_amp", (0.2, 0.1))
    upper, lower = (axes for axes in figure.axes if axes.images and axes.get_title())
    assert upper.get_aspect() == lower.get_aspect() == 2
    assert scale_bar(lower) == (pytest.approx(10.0), "1 Å")  # pixels of 0.1 Å along x
    assert shown_image(upper).max() == shown_image(lower).max() == 1


def test_colours_of_probe_modes_are_those_of_the_row() -> None:
    """Amplitudes over the largest of all modes, phases symmetric about zero."""
    modes = np.stack([np.full((6, 5), 4.0), np.full((6, 5), 1.0)], axis=2).astype(complex)
    figure = plot_probe_modes(modes, modes, "r_amp", (1.0, 1.0))
    first, second = [axes for axes in figure.axes if "start" in axes.get_title()]
    assert shown_image(first).max() == 1 and shown_image(second).max() == 0.25
    assert first.images[0].get_clim() == second.images[0].get_clim() == (0, 1)
    bars = [axes.get_ylabel() for axes in figure.axes if not axes.get_title()]
    assert bars == ["amplitude / maximum"] * 2
    assert page_title(figure) == "probe modes: amplitude"
    tilted = modes * np.exp(0.5j)
    figure = plot_probe_modes(tilted, tilted, "k_phase", (1.0, 1.0), (1.0, 1.0))
    image = next(axes for axes in figure.axes if axes.images).images[0]
    assert image.get_clim() == pytest.approx((-0.5, 0.5))
    assert [axes.get_ylabel() for axes in figure.axes if not axes.get_title()] == [
        "-phase x amplitude / rad"
    ] * 2
    assert page_title(figure).startswith("spectra of probe modes: -phase")
    many = np.ones((4, 4, 20), complex)
    assert page_title(plot_probe_modes(many, many, "k_amp", (1, 1))).endswith("amplitude (4 more)")


def test_probe_modes_at_the_start_and_now() -> None:
    start = np.ones((8, 8, 2), complex) * np.sqrt([0.6, 0.4])
    now = np.ones((8, 8, 2), complex) * np.sqrt([0.9, 0.1])
    figure = plot_probe_modes(start, now, "r_amp", (0.2, 0.2))
    found = texts(figure)
    for text in (
        "mode 0, start: 60.0 %",
        "mode 1, start: 40.0 %",
        "mode 0, now: 90.0 %",
        "mode 1, now: 10.0 %",
    ):
        assert text in found
    assert "Å" in found and "mrad" not in found
    many = plot_probe_modes(
        np.ones((4, 4, 20), complex), np.ones((4, 4, 20), complex), "k_amp", (1, 1), (2, 2)
    )
    assert sum(len(axes.images) for axes in many.axes if "mode" in axes.get_title()) == 32
    assert "kx / mrad" in texts(many)


def test_the_phase_of_a_spectrum_follows_the_aberration() -> None:
    """exp(-i chi) is shown as +chi inside the aperture, and as 0 outside."""
    probe = aperture_probe(1.0)[..., 0]
    f = (np.arange(SIDE) - SIDE // 2) / (0.25 * SIDE)
    chi = f[:, None] ** 2 + f[None, :] ** 2
    np.testing.assert_allclose(shown(probe, "k_phase"), np.where(chi <= 1, chi, 0), atol=1e-6)
    np.testing.assert_allclose(shown(probe, "k_amp") > 1e-6, chi <= 1)
    np.testing.assert_array_equal(shown(probe, "r_amp"), np.abs(probe))


# ------------------------------------------------------------------------------------------------ forward


def reconstruction(**changes: Any) -> Reconstruction:
    setup = prepare(small_params(**changes))
    return Reconstruction(setup, State(variables=setup.variables(), epoch=0))


def test_the_forward_pass_shows_model_and_data(tmp_path: Path) -> None:
    run = Reconstruction(
        setup := prepare(two_slices(data_multiplier=2.0)), State(variables=setup.variables(), epoch=0)
    )
    snapshot = Saver(run, tmp_path).snapshot()
    one = forward_pass(run, snapshot, 7)
    np.testing.assert_allclose(one.measured, 2 * setup.settings["dataset"][7])
    np.testing.assert_allclose(one.modelled, pypty.simulate(two_slices(data_multiplier=2.0))[7], rtol=1e-9)
    np.testing.assert_allclose(one.probe_intensity, np.abs(snapshot.probe[..., 0]) ** 2)
    assert one.phase.shape == one.amplitude.shape == (SIDE, SIDE)
    figure = plot_forward([one], (0.4, 0.4), (1.0, 1.0))
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["probe intensity", "object amplitude", "object phase", "modelled", "measured"]
    first, second = (panel(figure, name).images[0].get_clim() for name in ("modelled", "measured"))
    assert first == second and "kx / mrad" in texts(figure)
    setup.close()


@pytest.mark.parametrize(
    "form",
    [
        {"data_pad": 4},
        {"probe": None, "simu_Npix": 2 * SIDE, "simu_match_mode": "resample"},
        {"probe": None, "simu_Npix": 2 * SIDE, "simu_match_mode": "crop"},
        {"probe": None, "upsample_pattern": 2},
    ],
)
def test_axes_of_the_forward_figure_are_those_of_a_pattern(form: dict[str, Any], tmp_path: Path) -> None:
    """An image ends half a pixel beyond its outermost pixels; ky is positive downwards, as rows are counted."""
    run = reconstruction(
        pixel_size_y_A=0.2, pixel_size_x_A=0.25, use_padded_intensity=False, selected_figs=["forward"], **form
    )
    snapshot = Saver(run, tmp_path).snapshot()
    figure = draw_figures(run, snapshot, ())[0][1]()
    shown = panel(figure, "measured").images[0]
    assert shown.get_array().shape == (SIDE, SIDE)
    n_model = run.setup.grid.shape[0]
    across = {"resample": 2, None: form.get("upsample_pattern", 1)}.get(form.get("simu_match_mode"), 1)
    ky, kx = (1e3 * run.setup.grid.wavelength * across / (n_model * pixel) for pixel in (0.2, 0.25))
    half = SIDE // 2
    expected = (-(half + 0.5) * kx, (half - 0.5) * kx, (half - 0.5) * ky, -(half + 0.5) * ky)
    assert tuple(shown.get_extent()) == pytest.approx(expected)
    run.setup.close()


def test_the_forward_figure_compares_counts_with_the_factor_of_the_run(tmp_path: Path) -> None:
    """With data_normalization the model is fitted to normalised counts: they are what the figure shows."""
    run = reconstruction(probe=None, data_normalization="mean_at_one")
    one = forward_pass(run, Saver(run, tmp_path).snapshot(), 7)
    counts = np.asarray(run.settings["dataset"])
    np.testing.assert_allclose(one.measured, counts[7] / counts.mean(), rtol=1e-6)
    assert one.modelled.sum() == pytest.approx(one.measured.sum(), rel=0.05)
    run.setup.close()


def test_virtual_detectors_are_curves() -> None:
    square, sums = np.ones((4, 4)), np.ones(5)
    figure = plot_forward(
        [
            ForwardPass(
                index=0, probe_intensity=square, amplitude=square, phase=square, modelled=sums, measured=sums
            )
        ],
        (1.0, 1.0),
        None,
    )
    assert "virtual detector" in texts(figure)


def test_curves_of_virtual_detectors_are_roots_of_counts() -> None:
    square = np.ones((4, 4))
    one = ForwardPass(
        index=0,
        probe_intensity=square,
        amplitude=square,
        phase=square,
        modelled=np.array([4.0, 9.0]),
        measured=np.array([16.0, -1.0]),
    )
    axes = next(
        axes for axes in plot_forward([one], (1.0, 1.0), None).axes if axes.get_xlabel() == "virtual detector"
    )
    assert axes.get_ylabel() == "$\\sqrt{counts}$"
    assert {curve.get_label(): curve.get_ydata().tolist() for curve in axes.lines} == {
        "modelled": [2, 3],
        "measured": [4, 0],
    }


def uneven_pass() -> ForwardPass:
    """Windows of 10 x 16 pixels; patterns of 6 x 9 in which no two pixels are equal."""
    window = np.arange(160.0).reshape(10, 16)
    pattern = np.arange(54.0).reshape(6, 9) ** 2
    return ForwardPass(
        index=7,
        probe_intensity=window,
        amplitude=window + 1,
        phase=window + 2,
        modelled=pattern,
        measured=4 * pattern - 1,
    )


@pytest.mark.parametrize(
    ("pixel_mrad", "extent", "named"),
    [
        ((2.0, 0.5), (-2.25, 2.25, 5.0, -7.0), ("kx / mrad", "ky / mrad")),
        (None, (-4.5, 4.5, 2.5, -3.5), ("x / px", "y / px")),
    ],
)
def test_patterns_of_the_model_have_angles_with_zero_at_their_middle(
    pixel_mrad: tuple[float, float] | None, extent: tuple[float, ...], named: tuple[str, str]
) -> None:
    """6 x 9 pixels of 2 x 0.5 mrad: zero is pixel (3, 4), and ky grows downwards."""
    one = uneven_pass()
    figure = plot_forward([one, one], (0.4, 0.2), pixel_mrad)
    shown_patterns = [axes for axes in figure.axes if axes.get_title() in ("modelled", "measured")]
    assert len(shown_patterns) == 4
    for axes in shown_patterns:
        counts = one.modelled if axes.get_title() == "modelled" else np.maximum(one.measured, 0)
        np.testing.assert_allclose(shown_image(axes), np.sqrt(counts))
        assert axes.images[0].get_clim() == pytest.approx((0, np.sqrt(one.measured.max())))
        assert axes.images[0].norm.gamma == 0.5
        assert edges(axes) == extent and axes.images[0].origin == "upper"
        assert labels(axes) == named and axes.get_aspect() == 1
        assert colour_bar(axes) == "$\\sqrt{counts}$"


def test_windows_of_the_model_have_a_scale_bar_and_pixels_of_their_shape() -> None:
    one = uneven_pass()
    figure = plot_forward([one], (0.4, 0.2), None)
    for title, image, unit in (
        ("probe intensity", one.probe_intensity, "counts"),
        ("object amplitude", one.amplitude, ""),
        ("object phase", one.phase, "rad"),
    ):
        axes = panel(figure, title)
        np.testing.assert_array_equal(shown_image(axes), image)
        assert axes.images[0].get_clim() == pytest.approx(tuple(np.percentile(image, (0.2, 99.8))))
        assert axes.get_aspect() == 2 and colour_bar(axes) == unit
        assert scale_bar(axes) == (pytest.approx(2.5), "0.5 Å")
    assert panel(figure, "probe intensity").get_ylabel() == "pattern 7"


@pytest.mark.parametrize(("n", "expected"), [(1, [0]), (2, [1]), (16, [9, 11]), (1024, [520, 536])])
def test_the_two_patterns_are_in_the_middle(n: int, expected: list[int]) -> None:
    assert two_patterns(np.arange(n)).tolist() == expected


# --------------------------------------------------------------------------------------------- all of them

FILES = {
    "loss": "summary_loss",
    "learning_rates": "summary_learning_rates",
    "forward": "summary_forward_pass",
    "probe_r_amp": "summary_probe_modes_real_amp",
    "probe_k_amp": "summary_probe_modes_fourier_amp",
    "probe_k_phase": "summary_probe_modes_fourier_phase",
    "pos": "summary_scan_pos",
    "tilt": "summary_obj_tilts",
    "tilt_avg": "summary_obj_tilts_avg",
    "slice_thickness": "summary_slice_thickness",
    "fit": "summary_fit",
    "convergence": "summary_convergence",
    "convergence_full": "summary_convergence",
    "convergence_dynamic": "summary_convergence_dynamic",
}


def test_the_fit_over_the_scan_on_the_detector_and_of_the_worst_patterns() -> None:
    rng = np.random.default_rng(0)
    places, ratio = rng.random((30, 2)), 1 + 0.01 * rng.random(30)
    ratio[7] = 3.0
    detector = np.ones((8, 8))
    detector[0, 0], detector[4, 5] = np.nan, 2.5
    pair = PatternPair(7, np.full((8, 8), 4.0), np.eye(8))
    figure = plot_fit(
        positions_A=places,
        pattern_ratio=ratio,
        detector_ratio=detector,
        detector_residual=10 * (detector - 1),
        worst=[pair],
    )
    figure.canvas.draw()
    scan = panel(figure, "deviance over the scan")
    np.testing.assert_array_equal(scan.collections[0].get_array(), ratio)
    np.testing.assert_array_equal(scan.collections[0].get_offsets(), places[:, ::-1])
    assert labels(scan) == ("x / Å", "y / Å") and scan.yaxis_inverted()
    on_detector = panel(figure, "deviance on the detector")
    np.testing.assert_array_equal(np.ma.filled(shown_image(on_detector), np.nan), detector)
    assert colour_bar(on_detector) == "deviance / expected"
    low, high = on_detector.images[0].get_clim()
    assert low + high == pytest.approx(2)
    assert colour_bar(panel(figure, "residual of the mean pattern")) == "(measured - modelled) / σ"
    np.testing.assert_array_equal(shown_image(panel(figure, "7: 3")), pair.measured)
    assert not plot_fit(
        positions_A=places,
        pattern_ratio=ratio,
        detector_ratio=np.ones((1, 2)),
        detector_residual=np.zeros((1, 2)),
    ).subfigs


@pytest.mark.parametrize("wanted", [*([name] for name in FILES), ["all"]], ids=lambda names: names[0])
def test_every_name_gives_its_figure(wanted: list[str], tmp_path: Path) -> None:
    """With every unknown: two probes, tilts, several slices."""
    setup = prepare(every_block(selected_figs=wanted))
    run = Reconstruction(setup, State(variables=setup.variables(), epoch=0))
    run.state.records.append(record(0))
    drawn = draw_figures(run, Saver(run, tmp_path).snapshot(), [])
    expected = set(FILES.values()) if wanted == ["all"] else {FILES[wanted[0]]}
    assert {stem for stem, _ in drawn} == expected and len(drawn) == len(expected)
    if wanted != ["all"]:
        assert drawn[0][1]().axes
    setup.close()


def test_batches_are_drawn_where_there_are_any(tmp_path: Path) -> None:
    run = reconstruction(selected_figs=[], save_iters=1, save_result=[], output_folder=str(tmp_path))
    run.state.epoch = 1
    run.state.records.append(record(0))
    Saver(run, tmp_path)(np.array_split(np.arange(N_PATTERNS), 4))
    assert [path.name for path in tmp_path.glob("*")] == ["summary_pos_grouping.png"]
    run.setup.close()


@pytest.mark.parametrize(
    "changes",
    [
        {
            "recon_type": "near_field",
            "defocus_array": np.linspace(10, 90, N_PATTERNS),
            "positions": [[0.0, 0.0]],
        },
        {
            "masks": np.ones((2, SIDE, SIDE)),
            "dataset": np.full((N_PATTERNS, 2), 2000.0),
            "algorithm": "lsq_compressed",
        },
        {"sequence": [3, 4, 5]},
    ],
    ids=["near_field", "virtual_detectors", "few"],
)
def test_other_kinds_of_data_have_their_figures(changes: dict[str, Any], tmp_path: Path) -> None:
    wanted = {
        "save_iters": 1,
        "selected_figs": ["forward", "pos", "fit"],
        "save_result": ["objp", "probe_prop"],
    }
    changes = {"probe": None, **changes} if "recon_type" in changes else changes
    pypty.run(small_params(**{"epoch_max": 1, "output_folder": str(tmp_path), **wanted, **changes}))
    names = {path.name for path in tmp_path.iterdir() if path.suffix in (".png", ".tif")}
    assert names == {
        "summary_forward_pass_iter0001.png",
        "summary_scan_pos_iter0001.png",
        "summary_fit_iter0001.png",
        "objp_crop_08bit_iter0001.tif",
        "probe_prop_amp_08bit_iter0001.tif",
    }


def test_a_change_of_zero_on_a_logarithmic_axis() -> None:
    """Before positions are refined they do not change: no line from the bottom of the axis."""
    records = [
        record(k, convergence={"probe_pos_shifts": value}) for k, value in enumerate([0.0, 1e-2, 1e-3, 1e-4])
    ]
    figure = plot_convergence(History.of(records))
    axes = next(axes for axes in figure.axes if axes.get_title() == "positions")
    assert axes.get_yscale() == "log"
    shown = np.asarray(axes.lines[0].get_ydata())
    assert np.isnan(shown[0]) and (shown[1:] > 0).all()
    assert axes.get_ylim()[0] > 1e-6


def test_what_does_not_change_is_no_curve() -> None:
    still = [record(k, convergence={"probe_pos_shifts": 0.0}) for k in range(4)]
    axes = next(axes for axes in plot_convergence(History.of(still)).axes if axes.get_title() == "positions")
    assert not axes.lines and axes.texts[0].get_text() == "no change"
