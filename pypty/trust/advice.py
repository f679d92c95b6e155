"""Kinds of misfit: what is seen, in the words of a microscopist, and what to try."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

PIXELS, GAIN, BLUR, PROBE, POSITIONS = "pixels", "gain", "detector blur", "probe", "positions"
COHERENCE, THICKNESS, DARK_FIELD, WRONG_MODEL = "coherence", "thickness", "dark field", "wrong model"
GEOMETRY, BAND_LIMIT, FEW_DATA = "geometry", "band limit", "few data"
FIXED_PROBE = "fixed probe"
NOT_CONVERGED, SMALL_MISFIT = "not converged", "small misfit"

ADVICE: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        PIXELS: (
            "A few single detector pixels carry much of the misfit: they are dead, hot or saturated.",
            "pypty.calibrate.defects(params) finds them; leave them out with detector_mask",
        ),
        GAIN: (
            "Residuals are as independent as noise, but not as strong as that of counted electrons: the data are not "
            "in electrons.",
            "divide the data by the gain (data_multiplier), or give it: algorithm='poisson_gaussian' with "
            "detector_gain and readout_noise",
        ),
        BLUR: (
            "The misfit lies at the edge of the bright field, and changes from pattern to pattern: the detector blurs "
            "the patterns.",
            "refine the point spread: update_detector_blur_std=True, from a start such as detector_blur_std=0.5",
        ),
        PROBE: (
            "The misfit is that of a wrong probe: its aperture (size, shape, soft edge), defocus or aberrations.",
            "refine it (update_probe=True); measure aperture and defocus with pypty.calibrate.disk(params) and "
            "pypty.calibrate.defocus(params)",
        ),
        POSITIONS: (
            "Patterns fit unequally well, and neighbours in the scan do not share their misfit: scan positions are "
            "off, each by its own error.",
            "refine them after some epochs: update_probe_pos='lambda x: x >= 5'",
        ),
        COHERENCE: (
            "Measured patterns are smoother than the model's, most at the edge of the bright field, with more counts "
            "in the dark field: the beam is partially coherent (source size, defocus spread, vibration).",
            "use several probe modes (n_hermite_probe_modes, spatial_coh_xy, defocus_spread_modes)",
        ),
        THICKNESS: (
            "The model has one slice, but much is scattered out of the bright field, as by a specimen that is too "
            "thick for one.",
            "describe the thickness by slices: num_slices and slice_distances; pypty.calibrate.specimen(params) "
            "estimates thickness and tilt",
        ),
        DARK_FIELD: (
            "The dark field alone does not fit: a background, scattering by a thick specimen, or counts that the "
            "detector spreads.",
            "update_static_background=True with a small static_background; more slices (num_slices with "
            "slice_distances over the whole thickness); raise data_pad",
        ),
        WRONG_MODEL: (
            "The model does not describe the patterns: the scan is transposed, mirrored or turned by a large angle, "
            "pixel size or scan step are far off, or a thick specimen is described by too few slices.",
            "pypty.calibrate.orientation(params) for rotation and handedness, pypty.calibrate.disk(params) for the "
            "pixel size; check scan_step_A and scan_order; num_slices and slice_distances",
        ),
        GEOMETRY: (
            "Residuals of neighbouring pixels are alike: the geometry is off (rotation or transposition of the scan, "
            "pixel size, scan step), or the defocus, or the beam is partially coherent.",
            "pypty.calibrate.orientation(params) for rotation and handedness, pypty.calibrate.disk(params) for the "
            "pixel size; check scan_step_A; then refine positions (update_probe_pos)",
        ),
        FIXED_PROBE: (
            "The probe was not refined, and a wrong one looks much the same.",
            "refine it first (update_probe=True)",
        ),
        BAND_LIMIT: (
            "Part of the counts lies at angles where the model can have none.",
            "raise data_pad or damping_cutoff_multislice",
        ),
        FEW_DATA: (
            "The model has nearly as many unknowns as the data have pixels with counts: it can fit noise, and a good "
            "fit proves little.",
            "more patterns, more overlap or more electrons; fewer modes or slices; stronger regularisation",
        ),
        NOT_CONVERGED: (
            "The deviance still falls from epoch to epoch.",
            "more epochs (epoch_max); pypty.resume(folder, epoch_max=...) goes on",
        ),
        SMALL_MISFIT: (
            "The model differs from the data by a little more than noise, without a clear pattern: a pixel size, scan "
            "step or rotation that is a percent or two off, partial coherence, or a specimen thicker than its slices.",
            "pypty.calibrate.disk(params), pypty.calibrate.orientation(params); refine positions (update_probe_pos); "
            "compare runs with more probe modes or slices",
        ),
    }
)
"""For every kind of misfit, a sentence of what is seen, and what to try."""
