"""params.yaml is read again while a reconstruction runs: good edits count from the next epoch, others are reported."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from first_order_problems import first_order
from problems import N_PATTERNS, scan_positions, small_params, two_slices

import pypty
from pypty.engine.epochs.loop import Reconstruction, State
from pypty.engine.record.folder import RunFolder
from pypty.engine.setup.prepare import prepare
from pypty.engine.setup.sequences import problems_from
from pypty.output.loss_log import LOSS_LOG, EpochRecord, read_loss_log
from pypty.output.settings_file import NAME
from pypty.params.schedule import make_schedule
from pypty.params.schema import SCHEMA

Edit = Callable[[str], str]
EDITED_AFTER = 2
"""The file is edited after this epoch, so that the edit counts from the next one."""


@contextmanager
def reconstruction(params: dict[str, Any]) -> Iterator[tuple[Reconstruction, RunFolder]]:
    setup = prepare(params)
    try:
        state = State(variables=setup.variables(), epoch=setup.settings.first_epoch)
        run = Reconstruction(setup, state)
        yield run, RunFolder(Path(params["output_folder"]), run, "test")
    finally:
        setup.close()


def run_with_edit(folder: Path, edit: Edit, **changes: Any) -> Reconstruction:
    """Six epochs; ``edit`` turns the text of params.yaml into another one after epoch 2."""
    params = {"output_folder": str(folder), "epoch_max": 6, **changes}
    params = two_slices(**params) if "num_slices" in params else small_params(**params)
    with reconstruction(params) as (run, writer):
        reload = writer.open()
        for record in run.epochs(reload):
            writer.epoch_done(record)
            if record.epoch == EDITED_AFTER:
                write_edit(folder / NAME, edit)
        writer.close()
    return run


def write_edit(path: Path, edit: Edit) -> None:
    text = edit(path.read_text(encoding="utf-8"))
    path.write_text(text, encoding="utf-8")
    os.utime(
        path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 10**9)
    )  # clocks of files can be coarse


def set_value(key: str, value: str) -> Edit:
    """Replace the entry of a key, also where it goes over several lines."""

    def edit(text: str) -> str:
        new, count = re.subn(rf"^{key}:.*\n(?:[ -].*\n)*", f"{key}: {value}\n", text, flags=re.MULTILINE)
        assert count == 1, key
        return new

    return edit


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def summary(records: list[EpochRecord]) -> list[tuple[Any, ...]]:
    return [(r.epoch, r.loss, r.step, r.first_step, r.blocks) for r in records]


def untouched() -> Reconstruction:
    with reconstruction(small_params(output_folder="unused", epoch_max=6)) as (run, _):
        list(run.epochs())
    return run


@pytest.fixture(scope="module")
def unedited() -> list[EpochRecord]:
    return untouched().state.records


# ---------------------------------------------------------------------------------------------------- good edits

GOOD: dict[str, tuple[str, Any]] = {
    "update_probe": ("false", lambda epoch: epoch <= EDITED_AFTER),
    "update_probe_pos": ("true", lambda epoch: epoch > EDITED_AFTER),
    "update_obj": ("'lambda x: x != 4'", lambda epoch: epoch != 4),
    "update_step_bfgs": ("0.125", lambda epoch: 1.0 if epoch <= EDITED_AFTER else 0.125),
    "hist_length": ("0", lambda epoch: 10 if epoch <= EDITED_AFTER else 0),
    "loss_weight": ("mean", lambda epoch: 1.0 if epoch <= EDITED_AFTER else "mean"),
    "wolfe_c1_constant": ("0.3", lambda epoch: 0.1 if epoch <= EDITED_AFTER else 0.3),
    "wolfe_c2_constant": ("0.2", lambda epoch: 0.9 if epoch <= EDITED_AFTER else 0.2),
    "reset_history_flag": ("x % 2 == 0", lambda epoch: epoch > EDITED_AFTER and epoch % 2 == 0),
    "sequence": ("[0, 1, 2, 10]", lambda epoch: None if epoch <= EDITED_AFTER else [0, 1, 2, 10]),
    "propmethod": ("yoshida", lambda epoch: "multislice" if epoch <= EDITED_AFTER else "yoshida"),
    "phase_only_obj": ("true", lambda epoch: epoch > EDITED_AFTER),
    "obj_parametrization": (
        "amplitude_phase",
        lambda epoch: "complex" if epoch <= EDITED_AFTER else "amplitude_phase",
    ),
    "tune_only_probe_abs": ("epoch > 3", lambda epoch: epoch > max(EDITED_AFTER, 3)),
    "atv_weight": ("0.1 * epoch", lambda epoch: 0.0 if epoch <= EDITED_AFTER else 0.1 * epoch),
    "apply_gaussian_filter": (
        "[0.5, 1.0]",
        lambda epoch: False if epoch <= EDITED_AFTER else np.array([0.5, 1.0]),
    ),
    "do_charge_flip": ("epoch == 4", lambda epoch: epoch == 4),
    "restart_from_vacuum": ("epoch == 3", lambda epoch: epoch == 3),
}
POSITIONS = scan_positions() + np.random.default_rng(1).uniform(-0.4, 0.4, (N_PATTERNS, 2))
"""Off the grid, so that the model has the same stages with and without refinement of positions."""


@pytest.mark.parametrize("key", GOOD)
def test_an_edit_counts_from_the_next_epoch(
    key: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The run is that of a schedule that changes there."""
    text, schedule = GOOD[key]
    edited = run_with_edit(tmp_path, set_value(key, text), positions=POSITIONS)
    planned = small_params(**{key: schedule}, epoch_max=6, positions=POSITIONS, output_folder="unused")
    with reconstruction(planned) as (expected, _):
        list(expected.epochs())
    assert summary(edited.state.records) == summary(expected.state.records)
    assert np.array_equal(edited.state.variables.obj, expected.state.variables.obj)
    assert not warnings_of(caplog)


