"""What happens where memory runs out, or a device fails: the run goes on, or an error says what to do."""

from __future__ import annotations

import _thread
import configparser
import gc
import importlib.util
import re
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement
from problems import N_PATTERNS, small_params

import pypty
from pypty.backend import select
from pypty.backend.cuda.elementwise import ElementKernels
from pypty.backend.cuda.module import LANGUAGE
from pypty.backend.device_errors import device_errors, is_out_of_memory
from pypty.backend.workspace import Workspace
from pypty.data.feed import Feed
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.problem import refined_blocks
from pypty.engine.epochs.rounding import with_one_rounding
from pypty.engine.epochs.state import State
from pypty.engine.setup.prepare import prepare
from pypty.engine.setup.reported import reported
from pypty.errors import BackendError, PyptyError, ResourceError
from pypty.model.forward import Model
from pypty.objective import fit, replay
from pypty.objective.back_off import Batches
from pypty.objective.combined import LossTerms
from pypty.objective.objective import Objective
from pypty.objective.penalties import TotalVariation

ROOT = Path(__file__).parents[1]


def of_cupy(module: str, base: type = RuntimeError) -> type:
    """A class of errors as CuPy has them."""
    return type("Failed", (base,), {"__module__": module})


CUFFT = of_cupy("cupy.cuda.cufft")
RUNTIME = of_cupy("cupy_backends.cuda.api.runtime")
DRIVER = of_cupy("cupy_backends.cuda.api.driver")


@pytest.mark.parametrize(
    ("error", "fits"),
    [
        (MemoryError("host"), False),
        (CUFFT("CUFFT_ALLOC_FAILED"), False),
        (CUFFT("CUFFT_INTERNAL_ERROR"), True),
        (RUNTIME("cudaErrorMemoryAllocation: out of memory"), False),
        (RUNTIME("cudaErrorIllegalAddress: an illegal memory access"), True),
        (DRIVER("CUDA_ERROR_OUT_OF_MEMORY: out of memory"), False),
        (of_cupy("cupy.cuda.compiler", Exception)("NVRTC_ERROR_COMPILATION"), True),
        (ImportError("Failure finding libcufft.so.12"), True),
        (RuntimeError("CuPy failed to load libcublas.so.12"), True),
        (ValueError("CUFFT_ALLOC_FAILED"), True),  # not of a library of CUDA
    ],
)
def test_what_means_out_of_memory(error: Exception, fits: bool) -> None:
    assert is_out_of_memory(error) is not fits
    expected = ValueError if isinstance(error, ValueError) else BackendError if fits else MemoryError
    with pytest.raises(expected) as caught, device_errors():
        raise error
    if expected is BackendError:
        assert str(error) in str(caught.value) and "backend='cpu'" in str(caught.value)


