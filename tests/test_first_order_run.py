"""Runs of first-order methods and hybrids: what a step is, exact continuation, interruption."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from first_order_problems import ADAM, WANDERING, done, first_order, records
from problems import N_PATTERNS, SCAN, every_block, small_params, smooth_object, two_slices
from resumed_runs import assert_identical, in_parts

import pypty
from pypty.engine.epochs import first_order as module
from pypty.engine.epochs.batches import Batches
from pypty.engine.epochs.first_order import Progress
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.parts import learning_rates
from pypty.engine.epochs.state import State
from pypty.engine.setup.prepare import prepare
from pypty.errors import ParameterError, ReconstructionError
from pypty.objective.objective import Objective
from pypty.optimize.first_order import FirstOrder
from pypty.optimize.methods import METHODS
from pypty.output.loss_log import read_loss_log


def test_a_step_is_adams_on_the_gradient_of_its_batch() -> None:
    """The first step of Adam is the learning rate times the sign of every number's gradient."""
    setup = prepare(
        small_params(optimizer="adam", learning_rates={"obj": 0.02, "probe_abs": 0.03}, batch_size=25)
    )
    run = Reconstruction(setup, State(variables=setup.variables(), epoch=0))
    start = run.state.variables
    problem = run.problem(setup.settings.first())
    found = problem.objective.evaluate(start, ("obj", "probe"), np.arange(N_PATTERNS))
    next(run.epochs())
    setup.close()
    for name, rate in (("obj", 0.02), ("probe", 0.03)):
        gradient = found.gradients[name]
        signs = np.sign(gradient.real) + 1j * np.sign(gradient.imag)
        strong = (abs(gradient.real) > 1e-3) & (abs(gradient.imag) > 1e-3)
        step = run.state.variables.block(name) - start.block(name)
        limited = problem.form.limits.limit(name, np.where(abs(gradient) > 0, -rate * signs, 0))
        if name == "obj":  # dark pixels have gradients of rounding, whose sign is not known
            assert strong.any()
            continue
        np.testing.assert_allclose(step[strong], limited[strong], atol=2e-3)


def test_the_probes_rate_is_relative_to_its_amplitude() -> None:
    now = prepare(first_order()).settings.first()
    assert learning_rates(now, 0, 4.0)["probe"] == pytest.approx(0.04)
    assert learning_rates(now, 0, 4.0)["tilts"] == pytest.approx(1e-4)


CASES: dict[str, dict[str, Any]] = {
    "adam": {},
    "complex object": {"obj_parametrization": "complex"},
    "phase": {"phase_only_obj": True},
    "sgd with momentum": {
        "optimizer": "momentum",
        "learning_rates": {"objp": 1e-6, "obja": 1e-6, "probe": 1e-7},
    },
    "lazy positions": {"update_probe_pos": True},
    "dense positions": {"update_probe_pos": True, "lazy_moments": False},
    "plateau": {"lr_scheduler": {"name": "plateau", "patience": 0, "threshold": 0.3}},
    "one cycle by batch": {"lr_scheduler": {"name": "one_cycle", "step_unit": "batch", "total_steps": 35}},
    "monitor, held out": {"convergence_monitor": {"every": 2}, "validation_fraction": 0.2},
    "hybrid": {"optimizer": "lambda x: 'adam' if x < 3 else 'lbfgs'", "free_pixels": 0.1},
    "there and back": {"optimizer": "lambda x: 'lbfgs' if 2 <= x < 4 else 'radam'"},
    "preconditioned": {"optimizer": "preconditioned", "group_mode": "hilbert"},
    "accumulated": {"grad_accumulation": 2, "group_mode": "compact"},
}


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_is_the_run(case: str, tmp_path: Path) -> None:
    params = first_order(**{"epoch_max": 7, **CASES[case]})
    whole = pypty.run(params)
    assert_identical(in_parts(params, tmp_path, 3, 6, 7), whole)


