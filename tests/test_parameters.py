"""Every parameter: what works has its effect and refuses a bad value, what does not work yet says so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import test_parameters_batches
import test_parameters_constraints
import test_parameters_losses
import test_parameters_model
import test_parameters_physics
import test_parameters_projections
import test_parameters_results
import test_parameters_speed
from parameter_registry import (
    EFFECTS,
    Desk,
    assert_refused,
    effect,
    frequency,
    loss,
    loss_as_given,
    names_in,
    plan,
    rows,
    spectrum,
    start,
)
from problems import (
    N_PATTERNS,
    SIDE,
    aperture_probe,
    patterns,
    scan_positions,
    small_params,
    smooth_object,
    two_slices,
)

import pypty
from pypty.engine.setup import memory
from pypty.engine.setup.prepare import inspect
from pypty.errors import OutputError, ParameterError
from pypty.optics.wavelength import wavelength_A
from pypty.output.loss_log import LOSS_LOG
from pypty.params.explain import explain
from pypty.params.parameter import NO_EFFECT, RECORDED, Parameter
from pypty.params.reading import read_parameters
from pypty.params.report import Report
from pypty.params.schema import GROUPS, SCHEMA

OTHER_FILES = (
    test_parameters_batches,
    test_parameters_constraints,
    test_parameters_losses,
    test_parameters_model,
    test_parameters_physics,
    test_parameters_projections,
    test_parameters_results,
    test_parameters_speed,
)
AVAILABLE = [name for name, parameter in SCHEMA.items() if parameter.status == ""]


# --------------------------------------------------------------------------------------------------------- data


@effect("data_path", bad=3)
def _(desk: Desk) -> None:
    np.save(desk.folder / "a.npy", 2 * patterns())
    assert loss(dataset=..., data_path=str(desk.folder / "a.npy")) == loss(dataset=2 * patterns()) != loss()


@effect("dataset", bad="file.h5")
def _(desk: Desk) -> None:
    assert loss_as_given(dataset=patterns() + 1) > loss_as_given() > 0
    perfect = {"obj": smooth_object(), "probe": aperture_probe(1.0)}
    assert loss_as_given(**perfect) < 1e-20


@effect("data_key", bad=3)
def _(desk: Desk) -> None:
    with h5py.File(desk.folder / "a.h5", "w") as file:
        file["data"] = patterns()
        file["other"] = 3 * patterns()
    path = {"dataset": ..., "data_path": str(desk.folder / "a.h5")}
    assert loss(**path) == loss()
    assert loss(**path, data_key="other") == loss(dataset=3 * patterns())


@effect("trust_external_links", bad=1)
def _(desk: Desk) -> None:
    (desk.folder / "inner").mkdir()
    with h5py.File(desk.folder / "b.h5", "w") as file:
        file["data"] = patterns()
    with h5py.File(desk.folder / "inner" / "a.h5", "w") as file:
        file["data"] = h5py.ExternalLink("../b.h5", "data")
    path = {"dataset": ..., "data_path": str(desk.folder / "inner" / "a.h5")}
    with pytest.raises(ParameterError, match="trust_external_links"):
        loss(**path)
    assert loss(**path, trust_external_links=True) == loss()


@effect("detector_mask", bad=np.ones((3, 3)))
def _(desk: Desk) -> None:
    left = np.zeros((SIDE, SIDE))
    left[:, : SIDE // 2] = 1
    parts = [loss_as_given(detector_mask=mask) for mask in (left, 1 - left)]
    assert min(parts) > 0
    assert sum(parts) == pytest.approx(loss_as_given(), rel=1e-12)
    assert loss_as_given(detector_mask=0.25 * left) == pytest.approx(0.25 * parts[0], rel=1e-12)


@effect("data_multiplier", bad=0.0)
def _(desk: Desk) -> None:
    assert loss(data_multiplier=3.0) == pytest.approx(loss(dataset=3 * patterns()), rel=1e-12)
    assert loss_as_given(data_multiplier=3.0) == pytest.approx(
        loss_as_given(dataset=3 * patterns()), rel=1e-12
    )


@effect("data_pad", bad=-1)
def _(desk: Desk) -> None:
    by_hand = np.pad(patterns(), ((0, 0), (3, 3), (3, 3)))
    assert loss(data_pad=3) == loss(dataset=by_hand)
    assert start(data_pad=3).probe.shape == (SIDE + 6, SIDE + 6, 1)


@effect("data_bin", bad=0)
def _(desk: Desk) -> None:
    by_hand = patterns()[:, :15, :15].reshape(N_PATTERNS, 5, 3, 5, 3).sum(axis=(2, 4))
    assert loss(data_bin=3, probe=None) == pytest.approx(loss(dataset=by_hand, probe=None), rel=1e-12)
    assert start(data_bin=3, probe=None).probe.shape == (5, 5, 1)


@effect("flip_ky", bad="no")
def _(desk: Desk) -> None:
    assert loss(flip_ky=True) == loss(dataset=patterns()[:, ::-1].copy()) != loss()


@effect("data_shift_vector", bad=(1.5, 0))
def _(desk: Desk) -> None:
    by_hand = np.zeros_like(patterns())
    by_hand[:, 2:, :-1] = patterns()[:, :-2, 1:]
    assert loss(data_shift_vector=(2, -1)) == loss(dataset=by_hand) != loss()


@effect("sequence", bad=[25])
def _(desk: Desk) -> None:
    chosen = [20, 3, 4]
    by_hand = {"dataset": patterns()[[3, 4, 20]], "positions": scan_positions()[[3, 4, 20]]}
    assert loss_as_given(sequence=chosen) == pytest.approx(loss_as_given(**by_hand), rel=1e-12)
    table = rows(
        desk.folder, sequence=lambda epoch: range(25) if epoch < 2 else range(5), skip_preprocessing=True
    )
    assert float(table[2]["loss"]) < 0.5 * float(table[1]["loss"])


@effect("use_full_FOV", bad=3)
def _(desk: Desk) -> None:
    upper = np.arange(N_PATTERNS // 5 * 2)
    assert start(sequence=upper).obj.shape[:2] == (24, 24)
    assert start(sequence=upper, use_full_FOV=False).obj.shape[:2] == (18, 24)


@effect("force_dataset_dtype", bad="complex128")
def _(desk: Desk) -> None:
    assert loss(force_dataset_dtype="uint8") == loss(dataset=np.floor(patterns())) != loss()
    assert loss(force_dataset_dtype=np.uint8) == loss(force_dataset_dtype=np.dtype("uint8"))


def _little_memory(desk: Desk) -> None:
    """Patterns fit into what is left, but not into half of it."""
    whole = plan(compute_batch=1)
    need = whole.total + 0.5 * whole.items["measured patterns"]
    desk.monkeypatch.setattr(memory, "free_bytes", lambda backend, sharers=1: int(need / 0.7) + 100)


@effect("load_one_by_one", bad="yes")
def _(desk: Desk) -> None:
    _little_memory(desk)
    assert not plan().resident
    assert plan(load_one_by_one=False).resident


@effect("preload_to_cpu", bad=None)
def _(desk: Desk) -> None:
    _little_memory(desk)
    assert not plan().resident
    assert plan(preload_to_cpu=True).resident


@effect("mean_pattern", bad=np.ones((4, 4)), beside={"probe": None})
def _(desk: Desk) -> None:
    given = np.zeros((SIDE, SIDE))
    given[6:11, 6:11] = 4.0
    probe = start(probe=None, mean_pattern=given, update_extra_cut=0, damping_cutoff_multislice=2).probe
    power = np.fft.fftshift(spectrum(probe[..., 0]))
    assert np.allclose(power / power.max(), given / 4, atol=1e-12)
    assert power.sum() == pytest.approx(patterns().sum(axis=(1, 2)).mean(), rel=1e-9)


# ------------------------------------------------------------------------------------------------------- output


@effect("output_folder", bad=1.5)
def _(desk: Desk) -> None:
    pypty.run(small_params(output_folder=desk.folder / "deep" / "out"))
    assert (desk.folder / "deep" / "out" / "co.npy").is_file()


@effect("strip_dataset_from_params", bad=7)
def _(desk: Desk) -> None:
    for strip in (True, False):
        pypty.run(small_params(output_folder=str(desk.folder / str(strip)), strip_dataset_from_params=strip))
        assert (desk.folder / str(strip) / "params" / "dataset.npy").exists() is not strip


@effect("save_loss_log", bad=3)
def _(desk: Desk) -> None:
    pypty.run(small_params(output_folder=str(desk.folder / "0"), save_loss_log=0))
    assert not (desk.folder / "0" / LOSS_LOG).exists()
    for level, column in ((1, "Constraints contribution"), (2, "atv_weight")):
        table = rows(desk.folder / str(level), save_loss_log=level, atv_weight=0.1)
        expected = pypty.evaluate(small_params(atv_weight=0.1)).regularizers["atv_weight"]
        assert float(table[0][column]) == expected


@effect("epoch_prev", bad=-3)
def _(desk: Desk) -> None:
    assert pypty.run(small_params(epoch_prev=2, epoch_max=5)).epochs.tolist() == [2, 3, 4]
    given = 3 * aperture_probe()
    assert np.allclose(start(probe=given, epoch_prev=1).probe, given, rtol=0, atol=1e-14)
    assert np.array_equal(
        start(positions=scan_positions() + 5.5, epoch_prev=1).positions, scan_positions() + 5.5
    )


@effect("epoch_max", bad=1.5)
def _(desk: Desk) -> None:
    assert pypty.run(small_params(epoch_max=4)).epochs.tolist() == [0, 1, 2, 3]
    assert pypty.run(small_params(epoch_max=0)).epochs.tolist() == []


@effect("save_checkpoints_every_epoch", bad=-1)
def _(desk: Desk) -> None:
    pypty.run(small_params(output_folder=str(desk.folder), epoch_max=5, save_checkpoints_every_epoch=2))
    found = {path.name for path in desk.folder.glob("checkpoint_obj_*")}
    assert found == {f"checkpoint_obj_epoch_{epoch}.npy" for epoch in (0, 2, 4)}


@effect("save_inter_checkpoints", bad=0.5)
def _(desk: Desk) -> None:
    replaced: list[str] = []
    original = os.replace
    desk.monkeypatch.setattr(os, "replace", lambda a, b: (replaced.append(Path(b).name), original(a, b))[1])
    counts = []
    for every in (0, 2, 1):
        replaced.clear()
        pypty.run(
            small_params(
                output_folder=str(desk.folder / str(every)), epoch_max=4, save_inter_checkpoints=every
            )
        )
        counts.append(replaced.count("co.npy"))
    assert counts == [2, 4, 6], "at the start, as asked, at the end"


@effect("print_flag", bad=9)
def _(desk: Desk) -> None:
    shown = []
    for level in range(5):
        pypty.run(small_params(print_flag=level, epoch_max=2))
        out, err = desk.screen.readouterr()
        shown.append(out + err)
    assert shown[0] == ""
    assert "2/2" in shown[1] and "loss" in shown[1]
    assert [line for line in shown[2].splitlines() if line.startswith("epoch 1 ")]
    assert "line search" not in shown[2] and "line search" in shown[3] and "line search" in shown[4]


@effect("overwrite", bad=2)
def _(desk: Desk) -> None:
    pypty.run(small_params(output_folder=str(desk.folder), epoch_max=2))
    with pytest.raises(OutputError, match="holds a result of 2 epochs"):
        pypty.run(small_params(output_folder=str(desk.folder), epoch_max=1))
    assert (
        len(pypty.run(small_params(output_folder=str(desk.folder), epoch_max=1, overwrite=True)).epochs) == 1
    )


@effect("resume", bad=True)
def _(desk: Desk) -> None:
    pypty.run(small_params(output_folder=str(desk.folder), epoch_max=2))
    resumed = pypty.run(small_params(output_folder=str(desk.folder), epoch_max=3, resume=True))
    assert resumed.epochs.tolist() == [0, 1, 2]
    assert np.array_equal(resumed.obj, pypty.run(small_params()).obj)


# --------------------------------------------------------------------------------------------------- experiment


def two_slice_loss(**changes: Any) -> float:
    return pypty.evaluate(two_slices(skip_preprocessing=True, obj=smooth_object(2), **changes)).loss


@effect("acc_voltage", bad=-80.0)
def _(desk: Desk) -> None:
    """The propagation over d at the wavelength of 80 kV is one over d' at that of 300 kV, when lambda d is equal."""
    ratio = wavelength_A(80) / wavelength_A(300)
    one = two_slice_loss(acc_voltage=80.0, slice_distances=[10.0])
    assert two_slice_loss(acc_voltage=300.0, slice_distances=[10.0 * ratio]) == pytest.approx(one, rel=1e-10)
    assert two_slice_loss(acc_voltage=300.0, slice_distances=[10.0]) != pytest.approx(one, rel=1e-3)