@pytest.mark.parametrize(("extra", "package"), [("gpu", "cupy-cuda12x"), ("gpu13", "cupy-cuda13x")])
def test_the_extras_bring_the_libraries_of_cuda(extra: str, package: str) -> None:
    """And not the versions of CuPy that gpu_status refuses."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    requirement = Requirement(config["options.extras_require"][extra])
    assert (requirement.name, requirement.extras) == (package, {"ctk"})
    admitted = {
        version: version in requirement.specifier for version in ("13.5.1", "13.6.0", "14.0.1", "14.2.0")
    }
    assert admitted == {"13.5.1": False, "13.6.0": True, "14.0.1": False, "14.2.0": True}


class WithoutLibraries(ModuleType):
    """CuPy where CUDA's libraries are missing: looking for one raises ImportError."""

    def __getattr__(self, name: str) -> Any:
        raise ImportError(f"Failure finding {name}")


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, ValueError])
def test_an_error_stays_what_it_is_without_the_libraries_of_cuda(
    error: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", WithoutLibraries("cupy"))

    def fails(*_: object, **__: object) -> None:
        raise error("stop")

    monkeypatch.setattr(Model, "forward", fails)
    expected = ResourceError if error is MemoryError else error
    with pytest.raises(expected):
        pypty.evaluate(small_params())
    with pytest.raises(expected):
        pypty.simulate(small_params())


@pytest.mark.parametrize("call", [pypty.evaluate, pypty.simulate, pypty.plan, pypty.run])
def test_outside_of_the_batches(call: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user calls raises an error of this package, wherever the device fails."""
    for error, expected in (
        (MemoryError("8 GiB"), ResourceError),
        (CUFFT("CUFFT_SETUP_FAILED"), BackendError),
    ):

        def fails(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("pypty.engine.setup.prepare.planned", fails)
        with pytest.raises(expected, match=str(error)):
            call(small_params(epoch_max=1))
    with pytest.raises(ResourceError, match="one pattern"), reported():
        raise ResourceError("one pattern at a time")


def test_outside_of_the_batches_of_a_finished_run(monkeypatch: pytest.MonkeyPatch) -> None:
    result = pypty.run(small_params(epoch_max=1, verdict="none"))

    def fails(*_: object, **__: object) -> None:
        raise CUFFT("CUFFT_SETUP_FAILED")

    monkeypatch.setattr("pypty.engine.setup.prepare.planned", fails)
    calls = (
        lambda: pypty.preflight(small_params()),
        lambda: pypty.fit_quality(result),
        lambda: pypty.verdict(result),
        lambda: pypty.position_trial(result),
        lambda: pypty.resolution(result),
        lambda: pypty.uncertainty(result),
        result.fit_quality,
    )
    for call in calls:
        with pytest.raises(PyptyError):
            call()


# --- on the host: smaller batches --------------------------------------------------------------------------------


def fails_above(function: Callable, largest: int, size: Callable[..., int]) -> Callable:
    """The function, with a MemoryError after its work for more than ``largest`` patterns."""

    def limited(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if size(*args) > largest:
            raise MemoryError("it does not fit")
        return result

    return limited


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("where", ["model", "taker"])
def test_patterns_are_looked_at_once(where: str, n_threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass goes on with smaller batches where memory runs out, in the model or in what takes its patterns."""
    params = small_params(n_threads=n_threads, epoch_max=1, compute_batch=8)
    expected = pypty.run(params).fit_quality().arrays()
    result = pypty.run(params)
    if where == "model":
        limited = fails_above(Model.forward, 3, lambda *args: len(args[2].index))
        monkeypatch.setattr(Model, "forward", limited)
    else:
        monkeypatch.setattr(
            fit, "_row_sums", fails_above(fit._row_sums, 3, lambda terms, mask: len(terms[0]))
        )
    again = result.fit_quality(params).arrays()
    for name, value in expected.items():
        np.testing.assert_allclose(again[name], value, rtol=1e-9, err_msg=name)


def test_a_simulation_goes_on_with_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = pypty.simulate(small_params(compute_batch=8))
    monkeypatch.setattr(Model, "forward", fails_above(Model.forward, 3, lambda *args: len(args[2].index)))
    np.testing.assert_array_equal(pypty.simulate(small_params(compute_batch=8)), expected)
    monkeypatch.setattr(Model, "forward", fails_above(Model.forward, 0, lambda *args: len(args[2].index)))
    with pytest.raises(ResourceError, match="one pattern at a time"):
        pypty.simulate(small_params())


def objective_of(**changes: Any) -> tuple[Objective, Any]:
    setup = prepare(small_params(**changes))
    run = Reconstruction(setup, State(variables=setup.variables(), epoch=0))
    return run.objective, run.problem(setup.settings.first())


def test_a_pass_changes_no_batches_of_the_loss() -> None:
    """Looking at patterns has a batch size of its own, so that it does not decide the rounding of the loss."""
    objective, problem = objective_of(compute_batch=8)
    sizes: list[int] = []

    def take(batch: Any, intensity: Any) -> None:
        if len(batch.index) > 3:
            raise MemoryError("it does not fit")
        sizes.append(len(batch.index))

    objective.visit(problem.variables, np.arange(N_PATTERNS), [take])
    assert sum(sizes) == N_PATTERNS and max(sizes) == 2
    assert objective.batch_size == 8


def test_few_threads_serve_all_takers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one pattern on each thread is too much, one taker waits for the other."""
    objective, problem = objective_of(compute_batch=1, n_threads=2)
    memory, seen = objective._memory, [[], []]

    def taker(number: int) -> Callable[[Any, Any], None]:
        return lambda batch, intensity: seen[number].extend(batch.index.tolist())

    memory.run = fails_before(memory.run)
    objective.visit(problem.variables, np.arange(N_PATTERNS), [taker(0), taker(1)])
    assert seen[0] + seen[1] == list(range(N_PATTERNS))


def fails_before(run: Callable) -> Callable:
    """``Batches.run`` where two shares do not fit at the same time."""

    def limited(shares: Any, task: Callable) -> None:
        if len(shares) > 1:
            raise MemoryError("it does not fit")
        run(shares, task)

    return limited


@pytest.mark.parametrize("part", ["regularizers", "loss_terms"])
def test_parts_outside_of_batches_release_memory_too(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workspaces of the batches are what is left to be released."""
    given: dict[str, Any] = (
        {"atv_weight": 1e-3}
        if part == "regularizers"
        else {"loss_terms": {"single": {"weight": 1.0}, "sparse": {"weight": 0.1}}}
    )
    params = small_params(compute_batch=8, **given)
    expected = pypty.evaluate(params)
    kind, name = (
        (TotalVariation, "value_and_gradient") if part == "regularizers" else (LossTerms, "of_object")
    )
    monkeypatch.setattr(kind, name, fails_once(getattr(kind, name)))
    found = pypty.evaluate(params)
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)
    monkeypatch.setattr(kind, name, fails_above(getattr(kind, name), 0, lambda *_: 1))
    with pytest.raises(ResourceError):
        pypty.evaluate(params)


def fails_once(function: Callable) -> Callable:
    calls: list[int] = []

    def limited(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise MemoryError("it does not fit")
        return function(*args, **kwargs)

    return limited


def test_patterns_that_do_not_fit_are_read_when_needed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = pypty.run(small_params(epoch_max=1))
    monkeypatch.setattr(Feed, "_load", fails_above(Feed._load, 0, lambda *_: 1))
    found = pypty.run(small_params(epoch_max=1))
    assert "read when they are needed" in caplog.text
    np.testing.assert_array_equal(found.obj, expected.obj)


def test_batches_shrink_before_threads_do() -> None:
    memory, sizes = Batches(select("cpu"), 6, 4, None), []
    used, n_threads = 6, 4
    with pytest.raises(ResourceError, match="one pattern at a time.*8 GiB"):
        while True:
            memory.workspaces[0].array("waves", (used, 4), complex)
            used, n_threads = memory.fewer(used, n_threads, "8 GiB")
            assert memory.workspaces[0].nbytes == 0
            sizes.append((used, n_threads))
    assert sizes == [(3, 4), (1, 4), (1, 2), (1, 1)]


def test_all_threads_end_before_an_error_is_raised() -> None:
    """Those that go on use workspaces, which are released after the error."""
    memory, ended = Batches(select("cpu"), 1, 2, None), []

    def task(number: int) -> None:
        if number == 0:
            raise MemoryError("it does not fit")
        time.sleep(0.05)
        ended.append(number)

    with pytest.raises(MemoryError):
        memory.run([0, 1], task)
    assert ended == [1]


@pytest.mark.parametrize("n_threads", [1, 2])
def test_nothing_of_a_failed_evaluation_is_kept(n_threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its arrays are free when smaller batches are tried, without the garbage collector."""
    objective, problem = objective_of(compute_batch=4, n_threads=n_threads)
    arrays: list[weakref.ref] = []
    failed, forward = [], Model.forward

    def limited(self: Model, points: Any, batch: Any, tapes: Any, keep: bool = True) -> Any:
        waves = np.zeros(3).view(Watched)
        arrays.append(weakref.ref(waves))
        if not failed:
            failed.append(1)
            raise MemoryError("it does not fit")
        return forward(self, points, batch, tapes, keep)

    kept, fewer = [], Batches.fewer

    def counted(self: Batches, *args: Any) -> Any:
        kept.append(sum(array() is not None for array in arrays))
        return fewer(self, *args)

    monkeypatch.setattr(Model, "forward", limited)
    monkeypatch.setattr(Batches, "fewer", counted)
    gc.disable()
    try:
        objective.evaluate(problem.variables, problem.blocks, problem.indices)
    finally:
        gc.enable()
    assert kept == [0]


class Watched(np.ndarray):
    """An array that weak references can point to."""


def test_threads_end_before_ctrl_c_is_raised() -> None:
    """What follows an interrupt, as the verdict, computes in the same workspaces."""
    memory, ended = Batches(select("cpu"), 1, 2, None), []

    def task(number: int) -> None:
        time.sleep(0.05)
        if number == 0:
            _thread.interrupt_main()
        else:
            time.sleep(0.4)
        ended.append(number)

    at_the_interrupt: list[int] = []
    try:
        memory.run([0, 1], task)
        time.sleep(0.2)  # the signal may be handled after the call
    except KeyboardInterrupt:
        at_the_interrupt = sorted(ended)
    assert at_the_interrupt == [0, 1]


# --- one rounding for a line search --------------------------------------------------------------------------------


def test_an_epoch_is_made_again_until_its_batches_stay() -> None:
    objective, made = SimpleNamespace(rounding=(8, 1), batch_size=8), []

    def epoch() -> int:
        made.append(objective.rounding)
        objective.rounding = (max(2, objective.rounding[0] // 2), 1)
        return len(made)

    undone: list[int] = []
    assert with_one_rounding(objective, epoch, lambda: undone.append(1)) == 3
    assert made == [(8, 1), (4, 1), (2, 1)] and len(undone) == 2


def fails_in_evaluation(number: int, monkeypatch: pytest.MonkeyPatch, *later: int) -> list[int]:
    """Memory runs out in the second batch of this evaluation, and of each of the ``later`` ones; returns the sizes of
    batches."""
    evaluations, failing, sizes = [0], [number, *later], []
    evaluated, forward = Objective._evaluated, Model.forward

    def counted(self: Objective, *args: Any, **kwargs: Any) -> Any:
        evaluations[0] += 1
        return evaluated(self, *args, **kwargs)

    def limited(self: Model, points: Any, batch: Any, tapes: Any, keep: bool = True) -> Any:
        sizes.append(len(batch.index))
        if failing and evaluations[0] == failing[0] and batch.index[0] > 0:
            failing.pop(0)
            raise MemoryError("it does not fit")
        return forward(self, points, batch, tapes, keep)

    monkeypatch.setattr(Objective, "_evaluated", counted)
    monkeypatch.setattr(Model, "forward", limited)
    return sizes


METHODS: dict[str, dict[str, Any]] = {
    "lbfgs": {"optimizer": "lbfgs", "warmup_epochs": 0},
    "preconditioned": {"optimizer": "preconditioned", "batch_size": 12},
    "adam": {"optimizer": "adam", "batch_size": 12},
}


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_backs_off_is_one_that_began_with_the_smaller_batch(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out within the first epoch: the line search compares no sums of different order."""
    given = {**METHODS[method], "epoch_max": 3, "n_threads": 1}
    expected = pypty.run(small_params(**given, compute_batch=4))
    sizes = fails_in_evaluation(2, monkeypatch)
    found = pypty.run(small_params(**given, compute_batch=8))
    assert 8 in sizes and sizes[-1] <= 4
    np.testing.assert_array_equal(found.loss, expected.loss)
    np.testing.assert_array_equal(found.obj, expected.obj)


def test_memory_may_run_out_twice_in_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the second attempt, too: the third one begins as the first, without pairs of the second."""
    given = {**METHODS["lbfgs"], "epoch_max": 2, "n_threads": 1}
    expected = pypty.run(small_params(**given, compute_batch=2))
    # an attempt of the first epoch has two evaluations here; 4 is the trial of the second attempt
    sizes = fails_in_evaluation(2, monkeypatch, 4)
    found = pypty.run(small_params(**given, compute_batch=8))
    assert {8, 4} < set(sizes) and sizes[-1] <= 2
    np.testing.assert_array_equal(found.loss, expected.loss)
    np.testing.assert_array_equal(found.obj, expected.obj)


@pytest.mark.parametrize("when", ["in the epoch", "between epochs"])
def test_a_later_epoch_goes_on_as_one_that_is_resumed_with_the_smaller_batch(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss at the start of the line search is added again, in the order of its trials."""
    setup = prepare(small_params(compute_batch=8, epoch_max=4, n_threads=1, warmup_epochs=0))
    first = Reconstruction(setup, State(variables=setup.variables(), epoch=0))
    epochs = first.epochs()
    next(epochs), next(epochs)
    state = first.state.copied()
    state.records = list(first.state.records)
    resumed = Reconstruction(setup, state, batch_size=4)
    list(resumed.epochs())
    if when == "in the epoch":
        fails_in_evaluation(1, monkeypatch)
    else:  # as held-out patterns may do
        first.objective._memory.use(4)
    list(epochs)
    assert first.objective.batch_size == 4
    np.testing.assert_array_equal(first.state.variables.obj, resumed.state.variables.obj)


# --- on the device -------------------------------------------------------------------------------------------------

synchronous = pytest.mark.filterwarnings("ignore:Using synchronous transfer")
"""CuPy copies without pinned memory where that does not fit."""

FUSED: dict[str, Any] = {"backend": "gpu", "executor": "fused", "default_dtype": "double", "compute_batch": 8}


def on_device(emulated: ModuleType, **changes: Any) -> Any:
    """Loss and gradients, with no memory left over that an allocation could find in CuPy's pools."""
    emulated.forget_kept_memory()
    return pypty.evaluate(small_params(**{**FUSED, **changes}))


@synchronous
@pytest.mark.parametrize("failure", ["fail_malloc", "fail_plan", "fail_pinned"])
def test_memory_of_the_device_runs_out_once(
    emulated: ModuleType, failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An array, a work area of cuFFT or pinned memory does not fit: the run goes on, and its numbers are the same."""
    given = {"executor": "fused", "default_dtype": "double", "load_one_by_one": True, "epoch_max": 1}
    expected = pypty.run(small_params(**given))
    emulated.forget_kept_memory()
    evaluated, failed = Objective._evaluated, [False]

    def limited(self: Objective, *args: Any, **kwargs: Any) -> Any:
        if failed[0]:
            return evaluated(self, *args, **kwargs)
        failed[0] = True
        self.feed.backend.xp.fft.config.get_plan_cache().clear()
        emulated.forget_kept_memory()
        with emulated.settings(**{failure: 1}):
            return evaluated(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Objective, "_evaluated", limited)
        if failure == "fail_pinned":  # through which patterns are sent that are not resident
            patch.setattr(Feed, "make_resident", lambda self, on_host, progress: None)
        found = pypty.run(small_params(**given, backend="gpu", compute_batch=8))
    assert failed[0] and "continuing with batches of 4" in caplog.text
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-9)


@synchronous
@pytest.mark.parametrize("failure", ["fail_malloc", "fail_plan", "fail_pinned", "fail_launch"])
@pytest.mark.parametrize("number", [1, 7, 40])
def test_no_raw_error_of_cupy_reaches_the_user(emulated: ModuleType, failure: str, number: int) -> None:
    """Whatever fails for good, wherever: there is a result, or an error that says what to do."""
    emulated.forget_kept_memory()
    try:
        with emulated.settings(**{failure: number}):
            pypty.evaluate(small_params(**FUSED))
    except PyptyError as error:
        assert re.search("use .*=|see  pypty doctor|executor=", str(error))


def test_other_errors_of_cufft_are_no_lack_of_memory(
    emulated: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cupy.cuda.cufft import CuFFTError

    def fails(array: Any) -> Any:
        raise CuFFTError(5)  # CUFFT_INTERNAL_ERROR

    monkeypatch.setattr("pypty.backend.fft._cufft_plan", fails)
    with pytest.raises(BackendError, match="cuFFT failed .CUFFT_INTERNAL_ERROR"):
        on_device(emulated)


def test_a_kernel_that_does_not_start_names_itself(emulated: ModuleType) -> None:
    import cupy

    kernels = ElementKernels("double")
    wave, factor = cupy.ones((1, 1, 1, 4, 4), complex), cupy.ones((4, 4), complex)
    kernels.multiply_spectrum(wave, factor)
    started = "multiply_spectrum could not be started"
    with emulated.settings(fail_launch=1), pytest.raises(BackendError, match=started):
        kernels.multiply_spectrum(wave, factor)


def test_a_cleared_workspace_keeps_no_work_areas(emulated: ModuleType) -> None:
    """Both directions share a plan, whose work area is freed with the buffers."""
    import cupy

    emulated.forget_kept_memory()
    pool = cupy.get_default_memory_pool()
    array, used = cupy.ones((6, 32, 32), complex), pool.used_bytes()
    workspace = Workspace(cupy)
    with emulated.counted() as counted:
        workspace.fft.forward(array)
        workspace.fft.backward(array)
    assert counted.plans == 1 and pool.used_bytes() >= used + array.nbytes
    np.testing.assert_allclose(array.get(), 32**2, rtol=1e-12)
    workspace.clear()
    assert pool.used_bytes() == used


def test_small_mini_batches_are_graphs_also_where_the_memory_allows_large_batches(
    emulated: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size of a mini-batch decides, not that of the batches of a whole pass."""
    given = {
        "backend": "gpu",
        "default_dtype": "single",
        "optimizer": "adam",
        "batch_size": 5,
        "epoch_max": 1,
    }
    launched = []
    for largest in (4, 5):
        # pixels of a batch of 5 patterns with one mode; a pass has 25 in one batch
        monkeypatch.setattr(replay, "LAUNCH_BOUND_PIXELS", largest * 64 * 64)
        with emulated.counted() as counted:
            pypty.run(split_params(**given, compute_batch=25))
        launched.append(counted.graph_launches)
    assert launched[0] == 0 and launched[1] > 0


def split_params(**changes: Any) -> dict[str, Any]:
    """25 patterns of 64 x 64 pixels, which the split kernels cover."""
    params = small_params(**changes)
    side = 64
    rng = np.random.default_rng(0)
    size = side + int(np.max(params["positions"])) + 2
    return {
        **params,
        "dataset": rng.poisson(2.0, (N_PATTERNS, side, side)).astype(np.uint8),
        "probe": np.pad(np.asarray(params["probe"]), ((24, 24), (24, 24), (0, 0))),
        "obj": np.ones((size, size, 1, 1), complex),
    }


def test_patterns_that_do_not_fit_on_the_device_are_sent_batch_by_batch(
    emulated: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    params = small_params(**{**FUSED, "epoch_max": 1})
    expected = pypty.run(params)
    setup = prepare(params)
    assert setup.plan.resident_on_device
    emulated.forget_kept_memory()
    with emulated.settings(fail_malloc=1, fail_times=3):
        feed = setup.feed()
    assert not feed.resident_on_device and "batch by batch" in caplog.text
    run = Reconstruction(setup, State(variables=setup.variables(), epoch=0))
    run.feed = feed
    run.objective = setup.objective(feed, *run._model)
    list(run.epochs())
    np.testing.assert_allclose(
        run.state.variables.obj.get(), np.moveaxis(expected.obj, (3, 2), (0, 1)), rtol=1e-9
    )


def test_a_deterministic_line_search_on_the_device_that_backs_off(
    emulated: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit the run that began with the smaller batch."""
    given = {"backend": "gpu", "default_dtype": "single", "deterministic": True, "epoch_max": 2}
    expected = pypty.run(split_params(**given, compute_batch=4, warmup_epochs=0))
    sizes = fails_in_evaluation(2, monkeypatch)
    found = pypty.run(split_params(**given, compute_batch=8, warmup_epochs=0))
    assert 8 in sizes and sizes[-1] <= 4
    np.testing.assert_array_equal(found.loss, expected.loss)
    np.testing.assert_array_equal(found.obj, expected.obj)


def test_ci_compiles_with_the_options_that_cupy_adds(device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers and spills are those of the code that runs."""
    import cupy
    from cupy_backends.cuda.libs import nvrtc

    passed: list[tuple[str, ...]] = []
    compiled = nvrtc.compileProgram

    def recorded(program: int, options: tuple[str, ...]) -> Any:
        passed.append(tuple(options))
        return compiled(program, options)

    monkeypatch.setattr(nvrtc, "compileProgram", recorded)
    source = 'extern "C" __global__ void of_this_test(int* out) { out[0] = 1; }'
    options = (LANGUAGE, "-DREAL=float")
    cupy.RawModule(code=source, options=options, backend="nvrtc").get_function("of_this_test")
    spec = importlib.util.spec_from_file_location("compile_kernels", ROOT / ".ci" / "compile_kernels.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    architecture = cupy.cuda.Device().compute_capability
    assert passed[-1] == script.cupy_options(options, architecture)
    assert "-ftz=true" in passed[-1]


FOUR_SLICES: dict[str, Any] = {"num_slices": 4, "slice_distances": [5.0]}
PLANNED: dict[str, dict[str, Any]] = {
    "fused": {"executor": "fused", **FOUR_SLICES},
    "three object modes": {"executor": "fused", "obj": np.ones((24, 24, 3, 3)), "slice_distances": [5.0]},
    "stages": {"executor": "stages", **FOUR_SLICES},
    "filtered patches": {"executor": "stages", "lazy_clean": True, **FOUR_SLICES},
}


@pytest.mark.parametrize("name", PLANNED)
def test_the_plan_counts_the_work_areas_of_cufft(emulated: ModuleType, name: str) -> None:
    """Of a batch of 16 patterns and of the last one, of 9: what CuPy's pool takes for an evaluation is planned."""
    import cupy

    given = {**FUSED, **PLANNED[name], "update_probe_pos": True, "compute_batch": 16}
    setup = prepare(small_params(**given))
    feed, variables, now = setup.feed(), setup.variables(), setup.settings.first()
    pool, cache = cupy.get_default_memory_pool(), cupy.fft.config.get_plan_cache()
    cache.clear()
    emulated.forget_kept_memory()
    before = pool.total_bytes()
    objective = setup.objective(feed, True, now["propmethod"])
    objective.evaluate(variables, refined_blocks(now, variables), np.arange(N_PATTERNS))
    waves = setup.plan.items["waves and FFT workspace of the batches"]
    assert 0.8 * waves < pool.total_bytes() - before < 1.02 * waves
    cache.clear()
