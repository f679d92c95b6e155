"""What a CUDA device adds: row and column kernels in whole reconstructions, data on their way, graphs, one wait for
each evaluation, the same bits every time."""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import emulator
import numpy as np
import pytest
from helpers import relative, small_problem

import pypty
from pypty.backend import streams
from pypty.backend.array import Backend, select, to_host
from pypty.backend.streams import DeviceStreams, GraphCache, HostStreams
from pypty.backend.workspace import Workspace
from pypty.data.feed import Feed
from pypty.data.reading import Reader, reads_file
from pypty.data.sources import ArraySource, CastSource
from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.prepare import prepare
from pypty.errors import DataError
from pypty.model.forward import build_model
from pypty.model.fused import FusedWaves
from pypty.model.options import ModelOptions
from pypty.model.split import SplitWaves
from pypty.model.stages import ObjectWindows
from pypty.objective import replay
from pypty.objective.objective import Objective
from pypty.objective.share import Evaluated, Limit
from pypty.optics.grid import Grid

BLOCKS = ("obj", "probe", "positions")


def thick(**changes: Any) -> dict[str, Any]:
    """Nine patterns of 64 x 64 pixels, two slices, two probe modes, in single precision: for the split kernels."""
    given = {
        "window": (64, 64),
        "object_modes": 1,
        "slices": 2,
        "n_positions": 9,
        "default_dtype": "single",
        "damping_cutoff_multislice": 2 / 3,
        "update_slice_distances": False,
        "compute_batch": 2,
        **changes,
    }
    return small_problem(3, **given)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Batches of these tests are small: with the fixture they are not too large for graphs, without it they are."""
    monkeypatch.setattr(replay, "LAUNCH_BOUND_PIXELS", 2**22)
    yield


@pytest.fixture(autouse=True)
def no_graphs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "graphs" not in request.fixturenames:
        monkeypatch.setattr(replay, "LAUNCH_BOUND_PIXELS", 0)


def objective_of(setup: Setup, feed: Feed) -> Objective:
    return setup.objective(feed, True, "multislice")


def evaluated(setup: Setup, feed: Feed | None = None, limit: Limit | None = None) -> Evaluated:
    """Loss and gradients of all patterns at the start."""
    objective = objective_of(setup, feed or setup.feed())
    return objective.evaluate(setup.variables(), BLOCKS, np.arange(9), limit=limit)


def assert_same(found: Evaluated, expected: Evaluated, tolerance: float = 2e-5) -> None:
    assert found.loss == pytest.approx(expected.loss, rel=tolerance)
    assert found.sse == pytest.approx(expected.sse, rel=tolerance)
    np.testing.assert_allclose(found.parts, expected.parts, rtol=tolerance)
    for name in BLOCKS:
        here, there = to_host(found.gradients[name]), to_host(expected.gradients[name])
        assert relative(here, there) < tolerance, name


# ---- executors

GRID = Grid((64, 64), (0.2, 0.2), 0.04)
OFF = {"grid": GRID, "cutoff": 2 / 3}


@pytest.mark.parametrize(
    ("changes", "precision", "stage", "executor"),
    [
        ({}, "single", SplitWaves, "split"),
        ({"executor": "fused"}, "single", FusedWaves, "fused (requested)"),
        ({"executor": "stages"}, "single", object, "stages (requested: executor='auto' takes the fastest)"),
        (
            {},
            "double",
            FusedWaves,
            "fused (split kernels do not cover: double precision: default_dtype='auto' or 'single')",
        ),
        (
            {"grid": Grid((62, 62), (0.2, 0.2), 0.04)},
            "single",
            FusedWaves,
            "fused (split kernels do not cover: window 62: pad to 64 (data_pad larger by 1))",
        ),
        ({"object_modes": 2, "keep_every": 2, "tilt_mode": 0}, "single", SplitWaves, "split"),
        (
            {"propagation": "yoshida"},
            "single",
            object,
            "stages (propmethod yoshida: propmethod='multislice')",
        ),
    ],
)
def test_which_executor(
    device: None, changes: dict[str, Any], precision: str, stage: type, executor: str
) -> None:
    model = build_model(ModelOptions(**{**OFF, **changes}), select("gpu", precision))
    assert isinstance(model.stages[0], stage)
    assert model.executor == executor


def test_on_the_cpu_there_is_no_split_executor() -> None:
    cpu = Backend("cpu", np, np.dtype(np.float32), np.dtype(np.complex64))
    for executor in ("auto", "fused"):
        assert build_model(ModelOptions(**OFF, executor=executor), cpu).executor == "fused"


# ---- the split kernels in whole evaluations and reconstructions


def test_evaluate_with_split_kernels(device: None) -> None:
    on_cpu = pypty.evaluate(thick(default_dtype="double"))
    on_device = pypty.evaluate(thick(backend="gpu"))
    assert on_device.loss == pytest.approx(on_cpu.loss, rel=1e-6)
    assert set(on_device.gradients) == set(on_cpu.gradients) == set(BLOCKS)
    for name, gradient in on_cpu.gradients.items():
        assert relative(on_device.gradients[name], gradient) < 2e-5, name


@pytest.mark.parametrize("algorithm", ["ml", "lsq_sqrt_2"])
def test_run_with_split_kernels(device: None, algorithm: str, caplog: pytest.LogCaptureFixture) -> None:
    changes = {
        "epoch_max": 3,
        "algorithm": algorithm,
        "warmup_epochs": 1,
        "beam_current": np.linspace(0.9, 1.1, 9),
    }
    on_cpu = pypty.run(thick(**changes))
    caplog.set_level("INFO", "pypty")
    on_device = pypty.run(thick(backend="gpu", **changes))
    assert "executor: split" in caplog.text
    np.testing.assert_allclose(on_device.loss, on_cpu.loss, rtol=1e-4)
    assert relative(on_device.obj, on_cpu.obj) < 1e-3


@pytest.mark.parametrize("changes", [{}, {"default_dtype": "double"}], ids=["split", "fused"])
def test_simulate(device: None, changes: dict[str, Any]) -> None:
    assert relative(pypty.simulate(thick(backend="gpu", **changes)), pypty.simulate(thick())) < 1e-5


@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize("slices", [1, 4])
def test_forward_only_keeps_no_waves(device: None, precision: str, slices: int) -> None:
    """Where no gradient follows, the number of slices takes no memory."""
    setup = prepare(thick(backend="gpu", slices=slices, default_dtype=precision, compute_batch=9))
    objective = objective_of(setup, setup.feed())
    objective.evaluate(setup.variables(), (), np.arange(9))
    wave = 9 * 2 * 64 * 64 * setup.backend.complex.itemsize
    assert objective._memory.workspaces[0].nbytes < 3.2 * wave


# ---- data


def feed_of(setup: Setup, **changes: Any) -> Feed:
    return Feed(
        setup.backend,
        setup.source,
        crop_origins=setup.scan.crop_origins,
        preprocess=setup.preprocess,
        weights=setup.settings["detector_mask"],
        multiplier=setup.settings["data_multiplier"],
        reorder=setup.to_model,
        **changes,
    )


@pytest.mark.parametrize("mask", ["none", "common", "own"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">i4", "float64", "bool"])
def test_streamed_and_resident_data_are_those_of_the_host(device: None, dtype: str, mask: str) -> None:
    """In batches of any size; three of them share two buffers."""
    rng = np.random.default_rng(1)
    data = thick()["dataset"].clip(0, 200).astype(dtype)
    masks = {"none": None, "common": rng.uniform(size=(64, 64)), "own": rng.uniform(size=(9, 64, 64))}
    changes = {"dataset": data, "detector_mask": masks[mask], "data_multiplier": 1.5}
    on_cpu, on_device = (prepare(thick(backend=where, **changes)) for where in ("cpu", "gpu"))
    expected = evaluated(on_cpu)
    host, resident, lazy = (feed_of(on_device, resident_on_device=i == 1) for i in range(3))
    host.make_resident()
    resident.make_resident()
    assert isinstance(host._resident, np.ndarray) and not isinstance(resident._resident, np.ndarray)
    for feed in (host, resident, lazy):
        assert_same(evaluated(on_device, feed), expected)
        np.testing.assert_array_equal(
            feed.patterns(np.array([1, 4])).astype(float), host.patterns(np.array([1, 4])).astype(float)
        )


def test_nan_in_resident_data(device: None) -> None:
    data = thick()["dataset"].astype(float)
    data[2, 3, 4] = np.nan
    on_cpu, on_device = (prepare(thick(backend=b, dataset=data, detector_mask="nan")) for b in ("cpu", "gpu"))
    feed = feed_of(on_device, resident_on_device=True)
    feed.make_resident()
    assert_same(evaluated(on_device, feed), evaluated(on_cpu))


def test_data_on_the_device_keep_their_type(device: None) -> None:
    setup = prepare(thick(backend="gpu", dataset=thick()["dataset"].astype(np.uint16)))
    feed = feed_of(setup, resident_on_device=True)
    feed.make_resident()
    batch = feed.batch(np.array([1, 5]))
    assert batch.data.dtype == np.uint16 and len(batch.data) == 9
    np.testing.assert_array_equal(to_host(batch.rows), [1, 5])
    assert feed_of(setup).batch(np.array([1, 5])).data.dtype == np.uint16


def test_two_buffers_are_used_in_turn(emulated: ModuleType) -> None:
    """The copy of the next batch is queued before the present one is computed; nothing is allocated for a third."""
    setup = prepare(thick(backend="gpu"))
    feed, places, seen = feed_of(setup), [], []
    chosen = [np.array([i, i + 1]) for i in range(0, 8, 2)]
    with feed.streams.computing(), emulated.journal() as entries:
        for batch in feed.batches(chosen, Workspace(setup.backend.xp)):
            places.append(batch.data.data.ptr)
            seen.append(entries.count("copy"))
            np.testing.assert_array_equal(batch.data.get(), feed.patterns(batch.index))
    assert places[:2] == places[2:] and places[0] != places[1]
    assert seen == [2, 3, 4, 4]


def test_a_buffer_is_not_overwritten_while_it_is_computed_with(emulated: ModuleType) -> None:
    """The copy of batch k + 2 waits for the event that comes after the kernels of batch k."""
    setup = prepare(thick(backend="gpu"))
    feed, done = feed_of(setup), []
    with feed.streams.computing(), emulated.journal() as entries:
        batches = feed.batches([np.array([i]) for i in range(6)], Workspace(setup.backend.xp))
        next(batches)
        for _ in range(5):
            before = len(entries)
            next(batches)  # first releases the batch before, then sends the one after
            follows = entries[before:]
            released = next(entry for entry in follows if entry.startswith("record")).split()[1]
            done.append(released)
            if "copy" in follows:
                before_copy = follows[: follows.index("copy")]
                assert f"wait {released}" in before_copy
                assert "host waits for an event" in before_copy  # the pinned buffer is filled by the host
    assert len(set(done)) == 5


def test_a_missing_wait_would_be_seen(device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tests above would show nothing."""
    monkeypatch.setattr("pypty.backend.streams._Slot.receive", lambda slot: slot.array)
    setup = prepare(thick(backend="gpu"))
    batch = feed_of(setup).batch(np.array([1, 5]))
    assert not np.array_equal(batch.data.get(), feed_of(setup).patterns(np.array([1, 5])))


