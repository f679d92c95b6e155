"""Memory is planned, and running out of it halves the batch and goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from problems import N_PATTERNS, SIDE, aperture_probe, small_params

import pypty
from pypty.backend import memory as free_memory
from pypty.backend import select
from pypty.data import survey
from pypty.engine.epochs.problem import refined_blocks
from pypty.engine.setup import memory
from pypty.engine.setup.prepare import prepare
from pypty.errors import ParameterError, ResourceError
from pypty.model.forward import Model


def test_plan_prints_a_table_and_allocates_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    params = small_params()
    tracemalloc.start()
    plan = pypty.plan(params)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    shown = capsys.readouterr().out
    for word in ("object", "probe", "L-BFGS history", "FFT workspace", "total", "free now", "batch"):
        assert word in shown
    assert peak < 4 * 2**20
    assert plan.total == sum(plan.items.values())


def test_plan_counts_what_the_wave_formula_says() -> None:
    plan = pypty.plan(small_params(compute_batch=4, n_threads=1, hist_length=3), show=False)
    sizes = plan.sizes
    pixels = sizes.window[0] * sizes.window[1]
    per_pattern = pixels * ((2 + 2 + 1 + 2) * 16 + 6 * 8)  # one slice, one mode, double
    assert plan.items["waves and FFT workspace of the batches"] == 4 * per_pattern
    obj = 16 * sizes.object_shape[0] * sizes.object_shape[1]
    assert plan.items["L-BFGS history"] == 2 * 3 * (obj + 16 * pixels)  # three epochs: no fourth pair


def test_plan_counts_every_mode_of_every_probe() -> None:
    one, many = (
        pypty.plan(small_params(compute_batch=1, hist_length=3, **changes), show=False)
        for changes in ({}, {"probe": SUBSCANS, "probe_marker": GROUPS})
    )
    name = "probe, its gradients and directions"
    assert many.items[name] == 3 * 5 * one.items[name]
    probe = 16 * SIDE**2
    assert many.items["L-BFGS history"] - one.items["L-BFGS history"] == 2 * 3 * (3 * 5 - 1) * probe


FOUR_SLICES: dict[str, Any] = {"num_slices": 4, "slice_distances": [5.0]}
ALL_TILTS: dict[str, Any] = {"tilts": np.full((N_PATTERNS, 6), 1e-3), "tilt_mode": 4, "update_tilts": True}
IMAGES: dict[str, Any] = {
    "recon_type": "near_field",
    "defocus_array": np.linspace(10, 100, N_PATTERNS),
    "alpha_near_field": 1e-3,
}
SUBSCANS = np.repeat(np.repeat(aperture_probe()[..., None], 5, axis=3), 3, axis=2)
GROUPS = np.arange(N_PATTERNS) // 5
EFFECTS: dict[str, dict[str, Any]] = {
    "slices": FOUR_SLICES,
    "windows filtered": {**FOUR_SLICES, "lazy_clean": True},
    "windows blurred": {**FOUR_SLICES, "obj_preblur_std": 0.5},
    "windows blurred, one slice": {"obj_preblur_std": 0.5},
    "windows of two modes blurred": {
        "obj": np.ones((24, 24, 7, 2)),
        "slice_distances": [5.0],
        "obj_preblur_std": 0.5,
    },
    "weights of object modes": {
        "obj": np.ones((24, 24, 3, 3)),
        "slice_distances": [5.0],
        "obj_mode_weights": [0.5, 0.3, 0.2],
    },
    "simulated pixels cropped": {**FOUR_SLICES, "simu_Npix": 24, "simu_match_mode": "crop"},
    "simulated pixels resampled": {**FOUR_SLICES, "simu_Npix": 24, "simu_match_mode": "resample"},
    "blur, reflected": {
        "detector_blur_std": 0.5,
        "detector_blur_edge": "reflect",
        "update_detector_blur_std": True,
    },
    "object modes": {"obj": np.ones((24, 24, 3, 3)), "slice_distances": [5.0]},
    "probe modes": {**FOUR_SLICES, "probe": None, "n_hermite_probe_modes": [1, 1]},
    "tilts of each pattern": {**FOUR_SLICES, **ALL_TILTS},
    "tilts with one slice": ALL_TILTS,
    "near field": IMAGES,
    "near field, tilts": {**IMAGES, **ALL_TILTS},
    "probe scenarios": {"probe": SUBSCANS, "probe_marker": GROUPS},
    "yoshida": {**FOUR_SLICES, "propmethod": "yoshida", "update_slice_distances": True},
    "yoshida with one slice": {"propmethod": "yoshida", "update_slice_distances": True},
    "better_multislice": {**FOUR_SLICES, "propmethod": "better_multislice"},
    "local aberrations": {
        "aberration_marker": GROUPS,
        "aberrations_array": np.zeros((5, 12)),
        "update_aberrations_array": True,
    },
    "blur, background and current": {
        "detector_blur_std": 0.5,
        "update_detector_blur_std": True,
        "static_background": 1.0,
        "update_static_background": True,
        "update_beam_current": True,
    },
    "gains of quadrants": {"update_detector_gains": True},
    "upsampled patterns": {"upsample_pattern": 2, "probe": None},
    "virtual detectors": {
        "masks": np.ones((6, SIDE, SIDE)),
        "dataset": np.ones((N_PATTERNS, 6)),
        "algorithm": "lsq_compressed",
    },
}
EFFECTS["everything"] = {
    **EFFECTS["yoshida"],
    **ALL_TILTS,
    **EFFECTS["probe scenarios"],
    **EFFECTS["local aberrations"],
    **EFFECTS["blur, background and current"],
}


def measured(**changes: Any) -> tuple[int, memory.MemoryPlan]:
    """Bytes that building the objective and one evaluation of it really take, and the plan for it."""
    setup = prepare(small_params(**{"n_threads": 1, "update_probe_pos": True, **changes}))
    feed, variables, now = setup.feed(), setup.variables(), setup.settings.first()

    def evaluate() -> None:
        objective = setup.objective(feed, subpixel=True, propagation=now["propmethod"])
        objective.evaluate(variables, refined_blocks(now, variables), np.arange(N_PATTERNS))

    evaluate()  # plans of the FFT and the like are made once, and are no arrays of ours
    tracemalloc.start()
    evaluate()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, setup.plan


@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("name", EFFECTS)
def test_estimate_covers_the_measured_peak(name: str, precision: str) -> None:
    """Waves of a large batch, as NumPy really allocates them, are what was estimated, to 15 %."""
    peak, plan = measured(**EFFECTS[name], compute_batch=N_PATTERNS, default_dtype=precision)
    estimate = plan.items["waves and FFT workspace of the batches"]
    assert 0.85 * estimate < peak < 1.15 * estimate


@pytest.mark.parametrize("name", EFFECTS)
def test_the_whole_estimate_covers_small_batches_too(name: str) -> None:
    """With one pattern at a time nearly everything is what batches share."""
    peak, plan = measured(**EFFECTS[name], compute_batch=1)
    assert peak < plan.total


def test_an_integrator_of_a_later_epoch_is_planned_for() -> None:
    """Before the run nobody can know which ones will be chosen: it is planned for the one that takes most."""
    plain, later, constant = (
        pypty.plan(small_params(**FOUR_SLICES, compute_batch=1, propmethod=method), show=False).total
        for method in ("multislice", lambda epoch: "multislice" if epoch < 2 else "yoshida", "yoshida")
    )
    assert plain < constant <= later


@pytest.mark.parametrize(
    "changes",
    [
        {"aberration_marker": np.arange(N_PATTERNS), "aberrations_array": np.zeros((N_PATTERNS, 3))},
        {
            "masks": np.ones((100, SIDE, SIDE)),
            "dataset": np.ones((N_PATTERNS, 100)),
            "algorithm": "lsq_compressed",
        },
    ],
    ids=["a group of aberrations for each pattern", "many virtual detectors"],
)
def test_what_batches_share_is_planned(changes: dict[str, Any]) -> None:
    """Arrays of a window for every group or detector grow without bound, whatever the batch is."""
    peak, plan = measured(**changes, compute_batch=1)
    assert peak < plan.total


@pytest.mark.parametrize("kind", [pytest.param("npy", marks=pytest.mark.nightly), "h5"])
def test_memory_does_not_grow_with_the_data(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data that do not fit are read when they are needed: ten times the patterns, the same peak."""
    monkeypatch.setattr(memory, "free_bytes", lambda backend, sharers=1: 4 * 2**20)
    monkeypatch.setattr(survey, "_CHUNK_BYTES", 2**20)
    y = np.arange(64) - 32
    gaussian = np.exp(-(y[:, None] ** 2 + y**2) / 50).astype(complex)[..., None]
    peaks = []
    for n in (300, 3000):
        path = tmp_path / f"{n}.{kind}"
        data = np.random.default_rng(0).poisson(3.0, (n, 64, 64)).astype(np.uint16)
        if kind == "npy":
            np.save(path, data)
        else:
            with h5py.File(path, "w") as file:
                file["data"] = data
        positions = np.random.default_rng(1).uniform(0, 20, (n, 2))
        params = small_params(dataset=..., data_path=str(path), positions=positions, probe=gaussian)
        params |= {"compute_batch": 2, "default_dtype": "single", "epoch_max": 2, "hist_length": 1}
        del data
        tracemalloc.start()
        result = pypty.run(params)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert result.loss[-1] < result.loss[0]
        assert not pypty.plan(params, show=False).resident
    assert peaks[1] < peaks[0] + 2**20, peaks