@effect("pixel_size_x_A", bad=np.nan)
def _(desk: Desk) -> None:
    assert start(pixel_size_x_A=0.3).pixel_size_A.tolist() == [0.4, 0.3]
    assert two_slice_loss(pixel_size_x_A=0.3) != two_slice_loss(pixel_size_y_A=0.3) != two_slice_loss()


@effect("pixel_size_y_A", bad=np.inf)
def _(desk: Desk) -> None:
    assert start(pixel_size_y_A=0.3).pixel_size_A.tolist() == [0.3, 0.4]
    both = two_slice_loss(pixel_size_y_A=0.2, pixel_size_x_A=0.2, slice_distances=[2.5])
    assert both == pytest.approx(two_slice_loss(slice_distances=[10.0]), rel=1e-10)


@effect("aperture_mask", bad=-0.5)
def _(desk: Desk) -> None:
    mask = np.zeros((SIDE, SIDE))
    mask[7:10, 5:12] = 1
    power = np.fft.fftshift(spectrum(start(probe="aperture", aperture_mask=mask).probe[..., 0]))
    assert np.allclose(power / power.max(), mask, atol=1e-12)
    power = spectrum(start(probe="aperture", aperture_mask=0.5).probe[..., 0])
    assert np.array_equal(power > 1e-9 * power.max(), frequency((SIDE, SIDE)) <= 0.25)


