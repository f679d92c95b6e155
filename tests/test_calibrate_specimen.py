"""Half a turn, defocus and thickness of a thick crystal, simulated without the model that fits it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from preset_data import strontium_titanate

from pypty.calibrate import everything, specimen
from pypty.calibrate.slab import Fit, Slab, Trial
from pypty.calibrate.specimen import _decide, _Search, known_thickness
from pypty.errors import DataError, ParameterError
from pypty.experiment import Experiment

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


class Valley:
    """A slab whose misfit is known: 0.05 at 163 Å and 140 Å thick, ``other`` half a turn off.

    Each longer fit takes away 60 % of the error of C10.
    """

    depth_of_focus_A = 43.0

    def __init__(self, other: float) -> None:
        self.other, self.trials = other, 0

    def fit(self, trial: Trial, passes: int) -> Fit:
        self.trials += 1
        side, lowest = (1, 0.05) if trial.rotation_deg == 0 else (-1, self.other)
        off = ((side * trial.middle_A - 163) / 60) ** 2 + np.log(trial.thickness_A / 140) ** 2
        return Fit(float(lowest + 0.01 * off), np.zeros((2, 2)), trial.middle_A)

    def refine(self, trial: Trial, epochs: int) -> Fit:
        return Fit(0.03, np.zeros((2, 2)), 158 + 0.4 * (trial.middle_A - 158))


@pytest.mark.parametrize(
    ("given", "other", "turned"), [(0.0, 0.06, False), (180.0, 0.06, True), (180.0, 0.051, False)]
)
@pytest.mark.parametrize("known", [None, 156.0])
def test_the_search_goes_down_to_the_smallest_misfit(given, other, turned, known):
    """From 196 Å of the right sign; where both half turns fit alike, that which was given is kept."""
    valley = Valley(other)
    searches = [_Search(valley, (given + turn) % 360, known, {}) for turn in (0.0, 180.0)]
    for search in searches:
        search.first(196.0 if search.rotation_deg == 0 else -196.0)
        search.descend(43.0)
    found = _decide(searches, known)
    side = -1 if other < 0.055 else 1  # kept half a turn from the smallest misfit
    assert found.turned is turned and found.best.rotation_deg == (180.0 if side < 0 else 0.0)
    if side > 0:
        assert found.middle_A == pytest.approx(158, abs=0.1)
        assert found.margin == pytest.approx(1.2, abs=0.03)
    else:
        assert "UNSURE" in found.text({}, 196.0)
    assert found.thickness_A == pytest.approx(140 if known is None else known, rel=0.03)
    assert valley.trials < (50 if known is None else 30)


def test_nothing_is_suggested_where_both_half_turns_fit_alike(crystal, monkeypatch):
    for known in ({}, {"total_thickness": THICKNESS_A}):
        for other, sure in ((0.06, True), (0.051, False)):
            valley = Valley(other)
            monkeypatch.setattr(Slab, "fit", lambda slab, *given, valley=valley: valley.fit(*given))
            monkeypatch.setattr(Slab, "refine", lambda slab, *given, valley=valley: valley.refine(*given))
            found = specimen({**crystal, **known}, near_A=150.0)
            assert ("aberrations" in found.params) == (sure or bool(known))
            assert ("UNSURE" in found.text) != sure
            if found.params:
                assert found.params["aberrations"][0] == pytest.approx(
                    158 - found.values["thickness_A"] / 2, abs=0.1
                )


@pytest.mark.parametrize(
    ("more", "thickness"),
    [
        ({}, None),
        ({"total_thickness": 80.0, "num_slices": 4, "slice_distances": [10.0]}, 80.0),
        ({"num_slices": 4, "slice_distances": [10.0]}, 40.0),
        ({"num_slices": 3, "slice_distances": [10.0, 20.0]}, 50.0),
        ({"num_slices": 4}, None),
    ],
)
def test_what_thickness_is_believed(more, thickness):
    params = {"dataset": np.ones((4, 8, 8), np.float32), "acc_voltage": 300.0, **more}
    assert known_thickness(Experiment.from_params(params)) == thickness


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [pytest.param(False, marks=pytest.mark.nightly), True])
def test_half_a_turn_defocus_and_thickness(crystal, wrong):
    """The weak-phase fit, half a turn from the truth, has the other sign, too.

    A given thickness is believed: by ``everything``, below, in every run.
    """
    params = {**crystal, "PLRotation_deg": 180.0 if wrong else 0.0}
    if not wrong:
        params["total_thickness"] = THICKNESS_A
    found = specimen(params)
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


def test_the_misfit_of_the_truth_is_the_smallest(crystal):
    """Trials that are 60 Å off in defocus, half or twice as thick, or half a turn off, fit worse by a tenth or more."""
    slab = Slab.from_experiment(Experiment.from_params(crystal))
    assert slab.params["data_pad"] > 0 and slab.depth_of_focus_A == pytest.approx(31.5, rel=0.02)
    here = slab.fit(Trial(0.0, MIDDLE_A, THICKNESS_A), 2)
    assert here.middle_A == MIDDLE_A and np.isfinite(here.phase).all()
    for trial in (
        Trial(0.0, MIDDLE_A - 60, THICKNESS_A),
        Trial(0.0, MIDDLE_A + 60, THICKNESS_A),
        Trial(0.0, MIDDLE_A, THICKNESS_A / 2),
        Trial(0.0, MIDDLE_A, THICKNESS_A * 2),
        Trial(180.0, -MIDDLE_A, THICKNESS_A),
    ):
        assert slab.fit(trial, 2).misfit > 1.1 * here.misfit, trial


def test_the_middle_of_a_scan_and_of_patterns(crystal):
    """Patterns wider than the model are cut; those left out of the sequence are not fitted; counts stay."""
    wide = np.pad(crystal["dataset"], ((0, 0), (40, 40), (40, 40)))
    sequence = np.delete(np.arange(144), [60, 61])
    narrow, cut = (
        Slab.from_experiment(Experiment.from_params({**crystal, **more}))
        for more in ({}, {"dataset": wide, "sequence": sequence})
    )
    window = narrow.params["dataset"].shape[-1] + 2 * narrow.params["data_pad"]
    assert cut.params["data_pad"] == 0 and cut.params["dataset"].shape == (142, window, window)
    np.testing.assert_allclose(cut.pixel_A, narrow.pixel_A)
    rim = narrow.params["data_pad"]
    np.testing.assert_array_equal(cut.params["dataset"][0, rim:-rim, rim:-rim], narrow.params["dataset"][0])


@pytest.mark.slow
def test_everything_asks_for_it_where_the_specimen_is_thick(crystal):
    params = {key: value for key, value in crystal.items() if key != "rez_pixel_size_A"}
    data = np.rot90(
        crystal["dataset"], 2, axes=(1, 2)
    )  # half a turn, of an even pattern: one pixel off the middle
    found = everything({**params, "dataset": np.roll(data, (1, 1), (1, 2)), "total_thickness": THICKNESS_A})
    assert (
        found.values["orientation.outside_disk"] < 0.03
    )  # the detector ends there: the given thickness says so
    assert abs(abs(found.params["PLRotation_deg"]) - 180) < 1.5
    assert found.values["specimen.C10_middle_A"] == pytest.approx(MIDDLE_A, rel=0.1)
    assert found.params["aberrations"][0] == pytest.approx(found.values["specimen.C10_entrance_A"])


def test_bad_input(crystal):
    with pytest.raises(ParameterError, match="near_A"):
        specimen(crystal, near_A=np.nan)
    with pytest.raises(ParameterError, match="scan_step_A"):
        specimen({key: value for key, value in crystal.items() if key != "scan_step_A"}, near_A=100.0)
    with pytest.raises(DataError, match="8 x 8"):
        specimen({**crystal, "sequence": np.arange(20)}, near_A=100.0)
