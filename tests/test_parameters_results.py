"""Parameters of result files and of the folder's name: their effect, and what they refuse."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from parameter_registry import Desk, assert_refused, effect, names_in
from problems import small_params

import pypty


def written(folder: Path, **changes: Any) -> set[str]:
    """Names of the result files of a run of three epochs without figures."""
    quiet = {"selected_figs": [], "save_result": ["model"], "save_iters": 2}
    result = pypty.run(small_params(output_folder=str(folder), **{**quiet, **changes}))
    assert result.folder == folder
    endings = (".h5", ".tif", ".png")
    return {path.name for path in folder.iterdir() if path.suffix in endings} - {"resume.h5"}


def folder_of(desk: Desk, **changes: Any) -> str:
    """Name of the folder inside output_folder of a run without an epoch."""
    result = pypty.run(small_params(output_folder=str(desk.folder), epoch_max=0, **changes))
    assert result.folder is not None and result.folder.parent == desk.folder
    assert (result.folder / "resume.h5").is_file() and not (desk.folder / "resume.h5").exists()
    return result.folder.name


@effect("save_iters", bad=-1)
def _(desk: Desk) -> None:
    assert written(desk.folder / "a") == {"model_iter0002.h5", "model_iter0003.h5"}
    assert written(desk.folder / "b", save_iters=3) == {"model_iter0003.h5"}
    assert written(desk.folder / "c", save_iters=0) == set()


@effect("save_result", bad=["everything"])
def _(desk: Desk) -> None:
    every = ["obja", "objp", "probe", "probe_prop"]
    assert written(desk.folder / "a", save_result=every, save_iters=3) == {
        "obja_crop_08bit_iter0003.tif",
        "objp_crop_08bit_iter0003.tif",
        "probe_amp_08bit_iter0003.tif",
        "probe_prop_amp_08bit_iter0003.tif",
    }
    assert written(desk.folder / "b", save_result=[]) == set()


@effect("result_modes", bad={"bit": ["12"]})
def _(desk: Desk) -> None:
    modes = {"FOV": ["full", "crop"], "bit": ["raw", "16"]}
    assert written(desk.folder / "a", save_result=["objp"], save_iters=3, result_modes=modes) == {
        f"objp{area}{bit}_iter0003.tif" for area in ("", "_crop") for bit in ("", "_16bit")
    }


@effect("selected_figs", bad=["los"])
def _(desk: Desk) -> None:
    drawn = written(desk.folder / "a", save_result=[], save_iters=3, selected_figs=["loss", "convergence"])
    assert drawn == {"summary_loss_iter0003.png", "summary_convergence_iter0003.png"}


@effect("recon_dir_affixes", bad=["colour"])
def _(desk: Desk) -> None:
    assert folder_of(desk, recon_dir_affixes=["dx", "nlayer", "loss"]) == "1slice_lsq_sqrt_dx0.4"


@effect("prefix_time", bad="noon")
def _(desk: Desk) -> None:
    before = date.today()
    name = folder_of(desk, prefix_time=True)
    assert name in {f"{day:%Y%m%d}" for day in (before, date.today())}
    assert folder_of(desk, prefix_time="%Y") in {str(day.year) for day in (before, date.today())}


@effect("prefix", bad="a/b")
def _(desk: Desk) -> None:
    assert folder_of(desk, prefix="wse2", recon_dir_affixes=["dx"]) == "wse2_dx0.4"


@effect("postfix", bad=7)
def _(desk: Desk) -> None:
    assert folder_of(desk, postfix="again", recon_dir_affixes=["dx"]) == "dx0.4_again"


@pytest.mark.parametrize("name", names_in(__name__))
def test_effect(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from parameter_registry import EFFECTS

    EFFECTS[name].test(Desk(tmp_path, monkeypatch, capsys))


@pytest.mark.parametrize("name", names_in(__name__))
def test_bad_value(name: str) -> None:
    assert_refused(name)
