"""Parameters of the beam, the specimen, the detector and the starting probe: each has its documented effect.

Everything is compared with the formula by hand (docs/physics.md), mostly through ``pypty.simulate``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from parameter_registry import (
    EFFECTS,
    Desk,
    assert_refused,
    effect,
    frequency,
    loss_as_given,
    names_in,
    simulated,
    spectrum,
    start,
)
from problems import (
    N_PATTERNS,
    SCAN,
    SIDE,
    aperture_probe,
    every_block,
    patterns,
    scan_positions,
    small_params,
    smooth_object,
)

import pypty
from pypty.engine.epochs.problem import SWITCHES
from pypty.optics.wavelength import wavelength_A

PIXEL = 0.4
"""Å, along both axes."""
WAVELENGTH = wavelength_A(80)
Q2 = (frequency((SIDE, SIDE)) / PIXEL) ** 2
"""Squared spatial frequency in 1/Å^2, zero frequency first."""
ODD = np.arange(N_PATTERNS) % 2


def exit_waves() -> np.ndarray:
    """(25, 16, 16) probe times object, as :func:`simulated` has them."""
    obj, probe = smooth_object()[..., 0, 0], aperture_probe(1.0)[..., 0]
    crop_origins = scan_positions().astype(int)
    return np.stack([probe * obj[y : y + SIDE, x : x + SIDE] for y, x in crop_origins])


def propagated(waves: np.ndarray, phase: np.ndarray | float) -> np.ndarray:
    """Waves whose spectrum was multiplied by exp(i phase)."""
    return np.fft.ifft2(np.fft.fft2(waves) * np.exp(1j * phase))


def image(**changes: Any) -> np.ndarray:
    """Defocused images."""
    return simulated(recon_type="near_field", **changes)


# ---------------------------------------------------------------------------------------------------- detector


@effect("recon_type", bad="middle_field")
def _(desk: Desk) -> None:
    far = np.fft.fftshift(np.abs(np.fft.fft2(exit_waves())) ** 2, axes=(1, 2))
    assert np.allclose(simulated(recon_type="far_field"), far, rtol=1e-10, atol=1e-10)
    assert np.allclose(image(), np.abs(exit_waves()) ** 2, rtol=1e-10, atol=1e-12)


@effect("defocus_array", bad=np.ones(24))
def _(desk: Desk) -> None:
    """Positive is downstream, the sign of a propagation."""
    defoci = np.linspace(-100, 200, N_PATTERNS)
    phases = -np.pi * WAVELENGTH * defoci[:, None, None] * Q2
    expected = np.abs(propagated(exit_waves(), phases)) ** 2
    assert np.allclose(image(defocus_array=defoci), expected, rtol=1e-9, atol=1e-11)
    assert np.array_equal(image(defocus_array=defoci[:, None, None]), image(defocus_array=defoci))
    assert np.allclose(image(defocus_array=[defoci[7]])[7], expected[7], rtol=1e-9, atol=1e-11)


@effect("Cs", bad=np.inf)
def _(desk: Desk) -> None:
    phase = -0.5 * np.pi * 1e5 * WAVELENGTH**3 * Q2**2
    assert abs(phase).max() > 0.5
    expected = np.abs(propagated(exit_waves(), phase)) ** 2
    assert np.allclose(image(Cs=1e5), expected, rtol=1e-9, atol=1e-11)
    assert np.array_equal(simulated(Cs=1e5), simulated())


@effect("alpha_near_field", bad=-1e-3)
def _(desk: Desk) -> None:
    """Each image is blurred by a Gaussian whose transform is exp(-q^2 (pi alpha df)^2)."""
    defoci = np.linspace(20, 60, N_PATTERNS)
    sharp, blurred = (image(defocus_array=defoci, alpha_near_field=alpha) for alpha in (0.0, 5e-3))
    envelope = np.exp(-Q2 * (np.pi * 5e-3 * defoci[:, None, None]) ** 2)
    assert envelope.min() < 0.3
    expected = np.fft.ifft2(np.fft.fft2(sharp) * envelope).real
    assert np.allclose(blurred, np.maximum(expected, 0), rtol=1e-9, atol=1e-10)
    assert np.allclose(blurred.sum(axis=(1, 2)), sharp.sum(axis=(1, 2)), rtol=1e-3)


@effect("masks", bad=-np.ones((4, SIDE, SIDE)), beside={"dataset": np.ones((N_PATTERNS, 4))})
def _(desk: Desk) -> None:
    masks = np.random.default_rng(0).random((5, SIDE, SIDE))
    sums = np.einsum("nyx,dyx->nd", simulated(), masks)
    virtual = {"masks": masks, "algorithm": "lsq_compressed"}
    assert np.allclose(simulated(**virtual), sums, rtol=1e-10)
    given = {"obj": smooth_object(), "probe": aperture_probe(1.0), "damping_cutoff_multislice": 2.0}
    assert loss_as_given(**virtual, **given, dataset=sums + 3) == pytest.approx(9 * sums.size, rel=1e-9)


@effect("upsample_pattern", bad=0)
def _(desk: Desk) -> None:
    """Two model pixels per detector pixel and axis: a window of twice the side, whose pixels are summed."""
    assert start(upsample_pattern=2, probe=None).probe.shape == (2 * SIDE, 2 * SIDE, 1)
    rng = np.random.default_rng(0)
    probe = rng.standard_normal((2 * SIDE, 2 * SIDE, 1)) + 0j
    given = {"probe": probe, "obj": np.pad(smooth_object(), ((0, SIDE), (0, SIDE), (0, 0), (0, 0)), "wrap")}
    fine = simulated(**given).reshape(N_PATTERNS, SIDE, 2, SIDE, 2).sum(axis=(2, 4))
    assert np.allclose(simulated(**given, upsample_pattern=2), fine, rtol=1e-10)


@effect("static_background", bad=np.ones((SIDE, SIDE - 1)))
def _(desk: Desk) -> None:
    """An intensity b^2 on every pixel, also beyond the band limit; a number is the sum of a random b."""
    b = np.random.default_rng(0).random((SIDE, SIDE))
    for cutoff in (2.0, 0.5):
        with_it, without = (
            simulated(static_background=value, damping_cutoff_multislice=cutoff) for value in (b, 0)
        )
        assert np.allclose(with_it - without, b**2, rtol=0, atol=1e-10)
    drawn = start(static_background=5.0).static_background
    assert drawn.shape == (SIDE, SIDE)
    assert drawn.sum() == pytest.approx(5.0, rel=1e-12)
    assert 0.1 * drawn.max() < drawn.min() * 1.05 < 0.2 * drawn.max()
    assert start(static_background=0).static_background is None


@effect("beam_current", bad=np.ones(24))
def _(desk: Desk) -> None:
    current = np.linspace(-0.5, 2, N_PATTERNS)
    expected = current[:, None, None] ** 2 * simulated()
    assert np.allclose(simulated(beam_current=current), expected, rtol=1e-12, atol=0)


@effect("detector_blur_std", bad=-0.5)
def _(desk: Desk) -> None:
    """A periodic Gaussian of 0.8 detector pixels, whose weights sum to 1."""
    steps = np.minimum(np.arange(SIDE), SIDE - np.arange(SIDE))
    kernel = np.exp(-(steps**2) / (2 * 0.8**2))
    kernel /= kernel.sum()
    expected = simulated()
    for axis in (1, 2):
        expected = sum(kernel[k] * np.roll(expected, k, axis) for k in range(SIDE))
    assert np.allclose(simulated(detector_blur_std=0.8), expected, rtol=1e-10)
    assert np.array_equal(simulated(detector_blur_std=0), simulated())


def poisson_gaussian_loss(model: np.ndarray, data: np.ndarray, gain: float, readout: float) -> float:
    shift = readout**2 / gain
    return float(((model + shift) - (data + shift) * np.log(model + shift)).sum() / gain)


@effect("detector_gain", bad=0)
def _(desk: Desk) -> None:
    model, given = noisy_model()
    for gain in (1.0, 2.5):
        expected = poisson_gaussian_loss(model, patterns(), gain, 1.5)
        assert loss_as_given(**given, detector_gain=gain, readout_noise=1.5) == pytest.approx(
            expected, rel=1e-10
        )


@effect("readout_noise", bad=-1.0)
def _(desk: Desk) -> None:
    """With it negative counts are possible, and taken."""
    model, given = noisy_model()
    noisy = patterns() + np.random.default_rng(0).uniform(-3, 3, patterns().shape)
    for readout in (3.0, 4.0):
        expected = poisson_gaussian_loss(model, np.maximum(noisy, -(readout**2)), 1.0, readout)
        assert loss_as_given(**given, dataset=noisy, readout_noise=readout) == pytest.approx(
            expected, rel=1e-10
        )
    assert not pypty.check(small_params(dataset=noisy, algorithm="ml"))


def noisy_model() -> tuple[np.ndarray, dict[str, Any]]:
    """Patterns of another object, and the keys of their loss."""
    given = {"obj": smooth_object(seed=3), "probe": aperture_probe(1.0), "damping_cutoff_multislice": 2.0}
    return simulated(**given), {**given, "algorithm": "poisson_gaussian"}


# ------------------------------------------------------------------------------------------------- illumination


@effect("probe_marker", bad=np.full(N_PATTERNS, -1))
def _(desk: Desk) -> None:
    probes = [aperture_probe(1.0), aperture_probe(2.0)]
    found = simulated(probe=np.stack(probes, axis=3), probe_marker=ODD)
    each = [simulated(probe=probe) for probe in probes]
    assert np.allclose(found, np.where(ODD[:, None, None], each[1], each[0]), rtol=1e-12)
    assert start(probe_marker=ODD).probe.shape == (SIDE, SIDE, 1, 2), "one probe is the start of all"


def write_plates(path: Path, plates: np.ndarray) -> str:
    with h5py.File(path, "w") as file:
        file["configs"] = plates
    return str(path)


@effect("phase_plate_in_h5", bad="gone.h5")
def _(desk: Desk) -> None:
    """A factor on the probe's spectrum, zero frequency first: here a defocus, on every other pattern."""
    defocus = np.exp(-1j * np.pi * WAVELENGTH * 150 * Q2)
    path = write_plates(desk.folder / "plates.h5", np.where(ODD[:, None, None], defocus, 2.0))
    found = simulated(phase_plate_in_h5=path)
    assert np.allclose(found[ODD == 1], simulated(extra_probe_defocus=150.0)[ODD == 1], rtol=1e-9, atol=1e-11)
    assert np.allclose(found[ODD == 0], 4 * simulated()[ODD == 0], rtol=1e-9, atol=1e-11)


