"""Tuning: what names change, how trials run, and what is left when a worker dies."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from first_order_problems import done
from problems import aperture_probe, patterns, scan_positions, small_params, two_slices

import pypty
from pypty.cli import main
from pypty.engine.setup.prepare import prepare
from pypty.errors import ParameterError
from pypty.optics.wavelength import wavelength_A
from pypty.params.report import Report
from pypty.params.schema import SCHEMA
from pypty.tune import tune, writing
from pypty.tune.command import add_arguments
from pypty.tune.layout import PRUNERS, SAMPLERS, Range, read_plan
from pypty.tune.log import TuneLog
from pypty.tune.names import ALIASES, ENTRY_ALIASES, components, find_target, with_values
from pypty.tune.objectives import contrast
from pypty.tune.optional import load_optuna, quiet
from pypty.tune.parts import grid_of
from pypty.tune.physics import affine_matrix
from pypty.tune.reading import best_params, records_of, study_of, values_of
from pypty.tune.results import Study, TrialRecord, short
from pypty.tune.storage import distribution, open_study, retry, retry_dead, sign
from pypty.tune.trial import Bench, silent

optuna = pytest.importorskip("optuna")

TRUE_C10 = 0.4**2 / (np.pi * 0.25**2 * wavelength_A(80.0))
"""Å; the defocus whose phase at the edge of the aperture is 1 rad, with which the patterns were made."""


def params(changes: dict[str, Any] | None = None, **search: Any) -> dict[str, Any]:
    """A search for the defocus of an aperture of known size, without images; four epochs of the object only."""
    given: dict[str, Any] = {"n_trials": 2, "collate": False, "sampler": "Random", "pruner": None}
    given |= {"parameters": {"C10": [-60, 60]}, **search}
    base = small_params(probe="aperture", aperture_mask=0.5, update_probe=False, epoch_max=2, tune=given)
    return {**base, **(changes or {})}


# ------------------------------------------------------------------------------------------------------ the search


@pytest.mark.slow
def test_finds_the_defocus_and_leaves_a_preset_that_runs(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    search = params(
        {"output_folder": str(folder), "epoch_max": 4, "strip_dataset_from_params": False},
        n_trials=10,
        collate=True,
        sampler={"name": "TPE", "n_startup_trials": 5},
        pruner={"name": "Hyperband", "min_resource": 2},
    )
    found = tune(search)
    assert len(found.trials) == 10
    assert abs(found.best_params["C10"] - TRUE_C10) < 6
    assert found.best_value == min(one.value for one in found.completed)
    assert {one.state for one in found.trials} == {"complete", "pruned"}
    assert all(one.epochs < 4 for one in found.trials if one.state == "pruned")
    images = sorted((folder / "trials").glob("*.png"))
    best = next(one for one in images if f"_t{found.best_trial:04d}_" in one.name)
    assert len(images) == 10 and best.name.startswith(f"error_{found.best_value:.5f}_t")
    assert yaml.safe_load(best.with_suffix(".yaml").read_text())["parameters"] == dict(found.best_params)
    for name in ("history", "slices", "epochs", "importances"):
        assert (folder / f"tune_{name}.png").stat().st_size > 5000
    assert (folder / "trials.csv").read_text().count("\n") == 11
    result = pypty.run(folder / "best.yaml")
    assert result.loss[-1] / len(patterns()) == pytest.approx(found.best_value, rel=1e-9)
    assert result.folder == (folder / "best").resolve()
    in_memory = pypty.run({**found.params, "output_folder": ""})
    assert in_memory.loss[-1] == result.loss[-1]
    assert f"trial {found.best_trial}" in (folder / "tune.log").read_text()


def test_the_same_seed_finds_the_same_and_no_value_stays_for_the_next_trial() -> None:
    """A trial with the identity has the loss of the given parameters."""
    given = params(
        sampler="Grid", n_trials=6, parameters={"rotation": {"low": -5, "high": 5, "step": 5}, "C10": [0, 20, 20]}
    )  # fmt: skip
    first, second = tune(given), tune(given)
    assert [one.values for one in first.trials] == [one.values for one in second.trials]
    assert [one.value for one in first.trials] == [one.value for one in second.trials]
    neutral = next(one for one in first.trials if one.values == {"rotation": 0.0, "C10": 0.0})
    plain = pypty.run({**given, "tune": None})
    assert neutral.value == pytest.approx(plain.loss[-1] / len(patterns()), rel=1e-12)
    assert len({one.value for one in first.trials}) == 6


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler(name: str) -> None:
    if name == "GP":
        pytest.importorskip("torch")
    if name == "CmaEs":
        pytest.importorskip("cmaes")
    parameters = {"C10": [-60, 60, 1], "aberrations.C12a": [-20, 20, 1]}
    options = {"GP": {"n_startup_trials": 1}, "TPE": {"n_startup_trials": 1}}.get(name, {})
    found = tune(params(sampler={"name": name, **options}, parameters=parameters, n_trials=3))
    assert len(found.completed) == 3
    assert len({one.values["C10"] for one in found.trials}) > 1 or name == "BruteForce"


@pytest.mark.parametrize("name", [*PRUNERS, None])
def test_every_pruner(name: str | None) -> None:
    options = {
        "Patient": {"patience": 1, "configs": {"wrapped_pruner_configs": {"name": "Median"}}},
        "Threshold": {"upper": 1e-3},
        "Median": {"n_startup_trials": 0},
    }
    pruner = None if name is None else {"name": name, **options.get(name, {})}
    found = tune(params(pruner=pruner))
    assert len(found.trials) == 2 and all(one.history for one in found.trials)
    if name == "Threshold":
        assert [(one.state, one.epochs) for one in found.trials] == [("pruned", 1)] * 2
        assert "no trial was completed" in found.table()
    if name is None:
        assert len(found.completed) == 2


def test_contrast_of_several_object_modes() -> None:
    """The contrast is averaged over object modes, and the best trial has the highest contrast."""
    rng = np.random.default_rng(0)
    phase = rng.random((9, 7, 2))
    scaled = (phase - phase.min(axis=(0, 1))) / np.ptp(phase, axis=(0, 1))
    expected = -(scaled.std(axis=(0, 1), ddof=1) / scaled.mean(axis=(0, 1))).mean()
    assert contrast(phase) == pytest.approx(expected, rel=1e-6)
    assert contrast(np.ones((4, 4, 1))) == 0
    obj = np.exp(0.1j * rng.standard_normal((28, 28, 1, 2)))
    found = tune(params({"obj": obj}, objective="contrast"))
    assert found.best_value == min(one.value for one in found.trials) < 0


def test_validation_asks_for_held_out_patterns() -> None:
    with pytest.raises(ParameterError, match="tune.objective.*validation_fraction"):
        tune(params(objective="validation"))


def test_optimizers_with_options_and_learning_rates() -> None:
    """Each optimizer gets its optim_configs."""
    entry = {"choices": ["Adam", "lbfgs"], "optim_configs": {"Adam": {"betas": [0.8, 0.9]}}}
    base = params(
        {"update_probe": True}, sampler="Grid", parameters={"optimizer": entry, "plr": {"choices": [0.01]}}
    )
    found = tune(base)
    assert {one.values["optimizer"] for one in found.completed} == {"adam", "lbfgs"}
    for one in found.completed:
        options = {"optimizer_options": {"betas": [0.8, 0.9]}} if one.values["optimizer"] == "adam" else {}
        rates = {"learning_rates": {"probe_abs": 0.01}}
        plain = pypty.run({**base, "tune": None, "optimizer": one.values["optimizer"], **options, **rates})
        assert one.value == pytest.approx(plain.loss[-1] / len(patterns()), rel=1e-12)


def test_validation_is_that_of_the_held_out_patterns() -> None:
    found = tune(params({"validation_fraction": 0.2}, objective="validation"))
    assert all(one.value == one.history[2] for one in found.completed) and len(found.completed) == 2
    fitted = tune(params({"validation_fraction": 0.2}))
    assert [one.values for one in fitted.trials] == [one.values for one in found.trials]
    assert all(one.value != other.value for one, other in zip(fitted.trials, found.trials, strict=True))


def test_a_failed_trial_is_noted_and_the_search_goes_on() -> None:
    found = tune(params(sampler="Grid", n_trials=2, parameters={"data_shift_vector.0": {"choices": [0, 17]}}))
    assert {one.values["data_shift_vector.0"]: one.state for one in found.trials} == {
        0: "complete",
        17: "failed",
    }
    assert "nothing would be left" in next(one.note for one in found.trials if one.state == "failed")
    with pytest.raises(ParameterError, match="all 2 trials failed; the last one: (.|\n)*data_shift_vector"):
        tune(params(parameters={"data_shift_vector.0": {"choices": [17]}}))


def test_patterns_of_a_file_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pypty.engine.setup.prepare as prepare

    path, opened = tmp_path / "data.npy", []
    np.save(path, patterns())
    original = prepare.survey
    monkeypatch.setattr(prepare, "survey", lambda *args, **more: opened.append(1) or original(*args, **more))
    given = params({"data_path": str(path)})
    del given["dataset"]
    from_file = tune(given)
    assert len(opened) == 1
    assert [one.value for one in from_file.trials] == [one.value for one in tune(params()).trials]


@pytest.mark.parametrize("objective", ["loss", "contrast"])
def test_on_a_device(device: None, objective: str, tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", patterns())
    changes = {"data_path": str(tmp_path / "data.npy"), "dataset": None}
    on_device = tune(params({**changes, "backend": "gpu"}, objective=objective))
    on_cpu = tune(params(changes, objective=objective))
    assert [one.value for one in on_device.trials] == pytest.approx(
        [one.value for one in on_cpu.trials], rel=1e-6
    )


# ----------------------------------------------------------------------------------------------- workers, and death


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    np.save(tmp_path / "data.npy", patterns())
    given = params(
        {"output_folder": str(folder), "data_path": str(tmp_path / "data.npy")}, n_trials=9, max_trials=3
    )
    plain = {key: value for key, value in given.items() if key not in ("dataset", "positions")}
    plain["positions"] = scan_positions().tolist()
    (tmp_path / "tune.yaml").write_text(yaml.safe_dump(plain))
    script = textwrap.dedent(
        """
        import sys, time, pypty.tune.study as study
        run, done = study.Bench.run, []
        def slow(*given):
            if len(done) == 2:
                print("third", flush=True); time.sleep(60)
            done.append(1)
            return run(*given)
        study.Bench.run = slow
        study.tune(sys.argv[1])
        """
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "tune.yaml")], stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout is not None and worker.stdout.readline() == "third\n"
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
    before = yaml.safe_load((folder / "best.yaml").read_text())["aberrations"]
    (folder / "best.yaml").unlink()
    found = tune(tmp_path / "tune.yaml")
    assert [one.state for one in found.trials] == ["complete", "complete", "failed", "complete"]
    assert found.trials[3].values == found.trials[2].values and found.trials[3].note == "repeats trial 2"
    assert found.stop_reason == "max_trials = 3 reached"
    assert before[0] in [one.values["C10"] for one in found.trials[:2]]
    with pytest.raises(ParameterError, match="the study 'study' has 'loss'; choose another study_name"):
        tune({**plain, "tune": {**plain["tune"], "objective": "contrast"}})
    words = {"parameters": {"C10": {"choices": [1, 2]}}}
    with pytest.raises(ParameterError, match="another kind of range"):
        tune({**plain, "tune": {**plain["tune"], **words}})


def test_a_file_for_network_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "write_figures", lambda *given: [])
    given = params({"output_folder": str(tmp_path)}, storage="journal:///both.log", sampler="TPE")
    first, second = tune(given, worker="one"), tune(given, worker="two")
    assert [one.worker for one in second.trials] == ["one", "one", "two", "two"]
    assert second.trials[:2] == first.trials
    assert (tmp_path / "both.log").exists() and (tmp_path / "tune_two.log").exists()


@pytest.mark.slow
def test_two_workers_share_a_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = "sqlite:///both.sqlite3"
    np.save(tmp_path / "data.npy", patterns())
    given = params({"output_folder": str(tmp_path / "out"), "data_path": str(tmp_path / "data.npy")})
    given["positions"] = scan_positions().tolist()
    del given["dataset"]
    (tmp_path / "tune.yaml").write_text(yaml.safe_dump(given))
    command = ["tune", str(tmp_path / "tune.yaml"), "--trials", "3", "--storage", storage, "--worker"]
    monkeypatch.setattr(writing, "write_figures", lambda *given: [])  # the other worker draws them
    other = subprocess.Popen(
        [sys.executable, "-m", "pypty", *command, "two"], stdout=subprocess.PIPE, text=True
    )
    assert main([*command, "one", "--set", "epoch_max=3"]) == 0
    printed, _ = other.communicate()
    assert other.returncode == 0 and "best parameters:" in printed
    assert "best parameters:" in capsys.readouterr().out
    found = tune({**given, "tune": {**given["tune"], "storage": storage, "max_trials": 6}})
    assert len(found.completed) == 6
    assert [one.worker for one in found.trials].count("one") == 3
    assert len({one.values["C10"] for one in found.trials}) == 6
    best = yaml.safe_load((tmp_path / "out" / "best.yaml").read_text())
    assert best["aberrations"] == [found.best_params["C10"]]


def test_interrupting_keeps_what_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pypty.tune.study as study

    original, done = study.Bench.run, []

    def interrupted(*given: Any) -> Any:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(1)
        return original(*given)

    given = params({"output_folder": str(tmp_path)})
    monkeypatch.setattr(writing, "write_figures", lambda *given: [])
    with monkeypatch.context() as patch:
        patch.setattr(study.Bench, "run", interrupted)
        found = tune(given, 5)
    assert found.stop_reason == "interrupted in trial 1" and len(found.completed) == 1
    again = tune(given, 1)
    assert again.trials[2].values == again.trials[1].values and again.trials[2].state == "complete"


# ----------------------------------------------------------------------------------------------------------- names


def changed(base: dict[str, Any], **values: Any) -> dict[str, Any]:
    """What the values change."""
    out = with_values(base, values)
    return {name: out[name] for name in out if name not in base or out[name] is not base[name]}


def test_entries_of_dicts_and_arrays_leave_the_given_ones_alone() -> None:
    base = {"slice_distances": [3.0, 4.0], "aberrations": np.array([5.0]), "tilts": None}
    assert changed(base, **{"slice_distances.1": 9.0})["slice_distances"].tolist() == [3.0, 9.0]
    assert changed(base, **{"aberrations.C12b": 7.0})["aberrations"].tolist() == [5.0, 0.0, 7.0]
    assert changed(base, C10=1.0, C21a=2.0)["aberrations"].tolist() == [1.0, 0.0, 0.0, 2.0]
    assert base["slice_distances"] == [3.0, 4.0] and base["aberrations"].tolist() == [5.0]
    with pytest.raises(ParameterError, match="is out of range"):
        with_values(base, {"slice_distances.2": 1.0})
    with pytest.raises(ParameterError, match="not vary with the epoch"):
        with_values({"apply_gaussian_filter": lambda epoch: [1, 1]}, {"apply_gaussian_filter.0": 1.0})


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("slr", {"positions": {"lr": 0.5, "start": 3}}, {"positions": {"lr": 0.25, "start": 3, "end": None}}),
        ("plr", {"probe": 0.5}, {"probe": {"lr": 0.5, "start": 0, "end": None}, "probe_abs": {"lr": 0.25}}),
    ],
)
def test_learning_rates_by_ptyrads_names(
    name: str, given: dict[str, Any], expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    import pypty.tune.entries as entries

    row = dataclasses.replace(SCHEMA["learning_rates"], status="")
    monkeypatch.setattr(entries, "SCHEMA", {**SCHEMA, "learning_rates": row})
    rates = with_values({"learning_rates": given}, {name: 0.25})["learning_rates"]
    for block, record in expected.items():
        assert record.items() <= rates[block].items()


def test_pixel_changes_positions_and_aperture_and_has_an_effect() -> None:
    """Positions and aperture keep their physical size when the pixel size is tuned."""
    base = small_params(probe="aperture", aperture_mask=0.5, rez_pixel_size_A=0.1)
    out = with_values(base, {"dx": 0.44, "conv_angle": 30.0})
    assert (out["pixel_size_x_A"], out["pixel_size_y_A"]) == pytest.approx((0.44, 0.44))
    np.testing.assert_allclose(out["positions"] * 0.44, base["positions"] * 0.4)
    assert out["rez_pixel_size_A"] == pytest.approx(0.1 * 0.4 / 0.44)
    assert out["aperture_mask"] == pytest.approx(2 * 0.44 * 0.03 / wavelength_A(80.0))
    assert with_values(base, {"dx": 0.44})["aperture_mask"] == pytest.approx(0.55)
    assert pypty.evaluate(out).loss != pypty.evaluate(base).loss
    with pytest.raises(ParameterError, match="probe: aperture"):
        with_values(small_params(), {"conv_angle": 30.0})
    with pytest.raises(ParameterError, match="leave obj out"):
        with_values({**base, "obj": np.ones((30, 30, 1, 1))}, {"dx": 0.5})


def test_affine_map_is_that_of_the_formula() -> None:
    base = small_params(positions_correction=np.full((25, 2), 0.25))
    values = {"shear": 2.0, "scale": 1.1, "rotation": 3.0, "asymmetry": 0.1}
    out = with_values(base, values)
    given = base["positions"] + 0.25
    mean = given.mean(axis=0)
    c, s, t = np.cos(np.deg2rad(3)), np.sin(np.deg2rad(3)), np.tan(np.deg2rad(2))
    matrix = 1.1 * np.diag([1.05, 0.95]) @ np.array([[c, s], [-s, c]]) @ np.array([[1, 0], [t, 1]])
    np.testing.assert_allclose(affine_matrix(**values), matrix, rtol=1e-14)
    np.testing.assert_allclose(out["positions"], (given - mean) @ matrix + mean, atol=1e-12)
    assert out["positions_correction"] is None


def test_tilt_slices_and_defocus() -> None:
    local = np.zeros((25, 6))
    local[:, 3] = np.linspace(-1e-3, 1e-3, 25)
    base = two_slices(tilts=local)
    tilts = with_values(base, {"tilt_x": 2.0, "tilt_y": -1.0})["tilts"]
    np.testing.assert_allclose(tilts[:, 3], local[:, 3] - np.tan(2e-3), atol=1e-15)
    np.testing.assert_allclose(tilts[:, 2], np.tan(1e-3), atol=1e-15)
    assert base["tilts"] is local and local[0, 3] == -1e-3
    assert changed({}, tilt_y=1.0)["tilts"].shape == (1, 6)
    with pytest.raises(ParameterError, match="tilt_mode"):
        with_values(two_slices(tilt_mode=1), {"tilt_x": 2.0})
    assert changed({"slice_distances": [4.0, 6.0]}, Nlayer=5) == {"num_slices": 5, "slice_distances": [5.0]}
    assert changed({}, dz=7.0) == {"slice_distances": [7.0]}
    assert changed({}, z_shift=-20.0) == {"extra_probe_defocus": -20.0}
    with pytest.raises(ParameterError, match="determines the number of slices"):
        with_values({"obj": np.ones((3, 3, 2, 1))}, {"Nlayer": 3})


@pytest.mark.parametrize("n_modes", [1, 2, 3, 7])
def test_number_of_probe_modes(n_modes: int) -> None:
    given = np.concatenate([aperture_probe(0.7), 0.5 * aperture_probe(1.4)], axis=2)
    probe = with_values({"probe": given}, {"pmode_max": n_modes})["probe"]
    power = (np.abs(probe) ** 2).sum(axis=(0, 1))
    assert probe.shape == (16, 16, n_modes)
    assert power.sum() == pytest.approx((np.abs(given) ** 2).sum())
    added = power[2:] / power[:2].sum()
    np.testing.assert_allclose(added, 0.02, rtol=1e-10)
    orders = with_values({}, {"pmode_max": n_modes})["n_hermite_probe_modes"]
    assert (orders[0] + 1) * (orders[1] + 1) == n_modes
    assert with_values({"mc_n_modes": 4}, {"pmode_max": n_modes}) == {"mc_n_modes": n_modes}
    start = pypty.run(
        small_params(probe="aperture", aperture_mask=0.5, epoch_max=0, n_hermite_probe_modes=orders)
    )
    assert start.probe.shape[2] == n_modes


def test_every_ptyrad_name_is_known() -> None:
    plain = "dx pmode_max conv_angle z_shift Nlayer dz scale asymmetry rotation shear tilt_y tilt_x"
    for name in [*plain.split(), "plr", "oalr", "oplr", "slr", "tlr", "dzlr"]:
        assert name in ALIASES or name in ENTRY_ALIASES
    for name in (
        "C10",
        "C12",
        "C21",
        "C23",
        "C30",
        "C32",
        "C34",
        "C41",
        "C43",
        "C45",
        "C50",
        "C52",
        "C54",
        "C56",
    ):
        found = components(name)
        assert found == ((name,) if name[2] == "0" else (f"{name}a", f"{name}b"))
        assert all(find_target(one).unit == "Å" for one in found)


# ---------------------------------------------------------------------------------------------------------- layout


def plan_of(**search: Any) -> Any:
    report = Report()
    plan = read_plan({"parameters": {"C10": [0, 1]}, **search}, report)
    report.raise_if_any()
    return plan


def test_shorthands() -> None:
    given = {
        "C12": [-5, 5, 1],
        "hist_length": [2, 8],
        "atv_weight": {"low": 1e-3, "high": 1, "log": True},
        "algorithm": ["ml", "lsq_sqrt"],
        "apply_gaussian_filter": {"choices": [False, [1, 1]]},
    }
    ranges = {one.name: one for one in plan_of(parameters=given).ranges}
    assert list(ranges) == ["C12a", "C12b", *list(given)[1:]]
    assert (ranges["C12b"].suggest, ranges["C12b"].low, ranges["C12b"].step) == ("float", -5, 1)
    assert ranges["hist_length"].suggest == "int" and ranges["atv_weight"].log
    assert ranges["algorithm"].choices == ("ml", "lsq_sqrt")
    blur = ranges["apply_gaussian_filter"]
    assert [blur.value(json.loads(json.dumps(label))) for label in blur.labels] == [False, [1, 1]]
    (modes,) = plan_of(
        parameters={"pmode_max": {"suggest": "float", "low": 1.0, "high": 4.0, "step": 1.0}}
    ).ranges
    assert (modes.suggest, modes.low, modes.step) == ("int", 1, 1) and type(modes.high) is int
    assert plan_of(parameters={"dz": {"choices": [3, 4, 4]}}).ranges[0].choices == (3, 4)
    assert grid_of(ranges["hist_length"]) == [2, 3, 4, 5, 6, 7, 8]
    assert plan_of(sampler="TPESampler", pruner="HyperbandPruner").sampler.name == "TPE"
    assert plan_of(pruner=None).pruner is None


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"parameters": {"batch_sise": [1, 2]}}, "did you mean 'batch_size'"),
        ({"parameters": {"tilt_z": [1, 2]}}, "did you mean 'tilt_"),
        ({"parameters": {"aberrations.C13": [1, 2]}}, "is not an index of aberrations; did you mean"),
        ({"parameters": {"slice_distances": [1, 2]}}, "C10|slice_distances"),
        ({"parameters": {"C10": [5, -5]}}, "low = 5 is above high = -5"),
        ({"parameters": {"C10": {"low": 0, "high": 1, "log": True}}}, "a number > 0 for a logarithmic range"),
        ({"parameters": {"C10": {"low": 0}}}, "needs low and high"),
        ({"parameters": {"C10": {"lo": 0, "high": 1}}}, "'lo'.*did you mean 'low'"),
        ({"parameters": {"C10": 5}}, "given 5"),
        ({"parameters": {"algorithm": ["ml", "mll"]}}, "'mll'.*one of"),
        ({"parameters": {"hist_length": [-3, 5]}}, "out of range"),
        ({"parameters": {"hist_length": {"low": 1.5, "high": 5}}}, "expected a whole number"),
        ({"parameters": {"C12": [0, 1], "C12a": [0, 1]}}, "C12a is given twice"),
        ({"parameters": {"output_folder": ["a", "b"]}}, "cannot be tuned"),
        ({"parameters": {"sample_name": ["a", "b"]}}, "cannot be tuned"),
        ({"parameters": {"C10": {"choices": [1], "low": 1}}}, "together with low or high"),
        ({"parameters": {}}, "at least one name"),
        ({"parameters": {"conv_angle": [0, 20]}}, "out of range"),
        ({"sampler": "TBE"}, "did you mean 'TPE'"),
        ({"sampler": {"name": "TPE", "n_startup": 3}}, "did you mean 'n_startup_trials'"),
        ({"sampler": "Grid"}, "need a step"),
        ({"pruner": {"name": "Threshold"}}, "tune.pruner: Threshold"),
        ({"storage": "tune.db"}, "tune.storage"),
        ({"storage": "sqlite:////no/such/folder/x.db"}, "does not exist; create it"),
        ({"storage": "nosql://x"}, "cannot be used"),
        ({"objective": "los"}, "tune.objective"),
        ({"n_trials": 0}, "tune.n_trials"),
        ({"trials": 3}, "did you mean 'n_trials'"),
    ],
)
def test_wrong_input(search: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        tune(params(**search))


def test_all_problems_at_once() -> None:
    with pytest.raises(ParameterError) as error:
        tune(params({"acc_voltage": -1}, parameters={"nothing": [1, 2], "C10": [2, 1]}, n_trials=0))
    for text in ("acc_voltage", "tune.parameters.nothing", "tune.parameters.C10", "tune.n_trials"):
        assert f"- {text}: " in str(error.value)
    with pytest.raises(ParameterError, match="^1 problem.*\n.*tune: given None"):
        tune(small_params())


def test_without_optuna(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ParameterError, match=r"pip install 'pypty\[tune\]'"):
        tune(params())


def test_runs_ignore_the_key() -> None:
    assert pypty.evaluate(params()).loss == pypty.evaluate({**params(), "tune": None}).loss


def test_the_ratio_is_not_divided_by_the_number_of_patterns() -> None:
    from pypty.tune.objectives import TrialObjective

    run = done(
        loss_terms={"single": {}},
        loss_scale="ratio",
        epoch_max=1,
        learning_rates={"obja": 0.0, "probe": 1e-9},
    )
    judged = TrialObjective("loss", run).at_the_end()
    assert judged == pytest.approx(run.state.records[0].loss, rel=0.2)


# -------------------------------------------------------------------------------------------- part by part


def test_options_of_the_command() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    found = parser.parse_args(["file.yaml", "--trials", "4", "--worker", "a", "--set", "x=1", "--set", "y=2"])
    assert (found.file, found.trials, found.storage, found.worker) == ("file.yaml", 4, None, "a")
    assert found.set == ["x=1", "y=2"]


def test_the_log_is_that_of_the_worker(tmp_path: Path) -> None:
    log = logging.getLogger("pypty.tune")
    before = log.level
    with TuneLog(0, tmp_path, "work er/1"):
        log.info("trial 3 of 9")
    assert log.level == before and not log.handlers
    assert "trial 3 of 9" in (tmp_path / "tune_work-er-1.log").read_text(encoding="utf-8")
    with TuneLog(0, tmp_path, ""):
        pass
    assert (tmp_path / "tune.log").is_file()


def test_optuna_is_silent_inside() -> None:
    assert load_optuna() is optuna
    before = optuna.logging.get_verbosity()
    with quiet():
        assert optuna.logging.get_verbosity() == optuna.logging.ERROR
    assert optuna.logging.get_verbosity() == before


TRIALS = (
    TrialRecord(number=0, state="complete", value=3.0, values={"C10": 10.0, "plr": 1e-3}, epochs=4),
    TrialRecord(number=1, state="pruned", value=1.0, values={"C10": 5.0}, epochs=1),
    TrialRecord(number=2, state="complete", value=2.0, values={"C10": 20.0}, epochs=4),
    TrialRecord(number=3, state="failed", value=None, values={"C10": 9.0}),
)


def test_the_table_has_the_best_trials_first(tmp_path: Path) -> None:
    study = Study(
        best_params={"C10": 20.0},
        best_value=2.0,
        best_trial=2,
        trials=TRIALS,
        params={},
        objective="loss",
        importances={},
        folder=tmp_path,
        stop_reason="n_trials = 4 were done",
    )
    assert [one.number for one in study.completed] == [2, 0]
    lines = study.table().splitlines()
    assert lines[0].split() == ["trial", "loss", "C10", "plr", "epochs"]
    assert lines[1].split() == ["2", "2.00000", "20", "4"]
    assert lines[2].split() == ["0", "3.00000", "10", "1.0e-03", "4"]
    assert lines[3] == "4 trials (2 complete, 1 pruned, 1 failed); stopped: n_trials = 4 were done"
    assert lines[4] == f"best parameters: {tmp_path / 'best.yaml'}"
    assert len(study.table(1).splitlines()) == 4
    assert repr(study) == "Study(4 trials, best loss 2.0, C10 = 20)"
    assert (short(0.123456), short(0.01, "plr"), short(3)) == ("0.1235", "1.0e-02", "3")


def test_ranges_are_distributions_and_labels_values() -> None:
    assert distribution(
        Range(name="a", suggest="int", low=1, high=9, step=2)
    ) == optuna.distributions.IntDistribution(1, 9, False, 2)
    assert distribution(
        Range(name="a", suggest="float", low=0.1, high=2.0, step=None, log=True)
    ) == optuna.distributions.FloatDistribution(0.1, 2.0, True)
    words = Range(name="a", suggest="cat", choices=(1, [2, 3]))
    assert distribution(words).choices == (1, "[2, 3]") and words.value("[2, 3]") == [2, 3]
    plan = plan_of(parameters={"C10": [-60, 60], "optimizer": {"suggest": "cat", "choices": ["adam", "sgd"]}})
    assert values_of(plan, {"C10": 3.0, "other": 1}) == {"C10": 3.0, "other": 1}


def test_trials_of_a_worker_that_is_gone_are_done_again() -> None:
    plan = plan_of(storage="memory")
    study = open_study(plan, None, optuna.samplers.RandomSampler(0), None)
    assert study.user_attrs["objective"] == plan.objective
    living, dead = (
        study.ask({"C10": distribution(plan.ranges[0])}),
        study.ask({"C10": distribution(plan.ranges[0])}),
    )
    sign(living, "one")
    dead.set_user_attr("worker", {**living.user_attrs["worker"], "pid": 2**30, "started": 1.0})
    assert retry_dead(study, "") == [1]
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    assert [state.name for state in states] == ["RUNNING", "FAIL", "WAITING"]
    waiting = study.get_trials(deepcopy=False)[2]
    assert waiting.user_attrs == {"retry of": 1, "retries": 1}
    given_up = optuna.trial.create_trial(
        params={"C10": 1.0},
        distributions={"C10": distribution(plan.ranges[0])},
        value=1.0,
        user_attrs={"retries": 3},
    )
    retry(study, given_up)
    assert len(study.get_trials(deepcopy=False)) == 3, "three times are enough"


def test_records_of_a_study_and_its_best_parameters() -> None:
    plan = plan_of()
    study = open_study(plan, None, optuna.samplers.RandomSampler(0), None)
    for value in (5.0, 4.0):
        trial = study.ask({"C10": distribution(plan.ranges[0])})
        trial.report(value + 1, 1)
        trial.set_user_attr("epochs", 2)
        study.tell(trial, value)
    pruned = study.ask({"C10": distribution(plan.ranges[0])})
    pruned.report(9.0, 1)
    study.tell(pruned, state=optuna.trial.TrialState.PRUNED)
    records = records_of(study, plan)
    assert [(one.state, one.value, one.epochs) for one in records] == [
        ("complete", 5.0, 2), ("complete", 4.0, 2), ("pruned", 9.0, 0)]  # fmt: skip
    assert records[0].history == {1: 6.0}
    found = study_of(study, plan, params(), None, "done")
    assert (found.best_trial, found.best_value, found.stop_reason) == (1, 4.0, "done")
    assert found.importances == {}, "too few trials"
    assert found.best_params == {"C10": records[1].values["C10"]} and "tune" not in found.params
    changed = {key for key, value in found.params.items() if key not in params()}
    assert changed <= {"extra_probe_defocus", "aberrations"} and len(changed) == 1
    options = Range(name="optimizer", suggest="cat", choices=("adam",), options={"adam": {"eps": 1e-6}})
    chosen = best_params(params(), {"optimizer": "adam"}, type("P", (), {"ranges": (options,)})())
    assert (chosen["optimizer"], chosen["optimizer_options"]) == ("adam", {"eps": 1e-6})


def test_a_trial_gives_its_objective_and_its_phase() -> None:
    given = params()
    assert silent({**given, "print_flag": 3}) == {
        **{key: value for key, value in given.items() if key != "tune"}, "output_folder": "", "print_flag": 0,
        "resume": False}  # fmt: skip
    bench = Bench(prepare(silent(given)), given, {"extra_probe_defocus"})
    seen: list[tuple[int, float]] = []
    outcome = bench.run(given, "loss", lambda epochs, value: bool(seen.append((epochs, value))))
    assert (outcome.epochs, outcome.pruned, [epochs for epochs, _ in seen]) == (2, False, [1, 2])
    assert outcome.pixel_size_A == (0.4, 0.4) and outcome.phase.ndim == 2
    stopped = bench.run(given, "loss", lambda epochs, value: True)
    assert (stopped.epochs, stopped.pruned) == (1, True)
    assert outcome.value < seen[0][1] + 1e-12
