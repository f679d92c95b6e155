"""Every physical effect from end to end, against loops that share no code with the package."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers import directional_derivative, inner, random_like, random_probe, relative, small_problem

import pypty

WAVELENGTH = 12.398419843 / np.sqrt((2 * 510.99895 + 80) * 80)
"""At 80 kV, Å: the voltage of every test here."""
CUTOFF = 0.7
"""No lattice point of the windows used here lies on the rim of this band limit, where rounding would decide."""
TILTS = {0: (False, True, False), 1: (False, False, True), 2: (True, False, False)}
TILTS.update({3: (False, True, True), 4: (True, True, True)})
"""``tilt_mode``: whether the tilts before, inside and after the specimen act."""


def to_spectrum(wave: np.ndarray) -> np.ndarray:
    """The transform of a centred wave, centred."""
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(wave)))


def to_wave(spectrum: np.ndarray) -> np.ndarray:
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(spectrum)))


def coordinates(n: int) -> np.ndarray:
    """Pixels from the centre."""
    return np.arange(n) - n // 2


def chi(coefficients: np.ndarray, ky: np.ndarray, kx: np.ndarray) -> np.ndarray:
    """Aberration phase of C10, C12a, C12b, C21a, C21b, C23a, C23b, C30 as polynomials of the angles k = lambda q."""
    k2 = ky**2 + kx**2
    polynomials = (
        k2 / 2,
        (kx**2 - ky**2) / 2,
        kx * ky,
        k2 * kx / 3,
        k2 * ky / 3,
        (kx**3 - 3 * kx * ky**2) / 3,
        (3 * kx**2 * ky - ky**3) / 3,
        k2**2 / 4,
    )
    total = sum(c * p for c, p in zip(coefficients, polynomials, strict=False))
    return 2 * np.pi / WAVELENGTH * total


class Bench:
    """A virtual microscope that computes one pattern after the other.

    Parameters
    ----------
    params : parameters as for ``pypty.simulate``
    plates : (N, ky, kx) phase plates, zero frequency first
    """

    def __init__(self, params: dict[str, Any], plates: np.ndarray | None = None) -> None:
        self.params, self.plates = params, plates
        self.shape = params["probe"].shape[:2]
        self.y, self.x = (coordinates(n) for n in self.shape)
        py, px = params["pixel_size_y_A"], params["pixel_size_x_A"]
        self.Y, self.X = py * self.y[:, None], px * self.x[None, :]
        ny, nx = self.shape
        self.qy, self.qx = self.y[:, None] / (ny * py), self.x[None, :] / (nx * px)
        self.q2 = self.qy**2 + self.qx**2
        cutoff = params.get("damping_cutoff_multislice", 2 / 3)
        self.mask = self.q2 < (cutoff * min(self.qy.max(), self.qx.max())) ** 2
        self.subpixel = params["update_probe_pos"] or (np.asarray(params["positions"]) % 1).any()

    def row(self, name: str, j: int) -> np.ndarray:
        """The row of pattern j, or the only one."""
        rows = np.asarray(self.params[name])
        return rows[j if len(rows) > 1 else 0]

    def tilt(self, j: int, where: int) -> np.ndarray:
        """[y, x] before (0), inside (1) or after (2) the specimen; zero where it does not act."""
        if self.params.get("tilts") is None or not TILTS[self.params.get("tilt_mode", 0)][where]:
            return np.zeros(2)
        return self.row("tilts", j)[2 * where : 2 * where + 2]

    def ramp(self, tilt: np.ndarray) -> np.ndarray:
        return np.exp(2j * np.pi * (self.Y * tilt[0] + self.X * tilt[1]) / WAVELENGTH)

    def propagated(self, wave: np.ndarray, distance: float, tilt: np.ndarray) -> np.ndarray:
        phase = np.pi * WAVELENGTH * self.q2 + 2 * np.pi * (self.qy * tilt[0] + self.qx * tilt[1])
        return to_wave(to_spectrum(wave) * np.exp(-1j * distance * phase) * self.mask)

    def incoming(self, j: int) -> list[np.ndarray]:
        """Every mode of the probe in front of the specimen."""
        probe = self.params["probe"]
        if self.params.get("probe_marker") is not None:
            probe = probe[..., self.params["probe_marker"][j]]
        waves = list(probe.transpose(2, 0, 1))
        if self.plates is not None:
            plate = np.fft.fftshift(self.plates[j])
            waves = [to_wave(to_spectrum(wave) * plate) for wave in waves]
        if self.params.get("aberration_marker") is not None:
            group = self.params["aberrations_array"][self.params["aberration_marker"][j]]
            phase = chi(group, WAVELENGTH * self.qy, WAVELENGTH * self.qx)
            waves = [to_wave(to_spectrum(wave) * np.exp(-1j * phase) * self.mask) for wave in waves]
        waves = [wave * self.ramp(self.tilt(j, 0)) for wave in waves]
        if self.subpixel:
            position = self.row("positions", j)
            dy, dx = position - np.round(position)
            phase = self.y[:, None] / self.shape[0] * dy + self.x / self.shape[1] * dx
            shift = np.exp(-2j * np.pi * phase) * self.mask
            waves = [to_wave(to_spectrum(wave) * shift) for wave in waves]
        return waves

    def exit(self, wave: np.ndarray, mode: int, j: int) -> np.ndarray:
        """Behind the specimen."""
        y, x = np.round(self.row("positions", j)).astype(int)
        window = self.params["obj"][y : y + self.shape[0], x : x + self.shape[1], :, mode]
        distances = np.atleast_1d(self.params["slice_distances"])
        for s in range(window.shape[2]):
            wave = wave * window[:, :, s]
            if s < window.shape[2] - 1:
                distance = distances[s if len(distances) > 1 else 0]
                wave = self.propagated(wave, distance, self.tilt(j, 1))
        return wave * self.ramp(self.tilt(j, 2))

    def detected(self, wave: np.ndarray, j: int) -> np.ndarray:
        """The wave at the detector."""
        if self.params.get("recon_type", "far_field") == "far_field":
            return to_spectrum(wave) * self.mask
        defocus = float(np.ravel(self.row("defocus_array", j))[0])
        lens = np.exp(-0.5j * np.pi * self.params.get("Cs", 0.0) * WAVELENGTH**3 * self.q2**2)
        image = self.propagated(wave, defocus, self.tilt(j, 1))
        return to_wave(to_spectrum(image) * lens)

    def pattern(self, j: int) -> np.ndarray:
        """(ky, kx) counts, or (D,) sums, of pattern j."""
        params = self.params
        modes = product(self.incoming(j), range(params["obj"].shape[3]))
        counts = sum(np.abs(self.detected(self.exit(wave, mode, j), j)) ** 2 for wave, mode in modes)
        if params.get("beam_current") is not None:
            counts = counts * params["beam_current"][j] ** 2
        if params.get("alpha_near_field"):
            defocus = float(np.ravel(self.row("defocus_array", j))[0])
            envelope = np.exp(-self.q2 * (np.pi * params["alpha_near_field"] * defocus) ** 2)
            counts = to_wave(to_spectrum(counts) * envelope).real
        u, pad = params.get("upsample_pattern", 1), params.get("data_pad", 0)
        if params.get("detector_blur_std"):
            counts = blurred(counts, u * params["detector_blur_std"])
        masks = params.get("masks")
        if pad and (masks is not None or not params.get("use_padded_intensity", True)):
            counts = counts[pad:-pad, pad:-pad]
        summed = np.zeros((counts.shape[0] // u, counts.shape[1] // u))
        for dy, dx in np.ndindex(u, u):
            summed += counts[dy::u, dx::u]
        if params.get("static_background") is not None:
            summed = summed + np.asarray(params["static_background"]) ** 2
        return summed if masks is None else np.array([(summed * mask).sum() for mask in masks])


def blurred(counts: np.ndarray, std: float) -> np.ndarray:
    """Every pixel spreads over the periodic pattern as a Gaussian that sums to 1."""
    ny, nx = counts.shape
    distance = [np.minimum(np.arange(n), n - np.arange(n)) for n in (ny, nx)]
    spread = np.exp(-(distance[0][:, None] ** 2 + distance[1][None, :] ** 2) / (2 * std**2))
    spread /= spread.sum()
    out = np.zeros_like(counts)
    for y, x in np.ndindex(ny, nx):
        out += counts[y, x] * np.roll(spread, (y, x), axis=(0, 1))
    return out


RNG = np.random.default_rng(20)
N = 6
TILT_ROWS = RNG.normal(0, 4e-3, (N, 6))
"""About a pixel of the detector, or, over 50 Å, of the specimen."""
BACKGROUND = RNG.uniform(0.5, 2.0, (16, 20))
CURRENT = np.array([1.2, -0.8, 0.9, 1.0, -1.1, 0.7])
ABERRATIONS = RNG.normal(0, 1, (3, 8)) * np.array([40, 30, 30, 2e3, 2e3, 2e3, 2e3, 2e5])
GROUPS = np.array([2, 0, 1, 1, 0, 2])
SUBSCANS = np.array([1, 0, 0, 1, 2, 1])
DEFOCUS = np.array([-40.0, 25.0, 0.0, 60.0, 110.0, -15.0])
PLATES = np.exp(1j * RNG.uniform(-1, 1, (N, 16, 20))) * RNG.uniform(0.5, 1, (N, 16, 20))
DETECTORS = np.stack([RNG.uniform(0, 1, (16, 20)) > 0.5, RNG.uniform(0, 1, (16, 20))]).astype(float)
FOUR_D = np.stack([random_probe(np.random.default_rng(s), (16, 20), 2, 1000.0) for s in (5, 6, 7)], axis=3)
NEAR = {"recon_type": "near_field", "defocus_array": DEFOCUS, "Cs": 1e5}

CASES: dict[str, dict[str, Any]] = {
    "tilts inside": {"tilts": TILT_ROWS, "tilt_mode": 0},
    "tilts after": {"tilts": TILT_ROWS, "tilt_mode": 1},
    "tilts before": {"tilts": TILT_ROWS, "tilt_mode": 2},
    "tilts inside and after": {"tilts": TILT_ROWS, "tilt_mode": 3},
    "tilts everywhere": {"tilts": TILT_ROWS, "tilt_mode": 4},
    "one row of tilts": {"tilts": TILT_ROWS[:1], "tilt_mode": 4},
    "tilt before, one mode": {"tilts": TILT_ROWS, "tilt_mode": 2, "probe_modes": 1},
    "tilts, one slice": {"tilts": TILT_ROWS, "tilt_mode": 3, "slices": 1},
    "tilts, one distance": {"tilts": TILT_ROWS, "tilt_mode": 0, "slice_distances": np.array([31.0])},
    "background": {"static_background": BACKGROUND},
    "background, odd window": {"static_background": BACKGROUND[:15, :19], "window": (15, 19)},
    "current": {"beam_current": CURRENT},
    "current, one mode": {"beam_current": CURRENT, "probe_modes": 1, "object_modes": 1},
    "aberrations": {"aberrations_array": ABERRATIONS, "aberration_marker": GROUPS},
    "aberrations, whole pixels": {
        "aberrations_array": ABERRATIONS,
        "aberration_marker": GROUPS,
        "subpixel": False,
        "update_probe_pos": False,
    },
    "aberrations, tilt before": {
        "aberrations_array": ABERRATIONS,
        "aberration_marker": GROUPS,
        "tilts": TILT_ROWS,
        "tilt_mode": 2,
    },
    "several probes": {"probe": FOUR_D, "probe_marker": SUBSCANS},
    "phase plates": {"plates": PLATES},
    "phase plates, aberrations, tilt before": {
        "plates": PLATES,
        "aberrations_array": ABERRATIONS,
        "aberration_marker": GROUPS,
        "tilts": TILT_ROWS,
        "tilt_mode": 2,
    },
    "blur": {"detector_blur_std": 0.7},
    "upsampled": {"upsample_pattern": 2},
    "upsampled, odd": {"upsample_pattern": 3, "window": (15, 21)},
    "upsampled, cropped, background, blur": {
        "upsample_pattern": 2,
        "data_pad": 2,
        "use_padded_intensity": False,
        "static_background": BACKGROUND[:6, :8],
        "detector_blur_std": 0.6,
    },
    "virtual detectors": {"masks": DETECTORS, "algorithm": "gauss_compressed"},
    "virtual detectors, padded": {
        "masks": DETECTORS[:, 2:-2, 2:-2],
        "data_pad": 2,
        "algorithm": "poisson_compressed",
        "static_background": BACKGROUND[2:-2, 2:-2],
    },
    "virtual detectors, upsampled": {
        "masks": DETECTORS[:, :8, :10],
        "upsample_pattern": 2,
        "algorithm": "lsq_compressed",
    },
    "near field": {**NEAR, "Cs": 0.0},
    "near field, lens": NEAR,
    "near field, one defocus": {**NEAR, "defocus_array": [70.0]},
    "near field, stacked defoci": {**NEAR, "defocus_array": DEFOCUS[:, None, None]},
    "near field, source": {**NEAR, "alpha_near_field": 8e-3},
    "near field, tilts": {**NEAR, "tilts": TILT_ROWS, "tilt_mode": 3},
    "near field, tilts, one defocus": {**NEAR, "defocus_array": [70.0], "tilts": TILT_ROWS},
    "near field, one row of tilts": {**NEAR, "tilts": TILT_ROWS[:1], "tilt_mode": 0},
    "near field, one row, one defocus": {**NEAR, "defocus_array": [70.0], "tilts": TILT_ROWS[:1]},
    "near field, cropped, upsampled": {
        **NEAR,
        "upsample_pattern": 2,
        "data_pad": 2,
        "use_padded_intensity": False,
        "static_background": BACKGROUND[:6, :8],
    },
    "near field, virtual detectors": {**NEAR, "masks": DETECTORS, "algorithm": "lsq_compressed"},
    "focal series at one position": {**NEAR, "positions": [[3.2, 1.7]]},
    "focal series at one position, stacked defoci": {
        **NEAR,
        "defocus_array": DEFOCUS[:, None, None],
        "positions": [[3.2, 1.7]],
        "tilts": TILT_ROWS,
        "tilt_mode": 0,
    },
    "focal series at one whole position": {
        **NEAR,
        "positions": [[3.0, 1.0]],
        "update_probe_pos": False,
        "probe_modes": 1,
        "object_modes": 1,
    },
    "single shot": {
        "positions": [[3.0, 1.0]],
        "update_probe_pos": False,
        "probe": FOUR_D,
        "probe_marker": SUBSCANS,
        "plates": PLATES,
    },
    "single shot, tilts": {
        "positions": [[3.2, 1.7]],
        "plates": PLATES,
        "tilts": TILT_ROWS,
        "tilt_mode": 4,
    },
    "everything, far field": {
        "probe": FOUR_D,
        "probe_marker": SUBSCANS,
        "plates": PLATES,
        "aberrations_array": ABERRATIONS,
        "aberration_marker": GROUPS,
        "tilts": TILT_ROWS,
        "tilt_mode": 4,
        "beam_current": CURRENT,
        "detector_blur_std": 0.8,
        "static_background": BACKGROUND,
    },
    "everything, near field": {
        **NEAR,
        "alpha_near_field": 2e-3,
        "probe": FOUR_D,
        "probe_marker": SUBSCANS,
        "plates": PLATES,
        "aberrations_array": ABERRATIONS,
        "aberration_marker": GROUPS,
        "tilts": TILT_ROWS,
        "tilt_mode": 4,
        "beam_current": CURRENT,
        "detector_blur_std": 0.4,
        "static_background": BACKGROUND,
    },
}
SWITCHES = {
    "tilts": "update_tilts",
    "aberrations_array": "update_aberrations_array",
    "static_background": "update_static_background",
    "beam_current": "update_beam_current",
    "detector_blur_std": "update_detector_blur_std",
}


def problem(folder: Path, changes: dict[str, Any], seed: int = 30) -> dict[str, Any]:
    """Random data and start; everything that there is, is refined."""
    changes = dict(changes)
    plates = changes.pop("plates", None)
    params = small_problem(seed, damping_cutoff_multislice=CUTOFF, **changes)
    if plates is not None:
        params["phase_plate_in_h5"] = str(folder / "plates.h5")
        with h5py.File(params["phase_plate_in_h5"], "w") as file:
            file["configs"] = plates
    params.update({key: True for name, key in SWITCHES.items() if name in changes})
    if params.get("recon_type") == "near_field":  # counts are |psi|^2 itself there
        params["probe"] = params["probe"] * np.sqrt(np.prod(params["probe"].shape[:2]))
    u = params.get("upsample_pattern", 1)
    if u > 1:  # small_problem knows of no detector pixels of several model pixels
        params["dataset"] = params["dataset"][:, ::u, ::u].astype(float) * u**2
    if "masks" in params:
        params["dataset"] = np.einsum("nyx,dyx->nd", params["dataset"].astype(float), params["masks"])
    return params


@pytest.mark.parametrize("name", CASES)
def test_patterns(name: str, tmp_path: Path):
    params = problem(tmp_path, CASES[name])
    bench = Bench(params, CASES[name].get("plates"))
    expected = np.stack([bench.pattern(j) for j in range(N)])
    found = pypty.simulate(params)
    assert found.shape == params["dataset"].shape
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * expected.max())


@pytest.mark.parametrize("name", CASES)
def test_every_effect_is_seen(name: str, tmp_path: Path):
    """The comparison above would not notice an effect too small to matter: what a case adds changes its patterns."""
    params = problem(tmp_path, CASES[name])
    found = pypty.simulate(params)
    neutral = {
        "tilts": np.zeros((1, 6)),
        "static_background": None,
        "beam_current": np.ones(N),
        "aberrations_array": np.zeros((3, 8)),
        "phase_plate_in_h5": None,
        "detector_blur_std": 0.0,
        "probe_marker": np.zeros(N, int),
        "Cs": 0.0,
        "alpha_near_field": 0.0,
        "defocus_array": [0.0],
    }
    off = {"update_static_background": False, "update_detector_blur_std": False}
    for key, value in neutral.items():
        if key in params and np.any(params[key]):
            without = pypty.simulate({**params, **off, key: value})
            assert relative(without, found) > 1e-3, key


STEP = {
    "obj": 2e-6,
    "probe": 2e-6,
    "positions": 1e-5,
    "slice_distances": 1e-3,
    "tilts": 1e-7,
    "aberrations_array": 1e-3,
    "static_background": 1e-5,
    "beam_current": 1e-5,
    "detector_blur_std": 1e-5,
}
"""Finite-difference steps, short against what makes an amplitude pass through zero."""


@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str, tmp_path: Path):
    """Every block that a case has; those with coefficients of several sizes change in proportion to them."""
    params = problem(tmp_path, CASES[name])
    gradients = pypty.evaluate(params).gradients
    expected = {
        "obj",
        "probe",
        "positions",
        "slice_distances",
        *(key for key in SWITCHES if key in CASES[name]),
    }
    if CASES[name].get("slices") == 1:
        expected -= {"slice_distances"}
    if not params["update_probe_pos"]:
        expected -= {"positions"}
    assert set(gradients) == expected
    for block, gradient in gradients.items():
        value = np.asarray(params[block], complex if np.iscomplexobj(params[block]) else float)
        assert gradient.shape == (value.shape or (1,))
        change = random_like(np.random.default_rng(7), gradient)
        if block == "aberrations_array":
            change = change * np.abs(ABERRATIONS) / 30

        def loss(
            t: float, block: str = block, value: np.ndarray = value, change: np.ndarray = change
        ) -> float:
            moved = value + t * (change if value.shape else change[0])
            return pypty.evaluate({**params, block: moved if value.shape else float(moved)}).loss

        slope = directional_derivative(loss, STEP[block])
        assert inner(gradient, change) == pytest.approx(slope, rel=1e-6), block


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [1, 2, 4, 5])
@pytest.mark.parametrize(
    "name",
    [
        "everything, far field",
        "everything, near field",
        "current, one mode",
        "one row of tilts",
        "focal series at one position",
        "focal series at one whole position",
        "single shot",
        "virtual detectors, padded",
    ],
)
def test_batches_do_not_matter(name: str, batch: int, threads: int, tmp_path: Path):
    """Loss and gradients are sums over patterns, however these are put together. The arrays given are not touched."""
    params = problem(tmp_path, CASES[name])
    given = {key: value.copy() for key, value in params.items() if isinstance(value, np.ndarray)}
    expected = pypty.evaluate({**params, "compute_batch": N})
    found = pypty.evaluate({**params, "compute_batch": batch, "n_threads": threads})
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)
    for block, gradient in expected.gradients.items():
        assert relative(found.gradients[block], gradient) < 1e-11, block
    for key, value in given.items():
        np.testing.assert_array_equal(params[key], value)


def test_the_sign_of_a_beam_current_has_no_meaning(tmp_path: Path):
    """It multiplies an amplitude: patterns see its square, and the slope turns with it."""
    params = problem(tmp_path, CASES["current"])
    assert (CURRENT < 0).any()
    signed = pypty.evaluate(params)
    positive = pypty.evaluate({**params, "beam_current": np.abs(CURRENT)})
    assert signed.loss == pytest.approx(positive.loss, rel=1e-12)
    for block in ("obj", "probe", "positions", "slice_distances"):
        assert relative(signed.gradients[block], positive.gradients[block]) < 1e-12
    turned = positive.gradients["beam_current"] * np.sign(CURRENT)
    np.testing.assert_allclose(signed.gradients["beam_current"], turned, rtol=1e-10)
    assert np.abs(turned).min() > 0


@pytest.mark.parametrize("pattern", range(N))
def test_a_marker_is_that_of_its_pattern(pattern: int, tmp_path: Path):
    """A pattern alone has gradients for its own rows, and for no others."""
    params = problem(tmp_path, CASES["everything, far field"])
    found = pypty.evaluate({**params, "sequence": np.array([pattern])}).gradients
    for block, row in (("tilts", pattern), ("beam_current", pattern), ("aberrations_array", GROUPS[pattern])):
        touched = found[block].reshape(len(found[block]), -1).any(axis=1)
        assert np.flatnonzero(touched).tolist() == [row], block
    assert np.flatnonzero(found["probe"].any(axis=(0, 1, 2))).tolist() == [SUBSCANS[pattern]]


@pytest.mark.parametrize(
    ("key", "neutral"),
    [("beam_current", np.ones(N)), ("tilts", np.zeros((1, 6)))],
)
def test_refined_without_being_given(key: str, neutral: np.ndarray, tmp_path: Path):
    """Then it starts where it has no effect."""
    params = problem(tmp_path, {})
    found = pypty.evaluate({**params, SWITCHES[key]: True})
    expected = pypty.evaluate({**params, SWITCHES[key]: True, key: neutral})
    assert found.loss == pytest.approx(pypty.evaluate(params).loss, rel=1e-12)
    assert found.gradients[key].any()
    np.testing.assert_allclose(found.gradients[key], expected.gradients[key], rtol=1e-10)


@pytest.mark.parametrize("modes", [(1, 1), (2, 3)])
def test_background_gradient_counts_every_mode_once(modes: tuple[int, int], tmp_path: Path):
    """2 b sum over patterns of dL/dI, whatever the number of modes, beyond the band limit too."""
    probe_modes, object_modes = modes
    changes = {"static_background": BACKGROUND, "probe_modes": probe_modes, "object_modes": object_modes}
    params = problem(tmp_path, changes)
    model, data = pypty.simulate(params), params["dataset"]
    expected = 2 * BACKGROUND * (1 - np.sqrt(data / model)).sum(axis=0)
    found = pypty.evaluate(params).gradients["static_background"]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    bench = Bench(params)
    np.testing.assert_allclose(model[:, ~bench.mask], np.tile(BACKGROUND[~bench.mask] ** 2, (N, 1)))


@pytest.mark.parametrize(
    ("algorithm", "loss"),
    [
        ("lsq_compressed", lambda model, data: (model - data) ** 2),
        ("gauss_compressed", lambda model, data: (np.sqrt(model) - np.sqrt(data)) ** 2),
        ("poisson_compressed", lambda model, data: model - data * np.log(model)),
    ],
)
def test_loss_of_virtual_detectors(algorithm: str, loss: Any, tmp_path: Path):
    """The sums of the whole patterns over the masks are what is compared."""
    params = problem(tmp_path, {**CASES["virtual detectors"], "algorithm": algorithm})
    whole = {key: value for key, value in params.items() if key not in ("masks", "dataset", "algorithm")}
    sums = np.array([[(one * mask).sum() for mask in DETECTORS] for one in pypty.simulate(whole)])
    np.testing.assert_allclose(pypty.simulate(params), sums, rtol=1e-12)
    found = pypty.evaluate(params)
    assert found.loss == pytest.approx(loss(sums, params["dataset"]).sum(), rel=1e-12)
    assert found.sse == pytest.approx(((sums - params["dataset"]) ** 2).sum(), rel=1e-12)


def test_a_pattern_for_every_pixel_is_a_virtual_detector_for_each(tmp_path: Path):
    """Masks of one pixel give the loss and the gradients of the patterns themselves."""
    params = problem(tmp_path, {"algorithm": "lsq_sqrt"})
    masks = np.eye(16 * 20).reshape(-1, 16, 20)
    sums = params["dataset"].reshape(N, -1).astype(float)
    compressed = {**params, "masks": masks, "dataset": sums, "algorithm": "gauss_compressed"}
    expected, found = pypty.evaluate(params), pypty.evaluate(compressed)
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)
    for block, gradient in expected.gradients.items():
        assert relative(found.gradients[block], gradient) < 1e-12


def test_upsampled_patterns_are_sums_of_fine_ones(tmp_path: Path):
    fine = problem(tmp_path, {})
    coarse = {**fine, "upsample_pattern": 2, "dataset": fine["dataset"][:, ::2, ::2]}
    expected = pypty.simulate(fine).reshape(N, 8, 2, 10, 2).sum(axis=(2, 4))
    np.testing.assert_allclose(pypty.simulate(coarse), expected, rtol=1e-12)


# --------------------------------------------------------------------------------------------------------------------
# The starting probe


def start_of(tmp_path: Path, **changes: Any) -> pypty.Result:
    """The state before the first epoch, with whatever makes the starting probe."""
    params = problem(tmp_path, {"slices": 1, "object_modes": 1, "probe_modes": 1, "subpixel": False})
    return pypty.run({**params, "damping_cutoff_multislice": 2.0, **changes, "epoch_max": 0})


def test_aberrations_of_the_start(tmp_path: Path):
    """extra_probe_defocus, aberrations and beam_ctf multiply the spectrum of the given probe, all three."""
    given = start_of(tmp_path).probe[..., 0]
    ctf = np.random.default_rng(1).uniform(-1, 1, (12, 16))
    coefficients = np.array([20.0, 15.0, -10.0, 800.0, 500.0, -700.0, 300.0, 9e4])
    started = start_of(
        tmp_path,
        data_pad=2,
        dataset=np.ones((N, 12, 16)),
        extra_probe_defocus=35.0,
        aberrations=coefficients,
        beam_ctf=ctf,
    )
    qy, qx = coordinates(16)[:, None] / (16 * 0.31), coordinates(20)[None, :] / (20 * 0.26)
    phase = chi(coefficients, WAVELENGTH * qy, WAVELENGTH * qx)
    phase = phase + np.pi * WAVELENGTH * 35.0 * (qy**2 + qx**2)
    phase[2:-2, 2:-2] += ctf
    expected = to_wave(to_spectrum(given) * np.exp(-1j * phase))
    np.testing.assert_allclose(started.probe[..., 0], expected, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("changes", "modes"),
    [
        ({"n_hermite_probe_modes": [2, 1]}, 6),
        ({"defocus_spread_modes": [-30.0, 0.0, 30.0]}, 3),
        ({"defocus_spread_modes": [-30.0, 30.0], "n_hermite_probe_modes": [1, 1]}, 8),
        ({"mc_n_modes": 3, "n_mc_samples": 16, "focal_spread": 40.0, "spatial_coh_x_A": 0.3}, 3),
    ],
)
@pytest.mark.parametrize("recon_type", ["far_field", "near_field"])
def test_modes_keep_the_counts(changes: dict[str, Any], modes: int, recon_type: str, tmp_path: Path):
    """Counts add over modes: in vacuum a pattern has as many whether the probe is split or not."""
    params = problem(tmp_path, {"slices": 1, "object_modes": 1, "probe_modes": 1, "subpixel": False})
    params.update(damping_cutoff_multislice=2.0, recon_type=recon_type)
    assert relative(pypty.simulate({**params, **changes}), pypty.simulate(params)) > 0.01
    params["obj"] = np.ones_like(params["obj"])
    one, split = pypty.simulate(params), pypty.simulate({**params, **changes})
    np.testing.assert_allclose(split.sum(axis=(1, 2)), one.sum(axis=(1, 2)), rtol=1e-10)
    assert start_of(tmp_path, **changes).probe.shape == (16, 20, modes)


def test_monte_carlo_modes_follow_the_seed(tmp_path: Path):
    changes = {"mc_n_modes": 2, "n_mc_samples": 8, "focal_spread": 40.0}
    first, again, other = (start_of(tmp_path, **changes, seed=seed).probe for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert relative(other, first) > 1e-3


def disk(radius: float, shape: tuple[int, int] = (16, 20)) -> np.ndarray:
    """Pixels of a centred pattern up to a fraction of the Nyquist frequency of each axis."""
    y, x = (coordinates(n) / n for n in shape)
    return np.hypot(y[:, None], x[None, :]) <= 0.5 * radius


@pytest.mark.parametrize("given", [0.5, "array"])
def test_probe_of_an_aperture(given: float | str, tmp_path: Path):
    """A flat spectrum inside the aperture, in focus, with the counts of the mean pattern."""
    inside = disk(0.5)
    started = start_of(
        tmp_path, probe="aperture", aperture_mask=inside.astype(float) if given == "array" else 0.5
    )
    spectrum = to_spectrum(started.probe[..., 0])
    data = problem(tmp_path, {"slices": 1, "object_modes": 1, "probe_modes": 1, "subpixel": False})["dataset"]
    flat = np.sqrt(data.sum() / N / inside.sum())
    np.testing.assert_allclose(spectrum, inside * flat, atol=1e-10 * flat)


@pytest.mark.parametrize("source", ["mean of the data", "mean_pattern"])
def test_binary_aperture(source: str, tmp_path: Path):
    """Pixels above so many times the mean, all alike, with the counts of the data."""
    inside = disk(0.6)
    bright = np.where(inside, np.random.default_rng(2).uniform(30, 90, inside.shape), 1.0)
    other = np.where(disk(0.3), 50.0, 0.5)
    changes: dict[str, Any] = {"dataset": np.stack([bright] * N)}
    if source == "mean_pattern":
        changes["mean_pattern"], inside = other, disk(0.3)
    started = start_of(tmp_path, probe=None, estimate_aperture_based_on_binary=0.5, **changes)
    flat = np.sqrt(bright.sum() / inside.sum())
    np.testing.assert_allclose(to_spectrum(started.probe[..., 0]), inside * flat, atol=1e-10 * flat)
    plain = start_of(tmp_path, probe=None, **changes)
    pattern = other * bright.sum() / other.sum() if source == "mean_pattern" else bright
    np.testing.assert_allclose(to_spectrum(plain.probe[..., 0]), np.sqrt(pattern), atol=1e-10 * flat)


COUNTED: dict[str, dict[str, Any]] = {
    "plain": {},
    "near field": {**NEAR, "Cs": 0.0},
    "multiplied, dead pixels": {
        "data_multiplier": 2.5,
        "detector_mask": (np.random.default_rng(4).uniform(size=(16, 20)) > 0.3).astype(float),
    },
    "cropped, upsampled": {"upsample_pattern": 2, "data_pad": 2, "use_padded_intensity": False},
    "virtual detectors": {"masks": DETECTORS, "algorithm": "gauss_compressed"},
}


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("name", COUNTED)
def test_the_start_has_the_counts_of_the_data(name: str, given: bool, tmp_path: Path):
    """Those that the detector sees, in vacuum; a given probe is scaled unless skip_preprocessing."""
    params = problem(tmp_path, {"slices": 1, "object_modes": 1, "subpixel": False, **COUNTED[name]})
    params.update(obj=None, skip_preprocessing=False, damping_cutoff_multislice=2.0)
    params["probe"] = 3 * params["probe"] if given else None
    seen = params.get("detector_mask", 1.0) if "masks" not in params else 1.0
    measured = (params.get("data_multiplier", 1.0) * params["dataset"] * seen).sum()
    started = pypty.run({**params, "epoch_max": 0})
    model = pypty.simulate({**params, "probe": started.probe, "skip_preprocessing": True})
    assert (model * seen).sum() == pytest.approx(measured, rel=1e-9)
    if given:
        kept = pypty.simulate({**params, "skip_preprocessing": True})
        assert (kept * seen).sum() > 2 * measured


def test_start_of_images(tmp_path: Path):
    """Without a probe the mean image is that of the wave; a smaller probe is one in a smaller field."""
    params = problem(tmp_path, {"slices": 1, "object_modes": 1, "probe_modes": 1, "subpixel": False, **NEAR})
    params["damping_cutoff_multislice"] = 2.0
    started = pypty.run({**params, "probe": None, "epoch_max": 0})
    np.testing.assert_allclose(started.probe[..., 0], np.sqrt(params["dataset"].mean(axis=0)), rtol=1e-12)
    small = params["probe"][2:-2, 3:-3]
    started = pypty.run({**params, "probe": small, "epoch_max": 0})
    np.testing.assert_array_equal(started.probe, np.pad(small, ((2, 2), (3, 3), (0, 0))))


def test_a_coarser_probe_has_fewer_frequencies(tmp_path: Path):
    """In the far field a smaller array is the same field on larger pixels."""
    small = random_probe(np.random.default_rng(9), (12, 14), 1, 1000.0)
    spectrum = to_spectrum(start_of(tmp_path, probe=small).probe[..., 0])
    np.testing.assert_allclose(spectrum, np.pad(to_spectrum(small[..., 0]), ((2, 2), (3, 3))), atol=1e-12)


@pytest.mark.parametrize(("mode", "acting"), [(0, 0), (1, 1), (2, 1), (4, 2)])
def test_start_from_tilted_patterns(mode: int, acting: int, tmp_path: Path):
    """Tilts before and after the specimen move a pattern; its probe is made of patterns that are moved back."""
    base = np.where(disk(0.4), np.random.default_rng(3).uniform(30, 90, (16, 20)), 0.0)
    pixels = np.array([[0, 0], [2, -1], [-1, 3], [1, 1], [-2, 0], [3, -2]])
    tilts = np.zeros((N, 6))
    rows = pixels * WAVELENGTH / (np.array([16, 20]) * np.array([0.31, 0.26]))
    tilts[:, :2] = tilts[:, 2:4] = tilts[:, 4:] = rows
    data = np.stack([np.roll(base, acting * shift, axis=(0, 1)) for shift in pixels])
    started = start_of(tmp_path, probe=None, dataset=data, tilts=tilts, tilt_mode=mode)
    flat = np.sqrt(base.max())
    np.testing.assert_allclose(to_spectrum(started.probe[..., 0]), np.sqrt(base), atol=1e-9 * flat)


# --------------------------------------------------------------------------------------------------------------------
# The soft edge of the band limit

EDGE, ROLLOFF = 0.69, 0.3


def soft_edge(shape: tuple[int, int], largest: float) -> np.ndarray:
    """1, then (1 + cos)/2 in q^2 down to 0 at the band limit; centred. Limits count in ``largest``."""
    qy, qx = (coordinates(n) / (n * p) for n, p in zip(shape, (0.31, 0.26), strict=True))
    q2 = qy[:, None] ** 2 + qx[None, :] ** 2
    inner, outer = ((f * largest) ** 2 for f in (EDGE - ROLLOFF, EDGE))
    return np.where(q2 < outer, 0.5 * (1 + np.cos(np.pi * np.clip((q2 - inner) / (outer - inner), 0, 1))), 0)


def soft_problem(tmp_path: Path) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Parameters, and the soft edges of object and probe."""
    params = problem(tmp_path, {"slices": 1, "object_modes": 1, "probe_modes": 1, "update_probe_pos": False})
    params.update(smooth_rolloff=ROLLOFF, update_extra_cut=0.01)
    nyquist = 0.5 / 0.31
    return params, soft_edge(params["obj"].shape[:2], nyquist), soft_edge((16, 20), 7 / (16 * 0.31))