@effect("num_slices", bad=0)
def _(desk: Desk) -> None:
    assert start(num_slices=3).obj.shape == (24, 24, 3, 1)


@effect("slice_distances", bad=[-1.0])
def _(desk: Desk) -> None:
    assert two_slice_loss(slice_distances=[12.0]) < 0.9 * two_slice_loss(slice_distances=[10.0])
    assert two_slice_loss(slice_distances=[12.0, 99.0]) == two_slice_loss(slice_distances=[12.0])
    assert start(num_slices=3, slice_distances=[5.0, 7.0]).slice_distances.tolist() == [5.0, 7.0]


@effect("edge_slice_thickness", bad=0)
def _(desk: Desk) -> None:
    found = start(num_slices=4, slice_distances=[5.0], edge_slice_thickness=12.0).slice_distances
    assert found.tolist() == [12.0, 5.0, 5.0]


# ------------------------------------------------------------------------------------------------ starting state


@effect("obj", bad=np.ones((24, 24)))
def _(desk: Desk) -> None:
    given = smooth_object()
    assert np.array_equal(start(obj=given, skip_preprocessing=True).obj, given)
    assert np.array_equal(start(skip_preprocessing=True).obj, np.ones((24, 24, 1, 1)))
    grown = start(obj=given[:10, :12], skip_preprocessing=True).obj
    assert grown.shape == (24, 24, 1, 1)
    assert np.array_equal(grown[:10, :12], given[:10, :12])
    assert (grown[10:] == 1).all() and (grown[:, 12:] == 1).all()
    np.save(desk.folder / "obj.npy", given)
    assert np.array_equal(start(obj=str(desk.folder / "obj.npy"), skip_preprocessing=True).obj, given)


@effect("probe", bad=np.zeros((SIDE, SIDE, 1)))
def _(desk: Desk) -> None:
    given = np.concatenate([aperture_probe(0.3), 0.5 * aperture_probe(2.0)], axis=2)
    as_given = start(probe=given, skip_preprocessing=True).probe
    assert np.allclose(as_given, given, rtol=0, atol=1e-14)
    assert np.array_equal(start(probe=given[..., 0], skip_preprocessing=True).probe, as_given[..., :1])
    mean = patterns().sum(axis=(1, 2)).mean()
    for probe in (given, None, "aperture"):
        found = start(probe=probe, aperture_mask=0.5).probe
        assert spectrum(found).sum() == pytest.approx(mean, rel=0.03)


@effect("positions", bad=scan_positions()[1:])
def _(desk: Desk) -> None:
    shared = start(positions=[[3.0, 4.0]], skip_preprocessing=True)
    assert shared.positions.tolist() == [[3.0, 4.0]] and shared.obj.shape[:2] == (SIDE + 3, SIDE + 4)
    each = {"positions": np.full((N_PATTERNS, 2), [3.0, 4.0])}
    assert loss_as_given(positions=[[3.0, 4.0]], obj=smooth_object()) == loss_as_given(
        **each, obj=smooth_object()
    )
    result = start(positions=scan_positions(3.0) + 7.25)
    assert np.allclose(result.positions, scan_positions(3.0))
    assert result.obj.shape[:2] == (SIDE + 12, SIDE + 12)


