"""The same code on a device: every array is moved explicitly, and the numbers are those of the CPU."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers import random_complex
from problems import (
    N_PATTERNS,
    SCAN,
    aperture_probe,
    counts,
    every_block,
    patterns,
    scan_positions,
    small_params,
    smooth_object,
)

import pypty
from pypty.backend import array
from pypty.backend.array import gpu_status
from pypty.errors import BackendError
from pypty.model import stages
from pypty.model.blocks import BLOCKS
from pypty.model.forward import Model
from pypty.model.parametrization import OBJECT_FORMS, POSITION_FORMS, PROBE_FORMS, Parametrization
from pypty.objective.regularizers import REGULARIZERS as ALL_REGULARIZERS
from pypty.objective.share import Share
from pypty.params.schema.changes import CONSTRAINTS


def problem(**changes):
    """Two scattering slices with their own distance, a mask, sub-pixel positions, everything refined."""
    params = small_params(update_probe_pos=True, update_slice_distances=True, slice_distances=[30.0])
    mask = np.ones(params["dataset"].shape[1:])
    mask[3, 4] = 0
    obj = smooth_object(2, seed=8)
    return {**params, "obj": obj, "detector_mask": mask, **changes}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lazy_clean": True},
        {"data_pad": 2, "use_padded_intensity": False},
        {"algorithm": "ml"},
        {"algorithm": "ml", "free_pixels": 0.2},
        {"loss_terms": {"single": {}}, "free_pixels": 0.2},
    ],
)
def test_evaluate_agrees_with_the_cpu(device: None, changes: dict) -> None:
    on_cpu = pypty.evaluate(problem(backend="cpu", **changes))
    on_device = pypty.evaluate(problem(backend="gpu", **changes))
    assert on_device.loss == pytest.approx(on_cpu.loss, rel=1e-12)
    for name, gradient in on_cpu.gradients.items():
        assert isinstance(on_device.gradients[name], np.ndarray)
        np.testing.assert_allclose(
            on_device.gradients[name], gradient, rtol=1e-9, atol=1e-9 * np.abs(gradient).max()
        )


@pytest.mark.parametrize("loss", [{"algorithm": "ml"}, {"loss_terms": {"single": {}}}])
def test_deviance_free_pixels_and_verdict_agree_with_the_cpu(device: None, loss: dict) -> None:
    given = problem(free_pixels=0.2, epoch_max=1, dataset=counts(), **loss)
    on_cpu, on_device = (pypty.run({**given, "backend": name}) for name in ("cpu", "gpu"))
    for name in ("deviance", "free_deviance"):
        np.testing.assert_allclose(getattr(on_device.history, name), getattr(on_cpu.history, name), rtol=1e-8)
    for name, value in on_cpu.fit_quality().arrays().items():
        np.testing.assert_allclose(
            on_device.fit_quality().arrays()[name], value, rtol=1e-6, atol=1e-9, err_msg=name
        )
    bars = [pypty.uncertainty(run, repeats=2, epochs=1) for run in (on_cpu, on_device)]
    np.testing.assert_allclose(bars[1].phase_rad, bars[0].phase_rad, rtol=1e-3)


def test_run_and_resume_on_the_device(device: None, tmp_path: Path) -> None:
    """The same bits, where the order of sums is fixed."""
    folder = {"output_folder": str(tmp_path / "out"), "backend": "gpu", "deterministic": True}
    whole = pypty.run(problem(backend="gpu", epoch_max=4, deterministic=True))
    on_cpu = pypty.run(problem(backend="cpu", epoch_max=4))
    np.testing.assert_allclose(whole.loss, on_cpu.loss, rtol=1e-8)
    pypty.run(problem(epoch_max=2, **folder))
    resumed = pypty.run(problem(epoch_max=4, resume=True, **folder))
    np.testing.assert_array_equal(resumed.obj, whole.obj)


# --------------------------------------------------------------------------------------------------------------------
# Everything there is, in a handful of configurations

RNG = np.random.default_rng(12)
PLATES = np.exp(1j * RNG.uniform(-1, 1, (N_PATTERNS, 16, 16)))
MASKS = RNG.uniform(0, 1, (6, 12, 12))
MODES = np.concatenate([aperture_probe(0.7), 0.5 * aperture_probe(1.3)], axis=2)
MODES = MODES + 0.01 * random_complex(RNG, MODES.shape)
OBJECT = np.concatenate([smooth_object(2), smooth_object(2, seed=8) * 0.9], axis=3)
SCAN_WEIGHTS = [
    f"{kind}_reg_weight_{block}"
    for kind in ("fast_axis", "slow_axis", "deformation")
    for block in ("positions", "tilts")
]
REGULARIZERS: dict[str, Any] = {
    **dict.fromkeys(SCAN_WEIGHTS, 0.1),
    "scan_size": SCAN,
    "phase_norm_weight": 0.1,
    "abs_norm_weight": 0.1,
    "probe_reg_constraint_weight": 0.01,
    "probe_constraint_mask": 0.4,
    "window_weight": 1.0,
    "window": [0.4, 0.8],
    "atv_weight": 0.1,
    "atv_q": 1.3,
    "atv_p": 1.7,
    "mixed_variance_weight": 1.0,
    "wedge_mu": 0.01,
    "beta_wedge": 1.0,
    "probe_mod_reg_weight": 1e-3,
    "probe_mod_tol": 0.3,
    "scan_step_A": 4.0,
}
OFF_GRID = {"positions": scan_positions() + RNG.uniform(0, 0.4, (N_PATTERNS, 2))}
PLAIN = {"probe": MODES, "probe_marker": None, "obj": OBJECT, **OFF_GRID}
IMAGES = {"recon_type": "near_field", "defocus_array": np.linspace(-60, 80, N_PATTERNS), "Cs": 1e5}
EVERYTHING: dict[str, dict[str, Any]] = {
    "far field": {"obj": OBJECT, **OFF_GRID, "phase_plate_in_h5": PLATES},
    "cropped, upsampled, poisson_gaussian": {
        "dataset": 2 * patterns(2)[:, 2:14:2, 2:14:2],
        "data_pad": 2,
        "upsample_pattern": 2,
        "use_padded_intensity": False,
        "algorithm": "poisson_gaussian",
        "detector_gain": 2.0,
        "readout_noise": 0.5,
        "detector_mask": RNG.uniform(0, 1, (6, 6)),
        "data_multiplier": 1.5,
        "loss_weight": "mean",
    },
    "near field": {**IMAGES, **PLAIN, "alpha_near_field": 4e-3, "algorithm": "lsq_sqrt_2"},
    "near field, one tilt, virtual detectors": {
        **IMAGES,
        **PLAIN,
        "defocus_array": [50.0],
        "tilts": [[1e-3, 0, 2e-3, 1e-3, 0, 1e-3]],
        "masks": MASKS,
        "data_pad": 2,
        "dataset": RNG.uniform(1, 3, (N_PATTERNS, 6)),
        "algorithm": "poisson_compressed",
    },
    "one position": {**IMAGES, **PLAIN, "positions": [[3.2, 4.1]], "tilt_mode": 0},
    "fourth order": {**PLAIN, "propmethod": "better_multislice", "lazy_clean": True, "algorithm": "ml"},
    "other fourth order, one tilt": {
        **PLAIN,
        "propmethod": "yoshida",
        "tilts": [[0, 0, 2e-3, 1e-3, 0, 0]],
        "tilt_mode": 0,
        "algorithm": "lsq",
        "slice_distances": [10.0, 12.0],
    },
    "exact, regularised": {**PLAIN, **REGULARIZERS, "propmethod": "angular_spectrum"},
    "simulated pixels cropped, blurred windows, blur at the rim": {
        **PLAIN,
        "dataset": patterns(2)[:, 3:14, 3:14],
        "simu_Npix": 16,
        "simu_match_mode": "crop",
        "detector_blur_edge": "reflect",
        "obj_preblur_std": 0.5,
        "obj_mode_weights": [0.8, 0.3],
        "data_normalization": "mean_at_one",
    },
    "simulated pixels resampled, weights": {
        **PLAIN,
        "dataset": patterns(2)[:, 3:13, 3:13],
        "simu_Npix": 16,
        "simu_match_mode": "resample",
        "obj_mode_weights": [0.8, 0.3],
    },
    "regularised, several probes": {"obj": OBJECT, **OFF_GRID, **REGULARIZERS},
}


def everything(name: str, folder: Path, **changes: Any) -> dict[str, Any]:
    """Every unknown is refined."""
    given = {**EVERYTHING[name], **changes}
    plates = given.pop("phase_plate_in_h5", None)
    if plates is not None:
        given["phase_plate_in_h5"] = str(folder / "plates.h5")
        with h5py.File(given["phase_plate_in_h5"], "w") as file:
            file["configs"] = plates
    return every_block(**given)


@pytest.mark.parametrize("name", EVERYTHING)
def test_everything_agrees_with_the_cpu(device: None, name: str, tmp_path: Path) -> None:
    """Loss, regularisers and gradients of every block."""
    on_cpu = pypty.evaluate(everything(name, tmp_path, backend="cpu"))
    on_device = pypty.evaluate(everything(name, tmp_path, backend="gpu"))
    assert on_device.loss == pytest.approx(on_cpu.loss, rel=1e-12)
    assert on_device.sse == pytest.approx(on_cpu.sse, rel=1e-12)
    assert on_device.regularizers == pytest.approx(on_cpu.regularizers, rel=1e-10)
    assert set(on_cpu.gradients) == set(BLOCKS)
    assert set(on_device.gradients) == set(on_cpu.gradients)
    for block, gradient in on_cpu.gradients.items():
        scale = 1e-9 * np.abs(gradient).max()
        np.testing.assert_allclose(on_device.gradients[block], gradient, rtol=1e-8, atol=scale, err_msg=block)
    simulated = [pypty.simulate(everything(name, tmp_path, backend=where)) for where in ("cpu", "gpu")]
    np.testing.assert_allclose(simulated[1], simulated[0], rtol=1e-9, atol=1e-9)


def test_everything_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The configurations contain every stage and every regulariser."""
    given = [everything(name, tmp_path) for name in EVERYTHING]  # before, as patterns are simulated once
    built: set[type] = set()
    begin = Model.__init__

    def noted(self: Model, chosen: list[stages.Stage], *args: Any) -> None:
        built.update(type(stage) for stage in chosen)
        begin(self, chosen, *args)

    monkeypatch.setattr(Model, "__init__", noted)
    terms: set[str] = set()
    for params in given:
        terms |= set(pypty.evaluate(params).regularizers)
    parts = ("ObjectWindows", "Propagation", "Stage")
    exported = {
        getattr(stages, name)
        for name in stages.__all__
        if name not in parts and hasattr(getattr(stages, name), "adjoint")
    }
    assert built == exported
    assert terms == set(ALL_REGULARIZERS)