# ---- every wait is needed

ORDERING = re.compile(r"(?m)^( +)\S+\.(?:wait_event|record|synchronize|release)\(.*\)")
"""Statements that order streams."""
STATEMENTS = [match.start() for match in ORDERING.finditer(inspect.getsource(streams))]


def without(position: int) -> ModuleType:
    """The module without the statement at a position; whole for a negative one."""
    source = inspect.getsource(streams)
    if position >= 0:
        source = source[:position] + ORDERING.sub(r"\1pass", source[position:], count=1)
    module = ModuleType(streams.__name__)
    exec(source, module.__dict__)
    return module


def computed(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Two evaluations of streamed data, which depend on work before them; pieces of an array that are uploaded."""
    monkeypatch.setattr("pypty.data.feed.make_streams", module.make_streams)
    setup = prepare(thick(backend="gpu", compute_batch=1))
    objective, variables = objective_of(setup, feed_of(setup)), setup.variables()
    arrays = []
    for _ in range(2):
        variables = variables.replace({"probe": 1.01 * variables.probe})
        found = objective.evaluate(variables, BLOCKS, np.arange(9))
        arrays += [np.array(found.loss), *(to_host(2 * found.gradients[name]) for name in BLOCKS)]
    own, xp, pieces = module.make_streams(setup.backend), setup.backend.xp, np.arange(4000.0).reshape(4, 1000)
    with own.computing():
        array = xp.empty(pieces.shape)
        for piece, place in zip(pieces, array, strict=True):
            upload = own.upload(piece, place)
        upload.receive()
        arrays.append(to_host(array))
    return arrays


@pytest.mark.parametrize("position", [-1, *STATEMENTS])
def test_every_wait_is_needed(emulated: ModuleType, position: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one of them a number is wrong."""
    expected = computed(streams, monkeypatch)
    found = computed(without(position), monkeypatch)
    same = [relative(one, other) < 1e-5 for one, other in zip(found, expected, strict=True)]
    assert all(same) is (position < 0)


def test_an_evaluation_is_ordered_after_and_before_what_surrounds_it(emulated: ModuleType) -> None:
    """By an event on each side, on streams of their own."""
    import cupy

    streams, outer = DeviceStreams(cupy), cupy.cuda.get_current_stream()
    with emulated.journal() as entries:
        with streams.computing():
            assert cupy.cuda.get_current_stream() == streams.compute != outer
            first = list(entries)
        last = entries[len(first) :]
    assert cupy.cuda.get_current_stream() == outer
    for record, wait in (first, last):
        assert record.startswith("record") and wait == record.replace("record", "wait")


def test_host_streams() -> None:
    streams, array = HostStreams(), np.arange(3)
    upload = streams.upload(array)
    assert upload.receive() is array
    into = np.zeros(3)
    streams.upload(array, into).release()
    np.testing.assert_array_equal(into, array)


# ---- reading ahead


class Slow(ArraySource):
    """Counts as a file; notes when each batch is read, and fails at a pattern."""

    def __init__(self, array: np.ndarray, bad: int = -1) -> None:
        super().__init__(array)
        self.events: list[str] = []
        self.bad = bad
        self.threads: set[str] = set()

    def read(self, indices: np.ndarray) -> np.ndarray:
        self.threads.add(threading.current_thread().name)
        self.events.append(f"read {indices[0]}")
        if self.bad in indices:
            raise DataError(f"pattern {self.bad} cannot be read")
        return super().read(indices)


@pytest.fixture
def from_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pypty.data.feed.reads_file", lambda source: True)


def test_what_is_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 3, 4)))
    mapped = ArraySource(np.load(tmp_path / "a.npy", mmap_mode="r"))
    assert reads_file(mapped) and reads_file(CastSource(mapped, np.dtype(np.uint8)))
    assert not reads_file(ArraySource(np.ones((2, 3, 4))))


