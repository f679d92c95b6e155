"""Constraints that act between epochs, by PtyRAD's names."""

from __future__ import annotations

from pypty.params.kinds import ArrayOf, Choice, Number, optional
from pypty.params.nested import Field, Record, Table, choices
from pypty.params.parameter import Parameter
from pypty.params.schema.numbers import FRACTION, NATURAL, NON_NEGATIVE, POSITIVE, POSITIVE_WHOLE


# fmt: off
def _when(*fields: Field) -> Record:
    return Record((
        Field("start", 0, NATURAL, "epochs", "first epoch after which it acts"),
        Field("step", 1, POSITIVE_WHOLE, "epochs", "from one time to the next"),
        Field("end", None, optional(NATURAL), "epochs", "epoch from which on it rests"),
        *fields,
    ))


def _of(default: str = "both") -> Field:
    return Field("obj_type", default, choices("amplitude", "phase", "both"), "", "what of the object is changed")


_relax = Field("relax", 0.0, FRACTION, "", "how much of the old value stays; 1 = no constraint")
_share = Field("power_thresh", 0.95, FRACTION, "", "the strongest modes with this share of the power are masked")

PROJECTIONS = Table((
    ("probe_mask_k", _when(Field("radius", 0.22, POSITIVE, "", "radius of the mask, as a fraction of the Nyquist "
                                 "frequency"),
                           Field("width", 0.05, POSITIVE, "", "width of its edge, as a fraction of the window"),
                           _share)),
    ("probe_mask_r", _when(Field("radius", 0.95, POSITIVE, "", "as a fraction of half a window"),
                           Field("order", 6, POSITIVE_WHOLE, "", "of the super-Gaussian"), _share,
                           Field("z_range", (-500.0, 500.0), ArrayOf((("2",),)), "Å", "where the focus is looked for"),
                           Field("z_steps", 101, POSITIVE_WHOLE, "", "planes in it"))),
    ("ortho_pmode", _when()),
    ("fix_probe_int", _when()),
    ("obj_rblur", _when(_of(), Field("kernel_size", 5, Number(low=1, integer=True, odd=True), "px", "odd"),
                        Field("std", 0.4, NON_NEGATIVE, "px", "standard deviation"))),
    ("obj_zblur", _when(_of(), Field("kernel_size", 5, POSITIVE_WHOLE, "slices", ""),
                        Field("std", 1.0, NON_NEGATIVE, "slices", "standard deviation"))),
    ("kr_filter", _when(_of(), Field("radius", 0.15, POSITIVE, "", "of the pass band, as a fraction of the Nyquist "
                                     "frequency"),
                        Field("width", 0.05, POSITIVE, "", "of its edge, as a fraction of the object"))),
    ("kz_filter", _when(_of(), Field("beta", 1.0, NON_NEGATIVE, "", "strength along z"),
                        Field("alpha", 1.0, NON_NEGATIVE, "px^2", "lateral low-pass"))),
    ("kr_thresh", _when(_of(), Field("thresh", 0.05, Number(0, 1, open_low=True), "", "share of the cosine "
                                     "coefficients that is kept"))),
    ("complex_ratio", _when(_of(), Field("alpha1", 1.0, FRACTION, "", "of the amplitude"),
                            Field("alpha2", 0.0, FRACTION, "", "of the phase"))),
    ("mirrored_amp", _when(Field("relax", 0.1, FRACTION, "", "how much of the old amplitude stays"),
                           Field("scale", 0.03, NON_NEGATIVE, "", "a = 1 - scale phase^power"),
                           Field("power", 4.0, POSITIVE, "", ""))),
    ("obj_z_recenter", _when(Field("thresh", 95.0, optional(Number(0, 100)), "%", "phases below this percentile do not "
                                   "count"),
                             Field("scale", 1.0, NON_NEGATIVE, "", "of the shift"),
                             Field("max_shift", 10.0, optional(NON_NEGATIVE), "slices", "largest shift"))),
    ("obja_thresh", _when(_relax, Field("thresh", (0.96, 1.04), ArrayOf((("2",),), low=0), "", "limits of the "
                                        "amplitude"))),
    ("objp_postiv", _when(_relax, Field("mode", "clip_neg", Choice(("clip_neg", "subtract_min")), "", ""))),
    ("pos_recenter", _when(_relax)),
    ("tilt_smooth", _when(Field("std", 2.0, NON_NEGATIVE, "scan points", "standard deviation"))),
))
"""In the order in which they act."""

PROJECTED = (
    Parameter("constraints", {}, PROJECTIONS, "", "Constraints between epochs, by name, each with start, step, end and "
              "numbers of its own; True = with defaults. With lbfgs obj_rblur, obj_zblur, kr_filter, kz_filter, "
              "pos_recenter and tilt_smooth filter every step from start to end instead; what changes the point "
              "restarts the history.",
              per_epoch=True),
)
