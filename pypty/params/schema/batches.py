"""Parameters of mini-batches, first-order optimisers, schedulers, monitoring and automatic stops."""

from __future__ import annotations

from pypty.params.kinds import ArrayOf, Choice, Either, Flag, Number, optional
from pypty.params.nested import Field, Record, Table, Words, choices
from pypty.params.parameter import Parameter
from pypty.params.schema.numbers import FRACTION, NATURAL, NON_NEGATIVE, POSITIVE, POSITIVE_WHOLE

OPTIMIZERS = ("lbfgs", "preconditioned", "adam", "adamw", "sgd", "momentum", "rmsprop", "radam", "nadam", "adagrad",
              "adadelta", "adamax", "adafactor", "asgd", "rprop")  # fmt: skip
NOT_FIRST_ORDER = OPTIMIZERS[:2]
FOR_FIRST_ORDER = "optimizer is a first-order method"
FOR_BATCHES = "optimizer is not lbfgs"
SCHEDULERS = ("step", "multistep", "constant", "linear", "exponential", "polynomial", "cosine", "cosine_restarts",
              "one_cycle", "cyclic", "plateau")  # fmt: skip


# fmt: off
def _rate(default: float, unit: str, meaning: str) -> Record:
    return Record((
        Field("lr", default, NON_NEGATIVE, unit, meaning),
        Field("start", 0, NATURAL, "epochs", "first epoch in which it is refined"),
        Field("end", None, optional(NATURAL), "epochs", "epoch from which on it is kept fixed"),
    ), shorthand="lr")


LEARNING_RATES = Table((
    ("obj", _rate(1e-2, "", "object as complex numbers")),
    ("obja", _rate(1e-2, "", "amplitude of the object")),
    ("objp", _rate(1e-2, "rad", "phase of the object")),
    ("probe", _rate(1e-2, "rms amplitude", "probe, as a fraction of the starting probe's root-mean-square amplitude")),
    ("probe_abs", _rate(0.0, "sqrt(counts)", "if not 0: replaces 'probe', in absolute units")),
    ("positions", _rate(1e-2, "px", "positions")),
    ("tilts", _rate(1e-1, "mrad", "tilts")),
    ("slice_distances", _rate(1e-2, "Å", "slice distances")),
    ("aberrations_array", _rate(1e-1, "Å", "local aberrations")),
    ("static_background", _rate(1e-2, "sqrt(counts)", "background")),
    ("beam_current", _rate(1e-3, "", "beam current")),
    ("detector_blur_std", _rate(1e-3, "px", "width of the point spread")),
    ("detector_gains", _rate(1e-3, "", "gain of each quadrant of the detector")),
), complete=True)

_pair = ArrayOf((("2",),), low=0)
OPTIMIZER_OPTIONS = Record((
    Field("betas", None, optional(_pair), "", "decay of both moments (adam, adamw, radam, nadam, adamax)"),
    Field("eps", None, optional(Either((NON_NEGATIVE, _pair))), "", "added to the root of the second moment; "
          "adafactor: lower limit of the rms of the unknowns, or a pair: lower limits of the root of the second "
          "moment and of that rms"),
    Field("weight_decay", None, optional(NON_NEGATIVE), "", "L2 penalty; decoupled for adamw"),
    Field("momentum", None, optional(FRACTION), "", "sgd, momentum, rmsprop"),
    Field("dampening", None, optional(FRACTION), "", "sgd, momentum"),
    Field("nesterov", None, optional(Flag()), "", "sgd, momentum"),
    Field("amsgrad", None, optional(Flag()), "", "adam, adamw"),
    Field("alpha", None, optional(NON_NEGATIVE), "", "decay of the squares (rmsprop), power of the rate (asgd)"),
    Field("centered", None, optional(Flag()), "", "rmsprop"),
    Field("rho", None, optional(FRACTION), "", "adadelta"),
    Field("lr_decay", None, optional(NON_NEGATIVE), "", "adagrad"),
    Field("initial_accumulator_value", None, optional(NON_NEGATIVE), "", "adagrad"),
    Field("momentum_decay", None, optional(NON_NEGATIVE), "", "nadam"),
    Field("lambd", None, optional(NON_NEGATIVE), "", "asgd"),
    Field("t0", None, optional(NON_NEGATIVE), "", "asgd"),
    Field("etas", None, optional(_pair), "", "rprop: factors of a shorter and a longer step"),
    Field("step_sizes", None, optional(_pair), "", "rprop: shortest and longest step"),
    Field("beta2_decay", None, optional(Number(high=0)), "", "adafactor"),
    Field("d", None, optional(Number(low=1)), "", "adafactor: clipping threshold"),
))

