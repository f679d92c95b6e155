"""Error bars from fits to drawn counts."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import aperture_probe, counts, small_params

import pypty
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.state import State
from pypty.engine.setup.prepare import prepare
from pypty.errors import DataError, ParameterError
from pypty.refits.gauge import difference
from pypty.refits.refit import completed, drawn, scaled_to, thinned
from pypty.refits.uncertainty import NOISE_ONLY, Uncertainty, uncertainty
from pypty.refits.words import MODEL, PREVIEW, THINNING


def params(**changes: Any) -> dict[str, Any]:
    return small_params(
        **{"dataset": counts(), "algorithm": "ml", "output_folder": "", "epoch_max": 20, **changes}
    )


@lru_cache
def result() -> pypty.Result:
    return pypty.run(params())


def error_bars(**changes: Any) -> Uncertainty:
    return uncertainty(result(), **{"repeats": 3, "epochs": 4, **changes})


def test_the_deviation_is_that_of_other_measurements() -> None:
    """Of fits to fresh counts, drawn outside: within a factor that eight draws allow."""
    base = result()
    model = pypty.simulate({**params(), **base.params()})
    rng = np.random.default_rng(3)
    others = []
    for _ in range(8):
        again = pypty.run(params(**base.params(), dataset=rng.poisson(model), epoch_max=25))
        others.append(again.obj)
    found = uncertainty(base, repeats=8, epochs=8, lowpass_A=0.4)
    changes = [difference(obj, base.obj, area=found.area, lowpass_px=1.0).sum(axis=2) for obj in others]
    wanted = np.sqrt(np.mean(np.var(changes, axis=0, ddof=1)))
    assert np.sqrt(np.mean(found.total_phase_rad**2)) == pytest.approx(wanted, rel=0.35)


def test_it_falls_with_the_dose() -> None:
    bright = uncertainty(pypty.run(params(dataset=100 * counts("uint32"))), repeats=3, epochs=4)
    ratio = np.sqrt(np.mean(error_bars().total_phase_rad ** 2) / np.mean(bright.total_phase_rad**2))
    assert ratio == pytest.approx(10, rel=0.4)


def test_what_is_told() -> None:
    found = error_bars()
    assert found.phase_rad.shape == (*found.total_phase_rad.shape, 1)
    np.testing.assert_allclose(found.phase_rad[..., 0], found.total_phase_rad)
    assert found.positions_A is None and np.isnan(found.position_A)
    assert NOISE_ONLY in found.text and "3 fits" in str(found)
    assert all(len(values) == 3 for values in found.statistics.values())
    # fits to counts of a right model: noise that is fitted lowers the ratio
    assert (found.statistics["ratio"] < 1.05).all() and (abs(found.statistics["pix"]) < 0.1).all()


def test_it_is_deterministic_and_the_seed_changes_it() -> None:
    one, two, other = error_bars(), error_bars(), error_bars(seed=7)
    np.testing.assert_array_equal(one.phase_rad, two.phase_rad)
    assert (one.phase_rad != other.phase_rad).any()


def test_a_preview_needs_no_fit() -> None:
    preview = error_bars(repeats=0)
    assert preview.method == PREVIEW and preview.statistics == {} and "preview" in preview.text
    ratio = np.sqrt(np.mean(error_bars().total_phase_rad ** 2) / np.mean(preview.total_phase_rad**2))
    assert 0.3 < ratio < 3


def test_thinned_counts_give_about_the_same() -> None:
    ratio = np.mean(error_bars(method=THINNING).total_phase_rad) / np.mean(
        error_bars(method=MODEL).total_phase_rad
    )
    assert 0.5 < ratio < 2


def test_refined_unknowns_have_error_bars() -> None:
    run = pypty.run(params(update_probe_pos="lambda x: x >= 5", num_slices=2, slice_distances=[8.0],
                           update_slice_distances="lambda x: x > 10", update_tilts="lambda x: x > 10"))  # fmt: skip
    found = uncertainty(run, repeats=2, epochs=2)
    assert found.phase_rad.shape[2] == 2
    assert found.positions_A is not None and found.positions_A.shape == (25, 2) and 0 < found.position_A < 1
    assert found.slice_distances_A is not None and (found.slice_distances_A > 0).any()
    assert found.tilts_mrad is not None and (found.tilts_mrad > 0).any()
    for word in ("positions", "slice distances", "tilts"):
        assert word in found.text


def test_the_figure_shows_the_noise_of_phase_and_positions() -> None:
    found = error_bars()
    (image, bar) = found.plot().axes
    np.testing.assert_array_equal(image.images[0].get_array(), found.total_phase_rad)
    assert bar.get_ylabel() == "σ of the phase / rad" and NOISE_ONLY in found.plot().get_suptitle().replace(
        "\n", " "
    )
    refined = uncertainty(pypty.run(params(update_probe_pos=True, epoch_max=5)), repeats=2, epochs=1)
    scan = refined.plot().axes[1]
    dots = scan.collections[0]
    np.testing.assert_allclose(dots.get_offsets(), refined.scan_A[:, ::-1])
    assert refined.positions_A is not None
    np.testing.assert_allclose(dots.get_array(), np.sqrt((refined.positions_A**2).mean(axis=1)))
    assert (scan.get_xlabel(), scan.get_ylabel()) == ("x / Å", "y / Å") and scan.yaxis_inverted()


def test_finished_fits_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = error_bars(folder=tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == 3
    monkeypatch.setattr("pypty.refits.uncertainty.completed", None)  # no fit is made again
    np.testing.assert_array_equal(error_bars(folder=tmp_path).phase_rad, first.phase_rad)
    with pytest.raises(TypeError):
        error_bars(folder=tmp_path, seed=1)


def test_kept_fits_of_other_parameters_are_not_used(tmp_path: Path) -> None:
    """Of other data, another probe, or other refined unknowns, with the same object."""
    base = result()
    kept = {"folder": tmp_path, "repeats": 2, "epochs": 1}
    first = uncertainty(base, **kept)
    given = {**params(), **base.params()}
    brighter = {**given, "probe": 10 * base.probe, "dataset": 100 * counts("uint32")}
    assert np.mean(uncertainty(brighter, **kept).total_phase_rad) < 0.5 * np.mean(first.total_phase_rad)
    assert uncertainty({**given, "update_probe_pos": True}, **kept).positions_A is not None
    assert len(list(tmp_path.glob("*.npz"))) == 6


def test_large_patterns_are_drawn_into_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pypty.refits.refit._LARGE_BYTES", 0)
    folder = tmp_path / "new"
    found = uncertainty(result(), repeats=2, epochs=1, folder=folder)
    np.testing.assert_array_equal(found.phase_rad, uncertainty(result(), repeats=2, epochs=1).phase_rad)
    assert {path.suffix for path in folder.iterdir()} == {".npz"}


def test_noise_of_data_that_are_no_counts_cannot_be_drawn() -> None:
    run = pypty.run(params(dataset=counts() / 3.7 + 0.1, algorithm="lsq_sqrt", epoch_max=2))
    with pytest.raises(ParameterError, match="the data are no counts"):
        uncertainty(run, repeats=2, epochs=1)


@pytest.mark.parametrize("case", ["slices", "subscans", "gain"])
def test_the_preview_knows_slices_probes_and_gain(case: str) -> None:
    """The same number of electrons on the same place: the same deviation of the summed phase."""
    changes: dict[str, Any] = {
        "slices": {"num_slices": 3, "slice_distances": [5.0]},
        "subscans": {
            "probe": np.repeat(aperture_probe()[..., None], 2, axis=3),
            "probe_marker": np.arange(25) % 2,
        },
        "gain": {"dataset": 4 * counts(), "algorithm": "poisson_gaussian", "detector_gain": 4.0},
    }[case]
    one, other = (uncertainty(pypty.run(params(epoch_max=1, **extra)), repeats=0) for extra in ({}, changes))
    assert np.mean(other.total_phase_rad) == pytest.approx(np.mean(one.total_phase_rad), rel=0.1)


def test_unknowns_that_are_refined_only_in_the_end_have_error_bars() -> None:
    run = pypty.run(params(epoch_max=8, update_probe_pos="lambda x: x >= 6"))
    assert uncertainty(run, repeats=2, epochs=5).positions_A is not None


def test_a_saved_result_is_enough_with_its_data(tmp_path: Path) -> None:
    run = pypty.run(params(epoch_max=3, save_result=["model"], update_probe_pos="lambda x: x >= 1"))
    loaded = pypty.Result.load(run.save(tmp_path / "run.h5"))
    assert loaded.settings["save_result"] == ["model"]
    found = uncertainty(loaded, repeats=2, epochs=1, dataset=counts())
    np.testing.assert_allclose(found.phase_rad, uncertainty(run, repeats=2, epochs=1).phase_rad)


def test_of_a_folder(tmp_path: Path) -> None:
    data = tmp_path / "data.npy"
    np.save(data, counts())
    folder = tmp_path / "result"
    run = pypty.run(params(dataset=..., data_path=str(data), output_folder=str(folder), epoch_max=6))
    found = uncertainty(folder, repeats=2, epochs=2)
    np.testing.assert_allclose(found.phase_rad, uncertainty(run, repeats=2, epochs=2).phase_rad)
    assert len(list((folder / "uncertainty").glob("*.npz"))) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repeats": 1}, "repeats: given 1"),
        ({"repeats": -1}, "repeats: given -1"),
        ({"epochs": 0}, "epochs: given 0"),
        ({"lowpass_A": -0.1}, "lowpass_A: given -0.1"),
        ({"method": "jackknife"}, "method: given 'jackknife'"),
    ],
)
def test_values_that_are_not_possible(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        error_bars(**changes)


def test_thinning_needs_counts() -> None:
    run = pypty.run(params(dataset=counts() / 3, algorithm="lsq_sqrt", epoch_max=2))
    with pytest.raises(DataError, match="only whole"):
        uncertainty(run, method="thinning", repeats=2, epochs=1)


def drawn_from(**changes: Any) -> tuple[np.ndarray, np.ndarray, Reconstruction]:
    """Drawn counts, and their expectation, both in the order of the model's pixels."""
    setup = prepare(params(**changes))
    run = Reconstruction(setup, State(variables=setup.variables(), epoch=0))
    model = run.objective.simulate(run.state.variables, np.arange(25))
    return drawn(run, seed=1), model, run


