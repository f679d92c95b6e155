"""Parameters of how it is computed: their effect, and that the numbers stay what they are."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from parameter_registry import Desk, effect, loss, plan
from problems import small_params, smooth_object
from threaded_ranks import threaded_ranks

import pypty
from pypty.backend.array import Backend
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.state import State
from pypty.engine.ranks.opening import Crew, together
from pypty.engine.setup import memory
from pypty.engine.setup.prepare import prepare
from pypty.errors import ParameterError
from pypty.ranks.local import LocalLink


def prepared_backend(**changes: object) -> Backend:
    setup = prepare(small_params(**changes))
    setup.close()
    return setup.backend


def warmups(**changes: object) -> int:
    """How many epochs of a run were of mini-batches."""
    setup = prepare(small_params(**{"epoch_max": 4, **changes}))
    epochs = Reconstruction(
        setup, State(variables=setup.variables(), epoch=setup.settings.first_epoch)
    ).epochs()
    records = list(epochs)
    setup.close()
    warm = [bool(record.warm_up) for record in records]
    assert warm == sorted(warm, reverse=True), "they come first"
    return sum(warm)


def executor_of(**changes: object) -> str:
    setup = prepare(small_params(**changes))
    try:
        reconstruction = Reconstruction(setup, State(variables=setup.variables(), epoch=0))
        return reconstruction.problem(setup.settings.first()).objective.model.executor
    finally:
        setup.close()


@effect("fft_library", bad="cufft")
def _(desk: Desk) -> None:
    """SciPy always; FFTW where it is installed, else an error that says how to install it."""
    assert prepared_backend(fft_library="scipy").fft_library == "scipy"
    if importlib.util.find_spec("pyfftw") is None:
        assert prepared_backend(fft_library="auto").fft_library == "scipy"
        with pytest.raises(ParameterError, match=r"pip install 'pypty\[fast\]'"):
            loss(fft_library="fftw")
    else:
        assert prepared_backend(fft_library="auto").fft_library == "fftw"
        assert loss(fft_library="fftw") == pytest.approx(loss(fft_library="scipy"), rel=1e-12)


@effect("warmup_epochs", bad=-1)
def _(desk: Desk) -> None:
    """Mini-batches from vacuum, none for a given object, for a near field, or to go on; as many as asked for."""
    assert warmups(warmup_epochs=3) == 3
    vacuum = np.ones((1, 1, 1, 1), complex)
    assert warmups(warmup_epochs="auto") == warmups(warmup_epochs="auto", obj=vacuum) >= 2
    assert warmups(warmup_epochs="auto", obj=smooth_object()) == 0
    assert warmups(warmup_epochs="auto", recon_type="near_field", defocus_array=[50.0]) == 0
    assert warmups(warmup_epochs="auto", epoch_prev=1) == 0
    with_it, without = (pypty.run(small_params(warmup_epochs=n, epoch_max=4)).loss for n in (2, 0))
    assert with_it[-1] < 0.5 * without[-1]


@effect("recompute_slices", bad="sometimes")
def _(desk: Desk) -> None:
    """The numbers stay the same to the last bit; auto does it only where memory is short."""
    slices = {"num_slices": 9, "slice_distances": [3.0], "compute_batch": "auto", "n_threads": 1}
    kept, again = (pypty.evaluate(small_params(**slices, recompute_slices=on)) for on in (False, True))
    assert kept.loss == again.loss
    np.testing.assert_array_equal(kept.gradients["obj"], again.gradients["obj"])
    plans = {on: plan(**slices, recompute_slices=on) for on in (False, True, "auto")}
    assert [plans[on].keep_every for on in (False, True, "auto")] == [1, 3, 1]
    short = plans[True].total + 100_000
    desk.monkeypatch.setattr(memory, "free_bytes", lambda backend, sharers=1: int(short / 0.7))
    assert plan(**slices, recompute_slices="auto").keep_every == 3
    assert plan(**slices, recompute_slices="auto").batch > plan(**slices, recompute_slices=False).batch


@effect("executor", bad="fast")
def _(desk: Desk) -> None:
    """Which stages there are; the numbers are the same."""
    models = {name: executor_of(executor=name) for name in ("auto", "fused", "stages")}
    assert models == {"auto": "fused", "fused": "fused", "stages": "stages (requested)"}
    assert loss(executor="stages") == pytest.approx(loss(), rel=1e-12)


@effect("deterministic", bad="yes")
def _(desk: Desk) -> None:
    """It reaches the model, whose kernels tests/cuda and tests/test_device.py hold to it; a CPU always is."""
    for on in (False, True):
        setup = prepare(small_params(deterministic=on))
        setup.close()
        assert setup.model_options(True, "multislice").deterministic is on
    assert loss(deterministic=True) == loss()


@effect("devices", bad=[0, 0])
def _(desk: Desk) -> None:
    """A number starts as many processes; the loss is the same. Words and lists are for GPUs."""
    started: list[int] = []
    begin = LocalLink.__init__

    def noted(self: LocalLink, module: str, environments: list[dict[str, str]], patience_s: float) -> None:
        started.append(len(environments))
        begin(self, module, environments, patience_s)

    desk.monkeypatch.setattr(LocalLink, "__init__", noted)
    one, two = (pypty.run(small_params(devices=n, verdict=False)).loss for n in (1, 2))
    assert started == [1]
    np.testing.assert_allclose(two, one, rtol=1e-10)
    for form in ("auto", "all"):
        assert loss(devices=form) == loss()
    with pytest.raises(
        ParameterError, match=r"devices = \(0, 1\) names GPUs, but the run computes on the CPU"
    ):
        loss(devices=[0, 1])
    with pytest.raises(ParameterError, match="did you mean 'all'"):
        loss(devices="al")


@effect("rank_timeout_s", bad=0)
def _(desk: Desk) -> None:
    """It is the patience of rank 0 with the others."""
    assert prepare(small_params(rank_timeout_s=3)).settings["rank_timeout_s"] == 3
    with threaded_ranks(2) as link, together(prepare(small_params(rank_timeout_s=7.5)), Crew(link)):
        assert link.patience_s == 7.5
