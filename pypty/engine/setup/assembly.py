"""A checked reconstruction, ready to start, which builds the parts of a run."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pypty.backend.array import Array, Backend
from pypty.data.feed import Feed
from pypty.data.plates import PhasePlateSource
from pypty.data.preprocess import Preprocess, to_centre, to_corner
from pypty.data.scan import Scan
from pypty.data.sources import PatternSource, fingerprint
from pypty.data.survey import Survey
from pypty.data.window import Window
from pypty.engine.setup.comparison import count_model, usable_pixels
from pypty.engine.setup.mean_patterns import MeanPatterns
from pypty.engine.setup.memory_plan import MemoryPlan
from pypty.engine.setup.start import present_blocks, start_variables
from pypty.model.blocks import Variables
from pypty.model.forward import build_model
from pypty.model.options import TILT_MODES, ModelOptions, NearFieldOptions
from pypty.model.parametrization import BandLimits
from pypty.objective.combined import LossTerms, make_loss_terms
from pypty.objective.curvature import Curvature
from pypty.objective.free_pixels import FreePixels
from pypty.objective.noise import NoiseModel, dark_counts, make_noise_model
from pypty.objective.objective import Objective
from pypty.objective.regularizers import RegularizerContext, outside_aperture
from pypty.optics.grid import Grid, object_band_mask
from pypty.optimize.vector import BlockVector
from pypty.params.checks.effects import has_tilts
from pypty.params.checks.model import mode_weights
from pypty.params.settings import Settings


class Team(Protocol):
    """Other ranks that compute a part of the patterns (:mod:`pypty.engine.ranks`)."""

    def join(self, setup: Setup, objective: Objective, subpixel: bool, propagation: str) -> Objective:
        """The objective, of which other ranks compute their part from now on."""

    def keep(self, vector: BlockVector) -> BlockVector:
        """A vector of the L-BFGS history where it is kept."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A checked reconstruction, ready to start.

    Attributes
    ----------
    settings : the checked parameters
    backend : device and precision
    source : the patterns, or None (simulation only)
    grid : sampling of the padded window
    scan : positions, and crop origins of the patches
    plan : memory and batches
    preprocess : virtual changes to the patterns
    survey : mean pattern, or None without data
    n_patterns : number of measurements
    window : sizes of patterns: as measured, as compared, and in the model
    plates : phase plates, or None
    held : (N, ky, kx) patterns, in the order of the model's pixels, that are fitted instead of those of the source
    began_in : precision in which the run began, if it is another; its rounding decides which intensities are dark, so
        that the loss is the same before and after the change
    owned : sorted numbers of the patterns that this process computes; None = all
    team : other ranks that compute the rest; None = there are none
    """

    settings: Settings
    backend: Backend
    source: PatternSource | None
    grid: Grid
    scan: Scan
    plan: MemoryPlan
    preprocess: Preprocess
    survey: Survey | None
    n_patterns: int
    window: Window
    plates: PhasePlateSource | None = None
    held: np.ndarray | None = None
    began_in: np.dtype | None = None
    owned: np.ndarray | None = None
    team: Team | None = None

    @property
    def multiplier(self) -> float:
        """Factor of every count: ``data_multiplier``, with ``data_normalization``."""
        return self.settings["data_multiplier"] if self.survey is None else self.survey.multiplier

    @property
    def crop(self) -> int:
        """Pixels of the model's rim that are not compared with data."""
        seen = self.settings["use_padded_intensity"] and self.settings["masks"] is None
        return 0 if seen else self.window.pad

    @property
    def near_field(self) -> bool:
        return self.window.near_field

    def to_model(self, patterns: np.ndarray) -> np.ndarray:
        """From the pixel order of the data to that of the model (far field: zero frequency first)."""
        return patterns if self.near_field or self.settings["masks"] is not None else to_corner(patterns)

    def from_model(self, patterns: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`to_model`; sums of virtual detectors are (N, D)."""
        if self.settings["masks"] is not None:
            # (N, 1, D) -> (N, D)
            return patterns[:, 0]
        return patterns if self.near_field else to_centre(patterns)

    def variables(self) -> Variables:
        """The starting values of all unknowns, band-limited unless ``skip_preprocessing``."""
        variables = start_variables(
            self.settings,
            self.scan,
            self.grid,
            self.n_patterns,
            self.window,
            self.seen.start_counts(),
            self.backend,
        )
        if self.settings["skip_preprocessing"] or self.settings["epoch_prev"] > 0:
            return variables
        # a start outside the subspaces could never be corrected there: steps stay inside
        limits = self.band_limits(variables)
        blocks = variables.blocks(("obj", "probe"))
        return variables.replace({name: limits.damp(name, array) for name, array in blocks.items()})

    def band_limits(self, variables: Variables) -> BandLimits:
        """The subspaces in which object and probe are refined."""
        settings, backend = self.settings, self.backend
        cutoff = settings["damping_cutoff_multislice"] - settings["update_extra_cut"]
        rolloff = settings["smooth_rolloff"]
        shape, pixels = variables.obj.shape[-2:], self.grid.pixel_size_A
        masks: dict[str, np.ndarray] = {"probe": self.grid.band_mask(cutoff)}
        if rolloff > 0:
            masks["probe_steps"] = self.grid.soft_band_mask(cutoff, rolloff)
        if not settings["lazy_clean"]:
            masks["obj"] = object_band_mask(shape, pixels, cutoff)
            if rolloff > 0:
                masks["obj_steps"] = object_band_mask(shape, pixels, cutoff, rolloff)
        return BandLimits(**{name: backend.asarray(mask, backend.real) for name, mask in masks.items()})

    def probe_aperture(self) -> np.ndarray | float | None:
        """``probe_constraint_mask``, or the aperture of the start."""
        mask = self.settings["probe_constraint_mask"]
        return self.settings["aperture_mask"] if mask is None else mask

    def probe_aperture_mask(self) -> np.ndarray | None:
        """(ky, kx) 1 inside :meth:`probe_aperture`, zero frequency first; None when there is none."""
        aperture = self.probe_aperture()
        return None if aperture is None else 1 - outside_aperture(aperture, self.grid.shape)

    @functools.cached_property
    def seen(self) -> MeanPatterns:
        """Mean counts and weights of the patterns, on the pixels of the waves."""
        return MeanPatterns(
            settings=self.settings,
            source=self.source,
            grid=self.grid,
            preprocess=self.preprocess,
            survey=self.survey,
            n_patterns=self.n_patterns,
            window=self.window,
            multiplier=self.multiplier,
            crop=self.crop,
        )

    def mean_pattern(self) -> np.ndarray | None:
        """(ny, nx) mean measured counts in the padded window of the waves, centred; None without data."""
        return self.seen.mean_pattern()

    def feed(self, progress: Callable[[], None] | None = None) -> Feed:
        """Batches of the measured patterns; in memory if the plan says so.

        Parameters
        ----------
        progress : is called while patterns are read into memory
        """
        feed = Feed(
            self.backend,
            self.source,
            crop_origins=self.scan.crop_origins,
            preprocess=self.preprocess,
            weights=self.settings["detector_mask"],
            multiplier=self.multiplier,
            reorder=self.to_model,
            resident_on_device=self.plan.resident_on_device,
            owned=self.owned,
        )
        if self.held is not None:
            # another rank has only its own ones
            whole = self.owned is not None and len(self.held) == self.n_patterns
            feed.hold(self.held[self.owned] if whole else self.held)
        elif self.plan.resident or feed.resident_on_device:
            feed.make_resident(self.plan.resident, progress)
        return feed

    def objective(
        self,
        feed: Feed,
        subpixel: bool,
        propagation: str,
        batch_size: int | None = None,
        n_threads: int | None = None,
    ) -> Objective:
        """The loss over all patterns.

        Parameters
        ----------
        subpixel : patches are, or may move, off the pixel grid
        propagation : ``propmethod`` of the epoch
        """
        model = build_model(self.model_options(subpixel, propagation), self.backend)
        terms = self._loss_terms()
        noise = self._noise_model(model.reachable) if terms is None else terms.noise
        batch, threads = batch_size or self.plan.batch, n_threads or self.plan.n_threads
        free = self._free_pixels(model.reachable)
        objective = Objective(self.backend, model, feed, noise, batch, threads, terms, free)
        return objective if self.team is None else self.team.join(self, objective, subpixel, propagation)

    def _free_pixels(self, reachable: Array) -> FreePixels | None:
        """``free_pixels``; None = every pixel is fitted."""
        fraction, seed = self.settings["free_pixels"], self.settings["seed"]
        if fraction == 0:
            return None
        return FreePixels(fraction, seed, count_model(self), usable_pixels(self, reachable))

    def _noise_model(self, reachable: Array = None) -> NoiseModel:
        settings = self.settings
        return make_noise_model(
            settings["algorithm"],
            brightest=float(self.mean_in_corner().max()),
            precision=self.began_in or self.backend.real,
            reachable=reachable,
            gain=settings["detector_gain"],
            readout=settings["readout_noise"],
        )

    def _loss_terms(self) -> LossTerms | None:
        """``loss_terms``; None = ``algorithm`` is the loss."""
        settings = self.settings
        loss_terms = settings["loss_terms"]
        if loss_terms is None:
            return None
        dark = dark_counts(float(self.mean_in_corner().max()), self.began_in or self.backend.real)
        # a resampled pixel gathers the floors of several pixels of the model
        pixels = self.window.shared if self.window.match == "resample" else 1.0
        return make_loss_terms(
            loss_terms,
            scale=settings["loss_scale"],
            dark=dark,
            window=self.grid.shape,
            mode_weights=settings["obj_mode_weights"],
            deterministic=settings["deterministic"],
            pixels=pixels,
        )

    def model_options(self, subpixel: bool, propagation: str) -> ModelOptions:
        """Which physical effects the parameters ask for."""
        settings = self.settings
        defocus = settings["defocus_array"].ravel()
        near = (
            NearFieldOptions(defocus, settings["Cs"], settings["alpha_near_field"])
            if self.near_field
            else None
        )
        masks = settings["masks"]
        marker = settings["aberration_marker"]
        return ModelOptions(
            grid=self.grid,
            cutoff=settings["damping_cutoff_multislice"],
            subpixel=subpixel,
            filter_patches=settings["lazy_clean"],
            crop=self.crop,
            propagation=propagation,
            tilt_mode=settings["tilt_mode"] if has_tilts(settings) else None,
            probe_marker=settings["probe_marker"],
            aberration_marker=marker,
            n_aberrations=0 if marker is None else settings["aberrations_array"].shape[1],
            plates=self.plates,
            near_field=near,
            across=self.window.across,
            masks=masks if masks is None or self.near_field else to_corner(masks),
            unknowns=present_blocks(settings),
            executor=settings["executor"],
            keep_every=self.plan.keep_every,
            object_modes=self.plan.sizes.object_modes,
            deterministic=settings["deterministic"],
            mode_weights=mode_weights(settings),
            preblur_std=settings["obj_preblur_std"],
            matched=None if self.window.match is None else self.window.pattern,
            resampled=self.window.match == "resample",
            reflected_blur=settings["detector_blur_edge"] == "reflect",
        )

    def regularizer_context(self) -> RegularizerContext:
        """What the regularisers need to know about the run."""
        settings, size = self.settings, self.settings["scan_size"]
        return RegularizerContext(
            grid=self.grid,
            cutoff=settings["damping_cutoff_multislice"],
            scan_size=None if size is None else (int(size[0]), int(size[1])),
            scan_step_A=settings["scan_step_A"],
            slice_distance_A=float(settings["slice_distances"][0]),
            aperture=self.probe_aperture(),
        )

    def curvature(self, indices: np.ndarray, weight: float) -> Curvature:
        """The preconditioner of the loss over these patterns, with ``loss_weight``."""
        settings, mean = self.settings, self.mean_in_corner()
        # virtual detectors: the sums themselves, not their back projection
        seen = mean if self.survey is None or settings["masks"] is None else self.survey.mean
        terms = self._loss_terms()
        n_values = len(indices) * math.prod(self.data_shape)
        # the preconditioner scales with the second derivative of the loss
        scale = self._noise_model().curvature(seen) if terms is None else terms.curvature(seen, n_values)
        return Curvature(
            backend=self.backend,
            grid=self.grid,
            all_crop_origins=self.scan.crop_origins,
            indices=indices,
            mean_pattern=mean,
            scale=weight * scale,
            relative=terms is not None and terms.ratio,
            near_field=self.near_field,
            acting_tilts=TILT_MODES[settings["tilt_mode"]],
            defocus_A=float(np.abs(settings["defocus_array"]).max()) if self.near_field else 0.0,
            compared_mean=self._compared_mean(),
            mode_weights=mode_weights(settings),
        )

    def _compared_mean(self) -> np.ndarray | None:
        """(ky, kx) mean counts as the patterns are compared, centred; None without data, or with virtual detectors."""
        if self.survey is None or self.settings["masks"] is not None:
            return None
        # (ny, nx) -> (ky, kx): the same padding on every side
        mean = np.pad(self.survey.mean, (self.window.compared[0] - self.window.pattern[0]) // 2)
        return mean if self.preprocess.rim is None else mean + self.preprocess.rim * self.multiplier

    @property
    def data_shape(self) -> tuple[int, int]:
        """Shape of the values of a pattern that are compared with data."""
        masks = self.settings["masks"]
        return self.window.compared if masks is None else (1, len(masks))

    def mean_in_corner(self) -> np.ndarray:
        """(ny, nx) mean counts in the pixel order of the model; zeros without data."""
        mean = self.mean_pattern()
        if mean is None:
            return np.zeros(self.grid.shape)
        return mean if self.near_field else to_corner(mean)

    def kept(self, vector: BlockVector) -> BlockVector:
        """A vector of the L-BFGS history where it is kept."""
        return vector if self.team is None else self.team.keep(vector)

    def close(self) -> None:
        """Release the files."""
        if self.source is not None:
            self.source.close()
        if self.plates is not None:
            self.plates.close()


def data_fingerprint(setup: Setup) -> str:
    """A short hash of the patterns and of their phase plates; "" without any."""
    plates = "" if setup.plates is None else setup.plates.fingerprint()
    return plates if setup.source is None else fingerprint(setup.source) + plates
