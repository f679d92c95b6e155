"""The window: pixels of detector, comparison and model, their sizes, and the maps between them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pypty.data.window import Window
from pypty.initialize.common import checked
from pypty.optics.probes import probe_from_spectrum, resize, resize_spectrum
from pypty.optics.wavelength import wavelength_A

PATTERN = (12, 10)
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "padded": {"data_pad": 3},
    "upsampled": {"upsample_pattern": 3},
    "upsampled and padded": {"upsample_pattern": 2, "data_pad": 4},
    "cropped": {"simu_Npix": 24, "simu_match_mode": "crop"},
    "resampled": {"simu_Npix": 24, "simu_match_mode": "resample"},
    "resampled to fewer": {"simu_Npix": 9, "simu_match_mode": "resample"},
}


def window(pattern: tuple[int, int] = PATTERN, **changes: Any) -> Window:
    scale = {"pixel_size_y_A": 0.25, "pixel_size_x_A": 0.2, "acc_voltage": 80.0}
    return Window.of(checked({**scale, **changes}), pattern)


@pytest.mark.parametrize(
    ("form", "model", "across"),
    [
        ("plain", (12, 10), (1, 1)),
        ("padded", (18, 16), (1, 1)),
        ("upsampled", (36, 30), (3, 3)),
        ("upsampled and padded", (32, 28), (2, 2)),
        ("cropped", (24, 24), (1, 1)),
        ("resampled", (24, 24), (2, 2.4)),
        ("resampled to fewer", (9, 9), (0.75, 0.9)),
    ],
)
def test_pixels_and_their_sizes(form: str, model: tuple[int, int], across: tuple[float, float]) -> None:
    w = window(**FORMS[form])
    assert w.model == model
    assert w.across == pytest.approx(across)
    ky, kx = 1 / (model[0] * 0.25), 1 / (model[1] * 0.2)
    assert w.model_pixel_1A == pytest.approx((ky, kx))
    assert w.pixel_1A == pytest.approx((across[0] * ky, across[1] * kx))
    assert w.pixel_mrad == pytest.approx(tuple(1e3 * wavelength_A(80.0) * p for p in w.pixel_1A))
    assert w.model_pixel_mrad == pytest.approx((1e3 * wavelength_A(80.0) * ky, 1e3 * wavelength_A(80.0) * kx))
    assert w.nyquist_1A == pytest.approx(2.0)
    assert w.edge_1A == pytest.approx(0.5 * min(12 * w.pixel_1A[0], 10 * w.pixel_1A[1]))


@pytest.mark.parametrize("form", FORMS)
def test_calibration_of_a_pattern_fixes_the_pixel_of_the_model(form: str) -> None:
    w = window(**FORMS[form]).calibrated((0.02, 0.03))
    assert w.pixel_1A == pytest.approx((0.02, 0.03))
    assert w.model == window(**FORMS[form]).model


def test_compared_pixels_hold_the_padding_where_it_is_compared() -> None:
    up = {"upsample_pattern": 2, "data_pad": 4}
    assert window(**up, use_padded_intensity=True).compared == (16, 14)
    assert window(**up, use_padded_intensity=False).compared == PATTERN
    assert window(data_bin=2, data_resample=0.5).detector_pixels == 4


@pytest.mark.parametrize("form", FORMS)
def test_counts_are_shared_and_masks_come_back(form: str) -> None:
    w = window(**FORMS[form])
    counts = np.random.default_rng(0).uniform(1, 2, PATTERN)
    spread = w.counts_on_model(counts, rim=7.0)
    assert spread.shape == w.model
    if w.match != "resample":  # interpolation keeps the sum on average only
        inside = w.values_on_model(np.ones(PATTERN)) > 0
        assert spread[inside].sum() == pytest.approx(counts.sum())
        assert (spread[~inside] == 7).all()
    else:
        assert spread.sum() == pytest.approx(counts.sum(), rel=0.05)
    disk = np.hypot(np.arange(12)[:, None] - 6, np.arange(10)[None, :] - 4) <= 3.2
    mask = w.mask_on_model(disk)
    assert mask.dtype == bool and mask.shape == w.model
    if min(w.across) >= 1:
        np.testing.assert_array_equal(w.mask_on_pattern(mask), disk)


@pytest.mark.parametrize("form", FORMS)
def test_spectrum_on_the_pixels_of_a_pattern(form: str) -> None:
    """A Gaussian beam, tilted along both axes: its spectrum, sampled at the frequencies of a pattern's pixels."""
    w = window(**FORMS[form])
    (ny, nx), (py, px) = w.model, w.pixel_size_A
    y, x = (np.arange(ny) - ny // 2)[:, None] * py, (np.arange(nx) - nx // 2)[None, :] * px
    sigma, tilt = 0.28, (0.1, -0.2)  # Å, 1/Å
    wave = np.exp(-(y**2 + x**2) / (2 * sigma**2) + 2j * np.pi * (tilt[0] * y + tilt[1] * x))
    found = w.spectrum_on_pattern(wave[None])[0]
    assert found.shape == PATTERN
    ky, kx = ((np.arange(n) - n // 2) * p for n, p in zip(PATTERN, w.pixel_1A, strict=True))
    square = (ky[:, None] - tilt[0]) ** 2 + (kx[None, :] - tilt[1]) ** 2
    expected = 2 * np.pi * sigma**2 / (py * px) * np.exp(-2 * (np.pi * sigma) ** 2 * square)
    np.testing.assert_allclose(found, expected, atol=0.02 * expected.max())


@given(
    st.tuples(st.integers(3, 9), st.integers(3, 9)),
    st.integers(1, 3),
    st.integers(0, 4),
)
@settings(max_examples=30, deadline=None)
def test_a_probe_of_a_pattern_gives_its_pattern_back(shape: tuple[int, int], up: int, pad: int) -> None:
    """Whatever padding and upsampling: its spectrum at the pixels of a pattern is the one that it was made from."""
    w = window(shape, upsample_pattern=up, data_pad=pad * up)
    rng = np.random.default_rng(shape[0] + 10 * shape[1])
    spectrum = rng.normal(size=(2, *shape)) + 1j * rng.normal(size=(2, *shape))
    probe = w.probe_on_model(probe_from_spectrum(spectrum))
    assert probe.shape == (2, *w.model)
    np.testing.assert_allclose(w.spectrum_on_pattern(probe), spectrum, atol=1e-9)


def test_where_a_given_probe_is_put() -> None:
    probe = np.random.default_rng(1).normal(size=(1, *PATTERN)) + 0j
    padded = window(data_pad=3)
    np.testing.assert_allclose(padded.probe_on_model(probe), resize_spectrum(probe, padded.model))
    near = window(data_pad=3, recon_type="near_field")
    np.testing.assert_allclose(near.probe_on_model(probe), resize(probe, near.model))
    resampled = window(**FORMS["resampled"])
    np.testing.assert_allclose(resampled.probe_on_model(probe), resize(probe, resampled.model), atol=1e-12)
    own = np.ones((1, *padded.model), complex)
    assert padded.probe_on_model(own) is own


def test_a_pattern_on_the_pixels_of_the_waves() -> None:
    found = window((1, 2), upsample_pattern=2, data_pad=1).values_on_model(np.array([[1.0, 2.0]]))
    np.testing.assert_array_equal(found, [[0] * 6, [0, 1, 1, 2, 2, 0], [0, 1, 1, 2, 2, 0], [0] * 6])
