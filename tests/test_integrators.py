"""Orders of convergence of every ``propmethod``, against the exact solution of the wave equation as one matrix.

The specimen is a smooth potential that does not depend on the depth, and there is no band limit: d psi/dz =
i (V + r(q)) psi is then a linear system of a few hundred equations, solved by a matrix exponential.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from helpers import directional_derivative, inner, random_like

import pypty

SHAPE = (20, 24)
PIXELS_A = (0.5, 0.42)
CUTOFF = 2.0
"""Beyond the corners of the sampled frequencies: every wave passes."""
COUNTS = 900.0
THICKNESS_A = 120.0
PHASE = 0.6
"""Scale of the specimen's whole phase, rad."""


def wavelength_A(voltage_kV: float) -> float:
    return 12.398419843 / np.sqrt((2 * 510.99895 + voltage_kV) * voltage_kV)


WAVELENGTH = wavelength_A(80.0)


def squared_frequencies() -> np.ndarray:
    """(y, x) q^2 in 1/Å^2, zero frequency first."""
    qy, qx = (np.fft.fftfreq(n, pixel) for n, pixel in zip(SHAPE, PIXELS_A, strict=True))
    return qy[:, None] ** 2 + qx[None, :] ** 2


def phase_rate(exact: bool) -> np.ndarray:
    """(y, x) phase of the propagation, rad/Å, with or without the small-angle approximation."""
    q2 = squared_frequencies()
    if not exact:
        return -np.pi * WAVELENGTH * q2
    k = 2 * np.pi / WAVELENGTH
    return np.sqrt(k**2 - 4 * np.pi**2 * q2) - k


def whole_phase() -> np.ndarray:
    """(y, x) phase of the whole specimen: the lowest frequencies of the window only."""
    y, x = (2 * np.pi * np.arange(n) / n for n in SHAPE)
    y, x = y[:, None], x[None, :]
    return PHASE * (0.6 + np.cos(y + 0.3) + 0.8 * np.cos(x - 1.0) + 0.5 * np.cos(x + y))


def narrow_probe() -> np.ndarray:
    """(y, x) defocused probe with a Gaussian spectrum."""
    spectrum = np.exp(-squared_frequencies() * (1 / (2 * 0.09**2) - 4.5j))
    probe = np.fft.fftshift(np.fft.ifft2(spectrum))
    return probe * np.sqrt(COUNTS / (np.abs(spectrum) ** 2).sum())


@cache
def exact_spectrum(exact: bool) -> np.ndarray:
    """(ky, kx) spectrum of the wave behind the specimen, zero frequency first."""
    transform = np.kron(*(scipy.linalg.dft(n) for n in SHAPE))
    rate = phase_rate(exact).ravel()[:, None]
    generator = transform.conj().T @ (1j * rate * transform) / transform.shape[0]
    generator += np.diag(1j * whole_phase().ravel() / THICKNESS_A)
    wave = scipy.linalg.expm(THICKNESS_A * generator) @ narrow_probe().ravel()
    return np.fft.fft2(wave.reshape(SHAPE))


def exact_pattern(exact: bool) -> np.ndarray:
    """(ky, kx) the pattern behind the specimen, centred."""
    return np.fft.fftshift(np.abs(exact_spectrum(exact)) ** 2)


def sliced(method: str, n_slices: int, **changes: Any) -> dict[str, Any]:
    """The specimen in ``n_slices`` equal slices."""
    obj = np.exp(1j * whole_phase() / n_slices)[..., None, None]
    return {
        "obj": np.repeat(obj, n_slices, axis=2),
        "probe": narrow_probe()[..., None],
        "positions": np.zeros((1, 2)),
        "slice_distances": [THICKNESS_A / n_slices],
        "acc_voltage": 80.0,
        "pixel_size_y_A": PIXELS_A[0],
        "pixel_size_x_A": PIXELS_A[1],
        "damping_cutoff_multislice": CUTOFF,
        "propmethod": method,
        "skip_preprocessing": True,
        "backend": "cpu",
        "n_threads": 1,
        **changes,
    }


def pattern(method: str, n_slices: int, **changes: Any) -> np.ndarray:
    return pypty.simulate(sliced(method, n_slices, **changes))[0]


def errors(
    simulated: Callable[[int], np.ndarray], expected: np.ndarray, slices: tuple[int, ...]
) -> np.ndarray:
    """Relative 2-norm for each number of slices."""
    return np.array([np.linalg.norm(simulated(n) - expected) / np.linalg.norm(expected) for n in slices])


def order(slices: tuple[int, ...], values: np.ndarray) -> float:
    """Fitted power of the slice thickness."""
    return float(-np.polyfit(np.log(slices), np.log(values), 1)[0])