def test_soft_edge_of_the_start(tmp_path: Path):
    params, obj_edge, probe_edge = soft_problem(tmp_path)
    started = pypty.run({**params, "skip_preprocessing": False, "epoch_max": 0})
    expected = to_wave(to_spectrum(params["obj"][..., 0, 0]) * obj_edge)
    np.testing.assert_allclose(started.obj[..., 0, 0], expected, atol=1e-12)
    shape = to_spectrum(params["probe"][..., 0]) * probe_edge
    found = to_spectrum(started.probe[..., 0])
    scale = np.vdot(shape, found) / np.vdot(shape, shape)  # the counts of the data
    assert abs(scale.imag) < 1e-12 * scale.real
    np.testing.assert_allclose(found, scale * shape, atol=1e-10 * np.abs(found).max())


@pytest.mark.parametrize("block", ["obj", "probe"])
def test_soft_edge_of_every_step(block: str, tmp_path: Path):
    """Steepest descent with one number for the whole block: the step is the gradient inside the hard limit, damped
    twice by the soft edge (once for the step, once for the symmetry of what makes it)."""
    params, obj_edge, probe_edge = soft_problem(tmp_path)
    params.update(update_obj=block == "obj", update_probe=block == "probe", update_slice_distances=False)
    params.update(hist_length=0, preconditioner=False, epoch_max=1)
    edge = obj_edge if block == "obj" else probe_edge
    gradient = to_spectrum(pypty.evaluate(params).gradients[block].squeeze())
    step = to_spectrum((getattr(pypty.run(params), block) - params[block]).squeeze())
    expected = -gradient * edge**2
    scale = np.vdot(expected, step).real / np.vdot(expected, expected).real
    assert scale > 0
    np.testing.assert_allclose(step, scale * expected, atol=1e-9 * np.abs(step).max())


