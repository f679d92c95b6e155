"""Parameters of combined losses: their effect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from parameter_registry import EFFECTS, Desk, assert_refused, effect, loss, loss_as_given, names_in
from problems import aperture_probe, small_params, smooth_object

import pypty


@effect("loss_terms", bad={"sparse": 0.1}, message="loss_terms: given sparse; at least one of single")
def _(desk: Desk) -> None:
    assert loss(loss_terms={"single": True}) == pytest.approx(loss(), rel=2e-5)
    assert loss(loss_terms={"single": 3.0}) == pytest.approx(3 * loss(), rel=2e-5)
    perfect = {"obj": smooth_object(), "probe": aperture_probe(1.0), "skip_preprocessing": True}
    counts = loss(loss_terms={"poissn": {"eps": 1e-12}}, **perfect)
    assert counts == pytest.approx(loss(algorithm="ml", **perfect), rel=1e-6)
    found = pypty.evaluate(
        small_params(loss_terms={"single": True, "sparse": {"weight": 0.2, "ln_order": 2}})
    )
    assert set(found.loss_terms) == {"single", "sparse"}
    assert sum(found.loss_terms.values()) == pytest.approx(found.loss, rel=1e-13)
    warned = pypty.check(small_params(loss_terms={"single": True}, algorithm="ml"))
    assert any("algorithm has no effect: loss_terms is given" in text for text in warned.warnings)


@effect("loss_scale", bad="mean", beside={"loss_terms": {"single": True}})
def _(desk: Desk) -> None:
    """Root of the mean square over the mean of the amplitudes: the same for counts of another unit."""
    data = small_params()["dataset"]
    terms = {"loss_terms": {"single": True}, "loss_scale": "ratio"}
    root = np.sqrt(loss_as_given() / data.size) / np.sqrt(data).mean()
    assert loss_as_given(**terms) == pytest.approx(root, rel=2e-5)
    assert loss(**terms, dataset=50 * data) == pytest.approx(loss(**terms), rel=2e-5)
    warned = pypty.check(small_params(loss_scale="ratio"))
    assert any("loss_scale has no effect: loss_terms is not given" in text for text in warned.warnings)


@pytest.mark.parametrize("name", names_in(__name__))
def test_it_has_its_effect(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    EFFECTS[name].test(Desk(tmp_path, monkeypatch, capfd))


@pytest.mark.parametrize("name", names_in(__name__))
def test_a_bad_value_is_refused_by_name(name: str) -> None:
    assert_refused(name)
