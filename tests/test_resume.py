"""Going on with a reconstruction: exactly from resume.h5, or from the arrays with ``epoch_prev``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from problems import (
    N_PATTERNS,
    aperture_probe,
    counts,
    every_block,
    patterns,
    scan_positions,
    small_params,
    smooth_object,
    two_slices,
)
from resumed_runs import assert_identical, in_parts

import pypty
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.quasi_newton import quasi_newton_epoch
from pypty.engine.epochs.state import State
from pypty.engine.record import history_file
from pypty.engine.record.resume_checks import change_of_loss
from pypty.engine.setup.prepare import prepare
from pypty.errors import CheckpointError, OutputError, ParameterError
from pypty.iterative import resume
from pypty.model.blocks import BLOCKS
from pypty.objective.passes import Pass
from pypty.output import files, loss_log
from pypty.output.checkpoints import HISTORY_FILE, RESUME_FILE
from pypty.output.lock import LOCK_FILE
from pypty.output.loss_log import LOSS_LOG, read_loss_log

OFF_GRID = scan_positions() + np.random.default_rng(1).uniform(-0.4, 0.4, (N_PATTERNS, 2))
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "positions off the grid": {"positions": OFF_GRID},
    "positions refined all the time": {"update_probe_pos": True},
    "positions refined from epoch 3": {"update_probe_pos": "lambda x: x >= 3"},
    "positions refined from epoch 6": {"update_probe_pos": "lambda x: x >= 6"},
    "positions refined from epoch 7": {"update_probe_pos": "lambda x: x >= 7"},
    "positions refined from epoch 7 by a function": {"update_probe_pos": lambda epoch: epoch >= 7},
    "positions refined from epoch 7, off the grid": {
        "update_probe_pos": "lambda x: x >= 7",
        "positions": OFF_GRID,
    },
    "positions refined until epoch 5": {"update_probe_pos": "lambda x: x < 5"},
    "probe switched on and off": {"update_probe": "lambda x: x % 4 < 2"},
    "other patterns in every epoch": {"sequence": lambda epoch: np.arange(epoch % 3, N_PATTERNS, 3)},
    "patterns changing at the seam": {"sequence": "range(25) if epoch < 6 else range(20)"},
    "history reset at the seam": {"reset_history_flag": "lambda x: x == 6"},
    "no history": {"hist_length": 0},
    "endless history": {"hist_length": np.inf},
    "short history": {"hist_length": 2},
    "history growing": {"hist_length": "lambda x: 1 + x"},
    "weight changing at the seam": {"loss_weight": "1 if epoch < 6 else 0.5"},
    "one thread per core": {"n_threads": 2, "compute_batch": 4},
    "poisson noise": {"algorithm": "ml", "probe": None},
    "without preconditioner": {"preconditioner": False},
    "object modes": {"obj": smooth_object() * np.exp(1j * np.array([0.0, 0.1]))},
    "object filtered in its windows": {"lazy_clean": True},
    "integer data": {"dataset": counts("uint8"), "data_multiplier": 0.5},
    "padded data": {"data_pad": 3},
    "mask": {"detector_mask": np.tri(16)},
}


KINDS: dict[str, tuple[Callable[..., dict[str, Any]], str]] = {
    "one slice, double": (small_params, "double"),
    "two slices, single": (two_slices, "single"),
    "one slice, single": (small_params, "single"),
    "two slices, double": (two_slices, "double"),
}
# each case with one slice and with two, with double and with single precision
MATRIX = [
    (case, kind)
    for number, case in enumerate(CASES)
    for kind in (list(KINDS)[:2] if number % 2 else list(KINDS)[2:])
]


@pytest.mark.parametrize(("case", "kind"), MATRIX, ids=[", ".join(pair) for pair in MATRIX])
def test_six_and_six_epochs_are_twelve(case: str, kind: str, tmp_path: Path) -> None:
    problem, precision = KINDS[kind]
    changes = dict(CASES[case])
    if problem is two_slices:
        changes = {"update_slice_distances": "lambda x: x >= 4", **changes}
        if "obj" in changes:
            changes["obj"] = changes["obj"].repeat(2, axis=2) ** 0.5
    params = problem(default_dtype=precision, **changes)
    once = pypty.run({**params, "epoch_max": 12})
    assert len(once.epochs) == 12
    assert_identical(in_parts(params, tmp_path, 6, 12), once)


def probe_of_two_modes() -> np.ndarray:
    """Two modes that are not orthogonal, the weaker one first."""
    return np.concatenate([0.3 * aperture_probe(2.0), aperture_probe(0.7)], axis=2)


TWO_MODES_TWICE = np.stack([probe_of_two_modes(), 0.9 * probe_of_two_modes()[..., ::-1]], axis=3)
MASKS = np.random.default_rng(0).random((40, 16, 16))
AWAY = {
    "positions_correction": np.random.default_rng(1).uniform(-1.4, 1.4, (N_PATTERNS, 2)),
    "update_probe_pos": True,
}
"""Positions that begin outside their windows."""
REJECTED = {"update_step_bfgs": "1e6 if epoch < 4 else 1", "min_step": 1e5}
"""Steps that are far too long, and rejected, until epoch 4."""
LINE = np.stack([np.zeros(N_PATTERNS), np.arange(N_PATTERNS)], axis=1)
TORN = LINE + np.where(np.arange(N_PATTERNS)[:, None] >= 15, [[0, 6.0]], 0)
"""A scan along a line that is torn into two pieces."""
EFFECTS: dict[str, dict[str, Any]] = {
    "every block": every_block(),
    "every block, single": every_block(default_dtype="single"),
    "phase of the object only": every_block(phase_only_obj=True),
    "amplitude and phase": every_block(obj_parametrization="amplitude_phase"),
    "fourth order": every_block(propmethod="yoshida"),
    "everything changes on the way": every_block(
        propmethod="'multislice' if epoch < 4 else 'better_multislice'",
        phase_only_obj="epoch >= 5",
        tune_only_probe_phase="epoch >= 7",
        positions_parametrization="'free' if epoch < 3 else 'affine'",
    ),
    "regularisers": every_block(
        scan_size=(5, 5),
        atv_weight=0.1,
        fast_axis_reg_weight_positions=0.1,
        deformation_reg_weight_tilts="1e3 * epoch",
        window=[0.5, 0.7],
        window_weight=0.1,
        probe_mod_reg_weight=0.1,
        scan_step_A=0.8,
        wedge_mu=1e-3,
        beta_wedge=0.5,
    ),
    "amplitude of the probe only": small_params(tune_only_probe_abs=True),
    "affine scan": small_params(update_probe_pos=True, positions_parametrization="affine"),
    "images": small_params(
        recon_type="near_field",
        defocus_array=np.linspace(50, 100, N_PATTERNS),
        alpha_near_field=1e-3,
        positions=[[0.0, 0.0]],
    ),
    "virtual detectors": small_params(
        masks=MASKS, dataset=np.einsum("nyx,dyx->nd", patterns(), MASKS), algorithm="poisson_compressed"
    ),
    "read-out noise": small_params(algorithm="poisson_gaussian", readout_noise=1.0),
    "modes by Monte Carlo": small_params(
        mc_n_modes=3, n_mc_samples=16, focal_spread=30.0, spatial_coh_x_A=0.4
    ),
    "frozen blocks": small_params(**REJECTED, update_probe_pos=True, positions=OFF_GRID),
    "many frozen blocks": every_block(**REJECTED),
    "orthogonal modes": small_params(probe=probe_of_two_modes(), keep_probe_states_orthogonal=True),
    "orthogonal modes later": small_params(
        probe=probe_of_two_modes(), keep_probe_states_orthogonal="epoch >= 3"
    ),
    "orthogonal modes of many probes": every_block(probe=TWO_MODES_TWICE, keep_probe_states_orthogonal=True),
    "windows placed anew": small_params(**AWAY, dynamically_resize_yx_object=0.05, obj=smooth_object()),
    "windows placed anew before the seam": small_params(
        **AWAY, dynamically_resize_yx_object="0.05 if epoch == 3 else 0"
    ),
    "windows placed anew after the seam": small_params(
        **AWAY, dynamically_resize_yx_object="0.05 if epoch > 7 else 0"
    ),
    "a torn scan": small_params(
        positions=TORN, scan_size=(1, N_PATTERNS), puzzle_positions="epoch == 2", update_probe_pos=True
    ),
    "flipped, smoothed, from vacuum, back to the start": small_params(
        do_charge_flip="epoch == 3",
        apply_gaussian_filter="[0.5, 0.5] if epoch == 5 else False",
        apply_gaussian_filter_amplitude="[1, 1] if epoch == 6 else False",
        restart_from_vacuum="epoch == 7",
        reset_positions="epoch == 8",
        update_probe_pos=True,
    ),
    "inside an aperture": small_params(
        probe_reg_constraint_weight="np.inf if epoch >= 4 else 0", probe_constraint_mask=0.45
    ),
    "soft edge": small_params(smooth_rolloff=0.2),
}


@pytest.mark.parametrize("name", EFFECTS)
def test_runs_of_every_effect_go_on_exactly(name: str, tmp_path: Path) -> None:
    """Parts that end before, in and after what happens on the way; blocks that were frozen are refined again at 12."""
    params = {**EFFECTS[name], "epoch_max": 14 if "frozen" in name else 10}
    once = pypty.run(params)
    assert len(once.epochs) == params["epoch_max"]
    stops = (1, 4, 7, params["epoch_max"])
    assert_identical(in_parts(params, tmp_path, *stops), once)


def test_the_effects_above_do_happen() -> None:
    """What is to be resumed is there: blocks are frozen and refined again, the object grows, modes are turned."""
    frozen = pypty.run({**EFFECTS["frozen blocks"], "epoch_max": 14}).decisions
    assert "'positions' is frozen until epoch 12" in frozen[0]
    assert any("epoch 12: block 'positions' is refined again" in text for text in frozen)
    anew, torn = EFFECTS["windows placed anew before the seam"], EFFECTS["a torn scan"]
    sizes = [pypty.run({**anew, "epoch_max": epochs}).obj.shape for epochs in (3, 4)]
    assert sizes[1] > sizes[0]
    scans = [pypty.run({**torn, "epoch_max": epochs}).positions for epochs in (2, 3)]
    assert np.abs(scans[0] - TORN).max() < 0.5 and np.abs(scans[1] - LINE).max() < 0.5
    modes = pypty.run({**EFFECTS["orthogonal modes"], "epoch_max": 1}).probe
    power = np.linalg.norm(modes, axis=(0, 1))
    assert power[0] > 2 * power[1]


def test_a_resumed_run_gives_the_warnings_of_one_run(tmp_path: Path) -> None:
    """Positions over a vacuum that stays one: stuck from the first epoch on."""
    params = small_params(update_obj=False, update_probe_pos=True)
    once = pypty.run({**params, "epoch_max": 10})
    assert len([text for text in once.warnings if "'positions' is stuck" in text]) == 1
    assert in_parts(params, tmp_path, 3, 10).warnings == once.warnings


@pytest.mark.parametrize("stops", [(1, 2, 3, 4, 5, 6), (0, 6), (6, 6), (5, 6)], ids=str)
def test_the_number_of_parts_makes_no_difference(stops: tuple[int, ...], tmp_path: Path) -> None:
    params = two_slices(update_probe_pos="lambda x: x >= 3", update_slice_distances=True, positions=OFF_GRID)
    assert_identical(in_parts(params, tmp_path, *stops), pypty.run({**params, "epoch_max": 6}))


@pytest.mark.parametrize("every", [0, 3, 100])
def test_states_that_are_written_seldom_are_exact_too(every: int, tmp_path: Path) -> None:
    params = small_params(save_inter_checkpoints=every)
    assert_identical(in_parts(params, tmp_path, 4, 9), pypty.run({**params, "epoch_max": 9}))


def test_the_files_are_those_of_one_run(tmp_path: Path) -> None:
    params = two_slices(update_slice_distances=True)
    in_parts(params, tmp_path / "parts", 5, 10)
    pypty.run({**params, "epoch_max": 10, "output_folder": str(tmp_path / "once")})
    for name in ("co.npy", "cp.npy", "cg.npy", "cd.npy"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "once" / name).read_bytes(), name
    one, other = (read_loss_log(tmp_path / name / LOSS_LOG) for name in ("parts", "once"))
    assert len(one) == len(other) == 10
    for row, expected in zip(one, other, strict=True):
        assert {**row, "time / s": ""} == {**expected, "time / s": ""}
    times = [float(row["time / s"]) for row in one]
    assert times == sorted(times), "time goes on"


def test_epochs_that_refine_nothing_are_continued(tmp_path: Path) -> None:
    later = "lambda x: x >= 3"
    params = small_params(output_folder=str(tmp_path), update_obj=later, update_probe=later, min_step=0)
    pypty.run({**params, "epoch_max": 2})
    result = pypty.run({**params, "epoch_max": 5, "resume": True})
    whole = pypty.run({**params, "epoch_max": 5, "output_folder": str(tmp_path / "whole")})
    np.testing.assert_array_equal(result.obj, whole.obj)


def test_a_folder_can_be_resumed_by_its_path(tmp_path: Path) -> None:
    """As ``pypty run FOLDER --resume`` does, with the data from a file and functions of the epoch as tables."""
    np.save(tmp_path / "patterns.npy", patterns())
    params = small_params(
        dataset=...,
        data_path=str(tmp_path / "patterns.npy"),
        update_probe=lambda epoch: epoch % 2 == 0,
        update_probe_pos="lambda x: x >= 2",
        output_folder=str(tmp_path / "out"),
        epoch_max=6,
    )
    pypty.run({**params, "epoch_max": 4})
    found = resume(tmp_path / "out", epoch_max=6, update_probe=lambda epoch: epoch % 2 == 0)
    assert_identical(found, pypty.run({**params, "output_folder": str(tmp_path / "once")}))


def test_a_resumed_folder_is_not_announced_as_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    in_parts(small_params(), tmp_path, 2, 4)
    assert not [text for text in caplog.messages if "replaced" in text]


def test_resuming_with_fewer_epochs_does_nothing(tmp_path: Path) -> None:
    before = in_parts(small_params(), tmp_path, 5)
    after = in_parts(small_params(), tmp_path, 5, 3)
    assert_identical(before, after)
    assert np.array_equal(np.load(tmp_path / "co.npy"), before.obj)


@pytest.mark.parametrize("moment", ["while evaluating", "after the step"])
def test_an_interrupted_epoch_is_done_again(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in epoch 4, in which refinement of positions begins."""
    params = small_params(
        output_folder=str(tmp_path / "out"),
        epoch_max=8,
        update_probe_pos="lambda x: x >= 4",
        positions=OFF_GRID,
    )
    if moment == "while evaluating":
        interrupt(monkeypatch, Pass, "_compute", lambda run: "positions" in run.args[0].gradients)
    else:
        interrupt(monkeypatch, Reconstruction, "_observe", lambda run: "positions" in run.args[0].blocks)
    result = pypty.run(params)
    assert "interrupted after 4 epochs" in result.stop_reason
    assert len(result.epochs) == 4
    monkeypatch.undo()
    once = pypty.run({**params, "output_folder": ""})
    assert_identical(pypty.run({**params, "resume": True}), once)