def test_batches_are_read_ahead_in_their_order(from_file: None) -> None:
    """One thread, never more than one batch ahead of the one that computes."""
    cpu = Backend("cpu", np, np.dtype(np.float64), np.dtype(np.complex128))
    source = Slow(np.arange(12.0).reshape(12, 1, 1))
    feed = Feed(cpu, source, crop_origins=np.zeros((12, 2), int))
    chosen, ahead = [np.array([i, i + 1]) for i in range(0, 12, 2)], []
    for number, batch in enumerate(feed.batches(chosen, Workspace(np))):
        ahead.append(len(source.events) - number)
        np.testing.assert_array_equal(batch.data.ravel(), chosen[number])
    assert max(ahead) <= 2
    assert source.events == [f"read {i}" for i in range(0, 12, 2)]
    assert len(source.threads) == 1 and source.threads != {threading.current_thread().name}


def test_errors_in_reading_are_raised_where_the_batch_is_needed(from_file: None) -> None:
    cpu = Backend("cpu", np, np.dtype(np.float64), np.dtype(np.complex128))
    feed = Feed(cpu, Slow(np.ones((8, 1, 1)), bad=5), crop_origins=np.zeros((8, 2), int))
    got = []
    with pytest.raises(DataError, match="pattern 5"):
        for batch in feed.batches([np.array([i, i + 1]) for i in range(0, 8, 2)], Workspace(np)):
            got.append(batch.index[0])
    assert got == [0, 2]
    assert len(feed.batch(np.array([0])).index) == 1  # and goes on


