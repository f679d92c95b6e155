"""Defocus, low aberrations and scan rotation from tilt-corrected bright field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pypty.calibrate.orientation import few_points
from pypty.calibrate.suggestion import Suggestion, unsure_line
from pypty.direct_methods.numerics.bright_field import image_shifts_A, in_groups
from pypty.direct_methods.numerics.bright_field_align import (
    BrightFieldScan,
    DefocusScan,
    fit_scan,
    scan_defocus,
    turned,
)
from pypty.direct_methods.numerics.bright_field_fit import FitResult
from pypty.direct_methods.numerics.bright_field_sum import ShiftedSum
from pypty.errors import ParameterError
from pypty.experiment import CALIBRATED, Experiment
from pypty.optics.aberrations import aberration_names
from pypty.plots.bright_field import plot_defocus

_ARROWS = 200  # shown in the figure
_LITTLE = 0.3  # share of the contrast below which the text warns


def defocus(params: Mapping[str, Any], n_aberrations: int = 1, fit_rotation: bool = False) -> Suggestion:
    """Defocus C10 (and further aberrations) of the probe from the images of single bright-field pixels.

    Both signs of defocus are tried over the range that the field of view allows; then aberrations, and the rotation
    if wanted, are fitted (``pypty.direct_methods.numerics.bright_field_fit``). In a thick specimen it is the defocus
    at a plane inside, near the middle; C10 at the entrance is less by about half of the thickness. Atom columns that
    scatter strongly move that plane further: refine it in the reconstruction.

    Parameters
    ----------
    params : needs scan_size, scan_step_A, acc_voltage, the reciprocal pixel, the aperture, and PLRotation_deg, right
        within 90 degrees: half a turn off, the defocus has the wrong sign
    n_aberrations : largest number of Krivanek coefficients; an order is kept if it explains more
    fit_rotation : suggest PLRotation_deg, too, and turn positions with it

    Returns
    -------
    Suggestion
        ``params``: aberrations in Å, extra_probe_defocus 0 and, if fitted, PLRotation_deg and positions. ``values``:
        C10_A, defocus_A (= -C10), PLRotation_deg, explained (share of the contrast, 0 to 1), unsure (reasons), one
        entry for each further aberration (``C12a_A`` ...). A figure of the trial defoci, the shifts and the corrected
        image.

    Raises
    ------
    ParameterError, DataError
        Parameters are wrong or incomplete, or there is no contrast.
    """
    if n_aberrations < 1 or n_aberrations != int(n_aberrations):
        raise ParameterError(f"n_aberrations is {n_aberrations!r}, expected a whole number from 1")
    experiment = Experiment.from_params(params, needs=CALIBRATED)
    try:
        if experiment.settings["masks"] is not None:
            raise ParameterError(
                "defocus needs whole patterns; for virtual detectors use run_tcbf_compressed_alignment"
            )
        scan = BrightFieldScan(
            open_chunks=experiment.chunks,
            scan_size=experiment.scan_size,
            step_A=experiment.step_A,
            wavelength=experiment.wavelength,
            pixel_1A=experiment.pixel_1A,
            aperture=experiment.aperture,
        )
        trials = scan_defocus(scan, experiment.rotation_deg, fit_rotation)
        start = FitResult(np.array([trials.best_A]), trials.rotation_deg, float(trials.explained.max()))
        fit = fit_scan(scan, start, int(n_aberrations), fit_rotation)
        outcome = _Outcome(scan, trials, fit)
        figure = outcome.figure()
    finally:
        experiment.source.close()
    changes: dict[str, Any] = {"aberrations": fit.aberrations_A, "extra_probe_defocus": 0.0}
    if fit_rotation:
        changes["PLRotation_deg"] = fit.rotation_deg
        changes |= turned(params, fit.rotation_deg - experiment.rotation_deg)
    return Suggestion(changes, outcome.values(), outcome.text(fit_rotation), figure)


@dataclass(frozen=True)
class _Outcome:
    """A fit, as values, text and figure."""

    scan: BrightFieldScan
    trials: DefocusScan
    fit: FitResult

    def values(self) -> dict[str, Any]:
        names = aberration_names(len(self.fit.aberrations_A))
        values: dict[str, Any] = {
            f"{name}_A": float(c) for name, c in zip(names, self.fit.aberrations_A, strict=True)
        }
        values["defocus_A"] = -values["C10_A"]
        values["PLRotation_deg"] = self.fit.rotation_deg
        values["explained"] = self.fit.explained
        values["unsure"] = self.doubts
        return values

    def text(self, with_rotation: bool) -> str:
        c10, share = float(self.fit.aberrations_A[0]), self.fit.explained
        side = "over" if c10 > 0 else "under"
        lines = [
            f"C10 = {c10:.4g} Å ({side}focus); it explains {100 * share:.0f} % of the bright-field contrast."
        ]
        if with_rotation:
            lines.append(f"PLRotation_deg = {self.fit.rotation_deg:.2f}.")
        return "\n".join([*lines, *unsure_line(self.doubts)])

    @property
    def doubts(self) -> tuple[str, ...]:
        """Reasons why the defocus may be wrong."""
        doubts = list(few_points(self.scan.scan_size))
        if self.fit.explained < _LITTLE:
            doubts.append(
                "little of the contrast is explained: there are few counts, the specimen is flat or thick (then C10 is "
                "that of a plane inside it), or aperture, pixel size, scan step or rotation are wrong"
            )
        # distance from the end of the tried range: a maximum there may lie beyond it
        edge = np.abs(self.trials.defoci_A).max() - abs(self.trials.best_A)
        if edge < 3 * (self.trials.defoci_A[1] - self.trials.defoci_A[0]):
            doubts.append("the best defocus is at the end of the range that the field of view allows")
        return tuple(doubts)

    def figure(self) -> Any:
        scan, fit = self.scan, self.fit
        detectors = scan.some_pixels()
        total = ShiftedSum(scan.scan_size, 2, 0)  # twice as fine as the scan, for the picture
        for group in in_groups(scan.open_chunks, detectors, scan.scan_size, 2**28):
            k = group.detectors.k_1A
            shifts = image_shifts_A(fit.aberrations_A, k, scan.wavelength, fit.rotation_deg)
            total.add(group.images, 2 * shifts / scan.step_A)
        few = detectors.part(slice(None, None, -(-len(detectors) // _ARROWS)))
        shifts = image_shifts_A(fit.aberrations_A, few.k_1A, scan.wavelength, fit.rotation_deg)
        return plot_defocus(
            self.trials.defoci_A,
            self.trials.explained,
            fitted_A=float(fit.aberrations_A[0]),
            k_mrad=1e3 * scan.wavelength * few.k_1A,
            shifts_A=shifts,
            image=total.image(),
            pixel_size_A=scan.step_A / 2,
        )
