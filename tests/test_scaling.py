"""Plans for several ranks: who needs how much memory, how long an epoch takes, and where more ranks stop paying."""

from __future__ import annotations

import dataclasses
import json
import math
import tracemalloc
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from problems import N_PATTERNS, scan_positions, small_params, two_slices
from threaded_ranks import threaded_ranks

from pypty.backend.array import select
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.state import State
from pypty.engine.epochs.timing import evaluation_time, few_patterns, measure_rates
from pypty.engine.ranks.opening import Crew, together
from pypty.engine.setup import memory
from pypty.engine.setup.division import Division, of_scan, rectangles
from pypty.engine.setup.memory_items import BAND_LIMITS, HISTORY, PATTERNS, WAVES, Role, fixed_items
from pypty.engine.setup.memory_needs import Needs
from pypty.engine.setup.memory_plan import MemoryPlan, Ranks, Sizes, size_text
from pypty.engine.setup.precision import in_precision
from pypty.engine.setup.prepare import prepare
from pypty.engine.setup.rank_plan import RankPlan, rank_plan
from pypty.engine.setup.scaling import (
    EpochTime,
    Measured,
    Method,
    Rates,
    Storage,
    best_number,
    doublings,
    epoch_time,
    traffic,
)
from pypty.errors import ParameterError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SIZES = Sizes(
    n_patterns=1000,
    window=(20, 20),
    probe_modes=2,
    object_modes=1,
    slices=3,
    object_shape=(100, 60),
    data_bytes=800_000,
    compared=400,
)
RATES = Rates(
    wave_pixel_s=1e-6,
    evaluation_s=0.01,
    filter_pixel_s=1e-8,
    memory=1e9,
    to_all=1e8,
    from_all=2e8,
    latency_s=1e-4,
)
KEPT = Storage()


# --- the division ----------------------------------------------------------------------------------------------------


def test_a_scan_is_cut_along_its_longer_side() -> None:
    """Crop origins lie in 80 x 40 pixels: two halves of 40 x 40, then four of 20 x 40, each with a patch around."""
    assert rectangles(SIZES, 1) == Division(windows=((100, 60),), n_patterns=1000)
    assert rectangles(SIZES, 2).windows == ((60, 60),) * 2
    four = rectangles(SIZES, 4)
    assert four.windows == ((40, 60),) * 4 and four.n_patterns == 250
    assert four.overlap(SIZES) == pytest.approx(4 * 2400 / 6000)
    assert four.sent_pixels == 3 * 2400 and four.largest == (40, 60)
    # one of three, then two halves of the rest: 80/3 and 160/3 pixels
    assert rectangles(SIZES, 3).windows == ((47, 60), (47, 60), (47, 60))


def test_rectangles_are_what_a_raster_is_divided_into() -> None:
    step = 4
    y, x = np.meshgrid(np.arange(24) * step, np.arange(30) * step, indexing="ij")
    origins = np.stack([y.ravel(), x.ravel()], 1)
    shape = (23 * step + 20, 29 * step + 20)
    sizes = dataclasses.replace(SIZES, n_patterns=len(origins), object_shape=shape)
    for ranks in (1, 2, 3, 6, 16):
        real = of_scan(origins, np.arange(len(origins)), (20, 20), shape, ranks)
        model = rectangles(sizes, ranks)
        assert real.n_patterns == model.n_patterns
        np.testing.assert_allclose(real.windows, model.windows, atol=2 * step)


def test_fewer_patterns_than_ranks() -> None:
    with pytest.raises(ParameterError, match="1000 patterns cannot be divided among 1001 ranks"):
        rectangles(SIZES, 1001)
    with pytest.raises(ParameterError, match="25 patterns cannot be divided among 26"):
        rank_plan(prepare(small_params()), Ranks(size=26), None)


# --- the memory of a rank --------------------------------------------------------------------------------------------