def test_data_in_memory_are_read_by_no_thread() -> None:
    cpu = Backend("cpu", np, np.dtype(np.float64), np.dtype(np.complex128))
    source = Slow(np.ones((4, 1, 1)))
    assert (
        len(
            list(Feed(cpu, source, crop_origins=np.zeros((4, 2), int)).batches([np.arange(2)], Workspace(np)))
        )
        == 1
    )
    assert source.threads == {threading.current_thread().name} or reads_file(source)


def test_an_unfinished_reader_leaves_nothing_behind() -> None:
    begun: list[int] = []
    batches = Reader().ahead(lambda indices: begun.append(int(indices[0])), [np.array([i]) for i in range(9)])
    next(batches)
    batches.close()
    assert len(begun) <= 2


@pytest.mark.parametrize("n_threads", [1, 2])
def test_reading_ahead_changes_no_bit(from_file: None, n_threads: int) -> None:
    params = thick(n_threads=n_threads, fft_library="scipy")
    setup = prepare(params)
    lazy, kept = feed_of(setup), feed_of(setup)
    kept.make_resident()
    one, other = evaluated(setup, lazy), evaluated(setup, kept)
    assert one.loss == other.loss
    for name in BLOCKS:
        np.testing.assert_array_equal(one.gradients[name], other.gradients[name])