# --------------------------------------------------------------------------------------------------------------------
# Probes for several subscans


def test_subscans_go_through_files(tmp_path: Path):
    """(y, x, modes, subscans) in cp.npy, in the result, and back as the start of another run."""
    params = problem(tmp_path, CASES["several probes"])
    folder = tmp_path / "out"
    result = pypty.run({**params, "epoch_max": 3, "output_folder": str(folder)})
    assert result.probe.shape == (16, 20, 2, 3)
    np.testing.assert_array_equal(np.load(folder / "cp.npy"), result.probe)
    for subscan in range(3):
        assert relative(result.probe[..., subscan], FOUR_D[..., subscan]) > 1e-4
    loaded = pypty.load_checkpoint(folder)
    again = pypty.evaluate({**params, **loaded, "epoch_max": 5})
    assert again.loss == pytest.approx(result.loss[-1], rel=1e-12)
    assert result.loss[-1] < result.loss[0]


def test_one_given_probe_is_that_of_every_subscan(tmp_path: Path):
    params = problem(tmp_path, {"probe_marker": SUBSCANS})
    started = pypty.run({**params, "epoch_max": 0})
    for subscan in range(3):
        np.testing.assert_allclose(started.probe[..., subscan], params["probe"], atol=1e-14)
    assert relative(pypty.simulate(params), pypty.simulate({**params, "probe_marker": None})) < 1e-12


