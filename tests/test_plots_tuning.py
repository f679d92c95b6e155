"""Figures of a search for parameters: trials at their values, the best one marked, logarithmic where it helps."""

from __future__ import annotations

import numpy as np
import pytest
from figure_contents import labels, line, panel, points_of

from pypty.plots.tuning import plot_contour, plot_epochs, plot_history, plot_importances, plot_slices


def test_the_best_trial_so_far_leaves_out_what_was_pruned() -> None:
    axes = plot_history([0, 1, 2, 4], [5.0, 3.0, 1.0, 4.0], [False, False, True, False], "loss").axes[0]
    assert labels(axes) == ("trial", "loss per pattern") and axes.get_title() == "history of the search"
    np.testing.assert_array_equal(points_of(line(axes, "complete")), [[0, 5], [1, 3], [4, 4]])
    np.testing.assert_array_equal(points_of(line(axes, "pruned")), [[2, 1]])
    best = line(axes, "best so far")
    np.testing.assert_array_equal(points_of(best), [[0, 5], [1, 3], [4, 3]])
    assert best.get_drawstyle() == "steps-post"
    names = [one.get_label() for one in plot_history([0, 1], [5.0, 3.0], [True, True], "x").axes[0].lines]
    assert "best so far" not in names and "pruned" in names
    assert "pruned" not in [one.get_label() for one in plot_history([0], [5.0], [False], "x").axes[0].lines]


@pytest.mark.parametrize(
    ("values", "scale"), [([1.0, 31.0], "log"), ([1.0, 29.0], "linear"), ([-1.0, 31.0], "linear")]
)
def test_objectives_are_logarithmic_from_a_factor_of_thirty(values: list[float], scale: str) -> None:
    assert plot_history([0, 1], values, [False, False], "loss").axes[0].get_yscale() == scale
    histories = [({1: values[0], 2: values[1]}, False)]
    assert plot_epochs(histories, "loss").axes[0].get_yscale() == scale


@pytest.mark.parametrize(
    ("objective", "label"),
    [
        ("loss", "loss per pattern"),
        ("validation", "loss per held-out pattern"),
        ("contrast", "minus contrast"),
        ("my own", "my own"),
    ],
)
def test_objectives_are_called_by_what_they_are(objective: str, label: str) -> None:
    assert plot_history([0], [1.0], [False], objective).axes[0].get_ylabel() == label


def test_importances_are_sorted_with_the_largest_on_top() -> None:
    axes = plot_importances({"a": 0.25, "b": 0.7, "c": 0.05}).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["c", "a", "b"]
    assert [bar.get_width() for bar in axes.patches] == [0.05, 0.25, 0.7]
    assert {text.get_text() for text in axes.texts} == {"0.05", "0.25", "0.70"}
    assert axes.get_xlim() == pytest.approx((0, 1.12 * 0.7)) and axes.get_xlabel() == "importance (sum 1)"


def test_the_objective_over_each_parameter() -> None:
    columns = {
        "defocus": [10.0, 20.0, None, 40.0],
        "learning rate": [1e-3, 1e-2, 1e-1, 1.0],
        "method": ["adam", "sgd", "adam", "lion"],
        "tilt": [1.0, 2.0, 3.0, 4.0],
    }
    figure = plot_slices(
        columns,
        [4.0, 2.0, 3.0, 5.0],
        numbers=[0, 1, 2, 7],
        objective="loss",
        units={"defocus": "Å"},
        logs=["learning rate"],
    )
    panels = figure.axes[:4]
    assert [axes.get_xlabel() for axes in panels] == ["defocus / Å", "learning rate", "method", "tilt"]
    assert [axes.get_ylabel() for axes in panels] == ["loss per pattern", "", "", "loss per pattern"]
    assert [axes.get_xscale() for axes in panels] == ["linear", "log", "linear", "linear"]
    (dots,) = panels[0].collections
    np.testing.assert_array_equal(dots.get_offsets(), [[10, 4], [20, 2], [40, 5]])
    np.testing.assert_array_equal(dots.get_array(), [0, 1, 7])
    assert dots.get_clim() == (0, 7)
    np.testing.assert_array_equal(panels[2].collections[0].get_offsets()[:, 0], [0, 2, 0, 1])
    assert [text.get_text() for text in panels[2].get_xticklabels()] == ["adam", "lion", "sgd"]
    best = [points_of(line(axes, "best")).tolist() for axes in panels]
    assert best == [[[20, 2]], [[1e-2, 2]], [[2, 2]], [[2, 2]]]
    places = [axes.get_subplotspec() for axes in panels]
    assert [(place.rowspan.start, place.colspan.start) for place in places] == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 0),
    ]
    assert [axes.get_legend() is not None for axes in panels] == [True, False, False, False]
    assert figure.axes[4].get_ylabel() == "trial"


def test_truth_values_are_words_and_not_numbers() -> None:
    axes = plot_slices(
        {"flip": [True, False, None]}, [3.0, 1.0, 2.0], numbers=[0, 1, 2], objective="loss", units={}
    ).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["False", "None", "True"]
    np.testing.assert_array_equal(axes.collections[0].get_offsets(), [[2, 3], [0, 1], [1, 2]])


def test_contours_between_trials_where_there_are_enough() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.uniform(1, 9, 8), 10.0 ** rng.uniform(-3, 0, 8)
    v = (x - 4) ** 2 + y
    pair = {"defocus": x, "rate": y}
    figure = plot_contour(pair, v, "loss", {"defocus": "Å"}, ["rate"])
    axes, bar = figure.axes
    assert labels(axes) == ("defocus / Å", "rate") and bar.get_ylabel() == "loss per pattern"
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")
    contours, dots = axes.collections[0], axes.collections[-1]
    np.testing.assert_array_equal(dots.get_offsets(), np.stack([x, y], axis=1))
    np.testing.assert_array_equal(dots.get_array(), v)
    assert len(axes.collections) > 1
    path_points = np.concatenate([path.vertices for path in contours.get_paths() if len(path.vertices)])
    assert x.min() - 1e-9 <= path_points[:, 0].min() and path_points[:, 0].max() <= x.max() + 1e-9
    best = int(v.argmin())
    np.testing.assert_array_equal(points_of(line(axes, "best")), [[x[best], y[best]]])
    few = plot_contour({"a": x[:5], "b": y[:5]}, v[:5], "loss", {})
    assert len(few.axes[0].collections) == 1, "five trials are too few"
    on_a_line = plot_contour({"a": x, "b": 2 * x}, v, "loss", {})
    assert len(on_a_line.axes[0].collections) == 1, "no area between trials on a line"
    six = plot_contour({"a": x[:6], "b": y[:6]}, v[:6], "loss", {})
    assert len(six.axes[0].collections) > 1


def test_the_objective_over_the_epochs_of_every_trial() -> None:
    figure = plot_epochs([({2: 3.0, 1: 4.0}, False), ({1: 9.0}, True)], "loss")
    axes = panel(figure, "trials over their epochs")
    assert labels(axes) == ("finished epochs", "loss per pattern")
    np.testing.assert_array_equal(points_of(axes.lines[0]), [[1, 4], [2, 3]])
    np.testing.assert_array_equal(points_of(axes.lines[1]), [[1, 9]])
    assert [one.get_linestyle() for one in axes.lines] == ["-", "--", "-", "--"]
    assert [one.get_label() for one in axes.lines[2:]] == ["complete", "pruned"]