@effect("positions_correction", bad=np.zeros((3, 2)))
def _(desk: Desk) -> None:
    rest = np.random.default_rng(0).uniform(-0.4, 0.4, (N_PATTERNS, 2))
    assert np.allclose(
        start(positions_correction=rest, skip_preprocessing=True).positions, scan_positions() + rest
    )
    shifted = scan_positions() + rest
    one = loss_as_given(obj=smooth_object(), positions=shifted - shifted.min(axis=0))
    other = loss(obj=smooth_object(), positions_correction=rest, probe=aperture_probe())
    assert one != loss_as_given(obj=smooth_object())
    assert other != loss(obj=smooth_object(), probe=aperture_probe())


@effect("allow_subPixel_shift", bad="maybe")
def _(desk: Desk) -> None:
    given = {"positions": scan_positions() + np.random.default_rng(0).uniform(0, 0.4, (N_PATTERNS, 2))}
    shifted = {**given, "obj": smooth_object()}
    assert np.array_equal(start(**given, allow_subPixel_shift=False).positions, scan_positions())
    assert loss_as_given(**shifted, allow_subPixel_shift=False) == loss_as_given(obj=smooth_object())
    assert loss_as_given(**shifted) != loss_as_given(obj=smooth_object())


@effect("skip_preprocessing", bad=2)
def _(desk: Desk) -> None:
    given = {"probe": 3 * aperture_probe(), "positions": scan_positions() + 4.5}
    kept, changed = (start(**given, skip_preprocessing=skip) for skip in (True, False))
    assert np.allclose(kept.probe, given["probe"], rtol=0, atol=1e-14)
    assert np.array_equal(kept.positions, given["positions"])
    assert spectrum(changed.probe).sum() == pytest.approx(patterns().sum(axis=(1, 2)).mean(), rel=1e-9)
    assert np.array_equal(changed.positions, scan_positions())


@effect("extra_space_on_side_px", bad=2.5)
def _(desk: Desk) -> None:
    result = start(extra_space_on_side_px=5)
    assert result.obj.shape == (24 + 10, 24 + 10, 1, 1)
    assert np.array_equal(result.positions, scan_positions() + 5)
    given = smooth_object()[:24, :24]
    with_rim = start(extra_space_on_side_px=5, obj=given, damping_cutoff_multislice=2.0).obj
    assert np.allclose(with_rim[5:29, 5:29], given, atol=1e-9)


# ----------------------------------------------------------------------------------------------------- numerics


@effect("damping_cutoff_multislice", bad=0)
def _(desk: Desk) -> None:
    wide = {"obj": smooth_object(seed=2) ** 8, "probe": aperture_probe(), "skip_preprocessing": True}
    radius = np.fft.fftshift(frequency((SIDE, SIDE)))
    largest = np.fft.fftfreq(SIDE).max()
    for cutoff in (0.4, 0.8):
        modelled = pypty.simulate(small_params(dataset=..., damping_cutoff_multislice=cutoff, **wide))
        assert (modelled[:, radius > cutoff * largest] == 0).all()
        assert (modelled[:, radius <= cutoff * largest] > 0).all()


@effect("update_extra_cut", bad=-1)
def _(desk: Desk) -> None:
    largest = np.fft.fftfreq(SIDE).max()
    for extra in (0.05, 0.3):
        power = spectrum(pypty.run(small_params(update_extra_cut=extra)).probe[..., 0])
        outside = frequency((SIDE, SIDE)) > (2 / 3 - extra) * largest
        assert power[outside].max() < 1e-20 * power.max()
        assert power[~outside].min() > 1e-12 * power.max()


@effect("lazy_clean", bad=[])
def _(desk: Desk) -> None:
    outside = frequency((24, 24)) > 2 / 3 * 0.5
    power = {
        lazy: spectrum(pypty.run(small_params(lazy_clean=lazy)).obj[..., 0, 0]) for lazy in (True, False)
    }
    assert power[False][outside].max() < 1e-20 * power[False].max()
    assert power[True][outside].max() > 1e-9 * power[True].max()


@effect("use_padded_intensity", bad={})
def _(desk: Desk) -> None:
    given = {"obj": smooth_object() ** 6, "damping_cutoff_multislice": 2.0, "skip_preprocessing": True}
    padded_probe = start(data_pad=4, **given).probe
    modelled = pypty.simulate(small_params(dataset=..., probe=padded_probe, **given))
    inner = modelled[:, 4:-4, 4:-4]
    rim = modelled.sum() - inner.sum()
    assert rim > 1
    cropped = loss(data_pad=4, use_padded_intensity=False, **given)
    assert cropped == pytest.approx(((np.sqrt(inner) - np.sqrt(patterns())) ** 2).sum(), rel=1e-9)
    assert loss(data_pad=4, **given) - cropped == pytest.approx(rim, rel=1e-6)


@effect("default_dtype", bad="half")
def _(desk: Desk) -> None:
    single, double, auto = (
        pypty.run(small_params(default_dtype=kind)) for kind in ("single", "double", "auto")
    )
    assert auto.obj.dtype == np.complex64 and auto.loss.tobytes() == single.loss.tobytes()
    assert pypty.evaluate(small_params(default_dtype="auto")).loss == double.loss[0]
    assert single.obj.dtype == single.probe.dtype == np.complex64
    assert double.obj.dtype == double.probe.dtype == np.complex128
    assert single.positions.dtype == single.loss.dtype == np.float64
    assert 0 < abs(single.loss[0] / double.loss[0] - 1) < 1e-4


@effect("backend", bad="tpu")
def _(desk: Desk) -> None:
    for name in ("cpu", "auto"):
        _, setup = inspect(small_params(backend=name))
        assert setup is not None
        assert setup.backend.name == "cpu" or name == "auto"


@effect("n_threads", bad=0)
def _(desk: Desk) -> None:
    assert plan(n_threads=3).n_threads == 3
    assert plan(n_threads=1000).n_threads == N_PATTERNS
    assert plan(n_threads=None).n_threads >= 1
    assert loss(n_threads=3) == pytest.approx(loss(), rel=1e-12)


@effect("compute_batch", bad=0)
def _(desk: Desk) -> None:
    assert plan(compute_batch=7).batch == 7
    assert plan(compute_batch=1000).batch == N_PATTERNS
    assert 1 <= plan(compute_batch="auto").batch <= N_PATTERNS
    assert loss(compute_batch=7) == pytest.approx(loss(compute_batch=1), rel=1e-12)