def test_the_specimen_is_thick():
    """What the other tests rest on: propagation matters, and only the first-order term of an error is seen."""
    expected, thin = exact_pattern(False), pattern("multislice", 1)
    assert np.linalg.norm(thin - expected) > 0.02 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("method", "expected", "window", "slices", "finest"),
    [
        ("multislice", 1, 0.1, (8, 16, 32, 64), 1e-3),
        ("angular_spectrum", 1, 0.1, (8, 16, 32, 64), 1e-3),
        ("better_multislice", 4, 0.2, (2, 4, 8, 16), 1e-9),
        ("yoshida", 4, 0.2, (2, 4, 8, 16), 1e-8),
    ],
)
def test_order_of_convergence(
    method: str, expected: int, window: float, slices: tuple[int, ...], finest: float
):
    """The far field does not see the propagation after the last slice, which multislice leaves out."""
    reference = exact_pattern(method == "angular_spectrum")
    found = errors(lambda n: pattern(method, n), reference, slices)
    assert found[-1] < finest
    assert order(slices, found) == pytest.approx(expected, abs=window)


@pytest.mark.parametrize(
    ("method", "expected", "window", "slices", "finest"),
    [
        ("multislice", 1, 0.1, (8, 16, 32, 64), 2e-3),
        ("better_multislice", 4, 0.2, (2, 4, 8, 16), 1e-8),
        ("yoshida", 4, 0.2, (2, 4, 8, 16), 1e-7),
    ],
)
def test_order_of_convergence_in_the_near_field(
    method: str, expected: int, window: float, slices: tuple[int, ...], finest: float
):
    """An image 30 Å behind the specimen. Multislice ends before the gap of its last slice: the image is that much
    further away for it."""
    behind = 30.0
    image_wave = np.fft.ifft2(exact_spectrum(False) * np.exp(1j * behind * phase_rate(False)))
    reference = np.abs(image_wave) ** 2

    def image(n: int) -> np.ndarray:
        missing = THICKNESS_A / n if method == "multislice" else 0.0
        return pattern(method, n, recon_type="near_field", defocus_array=[behind + missing])

    found = errors(image, reference, slices)
    assert found[-1] < finest
    assert order(slices, found) == pytest.approx(expected, abs=window)


@pytest.mark.parametrize("method", ["multislice", "angular_spectrum"])
def test_first_order_methods_converge_to_their_own_limit(method: str):
    """The limits differ by 2e-7. Extrapolation to slices of no thickness (Richardson's) tells them apart."""
    table = [pattern(method, n) for n in (8, 16, 32, 64, 128)]
    for power in range(1, len(table)):
        table = [(2**power * fine - coarse) / (2**power - 1) for coarse, fine in itertools.pairwise(table)]
    own, other = (exact_pattern(method == name) for name in ("angular_spectrum", "multislice"))
    assert np.linalg.norm(own - other) > 1e-7 * np.linalg.norm(own)
    assert np.linalg.norm(table[0] - own) < 1e-11 * np.linalg.norm(own)


def fringe_phase(method: str, order_x: int, distance: float | list[float], **changes: Any) -> float:
    """Phase of a plane wave of frequency q = order/(window) against one along the axis, behind empty slices.

    The interference of two plane waves, 1 + exp(2 pi i q x), is a fringe in the image whose phase is that which the
    propagation gives to q.
    """
    nx = 32
    wave = 1 + np.exp(2j * np.pi * order_x * np.arange(nx) / nx)
    params = {
        "obj": np.ones((8, nx, changes.pop("n_slices", 2), 1), complex),
        "probe": np.repeat(wave[None], 8, axis=0)[..., None],
        "positions": np.zeros((1, 2)),
        "slice_distances": np.atleast_1d(distance),
        "acc_voltage": 20.0,
        "pixel_size_y_A": 0.1,
        "pixel_size_x_A": 0.4,
        "damping_cutoff_multislice": 1.5,
        "recon_type": "near_field",
        "propmethod": method,
        "skip_preprocessing": True,
        "backend": "cpu",
        "n_threads": 1,
        **changes,
    }
    return float(np.angle(np.fft.fft(pypty.simulate(params)[0].sum(axis=0))[order_x]))


FRINGE_Q_A = 1 / (32 * 0.4)
"""Frequency of the first order, 1/Å."""


@pytest.mark.parametrize("method", ["multislice", "better_multislice", "yoshida"])
def test_fresnel_phase(method: str):
    """-pi lambda q^2 z; the fourth-order methods propagate behind the last slice too."""
    for order_x, distance in ((1, 300.0), (3, 40.0), (9, 5.0)):
        gaps = 1 if method == "multislice" else 2
        expected = -np.pi * wavelength_A(20.0) * (order_x * FRINGE_Q_A) ** 2 * gaps * distance
        assert -np.pi < expected < -0.05
        assert fringe_phase(method, order_x, distance) == pytest.approx(expected, rel=1e-9)