def test_an_interrupted_epoch_leaves_no_trace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ctrl-C in the middle of an epoch: variables and moments are those after the last whole one."""
    params = first_order(epoch_max=6)
    whole = pypty.run(params)
    original, calls = Objective.evaluate, iter(range(10**6))

    def interrupted(self: Objective, *given: Any, **named: Any) -> Any:
        if next(calls) == 17:
            raise KeyboardInterrupt
        return original(self, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "evaluate", interrupted)
        stopped = pypty.run({**params, "output_folder": str(tmp_path)})
    assert "interrupted after 3 epochs" in stopped.stop_reason
    resumed = pypty.run({**params, "output_folder": str(tmp_path), "resume": True})
    assert_identical(resumed, whole)


@pytest.mark.parametrize("method", ["adam", "momentum", "rprop"])
def test_an_amplitude_below_zero_goes_on(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs start from |O|; the steps are those of an amplitude that keeps its sign, as within an epoch."""
    start = 0.03 * smooth_object()
    start[10:14] *= -1  # the wrong sign, so that amplitudes fall below 0
    rate = 1e-3 if method == "momentum" else 0.04
    given = first_order(
        obj=start,
        optimizer=method,
        learning_rates={"obja": rate, "objp": 0.0},
        update_probe=False,
        damping_cutoff_multislice=2.0,
        update_extra_cut=0,
        skip_preprocessing=True,
    )

    def obj(epochs: int, steps: int) -> np.ndarray:
        batches = [np.arange(N_PATTERNS)] * steps
        monkeypatch.setattr(Batches, "of_epoch", lambda *_: batches)
        return done(**{**given, "epoch_max": epochs}).state.variables.obj

    together = obj(1, 5)
    crossed = (together[0, 0] * start[..., 0, 0].conj()).real < 0
    assert crossed.sum() > 20
    np.testing.assert_allclose(obj(5, 1), together, atol=1e-9)


def test_every_block_moves() -> None:
    """Every unknown has a learning rate, and its norms are recorded."""
    blocks = every_block(optimizer="adam", epoch_max=2, batch_size=5)
    setup = prepare(blocks)
    run = Reconstruction(setup, State(variables=setup.variables(), epoch=0))
    table = list(run.epochs())
    setup.close()
    assert set(table[0].blocks) == set(run.state.variables.present)
    assert set(table[0].update_norms) == set(table[0].blocks)
    assert all(value > 0 for value in table[0].update_norms.values())
    assert all(value > 0 for value in table[0].gradient_norms.values())
    assert table[-1].loss < table[0].loss


def test_means_of_tilts_and_distances_are_recorded() -> None:
    changes = {"update_slice_distances": True, "update_tilts": True, "optimizer": "adam", "batch_size": 5}
    setup = prepare(two_slices(**changes))
    table = list(Reconstruction(setup, State(variables=setup.variables(), epoch=0)).epochs())
    setup.close()
    assert table[-1].mean_slice_distance_A != 10.0 and abs(table[-1].mean_slice_distance_A - 10) < 1
    assert table[-1].mean_tilt_mrad != (0.0, 0.0)


def test_regularisers_count_in_every_batch_by_its_share() -> None:
    """Their sum over the batches of an epoch is that of the object, as it was on the way."""
    weight = {"abs_norm_weight": 3.0}
    table = records(
        **weight,
        learning_rates={"objp": 1e-9, "obja": 1e-9, "probe": 1e-9},
        obj=1.1 * np.ones((28, 28, 1, 1)),
    )
    one = pypty.evaluate(small_params(**weight, obj=1.1 * np.ones((28, 28, 1, 1))))
    assert table[0].terms["abs_norm_weight"] == pytest.approx(one.regularizers["abs_norm_weight"], rel=1e-3)
    assert table[0].loss == pytest.approx(one.loss, rel=1e-3)


def test_nothing_with_a_rate_is_told() -> None:
    off = {"lr": 0}
    table = records(learning_rates={"obja": off, "objp": off, "probe": off})
    assert "nothing is refined" in table[0].warnings[0]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_diverging_run_says_what_to_do() -> None:
    with pytest.raises(ReconstructionError, match="lower learning_rates"):
        done(optimizer="sgd", learning_rates={"objp": 1e30, "obja": 1e30, "probe": 1e30}, epoch_max=20)


def test_positions_of_held_out_patterns_stay() -> None:
    run = done(update_probe_pos=True, validation_fraction=0.2, optimizer="sgd",
               learning_rates={"positions": 1e-6, "objp": 1e-6, "obja": 1e-6, "probe": 1e-7})  # fmt: skip
    moved = (run.state.variables.positions != run.setup.scan.positions).any(axis=1)
    used = np.sort(np.concatenate(run.batches))
    assert np.array_equal(np.flatnonzero(moved), used)