@effect("memory_saturation", bad=0)
def _(desk: Desk) -> None:
    desk.monkeypatch.setattr(memory, "free_bytes", lambda backend, sharers=1: 10**9)
    assert plan(memory_saturation=0.25).limit == 25 * 10**7
    desk.monkeypatch.setattr(memory, "free_bytes", lambda backend, sharers=1: 2 * 10**6)
    small, large = (plan(memory_saturation=part, compute_batch="auto").batch for part in (0.5, 1.0))
    assert 1 <= small < large


# ---------------------------------------------------------------------------------------------------- optimiser


@effect("algorithm", bad="least_squares")
def _(desk: Desk) -> None:
    given = {"obj": smooth_object(seed=3), "skip_preprocessing": True}
    model, data = pypty.simulate(small_params(dataset=..., **given)), patterns()
    safe, counted = np.where(model == 0, 1, model), data > 0.5
    expected = {
        "lsq_sqrt": ((np.sqrt(model) - np.sqrt(data)) ** 2).sum(),
        "lsq": ((model - data) ** 2).sum(),
        "ml": (model - data * np.log(safe)).sum(),
        "lsq_sqrt_2": np.where(counted, (data - model) ** 2 / (2 * np.where(counted, data, 1)), model).sum(),
    }
    expected["poisson_gaussian"] = expected["ml"]
    expected["auto"] = expected["lsq_sqrt"]  # not whole counts; tests/test_noise_choice.py has the others
    for name, value in expected.items():
        assert loss(**given, algorithm=name) == pytest.approx(value, rel=1e-10)
    detectors = {
        "masks": np.eye(SIDE * SIDE).reshape(-1, SIDE, SIDE),
        "dataset": data.reshape(N_PATTERNS, -1),
    }
    for name, of_patterns in (
        ("lsq_compressed", "lsq"),
        ("gauss_compressed", "lsq_sqrt"),
        ("poisson_compressed", "ml"),
    ):
        assert loss(**given, **detectors, algorithm=name) == pytest.approx(expected[of_patterns], rel=1e-10)


@effect("loss_weight", bad=0)
def _(desk: Desk) -> None:
    assert loss(loss_weight=0.125) == pytest.approx(0.125 * loss(), rel=1e-14)
    assert loss(loss_weight="mean") == pytest.approx(loss() / N_PATTERNS, rel=1e-14)
    assert loss(loss_weight="mean_full") == pytest.approx(loss() / (N_PATTERNS * SIDE**2), rel=1e-14)
    assert loss(loss_weight="1/8") == loss(loss_weight=0.125)
    table = rows(desk.folder, loss_weight=lambda epoch: 1 if epoch < 2 else 0.01)
    assert float(table[2]["loss"]) < 0.05 * float(table[1]["loss"])


@effect("hist_length", bad=2.5)
def _(desk: Desk) -> None:
    none, two, ten, endless = (
        pypty.run(small_params(hist_length=length, epoch_max=8)).loss for length in (0, 2, 10, np.inf)
    )
    assert none[1] == ten[1], "there is no history yet"
    assert none[2] != ten[2]
    assert np.array_equal(two[:4], ten[:4]) and two[4] != ten[4]
    assert np.array_equal(ten, endless)
    assert ten[-1] < none[-1]


@effect("update_step_bfgs", bad=-1)
def _(desk: Desk) -> None:
    steps = {"update_step_bfgs": "0.25 if epoch < 2 else 0.5", "wolfe_c2_constant": 1.0}
    table = rows(desk.folder, obj=smooth_object(seed=8), **steps)
    assert [float(row["initial step"]) for row in table] == [0.25, 0.25, 0.5]
    assert float(table[0]["matching step"]) == 0.25


@effect("preconditioner", bad="yes")
def _(desk: Desk) -> None:
    with_it, without = (pypty.run(small_params(preconditioner=on)).loss for on in (True, False))
    assert with_it[0] == without[0] and with_it[1] != without[1]


def decrease(table: list[dict[str, str]]) -> list[float]:
    """Achieved over predicted decrease of each epoch but the last."""
    values = [float(row["loss"]) for row in table]
    predicted = [float(row["matching step"]) * float(row["dir. derivative"]) for row in table]
    return [
        (after - before) / p for before, after, p in zip(values[:-1], values[1:], predicted[:-1], strict=True)
    ]


def flatness(table: list[dict[str, str]]) -> list[float]:
    """Slope at the accepted point over the slope at the start, of each epoch."""
    return [abs(float(row["new dir. derivative"]) / float(row["dir. derivative"])) for row in table]


@effect("wolfe_c1_constant", bad=0.95)
def _(desk: Desk) -> None:
    assert min(decrease(rows(desk.folder, epoch_max=6))) < 0.8
    assert min(decrease(rows(desk.folder, epoch_max=6, wolfe_c1_constant=0.85))) >= 0.85


@effect("wolfe_c2_constant", bad=0.05, message="c1 < c2")
def _(desk: Desk) -> None:
    assert max(flatness(rows(desk.folder, epoch_max=6))) > 0.2
    assert max(flatness(rows(desk.folder, epoch_max=6, wolfe_c2_constant=0.15))) <= 0.15


def evaluations(desk: Desk, **changes: Any) -> int:
    """In the line search of the second epoch, where no evaluation of the start is counted."""
    return int(rows(desk.folder, epoch_max=2, **changes)[1]["N linesearch iterations"])


@effect("max_count", bad=0)
def _(desk: Desk) -> None:
    far = {"update_step_bfgs": 1e6, "wolfe_c2_constant": 0.2}
    assert evaluations(desk, **far, max_count=3) == 3
    assert 3 < evaluations(desk, **far, max_count=None) <= 100
    assert evaluations(desk, **far, max_count=None, reduce_factor=0.9) > 20


