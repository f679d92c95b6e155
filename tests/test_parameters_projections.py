"""The parameter ``constraints``: with lbfgs its filters shape every step (test_projections.py has what each does)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parameter_registry import EFFECTS, Desk, assert_refused, effect, frequency, names_in, spectrum
from problems import small_params

import pypty
from pypty.errors import ParameterError


@effect("constraints", bad={"obj_rblur": {"std": -1}})
def _(desk: Desk) -> None:
    """What the optimiser adds to the object has less at high frequencies, the more the wider the blur."""

    def added(**records: Any) -> float:
        result = pypty.run(small_params(constraints=records, update_probe=False))
        assert (np.diff(result.loss) < 0).all()
        power = spectrum(result.obj[..., 0, 0] - 1)
        return float(power[frequency(power.shape) > 0.25].sum() / power.sum())

    shares = [added(), added(obj_rblur={"std": 0.6}), added(obj_rblur={"std": 1.2})]
    assert shares[0] > 1.2 * shares[1] > 1.5 * shares[2]
    assert added(obj_rblur={"std": 1.2, "start": 3}) == shares[0]
    assert added(obj_rblur=False) == shares[0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"obj_rblurr": True}, "did you mean 'obj_rblur'"),
        ({"obj_rblur": {"kernel_size": 4}}, "even"),
        ({"obj_rblur": {"stdev": 1}}, "not an entry of it"),
        ({"objp_postiv": {"step": 0}}, "out of range"),
        ({"kr_thresh": {"thresh": 0}}, "out of range"),
        ({"tilt_smooth": True}, "scan_size"),
        ({"obja_thresh": {"thresh": (1.1, 0.9)}}, "lower limit first"),
        (["obj_rblur"], "a dict"),
    ],
)
def test_what_is_wrong_is_said(value: Any, message: str) -> None:
    with pytest.raises(ParameterError, match="constraints: ") as caught:
        pypty.run(small_params(constraints=value))
    assert message in str(caught.value)


def test_a_resumed_run_is_the_same(tmp_path: Path) -> None:
    """Filters and numbers come back from params.yaml and from the dict alike."""
    on = {
        "obj_rblur": {"std": 1.0, "end": 3},
        "pos_recenter": True,
        "tilt_smooth": True,
        "probe_mask_r": False,
    }
    changes = {"constraints": on, "scan_size": [5, 5], "update_probe_pos": True}
    whole = pypty.run(small_params(epoch_max=4, **changes))
    folder = {"output_folder": str(tmp_path / "out")}
    pypty.run(small_params(epoch_max=2, **folder, **changes))
    resumed = pypty.run(small_params(epoch_max=4, resume=True, **folder, **changes))
    np.testing.assert_array_equal(resumed.obj, whole.obj)


@pytest.mark.parametrize("name", names_in(__name__))
def test_it_has_its_effect(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    EFFECTS[name].test(Desk(tmp_path, monkeypatch, capfd))


@pytest.mark.parametrize("name", names_in(__name__))
def test_a_bad_value_is_refused_by_name(name: str) -> None:
    assert_refused(name)
