"""Parameters of the microscope, the specimen's slices and the scan."""

from __future__ import annotations

from pypty.params.kinds import ArrayOf, Choice, Either, Number, optional
from pypty.params.parameter import Parameter
from pypty.params.schema.numbers import NON_NEGATIVE, POSITIVE, POSITIVE_WHOLE

# One row per parameter; the formatter would make it three times as long.
# fmt: off
EXPERIMENT = (
    Parameter("acc_voltage", 60.0, Number(0, 5000, open_low=True), "kV", "Accelerating voltage.", changes_loss=True),
    Parameter("pixel_size_x_A", 1.0, POSITIVE, "Å", "Reconstruction pixel along x: 1/(number of pixels incl. padding "
              "x reciprocal pixel).", changes_loss=True),
    Parameter("pixel_size_y_A", 1.0, POSITIVE, "Å", "Reconstruction pixel along y.", changes_loss=True),
    Parameter("recon_type", "far_field", Choice(("far_field", "near_field")), "",
              "Where the detector is: diffraction patterns, or defocused images.", changes_loss=True),
    Parameter("aperture_mask", None, optional(Either((ArrayOf((("ky", "kx"),)), Number(0, 2, open_low=True)))), "",
              "Aperture in the (padded) pattern, or its radius as a fraction of the Nyquist frequency.",
              when="probe is 'aperture', or probe_reg_constraint_weight is on without probe_constraint_mask",
              changes_loss=True),
    Parameter("alpha_near_field", 0.0, NON_NEGATIVE, "rad", "Illumination semi-angle: blurs defocused images.",
              when="recon_type is near_field", changes_loss=True),
    Parameter("defocus_array", (0.0,), ArrayOf((("1",), ("N",), ("N", "1", "1"))), "Å",
              "Distance from the exit plane to the image, positive downstream; a single value, or one per pattern "
              "(focal series).",
              when="recon_type is near_field", changes_loss=True),
    Parameter("Cs", 0.0, Number(), "Å", "Spherical aberration of the imaging lens.", when="recon_type is near_field",
              changes_loss=True),
    Parameter("num_slices", 1, POSITIVE_WHOLE, "", "Number of slices, unless obj is given."),
    Parameter("slice_distances", (10.0,), ArrayOf((("1",), ("slices - 1",))), "Å",
              "Gap after each slice: a single value for all, or one per gap. No gap follows the last slice, except "
              "with better_multislice and yoshida, where the last value is used.",
              when="there are two slices or more, or propmethod is one of those", changes_loss=True),
    Parameter("edge_slice_thickness", None, optional(POSITIVE), "Å",
              "First gap, when it is larger than the common slice distance.", when="slice_distances has one value",
              shapes_start=True),
    Parameter("scan_size", None, optional(ArrayOf((("2",),), integer=True)), "points",
              "Scan points (slow, fast).", when="weights of positions or tilts, or puzzle_positions, are on",
              changes_loss=True),
    Parameter("scan_order", "rows", Choice(("rows", "snake", "columns", "snake_columns")), "",
              "Order in which the patterns of the raster are stored: row by row, each from the same side; snake: every "
              "second row backwards; columns: column by column (slow and fast axis exchanged). For direct methods, "
              "calibration, pre-flight and append_exp_params; a reconstruction takes each pattern's row of positions.",
              when="scan_size is used"),
    Parameter("missing_patterns", None, optional(ArrayOf((("n",),), integer=True)), "",
              "Scan points without a pattern (frames that were dropped): their numbers in the order of the beam, from "
              "0. The data and all arrays with a row per pattern leave them out.",
              when="the data have fewer patterns than scan_size has points"),
    Parameter("scan_step_A", 1.0, POSITIVE, "Å", "Distance between scan points.",
              when="probe_mod_reg_weight is not 0", changes_loss=True),
)