@effect("aberrations_array", bad=[1.0, 2.0], beside={"aberration_marker": ODD})
def _(desk: Desk) -> None:
    """A row of Krivanek coefficients for each group, with the sign of those of the starting probe."""
    rows = np.array([[0.0, 0.0, 0.0], [120.0, 40.0, -30.0]])
    found = simulated(aberrations_array=rows, aberration_marker=ODD)
    each = [simulated(aberrations=row) for row in rows]
    assert np.allclose(found, np.where(ODD[:, None, None], each[1], each[0]), rtol=1e-9, atol=1e-11)


@effect("aberration_marker", bad=ODD, beside={"aberrations_array": [[10.0]]})
def _(desk: Desk) -> None:
    rows, marker = np.array([[0.0], [80.0], [160.0]]), np.arange(N_PATTERNS) % 3
    found = simulated(aberrations_array=rows, aberration_marker=marker)
    for j in (0, 1, 2, 4):
        one = simulated(extra_probe_defocus=rows[marker[j], 0])
        assert np.allclose(found[j], one[j], rtol=1e-9, atol=1e-11)
    assert np.array_equal(simulated(aberrations_array=rows), simulated()), "nothing acts without a marker"


@effect("tilts", bad=np.zeros((3, 6)))
def _(desk: Desk) -> None:
    """After the specimen by two pixels of the pattern: t = 2 lambda / (n p). One for all, or one for each."""
    angle = 2 * WAVELENGTH / (SIDE * PIXEL)
    one = simulated(tilts=[[0, 0, 0, 0, angle, 0]], tilt_mode=1)
    assert np.allclose(one, np.roll(simulated(), 2, axis=1), rtol=1e-9, atol=1e-9)
    each = np.zeros((N_PATTERNS, 6))
    each[ODD == 1, 5] = angle
    found = simulated(tilts=each, tilt_mode=1)
    expected = np.where(ODD[:, None, None], np.roll(simulated(), 2, axis=2), simulated())
    assert np.allclose(found, expected, rtol=1e-9, atol=1e-9)