def test_without_a_raster_there_is_no_part_of_it() -> None:
    with pytest.raises(ParameterError, match="scan_size is not given"):
        pypty.run(small_params(indices_mode="center"))


def test_all_patterns_held_out_or_left_out() -> None:
    with pytest.raises(ParameterError, match="no pattern is left"):
        pypty.run(small_params(indices_mode="center", indices_shape=[1, 1], scan_size=SCAN, sequence=[0]))


def test_the_warm_up_belongs_to_lbfgs() -> None:
    """auto warms up L-BFGS alone; a number of epochs is what was asked for, whatever follows."""
    assert {r.optimizer for r in records(warmup_epochs="auto")} == {"adam"}
    names = [r.optimizer for r in records(warmup_epochs=2)]
    assert names == ["preconditioned"] * 2 + ["adam"] * 2
    hybrid = records(optimizer="lambda x: 'preconditioned' if x < 2 else 'lbfgs'", warmup_epochs="auto")
    assert [r.optimizer for r in hybrid] == ["preconditioned"] * 2 + ["lbfgs"] * 2


def test_the_log_says_how_an_epoch_moved_and_what_held_out_patterns_say(tmp_path: Path) -> None:
    params = first_order(
        optimizer="lambda x: 'adam' if x < 2 else 'lbfgs'",
        validation_fraction=0.2,
        output_folder=str(tmp_path),
    )
    result = pypty.run(params)
    rows = read_loss_log(tmp_path / "loss.csv")
    assert [row["optimizer"] for row in rows] == ["adam", "adam", "lbfgs", "lbfgs"]
    assert [float(row["validation loss"]) for row in rows] == result.validation.tolist()


ON_A_DEVICE: dict[str, dict[str, Any]] = {
    "everything": {},
    "hybrid": {"optimizer": "lambda x: 'nadam' if x < 2 else 'lbfgs'", "obj_parametrization": "complex"},
    "preconditioned": {"optimizer": "preconditioned"},
    "phase": {
        "phase_only_obj": True,
        "optimizer": "rmsprop",
        "constraints": {"objp_postiv": True, "obj_rblur": True},
    },
}


@pytest.mark.parametrize("case", ON_A_DEVICE)
def test_on_a_device(case: str, device: None, tmp_path: Path) -> None:
    """The same numbers, where arrays of the device and of the host must not meet; resumed from its files."""
    params = every_block(
        **{
            "optimizer": "adam",
            "batch_size": 8,
            "epoch_max": 4,
            "obj_parametrization": "amplitude_phase",
            "convergence_monitor": {"every": 2},
            "validation_fraction": 0.2,
            "scan_size": SCAN,
            "constraints": {"ortho_pmode": True, "obja_thresh": {"relax": 0.5}, "pos_recenter": True},
            **ON_A_DEVICE[case],
        }
    )
    on_cpu = pypty.run(params)
    on_gpu = in_parts({**params, "backend": "gpu"}, tmp_path, 2, 4)
    assert on_gpu.loss == pytest.approx(on_cpu.loss, rel=1e-8)
    np.testing.assert_allclose(on_gpu.obj, on_cpu.obj, atol=1e-7)
    np.testing.assert_allclose(on_gpu.positions, on_cpu.positions, atol=1e-7)


@pytest.mark.parametrize("form", ["amplitude_phase", "complex"])
def test_moments_grow_with_the_object(form: str, tmp_path: Path) -> None:
    """Once a window needs more room than there is; and a resumed run is the run."""
    params = first_order(**WANDERING, obj_parametrization=form, epoch_max=5)
    run = done(**WANDERING, obj_parametrization=form, epoch_max=5)
    shape = run.state.variables.obj.shape
    assert shape != run.setup.variables().obj.shape or run.state.scan is not None
    part = "obj" if form == "complex" else "objp"
    assert run.state.progress.moments[part]["mean"].shape[: len(shape)] == shape
    assert shape[-2:] > (24, 24), "it grew"
    assert_identical(in_parts(params, tmp_path, 2, 4, 5), pypty.run(params))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("part", ["obj", "objp"])
