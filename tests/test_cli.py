"""The command line as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from problems import patterns, scan_positions, small_params, write_preset

import pypty
from pypty.cli import main
from pypty.doctor import examine


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    """A parameter file with its arrays beside it."""
    return write_preset(tmp_path, epoch_max=2)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == f"pypty {pypty.__version__}"


def test_python_m_pypty() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pypty", "--version"], capture_output=True, text=True, check=True
    )
    assert pypty.__version__ in done.stdout


def test_run_check_plan_resume(preset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(preset)]) == 0
    assert "usable" in capsys.readouterr().out
    assert main(["plan", str(preset)]) == 0
    assert "total" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert main(["run", str(preset)]) == 0
    assert "2 epochs" in capsys.readouterr().out
    data = {"file": str(preset.parent / "dataset.npy")}
    arguments = ["run", str(tmp_path / "out"), "--resume", "--set", "epoch_max=4", "--set", f"dataset={data}"]
    assert main(arguments) == 0
    assert "4 epochs" in capsys.readouterr().out


def test_quality_of_a_folder(preset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counted = np.random.default_rng(0).poisson(patterns())
    np.save(tmp_path / "counts.npy", counted)
    out, data = str(tmp_path / "out"), f"dataset={{'file': '{tmp_path / 'counts.npy'}'}}"
    # a run ends with the level of its verdict
    assert main(["run", str(preset), "--set", "print_flag=1", "--set", data]) == 0
    lines = capsys.readouterr().out.rstrip().splitlines()
    assert lines[-1].startswith("Fit: ") and "fit: " in lines[-2] and lines[-3].startswith("Fit: ")
    assert main(["quality", out, "--set", data]) == 0
    assert capsys.readouterr().out.startswith("Fit: ")
    assert main(["quality", out, "--set", data, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["level"] in ("good", "doubtful", "bad") and found["fit"]["ratio"] > 0
    assert len(found["fit"]["pattern_ratio"]) == len(counted)
    # silent where the run is
    assert main(["run", str(preset), "--overwrite"]) == 0
    assert "Fit:" not in capsys.readouterr().out
    assert main(["quality", str(tmp_path / "nothing")]) == 1


def test_problems_are_listed_and_status_is_1(preset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(preset), "--set", "epoch_maxx=3", "--set", "algorithm=none"]) == 1
    out = capsys.readouterr().out
    assert "epoch_max" in out and "algorithm" in out
    assert main(["run", str(preset), "--set", "hist_length=-1"]) == 1
    assert "hist_length" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["run", "nothing.yaml"], "no parameter file"),
        (["run", "mos2_demo", "--resume"], "output_folder is empty"),
        (["check", "mos2_demo", "--set", "epoch_max"], "KEY=VALUE"),
        (["explain", "epoch_mx"], "epoch_max"),
    ],
)
def test_wrong_arguments(arguments: list[str], fragment: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    assert fragment in capsys.readouterr().err


def test_explain_tells_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "slice_distances"]) == 0
    out = capsys.readouterr().out
    for word in ("Gap after each slice", "default", "Å", "fixed", "two slices or more"):
        assert word in out


def test_doctor_says_why_no_gpu(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pypty.backend.array.cupy_module", lambda: None)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "CuPy is not installed" in out and "cores" in out and "Fourier transforms: " in out


def test_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    assert "Use when" in capsys.readouterr().out


def test_check_looks_into_tune(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs ignore the key, but a search with a mistake in it should not have to be started to find out."""
    np.save(tmp_path / "data.npy", patterns())
    np.save(tmp_path / "positions.npy", scan_positions())
    text = f"data_path: {tmp_path / 'data.npy'}\npositions: {{file: positions.npy}}\ntune: "
    (tmp_path / "good.yaml").write_text(text + "{parameters: {C10: [-50, 50]}}")
    (tmp_path / "bad.yaml").write_text(text + "{n_trial: 3, parameters: {C10: [-50, 50]}}")
    assert main(["check", str(tmp_path / "good.yaml")]) == 0
    assert main(["check", str(tmp_path / "bad.yaml")]) == 1
    assert "n_trials" in capsys.readouterr().out


def test_running_a_folder_again_needs_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pypty.cli import main

    folder = tmp_path / "out"
    pypty.run(small_params(output_folder=str(folder), epoch_max=2, strip_dataset_from_params=False))
    before = (folder / "loss.csv").read_text()
    assert main(["run", str(folder)]) == 1
    assert "holds a result of 2 epochs; continue it with resume=True (--resume)" in capsys.readouterr().err
    assert (folder / "loss.csv").read_text() == before


def test_numbers_on_the_command_line_are_read_as_in_files(capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", "mos2_demo", "--set", "min_step=1e-3"])
    assert "min_step" not in capsys.readouterr().out


def test_the_doctor_tells_versions_cores_and_transforms() -> None:
    text = examine()
    assert text.startswith(f"PyPty {pypty.__version__} on Python ")
    assert "numpy       2." in text or "numpy       1." in text
    assert " cores for this process, " in text and "Fourier transforms: " in text
    assert any(line.startswith("GPU: ") for line in text.splitlines())


def test_the_doctor_tries_sums_over_two_processes() -> None:
    (line,) = [line for line in examine().splitlines() if " processes over " in line]
    assert "2 processes over sockets between the processes of this machine: sums are right; " in line
    assert "GB/s there" in line and "GB/s back" in line


def test_plan_tells_whether_ranks_are_worth_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "data.npy", patterns())
    np.save(tmp_path / "positions.npy", scan_positions())
    file = tmp_path / "params.yaml"
    file.write_text(f"data_path: {tmp_path / 'data.npy'}\npositions: {{file: positions.npy}}\nn_threads: 1")
    assert main(["plan", str(file), "--ranks", "2"]) == 0
    out = capsys.readouterr().out
    assert "Memory plan of rank 0 of 2" in out and "efficiency" in out and "worth it" in out
    assert main(["plan", str(file), "--ranks", "26"]) == 1
    assert "25 patterns" in capsys.readouterr().err
    assert main(["plan", str(file), "--ranks", "0"]) == 1
    assert "given 0, expected a whole number >= 1" in capsys.readouterr().err


def test_the_package_runs_as_a_module(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """python -m pypty"""
    monkeypatch.setattr(sys, "argv", ["pypty", "doctor"])
    with pytest.raises(SystemExit) as ended:
        import pypty.__main__  # noqa: F401
    assert ended.value.code == 0 and "Fourier transforms" in capsys.readouterr().out


def test_every_name_that_the_package_lists_can_be_loaded() -> None:
    for name in dir(pypty):
        assert getattr(pypty, name) is not None, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pypty.nothing  # noqa: B018
