"""Every parameter, once: name, default, kind, unit, meaning. The only place where a default exists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from pypty.params.kinds import (
    Anything,
    ArrayOf,
    Choice,
    DType,
    Either,
    FilePath,
    Flag,
    Kind,
    Number,
    Switch,
    Text,
    optional,
)

NOT_YET = "not available yet"
RECORDED = "recorded"
NO_EFFECT = "no effect"


@dataclass(frozen=True)
class Parameter:
    """One key of the parameter dict.

    Attributes
    ----------
    name, default, kind, unit, meaning : what ``pypty explain`` prints
    per_epoch : may be a callable of the epoch or an expression
    when : when it has an effect ("" = always)
    status : "" (it works), NOT_YET (only its neutral value is accepted), RECORDED (kept in params.yaml,
        no effect on the reconstruction) or NO_EFFECT (a PyPty 2.2 key this engine does not need; a
        warning says so when it is set)
    """

    name: str
    default: Any
    kind: Kind
    unit: str
    meaning: str
    per_epoch: bool = False
    when: str = ""
    status: str = ""

    def is_neutral(self, value: Any) -> bool:
        """Whether ``value`` asks for nothing: the default, None, False, zero or zeros."""
        if value is None or value is False:
            return True
        if isinstance(value, str) or callable(value):
            return bool(value == self.default)
        if isinstance(value, (list, tuple, np.ndarray, int, float, np.number)):
            try:
                array = np.asarray(value, dtype=float)
            except (TypeError, ValueError):
                return False
            return bool(not array.any() or np.array_equal(array, np.asarray(_numeric(self.default))))
        return bool(value == self.default)


def _numeric(default: Any) -> Any:
    return default if isinstance(default, (int, float, list, tuple, np.ndarray)) else np.nan


_whole = Number(integer=True)
_natural = Number(low=0, integer=True)
_positive = Number(low=0, open_low=True)
_non_negative = Number(low=0)
_positive_whole = Number(low=1, integer=True)
_pattern = ArrayOf((("ky", "kx"),))

# One row per parameter; the formatter would make it three times as long.
# fmt: off
DATA = (
    Parameter("data_path", "", FilePath(), "",
              "File with the measured patterns: .h5/.hdf5 or .npy, 3-D (N, ky, kx) or 4-D (sy, sx, ky, kx).",
              when="dataset is not given"),
    Parameter("dataset", None, optional(ArrayOf((("N", "ky", "kx"), ("sy", "sx", "ky", "kx")), lazy=True)), "counts",
              "The measured patterns as an array in memory, zero frequency at index n//2; wins over data_path."),
    Parameter("data_key", "data", Text(), "", "Name of the data set inside an HDF5 file.",
              when="data_path is an HDF5 file"),
    Parameter("detector_mask", None, optional(Either((ArrayOf((("ky", "kx"), ("N", "ky", "kx"))), Choice(("nan",))))),
              "", "Weight of each detector pixel in the loss, 0 (ignored: dead pixel, beam stop) to 1; shape of one "
              "measured pattern, or one per pattern. 'nan' gives weight 0 to every pixel that is NaN in the data."),
    Parameter("masks", None, optional(ArrayOf((("D", "ky", "kx"),))), "",
              "Virtual detectors: the data are (N, D) sums over these masks.", status=NOT_YET),
    Parameter("data_multiplier", 1.0, _positive, "", "Every count is multiplied by this number."),
    Parameter("data_pad", 0, _natural, "px", "Zeros added on each side of every pattern, after binning: "
              "finer pixels in real space."),
    Parameter("data_bin", 1, _positive_whole, "px", "Detector pixels are summed in blocks of data_bin x data_bin; "
              "incomplete blocks at the far edges are left out."),
    Parameter("flip_ky", False, Flag(), "", "Reverse the ky axis of every pattern."),
    Parameter("data_shift_vector", (0, 0), ArrayOf((("2",),), integer=True), "px",
              "Shift (ky, kx) of every pattern before binning; the edge that wraps around is set to zero."),
    Parameter("upsample_pattern", 1, _positive_whole, "", "Model pixels per detector pixel and axis.", status=NOT_YET),
    Parameter("sequence", None, optional(ArrayOf((("n",),), integer=True)), "",
              "Indices of the patterns that are used; None = all. May be a function of the epoch.", per_epoch=True),
    Parameter("use_full_FOV", True, Flag(), "", "False: the object covers only the patterns of the sequence at the "
              "first epoch.", when="sequence is given and skip_preprocessing is False"),
    Parameter("force_dataset_dtype", None, optional(DType()), "",
              "Cast the data to this dtype when read; None keeps the detector's own type until the loss."),
    Parameter("force_pad", False, Flag(), "", "Padding is always virtual here.", status=NO_EFFECT),
    Parameter("load_one_by_one", True, Flag(), "", "True: patterns are kept in memory if they fit, else read when "
              "needed. False: they must be kept in memory."),
    Parameter("preload_to_cpu", False, Flag(), "", "True: the same as load_one_by_one=False."),
    Parameter("mean_pattern", None, optional(_pattern), "counts",
              "Mean measured pattern, used to build the starting probe instead of the mean of the data.",
              when="probe is None"),
)

OUTPUT = (
    Parameter("output_folder", "", FilePath(), "", "Folder for results; '' writes nothing."),
    Parameter("strip_dataset_from_params", True, Flag(), "", "False: an in-memory dataset is written beside "
              "params.yaml, so that the folder can be resumed without passing the data again."),
    Parameter("save_loss_log", 1, Number(0, 2, integer=True), "",
              "loss.csv: 0 none, 1 one column for all regularisers, 2 one column for each."),
    Parameter("epoch_prev", 0, _natural, "epochs", "Index of the first epoch: the number already done by an earlier "
              "run whose arrays are given."),
    Parameter("epoch_max", 200, _natural, "epochs", "The run ends when this epoch index is reached."),
    Parameter("save_checkpoints_every_epoch", 0, _natural, "epochs",
              "Write numbered checkpoint_*_epoch_<k>.npy every so many epochs; 0 = never."),
    Parameter("save_inter_checkpoints", 1, _natural, "epochs",
              "Refresh co.npy, cp.npy, ... and resume.h5 every so many epochs; 0 = only at the end."),
    Parameter("print_flag", 1, Number(0, 4, integer=True), "",
              "0 silent, 1 progress bar, 2 a line per epoch, 3 also each line-search step, 4 also each regulariser."),
    Parameter("resume", False, Flag(), "", "Continue exactly from resume.h5 in output_folder."),
    Parameter("data_simulation_flag", False, Either((Flag(), Text())), "",
              "Use pypty.simulate(params) to compute patterns.", per_epoch=True, status=NOT_YET),
    Parameter("data_simulation_exitwave", False, Flag(), "", "Store exit waves when simulating.", per_epoch=True,
              status=NOT_YET),
)

EXPERIMENT = (
    Parameter("acc_voltage", 60.0, Number(0, 5000, open_low=True), "kV", "Accelerating voltage."),
    Parameter("pixel_size_x_A", 1.0, _positive, "Å", "Reconstruction pixel along x: 1/(number of pixels incl. padding "
              "x reciprocal pixel)."),
    Parameter("pixel_size_y_A", 1.0, _positive, "Å", "Reconstruction pixel along y."),
    Parameter("recon_type", "far_field", Choice(("far_field", "near_field")), "",
              "Where the detector is. near_field is " + NOT_YET + "."),
    Parameter("aperture_mask", None, optional(Either((ArrayOf((("ky", "kx"),)), Number(0, 2, open_low=True)))), "",
              "Aperture in the (padded) pattern, or its radius as a fraction of the Nyquist frequency.",
              when="probe is 'aperture'"),
    Parameter("alpha_near_field", 0.0, _non_negative, "rad", "Illumination semi-angle (near field).", status=NOT_YET),
    Parameter("defocus_array", (0.0,), ArrayOf((("1",), ("N",), ("N", "1", "1"))), "Å", "Near-field defocus.",
              status=NOT_YET),
    Parameter("Cs", 0.0, Number(), "Å", "Spherical aberration in near field.", status=NOT_YET),
    Parameter("num_slices", 1, _positive_whole, "", "Number of slices, when obj does not already fix it."),
    Parameter("slice_distances", (10.0,), ArrayOf((("1",), ("slices - 1",))), "Å",
              "Gap after each slice: one value for all, or one per gap. Nothing is propagated after the last slice.",
              when="there are two slices or more"),
    Parameter("edge_slice_thickness", None, optional(_positive), "Å",
              "First gap, when it is larger than the common slice distance.", when="slice_distances has one value"),
    Parameter("scan_size", None, optional(ArrayOf((("2",),), integer=True)), "points",
              "Scan points (slow, fast).", when="the number of positions is checked; nothing else uses it yet"),
    Parameter("scan_step_A", 1.0, _positive, "Å", "Distance between scan points.", status=RECORDED),
)

STATE = (
    Parameter("obj", None, optional(ArrayOf((("y", "x", "z", "modes"),), complex=True)), "",
              "Starting transmission function; None = vacuum. Grown to the right and bottom to cover the scan."),
    Parameter("probe", None, optional(Either((ArrayOf((("y", "x", "modes"), ("y", "x")), complex=True),
                                              Choice(("aperture",))))), "",
              "Starting probe, centre at n//2. None: from the mean pattern; 'aperture': from aperture_mask."),
    Parameter("positions", ((0.0, 0.0),), ArrayOf((("N", "2"),)), "px",
              "Top-left corner [y, x] of each window, in reconstruction pixels; "
              "on the pixels of obj where one is given, else moved so that the smallest is 0."),
    Parameter("positions_correction", None, optional(ArrayOf((("N", "2"),))), "px",
              "Added to positions: the sub-pixel remainder beside integer positions."),
    Parameter("tilts", None, optional(ArrayOf((("N", "6"), ("1", "6")))), "rad",
              "Specimen and beam tilts [y, x] before, inside, after.", status=NOT_YET),
    Parameter("tilt_mode", 0, Number(0, 4, integer=True), "", "Which tilts act.", status=NOT_YET),
    Parameter("static_background", None, optional(Either((_pattern, _non_negative))), "sqrt(counts)",
              "Square root of an additive intensity.", status=NOT_YET),
    Parameter("beam_current", None, optional(ArrayOf((("N",),))), "", "Multiplies the probe amplitude.",
              status=NOT_YET),
    Parameter("aberrations_array", ((0.0,),), ArrayOf((("groups", "K"),)), "Å", "Local aberrations.", status=NOT_YET),
    Parameter("aberration_marker", None, optional(ArrayOf((("N",),), integer=True)), "",
              "Row of aberrations_array for each pattern.", status=NOT_YET),
    Parameter("probe_marker", None, optional(ArrayOf((("N",),), integer=True)), "",
              "Subscan (last axis of a 4-D probe) for each pattern.", status=NOT_YET),
    Parameter("phase_plate_in_h5", None, optional(FilePath()), "",
              "HDF5 file with one phase plate per pattern (data set 'configs').", status=NOT_YET),
    Parameter("puzzle_positions", False, Flag(), "", "Repair positions that fell apart into rigid regions.",
              per_epoch=True, status=NOT_YET),
)

NUMERICS = (
    Parameter("propmethod", "multislice",
              Choice(("multislice", "better_multislice", "yoshida", "angular_spectrum")), "",
              "Propagation through the specimen; all but multislice are " + NOT_YET + ".", per_epoch=True),
    Parameter("allow_subPixel_shift", True, Flag(), "", "False: positions are rounded to whole pixels."),
    Parameter("skip_preprocessing", False, Flag(), "", "True: positions are not moved to start at 0, and a given probe "
              "is neither scaled to the counts nor band-limited."),
    Parameter("extra_space_on_side_px", 0, Number(0, 2**40, integer=True), "px", "Free rim around the scanned area.",
              when="skip_preprocessing is False"),
    Parameter("dynamically_resize_yx_object", 0, _non_negative, "px",
              "Grow the object when corrections exceed this.", per_epoch=True, status=NOT_YET),
    Parameter("damping_cutoff_multislice", 2 / 3, Number(0, 2, open_low=True), "",
              "Band limit as a fraction of the largest sampled frequency."),
    Parameter("smooth_rolloff", 0.0, _non_negative, "", "Soft edge of the band limit.", status=NOT_YET),
    Parameter("update_extra_cut", 0.005, _non_negative, "", "Object and probe are band-limited this much tighter than "
              "the waves.", when="the object's limit: lazy_clean is False"),
    Parameter("lazy_clean", False, Flag(), "", "True: each window of the object is band-limited in the model; False: "
              "the whole object is kept band-limited."),
    Parameter("use_padded_intensity", True, Flag(), "", "False: the padded rim of the model intensity is cut off "
              "instead of being compared with zeros.", when="data_pad > 0"),
    Parameter("default_dtype", "double", Choice(("double", "single")), "",
              "Precision of waves. Sums and positions are always double. (PyPty's 'half' is not offered.)"),
    Parameter("backend", "auto", Choice(("auto", "cpu", "gpu")), "",
              "Device: auto takes a GPU where one works; gpu fails where none does (see  pypty doctor)."),
    Parameter("n_threads", None, optional(_positive_whole), "", "Threads on the CPU; None = the cores this process "
              "may use.", when="backend is cpu"),
    Parameter("compute_batch", "auto", Either((Choice(("auto",)), _positive_whole)), "patterns",
              "Patterns computed together. auto: from the memory estimate (pypty.plan)."),
    Parameter("memory_saturation", 0.7, Number(0, 1, open_low=True), "", "Fraction of the free memory to use.",
              when="compute_batch is 'auto'"),
    Parameter("smart_memory", True, Flag(), "", "Memory is always planned here.", per_epoch=True, status=NO_EFFECT),
    Parameter("remove_fft_cache", False, Flag(), "", "Plans are kept; there is nothing to remove.", status=NO_EFFECT),
    Parameter("seed", 0, _natural, "", "Seed of every random number.", when="one is drawn: nothing does yet"),
)

OPTIMISER = (
    Parameter("algorithm", "lsq_sqrt", Choice(("lsq_sqrt", "ml", "lsq", "lsq_sqrt_2", "lsq_compressed",
                                               "gauss_compressed", "poisson_compressed")), "",
              "Noise model: lsq_sqrt (amplitudes), ml (Poisson), lsq (intensities), lsq_sqrt_2. The *_compressed ones "
              "are " + NOT_YET + "."),
    Parameter("loss_weight", 1.0, Either((_positive, Choice(("mean", "mean_full")))), "",
              "Factor on the data term; 'mean' = 1/number of patterns, 'mean_full' = 1/number of data values.",
              per_epoch=True),
    Parameter("hist_length", 10, Number(low=0, integer=True, infinite=True), "pairs",
              "L-BFGS memory; 0 = preconditioned steepest descent, inf = unlimited.", per_epoch=True),
    Parameter("update_step_bfgs", 1.0, _positive, "", "First trial step of every line search.", per_epoch=True),
    Parameter("preconditioner", True, Flag(), "", "Start L-BFGS from the inverse illumination (Gauss-Newton diagonal) "
              "instead of one number per block."),
    Parameter("wolfe_c1_constant", 0.1, Number(0, 1, open_low=True), "", "Sufficient decrease (Wolfe 1).",
              per_epoch=True),
    Parameter("wolfe_c2_constant", 0.9, Number(0, 1, open_low=True), "", "Curvature (strong Wolfe 2); larger than c1.",
              per_epoch=True),
    Parameter("max_count", 20, optional(_positive_whole), "evaluations",
              "Largest number of evaluations in one line search; None = 100."),
    Parameter("reduce_factor", 0.1, Number(0, 1, open_low=True), "",
              "A too long step shrinks at most by this factor at a time."),
    Parameter("optimism", 3.0, Number(1, np.inf, open_low=True), "",
              "A too short step grows at most by this factor at a time."),
    Parameter("min_step", 1e-20, _non_negative, "", "The line search gives up below this step."),
    Parameter("reset_history_flag", False, Flag(), "", "Forget the L-BFGS history at this epoch.", per_epoch=True),
    Parameter("update_obj", True, Switch(), "", "Refine the object.", per_epoch=True),
    Parameter("update_probe", True, Switch(), "", "Refine the probe.", per_epoch=True),
    Parameter("update_probe_pos", False, Switch(), "", "Refine the scan positions.", per_epoch=True),
    Parameter("update_slice_distances", False, Switch(), "", "Refine the slice distances.", per_epoch=True,
              when="there are two slices or more"),
    Parameter("update_tilts", False, Switch(), "", "Refine the tilts.", per_epoch=True, status=NOT_YET),
    Parameter("update_beam_current", False, Switch(), "", "Refine the beam current.", per_epoch=True, status=NOT_YET),
    Parameter("update_aberrations_array", False, Switch(), "", "Refine local aberrations.", per_epoch=True,
              status=NOT_YET),
    Parameter("update_static_background", False, Switch(), "", "Refine the background.", per_epoch=True,
              status=NOT_YET),
    Parameter("phase_only_obj", False, Flag(), "", "Refine only the phase of the object.", per_epoch=True,
              status=NOT_YET),
    Parameter("tune_only_probe_phase", False, Flag(), "", "Refine only the phase of the probe's spectrum.",
              per_epoch=True, status=NOT_YET),
    Parameter("tune_only_probe_abs", False, Flag(), "", "Refine only the amplitude of the probe's spectrum.",
              per_epoch=True, status=NOT_YET),
)


def _weight(name: str, meaning: str) -> Parameter:
    return Parameter(name, 0.0, Number(low=0, infinite=True), "", meaning, per_epoch=True, status=NOT_YET)


CONSTRAINTS = (
    _weight("fast_axis_reg_weight_positions", "Weight: second differences of positions along the fast axis."),
    _weight("slow_axis_reg_weight_positions", "Weight: second differences of positions along the slow axis."),
    _weight("deformation_reg_weight_positions", "Weight: deviation of positions from an affine grid."),
    _weight("fast_axis_reg_weight_tilts", "Weight: second differences of tilts along the fast axis."),
    _weight("slow_axis_reg_weight_tilts", "Weight: second differences of tilts along the slow axis."),
    _weight("deformation_reg_weight_tilts", "Weight: deviation of tilts from an affine field."),
    _weight("phase_norm_weight", "Weight of the L1 norm of the object's phase."),
    _weight("abs_norm_weight", "Weight of the L1 norm of the object's absorption."),
    _weight("probe_reg_constraint_weight", "Weight: probe outside its aperture."),
    Parameter("probe_constraint_mask", None, optional(ArrayOf((("ky", "kx"),))), "", "Aperture of that constraint.",
              status=NOT_YET),
    _weight("window_weight", "Weight: probe outside its real-space window."),
    Parameter("window", None, optional(ArrayOf((("2",),))), "", "Inner and outer radius of that window.",
              per_epoch=True, status=NOT_YET),
    _weight("atv_weight", "Weight of the total variation of the object."),
    Parameter("atv_q", 1.0, _positive, "", "Exponent q of the total variation.", per_epoch=True, status=NOT_YET),
    Parameter("atv_p", 2.0, _positive, "", "Exponent p of the total variation.", per_epoch=True, status=NOT_YET),
    _weight("mixed_variance_weight", "Weight: variance between object modes."),
    Parameter("mixed_variance_sigma", 0.5, _positive, "", "Blur of that variance.", per_epoch=True, status=NOT_YET),
    _weight("wedge_mu", "Weight of the missing-wedge regulariser."),
    Parameter("beta_wedge", 0.0, _non_negative, "", "Opening of the missing wedge.", per_epoch=True, status=NOT_YET),
    _weight("probe_mod_reg_weight", "Weight: modulation of the probe at scan frequencies."),
    Parameter("probe_mod_tol", 0.05, _positive, "", "Width of those frequencies.", per_epoch=True, status=NOT_YET),
    Parameter("apply_gaussian_filter", False, Either((Flag(), ArrayOf((("2",), ("3",))))), "px",
              "Smooth the object's phase.", per_epoch=True, status=NOT_YET),
    Parameter("apply_gaussian_filter_amplitude", False, Either((Flag(), ArrayOf((("2",), ("3",))))), "px",
              "Smooth the object's absorption.", per_epoch=True, status=NOT_YET),
    Parameter("keep_probe_states_orthogonal", False, Flag(), "", "Orthogonalise the probe modes.", per_epoch=True,
              status=NOT_YET),
    Parameter("do_charge_flip", False, Flag(), "", "Charge flipping.", per_epoch=True, status=NOT_YET),
    Parameter("cf_delta_phase", 0.1, _non_negative, "", "Charge flip: phase threshold.", per_epoch=True,
              status=NOT_YET),
    Parameter("cf_delta_abs", 0.01, _non_negative, "", "Charge flip: absorption threshold.", per_epoch=True,
              status=NOT_YET),
    Parameter("cf_beta_phase", -0.95, Number(), "", "Charge flip: phase factor.", per_epoch=True, status=NOT_YET),
    Parameter("cf_beta_abs", -0.95, Number(), "", "Charge flip: absorption factor.", per_epoch=True, status=NOT_YET),
    Parameter("fancy_sigma", None, optional(Anything()), "", "Charge flip: de-blurring widths.", per_epoch=True,
              status=NOT_YET),
    Parameter("restart_from_vacuum", False, Flag(), "", "Set the object to vacuum.", per_epoch=True, status=NOT_YET),
    Parameter("reset_positions", False, Flag(), "", "Go back to the starting positions.", per_epoch=True,
              status=NOT_YET),
)

BEAM = (
    Parameter("extra_probe_defocus", 0.0, Number(), "Å", "The starting probe is propagated by this; positive is "
              "forward, the sign of C10."),
    Parameter("aberrations", None, optional(ArrayOf((("K",),))), "Å",
              "Aberrations of the starting probe: C10, C12a, C12b, C21a, C21b, C23a, C23b, C30, ..."),
    Parameter("n_hermite_probe_modes", None, optional(ArrayOf((("2",),), integer=True)), "",
              "Hermite modes [n_x, n_y] made from the starting probe.", status=NOT_YET),
    Parameter("defocus_spread_modes", None, optional(ArrayOf((("n",),))), "Å", "Probe modes at these defoci.",
              status=NOT_YET),
    Parameter("estimate_aperture_based_on_binary", 0.0, _non_negative, "",
              "Threshold, in units of the mean, that turns patterns into apertures.", status=NOT_YET),
    Parameter("beam_ctf", None, optional(ArrayOf((("ky", "kx"),))), "rad", "Phase of the starting probe's spectrum.",
              status=NOT_YET),
    Parameter("mc_n_modes", None, optional(_positive_whole), "", "Modes from Monte-Carlo source size and focal spread.",
              status=NOT_YET),
    Parameter("n_mc_samples", 256, _positive_whole, "", "Monte-Carlo samples.", status=NOT_YET),
    Parameter("focal_spread", 0.0, _non_negative, "Å", "Standard deviation of the defocus.", status=NOT_YET),
    Parameter("spatial_coh_x_A", None, optional(_non_negative), "Å", "Source size along x.", status=NOT_YET),
    Parameter("spatial_coh_y_A", None, optional(_non_negative), "Å", "Source size along y.", status=NOT_YET),
    Parameter("spatial_coh_xy", 0.0, Number(), "Å^2", "Source-size covariance.", status=NOT_YET),
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
    _record("bright_threshold", "", "Threshold that defined the bright-field disk."),
    _record("PLRotation_deg", "deg", "Rotation between scan and detector."),
    _record("fov_nm", "nm", "Field of view along the fast axis."),
    _record("defocus", "Å", "Nominal defocus."),
    _record("total_thickness", "Å", "Thickness of the specimen."),
    _record("comx", "px", "Centre of mass of each pattern along x."),
    _record("comy", "px", "Centre of mass of each pattern along y."),
)

GROUPS: Mapping[str, tuple[Parameter, ...]] = MappingProxyType({
    "Data": DATA, "Output": OUTPUT, "Experiment": EXPERIMENT, "Starting state": STATE, "Numerics": NUMERICS,
    "Optimiser": OPTIMISER, "Constraints": CONSTRAINTS, "Beam": BEAM, "Recorded only": RECORD,
})

SCHEMA: Mapping[str, Parameter] = MappingProxyType({
    parameter.name: parameter for group in GROUPS.values() for parameter in group
})
