"""Blocks that cannot move: the run says so, goes on without them, and lets them go again."""

from __future__ import annotations

import numpy as np
from first_order_problems import done
from problems import N_PATTERNS, small_params

import pypty
from pypty.engine.epochs.stuck import BlockMonitor, next_to_freeze


def test_a_block_that_is_not_still_any_more_does_not_explain_a_stop() -> None:
    """Positions over a vacuum are told to be stuck in the first epochs; the reason for the end is another one."""
    result = pypty.run(
        small_params(
            update_obj="epoch >= 4",
            update_probe=False,
            update_probe_pos=True,
            epoch_max=400,
            default_dtype="single",
        )
    )
    assert any("'positions' is stuck" in text for text in result.warnings)
    assert "vacuum" not in result.stop_reason
    assert result.stop_reason.startswith("no step") and len(result.epochs) < 400
    assert not any(decision.startswith("epoch 4") for decision in result.decisions), "the object joined in"


def test_rejected_updates_of_lbfgs_do_not_end_what_follows() -> None:
    """L-BFGS that is stuck, because its steps are far too long; then Adam."""
    run = done(
        optimizer="lambda x: 'lbfgs' if x < 5 else 'adam'",
        epoch_max=9,
        freeze_stuck_blocks=False,
        max_count=1,
        update_step_bfgs="lambda x: 1e6 if x >= 2 else 1.0",
    )
    assert [record.step for record in run.state.records[2:5]] == [0, 0, 0]
    assert run.state.stop_reason == "epoch_max = 9 was reached"


def test_blocks_that_lbfgs_has_frozen_move_again() -> None:
    """Adam has no line search that they could stop; nor does it freeze any for what L-BFGS could not do."""
    run = done(
        optimizer="lambda x: 'lbfgs' if x < 5 else 'adam'",
        epoch_max=8,
        update_probe_pos=True,
        max_count=1,
        update_step_bfgs="lambda x: 1e6 if x >= 2 else 1.0",
    )
    blocks = [record.blocks for record in run.state.records]
    assert "positions" not in blocks[4]
    assert all(now == ("obj", "probe", "positions") for now in blocks[5:])


def test_positions_over_vacuum_are_stuck_and_the_run_says_why() -> None:
    result = pypty.run(
        small_params(update_obj=False, update_probe=False, update_probe_pos=True, epoch_max=10)
    )
    assert len(result.epochs) < 10
    assert "block 'positions' is stuck" in result.stop_reason and "vacuum" in result.stop_reason


def test_positions_of_a_scan_along_a_line_are_refined() -> None:
    """The same in a run, in both precisions: 25 points along a line, from a vacuum."""
    line = np.stack([np.zeros(N_PATTERNS), np.arange(N_PATTERNS)], axis=1)
    for precision in ("double", "single"):
        for step in (1.0, 1.5, 2.5):
            given = {"positions": step * line, "default_dtype": precision, "epoch_max": 8}
            result = pypty.run(small_params(**given, update_probe_pos=True))
            assert np.abs(result.positions - step * line).max() > 1e-4, (precision, step)


def test_positions_are_frozen_first_and_the_object_never() -> None:
    assert next_to_freeze(["obj", "probe", "positions", "tilts"]) == "positions"
    assert next_to_freeze(["obj", "probe"]) == "probe"
    assert next_to_freeze(["obj"]) is None and next_to_freeze([]) is None


def test_a_still_block_is_told_once_after_some_patience() -> None:
    monitor = BlockMonitor(patience=3)
    assert monitor.watch({"probe"}, False) == [] and monitor.watch({"probe"}, False) == []
    (told,) = monitor.watch({"probe", "positions"}, False)
    assert told.startswith("block 'probe' is stuck: its gradient promises no decrease")
    assert monitor.watch({"probe"}, True) == []
    assert monitor.watch(set(), False) == [] and monitor.still == {}
    (told,) = monitor.watch({"positions"}, True)
    assert "'positions' is stuck" in told and set(monitor.told) == {"probe", "positions"}