SCHEDULER = Record((
    Field("name", "constant", Choice(SCHEDULERS), "", "the scheduler"),
    Field("step_unit", "epoch", choices("epoch", "batch"), "", "unit in which steps are counted"),
    Field("step_size", 10, POSITIVE_WHOLE, "", "step: steps between two reductions"),
    Field("milestones", (), ArrayOf((("n",),), integer=True, empty=True), "", "multistep: steps of the reductions"),
    Field("gamma", None, optional(POSITIVE), "", "step, multistep (0.1), exponential (reduces the rate to 1 % over "
          "the run), cyclic exp_range (1): factor"),
    Field("factor", None, optional(POSITIVE), "", "constant (1/3), plateau (0.1): factor"),
    Field("total_iters", 5, POSITIVE_WHOLE, "", "constant, linear, polynomial: duration"),
    Field("start_factor", 1 / 3, POSITIVE, "", "linear"),
    Field("end_factor", 1.0, NON_NEGATIVE, "", "linear"),
    Field("power", 1.0, POSITIVE, "", "polynomial"),
    Field("T_max", None, optional(POSITIVE_WHOLE), "", "cosine: half a period; None = the whole run"),
    Field("T_0", 10, POSITIVE_WHOLE, "", "cosine_restarts: steps to the first restart"),
    Field("T_mult", 1, POSITIVE_WHOLE, "", "cosine_restarts: factor from one period to the next"),
    Field("eta_min", 0.0, NON_NEGATIVE, "", "cosine, cosine_restarts: smallest rate, as a fraction of lr"),
    Field("max_factor", 1.0, POSITIVE, "", "one_cycle, cyclic: largest rate, as a multiple of lr"),
    Field("base_factor", 0.1, POSITIVE, "", "cyclic: smallest rate, as a multiple of lr"),
    Field("total_steps", None, optional(POSITIVE_WHOLE), "", "one_cycle; None = the whole run"),
    Field("pct_start", 0.3, FRACTION, "", "one_cycle: fraction of the cycle in which the rate rises"),
    Field("anneal_strategy", "cos", choices("cos", "linear"), "", "one_cycle"),
    Field("div_factor", 25.0, POSITIVE, "", "one_cycle: ratio of the largest to the first rate"),
    Field("final_div_factor", 1e4, POSITIVE, "", "one_cycle: ratio of the first to the last rate"),
    Field("three_phase", False, Flag(), "", "one_cycle"),
    Field("cycle_momentum", True, Flag(), "", "one_cycle, cyclic: lower the momentum while the rate rises"),
    Field("base_momentum", None, optional(FRACTION), "", "one_cycle (0.85), cyclic (0.8)"),
    Field("max_momentum", None, optional(FRACTION), "", "one_cycle (0.95), cyclic (0.9)"),
    Field("step_size_up", 2000, POSITIVE_WHOLE, "", "cyclic"),
    Field("step_size_down", None, optional(POSITIVE_WHOLE), "", "cyclic; None = step_size_up"),
    Field("mode", "triangular", choices("triangular", "triangular2", "exp_range"), "", "cyclic"),
    Field("patience", 10, NATURAL, "", "plateau: epochs without improvement"),
    Field("threshold", 1e-4, NON_NEGATIVE, "", "plateau: improvement that counts"),
    Field("threshold_mode", "rel", choices("rel", "abs"), "", "plateau: threshold relative to the best loss, or in "
          "units of the loss"),
    Field("cooldown", 0, NATURAL, "", "plateau: epochs to wait after a reduction"),
    Field("min_factor", 0.0, NON_NEGATIVE, "", "plateau: smallest rate, as a fraction of lr"),
), shorthand="name")

