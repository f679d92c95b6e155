"""Parameters of combined losses and further options of the model."""

from __future__ import annotations

from pypty.params.kinds import ArrayOf, Choice, Number, optional
from pypty.params.nested import Field, Record, Table, choices
from pypty.params.parameter import Parameter
from pypty.params.schema.numbers import NON_NEGATIVE, POSITIVE, POSITIVE_WHOLE


# fmt: off
def _term(weight: float, *fields: Field) -> Record:
    return Record((Field("weight", weight, NON_NEGATIVE, "", "factor"), *fields), shorthand="weight")


def _power(default: float) -> Field:
    return Field("dp_pow", default, POSITIVE, "", "exponent of counts")


LOSS_TERMS = Table((
    ("single", _term(1.0, _power(0.5))),
    ("poissn", _term(1.0, _power(1.0), Field("eps", 1e-6, POSITIVE, "counts", "added to the model in the logarithm"))),
    ("pacbed", _term(0.5, _power(0.2))),
    ("sparse", _term(0.1, Field("ln_order", 1, POSITIVE_WHOLE, "", "order of the norm"))),
    ("simlar", _term(0.1, Field("obj_type", "both", choices("amplitude", "phase", "both"), "", "what is compared"),
                     Field("scale_factor", (1.0, 1.0, 1.0), ArrayOf((("3",),), low=0), "", "down-sampling (z, y, x)"),
                     Field("blur_std", 1.0, NON_NEGATIVE, "px", "blur before down-sampling"))),
))

LOSSES = (
    Parameter("loss_terms", None, optional(LOSS_TERMS), "", "A sum of losses that replaces algorithm: single (powers "
              "of counts), poissn, pacbed (mean pattern), sparse (phase of the object), simlar (similarity of object "
              "modes).", changes_loss=True),
    Parameter("loss_scale", "additive", Choice(("additive", "ratio")), "", "additive: sums over patterns, a "
              "likelihood; ratio: PtyRAD's, relative to the counts of the batch.", when="loss_terms is given",
              changes_loss=True),
)

MODEL = (
    Parameter("obj_mode_weights", None, optional(ArrayOf((("modes",),), low=0)), "", "Weight w of the intensity of "
              "each object mode, I = sum w |psi|²; not refined; None = 1 each.", when="the object has several modes",
              changes_loss=True),
    Parameter("obj_preblur_std", 0.0, NON_NEGATIVE, "px", "Standard deviation of a Gaussian blur (5 x 5 pixels, "
              "reflected at the rim) of amplitude and phase of each object patch in the model; 0 = none. Phases are "
              "taken between -π and π. Computed by the stages, not by fused kernels.", changes_loss=True),
    Parameter("simu_Npix", None, optional(POSITIVE_WHOLE), "px", "Side of the (square) window of the waves and of the "
              "simulated pattern, if it differs from that of the measured pattern. pixel_size_x_A and the probe refer "
              "to this window. data_pad (with use_padded_intensity=False) does the same as crop, and "
              "upsample_pattern as resample by two: give only one of the three.", changes_loss=True),
    Parameter("simu_match_mode", None, optional(Choice(("crop", "resample"))), "", "How a simulated pattern of n "
              "pixels is matched to the m measured pixels. crop: pixels from (n - m)//2 on; the pixels of the waves "
              "are m/n of those of the pattern. resample: bilinear between pixel centres, the sum is kept; the "
              "window is n/m times as large.", when="simu_Npix is given", changes_loss=True),
    Parameter("data_normalization", None, optional(Choice(("max_at_one", "mean_at_one", "sum_to_one"))), "", "Divide "
              "all counts by the maximum, the mean or the sum of the mean pattern (of the used patterns, before "
              "data_resample and data_pad); data_multiplier applies afterwards.", changes_loss=True),
    Parameter("data_resample", 1.0, POSITIVE, "", "Factor on the number of pixels (rounded down): patterns are "
              "interpolated (bilinear, between pixel centres) when they are read, after data_bin and before data_pad; "
              "the sum is kept. A pixel interpolated from a masked one is masked.", changes_loss=True),
    Parameter("data_pad_fill", "zero", Choice(("zero", "constant", "edge", "linear_ramp", "exp", "power")), "",
              "Values in the rim of data_pad, the same in every pattern: zero, or a continuation of the amplitude A = "
              "sqrt(mean pattern): as numpy.pad does, or a exp(-b r) or a r^-b fitted to its faint pixels.",
              when="data_pad > 0 and use_padded_intensity is True", changes_loss=True),
    Parameter("data_pad_value", 0.0, NON_NEGATIVE, "sqrt(counts)", "Amplitude in the rim (constant), or at its outer "
              "end (linear_ramp).",
              when="data_pad_fill is constant or linear_ramp", changes_loss=True),
    Parameter("data_pad_threshold", 70.0, Number(0, 100), "%", "Amplitudes up to this percentile are fitted.",
              when="data_pad_fill is exp or power", changes_loss=True),
    Parameter("detector_blur_edge", "periodic", Choice(("periodic", "reflect")), "", "Boundary condition of the "
              "detector's point spread. periodic: at the rim of the simulated pattern; reflect: at the rim of the "
              "measured pattern, with a kernel of max(5, 2 round(3 std) + 1) pixels.",
              when="detector_blur_std is not 0", changes_loss=True),
)
