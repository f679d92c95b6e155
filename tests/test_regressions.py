"""What an independent review found, held fast: one test for each mend that no other test covers."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pytest
from problems import N_PATTERNS, patterns, scan_positions, small_params, smooth_object

import pypty
from pypty.cli import main
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.problem import Problem
from pypty.errors import (
    CheckpointError,
    DataError,
    ParameterError,
    PyptyError,
    ReconstructionError,
    ResourceError,
)
from pypty.optimize.lbfgs import Lbfgs, Pair
from pypty.optimize.vector import BlockVector
from pypty.output.loss_log import EpochRecord, read_loss_log


def test_a_run_goes_on_after_a_position_moved_below_zero(tmp_path: Path) -> None:
    """The smallest position starts at 0, so refinement easily takes one below."""
    pypty.run(small_params(output_folder=str(tmp_path), epoch_max=2))
    refined = np.load(tmp_path / "cg.npy")
    refined[:3] -= 0.8
    np.save(tmp_path / "cg.npy", refined)
    result = pypty.run({**small_params(epoch_max=3), **pypty.load_checkpoint(tmp_path), "output_folder": ""})
    np.testing.assert_array_equal(result.start_positions, refined)


def test_a_given_object_stays_where_its_positions_are() -> None:
    """An object with a rim of 5 px, and positions that know about it."""
    rim = 5
    wide = np.pad(smooth_object(), ((rim, 0), (rim, 0), (0, 0), (0, 0)), constant_values=1)
    plain = small_params(obj=smooth_object())
    moved = small_params(obj=wide, positions=scan_positions() + rim)
    # The rim changes the band limit of the object a little; a wrong place changes the loss a hundredfold.
    assert (
        pypty.evaluate(moved).loss < 2 * pypty.evaluate(plain).loss < pypty.evaluate(small_params()).loss / 10
    )


def test_simulating_outside_the_field_of_view_is_refused() -> None:
    with pytest.raises(ParameterError, match="use_full_FOV"):
        pypty.simulate(small_params(use_full_FOV=False, sequence=[0, 1]))


def test_rows_before_epoch_prev_survive_a_resume(tmp_path: Path) -> None:
    pypty.run(small_params(output_folder=str(tmp_path), epoch_max=2))
    params = {**small_params(output_folder=str(tmp_path)), **pypty.load_checkpoint(tmp_path)}
    pypty.run({**params, "epoch_max": 4})
    pypty.run({**params, "epoch_max": 6, "resume": True})
    assert [int(row["epoch"]) for row in read_loss_log(tmp_path / "loss.csv")] == list(range(6))


@pytest.mark.parametrize("error", [MemoryError("full"), ReconstructionError("the loss is nan")])
def test_a_failing_run_keeps_its_finished_epochs(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even when checkpoints are written only at the end; and running out of memory is our error."""
    original = Reconstruction._observe

    def fails(self: Reconstruction, problem: Problem, record: EpochRecord) -> None:
        if self.state.epoch == 3:
            raise error
        original(self, problem, record)

    params = small_params(output_folder=str(tmp_path), epoch_max=6, save_inter_checkpoints=0)
    with monkeypatch.context() as patch:
        patch.setattr(Reconstruction, "_observe", fails)
        with pytest.raises(ResourceError if isinstance(error, MemoryError) else ReconstructionError):
            pypty.run(params)
    resumed = pypty.run({**params, "resume": True})
    assert resumed.epochs.tolist() == list(range(6))
    np.testing.assert_array_equal(resumed.obj, pypty.run({**params, "output_folder": ""}).obj)


@pytest.mark.parametrize(("value", "dtype"), [(-1.0, "uint16"), (np.nan, "int32"), (1e6, "uint16")])
def test_a_cast_that_would_change_values_is_refused(value: float, dtype: str) -> None:
    data = patterns().copy()
    data[3, 2, 1] = value
    with pytest.raises(ParameterError, match="force_dataset_dtype"):
        pypty.run(small_params(dataset=data, force_dataset_dtype=dtype, detector_mask="nan"))
    assert issubclass(DataError, PyptyError)


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


