"""A checked reconstruction, ready to start, and the parts that it is made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pypty.backend.array import Backend
from pypty.data.feed import Feed
from pypty.data.preprocess import Preprocess, to_corner
from pypty.data.scan import Scan, sort_sequence
from pypty.data.sources import PatternSource, fingerprint
from pypty.data.survey import Survey
from pypty.engine.memory import MemoryPlan
from pypty.engine.start import Counts, start_variables
from pypty.errors import ParameterError
from pypty.model.forward import ModelOptions, build_model
from pypty.model.parametrization import BandLimits
from pypty.model.variables import Variables
from pypty.objective.noise import NOISE_MODELS
from pypty.objective.objective import Objective
from pypty.optics.grid import Grid, object_band_mask
from pypty.params.combinations import check_epochs, epochs_to_check
from pypty.params.report import Report
from pypty.params.schedule import Constant
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
        return Objective(
            self.backend,
            build_model(options, self.backend),
            feed,
            NOISE_MODELS[settings["algorithm"]],
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


def check_inside(scan: Scan, window: tuple[int, int], indices: np.ndarray, shape: tuple[int, ...]) -> None:
    """Every window of these patterns lies on an object of this (…, Y, X) shape.

    Raises
    ------
    ParameterError
        A window reaches out of it (a sequence left the field of view with ``use_full_FOV=False``).
    """
    corners = scan.corners[indices]
    ends = corners + np.array(window)
    if (corners < 0).any() or (ends > np.array(shape[-2:])).any():
        raise ParameterError(
            "sequence: it names patterns whose windows lie outside the object, which covers only the "
            "sequence of the first epoch; set use_full_FOV=True"
        )


def used_at_any_epoch(settings: Settings, n_patterns: int) -> np.ndarray:
    """Sorted indices of the patterns that the sequence of some epoch names.

    Raises
    ------
    ParameterError
        A sequence names a pattern that there is not.
    """
    schedule = settings.schedules["sequence"]
    if isinstance(schedule, Constant):
        return sort_sequence(schedule.value, n_patterns)
    used = np.zeros(n_patterns, bool)
    for epoch in epochs_to_check(settings):
        used[sort_sequence(schedule.at(epoch), n_patterns)] = True
        if used.all():
            break
    return np.flatnonzero(used)


def check_sequences(
    settings: Settings, scan: Scan, window: tuple[int, int], report: Report, first: int | None = None
) -> None:
    """The sequence of every epoch names patterns that there are, on the object."""
    schedule = settings.schedules["sequence"]
    if report.has("sequence"):
        return
    epochs = epochs_to_check(settings, first)
    for epoch in epochs[:1] if isinstance(schedule, Constant) else epochs:
        try:
            indices = sort_sequence(schedule.at(epoch), len(scan.corners))
            check_inside(scan, window, indices, scan.object_shape)
        except ParameterError as error:
            report.note_error(error)
            return


def problems_from(setup: Setup, settings: Settings, epoch: int) -> list[str]:
    """What is wrong with per-epoch values from an epoch on (they may have been edited during the run)."""
    report = Report()
    check_epochs(settings, report, epoch)
    check_sequences(settings, setup.scan, setup.grid.shape, report, epoch)
    return report.problems
