"""Phase plates: one for each pattern, from a file."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from problems import N_PATTERNS, SIDE, small_params

import pypty
from pypty.errors import CheckpointError, ParameterError


def write_plates(path: Path, strength: float = 0.3) -> str:
    """Random phase plates for every pattern."""
    phase = np.random.default_rng(3).uniform(0, strength, (N_PATTERNS, SIDE, SIDE))
    with h5py.File(path, "w") as file:
        file["configs"] = np.exp(1j * phase)
    return path.name


def test_a_run_with_plates_resumes_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when their path was given relative to where the run began."""
    monkeypatch.chdir(tmp_path)
    params = small_params(phase_plate_in_h5=write_plates(tmp_path / "plates.h5"))
    once = pypty.run({**params, "epoch_max": 4})
    pypty.run({**params, "epoch_max": 2, "output_folder": "out"})
    np.testing.assert_array_equal(pypty.resume("out", epoch_max=4, dataset=params["dataset"]).loss, once.loss)


def test_other_plates_are_other_data(tmp_path: Path) -> None:
    params = small_params(output_folder=str(tmp_path / "out"), epoch_max=2)
    write_plates(tmp_path / "plates.h5")
    pypty.run({**params, "phase_plate_in_h5": str(tmp_path / "plates.h5")})
    write_plates(tmp_path / "plates.h5", 0.5)
    with pytest.raises(CheckpointError, match="other data"):
        pypty.run(
            {**params, "phase_plate_in_h5": str(tmp_path / "plates.h5"), "resume": True, "epoch_max": 3}
        )


def test_plates_with_nan_say_which(tmp_path: Path) -> None:
    path = tmp_path / "plates.h5"
    write_plates(path)
    with h5py.File(path, "a") as file:
        file["configs"][7, 2, 2] = np.nan
    with pytest.raises(ParameterError, match="plate of pattern 7"):
        pypty.evaluate(small_params(phase_plate_in_h5=str(path)))


def test_plates_give_the_number_of_patterns(tmp_path: Path) -> None:
    """A single shot: one position, many plates, no data."""
    write_plates(tmp_path / "plates.h5")
    found = pypty.simulate(
        small_params(
            dataset=..., positions=[[0.0, 0.0]], phase_plate_in_h5=str(tmp_path / "plates.h5"), obj=None
        )
    )
    assert found.shape == (N_PATTERNS, SIDE, SIDE)