def test_angular_spectrum_differs_by_the_next_term():
    """sqrt(k^2 - (2 pi q)^2) - k = -pi lambda q^2 - (pi/4) lambda^3 q^4 - ...: nothing at small angles, and growing
    with the fourth power of q and the first of z."""
    wavelength = wavelength_A(20.0)

    def difference(order_x: int, distance: float) -> float:
        turned = np.exp(1j * fringe_phase("angular_spectrum", order_x, distance))
        return float(np.angle(turned * np.exp(-1j * fringe_phase("multislice", order_x, distance))))

    orders = (4, 6, 8, 12)
    found = [difference(n, 1000.0) for n in orders]
    expected = [-np.pi / 4 * wavelength**3 * (n * FRINGE_Q_A) ** 4 * 1000.0 for n in orders]
    assert expected[-1] < -0.3
    np.testing.assert_allclose(found, expected, rtol=5e-3)
    assert np.polyfit(np.log(orders), np.log(np.abs(found)), 1)[0] == pytest.approx(4, abs=0.01)
    assert difference(12, 500.0) == pytest.approx(found[-1] / 2, rel=1e-9)
    assert abs(difference(1, 1000.0)) < 3e-5


def test_angular_spectrum_phase_is_exact():
    wavelength, distance = wavelength_A(20.0), 3.0
    k = 2 * np.pi / wavelength
    for order_x in (2, 7, 15):
        expected = (np.sqrt(k**2 - (2 * np.pi * order_x * FRINGE_Q_A) ** 2) - k) * distance
        assert fringe_phase("angular_spectrum", order_x, distance) == pytest.approx(expected, rel=1e-9)


def test_edge_slice_thickness_is_the_first_gap():
    """The fringe goes through the edge once and through every other gap once; patterns are those of distances given
    one by one."""
    rate = -np.pi * wavelength_A(20.0) * (2 * FRINGE_Q_A) ** 2
    for edge, first in ((90.0, 90.0), (20.0, 30.0)):  # a thinner edge is not one
        found = fringe_phase("multislice", 2, 30.0, n_slices=4, edge_slice_thickness=edge)
        assert found == pytest.approx(rate * (first + 2 * 30.0), rel=1e-9)
    rng = np.random.default_rng(1)
    obj = np.exp(1j * rng.uniform(0, 0.3, (*SHAPE, 4, 1)))
    for method, gaps in (
        ("multislice", 3),
        ("angular_spectrum", 3),
        ("better_multislice", 4),
        ("yoshida", 4),
    ):
        common = {"obj": obj, "slice_distances": [20.0]}
        edge = pattern(method, 4, **common, edge_slice_thickness=35.0)
        apart = pattern(method, 4, **{**common, "slice_distances": [35.0, *[20.0] * (gaps - 1)]})
        np.testing.assert_allclose(edge, apart, rtol=1e-12, atol=1e-12 * COUNTS)
        assert np.linalg.norm(edge - pattern(method, 4, **common)) > 1e-3 * np.linalg.norm(edge)


def powers(transmission: np.ndarray, power: float) -> np.ndarray:
    return np.abs(transmission) ** power * np.exp(1j * power * np.angle(transmission))


BAND = 0.7
"""A band limit that acts on the waves of :func:`absorbing`."""


def absorbing(method: str, tilts: str, **changes: Any) -> dict[str, Any]:
    """Slices that differ, individual distances, three patterns of one window. ``tilts``: none, of all, or of each."""
    rng = np.random.default_rng(2)
    obj = rng.uniform(0.5, 1, (*SHAPE, 3, 1)) * np.exp(1j * rng.uniform(-1, 1, (*SHAPE, 3, 1)))
    rows = rng.normal(0, 8e-3, (3, 6))
    given = {"none": None, "of all": rows[:1], "of each": rows}[tilts]
    return sliced(
        method,
        3,
        obj=obj,
        positions=np.zeros((3, 2)),
        slice_distances=np.array([25.0, 40.0, 15.0]),
        damping_cutoff_multislice=BAND,
        tilts=given,
        **changes,
    )


TILTS = ("none", "of all", "of each")