ACTING = {
    0: {"inside"},
    1: {"after"},
    2: {"before"},
    3: {"inside", "after"},
    4: {"before", "inside", "after"},
}


@effect("tilt_mode", bad=5)
def _(desk: Desk) -> None:
    two = {"obj": smooth_object(2), "slice_distances": [20.0]}
    for mode, acting in ACTING.items():
        for place, column in (("before", 0), ("inside", 2), ("after", 4)):
            tilts = np.zeros((1, 6))
            tilts[0, column] = 5e-3
            found = simulated(**two, tilts=tilts, tilt_mode=mode)
            assert np.allclose(found, simulated(**two), rtol=1e-9) is (place not in acting), (mode, place)


def test_a_tilted_specimen_is_displaced_slice_by_slice() -> None:
    """A tilt t inside moves the wave by z t: as if the second slice were moved by -z t, here by one pixel."""
    rng = np.random.default_rng(0)
    periodic = np.exp(0.3j * np.tile(rng.standard_normal((SIDE, SIDE, 2, 1)), (2, 2, 1, 1)))
    moved = periodic.copy()
    moved[:, :, 1] = np.roll(periodic[:, :, 1], -1, axis=1)
    distance = {"slice_distances": [20.0]}
    tilted = simulated(obj=periodic, tilts=[[0, 0, 0, PIXEL / 20.0, 0, 0]], **distance)
    assert np.allclose(tilted, simulated(obj=moved, **distance), rtol=1e-8, atol=1e-9)


