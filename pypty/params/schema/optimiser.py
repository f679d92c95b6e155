"""Parameters of the loss and of L-BFGS, and which unknowns are refined."""

from __future__ import annotations

import math

from pypty.params.kinds import Choice, Either, Flag, Null, Number, Switch
from pypty.params.parameter import Parameter
from pypty.params.schema.numbers import NATURAL, NON_NEGATIVE, POSITIVE, POSITIVE_WHOLE
from pypty.params.special_kinds import Unlimited

# One row per parameter; the formatter would make it three times as long.
# fmt: off
OPTIMISER = (
    Parameter("algorithm", "auto", Choice(("auto", "lsq_sqrt", "ml", "lsq", "lsq_sqrt_2", "poisson_gaussian",
                                           "lsq_compressed", "gauss_compressed", "poisson_compressed")), "",
              "Noise model: lsq_sqrt (amplitudes), ml (Poisson), lsq (intensities), lsq_sqrt_2 (weighted intensities), "
              "poisson_gaussian (ml with gain and read-out noise); lsq_compressed, gauss_compressed, "
              "poisson_compressed: lsq, lsq_sqrt and ml for virtual detectors (masks). auto: ml (poisson_compressed) "
              "for counts; poisson_gaussian if detector_gain or readout_noise is given, or for scaled counts whose "
              "noise can be measured; lsq_sqrt (lsq_compressed) for anything else. The log, pypty check and "
              "Result.decisions say which, and why.", changes_loss=True),
    Parameter("detector_gain", 1.0, POSITIVE, "counts/electron", "Counts in the data per electron.",
              when="algorithm is poisson_gaussian, or auto", changes_loss=True),
    Parameter("readout_noise", 0.0, NON_NEGATIVE, "counts", "Standard deviation of the detector's read-out noise, in "
              "units of the data; negative counts are then allowed.", when="algorithm is poisson_gaussian, or auto",
              changes_loss=True),
    Parameter("detector_blur_std", 0.0, NON_NEGATIVE, "px", "Standard deviation of the detector's Gaussian point "
              "spread, in detector pixels; 0 = none."),
    Parameter("loss_weight", 1.0, Either((POSITIVE, Choice(("mean", "mean_full")))), "",
              "Factor on the data term; 'mean' = 1/number of patterns, 'mean_full' = 1/number of data values.",
              per_epoch=True),
    Parameter("hist_length", 10, Number(low=0, integer=True, infinite=True), "pairs",
              "Length of the L-BFGS history; 0 = preconditioned steepest descent, inf = unlimited.", per_epoch=True),
    Parameter("update_step_bfgs", 1.0, POSITIVE, "", "First trial step of every line search.", per_epoch=True),
    Parameter("warmup_epochs", "auto", Either((Choice(("auto",)), NATURAL)), "epochs", "Number of first epochs in "
              "which object and probe take a preconditioned step after every mini-batch; other unknowns are not "
              "refined and regularisers are off meanwhile. auto: for far-field patterns and a start from vacuum, as "
              "long as errors fall within an epoch (mostly 2 or 3, at most 20); otherwise none.",
              when="obj is refined"),
    Parameter("preconditioner", True, Flag(), "", "True: L-BFGS starts from the inverse illumination (Gauss-Newton "
              "diagonal); False: from one number per block."),
    Parameter("wolfe_c1_constant", 0.1, Number(0, 1, open_low=True), "", "Sufficient decrease (Wolfe 1).",
              per_epoch=True),
    Parameter("wolfe_c2_constant", 0.9, Number(0, 1, open_low=True), "", "Curvature (strong Wolfe 2); larger than c1.",
              per_epoch=True),
    Parameter("max_count", 20, Either((POSITIVE_WHOLE, Unlimited(), Null())), "evaluations",
              "Largest number of evaluations in one line search; None = 100."),
    Parameter("reduce_factor", 0.1, Number(0, 1, open_low=True), "",
              "Strongest reduction of a step that is too long, in one iteration of the line search."),
    Parameter("optimism", 3.0, Number(1, math.inf, open_low=True), "",
              "Largest growth of a step that is too short, in one iteration of the line search."),
    Parameter("min_step", 1e-20, NON_NEGATIVE, "", "The line search gives up below this step."),
    Parameter("reset_history_flag", False, Flag(), "", "Discard the L-BFGS history at this epoch.", per_epoch=True),
    Parameter("update_obj", True, Switch(), "", "Refine the object.", per_epoch=True),
    Parameter("update_probe", True, Switch(), "", "Refine the probe.", per_epoch=True),
    Parameter("update_probe_pos", False, Switch(), "", "Refine the scan positions.", per_epoch=True),
    Parameter("positions_parametrization", "free", Choice(("free", "affine", "jitter")), "",
              "How positions are refined: free (each on its own); affine (one affine map for all: scan rotation, "
              "scale, shear, shift); jitter (each on its own, except for a common affine map, which the data "
              "determine badly).",
              per_epoch=True, when="positions are refined"),
    Parameter("update_slice_distances", False, Switch(), "", "Refine the slice distances.", per_epoch=True,
              when="there are two slices or more, or propmethod is better_multislice or yoshida"),
    Parameter("update_tilts", False, Switch(), "", "Refine the tilts that act (tilt_mode), from zero if none are "
              "given.", per_epoch=True),
    Parameter("update_beam_current", False, Switch(), "", "Refine the beam current of every pattern.", per_epoch=True),
    Parameter("update_aberrations_array", False, Switch(), "", "Refine local aberrations.", per_epoch=True,
              when="aberration_marker is given"),
    Parameter("update_static_background", False, Switch(), "", "Refine the background.", per_epoch=True,
              when="static_background is given"),
    Parameter("update_detector_blur_std", False, Switch(), "", "Refine the width of the detector's point spread.",
              per_epoch=True, when="detector_blur_std is not 0"),
    Parameter("update_detector_gains", False, Switch(), "", "Refine the gain of each quadrant of the detector.",
              per_epoch=True),
    Parameter("phase_only_obj", False, Flag(), "", "Refine only the phase of the object; its amplitude is kept.",
              per_epoch=True),
    Parameter("obj_parametrization", "complex", Choice(("complex", "amplitude_phase")), "",
              "How the object is refined: as complex numbers, or by amplitude and phase.", per_epoch=True,
              when="phase_only_obj is False"),
    Parameter("tune_only_probe_phase", False, Flag(), "", "Refine only the phase of the probe's spectrum.",
              per_epoch=True),
    Parameter("tune_only_probe_abs", False, Flag(), "", "Refine only the amplitude of the probe's spectrum.",
              per_epoch=True),
    Parameter("freeze_stuck_blocks", True, Flag(), "", "After two rejected updates in a row, freeze one block of "
              "unknowns for ten epochs: positions first, then tilts, ..., the probe last.", per_epoch=True),
)
