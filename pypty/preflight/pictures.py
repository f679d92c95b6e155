"""Figures of a pre-flight, and the arrays that they show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pypty.backend.array import to_host
from pypty.data.disk import DiskFacts
from pypty.plots.figures import Figure
from pypty.plots.preflight import (
    plot_beam_and_slices,
    plot_counts,
    plot_disk,
    plot_probe_window,
    plot_scan,
)
from pypty.preflight.facts import Facts, ProbeFacts
from pypty.preflight.probe_items import start_defocus_A


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Arrays and numbers behind the figures; None if there is nothing to show.

    Attributes
    ----------
    pattern : (ky, kx) mean counts
    positions_A : (N, 2)
    totals : (n,) counts of some patterns
    gaps_A : (slices - 1,)
    """

    pattern: np.ndarray | None
    pixel_mrad: tuple[float, float]
    disk: DiskFacts | None
    probe: ProbeFacts | None
    pixel_size_A: tuple[float, float]
    positions_A: np.ndarray | None
    totals: np.ndarray
    gaps_A: np.ndarray
    alpha: float | None
    thin_A: float | None
    wavelength: float
    defocus_A: float

    def figures(self) -> dict[str, Figure]:
        """Figures by name, in the order of the page."""
        figures: dict[str, Figure] = {}
        if self.pattern is not None:
            centre, radius = (None, None) if self.disk is None else (self.disk.centre_px, self.disk.radius_px)
            figures["mean pattern"] = plot_disk(self.pattern, self.pixel_mrad, centre, radius)
        if self.probe is not None:
            figures["starting probe"] = plot_probe_window(
                self.probe.intensity, self.pixel_size_A, self.probe.centre_px, self.probe.diameter_A
            )
        if self.positions_A is not None:
            diameter = None if self.probe is None else self.probe.diameter_A
            figures["scan"] = plot_scan(self.positions_A, diameter)
        figures["counts"] = plot_counts(self.totals)
        if self.alpha is not None and self.thin_A is not None:
            depth = self.wavelength / self.alpha**2
            figures["slices"] = plot_beam_and_slices(
                self.gaps_A,
                alpha=self.alpha,
                defocus_A=self.defocus_A,
                depth_of_focus_A=depth,
                thin_A=self.thin_A,
                wavelength=self.wavelength,
            )
        return figures


def pictures_of(facts: Facts) -> Pictures:
    """Keep only the data of the figures, so that the patterns can be released."""
    setup = facts.setup
    seen = setup.survey is not None and setup.settings["masks"] is None
    mrad = 1e3 * facts.wavelength
    return Pictures(
        pattern=setup.survey.mean if seen and setup.survey is not None else None,
        pixel_mrad=(mrad * facts.pixel_1A[0], mrad * facts.pixel_1A[1]),
        disk=facts.disk if seen else None,
        probe=facts.probe,
        pixel_size_A=setup.grid.pixel_size_A,
        positions_A=None if facts.scan is None else facts.scan.positions_A,
        totals=facts.sample.totals,
        gaps_A=np.resize(to_host(facts.variables.slice_distances).astype(float), facts.n_slices - 1),
        alpha=facts.alpha,
        thin_A=facts.thin_A,
        wavelength=facts.wavelength,
        defocus_A=start_defocus_A(facts),
    )
