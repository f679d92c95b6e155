"""The rotation between scan and detector: closed form, sign, half turn."""

from __future__ import annotations

import logging

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pypty.demo import demo_data
from pypty.direct_methods.numerics.com import centres_of_mass
from pypty.direct_methods.numerics.rotation import attraction, curl_std, rotation_from_com
from pypty.errors import DataError
from pypty.experiment import Experiment
from pypty.initialize import append_exp_params
from pypty.initialize.rotation import measure_rotation
from pypty.optics.scan_grid import rotation_yx


def com_of_atoms(
    shape: tuple[int, int], angle_deg: float, sign: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient of the phase of some Gaussian atoms, as seen on a detector that is turned by ``angle_deg``."""
    rng = np.random.default_rng(3)
    y, x = np.indices(shape).astype(float)
    field = np.zeros((2, *shape))
    for y0, x0 in rng.uniform(0, 1, (12, 2)) * np.array(shape):
        bump = sign * np.exp(-((y - y0) ** 2 + (x - x0) ** 2) / (2 * 1.6**2))
        field += np.stack([-(y - y0) * bump, -(x - x0) * bump]) / 1.6**2
    seen = np.einsum("ij,jyx->iyx", rotation_yx(angle_deg), field)
    return seen[0], seen[1]


@settings(max_examples=30, deadline=None)
@given(angle=st.floats(-180, 180), rows=st.integers(20, 30), columns=st.integers(20, 40))
def test_angle_of_a_turned_gradient_field(angle: float, rows: int, columns: int) -> None:
    found = rotation_from_com(*com_of_atoms((rows, columns), angle))
    assert abs((found - angle + 180) % 360 - 180) < 0.5
    assert -180 < found <= 180


def test_the_closed_form_is_the_minimum_of_the_curl() -> None:
    rng = np.random.default_rng(0)
    y, x = com_of_atoms((17, 23), 40.0)
    y, x = y + 0.05 * rng.standard_normal(y.shape), x + 0.05 * rng.standard_normal(x.shape)
    found = rotation_from_com(y, x)
    scan = np.linspace(-180, 180, 7201)
    values = np.array([curl_std(a, y, x) for a in scan])
    assert curl_std(found, y, x) <= values.min() * (1 + 1e-12)
    nearest = scan[values.argmin()]
    assert abs((found - nearest + 90) % 180 - 90) < 0.05


def test_atoms_that_repelled_the_beam_would_give_half_a_turn() -> None:
    found = rotation_from_com(*com_of_atoms((24, 24), 30.0, sign=-1.0))
    assert abs(found + 150) < 0.5
    y, x = com_of_atoms((24, 24), 30.0)
    assert attraction(y, x, 30.0) > 0.5
    assert attraction(y, x, 210.0) == pytest.approx(-attraction(y, x, 30.0))
    assert attraction(np.zeros((4, 4)), np.zeros((4, 4)), 0.0) == 0


@pytest.mark.parametrize(
    ("y", "x"),
    [
        (np.zeros((2, 5)), np.zeros((2, 5))),
        (np.zeros((5, 5)), np.zeros((5, 6))),
        (np.full((5, 5), np.nan), np.zeros((5, 5))),
    ],
)
def test_maps_that_give_no_angle(y: np.ndarray, x: np.ndarray) -> None:
    with pytest.raises(DataError, match="centres of mass"):
        rotation_from_com(y, x)


def test_centres_count_from_the_zero_frequency() -> None:
    data = np.zeros((4, 6, 7))
    data[0, 3, 3] = 5
    data[1, 4, 1] = 2
    data[2, 0, 0], data[2, 2, 6] = 1, 3
    found = centres_of_mass([(np.arange(2), data[:2]), (np.arange(2, 4), data[2:])], (4, 6, 7))
    np.testing.assert_allclose(found[:3], [[0, 0], [1, -2], [0.75 * -1 + 0.25 * -3, 0.75 * 3 - 0.75]])
    np.testing.assert_allclose(found[3], found[:3].mean(axis=0))  # no counts
    mask = np.ones((6, 7))
    mask[0] = 0
    masked = centres_of_mass([(np.arange(4), data)], (4, 6, 7), mask)
    np.testing.assert_allclose(masked[2], [-1, 3])
    per_pattern = np.broadcast_to(mask, (4, 6, 7))
    np.testing.assert_allclose(centres_of_mass([(np.arange(4), data)], (4, 6, 7), per_pattern), masked)
    shifted = centres_of_mass([(np.arange(4), data)], (4, 6, 7), origin=(0, 0))
    np.testing.assert_allclose(shifted[0], [3, 3])


def test_wrong_patterns_for_centres() -> None:
    data = np.ones((3, 4, 4))
    with pytest.raises(DataError, match="1 of 3"):
        centres_of_mass([(np.arange(2), data[:2])], (3, 4, 4))
    with pytest.raises(DataError, match="expected"):
        centres_of_mass([(np.arange(3), data)], (3, 4, 5))
    with pytest.raises(DataError, match="mask"):
        centres_of_mass([(np.arange(3), data)], (3, 4, 4), np.ones((2, 2)))


def turned_by_90(patterns: np.ndarray) -> np.ndarray:
    """The detector turned so that PLRotation_deg grows by 90: y' = x, x' = -y."""
    n = patterns.shape[-1]
    i, j = np.indices((n, n))
    return patterns[:, (n - j) % n, i]


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_auto_finds_the_rotation_of_the_demo_data(turns: int, caplog: pytest.LogCaptureFixture) -> None:
    """MoS2 with an overfocus of 100 Å, whose probe is wider than the distance of the atoms."""
    with h5py.File(demo_data()) as file:
        data, attributes = file["data"][()], dict(file.attrs)
    for _ in range(turns):
        data = turned_by_90(data)
    with caplog.at_level(logging.INFO, logger="pypty"):
        params = append_exp_params(
            {
                "dataset": data,
                "acc_voltage": float(attributes["voltage_kV"]),
                "conv_semiangle_mrad": float(attributes["semiangle_mrad"]),
                "scan_size": attributes["scan_shape"],
                "scan_step_A": float(attributes["scan_step_A"]),
                "defocus": float(attributes["C10_A"]),
            }
        )
    assert abs((params["PLRotation_deg"] - 90 * turns + 180) % 360 - 180) < 2
    assert "in register" in caplog.text
    assert params["comx"].shape == params["comy"].shape == (1024,)
    assert abs(params["comx"].mean()) < 1e-12


def test_an_unknown_half_turn_is_said(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(1)
    append_exp_params(
        {
            "dataset": rng.poisson(3, (6, 5, 12, 12)),
            "acc_voltage": 80,
            "rez_pixel_size_A": 0.1,
            "scan_step_A": 0.5,
            "bright_threshold": 0.5,
        }
    )
    assert "hardly distinguish" in caplog.text


def test_a_measured_rotation_says_where_the_centres_are_and_whether_it_is_sure() -> None:
    """A disk that follows the gradient of a bump: the field of an atom, with little defocus."""
    y, x = np.mgrid[:12, :12] - 5.5
    pull = -3 * np.exp(-(y**2 + x**2) / 18)
    rows, columns = np.mgrid[:24, :24] - 12
    data = np.empty((12, 12, 24, 24), np.float32)
    for i in range(12):
        for j in range(12):
            centre = pull[i, j] * y[i, j] / 3, pull[i, j] * x[i, j] / 3
            data[i, j] = 1 / (1 + np.exp(2 * (np.hypot(rows - centre[0], columns - centre[1]) - 6)))
    given = {"dataset": data, "acc_voltage": 80.0, "rez_pixel_size_mrad": 2.0, "scan_step_A": 0.5}
    found = measure_rotation(Experiment.from_params(given))
    assert found.centres.shape == (144, 2) and found.angle_deg == pytest.approx(0, abs=1)
    np.testing.assert_allclose(found.centres[0], [pull[0, 0] * y[0, 0] / 3] * 2, atol=0.1)
    turned = measure_rotation(Experiment.from_params({**given, "dataset": data[..., ::-1, ::-1]}))
    assert (turned.angle_deg - 180) % 360 == pytest.approx(0, abs=1) or turned.angle_deg == pytest.approx(
        180, abs=1
    )
