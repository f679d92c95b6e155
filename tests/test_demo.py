"""The demo reconstructs MoS2 to the quality that its dose allows, and draws what it promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pypty
from pypty.cli import main
from pypty.demo import agreement_with_truth, demo_params
from pypty.quality import phase_agreement


@pytest.mark.nightly
def test_demo_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same in every run of CI: .ci/run looks at what the README's command prints and writes."""
    assert main(["demo", "--output", str(tmp_path / "demo")]) == 0
    out, err = capsys.readouterr()
    correlation = float(out.split("known truth: ")[1].split()[0])
    assert correlation > 0.987, "as in .ci/run"
    assert "stuck" not in err, "a large constant in the likelihood is no reason"
    for name in ("object_phase", "probe", "loss", "positions", "patterns", "overview"):
        image = (tmp_path / "demo" / f"{name}.png").read_bytes()
        assert image.startswith(b"\x89PNG") and len(image) > 5000


def test_few_epochs_reach_the_truth() -> None:
    """Without padding: four epochs, of which two are of mini-batches, give a correlation above 0.975."""
    params = demo_params(
        "", data_pad=0, damping_cutoff_multislice=1.0, epoch_max=4, print_flag=0, algorithm="lsq_sqrt"
    )
    pixel = 0.278827193942933
    scale = params["pixel_size_x_A"] / pixel
    params.update(pixel_size_x_A=pixel, pixel_size_y_A=pixel, positions=params["positions"] * scale)
    result = pypty.run(params)
    assert agreement_with_truth(result).correlation > 0.975
    assert result.loss[-1] < 0.85 * result.loss[0]


def test_agreement_ignores_offset_ramp_and_shift_but_not_noise() -> None:
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:60, :60]
    truth = np.sin(2 * np.pi * x / 9) * np.cos(2 * np.pi * y / 7)
    area = np.array([[4.0, 4.0], [14.0, 14.0]])
    moved = np.roll(truth, (1, -1), axis=(0, 1)) * 2 + 0.3 + 0.01 * x - 0.02 * y
    found = phase_agreement(moved, 0.3, origin_A=np.zeros(2), truth=truth, truth_pixel_A=0.3, area_A=area)
    assert found.correlation > 0.999
    assert found.shift_A == pytest.approx((0.3, -0.3), abs=0.01)
    noisy = truth + rng.normal(size=truth.shape)
    assert (
        phase_agreement(
            noisy, 0.3, origin_A=np.zeros(2), truth=truth, truth_pixel_A=0.3, area_A=area
        ).correlation
        < 0.6
    )


def test_the_demo_with_other_padding_has_other_pixels(tmp_path: Path) -> None:
    from pypty.demo import demo_params

    assert demo_params(data_pad=0)["pixel_size_x_A"] == pytest.approx(0.278827, rel=1e-5)
    assert demo_params()["pixel_size_x_A"] == pytest.approx(0.278827 * 64 / 96, rel=1e-5)
    assert main(["demo", "--output", str(tmp_path), "--set", "output_folder=x"]) == 1
