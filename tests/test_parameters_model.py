"""Options of the model and of the preparation of data: each has its documented effect (tests/test_model_options.py has
the formulas)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parameter_registry import EFFECTS, Desk, assert_refused, effect, loss, loss_as_given, names_in, simulated
from problems import SIDE, aperture_probe, patterns, small_params, smooth_object

import pypty
from pypty.data.resample import reflected_gaussian
from pypty.engine.epochs.problem import LOSS_KEYS, model_digest
from pypty.engine.setup.prepare import prepare
from pypty.errors import ParameterError
from pypty.output.checkpoints import MADE_THE_START
from pypty.params.reading import read_parameters
from pypty.params.report import Report
from pypty.params.schema import SCHEMA


def prepared(**changes: Any) -> np.ndarray:
    """The first three patterns as the loss sees them, centred."""
    setup = prepare(small_params(**{"probe": None, **changes}))
    return setup.from_model(setup.feed().batch(np.arange(3)).data)


def in_window(side: int, mode: str) -> np.ndarray:
    """Patterns of a probe that fills the small window, in the middle of a larger one, with the same counts."""
    rim = (side - SIDE) // 2
    probe = np.pad(aperture_probe(1.0), [(rim, rim), (rim, rim), (0, 0)]) * (SIDE / side)
    obj = np.pad(smooth_object(), [(rim, rim), (rim, rim), (0, 0), (0, 0)], constant_values=1)
    return simulated(dataset=patterns(), obj=obj, probe=probe, simu_Npix=side, simu_match_mode=mode)


@effect("obj_mode_weights", bad=[0.5, 0.5])
def _(desk: Desk) -> None:
    obj = np.concatenate([smooth_object(), smooth_object(seed=8)], axis=3)
    one, other = simulated(obj=obj[..., :1]), simulated(obj=obj[..., 1:])
    np.testing.assert_allclose(
        simulated(obj=obj, obj_mode_weights=[0.7, 0.2]), 0.7 * one + 0.2 * other, rtol=1e-9, atol=1e-9
    )


@effect("obj_preblur_std", bad=-1)
def _(desk: Desk) -> None:
    """A phase ramp in the window is left as it is, but at the rim; a random phase is not."""
    assert np.array_equal(simulated(obj_preblur_std=0.0), simulated())
    assert not np.allclose(simulated(obj_preblur_std=0.8), simulated(), rtol=1e-3)


@effect("simu_Npix", bad=8, beside={"simu_match_mode": "crop"})
def _(desk: Desk) -> None:
    """The sum is that of the waves: nothing is lost in a larger window, resampled; the compared pattern stays."""
    found = in_window(2 * SIDE, "resample")
    assert found.shape == patterns().shape
    assert found.sum() == pytest.approx(simulated().sum(), rel=1e-9)
    assert pypty.simulate(small_params(simu_Npix=24, simu_match_mode="crop")).shape == patterns().shape


@effect("simu_match_mode", bad="stretch", beside={"simu_Npix": 24})
def _(desk: Desk) -> None:
    """crop: the middle of what resample by two sums in blocks."""
    crop, resampled = in_window(2 * SIDE, "crop"), in_window(2 * SIDE, "resample")
    middle = slice(SIDE // 4, SIDE - SIDE // 4)
    blocks = crop.reshape(len(crop), SIDE // 2, 2, SIDE // 2, 2).sum(axis=(2, 4))
    np.testing.assert_allclose(resampled[:, middle, middle], blocks, rtol=1e-9, atol=1e-9)


@effect("data_normalization", bad="median")
def _(desk: Desk) -> None:
    mean = patterns().mean(axis=0)
    for mode, value in (("max_at_one", mean.max()), ("mean_at_one", mean.mean()), ("sum_to_one", mean.sum())):
        np.testing.assert_allclose(prepared(data_normalization=mode), patterns()[:3] / value, rtol=1e-9)
    assert loss_as_given(data_normalization="sum_to_one") == pytest.approx(
        loss_as_given(data_multiplier=1 / mean.sum()), rel=1e-9
    )


@effect("data_resample", bad=0)
def _(desk: Desk) -> None:
    found = prepared(data_resample=1.5)
    assert found.shape == (3, 24, 24)
    assert found.sum() == pytest.approx(patterns()[:3].sum(), rel=1e-2)
    np.testing.assert_allclose(
        prepared(data_resample=0.5), patterns()[:3].reshape(3, 8, 2, 8, 2).sum(axis=(2, 4)), rtol=1e-6
    )


@effect("data_pad_fill", bad="mirror")
def _(desk: Desk) -> None:
    """edge: the amplitude of the outermost pixels of the mean pattern goes on; what was measured stays."""
    bright = {"dataset": patterns() + 1, "data_pad": 2}
    found = prepared(**bright, data_pad_fill="edge")
    np.testing.assert_allclose(found[:, 2:-2, 2:-2], patterns()[:3] + 1, rtol=1e-9)
    outermost = 1 + patterns().mean(axis=0)[0, 5]
    np.testing.assert_allclose(found[:, :2, 7], outermost, rtol=1e-6)
    assert loss(**bright, data_pad_fill="edge") > loss(**bright)


@effect("data_pad_value", bad=-1)
def _(desk: Desk) -> None:
    found = prepared(data_pad=2, data_pad_fill="constant", data_pad_value=1.5)
    np.testing.assert_allclose(found[:, :2], 2.25, rtol=1e-6)


@effect("data_pad_threshold", bad=101)
def _(desk: Desk) -> None:
    """A fit to faint pixels only is fainter outside than one to all."""
    faint, every = (
        prepared(data_pad=2, data_pad_fill="exp", data_pad_threshold=percent)[0, 0].sum()
        for percent in (60, 100)
    )
    assert faint != pytest.approx(every, rel=1e-3)


@effect("detector_blur_edge", bad="zeros")
def _(desk: Desk) -> None:
    blur = reflected_gaussian(SIDE, 1.2, 9)[0]
    found = simulated(detector_blur_std=1.2, detector_blur_edge="reflect")
    np.testing.assert_allclose(found, blur @ simulated() @ blur.T, rtol=1e-9, atol=1e-9)
    periodic = simulated(detector_blur_std=1.2)
    assert not np.allclose(found[:, 0], periodic[:, 0], rtol=1e-3)
    np.testing.assert_allclose(found[:, 6:10, 6:10], periodic[:, 6:10, 6:10], rtol=1e-2)


@pytest.mark.parametrize("name", names_in(__name__))
def test_it_has_its_effect(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    EFFECTS[name].test(Desk(tmp_path, monkeypatch, capfd))


@pytest.mark.parametrize("name", names_in(__name__))
def test_a_bad_value_is_refused_by_name(name: str) -> None:
    assert_refused(name)


def test_each_is_another_problem() -> None:
    assert set(names_in(__name__)) <= set(LOSS_KEYS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"simu_match_mode": "crop"}, "simu_match_mode: .*simu_Npix is not"),
        ({"simu_Npix": 24}, "simu_Npix: given without simu_match_mode"),
        (
            {"simu_Npix": 24, "simu_match_mode": "crop", "data_pad": 4},
            "simu_Npix: given together with data_pad",
        ),
        (
            {"simu_Npix": 32, "simu_match_mode": "resample", "upsample_pattern": 2},
            "simu_Npix: given together with upsample_pattern",
        ),
        (
            {"simu_Npix": 24, "simu_match_mode": "crop", "dataset": patterns()[:, 1:]},
            "simu_Npix: patterns are 15 x 16",
        ),
        ({"simu_Npix": 24, "simu_match_mode": "crop", "dataset": ...}, "simu_Npix: given without data"),
        ({"obj_mode_weights": [0.0]}, "obj_mode_weights: all are zero"),
        ({"data_resample": 0.05}, "dataset: the window would be 0 x 0"),
    ],
)
def test_what_does_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        pypty.simulate(small_params(**changes))


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"data_pad_fill": "edge"}, "data_pad_fill has no effect"),
        (
            {"data_pad": 2, "use_padded_intensity": False, "data_pad_fill": "edge"},
            "data_pad_fill has no effect",
        ),
        ({"data_pad": 2, "data_pad_fill": "edge", "data_pad_value": 1.0}, "data_pad_value has no effect"),
        ({"detector_blur_edge": "reflect"}, "detector_blur_edge has no effect"),
    ],
)
def test_what_does_nothing_is_said(changes: dict[str, Any], warning: str) -> None:
    assert any(warning in text for text in pypty.check(small_params(**changes)).warnings)


def test_what_decides_the_loss_is_said_by_the_schema() -> None:
    """Their digest is in resume files, whose order of keys is that of names."""
    assert tuple(sorted(name for name in SCHEMA if SCHEMA[name].changes_loss)) == LOSS_KEYS
    assert not any(SCHEMA[name].per_epoch or SCHEMA[name].status for name in LOSS_KEYS)
    given = {"data_pad": 4, "slice_distances": [3.0, 4.0], "scan_size": [4, 5], "algorithm": "lsq_sqrt"}
    settings = read_parameters(given, Report())
    assert model_digest(settings, True, "multislice") == "7f1c18dc95d23f23"
    assert model_digest(settings, True, "yoshida") != "7f1c18dc95d23f23"


def test_what_made_the_start_is_neutral_in_a_checkpoint() -> None:
    assert set(MADE_THE_START) == {name for name in SCHEMA if SCHEMA[name].shapes_start}
    for name, value in MADE_THE_START.items():
        assert SCHEMA[name].is_neutral(value)