RUNS: dict[str, dict[str, Any]] = {
    "phase of the object, then amplitude too": {
        "phase_only_obj": lambda epoch: epoch < 2,
        "obj_parametrization": "amplitude_phase",
        "positions_parametrization": "affine",
    },
    "phase of the probe, then its amplitude": {
        "tune_only_probe_phase": lambda epoch: epoch < 2,
        "tune_only_probe_abs": lambda epoch: epoch >= 2,
        "positions_parametrization": "jitter",
        "keep_probe_states_orthogonal": True,
    },
    "soft edges, orthogonal modes, aperture": {
        "smooth_rolloff": 0.2,
        "keep_probe_states_orthogonal": True,
        "probe_reg_constraint_weight": math.inf,
        "probe_constraint_mask": 0.6,
    },
    "filters and flips": {
        "apply_gaussian_filter": lambda epoch: [0.3, 0.5, 0.4] if epoch == 0 else False,
        "apply_gaussian_filter_amplitude": lambda epoch: [0.5, 0.4] if epoch == 1 else False,
        "do_charge_flip": lambda epoch: epoch == 2,
        "cf_delta_phase": 0.2,
        "cf_delta_abs": 0.2,
        "cf_beta_phase": -0.8,
        "cf_beta_abs": -0.8,
        "fancy_sigma": ((0.6, 0.8), (0.7, 0.9)),
    },
    "from the beginning": {
        "restart_from_vacuum": lambda epoch: epoch == 2,
        "reset_positions": lambda epoch: epoch == 2,
        "preconditioner": False,
    },
    "windows that move": {
        "positions": scan_positions() + 4.0,
        "positions_correction": RNG.uniform(0.6, 0.9, (N_PATTERNS, 2)),
        "dynamically_resize_yx_object": 0.55,
    },
    "a torn scan": {"puzzle_positions": lambda epoch: epoch == 1},
}
SET_BY_HAND = {
    "apply_gaussian_filter",
    "apply_gaussian_filter_amplitude",
    "keep_probe_states_orthogonal",
    "do_charge_flip",
    "fancy_sigma",
    "restart_from_vacuum",
    "reset_positions",
    "dynamically_resize_yx_object",
    "puzzle_positions",
}