TENSORS = ("obja", "objp", "probe", "probe_pos_shifts")
MONITOR = Record((
    Field("tensors", TENSORS, Words(TENSORS), "", "quantities to monitor"),
    Field("every", None, optional(POSITIVE_WHOLE), "epochs", "interval; None = save_iters, or 10 if that is 0"),
    Field("percentile_range", (15.0, 85.0), ArrayOf((("2",),), low=0, high=100), "%", "background below the first, "
          "foreground above the second"),
))

BATCHES = (
    Parameter("optimizer", "lbfgs", Choice(OPTIMIZERS), "", "Optimiser of an epoch: lbfgs (all patterns, line "
              "search), preconditioned (the method of the warm-up: a Gauss-Newton step after every mini-batch), or a "
              "first-order method (a step of learning_rates after every mini-batch).", per_epoch=True),
    Parameter("optimizer_options", {}, OPTIMIZER_OPTIONS, "", "Constants of the first-order methods; PyTorch's "
              "defaults for those not given.", per_epoch=True, when=FOR_FIRST_ORDER),
    Parameter("learning_rates", {}, LEARNING_RATES, "", "Step size of each unknown, with the first epoch and the epoch "
              "after the last; its update_* switch must be on too. A plain number is a step size.", per_epoch=True,
              when=FOR_FIRST_ORDER),
    Parameter("lr_scheduler", None, optional(SCHEDULER), "", "How all learning rates change during the run.",
              when=FOR_FIRST_ORDER),
    Parameter("grad_accumulation", 1, POSITIVE_WHOLE, "batches", "Number of batches whose mean gradient gives one "
              "step.", per_epoch=True, when=FOR_FIRST_ORDER),
    Parameter("lazy_moments", True, Flag(), "", "True: moments of positions, tilts and currents are updated only for "
              "the patterns in the batch; False: at every step, as in PyTorch.", per_epoch=True,
              when=FOR_FIRST_ORDER),
    Parameter("batch_size", "auto", Either((Choice(("auto",)), POSITIVE_WHOLE)), "patterns", "Number of patterns per "
              "step. auto: the scan is divided into 3.5 sqrt(overlap) batches.", per_epoch=True, when=FOR_BATCHES),
    Parameter("group_mode", "random", Choice(("random", "sparse", "compact", "hilbert", "fps")), "", "How patterns "
              "are grouped into batches: random; far from each other (sparse, fps, hilbert); neighbours (compact).",
              when=FOR_BATCHES),
    Parameter("shuffle_batches", True, Flag(), "", "True: a new order of the batches (in random mode new batches) at "
              "every epoch, from the seed; False: the same at every epoch.", when=FOR_BATCHES),
    Parameter("indices_mode", "full", Choice(("full", "sub", "center")), "", "Patterns of the raster to use, within "
              "the sequence: all, a regular subset, or the central rectangle."),
    Parameter("indices_shape", None, optional(ArrayOf((("2",),), integer=True)), "points", "Size (slow, fast) of "
              "that subset; None = half of each side.", when="indices_mode is not full"),
    Parameter("validation_fraction", 0.0, Number(0, 0.9), "", "Fraction of the patterns, chosen by the seed, that is "
              "held out: not fitted, but their loss is recorded at every epoch."),
    Parameter("free_pixels", 0.0, Number(0, 0.5), "", "Fraction of the pixels, in blocks of 2 x 2 chosen by the seed "
              "and different in every pattern, that is not fitted; their mean deviance is recorded at every epoch, and "
              "pypty.compare compares models by it. 0.05 is enough."),
    Parameter("stop_patience", 0, NATURAL, "epochs", "Stop when the loss (of held-out patterns, if there are any) "
              "has not improved for this many epochs; 0 = never."),
    Parameter("stop_tolerance", 1e-4, NON_NEGATIVE, "", "Smallest improvement that counts, as a fraction of the "
              "decrease of the loss so far.",
              when="stop_patience is not 0"),
    Parameter("convergence_monitor", None, optional(MONITOR), "", "Record how much background and foreground of the "
              "object, probe and positions change between snapshots. {} = with defaults."),
)