# ---- one wait for each evaluation


@pytest.mark.parametrize("changes", [{}, {"default_dtype": "double"}], ids=["split", "fused"])
def test_the_host_waits_once(emulated: ModuleType, changes: dict[str, Any]) -> None:
    """Whatever the number of batches; reading the distances of the slices is the other time."""
    setup = prepare(thick(backend="gpu", **changes))
    feed = feed_of(setup, resident_on_device=True)
    feed.make_resident()
    objective, variables = objective_of(setup, feed), setup.variables()
    with emulated.journal() as entries:
        objective.evaluate(variables, BLOCKS, np.arange(9))
    assert entries.count("host reads") == 2


def test_losses_are_looked_at_twice_in_a_trial(emulated: ModuleType) -> None:
    """Loss and parts; the distances of the slices are known from the evaluation before."""
    setup = prepare(thick(backend="gpu", compute_batch=1))
    objective, variables = objective_of(setup, setup.feed()), setup.variables()
    start = objective.evaluate(variables, BLOCKS, np.arange(9))
    worse = variables.replace({"probe": 3 * variables.probe})
    with emulated.journal() as entries:
        found = objective.evaluate(worse, BLOCKS, np.arange(9), limit=Limit(start.loss, start.parts))
    assert found.gradients == {} and entries.count("host reads") == 3
    high = 1e3 * found.loss
    made_good = objective.evaluate(worse, BLOCKS, np.arange(9), limit=Limit(high, start.parts))
    assert_same(made_good, objective.evaluate(worse, BLOCKS, np.arange(9)), 1e-5)


