"""Parameters of constraints that act between epochs, with PtyRAD's names."""

from __future__ import annotations

from pypty.params.kinds import ArrayOf, Choice, Number, optional
from pypty.params.nested import Field, Record, Table, choices
from pypty.params.parameter import Parameter
from pypty.params.schema.numbers import FRACTION, NATURAL, NON_NEGATIVE, POSITIVE, POSITIVE_WHOLE


# fmt: off
def _when(*fields: Field) -> Record:
    return Record((
        Field("start", 0, NATURAL, "epochs", "first epoch after which it acts"),
        Field("step", 1, POSITIVE_WHOLE, "epochs", "interval"),
        Field("end", None, optional(NATURAL), "epochs", "epoch from which on it is off"),
        *fields,
    ))


def _of(default: str = "both") -> Field:
    return Field("obj_type", default, choices("amplitude", "phase", "both"), "", "which part of the object it changes")


_relax = Field("relax", 0.0, FRACTION, "", "fraction of the old value that is kept; 1 = no constraint")
_share = Field("power_thresh", 0.95, FRACTION, "", "only the strongest modes with this share of the power are masked")

PROJECTIONS = Table((
    ("probe_mask_k", _when(Field("radius", 0.22, POSITIVE, "", "radius of the mask, as a fraction of the Nyquist "
                                 "frequency"),
                           Field("width", 0.05, POSITIVE, "", "width of its edge, as a fraction of the probe array"),
                           _share)),
    ("probe_mask_r", _when(Field("radius", 0.95, POSITIVE, "", "radius of the mask, as a fraction of half the probe "
                                 "array"),
                           Field("order", 6, POSITIVE_WHOLE, "", "order of the super-Gaussian"), _share,
                           Field("z_range", (-500.0, 500.0), ArrayOf((("2",),)), "Å", "range in which the focus is "
                                 "searched"),
                           Field("z_steps", 101, POSITIVE_WHOLE, "", "number of planes in that range"))),
    ("ortho_pmode", _when()),
    ("fix_probe_int", _when()),
    ("obj_rblur", _when(_of(), Field("kernel_size", 5, Number(low=1, integer=True, odd=True), "px", "odd"),
                        Field("std", 0.4, NON_NEGATIVE, "px", "standard deviation"))),
    ("obj_zblur", _when(_of(), Field("kernel_size", 5, POSITIVE_WHOLE, "slices", ""),
                        Field("std", 1.0, NON_NEGATIVE, "slices", "standard deviation"))),
    ("kr_filter", _when(_of(), Field("radius", 0.15, POSITIVE, "", "radius of the pass band, as a fraction of the "
                                     "Nyquist frequency"),
                        Field("width", 0.05, POSITIVE, "", "width of its edge, as a fraction of the object"))),
    ("kz_filter", _when(_of(), Field("beta", 1.0, NON_NEGATIVE, "", "strength along z"),
                        Field("alpha", 1.0, NON_NEGATIVE, "px^2", "lateral low-pass"))),
    ("kr_thresh", _when(_of(), Field("thresh", 0.05, Number(0, 1, open_low=True), "", "fraction of the cosine "
                                     "coefficients that is kept"))),
    ("complex_ratio", _when(_of(), Field("alpha1", 1.0, FRACTION, "", "weight of the amplitude"),
                            Field("alpha2", 0.0, FRACTION, "", "weight of the phase"))),
    ("mirrored_amp", _when(Field("relax", 0.1, FRACTION, "", "fraction of the old amplitude that is kept"),
                           Field("scale", 0.03, NON_NEGATIVE, "", "a = 1 - scale phase^power"),
                           Field("power", 4.0, POSITIVE, "", ""))),
    ("obj_z_recenter", _when(Field("thresh", 95.0, optional(Number(0, 100)), "%", "phases below this percentile are "
                                   "ignored"),
                             Field("scale", 1.0, NON_NEGATIVE, "", "factor on the shift"),
                             Field("max_shift", 10.0, optional(NON_NEGATIVE), "slices", "largest shift"))),
    ("obja_thresh", _when(_relax, Field("thresh", (0.96, 1.04), ArrayOf((("2",),), low=0), "", "limits of the "
                                        "amplitude"))),
    ("objp_postiv", _when(_relax, Field("mode", "clip_neg", Choice(("clip_neg", "subtract_min")), "", ""))),
    ("pos_recenter", _when(_relax)),
    ("tilt_smooth", _when(Field("std", 2.0, NON_NEGATIVE, "scan points", "standard deviation"))),
))
"""The constraints, in the order in which they act."""

PROJECTED = (
    Parameter("constraints", {}, PROJECTIONS, "", "Constraints between epochs, by name, each with start, step, end and "
              "its own parameters; True = with defaults. With lbfgs, obj_rblur, obj_zblur, kr_filter, kz_filter, "
              "pos_recenter and tilt_smooth filter every step from start to end instead; the other constraints change "
              "the unknowns and restart the history.",
              per_epoch=True),
)