IN_EPOCH_4: dict[str, dict[str, Any]] = {
    "windows are placed anew": small_params(
        **AWAY, dynamically_resize_yx_object="0.05 if epoch == 4 else 0", skip_preprocessing=True
    ),
    "a torn scan is put together": small_params(
        positions=TORN, scan_size=(1, N_PATTERNS), puzzle_positions="epoch == 4", update_probe_pos=True
    ),
    "a block is frozen": small_params(
        update_step_bfgs="1e6 if 2 <= epoch <= 4 else 1",
        min_step=1e5,
        update_probe_pos=True,
        positions=OFF_GRID,
    ),
    "modes are turned": small_params(probe=probe_of_two_modes(), keep_probe_states_orthogonal="epoch == 4"),
    "the object is flipped and smoothed": small_params(
        do_charge_flip="epoch == 4", apply_gaussian_filter="[1, 1] if epoch == 4 else False"
    ),
    "a block is found to be stuck": small_params(update_obj="epoch < 3", update_probe_pos="epoch >= 4"),
    "the parametrisation changes": every_block(phase_only_obj="epoch >= 4"),
}


@pytest.mark.parametrize("name", IN_EPOCH_4)
def test_what_an_interrupted_epoch_did_is_undone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C at the very end of epoch 4: the state is that after epoch 3, and goes on as if nothing had been."""
    params = {**IN_EPOCH_4[name], "output_folder": str(tmp_path / "out"), "epoch_max": 8}
    interrupt(monkeypatch, Reconstruction, "_observe", lambda run: run.owner.state.epoch == 4)
    result = pypty.run(params)
    monkeypatch.undo()
    assert "interrupted after 4 epochs" in result.stop_reason
    assert_identical(result, pypty.run({**params, "output_folder": "", "epoch_max": 4}))
    once = pypty.run({**params, "output_folder": ""})
    assert_identical(pypty.run({**params, "resume": True}), once)


def interrupt(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, when: Callable[[SimpleNamespace], bool]
) -> None:
    """Raise KeyboardInterrupt instead of calling a method, when its arguments fulfil a condition."""
    original = getattr(owner, name)

    def method(self: Any, *args: Any) -> Any:
        if when(SimpleNamespace(owner=self, args=args)):
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(owner, name, method)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
@pytest.mark.parametrize("rows", [1, 4])
def test_a_killed_run_goes_on_exactly(rows: int, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    code = f"""
    import sys
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    import pypty
    from problems import small_params
    pypty.run(small_params(output_folder={str(folder)!r}, epoch_max=100000, update_probe_pos="lambda x: x >= 3"))
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if (folder / LOSS_LOG).exists() and len(read_loss_log(folder / LOSS_LOG)) >= rows:
                break
            time.sleep(0.002)
        assert process.poll() is None, f"the run ended: {process.communicate()[1]}"
    finally:
        process.kill()
        process.communicate()
    with h5py.File(folder / RESUME_FILE, "r") as file:
        epochs = int(file.attrs["epoch"]) + 3
    params = small_params(epoch_max=epochs, update_probe_pos="lambda x: x >= 3")
    assert_identical(pypty.run({**params, "output_folder": str(folder), "resume": True}), pypty.run(params))


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.fixture(scope="module")
def three_epochs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of three epochs, to be copied."""
    made = tmp_path_factory.mktemp("three_epochs")
    pypty.run(small_params(output_folder=str(made)))
    assert (made / RESUME_FILE).is_file()
    return made


@pytest.fixture
def folder(three_epochs: Path, tmp_path: Path) -> Path:
    """A copy of it: as after a move, its params.yaml names another folder."""
    return shutil.copytree(three_epochs, tmp_path, dirs_exist_ok=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


OTHER = {
    "one count more": ({"dataset": patterns() + np.eye(16)}, "other data"),
    "another type": ({"dataset": patterns().astype("float32")}, "other data"),
    "fewer patterns": ({"dataset": patterns()[:20], "positions": scan_positions()[:20]}, "other data"),
    "another precision": ({"default_dtype": "single"}, "double precision"),
    "another window": ({"data_pad": 2}, "window"),
    "binned": ({"data_bin": 2, "probe": None}, "window"),
}


@pytest.mark.parametrize("name", OTHER)
def test_a_state_that_does_not_fit_is_refused(name: str, folder: Path) -> None:
    changes, message = OTHER[name]
    before = contents(folder)
    with pytest.raises(CheckpointError, match=message):
        pypty.run(small_params(**{"output_folder": str(folder), "resume": True, "epoch_max": 5, **changes}))
    assert contents(folder) == before


# Each of these makes another loss of the same variables, with the same window and the same raw data.
NEW_PROBLEM: dict[str, dict[str, Any]] = {
    "algorithm": {"algorithm": "ml"},
    "data_multiplier": {"data_multiplier": 2.0},
    "flip_ky": {"flip_ky": True},
    "data_shift_vector": {"data_shift_vector": (1, 0)},
    "detector_mask": {"detector_mask": np.tri(16)},
    "acc_voltage": {"acc_voltage": 300.0},
    "pixel_size_x_A": {"pixel_size_x_A": 0.3},
    "damping_cutoff_multislice": {"damping_cutoff_multislice": 0.4},
    "lazy_clean": {"lazy_clean": True},
    "propmethod": {"propmethod": "angular_spectrum"},
    "recon_type": {"recon_type": "near_field"},
    "atv_weight": {"atv_weight": 0.1},
    "readout_noise": {"algorithm": "poisson_gaussian", "readout_noise": 2.0},
}
# The same, of a run in which all of these already matter.
NEW_EFFECT: dict[str, dict[str, Any]] = {
    "tilt_mode": {"tilt_mode": 3},
    "aberration_marker": {"aberration_marker": np.arange(N_PATTERNS) % 2},
    "probe_marker": {"probe_marker": np.arange(N_PATTERNS) // 13},
    "atv_q": {"atv_q": 0.7},
    "window": {"window": [0.4, 0.6]},
    "probe_constraint_mask": {"probe_constraint_mask": 0.3},
    "probe_mod_tol": {"probe_mod_tol": 0.4},
    "beta_wedge": {"beta_wedge": 2.0},
    "scan_size": {"scan_size": (1, N_PATTERNS)},
    "scan_step_A": {"scan_step_A": 1.6},
    "aperture_mask": {"aperture_mask": 0.3},
}
ACTIVE = {
    "scan_size": (5, 5),
    "scan_step_A": 0.8,
    "atv_weight": 0.1,
    "window_weight": 0.1,
    "window": [0.5, 0.7],
    "fast_axis_reg_weight_positions": 0.1,
    "probe_mod_reg_weight": 0.1,
    "probe_mod_tol": 0.2,
    "probe_reg_constraint_weight": 0.1,
    "wedge_mu": 1e-3,
    "beta_wedge": 0.5,
}


def assert_noticed(name: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Either it is refused, or the first loss after it is that of the new parameters; never a mixture."""
    done = pypty.run({**before, "epoch_max": 3})
    changed = {**after, "epoch_max": 4, "resume": True}
    try:
        found = pypty.run(changed).loss[3]
    except (CheckpointError, ParameterError) as error:
        assert name in str(error)
        return
    state = {block: getattr(done, block) for block in BLOCKS if getattr(done, block) is not None}
    if "detector_blur_std" in state:
        state["detector_blur_std"] = abs(float(done.detector_blur_std[0]))
    state |= {"epoch_prev": 3, "skip_preprocessing": True, "resume": False}
    expected, old = (pypty.evaluate({**params, **state}).loss for params in (changed, before))
    assert expected != pytest.approx(old, rel=1e-7), "it is another loss"
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", NEW_PROBLEM)
def test_a_changed_loss_is_noticed(name: str, tmp_path: Path) -> None:
    params = two_slices(output_folder=str(tmp_path))
    assert_noticed(name, params, {**params, **NEW_PROBLEM[name]})