@effect("reduce_factor", bad=0)
def _(desk: Desk) -> None:
    counts = [
        evaluations(desk, update_step_bfgs=1e6, max_count=100, reduce_factor=f) for f in (0.9, 0.5, 0.1)
    ]
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[1] > counts[2]


@effect("optimism", bad=0.5)
def _(desk: Desk) -> None:
    slow, fast = (evaluations(desk, update_step_bfgs=1e-3, optimism=factor) for factor in (1.5, 30.0))
    assert slow > 2 * fast


@effect("min_step", bad=np.nan)
def _(desk: Desk) -> None:
    table = rows(desk.folder, update_step_bfgs=1e6, min_step=1e5)
    assert float(table[0]["matching step"]) == 0
    assert "too small" in table[0]["Warnings"]
    assert float(rows(desk.folder, update_step_bfgs=1e6)[0]["matching step"]) > 0


@effect("reset_history_flag", bad=5)
def _(desk: Desk) -> None:
    kept, reset = (
        pypty.run(small_params(epoch_max=5, reset_history_flag=flag)).loss
        for flag in (False, "lambda x: x == 3")
    )
    assert np.array_equal(kept[:4], reset[:4]) and kept[4] != reset[4]


def moved(**changes: Any) -> set[str]:
    """Blocks that are not as they were at the start, after refinement from a good object."""
    off = {
        "update_obj": False,
        "update_probe": False,
        "skip_preprocessing": True,
        "obj": smooth_object(2, seed=3),
    }
    params = two_slices(**{**off, **changes})
    before, after = (pypty.run({**params, "epoch_max": epochs}) for epochs in (0, 2))
    names = ("obj", "probe", "positions", "slice_distances")
    return {name for name in names if not np.array_equal(getattr(before, name), getattr(after, name))}


@effect("update_obj", bad=np.nan)
def _(desk: Desk) -> None:
    assert moved() == set()
    assert moved(update_obj=True) == moved(update_obj=0.5) == {"obj"}
    assert moved(update_obj=-1) == moved(update_obj=0) == set()


@effect("update_probe", bad="perhaps")
def _(desk: Desk) -> None:
    assert moved(update_probe=True) == moved(update_probe="lambda x: x >= 1") == {"probe"}
    assert moved(update_probe="lambda x: x >= 2") == set()


@effect("update_probe_pos", bad=None)
def _(desk: Desk) -> None:
    assert moved(update_probe_pos=True) == {"positions"}


@effect("update_slice_distances", bad=())
def _(desk: Desk) -> None:
    assert moved(update_slice_distances=True) == {"slice_distances"}
    one_slice = pypty.run(small_params(update_slice_distances=True))
    assert one_slice.slice_distances.tolist() == [10.0]


# --------------------------------------------------------------------------------------------------------- beam


def defocused(distance: float, **changes: Any) -> np.ndarray:
    """Phase of the starting probe's spectrum relative to the one without ``changes``, where there is any."""
    plain, other = (
        np.fft.fft2(start(probe=aperture_probe(), skip_preprocessing=True, **c).probe[..., 0])
        for c in ({}, changes)
    )
    q2 = (frequency((SIDE, SIDE)) / 0.4) ** 2
    expected = np.exp(-1j * np.pi * wavelength_A(80) * distance * q2)
    lit = np.abs(plain) > 1e-6 * np.abs(plain).max()
    return np.abs(other / np.where(lit, plain, 1) - expected)[lit]


@effect("extra_probe_defocus", bad="100 A")
def _(desk: Desk) -> None:
    assert defocused(150.0, extra_probe_defocus=150.0).max() < 1e-10
    assert defocused(-150.0, extra_probe_defocus=150.0).max() > 0.1


@effect("aberrations", bad=[[1.0]])
def _(desk: Desk) -> None:
    assert defocused(150.0, aberrations=[150.0]).max() < 1e-10
    astigmatic = start(aberrations=[0.0, 80.0]).probe[..., 0]
    assert not np.allclose(np.abs(astigmatic), np.abs(astigmatic.T))


# ------------------------------------------------------------------------------------------------------- tables


def test_every_parameter_that_works_is_in_the_registry() -> None:
    """A new parameter needs a test of its effect and of a bad value, here or in one of the other two files."""
    assert sorted(EFFECTS) == sorted(AVAILABLE)
    files = {__name__, *(module.__name__ for module in OTHER_FILES)}
    assert {entry.test.__module__ for entry in EFFECTS.values()} == files


