"""Parameters of regularisers and constraints, of the starting beam, and those that are only recorded."""

from __future__ import annotations

from pypty.params.kinds import (
    Anything,
    ArrayOf,
    Either,
    Flag,
    Number,
    optional,
)
from pypty.params.parameter import RECORDED, Parameter
from pypty.params.schema.numbers import NON_NEGATIVE, POSITIVE, POSITIVE_WHOLE
from pypty.params.special_kinds import SigmaPairs


# One row per parameter, as in data.py.
# fmt: off
def _weight(name: str, meaning: str, when: str = "", infinite: bool = False) -> Parameter:
    return Parameter(name, 0.0, Number(low=0, infinite=infinite), "", meaning, per_epoch=True, when=when)


_FILTER = Either((Number(low=0, boolean=True), ArrayOf((("2",), ("3",)), low=0)))
_scan = "positions are refined, and scan_size is given"
_tilt_scan = "tilts of each pattern are refined, and scan_size is given"
CONSTRAINTS = (
    _weight("fast_axis_reg_weight_positions", "Weight of the squared second differences of positions along the fast "
            "axis.", _scan),
    _weight("slow_axis_reg_weight_positions", "Weight of the squared second differences, along the slow axis, of the "
            "sums of positions over scan rows.", _scan),
    _weight("deformation_reg_weight_positions", "Weight of the squared distance of positions from the best affine "
            "grid.", _scan),
    _weight("fast_axis_reg_weight_tilts", "Weight of the squared second differences of tilts along the fast axis.",
            _tilt_scan),
    _weight("slow_axis_reg_weight_tilts", "Weight of the squared second differences, along the slow axis, of the sums "
            "of tilts over scan rows.", _tilt_scan),
    _weight("deformation_reg_weight_tilts", "Weight of the squared distance of tilts from the best affine field.",
            _tilt_scan),
    _weight("phase_norm_weight", "Weight of the sum of |phase| of the object.", "obj is refined"),
    _weight("abs_norm_weight", "Weight of the sum of |log amplitude| of the object.", "obj is refined"),
    _weight("probe_reg_constraint_weight", "Weight of the probe's intensity outside its aperture in reciprocal space "
            "(squared L2 norm); inf = set it to zero there.", "probe is refined", infinite=True),
    Parameter("probe_constraint_mask", None, optional(Either((ArrayOf((("ky", "kx"),)),
                                                             Number(0, 2, open_low=True)))), "",
              "Aperture of that constraint: an array, 1 inside, zero frequency at n//2, or its radius as a fraction of "
              "the Nyquist frequency; None = aperture_mask.", when="probe_reg_constraint_weight is not 0",
              changes_loss=True),
    _weight("window_weight", "Weight of the probe's intensity outside a circular window in real space.",
            "probe is refined, and window is given"),
    Parameter("window", None, optional(ArrayOf((("2",), ("y", "x")))), "", "Two radii of that window: the "
              "penalty is zero inside the first and full outside the second; fractions of half the side of the probe "
              "array. Or the weight of each pixel of the probe array.", per_epoch=True,
              when="window_weight is not 0"),
    _weight("atv_weight", "Weight of the total variation of the object, sum (|dx|^p + |dy|^p)^(q/p).",
            "obj is refined"),
    Parameter("atv_q", 1.0, POSITIVE, "", "Exponent q of the total variation.", per_epoch=True,
              when="atv_weight is not 0"),
    Parameter("atv_p", 2.0, Number(low=1), "", "Exponent p of the total variation.", per_epoch=True,
              when="atv_weight is not 0"),
    _weight("mixed_variance_weight", "Weight of the variance between the blurred object modes.",
            "obj is refined and has several modes"),
    Parameter("mixed_variance_sigma", 0.5, POSITIVE, "cycles/px", "Width of the low-pass exp(-f^2/sigma^2) of that "
              "blur.", per_epoch=True, when="mixed_variance_weight is not 0"),
    _weight("wedge_mu", "Weight of the missing-wedge regulariser.", "obj is refined and has several slices"),
    Parameter("beta_wedge", 0.0, NON_NEGATIVE, "", "Opening of the missing wedge: weight 2/pi arctan(beta^2 "
              "qz^2/qr^2).", per_epoch=True, when="wedge_mu is not 0"),
    _weight("probe_mod_reg_weight", "Weight of the curvature of the probe's spectral amplitude at the scan's "
            "frequencies.", "probe is refined"),
    Parameter("probe_mod_tol", 0.05, POSITIVE, "1/scan step", "Radius around each of those frequencies.",
              per_epoch=True, when="probe_mod_reg_weight is not 0"),
    Parameter("apply_gaussian_filter", False, _FILTER, "px",
              "Smooth the object's phase after every update: standard deviations (y, x), or (z, y, x); one number for "
              "all three; True = 1.",
              per_epoch=True),
    Parameter("apply_gaussian_filter_amplitude", False, _FILTER, "px",
              "Smooth the object's absorption -log|O| after every update.", per_epoch=True),
    Parameter("keep_probe_states_orthogonal", False, Flag(), "", "Make the probe modes orthogonal, the strongest "
              "first, before every update; the patterns do not change.", per_epoch=True),
    Parameter("do_charge_flip", False, Flag(), "", "Charge flipping of the object before an update.", per_epoch=True),
    Parameter("cf_delta_phase", 0.1, NON_NEGATIVE, "", "Phases below this fraction of the largest are flipped.",
              per_epoch=True, when="do_charge_flip"),
    Parameter("cf_delta_abs", 0.01, NON_NEGATIVE, "", "Absorptions below this fraction of the largest are flipped.",
              per_epoch=True, when="do_charge_flip"),
    Parameter("cf_beta_phase", -0.95, Number(), "", "Factor on flipped phases.", per_epoch=True,
              when="do_charge_flip"),
    Parameter("cf_beta_abs", -0.95, Number(), "", "Factor on flipped absorptions.", per_epoch=True,
              when="do_charge_flip"),
    Parameter("fancy_sigma", None, optional(SigmaPairs()), "px", "Charge flip of a sharpened object: (phase, "
              "absorption), each (width of the de-blurring, width of the blurring after the flip) or None; or one "
              "number for all widths.",
              per_epoch=True, when="do_charge_flip"),
    Parameter("restart_from_vacuum", False, Flag(), "", "Set the object to vacuum before an update.", per_epoch=True),
    Parameter("reset_positions", False, Flag(), "", "Go back to the starting positions before an update.",
              per_epoch=True),
)