# ------------------------------------------------------------------------------------------------------ specimen


@effect("propmethod", bad="single_slice")
def _(desk: Desk) -> None:
    """Two thick slices against 64 thin ones of the same specimen; and all are the same for a thin specimen."""
    phase = np.angle(smooth_object(2))
    thin = np.exp(1j * phase.repeat(32, axis=2) / 32)
    # A fourth-order step propagates after its last slice too, which the far field does not see.
    exact = simulated(obj=thin, slice_distances=[40 / 32], propmethod="yoshida")
    errors = {
        method: np.abs(
            simulated(obj=np.exp(1j * phase), slice_distances=[40.0], propmethod=method) - exact
        ).max()
        for method in ("multislice", "better_multislice", "yoshida", "angular_spectrum")
    }
    assert max(errors["better_multislice"], errors["yoshida"]) < 0.1 * errors["multislice"]
    steep = -np.pi * WAVELENGTH * Q2
    k = 2 * np.pi / WAVELENGTH
    difference = np.sqrt(k**2 - (2 * np.pi) ** 2 * Q2) - k - steep
    vacuum = {"obj": np.exp(1j * np.angle(smooth_object(2)) * [[0], [1]]), "slice_distances": [1e4]}
    propagators = [
        np.abs(np.fft.fftshift(np.fft.fft2(exit_after_gap(steep + extra, 1e4)), axes=(1, 2))) ** 2
        for extra in (0, difference)
    ]
    for method, expected in zip(("multislice", "angular_spectrum"), propagators, strict=True):
        assert np.allclose(simulated(**vacuum, propmethod=method), expected, rtol=1e-7, atol=1e-8)
    assert np.abs(propagators[0] - propagators[1]).max() > 1e-4


def exit_after_gap(rate: np.ndarray, distance: float) -> np.ndarray:
    """(25, 16, 16) waves after a vacuum gap of propagation phase ``rate`` per Å and the second slice."""
    obj = np.exp(1j * np.angle(smooth_object(2)[:, :, 1, 0]))
    wave = propagated(aperture_probe(1.0)[..., 0], rate * distance)
    return np.stack([wave * obj[y : y + SIDE, x : x + SIDE] for y, x in scan_positions().astype(int)])


# ------------------------------------------------------------------------------------------------ starting probe