@pytest.mark.parametrize("name", NEW_EFFECT)
def test_a_changed_effect_is_noticed(name: str, tmp_path: Path) -> None:
    aperture = {"aperture_mask" if name == "aperture_mask" else "probe_constraint_mask": 0.45}
    params = every_block(**ACTIVE, **aperture, update_slice_distances=False, output_folder=str(tmp_path))
    assert_noticed(name, params, {**params, **NEW_EFFECT[name]})


MASKS_OF_NOW = {"masks": MASKS, "dataset": np.einsum("nyx,dyx->nd", patterns(), MASKS)}
IMAGES = {"recon_type": "near_field", "defocus_array": [50.0], "alpha_near_field": 1e-3, "Cs": 1e4}
NOISY = {"algorithm": "poisson_gaussian", "detector_gain": 2.0, "readout_noise": 1.0}
NEW_DETECTOR: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "masks": ({**MASKS_OF_NOW, "algorithm": "lsq_compressed"}, {"masks": MASKS[::-1]}),
    "algorithm": ({**MASKS_OF_NOW, "algorithm": "lsq_compressed"}, {"algorithm": "gauss_compressed"}),
    "defocus_array": (IMAGES, {"defocus_array": [60.0]}),
    "alpha_near_field": (IMAGES, {"alpha_near_field": 3e-3}),
    "Cs": (IMAGES, {"Cs": 1e6}),
    "detector_gain": (NOISY, {"detector_gain": 1.0}),
    "readout_noise": (NOISY, {"readout_noise": 3.0}),
}


