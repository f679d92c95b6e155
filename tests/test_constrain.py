"""Constraints between the epochs of a run: what becomes of gradient and history."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from problems import aperture_probe, small_params, two_slices

from pypty.engine.epochs import loop
from pypty.engine.epochs.constrain import constrain, starting_probe_power
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.state import State
from pypty.engine.setup.prepare import prepare


class Constrained:
    """A run whose constraints act after every epoch.

    Attributes
    ----------
    changed : what did, epoch by epoch
    """

    def __init__(self, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        setup = prepare(params)
        self.run = Reconstruction(setup, State(variables=setup.variables(), epoch=0))
        self.state = self.run.state
        self.changed: list[tuple[str, ...]] = []
        self.losses: list[float] = []

        def spy(*given: Any) -> tuple[str, ...]:
            self.changed.append(constrain(*given))
            return self.changed[-1]

        monkeypatch.setattr(loop, "constrain", spy)
        self.losses += [record.loss for record in self.run.epochs()]


def resets(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "history reset" in record.getMessage()]


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pypty")


def test_positivity_restarts_the_history(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At its epochs only; what it cut off comes back as frequencies that no step reaches, but not for good."""
    once = {"objp_postiv": {"start": 1, "step": 2, "end": 4}}
    found = Constrained(small_params(constraints=once, epoch_max=5), monkeypatch)
    assert [bool(names) for names in found.changed] == [False, True, False, True, False]
    assert found.changed[1] == ("objp_postiv",)
    assert found.changed[3] == ("band limit", "objp_postiv")
    told = resets(caplog)
    assert [line.split("epoch ")[1][0] for line in told] == ["1", "3"]
    assert all("objp_postiv" in line for line in told)
    assert len(found.state.optimizer.pairs) == 1, "of epoch 4"


def test_a_positive_object_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Constrained(small_params(constraints={"objp_postiv": True}), monkeypatch)
    assert np.angle(found.state.variables.obj).min() >= -1e-12
    assert found.losses[-1] < found.losses[0]


def test_orthogonal_modes_keep_the_history(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Gradient and pairs turn with the modes: the loss goes on as without, and is what a fresh evaluation gives."""
    probe = np.concatenate([aperture_probe(0.7), 0.5 * aperture_probe(1.3)], axis=2)
    params = small_params(probe=probe, epoch_max=5)
    plain = Constrained(params, monkeypatch)
    monkeypatch.undo()
    caplog.set_level(logging.INFO, "pypty")
    found = Constrained({**params, "constraints": {"ortho_pmode": True}}, monkeypatch)
    assert found.changed == [()] * 5
    assert not resets(caplog)
    rows = found.state.variables.probe.reshape(2, -1)
    assert abs(np.vdot(rows[0], rows[1])) < 1e-6 * np.linalg.norm(rows[0]) * np.linalg.norm(rows[1])
    assert found.losses[:2] == pytest.approx(plain.losses[:2], rel=1e-9)
    kept = found.run.last_sample()
    assert kept is not None
    found.state.sample = None
    fresh = found.run.last_sample()
    assert fresh is not None
    assert kept.value == pytest.approx(fresh.value, rel=1e-9)
    np.testing.assert_allclose(
        kept.gradient["probe"], fresh.gradient["probe"], atol=1e-7 * abs(fresh.gradient["probe"]).max()
    )


def test_power_is_that_of_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Constrained(small_params(constraints={"fix_probe_int": True}), monkeypatch)
    power = starting_probe_power(found.run.setup, State(variables=found.run.setup.variables(), epoch=0))
    assert (abs(found.state.variables.probe) ** 2).sum() == pytest.approx(power)
    assert starting_probe_power(found.run.setup, found.state) == pytest.approx(power), "resumed"
    assert found.changed[0] == ("fix_probe_int",)


def test_filters_act_on_the_object_with_first_order_methods_only(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = prepare(two_slices(constraints={"obj_rblur": {"std": 1.0}, "pos_recenter": True}))
    rough = np.exp(1j * np.random.default_rng(1).normal(size=setup.variables().obj.shape))
    for optimizer, expected in (("lbfgs", ()), ("adam", ("obj_rblur",))):
        state = State(variables=setup.variables().replace({"obj": rough}), epoch=0)
        now = {**setup.settings.at(0), "optimizer": optimizer}
        limits = Reconstruction(setup, state).limits(setup.settings.at(0))
        changed = constrain(state, now, setup, limits, 1.0)
        assert tuple(name for name in changed if name != "band limit") == expected
