"""Fourier ring correlation of two halves."""

from __future__ import annotations

import dataclasses
import math
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from problems import counts, small_params
from scipy.ndimage import gaussian_filter

import pypty
from pypty.errors import DataError, ParameterError
from pypty.plots.refits import plot_resolution
from pypty.refits.gauge import Area, difference, phases, without_ramp
from pypty.refits.resolution import SHARED, Resolution, RingCorrelation, resolution, ring_correlation

PIXEL = np.array([0.3, 0.2])


def params(**changes: Any) -> dict[str, Any]:
    given = {
        "dataset": counts(),
        "algorithm": "ml",
        "output_folder": "",
        "epoch_max": 20,
        "scan_size": (5, 5),
    }
    return small_params(**{**given, **changes})


@lru_cache
def found() -> Resolution:
    return resolution(params())


def noisy(signal: float, seed: int) -> np.ndarray:
    """(64, 90) white noise of variance 1, plus a white signal that all seeds share."""
    shared = np.random.default_rng(0).normal(size=(64, 90))
    return signal * shared + np.random.default_rng(seed).normal(size=shared.shape)


@pytest.mark.parametrize("signal", [1.0, 2.0])
def test_it_is_the_share_of_the_signal(signal: float) -> None:
    """White signal and white noise: S/(S + N) at every frequency, within the scatter of a ring."""
    curve = ring_correlation(noisy(signal, 1), noisy(signal, 2), PIXEL, 10.0)
    outer = curve.frc[4:]
    assert outer.mean() == pytest.approx(signal**2 / (signal**2 + 1), abs=0.05)
    # and the image of both has this correlation with the signal
    whole = ring_correlation(noisy(signal, 1) + noisy(signal, 2), noisy(1e9, 3), PIXEL, 10.0)
    assert curve.c_ref[4:].mean() == pytest.approx(whole.frc[4:].mean(), abs=0.05)


def test_equal_images_and_independent_ones() -> None:
    same = ring_correlation(noisy(0, 1), noisy(0, 1), PIXEL, 10.0)
    np.testing.assert_allclose(same.frc, 1)
    assert math.isinf(same.half_bit_A) and math.isinf(same.seventh_A)
    other = ring_correlation(noisy(0, 1), noisy(0, 2), PIXEL, 10.0)
    assert abs(other.frc[4:]).mean() < 0.15
    assert not np.isinf(other.half_bit_A) and not np.isinf(other.seventh_A)


def test_frequencies_are_those_of_the_pixels() -> None:
    curve = ring_correlation(noisy(1, 1), noisy(1, 2), PIXEL, 10.0)
    # up to the coarser Nyquist frequency, in rings as wide as the coarser frequency: 1/(90 0.2 Å)
    assert curve.frequency_1A[1] == pytest.approx(1 / 18)
    assert 1.55 < curve.frequency_1A[-1] + 0.5 / 18 <= 0.5 / 0.3
    limited = ring_correlation(noisy(1, 1), noisy(1, 2), PIXEL, 0.8)
    assert limited.frequency_1A[-1] + 0.5 / 18 <= 0.8 < limited.frequency_1A[-1] + 1.5 / 18


def test_signal_up_to_a_frequency_gives_that_resolution() -> None:
    """A signal that is smooth on 1 Å under white noise."""
    rng, noise = np.random.default_rng(1), 1.0
    signal = gaussian_filter(rng.normal(size=(200, 200)), 1 / 0.2 / (2 * np.pi))
    signal /= signal.std()
    halves = [signal + noise * rng.normal(size=signal.shape) for _ in range(2)]
    curve = ring_correlation(*halves, np.array([0.2, 0.2]), 2.5)
    # |S|^2 = c exp(-(q 1 Å)^2), of which the sum is that of the noise-free image
    q = curve.frequency_1A
    power = (
        np.exp(-(q**2))
        / np.exp(-(np.add.outer(np.fft.fftfreq(200, 0.2) ** 2, np.fft.fftfreq(200, 0.2) ** 2))).mean()
    )
    wanted = power / (power + noise**2)
    assert abs(curve.frc - wanted)[3:].mean() < 0.06
    crossing = q[np.flatnonzero(wanted < 1 / 7)[0]]
    assert curve.seventh_A == pytest.approx(1 / crossing, rel=0.06)
    assert curve.seventh_A < curve.half_bit_A < 1.3 * curve.seventh_A


def curve_of(frc: list[float]) -> RingCorrelation:
    frequency = 0.1 * np.arange(len(frc))
    return RingCorrelation(
        frequency_1A=frequency, frc=np.array(frc), half_bit=np.full(len(frc), 0.3), limit_1A=0.65
    )


def test_crossings_are_interpolated_and_the_first_counts() -> None:
    curve = curve_of([1, 1, 1, 0.9, 0.4, 0.2, 0.9])
    assert curve.half_bit_A == pytest.approx(1 / 0.45)
    assert math.isinf(curve.seventh_A)
    assert curve.text == "half-bit 2.22 Å, 1/7 ≤ 1.54 Å (the band limit)"
    # a poor first ring is what is left of a ramp
    assert math.isinf(curve_of([1, 0, 1, 1, 1]).half_bit_A)


def test_nothing_is_claimed_of_noise_or_of_a_small_field() -> None:
    noise = curve_of([1, 1, 0.1, 0.0, 0.5, 0.2])
    assert (
        math.isnan(noise.half_bit_A) and noise.text == "half-bit nothing is resolved, 1/7 nothing is resolved"
    )
    assert curve_of([1, 1, 1, 1]).text == "the scanned field is too small to tell"