def test_every_moment_fits_the_larger_object(name: str, part: str) -> None:
    """The pixels that were there keep theirs."""
    old, new, before = (1, 2, 6, 5), (1, 2, 9, 7), (2, 1)
    kind = complex if part == "obj" else float
    options = {"momentum": 0.5} if name == "sgd" else {}
    method = FirstOrder(name, options)
    gradient = np.random.default_rng(1).normal(size=old).astype(kind)
    method.step({part: np.ones(old, kind)}, {part: gradient}, {part: 0.1})
    grown = Progress(name=name, moments=method.state).with_room(before, old, new)
    again = FirstOrder(name, options, grown.moments)
    again.step({part: np.ones(new, kind)}, {part: np.ones(new, kind)}, {part: 0.1})
    for key, array in method.state[part].items():
        if array.shape[: len(old)] == old:
            inside = grown.moments[part][key][:, :, 2:8, 1:6]
            np.testing.assert_array_equal(inside, array)


@pytest.mark.parametrize("switch", ["tune_only_probe_phase", "tune_only_probe_abs"])
def test_parts_of_the_probe_have_moments_of_their_own(switch: str, tmp_path: Path) -> None:
    """Of a schedule that changes what of the probe is moved."""
    params = first_order(**{switch: "lambda x: x % 2 == 0"}, epoch_max=5)
    assert_identical(in_parts(params, tmp_path, 2, 3, 5), pypty.run(params))


def test_rates_of_a_spectrum_are_in_its_units() -> None:
    """The first step of Adam: rad for phases, and the same fraction of amplitude as of the complex probe."""
    grown = {"obj": np.exp(1j * np.random.default_rng(2).normal(size=(24, 24, 1, 1))), "epoch_max": 1}
    rates = {"probe": 0.01, "obja": 0, "objp": 0}
    found = {
        switch: records(**grown, **{switch: True}, learning_rates=rates, batch_size=25)[0]
        for switch in ("tune_only_probe_phase", "tune_only_probe_abs", "phase_only_obj")
    }
    steps = {switch: record.update_norms["probe"] for switch, record in found.items()}
    inside = 0.3  # of the spectrum, by the band limit
    assert 0.01 * inside < steps["tune_only_probe_phase"] < 0.0101
    relative = steps["tune_only_probe_abs"] / (16 * steps["phase_only_obj"])
    assert 0.3 < relative < 1.5
    assert {record.learning_rates["probe"] for record in found.values()} == {0.01}


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_positions_do_not_care_where_the_origin_is(name: str) -> None:
    """Decays of the weights, and steps relative to the value, are those of displacements."""
    changes: dict[str, Any] = {"optimizer": name, "update_probe_pos": True, "epoch_max": 3}
    changes["learning_rates"] = {"obja": 1e-6, "objp": 1e-6, "probe": 1e-7, "positions": 1e-3}
    moved = []
    for rim in (0, 40):
        run = done(**changes, extra_space_on_side_px=rim, lazy_clean=True)
        moved.append(run.state.variables.positions - run.setup.scan.positions)
    sizes = [float(np.sqrt((one**2).mean())) for one in moved]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1 if name == "adamw" else 0.5)


def test_only_what_moves_has_a_rate_in_the_record() -> None:
    assert set(records(epoch_max=1)[0].learning_rates) == {"obja", "objp", "probe"}
    late = records(learning_rates={"probe_abs": {"lr": 0.5, "start": 1}}, epoch_max=2)
    assert [set(record.learning_rates) - {"obja", "objp"} for record in late] == [set(), {"probe_abs"}]


def test_schedules_end_with_the_run_after_a_warm_up() -> None:
    table = records(warmup_epochs=2, epoch_max=6, lr_scheduler="exponential")
    rates = [record.learning_rates.get("objp") for record in table]
    assert rates[:2] == [None, None]
    assert rates[2:] == pytest.approx([0.01 * 0.01 ** (n / 4) for n in range(4)])