def test_what_each_rank_holds() -> None:
    """Numbers that can be done by hand: complex64, one thread, an object of 144 000 bytes and windows of 129 600."""
    cpu, obj, window, probe = select("cpu", "single"), 8 * 100 * 60 * 3, 8 * 90 * 60 * 3, 8 * 400 * 2
    names = "object, its gradients and directions", "probe, its gradients and directions"
    needs = dataclasses.replace(Needs.of_lbfgs(4), moments=2.0)
    one = fixed_items(SIZES, cpu, needs, 1)
    small = 2 * obj  # vectors are added in pieces that are larger
    assert [one[name] for name in names] == [5 * obj + small, 5 * probe]
    assert one[HISTORY] == 10 * (obj + probe) and one[BAND_LIMITS] == 4 * 100 * 60 * 2
    assert fixed_items(SIZES, cpu, needs, 4)[names[0]] == 7 * obj + small  # (3 + 4): four sums of gradients
    role = Role(ranks=4, window=(90, 60))
    first = fixed_items(SIZES, cpu, needs, 1, role)
    assert [first[name] for name in names] == [4 * obj + 3 * window + small, 6 * probe]
    assert first[HISTORY] == 10 * (obj + probe) and first["moments of first-order methods"] == 2 * (
        obj + probe
    )
    other = fixed_items(SIZES, cpu, needs, 1, dataclasses.replace(role, leads=False))
    assert [other[name] for name in names] == [2 * window, 2 * probe]
    assert other[HISTORY] == other["moments of first-order methods"] == other[BAND_LIMITS] == 0
    spread = [
        fixed_items(SIZES, cpu, needs, 1, dataclasses.replace(role, leads=leads, spread=True))
        for leads in (True, False)
    ]
    assert [items[HISTORY] for items in spread] == [13 * obj // 4 + 10 * probe, 13 * obj // 4]
    assert spread[0][names[0]] == first[names[0]] + 2 * obj  # the new pair, before it is cut
    phases = fixed_items(SIZES, cpu, dataclasses.replace(needs, vector=0.5), 1)
    assert phases[HISTORY] == 10 * (obj // 2 + probe)


def plan_for(ranks: Ranks, **changes: Any) -> MemoryPlan:
    setup = prepare(two_slices(**{"n_threads": 1, **changes}), ranks=lambda settings, backend: ranks)
    setup.close()
    return setup.plan


def test_the_plan_of_rank_0_and_of_another() -> None:
    one, three = plan_for(Ranks()), plan_for(Ranks(size=3))
    assert one.others == {} and one.of_another == 0 and "rank" not in str(one)
    assert three.items[PATTERNS] == 9 * one.items[PATTERNS] // N_PATTERNS == three.data_bytes
    assert 0 < three.of_another < three.total and three.others[WAVES] == three.items[WAVES]
    shown = str(three)
    assert "plan of rank 0 of 3 for the CPU" in shown and "total of each other rank, at most" in shown


@pytest.mark.parametrize("spread", [False, True])
def test_the_plans_of_all_ranks_cover_the_measured_peak(
    spread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All ranks are threads of this process, so that their arrays are counted together."""
    changes: dict[str, Any] = {"compute_batch": 2, "update_probe": True, "hist_length": 5, "epoch_max": 8}
    changes["positions"] = scan_positions(60.0)
    if spread:
        free = 0.8 * plan_for(Ranks(size=3), **changes).total / 0.7
        monkeypatch.setattr(memory, "free_bytes", lambda backend, sharers=1: int(free))
    setup = prepare(
        two_slices(**changes, n_threads=1), ranks=lambda settings, backend: Ranks(size=3, on_node=3)
    )
    assert setup.plan.spread_history == spread
    planned_bytes = setup.plan.total + 2 * setup.plan.of_another
    tracemalloc.start()
    with threaded_ranks(3) as link, together(setup, Crew(link)) as shared:
        run = Reconstruction(shared, State(variables=shared.variables(), epoch=0))
        for _ in run.epochs():
            pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.5 * planned_bytes < peak < planned_bytes


def test_ranks_of_a_node_share_its_memory_and_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def free(backend: Any, sharers: int = 1) -> int:
        asked.append(sharers)
        return 2**30 // sharers

    monkeypatch.setattr(memory, "free_bytes", free)
    monkeypatch.setattr(memory, "available_cores", lambda: 8)
    plan = plan_for(Ranks(size=4, on_node=2, on_cores=2), n_threads=None)
    assert set(asked) == {2} and plan.free == 2**29 and plan.n_threads == 4
    assert "shared by 2 processes" in plan.limited_by
    assert plan_for(Ranks(size=4, on_node=2, on_cores=1), n_threads=None).n_threads == 7  # a rank's patterns
    assert plan_for(Ranks(size=4, on_cores=16), n_threads=None).n_threads == 1
    assert plan_for(Ranks(size=4, on_cores=16), n_threads=3).n_threads == 3


def test_ranks_share_the_history_only_where_it_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"hist_length": 20, "epoch_max": 50, "compute_batch": 1}
    whole = plan_for(Ranks(size=4), **changes)
    assert not whole.spread_history
    free = 0.6 * whole.total / 0.7
    monkeypatch.setattr(memory, "free_bytes", lambda backend, sharers=1: int(free))
    pieces = plan_for(Ranks(size=4), **changes)
    assert pieces.spread_history and pieces.total <= pieces.limit
    assert pieces.total == pieces.in_pieces == whole.in_pieces  # which the plan of the whole one says, too
    assert pieces.others[HISTORY] < pieces.items[HISTORY] < whole.items[HISTORY] / 2
    assert "each rank keeps a part of it" in str(pieces)
    with pytest.raises(ParameterError, match="the reconstruction needs at least"):
        plan_for(Ranks(), **changes)
    assert not plan_for(Ranks(size=4), optimizer="adam").spread_history
    monkeypatch.setattr(memory, "free_bytes", lambda backend, sharers=1: 20_000)
    with pytest.raises(ParameterError, match="rank 0 needs at least"):
        plan_for(Ranks(size=4), **changes)


def test_double_precision_is_planned_for_the_same_ranks() -> None:
    setup = prepare(two_slices(default_dtype="auto"), ranks=lambda settings, backend: Ranks(size=3))
    double = in_precision(setup, "double", running=True)
    assert double.plan.ranks == Ranks(size=3) and double.plan.precision == "double"
    assert setup.plan.in_double == pytest.approx(double.plan.total, rel=1e-12)


# --- the time of an epoch --------------------------------------------------------------------------------------------


def time_of(ranks: int, rates: Rates = RATES, **changes: Any) -> EpochTime:
    given: dict[str, Any] = {"complex_bytes": 8, "storage": KEPT, **changes}
    method = given.pop("method", Method(pairs=5))
    return epoch_time(SIZES, rectangles(SIZES, ranks), method, rates, **given)


def test_traffic_by_hand() -> None:
    assert traffic(SIZES, rectangles(SIZES, 1), 8, 1000).out == 0
    found = traffic(SIZES, rectangles(SIZES, 4), 8, 1000)
    both = 8 * 3 * (3 * 2400) + 3 * 8 * 400 * 2
    rows = 2 * 8 * 1000
    assert found.out == both + 3 * rows + 8 * 750
    assert found.back == both + 3 * rows / 4


def test_one_rank_sends_nothing_and_the_rest_is_done_by_hand() -> None:
    time = time_of(1)
    assert time.sending_s == 0 and time.efficiency(time) == 1
    assert time.compute_s == pytest.approx(1.2 * (0.01 + 1000 * 400 * 2 * 1e-6))
    pixels = 100 * 60 * 3
    passes, filters = 1.2 * 7 + 60 + 5 * 5, 1.2 * 1 + 3
    assert time.alone_s == pytest.approx(passes * 8 * pixels / 1e9 + filters * pixels * 1e-8)
    assert time.total_s == time.compute_s + time.alone_s


def test_several_ranks_by_hand() -> None:
    four, bytes_of = time_of(4), traffic(SIZES, rectangles(SIZES, 4), 8, 1000)
    assert four.compute_s == pytest.approx(1.2 * (0.01 + 250 * 400 * 2 * 1e-6))
    assert four.sending_s == pytest.approx(
        1.2 * (bytes_of.out / 1e8 + bytes_of.back / 2e8 + 4 * 3 * 1e-4), rel=1e-12
    )
    windows = 1.2 * 5 * 4 * 2400 * 3 * 8 / 1e9
    assert four.alone_s == pytest.approx(time_of(1).alone_s + windows)
    assert four.speed_up(time_of(1)) == 4 * four.efficiency(time_of(1))
    assert four.sending_share == four.sending_s / four.total_s


def test_a_history_in_pieces_is_sent_and_makes_less_work() -> None:
    whole, pieces = time_of(4), time_of(4, spread=True)
    obj = 8 * 100 * 60 * 3 * 3 / 4
    extra = obj * (4 / 1e8 + 2 / 2e8) + 10 * 3 * 1e-4
    assert pieces.sending_s - whole.sending_s == pytest.approx(extra)
    assert pieces.alone_s < whole.alone_s


def test_mini_batches_send_the_object_for_each_of_them() -> None:
    batches = Method(batch_size=100, moments=2)
    one, four = time_of(1, method=batches), time_of(4, method=batches)
    assert one.compute_s == pytest.approx(10 * (0.01 + 100 * 800e-6))
    assert four.compute_s == pytest.approx(10 * (0.01 + 25 * 800e-6))
    assert four.sending_s > 6 * time_of(4).sending_s  # ten steps instead of 1.2 evaluations
    assert four.efficiency(one) < time_of(4).efficiency(time_of(1))


@pytest.mark.parametrize(
    "storage, rate", [(Storage(on_device=False), 1e4), (Storage(on_device=False, on_host=False), 1e3)]
)
def test_patterns_that_are_not_kept_come_while_waves_are_computed(storage: Storage, rate: float) -> None:
    rates = dataclasses.replace(RATES, upload=1e4, reading=1e3)
    assert time_of(2, rates, storage=storage).compute_s == pytest.approx(1.2 * 400_000 / rate)
    assert time_of(2, rates).compute_s == time_of(2).compute_s  # kept on the device
    fast = dataclasses.replace(RATES, upload=1e12, reading=1e12)
    assert time_of(2, fast, storage=storage).compute_s == time_of(2).compute_s


def test_more_ranks_compute_less_and_send_more() -> None:
    times = [time_of(ranks) for ranks in doublings(512)]
    for fewer, more in zip(times, times[1:], strict=False):
        assert more.compute_s < fewer.compute_s and more.sending_s > fewer.sending_s
        assert more.efficiency(times[0]) < fewer.efficiency(times[0]) <= 1
    shared = [time_of(ranks, slower=float(ranks)) for ranks in (1, 2, 4)]  # on the same cores
    assert all(time.speed_up(shared[0]) <= 1 for time in shared)


def test_where_more_ranks_stop_paying() -> None:
    def of(*seconds: float) -> list[EpochTime]:
        return [EpochTime(ranks=2**i, compute_s=s, sending_s=0.0, alone_s=0.0) for i, s in enumerate(seconds)]

    assert best_number(of(8, 4, 2, 1)) == 8
    assert best_number(of(8, 5.3, 3.6, 2)) == 2  # 5.3 / 3.6 < 1.5, so that the last is never reached
    assert best_number(of(8, 8, 1)) == 1
    two, three = of(9, 5)[1], EpochTime(ranks=3, compute_s=3.9, sending_s=0.0, alone_s=0.0)
    assert best_number([two, three]) == 3  # (3/2)^0.585 = 1.27 is asked of it
    assert doublings(1) == (1,) and doublings(6) == (1, 2, 4, 6) and doublings(8) == (1, 2, 4, 8)


# --- pypty plan --ranks ----------------------------------------------------------------------------------------------


def measured(**changes: Any) -> Measured:
    return Measured(rates=dataclasses.replace(RATES, **changes), method=Method(pairs=3))


def planned(ranks: Ranks, rates: Measured | None, **changes: Any) -> RankPlan:
    return rank_plan(prepare(two_slices(**{"n_threads": 1, **changes}), read_data=False), ranks, rates)


def test_ranks_that_are_worth_it() -> None:
    plan = planned(Ranks(size=6), measured(wave_pixel_s=1e-3))
    assert [row.ranks for row in plan.rows] == [1, 2, 4, 6] and plan.best == 6
    shown = str(plan).splitlines()
    assert (
        shown[-1].startswith("6 ranks are worth it: an epoch is")
        and "4.2 times as fast as on one" not in shown
    )
    header, first = shown[-6], shown[-5].split()
    assert header.split()[-1] == "sending" and first[0] == "1" and first[-1] == "0%" and first[-2] == "100%"
    memories = [row.memory.of_another for row in plan.rows[1:] if row.memory is not None]
    assert memories == sorted(memories, reverse=True)
    one, six = plan.rows[0].memory, plan.rows[-1].memory
    assert one is not None and six is not None and one.in_pieces == 0 < six.in_pieces
    line = next(line for line in shown if line.startswith("Memory of a rank: "))
    assert f"{size_text(one.total)} on one; on 6 ranks {size_text(six.total)} for rank 0" in line
    assert f"at most {size_text(six.of_another)} for another" in line
    assert plan.overlap > 1


def test_ranks_that_are_not_worth_it() -> None:
    slow = planned(Ranks(size=4), measured(to_all=1e4))
    assert slow.best == 1 and "cores" not in slow.sentence
    assert slow.sentence.startswith("4 ranks are not worth it: an epoch takes ")
    assert "times as long as on one. More than one do not pay here" in slow.sentence
    shared = planned(Ranks(size=64 // 4, on_node=16, on_cores=16), measured(wave_pixel_s=1e-3))
    assert shared.best is not None and shared.best < 16 and "They share the same cores" in shared.sentence


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (2.0, "an epoch is 4.5 times as fast as on one"),
        (7.5, "an epoch is 1.2 times as fast as on one"),
        (8.8, "an epoch takes as long as on one"),
        (9.2, "an epoch takes as long as on one"),
        (10.8, "an epoch takes 1.2 times as long as on one"),
    ],
)
def test_slower_and_faster_in_words(seconds: float, words: str) -> None:
    plan = planned(Ranks(size=2), measured())
    for row, total in zip(plan.rows, (9.0, seconds), strict=True):
        assert row.time is not None
        time = dataclasses.replace(row.time, compute_s=total, sending_s=0.0, alone_s=0.0)
        plan = dataclasses.replace(
            plan, rows=tuple(dataclasses.replace(r, time=time) if r is row else r for r in plan.rows)
        )
    assert plan.sentence.startswith(f"2 ranks are {'' if plan.best == 2 else 'not '}worth it: {words}.")


def test_without_rates_nothing_is_said_about_time() -> None:
    plan = planned(Ranks(size=2), None)
    assert plan.best is None and "nothing is said about time" in str(plan)
    assert len(str(plan).splitlines()[-2].split()) == 6  # ranks, two sizes with units, where the history is
    with pytest.raises(ParameterError, match="given 0, expected a whole number >= 1"):
        planned(Ranks(size=0), None)
    assert "nothing to compare" in planned(Ranks(), measured()).sentence


def test_ranks_that_are_needed_for_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"hist_length": 20, "epoch_max": 50, "compute_batch": 1}
    fits = plan_for(Ranks(size=4), **changes)
    free = 0.65 * fits.total / 0.7
    ranks = Ranks(size=4)
    monkeypatch.setattr(memory, "free_bytes", lambda backend, sharers=1: int(free))
    setup = prepare(two_slices(n_threads=1, **changes), ranks=lambda settings, backend: ranks)
    plan = rank_plan(setup, ranks, measured(wave_pixel_s=1e-3))
    assert plan.rows[0].memory is None and plan.rows[0].time is None
    assert "does not fit" in str(plan) and "needs 4 ranks at least" in plan.sentence
    assert "Memory of a rank: does not fit on one; on 4 ranks" in str(plan)
    monkeypatch.setattr(memory, "free_bytes", lambda backend, sharers=1: 20_000)
    assert "does not fit on 4 ranks" in rank_plan(setup, ranks, measured()).sentence


# --- rates -----------------------------------------------------------------------------------------------------------


def test_times_of_few_patterns_are_extrapolated(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    asked: list[int] = []

    def evaluate(n: int) -> None:
        asked.append(n)
        clock[0] += 0.05 + 0.01 * n

    monkeypatch.setattr("pypty.engine.epochs.timing.time.perf_counter", lambda: clock[0])
    found = evaluation_time(evaluate, 1000, 2)
    assert asked == [2, 2, 8, 32, 128]  # until 0.4 s are reached
    assert found.pattern_s == pytest.approx(0.01) and found.fixed_s == pytest.approx(0.05)
    assert found.seconds(1000) == pytest.approx(10.05)


@pytest.mark.parametrize(
    "changes, method",
    [
        ({"hist_length": 7, "epoch_max": 30}, Method(pairs=7)),
        (
            {"optimizer": "adam", "batch_size": 5, "phase_norm_weight": 1.0},
            Method(batch_size=5, moments=2),
        ),
    ],
)
def test_rates_are_measured_with_the_objective_of_the_run(changes: dict[str, Any], method: Method) -> None:
    params = two_slices(**changes)
    setup = prepare(params, read_data=False)
    few = prepare({**params, **few_patterns(setup)})
    found = measure_rates(few, few.variables(), to_all=1e9, from_all=2e9, latency_s=1e-5)
    rates = found.rates
    assert found.method == method and (rates.to_all, rates.from_all, rates.latency_s) == (1e9, 2e9, 1e-5)
    for rate in (rates.wave_pixel_s, rates.filter_pixel_s, rates.memory, rates.reading):
        assert 0 < rate < math.inf
    assert rates.upload == math.inf and (rates.penalties_s > 0) == ("optimizer" in changes)
    run = Reconstruction(few, State(variables=few.variables(), epoch=0))
    assert len(run.problem(few.settings.first()).indices) == N_PATTERNS  # all of them are few
    assert "s/epoch" in str(rank_plan(setup, Ranks(size=2), found))


def test_rates_of_a_gpu(device: None) -> None:
    params = small_params(backend="gpu", default_dtype="single")
    setup = prepare(params, ranks=lambda settings, backend: Ranks(size=3, on_node=3, on_cores=3))
    found = measure_rates(setup, setup.variables(), to_all=1e9, from_all=1e9, latency_s=1e-5)
    assert 0 < found.rates.upload < math.inf
    plan = rank_plan(setup, Ranks(size=2, on_node=2, on_cores=2), found)
    shown = str(plan)
    assert "of rank 0 of 2 for the GPU" in shown and "data kept on the GPU" in shown
    assert not plan.shared_cores  # each has a GPU
    one, two = (row.memory for row in plan.rows)
    assert one is not None and two is not None and one.data_bytes > two.data_bytes == two.others[PATTERNS]
    name = "work areas of transforms of object and probe"
    assert one.items[name] == two.items[name] > 0 == two.others[name]  # only rank 0 transforms the object


# --- benchmarks/scale.py ---------------------------------------------------------------------------------------------


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import scale

    return scale


def test_the_model_of_the_benchmark(scale: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert scale.main(["--model"]) == 0
    shown = capsys.readouterr().out
    for word in ("H200", "A100", "laptop", "[E]", "[P]", "[M]", "10 TB", "Does not fit", "do not pay"):
        assert word in shown
    big = next(job for job in scale.JOBS if job.name.startswith("137 GB") and "dense" in job.name)
    rows = scale.rows_of(scale.H200, big)
    assert [row.ranks for row in rows] == [2**i for i in range(11)]
    assert big.sizes(True).data_bytes == 1024**2 * 256**2 * 2
    assert rows[0].time.sending_s == 0 and rows[0].other == 0
    assert all(row.other < row.leading for row in rows[1:]) and rows[-1].fits
    needed = [row.least for row in scale.rows_of(scale.H200, scale.JOBS[0])[1:]]  # with the history whole
    assert needed == sorted(needed, reverse=True)
    # on the same cores nothing becomes faster
    laptop = scale.rows_of(scale.LAPTOP, scale.JOBS[-1])
    assert best_number([row.time for row in laptop]) == 1


def test_a_link_inside_a_node_and_one_between_nodes(scale: ModuleType) -> None:
    job = scale.JOBS[0]
    assert scale.rates_for(scale.H200, job, 8).to_all == 350e9
    mixed = scale.rates_for(scale.H200, job, 16).to_all
    assert mixed == pytest.approx(15 / (7 / 350e9 + 8 / 45e9))


def test_measured_rates_of_a_file(
    scale: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "node.json"
    path.write_text(json.dumps({"name": "my node", "kernels": 1e12, "between": 2e10}))
    assert scale.main(["--model", "--rates", str(path), "--job", "512 x 512"]) == 0
    shown = capsys.readouterr().out
    assert (
        "my node" in shown and "given in node.json" in shown and "A100" not in shown and "137 GB" not in shown
    )
    for content, word in (
        ({"kernel": 1}, "no such numbers: kernel"),
        ({"kernels": -1}, "above 0 for kernels"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(SystemExit, match=word):
            scale.main(["--model", "--rates", str(path)])
