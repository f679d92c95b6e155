"""Half a turn, defocus and thickness of a thick specimen, by short multislice fits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pypty.calibrate.defocus import defocus
from pypty.calibrate.measured import open_far_field, wrap_deg
from pypty.calibrate.slab import Fit, Slab, Trial
from pypty.calibrate.suggestion import Suggestion
from pypty.errors import ParameterError
from pypty.experiment import CALIBRATED, Experiment
from pypty.plots.specimen import plot_specimen

_PASSES = 3
"""Passes of mini-batches for each trial: with more, the order of the misfits does not change."""
_EPOCHS = 12
"""Epochs of L-BFGS. The slices adapt to a wrong C10 faster than C10 is refined, so that a new start from vacuum gains
more than further epochs.
"""
_MOST_RATIO = 0.5
"""Upper limit of the ratio of two successive changes of C10 in the extrapolation."""
_FIRST = (-3, -2, -1, 0, 1)
"""First trials, in depths of focus from |C10| of the weak-phase fit, which is too large in a crystal (columns act as
lenses)."""
_THICKNESS = 3.0
"""First trial, in depths of focus."""
_FACTOR = 1.4
"""Ratio of successive trial thicknesses."""
_LARGEST = 16.0  # thickness of a trial, in depths of focus
_FINE = 0.4
"""Step of the last trials in depths of focus."""
_CLEAR = 1.04
"""Ratio of the misfits of both half turns from which the better one is accepted."""
_MOST_STEPS = 12  # of the descent


def specimen(params: Mapping[str, Any], near_A: float | None = None) -> Suggestion:
    """Half a turn, defocus and thickness of a thick specimen, by short multislice fits.

    Shifts of bright-field images describe a weak object. In a thick crystal atom columns act as lenses, and C10 comes
    out too large. Moreover, a weak object that repels the beam, with half a turn and the opposite sign of defocus,
    gives the same patterns. Therefore slabs of equal slices in which no atom repels the beam are fitted for both half
    turns, over C10 and thickness, with three passes of mini-batches from vacuum for each trial. The best trial is the
    start of a longer fit with free slices that refines C10. Equal slices suit columns of atoms; for a specimen that
    varies along the beam the thickness is approximate.

    Parameters
    ----------
    params : needs scan_size, scan_step_A, acc_voltage, the reciprocal pixel, the aperture, and PLRotation_deg, right
        except for half a turn. ``total_thickness`` (or ``num_slices`` with ``slice_distances``), if given, is kept.
    near_A : C10 by a weak-phase fit, where the search begins; None = measure it (:func:`defocus`)

    Returns
    -------
    Suggestion
        ``params``: PLRotation_deg, aberrations (C10 at the entrance), extra_probe_defocus 0, total_thickness, and
        num_slices with slice_distances where they are not given (half a depth of focus or less). ``values``:
        C10_entrance_A, C10_middle_A, thickness_A, half_turn (True if the rotation was half a turn wrong), margin
        (misfit of the other half turn over this one), misfit, depth_of_focus_A. A figure of all trials and of the
        phase. Nothing is suggested where both half turns fit equally well and the thickness is not given: the specimen
        is thin.

    Raises
    ------
    ParameterError, DataError
        Parameters are wrong or incomplete, or there are fewer than 8 x 8 patterns.
    """
    if near_A is not None and not math.isfinite(near_A):
        raise ParameterError(f"near_A is {near_A!r}, expected C10 in Å, or None to measure it")
    Experiment.from_params(params, needs=CALIBRATED).source.close()
    start = float(defocus(params).values["C10_A"]) if near_A is None else float(near_A)
    experiment = open_far_field(params, "specimen")
    try:
        slab = Slab.from_experiment(experiment)
    finally:
        experiment.source.close()
    known = known_thickness(experiment)
    searches = [_Search(slab, wrap_deg(experiment.rotation_deg + turn), known, {}) for turn in (0.0, 180.0)]
    for search, sign in zip(searches, (1.0, -1.0), strict=True):
        search.first(sign * start)
        search.descend(slab.depth_of_focus_A)
    outcome = _decide(searches, known)
    suggested = _suggested(outcome, experiment)
    return Suggestion(suggested, outcome.values(), outcome.text(params, start), outcome.figure())


def _suggested(outcome: _Outcome, experiment: Experiment) -> dict[str, Any]:
    """Parameters to use; none if the thickness is neither fitted reliably nor given."""
    if outcome.unsure and not outcome.thickness_given:
        return {}
    thickness, settings = outcome.thickness_A, experiment.settings
    suggested: dict[str, Any] = {
        "PLRotation_deg": outcome.best.rotation_deg,
        "aberrations": np.array([outcome.entrance_A, *experiment.aberrations_A[1:]]),
        "extra_probe_defocus": 0.0,
        "total_thickness": thickness,
    }
    if not {"num_slices", "slice_distances", "obj"} & set(settings.set_by_user):
        n = max(2, math.ceil(2 * thickness / outcome.best.slab.depth_of_focus_A))
        suggested |= {"num_slices": n, "slice_distances": np.array([thickness / n])}
    return suggested


def known_thickness(experiment: Experiment) -> float | None:
    """Thickness in Å from the parameters; None without one."""
    settings = experiment.settings
    try:
        thickness = float(settings["total_thickness"])
    except (TypeError, ValueError):
        thickness = 0.0
    if thickness > 0 and math.isfinite(thickness):
        return thickness
    n, gaps = int(settings["num_slices"]), np.asarray(settings["slice_distances"], float)
    if {"num_slices", "slice_distances"} <= set(settings.set_by_user) and n > 1:
        return float(n * gaps[0]) if len(gaps) == 1 else float(gaps.sum() + gaps[-1])
    return None


@dataclass
class _Search:
    """Trials of one half turn: misfit over C10 at the middle and thickness."""

    slab: Slab
    rotation_deg: float
    known_A: float | None
    fits: dict[tuple[float, float], Fit]

    def misfit(self, middle_A: float, thickness_A: float) -> float:
        """Misfit of a trial; each trial is fitted only once."""
        key = (round(middle_A, 3), round(thickness_A, 3))
        if key not in self.fits:
            self.fits[key] = self.slab.fit(Trial(self.rotation_deg, *key), _PASSES)
        return self.fits[key].misfit

    @property
    def best(self) -> tuple[float, float]:
        """(C10 at the middle, thickness) of the smallest misfit."""
        return min(self.fits, key=lambda key: self.fits[key].misfit)

    @property
    def best_misfit(self) -> float:
        return self.fits[self.best].misfit

    def first(self, near_A: float) -> None:
        """Fit some defoci around that of the weak-phase fit."""
        depth = self.slab.depth_of_focus_A
        side = 1.0 if near_A >= 0 else -1.0
        # The steps change |C10|; the sign is that of the weak-phase fit.
        thickness = self.known_A if self.known_A is not None else _THICKNESS * depth
        for step in _FIRST:
            self.misfit(near_A + side * step * depth, thickness)

    def descend(self, step_A: float, factor: float = _FACTOR) -> None:
        """Coordinate descent from the best trial to better neighbours, until there is none."""
        for _ in range(_MOST_STEPS):
            middle, thickness = here = self.best
            for sign in (-1, 1):
                self.misfit(middle + sign * step_A, thickness)
            if self.known_A is None:
                # Thickness at the best C10 so far: the two are correlated, and a full grid would cost 9 fits.
                middle = self.best[0]
                for sign in (-1, 1):
                    if thickness * factor**sign <= _LARGEST * self.slab.depth_of_focus_A:
                        self.misfit(middle, thickness * factor**sign)
            if self.best == here:
                return

    def vertex(self, step_A: float, factor: float = _FACTOR) -> tuple[float, float]:
        """(C10 at the middle, thickness) at the minima of parabolas through the best trial and its neighbours."""
        middle, thickness = self.best
        lower, here, upper = (self.misfit(middle + s * step_A, thickness) for s in (-1, 0, 1))
        finer = middle + step_A * _lowest(lower, here, upper)
        if self.known_A is not None:
            return finer, thickness
        lower, here, upper = (self.misfit(middle, thickness * factor**s) for s in (-1, 0, 1))
        return finer, thickness * factor ** _lowest(lower, here, upper)


def _lowest(lower: float, here: float, upper: float) -> float:
    """Position of the minimum of the parabola through (-1, lower), (0, here), (1, upper), within [-1, 1]."""
    curvature = lower - 2 * here + upper
    return float(np.clip(0.5 * (lower - upper) / curvature, -1, 1)) if curvature > 0 else 0.0


def _decide(searches: Sequence[_Search], known: float | None) -> _Outcome:
    """The better half turn, with refined defocus and thickness."""
    kept, other = searches
    # the rotation of the parameters is kept unless the other is clearly better
    turned = kept.best_misfit > _CLEAR * other.best_misfit
    best, worse = (other, kept) if turned else (kept, other)
    margin = worse.best_misfit / best.best_misfit
    depth = best.slab.depth_of_focus_A
    best.descend(_FINE * depth)
    middle, thickness = best.vertex(_FINE * depth)
    fine, middle = _refined(best.slab, Trial(best.rotation_deg, middle, thickness))
    return _Outcome(
        best=best,
        worse=worse,
        turned=turned,
        margin=margin,
        thickness_A=thickness,
        thickness_given=known is not None,
        fine=fine,
        middle_A=middle,
    )


def _refined(slab: Slab, start: Trial) -> tuple[Fit, float]:
    """The second of two longer fits with free slices, and the C10 at the middle to which they converge.

    Each fit removes a fraction of the error; the limit is extrapolated (Aitken).
    """
    first = slab.refine(start, _EPOCHS)
    last = slab.refine(replace(start, middle_A=first.middle_A), _EPOCHS)
    before, change = first.middle_A - start.middle_A, last.middle_A - first.middle_A
    ratio = min(max(change / before, 0.0), _MOST_RATIO) if before != 0 else 0.0
    # Geometric series of the further changes: change (ratio + ratio^2 + ...).
    return last, last.middle_A + change * ratio / (1 - ratio)


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """Both searches and their result, as values, text and figure."""

    best: _Search
    worse: _Search
    turned: bool
    margin: float
    thickness_A: float
    thickness_given: bool
    fine: Fit
    middle_A: float

    @property
    def entrance_A(self) -> float:
        # Propagation by half of the thickness adds as much to C10.
        return self.middle_A - 0.5 * self.thickness_A

    @property
    def unsure(self) -> bool:
        """Whether both half turns fit equally well, as they do for a thin specimen."""
        return self.margin < _CLEAR

    def values(self) -> dict[str, Any]:
        return {
            "C10_entrance_A": self.entrance_A,
            "C10_middle_A": self.middle_A,
            "thickness_A": self.thickness_A,
            "half_turn": self.turned,
            "margin": self.margin,
            "misfit": self.fine.misfit,
            "depth_of_focus_A": self.best.slab.depth_of_focus_A,
        }

    def text(self, params: Mapping[str, Any], start_A: float) -> str:
        side = "over" if self.entrance_A > 0 else "under"
        how = "as given" if self.thickness_given else "by the fits, roughly"
        lines = [
            f"specimen: C10 = {self.entrance_A:.4g} Å at the entrance ({side}focus), {self.middle_A:.4g} Å at the "
            f"middle; thickness {self.thickness_A:.4g} Å ({how}); the weak-phase fit gave {start_A:.4g} Å"
        ]
        better = "half a turn from the given one" if self.turned else "as given"
        lines.append(
            f"  PLRotation_deg = {self.best.rotation_deg:.2f}, {better}: with the other half turn the misfit is "
            f"{self.margin:.2f} times as large"
        )
        if self.unsure:
            lines.append(
                "  UNSURE: both half turns fit equally well, as for a thin specimen, for which "
                "pypty.calibrate.defocus is the right function; for a thick specimen give the nominal defocus, or try "
                "both half turns"
            )
            if not self.thickness_given:
                lines.append("  nothing is suggested; give total_thickness if it is known")
                return "\n".join(lines)
        if self.turned and params.get("positions") is not None:
            lines.append("  positions were given: compute them again with this rotation")
        if not self.thickness_given:
            lines.append(
                "  the thickness is that of a slab of equal slices; give total_thickness if it is known"
            )
        return "\n".join(lines)

    def figure(self) -> Any:
        def rows(search: _Search) -> np.ndarray:
            return np.array([(*key, fit.misfit) for key, fit in search.fits.items()])

        return plot_specimen(
            rows(self.best),
            rows(self.worse),
            rotations_deg=(self.best.rotation_deg, self.worse.rotation_deg),
            fitted_A=(self.middle_A, self.thickness_A),
            phase=self.fine.phase,
            pixel_A=self.best.slab.pixel_A,
        )
