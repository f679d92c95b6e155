"""Figures of a run that goes on: what they show, and in which units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from problems import N_PATTERNS, SIDE, aperture_probe, every_block, small_params, two_slices
from test_plots import texts
from test_result_files import RECORDS, record

import pypty
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.state import State
from pypty.engine.setup.prepare import prepare
from pypty.plots import (
    ForwardPass,
    plot_convergence,
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


def panel(figure: Figure, title: str) -> Axes:
    return next(axes for axes in figure.axes if axes.get_title() == title)


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


# -------------------------------------------------------------------------------------------------- scan


def test_batches_have_a_colour_each_and_the_probe_its_circle() -> None:
    positions = np.stack(np.mgrid[:4, :4], axis=-1).reshape(-1, 2) * 2.0
    batches = np.array_split(np.arange(16), 3)
    figure = plot_grouping(positions, batches, 5.0)
    every, first = figure.axes
    assert "3 batches, 16 patterns" in texts(figure) and "x / Å" in texts(figure)
    colors = {tuple(points.get_facecolor()[0]) for points in every.collections}
    assert len(every.collections) == len(colors) == 3
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


# -------------------------------------------------------------------------------------------------- probe


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
    "convergence": "summary_convergence",
    "convergence_full": "summary_convergence",
    "convergence_dynamic": "summary_convergence_dynamic",
}


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
    wanted = {"save_iters": 1, "selected_figs": ["forward", "pos"], "save_result": ["objp", "probe_prop"]}
    changes = {"probe": None, **changes} if "recon_type" in changes else changes
    pypty.run(small_params(**{"epoch_max": 1, "output_folder": str(tmp_path), **wanted, **changes}))
    names = {path.name for path in tmp_path.iterdir() if path.suffix in (".png", ".tif")}
    assert names == {
        "summary_forward_pass_iter0001.png",
        "summary_scan_pos_iter0001.png",
        "objp_crop_08bit_iter0001.tif",
        "probe_prop_amp_08bit_iter0001.tif",
    }