# ---- graphs


def test_small_batches_are_replayed(emulated: ModuleType, graphs: None) -> None:
    """Two evaluations at different points: captured once for each shape, and the numbers are right."""
    on_cpu, setup = prepare(thick()), prepare(thick(backend="gpu"))
    feed = feed_of(setup, resident_on_device=True)
    feed.make_resident()
    objective, variables = objective_of(setup, feed), setup.variables()
    with emulated.journal() as entries:
        first = objective.evaluate(variables, BLOCKS, np.arange(9))
        moved = variables.replace({"probe": 1.1 * variables.probe, "positions": variables.positions + 0.01})
        second = objective.evaluate(moved, BLOCKS, np.arange(9))
        third = objective.evaluate(variables, BLOCKS, np.arange(9))
    assert_same(first, evaluated(on_cpu))
    assert first.loss == third.loss != second.loss
    for name in BLOCKS:
        assert relative(to_host(third.gradients[name]), to_host(first.gradients[name])) < 1e-6
    assert entries.count("capture") == 2  # batches of two patterns, and the last of one
    # Of 15 batches those are launched one by one that are the first of their shape, or meet a new buffer.
    assert entries.count("launch") == 12


@pytest.mark.parametrize("resident", [True, False])
def test_replayed_and_launched_batches_agree(
    emulated: ModuleType, graphs: None, resident: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = prepare(thick(backend="gpu", compute_batch=1, algorithm="ml"))
    feed = feed_of(setup, resident_on_device=resident)
    if resident:
        feed.make_resident()
    with emulated.journal() as entries:
        replayed = evaluated(setup, feed)
    assert "launch" in entries
    monkeypatch.setattr(replay, "LAUNCH_BOUND_PIXELS", 0)
    with emulated.journal() as entries:
        assert_same(evaluated(setup, feed), replayed, 1e-6)
    assert "launch" not in entries


def test_the_gradients_of_an_evaluation_stay(device: None, graphs: None) -> None:
    """The next one uses the same accumulators."""
    setup = prepare(thick(backend="gpu"))
    objective, variables = objective_of(setup, setup.feed()), setup.variables()
    first = objective.evaluate(variables, BLOCKS, np.arange(9))
    kept = {name: to_host(gradient) for name, gradient in first.gradients.items()}
    objective.evaluate(variables.replace({"probe": 2 * variables.probe}), BLOCKS, np.arange(9))
    for name in BLOCKS:
        np.testing.assert_array_equal(to_host(first.gradients[name]), kept[name])


def test_run_with_graphs(emulated: ModuleType, graphs: None) -> None:
    changes = {"epoch_max": 4, "warmup_epochs": 1}
    with emulated.journal() as entries:
        on_device = pypty.run(thick(backend="gpu", **changes))
    assert entries.count("launch") > entries.count("capture") > 0
    np.testing.assert_allclose(on_device.loss, pypty.run(thick(**changes)).loss, rtol=1e-4)


def test_an_object_of_another_size_is_another_graph(device: None, graphs: None) -> None:
    """A smaller one fits into the same buffers."""
    setup = prepare(thick(backend="gpu", compute_batch=1))
    objective, variables = objective_of(setup, setup.feed()), setup.variables()
    cut = variables.obj.shape[-1] - 1
    smaller = variables.replace({"obj": variables.obj[..., :cut].copy()})
    chosen = np.flatnonzero(setup.scan.crop_origins[:, 1] + 64 <= cut)
    assert len(chosen) > 4
    for point in (variables, smaller, variables):
        found = objective.evaluate(point, BLOCKS, chosen)
        on_host = {name: to_host(array) for name, array in point.blocks(point.present).items()}
        here = prepare(thick(compute_batch=1))
        expected = objective_of(here, here.feed()).evaluate(point.replace(on_host), BLOCKS, chosen)
        assert_same(found, expected)


BEHIND: dict[str, dict[str, Any]] = {
    "beam current": {"beam_current": np.linspace(0.9, 1.2, 9)},
    "background": {"static_background": np.random.default_rng(3).uniform(size=(64, 64))},
    "blur": {"detector_blur_std": 0.7},
    "reflected blur": {"detector_blur_std": 0.7, "detector_blur_edge": "reflect"},
    "gains": {"detector_gains": np.array([[1.0, 1.1], [0.9, 1.2]])},
    "weights of each pattern": {"detector_mask": np.random.default_rng(3).uniform(size=(9, 64, 64))},
    "one position": {"positions": np.full((1, 2), 3.3)},
    "object modes, tilts": {"object_modes": 2, "tilts": np.random.default_rng(4).normal(0, 3e-3, (9, 6))},
    "several": {
        "beam_current": np.linspace(0.9, 1.2, 9),
        "static_background": np.random.default_rng(3).uniform(size=(64, 64)),
        "detector_blur_std": 0.7,
        "tilts": np.random.default_rng(4).normal(0, 3e-3, (1, 6)),
    },
}


@pytest.mark.parametrize("name", BEHIND)
def test_what_lies_behind_the_waves_is_replayed_too(emulated: ModuleType, graphs: None, name: str) -> None:
    """With gradients of everything: a graph of each shape, and the numbers of the CPU at a second point."""
    found, captured = [], 0
    for backend, dtype in (("gpu", "single"), ("cpu", "double")):
        setup = prepare(
            thick(**{**BEHIND[name], "backend": backend, "default_dtype": dtype, "compute_batch": 1})
        )
        objective, variables = objective_of(setup, setup.feed()), setup.variables()
        blocks = tuple(name for name in variables.present if name != "aberrations_array")
        moved = variables.replace(
            {block: 1.02 * variables.block(block) for block in blocks if block != "positions"}
        )
        with emulated.journal() as entries:
            objective.evaluate(variables, blocks, np.arange(9))
            found.append(objective.evaluate(moved, blocks, np.arange(9)))
        captured += entries.count("launch")
    on_device, on_cpu = found
    assert captured >= 14, "18 batches but the first, the second, and one that meets a new buffer"
    assert on_device.loss == pytest.approx(on_cpu.loss, rel=2e-5)
    assert set(on_device.gradients) == set(on_cpu.gradients)
    for block, gradient in on_cpu.gradients.items():
        assert relative(to_host(on_device.gradients[block]), gradient) < 1e-4, block


def test_what_is_not_captured(emulated: ModuleType, graphs: None) -> None:
    """Virtual detectors are a product of matrices; other executors call cuFFT."""
    rng = np.random.default_rng(3)
    sums = {
        "masks": rng.uniform(size=(4, 64, 64)),
        "dataset": rng.uniform(size=(9, 4)),
        "algorithm": "lsq_compressed",
    }
    for changes in (sums, {"default_dtype": "double"}):
        setup = prepare(thick(backend="gpu", **changes))
        with emulated.journal() as entries:
            evaluated(setup)
        assert "capture" not in entries


def test_arrays_of_a_graph_are_its_own(device: None) -> None:
    """What others make between two replays lies elsewhere."""
    import cupy

    streams, given, out = DeviceStreams(cupy), cupy.arange(1000.0), cupy.zeros(1000)
    cache = GraphCache(streams)

    def task() -> None:
        cupy.add(given * 2, 1, out=out)

    with streams.computing():
        for _ in range(4):
            others = [cupy.full(1000, 7.0) for _ in range(20)]
            out.fill(0)
            cache.run("a", task)
            assert all(bool((other == 7).all()) for other in others)
            np.testing.assert_array_equal(to_host(out), 2 * np.arange(1000.0) + 1)


def test_only_some_graphs_are_kept(device: None) -> None:
    import cupy

    streams, array = DeviceStreams(cupy), cupy.zeros(1)
    cache = GraphCache(streams)
    with streams.computing():
        for key in range(40):
            for _ in range(3):
                cache.run(key, lambda: cupy.add(array, 1, out=array))
    assert len(cache._graphs) == 16


# ---- the same bits every time


def bits_of(setup: Setup, order: int) -> dict[str, bytes]:
    """Of loss and gradients, with blocks and threads in this order."""
    with emulator.settings(order=order):
        found = evaluated(setup)
    return {"loss": np.float64(found.loss).tobytes()} | {
        name: to_host(gradient).tobytes() for name, gradient in found.gradients.items()
    }


CASES: dict[str, dict[str, Any]] = {
    "split": {},
    "fused, single": {"window": (62, 62)},
    "fused, double": {"default_dtype": "double", "object_modes": 2},
}


@pytest.mark.parametrize("name", CASES)
def test_deterministic(emulated: ModuleType, name: str) -> None:
    """The order in which blocks run changes no bit, and the numbers are right."""
    setup = prepare(thick(backend="gpu", deterministic=True, **CASES[name]))
    first = bits_of(setup, 0)
    assert all(bits_of(setup, order) == first for order in (1, 2))
    assert_same(evaluated(setup), evaluated(prepare(thick(**CASES[name]))))


@pytest.mark.parametrize("name", CASES)
def test_without_it_the_order_matters(emulated: ModuleType, name: str) -> None:
    setup = prepare(thick(backend="gpu", **CASES[name]))
    assert len({bits_of(setup, order)["obj"] for order in (0, 1)}) == 2


@pytest.mark.parametrize(
    "changes", [{}, {"default_dtype": "double", "object_modes": 2}], ids=["single", "double"]
)
def test_deterministic_stages(emulated: ModuleType, changes: dict[str, Any]) -> None:
    params = thick(executor="stages", deterministic=True, **changes)
    setup = prepare({**params, "backend": "gpu"})
    assert isinstance(objective_of(setup, setup.feed()).model.stages[-3].windows, ObjectWindows)
    first = bits_of(setup, 0)
    assert bits_of(setup, 1) == first
    assert_same(evaluated(setup), evaluated(prepare(params)))


def test_deterministic_run_and_resume(device: None, tmp_path: Path) -> None:
    whole = pypty.run(thick(backend="gpu", epoch_max=4, deterministic=True))
    folder = {"output_folder": str(tmp_path), "backend": "gpu", "deterministic": True}
    pypty.run(thick(epoch_max=2, **folder))
    resumed = pypty.run(thick(epoch_max=4, resume=True, **folder))
    np.testing.assert_array_equal(resumed.obj, whole.obj)


# ---- every way to compute the same


@pytest.mark.parametrize("changes", [{}, {"window": (60, 60)}, {"default_dtype": "double"}], ids=str)
def test_every_way_to_evaluate(
    device: None, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every executor; streamed, resident, launched and replayed."""
    expected = evaluated(prepare(thick(**{**changes, "default_dtype": "double"})))
    setup = prepare(thick(backend="gpu", **changes))
    for limit in (0, 2**22):
        monkeypatch.setattr(replay, "LAUNCH_BOUND_PIXELS", limit)
        for resident in (True, False):
            feed = feed_of(setup, resident_on_device=resident)
            feed.make_resident()
            objective = objective_of(setup, feed)
            for _ in range(3):
                found = objective.evaluate(setup.variables(), BLOCKS, np.arange(9))
                assert_same(found, expected)


def test_deterministic_again_and_again(device: None) -> None:
    """On a card the order of blocks is another one every time."""
    setup = prepare(thick(backend="gpu", deterministic=True))
    found = [evaluated(setup) for _ in range(3)]
    for name in BLOCKS:
        assert len({to_host(one.gradients[name]).tobytes() for one in found}) == 1