def test_drawn_counts_have_the_noise_of_the_model() -> None:
    patterns, model, _ = drawn_from()
    assert (patterns == np.rint(patterns)).all()
    lit = model > 1
    residual = (patterns - model)[lit] / np.sqrt(model[lit])
    assert abs(residual.mean()) < 4 / np.sqrt(lit.sum()) and abs(residual.std() - 1) < 0.1
    given = {"algorithm": "poisson_gaussian", "detector_gain": 4.0, "readout_noise": 3.0}
    patterns, model, _ = drawn_from(**given)
    lit = model > 1
    residual = (patterns - model)[lit] / np.sqrt(4 * model[lit] + 9)
    assert abs(residual.mean()) < 4 / np.sqrt(lit.sum()) and abs(residual.std() - 1) < 0.1


@pytest.mark.parametrize("fill", [{}, {"data_pad_fill": "constant", "data_pad_value": 2.0}])
def test_a_padded_rim_is_not_drawn(fill: dict[str, Any]) -> None:
    patterns, _, run = drawn_from(data_pad=4, **fill)
    rim = np.fft.fftshift(patterns, axes=(1, 2)).copy()
    data = run.feed.patterns(np.arange(25))
    wanted = np.fft.fftshift(data, axes=(1, 2)) * run.setup.multiplier
    rim[:, 4:-4, 4:-4] = wanted[:, 4:-4, 4:-4] = 0
    np.testing.assert_allclose(rim, wanted)


