"""Every parameter, once: name, default, kind, unit, meaning. The only place where a default exists."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from pypty.params.kinds import (
    ArrayOf,
    Choice,
    DType,
    Either,
    FilePath,
    Flag,
    Number,
    Switch,
    Text,
    optional,
)
from pypty.params.parameter import NO_EFFECT, NOT_YET, Parameter
from pypty.params.schema_batches import BATCHES
from pypty.params.schema_changes import BEAM, CONSTRAINTS, RECORD
from pypty.params.schema_losses import LOSSES, MODEL
from pypty.params.schema_projections import PROJECTED
from pypty.params.schema_results import RESULTS

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
    Parameter("dataset", None, optional(ArrayOf((("N", "ky", "kx"), ("sy", "sx", "ky", "kx"), ("N", "D")), lazy=True)),
              "counts", "The measured patterns as an array in memory, zero frequency at index n//2 (near field: "
              "images); (N, D) with masks. Wins over data_path."),
    Parameter("data_key", "data", Text(), "", "Name of the data set inside an HDF5 file.",
              when="data_path is an HDF5 file"),
    Parameter("detector_mask", None, optional(Either((ArrayOf((("ky", "kx"), ("N", "ky", "kx"))), Choice(("nan",))))),
              "", "Weight of each detector pixel in the loss, 0 (ignored: dead pixel, beam stop) to 1; shape of one "
              "measured pattern, or one per pattern. 'nan' gives weight 0 to every pixel that is NaN in the data."),
    Parameter("masks", None, optional(ArrayOf((("D", "ky", "kx"),))), "",
              "Virtual detectors: the data are (N, D) sums of the pattern over these masks; for the algorithms "
              "*_compressed."),
    Parameter("data_multiplier", 1.0, _positive, "", "Every count is multiplied by this number."),
    Parameter("data_pad", 0, _natural, "px", "Zeros added on each side of every pattern, after binning: "
              "finer pixels in real space."),
    Parameter("data_bin", 1, _positive_whole, "px", "Detector pixels are summed in blocks of data_bin x data_bin; "
              "incomplete blocks at the far edges are left out."),
    Parameter("flip_ky", False, Flag(), "", "Reverse the ky axis of every pattern."),
    Parameter("data_shift_vector", (0, 0), ArrayOf((("2",),), integer=True), "px",
              "Shift (ky, kx) of every pattern before binning; the edge that wraps around is set to zero."),
    Parameter("upsample_pattern", 1, _positive_whole, "", "Model pixels per detector pixel and axis: "
              "a larger window for a probe that does not fit into 1/(detector pixel). data_pad counts model pixels."),
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
              "Where the detector is: diffraction patterns, or defocused images."),
    Parameter("aperture_mask", None, optional(Either((ArrayOf((("ky", "kx"),)), Number(0, 2, open_low=True)))), "",
              "Aperture in the (padded) pattern, or its radius as a fraction of the Nyquist frequency.",
              when="probe is 'aperture', or for probe_reg_constraint_weight without a mask of its own"),
    Parameter("alpha_near_field", 0.0, _non_negative, "rad", "Illumination semi-angle: blurs defocused images.",
              when="recon_type is near_field"),
    Parameter("defocus_array", (0.0,), ArrayOf((("1",), ("N",), ("N", "1", "1"))), "Å",
              "Distance from the exit plane to the image, positive downstream; one for all, or one per pattern "
              "(focal series).",
              when="recon_type is near_field"),
    Parameter("Cs", 0.0, Number(), "Å", "Spherical aberration of the imaging lens.", when="recon_type is near_field"),
    Parameter("num_slices", 1, _positive_whole, "", "Number of slices, when obj does not already fix it."),
    Parameter("slice_distances", (10.0,), ArrayOf((("1",), ("slices - 1",))), "Å",
              "Gap after each slice: one value for all, or one per gap. Nothing follows the last slice, but "
              "with better_multislice and yoshida, where its gap is the last value.",
              when="there are two slices or more, or propmethod is one of those"),
    Parameter("edge_slice_thickness", None, optional(_positive), "Å",
              "First gap, when it is larger than the common slice distance.", when="slice_distances has one value"),
    Parameter("scan_size", None, optional(ArrayOf((("2",),), integer=True)), "points",
              "Scan points (slow, fast).", when="weights of positions or tilts, or puzzle_positions, are on"),
    Parameter("scan_step_A", 1.0, _positive, "Å", "Distance between scan points.",
              when="probe_mod_reg_weight is not 0"),
)

STATE = (
    Parameter("obj", None, optional(ArrayOf((("y", "x", "z", "modes"),), complex=True)), "",
              "Starting transmission function; None = vacuum. Grown to the right and bottom to cover the scan."),
    Parameter("probe", None, optional(Either((
                  ArrayOf((("y", "x", "modes"), ("y", "x"), ("y", "x", "modes", "subscans")), complex=True),
                  Choice(("aperture",))))), "",
              "Starting probe, centre at n//2; with probe_marker one for each subscan. None: from the mean pattern; "
              "'aperture': from aperture_mask."),
    Parameter("positions", ((0.0, 0.0),), ArrayOf((("N", "2"),)), "px",
              "Top-left corner [y, x] of each window, in reconstruction pixels; one row for all patterns of a focal "
              "series or single shot; "
              "on the pixels of obj where one is given, else moved so that the smallest is extra_space_on_side_px."),
    Parameter("positions_correction", None, optional(ArrayOf((("N", "2"),))), "px",
              "Added to positions: the sub-pixel remainder beside integer positions."),
    Parameter("tilts", None, optional(ArrayOf((("N", "6"), ("1", "6")))), "rad",
              "Tilts [y, x] before, inside and after the specimen, of all patterns or of each."),
    Parameter("tilt_mode", 0, Number(0, 4, integer=True), "", "Which tilts act: 0 inside, 1 after, 2 before, "
              "3 inside and after, 4 all.", when="tilts are given or refined"),
    Parameter("static_background", None, optional(Either((_pattern, _non_negative))), "sqrt(counts)",
              "Square root of an intensity that is added to every pattern, zero frequency at n//2: an array of a "
              "pattern's shape, or the sum of a random start; 0 = none."),
    Parameter("beam_current", None, optional(ArrayOf((("N",),))), "",
              "Factor on the probe's amplitude in each pattern; None = 1."),
    Parameter("aberrations_array", ((0.0,),), ArrayOf((("groups", "K"),)), "Å", "Aberrations C10, C12a, "
              "C12b, C21a, ... of each group of patterns.", when="aberration_marker is given"),
    Parameter("aberration_marker", None, optional(ArrayOf((("N",),), integer=True)), "",
              "Row of aberrations_array for each pattern; None = no local aberrations."),
    Parameter("probe_marker", None, optional(ArrayOf((("N",),), integer=True)), "",
              "Subscan (last axis of a 4-D probe) of each pattern; None = one probe for all."),
    Parameter("phase_plate_in_h5", None, optional(FilePath()), "",
              "HDF5 file with one phase plate (ky, kx) per pattern, zero frequency first, as data set 'configs' "
              "(N, ky, kx) complex."),
    Parameter("puzzle_positions", False, Flag(), "", "Put positions together that fell apart into rigid regions.",
              per_epoch=True, when="scan_size is given"),
)

NUMERICS = (
    Parameter("propmethod", "multislice",
              Choice(("multislice", "better_multislice", "yoshida", "angular_spectrum")), "",
              "Propagation through the specimen: multislice (Fresnel, 1st order in the slice thickness), "
              "better_multislice and yoshida (4th order; a propagation follows every slice, also the last), "
              "angular_spectrum (multislice without the small-angle approximation).", per_epoch=True),
    Parameter("allow_subPixel_shift", True, Flag(), "", "False: positions are rounded to whole pixels."),
    Parameter("skip_preprocessing", False, Flag(), "", "True: positions are not moved to start at 0, and a given probe "
              "is neither scaled to the counts nor band-limited."),
    Parameter("extra_space_on_side_px", 0, Number(0, 2**40, integer=True), "px", "Free rim around the scanned area.",
              when="skip_preprocessing is False"),
    Parameter("dynamically_resize_yx_object", 0, _non_negative, "px",
              "When a position has moved this far from its window, windows are placed anew and the object grows; 0 = "
              "never.", per_epoch=True, when="positions are refined"),
    Parameter("damping_cutoff_multislice", 2 / 3, Number(0, 2, open_low=True), "",
              "Band limit as a fraction of the largest sampled frequency."),
    Parameter("smooth_rolloff", 0.0, _non_negative, "",
              "Soft edge of the band limit of the start and of every step, as a fraction of the largest frequency; "
              "smaller than the band limit."),
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
    Parameter("fft_library", "auto", Choice(("auto", "fftw", "scipy")), "", "Fourier transforms on the CPU: auto takes "
              "FFTW where pyFFTW is installed (pip install 'pypty[fast]'), which is twice as fast, else SciPy. FFTW "
              "measures which way is fastest: the last digits may differ between two processes, but not in a resumed "
              "run; scipy always repeats them.", when="backend is cpu"),
    Parameter("executor", "auto", Choice(("auto", "fused", "stages")), "", "How waves are computed: auto takes the "
              "fastest executor that covers the model (pypty.log says which): on a GPU split kernels, else the fused "
              "one; fused never takes split kernels; stages takes one effect after the other, which is the definition, "
              "and slower."),
    Parameter("deterministic", False, Flag(), "", "On a GPU: sums whose last digits do not depend on the order in "
              "which it works, a little slower. On the CPU they never do.", when="backend is gpu"),
    Parameter("recompute_slices", "auto", Either((Choice(("auto",)), Flag())), "", "Keep the waves entering every "
              "sqrt(n)-th of n slices only, and compute the others again on the way back: about a third more time, "
              "much less memory. auto: where memory would make the batches too small.",
              when="there are two slices or more, and the fused executor is used"),
    Parameter("compute_batch", "auto", Either((Choice(("auto",)), _positive_whole)), "patterns",
              "Patterns computed together. auto: from the memory estimate (pypty.plan)."),
    Parameter("memory_saturation", 0.7, Number(0, 1, open_low=True), "", "Fraction of the free memory to use.",
              when="compute_batch is 'auto'"),
    Parameter("smart_memory", True, Flag(), "", "Memory is always planned here.", per_epoch=True, status=NO_EFFECT),
    Parameter("remove_fft_cache", False, Flag(), "", "Plans are kept; there is nothing to remove.", status=NO_EFFECT),
    Parameter("seed", 0, _natural, "", "Seed of every random number.",
              when="static_background is a number, or mc_n_modes is given"),
)

OPTIMISER = (
    Parameter("algorithm", "lsq_sqrt", Choice(("lsq_sqrt", "ml", "lsq", "lsq_sqrt_2", "poisson_gaussian",
                                               "lsq_compressed", "gauss_compressed", "poisson_compressed")), "",
              "Noise model: lsq_sqrt (amplitudes), ml (Poisson), lsq (intensities), lsq_sqrt_2 (weighted intensities), "
              "poisson_gaussian (ml with gain and read-out noise); lsq_compressed, gauss_compressed, "
              "poisson_compressed: lsq, lsq_sqrt and ml of virtual detectors (masks)."),
    Parameter("detector_gain", 1.0, _positive, "counts/electron", "Counts in the data for one electron.",
              when="algorithm is poisson_gaussian"),
    Parameter("readout_noise", 0.0, _non_negative, "counts", "Standard deviation of the detector's read-out noise, in "
              "the units of the data; negative counts are then allowed.", when="algorithm is poisson_gaussian"),
    Parameter("detector_blur_std", 0.0, _non_negative, "px", "Standard deviation of the detector's Gaussian point "
              "spread, in detector pixels; 0 = none."),
    Parameter("loss_weight", 1.0, Either((_positive, Choice(("mean", "mean_full")))), "",
              "Factor on the data term; 'mean' = 1/number of patterns, 'mean_full' = 1/number of data values.",
              per_epoch=True),
    Parameter("hist_length", 10, Number(low=0, integer=True, infinite=True), "pairs",
              "L-BFGS memory; 0 = preconditioned steepest descent, inf = unlimited.", per_epoch=True),
    Parameter("update_step_bfgs", 1.0, _positive, "", "First trial step of every line search.", per_epoch=True),
    Parameter("warmup_epochs", "auto", Either((Choice(("auto",)), _natural)), "epochs", "First epochs in which object "
              "and probe take a preconditioned step after every mini-batch; what else is refined waits, and so do "
              "regularisers. auto: for patterns in the far field and a start from vacuum, as long as errors fall "
              "within an epoch (mostly 2 or 3, at most 20); else none.",
              when="obj is refined"),
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
    Parameter("positions_parametrization", "free", Choice(("free", "affine", "jitter")), "",
              "How positions are refined: each on its own; all by one affine map (scan rotation, scale, shear, shift); "
              "or each on its own without a common affine map, which the data determine badly.",
              per_epoch=True, when="positions are refined"),
    Parameter("update_slice_distances", False, Switch(), "", "Refine the slice distances.", per_epoch=True,
              when="there are two slices or more, or propmethod is better_multislice or yoshida"),
    Parameter("update_tilts", False, Switch(), "", "Refine those tilts that act (tilt_mode); from zero where none "
              "are given.", per_epoch=True),
    Parameter("update_beam_current", False, Switch(), "", "Refine the beam current of every pattern.", per_epoch=True),
    Parameter("update_aberrations_array", False, Switch(), "", "Refine local aberrations.", per_epoch=True,
              when="aberration_marker is given"),
    Parameter("update_static_background", False, Switch(), "", "Refine the background.", per_epoch=True,
              when="static_background is given"),
    Parameter("update_detector_blur_std", False, Switch(), "", "Refine the width of the detector's point spread.",
              per_epoch=True, when="detector_blur_std is not 0"),
    Parameter("phase_only_obj", False, Flag(), "", "Refine only the phase of the object; its amplitude stays.",
              per_epoch=True),
    Parameter("obj_parametrization", "complex", Choice(("complex", "amplitude_phase")), "",
              "How the object is refined: as complex numbers, or by amplitude and phase.", per_epoch=True,
              when="phase_only_obj is False"),
    Parameter("tune_only_probe_phase", False, Flag(), "", "Refine only the phase of the probe's spectrum.",
              per_epoch=True),
    Parameter("tune_only_probe_abs", False, Flag(), "", "Refine only the amplitude of the probe's spectrum.",
              per_epoch=True),
    Parameter("freeze_stuck_blocks", True, Flag(), "", "After two rejected updates in a row freeze one refined block "
              "for ten epochs: positions first, then tilts, ..., the probe last.", per_epoch=True),
)

GROUPS: Mapping[str, tuple[Parameter, ...]] = MappingProxyType({
    "Data": DATA, "Output": OUTPUT, "Experiment": EXPERIMENT, "Starting state": STATE, "Numerics": NUMERICS,
    "Model options": MODEL, "Optimiser": OPTIMISER, "Batches, first-order optimisers, monitor": BATCHES,
    "Combined losses": LOSSES, "Constraints": CONSTRAINTS, "Constraints between epochs": PROJECTED, "Beam": BEAM,
    "Result files": RESULTS, "Recorded only": RECORD,
})

SCHEMA: Mapping[str, Parameter] = MappingProxyType({
    parameter.name: parameter for group in GROUPS.values() for parameter in group
})