def test_batch_shrinks_with_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    for free in (1_200_000, 2**23, 2**30):
        monkeypatch.setattr(memory, "free_bytes", lambda backend, sharers=1, free=free: free)
        plan = pypty.plan(small_params(n_threads=2, compute_batch="auto"), show=False)
        assert plan.total <= plan.limit
        batches.append(plan.batch * plan.n_threads)
    assert batches[0] < batches[1] <= batches[2]


def test_too_large_says_so_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda backend, sharers=1: 100_000)
    with pytest.raises(ParameterError, match="needs at least .* may be used"):
        pypty.run(small_params())


def limited_forward(monkeypatch: pytest.MonkeyPatch, largest: int) -> list[int]:
    """Let batches above ``largest`` fail as NumPy does; returns the sizes that were tried."""
    tried: list[int] = []
    forward = Model.forward

    def limited(self, points, batch, tapes, keep=True):
        tried.append(len(batch.index))
        if len(batch.index) > largest:
            raise np._core._exceptions._ArrayMemoryError((len(batch.index),), np.dtype(float))
        return forward(self, points, batch, tapes, keep)

    monkeypatch.setattr(Model, "forward", limited)
    return tried


def test_out_of_memory_halves_the_batch_and_goes_on(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    expected = pypty.run(small_params(epoch_max=2, compute_batch=3))
    tried = limited_forward(monkeypatch, 3)
    result = pypty.run(small_params(epoch_max=2, compute_batch=24))
    assert tried[:4] == [24, 12, 6, 3] and max(tried[4:]) == 3
    assert "batches of 3" in caplog.text
    np.testing.assert_array_equal(result.obj, expected.obj)


def test_out_of_memory_with_one_pattern_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    limited_forward(monkeypatch, 0)
    with pytest.raises(ResourceError, match="one pattern at a time"):
        pypty.run(small_params(epoch_max=1))


def test_free_memory_respects_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "left_in_groups", lambda: 12345)
    assert free_memory.free_bytes(select("cpu")) == 12345
    monkeypatch.setattr(free_memory, "left_in_groups", lambda: None)
    assert free_memory.free_bytes(select("cpu")) > 12345


