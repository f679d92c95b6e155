"""Half a turn, defocus and thickness of a thick crystal, simulated without the model that fits it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from calibration_data import demo_scan, transformed
from preset_data import strontium_titanate

from pypty.calibrate import everything, specimen
from pypty.errors import DataError, ParameterError

CELLS, CELL_A = 24, 3.905
THICKNESS_A = CELLS * CELL_A
MIDDLE_A = -150.0 + 0.5 * THICKNESS_A


@pytest.fixture(scope="module")
def crystal() -> dict[str, Any]:
    """94 Å of SrTiO3, underfocus 150 Å; what an experimenter knows of it."""
    data = strontium_titanate(CELLS).params["dataset"]
    return {
        "dataset": data,
        "acc_voltage": 300.0,
        "scan_size": [12, 12],
        "scan_step_A": 0.8,
        "conv_semiangle_mrad": 25.0,
        "rez_pixel_size_A": 1 / (4 * CELL_A),
        "n_threads": 1,
    }


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [False, True])
def test_half_a_turn_defocus_and_thickness(crystal, wrong):
    """The weak-phase fit, half a turn from the truth, has the other sign, too."""
    params = {**crystal, "PLRotation_deg": 180.0 if wrong else 0.0}
    if not wrong:
        params["total_thickness"] = THICKNESS_A
    found = specimen(params)
    print(found, dict(found.values))
    assert abs(found.params["PLRotation_deg"]) < 1e-9 and found.values["half_turn"] is wrong
    assert found.values["margin"] > 1.04 and "UNSURE" not in found.text
    assert found.values["C10_middle_A"] == pytest.approx(MIDDLE_A, rel=0.07)
    assert found.values["thickness_A"] == pytest.approx(THICKNESS_A, rel=0.25 if wrong else 1e-9)
    entrance = found.values["C10_middle_A"] - found.values["thickness_A"] / 2
    np.testing.assert_allclose(found.params["aberrations"], [entrance])
    gap = found.params["slice_distances"][0]
    assert found.params["num_slices"] * gap == pytest.approx(found.values["thickness_A"])
    assert gap <= found.values["depth_of_focus_A"] / 2
    assert len(found.figure.axes) >= 3
