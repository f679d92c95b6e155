"""A checked reconstruction, ready to start, and the parts that it is made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pypty.backend.array import Backend
from pypty.data.feed import Feed
from pypty.data.preprocess import Preprocess, to_corner
from pypty.data.scan import Scan
from pypty.data.sources import PatternSource, fingerprint
from pypty.data.survey import Survey
from pypty.engine.memory import MemoryPlan
from pypty.engine.start import Counts, start_variables
from pypty.model.forward import ModelOptions, build_model
from pypty.model.parametrization import BandLimits
from pypty.model.variables import Variables
from pypty.objective.noise import make_noise_model
from pypty.objective.objective import Objective
from pypty.optics.grid import Grid, object_band_mask
from pypty.params.settings import Settings


@dataclass(frozen=True)
class Setup:
    """A checked reconstruction, ready to start.

    Attributes
    ----------
    settings : the checked parameters
    backend : device and precision
    source : the patterns, or None (simulation only)
    grid : sampling of the padded window
    scan : windows on the object
    plan : memory and batches
    preprocess : virtual changes to the patterns
    survey : mean pattern, or None without data
    """

    settings: Settings
    backend: Backend
    source: PatternSource | None
    grid: Grid
    scan: Scan
    plan: MemoryPlan
    preprocess: Preprocess
    survey: Survey | None

    @property
    def crop(self) -> int:
        """Pixels of the model's rim that are not compared with data."""
        return 0 if self.settings["use_padded_intensity"] else self.settings["data_pad"]

    def variables(self) -> Variables:
        """The starting values of all unknowns; unless skip_preprocessing, inside their band limits."""
        variables = start_variables(self.settings, self.scan, self.grid, self.start_counts(), self.backend)
        if self.settings["skip_preprocessing"] or self.settings["epoch_prev"] > 0:
            return variables
        limits = self.band_limits(variables)
        return variables.replace(limits.project(variables.blocks(("obj", "probe"))))

    def band_limits(self, variables: Variables) -> BandLimits:
        """The subspaces in which object and probe are refined."""
        settings = self.settings
        cutoff = settings["damping_cutoff_multislice"] - settings["update_extra_cut"]
        probe = self.grid.band_mask(cutoff)
        obj = None
        if not settings["lazy_clean"]:
            mask = object_band_mask(variables.obj.shape[-2:], self.grid.pixel_size_A, cutoff)
            obj = self.backend.asarray(mask, self.backend.real)
        return BandLimits(obj, self.backend.asarray(probe, self.backend.real))

    def mean_pattern(self) -> np.ndarray | None:
        """(ny, nx) mean measured counts in the padded window, centred; None without data."""
        return None if self.survey is None else _padded(self.survey.mean, self.settings["data_pad"])

    def start_counts(self) -> Counts | None:
        """What the starting probe is made from and scaled to; None without data."""
        mean = self.mean_pattern()
        if mean is None or self.survey is None:
            return None
        given = self.settings["mean_pattern"]
        pattern = mean
        if given is not None:
            prepared = self.preprocess.unpadded.patterns(given) * self.settings["data_multiplier"]
            pattern = _padded(prepared, self.settings["data_pad"])
        return Counts(mean, self._start_weights(), pattern)

    def _start_weights(self) -> np.ndarray | None:
        """(ny, nx) mean weight of each pixel of the padded window; a rim that is not compared has none."""
        assert self.survey is not None
        if self.survey.weights is None and not self.crop:
            return None
        seen = np.ones(self.survey.mean.shape) if self.survey.weights is None else self.survey.weights
        rim = 0.0 if self.crop else 1.0
        return np.pad(seen, self.settings["data_pad"], constant_values=rim)

    def feed(self) -> Feed:
        """Batches of the measured patterns; in memory if the plan says so."""
        feed = Feed(
            self.backend,
            self.source,
            self.scan.corners,
            self.preprocess,
            self.settings["detector_mask"],
            self.settings["data_multiplier"],
        )
        if self.plan.resident:
            feed.make_resident()
        return feed

    def objective(
        self, feed: Feed, subpixel: bool, batch_size: int | None = None, n_threads: int | None = None
    ) -> Objective:
        """The loss over all patterns; ``subpixel``: windows are, or may move, off the pixel grid."""
        settings = self.settings
        options = ModelOptions(
            self.grid, settings["damping_cutoff_multislice"], subpixel, settings["lazy_clean"], self.crop
        )
        model = build_model(options, self.backend)
        brightest = float(self.mean_in_corner().max())
        return Objective(
            self.backend,
            model,
            feed,
            make_noise_model(settings["algorithm"], brightest, self.backend.real, model.reachable),
            batch_size or self.plan.batch,
            n_threads or self.plan.n_threads,
        )

    def mean_in_corner(self) -> np.ndarray:
        """Mean counts with the zero frequency first (zeros without data)."""
        mean = self.mean_pattern()
        return to_corner(mean) if mean is not None else np.zeros(self.grid.shape)

    def close(self) -> None:
        """Release the data file."""
        if self.source is not None:
            self.source.close()


def _padded(pattern: np.ndarray, pad: int) -> np.ndarray:
    return np.pad(pattern, pad) if pad else pattern


def data_fingerprint(setup: Setup) -> str:
    """A short hash of the patterns; "" without any."""
    return "" if setup.source is None else fingerprint(setup.source)