@pytest.mark.parametrize("name", names_in(__name__))
def test_it_has_its_effect(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    EFFECTS[name].test(Desk(tmp_path, monkeypatch, capfd))


@pytest.mark.parametrize("name", names_in(__name__))
def test_a_bad_value_is_refused_by_name(name: str) -> None:
    assert_refused(name)


@pytest.mark.parametrize("name", SCHEMA)
def test_the_default_may_be_given(name: str) -> None:
    required = ("dataset", "positions", "probe", "epoch_max", "print_flag", "output_folder")
    if name in required:
        assert SCHEMA[name].kind.problem(SCHEMA[name].default) is None
    else:
        assert pypty.check(small_params(**{name: SCHEMA[name].default})).problems == []


# ------------------------------------------------------------------------------------------------ none, recorded


def by_name(parameters: list[Parameter]) -> Any:
    return pytest.mark.parametrize("parameter", [pytest.param(p, id=p.name) for p in parameters])


@by_name([parameter for parameter in SCHEMA.values() if parameter.status == NO_EFFECT])
def test_what_has_no_effect_warns(parameter: Parameter, caplog: pytest.LogCaptureFixture) -> None:
    params = small_params(**{parameter.name: not parameter.default})
    report = pypty.check(params)
    assert report and len(report.warnings) == 1
    assert parameter.name in report.warnings[0] and "no effect" in report.warnings[0]
    result = pypty.run(params)
    assert report.warnings[0] in result.warnings
    assert report.warnings[0] in caplog.messages
    assert np.array_equal(result.obj, pypty.run(small_params()).obj)
    assert pypty.check(small_params(**{parameter.name: parameter.default})).warnings == []
    assert len(pypty.check(small_params(**{parameter.name: lambda epoch: True})).warnings) == 1


@by_name([parameter for parameter in SCHEMA.values() if parameter.status == RECORDED])
def test_what_is_recorded_is_in_the_settings_file(parameter: Parameter, tmp_path: Path) -> None:
    value = {"sample_name": "MoS2", "comx": np.arange(30.0), "comy": [1.0, 2.0]}.get(parameter.name, 12.5)
    result = pypty.run(small_params(output_folder=str(tmp_path), **{parameter.name: value}))
    assert np.array_equal(pypty.load_preset(tmp_path)[parameter.name], value)
    assert np.array_equal(result.settings[parameter.name], value)
    assert np.array_equal(result.obj, pypty.run(small_params()).obj)


def test_silence_is_silence(tmp_path: Path) -> None:
    """print_flag=0 shows nothing, warnings included, in a process where nobody set up logging."""
    code = f"""
    import sys
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    import pypty
    from problems import small_params
    pypty.run(small_params(print_flag=0, force_pad=True, update_obj=False, update_probe=False))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    assert done.stderr == ""


def test_warnings_are_shown_from_level_1_on(capfd: pytest.CaptureFixture[str]) -> None:
    for level in (1, 2, 3, 4):
        pypty.run(small_params(print_flag=level, force_pad=True, epoch_max=1))
        out, err = capfd.readouterr()
        assert "force_pad" in out + err


@pytest.mark.parametrize("probe", ["mean pattern", "aperture", "given"])
@pytest.mark.parametrize("algorithm", ["lsq_sqrt", "ml", "lsq", "lsq_sqrt_2", "poisson_gaussian"])
def test_every_noise_model_gets_on_from_vacuum(algorithm: str, probe: str) -> None:
    """With every way to start: at least half of the way to a perfect fit in 20 epochs."""
    start_probe = {"mean pattern": None, "aperture": "aperture", "given": aperture_probe(0.7)}[probe]
    result = pypty.run(small_params(algorithm=algorithm, probe=start_probe, aperture_mask=0.5, epoch_max=20))
    best = loss_as_given(algorithm=algorithm, obj=smooth_object(), probe=aperture_probe(1.0))
    assert len(result.epochs) == 20, result.stop_reason
    assert result.loss[-1] - best < 0.5 * (result.loss[0] - best)


# -------------------------------------------------------------------------------------------------- per epoch

CONSTANTS: dict[str, Any] = {
    "sequence": [0, 3],
    "constraints": {"objp_postiv": {"relax": 0.5}},
    "optimizer": "adam",
    "optimizer_options": {"betas": [0.5, 0.75]},
    "learning_rates": {"objp": 0.5, "positions": {"lr": 0.25, "start": 3}},
    "grad_accumulation": 4,
    "lazy_moments": False,
    "batch_size": 16,
    "propmethod": "yoshida",
    "puzzle_positions": True,
    "dynamically_resize_yx_object": 2.5,
    "loss_weight": 0.5,
    "hist_length": 3,
    "update_step_bfgs": 0.5,
    "wolfe_c1_constant": 0.2,
    "wolfe_c2_constant": 0.8,
    "reset_history_flag": True,
    "update_obj": False,
    "update_probe": False,
    "update_probe_pos": True,
    "positions_parametrization": "affine",
    "update_slice_distances": True,
    "update_tilts": True,
    "update_beam_current": True,
    "update_aberrations_array": True,
    "update_static_background": True,
    "update_detector_blur_std": True,
    "update_detector_gains": True,
    "phase_only_obj": True,
    "obj_parametrization": "amplitude_phase",
    "tune_only_probe_phase": True,
    "tune_only_probe_abs": True,
    "freeze_stuck_blocks": False,
    "fast_axis_reg_weight_positions": 0.5,
    "slow_axis_reg_weight_positions": 0.5,
    "deformation_reg_weight_positions": 0.5,
    "fast_axis_reg_weight_tilts": 0.5,
    "slow_axis_reg_weight_tilts": 0.5,
    "deformation_reg_weight_tilts": 0.5,
    "phase_norm_weight": 0.5,
    "abs_norm_weight": 0.5,
    "probe_reg_constraint_weight": 0.5,
    "window_weight": 0.5,
    "window": [0.5, 0.75],
    "atv_weight": 0.5,
    "atv_q": 0.5,
    "atv_p": 1.5,
    "mixed_variance_weight": 0.5,
    "mixed_variance_sigma": 0.25,
    "wedge_mu": 0.5,
    "beta_wedge": 0.5,
    "probe_mod_reg_weight": 0.5,
    "probe_mod_tol": 0.25,
    "apply_gaussian_filter": [1.0, 2.0],
    "apply_gaussian_filter_amplitude": [0.5, 1.0, 2.0],
    "keep_probe_states_orthogonal": True,
    "do_charge_flip": True,
    "cf_delta_phase": 0.25,
    "cf_delta_abs": 0.25,
    "cf_beta_phase": -0.5,
    "cf_beta_abs": -0.5,
    "fancy_sigma": ((1.0, 0.5), None),
    "restart_from_vacuum": True,
    "reset_positions": True,
    "data_simulation_flag": "patterns.npy",
    "data_simulation_exitwave": True,
}
NEEDED: dict[str, dict[str, Any]] = {
    "puzzle_positions": {"scan_size": [5, 5]},
    **{name: {"scan_size": [5, 5]} for name in CONSTANTS if "_reg_weight_" in name},
    "update_aberrations_array": {"aberration_marker": [0, 0, 1], "aberrations_array": [[0.0], [1.0]]},
    "update_static_background": {"static_background": 1.0},
    "update_detector_blur_std": {"detector_blur_std": 1.0},
    "window_weight": {"window": [0.5, 0.75]},
    "probe_reg_constraint_weight": {"probe_constraint_mask": 0.5},
}
"""What has to be there for a value to be taken."""
PER_EPOCH = [parameter for parameter in SCHEMA.values() if parameter.per_epoch and parameter.status == ""]


def value_at(name: str, value: Any, epoch: int = 3, **changes: Any) -> Any:
    report = Report()
    settings = read_parameters({name: value, "epoch_max": 6, **NEEDED.get(name, {}), **changes}, report)
    assert report.problems == []
    return settings.at(epoch)[name]


def test_every_varying_parameter_is_in_the_table() -> None:
    assert sorted(CONSTANTS) == sorted(parameter.name for parameter in PER_EPOCH)


@by_name(PER_EPOCH)
def test_a_value_may_vary_in_every_way(parameter: Parameter) -> None:
    name, value = parameter.name, CONSTANTS[parameter.name]
    default: Any = [0, 1] if name == "sequence" else parameter.default
    expected, before = value_at(name, value), value_at(name, default)
    for schedule in (
        lambda epoch: value if epoch >= 2 else default,
        f"lambda x: {value!r} if x >= 2 else {default!r}",
        f"lambda epoch: {value!r} if epoch >= 2 else {default!r}",
        f"{value!r} if epoch >= 2 else {default!r}",
        f"{value!r} if x >= 2 else {default!r}",
        {"from_epoch": {0: default, 2: value}},
        {"from_epoch": {2: value, 0: default}},
    ):
        for epoch in (5, 0, 2, 1, 3):
            found, wanted = value_at(name, schedule, epoch), expected if epoch >= 2 else before
            equal = (
                str(found) == str(wanted)
                if isinstance(wanted, (tuple, dict))
                else np.array_equal(found, wanted)
            )
            assert equal, (schedule, epoch)
            assert type(found) is type(wanted)


@by_name([parameter for parameter in SCHEMA.values() if not parameter.per_epoch and parameter.status == ""])
def test_what_cannot_vary_refuses_functions(parameter: Parameter) -> None:
    report = pypty.check(small_params(**{parameter.name: lambda epoch: parameter.default}))
    assert any(parameter.name in text and "function" in text for text in report.problems)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("update_obj", "lambda x: x>=10", [False, False, True]),
        ("update_obj", "x >= 10", [False, False, True]),
        ("update_step_bfgs", "8e-9 if epoch==0 else 1", [8e-9, 1.0, 1.0]),
        ("update_step_bfgs", "np.exp(-epoch)", np.exp([0.0, -1.0, -10.0]).tolist()),
        ("update_step_bfgs", lambda epoch: np.exp(-epoch), np.exp([0.0, -1.0, -10.0]).tolist()),
        ("update_step_bfgs", lambda epoch: np.float32(0.5), [0.5, 0.5, 0.5]),
        ("update_step_bfgs", "min(1, 0.25 * (1 + epoch))", [0.25, 0.5, 1.0]),
        ("update_probe", "epoch % 2", [False, True, False]),
        ("hist_length", "np.inf if epoch else 0", [0, np.inf, np.inf]),
        ("loss_weight", "'mean' if epoch < 5 else 2", ["mean", "mean", 2.0]),
        ("update_obj", {"from_epoch": {1: True, 10: False}}, [True, True, False]),
        ("update_obj", {"from_epoch": {-5: False, 7: 0.1}}, [False, False, True]),
    ],
    ids=lambda value: "a function" if callable(value) else str(value),
)
def test_documented_ways_to_vary(name: str, value: Any, expected: list[Any]) -> None:
    assert [value_at(name, value, epoch, epoch_max=11) for epoch in (0, 1, 10)] == expected


def test_a_schedule_needs_to_be_good_only_where_it_is_used() -> None:
    """Epochs before epoch_prev were done by an earlier run."""
    assert value_at("update_step_bfgs", lambda epoch: 1 / epoch, 2, epoch_prev=1) == 0.5
    assert value_at("update_step_bfgs", "lambda x: 1/x", 2, epoch_prev=1) == 0.5
    assert value_at("update_step_bfgs", "1/epoch", 2, epoch_prev=1) == 0.5


def test_a_run_without_end_asks_a_function_only_so_often() -> None:
    """epoch_max = 10^9 means "until I stop it"; writing down the settings must not take for ever."""
    calls = 0

    def update_probe(epoch: int) -> bool:
        nonlocal calls
        calls += 1
        if calls > 100_000:
            raise RuntimeError("asked too often")
        return epoch >= 5

    report = Report()
    settings = read_parameters({"epoch_max": 10**9, "update_probe": update_probe}, report)
    assert report.problems == []
    assert settings.record()["update_probe"] == {"from_epoch": {0: False, 5: True}, "until_epoch": 10_000}


def test_a_callable_object_is_a_function() -> None:
    class Ramp:
        def __call__(self, epoch: int) -> float:
            return 1.0 + epoch

    assert value_at("update_step_bfgs", Ramp(), 3) == 4.0


# ------------------------------------------------------------------------------------------------------- explain


@pytest.mark.parametrize("name", SCHEMA)
def test_every_parameter_explains_itself(name: str) -> None:
    parameter = SCHEMA[name]
    text = explain(name)
    assert text.startswith(f"{name}: ")
    assert len(parameter.meaning) > 10 and parameter.meaning in text
    assert parameter.kind.describe() in text
    assert parameter.unit in text
    assert ("may vary" in text) is parameter.per_epoch
    if parameter.when:
        assert parameter.when in text


def test_an_unknown_parameter_is_not_explained() -> None:
    with pytest.raises(ParameterError, match="epoch_max"):
        explain("epoch_maxx")
    with pytest.raises(ParameterError, match="unknown parameter 'qqqqqqq'"):
        explain("qqqqqqq")


def test_every_parameter_is_in_one_group() -> None:
    names = [parameter.name for group in GROUPS.values() for parameter in group]
    assert len(names) == len(set(names)) == len(SCHEMA)
    assert all(re.fullmatch(r"[A-Za-z]\w*", name) for name in names)
