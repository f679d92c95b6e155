"""Parameters of the starting values of the unknowns."""

from __future__ import annotations

from pypty.params.kinds import ArrayOf, Choice, Either, FilePath, Flag, Number, optional
from pypty.params.parameter import Parameter
from pypty.params.schema.numbers import NON_NEGATIVE, PATTERN

# One row per parameter; the formatter would make it three times as long.
# fmt: off
STATE = (
    Parameter("obj", None, optional(ArrayOf((("y", "x", "z", "modes"),), complex=True)), "",
              "Starting transmission function; None = vacuum. Extended to the right and bottom to cover the scan."),
    Parameter("probe", None, optional(Either((
                  ArrayOf((("y", "x", "modes"), ("y", "x"), ("y", "x", "modes", "subscans")), complex=True),
                  Choice(("aperture",))))), "",
              "Starting probe, centre at n//2; one per subscan with probe_marker. None: from the mean pattern; "
              "'aperture': from aperture_mask."),
    Parameter("positions", ((0.0, 0.0),), ArrayOf((("N", "2"),)), "px",
              "Crop origin [y, x] (top-left pixel, with sub-pixel part) of each object patch, in reconstruction "
              "pixels; one row for all patterns of a focal series or single shot. Given relative to obj if there is "
              "one, otherwise shifted so that the smallest is extra_space_on_side_px."),
    Parameter("positions_correction", None, optional(ArrayOf((("N", "2"),))), "px",
              "Added to positions: their sub-pixel part if they are integers.", shapes_start=True),
    Parameter("tilts", None, optional(ArrayOf((("N", "6"), ("1", "6")))), "rad",
              "Tilts [y, x] before, inside and after the specimen; one row for all patterns, or one per pattern."),
    Parameter("tilt_mode", 0, Number(0, 4, integer=True), "", "Which tilts act: 0 inside, 1 after, 2 before, "
              "3 inside and after, 4 all.", when="tilts are given or refined", changes_loss=True),
    Parameter("static_background", None, optional(Either((PATTERN, NON_NEGATIVE))), "sqrt(counts)",
              "Square root of an intensity that is added to every pattern, zero frequency at n//2: an array of a "
              "pattern's shape, or a number, the sum of a random start; 0 = none."),
    Parameter("beam_current", None, optional(ArrayOf((("N",),))), "",
              "Factor on the probe's amplitude in each pattern; None = 1."),
    Parameter("detector_gains", None, optional(ArrayOf((("2", "2"),), low=0)), "",
              "Gain of each quadrant of the detector, [ky < 0, ky >= 0] x [kx < 0, kx >= 0]: modelled counts are "
              "multiplied by it; None = 1."),
    Parameter("aberrations_array", ((0.0,),), ArrayOf((("groups", "K"),)), "Å", "Aberrations C10, C12a, "
              "C12b, C21a, ... of each group of patterns.", when="aberration_marker is given"),
    Parameter("aberration_marker", None, optional(ArrayOf((("N",),), integer=True)), "",
              "Row of aberrations_array for each pattern; None = no local aberrations.", changes_loss=True),
    Parameter("probe_marker", None, optional(ArrayOf((("N",),), integer=True)), "",
              "Subscan (last axis of a 4-D probe) of each pattern; None = one probe for all.", changes_loss=True),
    Parameter("phase_plate_in_h5", None, optional(FilePath()), "",
              "HDF5 file with one phase plate (ky, kx) per pattern, zero frequency first, as data set 'configs' "
              "(N, ky, kx) complex."),
    Parameter("puzzle_positions", False, Flag(none_is_off=True), "", "Rejoin regions of the scan that drifted apart "
              "as rigid bodies.",
              per_epoch=True, when="scan_size is given"),
)