def flat_probe() -> np.ndarray:
    """(16, 16, 1) point: all of its spectrum is 1."""
    point = np.zeros((SIDE, SIDE, 1))
    point[SIDE // 2, SIDE // 2] = 1
    return point


@effect("smooth_rolloff", bad=-0.1)
def _(desk: Desk) -> None:
    """The start falls to zero over the outermost part of its band limit: half a cosine of q^2."""
    given = {
        "probe": flat_probe(),
        "damping_cutoff_multislice": 0.9,
        "update_extra_cut": 0.1,
        "smooth_rolloff": 0.4,
    }
    amplitude = np.sqrt(spectrum(start(**given).probe[..., 0]))
    largest = np.fft.fftfreq(SIDE).max()
    f2, inner, outer = frequency((SIDE, SIDE)) ** 2, (0.4 * largest) ** 2, (0.8 * largest) ** 2
    expected = 0.5 * (1 + np.cos(np.pi * np.clip((f2 - inner) / (outer - inner), 0, 1)))
    assert np.allclose(amplitude / amplitude[0, 0], expected, atol=1e-12)


@effect("n_hermite_probe_modes", bad=[-1, 0])
def _(desk: Desk) -> None:
    """[n_x, n_y]: P, P u, ... with u along x first; all of the same power, together that of the probe."""
    given = {"probe": aperture_probe(), "skip_preprocessing": True}
    first, modes = start(**given).probe[..., 0], start(**given, n_hermite_probe_modes=[1, 2]).probe
    assert modes.shape == (SIDE, SIDE, 6)
    powers = (np.abs(modes) ** 2).sum(axis=(0, 1))
    assert np.allclose(powers, (np.abs(first) ** 2).sum() / 6, rtol=1e-10)
    intensity = np.abs(first) ** 2 / (np.abs(first) ** 2).sum()
    y, x = np.mgrid[:SIDE, :SIDE]
    u, v = (
        (c - (c * intensity).sum()) / np.sqrt((c**2 * intensity).sum() - (c * intensity).sum() ** 2)
        for c in (x, y)
    )
    for k, polynomial in enumerate((u, v, u * v, v**2, u * v**2), start=1):
        expected = first * polynomial * np.exp(-(u**2 + v**2) / 2)
        overlap = np.vdot(expected, modes[..., k]) / np.linalg.norm(expected) / np.linalg.norm(modes[..., k])
        assert overlap == pytest.approx(1, abs=1e-10), k


@effect("defocus_spread_modes", bad=[])
def _(desk: Desk) -> None:
    given = {"probe": aperture_probe(), "skip_preprocessing": True}
    modes = start(**given, defocus_spread_modes=[-50.0, 0.0, 80.0]).probe
    for k, distance in enumerate((-50.0, 0.0, 80.0)):
        alone = start(**given, extra_probe_defocus=distance).probe[..., 0]
        assert np.allclose(modes[..., k] * np.sqrt(3), alone, rtol=0, atol=1e-12 * np.abs(alone).max())


@effect("estimate_aperture_based_on_binary", bad=-1.0)
def _(desk: Desk) -> None:
    """All pixels above so many times the mean, all alike; and the counts are those of the data."""
    everywhere = {"damping_cutoff_multislice": 2.0, "update_extra_cut": 0}
    mean = patterns().mean(axis=0)
    for threshold in (0.2, 2.0):
        found = start(probe=None, estimate_aperture_based_on_binary=threshold, **everywhere).probe
        power = np.fft.fftshift(spectrum(found[..., 0]))
        lit = mean > threshold * mean.mean()
        assert 10 < lit.sum() < 200
        assert np.allclose(power, lit * mean.sum() / lit.sum(), atol=1e-9 * power.max())


@effect("beam_ctf", bad=np.zeros((SIDE, SIDE - 2)))
def _(desk: Desk) -> None:
    """A phase that is subtracted, zero frequency at n//2; smaller arrays are padded by ``data_pad``."""
    phase = np.random.default_rng(0).uniform(-1, 1, (SIDE, SIDE))
    given = {"probe": flat_probe(), "skip_preprocessing": True}
    before, after = (np.fft.fft2(start(**given, beam_ctf=ctf).probe[..., 0]) for ctf in (None, phase))
    assert np.allclose(after / before, np.exp(-1j * np.fft.ifftshift(phase)), atol=1e-12)
    padded = [
        np.fft.fft2(start(**given, data_pad=2, beam_ctf=ctf).probe[..., 0])
        for ctf in (phase, np.pad(phase, 2))
    ]
    assert np.array_equal(*padded)


def gaussian_probe() -> np.ndarray:
    """(16, 16, 1) probe of a standard deviation of 0.8 px in intensity."""
    r = np.arange(SIDE) - SIDE // 2
    return np.exp(-(r[:, None] ** 2 + r[None, :] ** 2) / (4 * 0.8**2))[..., None] + 0j


def source(**changes: Any) -> np.ndarray:
    """(2, 2) covariance [y, x] in Å^2 of the intensity of the starting probe with these spreads, less that without."""

    def covariance(probe: np.ndarray) -> np.ndarray:
        intensity = (np.abs(probe) ** 2).sum(axis=2)
        r = np.stack(np.mgrid[:SIDE, :SIDE]).reshape(2, -1) * PIXEL
        return np.cov(r, aweights=intensity.ravel(), ddof=0)

    given = {"probe": gaussian_probe(), "skip_preprocessing": True}
    return covariance(start(**given, mc_n_modes=8, **changes).probe) - covariance(start(**given).probe)


@effect("mc_n_modes", bad=300, beside={"focal_spread": 10.0})
def _(desk: Desk) -> None:
    """Orthogonal modes, the strongest first, of the power of the probe."""
    given = {"probe": aperture_probe(), "skip_preprocessing": True}
    for n_modes in (1, 4):
        modes = start(
            **given, mc_n_modes=n_modes, n_mc_samples=32, spatial_coh_x_A=0.5, focal_spread=50.0
        ).probe
        assert modes.shape == (SIDE, SIDE, n_modes)
        assert (np.abs(modes) ** 2).sum() == pytest.approx((np.abs(aperture_probe()) ** 2).sum(), rel=1e-10)
        overlaps = np.abs(np.einsum("yxi,yxj->ij", modes.conj(), modes))
        powers = overlaps.diagonal()
        assert (np.diff(powers) < 0).all()
        assert (overlaps - np.diag(powers)).max() < 1e-10 * powers[0]


@effect("n_mc_samples", bad=0)
def _(desk: Desk) -> None:
    """One sample is one shifted probe, as sharp as before; there are no more modes than samples."""
    one = start(
        probe=gaussian_probe(), skip_preprocessing=True, mc_n_modes=1, n_mc_samples=1, spatial_coh_x_A=0.3
    ).probe
    power = spectrum(one[..., 0])
    assert np.allclose(power, spectrum(gaussian_probe()[..., 0]), rtol=0, atol=1e-10 * power.max())
    assert source(n_mc_samples=256, spatial_coh_x_A=0.3)[1, 1] == pytest.approx(0.09, rel=0.25)


@effect("focal_spread", bad=-1.0, beside={"mc_n_modes": 2})
def _(desk: Desk) -> None:
    """The coherence of the axis with q is the characteristic function of the phase pi lambda f q^2."""
    given = {"probe": flat_probe(), "skip_preprocessing": True}
    modes = np.fft.fft2(start(**given, mc_n_modes=40, focal_spread=40.0).probe, axes=(0, 1))
    coherence = np.abs((modes[0, 0].conj() * modes).sum(axis=2))
    expected = np.exp(-0.5 * (np.pi * WAVELENGTH * Q2 * 40) ** 2)
    assert expected.min() < 0.2
    assert np.allclose(coherence / coherence[0, 0], expected, atol=0.15)


@effect("spatial_coh_x_A", bad=-0.5)
def _(desk: Desk) -> None:
    """Alone it is that along y, too."""
    along_x, both = source(spatial_coh_x_A=0.4, spatial_coh_y_A=0.0), source(spatial_coh_x_A=0.4)
    assert along_x[1, 1] == pytest.approx(0.16, rel=0.25)
    assert abs(along_x[0, 0]) < 1e-3
    assert both[0, 0] == pytest.approx(0.16, rel=0.25)


@effect("spatial_coh_y_A", bad=np.nan)
def _(desk: Desk) -> None:
    along_y = source(spatial_coh_y_A=0.4, spatial_coh_x_A=0.0)
    assert along_y[0, 0] == pytest.approx(0.16, rel=0.25)
    assert abs(along_y[1, 1]) < 1e-3


@effect("spatial_coh_xy", bad=0.5, beside={"mc_n_modes": 2, "spatial_coh_x_A": 0.5})
def _(desk: Desk) -> None:
    for covariance in (0.14, -0.14):
        found = source(spatial_coh_y_A=0.4, spatial_coh_x_A=0.4, spatial_coh_xy=covariance)
        assert found[0, 1] == pytest.approx(covariance, rel=0.25)


@effect("seed", bad=-1)
def _(desk: Desk) -> None:
    """Everything random comes from it, and nothing else does."""
    for changes, name in (
        ({"static_background": 3.0}, "static_background"),
        ({"mc_n_modes": 2, "focal_spread": 50.0, "n_mc_samples": 16}, "probe"),
    ):
        one, same, other = (getattr(start(seed=seed, **changes), name) for seed in (5, 5, 6))
        assert np.array_equal(one, same)
        assert np.abs(one - other).max() > 1e-3 * np.abs(one).max()
    assert np.array_equal(pypty.run(small_params(seed=5)).obj, pypty.run(small_params(seed=6)).obj)


# -------------------------------------------------------------------------------------------- what can be refined

TRUE: dict[str, np.ndarray | float] = {
    "tilts": 2e-3 * np.sin(np.arange(6 * N_PATTERNS)).reshape(-1, 6) * [0, 0, 0, 0, 1, 1],
    "beam_current": 1 + 0.2 * np.sin(np.arange(N_PATTERNS)),
    "aberrations_array": np.array([[20.0, 5.0, -8.0], [-15.0, 4.0, 6.0]]),
    "static_background": 0.1 + np.fft.fftshift(np.exp(-20 * Q2)),
    "detector_blur_std": 0.7,
    "detector_gains": np.array([[1.2, 0.9], [1.0, 0.7]]),
}
WRONG: dict[str, np.ndarray | float] = {
    "tilts": np.zeros((N_PATTERNS, 6)),
    "beam_current": np.ones(N_PATTERNS),
    "aberrations_array": np.zeros((2, 3)),
    "static_background": np.full((SIDE, SIDE), 0.3),
    "detector_blur_std": 0.3,
    "detector_gains": np.ones((2, 2)),
}


def assert_refined(block: str, seen: np.ndarray | slice = slice(None), **beside: Any) -> None:
    """From a known object and probe, and data of the true value: refining this block alone finds it; and the switch,
    and nothing else, decides whether it changes.

    Parameters
    ----------
    seen : which values are compared
    """
    given = {"obj": smooth_object(2), "probe": aperture_probe(1.0), "slice_distances": [20.0], **beside}
    data = simulated(**given, **{block: TRUE[block]})
    off = dict.fromkeys(SWITCHES, False)
    params = small_params(
        **{**given, **off, "dataset": data, "skip_preprocessing": True, "damping_cutoff_multislice": 2.0},
        epoch_max=30,
        **{block: WRONG[block]},
    )
    still, refined = (pypty.run({**params, f"update_{block}": on}) for on in (False, True))
    wrong, true = (np.reshape(value, getattr(still, block).shape) for value in (WRONG[block], TRUE[block]))
    assert np.array_equal(getattr(still, block), wrong)
    found = getattr(refined, block)
    if block in ("static_background", "beam_current", "detector_blur_std"):
        found = np.abs(found)  # only their squares have a meaning
    error = np.linalg.norm((found - true)[seen]) / np.linalg.norm((wrong - true)[seen])
    assert error < 0.02
    assert refined.loss[-1] < 1e-3 * refined.loss[0]
    for name in ("obj", "probe", "positions", "slice_distances"):
        assert np.array_equal(getattr(still, name), getattr(refined, name)), name


@effect("update_tilts", bad="sometimes")
def _(desk: Desk) -> None:
    assert_refined("tilts", tilt_mode=1)
    assert start(update_tilts=True).tilts.tolist() == [[0.0] * 6]
    assert start().tilts is None


@effect("update_beam_current", bad=np.nan)
def _(desk: Desk) -> None:
    assert_refined("beam_current")
    assert start(update_beam_current=True).beam_current.tolist() == [1.0] * N_PATTERNS


@effect("update_detector_gains", bad="maybe")
def _(desk: Desk) -> None:
    assert_refined("detector_gains")
    assert start(update_detector_gains=True).detector_gains.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert start().detector_gains is None


@effect("detector_gains", bad=np.full((2, 2), -1.0))
def _(desk: Desk) -> None:
    """Each quadrant of the pattern is multiplied by its gain; zero frequency belongs to the second of each axis."""
    gains = np.array([[1.5, 0.5], [1.0, 2.0]])
    ratio = simulated(detector_gains=gains).sum(axis=0) / simulated().sum(axis=0)
    half = SIDE // 2
    np.testing.assert_allclose(ratio[:half, :half], 1.5, rtol=1e-6)
    np.testing.assert_allclose(ratio[:half, half:], 0.5, rtol=1e-6)
    np.testing.assert_allclose(ratio[half:, half:], 2.0, rtol=1e-6)
    with pytest.raises(pypty.errors.ParameterError, match="detector_gains"):
        pypty.simulate(small_params(detector_gains=np.ones((3, 2))))


@effect("update_aberrations_array", bad=True)
def _(desk: Desk) -> None:
    assert_refined("aberrations_array", aberration_marker=ODD)


@effect("update_static_background", bad=True)
def _(desk: Desk) -> None:
    """Beneath the bright disk, where the counts are a thousand times as many, it is hardly seen."""
    assert_refined("static_background", simulated().mean(axis=0) < 1)


@effect("update_detector_blur_std", bad=True)
def _(desk: Desk) -> None:
    assert_refined("detector_blur_std")


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.parametrize("subscans", [False, True])
def test_a_free_probe_takes_the_power_and_beam_currents_keep_their_mean(
    optimizer: str, subscans: bool
) -> None:
    """A factor on the probe is the inverse factor on the currents of its patterns: only one of them may move."""
    current = TRUE["beam_current"]
    assert isinstance(current, np.ndarray)
    params = small_params(
        dataset=1.7**2 * simulated(obj=smooth_object(1), probe=aperture_probe(1.0), beam_current=current),
        obj=smooth_object(1),
        probe=aperture_probe(1.0),
        sequence=list(range(N_PATTERNS - 1)),
        update_obj=False,
        update_beam_current=True,
        optimizer=optimizer,
        epoch_max=20,
        skip_preprocessing=True,
        damping_cutoff_multislice=2.0,
        **({"probe_marker": ODD} if subscans else {}),
    )
    result = pypty.run(params)
    used = np.arange(N_PATTERNS - 1)
    groups = [used[ODD[used] == n] for n in (0, 1)] if subscans else [used]
    for group in groups:
        assert result.beam_current[group].mean() == pytest.approx(1.0, abs=1e-12)
    assert result.beam_current[-1] == 1.0, "a pattern that is not used keeps its current"
    if optimizer == "lbfgs":
        assert result.loss[-1] < 1e-6 * result.loss[0]
        for group in groups:
            expected = current[group] / current[group].mean()
            np.testing.assert_allclose(result.beam_current[group], expected, rtol=1e-3)
    # without a free power of the probe, the currents find the dose
    resting: list[dict[str, Any]] = [{"constraints": {"fix_probe_int": {}}}, {"update_probe": False}]
    resting += [{"learning_rates": {"probe": {"lr": 1e-3, "start": 100}}}] if optimizer == "adam" else []
    for changes in resting:
        fixed = pypty.run({**params, "epoch_max": 3, **changes})
        assert abs(fixed.beam_current[:-1].mean() - 1.0) > 1e-3


def test_all_switches_together_move_everything() -> None:
    """And each alone moves its own block only."""
    start_, end = (pypty.run(every_block(epoch_max=epochs)) for epochs in (0, 2))
    for key, block in SWITCHES.items():
        assert not np.array_equal(getattr(start_, block), getattr(end, block)), block
        alone = pypty.run(every_block(**{**dict.fromkeys(SWITCHES, False), key: True}, obj=smooth_object(2)))
        moved = [
            name
            for name in SWITCHES.values()
            if not np.array_equal(getattr(start_, name), getattr(alone, name)) and name != "obj"
        ]
        assert moved == [name for name in (block,) if name != "obj"]
    assert SCAN == (5, 5)


# ------------------------------------------------------------------------------------------------------- the run


@pytest.mark.parametrize("name", names_in(__name__))
def test_it_has_its_effect(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    EFFECTS[name].test(Desk(tmp_path, monkeypatch, capfd))


@pytest.mark.parametrize("name", names_in(__name__))
def test_a_bad_value_is_refused_by_name(name: str) -> None:
    assert_refused(name)