@pytest.mark.parametrize("name", NEW_DETECTOR)
def test_a_changed_detector_is_noticed(name: str, tmp_path: Path) -> None:
    before, changes = NEW_DETECTOR[name]
    params = small_params(**before, output_folder=str(tmp_path))
    assert_noticed(name, params, {**params, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"aberrations_array": np.zeros((2, 5))},
        {"static_background": 0.0, "update_static_background": False},
        {"detector_blur_std": 0.0, "update_detector_blur_std": False},
        {"tilts": np.zeros((1, 6))},
        {"probe": every_block()["probe"][..., [0, 1, 1]]},
        {"num_slices": 3},
        {"propmethod": "yoshida", "slice_distances": [10.0, 5.0]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_state_without_the_unknowns_of_now_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    """Other unknowns, or the same in other shapes, are another run."""
    params = every_block(output_folder=str(tmp_path), epoch_max=1)
    pypty.run(params)
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match="resume.h5"):
        pypty.run({**params, **changes, "resume": True, "epoch_max": 2})
    assert contents(tmp_path) == before


def test_a_loss_that_the_parameters_leave_out_is_told(tmp_path: Path) -> None:
    """A run with lsq_sqrt that goes on without algorithm would change its loss without a word."""
    changes = {"dataset": counts(), "algorithm": ..., "epoch_max": 1, "verdict": "none"}
    params = small_params(**changes, output_folder=str(tmp_path))

    def said(**changes: Any) -> list[str]:
        found = pypty.run({**params, "resume": True, **changes})
        return [text for text in found.warnings if "the loss changes" in text]

    pypty.run({**params, "algorithm": "lsq_sqrt"})
    (text,) = said(epoch_max=2)
    assert "had algorithm = 'lsq_sqrt', those from now on have algorithm = 'ml'" in text
    assert text.endswith("to go on with the same loss set algorithm = 'lsq_sqrt'")
    assert said() == [], "the newest epochs had that loss"


@pytest.mark.parametrize(
    ("earlier", "now", "said"),
    [
        ({"algorithm": "lsq_sqrt"}, {"algorithm": "ml"}, ""),
        ({"algorithm": "ml"}, {}, ""),
        ({"algorithm": "lsq_sqrt", "readout_noise": 1.0}, {}, "set algorithm = 'lsq_sqrt'"),
        (NOISY, {}, "set algorithm = 'poisson_gaussian' and detector_gain = 2.0 and readout_noise = 1.0"),
        (NOISY, {"algorithm": "poisson_gaussian", "readout_noise": 1.0}, "set detector_gain = 2.0"),
        ({"loss_terms": {"single": 1.0}}, {}, "set loss_terms = {'single': 1.0}"),
        (None, {}, ""),
    ],
)
def test_which_changes_of_the_loss_are_told(
    earlier: dict[str, Any] | None, now: dict[str, Any], said: str, tmp_path: Path
) -> None:
    if earlier is not None:
        (tmp_path / "params.yaml").write_text(json.dumps({"algorithm": "auto", **earlier}), encoding="utf-8")
    settings = prepare(small_params(**{"dataset": counts(), "algorithm": ..., **now})).settings
    text = change_of_loss(tmp_path, settings)
    assert text.endswith(said) and bool(text) is bool(said)


def test_resume_needs_a_state(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"no resume\.h5"):
        pypty.run(small_params(output_folder=str(tmp_path), resume=True))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", range(0, 100, 7))
def test_a_truncated_state_is_refused(cut: int, folder: Path) -> None:
    content = (folder / RESUME_FILE).read_bytes()
    (folder / RESUME_FILE).write_bytes(content[: len(content) * cut // 100])
    before = contents(folder)
    with pytest.raises(CheckpointError, match="load_checkpoint"):
        pypty.run(small_params(output_folder=str(folder), resume=True, epoch_max=5))
    assert contents(folder) == before


# ------------------------------------------------------------------------------------------- PyPty's way: arrays


def test_arrays_and_epoch_prev_continue_with_appended_rows(folder: Path) -> None:
    first = read_loss_log(folder / LOSS_LOG)
    params = small_params(output_folder=str(folder), epoch_max=6)
    params.update(pypty.load_checkpoint(folder))
    assert params["epoch_prev"] == 3
    result = pypty.run(params)
    rows = read_loss_log(folder / LOSS_LOG)
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2, 3, 4, 5]
    for row, before in zip(rows, first, strict=False):
        assert row.pop("optimizer") == before.pop("optimizer") == "lbfgs"
        assert {key: float(value or 0) for key, value in row.items()} == {
            key: float(value or 0) for key, value in before.items()
        }
    assert result.epochs.tolist() == [3, 4, 5]
    losses = [float(row["loss"]) for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert pypty.load_checkpoint(folder)["epoch_prev"] == 6


START: dict[str, dict[str, Any]] = {
    "plain": {},
    "extra space": {"extra_space_on_side_px": 3},
    "positions off the grid": {"positions": OFF_GRID, "update_probe_pos": True},
    "positions rounded": {"positions": OFF_GRID, "allow_subPixel_shift": False},
    "positions_correction": {"positions_correction": OFF_GRID - scan_positions()},
    "positions shifted": {"positions": scan_positions() - 7.0},
    "defocused probe": {"extra_probe_defocus": -5.0},
    "aberrated probe": {"aberrations": [10.0]},
    "probe from the pattern": {"probe": None},
    "thick first slice": {"edge_slice_thickness": 15.0},
    "padded data": {"data_pad": 2},
    "multiplied data": {"data_multiplier": 2.0},
    "every block": every_block(),
    "thick first slice, fourth order": {"edge_slice_thickness": 15.0, "propmethod": "yoshida"},
    "a distance for each slice": {"slice_distances": [10.0, 8.0], "propmethod": "better_multislice"},
    "Hermite modes": {"probe": None, "n_hermite_probe_modes": [1, 1]},
    "defocus modes, Hermite modes": {"defocus_spread_modes": [-5.0, 5.0], "n_hermite_probe_modes": [1, 0]},
    "modes by Monte Carlo": {"mc_n_modes": 3, "n_mc_samples": 16, "focal_spread": 30.0},
    "aberrated by a phase": {"beam_ctf": np.random.default_rng(0).random((16, 16))},
    "probe from a binary pattern": {"probe": None, "estimate_aperture_based_on_binary": 1.0},
    "padded background": {"static_background": 3.0, "data_pad": 2, "update_static_background": True},
    "cropped background": {"static_background": 3.0, "data_pad": 2, "use_padded_intensity": False},
    "upsampled patterns": {"upsample_pattern": 2, "probe": None, "static_background": 3.0},
    "tilts from zero": {"update_tilts": True, "tilt_mode": 4},
    "one position for all": {"positions": [[0.0, 0.0]], "obj": smooth_object(2), "update_probe_pos": True},
    "windows placed anew": {
        "positions": scan_positions() + AWAY["positions_correction"],
        "update_probe_pos": True,
        "dynamically_resize_yx_object": 0.05,
    },
}


@pytest.mark.parametrize("name", START)
def test_the_loss_goes_on_where_it_was(name: str, tmp_path: Path) -> None:
    """The first loss of the second run is the last of the first: what made the start is not applied twice."""
    changes = {"output_folder": str(tmp_path), "update_slice_distances": True, **START[name]}
    params = two_slices(**changes) | {"epoch_max": 3}
    first = pypty.run(params)
    second = pypty.run({**params, **pypty.load_checkpoint(tmp_path), "epoch_max": 5})
    if (
        name == "positions_correction"
    ):  # more than half a pixel: the windows are cut anew around the positions
        assert second.loss[0] == pytest.approx(first.loss[-1], rel=0.05)
        return
    assert second.loss[0] == pytest.approx(first.loss[-1], rel=1e-9)
    growth = np.array(second.obj.shape) - first.obj.shape
    assert (growth >= 0).all() and (growth <= [1, 1, 0, 0]).all(), "rounding may ask for one more pixel"


def test_a_run_goes_on_after_a_distance_moved_below_zero(tmp_path: Path) -> None:
    """Nothing keeps a refined distance positive; what a run has written, another must be able to read."""
    pypty.run(two_slices(output_folder=str(tmp_path), update_slice_distances=True))
    np.save(tmp_path / "cd.npy", np.array([-0.1]))
    result = pypty.run({**two_slices(epoch_max=4), **pypty.load_checkpoint(tmp_path)})
    assert result.slice_distances[0] == -0.1


def test_schedules_see_the_absolute_epoch(tmp_path: Path) -> None:
    seen: list[int] = []

    def update_probe(epoch: int) -> bool:
        seen.append(epoch)
        return epoch >= 4

    pypty.run(small_params(output_folder=str(tmp_path)))
    params = small_params(output_folder=str(tmp_path), epoch_max=6, update_probe=update_probe)
    result = pypty.run({**params, **pypty.load_checkpoint(tmp_path)})
    assert min(seen) == 3
    assert result.epochs.tolist() == [3, 4, 5]


def test_rows_of_later_epochs_are_replaced(folder: Path) -> None:
    """Going back to epoch 1 drops the rows of the epochs that are done again."""
    params = small_params(
        output_folder=str(folder), epoch_max=4, epoch_prev=1, obj=np.load(folder / "co.npy")
    )
    with pytest.raises(OutputError, match="a result of 3 epochs"):
        pypty.run(params)
    pypty.run({**params, "overwrite": True})
    assert [int(row["epoch"]) for row in read_loss_log(folder / LOSS_LOG)] == [0, 1, 2, 3]


def test_a_row_with_a_warning_survives(tmp_path: Path) -> None:
    off = {"update_obj": "lambda x: x > 0", "update_probe": False, "epoch_max": 2}
    pypty.run(small_params(output_folder=str(tmp_path), **off))
    pypty.run(
        {**small_params(output_folder=str(tmp_path)), **pypty.load_checkpoint(tmp_path), "epoch_max": 3}
    )
    rows = read_loss_log(tmp_path / LOSS_LOG)
    assert "nothing is refined" in rows[0]["Warnings"]
    assert len(rows) == 3


def test_going_on_without_the_log_of_the_first_run(folder: Path) -> None:
    (folder / LOSS_LOG).unlink()
    params = {**small_params(output_folder=str(folder)), **pypty.load_checkpoint(folder)}
    assert params["epoch_prev"] == 0
    pypty.run({**params, "epoch_prev": 3, "epoch_max": 5})
    assert [int(row["epoch"]) for row in read_loss_log(folder / LOSS_LOG)] == [3, 4]


def test_a_run_goes_on_after_a_position_moved_below_zero(tmp_path: Path) -> None:
    """The smallest position starts at 0, so refinement easily takes one below."""
    pypty.run(small_params(output_folder=str(tmp_path), epoch_max=2))
    refined = np.load(tmp_path / "cg.npy")
    refined[:3] -= 0.8
    np.save(tmp_path / "cg.npy", refined)
    result = pypty.run({**small_params(epoch_max=3), **pypty.load_checkpoint(tmp_path), "output_folder": ""})
    np.testing.assert_array_equal(result.start_positions, refined)


def test_rows_before_epoch_prev_survive_a_resume(tmp_path: Path) -> None:
    pypty.run(small_params(output_folder=str(tmp_path), epoch_max=2))
    params = {**small_params(output_folder=str(tmp_path)), **pypty.load_checkpoint(tmp_path)}
    pypty.run({**params, "epoch_max": 4})
    pypty.run({**params, "epoch_max": 6, "resume": True})
    assert [int(row["epoch"]) for row in read_loss_log(tmp_path / "loss.csv")] == list(range(6))


def test_a_resumed_run_keeps_its_windows(tmp_path: Path) -> None:
    """Other positions would place the windows elsewhere than the refined ones that are resumed."""
    pypty.run(small_params(output_folder=str(tmp_path), epoch_max=2))
    other = {"positions": scan_positions()[::-1].copy(), "output_folder": str(tmp_path), "resume": True}
    with pytest.raises(CheckpointError, match="other crop origins than in the run to continue"):
        pypty.run(small_params(epoch_max=4, **other))


def test_an_epoch_of_lbfgs_moves_the_state_and_records_how() -> None:
    setup = prepare(small_params())
    run = Reconstruction(setup, State(variables=setup.variables(), epoch=0))
    state, settings = run.state, setup.settings
    now = settings.first()
    before = state.variables.obj.copy()
    record = quasi_newton_epoch(state, settings, run.problem(now), now)
    assert record.optimizer == "lbfgs" and record.step > 0 and record.evaluations >= 2
    assert (
        record.slope < 0
        and record.blocks == ("obj", "probe")
        and set(record.update_norms) == {"obj", "probe"}
    )
    assert not np.array_equal(before, state.variables.obj)
    assert state.sample is not None and state.sample.value < record.loss
    again = quasi_newton_epoch(state, settings, run.problem(now), now)
    assert again.loss == state.sample.value or again.loss < record.loss
    rejected = quasi_newton_epoch(state, settings, run.problem(now), {**now, "update_step_bfgs": 1e9})
    assert rejected.loss <= again.loss
    setup.close()


def test_every_step_of_writing_leaves_a_folder_that_goes_on_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is copied before and after each file appears or grows; each copy goes on to the same end."""
    folder, copies = tmp_path / "out", []
    params = small_params(
        output_folder=str(folder),
        epoch_max=2,
        save_checkpoints_every_epoch=1,
        save_iters=2,
        save_result=["model"],
        selected_figs=[],
    )

    def copied(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **keywords: Any) -> Any:
            answer = function(*args, **keywords)
            copies.append(tmp_path / f"copy{len(copies)}")
            shutil.copytree(folder, copies[-1], ignore=shutil.ignore_patterns(LOCK_FILE))
            return answer

        return call

    monkeypatch.setattr(files.os, "replace", copied(os.replace))
    monkeypatch.setattr(loss_log, "append_text", copied(files.append_text))
    monkeypatch.setattr(history_file, "append_text", copied(files.append_text))
    whole = pypty.run(params)
    monkeypatch.undo()
    assert len(copies) > 20
    for copy in copies:
        if not (copy / RESUME_FILE).exists():
            assert not (copy / HISTORY_FILE).exists() or (copy / HISTORY_FILE).read_text() == ""
            continue
        again = pypty.run({**params, "output_folder": str(copy), "resume": True})
        assert_identical(again, whole)
        for path in folder.iterdir():
            if path.suffix in (".npy", ".jsonl"):
                assert (copy / path.name).exists(), f"{copy.name}: {path.name}"
            if path.suffix == ".npy":
                assert np.array_equal(np.load(path), np.load(copy / path.name)), f"{copy.name}: {path.name}"
        assert [row["loss"] for row in read_loss_log(copy / LOSS_LOG)] == [
            row["loss"] for row in read_loss_log(folder / LOSS_LOG)
        ]


def test_the_state_does_not_grow_with_the_epochs(tmp_path: Path) -> None:
    """History and log are appended: what an epoch writes is the same after many epochs."""
    params = small_params(output_folder=str(tmp_path), epoch_max=3, hist_length=2)
    pypty.run(params)
    few = (tmp_path / RESUME_FILE).stat().st_size
    pypty.run({**params, "epoch_max": 40, "resume": True})
    assert (tmp_path / RESUME_FILE).stat().st_size <= 1.05 * few
    assert len((tmp_path / HISTORY_FILE).read_text().splitlines()) == 40


@pytest.mark.parametrize("spoil", ["missing", "short", "damaged"])
def test_a_history_that_does_not_fit_is_refused(spoil: str, folder: Path) -> None:
    path = folder / HISTORY_FILE
    text = path.read_text()
    if spoil == "missing":
        path.unlink()
    else:
        path.write_text(text[:-9] if spoil == "short" else "x" * len(text))
    with pytest.raises(CheckpointError, match="history.jsonl"):
        pypty.run(small_params(output_folder=str(folder), resume=True, epoch_max=5))


def test_a_state_of_format_4_goes_on_exactly(folder: Path) -> None:
    """It holds the history itself."""
    lines = (folder / HISTORY_FILE).read_text().splitlines()
    (folder / HISTORY_FILE).unlink()
    with h5py.File(folder / RESUME_FILE, "r+") as file:
        file.attrs["format"] = 4
        del file.attrs["history_bytes"]
        file["history"] = f"[{', '.join(lines)}]"
    again = pypty.run(small_params(output_folder=str(folder), resume=True, epoch_max=5))
    assert_identical(again, pypty.run(small_params(epoch_max=5)))
    assert len((folder / HISTORY_FILE).read_text().splitlines()) == 5