# --------------------------------------------------------------------------------------------------------------------
# Noise-free data of a smooth object: every kind of unknown is found again, the others being known

SIDE, SCAN = 24, 4


def specimen(slices: int) -> np.ndarray:
    """(y, x, slices, 1) smooth phase object."""
    rng = np.random.default_rng(3)
    size = SIDE + 14
    f = np.fft.fftfreq(size)
    low_pass = np.exp(-(f[:, None] ** 2 + f[None, :] ** 2) / (2 * 0.1**2))
    planes = [
        np.fft.ifft2(np.fft.fft2(rng.standard_normal((size, size))) * low_pass).real for _ in range(slices)
    ]
    phase = np.stack([0.5 / np.sqrt(slices) * plane / plane.std() for plane in planes], axis=-1)
    return np.exp(1j * phase)[..., None]


def experiment(slices: int, **changes: Any) -> dict[str, Any]:
    """A defocused probe on 4 x 4 points; object and probe are known."""
    r2 = sum((coordinates(SIDE) / (0.22 * SIDE)).reshape(shape) ** 2 for shape in ((-1, 1), (1, -1)))
    spectrum = (r2 <= 1) * np.exp(-2j * r2)
    probe = to_wave(spectrum) * np.sqrt(1e4 / (np.abs(spectrum) ** 2).sum())
    y, x = np.meshgrid(3.0 * np.arange(SCAN), 3.0 * np.arange(SCAN), indexing="ij")
    params: dict[str, Any] = {
        "obj": specimen(slices),
        "probe": probe[..., None],
        "positions": np.stack([y.ravel(), x.ravel()], axis=1) + 0.1,
        "slice_distances": [60.0],
        "acc_voltage": 80.0,
        "pixel_size_y_A": 0.4,
        "pixel_size_x_A": 0.35,
        "damping_cutoff_multislice": 0.9,
        "default_dtype": "double",
        "skip_preprocessing": True,
        "update_obj": False,
        "update_probe": False,
        "backend": "cpu",
        "n_threads": 1,
        "print_flag": 0,
    }
    return {**params, **changes}


