"""Likely causes of a misfit: each is found from the fault that causes it, and not from noise."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from trust_data import counts, intensities, model, positions, probe

import pypty
from pypty.params.schema import SCHEMA
from pypty.trust.advice import ADVICE
from pypty.trust.quality import BRIGHT, DARK, FitQuality
from pypty.trust.signatures import Context, Excess, lonely_pixels, pix_limit, signatures
from pypty.trust.verdict import judge


def fit(data: np.ndarray | None = None, **changes: Any) -> FitQuality:
    return pypty.fit_quality(model(dataset=counts() if data is None else data, **changes))


def kinds(found: FitQuality, **context: Any) -> list[str]:
    return [item.kind for item in signatures(found, Context(**context))]


def fitted(data: np.ndarray, **changes: Any) -> list[str]:
    """Kinds after eight epochs: some faults look different before anything is fitted."""
    start = {
        "dataset": data,
        "update_obj": True,
        "epoch_max": 8,
        "warmup_epochs": 0,
        "default_dtype": "single",
    }
    return [item.kind for item in pypty.run(model(**{**start, **changes})).verdict.signatures]


def turned(degrees: float) -> np.ndarray:
    places = positions()
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return (places - places.mean(axis=0)) @ np.array([[cosine, sine], [-sine, cosine]]) + places.mean(axis=0)


def test_noise_has_no_cause() -> None:
    assert kinds(fit()) == []
    assert fitted(counts(), update_probe=True) == []


def test_a_turned_scan_is_a_wrong_geometry() -> None:
    assert kinds(fit(positions=turned(3)))[0] == "geometry"
    stretched = 1.02 * (positions() - positions().mean(axis=0)) + positions().mean(axis=0)
    assert kinds(fit(positions=stretched))[0] == "geometry"


def test_a_transposed_scan_is_a_wrong_model() -> None:
    found = kinds(fit(positions=positions()[:, ::-1].copy()))
    assert found[0] == "wrong model"
    # the object of these data scatters as much as a thick one, but has slices here
    assert "thickness" in found
    assert "thickness" not in kinds(fit(positions=positions()[:, ::-1].copy()), slices=4)


def test_jitter_is_told_from_geometry_by_the_scan() -> None:
    jitter = np.random.default_rng(0).normal(0, 0.25, positions().shape)
    assert kinds(fit(positions=positions() + jitter))[0] == "positions"


def test_a_fixed_probe_of_another_defocus_or_aperture() -> None:
    assert kinds(fit(probe=probe(3.5)), probe_refined=False) == ["geometry", "fixed probe"]
    assert fitted(counts(), probe=probe(3.0, 5.5))[0] == "probe"


@pytest.mark.parametrize("fault", ["geometry", "wrong model", "positions"])
def test_a_right_probe_that_is_fixed_does_not_hide_other_faults(fault: str) -> None:
    """It is said that it was fixed, but after what is seen."""
    jitter = np.random.default_rng(0).normal(0, 0.5, positions().shape)
    places = {
        "geometry": turned(3),
        "wrong model": positions()[:, ::-1].copy(),
        "positions": positions() + jitter,
    }
    found = fit(positions=places[fault])
    seen = kinds(found, probe_refined=False)
    assert seen[0] == fault and "fixed probe" in seen
    assert "refine it first (update_probe=True)" in judge(found, Context(probe_refined=False)).text
    assert "fixed probe" not in kinds(found)


def test_a_detector_that_blurs() -> None:
    blurred = gaussian_filter(intensities(), (0, 0.6, 0.6))
    assert fitted(counts(blurred), update_probe=True)[0] == "detector blur"


def test_a_source_of_finite_size_is_partial_coherence() -> None:
    weights = {(0, 0): 0.6, (0, 1.3): 0.1, (1.3, 0): 0.1, (0, -1.3): 0.1, (-1.3, 0): 0.1}
    patterns = sum(
        weight * pypty.simulate(model(positions=positions() + np.array(shift)))
        for shift, weight in weights.items()
    )
    assert fitted(counts(patterns), update_probe=True)[0] == "coherence"


def test_a_gain_is_told_by_its_value() -> None:
    found = fit(2 * counts(), probe=np.sqrt(2) * probe())
    (only,) = signatures(found)
    assert only.kind == "gain" and only.numbers["gain"] == pytest.approx(2, rel=0.03)
    assert judge(found).level == "doubtful"


def test_a_gain_is_told_only_where_the_deviance_tells_it() -> None:
    found = fit(2 * counts(), probe=np.sqrt(2) * probe())
    assert kinds(dataclasses.replace(found, counts_per_pixel=0.05)) != ["gain"]
    assert "gain" not in kinds(dataclasses.replace(found, ratio_fitted=0.6))


def test_noise_that_was_fitted_elsewhere_is_no_gain() -> None:
    """In the bright field a right model has any ratio from that after fitting to 1."""
    found = dataclasses.replace(fit(), ratio=0.75, ratio_fitted=0.75)
    assert found.regions[BRIGHT].ratio == pytest.approx(1, abs=0.1) and "gain" not in kinds(found)


def test_as_many_unknowns_as_data_are_said_to_be_too_many() -> None:
    params = model(dataset=counts()[:2], positions=positions()[:2], update_obj=True, update_probe=True)
    found = pypty.fit_quality(params)
    assert found.ratio_fitted == 0 and "few data" in kinds(found)
    assert "too few data" in judge(found).text and "about 0.0" not in judge(found).text


def test_single_pixels_that_are_dead() -> None:
    data = counts().copy()
    data[:, [10, 16], [14, 16]] = 0
    found = fit(data)
    assert lonely_pixels(found)[0] == 2 and lonely_pixels(found)[1] > 0.5
    assert kinds(found)[0] == "pixels"
    assert lonely_pixels(fit()) == (0, 0.0)


def test_a_background_is_a_misfit_of_the_dark_field() -> None:
    assert kinds(fit(counts(intensities() + 1.0)))[0] == "dark field"


def test_counts_beyond_the_band_limit() -> None:
    data = counts().copy()
    data[:, 0] = 100
    found = fit(data, damping_cutoff_multislice=0.9)
    assert "band limit" in kinds(found)
    assert judge(found).level in ("doubtful", "bad")


def test_a_run_that_still_falls_has_not_converged() -> None:
    assert kinds(fit(), falling=0.02) == ["not converged"]
    assert kinds(fit(), falling=0.001) == [] and kinds(fit(), falling=np.nan) == []


def test_a_small_misfit_without_a_name() -> None:
    found = fit()
    more = dataclasses.replace(found, ratio=found.ratio + 0.06)
    assert kinds(more) == ["small misfit"] and judge(more).level == "doubtful"
    assert judge(dataclasses.replace(found, ratio=found.ratio + 0.3)).level == "bad"


def test_few_counts_lower_the_limit_of_neighbouring_pixels() -> None:
    """The same error of the model gives less correlation where there is more noise."""
    many = dataclasses.replace(fit(), counts_per_pixel=100.0, pix_error=0.0005)
    few = dataclasses.replace(many, counts_per_pixel=5.0)
    assert pix_limit(many) == 0.015 and pix_limit(few) == 0.0025
    assert pix_limit(dataclasses.replace(few, pix_error=0.001)) == 0.005


def test_deviances_of_other_data_are_not_judged() -> None:
    other = dataclasses.replace(fit(), ratio=30.0, counts=False)
    assert Excess.of(other).deviance == 0 and judge(other).level == "good"
    assert "no counts" in judge(other).text
    alike = dataclasses.replace(other, pix=0.1)
    assert judge(alike).level == "bad" and kinds(alike) == ["geometry"]


def test_numbers_within_noise_are_none() -> None:
    found = fit()
    assert Excess.of(found).ratio == 0 and Excess.of(found).dark == 0
    dark = dataclasses.replace(found.regions[DARK], ratio=1.3)
    excess = Excess.of(dataclasses.replace(found, regions={**found.regions, DARK: dark}))
    assert excess.dark == pytest.approx(0.3)


@pytest.mark.parametrize("kind", ADVICE)
def test_advice_names_what_exists(kind: str) -> None:
    """Parameters and functions."""
    text, advice = ADVICE[kind]
    assert text.endswith(".") and not advice.endswith(".")
    names = {
        word.strip("(),;:'") for word in advice.replace("=", " ").replace("(", " ").split() if "_" in word
    }
    for name in names:
        if name.startswith("pypty."):
            continue
        assert name in SCHEMA or name in ("poisson_gaussian",), name
    for word in advice.replace("(", " ").split():
        if word.startswith("pypty."):
            place = pypty
            for part in word.rstrip(",;").split(".")[1:]:
                place = getattr(place, part)
            assert callable(place)
