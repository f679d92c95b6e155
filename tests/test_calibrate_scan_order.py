"""The order of the scan: snakes, exchanged axes and dropped frames are found where the evidence is clear."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from calibration_data import as_snake, by_columns, flat_scan, simulated_scan

from pypty.calibrate import everything, orientation, scan_order
from pypty.calibrate.confirm import confirm
from pypty.calibrate.dropped import _Search, find_dropped, search_problem
from pypty.calibrate.neighbours import features, likeness, odds
from pypty.data.scan import SCAN_ORDERS, points_of_patterns, stored_patterns, visits
from pypty.errors import ParameterError
from pypty.experiment import Experiment
from pypty.initialize import append_exp_params

SQUARE, OBLONG = (14, 14), (12, 17)


@pytest.mark.parametrize("kind", ["atoms", "lattice"])
@pytest.mark.parametrize("size", [SQUARE, OBLONG])
@pytest.mark.parametrize("C10_A", [90.0, 0.0])
def test_the_order_is_found_and_nothing_changes_where_it_is_right(
    kind: str, size: tuple[int, int], C10_A: float
) -> None:
    clean = simulated_scan(size, kind, C10_A=C10_A, seed=sum(size))
    found = scan_order(clean)
    assert found.values["order"] == "rows" and not found.params and not found.values["contradicts"]
    assert not found.values["unsure"], found.text
    snake = scan_order({**clean, "dataset": as_snake(clean["dataset"], size)})
    assert dict(snake.params) == {"scan_order": "snake"} and snake.values["contradicts"]
    assert snake.values["across"]["snake"] > 2 * snake.values["across"]["rows"]
    right = scan_order({**clean, "dataset": as_snake(clean["dataset"], size), "scan_order": "snake"})
    assert not right.params and not right.values["contradicts"]
    if size[0] != size[1]:
        columns = scan_order({**clean, "dataset": by_columns(clean["dataset"], size)})
        assert dict(columns.params) == {"scan_order": "columns"}
        assert "or scan_size is [17, 12]" in columns.text


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"size": (4, 4)}, "4 x 4 points are few"),
        ({"size": (8, 8)}, "8 x 8 points are few"),
        ({"kind": "vacuum"}, "hardly alike"),
        ({"dose": 60.0}, "hardly alike"),
    ],
)
@pytest.mark.parametrize("snake", [False, True])
def test_weak_evidence_is_said_and_nothing_is_suggested(
    changes: dict[str, Any], reason: str, snake: bool
) -> None:
    params = simulated_scan(**changes, seed=3)
    if snake:
        params["dataset"] = as_snake(params["dataset"], tuple(params["scan_size"]))
    found = scan_order(params)
    assert not found.params
    assert any(reason in text for text in found.values["unsure"]) and "UNSURE" in found.text


def test_a_crystal_whose_rows_are_half_a_period_apart_is_no_snake() -> None:
    """Neighbouring rows are unlike, and by chance alike when they are read backwards."""
    rows, columns = np.indices((14, 14))
    wave = np.cos(np.pi * (rows + (columns - 6.5) / 6.5))
    kept = np.stack([wave, np.roll(wave, 1, axis=1)], axis=-1).reshape(196, 2)
    kept /= np.linalg.norm(kept, axis=1, keepdims=True)
    plain = likeness(kept, stored_patterns("rows", (14, 14)).reshape(14, 14))
    snake = likeness(kept, stored_patterns("snake", (14, 14)).reshape(14, 14))
    assert snake.mean_across > plain.mean_across and plain.along > 0.5
    assert odds(snake.across, plain.across, True) > 5
    assert snake.mean_across < 0.5 * snake.along


@pytest.mark.parametrize("order", SCAN_ORDERS)
@pytest.mark.parametrize("missing", [None, [0, 7, 8, 19]])
def test_points_and_patterns_are_inverse(order: str, missing: list[int] | None) -> None:
    size = (4, 5)
    stored = stored_patterns(order, size, None if missing is None else np.array(missing))
    points = points_of_patterns(order, size, None if missing is None else np.array(missing))
    assert len(points) == 20 - len(missing or [])
    np.testing.assert_array_equal(stored[points], np.arange(len(points)))
    np.testing.assert_array_equal(np.sort(visits(order, size)), np.arange(20))
    lost = np.flatnonzero(stored < 0)
    np.testing.assert_array_equal(np.sort(visits(order, size)[missing or []]), lost)


def test_the_four_orders_are_what_they_are_called() -> None:
    assert visits("rows", (2, 3)).tolist() == [0, 1, 2, 3, 4, 5]
    assert visits("snake", (2, 3)).tolist() == [0, 1, 2, 5, 4, 3]
    assert visits("columns", (2, 3)).tolist() == [0, 3, 1, 4, 2, 5]
    assert visits("snake_columns", (2, 3)).tolist() == [0, 3, 4, 1, 2, 5]


@pytest.mark.parametrize("order", ["snake", "columns", "snake_columns"])
def test_an_experiment_reads_its_raster_row_by_row_whatever_the_order(order: str) -> None:
    clean = simulated_scan(OBLONG, seed=1)
    lost = np.array([5, 6, 100])
    path = visits(order, OBLONG)
    data = np.delete(clean["dataset"][path], lost, axis=0)
    stored = {**clean, "dataset": data, "scan_order": order, "missing_patterns": lost}
    experiment = Experiment.from_params({**stored, "sequence": np.arange(1, len(data))})
    together = np.concatenate([patterns for _, patterns in experiment.chunks(largest_bytes=2**16)])
    gone = np.r_[path[lost], path[0]]
    kept = np.setdiff1d(np.arange(len(path)), gone)
    np.testing.assert_array_equal(together[kept], clean["dataset"][kept])
    np.testing.assert_allclose(
        together[gone], np.broadcast_to(experiment.mean_pattern, (4, 40, 40)), rtol=1e-6
    )
    assert experiment.n_patterns == 204 and experiment.left_out.sum() == 4
    given = {key: value for key, value in stored.items() if key != "positions"}
    positions = append_exp_params({**given, "PLRotation_deg": 0.0, "data_pad": 0})["positions"]
    np.testing.assert_allclose(positions, clean["positions"][np.delete(path, lost)], atol=1e-3)


@pytest.mark.parametrize(
    ("size", "seed", "gaps"),
    [(SQUARE, 5, [(60, 4)]), (OBLONG, 6, [(120, 6)]), (OBLONG, 8, [(60, 3), (150, 2)])],
)
def test_dropped_frames_are_found_within_a_quarter_of_a_line(
    size: tuple[int, int], seed: int, gaps: list[tuple[int, int]]
) -> None:
    clean = simulated_scan(size, dose=2e4, seed=seed)
    lost = np.concatenate([np.arange(first, first + n) for first, n in gaps])
    params = {**clean, "dataset": np.delete(clean["dataset"], lost, axis=0)}
    found = scan_order(params)
    assert np.abs(found.values["missing"] - lost).mean() <= size[1] / 4
    if not found.values["unsure"]:
        np.testing.assert_array_equal(found.params["missing_patterns"], found.values["missing"])
        again = scan_order(found.apply(params))
        assert not again.params and len(again.values["missing"]) == len(lost)
    else:
        assert "missing_patterns" not in found.params


def test_a_scan_that_was_stopped_early_lacks_its_end() -> None:
    clean = simulated_scan(OBLONG, "lattice", dose=2e4, seed=12)
    found = scan_order({**clean, "dataset": clean["dataset"][:-9]})
    np.testing.assert_array_equal(found.params["missing_patterns"], np.arange(195, 204))


@pytest.mark.parametrize("asked", [scan_order, everything])
def test_a_mistyped_scan_size_is_said_without_a_search(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Experiment, "chunks", lambda *_: pytest.fail("patterns are read"))
    params = {**flat_scan(), "dataset": np.ones((64, 8, 8)), "scan_size": [12, 8]}
    with pytest.raises(
        ParameterError, match=r"\(12, 8\) has 96 points, but the data have 64 .* is probably wrong"
    ):
        asked(params)


def test_a_search_is_bounded_by_the_share_of_missing_points_and_by_its_work() -> None:
    assert search_problem(16384, 8, (128, 129), [True, True, False, False]) is None
    assert "33 % of the points" in str(search_problem(16384, 8, (192, 128), [True]))
    assert "more than half a minute" in str(search_problem(1000 * 1000, 8, (1000, 1001), [True]))


def test_the_score_is_the_sum_over_neighbours_that_both_have_a_pattern() -> None:
    kept = np.random.default_rng(3).normal(size=(17, 4))
    search, missing = _Search(kept, "snake", (4, 5), True), np.array([6, 7, 12])
    points = stored_patterns("snake", (4, 5), missing).reshape(4, 5)
    pairs = [*zip(points[:, 1:].flat, points[:, :-1].flat, strict=True)]
    pairs += zip(points[1:].flat, points[:-1].flat, strict=True)
    wanted = sum(kept[a] @ kept[b] - search.typical / 2 for a, b in pairs if min(a, b) >= 0)
    assert search.score([(6, 2), (10, 1)]) == pytest.approx(wanted)


def test_frames_that_are_dropped_where_nothing_is_are_not_placed() -> None:
    clean = simulated_scan(kind="vacuum", seed=2)
    found = scan_order({**clean, "dataset": np.delete(clean["dataset"], [50, 51], axis=0)})
    assert not found.params and found.values["unsure"]
    with pytest.raises(ParameterError, match="(?s)missing_patterns.*UNSURE"):
        everything({**clean, "dataset": np.delete(clean["dataset"], [50, 51], axis=0)})


def test_numbers_of_points_and_patterns_must_agree() -> None:
    params = simulated_scan(SQUARE)
    short = {**params, "dataset": params["dataset"][:-3]}
    with pytest.raises(
        ParameterError, match="196 points, but the data have 193 patterns; if frames were dropped"
    ):
        Experiment.from_params(short)
    with pytest.raises(ParameterError, match="missing_patterns names 2 of the points"):
        Experiment.from_params({**short, "missing_patterns": [3, 4]})
    with pytest.raises(
        ParameterError, match="names points from 3 to 196, but the scan has the points 0 to 195"
    ):
        Experiment.from_params({**short, "missing_patterns": [3, 4, 196]})
    with pytest.raises(ParameterError, match="scan_order: scan_size .* has 16 points"):
        scan_order({**params, "scan_size": [4, 4]})
    with pytest.raises(ParameterError, match="no patterns were given"):
        scan_order({"scan_size": [4, 4]})


def test_features_of_patterns_that_are_left_out_are_zero() -> None:
    experiment = Experiment.from_params({**simulated_scan((6, 6)), "sequence": np.arange(1, 36)})
    kept = features(experiment)
    assert kept.shape == (36, 8) and not kept[0].any()
    np.testing.assert_allclose(np.linalg.norm(kept[1:], axis=1), 1)


def test_a_search_prefers_the_gap_that_keeps_lines_alike() -> None:
    kept = np.random.default_rng(0).normal(size=(12, 1, 4)) * 0.1 + np.random.default_rng(1).normal(
        size=(1, 15, 4)
    )
    kept = (kept / np.linalg.norm(kept, axis=2, keepdims=True)).reshape(180, 4)
    found = find_dropped(np.delete(kept, [80, 81, 82], axis=0), "rows", (12, 15), True)
    assert found.sure and found.missing.tolist() == [80, 81, 82]


def test_a_transposed_square_scan_is_a_mirrored_one() -> None:
    """The patterns cannot tell exchanged axes from a flipped detector; a given rotation can."""
    params = simulated_scan((12, 12), dose=2e4, seed=4, C10_A=110.0)
    turned = {**params, "dataset": by_columns(params["dataset"], (12, 12)), "extra_probe_defocus": 110.0}
    found = orientation(turned, quick=True)
    assert found.values["flip_ky"] is True and not found.values["unsure"]
    assert abs(found.values["exchanged_deg"]) < 5 and "scan_order = 'columns'" in found.text
    given = orientation({**turned, "PLRotation_deg": 0.0}, quick=True)
    assert given.params["scan_order"] == "columns" and "flip_ky" not in given.params
    after = orientation(given.apply(turned), quick=True)
    assert after.values["flip_ky"] is False and after.values["exchanged_deg"] is None


@pytest.mark.parametrize("kind", ["atoms", "lattice"])
def test_a_believed_orientation_is_confirmed_or_refuted(kind: str) -> None:
    params = simulated_scan((14, 14), kind, dose=2e4, seed=9)
    right = confirm(params, 0.0)
    assert right.values["agrees"] and not right.values["unsure"], right.text
    for angle, mirrored in ((90.0, False), (45.0, False), (0.0, True), (30.0, True)):
        wrong = confirm(params, angle, mirrored)
        assert not wrong.values["agrees"] and not wrong.values["unsure"], wrong.text


def test_orientation_is_unsure_where_the_evidence_is_weak() -> None:
    for changes, reason in (
        ({"size": (8, 8)}, "8 x 8 scan points are few"),
        ({"kind": "vacuum", "size": (10, 10)}, "the curl alone decides"),
        ({"dose": 60.0, "size": (10, 10)}, "the curl alone decides"),
    ):
        params = simulated_scan(**changes, seed=2)
        found = orientation(params, quick=True)
        assert any(reason in text for text in found.values["unsure"]), changes
        assert "UNSURE" in found.text and found.figure is None
        assert confirm(params, 0.0).values["unsure"], changes


def test_constant_patterns_have_no_order() -> None:
    assert scan_order(flat_scan()).values["unsure"]