def acting(tilts: np.ndarray, *columns: int) -> np.ndarray:
    """Only some of the six columns."""
    kept = np.zeros_like(tilts)
    kept[:, columns] = tilts[:, columns]
    return kept


TRUE_RNG = np.random.default_rng(5)
TRUE_TILTS = TRUE_RNG.normal(0, 3e-3, (SCAN**2, 6))
TRUE_ABERRATIONS = TRUE_RNG.normal(0, 1, (4, 7)) * np.array([60, 40, 40, 1e3, 1e3, 1e3, 1e3])
TRUE_BACKGROUND = TRUE_RNG.uniform(0.3, 2.0, (SIDE, SIDE))
TRUE_CURRENT = TRUE_RNG.uniform(0.7, 1.3, SCAN**2)
TRUE_POSITIONS = experiment(1)["positions"] + TRUE_RNG.uniform(-0.4, 0.25, (SCAN**2, 2))
TRUE_POSITIONS[:4, 0] = np.abs(TRUE_POSITIONS[:4, 0])
TRUE_POSITIONS[::4, 1] = np.abs(TRUE_POSITIONS[::4, 1])
MARKER = np.arange(SCAN**2) // SCAN
NEAR_SERIES = {"recon_type": "near_field", "defocus_array": np.linspace(-300, 300, SCAN**2)}