def test_the_plan_counts_moments_and_no_history_that_is_not_kept() -> None:
    plain, adam, sgd, hybrid = (
        pypty.plan(small_params(hist_length=3, epoch_max=9, **given), show=False).items
        for given in (
            {},
            {"optimizer": "adam"},
            {"optimizer": "sgd"},
            {"optimizer": "lambda x: 'lbfgs' if x else 'adam'"},
        )
    )
    history, moments = "L-BFGS history", "moments of first-order methods"
    assert plain[moments] == sgd[moments] == 0 and adam[history] == 0
    assert 8 * adam[moments] == 4 * plain[history]  # the fourth pair is there before the oldest goes
    assert hybrid[history] == plain[history] and hybrid[moments] == adam[moments]


def limits(
    monkeypatch: pytest.MonkeyPatch, folder: Path, ulimit: dict[str, int] | None = None, **environment: str
) -> free_memory.FreeMemory:
    """Free memory of a process of 1 GiB addresses and 0.5 GiB of memory, on a machine with 64 GiB free."""
    import resource

    (folder / "self").mkdir(exist_ok=True)
    (folder / "self/status").write_text(
        "VmSize:\t1048576 kB\nVmRSS:\t524288 kB\nVmData:\t262144 kB\nThreads:\t1\n"
    )
    monkeypatch.setattr(free_memory, "_PROC", folder)
    monkeypatch.setattr(free_memory, "_host_free", lambda: 64 * 2**30)
    monkeypatch.setattr(free_memory, "left_in_groups", lambda: None)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    given = {getattr(resource, name): size for name, size in (ulimit or {}).items()}
    unlimited = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda which: (given.get(which, unlimited), unlimited))
    return free_memory.free_memory(select("cpu"))


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_every_limit_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gib = 2**30
    for ulimit, environment, size, name in (
        ({}, {}, 64 * gib, "this machine"),
        ({"RLIMIT_AS": 8 * gib}, {}, 7 * gib, "ulimit -v"),
        ({"RLIMIT_DATA": 2 * gib}, {}, 1.75 * gib, "ulimit -d"),
        ({"RLIMIT_AS": gib // 2}, {}, 0, "h_vmem"),
        ({}, {"SLURM_MEM_PER_NODE": "4096"}, 3.5 * gib, "SLURM_MEM_PER_NODE = 4096 MiB"),
        ({}, {"SLURM_MEM_PER_CPU": "1024", "SLURM_CPUS_ON_NODE": "6"}, 5.5 * gib, "1024 MiB on 6 cores"),
        ({}, {"SLURM_MEM_PER_CPU": "2048"}, 1.5 * gib, "SLURM_MEM_PER_CPU"),
        ({}, {"SLURM_MEM_PER_NODE": "0"}, 64 * gib, "this machine"),  # all of the node
        ({}, {"SLURM_MEM_PER_NODE": "4G"}, 3.5 * gib, "SLURM_MEM_PER_NODE = 4096 MiB"),
        ({}, {"SLURM_MEM_PER_NODE": "much"}, 64 * gib, "this machine"),
        ({}, {"SLURM_MEM_PER_GPU": "2048", "SLURM_GPUS_ON_NODE": "4"}, 7.5 * gib, "2048 MiB on 4 GPUs"),
        (
            {},
            {"SLURM_MEM_PER_CPU": "1024", "SLURM_CPUS_ON_NODE": "6", "SLURM_CPUS_PER_TASK": "2"},
            5.5 * gib,
            "on 6 cores",
        ),
        ({"RLIMIT_AS": 8 * gib}, {"SLURM_MEM_PER_NODE": "4096"}, 3.5 * gib, "SLURM"),  # the smallest
    ):
        free = limits(monkeypatch, tmp_path, ulimit, **environment)
        assert free.size == size and name in free.limited_by, (free, name)
        assert bool(free.advice) == ("machine" not in free.limited_by)


def test_processes_of_a_run_share_the_memory_of_a_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gib = 2**30
    limits(monkeypatch, tmp_path)
    free = free_memory.free_memory(select("cpu"), sharers=4)
    assert free.size == 16 * gib and free.limited_by == "the memory of this machine, shared by 4 processes"
    # Slurm limits the job: each of its four processes may have 1 GiB, and this one has half of it
    limits(monkeypatch, tmp_path, SLURM_MEM_PER_NODE="4096")
    assert free_memory.free_bytes(select("cpu"), sharers=4) == gib // 2
    # a limit of every process is not shared
    limits(monkeypatch, tmp_path, {"RLIMIT_AS": 8 * gib})
    free = free_memory.free_memory(select("cpu"), sharers=4)
    assert free.size == 7 * gib and "shared" not in free.limited_by
    monkeypatch.setattr(free_memory, "left_in_groups", lambda: 4 * gib)
    free = free_memory.free_memory(select("cpu"), sharers=4)
    assert free.size == gib and "control group" in free.limited_by


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v is of Linux")
def test_the_plan_knows_ulimit_and_the_advice_fits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limits(monkeypatch, tmp_path, {"RLIMIT_AS": 2**30 + 2**21})
    many = {
        "dataset": np.ones((2500, SIDE, SIDE)),
        "positions": np.tile(small_params()["positions"], (100, 1)),
    }
    with pytest.raises(ParameterError) as caught:
        pypty.run(small_params(**many, load_one_by_one=False, compute_batch=1))
    assert "ulimit -v" in str(caught.value) and "batch" not in str(caught.value)
    limits(monkeypatch, tmp_path, {"RLIMIT_AS": 2**30 + 2**26})
    assert "(ulimit -v (h_vmem of SGE) = " in str(pypty.plan(small_params(), show=False))


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v is of Linux")
def test_a_real_ulimit_is_seen() -> None:
    """In a process of its own, with a file of patterns that is larger than the limit of addresses."""
    code = """
import resource
from pypty.backend import select
from pypty.backend.memory import free_memory
before = free_memory(select("cpu")).size
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 2**26, resource.RLIM_INFINITY))
free = free_memory(select("cpu"))
assert 0 < free.size <= 2**26 < before and "ulimit -v" in free.limited_by, (before, free)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
