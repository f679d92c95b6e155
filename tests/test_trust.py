"""How well a reconstruction describes its data: each number on data made for it."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import N_PATTERNS, SIDE, small_params
from problems import patterns as small_patterns
from trust_data import COUNTS, SCAN, counts, intensities, model, positions, thing

import pypty
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.record.finished import records_of, shifted_start
from pypty.engine.record.interrupts import Interrupts
from pypty.errors import CheckpointError, ParameterError
from pypty.output.checkpoints import VERDICT_FILE
from pypty.results.verdict_file import read_verdict, write_verdict
from pypty.trust import measure as measuring
from pypty.trust import verdict as judging
from pypty.trust.quality import BRIGHT, DARK, EDGE, FitQuality
from pypty.trust.signatures import spread_beyond_noise
from pypty.trust.verdict import Verdict, judge, verdict_at_end


def fit(data: np.ndarray | None = None, **changes: Any) -> FitQuality:
    return pypty.fit_quality(model(dataset=counts() if data is None else data, **changes))


@pytest.fixture(scope="module")
def right() -> FitQuality:
    """The true model, and counts with Poisson noise."""
    return fit()


# ------------------------------------------------------------------------------------------------- the numbers


def test_every_number_of_a_right_model_is_that_of_noise(right: FitQuality) -> None:
    assert right.counts
    assert abs(right.ratio - 1) < 4 * right.ratio_error < 0.05
    assert abs(right.pix) < 4 * right.pix_error < 0.02
    assert abs(right.scan) < 4 * right.scan_error < 0.02
    assert set(right.regions) == {BRIGHT, EDGE, DARK}
    for region in right.regions.values():
        assert abs(region.ratio - 1) < 4 * region.error
        assert abs(region.counts_ratio - 1) < 4 * region.counts_error
        assert region.static < 3 / len(right.indices)
    assert sum(region.share for region in right.regions.values()) == pytest.approx(1)
    spread = (right.pattern_ratio - 1) / right.pattern_error
    assert abs(spread.std() - 1) < 0.3 and abs(right.pattern_median - 1) < 0.03
    known = np.isfinite(right.detector_ratio)
    assert abs(((right.detector_ratio - 1) / right.detector_error)[known].std() - 1) < 0.1
    assert abs(right.detector_residual[known].std() - 1) < 0.1
    pixels = sum(region.pixels for region in right.regions.values())
    assert right.counts_per_pixel == pytest.approx(COUNTS * intensities()[0].size / pixels, rel=0.01)
    assert right.unknowns == 0 and right.ratio_fitted == 1


def test_the_errors_are_those_of_fresh_draws() -> None:
    found = [fit(counts(seed=seed)) for seed in range(2, 8)]
    for name in ("ratio", "pix", "scan"):
        values = [getattr(item, name) for item in found]
        expected = getattr(found[0], f"{name}_error")
        assert 0.4 < np.std(values, ddof=1) / expected < 1.9, name


def test_fitting_lowers_the_ratio_by_the_number_of_unknowns() -> None:
    params = model(dataset=counts(), update_obj=True, update_probe=True, epoch_max=8, warmup_epochs=0)
    fitted = pypty.run(params).fit_quality()
    assert 0.9 < fitted.ratio_fitted < 0.97
    assert abs(fitted.ratio - fitted.ratio_fitted) < 0.02
    phase_only = pypty.fit_quality({**params, "phase_only_obj": True})
    assert phase_only.unknowns < fitted.unknowns


def test_the_worst_patterns_are_named() -> None:
    data = counts().copy()
    data[[17, 42]] = data[[3, 88]]
    found = fit(data)
    assert set(found.worst[:2]) == {17, 42} and len(found.worst) == 10
    assert found.pattern_ratio[42] > 2 * found.pattern_median
    np.testing.assert_allclose(found.positions_A, 0.3 * positions(), atol=1e-9)


def sharing_noise(axis: int) -> np.ndarray:
    """Counts whose noise is shared by neighbours along an axis (0: positions): their correlation is 1/2."""
    noise = counts() - intensities()
    return np.rint(np.maximum(intensities() + (noise + np.roll(noise, 1, axis)) / np.sqrt(2), 0))


@pytest.mark.parametrize("axis", [1, 2])
def test_neighbouring_pixels_that_share_their_noise_are_seen(axis: int) -> None:
    """In one of two directions."""
    found = fit(sharing_noise(axis))
    assert 0.15 < found.pix < 0.3 and abs(found.scan) < 0.03


def test_neighbouring_positions_that_share_their_noise_are_seen() -> None:
    found = fit(sharing_noise(0))
    assert 0.3 < found.scan < 0.55 and abs(found.pix) < 0.03


def test_flyback_and_random_orders_are_no_neighbours() -> None:
    order = np.random.default_rng(0).permutation(SCAN**2)
    shuffled = fit(counts()[order], positions=positions()[order])
    # a few consecutive patterns are neighbours by chance
    assert np.isnan(shuffled.scan) or shuffled.scan_error > 0.01


def test_counts_beyond_the_band_limit_are_those_that_no_model_has() -> None:
    data = counts().copy()
    data[:, 0, :] = 40
    found = fit(data, damping_cutoff_multislice=0.9)
    assert found.beyond == pytest.approx(data[:, 0].sum() / data.sum(), rel=0.3)
    assert abs(found.ratio - fit(damping_cutoff_multislice=0.9).ratio) < 1e-6


def test_a_mask_and_a_padded_rim_are_left_out() -> None:
    broken = counts().copy()
    broken[:, 12, 12] = 60_000
    mask = np.ones(broken.shape[1:])
    mask[12, 12] = 0
    assert abs(fit(broken, detector_mask=mask).ratio - 1) < 0.03
    assert np.isnan(fit(broken, detector_mask=mask).detector_ratio[12, 12])
    of_each = np.ones(broken.shape)
    of_each[:, 12, 12] = 0
    assert abs(fit(broken, detector_mask=of_each).ratio - 1) < 0.03


KINDS: dict[str, dict[str, Any]] = {
    "virtual detectors": {
        "masks": np.ones((2, SIDE, SIDE)),
        "dataset": np.full((N_PATTERNS, 2), 2000.0),
        "algorithm": "poisson_compressed",
    },
    "near field": {
        "recon_type": "near_field",
        "defocus_array": np.linspace(10, 90, N_PATTERNS),
        "positions": [[0.0, 0.0]],
        "probe": None,
    },
    "one pattern": {"sequence": [3]},
    "held-out patterns": {"validation_fraction": 0.2},
    "mini-batches": {"optimizer": "adam"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_data_give_what_can_be_given(kind: str) -> None:
    rng = np.random.default_rng(0)
    result = pypty.run(small_params(**{"dataset": rng.poisson(small_patterns()), **KINDS[kind]}))
    found = result.fit_quality()
    assert np.isfinite(found.ratio) and result.verdict.level != "not tested"
    if kind == "virtual detectors":
        assert np.isnan(found.pix) and not found.regions
    if kind == "near field":
        assert np.isnan(found.scan) and np.isfinite(found.pix) and not found.regions
    if kind == "one pattern":
        assert np.isnan(found.scan) and found.indices.tolist() == [3]
    if kind == "held-out patterns":
        assert len(found.indices) == 20


def test_whole_numbers_are_counts_and_others_are_not() -> None:
    assert not fit(intensities() + 0.1).counts
    assert not fit(data_normalization="mean_at_one").counts
    gain = fit(2.5 * counts() + 0.25, algorithm="poisson_gaussian", detector_gain=2.5, readout_noise=0.5)
    assert gain.counts


# ------------------------------------------------------------------------------------- results, files, folders


def test_a_result_has_its_quality_and_keeps_it(tmp_path: Path) -> None:
    params = small_params(dataset=np.random.default_rng(0).poisson(small_patterns()), epoch_max=4)
    result = pypty.run({**params, "output_folder": str(tmp_path / "out")})
    assert f"fit: {result.verdict.level}" in repr(result)
    assert result.fit_quality() is result.verdict.fit
    back = pypty.Result.load(result.save(tmp_path / "result.h5"))
    assert back.verdict.record() == result.verdict.record()
    np.testing.assert_equal(back.fit_quality().arrays(), result.fit_quality().arrays())
    # measured again: from the result, and from the folder
    again = back.fit_quality(params)
    of_folder = pypty.fit_quality(tmp_path / "out", dataset=params["dataset"])
    for other in (again, of_folder):
        assert other.ratio == pytest.approx(result.fit_quality().ratio, rel=1e-6)
        assert other.pix == pytest.approx(result.fit_quality().pix, abs=1e-6)


def test_a_result_without_quality_measures_it() -> None:
    params = small_params(dataset=np.random.default_rng(0).poisson(small_patterns()))
    result = pypty.run({**params, "verdict": "none"})
    assert result.verdict.level == "not tested" and result.verdict.fit is None
    assert result.fit_quality().ratio == pytest.approx(pypty.run(params).fit_quality().ratio, rel=1e-6)
    saved = dataclasses.replace(
        result, settings={key: value for key, value in result.settings.items() if key != "dataset"}
    )
    with pytest.raises(ParameterError, match=r"result\.fit_quality\(params\)"):
        saved.fit_quality()


def test_the_numbers_are_plain(right: FitQuality) -> None:
    numbers = right.numbers()
    assert numbers["regions"][EDGE]["ratio"] == right.regions[EDGE].ratio
    assert numbers["worst"] == right.worst.tolist()
    assert dataclasses.replace(right, scan=np.nan).numbers()["scan"] is None


def test_a_pattern_of_weight_zero_is_left_out() -> None:
    """Its ratio is unknown; the others have a median, a spread and a worst."""
    weights = np.ones(counts().shape)
    weights[3] = 0
    found = fit(detector_mask=weights)
    assert np.isnan(found.pattern_ratio[3]) and found.pattern_median == pytest.approx(1, abs=0.03)
    assert 1 < found.pattern_spread < 1.2 and 3 not in found.worst and len(found.worst) == 10
    few = dataclasses.replace(
        found,
        pattern_ratio=found.pattern_ratio[:5],
        pattern_error=found.pattern_error[:5],
        indices=found.indices[:5],
    )
    assert len(few.worst) == 4 and spread_beyond_noise(few) == 0
    jitter = np.random.default_rng(0).normal(0, 0.25, positions().shape)
    assert spread_beyond_noise(fit(detector_mask=weights, positions=positions() + jitter)) > 0.05


def test_counts_that_a_multiplier_makes_are_counts() -> None:
    """The product differs from whole numbers by rounding; whole numbers times a multiplier are meant as electrons."""
    assert fit(2.7 * counts().astype("float32"), data_multiplier=1 / 2.7).counts
    rounded = np.rint(2.7 * counts()).astype("uint32")
    assert fit(rounded, data_multiplier=1 / 2.7).counts
    assert not fit(2.7 * counts().astype("float32")).counts


# ------------------------------------------------------------------------------------------------- of a folder

EIGHT = {"epoch_max": 8, "update_probe": "lambda x: x < 8", "algorithm": "ml"}


def kept_run(folder: Path, **changes: Any) -> tuple[dict[str, Any], pypty.Result]:
    """A run in a folder, and its parameters with its data."""
    data = {"dataset": np.random.default_rng(0).poisson(small_patterns())}
    result = pypty.run(small_params(**{**data, **EIGHT, "output_folder": str(folder), **changes}))
    return data, result


def test_the_verdict_of_a_folder_is_that_of_its_run(tmp_path: Path) -> None:
    """As it was written, without the data; and measured again, with the probe refined as in the last epoch."""
    data, result = kept_run(tmp_path, positions=small_params()["positions"] + 0.3)
    assert pypty.verdict(tmp_path).record() == result.verdict.record()
    (tmp_path / VERDICT_FILE).unlink()
    again = pypty.verdict(tmp_path, **data)
    assert again.level == result.verdict.level
    assert [item.kind for item in again.signatures] == [item.kind for item in result.verdict.signatures]
    assert again.fit.unknowns == result.verdict.fit.unknowns
    assert again.fit.ratio == pytest.approx(result.verdict.fit.ratio, rel=1e-6)


def test_a_folder_knows_that_its_run_had_not_converged(tmp_path: Path) -> None:
    data = {"dataset": counts()}
    start = {"obj": np.ones_like(thing()), "update_obj": True, "epoch_max": 2, "output_folder": str(tmp_path)}
    result = pypty.run(model(**data, **start))
    assert "not converged" in {item.kind for item in result.verdict.signatures}
    (falling,) = (
        item.numbers["falling"] for item in result.verdict.signatures if item.kind == "not converged"
    )
    for other in (pypty.verdict(tmp_path, **data), pypty.verdict(result)):
        numbers = {item.kind: item.numbers for item in other.signatures}
        assert numbers["not converged"]["falling"] == pytest.approx(falling)
    # without history.jsonl it is in loss.csv
    (tmp_path / "history.jsonl").unlink()
    assert "not converged" in {item.kind for item in pypty.verdict(tmp_path, **data).signatures}


def test_the_records_of_a_folder_are_those_that_its_state_knows(tmp_path: Path) -> None:
    data, result = kept_run(tmp_path)
    kept_run(tmp_path, epoch_max=10, **result.params() | {"epoch_prev": 8})
    assert [record.epoch for record in records_of(tmp_path)] == list(range(10))
    assert not records_of(tmp_path)[3].gradient_norms and records_of(tmp_path)[9].gradient_norms
    with open(tmp_path / "history.jsonl", "a") as stream:  # as after a kill
        stream.write("{}\n")
    assert len(records_of(tmp_path)) == 10 and shifted_start(tmp_path) is None
    (tmp_path / "history.jsonl").write_text("{")
    assert len(records_of(tmp_path)) == 10 and not records_of(tmp_path)[9].gradient_norms
    (tmp_path / "loss.csv").write_text("a,b\n1,2\n")
    with pytest.raises(CheckpointError, match=r"loss\.csv"):
        records_of(tmp_path)


def test_values_that_a_folder_has_of_a_function_end_with_its_run(tmp_path: Path) -> None:
    data, result = kept_run(tmp_path, update_probe=lambda epoch: epoch < 8)
    assert pypty.verdict(tmp_path, **data).fit.unknowns == result.verdict.fit.unknowns


def test_a_written_verdict_holds_as_long_as_the_arrays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, result = kept_run(tmp_path)
    written = (tmp_path / VERDICT_FILE).read_bytes()
    assert read_verdict(tmp_path).record() == result.verdict.record()
    (tmp_path / VERDICT_FILE).write_bytes(written[: len(written) // 2])
    assert read_verdict(tmp_path) is None and "measured again" in caplog.text
    (tmp_path / VERDICT_FILE).write_bytes(written)
    np.save(tmp_path / "co.npy", 1.01 * np.load(tmp_path / "co.npy"))
    assert read_verdict(tmp_path) is None
    # a run that goes on, and is not judged, leaves no old verdict
    pypty.resume(tmp_path, epoch_max=9, verdict="none", **data)
    assert not (tmp_path / VERDICT_FILE).exists()
    write_verdict(tmp_path, Verdict.untested("nothing"))
    assert not (tmp_path / VERDICT_FILE).exists()


# -------------------------------------------------------------------------------------------------- the verdict


def test_a_right_model_is_good_and_a_wrong_one_is_not() -> None:
    good = pypty.verdict(model(dataset=counts()))
    assert good.level == "good" and good.signatures == () and "does not exclude" in str(good)
    bad = pypty.verdict(model(dataset=counts(), positions=positions()[:, ::-1].copy()))
    assert bad.level == "bad" and bad.signatures and "Most likely" in bad.text
    assert bad.headline.startswith("Fit: bad: ")
    assert good.fit is not None
    doubtful = judge(dataclasses.replace(good.fit, pix=0.02))
    assert doubtful.level == "doubtful" and "UNSURE" in doubtful.text


def test_it_says_what_was_not_tested() -> None:
    fixed = pypty.verdict(model(dataset=counts()))
    assert "positions (they were fixed)" in fixed.not_tested and "pypty.position_trial" in fixed.text
    assert "free pixels" in fixed.not_tested and np.isnan(fixed.fit.free)
    free = pypty.verdict(model(dataset=counts(), free_pixels=0.2))
    assert "free pixels" not in free.not_tested and f"were not fitted {free.fit.free:.3f}" in free.text
    refined = pypty.verdict(model(dataset=counts(), update_probe_pos=True))
    assert "uncertainty" in refined.not_tested and "positions (they were fixed)" not in refined.not_tested


def test_runs_that_have_nothing_to_test_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no epoch" in pypty.run(small_params(epoch_max=0)).verdict.text
    assert "verdict='none'" in pypty.run(small_params(verdict=False)).verdict.text

    def no_memory(run: Reconstruction) -> FitQuality:
        raise MemoryError

    monkeypatch.setattr(judging, "measure", no_memory)
    result = pypty.run(small_params())
    assert result.verdict.level == "not tested" and "memory" in result.verdict.text
    assert len(result.epochs) == 3


def test_an_interrupt_is_not_kept_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(run: Reconstruction) -> FitQuality:
        raise KeyboardInterrupt

    monkeypatch.setattr(judging, "measure", pressed)
    result = pypty.run(small_params())
    assert "interrupted" in result.verdict.text and result.stop_reason == "epoch_max = 3 was reached"
    # after a signal there is no pass at all
    monkeypatch.setattr(judging, "measure", measuring.measure)
    setup = pypty.iterative.prepare(small_params())
    run = Reconstruction(setup, pypty.iterative.State(variables=setup.variables(), epoch=0))
    interrupts = Interrupts()
    interrupts.name = "SIGINT"
    assert verdict_at_end(run, interrupts).level == "not tested"
    # a signal between the pass and the result must not lose the result
    unharmed = Interrupts()
    unharmed.saving = True
    assert len(list(run.epochs())) == 3
    assert verdict_at_end(run, unharmed).fit is not None and unharmed.saving
    setup.close()


def test_a_signal_while_a_complete_run_is_judged_is_no_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    def signalled(run: Reconstruction) -> FitQuality:
        os.kill(os.getpid(), signal.SIGINT)
        return measuring.measure(run)

    monkeypatch.setattr(judging, "measure", signalled)
    result = pypty.run(small_params())
    assert "interrupted" in result.verdict.text
    assert result.interrupted_by == "" and result.stop_reason == "epoch_max = 3 was reached"


def test_print_flag_shows_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pypty.run(small_params(print_flag=0))
    assert "Fit:" not in capsys.readouterr().out
    result = pypty.run(small_params(print_flag=1, output_folder=str(tmp_path)))
    assert capsys.readouterr().out.rstrip().endswith(result.verdict.text)
    assert result.verdict.text in (tmp_path / "pypty.log").read_text(encoding="utf-8")


def test_few_patterns_for_many_unknowns_are_never_good() -> None:
    params = small_params(
        dataset=np.random.default_rng(0).poisson(small_patterns()), algorithm="ml", epoch_max=20
    )
    verdict = pypty.run(params).verdict
    assert verdict.level != "good" and "few data" in {item.kind for item in verdict.signatures}


def test_a_verdict_comes_back_from_arrays() -> None:
    empty = Verdict.untested("a reason")
    assert Verdict.from_arrays(empty.arrays()) == empty
    full = pypty.verdict(model(dataset=counts(), obj=thing()[::-1].copy()))
    back = Verdict.from_arrays(full.arrays())
    assert back.signatures == full.signatures and back.record() == full.record()


def test_further_tests_are_part_of_the_verdict() -> None:
    good = Verdict(level="good", measured="All.", not_tested=("resolution", "positions (they were fixed)"))
    assert good.text.startswith("Fit: good. All. A good fit does not exclude")
    assert good.text.endswith("Not tested: resolution (pypty.resolution), positions, which were fixed "
                              "(pypty.position_trial).")  # fmt: skip
    better = good.with_test("positions", "they are right", good=True)
    assert better.level == "good" and better.text.startswith("Fit: good. All. A good fit")
    assert better.text.endswith(" They are right. Not tested: resolution (pypty.resolution).")
    assert better.tests == ("They are right",) and better.not_tested == ("resolution",)
    open_ = good.with_test("positions", "nobody knows", good=None)
    assert open_.level == "good" and "positions (the data do not tell)" in open_.not_tested
    assert "Nobody knows. Not tested: resolution" in open_.text and "position_trial" not in open_.text
    worse = good.with_test("positions", "they are wrong", good=False)
    assert worse.level == "doubtful"
    assert worse.text == "Fit: UNSURE. All. They are wrong. Not tested: resolution (pypty.resolution)."
    assert Verdict.from_arrays(worse.arrays()) == worse and worse.record()["tests"] == ["They are wrong"]