@pytest.mark.parametrize("tilts", TILTS)
@pytest.mark.parametrize("method", ["better_multislice", "yoshida", "angular_spectrum"])
def test_steps_by_hand(method: str, tilts: str):
    """Against the formulas written out. Positions are whole: patterns share a wave until their tilts part them."""
    params = absorbing(method, tilts)
    found = pypty.simulate(params)
    q2 = squared_frequencies()
    qy, qx = (np.fft.fftfreq(n, pixel) for n, pixel in zip(SHAPE, PIXELS_A, strict=True))
    limit = BAND * min(np.fft.fftfreq(n, p).max() for n, p in zip(SHAPE, PIXELS_A, strict=True))
    inside = q2 < limit**2
    for j in range(3):
        ty, tx = (0.0, 0.0) if tilts == "none" else params["tilts"][j if tilts == "of each" else 0, 2:4]
        rate = phase_rate(method == "angular_spectrum") - 2 * np.pi * (qy[:, None] * ty + qx * tx)
        wave = narrow_probe()
        for z, distance in enumerate(params["slice_distances"]):
            plane = params["obj"][:, :, z, 0]

            def along(
                fraction: float, wave: np.ndarray, distance: float = distance, rate: np.ndarray = rate
            ) -> np.ndarray:
                return np.fft.ifft2(np.fft.fft2(wave) * np.exp(1j * rate * fraction * distance) * inside)

            def through(fraction: float, wave: np.ndarray, plane: np.ndarray = plane) -> np.ndarray:
                return powers(plane, fraction) * wave

            if method == "angular_spectrum":
                wave = through(1, wave)
                wave = along(1, wave) if z < 2 else wave
            elif method == "better_multislice":
                halves = along(0.5, through(0.5, along(0.5, through(0.5, wave))))
                turned = through(0.5, along(0.5, through(0.5, along(0.5, wave))))
                whole = along(1, through(1, wave)) + through(1, along(1, wave))
                wave = 2 / 3 * (halves + turned) - whole / 6
            else:
                outer = 1 / (2 - 2 ** (1 / 3))
                for step in (outer, 1 - 2 * outer, outer):  # three leapfrog steps, the middle one backwards
                    wave = through(step / 2, along(step, through(step / 2, wave)))
        expected = np.fft.fftshift(np.abs(np.fft.fft2(wave)) ** 2 * inside)
        np.testing.assert_allclose(found[j], expected, rtol=1e-9, atol=1e-9 * expected.max())
    if tilts != "none":
        assert np.linalg.norm(found - pypty.simulate({**params, "tilts": None})) > 0.01 * np.linalg.norm(
            found
        )
    if tilts == "of each":
        assert np.linalg.norm(found[0] - found[1]) > 0.01 * np.linalg.norm(found[0])


@pytest.mark.parametrize("tilts", TILTS)
@pytest.mark.parametrize("method", ["multislice", "angular_spectrum", "better_multislice", "yoshida"])
def test_gradients(method: str, tilts: str):
    """Of object, probe, distances and tilts, by finite differences."""
    rng = np.random.default_rng(4)
    data = rng.exponential(COUNTS / np.prod(SHAPE), (3, *SHAPE))
    params = absorbing(method, tilts, dataset=data, update_slice_distances=True, update_tilts=tilts != "none")
    if method in ("multislice", "angular_spectrum"):
        params["slice_distances"] = params["slice_distances"][:2]
    gradients = pypty.evaluate({**params, "compute_batch": 2}).gradients
    blocks = {"obj": 1e-6, "probe": 1e-7, "slice_distances": 1e-4}
    blocks.update({"tilts": 1e-7} if tilts != "none" else {})
    assert set(gradients) == set(blocks)
    for block, step in blocks.items():
        change = random_like(rng, params[block])

        def loss(t: float, block: str = block, change: np.ndarray = change) -> float:
            return pypty.evaluate({**params, block: params[block] + t * change}).loss

        slope = directional_derivative(loss, step)
        assert inner(gradients[block], change) == pytest.approx(slope, rel=1e-6), block


@pytest.mark.parametrize("method", ["better_multislice", "yoshida"])
def test_the_last_slice_has_the_last_distance(method: str):
    """One distance less than slices is enough; one for all is the same as equal ones."""
    image = {"recon_type": "near_field", "defocus_array": [10.0]}
    fewer = pattern(method, 3, slice_distances=[25.0, 40.0], **image)
    all_given = pattern(method, 3, slice_distances=[25.0, 40.0, 40.0], **image)
    np.testing.assert_allclose(fewer, all_given, rtol=1e-12)
    thicker = pattern(method, 3, slice_distances=[25.0, 40.0, 80.0], **image)
    assert np.linalg.norm(fewer - thicker) > 1e-3 * np.linalg.norm(fewer)
    one = pattern(method, 3, slice_distances=[40.0], **image)
    np.testing.assert_allclose(one, pattern(method, 3, slice_distances=[40.0] * 3, **image), rtol=1e-12)