def test_patterns_that_are_held_are_fitted() -> None:
    """The loss is that of a data set with the same patterns."""
    setup = prepare(
        params(detector_mask=np.random.default_rng(0).uniform(size=(16, 16)), data_multiplier=2.0)
    )
    other = np.random.default_rng(1).poisson(5.0, (25, 16, 16)).astype(float)
    run = completed(dataclasses.replace(setup, held=np.fft.ifftshift(other, axes=(1, 2))), setup.variables())
    again = prepare(params(detector_mask=setup.settings["detector_mask"], dataset=other))
    assert setup.survey is not None
    survey = dataclasses.replace(setup.survey, multiplier=1.0)
    # the mean pattern, by which the start is scaled and steps are divided, is that of the first data
    direct = completed(dataclasses.replace(again, survey=survey), setup.variables())
    assert [r.loss for r in run.state.records] == pytest.approx(
        [r.loss for r in direct.state.records], rel=1e-9
    )


def test_the_start_of_a_half_has_half_of_the_counts() -> None:
    setup = prepare(
        params(dataset=counts(), probe=None, data_pad=2, data_pad_fill="constant", data_pad_value=1.0)
    )
    half = thinned(setup, 0)
    power = [float((abs(part.variables().probe) ** 2).sum()) for part in (setup, half)]
    assert power[1] == pytest.approx(power[0] / 2)
    scaled = scaled_to(0.25)(setup.variables())
    np.testing.assert_allclose(scaled.probe, setup.variables().probe / 2)