def by_hand(name: str, **changes: Any) -> dict[str, Any]:
    """Every unknown but the width of the blur, which would fall to where it has no slope; the torn scan is larger."""
    given = {**PLAIN, **RUNS[name], "update_detector_blur_std": False, **changes}
    if name != "a torn scan":
        return every_block(**given)
    rows, columns = 6, 8
    y, x = np.meshgrid(2.0 * np.arange(rows), 2.0 * np.arange(columns), indexing="ij")
    positions = np.stack([y, x], axis=-1) + np.array([0.0, 4.0])
    positions[:, 4:] += np.array([3.0, -2.5])
    given.update(
        positions=positions.reshape(-1, 2), scan_size=(rows, columns), obj=smooth_object(2)[:, :, :, [0, 0]]
    )
    given["dataset"] = np.resize(patterns(2), (rows * columns, 16, 16))
    per_pattern = ("tilts", "beam_current", "aberration_marker")
    params = every_block(**given)
    return {**params, **{key: np.resize(params[key], (48, *params[key].shape[1:])) for key in per_pattern}}


@pytest.mark.parametrize("name", RUNS)
def test_runs_agree_with_the_cpu(
    device: None,
    name: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Parametrisations and changes by hand: three epochs of every unknown and one after a restart, and what comes out.

    Which gradients of a rejected trial are left out differs by design, and so does the next trial of the line search:
    here none is left out.
    """
    monkeypatch.setattr(Share, "expects_rejection", lambda share, number: False)
    found = {}
    caplog.set_level("INFO", "pypty")
    for where in ("cpu", "gpu"):
        caplog.clear()
        folder = {"output_folder": str(tmp_path / where), "backend": where}
        found[where] = pypty.run(by_hand(name, epoch_max=3, **folder))
        for key in SET_BY_HAND & set(RUNS[name]) - {"fancy_sigma"}:
            assert key in caplog.text, key
        resumed = pypty.run(by_hand(name, epoch_max=4, resume=True, **folder))
        found[f"{where}, resumed"] = resumed
    for part, tolerance in (("", 1e-6), (", resumed", 1e-5)):
        on_cpu, on_device = found["cpu" + part], found["gpu" + part]
        np.testing.assert_allclose(on_device.loss, on_cpu.loss, rtol=tolerance)
        for block in ("obj", "probe", "positions", "tilts", "static_background", "start_positions"):
            here, there = getattr(on_cpu, block), getattr(on_device, block)
            assert isinstance(there, np.ndarray)
            scale = 10 * tolerance * np.abs(here).max()
            np.testing.assert_allclose(there, here, rtol=10 * tolerance, atol=scale, err_msg=block)
    assert len(found["cpu"].loss) == 4 and len(found["cpu, resumed"].loss) == 5


def test_every_form_and_change_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs contain every parametrisation and every change by hand."""
    forms: set[tuple[str, str]] = set()
    begin = Parametrization.__init__

    def noted(self: Parametrization, *args: Any, **keys: Any) -> None:
        begin(self, *args, **keys)
        forms.update([("obj", self.obj), ("probe", self.probe), ("positions", self.positions)])

    monkeypatch.setattr(Parametrization, "__init__", noted)
    for name in RUNS:
        pypty.run(by_hand(name, epoch_max=3))
    expected = {("obj", form) for form in OBJECT_FORMS} | {("probe", form) for form in PROBE_FORMS}
    assert forms == expected | {("positions", form) for form in POSITION_FORMS}
    numbers = ("cf_", "atv_", "beta_", "window", "mixed_variance_", "probe_mod_", "probe_constraint_")
    of_constraints = {row.name for row in CONSTRAINTS if not row.name.startswith(numbers)}
    changes = {name for name in of_constraints if name not in ALL_REGULARIZERS}
    assert changes | {"dynamically_resize_yx_object", "puzzle_positions"} == SET_BY_HAND
    assert {key for run in RUNS.values() for key in run} >= SET_BY_HAND


def test_frozen_blocks_on_the_device(device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's own decisions are the same."""
    changes = {"update_probe_pos": True, "max_count": 1, "update_step_bfgs": 1e6, "epoch_max": 6}
    on_cpu = pypty.run(small_params(backend="cpu", **changes))
    on_device = pypty.run(small_params(backend="gpu", **changes))
    assert len(on_cpu.decisions) >= 1
    assert on_device.decisions == on_cpu.decisions


def test_the_device_is_really_used(device: None) -> None:
    assert pypty.plan(problem(backend="gpu"), show=False).device == "the GPU"


def test_simulate_on_the_device(device: None) -> None:
    np.testing.assert_allclose(
        pypty.simulate(problem(backend="gpu")), pypty.simulate(problem(backend="cpu")), rtol=1e-10, atol=1e-10
    )


def test_a_device_refuses_to_mix(device: None) -> None:
    import cupy

    on_device = cupy.asarray(np.ones(3))
    for mixed in (
        lambda: on_device + np.ones(3),
        lambda: np.ones(3) * on_device,
        lambda: np.asarray(on_device),
        lambda: np.exp(np.ones(3), out=on_device),
    ):
        with pytest.raises(TypeError):
            mixed()


@pytest.mark.parametrize(
    ("cupy", "reason"),
    [
        (None, "not installed"),
        (
            type("Cupy", (), {"__version__": "14", "is_available": staticmethod(lambda: False)}),
            "no CUDA device",
        ),
        (
            type("Cupy", (), {"__version__": "14.0.1", "is_available": staticmethod(lambda: True)}),
            r"CuPy 14\.0\.1 .* above 2 GiB; .*pip install -U",
        ),
    ],
)
def test_why_there_is_no_gpu(cupy: object, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array, "cupy_module", lambda: cupy)
    assert re.search(reason, gpu_status().reason)
    assert array.select("auto").name == "cpu"
    with pytest.raises(BackendError, match=reason):
        array.select("gpu")
