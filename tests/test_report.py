"""report.html, and the commands that tell how right a result is."""

from __future__ import annotations

import argparse
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from problems import counts, small_params

import pypty
from pypty.cli import main
from pypty.plots.html_page import cards, document, headline, paragraphs, parameters, preformatted, table
from pypty.refits.command import add_resolution
from pypty.refits.reopen import at_the_end, at_the_start
from pypty.report_page import REPORT, _result, report
from pypty.trust.measure import reopened as reopened_run


def params(**changes: Any) -> dict[str, Any]:
    given = {"dataset": counts(), "algorithm": "ml", "output_folder": "", "epoch_max": 4, "scan_size": (5, 5)}
    return small_params(**{**given, **changes})


@lru_cache
def result() -> pypty.Result:
    return pypty.run(params(sample_name="a <sheet> of MoS2"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder whose data are in a file, with free pixels."""
    place = tmp_path_factory.mktemp("runs")
    np.save(place / "data.npy", counts())
    for name, epochs in (("result", 6), ("shorter", 1)):
        given = params(dataset=..., data_path=str(place / "data.npy"), output_folder=str(place / name))
        pypty.run({**given, "epoch_max": epochs, "free_pixels": 0.1})
    return place / "result"


def test_the_page_has_everything(tmp_path: Path) -> None:
    found = pypty.uncertainty(result(), repeats=0)
    page = report(result(), tmp_path / "page.html", also=(found,)).read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>") and page.count("<h1>") == 1
    assert "Reconstruction: a &lt;sheet&gt; of MoS2" in page and "<sheet>" not in page
    assert f'<div class="verdict {result().verdict.level}">Fit: ' in page
    for title in ("Deviance in units of its expectation", "Further tests", "Figures", "Pre-flight",
                  "Parameters that differ from the defaults", "Versions"):  # fmt: skip
        assert f"<h2>{title}</h2>" in page, title
    assert "noise only, not model error" in page and f"{result().verdict.fit.ratio:.4f}" in page
    # overview, fit, convergence, error bars; no other file is needed
    assert page.count('src="data:image/png;base64,') >= 4 and not re.search(r'(src|href)="http', page)
    assert "algorithm: ml" in page and "dataset: array (25, 16, 16) uint16" in page
    assert f"pypty {pypty.__version__}" in page and f"numpy {np.__version__}" in page
    assert "it stopped: epoch_max = 4 was reached" in page


def test_of_a_folder(folder: Path) -> None:
    path = report(folder, preflight=False)
    assert path == folder / REPORT
    page = path.read_text(encoding="utf-8")
    assert "convergence: 6 epochs" not in page and "How the reconstruction has converged" in page
    assert "free_pixels: 0.1" in page


def test_a_folder_gives_the_page_of_its_run(tmp_path: Path) -> None:
    """Verdict, decisions, moved positions and norms."""
    given = params(
        output_folder=str(tmp_path), strip_dataset_from_params=False, update_probe_pos=True, epoch_max=3
    )
    run = pypty.run(given)
    reopened = reopened_run({**at_the_end(tmp_path), "dataset": counts()})
    (tmp_path / "history.jsonl").write_text(
        (tmp_path / "history.jsonl")
        .read_text()
        .replace('"decisions": []', '"decisions": ["it was decided"]', 1)
    )
    with h5py.File(tmp_path / "resume.h5", "r+") as file:
        file.attrs["history_bytes"] = (tmp_path / "history.jsonl").stat().st_size
    back = _result(tmp_path, reopened, {"dataset": counts()})
    reopened.setup.close()
    assert back.verdict.level == run.verdict.level and back.settings["epoch_prev"] == 0
    assert "epoch 0: it was decided" in back.decisions
    np.testing.assert_allclose(back.start_positions, run.start_positions)
    assert np.abs(back.positions - back.start_positions).max() > 0
    np.testing.assert_array_equal(back.history.gradient_norms["obj"], run.history.gradient_norms["obj"])


def test_a_result_that_was_not_judged_is_judged(tmp_path: Path) -> None:
    plain = pypty.run(params(verdict="none"))
    assert plain.verdict.level == "not tested"
    page = report(plain, tmp_path / "page.html", preflight=False).read_text(encoding="utf-8")
    assert '<div class="verdict untested">' not in page and "Deviance in units" in page


def test_public_names_are_functions_however_often_they_are_used() -> None:
    """A module of the same name would take the place of the function when it is imported."""
    for _ in range(2):
        assert all(callable(getattr(pypty, name)) for name in pypty.__all__ if name != "__version__")
    modules = {path.stem for path in Path(pypty.__file__).parent.iterdir()} - {"preflight"}
    assert not modules & set(pypty.__all__)


def test_it_is_written_here_without_a_folder_and_without_pre_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = report(result(), preflight=False)
    assert page.resolve() == tmp_path / REPORT
    assert "Pre-flight" not in page.read_text(encoding="utf-8")


def test_parts_of_a_page_are_escaped_and_left_out_if_empty() -> None:
    assert headline("<b>", "bad") == '<div class="verdict bad">&lt;b&gt;</div>'
    assert paragraphs("T", []) == preformatted("T", "") == table("T", ["a"], []) == cards([]) == ""
    assert parameters({}) == ""
    assert paragraphs("T", ["<i>"]) == "<h2>T</h2><ul><li>&lt;i&gt;</li></ul>"
    assert "<td>&lt;</td>" in table("T", ["a"], [["<"]]) and "<th>a</th>" in table("T", ["a"], [["<"]])
    assert "array (9,) float64" in parameters({"x": np.zeros(9)})
    assert "<title>A &amp; B</title>" in document("A & B", "sub", ["part"])


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def test_commands_of_a_folder(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    told = output(
        capsys, "uncertainty", str(folder), "--repeats", "2", "--epochs", "1", "--figure", str(picture)
    )
    assert "2 fits to drawn counts" in told and picture.stat().st_size > 1000
    assert "preview" in output(capsys, "uncertainty", str(folder), "--repeats", "0", "--lowpass", "0.5")
    told = output(capsys, "resolution", str(folder), "--halves", "scan", "--figure", str(picture))
    assert "every other scan position" in told and f"Figure: {picture}" in told
    told = output(capsys, "compare", str(folder), str(folder.parent / "shorter"))
    assert "deviance of a free pixel" in told
    told = output(capsys, "report", str(folder), "-o", str(tmp_path / "page.html"))
    assert told.strip() == f"Report: {tmp_path / 'page.html'}"
    assert "level" in json.loads(output(capsys, "quality", str(folder), "--json"))


def test_a_finished_run_is_opened_at_its_end_or_its_start(folder: Path) -> None:
    """Without files or output: of a result, a folder, or parameters."""
    end, start = at_the_end(folder), at_the_start(folder)
    assert end["epoch_prev"] == 6 and end["obj"].ndim == 4 and start.get("epoch_prev", 0) == 0
    assert end["output_folder"] == start["output_folder"] == "" and end["print_flag"] == 0
    assert at_the_end(result())["obj"] is not None and at_the_start(result()).get("obj") is None
    given = {"obj": 1, "print_flag": 3}
    assert at_the_end(given)["obj"] == at_the_start(given)["obj"] == 1 and given["print_flag"] == 3


def test_arguments_have_defaults() -> None:
    parser = argparse.ArgumentParser()
    add_resolution(parser)
    assert vars(parser.parse_args(["folder"])) == {
        "file": "folder",
        "seed": 0,
        "figure": None,
        "halves": "auto",
    }


def test_a_run_can_end_with_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "data.npy", counts())
    file = tmp_path / "run.yaml"
    file.write_text("acc_voltage: 80\npixel_size_x_A: 0.4\npixel_size_y_A: 0.4\nscan_size: [5, 5]\nscan_step_A: 0.8\n"
                    f"data_path: {tmp_path / 'data.npy'}\nepoch_max: 2\n"
                    f"output_folder: {tmp_path / 'out'}\n")  # fmt: skip
    positions = params()["positions"].tolist()
    told = output(capsys, "run", str(file), "--set", f"positions={positions}", "--report")
    assert f"Report: {tmp_path / 'out' / REPORT}" in told and (tmp_path / "out" / REPORT).is_file()


def test_a_problem_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["uncertainty", str(tmp_path / "nothing")]) == 1
    assert "pypty: " in capsys.readouterr().err