@pytest.mark.parametrize("key", GOOD)
def test_an_edit_has_an_effect_at_all(key: str, tmp_path: Path) -> None:
    edited = run_with_edit(tmp_path / "edited", set_value(key, GOOD[key][0]))
    same = run_with_edit(tmp_path / "same", lambda text: text)
    if key == "wolfe_c1_constant":  # a weak condition: it need not decide any step here
        assert edited.settings.at(5)[key] == 0.3
    else:
        assert summary(edited.state.records[3:]) != summary(same.state.records[3:])
    assert summary(edited.state.records[:3]) == summary(same.state.records[:3])


@pytest.mark.parametrize(
    "text",
    [
        "0.5",
        "5e-1",
        "0.25 * 2",
        "'lambda x: 0.5'",
        "1 if epoch < 3 else 0.5",
        "{from_epoch: {0: 1.0, 3: 0.5}}",
        "np.exp(0) / 2",
    ],
)
def test_an_edit_may_be_written_in_every_way(text: str, tmp_path: Path) -> None:
    run = run_with_edit(tmp_path, set_value("update_step_bfgs", text))
    assert [record.first_step for record in run.state.records] == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5]


def test_slice_distances_can_be_switched_on(tmp_path: Path) -> None:
    run = run_with_edit(tmp_path, set_value("update_slice_distances", "true"), num_slices=2)
    assert ["slice_distances" in record.blocks for record in run.state.records] == [False] * 3 + [True] * 3
    assert run.state.variables.slice_distances[0] != 10.0


def test_a_weight_can_be_switched_on_with_what_it_needs(tmp_path: Path) -> None:
    """One alone would be refused; pairs and nested lists are read as in any file."""

    def edit(text: str) -> str:
        for key, value in (
            ("window", "[0.5, 0.7]"),
            ("window_weight", "0.1"),
            ("do_charge_flip", "epoch == 4"),
            ("fancy_sigma", "[[1.0, 0.5], null]"),
        ):
            text = set_value(key, value)(text)
        return text

    run = run_with_edit(tmp_path, edit)
    assert [set(record.terms) for record in run.state.records] == [set()] * 3 + [{"window_weight"}] * 3
    assert all(record.terms["window_weight"] > 0 for record in run.state.records[3:])
    losses = [record.loss for record in run.state.records]
    assert losses[4] > 1.5 * losses[3], "the object was flipped"
    assert run.settings.at(4)["fancy_sigma"] == ((1.0, 0.5), None)


