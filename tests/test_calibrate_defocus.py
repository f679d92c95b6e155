"""Defocus from tilt-corrected bright field."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

import pypty
from pypty.calibrate.defocus import defocus
from pypty.demo import demo_data
from pypty.errors import ParameterError

TRUE_C10_A = 104.0
"""The file's 100 Å at the entrance of the cell; the layer lies 4 Å below."""


@pytest.fixture(scope="module")
def params():
    with h5py.File(demo_data(), "r") as file:
        a = file.attrs
        return {
            "dataset": file["data"][()],
            "acc_voltage": float(a["voltage_kV"]),
            "scan_size": [int(n) for n in a["scan_shape"]],
            "scan_step_A": float(a["scan_step_A"]),
            "rez_pixel_size_A": 1 / float(a["window_A"]),
            "conv_semiangle_mrad": float(a["semiangle_mrad"]),
        }


def test_mos2(params):
    found = defocus(params)
    assert found.values["C10_A"] == pytest.approx(TRUE_C10_A, rel=0.05)
    assert found.values["defocus_A"] == -found.values["C10_A"]
    assert found.values["explained"] > 0.6
    assert f"C10 = {found.values['C10_A']:.4g} Å (overfocus)" in found.text and "little" not in found.text
    assert len(found.figure.axes) >= 3
    new = found.apply({**params, "extra_probe_defocus": 50.0})
    assert new["extra_probe_defocus"] == 0.0 and new["aberrations"].shape == (1,)
    assert pypty.check(new) is not None


def test_the_sign_of_defocus(params):
    """Patterns of the conjugate beam and object: transposing time turns overfocus into underfocus."""
    flipped = params["dataset"][:, ::-1, ::-1]
    flipped = np.roll(flipped, 1, axis=(1, 2))  # -k on the same grid, pixel n//2 stays
    found = defocus({**params, "dataset": flipped})
    assert found.values["C10_A"] == pytest.approx(-TRUE_C10_A, rel=0.06)
    assert "underfocus" in found.text


def test_rotation_and_positions(params):
    """Told a rotation of 20 degrees that is not there, it finds its way back and turns the positions."""
    positions = np.stack(np.meshgrid(np.arange(32.0), np.arange(32.0), indexing="ij"), -1).reshape(-1, 2)
    wrong = pypty.optics.scan_grid.rotation_yx(20.0)
    given = {**params, "PLRotation_deg": 20.0, "positions": positions @ wrong.T + [50.0, 50.0]}
    found = defocus(given, n_aberrations=3, fit_rotation=True)
    assert found.values["PLRotation_deg"] == pytest.approx(0.0, abs=0.5)
    assert found.values["C10_A"] == pytest.approx(TRUE_C10_A, rel=0.05)
    moved = found.params["positions"] - found.params["positions"].min(axis=0)
    assert np.abs(moved - positions).max() < 0.5
    assert set(found.values) >= {"C12a_A", "C12b_A"}


def test_noise_alone_is_said_to_explain_little(params):
    rng = np.random.default_rng(0)
    data = rng.poisson(20.0, (100, 64, 64)).astype(np.float32)
    found = defocus({**params, "dataset": data, "scan_size": (10, 10)})
    assert found.values["explained"] < 0.3 and "little" in found.text


def test_bad_input(params):
    with pytest.raises(ParameterError, match="n_aberrations"):
        defocus(params, n_aberrations=0)
    masks = np.ones((2, 64, 64))
    with pytest.raises(ParameterError, match="virtual"):
        defocus({**params, "masks": masks, "dataset": np.ones((1024, 2)), "algorithm": "lsq_compressed"})