RECOVERIES: dict[str, tuple[str, Any, Any, dict[str, Any], int, float]] = {
    "tilts after": ("tilts", acting(TRUE_TILTS, 4, 5), 0.0, {"tilt_mode": 1}, 15, 1e3),
    "tilt after, of all": ("tilts", acting(TRUE_TILTS[:1], 4, 5), 0.0, {"tilt_mode": 1}, 8, 1e3),
    "tilts inside": ("tilts", acting(TRUE_TILTS, 2, 3), 0.0, {"tilt_mode": 0, "slices": 3}, 20, 1e3),
    "tilt inside, of all": (
        "tilts",
        acting(TRUE_TILTS[:1], 2, 3),
        0.0,
        {"tilt_mode": 0, "slices": 3},
        8,
        1e3,
    ),
    "tilt inside, fourth order": (
        "tilts",
        acting(TRUE_TILTS[:1], 2, 3),
        0.0,
        {"tilt_mode": 0, "slices": 2, "propmethod": "better_multislice"},
        8,
        1e3,
    ),
    "tilts before": ("tilts", acting(TRUE_TILTS, 0, 1), 0.0, {"tilt_mode": 2}, 15, 1e3),
    "tilt before, of all": ("tilts", acting(TRUE_TILTS[:1], 0, 1), 0.0, {"tilt_mode": 2}, 8, 1e3),
    "tilts inside, near field": (
        "tilts",
        acting(0.5 * TRUE_TILTS, 2, 3),
        0.0,
        {"tilt_mode": 0, "slices": 2, **NEAR_SERIES, "defocus_array": [100.0]},
        20,
        1e2,
    ),
    "common distance": ("slice_distances", [60.0], [40.0], {"slices": 3}, 8, 1e3),
    "distances": ("slice_distances", [50.0, 80.0], [60.0, 60.0], {"slices": 3}, 12, 1e3),
    "distances, fourth order": (
        "slice_distances",
        [50.0, 80.0, 30.0],
        [60.0, 60.0, 40.0],
        {"slices": 3, "propmethod": "yoshida"},
        10,
        1e2,
    ),
    "distances, exact": (
        "slice_distances",
        [50.0, 80.0],
        [60.0, 60.0],
        {"slices": 3, "propmethod": "angular_spectrum"},
        12,
        1e3,
    ),
    "aberrations": ("aberrations_array", TRUE_ABERRATIONS, 0.0, {"aberration_marker": MARKER}, 25, 1e2),
    "background": ("static_background", TRUE_BACKGROUND, 1.0, {}, 30, 10),
    "current": ("beam_current", TRUE_CURRENT, 1.0, {}, 8, 1e3),
    "wide blur": ("detector_blur_std", 1.5, 0.5, {}, 12, 1e3),
    "narrow blur": ("detector_blur_std", 0.6, 1.6, {}, 12, 1e3),
    "blur, upsampled": ("detector_blur_std", 0.7, 0.3, {"upsample_pattern": 2}, 12, 1e3),
    "positions": ("positions", TRUE_POSITIONS, experiment(1)["positions"], {}, 15, 1e3),
    "position of a focal series": ("positions", [[4.2, 4.9]], [[3.9, 5.2]], NEAR_SERIES, 10, 1e3),
}


