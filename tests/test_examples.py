"""Every example runs, and prints the number that it promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pypty.demo import agreement_with_truth
from pypty.nexus import load_nexus_params

EXAMPLES = Path(__file__).parents[1] / "examples"
Changes = tuple[tuple[str, str], ...]


def run_script(text: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def shortened(text: str, *changes: tuple[str, str]) -> str:
    """An example with fewer epochs: every line of it runs."""
    for before, after in changes:
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text


def code_of(name: str) -> str:
    """The code of a notebook."""
    notebook = json.loads((EXAMPLES / name).read_text())
    assert not any(cell.get("outputs") for cell in notebook["cells"])
    return "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")


def as_it_is(*values: object) -> object:
    """The example with all its epochs, with -m nightly."""
    return pytest.param((), *values, marks=pytest.mark.nightly, id="as it is")


def with_fewer(changes: Changes, *values: object) -> object:
    return pytest.param(changes, *values, id="fewer epochs")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "at_least"), [with_fewer((("epoch_max=20", "epoch_max=4"),), 0.978), as_it_is(0.978)]
)
def test_mos2(changes: Changes, at_least: float, tmp_path: Path) -> None:
    out = run_script(shortened((EXAMPLES / "mos2.py").read_text(), *changes), tmp_path)
    assert float(out.split("truth: ")[1]) > at_least
    assert (tmp_path / "mos2_result" / "overview.png").exists()


@pytest.mark.slow
def test_simulate_and_refine(tmp_path: Path) -> None:
    out = run_script((EXAMPLES / "simulate_and_refine.py").read_text(), tmp_path)
    before, after = (float(out.split("positions: ")[1].split(" px")[i].split()[-1]) for i in (0, 1))
    assert after < 0.1 * before
    distance = float(out.split("before, ")[2].split(" Å after")[0])
    assert distance == pytest.approx(60.0, abs=1.0)


@pytest.mark.slow
def test_focal_series(tmp_path: Path) -> None:
    out = run_script((EXAMPLES / "focal_series.py").read_text(), tmp_path)
    assert float(out.split("truth: ")[1]) > 0.99
    assert (tmp_path / "focal_series.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "at_least"),
    [
        with_fewer((("epoch_max=10", "epoch_max=2"), ('"epoch_max": 20', '"epoch_max": 4')), 0.975),
        as_it_is(0.975),
    ],
)
def test_notebook(changes: Changes, at_least: float, tmp_path: Path) -> None:
    out = run_script(shortened(code_of("quickstart.ipynb"), *changes), tmp_path)
    assert float(out.split("truth: ")[1]) > at_least


@pytest.mark.slow
def test_an_old_notebook(tmp_path: Path) -> None:
    """The way of a script for PyPty 2.2, to the figure and to NeXus."""
    out = run_script(code_of("pypty22_tutorial.ipynb"), tmp_path)
    assert "NeXus file: 80.0 kV" in out
    folder = tmp_path / "pypty22_result"
    assert (folder / "result.png").is_file()
    obj, probe, positions = (np.load(folder / name) for name in ("co.npy", "cp.npy", "cg.npy"))
    pixel = float(load_nexus_params(folder / "result.nxs")["pixel_size_x_A"])
    phase = np.angle(obj).sum(axis=2)[:, :, 0]
    result = SimpleNamespace(phase=phase, probe=probe, positions=positions, pixel_size_A=[pixel, pixel])
    assert agreement_with_truth(result).correlation > 0.975  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "adam_epochs", "at_least"),
    [
        with_fewer((("ADAM_EPOCHS = 8", "ADAM_EPOCHS = 4"), ("epoch_max=30", "epoch_max=8")), 4, 0.97),
        as_it_is(8, 0.988),
    ],
)
def test_notebook_adam_then_lbfgs(
    changes: Changes, adam_epochs: int, at_least: float, tmp_path: Path
) -> None:
    """L-BFGS improves on what Adam ends with, for the truth and for the patterns that are held out."""
    out = run_script(shortened(code_of("adam_then_lbfgs.ipynb"), *changes), tmp_path)
    after_adam, at_the_end = (float(out.split(text)[1].split()[0]) for text in ("after Adam: ", "truth: "))
    assert at_the_end > max(after_adam, at_least)
    rows = [line.split() for line in out.splitlines() if line.split()[1:2] in (["adam"], ["lbfgs"])]
    held_out = {int(epoch): float(last) for epoch, *_, last in rows}
    assert len(rows) > 1.5 * adam_epochs
    assert rows[adam_epochs - 1][1] == "adam" and rows[adam_epochs][1] == "lbfgs"
    assert held_out[len(rows) - 1] < held_out[adam_epochs - 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "at_least"), [with_fewer((('"epoch_max": 20', '"epoch_max": 4'),), 0.978), as_it_is(0.978)]
)
def test_notebook_from_a_raw_file(changes: Changes, at_least: float, tmp_path: Path) -> None:
    """Import, calibrate, seed, check, reconstruct: the start is a picture already, the end is what the dose allows."""
    out = run_script(shortened(code_of("from_a_raw_file.ipynb"), *changes), tmp_path)
    assert "flip_ky = True" in out
    assert float(out.split("start: ")[1].split()[0]) > 0.65
    assert float(out.split("truth: ")[1]) > at_least