def test_positions_over_vacuum_are_stuck_and_the_run_says_why() -> None:
    result = pypty.run(
        small_params(update_obj=False, update_probe=False, update_probe_pos=True, epoch_max=10)
    )
    assert len(result.epochs) < 10
    assert "block 'positions' is stuck" in result.stop_reason and "vacuum" in result.stop_reason


@pytest.mark.parametrize("key", ["acc_voltage", "pixel_size_x_A", "pixel_size_y_A"])
def test_a_forgotten_physical_constant_is_mentioned(key: str) -> None:
    params = small_params()
    assert not [text for text in pypty.check(params).warnings if text.startswith(key)]
    del params[key]
    assert [text for text in pypty.check(params).warnings if text.startswith(key)]


def test_counts_beyond_the_band_limit_are_mentioned() -> None:
    flat = np.full((N_PATTERNS, 16, 16), 10.0)
    assert "beyond the band limit" in str(pypty.check(small_params(dataset=flat)))
    assert "beyond the band limit" not in str(pypty.check(small_params()))


def test_a_reciprocal_pixel_that_contradicts_is_mentioned() -> None:
    pixel = small_params()["pixel_size_x_A"]
    right = 1 / (16 * pixel)
    assert "rez_pixel_size_A" not in str(pypty.check(small_params(rez_pixel_size_A=right)))
    assert "rez_pixel_size_A" in str(pypty.check(small_params(rez_pixel_size_A=2 * right)))


def test_bad_counts_are_reported_beside_a_typo() -> None:
    report = str(pypty.check(small_params(dataset=patterns() - 1e3, epoch_mx=3)))
    assert "epoch_max" in report and "negative" in report