def test_phases_that_pass_pi_do_not_correlate_noise() -> None:
    """A constant phase of the start, which no pattern shows, changes nothing."""
    data = np.random.default_rng(1).poisson(counts() / 40)
    curves = [
        resolution(
            params(dataset=data, epoch_max=6, obj=np.full((24, 24, 1, 1), np.exp(1j * phase)))
        ).total.frc
        for phase in (0.0, 3.0)
    ]
    np.testing.assert_allclose(curves[1], curves[0], atol=0.05)


def test_a_run_that_continues_another_has_no_independent_halves() -> None:
    run = pypty.run(params(epoch_max=2))
    with pytest.raises(ParameterError, match="continues a reconstruction of all counts"):
        resolution({**params(epoch_max=4), **run.params()})
    halves = resolution(params(epoch_max=2, obj=run.obj))
    assert "both halves begin with the given obj" in halves.text


def test_halves_of_counts_tell_the_agreement_with_the_truth() -> None:
    """C_ref of the halves, against the image of all counts and one of a hundred times as many."""
    truth = pypty.run(params(dataset=100 * counts("uint32"), epoch_max=40))
    halves = resolution(params(dataset=counts(), epoch_max=40))
    assert halves.halves == "thinning"
    whole = pypty.run(params(epoch_max=40))
    area = Area.scanned(whole.positions, (16, 16), whole.obj.shape)
    one = without_ramp(area.of(phases(truth.obj))[..., 0])
    two = one + difference(whole.obj, truth.obj, area=area)[..., 0]
    wanted = ring_correlation(one, two, whole.pixel_size_A, halves.total.limit_1A)
    strong = halves.total.c_ref > 0.9
    assert strong.sum() > 2
    assert abs(halves.total.c_ref - wanted.frc)[strong].max() < 0.1


def test_what_is_told() -> None:
    assert len(found().slices) == 1
    np.testing.assert_array_equal(found().total.frc, found().slices[0].frc)
    assert SHARED in found().text and "random halves of the counts" in str(found())
    assert found().images.shape == (2, *found().images.shape[1:3], 1)
    # finer than the band limit nothing is claimed
    limit = (2 / 3 - 0.005) * 0.5 / 0.4
    assert found().total.limit_1A == pytest.approx(limit)
    assert found().total.frequency_1A[-1] <= limit


def test_the_figure_shows_curves_limits_and_halves() -> None:
    halves = resolution(params(num_slices=2, slice_distances=[10.0], epoch_max=3))
    axes, first, second = halves.plot().axes[:3]
    shown = {line.get_label(): line.get_xydata() for line in axes.lines}
    np.testing.assert_array_equal(shown["correlation of the halves (sum of slices)"][:, 1], halves.total.frc)
    np.testing.assert_array_equal(shown["slice 1"][:, 1], halves.slices[1].frc)
    np.testing.assert_array_equal(shown["half bit"][:, 1], halves.total.half_bit)
    assert shown["band limit"][0, 0] == halves.total.limit_1A and shown["1/7"][0, 1] == 1 / 7
    assert axes.get_xlabel() == "spatial frequency / (1/Å)"
    for place, image in ((first, halves.images[0]), (second, halves.images[1])):
        np.testing.assert_allclose(place.images[0].get_array(), image.sum(axis=2))
        assert [text.get_text() for text in place.texts][0].endswith("Å")  # the scale bar
    assert halves.plot().get_suptitle() == halves.total.text
    alone = plot_resolution({"phase": halves.total}, halves.images.sum(axis=3), halves.pixel_size_A).axes[0]
    assert not any(str(line.get_label()).startswith("slice") for line in alone.lines)


def test_it_repeats() -> None:
    np.testing.assert_array_equal(resolution(params()).total.frc, found().total.frc)
    assert (resolution(params(), seed=1).total.frc != found().total.frc).any()


@pytest.mark.parametrize("changes", [{"dataset": counts() / 3, "algorithm": "lsq_sqrt"}, {"detector_gain": 2.0,
                                     "algorithm": "poisson_gaussian"}])  # fmt: skip
def test_data_that_are_no_counts_are_divided_by_positions(changes: dict[str, Any]) -> None:
    halves = resolution(params(**changes, epoch_max=6))
    assert halves.halves == "scan" and "every other scan position" in halves.text
    assert halves.total.frc[0] > 0.5


def test_slices_have_their_own_curves() -> None:
    halves = resolution(params(num_slices=2, slice_distances=[10.0], epoch_max=4))
    assert len(halves.slices) == 2 and halves.images.shape[3] == 2
    assert (halves.slices[0].frc != halves.total.frc).any()


def test_a_probe_that_is_not_scaled_begins_with_half_of_the_counts() -> None:
    """A fixed probe: with the wrong intensity the object would have to take it."""
    run = pypty.run(params())
    fixed = params(
        probe=run.probe, update_probe=False, skip_preprocessing=True, phase_only_obj=True, epoch_max=12
    )
    assert resolution(fixed).total.frc[1:4].min() > 0.5


def test_values_that_are_not_possible() -> None:
    with pytest.raises(ParameterError, match="halves: given 'both'"):
        resolution(params(), halves="both")
    with pytest.raises(DataError, match="only whole"):
        resolution(params(dataset=counts() / 3, algorithm="lsq_sqrt"), halves="thinning")


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        found().halves = "scan"  # type: ignore[misc]