BEAM = (
    Parameter("extra_probe_defocus", 0.0, Number(), "Å", "Distance by which the starting probe is propagated; "
              "positive is forward, as for C10.", shapes_start=True),
    Parameter("aberrations", None, optional(ArrayOf((("K",),))), "Å",
              "Aberrations of the starting probe: C10, C12a, C12b, C21a, C21b, C23a, C23b, C30, ...",
              shapes_start=True),
    Parameter("n_hermite_probe_modes", None, optional(ArrayOf((("2",),), integer=True)), "",
              "Orders [n_x, n_y] of Hermite modes made from the starting probe, (n_x + 1)(n_y + 1) modes in all; "
              "with defocus_spread_modes so many of each defocus.",
              shapes_start=True),
    Parameter("defocus_spread_modes", None, optional(ArrayOf((("n",),))), "Å", "One probe mode at each of "
              "these defoci, made from the starting probe.", shapes_start=True),
    Parameter("estimate_aperture_based_on_binary", 0.0, Number(low=0, boolean=True), "",
              "If > 0, the starting probe is made from a binary mean pattern: pixels above this many times its mean "
              "are equal, others zero; 0 = from the mean pattern itself.", when="probe is None"),
    Parameter("beam_ctf", None, optional(ArrayOf((("ky", "kx"),))), "rad", "Phase subtracted from the starting probe's "
              "spectrum, zero frequency at n//2; padded by data_pad if it is smaller than the probe.",
              shapes_start=True),
    Parameter("mc_n_modes", None, optional(POSITIVE_WHOLE), "", "Number of probe modes that describe a source of "
              "finite size and a focal spread, by Monte-Carlo sampling.", shapes_start=True),
    Parameter("n_mc_samples", 256, POSITIVE_WHOLE, "", "Number of Monte-Carlo samples.", when="mc_n_modes is given"),
    Parameter("focal_spread", 0.0, NON_NEGATIVE, "Å", "Standard deviation of the defocus.",
              when="mc_n_modes is given"),
    Parameter("spatial_coh_x_A", None, optional(NON_NEGATIVE), "Å", "Standard deviation of the source along x; "
              "None = that along y.", when="mc_n_modes is given"),
    Parameter("spatial_coh_y_A", None, optional(NON_NEGATIVE), "Å", "Standard deviation of the source along y; "
              "None = that along x.", when="mc_n_modes is given"),
    Parameter("spatial_coh_xy", 0.0, Number(), "Å^2", "Covariance of the source along x and y.",
              when="mc_n_modes is given"),
)


def _record(name: str, unit: str, meaning: str) -> Parameter:
    return Parameter(name, None, Anything(), unit, meaning, status=RECORDED)


RECORD = (
    _record("sample_name", "", "Name of the sample."),
    _record("chemical_formula", "", "Chemical formula of the sample."),
    _record("path_json", "", "Metadata file of the microscope."),
    _record("rez_pixel_size_A", "1/Å", "Reciprocal pixel of the detector."),
    _record("rez_pixel_size_mrad", "mrad", "Angular pixel of the detector."),
    _record("conv_semiangle_mrad", "mrad", "Convergence semi-angle."),
    _record("bright_threshold", "", "Threshold of the bright-field disk, as a fraction of the maximum."),
    _record("PLRotation_deg", "deg", "Rotation between scan and detector."),
    _record("fov_nm", "nm", "Field of view along the longer side of the scan."),
    _record("defocus", "Å", "Nominal defocus, with the sign of C10: overfocus is positive."),
    _record("total_thickness", "Å", "Thickness of the specimen."),
    _record("comx", "px", "Centre of mass of each pattern along x."),
    _record("comy", "px", "Centre of mass of each pattern along y."),
    _record("aperture_shifts_x", "px", "Shift of the bright-field disk of each pattern along x."),
    _record("aperture_shifts_y", "px", "Shift of the bright-field disk of each pattern along y."),
)