@pytest.mark.parametrize("key", ["update_tilts", "update_beam_current"])
def test_what_cannot_be_switched_on_any_more_says_so(
    key: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Either the block is refined from the next epoch on, or a warning tells that it is not."""
    run = run_with_edit(tmp_path, set_value(key, "true"), num_slices=2)
    block = key.removeprefix("update_")
    told = any(key in text and "ignored" in text for text in warnings_of(caplog))
    assert told or block in run.state.records[-1].blocks


def test_several_values_at_once(tmp_path: Path) -> None:
    def edit(text: str) -> str:
        return set_value("update_probe", "false")(set_value("update_step_bfgs", "0.5")(text))

    run = run_with_edit(tmp_path, edit)
    last = run.state.records[-1]
    assert last.first_step == 0.5 and last.blocks == ("obj",)


def test_an_edit_can_be_taken_back(tmp_path: Path) -> None:
    params = small_params(output_folder=str(tmp_path), epoch_max=6)
    with reconstruction(params) as (run, writer):
        reload = writer.open()
        for record in run.epochs(reload):
            if record.epoch in (1, 3):
                write_edit(
                    tmp_path / NAME, set_value("update_step_bfgs", "0.5" if record.epoch == 1 else "1.0")
                )
    assert [record.first_step for record in run.state.records] == [1.0, 1.0, 0.5, 0.5, 1.0, 1.0]


def test_a_good_edit_beside_a_bad_one_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def edit(text: str) -> str:
        return set_value("hist_length", "-4")(set_value("update_step_bfgs", "0.5")(text))

    run = run_with_edit(tmp_path, edit)
    assert run.state.records[-1].first_step == 0.5
    assert len(warnings_of(caplog)) == 1 and "hist_length" in warnings_of(caplog)[0]


def test_edits_reach_a_whole_run(tmp_path: Path) -> None:
    """Through ``pypty.run``: the file is edited when the log tells the end of an epoch."""

    class Editor(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("epoch 2 "):
                write_edit(tmp_path / NAME, set_value("update_probe", "false"))

    editor = Editor(level=logging.INFO)
    logging.getLogger("pypty").addHandler(editor)
    try:
        pypty.run(small_params(output_folder=str(tmp_path), epoch_max=6, save_checkpoints_every_epoch=1))
    finally:
        logging.getLogger("pypty").removeHandler(editor)
    written = {path.name for path in tmp_path.glob("checkpoint_probe_*")}
    assert written == {f"checkpoint_probe_epoch_{epoch}.npy" for epoch in (0, 1, 2)}
    assert "update_probe is now False" in (tmp_path / "pypty.log").read_text(encoding="utf-8")
    assert len(read_loss_log(tmp_path / LOSS_LOG)) == 6


# ----------------------------------------------------------------------------------------------------- bad edits

BAD: dict[str, tuple[Edit, tuple[str, ...]]] = {
    "broken YAML": (lambda text: text + "\nupdate_obj: [1, 2\n", ("YAML",)),
    "a tab": (lambda text: "\t" + text, ("YAML",)),
    "a list": (lambda text: "- 1\n- 2\n", ("YAML",)),
    "an empty file": (lambda text: "", ("YAML",)),
    "a key twice": (lambda text: text + "\nupdate_obj: false\n", ("update_obj", "twice")),
    "a python tag": (lambda text: text + "\nseed: !!python/object/apply:os.getpid []\n", ("YAML",)),
    "an impossible date": (set_value("sample_name", "2001-99-99"), ("YAML",)),
    "an unknown key": (
        lambda text: text + "\nupdate_object: false\n",
        ("update_object", "not a parameter"),
    ),
    "a fixed key": (set_value("acc_voltage", "300.0"), ("acc_voltage", "cannot change")),
    "the last epoch": (set_value("epoch_max", "4"), ("epoch_max", "cannot change")),
    "a fixed array": (set_value("positions", "[[0.0, 0.0]]"), ("positions", "cannot change")),
    "a wrong type": (set_value("update_obj", "[1, 2]"), ("update_obj", "True/False")),
    "a wrong number": (set_value("update_step_bfgs", "-1"), ("update_step_bfgs", "out of range")),
    "nothing": (set_value("hist_length", ""), ("hist_length", "None")),
    "a word": (set_value("update_probe", "maybe"), ("update_probe", "maybe")),
    "a bad expression": (set_value("update_probe", "'lambda x: y'"), ("update_probe", "'y'")),
    "a forbidden expression": (set_value("update_probe", "'().__class__'"), ("update_probe", "__class__")),
    "an expression that fails later": (
        set_value("update_step_bfgs", "1/(5 - epoch)"),
        ("update_step_bfgs", "epoch 5"),
    ),
    "an expression that is bad later": (
        set_value("update_step_bfgs", "4.5 - epoch"),
        ("update_step_bfgs", "epoch 5"),
    ),
    "a bad table": (set_value("update_obj", "{from_epoch: {a: 1}}"), ("update_obj", "whole epochs")),
    "a table that is bad later": (
        set_value("hist_length", "{from_epoch: {0: 3, 5: -1}}"),
        ("hist_length", "epoch 5"),
    ),
    "a pattern that is not there": (set_value("sequence", "[0, 99]"), ("sequence", "99")),
    "no pattern": (set_value("sequence", "[]"), ("sequence",)),
    "a missing file": (set_value("sequence", "{file: gone.npy}"), ("sequence", "gone.npy")),
    "wolfe c1 above c2": (set_value("wolfe_c1_constant", "0.95"), ("wolfe_c1_constant", "wolfe_c2_constant")),
    "an unknown choice": (set_value("propmethod", "runge_kutta"), ("propmethod", "runge_kutta")),
    "an unknown choice later": (
        set_value("propmethod", "\"'yoshida' if epoch < 5 else 'euler'\""),
        ("propmethod", "epoch 5", "'euler'"),
    ),
    "a fixed choice": (set_value("algorithm", "ml"), ("algorithm", "cannot change")),
    "a fixed number": (set_value("detector_blur_std", "1.0"), ("detector_blur_std", "cannot change")),
    "an infinite weight": (set_value("atv_weight", ".inf"), ("atv_weight", "not finite")),
    "a weight without scan_size": (
        set_value("fast_axis_reg_weight_positions", "0.1"),
        ("fast_axis_reg_weight_positions", "scan_size"),
    ),
    "a weight without window": (set_value("window_weight", "0.1"), ("window_weight", "window is not given")),
    "a window inside out": (set_value("window", "[0.8, 0.5]"), ("window", "0 <= inner <= outer")),
    "a projection without aperture": (
        set_value("probe_reg_constraint_weight", ".inf"),
        ("probe_reg_constraint_weight", "probe_constraint_mask"),
    ),
    "a background that is not there": (
        set_value("update_static_background", "true"),
        ("update_static_background", "nothing to refine"),
    ),
    "aberrations that are not there": (
        set_value("update_aberrations_array", "epoch > 4"),
        ("update_aberrations_array", "nothing to refine"),
    ),
    "a torn scan without scan_size": (
        set_value("puzzle_positions", "true"),
        ("puzzle_positions", "scan_size"),
    ),
    "three widths too many": (
        set_value("apply_gaussian_filter", "[1.0, 1.0, 1.0, 1.0]"),
        ("apply_gaussian_filter", "(4,)"),
    ),
    "a pair that is none": (set_value("fancy_sigma", "[[1.0], null]"), ("fancy_sigma", "(1,)")),
    "a deleted file": (lambda text: "DELETE", ("YAML",)),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_edit_is_reported_and_ignored(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, unedited: list[EpochRecord]
) -> None:
    edit, fragments = BAD[name]
    if name == "a deleted file":
        params = small_params(output_folder=str(tmp_path), epoch_max=6)
        with reconstruction(params) as (run, writer):
            for record in run.epochs(writer.open()):
                if record.epoch == EDITED_AFTER:
                    (tmp_path / NAME).unlink()
    else:
        run = run_with_edit(tmp_path, edit)
    assert summary(run.state.records) == summary(unedited)
    told = warnings_of(caplog)
    assert len(told) == 1, told
    assert all(text in told[0] for text in (*fragments, "ignored", NAME)), told[0]


def test_a_negative_width_does_not_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = run_with_edit(tmp_path, set_value("apply_gaussian_filter", "[-1.0, 1.0]"))
    assert len(run.state.records) == 6
    assert any("apply_gaussian_filter ignored" in text for text in warnings_of(caplog))


def test_of_two_edits_that_exclude_each_other_one_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def edit(text: str) -> str:
        return set_value("tune_only_probe_abs", "true")(set_value("tune_only_probe_phase", "true")(text))

    run = run_with_edit(tmp_path, edit)
    now = run.settings.at(5)
    assert now["tune_only_probe_phase"] != now["tune_only_probe_abs"]
    assert len(warnings_of(caplog)) == 1 and "switch on only one" in warnings_of(caplog)[0]


def test_a_bad_edit_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run_with_edit(tmp_path, set_value("hist_length", "-4"), epoch_max=10)
    assert len(warnings_of(caplog)) == 1


def test_an_edit_can_be_repaired(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """First the file is broken, then it is whole again with a good edit."""
    original = ""
    params = small_params(output_folder=str(tmp_path), epoch_max=6)
    with reconstruction(params) as (run, writer):
        reload = writer.open()
        original = (tmp_path / NAME).read_text(encoding="utf-8")
        for record in run.epochs(reload):
            if record.epoch == 1:
                write_edit(tmp_path / NAME, lambda text: "a: [")
            elif record.epoch == 3:
                write_edit(tmp_path / NAME, lambda text: set_value("update_step_bfgs", "0.5")(original))
    assert [record.first_step for record in run.state.records] == [1.0] * 4 + [0.5] * 2
    assert len(warnings_of(caplog)) == 1


def test_touching_the_file_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, unedited: list[EpochRecord]
) -> None:
    run = run_with_edit(tmp_path, lambda text: text)
    assert summary(run.state.records) == summary(unedited)
    assert not warnings_of(caplog)


def test_comments_and_order_are_no_edit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, unedited: list[EpochRecord]
) -> None:
    def edit(text: str) -> str:
        return "# hello\n" + text.replace("update_obj: true", "update_obj:   true  # still")

    run = run_with_edit(tmp_path, edit)
    assert summary(run.state.records) == summary(unedited)
    assert not warnings_of(caplog)


def test_what_the_run_writes_itself_is_no_edit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pypty.run(
        small_params(
            output_folder=str(tmp_path),
            sequence=np.arange(N_PATTERNS - 1),
            update_probe=lambda epoch: epoch > 1,
            update_step_bfgs={"from_epoch": {0: 1.0, 2: 0.5}},
        )
    )
    assert not warnings_of(caplog)
    assert "edit of" not in (tmp_path / "pypty.log").read_text(encoding="utf-8")


def test_a_resumed_run_keeps_an_edit(tmp_path: Path) -> None:
    """The edited file is what a folder that is resumed by its path starts from."""
    run_with_edit(tmp_path, set_value("update_probe", "false"))
    assert pypty.load_preset(tmp_path)["update_probe"] is False


def test_an_edit_with_such_options_is_refused() -> None:
    """Instead of ending the run at its next epoch."""
    setup = prepare(first_order())
    edit = make_schedule(SCHEMA["optimizer_options"], {"betas": [0.9, 2.0]})
    edited = setup.settings.with_schedules({"optimizer_options": edit})
    assert any("betas" in text for text in problems_from(setup, edited, 1))
    assert not problems_from(setup, setup.settings, 1)
    setup.close()


def test_two_edits_that_are_good_only_together(tmp_path: Path) -> None:
    """c1 and c2 are raised at once: c1 alone would be above the old c2."""
    seen: list[float] = []

    class Editor(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("epoch 1 "):
                path = tmp_path / "params.yaml"
                text = path.read_text().replace("wolfe_c1_constant: 0.1", "wolfe_c1_constant: 0.92")
                path.write_text(text.replace("wolfe_c2_constant: 0.9\n", "wolfe_c2_constant: 0.95\n"))
            seen.append(record.levelno)

    editor = Editor(level=logging.INFO)
    logging.getLogger("pypty").addHandler(editor)
    try:
        pypty.run(small_params(output_folder=str(tmp_path), epoch_max=4))
    finally:
        logging.getLogger("pypty").removeHandler(editor)
    log = (tmp_path / "pypty.log").read_text(encoding="utf-8")
    assert "wolfe_c1_constant is now 0.92" in log and "wolfe_c2_constant is now 0.95" in log
    assert "ignored" not in log