@pytest.mark.parametrize("name", RECOVERIES)
def test_recovery(name: str):
    """The error falls at least by the factor."""
    block, true, start, changes, epochs, factor = RECOVERIES[name]
    true = np.asarray(true, float)
    start = np.broadcast_to(np.asarray(start, float), true.shape)
    scalar = (lambda value: float(value)) if true.shape == () else np.array
    changes = dict(changes)
    params = experiment(changes.pop("slices", 1), **changes)
    data = pypty.simulate({**params, block: scalar(true)})
    switch = {"positions": "update_probe_pos"}.get(block, f"update_{block}")
    run = {**params, block: scalar(start), "dataset": data, switch: True, "epoch_max": epochs}
    result = pypty.run({**run, "compute_batch": 5})
    found = getattr(result, block).reshape(true.shape)
    if block == "detector_blur_std":
        found = np.abs(found)  # its sign has no meaning
    assert np.linalg.norm(found - true) < np.linalg.norm(start - true) / factor
    assert np.array_equal(result.obj, params["obj"])
    assert np.array_equal(result.probe, params["probe"])


def test_recovery_of_several_probes():
    """Two subscans with probes of their own, the object known."""
    params = experiment(1)
    true = np.stack([params["probe"], 1.2 * np.roll(params["probe"], 2, axis=1)], axis=3)
    marker = np.arange(SCAN**2) % 2
    data = pypty.simulate({**params, "probe": true, "probe_marker": marker})
    result = pypty.run(
        {**params, "dataset": data, "probe_marker": marker, "update_probe": True, "epoch_max": 40}
    )
    start = np.stack([params["probe"]] * 2, axis=3)

    def error(probe: np.ndarray) -> float:
        """The phase of each probe as a whole is free."""
        overlap = np.einsum("yxms,yxms->s", true.conj(), probe)
        return float(np.linalg.norm(probe * np.exp(-1j * np.angle(overlap)) - true))

    assert error(result.probe) < 0.01 * error(start)


def test_recovery_of_a_focal_series():
    """One position, sixteen defoci: the object is found from a common phase on."""
    params = experiment(1, **NEAR_SERIES, positions=[[5.0, 5.0]])
    params["probe"] = np.ones((SIDE, SIDE, 1), complex) * 10
    data = pypty.simulate(params)
    start = np.ones_like(params["obj"])
    result = pypty.run({**params, "obj": start, "dataset": data, "update_obj": True, "epoch_max": 60})
    window = (slice(5, 5 + SIDE), slice(5, 5 + SIDE))
    true = params["obj"][window].squeeze()
    found = result.obj[window].squeeze()
    overlap = np.vdot(found, true)
    assert abs(overlap) / np.linalg.norm(found) / np.linalg.norm(true) > 0.99
    assert abs(np.vdot(start[window], true)) / np.linalg.norm(start[window]) / np.linalg.norm(true) < 0.95
