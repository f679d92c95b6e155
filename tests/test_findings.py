"""What a review of the physics found, held by a test each."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from problems import N_PATTERNS, SIDE, aperture_probe, patterns, small_params

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


@pytest.mark.parametrize("tilts", [{}, {"tilts": np.full((1, 6), 1e-9), "tilt_mode": 2}])
def test_the_starting_probe_has_no_background(tilts: dict) -> None:
    """Of data with a background of 25 counts in each pixel, and twice the beam."""
    background = {
        "static_background": np.full((SIDE, SIDE), 5.0),
        "beam_current": np.full(N_PATTERNS, np.sqrt(2.0)),
    }
    plain = pypty.run(small_params(probe=None, epoch_max=0)).probe
    found = pypty.run(
        small_params(probe=None, epoch_max=0, dataset=2 * patterns() + 25, **background, **tilts)
    ).probe
    np.testing.assert_allclose(found, plain, atol=1e-9 * np.abs(plain).max())


def test_an_upsampled_window_is_a_larger_field() -> None:
    """The given probe keeps its width in pixels: a reciprocal pixel is divided, the real one stays."""

    def width(probe: np.ndarray) -> float:
        power = (np.abs(probe) ** 2).sum(axis=(2,))
        x = np.arange(len(power)) - len(power) // 2
        return float(np.sqrt((power * x[:, None] ** 2).sum() / power.sum()))

    given = aperture_probe(0.5)
    found = pypty.run(
        small_params(probe=given, upsample_pattern=2, epoch_max=0, skip_preprocessing=True)
    ).probe
    assert found.shape[:2] == (2 * SIDE, 2 * SIDE)
    assert width(found) == pytest.approx(width(given), rel=1e-6)


@pytest.mark.parametrize(
    "by_hand",
    [{"apply_gaussian_filter": [1.0, 1.0]}, {"do_charge_flip": "epoch == 2", "cf_delta_phase": 0.3}],
)
def test_changes_by_hand_keep_the_amplitude_of_a_phase_object(by_hand: dict) -> None:
    result = pypty.run(small_params(phase_only_obj=True, epoch_max=4, **by_hand))
    np.testing.assert_allclose(np.abs(result.obj), 1, atol=1e-12)
    assert np.angle(result.obj).std() > 1e-3


def test_the_form_of_what_is_not_refined_does_not_matter(caplog: pytest.LogCaptureFixture) -> None:
    """Nor does the shape of a regulariser that is off."""
    params = small_params(epoch_max=5, atv_weight=1e-3)
    idle = {
        "positions_parametrization": "'affine' if epoch > 2 else 'free'",
        "probe_mod_tol": "0.1 + 0.01*epoch",
    }
    with caplog.at_level("INFO", "pypty"):
        changed = pypty.run({**params, **idle})
    np.testing.assert_array_equal(changed.loss, pypty.run(params).loss)
    assert "history reset" not in caplog.text


def test_what_has_no_effect_is_told() -> None:
    report = pypty.check(
        small_params(defocus_array=[10.0], Cs=1e7, readout_noise=2.0, mean_pattern=patterns()[0])
    )
    assert report
    for key in ("defocus_array", "Cs", "readout_noise", "mean_pattern"):
        assert any(text.startswith(f"{key} has no effect") for text in report.warnings), key


def test_a_block_that_is_not_still_any_more_does_not_explain_a_stop() -> None:
    """Positions over a vacuum are told to be stuck in the first epochs; the reason for the end is another one."""
    result = pypty.run(
        small_params(
            update_obj="epoch >= 4",
            update_probe=False,
            update_probe_pos=True,
            epoch_max=400,
            default_dtype="single",
        )
    )
    assert any("'positions' is stuck" in text for text in result.warnings)
    assert "vacuum" not in result.stop_reason
    assert result.stop_reason.startswith("no step") and len(result.epochs) < 400
    assert not any(decision.startswith("epoch 4") for decision in result.decisions), "the object joined in"