def test_mean_patterns_of_batches_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are of the size of a pattern, three for each batch of the epoch."""
    original, kept = module._walk_through, []

    def spy(*given: Any) -> Any:
        found = original(*given)
        kept.extend(one.sums for one in found[0])
        return found

    monkeypatch.setattr(module, "_walk_through", spy)
    records(epoch_max=1, loss_terms={"pacbed": {"weight": 1.0}}, loss_scale="ratio")
    assert len(kept) == 5 and all(sums is None for sums in kept)


def test_an_object_that_begins_anew_has_no_moments() -> None:
    run = done(restart_from_vacuum="lambda x: x == 3", epoch_max=4)
    assert int(run.state.progress.moments["objp"]["count"]) == 5, "of the last epoch"
    assert int(run.state.progress.moments["probe"]["count"]) == 20


@pytest.mark.parametrize("scale", ["additive", "ratio"])
def test_preconditioned_epochs_record_the_loss_terms(scale: str) -> None:
    """They add up to the loss, as with the other methods."""
    terms = {"single": {"weight": 1.0}, "poissn": {"weight": 0.5}}
    table = records(optimizer="preconditioned", loss_terms=terms, loss_scale=scale)
    for record in table:
        assert set(record.loss_terms) == {"single", "poissn"}
        assert sum(record.loss_terms.values()) == pytest.approx(record.loss)


def test_only_rates_of_what_moves_are_recorded() -> None:
    rates = {"objp": 5e-3, "obja": 5e-3, "probe": 1e-2, "positions": {"lr": 1e-2, "start": 1}}
    result = pypty.run(small_params(**ADAM, learning_rates=rates, update_probe_pos=True, epoch_max=2))
    assert set(result.learning_rates) == {"obja", "objp", "probe", "positions"}
    assert np.isnan(result.learning_rates["positions"][0])


def test_the_log_of_mini_batches(caplog: pytest.LogCaptureFixture) -> None:
    """It says method, batches and held-out loss, and no history is reset that is not there."""
    caplog.set_level(logging.INFO, "pypty")
    method = "lambda x: 'lbfgs' if x in (0, 1) else 'adam'"
    pypty.run(small_params(**{**ADAM, "optimizer": method}, constraints={"obj_rblur": True}, epoch_max=5,
                           warmup_epochs=0, validation_fraction=0.2))  # fmt: skip
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in lines if "history reset" in line] == [
        "epoch 2"
    ]  # the steps of Adam
    first, last = (next(line for line in lines if line.startswith(f"epoch {k}  deviance")) for k in (0, 4))
    assert "evaluations" in first and "adam" not in first
    assert "adam  batches" in last and "evaluations" not in last
    assert "held out" in first and "held out" in last


@pytest.mark.parametrize(
    ("optimizer", "options", "rate"),
    [
        ("adamw", {"weight_decay": 5.0}, 1e-2),
        ("asgd", {"lambd": 5.0}, 1e-2),
        ("adafactor", {}, 0.1),
    ],
)
def test_positions_are_not_drawn_to_the_corner(
    optimizer: str, options: dict[str, float], rate: float
) -> None:
    """Weight decay and steps that go with the size of a number act on what a position is off its whole pixel."""
    run = done(
        optimizer=optimizer,
        optimizer_options=options,
        learning_rates={"positions": rate, "obja": 0.0, "objp": 0.0, "probe": 0.0},
        update_probe_pos=True,
        epoch_max=3,
    )
    moved = run.state.variables.positions - run.setup.variables().positions
    assert 0 < abs(moved).max() < 0.2
    assert abs(moved.mean(axis=0)).max() < 0.05


@pytest.mark.parametrize("optimizer", ["sgd", "radam", "adadelta", "adam"])
def test_a_tilts_rate_is_in_mrad_for_every_method(optimizer: str) -> None:
    """The step of a method on the same problem in mrad: lr x gradient for sgd, and about lr for adam."""
    params: dict[str, Any] = {
        **every_block(),
        "optimizer": optimizer,
        "batch_size": 1000,
        "epoch_max": 1,
        "shuffle_batches": False,
        "update_tilts": True,
        "learning_rates": {"tilts": 0.01},
        "lazy_moments": False,
    }
    from pypty.engine.epochs.loop import Reconstruction
    from pypty.engine.epochs.state import State
    from pypty.engine.setup.prepare import prepare
    from pypty.optimize.first_order import FirstOrder

    setup = prepare(params)
    run = Reconstruction(setup, State(variables=setup.variables(), epoch=0))
    start = run.state.variables.tilts.copy()
    problem = run.problem(setup.settings.first())
    slope = problem.objective.evaluate(run.state.variables, ("tilts",), problem.indices, problem.weight)
    next(run.epochs())
    end = run.state.variables.tilts
    setup.close()
    in_mrad = FirstOrder(optimizer, {}).step(
        {"tilts": 1e3 * start}, {"tilts": 1e-3 * slope.gradients["tilts"]}, {"tilts": 0.01}
    )["tilts"]
    np.testing.assert_allclose(1e3 * (end - start), in_mrad - 1e3 * start, rtol=1e-3, atol=1e-9)