def test_numbers_on_the_command_line_are_read_as_in_files(capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", "mos2_demo", "--set", "min_step=1e-3"])
    assert "min_step" not in capsys.readouterr().out


def test_the_demo_with_other_padding_has_other_pixels(tmp_path: Path) -> None:
    from pypty.demo import demo_params

    assert demo_params(data_pad=0)["pixel_size_x_A"] == pytest.approx(0.278827, rel=1e-5)
    assert demo_params()["pixel_size_x_A"] == pytest.approx(0.278827 * 64 / 96, rel=1e-5)
    assert main(["demo", "--output", str(tmp_path), "--set", "output_folder=x"]) == 1


def test_a_data_set_larger_than_wanted_is_read_only_where_it_is_wanted() -> None:
    """4-D data: a few patterns of one scan row, not whole rows."""

    class Counting:
        shape, dtype, ndim = (4, 50, 16, 16), np.dtype(np.uint8), 4

        def __init__(self) -> None:
            self.read = 0

        def __getitem__(self, key: tuple) -> np.ndarray:
            row, columns = key
            self.read += columns.stop - columns.start
            return np.zeros((columns.stop - columns.start, 16, 16), np.uint8)

    from pypty.data.sources import ArraySource

    array = Counting()
    assert ArraySource(array).read(np.array([48, 49, 50, 51, 120])).shape == (5, 16, 16)
    assert array.read == 5


def test_every_pattern_of_every_epoch_is_looked_at() -> None:
    """A NaN in a pattern that only a later epoch uses must not stop the run half way."""
    data = patterns().copy()
    data[20, 0, 0] = np.nan
    with pytest.raises(ParameterError, match="pattern 20"):
        pypty.run(small_params(dataset=data, sequence="range(10) if epoch < 2 else range(25)", epoch_max=4))
    assert pypty.check(
        small_params(dataset=data, sequence="range(10) if epoch < 2 else range(15)", epoch_max=4)
    )


def test_dark_pixels_of_the_poisson_model_do_not_depend_on_the_batches() -> None:
    """A sharp probe leaves most of the detector dark: each such pixel counts the same, whatever it is computed with.

    Two windows on flat parts of the object, one of half the amplitude: their brightest pixels differ.
    """
    mask = np.zeros((16, 16))
    mask[7:10, 7:10] = 1
    obj = np.where(np.arange(60) < 30, 1.0, 0.5)[None, :, None, None] * np.ones((16, 1, 1, 1))
    start = {"dataset": patterns()[:2], "positions": [[0.0, 0.0], [0.0, 40.0]], "obj": obj, "algorithm": "ml"}
    start |= {"probe": "aperture", "aperture_mask": mask, "skip_preprocessing": True}
    alone, together = (pypty.evaluate(small_params(compute_batch=size, **start)).loss for size in (1, 2))
    assert alone == pytest.approx(together, rel=1e-12)


def test_a_resumed_run_keeps_its_windows(tmp_path: Path) -> None:
    """Other positions would place the windows elsewhere than the refined ones that are resumed."""
    pypty.run(small_params(output_folder=str(tmp_path), epoch_max=2))
    other = {"positions": scan_positions()[::-1].copy(), "output_folder": str(tmp_path), "resume": True}
    with pytest.raises(CheckpointError, match="positions given now"):
        pypty.run(small_params(epoch_max=4, **other))


def test_what_a_key_does_is_not_exaggerated(capsys: pytest.CaptureFixture[str]) -> None:
    """Keys that most runs do not notice say what has to be there for them."""
    for key, needs in (("seed", "mc_n_modes"), ("scan_size", "weights of positions"), ("tilt_mode", "tilts")):
        main(["explain", key])
        assert re.search(rf"(?m)^ +effect   when .*{needs}", capsys.readouterr().out), key


def test_a_block_that_could_not_move_at_first_is_not_left_behind() -> None:
    """Over a vacuum the gradient of positions is rounding, 1e-17; so is their first step. It says nothing about how
    far the second one should go, when the object is there and the gradient is 10.
    """
    pair = Pair(
        BlockVector({"obj": np.array([1.0]), "positions": np.array([1e-18])}),
        BlockVector({"obj": np.array([1.0]), "positions": np.array([10.0])}),
    )
    gradient = BlockVector({"obj": np.array([0.0]), "positions": np.array([10.0])})
    direction = Lbfgs([pair]).direction(gradient, lambda vector: vector, 10)
    assert direction["positions"][0] < -1e-3


def test_patterns_that_are_not_used_do_not_reach_the_start() -> None:
    """A NaN in a pattern that is never used; tilts, by which patterns are moved back for the starting probe."""
    data = patterns()
    data[20, 0, 0] = np.nan
    tilted = {"tilts": np.full((N_PATTERNS, 6), 5e-3), "tilt_mode": 2, "probe": None}
    result = pypty.run(small_params(dataset=data, sequence=range(10), **tilted))
    assert np.isfinite(result.probe).all()
    assert result.loss[-1] < result.loss[0]


def test_positions_of_a_scan_along_a_line_are_refined() -> None:
    """The same in a run, in both precisions: 25 points along a line, from a vacuum."""
    line = np.stack([np.zeros(N_PATTERNS), np.arange(N_PATTERNS)], axis=1)
    for precision in ("double", "single"):
        for step in (1.0, 1.5, 2.5):
            given = {"positions": step * line, "default_dtype": precision, "epoch_max": 8}
            result = pypty.run(small_params(**given, update_probe_pos=True))
            assert np.abs(result.positions - step * line).max() > 1e-4, (precision, step)


def test_a_start_has_the_counts_whatever_the_number_of_object_modes() -> None:
    """Every mode of the object passes the whole probe on: two equal ones are as bright as one."""
    one = pypty.evaluate(small_params(obj=smooth_object()))
    twice = np.concatenate([smooth_object()] * 2, axis=3)
    assert pypty.evaluate(small_params(obj=twice)).loss == pytest.approx(one.loss, rel=1e-9)
